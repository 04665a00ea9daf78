//! Which filter holds which rules, and the requests that lead from one state to another.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::num::NonZeroU32;

use super::program::{Instruction, Matches};
use super::rule::{Packets, Rule};
use crate::error::{Error, Result};

/// One filter of ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Held {
    /// 0: the kernel has yet to choose it.
    pub(super) handle: u32,
    pub(super) mark: NonZeroU32,
    pub(super) matches: Matches,
}

/// One request for a filter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Request {
    /// Adds a filter (handle 0), or replaces the one with this handle.
    Put {
        handle: u32,
        mark: NonZeroU32,
        program: Vec<Instruction>,
    },
    Remove {
        handle: u32,
    },
}

/// Before it removes a filter the kernel before 6.18 describes it in a message of less than 4 KiB,
/// and refuses where that is too short. A longer program is replaced first.
const REMOVABLE: usize = 300;

/// The requests after which the filters of one family on an interface hold `add`, too, and not
/// `remove`. A rule that differs from one of `add` in the mark alone goes.
///
/// Each filter first matches all that it matched and all that it is to match, then no more than
/// that: no packet is without a mark in between, and none gets a mark that it has neither before
/// nor after.
///
/// # Errors
/// [`Error::Invalid`] for a mark that [`Packets::Later`] and [`Packets::Opening`] have in common
/// while [`Packets::From`] has another: no order of filters gives each packet the right one.
pub(super) fn change(now: &[Held], add: &[&Rule], remove: &[&Rule], ipv6: bool) -> Result<Vec<Request>> {
    let mut then: Vec<Held> = now.to_vec();
    for rule in remove {
        for filter in then.iter_mut().filter(|filter| filter.mark == rule.mark) {
            filter.matches.rules.remove(&key(rule));
        }
    }
    let mut added: BTreeSet<(NonZeroU32, (IpAddr, Packets))> = BTreeSet::new();
    for rule in add {
        for filter in then.iter_mut().filter(|filter| filter.mark != rule.mark) {
            filter.matches.rules.remove(&key(rule));
        }
        added.insert((rule.mark, key(rule)));
    }
    let marks: BTreeSet<NonZeroU32> = added.iter().map(|(mark, _)| *mark).collect();
    // The kernel tries the newest filter first. One of a kind that overrides others had better be
    // tried before them.
    let mut new: Vec<(NonZeroU32, BTreeSet<_>)> = marks
        .into_iter()
        .map(|mark| (mark, added.iter().filter(|(of, _)| *of == mark).map(|(_, key)| *key).collect()))
        .collect();
    new.sort_by_key(|(_, rules)| rules.iter().map(|(_, packets): &(IpAddr, Packets)| packets.order()).max());
    for (mark, rules) in new {
        fit(&mut then, mark, rules, ipv6);
    }
    keep(&mut then)?;

    let old = |number: usize| now.get(number).map(|filter| &filter.matches);
    let (mut first, mut second) = (Vec::new(), Vec::new());
    for (number, filter) in then.iter().enumerate() {
        let put = |program| Request::Put { handle: filter.handle, mark: filter.mark, program };
        let must = |matches: &Matches| {
            let too_long = || {
                Error::invalid(
                    format!("mark {}", filter.mark),
                    "too many marks override it: one program cannot test for all",
                )
            };
            matches.program(ipv6).map(put).ok_or_else(too_long)
        };
        let wanted = &filter.matches;
        let Some(old) = old(number) else {
            first.push(must(wanted)?);
            continue;
        };
        let both = union(old, wanted);
        // A union that is too long for one program is left out.
        let between = if both == *old { None } else { both.program(ipv6).map(put) };
        let reached = between.is_some() && both == *wanted;
        first.extend(between);
        if wanted.rules.is_empty() {
            let long = old.program(ipv6).is_none_or(|program| program.len() > REMOVABLE);
            if long {
                second.push(must(&Matches::default())?);
            }
            second.push(Request::Remove { handle: filter.handle });
        } else if !reached && wanted != old {
            second.push(must(wanted)?);
        }
    }
    first.extend(second);
    Ok(first)
}

fn key(rule: &Rule) -> (IpAddr, Packets) {
    (rule.vip, rule.packets)
}

fn union(one: &Matches, other: &Matches) -> Matches {
    Matches {
        rules: one.rules.union(&other.rules).copied().collect(),
        kept_by_later: one.kept_by_later.union(&other.kept_by_later).copied().collect(),
        kept_by_from: one.kept_by_from.union(&other.kept_by_from).copied().collect(),
    }
}

/// Puts rules of one mark into the filters of that mark that have room, or into new ones. Rules
/// stay in the filter that holds them.
fn fit(filters: &mut Vec<Held>, mark: NonZeroU32, mut rules: BTreeSet<(IpAddr, Packets)>, ipv6: bool) {
    for filter in filters.iter().filter(|filter| filter.mark == mark) {
        rules.retain(|rule| !filter.matches.rules.contains(rule));
    }
    if rules.is_empty() {
        return;
    }
    for filter in filters.iter_mut().filter(|filter| filter.mark == mark) {
        let mut more = filter.matches.clone();
        more.rules.extend(rules.iter().copied());
        if has_room(&more, ipv6) {
            filter.matches = more;
            return;
        }
    }
    let new = Matches { rules: rules.clone(), ..Matches::default() };
    if has_room(&new, ipv6) || rules.len() == 1 {
        return filters.push(Held { handle: 0, mark, matches: new });
    }
    let middle = *rules.iter().nth(rules.len() / 2).expect("it has more than one");
    let upper = rules.split_off(&middle);
    fit(filters, mark, rules, ipv6);
    fit(filters, mark, upper, ipv6);
}

/// Whether they fit one program, with some marks that may have to be kept.
fn has_room(matches: &Matches, ipv6: bool) -> bool {
    const ROOM: u32 = 64;
    let marks: BTreeSet<u32> = (0..ROOM).collect();
    let more = Matches { kept_by_later: marks.clone(), kept_by_from: marks, rules: matches.rules.clone() };
    more.program(ipv6).is_some()
}

/// Lets each filter leave the marks of rules that override its own: then a packet gets the right
/// mark in whatever order the filters are tried.
fn keep(filters: &mut [Held]) -> Result<()> {
    let of = |order: u16| -> BTreeSet<u32> {
        let has = |filter: &&Held| filter.matches.rules.iter().any(|(_, packets)| packets.order() == order);
        filters.iter().filter(has).map(|filter| filter.mark.get()).collect()
    };
    let [later, from, opening] = [0, 1, 2].map(of);
    let both = later.intersection(&opening).find(|both| from.iter().any(|mark| mark != *both));
    if let Some(mark) = both {
        let reason =
            "TCP without SYN and TCP with SYN have it, and a MAC address has another: no filter can override both";
        return Err(Error::invalid(format!("mark {mark}"), reason));
    }
    for filter in filters {
        let others = |marks: &BTreeSet<u32>, order: u16| -> BTreeSet<u32> {
            let has = filter.matches.rules.iter().any(|(_, packets)| packets.order() == order);
            marks.iter().copied().filter(|mark| has && *mark != filter.mark.get()).collect()
        };
        (filter.matches.kept_by_later, filter.matches.kept_by_from) = (others(&from, 0), others(&opening, 1));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::rule::Mac;
    use super::*;
    use std::num::NonZeroU16;

    fn rule(packets: Packets, mark: u32) -> Rule {
        let mark = NonZeroU32::new(mark).unwrap();
        Rule { interface: "eth0".into(), vip: "192.0.2.1".parse().unwrap(), packets, mark }
    }

    fn from(last: u16) -> Packets {
        let [high, low] = last.to_be_bytes();
        Packets::From(Mac([2, 0, 0, 0, high, low]))
    }

    fn later() -> Packets {
        Packets::Later { port: NonZeroU16::new(80) }
    }

    /// The kernel's side: filters, and what each request leaves there.
    #[derive(Default)]
    struct World(Vec<Held>);

    impl World {
        /// Carries out a change. Each state on the way gives each packet a mark that it has before
        /// or after.
        fn change(&mut self, add: &[Rule], remove: &[Rule]) -> Vec<Request> {
            let (add, remove): (Vec<_>, Vec<_>) = (add.iter().collect(), remove.iter().collect());
            let requests = change(&self.0, &add, &remove, false).unwrap();
            let probes: BTreeSet<Packets> = [later(), Packets::Opening].into_iter().chain((0..20).map(from)).collect();
            let marks = |world: &World| probes.iter().map(|packets| world.marks(*packets)).collect::<Vec<_>>();
            let before = marks(self);
            let mut states = Vec::new();
            for request in &requests {
                match request {
                    Request::Put { handle, mark, program } => {
                        let matches = Matches::read(program, false).unwrap();
                        match self.0.iter_mut().find(|filter| filter.handle == *handle) {
                            Some(filter) => filter.matches = matches,
                            None => {
                                assert_eq!(*handle, 0);
                                let handle = 1 + self.0.iter().map(|filter| filter.handle).max().unwrap_or(0);
                                self.0.push(Held { handle, mark: *mark, matches });
                            }
                        }
                    }
                    Request::Remove { handle } => self.0.retain(|filter| filter.handle != *handle),
                }
                states.push(marks(self));
            }
            let after = marks(self);
            for state in states {
                for (number, probe) in probes.iter().enumerate() {
                    let allowed = before[number].union(&after[number]).copied().collect::<BTreeSet<_>>();
                    assert!(state[number].is_subset(&allowed), "{probe:?}");
                    let gap = state[number].is_empty() && !before[number].is_empty() && !after[number].is_empty();
                    assert!(!gap, "{probe:?}");
                }
            }
            assert_eq!(change(&self.0, &add, &[], false).unwrap(), []);
            requests
        }

        /// The marks of the filters that hold this rule.
        fn marks(&self, packets: Packets) -> BTreeSet<u32> {
            let holds = |filter: &&Held| filter.matches.rules.iter().any(|(_, found)| *found == packets);
            self.0.iter().filter(holds).map(|filter| filter.mark.get()).collect()
        }
    }

    fn puts(requests: &[Request]) -> usize {
        requests.iter().filter(|request| matches!(request, Request::Put { .. })).count()
    }

    #[test]
    fn a_promotion_is_one_request() {
        let mut world = World::default();
        let rules = [rule(Packets::Opening, 1), rule(later(), 3), rule(from(1), 1), rule(from(2), 1)];
        // A filter for each mark; the one that overrides is the newest, and so the first.
        let requests = world.change(&rules, &[]);
        assert_eq!((requests.len(), world.0.len(), world.0[1].mark.get()), (2, 2, 1));
        assert_eq!(world.0[0].matches.kept_by_later, [1].into());
        assert!(world.0[1].matches.kept_by_later.is_empty() && world.0[1].matches.kept_by_from.is_empty());
        let requests = world.change(&[], &rules[..1]);
        assert_eq!((requests.len(), puts(&requests)), (1, 1));
        assert_eq!(world.marks(Packets::Opening), BTreeSet::new());
        // A demotion, and a peer.
        assert_eq!(world.change(&rules[..1], &[]).len(), 1);
        assert_eq!(world.change(&[rule(from(3), 1)], &[]).len(), 1);
        let requests = world.change(&[], &[rules.as_slice(), &[rule(from(3), 1)]].concat());
        assert_eq!((requests.len(), puts(&requests), world.0.len()), (2, 0, 0));
    }

    #[test]
    fn a_changed_mark_leaves_no_gap() {
        let mut world = World::default();
        world.change(&[rule(from(1), 1), rule(from(2), 1), rule(later(), 3)], &[]);
        world.change(&[rule(from(1), 7)], &[]);
        assert_eq!((world.marks(from(1)), world.marks(from(2))), ([7].into(), [1].into()));
        assert_eq!(world.0[0].matches.kept_by_later, [1, 7].into());
        // Each of two gets what the other has.
        world.change(&[rule(from(1), 1), rule(from(2), 7)], &[]);
        assert_eq!((world.marks(from(1)), world.marks(from(2))), ([1].into(), [7].into()));
        world.change(&[rule(from(1), 9), rule(from(2), 9)], &[]);
        assert_eq!(world.0[0].matches.kept_by_later, [9].into());
        assert_eq!(world.0.len(), 2);
    }

    #[test]
    fn what_one_program_cannot_hold_is_split() {
        let mut world = World::default();
        let rules: Vec<Rule> = (0..3000).map(|number| rule(from(number), 1)).collect();
        world.change(&rules, &[]);
        assert!((2..10).contains(&world.0.len()), "{}", world.0.len());
        let held: usize = world.0.iter().map(|filter| filter.matches.rules.len()).sum();
        assert_eq!(held, 3000);
        // One more changes one filter; what stays is not moved.
        assert_eq!(world.change(&[rule(from(3000), 1)], &[]).len(), 1);
        // A long one is replaced before it is removed.
        let requests = world.change(&[], &rules);
        let removed = requests.len() - puts(&requests);
        assert!(removed >= 1 && puts(&requests) >= removed, "{requests:?}");
        assert_eq!(world.0.len(), 1);
    }

    #[test]
    fn a_mark_that_no_order_can_give_is_refused() {
        let rules = [rule(Packets::Opening, 5), rule(later(), 5), rule(from(1), 1)];
        let refused = change(&[], &rules.each_ref(), &[], false);
        assert!(matches!(refused, Err(Error::Invalid { .. })), "{refused:?}");
        assert!(change(&[], &rules.each_ref()[..2], &[], false).is_ok());
        // With several marks of one kind, each filter leaves those of the others.
        let rules = [rule(Packets::Opening, 5), rule(later(), 3), rule(from(1), 1)];
        let mut world = World::default();
        world.change(&rules, &[]);
        assert_eq!(world.0[0].matches.kept_by_later, [1].into());
        assert_eq!(world.0[1].matches.kept_by_from, [5].into());
    }
}
