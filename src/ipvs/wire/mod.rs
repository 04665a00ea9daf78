//! What IPVS says over generic netlink: its messages and attributes. Numbers and names are those
//! of linux/ip_vs.h.

pub(super) mod daemon;
pub(super) mod destination;
pub(super) mod service;
mod stats;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use netlink_packet_core::{
    DecodeError, Emitable, NLA_F_NESTED, Nla, NlaBuffer, NlasIterator, ParseableParametrized, parse_u16, parse_u16_be,
    parse_u32, parse_u64,
};
use netlink_packet_generic::{GenlFamily, GenlHeader};

use crate::ipvs::Family;

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

/// A message of the family: a request that is built, or an answer whose attributes are read one
/// level at a time.
#[derive(Debug, Clone)]
pub(super) struct Message {
    command: u8,
    pub(super) attributes: Vec<Attribute>,
}

impl Message {
    pub(super) fn new(command: Command, attributes: Vec<Attribute>) -> Self {
        Message { command: command as u8, attributes }
    }

    /// The content of the nested attribute of this kind.
    pub(super) fn nested(&self, kind: u16) -> Result<&[u8], DecodeError> {
        let found = self.attributes.iter().find(|attribute| attribute.kind == kind);
        needed(found.map(Attribute::raw), "the object that was asked for")
    }
}

impl GenlFamily for Message {
    fn family_name() -> &'static str {
        "IPVS"
    }
    fn command(&self) -> u8 {
        self.command
    }
    fn version(&self) -> u8 {
        1
    }
}

impl Emitable for Message {
    fn buffer_len(&self) -> usize {
        self.attributes.as_slice().buffer_len()
    }
    fn emit(&self, buffer: &mut [u8]) {
        self.attributes.as_slice().emit(buffer);
    }
}

impl ParseableParametrized<[u8], GenlHeader> for Message {
    fn parse_with_param(octets: &[u8], header: GenlHeader) -> Result<Self, DecodeError> {
        let attributes = NlasIterator::new(octets).map(|a| a.map(|a| Attribute::octets(a.kind(), a.value())));
        Ok(Message { command: header.cmd, attributes: attributes.collect::<Result<_, _>>()? })
    }
}

/// One attribute on its way to the kernel; of an answer, one that is not read yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Attribute {
    kind: u16,
    value: Value,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Value {
    U8(u8),
    U16(u16),
    U32(u32),
    Text(String),
    Octets(Vec<u8>),
    Nested(Vec<Attribute>),
}

impl Attribute {
    pub(super) fn kind(&self) -> u16 {
        self.kind
    }

    /// The content of an attribute that was received.
    pub(super) fn raw(&self) -> &[u8] {
        match &self.value {
            Value::Octets(octets) => octets,
            _ => &[],
        }
    }

    pub(super) fn u8(kind: u16, value: u8) -> Self {
        Attribute { kind, value: Value::U8(value) }
    }

    pub(super) fn u16(kind: u16, value: u16) -> Self {
        Attribute { kind, value: Value::U16(value) }
    }

    /// A port: the kernel takes these in network byte order.
    pub(super) fn port(kind: u16, port: u16) -> Self {
        Attribute { kind, value: Value::U16(port.to_be()) }
    }

    pub(super) fn u32(kind: u16, value: u32) -> Self {
        Attribute { kind, value: Value::U32(value) }
    }

    /// A text, sent with its NUL.
    pub(super) fn text(kind: u16, value: &str) -> Self {
        Attribute { kind, value: Value::Text(value.to_owned()) }
    }

    pub(super) fn octets(kind: u16, value: &[u8]) -> Self {
        Attribute { kind, value: Value::Octets(value.to_vec()) }
    }

    pub(super) fn address(kind: u16, address: IpAddr) -> Self {
        match address {
            IpAddr::V4(address) => Attribute::octets(kind, &address.octets()),
            IpAddr::V6(address) => Attribute::octets(kind, &address.octets()),
        }
    }

    pub(super) fn family(kind: u16, family: Family) -> Self {
        Attribute::u16(
            kind,
            match family {
                Family::V4 => AF_INET,
                Family::V6 => AF_INET6,
            },
        )
    }

    pub(super) fn nested(kind: u16, value: Vec<Attribute>) -> Self {
        Attribute { kind, value: Value::Nested(value) }
    }
}

impl Nla for Attribute {
    fn kind(&self) -> u16 {
        match self.value {
            Value::Nested(_) => self.kind | NLA_F_NESTED,
            _ => self.kind,
        }
    }

    fn value_len(&self) -> usize {
        match &self.value {
            Value::U8(_) => 1,
            Value::U16(_) => 2,
            Value::U32(_) => 4,
            Value::Text(text) => text.len() + 1,
            Value::Octets(octets) => octets.len(),
            Value::Nested(attributes) => attributes.as_slice().buffer_len(),
        }
    }

    fn emit_value(&self, buffer: &mut [u8]) {
        match &self.value {
            Value::U8(value) => buffer.fill(*value),
            Value::U16(value) => buffer.copy_from_slice(&value.to_ne_bytes()),
            Value::U32(value) => buffer.copy_from_slice(&value.to_ne_bytes()),
            Value::Text(text) => {
                buffer.fill(0);
                buffer[..text.len()].copy_from_slice(text.as_bytes());
            }
            Value::Octets(octets) => buffer.copy_from_slice(octets),
            Value::Nested(attributes) => attributes.as_slice().emit(buffer),
        }
    }
}

/// The attributes inside a nested one.
pub(super) fn attributes(octets: &[u8]) -> impl Iterator<Item = Result<NlaBuffer<&[u8]>, DecodeError>> {
    NlasIterator::new(octets)
}

pub(super) fn number(octets: &[u8]) -> Result<u64, DecodeError> {
    // The kernel has changed the size of some over time.
    match octets.len() {
        1 => Ok(octets[0].into()),
        2 => Ok(parse_u16(octets)?.into()),
        4 => Ok(parse_u32(octets)?.into()),
        _ => parse_u64(octets),
    }
}

pub(super) fn u16(octets: &[u8]) -> Result<u16, DecodeError> {
    parse_u16(octets)
}

pub(super) fn u32(octets: &[u8]) -> Result<u32, DecodeError> {
    parse_u32(octets)
}

pub(super) fn port(octets: &[u8]) -> Result<u16, DecodeError> {
    parse_u16_be(octets)
}

/// A text, up to its NUL. What is not UTF-8 is replaced: names that the kernel gives are ASCII.
pub(super) fn text(octets: &[u8]) -> String {
    let end = octets.iter().position(|&b| b == 0).unwrap_or(octets.len());
    String::from_utf8_lossy(&octets[..end]).into_owned()
}

pub(super) fn family(octets: &[u8]) -> Result<Family, DecodeError> {
    match parse_u16(octets)? {
        AF_INET => Ok(Family::V4),
        AF_INET6 => Ok(Family::V6),
        other => Err(DecodeError::from(format!("address family {other} is not known"))),
    }
}

/// An address: of IPv4 the first four octets count, however many were sent.
pub(super) fn address(family: Family, octets: &[u8]) -> Result<IpAddr, DecodeError> {
    let too_short = || DecodeError::from(format!("an address of {} octets is too short", octets.len()));
    match family {
        Family::V4 => octets.first_chunk::<4>().map(|&a| Ipv4Addr::from(a).into()).ok_or_else(too_short),
        Family::V6 => octets.first_chunk::<16>().map(|&a| Ipv6Addr::from(a).into()).ok_or_else(too_short),
    }
}

/// An attribute that an answer must have.
pub(super) fn needed<T>(value: Option<T>, name: &str) -> Result<T, DecodeError> {
    value.ok_or_else(|| DecodeError::from(format!("{name} is missing")))
}
