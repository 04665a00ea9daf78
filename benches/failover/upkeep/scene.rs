//! A cluster whose nodes start when the story says so.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use lvs_dr::Netns;
use serde_json::{Map, Value, json};

use super::watcher::Watcher;
use crate::cluster::Cluster;
use crate::cluster::addresses::{real, web};
use crate::cluster::load::{Group, Load, REQUEST_LIMIT, Sessions};
use crate::cluster::progress::Progress;
use crate::cluster::record::{Request, Session, State};
use crate::cluster::watch::observe;
use crate::cluster::ways::{Way, install_lvs_node};
use crate::measure::Count;

const PATIENCE: Duration = Duration::from_secs(30);
/// Scripts that keepalived started at an election may take this long, and a second watch until it
/// knows all.
const SETTLE: Duration = Duration::from_secs(2);

/// How long a session is asked for an answer that was silent so far.
pub(crate) const ASKED: Duration = Duration::from_secs(3);

pub(crate) struct Scene {
    pub(crate) way: Way,
    pub(crate) start: Instant,
    /// Before the cluster: they end first.
    pub(crate) watchers: BTreeMap<usize, Watcher>,
    pub(crate) cluster: Cluster,
    pub(crate) progress: Progress,
    program: String,
}

impl Scene {
    /// Nothing runs yet.
    pub(crate) fn build(way: &Way, mut progress: Progress) -> Result<Self> {
        progress.step("building the cluster");
        match fs::remove_dir_all(crate::cluster::DIR) {
            Err(e) if e.kind() != ErrorKind::NotFound => {
                return Err(e).context("cannot remove what an earlier run left");
            }
            _ => {}
        }
        let cluster = Cluster::build(3, way)?;
        let program = install_lvs_node()?;
        let way = *way;
        Ok(Scene { way, start: Instant::now(), watchers: BTreeMap::new(), cluster, progress, program })
    }

    /// # Errors
    /// With what keepalived and the watches have said.
    pub(crate) fn act<T>(mut self, act: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        act(&mut self).with_context(|| {
            let mut said = String::new();
            for (node, watcher) in &self.watchers {
                for (at, line) in watcher.lines() {
                    said += &format!("    n{} {:.1} {line}\n", node + 1, at.as_secs_f64());
                }
            }
            format!(
                "`{}`, keepalived:\n{}the watches:\n{said}the story could not be told",
                self.way.name,
                self.cluster.log_tails()
            )
        })
    }

    pub(crate) fn step(&mut self, text: &str) {
        self.progress.step(format_args!("{:.1} {text}", self.start.elapsed().as_secs_f64()));
    }

    /// Starts what runs in this node, as its init system would.
    pub(crate) fn start_node(&mut self, node: usize) -> Result<()> {
        if self.way.watched {
            self.watchers.insert(node, Watcher::start(&self.cluster.nodes[node], &self.program, self.start)?);
        }
        self.cluster.start_keepalived(node)
    }

    /// Starts these, the first of which is to direct.
    pub(crate) fn elect(&mut self, nodes: &[usize]) -> Result<()> {
        self.step("keepalived elects a director");
        self.start_node(nodes[0])?;
        self.wait_for_director(nodes[0])?;
        for node in &nodes[1..] {
            self.start_node(*node)?;
            self.wait_for_backup(*node)?;
        }
        thread::sleep(SETTLE);
        Ok(())
    }

    pub(crate) fn states(&self) -> Result<Vec<State>> {
        self.cluster.nodes.iter().map(|node| node.netns.run(|| observe(node.address))?).collect()
    }

    /// Those that have the VIP on their interface, and a link.
    pub(crate) fn directors(&self) -> Result<Vec<usize>> {
        let states = self.states()?;
        Ok((0..states.len()).filter(|node| states[*node].link && states[*node].directs).collect())
    }

    pub(crate) fn wait<T>(&mut self, what: &str, mut find: impl FnMut(&mut Self) -> Result<Option<T>>) -> Result<T> {
        let begin = Instant::now();
        loop {
            if let Some(found) = find(self)? {
                return Ok(found);
            }
            if begin.elapsed() > PATIENCE {
                bail!("waited {PATIENCE:?} for {what}, but the kernels show {:?}", self.states()?);
            }
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// This node is the only one to direct, with a table.
    pub(crate) fn wait_for_director(&mut self, node: usize) -> Result<()> {
        self.wait(&format!("n{} alone to direct", node + 1), |scene| {
            Ok((scene.directors()? == [node] && scene.states()?[node].live).then_some(()))
        })
    }

    pub(crate) fn wait_for_backup(&mut self, node: usize) -> Result<()> {
        self.wait(&format!("n{} to be a backup", node + 1), |scene| {
            let state = scene.states()?[node];
            Ok((state.on_loopback && !state.directs).then_some(()))
        })
    }

    /// Where it says so: it knows all connections. `None`: it does not say, and had a while to
    /// hear of some.
    pub(crate) fn wait_until_known(&mut self, node: usize) -> Result<Option<(Duration, u64, u64)>> {
        if !self.way.watched {
            thread::sleep(Duration::from_secs(4));
            return Ok(None);
        }
        self.wait(&format!("n{} to know all", node + 1), |scene| Ok(scene.watchers[&node].knows())).map(Some)
    }

    /// Lets this node direct, by priorities alone, and waits until the client sends to it.
    pub(crate) fn move_to(&mut self, to: usize) -> Result<()> {
        let nodes = &self.cluster.nodes;
        nodes[to].set_maintenance(false)?;
        for (_, node) in nodes.iter().enumerate().filter(|(node, _)| *node != to) {
            node.set_maintenance(true)?;
        }
        self.wait_for_director(to)?;
        self.cluster.wait_for_client(to)
    }

    /// Edits the service on each node that has it, as health checks on all nodes do: `ipvsadm VERB
    /// -t VIP:80 OPTIONS`. Returns how many nodes it worked on: the table of some fences lacks the
    /// service or, after a role change or repair, the destination.
    pub(crate) fn edit(&mut self, verb: &str, options: &str) -> Result<usize> {
        let mut edited = 0;
        for node in &self.cluster.nodes {
            if node.run("ipvsadm -Sn")?.contains(&format!("-A -t {} ", web())) {
                match node.run(&format!("ipvsadm {verb} -t {} {options}", web())) {
                    Ok(_) => edited += 1,
                    Err(e) if format!("{e:#}").contains("No such destination") => {}
                    Err(e) => return Err(e),
                }
            }
        }
        Ok(edited)
    }

    /// The director hands over to that node, which the others would elect.
    pub(crate) fn hand_over(&mut self, from: usize, to: usize) -> Result<()> {
        let nodes = &self.cluster.nodes;
        if self.way.hands_over {
            let output = nodes[from].begin_handover(&nodes[to])?.wait_with_output().context("lvs-node handover")?;
            ensure!(output.status.success(), "lvs-node handover: {}", String::from_utf8_lossy(&output.stderr).trim());
        } else {
            nodes[from].set_maintenance(true)?;
        }
        self.wait_for_director(to)
    }

    /// What a health check does: see `Stage::set_weight`.
    pub(crate) fn set_weight(&mut self, server: usize, weight: u32) -> Result<()> {
        let (directors, states) = (self.directors()?, self.states()?);
        let address = self.cluster.nodes[server].address;
        for (i, (node, state)) in self.cluster.nodes.iter().zip(&states).enumerate() {
            if state.link && state.destinations > 0 && (directors.contains(&i) || state.live) {
                node.run(&format!("ipvsadm -e -t {} -r {} -g -w {weight}", web(), real(address)))?;
            }
        }
        Ok(())
    }

    /// Lets the host of a node start anew, with nothing running in it yet. Its server's sessions
    /// are lost.
    pub(crate) fn restart_host(&mut self, node: usize, load: &mut Load) -> Result<()> {
        self.watchers.remove(&node);
        self.cluster.end_keepalived(node)?;
        self.cluster.renew(node)?;
        let _ = fs::remove_dir_all(self.cluster.nodes[node].etc.join("state"));
        let nodes = &self.cluster.nodes;
        (self.way.prepare)(&self.way, &nodes[node], nodes)?;
        load.serve_again(node, &nodes[node])
    }

    /// What each watch has said, and when.
    pub(crate) fn said(&self) -> Value {
        let line = |(at, line): (Duration, String)| json!([at.as_secs_f64(), line]);
        let of = |(node, watcher): (&usize, &Watcher)| {
            let lines: Vec<Value> = watcher.lines().into_iter().map(line).collect();
            (format!("n{}", node + 1), json!(lines))
        };
        self.watchers.iter().map(of).collect::<Map<_, _>>().into()
    }

    pub(crate) fn pause_until(&self, at: Duration) {
        thread::sleep(at.saturating_sub(self.start.elapsed()));
    }
}

/// Of requests that were sent: which server answered each, if one did.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub(crate) answers: Vec<Option<usize>>,
    /// How many connections each server has served meanwhile.
    pub(crate) served: Vec<usize>,
}

impl Asked {
    pub(crate) fn answered(&self) -> Count {
        Count { is: self.answers.iter().flatten().count(), of: self.answers.len() }
    }

    pub(crate) fn failed(&self) -> Count {
        Count { is: self.answers.iter().filter(|answer| answer.is_none()).count(), of: self.answers.len() }
    }

    /// Those that reached this server, by its own count.
    pub(crate) fn reached(&self, server: usize) -> Count {
        Count { is: self.served[server], of: self.answers.len() }
    }
}

/// Sends requests to the VIP from a namespace, each on a connection of its own, 10 ms apart.
/// Nothing else is to ask meanwhile.
///
/// # Errors
/// When the servers did not serve what was answered.
pub(crate) fn ask(scene: &Scene, load: &Load, from: &Netns, count: usize) -> Result<Asked> {
    let names: Vec<String> = scene.cluster.all_servers().map(|server| server.name.clone()).collect();
    let before = load.served();
    let request = |_| {
        thread::sleep(Duration::from_millis(10));
        let from = from.clone();
        thread::spawn(move || from.run(request))
    };
    let running: Vec<_> = (0..count).map(request).collect();
    let mut answers = Vec::new();
    for thread in running {
        let answer = thread.join().map_err(|_| anyhow!("a client panicked"))??;
        // Why it failed is not counted.
        let body = answer.ok();
        answers.push(body.and_then(|body| names.iter().position(|name| body == format!("{name} 1\n"))));
    }
    let served: Vec<usize> = load.served().iter().zip(before).map(|(now, before)| now - before).collect();
    for (server, name) in names.iter().enumerate() {
        let answered = answers.iter().filter(|answer| **answer == Some(server)).count();
        ensure!(
            answered <= served[server],
            "{answered} answers of {name}, which served {} connections",
            served[server]
        );
    }
    Ok(Asked { answers, served })
}

fn request() -> io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&web(), REQUEST_LIMIT)?;
    stream.set_read_timeout(Some(REQUEST_LIMIT))?;
    stream.write_all(b"GET / HTTP/1.1\r\nHost: web\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or_default())
}

/// Opens sessions, and waits until all are.
pub(crate) fn open<const N: usize>(loads: &[&Load], groups: [Group; N]) -> Result<Vec<[Sessions; N]>> {
    let sessions = open_some(loads, groups);
    sessions.iter().flatten().try_for_each(crate::measure::all_open)?;
    Ok(sessions)
}

/// The same, where it is no failure that some cannot be opened.
pub(crate) fn open_some<const N: usize>(loads: &[&Load], groups: [Group; N]) -> Vec<[Sessions; N]> {
    let sessions: Vec<_> = loads.iter().map(|load| groups.map(|group| load.open_sessions(group))).collect();
    let over = groups.iter().map(|group| group.over).max().unwrap_or_default();
    thread::sleep(over + crate::measure::AGE);
    sessions
}

/// Of sessions whose server was up: those that work at `until`; silent ones if they were answered
/// since they were asked.
pub(crate) fn kept<'a>(
    sessions: impl IntoIterator<Item = &'a Session>,
    asked: Duration,
    until: Duration,
    up: impl Fn(usize) -> bool,
) -> Count {
    let able = sessions.into_iter().filter(|session| up(session.node));
    able.fold(Count { is: 0, of: 0 }, |count, session| {
        let works = match session.every {
            Some(_) => session.kept(until),
            None => session.broken.is_none() && session.answers.last().is_some_and(|last| *last >= asked),
        };
        Count { is: count.is + usize::from(works), of: count.of + 1 }
    })
}

/// New connections of that time: those that failed, of all.
pub(crate) fn failed(requests: &[Request], from: Duration, until: Duration) -> Count {
    let sent = requests.iter().filter(|request| (from..until).contains(&request.sent));
    Count { is: sent.clone().filter(|request| request.served.is_err()).count(), of: sent.count() }
}

/// When each of those that failed was sent, from `from` on, and why it failed.
pub(crate) fn failures(requests: &[Request], from: Duration, until: Duration) -> Value {
    let sent = requests.iter().filter(|request| (from..until).contains(&request.sent));
    let failed = sent.filter_map(|r| Some(json!([(r.sent - from).as_secs_f64(), r.served.err()?.to_string()])));
    failed.collect::<Vec<_>>().into()
}

impl std::fmt::Display for Count {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} of {}", self.is, self.of)
    }
}

impl Count {
    pub(crate) fn json(self) -> Value {
        json!({ "count": self.is, "of": self.of })
    }
}
