//! Marks: rules judged by tc(8) and by packets, and what tc wrote read back.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::num::{NonZeroU16, NonZeroU32};
use std::thread;
use std::time::{Duration, Instant};

use lvs_dr::marks::{
    Change, Event, Mac, Marks, Monitor, Neighbour, NeighbourState, PRIORITY, Packets, Plan, Qdisc, Rule, supported,
};
use lvs_dr::vip::Vips;
use lvs_dr::{Cause, Error, Netns};
use rustix::net::RecvFlags;
use rustix::thread::{CapabilitySet, CapabilitySets, capabilities, set_capabilities};

use crate::lab::{cable, enter_new_netns, ip, load_ipv6, new_netns, run};

const OWNER: u64 = 0x1122_3344_5566_7788;
const PEER: &str = "02:00:00:00:00:02";
const VIPS: [&str; 2] = ["192.0.2.254", "2001:db8::fe"];

fn mark(number: u32) -> NonZeroU32 {
    NonZeroU32::new(number).unwrap()
}

fn peer() -> Packets {
    Packets::From(PEER.parse().unwrap())
}

fn later(port: u16) -> Packets {
    Packets::Later { port: NonZeroU16::new(port) }
}

fn rule(interface: &str, vip: &str, packets: Packets, number: u32) -> Rule {
    Rule { interface: interface.into(), vip: vip.parse().unwrap(), packets, mark: mark(number) }
}

/// Rules of every kind and both families.
fn all_kinds(interface: &str) -> BTreeSet<Rule> {
    let kinds = [(later(0), 3), (later(80), 4), (peer(), 1), (Packets::Opening, 2)];
    VIPS.iter().flat_map(|vip| kinds.map(|(packets, number)| rule(interface, vip, packets, number))).collect()
}

/// Makes the rules of an interface these.
fn put(marks: &mut Marks, interface: &str, wanted: &BTreeSet<Rule>) {
    let seen = marks.observe([interface]).unwrap();
    marks.apply(&Plan::between(&seen, wanted)).unwrap();
    assert_eq!(marks.observe([interface]).unwrap().rules, *wanted);
}

fn tc(arguments: &str) -> String {
    run(&format!("tc {arguments}"))
}

fn shown(interface: &str) -> String {
    tc(&format!("-s filter show dev {interface} ingress"))
}

/// The number of packets that filters of this priority marked.
fn marked(interface: &str, priority: u16) -> u64 {
    let text = tc(&format!("-s filter show dev {interface} ingress pref {priority}"));
    text.lines()
        .filter_map(|line| line.trim().strip_prefix("Sent ")?.split_whitespace().nth(2)?.parse::<u64>().ok())
        .sum()
}

/// A new namespace with eth0, and a peer on the other end of its cable: 192.0.2.1 and .2, 2001:db8::1 and ::2. Both VIPs are on
/// eth0.
fn with_peer() -> (Marks, Netns) {
    load_ipv6();
    enter_new_netns();
    let other = new_netns();
    cable("eth0", "02:00:00:00:00:01", &other, "eth0");
    for address in ["192.0.2.1/24", "192.0.2.254/32", "2001:db8::1/64 nodad", "2001:db8::fe/128 nodad"] {
        ip(&format!("address add {address} dev eth0"));
    }
    let configure = || {
        ip(&format!("link set eth0 address {PEER}"));
        ip("address add 192.0.2.2/24 dev eth0");
        ip("address add 2001:db8::2/64 dev eth0 nodad");
    };
    other.run(configure).unwrap();
    (Marks::open(OWNER).unwrap(), other)
}

fn enter_with(interface: &str) -> Marks {
    load_ipv6();
    enter_new_netns();
    ip(&format!("link add {interface} up type dummy"));
    Marks::open(OWNER).unwrap()
}

fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < Duration::from_secs(8), "waited in vain: {what}");
        thread::sleep(Duration::from_millis(10));
    }
}

fn foreign(result: Result<(), Error>) -> String {
    match result {
        Err(Error::Change { error, .. }) if matches!(*error, Error::Foreign { .. }) => error.to_string(),
        other => panic!("not refused as foreign: {other:?}"),
    }
}

#[test]
fn tc_shows_what_was_added() {
    let mut marks = enter_with("eth0");
    let seen = marks.observe(["eth0", "missing"]).unwrap();
    assert_eq!(seen.qdiscs.into_iter().collect::<Vec<_>>(), [("eth0".to_string(), None)]);
    let wanted = all_kinds("eth0");
    put(&mut marks, "eth0", &wanted);
    assert!(tc("qdisc show dev eth0").contains("qdisc clsact ffff: parent ffff:fff1"));
    let text = shown("eth0");
    for part in [
        "protocol ip pref 300 flower",
        "protocol ipv6 pref 301 flower",
        "protocol ip pref 302 flower",
        "protocol ipv6 pref 305 flower",
        "dst_ip 192.0.2.254",
        "dst_ip 2001:db8::fe",
        "dst_port 80",
        "src_mac 02:00:00:00:00:02",
        "ip_proto tcp",
        "tcp_flags 0x0/2",
        "tcp_flags 0x2/12",
        "skip_hw",
        "skbedit  mark 3 continue",
        "cookie 6c76732d647200001122334455667788",
    ] {
        assert!(text.contains(part), "{part} is missing in {text}");
    }
    let seen = marks.observe(["eth0"]).unwrap();
    assert_eq!(seen.qdiscs["eth0"], Some(Qdisc::Clsact));
    assert!(seen.empty.is_empty() && seen.others.is_empty() && seen.foreign.is_empty() && seen.strangers.is_empty());
    assert!(Plan::between(&seen, &wanted).is_empty());

    // Again, as if it were not there.
    let again = [Change::AddQdisc("eth0".into())].into_iter().chain(wanted.iter().cloned().map(Change::Add));
    marks.apply(&Plan::of(again)).unwrap();
    assert_eq!(marks.observe(["eth0"]).unwrap().rules, wanted);
    assert_eq!(shown("eth0").matches("cookie").count(), 8);

    let removal = Plan::between(&seen, &BTreeSet::new()).and_remove_qdiscs(
        &seen,
        &BTreeSet::new(),
        &BTreeSet::from(["eth0".to_string()]),
    );
    assert_eq!(removal.changes().len(), 9);
    for _ in 0..2 {
        marks.apply(&removal).unwrap();
        assert_eq!(shown("eth0"), "");
        assert!(!tc("qdisc show dev eth0").contains("clsact"));
    }
}

#[test]
fn a_changed_mark_is_replaced() {
    let (mut marks, _other) = with_peer();
    for number in [1, 7, u32::MAX] {
        put(&mut marks, "eth0", &BTreeSet::from([rule("eth0", VIPS[0], peer(), number)]));
        let text = shown("eth0");
        assert_eq!(
            (text.matches("cookie").count(), text.matches(&format!("mark {number} ")).count()),
            (1, 1),
            "{text}"
        );
    }
}

#[test]
fn hundreds_of_rules_at_once() {
    let mut marks = enter_with("eth0");
    let start = Instant::now();
    let wanted: BTreeSet<Rule> = (0..600)
        .map(|n: u16| {
            let [high, low] = n.to_be_bytes();
            rule("eth0", VIPS[usize::from(n % 2)], Packets::From(Mac([2, 0, 0, 0, high, low])), 1)
        })
        .collect();
    put(&mut marks, "eth0", &wanted);
    // Half of them again, and half of them go.
    let half: BTreeSet<Rule> = wanted.iter().take(300).cloned().collect();
    put(&mut marks, "eth0", &half);
    marks.apply(&Plan::of(wanted.iter().cloned().map(Change::Add))).unwrap();
    put(&mut marks, "eth0", &BTreeSet::new());
    println!("600 rules added, removed and added again: {:?}", start.elapsed());
}

/// Lets the namespace accept connections on port 80; the mark of the first packet is the mark of the socket.
fn accept() -> TcpListener {
    std::fs::write("/proc/sys/net/ipv4/tcp_fwmark_accept", "1").unwrap();
    TcpListener::bind("[::]:80").unwrap()
}

/// A connection of the peer to a VIP, one octet each way: the mark of its first packet.
fn connection(listener: &TcpListener, other: &Netns, vip: &str) -> u32 {
    use std::io::{Read, Write};
    let to = SocketAddr::new(vip.parse::<IpAddr>().unwrap(), 80);
    let mut client = other.run(|| TcpStream::connect_timeout(&to, Duration::from_secs(5)).unwrap()).unwrap();
    let (mut server, _) = listener.accept().unwrap();
    client.write_all(&[1]).unwrap();
    server.read_exact(&mut [0]).unwrap();
    nix::sys::socket::getsockopt(&server, nix::sys::socket::sockopt::Mark).unwrap()
}

#[test]
fn packets_are_marked() {
    let (mut marks, other) = with_peer();
    let listener = accept();
    for (at, vip) in (0..).zip(VIPS) {
        let connect = || connection(&listener, &other, vip);
        assert_eq!(connect(), 0);
        let mut wanted = BTreeSet::from([rule("eth0", vip, later(0), 3)]);
        put(&mut marks, "eth0", &wanted);
        assert_eq!(connect(), 0);
        // ACK and data, at least.
        assert!(marked("eth0", PRIORITY + at) >= 2);

        wanted.insert(rule("eth0", vip, peer(), 1));
        put(&mut marks, "eth0", &wanted);
        assert_eq!(connect(), 1);
        let before = marked("eth0", PRIORITY + 2 + at);
        // In three fragments, of which the first alone has ports.
        let to = SocketAddr::new(vip.parse().unwrap(), 9);
        let datagram = || UdpSocket::bind("[::]:0").unwrap().send_to(&[0; 4000], to).unwrap();
        other.run(datagram).unwrap();
        until("all fragments are marked", || marked("eth0", PRIORITY + 2 + at) >= before + 3);

        // A later kind overrides an earlier one.
        wanted.insert(rule("eth0", vip, Packets::Opening, 2));
        put(&mut marks, "eth0", &wanted);
        assert_eq!(connect(), 2);
        assert_eq!(marked("eth0", PRIORITY + 4 + at), 1);

        // Another host's MAC address, and another destination.
        let unknown = Packets::From("02:00:00:00:00:03".parse().unwrap());
        put(&mut marks, "eth0", &BTreeSet::from([rule("eth0", vip, unknown, 1)]));
        assert_eq!(connect(), 0);
        let elsewhere = if vip == VIPS[0] { "192.0.2.253" } else { "2001:db8::fd" };
        put(&mut marks, "eth0", &BTreeSet::from([rule("eth0", elsewhere, peer(), 1)]));
        assert_eq!(connect(), 0);
    }
}

#[test]
fn a_later_filter_of_another_program_is_still_tried() {
    let (mut marks, other) = with_peer();
    let listener = accept();
    put(&mut marks, "eth0", &all_kinds("eth0"));
    assert_eq!(connection(&listener, &other, VIPS[0]), 2);
    tc("filter add dev eth0 ingress pref 400 protocol ip flower dst_ip 192.0.2.254 action skbedit mark 9");
    assert_eq!(connection(&listener, &other, VIPS[0]), 9);
    let seen = marks.observe(["eth0"]).unwrap();
    assert_eq!((seen.foreign[0].priority, seen.foreign[0].mark), (400, Some(9)));
}

#[test]
fn filters_of_others_are_seen_and_left_alone() {
    let mut marks = enter_with("eth0");
    tc("qdisc add dev eth0 clsact");
    assert!(marks.observe(["eth0"]).unwrap().empty.contains("eth0"));
    for filter in [
        "ingress pref 10 protocol ip flower dst_ip 192.0.2.254 src_mac 02:00:00:00:00:02 action skbedit mark 7",
        "ingress pref 20 protocol all matchall action skbedit mark 0x8/0xff pipe action ok",
        "ingress pref 30 protocol ip u32 match u32 0 0 action skbedit mark 5",
        "ingress pref 40 protocol ip chain 3 flower ip_proto udp action drop",
        "ingress pref 302 protocol ip flower dst_ip 192.0.2.9 action skbedit mark 1 continue",
    ] {
        tc(&format!("filter add dev eth0 {filter}"));
    }
    let before = tc("filter show dev eth0 ingress");
    let seen = marks.observe(["eth0"]).unwrap();
    assert!(seen.rules.is_empty() && seen.empty.is_empty() && seen.others.contains("eth0"));
    let found: BTreeSet<_> = seen.foreign.iter().map(|f| (f.priority, f.kind.as_str(), f.mark)).collect();
    let expected = [
        (10, "flower", Some(7)),
        (20, "matchall", Some(8)),
        (30, "u32", Some(5)),
        (40, "flower", None),
        (302, "flower", Some(1)),
    ];
    for filter in &expected {
        assert!(found.contains(filter), "{filter:?} is missing in {found:?}");
    }
    // Not the hash table of u32.
    assert_eq!(seen.foreign.len(), expected.len(), "{:?}", seen.foreign);
    assert!(
        seen.foreign.iter().any(|f| f.to_string() == "flower filter at priority 40 on eth0 (chain 3; actions: gact)")
    );

    let made = BTreeSet::from(["eth0".to_string()]);
    put(&mut marks, "eth0", &all_kinds("eth0"));
    let seen = marks.observe(["eth0"]).unwrap();
    let plan = Plan::between(&seen, &BTreeSet::new()).and_remove_qdiscs(&seen, &BTreeSet::new(), &made);
    assert!(!plan.changes().iter().any(|change| matches!(change, Change::RemoveQdisc(_))), "{plan}");
    marks.apply(&plan).unwrap();
    assert_eq!(tc("filter show dev eth0 ingress"), before);
    let refused = foreign(marks.apply(&Plan::of([Change::RemoveQdisc("eth0".into())])));
    assert!(refused.contains("the qdisc of eth0"), "{refused}");

    // A filter at egress alone keeps the qdisc, too.
    tc("filter del dev eth0 ingress");
    tc("filter del dev eth0 ingress chain 3");
    assert!(marks.observe(["eth0"]).unwrap().empty.contains("eth0"));
    tc("filter add dev eth0 egress pref 1 protocol all matchall action ok");
    let seen = marks.observe(["eth0"]).unwrap();
    assert!(seen.empty.is_empty() && seen.others.contains("eth0") && seen.foreign.is_empty());
    foreign(marks.apply(&Plan::of([Change::RemoveQdisc("eth0".into())])));
    tc("filter del dev eth0 egress");
    marks.apply(&Plan::of([Change::RemoveQdisc("eth0".into())])).unwrap();
    assert!(!tc("qdisc show dev eth0").contains("clsact"));
}

#[test]
fn an_ingress_qdisc_takes_the_rules() {
    let (mut marks, other) = with_peer();
    let listener = accept();
    tc("qdisc add dev eth0 ingress");
    let seen = marks.observe(["eth0"]).unwrap();
    assert_eq!(seen.qdiscs["eth0"], Some(Qdisc::Ingress));
    let wanted = BTreeSet::from([rule("eth0", VIPS[0], peer(), 1)]);
    // Harmless although the kernel refuses a second one.
    marks.apply(&Plan::of([Change::AddQdisc("eth0".into())])).unwrap();
    assert_eq!(Plan::between(&seen, &wanted).changes().len(), 1);
    put(&mut marks, "eth0", &wanted);
    assert_eq!(connection(&listener, &other, VIPS[0]), 1);
    put(&mut marks, "eth0", &BTreeSet::new());
    let seen = marks.observe(["eth0"]).unwrap();
    assert!(seen.others.is_empty() && seen.empty.is_empty());
    foreign(marks.apply(&Plan::of([Change::RemoveQdisc("eth0".into())])));
    assert!(tc("qdisc show dev eth0").contains("ingress"));
}

#[test]
fn what_is_in_the_way_is_named() {
    let mut marks = enter_with("eth0");
    tc("qdisc add dev eth0 clsact");
    let add = |packets| {
        Plan::of([Change::Add(rule("eth0", VIPS[0], packets, 1)), Change::Add(rule("eth0", VIPS[1], packets, 1))])
    };
    // The same match at the same priority; another kind; another protocol.
    tc(
        "filter add dev eth0 ingress pref 302 protocol ip flower dst_ip 192.0.2.254 src_mac 02:00:00:00:00:02 action ok",
    );
    let text = foreign(marks.apply(&add(peer())));
    assert!(text.contains("flower filter at priority 302 on eth0") && text.contains("move it"), "{text}");
    tc("filter add dev eth0 ingress pref 304 protocol ip matchall action ok");
    let text = foreign(marks.apply(&add(Packets::Opening)));
    assert!(text.contains("matchall filter at priority 304 on eth0") && text.contains("300 to 305"), "{text}");
    tc("filter add dev eth0 ingress pref 300 protocol ipv6 flower dst_ip 2001:db8::7 action ok");
    let text = foreign(marks.apply(&add(later(0))));
    assert!(text.contains("flower filter at priority 300 on eth0"), "{text}");
    // What was not in the way was added all the same.
    assert_eq!(marks.observe(["eth0"]).unwrap().rules.len(), 3);

    // Another owner.
    let mut stranger = Marks::open(2).unwrap();
    let theirs = rule("eth0", VIPS[1], peer(), 5);
    let text = foreign(stranger.apply(&Plan::of([Change::Add(theirs.clone())])));
    assert!(text.contains("owner 1122334455667788"), "{text}");
    put(&mut stranger, "eth0", &BTreeSet::from([rule("eth0", "192.0.2.77", peer(), 5)]));
    let seen = marks.observe(["eth0"]).unwrap();
    assert_eq!((seen.strangers.len(), seen.strangers[0].owner), (1, 2));
    assert_eq!(seen.strangers[0].rule, rule("eth0", "192.0.2.77", peer(), 5));
    put(&mut marks, "eth0", &BTreeSet::new());
    assert_eq!(stranger.observe(["eth0"]).unwrap().rules.len(), 1);
    // Removing another's rule does nothing.
    marks.apply(&Plan::of([Change::Remove(rule("eth0", "192.0.2.77", peer(), 5))])).unwrap();
    assert_eq!(stranger.observe(["eth0"]).unwrap().rules.len(), 1);
}

#[test]
fn refusals_carry_errno_and_the_kernels_words() {
    let mut marks = enter_with("eth0");
    let added = |interface: &str| Plan::of([Change::Add(rule(interface, VIPS[0], peer(), 1))]);
    let error = marks.apply(&added("missing")).unwrap_err();
    assert_eq!((error.cause(), error.errno()), (Some(Cause::NoInterface), Some(libc::ENODEV)), "{error}");
    let error = marks.apply(&Plan::of([Change::AddQdisc("missing".into())])).unwrap_err();
    assert_eq!(error.cause(), Some(Cause::NoInterface), "{error}");
    let removals = ["missing", "eth0"].map(|interface| Change::Remove(rule(interface, VIPS[0], peer(), 1)));
    marks.apply(&Plan::of(removals)).unwrap();
    marks.apply(&Plan::of(["missing", "eth0"].map(|name| Change::RemoveQdisc(name.into())))).unwrap();

    // No qdisc.
    let error = marks.apply(&added("eth0")).unwrap_err();
    println!("{error}");
    assert_eq!(error.errno(), Some(libc::EINVAL), "{error}");
    // A shared block.
    ip("link add eth1 up type dummy");
    tc("qdisc add dev eth1 ingress_block 7 clsact");
    let error = marks.apply(&added("eth1")).unwrap_err();
    println!("{error}");
    assert_eq!(error.errno(), Some(libc::EOPNOTSUPP), "{error}");
    assert!(error.to_string().contains("filter block is shared"), "{error}");
    marks.observe(["eth1"]).unwrap();

    let wrong = [rule("a/b", VIPS[0], peer(), 1), rule("eth0", "224.0.0.1", peer(), 1)];
    for rule in wrong {
        let error = marks.apply(&Plan::of([Change::Add(rule)])).unwrap_err();
        assert!(matches!(&error, Error::Change { error, .. } if matches!(**error, Error::Invalid { .. })), "{error}");
    }
    assert!(matches!(marks.observe(["a/b"]), Err(Error::Invalid { .. })));

    // One that fails does not keep the others from being made.
    let mixed = [
        Change::AddQdisc("missing".into()),
        Change::AddQdisc("eth0".into()),
        Change::Add(rule("missing", VIPS[0], peer(), 1)),
        Change::Add(rule("eth0", VIPS[0], peer(), 1)),
    ];
    let error = marks.apply(&Plan::of(mixed)).unwrap_err();
    assert!(error.to_string().starts_with("change 1 of 4 failed (add qdisc clsact to missing)"), "{error}");
    assert_eq!(marks.observe(["eth0"]).unwrap().rules.len(), 1);
}

#[test]
fn reading_takes_no_privileges() {
    let mut marks = enter_with("eth0");
    put(&mut marks, "eth0", &all_kinds("eth0"));
    thread::scope(|scope| {
        scope.spawn(|| {
            let effective = capabilities(None).unwrap().effective - CapabilitySet::NET_ADMIN;
            let inheritable = CapabilitySet::empty();
            set_capabilities(None, CapabilitySets { effective, permitted: effective, inheritable }).unwrap();
            let mut marks = Marks::open(OWNER).unwrap();
            let seen = marks.observe(["eth0"]).unwrap();
            assert_eq!(seen.rules, all_kinds("eth0"));
            marks.neighbours().unwrap();
            marks.gateways().unwrap();
            marks.uses(&[mark(1)]).unwrap();
            marks.macs("eth0").unwrap();
            Monitor::open().unwrap().next().unwrap();
            let error = marks.apply(&Plan::between(&seen, &BTreeSet::new())).unwrap_err();
            assert_eq!((error.cause(), error.errno()), (Some(Cause::Permission), Some(libc::EPERM)), "{error}");
            let error = marks.resolve("192.0.2.2".parse().unwrap(), "eth0").unwrap_err();
            assert_eq!(error.cause(), Some(Cause::Permission), "{error}");
        });
    });
}

/// The peer's packets to the VIP are marked on this interface.
fn assert_marked_on(marks: &mut Marks, interface: &str, other: &Netns, vip: &str) {
    put(marks, interface, &BTreeSet::from([rule(interface, vip, peer(), 1)]));
    let at = if vip.contains(':') { 3 } else { 2 };
    let send = || {
        let socket = UdpSocket::bind("[::]:0").unwrap();
        let _ = socket.send_to(&[0], (vip.parse::<IpAddr>().unwrap(), 9));
    };
    until(&format!("a packet for {vip} is marked on {interface}"), || {
        other.run(send).unwrap();
        marked(interface, PRIORITY + at) > 0
    });
}

#[test]
fn vlan_with_a_dotted_name() {
    let (mut marks, other) = with_peer();
    ip("link add link eth0 name eth0.100 up type vlan id 100");
    ip("address add 198.51.100.254/24 dev eth0.100");
    ip("address add 2001:db8:1::fe/64 dev eth0.100 nodad");
    let configure = || {
        ip("link add link eth0 name eth0.100 up type vlan id 100");
        ip("address add 198.51.100.2/24 dev eth0.100");
        ip("address add 2001:db8:1::2/64 dev eth0.100 nodad");
    };
    other.run(configure).unwrap();
    for vip in ["198.51.100.254", "2001:db8:1::fe"] {
        assert_marked_on(&mut marks, "eth0.100", &other, vip);
    }
    assert_eq!(marks.macs("eth0.100").unwrap(), BTreeSet::from(["02:00:00:00:00:01".parse().unwrap()]));
    assert!(marks.observe(["eth0"]).unwrap().rules.is_empty());
}

#[test]
fn bond() {
    load_ipv6();
    enter_new_netns();
    let other = new_netns();
    cable("slave0", "02:00:00:00:00:01", &other, "eth0");
    ip("link set slave0 down");
    ip("link add bond0 address 02:00:00:00:00:b0 type bond mode active-backup");
    ip("link set slave0 master bond0");
    ip("link set bond0 up");
    ip("address add 192.0.2.254/24 dev bond0");
    let configure = || {
        ip(&format!("link set eth0 address {PEER}"));
        ip("address add 192.0.2.2/24 dev eth0");
    };
    other.run(configure).unwrap();
    let mut marks = Marks::open(OWNER).unwrap();
    assert_marked_on(&mut marks, "bond0", &other, VIPS[0]);
    let macs = ["02:00:00:00:00:01", "02:00:00:00:00:b0"].map(|mac| mac.parse().unwrap());
    assert_eq!(marks.macs("bond0").unwrap(), macs.into());
    ip("link add link bond0 name bond0.7 type vlan id 7");
    assert_eq!(marks.macs("bond0.7").unwrap(), macs.into());
}

#[test]
fn bridge() {
    let (mut marks, other) = with_peer();
    ip("link add br0 up type bridge forward_delay 0");
    ip("address flush dev eth0");
    ip("link set eth0 master br0");
    ip("address add 192.0.2.254/24 dev br0");
    assert_marked_on(&mut marks, "br0", &other, VIPS[0]);
}

#[test]
fn macvlan() {
    let (mut marks, other) = with_peer();
    ip("address flush dev eth0");
    ip("link add link eth0 name vrrp.51 address 00:00:5e:00:01:33 up type macvlan mode private");
    ip("address add 192.0.2.254/24 dev vrrp.51");
    // The mark that a packet gets on the lower interface stays with it.
    let listener = accept();
    put(&mut marks, "eth0", &BTreeSet::from([rule("eth0", VIPS[0], peer(), 1)]));
    assert_eq!(connection(&listener, &other, VIPS[0]), 1);
    let macs = ["00:00:5e:00:01:33", "02:00:00:00:00:01"].map(|mac| mac.parse().unwrap());
    assert_eq!(marks.macs("vrrp.51").unwrap(), macs.into());
    assert_eq!(marks.macs("eth0").unwrap(), BTreeSet::from([macs[1]]));
    assert_eq!(marks.macs("missing").unwrap_err().cause(), Some(Cause::NoInterface));
}

fn neighbour(marks: &mut Marks, address: &str) -> Option<Neighbour> {
    let address: IpAddr = address.parse().unwrap();
    marks.neighbours().unwrap().into_iter().find(|neighbour| neighbour.address == address)
}

#[test]
fn neighbours_are_resolved_and_changes_seen() {
    let (mut marks, other) = with_peer();
    let mut monitor = Monitor::open().unwrap();
    let mac: Mac = PEER.parse().unwrap();
    for address in ["192.0.2.2", "2001:db8::2"] {
        let target: IpAddr = address.parse().unwrap();
        assert_eq!(neighbour(&mut marks, address), None);
        marks.resolve(target, "eth0").unwrap();
        until("the neighbour is found", || neighbour(&mut marks, address).is_some_and(|n| n.mac == Some(mac)));
        let found = neighbour(&mut marks, address).unwrap();
        assert_eq!((found.interface.as_str(), found.state.is_valid(), found.router), ("eth0", true, false), "{found}");
        marks.resolve(target, "eth0").unwrap();
        let mut events = Vec::new();
        until("the monitor reports it", || {
            events.extend(std::iter::from_fn(|| monitor.next().unwrap()));
            events.iter().any(|event| {
                matches!(event, Event::Neighbour(n) if n.address == target && n.mac == Some(mac) && n.interface == "eth0")
            })
        });
    }
    // Nobody has this address.
    marks.resolve("192.0.2.66".parse().unwrap(), "eth0").unwrap();
    let found = neighbour(&mut marks, "192.0.2.66").unwrap();
    assert_eq!((found.state, found.mac), (NeighbourState::Incomplete, None));
    until("it failed", || neighbour(&mut marks, "192.0.2.66").unwrap().state == NeighbourState::Failed);
    // Such a failure does not keep from asking again.
    marks.resolve("192.0.2.66".parse().unwrap(), "eth0").unwrap();
    assert_eq!(neighbour(&mut marks, "192.0.2.66").unwrap().state, NeighbourState::Incomplete);

    ip("neigh add 192.0.2.99 lladdr 02:00:00:00:00:99 dev eth0 nud permanent");
    ip("neigh add 2001:db8::99 lladdr 02:00:00:00:00:99 dev eth0 nud stale router");
    let found = neighbour(&mut marks, "192.0.2.99").unwrap();
    assert_eq!((found.state, found.mac), (NeighbourState::Permanent, "02:00:00:00:00:99".parse().ok()));
    let found = neighbour(&mut marks, "2001:db8::99").unwrap();
    assert_eq!((found.state, found.router), (NeighbourState::Stale, true));
    assert_eq!(found.to_string(), "2001:db8::99 on eth0: 02:00:00:00:00:99 (stale, router)");

    // The peer gets another MAC address and says so.
    while monitor.next().unwrap().is_some() {}
    let moved: Mac = "02:00:00:00:00:22".parse().unwrap();
    other.run(|| ip(&format!("link set eth0 address {moved}"))).unwrap();
    let mut announcer = Vips::open_in(other.clone()).unwrap();
    for address in ["192.0.2.2", "2001:db8::2"] {
        let target: IpAddr = address.parse().unwrap();
        assert!(announcer.announce(target, "eth0", 1).unwrap());
        until("the new MAC address is reported", || {
            std::iter::from_fn(|| monitor.next().unwrap())
                .any(|event| matches!(event, Event::Neighbour(n) if n.address == target && n.mac == Some(moved)))
        });
        assert_eq!(neighbour(&mut marks, address).unwrap().mac, Some(moved));
    }
    ip("neigh replace 192.0.2.99 lladdr 02:00:00:00:00:98 dev eth0 nud permanent");
    ip("neigh del 192.0.2.99 dev eth0");
    let mut events = Vec::new();
    let target: IpAddr = "192.0.2.99".parse().unwrap();
    until("the end of a neighbour is reported", || {
        events.extend(std::iter::from_fn(|| monitor.next().unwrap()));
        events.iter().any(|event| matches!(event, Event::NeighbourGone(n) if n.address == target))
    });
    assert!(events.iter().any(|event| {
        matches!(event, Event::Neighbour(n) if n.address == target && n.mac == "02:00:00:00:00:98".parse().ok())
    }));

    let error = marks.resolve("192.0.2.2".parse().unwrap(), "missing").unwrap_err();
    assert_eq!(error.cause(), Some(Cause::NoInterface));
    assert!(matches!(marks.resolve("224.0.0.1".parse().unwrap(), "eth0"), Err(Error::Invalid { .. })));
}

#[test]
fn interfaces_are_monitored_and_lost_events_reported() {
    let _marks = enter_with("eth0");
    let mut monitor = Monitor::open().unwrap();
    assert_eq!(monitor.next().unwrap(), None);
    ip("link add a.b type dummy");
    ip("link set a.b name c.d");
    ip("link del c.d");
    // Its descriptor is readable.
    rustix::net::recv(&monitor, &mut [0; 4][..], RecvFlags::PEEK).unwrap();
    let events: Vec<Event> = std::iter::from_fn(|| monitor.next().unwrap()).collect();
    assert!(events.iter().any(|event| matches!(event, Event::Interface { name, .. } if name == "a.b")));
    assert!(events.iter().any(|event| matches!(event, Event::Interface { name, .. } if name == "c.d")));
    assert!(matches!(events.last(), Some(Event::InterfaceGone { name, .. }) if name == "c.d"), "{events:?}");

    // A port that leaves a bridge is still there.
    ip("link add br0 type bridge");
    ip("link set eth0 master br0");
    ip("link set eth0 nomaster");
    let events: Vec<Event> = std::iter::from_fn(|| monitor.next().unwrap()).collect();
    assert!(events.iter().any(|event| matches!(event, Event::Interface { name, .. } if name == "eth0")));
    assert!(!events.iter().any(|event| matches!(event, Event::InterfaceGone { .. })), "{events:?}");

    // Many more than the buffer holds.
    let mut lines = String::new();
    for n in 0..4000 {
        lines.push_str(&format!(
            "neigh replace 10.0.{}.{} lladdr 02:00:00:00:00:01 dev eth0 nud permanent\n",
            n / 250,
            n % 250
        ));
    }
    let path = std::env::temp_dir().join("lvs-dr-neighbours");
    std::fs::write(&path, lines).unwrap();
    ip(&format!("-batch {}", path.display()));
    let events: Vec<Event> = std::iter::from_fn(|| monitor.next().unwrap()).collect();
    println!("{} events of 4000", events.len());
    assert!(events.contains(&Event::Missed));
    assert_eq!(monitor.next().unwrap(), None);
}

#[test]
fn routes_and_gateways() {
    let (mut marks, _other) = with_peer();
    assert_eq!(marks.gateways().unwrap(), [] as [IpAddr; 0]);
    assert_eq!(marks.route_to("203.0.113.9".parse().unwrap()).unwrap(), None);
    let gateways: [IpAddr; 2] = ["192.0.2.2".parse().unwrap(), "2001:db8::2".parse().unwrap()];
    ip("route add default via 192.0.2.2");
    ip("-6 route add default via 2001:db8::2");
    // 2001:db8::1 is this node's own.
    ip("address del 2001:db8::1/64 dev eth0");
    ip("address add 2001:db8:0:1::1/64 dev eth0 nodad");
    ip("-6 route replace default via fe80::2 dev eth0");
    assert_eq!(marks.gateways().unwrap(), [gateways[0], "fe80::2".parse().unwrap()]);
    let way = |marks: &mut Marks, to: &str| marks.route_to(to.parse().unwrap()).unwrap().unwrap();
    assert_eq!(way(&mut marks, "203.0.113.9"), ("eth0".into(), Some(gateways[0])));
    assert_eq!(way(&mut marks, "192.0.2.77"), ("eth0".into(), None));
    assert_eq!(way(&mut marks, VIPS[0]), ("lo".into(), None));
    assert_eq!(way(&mut marks, "2001:db8:9::1"), ("eth0".into(), "fe80::2".parse().ok()));
    // All of them where there are several, and an IPv6 one for IPv4.
    ip("route replace default nexthop via 192.0.2.2 dev eth0 nexthop via 192.0.2.3 dev eth0");
    ip("-6 route append default via fe80::3 dev eth0");
    let expected: Vec<IpAddr> =
        ["192.0.2.2", "192.0.2.3", "fe80::2", "fe80::3"].iter().map(|text| text.parse().unwrap()).collect();
    let found = marks.gateways().unwrap();
    println!("{found:?}");
    assert_eq!(found, expected);
    ip("route replace default via inet6 fe80::9 dev eth0");
    assert!(marks.gateways().unwrap().contains(&"fe80::9".parse().unwrap()));
    ip("route replace unreachable default");
    assert_eq!(marks.route_to("203.0.113.9".parse().unwrap()).unwrap(), None);
}

#[test]
fn rules_of_the_routing_policy_that_use_our_marks() {
    let mut marks = enter_with("eth0");
    assert_eq!(marks.uses(&[mark(1), mark(3)]).unwrap(), []);
    for rule in [
        "rule add pref 100 fwmark 1 table 7",
        "rule add pref 101 fwmark 0x2/0x2 table 1000",
        "-6 rule add pref 102 not fwmark 3 table 9",
        "rule add pref 103 fwmark 0x10/0xf0 table 7",
        "rule add pref 104 from 192.0.2.0/24 table 7",
        "rule add pref 105 fwmark 0/0x1 table 7",
    ] {
        ip(rule);
    }
    let found: Vec<_> = marks
        .uses(&[mark(1), mark(3)])
        .unwrap()
        .into_iter()
        .map(|found| (found.priority, found.ipv6, found.mark.get(), found.matches))
        .collect();
    let expected: BTreeSet<_> = [
        (100, false, 1, true),
        (101, false, 3, true),
        (102, true, 3, false),
        (105, false, 1, false),
        (105, false, 3, false),
    ]
    .into();
    assert_eq!(found.iter().copied().collect::<BTreeSet<_>>(), expected, "{found:?}");
    let text: Vec<String> = marks.uses(&[mark(3)]).unwrap().iter().map(ToString::to_string).collect();
    assert!(text.contains(&"ip rule 101 (fwmark 0x2/0x2, table 1000) matches mark 3".to_string()), "{text:?}");
}

#[test]
fn this_kernel_is_supported() {
    enter_new_netns();
    supported().unwrap();
    // Nothing of it is left here.
    assert!(!tc("qdisc show dev lo").contains("clsact"));
}

#[test]
fn another_namespace() {
    let (_, other) = with_peer();
    let mut marks = Marks::open_in(other.clone(), OWNER).unwrap();
    let mut monitor = Monitor::open_in(other.clone()).unwrap();
    put(&mut marks, "eth0", &all_kinds("eth0"));
    assert_eq!(shown("eth0"), "");
    assert_eq!(other.run(|| shown("eth0")).unwrap().matches("cookie").count(), 8);
    marks.resolve("192.0.2.1".parse().unwrap(), "eth0").unwrap();
    until("the monitor reports it", || {
        std::iter::from_fn(|| monitor.next().unwrap()).any(|event| {
            matches!(event, Event::Neighbour(n) if n.mac == "02:00:00:00:00:01".parse().ok() && n.interface == "eth0")
        })
    });
}
