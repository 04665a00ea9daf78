//! The classifier: sessions judged by their servers, strays by their frames, and what is attached
//! by tc(8) and by the kernel's list of maps.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::ops::Range;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::thread;

use lvs_dr::Netns;
use lvs_dr::marks::{
    CLASSIFIER_PRIORITY, Classification, Classifier, Counters, Mac, Marks, ServiceMarks, classifier_supported,
};
use lvs_dr::{Cause, Error};
use rustix::thread::{CapabilitySet, CapabilitySets, capabilities, set_capabilities};

use crate::lab::{cable, enter_new_netns, feed, ip, ip_batch, ipvsadm, keep, new_netns, run};
use crate::lan::{
    ACK, BOTH, BY_HAND, Handmade, INTERFACE, MH, NODES, RST, Session, Tap, VIP, VIP6, add_vips, address, enter_switch,
    host, kept, mac, mac_text, serve, session, steer, until,
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

/// A service of which this node is the only server.
fn by_itself(service: &str, vip: &str, number: u8) -> String {
    format!("-A {service} -s rr\n-a {service} -r {} -g -w 1\n", socket(vip, number, 1))
}

/// The services that ask for the server before the last change, one for each peer: without the peer
/// and this node, which is the only server where no other is left. `was`: what they are now.
fn before(number: u8, vip: &str, previous: &[u8], was: Option<&[u8]>) -> String {
    let mut text = String::new();
    for peer in NODES.iter().filter(|peer| **peer != number) {
        let service = of_mark(vip, BEFORE + u32::from(peer - 11));
        if was.is_none() {
            text += &format!("-A {service} -s {MH}\n");
        }
        let alone = |servers: &[u8]| servers.iter().all(|server| [number, *peer].contains(server));
        let all = |servers: &[u8]| -> BTreeSet<u8> {
            servers.iter().copied().chain(alone(servers).then_some(number)).collect()
        };
        let there = was.map(all).unwrap_or_default();
        for server in all(previous).difference(&there) {
            text += &format!("-a {service} -r {} -g -w 1\n", socket(vip, *server, 80));
        }
        for server in all(previous) {
            let counts = if alone(previous) { server == number } else { ![number, *peer].contains(&server) };
            text += &format!("-e {service} -r {} -g -w {}\n", socket(vip, server, 80), u8::from(counts));
        }
    }
    text
}

fn table(number: u8, present: &[u8], previous: &[u8]) -> String {
    let mut text = String::new();
    for vip in BOTH {
        text += &by_mh(&of_vip(vip), vip, present, &[]);
        text += &by_itself(&of_mark(vip, LOCAL), vip, number);
        text += &by_mh(&of_mark(vip, ELSEWHERE), vip, present, &[number]);
        text += &before(number, vip, previous, None);
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

fn drain(nodes: &Nodes) {
    drain_server(nodes, 13);
}

fn drain_server(nodes: &Nodes, server: u8) {
    nodes.change(|_, vip| {
        let server = socket(vip, server, 80);
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

#[test]
fn sessions_outlive_changes_of_the_servers_and_moves() {
    for (what, servers, change) in
        [("a server joins", &NODES[..2], join as fn(&Nodes)), ("one is drained", &NODES, drain)]
    {
        for classified in [true, false] {
            let nodes = Nodes::new(servers, servers, classified);
            let mut sessions = nodes.sessions(60);
            change(&nodes);
            let mut least = 60;
            for to in [13, 12, 11] {
                steer(&nodes.client, to);
                least = least.min(kept(&mut sessions));
            }
            println!("{what}, classified {classified}: {least} of 60");
            // Without it the servers that the hash has changed for answer with a reset.
            assert!(if classified { least == 60 } else { least < 60 }, "{what}, classified {classified}: {least}");
            if classified {
                let hops: u64 = NODES.iter().map(|number| nodes.counters(*number).second_hops).sum();
                assert!(hops > 0, "{what}");
            }
            // New sessions go to the present servers.
            let joined = nodes.sessions(40).iter().any(|(_, server)| *server == 13);
            assert_eq!(joined, what == "a server joins");
        }
    }
}

/// Lets IPVS forget connections after a second without packets.
fn forget_soon(nodes: &Nodes) {
    for host in nodes.hosts.values() {
        host.run(|| ipvsadm("--set 1 1 1")).unwrap();
    }
}

fn forgotten(nodes: &Nodes) {
    let is_empty = || ipvsadm("-Lnc").lines().count() <= 2;
    until("IPVS forgets", || nodes.hosts.values().all(|host| host.run(is_empty).unwrap()));
}

#[test]
fn sessions_outlive_the_timeout_of_ipvs() {
    let nodes = Nodes::new(&NODES, &NODES, true);
    forget_soon(&nodes);
    let mut sessions = nodes.sessions(60);
    for to in [11, 12, 13] {
        forgotten(&nodes);
        steer(&nodes.client, to);
        assert_eq!(kept(&mut sessions), 60, "behind {to}");
    }
    drain(&nodes);
    for to in [13, 12] {
        forgotten(&nodes);
        steer(&nodes.client, to);
        assert_eq!(kept(&mut sessions), 60, "drained, behind {to}");
    }
}

#[test]
fn idle_sessions_outlive_two_changes() {
    let nodes = Nodes::new(&NODES[..2], &NODES[..2], true);
    forget_soon(&nodes);
    let mut sessions = nodes.sessions(60);
    join(&nodes);
    nodes.change(|number, vip| before(number, vip, &NODES, Some(&NODES[..2])));
    drain_server(&nodes, 12);
    for to in [13, 12, 11] {
        forgotten(&nodes);
        steer(&nodes.client, to);
        assert_eq!(kept(&mut sessions), 60, "behind {to}");
    }
}

/// With SYN cookies a server has no socket before the handshake ends.
#[test]
fn handshakes_outlive_a_change_and_a_move() {
    let nodes = Nodes::new(&NODES[..2], &NODES[..2], true);
    for host in nodes.hosts.values() {
        host.run(|| fs::write("/proc/sys/net/ipv4/tcp_syncookies", "2").unwrap()).unwrap();
    }
    let begin = |number: u16| {
        let mut client = Handmade::new(&nodes.client, BOTH[usize::from(number % 2)], 25000 + number);
        let server = client.begin(11);
        (client, server)
    };
    let mut begun: Vec<(Handmade, u8)> = (0..30).map(begin).collect();
    join(&nodes);
    for (client, server) in &mut begun {
        let answer = client.ask(13).expect("an answer");
        assert_eq!((answer.server, answer.flags & RST, answer.payload.as_slice()), (*server, 0, &[*server][..]));
    }
}

/// How many frames pass the switch for each of the strays that are sent to this node, and how many
/// of them are answered with a reset.
pub fn strays(client: &Netns, to: u8, ports: Range<u16>) -> (BTreeMap<[u8; 2], usize>, usize) {
    let tap = Tap::open();
    let mut resets = 0;
    for port in ports {
        let mut stray = Handmade::new(client, BOTH[usize::from(port % 2)], port);
        stray.send(to, ACK, &[0]);
        resets += usize::from(stray.answer().is_some_and(|answer| answer.flags & RST != 0));
    }
    let mut frames = BTreeMap::new();
    for packet in tap.packets() {
        *frames.entry([packet.content[0], packet.content[1]]).or_default() += 1;
    }
    (frames, resets)
}

#[test]
fn strays_end() {
    let nodes = Nodes::new(&NODES, &NODES[..2], true);
    for (to, ports) in NODES.into_iter().zip([20000..20040, 21000..21040, 22000..22040]) {
        let (frames, resets) = strays(&nodes.client, to, ports);
        let most = frames.values().max().copied();
        println!("to {to}: {resets} resets, {} frames, at most {most:?}", frames.values().sum::<usize>());
        assert_eq!((frames.len(), resets), (40, 40));
        assert!(most.is_some_and(|most| most <= 3), "{frames:?}");
    }
    let counters = NODES.map(|number| nodes.counters(number));
    println!("{counters:?}");
    assert!(counters.iter().map(|counted| counted.strays).sum::<u64>() > 0, "{counters:?}");

    // Nodes that do not know each other pass them on until the TTL ends.
    for host in nodes.hosts.values() {
        let forget = || {
            let mut classifier = Classifier::open(OWNER).unwrap();
            let classification = Classification { peers: BTreeMap::new(), ..classification(11) };
            classifier.apply(INTERFACE, &classification).unwrap();
        };
        host.run(forget).unwrap();
    }
    let (frames, _) = strays(&nodes.client, 11, 23000..23010);
    assert!(frames.len() == 10 && frames.values().all(|count| *count <= 6), "{frames:?}");
}

#[test]
fn fragments_reach_their_server() {
    let nodes = Nodes::new(&NODES, &NODES, true);
    for port in 30000..30012 {
        let mut client = Handmade::new(&nodes.client, VIP, port);
        let server = client.begin(11);
        client.send(11, ACK, &[]);
        for to in NODES {
            client.send_fragmented(to, ACK, &[0; 64]);
            let answered = loop {
                let answer = client.answer().expect("an answer");
                if answer.flags & RST != 0 || !answer.payload.is_empty() {
                    break answer;
                }
            };
            assert_eq!((answered.server, answered.flags & RST), (server, 0), "by {to}");
        }
    }
}

/// The numbers of all maps of the kernel.
fn maps() -> Vec<u32> {
    const NEXT_MAP: i32 = 12;
    let mut ids = Vec::new();
    loop {
        let mut attributes = [0_u32; 4];
        attributes[0] = ids.last().copied().unwrap_or_default();
        // SAFETY: the kernel reads and writes as much as the length says.
        let found =
            unsafe { libc::syscall(libc::SYS_bpf, NEXT_MAP, attributes.as_mut_ptr(), size_of_val(&attributes)) };
        if found != 0 {
            return ids;
        }
        ids.push(attributes[1]);
    }
}

fn filters() -> String {
    tc(&format!("filter show dev {INTERFACE} ingress"))
}

fn enter_with_interface() {
    enter_new_netns();
    ip(&format!("link add {INTERFACE} up type dummy"));
}

#[test]
fn what_is_attached_is_found_again_and_removed() {
    enter_with_interface();
    let before = maps();
    let new = || -> Vec<u32> { maps().into_iter().filter(|id| !before.contains(id)).collect() };
    let open = || Classifier::open(OWNER).unwrap();
    assert_eq!(open().observe(INTERFACE).unwrap(), None);
    assert_eq!(open().observe("missing").unwrap(), None);
    open().remove(INTERFACE).unwrap();
    open().remove("missing").unwrap();
    open().apply(INTERFACE, &classification(11)).unwrap();
    let shown = filters();
    println!("{shown}");
    for part in [&format!("protocol all pref {CLASSIFIER_PRIORITY} bpf"), "lvs-dr 1122334455667788 ", "direct-action"] {
        assert!(shown.contains(part), "{part:?} is missing in {shown}");
    }
    let first = new();
    assert_eq!(first.len(), 3);

    // Another client, as after a restart: other entries, the same program and maps.
    let other = Classification {
        services: [("192.0.2.253:443".parse().unwrap(), *classification(11).services.values().next().unwrap())].into(),
        peers: (0..500_u16).map(|n| (Mac([2, 0, 0, 1, n.to_be_bytes()[0], n.to_be_bytes()[1]]), n as u8)).collect(),
    };
    for wanted in [classification(11), other, Classification::default(), classification(12)] {
        open().apply(INTERFACE, &wanted).unwrap();
        let seen = open().observe(INTERFACE).unwrap().unwrap();
        assert_eq!((seen.classification, seen.is_current), (wanted, true));
    }
    assert_eq!((filters(), new()), (shown.clone(), first));

    // It is no other program's filter, and not another owner's.
    let seen = Marks::open(OWNER).unwrap().observe([INTERFACE]).unwrap();
    assert!(seen.foreign.is_empty() && seen.rules.is_empty() && seen.others.is_empty(), "{seen:?}");
    assert_eq!(seen.classifiers, [INTERFACE.to_owned()].into());
    assert!(Marks::open(7).unwrap().observe([INTERFACE]).unwrap().others.contains(INTERFACE));
    let mut stranger = Classifier::open(7).unwrap();
    assert_eq!(stranger.observe(INTERFACE).unwrap(), None);
    stranger.remove(INTERFACE).unwrap();
    assert_eq!(filters(), shown);
    stranger.apply(INTERFACE, &classification(13)).unwrap();
    assert_eq!(filters().matches("direct-action").count(), 2);
    stranger.remove(INTERFACE).unwrap();
    assert_eq!(open().observe(INTERFACE).unwrap().unwrap().classification, classification(12));

    open().remove(INTERFACE).unwrap();
    assert_eq!(filters(), "");
    until("the maps go", || new().is_empty());
    assert!(Marks::open(OWNER).unwrap().observe([INTERFACE]).unwrap().empty.contains(INTERFACE));
}

#[test]
fn what_is_in_the_way_is_named() {
    enter_with_interface();
    let mut classifier = Classifier::open(OWNER).unwrap();
    let error = classifier.apply("missing", &classification(11)).unwrap_err();
    assert_eq!(error.cause(), Some(Cause::NoInterface), "{error}");
    // An ingress qdisc takes it, too.
    tc(&format!("qdisc add dev {INTERFACE} ingress"));
    tc(&format!("filter add dev {INTERFACE} ingress protocol ip pref {CLASSIFIER_PRIORITY} flower action pass"));
    let error = classifier.apply(INTERFACE, &classification(11)).unwrap_err();
    assert!(matches!(error, Error::Foreign { .. }), "{error}");
    assert!(error.to_string().contains("flower filter at priority 308 on bond0"), "{error}");
    tc(&format!("filter del dev {INTERFACE} ingress"));
    classifier.apply(INTERFACE, &classification(11)).unwrap();
    assert!(classifier.observe(INTERFACE).unwrap().is_some());
    let wrong = Classification { peers: [(Mac([1; 6]), 0)].into(), ..classification(11) };
    let error = classifier.apply(INTERFACE, &wrong).unwrap_err();
    assert!(matches!(error, Error::Invalid { .. }), "{error}");
}

#[test]
fn later_filters_of_other_programs_are_tried() {
    let nodes = Nodes::new(&NODES, &NODES, true);
    let host = &nodes.hosts[&11];
    host.run(|| tc(&format!("filter add dev {INTERFACE} ingress protocol all pref 400 matchall action continue")))
        .unwrap();
    let mut sessions = nodes.sessions(10);
    assert_eq!(kept(&mut sessions), 10);
    let shown = host.run(|| tc(&format!("-s filter show dev {INTERFACE} ingress pref 400"))).unwrap();
    let passed = shown.split_whitespace().zip(shown.split_whitespace().skip(1)).find(|(_, word)| *word == "pkt");
    let packets: u64 = passed.expect("a number of packets").0.parse().unwrap();
    // Three at least of each session.
    assert!(packets >= 30, "{shown}");
}

#[test]
fn a_kernel_that_does_not_let_it_is_told() {
    enter_with_interface();
    classifier_supported().unwrap();
    Classifier::open(OWNER).unwrap().apply(INTERFACE, &classification(11)).unwrap();
    for lacking in [CapabilitySet::SYS_ADMIN | CapabilitySet::BPF, CapabilitySet::SYS_ADMIN] {
        let attempt = || {
            let effective = capabilities(None).unwrap().effective - lacking;
            let inheritable = CapabilitySet::empty();
            set_capabilities(None, CapabilitySets { effective, permitted: effective, inheritable }).unwrap();
            let mut classifier = Classifier::open(OWNER).unwrap();
            let errors = [
                classifier_supported().unwrap_err(),
                classifier.observe(INTERFACE).unwrap_err(),
                classifier.apply(INTERFACE, &classification(12)).unwrap_err(),
            ];
            for error in errors {
                println!("{error}");
                assert_eq!((error.cause(), error.errno()), (Some(Cause::NoBpf), Some(libc::EPERM)), "{error}");
            }
            // It takes no more than tc rules do.
            if lacking == CapabilitySet::SYS_ADMIN {
                classifier.remove(INTERFACE).unwrap();
            }
        };
        thread::scope(|scope| scope.spawn(attempt).join()).unwrap();
    }
    assert_eq!(filters(), "");
}

/// Lets the router spread the flows for the VIPs over these nodes.
fn spread(router: &Netns, over: &[u8]) {
    let routes = BOTH.map(|vip| {
        let hops: String =
            over.iter().map(|number| format!(" nexthop via {} dev {INTERFACE}", address(vip, *number))).collect();
        format!("route replace {vip}{hops}\n")
    });
    router.run(|| ip_batch(&routes.concat())).unwrap();
}

/// No node has an interface address of a VIP: a router spreads flows by their ports, and each node
/// directs what it gets.
#[test]
fn sessions_outlive_changes_of_the_next_hops() {
    let nodes = Nodes::new(&NODES, &NODES, true);
    let (router, client) = (&nodes.client, new_netns());
    keep(&client);
    let far = || {
        ip("link set lo up");
        ip_batch(
            "link set far0 up\naddress add 198.51.100.2/24 dev far0\naddress add 2001:db8:1::2/64 dev far0 nodad\n\
             route add default via 198.51.100.1\nroute add default via 2001:db8:1::1\n",
        );
    };
    let near = || {
        cable("near0", "02:00:00:00:02:01", &client, "far0");
        ip_batch("address add 198.51.100.1/24 dev near0\naddress add 2001:db8:1::1/64 dev near0 nodad\n");
        for setting in [
            "ipv4/ip_forward",
            "ipv6/conf/all/forwarding",
            "ipv4/fib_multipath_hash_policy",
            "ipv6/fib_multipath_hash_policy",
        ] {
            fs::write(format!("/proc/sys/net/{setting}"), "1").unwrap();
        }
        ip_batch(&format!("neigh del {VIP} dev {INTERFACE}\nneigh del {VIP6} dev {INTERFACE}\n"));
    };
    router.run(near).unwrap();
    client.run(far).unwrap();
    for host in nodes.hosts.values() {
        host.run(|| ip_batch("route add default via 192.0.2.1\nroute add default via 2001:db8::1\n")).unwrap();
    }
    spread(router, &NODES);
    let open =
        |count: usize| -> Vec<(Session, u8)> { (0..count).map(|number| session(&client, BOTH[number % 2])).collect() };
    let mut sessions = open(90);
    let directed = NODES.map(|number| nodes.counters(number).openings);
    println!("directed by {directed:?}");
    assert!(directed.iter().all(|count| *count > 10) && directed.iter().sum::<u64>() == 90, "{directed:?}");

    // A next hop is withdrawn, though its server lives; it comes back; another one, and so on.
    for over in [&[11, 12][..], &NODES, &[13], &[12, 13], &NODES] {
        spread(router, over);
        assert_eq!(kept(&mut sessions), 90, "over {over:?}");
        assert_eq!(kept(&mut open(10)), 10, "over {over:?}");
    }
    // A node dies, and its next hop is withdrawn.
    ip("link set port12 down");
    spread(router, &[11, 13]);
    sessions.retain(|(_, server)| *server != 12);
    let others = sessions.len();
    assert_eq!(kept(&mut sessions), others);
    assert!(others < 90);
}

/// A filter like that of another version: its name says so, and its program does nothing.
fn attach_another_version() {
    // r0 = -1; exit.
    let program: [u64; 2] = [0xffff_ffff_0000_00b7, 0x95];
    // BPF_PROG_LOAD: type, number of instructions, instructions, licence.
    let attributes = [3 | 2 << 32, program.as_ptr() as u64, c"MIT".as_ptr() as u64, 0, 0, 0];
    // SAFETY: the instructions and the licence are where the attributes say; the descriptor is
    // nobody else's.
    let program = unsafe {
        let loaded = libc::syscall(libc::SYS_bpf, 5, attributes.as_ptr(), size_of_val(&attributes));
        assert!(loaded >= 0, "{}", std::io::Error::last_os_error());
        OwnedFd::from_raw_fd(loaded as i32)
    };
    let attribute = |kind: u16, value: &[u8]| -> Vec<u8> {
        let length = 4 + value.len() as u16;
        let mut octets = [&length.to_ne_bytes()[..], &kind.to_ne_bytes(), value].concat();
        octets.resize(octets.len().next_multiple_of(4), 0);
        octets
    };
    let options = [
        attribute(6, &program.as_raw_fd().to_ne_bytes()),
        attribute(7, b"lvs-dr 1122334455667788 00000001\0"),
        attribute(8, &1_u32.to_ne_bytes()),
        attribute(9, &1_u32.to_ne_bytes()),
    ];
    let index = nix::net::if_::if_nametoindex(INTERFACE).unwrap();
    let info = u32::from(CLASSIFIER_PRIORITY) << 16 | u32::from(3_u16.to_be());
    let mut body: Vec<u8> = [0, index, 0, 0xffff_fff2, info].iter().flat_map(|word: &u32| word.to_ne_bytes()).collect();
    body.extend([attribute(1, b"bpf\0"), attribute(2, &options.concat())].concat());
    // RTM_NEWTFILTER; NLM_F_REQUEST, NLM_F_ACK, NLM_F_CREATE.
    let header =
        [&(16 + body.len() as u32).to_ne_bytes()[..], &44_u16.to_ne_bytes(), &0x405_u16.to_ne_bytes(), &[0; 8]];
    let message = [&header.concat()[..], &body].concat();
    // SAFETY: the message and the answer are as long as is said; the descriptor was made here.
    unsafe {
        let socket = OwnedFd::from_raw_fd(libc::socket(libc::AF_NETLINK, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0));
        let sent = libc::send(socket.as_raw_fd(), message.as_ptr().cast(), message.len(), 0);
        assert_eq!(sent, message.len().cast_signed());
        let mut answer = [0_u8; 4096];
        assert!(libc::recv(socket.as_raw_fd(), answer.as_mut_ptr().cast(), answer.len(), 0) >= 20);
        assert_eq!(answer[16..20], [0; 4], "the errno");
    }
}

#[test]
fn the_program_of_another_version_is_replaced() {
    enter_with_interface();
    tc(&format!("qdisc add dev {INTERFACE} clsact"));
    attach_another_version();
    let shown = filters();
    assert!(shown.contains("lvs-dr 1122334455667788 00000001 direct-action"), "{shown}");
    let mut classifier = Classifier::open(OWNER).unwrap();
    let seen = classifier.observe(INTERFACE).unwrap().unwrap();
    assert_eq!((seen.is_current, seen.classification), (false, Classification::default()));
    assert!(Marks::open(OWNER).unwrap().observe([INTERFACE]).unwrap().foreign.is_empty());
    classifier.apply(INTERFACE, &classification(11)).unwrap();
    let seen = classifier.observe(INTERFACE).unwrap().unwrap();
    assert_eq!((seen.is_current, seen.classification), (true, classification(11)));
    // In its place.
    let replaced = filters();
    let handle = |text: &str| text.split_whitespace().skip_while(|word| *word != "handle").nth(1).map(str::to_owned);
    assert_eq!((replaced.matches("direct-action").count(), handle(&replaced)), (1, handle(&shown)), "{replaced}");

    // A second one goes.
    attach_another_version();
    assert_eq!(filters().matches("direct-action").count(), 2);
    classifier.apply(INTERFACE, &classification(12)).unwrap();
    assert_eq!(filters().matches("direct-action").count(), 1);
    assert_eq!(classifier.observe(INTERFACE).unwrap().unwrap().classification, classification(12));

    // Without maps that can be read it goes, too.
    classifier.remove(INTERFACE).unwrap();
    attach_another_version();
    classifier.remove(INTERFACE).unwrap();
    assert_eq!(filters(), "");
}
