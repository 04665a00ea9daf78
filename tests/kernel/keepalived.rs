//! Under a real keepalived: its states, by notify program and by FIFO, each reach the node; its VIP is its own, and ours on lo outlives
//! it. And what keepalived does not do on demand: states in every order, lost, late and all at once.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::thread;
use std::time::{Duration, Instant};

use lvs_dr::Netns;
use rustix::process::{Pid, Signal, kill_process};

use crate::cli::lvs_node;
use crate::fence::{TABLE, daemons, quiesced};
use crate::lab::{cable, enter_new_netns, ip, ipvsadm, load_ipv6, new_netns, run};
use crate::node::{Numbers, VIPS, enter_node_netns, new_path};

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

/// A copy in the guest's own memory: once keepalived found the program missing among the host's files, and ran no script.
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
        fs::write(dir.join("web.ipvs"), TABLE).unwrap();
        let state = dir.join("state");
        let file = format!(
            "interface = \"bond0\"\nvips = {VIPS:?}\nstate_dir = {state:?}\nvip_owner = \"keepalived\"\nfence = \"quiesce\"\n\
             settle = 0.02\nservices = \"web.ipvs\"\n"
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
        let mut command = self.command(&format!("fifo {}/fifo --instance web", self.dir.display()));
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
        while !self.role().is_some_and(|role| roles.contains(&role.as_str())) || self.overlap() {
            assert!(
                start.elapsed() < Duration::from_secs(15),
                "{what}: {:?}, not {roles:?}\n{}",
                self.role(),
                self.logs()
            );
            thread::sleep(Duration::from_millis(10));
        }
        let table = ipvsadm("-Sn").parse::<lvs_dr::ipvs::Table>().unwrap().to_string();
        let (wanted, running) = if roles == ["master"] {
            (TABLE.to_owned(), &["master", "backup"][..])
        } else {
            (quiesced(), &["backup"][..])
        };
        assert_eq!(
            (table, daemons()),
            (wanted, running.iter().map(|role| role.to_string()).collect()),
            "{what}\n{}",
            self.logs()
        );
        assert!(on("lo"), "{what}");
    }

    /// Whether a request is under way.
    fn overlap(&self) -> bool {
        self.dir.join("state/request").exists()
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

/// Starts keepalived in the calling thread's network namespace, with a /tmp and an /etc/keepalived of its own.
fn start_keepalived(dir: &Path, instances: &str, global: &str, log: fs::File) -> Process {
    fs::create_dir_all(dir.join("tmp")).unwrap();
    configure(dir, instances, global);
    let script = "mkdir -p /etc/keepalived && mount --bind $0/tmp /tmp && mount --bind $0 /etc/keepalived &&
        exec keepalived --vrrp --dont-fork --log-console --pid=$0/pid --vrrp_pid=$0/vrrp.pid";
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", script]).arg(dir).stdin(Stdio::null());
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

/// In a new network namespace, with bond0 and its addresses; the other end of the cable is peer0 in the namespace returned.
fn cabled() -> Netns {
    load_ipv6();
    enter_new_netns();
    let peer = new_netns();
    cable("bond0", "02:00:00:00:00:11", &peer, "peer0");
    ip("address add 192.0.2.11/24 dev bond0");
    ip("address add 2001:db8::11/64 dev bond0 nodad");
    peer.run(|| ip("address add 192.0.2.12/24 dev peer0")).unwrap();
    peer
}

/// The whole life of a node: alone, beside a better one, without its cable, without its instance, stopped and started.
fn lives(by_fifo: bool) {
    let peer = cabled();
    let lab = Lab::new();
    let dir = &lab.dir;
    let mut monitor = Command::new("ip");
    let monitor = Process(monitor.args(["-o", "monitor", "address"]).stdout(lab.log("monitor")).spawn().unwrap());
    let follower = by_fifo.then(|| lab.follow());
    let (global, notify) = match by_fifo {
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
    run(&lab.command_line("release"));
    assert!(!on("bond0") && !on("lo"));
    drop(monitor);
    // What happened to the VIPs: on the interface they came and went with keepalived's state; on lo they came once, and went at the end.
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
    lives(false);
}

#[test]
fn every_state_reaches_the_node_by_fifo() {
    lives(true);
}

#[test]
fn states_come_in_every_order_and_some_are_lost() {
    enter_node_netns();
    ip("address add 2001:db8::11/64 dev bond0 nodad");
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
    assert_eq!((rounds, descriptors()), (24, before));
}

#[test]
fn a_full_fifo_drops_what_is_written() {
    enter_node_netns();
    ip("address add 2001:db8::11/64 dev bond0 nodad");
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
        assert!(written > 1000, "{written}");
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

/// `lvs-node handover`: keepalived gives up its priority, or with `nopreempt`, where no other node would ask for more, is at fault.
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
