//! Decides what a supervised node does, from what has happened. Pure: it has neither a clock nor a
//! socket, and waits for nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::notice::{Counts, Notice};
use crate::marks::{Mac, Neighbour, NeighbourState};
use crate::node::beacon::{Beacon, Heard, Presence};
use crate::node::catch_up::{Learned, Learning};
use crate::node::config::VipOwner;
use crate::node::digest::TableDigest;
use crate::node::fence::SyncConfig;
use crate::node::job::Task;
use crate::node::limit::{Bucket, ResyncRequests};
use crate::node::membership::{OtherNode, View};
use crate::node::role::Role;
use crate::node::services::Apply;

/// How often a beacon is sent.
pub(in crate::node) const BEACON: Duration = Duration::from_secs(1);
/// How often keepalived's VIPs are looked at after a change, and how long what they show must
/// last: keepalived moves the VIP before it notifies.
pub(in crate::node) const TICK: Duration = Duration::from_millis(300);
/// How often the whole is looked at, at most. Where that takes long it is done less often, and
/// takes one part in so many of the time.
const CHECK: Duration = Duration::from_secs(1);
const SHARE: u32 = 200;
/// Thousands of services or not: what is wrong for so long is seen.
const LATEST: Duration = Duration::from_secs(10);
/// A role that is under way for so long is not any more: its process was killed.
const UNDER_WAY: Duration = Duration::from_secs(20);
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
/// A beacon of a director that is new is answered, but not sooner than this after the last beacon.
const ANSWER: Duration = Duration::from_millis(100);
/// The index of `lo` in each network namespace.
const LOOPBACK: u32 = 1;

/// A group of VIPs, by its index.
pub(in crate::node) type Group = usize;

/// What has happened.
#[derive(Debug, Clone)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "snake_case"))]
pub(in crate::node) enum Event {
    /// Nothing but time has passed.
    Time,
    /// What the node remembers of each group has changed.
    Remembered(Vec<Remembered>),
    /// keepalived has notified a state.
    Notified(Group, Role),
    /// keepalived's VIPs show this role; `None`: they show none.
    Shown(Group, Option<Role>),
    /// A beacon or a presence of another node came.
    Heard(Heard),
    /// A neighbour's entry has changed.
    Neighbour(Neighbour),
    /// An address was added to the interface with this index, or removed from it.
    Address { address: IpAddr, index: u32, gone: bool },
    /// Notifications of the kernel were lost.
    Missed,
    /// MAC addresses were learned that there are no rules for yet.
    LearnedMacs,
    /// Each group was looked at.
    Looked(Looks),
    /// It could not be looked at.
    LookFailed,
    /// The connections that are known here were counted.
    Counted(u64),
    /// A task has ended, with this number as the latest request.
    Ended { group: Group, task: Task, end: End, request: u64 },
    /// All connections were sent, or an attempt has failed.
    Resynced(Option<usize>),
    /// The sync interface was made anew, and the sync daemons were started there.
    NewSyncInterface,
    /// What is remembered of the director: a role has looked for it, or another process was at
    /// work when it was to be changed. Then it is tried again.
    Director(Group, Option<IpAddr>),
    /// A later request of another process came: the role is not tried again.
    NotRetried(Group),
    /// The node has another configuration.
    Configured { groups: Vec<Supervised>, sync_interface: String, sync_id: u8 },
    /// Something has failed that no event of its own stands for.
    Failed { what: String, error: String },
}

/// How a task has ended.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "snake_case"))]
pub(in crate::node) enum End {
    /// It is done.
    Done(Done),
    /// Another request is carried out.
    Superseded,
    /// It has failed.
    Failed(String),
}

/// What a task has done.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub(in crate::node) struct Done {
    pub(in crate::node) steps: Vec<String>,
    pub(in crate::node) warnings: Vec<String>,
    /// The sync daemons that it has started.
    pub(in crate::node) started_backup: bool,
    pub(in crate::node) started_master: bool,
}

/// What the node remembers of a group.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub(in crate::node) struct Remembered {
    pub(in crate::node) role: Option<(Role, bool)>,
    pub(in crate::node) director: Option<IpAddr>,
    pub(in crate::node) peers: BTreeSet<IpAddr>,
}

/// What a look at the whole has shown.
#[derive(Debug, Clone, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub(in crate::node) struct Looks {
    /// Each group.
    pub(in crate::node) groups: Vec<Look>,
    /// Whether connections were counted. If not, they are those of an earlier look.
    pub(in crate::node) counted: bool,
    /// How long the look took.
    pub(in crate::node) took: Duration,
}

/// What a look at a group has shown.
#[derive(Debug, Clone, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub(in crate::node) struct Look {
    pub(in crate::node) role: Option<(Role, bool)>,
    /// The number of the latest request.
    pub(in crate::node) request: u64,
    /// What a repair would do.
    pub(in crate::node) drift: Vec<String>,
    pub(in crate::node) warnings: Vec<String>,
    /// Connections that its services count, and those of the marks of all groups.
    pub(in crate::node) connections: u64,
    pub(in crate::node) marked: u64,
    pub(in crate::node) digest: TableDigest,
}

/// What is to be done.
#[derive(Debug)]
pub(in crate::node) enum Action {
    /// Carry out a task.
    Request(Group, Task),
    /// Carry out a role again, unless a request came after this one.
    Retry(Group, Role, u64),
    /// Look which role keepalived's VIPs show.
    Show(Group),
    /// Look at the whole.
    Look,
    /// Count the connections that are known here; where the counters show fewer than this, by
    /// their list.
    Count(u64),
    /// Send all connections to the other nodes.
    Resync,
    /// Send a beacon and a presence.
    SendBeacon,
    /// Remember MAC addresses of another node.
    LearnMacs(BTreeSet<IpAddr>, BTreeSet<Mac>),
    /// Send the packets of unknown connections to this node, and tell the program. Where another
    /// process is at work: [`Event::Director`] with the one that is remembered.
    Point(Group, Option<IpAddr>),
    /// Take part in elections.
    TakePart,
    /// Tell the program.
    Tell(Notice),
}

/// For a log, and to be compared.
impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Action::Tell(notice) => write!(f, "tell {}: {notice}", notice.kind()),
            action => write!(f, "{action:?}"),
        }
    }
}

/// One group of VIPs of the node.
#[derive(Debug)]
struct Member {
    name: String,
    vips: Vec<IpAddr>,
    owner: VipOwner,
    /// Whether keepalived's states are followed.
    follows: bool,
    remembered: Remembered,
    /// The state that keepalived has notified last, or that its VIPs have shown.
    current: Option<Role>,
    /// What its VIPs show that was not notified, and when they are looked at again.
    suspected: Option<(Role, Instant)>,
    show_at: Option<Instant>,
    /// Roles that were requested and have not ended, and whether a repair was.
    taking_on: u32,
    repairs: bool,
    /// A role that was not reached.
    failed: Option<Failed>,
    /// What was missing at the last look, at which request.
    missing: Option<(u64, Vec<String>)>,
    under_way: Option<(u64, Instant)>,
    restores: Bucket,
    /// The warnings that were logged.
    warned: Vec<String>,
    /// The other node that directs, as it was set last, and how often that may change.
    director: Option<IpAddr>,
    turns: Bucket,
}

/// A role that was not reached, and is tried again after a pause.
#[derive(Debug, Clone, Copy)]
struct Failed {
    role: Role,
    at: Instant,
    pause: Duration,
    /// The number of the latest request at that time: a later one supersedes it.
    request: u64,
}

/// A group of VIPs that is supervised.
#[derive(Debug, Clone)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub(in crate::node) struct Supervised {
    pub(in crate::node) name: String,
    pub(in crate::node) vips: Vec<IpAddr>,
    pub(in crate::node) owner: VipOwner,
    pub(in crate::node) follows: bool,
    pub(in crate::node) director: Option<IpAddr>,
}

/// How much is supervised.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "snake_case"))]
pub(in crate::node) enum Extent {
    /// Roles that keepalived notifies.
    Roles,
    /// That, what other programs change, and the other nodes.
    All,
}

#[derive(Debug)]
pub(in crate::node) struct Engine {
    extent: Extent,
    members: Vec<Member>,
    view: View,
    /// This start of this node.
    me: u64,
    learning: Learning,
    requests: ResyncRequests,
    /// A count that was asked for, of what the director has sent.
    counting: Option<u64>,
    /// Whether what is remembered was read.
    remembers: bool,
    looking: bool,
    look_at: Instant,
    beacon_at: Instant,
    /// When the other directors were looked at last, whether one was heard since, and whether this
    /// node directed then.
    followed_at: Instant,
    director_heard: bool,
    directed: bool,
    learned_lines: Bucket,
    /// The warning of another cluster.
    other_cluster: String,
    table: Option<TableDigest>,
    /// Since when other nodes' tables were not equal to this node's.
    unequal: BTreeMap<u64, Instant>,
    /// How often all connections were sent, and how many these were.
    told: (u64, u64),
    /// What else was logged lately, about what, and when.
    lately: BTreeMap<String, (String, Instant)>,
    pub(in crate::node) counts: Counts,
}

impl Member {
    /// Whether the node is the group's director, of which there is one.
    fn directs(&self) -> bool {
        !self.is_routed() && self.remembered.role == Some((Role::Master, true))
    }

    /// Whether every node directs the group.
    fn is_routed(&self) -> bool {
        self.owner == VipOwner::Routes
    }

    /// A role is requested: what the VIPs show counts again when it has ended.
    fn take_on(&mut self) {
        self.taking_on += 1;
        (self.suspected, self.show_at) = (None, None);
    }

    fn has_taken_on(&mut self, now: Instant) {
        self.taking_on = self.taking_on.saturating_sub(1);
        self.show_at = self.shows().then_some(now + TICK);
    }

    /// Whether its VIPs show roles.
    fn shows(&self) -> bool {
        self.follows && self.owner == VipOwner::Keepalived
    }
}

fn other_cluster(interface: &str, id: u8) -> String {
    format!("another cluster on {interface} uses sync id {id}: give one of the two another [sync] id")
}

fn is_master(role: Role) -> bool {
    role == Role::Master
}

impl Engine {
    pub(in crate::node) fn new(
        now: Instant,
        me: u64,
        extent: Extent,
        groups: Vec<Supervised>,
        sync: &SyncConfig,
    ) -> Self {
        let view = View::of(groups.iter().flat_map(|group| group.vips.clone()));
        let other_cluster = other_cluster(&sync.interface, sync.id);
        let member = |group: Supervised| Member {
            show_at: (group.follows && group.owner == VipOwner::Keepalived).then_some(now),
            name: group.name,
            vips: group.vips,
            owner: group.owner,
            follows: group.follows,
            remembered: Remembered::default(),
            current: None,
            suspected: None,
            taking_on: 0,
            repairs: false,
            failed: None,
            missing: None,
            under_way: None,
            restores: Bucket::new(BURST, INTERVAL),
            warned: Vec::new(),
            director: group.director,
            turns: Bucket::new(BURST, INTERVAL),
        };
        Engine {
            extent,
            members: groups.into_iter().map(member).collect(),
            view,
            me,
            learning: Learning::new(now),
            requests: ResyncRequests::default(),
            counting: None,
            remembers: false,
            looking: false,
            look_at: now,
            beacon_at: now,
            followed_at: now,
            director_heard: false,
            directed: false,
            learned_lines: Bucket::new(BURST, INTERVAL),
            other_cluster,
            table: None,
            unequal: BTreeMap::new(),
            told: (0, 0),
            lately: BTreeMap::new(),
            counts: Counts::default(),
        }
    }

    /// Takes in what has happened, and says what is to be done.
    pub(in crate::node) fn on(&mut self, now: Instant, event: Event) -> Vec<Action> {
        let mut actions = Vec::new();
        self.take_in(now, event, &mut actions);
        self.follow_keepalived(now, &mut actions);
        if self.extent == Extent::All {
            self.follow_directors(now, &mut actions);
            self.look(now, &mut actions);
            self.tell_others(now, &mut actions);
            self.send_beacons(now, &mut actions);
        }
        actions
    }

    /// When there is something to be done, whatever happens until then.
    pub(in crate::node) fn until(&self) -> Option<Instant> {
        let of_members = self.members.iter().flat_map(|member| {
            [member.show_at, member.failed.map(|failed| failed.at + failed.pause)].into_iter().flatten()
        });
        let of_node =
            [self.followed_at + TICK, self.beacon_at].into_iter().chain((!self.looking).then_some(self.look_at));
        of_members.chain(of_node.filter(|_| self.extent == Extent::All)).min()
    }

    fn take_in(&mut self, now: Instant, event: Event, actions: &mut Vec<Action>) {
        match event {
            Event::Time => {}
            Event::Remembered(all) => {
                // What is read at first is what was there before.
                let known = std::mem::replace(&mut self.remembers, true);
                for (member, remembered) in self.members.iter_mut().zip(all) {
                    let role = |of: &Remembered| of.role.map(|(role, _)| role);
                    if known && role(&member.remembered) != role(&remembered) {
                        self.counts.role_changes += 1;
                        self.counts.role_changed = Some(now);
                    }
                    member.remembered = remembered;
                }
            }
            Event::Notified(group, role) => {
                if let Some(member) = self.members.get_mut(group) {
                    (member.current, member.failed) = (Some(role), None);
                    member.take_on();
                    actions.push(Action::Request(group, Task::Role(role)));
                }
            }
            Event::Shown(group, role) => self.shown(now, group, role, actions),
            Event::Heard(Heard::Beacon(beacon)) if beacon.node != self.me => self.heard(now, beacon, actions),
            Event::Heard(Heard::Presence(presence)) if presence.node != self.me => {
                let (addresses, macs) = (presence.addresses.clone(), presence.macs.clone());
                if self.view.present(now, presence) {
                    self.director_heard = true;
                    actions.push(Action::LearnMacs(addresses, macs));
                }
            }
            Event::Heard(_) => {}
            Event::Neighbour(neighbour) => self.neighbour(&neighbour, actions),
            Event::Address { address, index, gone } => self.address(now, address, index, gone, actions),
            Event::Missed => {
                self.look_at = self.look_at.min(now);
                self.show_all(now);
            }
            Event::LearnedMacs => self.repair_all(actions),
            Event::Looked(looks) => self.looked(now, &looks, actions),
            Event::LookFailed => (self.looking, self.look_at) = (false, now + CHECK),
            Event::Counted(known) => {
                if let Some(of) = self.counting.take()
                    && let Some(learned) = self.learning.learned(known, of)
                {
                    (self.counts.known, self.counts.knows_all) = (known, known >= of);
                    if self.learned_lines.take(now) {
                        actions.push(Action::Tell(Notice::Learned(learned)));
                    }
                }
            }
            Event::Ended { group, task, end, request } => self.ended(now, group, task, end, request, actions),
            Event::Resynced(count) => {
                self.requests.end(now);
                if let Some(count) = count {
                    self.told = (self.told.0 + 1, count as u64);
                    self.counts.resyncs += 1;
                    actions.push(Action::Tell(Notice::Resynced(count)));
                    self.send_beacon(now, actions);
                }
            }
            Event::NewSyncInterface => {
                // What was sent meanwhile did not arrive.
                self.learning.ask();
                self.requests.want();
                self.counts.repairs += 1;
            }
            Event::Director(group, director) => {
                self.members.get_mut(group).into_iter().for_each(|member| member.director = director);
            }
            Event::NotRetried(group) => {
                if let Some(member) = self.members.get_mut(group) {
                    member.failed = None;
                    member.has_taken_on(now);
                }
            }
            Event::Configured { groups, sync_interface, sync_id } => {
                self.other_cluster = other_cluster(&sync_interface, sync_id);
                self.configured(now, groups, actions);
            }
            Event::Failed { what, error } => self.fail(now, &what, &error, actions),
        }
    }

    /// Brings in another configuration. The role stays.
    fn configured(&mut self, now: Instant, groups: Vec<Supervised>, actions: &mut Vec<Action>) {
        for (index, (member, group)) in self.members.iter_mut().zip(groups).enumerate() {
            (member.vips, member.owner) = (group.vips, group.owner);
            // A node without a role takes one on with it.
            if member.remembered.role.is_some() {
                actions.push(Action::Request(index, Task::Apply(Apply::Changes)));
            }
        }
        self.view.has(self.members.iter().flat_map(|member| member.vips.clone()));
        self.show_all(now);
    }

    /// Only what is shown twice was not about to be notified.
    fn shown(&mut self, now: Instant, group: Group, role: Option<Role>, actions: &mut Vec<Action>) {
        // A role that was requested meanwhile comes first.
        let Some(member) = self.members.get_mut(group).filter(|member| member.taking_on == 0) else { return };
        let differs = |role: &Role| member.current.is_none_or(|current| is_master(current) != is_master(*role));
        let Some(seen) = role.filter(differs) else {
            // VIPs that are placed one by one show no role yet.
            member.show_at = role.is_none().then_some(now + TICK);
            member.suspected = None;
            return;
        };
        let since = member.suspected.filter(|(role, _)| *role == seen).map_or(now, |(_, since)| since);
        if now.duration_since(since) < TICK {
            (member.suspected, member.show_at) = (Some((seen, since)), Some(since + TICK));
            return;
        }
        (member.current, member.failed) = (Some(seen), None);
        member.take_on();
        let name = member.name.clone();
        actions.push(Action::Tell(Notice::Shown { group: name, role: seen }));
        actions.push(Action::Request(group, Task::Role(seen)));
    }

    fn heard(&mut self, now: Instant, beacon: Beacon, actions: &mut Vec<Action>) {
        let directs = beacon.role == Role::Master;
        let is_new = directs && !self.view.directors(now).any(|known| known.node == beacon.node);
        // Where every node directs, no connection is synchronised.
        if !self.view.heard(now, beacon.clone()) || self.members.iter().any(Member::is_routed) {
            return;
        }
        if beacon.wants {
            self.requests.ask(now, beacon.node);
        }
        if directs {
            self.director_heard = true;
            self.counts.at_director = Some(beacon.known);
            if self.learning.heard(now, &beacon) && self.counting.is_none() {
                self.counting = Some(beacon.told.1);
                actions.push(Action::Count(beacon.told.1));
            }
        }
        // One director tells the other at once.
        if is_new && self.directs() && self.beacon_at <= now + BEACON - ANSWER {
            self.send_beacon(now, actions);
        }
    }

    fn neighbour(&mut self, neighbour: &Neighbour, actions: &mut Vec<Action>) {
        let address = neighbour.address;
        // Most neighbours are clients.
        if !self.members.iter().any(|member| member.remembered.peers.contains(&address)) {
            return;
        }
        // The director's packets do not go to a node that does not answer.
        let silent = neighbour.state == NeighbourState::Failed;
        if silent && self.members.iter().any(|member| member.director == Some(address)) {
            self.repair_all(actions);
        }
        if let Some(mac) = neighbour.mac.filter(|_| neighbour.state.is_valid()) {
            actions.push(Action::LearnMacs([address].into(), [mac].into()));
        }
    }

    fn address(&mut self, now: Instant, address: IpAddr, index: u32, gone: bool, actions: &mut Vec<Action>) {
        for (group, member) in self.members.iter_mut().enumerate() {
            if !member.vips.contains(&address) {
                continue;
            }
            // keepalived moves its VIP itself, and notifies after it.
            let is_own = member.owner != VipOwner::Keepalived || index == LOOPBACK;
            if !is_own && member.shows() {
                member.show_at = Some(now + TICK);
            }
            // A change of role removes VIPs, too. A VIP that is removed again and again is left to
            // the look at the whole.
            let reached = member.remembered.role.is_some_and(|(_, reached)| reached);
            if gone && is_own && reached && self.extent == Extent::All && member.restores.take(now) {
                actions.push(Action::Request(group, Task::RestoreVips));
            }
        }
    }

    /// keepalived's VIPs are looked at, unless they soon are.
    fn show_all(&mut self, now: Instant) {
        let members = self.members.iter_mut().filter(|member| member.shows() && member.show_at.is_none());
        members.for_each(|member| member.show_at = Some(now));
    }

    fn repair_all(&mut self, actions: &mut Vec<Action>) {
        actions.extend((0..self.members.len()).map(|group| Action::Request(group, Task::Repair)));
    }

    fn ended(&mut self, now: Instant, group: Group, task: Task, end: End, request: u64, actions: &mut Vec<Action>) {
        let Some(member) = self.members.get_mut(group) else { return };
        if let Task::Role(_) = task {
            member.has_taken_on(now);
        }
        let repaired = task == Task::Repair && std::mem::take(&mut member.repairs);
        match (task, end) {
            (Task::Role(_), End::Done(done)) => {
                member.failed = None;
                self.warn(group, done.warnings, actions);
            }
            (Task::Role(_), End::Superseded) => member.failed = None,
            (Task::Role(role), End::Failed(error)) => {
                let before = member.failed.filter(|failed| failed.role == role);
                let pause = before.map_or(RETRY, |failed| (2 * failed.pause).min(REMIND));
                member.failed = Some(Failed { role, at: now, pause, request });
                self.fail(now, &role.to_string(), &error, actions);
            }
            (Task::Repair | Task::Apply(_), End::Done(done)) => {
                self.counts.repairs += u64::from(repaired);
                match done.started_backup {
                    // Nothing was learned without one, and the director was not asked.
                    true => self.learning.ask(),
                    false if done.started_master => self.requests.want(),
                    false => {}
                }
            }
            (Task::RestoreVips, End::Done(done)) if !done.steps.is_empty() => {
                self.counts.repairs += 1;
                self.tell_repair(now, group, done.steps, actions);
            }
            (_, End::Done(_) | End::Superseded) => {}
            (task, End::Failed(error)) => self.fail(now, &task.name(), &error, actions),
        }
        if let Task::Role(_) = task {
            self.send_beacon(now, actions);
        }
    }

    fn follow_keepalived(&mut self, now: Instant, actions: &mut Vec<Action>) {
        for (group, member) in self.members.iter_mut().enumerate() {
            if member.taking_on == 0 && member.show_at.take_if(|at| now >= *at).is_some() {
                actions.push(Action::Show(group));
            }
            if let Some(failed) = member.failed.filter(|failed| now >= failed.at + failed.pause) {
                // Until it has ended, it is not tried once more.
                member.failed = Some(Failed { at: now + REMIND, ..failed });
                member.take_on();
                actions.push(Action::Retry(group, failed.role, failed.request));
            }
        }
    }

    fn directs(&self) -> bool {
        self.members.iter().any(|member| member.directs() || member.is_routed())
    }

    /// Follows which other node directs each group: there go packets of connections that this node
    /// does not know.
    fn follow_directors(&mut self, now: Instant, actions: &mut Vec<Action>) {
        if !std::mem::take(&mut self.director_heard) && now.duration_since(self.followed_at) < TICK {
            return;
        }
        self.followed_at = now;
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
            actions.push(Action::TakePart);
        }
        for (group, member) in self.members.iter_mut().enumerate() {
            let peers = &member.remembered.peers;
            let Ok(director) = self.view.director_of(now, &member.name, peers, member.director) else { continue };
            if director == member.director || !member.turns.take(now) {
                continue;
            }
            member.director = director;
            actions.push(Action::Point(group, director));
        }
    }

    fn look(&mut self, now: Instant, actions: &mut Vec<Action>) {
        if now >= self.look_at && !self.looking {
            self.looking = true;
            actions.push(Action::Look);
        }
    }

    /// Repairs what other programs have changed, if it stays so for two looks and no process is at
    /// work.
    fn looked(&mut self, now: Instant, looks: &Looks, actions: &mut Vec<Action>) {
        let Looks { groups, counted, took } = looks;
        self.looking = false;
        self.show_all(now);
        // Of the clock's time, which is more than the processor's. That has a clock of its own,
        // but not on every kernel.
        self.look_at = now + CHECK.max(*took * SHARE).min(LATEST);
        let is_missing = |members: &[Member]| {
            members.iter().any(|member| member.missing.as_ref().is_some_and(|(_, missing)| !missing.is_empty()))
        };
        let before = is_missing(&self.members);
        for (group, seen) in groups.iter().enumerate() {
            let Some((_, reached)) = seen.role else { continue };
            let member = &mut self.members[group];
            let since = match member.under_way {
                Some((request, since)) if request == seen.request => since,
                _ => now,
            };
            member.under_way = (!reached).then_some((seen.request, since));
            let free = reached || now.duration_since(since) > UNDER_WAY;
            let before = member.missing.replace((seen.request, seen.drift.clone()));
            let lasts = |(request, before): (u64, Vec<String>)| request == seen.request && !before.is_empty();
            if free && before.is_some_and(lasts) && !seen.drift.is_empty() {
                (member.missing, member.repairs) = (None, true);
                self.tell_repair(now, group, seen.drift.clone(), actions);
                actions.push(Action::Request(group, Task::Repair));
            }
        }
        // What is missing is to be looked at once more before it is repaired.
        if !before && is_missing(&self.members) {
            self.look_at = now + CHECK;
        }
        let mut warnings = self.compare(now, groups);
        self.counts.other_clusters = self.view.other_clusters(now);
        if self.counts.other_clusters > 0 {
            warnings.push(self.other_cluster.clone());
        }
        self.counts.unequal = warnings;
        for (group, seen) in groups.iter().enumerate() {
            self.warn(group, seen.warnings.clone(), actions);
        }
        self.count(now, groups, *counted);
    }

    /// Which other nodes have had another table than this one for long.
    fn compare(&mut self, now: Instant, groups: &[Look]) -> Vec<String> {
        let own = groups.iter().map(|seen| seen.digest).fold(TableDigest::default(), TableDigest::and);
        self.table = Some(own);
        let known: BTreeSet<&IpAddr> = self.members.iter().flat_map(|member| &member.remembered.peers).collect();
        let unequal: BTreeMap<u64, String> = self
            .view
            .unequal(now, own)
            .map(|(presence, why)| {
                let named = presence.addresses.iter().find(|address| known.contains(address));
                let name =
                    named.or(presence.addresses.first()).map_or_else(|| "another node".into(), IpAddr::to_string);
                (presence.node, format!("{name} {why}"))
            })
            .collect();
        self.unequal.retain(|node, _| unequal.contains_key(node));
        let mut lasts = |node: u64| now.duration_since(*self.unequal.entry(node).or_insert(now)) > UNEQUAL;
        unequal.into_iter().filter(|(node, _)| lasts(*node)).map(|(_, text)| text).collect()
    }

    /// Takes in how much is known here.
    fn count(&mut self, now: Instant, groups: &[Look], counted: bool) {
        self.counts.known = match self.directs() {
            // What a resync sends.
            true => groups.iter().map(|seen| seen.connections).sum(),
            false => known_by(groups),
        };
        match self.view.directors(now).map(|director| director.known).max() {
            Some(of) if !self.directs() && counted => {
                self.learning.counted(Learned { known: self.counts.known, of });
                self.counts.knows_all &= !self.learning.asks();
            }
            Some(_) => {}
            None => self.counts.at_director = None,
        }
        self.counts.directs = self.directs();
    }

    /// The director sends all connections to those who ask.
    fn tell_others(&mut self, now: Instant, actions: &mut Vec<Action>) {
        if self.directs() && self.requests.is_due(now) {
            // Who asks has to know first how often they were sent before.
            self.send_beacon(now, actions);
            self.requests.begin(now);
            actions.push(Action::Resync);
        }
    }

    fn send_beacons(&mut self, now: Instant, actions: &mut Vec<Action>) {
        if now >= self.beacon_at {
            self.send_beacon(now, actions);
        }
    }

    fn send_beacon(&mut self, now: Instant, actions: &mut Vec<Action>) {
        self.beacon_at = now + BEACON;
        if self.extent == Extent::All {
            actions.push(Action::SendBeacon);
        }
    }

    /// The other nodes, as they were received lately.
    pub(in crate::node) fn others(&self, now: Instant) -> Vec<OtherNode> {
        self.view.others(now, self.table)
    }

    /// What this node sends to the others, but for its addresses.
    pub(in crate::node) fn texts(&self, id: u8) -> (Beacon, Presence) {
        let roles: Vec<(Role, bool)> = self.members.iter().filter_map(|member| member.remembered.role).collect();
        // A node directs where it directs one group.
        let directs = roles.iter().find(|(role, _)| *role == Role::Master);
        let (role, reached) = directs.or(roles.first()).copied().unwrap_or((Role::Stop, false));
        // Before its role is reached it does not listen.
        let wants = self.learning.asks() && reached && role != Role::Master;
        let directing = self.members.iter().filter(|member| member.directs());
        let beacon = Beacon { id, node: self.me, role, known: self.counts.known, told: self.told, wants };
        let presence = Presence {
            id,
            node: self.me,
            table: self.table,
            directs: directing.map(|member| member.name.clone()).collect(),
            vips: Presence::digests(self.members.iter().flat_map(|member| member.vips.clone())),
            ..Presence::default()
        };
        (beacon, presence)
    }

    /// What another program undoes again and again is not told each time.
    fn tell_repair(&mut self, now: Instant, group: Group, steps: Vec<String>, actions: &mut Vec<Action>) {
        if self.is_new(now, "repair", &steps.join("\n")) {
            let group = self.members[group].name.clone();
            actions.push(Action::Tell(Notice::Repair { group, steps }));
        }
    }

    fn fail(&mut self, now: Instant, what: &str, error: &str, actions: &mut Vec<Action>) {
        self.counts.failures += 1;
        self.counts.failed = Some(now);
        let text = format!("{what}: {error}");
        if self.is_new(now, what, &text) {
            actions.push(Action::Tell(Notice::Failure(text)));
        }
    }

    /// Whether the last notice about this had another text, or came more than a minute ago.
    fn is_new(&mut self, now: Instant, what: &str, text: &str) -> bool {
        let before = self.lately.get(what);
        let new = before.is_none_or(|(before, at)| before != text || now.duration_since(*at) > REMIND);
        if new {
            self.lately.insert(what.to_owned(), (text.to_owned(), now));
        }
        new
    }

    /// Reports the warnings of a change or a look that the last one did not have. Those of the
    /// whole node are reported with the first group's.
    fn warn(&mut self, group: Group, mut warnings: Vec<String>, actions: &mut Vec<Action>) {
        if group == 0 {
            warnings.extend_from_slice(&self.counts.unequal);
        }
        let member = &mut self.members[group];
        let new = warnings.iter().filter(|warning| !member.warned.contains(warning));
        actions.extend(new.map(|warning| Action::Tell(Notice::Warning(warning.clone()))));
        member.warned = warnings;
    }
}

/// How many connections a node knows that does not direct. Those of its marks are a director's
/// too.
pub(in crate::node) fn known_by(groups: &[Look]) -> u64 {
    // Those of the marks are the same for all groups.
    groups.iter().map(|seen| seen.connections).sum::<u64>() + groups.last().map_or(0, |seen| seen.marked)
}

#[cfg(test)]
mod tests {
    use super::*;

    const VIP: &str = "192.0.2.254";

    struct Bench {
        engine: Engine,
        start: Instant,
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn bench(owner: VipOwner, extent: Extent) -> Bench {
        let start = Instant::now();
        let group = Supervised { name: "web".into(), vips: vec![ip(VIP)], owner, follows: true, director: None };
        let sync = crate::node::Config::new("eth0", [ip(VIP)]).sync;
        let mut bench = Bench { engine: Engine::new(start, 7, extent, vec![group], &sync), start };
        bench.remember(0, Some((Role::Backup, true)));
        bench
    }

    impl Bench {
        fn now(&self, at: u64) -> Instant {
            self.start + Duration::from_millis(at)
        }

        fn remember(&mut self, at: u64, role: Option<(Role, bool)>) -> Vec<String> {
            let peers = [ip("192.0.2.12"), ip("192.0.2.13")].into();
            let remembered = Remembered { role, director: self.engine.members[0].director, peers };
            self.on(at, Event::Remembered(vec![remembered]))
        }

        /// What is done at this time, in milliseconds, without beacons and looks.
        fn on(&mut self, at: u64, event: Event) -> Vec<String> {
            let now = self.now(at);
            let actions = self.engine.on(now, event);
            actions
                .iter()
                .filter(|action| !matches!(action, Action::SendBeacon | Action::Look | Action::TakePart))
                .map(Action::to_string)
                .collect()
        }

        fn end(&mut self, at: u64, role: Role, end: End, request: u64) -> Vec<String> {
            self.on(at, Event::Ended { group: 0, task: Task::Role(role), end, request })
        }

        fn look(&mut self, at: u64, role: (Role, bool), request: u64, drift: &[&str]) -> Vec<String> {
            let drift = drift.iter().map(|step| (*step).to_owned()).collect();
            let look = Look { role: Some(role), request, drift, ..Look::default() };
            self.on(at, Event::Looked(Looks { groups: vec![look], counted: true, took: Duration::from_millis(1) }))
        }
    }

    fn done() -> End {
        End::Done(Done::default())
    }

    fn beacon(node: u64, role: Role, told: (u64, u64), wants: bool) -> Event {
        Event::Heard(Heard::Beacon(Beacon { id: 254, node, role, known: 100, told, wants }))
    }

    fn presence(node: u64, address: &str, directs: &str) -> Event {
        let directs = if directs.is_empty() { BTreeSet::new() } else { [directs.to_owned()].into() };
        let presence = Presence { id: 254, node, addresses: [ip(address)].into(), directs, ..Presence::default() };
        Event::Heard(Heard::Presence(presence))
    }

    #[test]
    fn what_the_vips_show_counts_once_it_lasts() {
        let mut bench = bench(VipOwner::Keepalived, Extent::Roles);
        assert_eq!(bench.on(0, Event::Notified(0, Role::Backup)), ["Request(0, Role(Backup))"]);
        // Not while a role is taken on.
        assert_eq!(bench.on(900, Event::Time), [""; 0]);
        assert_eq!(bench.on(900, Event::Shown(0, Some(Role::Master))), [""; 0]);
        bench.end(1000, Role::Backup, done(), 1);
        assert_eq!(bench.on(1299, Event::Time), [""; 0]);
        assert_eq!(bench.on(1300, Event::Time), ["Show(0)"]);
        assert_eq!(bench.on(1300, Event::Shown(0, Some(Role::Backup))), [""; 0]);
        assert_eq!(bench.engine.until(), None);
        // keepalived moves the VIP, and its line is lost.
        let moved = Event::Address { address: ip(VIP), index: 2, gone: false };
        assert_eq!(bench.on(5000, moved), [""; 0]);
        assert_eq!(bench.on(5300, Event::Time), ["Show(0)"]);
        assert_eq!(bench.on(5300, Event::Shown(0, Some(Role::Master))), [""; 0]);
        assert_eq!(bench.on(5310, Event::Shown(0, Some(Role::Master))), [""; 0]);
        assert_eq!(bench.on(5600, Event::Time), ["Show(0)"]);
        let shown = bench.on(5600, Event::Shown(0, Some(Role::Master)));
        assert_eq!(shown, ["tell seen: master: as the VIP shows, without a notification", "Request(0, Role(Master))"]);
        // A line that comes late is the same role.
        assert_eq!(bench.on(5700, Event::Notified(0, Role::Master)), ["Request(0, Role(Master))"]);
        // VIPs that are placed one by one show nothing.
        bench.end(6000, Role::Master, End::Superseded, 2);
        bench.end(6100, Role::Master, done(), 2);
        bench.on(6400, Event::Time);
        assert_eq!(bench.on(6400, Event::Shown(0, None)), [""; 0]);
        assert_eq!(bench.on(6700, Event::Time), ["Show(0)"]);
    }

    #[test]
    fn a_role_that_was_not_reached_is_tried_again_more_and_more_rarely() {
        let mut bench = bench(VipOwner::Node, Extent::Roles);
        bench.on(0, Event::Notified(0, Role::Backup));
        let failed = || End::Failed("it is full".into());
        assert_eq!(bench.end(0, Role::Backup, failed(), 5), ["tell failure: backup: it is full"]);
        assert_eq!(bench.on(999, Event::Time), [""; 0]);
        assert_eq!(bench.on(1000, Event::Time), ["Retry(0, Backup, 5)"]);
        assert_eq!(bench.on(9000, Event::Time), [""; 0]);
        // The same failure is logged once.
        assert_eq!(bench.end(9000, Role::Backup, failed(), 6), [""; 0]);
        assert_eq!(bench.on(10_999, Event::Time), [""; 0]);
        assert_eq!(bench.on(11_000, Event::Time), ["Retry(0, Backup, 6)"]);
        // Another process has asked for a role since.
        bench.on(11_000, Event::NotRetried(0));
        assert_eq!(bench.on(200_000, Event::Time), [""; 0]);
        bench.on(200_000, Event::Notified(0, Role::Master));
        bench.end(200_000, Role::Master, failed(), 8);
        // A later line is another role.
        assert_eq!(bench.on(200_500, Event::Notified(0, Role::Fault)), ["Request(0, Role(Fault))"]);
        bench.end(200_600, Role::Fault, done(), 9);
        assert_eq!(bench.on(300_000, Event::Time), [""; 0]);
    }

    #[test]
    fn another_configuration_is_applied_and_the_role_stays() {
        let mut bench = bench(VipOwner::Keepalived, Extent::All);
        let configured = |vip: &str| Event::Configured {
            groups: vec![Supervised {
                name: "web".into(),
                vips: vec![ip(vip)],
                owner: VipOwner::Node,
                follows: true,
                director: None,
            }],
            sync_interface: "eth1".into(),
            sync_id: 9,
        };
        let applied = ["Request(0, Apply(Changes))"];
        let requested = bench.on(0, configured("192.0.2.253"));
        assert!(requested.contains(&applied[0].to_owned()), "{requested:?}");
        let end = |end: End| Event::Ended { group: 0, task: Task::Apply(Apply::Changes), end, request: 1 };
        let failed = bench.on(10, end(End::Failed("it is full".into())));
        assert_eq!(failed, ["tell failure: apply: it is full"]);
        // Its VIP is the other one, and it moves that itself.
        let gone = |vip: &str| Event::Address { address: ip(vip), index: 2, gone: true };
        assert_eq!(bench.on(20, gone(VIP)), [""; 0]);
        assert_eq!(bench.on(30, gone("192.0.2.253")), ["Request(0, RestoreVips)"]);
        let presence = Presence { vips: Presence::digests([ip(VIP)]), node: 3, id: 9, ..Presence::default() };
        bench.on(40, Event::Heard(Heard::Presence(presence)));
        assert_eq!(bench.engine.view.other_clusters(bench.now(50)), 1);
        // A node without a role takes one on with it.
        bench.remember(60, None);
        assert_eq!(bench.on(70, configured(VIP)), [""; 0]);
    }

    #[test]
    fn what_is_missing_twice_is_repaired() {
        let mut bench = bench(VipOwner::Node, Extent::All);
        let (reached, gone) = ((Role::Backup, true), ["VIP: add"]);
        assert_eq!(bench.look(0, reached, 1, &gone), [""; 0]);
        assert_eq!(bench.look(1000, reached, 1, &gone), ["tell repair: VIP: add", "Request(0, Repair)"]);
        // The first look behind a repair, and one behind another request, are first looks.
        assert_eq!(bench.look(2000, reached, 1, &gone), [""; 0]);
        assert_eq!(bench.look(3000, reached, 2, &gone), [""; 0]);
        assert_eq!(bench.look(4000, reached, 2, &[]), [""; 0]);
        assert_eq!(bench.look(5000, reached, 2, &gone), [""; 0]);
        // The same repair is logged once a minute.
        assert_eq!(bench.look(6000, reached, 2, &gone), ["Request(0, Repair)"]);
        // While a role is under way its process may be at work.
        let under_way = (Role::Backup, false);
        assert_eq!(bench.look(10_000, under_way, 3, &gone), [""; 0]);
        assert_eq!(bench.look(30_000, under_way, 3, &gone), [""; 0]);
        assert_eq!(bench.look(30_001, under_way, 3, &gone), ["Request(0, Repair)"]);
        let end = |task| Event::Ended { group: 0, task, end: done(), request: 3 };
        bench.on(30_001, end(Task::RestoreVips));
        assert_eq!(bench.engine.counts.repairs, 0);
        bench.on(30_002, end(Task::Repair));
        assert_eq!(bench.engine.counts.repairs, 1);
        // One that was asked for otherwise has repaired nothing.
        bench.on(30_003, end(Task::Repair));
        assert_eq!(bench.engine.counts.repairs, 1);
        // Another request is another role under way.
        assert_eq!(bench.look(40_000, under_way, 3, &gone), [""; 0]);
        assert_eq!(bench.look(51_000, under_way, 4, &gone), [""; 0]);
        assert_eq!(bench.look(62_000, under_way, 4, &gone), [""; 0]);
    }

    #[test]
    fn failures_are_logged_once_a_minute_and_warnings_when_they_are_new() {
        let mut bench = bench(VipOwner::Node, Extent::All);
        let fail = |error: &str| Event::Failed { what: "beacon".into(), error: error.into() };
        for (at, error, is_told) in [
            (0, "full", true),
            (1, "full", false),
            (60_000, "full", false),
            (60_001, "full", true),
            (60_002, "x", true),
        ] {
            assert_eq!(!bench.on(at, fail(error)).is_empty(), is_told, "{at} {error}");
        }
        assert_eq!(bench.engine.counts.failures, 5);
        let mut warn = |warnings: &[&str]| {
            let warnings = warnings.iter().map(|text| (*text).to_owned()).collect();
            let look = Look { role: Some((Role::Backup, true)), warnings, ..Look::default() };
            bench.on(61_000, Event::Looked(Looks { groups: vec![look], counted: true, took: Duration::ZERO }))
        };
        assert_eq!(warn(&["a"]), ["tell warning: a"]);
        assert_eq!(warn(&["a", "b"]), ["tell warning: b"]);
        assert_eq!(warn(&["b"]), [""; 0]);
        assert_eq!(warn(&["a", "b"]), ["tell warning: a"]);
    }

    #[test]
    fn repairs_end_in_what_they_have_started() {
        let ended = |task: Task, done: Done| Event::Ended { group: 0, task, end: End::Done(done), request: 1 };
        let wants = |bench: &Bench| bench.engine.texts(254).0.wants;
        // A node that knows all, and whose daemon that receives was not running, asks again.
        for (started_backup, started_master) in [(true, false), (false, true), (false, false)] {
            let mut bench = bench(VipOwner::Node, Extent::All);
            bench.engine.learning.directs();
            let done = Done { started_backup, started_master, ..Done::default() };
            bench.on(0, ended(Task::Repair, done.clone()));
            assert_eq!(wants(&bench), started_backup);
            bench.remember(1, Some((Role::Master, true)));
            let sends = bench.on(2, ended(Task::Repair, done));
            assert_eq!(sends.len() + usize::from(bench.engine.requests.is_due(bench.now(5000))), 0, "{sends:?}");
        }
        let mut bench = bench(VipOwner::Node, Extent::All);
        let steps = vec!["VIP: add".to_owned()];
        let restored = Done { steps, ..Done::default() };
        assert_eq!(bench.on(0, ended(Task::RestoreVips, restored)), ["tell repair: VIP: add"]);
        assert_eq!(bench.on(0, ended(Task::RestoreVips, Done::default())), [""; 0]);
        assert_eq!(bench.engine.counts.repairs, 1);
        // What was sent while the sync interface was another one did not arrive.
        bench.engine.learning.directs();
        bench.on(1, Event::NewSyncInterface);
        assert!(wants(&bench));
        assert_eq!(bench.engine.counts.repairs, 2);
        assert_eq!(bench.remember(2, Some((Role::Master, true))), ["Resync"]);
        assert_eq!(bench.on(3, Event::Resynced(None)), [""; 0]);
        assert_eq!((bench.engine.counts.resyncs, bench.engine.texts(254).0.told), (0, (0, 0)));
    }

    #[test]
    fn neighbours_that_are_other_nodes_are_learned() {
        let mut bench = bench(VipOwner::Node, Extent::All);
        bench.on(0, Event::Director(0, Some(ip("192.0.2.12"))));
        let mac = Some(Mac([2, 0, 0, 0, 0, 9]));
        for (address, state, mac, expected) in [
            ("192.0.2.13", NeighbourState::Reachable, mac, Some("LearnMacs({192.0.2.13}, {Mac([2, 0, 0, 0, 0, 9])})")),
            ("192.0.2.13", NeighbourState::Reachable, None, None),
            ("192.0.2.13", NeighbourState::Incomplete, mac, None),
            ("192.0.2.13", NeighbourState::Failed, None, None),
            ("192.0.2.12", NeighbourState::Stale, mac, Some("LearnMacs({192.0.2.12}, {Mac([2, 0, 0, 0, 0, 9])})")),
            // The director does not answer.
            ("192.0.2.12", NeighbourState::Failed, None, Some("Request(0, Repair)")),
            // A client.
            ("192.0.2.99", NeighbourState::Reachable, mac, None),
        ] {
            let interface = "eth0".to_owned();
            let found = Neighbour { address: ip(address), mac, interface, index: 2, state, router: false };
            let actions = bench.on(1, Event::Neighbour(found)).join(" ");
            assert_eq!(actions, expected.unwrap_or_default(), "{address} {state:?}");
        }
        assert_eq!(bench.on(2, Event::LearnedMacs), ["Request(0, Repair)"]);
    }

    #[test]
    fn the_node_wakes_up_when_something_is_to_be_done() {
        let until = |bench: &Bench| bench.engine.until().map(|at| (at - bench.start).as_millis());
        let failed = || End::Failed("it is full".into());
        let mut roles = bench(VipOwner::Node, Extent::Roles);
        assert_eq!(until(&roles), None);
        roles.on(0, Event::Notified(0, Role::Backup));
        roles.end(500, Role::Backup, failed(), 1);
        assert_eq!(until(&roles), Some(1500));
        // Another role that fails is tried again sooner than one that fails again.
        roles.on(1500, Event::Time);
        roles.end(1600, Role::Backup, failed(), 1);
        assert_eq!(until(&roles), Some(3600));
        roles.end(2000, Role::Fault, failed(), 2);
        assert_eq!(until(&roles), Some(3000));
        let mut all = bench(VipOwner::Node, Extent::All);
        let mut at = |at: u64, event: Event| {
            all.on(at, event);
            until(&all)
        };
        // While it is looked at the whole, for the directors and the next beacon.
        assert_eq!(at(299, Event::Time), Some(300));
        assert_eq!(at(300, Event::Time), Some(600));
        assert_eq!(at(900, Event::Time), Some(1000));
        assert_eq!(at(1000, Event::Time), Some(1200));
        let looked = Looks { groups: Vec::new(), counted: true, took: Duration::ZERO };
        assert_eq!(at(1050, Event::Looked(looked)), Some(1200));
        assert_eq!(at(2000, Event::Time), Some(2050));
        assert_eq!(at(2050, Event::Time), Some(2300));
    }

    #[test]
    fn vips_are_looked_at_after_what_keepalived_may_have_done() {
        let idle = |owner| {
            let mut bench = bench(owner, Extent::Roles);
            bench.on(0, Event::Notified(0, Role::Backup));
            bench.end(0, Role::Backup, done(), 1);
            bench.on(300, Event::Time);
            bench.on(300, Event::Shown(0, Some(Role::Backup)));
            bench
        };
        let changed = |address: &str, index| Event::Address { address: ip(address), index, gone: true };
        let looks = Event::Looked(Looks::default());
        for (owner, event, shown_after) in [
            (VipOwner::Keepalived, changed(VIP, 2), Some(300)),
            (VipOwner::Keepalived, changed(VIP, LOOPBACK), None),
            (VipOwner::Keepalived, changed("192.0.2.1", 2), None),
            (VipOwner::Node, changed(VIP, 2), None),
            (VipOwner::Keepalived, Event::Missed, Some(0)),
            (VipOwner::Keepalived, looks, Some(0)),
            (VipOwner::Node, Event::Missed, None),
        ] {
            let mut bench = idle(owner);
            let text = format!("{owner:?} {event:?}");
            let mut shown = vec![bench.on(1000, event)];
            shown.extend((1001..=1300).map(|at| bench.on(at, Event::Time)));
            let after = shown.iter().position(|actions| actions == &["Show(0)"]);
            assert_eq!((after, bench.engine.until()), (shown_after, None), "{text}");
        }
        // What is looked at soon is not looked at sooner.
        let mut bench = idle(VipOwner::Keepalived);
        bench.on(1000, changed(VIP, 2));
        assert_eq!(bench.on(1100, Event::Missed), [""; 0]);
        // Lost notifications may be of anything.
        let mut all = self::bench(VipOwner::Node, Extent::All);
        all.look(0, (Role::Backup, true), 1, &[]);
        let now = all.now(500);
        assert!(all.engine.on(now, Event::Missed).iter().any(|action| matches!(action, Action::Look)));
    }

    #[test]
    fn a_role_that_the_vips_show_lasts_by_itself() {
        let mut bench = bench(VipOwner::Keepalived, Extent::Roles);
        for (at, role, expected) in [
            (0, Role::Backup, ""),
            (200, Role::Master, ""),
            (400, Role::Master, ""),
            (500, Role::Master, "Request(0, Role(Master))"),
        ] {
            let actions = bench.on(at, Event::Shown(0, Some(role)));
            assert_eq!(actions.last().map_or("", |action| action), expected, "{at}");
        }
    }

    #[test]
    fn what_is_missing_is_looked_at_soon_once() {
        let mut bench = bench(VipOwner::Node, Extent::All);
        let mut pause = |at: u64, drift: &[&str]| {
            let drift = drift.iter().map(|step| (*step).to_owned()).collect();
            let look = Look { role: Some((Role::Backup, false)), request: 1, drift, ..Look::default() };
            let looks = Looks { groups: vec![look], counted: true, took: Duration::from_secs(1) };
            bench.on(at, Event::Looked(looks));
            (bench.engine.look_at - bench.now(at)).as_secs()
        };
        let pauses = [(0, vec![]), (1, vec!["x"]), (2, vec!["x"]), (3, vec![]), (4, vec!["x"])];
        assert_eq!(pauses.map(|(at, drift)| pause(at * 10_000, &drift)), [10, 1, 10, 10, 1]);
    }

    /// What a look warns of lasts while a role is taken on.
    #[test]
    fn a_role_tells_no_warning_again() {
        let mut bench = bench(VipOwner::Node, Extent::All);
        let of = Presence { id: 254, node: 9, vips: [1].into(), ..Presence::default() };
        bench.on(0, Event::Heard(Heard::Presence(of)));
        assert!(bench.look(1, (Role::Backup, true), 1, &[])[0].contains("another cluster"));
        let done = Done { warnings: vec!["of the role".to_owned()], ..Done::default() };
        assert_eq!(bench.end(2, Role::Backup, End::Done(done), 2), ["tell warning: of the role"]);
        assert_eq!(bench.look(3, (Role::Backup, true), 2, &[]), [""; 0]);
    }

    #[test]
    fn other_tables_and_other_clusters_are_warned_of() {
        let mut bench = bench(VipOwner::Node, Extent::All);
        let mut look = |at: u64, table: u64, address: &str, vips: &[u32]| {
            let (table, vips) = (Some(TableDigest { table, order: 0 }), vips.iter().copied().collect());
            let addresses = [ip(address), ip("192.0.2.200")].into();
            let of = Presence { id: 254, node: 9, addresses, table, vips, ..Presence::default() };
            bench.on(at, Event::Heard(Heard::Presence(of)));
            let told = bench.look(at, (Role::Backup, true), 1, &[]);
            (told.join(" "), bench.engine.counts.unequal.len(), bench.engine.counts.other_clusters)
        };
        let unequal = "has other services, destinations or weights than this node";
        let none = || (String::new(), 0, 0);
        assert_eq!(look(0, 7, "192.0.2.12", &[]), none());
        assert_eq!(look(30_000, 7, "192.0.2.12", &[]), none());
        assert_eq!(look(30_001, 7, "192.0.2.12", &[]), (format!("tell warning: 192.0.2.12 {unequal}"), 1, 0));
        assert_eq!(look(30_002, 7, "192.0.2.12", &[]), (String::new(), 1, 0));
        // It was equal meanwhile.
        assert_eq!(look(40_000, 0, "192.0.2.12", &[]), none());
        assert_eq!(look(50_000, 7, "192.0.2.13", &[]), none());
        // By the address by which it is known here, and by another if it is not.
        assert_eq!(look(81_000, 7, "192.0.2.201", &[]), (format!("tell warning: 192.0.2.200 {unequal}"), 1, 0));
        assert_eq!(look(82_000, 7, "192.0.2.213", &[]), (String::new(), 1, 0));
        let cluster = "tell warning: another cluster on eth0 uses sync id 254: give one of the two another [sync] id";
        assert_eq!(look(90_000, 0, "192.0.2.12", &[1]), (cluster.to_owned(), 1, 1));
        assert_eq!(
            look(99_000, 0, "192.0.2.12", &Presence::digests([ip(VIP)]).into_iter().collect::<Vec<_>>()),
            none()
        );
    }

    #[test]
    fn what_a_node_tells_the_others() {
        let start = Instant::now();
        let group = |name: &str, vip: &str| Supervised {
            name: name.into(),
            vips: vec![ip(vip)],
            owner: VipOwner::Node,
            follows: true,
            director: None,
        };
        let sync = crate::node::Config::new("eth0", [ip(VIP)]).sync;
        let groups = || vec![group("web", VIP), group("mail", "192.0.2.253")];
        let (reached, backup) = (Some((Role::Master, true)), Some((Role::Backup, true)));
        for (roles, role, directs, wants) in [
            ([None, None], Role::Stop, &[][..], false),
            ([backup, None], Role::Backup, &[], true),
            ([None, backup], Role::Backup, &[], true),
            ([Some((Role::Backup, false)), backup], Role::Backup, &[], false),
            ([backup, Some((Role::Master, false))], Role::Master, &[], false),
            ([backup, reached], Role::Master, &["mail"], false),
            ([reached, reached], Role::Master, &["mail", "web"], false),
        ] {
            let mut engine = Engine::new(start, 7, Extent::All, groups(), &sync);
            let remembered = roles.map(|role| Remembered { role, ..Remembered::default() });
            engine.on(start, Event::Remembered(remembered.into()));
            let looks = [(3, 5), (4, 5)].map(|(connections, marked)| Look { connections, marked, ..Look::default() });
            engine.on(start, Event::Looked(Looks { groups: looks.into(), counted: true, took: Duration::ZERO }));
            // Those of the marks are in each group's look. A director sends its own.
            let known = if directs.is_empty() { 12 } else { 7 };
            let (beacon, presence) = engine.texts(254);
            assert_eq!(beacon, Beacon { id: 254, node: 7, role, known, told: (0, 0), wants }, "{roles:?}");
            let expected = Presence {
                id: 254,
                node: 7,
                table: Some(TableDigest::default()),
                directs: directs.iter().map(|name| (*name).to_owned()).collect(),
                vips: Presence::digests([ip(VIP), ip("192.0.2.253")]),
                ..Presence::default()
            };
            assert_eq!(presence, expected);
            assert_eq!(engine.counts.directs, !directs.is_empty());
        }
    }

    #[test]
    fn changes_of_role_are_counted_from_the_start_on() {
        let start = Instant::now();
        let group = |name: &str| Supervised {
            name: name.into(),
            vips: vec![ip(VIP)],
            owner: VipOwner::Node,
            follows: false,
            director: None,
        };
        let groups = vec![group("web"), group("mail")];
        let sync = crate::node::Config::new("eth0", [ip(VIP)]).sync;
        let mut engine = Engine::new(start, 7, Extent::All, groups, &sync);
        let mut at = |ms: u64, roles: [Option<(Role, bool)>; 2]| {
            let now = start + Duration::from_millis(ms);
            let all = roles.map(|role| Remembered { role, ..Remembered::default() }).into();
            engine.on(now, Event::Remembered(all));
            (engine.counts.role_changes, engine.counts.role_changed.map(|at| at.duration_since(start).as_millis()))
        };
        let [backup, master] = [Role::Backup, Role::Master].map(|role| Some((role, true)));
        assert_eq!(at(0, [backup, None]), (0, None));
        assert_eq!(at(100, [Some((Role::Master, false)), None]), (1, Some(100)));
        // Reached.
        assert_eq!(at(200, [master, None]), (1, Some(100)));
        assert_eq!(at(300, [backup, backup]), (3, Some(300)));
    }

    #[test]
    fn only_a_node_that_sees_the_others_sends_beacons() {
        for extent in [Extent::Roles, Extent::All] {
            let mut bench = bench(VipOwner::Node, extent);
            let mut sends = |at: u64, event: Event| {
                let now = bench.now(at);
                bench.engine.on(now, event).iter().any(|action| matches!(action, Action::SendBeacon))
            };
            let end = Event::Ended { group: 0, task: Task::Role(Role::Backup), end: done(), request: 1 };
            // When a role has ended, and each second.
            assert_eq!(
                [sends(500, end), sends(1499, Event::Time), sends(1500, Event::Time)],
                [extent == Extent::All, false, extent == Extent::All]
            );
        }
        // Nor does it restore VIPs.
        let mut bench = bench(VipOwner::Node, Extent::Roles);
        assert_eq!(bench.on(0, Event::Address { address: ip(VIP), index: 2, gone: true }), [""; 0]);
    }

    #[test]
    fn the_longer_a_look_takes_the_rarer_it_is() {
        let mut bench = bench(VipOwner::Node, Extent::All);
        for (took, pause) in [(1, 1000), (10, 2000), (40, 8000), (300, 10_000)] {
            let now = bench.now(0);
            let looks = Looks { groups: vec![Look::default()], counted: true, took: Duration::from_millis(took) };
            bench.engine.on(now, Event::Looked(looks));
            assert_eq!(bench.engine.look_at - now, Duration::from_millis(pause));
        }
        let now = bench.now(20_000);
        assert!(bench.engine.on(now, Event::Time).iter().any(|action| matches!(action, Action::Look)));
        // One at a time.
        let later = bench.now(90_000);
        assert!(!bench.engine.on(later, Event::Time).iter().any(|action| matches!(action, Action::Look)));
        bench.engine.on(later, Event::LookFailed);
        let now = bench.now(91_000);
        assert!(bench.engine.on(now, Event::Time).iter().any(|action| matches!(action, Action::Look)));
    }

    #[test]
    fn the_nodes_own_vips_are_restored() {
        let gone = |index| Event::Address { address: ip(VIP), index, gone: true };
        let mut own = bench(VipOwner::Node, Extent::All);
        assert_eq!(own.on(0, gone(2)), ["Request(0, RestoreVips)"]);
        assert_eq!(own.on(0, Event::Address { address: ip(VIP), index: 2, gone: false }), [""; 0]);
        assert_eq!(own.on(0, Event::Address { address: ip("192.0.2.1"), index: 2, gone: true }), [""; 0]);
        // Again and again: some at once, then one every 5 s.
        let count = (0..100).filter(|_| !own.on(1, gone(2)).is_empty()).count();
        assert_eq!(count, 7);
        own.remember(60_000, Some((Role::Backup, false)));
        assert_eq!(own.on(60_000, gone(2)), [""; 0]);
        // keepalived's are its own, but for the one on lo.
        let mut keepalived = bench(VipOwner::Keepalived, Extent::All);
        keepalived.on(0, Event::Notified(0, Role::Backup));
        assert_eq!(keepalived.on(0, gone(2)), [""; 0]);
        assert_eq!(keepalived.on(0, gone(1)), ["Request(0, RestoreVips)"]);
    }

    #[test]
    fn the_director_is_followed() {
        let mut bench = bench(VipOwner::Node, Extent::All);
        let learn = |address: &str| format!("LearnMacs({{{address}}}, {{}})");
        assert_eq!(
            bench.on(0, presence(9, "192.0.2.12", "web")),
            [learn("192.0.2.12"), "Point(0, Some(192.0.2.12))".into()]
        );
        // Another process was at work: it is tried again.
        bench.on(100, Event::Director(0, None));
        assert_eq!(bench.on(400, Event::Time), ["Point(0, Some(192.0.2.12))"]);
        assert_eq!(bench.on(800, Event::Time), [""; 0]);
        // Another one directs, of another group.
        bench.on(900, presence(10, "192.0.2.13", "mail"));
        assert_eq!(bench.on(1300, Event::Time), [""; 0]);
        bench.on(1400, presence(9, "192.0.2.12", ""));
        assert_eq!(bench.on(1500, presence(10, "192.0.2.13", "web"))[1..], ["Point(0, Some(192.0.2.13))"]);
        // Silent for 8 s, it is dead.
        assert_eq!(bench.on(9400, Event::Time), [""; 0]);
        assert_eq!(bench.on(9800, Event::Time), ["Point(0, None)"]);
        // Its own texts are none.
        assert_eq!(bench.on(9900, presence(7, "192.0.2.11", "web")), [""; 0]);
        bench.on(9900, beacon(7, Role::Master, (0, 0), true));
        bench.on(10_300, Event::Time);
        assert_eq!((bench.engine.counts.directors_heard, bench.engine.counts.at_director), (0, None));
        // Ever another one: some changes at once, then one every 5 s.
        let mut points = 0;
        for n in 0..20 {
            let (one, other) = if n % 2 == 0 { (9, "192.0.2.12") } else { (10, "192.0.2.13") };
            bench.on(20_000, presence(19 - one, if n % 2 == 0 { "192.0.2.13" } else { "192.0.2.12" }, ""));
            points += bench.on(20_000, presence(one, other, "web")).len() - 1;
        }
        assert_eq!(points, BURST as usize);
    }

    #[test]
    fn where_every_node_directs_none_is_the_director_and_none_asks() {
        for role in [Role::Master, Role::Backup] {
            let mut bench = bench(VipOwner::Routes, Extent::All);
            bench.remember(0, Some((role, true)));
            for at in [100, 600, 5000, 9000] {
                assert_eq!(bench.on(at, beacon(9, Role::Master, (3, 90), true)), [""; 0], "{role}");
                assert_eq!(bench.on(at, presence(9, "192.0.2.12", "")), ["LearnMacs({192.0.2.12}, {})"], "{role}");
            }
            let (beacon, presence) = bench.engine.texts(254);
            assert_eq!((beacon.role, beacon.wants, presence.directs), (role, false, BTreeSet::new()));
        }
    }

    #[test]
    fn a_node_that_falls_behind_does_not_know_all() {
        for (role, knows_all) in [(Role::Backup, false), (Role::Master, true)] {
            let mut bench = bench(VipOwner::Node, Extent::All);
            bench.on(100, beacon(9, Role::Master, (3, 90), false));
            bench.on(600, beacon(9, Role::Master, (4, 90), false));
            bench.on(800, Event::Counted(90));
            assert!(bench.engine.counts.knows_all);
            bench.remember(900, Some((role, true)));
            for n in 1..=5 {
                bench.on(1000 * n, beacon(9, Role::Master, (4, 90), false));
                assert!(bench.engine.counts.knows_all);
                let groups = vec![Look::default()];
                bench.on(1000 * n, Event::Looked(Looks { groups, counted: true, took: Duration::ZERO }));
                assert_eq!((bench.engine.counts.directors_heard, bench.engine.counts.at_director), (1, Some(100)));
            }
            assert_eq!(bench.engine.counts.knows_all, knows_all, "{role}");
            bench.look(9000, (role, true), 1, &[]);
            assert_eq!(bench.engine.counts.at_director, None);
        }
    }

    #[test]
    fn a_node_learns_and_a_director_sends() {
        let mut bench = bench(VipOwner::Keepalived, Extent::All);
        bench.on(0, Event::Notified(0, Role::Backup));
        bench.end(0, Role::Backup, done(), 1);
        let takes_part = |bench: &mut Bench, at: u64| {
            let now = bench.now(at);
            bench.engine.on(now, Event::Time).iter().any(|action| matches!(action, Action::TakePart))
        };
        assert_eq!(bench.on(100, beacon(9, Role::Master, (3, 90), false)), [""; 0]);
        assert!(!takes_part(&mut bench, 500));
        assert_eq!(bench.on(600, beacon(9, Role::Master, (4, 90), false)), ["Count(90)"]);
        // One count at a time.
        assert_eq!(bench.on(700, beacon(9, Role::Master, (5, 90), false)), [""; 0]);
        assert_eq!(bench.on(800, Event::Counted(90)), ["tell learned: knows 90 of 90 connections"]);
        assert!(takes_part(&mut bench, 1200) && bench.engine.counts.knows_all);
        // Who asks a backup gets nothing; a director sends, and says how many these were.
        assert_eq!(bench.on(1300, beacon(10, Role::Backup, (0, 0), true)), [""; 0]);
        assert_eq!(bench.remember(1300, Some((Role::Master, true))), ["Resync"]);
        assert_eq!(bench.on(1500, Event::Resynced(Some(120))), ["tell told: sent 120 connections to the other nodes"]);
        assert_eq!(bench.engine.counts.resyncs, 1);
        let (beacon, presence) = bench.engine.texts(254);
        assert_eq!((beacon.role, beacon.told, beacon.wants), (Role::Master, (1, 120), false));
        assert_eq!((presence.node, presence.directs), (7, ["web".to_owned()].into()));
    }

    #[test]
    fn only_what_was_counted_anew_says_that_connections_are_missing() {
        let mut bench = bench(VipOwner::Node, Extent::All);
        bench.on(100, beacon(9, Role::Master, (3, 90), false));
        bench.on(600, beacon(9, Role::Master, (4, 90), false));
        bench.on(800, Event::Counted(90));
        let mut asks_after = |counted: bool| {
            (1..20).find(|n: &u64| {
                bench.on(1000 * n, beacon(9, Role::Master, (4, 90), false));
                bench.on(
                    1000 * n,
                    Event::Looked(Looks { groups: vec![Look::default()], counted, took: Duration::ZERO }),
                );
                bench.engine.texts(254).0.wants
            })
        };
        assert_eq!(asks_after(false), None);
        assert_eq!(asks_after(true), Some(5));
    }

    #[test]
    fn a_new_director_is_answered_at_once() {
        let mut bench = bench(VipOwner::Node, Extent::All);
        bench.remember(0, Some((Role::Master, true)));
        let answers = |bench: &mut Bench, at: u64, event: Event| {
            let now = bench.now(at);
            bench.engine.on(now, event).iter().filter(|action| matches!(action, Action::SendBeacon)).count()
        };
        assert_eq!(answers(&mut bench, 1000, Event::Time), 1);
        assert_eq!(answers(&mut bench, 1050, beacon(9, Role::Master, (0, 0), false)), 0);
        assert_eq!(answers(&mut bench, 1150, beacon(10, Role::Master, (0, 0), false)), 1);
        assert_eq!(answers(&mut bench, 1350, beacon(10, Role::Master, (0, 0), false)), 0);
        assert_eq!(answers(&mut bench, 1400, beacon(11, Role::Backup, (0, 0), false)), 0);
    }
}
