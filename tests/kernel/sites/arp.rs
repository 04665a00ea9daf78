//! ARP on each interface that reaches clients, not only on the one that is named.

use std::net::UdpSocket;
use std::thread;
use std::time::Duration;

use lvs_dr::node::audit::Severity;
use lvs_dr::node::{Config, Node, Role, VipOwner};
use lvs_dr::{Cause, Netns};

use super::{audit, batch, config, expect, expect_nothing, node_as, server, sh, web};
use crate::lan::{INTERFACE, Packet, SYN, Session, Tap, VIP, enter_switch, host, mac, mac_text};

const VIRTUAL: &str = "00:00:5e:00:01:33";

/// Which MAC address the client sends packets for the VIP to.
fn known(client: &Netns) -> String {
    let shown = sh(client, &format!("ip neighbour show {VIP}"));
    shown.split_whitespace().skip_while(|word| *word != "lladdr").nth(1).unwrap_or("none").to_owned()
}

/// Which MAC addresses answer an ARP request for the VIP.
fn answering(client: &Netns) -> Vec<String> {
    let limit = Duration::from_millis(60);
    let found = lvs_dr::marks::who_has(client, INTERFACE, VIP.parse().unwrap(), limit, limit).unwrap();
    let mut found: Vec<String> = found.iter().map(ToString::to_string).collect();
    found.sort();
    found
}

/// What the client knows after this host has asked for its MAC address from the VIP, as for each
/// answer to a client that it does not know.
fn known_after_an_answer_of(host: &Netns, client: &Netns) -> String {
    sh(client, &format!("ip neighbour flush {VIP} dev {INTERFACE}"));
    Session::open(client, VIP).expect("the director answers");
    // The kernel overrides what it knows only after a while.
    sh(client, "sysctl -qw net.ipv4.neigh.bond0.locktime=0");
    sh(host, &format!("ip neighbour flush 192.0.2.1 dev {INTERFACE}"));
    let send = || UdpSocket::bind((VIP, 0)).unwrap().send_to(b"x", "192.0.2.1:9").unwrap();
    host.run(send).unwrap();
    thread::sleep(Duration::from_millis(60));
    known(client)
}

/// How many of 20 requests the client sends to this host.
fn requests_to(host: u8, client: &Netns, tap: &Tap) -> usize {
    tap.packets();
    for _ in 0..20 {
        let _ = Session::open(client, VIP);
    }
    let opens = |packet: &&Packet| packet.protocol == 6 && packet.content.get(13) == Some(&SYN);
    let packets = tap.packets();
    packets.iter().filter(opens).filter(|packet| (packet.from_mac, packet.to_mac) == (mac(1), mac(host))).count()
}

/// keepalived's `use_vmac`: the VIP of the director is on a macvlan, and the address of the node on
/// the interface below it.
#[test]
fn with_a_virtual_mac_address_the_interface_below_is_silent_too() {
    enter_switch();
    let client = host(1);
    let hosts = [11, 12].map(server);
    let services = web("rr", &[11, 12]);
    for host in &hosts {
        batch(
            host,
            &format!("link add link {INTERFACE} name vrrp.51 address {VIRTUAL} up type macvlan mode private\n"),
        );
    }
    let of = |arp: bool| {
        let mut config = Config { vip_owner: VipOwner::Keepalived, ..config("vrrp.51", &services) };
        config.arp = config.arp.filter(|_| arp);
        config
    };
    batch(&hosts[0], &format!("address add {VIP}/32 dev vrrp.51\n"));
    node_as(&hosts[0], of(true), Role::Master);

    // The harm, where the settings are left alone.
    let mut backup = node_as(&hosts[1], of(false), Role::Backup);
    let own = mac_text(mac(12));
    assert!(answering(&client).contains(&own), "{:?}", answering(&client));
    assert_eq!(known_after_an_answer_of(&hosts[1], &client), own);
    let tap = Tap::open();
    assert_eq!(requests_to(12, &client, &tap), 20);
    let status = backup.status().unwrap();
    assert!(!status.hidden);
    let found = audit(&mut backup);
    let told: String = found.iter().map(|finding| format!("{finding}\n")).collect();
    for name in ["arp-answer", "arp-announce"] {
        for interface in [INTERFACE, "vrrp.51"] {
            let is = |reason: &str| reason.contains(&format!(" on {interface} is 0"));
            let one = found.iter().filter(|finding| finding.kind.name() == name && is(&finding.reason));
            assert_eq!(one.clone().count(), 1, "{name} on {interface}: {told}");
            one.for_each(|finding| assert_eq!(finding.severity, Severity::Error, "{told}"));
        }
    }
    // The commands are the remedy, as they are printed.
    for command in found.iter().flat_map(|finding| &finding.remedy.commands) {
        sh(&hosts[1], command);
    }
    expect_nothing(&mut backup);
    assert_eq!(answering(&client), [VIRTUAL]);
    assert_eq!(known_after_an_answer_of(&hosts[1], &client), VIRTUAL);
    backup.release(|_| ()).unwrap();
    for interface in [INTERFACE, "vrrp.51"] {
        sh(
            &hosts[1],
            &format!("sysctl -qw net/ipv4/conf/{interface}/arp_ignore=0 net/ipv4/conf/{interface}/arp_announce=0"),
        );
    }

    // The node sets both, and gives both back.
    let mut backup = node_as(&hosts[1], of(true), Role::Backup);
    assert_eq!(answering(&client), [VIRTUAL]);
    assert_eq!(known_after_an_answer_of(&hosts[1], &client), VIRTUAL);
    assert_eq!(requests_to(12, &client, &tap), 0);
    let status = backup.status().unwrap();
    let interfaces: Vec<&str> = status.arp.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!((interfaces, status.hidden), (vec!["vrrp.51", INTERFACE], true));
    expect_nothing(&mut backup);
    // Another instance of keepalived's comes, and then a second card in the LAN: on the watch's
    // next look.
    batch(
        &hosts[1],
        &format!(
            "link add link {INTERFACE} name vrrp.52 address 00:00:5e:00:01:34 up type macvlan mode private\n\
             link add link {INTERFACE} name card up type macvlan mode private\naddress add 192.0.2.112/24 dev card\n"
        ),
    );
    assert!(answering(&client).len() > 1);
    let found = audit(&mut backup);
    assert_eq!(found.len(), 4, "{found:?}");
    assert!(found.iter().all(|finding| finding.remedy.is_ours()), "{found:?}");
    backup.repair(|_| ()).unwrap();
    expect_nothing(&mut backup);
    assert_eq!(answering(&client), [VIRTUAL]);
    // One that goes again takes its settings with it.
    batch(&hosts[1], "link delete card\n");
    backup.become_role(Role::Backup).unwrap();
    backup.release(|_| ()).unwrap();
    for interface in [INTERFACE, "vrrp.51", "vrrp.52"] {
        let of = format!("net/ipv4/conf/{interface}");
        assert_eq!(sh(&hosts[1], &format!("sysctl -n {of}/arp_ignore {of}/arp_announce")), "0\n0\n", "{interface}");
    }
}

/// Names that are copied from elsewhere, and interfaces that never answer.
#[test]
fn the_interface_that_is_named_is_found_or_the_right_one_is_named() {
    enter_switch();
    let client = host(1);
    let own = server(11);
    let long = "an-alternative-name-of-more-than-15-octets";
    batch(
        &own,
        &format!(
            "link property add dev {INTERFACE} altname enp1s0 altname {long}\n\
             link add link {INTERFACE} name bond0.100 up type vlan id 100\n\
             link add br7 up type bridge\nlink add port7 up type veth peer name port8\nlink set port7 master br7\n\
             address add 198.51.100.11/24 dev br7\n"
        ),
    );
    let services = web("rr", &[11]);
    let refused = |interface: &str| Node::open_in(config(interface, &services), own.clone()).unwrap_err();
    for (interface, cause, words) in [
        ("bond0.100@bond0", Some(Cause::NoInterface), "its name is bond0.100"),
        ("bond7", Some(Cause::NoInterface), "192.0.2.11/24 on bond0 is in the subnet of 192.0.2.254"),
        ("an-alternative-name-of-no-interface", Some(Cause::NoInterface), "no such network interface"),
        ("port7", None, "port7 is a port of br7"),
    ] {
        let error = refused(interface);
        assert!(error.cause() == cause && error.to_string().contains(words), "{error}");
    }
    for name in ["enp1s0", long] {
        let config = Config { sync: Config::new(name, []).sync, ..config(name, &services) };
        let mut node = node_as(&own, config, Role::Master);
        assert_eq!((node.config().interface.as_str(), node.config().sync.interface.as_str()), (INTERFACE, INTERFACE));
        assert_eq!(answering(&client), [mac_text(mac(11))]);
        assert!(Session::open(&client, VIP).is_some());
        expect_nothing(&mut node);
        node.release(|_| ()).unwrap();
    }

    // An interface of another network answers no request.
    let mut node = node_as(&own, config("br7", &services), Role::Master);
    assert_eq!(answering(&client), [""; 0]);
    let [finding] = expect(&mut node, [("wrong-interface", Severity::Warning)]);
    assert!(
        finding.reason.contains("192.0.2.11/24 on bond0") && finding.remedy.text.contains("\"bond0\""),
        "{finding}"
    );
    assert_eq!(node.status().unwrap().warnings, std::slice::from_ref(&finding.reason));
    let state_dir = node.config().state_dir.clone();
    let mut node = node_as(&own, Config { state_dir, ..config(INTERFACE, &services) }, Role::Master);
    assert_eq!(answering(&client), [mac_text(mac(11))]);
    expect_nothing(&mut node);

    // It becomes a port while the node directs: the node can still be demoted.
    sh(&own, &format!("ip link set {INTERFACE} master br7"));
    let found = audit(&mut node);
    assert_eq!((found[0].kind.name(), found[0].severity), ("wrong-interface", Severity::Error), "{found:?}");
    assert!(found[0].reason.contains("port of br7"), "{found:?}");
    node.become_role(Role::Backup).unwrap();
    sh(&own, &format!("ip link set {INTERFACE} nomaster"));
    // When it is gone, nothing is printed for it.
    sh(&own, &format!("ip link delete {INTERFACE}"));
    let status = node.status().unwrap();
    assert!(status.arp.is_empty() && status.warnings[0].contains("cannot find interface bond0"), "{status:?}");
}
