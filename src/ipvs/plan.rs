//! What changes one table into another, in an order that breaks no served connection on its way.

use std::cmp::Ordering;
use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use super::table::compare;
use super::text::{DaemonLine, push_destination, push_id, push_server, push_service, write_line};
use super::{Destination, Service, ServiceId, SyncDaemon, SyncRole, Table, Timeouts, VirtualService};

/// One change of the table.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum Change {
    /// A new service.
    AddService(Service),
    /// A service is set otherwise; it keeps its destinations and connections.
    ReplaceService(Service),
    /// A service goes, with its destinations.
    RemoveService(ServiceId),
    /// A new destination.
    AddDestination(ServiceId, Destination),
    /// A destination is set otherwise; it keeps its connections.
    ReplaceDestination(ServiceId, Destination),
    /// A destination goes.
    RemoveDestination(ServiceId, Destination),
    /// Other timeouts.
    SetTimeouts(Timeouts),
    /// A sync daemon ends.
    StopDaemon(SyncRole),
    /// A sync daemon starts.
    StartDaemon(SyncDaemon),
}

impl Change {
    /// The service that it is about, if it is about one.
    pub fn service(&self) -> Option<&ServiceId> {
        match self {
            Change::AddService(service) | Change::ReplaceService(service) => Some(&service.id),
            Change::RemoveService(id) => Some(id),
            Change::AddDestination(id, _) | Change::ReplaceDestination(id, _) | Change::RemoveDestination(id, _) => {
                Some(id)
            }
            Change::SetTimeouts(_) | Change::StopDaemon(_) | Change::StartDaemon(_) => None,
        }
    }
}

/// As the command of ipvsadm(8) that does the same.
impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut line = Vec::new();
        match self {
            Change::AddService(service) => return write!(f, "{service}"),
            Change::ReplaceService(service) => {
                push_service(&mut line, service);
                line[..2].copy_from_slice(b"-E");
            }
            Change::RemoveService(id) => {
                line.extend(b"-D ");
                push_id(&mut line, id);
            }
            Change::AddDestination(id, destination) => push_destination(&mut line, id, destination),
            Change::ReplaceDestination(id, destination) => {
                push_destination(&mut line, id, destination);
                line[..2].copy_from_slice(b"-e");
            }
            Change::RemoveDestination(id, destination) => {
                line.extend(b"-d ");
                push_id(&mut line, id);
                push_server(&mut line, destination.address);
            }
            Change::SetTimeouts(timeouts) => return write!(f, "{timeouts}"),
            Change::StopDaemon(role) => return write!(f, "--stop-daemon {role}"),
            Change::StartDaemon(daemon) => return write!(f, "{}", DaemonLine(daemon)),
        }
        write_line(f, &line)
    }
}

/// The changes from one table to another, in order. Printed, it is a list of ipvsadm commands.
///
/// What is added comes first, then what changes, then what goes: no destination goes before its
/// replacement is there. A service that stays is never taken down, and neither is a destination
/// that stays: their connections live on.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct Plan {
    changes: Vec<Change>,
    /// The services that it replaces or removes, or whose destinations it does, as they were.
    #[cfg_attr(feature = "serde", serde(skip))]
    before: Table,
}

impl Plan {
    /// What makes `wanted` out of `seen`. Services that are only in `seen` go: leave those of
    /// others out of it, see [`Table::filtered`].
    ///
    /// ```
    /// use lvs_dr::ipvs::{Plan, Table};
    ///
    /// let seen: Table = "-A -t 192.0.2.1:80 -s rr\n-a -t 192.0.2.1:80 -r 10.0.0.1:80 -g -w 1".parse()?;
    /// let wanted: Table = "-A -t 192.0.2.1:80 -s wrr\n-a -t 192.0.2.1:80 -r 10.0.0.2:80 -g -w 1".parse()?;
    /// let plan = Plan::between(&seen, &wanted);
    /// assert_eq!(plan.to_string(), "\
    /// -a -t 192.0.2.1:80 -r 10.0.0.2:80 -g -w 1
    /// -E -t 192.0.2.1:80 -s wrr
    /// -d -t 192.0.2.1:80 -r 10.0.0.1:80
    /// ");
    /// # Ok::<(), lvs_dr::Error>(())
    /// ```
    pub fn between(seen: &Table, wanted: &Table) -> Self {
        let (mut add, mut replace, mut remove, mut gone) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let by_id = |one: &VirtualService<'_>, other: &VirtualService<'_>| one.service.id.cmp(&other.service.id);
        for (old, new) in merge(seen.services(), wanted.services(), by_id) {
            let Some(new) = new else {
                gone.extend(old.map(|old| old.service.id));
                continue;
            };
            // Tables that come of each other share what they have in common.
            if old.is_some_and(|old| std::ptr::eq(old.service, new.service)) {
                continue;
            }
            let id = new.service.id;
            match old {
                None => add.push(Change::AddService(new.service.clone())),
                Some(old) if old.service != new.service => replace.push(Change::ReplaceService(new.service.clone())),
                Some(_) => {}
            }
            let by_address = |one: &&Destination, other: &&Destination| compare(&one.address, &other.address);
            let old = old.into_iter().flat_map(|old| old.destinations());
            for found in merge(old, new.destinations(), by_address) {
                match found {
                    (None, Some(new)) => add.push(Change::AddDestination(id, new.clone())),
                    (Some(old), Some(new)) if old != new => replace.push(Change::ReplaceDestination(id, new.clone())),
                    (Some(old), None) => remove.push(Change::RemoveDestination(id, old.clone())),
                    _ => {}
                }
            }
        }
        // The last goes first: the kernel keeps destinations that are gone for two minutes, the
        // last one in front, and looks for each that is added among them (`ip_vs_trash_get_dest()`
        // in net/netfilter/ipvs/ip_vs_ctl.c). A program that adds them again in order finds each in
        // front.
        remove.extend(gone.into_iter().rev().map(Change::RemoveService));

        let touched: BTreeSet<ServiceId> = replace.iter().chain(&remove).filter_map(Change::service).copied().collect();
        // A service's own change comes before that of its destinations: both are in order within
        // `replace`.
        let mut changes = add;
        changes.extend(replace);
        changes.extend(remove);
        changes.extend(timeouts(seen, wanted));
        changes.extend(daemons(seen, wanted));
        let mut before = seen.filtered(|id| touched.contains(id));
        before.timeouts = None;
        before.daemons.clear();
        Plan { changes, before }
    }

    /// What takes the change with this index back, where the timeouts and daemons were these.
    pub(super) fn inverse(&self, index: usize, settings: &Table) -> Vec<Change> {
        let old = |id: &ServiceId| self.before.service(id);
        match &self.changes[index] {
            Change::AddService(service) => vec![Change::RemoveService(service.id)],
            Change::ReplaceService(service) => {
                old(&service.id).map(|old| Change::ReplaceService(old.service.clone())).into_iter().collect()
            }
            Change::RemoveService(id) => {
                let Some(old) = old(id) else { return Vec::new() };
                let destinations = old.destinations().map(|found| Change::AddDestination(*id, found.clone()));
                [Change::AddService(old.service.clone())].into_iter().chain(destinations).collect()
            }
            Change::AddDestination(id, added) => vec![Change::RemoveDestination(*id, added.clone())],
            Change::ReplaceDestination(id, new) => {
                let old = old(id).and_then(|old| old.destination(new.address));
                old.map(|old| Change::ReplaceDestination(*id, old.clone())).into_iter().collect()
            }
            Change::RemoveDestination(id, removed) => vec![Change::AddDestination(*id, removed.clone())],
            Change::SetTimeouts(_) => settings.timeouts.map(Change::SetTimeouts).into_iter().collect(),
            Change::StopDaemon(role) => {
                settings.daemons.get(role).cloned().flatten().map(Change::StartDaemon).into_iter().collect()
            }
            Change::StartDaemon(daemon) => vec![Change::StopDaemon(daemon.role)],
        }
    }

    /// The changes, in order.
    pub fn changes(&self) -> &[Change] {
        &self.changes
    }

    /// Whether nothing is to be done.
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }
}

impl Table {
    /// Whether it is as this change of a service makes it.
    pub(super) fn shows(&self, change: &Change) -> bool {
        match change {
            Change::AddService(new) | Change::ReplaceService(new) => {
                self.service(&new.id).is_some_and(|found| found.service == new)
            }
            Change::RemoveService(id) => self.service(id).is_none(),
            Change::AddDestination(id, new) | Change::ReplaceDestination(id, new) => {
                self.service(id).is_some_and(|found| found.destination(new.address) == Some(new))
            }
            Change::RemoveDestination(id, old) => {
                self.service(id).is_none_or(|found| found.destination(old.address).is_none())
            }
            Change::SetTimeouts(_) | Change::StopDaemon(_) | Change::StartDaemon(_) => false,
        }
    }
}

/// Two lists in the same order as one: what is equal in it comes together.
fn merge<T>(
    one: impl IntoIterator<Item = T>,
    other: impl IntoIterator<Item = T>,
    order: impl Fn(&T, &T) -> Ordering,
) -> impl Iterator<Item = (Option<T>, Option<T>)> {
    let (mut one, mut other) = (one.into_iter().peekable(), other.into_iter().peekable());
    std::iter::from_fn(move || {
        let order = match (one.peek(), other.peek()) {
            (Some(one), Some(other)) => order(one, other),
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (None, None) => return None,
        };
        Some(match order {
            Ordering::Less => (one.next(), None),
            Ordering::Equal => (one.next(), other.next()),
            Ordering::Greater => (None, other.next()),
        })
    })
}

/// A time of 0 stays as it is.
fn timeouts(seen: &Table, wanted: &Table) -> Option<Change> {
    let same = |seen: Duration, wanted: Duration| wanted.is_zero() || seen == wanted;
    let wanted = wanted.timeouts?;
    let met = seen.timeouts.is_some_and(|seen| {
        same(seen.tcp, wanted.tcp) && same(seen.tcp_fin, wanted.tcp_fin) && same(seen.udp, wanted.udp)
    });
    (!met).then_some(Change::SetTimeouts(wanted))
}

/// A daemon cannot be changed while it runs. Both stop before either starts.
fn daemons(seen: &Table, wanted: &Table) -> Vec<Change> {
    let (mut stop, mut start) = (Vec::new(), Vec::new());
    for (role, wanted) in &wanted.daemons {
        let seen = seen.daemons.get(role).and_then(Option::as_ref);
        match (seen, wanted) {
            (Some(seen), Some(wanted)) if wanted.is_met_by(seen) => continue,
            (None, None) => continue,
            _ => {}
        }
        stop.extend(seen.map(|_| Change::StopDaemon(*role)));
        start.extend(wanted.clone().map(Change::StartDaemon));
    }
    stop.into_iter().chain(start).collect()
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.changes.iter().try_for_each(|change| writeln!(f, "{change}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(seen: &str, wanted: &str) -> String {
        Plan::between(&seen.parse().unwrap(), &wanted.parse().unwrap()).to_string()
    }

    const WEB: &str = "-A -t 1.2.3.4:80 -s rr\n-a -t 1.2.3.4:80 -r 10.0.0.1:80 -g -w 1\n";

    #[test]
    fn equal_tables_need_nothing() {
        assert_eq!(plan(WEB, WEB), "");
    }

    #[test]
    fn replacements_come_before_removals() {
        let other = "-A -t 1.2.3.4:80 -s rr\n-a -t 1.2.3.4:80 -r 10.0.0.2:80 -g -w 1\n";
        assert_eq!(plan(WEB, other), "-a -t 1.2.3.4:80 -r 10.0.0.2:80 -g -w 1\n-d -t 1.2.3.4:80 -r 10.0.0.1:80\n");
        let moved = WEB.replace("1.2.3.4", "1.2.3.5");
        assert_eq!(plan(WEB, &moved), format!("{moved}-D -t 1.2.3.4:80\n"));
        // The kernel adds them again in a fraction of the time where the last was removed first.
        assert_eq!(plan(&format!("{WEB}{moved}"), ""), "-D -t 1.2.3.5:80\n-D -t 1.2.3.4:80\n");
    }

    #[test]
    fn timeouts_and_daemons_count_where_they_are_named() {
        let daemon = "--start-daemon backup --mcast-interface eth0 --syncid 1\n";
        assert_eq!(plan("--set 900 120 300\n", ""), "");
        assert_eq!(plan("--set 900 120 300\n", "--set 900 0 300\n"), "");
        assert_eq!(plan("--set 900 120 300\n", "--set 900 60 300\n"), "--set 900 60 300\n");
        assert_eq!(plan(daemon, WEB), WEB);
        assert_eq!(plan(daemon, daemon), "");
        assert_eq!(plan("", daemon), daemon);
        assert_eq!(plan(daemon, "--stop-daemon backup\n"), "--stop-daemon backup\n");
        let other = "--start-daemon master --mcast-interface eth0 --syncid 1\n";
        assert_eq!(plan(daemon, &format!("--stop-daemon backup\n{other}")), format!("--stop-daemon backup\n{other}"));
    }

    #[test]
    fn every_field_counts() {
        let table = |service: &str, destination: &str| {
            format!("-A -t 1.2.3.4:80 {service}\n-a -t 1.2.3.4:80 -r 10.0.0.1:80 {destination}\n")
        };
        let plain = table("-s rr", "-g -w 1");
        for (service, destination, change) in [
            ("-s wrr", "-g -w 1", "-E -t 1.2.3.4:80 -s wrr\n"),
            ("-s rr -p 60", "-g -w 1", "-E -t 1.2.3.4:80 -s rr -p 60\n"),
            ("-s rr -b flag-2", "-g -w 1", "-E -t 1.2.3.4:80 -s rr -b flag-2\n"),
            ("-s rr", "-g -w 0", "-e -t 1.2.3.4:80 -r 10.0.0.1:80 -g -w 0\n"),
            ("-s rr", "-i -w 1", "-e -t 1.2.3.4:80 -r 10.0.0.1:80 -i -w 1 --tun-type ipip\n"),
            ("-s rr", "-g -w 1 -x 5", "-e -t 1.2.3.4:80 -r 10.0.0.1:80 -g -w 1 -x 5\n"),
            ("-s rr", "-g -w 1 -x 5 -y 3", "-e -t 1.2.3.4:80 -r 10.0.0.1:80 -g -w 1 -x 5 -y 3\n"),
        ] {
            assert_eq!(plan(&plain, &table(service, destination)), change);
        }
    }
}
