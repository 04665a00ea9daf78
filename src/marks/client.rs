//! The client: observes and changes rules.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::ops::Range;

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use rustix::io::Errno;

use super::classifier;
use super::explain;
use super::filters::{self, Held, Request};
use super::plan::{Change, Plan};
use super::rule::Rule;
use super::wire::{self, CLASSIFIER_PRIORITY, EGRESS, Filter, INGRESS, PRIORITY, Slot};
use crate::error::{Cause, Error, Result};
use crate::interface;
use crate::netlink::{Failure, Outcome, PacketSockets, RouteClient, RouteMessage, is};
use crate::netns::Netns;

/// Reads and changes the rules of one owner in one network namespace; also reads neighbours,
/// routes and interfaces.
///
/// # Errors
/// Those that any of the calls can return; each names further ones:
/// - [`Error::Invalid`] for an interface name or rule that cannot be right, before the kernel is
///   asked.
/// - [`Error::Refused`] with the kernel's errno and words: [`Cause::Permission`] (`EPERM`),
///   [`Cause::NoInterface`] (`ENODEV`), [`Cause::NoTcModule`] (`ENOENT`), [`Cause::NoMemory`]
///   (`ENOMEM`, `ENOBUFS`).
/// - [`Error::System`], [`Error::NoAnswer`] and [`Error::Malformed`] when the exchange itself
///   fails. The next call then opens a new socket.
#[derive(Debug)]
pub struct Marks {
    pub(super) client: RouteClient,
    pub(super) owner: u64,
    /// What asks links for addresses.
    pub(super) sockets: PacketSockets,
}

/// The qdisc that holds the filters of arriving packets, see tc(8). An interface has at most one
/// of the two.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Qdisc {
    /// `clsact`: filters of arriving and of departing packets.
    Clsact,
    /// `ingress`: filters of arriving packets only.
    Ingress,
}

/// The rules and qdiscs of some interfaces.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Observed {
    /// Our rules.
    pub rules: BTreeSet<Rule>,
    /// Our rules in the form of an earlier version (`flower` filters, priorities 300 to 305). They
    /// work, and cost more.
    pub outdated: BTreeSet<Rule>,
    /// Each interface that exists, and its qdisc. A missing interface is absent.
    pub qdiscs: BTreeMap<String, Option<Qdisc>>,
    /// The interfaces whose `clsact` holds no filter, ours or another's, of arriving or departing
    /// packets.
    pub empty: BTreeSet<String>,
    /// The interfaces whose qdisc holds a filter that is not ours, of arriving or departing
    /// packets.
    pub others: BTreeSet<String>,
    /// The interfaces that have a classifier of this owner: [`Classifier::observe`] reads it.
    ///
    /// [`Classifier::observe`]: super::Classifier::observe
    pub classifiers: BTreeSet<String>,
    /// Filters of arriving packets that are not ours. One that sets a mark at a higher priority
    /// number overrides our marks. One at a lower number that ends the search (any verdict but
    /// `continue`) keeps our rules from being tried.
    pub foreign: Vec<Foreign>,
    /// Rules with our cookie and another owner's number.
    pub strangers: Vec<Stranger>,
}

/// Another program's filter of arriving packets.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Foreign {
    /// The interface.
    pub interface: String,
    /// The priority (`pref`): lower numbers are tried first.
    pub priority: u16,
    /// `flower`, `u32`, `bpf` and others.
    pub kind: String,
    /// The mark that it sets with skbedit. `None`: it sets none in this way; a `bpf` filter may
    /// set one by itself.
    pub mark: Option<u32>,
    /// Whether packets that it matches are not shown to filters of higher priority numbers: its
    /// last action, a skbedit, gact or mirred, has another control than `continue`.
    pub ends: bool,
    /// A short description for people.
    pub text: String,
}

/// A rule of another owner.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub struct Stranger {
    /// The owner's number.
    pub owner: u64,
    /// Its rule.
    pub rule: Rule,
}

/// `flower filter at priority 10 on eth0 (actions: skbedit; sets mark 7)`.
impl fmt::Display for Foreign {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Foreign {
    fn of(filter: &Filter, interface: &str, owner: u64) -> Self {
        let mark = filter.actions.iter().rev().find_map(|action| action.mark).map(|(mark, _)| mark);
        let mut details = Vec::new();
        if filter.owner() == Some(owner) {
            details.push("bears our cookie but is no rule of this version".to_string());
        }
        if filter.chain != 0 {
            details.push(format!("chain {}", filter.chain));
        }
        if !filter.actions.is_empty() {
            let kinds: Vec<&str> = filter.actions.iter().map(|action| action.kind.as_str()).collect();
            details.push(format!("actions: {}", kinds.join(", ")));
        }
        match mark {
            Some(mark) => details.push(format!("sets mark {mark}")),
            None if filter.kind == "bpf" => details.push("may set a mark".into()),
            None => {}
        }
        let mut text = format!("{} filter at priority {} on {interface}", filter.kind, filter.slot.priority);
        if !details.is_empty() {
            text.push_str(&format!(" ({})", details.join("; ")));
        }
        Foreign {
            interface: interface.into(),
            priority: filter.slot.priority,
            kind: filter.kind.clone(),
            mark,
            ends: filter.ends(),
            text,
        }
    }
}

impl Marks {
    /// A client of the calling thread's network namespace. `owner` tells rules of this user from
    /// those of other users of this crate in the same namespace: it must be the same after a
    /// restart.
    pub fn open(owner: u64) -> Result<Self> {
        Self::open_in(Netns::current()?, owner)
    }

    /// A client of this network namespace, whatever thread it is used from.
    pub fn open_in(netns: Netns, owner: u64) -> Result<Self> {
        Ok(Marks { client: RouteClient::open(netns)?, owner, sockets: PacketSockets::default() })
    }

    /// Reads the rules and qdiscs of these interfaces. A missing interface is no error: it is
    /// absent from [`Observed::qdiscs`].
    pub fn observe<'a>(&mut self, interfaces: impl IntoIterator<Item = &'a str>) -> Result<Observed> {
        let mut seen = Observed::default();
        let mut qdiscs = None;
        for name in interfaces.into_iter().collect::<BTreeSet<_>>() {
            let Some(index) = self.index(name)? else { continue };
            let qdiscs = match &qdiscs {
                Some(qdiscs) => qdiscs,
                None => qdiscs.insert(self.qdiscs()?),
            };
            let qdisc = qdiscs.get(&index).copied();
            seen.qdiscs.insert(name.into(), qdisc);
            if qdisc.is_some() {
                self.observe_filters(&mut seen, name, index, qdisc == Some(Qdisc::Clsact))?;
            }
        }
        Ok(seen)
    }

    fn observe_filters(&mut self, seen: &mut Observed, name: &str, index: u32, clsact: bool) -> Result<()> {
        let ingress = self.filters(name, index, INGRESS)?;
        let egress = if clsact { self.filters(name, index, EGRESS)? } else { Vec::new() };
        if clsact && ingress.is_empty() && egress.is_empty() {
            seen.empty.insert(name.into());
        }
        if !egress.is_empty() {
            seen.others.insert(name.into());
        }
        for filter in ingress {
            let outdated = filter.outdated_rule(name);
            match (filter.owner(), filter.rules(name).or_else(|| Some(vec![outdated.clone()?]))) {
                (Some(owner), Some(_)) if owner == self.owner && outdated.is_some() => {
                    seen.outdated.extend(outdated);
                    continue;
                }
                (Some(owner), Some(rules)) if owner == self.owner => {
                    seen.rules.extend(rules);
                    continue;
                }
                (Some(owner), Some(rules)) => {
                    seen.strangers.extend(rules.into_iter().map(|rule| Stranger { owner, rule }));
                }
                _ if filter.is_container() => continue,
                _ if classifier::owner_of(&filter) == Some(self.owner) => {
                    seen.classifiers.insert(name.into());
                    continue;
                }
                _ if classifier::owner_of(&filter).is_some() => {}
                _ => seen.foreign.push(Foreign::of(&filter, name, self.owner)),
            }
            seen.others.insert(name.into());
        }
        Ok(())
    }

    /// Carries out a plan, in order. Repeating it is no error: what is there is not added again,
    /// what is gone is not removed again.
    ///
    /// A change that the kernel refuses does not keep the others from being made: the first
    /// refusal is returned at the end. If the exchange itself fails, the changes after it are not
    /// made.
    ///
    /// # Errors
    /// [`Error::Change`] with the change that failed and the reason:
    /// - [`Error::Foreign`] when another program's filter is in the way of a rule: it has another
    ///   kind or protocol at our priority (`EINVAL`); when another owner has a rule for the same
    ///   packets; also when a qdisc to be removed is not an empty `clsact`.
    /// - [`Error::Invalid`] for one mark of [`Packets::Later`](super::Packets::Later) and
    ///   [`Packets::Opening`](super::Packets::Opening) while
    ///   [`Packets::From`](super::Packets::From) has another, on one interface and for one family.
    /// - [`Error::Refused`] with `EOPNOTSUPP` when the qdisc uses a shared block
    ///   (`ingress_block`), `EINVAL` when the interface has no qdisc; also as [`Marks`].
    pub fn apply(&mut self, plan: &Plan) -> Result<()> {
        let changes = plan.changes();
        let mut first = None;
        let mut start = 0;
        while start < changes.len() {
            let kind = std::mem::discriminant(&changes[start]);
            let end = changes[start..]
                .iter()
                .position(|change| std::mem::discriminant(change) != kind)
                .map_or(changes.len(), |length| start + length);
            let mut failures = Vec::new();
            let done = self.apply_group(changes, start..end, &mut failures);
            let broken = done.is_err();
            failures.extend(done.err().map(|error| (start, error)));
            if let Some((at, source)) = failures.into_iter().next() {
                first.get_or_insert((at, source));
            }
            if broken {
                let (at, source) = first.expect("the failure just found");
                return Err(failed(changes, at, source, "changes after it may not be made: run the same again"));
            }
            start = end;
        }
        match first {
            None => Ok(()),
            Some((at, source)) => Err(failed(changes, at, source, "changes that were not refused are made")),
        }
    }

    /// Makes changes of one kind. An error: the exchange failed.
    fn apply_group(
        &mut self,
        changes: &[Change],
        range: Range<usize>,
        failures: &mut Vec<(usize, Error)>,
    ) -> Result<()> {
        let mut rules: BTreeMap<&str, Vec<(usize, &Change)>> = BTreeMap::new();
        let mut collect = |at: usize, outcome: Result<()>| match outcome {
            Err(error @ (Error::Refused { .. } | Error::Foreign { .. } | Error::Invalid { .. })) => {
                failures.push((at, error));
                Ok(())
            }
            outcome => outcome,
        };
        for at in range {
            match &changes[at] {
                Change::AddQdisc(name) => collect(at, self.add_qdisc(name))?,
                Change::RemoveQdisc(name) => collect(at, self.remove_qdisc(name))?,
                Change::Classify { interface, classification } => {
                    collect(at, self.classify(interface, classification))?
                }
                Change::Unclassify(name) => collect(at, self.unclassify(name))?,
                change @ (Change::Add(rule) | Change::Remove(rule) | Change::RemoveOutdated(rule)) => {
                    match if matches!(change, Change::Add(_)) { rule.check() } else { Ok(()) } {
                        Ok(()) => rules.entry(&rule.interface).or_default().push((at, change)),
                        wrong => collect(at, wrong)?,
                    }
                }
            }
        }
        for (name, changes) in rules {
            match self.change_rules(name, &changes) {
                Ok(outcomes) => outcomes.into_iter().try_for_each(|(at, outcome)| collect(at, outcome))?,
                Err(error) => collect(changes[0].0, Err(error))?,
            }
        }
        // The first in the plan is the one that is reported.
        failures.sort_by_key(|(at, _)| *at);
        Ok(())
    }

    pub(super) fn add_qdisc(&mut self, name: &str) -> Result<()> {
        interface::check_name(name)?;
        let index = self.client.link_of_name(name)?.index;
        match self.client.request(wire::clsact(libc::RTM_NEWQDISC, index), NLM_F_CREATE | NLM_F_EXCL) {
            // A clsact, or an ingress qdisc, which takes the filters just as well.
            Err(failure) if is(&failure, Errno::EXIST) => Ok(()),
            result => result.map(|_| ()).map_err(|failure| explain_missing(failure, "add qdisc clsact to", name)),
        }
    }

    fn remove_qdisc(&mut self, name: &str) -> Result<()> {
        let seen = self.observe([name])?;
        match seen.qdiscs.get(name) {
            None | Some(None) => return Ok(()),
            Some(Some(Qdisc::Clsact)) if seen.empty.contains(name) => {}
            Some(Some(_)) => {
                let reason = "it holds filters, or it is an ingress qdisc: remove them with `tc` if nothing needs them";
                return Err(Error::Foreign { object: format!("the qdisc of {name}"), reason: reason.into() });
            }
        }
        let Some(index) = self.index(name)? else { return Ok(()) };
        match self.client.request(wire::clsact(libc::RTM_DELQDISC, index), 0) {
            Err(failure) if failure.is_not_found() || is(&failure, Errno::NODEV) => Ok(()),
            result => result.map(|_| ()).map_err(|failure| explain(failure, "remove qdisc clsact from", name)),
        }
    }

    /// Changes the rules of one interface, all of them in the same way, and returns an outcome for
    /// each change that was refused.
    fn change_rules(&mut self, name: &str, changes: &[(usize, &Change)]) -> Result<Vec<(usize, Result<()>)>> {
        let index = match (self.index(name)?, changes) {
            (Some(index), _) => index,
            (None, [(_, Change::Add(_)), ..]) => self.client.link_of_name(name)?.index,
            // A missing interface holds no rules.
            (None, _) => return Ok(Vec::new()),
        };
        let filters = self.filters(name, index, INGRESS)?;
        if let [(_, Change::RemoveOutdated(_)), ..] = changes {
            return self.remove_outdated(name, index, &filters, changes);
        }
        let mut outcomes = Vec::new();
        for ipv6 in [false, true] {
            let (mut add, mut remove, mut all) = (Vec::new(), Vec::new(), Vec::new());
            for (at, change) in changes {
                match change {
                    Change::Add(rule) if rule.vip.is_ipv6() == ipv6 => match self.conflict(rule, &filters) {
                        Some(error) => outcomes.push((*at, Err(error))),
                        None => {
                            add.push(rule);
                            all.push((*at, rule));
                        }
                    },
                    Change::Remove(rule) if rule.vip.is_ipv6() == ipv6 => {
                        remove.push(rule);
                        all.push((*at, rule));
                    }
                    _ => {}
                }
            }
            let Some(&(_, rule)) = all.first() else { continue };
            let ours = filters.iter().filter(|filter| filter.owner() == Some(self.owner));
            let now: Vec<Held> = ours.filter_map(|filter| filter.held(ipv6)).collect();
            let requests = filters::change(&now, &add, &remove, ipv6);
            let outcome = requests.and_then(|requests| self.send(index, ipv6, requests, rule, &filters));
            match outcome {
                Ok(()) => {}
                Err(error @ (Error::Refused { .. } | Error::Foreign { .. } | Error::Invalid { .. })) => {
                    // The first rule stands for all of them: they share filters.
                    outcomes.push((all[0].0, Err(error)));
                }
                Err(error) => return Err(error),
            }
        }
        Ok(outcomes)
    }

    /// A rule of another owner for the same packets.
    fn conflict(&self, rule: &Rule, filters: &[Filter]) -> Option<Error> {
        let others =
            filters.iter().filter_map(|filter| Some((filter.owner().filter(|owner| *owner != self.owner)?, filter)));
        let mut rules = others.flat_map(|(owner, filter)| {
            let rules = filter.rules(&rule.interface).unwrap_or_default();
            rules.into_iter().chain(filter.outdated_rule(&rule.interface)).map(move |rule| (owner, rule))
        });
        let (owner, _) = rules.find(|(_, other)| (other.vip, other.packets) == (rule.vip, rule.packets))?;
        Some(Error::Foreign {
            object: format!("the filter of owner {owner:016x} that matches the same packets as {rule}"),
            reason: "it is a rule of another node directory in this network namespace: use one of them only".into(),
        })
    }

    /// Sends requests for filters of one family, for the sake of this rule and others.
    fn send(&mut self, index: u32, ipv6: bool, requests: Vec<Request>, rule: &Rule, filters: &[Filter]) -> Result<()> {
        let (mut messages, mut operations) = (Vec::new(), Vec::new());
        for request in requests {
            let (message, operation) = match request {
                Request::Put { handle, mark, program } => {
                    (wire::put_filter(index, ipv6, handle, &program, mark, self.owner), "add")
                }
                Request::Remove { handle } => (wire::remove_filter(index, ipv6, handle), "remove"),
            };
            messages.push(message);
            operations.push(operation);
        }
        let outcomes = self.batch(messages, "change", rule)?;
        for (outcome, operation) in outcomes.into_iter().zip(operations) {
            let Err(failure) = outcome else { continue };
            if operation == "add" {
                return Err(self.explain_addition(rule, ipv6, filters, failure));
            }
            // Gone, or its interface is.
            if !failure.is_not_found() && !is(&failure, Errno::NODEV) {
                return Err(explain(failure, "remove", rule));
            }
        }
        Ok(())
    }

    /// Names the filter of another program that is in the way.
    fn explain_addition(&self, rule: &Rule, ipv6: bool, filters: &[Filter], failure: Failure) -> Error {
        let in_the_way = self.in_the_way(&rule.interface, Slot::of(ipv6), filters, &failure);
        in_the_way.unwrap_or_else(|| explain_missing(failure, "add", rule))
    }

    /// Names the filter of another program that has kept one of ours from this slot.
    pub(super) fn in_the_way(
        &self,
        interface: &str,
        slot: Slot,
        filters: &[Filter],
        failure: &Failure,
    ) -> Option<Error> {
        let filter = filters
            .iter()
            .filter(|_| is(failure, Errno::EXIST) || is(failure, Errno::INVAL))
            .find(|filter| filter.slot.priority == slot.priority && (filter.slot != slot || filter.kind != "bpf"))?;
        Some(Error::Foreign {
            object: Foreign::of(filter, interface, self.owner).text,
            reason: format!(
                "priorities {PRIORITY} to {CLASSIFIER_PRIORITY} belong to this program: move it to another one"
            ),
        })
    }

    fn remove_outdated(
        &mut self,
        name: &str,
        index: u32,
        filters: &[Filter],
        changes: &[(usize, &Change)],
    ) -> Result<Vec<(usize, Result<()>)>> {
        let (mut messages, mut rules) = (Vec::new(), Vec::new());
        for filter in filters.iter().filter(|filter| filter.owner() == Some(self.owner)) {
            let Some(found) = filter.outdated_rule(name) else { continue };
            let wanted =
                |(_, change): &&(usize, &Change)| matches!(change, Change::RemoveOutdated(rule) if *rule == found);
            if let Some((at, _)) = changes.iter().find(wanted) {
                messages.push(wire::remove_outdated(index, filter));
                rules.push((*at, found));
            }
        }
        let outcomes = self.batch(messages, "remove outdated filters of", name)?;
        let outcomes = rules.into_iter().zip(outcomes).map(|((at, rule), outcome)| match outcome {
            Err(failure) if failure.is_not_found() || is(&failure, Errno::NODEV) => (at, Ok(())),
            outcome => (at, outcome.map_err(|failure| explain(failure, "remove", rule))),
        });
        Ok(outcomes.collect())
    }

    /// Sends requests, many at once, in order, and returns an outcome for each.
    fn batch(
        &mut self,
        messages: Vec<RouteMessage>,
        operation: &'static str,
        object: impl fmt::Display,
    ) -> Result<Vec<Outcome>> {
        let mut outcomes = Vec::with_capacity(messages.len());
        let mut rest = &messages[..];
        while !rest.is_empty() {
            let mut octets = 0;
            let fits = |message: &&RouteMessage| {
                octets += message.octets().len();
                octets < OCTETS
            };
            let count = rest.iter().take(FILTERS).take_while(fits).count().max(1);
            let (some, behind) = rest.split_at(count);
            // Without `NLM_F_EXCL` a filter with a handle is replaced. To a removal it means
            // nothing.
            let found = self.client.batch(some, NLM_F_CREATE);
            outcomes.extend(found.map_err(|failure| explain(failure, operation, &object))?);
            rest = behind;
        }
        Ok(outcomes)
    }

    /// The interface's index. `None`: there is no such interface.
    pub(super) fn index(&mut self, name: &str) -> Result<Option<u32>> {
        interface::check_name(name)?;
        match self.client.link_of_name(name) {
            Ok(link) => Ok(Some(link.index)),
            Err(error) if error.cause() == Some(Cause::NoInterface) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn qdiscs(&mut self) -> Result<BTreeMap<u32, Qdisc>> {
        let found = self.client.list(&wire::list_qdiscs(), |message| wire::read_qdisc(&message));
        Ok(found.map_err(|failure| explain(failure, "list", "qdiscs"))?.into_iter().collect())
    }

    pub(super) fn filters(&mut self, name: &str, index: u32, parent: u32) -> Result<Vec<Filter>> {
        let found = self.client.list(&wire::list_filters(index, parent), |message| Filter::read(&message));
        match found {
            // The interface has just gone, or its qdisc.
            Err(failure) if is(&failure, Errno::NODEV) || is(&failure, Errno::INVAL) => Ok(Vec::new()),
            found => found.map_err(|failure| explain(failure, "list filters of", name)),
        }
    }
}

/// Filters in one send. Since Linux 6.12 a refusal carries the kernel's words here, and 256 of
/// them do not fit the default receive buffer (`ENOBUFS`).
const FILTERS: usize = 64;

/// Octets in one send: a part of the default send buffer.
const OCTETS: usize = 64 * 1024;

fn failed(changes: &[Change], at: usize, source: Error, outcome: &str) -> Error {
    Error::Change {
        number: at + 1,
        total: changes.len(),
        change: changes[at].to_string(),
        error: source.into(),
        outcome: outcome.into(),
    }
}

/// Explains the failure of an addition, where ENOENT means a missing module. A missing qdisc is
/// EINVAL.
pub(super) fn explain_missing(failure: Failure, operation: &'static str, object: impl fmt::Display) -> Error {
    match failure.is_not_found() {
        true => failure.explain(operation, object, |_| Cause::NoTcModule),
        false => explain(failure, operation, object),
    }
}
