//! What the nodes of a cluster tell each other beside their connections: who directs, and how many connections there are to know.
//!
//! The kernel's sync messages say neither. Each node that is watched sends a [`Beacon`] every second to the sync group, one UDP port below
//! that of the sync messages: a line of text. Nobody proves who he is, as with sync messages and VRRP: a link of the cluster's own
//! keeps strangers out. What a stranger could do is to have connections sent again (which is not done more often than once a second),
//! or make a director of fence `quiesce` take all new connections itself.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6, UdpSocket};
use std::str::FromStr;
use std::time::{Duration, Instant};

use rustix::net::netdevice::name_to_index;
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, socket_with, sockopt};

use super::fence::Sync;
use super::role::Role;
use crate::error::{Error, Result};
use crate::ipvs::SyncDaemon;
use crate::ipvs::sync::send_by;
use crate::netns::Netns;

/// Nodes that were not heard for this long are gone.
const SILENCE: Duration = Duration::from_secs(3);

/// No cluster has more.
const NODES: usize = 64;

/// What a node says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Beacon {
    /// Which nodes belong together, as in [`Sync::id`].
    pub id: u8,
    /// A number that is another one for each node, and each start of it.
    pub node: u64,
    /// Its role.
    pub role: Role,
    /// How many connections it knows.
    pub known: u64,
    /// How often it has told of all its connections, and how many those were the last time.
    pub told: (u64, u64),
    /// It asks the director for all connections.
    pub wants: bool,
}

const FIRST_WORD: &str = "lvs-dr-beacon-1";

/// `lvs-dr-beacon-1 254 7f3a master 1000 3 990 -`
impl fmt::Display for Beacon {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Beacon { id, node, role, known, told: (times, count), wants } = self;
        let wants = if *wants { "wants" } else { "-" };
        write!(f, "{FIRST_WORD} {id} {node:x} {role} {known} {times} {count} {wants}")
    }
}

impl FromStr for Beacon {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let read = || {
            let mut words = text.split(' ');
            let first = words.next()?;
            let beacon = Beacon {
                id: words.next()?.parse().ok()?,
                node: u64::from_str_radix(words.next()?, 16).ok()?,
                role: words.next()?.parse().ok()?,
                known: words.next()?.parse().ok()?,
                told: (words.next()?.parse().ok()?, words.next()?.parse().ok()?),
                wants: words.next()? == "wants",
            };
            (first == FIRST_WORD && words.next().is_none()).then_some(beacon)
        };
        read().ok_or_else(|| Error::invalid(format!("beacon {text:?}"), format!("`{FIRST_WORD} ...` was expected")))
    }
}

/// A socket in the sync group, for beacons.
#[derive(Debug)]
pub struct Peers {
    socket: UdpSocket,
    group: SocketAddr,
    interface: u32,
    id: u8,
}

impl Peers {
    /// Joins the group in this network namespace.
    ///
    /// # Errors
    /// [`Error::System`]: no such interface (`ENODEV`), or it takes no part in multicast.
    pub fn open_in(netns: &Netns, sync: &Sync) -> Result<Self> {
        let address = sync.group.unwrap_or(SyncDaemon::DEFAULT_GROUP);
        let port = sync.port.unwrap_or(SyncDaemon::DEFAULT_PORT).wrapping_sub(1);
        let failed = |e: io::Error| Error::system("listen to", format!("{address} on {}", sync.interface), e);
        let joined = netns.run(|| join(address, port, sync))?;
        let (socket, group, interface) = joined.map_err(failed)?;
        Ok(Peers { socket, group, interface, id: sync.id })
    }

    /// The index of the interface that it hears. One that was removed and made anew has another, whatever its name.
    pub fn interface_index(&self) -> u32 {
        self.interface
    }

    /// Sends a beacon.
    ///
    /// # Errors
    /// [`Error::System`]: the interface is down or has no address.
    pub fn send(&self, beacon: &Beacon) -> Result<()> {
        let sent = self.socket.send_to(beacon.to_string().as_bytes(), self.group);
        sent.map(drop).map_err(|e| Error::system("send a beacon to", self.group, e))
    }

    /// The next beacon of another node of this cluster, if one comes within the limit. Whatever else comes is passed over.
    ///
    /// # Errors
    /// [`Error::System`]: the interface went down, say.
    pub fn receive(&self, limit: Duration) -> Result<Option<(IpAddr, Beacon)>> {
        let failed = |e| Error::system("listen to", self.group, e);
        let start = Instant::now();
        let mut octets = [0; 256];
        while let Some(left) = limit.checked_sub(start.elapsed()).filter(|left| !left.is_zero()) {
            self.socket.set_read_timeout(Some(left)).map_err(failed)?;
            match self.socket.recv_from(&mut octets) {
                Ok((length, from)) => {
                    let beacon = str::from_utf8(&octets[..length]).ok().and_then(|text| text.parse::<Beacon>().ok());
                    if let Some(beacon) = beacon.filter(|beacon| beacon.id == self.id) {
                        return Ok(Some((from.ip(), beacon)));
                    }
                }
                Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted) => {}
                Err(e) => return Err(failed(e)),
            }
        }
        Ok(None)
    }
}

fn join(address: IpAddr, port: u16, sync: &Sync) -> io::Result<(UdpSocket, SocketAddr, u32)> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let socket = socket_with(family, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
    let interface = name_to_index(&socket, &sync.interface)?;
    send_by(&socket, address, interface, sync.ttl)?;
    // A node's own programs may listen side by side.
    sockopt::set_socket_reuseaddr(&socket, true)?;
    let group = match address {
        IpAddr::V4(group) => {
            let to = SocketAddrV4::new(group, port);
            bind(&socket, &to)?;
            sockopt::set_ip_add_membership_with_ifindex(&socket, &group, &Ipv4Addr::UNSPECIFIED, interface)?;
            to.into()
        }
        IpAddr::V6(group) => {
            let to = SocketAddrV6::new(group, port, 0, interface);
            // Bound to the group it would be another link's on the next interface of that name.
            bind(&socket, &SocketAddrV6::new(Ipv6Addr::UNSPECIFIED, port, 0, 0))?;
            sockopt::set_ipv6_add_membership(&socket, &group, interface)?;
            to.into()
        }
    };
    Ok((UdpSocket::from(socket), group, interface))
}

/// The other nodes, as far as they were heard lately.
#[derive(Debug, Default)]
pub struct View {
    heard: BTreeMap<u64, (Instant, Beacon)>,
}

impl View {
    /// Takes in a beacon.
    pub fn heard(&mut self, now: Instant, beacon: Beacon) {
        self.heard.retain(|_, (at, _)| now.duration_since(*at) < SILENCE);
        if self.heard.len() < NODES || self.heard.contains_key(&beacon.node) {
            self.heard.insert(beacon.node, (now, beacon));
        }
    }

    /// The other nodes that direct.
    pub fn directors(&self, now: Instant) -> impl Iterator<Item = &Beacon> {
        let lately = self.heard.values().filter(move |(at, _)| now.duration_since(*at) < SILENCE);
        lately.map(|(_, beacon)| beacon).filter(|beacon| beacon.role == Role::Master)
    }

    /// Whether another node directs, and this one is to stand back: of several the one with the lowest number goes on. Both sides
    /// come to the same answer, and it does not change while they go on.
    pub fn stands_back(&self, now: Instant, node: u64) -> bool {
        self.directors(now).any(|other| other.node < node)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn beacon(node: u64, role: Role) -> Beacon {
        Beacon { id: 254, node, role, known: 1000, told: (3, 990), wants: node == 1 }
    }

    #[test]
    fn what_is_printed_is_read() {
        for beacon in [beacon(1, Role::Master), beacon(u64::MAX, Role::Fault)] {
            let text = beacon.to_string();
            assert_eq!(text.parse::<Beacon>().unwrap(), beacon);
            for end in 0..text.len() - 5 {
                assert!(text[..end].parse::<Beacon>().is_err(), "{}", &text[..end]);
            }
            assert!(format!("{text} more").parse::<Beacon>().is_err());
        }
        assert!("lvs-dr-beacon-2 254 1 master 0 0 0 -".parse::<Beacon>().is_err());
    }

    #[test]
    fn of_two_directors_one_stands_back_and_the_other_does_not() {
        let (now, mut view, mut other) = (Instant::now(), View::default(), View::default());
        view.heard(now, beacon(7, Role::Master));
        view.heard(now, beacon(9, Role::Backup));
        other.heard(now, beacon(5, Role::Master));
        assert_eq!((view.stands_back(now, 5), other.stands_back(now, 7)), (false, true));
        assert_eq!(view.directors(now).count(), 1);
        // It steps down, or is heard no more.
        assert!(!other.stands_back(now + SILENCE, 7));
        other.heard(now, beacon(5, Role::Backup));
        assert!(!other.stands_back(now, 7));
    }
}
