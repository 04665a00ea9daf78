//! The role of a node: what it is for its VIPs, reached in the one order that loses no session.
//!
//! [`Node::become_role`] looks at the kernel, plans, acts, and looks again:
//!
//! 1. *Observe* the kernel. Nothing is taken from memory that the kernel can tell.
//! 2. *Plan* the steps, from what is seen and what is wanted. [`Node::plan`] returns them and
//!    changes nothing.
//! 3. *Run* them, under a lock. Requests are numbered as they arrive; one that a later one
//!    supersedes is not carried out.
//! 4. *Verify*: observe again. A step that left no trace is an error that names it; what another
//!    program changed meanwhile is planned for.
//!
//! Every step can be done twice. A node that was killed anywhere, or started from any half state,
//! reaches the role that it is asked for next.
//!
//! The promotion of a backup reads no services and changes no destination, however many there are:
//! it moves the VIP, announces it, removes one rule for each VIP and interface, and starts the
//! sync daemon.
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
mod beacon;
mod catch_up;
mod config;
mod digest;
mod fence;
mod limit;
mod membership;
mod names;
mod observation;
mod observe;
mod peers;
mod plan;
mod planner;
mod repair;
mod requests;
mod role;
mod seal;
mod services;
mod settings;
mod stand_down;
mod state;

pub use beacon::{Beacon, Heard, Presence};
pub use catch_up::{Learned, Learning};
pub use config::{ArpConfig, Config, Loopback, MarksConfig, OwnRequests, VipOwner};
pub use digest::TableDigest;
pub use fence::marks::MarkValues;
pub use fence::{Fence, SyncConfig};
pub use limit::{Bucket, ResyncRequests};
pub use membership::{Unheard, View};
pub use peers::{Peers, Plane};
pub use plan::{Plan, Step};
pub use role::Role;
pub use services::Apply;
pub use state::StoredTable;

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::iter;
use std::net::IpAddr;
use std::ops::Range;
use std::time::{Duration, Instant};

use crate::arp::{Arp, ArpTarget, Settings};
use crate::error::{Cause, Error, Result};
use crate::ipvs::{
    Connection, DestinationEntry, Ipvs, Scheduler, ServiceEntry, ServiceId, SyncDaemon, SyncRole, Table, sync,
};
use crate::marks::{self, LocalMarks, Mac, Marks};
use crate::netns::Netns;
use crate::sysctl;
use crate::vip::{AssignedAddress, Vips};
use digest::fnv;
use observe::Look;
use planner::Memory;
use requests::{Later, Pauses, Request};
use state::{State, StateDir};

/// Time limit for the requests before this one.
const LOCK_LIMIT: Duration = Duration::from_secs(30);

/// Connections that expire earlier are ignored.
const LASTING: Duration = Duration::from_secs(5);

/// Time limit for reading the connections when a director is demoted. A hundred thousand take
/// older kernels a minute, and the sync daemon has sent most of them.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// Interval at which a wait looks whether it is over.
const WAIT_STEP: Duration = Duration::from_millis(20);

/// Time limit for the answer of a director on the link to a request for its VIP.
const PROBE_LIMIT: Duration = Duration::from_millis(50);

/// Time limit for the answer of a former director, which may be busy.
const ALIVE_LIMIT: Duration = Duration::from_millis(200);

/// What sending ends with on an interface that is gone, is down, or has lost its addresses.
const UNHEARD: [i32; 4] = [libc::ENODEV, libc::ENETDOWN, libc::ENETUNREACH, libc::EADDRNOTAVAIL];

/// How many VIPs the other nodes are asked for.
const PROBED_VIPS: usize = 2;

/// The most addresses that a node sends about itself.
const ADDRESSES: usize = 24;

/// How often a node plans again for what other programs have changed meanwhile.
const ROUNDS: usize = 3;

/// A node of the cluster, for one group of VIPs.
#[derive(Debug)]
pub struct Node {
    config: Config,
    ipvs: Ipvs,
    vips: Vips,
    arp: Arp,
    marks: Marks,
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
    pub vips: Vec<(IpAddr, Vec<AssignedAddress>)>,
    /// The ARP settings that count on the interface.
    pub arp: Settings,
    /// Whether ARP requests for a VIP on `lo` stay unanswered.
    pub hidden: bool,
    /// The kernel's services, without those of the node's own marks.
    pub table: Table,
    /// The same with their counters.
    pub entries: Vec<(ServiceEntry, Vec<DestinationEntry>)>,
    /// How many connections the services of the node's marks count, of all groups. The director of
    /// a backup knows them too.
    pub marked: u64,
    /// The sync daemons that run.
    pub daemons: Vec<SyncDaemon>,
    /// The table of this node as a director. With fence `marks`, its part of `table`.
    pub kept: Table,
    /// The rules that mark packets, as the kernel has them.
    pub rules: BTreeSet<marks::Rule>,
    /// The other nodes, with the MAC addresses that they send from.
    pub peers: BTreeMap<IpAddr, BTreeSet<Mac>>,
    /// The other node that directs, or directed last, as far as it is known.
    pub director: Option<IpAddr>,
    /// The steps that are missing for the role to be in place: none, if all is well.
    pub missing: Vec<String>,
    /// What [`Node::repair`] would do.
    pub drift: Vec<String>,
    /// What an operator should know.
    pub warnings: Vec<String>,
}

impl Status {
    /// How many connections the destinations of the node's services count, and templates: also
    /// those that expire soon. Unlike [`Node::known_connections`] it costs nothing, however many
    /// there are.
    pub fn connections(&self) -> u64 {
        let own = self.entries.iter().filter(|(entry, _)| self.kept.service(&entry.service.id).is_some());
        counted(own)
    }

    /// The digest of the node's services in the kernel, to be compared with other nodes'.
    pub fn digest(&self) -> TableDigest {
        let own = |id: &ServiceId| self.kept.service(id).is_some();
        let order = self.entries.iter().filter(|(entry, _)| own(&entry.service.id)).map(|(entry, destinations)| {
            let service = &entry.service;
            let listed = destinations.iter().filter(|_| service.scheduler == Scheduler::MH);
            let text: String = listed.map(|found| format!(" {}", found.destination.address)).collect();
            // Services come in no order of their own.
            fnv(format!("{}{text}", service.id).bytes())
        });
        TableDigest {
            table: fnv(self.table.filtered(own).to_string().bytes()),
            order: order.fold(0, u64::wrapping_add),
        }
    }
}

fn counted<'a>(entries: impl Iterator<Item = &'a (ServiceEntry, Vec<DestinationEntry>)>) -> u64 {
    let destinations = entries.flat_map(|(_, destinations)| destinations);
    destinations.map(|found| u64::from(found.active) + u64::from(found.inactive) + u64::from(found.persistent)).sum()
}

impl Node {
    /// A node in the calling thread's network namespace. Nothing is changed yet.
    ///
    /// # Errors
    /// [`Error::Invalid`]: see [`Config::check`]; [`Cause::NoIpvs`] (`ENOENT`);
    /// [`Cause::NoInterface`] (`ENODEV`), where the node has no role yet: one that loses its
    /// interface can still take on [`Role::Fault`] or [`Role::Stop`], and be released.
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
        let dir = StateDir::new(&config.state_dir, &config.group);
        // A node that has lost an interface must still be able to let go of what it holds.
        if dir.load().map_or(true, |state| state.group(&config.group).role.is_none()) {
            check_interfaces(&config, &arp)?;
        }
        let marks = Marks::open_in(netns.clone(), dir.owner())?;
        let (ipvs, vips) = (Ipvs::open_in(netns.clone())?, Vips::open_in(netns)?);
        Ok(Node { config, ipvs, vips, arp, marks, dir })
    }

    /// What this node is to be.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Plans a role. Changes nothing.
    ///
    /// # Errors
    /// [`Error::Foreign`]: a VIP, a mark or a sync daemon belongs to another program;
    /// [`Error::Invalid`]: the kernel cannot do what the fence needs; [`Error::State`]: what was
    /// remembered cannot be believed; the errors of reading the kernel's state.
    pub fn plan(&mut self, role: Role) -> Result<Plan> {
        let memory = self.remember()?;
        self.plan_after(role, Apply::Changes, &memory, Look::All)
    }

    fn plan_after(&mut self, role: Role, apply: Apply, memory: &Memory, look: Look) -> Result<Plan> {
        // Says now, and not half-way, that there is no such interface.
        if matches!(role, Role::Master | Role::Backup) {
            check_interfaces(&self.config, &self.arp)?;
        }
        let seen = self.observe_for(&memory.state, look)?;
        planner::for_role(&self.config, role, apply, memory, &seen)
    }

    /// Takes on a role, and returns what was done for it. Where all is in place already, nothing
    /// is.
    ///
    /// # Errors
    /// As [`Node::plan`]; [`Error::Superseded`]: a later request came while this one waited;
    /// [`Error::Locked`]; [`Error::Step`]: a step failed, those before it are done;
    /// [`Error::NotVerified`]. Whatever the error, the same request (or another) can be made
    /// again, and goes on from what is there.
    pub fn become_role(&mut self, role: Role) -> Result<Plan> {
        self.become_role_with(role, |_| ())
    }

    /// Takes on a role, and calls `before` with each step before it is done.
    ///
    /// # Errors
    /// As [`Node::become_role`].
    pub fn become_role_with(&mut self, role: Role, mut before: impl FnMut(&Step)) -> Result<Plan> {
        match self.take_on(role, None::<fn() -> Result<_, Infallible>>, &mut before)? {
            Ok(plan) => Ok(plan),
            Err(never) => match never {},
        }
    }

    /// Takes on a role with services that are read only where they are needed: not for the
    /// promotion of a backup that is ready. What is configured as [`Config::services`] until then
    /// is not looked at. The inner error is the reader's.
    ///
    /// # Errors
    /// As [`Node::become_role`]; [`Error::Invalid`] for services that do not fit the
    /// configuration.
    pub fn become_role_reading<E>(
        &mut self,
        role: Role,
        services: impl FnOnce() -> Result<Option<Table>, E>,
        mut before: impl FnMut(&Step),
    ) -> Result<Result<Plan, E>> {
        self.take_on(role, Some(services), &mut before)
    }

    fn take_on<E, R: FnOnce() -> Result<Option<Table>, E>>(
        &mut self,
        role: Role,
        services: Option<R>,
        before: &mut impl FnMut(&Step),
    ) -> Result<Result<Plan, E>> {
        match self.try_to_take_on(role, services, before) {
            Ok(Ok(plan)) => Ok(Ok(plan)),
            Ok(Err(unreadable)) => {
                self.record_unreached(role);
                if role != Role::Master {
                    let error = self.stand_down(role, Error::invalid("services", "they cannot be read"));
                    if matches!(&error, Error::Demotion { left, .. } if !left.is_empty()) {
                        return Err(error);
                    }
                }
                Ok(Err(unreadable))
            }
            Err(error @ Error::Superseded { .. }) => Err(error),
            Err(error) => {
                self.record_unreached(role);
                Err(if role == Role::Master { error } else { self.stand_down(role, error) })
            }
        }
    }

    fn try_to_take_on<E, R: FnOnce() -> Result<Option<Table>, E>>(
        &mut self,
        role: Role,
        mut services: Option<R>,
        before: &mut impl FnMut(&Step),
    ) -> Result<Result<Plan, E>> {
        self.in_turn(&role.to_string(), |node, request| {
            let done = match node.promote_at_once(role, request, before)? {
                Some(done) => match node.dir.load()?.group(&node.config.group).loaded {
                    Some(_) => done,
                    // The program that loaded the services may have changed ports and servers
                    // since.
                    None => node.reach(role, Apply::Changes, request, before)?.preceded_by(done.steps),
                },
                None => {
                    if let Some(read) = services.take() {
                        match read() {
                            Ok(table) => node.config.services = table,
                            Err(error) => return Ok(Err(error)),
                        }
                        node.config.check()?;
                    }
                    node.reach(role, Apply::Changes, request, before)?
                }
            };
            node.look_for_director(role)?;
            Ok(Ok(done))
        })
    }

    /// Remembers that the node was told this role and has not reached it, where it has a role
    /// already.
    fn record_unreached(&self, role: Role) {
        let record = || -> Result<()> {
            let _lock = self.dir.lock(Duration::ZERO)?;
            let mut state = self.dir.load()?;
            let Some(group) = state.groups.get_mut(&self.config.group) else { return Ok(()) };
            if group.role.replace((role, false)) != Some((role, false)) {
                self.dir.save(&state)?;
            }
            Ok(())
        };
        // The error of the role itself is reported.
        let _ = record();
    }

    /// Brings the configured services into the kernel's table: what was changed in the
    /// configuration since it was loaded, or all of it. Destinations are changed in place, and
    /// keep their connections.
    ///
    /// # Errors
    /// As [`Node::become_role`]; [`Error::Invalid`] where no role was taken on yet.
    pub fn apply(&mut self, apply: Apply, mut before: impl FnMut(&Step)) -> Result<Plan> {
        self.beside("apply", LOCK_LIMIT, |node, request| {
            let role = node.present_role("apply")?;
            node.reach(role, apply, request, &mut before)
        })
    }

    /// Plans what [`Node::apply`] would do. Changes nothing.
    ///
    /// # Errors
    /// As [`Node::plan`]; [`Error::Invalid`] where no role was taken on yet.
    pub fn plan_apply(&mut self, apply: Apply) -> Result<Plan> {
        let (role, memory) = (self.present_role("apply")?, self.remember()?);
        self.plan_after(role, apply, &memory, Look::All)
    }

    fn present_role(&self, what: &str) -> Result<Role> {
        let role = self.dir.load()?.group(&self.config.group).role;
        role.map(|(role, _)| role)
            .ok_or_else(|| Error::invalid(what, "this node has taken on no role yet: let it take on one first"))
    }

    /// How many connections of its services this node knows, also those that its marks have
    /// scheduled, without those that expire soon.
    ///
    /// # Errors
    /// As [`Ipvs::connections`].
    pub fn known_connections(&mut self) -> Result<usize> {
        let mut known = 0;
        let (table, _) = self.tables()?;
        let make = sync::maker(&table);
        self.each_connection(LASTING, None, |connection| known += usize::from(make(&connection).is_some()))?;
        Ok(known)
    }

    /// Sends all connections of the node's services to the other nodes' sync daemons, also those
    /// opened before these nodes joined, and those that this node served itself before it
    /// directed. Returns how many these were.
    ///
    /// # Errors
    /// As [`Ipvs::send_connections`].
    pub fn resync(&mut self) -> Result<usize> {
        // An entry that is about to expire would expire there as well.
        let entries = self.entries(2 * LASTING, None)?;
        self.ipvs.send_connections(&self.config.sync.daemon(SyncRole::Master), &entries)?;
        Ok(entries.len())
    }

    /// What the other nodes are to know, of connections that last so long; with a limit, those
    /// that are read in that time.
    fn entries(&mut self, lasting: Duration, limit: Option<Duration>) -> Result<Vec<sync::Entry>> {
        let mut entries = Vec::new();
        let (table, of_marks) = self.tables()?;
        let (make, seen_by_others) =
            (sync::maker(&table), fence::marks::seen_by_others(&table, &of_marks, self.config.marks.values));
        self.each_connection(lasting, limit, |connection| {
            entries.extend(seen_by_others(connection).and_then(|connection| make(&connection)));
        })?;
        Ok(entries)
    }

    /// Shows each connection that lasts so long. One by one: there may be many.
    fn each_connection(
        &mut self,
        lasting: Duration,
        limit: Option<Duration>,
        mut see: impl FnMut(Connection),
    ) -> Result<()> {
        self.ipvs.each_connection(limit, |connection| {
            if connection.expires >= lasting {
                see(connection);
            }
        })
    }

    /// The table that connections are looked up in, and the services of the node's marks.
    fn tables(&mut self) -> Result<(Table, Table)> {
        let (table, values) = (self.ipvs.table()?, self.config.marks.values);
        Ok((table.filtered(|id| !values.owns(id)), table.filtered(|id| values.owns(id))))
    }

    /// Plans and acts until the role is in place. The lock is held.
    fn reach(&mut self, role: Role, apply: Apply, request: &Request, before: &mut impl FnMut(&Step)) -> Result<Plan> {
        let mut done = self.plan_after(role, apply, &self.remember()?, Look::AllAndResolve)?;
        self.run(&done, request, before)?;
        let mut rounds = 1;
        loop {
            let memory = Memory { state: done.after.clone(), ..self.remember()? };
            let again = self.plan_after(role, Apply::Changes, &memory, Look::All)?;
            match again.first_change() {
                None => {
                    done.warnings = again.warnings;
                    return Ok(done);
                }
                Some(step) if rounds == ROUNDS || done.steps.contains(step) => return Err(not_verified(step)),
                // Another program has changed something meanwhile: keepalived has moved its VIP,
                // say.
                Some(_) => {
                    self.run(&again, request, before)?;
                    done = again.preceded_by(done.steps);
                    rounds += 1;
                }
            }
        }
    }

    /// The promotion of a backup that has all it needs. `None`: it has to be looked at in full.
    fn promote_at_once(
        &mut self,
        role: Role,
        request: &Request,
        before: &mut impl FnMut(&Step),
    ) -> Result<Option<Plan>> {
        if role != Role::Master {
            return Ok(None);
        }
        check_interfaces(&self.config, &self.arp)?;
        let state = self.dir.load()?;
        let seen = self.observe_in_brief(&state)?;
        let Some(plan) = planner::promotion(&self.config, &state, &seen) else { return Ok(None) };
        self.run(&plan, request, before)?;
        let seen = self.observe_in_brief(&plan.after)?;
        let left = planner::left_of_promotion(&self.config, &plan.after, &seen);
        // What another program has changed meanwhile is looked at in full.
        Ok(left.is_empty().then_some(plan))
    }

    /// Looks for the other node that directs, which the rules for packets of its connections
    /// depend on: a backup asks the link for the VIP, a director whether the one before it is
    /// alive. Blocks for 200 ms at most, or 50 ms for each VIP, where no node answers.
    fn look_for_director(&mut self, role: Role) -> Result<()> {
        if self.config.fence != Fence::Marks {
            return Ok(());
        }
        let state = self.dir.load()?;
        let before = state.group(&self.config.group).director;
        let netns = self.ipvs.netns().clone();
        let found = match (role, before) {
            (Role::Master, None) => return Ok(()),
            (Role::Master, Some(director)) => {
                let Some((interface, None)) = self.marks.route_to(director)? else { return Ok(()) };
                // A link that cannot be asked says nothing.
                let Ok(answers) = marks::who_has(&netns, &interface, director, ALIVE_LIMIT, Duration::ZERO) else {
                    return Ok(());
                };
                before.filter(|_| !answers.is_empty())
            }
            _ => {
                // The VIPs of a group move together.
                let answers = self.config.vips.iter().take(PROBED_VIPS).find_map(|vip| {
                    let limit = PROBE_LIMIT / PROBED_VIPS as u32;
                    let found = marks::who_has(&netns, &self.config.interface, *vip, limit, Duration::ZERO).ok()?;
                    (!found.is_empty()).then_some(found)
                });
                let Some(answers) = answers else { return Ok(()) };
                let known = |macs: &BTreeSet<Mac>| answers.iter().any(|mac| macs.contains(mac));
                state.peers.iter().find(|(_, macs)| known(macs)).map(|(peer, _)| *peer).or(before)
            }
        };
        if found != before { self.point_at(found) } else { Ok(()) }
    }

    /// Says which other node directs this group's VIPs, or that the one that did is dead (`None`).
    /// Packets of connections that this node does not know, and that another director may, are
    /// sent there; without one they are served here. A program that follows the nodes' beacons
    /// calls it.
    ///
    /// # Errors
    /// As [`Node::repair`].
    pub fn set_director(&mut self, director: Option<IpAddr>) -> Result<()> {
        if self.config.fence != Fence::Marks || self.dir.load()?.group(&self.config.group).director == director {
            return Ok(());
        }
        self.dir.prepare()?;
        let _lock = self.dir.lock(LOCK_LIMIT)?;
        self.point_at(director)
    }

    /// The lock is held.
    fn point_at(&mut self, director: Option<IpAddr>) -> Result<()> {
        let mut state = self.dir.load()?;
        let Some(group) = state.groups.get_mut(&self.config.group) else { return Ok(()) };
        group.director = director;
        self.dir.save(&state)?;
        let seen = self.mark_services(&state)?;
        // One that does not answer is not pointed at: see the planner.
        let silent = self
            .marks
            .neighbours()?
            .iter()
            .any(|found| Some(found.address) == director && found.state == marks::NeighbourState::Failed);
        if let (true, Some(group)) = (silent, state.groups.get_mut(&self.config.group)) {
            group.director = None;
        }
        planner::pointing(&self.config, &state, &seen).iter().try_for_each(|plan| self.ipvs.apply(plan))
    }

    /// The other node that directs this group, or directed it last, as far as it is known: what
    /// [`Status::director`] says.
    ///
    /// # Errors
    /// As [`Node::role`].
    pub fn director(&self) -> Result<Option<IpAddr>> {
        Ok(self.dir.load()?.group(&self.config.group).director)
    }

    /// The addresses of the other nodes, as destinations.
    ///
    /// # Errors
    /// As [`Node::role`].
    pub fn peers(&self) -> Result<BTreeSet<IpAddr>> {
        Ok(self.dir.load()?.peers.into_keys().collect())
    }

    /// What this node sends to the others about itself, but for its number and its groups.
    ///
    /// # Errors
    /// Those of reading addresses and interfaces.
    pub fn presence(&mut self) -> Result<Presence> {
        let vips: BTreeSet<IpAddr> = self.config.vips.iter().copied().collect();
        let usable = |found: &AssignedAddress| found.interface != "lo" && !vips.contains(&found.address);
        let addresses: Vec<AssignedAddress> = self.vips.on_interfaces()?.into_iter().filter(usable).collect();
        let interfaces: BTreeSet<&str> = addresses.iter().map(|found| found.interface.as_str()).collect();
        let mut macs = BTreeSet::new();
        for interface in interfaces {
            macs.extend(self.marks.macs(interface)?);
        }
        let addresses = addresses.iter().map(|found| found.address).take(ADDRESSES).collect();
        Ok(Presence { addresses, macs: macs.into_iter().take(ADDRESSES).collect(), ..Presence::default() })
    }

    /// Remembers MAC addresses of another node, by its addresses: of nodes that are destinations
    /// of this one. Says whether any is new. The rules for them follow with [`Node::repair`], or
    /// with the next role.
    ///
    /// # Errors
    /// As [`Node::repair`].
    pub fn learn_macs(&mut self, addresses: &BTreeSet<IpAddr>, macs: &BTreeSet<Mac>) -> Result<bool> {
        let learn = |state: &mut State| {
            let mut new = false;
            for (_, known) in state.peers.iter_mut().filter(|(peer, _)| addresses.contains(peer)) {
                for mac in macs.iter().filter(|mac| mac.is_unicast()) {
                    new |= known.len() < planner::MACS && known.insert(*mac);
                }
            }
            new
        };
        if !learn(&mut self.dir.load()?) {
            return Ok(false);
        }
        let _lock = self.dir.lock(LOCK_LIMIT)?;
        let mut state = self.dir.load()?;
        let new = learn(&mut state);
        self.dir.save(&state)?;
        Ok(new)
    }

    /// Announces the VIPs of a director once more, [`Config::announce_again`] after its role was
    /// reached, as keepalived does: a neighbour may have missed the first announcement, or a
    /// switch have still been learning. Returns when that is done, or at once when another role is
    /// asked for, or there is nothing to announce. It holds no lock.
    ///
    /// # Errors
    /// As [`Vips::announce`].
    pub fn announce_again(&mut self) -> Result<()> {
        let Config { announce_again, vip_owner, .. } = self.config;
        if announce_again.is_zero() || vip_owner != VipOwner::Node || self.role()? != Some((Role::Master, true)) {
            return Ok(());
        }
        let (generation, start) = (self.dir.requests().latest()?, Instant::now());
        while start.elapsed() < announce_again {
            std::thread::sleep(WAIT_STEP);
            if self.dir.requests().latest()? != generation {
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
            // It cannot be sent while the link is down, and the kernel's neighbours learn when it
            // comes up.
            Err(error) if error.cause() == Some(Cause::InterfaceDown) => Ok(()),
            result => result.map(|_| ()),
        }
    }

    /// Does `work` under the lock, unless a later request is carried out instead. Where the later
    /// request was killed, or gave up without a change, the earlier one goes on.
    fn in_turn<T>(&mut self, role: &str, mut work: impl FnMut(&mut Self, &Request) -> Result<T>) -> Result<T> {
        self.dir.prepare()?;
        let request = self.dir.requests().draw(role)?;
        let (start, mut pauses) = (Instant::now(), Pauses::new());
        loop {
            match request.later()? {
                Later::Ended(latest) => return Err(request.superseded(latest)),
                Later::Lives(latest) if start.elapsed() > LOCK_LIMIT => return Err(request.superseded(latest)),
                Later::Lives(_) => pauses.sleep(),
                Later::None => match self.dir.lock(Duration::ZERO) {
                    Err(Error::Locked { .. }) if start.elapsed() < LOCK_LIMIT => pauses.sleep(),
                    Err(Error::Locked { object, .. }) => return Err(Error::Locked { object, waited: LOCK_LIMIT }),
                    lock => {
                        let _lock = lock?;
                        if request.later()? == Later::None {
                            request.begin();
                            match work(self, &request) {
                                Err(Error::Superseded { .. }) => {}
                                result => return result,
                            }
                        }
                    }
                },
            }
        }
    }

    /// Does `work` under the lock, and supersedes no request. It yields to every request that
    /// waits or comes meanwhile, and begins again after it, until `patience` has passed.
    fn beside<T>(
        &mut self,
        what: &str,
        patience: Duration,
        mut work: impl FnMut(&mut Self, &Request) -> Result<T>,
    ) -> Result<T> {
        self.dir.prepare()?;
        let (start, mut pauses) = (Instant::now(), Pauses::new());
        loop {
            let lock = self.dir.lock(LOCK_LIMIT)?;
            let request = self.dir.requests().beside(what)?;
            let result = match self.dir.requests().is_pending()? {
                true => Err(request.superseded(self.dir.requests().latest()?)),
                false => work(self, &request),
            };
            drop(lock);
            match result {
                Err(Error::Superseded { .. }) if start.elapsed() < patience => pauses.sleep(),
                result => return result,
            }
        }
    }

    /// Plans to give everything back. Changes nothing.
    ///
    /// # Errors
    /// As [`Node::plan`].
    pub fn plan_release(&mut self) -> Result<Plan> {
        let mut memory = self.remember()?;
        if planner::is_last(&self.config, &memory.state) {
            for name in memory.state.obsolete(&self.config) {
                let dir = StateDir::new(&self.config.state_dir, &name);
                services::take_in(&mut memory.loaded, &dir.load_table(StoredTable::Loaded)?);
            }
        }
        let seen = self.observe_for(&memory.state, Look::All)?;
        planner::for_release(&self.config, &memory, &seen)
    }

    /// Takes the node out: VIPs that it placed go, rules and services of its marks go, ARP
    /// settings and sysctls get back the values that they had, services that were found running
    /// stay or come back, and what is remembered is forgotten. What other programs have changed
    /// since stays. What several groups share goes with the last of them.
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

    /// The role that was asked for last, and whether it was reached: what [`Status::role`] says,
    /// without looking at anything else.
    ///
    /// # Errors
    /// [`Error::State`]: what was remembered cannot be believed.
    pub fn role(&self) -> Result<Option<(Role, bool)>> {
        Ok(self.dir.load()?.group(&self.config.group).role)
    }

    /// Makes the state directory, for a program that keeps a file of its own there.
    ///
    /// # Errors
    /// [`Error::System`]; [`Error::State`]: it is no directory, or not only this user's.
    pub fn prepare_state_dir(&self) -> Result<()> {
        self.dir.prepare()
    }

    /// The number of the last request: what [`Status::generation`] says, without looking at
    /// anything else.
    ///
    /// # Errors
    /// [`Error::System`]: the state directory cannot be read.
    pub fn generation(&self) -> Result<u64> {
        self.dir.requests().latest()
    }

    /// What the node is. Changes nothing.
    ///
    /// # Errors
    /// As [`Node::plan`], except that a VIP that belongs to another program is a warning.
    pub fn status(&mut self) -> Result<Status> {
        let memory = self.remember()?;
        let group = memory.state.group(&self.config.group);
        let entries = self.ipvs.entries()?;
        let seen = self.observe_with(&memory.state, entries.iter().cloned().collect(), Look::Services)?;
        let generation = self.dir.requests().latest()?;
        let texts = |plan: &Plan| plan.steps().iter().map(Step::to_string).collect();
        let plan = group.role.map(|(role, _)| planner::for_role(&self.config, role, Apply::Changes, &memory, &seen));
        let (missing, mut warnings) = match plan {
            Some(Ok(plan)) => (texts(&plan), plan.warnings().to_vec()),
            Some(Err(error)) => (Vec::new(), vec![error.to_string()]),
            None => (Vec::new(), Vec::new()),
        };
        // What keeps it from being planned is warned of already.
        let mut drift: Vec<String> =
            repair::plan(&self.config, &memory, &seen).map_or_else(|_| Vec::new(), |plan| texts(&plan));
        let arp = seen.arp_of(&ArpTarget::Interface(self.config.interface.clone()));
        if let Some(Err(error)) = arp.is_none().then(|| check_interfaces(&self.config, &self.arp)) {
            warnings.push(error.to_string());
            drift.clear();
        }
        let arp = arp.map_or(seen.arp_all, |own| own.joined(seen.arp_all));
        let values = self.config.marks.values;
        let kept = planner::own_table(&self.config, &memory, &seen);
        Ok(Status {
            role: group.role,
            generation,
            vips: self.config.vips.iter().map(|vip| (*vip, seen.vips.get(vip).cloned().unwrap_or_default())).collect(),
            arp,
            hidden: arp.ignore.hides_loopback_vip(true, seen.route_localnet),
            kept,
            marked: counted(entries.iter().filter(|(entry, _)| values.owns(&entry.service.id))),
            daemons: seen.daemons.values().flatten().cloned().collect(),
            table: seen.table.filtered(|id| !values.owns(id)),
            entries: entries.into_iter().filter(|(entry, _)| !values.owns(&entry.service.id)).collect(),
            rules: seen.marks.rules,
            peers: memory.state.peers,
            director: group.director,
            missing,
            drift,
            warnings,
        })
    }

    /// Reads what the node remembers.
    fn remember(&self) -> Result<Memory> {
        let state = self.dir.load()?;
        let table = |kept| self.dir.load_table(kept);
        let legacy = if state.legacy.is_some() { table(StoredTable::Legacy)? } else { Table::new() };
        let mut memory = Memory {
            loaded: table(StoredTable::Loaded)?,
            held: table(StoredTable::Held)?,
            state,
            legacy,
            inherited: false,
        };
        if !memory.state.groups.contains_key(&self.config.group) {
            self.inherit(&mut memory)?;
        }
        Ok(memory)
    }

    /// A new group takes over what groups of an earlier configuration remember of its VIPs.
    fn inherit(&self, memory: &mut Memory) -> Result<()> {
        let vips = &self.config.vips;
        let is_own = |id: &ServiceId| {
            services::is_ours(&self.config, &Table::new(), id) || id.address().is_some_and(|to| vips.contains(&to.ip()))
        };
        let mut group = memory.state.group(&self.config.group);
        for name in memory.state.obsolete(&self.config) {
            let before = memory.state.group(&name);
            group.held |= before.held;
            group.vips.extend(before.vips.into_iter().filter(|(vip, _)| vips.contains(vip)));
            let dir = StateDir::new(&self.config.state_dir, &name);
            services::take_in(&mut memory.loaded, &dir.load_table(StoredTable::Loaded)?.filtered(is_own));
            services::take_in(&mut memory.held, &dir.load_table(StoredTable::Held)?.filtered(is_own));
        }
        if !group.vips.is_empty() {
            memory.inherited = true;
            memory.state.groups.insert(self.config.group.clone(), group);
        }
        Ok(())
    }

    /// Removes the tables of groups that are remembered no more.
    fn remove_tables(&self, plan: &Plan) -> Result<()> {
        let gone = plan.during.groups.keys().filter(|name| !plan.after.groups.contains_key(*name));
        gone.map(|name| StateDir::new(&self.config.state_dir, name)).try_for_each(|dir| dir.remove_tables())
    }

    fn run(&mut self, plan: &Plan, request: &Request, before: &mut impl FnMut(&Step)) -> Result<()> {
        let mut next = 0;
        while next < plan.steps().len() {
            let of_vips = plan.steps()[next..].iter().take_while(|step| step.is_of_a_vip()).count();
            let end = next + of_vips.max(1);
            if of_vips > 1 {
                self.vips.begin_series()?;
                let done = self.run_steps(plan, next..end, request, before);
                let changes: Vec<_> = plan.steps()[next..end].iter().filter_map(Step::placement).collect();
                self.vips.end_series(&changes, done)?;
            } else {
                self.run_steps(plan, next..end, request, before)?;
            }
            next = end;
        }
        Ok(())
    }

    fn run_steps(
        &mut self,
        plan: &Plan,
        steps: Range<usize>,
        request: &Request,
        before: &mut impl FnMut(&Step),
    ) -> Result<()> {
        for (index, step) in plan.steps().iter().enumerate().take(steps.end).skip(steps.start) {
            if let Later::Lives(latest) | Later::Ended(latest) = request.later()? {
                return Err(request.superseded(latest));
            }
            before(step);
            self.act(step, plan).map_err(|error| Error::Step {
                number: index + 1,
                total: plan.steps().len(),
                // The changes of a table are not repeated: its error names the one that failed.
                step: step.to_string().lines().next().unwrap_or_default().to_owned(),
                error: Box::new(error),
            })?;
        }
        Ok(())
    }

    fn act(&mut self, step: &Step, plan: &Plan) -> Result<()> {
        match step {
            Step::Record { reached: false, .. } => self.dir.save(&plan.during),
            Step::Record { reached: true, .. } => self.dir.save(&plan.after).and_then(|()| self.remove_tables(plan)),
            Step::Keep { kept, table } => self.dir.save_table(*kept, table),
            Step::Forget => self.dir.forget(&plan.after).and_then(|()| self.remove_tables(plan)),
            Step::Arp(change) => self.arp.apply(change),
            Step::GiveBackArp(change) => self.arp.give_back(change).map(|_| ()),
            Step::AddVip(vip, placement) => self.vips.add(*vip, placement).map(|_| ()),
            Step::RemoveVip(vip, placement) => self.vips.remove(*vip, placement).map(|_| ()),
            Step::Announce(vip, _) => self.announce(*vip),
            Step::Resync(daemon) => {
                let entries = self.entries(Duration::ZERO, Some(LAST_WORDS))?;
                match self.ipvs.send_connections(daemon, &entries) {
                    // An announcement cannot be sent on an interface that is gone or down, and a
                    // node that has lost it must give up its role.
                    Err(error) if error.errno().is_some_and(|errno| UNHEARD.contains(&errno)) => Ok(()),
                    sent => sent.map(drop),
                }
            }
            Step::Table(changes) => self.ipvs.apply(changes),
            Step::Marks(changes) => self.marks.apply(changes),
            Step::OwnRequests(wanted) => LocalMarks::open_in(self.ipvs.netns().clone()).apply(wanted).map(drop),
            Step::Sysctl { name, value, .. } => sysctl::write(self.ipvs.netns(), &sysctl_path(name), value),
        }
    }
}

fn check_interfaces(config: &Config, arp: &Arp) -> Result<()> {
    let own = ArpTarget::Interface(config.interface.clone());
    let sync = ArpTarget::Interface(config.sync.interface.clone());
    let configured = config.arp.iter().map(|wanted| &wanted.target);
    iter::once(&own).chain(configured).chain([&sync]).try_for_each(|target| arp.get(target).map(drop))
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
    use std::time::Instant;

    use super::beacon::Heard;
    use super::membership::View;
    use super::seal::{Key, Seal};
    use super::state::State;

    /// A datagram of another node.
    pub(crate) fn beacon(datagram: &str) {
        let now = Instant::now();
        let mut seal = Seal::new(Key::new(&[7; 16]).ok(), 1);
        assert!(seal.open(now, datagram).is_err());
        let Ok(heard) = Seal::text(datagram).parse::<Heard>() else { return };
        let (text, sent) = match &heard {
            Heard::Beacon(beacon) => (beacon.to_string(), beacon.to_string()),
            Heard::Presence(presence) => (presence.to_string(), presence.datagram()),
        };
        assert_eq!(text.parse::<Heard>().unwrap(), heard);
        assert!(sent.len() <= super::beacon::TEXT_LIMIT && sent.parse::<Heard>().is_ok(), "{sent}");
        let mut view = View::of(["192.0.2.254".parse().unwrap()]);
        let _ = match heard {
            Heard::Beacon(beacon) => view.heard(now, beacon),
            Heard::Presence(presence) => view.present(now, presence),
        };
        let _ = view.director_of(now, "web", &["192.0.2.11".parse().unwrap()].into(), None);
    }

    pub(crate) fn state(text: &str) {
        if let Ok(state) = State::parse(text) {
            assert_eq!(State::parse(&state.to_string()).unwrap(), state);
        }
    }
}
