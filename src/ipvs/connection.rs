//! The connection table, which only /proc shows.

use std::collections::HashMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

/// The protocol of a connection.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
    /// Of a persistence template of a firewall mark: any.
    Ip,
    /// As the kernel names it.
    Other(String),
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Protocol::Tcp => "TCP",
            Protocol::Udp => "UDP",
            Protocol::Sctp => "SCTP",
            Protocol::Ip => "IP",
            Protocol::Other(name) => name,
        })
    }
}

/// Where an entry comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Origin {
    /// Scheduled here.
    Local,
    /// Learned from another node's sync daemon.
    Sync,
}

/// An entry of the connection table: a connection, or a persistence template (state `NONE`, a
/// client port of 0).
///
/// ```no_run
/// use lvs_dr::ipvs::{Ipvs, Origin};
///
/// let connections = Ipvs::open()?.connections()?;
/// let learned = connections.iter().filter(|found| found.origin == Some(Origin::Sync) && !found.is_template());
/// println!("{} connections are another director's", learned.count());
/// # Ok::<(), lvs_dr::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Connection {
    /// The protocol.
    pub protocol: Protocol,
    /// The client.
    pub client: SocketAddr,
    /// The service's address. Of a template of a firewall mark, the mark stands in place of an
    /// address.
    pub service: SocketAddr,
    /// The real server.
    pub destination: SocketAddr,
    /// The state's name, as in `ipvsadm -Lnc`: `ESTABLISHED`.
    pub state: String,
    /// When it is forgotten if nothing more comes: whole seconds.
    pub expires: Duration,
    /// Where it comes from. `None`: it came or went while the table was read.
    pub origin: Option<Origin>,
    /// The persistence engine, and the data that it tells clients apart by.
    pub engine: Option<(String, String)>,
}

impl Connection {
    /// Whether it is a persistence template: it says where the next connections of a client go.
    pub fn is_template(&self) -> bool {
        self.client.port() == 0 && matches!(self.state.as_str(), "NONE" | "ASSURED")
    }
}

type Key = (Protocol, SocketAddr, SocketAddr);

/// Reads /proc/net/ip_vs_conn, and the origins from /proc/net/ip_vs_conn_sync. Says which line is
/// not understood.
pub(super) fn read(connections: &str, origins: &str) -> Result<Vec<Connection>, String> {
    let origins: HashMap<Key, Origin> = rows(origins).filter_map(origin_row).collect();
    each(rows(connections))
        .map(|found| {
            let mut found = found?;
            found.origin = origins.get(&(found.protocol.clone(), found.client, found.service)).copied();
            Ok(found)
        })
        .collect()
}

/// The connection in each row of /proc/net/ip_vs_conn, without its origin, or which row is not
/// understood.
pub(super) fn each<'a>(rows: impl Iterator<Item = &'a str>) -> impl Iterator<Item = Result<Connection, String>> {
    rows.filter(|line| !line.trim().is_empty())
        .map(|line| connection_row(line).ok_or_else(|| format!("`{line}` is not understood")))
}

/// The lines behind the heading.
fn rows(text: &str) -> impl Iterator<Item = &str> {
    text.lines().skip(1)
}

/// `TCP C0A80001 8CA0 C0A800FE 0050 C0A8000B 0050 ESTABLISHED     897 sip data`
fn connection_row(line: &str) -> Option<Connection> {
    let mut words = line.split_ascii_whitespace();
    let (protocol, client, service, destination) = ends(&mut words)?;
    let state = words.next()?.to_owned();
    let expires = Duration::from_secs(words.next()?.parse().ok()?);
    let engine = words.next().map(|name| (name.to_owned(), words.next().unwrap_or_default().to_owned()));
    Some(Connection { protocol, client, service, destination, state, expires, origin: None, engine })
}

/// As a connection's row, with `LOCAL` or `SYNC` behind the state.
fn origin_row(line: &str) -> Option<(Key, Origin)> {
    let mut words = line.split_ascii_whitespace();
    let (protocol, client, service, _) = ends(&mut words)?;
    let origin = match words.nth(1)? {
        "LOCAL" => Origin::Local,
        "SYNC" => Origin::Sync,
        _ => return None,
    };
    Some(((protocol, client, service), origin))
}

fn ends<'a>(words: &mut impl Iterator<Item = &'a str>) -> Option<(Protocol, SocketAddr, SocketAddr, SocketAddr)> {
    let protocol = match words.next()? {
        "TCP" => Protocol::Tcp,
        "UDP" => Protocol::Udp,
        "SCTP" => Protocol::Sctp,
        "IP" => Protocol::Ip,
        other => Protocol::Other(other.to_owned()),
    };
    let mut end = || Some(SocketAddr::new(address(words.next()?)?, u16::from_str_radix(words.next()?, 16).ok()?));
    Some((protocol, end()?, end()?, end()?))
}

/// `C0A80001`, or IPv6 written out with all its zeros, which newer kernels put in brackets.
pub(super) fn address(text: &str) -> Option<IpAddr> {
    if text.contains(':') {
        return text.trim_matches(['[', ']']).parse::<Ipv6Addr>().ok().map(IpAddr::V6);
    }
    (text.len() == 8).then(|| u32::from_str_radix(text, 16).ok())?.map(|bits| Ipv4Addr::from_bits(bits).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONNECTIONS: &str = "\
Pro FromIP   FPrt ToIP     TPrt DestIP   DPrt State       Expires PEName PEData
TCP C0A80001 8CA0 C0A800FE 0050 C0A8000B 0050 ESTABLISHED     897
UDP C0A80001 0000 C0A800FE 13C4 C0A8000B 13C4 NONE            300 sip a-very-long-call-id@host
TCP 2001:0db8:0000:0000:0000:0000:0000:0001 8CA0 2001:0db8:0000:0000:0000:0000:0000:00fe 0050 2001:0db8:0000:0000:0000:0000:0000:0011 0050 SYN_RECV         59
";
    const ORIGINS: &str = "\
Pro FromIP   FPrt ToIP     TPrt DestIP   DPrt State       Origin Expires
TCP C0A80001 8CA0 C0A800FE 0050 C0A8000B 0050 ESTABLISHED SYNC       897
";

    #[test]
    fn both_families_and_engine_data_are_read() {
        let found = read(CONNECTIONS, ORIGINS).unwrap();
        assert_eq!(found.len(), 3);
        assert_eq!(found[0].client, "192.168.0.1:36000".parse().unwrap());
        assert_eq!((found[0].origin, found[0].expires), (Some(Origin::Sync), Duration::from_secs(897)));
        assert_eq!((found[1].origin, found[1].state.as_str()), (None, "NONE"));
        assert_eq!(found[1].engine, Some(("sip".into(), "a-very-long-call-id@host".into())));
        assert_eq!(found[2].destination, "[2001:db8::11]:80".parse().unwrap());
    }

    #[test]
    fn what_is_not_understood_is_told() {
        for end in 1..CONNECTIONS.lines().nth(1).unwrap().len() - 4 {
            let row = &CONNECTIONS.lines().nth(1).unwrap()[..end];
            let result = read(&format!("heading\n{row}\n"), "");
            assert!(result.is_err() || row.trim().is_empty(), "{row}");
        }
        assert!(read("", "").unwrap().is_empty());
    }
}
