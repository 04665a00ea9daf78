//! Repairs: what has drifted from the role that the node has is set right again, and what is others' to change is left to them.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::decide::Wanted;
use super::fence;
use super::plan::{Plan, Step};
use super::role::Role;
use super::state::State;
use super::{LOCK_LIMIT, Node};
use crate::error::Result;
use crate::ipvs::Table;

impl Node {
    /// What [`Node::repair`] would do. Changes nothing; nothing is to be done where no role was taken on yet, or while one is under way.
    ///
    /// # Errors
    /// As [`Node::plan`].
    pub fn plan_repair(&mut self) -> Result<Plan> {
        let state = self.dir.load()?;
        if let Some(wanted) = wanted(&state) {
            let plan = self.plan_after(wanted, &state)?;
            // What only changes what is remembered repairs nothing.
            if plan.first_change().is_some() {
                return Ok(plan);
            }
        }
        Ok(Plan { steps: Vec::new(), warnings: Vec::new(), during: state.clone(), after: state })
    }

    /// Sets right what others have changed: VIPs, ARP settings, sysctls, sync daemons, services, and the weights of a fenced backup. Which
    /// destinations a service has, and a director's weights, are health checks' to change: they stay. No request for a role is
    /// overtaken by it.
    ///
    /// # Errors
    /// As [`Node::become_role`].
    pub fn repair(&mut self, mut before: impl FnMut(&Step)) -> Result<Plan> {
        self.dir.prepare()?;
        let _lock = self.dir.lock(LOCK_LIMIT)?;
        let state = self.dir.load()?;
        let Some(wanted) = wanted(&state) else { return self.plan_repair() };
        let aside = self.dir.aside("of a repair")?;
        self.reach(wanted, &state, Vec::new(), &aside, &mut before)
    }
}

fn wanted(state: &State) -> Option<Wanted> {
    let (role, _) = state.role.filter(|_| !state.handing_over)?;
    Some(Wanted { role, beside: state.beside && role == Role::Master, sparing: true })
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
