//! Asks the link who holds an address, past the kernel's neighbour table.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use rustix::io::Errno;

use super::{Mac, Marks};
use crate::address::check_vip;
use crate::error::{Cause, Error, Result};
use crate::interface;
use crate::netlink::{BROADCAST, ETHER_ARP, ETHER_IPV6, Listening, PacketSockets, arp_request, neighbour_discovery};
use crate::netns::Netns;
use crate::wait::wait;

/// Longer than an ARP packet with its padding, and than an advertisement with all options that are
/// known.
const FRAME: usize = 512;

/// Asks all nodes on the interface's link who holds `address`, and returns the MAC addresses that
/// answer, in numerical order: none, one, or several where two directors hold a VIP. Answers from
/// the interface's own MAC address are ignored.
///
/// The kernel's neighbour table is neither read nor changed, and no table of another node is made
/// wrong:
///
/// - IPv4: an ARP probe (RFC 5227, section 2.1.1), whose sender address is 0.0.0.0. Linux answers
///   for an address of the interface that receives the probe, also with `arp_ignore` 1 or 2, and
///   for one on `lo` only where `arp_ignore` permits it.
/// - IPv6: a neighbour solicitation (RFC 4861, section 7.2.2) from the interface's link-local
///   address, to which the holder alone answers; the holder learns the MAC address of that
///   link-local address. Where the interface has no usable link-local address the source is
///   unspecified: the holder then advertises the address to all nodes, and a node that is just
///   checking the address for duplicates gives it up.
///
/// Blocks at most `limit`, plus the time to open and close a socket (some 10 ms: the kernel waits
/// for a grace period of RCU). The question is sent at once, and again after half of `limit` if no
/// answer arrived. After the first answer the call waits for further ones for `linger` (within
/// `limit`); with zero it returns at once.
///
/// A link that carries nothing (no carrier, or an interface without neighbours such as `dummy0`)
/// gives an empty answer after `limit`.
///
/// # Errors
/// - [`Error::Invalid`] for an address that is no VIP's (multicast, loopback, link-local ...), and
///   for an interface that is not like Ethernet: `lo`, a tunnel, InfiniBand.
/// - [`Error::Refused`] with [`Cause::NoInterface`] (`ENODEV`), or with [`Cause::InterfaceDown`]
///   (`ENETDOWN`) where the interface is switched off.
/// - [`Error::System`] where `CAP_NET_RAW` is missing (`EPERM`), where the namespace cannot be
///   entered, and where the socket fails otherwise.
///
/// ```no_run
/// use std::time::Duration;
/// use lvs_dr::{Netns, marks};
///
/// let vip = "192.168.0.254".parse()?;
/// let limit = Duration::from_millis(500);
/// let holders = marks::who_has(&Netns::current()?, "eth0", vip, limit, limit)?;
/// if holders.len() > 1 {
///     println!("{vip} is on several hosts: {holders:?}");
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn who_has(netns: &Netns, interface: &str, address: IpAddr, limit: Duration, linger: Duration) -> Result<Vec<Mac>> {
    Probe::send(&mut PacketSockets::default(), netns, interface, address, limit, linger)?.end()
}

impl Marks {
    /// As [`who_has`], with a socket that is kept, so that nothing waits for its end.
    pub(crate) fn who_has(
        &mut self,
        interface: &str,
        address: IpAddr,
        limit: Duration,
        linger: Duration,
    ) -> Result<Vec<Mac>> {
        self.probe(interface, address, limit, linger)?.end()
    }

    /// Asks as [`who_has`], without waiting for an answer.
    pub(crate) fn probe(
        &mut self,
        interface: &str,
        address: IpAddr,
        limit: Duration,
        linger: Duration,
    ) -> Result<Probe> {
        Probe::send(&mut self.sockets, self.client.netns(), interface, address, limit, linger)
    }
}

/// A question that waits for answers, see [`who_has`].
#[derive(Debug)]
pub(crate) struct Probe {
    socket: Listening,
    question: Question,
    own: [u8; 6],
    object: String,
    found: BTreeSet<Mac>,
    /// When it is asked again, unless there is an answer.
    again: Option<Instant>,
    until: Instant,
    linger: Duration,
}

impl Probe {
    /// Asks for the first time.
    fn send(
        sockets: &mut PacketSockets,
        netns: &Netns,
        interface: &str,
        address: IpAddr,
        limit: Duration,
        linger: Duration,
    ) -> Result<Self> {
        check_vip(address)?;
        interface::check_name(interface)?;
        let object = format!("who has {address} on {interface}");
        netns.run(|| {
            let (ether_type, only) = match address {
                IpAddr::V4(_) => (ETHER_ARP, ARP_REPLY),
                IpAddr::V6(_) => (ETHER_IPV6, ADVERTISEMENT),
            };
            let socket = sockets.listen(interface, ether_type, only).map_err(|e| explain(&object, e))?;
            let own = socket.ethernet_address().map_err(|e| explain(&object, e))?.map_err(|kind| {
                let reason = format!("only Ethernet links can be asked; its type is {kind} (see linux/if_arp.h)");
                Error::invalid(interface, reason)
            })?;
            let question = Question::new(address, own, || link_local(socket.interface()));
            socket.send(&question.destination, &question.payload).map_err(|e| explain(&object, e))?;
            let start = Instant::now();
            // A limit beyond the clock's range is as good as a day.
            let at = |after: Duration| start.checked_add(after).unwrap_or(start + Duration::from_secs(86400));
            let (again, until) = (Some(at(limit / 2)), at(limit));
            Ok(Probe { socket, question, own, object: object.clone(), found: BTreeSet::new(), again, until, linger })
        })?
    }

    /// The MAC addresses that have answered, once it has ended. Does not wait.
    ///
    /// # Errors
    /// As [`who_has`].
    pub(crate) fn poll(&mut self, now: Instant) -> Result<Option<Vec<Mac>>> {
        let mut frame = [0; FRAME];
        while let Some(length) = self.socket.receive(&mut frame).map_err(|e| explain(&self.object, e))? {
            let Some(mac) = self.question.answered_by(&frame[..length]).filter(|mac| *mac != self.own) else {
                continue;
            };
            if self.found.is_empty() {
                self.until = self.until.min(now.checked_add(self.linger).unwrap_or(self.until));
                self.again = None;
            }
            self.found.insert(Mac(mac));
            if self.linger.is_zero() {
                break;
            }
        }
        if now >= self.until {
            return Ok(Some(std::mem::take(&mut self.found).into_iter().collect()));
        }
        if self.again.is_some_and(|again| now >= again) {
            self.again = None;
            let sent = self.socket.send(&self.question.destination, &self.question.payload);
            sent.map_err(|e| explain(&self.object, e))?;
        }
        Ok(None)
    }

    /// Waits for the answers.
    fn end(mut self) -> Result<Vec<Mac>> {
        loop {
            match self.poll(Instant::now())? {
                Some(found) => return Ok(found),
                None => wait(Some(self.as_fd()), Some(self.until())),
            }
        }
    }

    /// When it is to be polled, unless its descriptor becomes readable before.
    pub(crate) fn until(&self) -> Instant {
        self.again.unwrap_or(self.until)
    }
}

impl AsFd for Probe {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

fn explain(object: &str, error: io::Error) -> Error {
    let errno = error.raw_os_error();
    let cause = match errno.map(Errno::from_raw_os_error) {
        Some(Errno::NODEV | Errno::NXIO) => Cause::NoInterface,
        Some(Errno::NETDOWN) => Cause::InterfaceDown,
        Some(Errno::PERM) => return Error::system("ask (CAP_NET_RAW is needed)", object, error),
        _ => return Error::system("ask", object, error),
    };
    let (object, errno) = (object.to_owned(), errno.unwrap_or_default());
    Error::Refused { operation: "ask", object, errno, cause, message: None }
}

/// What the socket's filter lets through, as offsets and values. ARP: an operation of 2.
const ARP_REPLY: &[(u8, u8)] = &[(6, 0), (7, 2)];

/// The next header (58, ICMPv6) and the message's type (136).
const ADVERTISEMENT: &[(u8, u8)] = &[(6, 58), (40, 136)];

/// A frame that asks for an address, without its source, which is the interface's own address.
#[derive(Debug, PartialEq, Eq)]
struct Question {
    address: IpAddr,
    destination: [u8; 6],
    payload: Vec<u8>,
}

impl Question {
    fn new(address: IpAddr, mac: [u8; 6], link_local: impl FnOnce() -> Option<Ipv6Addr>) -> Self {
        match address {
            IpAddr::V4(vip) => {
                let payload = arp_request(mac, Ipv4Addr::UNSPECIFIED, vip);
                Question { address, destination: BROADCAST, payload }
            }
            IpAddr::V6(vip) => {
                let (destination, payload) = solicitation(mac, link_local(), vip);
                Question { address, destination, payload }
            }
        }
    }

    /// The MAC address that this packet says to hold the address.
    fn answered_by(&self, packet: &[u8]) -> Option<[u8; 6]> {
        match self.address {
            IpAddr::V4(vip) => arp_reply(packet, vip),
            IpAddr::V6(vip) => advertisement(packet, vip),
        }
    }
}

/// A neighbour solicitation (RFC 4861, section 4.3) to the target's solicited-node group.
fn solicitation(mac: [u8; 6], source: Option<Ipv6Addr>, target: Ipv6Addr) -> ([u8; 6], Vec<u8>) {
    const SOLICITATION: [u8; 8] = [135, 0, 0, 0, 0, 0, 0, 0];
    const SOURCE_LINK_ADDRESS: [u8; 2] = [1, 1];
    let octets = target.octets();
    let [.., x, y, z] = octets;
    let mut message = [&SOLICITATION[..], &octets].concat();
    // Needed where there is a source address, forbidden where there is none.
    if source.is_some() {
        message.extend([&SOURCE_LINK_ADDRESS[..], &mac].concat());
    }
    let group = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00 | u16::from(x), u16::from_be_bytes([y, z]));
    let payload = neighbour_discovery(source.unwrap_or(Ipv6Addr::UNSPECIFIED), group, message);
    ([0x33, 0x33, 0xff, x, y, z], payload)
}

/// Returns the sender's MAC address of an ARP reply (RFC 826) from this address.
fn arp_reply(packet: &[u8], vip: Ipv4Addr) -> Option<[u8; 6]> {
    let (head, rest) = packet.split_first_chunk::<8>()?;
    let (mac, rest) = rest.split_first_chunk::<6>()?;
    let (sender, _) = rest.split_first_chunk::<4>()?;
    (*head == [0, 1, 8, 0, 6, 4, 0, 2] && *sender == vip.octets()).then_some(*mac).filter(is_unicast)
}

/// Returns the MAC address in a neighbour advertisement (RFC 4861, section 4.4) for this address.
fn advertisement(packet: &[u8], vip: Ipv6Addr) -> Option<[u8; 6]> {
    const TARGET_LINK_ADDRESS: u8 = 2;
    let (header, message) = packet.split_first_chunk::<40>()?;
    let length = u16::from_be_bytes([header[4], header[5]]);
    let (hop_limit, message) = (header[7], message.get(..usize::from(length))?);
    let (head, rest) = message.split_first_chunk::<8>()?;
    let (target, mut options) = rest.split_first_chunk::<16>()?;
    // A packet that was routed here has a lower hop limit.
    if header[0] >> 4 != 6 || header[6] != 58 || hop_limit != 255 || head[..2] != [136, 0] || *target != vip.octets() {
        return None;
    }
    while let [kind, units, ..] = *options {
        let (option, rest) = options.split_at_checked(usize::from(units) * 8).filter(|_| units != 0)?;
        if kind == TARGET_LINK_ADDRESS {
            return option.get(2..).and_then(|mac| <[u8; 6]>::try_from(mac).ok()).filter(is_unicast);
        }
        options = rest;
    }
    None
}

fn is_unicast(mac: &[u8; 6]) -> bool {
    mac[0] & 1 == 0 && *mac != [0; 6]
}

/// A link-local address of the interface that is in use: not tentative, not a duplicate.
fn link_local(interface: u32) -> Option<Ipv6Addr> {
    // Without IPv6 there is no such file.
    link_local_in(&fs::read_to_string("/proc/thread-self/net/if_inet6").ok()?, interface)
}

/// Finds it in /proc/net/if_inet6: address, index, prefix length, scope and flags in hexadecimal,
/// and the interface's name.
fn link_local_in(list: &str, interface: u32) -> Option<Ipv6Addr> {
    const SCOPE_LINK: u32 = 0x20;
    const UNUSABLE: u32 = libc::IFA_F_TENTATIVE | libc::IFA_F_DADFAILED;
    list.lines().find_map(|line| {
        let mut words = line.split_ascii_whitespace();
        let address = u128::from_str_radix(words.next()?, 16).ok()?;
        let mut number = || u32::from_str_radix(words.next()?, 16).ok();
        let (index, _prefix, scope, flags) = (number()?, number()?, number()?, number()?);
        let usable = index == interface && scope == SCOPE_LINK && flags & UNUSABLE == 0;
        usable.then_some(address.into())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: [u8; 6] = [0x02, 0x00, 0x5e, 0x10, 0x20, 0x30];
    const VIP: &str = "2001:db8::1234:5678";

    #[test]
    fn arp_probe_and_reply() {
        let vip = Ipv4Addr::new(192, 0, 2, 254);
        let question = Question::new(vip.into(), MAC, || None);
        assert_eq!(question.destination, [0xff; 6]);
        #[rustfmt::skip]
        assert_eq!(question.payload, [
            0, 1, 8, 0, 6, 4, 0, 1,
            0x02, 0x00, 0x5e, 0x10, 0x20, 0x30, 0, 0, 0, 0,
            0, 0, 0, 0, 0, 0, 192, 0, 2, 254,
        ]);
        #[rustfmt::skip]
        let mut reply = vec![
            0, 1, 8, 0, 6, 4, 0, 2,
            0x02, 0, 0, 0, 0, 7, 192, 0, 2, 254,
            0x02, 0x00, 0x5e, 0x10, 0x20, 0x30, 0, 0, 0, 0,
        ];
        // Ethernet pads short frames.
        reply.resize(46, 0);
        assert_eq!(question.answered_by(&reply), Some([0x02, 0, 0, 0, 0, 7]));
        assert_eq!(question.answered_by(&question.payload), None);
        assert_eq!(question.answered_by(&reply[..17]), None);
        for (offset, value) in [(7, 1), (17, 253), (3, 0xdd), (8, 3)] {
            let mut other = reply.clone();
            other[offset] = value;
            assert_eq!(question.answered_by(&other), None, "{offset}");
        }
    }

    /// The checksum was computed by other means.
    #[test]
    fn neighbour_solicitations() {
        let from = "fe80::5eff:fe10:2030".parse().ok();
        let question = Question::new(VIP.parse().unwrap(), MAC, || from);
        assert_eq!(question.destination, [0x33, 0x33, 0xff, 0x34, 0x56, 0x78]);
        #[rustfmt::skip]
        assert_eq!(question.payload, [
            0x60, 0, 0, 0, 0, 32, 58, 255,
            0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0x5e, 0xff, 0xfe, 0x10, 0x20, 0x30,
            0xff, 0x02, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, 0x34, 0x56, 0x78,
            135, 0, 0x90, 0x8b, 0, 0, 0, 0,
            0x20, 0x01, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0x12, 0x34, 0x56, 0x78,
            1, 1, 0x02, 0x00, 0x5e, 0x10, 0x20, 0x30,
        ]);
        // Without a source there is no option.
        let anonymous = Question::new(VIP.parse().unwrap(), MAC, || None);
        assert_eq!((anonymous.payload.len(), &anonymous.payload[8..24]), (64, &[0; 16][..]));
    }

    fn advertised(options: &[u8]) -> Vec<u8> {
        let vip: Ipv6Addr = VIP.parse().unwrap();
        let message = [&[136, 0, 0, 0, 0x60, 0, 0, 0][..], &vip.octets(), options].concat();
        neighbour_discovery(vip, Ipv6Addr::LOCALHOST, message)
    }

    #[test]
    fn neighbour_advertisements() {
        let vip = VIP.parse().unwrap();
        let option = [2, 1, 2, 0, 0, 0, 0, 7];
        let good = advertised(&option);
        assert_eq!(advertisement(&good, vip), Some([2, 0, 0, 0, 0, 7]));
        // A nonce (RFC 3971) before, and padding of the frame behind.
        let nonce = [14, 1, 1, 2, 3, 4, 5, 6];
        let padded = [advertised(&[nonce, option].concat()), vec![2, 1, 9, 9, 9, 9, 9, 9]].concat();
        assert_eq!(advertisement(&padded, vip), Some([2, 0, 0, 0, 0, 7]));
        // Other targets, other messages, routed ones.
        assert_eq!(advertisement(&good, "2001:db8::1".parse().unwrap()), None);
        for (offset, value) in [(0, 0x40), (6, 17), (7, 254), (40, 135), (41, 1), (5, 33)] {
            let mut other = good.clone();
            other[offset] = value;
            assert_eq!(advertisement(&other, vip), None, "{offset}");
        }
        // Options that are cut short, empty, or of another link's address.
        for options in
            [&[][..], &[2, 0, 2, 0, 0, 0, 0, 7], &[14, 2, 1, 2, 3, 4, 5, 6], &[2, 1, 3, 0, 0, 0, 0, 7], &[2; 16]]
        {
            assert_eq!(advertisement(&advertised(options), vip), None, "{options:?}");
        }
        for length in 0..good.len() {
            assert_eq!(advertisement(&good[..length], vip), None);
        }
    }

    #[test]
    fn link_local_addresses() {
        let list = "\
00000000000000000000000000000001 01 80 10 80       lo
20010db8000000000000000000000011 02 40 00 80     eth0
fe800000000000000000000000000099 02 40 20 c8     eth0
fe800000000000000000000000000011 02 40 20 80     eth0
fe800000000000000000000000000012 0a 40 20 80     eth1
fe800000000000000000000000000013 0b 40 20 c0     eth2
";
        assert_eq!(link_local_in(list, 2), "fe80::11".parse().ok());
        assert_eq!(link_local_in(list, 10), "fe80::12".parse().ok());
        for other in [1, 3, 11] {
            assert_eq!(link_local_in(list, other), None);
        }
    }
}
