//! The kernel's IPVS table: virtual services and their destinations. See ipvsadm(8) for what each means.
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

mod connection;
mod daemon;
mod destination;
mod drain;
mod plan;
#[cfg(feature = "serde")]
mod serialize;
mod service;
pub mod settings;
mod stats;
mod table;
mod text;
mod timeouts;
mod watch;
mod wire;

pub use connection::{Connection, Origin, Protocol};
pub use daemon::{SyncDaemon, SyncRole};
pub use destination::{Destination, DestinationEntry, Forward, Tunnel, TunnelChecksum};
pub use drain::Drained;
pub use plan::{Change, Plan};
pub use service::{Family, Netmask, Persistence, Scheduler, Service, ServiceEntry, ServiceFlags, ServiceId};
pub use stats::Stats;
pub use table::{Table, VirtualService};
pub use timeouts::Timeouts;
pub use watch::{Drift, Watch};

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use netlink_packet_core::DecodeError;
use rustix::io::Errno;

use crate::error::{Cause, Error, Result};
use crate::netlink::{Failure, GenericSocket, TIME_LIMIT};
use crate::netns::Netns;
use crate::sysctl;
use destination::Named;
use wire::{Attribute, Command, Message};

/// The kernel answers within the call that sends the request. One that it leaves without an answer never gets one: a daemon's end,
/// where its thread had not run yet (`EINTR` in net/netlink/af_netlink.c).
const STOP_LIMIT: Duration = Duration::from_millis(50);
const STOP_ATTEMPTS: u32 = 3;

/// How often a list is read again while it changes under the reader.
const READS: usize = 4;

/// Fewer entries than this come in one receive, and so from one moment.
const ONE_PIECE: usize = 64;

/// A client of IPVS in one network namespace.
///
/// Each client has a socket of its own. Give each thread its own client; none of them blocks another. After a failure of its
/// socket a client opens a new one at the next call.
///
/// Reading needs `CAP_NET_ADMIN` in the initial user namespace as well as changing ([`Cause::Permission`], `EPERM`): the kernel's IPVS asks
/// for it with every request. Only [`connections`](Ipvs::connections), [`totals`](Ipvs::totals) and [`get`](Ipvs::get) need nothing.
pub struct Ipvs {
    socket: GenericSocket<Message>,
}

/// What IPVS says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Info {
    /// The version of IPVS: major, minor, patch. It has been 1.2.1 for many years.
    pub version: (u8, u8, u8),
    /// How many buckets the connection table has. From kernel 7.2 on it grows with the load, and is 0 before the first service.
    pub connection_table_size: u32,
}

impl Ipvs {
    /// A client in the calling thread's network namespace. Loads the kernel's module where there is one and it is not loaded yet.
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
        let mut ipvs = Ipvs { socket: GenericSocket::new(netns, TIME_LIMIT) };
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
        let answers = self.socket.request(&Message::new(Command::GetInfo, Vec::new()), 0).map_err(explain)?;
        let read = || {
            let (mut version, mut size) = (None, None);
            for attribute in answers.iter().flat_map(|answer| &answer.attributes) {
                match attribute.kind() {
                    wire::INFO_VERSION => version = Some(wire::u32(attribute.raw())?),
                    wire::INFO_CONNECTION_TABLE_SIZE => size = Some(wire::u32(attribute.raw())?),
                    _ => {}
                }
            }
            let [_, major, minor, patch] = wire::needed(version, "the version")?.to_be_bytes();
            Ok(Info {
                version: (major, minor, patch),
                connection_table_size: wire::needed(size, "the connection table's size")?,
            })
        };
        read().map_err(|e: DecodeError| explain(Failure::Malformed(e.to_string())))
    }

    /// All services, in the order of [`ServiceId`].
    ///
    /// # Errors
    /// [`Cause::Permission`] (`EPERM`).
    pub fn services(&mut self) -> Result<Vec<ServiceEntry>> {
        let mut found = self.read_services()?;
        found.sort_unstable_by_key(|entry| entry.service.id);
        Ok(found)
    }

    /// The services in the order in which the kernel names them.
    fn read_services(&mut self) -> Result<Vec<ServiceEntry>> {
        let (mut found, mut known) = (Vec::new(), BTreeSet::new());
        let request = Message::new(Command::GetService, Vec::new());
        let result = self.socket.dump(&request, |answer| {
            // A list that changes while it is read names some entries twice.
            found.extend(decode_service(&answer)?.filter(|entry| known.insert(entry.service.id)));
            Ok(())
        });
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
        let answers = self
            .socket
            .request(&Message::new(Command::GetService, vec![wire::service::encode_id(id)]), 0)
            .map_err(explain)?;
        match answers.first() {
            Some(answer) => decode_service(answer)
                .and_then(|entry| entry.ok_or_else(|| Failure::Malformed("it is another service".into())))
                .map_err(explain),
            None => Err(explain(Failure::Malformed("the answer is empty".into()))),
        }
    }

    /// Adds a service.
    ///
    /// # Errors
    /// [`Cause::ServiceExists`] (`EEXIST`); [`Cause::NoModule`] (`ENOENT`): scheduler or persistence engine unknown;
    /// [`Error::Invalid`]: see [`Service::check`].
    pub fn add_service(&mut self, service: &Service) -> Result<()> {
        self.change(&Change::AddService(service.clone()))
    }

    /// Sets a service to all of this; what it was set to before is lost. It keeps its destinations and connections.
    /// To change one thing, see [`Ipvs::edit_service`].
    ///
    /// # Errors
    /// [`Cause::NoService`] (`ESRCH`); otherwise as [`Ipvs::add_service`].
    pub fn replace_service(&mut self, service: &Service) -> Result<()> {
        self.change(&Change::ReplaceService(service.clone()))
    }

    /// Reads a service, lets `edit` change it, and writes it where it differs. What `edit` does not name stays.
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
        let mut found = self.read_destinations(id)?;
        if found.is_empty() {
            // The kernel lists the destinations of a missing service as none.
            self.service(id)?;
        }
        found.sort_unstable_by_key(|entry| entry.destination.address);
        Ok(found)
    }

    /// The destinations in the order in which the kernel names them.
    fn read_destinations(&mut self, id: &ServiceId) -> Result<Vec<DestinationEntry>> {
        let (mut found, mut known) = (Vec::new(), BTreeSet::new());
        let request = Message::new(Command::GetDestination, vec![wire::service::encode_id(id)]);
        let result = self.socket.dump(&request, |answer| {
            let octets = answer.nested(wire::DESTINATION).map_err(malformed)?;
            let entry = wire::destination::decode(octets, id.family()).map_err(malformed)?;
            if known.insert(entry.destination.address) {
                found.push(entry);
            }
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
    /// [`Cause::NoService`] (`ESRCH`), [`Cause::DestinationExists`] (`EEXIST`), [`Cause::OutOfRange`] (`ERANGE`);
    /// [`Error::Invalid`]: see [`Destination::check`].
    pub fn add_destination(&mut self, id: &ServiceId, destination: &Destination) -> Result<()> {
        self.change(&Change::AddDestination(*id, destination.clone()))
    }

    /// Sets a destination to all of this; what it was set to before is lost. It keeps its connections.
    /// To change one thing, see [`Ipvs::edit_destination`].
    ///
    /// # Errors
    /// [`Cause::NoService`] (`ESRCH`), [`Cause::NoDestination`] (`ENOENT`); otherwise as [`Ipvs::add_destination`].
    pub fn replace_destination(&mut self, id: &ServiceId, destination: &Destination) -> Result<()> {
        self.change(&Change::ReplaceDestination(*id, destination.clone()))
    }

    /// Reads a destination, lets `edit` change it, and writes it where it differs. What `edit` does not name stays:
    /// unlike with `ipvsadm -e -w`, forwarding method, tunnel and thresholds.
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

    /// Removes every service: also those of others. To remove your own, [`apply`](Ipvs::apply) a plan.
    ///
    /// # Errors
    /// [`Cause::Permission`] (`EPERM`).
    pub fn flush(&mut self) -> Result<()> {
        let result = self.socket.request(&Message::new(Command::Flush, Vec::new()), 0);
        result
            .map(|_| ())
            .map_err(|failure| failure.explain("flush", "the table", |errno| cause(Command::Flush, errno)))
    }

    /// All services with their destinations. It says nothing about timeouts and daemons: see [`Ipvs::snapshot`].
    ///
    /// # Errors
    /// As [`Ipvs::entries`].
    pub fn table(&mut self) -> Result<Table> {
        let mut table = Table::new();
        for (entry, destinations) in self.entries()? {
            let id = entry.service.id;
            table.insert(entry.service);
            for found in destinations {
                // The service was inserted just now.
                let _ = table.insert_destination(&id, found.destination);
            }
        }
        Ok(table)
    }

    /// All services with their destinations and what they have done, in the order in which the kernel names them.
    ///
    /// The kernel reads its table in pieces, so that a change in between shows as an entry that is missing or there twice. What
    /// changed meanwhile is read again; of services that come and go all the time, each is asked for by its name.
    ///
    /// # Errors
    /// [`Cause::Permission`] (`EPERM`); [`Error::Malformed`] when a long list of destinations changed during each of several readings.
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

    /// A list of destinations that came in one piece is of one moment; a longer one must be the same twice.
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
        let reason = format!("they changed during each of {READS} readings: does somebody rewrite them all the time?");
        Err(Failure::Malformed(reason).explain("list the destinations of", id, |_| Cause::Other))
    }

    /// Services and destinations, timeouts and sync daemons.
    ///
    /// # Errors
    /// As [`Ipvs::table`].
    pub fn snapshot(&mut self) -> Result<Table> {
        let mut table = self.table()?;
        table.timeouts = Some(self.timeouts()?);
        table.daemons = [SyncRole::Master, SyncRole::Backup].map(|role| (role, None)).into();
        table.daemons.extend(self.sync_daemons()?.into_iter().map(|daemon| (daemon.role, Some(daemon))));
        Ok(table)
    }

    /// Carries out a plan: many changes in a send. When one fails, those that were done are undone.
    ///
    /// # Errors
    /// [`Error::Change`] names the change that failed and why, and says whether the table is as it was before;
    /// [`Error::Invalid`] before anything is done, see [`Table::check`].
    pub fn apply(&mut self, plan: &Plan) -> Result<()> {
        plan.changes().iter().try_for_each(check)?;
        if plan.is_empty() {
            return Ok(());
        }
        // Not what the plan was made from: that can be old, or leave out what it does not know of.
        let before = self.touched(plan)?;
        let Some((index, source)) = self.carry_out(plan.changes()) else { return Ok(()) };
        let outcome = match self.undo(plan, &before) {
            Ok(()) => "the table is as it was before".into(),
            Err(error) => format!("and what was done could not be undone: {error}"),
        };
        Err(Error::Change {
            number: index + 1,
            total: plan.changes().len(),
            change: plan.changes().get(index).map(Change::to_string).unwrap_or_default(),
            source: Box::new(source),
            outcome,
        })
    }

    /// Carries out changes as far as possible, and says which was the first to fail, and why.
    fn carry_out(&mut self, changes: &[Change]) -> Option<(usize, Error)> {
        // Daemons and timeouts come last in a plan, and one by one.
        let (table, others) = changes.split_at(changes.iter().take_while(|change| change.service().is_some()).count());
        // The kernel carries out all of a send, also behind a failure: nothing is to go when what comes in its place failed.
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
        let mut now = self.snapshot()?.filtered(|id| touched.contains(id));
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

    /// Brings what a plan touches back to what it was.
    fn undo(&mut self, plan: &Plan, before: &Table) -> Result<()> {
        let back = Plan::between(&self.touched(plan)?, before);
        match self.carry_out(back.changes()) {
            None => Ok(()),
            Some((_, error)) => Err(error),
        }
    }

    /// Sets the counters of one service and its destinations to zero, or all of them. Rates stay.
    ///
    /// # Errors
    /// [`Cause::NoService`] (`ESRCH`), [`Cause::Permission`] (`EPERM`).
    pub fn zero(&mut self, id: Option<&ServiceId>) -> Result<()> {
        let request = Message::new(Command::Zero, id.map(wire::service::encode_id).into_iter().collect());
        let result = self.socket.request(&request, 0);
        result.map(|_| ()).map_err(|failure| {
            let object = id.map_or_else(|| "all services".into(), ServiceId::to_string);
            failure.explain("zero the counters of", object, |errno| cause(Command::Zero, errno))
        })
    }

    /// What all services together have done, from /proc/net/ip_vs_stats.
    ///
    /// # Errors
    /// [`Error::System`] where there is no such file; [`Error::Malformed`].
    pub fn totals(&mut self) -> Result<Stats> {
        let text = self.read_proc("ip_vs_stats")?;
        stats::read_totals(&text).ok_or_else(|| {
            Failure::Malformed(format!("{text:?}")).explain("read", "/proc/net/ip_vs_stats", |_| Cause::Other)
        })
    }

    /// How many packets have come in, of all services: at this moment, unlike other counters.
    pub(crate) fn packets_in(&mut self) -> Result<u64> {
        let text = self.read_proc("ip_vs_stats_percpu")?;
        stats::read_packets_in(&text).ok_or_else(|| {
            Failure::Malformed(format!("{text:?}")).explain("read", "/proc/net/ip_vs_stats_percpu", |_| Cause::Other)
        })
    }

    /// The connection table: connections, and the templates of persistent clients. The kernel has no other way to ask for it
    /// than to read it in full, and none to end a connection.
    ///
    /// # Errors
    /// [`Error::System`] where there is no such file; [`Error::Malformed`].
    pub fn connections(&mut self) -> Result<Vec<Connection>> {
        let (connections, origins) = (self.read_proc("ip_vs_conn")?, self.read_proc("ip_vs_conn_sync")?);
        connection::read(&connections, &origins)
            .map_err(|reason| Failure::Malformed(reason).explain("read", "/proc/net/ip_vs_conn", |_| Cause::Other))
    }

    fn read_proc(&mut self, name: &str) -> Result<String> {
        // Not /proc/net: that is of the process's first thread, which may be in another namespace.
        let path = format!("/proc/thread-self/net/{name}");
        let octets = self
            .netns()
            .run(|| std::fs::read(&path))?
            .map_err(|e| Error::system("read", format!("/proc/net/{name}"), e))?;
        // A persistence engine's data can be anything.
        Ok(String::from_utf8_lossy(&octets).into_owned())
    }

    /// After how much silence connections are forgotten.
    ///
    /// # Errors
    /// [`Cause::Permission`] (`EPERM`).
    pub fn timeouts(&mut self) -> Result<Timeouts> {
        let explain =
            |failure: Failure| failure.explain("read", "the timeouts", |errno| cause(Command::GetConfig, errno));
        let answers = self.socket.request(&Message::new(Command::GetConfig, Vec::new()), 0).map_err(explain)?;
        let mut timeouts = Timeouts::default();
        for attribute in answers.iter().flat_map(|answer| &answer.attributes) {
            let field = match attribute.kind() {
                wire::TIMEOUT_TCP => &mut timeouts.tcp,
                wire::TIMEOUT_TCP_FIN => &mut timeouts.tcp_fin,
                wire::TIMEOUT_UDP => &mut timeouts.udp,
                _ => continue,
            };
            let secs = wire::u32(attribute.raw()).map_err(|e| explain(malformed(e)))?;
            *field = Duration::from_secs(secs.into());
        }
        Ok(timeouts)
    }

    /// Sets the timeouts; one that is 0 stays as it is. They count for connections from their next packet on.
    ///
    /// # Errors
    /// [`Error::Invalid`]: see [`Timeouts::check`]; [`Cause::Permission`] (`EPERM`).
    pub fn set_timeouts(&mut self, timeouts: &Timeouts) -> Result<()> {
        timeouts.check()?;
        let seconds = |kind, time: Duration| Attribute::u32(kind, time.as_secs() as u32);
        let attributes = vec![
            seconds(wire::TIMEOUT_TCP, timeouts.tcp),
            seconds(wire::TIMEOUT_TCP_FIN, timeouts.tcp_fin),
            seconds(wire::TIMEOUT_UDP, timeouts.udp),
        ];
        let result = self.socket.request(&Message::new(Command::SetConfig, attributes), 0);
        result.map(|_| ()).map_err(|failure| explain(&Change::SetTimeouts(*timeouts), failure))
    }

    /// The sync daemons that run, the master's first.
    ///
    /// # Errors
    /// [`Cause::Permission`] (`EPERM`).
    pub fn sync_daemons(&mut self) -> Result<Vec<SyncDaemon>> {
        let mut found = BTreeMap::new();
        let result = self.socket.dump(&Message::new(Command::GetDaemon, Vec::new()), |answer| {
            let daemon = answer.nested(wire::DAEMON).and_then(wire::daemon::decode).map_err(malformed)?;
            found.insert(daemon.role, daemon);
            Ok(())
        });
        result
            .map_err(|failure| failure.explain("list", "the sync daemons", |errno| cause(Command::GetDaemon, errno)))?;
        Ok(found.into_values().collect())
    }

    /// Starts a sync daemon.
    ///
    /// # Errors
    /// [`Cause::DaemonRuns`] (`EEXIST`): one of this role runs already; [`Cause::NoInterface`] (`ENODEV`); [`Cause::Invalid`] (`EINVAL`): the
    /// interface has no address of the group's family, or the table mixes families; [`Error::Invalid`]: see [`SyncDaemon::check`].
    pub fn start_sync_daemon(&mut self, daemon: &SyncDaemon) -> Result<()> {
        daemon.check()?;
        let result = self.socket.request(&Message::new(Command::NewDaemon, vec![wire::daemon::encode(daemon)]), 0);
        result.map(|_| ()).map_err(|failure| explain(&Change::StartDaemon(daemon.clone()), failure))
    }

    /// Stops the sync daemon of this role.
    ///
    /// The kernel can leave a stop that follows a start at once without an answer. Whether the daemon is gone is then read back.
    ///
    /// # Errors
    /// [`Cause::NoDaemon`] (`ESRCH`): none of this role runs; [`Error::NoAnswer`] when it goes on all the same.
    pub fn stop_sync_daemon(&mut self, role: SyncRole) -> Result<()> {
        self.socket.set_limit(STOP_LIMIT);
        let result = self.request_stop(role);
        self.socket.set_limit(TIME_LIMIT);
        result
    }

    fn request_stop(&mut self, role: SyncRole) -> Result<()> {
        let request = Message::new(Command::DelDaemon, vec![wire::daemon::encode_role(role)]);
        let mut attempt = 1;
        loop {
            match self.socket.request(&request, 0) {
                Ok(_) => return Ok(()),
                Err(Failure::NoAnswer(_)) if self.sync_daemons()?.iter().all(|daemon| daemon.role != role) => {
                    return Ok(());
                }
                Err(Failure::NoAnswer(_)) if attempt < STOP_ATTEMPTS => attempt += 1,
                Err(failure) => return Err(explain(&Change::StopDaemon(role), failure)),
            }
        }
    }

    /// Reads a sysctl of IPVS, see [`settings`]. `None`: this kernel has no such setting.
    ///
    /// # Errors
    /// [`Error::System`] with the path; [`Error::Invalid`] when it holds what is not expected.
    pub fn get<T: settings::Value>(&mut self, setting: settings::Setting<T>) -> Result<Option<T>> {
        let Some(text) = sysctl::read(self.netns(), &setting.path())? else { return Ok(None) };
        let unexpected = || {
            Error::invalid(
                format!("net.ipv4.vs.{}", setting.name()),
                format!("it holds {text:?} where {} was expected", T::EXPECTED),
            )
        };
        T::read(&text).map(Some).ok_or_else(unexpected)
    }

    /// Writes a sysctl of IPVS, see [`settings`].
    ///
    /// # Errors
    /// [`Error::System`] with the path: `ENOENT` where this kernel has no such setting, `EINVAL` for a value that it does not take,
    /// `EACCES` without privileges; [`Error::Invalid`] for a value that cannot be.
    pub fn set<T: settings::Value>(&mut self, setting: settings::Setting<T>, value: T) -> Result<()> {
        let unusable = || {
            Error::invalid(
                format!("the value for net.ipv4.vs.{}", setting.name()),
                format!("{} was expected", T::EXPECTED),
            )
        };
        sysctl::write(self.netns(), &setting.path(), value.write().ok_or_else(unusable)?)
    }

    fn change(&mut self, change: &Change) -> Result<()> {
        check(change)?;
        match (change, encode(change)) {
            (Change::SetTimeouts(timeouts), _) => self.set_timeouts(timeouts),
            (Change::StopDaemon(role), _) => self.stop_sync_daemon(*role),
            (Change::StartDaemon(daemon), _) => self.start_sync_daemon(daemon),
            (_, Some(request)) => {
                self.socket.request(&request, 0).map(|_| ()).map_err(|failure| explain(change, failure))
            }
            (_, None) => Ok(()),
        }
    }
}

impl fmt::Debug for Ipvs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ipvs").field("netns", self.netns()).finish_non_exhaustive()
    }
}

fn check(change: &Change) -> Result<()> {
    match change {
        Change::AddService(service) | Change::ReplaceService(service) => service.check(),
        Change::AddDestination(id, destination) | Change::ReplaceDestination(id, destination) => destination.check(id),
        Change::SetTimeouts(timeouts) => timeouts.check(),
        Change::StartDaemon(daemon) => daemon.check(),
        Change::RemoveService(_) | Change::RemoveDestination(..) | Change::StopDaemon(_) => Ok(()),
    }
}

/// The request for a change of the table.
fn encode(change: &Change) -> Option<Message> {
    let about = |id: &ServiceId| wire::service::encode_id(id);
    let (command, attributes) = match change {
        Change::AddService(service) => (Command::NewService, vec![wire::service::encode(service)]),
        Change::ReplaceService(service) => (Command::SetService, vec![wire::service::encode(service)]),
        Change::RemoveService(id) => (Command::DelService, vec![about(id)]),
        Change::AddDestination(id, destination) => {
            (Command::NewDestination, vec![about(id), wire::destination::encode(destination)])
        }
        Change::ReplaceDestination(id, destination) => {
            (Command::SetDestination, vec![about(id), wire::destination::encode(destination)])
        }
        Change::RemoveDestination(id, destination) => {
            (Command::DelDestination, vec![about(id), wire::destination::encode_address(destination.address)])
        }
        Change::SetTimeouts(_) | Change::StopDaemon(_) | Change::StartDaemon(_) => return None,
    };
    Some(Message::new(command, attributes))
}

/// The error of a change.
fn explain(change: &Change, failure: Failure) -> Error {
    let named = |service: &ServiceId, d: &Destination| Named { service, address: d.address }.to_string();
    let with_scheduler = |service: &Service| format!("{} (scheduler {})", service.id, service.scheduler);
    let (command, operation, object) = match change {
        Change::AddService(service) => (Command::NewService, "add service", with_scheduler(service)),
        Change::ReplaceService(service) => (Command::SetService, "change service", with_scheduler(service)),
        Change::RemoveService(id) => (Command::DelService, "remove service", id.to_string()),
        Change::AddDestination(id, d) => (Command::NewDestination, "add destination", named(id, d)),
        Change::ReplaceDestination(id, d) => (Command::SetDestination, "change destination", named(id, d)),
        Change::RemoveDestination(id, d) => (Command::DelDestination, "remove destination", named(id, d)),
        Change::SetTimeouts(_) => (Command::SetConfig, "set", "the timeouts".into()),
        Change::StopDaemon(role) => (Command::DelDaemon, "stop", format!("the sync daemon {role}")),
        Change::StartDaemon(daemon) => (Command::NewDaemon, "start", daemon.to_string()),
    };
    failure.explain(operation, object, |errno| cause(command, errno))
}

/// What an errno means: one value means different things in different operations. From net/netfilter/ipvs/ip_vs_ctl.c.
fn cause(command: Command, errno: i32) -> Cause {
    use Command::*;
    match (Errno::from_raw_os_error(errno), command) {
        (Errno::PERM, _) => Cause::Permission,
        (Errno::SRCH, DelDaemon) => Cause::NoDaemon,
        (Errno::SRCH, _) => Cause::NoService,
        (Errno::NOENT, NewService | SetService) => Cause::NoModule,
        (Errno::NOENT, SetDestination | DelDestination) => Cause::NoDestination,
        (Errno::EXIST, NewService) => Cause::ServiceExists,
        (Errno::EXIST, NewDestination) => Cause::DestinationExists,
        (Errno::EXIST, NewDaemon) => Cause::DaemonRuns,
        (Errno::NODEV, NewDaemon) => Cause::NoInterface,
        (Errno::RANGE, _) => Cause::OutOfRange,
        (Errno::AFNOSUPPORT, _) => Cause::NoFamily,
        (Errno::NOMEM | Errno::NOBUFS, _) => Cause::NoMemory,
        (Errno::BUSY, _) => Cause::Busy,
        (Errno::INVAL, _) => Cause::Invalid,
        _ => Cause::Other,
    }
}

fn decode_service(answer: &Message) -> Result<Option<ServiceEntry>, Failure> {
    answer.nested(wire::SERVICE).and_then(wire::service::decode).map_err(malformed)
}

fn malformed(error: DecodeError) -> Failure {
    Failure::Malformed(error.to_string())
}

/// See the crate's `fuzzing`.
#[cfg(any(fuzzing, test))]
pub(crate) mod fuzzing {
    use netlink_packet_generic::GenlMessage;

    use super::{Family, connection, stats, wire};
    use crate::netlink::read_datagram;

    pub(crate) fn answer(octets: &[u8]) {
        read_datagram(octets, |message: GenlMessage<wire::Message>| {
            let _ = message.payload.nested(wire::SERVICE).map(wire::service::decode);
            let _ = message.payload.nested(wire::DAEMON).map(wire::daemon::decode);
            for family in [Family::V4, Family::V6] {
                let _ = message.payload.nested(wire::DESTINATION).map(|d| wire::destination::decode(d, family));
            }
        });
    }

    pub(crate) fn proc(text: &str) {
        let _ = connection::read(text, text);
        let _ = stats::read_totals(text);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The rows that need a request which this crate does not make are seen here only; the others also in tests/kernel.
    #[test]
    fn an_errno_means_what_the_operation_says() {
        use Command::*;
        for (command, errno, expected, words) in [
            (NewService, Errno::INVAL, Cause::Invalid, "check the addresses"),
            (NewService, Errno::AFNOSUPPORT, Cause::NoFamily, "IPv6 switched off"),
            (GetDestination, Errno::AFNOSUPPORT, Cause::NoFamily, "address family"),
            (NewService, Errno::NOENT, Cause::NoModule, "modprobe ip_vs_NAME"),
            (SetService, Errno::NOENT, Cause::NoModule, "scheduler or persistence engine"),
            (SetDestination, Errno::NOENT, Cause::NoDestination, "add it first"),
            (DelDestination, Errno::NOENT, Cause::NoDestination, "no such destination"),
            (SetService, Errno::SRCH, Cause::NoService, "add it first"),
            (NewDestination, Errno::SRCH, Cause::NoService, "no such virtual service"),
            (Zero, Errno::SRCH, Cause::NoService, "no such virtual service"),
            (NewService, Errno::EXIST, Cause::ServiceExists, "there already"),
            (NewDestination, Errno::EXIST, Cause::DestinationExists, "there already"),
            (NewDestination, Errno::RANGE, Cause::OutOfRange, "weights are 0 to 2147483647"),
            (NewDaemon, Errno::NODEV, Cause::NoInterface, "ip link"),
            (NewDaemon, Errno::EXIST, Cause::DaemonRuns, "stop it before"),
            (NewDaemon, Errno::INVAL, Cause::Invalid, "invalid"),
            (DelDaemon, Errno::SRCH, Cause::NoDaemon, "does not run"),
            (GetService, Errno::BUSY, Cause::Busy, "one client per thread"),
            (Flush, Errno::PERM, Cause::Permission, "CAP_NET_ADMIN"),
            (NewService, Errno::NOMEM, Cause::NoMemory, "out of memory"),
            (Flush, Errno::NOSYS, Cause::Other, "refused"),
        ] {
            let error =
                Failure::Refused { errno: errno.raw_os_error(), message: None }
                    .explain("try", "this", |errno| cause(command, errno));
            assert_eq!(error.cause(), Some(expected), "{command:?} {errno:?}");
            assert_eq!(error.errno(), Some(errno.raw_os_error()));
            assert!(error.to_string().contains(words), "{command:?} {errno:?}: {error}");
        }
    }
}
