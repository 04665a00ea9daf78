//! The listings as JSON, one line each. Times are in seconds; addresses are in numbers.

use lvs_dr::ipvs::{
    Connection, DestinationEntry, Forward, Netmask, Origin, ServiceEntry, ServiceFlags, Stats, SyncDaemon, Timeouts,
    Tunnel, TunnelChecksum,
};
use serde_json::{Value, json};

use super::listing::{flag_names, method_name};
use super::options::Columns;
use super::order::Entries;

pub fn line(value: &Value) -> String {
    format!("{value}\n")
}

pub fn table(version: &str, size: u32, entries: &Entries, columns: Columns) -> Value {
    json!({ "version": version, "connection_table_size": size, "services": services(entries, columns, true) })
}

/// Settings, and what has been done where `with_state` says so: counters with `--stats`, rates
/// with `--rate`.
pub fn services(entries: &Entries, columns: Columns, with_state: bool) -> Value {
    let one = |(entry, destinations): &(ServiceEntry, Vec<DestinationEntry>)| {
        let service = &entry.service;
        let mut value = json!({
            "service": service.id.to_string(),
            "scheduler": service.scheduler.name(),
            "flags": flag_names(service).map(|names| names.split(',').map(str::to_owned).collect::<Vec<_>>()).unwrap_or_default(),
            "one_packet": service.flags.contains(ServiceFlags::ONE_PACKET),
            "persistence": service.persistence.map(|persistence| json!({
                "timeout": persistence.timeout.as_secs(),
                "netmask": match persistence.netmask {
                    Netmask::V4(mask) => mask.to_string(),
                    Netmask::V6(prefix) => prefix.to_string(),
                },
            })),
            "engine": service.engine,
            "destinations": destinations.iter().map(|entry| destination(entry, columns, with_state)).collect::<Vec<_>>(),
        });
        if with_state {
            add_numbers(&mut value, &entry.stats, columns);
        }
        value
    };
    entries.iter().map(one).collect()
}

fn destination(entry: &DestinationEntry, columns: Columns, with_state: bool) -> Value {
    let destination = &entry.destination;
    let mut value = json!({
        "address": destination.address.to_string(),
        "forward": method_name(destination.forward),
        "weight": destination.weight,
        "upper_threshold": destination.upper_threshold,
        "lower_threshold": destination.lower_threshold,
    });
    if let Forward::Tunnel(kind) = destination.forward {
        value["tunnel"] = tunnel(kind);
    }
    if with_state {
        value["active"] = entry.active.into();
        value["inactive"] = entry.inactive.into();
        value["persistent"] = entry.persistent.into();
        add_numbers(&mut value, &entry.stats.unwrap_or_default(), columns);
    }
    value
}

fn tunnel(kind: Tunnel) -> Value {
    let checksum = |checksum| match checksum {
        TunnelChecksum::Full => "full",
        TunnelChecksum::Remote => "remote",
        _ => "none",
    };
    match kind {
        Tunnel::Ipip => json!({ "type": "ipip" }),
        Tunnel::Gue { port, checksum: c } => json!({ "type": "gue", "port": port, "checksum": checksum(c) }),
        Tunnel::Gre { checksum: c } => json!({ "type": "gre", "checksum": checksum(c) }),
        _ => json!({ "type": null }),
    }
}

fn add_numbers(value: &mut Value, stats: &Stats, columns: Columns) {
    match columns {
        Columns::Stats => {
            value["stats"] = json!({
                "connections": stats.connections,
                "packets_in": stats.packets_in,
                "packets_out": stats.packets_out,
                "bytes_in": stats.bytes_in,
                "bytes_out": stats.bytes_out,
            });
        }
        Columns::Rates => {
            value["rates"] = json!({
                "connections": stats.connection_rate,
                "packets_in": stats.packet_rate_in,
                "packets_out": stats.packet_rate_out,
                "bytes_in": stats.byte_rate_in,
                "bytes_out": stats.byte_rate_out,
            });
        }
        _ => {}
    }
}

pub fn connections(entries: &[Connection]) -> Value {
    let one = |entry: &Connection| {
        json!({
            "protocol": entry.protocol.to_string(),
            "client": entry.client.to_string(),
            "service": entry.service.to_string(),
            "destination": entry.destination.to_string(),
            "state": entry.state,
            "expires": entry.expires.as_secs(),
            "origin": entry.origin.map(|origin| match origin {
                Origin::Local => "local",
                Origin::Sync => "sync",
            }),
            "engine": entry.engine.as_ref().map(|(name, data)| json!({ "name": name, "data": data })),
        })
    };
    entries.iter().map(one).collect()
}

pub fn timeouts(times: &Timeouts) -> Value {
    json!({ "tcp": times.tcp.as_secs(), "tcp_fin": times.tcp_fin.as_secs(), "udp": times.udp.as_secs() })
}

pub fn daemons(entries: &[SyncDaemon]) -> Value {
    let one = |daemon: &SyncDaemon| {
        json!({
            "role": daemon.role.to_string(),
            "interface": daemon.interface,
            "sync_id": daemon.sync_id,
            "max_length": daemon.max_length,
            "group": daemon.group.map(|group| group.to_string()),
            "port": daemon.port,
            "ttl": daemon.ttl,
        })
    };
    entries.iter().map(one).collect()
}
