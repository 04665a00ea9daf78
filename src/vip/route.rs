//! Addresses over rtnetlink, see rtnetlink(7).

use std::collections::BTreeMap;
use std::net::IpAddr;

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};
use netlink_packet_route::address::{
    AddressAttribute, AddressFlags, AddressMessage, AddressProtocol, AddressScope, CacheInfo,
};
use netlink_packet_route::route::{RouteAttribute, RouteMessage, RouteType};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use rustix::io::Errno;

use super::{AssignedAddress, MARK, Scope, Spot};
use crate::error::{Cause, Error, Result};
use crate::netlink::{Failure, Link, RouteClient, is};
use crate::netns::Netns;

/// The addresses of one network namespace.
#[derive(Debug)]
pub(super) struct RouteSocket {
    pub(super) client: RouteClient,
    /// The addresses during a series of changes, as they were read before it and as the kernel has
    /// acknowledged its changes since.
    series: Option<BTreeMap<IpAddr, Vec<Entry>>>,
}

impl RouteSocket {
    pub(super) fn open(netns: Netns) -> Result<Self> {
        Ok(RouteSocket { client: RouteClient::open(netns)?, series: None })
    }

    pub(super) fn netns(&self) -> &Netns {
        self.client.netns()
    }

    /// Begins a series of changes: until it ends, addresses are not read again.
    pub(super) fn begin_series(&mut self) -> Result<()> {
        let mut known: BTreeMap<IpAddr, Vec<Entry>> = BTreeMap::new();
        for entry in self.addresses(None)? {
            known.entry(entry.local).or_default().push(entry);
        }
        self.series = Some(known);
        Ok(())
    }

    /// Ends a series.
    pub(super) fn end_series(&mut self) {
        self.series = None;
    }

    /// All addresses; with `vip`, at least those that are equal to it.
    pub(super) fn addresses(&mut self, vip: Option<IpAddr>) -> Result<Vec<Entry>> {
        if let Some(known) = &self.series {
            return Ok(match vip {
                Some(vip) => known.get(&vip).cloned().unwrap_or_default(),
                None => known.values().flatten().cloned().collect(),
            });
        }
        let mut question = AddressMessage::default();
        question.header.family = vip.map_or(AddressFamily::Unspec, family);
        let entries = self.client.list(&RouteNetlinkMessage::GetAddress(question), |message| match message {
            RouteNetlinkMessage::NewAddress(message) => Entry::of(&message),
            _ => None,
        });
        entries.map_err(|failure| explain(failure, "list", "addresses"))
    }

    /// Adds the address; one that is there already is no error. `replace` changes the lifetimes of
    /// one that is there.
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
        match self.client.request(RouteNetlinkMessage::NewAddress(message), flags) {
            Err(failure) if is(&failure, Errno::EXIST) => return Ok(()),
            result => result.map_err(|failure| explain(failure, "add address", spot))?,
        };
        if let Some(known) = &mut self.series {
            let entries = known.entry(spot.vip).or_default();
            entries.retain(|entry| !entry.is_at(spot, index));
            entries.push(Entry::added(spot, index));
        }
        Ok(())
    }

    /// Removes the address; one that is not there is no error.
    pub(super) fn delete(&mut self, spot: &Spot, index: u32) -> Result<()> {
        // No flags: NLM_F_EXCL would be NLM_F_BULK here.
        let message = address(spot, index);
        match self.client.request(RouteNetlinkMessage::DelAddress(message), 0) {
            Err(failure) if is(&failure, Errno::ADDRNOTAVAIL) => {}
            result => drop(result.map_err(|failure| explain(failure, "remove address", spot))?),
        }
        if let Some(entries) = self.series.as_mut().and_then(|known| known.get_mut(&spot.vip)) {
            entries.retain(|entry| !entry.is_at(spot, index));
        }
        Ok(())
    }

    /// Whether the kernel takes packets for the address because this interface holds it. See `ip
    /// route get VIP oif INTERFACE`.
    pub(super) fn has_local_route(&mut self, vip: IpAddr, index: u32) -> Result<bool> {
        let mut question = RouteMessage::default();
        question.header.address_family = family(vip);
        question.header.destination_prefix_length = super::host_prefix(vip);
        question.attributes = vec![RouteAttribute::Destination(vip.into()), RouteAttribute::Oif(index)];
        match self.client.request(RouteNetlinkMessage::GetRoute(question), 0) {
            Ok(answers) => Ok(answers.iter().any(|answer| {
                matches!(answer, RouteNetlinkMessage::NewRoute(route) if route.header.kind == RouteType::Local)
            })),
            // ENETUNREACH and the like: no route at all.
            Err(Failure::Refused { .. }) => Ok(false),
            Err(failure) => Err(explain(failure, "look up the route to", vip)),
        }
    }

    /// The number of the interface by which packets from `from` to `to` leave. `None`: there is no
    /// way, or `from` is not our own.
    pub(super) fn way(&mut self, to: IpAddr, from: IpAddr) -> Result<Option<u32>> {
        let mut question = RouteMessage::default();
        question.header.address_family = family(to);
        question.header.destination_prefix_length = super::host_prefix(to);
        question.header.source_prefix_length = super::host_prefix(from);
        question.attributes = vec![RouteAttribute::Destination(to.into()), RouteAttribute::Source(from.into())];
        match self.client.request(RouteNetlinkMessage::GetRoute(question), 0) {
            Ok(answers) => Ok(answers.iter().find_map(|answer| match answer {
                RouteNetlinkMessage::NewRoute(route) => route.attributes.iter().find_map(|attribute| match attribute {
                    RouteAttribute::Oif(index) => Some(*index),
                    _ => None,
                }),
                _ => None,
            })),
            // ENETUNREACH; EINVAL where `from` is no address of this node.
            Err(Failure::Refused { .. }) => Ok(None),
            Err(failure) => Err(explain(failure, "look up the route to", to)),
        }
    }

    pub(super) fn links(&mut self) -> Result<Vec<Link>> {
        self.client.links()
    }

    pub(super) fn link_of_name(&mut self, name: &str) -> Result<Link> {
        self.client.link_of_name(name)
    }

    /// `None`: the interface is gone.
    pub(super) fn link_of_index(&mut self, index: u32) -> Result<Option<Link>> {
        self.client.link_of_index(index)
    }
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

/// What adding and removing have in common: IFA_ADDRESS with the prefix makes a delete pass over
/// other prefixes.
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
    pub(super) prefix: u8,
    peer: Option<IpAddr>,
    scope: Scope,
    flags: AddressFlags,
    mark: Option<u8>,
}

impl Entry {
    /// An address as [`RouteSocket::add`] makes it.
    fn added(spot: &Spot, index: u32) -> Self {
        let deprecated = if spot.vip.is_ipv6() { AddressFlags::Deprecated } else { AddressFlags::empty() };
        Entry {
            local: spot.vip,
            index,
            peer: None,
            prefix: spot.prefix(),
            scope: spot.placement.scope(),
            flags: AddressFlags::Permanent | deprecated,
            mark: Some(MARK),
        }
    }

    fn is_at(&self, spot: &Spot, index: u32) -> bool {
        self.index == index && self.prefix == spot.prefix()
    }

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

    pub(super) fn on(self, interface: String) -> AssignedAddress {
        AssignedAddress {
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

#[cfg(test)]
mod tests {
    use super::*;
    use netlink_packet_core::Parseable;

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
}
