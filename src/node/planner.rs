//! Decides what a node has to do, from what is seen, what is remembered and what is wanted. Pure:
//! nothing here touches the kernel.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::num::NonZeroU32;

use super::config::{Config, Loopback, OwnRequests, VipOwner, refuse_unequal};
use super::destinations::{self, Reason, Unreached};
use super::drain::at_rest;
use super::fence::classifier::{self, Wanted};
use super::fence::marks::{self as fence, Facts};
use super::fence::{Fence, daemons, no_daemons};
use super::leftovers::{self, Leftovers};
use super::listeners;
use super::observation::{Observation, Tree};
use super::plan::{Plan, Step};
use super::role::Role;
use super::services::{Apply, desired, is_of_group, is_ours, sign, take_in, thawed};
use super::settings::{
    answering, arp_steps, counts_still, is_obsolete, obsolete_arp, refuse_read_only_arp, remembered_arp,
    remembered_sysctls, still_needed, sysctl_back, sysctl_steps, sysctl_warning, unset_sysctls,
};
use super::state::{Group, Legacy, QdiscOwner, State, StoredTable};
use crate::error::{Error, Result};
use crate::ipvs::settings::SYNC_PERSIST_MODE;
use crate::ipvs::{self, ServiceId, SyncDaemon, SyncRole, Table};
use crate::marks::{self, Classification, Mac, Packets, Rule};
use crate::vip::{AssignedAddress, LinkState, MARK, Placement};

/// The most MAC addresses that are remembered of a peer. A bond sends from one for each of its
/// ports.
pub(super) const MACS: usize = 16;

/// What a node remembers, with its tables.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Memory {
    pub(super) state: State,
    /// The services as they were loaded last.
    pub(super) loaded: Table,
    /// The table that fence `clear` keeps.
    pub(super) held: Table,
    /// The table of version 1.
    pub(super) legacy: Table,
    /// Whether the tables are those of groups of an earlier configuration.
    pub(super) inherited: bool,
}

impl Memory {
    /// The services of this group as they were loaded last, by this version or by version 1, whose
    /// node had one table for all VIPs.
    pub(super) fn loaded(&self, config: &Config, group: &Group) -> Cow<'_, Table> {
        match self.legacy_of(group) {
            Some(_) => Cow::Owned(self.legacy.filtered(|id| is_of_group(config, id))),
            None => Cow::Borrowed(&self.loaded),
        }
    }

    /// What version 1 has left of this group: until a role is reached with this version.
    fn legacy_of(&self, group: &Group) -> Option<Legacy> {
        self.state.legacy.filter(|_| group.fence.is_none() || group.held)
    }
}

/// Plans a role.
///
/// The order is what keeps sessions. Both roles have the VIP on `lo` before it leaves the
/// interface, and nothing is put on `lo` before the ARP settings hide it. A director has
/// its table before it has the VIP. A former director gives up the VIP first, and its sync daemon
/// last.
pub(super) fn for_role(config: &Config, role: Role, apply: Apply, memory: &Memory, seen: &Observation) -> Result<Plan> {
    Case::new(config, role, apply, memory, seen).for_role()
}

/// What a role would change, and what is found besides.
pub(super) struct Judgement {
    /// `None`: no role was asked for yet.
    pub(super) plan: Option<Result<Plan>>,
    /// The first of some roles that would be refused.
    pub(super) refused: Option<(Role, Error)>,
    /// The table of this node as a director.
    pub(super) table: Table,
    pub(super) troubles: Vec<Trouble>,
    /// The sysctls of IPVS that the node needs, and does not set.
    pub(super) unset: BTreeMap<String, String>,
}

/// Judges the role that was asked for last, and those that may be asked for next. `mended` says
/// which sysctls are to be set besides, and to what, given the node's table.
pub(super) fn judge(
    config: &Config,
    memory: &Memory,
    seen: &Observation,
    next: &[Role],
    mended: impl FnOnce(&Table) -> Vec<(String, String)>,
) -> Judgement {
    let role = memory.state.group(&config.group).role.map(|(role, _)| role);
    let case = Case::new(config, role.unwrap_or(Role::Stop), Apply::Changes, memory, seen);
    let (table, troubles) = (case.table.clone(), case.troubles());
    let mended = mended(&table);
    let mut memory = Cow::Borrowed(memory);
    if !mended.is_empty() {
        memory.to_mut().state.mended.extend(mended);
    }
    let mut case = Case { memory: &memory, ..case };
    let plan = role.map(|_| case.for_role());
    let mut refuse = |role| {
        case.role = role;
        Some((role, case.for_role().err()?))
    };
    // Before the first role, a node becomes a backup.
    let refused = match &plan {
        Some(Ok(_)) => next.iter().filter(|next| role != Some(**next)).find_map(|role| refuse(*role)),
        _ => role.or(next.last().copied()).into_iter().chain(next.iter().copied()).find_map(refuse),
    };
    let unset = unset_sysctls(config, &memory.state, seen, case.persistent);
    Judgement { plan, refused, table, troubles, unset }
}

/// What a role is decided from, and what follows from it.
struct Case<'a> {
    config: &'a Config,
    role: Role,
    memory: &'a Memory,
    seen: &'a Observation,
    group: Group,
    /// The group's services in the kernel, and what they are to be wherever they are.
    live: Table,
    table: Table,
    /// Whether a service is persistent, of this group or another program.
    persistent: bool,
    peers: BTreeMap<IpAddr, BTreeSet<Mac>>,
}

impl<'a> Case<'a> {
    fn new(config: &'a Config, role: Role, apply: Apply, memory: &'a Memory, seen: &'a Observation) -> Self {
        let state = &memory.state;
        let group = state.group(&config.group);
        let (loaded, legacy) = (memory.loaded(config, &group), memory.legacy_of(&group));
        let loaded = loaded.as_ref();
        let of_classifier = |id: &ServiceId| state.classifies && is_of_classifier(config, state, id);
        let live = seen.table.filtered(|id| is_ours(config, loaded, id) && !of_classifier(id));
        let mut table = match legacy {
            Some(legacy) if !group.held => {
                thawed(legacy, &memory.legacy.filtered(|id| is_ours(config, loaded, id)), &live)
            }
            _ => live.clone(),
        };
        // Fence `clear`: an empty table never replaces one that is not.
        if group.held || (config.fence == Fence::Clear && live.is_empty()) {
            let held = if legacy.is_some() { &memory.legacy } else { &memory.held };
            table = held.filtered(|id| is_ours(config, loaded, id));
            take_in(&mut table, &live);
        }
        if let Some(services) = &config.services {
            let [services, loaded] = [services, loaded].map(|services| at_rest(services, &group.drained));
            table = desired(&services, &loaded, &table, apply);
        }
        let peers = peers(config, state, seen, &table);
        let persistent = [&seen.table, &table].iter().any(|table| has_persistent(config, state, table));
        Case { config, role, memory, seen, group, live, table, persistent, peers }
    }

    fn state(&self) -> &State {
        &self.memory.state
    }

    fn for_role(&self) -> Result<Plan> {
        let (config, seen, state) = (self.config, self.seen, self.state());
        refuse_foreign_vips(config, state, seen)?;
        refuse_foreign_marks(config, seen)?;
        refuse_read_only_arp(config, seen)?;
        // Refused now rather than half-way.
        self.table.check()?;
        if config.vip_owner == VipOwner::Routes {
            refuse_vips_on_the_interface(config, seen)?;
            refuse_unequal(&self.table)?;
        }
        refuse_foreign_daemons(config, state, seen)?;
        if self.group.role.is_none() && matches!(self.role, Role::Master | Role::Backup) {
            refuse_unreached(config, seen)?;
        }
        let mut plan = self.plan()?;
        plan.warnings.extend(seen.lan.doubt.iter().map(ToString::to_string));
        plan.warnings.extend(answering(config, seen).iter().map(ToString::to_string));
        plan.warnings.extend(self.warnings());
        Ok(plan)
    }

    fn directs(&self) -> bool {
        self.role == Role::Master || self.config.vip_owner == VipOwner::Routes
    }

    /// The marks' rules, services and interfaces; without any, with another fence.
    fn marks(&self) -> Result<Marks> {
        if self.config.fence != Fence::Marks {
            let rest = change(&self.classifier_services(), &Table::new());
            return Ok(Marks { classified: Classified { rest, ..Classified::default() }, ..Marks::default() });
        }
        let vips: BTreeSet<IpAddr> = self.seen.vips.keys().copied().collect();
        let own = fence::own(&self.table, &self.config.interface, &vips, &self.seen.addresses);
        let mut director = fence::addresses_of(self.group.director, &self.peers);
        director.retain(|_, address| !self.seen.link.silent.contains(address));
        let facts = Facts {
            values: self.config.marks.values,
            slot: self.group.slot,
            directs: self.directs(),
            vips: &self.config.vips,
            interface: &self.config.interface,
            own: &own,
            table: &self.table,
            peers: &self.peers,
            director: &director,
        };
        // A rule on an interface that is not there waits until it is.
        let there = |rule: &Rule| self.seen.marks.qdiscs.contains_key(&rule.interface);
        let services = match facts.services() {
            // A node that has lost its interface, and its address with it, must still be able to
            // let go of what it holds.
            Err(_) if !self.directs() && self.group.role.is_some() => {
                self.seen.table.filtered(|id| self.is_own_mark(id))
            }
            services => services?,
        };
        let classified = self.classified(&facts);
        Ok(Marks { rules: facts.rules().into_iter().filter(there).collect(), services, classified })
    }

    /// What classifiers are to know, and the services of their marks.
    fn classified(&self, marks: &Facts<'_>) -> Classified {
        let (config, seen) = (self.config, self.seen);
        let (known, of_others, values) = (seen.classification(), self.others_vips(), config.mark_values());
        let held = self.classifier_services();
        let facts = classifier::Facts {
            values,
            known: &known,
            vips: &config.vips,
            of_others: &of_others,
            own: marks.own,
            peers: marks.peers,
            table: marks.table,
            seen: &held,
        };
        let wanted = match config.vip_owner {
            VipOwner::Routes => self.may_classify().and_then(|()| facts.wanted()),
            _ => Ok(Wanted::default()),
        };
        let is_needed = !marks.peers.values().all(BTreeSet::is_empty);
        let doubt = wanted.as_ref().err().filter(|_| is_needed).map(|reason| {
            format!(
                "TCP is marked by rules and not by a classifier, so sessions may break when changes of servers or next hops follow each \
                 other: {reason}"
            )
        });
        let wanted = wanted.unwrap_or_default();
        let mut on = self.classified_for_others();
        // One on an interface that is not there waits until it is.
        let there = |name: &&str| seen.marks.qdiscs.contains_key(*name);
        if !wanted.classification.services.is_empty() {
            for name in marks.interfaces().into_iter().filter(there) {
                let found = on.entry(name.to_owned()).or_default();
                found.services.extend(&wanted.classification.services);
                found.peers.extend(&wanted.classification.peers);
            }
        }
        let mut tables = vec![held.clone()];
        tables.extend(wanted.stages(values, &held));
        let steps = tables.windows(2).filter_map(|pair| change(&pair[0], &pair[1])).collect();
        let rest = tables.last().and_then(|held| change(held, &wanted.last));
        let has_some = !on.is_empty() || !wanted.last.is_empty();
        Classified { on, steps, rest, has_some, doubt }
    }

    /// Why a classifier cannot be used.
    fn may_classify(&self) -> Result<(), String> {
        if let Some(reason) = &self.seen.unclassified {
            return Err(reason.clone());
        }
        let is_foreign = |id: &ServiceId| {
            matches!(id, ServiceId::Fwmark { mark, .. } if self.config.marks.values.place_of(*mark).is_some())
                && !self.has_classified(id)
        };
        match self.seen.table.services().find(|content| is_foreign(&content.service.id)) {
            Some(content) => Err(format!(
                "{} is another program's, and has a mark that the classifier needs: name other marks ([marks] base)",
                content.service.id
            )),
            None => Ok(()),
        }
    }

    /// Whether this service of a classifier's mark is of this node: it remembers to have had one,
    /// or the classifier names the mark.
    fn has_classified(&self, id: &ServiceId) -> bool {
        let ServiceId::Fwmark { mark, .. } = id else { return false };
        let values = self.config.marks.values;
        let is_named = || {
            let (place, known) = (values.place_of(*mark).map(|(place, _)| place), self.seen.classification());
            place.is_some() && known.services.values().any(|marks| classifier::place(values, marks) == place)
        };
        is_of_classifier(self.config, self.state(), id) && (self.state().classifies || is_named())
    }

    /// The services of the classifier's marks in the kernel, but for those of other groups.
    fn classifier_services(&self) -> Table {
        let (values, of_others, known) = (self.config.marks.values, self.others_vips(), self.seen.classification());
        let others: BTreeSet<u8> = known
            .services
            .iter()
            .filter(|(address, _)| of_others.contains(&address.ip()))
            .filter_map(|(_, marks)| classifier::place(values, marks))
            .collect();
        let is_others = |id: &ServiceId| match id {
            ServiceId::Fwmark { mark, .. } => values.place_of(*mark).is_some_and(|(place, _)| others.contains(&place)),
            _ => false,
        };
        self.seen.table.filtered(|id| self.has_classified(id) && !is_others(id))
    }

    /// What the classifiers are to know of the other groups: what they know now.
    fn classified_for_others(&self) -> BTreeMap<String, Classification> {
        let of_others = self.others_vips();
        let left = self.seen.classifiers.iter().map(|(name, known)| {
            let mut left = known.clone();
            left.services.retain(|address, _| of_others.contains(&address.ip()));
            (name.clone(), left)
        });
        left.filter(|(_, left)| !left.services.is_empty()).collect()
    }

    fn plan(&self) -> Result<Plan> {
        let (config, seen, state) = (self.config, self.seen, self.state());
        let wanted = self.marks()?;
        let rules = self.rules(&wanted.rules, &wanted.classified.on);
        let mut services = self.mark_services(&wanted.services);
        services.first.extend(wanted.classified.steps);
        services.rest.extend(wanted.classified.rest);
        let mut steps = arp_steps(config, seen);
        steps.extend(obsolete_arp(config, state, seen));
        let kernel_table = match config.fence {
            Fence::Clear if !self.directs() => Table::new(),
            _ => self.table.clone(),
        };
        let on_interface = Placement::Interface(config.interface.clone());
        let routes = self.routes(self.role == Role::Master);
        match self.directs() {
            // The routes are removed first, and added last: a router sends no packets to a node
            // that is being set up.
            true if config.vip_owner == VipOwner::Routes => {
                steps.splice(0..0, routes.removed);
                steps.extend(add(config, seen, &Placement::Loopback));
                steps.extend(remove(seen, &on_interface, config.vips.iter().copied()));
                steps.extend(obsolete_vips(config, state, seen));
                steps.extend(sysctl_steps(config, state, seen, self.persistent));
                steps.extend(services.first);
                steps.extend(rules.added);
                steps.extend(change(&self.live, &kernel_table));
                steps.extend(self.daemon_steps());
                steps.extend(rules.removed);
                steps.extend(routes.added);
            }
            true => {
                steps.splice(0..0, routes.removed);
                steps.extend(sysctl_steps(config, state, seen, self.persistent));
                steps.extend(services.first);
                steps.extend(rules.added);
                steps.extend(change(&self.live, &kernel_table));
                steps.extend(self.arrive(&on_interface));
                // A connection is sent at its second packet, or not at all: the daemon runs before
                // connections go to other nodes.
                steps.extend(self.daemon_steps());
                steps.extend(rules.removed);
            }
            false => {
                steps.splice(0..0, routes.removed);
                steps.extend(self.leave(&on_interface));
                steps.extend(obsolete_vips(config, state, seen));
                steps.extend(services.first);
                steps.extend(rules.added);
                steps.extend(rules.removed);
                steps.extend(sysctl_steps(config, state, seen, self.persistent));
                steps.extend(change(&self.live, &kernel_table));
                steps.extend(self.daemon_steps());
            }
        }
        steps.extend(services.rest);
        steps.extend(self.own_requests(config.vips.iter().copied()));
        if let Some(services) =
            config.services.as_ref().filter(|services| **services != self.memory.loaded || self.memory.inherited)
        {
            steps.push(Step::Keep { kept: StoredTable::Loaded, table: services.clone() });
        }
        let (during, after) = self.remember(&steps, wanted.classified.has_some);
        if !steps.is_empty() || after != *state {
            steps.insert(0, Step::Record { role: self.role, reached: false });
            if state.legacy.is_some() && after.legacy.is_none() {
                steps.push(Step::Keep { kept: StoredTable::Legacy, table: Table::new() });
            }
            steps.push(Step::Record { role: self.role, reached: true });
        }
        // Before it is recorded that the kernel's table is not the whole.
        let holds = config.fence == Fence::Clear && !self.directs();
        let mut held = self.table.clone();
        // The services of a VIP that the configuration lacks for a while.
        let loaded = self.memory.loaded(self.config, &self.group);
        take_in(&mut held, &self.memory.held.filtered(|id| !is_ours(config, &loaded, id)));
        if holds && (self.memory.held != held || !self.group.held || self.memory.inherited) {
            steps.insert(0, Step::Keep { kept: StoredTable::Held, table: held });
        }
        if self.memory.legacy_of(&self.group).is_some() || (state.legacy.is_some() && after.legacy.is_none()) {
            steps.insert(0, Step::Keep { kept: StoredTable::Legacy, table: self.memory.legacy.clone() });
        }
        let warnings = wanted.classified.doubt.into_iter().collect();
        Ok(Plan { steps, warnings, during: Box::new(during), after: Box::new(after) })
    }

    /// The steps of a role in brief, in the same order as those of [`Case::plan`].
    fn steps_in_brief(&self) -> Vec<Step> {
        let (config, seen, state) = (self.config, self.seen, self.state());
        let on_interface = Placement::Interface(config.interface.clone());
        let mut steps = Vec::new();
        match self.directs() {
            true => {
                let opening = |rule: &Rule| rule.packets == Packets::Opening && config.vips.contains(&rule.vip);
                let open = seen.marks.rules.iter().filter(|rule| !opening(rule)).cloned().collect();
                steps.extend(self.arrive(&on_interface));
                steps.extend(self.daemon_steps());
                steps.extend(rule_steps(state, seen, &open, &seen.classifiers).removed);
                steps.extend(arp_steps(config, seen));
                steps.extend(sysctl_steps(config, state, seen, self.persistent));
            }
            false => {
                steps.extend(arp_steps(config, seen));
                steps.extend(self.leave(&on_interface));
                steps.extend(rule_steps(state, seen, &closed(config, &seen.marks.rules), &seen.classifiers).added);
                steps.extend(sysctl_steps(config, state, seen, self.persistent));
                steps.extend(self.daemon_steps());
            }
        }
        steps
    }

    /// Places the VIP where a node that does not direct has it.
    fn leave(&self, on_interface: &Placement) -> Vec<Step> {
        let (config, seen) = (self.config, self.seen);
        let mut steps = add(config, seen, &Placement::Loopback);
        if config.vip_owner == VipOwner::Node {
            steps.extend(remove(seen, on_interface, config.vips.iter().copied()));
        }
        steps
    }

    /// Places and announces the VIP of a director.
    fn arrive(&self, on_interface: &Placement) -> Vec<Step> {
        let (config, seen) = (self.config, self.seen);
        let was_master = self.group.role == Some((Role::Master, true));
        let mut steps = Vec::new();
        if config.loopback == Loopback::Always {
            steps.extend(add(config, seen, &Placement::Loopback));
        }
        if config.vip_owner == VipOwner::Node {
            let added = add(config, seen, on_interface);
            // Killed between adding and announcing, a node has still to announce what it finds
            // placed.
            let moved = |vip: &&IpAddr| {
                !was_master || added.iter().any(|step| matches!(step, Step::AddVip(added, _) if added == *vip))
            };
            let vips = config.vips.iter().filter(|_| config.announcements > 0).filter(moved);
            let announced = vips.map(|vip| Step::Announce(*vip, config.interface.clone()));
            steps.extend(added.iter().cloned().chain(announced));
        }
        if config.loopback == Loopback::Backup {
            // Never from its only place: keepalived may be late.
            let there = config.vips.iter().copied().filter(|vip| arrives(config, seen, *vip));
            steps.extend(remove(seen, &Placement::Loopback, there));
        }
        steps.extend(obsolete_vips(config, self.state(), seen));
        steps
    }

    /// The changes of the routes of this group's VIPs, and of VIPs that no group has.
    fn routes(&self, advertised: bool) -> RouteSteps {
        let (config, seen) = (self.config, self.seen);
        let wanted: BTreeSet<IpAddr> = match config.vip_owner == VipOwner::Routes && advertised {
            true => {
                let unserved = self.unserved();
                config.vips.iter().filter(|vip| !unserved.contains_key(*vip)).copied().collect()
            }
            false => BTreeSet::new(),
        };
        let others = self.others_vips();
        let placed = self.state().groups.values().flat_map(|group| &group.vips).map(|(vip, _)| *vip);
        let own: BTreeSet<IpAddr> =
            placed.chain(config.vips.iter().copied()).filter(|vip| !others.contains(vip)).collect();
        let removed = seen.routes.iter().filter(|vip| own.contains(vip) && !wanted.contains(vip));
        RouteSteps {
            removed: removed.copied().map(Step::Unadvertise).collect(),
            added: wanted.difference(&seen.routes).copied().map(Step::Advertise).collect(),
        }
    }

    /// VIPs of which this node is a server and does not serve: a service with no socket.
    fn unserved(&self) -> BTreeMap<IpAddr, ServiceId> {
        let Some(sockets) = &self.seen.listening else { return BTreeMap::new() };
        let unserved = listeners::unserved_by(self.config, &self.seen.own, &self.table, sockets);
        unserved.into_iter().filter_map(|id| Some((id.address()?.ip(), id))).collect()
    }

    /// The changes of the rules of this group's VIPs, and of VIPs that no group has.
    fn rules(&self, wanted: &BTreeSet<Rule>, classified: &BTreeMap<String, Classification>) -> RuleSteps {
        let others: BTreeSet<IpAddr> = self.others_vips();
        let marks = &self.seen.marks;
        let of_others = marks.rules.union(&marks.outdated).filter(|rule| others.contains(&rule.vip));
        let wanted: BTreeSet<Rule> = wanted.iter().chain(of_others).cloned().collect();
        rule_steps(self.state(), self.seen, &wanted, classified)
    }

    fn others_vips(&self) -> BTreeSet<IpAddr> {
        let vips = self.state().others(self.config).flat_map(|group| &group.vips).map(|(vip, _)| *vip);
        vips.filter(|vip| !self.config.vips.contains(vip)).collect()
    }

    /// The changes of the marks' services. A destination that is not wanted any more stays with
    /// weight 0: the packets of its connections would be dropped.
    fn mark_services(&self, wanted: &Table) -> ServiceSteps {
        let seen = self.seen.table.filtered(|id| self.is_own_mark(id));
        let (mut first, mut last) = (wanted.clone(), wanted.clone());
        for content in seen.services() {
            let id = content.service.id;
            if wanted.service(&id).is_none() {
                first.insert(content.service.clone());
            }
            for destination in content.destinations() {
                let weight =
                    wanted.service(&id).and_then(|wanted| wanted.destination(destination.address)).map(|d| d.weight);
                // Until the new destination counts, the old one does.
                let _ = first
                    .insert_destination(&id, destination.clone().weight(destination.weight.max(weight.unwrap_or(0))));
                if weight.is_none() {
                    let _ = last.insert_destination(&id, destination.clone().weight(0));
                }
            }
        }
        ServiceSteps {
            first: change(&seen, &first).into_iter().collect(),
            rest: change(&first, &last).into_iter().collect(),
        }
    }

    /// Whether this is a mark service that this group decides about: not those of other groups.
    fn is_own_mark(&self, id: &ServiceId) -> bool {
        let values = [Some(self.config.marks.values), self.state().marks];
        let owned = values.into_iter().flatten().any(|values| values.owns(id));
        let of_others = |mark: NonZeroU32| {
            self.state().others(self.config).any(|group| self.config.marks.values.director(group.slot) == mark)
        };
        let ServiceId::Fwmark { mark, family } = id else { return false };
        let shared = self.config.marks.values.is_shared(*mark)
            && self.others_vips().iter().any(|vip| ipvs::Family::of(*vip) == *family);
        // The services that all groups share are wanted by this group too, or stay as they are.
        let wanted_here = self.config.vips.iter().any(|vip| ipvs::Family::of(*vip) == *family);
        owned && !of_others(*mark) && (!shared || wanted_here)
    }

    /// The sync daemons that are to be started and stopped. A daemon that stops loses what it has
    /// not sent yet.
    fn daemon_steps(&self) -> Vec<Step> {
        let (config, seen) = (self.config, self.seen);
        if config.fence == Fence::Clear && !self.state().syncs && has_foreign_daemon(config, seen) {
            return Vec::new();
        }
        if !config.syncs() && !self.state().syncs {
            return Vec::new();
        }
        let directs = self.directs() || self.state().others(config).any(directs);
        let (mut now, mut wanted) = (Table::new(), Table::new());
        now.daemons.clone_from(&seen.daemons);
        wanted.daemons = if config.syncs() { daemons(&config.sync, directs) } else { no_daemons() };
        for (role, daemon) in wanted.daemons.iter_mut().filter(|(_, daemon)| daemon.is_some()) {
            if !can_start(*role, seen.sync_link) {
                // What runs stays; what does not waits for the interface.
                *daemon = seen.daemons.get(role).cloned().flatten();
            }
        }
        let Some(daemons) = change(&now, &wanted) else { return Vec::new() };
        let was_master = matches!(self.group.role, Some((Role::Master, _))) && !directs;
        let master = seen.daemons.get(&SyncRole::Master).and_then(Option::as_ref);
        master.filter(|_| was_master).cloned().map(Step::Resync).into_iter().chain([daemons]).collect()
    }

    /// Marks the node's own requests to the VIPs of this group; those of others stay.
    fn own_requests(&self, vips: impl Iterator<Item = IpAddr>) -> Option<Step> {
        let found = self.seen.own_requests.as_ref().filter(|found| found.missing.is_none())?;
        let served_here =
            self.config.fence == Fence::Marks && self.config.marks.own_requests == OwnRequests::ServedHere;
        let others = self.others_vips();
        let of_others = found.marked.iter().filter(|(vip, _)| others.contains(vip)).copied();
        let own = self.config.marks.values.own();
        let wanted: BTreeSet<_> = vips.filter(|_| served_here).map(|vip| (vip, own)).chain(of_others).collect();
        (wanted != found.marked).then_some(Step::OwnRequests(wanted))
    }

    /// What is remembered while the role is under way, and when it is reached.
    fn remember(&self, steps: &[Step], classifies: bool) -> (State, State) {
        let (config, state) = (self.config, self.state());
        let vips: BTreeSet<(IpAddr, String)> = config.vips.iter().map(|vip| (*vip, config.interface.clone())).collect();
        let mut during = State {
            arp: remembered_arp(state, steps),
            sysctls: remembered_sysctls(state, steps, self.seen),
            mended: state.mended.clone(),
            syncs: state.syncs || (config.syncs() && !has_foreign_daemon(config, self.seen)),
            routes: config.vip_owner == VipOwner::Routes || state.routes,
            classifies: classifies || state.classifies,
            marks: state.marks.or(Some(config.marks.values)),
            qdiscs: remembered_qdiscs(state, steps),
            peers: if config.fence == Fence::Marks { self.peers.clone() } else { BTreeMap::new() },
            groups: state.groups.clone(),
            legacy: state.legacy,
            unknown: state.unknown.clone(),
        };
        let held = config.fence == Fence::Clear && !self.directs();
        let on_lo = |vip: &&IpAddr| {
            let theirs = |found: &AssignedAddress| !found.is_foreign() && found.mark != Some(MARK);
            // Another group of this node may have placed it, or found it.
            match state.groups.values().find(|group| group.vips.iter().any(|(placed, _)| placed == *vip)) {
                Some(group) => group.found.contains(*vip),
                None => self.seen.found_on(**vip, Placement::Loopback.interface()).any(theirs),
            }
        };
        let found: BTreeSet<IpAddr> = match self.group.role {
            None => config.vips.iter().filter(on_lo).copied().collect(),
            Some(_) => self.group.found.clone(),
        };
        let group = Group {
            role: Some((self.role, false)),
            vips: self.group.vips.union(&vips).cloned().collect(),
            found: found.clone(),
            loaded: self.group.loaded.or(sign(config)),
            held: self.group.held || held,
            ..self.group.clone()
        };
        during.groups.insert(config.group.clone(), group.clone());
        let mut after = State {
            groups: during
                .groups
                .iter()
                .filter(|(name, _)| config.groups.contains(*name) || !state.is_complete(config))
                .map(|(name, group)| (name.clone(), group.clone()))
                .collect(),
            arp: during.arp.iter().filter(|change| !is_obsolete(config, self.seen, change)).cloned().collect(),
            sysctls: still_needed(config, state, &during.sysctls, self.persistent),
            routes: config.vip_owner == VipOwner::Routes
                || self.seen.routes.iter().any(|vip| !steps.contains(&Step::Unadvertise(*vip))),
            classifies,
            // Once they are stopped, another program may start some.
            syncs: during.syncs && config.syncs(),
            marks: (config.fence == Fence::Marks).then_some(config.marks.values),
            legacy: state.legacy.filter(|_| !state.is_complete(config)),
            ..during.clone()
        };
        let removed =
            steps.iter().filter_map(|step| if let Step::Marks(plan) = step { Some(plan.changes()) } else { None });
        for change in removed.flatten() {
            if let marks::Change::RemoveQdisc(interface) = change {
                after.qdiscs.remove(interface);
            }
        }
        after.groups.insert(
            config.group.clone(),
            Group {
                role: Some((self.role, true)),
                fence: Some(config.fence),
                found: found.into_iter().filter(|vip| config.vips.contains(vip)).collect(),
                vips,
                loaded: sign(config),
                held,
                ..group
            },
        );
        (during, after)
    }

    fn warnings(&self) -> Vec<String> {
        let (config, seen) = (self.config, self.seen);
        let mut warnings = Vec::new();
        if self.role == Role::Master {
            warnings.extend(arrival_warnings(config, seen));
            if self.table.is_empty() {
                warnings.push(
                    "there are no services, so nothing is balanced: configure some, or add them with ipvsadm".into(),
                );
            }
        }
        if self.role == Role::Master && config.vip_owner == VipOwner::Routes {
            let warning = |(vip, service): (IpAddr, ServiceId)| {
                format!(
                    "{vip} is not advertised: this node is a server of {service}, and no socket listens there; start the \
                     server, or take this node out of the service"
                )
            };
            warnings.extend(self.unserved().into_iter().map(warning));
        }
        warnings.extend(sync_warning(config, seen));
        warnings.extend(sysctl_warning(config, self.state(), seen, self.persistent));
        warnings.extend(self.troubles().iter().map(Trouble::to_string));
        warnings
    }

    fn troubles(&self) -> Vec<Trouble> {
        let unreached = destinations::unreached(&self.table, &self.config.vips, self.seen);
        let mut troubles: Vec<Trouble> = unreached.into_iter().map(Trouble::Unreached).collect();
        if self.config.fence != Fence::Marks {
            return troubles;
        }
        let link = &self.seen.link;
        // A server that was removed is remembered, and harms no more.
        let servers = fence::peers(&self.table, &self.seen.own);
        let gateway = |peer: &IpAddr| {
            let mac = *link.macs.get(peer)?;
            let gateway = *link.gateways.get(&mac)?;
            // A server's IPv6 address, and its IPv4 address as gateway.
            let gateway = if servers.contains(&gateway) { *peer } else { gateway };
            Some(Trouble::Gateway { peer: *peer, mac, gateway })
        };
        troubles.extend(servers.iter().filter_map(gateway));
        let unknown = self
            .peers
            .iter()
            .filter(|(peer, macs)| servers.contains(*peer) && macs.is_empty() && gateway(peer).is_none());
        let peers: Vec<IpAddr> = unknown.map(|(peer, _)| *peer).collect();
        if !peers.is_empty() {
            troubles.push(Trouble::Unknown { peers });
        }
        troubles
    }
}

/// What is wrong with other nodes, for fence `marks`, or with destinations.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Trouble {
    Unknown { peers: Vec<IpAddr> },
    Gateway { peer: IpAddr, mac: Mac, gateway: IpAddr },
    Unreached(Unreached),
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Trouble::Unknown { peers } => {
                let peers: Vec<String> = peers.iter().map(IpAddr::to_string).collect();
                write!(
                    f,
                    "the MAC address of {} is unknown: this node does not recognise packets that it sends; is it up, and on this link?",
                    peers.join(", ")
                )
            }
            Trouble::Gateway { peer, mac, gateway } if peer == gateway => write!(
                f,
                "{peer} ({mac}) is a gateway of this node: packets from there are not marked, or this node would serve all clients \
                 behind it; where it directs it drops answers from an IPv4 VIP to clients behind it, unless accept_local is 1 there"
            ),
            Trouble::Gateway { peer, mac, gateway } => write!(
                f,
                "{peer} has the MAC address of the gateway {gateway} ({mac}): packets from there are not marked, or this node would serve \
                 all clients behind the gateway"
            ),
            Trouble::Unreached(unreached) => unreached.fmt(f),
        }
    }
}

#[derive(Default)]
struct Marks {
    rules: BTreeSet<Rule>,
    services: Table,
    classified: Classified,
}

/// What the classifiers are to know, and how the services of their marks come and go.
#[derive(Default)]
struct Classified {
    on: BTreeMap<String, Classification>,
    /// Before the classifiers change, and afterwards.
    steps: Vec<Step>,
    rest: Option<Step>,
    /// Whether there are any afterwards.
    has_some: bool,
    /// Why there is no classifier.
    doubt: Option<String>,
}

struct RouteSteps {
    removed: Vec<Step>,
    added: Vec<Step>,
}

struct RuleSteps {
    added: Option<Step>,
    removed: Option<Step>,
}

struct ServiceSteps {
    first: Vec<Step>,
    rest: Vec<Step>,
}

/// Whether this is a service of a classifier's mark, of this configuration or an earlier one.
fn is_of_classifier(config: &Config, state: &State, id: &ServiceId) -> bool {
    let values = [Some(config.marks.values), state.marks];
    let has_place = |mark: NonZeroU32| values.into_iter().flatten().any(|values| values.place_of(mark).is_some());
    matches!(id, ServiceId::Fwmark { mark, .. } if has_place(*mark))
}

/// The rules are `wanted` and no others, and the classifiers know what they are to. What is added
/// comes first; a qdisc of this node's goes with its last rule.
fn rule_steps(
    state: &State,
    seen: &Observation,
    wanted: &BTreeSet<Rule>,
    classified: &BTreeMap<String, Classification>,
) -> RuleSteps {
    let step = |plan: marks::Plan| (!plan.is_empty()).then_some(Step::Marks(plan));
    let union: BTreeSet<Rule> = seen.marks.rules.union(wanted).cloned().collect();
    let added = marks::Plan::between(&seen.marks, &union);
    // Outdated filters go last: a promotion may end the marks that they give.
    let is_last = |change: &&marks::Change| matches!(change, marks::Change::RemoveOutdated(_));
    let added = added.changes().iter().filter(|change| !is_last(change)).cloned();
    let differ = classified.iter().filter(|(name, wanted)| seen.classifiers.get(*name) != Some(*wanted));
    let added = marks::Plan::of(added.chain(differ.map(|(interface, classification)| marks::Change::Classify {
        interface: interface.clone(),
        classification: classification.clone(),
    })));
    let ours = state.qdiscs.iter().filter(|(_, owner)| **owner == QdiscOwner::Node);
    let ours = ours.map(|(interface, _)| interface.clone()).collect();
    let removed = seen.marks.rules.difference(wanted).cloned().map(marks::Change::Remove);
    let outdated = seen.marks.outdated.iter().cloned().map(marks::Change::RemoveOutdated);
    let unclassified = seen.classifiers.keys().filter(|name| !classified.contains_key(*name));
    let unclassified = unclassified.cloned().map(marks::Change::Unclassify);
    let removed =
        marks::Plan::of(removed.chain(outdated).chain(unclassified)).and_remove_qdiscs(&seen.marks, wanted, &ours);
    RuleSteps { added: step(added), removed: step(removed) }
}

/// Plans the promotion of a backup that has all it needs, or the demotion of a director, from an
/// observation in brief: the table is not looked at, and no destination is changed. `None`: it has
/// to be looked at in full.
pub(super) fn in_brief(config: &Config, role: Role, state: &State, seen: &Observation) -> Option<Plan> {
    let group = state.groups.get(&config.group)?;
    let vips: BTreeSet<(IpAddr, String)> = config.vips.iter().map(|vip| (*vip, config.interface.clone())).collect();
    let changes_sides = |before: Role| (before == Role::Master) != (role == Role::Master);
    let ready = group.role.is_some_and(|(before, reached)| reached && changes_sides(before))
        && (group.fence, config.fence) == (Some(Fence::Marks), Fence::Marks)
        && config.vip_owner != VipOwner::Routes
        && !state.routes
        && group.vips == vips
        && state.syncs
        && state.marks == Some(config.marks.values)
        && state.legacy.is_none()
        && !state.peers.is_empty()
        && seen.marks.outdated.is_empty()
        && group.loaded.is_none_or(|sign| seen.table.service(&sign).is_some());
    if !ready || !is_marked(config, seen) {
        return None;
    }
    refuse_foreign_vips(config, state, seen).ok()?;
    refuse_foreign_daemons(config, state, seen).ok()?;
    refuse_read_only_arp(config, seen).ok()?;
    let memory = Memory { state: state.clone(), ..Memory::default() };
    let case = brief(config, role, &memory, group, seen);
    let mut steps = case.steps_in_brief();
    let (mut during, mut after) = case.remember(&steps, state.classifies);
    for state in [&mut during, &mut after] {
        // The services were not read.
        state.group_mut(&config.group).loaded = group.loaded;
    }
    steps.insert(0, Step::Record { role, reached: false });
    steps.push(Step::Record { role, reached: true });
    let mut warnings = if role == Role::Master { arrival_warnings(config, seen) } else { Vec::new() };
    warnings.extend(sync_warning(config, seen));
    Some(Plan { steps, warnings, during: Box::new(during), after: Box::new(after) })
}

/// Whether a plan in brief that was carried out has left nothing to do.
pub(super) fn is_done_in_brief(config: &Config, role: Role, state: &State, seen: &Observation) -> bool {
    let memory = Memory { state: state.clone(), ..Memory::default() };
    let steps = brief(config, role, &memory, &state.group(&config.group), seen).steps_in_brief();
    is_marked(config, seen) && !steps.iter().any(Step::leaves_a_trace)
}

/// Whether each other node is known by its MAC address and by the one that it is seen with, and has
/// rules for each VIP. Another group may have learned of it meanwhile.
pub(super) fn knows_its_peers(config: &Config, state: &State, seen: &Observation) -> bool {
    let has_rule = |vip: &IpAddr, mac: &Mac| {
        seen.marks.rules.iter().any(|rule| rule.vip == *vip && rule.packets == Packets::From(*mac))
    };
    state.peers.iter().all(|(peer, macs)| {
        let has_rules = |mac: &Mac| config.vips.iter().all(|vip| has_rule(vip, mac));
        let seen_with = seen.link.macs.get(peer);
        !macs.is_empty() && macs.iter().all(has_rules) && seen_with.is_none_or(|mac| macs.contains(mac))
    })
}

/// Whether the services of the marks are there, and rules for each VIP.
fn is_marked(config: &Config, seen: &Observation) -> bool {
    let mark = |family| ServiceId::Fwmark { mark: config.marks.values.local(), family };
    let has_service = |vip: &IpAddr| seen.table.service(&mark(ipvs::Family::of(*vip))).is_some();
    let has_rule = |vip: &IpAddr| seen.marks.rules.iter().any(|rule| rule.vip == *vip);
    config.vips.iter().all(|vip| has_service(vip) && has_rule(vip))
}

/// Whether one of these services is persistent, but for those of the node's own marks.
fn has_persistent(config: &Config, state: &State, table: &Table) -> bool {
    let own = |id: &ServiceId| [Some(config.marks.values), state.marks].into_iter().flatten().any(|own| own.owns(id));
    table.services().any(|content| content.service.persistence.is_some() && !own(&content.service.id))
}

/// The case of an observation in brief.
fn brief<'a>(config: &'a Config, role: Role, memory: &'a Memory, group: &Group, seen: &'a Observation) -> Case<'a> {
    Case {
        config,
        role,
        memory,
        seen,
        group: group.clone(),
        live: Table::new(),
        table: Table::new(),
        // What was found when the table was looked at last.
        persistent: !memory.state.sysctls.contains_key(SYNC_PERSIST_MODE.name()),
        peers: memory.state.peers.clone(),
    }
}

/// Plans to place the VIPs again that the node has placed for its role, from an observation in
/// brief. Empty while a role is under way.
pub(super) fn restoration(config: &Config, state: &State, seen: &Observation) -> Result<Plan> {
    let group = state.group(&config.group);
    refuse_foreign_vips(config, state, seen)?;
    let mut steps = match group.role {
        Some((Role::Master, true)) if config.vip_owner != VipOwner::Routes => {
            let memory = Memory { state: state.clone(), ..Memory::default() };
            brief(config, Role::Master, &memory, &group, seen).arrive(&Placement::Interface(config.interface.clone()))
        }
        Some((_, true)) => add(config, seen, &Placement::Loopback),
        _ => Vec::new(),
    };
    // Where nothing can be recorded, a demotion was not recorded either.
    if let Some((role @ Role::Master, true)) = group.role.filter(|_| !steps.is_empty()) {
        steps.insert(0, Step::Record { role, reached: true });
    }
    Ok(Plan::beside(state, steps))
}

/// The services that an observation in brief looks at.
pub(super) fn brief_services(config: &Config, state: &State) -> Vec<ServiceId> {
    let group = state.group(&config.group);
    let families: BTreeSet<_> = config.vips.iter().map(|vip| ipvs::Family::of(*vip)).collect();
    let values = config.marks.values;
    let marks = [values.local(), values.own(), values.director(group.slot)];
    let marked = families.into_iter().flat_map(|family| marks.map(|mark| ServiceId::Fwmark { mark, family }));
    marked.chain(group.loaded).collect()
}

/// Plans to send the packets of unknown connections to the director that is remembered, from the
/// mark services. The new destination gets its weight before the old one loses it.
pub(super) fn pointing(config: &Config, state: &State, seen: &Table) -> Vec<ipvs::Plan> {
    let group = state.group(&config.group);
    let values = config.marks.values;
    let mut seen = seen.filtered(|id| values.owns(id));
    let own: BTreeSet<IpAddr> = seen
        .services()
        .filter(|content| matches!(content.service.id, ServiceId::Fwmark { mark, .. } if mark == values.local()))
        .flat_map(|content| content.destinations().filter(|d| d.weight > 0).map(|d| d.address.ip()).collect::<Vec<_>>())
        .collect();
    seen.retain(|id| matches!(id, ServiceId::Fwmark { mark, .. } if *mark == values.director(group.slot)));
    let there = |content: &ipvs::VirtualService<'_>, to: IpAddr| content.destinations().any(|d| d.address.ip() == to);
    let director = fence::addresses_of(group.director, &state.peers);
    let to: BTreeMap<ServiceId, Option<IpAddr>> = seen
        .services()
        .map(|content| {
            let id = content.service.id;
            (id, director.get(&id.family()).copied().filter(|address| there(&content, *address)))
        })
        .collect();
    let is_target = |id: &ServiceId, address: IpAddr| match to.get(id).copied().flatten() {
        Some(director) => address == director,
        None => own.contains(&address),
    };
    let mut first = seen.clone();
    first.edit_destinations(|id, destination| {
        destination.weight = destination.weight.max(u32::from(is_target(id, destination.address.ip())));
    });
    let mut last = first.clone();
    last.edit_destinations(|id, destination| destination.weight = u32::from(is_target(id, destination.address.ip())));
    [ipvs::Plan::between(&seen, &first), ipvs::Plan::between(&first, &last)]
        .into_iter()
        .filter(|plan| !plan.is_empty())
        .collect()
}

/// The other nodes with the MAC addresses that they send from: those seen now, remembered and
/// configured.
fn peers(config: &Config, state: &State, seen: &Observation, table: &Table) -> BTreeMap<IpAddr, BTreeSet<Mac>> {
    let mut addresses = fence::peers(table, &seen.own);
    addresses.extend(config.marks.macs.keys());
    match &config.services {
        Some(services) if config.groups.len() == 1 => addresses.extend(fence::peers(services, &seen.own)),
        // A health check that has removed a server adds it again.
        _ => addresses.extend(state.peers.keys()),
    }
    addresses.retain(|peer| !seen.own.contains(peer) && destinations::is_on_the_link(*peer, &config.vips, seen));
    let usable = |mac: &Mac| !seen.link.gateways.contains_key(mac) && !seen.link.own_macs.contains(mac);
    let macs = |peer: &IpAddr| {
        let remembered = state.peers.get(peer).into_iter().flatten().take(MACS);
        let configured = config.marks.macs.get(peer).into_iter().flatten();
        seen.link.macs.get(peer).into_iter().chain(remembered).chain(configured).copied().filter(usable).collect()
    };
    addresses.into_iter().map(|peer| (peer, macs(&peer))).collect()
}

/// These rules, and those that keep a node from scheduling new connections of its VIPs: on each
/// interface that has rules of a VIP.
pub(super) fn closed(config: &Config, rules: &BTreeSet<Rule>) -> BTreeSet<Rule> {
    let own = rules.iter().filter(|rule| config.vips.contains(&rule.vip));
    let opening = own.map(|rule| Rule { packets: Packets::Opening, mark: config.marks.values.local(), ..rule.clone() });
    rules.iter().cloned().chain(opening).collect()
}

/// What is remembered of a role that was asked for and not reached, where the node has a role
/// already. `None`: nothing changes.
///
/// Not a promotion of a node that owns its VIPs: what it has begun is recorded, and one that was
/// refused has changed nothing. A repair must not promote the node later, when another one was
/// promoted in its place. keepalived has moved its VIP before.
pub(super) fn unreached(config: &Config, state: &State, role: Role) -> Option<State> {
    if role == Role::Master && config.vip_owner != VipOwner::Keepalived {
        return None;
    }
    let mut state = state.clone();
    let group = state.groups.get_mut(&config.group)?;
    (group.role.replace((role, false)) != Some((role, false))).then_some(state)
}

pub(super) fn directs(group: &Group) -> bool {
    matches!(group.role, Some((Role::Master, _)))
}

fn remembered_qdiscs(state: &State, steps: &[Step]) -> BTreeMap<String, QdiscOwner> {
    let mut qdiscs = state.qdiscs.clone();
    let plans = steps.iter().filter_map(|step| if let Step::Marks(plan) = step { Some(plan) } else { None });
    for change in plans.flat_map(|plan| plan.changes()) {
        match change {
            marks::Change::AddQdisc(interface) => drop(qdiscs.insert(interface.clone(), QdiscOwner::Node)),
            marks::Change::Add(Rule { interface, .. }) | marks::Change::Classify { interface, .. } => {
                qdiscs.entry(interface.clone()).or_insert(QdiscOwner::Other);
            }
            _ => {}
        }
    }
    qdiscs
}

pub(super) fn change(seen: &Table, wanted: &Table) -> Option<Step> {
    let plan = ipvs::Plan::between(seen, wanted);
    (!plan.is_empty()).then_some(Step::Table(plan))
}

fn add(config: &Config, seen: &Observation, placement: &Placement) -> Vec<Step> {
    let missing = config.vips.iter().filter(|vip| !seen.sits(**vip, placement));
    missing.map(|vip| Step::AddVip(*vip, placement.clone())).collect()
}

fn remove(seen: &Observation, placement: &Placement, vips: impl Iterator<Item = IpAddr>) -> Vec<Step> {
    let present = vips.filter(|vip| seen.found_on(*vip, placement.interface()).next().is_some());
    present.map(|vip| Step::RemoveVip(vip, placement.clone())).collect()
}

/// Whether the kernel starts a sync daemon on such an interface. One that sends needs a route by it
/// (`make_send_sock()` in net/netfilter/ipvs/ip_vs_sync.c).
fn can_start(role: SyncRole, link: LinkState) -> bool {
    match link {
        LinkState::Up => true,
        LinkState::Down => role == SyncRole::Backup,
        LinkState::Missing => false,
    }
}

/// The sync daemons cannot be started, or neither send nor receive.
pub(super) fn sync_warning(config: &Config, seen: &Observation) -> Option<String> {
    if !config.syncs() {
        return None;
    }
    let state = match seen.sync_link {
        LinkState::Up => return None,
        LinkState::Down => "is down",
        LinkState::Missing => "does not exist",
    };
    Some(format!(
        "the sync interface {} {state}: connections are not synchronised, and break when another node becomes the director; bring it up, \
         or name another one ([sync] interface)",
        config.sync.interface
    ))
}

/// The VIPs that a director lacks.
fn arrival_warnings(config: &Config, seen: &Observation) -> Vec<String> {
    let missing = config.vips.iter().filter(|vip| !arrives(config, seen, **vip));
    let warning = |vip: &IpAddr| {
        let interface = &config.interface;
        format!(
            "{vip} is not on {interface}, where keepalived puts a master's: is it in virtual_ipaddress? Under keepalived its \
             notifications say the role, not a call by hand"
        )
    };
    missing.map(warning).collect()
}

/// Whether a director's interface has the VIP, or is about to get it from this node.
fn arrives(config: &Config, seen: &Observation, vip: IpAddr) -> bool {
    config.vip_owner != VipOwner::Keepalived || seen.found_on(vip, &config.interface).next().is_some()
}

/// Plans to give everything back that this group has changed, and with the last group what all of
/// them share.
pub(super) fn for_release(config: &Config, memory: &Memory, seen: &Observation) -> Result<Plan> {
    let (during, last) = (memory.state.clone(), is_last(config, &memory.state));
    let forgotten = leftovers::of(config, &memory.state, seen);
    let memory = &if last { united(config, memory) } else { memory.clone() };
    let state = &memory.state;
    let case = Case::new(config, Role::Stop, Apply::Changes, memory, seen);
    let mut steps: Vec<Step> = case.routes(false).removed;
    if let Some(found) = &forgotten {
        steps.extend(found.vips.iter().map(|(vip, place)| Step::RemoveVip(*vip, place.clone())));
    }
    for (vip, interface) in &case.group.vips {
        let is_theirs = case.group.found.contains(vip);
        if is_theirs && !seen.sits(*vip, &Placement::Loopback) {
            steps.push(Step::AddVip(*vip, Placement::Loopback));
        }
        let mut places: Vec<Placement> = [Placement::Loopback].into_iter().filter(|_| !is_theirs).collect();
        if config.vip_owner != VipOwner::Keepalived {
            places.insert(0, Placement::Interface(interface.clone()));
        }
        // What another program has made of it since is that program's.
        let ours = |place: &Placement| seen.found_on(*vip, place.interface()).any(|located| !located.is_foreign());
        steps.extend(places.into_iter().filter(ours).map(|place| Step::RemoveVip(*vip, place)));
    }
    let wanted = match &config.services {
        // They go, as far as the node has loaded them.
        Some(_) => {
            let loaded = memory.loaded(config, &case.group);
            case.live.filtered(|id| loaded.service(id).is_none())
        }
        // They were found running, and are left running.
        None => case.table.clone(),
    };
    steps.extend(change(&case.live, &wanted));
    let rules = case.rules(&BTreeSet::new(), &case.classified_for_others());
    steps.extend(rules.removed);
    let found = seen.table.filtered(|id| case.is_own_mark(id));
    let others = case.others_vips();
    let shared = |id: &ServiceId| {
        let ServiceId::Fwmark { mark, family } = id else { return false };
        config.marks.values.is_shared(*mark) && others.iter().any(|vip| ipvs::Family::of(*vip) == *family)
    };
    steps.extend(change(&found, &found.filtered(shared)));
    steps.extend(change(&case.classifier_services(), &Table::new()));
    steps.extend(case.own_requests(std::iter::empty()));
    if !last {
        steps.extend(case.daemon_steps());
    } else if state.syncs {
        let (mut now, mut wanted) = (Table::new(), Table::new());
        now.daemons.clone_from(&seen.daemons);
        wanted.daemons = no_daemons();
        steps.extend(change(&now, &wanted));
    } else if let Some(found) = &forgotten {
        let (mut now, mut wanted) = (Table::new(), Table::new());
        now.daemons.clone_from(&seen.daemons);
        wanted.daemons.clone_from(&seen.daemons);
        found.daemons.iter().for_each(|role| drop(wanted.daemons.insert(*role, None)));
        steps.extend(change(&now, &wanted));
    }
    let mut after = state.clone();
    after.groups.remove(&config.group);
    let mut warnings: Vec<String> = forgotten.as_ref().and_then(Leftovers::warning).into_iter().collect();
    if last {
        after = State::default();
        let arp = state.arp.iter().filter(|change| counts_still(change, seen)).cloned().map(Step::GiveBackArp);
        let sysctls = state.sysctls.iter().filter_map(|(name, values)| sysctl_back(name, values, seen));
        let is_left = |step: &Step| match step {
            Step::GiveBackArp(_) => seen.read_only.contains(&Tree::Arp),
            _ => seen.read_only.contains(&Tree::Ipvs),
        };
        let (left, due): (Vec<Step>, Vec<Step>) = arp.chain(sysctls).partition(is_left);
        steps.extend(due);
        warnings
            .extend(left.iter().map(|step| format!("/proc/sys is read-only here: left for the host to do: {step}")));
    }
    if after != *state {
        steps.push(Step::Forget);
    }
    Ok(Plan { steps, warnings, during: Box::new(during), after: Box::new(after) })
}

/// Plans that the services of the classifier's marks follow a table that is about to change as it
/// has in this observation.
pub(super) fn following(config: &Config, memory: &Memory, seen: &Observation) -> Vec<Step> {
    let role = memory.state.group(&config.group).role.filter(|_| config.vip_owner == VipOwner::Routes);
    let marks = role.map(|(role, _)| Case::new(config, role, Apply::Changes, memory, seen).marks());
    // Without marks the role says what is wrong.
    marks.and_then(Result::ok).map(|marks| marks.classified.steps).unwrap_or_default()
}

/// Whether no other group of the configuration has a role.
pub(super) fn is_last(config: &Config, state: &State) -> bool {
    let has_role = |name: &String| *name != config.group && state.group(name).role.is_some();
    !config.groups.iter().any(has_role)
}

/// The same memory, in which the VIPs of groups that the configuration does not have any more are
/// this group's.
fn united(config: &Config, memory: &Memory) -> Memory {
    let mut united = memory.clone();
    let groups = &mut united.state.groups;
    let obsolete: Vec<Group> = memory.state.obsolete(config).iter().filter_map(|name| groups.remove(name)).collect();
    for group in obsolete.into_iter().filter(|group| !group.vips.is_empty()) {
        let own = groups.entry(config.group.clone()).or_default();
        own.vips.extend(group.vips);
        own.found.extend(group.found);
    }
    united
}

/// VIPs on interfaces that are not the node's.
pub(super) fn elsewhere<'a>(config: &Config, state: &State, seen: &'a Observation) -> Vec<&'a AssignedAddress> {
    let is_elsewhere = |located: &&AssignedAddress| {
        let own = [config.interface.as_str(), Placement::Loopback.interface()];
        // Placed by this node, when the configuration named another interface.
        let place = (located.address, located.interface.clone());
        let placed = state.groups.values().any(|group| group.vips.contains(&place));
        let obsolete = config.vip_owner != VipOwner::Keepalived && placed;
        !own.contains(&located.interface.as_str()) && !obsolete
    };
    config.vips.iter().filter_map(|vip| seen.vips.get(vip)).flatten().filter(is_elsewhere).collect()
}

/// A VIP on an interface that is not the node's, or in a form that is not a VIP's, belongs to
/// another program.
fn refuse_foreign_vips(config: &Config, state: &State, seen: &Observation) -> Result<()> {
    if let Some(located) = elsewhere(config, state, seen).first() {
        let reason = format!("the VIP belongs on {} or lo: remove it there, or name that interface", config.interface);
        return Err(Error::Foreign { object: located.to_string(), reason });
    }
    for vip in &config.vips {
        for located in seen.vips.get(vip).into_iter().flatten() {
            let on_interface = located.interface == config.interface;
            // Whatever keepalived makes of its own VIP is right.
            if !(on_interface && config.vip_owner == VipOwner::Keepalived) {
                located.refuse_foreign()?;
            }
        }
    }
    Ok(())
}

/// A VIP on the interface of a node whose routers know the way: the first node that answers ARP
/// requests gets all packets of the link. One that this node has placed before is removed.
fn refuse_vips_on_the_interface(config: &Config, seen: &Observation) -> Result<()> {
    let on_interface = config.vips.iter().flat_map(|vip| seen.found_on(*vip, &config.interface));
    match on_interface.into_iter().find(|found| found.mark != Some(MARK)) {
        Some(found) => Err(Error::Foreign {
            object: found.to_string(),
            reason: "with vip_owner `routes` the VIP is on lo only: take it out of what places it (keepalived's \
                     virtual_ipaddress, netplan), and remove it"
                .into(),
        }),
        None => Ok(()),
    }
}

/// Configured servers that would not get the packets of their services. Only where the node has
/// nothing to lose yet: a node that has a role must be able to take on the next one.
pub(super) fn refuse_unreached(config: &Config, seen: &Observation) -> Result<()> {
    let Some(services) = &config.services else { return Ok(()) };
    // With NAT a server may have no other way to clients than the director.
    let is_certain = |found: &&Unreached| !matches!(found.reason, Reason::AnswersItself(_));
    match destinations::unreached(services, &config.vips, seen).iter().find(is_certain) {
        Some(unreached) => Err(Error::invalid("services", unreached.to_string())),
        None => Ok(()),
    }
}

/// Marks that another program uses, or rules of a node with another state directory.
fn refuse_foreign_marks(config: &Config, seen: &Observation) -> Result<()> {
    if config.fence != Fence::Marks {
        return Ok(());
    }
    if let Some(reason) = &seen.unsupported {
        return Err(Error::invalid("fence `marks`", reason.clone()));
    }
    if let Some(stranger) = seen.marks.strangers.first() {
        let reason = "a node with another state_dir works in this network namespace: make one file of both, with a [[group]] for each";
        return Err(Error::Foreign { object: format!("the rule `{}`", stranger.rule), reason: reason.into() });
    }
    if let Some(used) = seen.mark_uses.first() {
        let reason = "it uses a packet mark of this node: name other marks in the configuration ([marks] base)";
        return Err(Error::Foreign { object: used.clone(), reason: reason.into() });
    }
    Ok(())
}

fn has_foreign_daemon(config: &Config, seen: &Observation) -> bool {
    foreign_daemon(config, seen).is_some()
}

fn foreign_daemon<'a>(config: &Config, seen: &'a Observation) -> Option<&'a SyncDaemon> {
    let wanted = daemons(&config.sync, true);
    let met = |running: &&SyncDaemon| {
        wanted.get(&running.role).and_then(Option::as_ref).is_some_and(|wanted| wanted.is_met_by(running))
    };
    seen.daemons.values().flatten().find(|running| !met(running))
}

/// A sync daemon that runs but is not this node's: keepalived starts one with `lvs_sync_daemon`.
/// Fence `clear` can do without its own.
fn refuse_foreign_daemons(config: &Config, state: &State, seen: &Observation) -> Result<()> {
    match foreign_daemon(config, seen).filter(|_| config.syncs()) {
        Some(daemon) if !state.syncs && config.fence == Fence::Marks => {
            let reason = "it was not started by this node, which runs its own: take `lvs_sync_daemon` out of keepalived.conf, or stop it \
                          with `ipvsadm --stop-daemon`";
            Err(Error::Foreign { object: daemon.to_string(), reason: reason.into() })
        }
        _ => Ok(()),
    }
}

/// VIPs that an earlier configuration had placed.
fn obsolete_vips(config: &Config, state: &State, seen: &Observation) -> Vec<Step> {
    let mut steps = Vec::new();
    let of_groups =
        |name: &String| *name == config.group || (!config.groups.contains(name) && state.is_complete(config));
    let remembered = state.groups.iter().filter(|(name, _)| of_groups(name)).flat_map(|(_, group)| &group.vips);
    let others: BTreeSet<IpAddr> = state
        .groups
        .iter()
        .filter(|(name, _)| !of_groups(name))
        .flat_map(|(_, group)| &group.vips)
        .map(|(vip, _)| *vip)
        .collect();
    let found: BTreeSet<IpAddr> =
        state.groups.iter().filter(|(name, _)| of_groups(name)).flat_map(|(_, group)| &group.found).copied().collect();
    for (vip, interface) in remembered.filter(|(vip, _)| !others.contains(vip)) {
        let configured = config.vips.contains(vip);
        let places = [
            (Placement::Loopback, !configured && !found.contains(vip)),
            (
                Placement::Interface(interface.clone()),
                config.vip_owner != VipOwner::Keepalived && (!configured || *interface != config.interface),
            ),
        ];
        for (place, obsolete) in places {
            if obsolete && seen.found_on(*vip, place.interface()).any(|located| !located.is_foreign()) {
                steps.push(Step::RemoveVip(*vip, place));
            }
        }
    }
    steps
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::model::{SERVICES, VIP, World, config, ip, located};
    use crate::vip::Scope;

    type Change = fn(&mut World);

    /// A node that has taken on these roles.
    fn world(fence: Fence, roles: &[Role]) -> World {
        let mut world = World::new(config(fence));
        roles.iter().for_each(|role| drop(world.take_on(*role)));
        world
    }

    fn group(world: &mut World) -> &mut Group {
        world.memory.state.group_mut("")
    }

    fn is_local(world: &World, id: &ServiceId) -> bool {
        matches!(id, ServiceId::Fwmark { mark, .. } if *mark == world.config.marks.values.local())
    }

    /// Each row breaks one condition. The first ones break none.
    #[test]
    fn a_backup_that_is_ready_is_promoted_in_brief() {
        let rows: [(bool, Change); 18] = [
            (true, |_| ()),
            (true, |world| group(world).loaded = None),
            (true, |world| group(world).role = Some((Role::Fault, true))),
            (false, |world| world.memory.state.groups.clear()),
            (false, |world| group(world).role = None),
            (false, |world| group(world).role = Some((Role::Backup, false))),
            (false, |world| group(world).role = Some((Role::Master, true))),
            (false, |world| group(world).fence = Some(Fence::Clear)),
            (false, |world| world.config.fence = Fence::Clear),
            (false, |world| group(world).vips.clear()),
            (false, |world| world.memory.state.syncs = false),
            (false, |world| world.memory.state.marks = None),
            (false, |world| world.memory.state.legacy = Some(Legacy::Whole)),
            (false, |world| world.memory.state.peers.clear()),
            (false, |world| world.seen.marks.outdated = world.seen.marks.rules.clone()),
            (false, |world| world.seen.table.retain(|id| id.address().is_none())),
            (false, |world| world.seen.marks.rules.clear()),
            (false, |world| {
                world.seen.vips.values_mut().for_each(|found| found.push(located(VIP, "eth9", Scope::Global)))
            }),
        ];
        for (number, (ready, change)) in rows.into_iter().enumerate() {
            let mut world = world(Fence::Marks, &[Role::Backup]);
            change(&mut world);
            let plan = in_brief(&world.config, Role::Master, &world.memory.state, &world.seen);
            assert_eq!(plan.is_some(), ready, "{number}");
        }
        // Without a mark's service packets would be lost, and the same side is no promotion.
        let mut world = world(Fence::Marks, &[Role::Backup]);
        assert!(in_brief(&world.config, Role::Fault, &world.memory.state, &world.seen).is_none());
        let local: Vec<ServiceId> = world.seen.table.services().map(|content| content.service.id).collect();
        let local = local.into_iter().find(|id| is_local(&world, id)).unwrap();
        world.seen.table.retain(|id| *id != local);
        assert!(in_brief(&world.config, Role::Master, &world.memory.state, &world.seen).is_none());
    }

    #[test]
    fn a_role_in_brief_is_done_where_nothing_is_left() {
        let rows: [(bool, Change); 5] = [
            (true, |_| ()),
            (false, |world| world.seen.vips.values_mut().for_each(Vec::clear)),
            (false, |world| world.seen.marks.rules.clear()),
            (false, |world| world.seen.table = Table::new()),
            // Placed by an earlier configuration.
            (false, |world| {
                let old = located("192.0.2.250", "eth0", Scope::Host);
                group(world).vips.insert((old.address, "eth0".into()));
                world.seen.vips.insert(old.address, vec![old]);
            }),
        ];
        for (number, (done, change)) in rows.into_iter().enumerate() {
            let mut world = world(Fence::Marks, &[Role::Backup, Role::Master]);
            change(&mut world);
            let found = is_done_in_brief(&world.config, Role::Master, &world.memory.state, &world.seen);
            assert_eq!(found, done, "{number}");
        }
    }

    #[test]
    fn vips_are_restored_for_the_role_that_was_reached() {
        let old = located("192.0.2.250", "eth0", Scope::Host);
        for (role, expected) in [
            (
                Some((Role::Master, true)),
                "1. record: master is reached\n2. VIP: add 192.0.2.254 to lo (scope host)\n\
                 3. VIP: add 192.0.2.254 to eth0\n4. VIP: announce 192.0.2.254 on eth0\n\
                 5. VIP: remove 192.0.2.250 from eth0\n",
            ),
            (Some((Role::Backup, true)), "1. VIP: add 192.0.2.254 to lo (scope host)\n"),
            (Some((Role::Master, false)), ""),
            (Some((Role::Backup, false)), ""),
            (None, ""),
        ] {
            let mut world = world(Fence::Marks, &[Role::Backup]);
            world.seen.vips = [(ip(VIP), Vec::new()), (old.address, vec![old.clone()])].into();
            group(&mut world).vips.insert((old.address, "eth0".into()));
            group(&mut world).role = role;
            let plan = restoration(&world.config, &world.memory.state, &world.seen).unwrap();
            assert_eq!(plan.to_string(), expected, "{role:?}");
        }
    }

    #[test]
    fn a_role_that_was_not_reached_is_remembered() {
        use VipOwner::{Keepalived, Node};
        let roles = [Some((Role::Master, false)), Some((Role::Backup, false))];
        let [master, backup] = roles;
        for (role, owner, before, expected) in [
            (Role::Backup, Node, Some((Role::Master, true)), backup),
            (Role::Backup, Node, Some((Role::Backup, true)), backup),
            (Role::Backup, Node, None, backup),
            (Role::Backup, Node, backup, None),
            (Role::Backup, Keepalived, Some((Role::Master, true)), backup),
            // keepalived has moved its VIP.
            (Role::Master, Keepalived, Some((Role::Backup, true)), master),
            (Role::Master, Keepalived, master, None),
            (Role::Master, Node, Some((Role::Backup, true)), None),
        ] {
            let mut world = World::new(Config { vip_owner: owner, ..config(Fence::Marks) });
            assert_eq!(unreached(&world.config, &world.memory.state, role), None);
            group(&mut world).role = before;
            let after = unreached(&world.config, &world.memory.state, role);
            let expected = expected.map(|expected| {
                let mut state = world.memory.state.clone();
                state.group_mut("").role = Some(expected);
                state
            });
            assert_eq!(after, expected, "{role} {owner:?} {before:?}");
        }
    }

    #[test]
    fn a_closed_node_schedules_no_new_connections_of_its_vips() {
        let world = world(Fence::Marks, &[Role::Backup]);
        let values = world.config.marks.values;
        let rule = |interface: &str, vip: &str, packets, mark| Rule {
            interface: interface.into(),
            vip: ip(vip),
            packets,
            mark,
        };
        let from = || Packets::From(Mac([2, 0, 0, 0, 0, 2]));
        let rules =
            [rule("eth0", VIP, from(), values.director(0)), rule("eth1", "192.0.2.253", from(), values.local())];
        let opening = rule("eth0", VIP, Packets::Opening, values.local());
        let expected = rules.iter().cloned().chain([opening]).collect();
        assert_eq!(closed(&world.config, &rules.into()), expected);
    }

    #[test]
    fn what_is_remembered_while_a_role_is_under_way_covers_what_it_may_have_changed() {
        let mut world = world(Fence::Marks, &[Role::Backup]);
        world.config.fence = Fence::Clear;
        world.config.vips = vec![ip("192.0.2.253")];
        world.config.services = Some(SERVICES.replace(VIP, "192.0.2.253").parse().unwrap());
        world.seen.vips.insert(ip("192.0.2.253"), Vec::new());
        let plan = world.plan(Role::Fault).unwrap();
        let (during, after) = (plan.during.group(""), plan.after.group(""));
        let [old, new] = [VIP, "192.0.2.253"].map(|vip| (ip(vip), "eth0".to_owned()));
        assert_eq!((during.role, after.role), (Some((Role::Fault, false)), Some((Role::Fault, true))));
        assert_eq!((during.fence, after.fence), (Some(Fence::Marks), Some(Fence::Clear)));
        assert_eq!((during.vips, after.vips), ([old, new.clone()].into(), [new].into()));
        assert_eq!((during.held, after.held), (true, true));
        let loaded = [during.loaded, after.loaded].map(|id| id.unwrap().to_string());
        assert_eq!(loaded, ["tcp 192.0.2.254:80", "tcp 192.0.2.253:80"]);
        assert_eq!((plan.during.marks.is_some(), plan.after.marks), (true, None));
        // A first role remembers what it is about to place.
        let first = World::new(config(Fence::Clear)).plan(Role::Backup).unwrap();
        assert!(first.during.group("").held && !first.during.group("").vips.is_empty());
        assert!(first.during.group("").loaded.is_some());
    }

    #[test]
    fn a_node_that_has_lost_its_address_can_still_let_go() {
        let lose = |mut world: World| {
            world.seen.own.clear();
            world.seen.addresses.clear();
            world
        };
        let lost = lose(world(Fence::Marks, &[Role::Backup]));
        assert!(lost.plan(Role::Backup).unwrap().first_change().is_none());
        assert!(lost.plan(Role::Fault).unwrap().first_change().is_none());
        let error = |world: &World, role| world.plan(role).unwrap_err().to_string();
        assert!(error(&lost, Role::Master).contains("no IPv4 address of its own"));
        assert!(error(&lose(world(Fence::Marks, &[])), Role::Backup).contains("no IPv4 address of its own"));
    }

    #[test]
    fn a_vip_in_another_place_is_refused_unless_this_node_has_placed_it() {
        use VipOwner::{Keepalived, Node};
        let foreign_prefix = |interface: &str| AssignedAddress { prefix: 24, ..located(VIP, interface, Scope::Global) };
        let placed = |interface: &str| located(VIP, interface, Scope::Global);
        for (owner, found, interface_before, refused) in [
            (Node, placed("eth0"), "", false),
            (Node, located(VIP, "lo", Scope::Host), "", false),
            (Node, placed("eth1"), "", true),
            (Node, placed("eth1"), "eth1", false),
            (Node, placed("eth1"), "eth2", true),
            (Node, foreign_prefix("eth0"), "", true),
            (Node, foreign_prefix("eth1"), "eth1", true),
            (Node, foreign_prefix("lo"), "", true),
            (Keepalived, placed("eth0"), "", false),
            (Keepalived, foreign_prefix("eth0"), "", false),
            (Keepalived, foreign_prefix("lo"), "", true),
            (Keepalived, placed("eth1"), "eth1", true),
        ] {
            let mut world = World::new(Config { vip_owner: owner, ..config(Fence::Marks) });
            group(&mut world).vips = [(ip(VIP), interface_before.to_owned())].into();
            let text = format!("{owner:?} {found} {interface_before}");
            world.seen.vips = [(ip(VIP), vec![found])].into();
            let result = refuse_foreign_vips(&world.config, &world.memory.state, &world.seen);
            assert_eq!(result.is_err(), refused, "{text}");
        }
    }

    #[test]
    fn sync_daemons_of_another_program_are_refused_where_marks_need_the_nodes_own() {
        for (fence, syncs, id, refused) in [
            (Fence::Marks, false, 9, true),
            (Fence::Marks, true, 9, false),
            (Fence::Clear, false, 9, false),
            (Fence::Clear, true, 9, false),
            (Fence::Marks, false, 254, false),
        ] {
            let mut world = World::new(config(fence));
            world.memory.state.syncs = syncs;
            let daemon = SyncDaemon { sync_id: id, ..world.config.sync.daemon(SyncRole::Backup) };
            world.seen.daemons.insert(SyncRole::Backup, Some(daemon));
            let result = world.plan(Role::Backup);
            assert_eq!(result.is_err(), refused, "{fence} {syncs} {id}");
            // Fence clear leaves them alone, until they are its own.
            let starts = result.map(|plan| plan.to_string().contains("--start-daemon backup")).unwrap_or_default();
            assert_eq!(starts, syncs, "{fence} {syncs} {id}");
        }
    }

    #[test]
    fn tables_are_recorded_anew_where_they_are_of_a_group_of_before() {
        let steps = |world: &World, role| world.plan(role).unwrap().to_string();
        let mut marks = world(Fence::Marks, &[Role::Backup]);
        assert_eq!(steps(&marks, Role::Backup), "");
        marks.memory.inherited = true;
        assert!(steps(&marks, Role::Backup).contains("record: 1 service loaded\n"));
        let changes: [Change; 2] = [|world| world.memory.inherited = true, |world| group(world).held = false];
        for change in changes {
            let mut clear = world(Fence::Clear, &[Role::Backup]);
            assert_eq!(steps(&clear, Role::Backup), "");
            change(&mut clear);
            assert!(steps(&clear, Role::Backup).starts_with("1. record: 1 service kept for promotion\n"));
            assert!(!steps(&clear, Role::Master).contains("kept for promotion"));
        }
    }

    #[test]
    fn troubles_say_what_is_wrong_with_which_node() {
        let (peer, gateway, mac) = (ip("192.0.2.12"), ip("192.0.2.1"), Mac([2, 0, 0, 0, 0, 2]));
        for (trouble, text) in [
            (Trouble::Unknown { peers: vec![peer, gateway] }, "the MAC address of 192.0.2.12, 192.0.2.1 is unknown: "),
            (
                Trouble::Gateway { peer, mac, gateway: peer },
                "192.0.2.12 (02:00:00:00:00:02) is a gateway of this node: ",
            ),
            (
                Trouble::Gateway { peer, mac, gateway },
                "192.0.2.12 has the MAC address of the gateway 192.0.2.1 (02:00:00:00:00:02): ",
            ),
        ] {
            assert!(trouble.to_string().starts_with(text), "{trouble}");
        }
    }

    /// A peer without a MAC address that can be used is unknown, unless it is a gateway: that is
    /// another trouble. One that is no destination any more is none.
    #[test]
    fn peers_are_the_servers_with_the_mac_addresses_that_are_theirs_alone() {
        let [server, gone, gateway] = ["192.0.2.12", "192.0.2.77", "192.0.2.1"].map(ip);
        let mac = |last| Mac([2, 0, 0, 0, 0, last]);
        let mut world = World::new(config(Fence::Marks));
        let found = |world: &World| {
            let peers = peers(&world.config, &world.memory.state, &world.seen, &world.seen.table);
            let kinds = |trouble: &Trouble| format!("{trouble:?}").split([' ', '{']).next().unwrap().to_owned();
            let troubles = judge(&world.config, &world.memory, &world.seen, &[], |_| Vec::new()).troubles;
            (peers, troubles.iter().map(kinds).collect::<Vec<_>>().join(" "))
        };
        let all = |macs: &[u8]| BTreeMap::from([(server, macs.iter().map(|last| mac(*last)).collect::<BTreeSet<_>>())]);
        world.memory.state.peers = [(server, [mac(3)].into()), (gone, [mac(7)].into())].into();
        world.config.marks.macs = [(server, [mac(4)].into())].into();
        assert_eq!(found(&world), (all(&[2, 3, 4]), String::new()));
        // Of this node, or of a gateway.
        world.seen.link.own_macs = [mac(3)].into();
        assert_eq!(found(&world), (all(&[2, 4]), String::new()));
        world.seen.link.gateways = [(mac(2), gateway)].into();
        assert_eq!(found(&world), (all(&[4]), "Gateway".into()));
        world.config.marks.macs.clear();
        assert_eq!(found(&world), (all(&[]), "Gateway".into()));
        world.seen.link = Default::default();
        world.memory.state.peers.clear();
        assert_eq!(found(&world), (all(&[]), "Unknown".into()));
        world.seen.link.behind = [(server, gateway)].into();
        assert_eq!(found(&world), (BTreeMap::new(), "Unreached(Unreached".into()));
        // With several groups, and where others load the services, those of before are kept.
        world.seen.link = Default::default();
        world.memory.state.peers =
            [(gone, [mac(7)].into()), (ip("127.0.0.1"), BTreeSet::new()), (ip("192.0.2.11"), BTreeSet::new())].into();
        let remembered = BTreeMap::from([(gone, [mac(7)].into())]);
        world.config.groups.insert("mail".into());
        assert_eq!(found(&world), (remembered.clone(), "Unknown".into()));
        world.config.groups.remove("mail");
        world.config.services = None;
        assert_eq!(found(&world), (remembered, String::new()));
        world.config.fence = Fence::Clear;
        assert_eq!(found(&world).1, "");
    }

    /// The mark that all groups share is this group's where it has a VIP of the family, or where no
    /// other group has.
    #[test]
    fn a_group_decides_about_its_own_mark_and_the_shared_one() {
        let mut world = world(Fence::Marks, &[Role::Backup]);
        let (values, earlier) = (world.config.marks.values, fence::MarkValues::new(7).unwrap());
        world.memory.state.marks = Some(earlier);
        world.config.groups = [String::new(), "mail".to_owned()].into();
        for (other_vip, of_shared) in [("2001:db8::fd", [true, false]), ("192.0.2.253", [true, true])] {
            let vips = [(ip(other_vip), "eth0".to_owned())].into();
            let mail = Group { slot: 1, role: Some((Role::Backup, true)), vips, ..Group::default() };
            world.memory.state.groups.insert("mail".into(), mail);
            let case = Case::new(&world.config, Role::Backup, Apply::Changes, &world.memory, &world.seen);
            for (mark, own) in [
                (values.local(), of_shared),
                (values.director(0), [true, true]),
                (values.director(1), [false, false]),
                (earlier.local(), [true, true]),
                (NonZeroU32::MIN, [false, false]),
            ] {
                let id = |family| ServiceId::Fwmark { mark, family };
                let found = [ipvs::Family::V4, ipvs::Family::V6].map(|family| case.is_own_mark(&id(family)));
                assert_eq!(found, own, "{mark} beside {other_vip}");
            }
            assert!(!case.is_own_mark(&"tcp 192.0.2.254:80".parse().unwrap()));
        }
    }

    #[test]
    fn a_look_in_brief_reads_the_services_of_the_marks_and_one_that_was_loaded() {
        let mut world = world(Fence::Marks, &[Role::Backup]);
        world.config.vips.push(ip("2001:db8::fe"));
        group(&mut world).slot = 1;
        let names: Vec<String> =
            brief_services(&world.config, &world.memory.state).iter().map(ServiceId::to_string).collect();
        assert_eq!(
            names,
            [
                "fwmark 1280725760",
                "fwmark 1280726015",
                "fwmark 1280725762",
                "fwmark 1280725760 ipv6",
                "fwmark 1280726015 ipv6",
                "fwmark 1280725762 ipv6",
                "tcp 192.0.2.254:80"
            ]
        );
    }

    #[test]
    fn a_promotion_changes_no_destination() {
        let mut world = World::new(config(Fence::Marks));
        let first = world.take_on(Role::Backup);
        assert!(first.contains("-a -t 192.0.2.254:80 -r 192.0.2.12:80 -g -w 1"), "{first}");
        assert_eq!(
            world.take_on(Role::Master),
            "\
1. record: master is under way
2. VIP: add 192.0.2.254 to eth0
3. VIP: announce 192.0.2.254 on eth0
4. IPVS: 1 change
     --start-daemon master --mcast-interface eth0 --syncid 254 --sync-maxlen 1
5. marks: 1 change
     remove mark 1280725760 on eth0 for 192.0.2.254: TCP with SYN
6. record: master is reached
"
        );
        assert_eq!(
            world.take_on(Role::Backup),
            "\
1. record: backup is under way
2. VIP: remove 192.0.2.254 from eth0
3. marks: 1 change
     add mark 1280725760 on eth0 for 192.0.2.254: TCP with SYN
4. sync: send all connections on eth0 (id 254)
5. IPVS: 1 change
     --stop-daemon master
6. record: backup is reached
"
        );
    }

    #[test]
    fn what_editors_change_stays_through_all_roles() {
        let mut world = World::new(config(Fence::Marks));
        world.take_on(Role::Backup);
        world.edit("192.0.2.12:80 -g -w 1", "192.0.2.12:80 -g -w 0");
        let edited = world.services();
        for role in [Role::Master, Role::Backup, Role::Fault, Role::Master, Role::Stop, Role::Backup] {
            world.take_on(role);
            assert_eq!(world.services(), edited, "{role}");
        }
        // A flush, and a configuration that was changed.
        world.seen.table = Table::new();
        world.take_on(Role::Master);
        assert_eq!(world.services(), SERVICES);
        world.config.services =
            Some(SERVICES.replace("192.0.2.12:80 -g -w 1", "192.0.2.12:80 -g -w 7").parse().unwrap());
        world.take_on(Role::Backup);
        assert!(world.services().contains("192.0.2.12:80 -g -w 7"));
    }

    #[test]
    fn clear_keeps_the_table_of_a_backup() {
        let mut world = World::new(config(Fence::Clear));
        world.take_on(Role::Backup);
        assert_eq!((world.services(), world.memory.held.to_string()), (String::new(), SERVICES.to_owned()));
        world.take_on(Role::Master);
        assert_eq!(world.services(), SERVICES);
        world.edit("192.0.2.12:80 -g -w 1", "192.0.2.12:80 -g -w 0");
        let edited = world.services();
        for role in [Role::Backup, Role::Fault, Role::Master, Role::Backup, Role::Master] {
            world.take_on(role);
            assert_eq!(world.services(), if role == Role::Master { edited.as_str() } else { "" }, "{role}");
        }
        assert!(world.seen.marks.rules.is_empty());
        // To the other fence, and back.
        world.config.fence = Fence::Marks;
        world.take_on(Role::Backup);
        assert_eq!(world.services(), edited);
        world.config.fence = Fence::Clear;
        world.take_on(Role::Backup);
        assert!(world.seen.table.is_empty() && world.seen.marks.rules.is_empty());
    }

    #[test]
    fn release_gives_everything_back() {
        for fence in Fence::ALL {
            for roles in [&[Role::Backup][..], &[Role::Master], &[Role::Backup, Role::Master, Role::Fault]] {
                let mut world = World::new(config(fence));
                let before = world.seen.clone();
                roles.iter().for_each(|role| drop(world.take_on(*role)));
                let plan = for_release(&world.config, &world.memory, &world.seen).unwrap();
                plan.steps().iter().for_each(|step| world.act(step, &plan));
                let (now, told) = (&world.seen, plan.to_string());
                assert_eq!((&now.vips, &now.arp, &now.sysctls), (&before.vips, &before.arp, &before.sysctls), "{told}");
                assert_eq!(
                    (&now.table, &now.daemons, &now.marks),
                    (&before.table, &before.daemons, &before.marks),
                    "{told}"
                );
                assert_eq!(world.memory.state, State::default());
            }
        }
    }

    #[test]
    fn a_vip_that_was_on_lo_before_is_there_after() {
        for (loopback, last) in
            [(Loopback::Always, Role::Backup), (Loopback::Always, Role::Master), (Loopback::Backup, Role::Master)]
        {
            let mut world = World::new(Config { loopback, ..config(Fence::Marks) });
            world.seen.vips.insert(ip(VIP), vec![located(VIP, "lo", Scope::Host)]);
            let before = world.seen.clone();
            [Role::Backup, last].into_iter().for_each(|role| drop(world.take_on(role)));
            let plan = for_release(&world.config, &world.memory, &world.seen).unwrap();
            plan.steps().iter().for_each(|step| world.act(step, &plan));
            assert_eq!((&world.seen.vips, &world.seen.arp), (&before.vips, &before.arp), "{plan}");
        }
        // One that this node has placed, and whose state is lost, is its own.
        let mut world = World::new(config(Fence::Marks));
        world.seen.vips.insert(ip(VIP), vec![AssignedAddress { mark: Some(MARK), ..located(VIP, "lo", Scope::Host) }]);
        world.take_on(Role::Backup);
        let plan = for_release(&world.config, &world.memory, &world.seen).unwrap().to_string();
        assert!(plan.contains("remove 192.0.2.254 from lo"), "{plan}");
    }

    #[test]
    fn groups_share_what_the_last_one_gives_back() {
        let of = |name: &str, vip: &str| Config {
            group: name.into(),
            groups: ["web".to_owned(), "mail".to_owned()].into(),
            ..Config { services: Some(SERVICES.replace(VIP, vip).parse().unwrap()), ..Config::new("eth0", [ip(vip)]) }
        };
        let (web, mail) = (of("web", VIP), Config { sync: of("web", VIP).sync, ..of("mail", "192.0.2.253") });
        let mut world = World::new(web.clone());
        let before = world.seen.clone();
        let mut loaded = BTreeMap::new();
        let mut enter = |world: &mut World, config: &Config| {
            loaded.insert(world.config.group.clone(), world.memory.loaded.clone());
            world.memory.loaded = loaded.get(&config.group).cloned().unwrap_or_default();
            world.config = config.clone();
            world.seen.vips.entry(config.vips[0]).or_default();
        };
        world.take_on(Role::Master);
        enter(&mut world, &mail);
        world.take_on(Role::Backup);
        let marks: BTreeSet<u32> = world.seen.marks.rules.iter().map(|rule| rule.mark.get()).collect();
        assert_eq!(marks.len(), 3, "{marks:?}");
        assert!(world.seen.daemons[&SyncRole::Master].is_some());
        enter(&mut world, &web);
        assert!(world.plan(Role::Master).unwrap().is_empty());
        // The other group is the one that directs.
        enter(&mut world, &mail);
        let promoted = world.take_on(Role::Master);
        assert!(!promoted.contains("daemon"), "{promoted}");
        enter(&mut world, &web);
        world.take_on(Role::Backup);
        assert!(world.seen.daemons[&SyncRole::Master].is_some());
        for (config, last) in [(&mail, false), (&web, true)] {
            enter(&mut world, config);
            let plan = for_release(&world.config, &world.memory, &world.seen).unwrap();
            plan.steps().iter().for_each(|step| world.act(step, &plan));
            assert_eq!(world.seen.table.is_empty(), last, "{plan}");
            assert_eq!(world.seen.sysctls == before.sysctls, last, "{plan}");
            let vip = config.vips[0];
            assert!(
                world.seen.vips[&vip].is_empty() && world.seen.marks.rules.iter().all(|rule| rule.vip != vip),
                "{plan}"
            );
            assert!(last || !world.seen.marks.rules.is_empty());
        }
        assert_eq!((world.seen.marks, world.seen.arp), (before.marks, before.arp));
    }

    #[test]
    fn filters_of_an_earlier_version_are_replaced() {
        let is_needed = |rule: &&Rule| rule.packets != Packets::Opening;
        for role in [Role::Backup, Role::Master] {
            let groups = [String::new(), "mail".to_owned()].into();
            let mut world = World::new(Config { groups, ..config(Fence::Marks) });
            world.take_on(Role::Backup);
            // One of another group of the node's, whose role does not change.
            let mut other = world.seen.marks.rules.first().unwrap().clone();
            other.vip = ip("192.0.2.253");
            let of_other = Group { vips: [(other.vip, "eth0".to_owned())].into(), ..world.memory.state.group("") };
            world.memory.state.groups.insert("mail".into(), of_other);
            world.seen.vips.insert(other.vip, Vec::new());
            let mut rules = std::mem::take(&mut world.seen.marks.rules);
            rules.insert(other.clone());
            world.seen.marks.outdated = rules.clone();
            assert!(in_brief(&world.config, Role::Master, &world.memory.state, &world.seen).is_none());
            let plan = world.plan(role).unwrap();
            for step in plan.steps() {
                world.act(step, &plan);
                let there = |rule: &Rule| {
                    let marks = &world.seen.marks;
                    marks.rules.contains(rule) || marks.outdated.contains(rule)
                };
                assert!(rules.iter().filter(is_needed).all(there), "{plan}");
            }
            let wanted = rules.iter().filter(|rule| role == Role::Backup || is_needed(rule));
            assert_eq!(world.seen.marks.rules, wanted.cloned().collect(), "{plan}");
            assert!(world.seen.marks.outdated.is_empty(), "{plan}");
        }
    }

    #[test]
    fn the_state_of_version_1_is_taken_over() {
        let mut world = World::new(config(Fence::Marks));
        let text = format!(
            "lvs-dr state 1\nrole backup reached\nfence quiesce\nsync on\nvip {VIP} eth0\ntable held\n{SERVICES}end\n"
        );
        world.memory.state = State::parse(&text).unwrap();
        world.memory.legacy = SERVICES.parse().unwrap();
        world.seen.table = SERVICES.replace("192.0.2.12:80 -g -w 1", "192.0.2.12:80 -g -w 0").parse().unwrap();
        let plan = world.plan(Role::Backup).unwrap();
        // Killed behind any step, it comes to the same.
        for done in 0..=plan.steps().len() {
            let mut world =
                World { config: world.config.clone(), memory: world.memory.clone(), seen: world.seen.clone() };
            plan.steps()[..done].iter().for_each(|step| world.act(step, &plan));
            world.take_on(Role::Backup);
            assert_eq!(world.services(), SERVICES, "killed behind step {done}");
            assert_eq!((world.memory.state.legacy, world.memory.legacy.is_empty()), (None, true));
        }
    }

    #[test]
    fn packets_of_unknown_connections_follow_the_director() {
        let mut world = World::new(config(Fence::Marks));
        world.take_on(Role::Backup);
        let point = |world: &mut World, director: Option<&str>| {
            world.memory.state.groups.get_mut("").unwrap().director = director.map(ip);
            let plans = pointing(&world.config, &world.memory.state, &world.seen.table);
            plans.iter().flat_map(ipvs::Plan::changes).for_each(|change| world.change(change));
            assert!(world.plan(Role::Backup).unwrap().is_empty());
            let service = world.seen.table.service(&"fwmark 1280725761".parse().unwrap()).unwrap();
            let chosen: Vec<String> =
                service.destinations().filter(|d| d.weight > 0).map(|d| d.address.to_string()).collect();
            chosen.join(" ")
        };
        assert_eq!(point(&mut world, Some("192.0.2.12")), "192.0.2.12:1");
        assert_eq!(point(&mut world, Some("192.0.2.99")), "192.0.2.11:1");
        assert_eq!(point(&mut world, Some("192.0.2.12")), "192.0.2.12:1");
        assert_eq!(point(&mut world, None), "192.0.2.11:1");
        // A server that serves nothing here is not this node, and the marks of other groups are
        // those groups'.
        let base = world.config.marks.values.base().get();
        let table = |local: &str, director: &str, of_other: &str| {
            let service = |mark: u32, weights: &str| {
                let servers = ["192.0.2.11", "192.0.2.12"].iter().zip(weights.split(' '));
                let servers = servers.map(|(server, weight)| format!("-a -f {mark} -r {server}:1 -g -w {weight}\n"));
                format!("-A -f {mark} -s rr\n{}", servers.collect::<String>())
            };
            let text = service(base, local) + &service(base + 1, director) + &service(base + 2, of_other);
            text.parse::<Table>().unwrap()
        };
        // Nor does a director take packets that is no destination of the service.
        world.memory.state.peers.insert(ip("192.0.2.99"), [Mac([2, 0, 0, 0, 0, 9])].into());
        group(&mut world).director = Some(ip("192.0.2.99"));
        let mut pointed = World { seen: world.seen.clone(), memory: Memory::default(), config: world.config.clone() };
        pointed.seen.table = table("1 0", "0 1", "0 1");
        let plans = pointing(&world.config, &world.memory.state, &pointed.seen.table);
        assert_eq!(plans.iter().map(|plan| plan.changes().len()).collect::<Vec<_>>(), [1, 1]);
        plans.iter().flat_map(ipvs::Plan::changes).for_each(|change| pointed.change(change));
        assert_eq!(pointed.seen.table, table("1 0", "1 0", "0 1"));
        assert!(pointing(&world.config, &world.memory.state, &pointed.seen.table).is_empty());
    }

    #[test]
    fn sync_persist_mode_depends_on_persistent_services() {
        let mut world = World::new(config(Fence::Marks));
        let mode = |world: &World| world.seen.sysctls["sync_persist_mode"].clone().unwrap();
        world.take_on(Role::Backup);
        assert_eq!(mode(&world), "1");
        // A promotion in brief does not look at the table.
        assert!(in_brief(&world.config, Role::Master, &world.memory.state, &world.seen).is_some());
        world.take_on(Role::Master);
        assert_eq!(mode(&world), "1");
        // A persistent service of another program, and then none again.
        let other = "-A -t 198.51.100.1:80 -s rr -p 300\n".parse::<Table>().unwrap();
        let service = other.services().next().unwrap().service.clone();
        for role in [Role::Master, Role::Backup, Role::Master] {
            world.seen.table.insert(service.clone());
            world.take_on(role);
            assert_eq!(mode(&world), "0", "{role}");
        }
        world.seen.table.retain(|id| *id != service.id);
        world.take_on(Role::Backup);
        assert_eq!(mode(&world), "1");
    }

    #[test]
    fn what_is_not_ours_is_refused() {
        let refused = |change: &dyn Fn(&mut World)| {
            let mut world = World::new(config(Fence::Marks));
            change(&mut world);
            world.plan(Role::Backup).unwrap_err().to_string()
        };
        assert!(refused(&|world| world.seen.unsupported = Some("no cls_bpf".into())).contains("no cls_bpf"));
        let used = refused(&|world| world.seen.mark_uses = vec!["ip rule 7".into()]);
        assert!(used.contains("ip rule 7") && used.contains("[marks] base"), "{used}");
        let foreign = |world: &mut World| {
            let daemon = SyncDaemon::new(SyncRole::Backup, "eth0", 9);
            world.seen.daemons.insert(SyncRole::Backup, Some(daemon));
        };
        assert!(refused(&foreign).contains("lvs_sync_daemon"));
        // Fence clear leaves that daemon alone.
        let mut world = World::new(config(Fence::Clear));
        foreign(&mut world);
        let plan = world.take_on(Role::Master);
        assert!(!plan.contains("daemon"), "{plan}");
    }
}
