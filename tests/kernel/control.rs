//! What IPVS has beside its table: daemons, timeouts, counters, connections, sysctls. Judged by
//! ipvsadm and /proc.

use std::collections::BTreeSet;
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use lvs_dr::ipvs::settings::{self, SyncThreshold};
use lvs_dr::ipvs::{Ipvs, Origin, Protocol, SyncDaemon, SyncRole, Timeouts};
use lvs_dr::{Cause, Error};

use crate::lab::{enter_new_netns, ip, ipvsadm};

/// A link to send sync messages on.
fn add_link() {
    ip("link add eth0 type dummy");
    ip("addr add 10.0.0.1/24 dev eth0");
    ip("link set eth0 up multicast on");
}

#[test]
fn timeouts_are_set_and_read() {
    enter_new_netns();
    let mut ipvs = Ipvs::open().unwrap();
    let secs = Duration::from_secs;
    ipvs.set_timeouts(&Timeouts { tcp: secs(600), tcp_fin: secs(60), udp: secs(100) }).unwrap();
    assert_eq!(ipvsadm("-Ln --timeout"), "Timeout (tcp tcpfin udp): 600 60 100\n");
    // 0 leaves one as it is.
    ipvs.set_timeouts(&Timeouts { tcp: secs(700), ..Timeouts::default() }).unwrap();
    assert_eq!(ipvsadm("-Ln --timeout"), "Timeout (tcp tcpfin udp): 700 60 100\n");
    ipvsadm("--set 900 120 300");
    assert_eq!(ipvs.timeouts().unwrap(), Timeouts { tcp: secs(900), tcp_fin: secs(120), udp: secs(300) });
    let odd = ipvs.set_timeouts(&Timeouts { tcp: Duration::from_millis(1500), ..Timeouts::default() });
    assert!(matches!(odd, Err(Error::Invalid { .. })));
}

#[test]
fn sync_daemons_are_started_read_and_stopped() {
    enter_new_netns();
    add_link();
    let mut ipvs = Ipvs::open().unwrap();
    assert_eq!(ipvs.sync_daemons().unwrap(), []);
    let wanted = SyncDaemon {
        max_length: Some(1200),
        group: Some("224.0.1.7".parse().unwrap()),
        port: Some(9999),
        ttl: Some(3),
        ..SyncDaemon::new(SyncRole::Master, "eth0", 7)
    };
    ipvs.start_sync_daemon(&wanted).unwrap();
    let shown = ipvsadm("-Ln --daemon");
    assert!(
        shown.contains("master sync daemon (mcast=eth0, syncid=7, maxlen=1200, group=224.0.1.7, port=9999, ttl=3)"),
        "{shown}"
    );
    assert_eq!(ipvs.sync_daemons().unwrap(), std::slice::from_ref(&wanted));
    assert_eq!(ipvs.start_sync_daemon(&wanted).unwrap_err().cause(), Some(Cause::DaemonRuns));

    ipvsadm("--start-daemon backup --mcast-interface eth0 --syncid 255");
    let found = ipvs.sync_daemons().unwrap();
    let backup = SyncDaemon::new(SyncRole::Backup, "eth0", 255);
    assert!(found.len() == 2 && backup.is_met_by(&found[1]) && !wanted.is_met_by(&found[1]), "{found:?}");
    assert_eq!(
        (found[1].group, found[1].port, found[1].ttl),
        (Some(SyncDaemon::DEFAULT_GROUP), Some(SyncDaemon::DEFAULT_PORT), Some(1))
    );

    ipvs.stop_sync_daemon(SyncRole::Master).unwrap();
    ipvs.stop_sync_daemon(SyncRole::Backup).unwrap();
    assert_eq!(ipvsadm("-Ln --daemon"), "");
    assert_eq!(ipvs.stop_sync_daemon(SyncRole::Backup).unwrap_err().cause(), Some(Cause::NoDaemon));
    let nowhere = ipvs.start_sync_daemon(&SyncDaemon::new(SyncRole::Backup, "eth9", 1)).unwrap_err();
    assert_eq!(nowhere.cause(), Some(Cause::NoInterface), "{nowhere}");
}

#[test]
fn kernel_fact_a_stop_right_after_a_start_may_have_no_answer() {
    enter_new_netns();
    add_link();
    let mut ipvs = Ipvs::open().unwrap();
    let daemon = SyncDaemon::new(SyncRole::Backup, "eth0", 1);
    let start = Instant::now();
    for _ in 0..50 {
        ipvs.start_sync_daemon(&daemon).unwrap();
        ipvs.stop_sync_daemon(SyncRole::Backup).unwrap();
    }
    assert_eq!(ipvsadm("-Ln --daemon"), "");
    // A client that waits for the answer hangs here for ever.
    assert!(start.elapsed() < Duration::from_secs(60), "{:?}", start.elapsed());
}

/// A service on `lo` whose server is this machine: what it is sent is counted, and remembered.
fn serve(family: &str) -> (TcpListener, String) {
    let (vip, prefix, server) = match family {
        "v4" => ("192.0.2.1", 32, "127.0.0.1"),
        _ => ("2001:db8::fe", 128, "::1"),
    };
    ip(&format!("addr add {vip}/{prefix} dev lo"));
    let bracket = |a: &str| if a.contains(':') { format!("[{a}]") } else { a.to_owned() };
    let (vip, server) = (bracket(vip), bracket(server));
    let listener = TcpListener::bind(format!("{server}:8080")).unwrap();
    ipvsadm(&format!("-A -t {vip}:80 -s rr -p 60"));
    ipvsadm(&format!("-a -t {vip}:80 -r {server}:8080 -m"));
    (listener, format!("{vip}:80"))
}

#[test]
fn connections_are_listed_with_templates_in_both_families() {
    enter_new_netns();
    for family in ["v4", "v6"] {
        let (listener, service) = serve(family);
        let client = TcpStream::connect(&service).unwrap();
        let _server = listener.accept().unwrap();
        let found = Ipvs::open().unwrap().connections().unwrap();
        let connection =
            found.iter().find(|c| c.client == client.local_addr().unwrap()).unwrap_or_else(|| panic!("{found:?}"));
        assert_eq!(connection.protocol, Protocol::Tcp);
        assert_eq!(connection.service, service.parse().unwrap());
        assert_eq!(connection.destination, listener.local_addr().unwrap());
        assert_eq!((connection.state.as_str(), connection.origin), ("ESTABLISHED", Some(Origin::Local)));
        assert!(connection.expires > Duration::from_secs(800));
        let template = found.iter().find(|c| c.client.port() == 0 && c.service == connection.service).unwrap();
        assert!(template.expires <= Duration::from_secs(60), "{template:?}");
        // ipvsadm lists as many.
        assert_eq!(ipvsadm("-Lnc").lines().skip(2).count(), found.len());
    }
}

#[test]
fn a_persistence_engines_data_is_listed() {
    enter_new_netns();
    ip("addr add 192.0.2.1/32 dev lo");
    ipvsadm("-A -u 192.0.2.1:5060 -s rr -p 60 --pe sip -o");
    ipvsadm("-a -u 192.0.2.1:5060 -r 127.0.0.1:5061 -m");
    let client = UdpSocket::bind("127.0.0.1:0").unwrap();
    let message = "REGISTER sip:a@b SIP/2.0\r\nCall-ID: 12345@host.example\r\nContent-Length: 0\r\n\r\n";
    client.send_to(message.as_bytes(), "192.0.2.1:5060").unwrap();
    let found = Ipvs::open().unwrap().connections().unwrap();
    let engines: Vec<_> = found.iter().filter_map(|c| c.engine.clone()).collect();
    assert!(engines.contains(&("sip".into(), "12345@host.example".into())), "{found:?}");
}

#[test]
fn counters_are_zeroed_and_totals_read() {
    enter_new_netns();
    let (listener, service) = serve("v4");
    let _connection = (TcpStream::connect(&service).unwrap(), listener.accept().unwrap());
    let mut ipvs = Ipvs::open().unwrap();
    let id = lvs_dr::ipvs::ServiceId::tcp(service.parse().unwrap());
    // The kernel brings its counters up to date every two seconds.
    let deadline = Instant::now() + Duration::from_secs(10);
    while ipvs.service(&id).unwrap().stats.connections == 0 || ipvs.totals().unwrap().connections == 0 {
        assert!(Instant::now() < deadline, "no connection is counted");
        std::thread::sleep(Duration::from_millis(100));
    }
    let totals = ipvs.totals().unwrap();
    assert!(totals.connections >= 1 && totals.packets_in >= 2 && totals.bytes_in >= 80, "{totals:?}");
    ipvs.zero(Some(&id)).unwrap();
    assert_eq!(ipvs.service(&id).unwrap().stats.connections, 0);
    let shown = ipvsadm("-Ln --stats --exact");
    assert_eq!(shown.lines().find(|l| l.starts_with("TCP")).unwrap().split_whitespace().nth(2), Some("0"), "{shown}");
    ipvs.zero(None).unwrap();
    assert_eq!(ipvs.totals().unwrap().packets_in, 0);
    ipvsadm("-C");
    assert_eq!(ipvs.zero(Some(&id)).unwrap_err().cause(), Some(Cause::NoService));
}

#[test]
fn every_sysctl_of_this_kernel_is_known_and_typed() {
    enter_new_netns();
    let mut ipvs = Ipvs::open().unwrap();
    let present: BTreeSet<String> = std::fs::read_dir("/proc/sys/net/ipv4/vs")
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    let known: BTreeSet<String> = settings::NAMES.iter().map(|n| (*n).to_owned()).collect();
    // `debug_level` is there in kernels built for debugging.
    let unknown: Vec<_> = present.difference(&known).filter(|name| *name != "debug_level").collect();
    assert!(unknown.is_empty(), "{unknown:?}");

    let value =
        |name: &str| std::fs::read_to_string(format!("/proc/sys/net/ipv4/vs/{name}")).unwrap().trim_end().to_owned();
    ipvs.set(settings::BACKUP_ONLY, true).unwrap();
    ipvs.set(settings::SLOPPY_TCP, true).unwrap();
    ipvs.set(settings::CONN_REUSE_MODE, 0).unwrap();
    ipvs.set(settings::SYNC_THRESHOLD, SyncThreshold { first: 2, period: 50 }).unwrap();
    ipvs.set(settings::SYNC_REFRESH_PERIOD, Duration::from_secs(10)).unwrap();
    let names = ["backup_only", "sloppy_tcp", "conn_reuse_mode", "sync_threshold", "sync_refresh_period"];
    assert_eq!(names.map(value), ["1", "1", "0", "2\t50", "10"]);
    assert_eq!(ipvs.get(settings::SYNC_THRESHOLD).unwrap(), Some(SyncThreshold { first: 2, period: 50 }));
    assert_eq!(ipvs.get(settings::SYNC_REFRESH_PERIOD).unwrap(), Some(Duration::from_secs(10)));
    assert!(ipvs.get(settings::SYNC_QLEN_MAX).unwrap().unwrap() > 0);

    for (name, result) in [
        ("est_nice", ipvs.get(settings::EST_NICE).map(|v| v.is_some())),
        ("conn_max", ipvs.get(settings::CONN_MAX).map(|v| v.is_some())),
    ] {
        assert_eq!(result.unwrap(), present.contains(name), "{name}");
    }
    if !present.contains("est_nice") {
        let absent = ipvs.set(settings::EST_NICE, 1).unwrap_err();
        assert_eq!(absent.errno(), Some(2), "{absent}");
        assert!(absent.to_string().contains("net/ipv4/vs/est_nice"), "{absent}");
    }
    let wrong = ipvs.set(settings::SYNC_THRESHOLD, SyncThreshold { first: 9, period: 3 }).unwrap_err();
    assert!(matches!(wrong, Error::Invalid { .. }), "{wrong}");
}
