//! `lvs-node status`: what a node is, for people and for programs.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use lvs_dr::ipvs::Table;
use lvs_dr::marks::{Attached, Counters, Mac};
use lvs_dr::node::{Fence, Node, Status, VipOwner};
use serde_json::{Map, Value, json};

use super::columns::{self, Align};
use super::{cluster, plural};

/// A label, and what it is of.
type Line = (&'static str, String);

/// For people.
pub fn text(node: &Node, status: &Status, verbose: bool, colour: bool) -> String {
    let known = cluster::known(node).unwrap_or_default();
    let config = node.config();
    print(&lines(config.vip_owner, config.fence, status, &known, verbose), colour)
}

/// The width of a label, and what begins a line that goes on.
const LABEL: usize = 9;

fn print(lines: &[Line], colour: bool) -> String {
    let mut text = String::new();
    for (label, line) in lines {
        let code = match *label {
            "failed" | "missing" => "31",
            "warning" => "33",
            _ => "",
        };
        let label = format!("{label:LABEL$}");
        text += &if colour && !code.is_empty() { format!("\x1b[{code}m{label}\x1b[0m") } else { label };
        text += &line.replace('\n', &format!("\n{:LABEL$}", ""));
        text += "\n";
    }
    text
}

fn lines(owner: VipOwner, fence: Fence, status: &Status, known: &Value, verbose: bool) -> Vec<Line> {
    let role = match status.role {
        Some((role, true)) => format!("{role}, request {}", status.generation),
        Some((role, false)) => format!("{role}, not reached, request {}", status.generation),
        None => "none taken on yet".into(),
    };
    let mut lines: Vec<Line> = vec![("role", role)];
    for (vip, found) in &status.vips {
        // The interface first, which is what clients find.
        let mut found = found.clone();
        found.sort_by_key(|place| place.interface == "lo");
        let places: Vec<String> =
            found.iter().map(|place| format!("{} (scope {})", place.interface, place.scope)).collect();
        let places = if places.is_empty() { "no interface".into() } else { places.join(" and ") };
        lines.push(("VIP", format!("{vip} on {places}")));
    }
    if owner == VipOwner::Routes {
        let advertised: Vec<String> = status.advertised.iter().map(IpAddr::to_string).collect();
        let list = if advertised.is_empty() { "no VIP".to_owned() } else { advertised.join(" and ") };
        lines.push(("routes", format!("{list} to be advertised")));
    }
    let hidden = if status.hidden { "a VIP on lo stays hidden" } else { "neighbours learn of a VIP on lo" };
    let settings: BTreeSet<String> = status.arp.iter().map(|(_, counts)| counts.to_string()).collect();
    lines.extend(settings.iter().map(|settings| {
        let same = status.arp.iter().filter(|(_, counts)| counts.to_string() == *settings);
        let interfaces: Vec<&str> = same.map(|(name, _)| name.as_str()).collect();
        ("ARP", format!("{settings} on {}: {hidden}", interfaces.join(" and ")))
    }));
    let count = |table: &Table| {
        let destinations = table.services().map(|service| service.destinations().len()).sum();
        format!("{}, {}", plural(table.len(), "service"), plural(destinations, "destination"))
    };
    let whole = |table: &Table| if verbose { format!("\n{}", table.to_string().trim_end()) } else { String::new() };
    lines.push(("table", count(&status.table) + &whole(&status.table)));
    if fence == Fence::Clear {
        lines.push(("", format!("as a director {}{}", count(&status.kept), whole(&status.kept))));
    }
    let interfaces: BTreeSet<&str> = status.rules.iter().map(|rule| rule.interface.as_str()).collect();
    for interface in interfaces {
        let rules: Vec<String> =
            status.rules.iter().filter(|rule| rule.interface == interface).map(ToString::to_string).collect();
        let all = if verbose { format!("\n{}", rules.join("\n")) } else { String::new() };
        lines.push(("rules", format!("{} on {interface}{all}", rules.len())));
    }
    lines.extend(status.classifiers.iter().map(|(interface, found)| {
        let Attached { classification, counters, .. } = found;
        let what = format!("{} on {interface}", plural(classification.services.len(), "TCP service"));
        let counted: Vec<String> =
            counts(counters).map(|(_, count, words)| format!("{count} {words}")).into_iter().collect();
        ("marked", format!("{what}, packets: {}", counted.join(", ")))
    }));
    for ((service, address), weight) in &status.drained {
        let now = status.kept.service(service).and_then(|content| content.destination(*address)).map(|d| d.weight);
        let now = match now {
            Some(0) => String::new(),
            Some(now) => format!(", {now} now: another program has set it"),
            None => ", removed now: another program has done so".to_owned(),
        };
        lines.push(("drained", format!("{address} of {service}, weight {weight} before{now}")));
    }
    let peers: Vec<[String; 3]> =
        status.peers.iter().map(|(peer, macs)| peer_row(*peer, macs, status, known)).collect();
    let peers = columns::text(&peers, &[Align::Left; 3]);
    lines.extend(peers.lines().map(|peer| ("peer", peer.to_owned())));
    let mut daemons = BTreeMap::<String, Vec<String>>::new();
    for daemon in &status.daemons {
        let place = format!("on {}, id {}", daemon.interface, daemon.sync_id);
        daemons.entry(place).or_default().push(daemon.role.to_string());
    }
    lines.extend(daemons.into_iter().map(|(place, roles)| ("sync", format!("{} {place}", roles.join(" and ")))));
    // What the watch has counted: it knows what the table does not count.
    let here = known["known"].as_u64().unwrap_or_else(|| status.connections());
    lines.push((
        "known",
        match known["at_director"].as_u64() {
            Some(of) => format!("{here} of the director's {of} connections"),
            None => plural(here as usize, "connection"),
        },
    ));
    let unequal = known["unequal"].as_array().into_iter().flatten().filter_map(Value::as_str);
    lines.extend(unequal.map(|text| ("cluster", text.to_owned())));
    lines.extend(status.failure.iter().map(|failure| {
        let reason = failure.reason.replace('\n', " ");
        ("failed", format!("{} {} s ago: {reason}", failure.task, failure.age().as_secs()))
    }));
    // That a role is not reached is said above.
    let missing = status.missing.iter().filter(|step| verbose || !step.starts_with("record: "));
    lines.extend(missing.map(|step| ("missing", step.clone())));
    lines.extend(status.warnings.iter().map(|warning| ("warning", warning.clone())));
    lines
}

/// What a classifier has counted: its name for programs, the number, and words for people.
pub fn counts(counters: &Counters) -> [(&'static str, u64, &'static str); 6] {
    [
        ("local", counters.local, "of sockets here"),
        ("openings", counters.openings, "new from clients"),
        ("peer_openings", counters.peer_openings, "new from peers"),
        ("forwarded", counters.forwarded, "passed on"),
        ("second_hops", counters.second_hops, "passed on for a peer"),
        ("strays", counters.strays, "strays"),
    ]
}

/// The address, the MAC addresses, and whether it directs.
fn peer_row(peer: IpAddr, macs: &BTreeSet<Mac>, status: &Status, known: &Value) -> [String; 3] {
    let macs: Vec<String> = macs.iter().map(ToString::to_string).collect();
    let macs = if macs.is_empty() { "MAC address unknown".to_owned() } else { macs.join(" ") };
    let others = known["others"].as_array();
    let named = |node: &&Value| node["addresses"].as_array().is_some_and(|all| all.contains(&json!(peer.to_string())));
    let heard = others.and_then(|others| others.iter().find(named)).and_then(|node| node["role"].as_str());
    let directed = status.director == Some(peer);
    let directs = match heard {
        Some("master") => "directs",
        Some(_) if directed => "directed last",
        None if directed => "directs or directed last",
        _ => "",
    };
    [peer.to_string(), macs, directs.to_owned()]
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
        "advertised": status.advertised.iter().map(ToString::to_string).collect::<Vec<_>>(),
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
        "classifiers": status.classifiers.iter().map(|(interface, found)| json!({
            "interface": interface,
            "services": found.classification.services.keys().map(ToString::to_string).collect::<Vec<_>>(),
            "packets": counts(&found.counters).into_iter().map(|(name, count, _)| (name.to_owned(), json!(count))).collect::<Map<_, _>>(),
        })).collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_that_go_on_hold_their_column_and_colour_is_for_labels() {
        let lines = [("role", "backup".to_owned()), ("missing", "marks: 1 change\n  add x".to_owned())];
        assert_eq!(print(&lines, false), "role     backup\nmissing  marks: 1 change\n           add x\n");
        let coloured = print(&lines, true);
        assert!(coloured.starts_with("role     backup\n\x1b[31mmissing  \x1b[0mmarks"), "{coloured:?}");
    }
}
