//! What backups learn.

use std::thread;
use std::time::Duration;

use lvs_dr::ipvs::Origin;
use lvs_dr::node::audit::Severity;
use lvs_dr::node::{Config, Fence, Role};

use crate::cluster::{Host, Session, VIP4, VIPS, until};
use crate::lab::ip;
use crate::{cluster, cluster_of, config, expect, expect_nothing, fix, web};

/// Where a node knows a session from, if it does: its own it has scheduled itself.
pub(crate) fn origin(host: &Host, session: &Session) -> Option<Origin> {
    let known = host.run(|| lvs_dr::ipvs::Ipvs::open().unwrap().connections().unwrap());
    known.iter().find(|connection| connection.client == session.client()).and_then(|connection| connection.origin)
}

#[test]
fn a_sync_threshold_that_never_syncs() {
    // The first, which will crash, serves nothing.
    let without = |text: String| {
        text.lines()
            .filter(|line| !line.contains("11:80") && !line.contains("::11]"))
            .fold(String::new(), |all, line| all + line + "\n")
    };
    let services = Some(without(web("-s rr", 13)).parse().unwrap());
    let (cluster, mut nodes) = cluster_of(|| Config { services: services.clone(), ..config(Fence::Marks) });
    // One for each server and family; the new director will take its own.
    let silent = || -> Vec<Session> {
        (0..2).flat_map(|_| VIPS.map(|vip| Session::silent(&cluster.client, vip).unwrap())).collect()
    };
    let mut lost = Vec::new();
    for found in ["1 50", "3 50", "0 50"] {
        cluster.nodes[0].sysctl("ipv4/vs/sync_threshold", found);
        lost.extend(silent());
        let [finding] = expect(&mut nodes[0], [("sync-threshold", Severity::Warning)]);
        assert!(finding.reason.contains(&format!("sync_threshold is {found}")), "{finding}");
    }
    // A period of packets: sessions whose first packet was sent twice.
    cluster.nodes[0].sysctl("ipv4/vs/sync_threshold", "2 50");
    lost.extend(thread::scope(|scope| {
        let connect = || Session::silent(&cluster.client, VIP4).unwrap();
        ["n2", "n3"].iter().for_each(|name| drop(ip(&format!("link set {name} down"))));
        let sessions = [scope.spawn(connect), scope.spawn(connect)];
        thread::sleep(Duration::from_millis(400));
        ["n2", "n3"].iter().for_each(|name| drop(ip(&format!("link set {name} up"))));
        sessions.map(|session| session.join().unwrap())
    }));
    expect(&mut nodes[0], [("sync-threshold", Severity::Warning)]);
    // Longer than messages wait to be sent.
    thread::sleep(Duration::from_millis(2500));
    let [finding] = expect(&mut nodes[0], [("sync-threshold", Severity::Warning)]);
    fix(&mut nodes[0], &finding);
    let mut kept = silent();
    until("sessions are learned", || kept.iter().all(|session| origin(&cluster.nodes[1], session).is_some()));
    let origins: Vec<_> = lost.iter().map(|session| origin(&cluster.nodes[1], session)).collect();
    assert!(!origins.contains(&Some(Origin::Sync)), "{origins:?}");
    // A planned move would send them.
    ip("link set n1 down");
    nodes[1].become_role(Role::Master).unwrap();
    assert_eq!(lost.iter_mut().filter_map(|session| session.ask().err()).count(), 3 * 2 + 1);
    assert_eq!(kept.iter_mut().filter_map(|session| session.ask().err()).count(), 0);
    nodes[1..].iter_mut().for_each(expect_nothing);
}

#[test]
fn no_sync_daemon() {
    let (cluster, mut nodes) = cluster(Fence::Marks);
    cluster.nodes[1].sh("ipvsadm --stop-daemon backup");
    let lost = cluster.client.session_with("n3", VIP4);
    thread::sleep(Duration::from_millis(2500));
    assert_eq!(origin(&cluster.nodes[1], &lost), None);
    let [finding] = expect(&mut nodes[1], [("sync-daemon", Severity::Warning)]);
    fix(&mut nodes[1], &finding);
    let kept = cluster.client.session_with("n3", VIP4);
    until("it is learned", || origin(&cluster.nodes[1], &kept) == Some(Origin::Sync));
}
