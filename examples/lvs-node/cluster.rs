//! `lvs-node cluster`: all nodes of the cluster, as this node's watch hears them.

use std::collections::BTreeSet;
use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use lvs_dr::files::Replacement;
use lvs_dr::node::{Counts, Node, OtherNode, Role, Status, VipOwner};
use serde_json::{Value, json};

use super::columns::{self, Align};
use super::watch;

/// What was written earlier is of a watch that hangs.
const FRESH: Duration = Duration::from_secs(10);

/// A node is silent that was not received for this long: its beacons come every second.
const SILENT: u64 = 3;

/// What the watch knows, and the other commands do not: the text of the file that it writes every
/// second, below the state directory.
pub fn known_file(node: &Node) -> PathBuf {
    node.config().state_dir.join("cluster")
}

/// Writes that file. Where it cannot be written, the other commands know less.
pub fn write(path: &Path, counts: &Counts, others: &[OtherNode]) {
    let others: Vec<Value> = others.iter().map(other).collect();
    let known = json!({
        "known": counts.known,
        "at_director": counts.at_director.filter(|_| !counts.directs),
        "changed": counts.role_changed.map(unix_time),
        "unequal": counts.unequal,
        "others": others,
    });
    let _ = Replacement::new(path).write(known.to_string() + "\n");
}

fn other(other: &OtherNode) -> Value {
    json!({
        "addresses": other.addresses.iter().map(IpAddr::to_string).collect::<Vec<_>>(),
        "role": other.role.map(|role| role.to_string()),
        "directs": other.directs,
        "connections": other.connections,
        "table_equal": other.table_equal,
        "version": other.version,
        "changed": other.changed.map(before_now),
        "seen": before_now(other.silent),
    })
}

pub fn unix_time(at: Instant) -> u64 {
    before_now(at.elapsed())
}

fn before_now(age: Duration) -> u64 {
    SystemTime::now().checked_sub(age).and_then(|at| at.duration_since(UNIX_EPOCH).ok()).unwrap_or_default().as_secs()
}

/// What the watch has written lately. `None`: it does not run.
pub fn known(node: &Node) -> Option<Value> {
    let path = known_file(node);
    let fresh = fs::metadata(&path).ok()?.modified().ok()?.elapsed().ok()? < FRESH && watch::runs(node);
    serde_json::from_str(&fs::read_to_string(path).ok().filter(|_| fresh)?).ok()
}

/// A group of this node.
pub struct Group {
    pub name: String,
    pub owner: VipOwner,
    pub status: Status,
}

/// The nodes of the cluster, this one first: those that are heard, and those that should be.
pub fn nodes(groups: &[Group], known: &Value) -> Vec<Value> {
    let is_master = |group: &&Group| matches!(group.status.role, Some((Role::Master, true)));
    // With routes each node directs, and none says so.
    let directs = groups.iter().filter(is_master).filter(|group| group.owner != VipOwner::Routes);
    let directs: Vec<&str> = directs.map(|group| group.name.as_str()).collect();
    let roles: Vec<Role> = groups.iter().filter_map(|group| group.status.role).map(|(role, _)| role).collect();
    let role = roles.iter().find(|role| **role == Role::Master).or(roles.first());
    let mut list = vec![json!({
        "this": true,
        "addresses": own(groups),
        "role": role.map(Role::to_string),
        "directs": directs,
        "connections": known["known"],
        "table_equal": Value::Null,
        "version": env!("CARGO_PKG_VERSION"),
        "changed": known["changed"],
        "seen": Value::Null,
    })];
    let servers: BTreeSet<IpAddr> = groups.iter().flat_map(|group| group.status.peers.keys().copied()).collect();
    let mut heard = BTreeSet::new();
    for other in known["others"].as_array().into_iter().flatten() {
        let addresses: Vec<IpAddr> = addresses(other).collect();
        // By the addresses that clients' requests go to, where it has one of them.
        let named: Vec<IpAddr> = addresses.iter().copied().filter(|address| servers.contains(address)).collect();
        heard.extend(addresses.iter().copied());
        let named = if named.is_empty() { addresses } else { named };
        let mut node = other.clone();
        node["this"] = false.into();
        node["addresses"] = named.iter().map(IpAddr::to_string).collect();
        list.push(node);
    }
    // A server with two addresses is one node, by its MAC addresses.
    let mut missing: Vec<(BTreeSet<IpAddr>, _)> = Vec::new();
    for (peer, macs) in groups.iter().flat_map(|group| &group.status.peers) {
        if heard.contains(peer) {
            continue;
        }
        match missing.iter_mut().find(|(peers, known)| peers.contains(peer) || (*known == macs && !macs.is_empty())) {
            Some((peers, _)) => drop(peers.insert(*peer)),
            None => missing.push(([*peer].into(), macs)),
        }
    }
    list.extend(missing.into_iter().map(|(peers, _)| {
        json!({
            "this": false,
            "addresses": peers.iter().map(IpAddr::to_string).collect::<Vec<_>>(),
            "role": Value::Null,
            "directs": [],
            "connections": Value::Null,
            "table_equal": Value::Null,
            "version": Value::Null,
            "changed": Value::Null,
            "seen": Value::Null,
        })
    }));
    list
}

fn addresses(node: &Value) -> impl Iterator<Item = IpAddr> {
    node["addresses"].as_array().into_iter().flatten().filter_map(|address| address.as_str()?.parse().ok())
}

/// The addresses by which the table names this node: of its servers those that no other node has.
fn own(groups: &[Group]) -> Vec<String> {
    let servers = groups.iter().flat_map(|group| group.status.kept.services());
    let servers: BTreeSet<IpAddr> =
        servers.flat_map(|service| service.destinations()).map(|server| server.address.ip()).collect();
    let others: BTreeSet<IpAddr> = groups.iter().flat_map(|group| group.status.peers.keys().copied()).collect();
    servers.difference(&others).map(IpAddr::to_string).collect()
}

/// What an operator should look at: a reason for exit code 1.
pub fn faults(groups: &[(String, VipOwner)], nodes: &[Value], known: &Value, now: u64) -> Vec<String> {
    let texts = known["unequal"].as_array().into_iter().flatten().filter_map(Value::as_str);
    let mut faults: Vec<String> = texts.map(str::to_owned).collect();
    for node in nodes.iter().skip(1).filter(|node| silent(node, now)) {
        faults.push(match node["seen"].as_u64() {
            Some(seen) => format!("{} is silent: it was heard {}", name(node), ago(now, seen)),
            None => format!("{} is not heard: does it run `lvs-node watch`?", name(node)),
        });
    }
    for (group, owner) in groups {
        let of = if group.is_empty() { String::new() } else { format!(" group {group}") };
        if *owner == VipOwner::Routes {
            if nodes.iter().all(|node| node["role"] != "master") {
                faults.push(format!("no node announces the VIPs{of}"));
            }
            continue;
        }
        let directing = |node: &&Value| node["directs"].as_array().is_some_and(|names| names.contains(&json!(group)));
        let directors: Vec<String> = nodes.iter().filter(directing).map(name).collect();
        match directors.len() {
            0 => faults.push(format!("no node directs{of}")),
            1 => {}
            _ => faults.push(format!("{} direct{of} at once", directors.join(" and "))),
        }
    }
    faults
}

fn silent(node: &Value, now: u64) -> bool {
    node["role"].is_null() || node["seen"].as_u64().is_none_or(|seen| now.saturating_sub(seen) > SILENT)
}

fn name(node: &Value) -> String {
    addresses(node).next().map_or_else(|| "this node".to_owned(), |address| address.to_string())
}

/// For people: a line for each node.
pub fn text(nodes: &[Value], named: bool, now: u64) -> String {
    let word = |node: &Value, field: &str| node[field].as_str().unwrap_or("-").to_owned();
    let mut rows = vec![
        ["NODE", "", "ROLE", "DIRECTS", "TABLE", "CONNECTIONS", "VERSION", "ROLE SINCE", "HEARD"].map(str::to_owned),
    ];
    for node in nodes {
        let this = node["this"] == true;
        let directs: Vec<&str> = node["directs"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        let directs = match (directs.is_empty(), named) {
            (true, _) => "-".to_owned(),
            (false, true) => directs.join(","),
            (false, false) => "yes".to_owned(),
        };
        let table = match (this, node["table_equal"].as_bool()) {
            (true, _) => "",
            (_, Some(true)) => "equal",
            (_, Some(false)) => "differs",
            (_, None) => "-",
        };
        let mut addresses = addresses(node).map(|address| address.to_string());
        let first = addresses.next().unwrap_or_else(|| "-".to_owned());
        let when = |field: &str| node[field].as_u64().map_or_else(|| "-".to_owned(), |at| ago(now, at));
        rows.push([
            first,
            if this { "this node".to_owned() } else { String::new() },
            word(node, "role"),
            directs,
            table.to_owned(),
            node["connections"].as_u64().map_or_else(|| "-".to_owned(), |count| count.to_string()),
            word(node, "version"),
            when("changed"),
            if this { String::new() } else { when("seen") },
        ]);
        rows.extend(addresses.map(|address| {
            let mut row = [const { String::new() }; 9];
            row[0] = format!("  {address}");
            row
        }));
    }
    let mut align = [Align::Left; 9];
    align[5] = Align::Right;
    columns::text(&rows, &align)
}

/// How long ago, in one unit.
fn ago(now: u64, at: u64) -> String {
    match now.saturating_sub(at) {
        ..=SILENT => "now".to_owned(),
        seconds @ ..120 => format!("{seconds} s ago"),
        seconds @ ..7200 => format!("{} min ago", seconds / 60),
        seconds @ ..172_800 => format!("{} h ago", seconds / 3600),
        seconds => format!("{} d ago", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(address: &str, role: Option<&str>, directs: &[&str], seen: Option<u64>) -> Value {
        json!({
            "this": false, "addresses": [address, "2001:db8::1"], "role": role, "directs": directs, "connections": 1200,
            "table_equal": true, "version": "0.1.0", "changed": 1000, "seen": seen,
        })
    }

    #[test]
    fn columns_hold_and_faults_are_named() {
        let mut this = node("192.0.2.11", Some("master"), &[""], None);
        this["this"] = true.into();
        let there = node("192.0.2.112", Some("backup"), &[], Some(4999));
        let gone = node("192.0.2.13", None, &[], Some(4958));
        let never = json!({
            "this": false, "addresses": ["192.0.2.14"], "role": null, "directs": [], "connections": null,
            "table_equal": null, "version": null, "changed": null, "seen": null,
        });
        let nodes = [this, there, gone, never];
        assert_eq!(
            text(&nodes, false, 5000),
            "NODE                      ROLE    DIRECTS  TABLE  CONNECTIONS  VERSION  ROLE SINCE  HEARD\n\
             192.0.2.11     this node  master  yes                    1200  0.1.0    66 min ago\n\
             \x20 2001:db8::1\n\
             192.0.2.112               backup  -        equal         1200  0.1.0    66 min ago  now\n\
             \x20 2001:db8::1\n\
             192.0.2.13                -       -        equal         1200  0.1.0    66 min ago  42 s ago\n\
             \x20 2001:db8::1\n\
             192.0.2.14                -       -        -                -  -        -           -\n"
        );
        let known = json!({ "unequal": ["192.0.2.112 has other services"] });
        let groups = [(String::new(), VipOwner::Node)];
        assert_eq!(faults(&groups, &nodes[..2], &json!({}), 5000), [""; 0]);
        assert_eq!(
            faults(&groups, &nodes, &known, 5000),
            [
                "192.0.2.112 has other services",
                "192.0.2.13 is silent: it was heard 42 s ago",
                "192.0.2.14 is not heard: does it run `lvs-node watch`?"
            ]
        );
        assert_eq!(
            faults(&[("web".to_owned(), VipOwner::Node)], &nodes[..2], &known, 5000)[1..],
            ["no node directs group web"]
        );
        let two =
            [node("192.0.2.1", Some("master"), &[""], None), node("192.0.2.2", Some("master"), &[""], Some(5000))];
        assert_eq!(faults(&groups, &two, &json!({}), 5000), ["192.0.2.1 and 192.0.2.2 direct at once"]);
        // With routes each node directs.
        let routed = [(String::new(), VipOwner::Routes)];
        assert_eq!(faults(&routed, &two, &json!({}), 5000), [""; 0]);
        let withdrawn = [node("192.0.2.1", Some("backup"), &[], None)];
        assert_eq!(faults(&routed, &withdrawn, &json!({}), 5000), ["no node announces the VIPs"]);
        assert_eq!([ago(9, 8), ago(9000, 1000), ago(900_000, 0)], ["now", "2 h ago", "10 d ago"]);
    }
}
