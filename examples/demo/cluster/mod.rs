//! The cluster: a switch, a client and the nodes, each a network namespace; a keepalived in each
//! node, or a router and BIRD. The demo shows it, and benches/failover measures it.

pub(crate) mod addresses;
mod bird;
pub(crate) mod load;
pub(crate) mod monitor;
pub(crate) mod progress;
pub(crate) mod record;
pub(crate) mod router;
pub(crate) mod stage;
pub(crate) mod watch;
pub(crate) mod ways;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::net::{IpAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use lvs_dr::Netns;
use rustix::process::{Pid, Signal, kill_process};

use addresses::{Family, family, vip};
use router::{Classified, NextHops, ROUTER, Router};
use ways::Way;

pub(crate) const INTERFACE: &str = "bond0";
/// Everything that a cluster writes, a directory for each node.
pub(crate) const DIR: &str = "/run/lvs-dr-demo";

const ADVERT_SECONDS: f64 = 0.3;
/// The namespaces beside the nodes'.
/// In a node's folder: keepalived, if it is not the installed one.
const PROGRAM: &str = "keepalived";
const LAN: &str = "lan";
const CLIENT: &str = "client";
const OTHER_CLIENT: &str = "client2";
/// Far apart: a backup waits for (256 - priority) / 256 of an advert longer than three adverts.
/// Were those times close to each other, two nodes would take over at once, and one of them step
/// back at once.
const PRIORITIES: [u8; 3] = [250, 170, 90];
/// Of more than three nodes.
const MORE_PRIORITIES: [u8; 5] = [250, 200, 150, 100, 50];
/// A node in maintenance has this much less priority, and so the least that there is.
const MAINTENANCE: u8 = 250;

/// One of the web servers.
pub(crate) struct Node {
    pub(crate) name: String,
    pub(crate) address: IpAddr,
    pub(crate) netns: Netns,
    /// What this node's keepalived sees as /etc/keepalived.
    pub(crate) etc: PathBuf,
    priority: u8,
    /// The router's; without one, none.
    next_hops: NextHops,
}

impl Node {
    /// Runs a program in this node's namespace, its arguments separated by blanks, and returns
    /// what it printed.
    pub(crate) fn run(&self, command: &str) -> Result<String> {
        self.netns.run(|| run(command, ""))?.with_context(|| format!("in {}", self.name))
    }

    /// Runs `lvs-node` with the node's file.
    pub(crate) fn lvs_node(&self, arguments: &str) -> Result<String> {
        let (program, config) = (ways::install_lvs_node()?, self.etc.join("node.toml"));
        self.run(&format!("{program} --config {} {arguments}", config.display()))
    }

    /// Returns the MAC address of the interface.
    pub(crate) fn mac(&self) -> Result<String> {
        let link = self.run(&format!("ip -o link show {INTERFACE}"))?;
        let mac = link.split_once("link/ether ").and_then(|(_, behind)| behind.split(' ').next());
        mac.map(String::from).with_context(|| format!("no MAC address in `{link}`"))
    }

    /// Sets `net.ipv4.KEY` in this node.
    pub(crate) fn sysctl(&self, key: &str, value: u32) -> Result<()> {
        let path = Path::new("/proc/sys/net/ipv4").join(key);
        let write = || fs::write(&path, value.to_string());
        self.netns.run(write)?.with_context(|| format!("cannot write {} in {}", path.display(), self.name))
    }

    /// Tells this node's keepalived to let others direct (or no longer to): it watches the file.
    pub(crate) fn set_maintenance(&self, on: bool) -> Result<()> {
        let path = self.maintenance();
        fs::write(&path, if on { "1\n" } else { "0\n" }).with_context(|| format!("cannot write {}", path.display()))
    }

    /// Whether `lvs-node` has reached this role here, and takes part in elections.
    pub(crate) fn has_role(&self, role: &str) -> bool {
        let read = |path: PathBuf| fs::read_to_string(path).unwrap_or_default();
        read(self.etc.join("state/state")).contains(&format!("role {role} reached\n"))
            && read(self.maintenance()).trim() == "0"
    }

    /// Lets this node, which directs, hand over to that one. It is prepared when this returns, and
    /// keepalived is told.
    pub(crate) fn begin_handover(&self, to: &Node) -> Result<Child> {
        let mut command = Command::new(ways::install_lvs_node()?);
        command.arg("--config").arg(self.etc.join("node.toml")).args(["handover", "--to", &to.address.to_string()]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = self.netns.run(|| command.spawn())?.context("cannot run lvs-node")?;
        let told = || fs::read_to_string(self.maintenance()).is_ok_and(|text| text.trim() == "1");
        while !told() && matches!(child.try_wait(), Ok(None)) {
            thread::sleep(Duration::from_millis(5));
        }
        Ok(child)
    }

    /// What keepalived watches.
    pub(crate) fn maintenance(&self) -> PathBuf {
        self.etc.join("maintenance")
    }

    /// Where keepalived writes states to, on a way that has it do so.
    pub(crate) fn fifo(&self) -> PathBuf {
        self.etc.join("fifo")
    }

    fn metrics(&self) -> PathBuf {
        self.etc.join("metrics")
    }

    /// Returns what the classifier has counted, as `lvs-node watch` said last.
    pub(crate) fn classified(&self) -> Classified {
        Classified::read(&fs::read_to_string(self.metrics()).unwrap_or_default())
    }

    fn log(&self) -> PathBuf {
        self.etc.join("keepalived.log")
    }

    // keepalived sees its own files in /etc/keepalived, and a /tmp of its own: a node of one's own
    // has both.
    fn start_keepalived(&self) -> Result<Child> {
        let log = File::create(self.log()).with_context(|| format!("cannot write {}", self.log().display()))?;
        let program = self.etc.join(PROGRAM);
        let program = if program.exists() { program } else { "keepalived".into() };
        let script = "mkdir -p /etc/keepalived && mount --bind $0/tmp /tmp && mount --bind $0 /etc/keepalived &&
            exec $1 --vrrp --dont-fork --log-console --pid=$0/pid --vrrp_pid=$0/vrrp.pid";
        Command::new("ip")
            .args(["netns", "exec", &self.name, "sh", "-c", script])
            .arg(&self.etc)
            .arg(program)
            .stdin(Stdio::null())
            .stdout(log.try_clone().context("cannot share the log")?)
            .stderr(log)
            .spawn()
            .context("cannot start keepalived by `ip netns exec`")
    }

    fn keepalived_conf(&self, way: &Way, notify: &str) -> String {
        let Node { name, priority, .. } = self;
        let fifo = if way.watched { "\n    notify_fifo /etc/keepalived/fifo" } else { "" };
        // keepalived's parser goes by lines: a block on one line means nothing to it, and it does
        // not say so. A planned move is a lower priority of the director, which its track file
        // brings about: preemption does the rest, and nothing is restarted.
        format!(
            "global_defs {{
    router_id {name}
    script_user root
    enable_script_security
    vrrp_version 3
    vrrp_priority -20{fifo}
}}
track_file maintenance {{
    file /etc/keepalived/maintenance
}}
vrrp_instance web {{
    state BACKUP
    interface {INTERFACE}
    virtual_router_id 51
    priority {priority}
    advert_int {ADVERT_SECONDS}
    track_file {{
        maintenance weight -{MAINTENANCE}
    }}
    virtual_ipaddress {{
        {vip}/{host} dev {INTERFACE}
    }}
{notify}
}}
",
            vip = vip(),
            host = family().host(),
        )
    }
}

/// The nodes and the client on one switch. Dropping it ends what it started and removes the
/// namespaces.
pub(crate) struct Cluster {
    pub(crate) nodes: Vec<Node>,
    /// Web servers that never direct; none at first.
    pub(crate) servers: Vec<Node>,
    pub(crate) client: Netns,
    /// Of each node, once it is started.
    keepalived: BTreeMap<usize, Child>,
    /// Each `lvs-node watch` that the cluster itself has started.
    watches: Vec<Child>,
    /// Once it is started, on a way that has one.
    router: Option<Router>,
    namespaces: Namespaces,
}

impl Cluster {
    /// Builds the cluster and prepares its nodes for `way`; none directs yet.
    pub(crate) fn build(count: usize, way: &Way) -> Result<Self> {
        let names: Vec<String> = (1..=count).map(|i| format!("n{i}")).collect();
        let namespaces = Namespaces::add(&names, way)?;
        Self::lay_cables(&names, way).context("cannot build the cluster")?;
        let next_hops = NextHops::default();

        let priorities = if count > PRIORITIES.len() { &MORE_PRIORITIES[..] } else { &PRIORITIES };
        let mut nodes = Vec::new();
        for (i, name) in names.into_iter().enumerate() {
            let etc = Path::new(DIR).join(way.name).join(&name);
            fs::create_dir_all(etc.join("tmp")).with_context(|| format!("cannot make {}", etc.display()))?;
            nodes.push(Node {
                netns: Netns::named(&name)?,
                name,
                address: addresses::node(i),
                etc,
                priority: priorities[i],
                next_hops: next_hops.clone(),
            });
        }
        for node in &nodes {
            let notify = (way.prepare)(way, node, &nodes).with_context(|| format!("cannot prepare {}", node.name))?;
            let conf = node.etc.join("keepalived.conf");
            fs::write(&conf, node.keepalived_conf(way, &notify))
                .with_context(|| format!("cannot write {}", conf.display()))?;
            node.set_maintenance(false)?;
        }
        let client = Netns::named(CLIENT)?;
        // The others are the load's own.
        let ports = || fs::write("/proc/sys/net/ipv4/ip_local_port_range", format!("{} 65535", load::PORTS.end));
        client.run(ports)?.context("cannot set the client's ports")?;
        Ok(Cluster {
            nodes,
            servers: Vec::new(),
            client,
            keepalived: BTreeMap::new(),
            watches: Vec::new(),
            router: None,
            namespaces,
        })
    }

    fn lay_cables(names: &[String], way: &Way) -> Result<()> {
        // The switch is a bridge in a namespace of its own; a node's cable has the node's name
        // there.
        run(&format!("ip -n {LAN} -batch -"), "link add br0 type bridge mcast_snooping 0\nlink set br0 up\n")?;
        names.iter().enumerate().try_for_each(|(i, name)| plug(name, INTERFACE, addresses::node(i)))?;
        if !way.routes {
            return plug(CLIENT, "eth0", addresses::client());
        }
        router::lay_cables(INTERFACE)?;
        let route = |name| run(&format!("ip -n {name} route add default via {}", addresses::client()), "").map(drop);
        names.iter().try_for_each(route)
    }

    /// Adds a web server that never directs: the VIP is on its loopback, and nothing runs there.
    /// No table has it yet.
    pub(crate) fn add_server(&mut self) -> Result<()> {
        let name = format!("s{}", self.servers.len() + 1);
        run(&format!("ip netns add {name}"), "")?;
        self.namespaces.0.push(name.clone());
        let address = addresses::node(self.nodes.len() + self.servers.len());
        plug(&name, INTERFACE, address)?;
        let etc = Path::new(DIR).join(&name);
        let server =
            Node { netns: Netns::named(&name)?, name, address, etc, priority: 0, next_hops: NextHops::default() };
        server.sysctl("conf/all/arp_ignore", 1)?;
        server.sysctl("conf/all/arp_announce", 2)?;
        server.run(&format!("ip address add {}/{} dev lo scope host", vip(), family().host()))?;
        self.servers.push(server);
        Ok(())
    }

    /// Returns all web servers: the nodes, then the others.
    pub(crate) fn all_servers(&self) -> impl Iterator<Item = &Node> {
        self.nodes.iter().chain(&self.servers)
    }

    /// Waits until the client sends what is for the VIP to this node.
    pub(crate) fn wait_for_client(&self, node: usize) -> Result<()> {
        let mac = self.nodes[node].mac()?;
        let begin = Instant::now();
        loop {
            // To a port without a server: the client asks for the MAC address if it has none.
            self.client.run(|| UdpSocket::bind((family().any(), 0))?.send_to(b"", (vip(), 9)))??;
            let neighbour = self.client.run(|| run(&format!("ip neighbour show {} dev eth0", vip()), ""))??;
            if neighbour.contains(&mac) {
                return Ok(());
            }
            if begin.elapsed() > Duration::from_secs(5) {
                bail!("the client does not send to {} ({mac}): `{}`", self.nodes[node].name, neighbour.trim());
            }
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// One more client.
    pub(crate) fn add_client(&mut self) -> Result<Netns> {
        run(&format!("ip netns add {OTHER_CLIENT}"), "")?;
        self.namespaces.0.push(OTHER_CLIENT.into());
        plug(OTHER_CLIENT, "eth0", addresses::other_client())?;
        Ok(Netns::named(OTHER_CLIENT)?)
    }

    /// Gives a node another network namespace, in which nothing is of what was in the old one:
    /// what a new start of its host would do.
    pub(crate) fn renew(&mut self, node: usize) -> Result<()> {
        let name = self.nodes[node].name.clone();
        run(&format!("ip -n {LAN} link delete {name}"), "")?;
        run("ip -batch -", &format!("netns delete {name}\nnetns add {name}\n"))?;
        plug(&name, INTERFACE, addresses::node(node))?;
        self.nodes[node].netns = Netns::named(&name)?;
        Ok(())
    }

    /// Drops what IP protocol 112 (VRRP) and UDP to these ports a node sends, and is sent.
    pub(crate) fn cut(&self, node: &Node, ports: &[u16]) -> Result<()> {
        let mut lines = format!("qdisc add dev {} clsact\n", node.name);
        let vrrp = match family() {
            Family::V4 => "protocol ip pref 101 u32 match ip protocol 112 0xff",
            Family::V6 => "protocol ipv6 pref 101 u32 match ip6 protocol 112 0xff",
        };
        for way in ["ingress", "egress"] {
            let mut drop = |number: usize, what: &str| {
                lines +=
                    &format!("filter add dev {} {way} protocol ip pref {number} u32 {what} action drop\n", node.name);
            };
            for (i, port) in ports.iter().enumerate() {
                drop(i + 1, &format!("match ip protocol 17 0xff match ip dport {port} 0xffff"));
            }
            lines += &format!("filter add dev {} {way} {vrrp} action drop\n", node.name);
        }
        run(&format!("tc -n {LAN} -batch -"), &lines).map(drop)
    }

    /// Drops the ARP between two nodes, so that `node` does not learn the other's MAC address by
    /// it.
    pub(crate) fn hide(&self, node: &Node, from: &Node) -> Result<()> {
        let (port, address) = (&node.name, from.address);
        let lines = format!(
            "qdisc add dev {port} clsact\n\
             filter add dev {port} ingress protocol arp pref 1 flower arp_tip {address} action drop\n\
             filter add dev {port} egress protocol arp pref 1 flower arp_sip {address} action drop\n"
        );
        run(&format!("tc -n {LAN} -batch -"), &lines).map(drop)
    }

    /// Lets it all pass again.
    pub(crate) fn heal(&self, node: &Node) -> Result<()> {
        run(&format!("tc -n {LAN} qdisc delete dev {} clsact", node.name), "").map(drop)
    }

    /// Starts `lvs-node watch` in one of the nodes, before its keepalived. What it prints is in a
    /// file beside the configuration.
    pub(crate) fn start_watch(&mut self, node: usize) -> Result<()> {
        let node = &self.nodes[node];
        let log = node.etc.join("watch.log");
        let log = File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
        let mut command = Command::new(ways::install_lvs_node()?);
        command.arg("--config").arg(node.etc.join("node.toml")).arg("watch");
        match self.router {
            Some(_) => command.arg("--metrics").arg(node.metrics()),
            None => command.arg("--fifo").arg(node.fifo()),
        };
        command.stdin(Stdio::null()).stderr(log.try_clone().context("cannot share the log")?).stdout(log);
        self.watches.push(node.netns.run(|| command.spawn())?.context("cannot run lvs-node watch")?);
        Ok(())
    }

    /// Starts the routing daemons.
    pub(crate) fn start_router(&mut self) -> Result<()> {
        let next_hops = &self.nodes[0].next_hops;
        self.router = Some(Router::start(&self.nodes, next_hops)?);
        Ok(())
    }

    /// Stops the routing daemon of one of the nodes.
    pub(crate) fn stop_routing(&self, node: usize) -> Result<()> {
        self.router.as_ref().context("there is no router")?.stop(&self.nodes[node])
    }

    /// Starts keepalived in one of the nodes.
    pub(crate) fn start_keepalived(&mut self, node: usize) -> Result<()> {
        self.keepalived.insert(node, self.nodes[node].start_keepalived()?);
        Ok(())
    }

    /// Stops it, and waits until it has ended.
    pub(crate) fn end_keepalived(&mut self, node: usize) -> Result<()> {
        self.stop_keepalived(node)?;
        let mut keepalived = self.keepalived.remove(&node).context("keepalived has not been started")?;
        keepalived.wait().context("cannot wait for keepalived").map(drop)
    }

    /// Stops keepalived in one of the nodes, as its init system would.
    pub(crate) fn stop_keepalived(&self, node: usize) -> Result<()> {
        let keepalived = self.keepalived.get(&node).context("keepalived has not been started")?;
        kill_process(Pid::from_child(keepalived), Signal::TERM).context("cannot stop keepalived")
    }

    /// Pulls (or puts back) a node's cable: nothing that it sends arrives any more, and nothing
    /// arrives there.
    pub(crate) fn set_link(&self, node: &Node, up: bool) -> Result<()> {
        run(&format!("ip -n {LAN} link set {} {}", node.name, if up { "up" } else { "down" }), "").map(drop)
    }

    /// The last lines of each daemon's log.
    pub(crate) fn log_tails(&self) -> String {
        const LINES: usize = 15;
        if let Some(router) = &self.router {
            return router.log_tails();
        }
        let mut text = String::new();
        for node in &self.nodes {
            let log = fs::read_to_string(node.log()).unwrap_or_else(|e| format!("cannot be read: {e}"));
            let lines: Vec<&str> = log.lines().collect();
            text += &format!("--- {}\n", node.log().display());
            for line in &lines[lines.len().saturating_sub(LINES)..] {
                text += &format!("    {line}\n");
            }
        }
        text
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for watch in &mut self.watches {
            let _ = watch.kill();
            let _ = watch.wait();
        }
        for keepalived in self.keepalived.values() {
            let _ = kill_process(Pid::from_child(keepalived), Signal::TERM);
        }
        let patience = Instant::now() + Duration::from_secs(4);
        for keepalived in self.keepalived.values_mut() {
            while matches!(keepalived.try_wait(), Ok(None)) && Instant::now() < patience {
                thread::sleep(Duration::from_millis(20));
            }
            let _ = keepalived.kill(); // of one that has ended, this is nothing
            let _ = keepalived.wait();
        }
    }
}

/// Network namespaces known to `ip netns`, until they are dropped.
struct Namespaces(Vec<String>);

impl Namespaces {
    /// Adds one for each of the nodes, one for the client, one for the switch, and one for the
    /// router.
    fn add(nodes: &[String], way: &Way) -> Result<Self> {
        let mut names: Vec<String> = [LAN, CLIENT].map(String::from).iter().chain(nodes).cloned().collect();
        names.extend(way.routes.then(|| ROUTER.to_owned()));
        if let Some(name) = names.iter().find(|name| Path::new("/run/netns").join(name).exists()) {
            bail!("there is a network namespace {name} already; if a killed run left it: `ip netns delete {name}`");
        }
        let namespaces = Namespaces(names);
        namespaces.batch("add").context("cannot add network namespaces")?;
        Ok(namespaces)
    }

    fn batch(&self, verb: &str) -> Result<String> {
        let lines: String = self.0.iter().map(|name| format!("netns {verb} {name}\n")).collect();
        run("ip -force -batch -", &lines)
    }
}

impl Drop for Namespaces {
    fn drop(&mut self) {
        if family() == Family::V6 {
            // Once IPVS has sent IPv6 to a server on the node itself, 6.1 cannot remove the
            // interface any more, and the next namespace waits for it, for ever. So these stay,
            // without a name.
            self.0.iter().filter_map(|name| Netns::named(name).ok()).for_each(std::mem::forget);
        }
        if let Err(e) = self.batch("delete") {
            eprintln!("some network namespaces are left: {e:#}");
        }
    }
}

/// Puts a cable between the switch and a host.
fn plug(name: &str, interface: &str, address: IpAddr) -> Result<()> {
    let lines =
        format!("link add {name} type veth peer name {interface} netns {name}\nlink set {name} master br0 up\n");
    run(&format!("ip -n {LAN} -batch -"), &lines)?;
    // A host has the same one after it was started anew: others remember it.
    let last = addresses::number(address);
    let mut lines = format!(
        "link set {interface} address 02:00:00:00:00:{last:02x}\nlink set lo up\naddress add {}/24 dev {interface}\n",
        addresses::v4(last)
    );
    if family() == Family::V6 {
        // VRRP sends from the link-local address, which duplicate address detection would hold
        // back for a second.
        let accept_dad = format!("/proc/sys/net/ipv6/conf/{interface}/accept_dad");
        Netns::named(name)?.run(|| fs::write(&accept_dad, "0"))?.with_context(|| accept_dad.clone())?;
        lines += &format!("address add {address}/64 dev {interface} nodad\n");
    }
    lines += &format!("link set {interface} up\n");
    run(&format!("ip -n {name} -batch -"), &lines).map(drop)
}

/// Runs a program, its arguments separated by blanks, with `input` as its standard input; returns
/// what it printed.
pub(crate) fn run(command: &str, input: &str) -> Result<String> {
    let mut words = command.split_whitespace();
    let mut child = Command::new(words.next().unwrap_or_default())
        .args(words)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot run `{command}`"))?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(input.as_bytes()).with_context(|| format!("cannot write to `{command}`"))?;
    }
    let output = child.wait_with_output().with_context(|| format!("cannot wait for `{command}`"))?;
    if !output.status.success() {
        bail!("`{command}` failed ({}): {}", output.status, String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
