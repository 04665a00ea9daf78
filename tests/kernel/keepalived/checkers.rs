//! Health checks of other programs decide about servers, on every node and in every role: the
//! recipes of docs/health-checks.md as they ship, and other settings of keepalived and ldirectord.

use std::fs;
use std::io::{self, Read, Write};
use std::net::{Ipv6Addr, SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use lvs_dr::Netns;
use lvs_dr::node::audit::Severity;
use lvs_dr::node::{Config, Fence, Node, OwnRequests, Role, VipOwner};
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, connect, socket_with};
use rustix::process::Signal;

use super::{NUMBERS, Process, daemons};
use crate::cli::lvs_node;
use crate::lab::{ip, ipvsadm, run, try_run};
use crate::lan::{INTERFACE, Stoppable, VIP, enter_switch, host, until};
use crate::node::new_path;

const KEEPALIVED: &str = include_str!("../../../examples/keepalived/keepalived.conf");
const LDIRECTORD: &str = include_str!("../../../examples/ldirectord/ldirectord.cf");
const NODE: &str = include_str!("../../../examples/keepalived/node.toml");

/// A file as it ships, for the addresses and the interface of this link.
fn here(text: &str) -> String {
    text.replace("192.168.0.", "192.0.2.").replace("eth0", INTERFACE)
}

/// The services of a site: that of the recipe; a persistent one; and a persistent one whose servers
/// are removed when they are down, where the others' get weight 0.
const PORTS: [u16; 3] = [80, 81, 82];

/// What becomes of a server of each service when it is down.
const DOWN: [Option<u32>; 3] = [QUIET, QUIET, None];

const UP: Option<u32> = Some(1);
const QUIET: Option<u32> = Some(0);

/// A web server on all ports.
fn serve_web(netns: &Netns, number: u8) -> Stoppable {
    let addresses = PORTS.map(|port| (Ipv6Addr::UNSPECIFIED, port).into());
    Stoppable::start(netns, &addresses, move |stream| drop(answer(stream, number)))
}

/// One request, answered by the server's number.
fn answer(mut stream: TcpStream, number: u8) -> io::Result<()> {
    let (mut request, mut buffer) = (Vec::new(), [0; 512]);
    while !request.ends_with(b"\r\n\r\n") {
        match stream.read(&mut buffer)? {
            0 => return Ok(()),
            count => request.extend_from_slice(&buffer[..count]),
        }
    }
    write!(stream, "HTTP/1.0 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 2\r\n\r\n{number}")
}

/// The number of the server that answers a request of a client, if one does.
fn get(client: &Netns, port: u16) -> Option<u8> {
    get_from(client, 0, port)
}

/// The same from a port of the client; 0: from any.
fn get_from(client: &Netns, from: u16, port: u16) -> Option<u8> {
    let ask = || -> io::Result<String> {
        let socket = socket_with(AddressFamily::INET, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
        for timeout in [Timeout::Send, Timeout::Recv] {
            set_socket_timeout(&socket, timeout, Some(Duration::from_secs(2)))?;
        }
        bind(&socket, &SocketAddr::from(([0, 0, 0, 0], from)))?;
        connect(&socket, &SocketAddr::new(VIP.parse().unwrap(), port))?;
        let mut stream = TcpStream::from(socket);
        stream.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    };
    client.run(ask).unwrap().ok()?.rsplit('\n').next()?.parse().ok()
}

/// A server of the site, with an /etc and a /run of its own.
struct Member {
    netns: Netns,
    dir: PathBuf,
    web: Stoppable,
    running: Vec<(&'static str, Process)>,
}

impl Member {
    fn new(number: u8) -> Self {
        let netns = host(number);
        let dir = new_path();
        for part in ["run", "etc/keepalived", "etc/lvs-dr", "etc/ha.d"] {
            fs::create_dir_all(dir.join(part)).unwrap();
        }
        fs::write(dir.join("etc/lvs-dr/node.toml"), here(NODE)).unwrap();
        Member { web: serve_web(&netns, number), netns, dir, running: Vec::new() }
    }

    /// Runs a program where the files of this server are at their usual places.
    fn command(&self, line: &str) -> Command {
        let script = "for each in keepalived lvs-dr ha.d; do
                mkdir -p /etc/$each && mount --bind $0/etc/$each /etc/$each || exit
            done
            mount --bind $0/run /run && exec \"$@\"";
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-c", script]).arg(&self.dir).args(line.split_whitespace());
        command.stdin(Stdio::null());
        command
    }

    fn start(&mut self, name: &'static str, line: &str) {
        let log = fs::File::options().create(true).append(true).open(self.dir.join("log")).unwrap();
        let mut command = self.command(line);
        command.stdout(log.try_clone().unwrap()).stderr(log);
        let child = self.netns.run(|| command.spawn().unwrap()).unwrap();
        self.running.push((name, Process(child)));
    }

    fn start_keepalived(&mut self, text: &str) {
        fs::write(self.dir.join("etc/keepalived/keepalived.conf"), text).unwrap();
        self.start("keepalived", "keepalived --dont-fork --log-console --log-detail");
    }

    fn start_ldirectord(&mut self, text: &str) {
        fs::write(self.dir.join("etc/ha.d/ldirectord.cf"), text).unwrap();
        self.start("ldirectord", "ldirectord -d /etc/ha.d/ldirectord.cf start");
    }

    fn watch(&mut self) {
        self.start("watch", &format!("{} watch", lvs_node().display()));
    }

    fn stop(&mut self, name: &str) {
        let place = self.running.iter().position(|(running, _)| *running == name).unwrap();
        let (_, process) = self.running.remove(place);
        process.signal(Signal::TERM);
        process.ends();
    }

    /// What `lvs-node` prints.
    fn run(&self, arguments: &str) -> String {
        let mut command = self.command(&format!("{} {arguments}", lvs_node().display()));
        let output = self.netns.run(|| command.output().unwrap()).unwrap();
        String::from_utf8(output.stdout).unwrap() + &String::from_utf8_lossy(&output.stderr)
    }

    fn log(&self) -> String {
        fs::read_to_string(self.dir.join("log")).unwrap_or_default()
    }

    fn role(&self) -> Option<String> {
        let state = fs::read_to_string(self.dir.join("run/lvs-dr/state")).ok()?;
        let line = state.lines().find_map(|line| line.strip_prefix("role "))?;
        line.strip_suffix(" reached").map(str::to_owned)
    }

    fn has_vip(&self) -> bool {
        self.netns.run(|| ip(&format!("-o address show dev {INTERFACE}"))).unwrap().contains(&format!(" {VIP}/"))
    }

    /// The weights of the servers 11, 12 and 13 of each service. `None`: not in the table.
    fn weights(&self) -> [[Option<u32>; 3]; 3] {
        let saved = self.netns.run(|| ipvsadm("-Sn")).unwrap();
        PORTS.map(|port| {
            NUMBERS.map(|number| {
                let start = format!("-a -t {VIP}:{port} -r 192.0.2.{number}:{port} -g -w ");
                saved.lines().find_map(|line| line.strip_prefix(&start)).map(|weight| weight.parse().unwrap())
            })
        })
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.running.clear();
        let _ = fs::remove_dir_all(&self.dir);
    }
}

/// Three servers on a link, and clients.
struct Site {
    members: [Member; 3],
    clients: Vec<Netns>,
}

impl Site {
    fn new(clients: u8) -> Self {
        enter_switch();
        let clients = (1..=clients).map(host).collect();
        Site { members: NUMBERS.map(Member::new), clients }
    }

    fn soon(&self, what: &str, mut is: impl FnMut(&[Member; 3]) -> bool) {
        let start = Instant::now();
        while !is(&self.members) {
            let seen: Vec<_> = self.members.iter().map(|m| (m.role(), m.has_vip(), m.weights())).collect();
            let logs = || self.members.iter().map(Member::log).collect::<Vec<_>>().join("\n---\n");
            assert!(start.elapsed() < Duration::from_secs(180), "not so: {what}; {seen:?}\n{}", logs());
            thread::sleep(Duration::from_millis(50));
        }
    }

    /// Waits until every node's table says of these servers that they are down, and of no other.
    fn all_know(&self, down: &[usize]) {
        let weights = DOWN.map(|gone| std::array::from_fn(|n| if down.contains(&n) { gone } else { UP }));
        self.soon(&format!("{down:?} are down"), |members| members.iter().all(|member| member.weights() == weights));
    }

    /// How often each server answers these clients, once for each service; no request fails.
    fn answered(&self, what: &str, clients: std::ops::Range<usize>) -> [usize; 3] {
        let answers: Vec<Option<u8>> =
            self.clients[clients].iter().flat_map(|client| PORTS.map(|port| get(client, port))).collect();
        assert!(!answers.contains(&None), "{what}: {answers:?}");
        NUMBERS.map(|number| answers.iter().filter(|answer| **answer == Some(number)).count())
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Checks {
    Keepalived,
    Ldirectord,
}

/// keepalived.conf as it ships, and the other two services behind its own.
fn keepalived(priority: u8) -> String {
    let text = here(KEEPALIVED).replace("priority 103", &format!("priority {priority}"));
    let service = &text[text.find("\nvirtual_server").unwrap()..];
    let persistent = |port: &str| {
        let other = service.replace(" 80 {", &format!(" {port} {{"));
        other.replace("protocol TCP", "protocol TCP\n    persistence_timeout 300")
    };
    format!("{text}{}{}", persistent("81"), persistent("82").replace("inhibit_on_failure", ""))
}

/// The same file without checks.
fn elections(priority: u8) -> String {
    keepalived(priority).split_once("\nvirtual_server").unwrap().0.to_owned()
}

/// ldirectord.cf as it ships, and the other two services behind its own.
fn ldirectord() -> String {
    // On a guest that is busy a check takes longer; a server that is stopped refuses at once.
    let text = here(LDIRECTORD).replace("checktimeout = 2", "checktimeout = 15");
    let service = &text[text.find("\nvirtual").unwrap()..];
    let persistent = |port| service.replace(":80", &format!(":{port}")) + "        persistent = 300\n";
    format!("{text}{}{}        quiescent = no\n", persistent(81), persistent(82))
}

/// A node that directs from the beginning says nothing of it.
fn takes_part(log: &str) -> bool {
    log.rfind("takes part in elections") >= log.rfind("takes no part in elections")
}

impl Site {
    /// keepalived elects on every node, and lvs-node watches: the recipes.
    fn start(&mut self, checks: Checks) {
        for (member, priority) in self.members.iter_mut().zip([103, 102, 101]) {
            match checks {
                Checks::Keepalived => member.start_keepalived(&keepalived(priority)),
                Checks::Ldirectord => {
                    member.start_keepalived(&elections(priority));
                    member.start_ldirectord(&ldirectord());
                }
            }
            member.watch();
        }
    }

    /// The index of the node that directs, once just one does and all know the connections that
    /// they need to take part.
    fn director(&self) -> usize {
        let masters = |members: &[Member; 3]| -> Vec<usize> {
            (0..3).filter(|index| members[*index].role().as_deref() == Some("master")).collect()
        };
        self.soon("one directs", |members| {
            masters(members).len() == 1
                && members.iter().all(|member| {
                    member.role().is_some()
                        && member.has_vip() == (member.role().as_deref() == Some("master"))
                        && takes_part(&member.log())
                })
        });
        masters(&self.members)[0]
    }

    /// Another node directs, and the present one is ready to do so again.
    fn move_on(&self) -> usize {
        let from = self.director();
        let said = self.members[from].run("handover");
        assert!(said.contains("handed over"), "{said}\n{}", self.members[from].log());
        self.soon("another directs", |members| {
            (0..3).any(|n| n != from && members[n].has_vip() && members[n].role().as_deref() == Some("master"))
        });
        self.members[from].run("handover --end");
        self.director()
    }
}

/// Servers die, directors change, servers return. Some clients come only after a promotion: what
/// is remembered of them is what the sync daemon copied.
fn a_life(checks: Checks) -> Site {
    let mut site = Site::new(9);
    site.start(checks);
    let first = site.director();
    site.all_know(&[]);
    assert_eq!(site.answered("all are up", 0..9), [9, 9, 9]);
    // The sync daemons send once a second.
    thread::sleep(Duration::from_millis(1500));

    let other = (first + 1) % 3;
    // Taken out by the operator, it stays out, though it passes its checks: one each two seconds.
    let everywhere = |command: &str| site.members.iter().for_each(|member| drop(member.run(command)));
    everywhere(&format!("drain 192.0.2.{}", NUMBERS[other]));
    thread::sleep(Duration::from_secs(5));
    let out = PORTS.map(|_| std::array::from_fn(|n| if n == other { QUIET } else { UP }));
    assert_eq!(site.members.each_ref().map(Member::weights), [out; 3]);
    everywhere(&format!("undrain 192.0.2.{}", NUMBERS[other]));
    site.all_know(&[]);
    site.members[other].web.set(false);
    site.all_know(&[other]);
    assert_eq!(site.answered("one is down", 0..5)[other], 0);
    let second = site.move_on();
    assert_eq!(site.answered("one is down, another node directs", 0..9)[other], 0);
    site.members[other].web.set(true);
    site.all_know(&[]);
    site.answered("it is back", 0..9);
    thread::sleep(Duration::from_millis(1500));

    // The director's own.
    site.members[second].web.set(false);
    site.all_know(&[second]);
    assert_eq!(site.answered("the director's own is down", 0..5)[second], 0);
    site.move_on();
    assert_eq!(site.answered("down where it directed", 0..9)[second], 0);
    for member in &site.members {
        let audit = member.run("audit");
        assert_eq!(audit, "nothing is found\n");
    }
    site.members[second].web.set(true);
    site.all_know(&[]);
    site
}

/// The files of examples/keepalived.
#[test]
fn beside_checks_of_keepalived_no_request_goes_to_a_server_that_is_down() {
    let mut site = a_life(Checks::Keepalived);
    // keepalived is stopped as systemd does, and takes its services along.
    let director = site.director();
    assert!(site.members[director].run("handover").contains("handed over"));
    site.members[director].stop("keepalived");
    site.answered("keepalived is stopped", 0..9);
    site.members[director].run("handover --end");
    // The next one crashes.
    let crashed = (0..3).find(|n| site.members[*n].has_vip()).unwrap();
    ip(&format!("link set port{} down", NUMBERS[crashed]));
    let last = 3 - director - crashed;
    site.soon("the last one directs", |members| members[last].has_vip());
}

/// The files of examples/ldirectord.
#[test]
fn beside_checks_of_ldirectord_no_request_goes_to_a_server_that_is_down() {
    let mut site = a_life(Checks::Ldirectord);
    // Stopped and started: the table stays meanwhile.
    let director = site.director();
    site.members[director].stop("ldirectord");
    site.all_know(&[]);
    site.members[director].start_ldirectord(&ldirectord());
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(8) {
        site.answered("ldirectord starts again", 0..3);
    }
    site.all_know(&[]);
}

/// What an audit says of the file that ships, changed: the harm first, where a real keepalived does
/// it alone.
#[test]
fn an_audit_of_keepalived_conf_finds_what_harms_health_checks_and_elections() {
    enter_switch();
    let mut member = Member::new(11);
    let (netns, dir) = (member.netns.clone(), member.dir.clone());
    let path = member.dir.join("audited.conf");
    let shipped = here(KEEPALIVED);
    let with = |from: &str, to: &str| {
        assert!(shipped.contains(from), "{from}");
        shipped.replace(from, to)
    };
    let open = |fence: Fence, name: &str| {
        let mut config = Config::new(INTERFACE, [VIP.parse().unwrap()]);
        (config.fence, config.vip_owner, config.state_dir) = (fence, VipOwner::Keepalived, dir.join(name));
        config.marks.own_requests = OwnRequests::LeftAlone;
        Node::open_in(config, netns.clone()).unwrap()
    };
    let mut node = open(Fence::Marks, "marks");
    node.become_role(Role::Backup).unwrap();
    let found = |node: &mut Node, text: &str| -> Vec<(String, Severity)> {
        fs::write(&path, text).unwrap();
        let found = node.audit(Some(&path)).unwrap();
        found.iter().for_each(|finding| println!("{finding}"));
        let found = found.into_iter().map(|finding| (finding.kind.name().to_owned(), finding.severity));
        // No keepalived runs: its file is judged.
        found.filter(|(name, _)| name != "keepalived-missing").collect()
    };
    let sync = |id| with("script_user root", &format!("script_user root\n    lvs_sync_daemon {INTERFACE} web id {id}"));
    let old_sync = with("nopreempt", &format!("nopreempt\n    lvs_sync_daemon_interface {INTERFACE}"));
    let strict = with("script_user root", "script_user root\n    vrrp_strict");
    let authentication = "nopreempt\n    authentication {\n auth_type PASS\n auth_pass secret\n    }";
    for (text, expected) in [
        (shipped.clone(), None),
        (with("192.0.2.254", "$VIP").replacen("global_defs", "$VIP=192.0.2.254\nglobal_defs", 1), None),
        (with("vrrp_version 3", ""), Some(("slow-vrrp", Severity::Notice))),
        (with("advert_int 0.3", ""), Some(("slow-vrrp", Severity::Notice))),
        (with("state BACKUP", "state MASTER"), Some(("preempting-vrrp", Severity::Notice))),
        (with("nopreempt", authentication), Some(("vrrp-authentication", Severity::Notice))),
        // VRRP is for routers, which take no packets for the address.
        (strict.clone(), Some(("vip-not-accepted", Severity::Error))),
        (strict.replace("nopreempt", "nopreempt\n    accept"), None),
        (with("nopreempt", "nopreempt\n    no_accept"), Some(("vip-not-accepted", Severity::Error))),
        (with("delay_loop 2", "ha_suspend"), None),
        (with("inhibit_on_failure", ""), None),
        (with("inhibit_on_failure", "").replace("wrr", "mh"), Some(("checks-reorder", Severity::Notice))),
        (sync(254), Some(("keepalived-sync", Severity::Warning))),
        (sync(51), Some(("keepalived-sync", Severity::Error))),
        (old_sync.clone(), Some(("keepalived-sync", Severity::Error))),
        // Of another VIP.
        (with(VIP, "192.0.2.250").replace("vrrp_version 3", ""), Some(("vip-without-instance", Severity::Error))),
    ] {
        let expected: Vec<_> = expected.iter().map(|(name, severity)| ((*name).to_owned(), *severity)).collect();
        assert_eq!(found(&mut node, &text), expected, "{text}");
    }
    assert_eq!(daemons_in(&netns), ["backup"]);

    // keepalived's own sync daemon with the number of the node's: the node's backup daemon ends.
    member.start_keepalived(&sync(254));
    until("keepalived's sync daemon", || daemons_in(&netns) == ["master"]);
    member.stop("keepalived");
    // With another number: no role.
    node.release(|_| ()).unwrap();
    member.start_keepalived(&sync(51));
    until("keepalived's sync daemon", || daemons_in(&netns) == ["master"]);
    let error = node.become_role(Role::Master).unwrap_err().to_string();
    assert!(error.contains("lvs_sync_daemon"), "{error}");
    member.stop("keepalived");
    until("no sync daemon", || daemons_in(&netns).is_empty());
    // As files for old versions have it: with the number 0.
    member.start_keepalived(&old_sync);
    until("keepalived's sync daemon", || daemons_in(&netns) == ["master"]);
    let shown = netns.run(|| ipvsadm("-Ln --daemon")).unwrap();
    assert!(shown.contains("syncid=0,"), "{shown}");
    member.stop("keepalived");
    until("no sync daemon", || daemons_in(&netns).is_empty());

    // `ha_suspend` ends no check where the VIP is on lo in every role.
    let vip = |verb: &str, device: &str| netns.run(|| ip(&format!("address {verb} {VIP}/32 dev {device}"))).unwrap();
    let weight = |member: &Member| member.weights()[0][0];
    vip("add", "lo");
    vip("add", INTERFACE);
    let checks = with("delay_loop 2", "delay_loop 1\n    ha_suspend");
    fs::write(member.dir.join("etc/keepalived/keepalived.conf"), checks).unwrap();
    member.start("keepalived", "keepalived --check --dont-fork --log-console --log-detail");
    until("the service is checked", || weight(&member) == UP);
    vip("delete", INTERFACE);
    member.web.set(false);
    until("the server is down", || weight(&member) == QUIET);
    member.stop("keepalived");

    member.web.set(true);
    // Without a table the checks of a backup are lost.
    let mut node = open(Fence::Clear, "clear");
    let on = |command: &str| netns.run(|| try_run(&format!("ipvsadm {command}"))).unwrap().status.success();
    let server = format!("-t {VIP}:80 -r 192.0.2.11:80");
    assert!(on(&format!("-A -t {VIP}:80 -s wrr")) && on(&format!("-a {server} -w 1")));
    vip("add", INTERFACE);
    node.become_role(Role::Master).unwrap();
    vip("delete", INTERFACE);
    node.become_role(Role::Backup).unwrap();
    assert!(!on(&format!("-e {server} -w 0")));
    vip("add", INTERFACE);
    node.become_role(Role::Master).unwrap();
    assert_eq!(weight(&member), UP);
    vip("delete", INTERFACE);
    node.become_role(Role::Backup).unwrap();
    assert_eq!(found(&mut node, &shipped), [("checks-without-table".to_owned(), Severity::Warning)]);
}

fn daemons_in(netns: &Netns) -> Vec<String> {
    netns.run(daemons).unwrap()
}

/// `expire_nodest_conn` decides about clients that use a port again: a server that is down, however
/// a check says so, gets their requests with 0, and not with 1.
#[test]
fn a_client_that_uses_its_port_again_leaves_a_server_that_is_down_with_expire_nodest_conn() {
    enter_switch();
    let client = host(1);
    let members = [11, 12].map(Member::new);
    let services = format!(
        "-A -t {VIP}:80 -s rr\n-a -t {VIP}:80 -r 192.0.2.11:80 -g -w 1\n-a -t {VIP}:80 -r 192.0.2.12:80 -g -w 1\n"
    );
    let _nodes = [(0, Role::Master), (1, Role::Backup)].map(|(index, role): (usize, Role)| {
        let mut config = Config::new(INTERFACE, [VIP.parse().unwrap()]);
        config.services = Some(services.parse().unwrap());
        config.state_dir = members[index].dir.join("state");
        config.marks.own_requests = OwnRequests::LeftAlone;
        let mut node = Node::open_in(config, members[index].netns.clone()).unwrap();
        node.become_role(role).unwrap();
        node
    });
    let director = |command: &str| members[0].netns.run(|| run(command)).unwrap();
    let server = format!("-t {VIP}:80 -r 192.0.2.12:80 -g");
    let mut first = 40_000;
    for (down, up) in [("-e", "-e"), ("-d", "-a")] {
        for (value, failing) in [("0", 4), ("1", 0)] {
            director(&format!("sysctl -qw net.ipv4.vs.expire_nodest_conn={value}"));
            let ask = || (0..8).map(|n| get_from(&client, first + n, 80)).collect::<Vec<_>>();
            assert_eq!(ask().into_iter().flatten().filter(|number| *number == 12).count(), 4);
            members[1].web.set(false);
            let arguments = if down == "-e" { format!("{server} -w 0") } else { server.replace(" -g", "") };
            director(&format!("ipvsadm {down} {arguments}"));
            let failed = ask().into_iter().filter(Option::is_none).count();
            assert_eq!(failed, failing, "{down}, {value}");
            members[1].web.set(true);
            director(&format!("ipvsadm {up} {server} -w 1"));
            first += 8;
        }
    }
}
