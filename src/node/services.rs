//! Whose the services are: those of the configuration are loaded once, and then belong to their
//! editors. Pure.

use std::collections::BTreeSet;

use super::config::Config;
use super::fence::marks::MarkValues;
use super::state::Legacy;
use crate::ipvs::{Change, Destination, Service, ServiceId, Table};

/// How a configuration is brought into a table that others edit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "snake_case"))]
pub enum Apply {
    /// What the configuration has changed since it was loaded last; what others have changed
    /// stays.
    Changes,
    /// All of it: what others have changed is undone.
    All,
}

/// Whether a service is of this node's table: one of the configuration or of an earlier one, or,
/// where none are configured, one on a VIP. Services of firewall marks are of the table of a node
/// with a single group of VIPs.
pub(super) fn is_ours(config: &Config, loaded: &Table, id: &ServiceId) -> bool {
    if config.mark_values().owns(id) {
        return false;
    }
    match &config.services {
        Some(services) => services.service(id).is_some() || loaded.service(id).is_some(),
        None => match id.address() {
            Some(address) => config.vips.contains(&address.ip()),
            None => config.groups.len() == 1,
        },
    }
}

/// Whether a service of a table that several groups had is of this one: by its configuration or by
/// its VIP.
pub(super) fn is_of_group(config: &Config, id: &ServiceId) -> bool {
    is_ours(config, &Table::new(), id) || id.address().is_some_and(|address| config.vips.contains(&address.ip()))
}

/// The services that the kernel must have, given those that it has, and those that were loaded
/// from an earlier configuration.
///
/// Nothing of the configuration is there (a first role, a reboot, a flush): all of it. Otherwise
/// the table belongs to its editors, and only what differs between the two configurations is
/// changed.
pub(super) fn desired(wanted: &Table, loaded: &Table, live: &Table, apply: Apply) -> Table {
    let known = |id: &ServiceId| wanted.service(id).is_some() || loaded.service(id).is_some();
    let present = live.filtered(known);
    if apply == Apply::All || present.is_empty() {
        return wanted.clone();
    }
    if wanted == loaded {
        return present;
    }
    let mut table = present.clone();
    let ids: BTreeSet<ServiceId> =
        wanted.services().chain(loaded.services()).map(|content| content.service.id).collect();
    for id in ids {
        let (new, old, now) = (wanted.service(&id), loaded.service(&id), present.service(&id));
        let Some(new) = new else {
            table.remove(&id);
            continue;
        };
        // Another program has removed it since it was loaded.
        if old.is_some() && now.is_none() {
            continue;
        }
        // Found running at the first role: its editor's.
        if old.is_none() && loaded.is_empty() && now.is_some() {
            continue;
        }
        if old.is_none_or(|old| old.service != new.service) {
            table.insert(new.service.clone());
        }
        let old_destination = |d: &Destination| old.and_then(|old| old.destination(d.address));
        for destination in new.destinations().filter(|d| old_destination(d) != Some(*d)) {
            // Its service is in the table: it was there, or was inserted just now.
            let _ = table.insert_destination(&id, destination.clone());
        }
        let gone = old.into_iter().flat_map(|old| old.destinations()).filter(|d| new.destination(d.address).is_none());
        for destination in gone {
            table.remove_destination(&id, destination.address);
        }
    }
    table
}

/// The table that a node of an earlier version had, given the kernel's: its fence `quiesce` has
/// set the weights of all servers but this node to 0, which is undone.
pub(super) fn thawed(legacy: Legacy, before: &Table, live: &Table) -> Table {
    if live.is_empty() {
        return before.clone();
    }
    let mut table = live.clone();
    if legacy == Legacy::Quiesced {
        table.edit_destinations(|id, destination| {
            let before = before.service(id).and_then(|content| content.destination(destination.address));
            if let (0, Some(before)) = (destination.weight, before) {
                destination.weight = before.weight;
            }
        });
    }
    table
}

/// A service that may have a scheduler or persistence engine which the kernel lacks, and the
/// firewall mark to try that with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Trial {
    pub(super) service: Service,
    pub(super) id: ServiceId,
}

/// What is to be tried before these changes are made, in a table that is seen: one service for each
/// scheduler, persistence engine and address family that no service there has.
pub(super) fn trials<'a>(changes: impl Iterator<Item = &'a Change>, seen: &Table, values: MarkValues) -> Vec<Trial> {
    let kind = |service: &Service| (service.scheduler.clone(), service.engine.clone(), service.id.family());
    let mut known: BTreeSet<_> = seen.services().map(|content| kind(content.service)).collect();
    let added = changes.filter_map(|change| match change {
        Change::AddService(service) | Change::ReplaceService(service) => Some(service),
        _ => None,
    });
    let unknown: Vec<&Service> = added.filter(|service| known.insert(kind(service))).collect();
    let trial = |service: &Service| {
        let of = |mark| ServiceId::Fwmark { mark, family: service.id.family() };
        let id = values.all().rev().map(of).find(|id| seen.service(id).is_none())?;
        Some(Trial { service: service.clone(), id })
    };
    unknown.into_iter().filter_map(trial).collect()
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

/// Which of the loaded services is remembered as a sign that the table is there.
pub(super) fn sign(config: &Config) -> Option<ServiceId> {
    config.services.as_ref()?.services().next().map(|content| content.service.id)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ipvs;

    const LOADED: &str = "\
-A -t 192.0.2.1:80 -s wrr
-a -t 192.0.2.1:80 -r 10.0.0.1:80 -g -w 3
-a -t 192.0.2.1:80 -r 10.0.0.2:80 -g -w 4
-A -t 192.0.2.1:443 -s wrr
-a -t 192.0.2.1:443 -r 10.0.0.2:443 -g -w 4
";

    fn read(text: &str) -> Table {
        text.parse().unwrap()
    }

    fn desire(wanted: &str, loaded: &str, live: &str) -> String {
        desired(&read(wanted), &read(loaded), &read(live), Apply::Changes).to_string()
    }

    #[test]
    fn services_of_the_configuration_and_on_its_vips_are_the_nodes() {
        let mut config = Config::new("eth0", ["192.0.2.1".parse().unwrap()]);
        let mark = format!("fwmark {}", config.marks.values.local());
        let loaded = read(&format!("-A -t 192.0.2.1:53 -s rr\n-A -f {} -s rr\n", config.marks.values.local()));
        // Whose each is: with services in the configuration, with none, and with none and a second
        // group.
        for (id, expected) in [
            ("tcp 192.0.2.1:80", [true, true, true]),
            ("tcp 192.0.2.1:53", [true, true, true]),
            ("tcp 192.0.2.1:25", [false, true, true]),
            ("tcp 192.0.2.9:80", [false, false, false]),
            ("fwmark 7", [false, true, false]),
            (&mark, [false, false, false]),
        ] {
            let id = id.parse().unwrap();
            let groups = [vec![""], vec![""], vec!["", "mail"]];
            let found = [Some(read(LOADED)), None, None].into_iter().zip(groups).map(|(services, groups)| {
                config.services = services;
                config.groups = groups.into_iter().map(str::to_owned).collect();
                is_ours(&config, &loaded, &id)
            });
            assert_eq!(found.collect::<Vec<_>>(), expected, "{id}");
        }
    }

    #[test]
    fn what_the_kernel_may_lack_is_tried_once() {
        let values = MarkValues::new(100).unwrap();
        let seen = read("-A -t 192.0.2.9:80 -s rr\n-A -f 355 -s rr\n");
        let tried = |wanted: &str| {
            let wanted = read(wanted);
            let changes = ipvs::Plan::between(&Table::new(), &wanted);
            let tried = trials(changes.changes().iter(), &seen, values);
            let words: Vec<String> = tried.iter().map(|trial| format!("{} as {}", trial.service, trial.id)).collect();
            words.join(", ")
        };
        assert_eq!(tried("-A -t 192.0.2.1:80 -s rr\n"), "");
        assert_eq!(tried(LOADED), "-A -t 192.0.2.1:80 -s wrr as fwmark 354");
        assert_eq!(
            tried("-A -u 192.0.2.1:5060 -s rr -p 60 --pe sip -o\n-A -t [2001:db8::1]:80 -s rr\n"),
            "-A -u 192.0.2.1:5060 -s rr -p 60 --pe sip -o as fwmark 354, -A -t [2001:db8::1]:80 -s rr as fwmark 355 ipv6"
        );
    }

    #[test]
    fn services_are_loaded_where_all_are_missing() {
        assert_eq!(desire(LOADED, "", ""), LOADED);
        assert_eq!(desire(LOADED, LOADED, ""), LOADED);
        // Another program owns it.
        assert_eq!(desire(LOADED, LOADED, "-A -t 192.0.2.9:80 -s rr\n"), LOADED);
    }

    #[test]
    fn what_others_have_changed_stays() {
        let checked = LOADED.replace("0.2:80 -g -w 4", "0.2:80 -g -w 0");
        let removed = LOADED.replace("-a -t 192.0.2.1:80 -r 10.0.0.2:80 -g -w 4\n", "");
        let one = LOADED[..LOADED.find("-A -t 192.0.2.1:443").unwrap()].to_owned();
        let more = format!("{LOADED}-a -t 192.0.2.1:443 -r 10.0.0.9:443 -g -w 1\n");
        for live in [checked, removed, one, more, LOADED.replace("-s wrr", "-s wlc")] {
            assert_eq!(desire(LOADED, LOADED, &live), read(&live).to_string());
            // Found running at the first role.
            if live.contains(":443") {
                assert_eq!(desire(LOADED, "", &live), read(&live).to_string());
            }
        }
        // One that was removed stays so beside one that the configuration lacks now.
        let [web, mail, more] = [80, 25, 53].map(|port| format!("-A -t 192.0.2.1:{port} -s rr\n"));
        assert_eq!(desire(&format!("{web}{more}"), &format!("{web}{mail}"), &mail), more);
        let all = desired(&read(LOADED), &read(LOADED), &read(&LOADED.replace("-w 4", "-w 0")), Apply::All);
        assert_eq!(all.to_string(), LOADED);
    }

    #[test]
    fn a_configuration_that_was_changed_changes_only_that() {
        let live = LOADED.replace("0.2:80 -g -w 4", "0.2:80 -g -w 0");
        let new = LOADED.replace("-w 3", "-w 7");
        assert_eq!(desire(&new, LOADED, &live), live.replace("-w 3", "-w 7"));
        let more = "-A -t 192.0.2.1:8080 -s mh\n-a -t 192.0.2.1:8080 -r 10.0.0.1:8080 -g -w 1\n";
        assert_eq!(
            desire(&format!("{LOADED}{more}"), LOADED, &live),
            format!("{}{more}", read(&live)).parse::<Table>().unwrap().to_string()
        );
        let less = LOADED[..LOADED.find("-A -t 192.0.2.1:443").unwrap()].to_owned();
        assert_eq!(desire(&less, LOADED, &live), live[..live.find("-A -t 192.0.2.1:443").unwrap()]);
        let without = LOADED.replace("-a -t 192.0.2.1:80 -r 10.0.0.1:80 -g -w 3\n", "");
        assert_eq!(desire(&without, LOADED, &live), live.replace("-a -t 192.0.2.1:80 -r 10.0.0.1:80 -g -w 3\n", ""));
        assert_eq!(desire(&LOADED.replace("wrr", "mh"), LOADED, &live), live.replace("wrr", "mh"));
    }

    #[test]
    fn weights_that_quiesce_took_away_come_back() {
        let before = read(LOADED);
        let live = read(&LOADED.replace("-w 4", "-w 0").replace("-w 3", "-w 1"));
        assert_eq!(thawed(Legacy::Quiesced, &before, &live).to_string(), LOADED.replace("-w 3", "-w 1"));
        assert_eq!(thawed(Legacy::Whole, &before, &live), live);
        assert_eq!(thawed(Legacy::Quiesced, &before, &Table::new()), before);
    }
}
