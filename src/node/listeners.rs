//! Whether the node serves what it is a server of.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use crate::error::{Error, Result};
use crate::ipvs::{Destination, Forward, ServiceId, Table, VirtualService};
use crate::netlink::{WaitingSocket, waiting_sockets};
use crate::node::{Config, Node};

/// What there is for a service that this node is a server of, and that no socket of it serves as
/// far as is seen; or whose answers may come from another address.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Sockets {
    /// Sockets listen on its port on these addresses only.
    Elsewhere(Vec<IpAddr>),
    /// Of UDP: sockets on all addresses serve it, and none on the VIP.
    Any,
    /// The kernel does not show its sockets, for this reason.
    Unseen(String),
}

/// The sockets of a protocol that wait for clients, by port.
struct Waiting(BTreeMap<u16, Vec<WaitingSocket>>);

impl Waiting {
    fn new(sockets: impl IntoIterator<Item = WaitingSocket>) -> Self {
        let mut by_port: BTreeMap<u16, Vec<WaitingSocket>> = BTreeMap::new();
        sockets.into_iter().for_each(|socket| by_port.entry(socket.port).or_default().push(socket));
        Waiting(by_port)
    }

    fn on(&self, port: u16) -> &[WaitingSocket] {
        self.0.get(&port).map_or(&[], Vec::as_slice)
    }
}

/// The services of a table that this node is a server of, and does not serve.
///
/// # Errors
/// The node's addresses, or the network namespace, cannot be read.
pub(super) fn unserved(node: &mut Node, table: &Table) -> Result<BTreeMap<Sockets, Vec<ServiceId>>> {
    let own = node.vips.addresses()?;
    let mut protocols: BTreeMap<i32, Result<Waiting, String>> = BTreeMap::new();
    let mut found: BTreeMap<Sockets, Vec<ServiceId>> = BTreeMap::new();
    for content in table.services() {
        let service = content.service.id;
        let Some((protocol, listen)) = to_be_served(&node.config, &own, &content) else { continue };
        let waiting = match protocols.get(&protocol) {
            Some(known) => known,
            None => {
                let listed = match waiting_sockets(node.ipvs.netns(), protocol) {
                    Err(error @ Error::Refused { .. }) => Err(error.to_string()),
                    result => Ok(Waiting::new(result?)),
                };
                protocols.entry(protocol).or_insert(listed)
            }
        };
        let sockets = match waiting {
            Err(why) => Sockets::Unseen(why.clone()),
            Ok(waiting) => {
                let on_the_port = waiting.on(listen.port());
                let is_on_vip = || on_the_port.iter().any(|socket| socket.address == listen.ip());
                match elsewhere(on_the_port, protocol, listen.ip()) {
                    Some(only) => Sockets::Elsewhere(only),
                    None if protocol == libc::IPPROTO_UDP && !is_on_vip() => Sockets::Any,
                    None => continue,
                }
            }
        };
        found.entry(sockets).or_default().push(service);
    }
    Ok(found)
}

/// The TCP services of a table that this node is a server of, and that none of these sockets
/// serves.
pub(super) fn unserved_by(
    config: &Config,
    own: &BTreeSet<IpAddr>,
    table: &Table,
    sockets: &[WaitingSocket],
) -> Vec<ServiceId> {
    let waiting = Waiting::new(sockets.iter().copied());
    let is_unserved = |content: &VirtualService<'_>| {
        to_be_served(config, own, content).is_some_and(|(protocol, listen)| {
            protocol == libc::IPPROTO_TCP && elsewhere(waiting.on(listen.port()), protocol, listen.ip()).is_some()
        })
    };
    table.services().filter(is_unserved).map(|content| content.service.id).collect()
}

/// Where a socket of this node is to listen, if it is a server of the service.
fn to_be_served(config: &Config, own: &BTreeSet<IpAddr>, content: &VirtualService<'_>) -> Option<(i32, SocketAddr)> {
    let service = content.service.id;
    let is_here = |address: IpAddr| own.contains(&address) || address.is_loopback();
    // One with weight 0 is out of service.
    let serves = |d: &Destination| {
        matches!(d.forward, Forward::Direct | Forward::Local) && d.weight > 0 && is_here(d.address.ip())
    };
    let serves = !config.without_listener.contains(&service) && content.destinations().any(serves);
    // A mark has no port, and a service of all ports any.
    protocol_of(&service).filter(|(_, listen)| serves && listen.port() != 0)
}

fn protocol_of(service: &ServiceId) -> Option<(i32, SocketAddr)> {
    match service {
        ServiceId::Tcp(listen) => Some((libc::IPPROTO_TCP, *listen)),
        ServiceId::Udp(listen) => Some((libc::IPPROTO_UDP, *listen)),
        ServiceId::Sctp(listen) => Some((libc::IPPROTO_SCTP, *listen)),
        _ => None,
    }
}

/// The addresses of these sockets of one port, where none of them gets the packets for this
/// address. `None`: one does.
fn elsewhere(on_the_port: &[WaitingSocket], protocol: i32, listen: IpAddr) -> Option<Vec<IpAddr>> {
    let gets = |socket: &WaitingSocket| {
        let any = socket.address.is_unspecified() && (socket.address.is_ipv4() == listen.is_ipv4() || !socket.v6only);
        let of_v6_for_v4 = listen.is_ipv4() && socket.address.is_ipv6();
        let mapped = matches!(socket.address, IpAddr::V6(v6) if v6.to_ipv4_mapped().map(IpAddr::V4) == Some(listen));
        // A socket of IPv4 never gets IPv6. One of SCTP may have more addresses than are shown.
        (any && (socket.address.is_ipv6() || listen.is_ipv4()))
            || socket.address == listen
            || (of_v6_for_v4 && mapped)
            || protocol == libc::IPPROTO_SCTP
    };
    if on_the_port.iter().any(gets) {
        return None;
    }
    let only: BTreeSet<IpAddr> = on_the_port.iter().map(|socket| socket.address).collect();
    Some(only.into_iter().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_that_get_the_packets_for_a_vip() {
        const V4: &str = "192.0.2.254:80";
        const V6: &str = "[2001:db8::fe]:80";
        let of = |sockets: &[(&str, bool)], listen: &str, protocol| {
            let waiting = Waiting::new(sockets.iter().map(|(address, v6only)| {
                let address: SocketAddr = address.parse().unwrap();
                WaitingSocket { address: address.ip(), port: address.port(), v6only: *v6only }
            }));
            let listen: SocketAddr = listen.parse().unwrap();
            let only = elsewhere(waiting.on(listen.port()), protocol, listen.ip())?;
            Some(only.iter().map(IpAddr::to_string).collect::<Vec<_>>().join(" "))
        };
        let none = || Some(String::new());
        for (socket, v6only, v4, v6) in [
            ("0.0.0.0:80", false, None, Some("0.0.0.0".to_owned())),
            ("[::]:80", false, None, None),
            ("[::]:80", true, Some("::".to_owned()), None),
            (V4, false, None, Some("192.0.2.254".to_owned())),
            (V6, false, Some("2001:db8::fe".to_owned()), None),
            ("[::ffff:192.0.2.254]:80", false, None, Some("::ffff:192.0.2.254".to_owned())),
            ("192.0.2.11:80", false, Some("192.0.2.11".to_owned()), Some("192.0.2.11".to_owned())),
            ("0.0.0.0:81", false, none(), none()),
            ("[::]:81", false, none(), none()),
        ] {
            let found = [V4, V6].map(|listen| of(&[(socket, v6only)], listen, libc::IPPROTO_TCP));
            assert_eq!(found, [v4, v6], "{socket} {v6only}");
        }
        let real = [("192.0.2.11:80", false), ("127.0.0.1:80", false), ("192.0.2.11:80", false)];
        assert_eq!(of(&real, V4, libc::IPPROTO_UDP).as_deref(), Some("127.0.0.1 192.0.2.11"));
        assert_eq!(of(&real, V4, libc::IPPROTO_SCTP), None);
        assert_eq!(of(&[], V4, libc::IPPROTO_SCTP), none());
    }
}
