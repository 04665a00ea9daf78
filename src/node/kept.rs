//! Which services are the node's, and what its table is while the kernel's is fenced. Pure.

use std::collections::BTreeSet;

use super::config::Config;
use super::fence::{self, Fence};
use super::observation::Observation;
use super::role::Role;
use super::state::State;
use crate::ipvs::{ServiceId, Table};

/// Which services are the node's: those of the configuration and those that it had from an earlier one, or, where none are
/// configured, those on its VIPs and all firewall marks.
pub(super) fn is_ours(config: &Config, state: &State, id: &ServiceId) -> bool {
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
    if state.handing_over {
        // All weights but the successor's are 0, and that is our own doing.
        return fence::taken_over(&kept, &live, &BTreeSet::new(), !live.is_empty());
    }
    if config.fence == Fence::Quiesce {
        // A table that somebody has emptied altogether is not taken over: it may have been flushed by mistake.
        let reached = state.role.is_some_and(|(role, reached)| reached && (role != Role::Master || state.beside));
        return fence::taken_over(&kept, &live, &seen.own, reached && !live.is_empty());
    }
    take_in(&mut kept, &live);
    kept
}

/// What was kept for VIPs that are not configured any more, and that nobody has loaded since. It is not restored, but not forgotten
/// either: a VIP may be missing by mistake.
pub(super) fn set_aside(config: &Config, state: &State, seen: &Observation) -> Table {
    state.table.filtered(|id| !is_ours(config, state, id) && seen.table.service(id).is_none())
}

/// Adds the services of `more` that `table` lacks.
pub(super) fn take_in(table: &mut Table, more: &Table) {
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
