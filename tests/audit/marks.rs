//! Fence `marks`: rules and services that are missing, other nodes that are not as they seem, and
//! marks of other programs.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use lvs_dr::ipvs::{Ipvs, Plan, Table};
use lvs_dr::node::audit::{Finding, Kind, Severity};
use lvs_dr::node::{Config, Fence, MarksConfig, Node, OwnRequests, Role};

use crate::cluster::{Cluster, Flow, VIP4, VIP6, VIPS};
use crate::lab::{ipvsadm, remove_rules, rules};
use crate::{at, cluster, cluster_of, cluster_with, config, expect, expect_nothing, failures, fix, web};

const MARK: &str = "1280725760";

/// Whether some new connections fail, as what another node has sent is scheduled once more.
fn harmed(cluster: &Cluster, vip: IpAddr) -> bool {
    cluster.client.run(|| (0..24).any(|_| cluster.client.get(vip).is_err()))
}

#[test]
fn rules_or_services_of_the_marks_that_another_program_removed() {
    let (cluster, mut nodes) = cluster(Fence::Marks);
    assert_eq!(failures(&cluster), 0);
    let commands = [
        ("tc qdisc delete dev bond0 clsact", &VIPS[..]),
        ("tc filter delete dev bond0 ingress", &VIPS),
        ("the rules for other nodes", &[]),
        (&format!("ipvsadm -D -f {MARK}"), &[VIP4]),
        (&format!("ipvsadm -D -f {MARK} -6"), &[VIP6]),
    ];
    for (command, harms) in commands {
        cluster.nodes[1..].iter().for_each(|host| match command {
            "the rules for other nodes" => host.netns.run(|| remove_rules("bond0", "all from")).unwrap(),
            command => drop(host.sh(command)),
        });
        // Without the rule for the sender's MAC address, the one for SYNs holds while there is one
        // director.
        for vip in VIPS {
            assert_eq!(harmed(&cluster, vip), harms.contains(&vip), "{command}");
        }
        for node in &mut nodes[1..] {
            let [finding] = expect(node, [("marks-differ", Severity::Error)]);
            fix(node, &finding);
        }
        assert_eq!(failures(&cluster), 0, "{command}");
    }
    // A director's rules are for the time when it is none any more, and for two directors.
    cluster.nodes[0].sh("tc qdisc delete dev bond0 clsact");
    let [finding] = expect(&mut nodes[0], [("marks-differ", Severity::Error)]);
    fix(&mut nodes[0], &finding);
    // Filters of other programs do not matter as long as they set no mark.
    cluster.nodes[1].sh("tc filter add dev bond0 ingress pref 10 protocol all matchall action ok");
    cluster.nodes[1].sh("tc filter delete dev bond0 ingress pref 10");
    expect_nothing(&mut nodes[1]);
}

/// Two directors; the client sends to the first, whose MAC address the second cannot find out.
fn two_directors(more: impl Fn(usize) -> MarksConfig) -> (Cluster, Vec<Node>) {
    let cluster = Cluster::new(3);
    let macs: Vec<String> = cluster.nodes.iter().map(|host| host.mac.clone()).collect();
    // The second hears no ARP of the first.
    cluster.nodes[1].sh("tc qdisc add dev bond0 clsact");
    cluster.nodes[1]
        .sh(&format!("tc filter add dev bond0 ingress pref 1 protocol arp flower src_mac {} action drop", macs[0]));
    // It does not answer the first one either, which has to know it all the same.
    cluster.nodes[0].sh(&format!("ip neighbour replace 192.0.2.12 lladdr {} dev bond0 nud permanent", macs[1]));
    cluster.client.sh(&format!("ip neighbour replace 192.0.2.254 lladdr {} dev eth0 nud permanent", macs[0]));
    let mut nodes: Vec<Node> = (0..3)
        .map(|index| {
            cluster.nodes[index].node(Config {
                vips: vec![VIP4],
                marks: more(index),
                services: only_v4(),
                ..config(Fence::Marks)
            })
        })
        .collect();
    nodes[2].become_role(Role::Backup).unwrap();
    nodes[1].become_role(Role::Master).unwrap();
    nodes[0].become_role(Role::Master).unwrap();
    (cluster, nodes)
}

fn only_v4() -> Option<Table> {
    let text = web("-s rr", 13);
    Some(
        text.lines()
            .filter(|line| !line.contains("2001"))
            .fold(String::new(), |all, line| all + line + "\n")
            .parse()
            .unwrap(),
    )
}

#[test]
fn a_node_whose_mac_address_is_unknown() {
    let (cluster, mut nodes) = two_directors(|_| MarksConfig::default());
    assert!(harmed(&cluster, VIP4));
    let [finding] = expect(&mut nodes[1], [("peer-unknown", Severity::Warning)]);
    assert!(
        matches!(&finding.kind, Kind::PeerUnknown { peers, .. } if *peers == [cluster.nodes[0].addresses[0]]),
        "{finding}"
    );
    assert!(!finding.remedy.is_ours() && finding.remedy.text.contains("macs"), "{finding}");
    // It is heard again.
    cluster.nodes[1].sh("tc filter delete dev bond0 ingress pref 1");
    // The kernel asks for an address that does not answer for three seconds before a new question
    // is sent at once.
    std::thread::sleep(Duration::from_secs(4));
    // Two nodes direct in this test, and the link shows it now.
    let [_, finding] = expect(&mut nodes[1], [("other-director", Severity::Error), ("marks-differ", Severity::Error)]);
    assert!(finding.remedy.is_ours(), "{finding}");
    nodes[1].fix(|_| ()).unwrap();
    expect(&mut nodes[1], [("other-director", Severity::Error)]);
    assert!(!harmed(&cluster, VIP4));

    // Or it is configured.
    let macs = |index: usize| match index {
        1 => MarksConfig {
            macs: [("192.0.2.11".parse().unwrap(), ["02:00:00:00:00:0b".parse().unwrap()].into())].into(),
            ..MarksConfig::default()
        },
        _ => MarksConfig::default(),
    };
    let (cluster, mut nodes) = two_directors(macs);
    assert!(!harmed(&cluster, VIP4));
    expect_nothing(&mut nodes[1]);
}

#[test]
fn a_destination_behind_a_gateway() {
    for (vip, route, server) in [
        (VIP4, "198.51.100.0/24 via 192.0.2.1", "198.51.100.50:80"),
        (VIP6, "2001:db8:9::/64 via 2001:db8::1", "[2001:db8:9::50]:80"),
    ] {
        let text = web("-s rr", 13);
        let (cluster, mut nodes) = cluster_with(Fence::Marks, [&text, &text]);
        let host = &cluster.nodes[0];
        host.sh(&format!("ip route add {route} dev bond0"));
        expect_nothing(&mut nodes[0]);
        host.sh(&format!("ipvsadm -a -t {} -r {server} -g -w 1", at(vip, 80)));
        assert!(harmed(&cluster, vip));
        let [finding] = expect(&mut nodes[0], [("behind-gateway", Severity::Error)]);
        assert!(!finding.remedy.is_ours() && finding.remedy.text.contains("tunnelling"), "{finding}");
        host.sh(&format!("ipvsadm -d -t {} -r {server}", at(vip, 80)));
        assert!(!harmed(&cluster, vip));
        expect_nothing(&mut nodes[0]);
    }
}

#[test]
fn a_destination_for_which_the_gateway_answers() {
    let text = web("-s rr", 13);
    let (cluster, mut nodes) = cluster_with(Fence::Marks, [&text, &text]);
    // The router answers ARP requests for addresses of other networks, the server is in one of
    // them.
    let router = &cluster.client;
    router.sh("ip link add other0 up type dummy");
    router.sh("ip route add 192.0.2.50/32 dev other0");
    router.sysctl("ipv4/ip_forward", "1");
    router.sysctl("ipv4/conf/eth0/proxy_arp", "1");
    let host = &cluster.nodes[0];
    host.sh("ip route add default via 192.0.2.1");
    host.sh("ipvsadm -a -t 192.0.2.254:80 -r 192.0.2.50:80 -g -w 1");
    assert!(harmed(&cluster, VIP4));
    nodes[0].fix(|_| ()).unwrap();
    let [finding] = expect(&mut nodes[0], [("peer-is-gateway", Severity::Error)]);
    assert!(finding.reason.contains("192.0.2.50") && finding.reason.contains(&router.mac), "{finding}");
    // It is not marked: the node would serve all alone.
    nodes[0].become_role(Role::Backup).unwrap();
    nodes[0].become_role(Role::Master).unwrap();
    assert!(!host.netns.run(|| rules("bond0")).unwrap().concat().contains(&router.mac));
    host.sh("ipvsadm -d -t 192.0.2.254:80 -r 192.0.2.50:80");
    assert!(!harmed(&cluster, VIP4));
    expect_nothing(&mut nodes[0]);

    // A server that is the gateway.
    let (cluster, mut nodes) = cluster_with(Fence::Marks, [&text, &text]);
    cluster.nodes[0].sh("ip route add default via 192.0.2.13");
    nodes[0].become_role(Role::Backup).unwrap();
    nodes[0].become_role(Role::Master).unwrap();
    let [finding, other] =
        expect(&mut nodes[0], [("peer-is-gateway", Severity::Warning), ("peer-is-gateway", Severity::Warning)]);
    assert!(other.reason.contains("2001:db8::13 (02:00:00:00:00:0d) is a gateway of this node"), "{other}");
    assert!(finding.reason.contains("192.0.2.13") && finding.reason.contains("is a gateway of this node"), "{finding}");
    assert!(!harmed(&cluster, VIP4));
}

#[test]
fn the_loopback_address_as_destination() {
    for (vip, own) in [(VIP4, ["127.0.0.1:80", "192.0.2.11:80"]), (VIP6, ["[::1]:80", "[2001:db8::11]:80"])] {
        let text = web("-s rr", 13);
        let first = text.replace(own[1], own[0]);
        let refused = Config { services: Some(first.parse().unwrap()), ..config(Fence::Marks) }.check().unwrap_err();
        assert!(refused.to_string().contains("name the node's own address"), "{refused}");
        let (cluster, mut nodes) = cluster_with(Fence::Marks, [&first, &text]);
        let [finding] = expect(&mut nodes[0], [("loopback-destination", Severity::Warning)]);
        assert!(!finding.remedy.is_ours() && finding.remedy.text.contains("own address"), "{finding}");
        let kept_after_move = |nodes: &mut [Node]| {
            let mut session = cluster.client.session_with("n1", vip);
            std::thread::sleep(Duration::from_millis(2500));
            nodes[1].become_role(Role::Master).unwrap();
            nodes[0].become_role(Role::Backup).unwrap();
            let kept = session.ask().is_ok();
            nodes[0].become_role(Role::Master).unwrap();
            nodes[1].become_role(Role::Backup).unwrap();
            kept
        };
        assert!(!kept_after_move(&mut nodes));
        let named = at(vip, 80);
        cluster.nodes[0].sh(&format!("ipvsadm -a -t {named} -r {} -g -w 1", own[1]));
        cluster.nodes[0].sh(&format!("ipvsadm -d -t {named} -r {}", own[0]));
        expect_nothing(&mut nodes[0]);
        assert!(kept_after_move(&mut nodes));
    }
}

/// The same command on each backup.
fn on_backups(cluster: &Cluster, command: &str) {
    cluster.nodes[1..].iter().for_each(|host| drop(host.sh(command)));
}

#[track_caller]
fn expect_overwritten(node: &mut Node, severity: Severity, by: &str, remedy: &str) -> Finding {
    let [finding] = expect(node, [("mark-overwritten", severity)]);
    assert!(finding.reason.contains(by) && finding.remedy.text.contains(remedy), "{finding}");
    finding
}

#[test]
fn a_filter_that_overwrites_the_marks() {
    let (cluster, mut nodes) = cluster(Fence::Marks);
    let filter = |verb: &str, pref: u16, control: &str| {
        let what = if verb == "add" {
            format!("protocol all matchall action skbedit mark 7 {control}")
        } else {
            String::new()
        };
        format!("tc filter {verb} dev bond0 ingress pref {pref} {what}")
    };
    // Behind the node's rules it overwrites their marks; before them, without `continue`, it keeps
    // them from being tried.
    for (pref, control) in [(400, "continue"), (400, ""), (10, "")] {
        on_backups(&cluster, &filter("add", pref, control));
        assert!(VIPS.into_iter().all(|vip| harmed(&cluster, vip)), "{pref} {control}");
        nodes[1..].iter_mut().for_each(|node| {
            expect_overwritten(node, Severity::Error, &format!("priority {pref}"), "below 306, and `continue`");
        });
        on_backups(&cluster, &filter("delete", pref, control));
        on_backups(&cluster, &filter("add", 10, "continue"));
        assert_eq!(failures(&cluster), 0);
        nodes[1..].iter_mut().for_each(expect_nothing);
        on_backups(&cluster, &filter("delete", 10, "continue"));
    }
    cluster.nodes[0].sh(&filter("add", 400, "continue"));
    expect_overwritten(&mut nodes[0], Severity::Warning, "priority 400", "below 306");
}

#[test]
fn a_firewall_rule_that_overwrites_the_marks() {
    if crate::lab::try_run("iptables-legacy -t mangle -S").status.code() != Some(0) {
        eprintln!("not tested on this kernel: no ip_tables, and no nftables");
        return;
    }
    for (vip, program, six) in [(VIP4, "iptables-legacy", ""), (VIP6, "ip6tables-legacy", "-6")] {
        // Web and TLS as one service of a mark.
        let family = |line: &str| line.contains('[') == vip.is_ipv6();
        let text: String = web("-s rr", 13)
            .lines()
            .filter(|line| family(line))
            .map(|line| line.replace(&format!("-t {}", at(vip, 80)), &format!("-f 5 {six}")) + "\n")
            .collect();
        let cluster = Cluster::new(3);
        let mut nodes: Vec<Node> =
            cluster.nodes.iter().map(|host| host.node(Config { services: None, ..config(Fence::Marks) })).collect();
        let rule = |test: &str| format!("-d {vip} -p tcp {test} -m multiport --dports 80,443 -j MARK --set-mark 5");
        let everywhere = |command: String| cluster.nodes.iter().for_each(|host| drop(host.sh(&command)));
        for (host, node) in cluster.nodes.iter().zip(&mut nodes) {
            host.run(|| text.lines().for_each(|line| drop(ipvsadm(line))));
            node.become_role(Role::Backup).unwrap();
            // Nothing is known yet of what sets the mark.
            expect(node, [("marked-services", Severity::Notice)]);
        }
        everywhere(format!("{program} -t mangle -A PREROUTING {}", rule("")));
        nodes[0].become_role(Role::Master).unwrap();
        assert!(harmed(&cluster, vip));
        for (node, severity) in nodes.iter_mut().zip([Severity::Warning, Severity::Error, Severity::Error]) {
            expect_overwritten(node, severity, "MARK --set-xmark 0x5/0xffffffff", "-m mark --mark 0");
        }
        everywhere(format!("{program} -t mangle -R PREROUTING 1 {}", rule("-m mark --mark 0")));
        assert!(!harmed(&cluster, vip));
        let servers: BTreeSet<String> = (0..9).map(|_| cluster.client.get(vip).unwrap()).collect();
        assert_eq!(servers.len(), 3);
        nodes.iter_mut().for_each(expect_nothing);
        // In a chain of its own, as firewall programs make them.
        everywhere(format!("{program} -t mangle -F PREROUTING"));
        everywhere(format!("{program} -t mangle -N policy"));
        everywhere(format!("{program} -t mangle -A policy {}", rule("")));
        everywhere(format!("{program} -t mangle -A PREROUTING -j policy"));
        assert!(harmed(&cluster, vip));
        // Where that rule must stay: what other nodes send is marked again behind it.
        for (host, node) in cluster.nodes[1..].iter().zip(&mut nodes[1..]) {
            let finding = expect_overwritten(node, Severity::Error, "-A policy", "-m mark --mark 0");
            let commands = finding.remedy.text.split_once("before IPVS: ").unwrap().1.split("; ");
            let of_vip = commands.filter(|command| command.contains(&format!("-d {vip} ")));
            of_vip.for_each(|command| drop(host.sh(&command.replacen("tables ", "tables-legacy ", 1))));
        }
        assert!(!harmed(&cluster, vip));
        on_backups(&cluster, &format!("{program} -t mangle -F INPUT"));
        assert!(harmed(&cluster, vip));
        everywhere(format!("{program} -t mangle -I policy -m mark ! --mark 0 -j RETURN"));
        assert!(!harmed(&cluster, vip));
        nodes.iter_mut().for_each(expect_nothing);
    }
}

#[test]
fn own_requests_that_are_not_marked() {
    let (cluster, mut nodes) = cluster(Fence::Marks);
    for (index, host) in cluster.nodes[..2].iter().enumerate() {
        let failures = || {
            let requests = VIPS.into_iter().flat_map(|vip| [vip; 3]);
            requests.filter_map(|vip| Some(format!("{vip}: {}", host.get(vip).err()?)))
        };
        assert_eq!(failures().next(), None);
        for program in ["iptables-legacy", "ip6tables-legacy"] {
            host.sh(&format!("{program} -t mangle -F"));
        }
        assert!(failures().next().is_some());
        let [finding] = expect(&mut nodes[index], [("own-requests", Severity::Notice)]);
        fix(&mut nodes[index], &finding);
        assert_eq!(failures().next(), None);
    }
    // Left alone.
    let marks = MarksConfig { own_requests: OwnRequests::LeftAlone, ..MarksConfig::default() };
    let (cluster, mut nodes) = cluster_of(|| Config { marks: marks.clone(), ..config(Fence::Marks) });
    assert!(VIPS.into_iter().flat_map(|vip| (0..3).map(move |_| vip)).any(|vip| cluster.nodes[1].get(vip).is_err()));
    expect_nothing(&mut nodes[1]);
}

#[test]
fn destinations_in_another_order() {
    // Each packet is scheduled anew, so that one flow after the other shows the whole hash.
    for vip in VIPS {
        let service = at(vip, 53);
        // With weights that have much in common, too few of 4093 places differ to be met by each
        // run.
        let servers = [(11, 51), (12, 60), (13, 71)].map(|(last, weight)| (at(address(vip, last), 53), weight));
        let lines = servers.into_iter().map(|(server, weight)| format!("-a -u {service} -r {server} -g -w {weight}\n"));
        let head = format!("-A -u {service} -s mh -b mh-port,mh-fallback -o\n");
        let right = head.clone() + &lines.clone().collect::<String>();
        let wrong = head + &lines.rev().collect::<String>();
        let (cluster, mut nodes) = cluster_with(Fence::Marks, [&right, &right]);
        cluster.nodes.iter().for_each(|host| host.serve_udp(service));
        nodes.iter_mut().for_each(expect_nothing);
        let host = &cluster.nodes[0];
        let flows: Vec<Flow> = (0..900).map(|n| Flow::open_from(&cluster.client, 20_000 + n, service)).collect();
        let map = || -> Vec<String> { flows.iter().map(|flow| flow.ask(Duration::from_secs(1)).unwrap()).collect() };
        let before = map();
        assert_eq!(map(), before);
        host.sh(&format!("ipvsadm -D -u {service}"));
        host.run(|| wrong.lines().for_each(|line| drop(ipvsadm(line))));
        let moved = map().iter().zip(&before).filter(|(now, before)| now != before).count();
        println!("{moved} of 900 flows moved");
        assert!((1..100).contains(&moved), "{moved} of 900");
        let [finding] = expect(&mut nodes[0], [("destination-order", Severity::Notice)]);
        assert!(
            finding.reason.contains("another server") && finding.reason.contains(&service.to_string()),
            "{finding}"
        );
        // The remedy, for services of the file.
        host.sh(&format!("ipvsadm -D -u {service}"));
        let state_dir = nodes[0].config().state_dir.clone();
        let mut node = host.node(Config { services: Some(right.parse().unwrap()), state_dir, ..config(Fence::Marks) });
        node.apply(lvs_dr::node::Apply::All, |_| ()).unwrap();
        expect_nothing(&mut node);
        assert_eq!(map(), before);
        // A plan adds in the same order.
        host.run(|| {
            let mut ipvs = Ipvs::open().unwrap();
            let table = ipvs.table().unwrap();
            ipvs.apply(&Plan::between(&table, &Table::new())).unwrap();
            ipvs.apply(&Plan::between(&Table::new(), &table)).unwrap();
        });
        expect_nothing(&mut node);
    }
}

fn address(vip: IpAddr, last: u8) -> IpAddr {
    if vip.is_ipv4() { IpAddr::from([192, 0, 2, last]) } else { format!("2001:db8::{last}").parse().unwrap() }
}
