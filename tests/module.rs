//! The kernel's module comes and goes while a client lives. In a guest of its own: it takes IPVS
//! away from everybody.

use std::process::Command;
use std::time::{Duration, Instant};

use lvs_dr::Cause;
use lvs_dr::ipvs::{Ipvs, Plan, Scheduler, Service, ServiceId, Table};
use lvs_dr::node::{Config, Fence, Node, Role};

fn run(command: &str) -> bool {
    let mut words = command.split_whitespace();
    Command::new(words.next().unwrap()).args(words).output().unwrap().status.success()
}

/// Unloads IPVS, once the kernel has done away with what used it.
fn unload() {
    let deadline = Instant::now() + Duration::from_secs(20);
    while std::fs::read_to_string("/proc/modules").unwrap().lines().any(|line| line.starts_with("ip_vs ")) {
        run("modprobe -r ip_vs_rr");
        run("modprobe -r ip_vs");
        assert!(Instant::now() < deadline, "ip_vs is still loaded");
    }
}

#[test]
fn a_client_outlives_the_module() {
    assert_eq!(std::env::var("LAB").as_deref(), Ok("guest"), "this test unloads IPVS: it runs in the lab's guest only");
    let service = Service::new(ServiceId::tcp("192.0.2.1:80".parse().unwrap()), Scheduler::RR);
    let mut ipvs = Ipvs::open().unwrap();
    ipvs.add_service(&service).unwrap();
    ipvs.remove_service(&service.id).unwrap();

    // A family's number is never given twice in a row: the old one now means nothing.
    unload();
    assert_eq!(ipvs.services().unwrap(), []);
    unload();
    ipvs.add_service(&service).unwrap();
    ipvs.remove_service(&service.id).unwrap();
    unload();
    let wanted: Table = "-A -t 192.0.2.1:80 -s rr".parse().unwrap();
    ipvs.apply(&Plan::between(&Table::new(), &wanted)).unwrap();
    assert_eq!(ipvs.services().unwrap()[0].service, service);

    assert!(run("ip link add bond0 up type dummy"));
    // Nothing to load it from.
    ipvs.remove_service(&service.id).unwrap();
    unload();
    assert!(run("mount -t tmpfs none /lib/modules"));
    for error in [ipvs.services().unwrap_err(), ipvs.add_service(&service).unwrap_err(), Ipvs::open().unwrap_err()] {
        assert_eq!(error.cause(), Some(Cause::NoIpvs), "{error}");
        assert!(error.to_string().contains("modprobe ip_vs"), "{error}");
    }
    // A node says so before it changes anything.
    let state_dir = std::env::temp_dir().join("lvs-dr-module");
    let config = Config {
        fence: Fence::Clear,
        state_dir: state_dir.clone(),
        services: Some(wanted),
        ..Config::new("bond0", ["192.0.2.1".parse().unwrap()])
    };
    let error = Node::open(config.clone()).unwrap_err();
    assert_eq!(error.cause(), Some(Cause::NoIpvs), "{error}");
    assert!(error.to_string().contains("modprobe ip_vs") && !state_dir.exists(), "{error}");
    // And back again: the same client goes on.
    assert!(run("umount /lib/modules"));
    assert_eq!(ipvs.services().unwrap(), []);
    let mut node = Node::open(config).unwrap();
    node.become_role(Role::Master).unwrap();
    assert_eq!(ipvs.services().unwrap()[0].service, service);
    node.release(|_| ()).unwrap();
    assert_eq!(ipvs.services().unwrap(), []);
}

#[test]
fn a_missing_module_for_marks_is_named() {
    assert_eq!(
        std::env::var("LAB").as_deref(),
        Ok("guest"),
        "this test hides modules: it runs in the lab's guest only"
    );
    for module in ["sch_ingress", "cls_bpf", "act_skbedit"] {
        assert!(run("mount -t tmpfs none /lib/modules"));
        let error = lvs_dr::marks::supported().unwrap_err();
        assert_eq!(error.cause(), Some(Cause::NoTcModule), "{error}");
        assert!(error.to_string().starts_with(&format!("cannot use module {module} (")), "{error}");
        assert!(error.to_string().contains("kernel-modules-core"), "{error}");
        assert!(run("umount /lib/modules"));
        assert!(run(&format!("modprobe {module}")));
    }
    lvs_dr::marks::supported().unwrap();
}
