//! Which services are the node's, and what its table is while the kernel's is fenced. Pure.

use std::collections::BTreeSet;
use std::net::IpAddr;

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

/// The node's table with the destinations that its services have in the kernel. `live`: a weight of 0 is meant, and not the fence's.
pub(super) fn spared(kept: &Table, seen: &Table, own: &BTreeSet<IpAddr>, live: bool) -> Table {
    let both = |table: &Table, other: &Table| table.filtered(|id| other.service(id).is_some());
    let seen = both(seen, kept);
    let every =
        || seen.services().flat_map(|content| content.destinations().map(|d| d.address.ip()).collect::<Vec<_>>());
    let meant = if live { every().collect() } else { own.clone() };
    let mut table = fence::taken_over(&both(kept, &seen), &seen, &meant, true);
    for content in kept.services() {
        let id = content.service.id;
        // A service itself is as it was configured; one that is gone altogether comes back with all it had.
        table.insert(content.service.clone());
        for destination in content.destinations().filter(|_| seen.service(&id).is_none()) {
            let _ = table.insert_destination(&id, destination.clone());
        }
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEPT: &str = "\
-A -t 192.0.2.1:80 -s wrr
-a -t 192.0.2.1:80 -r 10.0.0.1:80 -g -w 3
-a -t 192.0.2.1:80 -r 10.0.0.2:80 -g -w 4
-A -t 192.0.2.1:443 -s wrr
-a -t 192.0.2.1:443 -r 10.0.0.2:443 -g -w 4
";

    fn spare(seen: &str, live: bool) -> String {
        let own = ["10.0.0.1".parse().unwrap()].into();
        spared(&KEPT.parse().unwrap(), &seen.parse().unwrap(), &own, live).to_string()
    }

    #[test]
    fn destinations_of_a_director_are_health_checks_to_change() {
        assert_eq!(spare(KEPT, true), KEPT);
        let checked = KEPT.replace("0.2:80 -g -w 4", "0.2:80 -g -w 0");
        assert_eq!(spare(&checked, true), checked);
        let removed = KEPT.replace("-a -t 192.0.2.1:80 -r 10.0.0.2:80 -g -w 4\n", "");
        assert_eq!(spare(&removed, true), removed);
        // Services are not.
        assert_eq!(spare(&checked.replace("wrr", "rr"), true), checked);
        assert_eq!(spare("", true), KEPT);
        assert_eq!(spare(&KEPT[..KEPT.find("-A -t 192.0.2.1:443").unwrap()], true), KEPT);
        // Somebody else's.
        assert_eq!(spare(&format!("{KEPT}-A -t 192.0.2.9:80 -s rr\n"), true), KEPT);
    }

    #[test]
    fn a_backups_weights_of_0_are_the_fences() {
        let quiesced = KEPT.replace("-w 4", "-w 0");
        assert_eq!(spare(&quiesced, false), KEPT);
        assert_eq!(spare(&quiesced.replace("-w 3", "-w 0"), false), KEPT.replace("-w 3", "-w 0"));
    }
}
