//! Destinations that do not get the packets of their service. Pure.
//!
//! With direct routing the director sends a packet on as it is, to the MAC address of the server:
//! the address and port in it stay those of the service.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use super::lan;
use super::observation::Observation;
use crate::ipvs::{Destination, Forward, ServiceId, Table};
use crate::vip::AssignedAddress;

/// A server that does not get the packets of these services.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Unreached {
    pub(super) address: IpAddr,
    pub(super) reason: Reason,
    pub(super) places: Vec<(ServiceId, Destination)>,
}

/// Why a server does not get the packets of a service.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Reason {
    /// 127.0.0.1, ::1 or a VIP: each node takes it for itself.
    ToItself,
    /// The service has another port, this one.
    OtherPort(u16),
    /// The number or broadcast address of the subnet of this address.
    NoHost(String),
    /// It is behind this gateway.
    Behind(IpAddr),
    /// There is no route to it.
    NoRoute,
    /// Of NAT: it is on a link with clients, on this interface, and answers them itself.
    AnswersItself(String),
}

impl Reason {
    /// Whether it can be seen from services alone.
    pub(super) fn of_the_file(service: &ServiceId, destination: &Destination, vips: &[IpAddr]) -> Option<Self> {
        let (to, port) = (destination.address.ip(), destination.address.port());
        if destination.forward == Forward::Direct && (to.is_loopback() || vips.contains(&to)) {
            return Some(Reason::ToItself);
        }
        let listen = service.address().map(|listen| listen.port()).filter(|listen| *listen != port)?;
        (destination.forward != Forward::Masquerade).then_some(Reason::OtherPort(listen))
    }

    /// What the addresses of the node say of a server that is reached by NAT.
    fn of_nat(to: IpAddr, seen: &Observation) -> Option<Self> {
        let is_near = |interface: &&String| lan::is_near(to, interface, &seen.addresses);
        let interface = seen.lan.interfaces.iter().find(is_near).filter(|_| !seen.own.contains(&to))?;
        Some(Reason::AnswersItself(interface.clone()))
    }

    /// What the routes and addresses of the node say.
    fn of_the_node(to: IpAddr, seen: &Observation) -> Option<Self> {
        if seen.own.contains(&to) {
            return None;
        }
        if let Some(own) = seen.addresses.iter().find(|own| is_no_host(to, own)) {
            return Some(Reason::NoHost(format!("{}/{}", own.address, own.prefix)));
        }
        match seen.link.behind.get(&to) {
            Some(gateway) => Some(Reason::Behind(*gateway)),
            None => seen.link.unrouted.contains(&to).then_some(Reason::NoRoute),
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reason::ToItself => f.write_str(
                "the other nodes learn its connections, and would send their packets to themselves: name the node's own address on its \
                 interface",
            ),
            Reason::OtherPort(listen) => write!(
                f,
                "its port differs from the service's {listen}: direct routing leaves packets as they are, so the real server must listen \
                 there"
            ),
            Reason::NoHost(own) => {
                write!(f, "it is the first or last address of the subnet of {own}, which no host has: name a server's address")
            }
            Reason::Behind(gateway) => write!(
                f,
                "it is behind the gateway {gateway}, which gets the packets instead and sends them back to the VIP: direct routing \
                 reaches servers on the node's own links only"
            ),
            Reason::NoRoute => f.write_str(
                "this node has no route to it: direct routing reaches servers on the node's own links only",
            ),
            Reason::AnswersItself(interface) => write!(
                f,
                "it is reached by NAT, and is on the link of {interface} with clients: it answers them itself, by its own address, unless \
                 its only way to them is the director"
            ),
        }
    }
}

/// `the destination 192.0.2.12:80 of tcp 192.0.2.254:80: it is behind ...`.
impl fmt::Display for Unreached {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some((service, destination)) = self.places.first() else { return Ok(()) };
        write!(f, "the destination {} of {service}", destination.address)?;
        match self.places.len() - 1 {
            0 => {}
            1 => f.write_str(" and of another service")?,
            more => write!(f, " and of {more} other services")?,
        }
        write!(f, ": {}", self.reason)
    }
}

/// The servers of a table that do not get the packets of their services, by address.
pub(super) fn unreached(table: &Table, vips: &[IpAddr], seen: &Observation) -> Vec<Unreached> {
    let mut found: BTreeMap<(IpAddr, Reason), Vec<(ServiceId, Destination)>> = BTreeMap::new();
    for content in table.services() {
        let service = content.service.id;
        for destination in content.destinations() {
            let reason = Reason::of_the_file(&service, destination, vips).or_else(|| match destination.forward {
                Forward::Direct => Reason::of_the_node(destination.address.ip(), seen),
                Forward::Masquerade => Reason::of_nat(destination.address.ip(), seen),
                _ => None,
            });
            if let Some(reason) = reason {
                found.entry((destination.address.ip(), reason)).or_default().push((service, destination.clone()));
            }
        }
    }
    found.into_iter().map(|((address, reason), places)| Unreached { address, reason, places }).collect()
}

/// Whether this may be another node on the link.
pub(super) fn is_on_the_link(address: IpAddr, vips: &[IpAddr], seen: &Observation) -> bool {
    !address.is_loopback() && !vips.contains(&address) && Reason::of_the_node(address, seen).is_none()
}

/// Whether this is the first or last address of the subnet. In one of a prefix of 31 every address
/// is a host's (RFC 3021).
fn is_no_host(address: IpAddr, own: &AssignedAddress) -> bool {
    let (IpAddr::V4(address), IpAddr::V4(host), prefix @ 1..31) = (address, own.address, own.prefix) else {
        return false;
    };
    let hosts = u32::MAX >> prefix;
    let (address, host) = (address.to_bits(), host.to_bits());
    address & !hosts == host & !hosts && (address & hosts == 0 || address & hosts == hosts)
}

#[cfg(test)]
mod tests {
    use super::super::fence::Fence;
    use super::super::model::{VIP, World, config, ip, located};
    use super::*;
    use crate::vip::Scope;

    #[test]
    fn servers_that_do_not_get_the_packets_of_a_service() {
        let mut seen = World::new(config(Fence::Marks)).seen;
        seen.addresses.push(located("198.51.100.1", "eth1", Scope::Global));
        seen.addresses.last_mut().unwrap().prefix = 31;
        seen.link.behind.insert(ip("203.0.113.7"), ip("192.0.2.1"));
        seen.link.unrouted.insert(ip("203.0.113.8"));
        let reason = |destination: &str| {
            let table = format!("-A -t {VIP}:80 -s rr\n-a -t {VIP}:80 -r {destination} -w 1\n").parse().unwrap();
            let found = unreached(&table, &[ip(VIP)], &seen);
            found.first().map(|found| found.reason.clone())
        };
        let no_host = || Some(Reason::NoHost("192.0.2.11/24".into()));
        for (destination, expected) in [
            ("192.0.2.12:80 -g", None),
            ("192.0.2.11:80 -g", None),
            ("127.0.0.1:80 -g", Some(Reason::ToItself)),
            ("192.0.2.254:80 -g", Some(Reason::ToItself)),
            ("192.0.2.12:8080 -g", Some(Reason::OtherPort(80))),
            ("192.0.2.12:8080 -i", Some(Reason::OtherPort(80))),
            ("192.0.2.12:8080 -m", Some(Reason::AnswersItself("eth0".into()))),
            ("192.0.2.11:8080 -m", None),
            // A container, say.
            ("198.51.100.0:8080 -m", None),
            ("192.0.2.0:80 -g", no_host()),
            ("192.0.2.255:80 -g", no_host()),
            ("198.51.100.0:80 -g", None),
            ("203.0.113.7:80 -g", Some(Reason::Behind(ip("192.0.2.1")))),
            ("203.0.113.7:80 -i", None),
            ("203.0.113.8:80 -g", Some(Reason::NoRoute)),
        ] {
            assert_eq!(reason(destination), expected, "{destination}");
        }
        // A service of all ports has destinations of all ports, and a mark has no port.
        for table in [
            "-A -t 192.0.2.254:0 -s rr -p 60\n-a -t 192.0.2.254:0 -r 192.0.2.12:0 -g -w 1\n",
            "-A -f 7 -s rr\n-a -f 7 -r 192.0.2.12:80 -g -w 1\n",
        ] {
            assert_eq!(unreached(&table.parse().unwrap(), &[ip(VIP)], &seen), []);
        }
    }

    #[test]
    fn one_server_of_many_services_is_told_once() {
        let seen = World::new(config(Fence::Marks)).seen;
        let table: String = (80..83)
            .map(|port| format!("-A -t {VIP}:{port} -s rr\n-a -t {VIP}:{port} -r 127.0.0.1:{port} -g -w 1\n"))
            .collect();
        let found = unreached(&table.parse().unwrap(), &[ip(VIP)], &seen);
        let told: Vec<String> = found.iter().map(ToString::to_string).collect();
        let [told] = &told[..] else { panic!("{told:?}") };
        let begins =
            "the destination 127.0.0.1:80 of tcp 192.0.2.254:80 and of 2 other services: the other nodes learn";
        assert!(told.starts_with(begins), "{told}");
    }
}
