//! The socket of the plane between the nodes: beacons and presences go to the sync group, one UDP
//! port below that of the sync messages.
//!
//! A datagram is received only from the sync interface and only if it was sent to the group: the
//! socket is bound to both, so that the kernel discards unicast datagrams and those of other
//! interfaces (`__udp_is_mcast_sock()` in net/ipv4/udp.c, `__udp_v6_is_mcast_sock()` in
//! net/ipv6/udp.c). Routers do not forward the default group; with a group that they forward,
//! [`SyncConfig::ttl`] keeps this node's datagrams on the link. The TTL of received datagrams is
//! not tested: all versions send with TTL 1, which a datagram from elsewhere can have as well.
//!
//! What a host that is not a node can do:
//!
//! - It is not on the link: nothing.
//! - It is on the link, and the configuration has no key: it can claim to be a node. Then packets
//!   of unknown connections go to another node of the cluster, its MAC addresses count as those of
//!   a node, all connections are sent again up to three times a minute, and a node that starts
//!   stays out of elections for up to a minute.
//! - It is on the link, and the configuration has a key: it can suppress and delay datagrams, see
//!   [`seal`](super::seal).
//! - The kernel's sync messages have no key in either case: a host on the link can add connections
//!   to the tables of all nodes.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4, SocketAddrV6, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::net::netdevice::name_to_index;
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType, bind, recvfrom, socket_with, sockopt};

use super::beacon::{Beacon, Heard, Presence};
use super::fence::SyncConfig;
use super::limit::Bucket;
use super::seal::{Key, Seal};
use crate::error::{Error, Result};
use crate::files::read_secret;
use crate::ipvs::sync::send_by;
use crate::netlink::bind_to_interface;
use crate::netns::Netns;
use crate::wait::wait;

/// No cluster's nodes send more: 64 nodes send 128 datagrams a second.
const BURST: u32 = 256;
const INTERVAL: Duration = Duration::from_millis(5);

/// The longest datagram that is read.
const LENGTH: usize = 1500;

/// What all sockets of a program share: the cluster's key, and which nodes have proved that they
/// have it.
#[derive(Debug, Clone)]
pub(super) struct Plane(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    seal: Seal,
    bucket: Bucket,
}

impl Plane {
    /// Reads the key file, if the configuration names one: [`SyncConfig::key_file`].
    ///
    /// # Errors
    /// As [`read_secret`]; [`Error::Invalid`]: the key is too short.
    pub(super) fn open(sync: &SyncConfig) -> Result<Self> {
        let read = |path| {
            Key::new(&read_secret(path)?).map_err(|error| match error {
                Error::Invalid { reason, .. } => Error::invalid(path.display(), reason),
                other => other,
            })
        };
        let key = sync.key_file.as_deref().map(read).transpose()?;
        let state = State { seal: Seal::new(key, number()), bucket: Bucket::new(BURST, INTERVAL) };
        Ok(Plane(Arc::new(Mutex::new(state))))
    }

    /// How many datagrams were ignored because they did not prove that they come from a node with
    /// the cluster's key.
    pub(super) fn refused(&self) -> u64 {
        self.state().seal.refused()
    }

    /// A warning about these datagrams, once a minute at most.
    pub(super) fn warning(&self, now: Instant) -> Option<String> {
        self.state().seal.warning(now)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn close(&self, text: String) -> String {
        self.state().seal.close(Instant::now(), text)
    }

    /// The text of another node of this cluster.
    fn read(&self, now: Instant, octets: &[u8], id: u8, from: IpAddr) -> Option<Heard> {
        let datagram = str::from_utf8(octets).ok()?;
        let heard = Seal::text(datagram).parse::<Heard>().ok().filter(|heard| heard.id() == id)?;
        let mut state = self.state();
        match state.seal.open(now, datagram) {
            Ok(()) => state.bucket.take(now).then_some(heard),
            Err(reason) => {
                state.seal.refuse(from, reason);
                None
            }
        }
    }
}

/// Another number at each start.
pub(super) fn number() -> u64 {
    RandomState::new().hash_one(std::process::id())
}

/// A socket in the sync group, for beacons.
#[derive(Debug)]
pub(super) struct Peers {
    socket: UdpSocket,
    group: SocketAddr,
    interface: u32,
    id: u8,
    plane: Plane,
}

impl AsFd for Peers {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Peers {
    /// Joins the group in this network namespace. Needs `CAP_NET_RAW` before Linux 5.7.
    ///
    /// # Errors
    /// [`Error::System`]: no such interface (`ENODEV`), or it takes no part in multicast.
    pub(super) fn open_in(netns: &Netns, sync: &SyncConfig, plane: &Plane) -> Result<Self> {
        let (address, [_, port]) = sync.group_and_ports();
        let failed = |e: io::Error| Error::system("listen to", format!("{address} on {}", sync.interface), e);
        let joined = netns.run(|| join(address, port, sync))?;
        let (socket, group, interface) = joined.map_err(failed)?;
        Ok(Peers { socket, group, interface, id: sync.id, plane: plane.clone() })
    }

    /// The index of the interface that it is bound to. An interface that was removed and made anew
    /// has another index, whatever its name: then nothing is received any more, and sending fails
    /// (`ENODEV`).
    pub(super) fn interface_index(&self) -> u32 {
        self.interface
    }

    /// Sends a beacon.
    ///
    /// # Errors
    /// [`Error::System`]: the interface is down, has no address, or was removed.
    pub(super) fn send(&self, beacon: &Beacon) -> Result<()> {
        self.send_text(beacon.to_string())
    }

    /// Sends which addresses this node has.
    ///
    /// # Errors
    /// As [`Peers::send`].
    pub(super) fn send_presence(&self, presence: &Presence) -> Result<()> {
        self.send_text(presence.datagram())
    }

    fn send_text(&self, text: String) -> Result<()> {
        let sent = self.socket.send_to(self.plane.close(text).as_bytes(), self.group);
        sent.map(drop).map_err(|e| Error::system("send a beacon to", self.group, e))
    }

    /// The next beacon or presence of another node of this cluster that has arrived. Does not
    /// wait. Other datagrams are ignored, and so are those above 200 a second.
    ///
    /// # Errors
    /// As [`Peers::receive`].
    pub(super) fn next(&self, now: Instant) -> Result<Option<(IpAddr, Heard)>> {
        let failed = |e: io::Error| Error::system("listen to", self.group, e);
        let mut octets = [0; LENGTH];
        loop {
            match recvfrom(&self.socket, &mut octets[..], RecvFlags::DONTWAIT) {
                Ok((length, _, from)) => {
                    let from = from.and_then(|from| SocketAddr::try_from(from).ok()).map(|from| from.ip());
                    let octets = octets.get(..length).unwrap_or_default();
                    let Some(from) = from else { continue };
                    if let Some(heard) = self.plane.read(now, octets, self.id, from) {
                        return Ok(Some((from, heard)));
                    }
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Ok(None),
                Err(error) => return Err(failed(error.into())),
            }
        }
    }

    /// Waits for the next beacon or presence of another node of this cluster, for `limit` at most.
    /// Other datagrams are ignored, and so are those above 200 a second.
    ///
    /// # Errors
    /// [`Error::System`]: for example the interface is down.
    pub(super) fn receive(&self, limit: Duration) -> Result<Option<(IpAddr, Heard)>> {
        let until = Instant::now() + limit;
        loop {
            let now = Instant::now();
            match self.next(now)? {
                None if now < until => wait(Some(self.as_fd()), Some(until)),
                heard => return Ok(heard),
            }
        }
    }
}

fn join(address: IpAddr, port: u16, sync: &SyncConfig) -> io::Result<(UdpSocket, SocketAddr, u32)> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let socket = socket_with(family, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
    let interface = name_to_index(&socket, &sync.interface)?;
    bind_to_interface(&socket, interface)?;
    send_by(&socket, address, interface, sync.ttl)?;
    // A node's own programs may listen side by side.
    sockopt::set_socket_reuseaddr(&socket, true)?;
    // Bound to the group before it joins, it receives nothing else.
    let group = match address {
        IpAddr::V4(group) => {
            let to = SocketAddrV4::new(group, port);
            bind(&socket, &to)?;
            sockopt::set_ip_add_membership_with_ifindex(&socket, &group, &Ipv4Addr::UNSPECIFIED, interface)?;
            to.into()
        }
        IpAddr::V6(group) => {
            let to = SocketAddrV6::new(group, port, 0, interface);
            bind(&socket, &to)?;
            sockopt::set_ipv6_add_membership(&socket, &group, interface)?;
            to.into()
        }
    };
    Ok((UdpSocket::from(socket), group, interface))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::Role;

    fn plane(key: Option<&[u8]>, number: u64) -> Plane {
        let seal = Seal::new(key.map(|key| Key::new(key).unwrap()), number);
        Plane(Arc::new(Mutex::new(State { seal, bucket: Bucket::new(BURST, INTERVAL) })))
    }

    fn beacon(id: u8) -> Beacon {
        Beacon { id, node: 7, role: Role::Master, known: 1, told: (1, 1), wants: false }
    }

    fn from() -> IpAddr {
        "192.0.2.13".parse().unwrap()
    }

    #[test]
    fn what_is_read_is_of_this_cluster() {
        let (now, plane) = (Instant::now(), plane(None, 1));
        let read = |text: &str, id| plane.read(now, text.as_bytes(), id, from());
        assert_eq!(read(&beacon(254).to_string(), 254), Some(Heard::Beacon(beacon(254))));
        assert_eq!(read(&beacon(254).to_string(), 253), None);
        assert!(matches!(read("lvs-dr-node-1 id=254 node=7", 254), Some(Heard::Presence(_))));
        assert_eq!(read("lvs-dr-node-1 id=253 node=7", 254), None);
        assert_eq!(plane.read(now, b"\xff", 254, from()), None);
        // Version 0.1's words in a text of a later version with a key.
        let sealed = format!("{}\nlvs-dr-seal-1 1 2 - 3", beacon(254));
        assert_eq!(read(&sealed, 254), Some(Heard::Beacon(beacon(254))));
    }

    #[test]
    fn a_flood_is_cut_off() {
        let (now, plane) = (Instant::now(), plane(None, 1));
        let text = beacon(254).to_string();
        let read = |at: u64, count: usize| {
            let now = now + Duration::from_millis(at);
            (0..count).filter(|_| plane.read(now, text.as_bytes(), 254, from()).is_some()).count()
        };
        assert_eq!([read(0, 1000), read(1000, 1000), read(60_000, 1000)], [256, 200, 256]);
    }

    #[test]
    fn with_a_key_only_those_that_have_it_are_heard_and_only_those_of_this_id_are_warned_of() {
        let now = Instant::now();
        let [a, b, stranger] = [(b"0123456789abcdef", 1), (b"0123456789abcdef", 2), (b"0123456789ABCDEF", 3)]
            .map(|(key, number)| plane(Some(&key[..]), number));
        let send = |from_plane: &Plane, to: &Plane, id: u8| {
            to.read(now, from_plane.close(beacon(id).to_string()).as_bytes(), 254, from())
        };
        assert_eq!(send(&a, &b, 254), None);
        assert!(send(&b, &a, 254).is_some() && send(&a, &b, 254).is_some());
        // Other clusters are none of its business.
        assert_eq!((send(&stranger, &a, 253), a.refused(), a.warning(now)), (None, 0, None));
        assert_eq!((send(&stranger, &a, 254), a.refused()), (None, 1));
        assert_eq!(a.read(now, beacon(254).to_string().as_bytes(), 254, from()), None);
        assert!(a.warning(now).is_some_and(|warning| warning.starts_with("2 beacons were ignored")));
        // A flood of strangers does not keep the nodes unheard.
        (0..1000).for_each(|_| drop(send(&stranger, &a, 254)));
        assert!(send(&b, &a, 254).is_some());
    }
}
