//! A cluster: nodes with keepalived and a supervisor each, on links that lose, delay, duplicate
//! and cut. Supervisors and jobs are those of the library.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::machine::{Ended, Machine, Trouble};
use super::{FOREIGN_SERVICE, Random, boot};
use crate::error::Error;
use crate::ipvs::SyncRole;
use crate::marks::{Mac, Packets};
use crate::node::beacon::{Heard, Presence};
use crate::node::config::VipOwner;
use crate::node::fence::Fence;
use crate::node::job::Task;
use crate::node::model::{VIP, World, ip, located};
use crate::node::repair;
use crate::node::role::Role;
use crate::node::supervisor::engine::{Action, Done, End, Engine, Event, Extent, Look, Looks, Remembered, Supervised};
use crate::node::supervisor::notice::Notice;
use crate::vip::Scope;

/// The time of a step.
const STEP: Duration = Duration::from_millis(10);
/// VRRP: the interval of advertisements, and after how many that are missing a backup takes over.
const ADVERTISEMENT: Duration = Duration::from_secs(1);
/// Until all is at rest: nodes that were silent are dead after 8 s, learning takes some beacons.
const REST: Duration = Duration::from_secs(60);

#[derive(Debug, Clone)]
enum Text {
    Advertisement {
        priority: usize,
    },
    Heard(Heard),
    /// A connection, by the sync daemon.
    Connection(u64),
    /// All connections.
    Connections(BTreeSet<u64>),
}

/// What happens to the cluster from outside.
#[derive(Debug, Clone, Copy)]
pub(super) enum Chance {
    Nothing,
    /// Nodes do not receive each other: VRRP, beacons and sync messages, or beacons and sync
    /// messages alone.
    Cut(usize, usize, Cut),
    Heal,
    /// The supervisor is killed, and started again a while later.
    Kill(usize),
    Reboot(usize),
    Trouble(usize, Trouble),
    Weight(usize, u32),
    VipRemoved(usize),
    QdiscRemoved(usize),
    DaemonStopped(usize, SyncRole),
    /// Another process asks for the role that keepalived has given the node: `notify`.
    Role(usize),
    /// The MAC address of a node changes.
    NewMac(usize),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cut {
    Both,
    SyncOnly,
}

struct Member {
    machine: Machine,
    engine: Option<Engine>,
    /// When the supervisor is started again, and how often it was.
    starts_at: Instant,
    starts: u64,
    /// Whether keepalived's state is MASTER, and when it advertises or takes over.
    master: bool,
    vrrp_at: Instant,
    /// Lines of the FIFO, and when they are read.
    lines: VecDeque<(Instant, Role)>,
    waiting: VecDeque<Task>,
    events: VecDeque<Event>,
    remembered: Vec<Remembered>,
    connections: BTreeSet<u64>,
    resync_at: Option<Instant>,
    mac: Mac,
    told_to_direct: bool,
}

pub(super) struct Cluster {
    now: Instant,
    random: Random,
    members: Vec<Member>,
    texts: Vec<(Instant, usize, Text)>,
    cut: BTreeMap<(usize, usize), Cut>,
    /// One text in so many is lost.
    loss: usize,
    opened: u64,
    opens_at: Instant,
    told: Vec<(Duration, Chance)>,
    start: Instant,
    is_traced: bool,
}

fn address(index: usize) -> IpAddr {
    ip(&format!("192.0.2.{}", 11 + index))
}

fn services(count: usize) -> String {
    let servers: String =
        (0..count).map(|index| format!("-a -t {VIP}:80 -r {}:80 -g -w 1\n", address(index))).collect();
    format!("-A -t {VIP}:80 -s wrr\n{servers}")
}

fn world(index: usize, count: usize, macs: &[Mac]) -> World {
    let mut world = boot(Fence::Marks, VipOwner::Keepalived);
    world.config.services = Some(services(count).parse().unwrap());
    let own = located(&address(index).to_string(), "eth0", Scope::Global);
    world.seen.own = [own.address].into();
    world.seen.addresses = vec![own];
    world.seen.link.macs =
        (0..count).filter(|other| *other != index).map(|other| (address(other), macs[other])).collect();
    world
}

impl Cluster {
    pub(super) fn new(seed: u64) -> Self {
        let mut random = Random(seed);
        let count = 2 + random.next(4);
        let now = Instant::now();
        let macs: Vec<Mac> = (0..count).map(|index| Mac([2, 0, 0, 0, 0, index as u8])).collect();
        let member = |index: usize| Member {
            machine: Machine::new(world(index, count, &macs)),
            engine: None,
            starts_at: now + STEP * index as u32,
            starts: 0,
            master: false,
            vrrp_at: now + ADVERTISEMENT * 3 + ADVERTISEMENT / 8 * index as u32,
            lines: VecDeque::new(),
            waiting: VecDeque::new(),
            events: VecDeque::new(),
            remembered: Vec::new(),
            connections: BTreeSet::new(),
            resync_at: None,
            mac: macs[index],
            told_to_direct: false,
        };
        Cluster {
            now,
            members: (0..count).map(member).collect(),
            texts: Vec::new(),
            cut: BTreeMap::new(),
            loss: [10, 20, 1000][random.next(3)],
            opened: 0,
            opens_at: now,
            told: Vec::new(),
            start: now,
            is_traced: super::number(super::SEED).is_some(),
            random,
        }
    }

    /// Prints what a node does, where one run is looked at.
    fn trace(&self, index: usize, action: &Action) {
        if self.is_traced
            && !matches!(action, Action::SendBeacon | Action::LearnMacs(..) | Action::TakePart | Action::Look)
        {
            println!("{:7.2} node {index}: {action:?}", (self.now - self.start).as_secs_f64());
        }
    }

    fn fail(&self, what: &str) -> String {
        format!("{what} at {:?} of {} nodes behind {:?}", self.now - self.start, self.members.len(), self.told)
    }

    /// Runs for a while with random events, and then until all is at rest.
    pub(super) fn run(&mut self) {
        for _ in 0..12 {
            let chance = self.chance();
            self.told.push((self.now - self.start, chance));
            self.happen(chance);
            let steps = 1 + self.random.next(600);
            (0..steps).for_each(|_| self.step());
        }
        self.told.push((self.now - self.start, Chance::Heal));
        self.happen(Chance::Heal);
        self.loss = usize::MAX;
        let until = self.now + REST;
        while self.now < until {
            self.step();
        }
        self.expect_rest();
    }

    fn chance(&mut self) -> Chance {
        let count = self.members.len();
        let random = &mut self.random;
        let (one, other) = (random.next(count), random.next(count));
        match random.next(20) {
            0..4 => Chance::Cut(one, other, random.pick(&[Cut::Both, Cut::Both, Cut::SyncOnly])),
            4..6 => Chance::Heal,
            6..9 => Chance::Kill(one),
            9 | 10 => Chance::Reboot(one),
            11 => Chance::Trouble(one, random.pick(&Trouble::ALL)),
            12 => Chance::Weight(one, random.next(3) as u32),
            13 => Chance::VipRemoved(one),
            14 => Chance::QdiscRemoved(one),
            15 => Chance::DaemonStopped(one, random.pick(&[SyncRole::Master, SyncRole::Backup])),
            16 => Chance::Role(one),
            17 => Chance::NewMac(one),
            _ => Chance::Nothing,
        }
    }

    fn happen(&mut self, chance: Chance) {
        let (now, count) = (self.now, self.members.len());
        match chance {
            Chance::Nothing => {}
            Chance::Cut(one, other, cut) => {
                if one == other {
                    // It is alone.
                    self.cut.extend((0..count).map(|other| ((one.min(other), one.max(other)), cut)));
                } else {
                    self.cut.insert((one.min(other), one.max(other)), cut);
                }
            }
            Chance::Heal => {
                self.cut.clear();
                for index in 0..count {
                    if self.members[index].machine.trouble == Trouble::ReadOnly {
                        self.reboot(index);
                    }
                    self.members[index].machine.trouble = Trouble::Nothing;
                }
            }
            Chance::Kill(index) => {
                let pause = STEP * self.random.next(500) as u32;
                self.kill(index, now + pause);
            }
            Chance::Reboot(index) => self.reboot(index),
            Chance::Trouble(index, trouble) => {
                let machine = &mut self.members[index].machine;
                if machine.trouble != Trouble::ReadOnly {
                    machine.trouble = trouble;
                }
            }
            Chance::Weight(index, weight) => {
                let seen = &mut self.members[index].machine.world.seen;
                let server = format!("{}:80", address(0)).parse().unwrap();
                let mut table = seen.table.clone();
                table.edit_destinations(|_, destination| {
                    if destination.address == server {
                        destination.weight = weight;
                    }
                });
                seen.table = table;
            }
            Chance::VipRemoved(index) => {
                let member = &mut self.members[index];
                member.machine.world.seen.vips.entry(ip(VIP)).or_default().retain(|found| found.interface != "lo");
                member.events.push_back(Event::Address { address: ip(VIP), index: 1, gone: true });
            }
            Chance::QdiscRemoved(index) => {
                let seen = &mut self.members[index].machine.world.seen;
                seen.marks.rules.clear();
                seen.marks.qdiscs.insert("eth0".into(), None);
            }
            Chance::DaemonStopped(index, role) => {
                drop(self.members[index].machine.world.seen.daemons.insert(role, None));
            }
            Chance::Role(index) => {
                let role = if self.members[index].master { Role::Master } else { Role::Backup };
                self.members[index].machine.start(Task::Role(role));
            }
            Chance::NewMac(index) => {
                let mac = Mac([2, 0, 0, 1, self.random.next(200) as u8, index as u8]);
                self.members[index].mac = mac;
                for (_, member) in self.members.iter_mut().enumerate().filter(|(other, _)| *other != index) {
                    member.machine.world.seen.link.macs.insert(address(index), mac);
                }
            }
        }
        self.members.iter_mut().for_each(|member| member.machine.disturb());
    }

    fn kill(&mut self, index: usize, again: Instant) {
        let member = &mut self.members[index];
        while !member.machine.processes.is_empty() {
            member.machine.kill(0);
        }
        member.engine = None;
        member.starts_at = again;
        member.waiting.clear();
        member.events.clear();
        member.lines.clear();
        member.resync_at = None;
    }

    fn reboot(&mut self, index: usize) {
        let again = self.now + Duration::from_secs(2);
        self.kill(index, again);
        let macs: Vec<Mac> = self.members.iter().map(|member| member.mac).collect();
        let count = macs.len();
        let member = &mut self.members[index];
        member.machine.reboot(world(index, count, &macs));
        member.machine.trouble = Trouble::Nothing;
        (member.master, member.told_to_direct) = (false, false);
        member.vrrp_at = again + ADVERTISEMENT * 3;
        member.connections.clear();
    }

    fn step(&mut self) {
        self.now += STEP;
        self.deliver();
        self.open_connections();
        for index in 0..self.members.len() {
            self.vrrp(index);
            self.supervise(index);
            self.work(index);
        }
    }

    fn send(&mut self, from: usize, text: &Text) {
        for to in 0..self.members.len() {
            let key = (from.min(to), from.max(to));
            let cut = match (self.cut.get(&key), text) {
                (None, _) => false,
                (Some(Cut::SyncOnly), Text::Advertisement { .. }) => false,
                (Some(_), _) => true,
            };
            // Whether all of them have come, a node sees by their number only: it may have others
            // of its own.
            let is_lost = !matches!(text, Text::Connections(_)) && self.random.next(self.loss) == 0;
            if to == from || cut || is_lost {
                continue;
            }
            let copies = 1 + usize::from(self.random.next(50) == 0);
            for _ in 0..copies {
                let at = self.now + STEP * self.random.next(12) as u32;
                self.texts.push((at, to, text.clone()));
            }
        }
    }

    fn deliver(&mut self) {
        let now = self.now;
        let (due, later) = std::mem::take(&mut self.texts).into_iter().partition(|(at, ..)| *at <= now);
        self.texts = later;
        for (_, to, text) in due {
            let listens = self.members[to].machine.world.seen.daemons[&SyncRole::Backup].is_some();
            match text {
                Text::Advertisement { priority } => self.advertised(to, priority),
                Text::Heard(heard) if self.members[to].engine.is_some() => {
                    self.members[to].events.push_back(Event::Heard(heard));
                }
                Text::Heard(_) => {}
                Text::Connection(number) if listens => drop(self.members[to].connections.insert(number)),
                Text::Connections(all) if listens => self.members[to].connections.extend(all),
                Text::Connection(_) | Text::Connections(_) => {}
            }
        }
    }

    /// A client opens a connection at each node that has the VIP and directs.
    fn open_connections(&mut self) {
        if self.now < self.opens_at {
            return;
        }
        self.opens_at = self.now + Duration::from_millis(250);
        for index in 0..self.members.len() {
            let seen = &self.members[index].machine.world.seen;
            if self.members[index].master && seen.daemons[&SyncRole::Master].is_some() {
                self.opened += 1;
                let number = self.opened;
                self.members[index].connections.insert(number);
                self.send(index, &Text::Connection(number));
            }
        }
    }

    /// keepalived: the node with the highest priority that is heard is MASTER.
    fn vrrp(&mut self, index: usize) {
        if self.now < self.members[index].vrrp_at {
            return;
        }
        if !self.members[index].master {
            self.change(index, Role::Master);
        }
        self.members[index].vrrp_at = self.now + ADVERTISEMENT;
        self.send(index, &Text::Advertisement { priority: index });
    }

    fn advertised(&mut self, index: usize, priority: usize) {
        if priority <= index {
            return;
        }
        if self.members[index].master {
            self.change(index, Role::Backup);
        }
        self.members[index].vrrp_at = self.now + ADVERTISEMENT * 3 + ADVERTISEMENT / 8 * (8 - index as u32);
    }

    /// keepalived moves its VIP, and notifies. One line in twenty is lost.
    fn change(&mut self, index: usize, role: Role) {
        let delay = STEP * (1 + self.random.next(5) as u32);
        let is_lost = self.random.next(20) == 0;
        let (now, member) = (self.now, &mut self.members[index]);
        member.master = role == Role::Master;
        let vips = member.machine.world.seen.vips.entry(ip(VIP)).or_default();
        vips.retain(|found| found.interface != "eth0");
        if member.master {
            vips.push(located(VIP, "eth0", Scope::Global));
        }
        member.machine.disturb();
        // What the VIP shows counts as told.
        member.told_to_direct |= member.master;
        if member.engine.is_some() {
            member.events.push_back(Event::Address { address: ip(VIP), index: 2, gone: !member.master });
            if !is_lost {
                member.lines.push_back((now + delay, role));
            }
        }
    }

    fn supervise(&mut self, index: usize) {
        let now = self.now;
        if self.members[index].engine.is_none() {
            if now < self.members[index].starts_at {
                return;
            }
            self.start(index);
        }
        let member = &mut self.members[index];
        while member.lines.front().is_some_and(|(at, _)| now >= *at) {
            if let Some((_, role)) = member.lines.pop_front() {
                member.events.push_back(Event::Notified(0, role));
            }
        }
        if member.resync_at.take_if(|at| now >= *at).is_some() {
            let all = member.connections.clone();
            let count = all.len();
            member.events.push_back(Event::Resynced(Some(count)));
            self.send(index, &Text::Connections(all));
        }
        let remembered = vec![self.remembered(index)];
        let member = &mut self.members[index];
        if remembered != member.remembered {
            member.remembered.clone_from(&remembered);
            member.events.push_front(Event::Remembered(remembered));
        }
        let is_due = member.engine.as_ref().and_then(Engine::until).is_some_and(|until| now >= until);
        if is_due {
            member.events.push_back(Event::Time);
        }
        while let Some(event) = self.members[index].events.pop_front() {
            let actions = self.members[index].engine.as_mut().map(|engine| engine.on(now, event));
            actions.into_iter().flatten().for_each(|action| self.perform(index, action));
        }
    }

    fn start(&mut self, index: usize) {
        let remembered = self.remembered(index);
        let member = &mut self.members[index];
        member.starts += 1;
        let config = &member.machine.world.config;
        let group = Supervised {
            name: String::new(),
            vips: config.vips.clone(),
            owner: config.vip_owner,
            follows: true,
            director: remembered.director,
        };
        let number = index as u64 + 100 * member.starts;
        member.engine = Some(Engine::new(self.now, number, Extent::All, vec![group], &config.sync));
        member.remembered = vec![remembered.clone()];
        member.events.extend([Event::Remembered(vec![remembered]), Event::Missed]);
    }

    fn remembered(&self, index: usize) -> Remembered {
        let state = &self.members[index].machine.world.memory.state;
        let group = state.group("");
        Remembered { role: group.role, director: group.director, peers: state.peers.keys().copied().collect() }
    }

    fn perform(&mut self, index: usize, action: Action) {
        let now = self.now;
        self.trace(index, &action);
        match action {
            Action::Request(_, task) => self.request(index, task),
            Action::Retry(_, role, request) => match self.members[index].machine.latest() == request {
                true => self.request(index, Task::Role(role)),
                false => self.members[index].events.push_back(Event::NotRetried(0)),
            },
            Action::Show(_) => {
                let seen = &self.members[index].machine.world.seen;
                let there = seen.found_on(ip(VIP), "eth0").next().is_some();
                let role = if there { Role::Master } else { Role::Backup };
                self.members[index].events.push_back(Event::Shown(0, Some(role)));
            }
            Action::Look => {
                let look = self.look(index);
                let event = match look {
                    Some(look) => {
                        let took = Duration::from_millis(5);
                        Event::Looked(Looks { groups: vec![look], counted: true, took })
                    }
                    None => Event::LookFailed,
                };
                self.members[index].events.push_back(event);
            }
            Action::Count(_) => {
                let known = self.members[index].connections.len() as u64;
                self.members[index].events.push_back(Event::Counted(known));
            }
            Action::Resync => self.members[index].resync_at = Some(now + Duration::from_millis(300)),
            Action::SendBeacon => {
                let Some(engine) = &self.members[index].engine else { return };
                let (beacon, presence) = engine.texts(254);
                let mac = self.members[index].mac;
                let presence = Presence { addresses: [address(index)].into(), macs: [mac].into(), ..presence };
                self.send(index, &Text::Heard(Heard::Presence(presence)));
                self.send(index, &Text::Heard(Heard::Beacon(beacon)));
            }
            Action::LearnMacs(addresses, macs) => {
                let member = &mut self.members[index];
                let mut new = false;
                if member.machine.trouble == Trouble::Nothing && !member.machine.is_locked() {
                    let peers = &mut member.machine.world.memory.state.peers;
                    for (_, known) in peers.iter_mut().filter(|(peer, _)| addresses.contains(peer)) {
                        macs.iter().for_each(|mac| new |= known.insert(*mac));
                    }
                }
                if new {
                    member.events.push_back(Event::LearnedMacs);
                }
            }
            Action::Point(_, director) => {
                let member = &mut self.members[index];
                let fails = member.machine.is_locked() || member.machine.trouble != Trouble::Nothing;
                let remembered = member.machine.world.memory.state.groups.get_mut("");
                match remembered {
                    Some(group) if !fails => group.director = director,
                    remembered => {
                        let remembered = remembered.and_then(|group| group.director);
                        member.events.push_back(Event::Director(0, remembered));
                    }
                }
            }
            Action::TakePart => {}
            Action::Tell(Notice::Failure(text)) => {
                let trouble = self.members[index].machine.trouble != Trouble::Nothing || text.contains("trouble");
                assert!(trouble || text.contains("another program"), "{}", self.fail(&text));
            }
            Action::Tell(_) => {}
        }
    }

    /// As a driver does.
    fn request(&mut self, index: usize, task: Task) {
        let member = &mut self.members[index];
        let own = member.machine.processes.iter().position(|process| process.is_own);
        match own {
            Some(_) if !task.supersedes() => {
                if !member.waiting.contains(&task) {
                    member.waiting.push_back(task);
                }
            }
            own => {
                member.machine.start(task);
                if let Some(process) = member.machine.processes.last_mut() {
                    process.is_own = true;
                }
                // It has its number, and the one before is given up.
                let last = member.machine.processes.len() - 1;
                let ended = member.machine.advance(last);
                if let Some(before) = own {
                    let before = member.machine.give_up_process(before);
                    let request = member.machine.latest();
                    member.events.push_back(Event::Ended { group: 0, task: before, end: End::Superseded, request });
                }
                if let Some(ended) = ended {
                    self.ended(index, true, &ended);
                }
            }
        }
    }

    fn work(&mut self, index: usize) {
        for _ in 0..3 {
            let count = self.members[index].machine.processes.len();
            for process in (0..count).rev() {
                if process >= self.members[index].machine.processes.len() {
                    continue;
                }
                let is_own = self.members[index].machine.processes[process].is_own;
                self.members[index].machine.set_now(self.now);
                if let Some(ended) = self.members[index].machine.advance(process) {
                    self.ended(index, is_own, &ended);
                }
            }
        }
        let member = &mut self.members[index];
        if !member.machine.processes.iter().any(|process| process.is_own)
            && let Some(task) = member.waiting.pop_front()
        {
            self.request(index, task);
        }
        let role = self.remembered(index).role;
        let member = &self.members[index];
        assert!(
            !matches!(role, Some((Role::Master, _)))
                || member.told_to_direct
                || member.machine.trouble != Trouble::Nothing,
            "{}",
            self.fail(&format!("node {index} directs without being told"))
        );
        let table = &member.machine.world.seen.table;
        let foreign = table.filtered(|id| id.address().is_some_and(|to| to.ip() == ip("198.51.100.1")));
        assert_eq!(foreign.to_string(), FOREIGN_SERVICE, "{}", self.fail("another program's service"));
    }

    fn ended(&mut self, index: usize, is_own: bool, ended: &Ended) {
        let member = &mut self.members[index];
        if let (Task::Role(role), true) = (ended.task, ended.is_latest)
            && role != Role::Master
            && !member.master
        {
            let promotes = member.machine.processes.iter().any(|process| process.task() == Task::Role(Role::Master));
            member.told_to_direct = promotes;
        }
        if !is_own {
            return;
        }
        let end = match &ended.result {
            Ok(plan) => {
                let text = plan.to_string();
                let starts = |role: &str| text.contains(&format!("--start-daemon {role}"));
                End::Done(Done {
                    steps: plan.steps().iter().map(ToString::to_string).collect(),
                    warnings: Vec::new(),
                    started_backup: starts("backup"),
                    started_master: starts("master"),
                })
            }
            Err(Error::Superseded { .. }) => End::Superseded,
            Err(error) => End::Failed(error.to_string()),
        };
        let (request, director) = (member.machine.latest(), member.machine.world.memory.state.group("").director);
        if let Task::Role(_) = ended.task {
            member.events.push_back(Event::Director(0, director));
        }
        member.events.push_back(Event::Ended { group: 0, task: ended.task, end, request });
    }

    fn look(&self, index: usize) -> Option<Look> {
        let member = &self.members[index];
        let world = &member.machine.world;
        let plan = repair::plan(&world.config, &world.memory, &world.seen).ok()?;
        Some(Look {
            role: world.memory.state.group("").role,
            request: member.machine.latest(),
            drift: plan.steps().iter().map(ToString::to_string).collect(),
            connections: member.connections.len() as u64,
            ..Look::default()
        })
    }

    /// All nodes are what keepalived has made them, and know what there is to know.
    fn expect_rest(&self) {
        let last = self.members.len() - 1;
        let director = &self.members[last];
        for (index, member) in self.members.iter().enumerate() {
            let fail = |what: &str| self.fail(&format!("at rest, node {index}: {what}"));
            let (role, directs) = (if index == last { Role::Master } else { Role::Backup }, index == last);
            assert_eq!(member.master, directs, "{}", fail("keepalived"));
            assert_eq!(self.remembered(index).role, Some((role, true)), "{}", fail("role"));
            let seen = &member.machine.world.seen;
            assert!(seen.found_on(ip(VIP), "lo").next().is_some(), "{}", fail("VIP on lo"));
            assert_eq!(seen.daemons[&SyncRole::Master].is_some(), directs, "{}", fail("sync master"));
            let opening = seen.marks.rules.iter().any(|rule| rule.packets == Packets::Opening);
            assert_eq!(opening, !directs, "{}", fail("the rule for new connections"));
            for other in (0..=last).filter(|other| *other != index) {
                let mac = Packets::From(self.members[other].mac);
                assert!(seen.marks.rules.iter().any(|rule| rule.packets == mac), "{}", fail("a MAC address"));
            }
            let services = member.machine.services().to_string();
            assert_eq!(services.lines().count(), 1 + self.members.len(), "{}", fail("services"));
            if !directs {
                let known = self.remembered(index).director;
                assert_eq!(known, Some(address(last)), "{}", fail("the director that it knows"));
                let missing = director.connections.difference(&member.connections).count();
                // A few that were lost are not worth that all are sent again: see `Learning`.
                assert!(
                    missing <= 20 + director.connections.len() / 10,
                    "{}",
                    fail(&format!("{missing} connections are unknown"))
                );
            }
        }
    }
}
