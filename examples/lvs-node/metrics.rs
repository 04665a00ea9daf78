//! What a watched node shows: metrics in Prometheus' text format.

use std::collections::BTreeMap;
use std::fmt::{Display, Write};
use std::time::Instant;

use lvs_dr::ipvs::{Family, ServiceId};
use lvs_dr::node::{Counts, Fence, Role, Status};

use super::cluster::unix_time;
use super::status;

type Labels<'a> = [(&'a str, &'a dyn Display)];

struct Text(String);

impl Text {
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        let _ = write!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
    }

    fn sample(&mut self, name: &str, labels: &Labels, value: impl Display) {
        let labels: Vec<String> = labels.iter().map(|(name, value)| format!("{name}=\"{value}\"")).collect();
        let labels = if labels.is_empty() { String::new() } else { format!("{{{}}}", labels.join(",")) };
        let _ = writeln!(self.0, "{name}{labels} {value}");
    }

    fn sample_of(&mut self, group: &str, name: &str, labels: &Labels, value: impl Display) {
        let group = group.replace('\\', "\\\\").replace('"', "\\\"");
        let own: &Labels = &[("group", &group)];
        let own = if group.is_empty() { &[] } else { own };
        self.sample(name, &[own, labels].concat(), value);
    }

    fn one(&mut self, name: &str, kind: &str, help: &str, value: impl Display) {
        self.family(name, kind, help);
        self.sample(name, &[], value);
    }
}

/// The labels of a service, as node_exporter's ipvs collector has them.
struct Local {
    address: String,
    port: String,
    proto: &'static str,
    mark: String,
}

impl Local {
    fn of(id: &ServiceId) -> Self {
        let proto = match id {
            ServiceId::Tcp(_) => "TCP",
            ServiceId::Udp(_) => "UDP",
            ServiceId::Sctp(_) => "SCTP",
            ServiceId::Fwmark { .. } => "FWM",
        };
        match id {
            ServiceId::Tcp(at) | ServiceId::Udp(at) | ServiceId::Sctp(at) => {
                Local { address: at.ip().to_string(), port: at.port().to_string(), proto, mark: String::new() }
            }
            // Both families may have one of the same mark.
            ServiceId::Fwmark { mark, family } => Local {
                address: if *family == Family::V6 { "::".into() } else { String::new() },
                port: "0".into(),
                proto,
                mark: format!("{mark:08X}"),
            },
        }
    }
}

/// The metrics of now. `groups`: the name and the status of each group of VIPs; metrics of a group
/// with a name bear it as a label.
pub fn text(groups: &[(String, Status)], fence: Fence, counts: &Counts) -> String {
    let mut text = Text(String::new());
    text.family("lvs_node_build_info", "gauge", "1, with the version of lvs-node as a label.");
    text.sample("lvs_node_build_info", &[("version", &env!("CARGO_PKG_VERSION"))], 1);
    text.one(
        "lvs_node_look_timestamp_seconds",
        "gauge",
        "When the node was looked at last.",
        unix_time(Instant::now()),
    );
    text.family("lvs_node_role", "gauge", "The role that was asked for last: 1.");
    for (group, status) in groups {
        for role in Role::ALL {
            let is = u8::from(status.role.is_some_and(|(now, _)| now == role));
            text.sample_of(group, "lvs_node_role", &[("role", &role), ("fence", &fence)], is);
        }
    }
    let mut each = |name: &str, help: &str, value: &dyn Fn(&Status) -> usize| {
        text.family(name, "gauge", help);
        groups.iter().for_each(|(group, status)| text.sample_of(group, name, &[], value(status)));
    };
    let reached = |status: &Status| usize::from(status.role.is_some_and(|(_, reached)| reached));
    each("lvs_node_role_reached", "1: the role was reached.", &reached);
    each(
        "lvs_node_role_failed_timestamp_seconds",
        "When the last role failed, where none was reached since; else 0.",
        &|status| status.failure.as_ref().map_or(0, |failure| failure.unix_time() as usize),
    );
    each("lvs_node_missing_steps", "Steps that are missing for the role to be in place.", &|status| {
        status.missing.len()
    });
    each("lvs_node_warnings", "What an operator should look at.", &|status| status.warnings.len());
    let marked = |status: &Status| usize::from(!status.missing.iter().any(|step| step.starts_with("marks")));
    each("lvs_node_marks_equal", "1: the rules that mark packets are those of this role.", &marked);
    each("lvs_node_mark_rules", "Rules that mark packets.", &|status| status.rules.len());
    each("lvs_node_drained", "Destinations that were drained.", &|status| status.drained.len());
    each("lvs_node_peers", "Other nodes whose MAC address is known.", &|status| {
        status.peers.values().filter(|macs| !macs.is_empty()).count()
    });
    each("lvs_node_hidden", "1: ARP keeps quiet about a VIP on lo.", &|status| usize::from(status.hidden));
    text.one(
        "lvs_node_role_changes_total",
        "counter",
        "Times that the role of a group has changed.",
        counts.role_changes,
    );
    text.one(
        "lvs_node_role_change_timestamp_seconds",
        "gauge",
        "When the role of a group has changed last; 0: not since the watch was started.",
        counts.role_changed.map_or(0, unix_time),
    );
    text.one("lvs_node_other_directors", "gauge", "Other directors that are heard.", counts.directors_heard);
    text.one(
        "lvs_node_other_clusters",
        "gauge",
        "Other clusters on the sync link that use this cluster's sync id.",
        counts.other_clusters,
    );
    text.one(
        "lvs_node_beacons_refused_total",
        "counter",
        "Beacons that were ignored because they lack the cluster's key.",
        counts.refused,
    );
    text.one("lvs_node_connections_known", "gauge", "Connections that this node knows.", counts.known);
    if let Some(at_director) = counts.at_director {
        text.one("lvs_node_connections_at_director", "gauge", "Connections that the director knows.", at_director);
    }
    text.one(
        "lvs_node_knows_all",
        "gauge",
        "1: it directs, or has learned all that the director knew.",
        u8::from(counts.knows_all || groups.iter().any(|(_, status)| matches!(status.role, Some((Role::Master, _))))),
    );
    text.one("lvs_node_repairs_total", "counter", "Times that something was put right.", counts.repairs);
    text.one(
        "lvs_node_failures_total",
        "counter",
        "Times that this failed, or a role was not reached.",
        counts.failures,
    );
    text.one(
        "lvs_node_failure_timestamp_seconds",
        "gauge",
        "When something failed last; 0: not since the watch was started.",
        counts.failed.map_or(0, unix_time),
    );
    text.one(
        "lvs_node_watch_busy_seconds_total",
        "counter",
        "Seconds by the clock that the watch was not waiting.",
        counts.busy.as_secs_f64(),
    );
    text.one(
        "lvs_node_resyncs_total",
        "counter",
        "Times that all connections were sent to the other nodes.",
        counts.resyncs,
    );
    classifiers(&mut text, groups);
    table(&mut text, groups);
    text.0
}

/// All groups share one classifier on an interface.
fn classifiers(text: &mut Text, groups: &[(String, Status)]) {
    let found: BTreeMap<_, _> = groups.iter().flat_map(|(_, status)| &status.classifiers).collect();
    if found.is_empty() {
        return;
    }
    let name = "lvs_node_classifier_packets_total";
    text.family(name, "counter", "TCP packets that the classifier has marked or left to IPVS.");
    for (interface, attached) in found {
        for (kind, count, _) in status::counts(&attached.counters) {
            text.sample(name, &[("interface", interface), ("kind", &kind)], count);
        }
    }
}

/// The table is that of the whole node.
fn table(text: &mut Text, groups: &[(String, Status)]) {
    let entries = groups.first().map(|(_, status)| &status.entries[..]).unwrap_or_default();
    let locals: Vec<Local> = entries.iter().map(|(entry, _)| Local::of(&entry.service.id)).collect();
    for (name, help, value) in [
        ("lvs_service_connections_total", "Connections scheduled.", 0),
        ("lvs_service_packets_in_total", "Packets from clients.", 1),
        ("lvs_service_bytes_in_total", "Octets from clients.", 2),
    ] {
        text.family(name, "counter", help);
        for ((entry, _), local) in entries.iter().zip(&locals) {
            let stats = &entry.stats;
            let value = [stats.connections, stats.packets_in, stats.bytes_in][value];
            let labels: &Labels = &[
                ("local_address", &local.address),
                ("local_port", &local.port),
                ("proto", &local.proto),
                ("local_mark", &local.mark),
            ];
            text.sample(name, labels, value);
        }
    }
    for (name, kind, help, value) in [
        ("lvs_destination_weight", "gauge", "The weight now.", 0),
        ("lvs_destination_active_connections", "gauge", "Active connections.", 1),
        ("lvs_destination_inactive_connections", "gauge", "Inactive connections.", 2),
        ("lvs_destination_connections_total", "counter", "Connections scheduled.", 3),
        ("lvs_destination_packets_in_total", "counter", "Packets from clients.", 4),
        ("lvs_destination_bytes_in_total", "counter", "Octets from clients.", 5),
    ] {
        text.family(name, kind, help);
        for ((_, destinations), local) in entries.iter().zip(&locals) {
            for found in destinations {
                let destination = &found.destination;
                let stats = found.stats.unwrap_or_default();
                let values: [u64; 6] = [
                    destination.weight.into(),
                    found.active.into(),
                    found.inactive.into(),
                    stats.connections,
                    stats.packets_in,
                    stats.bytes_in,
                ];
                let (address, port) = (destination.address.ip(), destination.address.port());
                let labels: &Labels = &[
                    ("local_address", &local.address),
                    ("local_port", &local.port),
                    ("remote_address", &address),
                    ("remote_port", &port),
                    ("proto", &local.proto),
                    ("local_mark", &local.mark),
                ];
                text.sample(name, labels, values[value]);
            }
        }
    }
}
