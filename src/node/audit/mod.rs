//! The audit: what is set up so that it harms, or will at the next failover, found before.
//!
//! [`Node::audit`] looks at the kernel and changes nothing. Each [`Finding`] says what ([`Kind`]),
//! how bad, why, and what to do; [`Node::fix`] does what is the node's to do: it takes on the role
//! that it has once more, which sets right what has drifted from it, and sets the sysctls of IPVS
//! that were found missing. Those are remembered as wanted, whatever the fence, and given back on
//! release. What belongs to others (settings of `all`, other interfaces, keepalived's file) is
//! never changed: the remedy is a command to be run by hand.
//!
//! ```no_run
//! use lvs_dr::node::{Config, Node};
//!
//! let mut node = Node::open(Config::new("bond0", ["192.168.0.254".parse()?]))?;
//! for finding in node.audit(Some("/etc/keepalived/keepalived.conf".as_ref()))? {
//!     println!("{finding}");
//! }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod checks;
mod elections;
mod environment;
mod finding;
mod keepalived;
#[cfg(test)]
mod list;

pub use finding::{Finding, Kind, Remedy, Severity};

use std::path::Path;

use super::Node;
use super::job::{self, Task};
use super::leftovers;
use super::observe::Look;
use super::plan::{Plan, Step};
use super::planner::{self, Judgement};
use super::role::Role;
use crate::error::Result;
pub(in crate::node) use checks::mended;
use checks::{Case, Judged};
use environment::Environment;

/// The sysctls of IPVS that an audit looks at, below net.ipv4.vs.
pub(super) const SYSCTLS: [&str; 4] =
    ["backup_only", "expire_nodest_conn", "expire_quiescent_template", "sync_threshold"];

impl Node {
    /// What harms now, or will: the worst first; nothing, on a right set-up. Changes nothing,
    /// except that a scheduler that is not loaded yet is tried (in a network namespace made for
    /// it), which loads its module.
    ///
    /// It is judged for the role that was asked for last. `keepalived`: keepalived's file, where
    /// the VRRP instances are to be looked at.
    ///
    /// # Errors
    /// As [`Node::status`]; [`Error::System`](crate::Error::System) when `keepalived` cannot be
    /// read.
    pub fn audit(&mut self, keepalived: Option<&Path>) -> Result<Vec<Finding>> {
        // A peer that was never asked for its MAC address is not unknown.
        let (memory, seen) = self.look(None, Look::AllAndResolve)?;
        // What a fix would do is decided where a role is, so that there is one way to do a thing.
        let asked = [Role::Master, Role::Backup];
        let judged = planner::judge(&self.config, &memory, &seen, &asked, |kept| mended(kept, &seen));
        let Judgement { plan, refused, table, troubles, unset } = judged;
        let around = Environment::of(self, &table, &seen.table, keepalived)?;
        let remembered = memory.state.group(&self.config.group).role;
        let role = remembered.map(|(role, _)| role);
        let judged = Judged {
            plan,
            refused,
            elsewhere: planner::elsewhere(&self.config, &memory.state, &seen).into_iter().cloned().collect(),
            unset,
            troubles,
            reached: remembered.is_some_and(|(_, reached)| reached),
            failure: self.failure(),
            signs: leftovers::of(&self.config, &memory.state, &seen).map_or_else(Vec::new, |found| found.signs),
        };
        Ok(Case::new(&self.config, role, &seen, &around, &table, judged).findings())
    }

    /// Plans what [`Node::fix`] would do. Changes nothing.
    ///
    /// # Errors
    /// As [`Node::plan`]; [`Error::Invalid`](crate::Error::Invalid) where the node has not taken
    /// on a role yet.
    pub fn plan_fix(&mut self) -> Result<Plan> {
        let (memory, seen) = self.look(Some(Task::Fix), Look::All)?;
        job::plan(&self.config, Task::Fix, &memory, &seen)
    }

    /// Sets right what an audit finds and what is the node's, and calls `before` with each step
    /// before it is done: takes on the role that was asked for last once more, and sets the
    /// sysctls of IPVS that were found missing. No request for a role is superseded by it.
    ///
    /// # Errors
    /// As [`Node::become_role`], and as [`Node::plan_fix`].
    pub fn fix(&mut self, mut before: impl FnMut(&Step)) -> Result<Plan> {
        self.carry_out(Task::Fix, &mut before)
    }
}
