//! A model of the kernel and of the state directory, for tests of the planner on the host.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::config::Config;
use super::fence::{Fence, no_daemons};
use super::observation::{Lan, Link, Observation};
use super::plan::{Plan, Step};
use super::planner::{Memory, for_role, in_brief};
use super::role::Role;
use super::services::Apply;
use super::state::StoredTable;
use crate::arp::{ArpTarget, Settings};
use crate::error::Result;
use crate::ipvs::{self, Table};
use crate::marks::{self, Mac, Qdisc};
use crate::vip::{AssignedAddress, LinkState, Placement, Scope};

pub(in crate::node) const VIP: &str = "192.0.2.254";
pub(in crate::node) const SERVICES: &str = "\
-A -t 192.0.2.254:80 -s wrr
-a -t 192.0.2.254:80 -r 192.0.2.11:80 -g -w 1
-a -t 192.0.2.254:80 -r 192.0.2.12:80 -g -w 1
";

pub(in crate::node) fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

pub(in crate::node) fn located(address: &str, interface: &str, scope: Scope) -> AssignedAddress {
    AssignedAddress {
        address: ip(address),
        prefix: match (scope == Scope::Global && address != VIP, ip(address)) {
            (true, IpAddr::V4(_)) => 24,
            (true, IpAddr::V6(_)) => 64,
            (false, _) => 32,
        },
        peer: None,
        interface: interface.into(),
        index: 2,
        scope,
        permanent: true,
        deprecated: false,
        tentative: false,
        dad_failed: false,
        mark: None,
    }
}

pub(in crate::node) fn config(fence: Fence) -> Config {
    Config { services: Some(SERVICES.parse().unwrap()), fence, ..Config::new("eth0", [ip(VIP)]) }
}

/// A world that a plan changes, as the kernel and the state directory would.
pub(in crate::node) struct World {
    pub(in crate::node) config: Config,
    pub(in crate::node) memory: Memory,
    pub(in crate::node) seen: Observation,
}

impl World {
    pub(in crate::node) fn new(config: Config) -> Self {
        let own = located("192.0.2.11", "eth0", Scope::Global);
        let never = Settings { ignore: 0.into(), announce: 0.into() };
        let seen = Observation {
            addresses: vec![own.clone()],
            vips: config.vips.iter().map(|vip| (*vip, Vec::new())).collect(),
            routes: BTreeSet::new(),
            listening: None,
            lan: Lan { interfaces: vec![config.interface.clone()], ..Lan::default() },
            arp: vec![(ArpTarget::All, never), (ArpTarget::Interface("eth0".into()), never)],
            arp_all: never,
            route_localnet: false,
            table: Table::new(),
            daemons: no_daemons(),
            sync_link: LinkState::Up,
            own: [own.address].into(),
            sysctls: [
                ("sloppy_tcp", "0"),
                ("expire_nodest_conn", "0"),
                ("sync_threshold", "3 50"),
                ("sync_persist_mode", "0"),
            ]
            .map(|(name, value)| (name.to_owned(), Some(value.to_owned())))
            .into(),
            read_only: BTreeSet::new(),
            marks: marks::Observed { qdiscs: [("eth0".into(), None)].into(), ..Default::default() },
            classifiers: BTreeMap::new(),
            unclassified: None,
            link: Link { macs: [(ip("192.0.2.12"), Mac([2, 0, 0, 0, 0, 2]))].into(), ..Link::default() },
            own_requests: None,
            unsupported: None,
            mark_uses: Vec::new(),
        };
        World { config, memory: Memory::default(), seen }
    }

    pub(in crate::node) fn plan(&self, role: Role) -> Result<Plan> {
        for_role(&self.config, role, Apply::Changes, &self.memory, &self.seen)
    }

    /// Plans a role, in brief where that is enough, and carries it out. Then nothing is left
    /// to do.
    pub(in crate::node) fn take_on(&mut self, role: Role) -> String {
        let brief = in_brief(&self.config, role, &self.memory.state, &self.seen);
        let brief = brief.inspect(|plan| plan.steps().iter().for_each(|step| self.act(step, plan)));
        let plan = match brief {
            Some(plan) if role == Role::Master => plan,
            brief => {
                let plan = self.plan(role).unwrap();
                plan.steps().iter().for_each(|step| self.act(step, &plan));
                plan.preceded_by(brief.map(|brief| brief.steps).unwrap_or_default())
            }
        };
        let again = self.plan(role).unwrap();
        assert!(again.is_empty(), "left of {role}:\n{again}\nof\n{plan}");
        plan.to_string()
    }

    pub(in crate::node) fn act(&mut self, step: &Step, plan: &Plan) {
        let on = |placement: &Placement| match placement {
            Placement::Loopback => located(VIP, "lo", Scope::Host),
            Placement::Interface(name) => located(VIP, name, Scope::Global),
        };
        match step {
            Step::Record { reached: false, .. } => self.memory.state = *plan.during.clone(),
            Step::Record { reached: true, .. } | Step::Weights(_) | Step::Forget => {
                self.memory.state = *plan.after.clone()
            }
            Step::Keep { kept: StoredTable::Loaded, table } => self.memory.loaded = table.clone(),
            Step::Keep { kept: StoredTable::Held, table } => self.memory.held = table.clone(),
            Step::Keep { kept: StoredTable::Legacy, table } => self.memory.legacy = table.clone(),
            Step::Arp(change) => {
                self.seen.arp.iter_mut().filter(|(t, _)| *t == change.target).for_each(|(_, now)| *now = change.after)
            }
            Step::GiveBackArp(change) => {
                self.seen.arp.iter_mut().filter(|(t, _)| *t == change.target).for_each(|(_, now)| *now = change.before)
            }
            Step::Sysctl { name, value, .. } => drop(self.seen.sysctls.insert(name.clone(), Some(value.clone()))),
            Step::AddVip(vip, placement) => {
                let mut found = on(placement);
                found.address = *vip;
                self.seen.vips.entry(*vip).or_default().push(found);
            }
            Step::RemoveVip(vip, placement) => {
                self.seen.vips.entry(*vip).or_default().retain(|found| found.interface != placement.interface())
            }
            Step::Table(plan) => plan.changes().iter().for_each(|change| self.change(change)),
            Step::Marks(plan) => plan.changes().iter().for_each(|change| match change {
                marks::Change::AddQdisc(name) => {
                    self.seen.marks.qdiscs.insert(name.clone(), Some(Qdisc::Clsact));
                }
                marks::Change::RemoveQdisc(name) => {
                    self.seen.marks.qdiscs.insert(name.clone(), None);
                }
                marks::Change::Add(rule) => drop(self.seen.marks.rules.insert(rule.clone())),
                marks::Change::Remove(rule) => drop(self.seen.marks.rules.remove(rule)),
                marks::Change::RemoveOutdated(rule) => drop(self.seen.marks.outdated.remove(rule)),
                marks::Change::Classify { interface, classification } => {
                    self.seen.marks.classifiers.insert(interface.clone());
                    self.seen.classifiers.insert(interface.clone(), classification.clone());
                }
                marks::Change::Unclassify(name) => {
                    self.seen.marks.classifiers.remove(name);
                    self.seen.classifiers.remove(name);
                }
            }),
            Step::Advertise(vip) => drop(self.seen.routes.insert(*vip)),
            Step::Unadvertise(vip) => drop(self.seen.routes.remove(vip)),
            Step::Announce(..) | Step::Resync(_) | Step::OwnRequests(_) => {}
        }
    }

    pub(in crate::node) fn change(&mut self, change: &ipvs::Change) {
        let table = &mut self.seen.table;
        match change {
            ipvs::Change::AddService(service) | ipvs::Change::ReplaceService(service) => {
                table.insert(service.clone());
            }
            ipvs::Change::RemoveService(id) => {
                table.remove(id);
            }
            ipvs::Change::AddDestination(id, d) | ipvs::Change::ReplaceDestination(id, d) => {
                drop(table.insert_destination(id, d.clone()))
            }
            ipvs::Change::RemoveDestination(id, d) => drop(table.remove_destination(id, d.address)),
            ipvs::Change::StopDaemon(role) => drop(self.seen.daemons.insert(*role, None)),
            ipvs::Change::StartDaemon(daemon) => drop(self.seen.daemons.insert(daemon.role, Some(daemon.clone()))),
            ipvs::Change::SetTimeouts(_) => {}
        }
    }

    pub(in crate::node) fn edit(&mut self, from: &str, to: &str) {
        self.seen.table = self.seen.table.to_string().replace(from, to).parse().unwrap();
    }

    /// The services that are not the fence's.
    pub(in crate::node) fn services(&self) -> String {
        self.seen.table.filtered(|id| !self.config.mark_values().owns(id)).to_string()
    }
}
