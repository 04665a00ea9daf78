//! Repairs: what other programs have changed of what the role needs is set right again. The
//! services of the table are their editors'.

use std::time::Duration;

use super::Node;
use super::config::Config;
use super::job::{LOCK_LIMIT, Task};
use super::observation::Observation;
use super::plan::{Plan, Step};
use super::planner::{self, Memory};
use super::services::Apply;
use crate::error::Result;

impl Node {
    /// Plans what [`Node::repair`] would do. Changes nothing. The plan is empty where no role was
    /// taken on yet.
    ///
    /// # Errors
    /// As [`Node::plan`].
    pub fn plan_repair(&mut self) -> Result<Plan> {
        let memory = self.remember()?;
        let seen = self.observe(&memory.state)?;
        plan(&self.config, &memory, &seen)
    }

    /// Sets right what other programs have changed: VIPs, ARP settings, sysctls, sync daemons, the
    /// rules and services of the marks. Follows changes of the peers' MAC addresses. Loads the
    /// configured services where the kernel has none of them; services, destinations and weights
    /// that differ stay. It supersedes no request, and yields to each.
    ///
    /// # Errors
    /// As [`Node::become_role`]; [`Error::Superseded`](crate::Error::Superseded) where it has
    /// yielded to a request.
    pub fn repair(&mut self, mut before: impl FnMut(&Step)) -> Result<Plan> {
        self.carry_out(Task::Repair, &mut before)
    }

    /// Places VIPs again that another program has removed, without a look at anything else: for
    /// programs that follow the kernel's notifications (see [`Monitor`](crate::marks::Monitor)).
    ///
    /// # Errors
    /// As [`Node::repair`].
    pub fn restore_vips(&mut self) -> Result<Plan> {
        self.carry_out(Task::RestoreVips, &mut |_| ())
    }

    /// Stops this node's sync daemons and starts them again. The kernel's daemons stay with the
    /// interface that they were started on: when it was removed, and another one of its name was
    /// made, they neither send nor receive, without an error.
    ///
    /// # Errors
    /// As [`Node::repair`]; [`Error::Refused`](crate::Error::Refused) with the kernel's errno: as
    /// when they are started.
    pub fn restart_sync_daemons(&mut self) -> Result<()> {
        self.restart_sync_daemons_within(LOCK_LIMIT)
    }

    /// The same, where no other process is at work.
    pub(super) fn restart_sync_daemons_now(&mut self) -> Result<()> {
        self.restart_sync_daemons_within(Duration::ZERO)
    }

    fn restart_sync_daemons_within(&mut self, limit: Duration) -> Result<()> {
        self.dir.prepare()?;
        let _lock = self.dir.lock(limit)?;
        if !self.dir.load()?.syncs {
            return Ok(());
        }
        for daemon in self.ipvs.sync_daemons()? {
            self.ipvs.stop_sync_daemon(daemon.role)?;
            self.ipvs.start_sync_daemon(&daemon)?;
        }
        Ok(())
    }
}

/// Plans to set right what has drifted from the role that the node has.
pub(super) fn plan(config: &Config, memory: &Memory, seen: &Observation) -> Result<Plan> {
    let Some((role, reached)) = memory.state.group(&config.group).role else { return Ok(nothing(memory)) };
    let plan = planner::for_role(config, role, Apply::Changes, memory, seen)?;
    Ok(if repairs(&plan, reached) { plan } else { nothing(memory) })
}

/// Whether this plan of the role that the node has sets something right. What only changes what is
/// remembered does not, but for a role that was not reached.
pub(super) fn repairs(plan: &Plan, reached: bool) -> bool {
    plan.first_change().is_some() || !reached
}

fn nothing(memory: &Memory) -> Plan {
    Plan::beside(&memory.state, Vec::new())
}

#[cfg(test)]
mod tests {
    use super::super::fence::Fence;
    use super::super::model::{World, config};
    use super::super::role::Role;
    use super::*;
    use crate::ipvs::Table;

    #[test]
    fn a_repair_leaves_alone_what_only_the_memory_lacks() {
        type Change = fn(&mut World);
        let rows: [(Change, usize); 5] = [
            (|_| (), 0),
            (|world| world.seen.vips.values_mut().for_each(Vec::clear), 3),
            (|world| world.memory.loaded = Table::new(), 0),
            // A role that was not reached is recorded.
            (|world| world.memory.state.group_mut("").role = Some((Role::Backup, false)), 2),
            (|world| world.memory.state.groups.clear(), 0),
        ];
        for (number, (change, steps)) in rows.into_iter().enumerate() {
            let mut world = World::new(config(Fence::Marks));
            world.take_on(Role::Backup);
            change(&mut world);
            let plan = plan(&world.config, &world.memory, &world.seen).unwrap();
            assert_eq!(plan.steps().len(), steps, "{number}: {plan}");
        }
    }
}
