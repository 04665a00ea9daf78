//! The router of way `routes`: between the client and the switch, with a BIRD in it and in each
//! node.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use anyhow::{Context, Result};
use lvs_dr::Netns;
use rustix::process::{Pid, setpriority_process};

use super::addresses::{client, number, vip};
use super::load::PRIORITY;
use super::{CLIENT, DIR, Node, bird, plug, run};

pub(crate) const ROUTER: &str = "router";
const OUTSIDE: &str = "out0";
/// Of the router and of the client, on the link between them.
const LINK: [(&str, &str); 2] = [("198.51.100.1", "fd01::1"), ("198.51.100.2", "fd01::2")];

/// The nodes that are next hops to the VIP, a bit for the number of each.
#[derive(Clone, Debug, Default)]
pub(crate) struct NextHops(Arc<AtomicU64>);

impl NextHops {
    pub(crate) fn contains(&self, number: u8) -> bool {
        self.0.load(Ordering::Relaxed) & 1 << number != 0
    }
}

/// Of TCP packets for the service.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Classified {
    /// From clients.
    pub(crate) packets: u64,
    /// Those among them that were sent from the second node to a third.
    pub(crate) second_hops: u64,
}

impl Classified {
    /// Reads metrics of `lvs-node watch`.
    pub(super) fn read(metrics: &str) -> Self {
        let of_kind = |kind: &str| {
            let kind = format!("kind=\"{kind}\"}} ");
            let lines = metrics.lines().filter(|line| line.starts_with("lvs_node_classifier_packets_total{"));
            lines.filter_map(|line| line.split_once(&kind)?.1.parse::<u64>().ok()).sum::<u64>()
        };
        // Each packet is counted so once, whichever way it takes: where it arrives.
        Classified { packets: of_kind("local") + of_kind("openings"), second_hops: of_kind("second_hops") }
    }
}

impl std::ops::Add for Classified {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        let (packets, second_hops) = (self.packets + other.packets, self.second_hops + other.second_hops);
        Classified { packets, second_hops }
    }
}

pub(crate) struct Router {
    dir: PathBuf,
    netns: Netns,
    /// The router's own and each node's, by the host's name.
    daemons: BTreeMap<String, Child>,
    monitor: Child,
}

/// Puts the router on the switch, and the client behind it.
pub(super) fn lay_cables(interface: &str) -> Result<()> {
    plug(ROUTER, interface, client())?;
    let mut lines = format!("link add {OUTSIDE} type veth peer name eth0 netns {CLIENT}\n");
    let [(v4, v6), (client4, client6)] = LINK;
    lines +=
        &format!("address add {v4}/24 dev {OUTSIDE}\naddress add {v6}/64 dev {OUTSIDE} nodad\nlink set {OUTSIDE} up\n");
    run(&format!("ip -n {ROUTER} -batch -"), &lines)?;
    let lines = format!(
        "link set lo up\naddress add {client4}/24 dev eth0\naddress add {client6}/64 dev eth0 nodad\nlink set eth0 up\n\
         route add default via {v4}\nroute add default via {v6}\n"
    );
    run(&format!("ip -n {CLIENT} -batch -"), &lines)?;
    let forward = || -> std::io::Result<()> {
        for (key, value) in [
            ("ipv4/fib_multipath_hash_policy", "1"),
            ("ipv6/fib_multipath_hash_policy", "1"),
            ("ipv4/ip_forward", "1"),
            ("ipv6/conf/all/forwarding", "1"),
        ] {
            fs::write(Path::new("/proc/sys/net").join(key), value)?;
        }
        Ok(())
    };
    Netns::named(ROUTER)?.run(forward)?.context("cannot let the router forward")
}

impl Router {
    /// Starts the daemons. From now on `next_hops` are those of the router.
    pub(super) fn start(nodes: &[Node], next_hops: &NextHops) -> Result<Self> {
        let netns = Netns::named(ROUTER)?;
        let mut command = Command::new("ip");
        command.args(["-o", "monitor", "route"]).stdin(Stdio::null()).stdout(Stdio::piped());
        let mut monitor = netns.run(|| command.spawn())?.context("cannot run `ip monitor`")?;
        let changes = monitor.stdout.take().context("`ip monitor` has no output")?;
        let (vip, next_hops) = (vip().to_string(), next_hops.clone());
        thread::spawn(move || {
            for line in BufReader::new(changes).lines().map_while(Result::ok) {
                if let Some(bits) = changed(&line, &vip) {
                    next_hops.0.store(bits, Ordering::Relaxed);
                }
            }
        });
        let dir = Path::new(DIR).join(ROUTER);
        let mut daemons = BTreeMap::new();
        let hosts = [(ROUTER.to_owned(), netns.clone(), bird::ROUTER.to_owned())].into_iter();
        let servers = nodes.iter().map(|node| {
            let number = number(node.address);
            let recipe = bird::SERVER.replace("192.0.2.11", &format!("192.0.2.{number}"));
            (node.name.clone(), node.netns.clone(), recipe.replace("2001:db8::11", &format!("2001:db8::{number:x}")))
        });
        for (name, netns, recipe) in hosts.chain(servers) {
            let recipe = recipe.replace("192.0.2.", "192.168.0.").replace("2001:db8::", "fd00::");
            let daemon = bird::start(&netns, &dir.join(&name), &recipe, bird::FAST)?;
            // Each host has a CPU of its own, and the daemon waits for nothing but packets.
            setpriority_process(Some(Pid::from_child(&daemon)), PRIORITY).context("cannot set bird's priority")?;
            daemons.insert(name, daemon);
        }
        Ok(Router { dir, netns, daemons, monitor })
    }

    /// Stops a node's daemon, which says so to the router. A process that was started by
    /// `Netns::run` has all signals blocked, so it is not asked by one.
    pub(super) fn stop(&self, node: &Node) -> Result<()> {
        let socket = self.dir.join(&node.name).join("ctl");
        run(&format!("birdc -s {} down", socket.display()), "").map(drop)
    }

    /// The ends of the daemons' logs.
    pub(super) fn log_tails(&self) -> String {
        const LINES: usize = 10;
        let mut text = self.netns.run(|| run("ip route", "").unwrap_or_default()).unwrap_or_default();
        for name in self.daemons.keys() {
            let log = fs::read_to_string(self.dir.join(name).join("log")).unwrap_or_default();
            let lines: Vec<&str> = log.lines().collect();
            text += &format!("--- bird, {name}\n");
            lines[lines.len().saturating_sub(LINES)..].iter().for_each(|line| text += &format!("    {line}\n"));
        }
        text
    }
}

impl Drop for Router {
    fn drop(&mut self) {
        for child in self.daemons.values_mut().chain([&mut self.monitor]) {
            let _ = child.kill().and_then(|()| child.wait());
        }
    }
}

/// Returns the next hops to the VIP, if a line of `ip -o monitor route` is about its route.
fn changed(line: &str, vip: &str) -> Option<u64> {
    let (deleted, route) = line.strip_prefix("Deleted ").map_or((false, line), |route| (true, route));
    let words: Vec<&str> = route.split_whitespace().collect();
    // Other tables' routes are of type local.
    if words.first() != Some(&vip) {
        return None;
    }
    let hops = words.windows(2).filter(|pair| pair[0] == "via").filter_map(|pair| pair[1].parse().ok());
    Some(if deleted { 0 } else { hops.fold(0, |bits, hop| bits | 1 << number(hop)) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_are_read() {
        let line =
            |kind, count| format!("lvs_node_classifier_packets_total{{interface=\"bond0\",kind=\"{kind}\"}} {count}\n");
        let metrics = [("local", 7), ("peer_openings", 100), ("openings", 5), ("forwarded", 100), ("second_hops", 3)];
        let metrics: String = metrics.map(|(kind, count)| line(kind, count)).concat();
        assert_eq!(Classified::read(&metrics), Classified { packets: 12, second_hops: 3 });
    }

    #[test]
    fn next_hops_are_read() {
        let vip = "192.168.0.254";
        let several = "192.168.0.254 proto bird metric 32 \\\tnexthop via 192.168.0.11 dev bond0 weight 1 \
                       \\\tnexthop via 192.168.0.13 dev bond0 weight 1";
        assert_eq!(changed(several, vip), Some(1 << 11 | 1 << 13));
        assert_eq!(changed("192.168.0.254 via 192.168.0.12 dev bond0 proto bird metric 32", vip), Some(1 << 12));
        assert_eq!(changed("Deleted 192.168.0.254 via 192.168.0.12 dev bond0 proto bird", vip), Some(0));
        assert_eq!(changed("192.168.0.0/24 dev bond0 proto kernel scope link src 192.168.0.1", vip), None);
        let v6 = "fd00::fe via fd00::c dev bond0 proto bird metric 32 pref medium";
        assert_eq!(changed(v6, "fd00::fe"), Some(1 << 12));
    }
}
