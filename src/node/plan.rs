//! Decides what a node has to do: from what is seen, what is remembered and what is wanted. Pure: nothing here touches the kernel.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use super::config::{Config, Fence, Loopback, Role, VipOwner};
use super::fence;
use super::state::State;
use crate::arp::{self, ArpTarget};
use crate::error::{Error, Result};
use crate::ipvs::{self, ServiceId, SyncDaemon, SyncRole, Table};
use crate::vip::{Located, Placement};

/// What is found in the kernel.
#[derive(Debug, Clone)]
pub(super) struct Observation {
    /// Where each VIP sits: the configured ones, and those placed earlier.
    pub(super) vips: BTreeMap<IpAddr, Vec<Located>>,
    /// The settings of each target that is configured or was changed earlier.
    pub(super) arp: Vec<(ArpTarget, arp::Settings)>,
    /// The settings of `all`, and whether `lo` routes its addresses outside (`route_localnet`).
    pub(super) arp_all: arp::Settings,
    pub(super) route_localnet: bool,
    /// The whole table, and the sync daemons.
    pub(super) table: Table,
    /// The node's own addresses.
    pub(super) own: BTreeSet<IpAddr>,
    /// The sysctls of IPVS that the fence needs, and those that were changed earlier. `None`: this kernel has no such setting.
    pub(super) sysctls: BTreeMap<String, Option<String>>,
}

/// One thing to do. Each can be done twice.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Step {
    /// Write down what is about to happen, or has.
    #[non_exhaustive]
    Record {
        /// The role.
        role: Role,
        /// Whether it is reached, or under way.
        reached: bool,
        /// How many services are kept, to be restored later.
        services: usize,
    },
    /// Change ARP settings.
    Arp(arp::Change),
    /// Give ARP settings back.
    GiveBackArp(arp::Change),
    /// Set a sysctl of IPVS.
    #[non_exhaustive]
    Sysctl {
        /// Its name, behind `net.ipv4.vs.`.
        name: String,
        /// Its value.
        value: String,
        /// Whether it is the value that was found before this node changed it.
        back: bool,
    },
    /// Let time pass, unless another role is asked for.
    Wait(Wait, Duration),
    /// Add a VIP, or bring it into the right form.
    AddVip(IpAddr, Placement),
    /// Remove a VIP.
    RemoveVip(IpAddr, Placement),
    /// Tell the neighbours where a VIP is now.
    Announce(IpAddr, String),
    /// Change the table.
    Table(ipvs::Plan),
    /// Forget what is remembered.
    Forget,
}

/// What a [`Step::Wait`] waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Wait {
    /// That no more packets come to a former director.
    Drain,
    /// That the old director has its fence.
    Settle,
}

impl Step {
    /// Whether the kernel shows afterwards that it was done.
    fn leaves_a_trace(&self) -> bool {
        !matches!(self, Step::Record { .. } | Step::Announce(..) | Step::Wait(..) | Step::Forget)
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Step::Record { role, reached: false, services } => {
                write!(f, "record: {role} is under way, {services} services are kept")
            }
            Step::Record { role, reached: true, .. } => write!(f, "record: {role} is reached"),
            Step::Arp(change) => write!(f, "ARP: {change}"),
            Step::GiveBackArp(change) => write!(f, "ARP: {} {} again", change.target, change.before),
            Step::Sysctl { name, value, back: false } => write!(f, "sysctl: net.ipv4.vs.{name} = {value}"),
            Step::Sysctl { name, value, back: true } => write!(f, "sysctl: net.ipv4.vs.{name} = {value} again"),
            Step::Wait(Wait::Drain, time) => write!(f, "go on forwarding for up to {time:?}"),
            Step::Wait(Wait::Settle, time) => write!(f, "give the old director {time:?} to be fenced"),
            Step::AddVip(vip, placement) => write!(f, "VIP: add {vip} to {placement}"),
            Step::RemoveVip(vip, placement) => write!(f, "VIP: remove {vip} from {placement}"),
            Step::Announce(vip, interface) => write!(f, "VIP: announce {vip} on {interface}"),
            Step::Table(plan) => {
                let count = plan.changes().len();
                write!(f, "IPVS: {count} change{}", if count == 1 { "" } else { "s" })?;
                plan.changes().iter().try_for_each(|change| write!(f, "\n  {change}"))
            }
            Step::Forget => write!(f, "record: forget this node"),
        }
    }
}

/// What a node has to do for a role, in order. Printed, a line for each step.
#[derive(Debug, Clone)]
pub struct Plan {
    pub(super) steps: Vec<Step>,
    pub(super) warnings: Vec<String>,
    pub(super) during: State,
    pub(super) after: State,
}

impl Plan {
    /// The steps.
    pub fn steps(&self) -> &[Step] {
        &self.steps
    }

    /// Whether nothing is to be done.
    pub fn is_empty(&self) -> bool {
        self.steps.is_empty()
    }

    /// What the plan cannot mend, and an operator should know.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// The same, with what was done before it.
    pub(super) fn preceded_by(self, steps: Vec<Step>) -> Self {
        Plan { steps: steps.into_iter().chain(self.steps).collect(), ..self }
    }

    /// The first step that would show in the kernel.
    pub(super) fn first_change(&self) -> Option<&Step> {
        self.steps.iter().find(|step| step.leaves_a_trace())
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.warnings.iter().try_for_each(|warning| writeln!(f, "warning: {warning}"))?;
        for (number, step) in (1..).zip(&self.steps) {
            writeln!(f, "{number}. {}", step.to_string().replace('\n', "\n   "))?;
        }
        Ok(())
    }
}

/// What has to be done for `role`.
///
/// The order is what keeps sessions. A director has its table before it has the VIP, and has the VIP on the interface before it leaves
/// `lo`. A backup takes the VIP off the interface before it loses its table, and has it on `lo` before that. Nothing is put on
/// `lo` before ARP is told to keep quiet about it.
pub(super) fn for_role(config: &Config, role: Role, state: &State, seen: &Observation) -> Result<Plan> {
    refuse_foreign_vips(config, state, seen)?;
    let kept = kept_table(config, state, seen);
    // Refused now rather than when it cannot be restored.
    kept.check()?;
    let mine = seen.table.filtered(|id| is_ours(config, state, id));
    let interface = Placement::Interface(config.interface.clone());
    let mut warnings = Vec::new();

    let arp = arp_steps(config, seen);
    warnings.extend(arp_warning(config, seen));
    let add = |placement: &Placement| -> Vec<Step> {
        let missing = config.vips.iter().filter(|vip| !sits(seen, **vip, placement));
        missing.map(|vip| Step::AddVip(*vip, placement.clone())).collect()
    };
    let remove = |placement: &Placement, vips: &[IpAddr]| -> Vec<Step> {
        let present = vips.iter().filter(|vip| found_on(seen, **vip, placement.interface()).next().is_some());
        present.map(|vip| Step::RemoveVip(*vip, placement.clone())).collect()
    };
    fence::check(config.fence, &kept)?;
    let mut wanted = fence::table(config, role, &kept, &seen.own);
    if state.syncs && !config.fence.syncs() {
        // Left from another fence.
        wanted.daemons = no_daemons();
    }
    refuse_foreign_daemons(config, state, &mine, &wanted)?;
    let change = |seen: &Table, wanted: &Table| {
        let plan = ipvs::Plan::between(seen, wanted);
        (!plan.is_empty()).then_some(Step::Table(plan))
    };

    let mut steps = arp;
    steps.extend(obsolete_arp(config, state, seen));
    steps.extend(sysctl_steps(config, state, seen));
    if role == Role::Master {
        // A quiesced table forwards what it has learned, and takes the new itself: its weights can wait until the old director is
        // fenced. Two directors with live tables would send new connections round in circles.
        let first = match config.fence {
            Fence::Quiesce => {
                let mut first = mine.clone();
                first.daemons.clone_from(&wanted.daemons);
                first
            }
            _ => wanted.clone(),
        };
        steps.extend(change(&mine, &first));
        if config.loopback == Loopback::Always {
            steps.extend(add(&Placement::Loopback));
        }
        if config.vip_owner == VipOwner::Node {
            let added = add(&interface);
            // Killed between adding and announcing, a node that is master already has still to announce.
            let announce = if state.role == Some((Role::Master, true)) {
                added
                    .iter()
                    .filter_map(|step| if let Step::AddVip(vip, _) = step { Some(*vip) } else { None })
                    .collect()
            } else {
                config.vips.clone()
            };
            steps.extend(added);
            if config.announcements > 0 {
                steps.extend(announce.into_iter().map(|vip| Step::Announce(vip, config.interface.clone())));
            }
        }
        if config.loopback == Loopback::Backup {
            // Never from its only place: keepalived may be late.
            let arrives = |vip: &IpAddr| {
                config.vip_owner == VipOwner::Node || found_on(seen, *vip, &config.interface).next().is_some()
            };
            let (there, missing): (Vec<IpAddr>, Vec<IpAddr>) = config.vips.iter().partition(|vip| arrives(vip));
            steps.extend(remove(&Placement::Loopback, &there));
            warnings.extend(missing.iter().map(|vip| {
                format!(
                    "{vip} is not on {} yet, where keepalived should have put it: it stays on lo until it is",
                    config.interface
                )
            }));
        }
        steps.extend(obsolete_vips(config, state, seen));
        if let Some(unfence) = change(&first, &wanted) {
            if state.role != Some((Role::Master, true)) && !config.settle.is_zero() {
                steps.push(Step::Wait(Wait::Settle, config.settle));
            }
            steps.push(unfence);
        }
    } else {
        steps.extend(add(&Placement::Loopback));
        if config.vip_owner == VipOwner::Node {
            steps.extend(remove(&interface, &config.vips));
        }
        steps.extend(obsolete_vips(config, state, seen));
        if let Some(fence) = change(&mine, &wanted) {
            // The kernel's switch keeps even known sessions from being forwarded, and packets for them are still on their way.
            if config.fence == Fence::BackupOnly
                && matches!(state.role, Some((Role::Master, _)))
                && !config.drain.is_zero()
            {
                steps.push(Step::Wait(Wait::Drain, config.drain));
            }
            steps.push(fence);
        }
    }

    let services = kept.len();
    let mut remembered = kept;
    take_in(&mut remembered, &set_aside(config, state, seen));
    // Services of an earlier configuration are known as the node's until they are gone.
    let mut during_table = remembered.clone();
    if config.services.is_some() {
        take_in(&mut during_table, &state.table);
    }
    let arp = remembered_arp(state, &steps);
    let during = State {
        role: Some((role, false)),
        arp,
        sysctls: remembered_sysctls(state, &steps, seen),
        syncs: state.syncs || config.fence.syncs(),
        vips: state
            .vips
            .iter()
            .cloned()
            .chain(config.vips.iter().map(|vip| (*vip, config.interface.clone())))
            .collect(),
        table: during_table,
        held: state.held || role != Role::Master,
    };
    let after = State {
        role: Some((role, true)),
        arp: during.arp.iter().filter(|change| !is_obsolete(config, change)).cloned().collect(),
        sysctls: still_needed(config, &during.sysctls),
        syncs: config.fence.syncs(),
        table: remembered,
        vips: config.vips.iter().map(|vip| (*vip, config.interface.clone())).collect(),
        held: role != Role::Master,
    };
    if !steps.is_empty() || after != *state {
        steps.insert(0, Step::Record { role, reached: false, services });
        steps.push(Step::Record { role, reached: true, services });
    }
    Ok(Plan { steps, warnings, during, after })
}

/// What has to be done to give everything back.
pub(super) fn for_release(config: &Config, state: &State, seen: &Observation) -> Result<Plan> {
    let mut steps = Vec::new();
    for (vip, interface) in &state.vips {
        let mut places = vec![Placement::Loopback];
        if config.vip_owner == VipOwner::Node {
            places.insert(0, Placement::Interface(interface.clone()));
        }
        // What somebody else has made of it since is theirs.
        let ours = |place: &Placement| found_on(seen, *vip, place.interface()).any(|located| !located.is_foreign());
        steps.extend(places.into_iter().filter(ours).map(|place| Step::RemoveVip(*vip, place)));
    }
    let (mine, mut wanted) = match &config.services {
        // It goes, as far as the node has loaded it.
        Some(_) => (seen.table.filtered(|id| state.table.service(id).is_some()), Table::new()),
        // It was found running, and is left running.
        None => {
            let mut kept = kept_table(config, state, seen);
            take_in(&mut kept, &set_aside(config, state, seen));
            (seen.table.filtered(|id| is_ours(config, state, id)), kept)
        }
    };
    if state.syncs {
        wanted.daemons = no_daemons();
    }
    let table = ipvs::Plan::between(&mine, &wanted);
    if !table.is_empty() {
        steps.push(Step::Table(table));
    }
    steps.extend(state.arp.iter().filter(|change| counts_still(change, seen)).cloned().map(Step::GiveBackArp));
    steps.extend(state.sysctls.iter().filter_map(|(name, values)| sysctl_back(name, values, seen)));
    if *state != State::default() {
        steps.push(Step::Forget);
    }
    Ok(Plan { steps, warnings: Vec::new(), during: state.clone(), after: State::default() })
}

/// A VIP on an interface that is not the node's, or in a form that is not a VIP's, belongs to somebody else.
fn refuse_foreign_vips(config: &Config, state: &State, seen: &Observation) -> Result<()> {
    for vip in &config.vips {
        for located in seen.vips.get(vip).into_iter().flatten() {
            let on_interface = located.interface == config.interface;
            // Placed by this node, when the configuration named another interface.
            let obsolete =
                config.vip_owner == VipOwner::Node && state.vips.contains(&(*vip, located.interface.clone()));
            if !on_interface && !obsolete && located.interface != Placement::Loopback.interface() {
                let reason =
                    format!("the VIP belongs on {} or lo: remove it there, or name that interface", config.interface);
                return Err(Error::Foreign { object: located.to_string(), reason });
            }
            // Whatever keepalived makes of its own VIP is right.
            if !(on_interface && config.vip_owner == VipOwner::Keepalived) {
                located.refuse_foreign()?;
            }
        }
    }
    Ok(())
}

fn found_on<'a>(seen: &'a Observation, vip: IpAddr, interface: &'a str) -> impl Iterator<Item = &'a Located> {
    seen.vips.get(&vip).into_iter().flatten().filter(move |located| located.interface == interface)
}

fn sits(seen: &Observation, vip: IpAddr, placement: &Placement) -> bool {
    found_on(seen, vip, placement.interface()).any(|located| located.fits(placement))
}

/// Which services are the node's: those of the configuration and those that it had from an earlier one, or, where none are
/// configured, those on its VIPs and all firewall marks.
fn is_ours(config: &Config, state: &State, id: &ServiceId) -> bool {
    match &config.services {
        Some(services) => services.service(id).is_some() || state.table.service(id).is_some(),
        None => id.address().is_none_or(|address| config.vips.contains(&address.ip())),
    }
}

/// The table that is the node's, whether it is in the kernel now or not.
///
/// Where none is configured it is the one that was found running. While it is held back, what is in the kernel is a part of it at most,
/// and an empty table never replaces it; what somebody has added meanwhile is taken in.
pub(super) fn kept_table(config: &Config, state: &State, seen: &Observation) -> Table {
    if let Some(services) = &config.services {
        return services.clone();
    }
    let mut live = seen.table.filtered(|id| is_ours(config, state, id));
    live.daemons.clear();
    if !state.held && !live.is_empty() {
        return live;
    }
    let mut kept = state.table.filtered(|id| is_ours(config, state, id));
    if config.fence == Fence::Quiesce {
        // A table that somebody has emptied altogether is not taken over: it may have been flushed by mistake.
        let reached = state.role.is_some_and(|(role, reached)| reached && role != Role::Master);
        return fence::taken_over(&kept, &live, &seen.own, reached && !live.is_empty());
    }
    take_in(&mut kept, &live);
    kept
}

/// What was kept for VIPs that are not configured any more, and that nobody has loaded since. It is not restored, but not forgotten
/// either: a VIP may be missing by mistake.
fn set_aside(config: &Config, state: &State, seen: &Observation) -> Table {
    state.table.filtered(|id| !is_ours(config, state, id) && seen.table.service(id).is_none())
}

/// Adds the services of `more` that `table` lacks.
fn take_in(table: &mut Table, more: &Table) {
    for content in more.services() {
        let id = content.service.id;
        if table.service(&id).is_none() {
            table.insert(content.service.clone());
            for destination in content.destinations() {
                // Its service was inserted just now.
                let _ = table.insert_destination(&id, destination.clone());
            }
        }
    }
}

fn no_daemons() -> BTreeMap<SyncRole, Option<SyncDaemon>> {
    [(SyncRole::Master, None), (SyncRole::Backup, None)].into()
}

/// A sync daemon that runs but is not this node's: keepalived starts one with `lvs_sync_daemon`.
fn refuse_foreign_daemons(config: &Config, state: &State, seen: &Table, wanted: &Table) -> Result<()> {
    if state.syncs || !config.fence.syncs() {
        return Ok(());
    }
    for daemon in seen.daemons.values().flatten() {
        let met =
            wanted.daemons.get(&daemon.role).and_then(Option::as_ref).is_some_and(|wanted| wanted.is_met_by(daemon));
        if !met {
            let reason = "it was not started by this node, which cares for it itself: take `lvs_sync_daemon` out of keepalived.conf, \
                          or stop it with `ipvsadm --stop-daemon`";
            return Err(Error::Foreign { object: daemon.to_string(), reason: reason.into() });
        }
    }
    Ok(())
}

/// Sysctls that the fence needs, and those that an earlier one needed.
fn sysctl_steps(config: &Config, state: &State, seen: &Observation) -> Vec<Step> {
    let needed = fence::sysctls(config.fence);
    let obsolete = state.sysctls.iter().filter(|(name, _)| needed.iter().all(|(needed, _)| needed != name));
    let mut steps: Vec<Step> = obsolete.filter_map(|(name, values)| sysctl_back(name, values, seen)).collect();
    for (name, value) in needed {
        if seen.sysctls.get(name).is_some_and(|now| now.as_ref() != Some(&value)) {
            steps.push(Step::Sysctl { name: name.to_owned(), value, back: false });
        }
    }
    steps
}

/// Where it still has the value that this node gave it.
fn sysctl_back(name: &str, (before, after): &(String, String), seen: &Observation) -> Option<Step> {
    let now = seen.sysctls.get(name)?.as_ref()?;
    (now == after && before != after).then(|| Step::Sysctl { name: name.to_owned(), value: before.clone(), back: true })
}

/// Each sysctl as it was before this node changed it for the first time, and as it is now.
fn remembered_sysctls(state: &State, steps: &[Step], seen: &Observation) -> BTreeMap<String, (String, String)> {
    let mut remembered = state.sysctls.clone();
    for step in steps {
        let Step::Sysctl { name, value, back: false } = step else { continue };
        let found = seen.sysctls.get(name).cloned().flatten().unwrap_or_default();
        remembered.entry(name.clone()).or_insert_with(|| (found, String::new())).1.clone_from(value);
    }
    remembered
}

fn still_needed(config: &Config, sysctls: &BTreeMap<String, (String, String)>) -> BTreeMap<String, (String, String)> {
    let needed = fence::sysctls(config.fence);
    let still = sysctls.iter().filter(|(name, _)| needed.iter().any(|(needed, _)| needed == name));
    still.map(|(name, values)| (name.clone(), values.clone())).collect()
}

fn arp_steps(config: &Config, seen: &Observation) -> Vec<Step> {
    let Some(wanted) = &config.arp else { return Vec::new() };
    let now = seen.arp.iter().find(|(target, now)| *target == wanted.target && *now != wanted.settings);
    now.map(|(target, now)| Step::Arp(arp::Change { target: target.clone(), before: *now, after: wanted.settings }))
        .into_iter()
        .collect()
}

/// Settings that an earlier configuration had changed elsewhere. Where none are configured now, they are left alone.
fn obsolete_arp(config: &Config, state: &State, seen: &Observation) -> Vec<Step> {
    let changes = state.arp.iter().filter(|change| is_obsolete(config, change) && counts_still(change, seen));
    changes.cloned().map(Step::GiveBackArp).collect()
}

fn is_obsolete(config: &Config, change: &arp::Change) -> bool {
    config.arp.as_ref().is_some_and(|wanted| wanted.target != change.target)
}

/// Whether a setting still has the value that this node gave it, and had another one before.
fn counts_still(change: &arp::Change, seen: &Observation) -> bool {
    let arp::Change { target, before, after } = change;
    let Some((_, now)) = seen.arp.iter().find(|(seen, _)| seen == target) else { return false };
    (now.ignore == after.ignore && now.ignore != before.ignore)
        || (now.announce == after.announce && now.announce != before.announce)
}

/// Whether ARP requests for a VIP on `lo` would be answered all the same, once the settings are made.
fn arp_warning(config: &Config, seen: &Observation) -> Option<String> {
    if !config.vips.iter().any(IpAddr::is_ipv4) {
        return None;
    }
    let setting = |target: &ArpTarget| match &config.arp {
        Some(wanted) if wanted.target == *target => wanted.settings,
        _ => seen.arp.iter().find(|(t, _)| t == target).map_or(seen.arp_all, |(_, now)| *now),
    };
    let own = setting(&ArpTarget::Interface(config.interface.clone())).ignore.value();
    let all = setting(&ArpTarget::All).ignore.value();
    let effective = arp::IgnoreMode::from(own.max(all));
    match effective.hides_loopback_vip(true, seen.route_localnet) {
        true => None,
        false => Some(format!(
            "arp_ignore on {} is {effective} (the greater of {own} and, for all, {all}){}: this node answers ARP requests for a VIP on lo, \
             and draws its traffic away from the director; set it to 1",
            config.interface,
            if seen.route_localnet { " with route_localnet on" } else { "" },
        )),
    }
}

/// Each target's settings as they were before this node changed them for the first time.
fn remembered_arp(state: &State, steps: &[Step]) -> Vec<arp::Change> {
    let mut remembered = state.arp.clone();
    for step in steps {
        let Step::Arp(change) = step else { continue };
        match remembered.iter_mut().find(|known| known.target == change.target) {
            Some(known) => known.after = change.after,
            None => remembered.push(change.clone()),
        }
    }
    remembered
}

/// VIPs that an earlier configuration had placed.
fn obsolete_vips(config: &Config, state: &State, seen: &Observation) -> Vec<Step> {
    let mut steps = Vec::new();
    for (vip, interface) in &state.vips {
        let configured = config.vips.contains(vip);
        let places = [
            (Placement::Loopback, !configured),
            (
                Placement::Interface(interface.clone()),
                config.vip_owner == VipOwner::Node && (!configured || *interface != config.interface),
            ),
        ];
        for (place, obsolete) in places {
            if obsolete && found_on(seen, *vip, place.interface()).any(|located| !located.is_foreign()) {
                steps.push(Step::RemoveVip(*vip, place));
            }
        }
    }
    steps
}
