//! Routers spread connections over all nodes, and each node directs: with BIRD and FRR, which
//! advertise the VIPs by BGP and notice by BFD that a node is gone. The recipes are those of
//! examples/bird and examples/frr. Judged by the router's routes, and by what a client receives.

use std::collections::BTreeSet;
use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use lvs_dr::Netns;
use lvs_dr::node::{Config, Node, Role, VipOwner, Weigh};

use crate::lab::{cable, ip, ip_batch, ipvsadm, keep, new_netns, try_run};
use crate::lan::{BOTH, Cluster, INTERFACE, MH, NODES, Tap, VIP6, services};
use crate::node::new_path;

/// The most nodes that a packet passes: the router, and the node that directs.
const HOPS: u8 = 2;

/// What the routing daemons do at their start is not waited for in a test of theirs.
const ROUTES_LIMIT: Duration = Duration::from_secs(30);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Daemon {
    Bird,
}

/// A process, ended with the test.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill().and_then(|()| self.0.wait());
    }
}

/// A client, a router and the nodes, whose link the router is on.
struct Site {
    cluster: Cluster,
    router: Netns,
    dir: PathBuf,
    _daemons: Vec<Process>,
}

impl Drop for Site {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.dir);
    }
}

fn routed(config: &mut Config) {
    config.vip_owner = VipOwner::Routes;
}

fn write(path: &str, value: &str) {
    fs::write(format!("/proc/sys/net/{path}"), value).unwrap_or_else(|error| panic!("{path}: {error}"));
}

impl Site {
    /// Nodes with these services, all of which serve, and which have no role yet.
    fn new(daemon: Daemon, services: &str) -> Self {
        let mut cluster = Cluster::without_roles(services, routed);
        let (router, client) = (cluster.client.clone(), new_netns());
        keep(&client);
        client.run(|| write("ipv6/conf/default/accept_dad", "0")).unwrap();
        let lay = || {
            for family in ["ipv4", "ipv6"] {
                write(&format!("{family}/fib_multipath_hash_policy"), "1");
            }
            write("ipv4/ip_forward", "1");
            write("ipv6/conf/all/forwarding", "1");
            cable("out0", "02:00:00:00:02:01", &client, "eth0");
            ip_batch("address add 198.51.100.1/24 dev out0\naddress add 2001:db8:2::1/64 dev out0 nodad\n");
        };
        router.run(lay).unwrap();
        let configure = || {
            ip_batch(
                "address add 198.51.100.2/24 dev eth0\naddress add 2001:db8:2::2/64 dev eth0 nodad\n\
                 route add default via 198.51.100.1\nroute add default via 2001:db8:2::1\n",
            );
        };
        client.run(configure).unwrap();
        cluster.client = client;
        for host in &cluster.hosts {
            host.run(|| ip_batch("route add default via 192.0.2.1\nroute add default via 2001:db8::1\n")).unwrap();
        }
        let dir = new_path();
        fs::create_dir_all(&dir).unwrap();
        let mut site = Site { cluster, router, dir, _daemons: Vec::new() };
        site._daemons = site.start(daemon);
        site
    }

    fn start(&self, daemon: Daemon) -> Vec<Process> {
        let (router, server) = daemon.recipes();
        let mut started = daemon.start(&self.router, &self.dir.join("router"), &router);
        for (host, number) in self.cluster.hosts.iter().zip(NODES) {
            let own = server
                .replace("192.0.2.11", &format!("192.0.2.{number}"))
                .replace("2001:db8::11", &format!("2001:db8::{number}"));
            started.extend(daemon.start(host, &self.dir.join(number.to_string()), &own));
        }
        started
    }

    /// The next hops of the router's routes to a VIP, by the numbers of the nodes.
    fn next_hops(&self, vip: &str) -> BTreeSet<u8> {
        let family = if vip == VIP6 { "-6" } else { "-4" };
        let shown = self.router.run(|| ip(&format!("{family} route show {vip}"))).unwrap();
        let words: Vec<&str> = shown.split_whitespace().collect();
        let hops = words.windows(2).filter(|pair| pair[0] == "via").map(|pair| pair[1]);
        hops.filter_map(|hop| hop.rsplit(['.', ':']).next()?.parse().ok()).collect()
    }

    /// Waits until the router has these next hops, for both VIPs. Returns how long that took.
    fn until_next_hops(&self, expected: &[u8]) -> Duration {
        let start = Instant::now();
        let expected: BTreeSet<u8> = expected.iter().copied().collect();
        loop {
            let found = BOTH.map(|vip| self.next_hops(vip));
            if found.iter().all(|found| *found == expected) {
                return start.elapsed();
            }
            assert!(start.elapsed() < ROUTES_LIMIT, "next hops: {found:?}, not {expected:?}\n{}", self.logs());
            thread::sleep(Duration::from_millis(5));
        }
    }

    fn logs(&self) -> String {
        let mut text = String::new();
        for entry in fs::read_dir(&self.dir).unwrap().flatten() {
            let log = fs::read_to_string(entry.path().join("log")).unwrap_or_default();
            text += &format!("--- {}\n{log}", entry.path().display());
        }
        text
    }

    fn announce_all(&mut self) {
        (0..NODES.len()).for_each(|node| self.cluster.take_on(node, Role::Master));
        self.until_next_hops(&NODES);
    }

    /// How many connections each node has an entry of, that it does not serve itself.
    fn directed(&self) -> Vec<usize> {
        let entries = || ipvsadm("-Lnc").lines().filter(|line| line.contains("ESTABLISHED")).count();
        self.cluster.hosts.iter().map(|host| host.run(entries).unwrap()).collect()
    }
}

impl Daemon {
    fn recipes(self) -> (String, String) {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples");
        let read = |name: &str| fs::read_to_string(root.join(name)).unwrap_or_else(|error| panic!("{name}: {error}"));
        match self {
            Daemon::Bird => (read("bird/router.conf"), read("bird/server.conf")),
        }
    }

    fn start(self, host: &Netns, dir: &Path, recipe: &str) -> Vec<Process> {
        fs::create_dir_all(dir).unwrap();
        let log = dir.join("log");
        match self {
            Daemon::Bird => {
                let recipe = recipe.replace("log syslog all;", &format!("log {log:?} all;"));
                fs::write(dir.join("bird.conf"), recipe).unwrap();
                let mut command = Command::new("bird");
                command.arg("-f").arg("-c").arg(dir.join("bird.conf")).arg("-s").arg(dir.join("ctl"));
                vec![spawn(host, command, &log)]
            }
        }
    }
}

fn spawn(host: &Netns, mut command: Command, log: &Path) -> Process {
    let file = || Stdio::from(fs::File::options().create(true).append(true).open(log).unwrap());
    command.stdin(Stdio::null()).stdout(file()).stderr(file());
    Process(host.run(move || command.spawn().unwrap()).unwrap())
}

const SESSIONS: usize = 300;

/// Waits until each session has sent a packet by the routes as they are now: then the node that it
/// reaches has an entry.
fn at_rest() {
    thread::sleep(Duration::from_millis(200));
}

fn leaves_and_comes_back(daemon: Daemon) {
    let mut site = Site::new(daemon, &services(MH));
    site.announce_all();
    let tap = Tap::open();
    let mut sessions = site.cluster.sessions(SESSIONS, &BOTH);
    let directed = site.directed();
    assert!(directed.iter().all(|count| *count > SESSIONS / 6), "{directed:?}");
    assert_eq!(sessions.served().len(), 3);
    for (role, next_hops) in [(Role::Backup, &NODES[1..]), (Role::Master, &NODES[..])] {
        let start = Instant::now();
        site.cluster.take_on(0, role);
        let took = (start.elapsed(), site.until_next_hops(next_hops));
        let kept = sessions.kept();
        println!("{daemon:?}, {role}: {took:?}, kept {kept}");
        assert_eq!(kept, SESSIONS, "{role}");
    }
    // The same under new connections.
    let router = site.router.clone();
    let _ = router;
    let mut kept = Vec::new();
    let (limit, dir) = (Duration::from_millis(700), site.dir.clone());
    let _ = dir;
    let tally = site.cluster.during(&BOTH, limit, |nodes, _| {
        for role in [Role::Backup, Role::Master] {
            nodes[0].become_role(role).unwrap();
            thread::sleep(limit);
            kept.push(sessions.kept());
        }
    });
    println!("{daemon:?}: {tally:?}, kept {kept:?}");
    assert_eq!((tally.failed, kept), (0, vec![SESSIONS; 2]), "{tally:?}");
    tap.assert_hops(HOPS);
}

#[test]
fn a_node_leaves_the_next_hops_and_comes_back_bird() {
    leaves_and_comes_back(Daemon::Bird);
}
