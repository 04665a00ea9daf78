//! Tells other nodes of connections, as the kernel's own sync daemon does, but all at once.
//!
//! The kernel's master daemon sends a connection when packets pass, and never again: a backup
//! that starts later knows nothing of it, and a master daemon that is stopped forgets what it has
//! not sent yet, up to two seconds' worth. What the kernel lists as its connections can be sent
//! from outside: the backups' daemons take it as the director's own word.
//!
//! ```no_run
//! use lvs_dr::ipvs::{Ipvs, SyncRole, sync};
//!
//! let mut ipvs = Ipvs::open()?;
//! let (connections, table) = (ipvs.connections()?, ipvs.snapshot()?);
//! let entries = sync::entries(&connections, &table);
//! if let Some(Some(daemon)) = table.daemons.get(&SyncRole::Master) {
//!     ipvs.send_connections(daemon, &entries)?;
//! }
//! # Ok::<(), lvs_dr::Error>(())
//! ```

mod message;

pub(crate) use message::Maker;
pub use message::{Entry, entries, messages};

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddrV6, UdpSocket};
use std::os::fd::AsFd;
use std::thread;
use std::time::Duration;

use rustix::net::netdevice::name_to_index;
use rustix::net::sockopt;

use super::{Ipvs, SyncDaemon};
use crate::error::{Error, Result};
use crate::netns::Netns;

/// What fits an Ethernet frame behind the headers of IP and UDP; longer ones the kernel's backup
/// does not take by default.
const MAX_LENGTH_V4: u16 = 1472;
const MAX_LENGTH_V6: u16 = 1452;

/// A receiver's queue holds some 90 such messages by default (`net.core.rmem_default`): a burst
/// must find room in it, and the pause be long enough to empty it.
const BURST: usize = 16;
pub(crate) const PAUSE: Duration = Duration::from_millis(5);

impl Ipvs {
    /// Sends entries to the group of this daemon, whose interface, sync id, group, port and TTL
    /// count; it need not run. Returns how many messages were sent. It takes 5 ms for each 16
    /// messages, some 600 connections.
    ///
    /// Datagrams can be lost, and are not acknowledged. A node that receives an entry that it has
    /// already only learns of its state and timeout; one that it has with another real server it
    /// replaces.
    ///
    /// # Errors
    /// [`Error::Invalid`]: see [`SyncDaemon::check`]; [`Error::System`]: no such interface
    /// (`ENODEV`), or it has no address (`ENETUNREACH`, `EADDRNOTAVAIL`) or is down (`ENETDOWN`).
    pub fn send_connections(&mut self, daemon: &SyncDaemon, entries: &[Entry]) -> Result<usize> {
        let mut sender = ConnectionSender::open(self.netns(), daemon, entries)?;
        while sender.send()? {
            thread::sleep(PAUSE);
        }
        Ok(sender.messages.len())
    }
}

/// Sends connections a burst at a time.
#[derive(Debug)]
pub(crate) struct ConnectionSender {
    socket: UdpSocket,
    messages: Vec<Vec<u8>>,
    sent: usize,
    /// Names the receivers in errors.
    to: String,
}

impl ConnectionSender {
    pub(crate) fn open(netns: &Netns, daemon: &SyncDaemon, entries: &[Entry]) -> Result<Self> {
        daemon.check()?;
        let group = daemon.group.unwrap_or(SyncDaemon::DEFAULT_GROUP);
        let limit = if group.is_ipv4() { MAX_LENGTH_V4 } else { MAX_LENGTH_V6 };
        let to = format!("connections to {group} on {}", daemon.interface);
        let socket = netns.run(|| open(daemon, group))?.map_err(|e| Error::system("send", &to, e))?;
        Ok(ConnectionSender { socket, messages: messages(entries, daemon.sync_id, limit), sent: 0, to })
    }

    /// Sends one burst. Says whether there is more, to be sent after [`PAUSE`].
    pub(crate) fn send(&mut self) -> Result<bool> {
        for message in self.messages.iter().skip(self.sent).take(BURST) {
            self.socket.send(message).map_err(|e| Error::system("send", &self.to, e))?;
            self.sent += 1;
        }
        Ok(self.sent < self.messages.len())
    }
}

/// A socket as the kernel's daemon has one.
fn open(daemon: &SyncDaemon, group: IpAddr) -> io::Result<UdpSocket> {
    let port = daemon.port.unwrap_or(SyncDaemon::DEFAULT_PORT);
    let any: IpAddr = if group.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0))?;
    let interface = name_to_index(&socket, &daemon.interface)?;
    send_by(&socket, group, interface, daemon.ttl)?;
    match group {
        IpAddr::V4(group) => socket.connect((group, port))?,
        IpAddr::V6(group) => socket.connect(SocketAddrV6::new(group, port, 0, interface))?,
    }
    Ok(socket)
}

/// What is sent to this group goes out of this interface, so many hops (1), and not back to the
/// node's own listeners.
pub(crate) fn send_by(socket: impl AsFd, group: IpAddr, interface: u32, ttl: Option<u8>) -> io::Result<()> {
    let hops = ttl.unwrap_or(1).into();
    match group {
        IpAddr::V4(group) => {
            sockopt::set_ip_multicast_if_with_ifindex(&socket, &group, &Ipv4Addr::UNSPECIFIED, interface)?;
            sockopt::set_ip_multicast_loop(&socket, false)?;
            sockopt::set_ip_multicast_ttl(&socket, hops)?;
        }
        IpAddr::V6(_) => {
            sockopt::set_ipv6_multicast_if(&socket, interface)?;
            sockopt::set_ipv6_multicast_loop(&socket, false)?;
            sockopt::set_ipv6_multicast_hops(&socket, hops)?;
        }
    }
    Ok(())
}
