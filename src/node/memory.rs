//! What a node remembers, read from its state directory.

use super::handle::Node;
use super::job::Task;
use super::plan::Plan;
use super::planner::{self, Memory};
use super::services;
use super::state::{StateDir, StoredTable};
use crate::error::Result;
use crate::ipvs::{ServiceId, Table};

impl Node {
    /// Reads what the node remembers.
    pub(super) fn remember(&self) -> Result<Memory> {
        let state = self.dir.load()?;
        let table = |kept| self.dir.load_table(kept, self.config.services.as_ref());
        let legacy = if state.legacy.is_some() { table(StoredTable::Legacy)? } else { Table::new() };
        let mut memory = Memory {
            loaded: table(StoredTable::Loaded)?,
            held: table(StoredTable::Held)?,
            state,
            legacy,
            inherited: false,
        };
        if !memory.state.groups.contains_key(&self.config.group) {
            self.inherit(&mut memory)?;
        }
        Ok(memory)
    }

    /// Reads what the node remembers, as a task needs it: the last group that is released takes
    /// with it what groups of an earlier configuration have left.
    pub(super) fn remember_for(&self, task: Option<Task>) -> Result<Memory> {
        let mut memory = self.remember()?;
        if task == Some(Task::Release) && planner::is_last(&self.config, &memory.state) {
            for name in memory.state.obsolete(&self.config) {
                let dir = StateDir::new(&self.config.state_dir, &name);
                services::take_in(&mut memory.loaded, &dir.load_table(StoredTable::Loaded, None)?);
            }
        }
        Ok(memory)
    }

    /// A new group takes over what groups of an earlier configuration remember of its VIPs.
    pub(super) fn inherit(&self, memory: &mut Memory) -> Result<()> {
        let vips = &self.config.vips;
        let is_own = |id: &ServiceId| services::is_of_group(&self.config, id);
        let mut group = memory.state.group(&self.config.group);
        for name in memory.state.obsolete(&self.config) {
            let before = memory.state.group(&name);
            group.held |= before.held;
            group.vips.extend(before.vips.into_iter().filter(|(vip, _)| vips.contains(vip)));
            let dir = StateDir::new(&self.config.state_dir, &name);
            services::take_in(&mut memory.loaded, &dir.load_table(StoredTable::Loaded, None)?.filtered(is_own));
            services::take_in(&mut memory.held, &dir.load_table(StoredTable::Held, None)?.filtered(is_own));
        }
        if !group.vips.is_empty() {
            memory.inherited = true;
            memory.state.groups.insert(self.config.group.clone(), group);
        }
        Ok(())
    }

    /// Removes the tables of groups that are remembered no more.
    pub(super) fn remove_tables(&self, plan: &Plan) -> Result<()> {
        let gone = plan.during.groups.keys().filter(|name| !plan.after.groups.contains_key(*name));
        gone.map(|name| StateDir::new(&self.config.state_dir, name)).try_for_each(|dir| dir.remove_tables())
    }
}
