//! ARP settings and the sysctls of IPVS: what is to be set, and what to be given back. Pure.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use super::config::{ArpConfig, ArpScope, Config, IpvsSysctls, VipOwner};
use super::fence;
use super::lan;
use super::observation::{Observation, Tree};
use super::plan::Step;
use super::state::State;
use crate::arp::{self, ArpTarget, IgnoreMode};
use crate::error::{Error, Result};
use crate::ipvs;

pub(super) fn arp_steps(config: &Config, seen: &Observation) -> Vec<Step> {
    let Some(wanted) = &config.arp else { return Vec::new() };
    // What is there is judged: see `refuse_read_only_arp`.
    if seen.read_only.contains(&Tree::Arp) {
        return Vec::new();
    }
    let differ = |target: ArpTarget| {
        let before = seen.arp_of(&target).filter(|now| *now != wanted.settings)?;
        Some(Step::Arp(arp::Change { target, before, after: wanted.settings }))
    };
    targets(wanted.scope, seen).into_iter().filter_map(differ).collect()
}

/// What the settings of this scope are set on.
fn targets(scope: ArpScope, seen: &Observation) -> Vec<ArpTarget> {
    match scope {
        ArpScope::All => vec![ArpTarget::All],
        ArpScope::Reached => seen.lan.interfaces.iter().cloned().map(ArpTarget::Interface).collect(),
    }
}

/// Settings that an earlier configuration had changed elsewhere. Where none are configured now,
/// they are left alone.
pub(super) fn obsolete_arp(config: &Config, state: &State, seen: &Observation) -> Vec<Step> {
    let is_due = |change: &&arp::Change| is_obsolete(config, seen, change) && counts_still(change, seen);
    let changes = state.arp.iter().filter(|_| !seen.read_only.contains(&Tree::Arp)).filter(is_due);
    changes.cloned().map(Step::GiveBackArp).collect()
}

pub(super) fn is_obsolete(config: &Config, seen: &Observation, change: &arp::Change) -> bool {
    let is_elsewhere = |wanted: &ArpConfig| !targets(wanted.scope, seen).contains(&change.target);
    config.arp.as_ref().is_some_and(is_elsewhere) && !seen.lan.of_others.contains(change.target.name())
}

/// Whether a setting still has the value that this node gave it, and had another one before.
pub(super) fn counts_still(change: &arp::Change, seen: &Observation) -> bool {
    let arp::Change { target, before, after } = change;
    let Some(now) = seen.arp_of(target) else { return false };
    (now.ignore == after.ignore && now.ignore != before.ignore)
        || (now.announce == after.announce && now.announce != before.announce)
}

/// An interface on which ARP requests for a VIP on `lo` are answered all the same, once the
/// settings are made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Answers {
    pub(super) interface: String,
    own: IgnoreMode,
    all: IgnoreMode,
    /// What counts.
    pub(super) effective: IgnoreMode,
    route_localnet: bool,
}

impl fmt::Display for Answers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Answers { interface, own, all, effective, route_localnet } = self;
        let localnet = if *route_localnet { " with route_localnet on" } else { "" };
        write!(
            f,
            "arp_ignore on {interface} is {effective} (the greater of {own} and, for all, {all}){localnet}: this node answers ARP \
             requests for a VIP on lo, and draws its traffic away from the director; set it to 1"
        )
    }
}

/// The interfaces that clients reach, and on which ARP requests for a VIP on `lo` would be
/// answered all the same, once the settings are made.
pub(super) fn answering(config: &Config, seen: &Observation) -> Vec<Answers> {
    if !config.vips.iter().any(IpAddr::is_ipv4) {
        return Vec::new();
    }
    let setting = |target: &ArpTarget| match &config.arp {
        Some(wanted) if targets(wanted.scope, seen).contains(target) => Some(wanted.settings),
        _ => seen.arp_of(target),
    };
    let all = setting(&ArpTarget::All).unwrap_or(seen.arp_all);
    let answers = |interface: &String| {
        let target = ArpTarget::Interface(interface.clone());
        // What does not exist answers nothing.
        seen.arp_of(&target)?;
        let own = setting(&target)?;
        let effective = own.joined(all).ignore;
        (!effective.hides_loopback_vip(true, seen.route_localnet)).then(|| Answers {
            interface: interface.clone(),
            own: own.ignore,
            all: all.ignore,
            effective,
            route_localnet: seen.route_localnet,
        })
    };
    seen.lan.interfaces.iter().filter_map(answers).collect()
}

/// Whether neighbours do not learn of a VIP on `lo`: on each interface that clients reach,
/// requests for it stay unanswered, and it is not named as the sender of the node's own.
pub(super) fn is_hidden(config: &Config, seen: &Observation) -> bool {
    let vips = || config.vips.iter().copied().filter(IpAddr::is_ipv4);
    let hides = |interface: &String| {
        let Some(counts) = seen.effective_arp(interface) else { return true };
        let named = |vip| !counts.announce.hides_loopback_vip(lan::is_near(vip, interface, &seen.addresses));
        counts.ignore.hides_loopback_vip(true, seen.route_localnet) && !vips().any(named)
    };
    seen.lan.interfaces.iter().all(hides)
}

/// Where ARP settings are to be set and cannot be: none of them may be needed. A VIP on `lo` that
/// neighbours learn of draws clients away from the director.
pub(super) fn refuse_read_only_arp(config: &Config, seen: &Observation) -> Result<()> {
    let Some(wanted) = config.arp.as_ref().filter(|_| seen.read_only.contains(&Tree::Arp)) else { return Ok(()) };
    if is_hidden(config, seen) || !config.vips.iter().any(IpAddr::is_ipv4) {
        return Ok(());
    }
    let names: Vec<String> = targets(wanted.scope, seen).iter().map(ToString::to_string).collect();
    let settings: Vec<String> = names
        .iter()
        .flat_map(|name| {
            let of = format!("net/ipv4/conf/{name}");
            [
                format!("{of}/arp_ignore={}", wanted.settings.ignore),
                format!("{of}/arp_announce={}", wanted.settings.announce),
            ]
        })
        .collect();
    let reason =
        format!("/proc/sys is read-only here, and neighbours would learn of a VIP on lo: {}", on_the_host(&settings));
    Err(Error::invalid(format!("ARP on {}", names.join(", ")), reason))
}

/// The command that the host sets these with, in this network namespace.
fn on_the_host(settings: &[String]) -> String {
    format!(
        "set it on the host: `sysctl -w {}` (for a container with a network of its own behind `nsenter --net --target PID`)",
        settings.join(" ")
    )
}

/// The sysctls of IPVS that the node needs, that differ, and that it does not set: they are left
/// alone, or cannot be set.
pub(super) fn unset_sysctls(
    config: &Config,
    state: &State,
    seen: &Observation,
    persistent: bool,
) -> BTreeMap<String, String> {
    if config.ipvs_sysctls == IpvsSysctls::Managed && !seen.read_only.contains(&Tree::Ipvs) {
        return BTreeMap::new();
    }
    let mut needed = wanted_sysctls(config, state, persistent);
    needed.retain(|name, value| differs(seen, name, value));
    needed
}

/// The sysctls of IPVS that are to be set, and cannot be.
pub(super) fn sysctl_warning(config: &Config, state: &State, seen: &Observation, persistent: bool) -> Option<String> {
    let unset = unset_sysctls(config, state, seen, persistent);
    (config.ipvs_sysctls == IpvsSysctls::Managed && !unset.is_empty()).then(|| told(&unset))
}

/// What it means that these are not set.
fn told(unset: &BTreeMap<String, String>) -> String {
    format!(
        "sysctls of IPVS differ from what this node needs, and /proc/sys is read-only here: connections may break when the director          changes; {}, or leave them alone ([sysctl] manage = false)",
        on_the_host(&shown_sysctls(unset))
    )
}

/// As sysctl(8) takes them.
pub(super) fn shown_sysctls(unset: &BTreeMap<String, String>) -> Vec<String> {
    unset.iter().map(|(name, value)| setting(name, value)).collect()
}

/// `net.ipv4.vs.sloppy_tcp=1`, as sysctl(8) takes it in a shell.
fn setting(name: &str, value: &str) -> String {
    match value.contains(' ') {
        true => format!("net.ipv4.vs.{name}=\"{value}\""),
        false => format!("net.ipv4.vs.{name}={value}"),
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
/// `persistent`: one of the user's services is persistent. None where they are left alone.
pub(super) fn needed_sysctls(config: &Config, state: &State, persistent: bool) -> BTreeMap<String, String> {
    match config.ipvs_sysctls {
        IpvsSysctls::Managed => wanted_sysctls(config, state, persistent),
        IpvsSysctls::LeftAlone => BTreeMap::new(),
    }
}

/// Sysctls that the node's fence and sync daemons need, also where another program sets them.
pub(super) fn wanted_sysctls(config: &Config, state: &State, persistent: bool) -> BTreeMap<String, String> {
    let mut needed = state.mended.clone();
    let of_fence = fence::sysctls(config.fence, persistent).into_iter();
    let of_fence = of_fence.filter(|(name, _)| config.syncs() || !name.starts_with("sync_"));
    needed.extend(of_fence.map(|(name, value)| (name.to_owned(), value)));
    if config.vip_owner == VipOwner::Routes {
        // A router may send an ICMP error to another node than the session that it is about. The
        // hash is that of the session (`ip_vs_in_icmp()` in net/netfilter/ipvs/ip_vs_core.c).
        needed.insert(ipvs::settings::SCHEDULE_ICMP.name().to_owned(), "1".to_owned());
    }
    needed
}

/// Sysctls that the node needs, and those that an earlier fence needed.
pub(super) fn sysctl_steps(config: &Config, state: &State, seen: &Observation, persistent: bool) -> Vec<Step> {
    if seen.read_only.contains(&Tree::Ipvs) {
        return Vec::new();
    }
    let needed = needed_sysctls(config, state, persistent);
    let obsolete = state.sysctls.iter().filter(|(name, _)| !needed.contains_key(*name));
    let mut steps: Vec<Step> = obsolete.filter_map(|(name, values)| sysctl_back(name, values, seen)).collect();
    for (name, value) in needed {
        if differs(seen, &name, &value) {
            steps.push(Step::Sysctl { name, value, back: false });
        }
    }
    steps
}

/// A kernel that lacks a setting has nothing to be set.
fn differs(seen: &Observation, name: &str, value: &str) -> bool {
    seen.sysctls.get(name).and_then(Option::as_ref).is_some_and(|now| now != value)
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
    use super::super::fence::Fence;
    use super::super::model::{World, config, ip, located};
    use super::super::role::Role;
    use super::*;
    use crate::arp::Settings;
    use crate::vip::Scope;

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
            world.seen.lan.of_others = ["eth2".to_owned()].into();
            world.memory.state.arp = ["eth0", "eth1", "eth2"].map(|name| change(name, (0, 0), (1, 2))).into();
            world.seen.arp = ["eth0", "eth1", "eth2"].map(|name| (on(name), settings((1, 2)))).into();
            set_up(&mut world);
            let steps = obsolete_arp(&world.config, &world.memory.state, &world.seen);
            steps.iter().map(|step| format!("{step}\n")).collect::<String>()
        };
        let restore = |name: &str| format!("ARP: restore {name} arp_ignore=0 arp_announce=0\n");
        assert_eq!(back(|_| ()), restore("eth1"));
        assert_eq!(back(|world| world.seen.lan.of_others.clear()), restore("eth1") + &restore("eth2"));
        assert_eq!(back(|world| world.seen.arp[1].1 = Settings::KERNEL), "");
        assert_eq!(back(|world| world.config.arp = None), "");
    }

    #[test]
    fn settings_follow_the_interfaces_that_clients_reach() {
        let mut world = World::new(config(Fence::Marks));
        world.seen.lan.interfaces = ["eth0", "eth1", "gone"].map(str::to_owned).into();
        world.seen.arp.push((on("eth1"), settings((0, 2))));
        let steps = |world: &World| -> Vec<String> {
            arp_steps(&world.config, &world.seen).iter().map(Step::to_string).collect()
        };
        let set = |name: &str, announce| {
            format!("ARP: {name} arp_ignore=0 arp_announce={announce} -> arp_ignore=1 arp_announce=2")
        };
        assert_eq!(steps(&world), [set("eth0", 0), set("eth1", 2)]);
        assert!(!is_hidden(&world.config, &world.seen));
        assert!(world.take_on(Role::Backup).contains(&set("eth1", 2)));
        assert!(steps(&world).is_empty() && is_hidden(&world.config, &world.seen));
        // One of them is enough to be found.
        for counts in [settings((0, 2)), settings((1, 0)), settings((3, 2)), settings((1, 1))] {
            let mut seen = world.seen.clone();
            seen.arp.last_mut().unwrap().1 = counts;
            seen.addresses.push(located("192.0.2.111", "eth1", Scope::Global));
            assert_eq!(is_hidden(&world.config, &seen), counts == settings((3, 2)), "{counts}");
            let found: Vec<String> = answering(&Config { arp: None, ..world.config.clone() }, &seen)
                .into_iter()
                .map(|found| found.interface)
                .collect();
            assert_eq!(found == ["eth1"], counts.ignore.value() == 0, "{counts} {found:?}");
        }
        // An interface that left the link gets back what it had.
        world.seen.lan.interfaces.truncate(1);
        let back = world.take_on(Role::Backup);
        assert!(back.contains("ARP: restore eth1 arp_ignore=0 arp_announce=2"), "{back}");
    }

    #[test]
    fn a_node_warns_of_settings_that_answer_for_a_vip_on_lo() {
        let warning = |wanted: Option<ArpScope>, own: i32, all: i32, localnet: bool, vip: &str| {
            let mut world = World::new(config(Fence::Marks));
            world.config.vips = vec![ip(vip)];
            world.config.arp = wanted.map(|scope| ArpConfig { settings: settings((1, 2)), scope });
            world.seen.arp = vec![(on("eth0"), settings((own, 0))), (ArpTarget::All, settings((all, 0)))];
            world.seen.arp_all = settings((all, 0));
            world.seen.route_localnet = localnet;
            let [warning] = &answering(&world.config, &world.seen)[..] else { return None };
            Some(warning.to_string().split_once(": this node answers").unwrap().0.to_owned())
        };
        let (eth0, all) = (Some(ArpScope::Reached), Some(ArpScope::All));
        for (wanted, own, of_all, localnet, expected) in [
            (None, 0, 0, false, Some("0 (the greater of 0 and, for all, 0)")),
            (None, 1, 0, false, None),
            (None, 0, 1, false, None),
            (eth0, 0, 0, false, None),
            (all, 0, 0, false, None),
            (all, 3, 0, true, Some("3 (the greater of 3 and, for all, 1) with route_localnet on")),
            (eth0, 0, 3, false, None),
            (eth0, 0, 3, true, Some("3 (the greater of 1 and, for all, 3) with route_localnet on")),
        ] {
            let found = warning(wanted, own, of_all, localnet, "192.0.2.254");
            let expected = expected.map(|text| format!("arp_ignore on eth0 is {text}"));
            assert_eq!(found, expected, "{wanted:?} {own} {of_all} {localnet}");
            assert_eq!(warning(wanted, own, of_all, localnet, "2001:db8::fe"), None);
        }
    }

    /// As in a container.
    #[test]
    fn what_cannot_be_set_is_told_and_refused_where_it_is_needed() {
        let mut world = World::new(config(Fence::Marks));
        world.seen.read_only = [Tree::Arp, Tree::Ipvs].into();
        for role in [Role::Master, Role::Backup] {
            let error = world.plan(role).unwrap_err().to_string();
            let command = "sysctl -w net/ipv4/conf/eth0/arp_ignore=1 net/ipv4/conf/eth0/arp_announce=2";
            assert!(error.contains("ARP on eth0") && error.contains(command), "{error}");
        }
        // The host has silenced all of them.
        world.seen.arp_all = settings((1, 2));
        let plan = world.plan(Role::Backup).unwrap();
        assert!(!plan.steps().iter().any(|step| matches!(step, Step::Arp(_) | Step::Sysctl { .. })), "{plan}");
        let [warning] = plan.warnings() else { panic!("{plan}") };
        let settings = "net.ipv4.vs.sloppy_tcp=1 net.ipv4.vs.sync_persist_mode=1 net.ipv4.vs.sync_threshold=\"2 0\"";
        assert!(warning.contains(&format!("`sysctl -w {settings}`")), "{warning}");
        world.take_on(Role::Backup);
        world.take_on(Role::Master);
        assert!(world.memory.state.arp.is_empty() && world.memory.state.sysctls.is_empty());

        // Left alone, nothing is said; what was set earlier is given back.
        world.config.ipvs_sysctls = IpvsSysctls::LeftAlone;
        assert_eq!(world.plan(Role::Backup).unwrap().warnings(), [""; 0]);
        world.seen.read_only.clear();
        world.seen.sysctls.insert("sloppy_tcp".into(), Some("1".into()));
        world.memory.state.sysctls = sysctls(&[("sloppy_tcp", "0", "1")]);
        let plan = world.plan(Role::Backup).unwrap().to_string();
        assert!(
            plan.contains("sysctl: restore net.ipv4.vs.sloppy_tcp = 0") && !plan.contains("sync_threshold"),
            "{plan}"
        );
        let unset = unset_sysctls(&world.config, &world.memory.state, &world.seen, false);
        assert_eq!(unset.keys().collect::<Vec<_>>(), ["sync_persist_mode", "sync_threshold"]);
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
