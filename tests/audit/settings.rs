//! Sysctls of IPVS, and timeouts.

use std::net::IpAddr;
use std::thread;
use std::time::Duration;

use lvs_dr::node::audit::{Kind, Severity};
use lvs_dr::node::{Fence, Role};

use crate::cluster::{Flow, VIP4, VIPS};
use crate::lab::{ip, ipvsadm};
use crate::{at, by_hand, cluster_with, expect, expect_nothing, fix, web};

#[test]
fn a_persistent_client_and_a_dead_server() {
    for vip in VIPS {
        let text = web("-s rr -p 100", 13);
        // Fence `marks` sets it by itself, until sysctl.conf is read again.
        let fence = if vip == VIP4 { Fence::Marks } else { Fence::Clear };
        let (cluster, mut nodes) = cluster_with(fence, [&text, &text]);
        cluster.nodes.iter().for_each(|host| host.sysctl("ipv4/vs/expire_quiescent_template", "0"));
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
        // The server dies, and a checker quiesces it (ldirectord's `quiescent`, keepalived's
        // `inhibit_on_failure`).
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
        // With fence `marks` a server may hold the synchronised entry of such a flow, whatever the
        // director does.
        let (cluster, mut nodes) = cluster_with(Fence::Clear, [&text, &text]);
        let host = &cluster.nodes[0];
        host.sysctl("ipv4/vs/expire_nodest_conn", "0");
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
        let found = [("expire-nodest-conn", Severity::Warning), ("udp-dropped", Severity::Warning), UDP_TIMEOUT];
        let [_, finding, _] = expect(&mut nodes[0], found);
        assert!(finding.remedy.is_ours(), "{finding}");
        nodes[0].fix(|_| ()).unwrap();
        let ask_again = || (0..5).find_map(|_| ask().ok());
        let next = ask_again().unwrap();
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
        thread::sleep(Duration::from_secs(3));
        assert_eq!(ask_again(), Some(server));
        // Or the other remedy.
        host.sh("ipvsadm --set 0 0 300");
        host.sh(&format!("ipvsadm -E -u {named} -s rr -o"));
        expect_nothing(&mut nodes[0]);
    }
}
