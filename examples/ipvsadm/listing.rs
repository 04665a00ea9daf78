//! `-L`: the table, connections, timeouts and daemons, laid out to the column.

use std::fmt::Write;
use std::net::{IpAddr, SocketAddr};

use lvs_dr::ipvs::{
    self, Connection, DestinationEntry, Detail, Family, Forward, Ipvs, Netmask, Service, ServiceEntry, ServiceFlags,
    ServiceId, Stats, SyncDaemon, Tunnel, TunnelChecksum,
};

use super::names::Names;
use super::options::{Columns, Listed, Listing};
use super::order::{self, Entries};
use super::rules::scheduler_flags;
use super::values::Protocol;
use super::{LISTING, Octets, Refusal, json, listing_failed};

pub fn print(
    ipvs: &mut Ipvs,
    listing: &Listing,
    as_json: bool,
    names: &Names,
    out: &mut Octets,
) -> Result<(), Refusal> {
    let text = match listing.what {
        Listed::Services => {
            let info = ipvs.info().map_err(listing_failed)?;
            let entries = arrange(ipvs.entries(detail(listing.columns)).map_err(listing_failed)?, listing);
            let (major, minor, patch) = info.version;
            let version = format!("{major}.{minor}.{patch}");
            let size = info.connection_table_size;
            match as_json {
                true => json::line(&json::table(&version, size, &entries, listing.columns)),
                false => {
                    let title = format!("IP Virtual Server version {version} (size={size})\n");
                    services(title, &entries, listing, names)
                }
            }
        }
        Listed::Service(id) => {
            let entries = arrange(vec![ipvs.entry(&id, detail(listing.columns)).map_err(listing_failed)?], listing);
            match as_json {
                true => json::line(&json::services(&entries, listing.columns, true)),
                false => services(String::new(), &entries, listing, names),
            }
        }
        Listed::Connections => {
            let entries =
                ipvs.connections().map_err(|_| Refusal::new(LISTING, "cannot open file /proc/net/ip_vs_conn"))?;
            match as_json {
                true => json::line(&json::connections(&entries)),
                false => connections(&entries, listing, names),
            }
        }
        Listed::Timeouts => {
            let times = ipvs.timeouts().map_err(listing_failed)?;
            let (tcp, tcp_fin, udp) = (times.tcp.as_secs(), times.tcp_fin.as_secs(), times.udp.as_secs());
            match as_json {
                true => json::line(&json::timeouts(&times)),
                false => format!("Timeout (tcp tcpfin udp): {tcp} {tcp_fin} {udp}\n"),
            }
        }
        Listed::Daemons => {
            let entries = ipvs.sync_daemons().map_err(listing_failed)?;
            match as_json {
                true => json::line(&json::daemons(&entries)),
                false => entries.iter().map(daemon).collect(),
            }
        }
    };
    out.extend(text.into_bytes());
    Ok(())
}

fn detail(columns: Columns) -> Detail {
    match columns {
        Columns::Stats | Columns::Rates => Detail::Counters,
        Columns::Thresholds | Columns::Persistent | Columns::Tunnels | Columns::Plain => Detail::Configuration,
    }
}

fn arrange(entries: Entries, listing: &Listing) -> Entries {
    if listing.sorted { order::sort(entries) } else { entries }
}

/// The most octets of a service's name and of a destination's, where they are IPv4; and of any
/// ADDRESS:PORT.
const SERVICE_WIDTH: usize = 33;
const DESTINATION_WIDTH: usize = 28;
const ENDPOINT_WIDTH: usize = 59;

// Long lists are written piece by piece into one text. Writing to a String cannot fail.

/// Adds the services to a text.
fn services(mut text: String, entries: &Entries, listing: &Listing, names: &Names) -> String {
    text += &title(listing.columns);
    for (entry, destinations) in entries {
        service(&mut text, entry, listing, names);
        let protocol = protocol_of(&entry.service.id);
        for entry in destinations {
            destination(&mut text, entry, protocol, listing, names);
        }
    }
    text
}

fn title(columns: Columns) -> String {
    let (local, remote) = ("Prot LocalAddress:Port", "  -> RemoteAddress:Port");
    let numbers = |names: [&str; 5]| {
        names.iter().fold(format!("{local:<33}"), |line, name| format!("{line} {name:>8}")) + "\n" + remote + "\n"
    };
    match columns {
        Columns::Stats => numbers(["Conns", "InPkts", "OutPkts", "InBytes", "OutBytes"]),
        Columns::Rates => numbers(["CPS", "InPPS", "OutPPS", "InBPS", "OutBPS"]),
        Columns::Thresholds => format!(
            "{local:<33} {:<10} {:<10} {:<10} {:<10}\n{remote}\n",
            "Uthreshold", "Lthreshold", "ActiveConn", "InActConn"
        ),
        Columns::Persistent => format!(
            "{local:<33} {:<9} {:<11} {:<10} {:<10}\n{remote}\n",
            "Weight", "PersistConn", "ActiveConn", "InActConn"
        ),
        Columns::Tunnels => {
            format!("{local} Scheduler Flags\n{remote:<33} Forward TunnelInfo    Weight ActiveConn InActConn\n")
        }
        Columns::Plain => format!("{local} Scheduler Flags\n{remote:<33} Forward Weight ActiveConn InActConn\n"),
    }
}

/// Whose names a service's ports have. A mark's have none.
fn protocol_of(id: &ServiceId) -> Option<Protocol> {
    match id {
        ServiceId::Tcp(_) => Some(Protocol::Tcp),
        ServiceId::Udp(_) => Some(Protocol::Udp),
        ServiceId::Sctp(_) => Some(Protocol::Sctp),
        ServiceId::Fwmark { .. } => None,
    }
}

fn service(text: &mut String, entry: &ServiceEntry, listing: &Listing, names: &Names) {
    let (service, stats, start) = (&entry.service, &entry.stats, text.len());
    service_name(text, &service.id, listing, names);
    match listing.columns {
        Columns::Stats | Columns::Rates => pad(text, start, SERVICE_WIDTH),
        _ => text.push(' '),
    }
    match listing.columns {
        Columns::Stats => numbers(text, &counters(stats), listing.exact),
        Columns::Rates => numbers(text, &rates(stats), listing.exact),
        _ => service_settings(text, service),
    }
    text.push('\n');
}

fn service_name(text: &mut String, id: &ServiceId, listing: &Listing, names: &Names) {
    let start = text.len();
    let (kind, address) = match id {
        ServiceId::Fwmark { mark, family } => {
            let _ = write!(text, "FWM  {mark}{}", if *family == Family::V6 { " IPv6" } else { "" });
            return;
        }
        ServiceId::Tcp(address) => ("TCP  ", address),
        ServiceId::Udp(address) => ("UDP  ", address),
        ServiceId::Sctp(address) => ("SCTP ", address),
    };
    *text += kind;
    endpoint(text, *address, protocol_of(id), listing, names);
    if address.is_ipv4() {
        cut(text, start, SERVICE_WIDTH);
    }
}

/// Scheduler and flags.
fn service_settings(text: &mut String, service: &Service) {
    *text += service.scheduler.name();
    if let Some(flags) = flag_names(service) {
        let _ = write!(text, " ({flags})");
    }
    if let Some(persistence) = &service.persistence {
        let _ = write!(text, " persistent {}", persistence.timeout.as_secs());
        if let Some(netmask) = partial_netmask(service) {
            let _ = write!(text, " mask {netmask}");
        }
        if let Some(engine) = &service.engine {
            let _ = write!(text, " pe {engine}");
        }
    }
    if service.flags.contains(ServiceFlags::ONE_PACKET) {
        *text += " ops";
    }
}

/// The scheduler's flags that are set: `sh-fallback,sh-port`.
pub fn flag_names(service: &Service) -> Option<String> {
    let bits = [ServiceFlags::SCHED1, ServiceFlags::SCHED2, ServiceFlags::SCHED3];
    let names = scheduler_flags(service.scheduler.name()).into_iter().zip(bits);
    let names: Vec<&str> = names.filter(|(_, bit)| service.flags.contains(*bit)).map(|(name, _)| name).collect();
    (!names.is_empty()).then(|| names.join(","))
}

/// The netmask of persistence, where it is not the whole address.
fn partial_netmask(service: &Service) -> Option<String> {
    let netmask = service.persistence.as_ref()?.netmask;
    (netmask != Netmask::full(service.id.family())).then(|| match netmask {
        Netmask::V4(mask) => mask.to_string(),
        Netmask::V6(prefix) => prefix.to_string(),
    })
}

fn destination(
    text: &mut String,
    entry: &DestinationEntry,
    protocol: Option<Protocol>,
    listing: &Listing,
    names: &Names,
) {
    let ipvs::Destination { address, forward, weight, upper_threshold, lower_threshold, .. } = &entry.destination;
    let DestinationEntry { active, inactive, persistent, stats, .. } = entry;
    *text += "  -> ";
    let start = text.len();
    endpoint(text, *address, protocol, listing, names);
    if address.is_ipv4() {
        cut(text, start, DESTINATION_WIDTH);
    }
    pad(text, start, DESTINATION_WIDTH);
    let method = method_name(*forward);
    let _ = match listing.columns {
        Columns::Plain => write!(text, " {method:<7} {weight:<6} {active:<10} {inactive:<10}"),
        Columns::Tunnels => {
            let tunnel = tunnel_name(*forward);
            write!(text, " {method:<7} {tunnel:<13} {weight:<6} {active:<10} {inactive:<10}")
        }
        Columns::Thresholds => {
            write!(text, " {upper_threshold:<10} {lower_threshold:<10} {active:<10} {inactive:<10}")
        }
        Columns::Persistent => write!(text, " {weight:<9} {persistent:<11} {active:<10} {inactive:<10}"),
        Columns::Stats => {
            numbers(text, &counters(&stats.unwrap_or_default()), listing.exact);
            Ok(())
        }
        Columns::Rates => {
            let [connections, packets_in, packets_out, bytes @ ..] = rates(&stats.unwrap_or_default());
            let _ = write!(text, " {connections:>8} {packets_in:>8} {packets_out:>8}");
            numbers(text, &bytes, listing.exact);
            Ok(())
        }
    };
    text.push('\n');
}

pub fn method_name(forward: Forward) -> &'static str {
    match forward {
        Forward::Masquerade => "Masq",
        Forward::Local => "Local",
        Forward::Tunnel(_) => "Tunnel",
        Forward::Direct => "Route",
        _ => "(null)",
    }
}

fn tunnel_name(forward: Forward) -> String {
    let checksum = |checksum| match checksum {
        TunnelChecksum::Full => "+c",
        TunnelChecksum::Remote => "r+c",
        _ => "-c",
    };
    match forward {
        Forward::Tunnel(Tunnel::Ipip) => "ipip".into(),
        Forward::Tunnel(Tunnel::Gue { port, checksum: c }) => format!("gue:{port}:{}", checksum(c)),
        Forward::Tunnel(Tunnel::Gre { checksum: c }) => format!("gre:{}", checksum(c)),
        _ => "n/a".into(),
    }
}

fn counters(stats: &Stats) -> [u64; 5] {
    [stats.connections, stats.packets_in, stats.packets_out, stats.bytes_in, stats.bytes_out]
}

fn rates(stats: &Stats) -> [u64; 5] {
    [stats.connection_rate, stats.packet_rate_in, stats.packet_rate_out, stats.byte_rate_in, stats.byte_rate_out]
}

fn numbers(text: &mut String, values: &[u64], exact: bool) {
    values.iter().for_each(|value| number(text, *value, exact));
}

/// In nine columns, where need be in thousands, millions and so on, rounded down.
fn number(text: &mut String, value: u64, exact: bool) {
    let _ = match value {
        ..100_000_000 => write!(text, "{value:>9}"),
        _ if exact => write!(text, " {value}"),
        100_000_000..1_000_000_000 => write!(text, "{:>8}K", value / 1_000),
        1_000_000_000..100_000_000_000 => write!(text, "{:>8}M", value / 1_000_000),
        100_000_000_000..100_000_000_000_000 => write!(text, "{:>8}G", value / 1_000_000_000),
        100_000_000_000_000.. => write!(text, "{:>8}T", value / 1_000_000_000_000),
    };
}

/// Address and port, as names where there are some and they are wanted.
fn endpoint(text: &mut String, address: SocketAddr, protocol: Option<Protocol>, listing: &Listing, names: &Names) {
    let (start, ip, port) = (text.len(), address.ip(), address.port());
    let (host, name_of_port) = match listing.numeric {
        true => (None, None),
        false => (names.name_of_host(ip), protocol.and_then(|protocol| names.name_of_port(port, protocol))),
    };
    let (before, after) = if address.is_ipv6() { ("[", "]:") } else { ("", ":") };
    *text += before;
    match host {
        Some(host) => *text += &host,
        None => push_ip(text, ip),
    }
    *text += after;
    match name_of_port {
        Some(name) => *text += name,
        None => drop(write!(text, "{port}")),
    }
    cut(text, start, ENDPOINT_WIDTH);
}

/// As inet_ntop(3): an IPv6 address whose first 96 bits are 0 ends as an IPv4 address does,
/// `::1.2.3.4`.
fn push_ip(text: &mut String, ip: IpAddr) {
    let _ = match ip {
        IpAddr::V6(ip) if ip.to_bits() >> 32 == 0 && ip.to_bits() >> 16 != 0 => {
            write!(text, "::{}", std::net::Ipv4Addr::from_bits(ip.to_bits() as u32))
        }
        IpAddr::V6(ip) => write!(text, "{ip}"),
        IpAddr::V4(ip) => write!(text, "{ip}"),
    };
}

/// The text that `write` writes.
fn written(write: impl FnOnce(&mut String)) -> String {
    let mut text = String::new();
    write(&mut text);
    text
}

/// Cuts what stands behind `start` to a length.
fn cut(text: &mut String, start: usize, length: usize) {
    let end = (start..=text.len().min(start + length)).rev().find(|end| text.is_char_boundary(*end));
    text.truncate(end.unwrap_or(start));
}

/// Fills what stands behind `start` up with blanks.
fn pad(text: &mut String, start: usize, width: usize) {
    let length = text[start..].chars().count();
    text.extend(std::iter::repeat_n(' ', width.saturating_sub(length)));
}

fn connections(entries: &[Connection], listing: &Listing, names: &Names) -> String {
    let mut text = String::from(
        "IPVS connection entries\npro expire state       source             virtual            destination",
    );
    text += if listing.engines { "        pe name          pe_data\n" } else { "\n" };
    for entry in entries {
        let protocol = match entry.protocol {
            ipvs::Protocol::Tcp => Some(Protocol::Tcp),
            ipvs::Protocol::Udp => Some(Protocol::Udp),
            ipvs::Protocol::Sctp => Some(Protocol::Sctp),
            _ => None,
        };
        let ends = [entry.client, entry.service, entry.destination];
        let [client, service, destination] =
            ends.map(|end| written(|text| endpoint(text, end, protocol, listing, names)));
        let seconds = entry.expires.as_secs();
        let expires = format!("{:02}:{:02}", seconds / 60, seconds % 60);
        let (protocol, state) = (entry.protocol.to_string(), &entry.state);
        let _ = write!(text, "{protocol:<3} {expires:<6} {state:<11} {client:<18} {service:<18} ");
        let _ = match &entry.engine {
            Some((engine, data)) if listing.engines => writeln!(text, "{destination:<16} {engine:<18} {data}"),
            _ => writeln!(text, "{destination}"),
        };
    }
    text
}

fn daemon(daemon: &SyncDaemon) -> String {
    let SyncDaemon { role, interface, sync_id, .. } = daemon;
    let mut text = format!("{role} sync daemon (mcast={interface}, syncid={sync_id}");
    let parts = [
        ("maxlen", daemon.max_length.filter(|length| *length != 0).map(|length| length.to_string())),
        ("group", daemon.group.map(|group| written(|text| push_ip(text, group)))),
        ("port", daemon.port.filter(|port| *port != 0).map(|port| port.to_string())),
        ("ttl", daemon.ttl.filter(|ttl| *ttl != 0).map(|ttl| ttl.to_string())),
    ];
    for (name, value) in parts {
        if let Some(value) = value {
            let _ = write!(text, ", {name}={value}");
        }
    }
    text + ")\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_fit_their_columns() {
        for (value, text) in [
            (0, "        0"),
            (99_999_999, " 99999999"),
            (100_000_000, "  100000K"),
            (999_999_999, "  999999K"),
            (1_000_000_000, "    1000M"),
            (99_999_999_999, "   99999M"),
            (100_000_000_000, "     100G"),
            (99_999_999_999_999, "   99999G"),
            (100_000_000_000_000, "     100T"),
            (u64::MAX, "18446744T"),
        ] {
            assert_eq!(written(|to| number(to, value, false)), text);
        }
        for (value, text) in
            [(99_999_999, " 99999999"), (100_000_000, " 100000000"), (u64::MAX, " 18446744073709551615")]
        {
            assert_eq!(written(|to| number(to, value, true)), text);
        }
    }

    #[test]
    fn addresses_are_those_of_inet_ntop() {
        for text in ["::", "::1", "::1.2.3.4", "::0.1.0.0", "::ffff:1.2.3.4", "2001:db8::1", "1:0:2::3", "1.2.3.4"] {
            assert_eq!(written(|to| push_ip(to, text.parse().unwrap())), text);
        }
    }

    #[test]
    fn what_is_long_is_cut() {
        for (text, left) in [("abc", "abc"), ("abcdef", "abcde"), ("abcd\u{e9}", "abcd")] {
            let both = written(|to| {
                *to += "12";
                *to += text;
                cut(to, 2, 5);
            });
            assert_eq!(both, format!("12{left}"));
        }
    }
}
