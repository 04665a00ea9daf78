//! What has to change, in which order.

use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::fmt;

use super::classifier::Classification;
use super::client::{Observed, Qdisc};
use super::rule::Rule;

/// One change of the kernel's traffic control.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "snake_case"))]
pub enum Change {
    /// Adds a `clsact` qdisc to this interface: the place of filters. It changes nothing by
    /// itself.
    AddQdisc(String),
    /// Removes the `clsact` qdisc of this interface, if it holds no filter.
    RemoveQdisc(String),
    /// Adds a rule. One of ours that differs in the mark alone is replaced in one step.
    Add(Rule),
    /// Removes a rule of ours.
    Remove(Rule),
    /// Removes the filter in which an earlier version kept this rule.
    RemoveOutdated(Rule),
    /// Makes what the classifier on this interface knows this, see [`Classifier::apply`].
    ///
    /// [`Classifier::apply`]: super::Classifier::apply
    Classify {
        /// The interface.
        interface: String,
        /// What it is to know.
        classification: Classification,
    },
    /// Removes the classifier of this interface.
    Unclassify(String),
}

/// `add mark 1 on eth0 for 192.0.2.1: TCP with SYN`.
impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Change::AddQdisc(interface) => write!(f, "add qdisc clsact to {interface}"),
            Change::RemoveQdisc(interface) => write!(f, "remove qdisc clsact from {interface}"),
            Change::Add(rule) => write!(f, "add {rule}"),
            Change::Remove(rule) => write!(f, "remove {rule}"),
            Change::RemoveOutdated(rule) => write!(f, "remove the outdated filter of {rule}"),
            Change::Classify { interface, classification } => {
                write!(f, "classify TCP on {interface}: {classification}")
            }
            Change::Unclassify(interface) => write!(f, "remove the classifier from {interface}"),
        }
    }
}

/// The changes that lead from what was seen to what is wanted: qdiscs first, then the rules to
/// add, then those to remove, then the filters of an earlier version.
///
/// A rule that overrides another one's mark is added before it and removed after it, so that no
/// packet gets a mark in between that it gets neither before nor after.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct Plan {
    changes: Vec<Change>,
}

impl Plan {
    /// Plans the changes after which our rules on the observed interfaces are those of `wanted`.
    ///
    /// A `clsact` qdisc is added where a rule is wanted and the interface has neither `clsact` nor
    /// `ingress`. Wanted rules of an interface that was missing (or not observed) are in the plan,
    /// too, and fail in [`Marks::apply`](super::Marks::apply) unless the interface exists by then
    /// and has a qdisc: leave them out of `wanted` where that is no error.
    pub fn between(seen: &Observed, wanted: &BTreeSet<Rule>) -> Self {
        let interfaces: BTreeSet<&String> = wanted.iter().map(|rule| &rule.interface).collect();
        let without = interfaces.into_iter().filter(|&name| seen.qdiscs.get(name) == Some(&None));
        let mut changes: Vec<Change> = without.cloned().map(Change::AddQdisc).collect();
        let mut additions: Vec<&Rule> = wanted.difference(&seen.rules).collect();
        additions.sort_by_key(|rule| Reverse(rule.packets.order()));
        changes.extend(additions.into_iter().cloned().map(Change::Add));
        let mut removals: Vec<&Rule> = seen.rules.difference(wanted).collect();
        removals.sort_by_key(|rule| rule.packets.order());
        changes.extend(removals.into_iter().cloned().map(Change::Remove));
        changes.extend(seen.outdated.iter().cloned().map(Change::RemoveOutdated));
        Plan { changes }
    }

    /// Adds the removal of the `clsact` qdiscs of those interfaces in `made` on which neither a
    /// rule of `wanted`, nor a classifier, nor a filter of another program remains.
    ///
    /// `made` is what the caller remembers to have added: an empty qdisc that another program made
    /// looks the same.
    pub fn and_remove_qdiscs(mut self, seen: &Observed, wanted: &BTreeSet<Rule>, made: &BTreeSet<String>) -> Self {
        for name in made {
            let clsact = seen.qdiscs.get(name) == Some(&Some(Qdisc::Clsact));
            let classified =
                seen.classifiers.contains(name) && !self.changes.contains(&Change::Unclassify(name.clone()));
            if clsact
                && !classified
                && !seen.others.contains(name)
                && !wanted.iter().any(|rule| rule.interface == *name)
            {
                self.changes.push(Change::RemoveQdisc(name.clone()));
            }
        }
        self
    }

    /// A plan of these changes, in this order.
    pub fn of(changes: impl IntoIterator<Item = Change>) -> Self {
        Plan { changes: changes.into_iter().collect() }
    }

    /// The changes, in the order in which they are made.
    pub fn changes(&self) -> &[Change] {
        &self.changes
    }

    /// Whether nothing has to be changed.
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }
}

/// One change a line; `nothing to change` for an empty plan. The last line has no line feed.
impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut changes = self.changes.iter();
        match changes.next() {
            None => return f.write_str("nothing to change"),
            Some(first) => first.fmt(f)?,
        }
        changes.try_for_each(|change| write!(f, "\n{change}"))
    }
}

#[cfg(test)]
mod tests {
    use super::super::rule::{Mac, Packets};
    use super::*;
    use std::num::NonZeroU32;

    fn rule(interface: &str, mark: u32) -> Rule {
        Rule {
            interface: interface.into(),
            vip: "192.0.2.1".parse().unwrap(),
            packets: Packets::From(Mac([2, 0, 0, 0, 0, 1])),
            mark: NonZeroU32::new(mark).unwrap(),
        }
    }

    fn seen(qdiscs: &[(&str, Option<Qdisc>)], rules: &[Rule]) -> Observed {
        Observed {
            rules: rules.iter().cloned().collect(),
            qdiscs: qdiscs.iter().map(|&(name, qdisc)| (name.into(), qdisc)).collect(),
            ..Observed::default()
        }
    }

    #[test]
    fn qdiscs_and_additions_come_first() {
        let seen = seen(&[("a", None), ("b", Some(Qdisc::Ingress)), ("c", None)], &[rule("b", 1), rule("b", 2)]);
        let wanted = BTreeSet::from([rule("a", 1), rule("b", 2), rule("b", 3), rule("gone", 1)]);
        let plan = Plan::between(&seen, &wanted);
        let expected = [
            Change::AddQdisc("a".into()),
            Change::Add(rule("a", 1)),
            Change::Add(rule("b", 3)),
            Change::Add(rule("gone", 1)),
            Change::Remove(rule("b", 1)),
        ];
        assert_eq!(plan.changes(), expected);
        let text = plan.to_string();
        assert!(text.starts_with("add qdisc clsact to a\nadd mark 1 on a for 192.0.2.1: all from 02:"), "{text}");
        assert_eq!(text.lines().count(), 5);
    }

    #[test]
    fn rules_that_override_others_come_first_and_go_last() {
        let kinds = [Packets::Later { port: None }, Packets::From(Mac([2, 0, 0, 0, 0, 1])), Packets::Opening];
        let rules: Vec<Rule> =
            ["a", "b"].iter().flat_map(|name| kinds.map(|packets| Rule { packets, ..rule(name, 1) })).collect();
        let order = |plan: Plan| -> Vec<u16> {
            let order = |change: &Change| match change {
                Change::Add(rule) | Change::Remove(rule) => rule.packets.order(),
                _ => panic!("{change}"),
            };
            plan.changes().iter().map(order).collect()
        };
        let all = seen(&[], &rules);
        assert_eq!(order(Plan::between(&seen(&[], &[]), &all.rules)), [2, 2, 1, 1, 0, 0]);
        assert_eq!(order(Plan::between(&all, &BTreeSet::new())), [0, 0, 1, 1, 2, 2]);
    }

    #[test]
    fn nothing_to_change() {
        let seen = seen(&[("a", Some(Qdisc::Clsact))], &[rule("a", 1)]);
        let plan = Plan::between(&seen, &seen.rules);
        assert!(plan.is_empty());
        assert_eq!(plan.to_string(), "nothing to change");
    }

    #[test]
    fn a_qdisc_is_removed_only_where_it_was_made_and_is_not_needed() {
        let clsact = Some(Qdisc::Clsact);
        let mut seen = seen(
            &[
                ("free", clsact),
                ("other", clsact),
                ("wanted", clsact),
                ("theirs", clsact),
                ("ingress", Some(Qdisc::Ingress)),
            ],
            &[rule("free", 1)],
        );
        seen.others.insert("other".into());
        let wanted = BTreeSet::from([rule("wanted", 1)]);
        let made = ["free", "other", "wanted", "ingress", "gone"].map(String::from).into();
        let plan = Plan::between(&seen, &wanted).and_remove_qdiscs(&seen, &wanted, &made);
        let expected =
            [Change::Add(rule("wanted", 1)), Change::Remove(rule("free", 1)), Change::RemoveQdisc("free".into())];
        assert_eq!(plan.changes(), expected);
    }
}
