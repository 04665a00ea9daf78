//! What IPVS has beside its services: counters, timeouts, sync daemons.

use std::ffi::{CString, c_char, c_int};
use std::mem::{MaybeUninit, size_of};
use std::ptr;
use std::time::Duration;

use super::ffi::{
    Grows, Handle, NAME, Place, Result, Text, c_text, choice, entry, given, invalid, put, put_text, read, reserved,
};
use super::ipvs::{lvs_destinations, lvs_ipvs, lvs_services, service_id};
use super::status::{caught, guard};
use crate::ipvs::{Stats, SyncDaemon, SyncRole, Timeouts};

/// The sync daemon that sends the connections of this node. The numbers are the kernel's,
/// IP_VS_STATE_* in linux/ip_vs.h.
pub const LVS_SYNC_MASTER: u32 = 1;
/// The sync daemon that receives the connections of other nodes.
pub const LVS_SYNC_BACKUP: u32 = 2;

const SYNC_ROLES: [(u32, SyncRole); 2] = [(LVS_SYNC_MASTER, SyncRole::Master), (LVS_SYNC_BACKUP, SyncRole::Backup)];

/// What has passed, and how fast. The kernel updates both about every two seconds. With direct
/// routing the answers do not pass the director: their counters stay 0.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct lvs_counters {
    /// sizeof(struct lvs_counters).
    pub size: usize,
    /// Connections scheduled since the service or destination was added, or its counters were set
    /// to 0.
    pub connections: u64,
    /// Packets from clients.
    pub packets_in: u64,
    /// Packets to clients.
    pub packets_out: u64,
    /// Octets from clients.
    pub bytes_in: u64,
    /// Octets to clients.
    pub bytes_out: u64,
    /// Connections a second.
    pub connection_rate: u64,
    /// Packets a second from clients.
    pub packet_rate_in: u64,
    /// Packets a second to clients.
    pub packet_rate_out: u64,
    /// Octets a second from clients.
    pub byte_rate_in: u64,
    /// Octets a second to clients.
    pub byte_rate_out: u64,
    /// Of a destination: established connections (TCP, SCTP). 0 for a service.
    pub active: u64,
    /// Of a destination: connections in other states; of UDP and of firewall marks, all. 0 for a
    /// service.
    pub inactive: u64,
    /// Of a destination: persistence templates, clients that come back to it. 0 for a service.
    pub persistent: u64,
}

// SAFETY: `repr(C)`, numbers; that there is no padding follows from its size, which is checked
// here.
unsafe impl Grows for lvs_counters {
    const NAME: &'static str = "lvs_counters";
    const FIRST: usize = size_of::<usize>() + 13 * 8;
}
#[cfg(target_pointer_width = "64")]
const _: () = assert!(size_of::<lvs_counters>() == lvs_counters::FIRST);

/// How long the kernel remembers a connection that is silent, in seconds, up to 2678400 (31 days).
#[repr(C)]
#[derive(Clone, Copy)]
pub struct lvs_timeouts {
    /// sizeof(struct lvs_timeouts).
    pub size: usize,
    /// An established TCP connection. In this and the next two, 0 leaves it as it is.
    pub tcp: u32,
    /// A TCP connection that its client has closed.
    pub tcp_fin: u32,
    /// A UDP flow.
    pub udp: u32,
    /// 0.
    pub reserved: u32,
}

// SAFETY: as for `lvs_counters`.
unsafe impl Grows for lvs_timeouts {
    const NAME: &'static str = "lvs_timeouts";
    const FIRST: usize = size_of::<usize>() + 4 * 4;
}
const _: () = assert!(size_of::<lvs_timeouts>() == lvs_timeouts::FIRST);

/// What IPVS says of itself.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct lvs_info {
    /// sizeof(struct lvs_info).
    pub size: usize,
    /// The version of IPVS in the kernel: 1, 2, 1 for many years.
    pub version_major: u32,
    /// See `version_major`.
    pub version_minor: u32,
    /// See `version_major`.
    pub version_patch: u32,
    /// The number of buckets of the connection table. From kernel 7.2 on it grows with the load,
    /// and is 0 before the first service.
    pub connection_table_size: u32,
}

// SAFETY: as for `lvs_counters`.
unsafe impl Grows for lvs_info {
    const NAME: &'static str = "lvs_info";
    const FIRST: usize = size_of::<usize>() + 4 * 4;
}
const _: () = assert!(size_of::<lvs_info>() == lvs_info::FIRST);

/// What has become of a destination that was drained.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct lvs_drained {
    /// sizeof(struct lvs_drained).
    pub size: usize,
    /// The weight that it had before.
    pub weight: u32,
    /// 1 if its connections were gone before the time limit, otherwise 0.
    pub empty: u32,
    /// Connections that are still established.
    pub active: u32,
    /// Connections in other states, which end by themselves; of UDP and of firewall marks, all.
    pub inactive: u32,
    /// Persistence templates: clients that come back to it for a while.
    pub persistent: u32,
    /// 0.
    pub reserved: u32,
}

// SAFETY: as for `lvs_counters`.
unsafe impl Grows for lvs_drained {
    const NAME: &'static str = "lvs_drained";
    const FIRST: usize = size_of::<usize>() + 6 * 4;
}
const _: () = assert!(size_of::<lvs_drained>() == lvs_drained::FIRST);

/// A sync daemon, see `--start-daemon` in ipvsadm(8). What is 0 or NULL is the kernel's choice when
/// a daemon is started; of one that runs, all is known.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct lvs_sync_daemon {
    /// sizeof(struct lvs_sync_daemon).
    pub size: usize,
    /// The interface that the messages pass: "eth0".
    pub interface: Text,
    /// The multicast group; NULL: 224.0.0.81.
    pub group: Text,
    /// LVS_SYNC_MASTER or LVS_SYNC_BACKUP.
    pub role: u32,
    /// Which daemons belong together, 0 to 255. A backup with 0 listens to all.
    pub sync_id: u32,
    /// The longest message, in octets of UDP payload, up to 65535; 0: what fits the interface.
    pub max_length: u32,
    /// The UDP port, in host byte order; 0: 8848.
    pub port: u32,
    /// How many routers a message may pass, up to 255; 0: 1.
    pub ttl: u32,
    /// 0.
    pub reserved: u32,
}

// SAFETY: as for `lvs_counters`.
unsafe impl Grows for lvs_sync_daemon {
    const NAME: &'static str = "lvs_sync_daemon";
    const FIRST: usize = 3 * size_of::<usize>() + 6 * 4;
}
const _: () = assert!(size_of::<lvs_sync_daemon>() == lvs_sync_daemon::FIRST);

/// The sync daemons that ran when the list was made. Several threads may read one list.
pub struct lvs_sync_daemons(Vec<DaemonTexts>);

struct DaemonTexts {
    interface: CString,
    group: Option<CString>,
    daemon: SyncDaemon,
}

impl From<&Stats> for lvs_counters {
    fn from(stats: &Stats) -> Self {
        lvs_counters {
            size: size_of::<lvs_counters>(),
            connections: stats.connections,
            packets_in: stats.packets_in,
            packets_out: stats.packets_out,
            bytes_in: stats.bytes_in,
            bytes_out: stats.bytes_out,
            connection_rate: stats.connection_rate,
            packet_rate_in: stats.packet_rate_in,
            packet_rate_out: stats.packet_rate_out,
            byte_rate_in: stats.byte_rate_in,
            byte_rate_out: stats.byte_rate_out,
            active: 0,
            inactive: 0,
            persistent: 0,
        }
    }
}

impl lvs_timeouts {
    fn to_timeouts(self) -> Result<Timeouts> {
        reserved(self.reserved)?;
        let seconds = |count: u32| Duration::from_secs(count.into());
        Ok(Timeouts { tcp: seconds(self.tcp), tcp_fin: seconds(self.tcp_fin), udp: seconds(self.udp) })
    }
}

impl lvs_sync_daemon {
    fn to_daemon(self) -> Result<SyncDaemon> {
        reserved(self.reserved)?;
        let role = choice("role", self.role, &SYNC_ROLES)?;
        let unusable = |name: &str, value: u32, most: u32| {
            invalid(&format!("`{name}` {value}"), format!("0 to {most} was expected"))
        };
        let octet = |name: &str, value: u32| u8::try_from(value).map_err(|_| unusable(name, value, u8::MAX.into()));
        let word = |name: &str, value: u32| u16::try_from(value).map_err(|_| unusable(name, value, u16::MAX.into()));
        Ok(SyncDaemon {
            max_length: Some(word("max_length", self.max_length)?).filter(|length| *length != 0),
            group: self.group.optional_address("group")?,
            port: Some(word("port", self.port)?).filter(|port| *port != 0),
            ttl: Some(octet("ttl", self.ttl)?).filter(|ttl| *ttl != 0),
            ..SyncDaemon::new(role, &self.interface.name("interface")?, octet("sync_id", self.sync_id)?)
        })
    }
}

impl lvs_sync_daemons {
    pub(super) fn of(daemons: Vec<SyncDaemon>) -> Self {
        lvs_sync_daemons(daemons.into_iter().map(DaemonTexts::new).collect())
    }
}

impl DaemonTexts {
    fn new(daemon: SyncDaemon) -> Self {
        let group = daemon.group.map(|group| c_text(group.to_string()));
        DaemonTexts { interface: c_text(daemon.interface.as_str()), group, daemon }
    }

    /// # Safety
    /// `self` lives as long as the result is used.
    unsafe fn as_c(&self) -> lvs_sync_daemon {
        // SAFETY: the texts live as long as `self`, and that as long as the caller promises.
        let text = |text: &CString| unsafe { Text::of(text) };
        let daemon = &self.daemon;
        lvs_sync_daemon {
            size: size_of::<lvs_sync_daemon>(),
            interface: text(&self.interface),
            group: self.group.as_ref().map_or(Text::NULL, text),
            role: SYNC_ROLES.iter().find(|(_, role)| *role == daemon.role).map_or(0, |(number, _)| *number),
            sync_id: daemon.sync_id.into(),
            max_length: daemon.max_length.unwrap_or(0).into(),
            port: daemon.port.unwrap_or(0).into(),
            ttl: daemon.ttl.unwrap_or(0).into(),
            reserved: 0,
        }
    }
}

/// Fills `counters` with those of the service of this index in the list, as they were when the list
/// was made; set its `size` before. Does not block. Fails with LVS_ERR_INDEX.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lvs_services_counters(
    services: Option<&lvs_services>,
    index: usize,
    counters: *mut lvs_counters,
) -> c_int {
    guard(|| {
        let services = given(services, "services")?;
        // SAFETY: a structure of C's.
        let place = unsafe { Place::new(counters) }?;
        place.put((&entry(&services.0, index)?.stats).into());
        Ok(())
    })
}

/// Fills `counters` with those of the destination of this index in the list, otherwise as
/// lvs_services_counters().
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lvs_destinations_counters(
    destinations: Option<&lvs_destinations>,
    index: usize,
    counters: *mut lvs_counters,
) -> c_int {
    guard(|| {
        let destinations = given(destinations, "destinations")?;
        // SAFETY: a structure of C's.
        let place = unsafe { Place::new(counters) }?;
        let found = &entry(&destinations.0, index)?.entry;
        place.put(lvs_counters {
            active: found.active.into(),
            inactive: found.inactive.into(),
            persistent: found.persistent.into(),
            ..(&found.stats.unwrap_or_default()).into()
        });
        Ok(())
    })
}

/// Fills `counters` with those of all services together; set its `size` before. Reads
/// /proc/net/ip_vs_stats. Fails with LVS_ERR_SYSTEM.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lvs_ipvs_totals(ipvs: Handle<lvs_ipvs>, counters: *mut lvs_counters) -> c_int {
    guard(|| {
        let mut ipvs = ipvs.lock("ipvs")?;
        // SAFETY: a structure of C's.
        let place = unsafe { Place::new(counters) }?;
        place.put((&ipvs.totals()?).into());
        Ok(())
    })
}

/// Sets the counters of a service and its destinations to 0. `id`: NULL for all services. Rates
/// stay. Fails with LVS_ERR_NO_SERVICE.
#[unsafe(no_mangle)]
pub extern "C" fn lvs_ipvs_zero(ipvs: Handle<lvs_ipvs>, id: Text) -> c_int {
    guard(|| {
        let mut ipvs = ipvs.lock("ipvs")?;
        let id = id.optional("id", NAME)?.map(|text| text.parse()).transpose()?;
        Ok(ipvs.zero(id.as_ref())?)
    })
}

/// Removes all services with their destinations, those of other programs too.
#[unsafe(no_mangle)]
pub extern "C" fn lvs_ipvs_flush(ipvs: Handle<lvs_ipvs>) -> c_int {
    guard(|| Ok(ipvs.lock("ipvs")?.flush()?))
}

/// Sets the weight of a destination, and leaves the rest of it as it is. `weight`: up to
/// 2147483647; with 0 it gets no new connections, and keeps those that it has. Two requests. Fails
/// with LVS_ERR_NO_SERVICE, LVS_ERR_NO_DESTINATION.
#[unsafe(no_mangle)]
pub extern "C" fn lvs_ipvs_set_weight(ipvs: Handle<lvs_ipvs>, id: Text, address: Text, weight: u32) -> c_int {
    guard(|| {
        let (mut ipvs, id) = (ipvs.lock("ipvs")?, service_id(id)?);
        let address = address.socket_address("address")?;
        Ok(ipvs.edit_destination(&id, address, |destination| destination.weight = weight)?)
    })
}

/// Gives a destination weight 0, so that it gets no new connections, and waits until those that it
/// has are gone: of TCP and SCTP the established ones, otherwise all. It stays in the table with
/// weight 0: remove it with lvs_ipvs_remove_destination(), or give it its weight again with
/// lvs_ipvs_set_weight().
///
/// `limit_ms`: how long to wait, in milliseconds; the connections are counted every 100 ms. With 0
/// it does not wait, for a program with a loop of its own: lvs_ipvs_destination() counts later.
/// `drained`: is filled; set its `size` before; NULL if it is not needed. Fails with
/// LVS_ERR_NO_SERVICE, and LVS_ERR_NO_DESTINATION also when another program removes it meanwhile.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lvs_ipvs_drain(
    ipvs: Handle<lvs_ipvs>,
    id: Text,
    address: Text,
    limit_ms: u32,
    drained: *mut lvs_drained,
) -> c_int {
    guard(|| {
        let (mut ipvs, id) = (ipvs.lock("ipvs")?, service_id(id)?);
        let address = address.socket_address("address")?;
        // SAFETY: a structure of C's.
        let place = unsafe { Place::optional(drained) }?;
        let found = ipvs.drain(&id, address, Duration::from_millis(limit_ms.into()))?;
        if let Some(place) = place {
            place.put(lvs_drained {
                size: size_of::<lvs_drained>(),
                weight: found.before.weight,
                empty: found.empty.into(),
                active: found.active,
                inactive: found.inactive,
                persistent: found.persistent,
                reserved: 0,
            });
        }
        Ok(())
    })
}

/// Reads what IPVS says of itself; set `size` of the structure before. One request.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lvs_ipvs_info(ipvs: Handle<lvs_ipvs>, info: *mut lvs_info) -> c_int {
    guard(|| {
        let mut ipvs = ipvs.lock("ipvs")?;
        // SAFETY: a structure of C's.
        let place = unsafe { Place::new(info) }?;
        let found = ipvs.info()?;
        let (major, minor, patch) = found.version;
        place.put(lvs_info {
            size: size_of::<lvs_info>(),
            version_major: major.into(),
            version_minor: minor.into(),
            version_patch: patch.into(),
            connection_table_size: found.connection_table_size,
        });
        Ok(())
    })
}

/// Reads a sysctl of IPVS. `name`: what stands behind `net.ipv4.vs.`: "sloppy_tcp"; see
/// Documentation/networking/ipvs-sysctl.rst in the kernel's source. `value`: is set to the text
/// that the kernel prints: "1", "2 50"; free it with lvs_text_free(); to NULL where this kernel has
/// no such setting. Reads a file below /proc/sys. Fails with LVS_ERR_INVALID for a name that the
/// library does not know, LVS_ERR_SYSTEM.
#[unsafe(no_mangle)]
pub extern "C" fn lvs_ipvs_setting(
    ipvs: Handle<lvs_ipvs>,
    name: Text,
    value: Option<&mut MaybeUninit<*mut c_char>>,
) -> c_int {
    guard(|| {
        let (mut ipvs, name, result) = (ipvs.lock("ipvs")?, name.name("name")?, given(value, "value")?);
        match ipvs.get_named(&name)? {
            Some(text) => put_text(Some(result), text),
            None => put(Some(result), ptr::null_mut()),
        }
        Ok(())
    })
}

/// Writes a sysctl of IPVS, otherwise as lvs_ipvs_setting(). `value`: is checked first. Fails with
/// LVS_ERR_INVALID, and LVS_ERR_SYSTEM: ENOENT where this kernel has no such setting, EINVAL for a
/// value that it does not take, EACCES without privileges.
#[unsafe(no_mangle)]
pub extern "C" fn lvs_ipvs_set_setting(ipvs: Handle<lvs_ipvs>, name: Text, value: Text) -> c_int {
    guard(|| {
        let mut ipvs = ipvs.lock("ipvs")?;
        Ok(ipvs.set_named(&name.name("name")?, &value.name("value")?)?)
    })
}

/// Reads the timeouts; set `size` of the structure before. One request.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lvs_ipvs_timeouts(ipvs: Handle<lvs_ipvs>, timeouts: *mut lvs_timeouts) -> c_int {
    guard(|| {
        let mut ipvs = ipvs.lock("ipvs")?;
        // SAFETY: a structure of C's.
        let place = unsafe { Place::new(timeouts) }?;
        let found = ipvs.timeouts()?;
        let seconds = |time: Duration| u32::try_from(time.as_secs()).unwrap_or(u32::MAX);
        place.put(lvs_timeouts {
            size: size_of::<lvs_timeouts>(),
            tcp: seconds(found.tcp),
            tcp_fin: seconds(found.tcp_fin),
            udp: seconds(found.udp),
            reserved: 0,
        });
        Ok(())
    })
}

/// Sets the timeouts; 0 leaves one as it is. One request. Fails with LVS_ERR_INVALID.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lvs_ipvs_set_timeouts(ipvs: Handle<lvs_ipvs>, timeouts: *const lvs_timeouts) -> c_int {
    guard(|| {
        let mut ipvs = ipvs.lock("ipvs")?;
        // SAFETY: a structure of C's.
        let timeouts = unsafe { read(timeouts) }?.to_timeouts()?;
        Ok(ipvs.set_timeouts(&timeouts)?)
    })
}

/// Starts a sync daemon. One request, whatever the table. The kernel waits for a start or an end
/// that is under way, for some milliseconds. Fails with LVS_ERR_DAEMON_RUNS (EEXIST) where one of
/// that role runs, LVS_ERR_NO_INTERFACE, LVS_ERR_INVALID.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lvs_ipvs_start_sync_daemon(ipvs: Handle<lvs_ipvs>, daemon: *const lvs_sync_daemon) -> c_int {
    guard(|| {
        let mut ipvs = ipvs.lock("ipvs")?;
        // SAFETY: a structure of C's.
        let daemon = unsafe { read(daemon) }?.to_daemon()?;
        Ok(ipvs.start_sync_daemon(&daemon)?)
    })
}

/// Stops a sync daemon. `role`: LVS_SYNC_MASTER or LVS_SYNC_BACKUP. One request, whatever the
/// table; up to three where the kernel leaves one without an answer, which takes 50 ms each. Fails
/// with LVS_ERR_NO_DAEMON (ESRCH) where none runs.
#[unsafe(no_mangle)]
pub extern "C" fn lvs_ipvs_stop_sync_daemon(ipvs: Handle<lvs_ipvs>, role: u32) -> c_int {
    guard(|| {
        let (mut ipvs, role) = (ipvs.lock("ipvs")?, choice("role", role, &SYNC_ROLES)?);
        Ok(ipvs.stop_sync_daemon(role)?)
    })
}

/// Lists the sync daemons that run: none, one or two. `daemons`: is set to the list; free it with
/// lvs_sync_daemons_free(). One request.
#[unsafe(no_mangle)]
pub extern "C" fn lvs_ipvs_sync_daemons(
    ipvs: Handle<lvs_ipvs>,
    daemons: Option<&mut MaybeUninit<Box<lvs_sync_daemons>>>,
) -> c_int {
    guard(|| {
        let (mut ipvs, result) = (ipvs.lock("ipvs")?, given(daemons, "daemons")?);
        let found = ipvs.sync_daemons()?;
        result.write(Box::new(lvs_sync_daemons::of(found)));
        Ok(())
    })
}

/// Returns the number of daemons in a list; 0 for NULL.
#[unsafe(no_mangle)]
pub extern "C" fn lvs_sync_daemons_count(daemons: Option<&lvs_sync_daemons>) -> usize {
    daemons.map_or(0, |daemons| daemons.0.len())
}

/// Fills `daemon` with the entry of this index, counted from 0; set its `size` before. The texts in
/// it are the list's, and live as long as that. Fails with LVS_ERR_INDEX.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lvs_sync_daemons_get(
    daemons: Option<&lvs_sync_daemons>,
    index: usize,
    daemon: *mut lvs_sync_daemon,
) -> c_int {
    guard(|| {
        let daemons = given(daemons, "daemons")?;
        // SAFETY: a structure of C's.
        let place = unsafe { Place::new(daemon) }?;
        // SAFETY: C does not use the texts longer than the list, as the header demands.
        place.put(unsafe { entry(&daemons.0, index)?.as_c() });
        Ok(())
    })
}

/// Frees the list. NULL is ignored.
#[unsafe(no_mangle)]
pub extern "C" fn lvs_sync_daemons_free(daemons: Option<Box<lvs_sync_daemons>>) {
    let _ = caught(|| drop(daemons));
}

#[cfg(test)]
mod tests {
    use super::super::status::LVS_ERR_INVALID;
    use super::*;

    #[test]
    fn daemons_that_c_is_given_are_those_that_it_gives_back() {
        let plain = SyncDaemon::new(SyncRole::Master, "eth0", 254);
        let full = SyncDaemon {
            max_length: Some(1460),
            group: Some("ff02::51".parse().unwrap()),
            port: Some(8850),
            ttl: Some(3),
            ..SyncDaemon::new(SyncRole::Backup, "bond0.7", 0)
        };
        for daemon in [plain, full] {
            let texts = DaemonTexts::new(daemon.clone());
            // SAFETY: `texts` lives long enough.
            let c = unsafe { texts.as_c() };
            assert_eq!(c.to_daemon().unwrap(), daemon);
            for wrong in [
                lvs_sync_daemon { role: 0, ..c },
                lvs_sync_daemon { role: 3, ..c },
                lvs_sync_daemon { sync_id: 256, ..c },
                lvs_sync_daemon { ttl: 256, ..c },
                lvs_sync_daemon { port: 65536, ..c },
                lvs_sync_daemon { max_length: u32::MAX, ..c },
                lvs_sync_daemon { group: c.interface, ..c },
                lvs_sync_daemon { reserved: 1, ..c },
            ] {
                assert_eq!(wrong.to_daemon().unwrap_err().status, LVS_ERR_INVALID);
            }
        }
    }
}
