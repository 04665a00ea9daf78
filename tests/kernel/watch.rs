//! `lvs-node watch`: late nodes learn, drift is repaired, the other director and MAC addresses are
//! followed, two directors do no harm, and a killed watch leaves nothing behind.

use std::fs;
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::process::{Child, Command};
use std::thread;
use std::time::{Duration, Instant};

use lvs_dr::Netns;
use serde_json::{Value, json};

use crate::cli::lvs_node;
use crate::lab::{cable, feed, ip, ipvsadm, keep, new_netns, rules, run, without_checksum};
use crate::lan::{INTERFACE, Session, VIP, VIP6, add_vips, enter_switch, failing_during, host, kept, serve, session};
use crate::node::new_path;
use crate::schema::objects;

/// The marks of a node begin with this one; the next one leads to the director of the first group.
const MARK: u32 = 0x4c56_5300;

/// The rule that only a node has that does not direct.
const OPENING: &str = "TCP with SYN";

/// A host with a file of its own for `lvs-node`.
pub struct Node {
    pub netns: Netns,
    pub dir: PathBuf,
    /// Whether its watch writes metrics, for which it reads all of the table at each look.
    pub metrics: bool,
    watch: Option<Child>,
}

/// A node's file without state_dir. `sync`: its settings.
pub fn file(servers: &[u8], sync: &str) -> String {
    let head =
        format!("interface = \"{INTERFACE}\"\nvips = [\"{VIP}\", \"{VIP6}\"]\nannounce_again = 0.0\n[sync]\n{sync}\n");
    head + &service(VIP, servers) + &service(VIP6, servers)
}

pub fn service(vip: &str, servers: &[u8]) -> String {
    let (vip, network, end) =
        if vip.contains(':') { (format!("[{vip}]"), "[2001:db8::", "]") } else { (vip.to_owned(), "192.0.2.", "") };
    let destinations: Vec<String> =
        servers.iter().map(|n| format!("{{ address = \"{network}{n}{end}:80\" }}")).collect();
    let destinations = destinations.join(", ");
    format!("[[service]]\nlisten = \"tcp {vip}:80\"\nscheduler = \"wrr\"\ndestinations = [{destinations}]\n")
}

impl Node {
    pub fn new(number: u8, file: &str) -> Self {
        Node::on(host(number), number, file)
    }

    pub fn on(netns: Netns, number: u8, file: &str) -> Self {
        serve(&netns, number);
        let dir = new_path();
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join("node.toml"), format!("state_dir = {:?}\n{file}", dir.join("state"))).unwrap();
        run(&format!("mkfifo {}", dir.join("fifo").display()));
        Node { netns, dir, metrics: true, watch: None }
    }

    pub fn command(&self, arguments: &str) -> Command {
        let mut command = Command::new(lvs_node());
        command.arg("--config").arg(self.dir.join("node.toml")).args(arguments.split_whitespace());
        command
    }

    pub fn run(&self, arguments: &str) -> String {
        let (success, text) = self.try_run(arguments);
        assert!(success, "{arguments}: {text}");
        text
    }

    pub fn try_run(&self, arguments: &str) -> (bool, String) {
        let output = self.netns.run(|| self.command(arguments).output().unwrap()).unwrap();
        let text = [output.stdout, output.stderr].map(|octets| String::from_utf8_lossy(&octets).into_owned()).concat();
        (output.status.success(), text)
    }

    pub fn watch(&mut self, more: &str) {
        let log = fs::File::options().create(true).append(true).open(self.dir.join("log")).unwrap();
        let metrics = if self.metrics { format!("--metrics {}", self.metrics_file().display()) } else { String::new() };
        let arguments = format!("watch --fifo {} {metrics} {more}", self.dir.join("fifo").display());
        let mut command = self.command(&arguments);
        command.env("NOTIFY_SOCKET", self.dir.join("notify"));
        let start = || command.stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap();
        self.watch = Some(self.netns.run(start).unwrap());
    }

    pub fn kill(&mut self) {
        if let Some(mut watch) = self.watch.take() {
            watch.kill().and_then(|()| watch.wait()).unwrap();
        }
    }

    /// As keepalived would.
    pub fn tell(&self, state: &str) {
        self.tell_of("web", state);
    }

    pub fn tell_of(&self, instance: &str, state: &str) {
        let mut fifo = fs::OpenOptions::new().write(true).open(self.dir.join("fifo")).unwrap();
        fifo.write_all(format!("INSTANCE \"{instance}\" {state} 100\n").as_bytes()).unwrap();
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.dir.join("log")).unwrap_or_default()
    }

    /// The texts of one event, of a log in JSON.
    pub fn logged(&self, event: &str) -> Vec<String> {
        let log = self.log();
        let lines: String = log.lines().filter(|line| line.starts_with('{')).map(|line| format!("{line}\n")).collect();
        let told = objects(&lines)
            .into_iter()
            .filter(|line: &Value| line["event"] == event && line["time"].as_f64() > Some(1.7e9));
        told.map(|line| line["text"].as_str().unwrap().to_owned()).collect()
    }

    pub fn metrics_file(&self) -> PathBuf {
        self.dir.join("metrics.prom")
    }

    pub fn metric(&self, name: &str) -> u64 {
        let text = fs::read_to_string(self.metrics_file()).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.map_or(0, |value| value.parse().unwrap())
    }

    /// The table as ipvsadm saves it, in the order of ours, without the services of the node's
    /// marks.
    pub fn table(&self) -> String {
        let saved = self.netns.run(|| ipvsadm("-Sn")).unwrap();
        let mut table = saved.parse::<lvs_dr::ipvs::Table>().unwrap();
        table.retain(|id| !id.to_string().starts_with("fwmark"));
        table.to_string()
    }

    /// Where packets of unknown connections are sent, for the group with this number.
    pub fn points_to(&self, group: u32) -> Vec<String> {
        let saved = self.netns.run(|| ipvsadm("-Sn")).unwrap();
        let start = format!("-a -f {} ", MARK + 1 + group);
        let chosen = saved.lines().filter(|line| line.starts_with(&start) && line.ends_with("-w 1"));
        let mut found: Vec<String> =
            chosen.map(|line| line.split_once("-r ").unwrap().1.split_once(' ').unwrap().0.to_owned()).collect();
        found.sort();
        found
    }

    pub fn ipvsadm(&self, arguments: &str) -> String {
        self.netns.run(|| ipvsadm(arguments)).unwrap()
    }

    /// The rules that mark packets, as tc shows them.
    pub fn rules(&self) -> String {
        self.netns.run(|| rules(INTERFACE)).unwrap().join("\n")
    }

    pub fn state(&self) -> String {
        fs::read_to_string(self.dir.join("state/state")).unwrap_or_default()
    }

    /// Whether its role is that of a director, and is reached.
    pub fn directs(&self) -> bool {
        self.state().contains("role master reached\n") && !self.rules().contains(OPENING)
    }

    pub fn known(&self) -> usize {
        let rows = self.netns.run(|| fs::read_to_string("/proc/thread-self/net/ip_vs_conn").unwrap()).unwrap();
        rows.lines().filter(|row| row.contains("ESTABLISHED")).count()
    }

    /// Whether it has an entry for each of these, by the client's port. Their number alone does not
    /// say so: sessions of an earlier director may have ended there, and not here.
    pub fn knows(&self, sessions: &[(Session, u8)]) -> bool {
        let rows = self.netns.run(|| fs::read_to_string("/proc/thread-self/net/ip_vs_conn").unwrap()).unwrap();
        let ports: Vec<&str> = rows.lines().filter_map(|row| row.split_whitespace().nth(2)).collect();
        sessions.iter().all(|(session, _)| ports.contains(&format!("{:04X}", session.port()).as_str()))
    }

    pub fn ip(&self, arguments: &str) -> String {
        self.netns.run(|| ip(arguments)).unwrap()
    }

    pub fn mac(&self) -> String {
        let shown = self.ip(&format!("-o link show {INTERFACE}"));
        shown.split_once("link/ether ").unwrap().1.split(' ').next().unwrap().to_owned()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.kill();
        let _ = fs::remove_dir_all(&self.dir);
    }
}

/// How long it takes.
pub fn soon(what: &str, nodes: &[Node], mut is: impl FnMut() -> bool) -> Duration {
    let start = Instant::now();
    while !is() {
        if start.elapsed() > Duration::from_secs(30) {
            let logs: Vec<String> =
                nodes.iter().map(|node| format!("{}\n{}", node.log(), node.ipvsadm("-Sn"))).collect();
            panic!("{what} did not come about:\n{}", logs.join("\n---\n"));
        }
        thread::sleep(Duration::from_millis(50));
    }
    start.elapsed()
}

pub fn cluster(sync: &str) -> (Netns, Vec<Node>) {
    cluster_of(&[11, 12], sync)
}

/// The first one directs.
pub fn cluster_of(numbers: &[u8], sync: &str) -> (Netns, Vec<Node>) {
    enter_switch();
    let client = host(1);
    let mut nodes: Vec<Node> = numbers.iter().map(|number| Node::new(*number, &file(numbers, sync))).collect();
    if sync.contains("side0") {
        connect(&nodes);
    }
    start(&mut nodes);
    (client, nodes)
}

pub fn start(nodes: &mut [Node]) {
    for (index, node) in nodes.iter_mut().enumerate() {
        node.watch("");
        node.tell(if index == 0 { "MASTER" } else { "BACKUP" });
    }
    soon("a director", nodes, || {
        nodes[0].directs() && nodes[1..].iter().all(|node| node.state().contains("role backup reached\n"))
    });
}

/// By a link of their own.
pub fn connect(nodes: &[Node]) {
    nodes[0].netns.run(|| cable("side0", "02:00:00:00:02:11", &nodes[1].netns, "side0")).unwrap();
    nodes[0].ip("address add 198.51.100.11/24 dev side0");
    nodes[1].ip("address add 198.51.100.12/24 dev side0");
}

/// The director's addresses, as [`Node::points_to`] shows them.
pub fn to(number: u8) -> Vec<String> {
    vec![format!("192.0.2.{number}:1"), format!("[2001:db8::{number}]:1")]
}

/// The kernel's daemons stay with the interface that is gone.
#[test]
fn a_sync_interface_is_made_anew() {
    let (client, nodes) = cluster("interface = \"side0\"");
    let mut sessions = Vec::new();
    for round in 1..3 {
        let opened: Vec<Session> = (0..10).map(|_| Session::open(&client, VIP).unwrap()).collect();
        sessions.extend(opened);
        assert!(sessions.iter_mut().all(|session| session.ask().is_some()));
        soon("the backup knows all", &nodes, || nodes[1].known() == 10 * round);
        nodes[0].ip("link del side0");
        connect(&nodes);
    }
    soon("daemons started again", &nodes, || nodes.iter().all(|node| node.log().contains("made anew")));
}

#[test]
fn a_node_that_comes_late_learns_all_and_may_then_direct() {
    comes_late("");
    comes_late("group = \"ff02::51\"");
}

fn comes_late(sync: &str) {
    let (client, mut nodes) = cluster(sync);
    // Opened before the third node is there: the kernel does not send them again.
    let mut sessions: Vec<(Session, u8)> = (0..20).flat_map(|_| [VIP, VIP6]).map(|vip| session(&client, vip)).collect();
    sessions.retain(|(_, server)| *server == 12);
    assert!(sessions.len() > 5, "{}", sessions.len());
    let mut late = Node::new(13, &file(&[11, 12], sync));
    late.watch("");
    late.tell("BACKUP");
    nodes.push(late);
    let known = nodes[0].known();
    soon("all sessions known", &nodes, || nodes[2].known() >= known && nodes[2].metric("lvs_node_knows_all") == 1);
    assert!(nodes[2].log().contains("knows ") && nodes[0].log().contains("sent "), "{}", nodes[2].log());
    assert!(nodes[2].run("status").contains("of the director's"), "{}", nodes[2].run("status"));
    assert!(nodes[2].run("resync").starts_with("knows "));
    assert!(nodes[0].run("resync").starts_with("sent "));
    // The director dies, and the late one takes over.
    ip("link set port11 down");
    nodes[2].tell("MASTER");
    soon("the late node directs", &nodes, || nodes[2].directs());
    assert_eq!(kept(&mut sessions), sessions.len());
}

/// The nodes as each of them hears the others.
#[test]
fn a_cluster_on_one_screen() {
    let (client, mut nodes) = cluster_of(&[11, 12, 13], "");
    let mut sessions: Vec<(Session, u8)> = (0..6).map(|_| session(&client, VIP)).collect();
    let seen = |node: &Node| objects(&node.try_run("cluster --json").1)[0].clone();
    // Of each node its first address, its role, and whether its table is that of node 12.
    let shown = |all: &Value| -> Vec<(String, String, Option<bool>, Option<u64>)> {
        let of = |node: &Value| {
            let word = |value: &Value| value.as_str().unwrap_or("-").to_owned();
            (
                word(&node["addresses"][0]),
                word(&node["role"]),
                node["table_equal"].as_bool(),
                node["connections"].as_u64(),
            )
        };
        all["nodes"].as_array().unwrap().iter().map(of).collect()
    };
    let row = |number: u8, role: &str, equal: Option<bool>, known: Option<u64>| {
        (format!("192.0.2.{number}"), role.to_owned(), equal, known)
    };
    let wanted = [
        row(12, "backup", None, Some(6)),
        row(11, "master", Some(true), Some(6)),
        row(13, "backup", Some(true), Some(6)),
    ];
    soon("all three", &nodes, || shown(&seen(&nodes[1])) == wanted);
    let all = seen(&nodes[1]);
    assert_eq!((&all["exit_code"], &all["nodes"][1]["directs"]), (&json!(0), &json!([""])));
    assert!(all["nodes"].as_array().unwrap().iter().all(|node| node["version"] == env!("CARGO_PKG_VERSION")));
    assert!(all["nodes"][0]["changed"].is_u64() && all["nodes"][2]["changed"].is_u64(), "{all}");
    let text = nodes[1].run("cluster");
    let words: Vec<String> = text.lines().map(|row| row.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
    assert!(words[1].starts_with("192.0.2.12 this node backup - 6 "), "{text}");
    assert!(words[3].starts_with("192.0.2.11 master yes equal 6 ") && words[4] == "2001:db8::11", "{text}");

    // Packets are counted while they come.
    let top = nodes[0].command("top --count 1 --json --interval 4");
    let counted = nodes[0].netns.run(move || {
        let mut top = top;
        top.stdout(std::process::Stdio::piped()).spawn().unwrap()
    });
    let (counted, until) = (counted.unwrap(), Instant::now() + Duration::from_secs(8));
    let mut asked = 0;
    while Instant::now() < until {
        asked += sessions.iter_mut().filter_map(|(session, _)| session.ask()).count();
        thread::sleep(Duration::from_millis(50));
    }
    let printed = counted.wait_with_output().unwrap();
    let counted = objects(&String::from_utf8(printed.stdout).unwrap());
    let service = &counted[0]["services"][0];
    let packets = |of: &Value| of["per_second"]["packets"].as_f64().unwrap();
    assert!(asked > 0 && counted.len() == 1 && packets(service) > 0.0, "{counted:?}");
    let servers = service["servers"].as_array().unwrap();
    assert_eq!(servers.iter().map(|server| server["active"].as_u64().unwrap()).sum::<u64>(), 6, "{counted:?}");
    let sum: f64 = servers.iter().map(packets).sum();
    assert!((sum - packets(service)).abs() < 1e-6, "{counted:?}");
    let text = nodes[0].run("top --count 1");
    assert!(text.starts_with("master: 6 servers of 2 services, ") && !text.contains('\u{1b}'), "{text}");
    assert!(!text.contains("fwmark"), "{text}");

    // One has another weight, one is gone.
    nodes[0].ipvsadm(&format!("-e -t {VIP}:80 -r 192.0.2.12:80 -g -w 3"));
    nodes[2].kill();
    soon("the difference", &nodes, || {
        let all = shown(&seen(&nodes[1]));
        all[1] == row(11, "master", Some(false), Some(6)) && all[2] == row(13, "-", Some(true), None)
    });
    let (fine, text) = nodes[1].try_run("cluster");
    assert!(!fine && text.contains("warning: 192.0.2.13 is silent: it was heard "), "{text}");
    // Nothing is heard without a watch.
    nodes[1].kill();
    let (fine, text) = nodes[1].try_run("cluster");
    assert!(!fine && text.contains("`lvs-node watch` does not run on this node"), "{text}");
    assert_eq!(kept(&mut sessions), sessions.len());
}

/// Another service, another server and another weight, a VIP less and one more, other ARP settings:
/// on each node, while clients come and go. What is brought in stays.
#[test]
fn a_changed_file_is_brought_in_while_sessions_live() {
    let (client, nodes) = cluster("");
    let _third = {
        let third = host(13);
        serve(&third, 13);
        // A server and no node: what scripts do there.
        add_vips(&third, "lo");
        third
    };
    let mut sessions: Vec<(Session, u8)> = (0..12).map(|_| session(&client, VIP)).collect();
    let more = "192.0.2.253";
    let changed = |node: &Node, more: &str, servers: &[u8], extra: &str| {
        let head = format!("interface = \"{INTERFACE}\"\nvips = [\"{VIP}\"{more}]\nannounce_again = 0.0\n{extra}");
        let state_dir = format!("state_dir = {:?}\n", node.dir.join("state"));
        fs::write(node.dir.join("node.toml"), state_dir + &head + &service(VIP, servers)).unwrap();
    };
    let second = service(more, &[11, 12]);
    let (failed, all) = failing_during(&client, &[VIP], || {
        for node in &nodes {
            let vips = format!(", \"{more}\"");
            changed(node, &vips, &[11, 12, 13], &format!("[arp]\nignore = 3\n{second}"));
            let dry = node.run("apply --dry-run");
            let done = node.run("apply");
            for words in [
                format!("VIP: remove {VIP6} from lo"),
                format!("VIP: add {more} to lo"),
                format!("-a -t {VIP}:80 -r 192.0.2.13:80 -g -w 1"),
                format!("-A -t {more}:80 -s wrr"),
                format!("-D -t [{VIP6}]:80"),
                "arp_ignore=3".to_owned(),
            ] {
                assert!(dry.contains(&words) && done.contains(&words), "{words}:\n{dry}\n{done}");
            }
            assert!(node.run("apply").ends_with("nothing to do\n"));
        }
        // The watches leave it.
        looked_twice(&nodes);
    });
    assert!(failed == 0 && all > 50, "{failed} of {all} failed");
    assert_eq!(kept(&mut sessions), sessions.len());
    for (node, role) in nodes.iter().zip(["master", "backup"]) {
        assert!(node.run("status").starts_with(&format!("role     {role}, request 1\n")), "{}", node.run("status"));
        assert!(node.run("apply --dry-run").ends_with("nothing to do\n"));
        assert!(node.table().contains(&format!("-a -t {VIP}:80 -r 192.0.2.13:80 -g -w 1")), "{}", node.table());
        assert!(!node.log().contains("repair: "), "{}", node.log());
    }
    let answers: std::collections::BTreeSet<u8> = (0..12).map(|_| session(&client, VIP).1).collect();
    assert_eq!(answers, [11, 12, 13].into());
    assert!((0..6).all(|_| Session::open(&client, more).and_then(|mut session| session.ask()).is_some()));

    // The same by a signal. A wrong file changes nothing, and says why.
    let node = &nodes[1];
    let hang_up = |log: &str| {
        let before = node.log().matches(log).count();
        run(&format!("kill -HUP {}", node.watch.as_ref().unwrap().id()));
        soon(log, &nodes, || node.log().matches(log).count() > before);
    };
    let table = node.table();
    for (extra, reason) in [
        ("fence = \"none\"\n", "unknown word `none`"),
        ("state_dir = \"/run/elsewhere\"\n", "the node keeps its state in"),
        ("interface = \"nosuch\"\n", "nosuch"),
    ] {
        changed(node, "", &[11, 12], "");
        let path = node.dir.join("node.toml");
        let text = fs::read_to_string(&path).unwrap();
        let (key, _) = extra.split_once(' ').unwrap();
        let rest = text.lines().filter(|line| !line.starts_with(key)).map(|line| format!("{line}\n"));
        fs::write(&path, format!("{extra}{}", rest.collect::<String>())).unwrap();
        hang_up("reload: ");
        assert!(node.log().lines().last().unwrap().contains(reason), "{}", node.log());
    }
    assert_eq!(node.table(), table);
    changed(node, "", &[11, 12], "");
    hang_up("the file is read again");
    soon("the earlier services", &nodes, || !node.table().contains("192.0.2.13") && !node.table().contains(more));
    soon("the earlier role", &nodes, || node.state().contains("role backup reached\n"));
    assert!(node.ip("-o address show dev lo").contains(&format!("{VIP}/32 scope host")));
    // And the watch that has read it is the one that follows keepalived.
    node.tell("MASTER");
    nodes[0].tell("BACKUP");
    soon("the other director", &nodes, || node.directs() && !nodes[0].directs());
    assert_eq!(kept(&mut sessions), sessions.len());
}

/// Waits until each watch has looked at the whole twice more, and once before that: what is missing
/// twice is repaired.
fn looked_twice(nodes: &[Node]) {
    for _ in 0..4 {
        let at = |node: &Node| fs::metadata(node.metrics_file()).unwrap().modified().unwrap();
        let before: Vec<_> = nodes.iter().map(at).collect();
        soon("a look of each watch", nodes, || nodes.iter().zip(&before).all(|(node, before)| at(node) != *before));
    }
}

/// By a script or by Pacemaker, beside a watch that has read an earlier file.
#[test]
fn a_role_with_a_newer_file_is_not_undone_by_the_watch() {
    let (_client, nodes) = cluster("");
    let node = &nodes[1];
    node.run("role backup");
    assert!(!node.log().contains("the file is read again"));
    let text = fs::read_to_string(node.dir.join("node.toml")).unwrap();
    let changed = text.replace("address = \"192.0.2.12:80\"", "address = \"192.0.2.12:80\", weight = 5");
    fs::write(node.dir.join("node.toml"), changed).unwrap();
    assert!(node.run("role backup").contains("192.0.2.12:80 -g -w 5"));
    soon("the newer file", &nodes, || node.log().contains("the file is read again"));
    looked_twice(&nodes);
    assert!(node.table().contains("192.0.2.12:80 -g -w 5"), "{}", node.log());
    assert!(!node.log().contains("repair: "), "{}", node.log());
}

/// The sync daemons and the nodes' beacons move to another link.
#[test]
fn another_sync_interface_is_brought_in() {
    let (client, nodes) = cluster("");
    connect(&nodes);
    let mut sessions: Vec<(Session, u8)> = (0..10).map(|_| session(&client, VIP)).collect();
    let (failed, _) = failing_during(&client, &[VIP], || {
        for node in &nodes {
            let text = fs::read_to_string(node.dir.join("node.toml")).unwrap();
            let text = text.replace("[sync]\n", "[sync]\ninterface = \"side0\"\nid = 9\n");
            fs::write(node.dir.join("node.toml"), text).unwrap();
            let done = node.run("apply");
            assert!(done.contains("--mcast-interface side0 --syncid 9"), "{done}");
        }
    });
    assert_eq!(failed, 0);
    // Sent there, and known by the other node, which directs next.
    sessions.extend((0..10).map(|_| session(&client, VIP)));
    soon("sessions known", &nodes, || nodes[1].knows(&sessions) && nodes[1].metric("lvs_node_knows_all") == 1);
    soon("the director is heard", &nodes, || nodes[1].points_to(0) == to(11));
    nodes[1].tell("MASTER");
    nodes[0].tell("BACKUP");
    soon("the other director", &nodes, || nodes[1].directs() && !nodes[0].directs());
    assert_eq!(kept(&mut sessions), sessions.len());
    assert!(!nodes[1].log().contains("repair: "), "{}", nodes[1].log());
}

/// As the README says, with the commands.
#[test]
fn a_server_is_taken_out_with_commands() {
    let (client, mut nodes) = cluster_of(&[11, 12, 13], "");
    let mut sessions: Vec<(Session, u8)> = (0..9).map(|_| session(&client, VIP)).collect();
    let there = sessions.iter().filter(|(_, server)| *server == 13).count();
    let (fine, text) = nodes[2].try_run("release");
    let words = ["192.0.2.13:80 still gets new connections", "`lvs-node drain 192.0.2.13` here and on each other node"];
    assert!(!fine && words.iter().all(|word| text.contains(word)), "{text}");
    let before = nodes[0].table();

    let dry = nodes[0].run("drain 192.0.2.13 --dry-run");
    assert!(dry.contains("-e -t 192.0.2.254:80 -r 192.0.2.13:80 -g -w 0"), "{dry}");
    assert_eq!(nodes[0].table(), before);
    let (failed, all) = failing_during(&client, &[VIP, VIP6], || {
        for node in &nodes {
            for server in ["192.0.2.13", "2001:db8::13"] {
                let done = node.run(&format!("drain {server}"));
                assert!(done.contains("-g -w 0"), "{done}");
                assert!(done.contains(&format!("each node has a table of its own: `lvs-node drain {server}` on ")));
            }
        }
    });
    assert!(failed == 0 && all > 10, "{failed} of {all}");
    let (fine, text) = nodes[0].try_run("drain 192.0.2.13 --wait 1s");
    let left = format!("{there} sessions of 192.0.2.13 left after 1s");
    assert!(!fine && text.contains(&left) && there > 1, "{text}");
    assert_eq!(kept(&mut sessions), sessions.len());
    let drained = "drained  192.0.2.13:80 of tcp 192.0.2.254:80, weight 1 before";
    assert!(nodes[0].run("status").contains(&format!("{drained}\n")), "{}", nodes[0].run("status"));
    let status: Value = objects(&nodes[0].run("status --json"))[0]["groups"][0].clone();
    let expected = json!({ "service": "tcp 192.0.2.254:80", "address": "192.0.2.13:80", "weight_before": 1 });
    assert_eq!((&status["drained"][0], status["drained"].as_array().unwrap().len()), (&expected, 2));
    let undrained = nodes[0].run("undrain 192.0.2.13 --dry-run");
    assert!(undrained.contains("192.0.2.13:80 -g -w 1"), "{undrained}");

    // A health check puts it back: told, and left.
    nodes[0].ipvsadm("-e -t 192.0.2.254:80 -r 192.0.2.13:80 -g -w 3");
    let status = nodes[0].run("status");
    assert!(status.contains(&format!("{drained}, 3 now: another program has set it\n")), "{status}");
    nodes[0].run("set-weight 192.0.2.13 2");
    assert!(nodes[0].table().contains("192.0.2.13:80 -g -w 2"), "{}", nodes[0].table());
    let (fine, text) = nodes[0].try_run("drain 192.0.2.99");
    assert!(!fine && text.contains("192.0.2.99") && text.contains("192.0.2.11, 192.0.2.12, 192.0.2.13"), "{text}");
    let (fine, text) = nodes[0].try_run("set-weight 192.0.2.13 9999999999");
    assert!(!fine && text.contains("9999999999"), "{text}");

    // Its sessions end, and it is released, which no client notices. The watch does not undo it.
    nodes[0].run("drain 192.0.2.13");
    sessions.retain(|(_, server)| *server != 13);
    let done = nodes[0].run("drain 192.0.2.13 --wait 30s");
    assert!(done.contains("192.0.2.13: 0 sessions left"), "{done}");
    nodes[2].kill();
    let (failed, all) = failing_during(&client, &[VIP, VIP6], || drop(nodes[2].run("release")));
    assert!(failed == 0 && all > 5, "{failed} of {all}");
    assert_eq!(kept(&mut sessions), sessions.len());

    // And back.
    nodes[2].watch("");
    nodes[2].tell("BACKUP");
    soon("the third node", &nodes, || nodes[2].state().contains("role backup reached\n"));
    for node in &nodes[..2] {
        node.run("undrain 192.0.2.13");
        node.run("undrain 2001:db8::13");
    }
    assert_eq!(nodes[0].table(), before.replace("192.0.2.13:80 -g -w 1", "192.0.2.13:80 -g -w 2"));
    let answers: std::collections::BTreeSet<u8> = (0..12).map(|_| session(&client, VIP).1).collect();
    assert_eq!(answers, [11, 12, 13].into());
}

fn damages_are_repaired(nodes: &[Node]) {
    let arp_ignore = format!("/proc/sys/net/ipv4/conf/{INTERFACE}/arp_ignore");
    let rules = nodes[1].rules();
    for kind in ["TCP without SYN", OPENING, "all from"] {
        assert!(rules.contains(kind), "{rules}");
    }
    soon("the director", nodes, || nodes[1].points_to(0) == to(11));
    let saved = |node: &Node| {
        let mut lines: Vec<String> = node.ipvsadm("-Sn").lines().map(str::to_owned).collect();
        lines.sort();
        lines
    };
    let services = saved(&nodes[1]);
    let tc = |node: &Node, arguments: &str| drop(node.netns.run(|| run(&format!("tc {arguments}"))).unwrap());
    let setting = |node: &Node| node.netns.run(|| fs::read_to_string(&arp_ignore).unwrap()).unwrap();
    let is_whole = |node: &Node| {
        node.rules() == rules
            && saved(node) == services
            && node.ip("address show dev lo").contains(VIP)
            && setting(node) == "1\n"
            && node.ipvsadm("-Ln --daemon").contains("backup")
    };
    assert!(is_whole(&nodes[1]));
    let damages: [&dyn Fn(&Node); 3] = [
        // A VIP removed, a setting overwritten, a daemon stopped, all filters flushed, a service
        // of the marks removed.
        &|node| {
            node.ip(&format!("address del {VIP}/32 dev lo"));
            node.netns.run(|| fs::write(&arp_ignore, "0").unwrap()).unwrap();
            node.ipvsadm("--stop-daemon backup");
            tc(node, &format!("filter del dev {INTERFACE} ingress"));
            node.ipvsadm(&format!("-D -f {MARK}"));
        },
        // The qdisc removed, and the other service.
        &|node| {
            tc(node, &format!("qdisc del dev {INTERFACE} clsact"));
            node.ipvsadm(&format!("-D -f {} -6", MARK + 1));
        },
        // One rule, and the weight of the director.
        &|node| {
            tc(node, &format!("filter del dev {INTERFACE} ingress pref 306"));
            node.ipvsadm(&format!("-e -f {} -r 192.0.2.11:1 -g -w 0", MARK + 1));
        },
    ];
    for (number, damage) in damages.into_iter().enumerate() {
        damage(&nodes[1]);
        assert!(!is_whole(&nodes[1]));
        let took = soon("the repair", nodes, || is_whole(&nodes[1]));
        // Seen at one look, repaired at the next one, a second later. A look that takes long is
        // followed by a pause of ten seconds.
        println!("damage {number} repaired after {took:?}");
        assert!(took < Duration::from_secs(20), "{took:?}");
    }
}

/// Without metrics the table is read only where a glance shows a change.
#[test]
fn what_others_change_is_repaired_and_counted_without_metrics() {
    enter_switch();
    let client = host(1);
    let mut nodes: Vec<Node> = [11, 12].map(|number| Node::new(number, &file(&[11, 12], ""))).into();
    nodes.iter_mut().for_each(|node| node.metrics = false);
    start(&mut nodes);
    damages_are_repaired(&nodes);
    // Not by the program: it would take the time that the watches need.
    let known = |node: &Node| -> Value {
        let text = fs::read_to_string(node.dir.join("state/cluster")).unwrap_or_default();
        serde_json::from_str(&text).unwrap_or_default()
    };
    let mut sessions = Vec::new();
    for count in [10, 20] {
        sessions.extend((0..10).map(|_| session(&client, VIP)));
        soon("they are counted", &nodes, || {
            known(&nodes[0])["known"] == count && known(&nodes[1])["at_director"] == count
        });
        assert!(nodes[0].run("status").contains(&format!("\nknown    {count} connections\n")));
    }
    nodes[1].ipvsadm("-C");
    soon("the services again", &nodes, || nodes[1].table().matches("-w 1").count() == 4);
    // A health check's weight is another table than the director's.
    nodes[1].ipvsadm(&format!("-e -t {VIP}:80 -r 192.0.2.12:80 -g -w 3"));
    // The warning comes after half a minute.
    thread::sleep(Duration::from_secs(10));
    soon("the other table", &nodes, || nodes.iter().all(|node| node.log().contains("has other services")));
    assert_eq!(kept(&mut sessions), sessions.len());
}

#[test]
fn what_others_change_is_repaired() {
    let (_client, mut nodes) = cluster("");
    let before = nodes[1].metric("lvs_node_repairs_total");
    damages_are_repaired(&nodes);
    soon("repairs counted", &nodes, || nodes[1].metric("lvs_node_repairs_total") >= before + 3);
    assert_eq!(nodes[0].metric("lvs_node_repairs_total"), 0, "{}", nodes[0].log());

    // A health check takes servers out, on a director and on a backup: that stays, also where the
    // marks are repaired.
    for node in &nodes {
        node.ipvsadm(&format!("-e -t {VIP}:80 -r 192.0.2.12:80 -g -w 0"));
        node.ipvsadm(&format!("-e -t {VIP}:80 -r 192.0.2.11:80 -g -w 7"));
        node.ipvsadm(&format!("-d -t [{VIP6}]:80 -r [2001:db8::11]:80"));
        node.ipvsadm(&format!("-D -f {MARK}"));
    }
    let edited = nodes[0].table();
    assert!(edited.contains("-w 0") && edited.contains("-w 7") && !edited.contains("2001:db8::11"), "{edited}");
    soon("the marks again", &nodes, || {
        nodes.iter().all(|node| node.ipvsadm("-Sn").contains(&format!("-A -f {MARK} ")))
    });
    nodes[0].ipvsadm(&format!("-D -t [{VIP6}]:80"));
    // Another look, and another role.
    nodes[1].tell("MASTER");
    soon("two directors", &nodes, || nodes[1].directs());
    nodes[1].tell("BACKUP");
    soon("a backup again", &nodes, || !nodes[1].directs());
    thread::sleep(Duration::from_secs(3));
    assert_eq!(nodes[1].table(), edited);
    assert_eq!(nodes[0].table(), edited.split(&format!("-A -t [{VIP6}]")).next().unwrap());
    // Nothing of the file is left: all of it is loaded again.
    nodes[1].ipvsadm("-C");
    soon("the services again", &nodes, || {
        nodes[1].table().matches("-w 1").count() == 4 && nodes[1].points_to(0) == to(11)
    });
    // And stays as a health check then makes it.
    nodes[1].ipvsadm(&format!("-e -t {VIP}:80 -r 192.0.2.12:80 -g -w 0"));
    let edited = nodes[1].table();

    // Killed, it leaves all as it is; and what went wrong meanwhile is repaired by the next.
    let seen = |node: &Node| (node.table(), node.rules(), node.ip("-o address"), node.ipvsadm("-Ln --daemon"));
    let before = seen(&nodes[1]);
    nodes[1].kill();
    assert_eq!(seen(&nodes[1]), before);
    nodes[1].ip(&format!("address del {VIP6}/128 dev lo"));
    // systemd is told that it is ready, and then that it lives.
    let systemd = UnixDatagram::bind(nodes[1].dir.join("notify")).unwrap();
    systemd.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    nodes[1].watch("--json");
    for expected in ["READY=1\n", "WATCHDOG=1\n"] {
        let mut octets = [0; 64];
        let length = systemd.recv(&mut octets).unwrap();
        assert_eq!(str::from_utf8(&octets[..length]).unwrap(), expected);
    }
    soon("the VIP of the time without a watch", &nodes, || nodes[1].ip("address show dev lo").contains(VIP6));
    assert_eq!(nodes[1].table(), edited);

    // What is another program's it leaves, and says so, once.
    drop(systemd);
    nodes[1].ip("link add other0 type dummy");
    nodes[1].ip(&format!("address add {VIP}/32 dev other0"));
    soon("a warning", &nodes, || nodes[1].logged("warning").iter().any(|text| text.contains("other0")));
    thread::sleep(Duration::from_secs(3));
    let warnings = nodes[1].logged("warning");
    assert_eq!(warnings.iter().filter(|text| text.contains("other0")).count(), 1, "{}", nodes[1].log());
    assert!(nodes[1].logged("repair").contains(&format!("VIP: add {VIP6} to lo (scope host)")), "{}", nodes[1].log());
    assert!(nodes[1].ip("address show dev other0").contains(VIP));

    // Its interface goes: it lets go of what it holds, and does not go on about it.
    nodes[1].ip("link del other0");
    nodes[1].ip(&format!("link del {INTERFACE}"));
    nodes[1].tell("FAULT");
    soon("the fault", &nodes, || nodes[1].try_run("status").1.contains("role     fault, request"));
    let lines = nodes[1].log().lines().count();
    thread::sleep(Duration::from_secs(5));
    // A failure of the beacons, warnings, and that the director is not heard: each once.
    assert!(nodes[1].log().lines().count() <= lines + 4, "{}", nodes[1].log());
    assert!(nodes[1].metric("lvs_node_warnings") >= 1);
}

/// The kernel's notification is enough; no look at the whole is needed.
#[test]
fn a_vip_that_another_program_removes_is_back_at_once() {
    let (client, nodes) = cluster("");
    for (number, interface, vip) in
        [(0, INTERFACE, VIP), (0, "lo", VIP), (0, INTERFACE, VIP6), (1, "lo", VIP), (1, "lo", VIP6)]
    {
        let node = &nodes[number];
        let length = if vip == VIP { 32 } else { 128 };
        node.ip(&format!("address del {vip}/{length} dev {interface}"));
        let took = soon("the VIP", &nodes, || node.ip(&format!("address show dev {interface}")).contains(vip));
        println!("{vip} on {interface} of node {number} after {took:?}");
        let line = format!("repair: VIP: add {vip} to {interface}");
        soon("the line of the log", &nodes, || node.log().contains(&line));
    }
    assert!(session(&client, VIP).0.ask().is_some());
}

#[test]
fn the_director_is_followed_and_a_dead_one_is_not() {
    let (client, mut nodes) = cluster_of(&[11, 12, 13], "");
    soon("the first director", &nodes, || nodes[1..].iter().all(|node| node.points_to(0) == to(11)));
    nodes[2].kill();
    nodes[2].watch("--json");
    let mut sessions: Vec<(Session, u8)> = (0..9).flat_map(|_| [VIP, VIP6]).map(|vip| session(&client, vip)).collect();
    let (failed, all) = failing_during(&client, &[VIP, VIP6], || {
        // keepalived moves the VIP, and notifies afterwards.
        nodes[1].tell("MASTER");
        nodes[0].tell("BACKUP");
        let to_new = |node: &Node| node.points_to(0) == to(12);
        soon("the second director", &nodes, || to_new(&nodes[0]) && to_new(&nodes[2]));
    });
    assert_eq!(failed, 0, "of {all}");
    assert_eq!((kept(&mut sessions), nodes[1].points_to(0)), (sessions.len(), to(11)), "{}", nodes[1].log());
    soon("it is logged", &nodes, || nodes[2].logged("director") == ["192.0.2.12 directs"]);
    soon("directors counted", &nodes, || {
        nodes.iter().map(|node| node.metric("lvs_node_other_directors")).eq([1, 0, 1])
    });

    // It dies. Where packets that nobody knows were sent there, they are served by the node
    // itself.
    nodes[1].kill();
    ip("link set port12 down");
    let itself = |node: &Node, number| node.points_to(0) == to(number);
    soon("nobody points at the dead", &nodes, || itself(&nodes[0], 11) && itself(&nodes[2], 13));
    assert_eq!(nodes[2].logged("director").last().unwrap(), "the director is heard no more");
    nodes[2].tell("MASTER");
    soon("the third director", &nodes, || nodes[0].points_to(0) == to(13) && nodes[2].directs());
    assert_eq!(nodes[2].points_to(0), to(13));
    sessions.retain(|(_, server)| *server != 12);
    assert_eq!(kept(&mut sessions), sessions.len());
}

/// Without beacons the link says who directs (ARP for the VIP), and who is dead (no answer).
#[test]
fn a_director_that_does_not_answer_is_not_pointed_at() {
    enter_switch();
    let mut nodes: Vec<Node> = [11, 12].map(|number| Node::new(number, &file(&[11, 12], ""))).into();
    nodes[0].run("role master");
    nodes[1].watch("");
    nodes[1].tell("BACKUP");
    soon("the director", &nodes, || nodes[1].points_to(0) == to(11));
    ip("link set port11 down");
    nodes[1].ip(&format!("neigh flush dev {INTERFACE}"));
    let send = || {
        for address in ["192.0.2.11", "2001:db8::11"].map(|address| address.parse::<IpAddr>().unwrap()) {
            let from = if address.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
            let _ = nodes[1].netns.run(|| UdpSocket::bind(from).unwrap().send_to(b"?", (address, 9))).unwrap();
        }
    };
    send();
    soon("itself", &nodes, || nodes[1].points_to(0) == to(12));
    ip("link set port11 up");
    soon("the director again", &nodes, || {
        send();
        nodes[1].points_to(0) == to(11)
    });
}

/// Sends TCP packets without SYN of connections that no node knows.
fn stray(client: &Netns, count: u8) {
    use rustix::net::{AddressFamily, SendFlags, SocketType, ipproto, sendto, socket};
    let send = || {
        let socket = socket(AddressFamily::INET, SocketType::RAW, Some(ipproto::TCP)).unwrap();
        let [from, to] = [Ipv4Addr::new(192, 0, 2, 1), VIP.parse().unwrap()];
        for n in 0..count {
            let mut segment = [0_u8; 20];
            segment[..2].copy_from_slice(&(1000 + u16::from(n)).to_be_bytes());
            segment[2..4].copy_from_slice(&80_u16.to_be_bytes());
            // Its length in words, and ACK.
            (segment[12], segment[13]) = (5 << 4, 0x10);
            let words = from.octets().into_iter().chain(to.octets()).chain([0, 6, 0, 20]).chain(segment);
            let words: Vec<u8> = words.collect();
            let mut sum: u32 = words.chunks(2).map(|word| u32::from(word[0]) << 8 | u32::from(word[1])).sum();
            while sum > 0xffff {
                sum = (sum & 0xffff) + (sum >> 16);
            }
            segment[16..18].copy_from_slice(&(!(sum as u16)).to_be_bytes());
            sendto(&socket, &segment, SendFlags::empty(), &std::net::SocketAddrV4::new(to, 0)).unwrap();
        }
    };
    client.run(send).unwrap();
}

/// How many frames this host has sent.
fn frames(number: u8) -> u64 {
    let text = fs::read_to_string("/proc/thread-self/net/dev").unwrap();
    let line = text.lines().find_map(|line| line.trim().strip_prefix(&format!("port{number}:"))).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[test]
fn two_directors_at_once_do_no_harm() {
    let (client, mut nodes) = cluster("");
    let knows = |node: &Node| node.log().lines().filter(|line| line.starts_with("knows ")).count();
    let mut sessions: Vec<(Session, u8)> = Vec::new();
    for round in 0..2 {
        // VRRP is cut: the other becomes a director as well.
        nodes[1].tell("MASTER");
        soon("each points at the other", &nodes, || {
            nodes.iter().all(Node::directs) && nodes[0].points_to(0) == to(12) && nodes[1].points_to(0) == to(11)
        });
        soon("both are counted", &nodes, || nodes.iter().all(|node| node.metric("lvs_node_other_directors") == 1));
        // The client hears now the one and now the other, also in the middle of a handshake.
        let macs = [nodes[0].mac(), nodes[1].mac()];
        let (failed, all) = failing_during(&client, &[VIP, VIP6], || {
            for n in 0..12 {
                let mac = &macs[n % 2];
                for vip in [VIP, VIP6] {
                    let set = format!("neigh replace {vip} lladdr {mac} nud permanent dev {INTERFACE}");
                    client.run(|| ip(&set)).unwrap();
                }
            }
        });
        assert!(all > 10, "{all}");
        assert_eq!(failed, 0, "round {round}: of {all}");
        sessions.extend([VIP, VIP6].map(|vip| session(&client, vip)));
        let sent = || frames(11) + frames(12);
        let before = sent();
        stray(&client, 50);
        thread::sleep(Duration::from_millis(200));
        let sent = sent() - before;
        println!("50 packets of no connection: {sent} frames of the nodes");
        // Each is sent to the other director and reset there, and both tell the other node of it;
        // a loop would end after 64 frames.
        assert!((100..300).contains(&sent), "{sent}");
        client.run(|| ip(&format!("neigh flush all dev {INTERFACE} nud permanent"))).unwrap();
        if round == 1 {
            // The next watch finds out by itself who else directs.
            nodes[0].kill();
            nodes[0].watch("");
        }
        // It heals.
        let before = knows(&nodes[1]);
        nodes[1].tell("BACKUP");
        soon("one director", &nodes, || nodes[0].directs() && !nodes[1].directs());
        let (failed, all) = failing_during(&client, &[VIP, VIP6], || thread::sleep(Duration::from_millis(500)));
        assert_eq!(failed, 0, "round {round}, healed: of {all}");
        // Connections that the other has opened meanwhile were not sent to it.
        soon("the loser asks for it", &nodes, || {
            knows(&nodes[1]) > before && nodes[1].metric("lvs_node_knows_all") == 1
        });
        assert_eq!(kept(&mut sessions), sessions.len());
    }
}

/// A host whose interface is a bond that sends from its ports' MAC addresses.
fn bonded(number: u8) -> Netns {
    let netns = new_netns();
    keep(&netns);
    netns.run(|| ip(&format!("link add {INTERFACE} type bond mode balance-tlb miimon 100"))).unwrap();
    for slave in 0..2 {
        let port = format!("port{number}{slave}");
        cable(&port, &format!("02:00:00:00:1{slave}:{number:02x}"), &netns, &format!("slave{slave}"));
        ip(&format!("link set {port} master br0"));
        let enslave = || {
            ip(&format!("link set slave{slave} down address 02:00:00:00:2{slave}:{number:02x}"));
            ip(&format!("link set slave{slave} master {INTERFACE}"));
        };
        netns.run(enslave).unwrap();
    }
    let configure = || {
        ip(&format!("link set {INTERFACE} up"));
        ip(&format!("address add 192.0.2.{number}/24 dev {INTERFACE}"));
        ip(&format!("address add 2001:db8::{number}/64 dev {INTERFACE} nodad"));
    };
    netns.run(configure).unwrap();
    netns
}

#[test]
fn mac_addresses_of_peers_are_learned_and_followed() {
    enter_switch();
    let client = host(1);
    let numbers = [11, 12];
    let file = file(&numbers, "");
    let mut nodes = vec![Node::new(11, &file), Node::on(bonded(12), 12, &file)];
    nodes[0].watch("");
    nodes[0].tell("MASTER");
    soon("a director", &nodes, || nodes[0].directs());
    let ports = [0, 1].map(|slave| format!("all from 02:00:00:00:2{slave}:0c"));
    let knows_both = |node: &Node| ports.iter().all(|mac| node.rules().contains(mac));
    assert!(!knows_both(&nodes[0]), "{}", nodes[0].rules());
    let repairs = nodes[0].metric("lvs_node_repairs_total");
    // No packet from the second port is needed for that, and no look.
    nodes[1].watch("");
    nodes[1].tell("BACKUP");
    let waited = soon("the bond's MAC addresses", &nodes, || knows_both(&nodes[0]));
    println!("rules for the bond's ports after {waited:?}");
    assert_eq!(nodes[0].metric("lvs_node_repairs_total"), repairs, "{}", nodes[0].log());
    assert!(nodes[0].run("status").contains("02:00:00:00:21:0c"), "{}", nodes[0].run("status"));
    // With the next look at the whole.
    soon("both in the metrics", &nodes, || nodes[0].metric("lvs_node_peers") == 2);
    // It directs, and sends from both.
    nodes[1].tell("MASTER");
    nodes[0].tell("BACKUP");
    soon("the bond directs", &nodes, || nodes[1].directs() && nodes[0].points_to(0) == to(12));
    let servers: Vec<u8> = (0..20).map(|n| session(&client, [VIP, VIP6][n % 2]).1).collect();
    assert_eq!(numbers.map(|number| servers.iter().filter(|server| **server == number).count()), [10, 10]);

    // The director gets another MAC address: an unknown one at first.
    let announce = || {
        for setting in ["ipv4/conf/all/arp_notify", "ipv6/conf/all/ndisc_notify"] {
            fs::write(format!("/proc/sys/net/{setting}"), "1").unwrap();
        }
    };
    nodes.iter().for_each(|node| node.netns.run(announce).unwrap());
    nodes[1].tell("BACKUP");
    nodes[0].tell("MASTER");
    // The bond pointed at that node before it was the director itself, so that alone does not show
    // that its role has ended.
    soon("the other directs alone", &nodes, || {
        nodes[0].directs() && !nodes[1].directs() && nodes[1].points_to(0) == to(11)
    });
    let mut sessions: Vec<(Session, u8)> = (0..9).flat_map(|_| [VIP, VIP6]).map(|vip| session(&client, vip)).collect();
    soon("synchronised", &nodes, || nodes[1].knows(&sessions));
    for mac in ["02:00:00:00:03:01", "02:00:00:00:03:02"] {
        let (failed, all) = failing_during(&client, &[VIP, VIP6], || {
            nodes[0].ip(&format!("link set {INTERFACE} address {mac}"));
            soon("the new MAC address", &nodes, || nodes[1].rules().contains(&format!("all from {mac}")));
        });
        assert_eq!(failed, 0, "{mac}: of {all}");
    }
    assert_eq!(kept(&mut sessions), sessions.len());
    assert!(nodes.iter().all(|node| node.metric("lvs_node_failures_total") == 0), "{}", nodes[1].log());
}

/// Datagrams as another version may send them.
#[test]
fn other_versions_are_understood() {
    enter_switch();
    let other = host(13);
    other.run(|| ip(&format!("route add 224.0.0.0/4 dev {INTERFACE}"))).unwrap();
    let mut nodes: Vec<Node> = [11, 12].map(|number| Node::new(number, &file(&[11, 12, 13], ""))).into();
    for node in &mut nodes {
        node.watch("--json");
        node.tell("BACKUP");
    }
    let socket = other.run(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 8847)).unwrap()).unwrap();
    socket.join_multicast_v4(&Ipv4Addr::new(224, 0, 0, 81), &Ipv4Addr::new(192, 0, 2, 13)).unwrap();
    socket.set_nonblocking(true).unwrap();
    let send = |text: &str| {
        socket.send_to(text.as_bytes(), ("224.0.0.81", 8847)).unwrap();
    };
    // A director of version 0.1.
    let asked = || {
        let mut octets = [0; 2000];
        let mut asked = 0;
        while let Ok(length) = socket.recv(&mut octets) {
            let text = str::from_utf8(&octets[..length]).unwrap();
            asked += usize::from(text.starts_with("lvs-dr-beacon-1 ") && text.contains(" wants"));
        }
        asked
    };
    soon("an old director", &nodes, || {
        send("lvs-dr-beacon-1 254 7 master 100 1 100 -");
        nodes.iter().all(|node| node.metric("lvs_node_other_directors") == 1)
    });
    assert!(nodes.iter().all(|node| node.metric("lvs_node_connections_at_director") == 100));
    // Who asks is an old node's own format too: eight words.
    soon("it is asked", &nodes, || asked() > 0);
    send("lvs-dr-beacon-1 254 7 master 0 2 0 -");
    soon("all is known", &nodes, || nodes.iter().all(|node| node.logged("learned") == ["knows 0 of 0 connections"]));
    // Who directs it does not say, and nothing changes.
    assert!(nodes.iter().all(|node| node.logged("director").is_empty()));
    // Another cluster's, and what nobody understands.
    let presence = "lvs-dr-node-1 id=254 node=8 address=192.0.2.13 mac=02:00:00:00:00:77 directs=";
    send(&presence.replace("254", "253"));
    send(&presence.replace("node-1", "node-9"));
    send(&presence.replace("00:77", "00:xx"));
    send(&"x".repeat(1400));
    thread::sleep(Duration::from_secs(1));
    assert!(nodes.iter().all(|node| node.logged("director").is_empty()));
    // One of a version to come, with words that this one does not know.
    let to_come = format!("{presence} quorum=3 address=2001:db8::13 experimental mood=good=very");
    soon("a director of a later version", &nodes, || {
        send(&to_come);
        nodes.iter().all(|node| node.points_to(0) == to(13) && node.rules().contains("all from 02:00:00:00:00:77"))
    });
    assert!(nodes.iter().all(|node| node.logged("director") == ["192.0.2.13 directs"]));
    assert!(nodes.iter().all(|node| node.metric("lvs_node_failures_total") == 0), "{}", nodes[0].log());
}

/// Each group has a director of its own, which the FIFO names.
#[test]
fn groups_are_watched_side_by_side() {
    enter_switch();
    let client = host(1);
    const MAIL: &str = "192.0.2.253";
    let group = |name: &str, vip: &str| format!("[[group]]\nname = \"{name}\"\nvips = [\"{vip}\"]\n");
    let numbers = [11, 12];
    let file = format!(
        "interface = \"{INTERFACE}\"\nannounce_again = 0.0\n{}{}{}{}",
        group("my web", VIP),
        group("mail", MAIL),
        service(VIP, &numbers),
        service(MAIL, &numbers)
    );
    let mut nodes: Vec<Node> = numbers.map(|number| Node::new(number, &file)).into();
    for (node, [web, mail]) in nodes.iter_mut().zip([["MASTER", "BACKUP"], ["BACKUP", "MASTER"]]) {
        node.watch("--json");
        node.tell_of("my web", web);
        node.tell_of("mail", mail);
        node.tell_of("another", "MASTER");
    }
    let on =
        |node: &Node, vip: &str| node.ip(&format!("-o address show dev {INTERFACE}")).contains(&format!(" {vip}/"));
    let is = |node: &Node, group: &str, role: &str| {
        node.metric(&format!("lvs_node_role{{group=\"{group}\",role=\"{role}\",fence=\"marks\"}}")) == 1
            && node.metric(&format!("lvs_node_role_reached{{group=\"{group}\"}}")) == 1
            && node.metric(&format!("lvs_node_marks_equal{{group=\"{group}\"}}")) == 1
            && node.metric(&format!("lvs_node_missing_steps{{group=\"{group}\"}}")) == 0
    };
    let settled = |nodes: &[Node], web: [&str; 2], mail: [&str; 2]| {
        (0..2).all(|n| is(&nodes[n], "my web", web[n]) && is(&nodes[n], "mail", mail[n]))
    };
    soon("two directors", &nodes, || settled(&nodes, ["master", "backup"], ["backup", "master"]));
    assert!(on(&nodes[0], VIP) && !on(&nodes[0], MAIL) && on(&nodes[1], MAIL) && !on(&nodes[1], VIP));
    // The group's mark leads to the group's director.
    let v4 = |number| vec![format!("192.0.2.{number}:1")];
    soon("each group's director", &nodes, || {
        [&nodes[0], &nodes[1]].map(|node| [0, 1].map(|group| node.points_to(group)))
            == [[v4(11), v4(12)], [v4(11), v4(12)]]
    });
    let mut sessions: Vec<(Session, u8)> = (0..6).flat_map(|_| [VIP, MAIL]).map(|vip| session(&client, vip)).collect();
    for vip in [0, 1] {
        let servers = |number| sessions.iter().skip(vip).step_by(2).filter(|(_, server)| *server == number).count();
        assert_eq!(numbers.map(servers), [3, 3]);
    }
    soon("the other director", &nodes, || nodes.iter().all(|node| node.metric("lvs_node_other_directors") == 1));
    let text = fs::read_to_string(nodes[0].metrics_file()).unwrap();
    for line in [
        "# TYPE lvs_node_role gauge",
        "lvs_node_peers{group=\"mail\"} 1",
        "lvs_node_hidden{group=\"my web\"} 1",
        "lvs_node_other_directors 1",
        "lvs_node_failures_total 0",
        "lvs_destination_weight{local_address=\"192.0.2.254\",local_port=\"80\",remote_address=\"192.0.2.12\",remote_port=\"80\",proto=\"TCP\",local_mark=\"\"} 1",
    ] {
        assert!(text.lines().any(|found| found == line), "{line}: {text}");
    }
    let types: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")).collect();
    let families: std::collections::BTreeSet<&str> = types.iter().map(|line| line.split(' ').next().unwrap()).collect();
    assert_eq!(types.len(), families.len(), "{text}");
    assert!(!text.contains(&MARK.to_string()), "{text}");

    // One moves; the other is not touched.
    let steps = |node: &Node| node.logged("step");
    let before = steps(&nodes[0]);
    let web =
        |node: &Node| node.run("status").split("group ").find(|part| part.starts_with("my web")).unwrap().to_owned();
    let request = |node: &Node| web(node).lines().find(|line| line.starts_with("role")).unwrap().to_owned();
    let of_web = request(&nodes[0]);
    nodes[0].tell_of("mail", "MASTER");
    nodes[1].tell_of("mail", "BACKUP");
    soon("one director of both", &nodes, || settled(&nodes, ["master", "backup"], ["master", "backup"]));
    assert!(on(&nodes[0], VIP) && on(&nodes[0], MAIL) && !on(&nodes[1], MAIL));
    assert_eq!(kept(&mut sessions), sessions.len());
    assert_eq!(request(&nodes[0]), of_web);
    assert!(steps(&nodes[0])[before.len()..].iter().all(|step| !step.contains(VIP)), "{}", nodes[0].log());
}

/// A node whose VIPs are keepalived's, and the file that keepalived watches.
fn of_keepalived(number: u8) -> (Node, PathBuf) {
    let node = Node::new(number, &file(&[11, 12], ""));
    let track = node.dir.join("track");
    let text = fs::read_to_string(node.dir.join("node.toml")).unwrap();
    let text = format!("vip_owner = \"keepalived\"\n{text}[handover]\nfile = {track:?}\n");
    fs::write(node.dir.join("node.toml"), text).unwrap();
    (node, track)
}

/// After a boot of all nodes one of them has to direct although it has learned nothing. If it
/// stayed out of elections, the next nodes that take part would take over from it, one after the
/// other.
#[test]
fn a_node_that_directs_takes_part_in_elections_at_once() {
    enter_switch();
    let (mut node, track) = of_keepalived(11);
    // Looks at so many take longer, and are done more rarely.
    let others: String = (1..4000).map(|mark| format!("-A -f {mark} -s rr\n")).collect();
    node.netns.run(|| feed("ipvsadm -R", &others)).unwrap();
    node.watch("");
    let nodes = [node];
    let tracked = || fs::read_to_string(&track).unwrap_or_default().trim().to_owned();
    soon("it lets others go first", &nodes, || tracked() == "1");
    soon("the first look", &nodes, || nodes[0].metrics_file().exists());
    nodes[0].tell("MASTER");
    soon("it directs", &nodes, || nodes[0].directs());
    let took = soon("it takes part", &nodes, || tracked() == "0");
    assert!(took < Duration::from_secs(2), "{took:?}: {}", nodes[0].log());
}

/// A node of keepalived's, which does what its files say.
#[test]
fn elections_and_handovers_that_are_given_up() {
    let (client, mut nodes) = cluster("");
    let mut session = Session::open(&client, VIP).unwrap();
    assert!(session.ask().is_some());
    let (mut late, track) = of_keepalived(13);
    let tracked = || fs::read_to_string(&track).unwrap_or_default().trim().to_owned();
    // After a boot it has no state directory, and knows nothing.
    assert!(!late.dir.join("state").exists());
    late.watch("");
    nodes.push(late);
    soon("it lets others go first", &nodes, || tracked() == "1");
    nodes[2].tell("BACKUP");
    soon("it takes part", &nodes, || tracked() == "0" && nodes[2].metric("lvs_node_knows_all") == 1);
    let said = |text: &str| nodes[2].log().find(text).unwrap_or_else(|| panic!("{text}: {}", nodes[2].log()));
    assert!(said("takes no part") < said("knows ") && said("knows ") < said("takes part"));

    // It directs. One that has the VIP keeps it, whatever its watch knows.
    nodes[0].tell("BACKUP");
    for vip in [format!("{VIP}/32"), format!("{VIP6}/128")] {
        nodes[2].ip(&format!("address add {vip} dev {INTERFACE}"));
    }
    nodes[2].tell("MASTER");
    soon("the late node directs", &nodes, || nodes[2].directs());
    nodes[2].kill();
    let state = nodes[2].dir.join("state/state");
    let reached = without_checksum(&fs::read_to_string(&state).unwrap());
    fs::write(&state, reached.replace("role master reached", "role master under-way")).unwrap();
    assert_ne!(fs::read_to_string(&state).unwrap(), reached);
    nodes[2].watch("");
    let master = || nodes[2].try_run("status").1.contains("role     master, request");
    soon("it is master again", &nodes, || master() && nodes[2].directs());
    assert_eq!(tracked(), "0", "{}", nodes[2].log());

    // Where keepalived cannot be told, nothing is done.
    fs::remove_file(&track).unwrap();
    fs::create_dir(&track).unwrap();
    let (done, said) = nodes[2].try_run("handover --limit 1");
    assert!(!done && said.contains("cannot write"), "{said}");
    assert!(nodes[2].directs());
    fs::remove_dir(&track).unwrap();
    // No node takes over.
    let (done, said) = nodes[2].try_run("handover --limit 1");
    assert!(!done && said.contains("no other node took over"), "{said}");
    assert!(nodes[2].directs() && tracked() == "0", "{said}");
    // Killed half-way, it has changed nothing of the node. keepalived still gives way, until that
    // is ended.
    let mut handover = nodes[2].command("handover --limit 300");
    let mut handover = nodes[2].netns.run(|| handover.spawn().unwrap()).unwrap();
    soon("the handover", &nodes, || tracked() == "1");
    handover.kill().and_then(|()| handover.wait()).unwrap();
    assert!(nodes[2].directs() && session.ask().is_some());
    nodes[2].run("handover --end");
    assert_eq!(tracked(), "0");
    // Another node takes over.
    let mut handover = nodes[2].command("handover --limit 20");
    let mut handover = nodes[2].netns.run(|| handover.spawn().unwrap()).unwrap();
    soon("the last handover", &nodes, || tracked() == "1");
    nodes[1].tell("MASTER");
    for vip in [format!("{VIP}/32"), format!("{VIP6}/128")] {
        nodes[2].ip(&format!("address del {vip} dev {INTERFACE}"));
    }
    nodes[2].tell("BACKUP");
    assert!(handover.wait().unwrap().success());
    assert!(nodes[1].directs() && session.ask().is_some() && tracked() == "1");
    // On a node that does not direct an election only passes it by.
    assert!(nodes[2].run("handover").contains("another node directs already"));
}

/// The simulation replays it. A change of role, a VIP that another program removes, a flushed
/// table and a dead director are in it; copies for `src/node/simulation/recorded` are left in the
/// target directory.
#[test]
fn a_record_holds_what_happened_and_what_was_decided() {
    enter_switch();
    let client = host(1);
    let mut nodes: Vec<Node> = [11, 12].map(|number| Node::new(number, &file(&[11, 12], ""))).into();
    let record = |node: &Node| node.dir.join("record");
    for (node, state) in nodes.iter_mut().zip(["MASTER", "BACKUP"]) {
        let options = format!("--record {}", record(node).display());
        node.watch(&options);
        node.tell(state);
    }
    soon("a director", &nodes, || nodes[0].directs() && nodes[1].points_to(0) == to(11));
    let mut sessions: Vec<(Session, u8)> = (0..10).map(|_| session(&client, VIP)).collect();
    nodes[0].ip(&format!("address del {VIP}/32 dev {INTERFACE}"));
    nodes[1].ipvsadm("-C");
    soon("repaired", &nodes, || nodes[1].log().contains("repair: ") && nodes[0].log().contains("repair: "));
    nodes[0].tell("BACKUP");
    nodes[1].tell("MASTER");
    soon("another director", &nodes, || nodes[1].directs() && nodes[0].points_to(0) == to(12));
    assert_eq!(kept(&mut sessions), sessions.len());
    nodes[1].kill();
    soon("it is heard no more", &nodes, || nodes[0].log().contains("heard no more"));
    // The file is there already: the node is supervised all the same.
    let again = format!("--record {}", record(&nodes[1]).display());
    nodes[1].watch(&again);
    soon("it says so", &nodes, || nodes[1].log().contains("/record: File exists"));
    soon("it is supervised", &nodes, || nodes[0].points_to(0) == to(12));
    nodes.iter_mut().for_each(Node::kill);

    for (node, role) in nodes.iter().zip(["backup", "master"]) {
        use std::os::unix::fs::PermissionsExt;
        assert_eq!(fs::metadata(record(node)).unwrap().permissions().mode() & 0o777, 0o600);
        let text = fs::read_to_string(record(node)).unwrap();
        let entries: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!((&entries[0]["start"]["version"], &entries[0]["start"]["sync_id"]), (&json!(1), &json!(254)));
        let notified: Vec<&Value> =
            entries.iter().filter(|entry| !entry["event"]["event"]["notified"].is_null()).collect();
        assert_eq!(notified.len(), 2, "{text}");
        assert_eq!(notified[1]["event"]["event"]["notified"], json!([0, role]));
        assert!(notified[1]["event"]["actions"].to_string().contains("Request(0, Role("), "{}", notified[1]);
        let times: Vec<u64> = entries[1..].iter().map(|entry| entry["event"]["at"].as_u64().unwrap()).collect();
        assert!(times.is_sorted() && times.last() > Some(&1_000_000_000), "{times:?}");
        let copy = format!("{}/record-{role}.jsonl", env!("CARGO_TARGET_TMPDIR"));
        fs::write(copy, text).unwrap();
    }
}
