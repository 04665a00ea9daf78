//! The story: a cluster at work, a planned move of the director, a crash of the next one, and its return.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::cluster::{Cluster, Node, VIP};
use crate::load::Load;
use crate::progress::Progress;
use crate::record::{Kind, Mark, Record, SESSIONS, State, Turn};
use crate::watch::Watch;
use crate::ways::Way;

/// How old sessions are when something happens to them.
const STEADY: Duration = Duration::from_secs(3);
/// For how long the consequences are counted. A TCP whose director has gone sends again 0.2, 0.6, 1.4 and 3.0 s
/// after its last answer.
const AFTERMATH: Duration = Duration::from_secs(4);
/// From a crash until a health check takes the node out of the table.
const HEALTH_CHECK: Duration = Duration::from_secs(2);
/// For how long the node that comes back is watched.
const RETURN: Duration = Duration::from_millis(1200);
/// Scripts that keepalived started at the election may take this long.
const SETTLE: Duration = Duration::from_secs(1);
/// keepalived may take this long to elect.
const PATIENCE: Duration = Duration::from_secs(10);

/// Builds a cluster that switches roles in this way, and takes it through the story.
///
/// # Errors
/// When it could not be told: a director was not seen, or did not change, or nothing was served after it had.
pub(crate) fn tell(way: &Way, nodes: usize, progress: &mut Progress) -> Result<Record> {
    progress.step("building the cluster");
    let mut cluster = Cluster::build(nodes, way)?;
    let record = elect(&mut cluster, progress).and_then(|()| Story::begin(&cluster, progress)?.tell(way));
    record.with_context(|| {
        format!("`{}`, the end of the keepalived logs:\n{}the story could not be told", way.name, cluster.log_tails())
    })
}

/// Starts keepalived, in the first node first: were they all to start at once, roles would change hands faster than
/// notifications are carried out, in an order that nobody promises.
fn elect(cluster: &mut Cluster, progress: &mut Progress) -> Result<()> {
    progress.step("keepalived elects a director");
    let mut watch = Watch::start(&cluster.nodes, Instant::now());
    cluster.start_keepalived(0)?;
    wait(&mut watch, progress, "the first node to direct", director)?;
    (1..cluster.nodes.len()).try_for_each(|node| cluster.start_keepalived(node))?;
    wait(&mut watch, progress, "a director with a table and the VIP on all nodes", |nodes| {
        let ready = nodes[director(nodes)?].destinations > 0 && !nodes.iter().any(State::without_vip);
        ready.then_some(())
    })?;
    thread::sleep(SETTLE);
    watch.stop().map(drop)
}

/// The only node that has the VIP on its interface.
fn director(nodes: &[State]) -> Option<usize> {
    let mut directors = (0..nodes.len()).filter(|&i| nodes[i].link && nodes[i].on_interface);
    directors.next().filter(|_| directors.next().is_none())
}

/// Waits until the nodes show what `find` looks for.
fn wait<T>(watch: &mut Watch, progress: &mut Progress, what: &str, find: impl Fn(&[State]) -> Option<T>) -> Result<T> {
    let begin = Instant::now();
    loop {
        let nodes = watch.now()?;
        if let Some(found) = find(&nodes) {
            return Ok(found);
        }
        if begin.elapsed() > PATIENCE {
            bail!("waited {PATIENCE:?} for {what}, but the kernels show {nodes:?}");
        }
        progress.tick(format_args!("{:.1} s", begin.elapsed().as_secs_f64()));
        thread::sleep(Duration::from_millis(10));
    }
}

struct Story<'a> {
    cluster: &'a Cluster,
    progress: &'a mut Progress,
    start: Instant,
    watch: Watch,
    load: Load,
    marks: Vec<Mark>,
}

impl<'a> Story<'a> {
    /// The load begins, and with it the time.
    fn begin(cluster: &'a Cluster, progress: &'a mut Progress) -> Result<Self> {
        let start = Instant::now();
        let watch = Watch::start(&cluster.nodes, start);
        let load = Load::start(cluster, start)?;
        Ok(Story { cluster, progress, start, watch, load, marks: Vec::new() })
    }

    fn tell(mut self, way: &Way) -> Result<Record> {
        let moved = self.turn(Kind::Move)?;
        let crashed = self.turn(Kind::Crash)?;
        self.bring_back(crashed.from)?;

        let length = self.start.elapsed();
        self.progress.step("counting");
        let record = Record {
            name: way.name,
            title: way.title,
            nodes: self.cluster.nodes.iter().map(|node| node.name.clone()).collect(),
            length,
            requests: self.load.stop()?,
            sightings: self.watch.stop()?,
            turns: vec![moved, crashed],
            marks: self.marks,
        };
        record.check()?;
        Ok(record)
    }

    /// Opens sessions, makes the director change, and waits for what comes of it.
    fn turn(&mut self, kind: Kind) -> Result<Turn> {
        self.progress.step("all nodes serve");
        let sessions = self.load.open_sessions(SESSIONS);
        self.pause_until(self.start.elapsed() + STEADY)?;

        let from = director(&self.watch.now()?).context("there is no single director")?;
        let node = &self.cluster.nodes[from];
        let at = self.start.elapsed();
        match kind {
            Kind::Move => {
                self.mark(format!("move off {}", node.name));
                node.set_maintenance(true)?;
            }
            Kind::Crash => {
                self.mark(format!("{} dies", node.name));
                self.cluster.set_link(node, false)?;
            }
        }
        let to = wait(&mut self.watch, self.progress, "another node to direct", |nodes| {
            director(nodes).filter(|&node| node != from)
        })?;
        if kind == Kind::Crash {
            self.pause_until(at + HEALTH_CHECK)?;
            self.mark(format!("{} out", node.name));
            self.set_weight(node, 0)?;
        }
        let until = at + AFTERMATH;
        self.pause_until(until)?;
        Ok(Turn { kind, at, from, to, until, sessions: sessions.close() })
    }

    /// The node that had crashed comes back, as a backup.
    fn bring_back(&mut self, returning: usize) -> Result<()> {
        let node = &self.cluster.nodes[returning];
        node.set_maintenance(true)?; // or it would take the VIP at once: a third turn
        self.mark(format!("{} back", node.name));
        self.cluster.set_link(node, true)?;
        wait(&mut self.watch, self.progress, "the returned node to have the VIP on lo", |nodes| {
            let State { link, on_interface, on_loopback, .. } = nodes[returning];
            (link && on_loopback && !on_interface).then_some(())
        })?;
        self.pause_until(self.start.elapsed() + RETURN / 2)?;
        self.set_weight(node, 1)?;
        self.pause_until(self.start.elapsed() + RETURN)
    }

    /// What a health check does on the director, by the same hand on every way: keepalived's own goes with its virtual
    /// servers, which neither the scripts nor `lvs-node` use. Where the director has lost its table, it can do nothing.
    fn set_weight(&mut self, real: &Node, weight: u32) -> Result<()> {
        let nodes = self.watch.now()?;
        let director = director(&nodes).context("there is no single director")?;
        if nodes[director].destinations > 0 {
            let command = format!("ipvsadm -e -t {VIP}:80 -r {}:80 -g -w {weight}", real.address);
            self.cluster.nodes[director].run(&command)?;
        }
        Ok(())
    }

    fn mark(&mut self, text: String) {
        self.progress.step(&text);
        self.marks.push(Mark { at: self.start.elapsed(), text });
    }

    fn pause_until(&mut self, end: Duration) -> Result<()> {
        while self.start.elapsed() < end {
            let (answered, failed) = self.load.count();
            let seconds = self.start.elapsed().as_secs_f64();
            self.progress.tick(format_args!("{seconds:.1} s, {answered} requests answered, {failed} failed"));
            thread::sleep(Duration::from_millis(20));
            self.watch.now()?;
        }
        Ok(())
    }
}
