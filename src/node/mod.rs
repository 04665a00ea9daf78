//! The role of a node: what it is for its VIPs, reached in the one order that loses no session.
//!
//! [`Node::become_role`] looks at the kernel, plans, acts, and looks again:
//!
//! 1. *Observe* what is there; nothing is taken from memory that the kernel can tell.
//! 2. *Plan*: from what is seen and what is wanted, the steps. [`Node::plan`] prints them and changes nothing.
//! 3. *Run* them, under a lock. Requests are numbered as they arrive; one that was overtaken by a later one is not carried out.
//! 4. *Verify*: observe again. A step that left no trace is an error that names it; what somebody else changed meanwhile is planned for.
//!
//! Every step can be done twice. A node that was killed anywhere, or started from any half state, gets to the role that it is
//! asked for next.
//!
//! ```no_run
//! use lvs_dr::node::{Config, Node, Role};
//!
//! let mut node = Node::open(Config::new("bond0", ["192.168.0.254".parse()?]))?;
//! print!("{}", node.plan(Role::Master)?);
//! node.become_role(Role::Master)?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

pub mod audit;
mod config;
mod decide;
mod fence;
mod kept;
mod learning;
mod observation;
mod peers;
mod plan;
mod repair;
mod role;
mod settings;
mod state;

pub use config::{ArpConfig, Config, Loopback, VipOwner};
pub use fence::{Fence, Sync};
pub use learning::{Learned, Learning};
pub use peers::{Beacon, Peers, View};
pub use plan::{Plan, Step, Wait};
pub use role::Role;

use std::collections::{BTreeMap, BTreeSet};
use std::iter;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use crate::arp::{Arp, ArpTarget, Settings};
use crate::error::{Cause, Error, Result};
use crate::ipvs::{DestinationEntry, Ipvs, ServiceEntry, SyncDaemon, SyncRole, Table, sync};
use crate::netns::Netns;
use crate::sysctl;
use crate::vip::{Located, Vips};
use decide::Wanted;
use observation::Observation;
use state::{Later, Request, State, StateDir};

/// How long a request waits for those before it.
const LOCK_LIMIT: Duration = Duration::from_secs(30);

/// How often a request that waits for a later one looks what has become of it.
const TURN_STEP: Duration = Duration::from_millis(5);

/// Connections that are forgotten sooner are not counted.
const LASTING: Duration = Duration::from_secs(5);

/// How long a director that steps down reads its connections, to tell of them. A hundred thousand take older
/// kernels a minute, and most of them the sync daemon has told of.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// How often a wait looks whether it is over, and after how long without a packet a drain is.
const WAIT_STEP: Duration = Duration::from_millis(20);
const DRAIN_QUIET: Duration = Duration::from_millis(250);

/// How often a node plans again for what others have changed meanwhile, before it gives up.
const ROUNDS: usize = 3;

/// A node of the cluster.
#[derive(Debug)]
pub struct Node {
    config: Config,
    ipvs: Ipvs,
    vips: Vips,
    arp: Arp,
    dir: StateDir,
}

/// What a node is, as far as it remembers and as the kernel shows.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Status {
    /// The role that was asked for last, and whether it was reached. `None`: none yet.
    pub role: Option<(Role, bool)>,
    /// The number of the last request.
    pub generation: u64,
    /// Each VIP, and everywhere that it sits.
    pub vips: Vec<(IpAddr, Vec<Located>)>,
    /// The ARP settings that count on the interface.
    pub arp: Settings,
    /// Whether ARP requests for a VIP on `lo` stay unanswered.
    pub hidden: bool,
    /// The kernel's services, all of them.
    pub table: Table,
    /// The same with their counters.
    pub entries: Vec<(ServiceEntry, Vec<DestinationEntry>)>,
    /// The sync daemons that run.
    pub daemons: Vec<SyncDaemon>,
    /// The table that a director of this node has.
    pub kept: Table,
    /// It directs beside another director, see [`Node::direct_beside_another`].
    pub beside: bool,
    /// It is about to hand over, see [`Node::prepare_handover`].
    pub handing_over: bool,
    /// What would have to be done for the role to be in place: nothing, if all is well.
    pub missing: Vec<String>,
    /// What [`Node::repair`] would do: nothing of what is health checks' to change.
    pub drift: Vec<String>,
    /// What an operator should know.
    pub warnings: Vec<String>,
}

impl Status {
    /// How many connections the destinations of the node's services count, and templates: also those that are about to be forgotten. Unlike
    /// [`Node::known_connections`] it costs nothing, however many there are.
    pub fn connections(&self) -> u64 {
        let own = self.entries.iter().filter(|(entry, _)| self.kept.service(&entry.service.id).is_some());
        own.flat_map(|(_, destinations)| destinations)
            .map(|found| u64::from(found.active) + u64::from(found.inactive) + u64::from(found.persistent))
            .sum()
    }
}

impl Node {
    /// A node in the calling thread's network namespace. Nothing is changed yet.
    ///
    /// # Errors
    /// [`Error::Invalid`]: see [`Config::check`]; [`Cause::NoIpvs`] (`ENOENT`); [`Cause::NoInterface`] (`ENODEV`), where the node has
    /// no role yet: one that loses its interface can still take on [`Role::Fault`] or [`Role::Stop`], and be released.
    pub fn open(config: Config) -> Result<Self> {
        Self::open_in(config, Netns::current()?)
    }

    /// A node in the given network namespace.
    ///
    /// # Errors
    /// As [`Node::open`], and [`Error::System`] when the namespace cannot be entered.
    pub fn open_in(config: Config, netns: Netns) -> Result<Self> {
        config.check()?;
        let arp = Arp::open_in(netns.clone());
        let dir = StateDir::new(&config.state_dir);
        // A node that has lost an interface must still be able to let go of what it holds.
        if dir.load_head().map_or(true, |state| state.role.is_none()) {
            check_interfaces(&config, &arp)?;
        }
        let (ipvs, vips) = (Ipvs::open_in(netns.clone())?, Vips::open_in(netns)?);
        Ok(Node { config, ipvs, vips, arp, dir })
    }

    /// What this node is to be.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// What would have to be done for this role. Changes nothing.
    ///
    /// # Errors
    /// [`Error::Foreign`]: a VIP belongs to somebody else; [`Error::State`]: what was remembered cannot be believed; the errors of
    /// reading the kernel's state.
    pub fn plan(&mut self, role: Role) -> Result<Plan> {
        self.plan_after(role.into(), &self.dir.load()?)
    }

    fn plan_after(&mut self, wanted: Wanted, state: &State) -> Result<Plan> {
        // Says now, and not halfway, that there is no such interface.
        if matches!(wanted.role, Role::Master | Role::Backup) {
            check_interfaces(&self.config, &self.arp)?;
        }
        let seen = self.observe(state)?;
        decide::for_role(&self.config, wanted, state, &seen)
    }

    /// Takes on a role, and returns what was done for it. Where all is in place already, nothing is.
    ///
    /// # Errors
    /// As [`Node::plan`]; [`Error::Overtaken`]: a later request came while this one waited; [`Error::Locked`];
    /// [`Error::Step`]: a step failed, those before it are done; [`Error::NotVerified`]. Whatever the error, the same request (or
    /// another) can be made again, and goes on from what is there.
    pub fn become_role(&mut self, role: Role) -> Result<Plan> {
        self.become_role_with(role, |_| ())
    }

    /// Takes on a role, and calls `before` with each step before it is done.
    ///
    /// # Errors
    /// As [`Node::become_role`].
    pub fn become_role_with(&mut self, role: Role, mut before: impl FnMut(&Step)) -> Result<Plan> {
        self.in_turn(&role.to_string(), |node, request| node.carry_out(role.into(), request, &mut before))
    }

    /// Takes on a role with services that are read only when a new director has done what cannot wait: sync daemon, VIP, announcement. For
    /// thousands of them; what is configured as [`Config::services`] until then is not looked at. The inner error is the reader's.
    ///
    /// # Errors
    /// As [`Node::become_role`]; [`Error::Invalid`] for services that do not fit the configuration.
    pub fn become_role_reading<E>(
        &mut self,
        role: Role,
        services: impl FnOnce() -> Result<Option<Table>, E>,
        mut before: impl FnMut(&Step),
    ) -> Result<Result<Plan, E>> {
        let mut services = Some(services);
        self.in_turn(&role.to_string(), |node, request| {
            let first = node.first_steps(role.into(), request, &mut before)?;
            if let Some(read) = services.take() {
                match read() {
                    Ok(table) => node.config.services = table,
                    Err(error) => return Ok(Err(error)),
                }
                node.config.check()?;
            }
            let state = node.dir.load()?;
            node.reach(role.into(), &state, first, request, &mut before).map(Ok)
        })
    }

    /// Takes on the role of a director beside another one: with fence `quiesce`, its own server takes all that is new, and what it knows it
    /// forwards; so two directors do no harm. [`Node::become_role`] with [`Role::Master`] ends that. For the other fences it is the same.
    ///
    /// Who hears of other directors ([`Peers`]) begins with it, and goes on when it is alone: then nothing needs to settle.
    ///
    /// # Errors
    /// As [`Node::become_role`].
    pub fn direct_beside_another(&mut self, mut before: impl FnMut(&Step)) -> Result<Plan> {
        let wanted = Wanted { beside: true, ..Role::Master.into() };
        self.in_turn("master", |node, request| node.carry_out(wanted, request, &mut before))
    }

    /// How many connections of its services this node knows, which last a while yet.
    ///
    /// # Errors
    /// As [`Ipvs::connections`].
    pub fn known_connections(&mut self) -> Result<usize> {
        let mut known = 0;
        let table = self.own_table()?;
        self.each_entry(&table, LASTING, None, |_| known += 1)?;
        Ok(known)
    }

    /// Tells the other nodes of all connections of its services, also of those made before they were there. Returns how many these were.
    ///
    /// # Errors
    /// As [`Ipvs::send_connections`]; [`Error::Invalid`] where the fence does not synchronise.
    pub fn resync(&mut self) -> Result<usize> {
        if !self.config.fence.syncs() {
            let reason = "its nodes tell each other of no connections: there is nothing to learn";
            return Err(Error::invalid(format!("resync with fence {}", self.config.fence), reason));
        }
        let table = self.own_table()?;
        // What is about to be forgotten would be forgotten there as well.
        let entries = self.entries_of(&table, 2 * LASTING, None)?;
        self.ipvs.send_connections(&self.config.sync.daemon(SyncRole::Master), &entries)?;
        Ok(entries.len())
    }

    fn entries_of(&mut self, table: &Table, lasting: Duration, limit: Option<Duration>) -> Result<Vec<sync::Entry>> {
        let mut entries = Vec::new();
        self.each_entry(table, lasting, limit, |entry| entries.push(entry))?;
        Ok(entries)
    }

    /// Shows each connection of this table's services that lasts so long yet, as it would be told of. One by one: there may be many. With a
    /// limit, those that are read in that time.
    fn each_entry(
        &mut self,
        table: &Table,
        lasting: Duration,
        limit: Option<Duration>,
        mut see: impl FnMut(sync::Entry),
    ) -> Result<()> {
        let make = sync::maker(table);
        self.ipvs.each_connection(limit, |connection| {
            if connection.expires >= lasting {
                make(&connection).into_iter().for_each(&mut see);
            }
        })
    }

    /// The table that connections are looked up in.
    fn own_table(&mut self) -> Result<Table> {
        if let Some(services) = &self.config.services {
            return Ok(services.clone());
        }
        let state = self.dir.load()?;
        let seen = self.observe(&state)?;
        Ok(kept::kept_table(&self.config, &state, &seen))
    }

    fn carry_out(&mut self, wanted: Wanted, request: &Request, before: &mut impl FnMut(&Step)) -> Result<Plan> {
        let first = self.first_steps(wanted, request, before)?;
        let state = self.dir.load()?;
        self.reach(wanted, &state, first, request, before)
    }

    /// Plans and acts until the role is in place. The lock is held, and `first` is done.
    fn reach(
        &mut self,
        wanted: Wanted,
        state: &State,
        first: Vec<Step>,
        request: &Request,
        before: &mut impl FnMut(&Step),
    ) -> Result<Plan> {
        let mut done = self.plan_after(wanted, state)?;
        // What was announced just now leaves no trace that the plan could see.
        done.steps.retain(|step| !matches!(step, Step::Announce(..)) || !first.contains(step));
        self.run(&done, request, before)?;
        done = done.preceded_by(first);
        let mut rounds = 1;
        loop {
            let again = self.plan_after(wanted, &done.after)?;
            match again.first_change() {
                None => {
                    done.warnings = again.warnings;
                    return Ok(done);
                }
                Some(step) if rounds == ROUNDS || done.steps.contains(step) => return Err(not_verified(step)),
                // Somebody has changed something meanwhile: keepalived has moved its VIP, say.
                Some(_) => {
                    self.run(&again, request, before)?;
                    done = again.preceded_by(done.steps);
                    rounds += 1;
                }
            }
        }
    }

    /// The first steps of a backup that is ready to direct. See [`decide::at_once`].
    fn first_steps(&mut self, wanted: Wanted, request: &Request, before: &mut impl FnMut(&Step)) -> Result<Vec<Step>> {
        if wanted.role != Role::Master {
            return Ok(Vec::new());
        }
        check_interfaces(&self.config, &self.arp)?;
        let state = self.dir.load_head()?;
        let mut table = Table::new();
        table.daemons = self.ipvs.daemons()?;
        let seen = self.observe_all_but_table(&state, table)?;
        let steps = decide::at_once(&self.config, &state, &seen).unwrap_or_default();
        let plan = Plan { steps, warnings: Vec::new(), during: state.clone(), after: state };
        self.run(&plan, request, before)?;
        Ok(plan.steps)
    }

    /// Prepares a director to give up the VIP, so that no session notices when it does: where the fence synchronises, new connections go to the
    /// successor from now on, and the others are told of all that there are. `successors`, most likely first, come before those of the
    /// configuration. It stays the director, until another role is asked for: [`Role::Backup`] once the VIP has moved,
    /// [`Role::Master`] if it did not.
    ///
    /// # Errors
    /// As [`Node::become_role`]; [`Error::Invalid`] where this node does not direct.
    pub fn prepare_handover(&mut self, successors: &[IpAddr], mut before: impl FnMut(&Step)) -> Result<Plan> {
        let successors: Vec<IpAddr> = successors.iter().chain(&self.config.successors).copied().collect();
        self.in_turn("handover", |node, request| {
            let state = node.dir.load()?;
            if !matches!(state.role, Some((Role::Master, _))) {
                return Err(Error::invalid("handover", "this node does not direct: there is nothing to hand over"));
            }
            let seen = node.observe(&state)?;
            let plan = decide::for_handover(&node.config, &successors, &state, &seen)?;
            node.run(&plan, request, &mut before)?;
            Ok(plan)
        })
    }

    /// Announces the VIPs of a director once more, [`Config::announce_again`] after its role was reached, as keepalived does: a
    /// neighbour may have missed the first announcement, or a switch have still been learning. Returns when that is done, or at once when
    /// another role is asked for, or there is nothing to announce. It holds no lock.
    ///
    /// # Errors
    /// As [`Vips::announce`].
    pub fn announce_again(&mut self) -> Result<()> {
        let Config { announce_again, vip_owner, .. } = self.config;
        let directs = |state: State| state.role == Some((Role::Master, true));
        if announce_again.is_zero() || vip_owner != VipOwner::Node || !directs(self.dir.load_head()?) {
            return Ok(());
        }
        let (generation, start) = (self.dir.latest_generation()?, Instant::now());
        while start.elapsed() < announce_again {
            std::thread::sleep(WAIT_STEP);
            if self.dir.latest_generation()? != generation {
                return Ok(());
            }
        }
        for vip in self.config.vips.clone() {
            self.announce(vip)?;
        }
        Ok(())
    }

    fn announce(&mut self, vip: IpAddr) -> Result<()> {
        match self.vips.announce(vip, &self.config.interface, self.config.announcements) {
            // Nobody hears it while the link is down, and the kernel's neighbours learn when it comes up.
            Err(error) if error.cause() == Some(Cause::InterfaceDown) => Ok(()),
            result => result.map(|_| ()),
        }
    }

    /// Does `work` under the lock, unless a later request is carried out instead. One that was killed is as if it had not been made: those
    /// before it wait for what becomes of it.
    fn in_turn<T>(&mut self, role: &str, mut work: impl FnMut(&mut Self, &Request) -> Result<T>) -> Result<T> {
        self.dir.prepare()?;
        let request = self.dir.request(role)?;
        let start = Instant::now();
        loop {
            match request.later()? {
                Later::Ended(latest) => return Err(request.overtaken(latest)),
                Later::Lives(latest) if start.elapsed() > LOCK_LIMIT => return Err(request.overtaken(latest)),
                Later::Lives(_) => std::thread::sleep(TURN_STEP),
                Later::None => {
                    let _lock = self.dir.lock(LOCK_LIMIT)?;
                    if request.later()? == Later::None {
                        match work(self, &request) {
                            Err(Error::Overtaken { .. }) => {}
                            result => return result,
                        }
                    }
                }
            }
        }
    }

    /// What would have to be done to give everything back. Changes nothing.
    ///
    /// # Errors
    /// As [`Node::plan`].
    pub fn plan_release(&mut self) -> Result<Plan> {
        let state = self.dir.load()?;
        let seen = self.observe(&state)?;
        decide::for_release(&self.config, &state, &seen)
    }

    /// Takes the node out: VIPs that it placed go, ARP settings get back the values that they had, a table that was found
    /// running is put back, and what is remembered is forgotten. What others have changed since stays.
    ///
    /// # Errors
    /// As [`Node::become_role`].
    pub fn release(&mut self, mut before: impl FnMut(&Step)) -> Result<Plan> {
        self.in_turn("release", |node, request| {
            let plan = node.plan_release()?;
            node.run(&plan, request, &mut before)?;
            Ok(plan)
        })
    }

    /// The role that was asked for last, and whether it was reached: what [`Status::role`] says, without looking at anything else.
    ///
    /// # Errors
    /// [`Error::State`]: what was remembered cannot be believed.
    pub fn role(&self) -> Result<Option<(Role, bool)>> {
        Ok(self.dir.load_head()?.role)
    }

    /// Whether it directs beside another director: what [`Status::beside`] says, without looking at anything else.
    ///
    /// # Errors
    /// As [`Node::role`].
    pub fn is_beside(&self) -> Result<bool> {
        Ok(self.dir.load_head()?.beside)
    }

    /// Makes the state directory, for a program that keeps a file of its own there.
    ///
    /// # Errors
    /// [`Error::System`]; [`Error::State`]: it is no directory, or not only this user's.
    pub fn prepare_state_dir(&self) -> Result<()> {
        self.dir.prepare()
    }

    /// The number of the last request: what [`Status::generation`] says, without looking at anything else.
    ///
    /// # Errors
    /// [`Error::System`]: the state directory cannot be read.
    pub fn generation(&self) -> Result<u64> {
        self.dir.latest_generation()
    }

    /// What the node is. Changes nothing.
    ///
    /// # Errors
    /// As [`Node::plan`], except that a VIP that belongs to somebody else is a warning.
    pub fn status(&mut self) -> Result<Status> {
        let state = self.dir.load()?;
        let entries = self.ipvs.entries()?;
        let table = entries.iter().cloned().collect();
        let seen = self.observe_with(&state, table)?;
        let generation = self.dir.latest_generation()?;
        let texts = |plan: &Plan| plan.steps().iter().map(Step::to_string).collect();
        let again = state.role.map(|(role, _)| Wanted::again(role, &state));
        let (missing, mut warnings) = match again.map(|wanted| decide::for_role(&self.config, wanted, &state, &seen)) {
            Some(Ok(plan)) => (texts(&plan), plan.warnings().to_vec()),
            Some(Err(error)) => (Vec::new(), vec![error.to_string()]),
            None => (Vec::new(), Vec::new()),
        };
        // What keeps it from being planned is warned of already.
        let mut drift: Vec<String> =
            repair::plan(&self.config, &state, &seen).map_or_else(|_| Vec::new(), |plan| texts(&plan));
        let arp = seen.arp_of(&ArpTarget::Interface(self.config.interface.clone()));
        if let Some(Err(error)) = arp.is_none().then(|| check_interfaces(&self.config, &self.arp)) {
            warnings.push(error.to_string());
            drift.clear();
        }
        let arp = arp.map_or(seen.arp_all, |own| own.joined(seen.arp_all));
        Ok(Status {
            role: state.role,
            generation,
            beside: state.beside,
            handing_over: state.handing_over,
            vips: self.config.vips.iter().map(|vip| (*vip, seen.vips.get(vip).cloned().unwrap_or_default())).collect(),
            arp,
            hidden: arp.ignore.hides_loopback_vip(true, seen.route_localnet),
            kept: kept::kept_table(&self.config, &state, &seen),
            daemons: seen.table.daemons.values().flatten().cloned().collect(),
            table: {
                let mut table = seen.table;
                table.daemons.clear();
                table
            },
            entries,
            missing,
            drift,
            warnings,
        })
    }

    fn observe(&mut self, state: &State) -> Result<Observation> {
        let table = self.ipvs.table()?;
        self.observe_with(state, table)
    }

    fn observe_with(&mut self, state: &State, mut table: Table) -> Result<Observation> {
        // Timeouts are not a node's business.
        table.daemons = self.ipvs.daemons()?;
        self.observe_all_but_table(state, table)
    }

    fn observe_all_but_table(&mut self, state: &State, table: Table) -> Result<Observation> {
        let vips: BTreeSet<IpAddr> =
            self.config.vips.iter().copied().chain(state.vips.iter().map(|(vip, _)| *vip)).collect();
        let own = ArpTarget::Interface(self.config.interface.clone());
        let configured = self.config.arp.iter().map(|arp| &arp.target);
        let arp_all = self.arp.get(&ArpTarget::All)?;
        let mut arp = vec![(ArpTarget::All, arp_all)];
        for target in iter::once(&own).chain(configured).chain(state.arp.iter().map(|change| &change.target)) {
            if arp.iter().any(|(known, _)| known == target) {
                continue;
            }
            let target = target.clone();
            match self.arp.get(&target) {
                Ok(settings) => arp.push((target, settings)),
                // An interface that was changed earlier may be gone, and its settings with it.
                Err(error) if error.cause() == Some(Cause::NoInterface) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(Observation {
            vips: vips.into_iter().map(|vip| Ok((vip, self.vips.locate(vip)?))).collect::<Result<_>>()?,
            arp_all,
            arp,
            route_localnet: self.arp.route_localnet()?,
            table,
            own: self.vips.addresses()?,
            sysctls: self.observe_sysctls(state)?,
        })
    }

    fn observe_sysctls(&mut self, state: &State) -> Result<BTreeMap<String, Option<String>>> {
        let needed = settings::needed_sysctls(&self.config, state).into_keys();
        let names: BTreeSet<String> =
            needed.chain(state.sysctls.keys().cloned()).chain(audit::SYSCTLS.map(str::to_owned)).collect();
        let paths: Vec<String> = names.iter().map(|name| sysctl_path(name)).collect();
        let values = sysctl::read_each(self.ipvs.netns(), &paths)?;
        // The kernel separates numbers by tabs.
        let spaced = |text: String| text.split_ascii_whitespace().collect::<Vec<_>>().join(" ");
        Ok(names.into_iter().zip(values.into_iter().map(|value| value.map(spaced))).collect())
    }

    /// Waits, until another role is asked for; a drain until packets have stopped coming.
    fn wait(&mut self, request: &Request, what: Wait, limit: Duration) -> Result<()> {
        let start = Instant::now();
        let (mut packets, mut since) = (self.ipvs.packets_in()?, start);
        while start.elapsed() < limit && (what != Wait::Drain || since.elapsed() < DRAIN_QUIET) {
            std::thread::sleep(WAIT_STEP);
            if let Later::Lives(latest) | Later::Ended(latest) = request.later()? {
                return Err(request.overtaken(latest));
            }
            let now = self.ipvs.packets_in()?;
            if now != packets {
                (packets, since) = (now, Instant::now());
            }
        }
        Ok(())
    }

    fn run(&mut self, plan: &Plan, request: &Request, before: &mut impl FnMut(&Step)) -> Result<()> {
        for (index, step) in plan.steps().iter().enumerate() {
            before(step);
            self.act(step, plan, request).map_err(|error| match error {
                overtaken @ Error::Overtaken { .. } => overtaken,
                error => Error::Step {
                    number: index + 1,
                    total: plan.steps().len(),
                    // The changes of a table are not repeated: its error names the one that failed.
                    step: step.to_string().lines().next().unwrap_or_default().to_owned(),
                    source: Box::new(error),
                },
            })?;
        }
        Ok(())
    }

    fn act(&mut self, step: &Step, plan: &Plan, request: &Request) -> Result<()> {
        match step {
            Step::Record { reached: false, .. } => self.dir.save(&plan.during),
            Step::Record { reached: true, .. } => self.dir.save(&plan.after),
            Step::Forget => self.dir.remove(),
            Step::Arp(change) => self.arp.apply(change),
            Step::GiveBackArp(change) => self.arp.give_back(change).map(|_| ()),
            Step::AddVip(vip, placement) => self.vips.add(*vip, placement).map(|_| ()),
            Step::RemoveVip(vip, placement) => self.vips.remove(*vip, placement).map(|_| ()),
            Step::Announce(vip, _) => self.announce(*vip),
            Step::Tell(daemon) => {
                let entries = self.entries_of(&plan.during.table, Duration::ZERO, Some(LAST_WORDS))?;
                self.ipvs.send_connections(daemon, &entries).map(|_| ())
            }
            Step::Table(changes) => self.ipvs.apply(changes),
            Step::Sysctl { name, value, .. } => sysctl::write(self.ipvs.netns(), &sysctl_path(name), value),
            Step::Wait(what, limit) => self.wait(request, *what, *limit),
        }
    }
}

fn check_interfaces(config: &Config, arp: &Arp) -> Result<()> {
    let own = ArpTarget::Interface(config.interface.clone());
    let sync = config.fence.syncs().then(|| ArpTarget::Interface(config.sync.interface.clone()));
    let configured = config.arp.iter().map(|wanted| &wanted.target);
    iter::once(&own).chain(configured).chain(&sync).try_for_each(|target| arp.get(target).map(drop))
}

fn sysctl_path(name: &str) -> String {
    format!("net/ipv4/vs/{name}")
}

fn not_verified(step: &Step) -> Error {
    let found = "it is still to be done: does another program change the same thing?".into();
    Error::NotVerified { step: step.to_string(), found }
}

/// See the crate's `fuzzing`.
#[cfg(any(fuzzing, test))]
pub(crate) mod fuzzing {
    use super::state::State;

    pub(crate) fn state(text: &str) {
        if let Ok(state) = State::parse(text) {
            assert_eq!(State::parse(&state.to_string()).unwrap(), state);
        }
    }
}
