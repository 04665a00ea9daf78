//! The audit: what is set up so that it harms, or will at the next failover, found before.
//!
//! [`Node::audit`] looks at the kernel and changes nothing. Each [`Finding`] says what ([`Kind`]), how bad, why, and what to do;
//! [`Node::fix`] does what is the node's to do: it takes on the role that it has once more, which sets right what has drifted from it,
//! and sets the sysctls of IPVS that were found missing. Those are remembered as wanted, whatever the fence, and given
//! back on release. What belongs to others (settings of `all`, other interfaces, keepalived's file) is never changed: the remedy is a
//! command to be run by hand.
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

mod finding;
mod judge;
mod keepalived;
mod surroundings;

pub use finding::{Finding, Kind, Remedy, Severity};

use std::path::Path;

use super::decide::Wanted;
use super::kept::kept_table;
use super::plan::{Plan, Step};
use super::role::Role;
use super::state::State;
use super::{LOCK_LIMIT, Node, decide};
use crate::error::{Error, Result};
use judge::Case;
use surroundings::Surroundings;

/// The sysctls of IPVS that an audit looks at, below net.ipv4.vs.
pub(super) const SYSCTLS: [&str; 4] =
    ["backup_only", "expire_nodest_conn", "expire_quiescent_template", "sync_threshold"];

impl Node {
    /// What harms now, or will: the worst first; nothing, on a right set-up. Changes nothing, except that a scheduler that is not
    /// loaded yet is tried (in a network namespace made for it), which loads its module.
    ///
    /// It is judged for the role that was asked for last; in the middle of a handover, for none. `keepalived`: keepalived's file, where the VRRP instances are to be looked at.
    ///
    /// # Errors
    /// As [`Node::status`]; [`Error::System`] when `keepalived` cannot be read.
    pub fn audit(&mut self, keepalived: Option<&Path>) -> Result<Vec<Finding>> {
        let state = self.dir.load()?;
        let seen = self.observe(&state)?;
        let kept = kept_table(&self.config, &state, &seen);
        let around = Surroundings::of(self, &kept, &seen.table, keepalived)?;
        let role = state.role.map(|(role, _)| role);
        // What a fix would do is decided where a role is, so that there is one way to do a thing.
        let mended = judge::mended(&kept, &seen);
        let with_mended = State { mended: state.mended.iter().map(own).chain(mended).collect(), ..state.clone() };
        let role = role.filter(|_| !state.handing_over);
        let plan = role.map(|role| decide::for_role(&self.config, Wanted::again(role, &state), &with_mended, &seen));
        Ok(Case::new(&self.config, &state, role, &seen, &around, &kept, plan.as_ref()).findings())
    }

    /// What [`Node::fix`] would do. Changes nothing.
    ///
    /// # Errors
    /// As [`Node::plan`]; [`Error::Invalid`] where the node has not taken on a role yet, or is handing over.
    pub fn plan_fix(&mut self) -> Result<Plan> {
        let (role, state) = self.mended_state()?;
        self.plan_after(Wanted::again(role, &state), &state)
    }

    /// Sets right what an audit finds and what is the node's, and calls `before` with each step before it is done: takes on the role
    /// that was asked for last once more, and sets the sysctls of IPVS that were found missing. No request for a role is overtaken by
    /// it.
    ///
    /// # Errors
    /// As [`Node::become_role`], and as [`Node::plan_fix`].
    pub fn fix(&mut self, mut before: impl FnMut(&Step)) -> Result<Plan> {
        self.dir.prepare()?;
        let _lock = self.dir.lock(LOCK_LIMIT)?;
        let (role, state) = self.mended_state()?;
        let aside = self.dir.aside("of a fix")?;
        self.reach(Wanted::again(role, &state), &state, Vec::new(), &aside, &mut before)
    }

    /// The role that the node has, and what it remembers, with what a fix adds.
    fn mended_state(&mut self) -> Result<(Role, State)> {
        let mut state = self.dir.load()?;
        let Some((role, _)) = state.role else {
            return Err(Error::invalid("a fix", "this node has taken on no role yet: let it take on one first"));
        };
        if state.handing_over {
            return Err(Error::invalid(
                "a fix",
                "this node is handing over, which a fix would undo: finish that first",
            ));
        }
        let seen = self.observe(&state)?;
        state.mended.extend(judge::mended(&kept_table(&self.config, &state, &seen), &seen));
        Ok((role, state))
    }
}

fn own((name, value): (&String, &String)) -> (String, String) {
    (name.clone(), value.clone())
}
