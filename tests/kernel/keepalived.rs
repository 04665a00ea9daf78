//! Under a real keepalived: its states, by notify program, by FIFO and by watch, each reach the
//! node; its VIP is its own, and ours on lo outlives it. Clusters of keepalived, with several
//! groups, health checks and virtual MAC addresses. And what keepalived does not do on demand:
//! states in every order, lost, late and all at once.

mod checkers;
mod library;

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::thread;
use std::time::{Duration, Instant};

use lvs_dr::Netns;
use rustix::fs::{FlockOperation, flock};
use rustix::process::{Pid, Signal, kill_process};

use crate::cli::lvs_node;
use crate::lab::{self, cable, enter_new_netns, ip, ipvsadm, keep, load_ipv6, new_netns, run};
use crate::lan::{
    BOTH, INTERFACE, Session, Stoppable, VIP, VIP6, enter_switch, failing_during, host, kept, serve, session,
};
use crate::node::{Numbers, VIPS, WEB, enter_node_netns, new_path};

/// The other servers. Where there is none, its MAC address is known all the same.
fn know_peers() {
    for peer in ["192.0.2.12", "192.0.2.13", "2001:db8::12"] {
        ip(&format!("neigh add {peer} lladdr 02:00:00:00:00:{} nud permanent dev bond0", &peer[peer.len() - 2..]));
    }
}

/// The roles of the sync daemons that run.
fn daemons() -> Vec<String> {
    let shown = ipvsadm("-Ln --daemon");
    shown.lines().map(|line| line.split(' ').next().unwrap().to_owned()).collect()
}

/// The table as ipvsadm saves it, in the order of ours, without the services of the node's marks.
fn saved() -> String {
    let mut table = ipvsadm("-Sn").parse::<lvs_dr::ipvs::Table>().unwrap();
    table.retain(|id| !id.to_string().starts_with("fwmark"));
    table.to_string()
}

/// The rules that mark packets on an interface.
fn rules(interface: &str) -> String {
    lab::rules(interface).join("\n")
}

/// The rule that only a node has that does not direct.
const OPENING: &str = "TCP with SYN";

/// A process of a test, ended with it.
struct Process(Child);

impl Process {
    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.0), signal).unwrap();
    }

    fn ends(mut self) {
        let start = Instant::now();
        while self.0.try_wait().unwrap().is_none() {
            assert!(start.elapsed() < Duration::from_secs(10), "it does not end");
            thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if matches!(self.0.try_wait(), Ok(None)) {
            // keepalived ends its children, if it is asked to.
            let _ = kill_process(Pid::from_child(&self.0), Signal::TERM);
            let start = Instant::now();
            while matches!(self.0.try_wait(), Ok(None)) && start.elapsed() < Duration::from_secs(3) {
                thread::sleep(Duration::from_millis(10));
            }
            let _ = self.0.kill().and_then(|()| self.0.wait());
        }
    }
}

/// A node's file below a directory of its own, in the calling thread's network namespace.
struct Lab {
    dir: PathBuf,
}

impl Drop for Lab {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.dir);
    }
}

/// A copy in the guest's own memory: once keepalived found the program missing among the host's
/// files, and ran no script.
fn installed() -> &'static Path {
    static COPY: OnceLock<PathBuf> = OnceLock::new();
    COPY.get_or_init(|| {
        let copy = new_path();
        fs::create_dir_all(copy.parent().unwrap()).unwrap();
        fs::copy(lvs_node(), &copy).unwrap();
        copy
    })
}

const ADD: &str =
    "address add 192.0.2.254/32 dev bond0\naddress add 2001:db8::fe/128 dev bond0 nodad preferred_lft 0\n";

impl Lab {
    fn new() -> Self {
        let dir = new_path();
        fs::create_dir_all(dir.join("tmp")).unwrap();
        fs::write(dir.join("web.ipvs"), WEB).unwrap();
        let state = dir.join("state");
        let file = format!(
            "interface = \"bond0\"\nvips = {VIPS:?}\nstate_dir = {state:?}\nvip_owner = \"keepalived\"\n\
             services = \"web.ipvs\"\n"
        );
        fs::write(dir.join("node.toml"), file).unwrap();
        Lab { dir }
    }

    fn command(&self, arguments: &str) -> Command {
        let mut command = Command::new(lvs_node());
        command.arg("--config").arg(self.dir.join("node.toml")).args(arguments.split_whitespace());
        command
    }

    fn command_line(&self, arguments: &str) -> String {
        format!("{} --config {}/node.toml {arguments}", installed().display(), self.dir.display())
    }

    fn log(&self, name: &str) -> fs::File {
        fs::File::options().create(true).append(true).open(self.dir.join(name)).unwrap()
    }

    fn follow(&self) -> Process {
        self.run_on(&format!("fifo {}/fifo --instance web", self.dir.display()))
    }

    fn watch(&self) -> Process {
        self.run_on(&format!("watch --fifo {0}/fifo --metrics {0}/metrics --instance web", self.dir.display()))
    }

    fn run_on(&self, arguments: &str) -> Process {
        let mut command = self.command(arguments);
        Process(command.stdout(self.log("fifo.log")).stderr(self.log("fifo.log")).spawn().unwrap())
    }

    fn logs(&self) -> String {
        ["keepalived.log", "fifo.log"].map(|log| fs::read_to_string(self.dir.join(log)).unwrap_or_default()).concat()
    }

    /// The role in the node's file: reached.
    fn role(&self) -> Option<String> {
        let state = fs::read_to_string(self.dir.join("state/state")).ok()?;
        let line = state.lines().find(|line| line.starts_with("role "))?;
        line.strip_prefix("role ")?.strip_suffix(" reached").map(str::to_owned)
    }

    /// The node gets to one of these roles, soon, and is what that role is.
    fn becomes(&self, roles: &[&str], what: &str) {
        let start = Instant::now();
        // More than one state may be on its way.
        while let Err(reason) = self.is(roles) {
            assert!(start.elapsed() < Duration::from_secs(30), "{what}: {reason}, not {roles:?}\n{}", self.logs());
            thread::sleep(Duration::from_millis(10));
        }
    }

    fn is(&self, roles: &[&str]) -> Result<(), String> {
        let role = self.role();
        if !role.as_ref().is_some_and(|role| roles.contains(&role.as_str())) || self.overlap() {
            return Err(format!("{role:?}"));
        }
        let directs = roles == ["master"];
        let (table, daemons, rules) = (saved(), daemons(), rules("bond0"));
        // The table is the same in every role.
        if table != WEB {
            return Err(table);
        }
        if daemons != if directs { &["master", "backup"][..] } else { &["backup"] } {
            return Err(daemons.join(" "));
        }
        if rules.contains(OPENING) == directs || !rules.contains("all from 02:00:00:00:00:12") {
            return Err(rules);
        }
        if on("lo") { Ok(()) } else { Err("VIP not on lo".into()) }
    }

    /// Whether a request is under way. Its process keeps the file locked; keepalived may have
    /// killed it when it ended itself.
    fn overlap(&self) -> bool {
        let Ok(file) = fs::File::open(self.dir.join("state/request")) else { return false };
        flock(&file, FlockOperation::NonBlockingLockShared).is_err()
    }
}

/// Whether the VIPs are on the interface.
fn on(interface: &str) -> bool {
    let shown = ip(&format!("-o address show dev {interface}"));
    VIPS.iter().all(|vip| shown.contains(&format!(" {vip}/")))
}

fn batch(commands: &str) {
    let mut child = Command::new("ip").args(["-batch", "-"]).stdin(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(commands.as_bytes()).unwrap();
    assert!(child.wait().unwrap().success(), "{commands}");
}

/// What keepalived does with its VIPs.
fn put_vips(there: bool) {
    if there != on("bond0") {
        batch(&if there {
            ADD.to_owned()
        } else {
            ADD.replace(" add ", " del ").replace(" nodad preferred_lft 0", "")
        });
    }
}

/// Starts keepalived in the calling thread's network namespace, with a /tmp and an /etc/keepalived
/// of its own: VRRP only.
fn start_keepalived(dir: &Path, instances: &str, global: &str, log: fs::File) -> Process {
    start_with("--vrrp", dir, instances, global, log)
}

fn start_with(options: &str, dir: &Path, instances: &str, global: &str, log: fs::File) -> Process {
    fs::create_dir_all(dir.join("tmp")).unwrap();
    configure(dir, instances, global);
    let script = "mkdir -p /etc/keepalived && mount --bind $0/tmp /tmp && mount --bind $0 /etc/keepalived &&
        exec keepalived $1 --dont-fork --log-console --pid=$0/pid --vrrp_pid=$0/vrrp.pid --checkers_pid=$0/checkers.pid";
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", script]).arg(dir).arg(options).stdin(Stdio::null());
    Process(command.stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap())
}

fn configure(dir: &Path, instances: &str, global: &str) {
    let text = format!("global_defs {{\n    script_user root\n    vrrp_version 3\n{global}\n}}\n{instances}");
    fs::write(dir.join("keepalived.conf"), text).unwrap();
}

fn instance(name: &str, id: u8, priority: u8, interface: &str, rest: &str) -> String {
    format!(
        "vrrp_instance {name} {{
    state BACKUP
    interface {interface}
    virtual_router_id {id}
    priority {priority}
    advert_int 0.1
    virtual_ipaddress {{
        192.0.2.{id}/32 dev {interface}
    }}
{rest}
}}
"
    )
}

/// In a new network namespace, with bond0 and its addresses; the other end of the cable is peer0
/// in the namespace returned.
fn cabled() -> Netns {
    load_ipv6();
    enter_new_netns();
    let peer = new_netns();
    cable("bond0", "02:00:00:00:00:11", &peer, "peer0");
    ip("address add 192.0.2.11/24 dev bond0");
    ip("address add 2001:db8::11/64 dev bond0 nodad");
    know_peers();
    peer.run(|| ip("address add 192.0.2.12/24 dev peer0")).unwrap();
    peer.run(|| ip("link set peer0 address 02:00:00:00:00:12")).unwrap();
    peer
}

/// The whole life of a node: alone, beside a better one, without its cable, without its instance,
/// stopped and started.
fn lives(follow: Option<fn(&Lab) -> Process>) {
    let peer = cabled();
    let lab = Lab::new();
    let dir = &lab.dir;
    let mut monitor = Command::new("ip");
    let monitor = Process(monitor.args(["-o", "monitor", "address"]).stdout(lab.log("monitor")).spawn().unwrap());
    let follower = follow.map(|follow| follow(&lab));
    let (global, notify) = match follow.is_some() {
        true => (format!("    vrrp_notify_fifo {}/fifo", dir.display()), String::new()),
        false => {
            let program = format!("{} --config {}/node.toml notify", installed().display(), dir.display());
            (String::new(), format!("    notify \"{program}\"\n"))
        }
    };
    let excluded = "    virtual_ipaddress_excluded {\n        2001:db8::fe/128 dev bond0\n    }\n    notify_deleted\n";
    let web = instance("web", 254, 100, "bond0", &format!("{excluded}{notify}"));
    let keepalived = || start_keepalived(dir, &web, &global, lab.log("keepalived.log"));
    let reload = |process: &Process, instances: &str| {
        configure(dir, instances, &global);
        process.signal(Signal::HUP);
    };

    let running = keepalived();
    lab.becomes(&["master"], "alone");
    assert!(on("bond0"));
    let better = || {
        let web = instance("web", 254, 200, "peer0", "");
        peer.run(|| start_keepalived(&dir.join("peer"), &web, "", lab.log("peer.log"))).unwrap()
    };
    let other = better();
    lab.becomes(&["backup"], "beside a better one");
    assert!(!on("bond0"));
    other.signal(Signal::TERM);
    other.ends();
    lab.becomes(&["master"], "alone again");
    peer.run(|| ip("link set peer0 down")).unwrap();
    lab.becomes(&["fault"], "without its cable");
    assert!(!on("bond0"));
    peer.run(|| ip("link set peer0 up")).unwrap();
    lab.becomes(&["master"], "with its cable");
    // Another instance stays: keepalived wants one.
    let mail = instance("mail", 7, 100, "bond0", "    nopreempt\n");
    reload(&running, &mail);
    lab.becomes(&["stop"], "without its instance");
    assert!(!on("bond0"));
    reload(&running, &web);
    lab.becomes(&["master"], "with its instance");
    running.signal(Signal::TERM);
    running.ends();
    lab.becomes(&["stop"], "stopped");
    assert!(!on("bond0"));
    let running = keepalived();
    lab.becomes(&["master"], "started again");
    assert!(on("bond0"));
    running.signal(Signal::TERM);
    running.ends();
    lab.becomes(&["stop"], "stopped again");
    drop(follower);
    run(&lab.command_line("release --now"));
    assert!(!on("bond0") && !on("lo"));
    drop(monitor);
    // What happened to the VIPs: on the interface they came and went with keepalived's state; on
    // lo they came once, and went at the end.
    let seen = fs::read_to_string(dir.join("monitor")).unwrap();
    for vip in VIPS {
        let of = |interface: &str| -> String {
            let lines = seen
                .lines()
                .filter(|line| line.contains(&format!(" {vip}/")) && line.contains(&format!(" {interface} ")));
            lines.map(|line| if line.starts_with("Deleted") { '-' } else { '+' }).collect()
        };
        assert_eq!((of("lo").as_str(), of("bond0").as_str()), ("+-", "+-+-+-+-+-"), "{seen}");
    }
}

#[test]
fn every_state_reaches_the_node_by_notify() {
    lives(None);
}

#[test]
fn every_state_reaches_the_node_by_fifo() {
    lives(Some(Lab::follow));
}

#[test]
fn every_state_reaches_the_node_by_watch() {
    lives(Some(Lab::watch));
}

#[test]
fn states_come_in_every_order_and_some_are_lost() {
    enter_node_netns();
    ip("address add 2001:db8::11/64 dev bond0 nodad");
    know_peers();
    let lab = Lab::new();
    run(&format!("mkfifo {}/fifo", lab.dir.display()));
    let follower = lab.follow();
    let mut fifo = fs::File::options().write(true).open(lab.dir.join("fifo")).unwrap();
    let mut write = |state: &str| fifo.write_all(format!("INSTANCE \"web\" {state} 100\n").as_bytes()).unwrap();
    let descriptors = || fs::read_dir(format!("/proc/{}/fd", follower.0.id())).unwrap().count();
    let states = ["MASTER", "BACKUP", "FAULT", "STOP"];
    write("BACKUP");
    lab.becomes(&["backup"], "first");
    let before = descriptors();
    let (mut numbers, mut rounds) = (Numbers(7), 0);
    for code in 0..256_usize {
        let order = [code & 3, code >> 2 & 3, code >> 4 & 3, code >> 6].map(|i| states[i]);
        if (0..4).any(|i| order[..i].contains(&order[i])) {
            continue;
        }
        // The last one every other time.
        let lost = numbers.next(8) | ((code as u64 / 4) & 1) << 3;
        for (i, state) in order.iter().enumerate() {
            put_vips(*state == "MASTER");
            if lost >> i & 1 == 0 {
                write(state);
            }
            thread::sleep(Duration::from_micros(numbers.next(30_000)));
        }
        let what = format!("{order:?}, lost {lost:04b}");
        let last = order[3].to_lowercase();
        match lost >> 3 {
            0 => lab.becomes(&[&last], &what),
            _ if last == "master" => lab.becomes(&["master"], &what),
            // Which of them is not known.
            _ => lab.becomes(&["backup", "fault", "stop"], &what),
        }
        assert_eq!(on("bond0"), last == "master", "{what}");
        rounds += 1;
    }
    assert_eq!(rounds, 24);
    // A role that is being taken on has some open.
    crate::lan::until("all descriptors are closed", || descriptors() <= before);
}

#[test]
fn a_full_fifo_drops_what_is_written() {
    enter_node_netns();
    ip("address add 2001:db8::11/64 dev bond0 nodad");
    know_peers();
    let lab = Lab::new();
    run(&format!("mkfifo {}/fifo", lab.dir.display()));
    let follower = lab.follow();
    // Waits for who reads, and then no more.
    let mut fifo = fs::File::options().write(true).open(lab.dir.join("fifo")).unwrap();
    rustix::fs::fcntl_setfl(&fifo, rustix::fs::OFlags::NONBLOCK).unwrap();
    for last in ["MASTER", "BACKUP"] {
        follower.signal(Signal::STOP);
        let mut written = 0;
        // Until there is no room for another.
        while fifo.write_all(format!("INSTANCE \"web\" {} 100\n", ["BACKUP", "MASTER"][written % 2]).as_bytes()).is_ok()
        {
            written += 1;
        }
        assert!(written > 500, "{written}");
        put_vips(last == "MASTER");
        follower.signal(Signal::CONT);
        let start = Instant::now();
        // Until it is so, and stays so.
        let mut since = None;
        while since.is_none_or(|since: Instant| since.elapsed() < Duration::from_secs(2)) {
            let right = (lab.role().as_deref() == Some("master")) == (last == "MASTER") && lab.role().is_some();
            since = if right { since.or(Some(Instant::now())) } else { None };
            assert!(start.elapsed() < Duration::from_secs(30), "{last}: {:?}\n{}", lab.role(), lab.logs());
            thread::sleep(Duration::from_millis(20));
        }
        match last {
            "MASTER" => lab.becomes(&["master"], "MASTER was lost"),
            _ => lab.becomes(&["backup", "fault", "stop"], "BACKUP was lost"),
        }
    }
}

#[test]
fn notify_processes_at_once_end_in_what_the_vip_shows() {
    enter_node_netns();
    ip("address add 2001:db8::11/64 dev bond0 nodad");
    know_peers();
    let lab = Lab::new();
    let states = ["MASTER", "BACKUP", "FAULT"];
    let (mut rounds, mut corrected) = (0, 0);
    for code in 0..27_usize {
        let order = [code % 3, code / 3 % 3, code / 9].map(|i| states[i]);
        if order[0] == order[1] || order[0] == order[2] || order[1] == order[2] {
            continue;
        }
        // Whichever was the last in truth.
        for there in [true, false] {
            put_vips(there);
            let processes = order.map(|state| {
                let mut command = lab.command(&format!("notify INSTANCE web {state} 100"));
                Process(command.stdout(lab.log("notify.log")).stderr(lab.log("notify.log")).spawn().unwrap())
            });
            processes.into_iter().for_each(Process::ends);
            let what = format!("{order:?}, VIP there: {there}");
            match there {
                true => lab.becomes(&["master"], &what),
                false => lab.becomes(&["backup", "fault"], &what),
            }
            assert_eq!(on("bond0"), there);
            rounds += 1;
            let log = fs::read_to_string(lab.dir.join("notify.log")).unwrap();
            corrected = log.matches("as the VIP shows").count();
        }
    }
    println!("{corrected} of {rounds} were put right");
    assert!(rounds == 12 && corrected > 0);
}

/// `lvs-node handover`: keepalived gives up its priority, or with `nopreempt`, where no other node
/// would ask for more, is at fault.
#[test]
fn a_handover_makes_keepalived_give_up() {
    for (weight, nopreempt) in [("-253", ""), ("0", "    nopreempt\n")] {
        let peer = cabled();
        let lab = Lab::new();
        let dir = &lab.dir;
        let track = dir.join("track");
        let file = fs::read_to_string(dir.join("node.toml")).unwrap();
        fs::write(dir.join("node.toml"), format!("{file}[handover]\nfile = {track:?}\n")).unwrap();
        fs::write(&track, "0\n").unwrap();
        let global = format!("    vrrp_notify_fifo {}/fifo", dir.display());
        let excluded = "    virtual_ipaddress_excluded {\n        2001:db8::fe/128 dev bond0\n    }\n";
        let tracked = format!("    track_file {{\n        lvs_dr weight {weight}\n    }}\n");
        let web = format!(
            "track_file lvs_dr {{\n    file {}\n}}\n{}",
            track.display(),
            instance("web", 254, 200, "bond0", &format!("{excluded}{tracked}{nopreempt}"))
        );
        let _follower = lab.follow();
        let _keepalived = start_keepalived(dir, &web, &global, lab.log("keepalived.log"));
        lab.becomes(&["master"], "alone");
        // Nobody would take over: it directs on, also where it was at fault meanwhile.
        let alone = lab.command("handover --limit 1").output().unwrap();
        if weight != "0" {
            assert_eq!(alone.status.code(), Some(1), "{weight}: {}", lab.logs());
        }
        run(&lab.command_line("handover --end"));
        lab.becomes(&["master"], "still alone");
        let other = instance("web", 254, 100, "peer0", nopreempt);
        let _other = peer.run(|| start_keepalived(&dir.join("peer"), &other, "", lab.log("peer.log"))).unwrap();
        let there = || peer.run(|| ip("-o address show dev peer0")).unwrap().contains("192.0.2.254/");
        assert!(!there());
        thread::sleep(Duration::from_millis(500));
        let shown = run(&lab.command_line("handover"));
        assert!(shown.contains("handed over"), "{shown}");
        lab.becomes(if weight == "0" { &["fault"] } else { &["backup"] }, "handed over");
        let start = Instant::now();
        while !there() {
            assert!(start.elapsed() < Duration::from_secs(5), "{}", lab.logs());
            thread::sleep(Duration::from_millis(20));
        }
        // With nopreempt the other directs on; else this one, which has more priority, does again.
        run(&lab.command_line("handover --end"));
        lab.becomes(if weight == "0" { &["backup"] } else { &["master"] }, "the end of it");
        assert_eq!(there(), weight == "0");
    }
}

/// A node of a cluster with a keepalived of its own.
struct Member {
    number: u8,
    netns: Netns,
    lab: Lab,
    watch: Option<Process>,
    keepalived: Option<Process>,
}

/// The VIP of the second group.
const MAIL: &str = "192.0.2.253";

impl Member {
    /// `file`: the node's, without state_dir.
    fn new(number: u8, file: &str) -> Self {
        let netns = host(number);
        let dir = new_path();
        fs::create_dir_all(dir.join("tmp")).unwrap();
        let own = format!("vip_owner = \"keepalived\"\nstate_dir = {:?}\n", dir.join("state"));
        let handover = format!("[handover]\nfile = {:?}\n", dir.join("track"));
        fs::write(dir.join("node.toml"), format!("{own}{file}{handover}")).unwrap();
        fs::write(dir.join("track"), "0\n").unwrap();
        Member { number, netns, lab: Lab { dir }, watch: None, keepalived: None }
    }

    /// `instances`: keepalived's, see [`vrrp`].
    fn start(&mut self, options: &str, instances: &str) {
        self.elect(options, instances);
        self.watch = Some(self.netns.run(|| self.lab.watch()).unwrap());
    }

    fn configuration(&self, instances: &str) -> (String, String) {
        let global = format!("    vrrp_notify_fifo {}/fifo", self.lab.dir.display());
        let track = format!("track_file lvs_dr {{\n    file {}/track\n}}\n", self.lab.dir.display());
        (global, track + instances)
    }

    fn elect(&mut self, options: &str, instances: &str) {
        let (global, text) = self.configuration(instances);
        let start = || start_with(options, &self.lab.dir, &text, &global, self.lab.log("keepalived.log"));
        self.keepalived = Some(self.netns.run(start).unwrap());
    }

    fn reload(&self, instances: &str) {
        let (global, text) = self.configuration(instances);
        configure(&self.lab.dir, &text, &global);
        self.keepalived.as_ref().unwrap().signal(Signal::HUP);
    }

    fn stop(&mut self) {
        let running = self.keepalived.take().unwrap();
        running.signal(Signal::TERM);
        running.ends();
    }

    fn run(&self, arguments: &str) -> String {
        self.netns.run(|| run(&self.lab.command_line(arguments))).unwrap()
    }

    /// The role of a group, once it is reached.
    fn role(&self, group: &str) -> Option<String> {
        let state = fs::read_to_string(self.lab.dir.join("state/state")).ok()?;
        let group = state.split("group ").find_map(|part| part.strip_prefix(&format!("{group}\n")))?;
        let line = group.lines().find_map(|line| line.strip_prefix("role "))?;
        line.strip_suffix(" reached").map(str::to_owned)
    }

    fn has(&self, vip: &str, interface: &str) -> bool {
        self.netns.run(|| ip(&format!("-o address show dev {interface}"))).unwrap().contains(&format!(" {vip}/"))
    }

    fn saved(&self) -> String {
        self.netns.run(saved).unwrap()
    }

    fn rules(&self, interface: &str) -> String {
        self.netns.run(|| rules(interface)).unwrap()
    }
}

fn soon(what: &str, members: &[Member], mut is: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is() {
        let logs = || members.iter().map(|member| member.lab.logs()).collect::<Vec<_>>().join("\n---\n");
        assert!(start.elapsed() < Duration::from_secs(60), "{what} did not come about:\n{}", logs());
        thread::sleep(Duration::from_millis(30));
    }
}

/// Waits until this node directs the group, and all others that take part do not.
fn directs(number: u8, group: &str, vip: &str, members: &[Member]) {
    soon(&format!("{number} directs {group:?}"), members, || {
        members.iter().filter(|member| member.keepalived.is_some()).all(|member| {
            let master = member.role(group).as_deref() == Some("master");
            member.role(group).is_some() && master == (member.number == number) && member.has(vip, INTERFACE) == master
        })
    });
}

fn vrrp(name: &str, id: u8, priority: u8, rest: &str) -> String {
    instance(name, id, priority, INTERFACE, &format!("    track_file {{\n        lvs_dr weight -253\n    }}\n{rest}"))
}

fn service(vip: &str) -> String {
    let servers = [11, 12, 13].map(|n| format!("{{ address = \"192.0.2.{n}:80\" }}")).join(", ");
    format!("[[service]]\nlisten = \"tcp {vip}:80\"\nscheduler = \"wrr\"\ndestinations = [{servers}]\n")
}

const NUMBERS: [u8; 3] = [11, 12, 13];

#[test]
fn a_cluster_through_every_change_of_its_director() {
    enter_switch();
    let client = host(1);
    let file = format!("interface = \"{INTERFACE}\"\nvips = [\"{VIP}\"]\n{}", service(VIP));
    let mut members = NUMBERS.map(|number| Member::new(number, &file));
    for (member, priority) in members.iter_mut().zip([200, 150, 100]) {
        serve(&member.netns, member.number);
        member.start("--vrrp", &vrrp("web", 254, priority, ""));
    }
    directs(11, "", VIP, &members);
    let mut sessions: Vec<(Session, u8)> = (0..12).map(|_| session(&client, VIP)).collect();
    let failing = |change: &mut dyn FnMut()| failing_during(&client, &[VIP], change);
    let good = |what: &str, (failed, all): (usize, usize), sessions: &mut Vec<(Session, u8)>| {
        println!("{what}: {failed} of {all} new connections failed");
        assert_eq!((failed, kept(sessions)), (0, sessions.len()), "{what}: of {all}");
        sessions.extend((0..3).map(|_| session(&client, VIP)));
    };
    let counted = failing(&mut || {
        members[0].reload(&vrrp("web", 254, 50, ""));
        directs(12, "", VIP, &members);
    });
    good("less priority", counted, &mut sessions);
    let counted = failing(&mut || {
        members[1].stop();
        directs(13, "", VIP, &members);
        soon("it is stopped", &members, || members[1].role("").as_deref() == Some("stop"));
    });
    good("keepalived is stopped", counted, &mut sessions);
    let counted = failing(&mut || {
        assert!(members[2].run("handover").contains("handed over"));
        directs(11, "", VIP, &members);
    });
    good("handover", counted, &mut sessions);
    let counted = failing(&mut || {
        drop(members[2].run("handover --end"));
        members[1].elect("--vrrp", &vrrp("web", 254, 150, ""));
        directs(12, "", VIP, &members);
    });
    good("keepalived is started", counted, &mut sessions);
    // New connections spread at once.
    let servers: Vec<u8> = (0..12).map(|_| session(&client, VIP).1).collect();
    assert_eq!(NUMBERS.map(|number| servers.iter().filter(|server| **server == number).count()), [4, 4, 4]);
    // It crashes. What is younger than three seconds may be lost.
    thread::sleep(Duration::from_secs(3));
    let crashed = &members[1].keepalived.as_ref().unwrap().0;
    kill_process(Pid::from_child(crashed), Signal::STOP).unwrap();
    ip("link set port12 down");
    let alive = |n: usize, number, master: bool| {
        (members[n].role("").as_deref() == Some("master")) == master && members[n].has(VIP, INTERFACE) == (number == 13)
    };
    soon("13 directs", &members, || alive(2, 13, true) && alive(0, 11, false));
    sessions.retain(|(_, server)| *server != 12);
    assert_eq!(kept(&mut sessions), sessions.len());
    kill_process(Pid::from_child(crashed), Signal::CONT).unwrap();
    for member in &members {
        let table = member.saved();
        assert_eq!(table.matches("-w 1\n").count(), 3, "{table}");
    }
}

/// Active/active: two VRRP instances, each with a director of its own.
#[test]
fn two_groups_have_two_directors_and_one_moves() {
    enter_switch();
    let client = host(1);
    let group = |name: &str, vip: &str| format!("[[group]]\nname = \"{name}\"\nvips = [\"{vip}\"]\n");
    let head = format!("interface = \"{INTERFACE}\"\n{}{}", group("my web", VIP), group("mail", MAIL));
    let file = head + &service(VIP) + &service(MAIL);
    let mut members = NUMBERS.map(|number| Member::new(number, &file));
    // keepalived takes a name with a blank in quotes.
    let both = |web, mail| vrrp("\"my web\"", 254, web, "") + &vrrp("mail", 253, mail, "");
    for (member, (web, mail)) in members.iter_mut().zip([(200, 100), (100, 200), (150, 150)]) {
        serve(&member.netns, member.number);
        member.start("--vrrp", &both(web, mail));
    }
    directs(11, "my web", VIP, &members);
    directs(12, "mail", MAIL, &members);
    let mut sessions: Vec<(Session, u8)> = (0..18).map(|n| session(&client, [VIP, MAIL][n % 2])).collect();
    for vip in [0, 1] {
        let servers = |number| sessions.iter().skip(vip).step_by(2).filter(|(_, server)| *server == number).count();
        assert_eq!(NUMBERS.map(servers), [3, 3, 3], "{vip}");
    }
    let request = |member: &Member, group: &str| {
        let text = member.run(&format!("--group {group} status"));
        text.lines().find(|line| line.starts_with("role")).unwrap().to_owned()
    };
    let of_mail: Vec<String> = members.iter().map(|member| request(member, "mail")).collect();
    let (failed, all) = failing_during(&client, &[VIP, MAIL], || {
        members[0].reload(&both(50, 100));
        directs(13, "my web", VIP, &members);
    });
    assert_eq!((failed, kept(&mut sessions)), (0, sessions.len()), "of {all}");
    directs(12, "mail", MAIL, &members);
    assert_eq!(members.iter().map(|member| request(member, "mail")).collect::<Vec<_>>(), of_mail);
    // Each node hears who directs which group.
    soon("both directors are heard", &members, || {
        let text = members[0].run("status --json");
        let status: serde_json::Value = serde_json::from_str(&text).unwrap();
        let director = |name: &str| {
            let groups = status["groups"].as_array().unwrap().iter();
            groups.clone().find(|group| group["group"] == name).unwrap()["director"].as_str().map(str::to_owned)
        };
        [director("my web"), director("mail")] == [Some("192.0.2.13".into()), Some("192.0.2.12".into())]
    });
    let servers: Vec<u8> = (0..18).map(|n| session(&client, [VIP, MAIL][n % 2]).1).collect();
    assert_eq!(NUMBERS.map(|number| servers.iter().filter(|server| **server == number).count()), [6, 6, 6]);
    // A handover is of all groups that the node directs.
    members[1].reload(&both(250, 200));
    directs(12, "my web", VIP, &members);
    let (failed, all) = failing_during(&client, &[VIP, MAIL], || {
        assert!(members[1].run("handover").contains("handed over"));
        assert!(!members[1].has(VIP, INTERFACE) && !members[1].has(MAIL, INTERFACE));
    });
    assert_eq!((failed, kept(&mut sessions)), (0, sessions.len()), "of {all}");
}

/// keepalived's own health checks edit the table of every node, and lvs-node leaves what they say.
#[test]
fn health_checks_of_keepalived_decide_about_servers_in_every_role() {
    enter_switch();
    let client = host(1);
    let mut members =
        NUMBERS.map(|number| Member::new(number, &format!("interface = \"{INTERFACE}\"\nvips = [\"{VIP}\"]\n")));
    let real = |number: u8| {
        // Of 12 the weight becomes 0, 11 is removed.
        let inhibit = if number == 12 { "inhibit_on_failure" } else { "" };
        format!(
            "    real_server 192.0.2.{number} 80 {{
        weight 2
        {inhibit}
        TCP_CHECK {{
            connect_timeout 1
            retry 0
        }}
    }}
"
        )
    };
    let servers = NUMBERS.map(real).concat();
    let checked = format!(
        "virtual_server {VIP} 80 {{
    delay_loop 1
    lb_algo wrr
    lb_kind DR
    protocol TCP
{servers}}}
"
    );
    let mut running = Vec::new();
    for (member, priority) in members.iter_mut().zip([200, 150, 100]) {
        running.push(Stoppable::start_answering(&member.netns, member.number));
        member.start("", &(vrrp("web", 254, priority, "") + &checked));
    }
    directs(11, "", VIP, &members);
    let weights = |member: &Member| {
        let saved = member.saved();
        NUMBERS.map(|number| {
            let start = format!("-a -t {VIP}:80 -r 192.0.2.{number}:80 -g -w ");
            saved.lines().find_map(|line| line.strip_prefix(&start)).map(|weight| weight.parse::<u32>().unwrap())
        })
    };
    let all_have = |what: &str, members: &[Member], wanted: [Option<u32>; 3]| {
        soon(what, members, || members.iter().all(|member| weights(member) == wanted));
    };
    let answered = |count: u8| {
        let servers: Vec<Option<u8>> =
            (0..count).map(|_| Session::open(&client, VIP).and_then(|mut session| session.ask())).collect();
        NUMBERS.map(Some).map(|number| servers.iter().filter(|server| **server == number).count())
    };
    let [full, down] = [Some(2), Some(0)];
    all_have("all servers", &members, [full, full, full]);
    assert_eq!(answered(12), [4, 4, 4]);
    soon("peers known", &members, || members.iter().all(|member| !member.run("status").contains("unknown")));
    // 12 dies and returns while 13 is a backup.
    running[1].set(false);
    all_have("12 is down", &members, [full, down, full]);
    assert_eq!(answered(12), [6, 0, 6]);
    running[1].set(true);
    all_have("12 is up", &members, [full, full, full]);
    // It dies again, and 11, which directs, does too; then 13 is promoted.
    running[1].set(false);
    running[0].set(false);
    all_have("two are down", &members, [None, down, full]);
    // All know the connections that they must know to take part, so that 11 directs for good.
    soon("all take part", &members, || {
        members.iter().all(|member| member.lab.logs().contains("\ntakes part in elections"))
    });
    directs(11, "", VIP, &members);
    // 12 does not take over.
    drop(members[1].run("handover"));
    assert!(members[0].run("handover").contains("handed over"));
    directs(13, "", VIP, &members);
    assert_eq!(answered(12), [0, 0, 12]);
    // Also after more looks, and a repair of the marks.
    for member in &members {
        member.netns.run(|| run(&format!("tc filter del dev {INTERFACE} ingress"))).unwrap();
    }
    soon("rules again", &members, || members.iter().all(|member| member.rules(INTERFACE).contains("all from")));
    for member in &members {
        assert_eq!(weights(member), [None, down, full], "{}", member.lab.logs());
    }
    assert_eq!(answered(6), [0, 0, 6]);
    // They return while 11 and 12 are backups, and 11 directs again.
    running[0].set(true);
    running[1].set(true);
    all_have("all are up", &members, [full, full, full]);
    assert_eq!(answered(12), [4, 4, 4]);
    drop(members[0].run("handover --end"));
    directs(11, "", VIP, &members);
    assert_eq!(answered(12), [4, 4, 4]);
    drop(members[1].run("handover --end"));
    for member in &members {
        assert_eq!(weights(member), [full, full, full], "{}", member.lab.logs());
        // No service was in a file of the node.
        assert!(!member.lab.dir.join("state/loaded").exists());
    }
}

/// keepalived's virtual MAC address: the VIP is on a macvlan, but what nodes send each other
/// arrives on the interface below.
#[test]
fn with_a_virtual_mac_address_peers_are_recognised_on_the_interface_below() {
    enter_switch();
    let client = host(1);
    let file = format!(
        "interface = \"vrrp.254\"\nvips = [\"{VIP}\"]\n[sync]\ninterface = \"{INTERFACE}\"\n{}",
        service(VIP).replace(", { address = \"192.0.2.13:80\" }", "")
    );
    let mut members = [11, 12].map(|number| Member::new(number, &file));
    for (member, priority) in members.iter_mut().zip([200, 150]) {
        serve(&member.netns, member.number);
        let text = vrrp("web", 254, priority, "    use_vmac vrrp.254\n");
        // Without a device the VIP is on the macvlan.
        member.elect("--vrrp", &text.replace("/32 dev bond0", "/32"));
        let there = || std::process::Command::new("ip").args(["link", "show", "vrrp.254"]).output().unwrap();
        soon("the macvlan", std::slice::from_ref(member), || member.netns.run(there).unwrap().status.success());
        member.watch = Some(member.netns.run(|| member.lab.watch()).unwrap());
    }
    let directs = |number: u8, members: &[Member]| {
        soon(&format!("{number} directs"), members, || {
            members.iter().all(|member| {
                let master = member.role("").as_deref() == Some("master");
                member.role("").is_some()
                    && master == (member.number == number)
                    && member.has(VIP, "vrrp.254") == master
            })
        });
    };
    directs(11, &members);
    for member in &members {
        for interface in [INTERFACE, "vrrp.254"] {
            let rules = member.rules(interface);
            let opening = rules.contains(OPENING);
            assert!(rules.contains("all from") && opening == (member.number == 12), "{interface}: {rules}");
        }
    }
    let mut sessions: Vec<(Session, u8)> = (0..10).map(|_| session(&client, VIP)).collect();
    let servers = |number| sessions.iter().filter(|(_, server)| *server == number).count();
    assert_eq!([11, 12].map(servers), [5, 5]);
    let marked = |member: &Member, interface: &str| {
        let show = || run(&format!("tc -s filter show dev {interface} ingress"));
        let rules = member.netns.run(show).unwrap();
        let sent = |line: &str| line.trim().strip_prefix("Sent ")?.split_whitespace().nth(2)?.parse::<u64>().ok();
        rules.lines().filter_map(sent).sum::<u64>()
    };
    assert!(marked(&members[1], INTERFACE) >= 5, "{}", members[1].rules(INTERFACE));
    let (failed, all) = failing_during(&client, &[VIP], || {
        let text = vrrp("web", 254, 50, "    use_vmac vrrp.254\n");
        members[0].reload(&text.replace("/32 dev bond0", "/32"));
        directs(12, &members);
    });
    assert_eq!((failed, kept(&mut sessions)), (0, sessions.len()), "of {all}");
}
