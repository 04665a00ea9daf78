//! A simulation of one node: roles, other programs' changes, kills behind any step and reboots, in
//! random order. What must hold whatever happens is checked behind each.
//!
//! A failure prints its seed. `LVS_DR_SIMULATION_SEED=N cargo test --lib simulation` runs that one
//! again, and `LVS_DR_SIMULATION_RUNS=100000` runs as many.

use std::collections::BTreeMap;
use std::env;

use super::config::VipOwner;
use super::fence::Fence;
use super::model::{SERVICES, VIP, World, config, ip, located};
use super::plan::Plan;
use super::planner::{for_release, promotion, restoration};
use super::role::Role;
use crate::arp::{ArpTarget, Settings};
use crate::ipvs::{SyncRole, Table};
use crate::marks::{Mac, Packets};
use crate::vip::Scope;

/// Runs of a test, where the environment names no other number.
const RUNS: u64 = 500;
/// Events of a run.
const EVENTS: usize = 14;

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
    /// A role is asked for, and taken on.
    Role(Role),
    /// A role is asked for, and the process is killed behind this many steps.
    Killed(Role, usize),
    /// What other programs have changed is repaired.
    Repair,
    /// VIPs that another program has removed are placed again.
    Restore,
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
    match random.next(22) {
        0..6 => Event::Role(random.pick(&Role::ALL)),
        6..10 => Event::Killed(random.pick(&Role::ALL), random.next(12)),
        10..12 => Event::Repair,
        12..14 => Event::Weight(random.next(3) as u32),
        14 => Event::Flush,
        15 => Event::VipRemoved(random.pick(&["eth0", "lo"])),
        16 => Event::QdiscRemoved,
        17 => random.pick(&[
            Event::Sysctl,
            Event::DaemonStopped(SyncRole::Master),
            Event::DaemonStopped(SyncRole::Backup),
        ]),
        18 => Event::NewMac(random.next(4) as u8),
        19 | 20 => Event::Restore,
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
    world: World,
    /// The role that was asked for last, in this boot.
    asked: Option<Role>,
    told: Vec<Event>,
}

impl Run {
    fn fail(&self, what: &str) -> String {
        format!("{what} behind {:?}", self.told)
    }

    fn is_placed(&self, interface: &str) -> bool {
        self.world.seen.found_on(ip(VIP), interface).next().is_some()
    }

    /// The node's services, without those of other programs.
    fn services(&self) -> Table {
        self.world.services().parse::<Table>().unwrap().filtered(|id| id.address().is_some_and(|to| to.ip() == ip(VIP)))
    }

    fn role(&self) -> Option<Role> {
        self.world.memory.state.groups.get("").and_then(|group| group.role).map(|(role, _)| role)
    }

    fn reached(&self) -> bool {
        self.world.memory.state.groups.get("").is_some_and(|group| group.role.is_some_and(|(_, reached)| reached))
    }

    /// keepalived moves its VIP before it notifies.
    fn keepalived_moves(&mut self, role: Role) {
        if self.world.config.vip_owner != VipOwner::Keepalived {
            return;
        }
        let vips = self.world.seen.vips.entry(ip(VIP)).or_default();
        vips.retain(|found| found.interface != "eth0");
        if role == Role::Master {
            vips.push(located(VIP, "eth0", Scope::Global));
        }
    }

    /// Takes on a role, in brief where that is enough, and then what the next look at the whole
    /// finds.
    fn take_on(&mut self, role: Role) {
        let world = &mut self.world;
        let brief =
            (role == Role::Master).then(|| promotion(&world.config, &world.memory.state, &world.seen)).flatten();
        if let Some(plan) = brief {
            plan.steps().iter().for_each(|step| world.act(step, &plan));
        }
        let plan = world.plan(role).unwrap();
        plan.steps().iter().for_each(|step| world.act(step, &plan));
        let left = world.plan(role).unwrap();
        assert!(left.is_empty(), "{}", self.fail(&format!("left of {role}:\n{left}")));
    }

    fn act(&mut self, event: Event) {
        self.told.push(event);
        let placed_before = self.is_placed("eth0");
        match event {
            Event::Role(role) => {
                self.keepalived_moves(role);
                let before = self.services();
                self.asked = Some(role);
                self.take_on(role);
                self.expect_reached(role, &before);
            }
            Event::Killed(role, steps) => {
                self.keepalived_moves(role);
                let plan = self.world.plan(role);
                let plan = plan.unwrap_or_else(|error| panic!("{}", self.fail(&error.to_string())));
                plan.steps().iter().take(steps).for_each(|step| self.world.act(step, &plan));
                // Killed before it was recorded, the request is lost with its process.
                if self.role() == Some(role) {
                    self.asked = Some(role);
                }
            }
            Event::Repair => {
                if let Some(role) = self.role() {
                    let before = self.services();
                    self.take_on(role);
                    self.expect_reached(role, &before);
                }
            }
            Event::Restore => {
                let world = &mut self.world;
                let steps = restoration(&world.config, &world.memory.state, &world.seen).unwrap();
                let plan = Plan::beside(&world.memory.state, steps);
                plan.steps().iter().for_each(|step| world.act(step, &plan));
                if self.reached() {
                    assert!(self.is_placed("lo"), "{}", self.fail("restored: VIP on lo"));
                    let directs = self.role() == Some(Role::Master);
                    if directs && self.world.config.vip_owner == VipOwner::Node {
                        assert!(self.is_placed("eth0"), "{}", self.fail("restored: VIP on the interface"));
                    }
                }
            }
            Event::Weight(weight) => {
                let mut table = self.world.seen.table.clone();
                let server = "192.0.2.12:80".parse().unwrap();
                table.edit_destinations(|_, destination| {
                    if destination.address == server {
                        destination.weight = weight;
                    }
                });
                self.world.seen.table = table;
            }
            Event::Flush => self.world.seen.table = FOREIGN_SERVICE.parse().unwrap(),
            Event::VipRemoved(interface) => {
                self.world.seen.vips.entry(ip(VIP)).or_default().retain(|found| found.interface != interface);
            }
            Event::QdiscRemoved => {
                self.world.seen.marks.rules.clear();
                self.world.seen.marks.qdiscs.insert("eth0".into(), None);
            }
            Event::Sysctl => drop(self.world.seen.sysctls.insert("sync_threshold".into(), Some("3 50".into()))),
            Event::DaemonStopped(role) => drop(self.world.seen.daemons.insert(role, None)),
            Event::NewMac(last) => {
                self.world.seen.link.macs.insert(ip("192.0.2.12"), Mac([2, 0, 0, 0, 1, last]));
            }
            Event::Reboot => {
                let memory = self.world.memory.clone();
                self.world = boot(self.world.config.fence, self.world.config.vip_owner);
                self.world.memory = memory;
                self.world.memory.state = self.world.memory.state.clone().of_earlier_boot();
                self.asked = None;
            }
        }
        self.expect_always(placed_before);
    }

    /// What holds behind each event.
    fn expect_always(&self, placed_before: bool) {
        let world = &self.world;
        // keepalived moves its VIP itself.
        let promoted = world.config.vip_owner == VipOwner::Node && !placed_before && self.is_placed("eth0");
        assert!(!promoted || self.asked == Some(Role::Master), "{}", self.fail("it was promoted without being told"));
        assert!(
            self.role() != Some(Role::Master) || self.asked == Some(Role::Master),
            "{}",
            self.fail("a director's role of another boot, or of an earlier request")
        );
        let foreign = world.seen.table.filtered(|id| id.address().is_some_and(|to| to.ip() == ip("198.51.100.1")));
        assert_eq!(foreign.to_string(), FOREIGN_SERVICE, "{}", self.fail("another program's service"));
        let theirs = world.seen.arp_of(&ArpTarget::Interface("eth1".into()));
        assert_eq!(theirs.map(|found| found.ignore), Some(8.into()), "{}", self.fail("another interface's ARP"));
    }

    /// What holds when a role is reached.
    fn expect_reached(&self, role: Role, before: &Table) {
        let (world, directs) = (&self.world, role == Role::Master);
        let fail = |what: &str| self.fail(&format!("{role}: {what}"));
        assert_eq!(world.memory.state.groups[""].role, Some((role, true)), "{}", fail("is not recorded"));
        // keepalived's own VIP stays where another program has put it.
        if world.config.vip_owner == VipOwner::Node {
            assert_eq!(self.is_placed("eth0"), directs, "{}", fail("VIP on the interface"));
        }
        assert!(self.is_placed("lo"), "{}", fail("VIP on lo"));
        assert_eq!(world.seen.daemons[&SyncRole::Master].is_some(), directs, "{}", fail("sync master"));
        assert!(world.seen.daemons[&SyncRole::Backup].is_some(), "{}", fail("sync backup"));
        let after = self.services();
        match world.config.fence {
            Fence::Marks => {
                let opening = world.seen.marks.rules.iter().any(|rule| rule.packets == Packets::Opening);
                assert_eq!(opening, !directs, "{}", fail("the rule for new connections"));
                let mac = world.seen.link.macs[&ip("192.0.2.12")];
                let known = world.seen.marks.rules.iter().any(|rule| rule.packets == Packets::From(mac));
                assert!(known, "{}", fail("the other node's MAC address"));
                // Weights are their editor's; a table that was flushed is loaded again.
                let expected = if before.is_empty() { SERVICES.parse().unwrap() } else { before.clone() };
                assert_eq!(after.to_string(), expected.to_string(), "{}", fail("services"));
            }
            Fence::Clear => {
                assert_eq!(after.is_empty(), !directs, "{}", fail("services"));
                assert!(directs || !world.memory.held.is_empty(), "{}", fail("the table is lost"));
            }
        }
    }
}

fn simulate(seed: u64, fence: Fence, owner: VipOwner) {
    let mut random = Random(seed);
    let mut run = Run { world: boot(fence, owner), asked: None, told: Vec::new() };
    for _ in 0..EVENTS {
        let next = event(&mut random);
        run.act(next);
    }
    // At rest: exactly what was asked for last, and nothing once it is released.
    let last = random.pick(&Role::ALL);
    run.act(Event::Role(last));
    let world = &mut run.world;
    let plan = for_release(&world.config, &world.memory, &world.seen).unwrap();
    plan.steps().iter().for_each(|step| world.act(step, &plan));
    run.told.push(Event::Role(last));
    if owner == VipOwner::Node {
        assert!(!run.is_placed("eth0"), "{}", run.fail("released: VIP on the interface"));
    }
    assert!(!run.is_placed("lo"), "{}", run.fail("released: VIP on lo"));
    assert!(run.world.seen.marks.rules.is_empty(), "{}", run.fail("released: rules"));
    assert!(run.world.seen.daemons.values().all(Option::is_none), "{}", run.fail("released: sync daemons"));
    assert_eq!(run.world.seen.table.to_string(), FOREIGN_SERVICE, "{}", run.fail("released: services"));
    assert!(run.world.memory.state.groups.is_empty(), "{}", run.fail("released: what is remembered"));
}

fn number(name: &str) -> Option<u64> {
    env::var(name).ok()?.parse().ok()
}

#[test]
fn whatever_happens_a_node_is_what_was_asked_for_last() {
    let seeds = match number("LVS_DR_SIMULATION_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("LVS_DR_SIMULATION_RUNS").unwrap_or(RUNS),
    };
    let kinds: BTreeMap<&str, (Fence, VipOwner)> = [
        ("marks", (Fence::Marks, VipOwner::Node)),
        ("marks, keepalived", (Fence::Marks, VipOwner::Keepalived)),
        ("clear", (Fence::Clear, VipOwner::Node)),
    ]
    .into();
    for seed in seeds {
        for (name, (fence, owner)) in &kinds {
            let result = std::panic::catch_unwind(|| simulate(seed, *fence, *owner));
            assert!(result.is_ok(), "{name}: run it again with LVS_DR_SIMULATION_SEED={seed}");
        }
    }
}
