//! Changes the table by a plan, all or nothing.

use std::collections::BTreeSet;

use super::encode::{check, encode, explain};
use super::wire::Message;
use super::{Change, Ipvs, Plan, ServiceId, Table};
use crate::error::{Cause, Error, Result};

/// So many services are asked for one by one rather than all that there are.
const FEW: usize = 16;

impl Ipvs {
    /// Carries out a plan: many changes in a send. When one fails, those that were done are
    /// undone.
    ///
    /// # Errors
    /// [`Error::Change`] names the change that failed and why, and says whether the table is as it
    /// was before; [`Error::Invalid`] before anything is done, see [`Table::check`].
    pub fn apply(&mut self, plan: &Plan) -> Result<()> {
        plan.changes().iter().try_for_each(check)?;
        if plan.is_empty() {
            return Ok(());
        }
        // Not what the plan was made from: that can be old, or leave out what it does not know of.
        let before = self.touched(plan)?;
        let Some((index, error)) = self.carry_out(plan.changes()) else { return Ok(()) };
        let outcome = match self.undo(plan, &before) {
            Ok(()) => "the table is as it was before".into(),
            Err(error) => format!("and what was done could not be undone: {error}"),
        };
        Err(Error::Change {
            number: index + 1,
            total: plan.changes().len(),
            change: plan.changes().get(index).map(Change::to_string).unwrap_or_default(),
            error: Box::new(error),
            outcome,
        })
    }

    /// Carries out changes as far as possible, and says which was the first to fail, and why.
    fn carry_out(&mut self, changes: &[Change]) -> Option<(usize, Error)> {
        // Daemons and timeouts come last in a plan, and one by one.
        let (table, others) = changes.split_at(changes.iter().take_while(|change| change.service().is_some()).count());
        // The kernel carries out all of a send, also behind a failure: nothing is to go when what
        // comes in its place failed.
        let goes = |change: &Change| matches!(change, Change::RemoveService(_) | Change::RemoveDestination(..));
        let mut done = 0;
        for some in table.chunk_by(|one, next| goes(one) == goes(next)) {
            let requests: Vec<Message> = some.iter().filter_map(encode).collect();
            match self.socket.batch(&requests, false) {
                Ok(outcomes) => {
                    let failed =
                        outcomes.into_iter().enumerate().find_map(|(index, outcome)| Some((index, outcome.err()?)));
                    if let Some((index, failure)) = failed {
                        return Some((done + index, explain(&some[index], failure)));
                    }
                }
                // How far the kernel came is not known.
                Err(failure) => return Some((done, explain(&some[0], failure))),
            }
            done += some.len();
        }
        others.iter().enumerate().find_map(|(index, change)| Some((table.len() + index, self.change(change).err()?)))
    }

    /// What a plan touches, as it is now.
    fn touched(&mut self, plan: &Plan) -> Result<Table> {
        let touched: BTreeSet<&ServiceId> = plan.changes().iter().filter_map(Change::service).collect();
        let mut now = match touched.len() {
            0..FEW => self.named(&touched)?,
            _ => self.table()?.filtered(|id| touched.contains(id)),
        };
        now.timeouts = Some(self.timeouts()?);
        now.daemons = self.daemons()?;
        let changes = |what: &dyn Fn(&Change) -> bool| plan.changes().iter().any(what);
        now.timeouts = now.timeouts.filter(|_| changes(&|change| matches!(change, Change::SetTimeouts(_))));
        now.daemons.retain(|role, _| {
            changes(&|change| match change {
                Change::StopDaemon(stopped) => stopped == role,
                Change::StartDaemon(started) => started.role == *role,
                _ => false,
            })
        });
        Ok(now)
    }

    /// The services with these names, as far as they are there.
    fn named(&mut self, ids: &BTreeSet<&ServiceId>) -> Result<Table> {
        let found = ids.iter().map(|id| self.entry(id));
        found.filter(|found| !matches!(found, Err(error) if error.cause() == Some(Cause::NoService))).collect()
    }

    /// Brings what a plan touches back to what it was.
    fn undo(&mut self, plan: &Plan, before: &Table) -> Result<()> {
        let back = Plan::between(&self.touched(plan)?, before);
        match self.carry_out(back.changes()) {
            None => Ok(()),
            Some((_, error)) => Err(error),
        }
    }
}
