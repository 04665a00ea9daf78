//! VIPs, judged by ip(8), by the kernel's own notifications, and by the neighbours.

use std::collections::BTreeMap;
use std::net::{IpAddr, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use lvs_dr::vip::{MARK, Placement, Scope, Vips};
use lvs_dr::{Cause, Error, Netns};
use netlink_packet_core::{NLM_F_CREATE, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::address::{AddressAttribute, AddressMessage, AddressProtocol};
use netlink_packet_route::route::{RouteAttribute, RouteType};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use rustix::thread::{CapabilitySet, CapabilitySets, capabilities, set_capabilities};

use crate::lab::{cable, enter_new_netns, ip, load_ipv6, new_netns};

const LO: Placement = Placement::Loopback;

fn eth0() -> Placement {
    Placement::Interface("eth0".into())
}

fn vips() -> [IpAddr; 2] {
    ["192.0.2.1".parse().unwrap(), "2001:db8::1".parse().unwrap()]
}

/// A new namespace with IPv6, and eth0 in it: one end of a cable whose other end, eth1, is here
/// too.
fn enter_with_eth0() -> Vips {
    load_ipv6();
    enter_new_netns();
    ip("link add eth0 up type veth peer name eth1");
    ip("link set eth1 up");
    Vips::open().unwrap()
}

/// What `ip address` shows of it: `lo 192.0.2.1/32 scope host`, sorted.
fn shown(vip: IpAddr) -> Vec<String> {
    let mut found: Vec<String> = ip(&format!("-o address show to {vip}"))
        .lines()
        .map(|line| {
            let words: Vec<&str> = line.split(['\\', ' ']).filter(|word| !word.is_empty()).collect();
            let end = words.iter().position(|word| *word == "valid_lft").unwrap();
            // Behind the number and the interface: inet or inet6. An IPv4 address ends with its
            // label, the interface's name.
            let end = if vip.is_ipv4() { end - 1 } else { end };
            format!("{} {}", words[1], words[3..end].join(" "))
        })
        .collect();
    found.sort();
    found
}

fn form(vip: IpAddr, placement: &Placement) -> String {
    let interface = placement.interface();
    match (vip, placement) {
        (IpAddr::V4(_), Placement::Loopback) => format!("{interface} {vip}/32 scope host"),
        (IpAddr::V4(_), Placement::Interface(_)) => format!("{interface} {vip}/32 scope global"),
        (IpAddr::V6(_), _) => format!("{interface} {vip}/128 scope global nodad deprecated"),
    }
}

/// The kernel's notifications about addresses and local routes.
struct Events(Socket);

impl Events {
    fn listen() -> Self {
        // RTMGRP_IPV4_IFADDR, IPV4_ROUTE, IPV6_IFADDR, IPV6_ROUTE
        let mut socket = Socket::new(NETLINK_ROUTE).unwrap();
        socket.bind(&SocketAddr::new(0, 0x10 | 0x40 | 0x100 | 0x400)).unwrap();
        socket.set_non_blocking(true).unwrap();
        Events(socket)
    }

    /// Those about `vip` up to now: `+address 1`, `-local 2`, each with the interface's index.
    fn about(&self, vip: IpAddr) -> Vec<(String, u32)> {
        let mut events = Vec::new();
        let mut buffer = vec![0; 65536];
        while let Ok(length) = self.0.recv(&mut &mut buffer[..], 0) {
            let message = NetlinkMessage::<RouteNetlinkMessage>::deserialize(&buffer[..length]).unwrap();
            let NetlinkPayload::InnerMessage(message) = message.payload else { continue };
            let sign = match message {
                RouteNetlinkMessage::NewAddress(_) | RouteNetlinkMessage::NewRoute(_) => '+',
                _ => '-',
            };
            match message {
                RouteNetlinkMessage::NewAddress(m) | RouteNetlinkMessage::DelAddress(m)
                    if m.attributes.contains(&AddressAttribute::Address(vip)) =>
                {
                    events.push((format!("{sign}address"), m.header.index));
                }
                RouteNetlinkMessage::NewRoute(m) | RouteNetlinkMessage::DelRoute(m)
                    if m.header.kind == RouteType::Local
                        && m.attributes.contains(&RouteAttribute::Destination(vip.into())) =>
                {
                    let interface = m.attributes.iter().find_map(|attribute| match attribute {
                        RouteAttribute::Oif(index) => Some(*index),
                        _ => None,
                    });
                    events.push((format!("{sign}local"), interface.unwrap()));
                }
                _ => {}
            }
        }
        events
    }
}

fn until(what: &str, condition: impl Fn() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < Duration::from_secs(5), "waited in vain: {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// Without these capabilities, in a thread of its own.
fn without(dropped: CapabilitySet, work: impl FnOnce() + Send) {
    thread::scope(|scope| {
        scope.spawn(|| {
            let effective = capabilities(None).unwrap().effective - dropped;
            let inheritable = CapabilitySet::empty();
            set_capabilities(None, CapabilitySets { effective, permitted: effective, inheritable }).unwrap();
            work();
        });
    });
}

#[test]
fn added_found_and_removed() {
    let mut client = enter_with_eth0();
    for vip in vips() {
        assert_eq!(client.locate(vip).unwrap(), []);
        assert!(!client.remove(vip, &LO).unwrap());

        assert!(client.add(vip, &LO).unwrap());
        assert!(!client.add(vip, &LO).unwrap());
        assert_eq!(shown(vip), [form(vip, &LO)]);

        assert!(client.add(vip, &eth0()).unwrap());
        assert!(!client.add(vip, &eth0()).unwrap());
        assert_eq!(shown(vip), [form(vip, &eth0()), form(vip, &LO)]);
        let found = client.locate(vip).unwrap();
        for placement in [LO, eth0()] {
            let there: Vec<_> = found.iter().filter(|f| f.fits(&placement)).collect();
            assert!(there.len() == 1 && !there[0].is_foreign() && there[0].mark == Some(MARK), "{found:?}");
        }

        assert!(client.remove(vip, &LO).unwrap());
        assert!(!client.remove(vip, &LO).unwrap());
        assert_eq!(shown(vip), [form(vip, &eth0())]);

        client.add(vip, &LO).unwrap();
        assert!(client.withdraw(vip, Some("eth0")).unwrap());
        assert!(!client.withdraw(vip, Some("eth0")).unwrap());
        assert!(!client.withdraw(vip, None).unwrap());
        assert!(shown(vip).is_empty());
    }
}

#[test]
fn what_a_script_left_behind_is_mended_and_removed() {
    let mut client = enter_with_eth0();
    let [v4, v6] = vips();
    // The kernel does not change a scope, though it says that all is well.
    ip(&format!("address add {v4}/32 dev lo"));
    ip(&format!("address replace {v4}/32 dev lo scope host"));
    assert_eq!(shown(v4), [format!("lo {v4}/32 scope global")]);
    assert_eq!(client.locate(v4).unwrap()[0].scope, Scope::Global);
    assert!(client.add(v4, &LO).unwrap());
    assert_eq!(shown(v4), [form(v4, &LO)]);

    ip(&format!("address add {v4}/32 dev eth0 scope link"));
    assert!(client.add(v4, &eth0()).unwrap());
    assert_eq!(shown(v4), [form(v4, &eth0()), form(v4, &LO)]);

    // For IPv6 there is a way that does not interrupt.
    ip(&format!("address add {v6}/128 dev lo nodad"));
    let events = Events::listen();
    assert!(client.add(v6, &LO).unwrap());
    assert_eq!(shown(v6), [form(v6, &LO)]);
    let events = events.about(v6);
    assert!(events.iter().all(|(event, _)| event.starts_with('+')), "{events:?}");

    // Duplicate detection goes on for a second or two: not after this.
    ip(&format!("address add {v6}/128 dev eth0"));
    assert!(client.locate(v6).unwrap().iter().any(|found| found.tentative));
    assert!(client.add(v6, &eth0()).unwrap());
    assert_eq!(shown(v6), [form(v6, &eth0()), form(v6, &LO)]);

    for vip in vips() {
        ip(&format!("address replace {vip} dev eth0 preferred_lft forever"));
        assert!(client.withdraw(vip, Some("eth0")).unwrap());
        assert!(shown(vip).is_empty());
    }
}

#[test]
fn moved_without_a_gap() {
    let mut client = enter_with_eth0();
    for vip in vips() {
        client.add(vip, &LO).unwrap();
        let events = Events::listen();
        for (from, to) in [(&LO, &eth0()), (&eth0(), &LO), (&LO, &eth0())] {
            assert!(client.relocate(vip, from, to).unwrap());
            assert_eq!(shown(vip), [form(vip, to)]);
        }
        // At no time was the node without a local route to its VIP.
        let mut local: BTreeMap<u32, u32> = [(1, 1)].into();
        let events = events.about(vip);
        for (event, index) in &events {
            match event.as_str() {
                "+local" => *local.entry(*index).or_default() += 1,
                "-local" => *local.get_mut(index).unwrap() -= 1,
                _ => continue,
            }
            assert!(local.values().sum::<u32>() > 0, "{vip}: {events:?}");
        }
        assert_eq!(events.iter().filter(|(event, _)| event == "-local").count(), 3, "{vip}: {events:?}");
        client.withdraw(vip, Some("eth0")).unwrap();
    }
}

#[test]
fn moved_from_any_half_state() {
    let mut client = enter_with_eth0();
    for vip in vips() {
        for places in [vec![], vec![LO], vec![eth0()], vec![LO, eth0()]] {
            for (from, to) in [(LO, eth0()), (eth0(), LO)] {
                client.withdraw(vip, Some("eth0")).unwrap();
                for place in &places {
                    client.add(vip, place).unwrap();
                }
                let changed = client.relocate(vip, &from, &to).unwrap();
                assert_eq!(changed, places != [to.clone()], "{places:?} to {to}");
                assert!(!client.relocate(vip, &from, &to).unwrap());
                let found = client.locate(vip).unwrap();
                assert!(found.len() == 1 && found[0].fits(&to), "{found:?}");
            }
        }
    }
}

#[test]
fn placed_wherever_it_was_and_nowhere_else() {
    let mut client = enter_with_eth0();
    for vip in vips() {
        let eth1 = Placement::Interface("eth1".into());
        for to in [&LO, &eth0(), &LO, &eth1, &eth0()] {
            assert!(client.place(vip, to).unwrap());
            assert!(!client.place(vip, to).unwrap());
            assert_eq!(shown(vip), [form(vip, to)]);
        }
        client.withdraw(vip, Some("eth0")).unwrap();
        // Without our mark it may be anybody's.
        ip(&format!("address add {vip} dev eth1"));
        assert!(matches!(client.place(vip, &LO), Err(Error::Foreign { .. })));
        assert_eq!(shown(vip).len(), 1);
        ip(&format!("address delete {vip} dev eth1"));
    }
}

#[test]
fn ipv6_works_when_add_returns() {
    let mut client = enter_with_eth0();
    let [_, vip] = vips();
    for placement in [eth0(), LO] {
        for _ in 0..20 {
            client.add(vip, &placement).unwrap();
            let (server, client_side) = (UdpSocket::bind((vip, 0)).unwrap(), UdpSocket::bind("[::]:0").unwrap());
            server.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
            client_side.send_to(b"x", server.local_addr().unwrap()).unwrap();
            assert_eq!(server.recv(&mut [0; 9]).unwrap(), 1);
            client.remove(vip, &placement).unwrap();
        }
    }
}

#[test]
fn other_peoples_addresses_stay() {
    let mut client = enter_with_eth0();
    let [v4, v6] = vips();
    let index = client.locate("127.0.0.1".parse().unwrap()).unwrap()[0].index;
    assert_eq!(index, 1);
    let eth0_index = {
        client.add(v4, &eth0()).unwrap();
        let index = client.locate(v4).unwrap()[0].index;
        client.withdraw(v4, Some("eth0")).unwrap();
        index
    };
    let by_ip = |command: &str| {
        ip(command);
    };
    let cases: [(IpAddr, &dyn Fn()); 6] = [
        (v4, &|| by_ip("address add 192.0.2.1/24 dev eth0")),
        (v4, &|| by_ip("address add 192.0.2.1 peer 192.0.2.7/32 dev eth0")),
        (v4, &|| by_ip("address add 192.0.2.1/32 dev eth0 scope link valid_lft 900 preferred_lft 900")),
        (v6, &|| by_ip("address add 2001:db8::1/64 dev eth0 nodad")),
        (v6, &|| by_ip("address add 2001:db8::1/128 dev eth0 nodad valid_lft 900 preferred_lft 900")),
        (v4, &|| add_marked("192.0.2.1".parse().unwrap(), eth0_index, 18)),
    ];
    for (case, (vip, make)) in cases.iter().enumerate() {
        make();
        let before = shown(*vip);
        assert_eq!(before.len(), 1);
        let foreign = |result: Result<bool, Error>| match result {
            Err(Error::Foreign { object, reason, .. }) => println!("{object}: {reason}"),
            other => panic!("case {case}: {other:?}"),
        };
        // What keepalived has put in place is as wanted; it is just not ours to remove.
        match case {
            5 => assert!(!client.add(*vip, &eth0()).unwrap()),
            _ => foreign(client.add(*vip, &eth0())),
        }
        foreign(client.remove(*vip, &eth0()));
        foreign(client.relocate(*vip, &eth0(), &LO));
        assert_eq!(shown(*vip), before);

        // What is ours goes, also on the same interface.
        client.add(*vip, &LO).unwrap();
        assert!(client.withdraw(*vip, Some("eth0")).unwrap());
        assert_eq!(shown(*vip), before);
        ip("address flush dev eth0 scope global");
        ip("address flush dev eth0 scope link");
    }

    // On a third interface.
    client.add(v4, &Placement::Interface("eth1".into())).unwrap();
    client.add(v4, &LO).unwrap();
    assert!(matches!(client.relocate(v4, &LO, &eth0()), Err(Error::Foreign { .. })));
    client.withdraw(v4, Some("eth0")).unwrap();
    assert_eq!(shown(v4), [format!("eth1 {v4}/32 scope global")]);

    // The same address with two prefixes: ours goes, the other stays.
    ip("address add 192.0.2.1/24 dev eth1");
    assert!(client.withdraw(v4, Some("eth1")).unwrap());
    assert_eq!(shown(v4), [format!("eth1 {v4}/24 scope global")]);
}

/// Adds VIP/32 with the mark of another program.
fn add_marked(vip: IpAddr, index: u32, mark: u8) {
    let mut message = AddressMessage::default();
    message.header.family = AddressFamily::Inet;
    message.header.prefix_len = 32;
    message.header.index = index;
    message.attributes = vec![
        AddressAttribute::Local(vip),
        AddressAttribute::Address(vip),
        AddressAttribute::Protocol(AddressProtocol::Other(mark)),
    ];
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST | NLM_F_CREATE;
    let mut message = NetlinkMessage::new(header, NetlinkPayload::from(RouteNetlinkMessage::NewAddress(message)));
    message.finalize();
    let mut octets = vec![0; message.buffer_len()];
    message.serialize(&mut octets);
    Socket::new(NETLINK_ROUTE).unwrap().send_to(&octets, &SocketAddr::new(0, 0), 0).unwrap();
}

#[test]
fn what_cannot_be_is_named() {
    let mut client = enter_with_eth0();
    let [vip, v6] = vips();
    let eth9 = Placement::Interface("eth9".into());
    for result in [
        client.add(vip, &eth9),
        client.remove(vip, &eth9),
        client.relocate(vip, &LO, &eth9),
        client.announce(vip, "eth9", 1),
    ] {
        let error = result.unwrap_err();
        assert_eq!((error.cause(), error.errno()), (Some(Cause::NoInterface), Some(19)));
        assert!(error.to_string().contains("eth9"), "{error}");
    }
    // Nothing is left to be removed from an interface that has gone.
    assert!(client.relocate(vip, &eth9, &LO).unwrap());
    assert!(client.withdraw(vip, Some("eth9")).unwrap());

    for bad in ["", "lo", "a/b", "sixteen-letters-", ".."] {
        assert!(matches!(client.add(vip, &Placement::Interface(bad.into())), Err(Error::Invalid { .. })), "{bad}");
    }
    assert!(matches!(client.add("127.0.0.1".parse().unwrap(), &LO), Err(Error::Invalid { .. })));
    assert!(matches!(client.remove("::1".parse().unwrap(), &LO), Err(Error::Invalid { .. })));

    for placement in [LO, eth0()] {
        std::fs::write(format!("/proc/sys/net/ipv6/conf/{}/disable_ipv6", placement.interface()), "1").unwrap();
        let error = client.add(v6, &placement).unwrap_err();
        assert_eq!((error.cause(), error.errno()), (Some(Cause::NoFamily), Some(13)), "{error}");
    }
}

#[test]
fn reading_takes_no_privileges_and_writing_says_which() {
    let mut client = enter_with_eth0();
    for vip in vips() {
        client.add(vip, &LO).unwrap();
        client.add(vip, &eth0()).unwrap();
    }
    let addresses = client.addresses().unwrap();
    let [vip, _] = vips();
    without(CapabilitySet::NET_ADMIN | CapabilitySet::NET_RAW, || {
        let mut unprivileged = Vips::open().unwrap();
        assert_eq!(unprivileged.locate(vip).unwrap().len(), 2);
        assert_eq!(unprivileged.addresses().unwrap(), addresses);
        assert!(!unprivileged.add(vip, &LO).unwrap());
        for result in [
            unprivileged.add("192.0.2.9".parse().unwrap(), &LO),
            unprivileged.remove(vip, &LO),
            // A client that was opened with privileges does not lend them.
            client.remove(vip, &eth0()),
        ] {
            assert_eq!(result.unwrap_err().cause(), Some(Cause::Permission));
        }
        until("eth0 runs", || ip("link show eth0").contains("state UP"));
        let error = unprivileged.announce(vip, "eth0", 1).unwrap_err();
        assert!(error.errno() == Some(1) && error.to_string().contains("CAP_NET_RAW"), "{error}");
    });
    assert_eq!(shown(vip), [form(vip, &eth0()), form(vip, &LO)]);
}

#[test]
fn a_client_stays_in_its_namespace() {
    enter_new_netns();
    let (other, vip) = (new_netns(), vips()[0]);
    let mut client = Vips::open_in(other.clone()).unwrap();
    client.add(vip, &LO).unwrap();
    assert!(shown(vip).is_empty());
    assert_eq!(other.run(|| shown(vip)).unwrap(), [form(vip, &LO)]);
    let mut there = other.run(Vips::open).unwrap().unwrap();
    let found = there.locate(vip).unwrap();
    assert_eq!(client.locate(vip).unwrap(), found);
    assert!(there.addresses().unwrap().contains(&vip) && !Vips::open().unwrap().addresses().unwrap().contains(&vip));
}

#[test]
fn descriptors_are_given_back() {
    enter_new_netns();
    let vip = vips()[0];
    let open = || std::fs::read_dir("/proc/self/fd").unwrap().count();
    let before = open();
    for _ in 0..2000 {
        let mut client = Vips::open().unwrap();
        client.locate(vip).unwrap();
    }
    // Other tests may run at the same time.
    assert!(open() < before + 50, "{before} descriptors before, {} after", open());
}

#[test]
fn many_addresses_and_a_list_that_changes_while_it_is_read() {
    enter_new_netns();
    let mut client = Vips::open().unwrap();
    let address = |n: u16| IpAddr::from([10, 1, (n >> 8) as u8, n as u8]);
    let count = 300;
    let batch: String = (0..count).map(|n| format!("address add {}/32 dev lo\n", address(n))).collect();
    std::fs::write("/tmp/addresses", batch).unwrap();
    ip("-batch /tmp/addresses");
    let addresses = client.addresses().unwrap();
    assert!((0..count).all(|n| addresses.contains(&address(n))));

    let (here, stop) = (Netns::current().unwrap(), std::sync::atomic::AtomicBool::new(false));
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut restless = Vips::open_in(here).unwrap();
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                restless.add(address(count), &LO).unwrap();
                restless.remove(address(count), &LO).unwrap();
            }
        });
        for _ in 0..20 {
            assert_eq!(client.locate(address(count - 1)).unwrap().len(), 1);
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
    });
}

#[test]
fn several_hands_at_the_same_vip() {
    let mut client = enter_with_eth0();
    let here = Netns::current().unwrap();
    for vip in vips() {
        for round in 0..20 {
            let (from, to) = if round % 2 == 0 { (LO, eth0()) } else { (eth0(), LO) };
            thread::scope(|scope| {
                for _ in 0..3 {
                    scope.spawn(|| Vips::open_in(here.clone()).unwrap().relocate(vip, &from, &to).unwrap());
                }
            });
            let found = client.locate(vip).unwrap();
            assert!(found.len() == 1 && found[0].fits(&to), "{found:?}");
        }
    }
}

#[test]
fn when_the_interface_goes_down() {
    let mut client = enter_with_eth0();
    let [v4, v6] = vips();
    for vip in [v4, v6] {
        client.add(vip, &eth0()).unwrap();
    }
    ip("link set eth0 down");
    assert_eq!((client.locate(v4).unwrap().len(), client.locate(v6).unwrap().len()), (1, 0));
    // Into an interface that is down, too; it must not take long.
    let start = Instant::now();
    assert!(client.add(v6, &eth0()).unwrap());
    assert!(start.elapsed() < Duration::from_millis(300), "{:?}", start.elapsed());
}

#[test]
fn announcements_that_nobody_would_hear() {
    let mut client = enter_with_eth0();
    let vip = vips()[0];
    for placement in [LO, eth0()] {
        let error = client.announce(vip, "eth0", 1).unwrap_err();
        assert_eq!((error.cause(), error.errno()), (Some(Cause::NoAddress), Some(99)));
        client.add(vip, &placement).unwrap();
    }
    until("eth0 runs", || ip("link show eth0").contains("state UP"));
    assert!(client.announce(vip, "eth0", 1).unwrap());
    assert!(!client.announce(vip, "lo", 1).unwrap());

    for change in ["link set eth1 down", "link set eth0 down"] {
        ip(change);
        let error = client.announce(vip, "eth0", 1).unwrap_err();
        assert_eq!((error.cause(), error.errno()), (Some(Cause::InterfaceDown), Some(100)), "{change}");
    }
    ip("link set eth0 arp off");
    assert!(!client.announce(vip, "eth0", 1).unwrap());
}

/// A client on a switch (a bridge in its namespace) with two nodes, and the VIP moving from the
/// first node, which is here, to the other.
#[test]
fn neighbours_follow_an_announcement() {
    load_ipv6();
    enter_new_netns();
    let (second, client) = (new_netns(), new_netns());
    let macs = ["02:00:00:00:00:01", "02:00:00:00:00:02"];
    cable("eth0", macs[0], &client, "port1");
    second.run(|| cable("eth0", macs[1], &client, "port2")).unwrap();
    let addresses = |interface: &str, last: u8| {
        ip(&format!("address add 192.0.2.{last}/24 dev {interface}"));
        ip(&format!("address add 2001:db8::{last}/64 dev {interface} nodad"));
    };
    let switch = || {
        ip("link add br0 up type bridge");
        ip("link set port1 master br0");
        ip("link set port2 master br0");
        addresses("br0", 9);
    };
    client.run(switch).unwrap();
    addresses("eth0", 11);
    second.run(|| addresses("eth0", 12)).unwrap();
    second.run(|| until("eth0 runs", || ip("link show eth0").contains("state UP"))).unwrap();

    // The client's entry for the VIP.
    let entry = |vip: IpAddr| client.run(|| ip(&format!("neighbour show to {vip}"))).unwrap();
    let (mut here, mut there) = (Vips::open().unwrap(), Vips::open_in(second.clone()).unwrap());
    for vip in vips() {
        here.add(vip, &eth0()).unwrap();
        client.run(|| UdpSocket::bind(("::", 0)).unwrap().send_to(b"x", (vip, 9)).unwrap()).unwrap();
        until("the client finds the first node", || entry(vip).contains(macs[0]));

        there.add(vip, &eth0()).unwrap();
        here.remove(vip, &eth0()).unwrap();
        assert!(entry(vip).contains(macs[0]), "without an announcement: {}", entry(vip));

        assert!(there.announce(vip, "eth0", 2).unwrap());
        until("the client finds the second node", || entry(vip).contains(macs[1]));
        assert!(!entry(vip).contains("router"), "{}", entry(vip));
    }

    // A node that forwards says so: neighbours that route through it would drop it otherwise.
    let vip = vips()[1];
    second.run(|| std::fs::write("/proc/sys/net/ipv6/conf/eth0/forwarding", "1").unwrap()).unwrap();
    there.announce(vip, "eth0", 1).unwrap();
    until("the client sees a router", || entry(vip).contains("router"));
}
