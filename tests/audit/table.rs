//! Tables, fences and schedulers.

use std::time::Duration;

use lvs_dr::ipvs::{Scheduler, Table};
use lvs_dr::node::audit::{Kind, Severity};
use lvs_dr::node::{Config, Fence, Role};

use crate::cluster::{Cluster, Flow, VIP4, VIP6, VIPS};
use crate::lab::ipvsadm;
use crate::{at, by_hand, cluster, config, expect, expect_nothing, failures, fix, table, web};

#[test]
fn a_live_table_on_an_unfenced_backup() {
    for fence in [Fence::Quiesce, Fence::Clear] {
        let (cluster, mut nodes) = cluster(fence);
        assert_eq!(failures(&cluster), 0);
        // A checker that puts weights back; `ipvsadm -R` at boot.
        for host in &cluster.nodes[1..] {
            host.run(|| {
                let live = lvs_dr::ipvs::Ipvs::open().unwrap().table().unwrap();
                let plan = lvs_dr::ipvs::Plan::between(&live, &table(fence));
                lvs_dr::ipvs::Ipvs::open().unwrap().apply(&plan).unwrap();
            });
        }
        assert!((0..6).flat_map(|_| VIPS).any(|vip| cluster.client.get(vip).is_err()), "{fence:?}");
        for node in &mut nodes[1..] {
            let [finding] = expect(node, [("unfenced", Severity::Error)]);
            assert!(matches!(&finding.kind, Kind::Unfenced { services, .. } if services.len() == 2), "{finding}");
            fix(node, &finding);
        }
        assert_eq!(failures(&cluster), 0, "{fence:?}");
    }
}

#[test]
fn a_live_service_on_the_vip_that_no_node_knows_of() {
    for fence in [Fence::Stateless, Fence::BackupOnly] {
        let (cluster, mut nodes) = cluster(fence);
        let dns = "-A -u 192.0.2.254:53 -s rr";
        for host in &cluster.nodes {
            host.serve_udp(at(VIP4, 53));
            host.run(|| {
                ipvsadm(dns);
                (11..14).for_each(|last| drop(ipvsadm(&format!("-a -u 192.0.2.254:53 -r 192.0.2.{last}:53 -g -w 1"))));
            });
        }
        let ask = || Flow::open(&cluster.client, at(VIP4, 53)).ask(Duration::from_millis(200));
        let answered = |count: usize| (0..count).all(|_| ask().is_ok());
        let switched = fence == Fence::BackupOnly;
        assert_eq!(answered(30), switched, "{fence:?}");
        for (node, host) in nodes[1..].iter_mut().zip(&cluster.nodes[1..]) {
            if switched {
                expect_nothing(node);
                continue;
            }
            let [finding] = expect(node, [("unfenced", Severity::Error)]);
            by_hand(host, &finding);
            expect_nothing(node);
        }
        assert!(answered(9), "{fence:?}");
    }
}

#[test]
fn a_backup_daemon_on_a_director_with_backup_only() {
    for fence in [Fence::BackupOnly, Fence::Stateless] {
        let (cluster, mut nodes) = cluster(fence);
        let servers = || {
            let mut servers: Vec<String> = (0..12).map(|_| cluster.client.get(VIP4).unwrap()).collect();
            servers.sort();
            servers.dedup();
            servers
        };
        assert!(servers().len() > 1);
        let host = &cluster.nodes[0];
        host.sysctl("ipv4/vs/backup_only", "1");
        expect_nothing(&mut nodes[0]);
        host.sh("ipvsadm --start-daemon backup --mcast-interface bond0 --syncid 254");
        assert_eq!(servers(), ["n1"]);
        let [finding] = expect(&mut nodes[0], [("backup-daemon-on-master", Severity::Error)]);
        match fence {
            Fence::BackupOnly => fix(&mut nodes[0], &finding),
            _ => by_hand(host, &finding),
        }
        assert!(servers().len() > 1);
        expect_nothing(&mut nodes[0]);
    }
}

#[test]
fn a_table_that_is_not_what_the_configuration_wants() {
    let (cluster, mut nodes) = cluster(Fence::Quiesce);
    let host = &cluster.nodes[0];
    host.sh("ipvsadm -D -t 192.0.2.254:80");
    host.sh("ipvsadm -a -t [2001:db8::fe]:80 -r [2001:db8::99]:80 -g -w 1");
    assert!((0..3).all(|_| cluster.client.get(VIP4).unwrap() == "n1"));
    assert!((0..4).any(|_| cluster.client.get(VIP6).is_err()));
    let [finding] = expect(&mut nodes[0], [("table-differs", Severity::Error)]);
    assert!(finding.reason.contains("2001:db8::99"), "{finding}");
    fix(&mut nodes[0], &finding);
    assert_eq!(failures(&cluster), 0);
    // A backup that lacks it would not know the sessions' servers when it is promoted.
    cluster.nodes[1].sh("ipvsadm -C");
    let [finding] = expect(&mut nodes[1], [("table-differs", Severity::Warning)]);
    fix(&mut nodes[1], &finding);
}

#[test]
fn a_scheduler_that_the_kernel_lacks() {
    for fence in [Fence::Clear, Fence::Quiesce] {
        let cluster = Cluster::new(1);
        let host = &cluster.nodes[0];
        let right: Table = web("-s rr", 11).parse().unwrap();
        let mut services = right.clone();
        let mut service = services.services().next().unwrap().service.clone();
        service.scheduler = Scheduler::new("absent").unwrap();
        services.insert(service.clone());
        let config = Config { services: Some(services), ..config(fence) };
        let mut node = host.node(config.clone());
        // Before a role is taken on: the backup's table may be empty.
        let before = host.sh("ipvsadm -Sn");
        let [finding] = expect(&mut node, [("service-refused", Severity::Warning)]);
        assert!(finding.reason.contains("absent"), "{finding}");
        assert!(matches!(&finding.kind, Kind::ServiceRefused { service: found, .. } if *found == service.id));
        assert_eq!(host.sh("ipvsadm -Sn"), before);
        if fence == Fence::Clear {
            node.become_role(Role::Backup).unwrap();
            expect(&mut node, [("service-refused", Severity::Warning)]);
        }
        node.become_role(Role::Master).unwrap_err();
        // Nobody answers, or it answers alone.
        assert_eq!(cluster.client.get(VIP4).is_err(), fence == Fence::Clear);
        assert_eq!(host.sh("ipvsadm -Sn"), "");
        let mut node = host.node(Config { services: Some(right), ..config });
        node.become_role(Role::Master).unwrap();
        assert_eq!(cluster.client.get(VIP4).unwrap(), "n1");
        expect_nothing(&mut node);
    }
}

#[test]
fn what_is_in_the_way_of_every_role() {
    let (cluster, mut nodes) = cluster(Fence::Stateless);
    let host = &cluster.nodes[1];
    host.sh("ip link add other0 up type dummy");
    host.sh("ip address add 192.0.2.254/32 dev other0");
    nodes[1].become_role(Role::Master).unwrap_err();
    let [finding] = expect(&mut nodes[1], [("blocked", Severity::Error)]);
    assert!(finding.reason.contains("192.0.2.254/32 on other0"), "{finding}");
    host.sh("ip address delete 192.0.2.254/32 dev other0");
    expect_nothing(&mut nodes[1]);
    // A director of nothing.
    let cluster = Cluster::new(1);
    let mut node = cluster.nodes[0].node(Config { services: None, ..config(Fence::Clear) });
    node.become_role(Role::Master).unwrap();
    expect(&mut node, [("no-services", Severity::Error)]);
    cluster.nodes[0].sh("ipvsadm -A -t 192.0.2.254:80 -s rr");
    expect_nothing(&mut node);
    // Not harmful by itself, but not as it should be.
    cluster.nodes[0].sh("ip address change 2001:db8::fe/128 dev lo preferred_lft forever valid_lft forever");
    let [finding] = expect(&mut node, [("out-of-place", Severity::Warning)]);
    fix(&mut node, &finding);
}
