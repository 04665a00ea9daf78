//! `lvs-node status`: what a node is, for people and for programs.

use std::collections::BTreeSet;

use lvs_dr::node::{Fence, Node, Status};
use serde_json::{Value, json};

use super::{plural, watch};

/// For people.
pub fn text(node: &Node, status: &Status) -> String {
    let role = match status.role {
        Some((role, true)) => format!("{role}, request {}", status.generation),
        Some((role, false)) => format!("{role}, not reached, request {}", status.generation),
        None => "none taken on yet".into(),
    };
    let mut lines = vec![format!("role     {role}")];
    for (vip, found) in &status.vips {
        // The interface first, which is what clients find.
        let mut found = found.clone();
        found.sort_by_key(|place| place.interface == "lo");
        let places: Vec<String> =
            found.iter().map(|place| format!("{} (scope {})", place.interface, place.scope)).collect();
        lines.push(format!(
            "VIP      {vip} on {}",
            if places.is_empty() { "no interface".into() } else { places.join(" and ") }
        ));
    }
    let hidden = if status.hidden { "a VIP on lo stays hidden" } else { "neighbours learn of a VIP on lo" };
    let settings: BTreeSet<String> = status.arp.iter().map(|(_, counts)| counts.to_string()).collect();
    lines.extend(settings.iter().map(|settings| {
        let same = status.arp.iter().filter(|(_, counts)| counts.to_string() == *settings);
        let interfaces: Vec<&str> = same.map(|(name, _)| name.as_str()).collect();
        format!("ARP      {settings} on {}: {hidden}", interfaces.join(" and "))
    }));
    let count = |table: &lvs_dr::ipvs::Table| {
        let destinations = table.services().map(|service| service.destinations().len()).sum();
        format!("{}, {}", plural(table.len(), "service"), plural(destinations, "destination"))
    };
    lines.push(match node.config().fence {
        Fence::Clear => format!("table    {}; as a director {}", count(&status.table), count(&status.kept)),
        _ => format!("table    {}", count(&status.table)),
    });
    let interfaces: BTreeSet<&str> = status.rules.iter().map(|rule| rule.interface.as_str()).collect();
    for interface in interfaces {
        let count = status.rules.iter().filter(|rule| rule.interface == interface).count();
        lines.push(format!("rules    {count} on {interface}"));
    }
    for ((service, address), weight) in &status.drained {
        let now = status.kept.service(service).and_then(|content| content.destination(*address)).map(|d| d.weight);
        let now = match now {
            Some(0) => String::new(),
            Some(now) => format!(", {now} now: another program has set it"),
            None => ", removed now: another program has done so".to_owned(),
        };
        lines.push(format!("drained  {address} of {service}, weight {weight} before{now}"));
    }
    for (peer, macs) in &status.peers {
        let macs: Vec<String> = macs.iter().map(ToString::to_string).collect();
        let macs = if macs.is_empty() { "MAC address unknown".to_owned() } else { macs.join(" ") };
        let directs = if status.director == Some(*peer) { ", directs or directed last" } else { "" };
        lines.push(format!("peer     {peer} {macs}{directs}"));
    }
    lines.extend(
        status
            .daemons
            .iter()
            .map(|daemon| format!("sync     {} on {}, id {}", daemon.role, daemon.interface, daemon.sync_id)),
    );
    lines.push(format!("known    {}", plural(status.connections() as usize, "connection")));
    let known = watch::known(&watch::known_file(node)).unwrap_or_default();
    lines.extend(known.lines().map(|known| format!("watch    {known}")));
    lines.extend(status.failure.iter().map(|failure| {
        let reason = failure.reason.replace('\n', " ");
        format!("failed   {} {} s ago: {reason}", failure.task, failure.age().as_secs())
    }));
    lines.extend(status.missing.iter().map(|step| format!("missing  {step}")));
    lines.extend(status.warnings.iter().map(|warning| format!("warning  {warning}")));
    lines.join("\n") + "\n"
}

/// For programs.
pub fn json(node: &Node, status: &Status) -> Value {
    json!({
        "group": node.config().group,
        "role": status.role.map(|(role, _)| role.to_string()),
        "reached": status.role.is_some_and(|(_, reached)| reached),
        "request": status.generation,
        "vips": status.vips.iter().map(|(vip, found)| json!({
            "vip": vip.to_string(),
            "on": found.iter().map(|place| json!({
                "interface": place.interface,
                "prefix": place.prefix,
                "scope": place.scope.to_string(),
            })).collect::<Vec<_>>(),
        })).collect::<Vec<_>>(),
        "arp": {
            "hidden": status.hidden,
            "interfaces": status.arp.iter().map(|(name, counts)| json!({
                "interface": name,
                "ignore": counts.ignore.value(),
                "announce": counts.announce.value(),
            })).collect::<Vec<_>>(),
        },
        "table": status.table.to_string().lines().collect::<Vec<_>>(),
        "sync": status.daemons.iter().map(|daemon| json!({
            "role": daemon.role.to_string(),
            "interface": daemon.interface,
            "id": daemon.sync_id,
        })).collect::<Vec<_>>(),
        "kept": status.kept.to_string().lines().collect::<Vec<_>>(),
        "drained": status.drained.iter().map(|((service, address), weight)| json!({
            "service": service.to_string(),
            "address": address.to_string(),
            "weight_before": weight,
        })).collect::<Vec<_>>(),
        "connections": status.connections(),
        "failure": status.failure.as_ref().map(|failure| json!({
            "task": failure.task,
            "time": failure.unix_time(),
            "reason": failure.reason,
        })),
        "missing": status.missing,
        "warnings": status.warnings,
        "peers": status.peers.iter().map(|(peer, macs)| json!({
            "address": peer.to_string(),
            "macs": macs.iter().map(ToString::to_string).collect::<Vec<_>>(),
        })).collect::<Vec<_>>(),
        "director": status.director.map(|director| director.to_string()),
        "rules": status.rules.iter().map(ToString::to_string).collect::<Vec<_>>(),
    })
}
