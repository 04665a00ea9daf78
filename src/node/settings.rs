//! ARP settings and the sysctls of IPVS: what is to be set, and what to be given back. Pure.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::config::Config;
use super::fence;
use super::observation::Observation;
use super::plan::Step;
use super::state::State;
use crate::arp::{self, ArpTarget};

pub(super) fn arp_steps(config: &Config, seen: &Observation) -> Vec<Step> {
    let Some(wanted) = &config.arp else { return Vec::new() };
    let now = seen.arp.iter().find(|(target, now)| *target == wanted.target && *now != wanted.settings);
    now.map(|(target, now)| Step::Arp(arp::Change { target: target.clone(), before: *now, after: wanted.settings }))
        .into_iter()
        .collect()
}

/// Settings that an earlier configuration had changed elsewhere. Where none are configured now,
/// they are left alone.
pub(super) fn obsolete_arp(config: &Config, state: &State, seen: &Observation) -> Vec<Step> {
    let changes = state.arp.iter().filter(|change| is_obsolete(config, state, change) && counts_still(change, seen));
    changes.cloned().map(Step::GiveBackArp).collect()
}

pub(super) fn is_obsolete(config: &Config, state: &State, change: &arp::Change) -> bool {
    let others = state.others(config);
    let of_others = others.flat_map(|group| &group.vips).any(|(_, interface)| *interface == change.target.name());
    config.arp.as_ref().is_some_and(|wanted| wanted.target != change.target) && !of_others
}

/// Whether a setting still has the value that this node gave it, and had another one before.
pub(super) fn counts_still(change: &arp::Change, seen: &Observation) -> bool {
    let arp::Change { target, before, after } = change;
    let Some(now) = seen.arp_of(target) else { return false };
    (now.ignore == after.ignore && now.ignore != before.ignore)
        || (now.announce == after.announce && now.announce != before.announce)
}

/// Whether ARP requests for a VIP on `lo` would be answered all the same, once the settings are
/// made.
pub(super) fn arp_warning(config: &Config, seen: &Observation) -> Option<String> {
    if !config.vips.iter().any(IpAddr::is_ipv4) {
        return None;
    }
    let setting = |target: &ArpTarget| match &config.arp {
        Some(wanted) if wanted.target == *target => wanted.settings,
        _ => seen.arp_of(target).unwrap_or(seen.arp_all),
    };
    let (own, all) = (setting(&ArpTarget::Interface(config.interface.clone())), setting(&ArpTarget::All));
    let effective = own.joined(all).ignore;
    let (own, all) = (own.ignore.value(), all.ignore.value());
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
pub(super) fn remembered_arp(state: &State, steps: &[Step]) -> Vec<arp::Change> {
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

/// The sysctls of IPVS that the node needs: the fence's, and those that an audit's fix has set.
/// `persistent`: one of the user's services is persistent.
pub(super) fn needed_sysctls(config: &Config, state: &State, persistent: bool) -> BTreeMap<String, String> {
    let mut needed = state.mended.clone();
    needed.extend(fence::sysctls(config.fence, persistent).into_iter().map(|(name, value)| (name.to_owned(), value)));
    needed
}

/// Sysctls that the node needs, and those that an earlier fence needed.
pub(super) fn sysctl_steps(config: &Config, state: &State, seen: &Observation, persistent: bool) -> Vec<Step> {
    let needed = needed_sysctls(config, state, persistent);
    let obsolete = state.sysctls.iter().filter(|(name, _)| !needed.contains_key(*name));
    let mut steps: Vec<Step> = obsolete.filter_map(|(name, values)| sysctl_back(name, values, seen)).collect();
    for (name, value) in needed {
        // A kernel that lacks a setting has nothing to be set.
        if seen.sysctls.get(&name).and_then(Option::as_ref).is_some_and(|now| *now != value) {
            steps.push(Step::Sysctl { name, value, back: false });
        }
    }
    steps
}

/// Where it still has the value that this node gave it.
pub(super) fn sysctl_back(name: &str, (before, after): &(String, String), seen: &Observation) -> Option<Step> {
    let now = seen.sysctls.get(name)?.as_ref()?;
    (now == after && before != after).then(|| Step::Sysctl { name: name.to_owned(), value: before.clone(), back: true })
}

/// Each sysctl as it was before this node changed it for the first time, and as it is now.
pub(super) fn remembered_sysctls(
    state: &State,
    steps: &[Step],
    seen: &Observation,
) -> BTreeMap<String, (String, String)> {
    let mut remembered = state.sysctls.clone();
    for step in steps {
        let Step::Sysctl { name, value, back: false } = step else { continue };
        let Some(found) = seen.sysctls.get(name).cloned().flatten() else { continue };
        remembered.entry(name.clone()).or_insert_with(|| (found, String::new())).1.clone_from(value);
    }
    remembered
}

pub(super) fn still_needed(
    config: &Config,
    state: &State,
    sysctls: &BTreeMap<String, (String, String)>,
    persistent: bool,
) -> BTreeMap<String, (String, String)> {
    let needed = needed_sysctls(config, state, persistent);
    let still = sysctls.iter().filter(|(name, _)| needed.contains_key(*name));
    still.map(|(name, values)| (name.clone(), values.clone())).collect()
}

#[cfg(test)]
mod tests {
    use super::super::config::ArpConfig;
    use super::super::fence::Fence;
    use super::super::model::{World, config, ip};
    use super::super::role::Role;
    use super::super::state::Group;
    use super::*;
    use crate::arp::Settings;

    fn settings((ignore, announce): (i32, i32)) -> Settings {
        Settings { ignore: ignore.into(), announce: announce.into() }
    }

    fn on(interface: &str) -> ArpTarget {
        ArpTarget::Interface(interface.into())
    }

    fn change(interface: &str, before: (i32, i32), after: (i32, i32)) -> arp::Change {
        arp::Change { target: on(interface), before: settings(before), after: settings(after) }
    }

    fn sysctls(values: &[(&str, &str, &str)]) -> BTreeMap<String, (String, String)> {
        let owned = |(name, before, after): &(&str, &str, &str)| {
            ((*name).to_owned(), ((*before).to_owned(), (*after).to_owned()))
        };
        values.iter().map(owned).collect()
    }

    #[test]
    fn a_setting_counts_where_it_has_the_value_that_this_node_gave_it() {
        for (before, after, now, counts) in [
            ((0, 0), (1, 2), (1, 2), true),
            ((0, 0), (1, 2), (1, 0), true),
            ((0, 0), (1, 2), (0, 2), true),
            ((0, 0), (1, 2), (0, 0), false),
            ((0, 0), (1, 2), (8, 1), false),
            // It had the value before.
            ((1, 0), (1, 2), (1, 0), false),
            ((1, 0), (1, 2), (1, 2), true),
            ((0, 2), (1, 2), (0, 2), false),
            ((0, 2), (1, 2), (1, 2), true),
        ] {
            let mut seen = World::new(config(Fence::Marks)).seen;
            seen.arp = vec![(on("eth0"), settings(now))];
            assert_eq!(counts_still(&change("eth0", before, after), &seen), counts, "{before:?} {after:?} {now:?}");
            assert!(!counts_still(&change("eth1", before, after), &seen));
        }
    }

    #[test]
    fn settings_on_an_interface_that_no_group_needs_are_given_back() {
        let back = |set_up: fn(&mut World)| {
            let mut world = World::new(config(Fence::Marks));
            world.config.groups = ["".to_owned(), "mail".to_owned()].into();
            let vips = [(ip("192.0.2.253"), "eth2".to_owned())].into();
            let mail = Group { role: Some((Role::Backup, true)), vips, ..Group::default() };
            world.memory.state.groups.insert("mail".into(), mail);
            world.memory.state.arp = ["eth0", "eth1", "eth2"].map(|name| change(name, (0, 0), (1, 2))).into();
            world.seen.arp = ["eth0", "eth1", "eth2"].map(|name| (on(name), settings((1, 2)))).into();
            set_up(&mut world);
            let steps = obsolete_arp(&world.config, &world.memory.state, &world.seen);
            steps.iter().map(|step| format!("{step}\n")).collect::<String>()
        };
        let restore = |name: &str| format!("ARP: restore {name} arp_ignore=0 arp_announce=0\n");
        assert_eq!(back(|_| ()), restore("eth1"));
        assert_eq!(back(|world| world.memory.state.groups.clear()), restore("eth1") + &restore("eth2"));
        assert_eq!(back(|world| world.seen.arp[1].1 = Settings::KERNEL), "");
        assert_eq!(back(|world| world.config.arp = None), "");
    }

    #[test]
    fn a_node_warns_of_settings_that_answer_for_a_vip_on_lo() {
        let warning = |wanted: Option<ArpTarget>, own: i32, all: i32, localnet: bool, vip: &str| {
            let mut world = World::new(config(Fence::Marks));
            world.config.vips = vec![ip(vip)];
            world.config.arp = wanted.map(|target| ArpConfig { settings: settings((1, 2)), target });
            world.seen.arp = vec![(on("eth0"), settings((own, 0))), (ArpTarget::All, settings((all, 0)))];
            world.seen.arp_all = settings((all, 0));
            world.seen.route_localnet = localnet;
            let warning = arp_warning(&world.config, &world.seen)?;
            Some(warning.split_once(": this node answers").unwrap().0.to_owned())
        };
        let (eth0, all) = (Some(on("eth0")), Some(ArpTarget::All));
        for (wanted, own, of_all, localnet, expected) in [
            (None, 0, 0, false, Some("0 (the greater of 0 and, for all, 0)")),
            (None, 1, 0, false, None),
            (None, 0, 1, false, None),
            (eth0.clone(), 0, 0, false, None),
            (all.clone(), 0, 0, false, None),
            (all, 3, 0, true, Some("3 (the greater of 3 and, for all, 1) with route_localnet on")),
            (eth0.clone(), 0, 3, false, None),
            (eth0, 0, 3, true, Some("3 (the greater of 1 and, for all, 3) with route_localnet on")),
        ] {
            let found = warning(wanted.clone(), own, of_all, localnet, "192.0.2.254");
            let expected = expected.map(|text| format!("arp_ignore on eth0 is {text}"));
            assert_eq!(found, expected, "{wanted:?} {own} {of_all} {localnet}");
            assert_eq!(warning(wanted, own, of_all, localnet, "2001:db8::fe"), None);
        }
    }

    #[test]
    fn the_values_before_the_first_change_are_remembered() {
        let mut world = World::new(config(Fence::Marks));
        world.memory.state.arp = vec![change("eth0", (0, 0), (1, 2))];
        world.memory.state.sysctls = sysctls(&[("sloppy_tcp", "0", "1")]);
        let set = |name: &str, value: &str, back| Step::Sysctl { name: name.into(), value: value.into(), back };
        let steps = [
            Step::Arp(change("eth0", (1, 2), (3, 2))),
            Step::Arp(change("eth1", (0, 1), (1, 2))),
            set("sloppy_tcp", "2", false),
            set("sync_threshold", "2 0", false),
            set("expire_nodest_conn", "1", true),
            set("not_there", "1", false),
        ];
        let arp = remembered_arp(&world.memory.state, &steps);
        assert_eq!(arp, [change("eth0", (0, 0), (3, 2)), change("eth1", (0, 1), (1, 2))]);
        let remembered = remembered_sysctls(&world.memory.state, &steps, &world.seen);
        assert_eq!(remembered, sysctls(&[("sloppy_tcp", "0", "2"), ("sync_threshold", "3 50", "2 0")]));
        let left = still_needed(
            &world.config,
            &world.memory.state,
            &sysctls(&[("sloppy_tcp", "0", "1"), ("x", "0", "1")]),
            false,
        );
        assert_eq!(left, sysctls(&[("sloppy_tcp", "0", "1")]));
    }

    #[test]
    fn a_sysctl_is_restored_where_it_has_the_value_that_this_node_gave_it() {
        for (now, before, after, restored) in [
            (Some("1"), "0", "1", Some("sysctl: restore net.ipv4.vs.x = 0")),
            (Some("2"), "0", "1", None),
            (Some("1"), "1", "1", None),
            (None, "0", "1", None),
        ] {
            let mut world = World::new(config(Fence::Clear));
            world.seen.sysctls = [("x".to_owned(), now.map(str::to_owned))].into();
            let values = (before.to_owned(), after.to_owned());
            let step = sysctl_back("x", &values, &world.seen).map(|step| step.to_string());
            assert_eq!(step.as_deref(), restored, "{now:?} {before} {after}");
            // No fence needs it, unless an audit's fix has set it.
            world.memory.state.sysctls = [("x".to_owned(), values)].into();
            let steps = |world: &World| {
                let steps = sysctl_steps(&world.config, &world.memory.state, &world.seen, false);
                steps.iter().map(Step::to_string).collect::<Vec<_>>()
            };
            assert_eq!(steps(&world), restored.into_iter().collect::<Vec<_>>());
            world.memory.state.mended = [("x".to_owned(), "1".to_owned())].into();
            let set = now.filter(|now| *now != "1").map(|_| "sysctl: net.ipv4.vs.x = 1".to_owned());
            assert_eq!(steps(&world), set.into_iter().collect::<Vec<_>>());
        }
    }
}
