//! What a host does to packets before IPVS sees them and behind it, and settings of its own: as
//! public reports have it. Each trap is tried on the director of one cluster, and mended.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::thread;
use std::time::Duration;

use lvs_dr::ipvs::Origin;
use lvs_dr::node::audit::Severity;
use lvs_dr::node::{Config, Fence, Node, Role};

use crate::cluster::{Cluster, Flow, Session, VIP4, until};
use crate::sync::origin;
use crate::{answering, at, by_hand, cluster, config, expect, expect_nothing};

/// Whether one of some new connections fails.
fn fails(cluster: &Cluster) -> bool {
    (0..6).any(|_| cluster.client.get(VIP4).is_err())
}

/// The director's finding, which the printed commands end.
#[track_caller]
fn mend(cluster: &Cluster, nodes: &mut [Node], name: &str, words: &str) {
    let [finding] = expect(&mut nodes[0], [(name, Severity::Error)]);
    assert!(finding.reason.contains(words), "{finding}");
    by_hand(&cluster.nodes[0], &finding);
}

#[test]
fn rules_of_a_firewall() {
    if crate::lab::try_run("iptables-legacy -t mangle -S").status.code() != Some(0) {
        eprintln!("not tested on this kernel: no ip_tables, and no nftables");
        return;
    }
    let (cluster, mut nodes) = cluster(Fence::Marks);
    let host = &cluster.nodes[0];
    let run = |rule: &str| drop(host.sh(&format!("iptables-legacy {rule}")));

    // It accepts the server's own address, and not the VIP.
    for rule in ["-m conntrack --ctstate ESTABLISHED", "-i lo", "-p udp", "-p icmp", "-d 192.0.2.11 -p tcp --dport 80"]
    {
        run(&format!("-A INPUT {rule} -j ACCEPT"));
    }
    run("-P INPUT DROP");
    assert!(fails(&cluster) && cluster.client.get(host.addresses[0]).is_ok());
    mend(&cluster, &mut nodes, "dropped", "-P INPUT DROP");
    assert!(!fails(&cluster));
    run("-P INPUT ACCEPT");
    run("-F INPUT");

    // As firewalld and ufw begin: servers do not learn that a client has ended its connection.
    let finishes = || cluster.client.session_with("n2", VIP4).finish().is_ok();
    assert!(finishes());
    run("-A INPUT -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT");
    run("-A INPUT -m conntrack --ctstate INVALID -j DROP");
    assert!(!finishes());
    mend(&cluster, &mut nodes, "half-seen", "--ctstate INVALID -j DROP");
    assert!(finishes());
    run("-F INPUT");
    // Or this, which drops whatever follows the first packet.
    run("-A INPUT -p tcp ! --syn -m conntrack --ctstate NEW -j DROP");
    assert!(fails(&cluster));
    mend(&cluster, &mut nodes, "half-seen", "--ctstate NEW -j DROP");
    assert!(!fails(&cluster));
    run("-F INPUT");

    // It stands in for a VIP on lo.
    run(&format!("-t nat -A PREROUTING -p tcp -d {VIP4} --dport 80 -j REDIRECT"));
    assert!(fails(&cluster));
    mend(&cluster, &mut nodes, "translated", "REDIRECT");
    assert!(!fails(&cluster));

    // Without `conntrack`, as kube-proxy sets it, what IPVS sends on is not translated.
    run("-t nat -A POSTROUTING -o bond0 -j MASQUERADE");
    assert!(!fails(&cluster));
    expect_nothing(&mut nodes[0]);
    host.sysctl("ipv4/vs/conntrack", "1");
    assert!(fails(&cluster));
    mend(&cluster, &mut nodes, "masqueraded", "MASQUERADE");
    assert!(!fails(&cluster));
    expect_nothing(&mut nodes[0]);

    // A backup that learns no session.
    let backup = &cluster.nodes[1];
    backup.sh("iptables-legacy -A INPUT -i bond0 -p udp -j DROP");
    let learns = |session: &Session| origin(backup, session) == Some(Origin::Sync);
    let unknown = cluster.client.session_with("n3", VIP4);
    // Longer than messages wait to be sent.
    thread::sleep(Duration::from_millis(2500));
    assert!(!learns(&unknown));
    let [finding] = expect(&mut nodes[1], [("sync-dropped", Severity::Warning)]);
    assert!(finding.reason.contains("8847, 8848"), "{finding}");
    by_hand(backup, &finding);
    let known = cluster.client.session_with("n3", VIP4);
    until("the session is learned", || learns(&known));
    expect_nothing(&mut nodes[1]);
}

#[test]
fn settings_of_a_host() {
    let (cluster, mut nodes) = cluster(Fence::Marks);
    let host = &cluster.nodes[0];
    // No request for the VIP is answered. 2 answers, as the VIP is in a subnet of the interface.
    host.sysctl("ipv4/conf/all/arp_ignore", "2");
    assert_eq!(answering(&cluster), ["n1"]);
    expect_nothing(&mut nodes[0]);
    host.sysctl("ipv4/conf/all/arp_ignore", "8");
    assert!(answering(&cluster).is_empty());
    mend(&cluster, &mut nodes, "arp-silent", "arp_ignore on bond0 is 8");
    assert_eq!(answering(&cluster), ["n1"]);

    // IPVS defends itself.
    let drops = || (0..6).any(|_| Session::silent(&cluster.client, VIP4).is_err());
    host.sysctl("ipv4/vs/am_droprate", "1");
    host.sysctl("ipv4/vs/drop_packet", "3");
    until("packets are dropped", drops);
    mend(&cluster, &mut nodes, "defence", "net.ipv4.vs.drop_packet=3");
    until("no packet is dropped", || !drops());

    // Sessions that are silent for longer than they are remembered.
    host.sh("ipvsadm --set 2 2 300");
    let mut sessions: Vec<Session> = (0..3).map(|_| Session::open(&cluster.client, VIP4).unwrap()).collect();
    thread::sleep(Duration::from_millis(4500));
    assert!(sessions.iter_mut().any(|session| session.ask().is_err()));
    let [finding] = expect(&mut nodes[0], [("tcp-timeout", Severity::Notice)]);
    by_hand(host, &finding);
    expect_nothing(&mut nodes[0]);

    // A node without the VIP that answers for others.
    let other = &cluster.nodes[2];
    for setting in ["ip_forward", "conf/bond0/proxy_arp", "conf/bond0/proxy_arp_pvlan"] {
        other.sysctl(&format!("ipv4/{setting}"), "1");
    }
    // It has the VIP, on lo.
    expect_nothing(&mut nodes[2]);
    assert_eq!(answering(&cluster), ["n1"]);
    nodes[2].release(|_| ()).unwrap();
    assert_eq!(answering(&cluster), ["n1", "n3"]);
    let [finding] = expect(&mut nodes[2], [("proxy-arp", Severity::Error)]);
    by_hand(other, &finding);
    assert_eq!(answering(&cluster), ["n1"]);
    expect_nothing(&mut nodes[2]);
}

#[test]
fn answers_that_do_not_come_from_the_vip() {
    let vip = at(VIP4, 53);
    let servers = ["192.0.2.12", "192.0.2.13"].map(|server| format!("-a -u {vip} -r {server}:53 -g -w 1\n"));
    let services = format!("-A -u {vip} -s rr -o\n{}", servers.concat()).parse().unwrap();
    let config = || Config { services: Some(Clone::clone(&services)), ..config(Fence::Marks) };
    let cluster = Cluster::new(3);
    let mut nodes: Vec<Node> = cluster.nodes.iter().map(|host| host.node(config())).collect();
    cluster.nodes[1].serve_udp(at(Ipv4Addr::UNSPECIFIED.into(), 53));
    for (node, role) in nodes.iter_mut().zip([Role::Master, Role::Backup, Role::Backup]) {
        node.become_role(role).unwrap();
    }
    cluster.nodes[2].serve_udp(vip);
    let flow = Flow::open(&cluster.client, vip);
    let answered: BTreeSet<String> = (0..4).filter_map(|_| flow.ask(Duration::from_millis(300)).ok()).collect();
    assert_eq!(answered, ["n3".to_owned()].into());
    expect(&mut nodes[1], [("answer-source", Severity::Notice)]);
    expect_nothing(&mut nodes[2]);
    // A program that asks for the destination.
    let without_listener = [format!("udp {vip}").parse().unwrap()].into();
    let state_dir = nodes[1].config().state_dir.clone();
    expect_nothing(&mut cluster.nodes[1].node(Config { without_listener, state_dir, ..config() }));
}
