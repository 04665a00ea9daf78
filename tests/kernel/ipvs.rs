//! The IPVS table: what we write is judged by ipvsadm, what we read was written by ipvsadm.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use lvs_dr::ipvs::{
    Change, Destination, Detail, Family, Forward, Ipvs, Netmask, Persistence, Plan, Scheduler, Service, ServiceFlags,
    ServiceId, SyncDaemon, SyncRole, Table, Tunnel, TunnelChecksum, Watch,
};
use lvs_dr::{Cause, Error, Netns};
use rustix::thread::{CapabilitySet, CapabilitySets, capabilities, set_capabilities};

use crate::lab::{enter_bare_netns, enter_new_netns, ip, ipvsadm, new_netns, try_run};

fn web() -> ServiceId {
    ServiceId::tcp("192.0.2.1:80".parse().unwrap())
}

fn server(last: u8) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, last], 80))
}

/// Every kind of line that `ipvsadm -Sn` writes.
const EVERYTHING: &str = "\
-A -f 1 -s rr -p 300
-a -f 1 -r 10.0.0.1:0 -g -w 1
-A -t 192.0.2.1:80 -s wrr
-a -t 192.0.2.1:80 -r 10.0.0.1:80 -g -w 1
-a -t 192.0.2.1:80 -r 10.0.0.2:80 -g -w 2147483647
-a -t 192.0.2.1:80 -r 10.0.0.3:8080 -m -w 0
-a -t 192.0.2.1:80 -r 10.0.0.4:80 -i -w 4 --tun-type ipip
-a -t 192.0.2.1:80 -r 10.0.0.5:80 -i -w 5 --tun-type gue --tun-port 6080 --tun-nocsum
-a -t 192.0.2.1:80 -r 10.0.0.6:80 -i -w 6 --tun-type gre --tun-csum
-A -t 192.0.2.2:443 -s mh -b mh-fallback,mh-port
-A -u 192.0.2.1:53 -s rr -o
-A -u 192.0.2.1:5060 -s sh -p 60 -M 255.255.255.0 --pe sip -b sh-port
-A --sctp-service 192.0.2.1:9 -s wlc -p 3
-A -f 2 -6 -s mh
-a -f 2 -6 -r [2001:db8::1]:0 -g -w 1
-A -t [2001:db8::fe]:80 -s lc -p 10 -M 64
-a -t [2001:db8::fe]:80 -r [2001:db8::11]:80 -g -w 3
";

fn sorted(text: &str) -> Vec<&str> {
    let mut lines: Vec<&str> = text.lines().collect();
    lines.sort_unstable();
    lines
}

#[test]
fn the_guest_has_ipvs() {
    enter_new_netns();
    let mut ipvs = Ipvs::open().unwrap();
    // From 7.2 on the table is made with the first service.
    ipvs.add_service(&Service::new(web(), Scheduler::RR)).unwrap();
    let info = ipvs.info().unwrap();
    assert_eq!(info.version, (1, 2, 1));
    assert!(info.connection_table_size > 0);
}

#[test]
fn every_scheduler_is_added_and_read() {
    enter_new_netns();
    let mut ipvs = Ipvs::open().unwrap();
    // All but `twos`: the guest's kernel is built without it.
    let all = [
        Scheduler::RR,
        Scheduler::WRR,
        Scheduler::LC,
        Scheduler::WLC,
        Scheduler::LBLC,
        Scheduler::LBLCR,
        Scheduler::DH,
        Scheduler::SH,
        Scheduler::MH,
        Scheduler::SED,
        Scheduler::NQ,
        Scheduler::FO,
        Scheduler::OVF,
    ];
    for (port, scheduler) in (1..).zip(all) {
        let id = ServiceId::tcp(SocketAddr::from(([192, 0, 2, 1], port)));
        ipvs.add_service(&Service::new(id, scheduler.clone())).unwrap();
        assert!(ipvsadm("-Sn").contains(&format!("-A -t 192.0.2.1:{port} -s {scheduler}\n")));
        assert_eq!(ipvs.service(&id).unwrap().service.scheduler, scheduler);
    }
}

#[test]
fn a_table_made_by_ipvsadm_is_read_in_full() {
    enter_new_netns();
    for line in EVERYTHING.lines() {
        ipvsadm(line);
    }
    let saved = ipvsadm("-Sn");
    assert_eq!(sorted(&saved), sorted(EVERYTHING), "ipvsadm itself does not keep the test's lines");
    let table = Ipvs::open().unwrap().table().unwrap();
    assert_eq!(sorted(&table.to_string()), sorted(&saved));
    assert_eq!(table, saved.parse().unwrap());
}

#[test]
fn a_table_made_by_us_is_read_by_ipvsadm() {
    enter_new_netns();
    let wanted: Table = EVERYTHING.parse().unwrap();
    let mut ipvs = Ipvs::open().unwrap();
    let plan = Plan::between(&ipvs.table().unwrap(), &wanted);
    ipvs.apply(&plan).unwrap();
    assert_eq!(sorted(&ipvsadm("-Sn")), sorted(EVERYTHING));
    // And what is there already needs nothing.
    assert!(Plan::between(&ipvs.table().unwrap(), &wanted).is_empty());
    ipvs.apply(&Plan::between(&wanted, &Table::new())).unwrap();
    assert_eq!(ipvsadm("-Sn"), "");
}

#[test]
fn single_changes_do_what_ipvsadm_shows() {
    enter_new_netns();
    let mut ipvs = Ipvs::open().unwrap();
    ipvs.add_service(&Service::new(web(), Scheduler::WRR)).unwrap();
    ipvs.add_destination(&web(), &Destination::new(server(1)).weight(3).thresholds(5, 10)).unwrap();
    ipvs.add_destination(&web(), &Destination::new(server(2))).unwrap();
    assert_eq!(
        ipvsadm("-Sn"),
        "-A -t 192.0.2.1:80 -s wrr\n-a -t 192.0.2.1:80 -r 10.0.0.1:80 -g -w 3\n-a -t 192.0.2.1:80 -r 10.0.0.2:80 -g -w 1\n"
    );
    ipvs.edit_destination(&web(), server(1), |d| d.weight = 0).unwrap();
    ipvs.edit_service(&web(), |s| s.scheduler = Scheduler::SH).unwrap();
    let thresholds = ipvsadm("-Ln --thresholds");
    assert!(
        thresholds.lines().any(|l| l.split_whitespace().collect::<Vec<_>>().starts_with(&[
            "->",
            "10.0.0.1:80",
            "10",
            "5"
        ])),
        "{thresholds}"
    );
    ipvs.remove_destination(&web(), server(2)).unwrap();
    assert_eq!(ipvsadm("-Sn"), "-A -t 192.0.2.1:80 -s sh\n-a -t 192.0.2.1:80 -r 10.0.0.1:80 -g -w 0\n");
    ipvs.remove_service(&web()).unwrap();
    assert_eq!(ipvsadm("-Sn"), "");
    ipvsadm("-A -t 192.0.2.9:1 -s rr");
    ipvs.flush().unwrap();
    assert_eq!(ipvsadm("-Sn"), "");
}

#[track_caller]
fn expect<T: std::fmt::Debug>(result: lvs_dr::Result<T>, cause: Cause, words: &[&str]) {
    let error = result.unwrap_err();
    assert_eq!(error.cause(), Some(cause), "{error}");
    for word in words {
        assert!(error.to_string().contains(word), "{word:?} is missing in: {error}");
    }
}

#[test]
fn refusals_name_operation_object_cause_and_way_out() {
    enter_new_netns();
    let mut ipvs = Ipvs::open().unwrap();
    let service = Service::new(web(), Scheduler::WRR);
    expect(ipvs.service(&web()), Cause::NoService, &["read service", "tcp 192.0.2.1:80", "errno 3"]);
    expect(ipvs.destinations(&web()), Cause::NoService, &["192.0.2.1:80"]);
    expect(ipvs.replace_service(&service), Cause::NoService, &["change service", "add it first"]);
    expect(ipvs.remove_service(&web()), Cause::NoService, &["remove service"]);
    expect(
        ipvs.add_destination(&web(), &Destination::new(server(1))),
        Cause::NoService,
        &["add destination", "10.0.0.1:80 of tcp"],
    );
    let unknown = Service::new(web(), Scheduler::new("nosuch").unwrap());
    expect(ipvs.add_service(&unknown), Cause::NoModule, &["scheduler nosuch", "modprobe ip_vs_NAME", "errno 2"]);
    ipvs.add_service(&service).unwrap();
    expect(ipvs.add_service(&service), Cause::ServiceExists, &["there already", "errno 17"]);
    expect(ipvs.edit_destination(&web(), server(1), |_| ()), Cause::NoDestination, &["10.0.0.1:80"]);
    expect(
        ipvs.replace_destination(&web(), &Destination::new(server(1))),
        Cause::NoDestination,
        &["change destination", "errno 2"],
    );
    expect(ipvs.remove_destination(&web(), server(1)), Cause::NoDestination, &["remove destination"]);
    ipvs.add_destination(&web(), &Destination::new(server(1))).unwrap();
    expect(ipvs.add_destination(&web(), &Destination::new(server(1))), Cause::DestinationExists, &["there already"]);
    let mixed = ipvs.add_destination(&web(), &Destination::new("[2001:db8::1]:80".parse().unwrap())).unwrap_err();
    assert!(matches!(mixed, Error::Invalid { .. }), "{mixed}");
}

#[track_caller]
fn refused_here<T: std::fmt::Debug>(result: lvs_dr::Result<T>, words: &str) {
    let error = result.unwrap_err();
    assert!(matches!(error, Error::Invalid { .. }) && error.to_string().contains(words), "{error}");
}

#[test]
fn what_makes_no_sense_is_refused_here_or_by_the_kernel() {
    enter_new_netns();
    ip("link add eth0 type dummy");
    ip("addr add 10.9.0.1/24 dev eth0");
    ip("link set eth0 up multicast on");
    let mut ipvs = Ipvs::open().unwrap();
    let service = Service::new(web(), Scheduler::WRR);
    ipvs.add_service(&service).unwrap();
    let to = |address: &str| Destination::new(address.parse().unwrap());
    let gue = |port| Forward::Tunnel(Tunnel::Gue { port, checksum: TunnelChecksum::None });
    let mut add = |destination: Destination| ipvs.add_destination(&web(), &destination);
    refused_here(add(to("10.0.0.1:80").weight(1 << 31)), "above 2147483647");
    refused_here(add(to("10.0.0.1:80").thresholds(9, 3)), "above the upper one");
    refused_here(add(to("10.0.0.1:80").forward(gue(0))), "needs a port");
    refused_here(add(to("[2001:db8::1]:80")), "mixed with tunnels only");
    expect(add(to("0.0.0.0:80")), Cause::Invalid, &["0.0.0.0:80", "errno 22"]);
    expect(add(to("224.0.0.1:80")), Cause::Invalid, &["224.0.0.1:80"]);
    let any_port = Service::new(ServiceId::tcp("192.0.2.9:0".parse().unwrap()), Scheduler::RR);
    refused_here(ipvs.add_service(&any_port), "port 0");
    refused_here(ipvs.add_service(&service.clone().flags(ServiceFlags::ONE_PACKET)), "one-packet");
    let persistence = |secs| Persistence::new(Duration::from_secs(secs), Family::V4);
    refused_here(ipvs.add_service(&service.clone().persistence(persistence(0))), "from 1 to");
    let netmask = Persistence { netmask: Netmask::V4([0, 0, 0, 0].into()), ..persistence(60) };
    refused_here(ipvs.add_service(&service.clone().persistence(netmask)), "non-zero mask");
    refused_here(ServiceId::fwmark(0, Family::V4), "mark 0");
    let engine =
        Service { engine: Some("nosuch".into()), ..Service::new("udp 192.0.2.1:53".parse().unwrap(), Scheduler::RR) };
    expect(ipvs.add_service(&engine), Cause::NoModule, &["persistence engine"]);
    let daemon = SyncDaemon::new(SyncRole::Backup, "eth0", 1);
    refused_here(
        ipvs.start_sync_daemon(&SyncDaemon { group: "10.0.0.1".parse().ok(), ..daemon.clone() }),
        "multicast address",
    );
    // The kernel does not mix families in a table that is told to others.
    ipvs.start_sync_daemon(&daemon).unwrap();
    let mixed = ipvs.add_destination(&web(), &to("[2001:db8::1]:80").forward(Forward::Tunnel(Tunnel::Ipip)));
    expect(mixed, Cause::Invalid, &["families"]);
    assert_eq!(ipvsadm("-Sn"), "-A -t 192.0.2.1:80 -s wrr\n");
}

#[test]
fn kernel_fact_without_lo_no_destination_is_taken() {
    enter_bare_netns();
    let mut ipvs = Ipvs::open().unwrap();
    ipvs.add_service(&Service::new(web(), Scheduler::WRR)).unwrap();
    expect(ipvs.add_destination(&web(), &Destination::new(server(2))), Cause::Invalid, &["`lo` is up"]);
}

#[test]
fn without_the_capability_nothing_is_changed() {
    enter_new_netns();
    ipvsadm("-A -t 192.0.2.1:80 -s wrr");
    // Of this thread only.
    let all = capabilities(None).unwrap();
    let less = CapabilitySets { effective: all.effective - CapabilitySet::NET_ADMIN, ..all };
    set_capabilities(None, less).unwrap();
    let refused = Ipvs::open().and_then(|mut ipvs| ipvs.remove_service(&web()));
    set_capabilities(None, all).unwrap();
    expect(refused, Cause::Permission, &["CAP_NET_ADMIN", "errno 1"]);
    assert_eq!(ipvsadm("-Sn"), "-A -t 192.0.2.1:80 -s wrr\n");
}

#[test]
fn a_failed_plan_leaves_the_table_as_it_was() {
    enter_new_netns();
    let before = "-A -t 192.0.2.1:80 -s wrr\n-a -t 192.0.2.1:80 -r 10.0.0.1:80 -g -w 1\n-A -u 192.0.2.7:53 -s rr\n";
    before.lines().for_each(|line| drop(ipvsadm(line)));
    let mut ipvs = Ipvs::open().unwrap();
    let seen = ipvs.table().unwrap();
    // A change of every kind, and one that the kernel refuses. It stands first and last among
    // those of one send, and in a later one.
    let wanted = |many: u16, bad: &str| -> Table {
        let mut text =
            format!("-A -t 192.0.2.1:80 -s sh\n-a -t 192.0.2.1:80 -r 10.0.0.2:80 -g -w 7\n-A -t {bad} -s nosuch\n");
        (1..=many).for_each(|i| text += &format!("-A -t 192.0.2.3:{i} -s rr\n"));
        text.parse().unwrap()
    };
    for (many, bad) in [(0, "192.0.2.9:9"), (10, "192.0.2.0:9"), (600, "192.0.2.9:9")] {
        let plan = Plan::between(&seen, &wanted(many, bad));
        let error = ipvs.apply(&plan).unwrap_err();
        match &error {
            Error::Change { number, total, change, outcome, .. } => {
                assert_eq!(*total, plan.changes().len());
                assert!(plan.changes()[*number - 1].to_string() == *change && change.contains("nosuch"), "{error}");
                assert!(outcome.contains("as it was before"), "{error}");
            }
            other => panic!("{other}"),
        }
        assert_eq!(error.cause(), Some(Cause::NoModule));
        assert_eq!(sorted(&ipvsadm("-Sn")), sorted(before));
    }
}

#[test]
fn a_large_table_is_written_and_read_whole() {
    enter_new_netns();
    let mut wanted = Table::new();
    for port in 1..=300 {
        let id = ServiceId::tcp(SocketAddr::from(([192, 0, 2, 1], port)));
        wanted.insert(Service::new(id, Scheduler::WRR));
        for last in 1..=4 {
            wanted.insert_destination(&id, Destination::new(SocketAddr::from(([10, 0, 0, last], port)))).unwrap();
        }
    }
    let one = ServiceId::tcp("192.0.2.2:80".parse().unwrap());
    wanted.insert(Service::new(one, Scheduler::RR));
    for i in 0..700u16 {
        let [a, b] = i.to_be_bytes();
        wanted.insert_destination(&one, Destination::new(SocketAddr::from(([10, 1, a, b], 80)))).unwrap();
    }
    let mut ipvs = Ipvs::open().unwrap();
    let plan = Plan::between(&Table::new(), &wanted);
    assert_eq!(plan.changes().len(), 301 + 1200 + 700);
    ipvs.apply(&plan).unwrap();
    assert_eq!(ipvs.table().unwrap(), wanted);
    assert_eq!(ipvsadm("-Sn").parse::<Table>().unwrap(), wanted);
}

/// The configuration alone is read by getsockopt(2) where that shows all of it, otherwise by
/// netlink.
#[test]
fn the_configuration_alone_is_the_same() {
    enter_new_netns();
    let mut text = EVERYTHING.to_owned();
    // Also a tunnel to the other family, thresholds, the node itself, no destination, and lists
    // that do not come in one piece.
    text += "-a -t 192.0.2.1:80 -r [2001:db8::7]:80 -i -w 2 --tun-type ipip\n-a -f 1 -r 10.0.0.9:0 -g -w 3 -x 9 -y 4\n";
    for port in 100..200 {
        text += &format!("-A -t 192.0.2.1:{port} -s wrr\n-a -t 192.0.2.1:{port} -r 10.0.0.2:{port} -g -w {port}\n");
    }
    for last in 1..=200 {
        text += &format!("-a -t 192.0.2.1:100 -r 10.0.1.{last}:100 -m -w {last}\n");
    }
    let mut ipvs = Ipvs::open().unwrap();
    // Since Linux 7 the order of services changes when the kernel's table grows, which takes its
    // time.
    let entries = |ipvs: &mut Ipvs, detail| {
        let mut all = ipvs.entries(detail).unwrap();
        all.sort_by_key(|(entry, _)| entry.service.id);
        all
    };
    let compare = |ipvs: &mut Ipvs, count: usize| {
        let mut all = entries(ipvs, Detail::Counters);
        all.iter_mut().flat_map(|(_, destinations)| destinations).for_each(|found| found.stats = None);
        assert_eq!(all.len(), count);
        assert_eq!(entries(ipvs, Detail::Configuration), all);
        for one in all {
            assert_eq!(ipvs.entry(&one.0.service.id, Detail::Configuration).unwrap(), one);
        }
    };
    compare(&mut ipvs, 0);
    for (family, count) in [(Some(Family::V4), 106), (None, 108), (Some(Family::V6), 2)] {
        let wanted = text.parse::<Table>().unwrap().filtered(|id| family.is_none_or(|family| id.family() == family));
        let plan = Plan::between(&ipvs.table().unwrap(), &wanted);
        ipvs.apply(&plan).unwrap();
        compare(&mut ipvs, count);
        assert_eq!(ipvs.table().unwrap(), wanted);
    }
}

/// A plan is carried out later than it was made: what others have added meanwhile is theirs.
#[test]
fn undoing_an_old_plan_removes_nothing_of_others() {
    enter_new_netns();
    let mut ipvs = Ipvs::open().unwrap();
    let old = "-A -t 192.0.2.1:80 -s wrr\n-a -t 192.0.2.1:80 -r 10.0.0.1:80 -g -w 1\n";
    old.lines().for_each(|line| drop(ipvsadm(line)));
    let wanted = "-A -t 192.0.2.1:80 -s wrr\n-a -t 192.0.2.1:80 -r 10.0.0.1:80 -g -w 7\n-A -t 192.0.2.1:81 -s rr\n\
        -a -t 192.0.2.1:81 -r 10.0.0.2:81 -g -w 1\n-A -t 192.0.2.1:82 -s rr\n";
    let plan = Plan::between(&ipvs.table().unwrap(), &wanted.parse().unwrap());
    ipvsadm("-A -t 192.0.2.1:81 -s mh");
    ipvsadm("-a -t 192.0.2.1:81 -r 10.0.0.3:81 -g -w 9");
    let before = ipvsadm("-Sn");
    let error = ipvs.apply(&plan).unwrap_err();
    assert_eq!(error.cause(), Some(Cause::ServiceExists), "{error}");
    assert!(error.to_string().contains("as it was before"), "{error}");
    assert_eq!(sorted(&ipvsadm("-Sn")), sorted(&before));
}

#[test]
fn a_client_belongs_to_its_namespace() {
    enter_new_netns();
    let other = new_netns();
    let mut there = Ipvs::open_in(other.clone()).unwrap();
    there.add_service(&Service::new(web(), Scheduler::RR)).unwrap();
    assert_eq!(ipvsadm("-Sn"), "");
    assert_eq!(other.run(|| ipvsadm("-Sn")).unwrap(), "-A -t 192.0.2.1:80 -s rr\n");
    // Also when it is used from a thread that is elsewhere.
    std::thread::spawn(move || {
        enter_new_netns();
        assert_eq!(there.services().unwrap().len(), 1);
        assert_eq!(Ipvs::open().unwrap().services().unwrap().len(), 0);
    })
    .join()
    .unwrap();
    assert!(matches!(Netns::named("no-such-namespace"), Err(Error::System { .. })));
}

#[test]
fn counters_are_read() {
    enter_new_netns();
    ip("addr add 192.0.2.1/32 dev lo");
    ipvsadm("-A -t 192.0.2.1:80 -s rr");
    ipvsadm("-a -t 192.0.2.1:80 -r 127.0.0.1:80 -m");
    let _ = std::net::TcpStream::connect_timeout(&"192.0.2.1:80".parse().unwrap(), Duration::from_millis(200));
    // The kernel brings its counters up to date every two seconds.
    let mut ipvs = Ipvs::open().unwrap();
    let deadline = Instant::now() + Duration::from_secs(10);
    let s = loop {
        let stats = ipvs.service(&web()).unwrap().stats;
        if stats.connections > 0 {
            break stats;
        }
        assert!(Instant::now() < deadline, "no connection is counted");
        std::thread::sleep(Duration::from_millis(100));
    };
    // `ipvsadm -Ln --stats --exact` reads the same counters.
    let stats = ipvsadm("-Ln --stats --exact");
    let line = stats.lines().find(|line| line.starts_with("TCP")).unwrap();
    let shown: Vec<u64> = line.split_whitespace().skip(2).map(|n| n.parse().unwrap()).collect();
    assert_eq!(shown, [s.connections, s.packets_in, s.packets_out, s.bytes_in, s.bytes_out], "{stats}");
}

#[test]
fn kernel_fact_a_removed_service_lists_no_destinations() {
    enter_new_netns();
    assert!(try_run("ipvsadm -Ln -t 192.0.2.1:80").status.code() != Some(0));
    let mut ipvs = Ipvs::open().unwrap();
    assert_eq!(ipvs.destinations(&web()).unwrap_err().cause(), Some(Cause::NoService));
}

#[test]
fn no_descriptor_is_left_open() {
    enter_new_netns();
    let count = || std::fs::read_dir("/proc/self/fd").unwrap().count();
    let before = count();
    for _ in 0..10_000 {
        Ipvs::open().unwrap();
    }
    assert_eq!(count(), before);
}

#[test]
fn a_plan_prints_what_ipvsadm_understands() {
    enter_new_netns();
    let seen: Table = "-A -t 192.0.2.1:80 -s rr\n-a -t 192.0.2.1:80 -r 10.0.0.1:80 -g -w 1\n-A -t 192.0.2.8:80 -s rr\n"
        .parse()
        .unwrap();
    let wanted: Table = "-A -t 192.0.2.1:80 -s wrr -p 10\n-a -t 192.0.2.1:80 -r 10.0.0.1:80 -g -w 4\n-a -t 192.0.2.1:80 -r 10.0.0.2:80 -i -w 1\n".parse().unwrap();
    let mut ipvs = Ipvs::open().unwrap();
    ipvs.apply(&Plan::between(&Table::new(), &seen)).unwrap();
    let plan = Plan::between(&seen, &wanted);
    assert!(plan.changes().iter().any(|change| matches!(change, Change::RemoveService(_))));
    plan.to_string().lines().for_each(|line| drop(ipvsadm(line)));
    assert_eq!(ipvsadm("-Sn").parse::<Table>().unwrap(), wanted);
}

#[test]
fn a_snapshot_holds_timeouts_and_daemons_and_is_put_back() {
    enter_new_netns();
    ip("link add eth0 type dummy");
    ip("addr add 10.9.0.1/24 dev eth0");
    ip("link set eth0 up multicast on");
    ipvsadm("-A -t 192.0.2.1:80 -s wrr");
    ipvsadm("--set 800 100 200");
    ipvsadm("--start-daemon master --mcast-interface eth0 --syncid 7");
    let mut ipvs = Ipvs::open().unwrap();
    let before = ipvs.snapshot().unwrap();
    let text = before.to_string();
    assert!(text.starts_with("--set 800 100 200\n--start-daemon master --mcast-interface eth0 --syncid 7 "), "{text}");
    assert!(text.contains("\n--stop-daemon backup\n-A -t 192.0.2.1:80 -s wrr\n"), "{text}");
    let wanted: Table =
        "--set 900 0 0\n--start-daemon backup --mcast-interface eth0 --syncid 7\n--stop-daemon master\n"
            .parse()
            .unwrap();
    ipvs.apply(&Plan::between(&before, &wanted)).unwrap();
    assert_eq!(ipvsadm("-Ln --timeout"), "Timeout (tcp tcpfin udp): 900 100 200\n");
    assert!(ipvsadm("-Ln --daemon").starts_with("backup sync daemon (mcast=eth0, syncid=7"));
    let again = ipvs.snapshot().unwrap();
    assert!(Plan::between(&again, &wanted).is_empty());
    ipvs.apply(&Plan::between(&again, &before)).unwrap();
    assert_eq!(ipvs.snapshot().unwrap(), before);
    // The daemon is the last of this plan, and fails: everything before it is undone.
    let bad: Table = "--set 1 2 3\n--start-daemon backup --mcast-interface eth9 --syncid 7\n-A -t 192.0.2.5:80 -s rr\n"
        .parse()
        .unwrap();
    let error = ipvs.apply(&Plan::between(&before, &bad)).unwrap_err();
    assert_eq!(error.cause(), Some(Cause::NoInterface), "{error}");
    assert!(error.to_string().contains("as it was before"), "{error}");
    assert_eq!(ipvs.snapshot().unwrap(), before);
}

#[test]
fn a_table_that_changes_while_it_is_read_is_read_whole() {
    enter_new_netns();
    let here = Netns::current().unwrap();
    let mut stable = Table::new();
    for port in 1..=150 {
        let id = ServiceId::tcp(SocketAddr::from(([192, 0, 2, 1], port)));
        stable.insert(Service::new(id, Scheduler::WRR));
    }
    let mut ipvs = Ipvs::open().unwrap();
    ipvs.apply(&Plan::between(&Table::new(), &stable)).unwrap();
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut other = Ipvs::open_in(here.clone()).unwrap();
            for port in (1..=60_000).cycle() {
                if stop.load(std::sync::atomic::Ordering::Relaxed) {
                    break;
                }
                let id = ServiceId::udp(SocketAddr::from(([192, 0, 2, 7], port)));
                other.add_service(&Service::new(id, Scheduler::RR)).unwrap();
                std::thread::sleep(Duration::from_micros(300));
                other.remove_service(&id).unwrap();
                std::thread::sleep(Duration::from_millis(3));
            }
        });
        for _ in 0..40 {
            let mut seen = ipvs.table().unwrap();
            let extra: Vec<ServiceId> =
                seen.services().map(|s| s.service.id).filter(|id| stable.service(id).is_none()).collect();
            assert!(extra.len() <= 1, "{extra:?}");
            seen.retain(|id| stable.service(id).is_some());
            assert_eq!(seen, stable);
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
    });
}

/// The number of destinations is asked for before their list is.
#[test]
fn a_destination_that_comes_and_goes_hides_no_other() {
    enter_new_netns();
    let here = Netns::current().unwrap();
    let mut ipvs = Ipvs::open().unwrap();
    ipvs.add_service(&Service::new(web(), Scheduler::RR)).unwrap();
    (1..=5).for_each(|last| ipvs.add_destination(&web(), &Destination::new(server(last))).unwrap());
    let stable = ipvs.table().unwrap();
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut other = Ipvs::open_in(here.clone()).unwrap();
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                other.add_destination(&web(), &Destination::new(server(9))).unwrap();
                other.remove_destination(&web(), server(9)).unwrap();
            }
        });
        let mut hides = || {
            let mut seen = ipvs.table().unwrap();
            seen.remove_destination(&web(), server(9));
            let (_, found) = ipvs.entry(&web(), Detail::Configuration).unwrap();
            seen != stable || found.iter().filter(|entry| entry.destination.address != server(9)).count() != 5
        };
        let hidden = (0..10_000).find(|_| hides());
        // Before anything is asserted: the other thread goes on for ever otherwise.
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        assert_eq!(hidden, None);
    });
}

#[test]
fn a_destination_is_drained() {
    enter_new_netns();
    ip("addr add 192.0.2.1/32 dev lo");
    let listener = std::net::TcpListener::bind("127.0.0.1:8080").unwrap();
    ipvsadm("-A -t 192.0.2.1:80 -s rr");
    ipvsadm("-a -t 192.0.2.1:80 -r 127.0.0.1:8080 -m -w 5 -x 9 -y 4");
    let address = "127.0.0.1:8080".parse().unwrap();
    let client = std::net::TcpStream::connect("192.0.2.1:80").unwrap();
    let server = listener.accept().unwrap();
    let mut ipvs = Ipvs::open().unwrap();
    let drained = ipvs.drain(&web(), address, Duration::from_millis(300)).unwrap();
    assert!(!drained.empty && drained.active == 1 && drained.before.weight == 5, "{drained:?}");
    assert!(ipvsadm("-Sn").contains("-r 127.0.0.1:8080 -m -w 0"));
    ipvs.replace_destination(&web(), &drained.before).unwrap();
    assert!(ipvsadm("-Sn").contains("-r 127.0.0.1:8080 -m -w 5"));
    assert!(ipvsadm("-Ln --thresholds").contains("9          4"));
    let closer = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(300));
        drop((client, server));
    });
    let drained = ipvs.drain(&web(), address, Duration::from_secs(20)).unwrap();
    assert!(drained.empty && drained.active == 0, "{drained:?}");
    closer.join().unwrap();
    ipvs.remove_destination(&web(), address).unwrap();
    assert_eq!(ipvsadm("-Sn"), "-A -t 192.0.2.1:80 -s rr\n");
}

#[test]
fn drift_is_seen_told_once_and_repaired() {
    enter_new_netns();
    let wanted: Table = "-A -t 192.0.2.1:80 -s wrr\n-a -t 192.0.2.1:80 -r 10.0.0.1:80 -g -w 1\n".parse().unwrap();
    ipvsadm("-A -u 192.0.2.9:53 -s rr");
    let interval = Duration::from_millis(20);
    let mut watch = Watch::new(Ipvs::open().unwrap(), wanted.clone(), interval).repair(true);
    let drift = watch.next().unwrap().unwrap();
    assert!(drift.repaired && drift.plan.changes().len() == 2, "{}", drift.plan);
    assert_eq!(ipvsadm("-Sn"), format!("{wanted}-A -u 192.0.2.9:53 -s rr\n"));
    ipvsadm("-e -t 192.0.2.1:80 -r 10.0.0.1:80 -g -w 0");
    let drift = watch.next().unwrap().unwrap();
    assert_eq!(drift.plan.to_string(), "-e -t 192.0.2.1:80 -r 10.0.0.1:80 -g -w 1\n");
    assert!(ipvsadm("-Sn").contains("10.0.0.1:80 -g -w 1"));

    let mut watch = Watch::new(Ipvs::open().unwrap(), wanted, interval).owner(|id| matches!(id, ServiceId::Udp(_)));
    let drift = watch.next().unwrap().unwrap();
    assert_eq!((drift.repaired, drift.plan.to_string().as_str()), (false, "-D -u 192.0.2.9:53\n"));
    // Told once; the next item is the next change.
    ipvsadm("-D -t 192.0.2.1:80");
    assert_eq!(watch.next().unwrap().unwrap().plan.changes().len(), 3);
}

#[test]
fn two_threads_with_a_client_each_never_hang() {
    enter_new_netns();
    let here = Netns::current().unwrap();
    let threads: Vec<_> = (1..=2u8)
        .map(|number| {
            let here = here.clone();
            std::thread::spawn(move || {
                let mut ipvs = Ipvs::open_in(here).unwrap();
                for port in 1..=300 {
                    let id = ServiceId::tcp(SocketAddr::from(([192, 0, 2, number], port)));
                    ipvs.add_service(&Service::new(id, Scheduler::RR)).unwrap();
                    ipvs.add_destination(&id, &Destination::new(server(1))).unwrap();
                    if port % 50 == 0 {
                        let own = ipvs
                            .table()
                            .unwrap()
                            .services()
                            .filter(|s| s.service.id.address().unwrap().ip() == id.address().unwrap().ip())
                            .count();
                        assert_eq!(own, usize::from(port));
                    }
                }
            })
        })
        .collect();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    assert_eq!(ipvsadm("-Sn").lines().count(), 2 * 300 * 2);
}

#[test]
fn a_plan_from_an_old_view_undoes_only_what_it_did() {
    enter_new_netns();
    let running = "-A -t 192.0.2.1:80 -s rr\n-a -t 192.0.2.1:80 -r 10.0.0.1:80 -g -w 7\n";
    running.lines().for_each(|line| drop(ipvsadm(line)));
    ipvsadm("--set 800 100 200");
    let mut ipvs = Ipvs::open().unwrap();
    let wanted: Table = "-A -t 192.0.2.1:80 -s wrr\n".parse().unwrap();
    let error = ipvs.apply(&Plan::between(&Table::new(), &wanted)).unwrap_err();
    assert_eq!(error.cause(), Some(Cause::ServiceExists), "{error}");
    assert_eq!(ipvsadm("-Sn"), running);

    // A view without timeouts and daemons: they are undone all the same.
    let wanted: Table = "--set 111 22 33\n--start-daemon master --mcast-interface lo --syncid 1\n\
                         --start-daemon backup --mcast-interface nosuch0 --syncid 1\n"
        .parse()
        .unwrap();
    let seen = ipvs.table().unwrap().filtered(|_| false);
    let error = ipvs.apply(&Plan::between(&seen, &wanted)).unwrap_err();
    assert!(error.to_string().contains("as it was before"), "{error}");
    assert_eq!(ipvsadm("-Ln --timeout"), "Timeout (tcp tcpfin udp): 800 100 200\n");
    assert_eq!((ipvsadm("-Ln --daemon"), ipvsadm("-Sn")), (String::new(), running.to_owned()));
}

#[test]
fn nothing_goes_when_what_comes_in_its_place_fails() {
    enter_new_netns();
    ip("addr add 192.0.2.1/32 dev lo");
    let _listener = std::net::TcpListener::bind("127.0.0.1:8080").unwrap();
    ipvsadm("-A -t 192.0.2.1:80 -s rr");
    ipvsadm("-a -t 192.0.2.1:80 -r 127.0.0.1:8080 -m");
    let _client = std::net::TcpStream::connect("192.0.2.1:80").unwrap();
    let mut ipvs = Ipvs::open().unwrap();
    let counted = |ipvs: &mut Ipvs| ipvs.service(&web()).unwrap().stats.connections;
    let deadline = Instant::now() + Duration::from_secs(10);
    while counted(&mut ipvs) == 0 {
        assert!(Instant::now() < deadline, "no connection is counted");
        std::thread::sleep(Duration::from_millis(100));
    }
    let wanted: Table = "-A -t 192.0.2.2:80 -s nosuch\n".parse().unwrap();
    let plan = Plan::between(&ipvs.table().unwrap(), &wanted);
    assert_eq!(ipvs.apply(&plan).unwrap_err().cause(), Some(Cause::NoModule));
    // A service that was taken away and added again would have counted nothing.
    assert_eq!(counted(&mut ipvs), 1);
}

#[test]
fn timeouts_and_daemons_are_watched_too() {
    enter_new_netns();
    ip("link add eth0 type dummy");
    ip("addr add 10.9.0.1/24 dev eth0");
    ip("link set eth0 up multicast on");
    let wanted: Table =
        "--set 111 22 33\n--start-daemon backup --mcast-interface eth0 --syncid 1\n-A -t 192.0.2.1:80 -s rr\n"
            .parse()
            .unwrap();
    let mut watch = Watch::new(Ipvs::open().unwrap(), wanted, Duration::from_millis(20)).repair(true);
    assert_eq!(watch.next().unwrap().unwrap().plan.changes().len(), 3);
    assert_eq!(ipvsadm("-Ln --timeout"), "Timeout (tcp tcpfin udp): 111 22 33\n");
    // All is well now: the next difference is the next change.
    ipvsadm("--set 111 22 44");
    assert_eq!(watch.next().unwrap().unwrap().plan.to_string(), "--set 111 22 33\n");
    ipvsadm("--stop-daemon backup");
    assert_eq!(watch.next().unwrap().unwrap().plan.changes().len(), 1);
    assert!(ipvsadm("-Ln --daemon").starts_with("backup"));
}

#[test]
fn what_an_interrupted_plan_left_is_mended_by_the_next() {
    enter_new_netns();
    let before: Table = "-A -t 192.0.2.8:80 -s rr\n-a -t 192.0.2.8:80 -r 10.0.0.9:80 -g -w 1\n".parse().unwrap();
    let mut wanted: Table = EVERYTHING.parse().unwrap();
    wanted.timeouts = "--set 700 70 7".parse::<Table>().unwrap().timeouts;
    let mut ipvs = Ipvs::open().unwrap();
    let changes = Plan::between(&before, &wanted).changes().to_vec();
    // As far as each change, and no further.
    for done in (0..=changes.len()).step_by(3) {
        ipvsadm("-C");
        ipvsadm("--set 900 120 300");
        let commands = changes[..done].iter().map(Change::to_string);
        before.to_string().lines().map(str::to_owned).chain(commands).for_each(|command| drop(ipvsadm(&command)));
        let plan = Plan::between(&ipvs.snapshot().unwrap(), &wanted);
        ipvs.apply(&plan).unwrap();
        assert_eq!(sorted(&ipvsadm("-Sn")), sorted(EVERYTHING), "after {done} changes");
        assert_eq!(ipvsadm("-Ln --timeout"), "Timeout (tcp tcpfin udp): 700 70 7\n");
        assert!(Plan::between(&ipvs.snapshot().unwrap(), &wanted).is_empty());
    }
}
