//! The addresses of the cluster, all of one family.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::OnceLock;

/// The family of the VIP, the servers and the clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Family {
    V4,
    /// The nodes have IPv4 addresses, too: sync daemons use an IPv4 group.
    V6,
}

static FAMILY: OnceLock<Family> = OnceLock::new();

/// Chooses the family of this process; the first call, or use, counts.
pub(crate) fn set_family(family: Family) {
    FAMILY.get_or_init(|| family);
}

pub(crate) fn family() -> Family {
    *FAMILY.get_or_init(|| Family::V4)
}

impl Family {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Family::V4 => "IPv4",
            Family::V6 => "IPv6",
        }
    }

    /// Returns the length of a prefix that is one address.
    pub(crate) fn host(self) -> u8 {
        match self {
            Family::V4 => 32,
            Family::V6 => 128,
        }
    }

    /// Returns the address for a server of both families to listen on.
    pub(crate) fn any(self) -> IpAddr {
        match self {
            Family::V4 => Ipv4Addr::UNSPECIFIED.into(),
            Family::V6 => Ipv6Addr::UNSPECIFIED.into(),
        }
    }
}

pub(crate) fn vip() -> IpAddr {
    host(254)
}

/// Returns the web service: as ipvsadm and `listen` write it.
pub(crate) fn web() -> SocketAddr {
    (vip(), 80).into()
}

/// Returns a server's part in the web service.
pub(crate) fn real(address: IpAddr) -> SocketAddr {
    (address, 80).into()
}

pub(super) fn node(index: usize) -> IpAddr {
    host(11 + index as u8)
}

pub(crate) fn client() -> IpAddr {
    host(1)
}

pub(super) fn other_client() -> IpAddr {
    host(2)
}

/// Returns the number of a host, which makes its address.
pub(crate) fn number(address: IpAddr) -> u8 {
    match address {
        IpAddr::V4(address) => address.octets()[3],
        IpAddr::V6(address) => address.octets()[15],
    }
}

fn host(number: u8) -> IpAddr {
    match family() {
        Family::V4 => v4(number).into(),
        Family::V6 => Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, number.into()).into(),
    }
}

/// Returns a host's IPv4 address.
pub(super) fn v4(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(192, 168, 0, number)
}
