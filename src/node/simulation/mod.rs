//! Simulations: of one node, here, and of [clusters](cluster).
//!
//! One node: processes that take on roles side by side, other programs' changes,
//! kills behind any action, full disks and other troubles, and reboots, in random order. The jobs
//! are those of the library. What must hold whatever happens is checked behind each action.
//!
//! A failure prints its seed. `LVS_DR_SIMULATION_SEED=N cargo test --lib simulation --
//! --nocapture` runs that one again, and prints what each node of a cluster does. With
//! `LVS_DR_SIMULATION_RUNS=100000` there are as many runs of each kind of node, and a fiftieth of
//! that of clusters.

mod cluster;
mod machine;
#[cfg(feature = "serde")]
mod replay;

use std::env;

use self::cluster::Cluster;
use self::machine::{Ended, Machine, Process, Trouble};
use super::config::VipOwner;
use super::fence::Fence;
use super::job::Task;
use super::model::{SERVICES, VIP, World, config, ip, located};
use super::observation::Observation;
use super::role::Role;
use super::services::Apply;
use crate::arp::{ArpTarget, Settings};
use crate::error::Error;
use crate::ipvs::SyncRole;
use crate::marks::{Mac, Packets};
use crate::vip::Scope;

/// Runs of each kind of node, where the environment names no other number.
const RUNS: u64 = 500;
/// A run of a cluster takes as long as so many runs of one node.
const CLUSTER: u64 = 50;
/// The environment's names for the seed of one run, and for how many there are.
const SEED: &str = "LVS_DR_SIMULATION_SEED";
const COUNT: &str = "LVS_DR_SIMULATION_RUNS";
/// Events of a run.
const EVENTS: usize = 40;

const FOREIGN_SERVICE: &str = "-A -t 198.51.100.1:443 -s lc\n-a -t 198.51.100.1:443 -r 192.0.2.12:443 -m -w 1\n";

/// Random numbers (splitmix64), the same for a seed everywhere.
struct Random(u64);

impl Random {
    fn next(&mut self, below: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % below.max(1) as u64) as usize
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.next(from.len())]
    }
}

#[derive(Debug, Clone, Copy)]
enum Event {
    /// A process is started for a task.
    Start(Task),
    /// One of the processes does so many things.
    Advance(usize, usize),
    /// One of the processes is killed.
    Kill(usize),
    /// All processes end.
    Rest,
    /// Something does not work from now on, or all works again.
    Trouble(Trouble),
    /// A health check sets the weight of a server.
    Weight(u32),
    /// An operator flushes the table.
    Flush,
    /// Another program removes the VIP from the interface, or from `lo`.
    VipRemoved(&'static str),
    /// Another program removes the qdisc, and its rules with it.
    QdiscRemoved,
    /// Another program sets a sysctl of IPVS to its default.
    Sysctl,
    /// Another program stops a sync daemon.
    DaemonStopped(SyncRole),
    /// The other node has another MAC address.
    NewMac(u8),
    /// The machine reboots. The state directory is kept.
    Reboot,
}

fn event(random: &mut Random) -> Event {
    match random.next(64) {
        0..8 => Event::Start(Task::Role(random.pick(&Role::ALL))),
        8 => Event::Start(Task::Repair),
        9 => Event::Start(Task::RestoreVips),
        10 => Event::Start(random.pick(&[Task::Fix, Task::Apply(Apply::Changes)])),
        11..38 => Event::Advance(random.next(8), 1 + random.next(8)),
        38..41 => Event::Kill(random.next(8)),
        41..47 => Event::Rest,
        47 => Event::Trouble(random.pick(&Trouble::ALL)),
        48..51 => Event::Trouble(Trouble::Nothing),
        51..54 => Event::Weight(random.next(3) as u32),
        54 => Event::Flush,
        55 | 56 => Event::VipRemoved(random.pick(&["eth0", "lo"])),
        57 | 58 => Event::QdiscRemoved,
        59 => Event::Sysctl,
        60 => Event::DaemonStopped(random.pick(&[SyncRole::Master, SyncRole::Backup])),
        61 | 62 => Event::NewMac(random.next(4) as u8),
        _ => Event::Reboot,
    }
}

/// The machine as it is after a boot: with the node's address, and what other programs have.
fn boot(fence: Fence, owner: VipOwner) -> World {
    let mut world = World::new(super::Config { vip_owner: owner, ..config(fence) });
    world.seen.table = FOREIGN_SERVICE.parse().unwrap();
    let theirs = Settings { ignore: 8.into(), announce: 1.into() };
    world.seen.arp.push((ArpTarget::Interface("eth1".into()), theirs));
    world
}

struct Run {
    machine: Machine,
    /// Whether the node was told to direct in this boot, and no later demotion has ended.
    told_to_direct: bool,
    told: Vec<Event>,
}

impl Run {
    fn fail(&self, what: &str) -> String {
        format!("{what} behind {:?}", self.told)
    }

    fn world(&self) -> &World {
        &self.machine.world
    }

    fn seen(&mut self) -> &mut Observation {
        &mut self.machine.world.seen
    }

    fn is_placed(&self, interface: &str) -> bool {
        self.world().seen.found_on(ip(VIP), interface).next().is_some()
    }

    fn owns_vip(&self) -> bool {
        self.world().config.vip_owner == VipOwner::Node
    }

    fn role(&self) -> Option<Role> {
        self.world().memory.state.groups.get("").and_then(|group| group.role).map(|(role, _)| role)
    }

    /// keepalived moves its VIP before it notifies.
    fn keepalived_moves(&mut self, role: Role) {
        if self.owns_vip() {
            return;
        }
        let vips = self.seen().vips.entry(ip(VIP)).or_default();
        vips.retain(|found| found.interface != "eth0");
        if role == Role::Master {
            vips.push(located(VIP, "eth0", Scope::Global));
        }
    }

    fn act(&mut self, event: Event) {
        self.told.push(event);
        let own = matches!(event, Event::Start(_) | Event::Advance(..) | Event::Kill(_) | Event::Rest);
        match event {
            Event::Start(task) => {
                if let Task::Role(role) = task {
                    self.keepalived_moves(role);
                    self.told_to_direct |= role == Role::Master;
                    self.machine.disturb();
                }
                self.machine.start(task);
                // It has its number.
                self.advance(self.machine.processes.len() - 1);
            }
            Event::Advance(index, times) => {
                for _ in 0..times {
                    match self.machine.processes.len() {
                        0 => break,
                        count => self.advance(index % count),
                    }
                }
            }
            Event::Kill(index) if !self.machine.processes.is_empty() => {
                self.machine.kill(index % self.machine.processes.len());
            }
            Event::Kill(_) => {}
            Event::Rest => self.rest(),
            // A file system that became read-only stays so until the reboot.
            Event::Trouble(_) if self.machine.trouble == Trouble::ReadOnly => {}
            Event::Trouble(trouble) => self.machine.trouble = trouble,
            Event::Weight(weight) => {
                let mut table = self.world().seen.table.clone();
                let server = "192.0.2.12:80".parse().unwrap();
                table.edit_destinations(|_, destination| {
                    if destination.address == server {
                        destination.weight = weight;
                    }
                });
                self.seen().table = table;
            }
            Event::Flush => self.seen().table = FOREIGN_SERVICE.parse().unwrap(),
            Event::VipRemoved(interface) => {
                self.seen().vips.entry(ip(VIP)).or_default().retain(|found| found.interface != interface);
            }
            Event::QdiscRemoved => {
                self.seen().marks.rules.clear();
                self.seen().marks.qdiscs.insert("eth0".into(), None);
            }
            Event::Sysctl => drop(self.seen().sysctls.insert("sync_threshold".into(), Some("3 50".into()))),
            Event::DaemonStopped(role) => drop(self.seen().daemons.insert(role, None)),
            Event::NewMac(last) => {
                self.seen().link.macs.insert(ip("192.0.2.12"), Mac([2, 0, 0, 0, 1, last]));
            }
            Event::Reboot => {
                let config = &self.world().config;
                let world = boot(config.fence, config.vip_owner);
                self.machine.reboot(world);
                self.machine.trouble = Trouble::Nothing;
                self.told_to_direct = false;
            }
        }
        if !own {
            self.machine.disturb();
        }
        self.expect_always();
    }

    /// A process does the next thing; what holds behind each is checked.
    fn advance(&mut self, index: usize) {
        let (placed, before) = (self.is_placed("eth0"), self.machine.services());
        let task = self.machine.processes[index].task();
        let ended = self.machine.advance(index);
        if self.owns_vip() && !placed && self.is_placed("eth0") {
            let told = task == Task::Role(Role::Master) || self.role() == Some(Role::Master);
            assert!(told && self.told_to_direct, "{}", self.fail("it was promoted without being told"));
        }
        let after = self.machine.services();
        let keeps = self.world().config.fence == Fence::Marks && task != Task::Release;
        if keeps && after.to_string() != before.to_string() {
            assert!(before.is_empty(), "{}", self.fail(&format!("{task:?} has changed services:\n{before}{after}")));
            assert_eq!(after.to_string(), SERVICES, "{}", self.fail("services"));
        }
        if let Some(ended) = ended {
            self.expect_ended(&ended);
        }
    }

    /// All processes end, in turn.
    fn rest(&mut self) {
        for round in 0.. {
            let Some(count) = self.machine.processes.len().checked_sub(1) else { break };
            assert!(round < 10_000, "{}", self.fail(&format!("no end: {:?}", self.machine.processes)));
            self.advance(round % (count + 1));
        }
    }

    fn expect_ended(&mut self, ended: &Ended) {
        let Task::Role(role) = ended.task else { return };
        // A demotion that cannot be recorded supersedes no promotion that is under way.
        let promotes = |process: &Process| process.task() == Task::Role(Role::Master);
        if ended.is_latest && role != Role::Master {
            self.told_to_direct = self.machine.processes.iter().any(promotes);
        }
        match &ended.result {
            Ok(_) => {
                assert!(!ended.is_late, "{}", self.fail("an earlier request was carried out after a later one"));
                if !ended.disturbed && ended.is_latest {
                    self.expect_reached(role);
                }
            }
            Err(Error::Superseded { .. }) => assert!(!ended.is_latest, "{}", self.fail("superseded by none")),
            Err(Error::NotVerified { .. }) => {}
            Err(error) => {
                let expected = self.machine.trouble != Trouble::Nothing || ended.disturbed;
                assert!(expected || matches!(error, Error::Step { .. }), "{}", self.fail(&format!("{role}: {error}")));
                if role != Role::Master && self.owns_vip() && ended.is_latest && !ended.disturbed {
                    assert!(!self.is_placed("eth0"), "{}", self.fail(&format!("{role} keeps the VIP: {error}")));
                }
            }
        }
    }

    /// What holds behind each event.
    fn expect_always(&self) {
        let world = self.world();
        assert!(
            self.role() != Some(Role::Master) || self.told_to_direct || self.machine.trouble == Trouble::ReadOnly,
            "{}",
            self.fail("a director's role of another boot, or of an earlier request")
        );
        let foreign = world.seen.table.filtered(|id| id.address().is_some_and(|to| to.ip() == ip("198.51.100.1")));
        assert_eq!(foreign.to_string(), FOREIGN_SERVICE, "{}", self.fail("another program's service"));
        let theirs = world.seen.arp_of(&ArpTarget::Interface("eth1".into()));
        assert_eq!(theirs.map(|found| found.ignore), Some(8.into()), "{}", self.fail("another interface's ARP"));
    }

    /// What holds when a role is reached.
    fn expect_reached(&self, role: Role) {
        let (world, directs) = (self.world(), role == Role::Master);
        let fail = |what: &str| self.fail(&format!("{role}: {what}"));
        assert_eq!(world.memory.state.groups[""].role, Some((role, true)), "{}", fail("is not recorded"));
        // keepalived's own VIP stays where another program has put it.
        if self.owns_vip() {
            assert_eq!(self.is_placed("eth0"), directs, "{}", fail("VIP on the interface"));
        }
        assert!(self.is_placed("lo"), "{}", fail("VIP on lo"));
        assert_eq!(world.seen.daemons[&SyncRole::Master].is_some(), directs, "{}", fail("sync master"));
        assert!(world.seen.daemons[&SyncRole::Backup].is_some(), "{}", fail("sync backup"));
        let services = self.machine.services();
        match world.config.fence {
            Fence::Marks => {
                let opening = world.seen.marks.rules.iter().any(|rule| rule.packets == Packets::Opening);
                assert_eq!(opening, !directs, "{}", fail("the rule for new connections"));
                // A table that was flushed is loaded again; weights are their editor's.
                assert!(!services.is_empty(), "{}", fail("services"));
            }
            Fence::Clear => {
                assert_eq!(services.is_empty(), !directs, "{}", fail("services"));
                assert!(directs || !world.memory.held.is_empty(), "{}", fail("the table is lost"));
            }
        }
    }

    /// What a repair, or a look at the whole, has set right.
    fn expect_peers(&self) {
        if self.world().config.fence == Fence::Marks {
            let seen = &self.world().seen;
            let mac = Packets::From(seen.link.macs[&ip("192.0.2.12")]);
            assert!(seen.marks.rules.iter().any(|rule| rule.packets == mac), "{}", self.fail("the other node's MAC"));
        }
    }
}

fn simulate(seed: u64, fence: Fence, owner: VipOwner) {
    let mut random = Random(seed);
    let mut run = Run { machine: Machine::new(boot(fence, owner)), told_to_direct: false, told: Vec::new() };
    for _ in 0..EVENTS {
        let next = event(&mut random);
        run.act(next);
    }
    // At rest: exactly what was asked for last, also after a repair, and nothing once it is
    // released.
    let last = random.pick(&Role::ALL);
    run.act(Event::Rest);
    if run.machine.trouble == Trouble::ReadOnly {
        run.act(Event::Reboot);
    }
    for event in [Event::Trouble(Trouble::Nothing), Event::Start(Task::Role(last)), Event::Rest] {
        run.act(event);
    }
    run.expect_reached(last);
    for event in [Event::Start(Task::Repair), Event::Rest] {
        run.act(event);
    }
    run.expect_reached(last);
    run.expect_peers();
    for event in [Event::Start(Task::Release), Event::Rest] {
        run.act(event);
    }
    if owner == VipOwner::Node {
        assert!(!run.is_placed("eth0"), "{}", run.fail("released: VIP on the interface"));
    }
    assert!(!run.is_placed("lo"), "{}", run.fail("released: VIP on lo"));
    let seen = &run.world().seen;
    assert!(seen.marks.rules.is_empty(), "{}", run.fail("released: rules"));
    assert!(seen.daemons.values().all(Option::is_none), "{}", run.fail("released: sync daemons"));
    assert_eq!(seen.table.to_string(), FOREIGN_SERVICE, "{}", run.fail("released: services"));
    assert!(run.world().memory.state.groups.is_empty(), "{}", run.fail("released: what is remembered"));
}

fn number(name: &str) -> Option<u64> {
    env::var(name).ok()?.parse().ok()
}

/// Runs each seed, and says which one to run again.
fn each_seed(share: u64, name: &str, run: impl Fn(u64) + std::panic::RefUnwindSafe) {
    let seeds = match number(SEED) {
        Some(seed) => seed..seed + 1,
        None => 0..(number(COUNT).unwrap_or(RUNS) / share).max(1),
    };
    for seed in seeds {
        let result = std::panic::catch_unwind(|| run(seed));
        assert!(result.is_ok(), "{name}: run it again with LVS_DR_SIMULATION_SEED={seed}");
    }
}

#[test]
fn a_cluster_comes_to_rest_as_keepalived_has_elected() {
    each_seed(CLUSTER, "cluster", |seed| Cluster::new(seed).run());
}

#[test]
fn whatever_happens_a_node_is_what_was_asked_for_last() {
    let kinds = [
        ("marks", (Fence::Marks, VipOwner::Node)),
        ("marks, keepalived", (Fence::Marks, VipOwner::Keepalived)),
        ("clear", (Fence::Clear, VipOwner::Node)),
    ];
    for (name, (fence, owner)) in kinds {
        each_seed(1, name, |seed| simulate(seed, fence, owner));
    }
}
