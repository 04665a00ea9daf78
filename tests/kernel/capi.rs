//! The C interface: programs in C, judged by ipvsadm and ip. `make check` builds and runs them.

use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Command, Output};
use std::time::Duration;

use lvs_dr::Netns;

use crate::lab::{enter_new_netns, feed, ip, ipvsadm, load_ipv6, rules, run, try_run};

/// A program that `make` has built below the target directory, where this test is, too.
fn program(name: &str) -> String {
    let this = std::env::current_exe().unwrap();
    let built: Option<PathBuf> = this.ancestors().map(|dir| dir.join("c").join(name)).find(|path| path.exists());
    let path = built.unwrap_or_else(|| panic!("the C program `{name}` is not built: run `make check`"));
    path.to_str().unwrap().to_owned()
}

fn network() {
    enter_new_netns();
    ip("link add eth0 type veth peer name eth1");
    ip("addr add 192.168.0.11/24 dev eth0");
    ip("link set eth0 up");
    ip("link set eth1 up");
    // Fence marks needs the MAC address of the other node, and warns without.
    ip("neigh add 192.168.0.12 lladdr 02:00:00:00:00:12 nud permanent dev eth0");
    // The state directory is that of a node in another test's namespace.
    let _ = std::fs::remove_dir_all("/run/lvs-director");
}

fn director(role: &str) -> Output {
    try_run(&format!("{} eth0 192.168.0.254 {role} 192.168.0.11 192.168.0.12", program("director")))
}

fn said(output: &[u8]) -> String {
    String::from_utf8_lossy(output).into_owned()
}

const TABLE: &str = "\
-A -t 192.168.0.254:80 -s wrr
-a -t 192.168.0.254:80 -r 192.168.0.11:80 -g -w 1
-a -t 192.168.0.254:80 -r 192.168.0.12:80 -g -w 1
";

/// The table, without the services of the node's own marks.
fn table() -> String {
    let all = ipvsadm("-Sn");
    all.lines().filter(|line| !line.contains(" -f ")).map(|line| format!("{line}\n")).collect()
}

#[test]
fn a_program_in_c_makes_a_node_master_and_backup() {
    network();
    let setting = |name: &str| run(&format!("cat /proc/sys/net/ipv4/conf/eth0/{name}"));
    let vips = |interface: &str| ip(&format!("-o -4 addr show to 192.168.0.254 dev {interface}"));

    let output = director("master");
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    let first = said(&output.stdout);
    for line in [
        "tcp 192.168.0.254:80 -> 192.168.0.11:80 weight 1",
        "tcp 192.168.0.254:80 -> 192.168.0.12:80 weight 1",
        "arp_ignore was 0, arp_announce 0",
        "VIP: add 192.168.0.254 to eth0",
    ] {
        assert!(first.contains(line), "{line:?} is not in {first}");
    }
    assert_eq!(table(), TABLE);
    assert!(vips("eth0").contains("inet 192.168.0.254/32 scope global"), "{}", vips("eth0"));
    assert!(vips("lo").contains("inet 192.168.0.254/32 scope host"), "{}", vips("lo"));
    assert_eq!((setting("arp_ignore"), setting("arp_announce")), ("1\n".into(), "2\n".into()));

    let output = director("master");
    assert!(output.status.success(), "{output:?}");
    assert!(
        said(&output.stdout).ends_with("arp_ignore was 1, arp_announce 2\n"),
        "something was done twice: {output:?}"
    );

    let output = director("BACKUP");
    assert!(output.status.success(), "{output:?}");
    // The default fence, marks: the table stays, and a rule has the MAC address of the other node.
    assert_eq!((table(), vips("eth0")), (TABLE.to_owned(), String::new()));
    assert!(vips("lo").contains("scope host"));
    let rules = rules("eth0").join("\n");
    assert!(rules.contains("all from 02:00:00:00:00:12"), "{rules}");

    let output = director("master");
    assert!(output.status.success(), "{output:?}");
    assert_eq!(table(), TABLE);
}

#[test]
fn a_program_in_c_says_what_is_wrong() {
    network();
    let output = director("director");
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(
        said(&output.stderr),
        "director: read the role: role \"director\" is not usable: master, backup, fault or stop was expected \
         (LVS_ERR_INVALID)\n"
    );
    ip("link del eth0");
    let output = director("master");
    assert_eq!(output.status.code(), Some(1));
    let words = said(&output.stderr);
    assert!(
        words.contains("eth0") && words.contains("see `ip link`") && words.contains("(LVS_ERR_NO_INTERFACE)"),
        "{words}"
    );

    ipvsadm("-C");
    // Root still, who can read the program wherever it is, but without capabilities.
    let powerless = format!("setpriv --bounding-set -all --inh-caps -all {}", program("director"));
    let output = try_run(&format!("{powerless} eth0 192.168.0.254 master 192.168.0.11"));
    assert_eq!(output.status.code(), Some(1));
    let words = said(&output.stderr);
    assert!(words.contains("CAP_NET_ADMIN is missing") && words.contains("(LVS_ERR_PERMISSION)"), "{words}");
}

#[test]
fn whatever_a_caller_does_wrong_is_a_status() {
    network();
    // Sees what is read or written wrongly on either side of the border, and what is never freed.
    let valgrind = concat!(
        "valgrind --quiet --error-exitcode=9 --leak-check=full --errors-for-leak-kinds=definite,indirect,possible ",
        "--suppressions=",
        env!("CARGO_MANIFEST_DIR"),
        "/tests/c/valgrind.supp"
    );
    let output = try_run(&format!("{valgrind} {}", program("misuse")));
    assert!(output.status.success(), "{}{}", said(&output.stdout), said(&output.stderr));
    // It does not know pidfd_open(2), and says so; such lines begin with `--`.
    let found: Vec<String> =
        said(&output.stderr).lines().filter(|line| !line.starts_with("--")).map(Into::into).collect();
    assert_eq!((said(&output.stdout), found), (String::new(), Vec::new()));
}

/// What the main thread of a program waited for, as strace shows it: the calls that can block.
fn waits(trace: &str) -> Vec<&str> {
    let main = trace.split_whitespace().next().unwrap();
    let of_main = trace.lines().filter(|line| line.split_whitespace().next() == Some(main));
    let calls = of_main.filter_map(|line| line.split_once(' ')).map(|(_, call)| call.trim_start());
    // `<... poll resumed>`: its beginning is another line.
    calls.filter(|call| !call.starts_with("<...")).collect()
}

#[test]
fn a_program_with_a_loop_waits_for_its_descriptor_alone() {
    network();
    let _ = std::fs::remove_dir_all("/run/lvs-loop");
    let trace = format!("/tmp/lvs-dr-trace-{}", std::process::id());
    let blocking =
        "nanosleep,clock_nanosleep,flock,futex,poll,ppoll,select,pselect6,epoll_wait,epoll_pwait,wait4,waitid";
    // Closing one waits for a grace period of RCU.
    let sockets = "socket";
    let roles = "backup master backup master fault stop";
    let output = try_run(&format!(
        "strace -f -o {trace} -e trace={blocking},{sockets} {} eth0 192.168.0.254 192.168.0.12 {roles}",
        program("loop")
    ));
    let said = said(&output.stdout);
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    for role in roles.split(' ') {
        assert!(said.contains(&format!("record: {role} is reached")), "{said}");
    }
    let lines = ip("-o -4 addr show to 192.168.0.254");
    assert!(lines.contains("lo ") && !lines.contains("eth0"), "{lines}");
    let trace = std::fs::read_to_string(trace).unwrap();
    let (mut polled, mut locked, mut packets) = (0, 0, 0);
    for call in waits(&trace) {
        match call.split('(').next().unwrap() {
            // The program's own, for the descriptor of the driver.
            "poll" => polled += usize::from(call.starts_with("poll([{fd=") && call.contains("}], 1, ")),
            "flock" => locked += usize::from(call.contains("LOCK_NB")),
            "futex" => assert!(call.contains("FUTEX_WAKE"), "{call}"),
            "wait4" => assert!(call.contains("WNOHANG"), "{call}"),
            "socket" => packets += usize::from(call.contains("AF_PACKET")),
            _ => assert!(call.starts_with("+++") || call.starts_with("---"), "{call}"),
        }
    }
    let count = |name: &str| waits(&trace).iter().filter(|call| call.starts_with(name)).count();
    assert_eq!((polled, locked), (count("poll("), count("flock(")), "{trace}");
    assert!(polled > 10 && locked > 10, "{trace}");
    // One announces in both promotions, one asks for the director in the other roles.
    assert_eq!(packets, 2, "{trace}");
    println!("{}", said.lines().last().unwrap());
}

/// One request each, judged by ipvsadm.
#[test]
fn what_ipvs_has_beside_its_services() {
    network();
    ip("addr add 192.0.2.11/24 dev eth0");
    ip("addr add 192.0.2.254/32 dev eth0");
    feed(
        "ipvsadm -R",
        "-A -t 192.0.2.254:80 -s rr -p 300\n-a -t 192.0.2.254:80 -r 192.0.2.12:80 -m -w 1 -x 90 -y 30\n",
    );
    let steps = |steps: &str| {
        let output = try_run(&format!("{} {steps}", program("control")));
        assert!(output.status.success() && output.stderr.is_empty(), "{steps}: {output:?}");
        said(&output.stdout)
    };

    assert_eq!(steps("daemons start daemons"), "1 on eth0, id 7, group 224.0.0.99, port 8850, ttl 2\n");
    let shown = ipvsadm("-Ln --daemon");
    for part in ["master", "mcast=eth0", "syncid=7", "group=224.0.0.99", "port=8850", "ttl=2"] {
        assert!(shown.contains(part), "{shown}");
    }
    assert_eq!(steps("start-again stop stop-again daemons"), "");
    assert_eq!(ipvsadm("-Ln --daemon"), "");

    let before = ipvsadm("-Ln --timeout");
    let fin = before.split_whitespace().nth(5).unwrap().to_owned();
    assert_eq!(steps("timeouts"), format!("901 {fin} 302\n"));
    assert!(ipvsadm("-Ln --timeout").contains(&format!("901 {fin} 302")));

    steps("weight");
    let shown = ipvsadm("-Ln --thresholds");
    let row: Vec<&str> = shown.lines().last().unwrap_or_default().split_whitespace().collect();
    assert_eq!(row[1..5], ["192.0.2.12:80", "90", "30", "0"], "{shown}");
    assert!(ipvsadm("-Sn").contains("-r 192.0.2.12:80 -m -w 9"));

    let text = steps("counters");
    assert_eq!(
        text.lines().filter(|line| line.contains(": 0 connections, 0 active, 0 inactive, 0 templates")).count(),
        3,
        "{text}"
    );
    // The node's own request is scheduled like a client's, and stays without an answer.
    let _ = TcpStream::connect_timeout(&"192.0.2.254:80".parse().unwrap(), Duration::from_millis(200));
    // The kernel updates the counters every two seconds.
    std::thread::sleep(Duration::from_secs(4));
    let row = |text: &str| -> Vec<String> {
        let found = text.lines().find(|line| line.contains("192.0.2.12:80")).unwrap_or_default();
        found.split_whitespace().map(str::to_owned).collect()
    };
    let (now, stats) = (row(&ipvsadm("-Ln")), row(&ipvsadm("-Ln --stats")));
    assert_eq!(stats[2], "1", "{stats:?}");
    let counted = |connections: &str| {
        let (active, inactive) = (&now[4], &now[5]);
        format!("192.0.2.12:80: {connections} connections, {active} active, {inactive} inactive, 1 templates\n")
    };
    let text = steps("counters");
    assert!(text.contains(&counted("1")), "{text}{now:?}");
    assert!(text.contains("tcp 192.0.2.254:80: 1 connections, 0 active, 0 inactive"), "{text}");
    assert!(text.starts_with("all: 1 connections"), "{text}");
    let text = steps("connections");
    let connection = "-> 192.0.2.254:80 -> 192.0.2.12:80 SYN_RECV, origin 1, template 0";
    let template = ":0 -> 192.0.2.254:80 -> 192.0.2.12:80 NONE, origin 1, template 1";
    for part in [connection, template] {
        assert_eq!(
            text.lines().filter(|line| line.starts_with("6 192.0.2.") && line.ends_with(part)).count(),
            1,
            "{text}"
        );
    }
    // Two lines are headings.
    assert_eq!(ipvsadm("-Lnc").lines().count(), text.lines().count() + 2, "{text}");

    let active = &now[4];
    let empty = u8::from(active == "0");
    assert_eq!(steps("drain"), format!("had weight 9, {active} active, empty {empty}\n"));
    assert!(ipvsadm("-Sn").contains("-r 192.0.2.12:80 -m -w 0"));

    assert_eq!(steps("settings"), "2\t50\n");
    let vs = |name: &str| run(&format!("cat /proc/sys/net/ipv4/vs/{name}"));
    assert_eq!((vs("sloppy_tcp"), vs("sync_threshold")), ("1\n".into(), "2\t50\n".into()));

    let text = steps("zero counters");
    assert!(text.contains(&counted("0")), "{text}");
    steps("flush");
    assert_eq!(ipvsadm("-Sn"), "");

    let filters = || run("tc filter show dev eth0 ingress");
    let [peer, later] = ["192.0.2.254 1 02:00:00:00:00:12 0", "192.0.2.254 0 - 80"];
    assert_eq!(steps("mark"), format!("eth0 {later} 8\neth0 {peer} 7\neth0 {peer} 9\n"));
    assert_eq!(
        (filters().matches("skbedit  mark 9").count(), filters().matches("mark 8").count()),
        (1, 0),
        "{}",
        filters()
    );
    assert_eq!(steps("unmark"), "");
    assert!(!run("tc qdisc show dev eth0").contains("clsact"));
}

/// What it is, its state, and where.
#[test]
fn a_program_in_c_follows_neighbours_interfaces_and_addresses() {
    load_ipv6();
    network();
    ip("route add default via 192.168.0.1 dev eth0");
    let steps = |steps: &str| {
        let output = try_run(&format!("{} {steps}", program("link")));
        assert!(output.status.success() && output.stderr.is_empty(), "{steps}: {output:?}");
        said(&output.stdout)
    };
    let text = steps("monitor");
    let mut seen = text.lines();
    for line in [
        "1 1 0x80 eth0 02:00:00:00:00:77 192.168.0.77",
        "2 1 0x20 eth0  192.168.0.77",
        "5 1 0   2001:db8::78",
        "6 1 0   2001:db8::78",
        "3 1 0 early  ",
        "3 1 0 seen  ",
        "4 1 0 seen  ",
    ] {
        assert!(seen.any(|found| found == line), "{line:?} is not in {text}, or earlier");
    }
    let mac = |interface: &str| {
        let shown = ip(&format!("-o link show dev {interface}"));
        shown.split_whitespace().skip_while(|word| *word != "link/ether").nth(1).unwrap_or_default().to_owned()
    };
    let text = steps("neighbours");
    let expected = format!(
        "192.168.0.12 eth0 02:00:00:00:00:12 0x80 0\nown: {}\nanswers: {}\nsilent:\ngateways: 192.168.0.1\n\
         through eth0, 192.168.0.1\nthrough eth0, on the link\n",
        mac("eth0"),
        mac("eth1")
    );
    assert_eq!(text, expected);
    let shown = ip("neigh show to 192.168.0.66 dev eth0");
    assert!(!shown.is_empty(), "the kernel has no entry for the neighbour that was to be resolved");

    assert_eq!(steps("advertise"), "placed 1, then 0\nadvertised: 192.0.2.7\n");
    assert!(ip("-o addr show to 192.0.2.7 dev lo").contains("scope host"));
    assert_eq!(ip("-o addr show to 192.0.2.7 dev eth0"), "");
    assert!(ip("route show table 86").contains("unreachable 192.0.2.7 proto 86"), "{}", ip("route show table 86"));
    assert_eq!(steps("unadvertise"), "advertised:\n");
    assert_eq!(ip("route show table 86"), "");
}

#[test]
fn a_program_in_c_marks_its_own_requests_and_classifies() {
    load_ipv6();
    network();
    let steps = |steps: &str| {
        let output = try_run(&format!("{} {steps}", program("link")));
        assert!(output.status.success() && output.stderr.is_empty(), "{steps}: {output:?}");
        said(&output.stdout)
    };
    // The backend that is found is nftables where the kernel has it.
    let marked = || {
        let xtables = ["iptables-legacy-save -t mangle", "ip6tables-legacy-save -t mangle"];
        let nft = Command::new("nft").args(["list", "ruleset"]).output();
        xtables.map(run).concat() + &nft.map(|output| said(&output.stdout)).unwrap_or_default()
    };
    let has = |vip: &str, mark: u32| {
        let (short, long) = (format!("{mark:#x}"), format!("{mark:#010x}"));
        marked().lines().any(|line| line.contains(vip) && (line.contains(&short) || line.contains(&long)))
    };
    let text = steps("own-requests");
    assert!(text.starts_with("192.168.0.254 77\n2001:db8::fe 78\nbackend ") && text.ends_with(", all\n"), "{text}");
    assert!(has("192.168.0.254", 77) && has("2001:db8::fe", 78), "{}", marked());
    let text = steps("one-own-request");
    assert!(text.starts_with("192.168.0.254 77\nbackend "), "{text}");
    assert!(has("192.168.0.254", 77) && !has("2001:db8::fe", 78), "{}", marked());
    assert_eq!(steps("no-own-requests"), "removed 1, then 0\n");
    assert!(!has("192.168.0.254", 77), "{}", marked());

    let filters = || run("tc filter show dev eth0 ingress");
    let known = "  192.168.0.254:80 11 12 13\n  [2001:db8::fe]:81 14 0 0\n  02:00:00:00:00:12 3\n";
    assert_eq!(steps("classify"), format!("eth0, current 1, 0 openings, 0 local\n{known}"));
    assert_eq!(filters().matches("pref 308 bpf").count(), 2, "{}", filters());
    // Comes in by eth0: from a namespace of its own, at the other end.
    try_run("ip netns add other");
    ip("link set eth1 netns other");
    let other = |command: &str| try_run(&format!("ip netns exec other {command}"));
    for command in
        ["ip link set eth1 up", "ip addr add 192.168.0.1/24 dev eth1", "ip route add 192.168.0.254 via 192.168.0.11"]
    {
        assert!(other(command).status.success(), "{command}");
    }
    ip("addr add 192.168.0.254/32 dev lo");
    let connect =
        || TcpStream::connect_timeout(&"192.168.0.254:80".parse().unwrap(), Duration::from_millis(300)).is_ok();
    let client = Netns::named("other").unwrap();
    assert!(!client.run(connect).unwrap(), "nothing listens");
    drop(client);
    let text = steps("classified");
    assert!(text.starts_with("eth0, current 1, 1 openings, 0 local\n") && text.ends_with(known), "{text}");
    assert_eq!(steps("unclassify"), "");
    assert!(!filters().contains("pref 308"), "{}", filters());
    let _ = try_run("ip netns del other");
}

#[test]
fn a_program_in_c_drives_weights_and_fixes() {
    network();
    let _ = std::fs::remove_dir_all("/run/lvs-link");
    // Only a VIP whose servers listen is advertised.
    let _server = TcpListener::bind("0.0.0.0:80").unwrap();
    let output = try_run(&format!("{} driver", program("link")));
    let text = said(&output.stdout);
    assert!(output.status.success() && output.stderr.is_empty(), "{text}{}", said(&output.stderr));
    let lines: Vec<&str> = text.lines().filter(|line| !line.starts_with("  ")).collect();
    let status = |drained: &str| format!("{drained}, digest 1, 1 advertised, first of the interfaces eth0, no failure");
    let attached = "eth0, current 1, 0 openings, 0 local";
    let edited = "-a -t 192.168.0.254:80 -r 192.168.0.11:80 -g -w 9";
    assert_eq!(
        lines,
        [
            "task 1, role 17, LVS_OK",
            &status("drained 0, had weight 0"),
            attached,
            "task 6, role 0, LVS_OK",
            &status("drained 1, had weight 1"),
            attached,
            "task 6, role 0, LVS_OK",
            "task 7, role 0, LVS_OK",
            "task 3, role 0, LVS_OK",
            edited,
            "task 8, role 0, LVS_OK",
        ],
        "{text}"
    );
    assert!(text.contains("  192.168.0.254:80 ") && text.contains("  02:00:00:00:00:12 "), "{text}");
    assert!(ip("route show table 86").contains("unreachable 192.168.0.254"));
    assert_eq!(run("cat /proc/sys/net/ipv4/vs/sloppy_tcp"), "1\n");
    let table = ipvsadm("-Sn");
    for server in ["192.168.0.11:80 -g -w 1", "192.168.0.12:80 -g -w "] {
        assert!(table.lines().any(|line| line.contains("-t 192.168.0.254:80") && line.contains(server)), "{table}");
    }
    assert!(run("tc filter show dev eth0 ingress").contains("pref 308 bpf"));
}

/// The first interpreter that has cffi.
fn python() -> &'static str {
    let found = ["python3", "/usr/bin/python3"]
        .into_iter()
        .find(|python| Command::new(python).args(["-c", "import cffi"]).output().is_ok_and(|out| out.status.success()));
    found.expect("python3 has no cffi: install what Debian calls python3-cffi")
}

#[test]
fn a_program_in_python_lists_the_table_and_takes_on_a_role() {
    network();
    feed("ipvsadm -R", TABLE);
    let tree = env!("CARGO_MANIFEST_DIR");
    let output = try_run(&format!(
        "{} {tree}/tests/python/node.py {tree}/include/lvs_dr.h {} eth0 192.168.0.254 master",
        python(),
        program("../debug/liblvs_dr.so")
    ));
    let text = said(&output.stdout);
    assert!(output.status.success() && output.stderr.is_empty(), "{text}{}", said(&output.stderr));
    let listed = "tcp 192.168.0.254:80 wrr\n  192.168.0.11:80 1\n  192.168.0.12:80 1\n";
    let role = text.strip_prefix(listed).unwrap_or_else(|| panic!("{text}"));
    assert!(role.ends_with(" steps, role 17, reached 1, missing 0\n") && !role.starts_with("0 "), "{text}");
    let vips = |interface: &str| ip(&format!("-o -4 addr show to 192.168.0.254 dev {interface}"));
    assert!(vips("eth0").contains("scope global") && vips("lo").contains("scope host"), "{}", vips("eth0"));
}

#[test]
fn a_program_in_cpp_gives_a_server_its_weight() {
    network();
    feed("ipvsadm -R", TABLE);
    let table =
        |service: &str| Command::new(program("table")).args([service, "192.168.0.12:80", "7"]).output().unwrap();
    let output = table("tcp 192.168.0.254:80");
    let expected = "tcp 192.168.0.254:80 wrr, 0 connections\n  192.168.0.11:80 weight 1, 0 active\n  192.168.0.12:80 weight 7, 0 active\n";
    assert_eq!((said(&output.stdout).as_str(), said(&output.stderr).as_str()), (expected, ""));
    assert!(ipvsadm("-Sn").contains("-r 192.168.0.12:80 -g -w 7"));
    let output = table("tcp 192.168.0.254:81");
    assert_eq!(output.status.code(), Some(1));
    assert!(said(&output.stderr).ends_with("(LVS_ERR_NO_SERVICE)\n"), "{}", said(&output.stderr));
}

/// What the library leaves of a process's own habits and limits.
#[test]
fn a_guest_in_another_process() {
    network();
    try_run("ip netns add other");
    let guest = |what: &str| {
        let _ = std::fs::remove_dir_all("/run/lvs-guest");
        let output = try_run(&format!("{} {what}", program("guest")));
        assert!(output.status.success() && output.stderr.is_empty(), "{what}: {output:?}");
        said(&output.stdout)
    };
    // The rule for the node's own requests.
    let own_requests = || {
        let shown = try_run("iptables-legacy-save -t mangle").stdout;
        said(&shown).lines().filter(|line| line.contains("-A OUTPUT") || line.contains("lvs-dr")).count()
    };

    assert_eq!(guest("signals"), "handled 1, elsewhere 0\n");
    assert_ne!(own_requests(), 0);
    run("iptables-legacy -t mangle -F");
    assert_eq!(guest("children"), "");
    assert_ne!(own_requests(), 0, "a status that another has taken counts as a failure");
    // EPERM, of the thread that cannot be started.
    assert_eq!(guest("no-clone"), "errno 1\n");
    guest("few-descriptors");
    guest("no-proc");
    // What it tries in another namespace is tried by a process, not by a thread.
    let trace = format!("/tmp/lvs-dr-clones-{}", std::process::id());
    let output = try_run(&format!("strace -f -o {trace} -e trace=clone,clone3,unshare {} audit", program("guest")));
    let refused = said(&output.stdout);
    assert!(output.status.success() && refused.lines().count() == 1 && refused.contains("no-such-one"), "{output:?}");
    let trace = std::fs::read_to_string(trace).unwrap();
    assert!(trace.contains("CLONE_NEWNET") && !trace.contains("CLONE_THREAD"), "{trace}");
    // No thread, whose stack and arena would be locked too.
    let text = guest("locked-memory");
    println!("{text}");
    let locked: i64 = text.split(' ').nth(1).unwrap().parse().unwrap();
    assert!(locked < 1000, "{text}");
    let _ = try_run("ip netns del other");
}
