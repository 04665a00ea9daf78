//! Addresses and links over rtnetlink, see rtnetlink(7).

use std::net::IpAddr;

use netlink_packet_core::{
    DecodeError, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE, NetlinkDeserializable, NetlinkHeader, NetlinkSerializable,
    NlasIterator, parse_string,
};
use netlink_packet_route::address::{
    AddressAttribute, AddressFlags, AddressMessage, AddressProtocol, AddressScope, CacheInfo,
};
use netlink_packet_route::route::{RouteAttribute, RouteMessage, RouteType};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use rustix::io::Errno;

use super::{Located, MARK, Scope, Spot};
use crate::error::{Cause, Error, Result};
use crate::netlink::{Failure, Socket, TIME_LIMIT};
use crate::netns::Netns;

/// How often a list is read that changes while it is read.
const READS: usize = 10;

/// An rtnetlink client of one network namespace. After a failure of its socket it opens a new one.
#[derive(Debug)]
pub(super) struct RouteSocket {
    netns: Netns,
    open: Option<Socket>,
}

impl RouteSocket {
    pub(super) fn open(netns: Netns) -> Result<Self> {
        let mut route = RouteSocket { netns, open: None };
        route.exchange(|_| Ok(())).map_err(|failure| explain(failure, "open", "an rtnetlink socket"))?;
        Ok(route)
    }

    pub(super) fn netns(&self) -> &Netns {
        &self.netns
    }

    /// All addresses; with `vip`, at least those that are equal to it.
    pub(super) fn addresses(&mut self, vip: Option<IpAddr>) -> Result<Vec<Entry>> {
        let mut question = AddressMessage::default();
        question.header.family = vip.map_or(AddressFamily::Unspec, family);
        for _ in 0..READS {
            let mut entries = Vec::new();
            let whole = self.exchange(|socket| {
                socket.dump(RouteNetlinkMessage::GetAddress(question.clone()), |message| {
                    if let RouteNetlinkMessage::NewAddress(message) = message {
                        entries.extend(Entry::of(&message));
                    }
                    Ok(())
                })
            });
            if whole.map_err(|failure| explain(failure, "list", "addresses"))? {
                return Ok(entries);
            }
        }
        let busy = std::io::Error::other(format!("the list changed each of the {READS} times that it was read"));
        Err(Error::system("list", "addresses", busy))
    }

    /// Adds the address; one that is there already is no error. `replace` changes the lifetimes of one that is there.
    pub(super) fn add(&mut self, spot: &Spot, index: u32, replace: bool) -> Result<()> {
        let mut message = address(spot, index);
        message.header.scope = wire_scope(spot.placement.scope());
        message.attributes.push(AddressAttribute::Protocol(AddressProtocol::Other(MARK)));
        if spot.vip.is_ipv6() {
            let mut lifetimes = CacheInfo::default();
            (lifetimes.ifa_preferred, lifetimes.ifa_valid) = (0, u32::MAX);
            message.attributes.push(AddressAttribute::CacheInfo(lifetimes));
            message.attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
        }
        let flags = NLM_F_CREATE | if replace { NLM_F_REPLACE } else { NLM_F_EXCL };
        match self.exchange(|socket| socket.request(RouteNetlinkMessage::NewAddress(message.clone()), flags)) {
            Err(failure) if is(&failure, Errno::EXIST) => Ok(()),
            result => result.map(|_| ()).map_err(|failure| explain(failure, "add address", spot)),
        }
    }

    /// Removes the address; one that is not there is no error.
    pub(super) fn delete(&mut self, spot: &Spot, index: u32) -> Result<()> {
        // No flags: NLM_F_EXCL would be NLM_F_BULK here.
        let message = address(spot, index);
        match self.exchange(|socket| socket.request(RouteNetlinkMessage::DelAddress(message.clone()), 0)) {
            Err(failure) if is(&failure, Errno::ADDRNOTAVAIL) => Ok(()),
            result => result.map(|_| ()).map_err(|failure| explain(failure, "remove address", spot)),
        }
    }

    /// Whether the kernel takes packets for the address because this interface holds it. See `ip route get VIP oif INTERFACE`.
    pub(super) fn has_local_route(&mut self, vip: IpAddr, index: u32) -> Result<bool> {
        let mut question = RouteMessage::default();
        question.header.address_family = family(vip);
        question.header.destination_prefix_length = super::host_prefix(vip);
        question.attributes = vec![RouteAttribute::Destination(vip.into()), RouteAttribute::Oif(index)];
        match self.exchange(|socket| socket.request(RouteNetlinkMessage::GetRoute(question.clone()), 0)) {
            Ok(answers) => Ok(answers.iter().any(|answer| {
                matches!(answer, RouteNetlinkMessage::NewRoute(route) if route.header.kind == RouteType::Local)
            })),
            // ENETUNREACH and the like: no route at all.
            Err(Failure::Refused { .. }) => Ok(false),
            Err(failure) => Err(explain(failure, "look up the route to", vip)),
        }
    }

    /// The number of the interface by which packets from `from` to `to` leave. `None`: there is no way, or `from` is not our own.
    pub(super) fn way(&mut self, to: IpAddr, from: IpAddr) -> Result<Option<u32>> {
        let mut question = RouteMessage::default();
        question.header.address_family = family(to);
        question.header.destination_prefix_length = super::host_prefix(to);
        question.header.source_prefix_length = super::host_prefix(from);
        question.attributes = vec![RouteAttribute::Destination(to.into()), RouteAttribute::Source(from.into())];
        match self.exchange(|socket| socket.request(RouteNetlinkMessage::GetRoute(question.clone()), 0)) {
            Ok(answers) => Ok(answers.iter().find_map(|answer| match answer {
                RouteNetlinkMessage::NewRoute(route) => route.attributes.iter().find_map(|attribute| match attribute {
                    RouteAttribute::Oif(index) => Some(*index),
                    _ => None,
                }),
                _ => None,
            })),
            // ENETUNREACH; EINVAL where `from` is nobody's.
            Err(Failure::Refused { .. }) => Ok(None),
            Err(failure) => Err(explain(failure, "look up the route to", to)),
        }
    }

    pub(super) fn link_of_name(&mut self, name: &str) -> Result<Link> {
        self.link(LinkMessage::ByName(name.into())).map_err(|failure| explain(failure, "find interface", name))
    }

    /// `None`: the interface is gone.
    pub(super) fn link_of_index(&mut self, index: u32) -> Result<Option<Link>> {
        match self.link(LinkMessage::ByIndex(index)) {
            Err(failure) if is(&failure, Errno::NODEV) => Ok(None),
            result => result.map(Some).map_err(|failure| explain(failure, "find interface number", index)),
        }
    }

    fn link(&mut self, question: LinkMessage) -> Result<Link, Failure> {
        let answers = self.exchange(|socket| socket.request(question.clone(), 0))?;
        let link = answers.into_iter().find_map(|answer| match answer {
            LinkMessage::Found(link) => Some(link),
            _ => None,
        });
        link.ok_or_else(|| Failure::Malformed("it holds no interface".into()))
    }

    fn exchange<R>(&mut self, attempt: impl FnOnce(&mut Socket) -> Result<R, Failure>) -> Result<R, Failure> {
        let socket = match self.open.take() {
            Some(socket) => socket,
            None => {
                let socket = self.netns.run(|| Socket::route(TIME_LIMIT));
                socket.map_err(|e| Failure::Socket(std::io::Error::other(e)))?.map_err(Failure::Socket)?
            }
        };
        let result = attempt(self.open.insert(socket));
        if let Err(Failure::Socket(_) | Failure::NoAnswer(_) | Failure::Malformed(_)) = result {
            self.open = None;
        }
        result
    }
}

fn is(failure: &Failure, errno: Errno) -> bool {
    failure.errno() == Some(errno.raw_os_error())
}

fn explain(failure: Failure, operation: &'static str, object: impl std::fmt::Display) -> Error {
    failure.explain(operation, object, |errno| match Errno::from_raw_os_error(errno) {
        Errno::PERM => Cause::Permission,
        Errno::NODEV => Cause::NoInterface,
        // IPv6 switched off: on the interface, or in the kernel.
        Errno::ACCESS | Errno::OPNOTSUPP | Errno::AFNOSUPPORT => Cause::NoFamily,
        Errno::NOBUFS | Errno::NOMEM => Cause::NoMemory,
        Errno::INVAL => Cause::Invalid,
        _ => Cause::Other,
    })
}

/// What adding and removing have in common: IFA_ADDRESS with the prefix makes a delete pass over other prefixes.
fn address(spot: &Spot, index: u32) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.family = family(spot.vip);
    message.header.prefix_len = spot.prefix();
    message.header.index = index;
    message.attributes = vec![AddressAttribute::Local(spot.vip), AddressAttribute::Address(spot.vip)];
    message
}

fn family(address: IpAddr) -> AddressFamily {
    match address {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    }
}

fn wire_scope(scope: Scope) -> AddressScope {
    match scope {
        Scope::Global => AddressScope::Universe,
        Scope::Site => AddressScope::Site,
        Scope::Link => AddressScope::Link,
        Scope::Host => AddressScope::Host,
        Scope::Nowhere => AddressScope::Nowhere,
        Scope::Other(number) => AddressScope::Other(number),
    }
}

fn scope(scope: AddressScope) -> Scope {
    match scope {
        AddressScope::Universe => Scope::Global,
        AddressScope::Site => Scope::Site,
        AddressScope::Link => Scope::Link,
        AddressScope::Host => Scope::Host,
        AddressScope::Nowhere => Scope::Nowhere,
        other => Scope::Other(other.into()),
    }
}

/// One address of the kernel's list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) local: IpAddr,
    pub(super) index: u32,
    peer: Option<IpAddr>,
    prefix: u8,
    scope: Scope,
    flags: AddressFlags,
    mark: Option<u8>,
}

impl Entry {
    fn of(message: &AddressMessage) -> Option<Self> {
        let (mut local, mut other, mut mark) = (None, None, None);
        // The attribute holds all flags, the header the first eight.
        let mut flags = AddressFlags::from_bits_retain(message.header.flags.bits().into());
        for attribute in &message.attributes {
            match attribute {
                AddressAttribute::Local(found) => local = Some(*found),
                AddressAttribute::Address(found) => other = Some(*found),
                AddressAttribute::Flags(found) => flags = *found,
                AddressAttribute::Protocol(found) => mark = Some(u8::from(*found)),
                _ => {}
            }
        }
        // Without a peer, IPv4 has its address in both, IPv6 in IFA_ADDRESS only.
        let local = local.or(other)?;
        Some(Entry {
            local,
            index: message.header.index,
            peer: other.filter(|&other| other != local),
            prefix: message.header.prefix_len,
            scope: scope(message.header.scope),
            flags,
            mark: mark.filter(|&mark| mark != 0),
        })
    }

    pub(super) fn on(self, interface: String) -> Located {
        Located {
            address: self.local,
            prefix: self.prefix,
            peer: self.peer,
            interface,
            index: self.index,
            scope: self.scope,
            permanent: self.flags.contains(AddressFlags::Permanent),
            deprecated: self.flags.contains(AddressFlags::Deprecated),
            tentative: self.flags.contains(AddressFlags::Tentative),
            dad_failed: self.flags.contains(AddressFlags::Dadfailed),
            mark: self.mark,
        }
    }
}

/// A network interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Link {
    pub(super) name: String,
    pub(super) index: u32,
    /// `ARPHRD_ETHER` and others, see linux/if_arp.h.
    pub(super) kind: u16,
    flags: u32,
    address: Vec<u8>,
}

impl Link {
    /// Whether there are others on the link, and they keep a neighbour (ARP) cache.
    pub(super) fn has_neighbours(&self) -> bool {
        self.flags & (libc::IFF_LOOPBACK | libc::IFF_POINTOPOINT | libc::IFF_NOARP) as u32 == 0
    }

    /// Whether it is switched on.
    pub(super) fn is_up(&self) -> bool {
        self.flags & libc::IFF_UP as u32 != 0
    }

    /// Whether it is up and has a carrier.
    pub(super) fn is_running(&self) -> bool {
        let needed = (libc::IFF_UP | libc::IFF_RUNNING) as u32;
        self.flags & needed == needed
    }

    pub(super) fn ethernet_address(&self) -> Option<[u8; 6]> {
        let mac = <[u8; 6]>::try_from(self.address.as_slice()).ok()?;
        (self.kind == libc::ARPHRD_ETHER).then_some(mac)
    }
}

/// The question for a link, and its answer. Not netlink-packet-route's own type: that reads all of the some sixty attributes, and
/// refuses the whole answer for one that it finds odd.
#[derive(Debug, Clone)]
enum LinkMessage {
    ByName(String),
    ByIndex(u32),
    Found(Link),
}

/// `struct ifinfomsg`: family, padding, type u16, index i32, flags u32, change u32, in host order.
const LINK_HEADER: usize = 16;

impl LinkMessage {
    /// The question's one attribute: the name, ended by a zero.
    fn attribute(&self) -> Vec<u8> {
        let LinkMessage::ByName(name) = self else { return Vec::new() };
        let length = 4 + name.len() as u16 + 1;
        let mut octets = [length.to_ne_bytes(), libc::IFLA_IFNAME.to_ne_bytes()].concat();
        octets.extend(name.as_bytes());
        octets.resize(usize::from(length).next_multiple_of(4), 0);
        octets
    }
}

impl NetlinkSerializable for LinkMessage {
    fn message_type(&self) -> u16 {
        libc::RTM_GETLINK
    }

    fn buffer_len(&self) -> usize {
        LINK_HEADER + self.attribute().len()
    }

    fn serialize(&self, buffer: &mut [u8]) {
        let (header, attributes) = buffer.split_at_mut(LINK_HEADER);
        header.fill(0);
        if let LinkMessage::ByIndex(index) = self {
            header[4..8].copy_from_slice(&index.to_ne_bytes());
        }
        attributes.copy_from_slice(&self.attribute());
    }
}

impl NetlinkDeserializable for LinkMessage {
    type Error = DecodeError;

    fn deserialize(_: &NetlinkHeader, payload: &[u8]) -> Result<Self, DecodeError> {
        let Some((&[_, _, k0, k1, i0, i1, i2, i3, f0, f1, f2, f3, ..], attributes)) =
            payload.split_first_chunk::<LINK_HEADER>()
        else {
            return Err(DecodeError::buffer_too_small(payload.len(), LINK_HEADER));
        };
        let mut link = Link {
            name: String::new(),
            index: u32::from_ne_bytes([i0, i1, i2, i3]),
            kind: u16::from_ne_bytes([k0, k1]),
            flags: u32::from_ne_bytes([f0, f1, f2, f3]),
            address: Vec::new(),
        };
        for attribute in NlasIterator::new(attributes) {
            let attribute = attribute?;
            match attribute.kind() {
                libc::IFLA_IFNAME => link.name = parse_string(attribute.value())?,
                libc::IFLA_ADDRESS => link.address = attribute.value().to_vec(),
                _ => {}
            }
        }
        if link.name.is_empty() {
            return Err(DecodeError::from("an interface without a name"));
        }
        Ok(LinkMessage::Found(link))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use netlink_packet_core::Parseable;

    fn serialized(message: &LinkMessage) -> Vec<u8> {
        let mut octets = vec![0xff; message.buffer_len()];
        message.serialize(&mut octets);
        octets
    }

    #[test]
    #[cfg(target_endian = "little")]
    fn questions_for_a_link() {
        let header = [0; 16];
        let by_name = [&header[..], &[9, 0, 3, 0], b"eth0\0\0\0\0"].concat();
        assert_eq!(serialized(&LinkMessage::ByName("eth0".into())), by_name);
        let by_index = [&[0; 4][..], &[7, 1, 0, 0], &[0; 8]].concat();
        assert_eq!(serialized(&LinkMessage::ByIndex(0x107)), by_index);
    }

    #[test]
    #[cfg(target_endian = "little")]
    fn a_link_is_read() {
        // eth0 of a Linux 6.1, with one attribute (IFLA_TXQLEN) that is passed over.
        let octets = [
            &[0, 0, 1, 0, 2, 0, 0, 0, 0x43, 0x10, 1, 0, 0, 0, 0, 0][..],
            &[9, 0, 3, 0, b'e', b't', b'h', b'0', 0, 0, 0, 0],
            &[8, 0, 13, 0, 0xe8, 3, 0, 0],
            &[10, 0, 1, 0, 2, 0, 0, 0, 0, 1, 0, 0],
        ]
        .concat();
        let Ok(LinkMessage::Found(link)) = LinkMessage::deserialize(&NetlinkHeader::default(), &octets) else {
            panic!("not read");
        };
        assert_eq!((link.name.as_str(), link.index, link.kind), ("eth0", 2, libc::ARPHRD_ETHER));
        assert!(link.has_neighbours() && link.is_running());
        assert_eq!(link.ethernet_address(), Some([2, 0, 0, 0, 0, 1]));
        for cut in 0..octets.len() {
            let _ = LinkMessage::deserialize(&NetlinkHeader::default(), &octets[..cut]);
        }
    }

    #[test]
    #[cfg(target_endian = "little")]
    fn addresses_are_read() {
        // 192.0.2.1/32, scope host, permanent, on interface 1, marked.
        let octets = [
            &[2, 32, 0x80, 254, 1, 0, 0, 0][..],
            &[8, 0, 1, 0, 192, 0, 2, 1],
            &[8, 0, 2, 0, 192, 0, 2, 1],
            &[5, 0, 11, 0, MARK, 0, 0, 0],
            &[8, 0, 8, 0, 0x80, 0, 0, 0],
        ]
        .concat();
        let found = Entry::of(&AddressMessage::parse(&octets).unwrap()).unwrap().on("lo".into());
        assert!(found.fits(&super::super::Placement::Loopback), "{found:?}");
        assert_eq!((found.mark, found.peer, found.is_foreign()), (Some(MARK), None, false));

        // The same with a peer, which stands in IFA_ADDRESS.
        let mut message = AddressMessage::parse(&octets).unwrap();
        message.attributes[0] = AddressAttribute::Address("192.0.2.2".parse().unwrap());
        let found = Entry::of(&message).unwrap().on("lo".into());
        assert_eq!(found.peer, "192.0.2.2".parse().ok());
        assert!(found.is_foreign());

        // IPv6 has IFA_ADDRESS only; an entry without any address is passed over.
        let address = "2001:db8::1".parse().unwrap();
        message.attributes = vec![AddressAttribute::Address(address)];
        assert_eq!(Entry::of(&message).map(|entry| (entry.local, entry.peer)), Some((address, None)));
        message.attributes.clear();
        assert_eq!(Entry::of(&message), None);
    }

    #[test]
    fn interfaces_are_found() {
        let mut route = RouteSocket::open(Netns::current().unwrap()).unwrap();
        let lo = route.link_of_name("lo").unwrap();
        assert!(!lo.has_neighbours());
        assert_eq!(route.link_of_index(lo.index).unwrap(), Some(lo));
        assert_eq!(route.link_of_name("no-such-one").unwrap_err().cause(), Some(Cause::NoInterface));
        assert_eq!(route.link_of_index(u32::MAX / 2).unwrap(), None);
    }
}
