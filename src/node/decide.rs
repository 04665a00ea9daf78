//! Decides what a node has to do: from what is seen, what is remembered and what is wanted. Pure: nothing here touches the kernel.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use super::config::{Config, Loopback, VipOwner};
use super::fence::{self, Fence};
use super::kept::{is_ours, kept_table, set_aside, spared, take_in};
use super::observation::Observation;
use super::plan::{Plan, Step, Wait};
use super::role::Role;
use super::settings::{
    arp_steps, arp_warning, counts_still, is_obsolete, obsolete_arp, remembered_arp, remembered_sysctls, still_needed,
    sysctl_back, sysctl_steps,
};
use super::state::State;
use crate::error::{Error, Result};
use crate::ipvs::{self, SyncDaemon, SyncRole, Table};
use crate::vip::Placement;

/// What a node is to be.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wanted {
    pub(super) role: Role,
    /// A director beside another one, which schedules to itself only.
    pub(super) beside: bool,
    /// Destinations are left to health checks.
    pub(super) sparing: bool,
}

impl From<Role> for Wanted {
    fn from(role: Role) -> Self {
        Wanted { role, beside: false, sparing: false }
    }
}

impl Wanted {
    /// The role that a node has, as it has it: also beside another director.
    pub(super) fn again(role: Role, state: &State) -> Self {
        Wanted { beside: state.beside && role == Role::Master, ..role.into() }
    }
}

/// What has to be done for a role.
///
/// The order is what keeps sessions. A director has its table before it has the VIP, and has the VIP on the interface before it leaves
/// `lo`. A backup takes the VIP off the interface before it loses its table, and has it on `lo` before that. Nothing is put on
/// `lo` before ARP is told to keep quiet about it.
pub(super) fn for_role(config: &Config, goal: Wanted, state: &State, seen: &Observation) -> Result<Plan> {
    let Wanted { role, beside, sparing } = goal;
    refuse_foreign_vips(config, state, seen)?;
    let mut kept = kept_table(config, state, seen);
    if sparing {
        let fenced = config.fence == Fence::Quiesce && (role != Role::Master || beside);
        let cleared = config.fence == Fence::Clear && role != Role::Master;
        let found = if cleared { &Table::new() } else { &seen.table };
        kept = spared(&kept, found, &seen.own, !fenced);
    }
    // Refused now rather than when it cannot be restored.
    kept.check()?;
    fence::check(config.fence, &kept)?;
    let mine = seen.table.filtered(|id| is_ours(config, state, id));
    let mut wanted = match beside {
        true => fence::beside(config.fence, &config.sync, &kept, &seen.own),
        false => fence::table(config.fence, &config.sync, role, &kept, &seen.own),
    };
    if state.syncs && !config.fence.syncs() {
        // Left from another fence.
        wanted.daemons = no_daemons();
    }
    refuse_foreign_daemons(config, state, &mine, &wanted)?;

    let mut steps = arp_steps(config, seen);
    steps.extend(obsolete_arp(config, state, seen));
    steps.extend(sysctl_steps(config, state, seen));
    match role {
        Role::Master => steps.extend(promote(config, state, seen, &mine, &wanted)),
        Role::Backup | Role::Fault | Role::Stop => steps.extend(demote(config, state, seen, &mine, &wanted)),
    }
    let mut warnings: Vec<String> = arp_warning(config, seen).into_iter().collect();
    if role == Role::Master {
        warnings.extend(config.vips.iter().filter(|vip| !arrives(config, seen, **vip)).map(|vip| {
            let interface = &config.interface;
            format!(
                "{vip} is not on {interface}, where keepalived puts a master's: is it in virtual_ipaddress? Under keepalived its \
                 notifications say the role, not a call by hand"
            )
        }));
        if kept.is_empty() {
            warnings
                .push("there are no services, so nothing is balanced: configure some, or add them with ipvsadm".into());
        }
    }

    let services = kept.len();
    let (during, after) = remember(config, goal, state, seen, kept, &steps);
    if !steps.is_empty() || after != *state {
        steps.insert(0, Step::Record { role, reached: false, services });
        steps.push(Step::Record { role, reached: true, services });
    }
    Ok(Plan { steps, warnings, during, after })
}

/// What a director does before it gives up the VIP to one of these successors, so that no session notices: from now on what is new goes
/// to the successor itself, and what is established the others are told of.
pub(super) fn for_handover(config: &Config, successors: &[IpAddr], state: &State, seen: &Observation) -> Result<Plan> {
    let mut unchanged = for_role(config, Role::Master.into(), state, seen)?;
    if !config.fence.syncs() {
        // Stateless there is nothing to prepare, and a table that is about to be cleared keeps nothing.
        return Ok(unchanged);
    }
    let kept = kept_table(config, state, seen);
    let services = kept.len();
    let mine = seen.table.filtered(|id| is_ours(config, state, id));
    let mut wanted = fence::handed_over(&kept, successors, &seen.own);
    wanted.daemons = fence::daemons(config.fence, &config.sync, true);
    let (mut during, _) = remember(config, Role::Master.into(), state, seen, kept, &[]);
    (during.handing_over, during.held) = (true, true);
    let mut steps = vec![Step::Record { role: Role::Master, reached: false, services }];
    steps.extend(change(&mine, &wanted));
    if !config.settle.is_zero() {
        steps.push(Step::Wait(Wait::Handshakes, config.settle));
    }
    steps.push(Step::Tell(config.sync.daemon(SyncRole::Master)));
    unchanged.steps = steps;
    Ok(Plan { after: during.clone(), during, ..unchanged })
}

/// What a reached backup does at once when it becomes the director, before it looks at tables, which can be long: the table is there
/// already. All of it has been done before, so that there is nothing to record. `None`: it has to be looked at in full.
pub(super) fn at_once(config: &Config, state: &State, seen: &Observation) -> Option<Vec<Step>> {
    let reached = state.role.is_some_and(|(role, reached)| reached && role != Role::Master);
    let same = state.fence == Some(config.fence)
        && config.vips.iter().all(|vip| state.vips.contains(&(*vip, config.interface.clone())));
    if !reached || !same || config.fence == Fence::Clear || state.syncs != config.fence.syncs() {
        return None;
    }
    refuse_foreign_vips(config, state, seen).ok()?;
    let mut wanted = Table::new();
    if config.fence.syncs() {
        wanted.daemons = fence::daemons(config.fence, &config.sync, true);
    }
    let mut steps: Vec<Step> = change(&seen.table, &wanted).into_iter().collect();
    if config.loopback == Loopback::Always {
        steps.extend(add(config, seen, &Placement::Loopback));
    }
    if config.vip_owner == VipOwner::Node {
        steps.extend(add(config, seen, &Placement::Interface(config.interface.clone())));
        steps.extend(announcements(config, |_| true));
    }
    Some(steps)
}

/// From the table that is there to the one that a director has: unfence, place and announce the VIP.
fn promote(config: &Config, state: &State, seen: &Observation, mine: &Table, wanted: &Table) -> Vec<Step> {
    let was_master = state.role == Some((Role::Master, true));
    // A quiesced table forwards what it has learned, and takes the new itself: its weights can wait until the old director is
    // fenced. Two directors with live tables would send new connections round in circles.
    let mut first = wanted.clone();
    if config.fence == Fence::Quiesce {
        first = mine.clone();
        first.daemons.clone_from(&wanted.daemons);
    }
    let mut steps: Vec<Step> = change(mine, &first).into_iter().collect();
    if config.loopback == Loopback::Always {
        steps.extend(add(config, seen, &Placement::Loopback));
    }
    if config.vip_owner == VipOwner::Node {
        let added = add(config, seen, &Placement::Interface(config.interface.clone()));
        // Killed between adding and announcing, a node has still to announce what it finds placed.
        let moved = |vip: &&IpAddr| {
            !was_master || added.iter().any(|step| matches!(step, Step::AddVip(added, _) if added == *vip))
        };
        let announcements = announcements(config, moved);
        steps.extend(added.into_iter().chain(announcements));
    }
    if config.loopback == Loopback::Backup {
        // Never from its only place: keepalived may be late.
        let there = config.vips.iter().copied().filter(|vip| arrives(config, seen, *vip));
        steps.extend(remove(seen, &Placement::Loopback, there));
    }
    steps.extend(obsolete_vips(config, state, seen));
    if let Some(unfence) = change(&first, wanted) {
        if !was_master && !config.settle.is_zero() {
            steps.push(Step::Wait(Wait::Settle, config.settle));
        }
        steps.push(unfence);
    }
    steps
}

fn announcements(config: &Config, moved: impl Fn(&&IpAddr) -> bool) -> Vec<Step> {
    let vips = config.vips.iter().filter(|_| config.announcements > 0).filter(moved);
    vips.map(|vip| Step::Announce(*vip, config.interface.clone())).collect()
}

/// From the table that is there to the one that a backup has: take the VIP off the interface, fence.
fn demote(config: &Config, state: &State, seen: &Observation, mine: &Table, wanted: &Table) -> Vec<Step> {
    let mut steps = add(config, seen, &Placement::Loopback);
    if config.vip_owner == VipOwner::Node {
        steps.extend(remove(seen, &Placement::Interface(config.interface.clone()), config.vips.iter().copied()));
    }
    steps.extend(obsolete_vips(config, state, seen));
    let was_master = matches!(state.role, Some((Role::Master, _)));
    let drain = match config.fence {
        // The kernel's switch keeps even known sessions from being forwarded, and packets for them are still on their way.
        Fence::BackupOnly => config.drain,
        // What is new and comes late goes to the successor for a while longer, but not until that one sends it back.
        Fence::Quiesce if state.handing_over => config.settle / 2,
        _ => Duration::ZERO,
    };
    if was_master && !drain.is_zero() && change(mine, wanted).is_some() {
        steps.push(Step::Wait(Wait::Drain, drain));
    }
    // The table first: until it is fenced there are two directors. The daemon last: what it has not told yet is lost with it.
    let mut first = wanted.clone();
    first.daemons.clear();
    steps.extend(change(mine, &first));
    let daemons = |table: &Table| table.filtered(|_| false);
    if let Some(daemons) = change(&daemons(mine), &daemons(wanted)) {
        let master = mine.daemons.get(&SyncRole::Master).and_then(Option::as_ref);
        steps.extend(master.filter(|_| was_master).cloned().map(Step::Tell));
        steps.push(daemons);
    }
    steps
}

/// What is remembered while the role is under way, and when it is reached.
fn remember(
    config: &Config,
    Wanted { role, beside, .. }: Wanted,
    state: &State,
    seen: &Observation,
    kept: Table,
    steps: &[Step],
) -> (State, State) {
    let mut table = kept;
    take_in(&mut table, &set_aside(config, state, seen));
    // Services of an earlier configuration are known as the node's until they are gone, and so are VIPs.
    let mut table_during = table.clone();
    if config.services.is_some() {
        take_in(&mut table_during, &state.table);
    }
    let vips: BTreeSet<(IpAddr, String)> = config.vips.iter().map(|vip| (*vip, config.interface.clone())).collect();
    let during = State {
        role: Some((role, false)),
        arp: remembered_arp(state, steps),
        sysctls: remembered_sysctls(state, steps, seen),
        mended: state.mended.clone(),
        syncs: state.syncs || config.fence.syncs(),
        vips: state.vips.union(&vips).cloned().collect(),
        table: table_during,
        held: state.held || role != Role::Master || beside,
        handing_over: state.handing_over,
        beside: state.beside,
        fence: None,
    };
    let after = State {
        role: Some((role, true)),
        arp: during.arp.iter().filter(|change| !is_obsolete(config, change)).cloned().collect(),
        sysctls: still_needed(config, state, &during.sysctls),
        mended: state.mended.clone(),
        syncs: config.fence.syncs(),
        vips,
        table,
        held: role != Role::Master || beside,
        handing_over: false,
        beside,
        fence: Some(config.fence),
    };
    (during, after)
}

fn change(seen: &Table, wanted: &Table) -> Option<Step> {
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

/// Whether a director's interface has the VIP, or is about to get it from this node.
fn arrives(config: &Config, seen: &Observation, vip: IpAddr) -> bool {
    config.vip_owner == VipOwner::Node || seen.found_on(vip, &config.interface).next().is_some()
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
        let ours = |place: &Placement| seen.found_on(*vip, place.interface()).any(|located| !located.is_foreign());
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

fn no_daemons() -> BTreeMap<SyncRole, Option<SyncDaemon>> {
    [(SyncRole::Master, None), (SyncRole::Backup, None)].into()
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
            if obsolete && seen.found_on(*vip, place.interface()).any(|located| !located.is_foreign()) {
                steps.push(Step::RemoveVip(*vip, place));
            }
        }
    }
    steps
}
