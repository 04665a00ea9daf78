//! Neighbours, and the MAC addresses of this node.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use netlink_packet_core::NLM_F_CREATE;

use super::client::Marks;
use super::explain;
use super::rule::Mac;
use crate::error::{Error, Result};
use crate::interface;
use crate::netlink::{Link, RouteMessage, attributes};

/// `struct ndmsg`: family u8, padding, ifindex i32, state u16, flags u8, type u8, in host order.
const HEADER: usize = 12;

/// A host on the link, as the kernel knows it (ARP and neighbour discovery), see ip-neighbour(8).
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Neighbour {
    /// Its address.
    pub address: IpAddr,
    /// Its MAC address, where the kernel knows one. One that is [`Stale`](NeighbourState::Stale)
    /// may be out of date; one that is [`Failed`](NeighbourState::Failed) has none.
    pub mac: Option<Mac>,
    /// The name of the interface to its link.
    pub interface: String,
    /// The interface's index.
    pub index: u32,
    /// What the kernel knows about reaching it.
    pub state: NeighbourState,
    /// It is an IPv6 router (`NTF_ROUTER`).
    pub router: bool,
}

/// `192.0.2.2 on eth0: 02:00:00:00:00:02 (reachable)`.
impl fmt::Display for Neighbour {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} on {}: ", self.address, self.interface)?;
        match self.mac {
            Some(mac) => write!(f, "{mac}")?,
            None => f.write_str("no MAC address")?,
        }
        write!(f, " ({}{})", self.state, if self.router { ", router" } else { "" })
    }
}

/// The state of a neighbour (`NUD_…` in linux/neighbour.h).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "snake_case"))]
pub enum NeighbourState {
    /// It answered a short while ago.
    Reachable,
    /// It answered earlier; the kernel asks again when it is used.
    Stale,
    /// As stale, used, and not yet asked again.
    Delay,
    /// As stale, and asked again without an answer so far.
    Probe,
    /// It is asked for the first time.
    Incomplete,
    /// It did not answer.
    Failed,
    /// An entry of the administrator's that does not expire.
    Permanent,
    /// An address that needs no resolution, such as a multicast address or one on a loopback
    /// interface.
    NoArp,
    /// Nothing is known yet, or a state that this crate does not know.
    None,
}

impl NeighbourState {
    fn of(state: u16) -> Self {
        match state {
            libc::NUD_REACHABLE => NeighbourState::Reachable,
            libc::NUD_STALE => NeighbourState::Stale,
            libc::NUD_DELAY => NeighbourState::Delay,
            libc::NUD_PROBE => NeighbourState::Probe,
            libc::NUD_INCOMPLETE => NeighbourState::Incomplete,
            libc::NUD_FAILED => NeighbourState::Failed,
            libc::NUD_PERMANENT => NeighbourState::Permanent,
            libc::NUD_NOARP => NeighbourState::NoArp,
            _ => NeighbourState::None,
        }
    }

    /// Whether the kernel would send to the MAC address that it knows (`NUD_VALID`).
    pub fn is_valid(self) -> bool {
        !matches!(self, NeighbourState::Incomplete | NeighbourState::Failed | NeighbourState::None)
    }
}

/// As ip-neighbour(8) prints it, in lower case.
impl fmt::Display for NeighbourState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            NeighbourState::Reachable => "reachable",
            NeighbourState::Stale => "stale",
            NeighbourState::Delay => "delay",
            NeighbourState::Probe => "probe",
            NeighbourState::Incomplete => "incomplete",
            NeighbourState::Failed => "failed",
            NeighbourState::Permanent => "permanent",
            NeighbourState::NoArp => "noarp",
            NeighbourState::None => "none",
        })
    }
}

impl Neighbour {
    /// Reads an `RTM_NEWNEIGH` or `RTM_DELNEIGH` message; the interface's name is left empty.
    /// `None`: it is something else (a bridge's forwarding entry, say), or malformed.
    pub(super) fn read(message: &RouteMessage) -> Option<Self> {
        if !matches!(message.kind(), libc::RTM_NEWNEIGH | libc::RTM_DELNEIGH) {
            return None;
        }
        let (&[family, _, _, _, i0, i1, i2, i3, s0, s1, flags, _], octets) = message.split::<HEADER>()?;
        let (mut address, mut mac) = (None, None);
        for (kind, value) in attributes(octets) {
            match kind {
                libc::NDA_DST => address = read_address(i32::from(family), value),
                libc::NDA_LLADDR => mac = value.try_into().ok().map(Mac),
                _ => {}
            }
        }
        Some(Neighbour {
            address: address?,
            mac,
            interface: String::new(),
            index: u32::from_ne_bytes([i0, i1, i2, i3]),
            state: NeighbourState::of(u16::from_ne_bytes([s0, s1])),
            router: flags & libc::NTF_ROUTER != 0,
        })
    }
}

/// An address of this family. `None`: another family, or a wrong length.
pub(super) fn read_address(family: i32, value: &[u8]) -> Option<IpAddr> {
    match family {
        libc::AF_INET => Some(Ipv4Addr::from(<[u8; 4]>::try_from(value).ok()?).into()),
        libc::AF_INET6 => Some(Ipv6Addr::from(<[u8; 16]>::try_from(value).ok()?).into()),
        _ => None,
    }
}

/// The family and octets of an address.
pub(super) fn wire_address(address: IpAddr) -> (u8, Vec<u8>) {
    match address {
        IpAddr::V4(address) => (libc::AF_INET as u8, address.octets().to_vec()),
        IpAddr::V6(address) => (libc::AF_INET6 as u8, address.octets().to_vec()),
    }
}

impl Marks {
    /// Reads the neighbours of both families on all interfaces of this namespace, multicast
    /// addresses included. Sends nothing to the network.
    pub fn neighbours(&mut self) -> Result<Vec<Neighbour>> {
        let question = RouteMessage::new(libc::RTM_GETNEIGH, &[0; HEADER]);
        let found = self.client.list(&question, |message| Neighbour::read(&message));
        let mut neighbours = found.map_err(|failure| explain(failure, "list", "neighbours"))?;
        let mut names: BTreeMap<u32, Option<String>> = BTreeMap::new();
        for neighbour in &neighbours {
            if let Entry::Vacant(entry) = names.entry(neighbour.index) {
                entry.insert(self.client.link_of_index(neighbour.index)?.map(|link| link.name));
            }
        }
        // Where the interface has just gone, its neighbours have too.
        neighbours.retain_mut(|neighbour| match names.get(&neighbour.index) {
            Some(Some(name)) => {
                neighbour.interface.clone_from(name);
                true
            }
            _ => false,
        });
        Ok(neighbours)
    }

    /// Asks the kernel to find out the MAC address of `address` on this interface's link, or to
    /// confirm the one that it knows. Does not wait for the answer: [`Monitor`](super::Monitor) or
    /// [`Marks::neighbours`] shows it. An entry that is reachable is left alone
    /// (`neigh_event_send()` in the kernel's net/core/neighbour.c), and a permanent one, which the
    /// request would make an ordinary one (`__neigh_update()` there: `NEIGH_UPDATE_F_USE`).
    ///
    /// # Errors
    /// [`Error::Invalid`] for a multicast or unspecified address; also as [`Marks`].
    pub fn resolve(&mut self, address: IpAddr, interface: &str) -> Result<()> {
        interface::check_name(interface)?;
        if address.is_unspecified() || address.is_multicast() {
            return Err(Error::invalid(address, "the address of one host was expected"));
        }
        let index = self.client.link_of_name(interface)?.index;
        let is_fixed = |found: &Neighbour| {
            let fixed = matches!(found.state, NeighbourState::Permanent | NeighbourState::NoArp);
            fixed && (found.address, found.index) == (address, index)
        };
        if self.neighbours()?.iter().any(is_fixed) {
            return Ok(());
        }
        let (family, octets) = wire_address(address);
        let mut header = [0; HEADER];
        header[0] = family;
        header[4..8].copy_from_slice(&index.to_ne_bytes());
        header[10] = libc::NTF_USE;
        let request = RouteMessage::new(libc::RTM_NEWNEIGH, &header).with(libc::NDA_DST, &octets);
        let result = self.client.request(request, NLM_F_CREATE);
        let object = || format!("{address} on {interface}");
        result.map(|_| ()).map_err(|failure| explain(failure, "resolve", object()))
    }

    /// The source MAC addresses that this node's frames may carry on an interface: its own; for a
    /// VLAN or macvlan also those of the interface below; for a bond or team also those of its
    /// slaves, the present ones and the ones that they had before.
    ///
    /// A lower interface in another network namespace is not seen.
    ///
    /// # Errors
    /// [`Cause::NoInterface`](crate::Cause::NoInterface) (`ENODEV`) when there is no such
    /// interface; also as [`Marks`].
    pub fn macs(&mut self, interface: &str) -> Result<BTreeSet<Mac>> {
        interface::check_name(interface)?;
        let index = self.client.link_of_name(interface)?.index;
        Ok(macs(&self.client.links()?, index))
    }
}

fn macs(links: &[Link], index: u32) -> BTreeSet<Mac> {
    let (mut macs, mut seen, mut ahead) = (BTreeSet::new(), BTreeSet::new(), vec![index]);
    while let Some(index) = ahead.pop() {
        let Some(link) = links.iter().find(|link| link.index == index).filter(|_| seen.insert(index)) else { continue };
        macs.extend(link.ethernet_address().into_iter().chain(link.permanent_ethernet_addresses()).map(Mac));
        match link.kind.as_str() {
            "vlan" | "macvlan" => ahead.extend(link.lower),
            "bond" | "team" => ahead.extend(links.iter().filter(|l| l.master == Some(index)).map(|l| l.index)),
            _ => {}
        }
    }
    macs
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netlink::push_attribute;

    #[test]
    #[cfg(target_endian = "little")]
    fn neighbours_are_read() {
        use super::super::samples::{self, message};
        let neighbour = Neighbour::read(&message(samples::NEIGHBOUR)).unwrap();
        assert_eq!((neighbour.index, neighbour.state), (2, NeighbourState::Permanent));
        assert_eq!(neighbour.to_string(), "192.0.2.99 on : 02:00:00:00:00:99 (permanent)");
        assert_eq!(Neighbour::read(&message(samples::ROUTE)), None);
    }

    #[test]
    fn a_nodes_mac_addresses() {
        let link = |index: u32, kind: &str, master: u32, lower: u32| {
            let mut info = Vec::new();
            push_attribute(&mut info, 1, kind.as_bytes());
            let mut header = [0; 16];
            header[2..4].copy_from_slice(&libc::ARPHRD_ETHER.to_ne_bytes());
            header[4..8].copy_from_slice(&index.to_ne_bytes());
            let mut message = RouteMessage::new(libc::RTM_NEWLINK, &header)
                .with(libc::IFLA_IFNAME, b"x\0")
                .with(libc::IFLA_ADDRESS, &[2, 0, 0, 0, 0, index as u8])
                .with(libc::IFLA_LINKINFO, &info);
            for (kind, value) in [(libc::IFLA_MASTER, master), (libc::IFLA_LINK, lower)] {
                if value != 0 {
                    message = message.with(kind, &value.to_ne_bytes());
                }
            }
            Link::read(&message).unwrap()
        };
        let links = [
            link(1, "", 3, 0),
            link(2, "", 3, 0),
            link(3, "bond", 0, 0),
            link(4, "vlan", 0, 3),
            link(5, "macvlan", 0, 4),
            link(6, "veth", 0, 5),
            link(7, "vlan", 0, 7),
        ];
        let of = |index| macs(&links, index).into_iter().map(|mac| mac.0[5]).collect::<Vec<_>>();
        assert_eq!(of(1), [1]);
        assert_eq!(of(3), [1, 2, 3]);
        assert_eq!(of(5), [1, 2, 3, 4, 5]);
        assert_eq!(of(6), [6]);
        assert_eq!(of(7), [7]);
        assert!(of(8).is_empty());
    }
}
