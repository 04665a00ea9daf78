//! Sessions and new connections, through changes of the director: three nodes that serve and direct, and a client.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use lvs_dr::node::{Config, Fence, Node, Role};
use lvs_dr::{Error, Netns};

use crate::lab::ip;
use crate::lan::{INTERFACE, Session, VIP, VIP6, enter_switch, host, serve};
use crate::node::new_path;

const NODES: [u8; 3] = [11, 12, 13];

struct Cluster {
    client: Netns,
    nodes: Vec<Node>,
}

impl Cluster {
    /// Nodes with this fence, of which the first directs.
    fn new(fence: Fence) -> Self {
        enter_switch();
        let client = host(1);
        let scheduler = if fence == Fence::Stateless { "mh -b mh-fallback,mh-port" } else { "wrr" };
        let mut table = format!("-A -t {VIP}:80 -s {scheduler}\n-A -t [{VIP6}]:80 -s {scheduler}\n");
        for number in NODES {
            table += &format!("-a -t {VIP}:80 -r 192.0.2.{number}:80 -g -w 1\n");
            table += &format!("-a -t [{VIP6}]:80 -r [2001:db8::{number}]:80 -g -w 1\n");
        }
        let start = |number| {
            let netns = host(number);
            serve(&netns, number);
            let config = Config {
                fence,
                services: Some(table.parse().unwrap()),
                state_dir: new_path(),
                // A node takes its time on a busy machine.
                settle: Duration::from_secs(1),
                ..Config::new(INTERFACE, [VIP.parse().unwrap(), VIP6.parse().unwrap()])
            };
            Node::open_in(config, netns).unwrap()
        };
        let mut cluster = Cluster { client, nodes: NODES.map(start).into() };
        cluster.nodes[1..].iter_mut().for_each(|node| drop(node.become_role(Role::Backup).unwrap()));
        cluster.nodes[0].become_role(Role::Master).unwrap();
        cluster
    }

    /// How many of the new connections that are made while `change` is under way fail, and how many there were.
    fn failing_during(&mut self, vip: &str, change: impl FnOnce(&mut [Node])) -> (usize, usize) {
        let (client, over) = (self.client.clone(), AtomicBool::new(false));
        std::thread::scope(|scope| {
            let stream = scope.spawn(|| {
                let (mut failed, mut all) = (0, 0);
                // One after the other, so that there is always one in the middle of its handshake.
                while !over.load(Ordering::Relaxed) {
                    let answered = Session::open(&client, vip).is_some_and(|mut session| session.ask().is_some());
                    failed += usize::from(!answered);
                    all += 1;
                }
                (failed, all)
            });
            change(&mut self.nodes);
            std::thread::sleep(Duration::from_millis(500));
            over.store(true, Ordering::Relaxed);
            stream.join().unwrap()
        })
    }

    fn sessions(&self, vip: &str) -> Vec<(Session, u8)> {
        let open = |_| {
            let mut session = Session::open(&self.client, vip).unwrap();
            let server = session.ask().unwrap();
            (session, server)
        };
        (0..9).map(open).collect()
    }
}

fn kept(sessions: &mut [(Session, u8)]) -> usize {
    sessions.iter_mut().filter_map(|(session, server)| Some(session.ask()? == *server)).filter(|same| *same).count()
}

fn move_vip(nodes: &mut [Node], from: usize, to: usize) {
    // Two nodes, two processes: neither waits for the other.
    let [from, to] = nodes.get_disjoint_mut([from, to]).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| to.become_role(Role::Master).unwrap());
        std::thread::sleep(Duration::from_millis(50));
        from.become_role(Role::Backup).unwrap();
    });
}

#[test]
fn a_prepared_handover_fails_no_connection() {
    let mut cluster = Cluster::new(Fence::Quiesce);
    let mut sessions = cluster.sessions(VIP);
    sessions.extend(cluster.sessions(VIP6));
    let servers: BTreeSet<u8> = sessions.iter().map(|(_, server)| *server).collect();
    assert_eq!(servers, NODES.into());
    for (from, to, vip, network) in
        [(0, 1, VIP, "192.0.2."), (1, 2, VIP6, "2001:db8::"), (2, 0, VIP, "192.0.2."), (0, 1, VIP6, "2001:db8::")]
    {
        let successor = format!("{network}{}", NODES[to]).parse().unwrap();
        let (failed, all) = cluster.failing_during(vip, |nodes| {
            nodes[from].prepare_handover(&[successor], |_| ()).unwrap();
            move_vip(nodes, from, to);
        });
        assert!(all > 30, "{all}");
        assert_eq!(failed, 0, "{vip}: {failed} of {all} new connections failed from {from} to {to}");
        assert_eq!(kept(&mut sessions), sessions.len());
    }
}

#[test]
fn every_fence_but_clear_keeps_sessions_through_moves() {
    for fence in [Fence::Quiesce, Fence::Stateless, Fence::BackupOnly] {
        let mut cluster = Cluster::new(fence);
        let mut sessions = Vec::new();
        for (from, to) in [(0, 1), (1, 2), (2, 0)] {
            // Opened at the last moment: the kernel's daemon has not told of all of them.
            sessions.extend(cluster.sessions(VIP));
            sessions.extend(cluster.sessions(VIP6));
            if fence == Fence::BackupOnly {
                // A director with this fence does not listen to what the old one has still to say.
                cluster.nodes[from].prepare_handover(&[], |_| ()).unwrap();
            }
            move_vip(&mut cluster.nodes, from, to);
            assert_eq!(kept(&mut sessions), sessions.len(), "{fence}: from {from} to {to}");
        }
    }
}

#[test]
fn a_handover_that_is_called_off_leaves_the_director_as_it_was() {
    let mut cluster = Cluster::new(Fence::Quiesce);
    let director = &mut cluster.nodes[0];
    let table = |node: &mut Node| node.status().unwrap().table.to_string();
    let before = table(director);
    director.prepare_handover(&["192.0.2.13".parse().unwrap()], |_| ()).unwrap();
    let prepared = table(director);
    assert!(prepared.contains("192.0.2.13:80 -g -w 1") && prepared.contains("192.0.2.12:80 -g -w 0"), "{prepared}");
    assert!(prepared.contains("192.0.2.11:80 -g -w 0"), "{prepared}");
    director.become_role(Role::Master).unwrap();
    assert_eq!(table(director), before);
    let refused = cluster.nodes[1].prepare_handover(&[], |_| ()).unwrap_err();
    assert!(matches!(refused, Error::Invalid { .. }) && refused.to_string().contains("does not direct"), "{refused}");
}

#[test]
fn the_vip_is_announced_again_after_a_while() {
    enter_switch();
    let (neighbour, netns) = (host(1), host(11));
    // A neighbour that takes in what it is told, and forgets it.
    let listen = || std::fs::write(format!("/proc/sys/net/ipv4/conf/{INTERFACE}/arp_accept"), "1").unwrap();
    neighbour.run(listen).unwrap();
    let knows = || neighbour.run(|| ip(&format!("neigh show {VIP}"))).unwrap().contains("lladdr");
    let forget = || neighbour.run(|| ip(&format!("neigh flush all dev {INTERFACE}"))).unwrap();
    let config = Config {
        services: Some(format!("-A -t {VIP}:80 -s wrr\n").parse().unwrap()),
        state_dir: new_path(),
        settle: Duration::ZERO,
        announce_again: Duration::from_millis(300),
        ..Config::new(INTERFACE, [VIP.parse().unwrap()])
    };
    let mut node = Node::open_in(config.clone(), netns.clone()).unwrap();
    node.announce_again().unwrap();
    assert!(!knows(), "nothing is announced by a node that does not direct");
    node.become_role(Role::Master).unwrap();
    assert!(knows());
    forget();
    assert!(!knows());
    let start = std::time::Instant::now();
    node.announce_again().unwrap();
    assert!(knows() && start.elapsed() >= config.announce_again);
    // Another role is asked for meanwhile: nothing is announced, and nobody waits.
    forget();
    let waiting = Config { announce_again: Duration::from_secs(20), ..config.clone() };
    std::thread::scope(|scope| {
        let waits = scope.spawn(|| Node::open_in(waiting, netns.clone()).unwrap().announce_again().unwrap());
        std::thread::sleep(Duration::from_millis(200));
        node.become_role(Role::Backup).unwrap();
        waits.join().unwrap();
    });
    assert!(!knows() && start.elapsed() < Duration::from_secs(15));
}
