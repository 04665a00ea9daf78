//! `IPVS_SVC_ATTR_*`

use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::time::Duration;

use netlink_packet_core::DecodeError;

use super::{Attribute, SERVICE, address, attributes, family, needed, number, port, stats, text, u16, u32};
use crate::ipvs::{Family, Netmask, Persistence, Scheduler, Service, ServiceEntry, ServiceFlags, ServiceId, Stats};

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
pub(in crate::ipvs) fn encode_id(id: &ServiceId) -> Attribute {
    Attribute::nested(SERVICE, id_attributes(id))
}

fn id_attributes(id: &ServiceId) -> Vec<Attribute> {
    let listen = |protocol: u16, listen: &SocketAddr| {
        vec![
            Attribute::family(AF, Family::of(listen.ip())),
            Attribute::u16(PROTOCOL, protocol),
            Attribute::address(ADDRESS, listen.ip()),
            Attribute::port(PORT, listen.port()),
        ]
    };
    match id {
        ServiceId::Tcp(address) => listen(TCP, address),
        ServiceId::Udp(address) => listen(UDP, address),
        ServiceId::Sctp(address) => listen(SCTP, address),
        ServiceId::Fwmark { mark, family } => vec![Attribute::family(AF, *family), Attribute::u32(FWMARK, mark.get())],
    }
}

/// All that a service is set to. The kernel forgets what is left out.
pub(in crate::ipvs) fn encode(service: &Service) -> Attribute {
    let mut all = id_attributes(&service.id);
    let persistence = service.persistence.as_ref();
    let flags = service.flags.bits() | if persistence.is_some() { PERSISTENT } else { 0 };
    // struct ip_vs_flags: the flags, and which of them are to be set or cleared.
    let flags_and_mask = [flags.to_ne_bytes(), (!HASHED).to_ne_bytes()].concat();
    let netmask = persistence.map_or(Netmask::full(service.id.family()), |p| p.netmask);
    all.extend([
        Attribute::text(SCHEDULER, service.scheduler.name()),
        Attribute::octets(FLAGS, &flags_and_mask),
        Attribute::u32(TIMEOUT, persistence.map_or(0, |p| p.timeout.as_secs() as u32)),
        match netmask {
            Netmask::V4(mask) => Attribute::octets(NETMASK, &mask.octets()),
            Netmask::V6(prefix) => Attribute::u32(NETMASK, prefix.into()),
        },
    ]);
    all.extend(service.engine.as_deref().map(|engine| Attribute::text(ENGINE, engine)));
    Attribute::nested(SERVICE, all)
}

/// Reads a service. `None`: it has a protocol that no tool can give it.
pub(in crate::ipvs) fn decode(octets: &[u8]) -> Result<Option<ServiceEntry>, DecodeError> {
    let (mut af, mut protocol, mut addr, mut listen_port, mut mark) = (None, None, None, 0, None);
    let (mut scheduler, mut flags, mut timeout, mut mask, mut engine) = (None, 0, 0, None, None);
    let (mut stats32, mut stats64) = (None, None);
    for attribute in attributes(octets) {
        let attribute = attribute?;
        let value = attribute.value();
        match attribute.kind() {
            AF => af = Some(family(value)?),
            PROTOCOL => protocol = Some(u16(value)?),
            ADDRESS => addr = Some(value.to_vec()),
            PORT => listen_port = port(value)?,
            FWMARK => mark = NonZeroU32::new(u32(value)?),
            SCHEDULER => scheduler = Some(text(value)),
            FLAGS => flags = u32(value.get(..4).unwrap_or_default())?,
            TIMEOUT => timeout = number(value)?,
            NETMASK => mask = Some(value.to_vec()),
            STATS => stats32 = Some(stats::decode(value)?),
            STATS64 => stats64 = Some(stats::decode(value)?),
            ENGINE => engine = Some(text(value)),
            _ => {}
        }
    }
    let family = needed(af, "the address family")?;
    let id = match mark {
        Some(mark) => ServiceId::Fwmark { mark, family },
        None => {
            let listen = SocketAddr::new(address(family, &needed(addr, "the service's address")?)?, listen_port);
            match needed(protocol, "the protocol")? {
                TCP => ServiceId::Tcp(listen),
                UDP => ServiceId::Udp(listen),
                SCTP => ServiceId::Sctp(listen),
                _ => return Ok(None),
            }
        }
    };
    let scheduler = scheduler.filter(|name| !name.is_empty()).unwrap_or_else(|| "none".into());
    let scheduler = Scheduler::new(&scheduler).map_err(|e| DecodeError::from(e.to_string()))?;
    let persistence = match flags & PERSISTENT {
        0 => None,
        _ => Some(Persistence { timeout: Duration::from_secs(timeout), netmask: netmask(family, mask.as_deref())? }),
    };
    let flags = ServiceFlags::from_bits_retain(flags & !(PERSISTENT | HASHED));
    let stats = stats64.or(stats32).unwrap_or_else(Stats::default);
    Ok(Some(ServiceEntry { service: Service { id, scheduler, flags, persistence, engine }, stats }))
}

fn netmask(family: Family, octets: Option<&[u8]>) -> Result<Netmask, DecodeError> {
    let Some(octets) = octets else { return Ok(Netmask::full(family)) };
    match (family, octets.first_chunk::<4>()) {
        (Family::V4, Some(&mask)) => Ok(Netmask::V4(mask.into())),
        (Family::V6, Some(&prefix)) => {
            let prefix = u32::from_ne_bytes(prefix);
            Ok(Netmask::V6(
                u8::try_from(prefix)
                    .map_err(|_| DecodeError::from(format!("a prefix of {prefix} bits is not known")))?,
            ))
        }
        (_, None) => Err(DecodeError::from("the netmask is too short")),
    }
}
