//! What an audit asks the link and the machine about the election of the director: who answers for
//! a VIP, and whether keepalived runs.

use std::collections::BTreeSet;
use std::fs;
use std::net::IpAddr;
use std::os::unix::fs::MetadataExt;
use std::time::Duration;

use crate::error::Result;
use crate::marks::Mac;
use crate::netns::Netns;
use crate::node::Node;

/// Time limit for the answers of the nodes that hold a VIP.
const LIMIT: Duration = Duration::from_millis(100);

/// How many VIPs the other nodes are asked for: those of a group move together.
const ASKED: usize = 2;

/// The MAC addresses of other hosts that answer for a VIP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Answered {
    pub(super) vip: IpAddr,
    pub(super) macs: BTreeSet<Mac>,
}

/// Whether a process of keepalived runs in the node's network namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Keepalived {
    Runs,
    Missing,
}

/// Asks the link for the first VIPs. IPv6 is asked only where there is no IPv4 VIP, as its question
/// may disturb a host that has just got its address.
pub(super) fn answered(node: &mut Node) -> Vec<Answered> {
    let all = &node.config.vips;
    let v4: Vec<IpAddr> = all.iter().copied().filter(IpAddr::is_ipv4).take(ASKED).collect();
    let asked = if v4.is_empty() { all.iter().copied().take(1).collect() } else { v4 };
    let ask = |vip| {
        // An interface that is down, or is no Ethernet, answers nothing.
        let found = node.marks.who_has(&node.config.interface, vip, LIMIT, LIMIT).unwrap_or_default();
        Answered { vip, macs: found.into_iter().collect() }
    };
    let mut answered: Vec<Answered> = asked.into_iter().map(ask).collect();
    // Of a macvlan's lower interface, say.
    if answered.iter().any(|answered| !answered.macs.is_empty()) {
        let names: BTreeSet<String> =
            node.vips.on_interfaces().unwrap_or_default().into_iter().map(|found| found.interface).collect();
        for own in names.iter().filter(|name| *name != "lo").filter_map(|name| node.marks.macs(name).ok()) {
            answered.iter_mut().for_each(|answered| answered.macs.retain(|mac| !own.contains(mac)));
        }
    }
    answered
}

/// Looks for a process by its name, as far as this PID namespace shows it.
pub(super) fn keepalived(netns: &Netns) -> Result<Keepalived> {
    let namespace = |path: &str| fs::metadata(path).map(|found| (found.dev(), found.ino())).ok();
    let own = netns.run(|| namespace("/proc/thread-self/ns/net"))?;
    let is_there = |process: &str| {
        let name = fs::read_to_string(format!("/proc/{process}/comm")).unwrap_or_default();
        name.trim_end() == "keepalived" && namespace(&format!("/proc/{process}/ns/net")) == own
    };
    let names =
        fs::read_dir("/proc").into_iter().flatten().filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let mut processes = names.filter(|name| name.bytes().all(|octet| octet.is_ascii_digit()));
    Ok(if processes.any(|process| is_there(&process)) { Keepalived::Runs } else { Keepalived::Missing })
}
