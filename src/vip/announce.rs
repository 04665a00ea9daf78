//! What tells neighbours that an address has moved.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr};

use crate::netlink::{BROADCAST, ETHER_ARP, ETHER_IPV6, FrameSender, arp_request, neighbour_discovery};

type Mac = [u8; 6];

/// All nodes on the link, and where Ethernet sends them (RFC 2464, section 7).
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
const ALL_NODES_MAC: Mac = [0x33, 0x33, 0, 0, 0, 1];

/// An Ethernet frame without its source address, which is the interface's own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Frame {
    ether_type: u16,
    destination: Mac,
    payload: Vec<u8>,
}

impl Frame {
    /// Sends it from the calling thread's network namespace.
    pub(super) fn send(&self, sender: &mut FrameSender, interface: u32) -> io::Result<()> {
        sender.send(interface, self.ether_type, &self.destination, &self.payload)
    }
}

/// An ARP announcement (RFC 5227, section 2.3): a broadcast request for the address, with that
/// address as sender too.
pub(super) fn gratuitous_arp(mac: Mac, vip: Ipv4Addr) -> Frame {
    Frame { ether_type: ETHER_ARP, destination: BROADCAST, payload: arp_request(mac, vip, vip) }
}

/// An unsolicited neighbour advertisement (RFC 4861, sections 4.4 and 7.2.6) from the address to
/// all nodes, with the override flag: neighbours replace what they had. `router` says whether this
/// node forwards packets.
pub(super) fn unsolicited_advertisement(mac: Mac, vip: Ipv6Addr, router: bool) -> Frame {
    const ADVERTISEMENT: [u8; 2] = [136, 0];
    const ROUTER: u8 = 0x80;
    const OVERRIDE: u8 = 0x20;
    const TARGET_LINK_ADDRESS: [u8; 2] = [2, 1];
    let flags = OVERRIDE | if router { ROUTER } else { 0 };

    let message = [&ADVERTISEMENT[..], &[0, 0], &[flags, 0, 0, 0], &vip.octets(), &TARGET_LINK_ADDRESS, &mac].concat();
    let payload = neighbour_discovery(vip, ALL_NODES, message);
    Frame { ether_type: ETHER_IPV6, destination: ALL_NODES_MAC, payload }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: Mac = [0x02, 0x00, 0x5e, 0x10, 0x20, 0x30];

    /// As `arping -U` puts it on the wire, but with the target's hardware address zero (RFC 5227).
    #[test]
    fn arp_announcement() {
        let frame = gratuitous_arp(MAC, Ipv4Addr::new(192, 168, 0, 254));
        assert_eq!((frame.ether_type, frame.destination), (0x0806, [0xff; 6]));
        #[rustfmt::skip]
        assert_eq!(frame.payload, [
            0, 1, 8, 0, 6, 4, 0, 1,
            0x02, 0x00, 0x5e, 0x10, 0x20, 0x30, 192, 168, 0, 254,
            0, 0, 0, 0, 0, 0, 192, 168, 0, 254,
        ]);
    }

    /// The checksum was computed by other means, and Linux takes the frame (tests/kernel/vip.rs).
    #[test]
    fn neighbour_advertisement() {
        let frame = unsolicited_advertisement(MAC, "2001:db8::1".parse().unwrap(), false);
        assert_eq!((frame.ether_type, frame.destination), (0x86dd, [0x33, 0x33, 0, 0, 0, 1]));
        #[rustfmt::skip]
        assert_eq!(frame.payload, [
            0x60, 0, 0, 0, 0, 32, 58, 255,
            0x20, 0x01, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1,
            0xff, 0x02, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1,
            136, 0, 0x7a, 0xeb, 0x20, 0, 0, 0,
            0x20, 0x01, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1,
            2, 1, 0x02, 0x00, 0x5e, 0x10, 0x20, 0x30,
        ]);
        let router = unsolicited_advertisement(MAC, "2001:db8::1".parse().unwrap(), true);
        assert_eq!(router.payload[44], 0xa0);
    }
}
