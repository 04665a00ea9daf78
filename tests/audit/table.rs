//! Tables, fences and schedulers.

use std::collections::BTreeSet;
use std::time::Duration;

use lvs_dr::ipvs::{Scheduler, Table};
use lvs_dr::node::audit::{Kind, Severity};
use lvs_dr::node::{Config, Fence, Role};

use crate::cluster::{Cluster, Flow, VIP4, VIP6, VIPS};
use crate::lab::ipvsadm;
use crate::{at, by_hand, cluster, config, expect, expect_nothing, failures, fix, table, web};

#[test]
fn a_live_table_on_an_unfenced_backup() {
    let (cluster, mut nodes) = cluster(Fence::Clear);
    assert_eq!(failures(&cluster), 0);
    // A health check that writes the whole table; `ipvsadm -R` at boot.
    for host in &cluster.nodes[1..] {
        host.run(|| {
            let live = lvs_dr::ipvs::Ipvs::open().unwrap().table().unwrap();
            let plan = lvs_dr::ipvs::Plan::between(&live, &table());
            lvs_dr::ipvs::Ipvs::open().unwrap().apply(&plan).unwrap();
        });
    }
    assert!((0..6).flat_map(|_| VIPS).any(|vip| cluster.client.get(vip).is_err()));
    for node in &mut nodes[1..] {
        let [finding] = expect(node, [("unfenced", Severity::Error)]);
        assert!(matches!(&finding.kind, Kind::Unfenced { services, .. } if services.len() == 2), "{finding}");
        fix(node, &finding);
    }
    assert_eq!(failures(&cluster), 0);
}

#[test]
fn a_live_service_on_the_vip_that_no_node_knows_of() {
    for fence in Fence::ALL {
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
        // Marks fence whatever arrives for the VIP.
        let fenced = fence == Fence::Marks;
        assert_eq!(answered(30), fenced, "{fence:?}");
        for (node, host) in nodes[1..].iter_mut().zip(&cluster.nodes[1..]) {
            if !fenced {
                let [finding] = expect(node, [("unfenced", Severity::Error)]);
                by_hand(host, &finding);
            }
            expect_nothing(node);
        }
        assert!(answered(9), "{fence:?}");
    }
}

#[test]
fn backup_only_makes_ipvs_ignore_all_packets() {
    for fence in Fence::ALL {
        let (cluster, mut nodes) = cluster(fence);
        let servers = || -> Vec<BTreeSet<String>> {
            VIPS.map(|vip| (0..9).map(|_| cluster.client.get(vip).unwrap()).collect()).into()
        };
        assert!(servers().iter().all(|servers| servers.len() == 3));
        for (index, severity) in [(0, Severity::Error), (1, Severity::Warning)] {
            cluster.nodes[index].sysctl("ipv4/vs/backup_only", "1");
            if index == 1 {
                nodes[0].become_role(Role::Backup).unwrap();
                nodes[1].become_role(Role::Master).unwrap();
            }
            assert!(servers().iter().all(|servers| *servers == [cluster.nodes[index].name.clone()].into()));
            if index == 1 {
                nodes[1].become_role(Role::Backup).unwrap();
                nodes[0].become_role(Role::Master).unwrap();
            }
            let [finding] = expect(&mut nodes[index], [("backup-only", severity)]);
            fix(&mut nodes[index], &finding);
            if index == 1 {
                nodes[0].become_role(Role::Backup).unwrap();
                nodes[1].become_role(Role::Master).unwrap();
            }
            assert!(servers().iter().all(|servers| servers.len() == 3));
        }
    }
}

#[test]
fn a_table_that_was_flushed() {
    for fence in Fence::ALL {
        let (cluster, mut nodes) = cluster(fence);
        cluster.nodes[0].sh("ipvsadm -C");
        assert!(VIPS.into_iter().all(|vip| (0..3).all(|_| cluster.client.get(vip).unwrap() == "n1")));
        match fence {
            Fence::Marks => {
                let names = [("marks-differ", Severity::Error), ("table-differs", Severity::Error)];
                let [_, finding] = expect(&mut nodes[0], names);
                assert!(finding.reason.contains("192.0.2.12:80"), "{finding}");
                fix(&mut nodes[0], &finding);
            }
            _ => {
                let [finding] = expect(&mut nodes[0], [("table-differs", Severity::Error)]);
                fix(&mut nodes[0], &finding);
            }
        }
        assert_eq!(failures(&cluster), 0);
        assert!((0..3).any(|_| cluster.client.get(VIP6).unwrap() != "n1"));
        // What is missing or changed in part belongs to its editor.
        cluster.nodes[0].sh("ipvsadm -d -t 192.0.2.254:80 -r 192.0.2.12:80");
        expect_nothing(&mut nodes[0]);
        cluster.nodes[0].sh("ipvsadm -D -t 192.0.2.254:80");
        if fence == Fence::Marks {
            let [finding] = expect(&mut nodes[0], [("marks-differ", Severity::Notice)]);
            fix(&mut nodes[0], &finding);
        }
        expect_nothing(&mut nodes[0]);
        // A backup that lacks it would serve all alone when it is promoted.
        if fence == Fence::Marks {
            cluster.nodes[1].sh("ipvsadm -C");
            let [_, finding] =
                expect(&mut nodes[1], [("marks-differ", Severity::Error), ("table-differs", Severity::Warning)]);
            fix(&mut nodes[1], &finding);
        }
    }
}

#[test]
fn a_scheduler_that_the_kernel_lacks() {
    for fence in Fence::ALL {
        let cluster = Cluster::new(1);
        let host = &cluster.nodes[0];
        let right: Table = web("-s rr", 11).parse().unwrap();
        let mut services = right.clone();
        let mut service = services.services().next().unwrap().service.clone();
        service.scheduler = Scheduler::new("absent").unwrap();
        services.insert(service.clone());
        let config = Config { services: Some(services), ..config(fence) };
        let mut node = host.node(config.clone());
        // Before a role is taken on: with fence `clear` the backup's table is empty.
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
        assert!(cluster.client.get(VIP4).is_err());
        assert!(!host.sh("ipvsadm -Sn").contains("192.0.2.254"));
        let mut node = host.node(Config { services: Some(right), ..config });
        node.become_role(Role::Master).unwrap();
        assert_eq!(cluster.client.get(VIP4).unwrap(), "n1");
        expect_nothing(&mut node);
    }
}

#[test]
fn what_is_in_the_way_of_every_role() {
    let (cluster, mut nodes) = cluster(Fence::Marks);
    let host = &cluster.nodes[1];
    host.sh("ip link add other0 up type dummy");
    host.sh("ip address add 192.0.2.254/32 dev other0");
    nodes[1].become_role(Role::Master).unwrap_err();
    let [finding, failed] =
        expect(&mut nodes[1], [("vip-elsewhere", Severity::Error), ("role-failed", Severity::Warning)]);
    for found in [finding, failed] {
        assert!(found.reason.contains("192.0.2.254/32 on other0"), "{found}");
    }
    host.sh("ip address delete 192.0.2.254/32 dev other0");
    nodes[1].become_role(Role::Backup).unwrap();
    expect_nothing(&mut nodes[1]);
    for fence in Fence::ALL {
        // A director of nothing.
        let cluster = Cluster::new(1);
        let mut node = cluster.nodes[0].node(Config { services: None, ..config(fence) });
        node.become_role(Role::Master).unwrap();
        expect(&mut node, [("no-services", Severity::Error)]);
        cluster.nodes[0].sh("ipvsadm -A -u 192.0.2.254:80 -s rr -o");
        expect_nothing(&mut node);
        // Not harmful by itself, but not as it should be.
        cluster.nodes[0].sh("ip address change 2001:db8::fe/128 dev lo preferred_lft forever valid_lft forever");
        let [finding] = expect(&mut node, [("out-of-place", Severity::Warning)]);
        fix(&mut node, &finding);
    }
}
