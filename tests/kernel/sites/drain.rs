//! A server is taken out of the cluster, and put back.

use std::collections::BTreeSet;

use lvs_dr::Netns;
use lvs_dr::node::{Node, Role, Weigh};

use super::{config, failing, node_as, server, web};
use crate::lan::{self, VIP, enter_switch, host, kept, session};

const OUT: u8 = 13;

/// Three servers that are nodes; the first directs.
fn cluster(services: &str) -> (Netns, Vec<Node>) {
    let (client, _, nodes) = cluster_with_hosts(services);
    (client, nodes)
}

fn cluster_with_hosts(services: &str) -> (Netns, [Netns; 3], Vec<Node>) {
    enter_switch();
    let client = host(1);
    let hosts = [11, 12, OUT].map(server);
    let node = |index: usize, role| node_as(&hosts[index], config("bond0", services), role);
    let nodes = [(1, Role::Backup), (2, Role::Backup), (0, Role::Master)].map(|(index, role)| node(index, role));
    let [second, third, first] = nodes;
    (client, hosts, vec![first, second, third])
}

fn weigh(nodes: &mut [Node], server: u8, to: Weigh) {
    let address = Some(lan::address(VIP, server).parse().unwrap());
    nodes.iter_mut().for_each(|node| drop(node.weigh(address, to, |_| ()).unwrap()));
}

/// The servers of so many new connections.
fn answering(client: &Netns, count: usize) -> BTreeSet<u8> {
    (0..count).map(|_| session(client, VIP).1).collect()
}

#[test]
fn a_drained_server_keeps_its_sessions_and_gets_no_new_ones() {
    let (client, mut nodes) = cluster(&web("wrr", &[11, 12, OUT]));
    // An operator has given it another weight than the file.
    weigh(&mut nodes, OUT, Weigh::Set(2));
    let tables = |nodes: &mut [Node]| nodes.iter_mut().map(|node| node.status().unwrap().kept).collect::<Vec<_>>();
    let before = tables(&mut nodes);
    let mut sessions: Vec<_> = (0..12).map(|_| session(&client, VIP)).collect();
    let there = sessions.iter().filter(|(_, server)| *server == OUT).count();
    assert_eq!(there, 6);

    weigh(&mut nodes, OUT, Weigh::Drain);
    assert_eq!(answering(&client, 12), [11, 12].into());
    let address = Some(lan::address(VIP, OUT).parse().unwrap());
    assert_eq!(nodes[0].sessions_of(address).unwrap().active, there as u64);
    // On the server itself too, which names no address.
    assert_eq!(nodes[2].sessions_of(None).unwrap().active, there as u64);
    // Whichever node directs.
    nodes[0].become_role(Role::Backup).unwrap();
    nodes[1].become_role(Role::Master).unwrap();
    assert_eq!(answering(&client, 12), [11, 12].into());
    assert_eq!(kept(&mut sessions), sessions.len());
    assert!(nodes.iter_mut().all(|node| node.repair(|_| ()).unwrap().is_empty()));

    weigh(&mut nodes, OUT, Weigh::Undrain);
    assert_eq!(tables(&mut nodes), before);
    assert_eq!(answering(&client, 12), [11, 12, OUT].into());
    assert_eq!(kept(&mut sessions), sessions.len());

    // Its sessions end, and it is released.
    weigh(&mut nodes, OUT, Weigh::Drain);
    sessions.retain(|(_, server)| *server != OUT);
    lan::until("its sessions ended", || nodes[1].sessions_of(address).unwrap().active == 0);
    assert_eq!(nodes[2].still_used().unwrap(), None);
    nodes[2].release(|_| ()).unwrap();
    assert_eq!(failing(&client, 30), 0);
    assert_eq!(kept(&mut sessions), sessions.len());
}

/// What the README said before: a release alone.
#[test]
fn a_server_that_is_released_only_takes_its_share_of_requests_along() {
    let (client, mut nodes) = cluster(&web("wrr", &[11, 12, OUT]));
    let warned = nodes[2].still_used().unwrap().unwrap_or_default();
    assert!(warned.contains("still gets new connections of tcp 192.0.2.254:80"), "{warned}");
    nodes[2].release(|_| ()).unwrap();
    let failed = failing(&client, 30);
    assert!(failed >= 9, "{failed}");
    // The remedy that the warning names.
    weigh(&mut nodes[..2], OUT, Weigh::Drain);
    assert_eq!(failing(&client, 30), 0);
}

#[test]
fn clients_that_are_bound_to_a_drained_server_go_elsewhere() {
    let (client, mut nodes) = cluster(&web("wrr -p 300", &[11, 12, OUT]));
    let (mut bound, server) = session(&client, VIP);
    assert_eq!(answering(&client, 6), [server].into());
    weigh(&mut nodes, server, Weigh::Drain);
    let elsewhere = answering(&client, 6);
    assert!(elsewhere.len() == 1 && !elsewhere.contains(&server), "{elsewhere:?}");
    assert_eq!(bound.ask(), Some(server));
}

/// A hash that finds a server of weight 0 drops the connection: it is refused, with what to do.
#[test]
fn a_hash_without_fallback_cannot_drain() {
    for (scheduler, flags) in [("mh", "mh-fallback,mh-port"), ("sh", "sh-fallback,sh-port")] {
        let without = format!("{scheduler} -b {scheduler}-port");
        let (client, hosts, mut nodes) = cluster_with_hosts(&web(&without, &[11, 12, OUT]));
        let address = Some(lan::address(VIP, OUT).parse().unwrap());
        for to in [Weigh::Drain, Weigh::Set(0)] {
            let refused = nodes[0].weigh(address, to, |_| ()).unwrap_err().to_string();
            assert!(refused.contains(&format!("add \"{scheduler}-fallback\" to its flags")), "{refused}");
        }
        // As ipvsadm does it.
        let mut ipvs = lvs_dr::ipvs::Ipvs::open_in(hosts[0].clone()).unwrap();
        let id = format!("tcp {VIP}:80").parse().unwrap();
        ipvs.edit_destination(&id, format!("192.0.2.{OUT}:80").parse().unwrap(), |d| d.weight = 0).unwrap();
        assert!(failing(&client, 30) > 2, "{scheduler}");

        let (client, mut nodes) = cluster(&web(&format!("{scheduler} -b {flags}"), &[11, 12, OUT]));
        weigh(&mut nodes, OUT, Weigh::Drain);
        assert_eq!(failing(&client, 30), 0, "{flags}");
        assert_eq!(answering(&client, 20), [11, 12].into(), "{flags}");
    }
}
