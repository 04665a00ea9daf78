//! Destinations that direct routing cannot reach.

use lvs_dr::ipvs::{Destination, Ipvs, ServiceId, Table};
use lvs_dr::node::audit::Severity;
use lvs_dr::node::{Apply, Config, Role};

use super::{config, expect, expect_nothing, failing, node, node_as, server, sh, web};
use crate::lab::{cable, ip_batch, ipvsadm, new_netns};
use crate::lan::{Tap, VIP, enter_switch, host, serve, serve_on};

/// A router of the LAN, and a server behind it.
fn router() {
    let router = host(2);
    let far = new_netns();
    let lay = || {
        cable("eth1", "02:00:00:00:02:02", &far, "eth1");
        ip_batch("address add 198.51.100.2/24 dev eth1\n");
        std::fs::write("/proc/sys/net/ipv4/ip_forward", "1").unwrap();
    };
    router.run(lay).unwrap();
    let far_side = || {
        ip_batch(&format!(
            "address add 198.51.100.5/24 dev eth1\naddress add {VIP}/32 dev lo\nroute add default via 198.51.100.2\n"
        ));
    };
    far.run(far_side).unwrap();
    serve(&far, 5);
}

#[test]
fn servers_that_direct_routing_cannot_reach() {
    enter_switch();
    let client = host(1);
    let [own, other] = [11, 12].map(server);
    // Its server listens on another port only.
    let third = host(13);
    serve_on(&third, 8080, 13);
    router();
    sh(&own, "ip route add 198.51.100.0/24 via 192.0.2.2");
    let good = web("rr", &[11, 12]);
    own.run(|| good.lines().for_each(|line| drop(ipvsadm(line)))).unwrap();
    node_as(&other, config("bond0", &good), Role::Backup);
    node_as(&third, config("bond0", &web("rr", &[11])), Role::Backup);
    let mut director = node_as(&own, Config { services: None, ..config("bond0", "") }, Role::Master);
    assert_eq!(failing(&client, 6), 0);
    expect_nothing(&mut director);

    let tap = Tap::open();
    let web = ServiceId::tcp(format!("{VIP}:80").parse().unwrap());
    for (address, name, severity, words) in [
        ("198.51.100.5:80", "behind-gateway", Severity::Error, "behind the gateway 192.0.2.2"),
        ("203.0.113.9:80", "no-route", Severity::Error, "no route to it"),
        ("192.0.2.0:80", "no-host", Severity::Error, "first or last address of the subnet of 192.0.2.11/24"),
        ("192.0.2.13:8080", "other-port", Severity::Warning, "its port differs from the service's"),
    ] {
        // As keepalived does: ipvsadm changes the port to the service's.
        let destination = Destination::new(address.parse().unwrap());
        let mut ipvs = Ipvs::open_in(own.clone()).unwrap();
        ipvs.add_destination(&web, &destination).unwrap();
        // As the watch does, for a new server.
        director.repair(|_| ()).unwrap();
        tap.packets();
        assert_eq!(failing(&client, 6), 2, "{address}");
        if name == "behind-gateway" {
            // The gateway sends each packet back until its TTL ends.
            assert!(tap.packets().iter().filter(|packet| packet.hops > 2).count() > 60);
        }
        let [finding] = expect(&mut director, [(name, severity)]);
        assert!(finding.reason.contains(words) && finding.reason.contains(address), "{finding}");
        match name {
            "other-port" => assert!(finding.remedy.text.contains("service's port"), "{finding}"),
            _ => assert_eq!(finding.remedy.commands, [format!("ipvsadm -d -t {VIP}:80 -r {address}")]),
        }
        ipvs.remove_destination(&web, destination.address).unwrap();
        assert_eq!(failing(&client, 6), 0, "{address}");
        expect_nothing(&mut director);
    }

    // In a file they are refused before anything is changed.
    let state_dir = director.config().state_dir.clone();
    director.release(|_| ()).unwrap();
    let before = sh(&own, "ip -o address show");
    for (address, words) in [
        ("198.51.100.5:80", "behind the gateway 192.0.2.2"),
        ("203.0.113.9:80", "no route to it"),
        ("192.0.2.0:80", "first or last address"),
        ("192.0.2.255:80", "first or last address"),
    ] {
        let text = format!("{good}-a -t {VIP}:80 -r {address} -g -w 1\n");
        let of_file = || Config { state_dir: state_dir.clone(), ..config("bond0", &text) };
        let error = node(&own, of_file()).become_role(Role::Backup).unwrap_err().to_string();
        assert!(error.contains(words) && error.contains(address), "{error}");
        assert_eq!(sh(&own, "ip -o address show"), before);
        if address == "198.51.100.5:80" {
            // A node that has a role takes on others, and does not take the change.
            let mut right =
                node_as(&own, Config { state_dir: state_dir.clone(), ..config("bond0", &good) }, Role::Backup);
            let error = node(&own, of_file()).apply(Apply::Changes, |_| ()).unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
            assert!(!own.run(|| ipvsadm("-Sn")).unwrap().contains("198.51.100.5"));
            right.release(|_| ()).unwrap();
        }
    }
    for (address, words) in [
        ("127.0.0.1:80", "would send their packets to themselves"),
        ("192.0.2.254:80", "would send their packets to themselves"),
        ("192.0.2.13:8080", "must listen there"),
    ] {
        let table: Table = format!("{good}-a -t {VIP}:80 -r {address} -g -w 1\n").parse().unwrap();
        let error = Config { services: Some(table), ..config("bond0", &good) }.check().unwrap_err().to_string();
        assert!(error.contains(words) && error.contains(address), "{error}");
    }
}
