//! Watches over a node for ever: takes on the roles that keepalived's FIFO names, repairs what
//! other programs change, and, with beacons, resynchronises nodes that join late and follows who
//! directs.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::fmt::{self, Display};
use std::fs;
use std::iter;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use clap::Args;
use lvs_dr::files::Replacement;
use lvs_dr::ipvs::{Change, SyncRole};
use lvs_dr::marks::{Event as MonitorEvent, Monitor, Neighbour, NeighbourState};
use lvs_dr::node::{
    Beacon, Bucket, Config, Heard, Learned, Learning, Node, Peers, Plan, Plane, Presence, ResyncRequests, Role, Status,
    Step, TableDigest, View, VipOwner,
};
use lvs_dr::vip::Vips;
use lvs_dr::{Error, Netns, Result};
use rustix::event::{PollFd, PollFlags, poll};
use sd_notify::NotifyState;
use serde_json::{Value, json};

use super::fifo::{self, Follower, TICK};
use super::file::WatchFiles;
use super::handover;
use super::metrics::{self, Counts};

/// How often a beacon is sent.
const BEACON: Duration = Duration::from_secs(1);
/// How often the whole is looked at, at most: where that takes long it is done less often, and
/// takes one part in so many of the time.
const CHECK: Duration = Duration::from_secs(1);
const SHARE: u32 = 200;
/// Thousands of services or not: what is wrong for so long is seen.
const LATEST: Duration = Duration::from_secs(10);
/// A role that is under way for so long is not any more: its process was killed.
const UNDER_WAY: Duration = Duration::from_secs(20);
/// Capacity of the event queue.
const QUEUE: usize = 256;
/// A role that was not reached is tried again after this, and then more and more rarely.
const RETRY: Duration = Duration::from_secs(1);
/// Minimum interval between two log lines for the same failure.
const REMIND: Duration = Duration::from_secs(60);
/// Tables of two nodes that differ for longer are not about to become equal.
const UNEQUAL: Duration = Duration::from_secs(30);
/// Other nodes' beacons can cause so many log lines or changes of the director at once, and then
/// one in this time. So often a VIP is restored that another program removes again and again.
const BURST: u32 = 8;
const INTERVAL: Duration = Duration::from_secs(5);
/// Time limit for the list of connections, where the counters show fewer than there are to know.
const LISTING: Duration = Duration::from_millis(500);
/// The index of `lo` in each network namespace.
const LOOPBACK: u32 = 1;
/// A beacon of a director that is new is answered, but not sooner than this after the last beacon.
const ANSWER: Duration = Duration::from_millis(100);

#[derive(Debug, Clone, Args)]
pub struct Options {
    /// keepalived's notify_fifo. Left out: `[watch] fifo` of the file; without that, roles come by
    /// `notify` or `role`.
    #[arg(long, value_name = "PATH")]
    fifo: Option<PathBuf>,
    /// The VRRP instance whose states count, for a file without groups; left out: every
    /// instance's. A [[group]] is named as its instance.
    #[arg(long)]
    instance: Option<String>,
    /// Where to write metrics, in Prometheus' text format: a file in a directory that only root
    /// can write to. Left out: `[watch] metrics` of the file.
    #[arg(long, value_name = "FILE")]
    metrics: Option<PathBuf>,
    /// Log in JSON, an object on each line: time (seconds since 1970), event (step, repair, seen,
    /// learned, told, elections, director, warning or failure), text.
    #[arg(long)]
    pub json: bool,
}

impl Options {
    /// These options, with files of the configuration where the command line names none.
    pub fn or(self, files: &WatchFiles) -> Self {
        Options {
            fifo: self.fifo.or_else(|| files.fifo.clone()),
            metrics: self.metrics.or_else(|| files.metrics.clone()),
            ..self
        }
    }

    /// What `lvs-node fifo` is asked for.
    pub fn follow(path: PathBuf, instance: Option<String>) -> Self {
        Options { fifo: Some(path), instance, metrics: None, json: false }
    }
}

/// A line of the log.
pub struct News<'a> {
    event: &'static str,
    text: &'a dyn Display,
}

impl<'a> News<'a> {
    fn of(event: &'static str, text: &'a dyn Display) -> Self {
        News { event, text }
    }

    fn step(step: &'a Step) -> Self {
        News::of("step", step)
    }

    /// As an object.
    pub fn json(&self) -> Value {
        let time = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
        json!({ "time": time, "event": self.event, "text": self.text.to_string() })
    }
}

/// For people.
impl Display for News<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.event {
            "repair" | "warning" => write!(f, "{}: {}", self.event, self.text),
            _ => self.text.fmt(f),
        }
    }
}

enum Event {
    Line(String),
    /// And when it came: it may have had to wait.
    Heard(Instant, Heard),
    /// A neighbour has another MAC address, or does not answer any more.
    Neighbour(Neighbour),
    /// An address was removed from the interface with this index.
    AddressGone(IpAddr, u32),
    /// So many connections were sent to the other nodes.
    Told(Result<usize>),
}

/// One group of VIPs of the node.
struct Member<'a> {
    node: &'a mut Node,
    follower: Option<Follower>,
    /// The role that was notified since the last look.
    notified: Option<Role>,
    /// A role that was not reached.
    failed: Option<Failed>,
    /// What was seen to be missing at the last look, at which request.
    missing: Option<(u64, Vec<String>)>,
    under_way: Option<(u64, Instant)>,
    /// A VIP was removed that this node has placed.
    misses_vip: bool,
    /// How often such a VIP is restored at once.
    restores: Bucket,
    /// The warnings that were logged.
    warned: Vec<String>,
    /// The other node that directs, as it was set last.
    director: Option<IpAddr>,
    /// How often that may change.
    turns: Bucket,
}

/// A role that was not reached, and is tried again after a pause.
#[derive(Clone, Copy)]
struct Failed {
    role: Role,
    at: Instant,
    pause: Duration,
    /// The number of the latest request at that time: a later one supersedes it.
    request: u64,
}

impl Member<'_> {
    fn name(&self) -> &str {
        &self.node.config().group
    }

    fn directs(&self) -> bool {
        matches!(self.node.role(), Ok(Some((Role::Master, true))))
    }
}

struct Watch<'a> {
    members: Vec<Member<'a>>,
    netns: Netns,
    sender: SyncSender<Event>,
    options: Options,
    /// The file that keepalived watches.
    track_file: Option<PathBuf>,
    looked: Instant,
    woke: Instant,
    plane: Option<Plane>,
    peers: Option<Peers>,
    /// Its index.
    sync_interface: Option<u32>,
    view: View,
    /// This start of this node.
    me: u64,
    learning: Learning,
    /// When the other directors were looked at last, whether one was heard since, and whether this
    /// node directed then.
    minded: Instant,
    director_heard: bool,
    directed: bool,
    /// Whether MAC addresses were learned that there are no rules for yet.
    learned: bool,
    /// The other nodes, as of the last look at the directors.
    known: BTreeSet<IpAddr>,
    /// The node's table, and since when other nodes' were not equal to it.
    table: Option<TableDigest>,
    unequal: BTreeMap<u64, Instant>,
    /// How often all connections were sent, and how many these were.
    told: (u64, u64),
    requests: ResyncRequests,
    finished: Option<Result<usize>>,
    /// What else was logged lately, about what, and when.
    lately: BTreeMap<String, (String, Instant)>,
    /// To be logged, and how often.
    news: Option<String>,
    learned_lines: Bucket,
    counts: Counts,
    checked: Due,
    beaconed: Due,
}

/// When something is to be done again.
#[derive(Debug, Clone, Copy)]
struct Due(Instant);

impl Due {
    /// Does the work, and says when it is due again: the longer it took, the later.
    fn run(&mut self, work: impl FnOnce()) {
        let start = Instant::now();
        work();
        // Of the clock's time, which is more than the processor's. That has a clock of its own,
        // but not on every kernel.
        let took = start.elapsed();
        self.0 = Instant::now() + CHECK.max(took * SHARE).min(LATEST);
    }

    fn is_now(&self) -> bool {
        Instant::now() >= self.0
    }
}

/// Only the FIFO.
pub fn follow(nodes: &mut [Node], netns: Netns, options: Options, tell: impl Fn(News)) -> Result<Infallible> {
    let (mut watch, events) = Watch::new(nodes, netns, options, None)?;
    loop {
        watch.next(&events);
        watch.follow(&tell);
    }
}

/// All of it.
pub fn run(
    nodes: &mut [Node],
    netns: Netns,
    options: Options,
    track_file: Option<PathBuf>,
    tell: impl Fn(News),
) -> Result<Infallible> {
    let (mut watch, events) = Watch::new(nodes, netns, options, track_file)?;
    watch.open_peers(&tell);
    watch.hear_neighbours();
    watch.begin(&tell);
    let _ = sd_notify::notify(&[NotifyState::Ready]);
    loop {
        watch.next(&events);
        watch.follow(&tell);
        watch.restore_vips(&tell);
        let now = Instant::now();
        if let Some(news) = watch.news.take().filter(|_| watch.learned_lines.take(now)) {
            tell(News::of("learned", &news));
        }
        if let Some(warning) = watch.plane.as_ref().and_then(|plane| plane.warning(now)) {
            tell(News::of("warning", &warning));
        }
        watch.follow_directors(&tell);
        if watch.checked.is_now() {
            let mut due = watch.checked;
            let first = !watch.is_missing_something();
            due.run(|| watch.check(&tell));
            // What is missing is to be looked at once more before it is repaired.
            if first && watch.is_missing_something() {
                due = Due(Instant::now() + CHECK);
            }
            watch.checked = due;
        }
        watch.tell_others(&tell);
        if watch.beaconed.is_now() {
            if watch.peers.is_none() {
                watch.open_peers(&tell);
            }
            watch.send_beacon();
            // Whatever else fails, a node is not kept out of elections for ever.
            if watch.learning.may_direct(now) {
                watch.take_part(&tell);
            }
        }
        let _ = sd_notify::notify(&[NotifyState::Watchdog]);
        watch.counts.busy += watch.woke.elapsed();
    }
}

impl<'a> Watch<'a> {
    /// It, and what comes in: lines of the FIFO at first.
    fn new(
        nodes: &'a mut [Node],
        netns: Netns,
        options: Options,
        track_file: Option<PathBuf>,
    ) -> Result<(Self, Receiver<Event>)> {
        let (sender, receiver) = sync_channel(QUEUE);
        if let Some(path) = options.fifo.clone() {
            let lines = sender.clone();
            fifo::read(path, move |line| lines.send(Event::Line(line)).is_ok());
        }
        let mut members = Vec::new();
        for node in nodes {
            let follower = options.fifo.is_some().then(|| Follower::new(netns.clone())).transpose()?;
            let director = node.director()?;
            members.push(Member {
                node,
                follower,
                notified: None,
                failed: None,
                missing: None,
                under_way: None,
                misses_vip: false,
                restores: Bucket::new(BURST, INTERVAL),
                warned: Vec::new(),
                director,
                turns: Bucket::new(BURST, INTERVAL),
            });
        }
        let now = Instant::now();
        let view = View::of(members.iter().flat_map(|member| member.node.config().vips.clone()));
        let watch = Watch {
            members,
            netns,
            sender,
            options,
            track_file,
            looked: now,
            woke: now,
            plane: None,
            peers: None,
            sync_interface: None,
            view,
            me: number(),
            learning: Learning::new(now),
            minded: now,
            director_heard: false,
            directed: false,
            learned: false,
            known: BTreeSet::new(),
            table: None,
            unequal: BTreeMap::new(),
            told: (0, 0),
            requests: ResyncRequests::default(),
            finished: None,
            lately: BTreeMap::new(),
            news: None,
            learned_lines: Bucket::new(BURST, INTERVAL),
            counts: Counts::default(),
            checked: Due(now),
            beaconed: Due(now),
        };
        Ok((watch, receiver))
    }

    /// The configuration that all groups share.
    fn config(&self) -> Config {
        self.members[0].node.config().clone()
    }

    fn is_missing_something(&self) -> bool {
        self.members.iter().any(|member| member.missing.as_ref().is_some_and(|(_, missing)| !missing.is_empty()))
    }

    /// Beacons come in from now on.
    fn hear_peers(&self, plane: Plane) {
        let (netns, sender, sync) = (self.netns.clone(), self.sender.clone(), self.config().sync);
        thread::spawn(move || {
            loop {
                if Peers::open_in(&netns, &sync, &plane).and_then(|peers| listen(&peers, &sender)).is_err() {
                    thread::sleep(BEACON);
                }
            }
        });
    }

    /// Changes of the neighbour table come in from now on.
    fn hear_neighbours(&self) {
        let (netns, sender) = (self.netns.clone(), self.sender.clone());
        thread::spawn(move || {
            loop {
                if listen_to_neighbours(&netns, &sender).is_err() {
                    thread::sleep(BEACON);
                }
            }
        });
    }

    /// Waits for what comes, for one tick at most.
    fn next(&mut self, events: &Receiver<Event>) {
        let first = events.recv_timeout(TICK).ok();
        self.woke = Instant::now();
        // All that a full FIFO holds is one change of role. Whatever comes, the rest is not put
        // off for ever.
        for event in first.into_iter().chain(iter::from_fn(|| events.try_recv().ok())).take(16 * QUEUE) {
            match event {
                Event::Line(line) => self.notify(&line),
                Event::Heard(_, Heard::Beacon(beacon)) if beacon.node == self.me => {}
                Event::Heard(at, Heard::Beacon(beacon)) => self.hear(at, beacon),
                Event::Heard(at, Heard::Presence(presence)) if presence.node != self.me => self.see(at, presence),
                Event::Heard(..) => {}
                Event::Neighbour(neighbour) => self.meet(&neighbour),
                Event::AddressGone(address, index) => self.miss(address, index),
                Event::Told(result) => self.finished = Some(result),
            }
        }
    }

    /// A line of the FIFO is for the group of that name, or for the only group.
    fn notify(&mut self, line: &str) {
        let Some((name, role)) = fifo::role(line) else { return };
        let instance = self.options.instance.as_deref();
        let is_meant = |member: &&mut Member| match member.name() {
            "" => instance.is_none_or(|instance| instance == name),
            group => group == name,
        };
        self.members.iter_mut().filter(is_meant).for_each(|member| member.notified = Some(role));
    }

    /// Takes on the roles that were notified, or that the VIPs show. What goes wrong is logged,
    /// and tried again: a node without its watch is no better off.
    fn follow(&mut self, tell: &impl Fn(News)) {
        let notified = self.members.iter().any(|member| member.notified.is_some());
        // A beacon is no reason to look: what is seen twice has to have lasted.
        if !notified && self.looked.elapsed() < TICK {
            return;
        }
        self.looked = Instant::now();
        for index in 0..self.members.len() {
            let member = &mut self.members[index];
            let notified = member.notified.take();
            let Some(follower) = &mut member.follower else { continue };
            match follower.look(member.node, notified, |text| tell(News::of("seen", text))) {
                Ok(Some(role)) => self.take_on(index, role, None, tell),
                Ok(None) => {
                    let Some(failed) = member.failed.filter(|failed| failed.at.elapsed() > failed.pause) else {
                        continue;
                    };
                    match member.node.generation() {
                        Ok(latest) if latest != failed.request => member.failed = None,
                        _ => self.take_on(index, failed.role, Some(failed.pause), tell),
                    }
                }
                Err(error) => self.fail("look", &error, tell),
            }
        }
    }

    /// `again`, after this pause: its steps were logged before, and are again only when it is
    /// done.
    fn take_on(&mut self, index: usize, role: Role, again: Option<Duration>, tell: &impl Fn(News)) {
        let member = &mut self.members[index];
        let step = |step: &Step| {
            if again.is_none() {
                tell(News::step(step));
            }
        };
        let result = member.node.become_role_with(role, step);
        member.failed = None;
        match result {
            Ok(plan) => {
                if again.is_some() {
                    plan.steps().iter().for_each(|step| tell(News::step(step)));
                }
                self.warn(index, plan.warnings(), tell);
            }
            // Another program has asked for another role since.
            Err(Error::Superseded { .. }) => {}
            Err(error) => {
                let pause = again.map_or(RETRY, |pause| (2 * pause).min(REMIND));
                let request = member.node.generation().unwrap_or_default();
                member.failed = Some(Failed { role, at: Instant::now(), pause, request });
                self.fail(&role.to_string(), &error, tell);
            }
        }
        self.members[index].director = self.members[index].node.director().ok().flatten();
        self.send_beacon();
    }

    fn fail(&mut self, what: &str, error: &dyn Display, tell: &impl Fn(News)) {
        self.counts.failures += 1;
        let text = format!("{what}: {error}");
        if self.is_new(what, &text) {
            tell(News::of("failure", &text));
        }
    }

    /// Whether something else was told of this last, or the same a while ago.
    fn is_new(&mut self, what: &str, text: &str) -> bool {
        let now = Instant::now();
        let before = self.lately.get(what);
        let new = before.is_none_or(|(before, at)| before != text || now.duration_since(*at) > REMIND);
        if new {
            self.lately.insert(what.to_owned(), (text.to_owned(), now));
        }
        new
    }

    /// Logs the warnings that were not there the last time.
    fn warn(&mut self, index: usize, warnings: &[String], tell: &impl Fn(News)) {
        let member = &mut self.members[index];
        let new = warnings.iter().filter(|warning| !member.warned.contains(warning));
        new.for_each(|warning| tell(News::of("warning", warning)));
        member.warned = warnings.to_vec();
    }

    fn directs(&self) -> bool {
        self.members.iter().any(Member::directs)
    }

    fn hear(&mut self, now: Instant, beacon: Beacon) {
        let answer = beacon.role == Role::Master && !self.view.directors(now).any(|known| known.node == beacon.node);
        if !self.view.heard(now, beacon.clone()) {
            return;
        }
        if beacon.wants {
            self.requests.ask(now, beacon.node);
        }
        if beacon.role == Role::Master {
            self.director_heard = true;
            self.counts.at_director = Some(beacon.known);
            let members = &mut self.members;
            if let Some(Learned { known, of }) = self.learning.heard(now, &beacon, || {
                let found: Vec<Status> = members.iter_mut().filter_map(|member| member.node.status().ok()).collect();
                let counted = known_by(found.iter());
                // What another director's daemon has sent of its marks counts for no destination.
                let listed = match counted < beacon.told.1 {
                    true => members[0].node.known_connections_within(LISTING).unwrap_or_default() as u64,
                    false => 0,
                };
                counted.max(listed)
            }) {
                (self.counts.known, self.counts.knows_all) = (known, known >= of);
                self.news = Some(format!("knows {known} of {of} connections"));
            }
        }
        // One director tells the other at once.
        if answer && self.directs() && self.beaconed.0 <= now + BEACON - ANSWER {
            self.send_beacon();
        }
    }

    /// Another node has these addresses, and sends from these MAC addresses.
    fn see(&mut self, now: Instant, presence: Presence) {
        let (addresses, macs) = (presence.addresses.clone(), presence.macs.clone());
        if !self.view.present(now, presence) {
            return;
        }
        self.director_heard = true;
        let learned = self.members[0].node.learn_macs(&addresses, &macs);
        self.learned |= learned.is_ok_and(|new| new);
    }

    /// A neighbour's entry has changed.
    fn meet(&mut self, neighbour: &Neighbour) {
        let address = neighbour.address;
        // Most neighbours are clients.
        if !self.known.contains(&address) {
            return;
        }
        let silent = neighbour.state == NeighbourState::Failed;
        // The director's packets do not go to a node that does not answer.
        self.learned |= silent && self.members.iter().any(|member| member.director == Some(address));
        if let Some(mac) = neighbour.mac.filter(|_| neighbour.state.is_valid()) {
            let learned = self.members[0].node.learn_macs(&[address].into(), &[mac].into());
            self.learned |= learned.is_ok_and(|new| new);
        }
    }

    /// An address was removed. keepalived removes its VIP itself, and notifies after it.
    fn miss(&mut self, address: IpAddr, interface: u32) {
        for member in &mut self.members {
            let config = member.node.config();
            let is_own = config.vip_owner == VipOwner::Node || interface == LOOPBACK;
            member.misses_vip |= is_own && config.vips.contains(&address);
        }
    }

    /// Restores VIPs that other programs have removed. A VIP that is removed again and again is
    /// left to the look at the whole.
    fn restore_vips(&mut self, tell: &impl Fn(News)) {
        for index in 0..self.members.len() {
            let member = &mut self.members[index];
            let missed = std::mem::take(&mut member.misses_vip);
            // A change of role removes VIPs, too.
            if !missed || !matches!(member.node.role(), Ok(Some((_, true)))) || !member.restores.take(Instant::now()) {
                continue;
            }
            match member.node.restore_vips() {
                Ok(plan) => {
                    let steps: Vec<String> = plan.steps().iter().map(Step::to_string).collect();
                    self.counts.repairs += u64::from(!plan.is_empty());
                    if !steps.is_empty() && self.is_new("repair", &steps.join("\n")) {
                        steps.iter().for_each(|step| tell(News::of("repair", step)));
                    }
                }
                Err(Error::Superseded { .. }) => {}
                Err(error) => self.fail("repair", &error, tell),
            }
        }
    }

    /// Follows which other node directs each group: there go packets of connections that this node
    /// does not know.
    fn follow_directors(&mut self, tell: &impl Fn(News)) {
        let now = Instant::now();
        let heard = std::mem::take(&mut self.director_heard) || self.learned;
        if !heard && now.duration_since(self.minded) < TICK {
            return;
        }
        self.minded = now;
        self.counts.directors_heard = self.view.directors(now).count() as u64;
        let directs = self.directs();
        if directs {
            self.learning.directs();
        } else if self.directed {
            // Connections that another director has opened meanwhile were not sent to this node.
            self.learning.ask();
        }
        self.directed = directs;
        // A look at the whole may be seconds away. A director that stayed out of elections
        // meanwhile would be replaced by each node that takes part.
        if self.learning.may_direct(now) {
            self.take_part(tell);
        }
        if std::mem::take(&mut self.learned) {
            for index in 0..self.members.len() {
                if let Err(error) = self.members[index].node.repair(|_| ()) {
                    self.fail("MAC addresses", &error, tell);
                }
            }
        }
        for index in 0..self.members.len() {
            let member = &mut self.members[index];
            let Ok(peers) = member.node.peers() else { continue };
            self.known.clone_from(&peers);
            let Ok(director) = self.view.director_of(now, member.name(), &peers, member.director) else { continue };
            if director == member.director || !member.turns.take(now) {
                continue;
            }
            member.director = director;
            let result = member.node.set_director(director);
            match director {
                Some(director) => tell(News::of("director", &format_args!("{director} directs"))),
                None => tell(News::of("director", &"the director is heard no more")),
            }
            if let Err(error) = result {
                self.fail("director", &error, tell);
            }
        }
    }

    /// Repairs what other programs have changed, if it stays so for two looks and no process is at
    /// work.
    fn check(&mut self, tell: &impl Fn(News)) {
        let mut all = Vec::new();
        for index in 0..self.members.len() {
            let member = &mut self.members[index];
            let status = match member.node.status() {
                Ok(status) => status,
                Err(error) => return self.fail("look", &error, tell),
            };
            if let Some((_, reached)) = status.role {
                let now = Instant::now();
                let since = match member.under_way {
                    Some((generation, since)) if generation == status.generation => since,
                    _ => now,
                };
                member.under_way = (!reached).then_some((status.generation, since));
                let free = reached || now.duration_since(since) > UNDER_WAY;
                let before = member.missing.replace((status.generation, status.drift.clone()));
                let lasts =
                    |(generation, before): (u64, Vec<String>)| generation == status.generation && !before.is_empty();
                if free && before.is_some_and(lasts) {
                    self.repair(index, tell);
                }
            }
            all.push((self.members[index].name().to_owned(), status));
        }
        let mut unequal = self.compare(&all);
        self.counts.other_clusters = self.view.other_clusters(Instant::now());
        if self.counts.other_clusters > 0 {
            let sync = self.config().sync;
            unequal.push(format!(
                "another cluster on {} uses sync id {}: give one of the two another [sync] id",
                sync.interface, sync.id
            ));
        }
        self.counts.refused = self.plane.as_ref().map_or(0, Plane::refused);
        for (index, (_, status)) in all.iter().enumerate() {
            let warnings =
                status.warnings.iter().chain(unequal.iter().filter(|_| index == 0)).cloned().collect::<Vec<_>>();
            self.warn(index, &warnings, tell);
        }
        self.count(&all, &unequal);
        if let Err(error) = self.show(&all) {
            self.fail("metrics", &error, tell);
        }
    }

    /// Which other nodes have had another table than this one for long.
    fn compare(&mut self, groups: &[(String, Status)]) -> Vec<String> {
        let now = Instant::now();
        let own = groups.iter().map(|(_, status)| status.digest()).fold(TableDigest::default(), TableDigest::and);
        self.table = Some(own);
        let unequal: BTreeMap<u64, String> = self
            .view
            .unequal(now, own)
            .map(|(presence, why)| {
                let known = presence.addresses.iter().find(|address| self.known.contains(address));
                let name =
                    known.or(presence.addresses.first()).map_or_else(|| "another node".into(), IpAddr::to_string);
                (presence.node, format!("{name} {why}"))
            })
            .collect();
        self.unequal.retain(|node, _| unequal.contains_key(node));
        let mut lasts = |node: u64| now.duration_since(*self.unequal.entry(node).or_insert(now)) > UNEQUAL;
        unequal.into_iter().filter(|(node, _)| lasts(*node)).map(|(_, text)| text).collect()
    }

    fn repair(&mut self, index: usize, tell: &impl Fn(News)) {
        let missing = self.members[index].missing.take().filter(|(_, missing)| !missing.is_empty());
        let Some((_, missing)) = missing else { return };
        // What another program undoes again and again is not logged each time.
        if self.is_new("repair", &missing.join("\n")) {
            missing.iter().for_each(|step| tell(News::of("repair", step)));
        }
        match self.members[index].node.repair(|_| ()) {
            Ok(plan) => {
                self.counts.repairs += 1;
                match started_daemon(&plan, SyncRole::Backup) {
                    // Nothing was learned without one, and the director was not asked.
                    true => self.learning.ask(),
                    false if started_daemon(&plan, SyncRole::Master) => self.requests.want(),
                    false => {}
                }
            }
            Err(Error::Superseded { .. }) => {}
            Err(error) => self.fail("repair", &error, tell),
        }
    }

    fn show(&mut self, groups: &[(String, Status)]) -> Result<()> {
        let Some(path) = self.options.metrics.clone() else { return Ok(()) };
        let text = metrics::text(groups, self.config().fence, &self.counts);
        Replacement::new(&path).mode(0o644).write(text)
    }

    /// Takes in how much is known here.
    fn count(&mut self, groups: &[(String, Status)], unequal: &[String]) {
        self.counts.known = match self.directs() {
            // What a resync sends.
            true => groups.iter().map(|(_, status)| status.connections()).sum(),
            false => known_by(groups.iter().map(|(_, status)| status)),
        };
        let now = Instant::now();
        match self.view.directors(now).map(|director| director.known).max() {
            Some(of) if !self.directs() => {
                self.learning.counted(Learned { known: self.counts.known, of });
                self.counts.knows_all &= !self.learning.asks();
            }
            Some(_) => {}
            None => self.counts.at_director = None,
        }
        let line = match self.counts.at_director.filter(|_| !self.directs()) {
            Some(of) => format!("knows {} of the director's {of} connections\n", self.counts.known),
            None => format!("knows {} connections\n", self.counts.known),
        };
        let unequal: String = unequal.iter().map(|text| format!("{text}\n")).collect();
        let _ = Replacement::new(&known_file(self.members[0].node)).write(line + &unequal);
    }

    /// Until it knows all connections, this node should not be the director.
    fn begin(&mut self, tell: &impl Fn(News)) {
        if self.directs() {
            self.learning.directs();
        }
        let Some(file) = self.track_file.clone().filter(|_| self.holds_out()) else { return };
        let out = fs::read_to_string(&file).is_ok_and(|text| !text.trim().is_empty() && text.trim() != "0");
        // A node that has the VIP keeps it: no other node knows more.
        let Ok(mut vips) = Vips::open_in(self.netns.clone()) else { return };
        let backup = |member: &Member| {
            matches!(fifo::shown(member.node, &mut vips), Ok(Some(Role::Backup)))
                && !matches!(member.node.role(), Ok(Some((Role::Master, _))))
        };
        // What an operator has written there is theirs.
        if out || !self.members.iter().all(backup) {
            return;
        }
        let node = &self.members[0].node;
        let held = node.prepare_state_dir().and_then(|()| Replacement::new(&self.held_file()).write(""));
        match held {
            Ok(()) => {
                tell(News::of("elections", &"takes no part in elections until it knows the director's connections"));
                if handover::give_way(&file).is_err() {
                    self.fail("elections", &format_args!("cannot write {}", file.display()), tell);
                }
            }
            Err(reason) => self.fail("elections", &reason, tell),
        }
    }

    fn holds_out(&self) -> bool {
        self.config().vip_owner == VipOwner::Keepalived
    }

    fn take_part(&mut self, tell: &impl Fn(News)) {
        let Some(file) = self.track_file.clone().filter(|_| self.held_file().exists()) else { return };
        match handover::end(&file) {
            Ok(()) => {
                let _ = fs::remove_file(self.held_file());
                tell(News::of("elections", &"takes part in elections"));
            }
            Err(_) => self.fail("elections", &format_args!("cannot write {}", file.display()), tell),
        }
    }

    /// Says that it was this program that let others go first.
    fn held_file(&self) -> PathBuf {
        held_file(self.members[0].node)
    }

    /// The director tells those who ask of everything.
    fn tell_others(&mut self, tell: &impl Fn(News)) {
        if let Some(result) = self.finished.take() {
            self.requests.end(Instant::now());
            match result {
                Ok(count) => {
                    self.told = (self.told.0 + 1, count as u64);
                    self.counts.resyncs += 1;
                    tell(News::of("told", &format_args!("sent {count} connections to the other nodes")));
                    self.send_beacon();
                }
                Err(error) => self.fail("resync", &error, tell),
            }
        }
        if !self.directs() || !self.requests.is_due(Instant::now()) {
            return;
        }
        // Who asks has to know first how often others were told before.
        self.send_beacon();
        self.requests.begin(Instant::now());
        let (config, netns, sender) = (self.config(), self.netns.clone(), self.sender.clone());
        // With very many connections it takes long, and roles do not wait for it.
        thread::spawn(move || {
            let result = Node::open_in(config, netns).and_then(|mut node| node.resync());
            // The receivers' kernels have yet to take it in.
            thread::sleep(BEACON / 4);
            let _ = sender.send(Event::Told(result));
        });
    }

    fn open_peers(&mut self, tell: &impl Fn(News)) {
        let sync = self.config().sync;
        let plane = match self.plane.clone().map_or_else(|| Plane::open(&sync), Ok) {
            Ok(plane) => plane,
            Err(error) => return self.fail("beacons", &error, tell),
        };
        if self.plane.is_none() {
            self.hear_peers(plane.clone());
            self.plane = Some(plane.clone());
        }
        let peers = match Peers::open_in(&self.netns, &sync, &plane) {
            Ok(peers) => peers,
            Err(error) => return self.fail("beacons", &error, tell),
        };
        let index = peers.interface_index();
        self.peers = Some(peers);
        if self.sync_interface.replace(index).is_some_and(|before| before != index) {
            tell(News::of("repair", &"sync daemons: started again, as their interface was made anew"));
            match self.members[0].node.restart_sync_daemons() {
                Ok(()) => self.counts.repairs += 1,
                Err(error) => self.fail("sync daemons", &error, tell),
            }
            // What was sent meanwhile did not arrive.
            self.learning.ask();
            self.requests.want();
        }
    }

    fn send_beacon(&mut self) {
        self.beaconed = Due(Instant::now() + BEACON);
        let Some(peers) = &self.peers else { return };
        let roles: Vec<(Role, bool)> =
            self.members.iter().filter_map(|member| member.node.role().ok().flatten()).collect();
        // A node directs where it directs one group.
        let directs = roles.iter().find(|(role, _)| *role == Role::Master);
        let (role, reached) = directs.or(roles.first()).copied().unwrap_or((Role::Stop, false));
        let id = self.config().sync.id;
        let beacon = Beacon {
            id,
            node: self.me,
            role,
            known: self.counts.known,
            told: self.told,
            // Before its role is reached it does not listen.
            wants: self.learning.asks() && reached && role != Role::Master,
        };
        let directing = self.members.iter().filter(|member| member.directs());
        let presence = Presence {
            id,
            node: self.me,
            table: self.table,
            directs: directing.map(|member| member.name().to_owned()).collect(),
            vips: Presence::digests(self.members.iter().flat_map(|member| member.node.config().vips.clone())),
            ..self.members[0].node.presence().unwrap_or_default()
        };
        // The interface is down, or new: it is opened again.
        if peers.send_presence(&presence).and_then(|()| peers.send(&beacon)).is_err() {
            self.peers = None;
        }
    }
}

/// How many connections a node knows that does not direct, from the status of each of its groups.
/// Those of its marks are a director's too.
fn known_by<'a>(groups: impl Iterator<Item = &'a Status>) -> u64 {
    let (mut own, mut marked) = (0, 0);
    for status in groups {
        own += status.connections();
        // The same for all groups.
        marked = status.marked;
    }
    own + marked
}

fn listen(peers: &Peers, sender: &SyncSender<Event>) -> Result<()> {
    // On an interface that was removed it is silent for ever.
    while let Some((_, heard)) = peers.receive(10 * BEACON)? {
        // Of more than there can be nodes, some are lost.
        let _ = sender.try_send(Event::Heard(Instant::now(), heard));
    }
    Ok(())
}

fn listen_to_neighbours(netns: &Netns, sender: &SyncSender<Event>) -> Result<()> {
    let mut monitor = Monitor::open_in(netns.clone())?;
    loop {
        let mut descriptors = [PollFd::new(&monitor, PollFlags::IN)];
        // Interrupted by a signal it looks, and waits again.
        let _ = poll(&mut descriptors, None);
        while let Some(event) = monitor.next()? {
            let event = match event {
                MonitorEvent::Neighbour(neighbour) => Event::Neighbour(neighbour),
                MonitorEvent::AddressGone { address, index } => Event::AddressGone(address, index),
                _ => continue,
            };
            // Of more than there can be nodes, some are lost; the next look at the whole finds
            // them.
            let _ = sender.try_send(event);
        }
    }
}

fn started_daemon(plan: &Plan, role: SyncRole) -> bool {
    plan.steps().iter().any(|step| match step {
        Step::Table(changes) => {
            changes.changes().iter().any(|change| matches!(change, Change::StartDaemon(daemon) if daemon.role == role))
        }
        _ => false,
    })
}

/// With many connections it is not written often.
const FRESH: Duration = Duration::from_secs(120);

/// Says that the watch keeps this node out of elections.
pub fn held_file(node: &Node) -> PathBuf {
    node.config().state_dir.join("held-out")
}

/// Where the watch writes how much this node knows.
pub fn known_file(node: &Node) -> PathBuf {
    node.config().state_dir.join("known")
}

/// What the watch has written there lately.
pub fn known(path: &Path) -> Option<String> {
    let fresh = fs::metadata(path).ok()?.modified().ok()?.elapsed().ok()? < FRESH;
    fs::read_to_string(path).ok().filter(|_| fresh).map(|text| text.trim_end().to_owned())
}

/// Another number at each start.
pub fn number() -> u64 {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one(std::process::id())
}

/// `lvs-node resync`: on the director, tells the others; elsewhere asks the director's watch to,
/// and says what came of it.
pub fn resync(node: &mut Node, netns: &Netns, limit: Duration) -> Result<Result<String, String>> {
    if matches!(node.role()?, Some((Role::Master, _))) {
        return Ok(Ok(format!("sent {} connections to the other nodes", node.resync()?)));
    }
    let sync = &node.config().sync;
    let plane = Plane::open(sync)?;
    let peers = Peers::open_in(netns, sync, &plane)?;
    let (mut learning, mut heard) = (Learning::new(Instant::now()), false);
    let (start, me, id) = (Instant::now(), number(), node.config().sync.id);
    let mut sent: Option<Instant> = None;
    while start.elapsed() < limit {
        if sent.is_none_or(|at| at.elapsed() > BEACON) {
            let role = node.role()?.map_or(Role::Stop, |(role, _)| role);
            // With a key, nodes accept each other's texts after each has sent two.
            peers.send(&Beacon { id, node: me, role, known: 0, told: (0, 0), wants: learning.asks() })?;
            sent = Some(Instant::now());
        }
        let Some((_, Heard::Beacon(beacon))) = peers.receive(BEACON / 4)? else { continue };
        if beacon.role != Role::Master {
            continue;
        }
        heard = true;
        let count = || node.known_connections().map_or(0, |known| known as u64);
        if let Some(Learned { known, of }) = learning.heard(Instant::now(), &beacon, count) {
            let text = format!("knows {known} of {of} connections");
            return Ok(if known >= of { Ok(text) } else { Err(text) });
        }
    }
    Ok(Err(match heard {
        true => format!("the director has not sent its connections within {limit:?}"),
        false => format!("no director was heard within {limit:?}: does it run `lvs-node watch`?"),
    }))
}
