//! IPVS's older interface: lists by getsockopt(2), see `do_ip_vs_get_ctl()` in
//! net/netfilter/ipvs/ip_vs_ctl.c. Each list is of one moment, and costs a fraction of what
//! netlink takes; but it has services of IPv4 alone, no persistence engines, no tunnel types and
//! destinations of the service's own family only.

use std::mem::offset_of;
use std::net::{Ipv4Addr, SocketAddr};
use std::num::NonZeroU32;
use std::os::fd::OwnedFd;

use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};

use super::wire::destination::{DIRECT, FORWARD_MASK, LOCAL, MASQUERADE};
use super::{Destination, DestinationEntry, Family, Forward, ServiceId};
use crate::netlink::read_ipv4_option;
use crate::netns::Netns;

/// `IP_VS_SO_GET_INFO` and those behind it, in linux/ip_vs.h.
const GET_INFO: i32 = 1153;
const GET_SERVICES: i32 = 1154;
const GET_SERVICE: i32 = 1155;
const GET_DESTINATIONS: i32 = 1156;

/// How often a list is asked for again when it has grown meanwhile.
const READS: usize = 4;

/// A socket for these questions. After any failure the answer is `None`: the caller asks by
/// netlink, which returns the answer or the error.
pub(super) struct Legacy {
    socket: OwnedFd,
    /// What was received last.
    octets: Vec<u8>,
}

impl Legacy {
    pub(super) fn open(netns: &Netns) -> Option<Self> {
        let open = || socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None);
        Some(Legacy { socket: netns.run(open).ok()?.ok()?, octets: Vec::new() })
    }

    /// The services of IPv4 in the order in which netlink lists them, with how many destinations
    /// each has.
    pub(super) fn services(&mut self) -> Option<Vec<(ServiceId, usize)>> {
        for _ in 0..READS {
            let mut info = [0; size_of::<Info>()];
            read_ipv4_option(&self.socket, GET_INFO, &mut info).ok()?;
            let count = read_u32(&info, offset_of!(Info, services))? as usize;
            // One more place shows that the list has not grown.
            let places = count + 1;
            self.ask(size_of::<Services>(), places, size_of::<ServiceRow>(), |head| {
                put_u32(head, 0, places as u32);
            });
            read_ipv4_option(&self.socket, GET_SERVICES, &mut self.octets).ok()?;
            let found = rows(&self.octets, size_of::<Services>(), size_of::<ServiceRow>(), read_service)?;
            if found.len() < places {
                return Some(found);
            }
        }
        None
    }

    /// What `keep` makes of the destinations of a service of IPv4, of which there are so many.
    /// `None` also where there are fewer or more, or one that this interface does not show in full.
    pub(super) fn destinations<T>(
        &mut self,
        id: &ServiceId,
        count: usize,
        keep: impl Fn(DestinationEntry) -> T,
    ) -> Option<Vec<T>> {
        let name = name(id)?;
        if count == 0 {
            return Some(Vec::new());
        }
        // As with services.
        let places = count + 1;
        self.ask(size_of::<Destinations>(), places, size_of::<DestinationRow>(), |head| {
            put(head, 0, &name);
            put_u32(head, offset_of!(Destinations, count), places as u32);
        });
        read_ipv4_option(&self.socket, GET_DESTINATIONS, &mut self.octets).ok()?;
        let read = |row: &[u8]| Some(read_destination(row)?.map(&keep));
        let found = rows(&self.octets, size_of::<Destinations>(), size_of::<DestinationRow>(), read)?;
        (found.len() == count).then_some(found)
    }

    /// How many destinations a service of IPv4 has.
    pub(super) fn count(&mut self, id: &ServiceId) -> Option<usize> {
        let name = name(id)?;
        self.ask(size_of::<ServiceRow>(), 0, 0, |row| put(row, 0, &name));
        read_ipv4_option(&self.socket, GET_SERVICE, &mut self.octets).ok()?;
        let (found, count) = read_service(&self.octets)??;
        (found == *id).then_some(count)
    }

    /// Writes a question: its head, and zeroed places for so many rows.
    fn ask(&mut self, head: usize, places: usize, row: usize, write: impl FnOnce(&mut [u8])) {
        self.octets.clear();
        self.octets.resize(head + places * row, 0);
        write(&mut self.octets);
    }
}

/// The fields with which questions about a service begin.
fn name(id: &ServiceId) -> Option<[u8; offset_of!(Destinations, count)]> {
    let (protocol, address, mark) = match *id {
        ServiceId::Tcp(SocketAddr::V4(address)) => (libc::IPPROTO_TCP, Some(address), 0),
        ServiceId::Udp(SocketAddr::V4(address)) => (libc::IPPROTO_UDP, Some(address), 0),
        ServiceId::Sctp(SocketAddr::V4(address)) => (libc::IPPROTO_SCTP, Some(address), 0),
        ServiceId::Fwmark { mark, family: Family::V4 } => (0, None, mark.get()),
        _ => return None,
    };
    let mut name = [0; offset_of!(Destinations, count)];
    put(&mut name, offset_of!(Destinations, protocol), &(protocol as u16).to_ne_bytes());
    if let Some(address) = address {
        put(&mut name, offset_of!(Destinations, address), &address.ip().octets());
        put(&mut name, offset_of!(Destinations, port), &address.port().to_be_bytes());
    }
    put_u32(&mut name, offset_of!(Destinations, mark), mark);
    Some(name)
}

/// `struct ip_vs_getinfo`
#[repr(C)]
struct Info {
    version: u32,
    size: u32,
    services: u32,
}

/// `struct ip_vs_get_services`, without its rows.
#[repr(C)]
struct Services {
    count: u32,
    rows: [ServiceRow; 0],
}

/// `struct ip_vs_service_entry`. It begins as [`Destinations`] does.
#[repr(C)]
struct ServiceRow {
    protocol: u16,
    address: u32,
    port: u16,
    mark: u32,
    scheduler: [u8; 16],
    flags: u32,
    timeout: u32,
    netmask: u32,
    destinations: u32,
    stats: Counters,
}

/// `struct ip_vs_get_dests`, without its rows.
#[repr(C)]
struct Destinations {
    protocol: u16,
    address: u32,
    port: u16,
    mark: u32,
    count: u32,
    rows: [DestinationRow; 0],
}

/// `struct ip_vs_dest_entry`
#[repr(C)]
struct DestinationRow {
    address: u32,
    port: u16,
    method: u32,
    weight: u32,
    upper_threshold: u32,
    lower_threshold: u32,
    active: u32,
    inactive: u32,
    persistent: u32,
    stats: Counters,
}

/// `struct ip_vs_stats_user`
#[repr(C)]
struct Counters {
    connections: [u32; 3],
    octets: [u64; 2],
    rates: [u32; 5],
}

/// Reads rows up to the first that is zero, or the end. `None`: one cannot be read.
fn rows<T>(
    octets: &[u8],
    head: usize,
    size: usize,
    mut read: impl FnMut(&[u8]) -> Option<Option<T>>,
) -> Option<Vec<T>> {
    let rows = octets.get(head..)?.chunks_exact(size);
    let mut found = Vec::with_capacity(rows.len());
    for row in rows {
        match read(row)? {
            Some(row) => found.push(row),
            None => break,
        }
    }
    Some(found)
}

/// `Some(None)`: the row is zero.
fn read_service(row: &[u8]) -> Option<Option<(ServiceId, usize)>> {
    let protocol = read_u16(row, offset_of!(ServiceRow, protocol))?;
    let mark = read_u32(row, offset_of!(ServiceRow, mark))?;
    let address = read_address(row, offset_of!(ServiceRow, address), offset_of!(ServiceRow, port))?;
    let id = match (NonZeroU32::new(mark), i32::from(protocol)) {
        (Some(mark), _) => ServiceId::Fwmark { mark, family: Family::V4 },
        (None, 0) => return Some(None),
        (None, libc::IPPROTO_TCP) => ServiceId::Tcp(address),
        (None, libc::IPPROTO_UDP) => ServiceId::Udp(address),
        (None, libc::IPPROTO_SCTP) => ServiceId::Sctp(address),
        _ => return None,
    };
    Some(Some((id, read_u32(row, offset_of!(ServiceRow, destinations))? as usize)))
}

/// `Some(None)`: the row is zero. No destination has address 0: the kernel refuses it.
fn read_destination(row: &[u8]) -> Option<Option<DestinationEntry>> {
    let number = |offset| read_u32(row, offset);
    let address = read_address(row, offset_of!(DestinationRow, address), offset_of!(DestinationRow, port))?;
    if address.ip().is_unspecified() {
        return Some(None);
    }
    let forward = match number(offset_of!(DestinationRow, method))? & FORWARD_MASK {
        MASQUERADE => Forward::Masquerade,
        LOCAL => Forward::Local,
        DIRECT => Forward::Direct,
        // A tunnel's type is not told.
        _ => return None,
    };
    Some(Some(DestinationEntry {
        destination: Destination {
            address,
            forward,
            weight: number(offset_of!(DestinationRow, weight))?,
            upper_threshold: number(offset_of!(DestinationRow, upper_threshold))?,
            lower_threshold: number(offset_of!(DestinationRow, lower_threshold))?,
        },
        active: number(offset_of!(DestinationRow, active))?,
        inactive: number(offset_of!(DestinationRow, inactive))?,
        persistent: number(offset_of!(DestinationRow, persistent))?,
        stats: None,
    }))
}

fn read_address(row: &[u8], address: usize, port: usize) -> Option<SocketAddr> {
    let ip: [u8; 4] = *row.get(address..)?.first_chunk()?;
    let port: [u8; 2] = *row.get(port..)?.first_chunk()?;
    Some(SocketAddr::new(Ipv4Addr::from(ip).into(), u16::from_be_bytes(port)))
}

#[inline]
fn read_u16(octets: &[u8], offset: usize) -> Option<u16> {
    octets.get(offset..)?.first_chunk().map(|octets| u16::from_ne_bytes(*octets))
}

#[inline]
fn read_u32(octets: &[u8], offset: usize) -> Option<u32> {
    octets.get(offset..)?.first_chunk().map(|octets| u32::from_ne_bytes(*octets))
}

fn put(octets: &mut [u8], offset: usize, value: &[u8]) {
    octets[offset..offset + value.len()].copy_from_slice(value);
}

fn put_u32(octets: &mut [u8], offset: usize, value: u32) {
    put(octets, offset, &value.to_ne_bytes());
}

/// See the crate's `fuzzing`.
#[cfg(any(fuzzing, test))]
pub(super) fn read(octets: &[u8]) {
    let _ = rows(octets, size_of::<Services>(), size_of::<ServiceRow>(), read_service);
    let _ = rows(octets, size_of::<Destinations>(), size_of::<DestinationRow>(), read_destination);
}
