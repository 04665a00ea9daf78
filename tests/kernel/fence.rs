//! Fences of one node, judged by ipvsadm, tc, ip and /proc: what each role has in the kernel,
//! whose the services are, what is refused, what is mended, and what is given back.

use std::fs;
use std::path::Path;

use lvs_dr::node::{Apply, Config, Fence, Node, OwnRequests, Role};
use lvs_dr::{Error, ipvs};

use crate::lab::{self, feed, ip, ip_batch, ipvsadm, run, try_run};
use crate::node::{WEB, dies_before, enter_node_netns, new_path};

pub(crate) const HASHED: &str = "\
-A -t 192.0.2.254:80 -s mh -b mh-fallback,mh-port
-a -t 192.0.2.254:80 -r 192.0.2.11:80 -g -w 3
-a -t 192.0.2.254:80 -r 192.0.2.12:80 -g -w 4
";

/// The default base of the marks.
const LOCAL: u32 = 0x4c56_5300;

const NODES_MACS: [(&str, &str); 3] =
    [("192.0.2.12", "02:00:00:00:00:12"), ("192.0.2.13", "02:00:00:00:00:13"), ("2001:db8::12", "02:00:00:00:00:12")];

fn config(fence: Fence, services: Option<&str>) -> Config {
    let mut config = Config {
        fence,
        services: services.map(|text| text.parse().unwrap()),
        state_dir: new_path(),
        ..Config::new("bond0", ["192.0.2.254".parse().unwrap(), "2001:db8::fe".parse().unwrap()])
    };
    // Programs are started only where a test is about that.
    config.marks.own_requests = OwnRequests::LeftAlone;
    config
}

/// A namespace with the node's interface, in which the MAC addresses of the other nodes are known.
fn enter_with_peers() {
    enter_node_netns();
    add_addresses();
}

fn add_addresses() {
    let mut commands = "address add 2001:db8::11/64 dev bond0 nodad\n".to_owned();
    for (address, mac) in NODES_MACS {
        commands += &format!("neigh replace {address} lladdr {mac} dev bond0 nud permanent\n");
    }
    ip_batch(&commands);
}

fn enter(fence: Fence, services: Option<&str>) -> (Node, Config) {
    enter_with_peers();
    let config = config(fence, services);
    (Node::open(config.clone()).unwrap(), config)
}

fn sysctl(name: &str) -> String {
    fs::read_to_string(format!("/proc/sys/net/ipv4/vs/{name}")).unwrap().trim_end().replace('\t', " ")
}

fn tc(arguments: &str) -> String {
    run(&format!("tc {arguments}"))
}

/// The roles of the daemons that run.
pub(crate) fn daemons() -> Vec<String> {
    let shown = ipvsadm("-Ln --daemon");
    shown.lines().map(|line| line.split(' ').next().unwrap().to_owned()).collect()
}

/// The table as ipvsadm saves it, in the order of ours, without the services of marks.
fn saved() -> String {
    let own: String =
        ipvsadm("-Sn").lines().filter(|line| !line.contains(" -f ")).map(|line| format!("{line}\n")).collect();
    own.parse::<ipvs::Table>().unwrap().to_string()
}

/// The destinations of the services of the node's marks: `1280725760: 192.0.2.11:1 1`.
fn mark_services() -> Vec<String> {
    let text = ipvsadm("-Sn");
    let destinations = text.lines().filter_map(|line| line.strip_prefix("-a -f "));
    let mut found: Vec<String> = destinations
        .map(|line| {
            let words: Vec<&str> = line.split(' ').filter(|word| !matches!(*word, "-r" | "-g" | "-w" | "-6")).collect();
            format!("{}: {} {}", words[0].parse::<u32>().unwrap() - LOCAL, words[1], words[2])
        })
        .collect();
    found.sort();
    found
}

/// How many rules of each kind there are, for IPv4 and for IPv6.
fn rules() -> [usize; 6] {
    let found = lab::rules("bond0");
    let kinds = ["TCP without SYN", "all from", "TCP with SYN"];
    let count = |kind: &str, ipv6: bool| {
        found.iter().filter(|line| line.contains(kind) && line.contains("2001:db8") == ipv6).count()
    };
    let [later, from, opening] = kinds.map(|kind| [count(kind, false), count(kind, true)]);
    [later, from, opening].concat().try_into().unwrap()
}

const OF_DIRECTOR: [usize; 6] = [1, 1, 2, 2, 0, 0];
const OF_BACKUP: [usize; 6] = [1, 1, 2, 2, 1, 1];

/// Everything that a node may change, as the programs show it.
fn everything() -> String {
    let mut text = [
        ip("-o address show dev bond0 scope global"),
        ip("-o address show dev lo"),
        tc("qdisc show dev bond0"),
        tc("filter show dev bond0 ingress"),
        ipvsadm("-Sn"),
        ipvsadm("-Ln --daemon"),
    ]
    .concat();
    for entry in fs::read_dir("/proc/sys/net/ipv4/vs").unwrap() {
        let path = entry.unwrap().path();
        text += &format!("{} {}", path.display(), fs::read_to_string(&path).unwrap());
    }
    for name in ["arp_ignore", "arp_announce"] {
        text += &fs::read_to_string(format!("/proc/sys/net/ipv4/conf/bond0/{name}")).unwrap();
    }
    for program in ["iptables-legacy", "ip6tables-legacy"] {
        let shown = try_run(&format!("{program} -t mangle -S OUTPUT"));
        text += &String::from_utf8(shown.stdout).unwrap();
    }
    text
}

#[test]
fn every_role_has_the_whole_table_and_all_is_given_back() {
    enter_with_peers();
    let mut config = config(Fence::Marks, Some(WEB));
    config.marks.own_requests = OwnRequests::ServedHere;
    let before = everything();
    let mut node = Node::open(config).unwrap();
    for role in [Role::Backup, Role::Master, Role::Fault, Role::Master, Role::Stop] {
        node.become_role(role).unwrap();
        let master = role == Role::Master;
        let running = if master { vec!["master", "backup"] } else { vec!["backup"] };
        assert_eq!((saved(), daemons()), (WEB.to_owned(), running.into_iter().map(str::to_owned).collect()), "{role}");
        assert_eq!(rules(), if master { OF_DIRECTOR } else { OF_BACKUP }, "{role}");
        // Port 1, and no other director is known.
        assert_eq!(
            mark_services(),
            [
                "0: 192.0.2.11:1 1",
                "0: [2001:db8::11]:1 1",
                "1: 192.0.2.11:1 1",
                "1: 192.0.2.12:1 0",
                "1: 192.0.2.13:1 0",
                "1: [2001:db8::11]:1 1",
                "1: [2001:db8::12]:1 0",
                "255: 127.0.0.1:1 1",
                "255: [::1]:1 1",
            ],
            "{role}"
        );
        let names = [
            "sync_threshold",
            "sync_refresh_period",
            "sync_retries",
            "conn_reuse_mode",
            "sloppy_tcp",
            "expire_quiescent_template",
            "sync_persist_mode",
        ];
        assert_eq!(names.map(sysctl), ["2 0", "10", "1", "0", "1", "1", "1"], "{role}");
        assert!(node.plan(role).unwrap().is_empty(), "{role}");
    }
    // The operator's own entries of the neighbour table are left alone.
    assert_eq!(
        ip("neigh show dev bond0 nud permanent")
            .lines()
            .filter(|line| line.contains("lladdr 02:00:00:00:00:1"))
            .count(),
        3
    );
    assert!(ipvsadm("-Ln --daemon").contains("mcast=bond0, syncid=254,"));
    if try_run("iptables-legacy -t mangle -S OUTPUT").status.success() {
        let marks = run("iptables-legacy -t mangle -S OUTPUT");
        assert!(
            marks.contains("-d 192.0.2.254/32 -o lo ") && marks.contains(&format!("{:#x}", LOCAL + 255)),
            "{marks}"
        );
    }
    node.release(|_| ()).unwrap();
    assert_eq!(everything(), before);
}

#[test]
fn a_table_found_running_is_its_editors() {
    enter_with_peers();
    feed("ipvsadm -R", WEB);
    let mut node = Node::open(config(Fence::Marks, None)).unwrap();
    node.become_role(Role::Backup).unwrap();
    assert_eq!(saved(), WEB);
    // A health check on a backup: one server fails, one gets another weight, one is new.
    ipvsadm("-d -t 192.0.2.254:80 -r 192.0.2.12:80");
    ipvsadm("-e -t 192.0.2.254:80 -r 192.0.2.13:80 -g -w 0");
    ipvsadm("-a -t 192.0.2.254:80 -r 192.0.2.14:80 -g -w 2");
    let edited = saved();
    for role in [Role::Master, Role::Backup, Role::Fault, Role::Master] {
        node.become_role(role).unwrap();
        assert_eq!(saved(), edited, "{role}");
    }
    node.repair(|_| ()).unwrap();
    node.release(|_| ()).unwrap();
    assert_eq!((saved(), daemons()), (edited, vec![]));
    assert_eq!(mark_services(), Vec::<String>::new());
}

#[test]
fn configured_services_are_loaded_once_and_then_their_editors() {
    let (mut node, config) = enter(Fence::Marks, Some(WEB));
    node.become_role(Role::Backup).unwrap();
    assert_eq!(saved(), WEB);
    // An editor's changes stay.
    ipvsadm("-e -t 192.0.2.254:80 -r 192.0.2.12:80 -g -w 0");
    ipvsadm("-D -t [2001:db8::fe]:80");
    let edited = saved();
    for role in [Role::Master, Role::Backup] {
        node.become_role(role).unwrap();
        assert_eq!(saved(), edited, "{role}");
    }
    node.repair(|_| ()).unwrap();
    assert_eq!(saved(), edited);
    // The configuration changes: that change, and no other.
    let changed = WEB.replace("192.0.2.13:80 -g -w 5", "192.0.2.13:80 -g -w 9");
    let mut node = Node::open(Config { services: Some(changed.parse().unwrap()), ..config.clone() }).unwrap();
    let planned = node.plan_apply(Apply::Changes).unwrap().to_string();
    assert!(planned.contains("192.0.2.13:80") && !planned.contains("192.0.2.12:80"), "{planned}");
    assert_eq!(saved(), edited);
    node.become_role(Role::Backup).unwrap();
    assert_eq!(saved(), edited.replace("192.0.2.13:80 -g -w 5", "192.0.2.13:80 -g -w 9"));
    // All of it.
    node.apply(Apply::All, |_| ()).unwrap();
    assert_eq!(saved(), changed);
    // Flushed: loaded again, by the next role or by repair.
    for role in [None, Some(Role::Master)] {
        ipvsadm("-C");
        match role {
            None => drop(node.repair(|_| ()).unwrap()),
            Some(role) => drop(node.become_role(role).unwrap()),
        }
        assert_eq!(saved(), changed, "{role:?}");
        assert_eq!(mark_services().len(), 9);
    }
    node.release(|_| ()).unwrap();
    assert_eq!(ipvsadm("-Sn"), "");
}

#[test]
fn qdiscs_and_filters_of_others_stay() {
    let foreign = "protocol ip flower dst_ip 192.0.2.254 ip_proto tcp dst_port 81 action drop";
    for qdisc in ["clsact", "ingress"] {
        for filter in [false, true] {
            let (mut node, _) = enter(Fence::Marks, Some(WEB));
            tc(&format!("qdisc add dev bond0 {qdisc}"));
            if filter {
                tc(&format!("filter add dev bond0 ingress pref 400 {foreign}"));
                tc(&format!("filter add dev bond0 ingress pref 10 {foreign}"));
            }
            let before = everything();
            for role in [Role::Backup, Role::Master] {
                node.become_role(role).unwrap();
                assert_eq!(rules(), if role == Role::Master { OF_DIRECTOR } else { OF_BACKUP });
            }
            node.release(|_| ()).unwrap();
            assert_eq!(everything(), before, "{qdisc}, {filter}");
        }
    }
    // A filter that came later keeps the node's own qdisc.
    let (mut node, _) = enter(Fence::Marks, Some(WEB));
    node.become_role(Role::Backup).unwrap();
    tc(&format!("filter add dev bond0 ingress pref 400 {foreign}"));
    node.release(|_| ()).unwrap();
    assert!(tc("qdisc show dev bond0").contains("clsact"));
    assert!(tc("filter show dev bond0 ingress").contains("dst_port 81"));
}

#[test]
fn what_uses_a_mark_of_the_node_is_refused() {
    let (mut node, config) = enter(Fence::Marks, Some(WEB));
    let clean = everything();
    let refused = |node: &mut Node| {
        let before = everything();
        let error = node.become_role(Role::Backup).unwrap_err();
        assert!(matches!(error, Error::Foreign { .. }), "{error}");
        assert_eq!(everything(), before);
        error.to_string()
    };
    for (add, remove) in [("rule add", "rule del"), ("-6 rule add", "-6 rule del")] {
        let rule = format!("fwmark {LOCAL} lookup 7");
        ip(&format!("{add} {rule}"));
        let text = refused(&mut node);
        assert!(text.contains("rule") && text.contains("[marks] base"), "{text}");
        ip(&format!("{remove} {rule}"));
    }
    tc("qdisc add dev bond0 clsact");
    tc(&format!(
        "filter add dev bond0 ingress pref 10 protocol ip flower ip_proto tcp dst_port 80 action skbedit mark {LOCAL}"
    ));
    let text = refused(&mut node);
    assert!(text.contains("priority 10") && text.contains("[marks] base"), "{text}");
    tc("qdisc del dev bond0 clsact");
    // A sync daemon of another program.
    ipvsadm("--start-daemon master --mcast-interface bond0 --syncid 9");
    let text = refused(&mut node);
    assert!(text.contains("lvs_sync_daemon"), "{text}");
    ipvsadm("--stop-daemon master");
    assert_eq!(everything(), clean);
    // Two nodes in one namespace.
    node.become_role(Role::Backup).unwrap();
    let mut other = Node::open(Config { state_dir: new_path(), ..config }).unwrap();
    let text = refused(&mut other);
    assert!(text.contains("another state_dir") && text.contains("[[group]]"), "{text}");
}

#[test]
fn destinations_that_direct_routing_does_not_reach_are_warned_of() {
    // The MAC address of the gateway among the peers'.
    enter_with_peers();
    ip_batch(
        "route add default via 192.0.2.99\n\
         neigh replace 192.0.2.99 lladdr 02:00:00:00:00:12 dev bond0 nud permanent\n",
    );
    let mut node = Node::open(config(Fence::Marks, Some(WEB))).unwrap();
    let warnings = node.become_role(Role::Backup).unwrap().warnings().to_vec();
    assert!(
        warnings.iter().any(|text| text.contains("192.0.2.12 has the MAC address of the gateway 192.0.2.99")),
        "{warnings:?}"
    );
    assert_eq!(rules(), [1, 1, 1, 1, 1, 1]);
    let shown = lab::rules("bond0").concat();
    assert!(!shown.contains("02:00:00:00:00:12") && shown.contains("02:00:00:00:00:13"), "{shown}");
    // A peer that is the gateway itself.
    enter_with_peers();
    ip("route add default via 192.0.2.12");
    let mut node = Node::open(config(Fence::Marks, Some(WEB))).unwrap();
    let warnings = node.become_role(Role::Backup).unwrap().warnings().to_vec();
    assert!(warnings.iter().any(|text| text.contains("192.0.2.12") && text.contains("gateway")), "{warnings:?}");
    assert!(!lab::rules("bond0").concat().contains("02:00:00:00:00:12"));
    // A destination behind a gateway: refused at the first role, and warned of where another
    // program has loaded it.
    enter_with_peers();
    ip("route add 198.51.100.0/24 via 192.0.2.99");
    let services = format!("{WEB}-A -t 192.0.2.254:81 -s wrr\n-a -t 192.0.2.254:81 -r 198.51.100.7:81 -g -w 1\n");
    let words = "the destination 198.51.100.7:81 of tcp 192.0.2.254:81: it is behind the gateway 192.0.2.99";
    let refused = Node::open(config(Fence::Marks, Some(&services))).unwrap().become_role(Role::Backup);
    assert!(refused.unwrap_err().to_string().contains(words));
    feed("ipvsadm -R", &services);
    let mut node = Node::open(config(Fence::Marks, None)).unwrap();
    let warnings = node.become_role(Role::Backup).unwrap().warnings().to_vec();
    assert!(warnings.iter().any(|text| text.contains(words)), "{warnings:?}");
    // The node's own loopback: refused in a configuration, and warned of where another program has
    // loaded it.
    enter_with_peers();
    let services = WEB.replace("192.0.2.11:80", "127.0.0.1:80");
    let refused = Node::open(config(Fence::Marks, Some(&services))).unwrap_err().to_string();
    assert!(refused.contains("127.0.0.1:80 of tcp 192.0.2.254:80"), "{refused}");
    feed("ipvsadm -R", &services);
    let mut node = Node::open(config(Fence::Marks, None)).unwrap();
    let warnings = node.become_role(Role::Backup).unwrap().warnings().to_vec();
    assert!(warnings.iter().any(|text| text.contains("the destination 127.0.0.1:80 of")), "{warnings:?}");
    // A peer that nobody has seen.
    enter_node_netns();
    let mut node = Node::open(config(Fence::Marks, Some(HASHED))).unwrap();
    ip("address add 2001:db8::11/64 dev bond0 nodad");
    let warnings = node.become_role(Role::Backup).unwrap().warnings().to_vec();
    assert!(warnings.iter().any(|text| text.contains("the MAC address of 192.0.2.12 is unknown")), "{warnings:?}");
    // It is known now, and remembered when it is not seen any more.
    ip("neigh replace 192.0.2.12 lladdr 02:00:00:00:00:12 dev bond0 nud permanent");
    node.repair(|_| ()).unwrap();
    let known = || lab::rules("bond0").concat().contains("02:00:00:00:00:12");
    assert!(known());
    ip("neigh del 192.0.2.12 dev bond0");
    node.repair(|_| ()).unwrap();
    node.become_role(Role::Master).unwrap();
    assert!(known());
}

/// The filters of an earlier version, as tc writes them, of the rules that a node has now.
fn as_flower() -> Vec<String> {
    let shown = tc("filter show dev bond0 ingress");
    let cookie = shown.split_once("cookie ").unwrap().1.split_whitespace().next().unwrap();
    let filter = |line: String| {
        let (head, packets) = line.split_once(": ").unwrap();
        let words: Vec<&str> = head.split(' ').collect();
        let [_, mark, _, interface, _, vip] = words[..] else { panic!("{line}") };
        let (order, keys) = match packets.split(' ').collect::<Vec<_>>()[..] {
            ["all", "from", mac] => (2, format!("src_mac {mac}")),
            ["TCP", "without", "SYN", "to", "port", port] => {
                (0, format!("ip_proto tcp dst_port {port} tcp_flags 0x0/0x2"))
            }
            ["TCP", "with", "SYN"] => (4, "ip_proto tcp tcp_flags 0x2/0x12".to_owned()),
            _ => panic!("{line}"),
        };
        let (protocol, pref) = if vip.contains(':') { ("ipv6", 301 + order) } else { ("ip", 300 + order) };
        format!(
            "filter add dev {interface} ingress pref {pref} protocol {protocol} flower skip_hw dst_ip {vip} {keys} action skbedit \
             mark {mark} continue cookie {cookie}"
        )
    };
    lab::rules("bond0").into_iter().map(filter).collect()
}

/// A node that an earlier version left in its role.
#[test]
fn filters_of_an_earlier_version_are_replaced() {
    for (role, repair) in [(Role::Backup, true), (Role::Backup, false), (Role::Master, false)] {
        let (mut node, config) = enter(Fence::Marks, Some(WEB));
        node.become_role(Role::Backup).unwrap();
        let lines = as_flower();
        tc("filter del dev bond0 ingress");
        lines.iter().for_each(|line| drop(tc(line)));
        let mut node = Node::open(config).unwrap();
        assert!(!node.status().unwrap().drift.is_empty());
        match repair {
            true => drop(node.repair(|_| ()).unwrap()),
            false => drop(node.become_role(role).unwrap()),
        }
        assert_eq!(rules(), if role == Role::Master { OF_DIRECTOR } else { OF_BACKUP });
        assert!(!tc("filter show dev bond0 ingress").contains("flower"));
        assert!(node.status().unwrap().drift.is_empty());
        // Released from the old form, nothing is left.
        tc("filter del dev bond0 ingress");
        lines.iter().for_each(|line| drop(tc(line)));
        node.release(|_| ()).unwrap();
        assert_eq!((tc("filter show dev bond0 ingress"), ipvsadm("-Sn")), (String::new(), String::new()));
    }
}

#[test]
fn repair_mends_what_was_removed() {
    let (mut node, config) = enter(Fence::Marks, Some(WEB));
    node.become_role(Role::Backup).unwrap();
    let before = everything();
    for damage in [
        "tc qdisc del dev bond0 clsact",
        "tc filter del dev bond0 ingress",
        "tc filter del dev bond0 ingress pref 306",
        "ipvsadm -D -f 1280725760",
        "ipvsadm -e -f 1280725761 -r 192.0.2.13:1 -g -w 1",
        "ipvsadm --stop-daemon backup",
        "ip address del 192.0.2.254/32 dev lo",
        "ipvsadm -C",
    ] {
        run(damage);
        assert_ne!(everything(), before, "{damage}");
        let status = node.status().unwrap();
        assert!(!status.drift.is_empty(), "{damage}: {status:?}");
        node.repair(|_| ()).unwrap();
        assert_eq!(sorted(&everything()), sorted(&before), "{damage}");
        assert!(node.status().unwrap().drift.is_empty(), "{damage}");
    }
    fs::write("/proc/sys/net/ipv4/vs/sloppy_tcp", "0").unwrap();
    node.repair(|_| ()).unwrap();
    assert_eq!(sysctl("sloppy_tcp"), "1");
    // The interface is removed, and comes back with nothing.
    ip("link del bond0");
    assert!(node.become_role(Role::Master).is_err());
    node.become_role(Role::Fault).unwrap();
    ip_batch(
        "link add bond0 type veth peer name peer0\nlink set bond0 up\nlink set peer0 up\naddress add 192.0.2.11/24 dev bond0\n",
    );
    add_addresses();
    let mut node = Node::open(config).unwrap();
    node.repair(|_| ()).unwrap();
    assert_eq!((rules(), saved(), daemons()), (OF_BACKUP, WEB.to_owned(), vec!["backup".to_owned()]));
    node.become_role(Role::Master).unwrap();
    assert_eq!(rules(), OF_DIRECTOR);
}

fn sorted(text: &str) -> Vec<&str> {
    // Handles and numbers of filters are drawn anew.
    let stays = |line: &&str| !line.contains("index") && !line.contains("handle") && !line.contains("fh ");
    let mut lines: Vec<&str> = text.lines().filter(stays).collect();
    lines.sort_unstable();
    lines
}

#[test]
fn a_backup_of_fence_clear_has_no_services() {
    let (mut node, _) = enter(Fence::Clear, Some(WEB));
    let before = everything();
    for role in [Role::Backup, Role::Master, Role::Fault, Role::Master] {
        node.become_role(role).unwrap();
        let (table, running) = match role {
            Role::Master => (WEB, vec!["master", "backup"]),
            _ => ("", vec!["backup"]),
        };
        let running: Vec<String> = running.into_iter().map(str::to_owned).collect();
        assert_eq!(
            (saved(), daemons(), sysctl("expire_nodest_conn")),
            (table.to_owned(), running, "1".into()),
            "{role}"
        );
        assert_eq!((rules(), mark_services()), ([0; 6], vec![]));
    }
    node.release(|_| ()).unwrap();
    assert_eq!(everything(), before);
    // It can do without its own daemons.
    let (mut node, _) = enter(Fence::Clear, Some(WEB));
    ipvsadm("--start-daemon master --mcast-interface bond0 --syncid 9");
    node.become_role(Role::Master).unwrap();
    assert_eq!((saved(), daemons()), (WEB.to_owned(), vec!["master".to_owned()]));
    node.release(|_| ()).unwrap();
    assert_eq!(daemons(), ["master"]);
}

#[test]
fn another_fence_leaves_nothing_of_the_old_one() {
    let (_, config) = enter(Fence::Marks, Some(WEB));
    let before = everything();
    for fence in [Fence::Marks, Fence::Clear, Fence::Marks, Fence::Clear] {
        for role in [Role::Backup, Role::Master, Role::Backup] {
            let mut node = Node::open(Config { fence, ..config.clone() }).unwrap();
            node.become_role(role).unwrap();
            let marks = fence == Fence::Marks;
            let table = if marks || role == Role::Master { WEB } else { "" };
            assert_eq!(saved(), table, "{fence} {role}");
            let changed = ["sync_threshold", "sloppy_tcp", "expire_nodest_conn"].map(sysctl);
            assert_eq!(changed, if marks { ["2 0", "1", "0"] } else { ["2 0", "0", "1"] }, "{fence} {role}");
            assert_eq!((mark_services().len(), rules()[0]), if marks { (9, 1) } else { (0, 0) }, "{fence} {role}");
            assert_eq!(tc("qdisc show dev bond0").contains("clsact"), marks, "{fence} {role}");
        }
    }
    Node::open(config).unwrap().release(|_| ()).unwrap();
    assert_eq!(everything(), before);
}

/// A node of the earlier version with fence quiesce, as it had left the kernel and its file.
fn leave_as_version_1(state_dir: &Path, role: &str) {
    let live = match role {
        "backup" => quiesced(),
        _ => WEB.to_owned(),
    };
    ipvsadm("-C");
    feed("ipvsadm -R", &live);
    for daemon in ["master", "backup"] {
        let _ = try_run(&format!("ipvsadm --stop-daemon {daemon}"));
    }
    ipvsadm("--start-daemon backup --mcast-interface bond0 --syncid 254");
    let held = if role == "backup" { "held" } else { "live" };
    fs::create_dir_all(state_dir).unwrap();
    let _ = fs::remove_file(state_dir.join("legacy"));
    let _ = fs::remove_file(state_dir.join("loaded"));
    let state = format!(
        "lvs-dr state 1\nsysctl sync_threshold=3 50 -> 2 0\nrole {role} reached\nfence quiesce\nsync on\n\
         vip 192.0.2.254 bond0\nvip 2001:db8::fe bond0\ntable {held}\n{WEB}end\n"
    );
    fs::write(state_dir.join("state"), state).unwrap();
}

pub(crate) fn quiesced() -> String {
    WEB.replace("-w 4", "-w 0")
        .replace("-w 5", "-w 0")
        .replace("[2001:db8::12]:80 -g -w 1", "[2001:db8::12]:80 -g -w 0")
}

#[test]
fn weights_of_the_earlier_version_come_back_wherever_the_node_is_killed() {
    for configured in [true, false] {
        let (_, config) = enter(Fence::Marks, configured.then_some(WEB));
        let node = || Node::open(config.clone()).unwrap();
        for then in [Role::Backup, Role::Master] {
            for step in 0.. {
                leave_as_version_1(&config.state_dir, "backup");
                assert_eq!(saved(), quiesced());
                let died = dies_before(step, |before| node().become_role_with(then, before));
                if step % 3 != 0 {
                    node().become_role(Role::Backup).unwrap();
                }
                node().become_role(then).unwrap();
                let what = format!("{configured}: killed before step {step} of {then}");
                assert_eq!((saved(), mark_services().len()), (WEB.to_owned(), 9), "{what}");
                if !died {
                    assert!(step > 3, "{step} steps only");
                    break;
                }
            }
        }
        node().release(|_| ()).unwrap();
        assert_eq!((saved(), daemons()), (if configured { String::new() } else { WEB.to_owned() }, vec![]));
    }
}

#[test]
fn killed_at_every_step_a_node_reaches_its_next_role() {
    let (_, config) = enter(Fence::Marks, Some(WEB));
    let node = || Node::open(config.clone()).unwrap();
    for (first, then) in [(Role::Master, Role::Backup), (Role::Backup, Role::Master)] {
        for step in 0.. {
            node().become_role(first).unwrap();
            let died = dies_before(step, |before| node().become_role_with(then, before));
            let next = [Role::Backup, Role::Master][step % 2];
            node().become_role(next).unwrap();
            let wanted = if next == Role::Master { OF_DIRECTOR } else { OF_BACKUP };
            assert_eq!(
                (rules(), saved()),
                (wanted, WEB.to_owned()),
                "killed before step {step} of {then}, then {next}"
            );
            if !died {
                assert!(step > 2, "{step} steps only");
                break;
            }
        }
    }
}
