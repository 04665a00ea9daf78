//! The plane between the nodes: who is heard, and how much one packet can cause.

use std::fs::{self, Permissions};
use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use lvs_dr::Netns;

use crate::lab::{cable, ip, keep, new_netns, run};
use crate::lan::{INTERFACE, Session, VIP, VIP6, enter_switch, host, session};
use crate::node::new_path;
use crate::watch::{Node, cluster, file, soon, start, to};

/// The UDP port of the beacons.
const PORT: u16 = 8847;

/// Sends one datagram from this host.
fn send(from: &Netns, by: &str, to: &str, text: &str) {
    from.run(|| {
        let v6 = to.contains(':');
        let socket = UdpSocket::bind(if v6 { "[::]:0" } else { "0.0.0.0:0" }).unwrap();
        let index = rustix::net::netdevice::name_to_index(&socket, by).unwrap();
        let any = Ipv4Addr::UNSPECIFIED;
        if v6 {
            rustix::net::sockopt::set_ipv6_multicast_if(&socket, index).unwrap();
        } else {
            rustix::net::sockopt::set_ip_multicast_if_with_ifindex(&socket, &any, &any, index).unwrap();
        }
        socket.send_to(text.as_bytes(), (to.parse::<IpAddr>().unwrap(), PORT)).unwrap();
    })
    .unwrap();
}

const DIRECTOR: &str = "lvs-dr-beacon-1 254 666 master 100 1 100 -";
const DIRECTING: &str = "lvs-dr-node-1 id=254 node=666 address=192.0.2.12 address=2001:db8::12 directs=";

#[test]
fn a_beacon_that_comes_another_way_is_not_heard() {
    for group in ["224.0.0.81", "ff02::51", "ff05::51"] {
        let (client, nodes) = cluster(&format!("group = \"{group}\""));
        let node = &nodes[0];
        // Behind a router.
        let far = new_netns();
        keep(&far);
        client.run(|| cable("far0", "02:00:00:00:09:01", &far, "far1")).unwrap();
        let route = || {
            ip("address add 198.51.100.1/24 dev far0");
            ip("address add 2001:db8:9::1/64 dev far0 nodad");
            fs::write("/proc/sys/net/ipv4/ip_forward", "1").unwrap();
            fs::write("/proc/sys/net/ipv6/conf/all/forwarding", "1").unwrap();
        };
        client.run(route).unwrap();
        let far_end = || {
            ip("address add 198.51.100.2/24 dev far1");
            ip("address add 2001:db8:9::2/64 dev far1 nodad");
            ip("route add default via 198.51.100.1");
            ip("route add default via 2001:db8:9::1");
        };
        far.run(far_end).unwrap();
        // By another interface, where another program of the node has joined the group.
        let side = new_netns();
        keep(&side);
        node.netns.run(|| cable("other0", "02:00:00:00:09:02", &side, "other1")).unwrap();
        node.ip("address add 203.0.113.11/24 dev other0");
        node.ip("address add 2001:db8:a::11/64 dev other0 nodad");
        let side_end = || {
            ip("address add 203.0.113.2/24 dev other1");
            ip("address add 2001:db8:a::2/64 dev other1 nodad");
            ip("route add default via 203.0.113.11");
            ip("route add default via 2001:db8:a::11");
        };
        side.run(side_end).unwrap();
        let joined = node
            .netns
            .run(|| {
                let socket = UdpSocket::bind(if group.contains(':') { "[::]:0" } else { "0.0.0.0:0" }).unwrap();
                let index = rustix::net::netdevice::name_to_index(&socket, "other0").unwrap();
                match group.parse::<IpAddr>().unwrap() {
                    IpAddr::V4(group) => socket.join_multicast_v4(&group, &"203.0.113.11".parse().unwrap()).unwrap(),
                    IpAddr::V6(group) => socket.join_multicast_v6(&group, index).unwrap(),
                }
                socket
            })
            .unwrap();
        soon("the other node is heard", &nodes, || nodes[1].metric("lvs_node_other_directors") == 1);
        let unicast = if group.contains(':') { "2001:db8::11" } else { "192.0.2.11" };
        // A director that hears of another one sends it the packets of connections that it does
        // not know.
        let stands_back = || node.log().contains("192.0.2.12 directs");
        for (from, by, to) in [
            (&far, "far1", unicast),
            (&client, INTERFACE, unicast),
            (&side, "other1", unicast),
            (&side, "other1", group),
        ] {
            for _ in 0..10 {
                send(from, by, to, DIRECTOR);
                send(from, by, to, DIRECTING);
                thread::sleep(Duration::from_millis(150));
            }
            assert!(!stands_back(), "{group}: to {to} by {by}: {}", node.log());
        }
        assert_eq!(node.metric("lvs_node_other_directors"), 0);
        // On the link it is heard.
        soon("another director", &nodes, || {
            send(&client, INTERFACE, group, DIRECTING);
            stands_back()
        });
        drop(joined);
    }
}

#[test]
fn nodes_that_ask_again_and_again_do_not_keep_the_director_busy() {
    let (client, nodes) = cluster("");
    let _sessions: Vec<Session> = (0..100).map(|_| session(&client, VIP).0).collect();
    soon("the backup has learned", &nodes, || nodes[1].metric("lvs_node_knows_all") == 1);
    let resyncs = || nodes[0].metric("lvs_node_resyncs_total");
    let (before, lines) = (resyncs(), nodes[0].log().lines().count());
    for number in 0..20 {
        send(&client, INTERFACE, "224.0.0.81", &format!("lvs-dr-beacon-1 254 {:x} backup 0 0 0 wants", 1000 + number));
        thread::sleep(Duration::from_millis(1250));
    }
    thread::sleep(Duration::from_secs(3));
    let (resyncs, lines) = (resyncs() - before, nodes[0].log().lines().count() - lines);
    println!("20 packets: {resyncs} resynchronisations, {lines} log lines");
    assert!((1..=6).contains(&resyncs), "{resyncs}");
    assert!(lines <= 8, "{lines}: {}", nodes[0].log());
}

#[test]
fn two_clusters_with_the_same_sync_id_are_told_apart() {
    enter_switch();
    let client = host(1);
    const OTHER: [&str; 2] = ["192.0.2.253", "2001:db8::fd"];
    let id = "id = 254";
    let text = file(&[13, 14], id).replace(VIP6, OTHER[1]).replace(VIP, OTHER[0]);
    let mut ours: Vec<Node> = [11, 12].map(|number| Node::new(number, &file(&[11, 12], id))).into();
    let mut theirs: Vec<Node> = [13, 14].map(|number| Node::new(number, &text)).into();
    start(&mut ours);
    let mut sessions: Vec<(Session, u8)> = (0..30).map(|_| session(&client, VIP)).collect();
    start(&mut theirs);
    let more: Vec<Session> = (0..60).map(|n| Session::open(&client, OTHER[n % 2]).unwrap()).collect();
    thread::sleep(Duration::from_secs(4));
    for nodes in [&ours, &theirs] {
        soon("each backup knows its own director's", nodes, || nodes[1].metric("lvs_node_knows_all") == 1);
        assert_eq!([0, 1].map(|n| nodes[n].metric("lvs_node_other_directors")), [0, 1]);
        for node in nodes {
            soon("another cluster is seen", nodes, || node.metric("lvs_node_other_clusters") == 1);
            let warning = "another cluster on bond0 uses sync id 254";
            assert_eq!(node.log().matches(warning).count(), 1, "{}", node.log());
            let status = || node.try_run("status").1;
            soon("the status says so", nodes, || status().contains(warning));
        }
    }
    assert_eq!(ours[1].points_to(0), to(11));
    assert_eq!(crate::lan::kept(&mut sessions), sessions.len());
    drop(more);
}

/// A file that only root can read.
fn key_file(text: &str) -> PathBuf {
    let dir = new_path();
    fs::create_dir_all(&dir).unwrap();
    let path = dir.join("key");
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
    path
}

/// A host in the group.
fn listener(host: &Netns, number: u8) -> UdpSocket {
    let socket = host.run(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, PORT)).unwrap()).unwrap();
    socket.join_multicast_v4(&Ipv4Addr::new(224, 0, 0, 81), &Ipv4Addr::new(192, 0, 2, number)).unwrap();
    socket.set_nonblocking(true).unwrap();
    socket
}

/// What came from each address since the last call.
fn received(socket: &UdpSocket) -> Vec<(String, String)> {
    let mut octets = [0; 2000];
    let mut found = Vec::new();
    while let Ok((length, from)) = socket.recv_from(&mut octets) {
        found.push((from.ip().to_string(), String::from_utf8(octets[..length].to_vec()).unwrap()));
    }
    found
}

#[test]
fn with_a_key_only_nodes_that_have_it_are_heard() {
    const GROUP: &str = "224.0.0.81";
    let key = key_file("0123456789abcdef0123456789abcdef\n");
    let sync = format!("key_file = {key:?}");
    let (client, mut nodes) = cluster(&sync);
    let recorder = listener(&client, 1);
    let _sessions: Vec<Session> = (0..20).map(|_| session(&client, VIP).0).collect();
    soon("the backup hears the director", &nodes, || nodes[1].metric("lvs_node_other_directors") == 1);
    // A node that comes late learns all, and lvs-node resync works.
    let mut late = Node::new(13, &file(&[11, 12], &sync));
    late.watch("");
    late.tell("BACKUP");
    nodes.push(late);
    let known = nodes[0].known();
    soon("all is known", &nodes, || nodes[2].known() >= known && nodes[2].metric("lvs_node_knows_all") == 1);
    assert!(nodes[2].run("resync").starts_with("knows "));
    assert!(nodes.iter().all(|node| node.metric("lvs_node_beacons_refused_total") == 0), "{}", nodes[1].log());

    // A stranger, without a key and with another one.
    let director = |node: &Node| node.metric("lvs_node_other_directors");
    for _ in 0..30 {
        send(&client, INTERFACE, GROUP, DIRECTOR);
        let seal = "lvs-dr-seal-1 7 1 - 00112233445566778899aabbccddeeff";
        send(&client, INTERFACE, GROUP, &format!("{DIRECTOR}\n{seal}"));
        assert_eq!(director(&nodes[0]), 0);
        thread::sleep(Duration::from_millis(100));
    }
    soon("they are counted", &nodes, || nodes.iter().all(|node| node.metric("lvs_node_beacons_refused_total") >= 60));
    for node in &nodes {
        let lines = node.log().matches("beacons were ignored, the last one from 192.0.2.1:").count();
        assert_eq!(lines, 1, "{}", node.log());
    }

    // The director dies. Its beacons, recorded and sent again, do not bring it back; not even to a
    // node that is started again.
    let recorded: Vec<String> = received(&recorder).into_iter().map(|(_, text)| text).collect();
    nodes[0].kill();
    soon("it is gone", &nodes, || nodes[1..].iter().all(|node| director(node) == 0));
    nodes[2].kill();
    nodes[2].watch("");
    nodes[2].tell("BACKUP");
    let refused = nodes[1].metric("lvs_node_beacons_refused_total");
    let of_director: Vec<&String> = recorded
        .iter()
        .filter(|text| text.contains(" master ") && text.contains("seal") && !text.contains("seal-1 7 "))
        .collect();
    assert!(of_director.len() > 5, "{recorded:?}");
    for text in of_director.iter().rev().take(30).rev() {
        send(&client, INTERFACE, GROUP, text);
        thread::sleep(Duration::from_millis(100));
        assert!(nodes[1..].iter().all(|node| director(node) == 0), "{}", nodes[1].log());
    }
    soon("they are refused", &nodes, || nodes[1].metric("lvs_node_beacons_refused_total") > refused);

    // A key that others can read is refused, the reason is logged, and no beacon without a key is
    // sent in its place.
    nodes[2].kill();
    fs::set_permissions(&key, Permissions::from_mode(0o644)).unwrap();
    nodes[2].watch("");
    soon("the key is refused", &nodes, || nodes[2].log().contains("`chmod 600` it"));
    assert!(nodes[2].try_run("resync").1.contains("`chmod 600` it"));
    received(&recorder);
    thread::sleep(Duration::from_secs(2));
    let senders: Vec<String> = received(&recorder).into_iter().map(|(from, _)| from).collect();
    assert!(senders.iter().any(|from| from == "192.0.2.12") && !senders.iter().any(|from| from == "192.0.2.13"));
    // It is read again once that is put right.
    fs::set_permissions(&key, Permissions::from_mode(0o600)).unwrap();
    nodes[0].watch("");
    soon("the director again", &nodes, || nodes[1..].iter().all(|node| director(node) == 1));

    // A node without a key hears the others, but they do not hear it.
    let mut without = Node::new(14, &file(&[11, 12], ""));
    without.watch("");
    without.tell("BACKUP");
    nodes.push(without);
    soon("it hears the director", &nodes, || director(&nodes[3]) == 1);
    nodes[3].tell("MASTER");
    soon("it directs", &nodes, || nodes[3].directs());
    thread::sleep(Duration::from_secs(2));
    assert_eq!((director(&nodes[0]), director(&nodes[1])), (0, 1));
}

/// A watch that writes its metrics there.
struct Watch(Child, PathBuf);

impl Watch {
    fn start(node: &Node, metrics: &Path) -> Self {
        let log = node.dir.join("files.log");
        let out = fs::File::create(&log).unwrap();
        let mut command = node.command(&format!("watch --metrics {}", metrics.display()));
        let start = || command.stdout(out).stderr(Stdio::null()).spawn().unwrap();
        Watch(node.netns.run(start).unwrap(), log)
    }

    fn log(&self) -> String {
        fs::read_to_string(&self.1).unwrap()
    }

    fn soon(&self, what: &str, is: impl Fn() -> bool) {
        let begin = Instant::now();
        while !is() {
            assert!(begin.elapsed() < Duration::from_secs(15), "{what}: {}", self.log());
            thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.0.kill().and_then(|()| self.0.wait()).unwrap();
    }
}

#[test]
fn metrics_are_written_nowhere_else() {
    enter_switch();
    let node = Node::new(11, &file(&[11], ""));
    node.run("role backup");
    let dir = new_path();
    fs::create_dir_all(&dir).unwrap();
    fs::set_permissions(&dir, Permissions::from_mode(0o755)).unwrap();
    let (path, victim) = (dir.join("lvs.prom"), dir.join("victim"));
    let is_written = || fs::read_to_string(&path).is_ok_and(|text| text.contains("lvs_node_knows_all"));

    // Links in place of the file and of its temporary file are replaced.
    fs::write(&victim, "before").unwrap();
    for link in ["lvs.prom", "lvs.prom.new", "lvs.new"] {
        let _ = fs::remove_file(&path);
        symlink(&victim, dir.join(link)).unwrap();
        let watch = Watch::start(&node, &path);
        watch.soon("metrics", || fs::symlink_metadata(&path).is_ok_and(|found| found.is_file()) && is_written());
        assert_eq!(fs::read_to_string(&victim).unwrap(), "before");
        assert!(!watch.log().contains("lvs.prom"), "{}", watch.log());
    }

    // Directories that others can write to are refused, and nothing is written there.
    fs::remove_file(&path).unwrap();
    let refuse = |metrics: &Path, reason: &str| {
        let watch = Watch::start(&node, metrics);
        watch.soon(reason, || watch.log().contains(reason));
        thread::sleep(Duration::from_millis(1500));
        assert!(!metrics.exists());
        assert_eq!(watch.log().matches(reason).count(), 1, "{}", watch.log());
    };
    refuse(Path::new("/tmp/lvs.prom"), "other users can write to /tmp (mode 1777)");
    chown(&dir, Some(1000), None).unwrap();
    refuse(&path, "belongs to user 1000");
    // Its owner could exchange a directory below it.
    fs::create_dir(dir.join("below")).unwrap();
    refuse(&dir.join("below/lvs.prom"), "belongs to user 1000");
    chown(&dir, Some(0), None).unwrap();

    // A full disk: the file stays as it was, what was written of the new one is gone, and later
    // metrics follow.
    let disk = dir.join("disk");
    fs::create_dir(&disk).unwrap();
    run(&format!("mount -t tmpfs -o size=16k,mode=755 none {}", disk.display()));
    let path = disk.join("lvs.prom");
    fs::write(&path, "before").unwrap();
    fs::write(disk.join("others"), vec![0; 12 * 1024]).unwrap();
    {
        let watch = Watch::start(&node, &path);
        watch.soon("a failure", || watch.log().contains("No space left on device"));
        thread::sleep(Duration::from_millis(1500));
        assert_eq!(fs::read_to_string(&path).unwrap(), "before");
        let mut names: Vec<_> = fs::read_dir(&disk).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, ["lvs.prom", "others"]);
        fs::remove_file(disk.join("others")).unwrap();
        watch.soon("metrics", || fs::read_to_string(&path).unwrap().contains("lvs_node_knows_all"));
        assert_eq!(watch.log().matches("No space left").count(), 1, "{}", watch.log());
    }
    run(&format!("umount {}", disk.display()));
}

#[test]
fn a_state_directory_on_a_full_disk_keeps_what_it_holds() {
    enter_switch();
    let node = Node::new(11, &file(&[11], ""));
    let state = node.dir.join("state");
    fs::create_dir(&state).unwrap();
    run(&format!("mount -t tmpfs -o size=32k,mode=700 none {}", state.display()));
    node.run("role backup");
    // Links that lie in the way are replaced.
    let victim = node.dir.join("victim");
    fs::write(&victim, "before").unwrap();
    symlink(&victim, state.join("state.new")).unwrap();
    node.run("role master");
    node.run("role backup");
    assert_eq!(fs::read_to_string(&victim).unwrap(), "before");
    let before = node.state();
    assert!(before.contains("role backup reached\n"));
    let mut filler = Vec::new();
    while fs::write(state.join("filler"), &filler).is_ok() {
        filler.extend([0; 1024]);
    }
    let (done, said) = node.try_run("role master");
    assert!(!done && said.contains("No space left on device"), "{said}");
    assert_eq!(node.state(), before);
    assert!(!state.join("state.new").exists());
    fs::remove_file(state.join("filler")).unwrap();
    node.run("role master");
    assert!(node.state().contains("role master reached\n"));
    node.run("release --now");
    run(&format!("umount {}", state.display()));
}
