//! The audit: for each trap, the harm is seen with packets, then the finding, then the remedy, then that the harm is gone.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use lvs_dr::arp::{ArpTarget, Settings};
use lvs_dr::ipvs::{Origin, Scheduler, Table};
use lvs_dr::node::audit::{Finding, Kind, Severity};
use lvs_dr::node::{ArpConfig, Config, Fence, Loopback, Node, Role, VipOwner};
use rustix::process::{Pid, Signal, kill_process};

use crate::cluster::{Cluster, Flow, Host, Session, VIP4, VIP6, VIPS, until};
use crate::lab::{ip, ipvsadm};
use crate::node::new_path;

const FENCES: [Fence; 4] = [Fence::Quiesce, Fence::Stateless, Fence::BackupOnly, Fence::Clear];

/// The web service on both VIPs, on the nodes 11 to `last`.
fn web(options: &str, last: u8) -> String {
    let mut text = String::new();
    for (vip, net) in [("192.0.2.254", "192.0.2."), ("[2001:db8::fe]", "[2001:db8::")] {
        text += &format!("-A -t {vip}:80 {options}\n");
        for number in 11..=last {
            let end = if net.starts_with('[') { "]:80" } else { ":80" };
            text += &format!("-a -t {vip}:80 -r {net}{number}{end} -g -w 1\n");
        }
    }
    text
}

fn table(fence: Fence) -> Table {
    let options = if fence == Fence::Stateless { "-s mh -b mh-fallback,mh-port" } else { "-s rr" };
    web(options, 13).parse().unwrap()
}

fn config(fence: Fence) -> Config {
    Config {
        fence,
        services: Some(table(fence)),
        state_dir: new_path(),
        settle: Duration::from_millis(50),
        drain: Duration::from_millis(100),
        ..Config::new("bond0", VIPS)
    }
}

fn with_arp(ignore: i32, announce: i32) -> Option<ArpConfig> {
    let settings = Settings { ignore: ignore.into(), announce: announce.into() };
    Some(ArpConfig { settings, target: ArpTarget::Interface("bond0".into()) })
}

/// Three nodes of which the first directs, and nothing is found on any.
fn cluster_of(config: impl Fn() -> Config) -> (Cluster, Vec<Node>) {
    let cluster = Cluster::new(3);
    let mut nodes: Vec<Node> = cluster.nodes.iter().map(|host| host.node(config())).collect();
    nodes[1].become_role(Role::Backup).unwrap();
    nodes[2].become_role(Role::Backup).unwrap();
    nodes[0].become_role(Role::Master).unwrap();
    nodes.iter_mut().for_each(expect_nothing);
    (cluster, nodes)
}

fn cluster(fence: Fence) -> (Cluster, Vec<Node>) {
    cluster_of(|| config(fence))
}

fn audit(node: &mut Node) -> Vec<Finding> {
    node.audit(None).unwrap()
}

#[track_caller]
fn expect_nothing(node: &mut Node) {
    let found = audit(node);
    assert!(found.is_empty(), "{}", found[0]);
}

/// Just these findings, and that looking twice finds the same.
#[track_caller]
fn expect<const N: usize>(node: &mut Node, expected: [(&str, Severity); N]) -> [Finding; N] {
    let found = audit(node);
    let told: String = found.iter().map(|finding| format!("{finding}\n")).collect();
    let short: Vec<_> = found.iter().map(|finding| (finding.kind.name(), finding.severity)).collect();
    assert_eq!(short, expected, "{told}");
    assert_eq!(audit(node), found);
    found.try_into().unwrap()
}

/// The node does it, and nothing is found any more.
#[track_caller]
fn fix(node: &mut Node, finding: &Finding) {
    assert!(finding.remedy.is_ours() && finding.remedy.commands.is_empty(), "{finding}");
    let plan = node.plan_fix().unwrap();
    for step in &finding.remedy.steps {
        assert!(plan.steps().contains(step), "{step} is not in\n{plan}");
    }
    node.fix(|_| ()).unwrap();
    expect_nothing(node);
    assert!(node.plan_fix().unwrap().is_empty());
}

/// The commands are run as they are printed; the node itself does nothing about it.
#[track_caller]
fn by_hand(host: &Host, finding: &Finding) {
    assert!(!finding.remedy.is_ours() && !finding.remedy.commands.is_empty(), "{finding}");
    finding.remedy.commands.iter().for_each(|command| drop(host.sh(command)));
}

fn at(address: IpAddr, port: u16) -> SocketAddr {
    SocketAddr::new(address, port)
}

/// Who answers ARP requests for the VIP, by name.
fn answering(cluster: &Cluster) -> Vec<&str> {
    let macs = cluster.client.who_has(VIP4);
    cluster.nodes.iter().filter(|node| macs.contains(&node.mac)).map(|node| node.name.as_str()).collect()
}

#[test]
fn nothing_is_found_on_a_right_set_up() {
    for fence in FENCES {
        let cluster = Cluster::new(1);
        let host = &cluster.nodes[0];
        for loopback in [Loopback::Always, Loopback::Backup] {
            let mut node = host.node(Config { loopback, ..config(fence) });
            expect_nothing(&mut node);
            for role in Role::ALL.into_iter().chain([Role::Master, Role::Backup]) {
                node.become_role(role).unwrap();
                expect_nothing(&mut node);
                assert!(node.plan_fix().unwrap().is_empty());
            }
            node.release(|_| ()).unwrap();
            expect_nothing(&mut node);
            assert!(node.plan_fix().is_err() && node.fix(|_| ()).is_err());
        }
        // keepalived's.
        let mut node = host.node(Config {
            vip_owner: VipOwner::Keepalived,
            fence: if fence == Fence::BackupOnly { Fence::Quiesce } else { fence },
            ..config(fence)
        });
        let file = new_path().with_extension("conf");
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        let text = "vrrp_instance web {\n state BACKUP\n nopreempt\n virtual_ipaddress {\n 192.0.2.254/32\n }\n}\n";
        std::fs::write(&file, text).unwrap();
        for role in [Role::Backup, Role::Master, Role::Backup] {
            let verb = if role == Role::Master { "add" } else { "delete" };
            if role == Role::Master || node.status().unwrap().vips[0].1.len() > 1 {
                host.sh(&format!("ip address {verb} 192.0.2.254/32 dev bond0"));
                host.sh(&format!("ip address {verb} 2001:db8::fe/128 dev bond0"));
            }
            node.become_role(role).unwrap();
            assert_eq!(node.audit(Some(&file)).unwrap(), [], "{fence:?} {role}");
        }
    }
}

#[test]
fn a_backup_that_answers_arp_requests() {
    let (cluster, mut nodes) = cluster(Fence::Quiesce);
    let (host, node) = (&cluster.nodes[1], &mut nodes[1]);
    let conf = |of: &str, what: &str, value: &str| host.sysctl(&format!("ipv4/conf/{of}/{what}"), value);
    assert_eq!(answering(&cluster), ["n1"]);

    // Somebody's settings for all: the greater number counts, and it is not the stricter.
    conf("all", "arp_ignore", "4");
    assert_eq!(answering(&cluster), ["n1", "n2"]);
    let [finding] = expect(node, [("arp-answer", Severity::Error)]);
    assert!(finding.reason.contains("arp_ignore on bond0 is 4") && finding.reason.contains("192.0.2.254"), "{finding}");
    by_hand(host, &finding);
    assert_eq!(answering(&cluster), ["n1"]);
    expect_nothing(node);
    conf("all", "arp_ignore", "0");

    // Somebody who resets the interface (networkd).
    conf("bond0", "arp_ignore", "0");
    assert_eq!(answering(&cluster), ["n1", "n2"]);
    let [finding] = expect(node, [("arp-answer", Severity::Error)]);
    fix(node, &finding);
    assert_eq!(answering(&cluster), ["n1"]);

    // On the director it will harm.
    cluster.nodes[0].sysctl("ipv4/conf/all/arp_ignore", "7");
    let [finding] = expect(&mut nodes[0], [("arp-answer", Severity::Warning)]);
    by_hand(&cluster.nodes[0], &finding);
    expect_nothing(&mut nodes[0]);
}

#[test]
fn route_localnet_undoes_mode_3() {
    let with_3 = || Config { arp: with_arp(3, 2), ..config(Fence::Quiesce) };
    let (cluster, mut nodes) = cluster_of(with_3);
    let host = &cluster.nodes[1];
    // kube-proxy.
    host.sysctl("ipv4/conf/all/route_localnet", "1");
    assert_eq!(answering(&cluster), ["n1", "n2"]);
    let [finding] = expect(&mut nodes[1], [("arp-answer", Severity::Error)]);
    assert!(
        finding.reason.contains("route_localnet") && finding.remedy.text.contains("configure arp_ignore 1"),
        "{finding}"
    );
    let state_dir = nodes[1].config().state_dir.clone();
    let mut node = host.node(Config { arp: with_arp(1, 2), state_dir, ..with_3() });
    let [finding] = expect(&mut node, [("arp-answer", Severity::Error)]);
    fix(&mut node, &finding);
    assert_eq!(answering(&cluster), ["n1"]);
}

#[test]
fn a_second_interface_in_the_lan() {
    let (cluster, mut nodes) = cluster(Fence::Quiesce);
    let host = &cluster.nodes[1];
    let here = rustix::thread::gettid().as_raw_nonzero();
    host.sh(&format!("ip link add eth1 type veth peer name n2b netns {here}"));
    ip("link set n2b master br0 up");
    host.sh("ip link set eth1 address 02:00:00:00:01:12 up");
    // Another network on it: nobody asks for the VIP there.
    host.sh("ip address add 198.51.100.12/24 dev eth1");
    expect_nothing(&mut nodes[1]);
    host.sh("ip address add 192.0.2.112/24 dev eth1");
    assert!(cluster.client.who_has(VIP4).contains("02:00:00:00:01:12"));
    let found = audit(&mut nodes[1]);
    assert!(found.iter().all(|finding| finding.severity == Severity::Error && finding.reason.contains("eth1")));
    assert_eq!(found.iter().map(|f| f.kind.name()).collect::<Vec<_>>(), ["arp-answer", "arp-announce"]);
    found.iter().for_each(|finding| by_hand(host, finding));
    assert_eq!(cluster.client.who_has(VIP4), [cluster.nodes[0].mac.clone()].into());
    expect_nothing(&mut nodes[1]);
}

#[test]
fn a_backup_that_names_the_vip_in_its_own_arp_requests() {
    let (cluster, mut nodes) = cluster(Fence::Quiesce);
    let host = &cluster.nodes[1];
    // The backup has to answer a client whose Ethernet address it does not know, from the VIP.
    let drawn = |host: &Host| {
        cluster.client.sh("ip neighbour flush dev eth0 nud all");
        cluster.client.get(VIP4).unwrap();
        host.sh("ip neighbour flush dev bond0 nud all");
        host.run(|| {
            let socket = std::net::UdpSocket::bind("192.0.2.254:0").unwrap();
            let _ = socket.send_to(b"x", "192.0.2.1:9");
        });
        thread::sleep(Duration::from_millis(100));
        cluster.client.sh("ip neighbour show 192.0.2.254").contains(&host.mac)
    };
    assert!(!drawn(host));
    host.sysctl("ipv4/conf/bond0/arp_announce", "0");
    assert!(drawn(host));
    let [finding] = expect(&mut nodes[1], [("arp-announce", Severity::Error)]);
    fix(&mut nodes[1], &finding);
    assert!(!drawn(host));
}

#[test]
fn a_loopback_vip_without_scope_host() {
    let (cluster, mut nodes) = cluster_of(|| Config { arp: with_arp(3, 2), ..config(Fence::Quiesce) });
    let host = &cluster.nodes[1];
    host.sh("ip address delete 192.0.2.254/32 dev lo");
    host.sh("ip address add 192.0.2.254/32 dev lo");
    assert_eq!(answering(&cluster), ["n1", "n2"]);
    let [finding] = expect(&mut nodes[1], [("loopback-scope", Severity::Error)]);
    fix(&mut nodes[1], &finding);
    assert_eq!(answering(&cluster), ["n1"]);
    assert!(host.sh("ip address show dev lo").contains("192.0.2.254/32 scope host"));
}

#[test]
fn a_loopback_vip_with_a_mask_swallows_the_neighbours() {
    let (cluster, mut nodes) = cluster(Fence::Quiesce);
    let host = &cluster.nodes[1];
    let reaches = |address: &str| host.get(address.parse().unwrap()).is_ok_and(|server| server == "n3");
    for (vip, prefix, neighbour) in [("192.0.2.254", 24, "192.0.2.13"), ("2001:db8::fe", 64, "2001:db8::13")] {
        assert!(reaches(neighbour));
        let host_prefix = if prefix == 24 { 32 } else { 128 };
        host.sh(&format!("ip address delete {vip}/{host_prefix} dev lo"));
        host.sh(&format!("ip address add {vip}/{prefix} dev lo"));
        if prefix == 64 {
            // As where the address was there first, at boot.
            host.sh("ip address delete 2001:db8::12/64 dev bond0");
            host.sh("ip address add 2001:db8::12/64 dev bond0 nodad");
        }
        assert!(!reaches(neighbour), "{}", host.sh("ip -6 route"));
        let found = audit(&mut nodes[1]);
        let mask = found.iter().find(|finding| finding.kind.name() == "loopback-mask").unwrap();
        assert_eq!(mask.severity, Severity::Error);
        by_hand(host, mask);
        let [finding] = expect(&mut nodes[1], [("vip-missing", Severity::Error)]);
        fix(&mut nodes[1], &finding);
        assert!(reaches(neighbour));
    }
}

#[test]
fn the_vip_on_the_interface_of_a_backup() {
    for owner in [VipOwner::Node, VipOwner::Keepalived] {
        let cluster = Cluster::new(2);
        let config = || Config { vip_owner: owner, ..config(Fence::Quiesce) };
        let [master, host] = &cluster.nodes[..] else { unreachable!() };
        let mut node = host.node(config());
        node.become_role(Role::Backup).unwrap();
        expect_nothing(&mut node);
        master.node(Config { vip_owner: VipOwner::Node, ..config() }).become_role(Role::Master).unwrap();
        assert_eq!(answering(&cluster), ["n1"]);
        host.sh("ip address add 192.0.2.254/32 dev bond0");
        assert_eq!(answering(&cluster), ["n1", "n2"]);
        let [finding] = expect(&mut node, [("vip-on-interface", Severity::Error)]);
        match owner {
            VipOwner::Node => fix(&mut node, &finding),
            VipOwner::Keepalived => by_hand(host, &finding),
        }
        assert_eq!(answering(&cluster), ["n1"]);
        expect_nothing(&mut node);
    }
}

#[test]
fn a_director_whom_keepalived_has_given_no_vip() {
    let cluster = Cluster::new(1);
    let host = &cluster.nodes[0];
    let services = Some(web("-s rr", 11).parse().unwrap());
    let mut node = host.node(Config { vip_owner: VipOwner::Keepalived, services, ..config(Fence::Quiesce) });
    node.become_role(Role::Master).unwrap();
    assert!(cluster.client.get(VIP4).is_err());
    let [v4, v6] = expect(&mut node, [("role-differs", Severity::Error), ("role-differs", Severity::Error)]);
    assert!(v4.reason.contains("192.0.2.254") && v6.reason.contains("2001:db8::fe"), "{v4}\n{v6}");
    assert!(!v4.remedy.is_ours());
    host.sh("ip address add 192.0.2.254/32 dev bond0");
    host.sh("ip address add 2001:db8::fe/128 dev bond0 nodad");
    assert_eq!(cluster.client.get(VIP4).unwrap(), "n1");
    expect_nothing(&mut node);
}

/// How many of some new connections fail, by both families.
fn failures(cluster: &Cluster) -> usize {
    (0..9).flat_map(|_| VIPS).filter(|vip| cluster.client.get(*vip).is_err()).count()
}

#[test]
fn a_live_table_on_an_unfenced_backup() {
    for fence in [Fence::Quiesce, Fence::Clear] {
        let (cluster, mut nodes) = cluster(fence);
        assert_eq!(failures(&cluster), 0);
        // A checker that puts weights back; `ipvsadm -R` at boot.
        for host in &cluster.nodes[1..] {
            host.run(|| {
                let live = lvs_dr::ipvs::Ipvs::open().unwrap().table().unwrap();
                let plan = lvs_dr::ipvs::Plan::between(&live, &table(fence));
                lvs_dr::ipvs::Ipvs::open().unwrap().apply(&plan).unwrap();
            });
        }
        assert!(failures(&cluster) > 0, "{fence:?}");
        for node in &mut nodes[1..] {
            let [finding] = expect(node, [("unfenced", Severity::Error)]);
            assert!(matches!(&finding.kind, Kind::Unfenced { services, .. } if services.len() == 2), "{finding}");
            fix(node, &finding);
        }
        assert_eq!(failures(&cluster), 0, "{fence:?}");
    }
}

#[test]
fn a_live_service_on_the_vip_that_no_node_knows_of() {
    for fence in FENCES {
        let (cluster, mut nodes) = cluster(fence);
        let dns = "-A -u 192.0.2.254:53 -s rr";
        for host in &cluster.nodes {
            host.serve_udp(at(VIP4, 53));
            host.run(|| {
                ipvsadm(dns);
                (11..14).for_each(|last| drop(ipvsadm(&format!("-a -u 192.0.2.254:53 -r 192.0.2.{last}:53 -g -w 1"))));
            });
        }
        let ask = || Flow::open(&cluster.client, at(VIP4, 53)).ask(Duration::from_millis(200));
        let lost = || (0..18).filter(|_| ask().is_err()).count();
        let switched = fence == Fence::BackupOnly;
        assert_eq!(lost() == 0, switched, "{fence:?}");
        for (node, host) in nodes[1..].iter_mut().zip(&cluster.nodes[1..]) {
            if switched {
                expect_nothing(node);
                continue;
            }
            let [finding] = expect(node, [("unfenced", Severity::Error)]);
            by_hand(host, &finding);
            expect_nothing(node);
        }
        assert_eq!(lost(), 0, "{fence:?}");
    }
}

#[test]
fn a_backup_daemon_on_a_director_with_backup_only() {
    for fence in [Fence::BackupOnly, Fence::Stateless] {
        let (cluster, mut nodes) = cluster(fence);
        let servers = || {
            let mut servers: Vec<String> = (0..12).map(|_| cluster.client.get(VIP4).unwrap()).collect();
            servers.sort();
            servers.dedup();
            servers
        };
        assert!(servers().len() > 1);
        let host = &cluster.nodes[0];
        host.sysctl("ipv4/vs/backup_only", "1");
        expect_nothing(&mut nodes[0]);
        host.sh("ipvsadm --start-daemon backup --mcast-interface bond0 --syncid 254");
        assert_eq!(servers(), ["n1"]);
        let [finding] = expect(&mut nodes[0], [("backup-daemon-on-master", Severity::Error)]);
        match fence {
            Fence::BackupOnly => fix(&mut nodes[0], &finding),
            _ => by_hand(host, &finding),
        }
        assert!(servers().len() > 1);
        expect_nothing(&mut nodes[0]);
    }
}

/// Makes the second node the director.
fn move_to_second(nodes: &mut [Node]) {
    nodes[1].become_role(Role::Master).unwrap();
    nodes[0].become_role(Role::Backup).unwrap();
}

/// Where a node knows a session from, if it does: its own it has scheduled itself.
fn origin(host: &Host, session: &Session) -> Option<Origin> {
    let known = host.run(|| lvs_dr::ipvs::Ipvs::open().unwrap().connections().unwrap());
    known.iter().find(|connection| connection.client == session.client()).and_then(|connection| connection.origin)
}

#[test]
fn a_sync_threshold_that_never_syncs() {
    for found in ["1 50", "3 50", "0 50"] {
        let (cluster, mut nodes) = cluster(Fence::Quiesce);
        cluster.nodes[0].sysctl("ipv4/vs/sync_threshold", found);
        // One for each server; the new director will take its own.
        let silent = || (0..3).flat_map(|_| VIPS.map(|vip| Session::silent(&cluster.client, vip).unwrap())).collect();
        let mut lost: Vec<Session> = silent();
        thread::sleep(Duration::from_millis(2500));
        let [finding] = expect(&mut nodes[0], [("sync-threshold", Severity::Warning)]);
        assert!(finding.reason.contains(&format!("sync_threshold is {found}")), "{finding}");
        let plan = nodes[0].plan_fix().unwrap();
        assert!(plan.to_string().contains("sync_threshold = 2 50"), "{plan}");
        fix(&mut nodes[0], &finding);
        let mut kept: Vec<Session> = silent();
        until("sessions are learned", || kept.iter().all(|session| origin(&cluster.nodes[1], session).is_some()));
        assert!(lost.iter().all(|session| origin(&cluster.nodes[1], session) != Some(Origin::Sync)));
        move_to_second(&mut nodes);
        assert_eq!(lost.iter_mut().filter_map(|session| session.ask().err()).count(), 4, "{found}");
        assert_eq!(kept.iter_mut().filter_map(|session| session.ask().err()).count(), 0, "{found}");
        nodes.iter_mut().for_each(expect_nothing);
    }
}

#[test]
fn no_sync_daemon() {
    let (cluster, mut nodes) = cluster(Fence::Quiesce);
    cluster.nodes[1].sh("ipvsadm --stop-daemon backup");
    let lost = cluster.client.session_with("n3", VIP4);
    thread::sleep(Duration::from_millis(2500));
    assert_eq!(origin(&cluster.nodes[1], &lost), None);
    let [finding] = expect(&mut nodes[1], [("sync-daemon", Severity::Warning)]);
    fix(&mut nodes[1], &finding);
    let kept = cluster.client.session_with("n3", VIP4);
    until("it is learned", || origin(&cluster.nodes[1], &kept) == Some(Origin::Sync));
}

/// Nodes whose tables are those that were found running: the director's, and the others'.
fn cluster_with(fence: Fence, [first, others]: [&str; 2]) -> (Cluster, Vec<Node>) {
    let cluster = Cluster::new(3);
    let mut nodes: Vec<Node> =
        cluster.nodes.iter().map(|host| host.node(Config { services: None, ..config(fence) })).collect();
    for ((host, node), text) in cluster.nodes.iter().zip(&mut nodes).zip([first, others, others]) {
        host.run(|| text.lines().for_each(|line| drop(ipvsadm(line))));
        node.become_role(Role::Backup).unwrap();
    }
    nodes[0].become_role(Role::Master).unwrap();
    (cluster, nodes)
}

#[test]
fn a_persistent_client_and_a_dead_server() {
    for vip in VIPS {
        let text = web("-s rr -p 100", 13);
        let (cluster, mut nodes) = cluster_with(Fence::Quiesce, [&text, &text]);
        let named = if vip == VIP4 { "192.0.2.254:80" } else { "[2001:db8::fe]:80" };
        let mut server = cluster.client.get(vip).unwrap();
        if server == "n1" {
            // Of another client.
            cluster.client.sh("ip address delete 192.0.2.1/24 dev eth0");
            cluster.client.sh("ip address add 192.0.2.2/24 dev eth0");
            cluster.client.sh("ip address delete 2001:db8::1/64 dev eth0");
            cluster.client.sh("ip address add 2001:db8::2/64 dev eth0 nodad");
            server = cluster.client.get(vip).unwrap();
        }
        assert_ne!(server, "n1");
        assert!((0..4).all(|_| cluster.client.get(vip).unwrap() == server));
        // The server dies, and a checker quiesces it (ldirectord's `quiescent`, keepalived's `inhibit_on_failure`).
        let dead = cluster.nodes.iter().find(|host| host.name == server).unwrap();
        let address = dead.addresses[usize::from(vip.is_ipv6())];
        ip(&format!("link set {server} down"));
        cluster.nodes[0].sh(&format!("ipvsadm -e -t {named} -r {} -g -w 0", at(address, 80)));
        assert!(cluster.client.get(vip).is_err() && cluster.client.get(vip).is_err());
        let [finding] = expect(&mut nodes[0], [("expire-quiescent-template", Severity::Warning)]);
        assert!(matches!(&finding.kind, Kind::ExpireQuiescentTemplate { services, .. } if services.len() == 2));
        // The backups have learned where the client went, and would send it there still.
        for node in &mut nodes[1..] {
            let [finding] = expect(node, [("expire-quiescent-template", Severity::Warning)]);
            fix(node, &finding);
        }
        fix(&mut nodes[0], &finding);
        assert_ne!(cluster.client.get(vip).unwrap(), server);

        // It stays so, whatever the role, and is put right again; on release it is given back.
        let value = || cluster.nodes[0].sh("cat /proc/sys/net/ipv4/vs/expire_quiescent_template");
        for role in [Role::Backup, Role::Master] {
            nodes[0].become_role(role).unwrap();
            assert_eq!(value(), "1\n");
        }
        cluster.nodes[0].sysctl("ipv4/vs/expire_quiescent_template", "0");
        nodes[0].become_role(Role::Master).unwrap();
        assert_eq!(value(), "1\n");
        nodes[0].release(|_| ()).unwrap();
        assert_eq!(value(), "0\n");
    }
}

/// A UDP service; another one beside it keeps IPVS at work when it is gone.
fn dns(vip: IpAddr, server: u8) -> String {
    let (vip, server) = match vip {
        IpAddr::V4(_) => (at(vip, 53), format!("192.0.2.{server}:53")),
        IpAddr::V6(_) => (at(vip, 53), format!("[2001:db8::{server}]:53")),
    };
    format!("-A -u {vip} -s rr\n-a -u {vip} -r {server} -g -w 1\n")
}

/// A service of somebody else.
fn other(vip: IpAddr) -> &'static str {
    if vip.is_ipv4() { "-A -t 198.51.100.1:443 -s rr" } else { "-A -t [2001:db8:9::1]:443 -s rr" }
}

#[test]
fn connections_that_outlive_a_cleared_table() {
    for vip in VIPS {
        let (cluster, mut nodes) = cluster_with(Fence::Clear, [&dns(vip, 12), &dns(vip, 12)]);
        nodes[1].become_role(Role::Backup).unwrap();
        cluster.nodes.iter().for_each(|host| host.serve_udp(at(vip, 53)));
        let (host, node) = (&cluster.nodes[1], &mut nodes[1]);
        // Somebody's sysctl.conf, and somebody's table, which comes and goes.
        host.sysctl("ipv4/vs/expire_nodest_conn", "0");
        host.sh(&format!("ipvsadm {}", other(vip)));
        host.run(|| dns(vip, 13).lines().for_each(|line| drop(ipvsadm(line))));
        let flow = Flow::open(&cluster.client, at(vip, 53));
        let ask = || flow.ask(Duration::from_secs(1));
        assert_eq!(ask().unwrap(), "n3");
        host.sh(&format!("ipvsadm -D -u {}", at(vip, 53)));
        assert!(ask().is_err() && ask().is_err());
        let found = [("expire-nodest-conn", Severity::Error), ("udp-dropped", Severity::Warning), UDP_TIMEOUT];
        let [finding, ..] = expect(node, found);
        assert!(finding.remedy.is_ours(), "{finding}");
        node.fix(|_| ()).unwrap();
        assert_eq!(ask().unwrap(), "n2");
        expect(node, [UDP_TIMEOUT]);
        // A director that will clear its table.
        cluster.nodes[0].sysctl("ipv4/vs/expire_nodest_conn", "0");
        let found = [("expire-nodest-conn", Severity::Warning), ("udp-dropped", Severity::Warning), UDP_TIMEOUT];
        expect(&mut nodes[0], found);
    }
}

/// The kernel's default.
const UDP_TIMEOUT: (&str, Severity) = ("udp-timeout", Severity::Notice);

#[test]
fn udp_flows_and_dead_servers() {
    for vip in VIPS {
        let text = dns(vip, 12) + &dns(vip, 13).lines().skip(1).map(|line| format!("{line}\n")).collect::<String>();
        let (cluster, mut nodes) = cluster_with(Fence::Quiesce, [&text, &text]);
        let host = &cluster.nodes[0];
        cluster.nodes.iter().for_each(|host| host.serve_udp(at(vip, 53)));
        let flow = Flow::open(&cluster.client, at(vip, 53));
        let ask = || flow.ask(Duration::from_millis(500));
        let server = ask().unwrap();
        let dead = cluster.nodes.iter().find(|host| host.name == server).unwrap();
        let address = at(dead.addresses[usize::from(vip.is_ipv6())], 53);
        let named = at(vip, 53);

        // It dies, and is removed.
        ip(&format!("link set {server} down"));
        host.sh(&format!("ipvsadm -d -u {named} -r {address}"));
        assert!((0..3).all(|_| ask().is_err()));
        let [finding, _] = expect(&mut nodes[0], [("udp-dropped", Severity::Warning), UDP_TIMEOUT]);
        assert!(finding.remedy.is_ours(), "{finding}");
        nodes[0].fix(|_| ()).unwrap();
        let next = ask().or_else(|_| ask()).unwrap();
        assert_ne!(next, server);
        let [finding] = expect(&mut nodes[0], [UDP_TIMEOUT]);

        // That one dies, too, and gets weight 0. The client tries again from time to time.
        ip(&format!("link set {server} up"));
        host.sh(&format!("ipvsadm -a -u {named} -r {address} -g -w 1"));
        let dead = cluster.nodes.iter().find(|host| host.name == next).unwrap();
        ip(&format!("link set {next} down"));
        host.sh(&format!("ipvsadm -e -u {named} -r {} -g -w 0", at(dead.addresses[usize::from(vip.is_ipv6())], 53)));
        let ask_later = || {
            thread::sleep(Duration::from_secs(3));
            ask()
        };
        assert!((0..2).all(|_| ask_later().is_err()));
        // As printed; then less, or this would take half a minute.
        by_hand(host, &finding);
        expect_nothing(&mut nodes[0]);
        host.sh("ipvsadm --set 0 0 1");
        assert!(ask().is_err());
        assert_eq!(ask_later().unwrap(), server);
        // Or the other remedy.
        host.sh("ipvsadm --set 0 0 300");
        host.sh(&format!("ipvsadm -E -u {named} -s rr -o"));
        expect_nothing(&mut nodes[0]);
    }
}

#[test]
fn strict_filtering_drops_what_the_director_sends() {
    let (cluster, mut nodes) = cluster(Fence::Stateless);
    let host = &cluster.nodes[2];
    // Clients come from elsewhere, and this server has a second interface, with its default route.
    second_cable(&cluster.client, host);
    cluster.client.sh("ip address add 10.9.9.1/32 dev eth0");
    for node in &cluster.nodes[..2] {
        node.sh("ip route add 10.9.9.0/24 dev bond0");
    }
    host.sh("ip route add default dev eth1 src 198.51.100.13");
    let reached =
        || (0..12).filter(|_| Session::open_from(&cluster.client, "10.9.9.1".parse().unwrap(), VIP4).is_ok()).count();
    assert_eq!(reached(), 12);
    expect_nothing(&mut nodes[2]);
    for (of, value) in [("all", "1"), ("bond0", "1")] {
        host.sysctl(&format!("ipv4/conf/{of}/rp_filter"), value);
        let some = reached();
        assert!(some < 12, "{of}: {some}");
        let [finding] = expect(&mut nodes[2], [("rp-filter", Severity::Error)]);
        assert!(matches!(&finding.kind, Kind::RpFilter { through, .. } if through == "eth1"), "{finding}");
        by_hand(host, &finding);
        assert_eq!(reached(), 12);
        expect_nothing(&mut nodes[2]);
    }
}

/// From the node's eth1 to the client's eth1.
fn second_cable(client: &Host, host: &Host) {
    client.run(|| {
        crate::lab::cable("eth1", "02:00:00:00:02:01", &host.netns, "eth1");
        ip("address add 198.51.100.1/24 dev eth1");
    });
    host.sh("ip address add 198.51.100.13/24 dev eth1");
}

#[test]
fn a_table_that_is_not_what_the_configuration_wants() {
    let (cluster, mut nodes) = cluster(Fence::Quiesce);
    let host = &cluster.nodes[0];
    host.sh("ipvsadm -D -t 192.0.2.254:80");
    host.sh("ipvsadm -a -t [2001:db8::fe]:80 -r [2001:db8::99]:80 -g -w 1");
    assert!((0..3).all(|_| cluster.client.get(VIP4).unwrap() == "n1"));
    assert!((0..4).any(|_| cluster.client.get(VIP6).is_err()));
    let [finding] = expect(&mut nodes[0], [("table-differs", Severity::Error)]);
    assert!(finding.reason.contains("2001:db8::99"), "{finding}");
    fix(&mut nodes[0], &finding);
    assert_eq!(failures(&cluster), 0);
    // A backup that lacks it would not know the sessions' servers when it is promoted.
    cluster.nodes[1].sh("ipvsadm -C");
    let [finding] = expect(&mut nodes[1], [("table-differs", Severity::Warning)]);
    fix(&mut nodes[1], &finding);
}

#[test]
fn a_scheduler_that_the_kernel_lacks() {
    for fence in [Fence::Clear, Fence::Quiesce] {
        let cluster = Cluster::new(1);
        let host = &cluster.nodes[0];
        let right: Table = web("-s rr", 11).parse().unwrap();
        let mut services = right.clone();
        let mut service = services.services().next().unwrap().service.clone();
        service.scheduler = Scheduler::new("absent").unwrap();
        services.insert(service.clone());
        let config = Config { services: Some(services), ..config(fence) };
        let mut node = host.node(config.clone());
        // Before a role is taken on: the backup's table may be empty.
        let before = host.sh("ipvsadm -Sn");
        let [finding] = expect(&mut node, [("service-refused", Severity::Warning)]);
        assert!(finding.reason.contains("absent"), "{finding}");
        assert!(matches!(&finding.kind, Kind::ServiceRefused { service: found, .. } if *found == service.id));
        assert_eq!(host.sh("ipvsadm -Sn"), before);
        if fence == Fence::Clear {
            node.become_role(Role::Backup).unwrap();
            expect(&mut node, [("service-refused", Severity::Warning)]);
        }
        node.become_role(Role::Master).unwrap_err();
        // Nobody answers, or it answers alone.
        assert_eq!(cluster.client.get(VIP4).is_err(), fence == Fence::Clear);
        assert_eq!(host.sh("ipvsadm -Sn"), "");
        let mut node = host.node(Config { services: Some(right), ..config });
        node.become_role(Role::Master).unwrap();
        assert_eq!(cluster.client.get(VIP4).unwrap(), "n1");
        expect_nothing(&mut node);
    }
}

#[test]
fn an_ipv6_vip_that_duplicate_detection_found_elsewhere() {
    let (cluster, mut nodes) = cluster(Fence::Quiesce);
    let host = &cluster.nodes[0];
    // A second director for a while (split brain), and a script that adds the VIP without nodad.
    cluster.nodes[1].sh("ip address add 2001:db8::fe/128 dev bond0 nodad");
    host.sh("ip address delete 2001:db8::fe/128 dev bond0");
    host.sh("ip address delete 2001:db8::fe/128 dev lo");
    host.sh("ip address add 2001:db8::fe/128 dev bond0");
    until("it is found", || host.sh("ip address show dev bond0").contains("dadfailed"));
    nodes[1].fix(|_| ()).unwrap();
    cluster.client.sh("ip -6 neighbour flush dev eth0 nud all");
    assert!(cluster.client.get(VIP6).is_err());
    let found = audit(&mut nodes[0]);
    let names: Vec<&str> = found.iter().map(|finding| finding.kind.name()).collect();
    assert_eq!(names, ["vip-missing", "vip-unusable"]);
    assert!(found.iter().all(|finding| finding.severity == Severity::Error && finding.remedy.is_ours()));
    fix(&mut nodes[0], &found[1]);
    cluster.client.sh("ip -6 neighbour flush dev eth0 nud all");
    assert!(cluster.client.get(VIP6).is_ok());
}

#[test]
fn a_vip_that_somebody_removed() {
    let (cluster, mut nodes) = cluster(Fence::Quiesce);
    for (index, vip, place, prefix) in
        [(0, VIP4, "bond0", 32), (1, VIP4, "lo", 32), (0, VIP6, "bond0", 128), (1, VIP6, "lo", 128)]
    {
        let host = &cluster.nodes[index];
        host.sh(&format!("ip address delete {vip}/{prefix} dev {place}"));
        cluster.client.sh("ip neighbour flush dev eth0 nud all");
        cluster.client.sh("ip -6 neighbour flush dev eth0 nud all");
        assert!((0..3).any(|_| cluster.client.get(vip).is_err()), "{vip} {place}");
        let [finding] = expect(&mut nodes[index], [("vip-missing", Severity::Error)]);
        fix(&mut nodes[index], &finding);
        assert_eq!(failures(&cluster), 0, "{vip} {place}");
    }
}

#[test]
fn what_is_in_the_way_of_every_role() {
    let (cluster, mut nodes) = cluster(Fence::Stateless);
    let host = &cluster.nodes[1];
    host.sh("ip link add other0 up type dummy");
    host.sh("ip address add 192.0.2.254/32 dev other0");
    nodes[1].become_role(Role::Master).unwrap_err();
    let [finding] = expect(&mut nodes[1], [("blocked", Severity::Error)]);
    assert!(finding.reason.contains("192.0.2.254/32 on other0"), "{finding}");
    host.sh("ip address delete 192.0.2.254/32 dev other0");
    expect_nothing(&mut nodes[1]);
    // A director of nothing.
    let cluster = Cluster::new(1);
    let mut node = cluster.nodes[0].node(Config { services: None, ..config(Fence::Clear) });
    node.become_role(Role::Master).unwrap();
    expect(&mut node, [("no-services", Severity::Error)]);
    cluster.nodes[0].sh("ipvsadm -A -t 192.0.2.254:80 -s rr");
    expect_nothing(&mut node);
    // Not harmful by itself, but not as it should be.
    cluster.nodes[0].sh("ip address change 2001:db8::fe/128 dev lo preferred_lft forever valid_lft forever");
    let [finding] = expect(&mut node, [("out-of-place", Severity::Warning)]);
    fix(&mut node, &finding);
}

/// A keepalived, until it is dropped.
struct Keepalived(Child);

impl Keepalived {
    fn start(host: &Host, conf: &Path) -> Self {
        let pid = |what: &str| conf.with_extension(what).display().to_string();
        let mut command = Command::new("keepalived");
        command.args(["--vrrp", "--dont-fork", "--log-console", "--use-file"]).arg(conf);
        command.args(["--pid", &pid("pid"), "--vrrp_pid", &pid("vrrp")]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        Keepalived(host.run(|| command.spawn().unwrap()))
    }
}

impl Drop for Keepalived {
    fn drop(&mut self) {
        kill_process(Pid::from_child(&self.0), Signal::TERM).unwrap();
        self.0.wait().unwrap();
    }
}

#[test]
fn a_node_that_comes_back_and_preempts() {
    let cluster = Cluster::new(3);
    let dir = new_path();
    std::fs::create_dir_all(&dir).unwrap();
    // On every node the same, but for the priority.
    let conf = |index: usize, more: &str| {
        let path = dir.join(format!("n{index}.conf"));
        let text = format!(
            "global_defs {{\n router_id n{index}\n vrrp_version 3\n}}\nvrrp_instance web {{\n state BACKUP\n{more}\n interface bond0\n \
             virtual_router_id 51\n priority {}\n advert_int 0.2\n virtual_ipaddress {{\n 192.0.2.254/32 dev bond0\n }}\n}}\n",
            250 - 80 * index
        );
        std::fs::write(&path, text).unwrap();
        path
    };
    // The first, which goes and comes, serves nothing.
    let text = "-A -t 192.0.2.254:80 -s rr\n-a -t 192.0.2.254:80 -r 192.0.2.12:80 -g -w 1\n\
                -a -t 192.0.2.254:80 -r 192.0.2.13:80 -g -w 1\n";
    let config = || Config {
        vips: vec![VIP4],
        vip_owner: VipOwner::Keepalived,
        services: Some(text.parse().unwrap()),
        ..config(Fence::Quiesce)
    };
    let mut nodes: Vec<Node> = cluster.nodes.iter().map(|host| host.node(config())).collect();
    let holds = |index: usize| cluster.nodes[index].sh("ip -o address show dev bond0").contains("192.0.2.254");
    nodes[2].become_role(Role::Backup).unwrap();

    for (more, preempts) in [("", true), (" nopreempt", false)] {
        // The first is away, and the second directs; sessions are made, and fall silent.
        nodes[0].release(|_| ()).unwrap();
        nodes[1].become_role(Role::Backup).unwrap();
        let second = Keepalived::start(&cluster.nodes[1], &conf(1, more));
        until("the second holds the VIP", || holds(1));
        nodes[1].become_role(Role::Master).unwrap();
        let mut sessions: Vec<Session> = (0..6).map(|_| Session::open(&cluster.client, VIP4).unwrap()).collect();
        // They are told to whoever listens, within two seconds.
        thread::sleep(Duration::from_secs(4));

        // It comes back.
        nodes[0].become_role(Role::Backup).unwrap();
        let first = Keepalived::start(&cluster.nodes[0], &conf(0, more));
        if preempts {
            until("the first holds the VIP", || holds(0) && !holds(1));
            nodes[0].become_role(Role::Master).unwrap();
            nodes[1].become_role(Role::Backup).unwrap();
        } else {
            thread::sleep(Duration::from_secs(3));
            assert!(holds(1) && !holds(0));
        }
        let lost = sessions.iter_mut().filter_map(|session| session.ask().err()).count();
        assert_eq!(lost > 0, preempts, "{lost} of 6 were lost");
        let path = conf(0, more);
        let found: Vec<_> = nodes[0].audit(Some(&path)).unwrap();
        let names: Vec<_> = found.iter().map(|finding| (finding.kind.name(), finding.severity)).collect();
        assert_eq!(names, if preempts { vec![("preempting-vrrp", Severity::Warning)] } else { vec![] });
        assert!(
            found.iter().all(|finding| finding.remedy.text.contains("nopreempt") && finding.reason.contains("web"))
        );
        expect_nothing(&mut nodes[0]);
        drop((first, second));
    }
    assert!(nodes[0].audit(Some(&dir.join("none.conf"))).is_err());
    // Where no sessions are kept anyway, or every node knows where they go, it does not matter.
    let mut other = cluster.nodes[2].node(Config { fence: Fence::Clear, ..config() });
    assert_eq!(other.audit(Some(&conf(2, ""))).unwrap(), []);
}
