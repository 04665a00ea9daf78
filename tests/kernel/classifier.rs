//! The classifier: sessions judged by their servers, strays by their frames, and what is attached
//! by tc(8) and by the kernel's list of maps.

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::thread;
use std::time::Duration;

use lvs_dr::Netns;
use lvs_dr::marks::{
    CLASSIFIER_PRIORITY, Classification, Classifier, Counters, Mac, Marks, ServiceMarks, classifier_supported,
};
use lvs_dr::{Cause, Error};
use rustix::thread::{CapabilitySet, CapabilitySets, capabilities, set_capabilities};

use crate::lab::{enter_new_netns, feed, ip, ip_batch, ipvsadm, run};
use crate::lan::{
    ACK, BOTH, BY_HAND, Handmade, INTERFACE, MH, NODES, RST, Session, Tap, VIP, add_vips, address, enter_switch, host,
    kept, mac, mac_text, serve, session, steer, until,
};

const OWNER: u64 = 0x1122_3344_5566_7788;
/// The marks of the services.
const LOCAL: u32 = 1;
const ELSEWHERE: u32 = 3;
const BEFORE: u32 = 10;

fn mark(number: u32) -> Option<NonZeroU32> {
    NonZeroU32::new(number)
}

fn tc(arguments: &str) -> String {
    run(&format!("tc {arguments}"))
}

/// What the node knows: its peers have the numbers of [`NODES`], less 11.
fn classification(number: u8) -> Classification {
    let marks = ServiceMarks { local: mark(LOCAL).unwrap(), elsewhere: mark(ELSEWHERE), before: mark(BEFORE) };
    Classification {
        services: BOTH.map(|vip| (SocketAddr::new(vip.parse().unwrap(), 80), marks)).into(),
        peers: NODES.iter().filter(|peer| **peer != number).map(|peer| (Mac(mac(*peer)), peer - 11)).collect(),
    }
}

/// A client and three nodes with the VIPs on `lo` and equal tables, of which none has a role and
/// none a sync daemon: the client's packets go to the node that the test names.
struct Nodes {
    client: Netns,
    hosts: BTreeMap<u8, Netns>,
}

impl Nodes {
    /// Nodes whose services have these servers, and had these before.
    fn new(present: &[u8], previous: &[u8], classified: bool) -> Self {
        enter_switch();
        let nodes = Nodes { client: host(1), hosts: NODES.map(|number| (number, host(number))).into() };
        for (number, host) in &nodes.hosts {
            serve(host, *number);
            add_vips(host, "lo");
            let work = || {
                let by_hand = mac_text(mac(1));
                ip_batch(&format!(
                    "neigh add 192.0.2.{BY_HAND} lladdr {by_hand} dev {INTERFACE} nud permanent\n\
                     neigh add 2001:db8::{BY_HAND} lladdr {by_hand} dev {INTERFACE} nud permanent\n"
                ));
                feed("ipvsadm -R", &table(*number, present, previous));
                fs::write("/proc/sys/net/ipv4/vs/sloppy_tcp", "1").unwrap();
                if classified {
                    Classifier::open(OWNER).unwrap().apply(INTERFACE, &classification(*number)).unwrap();
                }
            };
            host.run(work).unwrap();
        }
        steer(&nodes.client, 11);
        nodes
    }

    /// Commands of ipvsadm for both families on each node.
    fn change(&self, commands: impl Fn(u8, &str) -> String + Sync) {
        for (number, host) in &self.hosts {
            let text: String = BOTH.map(|vip| commands(*number, vip)).concat();
            host.run(|| feed("ipvsadm -R", &text)).unwrap();
        }
    }

    fn sessions(&self, count: usize) -> Vec<(Session, u8)> {
        (0..count).map(|number| session(&self.client, BOTH[number % 2])).collect()
    }

    fn counters(&self, number: u8) -> Counters {
        let read = || Classifier::open(OWNER).unwrap().observe(INTERFACE).unwrap().unwrap().counters;
        self.hosts[&number].run(read).unwrap()
    }
}

/// `192.0.2.11:80`, `[2001:db8::11]:80`.
fn socket(vip: &str, number: u8, port: u16) -> String {
    SocketAddr::new(address(vip, number).parse().unwrap(), port).to_string()
}

/// `-t 192.0.2.254:80`.
fn of_vip(vip: &str) -> String {
    format!("-t {}", SocketAddr::new(vip.parse().unwrap(), 80))
}

/// `-f 1 -6`.
fn of_mark(vip: &str, mark: u32) -> String {
    if vip == VIP { format!("-f {mark}") } else { format!("-f {mark} -6") }
}

/// A service by mh over these servers, all of which have had the same weight, without some.
fn by_mh(service: &str, vip: &str, servers: &[u8], without: &[u8]) -> String {
    let mut text = format!("-A {service} -s {MH}\n");
    servers.iter().for_each(|server| text += &format!("-a {service} -r {} -g -w 1\n", socket(vip, *server, 80)));
    for server in servers.iter().filter(|server| without.contains(server)) {
        text += &format!("-e {service} -r {} -g -w 0\n", socket(vip, *server, 80));
    }
    text
}

fn table(number: u8, present: &[u8], previous: &[u8]) -> String {
    let mut text = String::new();
    for vip in BOTH {
        text += &by_mh(&of_vip(vip), vip, present, &[]);
        let local = of_mark(vip, LOCAL);
        text += &format!("-A {local} -s rr\n-a {local} -r {} -g -w 1\n", socket(vip, number, 1));
        text += &by_mh(&of_mark(vip, ELSEWHERE), vip, present, &[number]);
        for peer in NODES.iter().filter(|peer| **peer != number) {
            let mark = BEFORE + u32::from(peer - 11);
            text += &by_mh(&of_mark(vip, mark), vip, previous, &[number, *peer]);
        }
    }
    text
}

/// The third server joins.
fn join(nodes: &Nodes) {
    nodes.change(|number, vip| {
        let server = socket(vip, 13, 80);
        let elsewhere = of_mark(vip, ELSEWHERE);
        let mut text = format!("-a {} -r {server} -g -w 1\n-a {elsewhere} -r {server} -g -w 1\n", of_vip(vip));
        if number == 13 {
            text += &format!("-e {elsewhere} -r {server} -g -w 0\n");
        }
        text
    });
}

/// The third server is drained.
fn drain(nodes: &Nodes) {
    nodes.change(|_, vip| {
        let server = socket(vip, 13, 80);
        format!("-e {} -r {server} -g -w 0\n-e {} -r {server} -g -w 0\n", of_vip(vip), of_mark(vip, ELSEWHERE))
    });
}

#[test]
fn sessions_outlive_moves() {
    let nodes = Nodes::new(&NODES, &NODES, true);
    let mut sessions = nodes.sessions(60);
    for number in NODES {
        assert!(sessions.iter().any(|(_, server)| *server == number), "no session on {number}");
    }
    for to in [12, 13, 11, 13] {
        steer(&nodes.client, to);
        assert_eq!(kept(&mut sessions), 60, "behind {to}");
        sessions.iter_mut().for_each(|(session, server)| assert_eq!(session.ask(), Some(*server)));
    }
    let counters = NODES.map(|number| nodes.counters(number));
    println!("{counters:#?}");
    for counted in counters {
        assert!(counted.local > 0 && counted.forwarded > 0, "{counted:?}");
        assert_eq!(counted.strays, 0);
    }
    assert_eq!((counters[0].openings, counters[1].openings), (60, 0));
    let from_peers: u64 = counters.iter().map(|counted| counted.peer_openings).sum();
    assert_eq!(from_peers, sessions.iter().filter(|(_, server)| *server != 11).count() as u64);
}
