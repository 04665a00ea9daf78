//! Who answers for the VIP, and who has it.

use std::thread;
use std::time::Duration;

use lvs_dr::node::audit::Severity;
use lvs_dr::node::{Config, Fence, Role, VipOwner};

use crate::cluster::{Cluster, Host, VIP4, VIP6, until};
use crate::lab::ip;
use crate::{answering, audit, by_hand, cluster, cluster_of, config, expect, expect_nothing, fix, web, with_arp};

#[test]
fn a_backup_that_answers_arp_requests() {
    let (cluster, mut nodes) = cluster(Fence::Marks);
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
    let with_3 = || Config { arp: with_arp(3, 2), ..config(Fence::Marks) };
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
    let (cluster, mut nodes) = cluster(Fence::Marks);
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
    fix(&mut nodes[1], &found[0]);
    assert_eq!(cluster.client.who_has(VIP4), [cluster.nodes[0].mac.clone()].into());
}

#[test]
fn a_backup_that_names_the_vip_in_its_own_arp_requests() {
    let (cluster, mut nodes) = cluster(Fence::Marks);
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
    let (cluster, mut nodes) = cluster_of(|| Config { arp: with_arp(3, 2), ..config(Fence::Marks) });
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
    let (cluster, mut nodes) = cluster(Fence::Marks);
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
        let cluster = Cluster::new(3);
        let config = || Config { vip_owner: owner, ..config(Fence::Marks) };
        let [master, host, _] = &cluster.nodes[..] else { unreachable!() };
        let mut node = host.node(config());
        node.become_role(Role::Backup).unwrap();
        expect_nothing(&mut node);
        master.node(Config { vip_owner: VipOwner::Node, ..config() }).become_role(Role::Master).unwrap();
        assert_eq!(answering(&cluster), ["n1"]);
        host.sh("ip address add 192.0.2.254/32 dev bond0");
        assert_eq!(answering(&cluster), ["n1", "n2"]);
        let [finding] = expect(&mut node, [("vip-on-interface", Severity::Error)]);
        match owner {
            VipOwner::Node | VipOwner::Routes => fix(&mut node, &finding),
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
    let mut node = host.node(Config { vip_owner: VipOwner::Keepalived, services, ..config(Fence::Marks) });
    node.become_role(Role::Master).unwrap();
    assert!(cluster.client.get(VIP4).is_err());
    let [v4, v6] = expect(&mut node, [("role-differs", Severity::Error), ("role-differs", Severity::Error)]);
    assert!(v4.reason.contains("192.0.2.254") && v6.reason.contains("2001:db8::fe"), "{v4}\n{v6}");
    assert!(!v4.remedy.is_ours());
    host.sh("ip address add 192.0.2.254/32 dev bond0");
    host.sh("ip address add 2001:db8::fe/128 dev bond0 nodad");
    cluster.client.sh("ip neighbour flush dev eth0 nud all");
    assert_eq!(cluster.client.get(VIP4).unwrap(), "n1");
    expect_nothing(&mut node);
}

#[test]
fn an_ipv6_vip_that_duplicate_detection_found_elsewhere() {
    let (cluster, mut nodes) = cluster(Fence::Marks);
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
    let (cluster, mut nodes) = cluster(Fence::Marks);
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
        assert!((0..3).all(|_| cluster.client.get(vip).is_ok()), "{vip} {place}");
    }
}

#[test]
fn own_addresses_that_go_with_the_vip() {
    let text = "-A -t 192.0.2.254:80 -s rr\n-a -t 192.0.2.254:80 -r 192.0.2.11:80 -g -w 1\n";
    let services = || Some(text.parse().unwrap());
    let (cluster, mut nodes) = cluster_of(|| Config { vips: vec![VIP4], services: services(), ..config(Fence::Marks) });
    let host = &cluster.nodes[0];
    nodes[0].release(|_| ()).unwrap();
    // keepalived has placed it with the subnet's mask, and the network was started again after it.
    let place = || {
        host.sh("ip address flush dev bond0 to 192.0.2.0/24");
        host.sh("ip address add 192.0.2.254/24 dev bond0");
        host.sh("ip address add 192.0.2.11/24 dev bond0");
    };
    let remove = || {
        host.sh("ip address delete 192.0.2.254/24 dev bond0");
        host.sh("ip address show dev bond0").contains("192.0.2.11/24")
    };
    place();
    assert!(!remove());
    place();
    let mut node = host.node(Config {
        vips: vec![VIP4],
        services: services(),
        vip_owner: VipOwner::Keepalived,
        ..config(Fence::Marks)
    });
    node.become_role(Role::Master).unwrap();
    let [finding] = expect(&mut node, [("secondary", Severity::Warning)]);
    by_hand(host, &finding);
    expect_nothing(&mut node);
    assert!(remove());
}
