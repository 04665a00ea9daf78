//! The status of a node.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use super::digest::{TableDigest, fnv};
use super::failure::RoleFailure;
use super::handle::Node;
use super::observation::Observation;
use super::plan::{Plan, Step};
use super::planner::{self, Judgement};
use super::role::Role;
use super::state::State;
use super::{repair, settings};
use crate::arp::Settings;
use crate::error::{Cause, Result};
use crate::ipvs::{DestinationEntry, Detail, Scheduler, ServiceEntry, ServiceId, SyncDaemon, Table};
use crate::marks;
use crate::marks::Mac;
use crate::vip::AssignedAddress;

/// What a node is, as far as it remembers and as the kernel shows.
///
/// ```no_run
/// use lvs_dr::node::{Config, Node, Role};
///
/// let mut node = Node::open(Config::new("bond0", ["192.168.0.254".parse()?]))?;
/// let status = node.status()?;
/// let directs = status.role == Some((Role::Master, true));
/// println!("directs: {directs}, {} connections, {} peers", status.connections(), status.peers.len());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Status {
    /// The role that was asked for last, and whether it was reached. `None`: none yet.
    pub role: Option<(Role, bool)>,
    /// The number of the last request.
    pub generation: u64,
    /// Each VIP, and everywhere that it sits.
    pub vips: Vec<(IpAddr, Vec<AssignedAddress>)>,
    /// The VIPs that a routing daemon is to advertise: see [`VipOwner::Routes`](super::VipOwner).
    pub advertised: BTreeSet<IpAddr>,
    /// The interfaces whose links reach clients (see [`ArpScope::Reached`](super::ArpScope)), and
    /// the ARP settings that count there. The first is the one that is named, where it exists.
    pub arp: Vec<(String, Settings)>,
    /// Whether neighbours do not learn of a VIP on `lo`: on each of these interfaces ARP requests
    /// for it stay unanswered, and it is not named as the sender of the node's own.
    pub hidden: bool,
    /// The kernel's services, without those of the node's own marks.
    pub table: Table,
    /// The same with their counters. Those of destinations are read for [`Notice::Looked`] only.
    ///
    /// [`Notice::Looked`]: super::Notice::Looked
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
    /// The classifiers that mark packets behind the rules, by the interface, see
    /// [`VipOwner::Routes`](super::VipOwner).
    pub classifiers: BTreeMap<String, marks::Attached>,
    /// The other nodes, with the MAC addresses that they send from.
    pub peers: BTreeMap<IpAddr, BTreeSet<Mac>>,
    /// The other node that directs, or directed last, as far as it is known.
    pub director: Option<IpAddr>,
    /// Destinations that were drained (see [`Node::weigh`]), and their weights before.
    pub drained: BTreeMap<(ServiceId, SocketAddr), u32>,
    /// The steps that are missing for the role to be in place: none, if all is well.
    pub missing: Vec<String>,
    /// What [`Node::repair`] would do.
    pub drift: Vec<String>,
    /// The last role that was not reached, where none was reached since.
    pub failure: Option<RoleFailure>,
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

/// What a status depends on, as far as that is read with few system calls: all but most of the
/// table, and what other programs have.
#[derive(Debug, PartialEq)]
pub(super) struct Basis {
    state: State,
    request: u64,
    seen: Observation,
}

impl Node {
    /// What a status depends on.
    pub(super) fn basis(&mut self) -> Result<Basis> {
        let state = self.dir.load()?;
        let seen = self.observe_in_brief(&state)?;
        Ok(Basis { request: self.dir.requests().latest()?, state, seen })
    }

    /// What the node is. Changes nothing.
    ///
    /// # Errors
    /// As [`Node::plan`], except that a VIP that belongs to another program is a warning.
    pub fn status(&mut self) -> Result<Status> {
        self.status_with(Detail::Configuration)
    }

    /// The same, with so much of each entry.
    pub(super) fn status_with(&mut self, detail: Detail) -> Result<Status> {
        let memory = self.remember()?;
        let group = memory.state.group(&self.config.group);
        let entries = self.ipvs.entries(detail)?;
        let seen = self.observe_with(&memory.state, entries.iter().cloned().collect())?;
        let generation = self.dir.requests().latest()?;
        let texts = |plan: &Plan| -> Vec<String> { plan.steps().iter().map(Step::to_string).collect() };
        let Judgement { plan, table: kept, .. } = planner::judge(&self.config, &memory, &seen, &[], |_| Vec::new());
        let (mut missing, mut drift, mut warnings) = (Vec::new(), Vec::new(), Vec::new());
        match plan {
            Some(Ok(plan)) => {
                missing = texts(&plan);
                if group.role.is_some_and(|(_, reached)| repair::repairs(&plan, reached)) {
                    drift.clone_from(&missing);
                }
                warnings = plan.warnings;
            }
            Some(Err(error)) => warnings.push(error.to_string()),
            None => {}
        }
        if let Err(error) = self.check_interface() {
            // What follows from it comes after it.
            warnings.insert(0, error.to_string());
            drift.clear();
        }
        let classifiers = self.classifiers(&seen)?;
        let values = self.config.mark_values();
        Ok(Status {
            role: group.role,
            generation,
            vips: self.config.vips.iter().map(|vip| (*vip, seen.vips.get(vip).cloned().unwrap_or_default())).collect(),
            advertised: self.config.vips.iter().filter(|vip| seen.routes.contains(*vip)).copied().collect(),
            hidden: settings::is_hidden(&self.config, &seen),
            arp: seen
                .lan
                .interfaces
                .iter()
                .filter_map(|name| Some((name.clone(), seen.effective_arp(name)?)))
                .collect(),
            kept,
            marked: counted(entries.iter().filter(|(entry, _)| values.owns(&entry.service.id))),
            daemons: seen.daemons.values().flatten().cloned().collect(),
            table: seen.table.filtered(|id| !values.owns(id)),
            entries: entries.into_iter().filter(|(entry, _)| !values.owns(&entry.service.id)).collect(),
            rules: seen.marks.rules,
            classifiers,
            peers: memory.state.peers,
            director: group.director,
            drained: group.drained,
            missing,
            drift,
            failure: self.failure(),
            warnings,
        })
    }

    /// What the classifiers have counted, as far as they can be read.
    fn classifiers(&mut self, seen: &Observation) -> Result<BTreeMap<String, marks::Attached>> {
        let mut found = BTreeMap::new();
        for name in seen.classifiers.keys() {
            match self.marks.classified(name) {
                Ok(attached) => found.extend(attached.map(|attached| (name.clone(), attached))),
                Err(error) if error.cause() == Some(Cause::NoBpf) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(found)
    }
}

pub(super) fn counted<'a>(entries: impl Iterator<Item = &'a (ServiceEntry, Vec<DestinationEntry>)>) -> u64 {
    let destinations = entries.flat_map(|(_, destinations)| destinations);
    destinations.map(|found| u64::from(found.active) + u64::from(found.inactive) + u64::from(found.persistent)).sum()
}
