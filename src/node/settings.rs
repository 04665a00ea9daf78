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
