//! A thousand role changes: random ones that overlap, and of which many are killed. The node ends in the last that was asked for and not
//! killed, and nothing else is left of them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use lvs_dr::node::{Config, Fence, Loopback, Node, Role, Step, VipOwner};
use rustix::fs::{FlockOperation, flock};

use crate::cli::lvs_node;
use crate::fence::{HASHED, TABLE, daemons};
use crate::lab::{ip, run};
use crate::node::{
    Numbers, VIPS, addresses, arp, enter_node_netns, exit_code, form, kernel_table, kill, lend, load, new_path,
};

/// Who asks for a role, and how that ends.
#[derive(Debug, Clone, Copy)]
enum Way {
    /// A thread of this process.
    Thread,
    /// A process that dies before a step, if there are as many.
    DiesBefore(usize),
    /// `lvs-node`, killed after a while, if it has not ended by then.
    Program(Option<Duration>),
}

/// The exit code, as `lvs-node` has it; `None`: killed.
type End = Option<i32>;

/// A node that is changed, and what it was at first.
struct Chaos {
    config: Config,
    program: PathBuf,
    file: PathBuf,
    numbers: Numbers,
    tables: [BTreeSet<String>; 2],
    first: Everything,
    counts: BTreeMap<&'static str, usize>,
}

/// What a node may change, in the kernel and in this process.
#[derive(Debug, PartialEq)]
struct Everything {
    addresses: BTreeSet<String>,
    table: BTreeSet<String>,
    daemons: Vec<String>,
    sysctls: BTreeMap<PathBuf, String>,
}

impl Everything {
    fn now() -> Self {
        let mut sysctls = BTreeMap::new();
        for directory in
            ["ipv4/vs", "ipv4/conf/all", "ipv4/conf/bond0", "ipv4/conf/lo", "ipv6/conf/bond0", "ipv6/conf/lo"]
        {
            for file in fs::read_dir(Path::new("/proc/sys/net").join(directory)).unwrap() {
                let path = file.unwrap().path();
                // Some can only be written.
                let value = fs::read_to_string(&path).unwrap_or_default();
                sysctls.insert(path, value);
            }
        }
        Everything { addresses: addresses(), table: kernel_table(), daemons: daemons(), sysctls }
    }
}

fn descriptors() -> usize {
    fs::read_dir("/proc/self/fd").unwrap().count()
}

/// The processes that run this program.
fn running(program: &str) -> usize {
    let processes =
        fs::read_dir("/proc").unwrap().filter_map(|entry| fs::read_to_string(entry.unwrap().path().join("comm")).ok());
    processes.filter(|name| name.trim_end() == program).count()
}

impl Chaos {
    fn new(fence: Fence, owner: VipOwner, configured: bool, loopback: Loopback, seed: u64) -> Self {
        println!("{fence:?}, {owner:?}, {loopback:?}, seed {seed}");
        enter_node_netns();
        ip("address add 2001:db8::11/64 dev bond0 nodad");
        let table = if fence == Fence::Stateless { HASHED } else { TABLE };
        let dir = new_path();
        fs::create_dir_all(&dir).unwrap();
        let mut config = Config::new("bond0", VIPS.map(|vip| vip.parse().unwrap()));
        (config.fence, config.vip_owner, config.loopback) = (fence, owner, loopback);
        (config.settle, config.drain) = (Duration::from_millis(3), Duration::from_millis(3));
        (config.announcements, config.state_dir) = (1, dir.join("state"));
        config.services = configured.then(|| table.parse().unwrap());
        load(table);
        let full = kernel_table();
        let quiesced = full.iter().map(|line| quiesced(line)).collect();
        let backup = match fence {
            Fence::Quiesce => quiesced,
            Fence::Clear => BTreeSet::new(),
            _ => full.clone(),
        };
        if configured {
            run("ipvsadm -C");
        }
        let words =
            |value: &dyn std::fmt::Debug| format!("{value:?}").to_lowercase().replace("backuponly", "backup-only");
        let mut file = format!(
            "interface = \"bond0\"\nvips = {VIPS:?}\nfence = {:?}\nvip_owner = {:?}\nloopback = {:?}\nstate_dir = {:?}\n\
             settle = 0.003\ndrain = 0.003\nannouncements = 1\n",
            words(&fence),
            words(&owner),
            words(&loopback),
            config.state_dir
        );
        if configured {
            fs::write(dir.join("web.ipvs"), table).unwrap();
            file += "services = \"web.ipvs\"\n";
        }
        fs::write(dir.join("node.toml"), file).unwrap();
        Chaos {
            config,
            program: lvs_node(),
            file: dir.join("node.toml"),
            numbers: Numbers(seed),
            tables: [full, backup],
            first: Everything::now(),
            counts: BTreeMap::new(),
        }
    }

    /// Asks for a role in a way that may end before it is reached.
    fn begin(&self, role: Role, way: Way) -> JoinHandle<End> {
        let config = self.config.clone();
        let mut program = Command::new(&self.program);
        program.arg("--quiet").arg("--config").arg(&self.file).args(["role", &role.to_string()]).stderr(Stdio::null());
        thread::spawn(move || match way {
            Way::Thread => Some(exit_code(Node::open(config).unwrap().become_role(role))),
            Way::DiesBefore(step) => {
                let mut count = 0;
                let die = |_: &Step| {
                    if count == step {
                        kill(std::process::id() as i32);
                    }
                    count += 1;
                };
                let work = || {
                    // Those of this process, whose locks it would hold as long as it lives.
                    // SAFETY: in a process of its own, which uses no descriptor but those that it opens.
                    unsafe { libc::close_range(3, u32::MAX, 0) };
                    exit_code(Node::open(config).unwrap().become_role_with(role, die))
                };
                lend(work).ok()
            }
            Way::Program(None) => program.status().unwrap().code(),
            Way::Program(Some(time)) => {
                let mut process = program.spawn().unwrap();
                thread::sleep(time);
                process.kill().unwrap();
                process.wait().unwrap().code()
            }
        })
    }

    fn drawn(&self) -> String {
        fs::read_to_string(self.config.state_dir.join("generation"))
            .unwrap_or_default()
            .split(' ')
            .next()
            .unwrap()
            .into()
    }

    /// Some requests, each begun as soon as the one before it has its number. The last that was not killed is the one that counts.
    fn batch(&mut self, size: usize) {
        // Half of the time they all have to wait for somebody else, who then lets go.
        let lock = fs::File::create(self.config.state_dir.join("lock")).unwrap();
        let held = self.numbers.next(2) == 0;
        if held {
            flock(&lock, FlockOperation::LockExclusive).unwrap();
        }
        let mut requests = Vec::new();
        for _ in 0..size {
            let way = match self.numbers.next(20) {
                0..10 => Way::Thread,
                10..17 => Way::DiesBefore(self.numbers.next(9) as usize),
                17..19 => Way::Program(Some(Duration::from_micros(self.numbers.next(60_000)))),
                _ => Way::Program(None),
            };
            let (role, number) = (Role::ALL[self.numbers.next(4) as usize], self.drawn());
            let request = self.begin(role, way);
            while self.drawn() == number && !request.is_finished() {
                thread::sleep(Duration::from_micros(200));
            }
            requests.push((role, way, request));
        }
        if self.config.vip_owner == VipOwner::Keepalived && self.numbers.next(3) == 0 {
            self.move_vip();
        }
        thread::sleep(Duration::from_micros(self.numbers.next(5_000)));
        flock(&lock, FlockOperation::Unlock).unwrap();
        let ends: Vec<(Role, Way, End)> =
            requests.into_iter().map(|(role, way, request)| (role, way, request.join().unwrap())).collect();
        for (_, _, end) in &ends {
            *self
                .counts
                .entry(match end {
                    None => "killed",
                    Some(0) => "reached",
                    _ => "overtaken",
                })
                .or_default() += 1;
        }
        assert!(ends.iter().all(|(_, _, end)| matches!(end, None | Some(0 | 3))), "{ends:?}");
        let Some((role, _, end)) = ends.iter().rfind(|(_, _, end)| end.is_some()) else { return };
        assert_eq!(*end, Some(0), "{ends:?}, held: {held}");
        // What was killed after it may have left anything.
        if ends.last().unwrap().2.is_some() {
            self.expect(*role, &format!("{ends:?}, held: {held}"));
        }
    }

    /// What keepalived does.
    fn move_vip(&mut self) {
        let there = addresses().contains(&form(self.config.vips[0], "bond0"));
        let verb = if there { "del" } else { "add" };
        ip(&format!("address {verb} 192.0.2.254/32 dev bond0"));
        ip(&format!("address {verb} 2001:db8::fe/128 dev bond0 nodad preferred_lft 0"));
    }

    fn expect(&self, role: Role, what: &str) {
        let master = role == Role::Master;
        let mut wanted = self.first.addresses.clone();
        let found = addresses();
        for vip in &self.config.vips {
            let (lo, bond0) = (form(*vip, "lo"), form(*vip, "bond0"));
            if !master || self.config.loopback == Loopback::Always {
                wanted.insert(lo);
            }
            match self.config.vip_owner {
                VipOwner::Node if !master => {}
                // Where keepalived has put it, or not.
                VipOwner::Keepalived if !found.contains(&bond0) => {}
                _ => drop(wanted.insert(bond0)),
            }
        }
        assert_eq!(found, wanted, "{role}: {what}");
        assert_eq!(kernel_table(), self.tables[usize::from(!master)], "{role}: {what}");
        let daemon = match self.config.fence {
            Fence::Quiesce if master => vec!["master", "backup"],
            Fence::Quiesce | Fence::BackupOnly => vec![if master { "master" } else { "backup" }],
            _ => vec![],
        };
        assert_eq!(daemons(), daemon, "{role}: {what}");
        assert_eq!(arp("bond0"), [1, 2], "{role}: {what}");
        let mut node = Node::open(self.config.clone()).unwrap();
        let status = node.status().unwrap();
        assert_eq!((status.role, status.missing), (Some((role, true)), vec![]), "{what}");
    }
}

/// A line of the kernel's table as a quiesced backup has it.
fn quiesced(line: &str) -> String {
    let own = line.contains("-> C000020B:") || line.contains("-> [2001:0db8:0000:0000:0000:0000:0000:0011]:");
    let Some((service, destination)) = line.split_once("  -> ").filter(|_| !own) else { return line.to_owned() };
    // `ADDRESS:PORT  Route  WEIGHT  0  0`
    let weight = destination.split_whitespace().nth(2).unwrap();
    format!("{service}  -> {}", destination.replace(&format!(" {weight} "), " 0 "))
}

/// This many changes of a node, with the seed in the environment's CHAOS_SEED or another each time.
fn chaos(fence: Fence, owner: VipOwner, configured: bool, loopback: Loopback, changes: usize) {
    let seed = std::env::var("CHAOS_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(|| {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        u64::from(now.subsec_nanos()) | 1
    });
    let mut node = Chaos::new(fence, owner, configured, loopback, seed);
    // What loads modules and makes directories is not repeated.
    Node::open(node.config.clone()).unwrap().become_role(Role::Backup).unwrap();
    node.expect(Role::Backup, "first");
    let (before, start) = (descriptors(), Instant::now());
    let mut left = changes - 1;
    while left > 0 {
        let size = (1 + node.numbers.next(8) as usize).min(left);
        node.batch(size);
        left -= size;
    }
    // Whatever the last of them left.
    let last = Role::ALL[node.numbers.next(4) as usize];
    Node::open(node.config.clone()).unwrap().become_role(last).unwrap();
    node.expect(last, "last");
    println!("  {changes} changes in {:?}: {:?}", start.elapsed(), node.counts);
    if addresses().contains(&form(node.config.vips[0], "bond0")) && owner == VipOwner::Keepalived {
        node.move_vip();
    }
    Node::open(node.config.clone()).unwrap().release(|_| ()).unwrap();
    assert_eq!(Everything::now(), node.first);
    // Others' tests may have some open.
    assert!(descriptors() < before + 10, "{before} descriptors before, {} after", descriptors());
    assert_eq!(running("lvs-node"), 0);
    let mut files: Vec<_> =
        fs::read_dir(&node.config.state_dir).unwrap().map(|file| file.unwrap().file_name()).collect();
    files.sort();
    assert_eq!(files, ["generation", "lock"]);
    let lock = fs::File::open(node.config.state_dir.join("lock")).unwrap();
    flock(&lock, FlockOperation::NonBlockingLockExclusive).expect("nobody holds the lock any more");
    fs::remove_dir_all(node.file.parent().unwrap()).unwrap();
}

#[test]
fn a_thousand_changes_quiesce() {
    chaos(Fence::Quiesce, VipOwner::Node, true, Loopback::Always, 150);
    chaos(Fence::Quiesce, VipOwner::Keepalived, false, Loopback::Always, 150);
}

#[test]
fn a_thousand_changes_stateless() {
    chaos(Fence::Stateless, VipOwner::Node, false, Loopback::Always, 100);
    chaos(Fence::Stateless, VipOwner::Keepalived, true, Loopback::Always, 100);
}

#[test]
fn a_thousand_changes_backup_only() {
    chaos(Fence::BackupOnly, VipOwner::Node, true, Loopback::Always, 200);
}

#[test]
fn a_thousand_changes_clear() {
    chaos(Fence::Clear, VipOwner::Node, false, Loopback::Backup, 150);
    chaos(Fence::Clear, VipOwner::Keepalived, true, Loopback::Always, 150);
}
