//! Roles, judged by ip, ipvsadm and the files of /proc: reached, repeated, interrupted,
//! overlapping, refused, released.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use lvs_dr::arp::Settings;
use lvs_dr::ipvs::Table;
use lvs_dr::node::{
    Apply, ArpConfig, ArpScope, Config, Fence, Loopback, MarkValues, Node, OwnRequests, Plan, Role, Step, VipOwner,
};
use lvs_dr::vip::{Placement, Vips};
use lvs_dr::{Cause, Error};
use rustix::fs::{FlockOperation, flock};
use rustix::thread::{CapabilitySet, CapabilitySets, capabilities, set_capabilities};

use crate::lab::{enter_new_netns, ip, ipvsadm, load_ipv6, rules, run, try_run, without_checksum};

pub(crate) const VIPS: [&str; 2] = ["192.0.2.254", "2001:db8::fe"];

/// Services of the node, of every kind, as `ipvsadm -Sn` prints them, and with its own address
/// among the destinations.
pub(crate) const TABLE: &str = "\
-A -f 7 -s mh -p 300 -b mh-fallback,mh-port
-a -f 7 -r 192.0.2.12:0 -g -w 1
-A -t 192.0.2.254:80 -s wrr
-a -t 192.0.2.254:80 -r 192.0.2.11:80 -g -w 1
-a -t 192.0.2.254:80 -r 192.0.2.12:80 -g -w 3
-a -t 192.0.2.254:80 -r 192.0.2.13:80 -i -w 2 --tun-type ipip
-A -u 192.0.2.254:53 -s sh -p 60 -M 255.255.255.0
-a -u 192.0.2.254:53 -r 192.0.2.12:53 -g -w 0
-A -t [2001:db8::fe]:80 -s rr
-a -t [2001:db8::fe]:80 -r [2001:db8::12]:80 -g -w 1
";

/// Services of the two nodes 192.0.2.11 and .12, and of a third.
pub(crate) const WEB: &str = "\
-A -t 192.0.2.254:80 -s wrr
-a -t 192.0.2.254:80 -r 192.0.2.11:80 -g -w 3
-a -t 192.0.2.254:80 -r 192.0.2.12:80 -g -w 4
-a -t 192.0.2.254:80 -r 192.0.2.13:80 -g -w 5
-A -t [2001:db8::fe]:80 -s rr
-a -t [2001:db8::fe]:80 -r [2001:db8::11]:80 -g -w 1
-a -t [2001:db8::fe]:80 -r [2001:db8::12]:80 -g -w 1
";

/// The mark services of fence `marks` for [`TABLE`]: the node itself, the director of group 0, and
/// requests of own programs.
/// No director is known.
const MARKS: &str = "\
-A -f 1280725760 -s rr
-a -f 1280725760 -r 192.0.2.11:1 -g -w 1
-A -f 1280725761 -s rr -p 60 -M 128.0.0.0
-a -f 1280725761 -r 192.0.2.11:1 -g -w 1
-a -f 1280725761 -r 192.0.2.12:1 -g -w 0
-A -f 1280726015 -s rr
-a -f 1280726015 -r 127.0.0.1:1 -g -w 1
-A -f 1280725760 -6 -s rr
-a -f 1280725760 -6 -r [2001:db8::11]:1 -g -w 1
-A -f 1280725761 -6 -s rr -p 60 -M 1
-a -f 1280725761 -6 -r [2001:db8::11]:1 -g -w 1
-a -f 1280725761 -6 -r [2001:db8::12]:1 -g -w 0
-A -f 1280726015 -6 -s rr
-a -f 1280726015 -6 -r [::1]:1 -g -w 1
";

/// A service of another program.
const FOREIGN: &str = "\
-A -t 198.51.100.1:443 -s lc
-a -t 198.51.100.1:443 -r 192.0.2.12:443 -m -w 1
";

/// A node in a network namespace of its own: `bond0`, a cable's end, with an address, and an IPv4
/// and an IPv6 VIP to come.
pub(crate) struct Bench {
    pub(crate) config: Config,
}

impl Drop for Bench {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.config.state_dir);
    }
}

/// A new network namespace with the node's interface in it.
pub(crate) fn enter_node_netns() {
    load_ipv6();
    enter_new_netns();
    add_bond0();
}

fn add_bond0() {
    ip("link add bond0 type veth peer name peer0");
    batch(
        "link set bond0 addrgenmode none\nlink set peer0 addrgenmode none\nlink set bond0 up\nlink set peer0 up\n\
         address add 192.0.2.11/24 dev bond0\n",
    );
}

/// Adds the node's own IPv6 address, and the MAC addresses of two other nodes, which do not exist.
pub(crate) fn add_second_node() {
    ip("address add 2001:db8::11/64 dev bond0 nodad");
    add_neighbours();
}

fn add_neighbours() {
    batch(
        "neighbour replace 192.0.2.12 lladdr 02:00:00:00:00:12 dev bond0 nud permanent\n\
         neighbour replace 192.0.2.13 lladdr 02:00:00:00:00:13 dev bond0 nud permanent\n\
         neighbour replace 2001:db8::12 lladdr 02:00:00:00:00:12 dev bond0 nud permanent\n",
    );
}

/// A path that no other test uses, where nothing is yet.
pub(crate) fn new_path() -> PathBuf {
    static COUNT: AtomicUsize = AtomicUsize::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let path = PathBuf::from(format!("/run/lvs-dr-test/{}-{count}", std::process::id()));
    let _ = fs::remove_dir_all(&path);
    path
}

/// Gives text to a program's standard input.
fn feed(command: &str, text: &str) {
    let mut words = command.split_whitespace();
    let mut child = Command::new(words.next().unwrap()).args(words).stdin(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    assert!(child.wait().unwrap().success(), "{command} <<E\n{text}E");
}

fn batch(commands: &str) {
    feed("ip -batch -", commands);
}

/// Loads services by hand.
pub(crate) fn load(services: &str) {
    feed("ipvsadm -R", services);
}

/// Whether this line of `ipvsadm -Sn` is of a mark service of fence `marks`.
fn is_of_mark(line: &str) -> bool {
    let words: Vec<&str> = line.split(' ').collect();
    let mark = words.windows(2).find(|pair| pair[0] == "-f").and_then(|pair| pair[1].parse().ok());
    mark.and_then(NonZeroU32::new).is_some_and(|mark| MarkValues::default().contains(mark))
}

/// The table as ipvsadm shows it, sorted, without mark services.
pub(crate) fn saved() -> String {
    sorted(&lines(&ipvsadm("-Sn"), |line| !is_of_mark(line)))
}

/// The mark services as ipvsadm shows them, sorted.
pub(crate) fn saved_marks() -> String {
    sorted(&lines(&ipvsadm("-Sn"), is_of_mark))
}

fn lines(text: &str, wanted: impl Fn(&str) -> bool) -> String {
    text.lines().filter(|line| wanted(line)).map(|line| format!("{line}\n")).collect()
}

/// The roles of the sync daemons that run.
pub(crate) fn sync_daemons() -> Vec<String> {
    let shown = ipvsadm("-Ln --daemon");
    shown.lines().map(|line| line.split(' ').next().unwrap().to_owned()).collect()
}

/// How many rules mark packets on this interface.
pub(crate) fn rule_count(interface: &str) -> usize {
    rules(interface).len()
}

pub(crate) fn sorted(lines: &str) -> String {
    let mut lines: Vec<&str> = lines.lines().collect();
    lines.sort_unstable();
    lines.into_iter().map(|line| format!("{line}\n")).collect()
}

/// The table as the kernel itself shows it: faster, where it is looked at hundreds of times. Each
/// line has its service's in front.
pub(crate) fn kernel_table() -> BTreeSet<String> {
    // In one go: where a reader comes back for more, and another namespace has services too, Linux
    // 6.1 leaves some of ours out.
    let mut octets = vec![0; 1 << 16];
    let length = fs::File::open("/proc/thread-self/net/ip_vs").unwrap().read(&mut octets).unwrap();
    let text = std::str::from_utf8(&octets[..length]).unwrap();
    let mut service = "";
    text.lines()
        .skip(3)
        .map(|line| match line.starts_with("  ->") {
            true => format!("{service} {line}"),
            false => {
                service = line;
                line.to_owned()
            }
        })
        .filter(|line| !line.starts_with("FWM  4C5653"))
        .collect()
}

/// An `ip` that stays, as starting one for each of hundreds of looks would take most of the time.
struct Ip {
    netns: u64,
    process: Child,
    output: BufReader<ChildStdout>,
}

impl Drop for Ip {
    fn drop(&mut self) {
        let _ = self.process.kill().and_then(|()| self.process.wait());
    }
}

thread_local!(static IP: RefCell<Option<Ip>> = const { RefCell::new(None) });

/// The lines of `ip -o address show`.
fn show_addresses() -> Vec<String> {
    IP.with_borrow_mut(|held| {
        let netns = fs::metadata("/proc/thread-self/ns/net").unwrap().ino();
        held.take_if(|ip| ip.netns != netns);
        let ip = held.get_or_insert_with(|| {
            let mut command = Command::new("ip");
            let mut process =
                command.args(["-o", "-batch", "-"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
            Ip { netns, output: BufReader::new(process.stdout.take().unwrap()), process }
        });
        // What is shown of the link is the end: `1: lo: <...`, not `1: lo    inet ...`.
        ip.process.stdin.as_mut().unwrap().write_all(b"address show\nlink show dev lo\n").unwrap();
        let lines = ip.output.by_ref().lines().map(|line| line.expect("what `ip` prints"));
        lines.take_while(|line| !line.starts_with("1: lo: ")).collect()
    })
}

/// Everywhere that addresses sit, as `ip` shows it: `lo 192.0.2.1/32 scope host`.
pub(crate) fn addresses() -> BTreeSet<String> {
    show_addresses()
        .iter()
        .map(|line| {
            let words: Vec<&str> = line.split(['\\', ' ']).filter(|word| !word.is_empty()).collect();
            let end = words.iter().position(|word| *word == "valid_lft").unwrap();
            let end = if words[2] == "inet" { end - 1 } else { end };
            format!("{} {}", words[1], words[3..end].join(" "))
        })
        .collect()
}

/// How a VIP on `interface` looks there.
pub(crate) fn form(vip: IpAddr, interface: &str) -> String {
    match vip {
        IpAddr::V4(_) if interface == "lo" => format!("lo {vip}/32 scope host"),
        IpAddr::V4(_) => format!("{interface} {vip}/32 scope global"),
        IpAddr::V6(_) => format!("{interface} {vip}/128 scope global nodad deprecated"),
    }
}

fn sysctl_file(target: &str, setting: &str) -> String {
    format!("/proc/sys/net/ipv4/conf/{target}/{setting}")
}

/// `arp_ignore` and `arp_announce` of `all` or an interface.
pub(crate) fn arp(target: &str) -> [i32; 2] {
    ["arp_ignore", "arp_announce"]
        .map(|setting| fs::read_to_string(sysctl_file(target, setting)).unwrap().trim().parse().unwrap())
}

/// The settings of IPVS, a line each.
fn ipvs_sysctls() -> String {
    let mut lines: Vec<String> = fs::read_dir("/proc/sys/net/ipv4/vs")
        .unwrap()
        // Some can only be written.
        .map(|file| file.unwrap().path())
        .map(|path| format!("{}={}", path.display(), fs::read_to_string(&path).unwrap_or_default()))
        .collect();
    lines.sort_unstable();
    lines.concat()
}

fn set_sysctl(target: &str, setting: &str, value: i32) {
    fs::write(sysctl_file(target, setting), value.to_string()).unwrap();
}

impl Bench {
    /// The services of [`TABLE`] are configured, or they are loaded by hand. The node's own
    /// requests are left alone: to look at their marks starts several programs.
    pub(crate) fn new(fence: Fence, configured: bool) -> Self {
        enter_node_netns();
        add_second_node();
        let mut config = Config::new("bond0", VIPS.map(|vip| vip.parse().unwrap()));
        config.state_dir = new_path();
        config.fence = fence;
        config.marks.own_requests = OwnRequests::LeftAlone;
        match configured {
            true => config.services = Some(TABLE.parse().unwrap()),
            false => load(TABLE),
        }
        Bench { config }
    }

    pub(crate) fn with(mut self, change: impl FnOnce(&mut Config)) -> Self {
        change(&mut self.config);
        self
    }

    pub(crate) fn node(&self) -> Node {
        Node::open(self.config.clone()).unwrap()
    }

    fn become_role(&self, role: Role) -> Plan {
        self.node().become_role(role).unwrap_or_else(|error| panic!("{role}: {error}"))
    }

    fn refused(&self, role: Role) -> Error {
        self.node().become_role(role).unwrap_err()
    }

    fn state_file(&self) -> PathBuf {
        self.config.state_dir.join("state")
    }

    /// What its addresses must be, besides those that are no VIPs.
    fn wanted_addresses(&self, role: Role) -> BTreeSet<String> {
        let placed = |vip: &IpAddr| {
            let lo = role != Role::Master || self.config.loopback == Loopback::Always;
            let interface = role == Role::Master;
            [lo.then(|| form(*vip, "lo")), interface.then(|| form(*vip, &self.config.interface))]
        };
        let own = [
            "lo 127.0.0.1/8 scope host",
            "lo ::1/128 scope host",
            "bond0 192.0.2.11/24 scope global",
            "bond0 2001:db8::11/64 scope global nodad",
        ];
        self.config.vips.iter().flat_map(placed).flatten().chain(own.map(String::from)).collect()
    }

    /// Judges everything about a role that is reached: `table` is the director's, `foreign` is
    /// there in every role.
    fn expect(&self, role: Role, table: &str, foreign: &str) {
        assert_eq!(addresses(), self.wanted_addresses(role), "{role}");
        assert_eq!(saved(), sorted(&format!("{}{foreign}", self.table(role, table))), "{role}");
        if self.config.fence == Fence::Marks {
            assert_eq!(saved_marks(), sorted(MARKS), "{role}");
            // Of each service packets without SYN; of each VIP packets of the other node and, but
            // on the director, with SYN.
            let services = table.lines().filter(|line| line.starts_with("-A -t ")).count();
            assert_eq!(rule_count("bond0"), services + if role == Role::Master { 2 } else { 4 }, "{role}");
        }
        let daemons: &[&str] = if role == Role::Master { &["master", "backup"] } else { &["backup"] };
        assert_eq!(sync_daemons(), daemons, "{role}");
        self.expect_hidden_and_tidy(role);
    }

    /// What the kernel has of this table in a role: with fence `marks` always all of it.
    fn table<'a>(&self, role: Role, table: &'a str) -> &'a str {
        if role == Role::Master || self.config.fence == Fence::Marks { table } else { "" }
    }

    fn expect_hidden_and_tidy(&self, role: Role) {
        assert_eq!(arp("bond0"), [1, 2]);
        let status = self.node().status().unwrap();
        assert_eq!((status.role, status.missing, status.warnings), (Some((role, true)), vec![], vec![]));
        let mut files: Vec<String> = fs::read_dir(&self.config.state_dir)
            .unwrap()
            .map(|file| {
                let file = file.unwrap();
                assert_eq!(file.metadata().unwrap().mode() & 0o777, 0o600);
                file.file_name().into_string().unwrap()
            })
            .collect();
        // The configuration as it was loaded, and the table that fence `clear` keeps.
        files.retain(|file| !(self.config.services.is_some() && file == "loaded"));
        files.retain(|file| !(self.config.fence == Fence::Clear && file == "table"));
        files.sort();
        assert_eq!(files, ["lock", &format!("request.{}", status.generation), "state"]);
        let lock = fs::File::open(self.config.state_dir.join("lock")).unwrap();
        flock(&lock, FlockOperation::NonBlockingLockExclusive).expect("nobody holds the lock any more");
    }

    /// All that a request which is refused must leave as it was.
    fn everything(&self) -> String {
        let state = fs::read_to_string(self.state_file()).unwrap_or_default();
        format!("{}{:?}{state}", self.kernel(), self.state_inode())
    }

    fn kernel(&self) -> String {
        let (all, own) = (arp("all"), arp("bond0"));
        let rules = run("tc filter show dev bond0 ingress");
        format!("{:?}{}{rules}{all:?}{own:?}", show_addresses(), ipvsadm("-Sn"))
    }

    /// Changes with each writing of the state file.
    fn state_inode(&self) -> Option<(u64, i64, i64)> {
        fs::metadata(self.state_file()).ok().map(|found| (found.ino(), found.mtime(), found.mtime_nsec()))
    }

    /// The request is refused with an error for which `judge` is true and that says these words,
    /// and nothing is changed.
    fn expect_refusal(&self, role: Role, judge: impl Fn(&Error) -> bool, words: &[&str]) {
        let before = self.everything();
        for error in [self.refused(role), self.node().plan(role).unwrap_err()] {
            assert!(judge(&error), "{error:?}");
            assert_says(&error, words);
        }
        assert_eq!(self.everything(), before);
    }
}

fn assert_says(error: &Error, words: &[&str]) {
    let text = error.to_string();
    words.iter().for_each(|word| assert!(text.contains(word), "no {word:?} in: {text}"));
    assert!(!text.contains('\n'), "more than a line: {text}");
}

/// The number of the latest request in a state directory; `group`: what its files have in their
/// names.
pub(crate) fn latest_request(state_dir: &Path, group: &str) -> u64 {
    let names = fs::read_dir(state_dir).unwrap().map(|file| file.unwrap().file_name().into_string().unwrap());
    let prefix = format!("request{group}.");
    names.filter_map(|name| name.strip_prefix(&prefix)?.parse().ok()).max().unwrap_or(0)
}

/// Runs `work` in a process of its own; its result is the exit code.
fn fork(work: impl FnOnce() -> i32) -> i32 {
    // SAFETY: the child runs nothing but `work` on a copy of this thread, and leaves without
    // unwinding into its parent's frames.
    match unsafe { libc::fork() } {
        0 => {
            let code = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work)).unwrap_or(101);
            // SAFETY: as above.
            unsafe { libc::_exit(code) }
        }
        pid => {
            assert!(pid > 0, "fork: {}", std::io::Error::last_os_error());
            pid
        }
    }
}

/// The same, while this process waits, and without a copy of its memory: here that takes ten times
/// as long as what is tested.
pub(crate) fn lend<F: FnOnce() -> i32>(work: F) -> Result<i32, i32> {
    extern "C" fn run<F: FnOnce() -> i32>(work: *mut libc::c_void) -> libc::c_int {
        // SAFETY: it is the `Option<F>` below.
        let work = unsafe { &mut *work.cast::<Option<F>>() }.take().unwrap();
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(work)).unwrap_or(101)
    }
    let mut stack = vec![0_u128; 1 << 16];
    let mut work = Some(work);
    let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD;
    // SAFETY: this thread goes on when the child has ended, so stack and `work` outlive it, and
    // nobody else uses them.
    let pid = unsafe { libc::clone(run::<F>, stack.as_mut_ptr_range().end.cast(), flags, (&raw mut work).cast()) };
    assert!(pid > 0, "clone: {}", std::io::Error::last_os_error());
    wait(pid)
}

/// Makes a change in a process that dies before its step `number`. Says whether there was such a
/// step.
pub(crate) fn dies_before(number: usize, change: impl FnOnce(&mut dyn FnMut(&Step)) -> Result<Plan, Error>) -> bool {
    let mut count = 0;
    let mut die = |_: &Step| {
        if count == number {
            kill(std::process::id() as i32);
        }
        count += 1;
    };
    match lend(|| exit_code(change(&mut die))) {
        Err(libc::SIGKILL) => true,
        ended => {
            assert_eq!(ended, Ok(0));
            false
        }
    }
}

pub(crate) fn kill(pid: i32) {
    // SAFETY: no memory is touched.
    unsafe { libc::kill(pid, libc::SIGKILL) };
}

/// `Ok`: the exit code; `Err`: the signal.
pub(crate) fn wait(pid: i32) -> Result<i32, i32> {
    let mut status = 0;
    // SAFETY: `status` outlives the call.
    assert_eq!(unsafe { libc::waitpid(pid, &mut status, 0) }, pid);
    match libc::WIFSIGNALED(status) {
        true => Err(libc::WTERMSIG(status)),
        false => Ok(libc::WEXITSTATUS(status)),
    }
}

/// What a process that asks for a role ends with: as lvs-node does.
pub(crate) fn exit_code(result: Result<Plan, Error>) -> i32 {
    match result {
        Ok(_) => 0,
        Err(Error::Superseded { .. }) => 3,
        Err(error) => {
            eprintln!("{error}");
            1
        }
    }
}

#[test]
fn every_role_from_every_role() {
    for (fence, configured, loopback) in
        [(Fence::Marks, true, Loopback::Always), (Fence::Clear, false, Loopback::Backup)]
    {
        let bench = Bench::new(fence, configured).with(|config| config.loopback = loopback);
        load(FOREIGN);
        // Each first, and each after each other.
        for first in [None].into_iter().chain(Role::ALL.map(Some)) {
            for then in Role::ALL {
                match first {
                    Some(first) => bench.become_role(first),
                    None => bench.node().release(|_| ()).unwrap(),
                };
                bench.become_role(then);
                bench.expect(then, TABLE, FOREIGN);
            }
        }
    }
}

#[test]
fn the_second_time_nothing_is_done() {
    for (fence, configured) in [(Fence::Marks, true), (Fence::Marks, false), (Fence::Clear, false)] {
        let bench = Bench::new(fence, configured);
        for role in Role::ALL {
            assert!(!bench.become_role(role).is_empty());
            let before = bench.everything();
            for plan in
                [bench.node().plan(role).unwrap(), bench.become_role(role), bench.node().repair(|_| ()).unwrap()]
            {
                assert!(plan.is_empty(), "{fence}, {role}: {plan}");
            }
            assert_eq!(bench.everything(), before);
        }
    }
}

#[test]
fn a_role_is_taken_on_in_the_order_that_loses_nothing() {
    for (fence, configured, loopback) in [
        (Fence::Marks, true, Loopback::Always),
        (Fence::Marks, false, Loopback::Backup),
        (Fence::Clear, false, Loopback::Always),
        (Fence::Clear, false, Loopback::Backup),
    ] {
        let bench = Bench::new(fence, configured).with(|config| config.loopback = loopback);
        if configured {
            load(TABLE);
        }
        let (full, vip) = (kernel_table(), bench.config.vips[0]);
        if configured {
            run("ipvsadm -C");
        }
        for role in [Role::Backup, Role::Master, Role::Backup, Role::Fault, Role::Master] {
            let mut seen = Vec::new();
            let observed = |step: &Step| {
                let held = addresses();
                // No node answers ARP requests for a VIP that is to come on lo, or is there.
                if held.contains(&form(vip, "lo")) || matches!(step, Step::AddVip(_, Placement::Loopback)) {
                    assert_eq!(arp("bond0"), [1, 2], "{step}");
                }
                // A director has its table as long as it has the VIP.
                if held.contains(&form(vip, "bond0")) {
                    assert_eq!(kernel_table(), full, "{step}");
                }
                // No live table of this node's without the rules that fence it.
                if configured && !kernel_table().is_empty() {
                    assert!(rule_count("bond0") >= 4, "{step}");
                }
                seen.push(held.contains(&form(vip, "bond0")) || held.contains(&form(vip, "lo")));
            };
            bench.node().become_role_with(role, observed).unwrap();
            // It is never without the VIP once it had it.
            assert!(seen.is_sorted(), "{role}: {seen:?}");
        }
    }
}

#[test]
fn keepalived_moves_its_vip_itself() {
    for (fence, loopback) in [(Fence::Marks, Loopback::Always), (Fence::Clear, Loopback::Backup)] {
        let bench = Bench::new(fence, false).with(|config| {
            (config.loopback, config.vip_owner) = (loopback, VipOwner::Keepalived);
        });
        let vips = bench.config.vips.clone();
        let lo = || vips.iter().all(|vip| addresses().contains(&form(*vip, "lo")));
        // In a form that is not a VIP's, if they so choose.
        let theirs = ["192.0.2.254/24 dev bond0", "2001:db8::fe/64 dev bond0 nodad"];
        let vip_comes = || batch(&theirs.map(|vip| format!("address add {vip}\n")).concat());
        let vip_goes = || batch(&theirs.map(|vip| format!("address del {vip}\n")).concat());
        let on_bond0 =
            || -> Vec<String> { addresses().into_iter().filter(|address| address.starts_with("bond0 ")).collect() };
        for role in [Role::Backup, Role::Master, Role::Fault, Role::Stop] {
            let before = on_bond0();
            let plan = bench.become_role(role);
            assert_eq!(on_bond0(), before);
            assert!(lo());
            // A master without it, by a call by hand or for want of a virtual_ipaddress, is told
            // so.
            assert_eq!(plan.warnings().is_empty(), role != Role::Master);
            assert!(bench.become_role(role).is_empty());
        }
        vip_comes();
        let with = on_bond0();
        for role in [Role::Master, Role::Backup, Role::Master, Role::Fault] {
            assert!(bench.become_role(role).warnings().is_empty());
            assert_eq!(on_bond0(), with);
            assert_eq!(lo(), role != Role::Master || loopback == Loopback::Always);
            assert_eq!(saved(), sorted(bench.table(role, TABLE)));
            assert!(bench.become_role(role).is_empty());
        }
        bench.node().release(|_| ()).unwrap();
        assert!(on_bond0() == with && !lo());
        bench.become_role(Role::Backup);
        vip_goes();
        assert!(lo());
    }
}

#[test]
fn a_vip_that_keepalived_moves_meanwhile_is_no_failure() {
    for fence in Fence::ALL {
        let bench = Bench::new(fence, false).with(|config| {
            (config.loopback, config.vip_owner) = (Loopback::Backup, VipOwner::Keepalived);
        });
        bench.become_role(Role::Backup);
        let comes_late = |step: &Step| {
            if matches!(step, Step::Record { reached: true, .. })
                && !addresses().contains(&form(bench.config.vips[0], "bond0"))
            {
                batch("address add 192.0.2.254/32 dev bond0\naddress add 2001:db8::fe/128 dev bond0 nodad\n");
            }
        };
        let plan = bench.node().become_role_with(Role::Master, comes_late).unwrap();
        assert_eq!(plan.warnings(), [""; 0]);
        assert!(!addresses().contains(&form(bench.config.vips[0], "lo")));
        bench.expect_hidden_and_tidy(Role::Master);
    }
}

#[test]
fn a_program_that_undoes_every_step_is_reported() {
    let bench = Bench::new(Fence::Marks, true);
    let undone = |step: &Step| {
        if matches!(step, Step::Record { reached: true, .. }) {
            ip("address del 192.0.2.254/32 dev lo");
        }
    };
    let error = bench.node().become_role_with(Role::Backup, undone).unwrap_err();
    assert!(matches!(error, Error::NotVerified { .. }), "{error:?}");
    assert_says(&error, &["add 192.0.2.254 to lo", "another program"]);
    bench.become_role(Role::Backup);
    bench.expect(Role::Backup, TABLE, "");
}

#[test]
fn the_table_that_fence_clear_finds_is_the_one_that_it_keeps() {
    let bench = Bench::new(Fence::Clear, false);
    bench.become_role(Role::Master);
    // What is changed by hand while it directs is what it keeps.
    ipvsadm("-e -t 192.0.2.254:80 -r 192.0.2.12:80 -g -w 9");
    let changed = TABLE.replace("192.0.2.12:80 -g -w 3", "192.0.2.12:80 -g -w 9");
    bench.become_role(Role::Backup);
    bench.expect(Role::Backup, "", "");
    // Nothing in the kernel is not a table.
    bench.become_role(Role::Backup);
    bench.become_role(Role::Stop);
    bench.become_role(Role::Master);
    bench.expect(Role::Master, &changed, "");
    // Neither while it directs.
    ipvsadm("-C");
    bench.become_role(Role::Master);
    bench.expect(Role::Master, &changed, "");
    ipvsadm("-C");
    bench.become_role(Role::Fault);
    // What is added while it does not direct is taken in, and what it has is not lost for it.
    let more = "-A -t 192.0.2.254:443 -s wlc\n-a -t 192.0.2.254:443 -r 192.0.2.12:443 -g -w 1\n";
    load(&format!("{more}-A -t 192.0.2.254:80 -s rr\n"));
    bench.become_role(Role::Backup);
    bench.expect(Role::Backup, "", "");
    bench.become_role(Role::Master);
    bench.expect(Role::Master, &format!("{changed}{more}"), "");
}

#[test]
fn thresholds_are_kept_too() {
    let bench = Bench::new(Fence::Clear, false);
    ipvsadm("-e -t 192.0.2.254:80 -r 192.0.2.12:80 -g -w 3 -x 100 -y 50");
    let thresholds = ipvsadm("-Ln --thresholds");
    assert!(thresholds.contains("100"));
    bench.become_role(Role::Backup);
    bench.become_role(Role::Master);
    assert_eq!(sorted(&ipvsadm("-Ln --thresholds")), sorted(&thresholds));
}

/// Where a killed node is left, and what must be true of it there.
struct Killed<'a> {
    bench: &'a Bench,
    vips: Vips,
    full: BTreeSet<String>,
    places: BTreeMap<IpAddr, bool>,
}

impl<'a> Killed<'a> {
    /// `full` is the director's table.
    fn new(bench: &'a Bench, full: &BTreeSet<String>) -> Self {
        Killed { bench, vips: Vips::open().unwrap(), full: full.clone(), places: BTreeMap::new() }
    }

    /// A director has its table as long as it has the VIP; whoever had the VIP has it still; on lo
    /// it is hidden.
    fn expect_sane(&mut self, what: &str) {
        for vip in &self.bench.config.vips {
            let found = self.vips.locate(*vip).unwrap();
            let on = |interface: &str| found.iter().any(|found| found.interface == interface);
            if on("bond0") {
                assert_eq!(kernel_table(), self.full, "{what}");
            }
            if on("lo") {
                assert_eq!(arp("bond0"), [1, 2], "{what}");
            }
            let had = self.places.insert(*vip, !found.is_empty());
            assert!(!found.is_empty() || had != Some(true), "{what}: {vip} is nowhere");
        }
    }

    fn expect(&mut self, role: Role, what: &str) {
        assert_eq!(addresses(), self.bench.wanted_addresses(role), "{what}");
        let all = role == Role::Master || self.bench.config.fence == Fence::Marks;
        let table = if all { &self.full } else { &BTreeSet::new() };
        assert_eq!(kernel_table(), *table, "{what}");
        self.expect_sane(what);
        self.bench.expect_hidden_and_tidy(role);
    }

    /// Asks for a role and dies before step `number`. Says whether there was such a step.
    fn dies_before(&self, role: Role, number: usize) -> bool {
        dies_before(number, |before| self.bench.node().become_role_with(role, before))
    }
}

#[test]
fn killed_at_every_step() {
    let kinds = [
        (Fence::Marks, true, Loopback::Always),
        (Fence::Marks, false, Loopback::Backup),
        (Fence::Clear, true, Loopback::Backup),
        (Fence::Clear, false, Loopback::Always),
    ];
    let changes = [
        (None, Role::Backup),
        (None, Role::Master),
        (Some(Role::Master), Role::Backup),
        (Some(Role::Backup), Role::Master),
    ];
    for (kind, (fence, configured, loopback)) in kinds.into_iter().enumerate() {
        let bench = Bench::new(fence, configured).with(|config| config.loopback = loopback);
        bench.become_role(Role::Master);
        assert_eq!(saved(), sorted(TABLE));
        let full = kernel_table();
        for (first, then) in changes {
            let mut step = 0;
            loop {
                let mut killed = Killed::new(&bench, &full);
                bench.node().release(|_| ()).unwrap();
                first.map(|first| bench.become_role(first));
                killed.expect_sane("before");
                let died = killed.dies_before(then, step);
                // The role that comes next is the same or the other one, in turn from step to step
                // and from kind to kind.
                let next = [Role::Master, Role::Backup][(step + kind) % 2];
                let what = format!(
                    "{fence}, {configured}, {loopback:?}: {first:?}, killed before step {step} of {then}, then {next}"
                );
                killed.expect_sane(&what);
                bench.become_role(next);
                killed.expect(next, &what);
                if !died {
                    break;
                }
                step += 1;
            }
            assert!(step > 4, "{step} steps only");
        }
    }
}

#[test]
fn killed_while_it_is_released() {
    for (fence, first, configured) in [(Fence::Marks, Role::Master, true), (Fence::Clear, Role::Backup, false)] {
        let bench = Bench::new(fence, configured);
        let seen = || (addresses(), ipvsadm("-Sn"), sync_daemons(), run("tc qdisc show dev bond0"));
        let before = seen();
        let mut step = 0;
        loop {
            bench.become_role(first);
            let died = dies_before(step, |before| bench.node().release(before));
            bench.node().release(|_| ()).unwrap();
            assert_eq!(seen(), before, "{fence}, {first}, killed before step {step}");
            assert_eq!((arp("bond0"), bench.state_inode()), ([0, 0], None));
            if !died {
                break;
            }
            step += 1;
        }
        assert!(step > 3, "{step} steps only");
    }
}

/// Numbers that look random and are the same each time (xorshift).
pub(crate) struct Numbers(pub(crate) u64);

impl Numbers {
    pub(crate) fn next(&mut self, below: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % below
    }
}

#[test]
fn killed_at_any_moment() {
    for (fence, configured, loopback) in
        [(Fence::Marks, false, Loopback::Backup), (Fence::Clear, true, Loopback::Always)]
    {
        let bench = Bench::new(fence, configured).with(|config| config.loopback = loopback);
        bench.become_role(Role::Master);
        let full = kernel_table();
        let mut numbers = Numbers(20);
        // A process that has begun to take on a role.
        let begun = |role| {
            let (mut reader, mut writer) = std::io::pipe().unwrap();
            let process = fork(|| {
                let mut node = bench.node();
                writer.write_all(b"!").unwrap();
                exit_code(node.become_role(role))
            });
            reader.read_exact(&mut [0]).unwrap();
            process
        };
        let start = Instant::now();
        assert_eq!(wait(begun(Role::Backup)), Ok(0));
        let longest = start.elapsed().as_micros() as u64;
        let mut died = 0;
        for round in 0..30 {
            let process = begun(Role::ALL[numbers.next(4) as usize]);
            thread::sleep(Duration::from_micros(numbers.next(longest)));
            kill(process);
            match wait(process) {
                Ok(code) => assert_eq!(code, 0),
                Err(_) => died += 1,
            }
            let mut killed = Killed::new(&bench, &full);
            killed.expect_sane(&format!("round {round}"));
            if round % 10 == 9 {
                let role = Role::ALL[numbers.next(4) as usize];
                bench.become_role(role);
                killed.expect(role, &format!("after round {round}"));
            }
        }
        assert!(died > 0, "all were done before they were killed");
        bench.become_role(Role::Master);
        bench.expect(Role::Master, TABLE, "");
    }
}

#[test]
fn of_requests_that_wait_only_the_latest_is_carried_out() {
    let bench = Bench::new(Fence::Marks, false);
    bench.become_role(Role::Backup);
    let drawn = || latest_request(&bench.config.state_dir, "");
    // Each way to end: with a role, and with none.
    let requests = [Some(Role::Master), Some(Role::Backup), None, Some(Role::Fault), Some(Role::Master)];
    for last in [requests.len(), 3] {
        let lock = fs::File::open(bench.config.state_dir.join("lock")).unwrap();
        flock(&lock, FlockOperation::NonBlockingLockExclusive).unwrap();
        let mut waiting = Vec::new();
        for request in &requests[..last] {
            let number = drawn();
            waiting.push(fork(|| {
                let mut node = bench.node();
                exit_code(match request {
                    Some(role) => node.become_role(*role),
                    None => node.release(|_| ()),
                })
            }));
            let start = Instant::now();
            while drawn() == number {
                assert!(start.elapsed() < Duration::from_secs(10), "no number is drawn");
                thread::sleep(Duration::from_millis(1));
            }
        }
        // Not by closing it: the others have inherited it.
        flock(&lock, FlockOperation::Unlock).unwrap();
        let ends: Vec<_> = waiting.into_iter().map(|pid| wait(pid).unwrap()).collect();
        let mut wanted = vec![3; last];
        wanted[last - 1] = 0;
        assert_eq!(ends, wanted);
        match requests[last - 1] {
            Some(role) => bench.expect(role, TABLE, ""),
            None => assert_eq!((bench.state_inode(), saved()), (None, sorted(TABLE))),
        }
    }
}

#[test]
fn many_requests_at_once() {
    let bench = Bench::new(Fence::Marks, false).with(|config| config.loopback = Loopback::Backup);
    let mut numbers = Numbers(3);
    for round in 0..3 {
        let number = bench.node().status().unwrap().generation;
        let roles = [(); 12].map(|()| Role::ALL[numbers.next(4) as usize]);
        let processes = roles.map(|role| fork(|| exit_code(bench.node().become_role(role))));
        let ends = processes.map(|process| wait(process).unwrap());
        assert!(ends.iter().all(|end| [0, 3].contains(end)) && ends.contains(&0), "round {round}: {ends:?}");
        let status = bench.node().status().unwrap();
        assert_eq!(status.generation, number + 12);
        bench.expect(status.role.unwrap().0, TABLE, "");
    }
}

#[test]
fn a_state_that_cannot_be_believed_is_refused() {
    let bench = Bench::new(Fence::Marks, true);
    bench.become_role(Role::Backup);
    let good = fs::read_to_string(bench.state_file()).unwrap();
    let half = &good[..good.len() / 2];
    let edited = without_checksum(&good);
    for (bad, words) in [
        (half.as_bytes(), "cut short"),
        (b"", "written by another version"),
        (b"\xff\xfe\0garbage", "written by another version"),
        (good.replace("state 2", "state 3").as_bytes(), "written by another version"),
        (good.replace("slot 0", "slot 1").as_bytes(), "delete its line `checksum`"),
        (edited.replace("marks 1", "marks x1").as_bytes(), "`marks x1280725760` is not understood"),
        (edited.replace("peer 192.0.2.12 02:", "peer 192.0.2.12 zz:").as_bytes(), "is not understood"),
        (edited.replace("role backup", "role boss").as_bytes(), "`role boss reached` is not understood"),
    ] {
        fs::write(bench.state_file(), bad).unwrap();
        let path = bench.state_file().display().to_string();
        bench.expect_refusal(Role::Master, |e| matches!(e, Error::State { .. }), &[words, &path, "remove it"]);
        assert!(matches!(bench.node().status(), Err(Error::State { .. })));
        assert!(matches!(bench.node().release(|_| ()), Err(Error::State { .. })));
    }
    fs::write(bench.state_file(), good).unwrap();
    // So are the services as they were loaded.
    let loaded = bench.config.state_dir.join("loaded");
    let good = fs::read_to_string(&loaded).unwrap();
    for (bad, words) in [
        (&good[..good.len() / 2], "cut short"),
        (&good.replace("-w 1", "-w 2"), "delete its line `# checksum`"),
        (&without_checksum(&good).replace("-s wrr", "-s"), "is not understood"),
    ] {
        fs::write(&loaded, bad).unwrap();
        let path = loaded.display().to_string();
        let refused = |error: &Error| {
            assert!(matches!(error, Error::State { .. }), "{error:?}");
            assert_says(error, &[words, &path, "remove it"]);
        };
        let before = bench.kernel();
        refused(&bench.refused(Role::Backup));
        refused(&bench.node().plan(Role::Backup).unwrap_err());
        assert_eq!((bench.kernel(), bench.node().role().unwrap()), (before, Some((Role::Backup, false))));
        refused(&bench.node().status().unwrap_err());
        refused(&bench.node().release(|_| ()).unwrap_err());
        // What is remembered is right again with the file.
        fs::write(&loaded, &good).unwrap();
        bench.become_role(Role::Backup);
        fs::write(&loaded, bad).unwrap();
        // A promotion reads no services.
        bench.become_role(Role::Master);
        fs::write(&loaded, &good).unwrap();
        bench.expect(Role::Master, TABLE, "");
        bench.become_role(Role::Backup);
    }
}

#[test]
fn a_state_directory_that_is_not_for_root_alone_is_refused() {
    let bench = Bench::new(Fence::Marks, false);
    let dir = bench.config.state_dir.clone();
    let before = bench.everything();
    let refused = |words: &[&str]| {
        for result in [bench.node().become_role(Role::Backup), bench.node().release(|_| ())] {
            let error = result.unwrap_err();
            assert_says(&error, words);
            assert_says(&error, &[&dir.display().to_string()]);
        }
        assert_eq!(bench.everything(), before);
    };
    fs::create_dir_all(dir.parent().unwrap()).unwrap();
    fs::write(&dir, "").unwrap();
    refused(&["not a directory"]);
    fs::remove_file(&dir).unwrap();
    std::os::unix::fs::symlink("/run", &dir).unwrap();
    refused(&["not a directory"]);
    fs::remove_file(&dir).unwrap();
    fs::create_dir(&dir).unwrap();
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o777)).unwrap();
    refused(&["others can write to it", "chmod 700"]);
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o700)).unwrap();
    std::os::unix::fs::chown(&dir, Some(1000), None).unwrap();
    refused(&["belongs to user 1000"]);
    std::os::unix::fs::chown(&dir, Some(0), None).unwrap();
    run(&format!("mount -t tmpfs -o ro,mode=700 none {}", dir.display()));
    refused(&["Read-only file system"]);
    run(&format!("umount {}", dir.display()));
}

#[test]
fn a_full_disk_leaves_the_node_as_it_was() {
    let bench = Bench::new(Fence::Marks, false);
    let dir = bench.config.state_dir.display().to_string();
    fs::create_dir_all(&dir).unwrap();
    let mount = |size: &str, how: &str| drop(run(&format!("mount -t tmpfs -o {how}size={size},mode=700 none {dir}")));
    // A page for the number, one for the state, one for the next state; and then none for that.
    mount("12k", "");
    bench.become_role(Role::Backup);
    mount("8k", "remount,");
    let before = bench.everything();
    let error = bench.refused(Role::Master);
    assert_says(&error, &["step 1 of", &format!("{dir}/state"), "No space left"]);
    assert_eq!(error.errno(), Some(28));
    assert_eq!(bench.everything(), before);
    mount("64k", "remount,");
    bench.become_role(Role::Master);
    bench.expect(Role::Master, TABLE, "");
    run(&format!("umount {dir}"));
}

#[test]
fn a_vip_that_is_somebody_elses_is_left_alone() {
    let bench = Bench::new(Fence::Marks, false);
    for (theirs, words) in [
        ("192.0.2.254/32 dev peer0", &["192.0.2.254/32 on peer0", "belongs on bond0 or lo"][..]),
        ("192.0.2.254/24 dev bond0", &["192.0.2.254/24 on bond0", "the node's own address"]),
        ("192.0.2.254/8 dev lo", &["192.0.2.254/8 on lo"]),
        ("2001:db8::fe/64 dev bond0 nodad", &["2001:db8::fe/64 on bond0"]),
        ("2001:db8::fe/128 dev peer0 nodad", &["2001:db8::fe/128 on peer0"]),
        ("192.0.2.254/32 dev bond0 valid_lft 1000 preferred_lft 1000", &["it expires"]),
        ("192.0.2.254 peer 192.0.2.9 dev bond0", &["point-to-point"]),
    ] {
        ip(&format!("address add {theirs}"));
        for role in Role::ALL {
            let everything = || (addresses(), kernel_table(), arp("bond0"), bench.state_inode());
            let before = everything();
            let error = bench.refused(role);
            assert!(matches!(error, Error::Foreign { .. }), "{error:?}");
            assert_says(&error, words);
            assert_eq!(everything(), before);
        }
        let theirs = theirs.split(" valid_lft").next().unwrap().replace(" nodad", "");
        ip(&format!("address del {theirs}"));
    }
    bench.become_role(Role::Master);
    bench.expect(Role::Master, TABLE, "");
    // What comes later is not removed either.
    ip("address del 192.0.2.254/32 dev bond0");
    ip("address add 192.0.2.254/32 dev peer0");
    let error = bench.refused(Role::Backup);
    assert!(matches!(&error, Error::Demotion { error, .. } if matches!(**error, Error::Foreign { .. })), "{error:?}");
    assert_says(&error, &["peer0", "directs no longer"]);
    let left = addresses();
    assert!(left.contains("peer0 192.0.2.254/32 scope global"), "{left:?}");
    assert!(!left.iter().any(|line| line.starts_with("bond0 2001:db8::fe/")), "{left:?}");
    assert!(bench.node().status().unwrap().warnings[0].contains("peer0"));
    bench.node().release(|_| ()).unwrap();
    assert!(addresses().contains("peer0 192.0.2.254/32 scope global"));
}

/// Unplugged, or made anew by whoever manages the network.
#[test]
fn a_node_that_loses_its_interface_lets_go() {
    Fence::ALL.into_iter().for_each(loses_its_interface);
}

fn loses_its_interface(fence: Fence) {
    let bench = Bench::new(fence, false);
    let before = (addresses(), ipvsadm("-Sn"));
    for last in [Role::Fault, Role::Stop] {
        bench.become_role(Role::Master);
        ip("link del bond0");
        for role in [Role::Master, Role::Backup] {
            let error = bench.node().become_role(role).unwrap_err();
            assert_eq!(error.cause(), Some(Cause::NoInterface), "{error}");
            assert_says(&error, &["bond0", "no such network interface"]);
            assert_eq!(saved(), sorted(TABLE));
        }
        let status = bench.node().status().unwrap();
        assert!(status.warnings[0].contains("bond0") && status.drift.is_empty(), "{status:?}");
        bench.become_role(last);
        let table = sorted(bench.table(last, TABLE));
        assert_eq!((saved(), bench.node().status().unwrap().role), (table, Some((last, true))), "{fence}");
        if last == Role::Fault {
            // It comes back.
            add_bond0();
            add_second_node();
            bench.become_role(Role::Backup);
            bench.expect(Role::Backup, TABLE, "");
        }
    }
    bench.node().release(|_| ()).unwrap();
    assert_eq!(addresses(), ["lo 127.0.0.1/8 scope host", "lo ::1/128 scope host"].map(String::from).into());
    add_bond0();
    add_second_node();
    assert_eq!((addresses(), ipvsadm("-Sn")), before);
}

#[test]
fn without_what_it_needs_nothing_is_changed() {
    let bench = Bench::new(Fence::Marks, false);
    let before = bench.everything();
    let refused = |config: &Config, cause: Cause, words: &[&str]| {
        let error = Node::open(config.clone()).unwrap_err();
        assert_eq!(error.cause(), Some(cause), "{error:?}");
        assert_says(&error, words);
    };
    // Of this thread only.
    let all = capabilities(None).unwrap();
    let less = CapabilitySets { effective: all.effective - CapabilitySet::NET_ADMIN, ..all };
    set_capabilities(None, less).unwrap();
    let unprivileged = Node::open(bench.config.clone()).unwrap_err();
    set_capabilities(None, all).unwrap();
    assert_eq!(unprivileged.cause(), Some(Cause::Permission));
    assert_says(&unprivileged, &["CAP_NET_ADMIN"]);

    let elsewhere = Config { interface: "bond7".into(), ..bench.config.clone() };
    refused(&elsewhere, Cause::NoInterface, &["bond7", "no such network interface"]);
    for vip in ["127.0.0.1", "224.0.0.1", "fe80::1", "::ffff:192.0.2.254"] {
        let config = Config { vips: vec![vip.parse().unwrap()], ..bench.config.clone() };
        assert!(matches!(Node::open(config), Err(Error::Invalid { .. })), "{vip}");
    }
    assert_eq!(bench.everything(), before);
    assert!(!bench.config.state_dir.exists());
}

/// As examples/systemd grants them.
#[test]
fn two_capabilities_are_enough() {
    let bench = Bench::new(Fence::Marks, true).with(|config| config.marks.own_requests = OwnRequests::ServedHere);
    let all = capabilities(None).unwrap();
    let two = CapabilitySet::NET_ADMIN | CapabilitySet::NET_RAW;
    set_capabilities(None, CapabilitySets { effective: two, permitted: all.permitted, ..all }).unwrap();
    bench.become_role(Role::Backup);
    bench.become_role(Role::Master);
    let placed = addresses();
    bench.node().audit(None).unwrap();
    bench.node().repair(|_| ()).unwrap();
    bench.node().release(|_| ()).unwrap();
    set_capabilities(None, all).unwrap();
    assert_eq!(placed, bench.wanted_addresses(Role::Master));
}

#[test]
fn an_interface_that_is_down() {
    Fence::ALL.into_iter().for_each(interface_down);
}

fn interface_down(fence: Fence) {
    let bench = Bench::new(fence, false);
    // An IPv6 address leaves with the interface.
    let up = || batch("link set bond0 up\naddress add 2001:db8::11/64 dev bond0 nodad\n");
    ip("link set bond0 down");
    match fence {
        // The marks need an address of the node itself.
        Fence::Marks => assert_says(&bench.refused(Role::Master), &["no IPv6 address", "add one"]),
        // The sync daemons wait for it.
        _ => {
            let warned = bench.become_role(Role::Master).warnings().to_vec();
            assert!(warned.iter().any(|warning| warning.starts_with("the sync interface bond0 is down")), "{warned:?}");
        }
    }
    up();
    add_neighbours();
    bench.become_role(Role::Master);
    bench.expect(Role::Master, TABLE, "");
    ip("link set bond0 down");
    bench.become_role(Role::Fault);
    up();
    ip("link set peer0 down");
    bench.expect(Role::Fault, TABLE, "");
    // Up, without a carrier.
    bench.become_role(Role::Master);
    bench.expect(Role::Master, TABLE, "");
}

#[test]
fn what_the_kernel_refuses_is_undone_and_can_be_tried_again() {
    let table = |scheduler: &str| -> Option<Table> {
        let more = format!("-A -t 192.0.2.254:443 -s {scheduler}\n-a -t 192.0.2.254:443 -r 192.0.2.12:443 -g -w 1\n");
        Some(format!("{}{more}", TABLE.replace("-w 3", "-w 4")).parse().unwrap())
    };
    for (fence, from) in [(Fence::Marks, Role::Master), (Fence::Clear, Role::Master), (Fence::Clear, Role::Backup)] {
        let mut bench = Bench::new(fence, true);
        bench.become_role(from);
        let before = (addresses(), saved());
        bench.config.services = table("nosuch");
        let error = bench.refused(Role::Master);
        // Before the first step.
        assert!(matches!(error, Error::Refused { .. }), "{error:?}");
        assert_eq!(error.cause(), Some(Cause::NoModule));
        assert_says(&error, &["add service tcp 192.0.2.254:443 (scheduler nosuch)", "modprobe ip_vs_NAME"]);
        assert_eq!((addresses(), saved()), before);
        if fence == Fence::Clear {
            // A backup needs no scheduler.
            bench.become_role(Role::Backup);
            bench.expect(Role::Backup, "", "");
        }
        bench.config.services = table("lblc");
        bench.become_role(Role::Master);
        bench.expect(Role::Master, &bench.config.services.as_ref().unwrap().to_string(), "");
    }
}

#[test]
fn an_address_that_the_kernel_refuses_can_be_tried_again() {
    let bench = Bench::new(Fence::Clear, false);
    bench.become_role(Role::Backup);
    let switch = "/proc/sys/net/ipv6/conf/bond0/disable_ipv6";
    fs::write(switch, "1").unwrap();
    let error = bench.refused(Role::Master);
    assert_eq!(error.cause(), Some(Cause::NoFamily));
    assert_says(&error, &["add 2001:db8::fe to bond0", "IPv6 switched off", "run the same again"]);
    fs::write(switch, "0").unwrap();
    add_second_node();
    bench.become_role(Role::Master);
    bench.expect(Role::Master, TABLE, "");
}

#[test]
fn arp_settings_are_given_back_unless_somebody_has_changed_them() {
    let bench = Bench::new(Fence::Marks, true);
    set_sysctl("bond0", "arp_announce", 1);
    for role in [Role::Master, Role::Backup, Role::Master] {
        bench.become_role(role);
        assert_eq!(arp("bond0"), [1, 2]);
        // What somebody changes meanwhile is set again.
        set_sysctl("bond0", "arp_ignore", 0);
        bench.become_role(role);
        assert_eq!(arp("bond0"), [1, 2]);
    }
    bench.node().release(|_| ()).unwrap();
    assert_eq!(arp("bond0"), [0, 1]);
    // Each setting by itself: of two, one was changed since.
    bench.become_role(Role::Backup);
    set_sysctl("bond0", "arp_ignore", 8);
    bench.node().release(|_| ()).unwrap();
    assert_eq!(arp("bond0"), [8, 1]);
}

#[test]
fn a_vip_on_lo_that_is_answered_for_is_a_warning() {
    let bench = Bench::new(Fence::Marks, true);
    let warnings = || bench.node().plan(Role::Backup).unwrap().warnings().to_vec();
    assert_eq!(warnings(), [""; 0]);
    set_sysctl("all", "arp_ignore", 4);
    let [warning] = &bench.become_role(Role::Backup).warnings().to_vec()[..] else { panic!() };
    ["bond0", "is 4", "of 1 and, for all, 4", "set it to 1"]
        .iter()
        .for_each(|word| assert!(warning.contains(word), "{warning}"));
    set_sysctl("all", "arp_ignore", 3);
    assert_eq!(warnings(), [""; 0]);
    set_sysctl("all", "route_localnet", 1);
    assert!(warnings()[0].contains("with route_localnet on"));
    assert_eq!(bench.node().status().unwrap().warnings, warnings());
    set_sysctl("all", "arp_ignore", 2);
    assert_eq!(warnings(), [""; 0]);
    // Settings that are left alone.
    set_sysctl("all", "arp_ignore", 0);
    let bench = Bench::new(Fence::Marks, true).with(|config| config.arp = None);
    let warnings = bench.become_role(Role::Backup).warnings().to_vec();
    assert!(warnings[0].contains("arp_ignore on bond0 is 0"), "{warnings:?}");
    assert_eq!(arp("bond0"), [0, 0]);
}

#[test]
fn release_gives_everything_back() {
    for (fence, configured, loopback) in [
        (Fence::Marks, true, Loopback::Backup),
        (Fence::Marks, false, Loopback::Always),
        (Fence::Clear, true, Loopback::Always),
        (Fence::Clear, false, Loopback::Backup),
    ] {
        // Requests of the node itself are marked as well.
        let bench = Bench::new(fence, configured).with(|config| {
            (config.loopback, config.marks.own_requests) = (loopback, OwnRequests::ServedHere);
        });
        load(FOREIGN);
        let everything = || {
            let programs = ["tc qdisc show dev bond0", "iptables-legacy -t mangle -S", "ip6tables-legacy -t mangle -S"];
            let shown: String = programs.map(|program| String::from_utf8(try_run(program).stdout).unwrap()).concat();
            (addresses(), ipvsadm("-Sn"), sync_daemons(), shown, arp("bond0"), arp("all"), ipvs_sysctls())
        };
        // What loads modules is not repeated.
        bench.become_role(Role::Backup);
        bench.node().release(|_| ()).unwrap();
        let before = everything();
        for role in Role::ALL {
            bench.become_role(role);
            assert!(!bench.node().plan_release().unwrap().is_empty());
            bench.node().release(|_| ()).unwrap();
            assert_eq!(everything(), before, "{role}");
            assert!(bench.node().release(|_| ()).unwrap().is_empty());
            assert_eq!(bench.node().status().unwrap().role, None);
        }
        // What was never its own, it does not remove.
        load(if configured { TABLE } else { "" });
        let before = everything();
        assert!(bench.node().release(|_| ()).unwrap().is_empty());
        assert_eq!(everything(), before);
    }
}

#[test]
fn another_configuration_leaves_nothing_of_the_old_one() {
    Fence::ALL.into_iter().for_each(another_configuration);
}

fn another_configuration(fence: Fence) {
    const LESS: &str = "-A -t 192.0.2.254:80 -s wrr\n-a -t 192.0.2.254:80 -r 192.0.2.12:80 -g -w 1\n";
    let bench = Bench::new(fence, true)
        .with(|config| config.arp = Some(ArpConfig { settings: Settings::HIDE, scope: ArpScope::All }));
    // A VIP less, another interface, ARP settings elsewhere, services less.
    ip("address add 192.0.2.21/24 dev peer0");
    let mut changed = Config::new("peer0", [bench.config.vips[0]]);
    (changed.fence, changed.marks) = (fence, bench.config.marks.clone());
    changed.services = Some(LESS.parse().unwrap());
    changed.state_dir = bench.config.state_dir.clone();
    let changed = Bench { config: changed };
    for role in [Role::Master, Role::Backup] {
        // Also when it is killed on its way.
        let mut step = 0;
        loop {
            bench.node().release(|_| ()).unwrap();
            bench.become_role(role);
            assert_eq!((arp("all"), arp("peer0")), ([1, 2], [0, 0]));
            let died = Killed::new(&changed, &BTreeSet::new()).dies_before(role, step);
            for role in [role, if role == Role::Master { Role::Backup } else { Role::Master }] {
                changed.become_role(role);
                let what = format!("{role}, killed before step {step}");
                let mut addresses = addresses();
                addresses.remove("peer0 192.0.2.21/24 scope global");
                assert_eq!(addresses, changed.wanted_addresses(role), "{what}");
                assert_eq!(saved(), sorted(changed.table(role, LESS)), "{what}");
                assert_eq!((arp("all"), arp("peer0")), ([0, 0], [1, 2]), "{what}");
                if fence == Fence::Marks {
                    let wanted = if role == Role::Master { 2 } else { 3 };
                    assert_eq!((rule_count("peer0"), rule_count("bond0")), (wanted, 0), "{what}");
                }
            }
            if !died {
                break;
            }
            step += 1;
        }
        assert!(step > 4, "{step} steps only");
        changed.node().release(|_| ()).unwrap();
    }
}

#[test]
fn a_vip_that_is_missing_for_a_while_loses_no_service() {
    let both = Bench::new(Fence::Clear, false);
    both.become_role(Role::Backup);
    let mut one = both.config.clone();
    one.vips.truncate(1);
    let ipv4: String = TABLE.lines().filter(|line| !line.contains("2001")).map(|line| format!("{line}\n")).collect();
    let mut node = Node::open(one).unwrap();
    for role in [Role::Backup, Role::Master, Role::Master, Role::Backup] {
        node.become_role(role).unwrap();
        assert_eq!(saved(), if role == Role::Master { sorted(&ipv4) } else { String::new() });
        assert!(node.plan(role).unwrap().is_empty());
    }
    both.become_role(Role::Master);
    both.expect(Role::Master, TABLE, "");
    // Where it directs, the services of such a VIP are nobody's to remove.
    node.become_role(Role::Backup).unwrap();
    assert!(saved().contains("-A -t [2001:db8::fe]:80 -s rr"));
    both.become_role(Role::Master);
    both.expect(Role::Master, TABLE, "");
}

#[test]
fn services_are_loaded_once_and_then_belong_to_their_editors() {
    for fence in Fence::ALL {
        let bench = Bench::new(fence, true);
        bench.become_role(Role::Master);
        // A health check takes a server out, brings one back with another weight, removes one, and
        // adds one.
        ipvsadm("-e -t 192.0.2.254:80 -r 192.0.2.12:80 -g -w 0");
        ipvsadm("-e -t 192.0.2.254:80 -r 192.0.2.11:80 -g -w 7");
        ipvsadm("-d -u 192.0.2.254:53 -r 192.0.2.12:53");
        ipvsadm("-a -t [2001:db8::fe]:80 -r [2001:db8::11]:80 -g -w 5");
        ipvsadm("-D -f 7");
        let edited = saved();
        for round in 0..10 {
            for role in [Role::Backup, Role::Master] {
                bench.become_role(role);
                let table = if bench.table(role, "all").is_empty() { "" } else { &edited };
                assert_eq!(saved(), table, "{fence}: round {round}, {role}");
                let repaired = bench.node().repair(|_| ()).unwrap();
                assert!(repaired.is_empty(), "{fence}: {repaired}");
            }
        }
        let status = bench.node().status().unwrap();
        assert_eq!((status.missing, status.drift), (vec![], vec![]));
        // Nor does a fix of something else, and an audit finds nothing in the table.
        for role in [Role::Backup, Role::Master] {
            bench.become_role(role);
            let table = saved();
            fs::write("/proc/sys/net/ipv4/conf/bond0/arp_ignore", "0").unwrap();
            let mut node = bench.node();
            let found = node.audit(None).unwrap();
            let names: Vec<&str> = found.iter().map(|finding| finding.kind.name()).collect();
            assert!(names.contains(&"arp-answer") && !names.contains(&"table-differs"), "{names:?}");
            let fixed = node.fix(|_| ()).unwrap();
            assert!(!fixed.is_empty() && !fixed.to_string().contains("IPVS"), "{fence} {role}: {fixed}");
            assert_eq!(saved(), table, "{fence} {role}");
            assert_eq!(fs::read_to_string("/proc/sys/net/ipv4/conf/bond0/arp_ignore").unwrap(), "1\n");
        }
        // Flushed, or after a reboot: the configuration's, by a repair or by the next role. Fence
        // `clear` has kept the edits.
        for repairs in [true, false] {
            run("ipvsadm -C");
            match repairs {
                true => drop(bench.node().repair(|_| ()).unwrap()),
                false => drop(bench.become_role(Role::Master)),
            }
            bench.expect(Role::Master, if fence == Fence::Clear { &edited } else { TABLE }, "");
        }
    }
}

#[test]
fn apply_brings_in_what_the_configuration_has_changed() {
    for fence in Fence::ALL {
        let mut bench = Bench::new(fence, true);
        let error = bench.node().apply(Apply::Changes, |_| ()).unwrap_err();
        assert!(matches!(error, Error::Invalid { .. }), "{error:?}");
        assert_says(&error, &["taken on no role yet"]);
        bench.become_role(Role::Master);
        assert!(bench.node().apply(Apply::All, |_| ()).unwrap().is_empty());
        // A health check has taken a server out, which the configuration does not change.
        ipvsadm("-e -t 192.0.2.254:80 -r 192.0.2.12:80 -g -w 0");
        let edited = saved();
        assert!(bench.node().apply(Apply::Changes, |_| ()).unwrap().is_empty());
        let all = bench.node().plan_apply(Apply::All).unwrap().to_string();
        assert!(all.contains("IPVS: 1 change\n     -e -t 192.0.2.254:80 -r 192.0.2.12:80 -g -w 3\n"), "{all}");
        // A weight more for one server, another new, a service gone.
        let changed = TABLE.replace("192.0.2.11:80 -g -w 1", "192.0.2.11:80 -g -w 2");
        let changed = lines(&changed, |line| !line.contains(" -u "));
        let changed = format!("{changed}-a -t 192.0.2.254:80 -r 192.0.2.14:80 -g -w 1\n");
        bench.config.services = Some(changed.parse().unwrap());
        let plan = bench.node().plan_apply(Apply::Changes).unwrap();
        assert_eq!(saved(), edited);
        let text = plan.to_string();
        for change in
            ["-e -t 192.0.2.254:80 -r 192.0.2.11:80 -g -w 2", "-a -t 192.0.2.254:80 -r 192.0.2.14:80", "-D -u "]
        {
            assert!(text.contains(change), "no {change} in {text}");
        }
        // Destinations and services are changed in place: their connections stay.
        assert!(!text.contains("-D -t") && !text.contains("-d -t"), "{text}");
        let mut steps = Vec::new();
        bench.node().apply(Apply::Changes, |step| steps.push(step.clone())).unwrap();
        assert_eq!(steps, plan.steps());
        let wanted = changed.replace("192.0.2.12:80 -g -w 3", "192.0.2.12:80 -g -w 0");
        assert_eq!(saved(), sorted(&wanted), "{fence}");
        assert!(bench.node().apply(Apply::Changes, |_| ()).unwrap().is_empty());
        bench.node().apply(Apply::All, |_| ()).unwrap();
        assert_eq!(saved(), sorted(&changed));
        // A role brings in what was changed as well, on a backup too.
        bench.become_role(Role::Backup);
        bench.config.services = Some(TABLE.parse().unwrap());
        bench.become_role(Role::Backup);
        bench.become_role(Role::Master);
        assert_eq!(saved(), sorted(TABLE));
    }
}

/// Two groups of VIPs of one node, each with a state of its own.
struct Groups([Bench; 2]);

const GROUPS: [&str; 2] = ["web", "my mail"];

impl Groups {
    fn new(fence: Fence, configured: bool) -> Self {
        enter_node_netns();
        add_second_node();
        let dir = new_path();
        let bench = |index: usize| {
            let vip: IpAddr = VIPS[index].parse().unwrap();
            let mut config = Config::new("bond0", [vip]);
            (config.group, config.groups) = (GROUPS[index].into(), GROUPS.map(String::from).into());
            (config.state_dir, config.fence) = (dir.clone(), fence);
            config.marks.own_requests = OwnRequests::LeftAlone;
            config.sync.id = 9;
            if configured {
                config.services = Some(group_table(index).parse().unwrap());
            }
            Bench { config }
        };
        if !configured {
            load(WEB);
        }
        Groups([bench(0), bench(1)])
    }

    /// Judges everything about the roles that are reached.
    fn expect(&self, roles: [Role; 2]) {
        let mut wanted: BTreeSet<String> = self.0[0].wanted_addresses(roles[0]);
        wanted.extend(self.0[1].wanted_addresses(roles[1]));
        assert_eq!(addresses(), wanted, "{roles:?}");
        let table: String = (0..2).map(|index| self.0[index].table(roles[index], group_table(index))).collect();
        assert_eq!(saved(), sorted(&table), "{roles:?}");
        let directs = roles.contains(&Role::Master);
        let daemons: &[&str] = if directs { &["master", "backup"] } else { &["backup"] };
        assert_eq!(sync_daemons(), daemons, "{roles:?}");
        if self.0[0].config.fence == Fence::Marks {
            let backups = roles.iter().filter(|role| **role != Role::Master).count();
            assert_eq!(rule_count("bond0"), 6 + backups, "{roles:?}");
            // One for the node itself, one for the director of each group, and one for own
            // requests.
            let marks: BTreeSet<String> =
                saved_marks().lines().filter_map(|line| Some(line.split(' ').nth(2)?.to_owned())).collect();
            assert!(marks.len() == 4 && marks.contains("1280725760"), "{marks:?}");
        }
        for (bench, role) in self.0.iter().zip(roles) {
            let status = bench.node().status().unwrap();
            assert_eq!((status.role, status.missing, status.warnings), (Some((role, true)), vec![], vec![]));
        }
        assert_eq!(arp("bond0"), [1, 2]);
    }
}

fn group_table(index: usize) -> &'static str {
    let (first, second) = WEB.split_at(WEB.find("-A -t [").unwrap());
    [first, second][index]
}

#[test]
fn groups_have_roles_of_their_own() {
    for (fence, configured) in
        [(Fence::Marks, true), (Fence::Marks, false), (Fence::Clear, true), (Fence::Clear, false)]
    {
        let groups = Groups::new(fence, configured);
        let [web, mail] = &groups.0;
        web.become_role(Role::Backup);
        mail.become_role(Role::Backup);
        let mut roles = [Role::Backup; 2];
        groups.expect(roles);
        // Each change of one group from each pair of roles.
        for (index, role) in [
            (0, Role::Master),
            (1, Role::Master),
            (0, Role::Backup),
            (0, Role::Master),
            (1, Role::Fault),
            (1, Role::Master),
            (1, Role::Stop),
            (0, Role::Stop),
        ] {
            let other = groups.0[1 - index].node().generation().unwrap();
            groups.0[index].become_role(role);
            roles[index] = role;
            groups.expect(roles);
            // It is no request of the other group.
            assert_eq!(groups.0[1 - index].node().generation().unwrap(), other);
            assert!(groups.0.iter().all(|group| group.node().repair(|_| ()).unwrap().is_empty()));
        }
    }
}

#[test]
fn what_groups_share_goes_with_the_last_of_them() {
    for (fence, configured) in
        [(Fence::Marks, true), (Fence::Marks, false), (Fence::Clear, true), (Fence::Clear, false)]
    {
        for first in [0, 1] {
            let groups = Groups::new(fence, configured);
            let everything = || {
                let qdisc = run("tc qdisc show dev bond0");
                (addresses(), ipvsadm("-Sn"), sync_daemons(), qdisc, arp("bond0"), ipvs_sysctls())
            };
            groups.0[0].become_role(Role::Backup);
            groups.0.iter().for_each(|group| drop(group.node().release(|_| ()).unwrap()));
            let before = everything();
            let [gone, stays] = if first == 0 { [&groups.0[0], &groups.0[1]] } else { [&groups.0[1], &groups.0[0]] };
            gone.become_role(Role::Master);
            stays.become_role(Role::Backup);
            let sysctls = ipvs_sysctls();
            gone.node().release(|_| ()).unwrap();
            // The other one is as it was, and what both need is there.
            let role = stays.node().status().unwrap();
            assert_eq!((role.role, role.missing), (Some((Role::Backup, true)), vec![]), "{fence}, {configured}");
            assert_eq!(addresses(), stays.wanted_addresses(Role::Backup));
            assert_eq!((arp("bond0"), ipvs_sysctls(), sync_daemons()), ([1, 2], sysctls, vec!["backup".to_owned()]));
            if fence == Fence::Marks {
                assert_eq!(rule_count("bond0"), 4);
            }
            assert!(gone.node().release(|_| ()).unwrap().is_empty());
            stays.node().release(|_| ()).unwrap();
            assert_eq!(everything(), before, "{fence}, {configured}");
            assert!(!stays.state_file().exists());
        }
    }
}

#[test]
fn requests_of_one_group_do_not_supersede_those_of_another() {
    let groups = Groups::new(Fence::Marks, true);
    groups.0.iter().for_each(|group| drop(group.become_role(Role::Backup)));
    let lock = fs::File::open(groups.0[0].config.state_dir.join("lock")).unwrap();
    flock(&lock, FlockOperation::NonBlockingLockExclusive).unwrap();
    let mut waiting = Vec::new();
    for (index, role) in [(0, Role::Fault), (1, Role::Master), (0, Role::Master), (1, Role::Fault), (1, Role::Master)] {
        let group = &groups.0[index];
        let number = group.node().generation().unwrap();
        waiting.push(fork(|| exit_code(group.node().become_role(role))));
        let start = Instant::now();
        while group.node().generation().unwrap() == number {
            assert!(start.elapsed() < Duration::from_secs(10), "no number is drawn");
            thread::sleep(Duration::from_millis(1));
        }
    }
    flock(&lock, FlockOperation::Unlock).unwrap();
    let ends: Vec<_> = waiting.into_iter().map(|pid| wait(pid).unwrap()).collect();
    assert_eq!(ends, [3, 3, 0, 3, 0]);
    groups.expect([Role::Master, Role::Master]);
}

#[test]
fn killed_at_every_step_of_a_group() {
    for (fence, configured) in [(Fence::Marks, true), (Fence::Clear, true), (Fence::Marks, false)] {
        let groups = Groups::new(fence, configured);
        let [web, mail] = &groups.0;
        // Both know all other nodes.
        web.become_role(Role::Backup);
        for (other, first, then) in [
            (Role::Master, Role::Master, Role::Backup),
            (Role::Backup, Role::Master, Role::Backup),
            (Role::Master, Role::Backup, Role::Master),
            (Role::Backup, Role::Backup, Role::Master),
        ] {
            mail.become_role(other);
            for step in 0.. {
                web.become_role(first);
                let died = Killed::new(web, &BTreeSet::new()).dies_before(then, step);
                // The other group is not concerned.
                assert_eq!(mail.node().role().unwrap(), Some((other, true)));
                let next = [Role::Master, Role::Backup][step % 2];
                web.become_role(next);
                groups.expect([next, other]);
                if !died {
                    // A promotion beside another group's director: recorded, VIP, rule, recorded.
                    assert!(step >= 4, "{step} steps only");
                    break;
                }
            }
        }
    }
}

/// A node with one group becomes one with two, and the other way round: the VIPs of neither are
/// ever missing.
#[test]
fn a_node_is_divided_into_groups_and_united_again() {
    for (fence, configured) in
        [(Fence::Marks, true), (Fence::Marks, false), (Fence::Clear, true), (Fence::Clear, false)]
    {
        for role in [Role::Master, Role::Backup] {
            let groups = Groups::new(fence, configured);
            let mut one = groups.0[0].config.clone();
            (one.group, one.groups) = (String::new(), [String::new()].into());
            one.vips = VIPS.map(|vip| vip.parse().unwrap()).to_vec();
            one.services = configured.then(|| WEB.parse().unwrap());
            let one = Bench { config: one };
            let sane = |step: &Step| {
                let held = addresses();
                let places = ["lo", "bond0"];
                let there = |vip: &IpAddr| places.iter().any(|place| held.contains(&form(*vip, place)));
                assert!(one.config.vips.iter().all(there), "before {step}: {held:?}");
            };
            one.become_role(role);
            for (index, group) in groups.0.iter().enumerate() {
                group.node().become_role_with(role, sane).unwrap();
                // Until each group has its role, the VIPs of the others are where they were.
                assert_eq!(addresses(), one.wanted_addresses(role), "{fence}, {configured}, {index}");
            }
            groups.expect([role; 2]);
            let files = || {
                let mut names: Vec<String> = fs::read_dir(&one.config.state_dir)
                    .unwrap()
                    .map(|file| file.unwrap().file_name().into_string().unwrap())
                    .filter(|name| name.starts_with("loaded") || name.starts_with("table"))
                    .collect();
                names.sort();
                names
            };
            assert!(files().iter().all(|file| file.ends_with(".web") || file.ends_with(".my%20mail")), "{:?}", files());
            one.node().become_role_with(role, sane).unwrap();
            assert_eq!(addresses(), one.wanted_addresses(role));
            assert_eq!(saved(), sorted(one.table(role, WEB)));
            assert!(files().iter().all(|file| file == "loaded" || file == "table"), "{:?}", files());
            one.node().release(|_| ()).unwrap();
            assert_eq!(saved(), sorted(if configured { "" } else { WEB }), "{fence}");
            assert!(!one.state_file().exists());
        }
    }
}
