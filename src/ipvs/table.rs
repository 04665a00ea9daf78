//! A set of services with their destinations: seen in the kernel, read from a text, or wanted.

use std::cmp::Ordering;
use std::collections::btree_map::OccupiedEntry;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr, SocketAddrV4};
use std::sync::Arc;

use super::{Destination, DestinationEntry, Forward, Service, ServiceEntry, ServiceId, SyncDaemon, SyncRole, Timeouts};
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
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Table {
    /// What tables have in common is shared.
    services: BTreeMap<ServiceId, Arc<Content>>,
    /// How long idle connections are remembered. `None`: this table says nothing about it.
    pub timeouts: Option<Timeouts>,
    /// The sync daemon of each role: `None` for none. Of a role that is missing, this table says
    /// nothing.
    pub daemons: BTreeMap<SyncRole, Option<SyncDaemon>>,
}

/// A service, and its destinations in order of their addresses.
type Content = (Service, Vec<Destination>);

/// A service of a [`Table`] with its destinations.
#[derive(Debug, Clone, Copy)]
pub struct VirtualService<'a> {
    /// The service.
    pub service: &'a Service,
    destinations: &'a [Destination],
}

impl<'a> VirtualService<'a> {
    fn of((service, destinations): &'a Content) -> Self {
        VirtualService { service, destinations }
    }

    /// Its destinations, by address.
    pub fn destinations(self) -> impl ExactSizeIterator<Item = &'a Destination> {
        self.destinations.iter()
    }

    /// The destination with this address.
    pub fn destination(self, address: SocketAddr) -> Option<&'a Destination> {
        find(self.destinations, address).ok().map(|place| &self.destinations[place])
    }
}

/// The place of the destination with this address, or the one where it belongs.
pub(super) fn find(destinations: &[Destination], address: SocketAddr) -> Result<usize, usize> {
    // Most come in order.
    match destinations.last() {
        Some(last) if compare(&last.address, &address).is_lt() => Err(destinations.len()),
        _ => destinations.binary_search_by(|found| compare(&found.address, &address)),
    }
}

/// The order of `SocketAddr`, sooner for IPv4.
#[inline]
pub(super) fn compare(one: &SocketAddr, other: &SocketAddr) -> Ordering {
    match (one, other) {
        (SocketAddr::V4(one), SocketAddr::V4(other)) => number(one).cmp(&number(other)),
        _ => one.cmp(other),
    }
}

/// Address and port as one number.
#[inline]
pub(super) fn number(address: &SocketAddrV4) -> u64 {
    (u64::from(address.ip().to_bits()) << 16) | u64::from(address.port())
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
        self.services.values().map(|content| VirtualService::of(content))
    }

    /// The service with this name.
    pub fn service(&self, id: &ServiceId) -> Option<VirtualService<'_>> {
        self.services.get(id).map(|content| VirtualService::of(content))
    }

    /// A service's content. Tables are made in order: mostly it is the last service, or would come
    /// behind it.
    fn find_mut(&mut self, id: &ServiceId) -> Option<&mut Arc<Content>> {
        let (last, _) = self.services.last_key_value()?;
        match id.cmp(last) {
            Ordering::Greater => None,
            Ordering::Equal => self.services.last_entry().map(OccupiedEntry::into_mut),
            Ordering::Less => self.services.get_mut(id),
        }
    }

    /// Replaces all services by these, whose destinations are in order.
    pub(super) fn set_services(&mut self, services: Vec<Content>) {
        self.services = services.into_iter().map(|content| (content.0.id, Arc::new(content))).collect();
    }

    /// Adds a service, or changes it and keeps its destinations. Says whether it is new.
    pub fn insert(&mut self, service: Service) -> bool {
        match self.find_mut(&service.id) {
            Some(content) => {
                Arc::make_mut(content).0 = service;
                false
            }
            None => self.services.insert(service.id, Arc::new((service, Vec::new()))).is_none(),
        }
    }

    /// Adds a destination to a service, or changes it, and returns what it was before. `Err` gives
    /// the destination back where the table has no such service.
    pub fn insert_destination(
        &mut self,
        id: &ServiceId,
        destination: Destination,
    ) -> Result<Option<Destination>, Destination> {
        let Some(content) = self.find_mut(id) else { return Err(destination) };
        let (_, destinations) = Arc::make_mut(content);
        match find(destinations, destination.address) {
            Ok(place) => Ok(Some(std::mem::replace(&mut destinations[place], destination))),
            Err(place) => {
                destinations.insert(place, destination);
                Ok(None)
            }
        }
    }

    /// Takes a service out, and its destinations with it. Says whether it was there.
    pub fn remove(&mut self, id: &ServiceId) -> bool {
        self.services.remove(id).is_some()
    }

    /// Takes a destination out of a service, and returns it if it was there.
    pub fn remove_destination(&mut self, id: &ServiceId, address: SocketAddr) -> Option<Destination> {
        let content = self.services.get_mut(id)?;
        let place = find(&content.1, address).ok()?;
        Some(Arc::make_mut(content).1.remove(place))
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

    /// The addresses of the destinations with these forwarding methods.
    pub(crate) fn servers(&self, which: impl Fn(Forward) -> bool) -> BTreeSet<IpAddr> {
        let (mut found, mut before): (BTreeSet<IpAddr>, &[Destination]) = (BTreeSet::new(), &[]);
        for content in self.services.values() {
            for (place, destination) in content.1.iter().enumerate() {
                let (ip, forward) = (destination.address.ip(), destination.forward);
                // Most services have the servers of the one before.
                let is_known = before.get(place).is_some_and(|b| b.address.ip() == ip && b.forward == forward);
                if !is_known && which(forward) {
                    found.insert(ip);
                }
            }
            before = &content.1;
        }
        found
    }

    /// Calls `change` for each destination of each service. What it does to an address is not
    /// kept.
    pub fn edit_destinations(&mut self, mut change: impl FnMut(&ServiceId, &mut Destination)) {
        for (id, content) in &mut self.services {
            for destination in &mut Arc::make_mut(content).1 {
                let address = destination.address;
                change(id, destination);
                destination.address = address;
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
        for (service, destinations) in self.services.values().map(|content| &**content) {
            service.check()?;
            destinations.iter().try_for_each(|destination| destination.check(&service.id))?;
        }
        Ok(())
    }
}

/// What [`Ipvs::entries`](super::Ipvs::entries) has found, without counters.
impl FromIterator<(ServiceEntry, Vec<DestinationEntry>)> for Table {
    fn from_iter<T: IntoIterator<Item = (ServiceEntry, Vec<DestinationEntry>)>>(entries: T) -> Self {
        let content = |(entry, found): (ServiceEntry, Vec<DestinationEntry>)| {
            // Not `collect()`, which would keep the entries' space.
            let mut destinations = Vec::with_capacity(found.len());
            destinations.extend(found.into_iter().map(|entry| entry.destination));
            (entry, destinations)
        };
        entries.into_iter().map(content).collect()
    }
}

impl FromIterator<(ServiceEntry, Vec<Destination>)> for Table {
    fn from_iter<T: IntoIterator<Item = (ServiceEntry, Vec<Destination>)>>(entries: T) -> Self {
        let content = |(entry, mut destinations): (ServiceEntry, Vec<Destination>)| {
            destinations.sort_by(|one, other| compare(&one.address, &other.address));
            (entry.service, destinations)
        };
        let mut table = Table::new();
        table.set_services(entries.into_iter().map(content).collect());
        table
    }
}
