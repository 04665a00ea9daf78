//! Health checks of other programs decide about servers, on every node and in every role: the
//! recipes of docs/health-checks.md as they ship, and other settings of keepalived and ldirectord.

use std::fs;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use lvs_dr::Netns;
use rustix::process::Signal;

use super::{NUMBERS, Process};
use crate::cli::lvs_node;
use crate::lab::{ip, ipvsadm};
use crate::lan::{INTERFACE, VIP, enter_switch, host};
use crate::node::new_path;

const KEEPALIVED: &str = include_str!("../../../examples/keepalived/keepalived.conf");
const LDIRECTORD: &str = include_str!("../../../examples/ldirectord/ldirectord.cf");
const NODE: &str = include_str!("../../../examples/keepalived/node.toml");

/// A file as it ships, for the addresses and the interface of this link.
fn here(text: &str) -> String {
    text.replace("192.168.0.", "192.0.2.").replace("eth0", INTERFACE)
}

/// A web server that can be stopped: connections are refused then.
struct Web(Arc<AtomicBool>);

impl Web {
    fn start(netns: &Netns, number: u8) -> Self {
        let (web, netns) = (Web(Arc::new(AtomicBool::new(true))), netns.clone());
        let up = web.0.clone();
        thread::spawn(move || {
            loop {
                while !up.load(Ordering::Relaxed) {
                    thread::sleep(Duration::from_millis(10));
                }
                let listener = netns.run(|| TcpListener::bind("[::]:80").unwrap()).unwrap();
                listener.set_nonblocking(true).unwrap();
                while up.load(Ordering::Relaxed) {
                    match listener.accept() {
                        Ok((stream, _)) => drop(thread::spawn(move || answer(stream, number))),
                        Err(_) => thread::sleep(Duration::from_millis(2)),
                    }
                }
            }
        });
        web
    }

    fn set(&self, up: bool) {
        self.0.store(up, Ordering::Relaxed);
        // Until the listener is there, or closed.
        thread::sleep(Duration::from_millis(50));
    }
}

/// One request, answered by the server's number.
fn answer(mut stream: TcpStream, number: u8) -> io::Result<()> {
    stream.set_nonblocking(false)?;
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
fn get(client: &Netns) -> Option<u8> {
    let ask = || -> io::Result<String> {
        let limit = Duration::from_secs(2);
        let mut stream = TcpStream::connect_timeout(&SocketAddr::new(VIP.parse().unwrap(), 80), limit)?;
        stream.set_read_timeout(Some(limit))?;
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
    web: Web,
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
        Member { web: Web::start(&netns, number), netns, dir, running: Vec::new() }
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

    /// The weights of 11, 12 and 13. `None`: not in the table.
    fn weights(&self) -> [Option<u32>; 3] {
        let saved = self.netns.run(|| ipvsadm("-Sn")).unwrap();
        NUMBERS.map(|number| {
            let start = format!("-a -t {VIP}:80 -r 192.0.2.{number}:80 -g -w ");
            saved.lines().find_map(|line| line.strip_prefix(&start)).map(|weight| weight.parse().unwrap())
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
            assert!(start.elapsed() < Duration::from_secs(60), "not so: {what}; {seen:?}\n{}", logs());
            thread::sleep(Duration::from_millis(50));
        }
    }

    fn all_have(&self, what: &str, weights: [Option<u32>; 3]) {
        self.soon(what, |members| {
            let mut running = members.iter().filter(|member| !member.running.is_empty());
            running.all(|member| member.weights() == weights)
        });
    }

    /// How often each server answers these clients, twice each; none of their requests fails.
    fn answered(&self, what: &str, clients: std::ops::Range<usize>) -> [usize; 3] {
        let answers: Vec<Option<u8>> =
            self.clients[clients].iter().flat_map(|client| [get(client), get(client)]).collect();
        assert!(!answers.contains(&None), "{what}: {answers:?}");
        NUMBERS.map(|number| answers.iter().filter(|answer| **answer == Some(number)).count())
    }
}

const UP: Option<u32> = Some(1);
const QUIET: Option<u32> = Some(0);

/// Who checks, and what becomes of a server that is down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Checks {
    Keepalived,
    Ldirectord,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Down {
    WeightZero,
    Removed,
}

impl Down {
    fn weight(self) -> Option<u32> {
        match self {
            Down::WeightZero => QUIET,
            Down::Removed => None,
        }
    }
}

impl Site {
    /// keepalived elects on every node, and lvs-node watches: the recipes, with these changes.
    fn start(&mut self, checks: Checks, change: impl Fn(&str) -> String) {
        for (member, priority) in self.members.iter_mut().zip(["103", "102", "101"]) {
            let text = here(KEEPALIVED).replace("priority 103", &format!("priority {priority}"));
            let (elections, _) = text.split_once("virtual_server").unwrap();
            match checks {
                Checks::Keepalived => member.start_keepalived(&change(&text)),
                Checks::Ldirectord => {
                    member.start_keepalived(elections);
                    member.start_ldirectord(&change(&here(LDIRECTORD)));
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
                    let directs = member.role().as_deref() == Some("master");
                    member.has_vip() == directs
                        && (directs || member.role().is_some())
                        && member.log().contains("takes part in elections")
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

/// Two servers die, directors change, servers return. With persistent services, some clients come
/// only after a promotion: their templates are those that the sync daemon copied.
fn a_life(checks: Checks, down: Down, change: impl Fn(&str) -> String) {
    let mut site = Site::new(9);
    site.start(checks, change);
    let first = site.director();
    let weights = |gone: &[usize]| std::array::from_fn(|n| if gone.contains(&n) { down.weight() } else { UP });
    site.all_have("all servers", weights(&[]));
    assert_eq!(site.answered("all", 0..9), [6, 6, 6]);
    // The sync daemons send once a second.
    thread::sleep(Duration::from_millis(1500));

    let other = (first + 1) % 3;
    site.members[other].web.set(false);
    site.all_have("one is down", weights(&[other]));
    assert_eq!(site.answered("one is down", 0..5)[other], 0);
    let second = site.move_on();
    assert_eq!(site.answered("one is down, another directs", 0..9)[other], 0);
    site.members[other].web.set(true);
    site.all_have("it is back", weights(&[]));
    site.answered("it is back", 0..9);
    thread::sleep(Duration::from_millis(1500));

    // The director's own.
    site.members[second].web.set(false);
    site.all_have("the director's own is down", weights(&[second]));
    assert_eq!(site.answered("the director's own is down", 0..5)[second], 0);
    site.move_on();
    assert_eq!(site.answered("down where it directed", 0..9)[second], 0);
    for member in &site.members {
        let audit = member.run("audit");
        assert_eq!(audit, "nothing is found\n");
    }
}

#[test]
fn persistent_clients_leave_a_server_that_keepalived_gives_weight_0() {
    a_life(Checks::Keepalived, Down::WeightZero, |text| {
        text.replace("protocol TCP", "protocol TCP\n    persistence_timeout 300")
    });
}

#[test]
fn persistent_clients_leave_a_server_that_keepalived_removes() {
    a_life(Checks::Keepalived, Down::Removed, |text| {
        text.replace("inhibit_on_failure", "").replace("protocol TCP", "protocol TCP\n    persistence_timeout 300")
    });
}

#[test]
fn the_recipe_with_ldirectord_sends_no_request_to_a_server_that_is_down() {
    a_life(Checks::Ldirectord, Down::WeightZero, str::to_owned);
}

#[test]
fn persistent_clients_leave_a_server_that_ldirectord_gives_weight_0() {
    a_life(Checks::Ldirectord, Down::WeightZero, |text| text.to_owned() + "        persistent = 300\n");
}

#[test]
fn persistent_clients_leave_a_server_that_ldirectord_removes() {
    a_life(Checks::Ldirectord, Down::Removed, |text| {
        text.replace("quiescent = yes", "quiescent = no") + "        persistent = 300\n"
    });
}

/// The files of examples/keepalived as they ship.
#[test]
fn the_recipe_with_keepalived_sends_no_request_to_a_server_that_is_down() {
    let mut site = Site::new(6);
    site.start(Checks::Keepalived, str::to_owned);
    let first = site.director();
    site.all_have("all servers", [UP; 3]);
    assert_eq!(site.answered("all", 0..6), [4, 4, 4]);

    // The web server of another node, and the director's own.
    let other = (first + 1) % 3;
    let with_quiet = |quiet: &[usize]| std::array::from_fn(|n| if quiet.contains(&n) { QUIET } else { UP });
    site.members[other].web.set(false);
    site.all_have("one is down", with_quiet(&[other]));
    assert_eq!(site.answered("one is down", 0..6)[other], 0);
    site.members[first].web.set(false);
    site.all_have("two are down", with_quiet(&[other, first]));
    let last = 3 - first - other;
    assert_eq!(site.answered("two are down", 0..6)[last], 12);

    // A promotion, to either of the others, and a stop of keepalived where the director was.
    assert!(site.members[first].run("handover").contains("handed over"), "{}", site.members[first].log());
    site.soon("another directs", |members| members.iter().any(|m| m.role().as_deref() == Some("master")));
    assert_eq!(site.answered("after the promotion", 0..6)[last], 12);
    let audits: Vec<String> = site.members.iter().map(|member| member.run("audit")).collect();
    println!("{audits:#?}");
    site.members[first].stop("keepalived");
    assert_eq!(site.answered("keepalived is stopped", 0..6)[last], 12);
    site.members[first].web.set(true);
    site.members[other].web.set(true);
    site.soon("all are up", |members| {
        members.iter().enumerate().all(|(n, member)| n == first || member.weights() == [UP; 3])
    });
    assert_eq!(site.answered("all are up", 0..6), [4, 4, 4]);
    for (n, audit) in audits.iter().enumerate() {
        assert!(!audit.contains("error"), "{n}: {audit}");
    }
}
