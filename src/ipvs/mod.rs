//! The kernel's IPVS table: virtual services and their destinations. See ipvsadm(8) for what each
//! means.
//!
//! ```no_run
//! use lvs_dr::ipvs::{Destination, Ipvs, Plan, Scheduler, Service, ServiceId, Table};
//!
//! let mut ipvs = Ipvs::open()?;
//! let web = ServiceId::tcp("192.168.0.254:80".parse()?);
//! ipvs.add_service(&Service::new(web, Scheduler::WRR))?;
//! ipvs.add_destination(&web, &Destination::new("192.168.0.12:80".parse()?).weight(3))?;
//!
//! let wanted: Table = std::fs::read_to_string("web.ipvs")?.parse()?;
//! let plan = Plan::between(&ipvs.snapshot()?, &wanted);
//! print!("{plan}");
//! ipvs.apply(&plan)?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Large tables
//!
//! What a call costs grows with the entries that it reads or writes: see benches/RESULTS.md. Three
//! lists of the kernel are an exception (net/netfilter/ipvs):
//!
//! - The destinations of a service are searched one by one whenever one is added or changed
//!   (`ip_vs_lookup_dest()`). 10 000 of one service take 2400 million instructions to add, 20 000
//!   of 5000 services 475 million.
//! - A destination that was removed is kept for two minutes, and each one that is added is looked
//!   for among those (`ip_vs_trash_get_dest()`). A table that is removed and added again at once
//!   costs up to 27 times as much as otherwise. [`Plan`] removes the last service first, so that
//!   adding in order finds each in front; to apply a difference removes nothing that stays.
//! - The list of connections is read in pages, and before Linux 6.13 the kernel counts from the
//!   start for each (`ip_vs_conn_array()`). Reading it every second is nothing for a large table.

mod connection;
mod control;
mod daemon;
mod destination;
mod drain;
mod encode;
mod glance;
mod legacy;
mod plan;
#[cfg(feature = "serde")]
mod serialize;
mod service;
pub mod settings;
mod snapshot;
mod stats;
pub mod sync;
mod table;
mod text;
mod timeouts;
mod transaction;
mod trial;
mod watch;
mod wire;

pub use connection::{Connection, Origin, Protocol};
pub(crate) use control::ConnectionReader;
pub use daemon::{SyncDaemon, SyncRole};
pub use destination::{Destination, DestinationEntry, Forward, Tunnel, TunnelChecksum};
pub use drain::Drained;
pub(crate) use glance::Glance;
pub use plan::{Change, Plan};
pub use service::{Family, Netmask, Persistence, Scheduler, Service, ServiceEntry, ServiceFlags, ServiceId};
pub use stats::Stats;
pub use table::{Table, VirtualService};
pub use timeouts::Timeouts;
pub use watch::{Drift, Watch};

use std::collections::BTreeSet;
use std::fmt;
use std::net::SocketAddr;

use rustix::io::Errno;

use crate::error::{Cause, Error, Result};
use crate::netlink::{Failure, GenericSocket, TIME_LIMIT};
use crate::netns::Netns;
use destination::Named;
use encode::{cause, check, command, encode, explain};
use legacy::Legacy;
pub(crate) use trial::Trial;
use wire::Command;

/// A client of IPVS in one network namespace.
///
/// Each client has a socket of its own. Give each thread its own client; none of them blocks
/// another. After a failure of its socket a client opens a new one at the next call.
///
/// Reading needs `CAP_NET_ADMIN` in the initial user namespace as well as changing
/// ([`Cause::Permission`], `EPERM`): the kernel's IPVS asks for it with every request.
///
/// ```no_run
/// use lvs_dr::ipvs::{Ipvs, ServiceId};
///
/// let mut ipvs = Ipvs::open()?;
/// for entry in ipvs.services()? {
///     println!("{}: {} connections", entry.service, entry.stats.connections);
/// }
/// let web = ServiceId::tcp("192.168.0.254:80".parse()?);
/// for entry in ipvs.destinations(&web)? {
///     println!("{}: {} active", entry.destination.address, entry.active);
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Ipvs {
    socket: GenericSocket,
    /// The list of services has one of its own: it is long, and makes the receives of a socket
    /// larger than those for destinations are to be.
    long: GenericSocket,
    legacy: Option<Legacy>,
}

/// How much is read of each entry of a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Detail {
    /// What is configured, how many connections there are, and the counters of services. Costs a
    /// quarter of the other, where services and destinations are of IPv4 and no destination is
    /// reached by a tunnel.
    Configuration,
    /// The counters and rates of destinations, too.
    Counters,
}

/// What IPVS says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Info {
    /// The version of IPVS: major, minor, patch. It has been 1.2.1 for many years.
    pub version: (u8, u8, u8),
    /// How many buckets the connection table has. From kernel 7.2 on it grows with the load, and
    /// is 0 before the first service.
    pub connection_table_size: u32,
}

impl Ipvs {
    /// A client in the calling thread's network namespace. Loads the kernel's module where there
    /// is one and it is not loaded yet.
    ///
    /// # Errors
    /// [`Cause::NoIpvs`] (`ENOENT`): the kernel has no IPVS; [`Cause::Permission`] (`EPERM`).
    pub fn open() -> Result<Self> {
        Self::open_in(Netns::current()?)
    }

    /// A client in the given network namespace.
    ///
    /// # Errors
    /// As [`Ipvs::open`], and [`Error::System`] when the namespace cannot be entered.
    pub fn open_in(netns: Netns) -> Result<Self> {
        let client = |netns| GenericSocket::new(wire::IPVS, netns, TIME_LIMIT);
        let mut ipvs = Ipvs { long: client(netns.clone()), socket: client(netns), legacy: None };
        ipvs.info()?;
        Ok(ipvs)
    }

    /// The network namespace that this client belongs to.
    pub fn netns(&self) -> &Netns {
        self.socket.netns()
    }

    /// Version and size of the connection table.
    ///
    /// # Errors
    /// [`Cause::Permission`] (`EPERM`), [`Cause::NoIpvs`] (`ENOENT`).
    pub fn info(&mut self) -> Result<Info> {
        let (operation, object) = ("read", "the version of IPVS");
        let explain = |failure: Failure| failure.explain(operation, object, |errno| cause(Command::GetInfo, errno));
        let (mut version, mut size) = (None, None);
        let answer = |octets: &[u8]| {
            wire::each(octets, |kind, value| {
                match kind {
                    wire::INFO_VERSION => version = Some(wire::u32(value)?),
                    wire::INFO_CONNECTION_TABLE_SIZE => size = Some(wire::u32(value)?),
                    _ => {}
                }
                Ok(())
            })
        };
        self.socket.request(Command::GetInfo as u8, |_| {}, answer).map_err(explain)?;
        let [_, major, minor, patch] = wire::needed(version, "the version").map_err(explain)?.to_be_bytes();
        let connection_table_size = wire::needed(size, "the connection table's size").map_err(explain)?;
        Ok(Info { version: (major, minor, patch), connection_table_size })
    }

    /// All services, in the order of [`ServiceId`].
    ///
    /// # Errors
    /// [`Cause::Permission`] (`EPERM`).
    pub fn services(&mut self) -> Result<Vec<ServiceEntry>> {
        let mut found = self.read_services()?;
        keep_first(&mut found, |entry| entry.service.id);
        found.sort_unstable_by_key(|entry| entry.service.id);
        Ok(found)
    }

    /// The services in the order in which the kernel names them, some perhaps twice.
    fn read_services(&mut self) -> Result<Vec<ServiceEntry>> {
        let mut found = Vec::new();
        let result = self.long.dump(
            Command::GetService as u8,
            |_| {},
            |octets| {
                found.extend(decode_service(octets)?);
                Ok(())
            },
        );
        result.map_err(|failure| {
            failure.explain("list", "the virtual services", |errno| cause(Command::GetService, errno))
        })?;
        Ok(found)
    }

    /// One service.
    ///
    /// # Errors
    /// [`Cause::NoService`] (`ESRCH`).
    pub fn service(&mut self, id: &ServiceId) -> Result<ServiceEntry> {
        let explain = |failure: Failure| failure.explain("read service", id, |errno| cause(Command::GetService, errno));
        let mut found = None;
        let answer = |octets: &[u8]| {
            found = Some(decode_service(octets)?);
            Ok(())
        };
        self.socket
            .request(Command::GetService as u8, |octets| wire::service::push_id(octets, id), answer)
            .map_err(explain)?;
        match found {
            Some(Some(entry)) => Ok(entry),
            Some(None) => Err(explain(wire::malformed("it is another service"))),
            None => Err(explain(wire::malformed("the answer is empty"))),
        }
    }

    /// Adds a service.
    ///
    /// # Errors
    /// [`Cause::ServiceExists`] (`EEXIST`); [`Cause::NoModule`] (`ENOENT`): scheduler or
    /// persistence engine unknown; [`Error::Invalid`]: see [`Service::check`].
    pub fn add_service(&mut self, service: &Service) -> Result<()> {
        self.change(&Change::AddService(service.clone()))
    }

    /// Sets a service to all of this; what it was set to before is lost. It keeps its destinations
    /// and connections. To change one thing, see [`Ipvs::edit_service`].
    ///
    /// # Errors
    /// [`Cause::NoService`] (`ESRCH`); otherwise as [`Ipvs::add_service`].
    pub fn replace_service(&mut self, service: &Service) -> Result<()> {
        self.change(&Change::ReplaceService(service.clone()))
    }

    /// Reads a service, lets `edit` change it, and writes it where it differs. What `edit` does
    /// not name stays.
    ///
    /// ```no_run
    /// # use lvs_dr::ipvs::{Ipvs, Scheduler, ServiceId};
    /// # let mut ipvs = Ipvs::open()?;
    /// # let web = ServiceId::tcp(([192, 168, 0, 254], 80).into());
    /// ipvs.edit_service(&web, |service| service.scheduler = Scheduler::MH)?;
    /// # Ok::<(), lvs_dr::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`Ipvs::replace_service`].
    pub fn edit_service(&mut self, id: &ServiceId, edit: impl FnOnce(&mut Service)) -> Result<()> {
        let before = self.service(id)?.service;
        let mut after = before.clone();
        edit(&mut after);
        after.id = *id;
        match after == before {
            true => Ok(()),
            false => self.replace_service(&after),
        }
    }

    /// Removes a service and its destinations.
    ///
    /// # Errors
    /// [`Cause::NoService`] (`ESRCH`).
    pub fn remove_service(&mut self, id: &ServiceId) -> Result<()> {
        self.change(&Change::RemoveService(*id))
    }

    /// The destinations of a service, by address.
    ///
    /// # Errors
    /// [`Cause::NoService`] (`ESRCH`).
    pub fn destinations(&mut self, id: &ServiceId) -> Result<Vec<DestinationEntry>> {
        let mut found = self.read_destinations(id, Detail::Counters)?;
        if found.is_empty() {
            // The kernel lists the destinations of a missing service as none.
            self.service(id)?;
        }
        keep_first(&mut found, |entry| entry.destination.address);
        found.sort_unstable_by_key(|entry| entry.destination.address);
        Ok(found)
    }

    /// The destinations in the order in which the kernel names them, some perhaps twice.
    fn read_destinations(&mut self, id: &ServiceId, detail: Detail) -> Result<Vec<DestinationEntry>> {
        let mut found = Vec::new();
        let service = |octets: &mut Vec<u8>| wire::service::push_id(octets, id);
        let result = self.socket.dump(Command::GetDestination as u8, service, |octets| {
            let octets = wire::object(octets, wire::DESTINATION)?;
            found.push(wire::destination::decode(octets, id.family(), detail)?);
            Ok(())
        });
        result.map_err(|failure| {
            failure.explain("list the destinations of", id, |errno| cause(Command::GetDestination, errno))
        })?;
        Ok(found)
    }

    /// One destination.
    ///
    /// # Errors
    /// [`Cause::NoService`] (`ESRCH`), [`Cause::NoDestination`] (`ENOENT`).
    pub fn destination(&mut self, id: &ServiceId, address: SocketAddr) -> Result<DestinationEntry> {
        let found = self.destinations(id)?.into_iter().find(|entry| entry.destination.address == address);
        found.ok_or_else(|| Error::Refused {
            operation: "read destination",
            object: Named { service: id, address }.to_string(),
            errno: Errno::NOENT.raw_os_error(),
            cause: Cause::NoDestination,
            message: None,
        })
    }

    /// Adds a destination to a service.
    ///
    /// # Errors
    /// [`Cause::NoService`] (`ESRCH`), [`Cause::DestinationExists`] (`EEXIST`),
    /// [`Cause::OutOfRange`] (`ERANGE`); [`Error::Invalid`]: see [`Destination::check`].
    pub fn add_destination(&mut self, id: &ServiceId, destination: &Destination) -> Result<()> {
        self.change(&Change::AddDestination(*id, destination.clone()))
    }

    /// Sets a destination to all of this; what it was set to before is lost. It keeps its
    /// connections. To change one thing, see [`Ipvs::edit_destination`].
    ///
    /// # Errors
    /// [`Cause::NoService`] (`ESRCH`), [`Cause::NoDestination`] (`ENOENT`); otherwise as
    /// [`Ipvs::add_destination`].
    pub fn replace_destination(&mut self, id: &ServiceId, destination: &Destination) -> Result<()> {
        self.change(&Change::ReplaceDestination(*id, destination.clone()))
    }

    /// Reads a destination, lets `edit` change it, and writes it where it differs. What `edit`
    /// does not name stays: unlike with `ipvsadm -e -w`, forwarding method, tunnel and thresholds.
    ///
    /// ```no_run
    /// # use lvs_dr::ipvs::{Ipvs, ServiceId};
    /// # let mut ipvs = Ipvs::open()?;
    /// # let web = ServiceId::tcp(([192, 168, 0, 254], 80).into());
    /// ipvs.edit_destination(&web, ([192, 168, 0, 12], 80).into(), |destination| destination.weight = 0)?;
    /// # Ok::<(), lvs_dr::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`Ipvs::replace_destination`].
    pub fn edit_destination(
        &mut self,
        id: &ServiceId,
        address: SocketAddr,
        edit: impl FnOnce(&mut Destination),
    ) -> Result<()> {
        let before = self.destination(id, address)?.destination;
        let mut after = before.clone();
        edit(&mut after);
        after.address = address;
        match after == before {
            true => Ok(()),
            false => self.replace_destination(id, &after),
        }
    }

    /// Removes a destination. Its connections break.
    ///
    /// # Errors
    /// [`Cause::NoService`] (`ESRCH`), [`Cause::NoDestination`] (`ENOENT`).
    pub fn remove_destination(&mut self, id: &ServiceId, address: SocketAddr) -> Result<()> {
        self.change(&Change::RemoveDestination(*id, Destination::new(address)))
    }

    /// Removes every service: also those of others. To remove your own, [`apply`](Ipvs::apply) a
    /// plan.
    ///
    /// # Errors
    /// [`Cause::Permission`] (`EPERM`).
    pub fn flush(&mut self) -> Result<()> {
        let result = self.socket.request(Command::Flush as u8, |_| {}, |_| Ok(()));
        result.map_err(|failure| failure.explain("flush", "the table", |errno| cause(Command::Flush, errno)))
    }

    fn change(&mut self, change: &Change) -> Result<()> {
        check(change)?;
        match change {
            Change::StopDaemon(role) => self.stop_sync_daemon(*role),
            _ => self.send(change).map_err(|failure| explain(change, failure)),
        }
    }

    fn send(&mut self, change: &Change) -> Result<(), Failure> {
        self.socket.request(command(change) as u8, |octets| encode(change, octets), |_| Ok(()))
    }
}

impl fmt::Debug for Ipvs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ipvs").field("netns", self.netns()).finish_non_exhaustive()
    }
}

fn decode_service(octets: &[u8]) -> Result<Option<ServiceEntry>, Failure> {
    wire::object(octets, wire::SERVICE).and_then(wire::service::decode)
}

/// Fewer entries than this come in one receive, and so from one moment.
const ONE_PIECE: usize = 64;

/// A list that changes while it is read names some entries twice.
fn keep_first<T, K: Ord>(found: &mut Vec<T>, name: impl Fn(&T) -> K) {
    if found.len() >= ONE_PIECE {
        let mut known = BTreeSet::new();
        found.retain(|entry| known.insert(name(entry)));
    }
}

/// See the crate's `fuzzing`.
#[cfg(any(fuzzing, test))]
pub(crate) mod fuzzing {
    use super::{Detail, Family, connection, legacy, stats, wire};
    use crate::netlink::{attributes_of, read_datagram};

    pub(crate) fn answer(octets: &[u8]) {
        read_datagram(octets, |entry| {
            let Ok(attributes) = attributes_of(entry) else { return };
            let all = Detail::Counters;
            let _ = wire::object(attributes, wire::SERVICE).map(wire::service::decode);
            let _ = wire::object(attributes, wire::DAEMON).map(wire::daemon::decode);
            for family in [Family::V4, Family::V6] {
                let destination = wire::object(attributes, wire::DESTINATION);
                let _ = destination.map(|octets| wire::destination::decode(octets, family, all));
            }
        });
        legacy::read(octets);
    }

    pub(crate) fn proc(text: &str) {
        let _ = connection::read(text, text);
        let _ = stats::read_totals(text);
    }
}
