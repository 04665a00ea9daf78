//! What an audit looks at beside what a role does: the thin layer that reads.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;

use super::elections::{self, Answered, Keepalived};
use super::keepalived;
use crate::error::{Cause, Error, Result};
use crate::ipvs::{Detail, Scheduler, ServiceId, Table, Timeouts};
use crate::marks::Firewall;
use crate::node::Node;
use crate::node::listeners::{self, Sockets};
use crate::sysctl;

/// What an audit looks at beside what a role does.
#[derive(Debug, Clone)]
pub(super) struct Environment {
    /// How long idle connections are remembered.
    pub(super) timeouts: Timeouts,
    /// The interfaces on which reverse path filtering drops packets for a VIP.
    pub(super) astray: Vec<Astray>,
    /// Services that the kernel refuses, and why.
    pub(super) refused: Vec<(ServiceId, String)>,
    /// Services that this node is a server of, and that no socket of it serves.
    pub(super) unserved: BTreeMap<Sockets, Vec<ServiceId>>,
    /// The firewall's rules that packets for a service pass.
    pub(super) firewall: Firewall,
    /// Whether IPVS leaves what it sends on to connection tracking.
    pub(super) conntrack: bool,
    /// Services with scheduler mh whose destinations the kernel has in another order than the one
    /// in which a node loads them.
    pub(super) unordered: Vec<ServiceId>,
    /// The defences of IPVS that are at work, and the values of their sysctls.
    pub(super) defence: Vec<(String, i64)>,
    /// The interfaces on which this node answers ARP requests for others.
    pub(super) proxies: Vec<String>,
    /// Whether the kernel keeps the other addresses of a subnet when its primary one goes.
    pub(super) promotes: bool,
    /// Who answers for the node's VIPs.
    pub(super) answered: Vec<Answered>,
    /// Whether keepalived runs.
    pub(super) process: Keepalived,
    /// keepalived's file.
    pub(super) keepalived: Option<keepalived::File>,
}

/// An interface that packets for a VIP arrive on and that filters strictly, a client whose answers
/// leave by another interface, and which.
#[derive(Debug, Clone)]
pub(super) struct Astray {
    pub(super) interface: String,
    pub(super) client: IpAddr,
    pub(super) through: String,
}

/// A client that no route was made for (RFC 5737).
const ANYWHERE: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 1);
/// Of how many known clients the way back is looked at.
const CLIENTS: usize = 32;

impl Environment {
    /// Looks around. `table`: what the node's director has; `seen`: what the kernel has now.
    pub(super) fn of(node: &mut Node, table: &Table, seen: &Table, keepalived: Option<&Path>) -> Result<Self> {
        Ok(Environment {
            timeouts: node.ipvs.timeouts()?,
            astray: astray(node, table)?,
            refused: refused(node, table, seen),
            unserved: listeners::unserved(node, table)?,
            firewall: Firewall::read(node.ipvs.netns())?,
            conntrack: sysctl::read_number(node.ipvs.netns(), "net/ipv4/vs/conntrack")?.is_some_and(|value| value != 0),
            unordered: unordered(node, seen)?,
            defence: defence(node)?,
            proxies: proxies(node)?,
            promotes: is_on(node, &node.config.interface, "promote_secondaries")?
                || is_on(node, "all", "promote_secondaries")?,
            answered: elections::answered(node),
            process: elections::keepalived(node.ipvs.netns())?,
            keepalived: match keepalived {
                Some(path) => Some(keepalived::read(path).map_err(|e| Error::system("read", path.display(), e))?),
                None => None,
            },
        })
    }
}

/// A packet passes strict filtering where an answer to it (from the VIP) would leave by the
/// interface that it came by. Clients' packets come by the interface that is named, and those that
/// a director sends on by the interface of the address that it sends them to.
fn astray(node: &mut Node, table: &Table) -> Result<Vec<Astray>> {
    let Some(vip) = node.config.vips.iter().copied().find(IpAddr::is_ipv4) else { return Ok(Vec::new()) };
    let servers = table.servers(|_| true);
    let own = node.vips.on_interfaces()?.into_iter().filter(|found| found.address.is_ipv4() && found.interface != "lo");
    let of_servers = own.filter(|found| servers.contains(&found.address)).map(|found| found.interface);
    let interfaces: BTreeSet<String> = of_servers.chain([node.config.interface.clone()]).collect();
    let read = |of: &str| sysctl::read_number(node.ipvs.netns(), &format!("net/ipv4/conf/{of}/rp_filter"));
    let all = read("all")?;
    let mut strict = Vec::new();
    for interface in interfaces {
        // Of all and of the interface the greater counts: 1 is strict, 2 is not.
        if all.max(read(&interface)?) == Some(1) {
            strict.push(interface);
        }
    }
    if strict.is_empty() {
        return Ok(Vec::new());
    }
    let known: BTreeSet<IpAddr> = node.ipvs.connections()?.iter().map(|connection| connection.client.ip()).collect();
    let mut ways = Vec::new();
    for client in known.into_iter().filter(IpAddr::is_ipv4).take(CLIENTS).chain([ANYWHERE.into()]) {
        // One on lo is this node itself.
        ways.extend(node.vips.way(client, vip)?.filter(|way| way != "lo").map(|way| (client, way)));
    }
    let through = |interface: String| {
        let (client, through) = ways.iter().find(|(_, way)| *way != interface)?.clone();
        Some(Astray { interface, client, through })
    };
    Ok(strict.into_iter().filter_map(through).collect())
}

/// 2 is an automatic defence that memory has switched on, 3 one that is always on.
fn defence(node: &Node) -> Result<Vec<(String, i64)>> {
    let mut found = Vec::new();
    for name in ["drop_entry", "drop_packet", "secure_tcp"] {
        let value = sysctl::read_number(node.ipvs.netns(), &format!("net/ipv4/vs/{name}"))?;
        found.extend(value.filter(|value| *value >= 2).map(|value| (name.to_owned(), value)));
    }
    Ok(found)
}

fn proxies(node: &Node) -> Result<Vec<String>> {
    let interface = &node.config.interface;
    let is_proxy = is_on(node, interface, "proxy_arp_pvlan")? || is_on(node, "all", "proxy_arp_pvlan")?;
    Ok(if is_proxy && is_on(node, interface, "forwarding")? { vec![interface.clone()] } else { Vec::new() })
}

fn is_on(node: &Node, interface: &str, setting: &str) -> Result<bool> {
    let found = sysctl::read_number(node.ipvs.netns(), &format!("net/ipv4/conf/{interface}/{setting}"))?;
    Ok(found.is_some_and(|value| value != 0))
}

/// The kernel lists the destination first that was added last. A node adds them sorted by address.
fn unordered(node: &mut Node, seen: &Table) -> Result<Vec<ServiceId>> {
    let mut found = Vec::new();
    let hashed = seen.services().filter(|content| content.service.scheduler == Scheduler::MH);
    for id in hashed.map(|content| content.service.id) {
        match node.ipvs.entry(&id, Detail::Configuration) {
            Ok((_, destinations)) if destinations.iter().rev().is_sorted_by_key(|entry| entry.destination.address) => {}
            Ok(_) => found.push(id),
            // It has just gone.
            Err(error) if error.cause() == Some(Cause::NoService) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(found)
}

/// Tries the services: nothing else knows what schedulers can be loaded. Those whose like is in
/// the table are not tried.
fn refused(node: &mut Node, table: &Table, seen: &Table) -> Vec<(ServiceId, String)> {
    let proven = |wanted: &crate::ipvs::Service| {
        seen.services().any(|found| {
            found.service.scheduler == wanted.scheduler
                && (wanted.engine.is_none() || found.service.engine == wanted.engine)
                && found.service.id.family() == wanted.id.family()
        })
    };
    let doubtful: Vec<_> = table.services().map(|content| content.service).filter(|s| !proven(s)).cloned().collect();
    if doubtful.is_empty() {
        return Vec::new();
    }
    let refused = node.ipvs.refused(&doubtful);
    refused.into_iter().map(|(id, error)| (id, error.to_string())).collect()
}
