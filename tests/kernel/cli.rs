//! The program lvs-node: what it prints, its exit codes, and every kind of wrong file.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::lab::{ip, ipvsadm, run};
use crate::node::{TABLE, VIPS, enter_node_netns, load, new_path};

/// The program, as `cargo test` has just built it.
pub(crate) fn lvs_node() -> PathBuf {
    let tests = std::env::current_exe().unwrap();
    let program = tests.ancestors().nth(2).unwrap().join("examples/lvs-node");
    assert!(program.exists(), "{} is missing: `cargo build --example lvs-node` makes it", program.display());
    // `cargo test --test kernel` does not build it. Cargo lists what it was made of: `program: file file ...`.
    let made_of = fs::read_to_string(program.with_extension("d")).unwrap();
    let changed = |path: &Path| fs::metadata(path).unwrap().modified().unwrap();
    for file in made_of.split_whitespace().skip(1) {
        let fresh = changed(&program) >= changed(Path::new(file));
        assert!(fresh, "{} is older than {file}: `cargo build --example lvs-node`", program.display());
    }
    program
}

/// A node's file, and the program for it.
struct Lab {
    program: PathBuf,
    dir: PathBuf,
}

impl Drop for Lab {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.dir);
    }
}

impl Lab {
    /// In a network namespace with a node's interface. `file` goes on behind interface, VIPs and state_dir.
    fn new(file: &str) -> Self {
        enter_node_netns();
        let lab = Lab { program: lvs_node(), dir: new_path() };
        fs::create_dir_all(&lab.dir).unwrap();
        let state = lab.state_dir();
        lab.write(&format!("interface = \"bond0\"\nvips = {VIPS:?}\nstate_dir = {state:?}\n{file}"));
        lab
    }

    fn state_dir(&self) -> PathBuf {
        self.dir.join("state")
    }

    fn file(&self) -> PathBuf {
        self.dir.join("node.toml")
    }

    fn write(&self, file: &str) {
        fs::write(self.file(), file).unwrap();
    }

    fn command(&self, arguments: &str) -> Command {
        let mut command = Command::new(&self.program);
        command.arg("--config").arg(self.file()).args(arguments.split_whitespace());
        command
    }

    /// Exit code, and what it printed to each stream.
    fn try_run(&self, arguments: &str) -> (Option<i32>, String, String) {
        let Output { status, stdout, stderr } = self.command(arguments).output().unwrap();
        (status.code(), String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap())
    }

    fn run(&self, arguments: &str) -> String {
        let (code, stdout, stderr) = self.try_run(arguments);
        assert_eq!((code, stderr.as_str()), (Some(0), ""), "{arguments}");
        stdout
    }

    /// Exit code 2, and these words.
    fn expect_wrong(&self, file: &str, words: &[&str]) {
        self.write(file);
        let (code, stdout, stderr) = self.try_run("role backup");
        assert_eq!((code, stdout.as_str()), (Some(2), ""), "{file}\n{stderr}");
        let path = self.file().display().to_string();
        for word in words.iter().copied().chain(["lvs-node: ", &path]) {
            assert!(stderr.contains(word), "no {word:?} for:\n{file}\nbut: {stderr}");
        }
        assert!(!self.state_dir().exists());
    }
}

fn on(interface: &str) -> bool {
    ip(&format!("-o address show dev {interface} to 192.0.2.254")).contains("192.0.2.254/32")
}

/// As the one of the issue, but for the addresses.
const FILE: &str = r#"
fence = "clear"
loopback = "backup"
[arp]
ignore = 3
announce = 2
[[service]]
listen = "tcp 192.0.2.254:80"
scheduler = "wrr"
destinations = [ { address = "192.0.2.11:80", weight = 1 }, { address = "192.0.2.12:80", weight = 1 } ]
[[service]]
listen = "udp [2001:db8::fe]:53"
scheduler = "sh"
flags = ["sh-port"]
persistence = 60
destinations = []
"#;
const FILE_TABLE: &str = "\
-A -t 192.0.2.254:80 -s wrr
-a -t 192.0.2.254:80 -r 192.0.2.11:80 -g -w 1
-a -t 192.0.2.254:80 -r 192.0.2.12:80 -g -w 1
-A -u [2001:db8::fe]:53 -s sh -p 60 -b sh-port
";

#[test]
fn roles_with_services_in_the_file_in_another_one_and_in_neither() {
    for (file, table, hand) in [
        (FILE, FILE_TABLE, ""),
        ("fence = \"clear\"\nloopback = \"backup\"\nservices = \"saved.ipvs\"\n", TABLE, ""),
        ("fence = \"clear\"\nloopback = \"backup\"\n", TABLE, TABLE),
    ] {
        let lab = Lab::new(file);
        fs::write(lab.dir.join("saved.ipvs"), TABLE).unwrap();
        load(hand);
        let printed = lab.run("role backup");
        assert!(printed.contains("VIP: add 192.0.2.254 to lo (scope host)"), "{printed}");
        assert!(ip("address show dev lo").contains("inet 192.0.2.254/32 scope host lo"));
        assert_eq!(ipvsadm("-Sn"), "");
        assert_eq!(lab.run("role BACKUP"), "backup: in place already\n");
        lab.run("role master");
        assert!(on("bond0") && !on("lo"));
        let sorted = |text: &str| {
            let mut lines: Vec<String> = text.lines().map(String::from).collect();
            lines.sort();
            lines
        };
        assert_eq!(sorted(&ipvsadm("-Sn")), sorted(table));
        lab.run("release");
        assert_eq!(sorted(&ipvsadm("-Sn")), sorted(hand));
        assert_eq!(lab.run("release"), "nothing to give back\n");
        assert!(!on("bond0") && !on("lo"));
    }
}

#[test]
fn what_keepalived_says() {
    let lab = Lab::new(FILE);
    for (words, interface) in [
        ("INSTANCE web BACKUP 100", "lo"),
        ("INSTANCE web MASTER 100", "bond0"),
        ("INSTANCE web MASTER_RX_LOWER_PRI 100", "bond0"),
        ("INSTANCE web FAULT 100", "lo"),
        ("GROUP webs MASTER 0", "bond0"),
        ("INSTANCE web STOP 100", "lo"),
        ("INSTANCE web MASTER_PRIORITY", "lo"),
        ("INSTANCE web MASTER", "bond0"),
        ("INSTANCE web DELETED 100", "lo"),
    ] {
        let printed = lab.run(&format!("notify {words}"));
        assert!(on(interface), "{words}");
        assert_eq!(printed.contains("nothing to do"), words.contains("_"), "{words}: {printed}");
    }
    assert_eq!(lab.run("--quiet notify INSTANCE web MASTER 100"), "");
    assert_eq!(lab.run("-q role backup"), "");
    assert_eq!(lab.run("release -q"), "");
}

#[test]
fn a_plan_changes_nothing() {
    let lab = Lab::new("fence = \"clear\"\n");
    load(TABLE);
    let everything = || {
        let arp = ["all", "bond0"].map(|name| fs::read_to_string(format!("/proc/sys/net/ipv4/conf/{name}/arp_ignore")));
        let state = fs::read_dir(lab.state_dir()).map(|files| {
            files
                .map(|file| file.unwrap())
                .map(|file| (file.path(), fs::read(file.path()).unwrap()))
                .collect::<Vec<_>>()
        });
        let state = state.unwrap_or_default();
        format!("{}{}{arp:?}{state:?}", ip("-o address show"), ipvsadm("-Sn"))
    };
    let plans_and_status = || {
        let before = everything();
        let plans = ["master", "backup", "fault", "stop", "release"].map(|role| lab.run(&format!("plan {role}")));
        lab.try_run("status");
        assert_eq!(everything(), before);
        plans
    };
    let [master, backup, _, _, release] = plans_and_status();
    assert!(!lab.state_dir().exists());
    assert!(master.starts_with("1. record: master is under way, 4 services are kept\n2. ARP: bond0"), "{master}");
    assert!(backup.contains(". IPVS: 4 changes\n     -D -f 7\n"), "{backup}");
    assert_eq!(release, "nothing to do\n");
    lab.run("role backup");
    let [master, backup, ..] = plans_and_status();
    assert!(master.contains("     -a -t 192.0.2.254:80 -r 192.0.2.12:80 -g -w 3\n"), "{master}");
    assert_eq!(backup, "nothing to do\n");
    // Nothing is written either where requests were never counted.
    fs::remove_file(lab.state_dir().join("generation")).unwrap();
    plans_and_status();
    assert_eq!(lab.try_run("plan boss").0, Some(2));
}

#[test]
fn status_for_people_and_programs() {
    let lab = Lab::new("fence = \"clear\"\n");
    load(TABLE);
    let status = || -> (Option<i32>, Value) {
        let (code, stdout, stderr) = lab.try_run("status --json");
        assert_eq!((stderr.as_str(), stdout.lines().count()), ("", 1));
        (code, serde_json::from_str(&stdout).unwrap())
    };
    let (code, before) = status();
    assert_eq!((code, &before["role"], &before["request"]), (Some(1), &Value::Null, &json!(0)));
    assert_eq!(before["table"].as_array().unwrap().len(), TABLE.lines().count());
    lab.run("role backup");
    let lo = json!([{ "interface": "lo", "prefix": 32, "scope": "host" }]);
    let (code, backup) = status();
    assert_eq!((code, &backup["role"], &backup["reached"]), (Some(0), &json!("backup"), &json!(true)));
    assert_eq!(backup["vips"][0], json!({ "vip": "192.0.2.254", "on": lo }));
    assert_eq!(backup["arp"], json!({ "ignore": 1, "announce": 2, "hidden": true }));
    assert_eq!((&backup["table"], &backup["kept"]), (&json!([]), &before["table"]));
    assert_eq!(lab.run("status").lines().next(), Some("role     backup, request 1"));
    ip("address del 192.0.2.254/32 dev lo");
    let (code, missing) = status();
    assert_eq!((code, &missing["vips"][0]["on"]), (Some(1), &json!([])));
    assert!(missing["missing"].to_string().contains("VIP: add 192.0.2.254 to lo"));
    // What is somebody else's is told.
    ip("address add 192.0.2.254/24 dev bond0");
    let (code, stdout, _) = lab.try_run("status");
    assert!(code == Some(1) && stdout.contains("warning  192.0.2.254/24 on bond0"), "{stdout}");
}

#[test]
fn exit_codes() {
    let lab = Lab::new(FILE);
    assert_eq!(lab.try_run("").0, Some(2));
    assert_eq!(lab.try_run("role boss").0, Some(2));
    assert_eq!(lab.try_run("--netns no-such-one role backup").0, Some(2));
    assert_eq!(lab.try_run("--help").0, Some(0));
    ip("address add 192.0.2.254/32 dev peer0");
    let (code, _, stderr) = lab.try_run("role backup");
    assert_eq!(code, Some(1));
    assert!(stderr.starts_with("lvs-node: 192.0.2.254/32 on peer0 (scope global) is not ours: "), "{stderr}");
    ip("address del 192.0.2.254/32 dev peer0");
    lab.run("role backup");
    fs::write(lab.state_dir().join("state"), "").unwrap();
    let (code, _, stderr) = lab.try_run("role master");
    assert!(code == Some(1) && stderr.contains("remove it"), "{stderr}");
    fs::remove_file(lab.state_dir().join("state")).unwrap();
    // Overtaken while it waits for the lock.
    let lock = fs::File::open(lab.state_dir().join("lock")).unwrap();
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive).unwrap();
    let drawn =
        || fs::read_to_string(lab.state_dir().join("generation")).unwrap().split(' ').next().unwrap().to_owned();
    let waiting = ["role master", "role backup"].map(|request| {
        let before = drawn();
        let process = lab.command(request).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        while drawn() == before {
            thread::sleep(Duration::from_millis(5));
        }
        process
    });
    drop(lock);
    assert_eq!(waiting.map(|mut process| process.wait().unwrap().code()), [Some(3), Some(0)]);
}

#[test]
fn nobody_reads_what_it_prints() {
    let lab = Lab::new(FILE);
    let closed = || {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        writer
    };
    let status = lab.command("role backup").stdout(closed()).stderr(closed()).status().unwrap();
    assert_eq!(status.code(), Some(0));
    assert!(on("lo"));
    let status = lab.command("role boss").stdout(closed()).stderr(closed()).status().unwrap();
    assert_eq!(status.code(), Some(2));
}

#[test]
fn a_wrong_file_is_told_by_line_field_and_what_was_expected() {
    let lab = Lab::new("fence = \"clear\"\n");
    let head = "interface = \"bond0\"\nvips = [\"192.0.2.254\"]\n";
    let service = |listen: &str, rest: &str| format!("{head}\n[[service]]\nlisten = \"{listen}\"\n{rest}\n");
    let rr = |destinations: &str| {
        service("tcp 192.0.2.254:80", &format!("scheduler = \"rr\"\ndestinations = {destinations}"))
    };
    fs::write(lab.dir.join("cut.ipvs"), &TABLE[..TABLE.len() / 2]).unwrap();
    fs::write(lab.dir.join("empty.ipvs"), "").unwrap();
    fs::write(lab.dir.join("bad.ipvs"), "-A -t 192.0.2.254:80 -s rr\n-a -t 192.0.2.254:80 -r somewhere -g\n").unwrap();
    fs::write(lab.dir.join("other.ipvs"), "-A -t 192.0.2.1:80 -s rr\n").unwrap();
    for (file, words) in [
        ("interface = \n".to_owned(), &["line 1"][..]),
        (format!("{head}speed = 9\n"), &["line 3", "unknown field `speed`", "expected one of", "`loopback`"]),
        ("interface = \"bond0\"\n".into(), &["line 1", "missing field `vips`"]),
        ("interface = 7\nvips = []\n".into(), &["line 1", "integer `7`", "expected a string"]),
        (
            "interface = \"bond0\"\nvips = \"192.0.2.254\"\n".into(),
            &["line 2", "string \"192.0.2.254\"", "expected a sequence"],
        ),
        (
            "interface = \"bond0\"\nvips = [\"192.0.2.254/32\"]\n".into(),
            &["line 2", "192.0.2.254/32", "without prefix or port"],
        ),
        ("interface = \"bond0\"\nvips = []\n".into(), &["line 2", "vips", "at least one address"]),
        ("interface = \"bond0\"\n\nvips = [\"127.0.0.1\"]\n".into(), &["line 3", "VIP 127.0.0.1", "loopback address"]),
        ("interface = \"lo\"\nvips = [\"192.0.2.254\"]\n".into(), &["line 1", "interface", "other than lo"]),
        (format!("{head}fence = \"wall\"\n"), &["line 3", "unknown variant `wall`", "`clear`"]),
        (format!("{head}loopback = \"never\"\n"), &["line 3", "unknown variant `never`", "`always` or `backup`"]),
        (format!("{head}vip_owner = \"me\"\n"), &["line 3", "`node` or `keepalived`"]),
        (format!("{head}state_dir = \"here\"\n"), &["line 3", "state_dir", "absolute path"]),
        (format!("{head}[arp]\nignore = 300\n"), &["line 4", "integer `300`", "expected u8"]),
        (format!("{head}[arp]\nlevel = 3\n"), &["line 4", "unknown field `level`", "`ignore`"]),
        (format!("{head}announcements = -1\n"), &["line 3", "integer `-1`", "expected u32"]),
        (service("tcp 192.0.2.254", "scheduler = \"rr\"\ndestinations = []"), &["line 5", "tcp 192.0.2.254"]),
        (service("tcp 192.0.2.254:80", "destinations = []"), &["line 4", "missing field `scheduler`"]),
        (
            service("tcp 192.0.2.9:80", "scheduler = \"rr\"\ndestinations = []"),
            &["line 4", "192.0.2.9 is not among the vips"],
        ),
        (rr("[{ address = \"192.0.2.12\" }]"), &["line 7", "192.0.2.12", "ADDRESS:PORT was expected"]),
        (
            rr("[{ address = \"192.0.2.12:8080\" }]"),
            &["line 4", "192.0.2.12:8080", "its port differs from the service's 80"],
        ),
        (rr("[{ address = \"[2001:db8::1]:80\" }]"), &["line 4", "[2001:db8::1]:80", "own family"]),
        (rr("[{ address = \"192.0.2.12:80\", weight = -1 }]"), &["line 7", "integer `-1`"]),
        (
            rr("[{ address = \"192.0.2.12:80\" }, { address = \"192.0.2.12:80\" }]"),
            &["line 4", "192.0.2.12:80 was found twice"],
        ),
        (rr("[]\nflags = [\"mh-port\"]"), &["line 4", "flags", "mh-port", "were expected"]),
        (rr("[]\none_packet = true"), &["line 4", "one-packet", "UDP"]),
        (rr("[]\npersistence = 0"), &["line 4", "persistence time", "from 1 to"]),
        (format!("{}{}", rr("[]"), rr("[]").replace(head, "")), &["line 9", "tcp 192.0.2.254:80 was found twice"]),
        (
            format!("services = \"saved.ipvs\"\n{}", rr("[]")),
            &["line 1", "`services` and [[service]]", "one of them was expected"],
        ),
        (format!("{head}services = \"none.ipvs\"\n"), &["line 3", "services", "none.ipvs", "No such file"]),
        (format!("{head}services = \"cut.ipvs\"\n"), &["line 3", "cut.ipvs", "cut short"]),
        (format!("{head}services = \"empty.ipvs\"\n"), &["line 3", "empty.ipvs", "cut short"]),
        (format!("{head}services = \"bad.ipvs\"\n"), &["line 3", "bad.ipvs", "line 2", "somewhere"]),
        (format!("{head}services = \"other.ipvs\"\n"), &["line 3", "192.0.2.1 is not among the vips"]),
    ] {
        lab.expect_wrong(&file, words);
    }
    fs::remove_file(lab.file()).unwrap();
    let (code, _, stderr) = lab.try_run("role backup");
    assert!(code == Some(2) && stderr.contains("node.toml: No such file"), "{stderr}");
}

#[test]
fn in_another_namespace_by_its_name() {
    let lab = Lab::new("fence = \"clear\"\n");
    let name = format!("lvs-node-{}", std::process::id());
    run(&format!("ip netns add {name}"));
    run(&format!("ip -n {name} link set lo up"));
    run(&format!("ip -n {name} link add bond0 type veth peer name peer0"));
    lab.run(&format!("--netns {name} role backup"));
    assert!(!on("lo"));
    assert!(run(&format!("ip -n {name} address show dev lo")).contains("192.0.2.254/32"));
    run(&format!("ip netns del {name}"));
}

/// Ends a process that would go on for ever.
struct Follower(Child);

impl Drop for Follower {
    fn drop(&mut self) {
        let _ = self.0.kill().and_then(|()| self.0.wait());
    }
}

#[test]
fn keepalived_writes_its_states_to_a_fifo() {
    let lab = Lab::new("fence = \"clear\"\nvip_owner = \"keepalived\"\nservices = \"web.ipvs\"\n");
    let vips = ["address add 192.0.2.254/32 dev bond0", "address add 2001:db8::fe/128 dev bond0 nodad"];
    fs::write(lab.dir.join("web.ipvs"), "-A -t 192.0.2.254:80 -s wrr\n").unwrap();
    let fifo = lab.dir.join("fifo");
    run(&format!("mkfifo {}", fifo.display()));
    let follow = format!("--quiet fifo {} --instance web", fifo.display());
    let _follower = Follower(lab.command(&follow).spawn().unwrap());
    let becomes = |role: &str| {
        let start = Instant::now();
        loop {
            let status = lab.try_run("status").1;
            if status.contains(&format!("role     {role}, request")) {
                break;
            }
            assert!(start.elapsed() < Duration::from_secs(20), "{role} is not reached: {status}");
            thread::sleep(Duration::from_millis(100));
        }
        assert_eq!(ipvsadm("-Sn").is_empty(), role != "master");
    };
    let mut keepalived = fs::OpenOptions::new().write(true).open(&fifo).unwrap();
    let mut write = |lines: &str| keepalived.write_all(lines.as_bytes()).unwrap();
    write("INSTANCE \"web\" BACKUP 100\n");
    becomes("backup");
    // The last of several counts, and only the instance's own.
    vips.iter().for_each(|vip| drop(ip(vip)));
    write("INSTANCE \"web\" FAULT 100\nINSTANCE \"web\" MASTER 100\nINSTANCE \"mail\" BACKUP 100\nnonsense\n");
    becomes("master");
    // Lines that were lost: the VIPs go, and come, and nothing is written.
    vips.iter().for_each(|vip| drop(ip(&vip.replace(" add ", " del ").replace(" nodad", ""))));
    becomes("backup");
    vips.iter().for_each(|vip| drop(ip(vip)));
    becomes("master");
}

#[test]
fn an_audit_and_its_fix() {
    let service = "[[service]]\nlisten = \"tcp 192.0.2.254:80\"\nscheduler = \"wrr\"\ndestinations = [ { address = \"192.0.2.11:80\" } ]\n";
    let lab = Lab::new(&format!("fence = \"clear\"\n{service}"));
    assert_eq!(lab.run("audit"), "nothing is found\n");
    lab.run("role backup");
    assert_eq!((lab.run("audit --json"), lab.run("audit --fix")), ("[]\n".into(), "nothing is found\n".into()));

    // One for the node, one for whoever owns it.
    ip("address add 192.0.2.254/32 dev bond0");
    fs::write("/proc/sys/net/ipv4/conf/all/arp_ignore", "4").unwrap();
    let (code, stdout, stderr) = lab.try_run("audit");
    assert_eq!((code, stderr.as_str()), (Some(1), ""));
    for line in [
        "error: vip-on-interface: 192.0.2.254 is on bond0 ",
        "  fix: VIP: remove 192.0.2.254 from bond0\n",
        "error: arp-answer: arp_ignore on bond0 is 4: ",
        "  by hand: sysctl -w net/ipv4/conf/all/arp_ignore=1\n",
    ] {
        assert!(stdout.contains(line), "no {line:?} in {stdout}");
    }
    let (code, stdout, _) = lab.try_run("audit --json");
    let found: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!(
        (code, found[0]["finding"].as_str(), found.as_array().unwrap().len()),
        (Some(1), Some("vip-on-interface"), 2)
    );
    assert_eq!(found[0]["fix"], json!(["VIP: remove 192.0.2.254 from bond0"]));
    assert_eq!(found[1]["commands"], json!(["sysctl -w net/ipv4/conf/all/arp_ignore=1"]));
    assert!(on("bond0"));

    let (code, stdout, _) = lab.try_run("audit --fix");
    assert_eq!(code, Some(1));
    let (before, left) = stdout.split_once("left:\n").unwrap();
    assert!(before.contains("2. VIP: remove 192.0.2.254 from bond0\n"), "{before}");
    assert!(left.starts_with("error: arp-answer") && !left.contains("vip-on-interface"), "{left}");
    assert!(!on("bond0"));

    ip("address add 192.0.2.254/32 dev bond0");
    fs::write("/proc/sys/net/ipv4/conf/all/arp_ignore", "0").unwrap();
    let fixed: Value = serde_json::from_str(&lab.run("audit --fix --json")).unwrap();
    assert_eq!((fixed["found"].as_array().unwrap().len(), fixed["left"].clone()), (1, json!([])));
    assert!(fixed["done"].to_string().contains("remove 192.0.2.254"), "{fixed}");

    // keepalived's file.
    let conf = lab.dir.join("keepalived.conf");
    fs::write(&conf, "vrrp_instance web {\n virtual_ipaddress {\n 192.0.2.254\n }\n}\n").unwrap();
    assert_eq!(lab.run(&format!("audit --keepalived {}", conf.display())), "nothing is found\n");
    let text = fs::read_to_string(lab.file()).unwrap();
    lab.write(&text.replace("fence = \"clear\"", "fence = \"quiesce\""));
    lab.run("role backup");
    let (code, stdout, _) = lab.try_run(&format!("audit --keepalived {}", conf.display()));
    assert!(
        code == Some(1) && stdout.contains("warning: preempting-vrrp: ") && stdout.contains("nopreempt"),
        "{stdout}"
    );
    let (code, _, stderr) = lab.try_run("audit --keepalived /nonexistent");
    assert!(code == Some(1) && stderr.contains("/nonexistent"), "{stderr}");
}

#[test]
fn a_handover_waits_for_another_node_and_is_called_off_without() {
    let lab = Lab::new("fence = \"quiesce\"\nvip_owner = \"keepalived\"\nservices = \"web.ipvs\"\nsettle = 0.05\n");
    fs::write(lab.dir.join("web.ipvs"), FILE_TABLE.lines().take(3).fold(String::new(), |t, l| t + l + "\n")).unwrap();
    let (code, _, stderr) = lab.try_run("handover");
    assert!(code == Some(2) && stderr.contains("[handover]"), "{stderr}");
    let track_file = lab.dir.join("track");
    let file = fs::read_to_string(lab.file()).unwrap();
    lab.write(&format!("{file}[handover]\nfile = {track_file:?}\nsuccessors = [\"192.0.2.12\"]\n"));
    let track = || fs::read_to_string(&track_file).unwrap_or_default();
    let vips = ["address add 192.0.2.254/32 dev bond0", "address add 2001:db8::fe/128 dev bond0 nodad"];
    vips.iter().for_each(|vip| drop(ip(vip)));
    lab.run("role master");
    let table = ipvsadm("-Sn");

    // Nobody takes over.
    let (code, stdout, stderr) = lab.try_run("handover --limit 1");
    assert_eq!((code, track()), (Some(1), "0\n".to_owned()), "{stdout}{stderr}");
    assert!(stdout.contains("-r 192.0.2.11:80 -g -w 0") && stderr.contains("directs on"), "{stdout}{stderr}");
    assert_eq!(ipvsadm("-Sn"), table);

    // keepalived gives up the VIP, and says so.
    let handover = lab.command("handover").stdout(Stdio::null()).spawn().unwrap();
    let mut handover = Follower(handover);
    let start = Instant::now();
    while track() != "1\n" {
        assert!(start.elapsed() < Duration::from_secs(20));
        thread::sleep(Duration::from_millis(20));
    }
    vips.iter().for_each(|vip| drop(ip(&vip.replace(" add ", " del ").replace(" nodad", ""))));
    lab.run("notify INSTANCE web BACKUP 100");
    assert!(handover.0.wait().unwrap().success());
    assert_eq!(track(), "1\n");
    // On a node that does not direct it is at most that.
    assert!(lab.run("handover").contains("another node directs already"));
    lab.run("handover --end");
    assert_eq!(track(), "0\n");
}
