//! Reads the table as of one moment.

use std::collections::{BTreeMap, BTreeSet};

use super::{DestinationEntry, Ipvs, ServiceEntry, ServiceId, SyncDaemon, SyncRole, Table};
use crate::error::{Cause, Result};
use crate::netlink::Failure;

/// How often a list is read again while it changes under the reader.
const READS: usize = 4;

/// Fewer entries than this come in one receive, and so from one moment.
const ONE_PIECE: usize = 64;

impl Ipvs {
    /// All services with their destinations. It says nothing about timeouts and daemons: see
    /// [`Ipvs::snapshot`].
    ///
    /// # Errors
    /// As [`Ipvs::entries`].
    pub fn table(&mut self) -> Result<Table> {
        Ok(self.entries()?.into_iter().collect())
    }

    /// All services with their destinations and what they have done, in the order in which the
    /// kernel names them.
    ///
    /// The kernel reads its table in pieces, so that a change in between shows as an entry that is
    /// missing or there twice. What changed meanwhile is read again; of services that come and go
    /// all the time, each is asked for by its name.
    ///
    /// # Errors
    /// [`Cause::Permission`] (`EPERM`); [`Error::Malformed`](crate::Error::Malformed) when a long
    /// list of destinations changed during each of several readings.
    pub fn entries(&mut self) -> Result<Vec<(ServiceEntry, Vec<DestinationEntry>)>> {
        let mut found = Vec::new();
        for entry in self.services_at_once()? {
            let destinations = self.destinations_at_once(&entry.service.id)?;
            found.push((entry, destinations));
        }
        // One that went meanwhile was listed without its destinations.
        let left: BTreeSet<ServiceId> = self.services_at_once()?.iter().map(|entry| entry.service.id).collect();
        found.retain(|(entry, _)| left.contains(&entry.service.id));
        Ok(found)
    }

    /// One service with its destinations, in the order in which the kernel names them.
    ///
    /// # Errors
    /// [`Cause::NoService`] (`ESRCH`); otherwise as [`Ipvs::entries`].
    pub fn entry(&mut self, id: &ServiceId) -> Result<(ServiceEntry, Vec<DestinationEntry>)> {
        let entry = self.service(id)?;
        Ok((entry, self.destinations_at_once(id)?))
    }

    /// A list of services is whole when it is the same twice.
    fn services_at_once(&mut self) -> Result<Vec<ServiceEntry>> {
        let mut found = self.read_services()?;
        if found.len() < ONE_PIECE {
            return Ok(found);
        }
        let mut steady: BTreeSet<ServiceId> = found.iter().map(|entry| entry.service.id).collect();
        let mut all: BTreeMap<ServiceId, ServiceEntry> = BTreeMap::new();
        for _ in 0..READS {
            let again = self.read_services()?;
            if again.iter().map(|entry| &entry.service).eq(found.iter().map(|entry| &entry.service)) {
                return Ok(again);
            }
            let ids: BTreeSet<ServiceId> = again.iter().map(|entry| entry.service.id).collect();
            steady.retain(|id| ids.contains(id));
            all.extend(std::mem::replace(&mut found, again).into_iter().map(|entry| (entry.service.id, entry)));
        }
        all.extend(found.into_iter().map(|entry| (entry.service.id, entry)));
        let unsteady: Vec<ServiceId> = all.keys().filter(|id| !steady.contains(id)).copied().collect();
        for id in unsteady {
            match self.service(&id) {
                Ok(entry) => drop(all.insert(id, entry)),
                Err(error) if error.cause() == Some(Cause::NoService) => drop(all.remove(&id)),
                Err(error) => return Err(error),
            }
        }
        Ok(all.into_values().collect())
    }

    /// A list of destinations that came in one piece is of one moment; a longer one must be the
    /// same twice.
    fn destinations_at_once(&mut self, id: &ServiceId) -> Result<Vec<DestinationEntry>> {
        let mut found = self.read_destinations(id)?;
        if found.len() < ONE_PIECE {
            return Ok(found);
        }
        for _ in 0..READS {
            let again = self.read_destinations(id)?;
            if again.iter().map(|entry| &entry.destination).eq(found.iter().map(|entry| &entry.destination)) {
                return Ok(again);
            }
            found = again;
        }
        let reason =
            format!("they changed during each of {READS} readings: does another program rewrite them all the time?");
        Err(Failure::Malformed(reason).explain("list the destinations of", id, |_| Cause::Other))
    }

    /// Services and destinations, timeouts and sync daemons.
    ///
    /// # Errors
    /// As [`Ipvs::table`].
    pub fn snapshot(&mut self) -> Result<Table> {
        let mut table = self.table()?;
        table.timeouts = Some(self.timeouts()?);
        table.daemons = self.daemons()?;
        Ok(table)
    }

    /// Each role's sync daemon.
    pub(crate) fn daemons(&mut self) -> Result<BTreeMap<SyncRole, Option<SyncDaemon>>> {
        let running = self.sync_daemons()?.into_iter().map(|daemon| (daemon.role, Some(daemon)));
        Ok([(SyncRole::Master, None), (SyncRole::Backup, None)].into_iter().chain(running).collect())
    }
}

/// What [`Ipvs::entries`] has found, without counters.
impl FromIterator<(ServiceEntry, Vec<DestinationEntry>)> for Table {
    fn from_iter<T: IntoIterator<Item = (ServiceEntry, Vec<DestinationEntry>)>>(entries: T) -> Self {
        let mut table = Table::new();
        for (entry, destinations) in entries {
            let id = entry.service.id;
            table.insert(entry.service);
            for found in destinations {
                // The service was inserted just now.
                let _ = table.insert_destination(&id, found.destination);
            }
        }
        table
    }
}
