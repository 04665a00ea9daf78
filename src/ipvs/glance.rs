//! A glance at the table: /proc/net/ip_vs, which costs a tenth of what the table itself does and
//! can be read a piece at a time. It shows neither limits nor the kind of tunnels, nor templates.

use std::hash::{DefaultHasher, Hasher};
use std::net::SocketAddr;

use super::control::ProcLines;
use super::{Family, ServiceId, connection};
use crate::error::Result;
use crate::netns::Netns;

/// Reads /proc/net/ip_vs a piece at a time.
#[derive(Debug)]
pub(crate) struct Glance {
    lines: ProcLines,
    /// The service whose destinations are read, with the connections that they count.
    service: Option<(ServiceId, u64)>,
    hasher: DefaultHasher,
}

impl Glance {
    pub(crate) fn open(netns: &Netns) -> Result<Self> {
        let lines = ProcLines::open(netns, "ip_vs")?;
        Ok(Glance { lines, service: None, hasher: DefaultHasher::new() })
    }

    /// Reads one piece. Shows each service that it has read to its end with the connections that
    /// its destinations count; a service of a mark as one of IPv4, whichever family it is of. Says
    /// whether there is more.
    pub(crate) fn read(&mut self, mut see: impl FnMut(ServiceId, u64)) -> Result<bool> {
        let (service, hasher) = (&mut self.service, &mut self.hasher);
        let more = self.lines.read(|line| match destination(line) {
            Some((configured, connections)) => {
                hasher.write(configured);
                if let Some((_, count)) = service {
                    *count += connections;
                }
            }
            None => {
                hasher.write(line.as_bytes());
                if let Some((id, count)) = std::mem::replace(service, id(line).map(|id| (id, 0))) {
                    see(id, count);
                }
            }
        })?;
        if !more && let Some((id, count)) = self.service.take() {
            see(id, count);
        }
        Ok(more)
    }

    /// A number that is another one when services, destinations, methods or weights were changed.
    pub(crate) fn digest(&self) -> u64 {
        self.hasher.finish()
    }
}

/// `  -> C000020C:0050      Route   1      5          7`: what is configured, and how many
/// connections there are.
fn destination(line: &str) -> Option<(&[u8], u64)> {
    let line = line.strip_prefix("  -> ")?.as_bytes();
    let (rest, inactive) = last_number(line)?;
    let (configured, active) = last_number(rest)?;
    Some((configured, active + inactive))
}

/// The number at the end, and what is before it. Octet by octet: there are many lines.
fn last_number(text: &[u8]) -> Option<(&[u8], u64)> {
    let text = text.trim_ascii_end();
    let start = text.iter().rposition(|octet| !octet.is_ascii_digit())? + 1;
    let digits = text[start..].iter().map(|digit| u64::from(digit - b'0'));
    (start < text.len())
        .then(|| (&text[..start], digits.fold(0, |sum: u64, digit| sum.wrapping_mul(10).wrapping_add(digit))))
}

/// `TCP  C00002FE:0050 wrr `, `FWM  00000001 rr persistent 300 FFFFFFFF`.
fn id(line: &str) -> Option<ServiceId> {
    let mut words = line.split_ascii_whitespace();
    let (protocol, name) = (words.next()?, words.next()?);
    if protocol == "FWM" {
        return ServiceId::fwmark(u32::from_str_radix(name, 16).ok()?, Family::V4).ok();
    }
    let (address, port) = name.rsplit_once(':')?;
    let address = SocketAddr::new(connection::address(address)?, u16::from_str_radix(port, 16).ok()?);
    match protocol {
        "TCP" => Some(ServiceId::tcp(address)),
        "UDP" => Some(ServiceId::udp(address)),
        "SCTP" => Some(ServiceId::sctp(address)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_understood() {
        let tcp = |text: &str| Some(ServiceId::tcp(text.parse().unwrap()));
        assert_eq!(id("TCP  C00002FE:0050 wrr "), tcp("192.0.2.254:80"));
        assert_eq!(id("TCP  [2001:0db8:0000:0000:0000:0000:0000:00fe]:01BB mh  (mh-port)"), tcp("[2001:db8::fe]:443"));
        assert_eq!(id("UDP  C00002FE:0035 wrr ops "), Some(ServiceId::udp("192.0.2.254:53".parse().unwrap())));
        assert_eq!(id("FWM  4C565300 rr persistent 300 FFFFFFFF"), ServiceId::fwmark(0x4c56_5300, Family::V4).ok());
        for line in
            ["IP Virtual Server version 1.2.1 (size=4096)", "Prot LocalAddress:Port Scheduler Flags", "", "FWM x"]
        {
            assert_eq!(id(line), None, "{line}");
        }
        let row = "  -> C000020C:0050      Route   1      5          7         ";
        assert_eq!(destination(row), Some((&b"C000020C:0050      Route   1      "[..], 12)));
        assert_eq!(destination("  -> C000020C:0050 Route"), None);
        assert_eq!(destination("  -> RemoteAddress:Port Forward Weight ActiveConn InActConn"), None);
        assert_eq!(destination("TCP  C00002FE:0050 wrr "), None);
    }
}
