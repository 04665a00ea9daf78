//! The acting part of a supervisor: reads what comes in, and does what the engine decides.

use std::collections::{BTreeSet, VecDeque};
use std::fmt::Display;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::iter;
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use super::engine::{
    Action, BEACON, Done, End, Engine, Event, Extent, Group, Look, Looks, Remembered, Supervised, TICK, known_by,
};
use super::fifo::{Fifo, notified_role};
use super::notice::{Counts, Notice};
#[cfg(feature = "serde")]
use super::recording::Record;
use super::survey::{Glanced, Survey, Surveyed};
use crate::error::{Error, Result};
use crate::files::Replacement;
use crate::ipvs::{self, ConnectionReader, Detail, SyncRole};
use crate::marks::{self, Mac, Monitor};
use crate::netns::Netns;
use crate::node::Node;
use crate::node::config::Config;
use crate::node::connections::{LASTING, SLICE, Sending};
use crate::node::driver::{Driver, Report};
use crate::node::fence::SyncConfig;
use crate::node::job::Task;
use crate::node::membership::OtherNode;
use crate::node::peers::{Peers, Plane, number};
use crate::node::plan::{Plan, Step};
use crate::node::role::Role;
use crate::node::status::Status;
use crate::wait::Readiness;

/// Time limit for the list of connections, where the counters show fewer than there are to know.
const LISTING: Duration = Duration::from_millis(500);
/// How often what is remembered is read where nothing shows that it has changed.
const REMEMBER: Duration = Duration::from_secs(2);
/// What is read of notifications and of datagrams at a time. The rest is read next.
const PIECE: usize = 256;

/// What is supervised.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct SupervisorConfig {
    /// keepalived's `notify_fifo`. `None`: roles come by [`Supervisor::request`], or from other
    /// processes.
    pub fifo: Option<PathBuf>,
    /// The VRRP instance whose states count for a node without groups; `None`: every instance's.
    /// A group is named as its instance.
    pub instance: Option<String>,
    /// The file that keepalived watches (`track_file`): a node stays out of elections until it
    /// knows the director's connections.
    pub track_file: Option<PathBuf>,
    /// Tell what each look at the whole has shown ([`Notice::Looked`]). All of the table is then
    /// read each time; without, only where it may have changed.
    pub statuses: bool,
    /// Roles only: nothing is repaired, and the other nodes are not heard.
    pub only_roles: bool,
    /// Whether events and decisions are recorded, for [`Supervisor::next_record`].
    #[cfg(feature = "serde")]
    pub record: bool,
}

/// Supervises a node: all its groups, for as long as it lives.
///
/// - Roles that keepalived writes to its FIFO are taken on. Where a line was lost, the VIPs show
///   it. A role that was not reached is tried again, until another one is asked for.
/// - What other programs change of what a role needs is set right: a VIP that this node has placed
///   within milliseconds, the rest within seconds.
/// - A beacon is sent every second. The director sends all connections to nodes that ask, and a
///   node that starts asks, and stays out of elections until it knows them.
/// - The node that directs is followed: packets of unknown connections go there.
///
/// One descriptor is readable when there is something to do, see [`Driver`]; then
/// [`Supervisor::dispatch`] does it, without waiting. It looks at the whole once a second, which
/// takes as long as the table is large; less often where that takes long.
///
/// ```no_run
/// use lvs_dr::node::{Config, Node, Supervisor, SupervisorConfig};
/// use rustix::event::{PollFd, PollFlags, poll};
///
/// let node = Node::open(Config::new("bond0", ["192.168.0.254".parse()?]))?;
/// let mut config = SupervisorConfig::default();
/// config.fifo = Some("/run/lvs-dr.fifo".into());
/// let mut supervisor = Supervisor::new(vec![node], config)?;
/// loop {
///     poll(&mut [PollFd::new(&supervisor, PollFlags::IN)], None)?;
///     supervisor.dispatch()?;
///     while let Some(notice) = supervisor.next_notice() {
///         println!("{notice}");
///     }
/// }
/// # #[allow(unreachable_code)]
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Supervisor {
    drivers: Vec<Driver>,
    engine: Engine,
    config: SupervisorConfig,
    netns: Netns,
    readiness: Readiness,
    fifo: Option<Fifo>,
    /// When the FIFO and the other sockets are looked for again.
    reopen_at: Instant,
    monitor: Option<Monitor>,
    plane: Option<Plane>,
    peers: Option<Peers>,
    /// How the nodes are reached, and the index of the interface.
    sync: SyncConfig,
    sync_interface: Option<u32>,
    resync: Option<Resync>,
    counting: Option<Counting>,
    survey: Survey,
    remembered: Vec<Remembered>,
    /// When it was read, and as of when it was.
    remembered_at: Instant,
    remembered_of: Option<SystemTime>,
    /// Steps of a role that is tried again: they were told before.
    again: Vec<Option<Vec<String>>>,
    events: VecDeque<Event>,
    notices: VecDeque<Notice>,
    #[cfg(feature = "serde")]
    records: VecDeque<Record>,
    #[cfg(feature = "serde")]
    started: Instant,
}

/// All connections are sent.
#[derive(Debug)]
enum Resync {
    Sending(Box<Sending>),
    /// The receivers' kernels have yet to take them in.
    Sent(usize, Instant),
}

/// Connections are counted by their list.
#[derive(Debug)]
struct Counting {
    reader: ConnectionReader,
    make: ipvs::sync::Maker,
    counted: u64,
    listed: u64,
    until: Instant,
}

impl Supervisor {
    /// Supervises these groups of one node. Nothing is changed yet.
    ///
    /// # Errors
    /// [`Error::Invalid`] without a node; [`Error::System`] with the errno: `EMFILE`, `ENFILE`,
    /// `ENOMEM`; [`Error::State`]: what was remembered cannot be believed.
    pub fn new(nodes: Vec<Node>, config: SupervisorConfig) -> Result<Self> {
        let Some(netns) = nodes.first().map(|node| node.ipvs.netns().clone()) else {
            return Err(Error::invalid("supervisor", "it needs a node"));
        };
        let supervised = |node: &Node| {
            Ok(Supervised {
                name: node.config.group.clone(),
                vips: node.config.vips.clone(),
                owner: node.config.vip_owner,
                follows: config.fifo.is_some(),
                director: node.director()?,
            })
        };
        let groups = nodes.iter().map(supervised).collect::<Result<Vec<_>>>()?;
        let sync = nodes[0].config.sync.clone();
        let extent = if config.only_roles { Extent::Roles } else { Extent::All };
        let (now, count, me) = (Instant::now(), nodes.len(), number());
        let mut supervisor = Supervisor {
            drivers: nodes.into_iter().map(Driver::new).collect::<Result<Vec<_>>>()?,
            engine: Engine::new(now, me, extent, groups.clone(), &sync),
            #[cfg(feature = "serde")]
            records: config.record.then(|| Record::start(me, extent, &groups, &sync)).into_iter().collect(),
            #[cfg(feature = "serde")]
            started: now,
            readiness: Readiness::new()?,
            fifo: config.fifo.as_deref().map(Fifo::new),
            reopen_at: now,
            config,
            netns,
            monitor: None,
            plane: None,
            peers: None,
            sync,
            sync_interface: None,
            resync: None,
            counting: None,
            survey: Survey::default(),
            remembered: Vec::new(),
            remembered_at: now,
            remembered_of: None,
            again: vec![None; count],
            events: VecDeque::new(),
            notices: VecDeque::new(),
        };
        for driver in &supervisor.drivers {
            supervisor.readiness.watch(driver.as_fd())?;
        }
        supervisor.readiness.wake_at(Some(now))?;
        supervisor.remember(now);
        if extent == Extent::All {
            supervisor.hold_out();
        }
        Ok(supervisor)
    }

    /// Takes on a role for the group of this name, as if keepalived had notified it. Does not
    /// wait. Says whether there is such a group.
    pub fn request(&mut self, group: &str, role: Role) -> bool {
        let Some(group) = self.drivers.iter().position(|driver| driver.config().group == group) else { return false };
        self.events.push_back(Event::Notified(group, role));
        // Where the timer fails, the next dispatch reports it.
        let _ = self.readiness.wake_at(Some(Instant::now()));
        true
    }

    /// Gives the node another configuration, of each group in the same order, and brings it in: as
    /// [`Node::apply`] does. Roles, and what is known of the other nodes, stay. Does not wait.
    ///
    /// # Errors
    /// As [`Node::reconfigure`], for the first group that is refused. Then every group keeps its
    /// configuration.
    pub fn reconfigure(&mut self, configs: Vec<Config>) -> Result<()> {
        if configs.len() != self.drivers.len() {
            let groups = |count: usize| format!("{count} group{}", if count == 1 { "" } else { "s" });
            let reason = format!(
                "the groups of a node cannot change while it is watched, and it has {}: start its supervisor again",
                self.drivers.len()
            );
            return Err(Error::invalid(groups(configs.len()), reason));
        }
        let accepted = self.drivers.iter_mut().zip(configs).map(|(driver, config)| driver.node_mut().accepted(config));
        let accepted = accepted.collect::<Result<Vec<_>>>()?;
        let sync = accepted[0].sync.clone();
        let mut groups = Vec::new();
        for (driver, config) in self.drivers.iter_mut().zip(accepted) {
            groups.push(Supervised {
                name: config.group.clone(),
                vips: config.vips.clone(),
                owner: config.vip_owner,
                follows: self.config.fifo.is_some(),
                director: None,
            });
            driver.adopt(config);
        }
        self.survey.forget();
        self.reopen_at = Instant::now();
        self.events.push_back(Event::Configured { groups, sync_interface: sync.interface, sync_id: sync.id });
        // Where the timer fails, the next dispatch reports it.
        let _ = self.readiness.wake_at(Some(Instant::now()));
        Ok(())
    }

    /// What was counted.
    pub fn counts(&self) -> &Counts {
        &self.engine.counts
    }

    /// The other nodes of the cluster, as far as they were received within the last minute, in the
    /// order of their addresses. Each sends a beacon every second, and is of no group alone.
    pub fn others(&self) -> Vec<OtherNode> {
        self.engine.others(Instant::now())
    }

    /// Takes the next notice. `None`: there is none at present.
    pub fn next_notice(&mut self) -> Option<Notice> {
        self.notices.pop_front()
    }

    /// Takes the next entry of the record, if [`SupervisorConfig::record`] asks for one. They
    /// take memory until they are taken. There are some each second.
    #[cfg(feature = "serde")]
    pub fn next_record(&mut self) -> Option<Record> {
        self.records.pop_front()
    }

    /// Does what there is to do now. To be called when the descriptor is readable, and at any time
    /// besides.
    ///
    /// # Errors
    /// [`Error::System`] where the descriptor fails. Every other failure is a [`Notice::Failure`],
    /// and is tried again.
    pub fn dispatch(&mut self) -> Result<()> {
        let start = Instant::now();
        if start >= self.reopen_at {
            self.reopen_at = start + TICK;
            self.reopen()?;
        }
        self.read_fifo();
        self.read_monitor();
        self.read_peers(start);
        self.read_reports()?;
        self.go_on(start);
        self.remember_changes(start);
        self.events.push_back(Event::Time);
        while let Some(event) = self.events.pop_front() {
            let now = Instant::now();
            for action in self.decide(now, event) {
                self.perform(now, action);
            }
        }
        if let Some(warning) = self.plane.as_ref().and_then(|plane| plane.warning(start)) {
            self.tell(Notice::Warning(warning));
        }
        self.engine.counts.refused = self.plane.as_ref().map_or(0, Plane::refused);
        self.engine.counts.busy += start.elapsed();
        self.arm()
    }

    #[cfg(feature = "serde")]
    fn decide(&mut self, now: Instant, event: Event) -> Vec<Action> {
        if !self.config.record {
            return self.engine.on(now, event);
        }
        let actions = self.engine.on(now, event.clone());
        self.records.push_back(Record::event(now - self.started, event, &actions));
        actions
    }

    #[cfg(not(feature = "serde"))]
    fn decide(&mut self, now: Instant, event: Event) -> Vec<Action> {
        self.engine.on(now, event)
    }

    fn arm(&mut self) -> Result<()> {
        let now = Instant::now();
        let reopen = (self.fifo.is_some() || !self.config.only_roles).then_some(self.reopen_at);
        let of_resync = self.resync.as_ref().map(|resync| match resync {
            Resync::Sending(sending) => sending.until(),
            Resync::Sent(_, until) => *until,
        });
        let of_reading = (self.counting.is_some() || self.survey.is_reading()).then_some(now);
        let pending = (!self.events.is_empty()).then_some(now);
        self.readiness
            .wake_at([self.engine.until(), reopen, of_resync, of_reading, pending].into_iter().flatten().min())
    }

    /// Opens what is not open, and what was made anew.
    fn reopen(&mut self) -> Result<()> {
        if let Some(fifo) = &mut self.fifo {
            match fifo.reopen() {
                Ok(true) => fifo.descriptor().map_or(Ok(()), |descriptor| self.readiness.watch(descriptor))?,
                Ok(false) => {}
                Err(error) => {
                    let path = self.config.fifo.as_deref().unwrap_or(Path::new("")).display().to_string();
                    self.fail(&path, &error);
                }
            }
        }
        if self.monitor.is_none() {
            match Monitor::open_in(self.netns.clone()) {
                Ok(monitor) => {
                    self.readiness.watch(monitor.as_fd())?;
                    self.monitor = Some(monitor);
                    // What has changed meanwhile was not notified.
                    self.survey.forget();
                    self.events.push_back(Event::Missed);
                }
                Err(error) => self.fail("notifications", &error),
            }
        }
        let sync = &self.drivers[0].config().sync;
        if *sync != self.sync {
            // The daemons are started by the task that brings it in.
            self.sync = sync.clone();
            (self.plane, self.peers, self.sync_interface) = (None, None, None);
        }
        if self.peers.is_none() && !self.config.only_roles {
            self.open_peers()?;
        }
        Ok(())
    }

    fn open_peers(&mut self) -> Result<()> {
        let sync = self.sync.clone();
        let plane = match self.plane.clone().map_or_else(|| Plane::open(&sync), Ok) {
            Ok(plane) => self.plane.insert(plane),
            Err(error) => {
                self.fail("beacons", &error);
                return Ok(());
            }
        };
        let peers = match Peers::open_in(&self.netns, &sync, plane) {
            Ok(peers) => peers,
            Err(error) => {
                self.fail("beacons", &error);
                return Ok(());
            }
        };
        self.readiness.watch(peers.as_fd())?;
        let index = peers.interface_index();
        self.peers = Some(peers);
        if self.sync_interface.is_some_and(|before| before != index) {
            match self.drivers[0].node_mut().restart_sync_daemons_now() {
                Ok(()) => self.tell(Notice::SyncRestarted),
                Err(error) => {
                    // The socket is opened again, and then they are.
                    self.peers = None;
                    self.fail("sync daemons", &error);
                    return Ok(());
                }
            }
            self.events.push_back(Event::NewSyncInterface);
        }
        self.sync_interface = Some(index);
        Ok(())
    }

    fn read_fifo(&mut self) {
        let Some(fifo) = &mut self.fifo else { return };
        // All that a full FIFO holds is one change of role.
        let mut last: Vec<Option<Role>> = vec![None; self.drivers.len()];
        for line in fifo.lines() {
            let Some((name, role)) = notified_role(&line) else { continue };
            let instance = self.config.instance.as_deref();
            for (group, driver) in self.drivers.iter().enumerate() {
                let is_meant = match driver.config().group.as_str() {
                    "" => instance.is_none_or(|instance| instance == name),
                    group => group == name,
                };
                if is_meant {
                    last[group] = Some(role);
                }
            }
        }
        let notified = last.into_iter().enumerate();
        self.events.extend(notified.filter_map(|(group, role)| Some(Event::Notified(group, role?))));
    }

    fn read_monitor(&mut self) {
        let Some(monitor) = &mut self.monitor else { return };
        for _ in 0..PIECE {
            self.events.push_back(match monitor.next() {
                Ok(None) => return,
                Ok(Some(marks::Event::Neighbour(neighbour))) => Event::Neighbour(neighbour),
                Ok(Some(marks::Event::Address { address, index })) => Event::Address { address, index, gone: false },
                Ok(Some(marks::Event::AddressGone { address, index })) => Event::Address { address, index, gone: true },
                Ok(Some(marks::Event::Missed)) => {
                    self.survey.forget();
                    Event::Missed
                }
                Ok(Some(_)) => continue,
                Err(_) => {
                    // It is opened again.
                    self.monitor = None;
                    return;
                }
            });
        }
    }

    fn read_peers(&mut self, now: Instant) {
        let Some(peers) = &self.peers else { return };
        for _ in 0..PIECE {
            match peers.next(now) {
                Ok(None) => return,
                Ok(Some((_, heard))) => self.events.push_back(Event::Heard(heard)),
                Err(_) => {
                    self.peers = None;
                    return;
                }
            }
        }
    }

    /// Takes in how far the tasks are.
    fn read_reports(&mut self) -> Result<()> {
        for group in 0..self.drivers.len() {
            self.drivers[group].dispatch()?;
            while let Some(report) = self.drivers[group].next_report() {
                match report {
                    Report::Step { task: Task::Role(_), step } => match &mut self.again[group] {
                        Some(steps) => steps.push(step.to_string()),
                        None => self.tell(Notice::Step(step.to_string())),
                    },
                    Report::Step { task: Task::Apply(_), step } => {
                        self.tell(Notice::Step(step.to_string()));
                    }
                    Report::Step { .. } => {}
                    Report::Ended { task, result } => self.ended(group, task, result),
                }
            }
        }
        Ok(())
    }

    fn ended(&mut self, group: Group, task: Task, result: Result<Plan>) {
        let now = Instant::now();
        self.remember(now);
        let request = self.drivers[group].node().generation().unwrap_or_default();
        let end = match result {
            Ok(plan) => {
                if let Task::Role(_) = task {
                    let steps = self.again[group].take().into_iter().flatten();
                    self.notices.extend(steps.map(Notice::Step));
                }
                End::Done(Done {
                    steps: plan.steps().iter().map(Step::to_string).collect(),
                    warnings: plan.warnings().to_vec(),
                    started_backup: started_daemon(&plan, SyncRole::Backup),
                    started_master: started_daemon(&plan, SyncRole::Master),
                })
            }
            Err(Error::Superseded { .. }) => End::Superseded,
            Err(error) => End::Failed(error.to_string()),
        };
        if let Task::Role(_) = task {
            self.again[group] = None;
            let director = self.drivers[group].node().director().ok().flatten();
            self.events.push_back(Event::Director(group, director));
        }
        self.events.push_back(Event::Ended { group, task, end, request });
    }

    /// Reads what is remembered of each group where that has changed, and now and then.
    fn remember_changes(&mut self, now: Instant) {
        let age = now.duration_since(self.remembered_at);
        let differs = || self.drivers[0].node().remembered_at() != self.remembered_of;
        if age >= REMEMBER || (age >= TICK && differs()) {
            self.remember(now);
        }
    }

    /// Reads what is remembered of each group.
    fn remember(&mut self, now: Instant) {
        (self.remembered_at, self.remembered_of) = (now, self.drivers[0].node().remembered_at());
        let all: Vec<Remembered> =
            self.drivers.iter().map(|driver| driver.node().remembered().unwrap_or_default()).collect();
        if all != self.remembered {
            self.remembered.clone_from(&all);
            self.events.push_back(Event::Remembered(all));
        }
    }

    fn tell(&mut self, notice: Notice) {
        #[cfg(feature = "log")]
        notice.log();
        self.notices.push_back(notice);
    }

    fn fail(&mut self, what: &str, error: &dyn Display) {
        self.events.push_back(Event::Failed { what: what.to_owned(), error: error.to_string() });
    }

    fn perform(&mut self, now: Instant, action: Action) {
        match action {
            Action::Tell(notice) => self.tell(notice),
            Action::Request(group, task) => self.begin(group, task),
            Action::Retry(group, role, request) => match self.drivers[group].node().generation() {
                Ok(latest) if latest != request => self.events.push_back(Event::NotRetried(group)),
                _ => {
                    self.again[group] = Some(Vec::new());
                    self.begin(group, Task::Role(role));
                }
            },
            Action::Show(group) => match self.drivers[group].node_mut().shown_role() {
                Ok(role) => self.events.push_back(Event::Shown(group, role)),
                Err(error) => self.fail("look", &error),
            },
            Action::Look => self.look(now),
            Action::Count(of) => self.count(now, of),
            Action::Resync => match Sending::begin(self.drivers[0].node_mut(), 2 * LASTING, None) {
                Ok(sending) => self.resync = Some(Resync::Sending(Box::new(sending))),
                Err(error) => self.resynced(Err(error)),
            },
            Action::SendBeacon => self.send_beacon(),
            Action::LearnMacs(addresses, macs) => self.learn_macs(&addresses, &macs),
            Action::Point(group, director) => {
                let node = self.drivers[group].node_mut();
                match node.set_director_now(director) {
                    Ok(()) => {
                        let group = node.config.group.clone();
                        self.tell(Notice::Director { group, director });
                    }
                    Err(error) => {
                        let remembered = node.director().ok().flatten();
                        self.events.push_back(Event::Director(group, remembered));
                        if !matches!(error, Error::Locked { .. }) {
                            self.fail("director", &error);
                        }
                    }
                }
            }
            Action::TakePart => self.take_part(),
        }
    }

    fn begin(&mut self, group: Group, task: Task) {
        if let Err(error) = self.drivers[group].request(task) {
            let end = End::Failed(error.to_string());
            let request = self.drivers[group].node().generation().unwrap_or_default();
            self.events.push_back(Event::Ended { group, task, end, request });
            self.fail("descriptor", &error);
        }
    }

    fn look(&mut self, now: Instant) {
        // Where each status is wanted there is nothing to be spared.
        let begun = if self.config.statuses { self.tell_statuses(now) } else { self.begin_survey(now) };
        self.surveyed(begun);
    }

    fn begin_survey(&mut self, now: Instant) -> Result<Surveyed> {
        let basis = self.drivers.iter_mut().map(|driver| driver.node_mut().basis()).collect::<Result<_>>()?;
        self.survey.begin(now, basis, &self.netns)
    }

    fn tell_statuses(&mut self, now: Instant) -> Result<Surveyed> {
        // The table is the same for all groups, and its counters are read once.
        let details = iter::once(Detail::Counters).chain(iter::repeat(Detail::Configuration));
        let read = |(driver, detail): (&mut Driver, Detail)| {
            Ok((driver.config().group.clone(), driver.node_mut().status_with(detail)?))
        };
        let statuses = self.drivers.iter_mut().zip(details).map(read).collect::<Result<Vec<_>>>()?;
        let groups = statuses.iter().map(|(_, status)| Look::of(status)).collect();
        self.tell(Notice::Looked(statuses));
        Ok(Surveyed::Looks(Looks { groups, counted: true, took: now.elapsed() }))
    }

    fn surveyed(&mut self, result: Result<Surveyed>) {
        match result {
            Ok(Surveyed::Reading) => {}
            Ok(Surveyed::Looks(looks)) => self.events.push_back(Event::Looked(looks)),
            Ok(Surveyed::Changed(glanced)) => {
                let read = self.read_statuses(glanced);
                self.surveyed(read);
            }
            Err(error) => {
                self.events.push_back(Event::LookFailed);
                self.fail("look", &error);
            }
        }
    }

    fn read_statuses(&mut self, glanced: Glanced) -> Result<Surveyed> {
        let start = Instant::now();
        let values = self.drivers[0].config().mark_values();
        let statuses = self.drivers.iter_mut().map(Driver::status).collect::<Result<Vec<_>>>()?;
        Ok(self.survey.has_read(start, glanced, &statuses, values))
    }

    fn count(&mut self, now: Instant, of: u64) {
        let looks: Vec<Look> =
            self.drivers.iter_mut().filter_map(|driver| driver.status().ok()).map(|status| Look::of(&status)).collect();
        let counted = known_by(&looks);
        // What another director's daemon has sent of its marks counts for no destination.
        let listing = || -> Result<Counting> {
            let node = self.drivers[0].node_mut();
            let (table, _) = node.tables()?;
            let reader = ConnectionReader::open(node.ipvs.netns())?;
            Ok(Counting { reader, make: ipvs::sync::Maker::new(table), counted, listed: 0, until: now + LISTING })
        };
        match (counted < of).then(listing) {
            Some(Ok(counting)) => self.counting = Some(counting),
            _ => self.events.push_back(Event::Counted(counted)),
        }
    }

    /// Goes on with what takes longer than one dispatch.
    fn go_on(&mut self, now: Instant) {
        if self.survey.is_reading() {
            let surveyed = self.survey.go_on(now);
            self.surveyed(surveyed);
        }
        if let Some(mut counting) = self.counting.take() {
            match counting.go_on(now) {
                true => self.counting = Some(counting),
                false => self.events.push_back(Event::Counted(counting.counted.max(counting.listed))),
            }
        }
        match self.resync.take() {
            Some(Resync::Sending(mut sending)) => match sending.go_on(self.drivers[0].node_mut(), now) {
                Ok(None) => self.resync = Some(Resync::Sending(sending)),
                Ok(Some(count)) => self.resync = Some(Resync::Sent(count, now + BEACON / 4)),
                Err(error) => self.resynced(Err(error)),
            },
            Some(Resync::Sent(count, until)) if now >= until => self.resynced(Ok(count)),
            waits => self.resync = waits,
        }
    }

    fn resynced(&mut self, result: Result<usize>) {
        self.events.push_back(Event::Resynced(result.as_ref().ok().copied()));
        if let Err(error) = result {
            self.fail("resync", &error);
        }
    }

    fn send_beacon(&mut self) {
        let Some(peers) = &self.peers else { return };
        let (beacon, presence) = self.engine.texts(self.drivers[0].config().sync.id);
        let mut presence = presence.at(self.drivers[0].node_mut().presence().unwrap_or_default());
        env!("CARGO_PKG_VERSION").clone_into(&mut presence.version);
        presence.changed = self.engine.counts.role_changed.map(|at| at.elapsed().as_secs());
        // The interface is down, or new: it is opened again.
        if peers.send_presence(&presence).and_then(|()| peers.send(&beacon)).is_err() {
            self.peers = None;
        }
    }

    fn learn_macs(&mut self, addresses: &BTreeSet<IpAddr>, macs: &BTreeSet<Mac>) {
        // Another process is at work: the next presence says the same.
        if matches!(self.drivers[0].node_mut().learn_macs(addresses, macs), Ok(true)) {
            self.events.push_back(Event::LearnedMacs);
        }
    }

    /// Until it knows all connections, this node should not be the director. Where keepalived
    /// elects, and the node is a backup.
    fn hold_out(&mut self) {
        let Some(file) = self.config.track_file.clone() else { return };
        let is_backup = |driver: &mut Driver| {
            matches!(driver.node_mut().shown_role(), Ok(Some(Role::Backup)))
                && !matches!(driver.node().role(), Ok(Some((Role::Master, _))))
        };
        let out = fs::read_to_string(&file).is_ok_and(|text| !text.trim().is_empty() && text.trim() != "0");
        // What an operator has written there is theirs. A node that has the VIP keeps it: no other
        // node knows more.
        if out || !self.drivers.iter_mut().all(is_backup) {
            return;
        }
        let node = self.drivers[0].node();
        let held = node.prepare_state_dir().and_then(|()| Replacement::new(&node.held_out_file()).write(""));
        match held {
            Ok(()) => {
                self.tell(Notice::Elections(false));
                if let Err(error) = set_track_file(&file, 1) {
                    self.fail("elections", &error);
                }
            }
            Err(error) => self.fail("elections", &error),
        }
    }

    fn take_part(&mut self) {
        let held_out = self.drivers[0].node().held_out_file();
        let Some(file) = self.config.track_file.clone().filter(|_| held_out.exists()) else { return };
        match set_track_file(&file, 0) {
            Ok(()) => {
                let _ = fs::remove_file(held_out);
                self.tell(Notice::Elections(true));
            }
            Err(error) => self.fail("elections", &error),
        }
    }
}

impl AsFd for Supervisor {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.readiness.as_fd()
    }
}

impl Counting {
    /// `false`: it has ended.
    fn go_on(&mut self, now: Instant) -> bool {
        let (slice, listed, make) = (now + SLICE, &mut self.listed, &self.make);
        let mut see = |connection: ipvs::Connection| {
            *listed += u64::from(connection.expires >= LASTING && make.entry(&connection).is_some());
        };
        loop {
            match self.reader.read(&mut see) {
                Ok(true) if Instant::now() >= self.until => return false,
                Ok(true) if Instant::now() < slice => {}
                Ok(more) => return more,
                Err(_) => return false,
            }
        }
    }
}

impl Look {
    pub(super) fn of(status: &Status) -> Self {
        Look {
            role: status.role,
            request: status.generation,
            drift: status.drift.clone(),
            warnings: status.warnings.clone(),
            connections: status.connections(),
            marked: status.marked,
            digest: status.digest(),
        }
    }
}

fn started_daemon(plan: &Plan, role: SyncRole) -> bool {
    let starts = |change: &ipvs::Change| matches!(change, ipvs::Change::StartDaemon(daemon) if daemon.role == role);
    plan.steps().iter().any(|step| match step {
        Step::Table(changes) => changes.changes().iter().any(starts),
        _ => false,
    })
}

/// Writes a number to the file that keepalived watches (`track_file` in keepalived.conf(5)): with
/// 0 the node takes part in elections, with 1 it lets others go first, where the file has a
/// weight. Follows no symbolic link.
///
/// # Errors
/// [`Error::System`] with the errno.
pub fn set_track_file(file: &Path, value: u8) -> Result<()> {
    let write = || -> io::Result<()> {
        // keepalived watches the file itself: it is not replaced.
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(true).mode(0o644).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK);
        options.open(file)?.write_all(format!("{value}\n").as_bytes())
    };
    write().map_err(|error| Error::system("write", file.display(), error))
}
