//! Fence `marks` with packets: three nodes that serve and direct, judged by what clients receive,
//! by the frames on the link, and by ipvsadm, ip and tc on each node. Each rule of the design is a
//! test.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::net::{SocketAddr, UdpSocket};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use lvs_dr::Netns;
use lvs_dr::node::{OwnRequests, Role, Step, VipOwner};

use crate::lab::{feed, ip, ip_batch, ipvsadm, remove_rules, rules, run};
use crate::lan::{
    ACK, BOTH, BY_HAND, Cluster, Handmade, INTERFACE, MH, NODES, RST, SYN, SYN_ACK, Session, StopAtEnd, Tap, VIP, VIP6,
    address, kept, mac, mac_text, move_as_keepalived, plug, serve_on, services, session, steer, until, vips_arrive,
    vips_leave,
};
use crate::local_marks::{local_clients, local_clients_from};

/// The most nodes that a packet passes: the director, and the director before it. More would be a
/// loop.
const HOPS: u8 = 2;

fn keepalived(config: &mut lvs_dr::node::Config) {
    config.vip_owner = VipOwner::Keepalived;
}

fn each(count: usize) -> BTreeMap<u8, usize> {
    NODES.map(|number| (number, count)).into()
}

fn tc(arguments: &str) -> String {
    run(&format!("tc {arguments}"))
}

/// The node's connection entries for a client's port, as ipvsadm lists them: state and
/// destination.
fn entries(port: u16) -> Vec<(String, String)> {
    let listed = ipvsadm("-Lnc");
    let of_port = listed.lines().filter(|line| line.contains(&format!(":{port} ")));
    of_port
        .map(|line| {
            let words: Vec<&str> = line.split_whitespace().collect();
            (words[2].to_owned(), words[5].to_owned())
        })
        .collect()
}

/// The VIP moves before any node is notified, as under keepalived: no session and no new
/// connection is lost, and new ones spread at once.
#[test]
fn a_move_before_any_notification_loses_nothing() {
    for scheduler in ["wrr", MH] {
        let mut cluster = Cluster::new(&services(scheduler), keepalived);
        let tap = Tap::open();
        let mut sessions = cluster.sessions(18, &BOTH);
        for (from, to) in [(0, 1), (1, 2)] {
            // Some that are too young to be synchronised.
            let mut young = cluster.sessions(6, &BOTH);
            let mut kept = Vec::new();
            let tally = cluster.during(&BOTH, Duration::from_millis(100), |nodes, hosts| {
                move_as_keepalived(nodes, hosts, from, to);
                kept = vec![sessions.kept(), young.kept()];
            });
            assert_eq!((tally.failed, kept), (0, vec![18, 6]), "{scheduler}: {tally:?}");
            assert_eq!(tally.servers(), NODES.into(), "{scheduler}");
            for vip in BOTH {
                match scheduler {
                    "wrr" => assert_eq!(cluster.sessions(9, &[vip]).served(), each(3), "{vip}"),
                    _ => assert_eq!(cluster.sessions(30, &[vip]).served().len(), 3, "{scheduler}, {vip}"),
                }
            }
            assert_eq!((sessions.kept(), young.kept()), (18, 6), "{scheduler}");
        }
        tap.assert_hops(HOPS);
    }
}

/// The director moves from n1 to n2 while sessions are opened: before n2 is notified, and before
/// each step of its promotion.
fn promoted_under_load() -> (Cluster, Vec<(Session, u8)>) {
    let mut cluster = Cluster::new(&services("wrr"), keepalived);
    vips_leave(&cluster.hosts[0]);
    vips_arrive(&cluster.hosts[1]);
    let client = cluster.client.clone();
    let mut sessions: Vec<(Session, u8)> = Vec::new();
    let open = |sessions: &mut Vec<(Session, u8)>| {
        sessions.extend((0..3).flat_map(|_| BOTH).map(|vip| session(&client, vip)));
    };
    open(&mut sessions);
    assert!(sessions.iter().all(|(_, server)| *server == NODES[1]));
    // A director that is demoted sends all that it knows.
    cluster.take_on(0, Role::Backup);
    cluster.nodes[1].become_role_with(Role::Master, |_| open(&mut sessions)).unwrap();
    (cluster, sessions)
}

/// A new director serves itself what reaches it before it is promoted. The other nodes learn of
/// these sessions when it is demoted.
#[test]
fn sessions_that_are_opened_in_a_promotion_are_kept_in_further_moves() {
    let (mut cluster, mut sessions) = promoted_under_load();
    for (from, to) in [(1, 2), (2, 0)] {
        move_as_keepalived(&mut cluster.nodes, &cluster.hosts, from, to);
        assert_eq!(kept(&mut sessions), sessions.len(), "n{}", to + 1);
    }
}

/// Nothing is sent in a crash: what a director has sent to another node is synchronised from the
/// first session on.
#[test]
fn sessions_that_a_promotion_sends_to_other_nodes_are_synchronised() {
    let (cluster, sessions) = promoted_under_load();
    // The server itself has an entry of its own, and so has the director.
    let ports: Vec<u16> =
        sessions.iter().filter(|(_, server)| *server == NODES[0]).map(|(session, _)| session.port()).collect();
    assert!(!ports.is_empty());
    until("the third node learns them", || {
        let shown = cluster.on(2, || ipvsadm("-Lnc"));
        ports.iter().all(|port| shown.contains(&format!(":{port} ")))
    });
}

/// Rule 1: the ACK of a handshake meets a node that has not seen its SYN.
#[test]
fn a_handshake_goes_on_at_the_new_director() {
    for demoted in [false, true] {
        let mut cluster = Cluster::new(&services("wrr"), |_| ());
        let tap = Tap::open();
        let mut port = 7000;
        let mut begun = Vec::new();
        for vip in BOTH {
            for _ in 0..3 {
                port += 1;
                let mut hand = Handmade::new(&cluster.client, vip, port);
                let server = hand.begin(11);
                begun.push((vip, hand, server));
            }
        }
        assert_eq!(begun.iter().map(|(_, _, server)| *server).collect::<BTreeSet<_>>(), NODES.into());
        if demoted {
            cluster.take_on(1, Role::Master);
            cluster.take_on(0, Role::Backup);
        }
        for (vip, hand, server) in &mut begun {
            for _ in 0..3 {
                let answer = hand.ask(12).unwrap_or_else(|| panic!("{vip}: no answer of {server}"));
                assert_eq!((answer.flags & RST, &answer.payload), (0, &vec![*server]), "{vip}: {answer:?}");
            }
        }
        tap.assert_hops(HOPS);
        // Without the rule the new director sends it to any server, or answers itself.
        cluster.on(1, || remove_rules(INTERFACE, "TCP without SYN"));
        let mut reset = 0;
        for vip in BOTH {
            for _ in 0..4 {
                port += 1;
                let mut hand = Handmade::new(&cluster.client, vip, port);
                hand.begin(11);
                reset += usize::from(hand.ask(12).is_none_or(|answer| answer.flags & RST != 0));
            }
        }
        assert!(reset > 0, "demoted: {demoted}");
    }
}

/// Lets another node direct beside the first one, which learns of it: by the beacons, where
/// `lvs-node watch` runs.
fn two_directors(cluster: &mut Cluster) {
    cluster.take_on(1, Role::Master);
    cluster.nodes[0].set_director(Some("192.0.2.12".parse().unwrap())).unwrap();
}

/// A handshake begins at one director and goes on at the other. Both send their connections to all
/// nodes, but no entry of rule 1: that would replace the one that leads to the server.
#[test]
fn a_handshake_between_two_directors() {
    let mut cluster = Cluster::new(&services("wrr"), |_| ());
    two_directors(&mut cluster);
    let tap = Tap::open();
    let mut hands = Vec::new();
    for (begun_at, then_at, first) in [(11, 12, 9000), (12, 11, 9200)] {
        for (vip, from) in [(VIP, first), (VIP6, first + 100)] {
            for port in from..from + 6 {
                let mut hand = Handmade::new(&cluster.client, vip, port);
                let server = hand.begin(begun_at);
                assert_eq!(hand.ask(then_at).unwrap().payload, [server], "{vip}, begun at {begun_at}");
                hands.push((vip, begun_at, hand, server));
            }
        }
    }
    // The sync daemons send what they have.
    thread::sleep(Duration::from_millis(3500));
    for (vip, begun_at, hand, server) in &mut hands {
        for node in [*begun_at, 11, 12, 11] {
            let answer = hand.ask(node).unwrap_or_else(|| panic!("{vip}, begun at {begun_at}: no answer by {node}"));
            assert_eq!(answer.payload, [*server], "{vip}, begun at {begun_at}, by {node}: {answer:?}");
        }
    }
    tap.assert_hops(HOPS);
}

/// A director that was not told of the other one (without beacons) serves unknown packets itself:
/// a connection that begins at the other and goes on here at once is reset, unless this node is
/// its server. Those of the other way are served, and no packet goes in circles.
#[test]
fn a_director_that_does_not_know_of_the_other() {
    let mut cluster = Cluster::new(&services("wrr"), |_| ());
    cluster.take_on(1, Role::Master);
    let tap = Tap::open();
    for (vip, from) in [(VIP, 9000), (VIP6, 9100)] {
        for port in from..from + 3 {
            let mut hand = Handmade::new(&cluster.client, vip, port);
            let server = hand.begin(11);
            assert_eq!(hand.ask(12).unwrap().payload, [server], "{vip}");
        }
        for port in from + 10..from + 13 {
            let mut hand = Handmade::new(&cluster.client, vip, port);
            let server = hand.begin(12);
            assert_eq!(hand.ask(11).unwrap().flags & RST != 0, server != 11, "{vip}, {server}");
        }
    }
    let client = cluster.client.clone();
    flapping(&client, [11, 12], || cluster.during(&BOTH, Duration::from_millis(4000), |_, _| ()));
    tap.assert_hops(HOPS);
}

/// The kernel sends the templates of persistent services and not their connections, which is what
/// the service of rule 1 needs. The user's persistent services need both: while there is one, all
/// connections are sent.
#[test]
fn connections_of_persistent_services_are_sent() {
    let mut cluster = Cluster::new(&services("wrr"), |_| ());
    let mode = |cluster: &Cluster, node: usize| {
        cluster.on(node, || std::fs::read_to_string("/proc/sys/net/ipv4/vs/sync_persist_mode").unwrap())
    };
    assert_eq!([0, 1, 2].map(|node| mode(&cluster, node)), ["1\n"; 3]);
    for (more, expected) in [(" -p 300", "0\n"), ("", "1\n"), (" -p 300", "0\n")] {
        for node in 0..3 {
            cluster.on(node, || ipvsadm(&format!("-E -t {VIP}:80 -s wrr{more}")));
            cluster.nodes[node].repair(|_| ()).unwrap();
            assert_eq!(mode(&cluster, node), expected, "{node}");
        }
    }
    // A promotion does not look at the table, and leaves it so.
    let mut sessions = cluster.sessions(12, &[VIP]);
    let learned = |(session, _): &(Session, u8)| cluster.on(1, || entries(session.port())).len() == 1;
    until("the backup learns the sessions", || sessions.0.iter().all(learned));
    cluster.take_on(1, Role::Master);
    cluster.take_on(0, Role::Backup);
    assert_eq!([0, 1].map(|node| mode(&cluster, node)), ["0\n"; 2]);
    assert_eq!(sessions.kept(), 12);
}

/// Rule 1 is for ports with a service: other connections to the VIP are the director's own.
#[test]
fn ports_without_a_service_are_the_directors_own() {
    let mut cluster = Cluster::new(&services("wrr"), |_| ());
    for (host, number) in cluster.hosts.iter().zip(NODES) {
        serve_on(host, 22, number);
    }
    let ask = |cluster: &Cluster, vip| Session::open_on(&cluster.client, vip, 22).and_then(|mut session| session.ask());
    for vip in BOTH {
        assert_eq!(ask(&cluster, vip), Some(11), "{vip}");
    }
    cluster.take_on(1, Role::Master);
    cluster.take_on(0, Role::Backup);
    for vip in BOTH {
        assert_eq!(ask(&cluster, vip), Some(12), "{vip}");
    }
}

/// The same with more ports than rules are made for one by one.
#[test]
fn ports_without_a_service_beside_many_services() {
    let many: String = (8001..8020).map(|port| services("wrr").replace(":80 ", &format!(":{port} "))).collect();
    let mut cluster = Cluster::new(&many, |_| ());
    for (host, number) in cluster.hosts.iter().zip(NODES) {
        serve_on(host, 22, number);
    }
    cluster.take_on(1, Role::Master);
    cluster.take_on(0, Role::Backup);
    for vip in BOTH {
        let mut session = Session::open_on(&cluster.client, vip, 22).unwrap();
        assert_eq!(session.ask(), Some(12), "{vip}");
    }
}

/// Lets the packets for the VIPs go to one node and to the other in turn, until `work` is done.
fn flapping<T>(client: &Netns, nodes: [u8; 2], work: impl FnOnce() -> T) -> T {
    let start = || {
        let mut command = Command::new("ip");
        command.args(["-batch", "-"]).stdin(Stdio::piped()).spawn().unwrap()
    };
    let mut process = client.run(start).unwrap();
    let mut input = process.stdin.take().unwrap();
    let over = AtomicBool::new(false);
    let result = thread::scope(|scope| {
        let over = &over;
        scope.spawn(move || {
            for number in nodes.into_iter().cycle() {
                for vip in BOTH {
                    let to = mac_text(mac(number));
                    writeln!(input, "neigh replace {vip} lladdr {to} dev {INTERFACE} nud permanent").unwrap();
                }
                input.flush().unwrap();
                thread::sleep(Duration::from_millis(15));
                if over.load(Ordering::Relaxed) {
                    break;
                }
            }
        });
        let _stop = StopAtEnd(over);
        work()
    });
    process.wait().unwrap();
    result
}

/// Two directors, and clients that send now to the one and now to the other: no connection fails,
/// and no packet passes a third node.
#[test]
fn two_directors_at_once() {
    for scheduler in ["wrr", "wlc", MH] {
        let mut cluster = Cluster::new(&services(scheduler), |_| ());
        let mut sessions = cluster.sessions(18, &BOTH);
        two_directors(&mut cluster);
        let tap = Tap::open();
        let client = cluster.client.clone();
        let (tally, kept) = flapping(&client, [11, 12], || {
            let tally = cluster.during(&BOTH, Duration::from_millis(3000), |_, _| ());
            (tally, sessions.kept())
        });
        let all = tally.served.values().sum::<usize>();
        assert!(all > 20, "{scheduler}: {tally:?}");
        let packets = tap.packets();
        let far = packets.iter().filter(|packet| packet.hops > HOPS).count();
        assert_eq!((kept, tally.failed, far), (18, 0, 0), "{scheduler}, of {} frames: {tally:?}", packets.len());
        assert_eq!(tally.servers(), NODES.into(), "{scheduler}");
        println!("{scheduler}: 0 of {all} new connections failed, {} frames", packets.len());
    }
}

/// A health check takes a server out while a node is a backup, by weight 0 or by removal: it gets
/// no request after the promotion.
#[test]
fn a_server_taken_out_on_a_backup_stays_out() {
    for (scheduler, change) in [("wrr", "-e -t VIP -r SERVER -g -w 0"), (MH, "-d -t VIP -r SERVER")] {
        let mut cluster = Cluster::new(&services(scheduler), keepalived);
        for node in [1, 2] {
            let apply = || {
                for (vip, server) in
                    [(format!("{VIP}:80"), "192.0.2.13:80"), (format!("[{VIP6}]:80"), "[2001:db8::13]:80")]
                {
                    ipvsadm(&change.replace("VIP", &vip).replace("SERVER", server));
                }
            };
            cluster.on(node, apply);
        }
        let before = cluster.on(1, || ipvsadm("-Sn"));
        vips_leave(&cluster.hosts[0]);
        vips_arrive(&cluster.hosts[1]);
        cluster.take_on(1, Role::Master);
        cluster.take_on(0, Role::Backup);
        assert_eq!(cluster.on(1, || ipvsadm("-Sn")), before);
        let served = cluster.sessions(24, &BOTH).served();
        assert_eq!(served.keys().copied().collect::<Vec<_>>(), [11, 12], "{scheduler}, {change}: {served:?}");
    }
}

/// A backup's template of a persistent service never sends a client to a server that was taken out
/// meanwhile.
#[test]
fn a_stale_template_sends_no_client_to_a_server_that_is_out() {
    for change in ["-e -t VIP -r SERVER -g -w 0", "-d -t VIP -r SERVER"] {
        let mut cluster = Cluster::new(&services("wrr -p 300"), keepalived);
        let mut out = Vec::new();
        for vip in BOTH {
            let first = cluster.sessions(3, &[vip]).served();
            assert_eq!(first.len(), 1, "persistence");
            let server = *first.keys().next().unwrap();
            let template = || {
                cluster
                    .on(1, || ipvsadm("-Lnc"))
                    .lines()
                    .any(|line| line.contains(":0 ") && line.contains(&address(vip, server)))
            };
            until("the backup learns the template", template);
            out.push((vip, server));
        }
        for node in [1, 2] {
            let apply = || {
                for (vip, server) in &out {
                    let name = |address: &str| {
                        if address.contains(':') { format!("[{address}]:80") } else { format!("{address}:80") }
                    };
                    ipvsadm(&change.replace("VIP", &name(vip)).replace("SERVER", &name(&address(vip, *server))));
                }
            };
            cluster.on(node, apply);
        }
        vips_leave(&cluster.hosts[0]);
        vips_arrive(&cluster.hosts[1]);
        cluster.take_on(1, Role::Master);
        cluster.take_on(0, Role::Backup);
        for (vip, server) in out {
            let served = cluster.sessions(6, &[vip]).served();
            assert!(!served.contains_key(&server), "{vip}, {change}: {served:?}");
        }
    }
}

/// The service of the node's mark has a destination with port 1, so that the director's sync
/// daemon replaces its entries.
#[test]
fn entries_of_the_mark_service_are_replaced() {
    let cluster = Cluster::new(&services("wrr"), |_| ());
    for (vip, from) in [(VIP, 7100), (VIP6, 7200)] {
        for port in from..from + 3 {
            let mut hand = Handmade::new(&cluster.client, vip, port);
            let server = hand.begin(11);
            let node = NODES.iter().position(|number| *number == server).unwrap();
            let own = address(vip, server);
            let named = |port: u16| if vip == VIP { format!("{own}:{port}") } else { format!("[{own}]:{port}") };
            let destination = || cluster.on(node, || entries(port)).into_iter().map(|(_, to)| to).collect::<Vec<_>>();
            // The director has scheduled it itself.
            assert_eq!(destination(), [named(if node == 0 { 80 } else { 1 })], "{vip}");
            assert_eq!(hand.ask(11).unwrap().payload, [server]);
            until("the director's entry replaces it", || destination() == [named(80)]);
            for _ in 0..3 {
                assert_eq!(hand.ask(11).unwrap().payload, [server]);
            }
        }
    }
}

#[test]
fn wlc_counts_right_after_two_moves() {
    let mut cluster = Cluster::new(&services("wlc"), keepalived);
    for vip in BOTH {
        steer(&cluster.client, 11);
        let mut all = vec![cluster.sessions(12, &[vip])];
        for (from, to) in [(0, 1), (1, 0)] {
            move_as_keepalived(&mut cluster.nodes, &cluster.hosts, from, to);
            steer(&cluster.client, NODES[to]);
            all.push(cluster.sessions(12, &[vip]));
            let served = all.last().unwrap().served();
            assert!(served.len() == 3 && served.values().all(|count| (3..=5).contains(count)), "{vip}: {served:?}");
        }
        assert!(all.iter_mut().all(|sessions| sessions.kept() == 12));
    }
}

/// A node that does not know the director's MAC address passes nothing on: the rule for SYNs ends
/// it.
#[test]
fn an_unknown_mac_address_makes_no_loop() {
    let mut cluster = Cluster::new(&services("wrr"), |_| ());
    for node in [1, 2] {
        cluster.on(node, || remove_rules(INTERFACE, "all from"));
    }
    let tap = Tap::open();
    let tally = cluster.during(&BOTH, Duration::from_millis(300), |_, _| ());
    assert_eq!((tally.failed, tally.servers()), (0, NODES.into()), "{tally:?}");
    tap.assert_hops(HOPS);
    // Without that rule, too, nodes pass SYNs to each other.
    for node in [1, 2] {
        cluster.on(node, || remove_rules(INTERFACE, "TCP with SYN"));
    }
    for port in 7300..7306 {
        Handmade::new(&cluster.client, VIP, port).send(11, SYN, &[]);
    }
    until("a loop", || tap.packets().iter().any(|packet| packet.hops > 10));
    // Repair mends both.
    for node in [1, 2] {
        assert!(!cluster.nodes[node].repair(|_| ()).unwrap().is_empty());
    }
    tap.packets();
    let tally = cluster.during(&BOTH, Duration::from_millis(300), |_, _| ());
    assert_eq!((tally.failed, tally.servers()), (0, NODES.into()), "{tally:?}");
    tap.assert_hops(HOPS);
}

/// The MAC addresses of peers change, and are swapped, under load.
#[test]
fn changed_and_swapped_mac_addresses_are_followed() {
    let mut cluster = Cluster::new(&services("wrr"), |_| ());
    let mut sessions = cluster.sessions(18, &BOTH);
    let tap = Tap::open();
    let set = |host: &Netns, text: &str| {
        let change = || ip_batch(&format!("link set {INTERFACE} address {text}\n"));
        host.run(change).unwrap();
    };
    let macs = |cluster: &Cluster, node: usize| -> BTreeSet<String> {
        let shown = cluster.on(node, || rules(INTERFACE));
        shown.iter().filter_map(|line| line.split_once("all from ")).map(|(_, mac)| mac.to_owned()).collect()
    };
    let announce = |cluster: &Cluster| vips_announce(&cluster.hosts[0]);
    let new = "02:00:00:00:07:11";
    let tally = cluster.during(&BOTH, Duration::from_millis(200), |_, hosts| {
        set(&hosts[0], new);
        hosts.iter().skip(1).for_each(|host| forget(host, 11));
        vips_announce(&hosts[0]);
    });
    assert_eq!(tally.failed, 0, "{tally:?}");
    // Repair follows the neighbour table.
    for node in [1, 2] {
        until("the neighbours learn it", || cluster.on(node, || ip("neigh show 192.0.2.11")).contains(new));
        cluster.nodes[node].repair(|_| ()).unwrap();
        assert!(macs(&cluster, node).contains(new), "{node}");
    }
    // Two nodes swap their addresses.
    let (first, second) = (new, "02:00:00:00:00:0c");
    let tally = cluster.during(&BOTH, Duration::from_millis(200), |_, hosts| {
        set(&hosts[0], "02:00:00:00:07:99");
        set(&hosts[1], first);
        set(&hosts[0], second);
        hosts.iter().for_each(|host| NODES.iter().for_each(|number| forget(host, *number)));
        vips_announce(&hosts[0]);
    });
    assert_eq!(tally.failed, 0, "{tally:?}");
    for node in 0..3 {
        cluster.nodes[node].repair(|_| ()).unwrap();
        let known = macs(&cluster, node);
        let own = [second, first, "02:00:00:00:00:0d"][node];
        assert!(!known.contains(own), "{node}: {known:?}");
        for other in [second, first].iter().filter(|mac| **mac != own) {
            assert!(known.contains(*other), "{node}: {known:?}");
        }
    }
    announce(&cluster);
    assert_eq!(sessions.kept(), 18);
    tap.assert_hops(HOPS);
}

fn forget(host: &Netns, number: u8) {
    let work = || {
        let _ = crate::lab::try_run(&format!("ip neigh del 192.0.2.{number} dev {INTERFACE}"));
        let _ = crate::lab::try_run(&format!("ip neigh del 2001:db8::{number} dev {INTERFACE}"));
        // They are asked for at the next packet.
        for to in [format!("192.0.2.{number}:9"), format!("[2001:db8::{number}]:9")] {
            let socket = UdpSocket::bind("[::]:0").unwrap();
            let to: SocketAddr = to.parse().unwrap();
            let _ = match to {
                SocketAddr::V4(_) => UdpSocket::bind("0.0.0.0:0").unwrap().send_to(&[0], to),
                SocketAddr::V6(_) => socket.send_to(&[0], to),
            };
        }
    };
    host.run(work).unwrap();
}

fn vips_announce(host: &Netns) {
    let work = || {
        let mut vips = lvs_dr::vip::Vips::open().unwrap();
        for vip in BOTH {
            vips.announce(vip.parse().unwrap(), INTERFACE, 3).unwrap();
        }
    };
    host.run(work).unwrap();
}

/// A server of UDP datagrams: answers each by its own number.
fn serve_udp(host: &Netns, number: u8) {
    // From the address that the datagram was for.
    for bound in [VIP, VIP6] {
        let socket = host.run(|| UdpSocket::bind((bound, 53)).unwrap()).unwrap();
        thread::spawn(move || {
            let mut datagram = [0; 8192];
            while let Ok((_, from)) = socket.recv_from(&mut datagram) {
                let _ = socket.send_to(&[number], from);
            }
        });
    }
}

/// Sends a datagram of this length, and returns who answers.
fn ask_udp(socket: &UdpSocket, vip: &str, length: usize) -> Option<u8> {
    socket.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
    let to: SocketAddr = (vip.parse::<std::net::IpAddr>().unwrap(), 53).into();
    socket.send_to(&vec![0; length], to).unwrap();
    let mut octet = [0];
    socket.recv_from(&mut octet).ok().map(|_| octet[0])
}

fn udp_socket(client: &Netns, vip: &str) -> UdpSocket {
    client.run(|| UdpSocket::bind(if vip == VIP { "0.0.0.0:0" } else { "[::]:0" }).unwrap()).unwrap()
}

/// UDP, whole and in fragments: each datagram is answered, and a move keeps the flows that the
/// sync daemon has sent.
#[test]
fn datagrams_whole_and_in_fragments() {
    let udp = services("wrr").replace("-t ", "-u ").replace(":80 ", ":53 ");
    let mut cluster = Cluster::new(&udp, keepalived);
    cluster.hosts.iter().zip(NODES).for_each(|(host, number)| serve_udp(host, number));
    let tap = Tap::open();
    for length in [10, 4000] {
        for vip in BOTH {
            let mut served = BTreeMap::new();
            for _ in 0..9 {
                let socket = udp_socket(&cluster.client, vip);
                let server =
                    ask_udp(&socket, vip, length).unwrap_or_else(|| panic!("{vip}: no answer to {length} octets"));
                *served.entry(server).or_insert(0) += 1;
            }
            assert_eq!(served, each(3), "{vip}: {length} octets");
        }
    }
    let mut flows = Vec::new();
    for vip in BOTH {
        for _ in 0..6 {
            let socket = udp_socket(&cluster.client, vip);
            let servers: Vec<_> = (0..3).map(|_| ask_udp(&socket, vip, 10)).collect();
            assert_eq!(servers, [servers[0]; 3]);
            flows.push((vip, socket, servers[0]));
        }
    }
    move_as_keepalived(&mut cluster.nodes, &cluster.hosts, 0, 1);
    let kept = flows.iter().filter(|(vip, socket, server)| ask_udp(socket, vip, 10) == *server).count();
    assert_eq!(kept, 12);
    tap.assert_hops(HOPS);
}

/// A SYN with data, in two fragments of which the second has no port.
#[test]
fn tcp_in_fragments_is_served() {
    let cluster = Cluster::new(&services("wrr"), |_| ());
    let tap = Tap::open();
    let mut servers = BTreeSet::new();
    for port in 7400..7406 {
        let mut hand = Handmade::new(&cluster.client, VIP, port);
        hand.send_fragmented(11, SYN, &[7; 2000]);
        let answer = hand.answer().unwrap();
        assert_eq!(answer.flags, SYN_ACK);
        servers.insert(answer.server);
        let answer = hand.ask(11).unwrap();
        assert_eq!(answer.payload, [answer.server]);
    }
    assert_eq!(servers, NODES.into());
    // The director, too, has sent fragments.
    tap.assert_hops(HOPS);
}

/// "Fragmentation needed" and "packet too big" reach the server of the session.
#[test]
fn icmp_errors_reach_the_server() {
    let cluster = Cluster::new(&services("wrr"), |_| ());
    for (vip, from) in [(VIP, 7500), (VIP6, 7600)] {
        for port in from..from + 3 {
            let mut hand = Handmade::new(&cluster.client, vip, port);
            let server = hand.begin(11);
            hand.ask(11).unwrap();
            let before = [0, 1, 2].map(|node| cluster.on(node, too_big));
            hand.send_too_big(11, 1300);
            let node = NODES.iter().position(|number| *number == server).unwrap();
            // IPv6 does not show what it keeps for a source address.
            let route = format!("route get {}", address(vip, BY_HAND));
            let learned = || match vip {
                VIP => cluster.on(node, || ip(&route)).contains("mtu 1300"),
                _ => cluster.on(node, too_big) > before[node],
            };
            until(&format!("{vip}: {server} learns the MTU"), learned);
        }
    }
}

/// How many "packet too big" the namespace has received.
pub fn too_big() -> u64 {
    let shown = std::fs::read_to_string("/proc/thread-self/net/snmp6").unwrap();
    let line = shown.lines().find_map(|line| line.strip_prefix("Icmp6InPktTooBigs")).unwrap();
    line.trim().parse().unwrap()
}

/// A director's promotion and demotion change no service of the table and no connection, and cost
/// the same however many there are.
#[test]
fn a_change_of_role_leaves_the_table_alone() {
    let mut counts = Vec::new();
    for ports in [1_u16, 100] {
        let many: String = (80..80 + ports).map(|port| services("wrr").replace(":80 ", &format!(":{port} "))).collect();
        let mut cluster = Cluster::new(&many, |_| ());
        let mut sessions = cluster.sessions(6, &BOTH);
        let ports: Vec<u16> = sessions.0.iter().map(|(session, _)| session.port()).collect();
        let shown = |cluster: &Cluster, node: usize| {
            let found = || (own_services(), ports.iter().map(|port| entries(*port)).collect::<Vec<_>>());
            cluster.on(node, found)
        };
        let bound = |(state, to): &(String, String)| state == "ESTABLISHED" && to.ends_with(":80");
        for node in 0..3 {
            let learned = || shown(&cluster, node).1.iter().all(|found| found.len() == 1 && found.iter().all(bound));
            until(&format!("node {node} learns the sessions"), learned);
        }
        let before: Vec<_> = (0..3).map(|node| shown(&cluster, node)).collect();
        let plan = cluster.nodes[1].become_role(Role::Master).unwrap();
        let tables = plan
            .steps()
            .iter()
            .filter_map(|step| if let Step::Table(plan) = step { Some(plan.to_string()) } else { None });
        let tables: Vec<String> = tables.collect();
        assert!(tables.iter().all(|text| !text.contains(VIP) && !text.contains(VIP6)), "{tables:?}");
        counts.push(plan.steps().len());
        let plan = cluster.nodes[0].become_role(Role::Backup).unwrap();
        for step in plan.steps() {
            let text = step.to_string();
            assert!(!matches!(step, Step::Table(_)) || !text.contains(VIP) && !text.contains(VIP6), "{text}");
        }
        assert_eq!((0..3).map(|node| shown(&cluster, node)).collect::<Vec<_>>(), before);
        assert_eq!(sessions.kept(), 6);
    }
    assert_eq!(counts[0], counts[1]);
}

/// The services of the VIPs, as ipvsadm saves them.
fn own_services() -> String {
    ipvsadm("-Sn").lines().filter(|line| !line.contains(" -f ")).map(|line| format!("{line}\n")).collect()
}

/// A filter of the operator with a later priority still works.
#[test]
fn an_operators_filter_still_drops() {
    let cluster = Cluster::new(&services("wrr"), |_| ());
    let drop = |pref: u16, protocol: &str, source: &str| {
        tc(&format!(
            "filter add dev {INTERFACE} ingress pref {pref} protocol {protocol} flower {source} ip_proto tcp dst_port 80 action drop"
        ))
    };
    assert_eq!(cluster.sessions(3, &[VIP]).served(), each(1));
    cluster.on(0, || drop(400, "ip", "src_ip 192.0.2.200"));
    cluster.on(0, || drop(401, "ipv6", "src_ip 2001:db8::200"));
    for (vip, port) in [(VIP, 7700), (VIP6, 7701)] {
        let mut hand = Handmade::new(&cluster.client, vip, port);
        hand.send(11, SYN, &[]);
        assert!(hand.answer().is_none(), "{vip}");
    }
    assert_eq!(cluster.sessions(3, &[VIP]).served(), each(1));
}

/// The node's own clients of the VIP are served here, and the mark that does it disturbs no packet
/// that the node forwards.
#[test]
fn own_requests_are_served_and_disturb_nothing() {
    let mut cluster = Cluster::new(&services("wrr"), |config| config.marks.own_requests = OwnRequests::ServedHere);
    let rules = cluster.on(0, || run("iptables-legacy -t mangle -S OUTPUT"));
    if !rules.contains("lvs-dr") {
        eprintln!("not tested on this kernel: {rules}");
        return;
    }
    let tap = Tap::open();
    for (role, node) in [("director", 0), ("backup", 1)] {
        for vip in BOTH {
            assert_eq!(local_clients(&cluster.hosts[node], vip, NODES[node]), (30, 30), "{role}, {vip}");
        }
    }
    // While own clients ask, others are spread over all servers.
    let hosts = cluster.hosts.clone();
    let tally = thread::scope(|scope| {
        let own = scope.spawn(move || local_clients(&hosts[0], VIP, 11));
        let tally = cluster.during(&BOTH, Duration::from_millis(300), |_, _| ());
        assert_eq!(own.join().unwrap(), (30, 30));
        tally
    });
    assert_eq!(tally.failed, 0, "{tally:?}");
    for vip in BOTH {
        assert_eq!(cluster.sessions(9, &[vip]).served(), each(3), "{vip}");
    }
    tap.assert_hops(HOPS);
    // The client is the VIP on each node, and the director's sync daemon sends its own requests
    // too: from the same port, another node's own request is that node's all the same.
    for vip in BOTH {
        assert_eq!(local_clients_from(&cluster.hosts[0], vip, 11, 9000..=9063), (30, 30), "{vip}");
        let known = || ipvsadm("-Lnc").lines().filter(|line| line.contains(":90") && line.contains(vip)).count();
        until("the backup learns the director's own requests", || cluster.on(1, known) >= 15);
        assert_eq!(local_clients_from(&cluster.hosts[1], vip, 12, 9000..=9063), (30, 30), "{vip}");
    }
    // With a mark on all that leaves the node, what it forwards would be routed again, to itself.
    let rule = rules.lines().find(|line| line.contains("lvs-dr")).unwrap();
    assert!(rule.contains(" -o lo "), "{rule}");
    let widen = || {
        run(&format!("iptables-legacy -t mangle {}", rule.replacen("-A", "-D", 1)));
        run(&format!("iptables-legacy -t mangle {}", rule.replace(" -o lo", "")));
    };
    cluster.on(0, widen);
    let mut disturbed = 0;
    for port in 7800..7806 {
        let mut hand = Handmade::new(&cluster.client, VIP, port);
        hand.send(11, SYN, &[]);
        disturbed += usize::from(hand.answer().is_none_or(|answer| answer.server == 11 || answer.flags != SYN_ACK));
    }
    assert!(disturbed > 2, "{disturbed} of 6");
    // Repair mends it.
    assert!(!cluster.nodes[0].repair(|_| ()).unwrap().is_empty());
    assert_eq!(cluster.sessions(9, &[VIP]).served(), each(3));
}

/// Packets that no node knows: they end somewhere, and no more frames are sent for them than the
/// two directors need.
#[test]
fn stray_packets_do_not_loop() {
    for scheduler in ["wrr", MH] {
        let mut cluster = Cluster::new(&services(scheduler), |_| ());
        cluster.take_on(1, Role::Master);
        cluster.take_on(0, Role::Backup);
        let tap = Tap::open();
        for (vip, from) in [(VIP, 7900), (VIP6, 8000)] {
            for port in from..from + 30 {
                Handmade::new(&cluster.client, vip, port).send(12, ACK, &[0]);
            }
        }
        thread::sleep(Duration::from_millis(300));
        let packets = tap.packets();
        assert!(packets.len() >= 60 && packets.iter().all(|packet| packet.hops <= HOPS), "{scheduler}");
        // 60 come in; each passes on to the server at most, or to the former director and to the
        // server.
        println!("{scheduler}: {} frames for 60 stray packets", packets.len());
        assert!(packets.len() <= 180, "{scheduler}: {}", packets.len());
    }
}

/// A node of the earlier version, with fence quiesce, becomes one of this version: no session is
/// lost, and the weights come back.
#[test]
fn an_upgrade_of_one_node_at_a_time_keeps_sessions() {
    let mut cluster = Cluster::without_roles(&services("wrr"), |_| ());
    for (node, number) in NODES.into_iter().enumerate() {
        let master = node == 0;
        let own = [address(VIP, number), address(VIP6, number)];
        let quiesce = |line: &str| match line.starts_with("-a")
            && !master
            && !own.iter().any(|own| line.contains(&format!("{own}:")) || line.contains(&format!("[{own}]")))
        {
            true => line.replace("-w 1", "-w 0"),
            false => line.to_owned(),
        };
        let table: String = services("wrr").lines().map(|line| quiesce(line) + "\n").collect();
        let role = if master { "master" } else { "backup" };
        let state = format!(
            "lvs-dr state 1\narp {INTERFACE} arp_ignore=0 arp_announce=0 -> arp_ignore=1 arp_announce=2\nsysctl sync_threshold=3 50 -> 2 0\n\
             role {role} reached\nfence quiesce\nsync on\nvip {VIP} {INTERFACE}\nvip {VIP6} {INTERFACE}\ntable {}\n{}end\n",
            if master { "live" } else { "held" },
            services("wrr")
        );
        let directory = cluster.nodes[node].config().state_dir.clone();
        let work = || {
            feed("ipvsadm -R", &table);
            for daemon in ["backup", "master"].iter().take(if master { 2 } else { 1 }) {
                ipvsadm(&format!("--start-daemon {daemon} --mcast-interface {INTERFACE} --syncid 254"));
            }
            std::fs::write("/proc/sys/net/ipv4/vs/sync_threshold", "2 0").unwrap();
            crate::lan::add_vips(&Netns::current().unwrap(), "lo");
            std::fs::create_dir_all(&directory).unwrap();
            std::fs::write(directory.join("state"), &state).unwrap();
        };
        cluster.on(node, work);
        if master {
            vips_arrive(&cluster.hosts[0]);
        }
    }
    let mut sessions = cluster.sessions(18, &BOTH);
    assert_eq!(sessions.served(), each(6));
    // Backups first, as an operator would do it.
    for (node, role) in [(2, Role::Backup), (1, Role::Backup), (0, Role::Master)] {
        let tally =
            cluster.during(&BOTH, Duration::from_millis(100), |nodes, _| drop(nodes[node].become_role(role).unwrap()));
        assert_eq!((tally.failed, sessions.kept()), (0, 18), "node {node}: {tally:?}");
        let shown: lvs_dr::ipvs::Table = cluster.on(node, own_services).parse().unwrap();
        assert_eq!(shown.to_string(), services("wrr"), "node {node}");
    }
    for (from, to) in [(0, 1), (1, 2)] {
        cluster.take_on(to, Role::Master);
        cluster.take_on(from, Role::Backup);
        assert_eq!(sessions.kept(), 18);
        assert_eq!(cluster.sessions(9, &[VIP]).served(), each(3));
    }
}

/// After the director's death new connections go on at once, and those of its peers' sessions that
/// are synchronised.
#[test]
fn a_crash_of_the_director() {
    for scheduler in ["wrr", MH] {
        let mut cluster = Cluster::new(&services(scheduler), |_| ());
        let mut sessions = cluster.sessions(18, &BOTH);
        let survivors = sessions.0.iter().filter(|(_, server)| *server != 11).count();
        let learned = || {
            let shown = cluster.on(1, || ipvsadm("-Lnc"));
            sessions.0.iter().all(|(session, _)| shown.contains(&format!(":{} ", session.port())))
        };
        until("the backup learns the sessions", learned);
        ip("link set port11 down");
        let start = Instant::now();
        cluster.take_on(1, Role::Master);
        println!("{scheduler}: promoted within {:?}", start.elapsed());
        sessions.0.retain(|(_, server)| *server != 11);
        assert_eq!(sessions.kept(), survivors, "{scheduler}");
        // A health check takes the dead server out.
        let out = || {
            ipvsadm(&format!("-e -t {VIP}:80 -r 192.0.2.11:80 -g -w 0"));
            ipvsadm(&format!("-e -t [{VIP6}]:80 -r [2001:db8::11]:80 -g -w 0"));
        };
        cluster.on(1, out);
        let served = cluster.sessions(12, &BOTH).served();
        assert_eq!(served.keys().copied().collect::<Vec<_>>(), [12, 13], "{scheduler}");
        // The service of the former director's mark does not point at the dead.
        assert_eq!(cluster.nodes[1].director().unwrap(), None);
        let marked = cluster
            .on(1, || ipvsadm("-Sn"))
            .lines()
            .filter(|line| line.contains("11:1 ") && line.contains("-w 1"))
            .count();
        assert_eq!(marked, 0);
    }
}

/// A node keeps the socket that it asks the link with.
#[test]
fn a_backup_finds_each_director() {
    let mut cluster = Cluster::new(&services("wrr"), |_| ());
    let switch = Netns::current().unwrap();
    let find = |cluster: &mut Cluster, director: u8| {
        cluster.nodes[1].set_director(None).unwrap();
        cluster.take_on(1, Role::Backup);
        assert_eq!(cluster.nodes[1].director().unwrap(), address(VIP, director).parse().ok());
    };
    find(&mut cluster, 11);
    cluster.take_on(0, Role::Backup);
    cluster.take_on(2, Role::Master);
    find(&mut cluster, 13);
    let set = |cluster: &Cluster, state: &str| cluster.on(1, || ip(&format!("link set {INTERFACE} {state}")));
    let runs = |cluster: &Cluster| {
        until("the interface runs", || cluster.on(1, || ip(&format!("link show {INTERFACE}"))).contains("state UP"))
    };
    for state in ["down", "up"] {
        set(&cluster, state);
    }
    runs(&cluster);
    find(&mut cluster, 13);
    // Another interface by the same name.
    switch.run(|| ip("link del port12")).unwrap();
    plug(&cluster.hosts[1], 12);
    runs(&cluster);
    find(&mut cluster, 13);
}
