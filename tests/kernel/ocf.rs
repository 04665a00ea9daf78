//! The resource agent for Pacemaker, called as Pacemaker calls it: what each action ends with,
//! from every state.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output};

use rustix::fs::{FlockOperation, flock};

use crate::cli::lvs_node;
use crate::lab::{ip, ipvsadm, without_checksum};
use crate::node::{VIPS, WEB, add_second_node, enter_node_netns, new_path, saved, sorted, sync_daemons};

const SUCCESS: i32 = 0;
const ERR_GENERIC: i32 = 1;
const ERR_UNIMPLEMENTED: i32 = 3;
const ERR_INSTALLED: i32 = 5;
const ERR_CONFIGURED: i32 = 6;
const NOT_RUNNING: i32 = 7;
const RUNNING_PROMOTED: i32 = 8;
const FAILED_PROMOTED: i32 = 9;

/// A node, and how Pacemaker calls its agent.
struct Pacemaker {
    dir: PathBuf,
    binary: String,
    on_stop: &'static str,
    group: &'static str,
    fence: &'static str,
}

impl Drop for Pacemaker {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.dir);
    }
}

impl Pacemaker {
    fn new(fence: &'static str, on_stop: &'static str) -> Self {
        enter_node_netns();
        add_second_node();
        let dir = new_path();
        fs::create_dir_all(dir.join("bin")).unwrap();
        fs::write(dir.join("web.ipvs"), WEB).unwrap();
        // What Pacemaker is told of a node's wish to be promoted.
        let score = "#!/bin/sh\necho \"$*\" >\"${0%/bin/*}/score\"\n";
        fs::write(dir.join("bin/crm_master"), score).unwrap();
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        fs::set_permissions(dir.join("bin/crm_master"), mode).unwrap();
        let pacemaker = Pacemaker { dir, binary: lvs_node().display().to_string(), on_stop, group: "", fence };
        pacemaker.configure("");
        pacemaker
    }

    fn configure(&self, more: &str) {
        let file = format!(
            "interface = \"bond0\"\nvips = {VIPS:?}\nstate_dir = {:?}\nservices = \"web.ipvs\"\nfence = {:?}\n{more}[marks]\nown_requests = \"left-alone\"\n",
            self.dir.join("state"),
            self.fence
        );
        fs::write(self.dir.join("node.toml"), file).unwrap();
    }

    fn call(&self, action: &str) -> Output {
        let agent = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/ocf/lvs-node");
        let mut command = Command::new(agent);
        let path = format!("{}/bin:{}", self.dir.display(), std::env::var("PATH").unwrap());
        command.arg(action).env("PATH", path).env("OCF_ROOT", "/nowhere").env("HA_RSCTMP", self.dir.join("tmp"));
        command.env("OCF_RESOURCE_INSTANCE", "web:0").env("OCF_RESKEY_config", self.dir.join("node.toml"));
        if !self.group.is_empty() {
            command.env("OCF_RESKEY_group", self.group);
        }
        command.env("OCF_RESKEY_binary", &self.binary).env("OCF_RESKEY_on_stop", self.on_stop).output().unwrap()
    }

    /// The action ends with this code.
    fn expect(&self, action: &str, code: i32) {
        let Output { status, stdout, stderr } = self.call(action);
        assert_eq!(status.code(), Some(code), "{action}: {}", String::from_utf8_lossy(&stderr));
        assert!(stdout.is_empty(), "{action}");
        // A failure says why.
        let failed = [ERR_GENERIC, ERR_INSTALLED, ERR_CONFIGURED, FAILED_PROMOTED].contains(&code);
        assert_eq!(!stderr.is_empty(), failed || (code == NOT_RUNNING && action != "monitor"), "{action}");
    }

    fn score(&self) -> String {
        fs::read_to_string(self.dir.join("score")).unwrap_or_default()
    }

    /// What a backup has.
    fn backup(&self) -> Seen {
        let table = if self.fence == "clear" { String::new() } else { sorted(WEB) };
        (false, true, table, vec!["backup".into()])
    }

    /// Where the VIPs are, and what the table and the daemons are.
    fn seen(&self) -> Seen {
        let on = |interface: &str| {
            let shown = ip(&format!("-o address show dev {interface}"));
            let count = VIPS.iter().filter(|vip| shown.contains(&format!(" {vip}/"))).count();
            assert!(count == 0 || count == 2, "{shown}");
            count == 2
        };
        (on("bond0"), on("lo"), saved(), sync_daemons())
    }
}

/// Whether the VIPs are on the interface, and on `lo`; the table; the sync daemons.
type Seen = (bool, bool, String, Vec<String>);

fn nothing() -> Seen {
    (false, false, String::new(), vec![])
}

fn master() -> Seen {
    (true, true, sorted(WEB), vec!["master".into(), "backup".into()])
}

#[test]
fn a_promotable_clone_lives() {
    for (fence, on_stop) in [("marks", "serve"), ("marks", "release"), ("clear", "serve")] {
        let node = Pacemaker::new(fence, on_stop);
        let backup = || node.backup();
        let stopped = || if on_stop == "serve" { backup() } else { nothing() };
        // A probe; and a stop of what was never started leaves it so.
        for (action, code) in
            [("monitor", NOT_RUNNING), ("stop", SUCCESS), ("promote", NOT_RUNNING), ("demote", NOT_RUNNING)]
        {
            node.expect(action, code);
            assert_eq!(node.seen(), nothing(), "{action}");
        }
        node.expect("validate-all", SUCCESS);
        for (action, state, running) in [
            ("start", backup(), SUCCESS),
            ("promote", master(), RUNNING_PROMOTED),
            ("demote", backup(), SUCCESS),
            ("promote", master(), RUNNING_PROMOTED),
            ("stop", stopped(), NOT_RUNNING),
            ("start", backup(), SUCCESS),
            ("stop", stopped(), NOT_RUNNING),
        ] {
            // Pacemaker repeats what it does not know the end of.
            for _ in 0..2 {
                node.expect(action, SUCCESS);
                assert_eq!(node.seen(), state, "{action}");
            }
            node.expect("monitor", running);
            let score = if action == "stop" { "-l reboot -D\n" } else { "-l reboot -v 10\n" };
            assert_eq!(node.score(), score, "{action}");
        }
        assert!(fs::read_dir(node.dir.join("tmp")).unwrap().next().is_none());
    }
}

#[test]
fn half_a_state_is_a_failure_until_it_is_mended() {
    let node = Pacemaker::new("marks", "serve");
    node.expect("start", SUCCESS);
    ip("address del 192.0.2.254/32 dev lo");
    node.expect("monitor", ERR_GENERIC);
    node.expect("start", SUCCESS);
    node.expect("monitor", SUCCESS);
    ipvsadm("--stop-daemon backup");
    node.expect("monitor", ERR_GENERIC);
    node.expect("start", SUCCESS);
    node.expect("promote", SUCCESS);
    for half in ["address del 2001:db8::fe/128 dev lo", "address del 192.0.2.254/32 dev bond0"] {
        ip(half);
        node.expect("monitor", FAILED_PROMOTED);
        // As Pacemaker recovers it.
        node.expect("demote", SUCCESS);
        node.expect("stop", SUCCESS);
        node.expect("start", SUCCESS);
        node.expect("promote", SUCCESS);
        node.expect("monitor", RUNNING_PROMOTED);
    }
    ipvsadm("-C");
    node.expect("monitor", FAILED_PROMOTED);
    node.expect("promote", SUCCESS);
    assert_eq!(node.seen(), master());
    // Killed on its way: what is written down is a role under way.
    let state = node.dir.join("state/state");
    let text = without_checksum(&fs::read_to_string(&state).unwrap());
    for (role, code) in [("master", FAILED_PROMOTED), ("backup", ERR_GENERIC), ("stop", ERR_GENERIC)] {
        fs::write(&state, text.replace("role master reached", &format!("role {role} under-way"))).unwrap();
        node.expect("monitor", code);
    }
    node.expect("demote", SUCCESS);
    assert_eq!(node.seen(), node.backup());
    // A warning is none: nobody reads them where a cluster acts on exit codes.
    fs::write("/proc/sys/net/ipv4/conf/all/arp_ignore", "4").unwrap();
    node.expect("monitor", SUCCESS);
    // The kernel or somebody else is in the way.
    ip("address add 192.0.2.254/32 dev peer0");
    node.expect("promote", ERR_GENERIC);
    ip("address del 192.0.2.254/32 dev peer0");
    node.expect("promote", SUCCESS);
    node.expect("monitor", RUNNING_PROMOTED);
}

#[test]
fn a_node_that_lacks_something() {
    let mut node = Pacemaker::new("marks", "serve");
    let file = node.dir.join("node.toml");
    let moved = node.dir.join("elsewhere");
    // Where it was never started, a probe says so, and a stop has nothing to do: else the node
    // would be fenced.
    fs::rename(&file, &moved).unwrap();
    for (action, code) in [
        ("monitor", NOT_RUNNING),
        ("validate-all", ERR_INSTALLED),
        ("start", ERR_INSTALLED),
        ("promote", NOT_RUNNING),
        ("stop", SUCCESS),
    ] {
        node.expect(action, code);
    }
    fs::rename(&moved, &file).unwrap();
    // Where it was, nobody may believe that it is stopped.
    node.expect("start", SUCCESS);
    node.expect("promote", SUCCESS);
    fs::rename(&file, &moved).unwrap();
    for action in ["monitor", "stop", "validate-all"] {
        node.expect(action, ERR_INSTALLED);
    }
    assert_eq!(node.seen(), master());
    fs::rename(&moved, &file).unwrap();
    let binary = std::mem::replace(&mut node.binary, "/usr/sbin/no-such-program".into());
    node.expect("stop", ERR_INSTALLED);
    node.binary = binary;
    for wrong in ["vip_owner = \"keepalived\"\n", "speed = 9\n", "announce_again = 600.0\n"] {
        node.configure(wrong);
        node.expect("validate-all", ERR_CONFIGURED);
        node.expect("start", ERR_CONFIGURED);
    }
    node.configure("");
    node.on_stop = "sleep";
    node.expect("validate-all", ERR_CONFIGURED);
    node.on_stop = "release";
    node.expect("stop", SUCCESS);
    assert_eq!(node.seen(), nothing());
    let lock = fs::File::open(node.dir.join("state/lock")).unwrap();
    flock(&lock, FlockOperation::NonBlockingLockExclusive).expect("nobody holds the lock any more");
}

/// A file of an earlier version: what is printed about it is no failure.
#[test]
fn words_of_an_earlier_version_are_no_failure() {
    let mut node = Pacemaker::new("quiesce", "serve");
    for (action, code) in [
        ("validate-all", SUCCESS),
        ("monitor", NOT_RUNNING),
        ("start", SUCCESS),
        ("monitor", SUCCESS),
        ("promote", SUCCESS),
        ("monitor", RUNNING_PROMOTED),
    ] {
        assert_eq!(node.call(action).status.code(), Some(code), "{action}");
    }
    assert_eq!(node.seen(), master());
    node.fence = "marks";
    node.configure("");
    node.expect("monitor", RUNNING_PROMOTED);
}

/// Two resources, each of one group of the node.
#[test]
fn a_group_of_several() {
    let mut node = Pacemaker::new("marks", "serve");
    let file = fs::read_to_string(node.dir.join("node.toml")).unwrap();
    let file = file.replace(&format!("vips = {VIPS:?}\n"), "");
    let groups = format!(
        "[[group]]\nname = \"web\"\nvips = [{:?}]\n[[group]]\nname = \"my mail\"\nvips = [{:?}]\n",
        VIPS[0], VIPS[1]
    );
    fs::write(node.dir.join("node.toml"), file + &groups).unwrap();
    // Which one is not said.
    node.expect("validate-all", ERR_CONFIGURED);
    node.expect("start", ERR_CONFIGURED);
    let monitor = |node: &mut Pacemaker, codes: [i32; 2]| {
        for (group, code) in ["web", "my mail"].into_iter().zip(codes) {
            node.group = group;
            node.expect("monitor", code);
        }
    };
    monitor(&mut node, [NOT_RUNNING, NOT_RUNNING]);
    for (group, action, codes) in [
        ("web", "start", [SUCCESS, NOT_RUNNING]),
        ("my mail", "start", [SUCCESS, SUCCESS]),
        ("my mail", "promote", [SUCCESS, RUNNING_PROMOTED]),
        ("web", "promote", [RUNNING_PROMOTED, RUNNING_PROMOTED]),
        ("my mail", "demote", [RUNNING_PROMOTED, SUCCESS]),
        ("web", "stop", [NOT_RUNNING, SUCCESS]),
    ] {
        node.group = group;
        node.expect(action, SUCCESS);
        monitor(&mut node, codes);
    }
    node.group = "other";
    node.expect("validate-all", ERR_CONFIGURED);
}

#[test]
fn what_the_agent_says_of_itself() {
    let node = Pacemaker::new("marks", "serve");
    let Output { status, stdout, stderr } = node.call("meta-data");
    assert!(status.success() && stderr.is_empty());
    let text = String::from_utf8(stdout).unwrap();
    // Well-formed: every element is closed, in turn.
    let mut open: Vec<&str> = Vec::new();
    for tag in text.split('<').skip(1) {
        let (tag, _) = tag.split_once('>').unwrap();
        let name = tag.trim_start_matches('/').split([' ', '/']).next().unwrap();
        match tag.as_bytes() {
            [b'?' | b'!', ..] | [.., b'/'] => {}
            [b'/', ..] => assert_eq!(open.pop(), Some(name)),
            _ => open.push(name),
        }
    }
    assert!(open.is_empty() && !text.contains('&'), "{open:?}");
    // What it can do, it says, and the other way round.
    for action in ["start", "stop", "promote", "demote", "monitor", "validate-all", "meta-data"] {
        assert!(text.contains(&format!("<action name=\"{action}\"")), "{action}");
    }
    for name in ["config", "binary", "on_stop", "group"] {
        assert!(text.contains(&format!("<parameter name=\"{name}\"")), "{name}");
    }
    assert_eq!(node.call("migrate_to").status.code(), Some(ERR_UNIMPLEMENTED));
}
