//! A set of services with their destinations: seen in the kernel, read from a text, or wanted.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use super::{Destination, Service, ServiceId, SyncDaemon, SyncRole, Timeouts};
use crate::error::Result;

/// Services with their destinations, in the order of [`ServiceId`]; and, where it says so,
/// timeouts and sync daemons.
///
/// As text it is what `ipvsadm-save -n` writes and `ipvsadm-restore` reads, see ipvsadm-save(8).
/// What that format leaves out is written as ipvsadm's own options and commands: thresholds (`-x`,
/// `-y`, which `ipvsadm-restore` reads too), timeouts (`--set 900 120 300`) and daemons
/// (`--start-daemon master --mcast-interface eth0 --syncid 7`, or `--stop-daemon master` for
/// none). Empty lines and lines that begin with `#` may be there.
///
/// ```
/// use lvs_dr::ipvs::Table;
///
/// let table: Table = "-A -t 192.168.0.254:80 -s wrr\n-a -t 192.168.0.254:80 -r 192.168.0.11:80 -g -w 1\n".parse()?;
/// assert_eq!(table.len(), 1);
/// # Ok::<(), lvs_dr::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Table {
    services: BTreeMap<ServiceId, (Service, BTreeMap<SocketAddr, Destination>)>,
    /// How long idle connections are remembered. `None`: this table says nothing about it.
    pub timeouts: Option<Timeouts>,
    /// The sync daemon of each role: `None` for none. Of a role that is missing, this table says
    /// nothing.
    pub daemons: BTreeMap<SyncRole, Option<SyncDaemon>>,
}

/// A service of a [`Table`] with its destinations.
#[derive(Debug, Clone, Copy)]
pub struct VirtualService<'a> {
    /// The service.
    pub service: &'a Service,
    destinations: &'a BTreeMap<SocketAddr, Destination>,
}

impl<'a> VirtualService<'a> {
    /// Its destinations, by address.
    pub fn destinations(self) -> impl ExactSizeIterator<Item = &'a Destination> {
        self.destinations.values()
    }

    /// The destination with this address.
    pub fn destination(self, address: SocketAddr) -> Option<&'a Destination> {
        self.destinations.get(&address)
    }
}

impl Table {
    /// A table without services.
    pub fn new() -> Self {
        Table::default()
    }

    /// How many services there are.
    pub fn len(&self) -> usize {
        self.services.len()
    }

    /// Whether there is no service.
    pub fn is_empty(&self) -> bool {
        self.services.is_empty()
    }

    /// The services, in order.
    pub fn services(&self) -> impl ExactSizeIterator<Item = VirtualService<'_>> {
        self.services.values().map(|(service, destinations)| VirtualService { service, destinations })
    }

    /// The service with this name.
    pub fn service(&self, id: &ServiceId) -> Option<VirtualService<'_>> {
        self.services.get(id).map(|(service, destinations)| VirtualService { service, destinations })
    }

    /// Adds a service, or changes it and keeps its destinations. Says whether it is new.
    pub fn insert(&mut self, service: Service) -> bool {
        match self.services.get_mut(&service.id) {
            Some((present, _)) => {
                *present = service;
                false
            }
            None => self.services.insert(service.id, (service, BTreeMap::new())).is_none(),
        }
    }

    /// Adds a destination to a service, or changes it, and returns what it was before. `Err` gives
    /// the destination back where the table has no such service.
    pub fn insert_destination(
        &mut self,
        id: &ServiceId,
        destination: Destination,
    ) -> Result<Option<Destination>, Destination> {
        match self.services.get_mut(id) {
            Some((_, destinations)) => Ok(destinations.insert(destination.address, destination)),
            None => Err(destination),
        }
    }

    /// Takes a service out, and its destinations with it. Says whether it was there.
    pub fn remove(&mut self, id: &ServiceId) -> bool {
        self.services.remove(id).is_some()
    }

    /// Takes a destination out of a service, and returns it if it was there.
    pub fn remove_destination(&mut self, id: &ServiceId, address: SocketAddr) -> Option<Destination> {
        self.services.get_mut(id)?.1.remove(&address)
    }

    /// Keeps only the services that `keep` says: an owner's, say, so that what belongs to others
    /// is neither changed nor removed.
    pub fn retain(&mut self, mut keep: impl FnMut(&ServiceId) -> bool) {
        self.services.retain(|id, _| keep(id));
    }

    /// The part of the table whose services `keep` says. Timeouts and daemons are kept as they
    /// are.
    pub fn filtered(&self, mut keep: impl FnMut(&ServiceId) -> bool) -> Table {
        let services = self.services.iter().filter(|(id, _)| keep(id));
        Table {
            services: services.map(|(id, content)| (*id, content.clone())).collect(),
            timeouts: self.timeouts,
            daemons: self.daemons.clone(),
        }
    }

    /// Calls `change` for each destination of each service. What it does to an address is not
    /// kept.
    pub fn edit_destinations(&mut self, mut change: impl FnMut(&ServiceId, &mut Destination)) {
        for (id, (_, destinations)) in &mut self.services {
            for (address, destination) in destinations {
                change(id, destination);
                destination.address = *address;
            }
        }
    }

    /// Refuses what makes no sense: among it what the kernel would take.
    ///
    /// # Errors
    /// [`crate::Error::Invalid`] with the service or destination and the reason.
    pub fn check(&self) -> Result<()> {
        self.timeouts.iter().try_for_each(Timeouts::check)?;
        self.daemons.values().flatten().try_for_each(SyncDaemon::check)?;
        for (service, destinations) in self.services.values() {
            service.check()?;
            destinations.values().try_for_each(|destination| destination.check(&service.id))?;
        }
        Ok(())
    }
}
