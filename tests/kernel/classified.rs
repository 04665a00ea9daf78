//! Nodes with `vip_owner = "routes"`, whose classifier keeps sessions without a sync daemon. Which
//! node gets a packet says the test. Judged by the servers of sessions, by frames, tc(8) and
//! ipvsadm(8).

use std::collections::BTreeSet;
use std::fs;

use lvs_dr::node::{Node, Role, Weigh};
use rustix::thread::{CapabilitySet, CapabilitySets, capabilities, set_capabilities};

use crate::classifier::strays;
use crate::lab::{feed, ipvsadm, run};
use crate::lan::{BOTH, Cluster, INTERFACE, MH, NODES, Sessions, services, steer, until};
use crate::routes::{load_everywhere, of_two, routed, weigh_everywhere};

const SESSIONS: usize = 60;

fn cluster(services: &str) -> Cluster {
    let mut cluster = Cluster::without_roles(services, routed);
    (0..NODES.len()).for_each(|node| cluster.take_on(node, Role::Master));
    steer(&cluster.client, NODES[0]);
    cluster
}

fn filters() -> String {
    run(&format!("tc filter show dev {INTERFACE} ingress"))
}

/// The services of marks, but for the first range's.
fn mark_services() -> Vec<String> {
    let first: BTreeSet<String> = (0..256_u32).map(|number| (0x4c56_5300 + number).to_string()).collect();
    let is_of_classifier = |line: &&str| {
        let mut words = line.split_whitespace().skip_while(|word| *word != "-f").skip(1);
        words.next().is_some_and(|mark| !first.contains(mark))
    };
    ipvsadm("-Sn").lines().filter(is_of_classifier).map(str::to_owned).collect()
}

/// All sessions are kept, whichever node directs.
#[track_caller]
fn assert_kept(cluster: &Cluster, sessions: &mut Sessions, what: &str) {
    for to in [12, 13, 11] {
        steer(&cluster.client, to);
        assert_eq!(sessions.kept(), SESSIONS, "{what}, behind {to}");
    }
}

#[test]
fn sessions_outlive_changes_of_the_servers_and_moves() {
    let mut cluster = cluster(&of_two());
    let plan = cluster.nodes[0].become_role(Role::Master).unwrap();
    assert!(plan.is_empty() && plan.warnings().is_empty(), "{plan}");
    for node in 0..NODES.len() {
        let shown = cluster.on(node, filters);
        assert!(shown.contains("pref 308 bpf") && shown.contains("pref 306 bpf"), "{shown}");
        // Of each family: elsewhere, and before for each of the peers; the third node is no
        // server.
        let marks = cluster.on(node, mark_services);
        let count = marks.iter().filter(|line| line.starts_with("-A")).count();
        assert!((4..=6).contains(&count), "{marks:?}");
        assert_eq!(cluster.nodes[node].status().unwrap().drift, Vec::<String>::new());
    }
    let mut sessions = cluster.sessions(SESSIONS, &BOTH);
    assert_eq!(sessions.served().len(), 2);
    assert_kept(&cluster, &mut sessions, "moves");
    load_everywhere(&mut cluster, &services(MH));
    // No node has an entry of a session with the third server.
    assert_kept(&cluster, &mut sessions, "a server joins");
    weigh_everywhere(&mut cluster, 12, Weigh::Drain);
    assert_kept(&cluster, &mut sessions, "one is drained");
    assert!(!cluster.sessions(40, &BOTH).served().contains_key(&12));
    weigh_everywhere(&mut cluster, 12, Weigh::Undrain);
    assert_kept(&cluster, &mut sessions, "it is back");
    let status = cluster.nodes[1].status().unwrap();
    let counters = status.classifiers[INTERFACE].counters;
    println!("{counters:?}");
    assert!(counters.local > 0 && counters.forwarded > 0 && counters.strays == 0, "{counters:?}");
    for node in &mut cluster.nodes {
        assert_eq!(node.status().unwrap().drift, Vec::<String>::new());
    }
}

#[test]
fn idle_sessions_outlive_the_timeout_of_ipvs_and_two_changes() {
    let mut cluster = cluster(&of_two());
    cluster.hosts.iter().for_each(|host| drop(host.run(|| ipvsadm("--set 1 1 1")).unwrap()));
    let forgotten = |cluster: &Cluster| {
        let is_empty = || ipvsadm("-Lnc").lines().count() <= 2;
        until("IPVS forgets", || cluster.hosts.iter().all(|host| host.run(is_empty).unwrap()));
    };
    let mut sessions = cluster.sessions(SESSIONS, &BOTH);
    for to in [11, 12, 13] {
        forgotten(&cluster);
        steer(&cluster.client, to);
        assert_eq!(sessions.kept(), SESSIONS, "behind {to}");
    }
    forgotten(&cluster);
    load_everywhere(&mut cluster, &services(MH));
    weigh_everywhere(&mut cluster, 12, Weigh::Drain);
    for to in [13, 12, 11] {
        forgotten(&cluster);
        steer(&cluster.client, to);
        assert_eq!(sessions.kept(), SESSIONS, "two changes, behind {to}");
    }
}

#[test]
fn strays_end() {
    let mut cluster = cluster(&of_two());
    load_everywhere(&mut cluster, &services(MH));
    for (to, ports) in NODES.into_iter().zip([20000..20020, 21000..21020, 22000..22020]) {
        let (frames, resets) = strays(&cluster.client, to, ports);
        println!("to {to}: {resets} resets, {frames:?}");
        assert_eq!((frames.len(), resets), (20, 20));
        assert!(frames.values().all(|count| *count <= 3), "{frames:?}");
    }
}

#[test]
fn what_others_change_is_repaired_and_a_release_leaves_nothing() {
    let mut cluster = cluster(&services(MH));
    let (shown, marks) = (cluster.on(0, filters), cluster.on(0, mark_services));
    let elsewhere = marks.iter().find(|line| line.starts_with("-a") && line.contains("192.0.2.12:80 ")).unwrap();
    let edited = elsewhere.replacen("-a", "-e", 1).replace("-w 1", "-w 7");
    let edits: [Box<dyn Fn() + Sync>; 3] = [
        Box::new(|| drop(run(&format!("tc filter del dev {INTERFACE} ingress pref 308")))),
        Box::new(|| feed("ipvsadm -R", &edited)),
        Box::new(|| drop(run(&format!("tc qdisc del dev {INTERFACE} clsact")))),
    ];
    for (number, edit) in edits.iter().enumerate() {
        cluster.hosts[0].run(edit).unwrap();
        assert!(!cluster.nodes[0].status().unwrap().drift.is_empty(), "{number}");
        cluster.nodes[0].repair(|_| ()).unwrap();
        assert_eq!(cluster.nodes[0].status().unwrap().drift, Vec::<String>::new(), "{number}");
        // Programs and handles have other numbers.
        let has = |text: &str| (text.matches("pref 308 bpf").count(), text.matches("pref 306 bpf").count());
        assert_eq!(has(&cluster.on(0, filters)), has(&shown), "{number}");
    }
    // One that has lost its memory finds what is its own.
    for lost in [false, true] {
        if lost {
            let dir = cluster.nodes[1].config().state_dir.clone();
            fs::remove_dir_all(dir).unwrap();
        }
        let node = usize::from(lost);
        cluster.nodes[node].release(|_| ()).unwrap();
        let left = cluster.on(node, || filters() + &run(&format!("tc qdisc show dev {INTERFACE}")));
        let (services, mut table) = (cluster.on(node, mark_services), cluster.on(node, || ipvsadm("-Sn")));
        table.retain(|_| !lost);
        // Who has made the qdisc is not remembered either.
        assert!(!left.contains("bpf") && (lost || !left.contains("clsact")), "{left}");
        assert_eq!((services, table.as_str()), (vec![], ""));
    }
    assert!(cluster.on(2, filters).contains("pref 308 bpf"));
}

/// Without the capability rules mark packets, and the node says so; what is attached goes.
#[test]
fn a_node_without_the_capability_falls_back_to_rules() {
    let mut cluster = Cluster::without_roles(&services(MH), routed);
    for attached in [false, true] {
        if attached {
            cluster.take_on(0, Role::Master);
            assert!(cluster.on(0, filters).contains("pref 308 bpf"));
        }
        let config = cluster.nodes[0].config().clone();
        let without = || {
            let effective = capabilities(None).unwrap().effective - (CapabilitySet::SYS_ADMIN | CapabilitySet::BPF);
            let inheritable = CapabilitySet::empty();
            set_capabilities(None, CapabilitySets { effective, permitted: effective, inheritable }).unwrap();
            Node::open(config).unwrap().become_role(Role::Master).unwrap()
        };
        let plan = cluster.on(0, || std::thread::scope(|scope| scope.spawn(without).join().unwrap()));
        let warned = plan.warnings().join("\n");
        assert!(warned.contains("marked by rules") && warned.contains("CAP_SYS_ADMIN"), "{warned}");
        let shown = cluster.on(0, filters);
        assert!(!shown.contains("pref 308") && shown.contains("pref 306 bpf"), "{shown}");
        assert_eq!(cluster.on(0, mark_services), [""; 0]);
    }
    let plan = cluster.nodes[0].repair(|_| ()).unwrap();
    assert!(plan.warnings().is_empty(), "{plan}");
    assert!(cluster.on(0, filters).contains("pref 308 bpf"));
}

/// A service of another program that has a mark of the classifier's stays, and the classifier
/// waits.
#[test]
fn a_mark_of_another_program_is_told_and_left() {
    let mut cluster = Cluster::without_roles(&services(MH), routed);
    let theirs = format!("-A -f {} -s rr", 0x4c56_5300 + 256 + 70);
    cluster.on(0, || feed("ipvsadm -R", &format!("{theirs}\n")));
    let plan = cluster.nodes[0].become_role(Role::Master).unwrap();
    assert!(plan.warnings().iter().any(|warning| warning.contains("([marks] base)")), "{plan}");
    assert!(!cluster.on(0, filters).contains("pref 308"));
    assert_eq!(cluster.on(0, mark_services), [theirs]);
}
