//! `IPVS_DEST_ATTR_*`

use std::net::SocketAddr;

use super::{
    DESTINATION, address, each, family, needed, port, push_address, push_family, push_port, push_u32, stats, u16, u32,
};
use crate::ipvs::{Destination, DestinationEntry, Detail, Family, Forward, Stats, Tunnel, TunnelChecksum};
use crate::netlink::{Failure, push_attribute, push_nested};

const ADDRESS: u16 = 1;
const PORT: u16 = 2;
const FORWARD: u16 = 3;
const WEIGHT: u16 = 4;
const UPPER_THRESHOLD: u16 = 5;
const LOWER_THRESHOLD: u16 = 6;
const ACTIVE: u16 = 7;
const INACTIVE: u16 = 8;
const PERSISTENT: u16 = 9;
const STATS: u16 = 10;
const FAMILY: u16 = 11;
const STATS64: u16 = 12;
const TUNNEL_TYPE: u16 = 13;
const TUNNEL_PORT: u16 = 14;
const TUNNEL_FLAGS: u16 = 15;

// IP_VS_CONN_F_*: the forwarding method is in the lowest three bits.
pub(in crate::ipvs) const FORWARD_MASK: u32 = 7;
pub(in crate::ipvs) const MASQUERADE: u32 = 0;
pub(in crate::ipvs) const LOCAL: u32 = 1;
const TUNNEL: u32 = 2;
pub(in crate::ipvs) const DIRECT: u32 = 3;

const IPIP: u8 = 0;
const GUE: u8 = 1;
const GRE: u8 = 2;

const CHECKSUM: u16 = 1;
const REMOTE_CHECKSUM: u16 = 2;

/// What names a destination among those of its service.
pub(in crate::ipvs) fn push_address_of(octets: &mut Vec<u8>, address: SocketAddr) {
    push_nested(octets, DESTINATION, |octets| push_name(octets, address));
}

fn push_name(octets: &mut Vec<u8>, address: SocketAddr) {
    push_family(octets, FAMILY, Family::of(address.ip()));
    push_address(octets, ADDRESS, address.ip());
    push_port(octets, PORT, address.port());
}

/// All that a destination is set to. The kernel forgets what is left out.
pub(in crate::ipvs) fn push(octets: &mut Vec<u8>, destination: &Destination) {
    let (method, tunnel) = match destination.forward {
        Forward::Masquerade => (MASQUERADE, None),
        Forward::Local => (LOCAL, None),
        Forward::Tunnel(tunnel) => (TUNNEL, Some(tunnel)),
        Forward::Direct => (DIRECT, None),
        Forward::Other(method) => (method, None),
    };
    push_nested(octets, DESTINATION, |octets| {
        push_name(octets, destination.address);
        push_u32(octets, FORWARD, method);
        push_u32(octets, WEIGHT, destination.weight);
        push_u32(octets, UPPER_THRESHOLD, destination.upper_threshold);
        push_u32(octets, LOWER_THRESHOLD, destination.lower_threshold);
        if let Some(tunnel) = tunnel {
            push_tunnel(octets, tunnel);
        }
    });
}

fn push_tunnel(octets: &mut Vec<u8>, tunnel: Tunnel) {
    let (kind, port, checksum) = match tunnel {
        Tunnel::Ipip => (IPIP, 0, TunnelChecksum::None),
        Tunnel::Gue { port, checksum } => (GUE, port, checksum),
        Tunnel::Gre { checksum } => (GRE, 0, checksum),
        Tunnel::Other(kind) => (kind, 0, TunnelChecksum::None),
    };
    let flags = match checksum {
        TunnelChecksum::None => 0,
        TunnelChecksum::Full => CHECKSUM,
        TunnelChecksum::Remote => REMOTE_CHECKSUM,
    };
    push_attribute(octets, TUNNEL_TYPE, &[kind]);
    push_port(octets, TUNNEL_PORT, port);
    push_attribute(octets, TUNNEL_FLAGS, &flags.to_ne_bytes());
}

/// Reads a destination; `service` is its service's family, which it has where none is said
/// (kernels before 3.18).
pub(in crate::ipvs) fn decode(octets: &[u8], service: Family, detail: Detail) -> Result<DestinationEntry, Failure> {
    let (mut af, mut addr, mut server_port, mut method, mut weight) = (service, None, 0, None, 0);
    let (mut upper, mut lower, mut active, mut inactive, mut persistent) = (0, 0, 0, 0, 0);
    let (mut kind, mut tunnel_port, mut flags) = (IPIP, 0, 0);
    let (mut stats32, mut stats64) = (None, None);
    each(octets, |attribute, value| {
        match attribute {
            FAMILY => af = family(value)?,
            ADDRESS => addr = Some(value),
            PORT => server_port = port(value)?,
            FORWARD => method = Some(u32(value)?),
            WEIGHT => weight = u32(value)?,
            UPPER_THRESHOLD => upper = u32(value)?,
            LOWER_THRESHOLD => lower = u32(value)?,
            ACTIVE => active = u32(value)?,
            INACTIVE => inactive = u32(value)?,
            PERSISTENT => persistent = u32(value)?,
            STATS => stats32 = Some(value),
            STATS64 => stats64 = Some(value),
            TUNNEL_TYPE => kind = *value.first().unwrap_or(&IPIP),
            TUNNEL_PORT => tunnel_port = port(value)?,
            TUNNEL_FLAGS => flags = u16(value)?,
            _ => {}
        }
        Ok(())
    })?;
    let address = SocketAddr::new(address(af, needed(addr, "the destination's address")?)?, server_port);
    let checksum = match flags {
        _ if flags & REMOTE_CHECKSUM != 0 => TunnelChecksum::Remote,
        _ if flags & CHECKSUM != 0 => TunnelChecksum::Full,
        _ => TunnelChecksum::None,
    };
    let forward = match needed(method, "the forwarding method")? & FORWARD_MASK {
        MASQUERADE => Forward::Masquerade,
        LOCAL => Forward::Local,
        DIRECT => Forward::Direct,
        TUNNEL => Forward::Tunnel(match kind {
            IPIP => Tunnel::Ipip,
            GUE => Tunnel::Gue { port: tunnel_port, checksum },
            GRE => Tunnel::Gre { checksum },
            other => Tunnel::Other(other),
        }),
        other => Forward::Other(other),
    };
    Ok(DestinationEntry {
        destination: Destination { address, forward, weight, upper_threshold: upper, lower_threshold: lower },
        active,
        inactive,
        persistent,
        stats: match detail {
            Detail::Configuration => None,
            Detail::Counters => Some(stats64.or(stats32).map_or(Ok(Stats::default()), stats::decode)?),
        },
    })
}
