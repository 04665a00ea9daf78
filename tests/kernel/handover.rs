//! Moves by nodes that place their VIP themselves, with either fence: what becomes of sessions and
//! of new connections; and announcements.

use std::collections::BTreeSet;
use std::thread;
use std::time::{Duration, Instant};

use lvs_dr::node::{Config, Fence, Node, OwnRequests, Role};

use crate::lab::{ip, ipvsadm};
use crate::lan::{BOTH, Cluster, INTERFACE, MH, NODES, VIP, enter_switch, host, services, until};
use crate::node::new_path;

/// The new director first, the former one 50 ms later.
fn move_vip(nodes: &mut [Node], from: usize, to: usize) {
    // Two nodes, two processes: neither waits for the other.
    let [from, to] = nodes.get_disjoint_mut([from, to]).unwrap();
    thread::scope(|scope| {
        scope.spawn(|| to.become_role(Role::Master).unwrap());
        thread::sleep(Duration::from_millis(50));
        from.become_role(Role::Backup).unwrap();
    });
}

#[test]
fn fence_marks_fails_no_connection() {
    for scheduler in ["wrr", MH] {
        let mut cluster = Cluster::new(&services(scheduler), |_| ());
        let mut sessions = cluster.sessions(12, &BOTH);
        for (from, to) in [(0, 1), (1, 2), (2, 0)] {
            // Opened at the last moment: the kernel's daemon has not sent all of them.
            let mut young = cluster.sessions(6, &BOTH);
            let tally = cluster.during(&BOTH, Duration::from_millis(100), |nodes, _| move_vip(nodes, from, to));
            assert_eq!(
                (tally.failed, sessions.kept(), young.kept()),
                (0, 12, 6),
                "{scheduler}: from {from} to {to}: {tally:?}"
            );
            let served = cluster.sessions(18, &[VIP]).served();
            assert_eq!(served.into_keys().collect::<BTreeSet<_>>(), NODES.into(), "{scheduler}: from {from} to {to}");
        }
    }
}

/// The former director gives up the VIP first and empties its table last.
#[test]
fn fence_clear_keeps_all_sessions() {
    let mut cluster = Cluster::new(&services("wrr"), |config| config.fence = Fence::Clear);
    let mut sessions = cluster.sessions(30, &BOTH);
    for (from, to) in [(0, 1), (1, 2)] {
        let ports: Vec<String> = sessions.0.iter().map(|(session, _)| format!(":{} ", session.port())).collect();
        let learned = || {
            let shown = cluster.on(to, || ipvsadm("-Lnc"));
            ports.iter().all(|port| shown.contains(port))
        };
        until("the successor learns the sessions", learned);
        move_vip(&mut cluster.nodes, from, to);
        assert_eq!(sessions.kept(), 30, "from {from} to {to}");
        assert_eq!(cluster.sessions(9, &[VIP]).served(), NODES.map(|number| (number, 3)).into());
    }
}

#[test]
fn the_vip_is_announced_again_after_a_while() {
    enter_switch();
    let (neighbour, netns) = (host(1), host(11));
    // A neighbour that takes in what is announced, and forgets it.
    let listen = || std::fs::write(format!("/proc/sys/net/ipv4/conf/{INTERFACE}/arp_accept"), "1").unwrap();
    neighbour.run(listen).unwrap();
    let knows = || neighbour.run(|| ip(&format!("neigh show {VIP}"))).unwrap().contains("lladdr");
    let forget = || neighbour.run(|| ip(&format!("neigh flush all dev {INTERFACE}"))).unwrap();
    let mut config = Config {
        services: Some(format!("-A -t {VIP}:80 -s wrr\n").parse().unwrap()),
        state_dir: new_path(),
        announce_again: Duration::from_millis(300),
        ..Config::new(INTERFACE, [VIP.parse().unwrap()])
    };
    config.marks.own_requests = OwnRequests::LeftAlone;
    let mut node = Node::open_in(config.clone(), netns.clone()).unwrap();
    node.announce_again().unwrap();
    assert!(!knows(), "nothing is announced by a node that does not direct");
    node.become_role(Role::Master).unwrap();
    assert!(knows());
    forget();
    assert!(!knows());
    let start = Instant::now();
    node.announce_again().unwrap();
    assert!(knows() && start.elapsed() >= config.announce_again);
    // Another role is asked for meanwhile: nothing is announced, and nobody waits.
    forget();
    let waiting = Config { announce_again: Duration::from_secs(20), ..config.clone() };
    thread::scope(|scope| {
        let waits = scope.spawn(|| Node::open_in(waiting, netns.clone()).unwrap().announce_again().unwrap());
        thread::sleep(Duration::from_millis(200));
        node.become_role(Role::Backup).unwrap();
        waits.join().unwrap();
    });
    assert!(!knows() && start.elapsed() < Duration::from_secs(15));
}
