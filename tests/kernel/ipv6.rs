//! IPv6: what each fence does where there is nothing else, and sessions that go on behind another
//! director, whichever group the sync daemons use.

use std::fs;
use std::io::{Read, Write};
use std::net::{IpAddr, TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use lvs_dr::Netns;
use lvs_dr::node::{Config, Fence, Node, OwnRequests, Role};

use crate::fence::daemons;
use crate::lab::{cable, enter_new_netns, ip, ipvsadm, keep, load_ipv6, new_netns};
use crate::node::new_path;

const TABLE: &str = "\
-A -t [2001:db8::fe]:80 -s wrr
-a -t [2001:db8::fe]:80 -r [2001:db8::11]:80 -g -w 3
-a -t [2001:db8::fe]:80 -r [2001:db8::12]:80 -g -w 4
";

fn until(what: &str, mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < Duration::from_secs(15), "{what}: not within 15 s");
        thread::sleep(Duration::from_millis(20));
    }
}

fn config(fence: Fence, vips: &[&str], table: &str) -> Config {
    let mut config = Config::new("bond0", vips.iter().map(|vip| vip.parse().unwrap()));
    (config.fence, config.state_dir) = (fence, new_path());
    config.marks.own_requests = OwnRequests::LeftAlone;
    config.services = Some(table.parse().unwrap());
    config
}

#[test]
fn every_fence_without_ipv4() {
    for fence in [Fence::Marks, Fence::Clear] {
        load_ipv6();
        enter_new_netns();
        let peer = new_netns();
        cable("bond0", "02:00:00:00:00:11", &peer, "peer0");
        ip("address add 2001:db8::11/64 dev bond0 nodad");
        // Before that nobody would hear what is announced.
        until("bond0 runs", || ip("link show bond0").contains("state UP"));
        peer.run(|| until("peer0 runs", || ip("link show peer0").contains("state UP"))).unwrap();
        let config = config(fence, &["2001:db8::fe"], TABLE);
        let dir = config.state_dir.clone();
        fs::create_dir_all(dir.parent().unwrap()).unwrap();
        let (seen, announcements) = (dir.with_extension("seen"), config.announcements as usize);
        let tcpdump = || {
            let mut command = Command::new("tcpdump");
            command.args("-i peer0 -n -e -v -l -Z root icmp6".split(' ')).stdout(fs::File::create(&seen).unwrap());
            command.stderr(Stdio::piped()).spawn().unwrap()
        };
        let mut tcpdump = peer.run(tcpdump).unwrap();
        // `listening on peer0 ...`
        tcpdump.stderr.as_mut().unwrap().read_exact(&mut [0; 20]).unwrap();
        let advertised = || {
            let text = fs::read_to_string(&seen).unwrap().replace("\n\t", " ");
            let ours = |line: &&str| line.contains("neighbor advertisement") && line.contains("tgt is 2001:db8::fe");
            let lines: Vec<String> = text.lines().filter(ours).map(str::to_owned).collect();
            for line in &lines {
                for word in [
                    "02:00:00:00:00:11 > 33:33:00:00:00:01",
                    "hlim 255",
                    "2001:db8::fe > ff02::1:",
                    "override",
                    "[icmp6 sum ok]",
                ] {
                    assert!(line.contains(word), "no {word:?} in {line}");
                }
            }
            lines.len()
        };
        let mut node = Node::open(config).unwrap();
        let first = (ip("-o -6 address show to 2001:db8::/32"), ipvsadm("-Sn"), daemons());
        let mut promotions = 0;
        for role in [Role::Backup, Role::Master, Role::Fault, Role::Master, Role::Stop] {
            node.become_role(role).unwrap();
            let master = role == Role::Master;
            for (interface, there) in [("lo", true), ("bond0", master)] {
                let shown = ip(&format!("-o address show dev {interface} to 2001:db8::fe"));
                assert_eq!(!shown.is_empty(), there, "{fence:?} {role}");
                for word in ["2001:db8::fe/128", "nodad", "valid_lft forever preferred_lft 0sec"] {
                    assert!(!there || shown.contains(word), "no {word:?} in {shown}");
                }
                assert!(!shown.contains("tentative"), "{shown}");
            }
            let wanted = match fence {
                Fence::Clear if !master => "",
                _ => TABLE,
            };
            // Without the services of marks.
            let saved: String =
                ipvsadm("-Sn").lines().filter(|line| !line.contains(" -f ")).map(|line| format!("{line}\n")).collect();
            assert_eq!(saved, wanted, "{fence:?} {role}");
            let daemon = if master { vec!["master", "backup"] } else { vec!["backup"] };
            assert_eq!(daemons(), daemon, "{fence:?} {role}");
            promotions += usize::from(master);
            until("the neighbour is told", || advertised() >= promotions * announcements);
        }
        node.release(|_| ()).unwrap();
        assert_eq!((ip("-o -6 address show to 2001:db8::/32"), ipvsadm("-Sn"), daemons()), first, "{fence:?}");
        assert_eq!(advertised(), promotions * announcements);
        tcpdump.kill().and_then(|()| tcpdump.wait()).unwrap();
        fs::remove_file(&seen).unwrap();
        fs::remove_dir_all(&dir).unwrap();
    }
}

/// A client and three nodes on a switch, of which the third serves.
struct Cluster {
    client: Netns,
    switch: Netns,
    netns: Vec<Netns>,
    nodes: Vec<Node>,
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for node in &self.nodes {
            let _ = fs::remove_dir_all(&node.config().state_dir);
        }
    }
}

impl Cluster {
    fn new(vips: &[&str], group: Option<&str>) -> Self {
        load_ipv6();
        enter_new_netns();
        let (switch, client) = (new_netns(), new_netns());
        let netns: Vec<Netns> = (0..3).map(|_| new_netns()).collect();
        netns.iter().chain([&switch, &client]).for_each(keep);
        let plug = |netns: &Netns, last: u8| {
            let lay = || {
                cable("bond0", &format!("02:00:00:00:00:{last}"), &switch, &format!("port{last}"));
                if vips.len() > 1 {
                    ip(&format!("address add 192.0.2.{last}/24 dev bond0"));
                }
                ip(&format!("address add 2001:db8::{last}/64 dev bond0 nodad"));
            };
            netns.run(lay).unwrap();
        };
        plug(&client, 91);
        (11..).zip(&netns).for_each(|(last, netns)| plug(netns, last));
        let bridge = || {
            ip("link add br0 up type bridge mcast_snooping 0");
            [91, 11, 12, 13].iter().for_each(|last| drop(ip(&format!("link set port{last} master br0"))));
        };
        switch.run(bridge).unwrap();
        let service = |vip: &&str| match vip.contains(':') {
            true => "-A -t [2001:db8::fe]:80 -s rr\n-a -t [2001:db8::fe]:80 -r [2001:db8::13]:80 -g -w 1\n",
            false => "-A -t 192.0.2.254:80 -s rr\n-a -t 192.0.2.254:80 -r 192.0.2.13:80 -g -w 1\n",
        };
        let table: String = vips.iter().map(service).collect();
        let nodes = netns.iter().map(|netns| {
            let mut config = config(Fence::Marks, vips, &table);
            config.sync.group = group.map(|group| group.parse().unwrap());
            Node::open_in(config, netns.clone()).unwrap()
        });
        // Messages to an IPv6 group come from a link-local address, which must not be tentative
        // any more.
        for netns in &netns {
            let ready = || ip("-6 address show dev bond0 scope link -tentative").contains("inet6 fe80:");
            netns.run(|| until("bond0 has a link-local address", ready)).unwrap();
        }
        Cluster { client, switch, nodes: nodes.collect(), netns }
    }
}

#[test]
fn sessions_go_on_behind_another_director() {
    const DUAL: &[&str] = &["192.0.2.254", "2001:db8::fe"];
    let kinds = [(DUAL, None), (DUAL, Some("ff02::81")), (&DUAL[1..], None), (&DUAL[1..], Some("ff02::81"))];
    for (vips, group) in kinds {
        let what = format!("VIPs {vips:?}, group {group:?}");
        let mut cluster = Cluster::new(vips, group);
        let listener = cluster.netns[2].run(|| TcpListener::bind(("::", 80))).unwrap().unwrap();
        thread::spawn(move || {
            for session in listener.incoming() {
                let mut session = session.unwrap();
                thread::spawn(move || std::io::copy(&mut session.try_clone().unwrap(), &mut session));
            }
        });
        for (node, role) in [(0, Role::Master), (1, Role::Backup), (2, Role::Backup)] {
            cluster.nodes[node].become_role(role).unwrap_or_else(|error| panic!("{what}: {error}"));
        }
        // The server is away for a moment, so that the first packet of each session comes twice.
        cluster.switch.run(|| ip("link set port13 down")).unwrap();
        let mut connecting = Vec::new();
        for vip in vips {
            let (client, address) = (cluster.client.clone(), (vip.parse::<IpAddr>().unwrap(), 80).into());
            let connect = move || TcpStream::connect_timeout(&address, Duration::from_secs(10));
            connecting.push(thread::spawn(move || client.run(connect).unwrap().unwrap()));
        }
        thread::sleep(Duration::from_millis(500));
        cluster.switch.run(|| ip("link set port13 up")).unwrap();
        let mut sessions: Vec<TcpStream> = connecting.into_iter().map(|session| session.join().unwrap()).collect();
        let echo = |session: &mut TcpStream, text: &[u8]| {
            session.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
            session.write_all(text).unwrap();
            let mut answer = vec![0; text.len()];
            session.read_exact(&mut answer).unwrap_or_else(|error| panic!("{what}, {text:?}: {error}"));
            assert_eq!(answer, text);
        };
        sessions.iter_mut().for_each(|session| echo(session, b"before"));
        for session in &sessions {
            // As the kernel writes it.
            let port = format!(" {:04X} ", session.local_addr().unwrap().port());
            let learned = || {
                let path = "/proc/thread-self/net/ip_vs_conn";
                let shown = cluster.netns[1].run(|| fs::read_to_string(path)).unwrap().unwrap();
                shown.lines().any(|line| line.contains(&port) && line.contains(" ESTABLISHED "))
            };
            until(&format!("{what}: the backup learns {session:?}"), learned);
        }
        // The director dies, and the backup is promoted.
        cluster.switch.run(|| ip("link set port11 down")).unwrap();
        cluster.nodes[1].become_role(Role::Master).unwrap();
        sessions.iter_mut().for_each(|session| echo(session, b"after"));
        for vip in vips {
            let neighbour = cluster.client.run(|| ip(&format!("neighbour show to {vip}"))).unwrap();
            assert!(neighbour.contains("02:00:00:00:00:12"), "{what}: {neighbour}");
        }
    }
}
