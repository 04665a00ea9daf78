//! Routes, and rules of the routing policy that depend on marks.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::num::NonZeroU32;

use super::client::Marks;
use super::explain;
use super::neighbours::{read_address, wire_address};
use crate::error::Result;
use crate::netlink::{Failure, RouteMessage, attributes, number};

/// `struct rtmsg`: family, dst_len, src_len, tos, table, protocol, scope, type (u8 each), flags
/// u32 in host order.
const ROUTE_HEADER: usize = 12;
/// `RTM_F_FIB_MATCH`: the answer is the route of the table, with all of its next hops, and not the
/// one that was chosen.
const FIB_MATCH: u32 = 0x2000;
/// `struct rtnexthop`: length u16, flags u8, hops u8, ifindex i32, in host order; attributes
/// follow.
const HOP_HEADER: usize = 8;

/// `struct fib_rule_hdr`: family, dst_len, src_len, tos, table, two of padding, action (u8 each),
/// flags u32 in host order.
const RULE_HEADER: usize = 12;
const FIB_RULE_INVERT: u32 = 2;
const FRA_PRIORITY: u16 = 6;
const FRA_FWMARK: u16 = 10;
const FRA_TABLE: u16 = 15;
const FRA_FWMASK: u16 = 16;

/// Addresses for documentation (RFC 5737, RFC 3849): no network has them, so the way there is the
/// way to the outside.
const OUTSIDE: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::new(203, 0, 113, 1)), IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1))];

/// A rule of the routing policy (`ip rule`) that treats packets with one of our marks otherwise
/// than those without a mark.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct MarkUse {
    /// Our mark.
    pub mark: NonZeroU32,
    /// The rule is one of IPv6, as `ip -6 rule` lists it.
    pub ipv6: bool,
    /// The rule's priority.
    pub priority: u32,
    /// The rule's mark (`FRA_FWMARK`).
    pub fwmark: u32,
    /// Which bits of the mark it compares (`FRA_FWMASK`).
    pub fwmask: u32,
    /// It matches where the comparison fails (`not`).
    pub inverted: bool,
    /// The table that it looks up, 0 for none.
    pub table: u32,
    /// Whether packets with our mark match, as far as the mark is concerned. If not, packets
    /// without a mark do.
    pub matches: bool,
}

/// `ip -6 rule 100 (not fwmark 0x1/0xff, table 7) matches mark 1`.
impl fmt::Display for MarkUse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "ip{} rule {} ({}fwmark {:#x}/{:#x}, table {}) {} mark {}",
            if self.ipv6 { " -6" } else { "" },
            self.priority,
            if self.inverted { "not " } else { "" },
            self.fwmark,
            self.fwmask,
            self.table,
            if self.matches { "matches" } else { "does not match" },
            self.mark
        )
    }
}

/// What a rule of the routing policy compares a mark with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Policy {
    ipv6: bool,
    priority: u32,
    fwmark: u32,
    fwmask: u32,
    inverted: bool,
    table: u32,
}

impl Policy {
    /// Reads an `RTM_NEWRULE` message. `None`: it is of another family, does not depend on marks,
    /// or is malformed.
    pub(super) fn read(message: &RouteMessage) -> Option<Self> {
        if message.kind() != libc::RTM_NEWRULE {
            return None;
        }
        let (&[family, _, _, _, table, _, _, _, f0, f1, f2, f3], octets) = message.split::<RULE_HEADER>()?;
        let (mut priority, mut table, mut mark, mut mask) = (0, u32::from(table), None, None);
        for (kind, value) in attributes(octets) {
            match kind {
                FRA_PRIORITY => priority = number(value)?,
                FRA_TABLE => table = number(value)?,
                FRA_FWMARK => mark = number(value),
                FRA_FWMASK => mask = number(value),
                _ => {}
            }
        }
        if mark.is_none() && mask.is_none() {
            return None;
        }
        Some(Policy {
            ipv6: match i32::from(family) {
                libc::AF_INET => false,
                libc::AF_INET6 => true,
                _ => return None,
            },
            priority,
            fwmark: mark.unwrap_or(0),
            fwmask: mask.unwrap_or(u32::MAX),
            inverted: u32::from_ne_bytes([f0, f1, f2, f3]) & FIB_RULE_INVERT != 0,
            table,
        })
    }

    /// As fib_rule_match() in the kernel's net/core/fib_rules.c.
    fn matches(&self, mark: u32) -> bool {
        ((mark ^ self.fwmark) & self.fwmask == 0) != self.inverted
    }

    fn use_of(&self, mark: NonZeroU32) -> Option<MarkUse> {
        let matches = self.matches(mark.get());
        (matches != self.matches(0)).then_some(MarkUse {
            mark,
            ipv6: self.ipv6,
            priority: self.priority,
            fwmark: self.fwmark,
            fwmask: self.fwmask,
            inverted: self.inverted,
            table: self.table,
            matches,
        })
    }
}

/// One next hop of a route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Hop {
    index: u32,
    gateway: Option<IpAddr>,
}

/// Reads an `RTM_NEWROUTE` message: its next hops. `None`: it is something else, or malformed.
pub(super) fn read_hops(message: &RouteMessage) -> Option<Vec<Hop>> {
    if message.kind() != libc::RTM_NEWROUTE {
        return None;
    }
    let (&[family, ..], octets) = message.split::<ROUTE_HEADER>()?;
    let family = i32::from(family);
    let mut hops = Vec::new();
    if let Some(index) = attributes(octets).find(|(kind, _)| *kind == libc::RTA_OIF).and_then(|(_, v)| number(v)) {
        hops.push(Hop { index, gateway: read_gateway(family, octets) });
    }
    let multipath = attributes(octets).find(|(kind, _)| *kind == libc::RTA_MULTIPATH);
    let mut rest = multipath.map_or(&[][..], |(_, value)| value);
    while let Some((&[l0, l1, _, _, i0, i1, i2, i3], behind)) = rest.split_first_chunk::<HOP_HEADER>() {
        let length = usize::from(u16::from_ne_bytes([l0, l1]));
        let Some(nested) = length.checked_sub(HOP_HEADER).and_then(|length| behind.get(..length)) else { break };
        hops.push(Hop { index: u32::from_ne_bytes([i0, i1, i2, i3]), gateway: read_gateway(family, nested) });
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Some(hops)
}

/// From linux/rtnetlink.h; libc has it with glibc only.
const RTA_VIA: u16 = 18;

fn read_gateway(family: i32, octets: &[u8]) -> Option<IpAddr> {
    attributes(octets).find_map(|(kind, value)| match kind {
        libc::RTA_GATEWAY => read_address(family, value),
        // struct rtvia, an IPv6 gateway of an IPv4 route: family u16 in host order, address.
        RTA_VIA => {
            let (&[f0, f1], address) = value.split_first_chunk()?;
            read_address(i32::from(u16::from_ne_bytes([f0, f1])), address)
        }
        _ => None,
    })
}

impl Marks {
    /// The next hops on the way to the outside: of the routes to 203.0.113.1 and 2001:db8::1, all
    /// of a multipath route. Empty where there are no routes. Sends nothing to the network.
    pub fn gateways(&mut self) -> Result<Vec<IpAddr>> {
        let mut gateways = Vec::new();
        for address in OUTSIDE {
            gateways.extend(self.hops(address, FIB_MATCH)?.into_iter().filter_map(|hop| hop.gateway));
        }
        gateways.sort();
        gateways.dedup();
        Ok(gateways)
    }

    /// The interface by which packets of this node to `address` leave, and the next hop unless the
    /// address is on that interface's link. `None`: there is no route. The route to one of this
    /// node's own addresses is `lo`.
    pub fn route_to(&mut self, address: IpAddr) -> Result<Option<(String, Option<IpAddr>)>> {
        let Some(hop) = self.hops(address, 0)?.first().copied() else { return Ok(None) };
        Ok(self.client.link_of_index(hop.index)?.map(|link| (link.name, hop.gateway)))
    }

    fn hops(&mut self, address: IpAddr, flags: u32) -> Result<Vec<Hop>> {
        let (family, octets) = wire_address(address);
        let mut header = [0; ROUTE_HEADER];
        (header[0], header[1]) = (family, octets.len() as u8 * 8);
        header[8..].copy_from_slice(&flags.to_ne_bytes());
        let question = RouteMessage::new(libc::RTM_GETROUTE, &header).with(libc::RTA_DST, &octets);
        match self.client.request(question, 0) {
            Ok(answers) => Ok(answers.iter().find_map(read_hops).unwrap_or_default()),
            // ENETUNREACH, EHOSTUNREACH, EACCES (prohibit), EINVAL (blackhole), EAFNOSUPPORT:
            // there is no way.
            Err(Failure::Refused { .. }) => Ok(Vec::new()),
            Err(failure) => Err(explain(failure, "look up the route to", address)),
        }
    }

    /// Finds the rules of the routing policy (`ip rule`, both families) that treat packets with
    /// one of these marks otherwise than packets without a mark: the answers to a marked packet
    /// may take another way with `fwmark_reflect`, and forwarded packets do.
    pub fn uses(&mut self, marks: &[NonZeroU32]) -> Result<Vec<MarkUse>> {
        let question = RouteMessage::new(libc::RTM_GETRULE, &[0; RULE_HEADER]);
        let found = self.client.list(&question, |message| Policy::read(&message));
        let policies = found.map_err(|failure| explain(failure, "list", "rules of the routing policy"))?;
        Ok(policies.iter().flat_map(|policy| marks.iter().filter_map(|&mark| policy.use_of(mark))).collect())
    }
}

#[cfg(all(test, target_endian = "little"))]
mod tests {
    use super::super::samples::{self, message};
    use super::*;

    #[test]
    fn next_hops_are_read() {
        let hops = read_hops(&message(samples::ROUTE)).unwrap();
        let gateways: Vec<_> = hops.iter().map(|hop| (hop.index, hop.gateway.unwrap().to_string())).collect();
        assert_eq!(gateways, [(2, "192.0.2.2".into()), (2, "fe80::3".into())]);
        assert_eq!(read_hops(&message(samples::NEIGHBOUR)), None);
    }

    #[test]
    fn policies_are_read() {
        let policy = Policy::read(&message(samples::POLICY)).unwrap();
        let expected = Policy { ipv6: false, priority: 101, fwmark: 2, fwmask: 3, inverted: false, table: 1000 };
        assert_eq!(policy, expected);
        assert_eq!(Policy::read(&message(samples::PLAIN_POLICY)), None);
    }

    #[test]
    fn a_policy_that_a_mark_decides() {
        let policy = Policy { ipv6: true, priority: 9, fwmark: 2, fwmask: 3, inverted: false, table: 7 };
        let used = |policy: Policy, mark| policy.use_of(NonZeroU32::new(mark).unwrap()).map(|found| found.matches);
        assert_eq!([1, 2, 6].map(|mark| used(policy, mark)), [None, Some(true), Some(true)]);
        let inverted = Policy { inverted: true, ..policy };
        assert_eq!([1, 2, 6].map(|mark| used(inverted, mark)), [None, Some(false), Some(false)]);
        // Packets without a mark.
        let unmarked = Policy { fwmark: 0, ..policy };
        assert_eq!([1, 4].map(|mark| used(unmarked, mark)), [Some(false), None]);
        let text = inverted.use_of(NonZeroU32::new(2).unwrap()).unwrap().to_string();
        assert_eq!(text, "ip -6 rule 9 (not fwmark 0x2/0x3, table 7) does not match mark 2");
    }
}
