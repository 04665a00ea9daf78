//! `lvs-node watch`: late nodes learn, drift is repaired, two directors do no harm, and being killed leaves nothing behind.

use std::fs;
use std::io::Write;
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::process::{Child, Command};
use std::thread;
use std::time::{Duration, Instant};

use lvs_dr::Netns;
use serde_json::Value;

use crate::cli::lvs_node;
use crate::lab::{cable, ip, ipvsadm, run};
use crate::lan::{INTERFACE, Session, VIP, VIP6, enter_switch, host, serve};
use crate::node::new_path;

/// A host with a file of its own for `lvs-node`.
struct Node {
    netns: Netns,
    dir: PathBuf,
    watch: Option<Child>,
}

impl Node {
    /// `sync`: its settings, as in the node's file.
    fn new(number: u8, sync: &str) -> Self {
        let netns = host(number);
        serve(&netns, number);
        let dir = new_path();
        fs::create_dir_all(&dir).unwrap();
        let service = |vip: &str, network: &str| {
            let real = |n| format!("{{ address = \"{network}{n}{}:80\" }}", if vip.contains(':') { "]" } else { "" });
            let vip = if vip.contains(':') { format!("[{vip}]") } else { vip.to_owned() };
            let destinations = [11, 12].map(real).join(", ");
            format!("[[service]]\nlisten = \"tcp {vip}:80\"\nscheduler = \"wrr\"\ndestinations = [{destinations}]\n")
        };
        let file = format!(
            "interface = \"{INTERFACE}\"\nvips = [\"{VIP}\", \"{VIP6}\"]\nfence = \"quiesce\"\nstate_dir = {:?}\nannounce_again = 0.0\n{}{}{}",
            dir.join("state"),
            format_args!("[sync]\n{sync}\n"),
            service(VIP, "192.0.2."),
            service(VIP6, "[2001:db8::"),
        );
        fs::write(dir.join("node.toml"), file).unwrap();
        run(&format!("mkfifo {}", dir.join("fifo").display()));
        Node { netns, dir, watch: None }
    }

    fn command(&self, arguments: &str) -> Command {
        let mut command = Command::new(lvs_node());
        command.arg("--config").arg(self.dir.join("node.toml")).args(arguments.split_whitespace());
        command
    }

    fn run(&self, arguments: &str) -> String {
        let (success, text) = self.try_run(arguments);
        assert!(success, "{arguments}: {text}");
        text
    }

    fn try_run(&self, arguments: &str) -> (bool, String) {
        let output = self.netns.run(|| self.command(arguments).output().unwrap()).unwrap();
        let text = [output.stdout, output.stderr].map(|octets| String::from_utf8_lossy(&octets).into_owned()).concat();
        (output.status.success(), text)
    }

    fn watch(&mut self, more: &str) {
        let log = fs::File::create(self.dir.join("log")).unwrap();
        let arguments = format!(
            "watch --fifo {} --metrics {} {more}",
            self.dir.join("fifo").display(),
            self.metrics_file().display()
        );
        let mut command = self.command(&arguments);
        command.env("NOTIFY_SOCKET", self.dir.join("notify"));
        let start = || command.stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap();
        self.watch = Some(self.netns.run(start).unwrap());
    }

    fn kill(&mut self) {
        if let Some(mut watch) = self.watch.take() {
            watch.kill().and_then(|()| watch.wait()).unwrap();
        }
    }

    /// As keepalived would.
    fn tell(&self, state: &str) {
        let mut fifo = fs::OpenOptions::new().write(true).open(self.dir.join("fifo")).unwrap();
        fifo.write_all(format!("INSTANCE \"web\" {state} 100\n").as_bytes()).unwrap();
    }

    fn log(&self) -> String {
        fs::read_to_string(self.dir.join("log")).unwrap()
    }

    fn metrics_file(&self) -> PathBuf {
        self.dir.join("metrics.prom")
    }

    fn metric(&self, name: &str) -> u64 {
        let text = fs::read_to_string(self.metrics_file()).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.map_or(0, |value| value.parse().unwrap())
    }

    /// The table as ipvsadm saves it, in the order of ours.
    fn table(&self) -> String {
        let saved = self.netns.run(|| ipvsadm("-Sn")).unwrap();
        saved.parse::<lvs_dr::ipvs::Table>().unwrap().to_string()
    }

    /// Whether it schedules to other servers.
    fn is_live(&self) -> bool {
        let table = self.table();
        !table.is_empty() && !table.contains("-w 0")
    }

    fn known(&self) -> usize {
        let rows = self.netns.run(|| fs::read_to_string("/proc/thread-self/net/ip_vs_conn").unwrap()).unwrap();
        rows.lines().filter(|row| row.contains("ESTABLISHED")).count()
    }

    fn ip(&self, arguments: &str) -> String {
        self.netns.run(|| ip(arguments)).unwrap()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.kill();
        let _ = fs::remove_dir_all(&self.dir);
    }
}

fn soon(what: &str, nodes: &[Node], mut is: impl FnMut() -> bool) -> Duration {
    let start = Instant::now();
    while !is() {
        let logs: Vec<String> = nodes.iter().map(Node::log).collect();
        assert!(start.elapsed() < Duration::from_secs(30), "{what} did not come about:\n{}", logs.join("\n---\n"));
        thread::sleep(Duration::from_millis(50));
    }
    start.elapsed()
}

fn cluster(sync: &str) -> (Netns, Vec<Node>) {
    enter_switch();
    let client = host(1);
    let mut nodes: Vec<Node> = [11, 12].map(|number| Node::new(number, sync)).into();
    if sync.contains("side0") {
        connect(&nodes);
    }
    for (node, state) in nodes.iter_mut().zip(["MASTER", "BACKUP"]) {
        node.watch("");
        node.tell(state);
    }
    soon("a director", &nodes, || nodes[0].is_live() && nodes[1].run("status").contains("role     backup"));
    (client, nodes)
}

/// By a link of their own.
fn connect(nodes: &[Node]) {
    nodes[0].netns.run(|| cable("side0", "02:00:00:00:02:11", &nodes[1].netns, "side0")).unwrap();
    nodes[0].ip("address add 198.51.100.11/24 dev side0");
    nodes[1].ip("address add 198.51.100.12/24 dev side0");
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
    // Made before the third node is there: none of it would ever be told again.
    let mut sessions: Vec<(Session, u8)> = (0..20)
        .flat_map(|_| [VIP, VIP6])
        .map(|vip| {
            let mut session = Session::open(&client, vip).unwrap();
            let server = session.ask().unwrap();
            (session, server)
        })
        .filter(|(_, server)| *server == 12)
        .collect();
    assert!(sessions.len() > 5, "{}", sessions.len());
    let mut late = Node::new(13, sync);
    late.watch("");
    late.tell("BACKUP");
    nodes.push(late);
    let known = nodes[0].known();
    soon("all sessions known", &nodes, || nodes[2].known() >= known && nodes[2].metric("lvs_node_knows_all") == 1);
    assert!(nodes[2].log().contains("knows ") && nodes[0].log().contains("told of "), "{}", nodes[2].log());
    assert!(nodes[2].run("status").contains("of the director's"), "{}", nodes[2].run("status"));
    assert!(nodes[2].run("resync").starts_with("knows "));
    assert!(nodes[0].run("resync").starts_with("told of "));
    // The director dies, and the late one takes over.
    ip("link set port11 down");
    nodes[2].tell("MASTER");
    soon("the late node directs", &nodes, || nodes[2].is_live());
    let kept = sessions.iter_mut().filter_map(|(session, server)| (session.ask()? == *server).then_some(())).count();
    assert_eq!(kept, sessions.len());
}

#[test]
fn what_others_change_is_repaired() {
    let (_client, mut nodes) = cluster("");
    let quiesced = nodes[1].table();
    let arp_ignore = format!("/proc/sys/net/ipv4/conf/{INTERFACE}/arp_ignore");
    // A VIP deleted, a setting overwritten, a weight put back, a daemon stopped.
    let before = nodes[1].metric("lvs_node_repairs_total");
    nodes[1].ip(&format!("address del {VIP}/32 dev lo"));
    soon("the VIP again", &nodes, || nodes[1].ip("address show dev lo").contains(VIP));
    nodes[1].netns.run(|| fs::write(&arp_ignore, "0").unwrap()).unwrap();
    soon("the setting again", &nodes, || {
        nodes[1].netns.run(|| fs::read_to_string(&arp_ignore).unwrap()).unwrap() == "1\n"
    });
    nodes[1].netns.run(|| ipvsadm(&format!("-e -t {VIP}:80 -r 192.0.2.11:80 -g -w 1"))).unwrap();
    soon("the fence again", &nodes, || nodes[1].table() == quiesced);
    nodes[1].netns.run(|| ipvsadm("--stop-daemon backup")).unwrap();
    soon("the daemon again", &nodes, || nodes[1].netns.run(|| ipvsadm("-Ln --daemon")).unwrap().contains("backup"));
    soon("four repairs counted", &nodes, || nodes[1].metric("lvs_node_repairs_total") >= before + 4);
    assert_eq!(nodes[0].metric("lvs_node_repairs_total"), 0, "{}", nodes[0].log());

    // A health check takes a server out on the director: that stays, and is kept when a service has to come back.
    let director = |command: &str| nodes[0].netns.run(|| ipvsadm(command)).unwrap();
    director(&format!("-e -t {VIP}:80 -r 192.0.2.12:80 -g -w 0"));
    director(&format!("-D -t [{VIP6}]:80"));
    soon("the service again", &nodes, || nodes[0].table().contains("[2001:db8::12]:80 -g -w 1"));
    assert!(nodes[0].table().contains("192.0.2.12:80 -g -w 0"), "{}", nodes[0].table());

    // Killed, it leaves all as it is; and what went wrong meanwhile is repaired by the next.
    let seen = |node: &Node| (node.table(), node.ip("-o address"), node.netns.run(|| ipvsadm("-Ln --daemon")).unwrap());
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

    // What is not its own it leaves, and says so, once.
    drop(systemd);
    nodes[1].ip("link add other0 type dummy");
    nodes[1].ip(&format!("address add {VIP}/32 dev other0"));
    let logged = |event: &str| -> Vec<String> {
        let log = nodes[1].log();
        let lines = log.lines().filter_map(|line| serde_json::from_str(line).ok());
        let told = lines.filter(|line: &Value| line["event"] == event && line["time"].as_f64() > Some(1.7e9));
        told.map(|line| line["text"].as_str().unwrap().to_owned()).collect()
    };
    soon("a warning", &nodes, || logged("warning").iter().any(|text| text.contains("other0")));
    thread::sleep(Duration::from_secs(3));
    assert_eq!(logged("warning").len(), 1, "{}", nodes[1].log());
    assert!(logged("repair").contains(&format!("VIP: add {VIP6} to lo (scope host)")), "{}", nodes[1].log());
    assert!(nodes[1].ip("address show dev other0").contains(VIP));

    // Its interface goes: it lets go of what it holds, and does not go on about it.
    nodes[1].ip("link del other0");
    nodes[1].ip(&format!("link del {INTERFACE}"));
    nodes[1].tell("FAULT");
    soon("the fault", &nodes, || nodes[1].try_run("status").1.contains("role     fault, request"));
    let lines = nodes[1].log().lines().count();
    thread::sleep(Duration::from_secs(5));
    assert!(nodes[1].log().lines().count() <= lines + 2, "{}", nodes[1].log());
    assert_eq!(nodes[1].metric("lvs_node_warnings"), 1);
}

#[test]
fn of_two_directors_one_schedules_to_itself() {
    let (client, mut nodes) = cluster("");
    let knows = |node: &Node| node.log().lines().filter(|line| line.starts_with("knows ")).count();
    for round in 0..2 {
        // VRRP is cut: the other becomes a director as well.
        nodes[1].tell("MASTER");
        soon("two directors of which one is live", &nodes, || {
            let roles = nodes.iter().all(|node| node.run("status").contains("role     master"));
            roles && nodes.iter().filter(|node| node.run("status").contains("beside   another")).count() == 1
        });
        assert_eq!(nodes.iter().filter(|node| node.is_live()).count(), 1);
        let answered = |vip| Session::open(&client, vip).is_some_and(|mut session| session.ask().is_some());
        // The client hears now the one and now the other, also in the middle of a handshake.
        let count = |of| (0..of).filter(|n| answered([VIP, VIP6][n % 2])).count();
        assert!(count(20) >= 14, "round {round}");
        if round == 1 {
            // The next one finds out by itself whether it directs beside another.
            nodes[0].kill();
            nodes[0].watch("");
        }
        // It heals.
        let before = knows(&nodes[1]);
        nodes[1].tell("BACKUP");
        soon("one director", &nodes, || nodes[0].is_live() && !nodes[1].is_live());
        soon("nobody beside it", &nodes, || !nodes[0].run("status").contains("beside   another"));
        assert!(count(10) >= 9, "round {round}, healed");
        // What the other has had meanwhile it was not told of.
        soon("the loser asks for it", &nodes, || {
            knows(&nodes[1]) > before && nodes[1].metric("lvs_node_knows_all") == 1
        });
    }
}

/// A node of keepalived's, which does what its files say.
#[test]
fn elections_and_handovers_that_are_given_up() {
    let (client, mut nodes) = cluster("");
    let mut session = Session::open(&client, VIP).unwrap();
    assert!(session.ask().is_some());
    let mut late = Node::new(13, "");
    let track = late.dir.join("track");
    let file = fs::read_to_string(late.dir.join("node.toml")).unwrap();
    let file = format!("vip_owner = \"keepalived\"\n{file}[handover]\nfile = {track:?}\n");
    fs::write(late.dir.join("node.toml"), file).unwrap();
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
    soon("the late node directs", &nodes, || nodes[2].is_live());
    nodes[2].kill();
    let state = nodes[2].dir.join("state/state");
    let reached = fs::read_to_string(&state).unwrap();
    fs::write(&state, reached.replace("role master reached", "role master under-way")).unwrap();
    assert_ne!(fs::read_to_string(&state).unwrap(), reached);
    nodes[2].watch("");
    let master = || nodes[2].try_run("status").1.contains("role     master, request");
    soon("it is master again", &nodes, || master() && nodes[2].is_live());
    assert_eq!(tracked(), "0", "{}", nodes[2].log());

    // Where keepalived cannot be told, nothing is prepared.
    fs::remove_file(&track).unwrap();
    fs::create_dir(&track).unwrap();
    let (done, said) = nodes[2].try_run("handover --limit 1");
    assert!(!done && said.contains("cannot write"), "{said}");
    assert!(nodes[2].is_live());
    fs::remove_dir(&track).unwrap();
    // Nobody takes over.
    let (done, said) = nodes[2].try_run("handover --limit 1");
    assert!(!done && said.contains("no other node took over"), "{said}");
    assert!(nodes[2].is_live() && tracked() == "0", "{said}");
    // Killed half-way, nobody is left to call it off.
    let mut handover = nodes[2].command("handover --limit 300");
    let mut handover = nodes[2].netns.run(|| handover.spawn().unwrap()).unwrap();
    soon("the handover", &nodes, || tracked() == "1" && !nodes[2].is_live());
    handover.kill().and_then(|()| handover.wait()).unwrap();
    let start = Instant::now();
    while !nodes[2].is_live() {
        assert!(start.elapsed() < Duration::from_secs(100), "{}", nodes[2].log());
        thread::sleep(Duration::from_millis(500));
    }
    assert!(nodes[2].log().contains("nobody has taken over"), "{}", nodes[2].log());
}
