//! rtnetlink: a client that reconnects, messages as octets, and network interfaces. See
//! rtnetlink(7).

use std::convert::Infallible;

use netlink_packet_core::{NetlinkDeserializable, NetlinkHeader, NetlinkSerializable};
use rustix::io::Errno;

use super::TIME_LIMIT;
use super::attribute::{attributes, number, push_attribute, string};
use super::socket::{Failure, Outcome, Socket};
use crate::error::{Cause, Error, Result};
use crate::interface;
use crate::netns::Netns;

/// Number of attempts to read a list that changes while it is read.
const READS: usize = 10;

/// A client of one network namespace. After a failure of its socket it opens a new one.
#[derive(Debug)]
pub(crate) struct RouteClient {
    netns: Netns,
    open: Option<Socket>,
}

impl RouteClient {
    pub(crate) fn open(netns: Netns) -> Result<Self> {
        let mut client = RouteClient { netns, open: None };
        client.exchange(|_| Ok(())).map_err(|failure| explain(failure, "open", "an rtnetlink socket"))?;
        Ok(client)
    }

    pub(crate) fn netns(&self) -> &Netns {
        &self.netns
    }

    /// Runs `attempt` with the socket. After a failure that leaves the socket in an unknown state,
    /// the next exchange opens a new one.
    pub(crate) fn exchange<R>(
        &mut self,
        attempt: impl FnOnce(&mut Socket) -> Result<R, Failure>,
    ) -> Result<R, Failure> {
        let socket = match self.open.take() {
            Some(socket) => socket,
            None => {
                let socket = self.netns.run(|| Socket::route(TIME_LIMIT));
                socket.map_err(|e| Failure::Socket(std::io::Error::other(e)))?.map_err(Failure::Socket)?
            }
        };
        let result = attempt(self.open.insert(socket));
        if let Err(Failure::Socket(_) | Failure::NoAnswer(_) | Failure::Malformed(_)) = result {
            self.open = None;
        }
        result
    }

    /// Sends one request and returns its answers.
    pub(crate) fn request<T>(&mut self, question: T, flags: u16) -> Result<Vec<T>, Failure>
    where
        T: NetlinkSerializable + NetlinkDeserializable,
    {
        let mut answers = Vec::new();
        self.exchange(|socket| {
            socket.request(
                flags,
                |octets| write(&question, octets),
                |kind, octets| {
                    answers.push(read(kind, octets)?);
                    Ok(())
                },
            )
        })?;
        Ok(answers)
    }

    /// Reads a list and collects the results of `entry`. Reads it again if the kernel reports that
    /// it changed meanwhile.
    pub(crate) fn list<T, R>(&mut self, question: &T, mut entry: impl FnMut(T) -> Option<R>) -> Result<Vec<R>, Failure>
    where
        T: NetlinkSerializable + NetlinkDeserializable,
    {
        for _ in 0..READS {
            let mut entries = Vec::new();
            let whole = self.exchange(|socket| {
                let see = |kind, octets: &[u8]| {
                    entries.extend(entry(read(kind, octets)?));
                    Ok(())
                };
                socket.dump(|octets| write(question, octets), see)
            })?;
            if whole {
                return Ok(entries);
            }
        }
        let reason = format!("the list changed each of the {READS} times that it was read");
        Err(Failure::Socket(std::io::Error::other(reason)))
    }

    /// The same, of what matches the question's header, where the kernel filters (since Linux
    /// 4.20).
    pub(crate) fn list_filtered<T, R>(
        &mut self,
        question: &T,
        entry: impl FnMut(T) -> Option<R>,
    ) -> Result<Vec<R>, Failure>
    where
        T: NetlinkSerializable + NetlinkDeserializable,
    {
        self.exchange(|socket| {
            socket.filter_lists(true);
            Ok(())
        })?;
        let result = self.list(question, entry);
        self.exchange(|socket| {
            socket.filter_lists(false);
            Ok(())
        })?;
        result
    }

    /// Sends requests at once, see [`Socket::batch`].
    pub(crate) fn batch(&mut self, messages: &[RouteMessage], flags: u16) -> Result<Vec<Outcome>, Failure> {
        self.exchange(|socket| socket.batch(messages.len(), flags, |index, octets| write(&messages[index], octets)))
    }

    /// The interface of this name, or of this alternative name.
    ///
    /// # Errors
    /// [`Cause::NoInterface`] (`ENODEV`) when there is none.
    pub(crate) fn link_of_name(&mut self, name: &str) -> Result<Link> {
        let mut terminated = name.as_bytes().to_vec();
        terminated.push(0);
        // Both attributes find both kinds of names (rtnl_dev_get() in net/core/rtnetlink.c).
        let attribute = if name.len() > interface::LONGEST_NAME { IFLA_ALT_IFNAME } else { libc::IFLA_IFNAME };
        let question = RouteMessage::new(libc::RTM_GETLINK, &[0; LINK_HEADER]).with(attribute, &terminated);
        self.link(question).map_err(|failure| explain(failure, "find interface", name))
    }

    /// The interface of this index. `None`: the interface is gone.
    pub(crate) fn link_of_index(&mut self, index: u32) -> Result<Option<Link>> {
        let mut header = [0; LINK_HEADER];
        header[4..8].copy_from_slice(&index.to_ne_bytes());
        match self.link(RouteMessage::new(libc::RTM_GETLINK, &header)) {
            Err(failure) if is(&failure, Errno::NODEV) => Ok(None),
            result => result.map(Some).map_err(|failure| explain(failure, "find interface number", index)),
        }
    }

    fn link(&mut self, question: RouteMessage) -> Result<Link, Failure> {
        let answers = self.request(question, 0)?;
        answers.iter().find_map(Link::read).ok_or_else(|| Failure::Malformed("it holds no interface".into()))
    }

    /// All interfaces.
    pub(crate) fn links(&mut self) -> Result<Vec<Link>> {
        let question = RouteMessage::new(libc::RTM_GETLINK, &[0; LINK_HEADER])
            .with(libc::IFLA_EXT_MASK, &(libc::RTEXT_FILTER_SKIP_STATS as u32).to_ne_bytes());
        self.list(&question, |message| Link::read(&message)).map_err(|failure| explain(failure, "list", "interfaces"))
    }
}

/// Appends a message, and returns its type.
pub(super) fn write(message: &impl NetlinkSerializable, octets: &mut Vec<u8>) -> u16 {
    let start = octets.len();
    octets.resize(start + message.buffer_len(), 0);
    message.serialize(&mut octets[start..]);
    message.message_type()
}

fn read<T: NetlinkDeserializable>(kind: u16, octets: &[u8]) -> Result<T, Failure> {
    let mut header = NetlinkHeader::default();
    header.message_type = kind;
    T::deserialize(&header, octets).map_err(|error| Failure::Malformed(error.to_string()))
}

/// Whether the kernel refused with this errno.
pub(crate) fn is(failure: &Failure, errno: Errno) -> bool {
    failure.errno() == Some(errno.raw_os_error())
}

fn explain(failure: Failure, operation: &'static str, object: impl std::fmt::Display) -> Error {
    failure.explain(operation, object, |errno| match Errno::from_raw_os_error(errno) {
        Errno::PERM => Cause::Permission,
        Errno::NODEV => Cause::NoInterface,
        Errno::NOBUFS | Errno::NOMEM => Cause::NoMemory,
        Errno::INVAL => Cause::Invalid,
        _ => Cause::Other,
    })
}

/// An rtnetlink message as octets: its type, a fixed header, and attributes. Unlike
/// netlink-packet-route's types it takes any octets, so that one odd attribute does not cost the
/// whole answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RouteMessage {
    kind: u16,
    octets: Vec<u8>,
}

impl RouteMessage {
    /// A message of this type (`RTM_…`) with this header, whose length is a multiple of 4.
    pub(crate) fn new(kind: u16, header: &[u8]) -> Self {
        RouteMessage { kind, octets: header.to_vec() }
    }

    /// Adds an attribute.
    pub(crate) fn with(mut self, kind: u16, value: &[u8]) -> Self {
        push_attribute(&mut self.octets, kind, value);
        self
    }

    pub(crate) fn kind(&self) -> u16 {
        self.kind
    }

    /// The header, and the octets of the attributes. `None`: the message is too short.
    pub(crate) fn split<const HEADER: usize>(&self) -> Option<(&[u8; HEADER], &[u8])> {
        self.octets.split_first_chunk()
    }

    pub(crate) fn octets(&self) -> &[u8] {
        &self.octets
    }
}

impl NetlinkSerializable for RouteMessage {
    fn message_type(&self) -> u16 {
        self.kind
    }

    fn buffer_len(&self) -> usize {
        self.octets.len()
    }

    fn serialize(&self, buffer: &mut [u8]) {
        buffer.copy_from_slice(&self.octets);
    }
}

impl NetlinkDeserializable for RouteMessage {
    type Error = Infallible;

    fn deserialize(header: &NetlinkHeader, payload: &[u8]) -> Result<Self, Infallible> {
        Ok(RouteMessage { kind: header.message_type, octets: payload.to_vec() })
    }
}

/// A network interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Link {
    /// `AF_UNSPEC`; `AF_BRIDGE` in a bridge's notification about one of its ports.
    pub(crate) family: u8,
    pub(crate) name: String,
    pub(crate) index: u32,
    /// `ARPHRD_ETHER` and others, see linux/if_arp.h.
    pub(crate) hardware: u16,
    /// `bond`, `macvlan` and others; empty for most hardware (`IFLA_INFO_KIND`).
    pub(crate) kind: String,
    /// The bond, bridge or VRF that it belongs to (`IFLA_MASTER`).
    pub(crate) master: Option<u32>,
    /// The interface below a VLAN or macvlan, in the same namespace (`IFLA_LINK`).
    pub(crate) lower: Option<u32>,
    flags: u32,
    address: Vec<u8>,
    permanent: Vec<Vec<u8>>,
}

/// `struct ifinfomsg`: family, padding, type u16, index i32, flags u32, change u32, in host order.
const LINK_HEADER: usize = 16;
const IFLA_ALT_IFNAME: u16 = 53;
const IFLA_PERM_ADDRESS: u16 = 54;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_SLAVE_KIND: u16 = 4;
const IFLA_INFO_SLAVE_DATA: u16 = 5;
const IFLA_BOND_SLAVE_PERM_HWADDR: u16 = 4;

impl Link {
    /// Reads an `RTM_NEWLINK` or `RTM_DELLINK` message. `None`: it is something else, or
    /// malformed.
    pub(crate) fn read(message: &RouteMessage) -> Option<Self> {
        if !matches!(message.kind(), libc::RTM_NEWLINK | libc::RTM_DELLINK) {
            return None;
        }
        let (&[family, _, h0, h1, i0, i1, i2, i3, f0, f1, f2, f3, ..], octets) = message.split::<LINK_HEADER>()?;
        let mut link = Link {
            family,
            name: String::new(),
            index: u32::from_ne_bytes([i0, i1, i2, i3]),
            hardware: u16::from_ne_bytes([h0, h1]),
            kind: String::new(),
            master: None,
            lower: None,
            flags: u32::from_ne_bytes([f0, f1, f2, f3]),
            address: Vec::new(),
            permanent: Vec::new(),
        };
        let mut elsewhere = false;
        for (kind, value) in attributes(octets) {
            match kind {
                libc::IFLA_IFNAME => link.name = string(value),
                libc::IFLA_ADDRESS => link.address = value.to_vec(),
                libc::IFLA_MASTER => link.master = number(value),
                libc::IFLA_LINK => link.lower = number(value).filter(|&lower| lower != 0),
                libc::IFLA_LINK_NETNSID => elsewhere = true,
                IFLA_PERM_ADDRESS => link.permanent.push(value.to_vec()),
                libc::IFLA_LINKINFO => link.read_info(value),
                _ => {}
            }
        }
        if elsewhere {
            link.lower = None;
        }
        (!link.name.is_empty()).then_some(link)
    }

    fn read_info(&mut self, octets: &[u8]) {
        let mut slave = "";
        for (kind, value) in attributes(octets) {
            match kind {
                IFLA_INFO_KIND => self.kind = string(value),
                IFLA_INFO_SLAVE_KIND if value.starts_with(b"bond") => slave = "bond",
                // The address from before it joined, see bond_fill_slave_info() in
                // drivers/net/bonding.
                IFLA_INFO_SLAVE_DATA if slave == "bond" => self.permanent.extend(
                    attributes(value).filter(|(kind, _)| *kind == IFLA_BOND_SLAVE_PERM_HWADDR).map(|(_, v)| v.to_vec()),
                ),
                _ => {}
            }
        }
    }

    /// Whether there are others on the link, and they keep a neighbour (ARP) cache.
    pub(crate) fn has_neighbours(&self) -> bool {
        self.flags & (libc::IFF_LOOPBACK | libc::IFF_POINTOPOINT | libc::IFF_NOARP) as u32 == 0
    }

    /// Whether it is switched on.
    pub(crate) fn is_up(&self) -> bool {
        self.flags & libc::IFF_UP as u32 != 0
    }

    /// Whether it is up and has a carrier.
    pub(crate) fn is_running(&self) -> bool {
        let needed = (libc::IFF_UP | libc::IFF_RUNNING) as u32;
        self.flags & needed == needed
    }

    /// The address that its frames carry. `None`: the link is not like Ethernet.
    pub(crate) fn ethernet_address(&self) -> Option<[u8; 6]> {
        self.ethernet(&self.address)
    }

    /// The permanent address of the hardware (`IFLA_PERM_ADDRESS`), and for a slave of a bond the
    /// address that it had before it joined.
    pub(crate) fn permanent_ethernet_addresses(&self) -> impl Iterator<Item = [u8; 6]> {
        self.permanent.iter().filter_map(|address| self.ethernet(address))
    }

    fn ethernet(&self, address: &[u8]) -> Option<[u8; 6]> {
        let mac = address.try_into().ok()?;
        (self.hardware == libc::ARPHRD_ETHER).then_some(mac)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(kind: u16, octets: &[u8]) -> Option<Link> {
        Link::read(&RouteMessage { kind, octets: octets.to_vec() })
    }

    #[test]
    #[cfg(target_endian = "little")]
    fn a_link_is_read() {
        // eth0 of a Linux 6.1, with one attribute (IFLA_TXQLEN) that is passed over.
        let octets = [
            &[0, 0, 1, 0, 2, 0, 0, 0, 0x43, 0x10, 1, 0, 0, 0, 0, 0][..],
            &[9, 0, 3, 0, b'e', b't', b'h', b'0', 0, 0, 0, 0],
            &[8, 0, 13, 0, 0xe8, 3, 0, 0],
            &[10, 0, 1, 0, 2, 0, 0, 0, 0, 1, 0, 0],
        ]
        .concat();
        let link = link(libc::RTM_NEWLINK, &octets).unwrap();
        assert_eq!((link.name.as_str(), link.index, link.hardware), ("eth0", 2, libc::ARPHRD_ETHER));
        assert!(link.has_neighbours() && link.is_running());
        assert_eq!(link.ethernet_address(), Some([2, 0, 0, 0, 0, 1]));
        assert_eq!(super::tests::link(libc::RTM_NEWADDR, &octets), None);
        for cut in 0..octets.len() {
            let _ = super::tests::link(libc::RTM_NEWLINK, &octets[..cut]);
        }
    }

    #[test]
    fn masters_and_lower_interfaces() {
        let header = [0, 0, 1, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        let mut data = Vec::new();
        push_attribute(&mut data, IFLA_BOND_SLAVE_PERM_HWADDR, &[2, 0, 0, 0, 0, 9]);
        let mut info = Vec::new();
        push_attribute(&mut info, IFLA_INFO_KIND, b"veth\0");
        push_attribute(&mut info, IFLA_INFO_SLAVE_KIND, b"bond\0");
        push_attribute(&mut info, IFLA_INFO_SLAVE_DATA, &data);
        let message = RouteMessage::new(libc::RTM_NEWLINK, &header)
            .with(libc::IFLA_IFNAME, b"a.1\0")
            .with(libc::IFLA_MASTER, &7u32.to_ne_bytes())
            .with(libc::IFLA_LINK, &3u32.to_ne_bytes())
            .with(IFLA_PERM_ADDRESS, &[2, 0, 0, 0, 0, 8])
            .with(libc::IFLA_LINKINFO, &info);
        let link = Link::read(&message).unwrap();
        assert_eq!((link.kind.as_str(), link.master, link.lower), ("veth", Some(7), Some(3)));
        let permanent: Vec<_> = link.permanent_ethernet_addresses().map(|mac| mac[5]).collect();
        assert_eq!(permanent, [8, 9]);
        let elsewhere = Link::read(&message.with(libc::IFLA_LINK_NETNSID, &[0; 4])).unwrap();
        assert_eq!(elsewhere.lower, None);
    }

    #[test]
    fn interfaces_are_found() {
        let mut client = RouteClient::open(Netns::current().unwrap()).unwrap();
        let lo = client.link_of_name("lo").unwrap();
        assert!(!lo.has_neighbours());
        assert!(client.links().unwrap().iter().any(|link| link.index == lo.index));
        assert_eq!(client.link_of_index(lo.index).unwrap(), Some(lo));
        assert_eq!(client.link_of_name("no-such-one").unwrap_err().cause(), Some(Cause::NoInterface));
        assert_eq!(client.link_of_index(u32::MAX / 2).unwrap(), None);
    }
}
