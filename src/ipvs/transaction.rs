//! Changes the table by a plan, all or nothing.

use std::collections::BTreeSet;

use super::encode::{check, explain, requests};
use super::{Change, Ipvs, Plan, ServiceId, Table};
use crate::error::{Cause, Error, Result};
use crate::netlink::Stopped;

/// A change that failed among others.
struct Failed {
    index: usize,
    error: Error,
    /// The changes that were carried out, by index; or why that is not known.
    done: Result<Vec<usize>>,
}

impl Ipvs {
    /// Carries out a plan: many changes in a send. When one fails, those that were carried out are
    /// undone: what they changed or removed is as it was when the plan was made.
    ///
    /// # Errors
    /// [`Error::Change`] names the change that failed and why, and says whether the table is as it
    /// was before; [`Error::Invalid`] before anything is done, see [`Table::check`].
    pub fn apply(&mut self, plan: &Plan) -> Result<()> {
        let changes = plan.changes();
        changes.iter().try_for_each(check)?;
        let mut before = Table::new();
        if changes.iter().any(|change| change.service().is_none()) {
            // A plan can be made from a table that says nothing about these.
            (before.timeouts, before.daemons) = (Some(self.timeouts()?), self.daemons()?);
        }
        let Some(Failed { index, error, done }) = self.carry_out(changes) else { return Ok(()) };
        let undone = done.and_then(|done| {
            let back: Vec<Change> = done.iter().rev().flat_map(|&index| plan.inverse(index, &before)).collect();
            self.carry_out(&back).map_or(Ok(()), |failed| Err(failed.error))
        });
        let outcome = match undone {
            Ok(()) => "the table is as it was before".into(),
            Err(error) => format!("and what was done could not be undone: {error}"),
        };
        Err(Error::Change {
            number: index + 1,
            total: changes.len(),
            change: changes.get(index).map(Change::to_string).unwrap_or_default(),
            error: Box::new(error),
            outcome,
        })
    }

    /// Carries out changes as far as possible. `None`: all of them.
    fn carry_out(&mut self, changes: &[Change]) -> Option<Failed> {
        // Daemons and timeouts come last in a plan, and one by one.
        let (table, others) = changes.split_at(changes.iter().take_while(|change| change.service().is_some()).count());
        // The kernel carries out all of a send, also behind a failure: nothing is to go when what
        // comes in its place failed.
        let goes = |change: &Change| matches!(change, Change::RemoveService(_) | Change::RemoveDestination(..));
        let mut start = 0;
        for some in table.chunk_by(|one, next| goes(one) == goes(next)) {
            let (index, failure, done) = match self.socket.batch(some.len(), requests(some)) {
                Ok(()) => {
                    start += some.len();
                    continue;
                }
                Err(Stopped::Refused { sent, index, failure, others }) => {
                    let refused = |number: &usize| *number == index || others.contains(number);
                    (index, failure, Ok((0..sent).filter(|number| !refused(number)).collect()))
                }
                Err(Stopped::Unknown { sent, failure }) => {
                    let done = self.carried_out(&some[sent.clone()]);
                    let before = 0..sent.start;
                    let behind = |done: Vec<usize>| before.chain(done.into_iter().map(|index| sent.start + index));
                    (sent.start, failure, done.map(|done| behind(done).collect::<Vec<_>>()))
                }
            };
            let done = done.map(|done| (0..start).chain(done.into_iter().map(|index| start + index)).collect());
            return Some(Failed { index: start + index, error: explain(&some[index], failure), done });
        }
        others.iter().enumerate().find_map(|(index, change)| {
            let index = table.len() + index;
            Some(Failed { index, error: self.change(change).err()?, done: Ok((0..index).collect()) })
        })
    }

    /// Which of these changes the table shows, by index.
    fn carried_out(&mut self, changes: &[Change]) -> Result<Vec<usize>> {
        let ids: BTreeSet<&ServiceId> = changes.iter().filter_map(Change::service).collect();
        let entries = ids.iter().map(|id| self.entry(id, super::Detail::Configuration));
        let gone = |error: &Error| error.cause() == Some(Cause::NoService);
        let now: Table = entries.filter(|found| !found.as_ref().is_err_and(gone)).collect::<Result<_>>()?;
        Ok(changes.iter().enumerate().filter(|(_, change)| now.shows(change)).map(|(index, _)| index).collect())
    }
}
