//! Which addresses can be a VIP.

use std::net::IpAddr;

use crate::error::{Error, Result};

/// The kernel takes some of these, and then nothing reaches them.
pub(crate) fn check_vip(vip: IpAddr) -> Result<()> {
    let reason = match vip {
        IpAddr::V4(v4) if v4.octets()[0] == 0 => "it stands for no host",
        IpAddr::V4(v4) if v4.is_broadcast() => "it stands for all hosts",
        IpAddr::V6(v6) if v6.is_unspecified() => "it stands for no host",
        IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some() => "it is an IPv4 address in IPv6 form: give it as IPv4",
        IpAddr::V6(v6) if v6.is_unicast_link_local() => {
            "it is a link-local address, which is one on each link: a VIP must be reached from everywhere"
        }
        _ if vip.is_loopback() => "it is a loopback address, which never leaves the host",
        _ if vip.is_multicast() => "it is a multicast address",
        _ => return Ok(()),
    };
    Err(Error::invalid(format!("VIP {vip}"), reason))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unusable_addresses_are_refused() {
        for vip in [
            "0.0.0.0",
            "0.1.2.3",
            "127.0.0.1",
            "127.9.9.9",
            "224.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "ff02::1",
            "fe80::1",
            "::ffff:192.0.2.1",
        ] {
            assert!(matches!(check_vip(vip.parse().unwrap()), Err(Error::Invalid { .. })), "{vip}");
        }
        for vip in ["192.0.2.1", "10.0.0.0", "169.254.1.1", "2001:db8::1", "fd00::1"] {
            check_vip(vip.parse().unwrap()).unwrap();
        }
    }
}
