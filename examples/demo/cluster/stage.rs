//! A cluster at work: servers, a client, watchers, and what is done to the director.

use std::net::TcpListener;
use std::ops::Range;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use super::addresses::{family, real, web};
use super::load::{Group, Load, Sessions};
use super::progress::Progress;
use super::record::{Kind, Mark, Record, State, Turn};
use super::router::Classified;
use super::watch::Watch;
use super::ways::Way;
use super::{Cluster, Node};

/// From a crash until a health check takes the node out of the table.
const HEALTH_CHECK: Duration = Duration::from_secs(2);
/// Of moves in a row: from when the new director is seen until it has to go, too.
const BETWEEN_MOVES: Duration = Duration::from_millis(800);
/// How many moves are in a row.
const MOVES: usize = 4;
/// Scripts that keepalived started at the election may take this long.
const SETTLE: Duration = Duration::from_secs(1);
/// BFD begins some seconds after BGP.
const SETTLE_BFD: Duration = Duration::from_secs(4);
/// keepalived may take this long to elect.
const PATIENCE: Duration = Duration::from_secs(30);

/// A cluster under load, from `start` on.
pub(crate) struct Stage<'a> {
    pub(crate) cluster: &'a mut Cluster,
    pub(crate) start: Instant,
    progress: &'a mut Progress,
    watch: Watch,
    load: Load,
    marks: Vec<Mark>,
    routes: bool,
    /// The node that is to be no next hop, where all are.
    withdrawn: Option<usize>,
    /// What all nodes together have classified, whenever that changed.
    classified: Vec<(Duration, Classified)>,
}

/// Builds a cluster that switches roles in this way, and lets `act` happen on it.
///
/// # Errors
/// With the end of the keepalived logs.
pub(crate) fn with_cluster<T>(
    way: &Way,
    nodes: usize,
    progress: &mut Progress,
    act: impl FnOnce(Stage) -> Result<T>,
) -> Result<T> {
    progress.step("building the cluster");
    let mut cluster = Cluster::build(nodes, way)?;
    let begun = if way.routes { announce(&mut cluster, progress) } else { elect(&mut cluster, way, progress) };
    let acted = begun.and_then(|()| act(Stage::begin(&mut cluster, way, progress)?));
    acted.with_context(|| {
        format!("`{}`, the ends of the logs:\n{}the story could not be told", way.name, cluster.log_tails())
    })
}

/// Starts keepalived, in the first node first: were they all to start at once, roles would change
/// hands faster than notifications are carried out, in no promised order.
fn elect(cluster: &mut Cluster, way: &Way, progress: &mut Progress) -> Result<()> {
    progress.step("keepalived elects a director");
    if way.watched {
        (0..cluster.nodes.len()).try_for_each(|node| cluster.start_watch(node))?;
    }
    let mut watch = Watch::start(&cluster.nodes, Instant::now());
    cluster.start_keepalived(0)?;
    wait(&mut watch, progress, "the first node to direct", director)?;
    (1..cluster.nodes.len()).try_for_each(|node| cluster.start_keepalived(node))?;
    wait(&mut watch, progress, "a director with a table and the VIP on all nodes", |nodes| {
        let ready = nodes[director(nodes)?].destinations > 0 && !nodes.iter().any(State::without_vip);
        ready.then_some(())
    })?;
    if way.hands_over {
        // Sessions of a director whose program has not been told yet are no sessions of the
        // cluster.
        wait(&mut watch, progress, "all nodes to have their roles", |nodes| {
            let director = director(nodes)?;
            let ready = |(i, node): (usize, &Node)| node.has_role(if i == director { "master" } else { "backup" });
            cluster.nodes.iter().enumerate().all(ready).then_some(())
        })?;
    }
    thread::sleep(SETTLE);
    watch.stop().map(drop)
}

/// Starts the routing daemons, and lets each node be a next hop.
fn announce(cluster: &mut Cluster, progress: &mut Progress) -> Result<()> {
    progress.step("the nodes announce their routes");
    // A VIP is not announced while nothing listens there, and the servers begin with the load.
    let listen = |node: &Node| Ok(node.netns.run(|| TcpListener::bind((family().any(), 80)))??);
    let _listening = cluster.nodes.iter().map(listen).collect::<Result<Vec<_>>>()?;
    cluster.start_router()?;
    for node in 0..cluster.nodes.len() {
        cluster.nodes[node].lvs_node("announce")?;
        cluster.start_watch(node)?;
    }
    let mut watch = Watch::start(&cluster.nodes, Instant::now());
    wait(&mut watch, progress, "all nodes to be next hops", |nodes| {
        nodes.iter().all(|node| node.directs && node.live && node.on_loopback).then_some(())
    })?;
    thread::sleep(SETTLE_BFD);
    watch.stop().map(drop)
}

/// The only node that has the VIP on its interface.
fn director(nodes: &[State]) -> Option<usize> {
    let mut directors = (0..nodes.len()).filter(|&i| nodes[i].link && nodes[i].directs);
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

impl<'a> Stage<'a> {
    /// The load begins, and with it the time.
    fn begin(cluster: &'a mut Cluster, way: &Way, progress: &'a mut Progress) -> Result<Self> {
        let start = Instant::now();
        let watch = Watch::start(&cluster.nodes, start);
        let load = Load::start(cluster, start)?;
        let (marks, classified) = (Vec::new(), Vec::new());
        Ok(Stage { cluster, start, progress, watch, load, marks, routes: way.routes, withdrawn: None, classified })
    }

    /// What happens from here on.
    pub(crate) fn step(&mut self, text: &str) {
        self.progress.step(text);
    }

    pub(crate) fn open_sessions(&self, group: Group) -> Sessions {
        self.load.open_sessions(group)
    }

    /// The node that directs now; where all direct, the next one to which something happens.
    pub(crate) fn director(&mut self) -> Result<usize> {
        if self.routes {
            return Ok(self.withdrawn.map_or(0, |node| (node + 1) % self.cluster.nodes.len()));
        }
        director(&self.watch.now()?).context("there is no single director")
    }

    /// What has to be so before sessions are opened.
    pub(crate) fn prepare(&mut self, kind: Kind) -> Result<()> {
        if kind == Kind::Join {
            let node = self.director()?;
            self.withdraw(node)?;
            self.weigh_everywhere("drain", node)?;
        }
        Ok(())
    }

    /// Lets a node be no next hop, and that which was none be one again.
    fn withdraw(&mut self, node: usize) -> Result<()> {
        self.announce_withdrawn()?;
        self.cluster.nodes[node].lvs_node("withdraw")?;
        self.withdrawn = Some(node);
        self.wait_for_director_after(node).map(drop)
    }

    fn announce_withdrawn(&mut self) -> Result<()> {
        let Some(node) = self.withdrawn.take() else { return Ok(()) };
        self.cluster.nodes[node].lvs_node("announce")?;
        wait(&mut self.watch, self.progress, "a node to be a next hop", |nodes| nodes[node].directs.then_some(()))
    }

    /// `lvs-node drain` or `undrain` on every node that can be reached.
    fn weigh_everywhere(&mut self, verb: &str, server: usize) -> Result<()> {
        let states = self.watch.now()?;
        let address = self.cluster.nodes[server].address;
        let reached = self.cluster.nodes.iter().zip(&states).filter(|(_, state)| state.link);
        reached.map(|(node, _)| node).try_for_each(|node| node.lvs_node(&format!("{verb} {address}")).map(drop))
    }

    /// Does it to the director, and waits until another node directs (after a crash also until a
    /// health check has seen it). What comes of it is the caller's to count: `until` and
    /// `sessions` are still to be filled in.
    pub(crate) fn change(&mut self, kind: Kind) -> Result<Turn> {
        let from = self.director()?;
        let at = self.start.elapsed();
        let mut turn = Turn { kind, at, from, to: from, crash: None, dead: None, until: at, sessions: Vec::new() };
        match kind {
            Kind::Move | Kind::Handover => {
                self.mark(format!("move off {}", self.cluster.nodes[from].name));
                turn.to = self.move_director(kind)?;
            }
            Kind::Stop => turn.to = self.stop_director()?,
            Kind::Crash => self.crash_director(&mut turn)?,
            Kind::Join => {
                let joining = self.withdrawn.context("no node is out of service")?;
                (turn.from, turn.to) = (joining, joining);
                self.mark(format!("{} joins", self.cluster.nodes[joining].name));
                self.weigh_everywhere("undrain", joining)?;
                self.announce_withdrawn()?;
            }
            Kind::Drain => {
                self.mark(format!("{} drained", self.cluster.nodes[from].name));
                self.withdraw(from)?;
                turn.to = (from + 1) % self.cluster.nodes.len();
                self.weigh_everywhere("drain", from)?;
            }
            Kind::Moves | Kind::Handovers => {
                for number in 0..MOVES {
                    self.mark(if number == 0 { format!("{MOVES} moves") } else { String::new() });
                    self.move_director(kind)?;
                    self.pause(BETWEEN_MOVES)?;
                }
                self.crash_director(&mut turn)?;
            }
        }
        Ok(turn)
    }

    /// A planned move: the director's priority is lowered, and that of the next node in turn is
    /// what it was.
    fn move_director(&mut self, kind: Kind) -> Result<usize> {
        let from = self.director()?;
        let to = (from + 1) % self.cluster.nodes.len();
        if self.routes {
            self.withdraw(from)?;
            return Ok(to);
        }
        let nodes = &self.cluster.nodes;
        let handover = if kind.hands_over() {
            Some(nodes[from].begin_handover(&nodes[to])?)
        } else {
            nodes[from].set_maintenance(true)?;
            None
        };
        nodes[to].set_maintenance(false)?;
        let to = self.wait_for_director_after(from)?;
        if let Some(handover) = handover {
            let output = handover.wait_with_output().context("lvs-node handover")?;
            ensure!(output.status.success(), "lvs-node handover: {}", String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(to)
    }

    fn stop_director(&mut self) -> Result<usize> {
        let from = self.director()?;
        self.mark(format!("stop on {}", self.cluster.nodes[from].name));
        if self.routes {
            self.cluster.stop_routing(from)?;
        } else {
            self.cluster.stop_keepalived(from)?;
        }
        self.wait_for_director_after(from)
    }

    fn crash_director(&mut self, turn: &mut Turn) -> Result<()> {
        let from = self.director()?;
        self.announce_withdrawn()?;
        // Those that would not take over at once are ready to. Of two with the same priority both
        // would.
        for node in &self.cluster.nodes[from + 1..] {
            node.set_maintenance(false)?;
        }
        let node = &self.cluster.nodes[from];
        let name = node.name.clone();
        let at = self.start.elapsed();
        self.cluster.set_link(node, false)?;
        self.mark(format!("{name} dies"));
        turn.crash = Some(at);
        turn.dead = Some(from);
        turn.to = self.wait_for_director_after(from)?;
        self.pause_until(at + HEALTH_CHECK)?;
        self.mark(format!("{name} out"));
        self.set_weight(from, 0)
    }

    fn wait_for_director_after(&mut self, from: usize) -> Result<usize> {
        let routes = self.routes;
        wait(&mut self.watch, self.progress, "another node to direct", |nodes| {
            if routes {
                return (!nodes[from].directs).then_some((from + 1) % nodes.len());
            }
            director(nodes).filter(|&node| node != from)
        })
    }

    /// The node that had crashed comes back, as a backup.
    pub(crate) fn bring_back(&mut self, returning: usize, within: Duration) -> Result<()> {
        let begin = self.start.elapsed();
        let node = &self.cluster.nodes[returning];
        node.set_maintenance(true)?; // or it would take the VIP at once: a further turn
        let name = node.name.clone();
        self.cluster.set_link(node, true)?;
        self.mark(format!("{name} back"));
        let routes = self.routes;
        wait(&mut self.watch, self.progress, "the returned node to have its VIP again", |nodes| {
            let State { link, directs, on_loopback, .. } = nodes[returning];
            (link && on_loopback && directs == routes).then_some(())
        })?;
        self.pause_until(begin + within / 2)?;
        self.set_weight(returning, 1)?;
        self.pause_until(begin + within)
    }

    /// What health checks do, by the same hand on every way: keepalived's own go with its virtual
    /// servers, which neither the scripts nor `lvs-node` use. They run on the director, and
    /// wherever else there is a live table. Where the director has lost its table, they can do
    /// nothing.
    fn set_weight(&mut self, server: usize, weight: u32) -> Result<()> {
        let nodes = self.watch.now()?;
        let director = director(&nodes);
        ensure!(self.routes || director.is_some(), "there is no single director");
        let address = self.cluster.nodes[server].address;
        for (i, (node, state)) in self.cluster.nodes.iter().zip(&nodes).enumerate() {
            if state.link && state.destinations > 0 && (director == Some(i) || state.live) {
                node.run(&format!("ipvsadm -e -t {} -r {} -g -w {weight}", web(), real(address)))?;
            }
        }
        Ok(())
    }

    fn mark(&mut self, text: String) {
        if !text.is_empty() {
            self.progress.step(&text);
        }
        self.marks.push(Mark { at: self.start.elapsed(), text });
    }

    pub(crate) fn pause(&mut self, time: Duration) -> Result<()> {
        self.pause_until(self.start.elapsed() + time)
    }

    pub(crate) fn pause_until(&mut self, end: Duration) -> Result<()> {
        while self.start.elapsed() < end {
            let (answered, failed) = self.load.count();
            let seconds = self.start.elapsed().as_secs_f64();
            self.progress.tick(format_args!("{seconds:.1} s, {answered} requests answered, {failed} failed"));
            thread::sleep(Duration::from_millis(20));
            self.watch.now()?;
            self.look_at_classifiers();
        }
        Ok(())
    }

    fn look_at_classifiers(&mut self) {
        if !self.routes {
            return;
        }
        let now = self.cluster.nodes.iter().map(Node::classified).fold(Classified::default(), |a, b| a + b);
        if self.classified.last().is_none_or(|(_, last)| *last != now) {
            self.classified.push((self.start.elapsed(), now));
        }
    }

    /// What was classified in a time, and how long after its begin packets took a second hop, as
    /// far as metrics show it: they are written once a second. `None` where nothing classifies.
    pub(crate) fn classified(&self, within: &Range<Duration>) -> Option<(Classified, Option<Duration>)> {
        if self.classified.is_empty() {
            return None;
        }
        let at = |time: Duration| {
            let last = self.classified.iter().rfind(|(at, _)| *at <= time);
            last.map(|(_, classified)| *classified).unwrap_or_default()
        };
        let (before, after) = (at(within.start), at(within.end));
        let packets = after.packets - before.packets;
        let second_hops = after.second_hops - before.second_hops;
        let last = self.classified.iter().find(|(_, seen)| seen.second_hops == after.second_hops);
        let until = last.filter(|_| second_hops > 0).map(|(at, _)| at.saturating_sub(within.start));
        Some((Classified { packets, second_hops }, until))
    }

    /// Ends the load, and counts.
    ///
    /// # Errors
    /// When the record does not show what it is to show.
    pub(crate) fn finish(self, way: &Way, turns: Vec<Turn>) -> Result<Record> {
        let length = self.start.elapsed();
        self.progress.step("counting");
        let served = self.load.counters();
        let record = Record {
            name: way.name,
            title: way.title,
            nodes: self.cluster.nodes.iter().map(|node| node.name.clone()).collect(),
            length,
            requests: self.load.stop()?,
            sightings: self.watch.stop()?,
            turns,
            marks: self.marks,
        };
        record.check()?;
        for (node, (name, served)) in record.nodes.iter().zip(served.iter()).enumerate() {
            let (answered, served) = (record.served_by(node).count(), served.load(Ordering::Relaxed));
            ensure!(
                answered <= served,
                "the client counts {answered} answers of {name}, which served {served} connections"
            );
        }
        Ok(record)
    }
}
