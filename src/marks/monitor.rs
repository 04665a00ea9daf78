//! Changes of neighbours, interfaces and addresses, as they happen.

use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd};

use super::neighbours::{Neighbour, read_address};
use crate::error::{Error, Result};
use crate::netlink::{Link, Listener, RouteClient, RouteMessage, attributes};
use crate::netns::Netns;

/// Receives the kernel's notifications about neighbours, interfaces and addresses of one network
/// namespace (`RTNLGRP_NEIGH`, `RTNLGRP_LINK`, `RTNLGRP_IPV4_IFADDR`, `RTNLGRP_IPV6_IFADDR`).
///
/// Wait for its descriptor to become readable (poll(2)), then call [`Monitor::next`] until it
/// returns `None`. Open it before reading the neighbours, so that no change is missed between the
/// two.
///
/// ```no_run
/// use lvs_dr::marks::Monitor;
/// use rustix::event::{PollFd, PollFlags, poll};
///
/// let mut monitor = Monitor::open()?;
/// loop {
///     poll(&mut [PollFd::new(&monitor, PollFlags::IN)], None)?;
///     while let Some(event) = monitor.next()? {
///         println!("{event:?}");
///     }
/// }
/// # #[allow(unreachable_code)]
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Monitor {
    listener: Listener,
    client: RouteClient,
    names: BTreeMap<u32, String>,
    pending: VecDeque<RouteMessage>,
}

/// A change.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// A neighbour is new, or its MAC address or state changed.
    Neighbour(Neighbour),
    /// The kernel forgot a neighbour.
    NeighbourGone(Neighbour),
    /// An interface is new or changed: its name, flags, MAC address or master.
    Interface {
        /// Its name, now.
        name: String,
        /// Its index.
        index: u32,
    },
    /// An interface was removed, or moved to another network namespace.
    InterfaceGone {
        /// Its last name.
        name: String,
        /// Its index.
        index: u32,
    },
    /// An address of an interface is new or changed.
    Address {
        /// The address.
        address: IpAddr,
        /// The interface's index.
        index: u32,
    },
    /// An address of an interface was removed.
    AddressGone {
        /// The address.
        address: IpAddr,
        /// The interface's index.
        index: u32,
    },
    /// Notifications were lost, because they came faster than they were read (`ENOBUFS`): read
    /// everything again.
    Missed,
}

impl Monitor {
    /// Listens in the calling thread's network namespace.
    pub fn open() -> Result<Self> {
        Self::open_in(Netns::current()?)
    }

    /// Listens in this network namespace, whatever thread it is used from.
    ///
    /// # Errors
    /// [`Error::System`] when the socket cannot be opened.
    pub fn open_in(netns: Netns) -> Result<Self> {
        let groups = [libc::RTNLGRP_LINK, libc::RTNLGRP_NEIGH, libc::RTNLGRP_IPV4_IFADDR, libc::RTNLGRP_IPV6_IFADDR];
        let groups = groups.into_iter().fold(0, |all, group| all | 1 << (group - 1));
        let listener = netns.run(|| Listener::open(groups))?.map_err(|e| Error::system("open", WHAT, e))?;
        let client = RouteClient::open(netns)?;
        Ok(Monitor { listener, client, names: BTreeMap::new(), pending: VecDeque::new() })
    }

    /// The next change. `None`: there is none at present. Does not wait for a change; where the
    /// name of an interface is not known yet, the kernel is asked for it.
    ///
    /// # Errors
    /// [`Error::System`] when the socket fails.
    #[allow(clippy::should_implement_trait)]
    pub fn next(&mut self) -> Result<Option<Event>> {
        loop {
            while let Some(message) = self.pending.pop_front() {
                if let Some(event) = self.event(&message)? {
                    return Ok(Some(event));
                }
            }
            match self.listener.receive() {
                Ok(Some(messages)) => self.pending.extend(messages),
                Ok(None) => return Ok(None),
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => {
                    self.names.clear();
                    return Ok(Some(Event::Missed));
                }
                Err(error) => return Err(Error::system("receive from", WHAT, error)),
            }
        }
    }

    fn event(&mut self, message: &RouteMessage) -> Result<Option<Event>> {
        if let Some(link) = Link::read(message) {
            return Ok(self.link_event(message, link));
        }
        if let Some((address, index)) = read_address_change(message) {
            return Ok(Some(match message.kind() {
                libc::RTM_NEWADDR => Event::Address { address, index },
                _ => Event::AddressGone { address, index },
            }));
        }
        let Some(mut neighbour) = Neighbour::read(message) else { return Ok(None) };
        let Some(name) = self.name(neighbour.index)? else { return Ok(None) };
        neighbour.interface = name;
        Ok(Some(match message.kind() {
            libc::RTM_NEWNEIGH => Event::Neighbour(neighbour),
            _ => Event::NeighbourGone(neighbour),
        }))
    }

    fn link_event(&mut self, message: &RouteMessage, link: Link) -> Option<Event> {
        // A bridge sends such messages about its ports, too: a port that leaves the bridge is not
        // gone.
        if link.family != libc::AF_UNSPEC as u8 {
            return None;
        }
        let (name, index) = (link.name, link.index);
        if message.kind() == libc::RTM_DELLINK {
            self.names.remove(&index);
            return Some(Event::InterfaceGone { name, index });
        }
        self.names.insert(index, name.clone());
        Some(Event::Interface { name, index })
    }

    /// `None`: the interface is gone.
    fn name(&mut self, index: u32) -> Result<Option<String>> {
        if let Some(name) = self.names.get(&index) {
            return Ok(Some(name.clone()));
        }
        let Some(link) = self.client.link_of_index(index)? else { return Ok(None) };
        self.names.insert(index, link.name.clone());
        Ok(Some(link.name))
    }
}

/// The address that a message is about, and its interface's index (`struct ifaddrmsg`). An address
/// with a peer stands in `IFA_LOCAL`, IPv6 without one in `IFA_ADDRESS` alone.
fn read_address_change(message: &RouteMessage) -> Option<(IpAddr, u32)> {
    if !matches!(message.kind(), libc::RTM_NEWADDR | libc::RTM_DELADDR) {
        return None;
    }
    let (&[family, _, _, _, i0, i1, i2, i3], octets) = message.split::<8>()?;
    let (mut local, mut other) = (None, None);
    for (kind, value) in attributes(octets) {
        match kind {
            libc::IFA_LOCAL => local = read_address(i32::from(family), value),
            libc::IFA_ADDRESS => other = read_address(i32::from(family), value),
            _ => {}
        }
    }
    Some((local.or(other)?, u32::from_ne_bytes([i0, i1, i2, i3])))
}

const WHAT: &str = "the socket for changes of neighbours";

impl AsFd for Monitor {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }
}
