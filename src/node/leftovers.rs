//! What a role has left on a node that remembers nothing of it: its state directory is lost. What
//! is recognised as the node's is given back, and what is not proven to be is named. Pure.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::config::{ArpScope, Config, VipOwner};
use super::observation::Observation;
use super::services::is_ours;
use super::settings;
use super::state::State;
use crate::arp::{ArpTarget, Settings};
use crate::ipvs::{SyncRole, Table};
use crate::marks::Classification;
use crate::vip::{AssignedAddress, MARK, Placement};

/// What is found on a node that remembers nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Leftovers {
    /// VIPs that bear this crate's mark, and where.
    pub(super) vips: Vec<(IpAddr, Placement)>,
    /// The daemons that run as configured, on a node that shows that it had a role.
    pub(super) daemons: BTreeSet<SyncRole>,
    /// What shows that the node had a role.
    pub(super) signs: Vec<String>,
    /// What is as a role sets it, and may be another program's.
    pub(super) unproven: Vec<String>,
}

/// `None`: the node remembers this group.
pub(super) fn of(config: &Config, state: &State, seen: &Observation) -> Option<Leftovers> {
    if state.groups.contains_key(&config.group) {
        return None;
    }
    let of_others: BTreeSet<IpAddr> =
        state.groups.values().flat_map(|group| &group.vips).map(|(vip, _)| *vip).collect();
    let mut found = Leftovers::default();
    for vip in &config.vips {
        for place in [Placement::Interface(config.interface.clone()), Placement::Loopback] {
            let is_keepaliveds = config.vip_owner == VipOwner::Keepalived && place != Placement::Loopback;
            for located in seen.found_on(*vip, place.interface()).filter(|located| !located.is_foreign()) {
                match located.mark {
                    Some(MARK) => {
                        found.signs.push(located.to_string());
                        found.vips.push((*vip, place.clone()));
                    }
                    _ if is_keepaliveds => {}
                    _ => found.unproven.push(located.to_string()),
                }
            }
        }
    }
    // Of an earlier configuration, or of another program that uses this crate.
    let is_marked = |located: &&AssignedAddress| {
        located.mark == Some(MARK) && !config.vips.contains(&located.address) && !of_others.contains(&located.address)
    };
    found.unproven.extend(seen.addresses.iter().filter(is_marked).map(ToString::to_string));
    let routes = config.vips.iter().filter(|vip| seen.routes.contains(*vip));
    found.signs.extend(routes.map(|vip| format!("the route to {vip} of protocol {MARK}")));
    let rules = seen.marks.rules.iter().filter(|rule| config.vips.contains(&rule.vip)).count();
    if rules > 0 {
        found.signs.push(format!("{rules} tc rules of its marks"));
    }
    let names_own = |known: &Classification| known.services.keys().any(|service| config.vips.contains(&service.ip()));
    let classified = seen.classifiers.iter().filter(|(_, known)| names_own(known));
    found.signs.extend(classified.map(|(interface, _)| format!("the classifier on {interface}")));
    // Without any in the configuration they were found running, and a release leaves them.
    let has_services = config.services.is_some();
    let services = seen.table.filtered(|id| has_services && is_ours(config, &Table::new(), id));
    found.unproven.extend(services.services().map(|content| content.service.id.to_string()));
    found.unproven.extend(arp(config, seen));
    if !found.signs.is_empty() {
        let has_qdisc = |name: &&String| matches!(seen.marks.qdiscs.get(*name), Some(Some(_)));
        let alone = seen.marks.qdiscs.keys().filter(has_qdisc).filter(|name| !seen.marks.others.contains(*name));
        found.unproven.extend(alone.map(|name| format!("qdisc clsact on {name}")));
        found.daemons = seen
            .daemons
            .values()
            .flatten()
            .filter(|running| config.sync.daemon(running.role).is_met_by(running))
            .map(|running| running.role)
            .collect();
        let set = settings::wanted_sysctls(config, state, false).into_iter();
        let set = set.filter(|(name, value)| seen.sysctls.get(name).is_some_and(|now| now.as_ref() == Some(value)));
        found.unproven.extend(settings::shown_sysctls(&set.collect()));
    }
    Some(found)
}

/// ARP settings that are as the node sets them.
fn arp(config: &Config, seen: &Observation) -> Vec<String> {
    let Some(wanted) = config.arp.filter(|wanted| wanted.settings != Settings::KERNEL) else { return Vec::new() };
    let is_target = |target: &ArpTarget| match wanted.scope {
        ArpScope::All => *target == ArpTarget::All,
        ArpScope::Reached => seen.lan.interfaces.iter().any(|name| *name == target.name()),
    };
    let set = seen.arp.iter().filter(|(target, now)| is_target(target) && *now == wanted.settings);
    set.map(|(target, now)| format!("{now} on {target}")).collect()
}

impl Leftovers {
    /// What stays after a release, and why.
    pub(super) fn warning(&self) -> Option<String> {
        (!self.unproven.is_empty()).then(|| {
            format!(
                "nothing is remembered of a role (the state directory is new, or was lost), so what may be another program's is left as it \
                 is: {}",
                self.unproven.join("; ")
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::fence::Fence;
    use super::super::model::{VIP, World, config, ip, located};
    use super::super::planner::for_release;
    use super::super::role::Role;
    use super::super::state::State;
    use super::*;
    use crate::vip::Scope;

    fn marked(interface: &str, scope: Scope) -> AssignedAddress {
        AssignedAddress { mark: Some(MARK), ..located(VIP, interface, scope) }
    }

    /// A node that has had this role, and has lost its memory.
    fn lost(role: Role, mark: Option<u8>) -> World {
        let mut world = World::new(config(Fence::Marks));
        world.take_on(Role::Backup);
        world.take_on(role);
        for located in world.seen.vips.values_mut().flatten() {
            located.mark = mark;
        }
        world.memory = Default::default();
        world
    }

    fn release(world: &World) -> (String, String) {
        let plan = for_release(&world.config, &world.memory, &world.seen).unwrap();
        let steps: Vec<String> = plan.steps().iter().map(ToString::to_string).collect();
        (steps.join("\n"), plan.warnings().join("\n"))
    }

    #[test]
    fn what_is_recognised_is_given_back_and_the_rest_named() {
        let (steps, warnings) = release(&lost(Role::Master, Some(MARK)));
        let expected = "\
VIP: remove 192.0.2.254 from eth0
VIP: remove 192.0.2.254 from lo (scope host)
marks: 2 changes
  remove mark 1280725761 on eth0 for 192.0.2.254: TCP without SYN to port 80
  remove mark 1280725760 on eth0 for 192.0.2.254: all from 02:00:00:00:00:02
IPVS: 3 changes
  -D -f 1280726015
  -D -f 1280725761
  -D -f 1280725760
IPVS: 2 changes
  --stop-daemon master
  --stop-daemon backup";
        assert_eq!(steps, expected);
        for part in [
            "tcp 192.0.2.254:80",
            "qdisc clsact on eth0",
            "arp_ignore=1 arp_announce=2 on eth0",
            "net.ipv4.vs.sync_threshold=\"2 0\"",
        ] {
            assert!(warnings.contains(part), "no {part} in {warnings}");
        }
    }

    #[test]
    fn without_a_sign_of_a_role_nothing_is_taken() {
        let fresh = World::new(config(Fence::Marks));
        let release = release(&fresh);
        assert_eq!(release, (String::new(), String::new()));
        // keepalived's daemon, with the same id.
        let mut theirs = World::new(config(Fence::Marks));
        theirs.seen.daemons = lost(Role::Backup, None).seen.daemons;
        let found = of(&theirs.config, &State::default(), &theirs.seen).unwrap();
        assert_eq!(found, Leftovers::default());
    }

    #[test]
    fn addresses_without_this_crates_mark_are_left() {
        let mut world = World::new(config(Fence::Marks));
        let place = |world: &mut World, found: AssignedAddress| world.seen.vips.insert(ip(VIP), vec![found]);
        let of = |world: &World| of(&world.config, &world.memory.state, &world.seen).unwrap();
        // A kernel that keeps no mark, or a script.
        place(&mut world, located(VIP, "lo", Scope::Host));
        assert_eq!((of(&world).vips.len(), of(&world).unproven), (0, vec![format!("{VIP}/32 on lo (scope host)")]));
        place(&mut world, AssignedAddress { mark: Some(18), ..located(VIP, "eth0", Scope::Global) });
        assert_eq!(of(&world), Leftovers::default());
        place(&mut world, marked("lo", Scope::Host));
        assert_eq!((of(&world).vips, of(&world).unproven), (vec![(ip(VIP), Placement::Loopback)], vec![]));
        world.config.vip_owner = VipOwner::Keepalived;
        place(&mut world, located(VIP, "eth0", Scope::Global));
        assert_eq!(of(&world), Leftovers::default());
        // Of an earlier configuration.
        let other = AssignedAddress { address: ip("192.0.2.253"), ..marked("lo", Scope::Host) };
        world.seen.addresses.push(other);
        assert_eq!(of(&world).unproven, ["192.0.2.253/32 on lo (scope host)"]);
        world.memory.state.group_mut("").role = Some((Role::Backup, true));
        assert_eq!(super::of(&world.config, &world.memory.state, &world.seen), None);
    }
}
