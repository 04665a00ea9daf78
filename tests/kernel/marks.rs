//! Marks: rules judged by tc(8) and by packets, and what tc wrote read back.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::num::{NonZeroU16, NonZeroU32};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use lvs_dr::marks::{
    Change, Event, Mac, Marks, Monitor, Neighbour, NeighbourState, PRIORITY, Packets, Plan, Qdisc, Rule, supported,
};
use lvs_dr::vip::Vips;
use lvs_dr::{Cause, Error, Netns};
use rustix::net::RecvFlags;
use rustix::thread::{CapabilitySet, CapabilitySets, capabilities, set_capabilities};

use crate::lab::{cable, enter_new_netns, ip, load_ipv6, new_netns};
use crate::lan::PacketSocket;

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

/// A no-break space stands for a blank in an argument.
fn tc(arguments: &str) -> String {
    let arguments = arguments.split_ascii_whitespace().map(|word| word.replace('\u{a0}', " "));
    let output = Command::new("tc").args(arguments.collect::<Vec<_>>()).output().unwrap();
    assert!(output.status.success(), "tc: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn shown(interface: &str) -> String {
    tc(&format!("-s filter show dev {interface} ingress"))
}

/// How often each filter's action was done: priority, mark, packets. In the order in which the
/// kernel tries the filters.
fn actions(interface: &str) -> Vec<(u16, u32, u64)> {
    let text = shown(interface);
    let (mut found, mut priority, mut number) = (Vec::new(), 0, 0);
    for line in text.lines().map(str::trim) {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words.as_slice() {
            ["filter", "protocol", _, "pref", pref, ..] => priority = pref.parse().unwrap(),
            ["action", "order", _, "skbedit", "mark", mark, ..] => number = mark.parse().unwrap(),
            ["Sent", _, "bytes", packets, "pkt", ..] => found.push((priority, number, packets.parse().unwrap())),
            _ => {}
        }
    }
    found
}

/// The number of packets that got this mark from a rule for the family of this VIP.
fn marked(interface: &str, vip: &str, number: u32) -> u64 {
    let of_vip = |(priority, found, _): &&(u16, u32, u64)| (*priority, *found) == (priority_of(vip), number);
    actions(interface).iter().filter(of_vip).map(|(_, _, packets)| packets).sum()
}

fn priority_of(vip: &str) -> u16 {
    PRIORITY + u16::from(vip.contains(':'))
}

/// A new namespace with eth0, and a peer on the other end of its cable: 192.0.2.1 and .2,
/// 2001:db8::1 and ::2. Both VIPs are on eth0.
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
    // IPv6 asks no neighbour before its link-local address is known to be no duplicate.
    let is_tentative = || !ip("-o -6 address show dev eth0 tentative").is_empty();
    until("addresses that can be used", || !is_tentative() && !other.run(is_tentative).unwrap());
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
        "protocol ip pref 306 bpf",
        "protocol ipv6 pref 307 bpf",
        // 192.0.2.254, and the last octets of the MAC address.
        "3221226238",
        "bytecode",
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

/// Lets the namespace accept connections on port 80; the mark of the first packet is the mark of
/// the socket.
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
    for vip in VIPS {
        let connect = || connection(&listener, &other, vip);
        assert_eq!(connect(), 0);
        let mut wanted = BTreeSet::from([rule("eth0", vip, later(0), 3)]);
        put(&mut marks, "eth0", &wanted);
        assert_eq!(connect(), 0);
        // ACK and data, at least.
        assert!(marked("eth0", vip, 3) >= 2);

        wanted.insert(rule("eth0", vip, peer(), 1));
        put(&mut marks, "eth0", &wanted);
        assert_eq!(connect(), 1);
        let before = marked("eth0", vip, 1);
        // In three fragments, of which the first alone has ports.
        let to = SocketAddr::new(vip.parse().unwrap(), 9);
        let datagram = || UdpSocket::bind("[::]:0").unwrap().send_to(&[0; 4000], to).unwrap();
        other.run(datagram).unwrap();
        until("all fragments are marked", || marked("eth0", vip, 1) >= before + 3);

        // A later kind overrides an earlier one.
        wanted.insert(rule("eth0", vip, Packets::Opening, 2));
        put(&mut marks, "eth0", &wanted);
        assert_eq!(connect(), 2);
        assert_eq!(marked("eth0", vip, 2), 1);

        // Another host's MAC address, and another destination.
        let unknown = Packets::From("02:00:00:00:00:03".parse().unwrap());
        put(&mut marks, "eth0", &BTreeSet::from([rule("eth0", vip, unknown, 1)]));
        assert_eq!(connect(), 0);
        let elsewhere = if vip == VIPS[0] { "192.0.2.253" } else { "2001:db8::fd" };
        put(&mut marks, "eth0", &BTreeSet::from([rule("eth0", elsewhere, peer(), 1)]));
        assert_eq!(connect(), 0);
    }
}

/// A frame to a VIP of [`VIPS`], and its description.
fn frames() -> Vec<(String, Vec<u8>)> {
    let mut frames = Vec::new();
    let mut add = |name: String, source: u8, ether_type: &[u8], packet: Vec<u8>| {
        let head = [&[2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, source][..], ether_type].concat();
        frames.push((format!("{name} from {source}"), [head, packet].concat()));
    };
    let each = [
        (254, 80, "SYN", 2),
        (254, 80, "SYN, ACK", 0x12),
        (254, 80, "ACK", 0x10),
        (254, 81, "ACK", 0x10),
        (253, 80, "ACK", 0x10),
    ];
    for (source, (last, port, name, flags)) in [2, 3].into_iter().flat_map(|source| each.map(|each| (source, each))) {
        let segment = segment(port, flags);
        let name = format!("{last} port {port}, {name}");
        for (kind, options, fragment, protocol) in [
            ("plain", 0, [0x40, 0], 6),
            ("with options", 2, [0, 0], 6),
            ("first fragment", 0, [0x20, 0], 6),
            ("last fragment", 0, [0, 9], 6),
            ("UDP", 0, [0, 0], 17),
        ] {
            let packet = ipv4(last, options, fragment, protocol, &segment);
            add(format!("IPv4 {name}, {kind}"), source, &[8, 0], packet);
        }
        // Extension headers: options of hops, routing, options of the destination; a fragment's.
        for (kind, headers) in [
            ("plain", &[6][..]),
            ("UDP", &[17]),
            ("one header", &[60, 6]),
            ("three headers", &[0, 43, 60, 6]),
            ("a fragment", &[44, 6]),
            ("a fragment behind options", &[0, 44, 6]),
        ] {
            add(format!("IPv6 {name}, {kind}"), source, &[0x86, 0xdd], ipv6(last, headers, &segment));
        }
    }
    let tagged = [&[0, 100, 8, 0][..], &ipv4(254, 0, [0x40, 0], 6, &segment(80, 2))].concat();
    add("tagged".into(), 2, &[0x81, 0], tagged);
    frames
}

fn segment(port: u8, flags: u8) -> Vec<u8> {
    [&[0x30, 0x39, 0, port, 0, 0, 0, 1, 0, 0, 0, 0, 0x50, flags, 0xff, 0xff, 0, 0, 0, 0][..], &[0; 20]].concat()
}

fn ipv4(last: u8, options: u8, fragment: [u8; 2], protocol: u8, payload: &[u8]) -> Vec<u8> {
    let mut header = vec![0x45 + options, 0, 0, 60 + 4 * options, 0, 0, fragment[0], fragment[1], 64, protocol, 0, 0];
    header.extend([198, 51, 100, 9, 192, 0, 2, last]);
    header.extend(vec![1; 4 * usize::from(options)]);
    let sum: u32 = header.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
    let sum = !((sum & 0xffff) + (sum >> 16)) as u16;
    header[10..12].copy_from_slice(&sum.to_be_bytes());
    [&header, payload].concat()
}

fn ipv6(last: u8, headers: &[u8], payload: &[u8]) -> Vec<u8> {
    let length = 8 * (headers.len() as u8 - 1) + payload.len() as u8;
    let mut packet = vec![0x60, 0, 0, 0, 0, length, headers[0], 64];
    packet.extend([0x20, 1, 0xd, 0xb8, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9]);
    packet.extend([0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, last]);
    // The second octet: options that fill the header, or a length of 0 more words.
    headers.windows(2).for_each(|pair| packet.extend([pair[1], 0, 1, if pair[0] == 44 { 1 } else { 4 }, 0, 0, 0, 0]));
    [&packet, payload].concat()
}

/// How often each frame was marked, with which mark in the end.
fn marks_of(other: &Netns, interface: &str, frames: &[(String, Vec<u8>)]) -> Vec<(u32, usize)> {
    let socket = other.run(|| PacketSocket::open(Some(interface))).unwrap();
    let mut before = actions("eth0");
    let mut found = Vec::new();
    for (_, frame) in frames {
        socket.send(frame);
        let after = actions("eth0");
        assert_eq!(after.len(), before.len());
        let done: Vec<u32> =
            after.iter().zip(&before).filter(|(after, before)| after.2 > before.2).map(|(after, _)| after.1).collect();
        found.push((done.last().copied().unwrap_or(0), done.len()));
        before = after;
    }
    found
}

/// What an earlier version wrote for the rules of [`all_kinds`].
fn outdated(numbers: [u32; 4]) -> Vec<String> {
    let cookie = format!("cookie 6c76732d64720000{OWNER:016x}");
    let mut lines = Vec::new();
    for (at, (vip, protocol)) in VIPS.into_iter().zip(["ip", "ipv6"]).enumerate() {
        let keys = [
            (300, "ip_proto tcp dst_port 80 tcp_flags 0x0/0x2".to_owned()),
            (300, "ip_proto tcp tcp_flags 0x0/0x2".to_owned()),
            (302, format!("src_mac {PEER}")),
            (304, "ip_proto tcp tcp_flags 0x2/0x12".to_owned()),
        ];
        for ((pref, keys), mark) in keys.into_iter().zip(numbers).filter(|(_, mark)| *mark > 0) {
            lines.push(format!(
                "filter add dev eth0 ingress pref {} protocol {protocol} flower skip_hw dst_ip {vip} {keys} action skbedit mark \
                 {mark} continue {cookie}",
                pref + at
            ));
        }
    }
    lines
}

/// The programs give each packet the mark that the flower filters of an earlier version gave it,
/// and do so in one action.
#[test]
fn packets_are_marked_as_flower_marks_them() {
    let (mut marks, other) = with_peer();
    let frames = frames();
    for (numbers, rules) in [
        ([4, 0, 1, 1], vec![(later(80), 4), (peer(), 1), (Packets::Opening, 1)]),
        ([0, 3, 1, 2], vec![(later(0), 3), (peer(), 1), (Packets::Opening, 2)]),
    ] {
        tc("qdisc add dev eth0 clsact");
        let lines = outdated(numbers);
        lines.iter().for_each(|line| drop(tc(line)));
        let flower = marks_of(&other, "eth0", &frames);
        // It is recognised, and replaced.
        let seen = marks.observe(["eth0"]).unwrap();
        let wanted: BTreeSet<Rule> = VIPS
            .iter()
            .flat_map(|vip| rules.iter().map(|(packets, number)| rule("eth0", vip, *packets, *number)))
            .collect();
        assert_eq!((&seen.outdated, seen.rules.len()), (&wanted, 0));
        assert!(seen.foreign.is_empty() && seen.strangers.is_empty() && seen.others.is_empty());
        let plan = Plan::between(&seen, &wanted);
        assert_eq!(plan.changes().len(), 2 * wanted.len());
        for change in plan.changes() {
            marks.apply(&Plan::of([change.clone()])).unwrap();
        }
        assert_eq!(marks.observe(["eth0"]).unwrap().rules, wanted);
        assert!(marks.observe(["eth0"]).unwrap().outdated.is_empty() && !shown("eth0").contains("flower"));
        tc("filter del dev eth0 ingress");
        put(&mut marks, "eth0", &wanted);
        let found = marks_of(&other, "eth0", &frames);
        for (((name, _), flower), found) in frames.iter().zip(&flower).zip(&found) {
            assert_eq!(found.0, flower.0, "{name}");
            assert!(found.1 <= 1, "{name}: {} actions", found.1);
        }
        let count = |number: u32| found.iter().filter(|(mark, _)| *mark == number).count();
        println!("{} frames: {:?}", frames.len(), [0, 1, 2, 3, 4].map(count));
        assert!(count(0) > 20 && count(1) > 20 && numbers.iter().all(|number| *number == 0 || count(*number) > 3));
        tc("qdisc del dev eth0 clsact");
    }
}

/// Each step of an upgrade leaves each packet its mark.
#[test]
fn rules_of_an_earlier_version_are_replaced_without_a_gap() {
    let (mut marks, other) = with_peer();
    let listener = accept();
    tc("qdisc add dev eth0 clsact");
    outdated([0, 3, 1, 0]).iter().for_each(|line| drop(tc(line)));
    let connect = || VIPS.map(|vip| connection(&listener, &other, vip));
    assert_eq!(connect(), [1, 1]);
    // One of them is wanted no more.
    let wanted: BTreeSet<Rule> = VIPS.iter().map(|vip| rule("eth0", vip, peer(), 1)).collect();
    let seen = marks.observe(["eth0"]).unwrap();
    let plan = Plan::between(&seen, &wanted);
    assert_eq!(plan.changes().len(), 6, "{plan}");
    for change in plan.changes() {
        marks.apply(&Plan::of([change.clone()])).unwrap();
        assert_eq!(connect(), [1, 1], "{change}");
    }
    assert_eq!(marks.observe(["eth0"]).unwrap().rules, wanted);
    assert!(!shown("eth0").contains("flower"));
    // Those of another owner stay.
    outdated([0, 0, 5, 0]).iter().for_each(|line| drop(tc(&line.replace("8877", "8876").replace("7788", "7789"))));
    let seen = marks.observe(["eth0"]).unwrap();
    assert_eq!((seen.outdated.len(), seen.strangers.len(), seen.strangers[0].owner), (0, 2, OWNER + 1));
    assert!(Plan::between(&seen, &wanted).is_empty());
}

/// While rules are changed, no packet is without its mark.
#[test]
fn filters_are_replaced_at_once() {
    let (mut marks, other) = with_peer();
    let kinds = [(later(0), 3), (peer(), 1)];
    let wanted: BTreeSet<Rule> = kinds.map(|(packets, number)| rule("eth0", VIPS[0], packets, number)).into();
    put(&mut marks, "eth0", &wanted);
    // Counted behind the rules, as a filter that is replaced counts anew.
    tc("filter add dev eth0 ingress pref 400 protocol ip handle 1 fw action continue");
    tc("filter add dev eth0 ingress pref 401 protocol ip u32 match ip dst 192.0.2.254 action continue");
    let (_, frame) = frames().into_iter().find(|(name, _)| name == "IPv4 254 port 80, ACK, plain from 2").unwrap();
    let socket = other.run(|| PacketSocket::open(Some("eth0"))).unwrap();
    let (stop, sent) = (AtomicBool::new(false), AtomicU64::new(0));
    thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                (0..20).for_each(|_| socket.send(&frame));
                sent.fetch_add(20, Ordering::Relaxed);
                thread::yield_now();
            }
        });
        let _end = crate::lan::StopAtEnd(&stop);
        // A promotion and a demotion, other peers that come and go.
        let opening = rule("eth0", VIPS[0], Packets::Opening, 1);
        for round in 0..200 {
            let unknown = rule("eth0", VIPS[0], Packets::From(Mac([2, 0, 0, 0, 1, round])), 1);
            let more = [opening.clone(), unknown];
            marks.apply(&Plan::of(more.clone().map(Change::Add))).unwrap();
            marks.apply(&Plan::of(more.map(Change::Remove))).unwrap();
        }
    });
    let sent = sent.load(Ordering::Relaxed);
    println!("{sent} packets");
    assert!(sent > 1000, "{sent}");
    let counted = [400, 401].map(|pref| {
        let text = tc(&format!("-s filter show dev eth0 ingress pref {pref}"));
        let packets = |line: &str| line.trim().strip_prefix("Sent ")?.split_whitespace().nth(2)?.parse::<u64>().ok();
        text.lines().find_map(packets).unwrap()
    });
    assert_eq!(counted, [sent, sent]);
}

/// More than one program can hold: filters are added, found and removed all the same.
#[test]
fn thousands_of_rules() {
    let mut marks = enter_with("eth0");
    let rules = |count: u16| -> BTreeSet<Rule> {
        let vip = |n: u16| VIPS[usize::from(n % 2)];
        let mac = |n: u16| Packets::From(Mac([2, 0, 0, 0, (n >> 8) as u8, n as u8]));
        (0..count).map(|n| rule("eth0", vip(n), mac(n), 1)).collect()
    };
    for count in [5000, 4990, 10, 0] {
        put(&mut marks, "eth0", &rules(count));
        let filters = shown("eth0").matches("cookie").count();
        println!("{count} rules in {filters} filters");
        assert!((1 + usize::from(count) / 2000..=12).contains(&(filters + usize::from(count == 0))), "{filters}");
    }
    assert_eq!(shown("eth0"), "");
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
        // At the priority of the rules, of the same kind and protocol.
        "ingress pref 306 protocol ip bpf bytecode 1,6\u{a0}0\u{a0}0\u{a0}0 action skbedit mark 6 continue",
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
        (306, "bpf", Some(6)),
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
    // Another kind; another protocol. What is not in the way is added all the same.
    tc("filter add dev eth0 ingress pref 306 protocol ip matchall action ok");
    let text = foreign(marks.apply(&add(Packets::Opening)));
    assert!(text.contains("matchall filter at priority 306 on eth0") && text.contains("306 to 308"), "{text}");
    assert_eq!(marks.observe(["eth0"]).unwrap().rules, [rule("eth0", VIPS[1], Packets::Opening, 1)].into());
    tc("filter del dev eth0 ingress");
    tc("filter add dev eth0 ingress pref 307 protocol ip bpf bytecode 1,6\u{a0}0\u{a0}0\u{a0}0 action ok");
    let text = foreign(marks.apply(&add(peer())));
    assert!(text.contains("bpf filter at priority 307 on eth0") && text.contains("move it"), "{text}");
    assert_eq!(marks.observe(["eth0"]).unwrap().rules, [rule("eth0", VIPS[0], peer(), 1)].into());
    tc("filter del dev eth0 ingress");
    marks.apply(&add(peer())).unwrap();

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
    let send = || {
        let socket = UdpSocket::bind("[::]:0").unwrap();
        let _ = socket.send_to(&[0], (vip.parse::<IpAddr>().unwrap(), 9));
    };
    until(&format!("a packet for {vip} is marked on {interface}"), || {
        other.run(send).unwrap();
        marked(interface, vip, 1) > 0
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
    // Frames that keep their tag on the VLAN's interface.
    ip("link set eth0.100 type vlan reorder_hdr off");
    for vip in ["198.51.100.254", "2001:db8:1::fe"] {
        put(&mut marks, "eth0.100", &BTreeSet::new());
        assert_marked_on(&mut marks, "eth0.100", &other, vip);
    }
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
        until(&format!("{address} is found"), || neighbour(&mut marks, address).is_some_and(|n| n.mac == Some(mac)));
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
