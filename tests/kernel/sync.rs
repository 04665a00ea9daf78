//! Sync messages: ours against the kernel's own, and what the kernel's backups make of ours.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, UdpSocket};
use std::time::{Duration, Instant};

use lvs_dr::Netns;
use lvs_dr::ipvs::{Connection, Detail, Ipvs, SyncDaemon, SyncRole, sync};
use lvs_dr::node::{Config, Node, Role};

use crate::lab::{cable, ip, ipvsadm};
use crate::lan::{INTERFACE, Session, VIP, VIP6, add_vips, enter_switch, host, serve};
use crate::node::new_path;

/// A client, a director, a server, and a backup that sees no packet of a client.
struct Cluster {
    client: Netns,
    director: Netns,
    backup: Netns,
}

impl Cluster {
    /// `persistence`: how ipvsadm is told of it.
    fn new(persistence: &str) -> Self {
        enter_switch();
        let cluster = Cluster { client: host(1), director: host(11), backup: host(13) };
        let server = host(12);
        add_vips(&server, "lo");
        serve(&server, 12);
        add_vips(&cluster.director, INTERFACE);
        for node in [&cluster.director, &cluster.backup] {
            let load = || {
                ipvsadm(&format!("-A -t {VIP}:80 -s wrr {persistence}"));
                ipvsadm(&format!("-a -t {VIP}:80 -r 192.0.2.12:80 -g"));
                ipvsadm(&format!("-A -t [{VIP6}]:80 -s wrr {persistence}"));
                ipvsadm(&format!("-a -t [{VIP6}]:80 -r [2001:db8::12]:80 -g"));
                ipvsadm(&format!("-A -u {VIP}:53 -s wrr"));
                ipvsadm(&format!("-a -u {VIP}:53 -r 192.0.2.12:53 -g"));
            };
            node.run(load).unwrap();
        }
        cluster
    }

    fn ipvs(&self) -> Ipvs {
        Ipvs::open_in(self.director.clone()).unwrap()
    }

    fn start_backup(&self, options: &str) {
        let start = || ipvsadm(&format!("--start-daemon backup --mcast-interface {INTERFACE} {options}"));
        self.backup.run(start).unwrap();
    }

    /// Everything that the director knows, sent as this daemon would.
    fn send(&self, daemon: &SyncDaemon) -> usize {
        let mut ipvs = self.ipvs();
        let entries = sync::entries(&ipvs.connections().unwrap(), &ipvs.table().unwrap());
        ipvs.send_connections(daemon, &entries).unwrap();
        entries.len()
    }

    fn known_at_the_backup(&self) -> BTreeSet<String> {
        rows(&Ipvs::open_in(self.backup.clone()).unwrap().connections().unwrap())
    }

    fn wait_for(&self, known: &BTreeSet<String>) -> Duration {
        let start = Instant::now();
        while self.known_at_the_backup() != *known {
            assert!(start.elapsed() < Duration::from_secs(10), "{:?}", self.known_at_the_backup());
            std::thread::sleep(Duration::from_millis(10));
        }
        start.elapsed()
    }
}

fn rows(connections: &[Connection]) -> BTreeSet<String> {
    let row = |c: &Connection| format!("{} {} {} {} {}", c.protocol, c.client, c.service, c.destination, c.state);
    connections.iter().map(row).collect()
}

fn daemon(id: u8) -> SyncDaemon {
    SyncDaemon::new(SyncRole::Master, INTERFACE, id)
}

fn set(name: &str, value: &str) {
    std::fs::write(format!("/proc/sys/net/ipv4/vs/{name}"), value).unwrap();
}

/// Where the state and the seconds stand, in a message of one entry.
const STATE: std::ops::Range<usize> = 8 + 8..8 + 10;
const TIMEOUT: std::ops::Range<usize> = 8 + 20..8 + 24;

#[test]
fn our_messages_are_the_kernels() {
    for (vip, persistence) in [(VIP6, ""), (VIP, ""), (VIP, "-p 70"), (VIP6, "-p 70")] {
        let cluster = Cluster::new(persistence);
        let listen = || {
            let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, SyncDaemon::DEFAULT_PORT)).unwrap();
            socket.join_multicast_v4(&Ipv4Addr::new(224, 0, 0, 81), &Ipv4Addr::new(192, 0, 2, 13)).unwrap();
            socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
            socket
        };
        let group = cluster.backup.run(listen).unwrap();
        let receive = || {
            let mut octets = [0; 2000];
            let length = group.recv(&mut octets).unwrap();
            octets[..length].to_vec()
        };
        let start = || {
            set("sync_threshold", "2 0");
            set("sync_refresh_period", "30");
            let options = "--syncid 7 --sync-maxlen 1";
            ipvsadm(&format!("--start-daemon master --mcast-interface {INTERFACE} {options}"));
        };
        cluster.director.run(start).unwrap();
        let mut session = Session::open(&cluster.client, vip).unwrap();
        assert_eq!(session.ask(), Some(12));
        // A connection, and its template in a message of its own.
        let expected = if persistence.is_empty() { 1 } else { 2 };
        let kernels: BTreeSet<Vec<u8>> = (0..expected).map(|_| receive()).collect();
        let mut ipvs = cluster.ipvs();
        let entries = sync::entries(&ipvs.connections().unwrap(), &ipvs.table().unwrap());
        let ours: BTreeSet<Vec<u8>> = sync::messages(&entries, 7, 1).into_iter().collect();
        let without_time = |messages: &BTreeSet<Vec<u8>>| -> BTreeSet<Vec<u8>> {
            let cut = |message: &Vec<u8>| {
                let mut message = message.clone();
                message[TIMEOUT].fill(0);
                // A template is told of before the connection that makes it ASSURED is
                // established.
                if message[14] & 0x10 != 0 {
                    message[STATE].fill(0);
                }
                message
            };
            messages.iter().map(cut).collect()
        };
        assert_eq!(without_time(&ours), without_time(&kernels), "{vip} {persistence}");
        let seconds = |message: &Vec<u8>| u32::from_be_bytes(message[TIMEOUT].try_into().unwrap());
        for (ours, kernels) in ours.iter().zip(&kernels) {
            let (ours, kernels) = (seconds(ours), seconds(kernels));
            assert!((kernels.saturating_sub(5)..=kernels).contains(&ours), "{ours} {kernels}");
        }
        // What passes the link is what was made.
        ipvs.stop_sync_daemon(SyncRole::Master).unwrap();
        assert_eq!(cluster.send(&daemon(7)), entries.len());
        let all = sync::messages(&entries, 7, 1472).remove(0);
        let passed = receive();
        assert_eq!((passed.len(), &passed[..TIMEOUT.start]), (all.len(), &all[..TIMEOUT.start]));
    }
}

#[test]
fn a_backup_that_comes_late_learns_all() {
    for group in ["", "--mcast-group ff02::51"] {
        let cluster = Cluster::new("-p 70");
        let open = |_| [VIP, VIP6].map(|vip| Session::open(&cluster.client, vip).unwrap());
        let mut sessions: Vec<Session> = (0..20).flat_map(open).collect();
        assert!(sessions.iter_mut().all(|session| session.ask() == Some(12)));
        let known = rows(&cluster.ipvs().connections().unwrap());
        // 40 connections, a template of each family.
        assert_eq!(known.len(), 42);
        cluster.start_backup(&format!("--syncid 7 {group}"));
        assert_eq!(cluster.known_at_the_backup().len(), 0);
        let group = group.split(' ').nth(1).map(|group| group.parse().unwrap());
        assert_eq!(cluster.send(&SyncDaemon { group, ..daemon(7) }), 42);
        cluster.wait_for(&known);
        assert_eq!([&cluster.director, &cluster.backup].map(counted), [42, 42]);
    }
}

/// Connections and templates by their destinations' counters, which `Status::connections` rests
/// on: synchronised ones count as well.
fn counted(node: &Netns) -> u32 {
    let entries = Ipvs::open_in(node.clone()).unwrap().entries(Detail::Configuration).unwrap();
    let found = entries.iter().flat_map(|(_, destinations)| destinations);
    found.map(|found| found.active + found.inactive + found.persistent).sum()
}

#[test]
fn ten_thousand_connections_arrive_all() {
    const COUNT: usize = 10_000;
    let cluster = Cluster::new("");
    let fill = || {
        for port in 0..COUNT as u16 {
            let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 20_000 + port)).unwrap();
            socket.send_to(b"?", (VIP, 53)).unwrap();
        }
    };
    cluster.client.run(fill).unwrap();
    let known = rows(&cluster.ipvs().connections().unwrap());
    assert_eq!(known.len(), COUNT);
    cluster.start_backup("--syncid 7");
    let start = Instant::now();
    cluster.send(&daemon(7));
    let sent = start.elapsed();
    let waited = cluster.wait_for(&known);
    assert_eq!([&cluster.director, &cluster.backup].map(counted), [COUNT as u32; 2]);
    println!("{COUNT} connections: read and sent in {sent:?}, known after {:?}", sent + waited);
}

#[test]
fn what_is_not_for_it_a_backup_leaves_alone() {
    let cluster = Cluster::new("");
    let mut session = Session::open(&cluster.client, VIP).unwrap();
    assert_eq!(session.ask(), Some(12));
    cluster.start_backup("--syncid 7");
    // What comes by another interface.
    let side = || {
        cable("side0", "02:00:00:00:02:11", &cluster.backup, "side1");
        ip("address add 198.51.100.11/24 dev side0");
    };
    cluster.director.run(side).unwrap();
    cluster.backup.run(|| ip("address add 198.51.100.13/24 dev side1")).unwrap();
    cluster.send(&SyncDaemon { interface: "side0".into(), ..daemon(7) });
    // Another cluster's, another port's, another group's.
    cluster.send(&daemon(8));
    cluster.send(&SyncDaemon { port: Some(8850), ..daemon(7) });
    cluster.send(&SyncDaemon { group: Some("224.0.0.82".parse().unwrap()), ..daemon(7) });
    // Cut short or wrong in one octet: what a backup takes from it is a connection, or nothing.
    let mut ipvs = cluster.ipvs();
    let entries = sync::entries(&ipvs.connections().unwrap(), &ipvs.table().unwrap());
    let good = sync::messages(&entries, 7, 1472).remove(0);
    let raw = cluster.director.run(|| UdpSocket::bind("192.0.2.11:0").unwrap()).unwrap();
    raw.connect("224.0.0.81:8848").unwrap();
    for cut in 0..good.len() {
        raw.send(&good[..cut]).unwrap();
    }
    std::thread::sleep(Duration::from_millis(200));
    assert_eq!(cluster.known_at_the_backup(), BTreeSet::new());
    for place in 0..good.len() {
        for value in [0x00, 0x7f, 0x80, 0xff] {
            let mut wrong = good.clone();
            wrong[place] ^= value;
            raw.send(&wrong).unwrap();
        }
        if place % 8 == 0 {
            std::thread::sleep(Duration::from_millis(5));
        }
    }
    cluster.send(&daemon(7));
    let known = rows(&ipvs.connections().unwrap());
    let start = Instant::now();
    while !cluster.known_at_the_backup().is_superset(&known) {
        assert!(start.elapsed() < Duration::from_secs(10));
        std::thread::sleep(Duration::from_millis(10));
    }
    assert_eq!(session.ask(), Some(12));
}

/// With a period of packets the kernel tells of a connection at its packet number
/// `sync_threshold[0]` or not for a long time: one whose first packet had to be repeated is
/// established at its third. With a period of time it is told of when it is established.
#[test]
fn a_connection_whose_first_packet_was_repeated_is_told_of() {
    for (threshold, refresh, told) in [("2 50", "0", false), ("2 0", "30", true)] {
        let cluster = Cluster::new("");
        cluster.start_backup("--syncid 7");
        let start = || {
            set("sync_threshold", threshold);
            set("sync_refresh_period", refresh);
            ipvsadm(&format!("--start-daemon master --mcast-interface {INTERFACE} --syncid 7 --sync-maxlen 1"));
        };
        cluster.director.run(start).unwrap();
        // The server's link is down until the client sends again, after a second.
        ip("link set port12 down");
        let mut session = std::thread::scope(|scope| {
            let session = scope.spawn(|| Session::open(&cluster.client, VIP).unwrap());
            std::thread::sleep(Duration::from_millis(300));
            ip("link set port12 up");
            session.join().unwrap()
        });
        assert_eq!(session.ask(), Some(12));
        let start = Instant::now();
        while cluster.known_at_the_backup().is_empty() && start.elapsed() < Duration::from_secs(4) {
            std::thread::sleep(Duration::from_millis(50));
        }
        assert_eq!(!cluster.known_at_the_backup().is_empty(), told, "{threshold}, {refresh}");
    }
}

/// Connections of the node's marks lead to port 1 of this node, where nothing listens: the other
/// nodes get them as connections to the port of the service.
#[test]
fn connections_of_the_marks_are_sent_as_connections_to_the_service() {
    enter_switch();
    let [client, director, peer, backup] = [1, 11, 12, 13].map(host);
    serve(&director, 11);
    serve(&peer, 12);
    let mut table = String::new();
    for (listen, network) in [(format!("{VIP}:80"), "192.0.2.N:80"), (format!("[{VIP6}]:80"), "[2001:db8::N]:80")] {
        table += &format!("-A -t {listen} -s wrr\n");
        table += &["11", "12"].map(|n| format!("-a -t {listen} -r {} -g -w 1\n", network.replace('N', n))).concat();
    }
    let node = |netns: &Netns| {
        let config = Config {
            services: Some(table.parse().unwrap()),
            state_dir: new_path(),
            ..Config::new(INTERFACE, [VIP, VIP6].map(|vip| vip.parse().unwrap()))
        };
        Node::open_in(config, netns.clone()).unwrap()
    };
    let known = |netns: &Netns| rows(&Ipvs::open_in(netns.clone()).unwrap().connections().unwrap());
    let mut first = node(&director);
    first.become_role(Role::Master).unwrap();
    // What comes from the peer's MAC address the director serves itself.
    let open = |from: &Netns, count| -> Vec<Session> {
        let both = (0..count).flat_map(|_| [VIP, VIP6]);
        both.map(|vip| Session::open(from, vip).unwrap()).collect()
    };
    let mut of_peer = open(&peer, 5);
    assert!(of_peer.iter_mut().all(|session| session.ask() == Some(11)));
    let of_marks = known(&director);
    let local = |row: &String| row.contains(" 192.0.2.11:1 ") || row.contains(" [2001:db8::11]:1 ");
    assert_eq!((of_marks.len(), of_marks.iter().filter(|row| local(row)).count()), (10, 10), "{of_marks:?}");
    let counts = |node: &mut Node| {
        let status = node.status().unwrap();
        (status.connections(), status.marked, node.known_connections().unwrap())
    };
    assert_eq!((counts(&mut first), first.resync().unwrap()), ((0, 10, 10), 10));

    add_vips(&peer, "lo");
    let mut sessions = open(&client, 6);
    assert!(sessions.iter_mut().all(|session| session.ask().is_some()));
    let ordinary: BTreeSet<String> = known(&director).difference(&of_marks).cloned().collect();
    assert_eq!((ordinary.len(), counts(&mut first)), (12, (12, 10, 22)), "{ordinary:?}");
    let to_service = |row: &String| {
        row.replace(" 192.0.2.11:1 ", " 192.0.2.11:80 ").replace(" [2001:db8::11]:1 ", " [2001:db8::11]:80 ")
    };
    let ordinary: BTreeSet<String> = ordinary.into_iter().chain(of_marks.iter().map(to_service)).collect();
    // The kernel's own daemon sends what it has been waiting with.
    std::thread::sleep(Duration::from_secs(3));
    let mut second = node(&backup);
    second.become_role(Role::Backup).unwrap();
    assert_eq!(first.resync().unwrap(), 22);
    let start = Instant::now();
    while known(&backup) != ordinary {
        assert!(start.elapsed() < Duration::from_secs(10), "{:?}", known(&backup));
        std::thread::sleep(Duration::from_millis(20));
    }
    // A demoted director sends all connections once more.
    let late = host(14);
    node(&late).become_role(Role::Backup).unwrap();
    first.become_role(Role::Backup).unwrap();
    let start = Instant::now();
    while known(&late) != ordinary {
        assert!(start.elapsed() < Duration::from_secs(10), "{:?}", known(&late));
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(known(&backup), ordinary);
}
