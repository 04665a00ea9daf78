//! Where packets go: reverse path filtering, and who takes the VIP.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use lvs_dr::node::audit::{Finding, Kind, Severity};
use lvs_dr::node::{Config, Fence, Node, Role, VipOwner};
use rustix::process::{Pid, Signal, kill_process};

use crate::cluster::{Cluster, Host, Session, VIP4, until};
use crate::lab::ip;
use crate::{by_hand, cluster_of, config, expect, expect_nothing, new_path, web};

#[test]
fn strict_filtering_drops_what_the_director_sends() {
    let services = || Some(web("-s mh -b mh-fallback,mh-port", 13).parse().unwrap());
    let (cluster, mut nodes) = cluster_of(|| Config { services: services(), ..config(Fence::Marks) });
    let host = &cluster.nodes[2];
    // Clients come from elsewhere, and this server has a second interface, with its default route.
    second_cable(&cluster.client, host);
    cluster.client.sh("ip address add 10.9.9.1/32 dev eth0");
    for node in &cluster.nodes[..2] {
        node.sh("ip route add 10.9.9.0/24 dev bond0");
    }
    host.sh("ip route add default dev eth1 src 198.51.100.13");
    let reached = || Session::open_from(&cluster.client, "10.9.9.1".parse().unwrap(), VIP4).is_ok();
    // The hash of a client's port says who serves it.
    let all = || (0..9).all(|_| reached());
    assert!(all());
    expect_nothing(&mut nodes[2]);
    for of in ["all", "bond0"] {
        host.sysctl(&format!("ipv4/conf/{of}/rp_filter"), "1");
        assert!((0..40).any(|_| !reached()), "{of}");
        let [finding] = expect(&mut nodes[2], [("rp-filter", Severity::Error)]);
        assert!(matches!(&finding.kind, Kind::RpFilter { through, .. } if through == "eth1"), "{finding}");
        by_hand(host, &finding);
        assert!(all());
        expect_nothing(&mut nodes[2]);
    }
}

#[test]
fn a_director_that_is_the_gateway_of_servers() {
    let (cluster, mut nodes) = cluster_of(|| config(Fence::Marks));
    let [router, second, third] = [0, 1, 2].map(|index| &cluster.nodes[index]);
    // Clients behind the director: on its link, with an address that the others reach by it.
    cluster.client.sh("ip address add 10.9.9.1/32 dev eth0");
    router.sysctl("ipv4/ip_forward", "1");
    router.sh("ip route add 10.9.9.0/24 dev bond0");
    let fails = || {
        let from = || Session::open_from(&cluster.client, "10.9.9.1".parse().unwrap(), VIP4);
        (0..6).any(|_| from().is_err())
    };
    for host in [second, third] {
        host.sh("ip route add default via 192.0.2.11");
    }
    assert!(fails());
    for node in &mut nodes[1..] {
        node.fix(|_| ()).unwrap();
        let finding = audit_of_gateway(node);
        assert!(finding.reason.contains("drops answers from an IPv4 VIP"), "{finding}");
        assert!(finding.remedy.text.contains("net/ipv4/conf/INTERFACE/accept_local=1"), "{finding}");
    }
    router.sysctl("ipv4/conf/bond0/accept_local", "1");
    assert!(!fails());
}

fn audit_of_gateway(node: &mut Node) -> Finding {
    let found = crate::findings::audit(node);
    found.into_iter().find(|finding| finding.kind.name() == "peer-is-gateway").unwrap()
}

#[test]
fn servers_that_are_reached_by_nat_and_answer_themselves() {
    let text = "-A -t 192.0.2.254:80 -s rr\n-a -t 192.0.2.254:80 -r 192.0.2.11:80 -g -w 1\n-a -t 192.0.2.254:80 -r 192.0.2.12:80 -m -w 1\n";
    let cluster = Cluster::new(2);
    let services = || Some(text.parse().unwrap());
    let make = |host: &Host| host.node(Config { vips: vec![VIP4], services: services(), ..config(Fence::Marks) });
    let mut nodes: Vec<Node> = cluster.nodes.iter().map(make).collect();
    nodes[1].become_role(lvs_dr::node::Role::Backup).unwrap();
    nodes[0].become_role(lvs_dr::node::Role::Master).unwrap();
    cluster.nodes[0].sysctl("ipv4/ip_forward", "1");
    let fails = || (0..4).any(|_| cluster.client.get(VIP4).is_err());
    assert!(fails());
    let [finding] = expect(&mut nodes[0], [("answers-itself", Severity::Warning)]);
    assert!(finding.remedy.text.contains("-g in ipvsadm(8)"), "{finding}");
    cluster.nodes[0].sh("ipvsadm -e -t 192.0.2.254:80 -r 192.0.2.12:80 -g -w 1");
    assert!(!fails());
}

/// From the node's eth1 to the client's eth1.
fn second_cable(client: &Host, host: &Host) {
    client.run(|| {
        crate::lab::cable("eth1", "02:00:00:00:02:01", &host.netns, "eth1");
        ip("address add 198.51.100.1/24 dev eth1");
    });
    host.sh("ip address add 198.51.100.13/24 dev eth1");
}

/// A keepalived, until it is dropped.
struct Keepalived(Child);

impl Keepalived {
    fn start(host: &Host, conf: &Path) -> Self {
        let pid = |what: &str| conf.with_extension(what).display().to_string();
        let mut command = Command::new("keepalived");
        command.args(["--vrrp", "--dont-fork", "--log-console", "--use-file"]).arg(conf);
        command.args(["--pid", &pid("pid"), "--vrrp_pid", &pid("vrrp")]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        Keepalived(host.run(|| command.spawn().unwrap()))
    }
}

impl Drop for Keepalived {
    fn drop(&mut self) {
        kill_process(Pid::from_child(&self.0), Signal::TERM).unwrap();
        self.0.wait().unwrap();
    }
}

/// Three nodes of which the first, which goes and comes, serves nothing.
struct Returning {
    cluster: Cluster,
    nodes: Vec<Node>,
    dir: PathBuf,
}

impl Returning {
    fn new(fence: Fence) -> Self {
        let cluster = Cluster::new(3);
        let dir = new_path();
        std::fs::create_dir_all(&dir).unwrap();
        let text = "-A -t 192.0.2.254:80 -s rr\n-a -t 192.0.2.254:80 -r 192.0.2.12:80 -g -w 1\n-a -t 192.0.2.254:80 -r \
                    192.0.2.13:80 -g -w 1\n";
        let config = || Config {
            vips: vec![VIP4],
            vip_owner: VipOwner::Keepalived,
            services: Some(text.parse().unwrap()),
            ..config(fence)
        };
        let mut nodes: Vec<Node> = cluster.nodes.iter().map(|host| host.node(config())).collect();
        nodes[2].become_role(Role::Backup).unwrap();
        Returning { cluster, nodes, dir }
    }

    /// keepalived's file of a node: on every node the same, but for the priority.
    fn conf(&self, index: usize, more: &str) -> PathBuf {
        let path = self.dir.join(format!("n{index}.conf"));
        let text = format!(
            "global_defs {{\n router_id n{index}\n vrrp_version 3\n}}\nvrrp_instance web {{\n state BACKUP\n{more}\n interface bond0\n \
             virtual_router_id 51\n priority {}\n advert_int 0.2\n virtual_ipaddress {{\n 192.0.2.254/32 dev bond0\n }}\n}}\n",
            250 - 80 * index
        );
        std::fs::write(&path, text).unwrap();
        path
    }

    fn holds(&self, index: usize) -> bool {
        self.cluster.nodes[index].sh("ip -o address show dev bond0").contains("192.0.2.254")
    }

    /// The first is away, the second directs, and clients come. Then the first is back, and its
    /// keepalived starts.
    fn come_back<T>(&mut self, more: &str, clients: impl FnOnce(&Cluster) -> T) -> (T, [Keepalived; 2]) {
        self.nodes[0].release(|_| ()).unwrap();
        self.nodes[1].become_role(Role::Backup).unwrap();
        let second = Keepalived::start(&self.cluster.nodes[1], &self.conf(1, more));
        until("the second holds the VIP", || self.holds(1));
        self.nodes[1].become_role(Role::Master).unwrap();
        let clients = clients(&self.cluster);
        // The sync daemon sends what it has within two seconds, to nodes that are there.
        thread::sleep(Duration::from_secs(4));
        self.nodes[0].become_role(Role::Backup).unwrap();
        let first = Keepalived::start(&self.cluster.nodes[0], &self.conf(0, more));
        if more.is_empty() {
            until("the first holds the VIP", || self.holds(0) && !self.holds(1));
        } else {
            thread::sleep(Duration::from_secs(3));
            assert!(self.holds(1) && !self.holds(0));
        }
        (clients, [first, second])
    }

    /// keepalived's notifications arrive.
    fn notify(&mut self) {
        if self.holds(0) {
            self.nodes[0].become_role(Role::Master).unwrap();
            self.nodes[1].become_role(Role::Backup).unwrap();
        }
    }

    fn expect(&mut self, more: &str, expected: &[(&str, Severity)]) {
        let path = self.conf(0, more);
        let found: Vec<_> = self.nodes[0].audit(Some(&path)).unwrap();
        let names: Vec<_> = found.iter().map(|finding| (finding.kind.name(), finding.severity)).collect();
        assert_eq!(names, expected);
        assert!(
            found.iter().all(|finding| finding.remedy.text.contains("nopreempt") && finding.reason.contains("web"))
        );
        expect_nothing(&mut self.nodes[0]);
    }
}

#[test]
fn a_node_that_comes_back_and_preempts() {
    for fence in Fence::ALL {
        let mut test = Returning::new(fence);
        for (more, preempts) in [("", true), (" nopreempt", false)] {
            let open = |cluster: &Cluster| -> Vec<Session> {
                (0..6).map(|_| Session::open(&cluster.client, VIP4).unwrap()).collect()
            };
            let (mut sessions, daemons) = test.come_back(more, open);
            let lost = sessions.iter_mut().filter_map(|session| session.ask().err()).count();
            // With marks the second still gets what the first does not know.
            let harms = preempts && fence == Fence::Clear;
            assert_eq!(lost > 0, harms, "{fence:?}: {lost} of 6 were lost");
            test.notify();
            assert!(harms || sessions.iter_mut().all(|session| session.ask().is_ok()));
            test.expect(more, if harms { &[("preempting-vrrp", Severity::Warning)] } else { &[] });
            drop(daemons);
        }
        let none = test.dir.join("none.conf");
        assert!(test.nodes[0].audit(Some(&none)).is_err());
    }
}
