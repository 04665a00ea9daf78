//! IPVS: services, destinations, tables.

use std::ffi::{CString, c_char, c_int, c_void};
use std::mem::{MaybeUninit, size_of};
use std::time::Duration;

use super::ffi::{
    Grows, Handle, Held, NAME, Opened, Place, Result, TABLE, Text, c_text, choice, entry, given, invalid, put_text,
    read, reserved,
};
use super::status::{caught, guard};
use crate::ipvs::{
    Destination, DestinationEntry, Family, Forward, Ipvs, Netmask, Persistence, Plan, Scheduler, Service, ServiceEntry,
    ServiceFlags, ServiceId, Stats, Table, Tunnel, TunnelChecksum,
};

/// Each UDP packet is scheduled by itself. These flags are the kernel's, IP_VS_SVC_F_* in
/// linux/ip_vs.h.
pub const LVS_SERVICE_ONE_PACKET: u32 = 0x04;
/// The scheduler's first flag: for sh and mh, another destination is chosen where the first choice
/// has weight 0 or is overloaded.
pub const LVS_SERVICE_SCHED1: u32 = 0x08;
/// The scheduler's second flag: for sh and mh, the source port counts too.
pub const LVS_SERVICE_SCHED2: u32 = 0x10;
/// The scheduler's third flag.
pub const LVS_SERVICE_SCHED3: u32 = 0x20;

const _: () = assert!(
    LVS_SERVICE_ONE_PACKET == ServiceFlags::ONE_PACKET.bits()
        && LVS_SERVICE_SCHED1 == ServiceFlags::SCHED1.bits()
        && LVS_SERVICE_SCHED2 == ServiceFlags::SCHED2.bits()
        && LVS_SERVICE_SCHED3 == ServiceFlags::SCHED3.bits()
);

/// NAT. These numbers are the kernel's, IP_VS_CONN_F_* in linux/ip_vs.h.
pub const LVS_FORWARD_MASQUERADE: u32 = 0;
/// The director itself.
pub const LVS_FORWARD_LOCAL: u32 = 1;
/// Packets travel inside others, see `tunnel`.
pub const LVS_FORWARD_TUNNEL: u32 = 2;
/// Direct routing: packets are passed on unchanged.
pub const LVS_FORWARD_DIRECT: u32 = 3;

/// A method that this library does not know: it is listed, but never set.
pub const LVS_FORWARD_OTHER: u32 = 255;

/// IP in IP.
pub const LVS_TUNNEL_IPIP: u32 = 0;
/// Generic UDP encapsulation, to `tunnel_port`.
pub const LVS_TUNNEL_GUE: u32 = 1;
/// Generic routing encapsulation.
pub const LVS_TUNNEL_GRE: u32 = 2;

/// A type that this library does not know: it is listed, but never set.
pub const LVS_TUNNEL_OTHER: u32 = 255;

/// The outer packet has no checksum.
pub const LVS_CHECKSUM_NONE: u32 = 0;
/// The outer packet has a checksum of all of it.
pub const LVS_CHECKSUM_FULL: u32 = 1;
/// The outer packet's checksum is left to the receiver; not with GRE.
pub const LVS_CHECKSUM_REMOTE: u32 = 2;

/// Says whether a service belongs to the program: returns 0 if it does not. `id`: "tcp
/// 192.168.0.254:80"; it is there until the function returns. `context`: as it was passed with the
/// function. It must return: neither longjmp(3) nor a C++ exception may leave it.
pub type lvs_owns = Option<unsafe extern "C" fn(id: Text, context: *mut c_void) -> c_int>;

/// A client of IPVS in one network namespace.
pub struct lvs_ipvs(Held<Ipvs>);

impl Opened for lvs_ipvs {
    type Value = Ipvs;

    fn held(&self) -> &Held<Ipvs> {
        &self.0
    }
}

/// A virtual service: what is balanced, and how.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct lvs_service {
    /// sizeof(struct lvs_service).
    pub size: usize,
    /// "tcp 192.168.0.254:80", "udp [2001:db8::fe]:53", "sctp ...", "fwmark 1" or "fwmark 1 ipv6".
    pub id: Text,
    /// How a destination is chosen, as -s in ipvsadm(8): "wrr".
    pub scheduler: Text,
    /// LVS_SERVICE_...
    pub flags: u32,
    /// For how many seconds a client stays with its destination, up to 2678400; 0: it does not.
    pub persistence: u32,
    /// With persistence, which part of a client's address counts, as -M in ipvsadm(8):
    /// "255.255.255.0", for IPv6 "64". NULL: all of it.
    pub netmask: Text,
    /// The persistence engine that tells clients apart: "sip". NULL: their addresses do.
    pub engine: Text,
}

// SAFETY: `repr(C)`, numbers and texts; that there is no padding follows from its size, which is
// checked here.
unsafe impl Grows for lvs_service {
    const NAME: &'static str = "lvs_service";
    const FIRST: usize = 5 * size_of::<usize>() + 2 * 4;
}
const _: () = assert!(size_of::<lvs_service>() == lvs_service::FIRST);

/// A destination: a real server of a virtual service.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct lvs_destination {
    /// sizeof(struct lvs_destination).
    pub size: usize,
    /// "192.168.0.11:80" or "[2001:db8::11]:80".
    pub address: Text,
    /// Its share of new connections, up to 2147483647; 0: it gets none, and keeps those that it
    /// has.
    pub weight: u32,
    /// LVS_FORWARD_...
    pub forward: u32,
    /// From this many connections on it gets no new ones. 0: no limit.
    pub upper_threshold: u32,
    /// Below this many it gets new ones again. 0: three quarters of the upper one.
    pub lower_threshold: u32,
    /// With LVS_FORWARD_TUNNEL: LVS_TUNNEL_...; otherwise this and the next two are 0.
    pub tunnel: u32,
    /// With LVS_TUNNEL_GUE and LVS_TUNNEL_GRE: LVS_CHECKSUM_...
    pub tunnel_checksum: u32,
    /// With LVS_TUNNEL_GUE: the UDP port, 1 to 65535, in host byte order like every number here.
    pub tunnel_port: u32,
    /// 0.
    pub reserved: u32,
}

// SAFETY: as for `lvs_service`.
unsafe impl Grows for lvs_destination {
    const NAME: &'static str = "lvs_destination";
    const FIRST: usize = 2 * size_of::<usize>() + 8 * 4;
}
const _: () = assert!(size_of::<lvs_destination>() == lvs_destination::FIRST);

/// Services, as they were when the list was made. Several threads may read one list.
pub struct lvs_services(pub(super) Vec<ServiceTexts>);

/// Destinations, as they were when the list was made. Several threads may read one list.
pub struct lvs_destinations(pub(super) Vec<DestinationTexts>);

pub(super) struct ServiceTexts {
    id: CString,
    scheduler: CString,
    netmask: Option<CString>,
    engine: Option<CString>,
    flags: u32,
    persistence: u32,
    pub(super) stats: Stats,
}

pub(super) struct DestinationTexts {
    address: CString,
    pub(super) entry: DestinationEntry,
}

const FORWARDS: [(u32, Forward); 4] = [
    (LVS_FORWARD_DIRECT, Forward::Direct),
    (LVS_FORWARD_MASQUERADE, Forward::Masquerade),
    (LVS_FORWARD_TUNNEL, Forward::Tunnel(Tunnel::Ipip)),
    (LVS_FORWARD_LOCAL, Forward::Local),
];

const CHECKSUMS: [(u32, TunnelChecksum); 3] = [
    (LVS_CHECKSUM_NONE, TunnelChecksum::None),
    (LVS_CHECKSUM_FULL, TunnelChecksum::Full),
    (LVS_CHECKSUM_REMOTE, TunnelChecksum::Remote),
];

impl lvs_service {
    pub(super) fn to_service(self) -> Result<Service> {
        let id = service_id(self.id)?;
        let scheduler = Scheduler::new(&self.scheduler.name("scheduler")?)?;
        let mut service = Service::new(id, scheduler).flags(ServiceFlags::from_bits_retain(self.flags));
        service.engine = self.engine.optional("engine", NAME)?;
        let netmask = self.netmask.optional("netmask", NAME)?;
        if self.persistence == 0 {
            return match netmask {
                Some(_) => Err(invalid("`netmask`", "without `persistence`, NULL was expected")),
                None => Ok(service),
            };
        }
        let mut persistence = Persistence::new(Duration::from_secs(self.persistence.into()), id.family());
        if let Some(text) = netmask {
            let found = match id.family() {
                Family::V4 => text.parse().map(Netmask::V4).ok(),
                Family::V6 => text.parse().map(Netmask::V6).ok(),
            };
            let expected = "a mask as 255.255.255.0 was expected, or for IPv6 a number of bits";
            persistence.netmask = found.ok_or_else(|| invalid(&format!("netmask {text:?}"), expected))?;
        }
        service.persistence = Some(persistence);
        Ok(service)
    }
}

impl ServiceTexts {
    pub(super) fn new(ServiceEntry { service, stats, .. }: &ServiceEntry) -> Self {
        let persistence = service.persistence.as_ref();
        let partial = persistence.map(|p| p.netmask).filter(|mask| *mask != Netmask::full(service.id.family()));
        ServiceTexts {
            id: c_text(service.id.to_string()),
            scheduler: c_text(service.scheduler.name()),
            netmask: partial.map(|mask| match mask {
                Netmask::V4(mask) => c_text(mask.to_string()),
                Netmask::V6(bits) => c_text(bits.to_string()),
            }),
            engine: service.engine.as_deref().map(c_text),
            flags: service.flags.bits(),
            persistence: persistence.map_or(0, |p| p.timeout.as_secs().try_into().unwrap_or(u32::MAX)),
            stats: *stats,
        }
    }

    /// # Safety
    /// `self` lives as long as the result is used.
    pub(super) unsafe fn as_c(&self) -> lvs_service {
        // SAFETY: the texts live as long as `self`, and that as long as the caller promises.
        let text = |text: &CString| unsafe { Text::of(text) };
        lvs_service {
            size: size_of::<lvs_service>(),
            id: text(&self.id),
            scheduler: text(&self.scheduler),
            flags: self.flags,
            persistence: self.persistence,
            netmask: self.netmask.as_ref().map_or(Text::NULL, text),
            engine: self.engine.as_ref().map_or(Text::NULL, text),
        }
    }
}

impl lvs_destination {
    pub(super) fn to_destination(self) -> Result<Destination> {
        reserved(self.reserved)?;
        let mut forward = choice("forward", self.forward, &FORWARDS)?;
        if forward == Forward::Tunnel(Tunnel::Ipip) {
            forward = Forward::Tunnel(self.to_tunnel()?);
        } else if (self.tunnel, self.tunnel_checksum, self.tunnel_port) != (0, 0, 0) {
            return Err(invalid("`tunnel...`", "without LVS_FORWARD_TUNNEL, 0 was expected"));
        }
        let destination = Destination::new(self.address.socket_address("address")?).weight(self.weight);
        Ok(destination.forward(forward).thresholds(self.lower_threshold, self.upper_threshold))
    }

    fn to_tunnel(self) -> Result<Tunnel> {
        let checksum = choice("tunnel_checksum", self.tunnel_checksum, &CHECKSUMS)?;
        let expected = "1 to 65535 was expected with LVS_TUNNEL_GUE, otherwise 0";
        let port = u16::try_from(self.tunnel_port)
            .map_err(|_| invalid(&format!("tunnel_port {}", self.tunnel_port), expected))?;
        let kinds = [
            (LVS_TUNNEL_IPIP, Tunnel::Ipip),
            (LVS_TUNNEL_GUE, Tunnel::Gue { port, checksum }),
            (LVS_TUNNEL_GRE, Tunnel::Gre { checksum }),
        ];
        let tunnel = choice("tunnel", self.tunnel, &kinds)?;
        match tunnel {
            Tunnel::Ipip if self.tunnel_checksum != 0 => {
                Err(invalid("`tunnel_checksum`", "0 was expected with LVS_TUNNEL_IPIP"))
            }
            Tunnel::Ipip | Tunnel::Gre { .. } if port != 0 => Err(invalid(&format!("tunnel_port {port}"), expected)),
            _ => Ok(tunnel),
        }
    }
}

impl DestinationTexts {
    pub(super) fn new(entry: DestinationEntry) -> Self {
        DestinationTexts { address: c_text(entry.destination.address.to_string()), entry }
    }

    /// # Safety
    /// `self` lives as long as the result is used.
    pub(super) unsafe fn as_c(&self) -> lvs_destination {
        let number_of = |wanted| CHECKSUMS.iter().find(|(_, c)| *c == wanted).map_or(0, |(number, _)| *number);
        let (forward, tunnel, checksum, port) = match self.entry.destination.forward {
            Forward::Direct => (LVS_FORWARD_DIRECT, 0, 0, 0),
            Forward::Masquerade => (LVS_FORWARD_MASQUERADE, 0, 0, 0),
            Forward::Local => (LVS_FORWARD_LOCAL, 0, 0, 0),
            Forward::Tunnel(Tunnel::Ipip) => (LVS_FORWARD_TUNNEL, LVS_TUNNEL_IPIP, 0, 0),
            Forward::Tunnel(Tunnel::Gue { port, checksum }) => {
                (LVS_FORWARD_TUNNEL, LVS_TUNNEL_GUE, number_of(checksum), port.into())
            }
            Forward::Tunnel(Tunnel::Gre { checksum }) => (LVS_FORWARD_TUNNEL, LVS_TUNNEL_GRE, number_of(checksum), 0),
            Forward::Tunnel(Tunnel::Other(_)) => (LVS_FORWARD_TUNNEL, LVS_TUNNEL_OTHER, 0, 0),
            Forward::Other(_) => (LVS_FORWARD_OTHER, 0, 0, 0),
        };
        lvs_destination {
            size: size_of::<lvs_destination>(),
            // SAFETY: the text lives as long as `self`, and that as long as the caller promises.
            address: unsafe { Text::of(&self.address) },
            weight: self.entry.destination.weight,
            forward,
            upper_threshold: self.entry.destination.upper_threshold,
            lower_threshold: self.entry.destination.lower_threshold,
            tunnel,
            tunnel_checksum: checksum,
            tunnel_port: port,
            reserved: 0,
        }
    }
}

pub(super) fn service_id(id: Text) -> Result<ServiceId> {
    Ok(id.name("id")?.parse()?)
}

/// Opens a client of IPVS, and loads the kernel's module where it is not loaded yet.
///
/// `netns`: the file of the network namespace to work in ("/run/netns/blue"), or NULL for the
/// calling thread's. `ipvs`: is set to the client; free it with lvs_ipvs_free(). Fails with
/// LVS_ERR_NO_IPVS, or LVS_ERR_SYSTEM where the namespace cannot be entered.
#[unsafe(no_mangle)]
pub extern "C" fn lvs_ipvs_open(netns: Text, ipvs: Option<&mut MaybeUninit<Box<lvs_ipvs>>>) -> c_int {
    guard(|| {
        let result = given(ipvs, "ipvs")?;
        result.write(Box::new(lvs_ipvs(Held::new(Ipvs::open_in(netns.netns()?)?))));
        Ok(())
    })
}

/// Frees the client. Its changes stay. NULL is ignored.
#[unsafe(no_mangle)]
pub extern "C" fn lvs_ipvs_free(ipvs: Option<Box<lvs_ipvs>>) {
    let _ = caught(|| drop(ipvs));
}

/// Adds a service. Fails with LVS_ERR_SERVICE_EXISTS, LVS_ERR_NO_MODULE, or LVS_ERR_INVALID for
/// what makes no sense.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lvs_ipvs_add_service(ipvs: Handle<lvs_ipvs>, service: *const lvs_service) -> c_int {
    guard(|| {
        let mut ipvs = ipvs.lock("ipvs")?;
        // SAFETY: a structure of C's.
        let service = unsafe { read(service) }?.to_service()?;
        Ok(ipvs.add_service(&service)?)
    })
}

/// Sets a service to all of this; what it was set to before is lost. It keeps its destinations and
/// connections. Fails with LVS_ERR_NO_SERVICE, otherwise as lvs_ipvs_add_service().
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lvs_ipvs_replace_service(ipvs: Handle<lvs_ipvs>, service: *const lvs_service) -> c_int {
    guard(|| {
        let mut ipvs = ipvs.lock("ipvs")?;
        // SAFETY: a structure of C's.
        let service = unsafe { read(service) }?.to_service()?;
        Ok(ipvs.replace_service(&service)?)
    })
}

/// Removes a service and its destinations. Fails with LVS_ERR_NO_SERVICE.
#[unsafe(no_mangle)]
pub extern "C" fn lvs_ipvs_remove_service(ipvs: Handle<lvs_ipvs>, id: Text) -> c_int {
    guard(|| Ok(ipvs.lock("ipvs")?.remove_service(&service_id(id)?)?))
}

/// Lists all services, in the order in which ipvsadm does. `services`: is set to the list; free it
/// with lvs_services_free().
#[unsafe(no_mangle)]
pub extern "C" fn lvs_ipvs_services(
    ipvs: Handle<lvs_ipvs>,
    services: Option<&mut MaybeUninit<Box<lvs_services>>>,
) -> c_int {
    guard(|| {
        let (mut ipvs, result) = (ipvs.lock("ipvs")?, given(services, "services")?);
        let found = ipvs.services()?;
        result.write(Box::new(lvs_services(found.iter().map(ServiceTexts::new).collect())));
        Ok(())
    })
}

/// Reads one service, as a list of one. `services`: as for lvs_ipvs_services(). One request. Fails
/// with LVS_ERR_NO_SERVICE.
#[unsafe(no_mangle)]
pub extern "C" fn lvs_ipvs_service(
    ipvs: Handle<lvs_ipvs>,
    id: Text,
    services: Option<&mut MaybeUninit<Box<lvs_services>>>,
) -> c_int {
    guard(|| {
        let (mut ipvs, id, result) = (ipvs.lock("ipvs")?, service_id(id)?, given(services, "services")?);
        result.write(Box::new(lvs_services(vec![ServiceTexts::new(&ipvs.service(&id)?)])));
        Ok(())
    })
}

/// Returns the number of services in a list; 0 for NULL.
#[unsafe(no_mangle)]
pub extern "C" fn lvs_services_count(services: Option<&lvs_services>) -> usize {
    services.map_or(0, |services| services.0.len())
}

/// Fills `service` with the entry of this index, counted from 0; set its `size` before. The texts
/// in it are the list's, and live as long as that. Fails with LVS_ERR_INDEX.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lvs_services_get(
    services: Option<&lvs_services>,
    index: usize,
    service: *mut lvs_service,
) -> c_int {
    guard(|| {
        let services = given(services, "services")?;
        // SAFETY: a structure of C's.
        let place = unsafe { Place::new(service) }?;
        // SAFETY: C does not use the texts longer than the list, as the header demands.
        place.put(unsafe { entry(&services.0, index)?.as_c() });
        Ok(())
    })
}

/// Frees the list. NULL is ignored.
#[unsafe(no_mangle)]
pub extern "C" fn lvs_services_free(services: Option<Box<lvs_services>>) {
    let _ = caught(|| drop(services));
}

/// Adds a destination to the service of this id. Fails with LVS_ERR_NO_SERVICE,
/// LVS_ERR_DESTINATION_EXISTS, or LVS_ERR_INVALID for what makes no sense.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lvs_ipvs_add_destination(
    ipvs: Handle<lvs_ipvs>,
    id: Text,
    destination: *const lvs_destination,
) -> c_int {
    guard(|| {
        let (mut ipvs, id) = (ipvs.lock("ipvs")?, service_id(id)?);
        // SAFETY: a structure of C's.
        let destination = unsafe { read(destination) }?.to_destination()?;
        Ok(ipvs.add_destination(&id, &destination)?)
    })
}

/// Sets a destination to all of this; what it was set to before is lost. It keeps its connections.
/// To change only the weight, use lvs_ipvs_set_weight(). Fails with LVS_ERR_NO_SERVICE,
/// LVS_ERR_NO_DESTINATION, otherwise as lvs_ipvs_add_destination().
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lvs_ipvs_replace_destination(
    ipvs: Handle<lvs_ipvs>,
    id: Text,
    destination: *const lvs_destination,
) -> c_int {
    guard(|| {
        let (mut ipvs, id) = (ipvs.lock("ipvs")?, service_id(id)?);
        // SAFETY: a structure of C's.
        let destination = unsafe { read(destination) }?.to_destination()?;
        Ok(ipvs.replace_destination(&id, &destination)?)
    })
}

/// Removes a destination; its connections break. `address`: "192.168.0.11:80". Fails with
/// LVS_ERR_NO_SERVICE, LVS_ERR_NO_DESTINATION.
#[unsafe(no_mangle)]
pub extern "C" fn lvs_ipvs_remove_destination(ipvs: Handle<lvs_ipvs>, id: Text, address: Text) -> c_int {
    guard(|| {
        let (mut ipvs, id) = (ipvs.lock("ipvs")?, service_id(id)?);
        Ok(ipvs.remove_destination(&id, address.socket_address("address")?)?)
    })
}

/// Lists the destinations of a service, by address. `destinations`: is set to the list; free it
/// with lvs_destinations_free(). Fails with LVS_ERR_NO_SERVICE.
#[unsafe(no_mangle)]
pub extern "C" fn lvs_ipvs_destinations(
    ipvs: Handle<lvs_ipvs>,
    id: Text,
    destinations: Option<&mut MaybeUninit<Box<lvs_destinations>>>,
) -> c_int {
    guard(|| {
        let (mut ipvs, id, result) = (ipvs.lock("ipvs")?, service_id(id)?, given(destinations, "destinations")?);
        let found = ipvs.destinations(&id)?;
        let texts = found.into_iter().map(DestinationTexts::new);
        result.write(Box::new(lvs_destinations(texts.collect())));
        Ok(())
    })
}

/// Reads one destination, as a list of one. `address`: "192.168.0.11:80". `destinations`: as for
/// lvs_ipvs_destinations(). Fails with LVS_ERR_NO_SERVICE, LVS_ERR_NO_DESTINATION.
#[unsafe(no_mangle)]
pub extern "C" fn lvs_ipvs_destination(
    ipvs: Handle<lvs_ipvs>,
    id: Text,
    address: Text,
    destinations: Option<&mut MaybeUninit<Box<lvs_destinations>>>,
) -> c_int {
    guard(|| {
        let (mut ipvs, id, result) = (ipvs.lock("ipvs")?, service_id(id)?, given(destinations, "destinations")?);
        let found = ipvs.destination(&id, address.socket_address("address")?)?;
        result.write(Box::new(lvs_destinations(vec![DestinationTexts::new(found)])));
        Ok(())
    })
}

/// Returns the number of destinations in a list; 0 for NULL.
#[unsafe(no_mangle)]
pub extern "C" fn lvs_destinations_count(destinations: Option<&lvs_destinations>) -> usize {
    destinations.map_or(0, |destinations| destinations.0.len())
}

/// Fills `destination` with the entry of this index, counted from 0; set its `size` before. The
/// text in it is the list's, and lives as long as that. Fails with LVS_ERR_INDEX.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lvs_destinations_get(
    destinations: Option<&lvs_destinations>,
    index: usize,
    destination: *mut lvs_destination,
) -> c_int {
    guard(|| {
        let destinations = given(destinations, "destinations")?;
        // SAFETY: a structure of C's.
        let place = unsafe { Place::new(destination) }?;
        // SAFETY: C does not use the text longer than the list, as the header demands.
        place.put(unsafe { entry(&destinations.0, index)?.as_c() });
        Ok(())
    })
}

/// Frees the list. NULL is ignored.
#[unsafe(no_mangle)]
pub extern "C" fn lvs_destinations_free(destinations: Option<Box<lvs_destinations>>) {
    let _ = caught(|| drop(destinations));
}

/// Reads all services with their destinations as one text, as `ipvsadm -Sn` prints them. `table`:
/// is set to it; free it with lvs_text_free().
#[unsafe(no_mangle)]
pub extern "C" fn lvs_ipvs_table(ipvs: Handle<lvs_ipvs>, table: Option<&mut MaybeUninit<*mut c_char>>) -> c_int {
    guard(|| {
        let (mut ipvs, result) = (ipvs.lock("ipvs")?, given(table, "table")?);
        put_text(Some(result), ipvs.table()?.to_string());
        Ok(())
    })
}

/// Plans what lvs_ipvs_apply() would do. Changes nothing. `plan`: is set to a text, a command of
/// ipvsadm(8) on each line, empty where nothing is to be done; free it with lvs_text_free().
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lvs_ipvs_plan(
    ipvs: Handle<lvs_ipvs>,
    table: Text,
    owns: lvs_owns,
    context: *mut c_void,
    plan: Option<&mut MaybeUninit<*mut c_char>>,
) -> c_int {
    guard(|| {
        let (mut ipvs, result) = (ipvs.lock("ipvs")?, given(plan, "plan")?);
        // SAFETY: a function of C's, with its context.
        let plan = unsafe { plan_for(&mut ipvs, table, owns, context) }?;
        put_text(Some(result), plan.to_string());
        Ok(())
    })
}

/// Makes the kernel's table what this text says, in the format of `ipvsadm -Sn`; commands of
/// ipvsadm(8) for timeouts (`--set`) and sync daemons (`--start-daemon`, `--stop-daemon`) may be
/// among its lines. What is there already keeps its connections; when a change fails, those before
/// it are undone.
///
/// `owns`: is asked for each service of the kernel that the text does not name; one that belongs
/// to the program is removed. NULL: they all stay. `context`: is passed to `owns`. `done`: is set
/// to the plan that was carried out, as lvs_ipvs_plan() gives it; NULL if it is not needed. Fails
/// with LVS_ERR_PARSE, or as the functions for single changes do.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lvs_ipvs_apply(
    ipvs: Handle<lvs_ipvs>,
    table: Text,
    owns: lvs_owns,
    context: *mut c_void,
    done: Option<&mut MaybeUninit<*mut c_char>>,
) -> c_int {
    guard(|| {
        let mut ipvs = ipvs.lock("ipvs")?;
        // SAFETY: a function of C's, with its context.
        let plan = unsafe { plan_for(&mut ipvs, table, owns, context) }?;
        ipvs.apply(&plan)?;
        put_text(done, plan.to_string());
        Ok(())
    })
}

/// # Safety
/// `owns` is a function of C's that may be called with `context`.
unsafe fn plan_for(ipvs: &mut Ipvs, table: Text, owns: lvs_owns, context: *mut c_void) -> Result<Plan> {
    let wanted: Table = table.read("table", TABLE)?.parse()?;
    let is_owned = |id: &ServiceId| {
        owns.is_some_and(|owns| {
            let text = c_text(id.to_string());
            // SAFETY: the caller's promise; the text lives until the function has returned.
            unsafe { owns(Text::of(&text), context) != 0 }
        })
    };
    let seen = ipvs.snapshot()?.filtered(|id| wanted.service(id).is_some() || is_owned(id));
    Ok(Plan::between(&seen, &wanted))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of_service(service: &Service) -> ServiceTexts {
        ServiceTexts::new(&ServiceEntry { service: service.clone(), stats: Stats::default() })
    }

    fn of_destination(destination: &Destination) -> DestinationTexts {
        let destination = destination.clone();
        let stats = Some(Stats::default());
        DestinationTexts::new(DestinationEntry { destination, active: 0, inactive: 0, persistent: 0, stats })
    }

    fn round_trip(text: &str) {
        let table: Table = text.parse().unwrap();
        for content in table.services() {
            let texts = of_service(content.service);
            // SAFETY: `texts` lives long enough.
            assert_eq!(&unsafe { texts.as_c() }.to_service().unwrap(), content.service);
            for destination in content.destinations() {
                let texts = of_destination(destination);
                // SAFETY: `texts` lives long enough.
                assert_eq!(&unsafe { texts.as_c() }.to_destination().unwrap(), destination);
            }
        }
    }

    #[test]
    fn what_c_is_given_is_what_it_gives_back() {
        round_trip(
            "-A -f 1 -s rr -p 300\n\
             -a -f 1 -r 10.0.0.1:0 -g -w 1\n\
             -A -f 2 -6 -s mh -b mh-port\n\
             -A -t 192.0.2.1:80 -s wrr -p 10 -M 255.255.255.0\n\
             -a -t 192.0.2.1:80 -r 10.0.0.2:80 -g -w 2147483647 -x 9 -y 3\n\
             -a -t 192.0.2.1:80 -r 10.0.0.3:8080 -m -w 0\n\
             -a -t 192.0.2.1:80 -r 10.0.0.4:80 -i -w 4 --tun-type ipip\n\
             -a -t 192.0.2.1:80 -r 10.0.0.5:80 -i -w 5 --tun-type gue --tun-port 6080 --tun-remcsum\n\
             -a -t 192.0.2.1:80 -r 10.0.0.6:80 -i -w 6 --tun-type gre --tun-csum\n\
             -A -u 192.0.2.1:5060 -s sh -p 60 --pe sip -o\n\
             -A -t [2001:db8::fe]:80 -s lc -p 10 -M 64\n",
        );
    }

    #[test]
    fn fields_that_belong_to_another_are_refused() {
        let texts = of_destination(&Destination::new("10.0.0.1:80".parse().unwrap()));
        // SAFETY: `texts` lives long enough.
        let plain = unsafe { texts.as_c() };
        assert!(plain.to_destination().is_ok());
        let tunnel = lvs_destination { forward: LVS_FORWARD_TUNNEL, ..plain };
        assert!(tunnel.to_destination().is_ok());
        for wrong in [
            lvs_destination { forward: 4, ..plain },
            lvs_destination { reserved: 1, ..plain },
            lvs_destination { tunnel: LVS_TUNNEL_GRE, ..plain },
            lvs_destination { tunnel_port: 6080, ..plain },
            lvs_destination { tunnel: 3, ..tunnel },
            lvs_destination { tunnel_checksum: 3, ..tunnel },
            lvs_destination { tunnel_checksum: LVS_CHECKSUM_FULL, ..tunnel },
            lvs_destination { tunnel_port: 6080, ..tunnel },
            lvs_destination { tunnel: LVS_TUNNEL_GRE, tunnel_port: 6080, ..tunnel },
            lvs_destination { tunnel: LVS_TUNNEL_GUE, tunnel_port: 65536, ..tunnel },
        ] {
            assert_eq!(wrong.to_destination().unwrap_err().status, super::super::status::LVS_ERR_INVALID);
        }
        let service = Service::new("tcp 192.0.2.1:80".parse().unwrap(), Scheduler::RR);
        let (service, mask) = (of_service(&service), c_text("255.255.255.0"));
        // SAFETY: `service` and `mask` live long enough.
        let (plain, mask) = unsafe { (service.as_c(), Text::of(&mask)) };
        assert!(lvs_service { persistence: 9, netmask: mask, ..plain }.to_service().is_ok());
        for wrong in [
            lvs_service { netmask: mask, ..plain },
            lvs_service { persistence: 9, netmask: plain.scheduler, ..plain },
            lvs_service { scheduler: plain.id, ..plain },
            lvs_service { id: plain.scheduler, ..plain },
        ] {
            assert_eq!(wrong.to_service().unwrap_err().status, super::super::status::LVS_ERR_INVALID);
        }
    }
}
