//! What the nodes of a cluster send each other beside their connections: who directs, how many connections there are to know, and which
//! addresses a node has.
//!
//! The kernel's sync messages say none of it. Each node that is watched sends a [`Beacon`] and a [`Presence`] every second to the sync
//! group, one UDP port below that of the sync messages: each a line of text. Nobody proves who it is, as with sync messages and VRRP:
//! a link of the cluster's own keeps strangers out. A stranger could have connections sent again (not more often than once a second),
//! and could have packets of unknown connections sent to another node of the cluster.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6, UdpSocket};
use std::str::FromStr;
use std::time::{Duration, Instant};

use rustix::net::netdevice::name_to_index;
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, socket_with, sockopt};

use super::digest::TableDigest;
use super::fence::Sync;
use super::names;
use super::role::Role;
use crate::error::{Error, Result};
use crate::ipvs::SyncDaemon;
use crate::ipvs::sync::send_by;
use crate::marks::Mac;
use crate::netns::Netns;

/// Nodes that were not heard for this long are gone.
const SILENCE: Duration = Duration::from_secs(3);

/// A director that was not heard for this long is dead. While it takes on a role, it may be silent for some seconds.
const DEAD: Duration = Duration::from_secs(8);

/// A node that is gone is remembered for this long: a silent director differs from one that was never heard.
const REMEMBERED: Duration = Duration::from_secs(60);

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

/// Which addresses a node has, and which groups it directs.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Presence {
    /// Which nodes belong together, as in [`Sync::id`].
    pub id: u8,
    /// The node's number, as in its [`Beacon`].
    pub node: u64,
    /// Its addresses as a destination, or as the director that packets of unknown connections are sent to.
    pub addresses: BTreeSet<IpAddr>,
    /// The MAC addresses that it sends from.
    pub macs: BTreeSet<Mac>,
    /// The names of the groups that it directs.
    pub directs: BTreeSet<String>,
    /// Its table. `None`: not looked at yet.
    pub table: Option<TableDigest>,
}

const PRESENCE: &str = "lvs-dr-node-1";

/// The most words that are read of a presence.
const WORDS: usize = 256;

/// `lvs-dr-node-1 id=254 node=7f3a address=192.168.0.11 mac=02:00:00:00:00:01 directs=web`
impl fmt::Display for Presence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PRESENCE} id={} node={:x}", self.id, self.node)?;
        self.addresses.iter().try_for_each(|address| write!(f, " address={address}"))?;
        self.macs.iter().try_for_each(|mac| write!(f, " mac={mac}"))?;
        self.directs.iter().try_for_each(|group| write!(f, " directs={}", names::escape(group)))?;
        self.table.iter().try_for_each(|TableDigest { table, order }| write!(f, " table={table:x} order={order:x}"))
    }
}

impl FromStr for Presence {
    type Err = Error;

    /// Words that a later version may have added are passed over.
    fn from_str(text: &str) -> Result<Self> {
        let read = || {
            let mut words = text.split(' ');
            let first = words.next()?;
            let mut found = Presence::default();
            for word in words.take(WORDS) {
                let Some((key, value)) = word.split_once('=') else { continue };
                match key {
                    "id" => found.id = value.parse().ok()?,
                    "node" => found.node = u64::from_str_radix(value, 16).ok()?,
                    "address" => drop(found.addresses.insert(value.parse().ok()?)),
                    "mac" => drop(found.macs.insert(value.parse().ok()?)),
                    "directs" => drop(found.directs.insert(names::unescape(value)?)),
                    "table" => found.table.get_or_insert_default().table = u64::from_str_radix(value, 16).ok()?,
                    "order" => found.table.get_or_insert_default().order = u64::from_str_radix(value, 16).ok()?,
                    _ => {}
                }
            }
            (first == PRESENCE && found.node != 0).then_some(found)
        };
        read().ok_or_else(|| Error::invalid(format!("presence {text:?}"), format!("`{PRESENCE} ...` was expected")))
    }
}

/// What came from another node.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Heard {
    /// A beacon.
    Beacon(Beacon),
    /// Its addresses.
    Presence(Presence),
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
        self.send_text(&beacon.to_string())
    }

    /// Sends which addresses this node has.
    ///
    /// # Errors
    /// As [`Peers::send`].
    pub fn send_presence(&self, presence: &Presence) -> Result<()> {
        self.send_text(&presence.to_string())
    }

    fn send_text(&self, text: &str) -> Result<()> {
        let sent = self.socket.send_to(text.as_bytes(), self.group);
        sent.map(drop).map_err(|e| Error::system("send a beacon to", self.group, e))
    }

    /// The next beacon or presence of another node of this cluster, if one comes within the limit. Whatever else comes is passed over.
    ///
    /// # Errors
    /// [`Error::System`]: the interface went down, say.
    pub fn receive(&self, limit: Duration) -> Result<Option<(IpAddr, Heard)>> {
        let failed = |e| Error::system("listen to", self.group, e);
        let start = Instant::now();
        let mut octets = [0; 1472];
        while let Some(left) = limit.checked_sub(start.elapsed()).filter(|left| !left.is_zero()) {
            self.socket.set_read_timeout(Some(left)).map_err(failed)?;
            match self.socket.recv_from(&mut octets) {
                Ok((length, from)) => {
                    let heard = octets.get(..length).and_then(|octets| read(octets, self.id));
                    if let Some(heard) = heard {
                        return Ok(Some((from.ip(), heard)));
                    }
                }
                Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted) => {}
                Err(e) => return Err(failed(e)),
            }
        }
        Ok(None)
    }
}

/// A beacon or presence of this cluster.
fn read(octets: &[u8], id: u8) -> Option<Heard> {
    let text = str::from_utf8(octets).ok()?;
    let beacon = text.parse::<Beacon>().ok().filter(|beacon| beacon.id == id).map(Heard::Beacon);
    beacon.or_else(|| text.parse::<Presence>().ok().filter(|found| found.id == id).map(Heard::Presence))
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
    present: BTreeMap<u64, (Instant, Presence)>,
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

    /// Takes in which addresses a node has.
    pub fn present(&mut self, now: Instant, presence: Presence) {
        self.present.retain(|_, (at, _)| now.duration_since(*at) < REMEMBERED);
        if self.present.len() < NODES || self.present.contains_key(&presence.node) {
            self.present.insert(presence.node, (now, presence));
        }
    }

    /// The nodes that were heard lately.
    pub fn presences(&self, now: Instant) -> impl Iterator<Item = &Presence> {
        self.present.values().filter(move |(at, _)| now.duration_since(*at) < SILENCE).map(|(_, presence)| presence)
    }

    /// The nodes that were heard lately whose tables are not equal to this one, and why that matters.
    pub fn unequal(&self, now: Instant, own: TableDigest) -> impl Iterator<Item = (&Presence, &'static str)> {
        self.presences(now).filter_map(move |presence| {
            let theirs = presence.table?;
            match (theirs.table == own.table, theirs.order == own.order) {
                (true, true) => None,
                (false, _) => Some((presence, "has other services, destinations or weights than this node")),
                (true, false) => Some((
                    presence,
                    "lists the destinations of mh services in another order: it sends some clients of unknown connections to another \
                     server; delete and add them in the order of their addresses, on each node",
                )),
            }
        })
    }

    /// The address of the other node that directs this group, of those in `peers`. Of several, `before` stays the one. `Err`: the
    /// nodes that are heard do not say.
    ///
    /// A director that was heard lately and is heard no more is dead: `Ok(None)`, unless another one directs.
    pub fn director_of(
        &self,
        now: Instant,
        group: &str,
        peers: &BTreeSet<IpAddr>,
        before: Option<IpAddr>,
    ) -> Result<Option<IpAddr>, Unheard> {
        let directing = self.presences(now).filter(|presence| presence.directs.contains(group));
        let found: Vec<IpAddr> =
            directing.flat_map(|presence| presence.addresses.intersection(peers)).copied().collect();
        if let Some(before) = before.filter(|before| found.contains(before)) {
            return Ok(Some(before));
        }
        if let Some(first) = found.first() {
            return Ok(Some(*first));
        }
        // A node has another number after each start.
        let heard_at = |address: &IpAddr| {
            let of_it = self.present.values().filter(|(_, presence)| presence.addresses.contains(address));
            of_it.map(|(at, _)| *at).max()
        };
        match before.as_ref().and_then(heard_at) {
            Some(at) if now.duration_since(at) >= DEAD => Ok(None),
            _ => Err(Unheard),
        }
    }
}

/// No node that is heard says who directs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unheard;

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

    fn presence(node: u64, address: &str, directs: &[&str]) -> Presence {
        Presence {
            id: 254,
            node,
            addresses: [address.parse().unwrap(), "2001:db8::1".parse().unwrap()].into(),
            macs: [Mac([2, 0, 0, 0, 0, 1])].into(),
            directs: directs.iter().map(|name| (*name).to_owned()).collect(),
            table: (node == 7).then_some(TableDigest { table: 7, order: u64::MAX }),
        }
    }

    #[test]
    fn a_presence_that_is_printed_is_read() {
        for presence in [presence(7, "192.0.2.1", &["", "my web", "a=b"]), presence(u64::MAX, "2001:db8::2", &[])] {
            let text = presence.to_string();
            assert_eq!(text.parse::<Presence>().unwrap(), presence);
            assert_eq!(format!("{text} tomorrow=1 later").parse::<Presence>().unwrap(), presence);
            (0..text.len()).for_each(|end| drop(text[..end].parse::<Presence>()));
            assert_eq!(read(text.as_bytes(), 254), Some(Heard::Presence(presence)));
            assert_eq!(read(text.as_bytes(), 253), None);
        }
        for text in ["lvs-dr-node-1 id=1", "lvs-dr-node-1 node=1 mac=x", "lvs-dr-node-2 node=1", ""] {
            assert!(text.parse::<Presence>().is_err(), "{text}");
        }
    }

    #[test]
    fn directors_are_heard_until_they_are_silent() {
        let now = Instant::now();
        let mut view = View::default();
        view.heard(now, beacon(7, Role::Master));
        view.heard(now, beacon(9, Role::Backup));
        assert_eq!(view.directors(now).count(), 1);
        assert_eq!(view.directors(now + SILENCE).count(), 0);
    }

    #[test]
    fn tables_are_compared() {
        let (now, mut view) = (Instant::now(), View::default());
        view.present(now, presence(7, "192.0.2.1", &[]));
        view.present(now, presence(8, "192.0.2.2", &[]));
        let unequal = |table, order| view.unequal(now, TableDigest { table, order }).next().map(|(_, why)| why);
        assert_eq!(unequal(7, u64::MAX), None);
        assert!(unequal(8, u64::MAX).is_some_and(|why| why.contains("weights")));
        assert!(unequal(7, 1).is_some_and(|why| why.contains("order")));
    }

    #[test]
    fn the_director_of_a_group_is_known_by_its_address() {
        let (now, mut view) = (Instant::now(), View::default());
        let [one, two]: [IpAddr; 2] = ["192.0.2.1", "192.0.2.2"].map(|text| text.parse().unwrap());
        let peers = [one, two].into();
        assert_eq!(view.director_of(now, "web", &peers, Some(one)), Err(Unheard));
        view.present(now, presence(1, "192.0.2.1", &["web"]));
        view.present(now, presence(2, "192.0.2.2", &["mail"]));
        let director = |view: &View, at, before| view.director_of(at, "web", &peers, before);
        assert_eq!(director(&view, now, None), Ok(Some(one)));
        assert_eq!(view.director_of(now, "mail", &peers, None), Ok(Some(two)));
        assert_eq!(view.director_of(now, "web", &[two].into(), None), Err(Unheard));
        // Two at once: no change without need.
        view.present(now, presence(2, "192.0.2.2", &["mail", "web"]));
        assert_eq!((director(&view, now, Some(one)), director(&view, now, Some(two))), (Ok(Some(one)), Ok(Some(two))));
        // The old one has stepped down.
        view.present(now, presence(1, "192.0.2.1", &[]));
        assert_eq!(director(&view, now, Some(one)), Ok(Some(two)));
        // Both are silent.
        assert_eq!(director(&view, now + SILENCE, Some(two)), Err(Unheard));
        assert_eq!(director(&view, now + DEAD, Some(two)), Ok(None));
        assert_eq!(director(&view, now + DEAD, "192.0.2.3".parse().ok()), Err(Unheard));
        // Another node is heard meanwhile.
        view.present(now + DEAD, presence(1, "192.0.2.1", &[]));
        assert_eq!(director(&view, now + DEAD, Some(two)), Ok(None));
        // The director was started again, and has stepped down.
        view.present(now + DEAD, presence(3, "192.0.2.2", &[]));
        assert_eq!(director(&view, now + DEAD, Some(two)), Err(Unheard));
    }
}
