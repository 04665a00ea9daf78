//! keepalived built on the library (examples/keepalived), judged beside the stock program that is
//! built from the same source: `tests/keepalived/run` builds both and runs these.

use super::*;

/// The program that was made below the target directory, in the guest's own memory.
fn built(name: &str, program: &str) -> PathBuf {
    let copy = PathBuf::from(format!("/run/{program}-{name}"));
    if !copy.exists() {
        let this = std::env::current_exe().unwrap();
        let made = this.ancestors().map(|dir| dir.join("keepalived").join(name).join("bin").join(program));
        let made = made.into_iter().find(|path| path.exists()).expect("run tests/keepalived/run");
        fs::copy(made, &copy).unwrap();
    }
    copy
}

/// Its processes: the first one, and its children by their pid files.
struct Running {
    process: Process,
    dir: PathBuf,
}

impl Running {
    /// In the calling thread's namespace, with `keepalived.conf` of this directory.
    fn start(name: &str, options: &str, dir: &Path) -> Self {
        let log = fs::File::options().create(true).append(true).open(dir.join("log")).unwrap();
        let mut command = Command::new(built(name, "keepalived"));
        command.args(options.split_whitespace()).args(["--dont-fork", "--log-console", "--log-detail"]);
        for (option, file) in [
            ("use-file", "keepalived.conf"),
            ("pid", "pid"),
            ("vrrp_pid", "vrrp.pid"),
            ("checkers_pid", "checkers.pid"),
        ] {
            command.arg(format!("--{option}={}", dir.join(file).display()));
        }
        let child = command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap();
        Running { process: Process(child), dir: dir.to_owned() }
    }

    fn pid(&self, file: &str) -> Pid {
        let start = Instant::now();
        loop {
            let text = fs::read_to_string(self.dir.join(file)).unwrap_or_default();
            if let Some(pid) = text.trim().parse().ok().and_then(Pid::from_raw) {
                return pid;
            }
            assert!(start.elapsed() < Duration::from_secs(10), "no {file}: {}", self.log());
            thread::sleep(Duration::from_millis(10));
        }
    }

    fn log(&self) -> String {
        fs::read_to_string(self.dir.join("log")).unwrap_or_default()
    }

    fn reload(&self, text: &str) {
        fs::write(self.dir.join("keepalived.conf"), text).unwrap();
        self.process.signal(Signal::HUP);
    }

    fn stop(self) {
        self.process.signal(Signal::TERM);
        self.process.ends();
    }

    /// Kilobytes, of this line of /proc/PID/status.
    fn memory(&self, file: &str, line: &str) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid(file).as_raw_nonzero())).unwrap();
        let found = status.lines().find_map(|found| found.strip_prefix(line)?.strip_prefix(':')).unwrap();
        found.trim().trim_end_matches(" kB").parse().unwrap()
    }
}

fn head() -> String {
    "global_defs {
    script_user root
    vrrp_version 3
    vrrp_garp_master_delay 0
"
    .to_owned()
}

/// The servers, each on an address of each family: nothing is said.
fn serve_checked(netns: &Netns) -> [Stoppable; 3] {
    [21, 22, 23].map(|number| {
        let addresses = [format!("192.0.2.{number}:80"), format!("[2001:db8::{number}]:80")];
        Stoppable::start(netns, &addresses.map(|address| address.parse().unwrap()), drop)
    })
}

/// One of two namespaces that differ in the program only.
struct Twin {
    netns: Netns,
    peer: Netns,
    servers: [Stoppable; 3],
    dir: PathBuf,
    running: Option<Running>,
    name: &'static str,
}

impl Twin {
    fn new(name: &'static str) -> Self {
        let (netns, peer) = (new_netns(), new_netns());
        keep(&netns);
        let network = || {
            cable("bond0", "02:00:00:00:00:11", &peer, "peer0");
            ip("address add 192.0.2.11/24 dev bond0");
            ip("address add 2001:db8::11/64 dev bond0 nodad");
            for n in 21..=23 {
                ip(&format!("address add 192.0.2.{n}/32 dev lo"));
                ip(&format!("address add 2001:db8::{n}/128 dev lo nodad"));
            }
        };
        netns.run(network).unwrap();
        peer.run(|| ip("address add 192.0.2.12/24 dev peer0")).unwrap();
        let dir = new_path();
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join("load"), "0\n").unwrap();
        Twin { servers: serve_checked(&netns), netns, peer, dir, running: None, name }
    }

    fn configuration(&self, checked: &str) -> String {
        let daemon = "    lvs_sync_daemon bond0 inst web id 5 maxlen 1000 port 8850 ttl 2 group 224.0.0.90\n    \
                      lvs_timeouts tcp 100 tcpfin 20 udp 30\n}\n";
        let load = format!("track_file load {{\n    file {}/load\n}}\n", self.dir.display());
        format!("{}{daemon}{load}{}{checked}", head(), instance("web", 254, 100, "bond0", ""))
    }

    fn start(&mut self, checked: &str) {
        fs::write(self.dir.join("keepalived.conf"), self.configuration(checked)).unwrap();
        self.running = Some(self.netns.run(|| Running::start(self.name, "", &self.dir)).unwrap());
    }

    fn running(&self) -> &Running {
        self.running.as_ref().unwrap()
    }

    /// All of IPVS, as ipvsadm prints it. The kernel's order of services is another one in each
    /// namespace.
    fn table(&self) -> String {
        let shown =
            self.netns.run(|| ["-Sn", "-Ln --daemon", "-Ln --timeout", "-Ln --thresholds"].map(ipvsadm)).unwrap();
        let mut services: Vec<String> = shown[0].split("-A ").skip(1).map(|service| format!("-A {service}")).collect();
        services.sort();
        let sorted = |text: &str| {
            let mut lines: Vec<&str> = text.lines().map(str::trim_end).collect();
            lines.sort();
            lines.join("\n") + "\n"
        };
        services.concat() + &sorted(&shown[1]) + &shown[2] + &sorted(&shown[3])
    }
}

/// Waits until both tables are this, and the same.
fn same(twins: &[Twin; 2], what: &str, is: impl Fn(&str) -> bool) {
    let start = Instant::now();
    loop {
        let tables = [0, 1].map(|n| twins[n].table());
        if tables[0] == tables[1] && is(&tables[0]) {
            let (services, destinations) = (tables[0].matches("-A ").count(), tables[0].matches("-a ").count());
            println!("equal: {what} ({services} services, {destinations} destinations)");
            return;
        }
        assert!(
            start.elapsed() < Duration::from_secs(25),
            "{what}:\nstock:\n{}\nlvs-dr:\n{}\n{}\n---\n{}",
            tables[0],
            tables[1],
            twins[0].running.as_ref().map(Running::log).unwrap_or_default(),
            twins[1].running.as_ref().map(Running::log).unwrap_or_default()
        );
        thread::sleep(Duration::from_millis(50));
    }
}

fn virtual_server(id: &str, options: &str, servers: &[(&str, &str)]) -> String {
    let check = "TCP_CHECK {\n            connect_timeout 1\n            retry 0\n        }\n";
    let servers: String = servers
        .iter()
        .map(|(address, options)| {
            // No server answers on other ports.
            let check = if address.ends_with(" 80") { check } else { "" };
            format!("    real_server {address} {{\n        {options}\n        {check}    }}\n")
        })
        .collect();
    format!("virtual_server {id} {{\n    delay_loop 0.3\n    {options}\n{servers}}}\n")
}

/// Of all kinds.
fn checked(weight: u32, more: bool) -> String {
    let weight = format!("weight {weight}\n        uthreshold 100\n        lthreshold 50");
    let file = "weight 4\n        FILE_CHECK {\n            track_file load\n            weight 1\n        }";
    let mut text = virtual_server(
        "192.0.2.254 80",
        "lb_algo wrr\n    lb_kind DR\n    protocol TCP\n    persistence_timeout 50\n    \
         persistence_granularity 255.255.255.0\n    sorry_server 192.0.2.29 80",
        &[("192.0.2.21 80", &weight), ("192.0.2.22 80", "inhibit_on_failure"), ("192.0.2.23 80", file)],
    );
    text += &virtual_server(
        "2001:db8::fe 80",
        "lb_algo mh\n    mh-port\n    mh-fallback\n    lb_kind NAT\n    protocol TCP\n    persistence_timeout 360\n    \
         persistence_granularity 64\n    sorry_server 2001:db8::29 8080",
        &[("2001:db8::21 80", "weight 2"), ("2001:db8::22 80", "weight 1"), ("2001:db8::23 80", "weight 1")],
    );
    text += &virtual_server(
        "fwmark 7",
        "lb_algo wlc\n    lb_kind TUN\n    protocol TCP",
        &[
            ("192.0.2.21 80", "lvs_method TUN type gue port 6080 csum"),
            ("192.0.2.22 80", "lvs_method TUN type gre csum"),
            ("192.0.2.23 80", "lvs_method TUN type gue port 6081 remcsum"),
        ],
    );
    text += &virtual_server(
        "fwmark 8",
        "ip_family inet6\n    lb_algo sh\n    sh-port\n    lb_kind DR\n    protocol TCP",
        &[("2001:db8::21 80", "weight 1"), ("2001:db8::22 80", "weight 5")],
    );
    text += &virtual_server(
        "192.0.2.254 53",
        "lb_algo rr\n    ops\n    lb_kind NAT\n    protocol UDP",
        &[("192.0.2.21 5353", "weight 1"), ("192.0.2.22 5353", "weight 0")],
    );
    text += "virtual_server_group many {\n    192.0.2.240-242 80\n    2001:db8::f0 80\n    fwmark 9\n}\n";
    text += &virtual_server(
        "group many",
        "lb_algo lc\n    lb_kind TUN\n    protocol TCP",
        &[("192.0.2.21 80", "weight 1"), ("192.0.2.22 80", "weight 1")],
    )
    .replace("2001:db8::f0 80\n", "");
    if more {
        text += &virtual_server(
            "192.0.2.254 5060",
            "lb_algo rr\n    lb_kind DR\n    protocol UDP\n    persistence_timeout 30\n    persistence_engine sip",
            &[("192.0.2.21 5060", "weight 1")],
        );
        text += &virtual_server(
            "192.0.2.254 9",
            "lb_algo nq\n    lb_kind DR\n    protocol SCTP",
            &[("192.0.2.21 9", "weight 1")],
        );
    }
    text.replace("    2001:db8::f0 80\n", "")
}

#[test]
#[ignore = "tests/keepalived/run builds what it needs"]
fn the_table_is_the_stock_programs_at_each_step() {
    load_ipv6();
    enter_new_netns();
    let mut twins = ["stock", "lvs-dr"].map(Twin::new);
    let master = |table: &str| table.contains("master sync daemon (mcast=bond0, syncid=5, maxlen=1000");
    let has = |server: &'static str| move |table: &str| table.contains(server);
    for twin in &mut twins {
        twin.start(&checked(3, false));
    }
    same(&twins, "start: master, all servers", |table| {
        master(table) && table.matches("-A ").count() == 9 && table.contains("-r 192.0.2.23:80 -g -w 4\n")
    });
    let set = |server: usize, up| twins.iter().for_each(|twin| twin.servers[server].set(up));
    set(0, false);
    same(&twins, "a server is dead: removed", |table| {
        !table.contains("-r 192.0.2.21:80") && !table.contains("db8::21]:80")
    });
    set(1, false);
    same(&twins, "another one is dead: weight 0 where it is inhibited", |table| {
        table.contains("-r 192.0.2.22:80 -g -w 0\n") && !table.contains("-r [2001:db8::22]:80")
    });
    set(2, false);
    same(&twins, "all are dead: the sorry servers", |table| {
        table.contains("-r 192.0.2.29:80") && table.contains("-r [2001:db8::29]:8080")
    });
    (0..3).for_each(|server| set(server, true));
    same(&twins, "all are back", |table| {
        !table.contains("2.29:") && !table.contains("::29]") && table.contains("-r 192.0.2.21:80 -g -w 3\n")
    });
    for twin in &twins {
        fs::write(twin.dir.join("load"), "12\n").unwrap();
    }
    same(&twins, "a weight changes while it runs", has("-r 192.0.2.23:80 -g -w 16\n"));
    for twin in &twins {
        twin.running().reload(&twin.configuration(&checked(7, true)));
    }
    same(&twins, "reload: a weight, services of UDP with sip and of SCTP", |table| {
        table.contains("-r 192.0.2.21:80 -g -w 7\n")
            && table.contains("192.0.2.254:5060")
            && table.contains("192.0.2.254:9 ")
    });
    set(0, false);
    same(&twins, "a server is dead again", |table| !table.contains("-r 192.0.2.21:80 -g -w 7"));
    let killed = |file: &str| {
        for twin in &twins {
            let pid = twin.running().pid(file);
            fs::remove_file(twin.dir.join(file)).unwrap();
            kill_process(pid, Signal::KILL).unwrap();
        }
        twins.iter().for_each(|twin| assert!(twin.running().pid(file).as_raw_nonzero().get() > 1));
    };
    killed("checkers.pid");
    thread::sleep(Duration::from_secs(2));
    same(&twins, "the checker is killed and started anew", |table| !table.contains("-r 192.0.2.21:80 -g -w 7"));
    set(0, true);
    same(&twins, "the server is back", has("-r 192.0.2.21:80 -g -w 7\n"));
    killed("vrrp.pid");
    same(&twins, "the VRRP process is killed and started anew", master);
    let others: Vec<Running> = twins
        .iter()
        .map(|twin| {
            let dir = twin.dir.join("peer");
            fs::create_dir_all(&dir).unwrap();
            let better = format!("{}}}\n{}", head(), instance("web", 254, 200, "peer0", ""));
            fs::write(dir.join("keepalived.conf"), better).unwrap();
            twin.peer.run(|| Running::start("stock", "--vrrp", &dir)).unwrap()
        })
        .collect();
    same(&twins, "another node is elected: a backup's sync daemon", |table| {
        table.contains("backup sync daemon") && !table.contains("master sync daemon")
    });
    others.into_iter().for_each(Running::stop);
    same(&twins, "elected again", master);
    let kinds = [("pid", "first"), ("vrrp.pid", "VRRP"), ("checkers.pid", "checkers")];
    for (file, what) in kinds {
        for line in ["VmRSS", "VmHWM", "RssAnon"] {
            let [stock, ours] = [0, 1].map(|n| twins[n].running().memory(file, line));
            println!(
                "memory, {what} process, {line}: stock {stock} kB, lvs-dr {ours} kB, {:+} kB",
                ours as i64 - stock as i64
            );
        }
    }
    for twin in &mut twins {
        twin.running.take().unwrap().stop();
    }
    same(&twins, "stopped", |table| !table.contains("-A ") && !table.contains("daemon"));
}

/// Of services with traffic, by what keepalived's SNMP agent calls.
#[test]
#[ignore = "tests/keepalived/run builds what it needs"]
fn counters_are_those_of_the_stock_program() {
    enter_switch();
    let (client, node) = (host(1), host(11));
    serve(&node, 11);
    crate::lan::add_vips(&node, INTERFACE);
    let table = "-A -t 192.0.2.254:80 -s wrr -p 100\n-a -t 192.0.2.254:80 -r 192.0.2.11:80 -g -w 1\n\
                 -a -t 192.0.2.254:80 -r 192.0.2.12:80 -g -w 0\n-A -t [2001:db8::fe]:80 -s rr\n\
                 -a -t [2001:db8::fe]:80 -r [2001:db8::11]:80 -g -w 1\n-A -f 7 -s rr\n-a -f 7 -r 192.0.2.12:0 -g\n\
                 -A -f 7 -6 -s rr\n-a -f 7 -6 -r [2001:db8::12]:0 -g\n";
    node.run(|| lab::feed("ipvsadm -R", table)).unwrap();
    let _sessions: Vec<(Session, u8)> = (0..10).map(|n| session(&client, BOTH[n % 2])).collect();
    for (service, found) in [
        ("0 2 6 192.0.2.254 80", "service: 5 connections"),
        ("0 10 6 2001:db8::fe 80", "service: 5 connections"),
        ("7 2 0 0.0.0.0 0", "192.0.2.12, port 0: 0 active"),
        ("7 10 0 :: 0", "2001:db8::12, port 0: 0 active"),
        ("8 2 0 0.0.0.0 0", "no service"),
    ] {
        let ask = |name| {
            let command = format!("{} {service}", built(name, "counters").display());
            let shown = String::from_utf8(node.run(|| lab::try_run(&command)).unwrap().stdout).unwrap();
            // The library lists destinations by address. keepalived looks each one up.
            let mut lines: Vec<&str> = shown.lines().collect();
            lines.sort();
            lines.join("\n")
        };
        // The kernel counts anew every two seconds.
        let start = Instant::now();
        loop {
            let [stock, ours] = ["stock", "lvs-dr"].map(ask);
            if stock == ours && stock.contains(found) {
                println!("equal: counters of {service}:\n{stock}");
                break;
            }
            assert!(start.elapsed() < Duration::from_secs(10), "{service}\n{stock}\n{ours}");
            thread::sleep(Duration::from_millis(300));
        }
    }
}

/// A node with `lvs_dr` in its vrrp_instance.
struct Director {
    number: u8,
    netns: Netns,
    dir: PathBuf,
    running: Option<Running>,
}

const PRIORITIES: [u8; 3] = [200, 150, 100];

impl Director {
    fn new(number: u8) -> Self {
        let netns = host(number);
        let dir = new_path();
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join("services"), services(1)).unwrap();
        serve(&netns, number);
        Director { number, netns, dir, running: None }
    }

    fn configuration(&self, priority: u8, block: &str) -> String {
        let dir = self.dir.display();
        let excluded = format!("    virtual_ipaddress_excluded {{\n        {VIP6}/128 dev {INTERFACE}\n    }}\n");
        let block = block.replace("DIR", &dir.to_string());
        format!("{}}}\n{}", head(), instance("web", 254, priority, INTERFACE, &(excluded + &block)))
    }

    fn start(&mut self, name: &str, priority: u8, block: &str) {
        fs::write(self.dir.join("keepalived.conf"), self.configuration(priority, block)).unwrap();
        self.running = Some(self.netns.run(|| Running::start(name, "--vrrp", &self.dir)).unwrap());
    }

    fn running(&self) -> &Running {
        self.running.as_ref().unwrap()
    }

    fn log(&self) -> String {
        fs::read_to_string(self.dir.join("log")).unwrap_or_default()
    }

    fn role(&self) -> Option<String> {
        let state = fs::read_to_string(self.dir.join("state/state")).ok()?;
        let line = state.lines().find_map(|line| line.strip_prefix("role "))?;
        line.strip_suffix(" reached").map(str::to_owned)
    }

    /// What is not as this role wants it.
    fn wrong(&self, role: &str) -> Option<String> {
        if self.role().as_deref() != Some(role) {
            return Some(format!("role {:?}, not {role}", self.role()));
        }
        let directs = role == "master";
        self.netns
            .run(|| {
                let addresses = ip("-o address show");
                for vip in BOTH {
                    let there = |interface: &str| {
                        addresses.lines().any(|line| line.contains(&format!(" {vip}/")) && line.contains(interface))
                    };
                    if !there(": lo ") || there(&format!(": {INTERFACE} ")) != directs {
                        return Some(format!("VIP {vip}:\n{addresses}"));
                    }
                }
                let setting = |name| {
                    fs::read_to_string(format!("/proc/sys/net/ipv4/conf/{INTERFACE}/{name}")).unwrap().trim().to_owned()
                };
                if [setting("arp_ignore"), setting("arp_announce")] != ["1", "2"] {
                    return Some("ARP settings".to_owned());
                }
                let running = daemons();
                if running != if directs { &["master", "backup"][..] } else { &["backup"] } {
                    return Some(format!("sync daemons {running:?}"));
                }
                let rules = rules(INTERFACE);
                (rules.contains(OPENING) == directs || !rules.contains("all from")).then_some(rules)
            })
            .unwrap()
    }

    fn elected(&self) -> usize {
        self.log().matches("(web) Entering MASTER STATE").count()
    }
}

fn services(weight: u32) -> String {
    let destinations = |vip: &str, server: &dyn Fn(u8) -> String| {
        let servers: String =
            NUMBERS.iter().map(|n| format!("-a -t {vip} -r {} -g -w {weight}\n", server(*n))).collect();
        format!("-A -t {vip} -s wrr\n{servers}")
    };
    destinations(&format!("{VIP}:80"), &|n| format!("192.0.2.{n}:80"))
        + &destinations(&format!("[{VIP6}]:80"), &|n| format!("[2001:db8::{n}]:80"))
}

const BLOCK: &str =
    "    lvs_dr {\n        services DIR/services\n        state_dir DIR/state\n        repair_interval 2\n    }\n";

/// Waits until each node has its role, and all that belongs to it.
fn have(directors: &[Director], what: &str, roles: [&str; 3]) -> Duration {
    let start = Instant::now();
    loop {
        let wrong: Vec<String> = directors
            .iter()
            .zip(roles)
            .filter_map(|(director, role)| Some(format!("{}: {}", director.number, director.wrong(role)?)))
            .collect();
        if wrong.is_empty() {
            let taken = start.elapsed();
            println!("{what}: {} after {} ms", roles.join(", "), taken.as_millis());
            return taken;
        }
        let logs = || directors.iter().map(Director::log).collect::<Vec<_>>().join("\n---\n");
        assert!(start.elapsed() < Duration::from_secs(25), "{what}: {}\n{}", wrong.join("\n"), logs());
        thread::sleep(Duration::from_millis(20));
    }
}

#[test]
#[ignore = "tests/keepalived/run builds what it needs"]
fn states_of_an_instance_are_roles() {
    enter_switch();
    let client = host(1);
    let mut directors = NUMBERS.map(Director::new);
    for (director, priority) in directors.iter_mut().zip(PRIORITIES) {
        director.start("lvs-dr", priority, BLOCK);
    }
    have(&directors, "start", ["master", "backup", "backup"]);
    let mut sessions: Vec<(Session, u8)> = (0..12).map(|n| session(&client, BOTH[n % 2])).collect();
    let spread =
        |sessions: &[(Session, u8)]| NUMBERS.map(|n| sessions.iter().filter(|(_, server)| *server == n).count());
    assert_eq!(spread(&sessions), [4, 4, 4]);
    let failing = |change: &mut dyn FnMut()| failing_during(&client, &BOTH, change);

    let counted = failing(&mut || {
        directors[0].running().reload(&directors[0].configuration(50, BLOCK));
        have(&directors, "reload with less priority", ["backup", "master", "backup"]);
    });
    println!(
        "  {} of {} new connections failed, {} of {} sessions kept",
        counted.0,
        counted.1,
        kept(&mut sessions),
        sessions.len()
    );
    assert_eq!((counted.0, kept(&mut sessions)), (0, sessions.len()));

    let counted = failing(&mut || {
        directors[1].running.take().unwrap().stop();
        have(&directors, "stop", ["backup", "stop", "master"]);
    });
    println!(
        "  {} of {} new connections failed, {} of {} sessions kept",
        counted.0,
        counted.1,
        kept(&mut sessions),
        sessions.len()
    );
    assert_eq!((counted.0, kept(&mut sessions)), (0, sessions.len()));
    assert!(directors[1].log().contains("(web) lvs_dr: stop: done"), "{}", directors[1].log());

    directors[1].start("lvs-dr", 150, BLOCK);
    have(&directors, "start again", ["backup", "master", "backup"]);
    // The same with a handover: all connections are sent before the VIP leaves.
    let handover = BLOCK.replace("repair_interval 2\n", "repair_interval 2\n        handover 2\n");
    directors[1].running().reload(&directors[1].configuration(150, &handover));
    sessions.extend((0..6).map(|n| session(&client, BOTH[n % 2])));
    let counted = failing(&mut || {
        sessions.extend((0..6).map(|n| session(&client, BOTH[n % 2])));
        directors[1].running.take().unwrap().stop();
        have(&directors, "stop with a handover", ["backup", "stop", "master"]);
    });
    println!(
        "  {} of {} new connections failed, {} of {} sessions kept",
        counted.0,
        counted.1,
        kept(&mut sessions),
        sessions.len()
    );
    assert_eq!((counted.0, kept(&mut sessions)), (0, sessions.len()));
    let log = directors[1].log();
    let order =
        ["(web) lvs_dr: hands over", "sync: send all connections", "lvs_dr: stop: done", "(web) sent 0 priority"];
    let after = &log[log.rfind(order[0]).unwrap_or_default()..];
    let found = order.map(|line| after.find(line));
    assert!(found.is_sorted() && found[0] == Some(0), "{found:?}\n{log}");
    directors[1].start("lvs-dr", 150, BLOCK);
    have(&directors, "start again", ["backup", "master", "backup"]);

    directors[0].running().reload(&directors[0].configuration(200, BLOCK));
    have(&directors, "reload with more priority", ["master", "backup", "backup"]);
    assert_eq!(kept(&mut sessions), sessions.len());

    // Changed services reach every node; the weights are the new ones.
    for (director, priority) in directors.iter().zip(PRIORITIES) {
        fs::write(director.dir.join("services"), services(5)).unwrap();
        director.running().reload(&director.configuration(priority, BLOCK));
    }
    let start = Instant::now();
    while !directors.iter().all(|director| director.netns.run(saved).unwrap().matches("-w 5\n").count() == 6) {
        let all: Vec<String> = directors.iter().map(|director| director.netns.run(saved).unwrap()).collect();
        assert!(start.elapsed() < Duration::from_secs(15), "{}\n{}", all.join("\n"), directors[0].log());
        thread::sleep(Duration::from_millis(30));
    }
    have(&directors, "reload with other services", ["master", "backup", "backup"]);

    // Services that cannot be used change nothing, nor does a file that is missing.
    let file = directors[2].dir.join("services");
    for broken in [Some("-A -t nonsense\n"), None] {
        broken.map_or_else(|| fs::remove_file(&file), |text| fs::write(&file, text)).unwrap();
        directors[2].running().reload(&directors[2].configuration(100, BLOCK));
        let said = if broken.is_some() { "lvs_dr: open the node: " } else { "lvs_dr: cannot read the services of " };
        crate::lan::until(said, || directors[2].log().contains(said));
    }
    fs::write(&file, services(5)).unwrap();
    // A fault that the reload brings.
    directors[2].netns.run(|| ip("link add dummy9 type dummy")).unwrap();
    let fault = format!("    track_interface {{\n        dummy9\n    }}\n{BLOCK}");
    directors[2].running().reload(&directors[2].configuration(100, &fault));
    have(&directors, "reload with a fault", ["master", "backup", "fault"]);
    directors[2].running().reload(&directors[2].configuration(100, BLOCK));
    have(&directors, "reload without it", ["master", "backup", "backup"]);
    assert_eq!(directors[2].netns.run(saved).unwrap().matches("-w 5\n").count(), 6);

    // What other programs remove comes back.
    directors[1].netns.run(|| ip(&format!("address del {VIP}/32 dev lo"))).unwrap();
    have(&directors, "a VIP is removed from lo: repaired", ["master", "backup", "backup"]);

    ip("link set port11 down");
    let start = Instant::now();
    while directors[1].wrong("master").is_some() {
        assert!(
            start.elapsed() < Duration::from_secs(15),
            "{:?}\n{}",
            directors[1].wrong("master"),
            directors[1].log()
        );
        thread::sleep(Duration::from_millis(10));
    }
    println!("link down: the next director is complete after {} ms", start.elapsed().as_millis());
    have(&directors, "link down", ["fault", "master", "backup"]);
    ip("link set port11 up");
    have(&directors, "link up", ["master", "backup", "backup"]);

    let kill = |director: &Director, file: &str| {
        let pid = director.running().pid(file);
        fs::remove_file(director.dir.join(file)).unwrap();
        kill_process(pid, Signal::KILL).unwrap();
    };
    kill(&directors[0], "vrrp.pid");
    have(&directors, "kill -9 of the VRRP process", ["master", "backup", "backup"]);
    let orphan = directors[0].running().pid("vrrp.pid").as_raw_nonzero();
    kill(&directors[0], "pid");
    have(&directors, "kill -9 of the first process", ["stop", "master", "backup"]);
    drop(directors[0].running.take());
    // It waits for what the last adverts may still need.
    crate::lan::until("it ends", || !Path::new(&format!("/proc/{orphan}/stat")).exists());
    directors[0].start("lvs-dr", 200, BLOCK);
    have(&directors, "start after that", ["master", "backup", "backup"]);

    // Without the block the node stops, and serves on.
    let plain = directors[2].configuration(100, "");
    directors[2].running().reload(&plain);
    have(&directors, "the block is removed", ["master", "backup", "stop"]);
    directors[2].running().reload(&directors[2].configuration(100, BLOCK));
    soon_role(&directors[2], "backup");
    let before: Vec<(Session, u8)> = (0..6).map(|n| session(&client, BOTH[n % 2])).collect();
    assert_eq!(spread(&before), [2, 2, 2]);
    directors.iter_mut().for_each(|director| director.running.take().unwrap().stop());
    have(&directors, "stop of all", ["stop", "stop", "stop"]);
}

fn soon_role(director: &Director, role: &str) {
    let start = Instant::now();
    while director.wrong(role).is_some() {
        assert!(start.elapsed() < Duration::from_secs(15), "{:?}\n{}", director.wrong(role), director.log());
        thread::sleep(Duration::from_millis(30));
    }
}

/// How often the third node is elected as well when the director goes silent; and the memory of
/// the VRRP process.
#[test]
#[ignore = "tests/keepalived/run builds what it needs"]
fn a_silent_director_has_one_successor() {
    for (name, block, rounds) in [("stock", "", 5), ("lvs-dr", BLOCK, 20)] {
        enter_switch();
        let mut directors = NUMBERS.map(Director::new);
        for (director, priority) in directors.iter_mut().zip(PRIORITIES) {
            director.start(name, priority, block);
        }
        let address = |director: &Director| {
            director
                .netns
                .run(|| ip(&format!("-o address show dev {INTERFACE}")))
                .unwrap()
                .contains(&format!(" {VIP}/"))
        };
        let settled = || {
            let start = Instant::now();
            while block.is_empty() && (!address(&directors[0]) || address(&directors[1]) || address(&directors[2])) {
                assert!(start.elapsed() < Duration::from_secs(20), "{}", directors[0].log());
                thread::sleep(Duration::from_millis(20));
            }
            if !block.is_empty() {
                for (director, role) in directors.iter().zip(["master", "backup", "backup"]) {
                    soon_role(director, role);
                }
            }
            thread::sleep(Duration::from_millis(700));
        };
        let mut also = 0;
        for _ in 0..rounds {
            settled();
            let before = [1, 2].map(|n| directors[n].elected());
            let pid = directors[0].running().pid("vrrp.pid");
            kill_process(pid, Signal::STOP).unwrap();
            thread::sleep(Duration::from_millis(1500));
            let after = [1, 2].map(|n| directors[n].elected());
            kill_process(pid, Signal::CONT).unwrap();
            assert!(after != before, "nobody was elected: {}", directors[1].log());
            also += usize::from(after[1] != before[1]);
        }
        println!("{name}: the third node was elected as well in {also} of {rounds}");
        assert_eq!(also, 0, "{name}");
        settled();
        for line in ["VmRSS", "VmHWM", "RssAnon", "VmSize"] {
            println!("{name}: VRRP process, {line} {} kB", directors[0].running().memory("vrrp.pid", line));
        }
    }
}

#[test]
#[ignore = "tests/keepalived/run builds what it needs"]
fn instances_with_one_state_directory_are_groups_of_a_node() {
    enter_switch();
    let mut director = Director::new(11);
    let block = "    lvs_dr {\n        state_dir DIR/state\n        own_requests left_alone\n        arp all\n        \
                 arp_ignore 1\n        arp_announce 2\n    }\n"
        .replace("DIR", &director.dir.display().to_string());
    let web = format!("{}}}\n{}", head(), instance("web", 254, 100, INTERFACE, &block));
    let both = web.clone() + &instance("mail", 253, 100, INTERFACE, &block.replace("lvs_dr {", "lvs_dr letters {"));
    fs::write(director.dir.join("keepalived.conf"), &both).unwrap();
    director.running = Some(director.netns.run(|| Running::start("lvs-dr", "--vrrp", &director.dir)).unwrap());
    let roles = || -> Vec<String> {
        let state = fs::read_to_string(director.dir.join("state/state")).unwrap_or_default();
        let mut groups: Vec<String> = state
            .split("group ")
            .skip(1)
            .filter_map(|part| {
                let role = part.lines().find_map(|line| line.strip_prefix("role "))?;
                Some(format!("{}: {role}", part.lines().next()?))
            })
            .collect();
        groups.sort();
        groups
    };
    let on_lo = || director.netns.run(|| ip("-o address show dev lo")).unwrap();
    let becomes = |what: &str, wanted: &[&str], vips: &dyn Fn(&str) -> bool| {
        let start = Instant::now();
        while roles() != wanted || !vips(&on_lo()) {
            let elapsed = start.elapsed();
            assert!(elapsed < Duration::from_secs(15), "{what}: {:?}\n{}\n{}", roles(), on_lo(), director.log());
            thread::sleep(Duration::from_millis(30));
        }
        println!("{what}: {}", wanted.join(", "));
    };
    becomes("two instances", &["letters: master reached", "web: master reached"], &|lo| {
        lo.contains(VIP) && lo.contains(MAIL)
    });
    director.running().reload(&web);
    becomes("one of them is deleted", &["web: master reached"], &|lo| lo.contains(VIP) && !lo.contains(MAIL));
    director.running().reload(&both);
    becomes("and back", &["letters: master reached", "web: master reached"], &|lo| {
        lo.contains(VIP) && lo.contains(MAIL)
    });
    director.running.take().unwrap().stop();
}
