//! What IPVS says over generic netlink: its messages and attributes. Numbers and names are those
//! of linux/ip_vs.h.

pub(super) mod daemon;
pub(super) mod destination;
pub(super) mod service;
mod stats;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::ipvs::Family;
use crate::netlink::{Failure, GenericFamily, push_attribute, split_attribute};

/// `IPVS_GENL_NAME`, `IPVS_GENL_VERSION`
pub(super) const IPVS: GenericFamily = GenericFamily { name: "IPVS", version: 1 };

/// `IPVS_CMD_*`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Command {
    NewService = 1,
    SetService = 2,
    DelService = 3,
    GetService = 4,
    NewDestination = 5,
    SetDestination = 6,
    DelDestination = 7,
    GetDestination = 8,
    NewDaemon = 9,
    DelDaemon = 10,
    GetDaemon = 11,
    SetConfig = 12,
    GetConfig = 13,
    GetInfo = 15,
    Zero = 16,
    Flush = 17,
}

/// `IPVS_CMD_ATTR_*`
pub(super) const SERVICE: u16 = 1;
pub(super) const DESTINATION: u16 = 2;
pub(super) const DAEMON: u16 = 3;
pub(super) const TIMEOUT_TCP: u16 = 4;
pub(super) const TIMEOUT_TCP_FIN: u16 = 5;
pub(super) const TIMEOUT_UDP: u16 = 6;

/// `IPVS_INFO_ATTR_*`, in the answer to [`Command::GetInfo`]
pub(super) const INFO_VERSION: u16 = 1;
pub(super) const INFO_CONNECTION_TABLE_SIZE: u16 = 2;

const AF_INET: u16 = 2;
const AF_INET6: u16 = 10;

/// Shows each attribute, type and value.
///
/// # Errors
/// [`Failure::Malformed`]; and what `see` returns.
#[inline]
pub(super) fn each<'a>(
    octets: &'a [u8],
    mut see: impl FnMut(u16, &'a [u8]) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let mut octets = octets;
    while !octets.is_empty() {
        let (kind, value, rest) = split_attribute(octets).ok_or_else(|| malformed("an attribute is cut short"))?;
        octets = rest;
        see(kind, value)?;
    }
    Ok(())
}

/// The value of the first attribute of this type: of the object that was asked for.
pub(super) fn object(octets: &[u8], wanted: u16) -> Result<&[u8], Failure> {
    let mut found = None;
    each(octets, |kind, value| {
        found = found.or((kind == wanted).then_some(value));
        Ok(())
    })?;
    needed(found, "the object that was asked for")
}

pub(super) fn malformed(reason: impl Into<String>) -> Failure {
    Failure::Malformed(reason.into())
}

/// A port: the kernel takes these in network byte order.
pub(super) fn push_port(octets: &mut Vec<u8>, kind: u16, port: u16) {
    push_attribute(octets, kind, &port.to_be_bytes());
}

pub(super) fn push_u32(octets: &mut Vec<u8>, kind: u16, value: u32) {
    push_attribute(octets, kind, &value.to_ne_bytes());
}

/// A text, sent with its NUL.
pub(super) fn push_text(octets: &mut Vec<u8>, kind: u16, value: &str) {
    push_attribute(octets, kind, &[value.as_bytes(), &[0]].concat());
}

pub(super) fn push_address(octets: &mut Vec<u8>, kind: u16, address: IpAddr) {
    match address {
        IpAddr::V4(address) => push_attribute(octets, kind, &address.octets()),
        IpAddr::V6(address) => push_attribute(octets, kind, &address.octets()),
    }
}

pub(super) fn push_family(octets: &mut Vec<u8>, kind: u16, family: Family) {
    let number = match family {
        Family::V4 => AF_INET,
        Family::V6 => AF_INET6,
    };
    push_attribute(octets, kind, &number.to_ne_bytes());
}

fn of_size<const N: usize>(octets: &[u8]) -> Result<[u8; N], Failure> {
    octets.try_into().map_err(|_| malformed(format!("a number of {N} octets has {}", octets.len())))
}

/// A number of 1 to 8 octets: the kernel has changed the size of some over time.
#[inline]
pub(super) fn number(octets: &[u8]) -> Result<u64, Failure> {
    match octets.len() {
        8 => of_size(octets).map(u64::from_ne_bytes),
        4 => u32(octets).map(u64::from),
        2 => u16(octets).map(u64::from),
        _ => of_size::<1>(octets).map(|[octet]| octet.into()),
    }
}

#[inline]
pub(super) fn u16(octets: &[u8]) -> Result<u16, Failure> {
    of_size(octets).map(u16::from_ne_bytes)
}

#[inline]
pub(super) fn u32(octets: &[u8]) -> Result<u32, Failure> {
    of_size(octets).map(u32::from_ne_bytes)
}

#[inline]
pub(super) fn port(octets: &[u8]) -> Result<u16, Failure> {
    of_size(octets).map(u16::from_be_bytes)
}

/// A text, up to its NUL. What is not UTF-8 is replaced: names that the kernel gives are ASCII.
pub(super) fn text(octets: &[u8]) -> String {
    let end = octets.iter().position(|&b| b == 0).unwrap_or(octets.len());
    String::from_utf8_lossy(&octets[..end]).into_owned()
}

pub(super) fn family(octets: &[u8]) -> Result<Family, Failure> {
    match u16(octets)? {
        AF_INET => Ok(Family::V4),
        AF_INET6 => Ok(Family::V6),
        other => Err(malformed(format!("address family {other} is not known"))),
    }
}

/// An address: of IPv4 the first four octets count, however many were sent.
pub(super) fn address(family: Family, octets: &[u8]) -> Result<IpAddr, Failure> {
    let too_short = || malformed(format!("an address of {} octets is too short", octets.len()));
    match family {
        Family::V4 => octets.first_chunk::<4>().map(|&a| Ipv4Addr::from(a).into()).ok_or_else(too_short),
        Family::V6 => octets.first_chunk::<16>().map(|&a| Ipv6Addr::from(a).into()).ok_or_else(too_short),
    }
}

/// An attribute that an answer must have.
pub(super) fn needed<T>(value: Option<T>, name: &str) -> Result<T, Failure> {
    value.ok_or_else(|| malformed(format!("{name} is missing")))
}
