//! Steps and plans: what is to be done, as a value that can be printed.

use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use super::role::Role;
use super::state::State;
use crate::arp;
use crate::ipvs;
use crate::vip::Placement;

/// One thing to do. Each can be done twice.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Step {
    /// Write down what is about to happen, or has.
    #[non_exhaustive]
    Record {
        /// The role.
        role: Role,
        /// Whether it is reached, or under way.
        reached: bool,
        /// How many services are kept, to be restored later.
        services: usize,
    },
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
    /// Let time pass, unless another role is asked for.
    Wait(Wait, Duration),
    /// Add a VIP, or bring it into the right form.
    AddVip(IpAddr, Placement),
    /// Remove a VIP.
    RemoveVip(IpAddr, Placement),
    /// Tell the neighbours where a VIP is now.
    Announce(IpAddr, String),
    /// Change the table.
    Table(ipvs::Plan),
    /// Tell the other nodes of all connections, as [`Ipvs::send_connections`](crate::ipvs::Ipvs::send_connections) does.
    Tell(ipvs::SyncDaemon),
    /// Forget what is remembered.
    Forget,
}

/// What a [`Step::Wait`] waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Wait {
    /// That no more packets come to a former director.
    Drain,
    /// That the old director has its fence.
    Settle,
    /// That connections of the old table are established.
    Handshakes,
}

impl Step {
    /// Whether the kernel shows afterwards that it was done.
    pub(super) fn leaves_a_trace(&self) -> bool {
        !matches!(self, Step::Record { .. } | Step::Announce(..) | Step::Tell(_) | Step::Wait(..) | Step::Forget)
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Step::Record { role, reached: false, services: 1 } => {
                write!(f, "record: {role} is under way, 1 service is kept")
            }
            Step::Record { role, reached: false, services } => {
                write!(f, "record: {role} is under way, {services} services are kept")
            }
            Step::Record { role, reached: true, .. } => write!(f, "record: {role} is reached"),
            Step::Arp(change) => write!(f, "ARP: {change}"),
            Step::GiveBackArp(change) => write!(f, "ARP: {} {} again", change.target, change.before),
            Step::Sysctl { name, value, back: false } => write!(f, "sysctl: net.ipv4.vs.{name} = {value}"),
            Step::Sysctl { name, value, back: true } => write!(f, "sysctl: net.ipv4.vs.{name} = {value} again"),
            Step::Wait(Wait::Drain, time) => write!(f, "go on forwarding for up to {time:?}"),
            Step::Wait(Wait::Settle, time) => write!(f, "give the old director {time:?} to be fenced"),
            Step::Wait(Wait::Handshakes, time) => write!(f, "give connections {time:?} to be established"),
            Step::Tell(daemon) => {
                write!(f, "sync: tell of all connections on {} (id {})", daemon.interface, daemon.sync_id)
            }
            Step::AddVip(vip, placement) => write!(f, "VIP: add {vip} to {placement}"),
            Step::RemoveVip(vip, placement) => write!(f, "VIP: remove {vip} from {placement}"),
            Step::Announce(vip, interface) => write!(f, "VIP: announce {vip} on {interface}"),
            Step::Table(plan) => {
                let count = plan.changes().len();
                write!(f, "IPVS: {count} change{}", if count == 1 { "" } else { "s" })?;
                plan.changes().iter().try_for_each(|change| write!(f, "\n  {change}"))
            }
            Step::Forget => write!(f, "record: forget this node"),
        }
    }
}

/// What a node has to do for a role, in order. Printed, a line for each step.
#[derive(Debug, Clone)]
pub struct Plan {
    pub(super) steps: Vec<Step>,
    pub(super) warnings: Vec<String>,
    pub(super) during: State,
    pub(super) after: State,
}

impl Plan {
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
