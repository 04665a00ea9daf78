//! Routers spread connections over all nodes, and each node directs: with BIRD and FRR, which
//! advertise the VIPs by BGP and notice by BFD that a node is gone. The recipes are those of
//! examples/bird and examples/frr. Judged by the router's routes, and by what a client receives.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use lvs_dr::Netns;
use lvs_dr::node::{Config, Role, VipOwner, Weigh};

use crate::bird;
use crate::lab::{cable, ip, ip_batch, ipvsadm, keep, new_netns, try_run};
use crate::lan::{BOTH, BY_HAND, Cluster, Handmade, MH, NODES, Tap, VIP, VIP6, address, services, until};
use crate::marks_fence::too_big;
use crate::node::new_path;

/// The most nodes that a packet passes: the router, and the node that directs.
const HOPS: u8 = 2;

/// What the routing daemons do at their start is not waited for in a test of theirs.
const ROUTES_LIMIT: Duration = Duration::from_secs(30);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Daemon {
    Bird,
    Frr,
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
        if thread::panicking() {
            eprintln!("{}", self.logs());
        }
        let _ = fs::remove_dir_all(&self.dir);
    }
}

pub fn routed(config: &mut Config) {
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

    /// How many connections each node has an entry of.
    fn directed(&self) -> Vec<usize> {
        let entries = || ipvsadm("-Lnc").lines().filter(|line| line.contains("ESTABLISHED")).count();
        self.cluster.hosts.iter().map(|host| host.run(entries).unwrap()).collect()
    }
}

/// How often the nodes send BFD packets, and how many in a row may be missing. The recipes have 50
/// and 3, and a busy machine stops a guest for longer: `LVS_DR_BFD=50` measures with them.
fn bfd() -> (u64, u64) {
    match std::env::var("LVS_DR_BFD").ok().and_then(|text| text.parse().ok()) {
        Some(interval) => (interval, 3),
        None => (400, 5),
    }
}

impl Daemon {
    fn recipes(self) -> (String, String) {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples");
        let read = |name: &str| fs::read_to_string(root.join(name)).unwrap_or_else(|error| panic!("{name}: {error}"));
        match self {
            Daemon::Bird => (bird::ROUTER.to_owned(), bird::SERVER.to_owned()),
            Daemon::Frr => (read("frr/router.conf"), read("frr/server.conf")),
        }
    }

    fn start(self, host: &Netns, dir: &Path, recipe: &str) -> Vec<Process> {
        fs::create_dir_all(dir).unwrap();
        let log = dir.join("log");
        match self {
            Daemon::Bird => {
                let (milliseconds, multiplier) = bfd();
                let bfd = bird::Bfd { milliseconds, multiplier };
                vec![Process(bird::start(host, dir, recipe, bfd).unwrap())]
            }
            Daemon::Frr => {
                let (interval, times) = bfd();
                let recipe = recipe
                    .replace("-interval 50\n", &format!("-interval {interval}\n"))
                    .replace("detect-multiplier 3", &format!("detect-multiplier {times}"));
                fs::write(dir.join("frr.conf"), recipe).unwrap();
                let make_vrf = || ip_batch("link add vips type vrf table 86\nlink set vips up\n");
                host.run(make_vrf).unwrap();
                // What the package makes when it is installed.
                fs::create_dir_all("/var/run/frr").unwrap();
                let groups = fs::read_to_string("/etc/group").unwrap();
                if !groups.contains("frrvty:") {
                    fs::write("/etc/group", groups + "frrvty:x:64999:root\n").unwrap();
                }
                let socket = dir.join("zserv");
                let mut started = Vec::new();
                for program in ["zebra", "bfdd", "bgpd"] {
                    let mut command = Command::new(format!("/usr/lib/frr/{program}"));
                    command.args(["-u", "root", "-g", "root", "-f", "/dev/null", "-P", "0", "--log", "stdout"]);
                    command.arg("-z").arg(&socket).arg("-i").arg(dir.join(format!("{program}.pid")));
                    command.arg("--vty_socket").arg(dir);
                    match program {
                        "bfdd" => drop(command.arg("--bfdctl").arg(dir.join("bfdd.sock"))),
                        "bgpd" => drop(command.args(["-p", "179"])),
                        _ => {}
                    }
                    started.push(spawn(host, command, &log));
                    let vty = dir.join(format!("{program}.vty"));
                    until("its socket", || vty.exists() && socket.exists());
                }
                let vtysh = format!("vtysh --vty_socket {0} -f {0}/frr.conf", dir.display());
                let told = host.run(|| try_run(&vtysh)).unwrap();
                assert!(told.status.success(), "{told:?}");
                started
            }
        }
    }
}

fn spawn(host: &Netns, mut command: Command, log: &Path) -> Process {
    let file = || Stdio::from(fs::File::options().create(true).append(true).open(log).unwrap());
    command.stdin(Stdio::null()).stdout(file()).stderr(file());
    Process(host.run(move || command.spawn().unwrap()).unwrap())
}

/// No packet has passed more nodes than [`HOPS`], and some have come. The classifier leaves a TTL
/// of 5 to what the router has sent to another node than the session's.
fn assert_hops(tap: &Tap) {
    let packets = tap.packets();
    assert!(!packets.is_empty());
    for packet in packets {
        let passed = packet.hops.checked_sub(64 - 5).map_or(packet.hops, |since| 1 + since);
        assert!(passed <= HOPS, "it has passed {passed} nodes: {packet:?}");
    }
}

/// How many sessions are opened: more where it is measured, see [`bfd`].
fn count() -> usize {
    if std::env::var_os("LVS_DR_BFD").is_some() { 300 } else { 120 }
}

fn leaves_and_comes_back(daemon: Daemon) {
    let mut site = Site::new(daemon, &services(MH));
    site.announce_all();
    let tap = Tap::open();
    let mut sessions = site.cluster.sessions(count(), &BOTH);
    let directed = site.directed();
    assert!(directed.iter().all(|entries| *entries > count() / 6), "{directed:?}");
    assert_eq!(sessions.served().len(), 3);
    for (role, next_hops) in [(Role::Backup, &NODES[1..]), (Role::Master, &NODES[..])] {
        let start = Instant::now();
        site.cluster.take_on(0, role);
        let took = (start.elapsed(), site.until_next_hops(next_hops));
        let kept = sessions.kept();
        println!("{daemon:?}, {role}: {took:?}, kept {kept}");
        assert_eq!(kept, count(), "{role}");
    }
    // The same under new connections.
    let mut kept = Vec::new();
    let limit = Duration::from_millis(700);
    let tally = site.cluster.during(&BOTH, limit, |nodes, _| {
        for role in [Role::Backup, Role::Master] {
            nodes[0].become_role(role).unwrap();
            thread::sleep(limit);
            kept.push(sessions.kept());
        }
    });
    println!("{daemon:?}: {tally:?}, kept {kept:?}");
    assert_eq!((tally.failed, kept), (0, vec![count(); 2]), "{tally:?}");
    assert_hops(&tap);
}

#[test]
fn a_node_leaves_the_next_hops_and_comes_back_frr() {
    leaves_and_comes_back(Daemon::Frr);
}

#[test]
fn a_node_leaves_the_next_hops_and_comes_back_bird() {
    leaves_and_comes_back(Daemon::Bird);
}

/// The file of each node changes its table in place.
pub fn load_everywhere(cluster: &mut Cluster, services: &str) {
    for node in &mut cluster.nodes {
        let mut config = node.config().clone();
        config.services = Some(services.parse().unwrap());
        node.reconfigure(config).unwrap();
        node.apply(lvs_dr::node::Apply::Changes, |_| ()).unwrap();
    }
}

pub fn weigh_everywhere(cluster: &mut Cluster, server: u8, to: Weigh) {
    for node in &mut cluster.nodes {
        for server in [format!("192.0.2.{server}"), format!("2001:db8::{server}")] {
            node.weigh(server.parse().ok(), to, |_| ()).unwrap();
        }
    }
}

/// The services of two servers.
pub fn of_two() -> String {
    let is_of_two = |line: &&str| !line.contains(".13:") && !line.contains("::13]");
    services(MH).lines().filter(is_of_two).map(|line| format!("{line}\n")).collect()
}

/// One change at a time, with a packet of each session in between: a node joins the next hops, and
/// then its server the table.
fn joins(daemon: Daemon) {
    let mut site = Site::new(daemon, &of_two());
    (0..2).for_each(|node| site.cluster.take_on(node, Role::Master));
    site.cluster.take_on(2, Role::Backup);
    site.until_next_hops(&NODES[..2]);
    let mut sessions = site.cluster.sessions(count(), &BOTH);
    assert_eq!(sessions.served().len(), 2);
    site.cluster.take_on(2, Role::Master);
    site.until_next_hops(&NODES);
    assert_eq!(sessions.kept(), count(), "next hop");
    load_everywhere(&mut site.cluster, &services(MH));
    assert_eq!(sessions.kept(), count(), "server");
    assert_eq!(site.cluster.sessions(60, &BOTH).served().len(), 3);
}

/// A node is taken out of the next hops, and then its server out of the table.
fn is_drained(daemon: Daemon) {
    let mut site = Site::new(daemon, &services(MH));
    site.announce_all();
    let mut sessions = site.cluster.sessions(count(), &BOTH);
    site.cluster.take_on(0, Role::Backup);
    site.until_next_hops(&NODES[1..]);
    assert_eq!(sessions.kept(), count(), "withdrawn");
    weigh_everywhere(&mut site.cluster, NODES[0], Weigh::Drain);
    assert_eq!(sessions.kept(), count(), "drained");
    assert!(!site.cluster.sessions(60, &BOTH).served().contains_key(&NODES[0]));
}

#[test]
fn a_node_joins_bird() {
    joins(Daemon::Bird);
}

#[test]
fn a_node_is_drained_bird() {
    is_drained(Daemon::Bird);
}

/// A node dies: the sessions of the others' servers are kept, and BFD ends the gap.
fn dies(daemon: Daemon) {
    let mut site = Site::new(daemon, &services(MH));
    site.announce_all();
    let mut sessions = site.cluster.sessions(count(), &BOTH);
    // BFD begins some seconds after BGP.
    thread::sleep(Duration::from_secs(4));
    ip(&format!("link set port{} down", NODES[2]));
    let gap = site.until_next_hops(&NODES[..2]);
    // A health check takes the server out.
    for node in 0..2 {
        for server in ["192.0.2.13", "2001:db8::13"] {
            site.cluster.nodes[node].weigh(server.parse().ok(), Weigh::Set(0), |_| ()).unwrap();
        }
    }
    sessions.0.retain(|(_, server)| *server != NODES[2]);
    let others = sessions.0.len();
    let kept = sessions.kept();
    println!("{daemon:?}: gap {gap:?}, kept {kept} of {others}, new {:?}", site.cluster.sessions(60, &BOTH).served());
    assert_eq!(kept, others);
}

/// Two changes, and not a packet of the sessions in between.
#[test]
fn sessions_outlive_two_changes_in_a_row_bird() {
    let mut site = Site::new(Daemon::Bird, &of_two());
    site.announce_all();
    let mut sessions = site.cluster.sessions(count(), &BOTH);
    let withdraw = |site: &mut Site, node: usize| {
        site.cluster.take_on(node, Role::Backup);
        let left: Vec<u8> = NODES.into_iter().filter(|number| *number != NODES[node]).collect();
        site.until_next_hops(&left);
    };
    let announce = |site: &mut Site| site.announce_all();
    let mut kept = Vec::new();
    // A server joins, and a next hop is withdrawn.
    load_everywhere(&mut site.cluster, &services(MH));
    withdraw(&mut site, 0);
    kept.push(("joins, withdrawn", sessions.kept()));
    // It comes back, and another one goes.
    announce(&mut site);
    withdraw(&mut site, 1);
    kept.push(("announced, withdrawn", sessions.kept()));
    // A server is drained, and its next hop is withdrawn.
    announce(&mut site);
    kept.push(("announced", sessions.kept()));
    weigh_everywhere(&mut site.cluster, NODES[1], Weigh::Drain);
    withdraw(&mut site, 1);
    kept.push(("drained, withdrawn", sessions.kept()));
    // Two next hops go.
    withdraw_two(&mut site);
    kept.push(("two withdrawn", sessions.kept()));
    println!("{kept:?} of {}", count());
    assert!(kept.iter().all(|(_, kept)| *kept == count()), "{kept:?} of {}", count());
}

/// The first node is the only next hop that is left.
fn withdraw_two(site: &mut Site) {
    (1..NODES.len()).for_each(|node| site.cluster.take_on(node, Role::Backup));
    site.until_next_hops(&NODES[..1]);
}

#[test]
fn a_node_dies_frr() {
    dies(Daemon::Frr);
}

#[test]
fn a_node_dies_bird() {
    dies(Daemon::Bird);
}

/// A VIP whose server does not listen is not advertised, and is once it does.
#[test]
fn a_node_that_does_not_serve_is_no_next_hop() {
    let served = services(MH);
    let lacking = format!("{served}-A -t 192.0.2.254:81 -s mh\n-a -t 192.0.2.254:81 -r 192.0.2.11:81 -g -w 1\n");
    let mut cluster = Cluster::without_roles(&lacking, routed);
    let plan = cluster.nodes[0].become_role(Role::Master).unwrap();
    assert!(plan.warnings().iter().any(|warning| warning.contains("192.0.2.254 is not advertised")), "{plan}");
    // ip fails for a table that never had a route.
    let table = |family: &str| String::from_utf8(try_run(&format!("ip {family} route show table 86")).stdout).unwrap();
    let shown = |cluster: &Cluster| cluster.on(0, || table("-4") + &table("-6"));
    assert_eq!(shown(&cluster).split_whitespace().take(2).collect::<Vec<_>>(), ["unreachable", VIP6]);
    // Another node is no server of that service.
    cluster.take_on(1, Role::Master);
    let of_another = cluster.on(1, || ip("route show table 86"));
    assert!(of_another.starts_with("unreachable 192.0.2.254 "), "{of_another}");
    crate::lan::serve_on(&cluster.hosts[0], 81, 11);
    assert_eq!(cluster.nodes[0].status().unwrap().drift.len(), 3);
    cluster.nodes[0].repair(|_| ()).unwrap();
    assert!(shown(&cluster).contains("unreachable 192.0.2.254 "));
    // Another program's route stays, and ours goes.
    cluster.on(0, || ip("route add unreachable 192.0.2.254 proto 77 metric 7 table 86"));
    cluster.nodes[0].release(|_| ()).unwrap();
    assert_eq!(shown(&cluster).trim(), "unreachable 192.0.2.254 proto 77 metric 7");
}

/// "Fragmentation needed" reaches the server, whichever node gets it: routers spread it by its
/// addresses, which are not those of the session.
#[test]
fn icmp_errors_reach_the_server_by_any_node() {
    let mut cluster = Cluster::without_roles(&services(MH), routed);
    (0..NODES.len()).for_each(|node| cluster.take_on(node, Role::Master));
    for (vip, port) in [(VIP, 7100), (VIP6, 7200)] {
        for (number, by) in NODES.into_iter().enumerate() {
            let mut hand = Handmade::new(&cluster.client, vip, port + u16::try_from(number).unwrap());
            let server = hand.begin(NODES[0]);
            hand.ask(NODES[0]).unwrap();
            let node = NODES.iter().position(|number| *number == server).unwrap();
            let before = cluster.on(node, too_big);
            hand.send_too_big(by, 1300);
            // IPv6 does not show what it keeps for a source address.
            let route = format!("route get {}", address(vip, BY_HAND));
            let learned = || match vip {
                VIP => cluster.on(node, || ip(&route)).contains("mtu 1300"),
                _ => cluster.on(node, too_big) > before,
            };
            until(&format!("{vip}, by {by}: {server} learns the MTU"), learned);
            cluster.on(node, || ip("route flush cache"));
        }
    }
}
