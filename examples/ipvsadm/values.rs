//! Values of options: numbers, addresses, netmasks.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::names::Names;

/// Longer times overflow the kernel's timers on some machines: 31 days.
pub const MAX_SECONDS: u32 = 31 * 24 * 60 * 60;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    Tcp,
    Udp,
    Sctp,
}

impl Protocol {
    /// As in /etc/services.
    pub fn name(self) -> &'static str {
        match self {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
            Protocol::Sctp => "sctp",
        }
    }
}

/// What strtol(3) takes for white space.
fn is_space(octet: &u8) -> bool {
    matches!(octet, b' ' | b'\t' | b'\n' | 0x0b | 0x0c | b'\r')
}

/// White space, a sign and digits at the beginning of a text, and what is behind them.
fn leading_number(text: &[u8]) -> (Option<i64>, &[u8]) {
    let text = &text[text.iter().take_while(|octet| is_space(octet)).count()..];
    let (negative, digits) = match text {
        [b'-', digits @ ..] => (true, digits),
        [b'+', digits @ ..] => (false, digits),
        digits => (false, digits),
    };
    let (digits, rest) = digits.split_at(digits.iter().take_while(|octet| octet.is_ascii_digit()).count());
    if digits.is_empty() {
        return (None, rest);
    }
    let value = digits.iter().fold(0i64, |n, digit| n.saturating_mul(10).saturating_add(i64::from(digit - b'0')));
    (Some(if negative { -value } else { value }), rest)
}

/// A number as strtol(3) reads it, all of it, within a range.
pub fn number(text: &[u8], from: u32, to: u32) -> Option<u32> {
    match leading_number(text) {
        (Some(value), []) => u32::try_from(value).ok().filter(|value| (from..=to).contains(value)),
        _ => None,
    }
}

/// What was read as ADDRESS:PORT.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Endpoint {
    pub ip: IpAddr,
    pub port: Option<u16>,
}

/// `HOST[:PORT]`, `[IPV6]:PORT` or `IPV6`. Ports have names only where the protocol is known by
/// now.
pub fn endpoint(text: &[u8], protocol: Option<Protocol>, names: &Names) -> Option<Endpoint> {
    if text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let (host, mut port) = match text {
        [b'[', inner @ ..] => {
            let end = inner.iter().position(|&octet| octet == b']')?;
            let port = inner[end + 1..].strip_prefix(b":")?;
            (&inner[..end], Some(port))
        }
        text => (text, None),
    };
    let colon = host.iter().rposition(|&octet| octet == b':');
    // An address of IPv6 has at least two.
    let has_two = colon.is_some_and(|colon| host[..colon].contains(&b':'));
    let ip = match has_two.then(|| ipv6(host)).flatten() {
        Some(ip) => IpAddr::V6(ip),
        None => {
            // This replaces a port behind brackets.
            let host = match colon {
                Some(colon) => {
                    port = Some(&host[colon + 1..]);
                    &host[..colon]
                }
                None => {
                    port = None;
                    host
                }
            };
            IpAddr::V4(ipv4(host, names)?)
        }
    };
    let port = match port {
        Some(text) => Some(match number(text, 0, u16::MAX.into()) {
            Some(number) => number as u16,
            None => names.port(text, protocol?)?,
        }),
        None => None,
    };
    Some(Endpoint { ip, port })
}

pub fn ipv6(text: &[u8]) -> Option<Ipv6Addr> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// An IPv4 address in all the forms of inet_aton(3), or a host's name.
pub fn ipv4(text: &[u8], names: &Names) -> Option<Ipv4Addr> {
    inet_aton(text).or_else(|| names.host(text))
}

/// What [`dotted`] reads. Text behind white space is not looked at.
fn inet_aton(text: &[u8]) -> Option<Ipv4Addr> {
    dotted(text).or_else(|| dotted(text.split(is_space).next()?))
}

/// One to four numbers, decimal, octal or hexadecimal; the last one fills what is left.
fn dotted(text: &[u8]) -> Option<Ipv4Addr> {
    let (mut high, mut free) = (0, 32);
    let mut parts = text.split(|&octet| octet == b'.').map(c_number).peekable();
    while let Some(part) = parts.next() {
        let part = u64::from(part?);
        if parts.peek().is_none() {
            return (part < 1 << free).then(|| Ipv4Addr::from_bits(high | part as u32));
        }
        if free == 8 || part > 255 {
            return None;
        }
        free -= 8;
        high |= (part as u32) << free;
    }
    None
}

/// `10`, `012` or `0xa`.
fn c_number(text: &[u8]) -> Option<u32> {
    match text {
        [b'0', b'x' | b'X', digits @ ..] => unsigned::<16>(digits),
        [b'0', digits @ ..] if !digits.is_empty() => unsigned::<8>(digits),
        digits => unsigned::<10>(digits),
    }
}

/// Digits only.
fn unsigned<const BASE: u32>(digits: &[u8]) -> Option<u32> {
    let append = |number: u32, octet: &u8| number.checked_mul(BASE)?.checked_add(char::from(*octet).to_digit(BASE)?);
    digits.iter().try_fold(0, append).filter(|_| !digits.is_empty())
}

/// An IPv6 prefix as atoi(3) reads it: `64x` is 64.
pub fn prefix(text: &[u8]) -> Option<u8> {
    let (value, _) = leading_number(text);
    value.and_then(|value| u8::try_from(value).ok()).filter(|value| (1..=128).contains(value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_those_of_strtol() {
        for (text, value) in [
            ("7", 7),
            (" \t7", 7),
            ("+3", 3),
            ("007", 7),
            ("-0", 0),
            ("4294967295", u32::MAX),
            ("000000000000000000001", 1),
        ] {
            assert_eq!(number(text.as_bytes(), 0, u32::MAX), Some(value), "{text:?}");
        }
        for text in ["", "-1", "7x", "7 ", "0x7", "1e3", "1.5", "+-1", "4294967296", "99999999999999999999999"] {
            assert_eq!(number(text.as_bytes(), 0, u32::MAX), None, "{text:?}");
        }
        assert_eq!((prefix(b"64x"), prefix(b"0"), prefix(b"129"), prefix(b"x")), (Some(64), None, None, None));
    }

    #[test]
    fn addresses_are_those_of_inet_aton() {
        let read = |text: &str| inet_aton(text.as_bytes()).map(|address| address.to_string());
        for (text, address) in [
            ("1.2", "1.0.0.2"),
            ("0x01020304", "1.2.3.4"),
            ("16909060", "1.2.3.4"),
            ("01.02.03.010", "1.2.3.8"),
            ("1.2.65535", "1.2.255.255"),
            ("1.2.3.4 x", "1.2.3.4"),
            ("0", "0.0.0.0"),
            ("4294967295", "255.255.255.255"),
        ] {
            assert_eq!(read(text).as_deref(), Some(address), "{text:?}");
        }
        for text in [
            "1.2.3.256",
            "1.2.3.08",
            "1.2.3.",
            "1..2",
            "1.2.3.4.5",
            "4294967296",
            "0x",
            "",
            " 1.2.3.4",
            "+1.2.3.4",
            "256.1",
        ] {
            assert_eq!(read(text), None, "{text:?}");
        }
    }
}
