//! Looks at the node as a whole, and reads all of its table only where that may have changed.
//!
//! A status reads the table with all counters. Of what it depends on, the [`Basis`] is read each
//! time; /proc/net/ip_vs, which is read in pieces, shows whether the rest has changed, and how many
//! connections there are now. What neither shows (other programs' policy routes, limits of
//! destinations, neighbours that were not notified) is seen by a status now and then.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use super::engine::{Look, Looks};
use crate::error::Result;
use crate::ipvs::{Family, Glance, ServiceId};
use crate::netns::Netns;
use crate::node::MarkValues;
use crate::node::connections::SLICE;
use crate::node::status::{Basis, Status};

/// The table is read again after so many times what that takes, within these limits.
const SHARE: u32 = 5000;
const AGES: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(600));
/// The same for a glance.
const GLANCE_SHARE: u32 = 1000;
const GLANCE_AGE: Duration = Duration::from_secs(90);

/// What the looks have shown so far.
#[derive(Debug, Default)]
pub(super) struct Survey {
    last: Option<Last>,
    reading: Option<Reading>,
}

/// The last status of each group.
#[derive(Debug)]
struct Last {
    basis: Vec<Basis>,
    groups: Vec<LastOfGroup>,
    /// When statuses are read again.
    until: Instant,
    /// The glance before them, and when there is one again.
    digest: u64,
    glance_at: Instant,
}

#[derive(Debug)]
struct LastOfGroup {
    look: Look,
    services: BTreeSet<ServiceId>,
    values: MarkValues,
    /// What the status has counted, and what the glance before it has: the first counts templates
    /// too.
    status: Counted,
    glance: Counted,
}

/// Connections of a group's services, and of those of the marks.
#[derive(Debug, Clone, Copy)]
struct Counted {
    own: u64,
    marked: u64,
}

/// A glance that is under way.
#[derive(Debug)]
struct Reading {
    basis: Vec<Basis>,
    glance: Glance,
    counts: BTreeMap<ServiceId, u64>,
    /// For how long it was read.
    took: Duration,
}

/// What comes of a look.
#[derive(Debug)]
pub(super) enum Surveyed {
    /// It goes on.
    Reading,
    /// This is what the node is.
    Looks(Looks),
    /// The status is to be read: then [`Survey::has_read`].
    Changed(Glanced),
}

/// What was seen before the status was read.
#[derive(Debug)]
pub(super) struct Glanced {
    basis: Vec<Basis>,
    counts: BTreeMap<ServiceId, u64>,
    digest: u64,
    took: Duration,
}

impl Survey {
    /// Begins a look, at what the statuses depend on.
    ///
    /// # Errors
    /// /proc/net/ip_vs cannot be read.
    pub(super) fn begin(&mut self, now: Instant, basis: Vec<Basis>, netns: &Netns) -> Result<Surveyed> {
        if let Some(last) = &self.last
            && last.is_as(now, &basis)
            && now < last.glance_at
        {
            return Ok(Surveyed::Looks(Looks { groups: last.looks(), counted: false, took: now.elapsed() }));
        }
        let glance = Glance::open(netns)?;
        self.reading = Some(Reading { basis, glance, counts: BTreeMap::new(), took: now.elapsed() });
        Ok(Surveyed::Reading)
    }

    /// Whether a look goes on.
    pub(super) fn is_reading(&self) -> bool {
        self.reading.is_some()
    }

    /// Goes on for a while.
    ///
    /// # Errors
    /// As [`Survey::begin`]. The look has ended.
    pub(super) fn go_on(&mut self, now: Instant) -> Result<Surveyed> {
        let Some(mut reading) = self.reading.take() else { return Ok(Surveyed::Reading) };
        loop {
            let counts = &mut reading.counts;
            let more = reading.glance.read(|id, count| *counts.entry(id).or_default() += count)?;
            let slice = now.elapsed();
            if !more {
                reading.took += slice;
                return Ok(self.end(now, reading));
            }
            if slice >= SLICE {
                reading.took += slice;
                self.reading = Some(reading);
                return Ok(Surveyed::Reading);
            }
        }
    }

    fn end(&mut self, now: Instant, reading: Reading) -> Surveyed {
        let Reading { basis, glance, counts, took } = reading;
        let digest = glance.digest();
        match &mut self.last {
            Some(last) if last.is_as(now, &basis) && last.digest == digest => {
                last.groups.iter_mut().for_each(|group| group.count(&counts));
                last.glance_at = now + (took * GLANCE_SHARE).min(GLANCE_AGE);
                Surveyed::Looks(Looks { groups: last.looks(), counted: true, took })
            }
            _ => Surveyed::Changed(Glanced { basis, counts, digest, took }),
        }
    }

    /// Takes in the statuses that were read after this glance, from `start` on.
    pub(super) fn has_read(
        &mut self,
        start: Instant,
        before: Glanced,
        statuses: &[Status],
        values: MarkValues,
    ) -> Surveyed {
        let Glanced { basis, counts, digest, took } = before;
        let of = |status: &Status| {
            let services = status.kept.services().map(|found| as_glanced(found.service.id)).collect();
            let look = Look::of(status);
            let glance = count(&counts, &services, values);
            LastOfGroup {
                services,
                values,
                status: Counted { own: look.connections, marked: look.marked },
                glance,
                look,
            }
        };
        let groups = statuses.iter().map(of).collect();
        let (now, took_all) = (Instant::now(), took + start.elapsed());
        let until = now + (took_all * SHARE).clamp(AGES.0, AGES.1);
        let last = Last { basis, groups, until, digest, glance_at: now + (took * GLANCE_SHARE).min(GLANCE_AGE) };
        let groups = last.looks();
        self.last = Some(last);
        Surveyed::Looks(Looks { groups, counted: true, took: took_all })
    }

    /// Something has changed that neither the basis nor a glance may show.
    pub(super) fn forget(&mut self) {
        self.last = None;
    }
}

impl Last {
    /// Whether the node is as it was, and lacked nothing.
    fn is_as(&self, now: Instant, basis: &[Basis]) -> bool {
        now < self.until && self.basis == basis && self.groups.iter().all(|group| group.look.drift.is_empty())
    }

    fn looks(&self) -> Vec<Look> {
        self.groups.iter().map(|group| group.look.clone()).collect()
    }
}

impl LastOfGroup {
    fn count(&mut self, counts: &BTreeMap<ServiceId, u64>) {
        let now = count(counts, &self.services, self.values);
        let since = |status: u64, now: u64, before: u64| (status + now).saturating_sub(before);
        self.look.connections = since(self.status.own, now.own, self.glance.own);
        self.look.marked = since(self.status.marked, now.marked, self.glance.marked);
    }
}

fn count(counts: &BTreeMap<ServiceId, u64>, services: &BTreeSet<ServiceId>, values: MarkValues) -> Counted {
    let sum = |is_counted: &dyn Fn(&ServiceId) -> bool| {
        counts.iter().filter(|(id, _)| is_counted(id)).map(|(_, count)| count).sum::<u64>()
    };
    Counted { own: sum(&|id| services.contains(id)), marked: sum(&|id| values.owns(id)) }
}

/// A glance does not show of which family a mark's service is.
fn as_glanced(id: ServiceId) -> ServiceId {
    match id {
        ServiceId::Fwmark { mark, .. } => ServiceId::Fwmark { mark, family: Family::V4 },
        id => id,
    }
}
