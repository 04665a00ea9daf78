//! How long a promotion takes, with small and large tables: from the notification until the new
//! director forwards to a remote node, a session that it has learned and one that is new, and
//! until it spreads new ones over both living nodes.
//!
//! Three nodes without keepalived: n1 directs to n3, and n2 is promoted after n1's cable was cut.
//! The client sends UDP, so that nothing waits for a TCP that sends again.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write;
use std::fs;
use std::io::{BufRead, BufReader, ErrorKind};
use std::net::{SocketAddr, UdpSocket};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use serde_json::{Value, json};

use crate::Options;
use crate::cluster::addresses::{family, number, vip};
use crate::cluster::progress::Progress;
use crate::cluster::ways::{Balance, Way, install_lvs_node};
use crate::cluster::{Cluster, INTERFACE, Node};
use crate::requests::{Counter, Requests};

/// Served by n3 alone.
const PORT: u16 = 5000;
/// Served by n2 and n3.
const SPREAD_PORT: u16 = 5001;
/// The client's, of new sessions.
const FIRST_PORT: u16 = 20_000;
/// What the client sends: the datagram of a session, and one of a new session each time.
const EVERY: Duration = Duration::from_millis(4);
/// The kernel collects what it tells the other nodes of connections for up to two seconds.
const SYNCHRONISED: Duration = Duration::from_secs(3);
const PATIENCE: Duration = Duration::from_secs(90);

pub(crate) const FENCES: [&str; 1] = ["marks"];

/// How the node is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Told {
    /// `lvs-node role master` is started.
    Program,
    /// A line in the FIFO of an `lvs-node fifo` that runs.
    Fifo,
}

/// Times from the notification on.
pub(crate) struct Promotion {
    pub(crate) services: usize,
    pub(crate) fence: &'static str,
    pub(crate) told: Told,
    /// Until an answer came in a session that was synchronised before, and in a new one.
    pub(crate) known: Option<Duration>,
    pub(crate) new: Option<Duration>,
    /// Until both living nodes had answered in a new session.
    pub(crate) spread: Option<Duration>,
    pub(crate) scheduler: Balance,
    /// Until all was done, if it was counted.
    pub(crate) requests: Option<Requests>,
    /// When each step was begun.
    pub(crate) steps: Vec<(Duration, String)>,
    /// When the program ended.
    pub(crate) end: Option<Duration>,
}

impl Promotion {
    /// Times in seconds.
    pub(crate) fn json(&self) -> Value {
        let seconds = |time: Option<Duration>| time.map(|time| time.as_secs_f64());
        json!({
            "fence": self.fence,
            "told": match self.told { Told::Program => "program", Told::Fifo => "fifo" },
            "scheduler": self.scheduler.name(),
            "family": family().name(),
            "services": self.services,
            "learned_session": seconds(self.known),
            "new_session": seconds(self.new),
            "spread": seconds(self.spread),
            "requests": self.requests.as_ref().map(Requests::json),
            "program_ended": seconds(self.end),
            "steps": self.steps.iter().map(|(at, step)| json!([at.as_secs_f64(), step])).collect::<Vec<_>>(),
        })
    }
}

/// Measures one promotion.
pub(crate) fn measure(
    services: usize,
    fence: &'static str,
    told: Told,
    options: &Options,
    progress: &mut Progress,
) -> Result<Promotion> {
    let scheduler = options.scheduler.first().copied().unwrap_or(Balance::Wrr);
    let prepare_nothing = |_: &Way, _: &Node, _: &[Node]| Ok(String::new());
    let (name, hands_over, watched, live_table) = ("promotion", false, false, false);
    let routes = false;
    let way =
        Way { name, title: "", hands_over, watched, routes, fence, scheduler, live_table, prepare: prepare_nothing };
    progress.step("building the cluster");
    let cluster = Cluster::build(3, &way)?;
    let program = install_lvs_node()?;
    for node in &cluster.nodes {
        prepare(node, &cluster.nodes, services, &way)?;
    }
    let role = |node: &Node, role: &str| node.run(&format!("{program} --config {} role {role}", config(node)));
    progress.step("n1 directs");
    for node in &cluster.nodes[1..] {
        role(node, "backup")?;
    }
    role(&cluster.nodes[0], "master")?;

    let start = Instant::now();
    let fifo = match told {
        Told::Program => None,
        Told::Fifo => Some(Follower::start(&cluster.nodes[1], &program, start)?),
    };
    let servers = [
        Server::start(&cluster.nodes[2], PORT)?,
        Server::start(&cluster.nodes[1], SPREAD_PORT)?,
        Server::start(&cluster.nodes[2], SPREAD_PORT)?,
    ];
    let client = Client::start(&cluster, start)?;
    progress.step("sessions are synchronised");
    thread::sleep(SYNCHRONISED);
    ensure!(client.answers().complete(), "n2 and n3 do not answer through n1: {:?}", client.answers());
    cluster.set_link(&cluster.nodes[0], false)?;
    thread::sleep(Duration::from_millis(300));
    let counter =
        options.requests.then(|| Counter::start(&cluster.nodes[1], &cluster.nodes[1].etc.join("state"))).transpose()?;
    client.forget();

    progress.step("n2 is told");
    let begin = start.elapsed();
    let (known, new, spread, requests, steps, end) = (None, None, None, None, Vec::new(), None);
    let mut promotion = Promotion { services, fence, scheduler, told, known, new, spread, requests, steps, end };
    let mut running = match &fifo {
        Some(fifo) => {
            fs::write(&fifo.path, "INSTANCE \"web\" MASTER 100\n").context("cannot write to the FIFO")?;
            None
        }
        None => Some(Follower::spawn(&cluster.nodes[1], &program, &["role", "master"], start)?),
    };
    let steps = |told: &[(Duration, String)]| -> Vec<(Duration, String)> {
        told.iter().filter(|(at, _)| *at >= begin).map(|(at, step)| (*at - begin, step.clone())).collect()
    };
    loop {
        let answers = client.answers();
        let since = |at: Option<Duration>| at.map(|at| at.saturating_sub(begin));
        (promotion.known, promotion.new) = (since(answers.known), since(answers.new));
        promotion.spread = since(answers.spread());
        let ended = match &mut running {
            Some((child, lines)) => match child.try_wait().context("lvs-node")? {
                Some(status) => {
                    ensure!(status.success(), "lvs-node role master failed: {status}");
                    promotion.end.get_or_insert(start.elapsed() - begin);
                    promotion.steps = steps(&lines.lock().unwrap_or_else(PoisonError::into_inner));
                    true
                }
                None => false,
            },
            None => true,
        };
        if ended && answers.complete() {
            break;
        }
        ensure!(!client.thread.is_finished(), "the client has ended: {:?}", client.stop());
        if start.elapsed() - begin > PATIENCE {
            bail!("waited {PATIENCE:?} for a promotion with {services} services: {:?}", client.answers());
        }
        thread::sleep(Duration::from_millis(5));
    }
    if let Some(counter) = &counter {
        // One that follows a FIFO does not end, but has more to do.
        counter.wait_for_silence(&cluster.nodes[1], PATIENCE)?;
    }
    if let Some(fifo) = fifo {
        promotion.steps = steps(&fifo.lines.lock().unwrap_or_else(PoisonError::into_inner));
    }
    promotion.requests = counter.map(Counter::stop).transpose()?;
    client.stop()?;
    servers.into_iter().try_for_each(Server::stop)?;
    Ok(promotion)
}

fn config(node: &Node) -> String {
    node.etc.join("node.toml").display().to_string()
}

/// A table in which the measured services come last: UDP, to n3 alone, and to n2 and n3.
fn prepare(node: &Node, all: &[Node], services: usize, way: &Way) -> Result<()> {
    let (fence, scheduler) = (way.fence, way.scheduler.ipvsadm());
    let mut table = String::new();
    for port in (10_000..).take(services.saturating_sub(2)) {
        let _ = writeln!(table, "-A -t {} {scheduler}", SocketAddr::new(vip(), port));
        for real in all {
            let _ = writeln!(
                table,
                "-a -t {} -r {} -g -w 1",
                SocketAddr::new(vip(), port),
                SocketAddr::new(real.address, port)
            );
        }
    }
    for (port, servers) in [(PORT, &all[2..]), (SPREAD_PORT, &all[1..])] {
        let _ = writeln!(table, "-A -u {} {scheduler}", SocketAddr::new(vip(), port));
        for real in servers {
            let _ = writeln!(
                table,
                "-a -u {} -r {} -g -w 1",
                SocketAddr::new(vip(), port),
                SocketAddr::new(real.address, port)
            );
        }
    }
    let file = format!(
        "interface = \"{INTERFACE}\"\nvips = [\"{}\"]\nvip_owner = \"node\"\nfence = \"{fence}\"\n\
         state_dir = \"{}\"\nservices = \"file.ipvs\"\n",
        vip(),
        node.etc.join("state").display()
    );
    fs::write(node.etc.join("file.ipvs"), table)
        .and_then(|()| fs::write(config(node), file))
        .with_context(|| format!("cannot write below {}", node.etc.display()))
}

/// The lines that a program has printed, and when.
type Lines = Arc<Mutex<Vec<(Duration, String)>>>;

/// An `lvs-node fifo` in a node.
struct Follower {
    child: Child,
    path: PathBuf,
    lines: Lines,
}

impl Follower {
    fn start(node: &Node, program: &str, start: Instant) -> Result<Self> {
        let path = node.etc.join("fifo");
        node.run(&format!("mkfifo {}", path.display()))?;
        let arguments = ["fifo", &path.display().to_string()];
        let (child, lines) = Self::spawn(node, program, &arguments, start)?;
        Ok(Follower { child, path, lines })
    }

    fn spawn(node: &Node, program: &str, arguments: &[&str], start: Instant) -> Result<(Child, Lines)> {
        let mut command = Command::new(program);
        command.args(["--config", &config(node)]).args(arguments).stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = node.netns.run(|| command.spawn())?.with_context(|| format!("cannot run {program}"))?;
        let output = child.stdout.take().context("lvs-node has no output")?;
        let lines = Lines::default();
        let told = lines.clone();
        thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                told.lock().unwrap_or_else(PoisonError::into_inner).push((start.elapsed(), line));
            }
        });
        Ok((child, lines))
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Answers each datagram with itself, and the node's last octet.
struct Server {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Result<()>>,
}

impl Server {
    fn start(node: &Node, port: u16) -> Result<Self> {
        let bind = || {
            let socket = UdpSocket::bind((vip(), port))?;
            socket.set_read_timeout(Some(Duration::from_millis(100)))?;
            std::io::Result::Ok(socket)
        };
        let socket = node.netns.run(bind)?.with_context(|| format!("cannot serve on {}", node.name))?;
        let last = number(node.address);
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = thread::spawn(move || {
            let mut datagram = [0; 16];
            while !stopped.load(Ordering::Relaxed) {
                match socket.recv_from(&mut datagram[..8]) {
                    Ok((length, client)) => {
                        datagram[length] = last;
                        drop(socket.send_to(&datagram[..=length], client));
                    }
                    Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
                    Err(e) => return Err(e).context("the server"),
                }
            }
            Ok(())
        });
        Ok(Server { stop, thread })
    }

    fn stop(self) -> Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().map_err(|_| anyhow!("the server panicked"))?
    }
}

/// When the first answers came, since they were last forgotten: to a datagram that was sent since.
#[derive(Clone, Debug, Default)]
struct Answers {
    forgotten: Duration,
    known: Option<Duration>,
    new: Option<Duration>,
    /// Of each server of the second service, in a new session.
    servers: BTreeMap<u8, Duration>,
}

impl Answers {
    /// Returns when both servers of the second service had answered.
    fn spread(&self) -> Option<Duration> {
        self.servers.values().max().filter(|_| self.servers.len() == 2).copied()
    }

    fn complete(&self) -> bool {
        self.known.is_some() && self.new.is_some() && self.spread().is_some()
    }
}

struct Client {
    start: Instant,
    answers: Arc<Mutex<Answers>>,
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Result<()>>,
}

impl Client {
    fn start(cluster: &Cluster, start: Instant) -> Result<Self> {
        let answers = Arc::new(Mutex::new(Answers::default()));
        let stop = Arc::new(AtomicBool::new(false));
        let (netns, seen, stopped) = (cluster.client.clone(), answers.clone(), stop.clone());
        let thread = thread::spawn(move || netns.run(|| send(start, &seen, &stopped))?);
        Ok(Client { start, answers, stop, thread })
    }

    fn answers(&self) -> Answers {
        self.answers.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn forget(&self) {
        let now = self.start.elapsed();
        *self.answers.lock().unwrap_or_else(PoisonError::into_inner) = Answers { forgotten: now, ..Answers::default() };
    }

    fn stop(self) -> Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().map_err(|_| anyhow!("the client panicked"))?
    }
}

/// Sends in one session all the time, and opens new ones.
fn send(start: Instant, answers: &Mutex<Answers>, stop: &AtomicBool) -> Result<()> {
    // None of the new sessions has this port.
    let known = socket(FIRST_PORT - 1, PORT)?;
    let mut new: HashMap<u16, (u16, Duration, UdpSocket)> = HashMap::new();
    let mut port = FIRST_PORT;
    let mut datagram = [0; 16];
    while !stop.load(Ordering::Relaxed) {
        let sent = start.elapsed();
        // Requests that no server answers are what is measured.
        let _ = known.send(&(sent.as_micros() as u64).to_be_bytes());
        for service in [PORT, SPREAD_PORT] {
            port = if port < 60_000 { port + 1 } else { FIRST_PORT };
            let socket = socket(port, service)?;
            let _ = socket.send(b"new");
            new.insert(port, (service, sent, socket));
        }
        thread::sleep(EVERY);

        let now = start.elapsed();
        let mut answers = answers.lock().unwrap_or_else(PoisonError::into_inner);
        while let Ok(length) = known.recv(&mut datagram) {
            let sent = datagram[..length - 1].try_into().map(u64::from_be_bytes).unwrap_or_default();
            if Duration::from_micros(sent) >= answers.forgotten {
                answers.known.get_or_insert(now);
            }
        }
        // One that is not answered by then will not be.
        new.retain(|_, (service, sent, socket)| {
            let answer = socket.recv(&mut datagram).ok();
            if let Some(length) = answer.filter(|length| *length > 0 && *sent >= answers.forgotten) {
                match *service {
                    PORT => drop(answers.new.get_or_insert(now)),
                    _ => drop(answers.servers.entry(datagram[length - 1]).or_insert(now)),
                }
            }
            answer.is_none() && now - *sent < 8 * EVERY
        });
    }
    Ok(())
}

fn socket(port: u16, service: u16) -> Result<UdpSocket> {
    let socket = UdpSocket::bind((family().any(), port)).context("cannot make a socket")?;
    socket.connect((vip(), service)).context("cannot reach the VIP")?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// The table for people.
pub(crate) fn draw(promotions: &[Promotion]) -> String {
    let mut text = format!(
        "promotion, ms from the notification on{:>12}{:>16}{:>16}{:>16}{:>16}\n",
        "services", "learned session", "new session", "spread", "program ended"
    );
    for promotion in promotions {
        let Promotion { services, fence, scheduler, told, known, new, spread, end, .. } = promotion;
        let scheduler = scheduler.name();
        let told = name(*told);
        let ms = |time: &Option<Duration>| time.map_or("-".into(), |t| format!("{:.0}", t.as_secs_f64() * 1e3));
        let name = format!("  {fence} {scheduler}, {told}");
        let [known, new, spread, end] = [known, new, spread, end].map(ms);
        let _ = writeln!(text, "{name:38}{services:>12}{known:>16}{new:>16}{spread:>16}{end:>16}");
    }
    if promotions.iter().any(|promotion| promotion.requests.is_some()) {
        let _ = writeln!(
            text,
            "\n{:38}{:>12}{:>16}{:>16}{:>16}{:>16}{:>16}{:>16}",
            "until all is done",
            "services",
            "netlink sends",
            "requests",
            "of services",
            "of destinations",
            "files written",
            "sysctls written"
        );
    }
    for Promotion { services, fence, scheduler, told, requests, .. } in promotions {
        let Some(Requests { sends, messages, services: of_services, destinations, files, sysctls }) = requests else {
            continue;
        };
        let name = format!("  {fence} {}, {}", scheduler.name(), name(*told));
        let _ = writeln!(
            text,
            "{name:38}{services:>12}{sends:>16}{messages:>16}{of_services:>16}{destinations:>16}{files:>16}{sysctls:>16}"
        );
    }
    text += "\nwhen each step was begun, ms\n";
    for Promotion { services, fence, told, steps, .. } in promotions {
        // A plan's own lines are indented.
        let steps = steps
            .iter()
            .filter(|(_, step)| !step.starts_with(char::is_whitespace))
            .map(|(at, step)| format!("{:.0} {}", at.as_secs_f64() * 1e3, short(step)));
        let _ = writeln!(text, "  {fence}, {told:?}, {services}: {}", steps.collect::<Vec<_>>().join("; "));
    }
    text
}

fn name(told: Told) -> &'static str {
    match told {
        Told::Program => "lvs-node role master",
        Told::Fifo => "lvs-node fifo",
    }
}

fn short(step: &str) -> String {
    step.chars().take(50).collect()
}
