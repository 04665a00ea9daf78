//! Rules: which packets get which mark.

use std::fmt;
use std::net::IpAddr;
use std::num::{NonZeroU16, NonZeroU32};
use std::str::FromStr;

use crate::error::{Error, Result};
use crate::interface;

/// An Ethernet address. Printed and parsed as `02:00:00:00:00:01`.
///
/// ```
/// use lvs_dr::marks::Mac;
///
/// let mac: Mac = "02:00:00:00:00:01".parse()?;
/// assert_eq!((mac.0[5], mac.is_unicast()), (1, true));
/// # Ok::<(), lvs_dr::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mac(pub [u8; 6]);

impl Mac {
    /// Whether it is the address of one station: not a group address, and not 00:00:00:00:00:00.
    pub fn is_unicast(self) -> bool {
        self.0[0] & 1 == 0 && self.0 != [0; 6]
    }
}

/// `02:00:00:00:00:01`, in lower case.
impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

/// Six octets in hexadecimal, of one or two digits each, between colons.
impl FromStr for Mac {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let wrong = || {
            Error::invalid(
                format!("MAC address {text:?}"),
                "six octets in hexadecimal between colons were expected: 02:00:00:00:00:01",
            )
        };
        let mut mac = [0; 6];
        let mut parts = text.split(':');
        for octet in &mut mac {
            let part = parts.next().filter(|part| (1..=2).contains(&part.len())).ok_or_else(wrong)?;
            // from_str_radix() would take a sign.
            if !part.bytes().all(|b| b.is_ascii_hexdigit()) {
                return Err(wrong());
            }
            *octet = u8::from_str_radix(part, 16).map_err(|_| wrong())?;
        }
        match parts.next() {
            None => Ok(Mac(mac)),
            Some(_) => Err(wrong()),
        }
    }
}

/// Which of the packets for a VIP a rule marks. Where several rules match a packet, the mark of
/// the last kind in this order stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "snake_case"))]
pub enum Packets {
    /// TCP packets without SYN: those of a connection that is open already. Fragments count among
    /// them.
    Later {
        /// Only those to this port. `None`: to any port. With a port, fragments are not matched.
        /// Of a rule with a port and one without that give different marks, either may win.
        port: Option<NonZeroU16>,
    },
    /// Every packet of any protocol that comes from this source MAC address.
    From(Mac),
    /// TCP packets with SYN and without ACK: the first of a connection.
    Opening,
}

impl Packets {
    /// The place in the order of overriding: 0, 1 or 2.
    pub(super) fn order(&self) -> u16 {
        match self {
            Packets::Later { .. } => 0,
            Packets::From(_) => 1,
            Packets::Opening => 2,
        }
    }
}

/// `TCP without SYN to port 80`, `all from 02:00:00:00:00:01`, `TCP with SYN`.
impl fmt::Display for Packets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Packets::Later { port: None } => f.write_str("TCP without SYN"),
            Packets::Later { port: Some(port) } => write!(f, "TCP without SYN to port {port}"),
            Packets::From(mac) => write!(f, "all from {mac}"),
            Packets::Opening => f.write_str("TCP with SYN"),
        }
    }
}

/// A mark for packets that arrive on an interface for a VIP.
///
/// Of two rules that differ in the mark alone only one can exist.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct Rule {
    /// The interface on which the packets arrive.
    pub interface: String,
    /// The destination address.
    pub vip: IpAddr,
    /// Which packets for that address.
    pub packets: Packets,
    /// The firewall mark that they get (`skb->mark`).
    pub mark: NonZeroU32,
}

impl Rule {
    /// Refuses what the kernel would take although it never matches, or cannot take.
    pub(super) fn check(&self) -> Result<()> {
        interface::check_name(&self.interface)?;
        if self.vip.is_unspecified() || self.vip.is_multicast() {
            return Err(Error::invalid(format!("VIP {}", self.vip), "a unicast address was expected"));
        }
        match self.packets {
            Packets::From(mac) if !mac.is_unicast() => {
                Err(Error::invalid(format!("MAC address {mac}"), "a frame's source is the address of one station"))
            }
            _ => Ok(()),
        }
    }
}

/// `mark 1 on eth0 for 192.0.2.1: all from 02:00:00:00:00:01`.
impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "mark {} on {} for {}: {}", self.mark, self.interface, self.vip, self.packets)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mac_addresses() {
        let mac: Mac = "2:0:0A:ff:00:01".parse().unwrap();
        assert_eq!(mac, Mac([2, 0, 10, 255, 0, 1]));
        assert_eq!(mac.to_string(), "02:00:0a:ff:00:01");
        for text in [
            "",
            "02:00:00:00:00",
            "02:00:00:00:00:01:02",
            "02:00:00:00:00:",
            "+2:0:0:0:0:1",
            "002:0:0:0:0:1",
            "g:0:0:0:0:0",
        ] {
            assert!(matches!(text.parse::<Mac>(), Err(Error::Invalid { .. })), "{text}");
        }
        assert!(mac.is_unicast() && !Mac([0; 6]).is_unicast() && !Mac([255; 6]).is_unicast());
    }

    #[test]
    fn rules_print_as_one_line() {
        let mut rule = Rule {
            interface: "eth0.100".into(),
            vip: "192.0.2.1".parse().unwrap(),
            packets: Packets::From(Mac([2, 0, 0, 0, 0, 1])),
            mark: NonZeroU32::MIN,
        };
        assert_eq!(rule.to_string(), "mark 1 on eth0.100 for 192.0.2.1: all from 02:00:00:00:00:01");
        rule.check().unwrap();
        rule.packets = Packets::Later { port: NonZeroU16::new(80) };
        assert_eq!(rule.to_string(), "mark 1 on eth0.100 for 192.0.2.1: TCP without SYN to port 80");
        rule.packets = Packets::From(Mac([1, 0, 0, 0, 0, 1]));
        assert!(rule.check().is_err());
        (rule.packets, rule.vip) = (Packets::Opening, "ff02::1".parse().unwrap());
        assert!(rule.check().is_err());
    }
}
