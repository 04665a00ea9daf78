//! The program lvs-node: what it prints, its exit codes, and every kind of wrong file.

use std::fs;
use std::io::Write;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use lvs_dr::Netns;
use serde_json::{Value, json};

use crate::lab::{ip, ipvsadm, rules, run, try_run};
use crate::lan;
use crate::node::{
    TABLE, VIPS, WEB, add_second_node, enter_node_netns, latest_request, load, new_path, rule_count, saved,
    saved_marks, sorted, sync_daemons,
};
use crate::schema;

/// The program, as `cargo test` has just built it.
pub(crate) fn lvs_node() -> PathBuf {
    let tests = std::env::current_exe().unwrap();
    let program = tests.ancestors().nth(2).unwrap().join("examples/lvs-node");
    assert!(program.exists(), "{} is missing: `cargo build --example lvs-node` makes it", program.display());
    // `cargo test --test kernel` does not build it. Cargo lists what it was made of: `program:
    // file file ...`.
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
    /// In a network namespace with a node's interface. `file` goes on behind interface, VIPs and
    /// state_dir.
    fn new(file: &str) -> Self {
        let lab = Lab::bare();
        lab.write(&lab.with_head(file));
        lab
    }

    /// The same without a file.
    fn bare() -> Self {
        enter_node_netns();
        add_second_node();
        let lab = Lab { program: lvs_node(), dir: new_path() };
        fs::create_dir_all(&lab.dir).unwrap();
        lab
    }

    fn with_head(&self, file: &str) -> String {
        // To look at the marks of own requests starts ten programs.
        let marks = if file.contains("[marks]") { "" } else { "[marks]\nown_requests = \"left-alone\"\n" };
        format!("interface = \"bond0\"\nvips = {VIPS:?}\nstate_dir = {:?}\n{file}\n{marks}", self.state_dir())
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
        // Blanks in `quotes` are of a word.
        let words = arguments.split('`').enumerate().flat_map(|(index, part)| match index % 2 {
            0 => part.split_whitespace().collect(),
            _ => vec![part],
        });
        command.arg("--config").arg(self.file()).args(words);
        command
    }

    /// Exit code, and what it printed to each stream.
    fn try_run(&self, arguments: &str) -> (Option<i32>, String, String) {
        let Output { status, stdout, stderr } = self.command(arguments).output().unwrap();
        let [stdout, stderr] = [stdout, stderr].map(|octets| String::from_utf8(octets).unwrap());
        if arguments.split(' ').any(|word| word == "--json") {
            let objects = schema::objects(&stdout);
            assert!(objects.iter().all(|object| object["exit_code"].as_i64() == status.code().map(i64::from)));
        }
        (status.code(), stdout, stderr)
    }

    /// The object that it prints, and its group.
    fn object(&self, arguments: &str) -> (Value, Value) {
        let (_, stdout, _) = self.try_run(&format!("{arguments} --json"));
        assert_eq!(stdout.lines().count(), 1, "{arguments}: {stdout}");
        let object: Value = serde_json::from_str(&stdout).unwrap();
        (object.clone(), object["groups"][0].clone())
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
    let kinds = [
        (FILE, FILE_TABLE, ""),
        ("fence = \"clear\"\nloopback = \"backup\"\nservices = \"saved.ipvs\"\n", TABLE, ""),
        ("fence = \"clear\"\nloopback = \"backup\"\n", TABLE, TABLE),
    ];
    for ((file, table, hand), fence) in kinds.into_iter().flat_map(|kind| [(kind, "clear"), (kind, "marks")]) {
        let lab = Lab::new(&file.replace("clear", fence));
        fs::write(lab.dir.join("saved.ipvs"), TABLE).unwrap();
        load(hand);
        let printed = lab.run("role backup");
        assert!(printed.contains("VIP: add 192.0.2.254 to lo (scope host)"), "{printed}");
        assert!(ip("address show dev lo").contains("inet 192.0.2.254/32 scope host lo"));
        assert_eq!(saved(), if fence == "clear" { String::new() } else { sorted(table) });
        assert_eq!(lab.run("role BACKUP"), "backup: in place already\n");
        lab.run("role master");
        assert!(on("bond0") && !on("lo"));
        assert_eq!(saved(), sorted(table));
        lab.run("release --now");
        assert_eq!(sorted(&ipvsadm("-Sn")), sorted(hand));
        assert_eq!(lab.run("release --now"), "nothing to give back\n");
        assert!(!on("bond0") && !on("lo"));
    }
}

#[test]
fn what_keepalived_says() {
    ["clear", "marks"].into_iter().for_each(keepalived_says);
}

fn keepalived_says(fence: &str) {
    let lab = Lab::new(&FILE.replace("clear", fence));
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
    assert_eq!(lab.run("release -q --now"), "");
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
    assert!(master.starts_with("1. record: master is under way\n2. ARP: bond0"), "{master}");
    assert!(
        backup.starts_with("1. record: 4 services kept for promotion\n2. record: backup is under way\n"),
        "{backup}"
    );
    assert!(backup.contains(". IPVS: 4 changes\n     -D ") && backup.contains("     -D -f 7\n"), "{backup}");
    assert_eq!(release, "nothing to do\n");
    lab.run("role backup");
    let [master, backup, ..] = plans_and_status();
    assert!(master.contains("     -a -t 192.0.2.254:80 -r 192.0.2.12:80 -g -w 3\n"), "{master}");
    assert_eq!(backup, "nothing to do\n");
    // Nothing is written either where requests were never counted.
    fs::remove_file(lab.state_dir().join(format!("request.{}", latest_request(&lab.state_dir(), "")))).unwrap();
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
        let object: Value = serde_json::from_str(&stdout).unwrap();
        (code, object["groups"][0].clone())
    };
    let (code, before) = status();
    assert_eq!((code, &before["role"], &before["request"]), (Some(1), &Value::Null, &json!(0)));
    assert_eq!(before["table"].as_array().unwrap().len(), TABLE.lines().count());
    lab.run("role backup");
    let lo = json!([{ "interface": "lo", "prefix": 32, "scope": "host" }]);
    let (code, backup) = status();
    assert_eq!((code, &backup["role"], &backup["reached"]), (Some(0), &json!("backup"), &json!(true)));
    assert_eq!(backup["vips"][0], json!({ "vip": "192.0.2.254", "on": lo }));
    let interfaces = json!([{ "interface": "bond0", "ignore": 1, "announce": 2 }]);
    assert_eq!(backup["arp"], json!({ "hidden": true, "interfaces": interfaces }));
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

/// The routes follow the command, and whether the node serves what it advertises.
#[test]
fn announce_and_withdraw() {
    let file = "vip_owner = \"routes\"\n[[service]]\nlisten = \"tcp 192.0.2.254:80\"\nscheduler = \"mh\"\n\
                destinations = [ { address = \"192.0.2.11:80\" }, { address = \"192.0.2.12:80\" } ]\n";
    let lab = Lab::new(file);
    // ip fails for a table that never had a route.
    let shown = |family: &str| {
        let output = try_run(&format!("ip {family} route show table 86"));
        String::from_utf8(output.stdout).unwrap().split_whitespace().nth(1).unwrap_or_default().to_owned()
    };
    let routes = || [shown("-4"), shown("-6")];
    lab.run("withdraw");
    assert_eq!(routes(), ["", ""]);
    assert!(lab.run("status").contains("routes   no VIP to be advertised"));
    let (code, _, stderr) = lab.try_run("announce");
    assert_eq!(code, Some(0), "{stderr}");
    assert!(stderr.contains("warning: 192.0.2.254 is not advertised"), "{stderr}");
    assert_eq!(routes(), ["", VIPS[1]]);
    let mut watch = lab.command("watch").stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let listener = std::net::TcpListener::bind(("0.0.0.0", 80)).unwrap();
    // On a busy machine `watch` looks rarely.
    let until = |expected: [&str; 2]| {
        let start = Instant::now();
        while routes() != expected {
            assert!(start.elapsed() < Duration::from_secs(60), "{:?}, not {expected:?}", routes());
            thread::sleep(Duration::from_millis(50));
        }
    };
    until(VIPS);
    drop(listener);
    until(["", VIPS[1]]);
    lab.run("withdraw");
    assert_eq!(routes(), ["", ""]);
    watch.kill().and_then(|()| watch.wait()).unwrap();
    lab.write(&lab.with_head(FILE));
    assert_eq!(lab.try_run("announce").0, Some(2));
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
    // Superseded while it waits for the lock.
    let lock = fs::File::open(lab.state_dir().join("lock")).unwrap();
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive).unwrap();
    let drawn = || latest_request(&lab.state_dir(), "");
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
        (
            format!("{head}speed = 9\n"),
            &["line 3: unknown key `speed`", "expected one of", "`loopback`", ": speed = 9"],
        ),
        ("interface = \"bond0\"\n".into(), &["line 1", "an interface and vips were expected, or a [[group]]"]),
        (
            "interface = 7\nvips = []\n".into(),
            &["line 1: the number 7 was found, a text in quotes was expected: interface = 7"],
        ),
        (
            "interface = \"bond0\"\nvips = \"192.0.2.254\"\n".into(),
            &["line 2: the text \"192.0.2.254\" was found, a list in brackets was expected"],
        ),
        (
            "interface = \"bond0\"\nvips = [\"192.0.2.254/32\"]\n".into(),
            &["line 2", "192.0.2.254/32", "without prefix or port"],
        ),
        ("interface = \"bond0\"\nvips = []\n".into(), &["line 2", "vips", "at least one address"]),
        ("interface = \"bond0\"\n\nvips = [\"127.0.0.1\"]\n".into(), &["line 3", "VIP 127.0.0.1", "loopback address"]),
        ("interface = \"lo\"\nvips = [\"192.0.2.254\"]\n".into(), &["line 1", "interface", "other than lo"]),
        (format!("{head}fence = \"wall\"\n"), &["line 3", "unknown word `wall`", "`clear`"]),
        (format!("{head}loopback = \"never\"\n"), &["line 3", "unknown word `never`", "`always` or `backup`"]),
        (format!("{head}vip_owner = \"me\"\n"), &["line 3", "`node`, `keepalived`, `routes`"]),
        (format!("{head}state_dir = \"here\"\n"), &["line 3", "state_dir", "absolute path"]),
        (
            format!("{head}[arp]\nignore = 300\n"),
            &["line 4: the number 300 was found, a whole number from 0 to 255 was expected"],
        ),
        (format!("{head}[arp]\nlevel = 3\n"), &["line 4: unknown key `level`", "`ignore`"]),
        (format!("{head}announcements = -1\n"), &["line 3: the number -1 was found, a whole number from 0 to"]),
        (service("tcp 192.0.2.254", "scheduler = \"rr\"\ndestinations = []"), &["line 5", "tcp 192.0.2.254"]),
        (service("tcp 192.0.2.254:80", "destinations = []"), &["line 4: the key `scheduler` is missing"]),
        (
            service("tcp 192.0.2.9:80", "scheduler = \"rr\"\ndestinations = []"),
            &["line 4", "192.0.2.9:80 is on none of the vips"],
        ),
        (rr("[{ address = \"192.0.2.12\" }]"), &["line 7", "192.0.2.12", "ADDRESS:PORT was expected"]),
        (
            rr("[{ address = \"192.0.2.12:8080\" }]"),
            &["line 4", "192.0.2.12:8080", "its port differs from the service's 80"],
        ),
        (rr("[{ address = \"[2001:db8::1]:80\" }]"), &["line 4", "[2001:db8::1]:80", "own family"]),
        (rr("[{ address = \"192.0.2.12:80\", weight = -1 }]"), &["line 7: the number -1"]),
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
        (format!("{head}services = \"other.ipvs\"\n"), &["line 3", "192.0.2.1:80: it is on none of the vips"]),
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
    run(&format!("ip -n {name} link set peer0 up"));
    run(&format!("ip -n {name} link set bond0 up"));
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
    // Nothing serves in this namespace.
    let (code, stdout, _) = lab.try_run("audit");
    assert!(code == Some(1) && stdout.starts_with("warning: not-listening: tcp 192.0.2.254:80"), "{stdout}");
    lab.write(&lab.with_head(&format!("fence = \"clear\"\n{service}check_listener = false\n")));
    assert_eq!(lab.run("audit"), "nothing is found\n");
    lab.run("role backup");
    assert_eq!(lab.object("audit").1, json!({ "group": "", "found": [], "steps": [], "left": [] }));
    assert_eq!(lab.run("audit --fix"), "nothing is found\n");

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
    let (object, group) = lab.object("audit");
    let found = &group["found"];
    assert_eq!(
        (&object["exit_code"], found[0]["finding"].as_str(), found.as_array().unwrap().len()),
        (&json!(1), Some("vip-on-interface"), 2)
    );
    assert_eq!(group["left"], *found);
    assert_eq!(found[0]["fix"], json!(["VIP: remove 192.0.2.254 from bond0"]));
    assert_eq!(found[1]["commands"], json!(["sysctl -w net/ipv4/conf/all/arp_ignore=1"]));
    let (code, stdout, _) = lab.try_run("audit --fix --dry-run");
    assert!(code == Some(1) && stdout.contains("2. VIP: remove 192.0.2.254 from bond0\n"), "{stdout}");
    assert!(on("bond0"));

    let (code, stdout, _) = lab.try_run("audit --fix");
    assert_eq!(code, Some(1));
    let (before, left) = stdout.split_once("left:\n").unwrap();
    assert!(before.contains("2. VIP: remove 192.0.2.254 from bond0\n"), "{before}");
    assert!(left.starts_with("error: arp-answer") && !left.contains("vip-on-interface"), "{left}");
    assert!(!on("bond0"));

    ip("address add 192.0.2.254/32 dev bond0");
    fs::write("/proc/sys/net/ipv4/conf/all/arp_ignore", "0").unwrap();
    let (_, fixed) = lab.object("audit --fix");
    assert_eq!((fixed["found"].as_array().unwrap().len(), fixed["left"].clone()), (1, json!([])));
    assert!(fixed["steps"].to_string().contains("remove 192.0.2.254"), "{fixed}");

    // keepalived's file.
    let conf = lab.dir.join("keepalived.conf");
    fs::write(&conf, "vrrp_instance web {\n virtual_ipaddress {\n 192.0.2.254\n }\n}\n").unwrap();
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
    let lab = Lab::new("vip_owner = \"keepalived\"\nservices = \"web.ipvs\"\n");
    fs::write(lab.dir.join("web.ipvs"), WEB).unwrap();
    let (code, _, stderr) = lab.try_run("handover");
    assert!(code == Some(2) && stderr.contains("[handover]"), "{stderr}");
    let track_file = lab.dir.join("track");
    let file = fs::read_to_string(lab.file()).unwrap();
    lab.write(&format!("{file}[handover]\nfile = {track_file:?}\n"));
    let track = || fs::read_to_string(&track_file).unwrap_or_default();
    let vips = ["address add 192.0.2.254/32 dev bond0", "address add 2001:db8::fe/128 dev bond0 nodad"];
    vips.iter().for_each(|vip| drop(ip(vip)));
    lab.run("role master");
    let table = saved();

    // No other node takes over.
    let (code, stdout, stderr) = lab.try_run("handover --limit 1");
    assert_eq!((code, track()), (Some(1), "0\n".to_owned()), "{stdout}{stderr}");
    assert!(stderr.contains("directs on"), "{stdout}{stderr}");
    assert_eq!(saved(), table);

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
    assert_eq!((track(), saved()), ("1\n".to_owned(), table));
    // On a node that does not direct it is at most that.
    assert!(lab.run("handover").contains("another node directs already"));
    lab.run("handover --end");
    assert_eq!(track(), "0\n");
    // Nobody has to be named any more.
    lab.run("handover --to 192.0.2.12");
}

#[test]
fn status_with_marks() {
    let lab = Lab::new("services = \"web.ipvs\"\n");
    fs::write(lab.dir.join("web.ipvs"), WEB).unwrap();
    lab.run("role backup");
    let (_, found) = lab.object("status");
    let macs = |last: &str| json!([format!("02:00:00:00:00:{last}")]);
    assert_eq!(
        found["peers"],
        json!([
            { "address": "192.0.2.12", "macs": macs("12") },
            { "address": "192.0.2.13", "macs": macs("13") },
            { "address": "2001:db8::12", "macs": macs("12") },
        ])
    );
    assert_eq!((&found["director"], &found["group"]), (&Value::Null, &json!("")));
    let rules = found["rules"].as_array().unwrap();
    assert_eq!((rules.len(), rule_count("bond0")), (8, 8), "{rules:?}");
    // The services of marks are not the table's.
    assert_eq!(found["table"].as_array().unwrap().len(), WEB.lines().count());
    assert_eq!(found["sync"], json!([{ "role": "backup", "interface": "bond0", "id": 254 }]));
    let text = lab.run("status");
    for line in [
        "role     backup, request 1\n",
        "VIP      192.0.2.254 on lo (scope host)\n",
        "table    2 services, 5 destinations\n",
        "peer     192.0.2.12    02:00:00:00:00:12\n",
        "rules    8 on bond0\n",
        "sync     backup on bond0, id 254\n",
        "known    0 connections\n",
    ] {
        assert!(text.contains(line), "no {line:?} in {text}");
    }
    // Rules are removed by another program.
    run("tc filter del dev bond0 ingress pref 306");
    let (code, text, _) = lab.try_run("status");
    assert!(code == Some(1) && text.contains("missing  marks: 4 changes\n           add "), "{text}");
    let whole = lab.try_run("-v status").1;
    assert!(whole.contains("table    2 services, 5 destinations\n         -A -t 192.0.2.254:80 -s wrr\n"), "{whole}");
    assert!(whole.contains("rules    4 on bond0\n         ") && !whole.contains('\u{1b}'), "{whole}");
    lab.run("role backup");
    lab.run("role master");
    let text = lab.run("status");
    assert!(
        text.contains("rules    6 on bond0\n") && text.contains("sync     master and backup on bond0, id 254\n"),
        "{text}"
    );
    // A peer without a MAC address is a warning, as its packets are not recognised.
    ipvsadm("-a -t 192.0.2.254:80 -r 192.0.2.14:80 -g");
    let (code, text, _) = lab.try_run("status");
    assert!(code == Some(1) && text.contains("warning  the MAC address of 192.0.2.14 is unknown"), "{text}");
}

#[test]
fn apply_brings_in_what_was_changed_in_the_file() {
    let lab = Lab::new("services = \"web.ipvs\"\n");
    let write = |table: &str| fs::write(lab.dir.join("web.ipvs"), table).unwrap();
    write(WEB);
    let (code, _, stderr) = lab.try_run("apply");
    assert!(code == Some(1) && stderr.contains("taken on no role yet"), "{stderr}");
    lab.run("role backup");
    for dry in ["apply", "apply --dry-run", "apply --all", "apply --all --dry-run"] {
        assert_eq!(lab.run(dry), "nothing to do\n", "{dry}");
    }
    // A health check takes a server out, and the file changes the weight of another.
    ipvsadm("-e -t 192.0.2.254:80 -r 192.0.2.12:80 -g -w 0");
    let edited = saved();
    let changed = WEB.replace("192.0.2.11:80 -g -w 3", "192.0.2.11:80 -g -w 9");
    write(&changed);
    let one = "IPVS: 1 change\n     -e -t 192.0.2.254:80 -r 192.0.2.11:80 -g -w 9\n";
    let dry = lab.run("apply --dry-run");
    assert!(dry.contains(one) && dry.starts_with("1. record: backup is under way\n2. IPVS"), "{dry}");
    let all = lab.run("apply --dry-run --all");
    assert!(all.contains("IPVS: 2 changes\n") && all.contains("192.0.2.12:80 -g -w 4\n"), "{all}");
    assert_eq!(saved(), edited);
    let done = lab.run("apply");
    assert!(done.contains("IPVS: 1 change\n  -e -t 192.0.2.254:80 -r 192.0.2.11:80 -g -w 9\n"), "{done}");
    assert_eq!(saved(), sorted(&changed.replace("192.0.2.12:80 -g -w 4", "192.0.2.12:80 -g -w 0")));
    assert_eq!(lab.run("apply"), "nothing to do\n");
    // It is no request for a role.
    assert!(lab.run("status").starts_with("role     backup, request 1\n"));
    assert_eq!(lab.run("--quiet apply --all"), "");
    assert_eq!(saved(), sorted(&changed));
    // A file that is wrong changes nothing.
    write(&changed[..changed.len() / 2]);
    let (code, _, stderr) = lab.try_run("apply");
    assert!(code == Some(2) && stderr.contains("web.ipvs"), "{stderr}");
    assert_eq!(saved(), sorted(&changed));
}

/// The kernel alone knows its schedulers and persistence engines: they are tried before the first
/// step, and a role or a changed file that needs another one changes nothing.
#[test]
fn an_unknown_scheduler_leaves_nothing_behind() {
    let lab = Lab::new("services = \"web.ipvs\"\n");
    let write = |table: &str| fs::write(lab.dir.join("web.ipvs"), table).unwrap();
    let found = || {
        [
            ip("-o address show"),
            saved_marks(),
            saved(),
            rules("bond0").join("\n"),
            sync_daemons().join("\n"),
            arp_of_bond(),
        ]
    };
    let before = found();
    let unknown = WEB.replacen("-s wrr", "-s nosuch", 1);
    let engine = WEB.replacen("-s wrr", "-s wrr -p 60 --pe nosuch", 1);
    for (file, object) in [(&unknown, "(scheduler nosuch)"), (&engine, "(scheduler wrr)")] {
        write(file);
        for command in ["role backup", "role master", "plan backup"] {
            let (code, stdout, stderr) = lab.try_run(command);
            assert_eq!((code, stdout.as_str()), (Some(1), ""), "{command}: {stderr}");
            let words = [object, "errno 2", "modprobe ip_vs_NAME"];
            assert!(words.iter().all(|word| stderr.contains(word)), "{command}: {stderr}");
            assert_eq!(found(), before, "{command}");
        }
    }
    // The same in the file of a node that directs: it goes on.
    write(WEB);
    lab.run("role master");
    let before = found();
    write(&unknown);
    for command in ["apply", "apply --dry-run", "apply --all"] {
        let (code, stdout, stderr) = lab.try_run(command);
        assert!(code == Some(1) && stdout.is_empty() && stderr.contains("(scheduler nosuch)"), "{stdout}{stderr}");
        assert_eq!(found(), before, "{command}");
    }
    // One that the kernel has and no service uses yet.
    write(&WEB.replacen("-s wrr", "-s sed", 1));
    assert!(lab.run("apply").contains("-s sed"));
    assert!(saved().contains("-s sed") && saved_marks() == before[1]);
}

fn arp_of_bond() -> String {
    let read = |name| fs::read_to_string(format!("/proc/sys/net/ipv4/conf/bond0/{name}")).unwrap();
    ["arp_ignore", "arp_announce"].map(read).concat()
}

#[test]
fn words_of_an_earlier_version_are_read_and_explained() {
    let lab = Lab::new("");
    load(WEB);
    let track_file = lab.dir.join("track");
    for (words, says) in [
        (
            "fence = \"quiesce\"",
            "fence \"marks\" supersedes this one and is used: write fence = \"marks\", or leave it out",
        ),
        ("fence = \"stateless\"", "write fence = \"marks\""),
        ("fence = \"backup-only\"", "write fence = \"marks\""),
        ("settle = 0.5", "settle: it does nothing any more"),
        ("drain = 3", "drain: it does nothing any more"),
        ("\n[handover]\nfile = \"TRACK\"\nsuccessors = [\"192.0.2.12\"]", "successors: it does nothing any more"),
    ] {
        lab.write(&lab.with_head(&words.replace("TRACK", track_file.to_str().unwrap())));
        let (code, _, stderr) = lab.try_run("--quiet role backup");
        let line = 4 + words.lines().count() - 1;
        let wanted = format!("lvs-node: warning: {}: line {line}: ", lab.file().display());
        assert_eq!((code, stderr.lines().count()), (Some(0), 1), "{words}: {stderr}");
        assert!(stderr.starts_with(&wanted) && stderr.contains(says), "{words}: {stderr}");
        // They are marks.
        assert_eq!(rule_count("bond0"), 8, "{words}");
        lab.try_run("release --now");
    }
}

#[test]
fn marks_in_the_file() {
    let lab = Lab::new("");
    load(WEB);
    let write = |file: &str| lab.write(&lab.with_head(file));
    write(
        "[marks]\nbase = 4096\nown_requests = \"left-alone\"\n\
         macs = { \"192.0.2.12\" = [\"02:00:00:00:02:12\"], \"2001:db8::12\" = [\"02:00:00:00:03:12\", \"02:00:00:00:04:12\"] }\n",
    );
    lab.run("role backup");
    let filters = rules("bond0").join("\n");
    // Those that it sees, and those of the file.
    for mac in ["02:00:00:00:00:12", "02:00:00:00:02:12", "02:00:00:00:03:12", "02:00:00:00:04:12", "02:00:00:00:00:13"]
    {
        assert_eq!(filters.matches(&format!("all from {mac}")).count(), 2, "{mac}: {filters}");
    }
    assert!(
        ipvsadm("-Sn").contains("-A -f 4096 -s rr\n")
            && ipvsadm("-Sn").contains("-A -f 4097 -s rr -p 60 -M 128.0.0.0\n")
    );
    // Another base: of the old one nothing stays.
    write("[marks]\nbase = 8192\nown_requests = \"left-alone\"\n");
    lab.run("role master");
    assert!(ipvsadm("-Sn").contains("-A -f 8192 -s rr\n") && !ipvsadm("-Sn").contains(" -f 409"), "{}", ipvsadm("-Sn"));
    lab.run("role backup");
    // A base that `ip rule` uses, or another program's filter.
    write("[marks]\nbase = 65536\nown_requests = \"left-alone\"\n");
    let before = (saved(), run("tc filter show dev bond0 ingress"));
    for (add, remove, words) in [
        ("ip rule add fwmark 0x10001 table main", "ip rule del fwmark 0x10001 table main", "fwmark 0x10001"),
        (
            "tc filter add dev bond0 ingress prio 9 protocol ip matchall action skbedit mark 65536",
            "tc filter del dev bond0 ingress prio 9",
            "65536",
        ),
    ] {
        run(add);
        for what in ["role master", "plan backup"] {
            let (code, _, stderr) = lab.try_run(what);
            assert_eq!(code, Some(1), "{add}: {stderr}");
            for word in [words, "it uses a packet mark of this node", "[marks] base"] {
                assert!(stderr.contains(word), "no {word:?} in {stderr}");
            }
        }
        run(remove);
        assert_eq!((saved(), run("tc filter show dev bond0 ingress")), before);
    }
    lab.run("role master");
    lab.run("release --now");
    assert_eq!(saved_marks(), "");
}

#[test]
fn a_wrong_group_or_mark_is_told_by_line() {
    let lab = Lab::bare();
    let head = "interface = \"bond0\"\n";
    let marks = |text: &str| format!("{head}vips = [\"192.0.2.254\"]\n[marks]\n{text}\n");
    let web = "[[group]]\nname = \"web\"\nvips = [\"192.0.2.254\"]\n";
    for (file, words) in [
        (marks("base = 0"), &["line 3", "marks from 0 on", "1 to 4294967039 was expected"][..]),
        (marks("base = 4294967295"), &["line 3", "1 to 4294967039"]),
        (marks("base = -1"), &["line 4", "the number -1 was found"]),
        (marks("mask = 1"), &["line 4", "unknown key `mask`", "`base`"]),
        (marks("own_requests = \"never\""), &["line 4", "unknown word `never`", "`served-here` or `left-alone`"]),
        (marks("macs = { \"192.0.2.12\" = [\"02:00\"] }"), &["line 4", "02:00", "MAC ADDRESS"]),
        (marks("macs = { \"somewhere\" = [\"02:00:00:00:00:01\"] }"), &["line 4", "somewhere", "ADDRESS"]),
        (marks("macs = { \"192.0.2.12\" = [\"01:00:5e:00:00:01\"] }"), &["line 3", "01:00:5e:00:00:01", "one node"]),
        (head.into(), &["line 1", "an interface and vips were expected, or a [[group]]"]),
        (
            format!("{head}vips = [\"192.0.2.253\"]\n{web}"),
            &["line 2", "vips and [[group]]", "move the vips into a [[group]]"],
        ),
        (web.into(), &["line 1", "an interface was expected, here or for all groups"]),
        (format!("{head}{web}vrid = 3\n"), &["line 5", "unknown key `vrid`", "`interface`"]),
        (format!("{head}[[group]]\nvips = [\"192.0.2.254\"]\n"), &["line 2: the key `name` is missing"]),
        (format!("{head}{web}{web}"), &["line 5", "a name of its own was expected"]),
        (format!("{head}{}", web.replace("web", " ")), &["line 2", "a name of its own was expected"]),
        (format!("{head}{web}{}", web.replace("web", "mail")), &["line 7", "192.0.2.254 is in another group too"]),
        (
            format!("{head}{web}{}", web.replace("web", "mail").replace("192.0.2.254", "127.0.0.1")),
            &["line 7", "loopback"],
        ),
        (
            format!("{head}{web}[[service]]\nlisten = \"tcp 192.0.2.9:80\"\nscheduler = \"rr\"\ndestinations = []\n"),
            &["line 5", "192.0.2.9:80 is on none of the vips"],
        ),
    ] {
        lab.expect_wrong(&file, words);
    }
}

/// What each command prints for programs; `try_run` judges it by the schema.
#[test]
fn every_command_has_json() {
    let lab = Lab::new("services = \"web.ipvs\"\nvip_owner = \"keepalived\"\n");
    fs::write(lab.dir.join("web.ipvs"), WEB).unwrap();
    fs::write(lab.dir.join("track"), "0\n").unwrap();
    let file = fs::read_to_string(lab.file()).unwrap();
    lab.write(&format!("{file}[handover]\nfile = {:?}\n", lab.dir.join("track")));
    let steps = |arguments: &str| -> Vec<String> {
        let (object, group) = lab.object(arguments);
        assert_eq!((&object["error"], &object["exit_code"]), (&Value::Null, &json!(0)), "{arguments}: {object}");
        let steps = group["steps"].as_array().unwrap_or_else(|| panic!("{arguments}: {object}"));
        steps.iter().map(|step| step.as_str().unwrap().to_owned()).collect()
    };
    let before = steps("plan backup");
    assert!(before.len() > 3 && before == steps("role backup --dry-run"), "{before:?}");
    assert!(!lab.state_dir().exists());
    assert_eq!((steps("role backup"), steps("role backup")), (before, Vec::new()));
    assert_eq!(steps("notify INSTANCE web BACKUP 100"), [""; 0]);
    let drain = steps("drain 192.0.2.12 --dry-run");
    assert!(drain.iter().any(|step| step.contains("-r 192.0.2.12")), "{drain:?}");
    assert_eq!(steps("drain 192.0.2.12"), drain);
    assert!(lab.object("drain 192.0.2.12").0["sessions"]["active"].is_u64());
    assert_eq!(steps("undrain 192.0.2.12 --dry-run"), steps("undrain 192.0.2.12"));
    assert_eq!(steps("set-weight 192.0.2.12 7 --dry-run"), steps("set-weight 192.0.2.12 7"));
    assert_eq!(steps("apply --dry-run --all"), steps("apply --all"));
    assert!(lab.object("check").0["warnings"].is_array());
    assert_eq!(lab.object("status").1["role"], json!("backup"));
    lab.object("audit");
    assert!(lab.object("resync --dry-run").0["notes"][0].as_str().unwrap().contains("would ask"));
    // What does nothing changes nothing.
    let track = || fs::read_to_string(lab.dir.join("track")).unwrap();
    assert!(lab.object("handover --dry-run").0["notes"][0].as_str().unwrap().contains("would write 1"));
    assert_eq!(track(), "0\n");
    lab.object("handover");
    assert_eq!(track(), "1\n");
    let pages = lab.dir.join("pages");
    fs::create_dir(&pages).unwrap();
    lab.object(&format!("man {}", pages.display()));
    let init = format!("init --interface bond0 --vip 192.0.2.254 --root {}", pages.display());
    let files = |arguments: &str| lab.object(arguments).0["files"].clone();
    assert_eq!(files(&format!("{init} --dry-run")), files(&init));
    // There now.
    assert_eq!(lab.object(&init).0["exit_code"], json!(1));
    let release = steps("release --dry-run");
    assert!(release.len() > 3 && lab.state_dir().join("state").exists());
    assert_eq!(release, steps("release --now"));
    // What fails.
    let (wrong, _) = lab.object("drain 192.0.2.12");
    assert!(wrong["error"]["text"].as_str().unwrap().contains("no role yet"), "{wrong}");
    lab.write("interface = 7\n");
    let (wrong, _) = lab.object("status");
    let place = |wrong: &Value| (wrong["error"]["file"].clone(), wrong["error"]["line"].clone());
    assert_eq!((&wrong["exit_code"], place(&wrong)), (&json!(2), (json!(lab.file()), json!(1))));
    lab.write(&file);
    let services = lab.dir.join("web.ipvs");
    fs::write(&services, format!("{WEB}nonsense\n")).unwrap();
    let line = WEB.lines().count() + 1;
    assert_eq!(place(&lab.object("check").0), (json!(services), json!(line)));
    fs::remove_file(&services).unwrap();
    assert_eq!(place(&lab.object("role backup").0), (json!(services), Value::Null));
    fs::write(&services, WEB).unwrap();
    // Records are for those who ask.
    let said = lab.run("role backup");
    assert!(said.contains("VIP: ") && !said.contains("record: "), "{said}");
    lab.run("release --now");
    assert!(lab.run("role backup -v").contains("record: backup is reached\n"));
    lab.run("release --now");
}

/// A file with two groups, as two VRRP instances decide about them.
fn groups(lab: &Lab, file: &str) -> String {
    let group = |name: &str, vip: &str| format!("[[group]]\nname = {name:?}\nvips = [{vip:?}]\n");
    let (web, mail) = (group("my web", VIPS[0]), group("mail", VIPS[1]));
    format!(
        "interface = \"bond0\"\nservices = \"web.ipvs\"\nstate_dir = {:?}\n{file}[sync]\nid = 9\n[marks]\nown_requests = \"left-alone\"\n{web}{mail}",
        lab.state_dir()
    )
}

/// The role of each group, as `status` says.
fn roles(lab: &Lab) -> [String; 2] {
    let found: Value = serde_json::from_str(&lab.try_run("status --json").1).unwrap();
    let found = found["groups"].as_array().unwrap();
    assert_eq!([&found[0]["group"], &found[1]["group"]], [&json!("my web"), &json!("mail")]);
    [0, 1].map(|index| found[index]["role"].as_str().unwrap_or("none").to_owned())
}

#[test]
fn groups_of_vips() {
    for fence in ["marks", "clear"] {
        let lab = Lab::bare();
        let _server = std::net::TcpListener::bind("[::]:80").unwrap();
        lab.write(&groups(&lab, &format!("fence = {fence:?}\n")));
        fs::write(lab.dir.join("web.ipvs"), WEB).unwrap();
        let on =
            |vip: &str, interface: &str| ip(&format!("-o address show dev {interface}")).contains(&format!(" {vip}/"));
        // A role is of one of them.
        let (code, _, stderr) = lab.try_run("role backup");
        assert!(code == Some(2) && stderr.contains("--group: one of \"my web\", \"mail\" was expected"), "{stderr}");
        let (code, _, stderr) = lab.try_run("role backup --group web");
        assert!(
            code == Some(2) && stderr.contains("group \"web\": one of \"my web\", \"mail\" was expected"),
            "{stderr}"
        );
        let plans = lab.run("plan backup");
        assert!(plans.contains("group my web\n1. ") && plans.contains("group mail\n1. "), "{plans}");
        let plan = lab.run("plan backup --group mail");
        assert!(
            plan.starts_with("group mail\n1. ") && !plan.contains("my web") && !plan.contains("192.0.2.254"),
            "{plan}"
        );
        lab.run("role master --group mail");
        assert_eq!(roles(&lab), ["none", "master"]);
        lab.run("role backup --group `my web`");
        assert_eq!(roles(&lab), ["backup", "master"]);
        assert!(on(VIPS[0], "lo") && !on(VIPS[0], "bond0") && on(VIPS[1], "bond0"));

        // keepalived names the instance.
        for (words, wanted) in [
            ("INSTANCE `my web` MASTER 100", ["master", "master"]),
            ("INSTANCE mail FAULT 100", ["master", "fault"]),
            ("INSTANCE other STOP 100", ["master", "fault"]),
            ("INSTANCE my BACKUP 100", ["master", "fault"]),
            ("INSTANCE `my web` BACKUP 100", ["backup", "fault"]),
            ("INSTANCE mail MASTER 100", ["backup", "master"]),
        ] {
            let printed = lab.run(&format!("notify {words}"));
            assert_eq!(roles(&lab), wanted, "{words}");
            let ignored = words.contains("other") || words.contains(" my ");
            assert_eq!(printed.contains("no group of this name: nothing to do"), ignored, "{words}: {printed}");
        }
        let table = if fence == "marks" { sorted(WEB) } else { sorted(&WEB[WEB.find("-A -t [").unwrap()..]) };
        assert_eq!((saved(), sync_daemons()), (table, vec!["master".to_owned(), "backup".to_owned()]));

        // All of them, or one.
        let text = lab.run("status");
        assert!(
            text.starts_with("group my web\nrole     backup, request ")
                && text.contains("\ngroup mail\nrole     master, "),
            "{text}"
        );
        let one = lab.run("status --group mail");
        assert!(one.starts_with("group mail\nrole     master, ") && !one.contains("my web"), "{one}");
        let (_, one) = lab.object("status --group mail");
        assert_eq!((&one["group"], &one["role"]), (&json!("mail"), &json!("master")));
        assert_eq!(lab.run("audit"), "group my web\nnothing is found\ngroup mail\nnothing is found\n");
        assert_eq!(lab.run("audit --group mail"), "group mail\nnothing is found\n");
        assert_eq!(lab.run("plan master --group mail"), "group mail\nnothing to do\n");
        assert_eq!(lab.run("apply"), "group my web\nnothing to do\ngroup mail\nnothing to do\n");

        // A server less for one of them.
        let less: String =
            WEB.lines().filter(|line| !line.contains("-r [2001:db8::12]")).map(|line| format!("{line}\n")).collect();
        fs::write(lab.dir.join("web.ipvs"), &less).unwrap();
        let dry = lab.run("apply --dry-run");
        assert!(
            dry.starts_with("group my web\nnothing to do\ngroup mail\n1. ") && dry.contains("-d -t [2001:db8::fe]:80"),
            "{dry}"
        );
        lab.run("apply --group `my web`");
        assert!(saved().contains("-r [2001:db8::12]:80"));
        lab.run("apply");
        assert!(!saved().contains("-r [2001:db8::12]:80"));

        // One is released, and then the other.
        lab.run("release --now --group mail");
        assert_eq!(roles(&lab), ["backup", "none"]);
        assert_eq!(sync_daemons(), ["backup"]);
        assert!(on(VIPS[0], "lo") && !on(VIPS[1], "lo") && !on(VIPS[1], "bond0"));
        lab.run("role master --group `my web`");
        lab.run("release --now");
        assert_eq!((ipvsadm("-Sn"), sync_daemons()), (String::new(), vec![]));
        assert_eq!(lab.run("release --now"), "group my web\nnothing to give back\ngroup mail\nnothing to give back\n");
    }
}

/// A [[group]] is named as its instance, also where it is the only one.
#[test]
fn the_only_group_is_the_instance_of_its_name() {
    let lab = Lab::bare();
    let group = format!("[[group]]\nname = \"web\"\nvips = {VIPS:?}\n");
    lab.write(&format!("interface = \"bond0\"\nstate_dir = {:?}\n{group}", lab.state_dir()));
    load(WEB);
    lab.run("notify INSTANCE web MASTER 100");
    let printed = lab.run("notify INSTANCE mail BACKUP 100");
    assert!(printed.contains("no group of this name: nothing to do"), "{printed}");
    assert!(on("bond0"));
    lab.run("role backup");
    assert!(!on("bond0"));
}

#[test]
fn keepalived_writes_the_states_of_two_instances_to_a_fifo() {
    let lab = Lab::bare();
    lab.write(&groups(&lab, "vip_owner = \"keepalived\"\n"));
    fs::write(lab.dir.join("web.ipvs"), WEB).unwrap();
    let fifo = lab.dir.join("fifo");
    run(&format!("mkfifo {}", fifo.display()));
    let _follower = Follower(lab.command(&format!("--quiet fifo {}", fifo.display())).spawn().unwrap());
    let becomes = |wanted: [&str; 2]| {
        let start = Instant::now();
        while roles(&lab) != wanted {
            assert!(
                start.elapsed() < Duration::from_secs(20),
                "{wanted:?} is not reached: {}",
                lab.try_run("status").1
            );
            thread::sleep(Duration::from_millis(50));
        }
    };
    let mut keepalived = fs::OpenOptions::new().write(true).open(&fifo).unwrap();
    let mut write = |lines: &str| keepalived.write_all(lines.as_bytes()).unwrap();
    write("INSTANCE \"my web\" BACKUP 100\nINSTANCE \"mail\" BACKUP 100\n");
    becomes(["backup", "backup"]);
    ip("address add 192.0.2.254/32 dev bond0");
    write("INSTANCE \"my web\" MASTER 100\nINSTANCE \"other\" FAULT 100\nINSTANCE \"my\" STOP 100\n");
    becomes(["master", "backup"]);
    // Lines that were lost.
    ip("address del 192.0.2.254/32 dev bond0");
    ip("address add 2001:db8::fe/128 dev bond0 nodad");
    becomes(["backup", "master"]);
}

/// Two VIPs, each with a director of its own, on three nodes: both are balanced on all of them,
/// before and after a move.
#[test]
fn two_directors_balance_two_vips() {
    const OTHER: &str = "192.0.2.253";
    lan::enter_switch();
    let (program, dir) = (lvs_node(), new_path());
    let hosts: Vec<Netns> = (1..=3).map(lan::host).collect();
    let client = lan::host(9);
    let table: String = [lan::VIP.to_owned(), OTHER.to_owned(), format!("[{}]", lan::VIP6)]
        .iter()
        .map(|vip| {
            let server = |number: u8| {
                if vip.starts_with('[') { format!("[2001:db8::{number}]:80") } else { format!("192.0.2.{number}:80") }
            };
            let servers: String =
                (1..=3).map(|number| format!("-a -t {vip}:80 -r {} -g -w 1\n", server(number))).collect();
            format!("-A -t {vip}:80 -s rr\n{servers}")
        })
        .collect();
    for (number, host) in (1_u8..).zip(&hosts) {
        lan::serve(host, number);
        let dir = dir.join(number.to_string());
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join("web.ipvs"), &table).unwrap();
        let file = format!(
            "interface = {:?}\nservices = \"web.ipvs\"\nstate_dir = {:?}\nannounce_again = 0.0\n[sync]\nid = 9\n\
             [[group]]\nname = \"my web\"\nvips = [{:?}, {:?}]\n[[group]]\nname = \"mail\"\nvips = [{OTHER:?}]\n",
            lan::INTERFACE,
            dir.join("state"),
            lan::VIP,
            lan::VIP6
        );
        fs::write(dir.join("node.toml"), file).unwrap();
    }
    let role = |number: usize, group: &str, role: &str| {
        let output = hosts[number - 1]
            .run(|| {
                let mut command = Command::new(&program);
                command
                    .arg("--config")
                    .arg(dir.join(format!("{number}/node.toml")))
                    .args(["--group", group, "role", role]);
                command.output().unwrap()
            })
            .unwrap();
        assert!(output.status.success(), "{number}: {group} {role}: {}", String::from_utf8_lossy(&output.stderr));
    };
    // The nodes that serve 12 sessions of this VIP, and the sessions.
    let open = |vip: &str| {
        let mut sessions: Vec<lan::Session> = (0..12).filter_map(|_| lan::Session::open(&client, vip)).collect();
        let served: Vec<u8> = sessions.iter_mut().filter_map(lan::Session::ask).collect();
        let counts = [1, 2, 3].map(|number| served.iter().filter(|found| **found == number).count());
        (sessions, counts)
    };
    for number in 1..=3 {
        ["my web", "mail"].into_iter().for_each(|group| role(number, group, "backup"));
    }
    role(1, "my web", "master");
    role(2, "mail", "master");
    let mut kept = Vec::new();
    for vip in [lan::VIP, OTHER, lan::VIP6] {
        let (sessions, counts) = open(vip);
        assert_eq!(counts, [4; 3], "{vip}");
        kept.extend(sessions);
    }
    // One moves to the other's director, and then both to the third node.
    for moves in [&[("my web", 1, 2)][..], &[("mail", 2, 3), ("my web", 2, 3)]] {
        for (group, from, to) in moves {
            role(*from, group, "backup");
            role(*to, group, "master");
        }
        assert_eq!(kept.iter_mut().filter_map(lan::Session::ask).count(), kept.len());
        for vip in [lan::VIP, OTHER, lan::VIP6] {
            assert_eq!(open(vip).1, [4; 3], "{vip}: {moves:?}");
        }
    }
    let _ = fs::remove_dir_all(dir);
}

/// A file without groups gets some, and loses them again.
#[test]
fn a_file_is_divided_into_groups() {
    let lab = Lab::new("services = \"web.ipvs\"\n[sync]\nid = 9\n");
    fs::write(lab.dir.join("web.ipvs"), WEB).unwrap();
    let whole = fs::read_to_string(lab.file()).unwrap();
    lab.run("role master");
    // A server is out, and stays so.
    ipvsadm("-e -t 192.0.2.254:80 -r 192.0.2.12:80 -g -w 0");
    let table = saved();
    lab.write(&groups(&lab, ""));
    assert_eq!(roles(&lab), ["none", "none"]);
    lab.run("role master --group `my web`");
    // The other VIP is where it was.
    assert!(ip("-o address show dev bond0").contains(" 2001:db8::fe/128"));
    lab.run("role backup --group mail");
    assert!(!ip("-o address show dev bond0").contains(" 2001:db8::fe/128"));
    assert_eq!((roles(&lab), saved()), (["master", "backup"].map(String::from), table.clone()));
    assert_eq!(lab.run("apply"), "group my web\nnothing to do\ngroup mail\nnothing to do\n");
    lab.write(&whole);
    lab.run("role master");
    assert_eq!(saved(), table);
    lab.run("status");
    lab.run("release --now");
    assert_eq!((ipvsadm("-Sn"), sync_daemons()), (String::new(), vec![]));
}

/// Without privileges, and without a network.
#[test]
fn a_file_is_checked_by_itself() {
    let lab = Lab::new("services = \"web.ipvs\"\n");
    fs::write(lab.dir.join("web.ipvs"), WEB).unwrap();
    run(&format!("chmod -R go+rX {}", lab.dir.display()));
    run(&format!("cp {} /run/lvs-node-of-all", lab.program.display()));
    let as_nobody = |arguments: &str| {
        let mut command = Command::new("setpriv");
        command.args(["--reuid", "65534", "--regid", "65534", "--clear-groups", "/run/lvs-node-of-all"]);
        let Output { status, stdout, stderr } = command.args(arguments.split_whitespace()).output().unwrap();
        (status.code(), String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap())
    };
    let file = lab.file().display().to_string();
    let good = format!("{file}: nothing is wrong with the file; `lvs-node audit` looks at the machine\n");
    assert_eq!(as_nobody(&format!("check {file}")), (Some(0), good, String::new()));
    for what in ["audit", "plan backup", "status"] {
        let (code, stdout, stderr) = as_nobody(&format!("--config {file} {what}"));
        assert_eq!((code, stdout.as_str()), (Some(1), ""), "{what}: {stderr}");
        assert!(stderr.contains("run as root") && stderr.contains("`lvs-node check`"), "{what}: {stderr}");
    }
    let head = lab.with_head("");
    lab.write(&head.replace(&format!("{:?}", lab.state_dir()), "\"/tmp/x\""));
    let (code, stdout, _) = as_nobody(&format!("check {file}"));
    assert_eq!(code, Some(1));
    assert!(stdout.starts_with(&format!("warning: {file}: state_dir: old files below /tmp")), "{stdout}");
    lab.write(&head.replace(&format!("{:?}", lab.state_dir()), "\"/tmp\""));
    let (code, _, stderr) = as_nobody(&format!("check {file}"));
    assert_eq!(code, Some(2));
    assert!(stderr.contains("line 3: state_dir is not usable: /tmp is a directory of all programs"), "{stderr}");
    fs::remove_file("/run/lvs-node-of-all").unwrap();
}

/// keepalived gives its scripts no standard error.
#[test]
fn a_notification_that_fails_leaves_a_trace() {
    const LOG: &str = "/dev/log";
    let lab = Lab::new("vip_owner = \"keepalived\"\nservices = \"web.ipvs\"\n");
    fs::write(lab.dir.join("web.ipvs"), "-A -t 192.0.2.254:80 -s wrr\n-a -t 192.0.2.254:80 -r 192.0.2.12:80 -g -w 1\n")
        .unwrap();
    let notify = |state: &str, code: i32| {
        let mut notify = lab.command(&format!("notify INSTANCE web {state} 100"));
        let status = notify.stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap();
        assert_eq!(status.code(), Some(code), "{state}");
    };
    let _ = fs::remove_file(LOG);
    let journal = UnixDatagram::bind(LOG).unwrap();
    journal.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let logged = |words: &str| {
        let mut octets = [0; 4096];
        let length = journal.recv(&mut octets).unwrap();
        let text = String::from_utf8_lossy(&octets[..length]).into_owned();
        assert!(text.starts_with("<27>lvs-node[") && text.contains(words), "no {words} in {text}");
    };
    let failure = || {
        let (_, status) = lab.object("status");
        (status["failure"]["task"].clone(), status["failure"]["reason"].to_string())
    };

    notify("BACKUP", 0);
    assert_eq!(failure(), (Value::Null, "null".into()));
    // Another program's address is in the way.
    ip("link add dummy0 up type dummy");
    ip("address add 192.0.2.254/32 dev dummy0");
    notify("FAULT", 1);
    logged("fault: 192.0.2.254/32 on dummy0 (scope global) is not ours");
    ip("link del dummy0");
    assert_eq!(failure().0, json!("fault"));
    let (_, status, _) = lab.try_run("status");
    assert!(status.contains("\nfailed   fault ") && status.contains(" s ago: 192.0.2.254/32 on dummy0"), "{status}");
    let (code, audit, _) = lab.try_run("audit");
    assert!(
        code == Some(1)
            && audit
                .contains("error: role-failed: fault failed, and no role was reached since: 192.0.2.254/32 on dummy0"),
        "{audit}"
    );
    assert!(audit.contains("fix: record: fault is reached"), "{audit}");
    let metrics = lab.dir.join("metrics");
    let watch = Follower(lab.command(&format!("--quiet watch --metrics {}", metrics.display())).spawn().unwrap());
    let until = |shown: &dyn Fn(&str) -> bool| {
        let start = Instant::now();
        let name = "lvs_node_role_failed_timestamp_seconds ";
        let text = || fs::read_to_string(&metrics).unwrap_or_default();
        while !text().lines().any(|line| line.strip_prefix(name).is_some_and(shown)) {
            assert!(start.elapsed() < Duration::from_secs(20), "{}", text());
            thread::sleep(Duration::from_millis(100));
        }
    };
    until(&|value| value.len() == 10);
    assert!(lab.try_run("audit --fix").1.contains("record: fault is reached"));
    until(&|value| value == "0");
    drop(watch);
    assert_eq!(failure(), (Value::Null, "null".into()));

    // Services that cannot be read, by the name of their file, and a node that cannot be opened.
    fs::write(lab.dir.join("web.ipvs"), "-A -t 192.0.2.254:80 -s wrr\n-a -t 192").unwrap();
    ipvsadm("-C");
    notify("BACKUP", 2);
    logged("web.ipvs: the last line does not end");
    fs::write(lab.dir.join("web.ipvs"), "-A -t 192.0.2.254:80 -s wrr\n").unwrap();
    assert!(failure().1.contains("web.ipvs: the last line does not end"), "{:?}", failure());
    notify("BACKUP", 0);
    assert_eq!(failure().0, Value::Null);
    let good = fs::read_to_string(lab.file()).unwrap();
    lab.write(&good.replace("bond0", "bond7"));
    lab.run("release");
    notify("MASTER", 1);
    logged("cannot find interface bond7");
    lab.write(&good);
    assert_eq!(failure().0, json!("master"));
    lab.write(&format!("{good}what = 7\n"));
    notify("MASTER", 2);
    logged("unknown key `what`");
    lab.write(&good);
    lab.run("release");
    assert_eq!(failure().0, Value::Null);

    // Nothing is held up where nobody listens, or nothing can be written.
    drop(journal);
    ip("link add dummy0 up type dummy");
    ip("address add 192.0.2.254/32 dev dummy0");
    notify("BACKUP", 1);
    fs::remove_file(LOG).unwrap();
    fs::remove_dir_all(lab.state_dir()).unwrap();
    fs::write(lab.state_dir(), "").unwrap();
    notify("BACKUP", 1);
    fs::remove_file(lab.state_dir()).unwrap();
    ip("link del dummy0");
    notify("BACKUP", 0);
    lab.run("release");
}
