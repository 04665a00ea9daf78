//! Drift: a table that is no longer as it is wanted.

use std::thread::sleep;
use std::time::Duration;

use super::{Ipvs, Plan, ServiceId, Table};
use crate::error::Result;

/// A difference between the kernel's table and the one that is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Drift {
    /// What brings the table back.
    pub plan: Plan,
    /// Whether that was done.
    pub repaired: bool,
}

/// Which services are the watcher's.
type Owner = Box<dyn Fn(&ServiceId) -> bool + Send>;

/// An iterator that blocks until the kernel's table differs from the one that is wanted, looking
/// at an interval; it never ends.
///
/// The kernel does not tell when its table changes, so that a difference shows within one
/// interval. One that is not repaired is reported once, and again when it has changed. An error
/// (the kernel does not answer) is an item like others: the next call goes on.
///
/// Services that `wanted` does not name are other people's, unless [`Watch::owner`] says
/// otherwise.
///
/// ```no_run
/// use lvs_dr::ipvs::{Ipvs, Table, Watch};
/// use std::time::Duration;
///
/// let wanted: Table = std::fs::read_to_string("web.ipvs")?.parse()?;
/// for drift in Watch::new(Ipvs::open()?, wanted, Duration::from_secs(1)).repair(true) {
///     print!("{}", drift?.plan);
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Watch {
    ipvs: Ipvs,
    wanted: Table,
    interval: Duration,
    repair: bool,
    owner: Option<Owner>,
    reported: Plan,
    started: bool,
}

impl Watch {
    /// Watches for differences from `wanted`, looking once every `interval`; an interval of 0
    /// keeps a processor busy.
    pub fn new(ipvs: Ipvs, wanted: Table, interval: Duration) -> Self {
        Watch { ipvs, wanted, interval, repair: false, owner: None, reported: Plan::default(), started: false }
    }

    /// Whether a difference is also repaired.
    pub fn repair(mut self, repair: bool) -> Self {
        self.repair = repair;
        self
    }

    /// Which services are the watcher's: one of them that is not wanted is a difference.
    pub fn owner(mut self, is_ours: impl Fn(&ServiceId) -> bool + Send + 'static) -> Self {
        self.owner = Some(Box::new(is_ours));
        self
    }

    fn look(&mut self) -> Result<Plan> {
        let seen = match self.wanted.timeouts.is_none() && self.wanted.daemons.is_empty() {
            true => self.ipvs.table()?,
            false => self.ipvs.snapshot()?,
        };
        let ours =
            |id: &ServiceId| self.wanted.service(id).is_some() || self.owner.as_ref().is_some_and(|owner| owner(id));
        Ok(Plan::between(&seen.filtered(ours), &self.wanted))
    }
}

impl Iterator for Watch {
    type Item = Result<Drift>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            // The first look is at once.
            if std::mem::replace(&mut self.started, true) {
                sleep(self.interval);
            }
            let plan = match self.look() {
                Ok(plan) => plan,
                Err(error) => return Some(Err(error)),
            };
            if plan.is_empty() || (plan == self.reported && !self.repair) {
                self.reported = plan;
                continue;
            }
            self.reported = plan.clone();
            return Some(match self.repair {
                true => self.ipvs.apply(&plan).map(|()| Drift { plan, repaired: true }),
                false => Ok(Drift { plan, repaired: false }),
            });
        }
    }
}

impl std::fmt::Debug for Watch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Watch").field("interval", &self.interval).field("repair", &self.repair).finish_non_exhaustive()
    }
}
