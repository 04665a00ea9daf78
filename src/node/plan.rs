//! Steps and plans: what is to be done, as a value that can be printed.

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;
use std::num::NonZeroU32;

use super::fence::marks::MarkValues;
use super::role::Role;
use super::services::{Trial, trials};
use super::state::{State, StoredTable};
use crate::arp;
use crate::ipvs;
use crate::marks;
use crate::vip::{MARK, Placement};

/// One thing to do. Each can be done twice.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum Step {
    /// Record that the role is under way, or reached.
    #[non_exhaustive]
    Record {
        /// The role.
        role: Role,
        /// Whether it is reached, or under way.
        reached: bool,
    },
    /// Record a table.
    #[non_exhaustive]
    Keep {
        /// What for.
        kept: StoredTable,
        /// The table.
        table: ipvs::Table,
    },
    /// Record the weights of so many drained destinations.
    Weights(usize),
    /// Change ARP settings.
    Arp(arp::Change),
    /// Give ARP settings back.
    GiveBackArp(arp::Change),
    /// Set a sysctl of IPVS.
    #[non_exhaustive]
    Sysctl {
        /// Its name, behind `net.ipv4.vs.`.
        name: String,
        /// Its value.
        value: String,
        /// Whether it is the value that was found before this node changed it.
        back: bool,
    },
    /// Add a VIP, or bring it into the right form.
    AddVip(IpAddr, Placement),
    /// Remove a VIP.
    RemoveVip(IpAddr, Placement),
    /// Announce to the neighbours where a VIP is now.
    Announce(IpAddr, String),
    /// Add the route by which a routing daemon learns that it is to advertise a VIP.
    Advertise(IpAddr),
    /// Remove that route.
    Unadvertise(IpAddr),
    /// Change the table.
    Table(ipvs::Plan),
    /// Change the rules that mark packets.
    Marks(marks::Plan),
    /// Mark the node's own requests to these VIPs, and to no others.
    OwnRequests(BTreeSet<(IpAddr, NonZeroU32)>),
    /// Send all connections to the other nodes, as
    /// [`Ipvs::send_connections`](crate::ipvs::Ipvs::send_connections) does.
    Resync(ipvs::SyncDaemon),
    /// Forget what is remembered.
    Forget,
}

impl Step {
    /// Whether the step only places or announces a VIP.
    pub(super) fn is_of_a_vip(&self) -> bool {
        matches!(self, Step::AddVip(..) | Step::RemoveVip(..) | Step::Announce(..))
    }

    /// The VIP that the step places or removes, where, and whether it is there afterwards.
    pub(super) fn placement(&self) -> Option<(IpAddr, &Placement, bool)> {
        match self {
            Step::AddVip(vip, placement) => Some((*vip, placement, true)),
            Step::RemoveVip(vip, placement) => Some((*vip, placement, false)),
            _ => None,
        }
    }

    /// Whether the kernel shows afterwards that it was done.
    pub(super) fn leaves_a_trace(&self) -> bool {
        !matches!(
            self,
            Step::Record { .. }
                | Step::Keep { .. }
                | Step::Weights(_)
                | Step::Announce(..)
                | Step::Resync(_)
                | Step::Forget
        )
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Step::Record { role, reached: false } => write!(f, "record: {role} is under way"),
            Step::Record { role, reached: true } => write!(f, "record: {role} is reached"),
            Step::Keep { kept: StoredTable::Loaded, table } => write!(f, "record: {} loaded", services(table.len())),
            Step::Keep { kept: StoredTable::Held, table } => {
                write!(f, "record: {} kept for promotion", services(table.len()))
            }
            Step::Keep { kept: StoredTable::Legacy, table } if table.is_empty() => {
                write!(f, "record: the table of the earlier version is needed no more")
            }
            Step::Keep { kept: StoredTable::Legacy, table } => {
                write!(f, "record: {} of the earlier version", services(table.len()))
            }
            Step::Weights(0) => write!(f, "record: no destination is drained"),
            Step::Weights(1) => write!(f, "record: the weight of 1 drained destination"),
            Step::Weights(count) => write!(f, "record: the weights of {count} drained destinations"),
            Step::Arp(change) => write!(f, "ARP: {change}"),
            Step::GiveBackArp(change) => write!(f, "ARP: restore {} {}", change.target, change.before),
            Step::Sysctl { name, value, back: false } => write!(f, "sysctl: net.ipv4.vs.{name} = {value}"),
            Step::Sysctl { name, value, back: true } => write!(f, "sysctl: restore net.ipv4.vs.{name} = {value}"),
            Step::Resync(daemon) => {
                write!(f, "sync: send all connections on {} (id {})", daemon.interface, daemon.sync_id)
            }
            Step::AddVip(vip, placement) => write!(f, "VIP: add {vip} to {placement}"),
            Step::RemoveVip(vip, placement) => write!(f, "VIP: remove {vip} from {placement}"),
            Step::Announce(vip, interface) => write!(f, "VIP: announce {vip} on {interface}"),
            Step::Advertise(vip) => {
                write!(f, "route: add unreachable {vip} proto {MARK} table {MARK}, to be advertised")
            }
            Step::Unadvertise(vip) => write!(f, "route: remove unreachable {vip} proto {MARK} table {MARK}"),
            Step::Table(plan) => changes(f, "IPVS", plan.changes()),
            Step::Marks(plan) => changes(f, "marks", plan.changes()),
            Step::OwnRequests(marked) if marked.is_empty() => write!(f, "marks: own requests to VIPs are left alone"),
            Step::OwnRequests(marked) => {
                let vips: Vec<String> = marked.iter().map(|(vip, _)| vip.to_string()).collect();
                write!(f, "marks: own requests to {} are served here", vips.join(", "))
            }
            Step::Forget => write!(f, "record: forget this node"),
        }
    }
}

fn changes(f: &mut fmt::Formatter<'_>, what: &str, changes: &[impl fmt::Display]) -> fmt::Result {
    write!(f, "{what}: {} change{}", changes.len(), if changes.len() == 1 { "" } else { "s" })?;
    changes.iter().try_for_each(|change| write!(f, "\n  {change}"))
}

fn services(count: usize) -> String {
    format!("{count} service{}", if count == 1 { "" } else { "s" })
}

/// What a node has to do for a role, in order. Printed, a line for each step.
#[derive(Debug, Clone)]
pub struct Plan {
    pub(super) steps: Vec<Step>,
    pub(super) warnings: Vec<String>,
    /// What is remembered while it is carried out, and afterwards.
    pub(super) during: Box<State>,
    pub(super) after: Box<State>,
}

impl Plan {
    /// Steps that come to what is remembered afterwards.
    pub(super) fn to(state: &State, after: State, steps: Vec<Step>) -> Self {
        Plan { after: Box::new(after), ..Plan::beside(state, steps) }
    }

    /// Steps that change nothing of what is remembered.
    pub(super) fn beside(state: &State, steps: Vec<Step>) -> Self {
        Plan { steps, warnings: Vec::new(), during: Box::new(state.clone()), after: Box::new(state.clone()) }
    }

    /// The steps.
    pub fn steps(&self) -> &[Step] {
        &self.steps
    }

    /// Whether nothing is to be done.
    pub fn is_empty(&self) -> bool {
        self.steps.is_empty()
    }

    /// What the plan cannot mend, and an operator should know.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// The same, with what was done before it.
    pub(super) fn preceded_by(self, steps: Vec<Step>) -> Self {
        Plan { steps: steps.into_iter().chain(self.steps).collect(), ..self }
    }

    /// What is to be tried before any of it is done.
    pub(super) fn trials(&self, seen: &ipvs::Table, values: MarkValues) -> Vec<Trial> {
        let changes = self.steps.iter().flat_map(|step| match step {
            Step::Table(plan) => plan.changes(),
            _ => &[],
        });
        trials(changes, seen, values)
    }

    /// The first step that would show in the kernel.
    pub(super) fn first_change(&self) -> Option<&Step> {
        self.steps.iter().find(|step| step.leaves_a_trace())
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.warnings.iter().try_for_each(|warning| writeln!(f, "warning: {warning}"))?;
        for (number, step) in (1..).zip(&self.steps) {
            writeln!(f, "{number}. {}", step.to_string().replace('\n', "\n   "))?;
        }
        Ok(())
    }
}
