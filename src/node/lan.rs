//! The interfaces whose links reach clients. Pure.
//!
//! A node is hidden from clients only if each of these interfaces keeps quiet about a VIP on `lo`.
//! The interface that is named is one of them. The others are found:
//!
//! - Interfaces that send and receive on the same link: a macvlan or ipvlan and the interface below
//!   it (keepalived's `use_vmac`), the interfaces of a VRF, the master of a port. The ports of a
//!   bond, team or bridge do not count: the kernel hands what they receive to their master.
//! - Interfaces with an address in a subnet of one of these, or in a subnet that contains a VIP: a
//!   second network card in the LAN, a VLAN.
//!
//! A VLAN and the interface below it are two links: one does not count because the other does.

use std::collections::BTreeSet;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::netlink::Link;
use crate::vip::AssignedAddress;

/// The interfaces whose links reach clients of these VIPs: the one that is named first, the others
/// by name.
pub(super) fn interfaces(named: &str, vips: &[IpAddr], links: &[Link], addresses: &[AssignedAddress]) -> Vec<String> {
    let mut found = on_the_link(named, links);
    let subnets: BTreeSet<Subnet> =
        addresses.iter().filter(|address| found.contains(&address.interface)).filter_map(Subnet::of).collect();
    let near = addresses.iter().filter(|address| {
        Subnet::of(address)
            .is_some_and(|subnet| subnets.contains(&subnet) || vips.iter().any(|vip| subnet.contains(*vip)))
    });
    let has_neighbours = |name: &str| links.iter().any(|link| link.name == name && link.has_neighbours());
    found.extend(near.map(|address| &address.interface).filter(|name| has_neighbours(name)).cloned());
    found.remove(named);
    [named.to_owned()].into_iter().chain(found).collect()
}

/// Whether the VIP is in a subnet of this interface.
pub(super) fn is_near(vip: IpAddr, interface: &str, addresses: &[AssignedAddress]) -> bool {
    let own = addresses.iter().filter(|address| address.interface == interface);
    own.filter_map(Subnet::of).any(|subnet| subnet.contains(vip))
}

/// Whether two addresses have the same subnet, of which one is the primary address.
pub(super) fn are_in_one_subnet(one: &AssignedAddress, other: &AssignedAddress) -> bool {
    Subnet::of(one).is_some_and(|subnet| Subnet::of(other) == Some(subnet))
}

/// Why the interface that is named may be the wrong one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Doubt {
    /// It is a port of a bond, team or bridge.
    Port { interface: String, master: String },
    /// A VIP is in the subnet of an address on another link, and of none on its own.
    Elsewhere { interface: String, vip: IpAddr, near: AssignedAddress },
}

impl Doubt {
    /// The interface that may be meant.
    pub(super) fn instead(&self) -> &str {
        match self {
            Doubt::Port { master, .. } => master,
            Doubt::Elsewhere { near, .. } => &near.interface,
        }
    }
}

impl fmt::Display for Doubt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Doubt::Port { interface, master } => write!(
                f,
                "{interface} is a port of {master}, which gets its packets: no ARP request for a VIP on {interface} is answered; name \
                 {master} as the interface"
            ),
            Doubt::Elsewhere { interface, vip, near } => write!(
                f,
                "{vip} is in the subnet of {}/{} on {}, and of no address on the link of {interface}: name {} as the interface, if \
                 clients are there",
                near.address, near.prefix, near.interface, near.interface
            ),
        }
    }
}

/// Whether the interface that is named may be the wrong one for these VIPs.
pub(super) fn doubt(named: &str, vips: &[IpAddr], links: &[Link], addresses: &[AssignedAddress]) -> Option<Doubt> {
    let port = links.iter().find(|link| link.name == named).and_then(|link| port_of(link, links));
    if let Some(master) = port {
        return Some(Doubt::Port { interface: named.to_owned(), master: master.name.clone() });
    }
    let on_the_link = on_the_link(named, links);
    vips.iter().find_map(|vip| {
        let has_neighbours = |name: &str| links.iter().any(|link| link.name == name && link.has_neighbours());
        let near = |found: &&AssignedAddress| {
            found.address != *vip
                && Subnet::of(found).is_some_and(|subnet| subnet.contains(*vip))
                && has_neighbours(&found.interface)
        };
        let near: Vec<&AssignedAddress> = addresses.iter().filter(near).collect();
        let is_right = near.iter().any(|found| on_the_link.contains(&found.interface));
        let first = near.first().filter(|_| !is_right)?;
        Some(Doubt::Elsewhere { interface: named.to_owned(), vip: *vip, near: (*first).clone() })
    })
}

/// The interfaces that send and receive on the same link as this one.
fn on_the_link(named: &str, links: &[Link]) -> BTreeSet<String> {
    let (mut found, mut ahead) = (BTreeSet::new(), links.iter().filter(|link| link.name == named).collect::<Vec<_>>());
    while let Some(link) = ahead.pop() {
        if !found.insert(link.name.clone()) {
            continue;
        }
        let is_above = |above: &&Link| shares_the_link(above) && above.lower == Some(link.index);
        ahead.extend(
            links.iter().filter(is_above).filter(|above| above.has_neighbours() && port_of(above, links).is_none()),
        );
        let below = link.lower.filter(|_| shares_the_link(link));
        let of_vrf = |port: &&Link| link.kind == VRF && port.master == Some(link.index);
        ahead.extend(links.iter().filter(|other| Some(other.index) == below || of_vrf(other)));
        ahead.extend(port_of(link, links));
    }
    found.insert(named.to_owned());
    found
}

const VRF: &str = "vrf";

/// Whether the interface is on the link of the interface below it, and receives for itself: not a
/// macvtap, whose frames go to a virtual machine.
fn shares_the_link(link: &Link) -> bool {
    matches!(link.kind.as_str(), "macvlan" | "ipvlan")
}

/// The bond, team or bridge that this interface is a port of, and that gets what it receives. An
/// interface of a VRF receives for itself.
fn port_of<'a>(link: &Link, links: &'a [Link]) -> Option<&'a Link> {
    links.iter().find(|master| Some(master.index) == link.master && master.kind != VRF)
}

/// A subnet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Subnet {
    number: IpAddr,
    prefix: u8,
}

impl Subnet {
    /// The subnet of an address. `None`: it stands alone, or is link-local, as on every link.
    fn of(address: &AssignedAddress) -> Option<Self> {
        let (bits, link_local) = match address.address {
            IpAddr::V4(own) => (32, own.is_link_local()),
            IpAddr::V6(own) => (128, own.is_unicast_link_local()),
        };
        let prefix = address.prefix;
        (prefix < bits && !link_local).then(|| Subnet { number: masked(address.address, prefix), prefix })
    }

    fn contains(self, address: IpAddr) -> bool {
        masked(address, self.prefix) == self.number
    }
}

fn masked(address: IpAddr, prefix: u8) -> IpAddr {
    let prefix = u32::from(prefix);
    match address {
        IpAddr::V4(address) => {
            let mask = u32::MAX.checked_shl(32_u32.saturating_sub(prefix)).unwrap_or(0);
            Ipv4Addr::from_bits(address.to_bits() & mask).into()
        }
        IpAddr::V6(address) => {
            let mask = u128::MAX.checked_shl(128_u32.saturating_sub(prefix)).unwrap_or(0);
            Ipv6Addr::from_bits(address.to_bits() & mask).into()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netlink::{RouteMessage, push_attribute};
    use crate::node::model::{VIP, ip, located};
    use crate::vip::Scope;

    /// A node's links, by number from 1 on: name, kind, master, and interface below.
    fn links(all: &[(&str, &str, u32, u32)]) -> Vec<Link> {
        let link = |(index, (name, kind, master, lower)): (usize, &(&str, &str, u32, u32))| {
            let mut info = Vec::new();
            push_attribute(&mut info, 1, kind.as_bytes());
            let mut header = [0; 16];
            header[4..8].copy_from_slice(&u32::try_from(index + 1).unwrap().to_ne_bytes());
            let flags = if *kind == "dummy" { libc::IFF_NOARP } else { 0 };
            header[8..12].copy_from_slice(&flags.to_ne_bytes());
            let mut message = RouteMessage::new(libc::RTM_NEWLINK, &header)
                .with(libc::IFLA_IFNAME, name.as_bytes())
                .with(libc::IFLA_LINKINFO, &info);
            for (kind, value) in [(libc::IFLA_MASTER, master), (libc::IFLA_LINK, lower)] {
                if *value != 0 {
                    message = message.with(kind, &value.to_ne_bytes());
                }
            }
            Link::read(&message).unwrap()
        };
        all.iter().enumerate().map(link).collect()
    }

    fn at(address: &str, interface: &str) -> AssignedAddress {
        located(address, interface, Scope::Global)
    }

    #[test]
    fn interfaces_on_the_same_link() {
        let links = links(&[
            ("eth0", "", 0, 0),
            ("vrrp.51", "macvlan", 0, 1),
            ("vrrp.52", "macvlan", 0, 1),
            ("tap0", "macvtap", 0, 1),
            ("eth0.100", "vlan", 0, 1),
            ("vrrp.53", "macvlan", 0, 5),
            ("bond0", "bond", 0, 0),
            ("eth1", "", 7, 0),
            ("br0", "bridge", 0, 0),
            ("eth2", "", 9, 0),
            ("red", "vrf", 0, 0),
            ("eth3", "", 11, 0),
            ("eth4", "", 11, 0),
            ("ipvl0", "ipvlan", 0, 7),
            // A macvlan that is a port of a bridge.
            ("mv1", "macvlan", 9, 7),
            ("veth0", "veth", 0, 1),
        ]);
        for (named, expected) in [
            ("eth0", "eth0 vrrp.51 vrrp.52"),
            ("vrrp.51", "vrrp.51 eth0 vrrp.52"),
            ("eth0.100", "eth0.100 vrrp.53"),
            ("vrrp.53", "vrrp.53 eth0.100"),
            ("bond0", "bond0 ipvl0"),
            ("eth1", "eth1 bond0 ipvl0"),
            ("br0", "br0"),
            ("red", "red eth3 eth4"),
            ("eth3", "eth3"),
            ("gone", "gone"),
        ] {
            assert_eq!(interfaces(named, &[ip(VIP)], &links, &[]).join(" "), expected, "{named}");
        }
    }

    #[test]
    fn the_interface_that_may_be_meant() {
        let links = links(&[
            ("vrrp.51", "macvlan", 0, 2),
            ("eth0", "", 0, 0),
            ("eth1", "", 4, 0),
            ("bond0", "bond", 0, 0),
            ("red", "vrf", 0, 0),
            ("eth2", "", 5, 0),
        ]);
        let addresses = [
            at("192.0.2.11", "eth0"),
            at("198.51.100.11", "bond0"),
            at("192.0.2.111", "eth2"),
            at("2001:db8::11", "eth0"),
            at("fe80::11", "bond0"),
        ];
        let meant = |named: &str, vip: &str| {
            doubt(named, &[ip(vip)], &links, &addresses).map(|doubt| doubt.instead().to_owned())
        };
        for (named, vip, instead) in [
            ("eth0", VIP, None),
            ("vrrp.51", VIP, None),
            // An interface of a VRF is no port.
            ("eth2", VIP, None),
            ("red", VIP, None),
            ("eth1", VIP, Some("bond0")),
            ("bond0", VIP, Some("eth0")),
            ("gone", VIP, Some("eth0")),
            ("bond0", "198.51.100.9", None),
            ("eth0", "198.51.100.9", Some("bond0")),
            // Routers send it to one of the links.
            ("bond0", "203.0.113.9", None),
            ("bond0", "2001:db8::fe", Some("eth0")),
            ("eth0", "2001:db8::fe", None),
            ("bond0", "2001:db8:1::fe", None),
        ] {
            assert_eq!(meant(named, vip).as_deref(), instead, "{named} {vip}");
        }
    }

    #[test]
    fn interfaces_with_an_address_near_the_vip() {
        let links = links(&[
            ("vrrp.51", "macvlan", 0, 2),
            ("eth0", "", 0, 0),
            ("eth1", "", 0, 0),
            ("eth2", "", 0, 0),
            ("dummy0", "dummy", 0, 0),
        ]);
        let of = |addresses: &[(&str, &str)], vip: &str| {
            let addresses: Vec<_> = addresses.iter().map(|(address, interface)| at(address, interface)).collect();
            interfaces("vrrp.51", &[ip(vip)], &links, &addresses).join(" ")
        };
        let own = ("192.0.2.11", "eth0");
        assert_eq!(of(&[own, ("192.0.2.111", "eth1"), ("198.51.100.9", "eth2")], VIP), "vrrp.51 eth0 eth1");
        assert_eq!(of(&[own, ("192.0.2.111", "dummy0"), ("192.0.2.112", "lo")], VIP), "vrrp.51 eth0");
        // A VIP that routers send to the subnet of the nodes.
        let routed = "203.0.113.9";
        assert_eq!(of(&[own, ("192.0.2.111", "eth1"), ("198.51.100.9", "eth2")], routed), "vrrp.51 eth0 eth1");
        assert_eq!(of(&[own, ("203.0.113.1", "eth2")], routed), "vrrp.51 eth0 eth2");
        // An address that stands alone says nothing of the link, and a link-local one neither.
        assert_eq!(of(&[own, (VIP, "eth1"), ("2001:db8::1", "eth2")], "2001:db8::fe"), "vrrp.51 eth0 eth2");
        assert_eq!(of(&[own, ("fe80::1", "eth0"), ("fe80::2", "eth2")], "2001:db8::fe"), "vrrp.51 eth0");
        assert!(is_near(ip(VIP), "eth0", &[at("192.0.2.11", "eth0")]));
        assert!(!is_near(ip(routed), "eth0", &[at("192.0.2.11", "eth0")]));
        assert!(!is_near(ip(VIP), "eth1", &[at("192.0.2.11", "eth0")]));
    }
}
