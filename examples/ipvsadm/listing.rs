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
    let (value, text) = match listing.what {
        Listed::Services => {
            let info = ipvs.info().map_err(listing_failed)?;
            let entries = arrange(ipvs.entries(detail(listing.columns)).map_err(listing_failed)?, listing);
            let (major, minor, patch) = info.version;
            let version = format!("{major}.{minor}.{patch}");
            let size = info.connection_table_size;
            let title = format!("IP Virtual Server version {version} (size={size})\n");
            let value = || json::table(&version, size, &entries, listing.columns);
            (as_json.then(value), title + &services(&entries, listing, names))
        }
        Listed::Service(id) => {
            let entries = arrange(vec![ipvs.entry(&id, detail(listing.columns)).map_err(listing_failed)?], listing);
            (as_json.then(|| json::services(&entries, listing.columns, true)), services(&entries, listing, names))
        }
        Listed::Connections => {
            let entries =
                ipvs.connections().map_err(|_| Refusal::new(LISTING, "cannot open file /proc/net/ip_vs_conn"))?;
            (as_json.then(|| json::connections(&entries)), connections(&entries, listing, names))
        }
        Listed::Timeouts => {
            let times = ipvs.timeouts().map_err(listing_failed)?;
            let (tcp, tcp_fin, udp) = (times.tcp.as_secs(), times.tcp_fin.as_secs(), times.udp.as_secs());
            (as_json.then(|| json::timeouts(&times)), format!("Timeout (tcp tcpfin udp): {tcp} {tcp_fin} {udp}\n"))
        }
        Listed::Daemons => {
            let entries = ipvs.sync_daemons().map_err(listing_failed)?;
            (as_json.then(|| json::daemons(&entries)), entries.iter().map(daemon).collect())
        }
    };
    match value {
        Some(value) => json::print(&value, out),
        None => out.extend(text.into_bytes()),
    }
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

fn services(entries: &Entries, listing: &Listing, names: &Names) -> String {
    let mut text = title(listing.columns);
    for (entry, destinations) in entries {
        text += &service(entry, listing, names);
        let protocol = protocol_of(&entry.service.id);
        for entry in destinations {
            text += &destination(entry, protocol, listing, names);
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

fn service(entry: &ServiceEntry, listing: &Listing, names: &Names) -> String {
    let service = &entry.service;
    let name = service_name(&service.id, listing, names);
    let stats = &entry.stats;
    match listing.columns {
        Columns::Stats => format!("{name:<33}{}\n", numbers(counters(stats), listing.exact)),
        Columns::Rates => format!("{name:<33}{}\n", numbers(rates(stats), listing.exact)),
        _ => format!("{name} {}\n", service_settings(service)),
    }
}

fn service_name(id: &ServiceId, listing: &Listing, names: &Names) -> String {
    let (kind, address) = match id {
        ServiceId::Fwmark { mark, family: Family::V4 } => return format!("FWM  {mark}"),
        ServiceId::Fwmark { mark, family: Family::V6 } => return format!("FWM  {mark} IPv6"),
        ServiceId::Tcp(address) => ("TCP", address),
        ServiceId::Udp(address) => ("UDP", address),
        ServiceId::Sctp(address) => ("SCTP", address),
    };
    let name = format!("{kind:<4} {}", endpoint(*address, protocol_of(id), listing, names));
    if address.is_ipv4() { cut(name, SERVICE_WIDTH) } else { name }
}

/// Scheduler and flags.
fn service_settings(service: &Service) -> String {
    let mut text = service.scheduler.to_string();
    // Writing to a String cannot fail.
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
        text += " ops";
    }
    text
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

fn destination(entry: &DestinationEntry, protocol: Option<Protocol>, listing: &Listing, names: &Names) -> String {
    let ipvs::Destination { address, forward, weight, upper_threshold, lower_threshold, .. } = &entry.destination;
    let DestinationEntry { active, inactive, persistent, stats, .. } = entry;
    let mut name = endpoint(*address, protocol, listing, names);
    if address.is_ipv4() {
        name = cut(name, DESTINATION_WIDTH);
    }
    let method = method_name(*forward);
    match listing.columns {
        Columns::Plain => format!("  -> {name:<28} {method:<7} {weight:<6} {active:<10} {inactive:<10}\n"),
        Columns::Tunnels => {
            let tunnel = tunnel_name(*forward);
            format!("  -> {name:<28} {method:<7} {tunnel:<13} {weight:<6} {active:<10} {inactive:<10}\n")
        }
        Columns::Thresholds => {
            format!("  -> {name:<28} {upper_threshold:<10} {lower_threshold:<10} {active:<10} {inactive:<10}\n")
        }
        Columns::Persistent => {
            format!("  -> {name:<28} {weight:<9} {persistent:<11} {active:<10} {inactive:<10}\n")
        }
        Columns::Stats => format!("  -> {name:<28}{}\n", numbers(counters(&stats.unwrap_or_default()), listing.exact)),
        Columns::Rates => {
            let [connections, packets_in, packets_out, bytes_in, bytes_out] = rates(&stats.unwrap_or_default());
            let bytes = numbers([bytes_in, bytes_out], listing.exact);
            format!("  -> {name:<28} {connections:>8} {packets_in:>8} {packets_out:>8}{bytes}\n")
        }
    }
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

fn numbers<const N: usize>(values: [u64; N], exact: bool) -> String {
    values.iter().map(|value| number(*value, exact)).collect()
}

/// In nine columns, where need be in thousands, millions and so on, rounded down.
fn number(value: u64, exact: bool) -> String {
    let (divisor, unit) = match value {
        ..100_000_000 => return format!("{value:>9}"),
        _ if exact => return format!(" {value}"),
        100_000_000..1_000_000_000 => (1_000, 'K'),
        1_000_000_000..100_000_000_000 => (1_000_000, 'M'),
        100_000_000_000..100_000_000_000_000 => (1_000_000_000, 'G'),
        100_000_000_000_000.. => (1_000_000_000_000, 'T'),
    };
    format!("{:>8}{unit}", value / divisor)
}

/// Address and port, as names where there are some and they are wanted.
fn endpoint(address: SocketAddr, protocol: Option<Protocol>, listing: &Listing, names: &Names) -> String {
    if listing.numeric {
        return cut(number_of(address), ENDPOINT_WIDTH);
    }
    let host = names.name_of_host(address.ip()).unwrap_or_else(|| ip_text(address.ip()));
    let port = protocol.and_then(|protocol| names.name_of_port(address.port(), protocol));
    let port = port.map_or_else(|| address.port().to_string(), str::to_owned);
    cut(if address.is_ipv6() { format!("[{host}]:{port}") } else { format!("{host}:{port}") }, ENDPOINT_WIDTH)
}

/// `192.168.0.254:80`, `[2001:db8::fe]:80`
fn number_of(address: SocketAddr) -> String {
    let (ip, port) = (ip_text(address.ip()), address.port());
    if address.is_ipv6() { format!("[{ip}]:{port}") } else { format!("{ip}:{port}") }
}

/// As inet_ntop(3): an IPv6 address whose first 96 bits are 0 ends as an IPv4 address does,
/// `::1.2.3.4`.
fn ip_text(ip: IpAddr) -> String {
    match ip {
        IpAddr::V6(ip) if ip.to_bits() >> 32 == 0 && ip.to_bits() >> 16 != 0 => {
            format!("::{}", std::net::Ipv4Addr::from_bits(ip.to_bits() as u32))
        }
        ip => ip.to_string(),
    }
}

fn cut(mut text: String, length: usize) -> String {
    let end = (0..=length.min(text.len())).rev().find(|end| text.is_char_boundary(*end));
    text.truncate(end.unwrap_or(0));
    text
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
        let [client, service, destination] = ends.map(|end| endpoint(end, protocol, listing, names));
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
        ("group", daemon.group.map(ip_text)),
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
            assert_eq!(number(value, false), text);
        }
        assert_eq!(number(99_999_999, true), " 99999999");
        assert_eq!(number(100_000_000, true), " 100000000");
        assert_eq!(number(u64::MAX, true), " 18446744073709551615");
    }

    #[test]
    fn addresses_are_those_of_inet_ntop() {
        for text in ["::", "::1", "::1.2.3.4", "::0.1.0.0", "::ffff:1.2.3.4", "2001:db8::1", "1:0:2::3", "1.2.3.4"] {
            assert_eq!(ip_text(text.parse().unwrap()), text);
        }
    }

    #[test]
    fn what_is_long_is_cut() {
        assert_eq!(cut("abc".into(), 5), "abc");
        assert_eq!(cut("abcdef".into(), 5), "abcde");
        assert_eq!(cut("abcd\u{e9}".into(), 5), "abcd");
    }
}
