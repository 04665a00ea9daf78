//! The audit: for each trap, the harm is seen with packets, then the finding, then the remedy,
//! then that the harm is gone. Runs in the lab's guest (see tests/lab), in one of its own: these
//! tests wait for what does not come.

mod addresses;
mod cluster;
#[path = "../kernel/findings.rs"]
mod findings;
mod firewall;
#[path = "../kernel/lab.rs"]
#[allow(dead_code, reason = "other tests use the rest")]
mod lab;
mod marks;
mod paths;
mod settings;
mod sync;
mod table;

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};

use lvs_dr::arp::Settings;
use lvs_dr::ipvs::Table;
use lvs_dr::node::audit::Finding;
use lvs_dr::node::{ArpConfig, ArpScope, Config, Fence, Loopback, Node, Role, VipOwner};

use crate::cluster::{Cluster, Host, VIP4, VIPS};
use crate::findings::{audit, expect, expect_nothing};
use crate::lab::ipvsadm;

/// A path that no other test uses, where nothing is yet.
fn new_path() -> PathBuf {
    static COUNT: AtomicUsize = AtomicUsize::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let path = PathBuf::from(format!("/run/lvs-dr-audit/{}-{count}", std::process::id()));
    let _ = std::fs::remove_dir_all(&path);
    path
}

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

fn table() -> Table {
    web("-s rr", 13).parse().unwrap()
}

fn config(fence: Fence) -> Config {
    Config { fence, services: Some(table()), state_dir: new_path(), ..Config::new("bond0", VIPS) }
}

fn with_arp(ignore: i32, announce: i32) -> Option<ArpConfig> {
    let settings = Settings { ignore: ignore.into(), announce: announce.into() };
    Some(ArpConfig { settings, scope: ArpScope::Reached })
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
    // The lab's programs have no shorter name.
    let legacy = |command: &String| command.replacen("tables ", "tables-legacy ", 1);
    finding.remedy.commands.iter().for_each(|command| drop(host.sh(&legacy(command))));
}

fn at(address: IpAddr, port: u16) -> SocketAddr {
    SocketAddr::new(address, port)
}

/// Who answers ARP requests for the VIP, by name.
fn answering(cluster: &Cluster) -> Vec<&str> {
    let macs = cluster.client.who_has(VIP4);
    cluster.nodes.iter().filter(|node| macs.contains(&node.mac)).map(|node| node.name.as_str()).collect()
}

/// How many of some new connections fail, by both families.
fn failures(cluster: &Cluster) -> usize {
    cluster.client.run(|| (0..6).flat_map(|_| VIPS).filter(|vip| cluster.client.get(*vip).is_err()).count())
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
fn nothing_is_found_on_a_right_set_up() {
    let cluster = Cluster::new(3);
    let host = &cluster.nodes[0];
    for fence in Fence::ALL {
        for (loopback, scheduler) in [(Loopback::Always, "-s rr"), (Loopback::Backup, "-s mh -b mh-fallback,mh-port")] {
            let services = Some(web(scheduler, 13).parse().unwrap());
            let mut node = host.node(Config { loopback, services, ..config(fence) });
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
        // keepalived owns the VIP on the interface.
        let mut node = host.node(Config { vip_owner: VipOwner::Keepalived, ..config(fence) });
        let file = new_path().with_extension("conf");
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        let text = "vrrp_instance web {\n version 3\n advert_int 0.3\n state BACKUP\n nopreempt\n virtual_ipaddress {\n 192.0.2.254/32\n }\n virtual_ipaddress_excluded {\n 2001:db8::fe/128\n }\n}\n";
        std::fs::write(&file, text).unwrap();
        let program = file.with_file_name("keepalived");
        std::fs::copy("/bin/sleep", &program).unwrap();
        let mut keepalived = host.run(|| std::process::Command::new(&program).arg("600").spawn().unwrap());
        for role in [Role::Backup, Role::Master, Role::Backup] {
            let verb = if role == Role::Master { "add" } else { "delete" };
            if role == Role::Master || node.status().unwrap().vips[0].1.len() > 1 {
                host.sh(&format!("ip address {verb} 192.0.2.254/32 dev bond0"));
                host.sh(&format!("ip address {verb} 2001:db8::fe/128 dev bond0"));
            }
            node.become_role(role).unwrap();
            assert_eq!(node.audit(Some(&file)).unwrap(), [], "{fence:?} {role}");
        }
        keepalived.kill().and_then(|()| keepalived.wait()).unwrap();
        node.release(|_| ()).unwrap();
    }
}
