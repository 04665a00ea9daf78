//! sock_diag: the sockets that wait for clients. See sock_diag(7).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use rustix::io::Errno;

use super::TIME_LIMIT;
use super::attribute::attributes;
use super::route::RouteMessage;
use super::socket::{Failure, Socket};
use crate::error::{Cause, Error, Result};
use crate::netns::Netns;

/// The type of requests and answers (`SOCK_DIAG_BY_FAMILY`).
const BY_FAMILY: u16 = 20;
/// `struct inet_diag_req_v2`: family u8, protocol u8, two octets, states u32 in host order, and
/// `struct inet_diag_sockid` of 48 octets.
const REQUEST: usize = 56;
/// `struct inet_diag_msg`: family u8, three octets, the `struct inet_diag_sockid` with the local
/// port in network order and, behind the other port, the local address, and 20 octets.
const ANSWER: usize = 72;
/// An octet: whether a socket of IPv6 refuses IPv4 (`INET_DIAG_SKV6ONLY`).
const V6ONLY: u16 = 11;
/// States of net/tcp_states.h, which sockets of other protocols use too: a socket that listens, and
/// one of UDP that is not connected.
const LISTEN: u32 = 10;
const CLOSE: u32 = 7;

/// A socket of this network namespace that waits for clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct WaitingSocket {
    /// Its address, which may be the unspecified one.
    pub(crate) address: IpAddr,
    pub(crate) port: u16,
    /// It is of IPv6, and refuses IPv4.
    pub(crate) v6only: bool,
}

impl WaitingSocket {
    fn read(message: &RouteMessage) -> Option<Self> {
        if message.kind() != BY_FAMILY {
            return None;
        }
        let (head, octets) = message.split::<ANSWER>()?;
        let source: [u8; 16] = head[8..24].try_into().ok()?;
        let address = match i32::from(head[0]) {
            libc::AF_INET => Ipv4Addr::new(source[0], source[1], source[2], source[3]).into(),
            libc::AF_INET6 => Ipv6Addr::from(source).into(),
            _ => return None,
        };
        let v6only =
            attributes(octets).any(|(kind, value)| kind == V6ONLY && value.first().is_some_and(|only| *only != 0));
        Some(WaitingSocket { address, port: u16::from_be_bytes([head[4], head[5]]), v6only })
    }
}

/// Lists the sockets of this protocol (`IPPROTO_TCP` and others) that wait for clients. The kernel
/// looks at those only, however many connections there are (`inet_diag_dump_icsk()` in
/// net/ipv4/inet_diag.c). It takes no privileges.
///
/// # Errors
/// [`Error::Refused`] with `ENOENT`: this kernel lacks the module for it (tcp_diag, udp_diag,
/// sctp_diag).
pub(crate) fn waiting_sockets(netns: &Netns, protocol: i32) -> Result<Vec<WaitingSocket>> {
    let explain = |failure: Failure| {
        failure.explain("list", format!("listening sockets of protocol {protocol}"), |errno| {
            match Errno::from_raw_os_error(errno) {
                Errno::PERM => Cause::Permission,
                _ => Cause::Other,
            }
        })
    };
    let mut socket =
        netns.run(|| Socket::diag(TIME_LIMIT))?.map_err(|error| Error::system("open", "a sock_diag socket", error))?;
    let state = if protocol == libc::IPPROTO_UDP { CLOSE } else { LISTEN };
    let mut found = Vec::new();
    for family in [libc::AF_INET, libc::AF_INET6] {
        let mut request = [0; REQUEST];
        (request[0], request[1]) = (family as u8, protocol as u8);
        request[4..8].copy_from_slice(&(1_u32 << state).to_ne_bytes());
        let ask = |octets: &mut Vec<u8>| {
            octets.extend(request);
            BY_FAMILY
        };
        let listed = socket.dump(ask, |kind, octets| {
            found.extend(WaitingSocket::read(&RouteMessage::new(kind, octets)));
            Ok(())
        });
        match listed {
            // A kernel without IPv6.
            Err(failure) if family == libc::AF_INET6 && failure.is_not_found() => {}
            result => drop(result.map_err(explain)?),
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_is_read() {
        let mut head = [0; ANSWER];
        (head[0], head[5], head[23]) = (libc::AF_INET6 as u8, 80, 1);
        let message = RouteMessage::new(BY_FAMILY, &head);
        let found = WaitingSocket { address: "::1".parse().unwrap(), port: 80, v6only: false };
        assert_eq!(WaitingSocket::read(&message), Some(found));
        let only = message.clone().with(V6ONLY, &[1]);
        assert_eq!(WaitingSocket::read(&only), Some(WaitingSocket { v6only: true, ..found }));
        head[0] = libc::AF_INET as u8;
        head[8..12].copy_from_slice(&[192, 0, 2, 1]);
        let found = WaitingSocket::read(&RouteMessage::new(BY_FAMILY, &head)).unwrap();
        assert_eq!(found.address, IpAddr::from([192, 0, 2, 1]));
        for cut in 0..head.len() {
            assert_eq!(WaitingSocket::read(&RouteMessage::new(BY_FAMILY, &head[..cut])), None);
        }
        assert_eq!(WaitingSocket::read(&RouteMessage::new(libc::RTM_NEWLINK, &head)), None);
    }
}
