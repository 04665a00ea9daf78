//! Repairs: what has drifted from the role that the node has is set right again, and what is others' to change is left to them.

use super::config::Config;
use super::decide::{self, Wanted};
use super::observation::Observation;
use super::plan::{Plan, Step};
use super::state::State;
use super::{LOCK_LIMIT, Node};
use crate::error::Result;

impl Node {
    /// What [`Node::repair`] would do. Changes nothing; nothing is to be done where no role was taken on yet, or while one is under way.
    ///
    /// # Errors
    /// As [`Node::plan`].
    pub fn plan_repair(&mut self) -> Result<Plan> {
        let state = self.dir.load()?;
        let seen = self.observe(&state)?;
        plan(&self.config, &state, &seen)
    }

    /// Sets right what others have changed: VIPs, ARP settings, sysctls, sync daemons, services, and the weights of a fenced backup. Which
    /// destinations a service has, and a director's weights, are health checks' to change: they stay. No request for a role is
    /// overtaken by it.
    ///
    /// # Errors
    /// As [`Node::become_role`].
    pub fn repair(&mut self, mut before: impl FnMut(&Step)) -> Result<Plan> {
        self.dir.prepare()?;
        let _lock = self.dir.lock(LOCK_LIMIT)?;
        let state = self.dir.load()?;
        let Some(wanted) = wanted(&state) else { return Ok(nothing(&state)) };
        let aside = self.dir.aside("of a repair")?;
        self.reach(wanted, &state, Vec::new(), &aside, &mut before)
    }

    /// Stops this node's sync daemons and starts them again. The kernel's daemons stay with the interface that they were started on: when it
    /// was removed, and one of its name made anew, they send and hear nothing, and do not say so.
    ///
    /// # Errors
    /// As [`Node::repair`]; [`Error::Refused`](crate::Error::Refused) with the kernel's errno: as when they are started.
    pub fn restart_sync_daemons(&mut self) -> Result<()> {
        self.dir.prepare()?;
        let _lock = self.dir.lock(LOCK_LIMIT)?;
        if !self.dir.load_head()?.syncs {
            return Ok(());
        }
        for daemon in self.ipvs.sync_daemons()? {
            self.ipvs.stop_sync_daemon(daemon.role)?;
            self.ipvs.start_sync_daemon(&daemon)?;
        }
        Ok(())
    }
}

fn wanted(state: &State) -> Option<Wanted> {
    let (role, _) = state.role.filter(|_| !state.handing_over)?;
    Some(Wanted { sparing: true, ..Wanted::again(role, state) })
}

/// What has drifted from the role that the node has.
pub(super) fn plan(config: &Config, state: &State, seen: &Observation) -> Result<Plan> {
    let Some(wanted) = wanted(state) else { return Ok(nothing(state)) };
    let plan = decide::for_role(config, wanted, state, seen)?;
    // What only changes what is remembered repairs nothing.
    Ok(if plan.first_change().is_some() { plan } else { nothing(state) })
}

fn nothing(state: &State) -> Plan {
    Plan { steps: Vec::new(), warnings: Vec::new(), during: state.clone(), after: state.clone() }
}
