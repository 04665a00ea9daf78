//! Reads the table as of one moment.

use std::collections::{BTreeMap, BTreeSet};

use super::legacy::Legacy;
use super::{
    DestinationEntry, Detail, Family, Ipvs, ONE_PIECE, ServiceEntry, ServiceId, SyncDaemon, SyncRole, Table, keep_first,
};
use crate::error::{Cause, Result};
use crate::netlink::Failure;

/// How often a list is read again while it changes under the reader.
const READS: usize = 4;

impl Ipvs {
    /// All services with their destinations. It says nothing about timeouts and daemons: see
    /// [`Ipvs::snapshot`].
    ///
    /// # Errors
    /// As [`Ipvs::entries`].
    pub fn table(&mut self) -> Result<Table> {
        Ok(self.read(Detail::Configuration, |entry| entry.destination)?.into_iter().collect())
    }

    /// All services with their destinations, in the order in which the kernel names them.
    ///
    /// The kernel reads its table in pieces, so that a change in between shows as an entry that is
    /// missing or there twice. What changed meanwhile is read again; of services that come and go
    /// all the time, each is asked for by its name.
    ///
    /// # Errors
    /// [`Cause::Permission`] (`EPERM`); [`Error::Malformed`](crate::Error::Malformed) when a long
    /// list of destinations changed during each of several readings.
    pub fn entries(&mut self, detail: Detail) -> Result<Vec<(ServiceEntry, Vec<DestinationEntry>)>> {
        self.read(detail, |entry| entry)
    }

    /// The same with what `keep` makes of each destination.
    fn read<T>(&mut self, detail: Detail, keep: impl Fn(DestinationEntry) -> T) -> Result<Vec<(ServiceEntry, Vec<T>)>> {
        let services = self.services_at_once()?;
        let counts = match detail {
            Detail::Configuration => self.listed(&services).unwrap_or_default(),
            Detail::Counters => Vec::new(),
        };
        let mut counts = counts.into_iter().peekable();
        let mut found = Vec::with_capacity(services.len());
        for entry in services {
            let id = entry.service.id;
            let count = counts.next_if(|(listed, _)| *listed == id);
            let brief = count.and_then(|(_, count)| self.legacy()?.destinations(&id, count, &keep));
            let destinations = match brief {
                Some(destinations) => destinations,
                None => self.destinations_at_once(&id, detail)?.into_iter().map(&keep).collect(),
            };
            found.push((entry, destinations));
        }
        self.drop_gone(&mut found)?;
        Ok(found)
    }

    /// One that went meanwhile was listed without its destinations.
    fn drop_gone<T>(&mut self, found: &mut Vec<(ServiceEntry, Vec<T>)>) -> Result<()> {
        let are_ipv4 = found.iter().all(|(entry, _)| is_ipv4(entry));
        let listed = if are_ipv4 { self.legacy().and_then(Legacy::services) } else { None };
        let left: Vec<ServiceId> = match listed {
            Some(left) => left.into_iter().map(|(id, _)| id).collect(),
            None => self.services_at_once()?.into_iter().map(|entry| entry.service.id).collect(),
        };
        if !found.iter().map(|(entry, _)| &entry.service.id).eq(&left) {
            let left: BTreeSet<ServiceId> = left.into_iter().collect();
            found.retain(|(entry, _)| left.contains(&entry.service.id));
        }
        Ok(())
    }

    /// One service with its destinations, in the order in which the kernel names them.
    ///
    /// # Errors
    /// [`Cause::NoService`] (`ESRCH`); otherwise as [`Ipvs::entries`].
    pub fn entry(&mut self, id: &ServiceId, detail: Detail) -> Result<(ServiceEntry, Vec<DestinationEntry>)> {
        let entry = self.service(id)?;
        let brief = match detail {
            Detail::Configuration => self.brief(id),
            Detail::Counters => None,
        };
        match brief {
            Some(destinations) => Ok((entry, destinations)),
            None => Ok((entry, self.destinations_at_once(id, detail)?)),
        }
    }

    /// The destinations of a service by the older interface, where that has all.
    fn brief(&mut self, id: &ServiceId) -> Option<Vec<DestinationEntry>> {
        let legacy = self.legacy()?;
        let count = legacy.count(id)?;
        legacy.destinations(id, count, |entry| entry)
    }

    /// A list of services is whole when it is that of one moment, or the same twice.
    fn services_at_once(&mut self) -> Result<Vec<ServiceEntry>> {
        let mut found = self.read_services()?;
        if found.len() < ONE_PIECE || found.iter().all(is_ipv4) && self.listed(&found).is_some() {
            return Ok(found);
        }
        keep_first(&mut found, |entry| entry.service.id);
        let mut steady: BTreeSet<ServiceId> = found.iter().map(|entry| entry.service.id).collect();
        let mut all: BTreeMap<ServiceId, ServiceEntry> = BTreeMap::new();
        for _ in 0..READS {
            let mut again = self.read_services()?;
            keep_first(&mut again, |entry| entry.service.id);
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

    /// Those of IPv4 among these services as the older interface lists them, in the same order,
    /// with how many destinations each has. `None` where they are others there.
    fn listed(&mut self, services: &[ServiceEntry]) -> Option<Vec<(ServiceId, usize)>> {
        let mut of_ipv4 = services.iter().filter(|entry| is_ipv4(entry)).map(|entry| &entry.service.id).peekable();
        of_ipv4.peek()?;
        self.legacy()?.services().filter(|listed| listed.iter().map(|(id, _)| id).eq(of_ipv4))
    }

    fn legacy(&mut self) -> Option<&mut Legacy> {
        if self.legacy.is_none() {
            self.legacy = Legacy::open(self.socket.netns());
        }
        self.legacy.as_mut()
    }

    /// A list of destinations that came in one piece is of one moment; a longer one must be that of
    /// one moment, or the same twice.
    fn destinations_at_once(&mut self, id: &ServiceId, detail: Detail) -> Result<Vec<DestinationEntry>> {
        let mut found = self.read_destinations(id, detail)?;
        if found.len() < ONE_PIECE {
            return Ok(found);
        }
        let listed = self.legacy().and_then(|legacy| legacy.destinations(id, found.len(), |entry| entry.destination));
        if listed.is_some_and(|listed| listed.iter().eq(found.iter().map(|entry| &entry.destination))) {
            return Ok(found);
        }
        keep_first(&mut found, |entry| entry.destination.address);
        for _ in 0..READS {
            let mut again = self.read_destinations(id, detail)?;
            keep_first(&mut again, |entry| entry.destination.address);
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

fn is_ipv4(entry: &ServiceEntry) -> bool {
    entry.service.id.family() == Family::V4
}
