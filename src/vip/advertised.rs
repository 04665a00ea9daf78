//! The routes by which a routing daemon learns that a VIP is to be advertised, over rtnetlink. See
//! rtnetlink(7).
//!
//! They are in a table of their own, which the kernel never looks up. In table main they would be
//! invisible to FRR: it redistributes the routes that it selects, and for a VIP that is on `lo` it
//! selects the address.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use rustix::io::Errno;

use super::route::RouteSocket;
use super::{MARK, host_prefix};
use crate::error::{Cause, Error, Result};
use crate::netlink::{Failure, RouteMessage, attributes, is, number};

/// `struct rtmsg`: family, dst_len, src_len, tos, table, protocol, scope, type (u8 each), flags
/// u32 in host order.
const HEADER: usize = 12;

const CREATE: u16 = (libc::NLM_F_CREATE | libc::NLM_F_EXCL) as u16;

impl RouteSocket {
    /// Adds the route of a VIP; one that is there already is no error.
    pub(super) fn advertise(&mut self, vip: IpAddr) -> Result<()> {
        match self.client.request(route(libc::RTM_NEWROUTE, vip), CREATE) {
            Err(failure) if is(&failure, Errno::EXIST) => match self.advertised(vip.is_ipv6())?.contains(&vip) {
                true => Ok(()),
                false => Err(Error::Foreign {
                    object: format!("the route to {vip} in table {MARK}"),
                    reason: "the node adds a route of its own there: give this one another metric, or another table"
                        .into(),
                }),
            },
            result => result.map(drop).map_err(|failure| explain(failure, "add route", vip)),
        }
    }

    /// Removes the route of a VIP; one that is not there is no error.
    pub(super) fn unadvertise(&mut self, vip: IpAddr) -> Result<()> {
        match self.client.request(route(libc::RTM_DELROUTE, vip), 0) {
            // ENOENT: in this network namespace there was never an IPv6 route of that prefix.
            Err(failure) if is(&failure, Errno::SRCH) || is(&failure, Errno::NOENT) => Ok(()),
            result => result.map(drop).map_err(|failure| explain(failure, "remove route", vip)),
        }
    }

    /// The VIPs of a family that have such a route.
    pub(super) fn advertised(&mut self, ipv6: bool) -> Result<BTreeSet<IpAddr>> {
        let question = RouteMessage::new(libc::RTM_GETROUTE, &header(ipv6, 0));
        match self.client.list_filtered(&question, |message| read(&message)) {
            Ok(found) => Ok(found.into_iter().collect()),
            // No such family, or no route yet.
            Err(failure)
                if [Errno::OPNOTSUPP, Errno::AFNOSUPPORT, Errno::NOENT].iter().any(|errno| is(&failure, *errno)) =>
            {
                Ok(BTreeSet::new())
            }
            Err(failure) => Err(explain(failure, "list", "routes")),
        }
    }
}

fn header(ipv6: bool, prefix: u8) -> [u8; HEADER] {
    let family = if ipv6 { libc::AF_INET6 } else { libc::AF_INET };
    [family as u8, prefix, 0, 0, MARK, MARK, libc::RT_SCOPE_UNIVERSE, libc::RTN_UNREACHABLE, 0, 0, 0, 0]
}

fn route(kind: u16, vip: IpAddr) -> RouteMessage {
    let message = RouteMessage::new(kind, &header(vip.is_ipv6(), host_prefix(vip)));
    match vip {
        IpAddr::V4(vip) => message.with(libc::RTA_DST, &vip.octets()),
        IpAddr::V6(vip) => message.with(libc::RTA_DST, &vip.octets()),
    }
}

/// Reads the VIP of such a route. `None`: it is another route. Kernels before 4.20 list all.
fn read(message: &RouteMessage) -> Option<IpAddr> {
    if message.kind() != libc::RTM_NEWROUTE {
        return None;
    }
    let (&[family, prefix, _, _, table, protocol, _, kind, ..], octets) = message.split::<HEADER>()?;
    let table = attributes(octets)
        .find(|(kind, _)| *kind == libc::RTA_TABLE)
        .and_then(|(_, value)| number(value))
        .unwrap_or(u32::from(table));
    let is_ours = (table, protocol, kind) == (u32::from(MARK), MARK, libc::RTN_UNREACHABLE);
    let (_, value) = attributes(octets).find(|(kind, _)| *kind == libc::RTA_DST).filter(|_| is_ours)?;
    let vip: IpAddr = match i32::from(family) {
        libc::AF_INET => Ipv4Addr::from(<[u8; 4]>::try_from(value).ok()?).into(),
        libc::AF_INET6 => Ipv6Addr::from(<[u8; 16]>::try_from(value).ok()?).into(),
        _ => return None,
    };
    (prefix == host_prefix(vip)).then_some(vip)
}

fn explain(failure: Failure, operation: &'static str, object: impl std::fmt::Display) -> Error {
    failure.explain(operation, object, |errno| match Errno::from_raw_os_error(errno) {
        Errno::PERM => Cause::Permission,
        Errno::OPNOTSUPP | Errno::AFNOSUPPORT => Cause::NoFamily,
        Errno::NOBUFS | Errno::NOMEM => Cause::NoMemory,
        Errno::INVAL => Cause::Invalid,
        _ => Cause::Other,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_route_is_read_as_it_is_written() {
        for vip in ["192.0.2.1", "2001:db8::1"] {
            let vip: IpAddr = vip.parse().unwrap();
            assert_eq!(read(&route(libc::RTM_NEWROUTE, vip)), Some(vip));
            // Another message, another program's route, another table, another type, a network.
            assert_eq!(read(&route(libc::RTM_DELROUTE, vip)), None);
            for (at, value) in [(5, 4), (4, 100), (7, 1), (1, 24)] {
                let mut header = header(vip.is_ipv6(), host_prefix(vip));
                header[at] = value;
                let octets = match vip {
                    IpAddr::V4(vip) => vip.octets().to_vec(),
                    IpAddr::V6(vip) => vip.octets().to_vec(),
                };
                let message = RouteMessage::new(libc::RTM_NEWROUTE, &header).with(libc::RTA_DST, &octets);
                assert_eq!(read(&message), None, "{vip} {at}");
            }
        }
    }
}
