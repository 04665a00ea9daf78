//! Who takes itself for the director: keepalived that was killed leaves the VIP where it was.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use lvs_dr::Netns;
use lvs_dr::node::audit::{Finding, Severity};
use lvs_dr::node::{Config, Node, Role, VipOwner};
use rustix::process::{Pid, Signal, kill_process};

use super::{config, node_as, server, sh, web};
use crate::lan::{INTERFACE, VIP, enter_switch, host, mac, mac_text};
use crate::node::new_path;

/// A keepalived that elects, ended with this.
struct Keepalived {
    process: Child,
    conf: PathBuf,
}

impl Keepalived {
    /// `priority`: the greater is the director at first.
    fn start(host: &Netns, dir: &Path, priority: u8) -> Self {
        fs::create_dir_all(dir).unwrap();
        let conf = dir.join("keepalived.conf");
        let text = format!(
            "global_defs {{\n router_id n{priority}\n vrrp_version 3\n}}\nvrrp_instance web {{\n state BACKUP\n nopreempt\n interface \
             {INTERFACE}\n virtual_router_id 51\n priority {priority}\n advert_int 0.2\n virtual_ipaddress {{\n {VIP}/32 dev \
             {INTERFACE}\n }}\n}}\n"
        );
        fs::write(&conf, text).unwrap();
        let mut command = Command::new("keepalived");
        command.args(["--vrrp", "--dont-fork", "--log-console", "--use-file"]).arg(&conf);
        command.arg("--pid").arg(dir.join("pid")).arg("--vrrp_pid").arg(dir.join("vrrp"));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        Keepalived { process: host.run(|| command.spawn().unwrap()).unwrap(), conf }
    }

    /// Its child would give up the VIP when it ends.
    fn kill(&mut self) {
        let parent = Pid::from_child(&self.process);
        let child = fs::read_to_string(self.conf.with_file_name("vrrp")).unwrap();
        let child = Pid::from_raw(child.trim().parse().unwrap()).unwrap();
        for (process, signal) in [(parent, Signal::STOP), (child, Signal::KILL), (parent, Signal::KILL)] {
            kill_process(process, signal).unwrap();
        }
        self.process.wait().unwrap();
    }
}

impl Drop for Keepalived {
    fn drop(&mut self) {
        let _ = kill_process(Pid::from_child(&self.process), Signal::TERM);
        let _ = self.process.wait();
    }
}

fn until(what: &str, condition: impl Fn() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < Duration::from_secs(15), "waited in vain: {what}");
        thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn a_keepalived_that_was_killed_leaves_the_vip_and_is_found() {
    enter_switch();
    let client = host(1);
    let hosts = [11, 12].map(server);
    let services = web("rr", &[11, 12]);
    let mut nodes = [0, 1].map(|index| {
        let config = Config { vip_owner: VipOwner::Keepalived, ..config(INTERFACE, &services) };
        node_as(&hosts[index], config, Role::Backup)
    });
    let dirs = [0, 1].map(|_| new_path());
    let holds = |index: usize| sh(&hosts[index], &format!("ip -o address show dev {INTERFACE}")).contains(VIP);
    let audit = |node: &mut Node, conf: &Path| -> Vec<Finding> { node.audit(Some(conf)).unwrap() };
    let short = |found: &[Finding]| -> Vec<(&'static str, Severity)> {
        found.iter().map(|finding| (finding.kind.name(), finding.severity)).collect()
    };
    let answering = || {
        let limit = Duration::from_millis(60);
        lvs_dr::marks::who_has(&client, INTERFACE, VIP.parse().unwrap(), limit, limit).unwrap().len()
    };

    let mut first = Keepalived::start(&hosts[0], &dirs[0], 200);
    until("the first directs", || holds(0));
    let second = Keepalived::start(&hosts[1], &dirs[1], 100);
    nodes[0].become_role(Role::Master).unwrap();
    thread::sleep(Duration::from_secs(1));
    assert_eq!((holds(1), answering()), (false, 1));
    assert_eq!(audit(&mut nodes[0], &first.conf), []);
    assert_eq!(audit(&mut nodes[1], &second.conf), []);

    // The VIP is on two nodes, and notifications have told only one of them.
    first.kill();
    until("the second directs too", || holds(1));
    nodes[1].become_role(Role::Master).unwrap();
    assert_eq!((holds(0), answering()), (true, 2));
    let found = audit(&mut nodes[0], &first.conf);
    assert_eq!(
        short(&found),
        [("other-director", Severity::Error), ("keepalived-missing", Severity::Error)],
        "{found:?}"
    );
    assert!(found[0].reason.contains(&format!("192.0.2.12 ({})", mac_text(mac(12)))), "{}", found[0]);
    assert!(found[1].reason.contains("keeps the VIP while another one takes it too"), "{}", found[1]);
    let found = audit(&mut nodes[1], &second.conf);
    assert_eq!(short(&found), [("other-director", Severity::Error)], "{found:?}");
    assert!(found[0].reason.contains(&format!("192.0.2.11 ({})", mac_text(mac(11)))), "{}", found[0]);
    // Where keepalived's file is not read, the link shows it all the same.
    assert_eq!(short(&nodes[0].audit(None).unwrap()), [("other-director", Severity::Error)]);

    // As its unit restarts it: it finds another director.
    let again = Keepalived::start(&hosts[0], &dirs[0], 200);
    until("the first has given up the VIP", || !holds(0));
    assert_eq!((holds(1), answering()), (true, 1));
    nodes[0].become_role(Role::Backup).unwrap();
    assert_eq!(audit(&mut nodes[0], &again.conf), []);
    assert_eq!(audit(&mut nodes[1], &second.conf), []);

    // A backup without keepalived is not promoted.
    let conf = again.conf.clone();
    drop(again);
    let found = audit(&mut nodes[0], &conf);
    assert_eq!(short(&found), [("keepalived-missing", Severity::Warning)], "{found:?}");
    // Two others answer.
    sh(&hosts[0], &format!("ip address add {VIP}/32 dev {INTERFACE}"));
    let mut third = node_as(&server(13), config(INTERFACE, &services), Role::Backup);
    let found = third.audit(None).unwrap();
    assert_eq!(short(&found), [("other-director", Severity::Error)], "{found:?}");
}
