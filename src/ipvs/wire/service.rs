//! `IPVS_SVC_ATTR_*`

use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::time::Duration;

use super::{
    SERVICE, address, each, family, malformed, needed, number, port, push_address, push_family, push_port, push_text,
    push_u32, stats, text, u16, u32,
};
use crate::ipvs::{Family, Netmask, Persistence, Scheduler, Service, ServiceEntry, ServiceFlags, ServiceId, Stats};
use crate::netlink::{Failure, push_attribute, push_nested};

const AF: u16 = 1;
const PROTOCOL: u16 = 2;
const ADDRESS: u16 = 3;
const PORT: u16 = 4;
const FWMARK: u16 = 5;
const SCHEDULER: u16 = 6;
const FLAGS: u16 = 7;
const TIMEOUT: u16 = 8;
const NETMASK: u16 = 9;
const STATS: u16 = 10;
const ENGINE: u16 = 11;
const STATS64: u16 = 12;

const TCP: u16 = 6;
const UDP: u16 = 17;
const SCTP: u16 = 132;

const PERSISTENT: u32 = 0x1;
/// Set by the kernel on every service in its table.
const HASHED: u32 = 0x2;

/// What names a service, as every request about it begins.
pub(in crate::ipvs) fn push_id(octets: &mut Vec<u8>, id: &ServiceId) {
    push_nested(octets, SERVICE, |octets| push_name(octets, id));
}

fn push_name(octets: &mut Vec<u8>, id: &ServiceId) {
    let listen = |octets: &mut Vec<u8>, protocol: u16, listen: &SocketAddr| {
        push_family(octets, AF, Family::of(listen.ip()));
        push_attribute(octets, PROTOCOL, &protocol.to_ne_bytes());
        push_address(octets, ADDRESS, listen.ip());
        push_port(octets, PORT, listen.port());
    };
    match id {
        ServiceId::Tcp(address) => listen(octets, TCP, address),
        ServiceId::Udp(address) => listen(octets, UDP, address),
        ServiceId::Sctp(address) => listen(octets, SCTP, address),
        ServiceId::Fwmark { mark, family } => {
            push_family(octets, AF, *family);
            push_u32(octets, FWMARK, mark.get());
        }
    }
}

/// All that a service is set to. The kernel forgets what is left out.
pub(in crate::ipvs) fn push(octets: &mut Vec<u8>, service: &Service) {
    let persistence = service.persistence.as_ref();
    let flags = service.flags.bits() | if persistence.is_some() { PERSISTENT } else { 0 };
    push_nested(octets, SERVICE, |octets| {
        push_name(octets, &service.id);
        push_text(octets, SCHEDULER, service.scheduler.name());
        // struct ip_vs_flags: the flags, and which of them are to be set or cleared.
        let [[a, b, c, d], [e, f, g, h]] = [flags.to_ne_bytes(), (!HASHED).to_ne_bytes()];
        push_attribute(octets, FLAGS, &[a, b, c, d, e, f, g, h]);
        push_u32(octets, TIMEOUT, persistence.map_or(0, |p| p.timeout.as_secs() as u32));
        match persistence.map_or(Netmask::full(service.id.family()), |p| p.netmask) {
            Netmask::V4(mask) => push_attribute(octets, NETMASK, &mask.octets()),
            Netmask::V6(prefix) => push_u32(octets, NETMASK, prefix.into()),
        }
        if let Some(engine) = &service.engine {
            push_text(octets, ENGINE, engine);
        }
    });
}

/// Reads a service. `None`: it has a protocol that no tool can give it.
pub(in crate::ipvs) fn decode(octets: &[u8]) -> Result<Option<ServiceEntry>, Failure> {
    let (mut af, mut protocol, mut addr, mut listen_port, mut mark) = (None, None, None, 0, None);
    let (mut scheduler, mut flags, mut timeout, mut mask, mut engine) = (&[][..], 0, 0, None, None);
    let (mut stats32, mut stats64) = (None, None);
    each(octets, |kind, value| {
        match kind {
            AF => af = Some(family(value)?),
            PROTOCOL => protocol = Some(u16(value)?),
            ADDRESS => addr = Some(value),
            PORT => listen_port = port(value)?,
            FWMARK => mark = NonZeroU32::new(u32(value)?),
            SCHEDULER => scheduler = value,
            FLAGS => flags = u32(value.get(..4).unwrap_or_default())?,
            TIMEOUT => timeout = number(value)?,
            NETMASK => mask = Some(value),
            STATS => stats32 = Some(value),
            STATS64 => stats64 = Some(value),
            ENGINE => engine = Some(text(value)),
            _ => {}
        }
        Ok(())
    })?;
    let family = needed(af, "the address family")?;
    let id = match mark {
        Some(mark) => ServiceId::Fwmark { mark, family },
        None => {
            let listen = SocketAddr::new(address(family, needed(addr, "the service's address")?)?, listen_port);
            match needed(protocol, "the protocol")? {
                TCP => ServiceId::Tcp(listen),
                UDP => ServiceId::Udp(listen),
                SCTP => ServiceId::Sctp(listen),
                _ => return Ok(None),
            }
        }
    };
    let scheduler = Scheduler::listed(scheduler).map_err(|error| malformed(error.to_string()))?;
    let persistence = match flags & PERSISTENT {
        0 => None,
        _ => Some(Persistence { timeout: Duration::from_secs(timeout), netmask: netmask(family, mask)? }),
    };
    let flags = ServiceFlags::from_bits_retain(flags & !(PERSISTENT | HASHED));
    let service = Service { id, scheduler, flags, persistence, engine };
    Ok(Some(ServiceEntry { service, stats: stats64.or(stats32).map_or(Ok(Stats::default()), stats::decode)? }))
}

fn netmask(family: Family, octets: Option<&[u8]>) -> Result<Netmask, Failure> {
    let Some(octets) = octets else { return Ok(Netmask::full(family)) };
    match (family, octets.first_chunk::<4>()) {
        (Family::V4, Some(&mask)) => Ok(Netmask::V4(mask.into())),
        (Family::V6, Some(&prefix)) => {
            let prefix = u32::from_ne_bytes(prefix);
            Ok(Netmask::V6(
                u8::try_from(prefix).map_err(|_| malformed(format!("a prefix of {prefix} bits is not known")))?,
            ))
        }
        (_, None) => Err(malformed("the netmask is too short")),
    }
}
