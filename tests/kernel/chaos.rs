//! Some hundred role changes: random ones that overlap, and of which many are killed. A node, or
//! each group of it, ends in the last role that was asked for and not killed, and nothing else is
//! left of them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use lvs_dr::node::{Config, Fence, Loopback, Node, OwnRequests, Role, Step, VipOwner};
use rustix::fs::{FlockOperation, flock};

use crate::cli::lvs_node;
use crate::lab::{ip, run};
use crate::node::{
    Numbers, VIPS, WEB, add_second_node, addresses, arp, enter_node_netns, exit_code, form, kernel_table, kill,
    latest_request, lend, load, new_path, rule_count, saved_marks, sync_daemons,
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
    /// One for each group of VIPs.
    configs: Vec<Config>,
    program: PathBuf,
    file: PathBuf,
    numbers: Numbers,
    /// The services of each group.
    tables: Vec<BTreeSet<String>>,
    /// The role of each group; `None`: the last request for it was killed.
    roles: Vec<Option<Role>>,
    first: Everything,
    counts: BTreeMap<&'static str, usize>,
}

/// What a node may change, in the kernel and in this process.
#[derive(Debug, PartialEq)]
struct Everything {
    addresses: BTreeSet<String>,
    table: BTreeSet<String>,
    marks: String,
    qdiscs: String,
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
        let (table, marks, daemons) = (kernel_table(), saved_marks(), sync_daemons());
        Everything { addresses: addresses(), table, marks, qdiscs: run("tc qdisc show dev bond0"), daemons, sysctls }
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

/// What is changed, and how.
#[derive(Debug, Clone, Copy)]
struct Kind {
    fence: Fence,
    owner: VipOwner,
    configured: bool,
    loopback: Loopback,
    /// Each VIP is of a group of its own.
    groups: bool,
}

const NAMES: [&str; 2] = ["web", "my mail"];

impl Chaos {
    fn new(kind: Kind, seed: u64) -> Self {
        println!("{kind:?}, seed {seed}");
        enter_node_netns();
        add_second_node();
        let dir = new_path();
        fs::create_dir_all(&dir).unwrap();
        let table: lvs_dr::ipvs::Table = WEB.parse().unwrap();
        let config = |vips: &[&str], name: &str, names: &[&str]| {
            let mut config = Config::new("bond0", vips.iter().map(|vip| vip.parse().unwrap()));
            (config.group, config.groups) = (name.into(), names.iter().map(|name| (*name).to_owned()).collect());
            (config.fence, config.vip_owner, config.loopback) = (kind.fence, kind.owner, kind.loopback);
            (config.announcements, config.state_dir, config.sync.id) = (1, dir.join("state"), 9);
            // To look at them starts several programs: at those of groups only.
            config.marks.own_requests = if kind.groups { OwnRequests::ServedHere } else { OwnRequests::LeftAlone };
            let own =
                |id: &lvs_dr::ipvs::ServiceId| id.address().is_some_and(|found| config.vips.contains(&found.ip()));
            config.services = kind.configured.then(|| table.filtered(own));
            config
        };
        let configs = match kind.groups {
            true => [0, 1].map(|index| config(&[VIPS[index]], NAMES[index], &NAMES)).to_vec(),
            false => vec![config(&VIPS, "", &[""])],
        };
        load(WEB);
        let full = kernel_table();
        if kind.configured {
            run("ipvsadm -C");
        }
        let words = |value: &dyn std::fmt::Debug| format!("{value:?}").to_lowercase();
        let head = match kind.groups {
            true => String::new(),
            false => format!("vips = {VIPS:?}\n"),
        };
        let own_requests = if kind.groups { "served-here" } else { "left-alone" };
        let mut file = format!(
            "interface = \"bond0\"\n{head}fence = {:?}\nvip_owner = {:?}\nloopback = {:?}\nstate_dir = {:?}\nannouncements = 1\n",
            words(&kind.fence),
            words(&kind.owner),
            words(&kind.loopback),
            configs[0].state_dir
        );
        if kind.configured {
            fs::write(dir.join("web.ipvs"), WEB).unwrap();
            file += "services = \"web.ipvs\"\n";
        }
        file += &format!("[sync]\nid = 9\n[marks]\nown_requests = {own_requests:?}\n");
        for config in configs.iter().filter(|_| kind.groups) {
            file += &format!("[[group]]\nname = {:?}\nvips = [\"{}\"]\n", config.group, config.vips[0]);
        }
        fs::write(dir.join("node.toml"), file).unwrap();
        // `TCP  C00002FE:0050 wrr`, `TCP  [2001:0db8:...]:0050 rr`
        let of = |config: &Config| {
            let is_of = |line: &&String| config.vips.iter().any(|vip| vip.is_ipv6() == line.contains("TCP  ["));
            full.iter().filter(is_of).cloned().collect()
        };
        Chaos {
            tables: configs.iter().map(of).collect(),
            roles: vec![None; configs.len()],
            configs,
            program: lvs_node(),
            file: dir.join("node.toml"),
            numbers: Numbers(seed),
            first: Everything::now(),
            counts: BTreeMap::new(),
        }
    }

    /// Asks for a role in a way that may end before it is reached.
    fn begin(&self, group: usize, role: Role, way: Way) -> JoinHandle<End> {
        let config = self.configs[group].clone();
        let mut program = Command::new(&self.program);
        if !config.group.is_empty() {
            program.args(["--group", &config.group]);
        }
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
                    // SAFETY: in a process of its own, which uses no descriptor but those that it
                    // opens.
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

    /// The number of the group's last request.
    fn drawn(&self, group: usize) -> u64 {
        let config = &self.configs[group];
        let name = match config.group.as_str() {
            "" => String::new(),
            name => format!(".{}", name.replace(' ', "%20")),
        };
        latest_request(&config.state_dir, &name)
    }

    /// Some requests, each begun as soon as the one before it has its number. The last for a group
    /// that was not killed is the one that counts.
    fn batch(&mut self, size: usize) {
        // Half of the time they all have to wait for somebody else, who then lets go.
        let lock = fs::File::create(self.configs[0].state_dir.join("lock")).unwrap();
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
            let group = self.numbers.next(self.configs.len() as u64) as usize;
            let (role, number) = (Role::ALL[self.numbers.next(4) as usize], self.drawn(group));
            let request = self.begin(group, role, way);
            while self.drawn(group) == number && !request.is_finished() {
                thread::sleep(Duration::from_micros(200));
            }
            requests.push((group, role, way, request));
        }
        if self.configs[0].vip_owner == VipOwner::Keepalived && self.numbers.next(3) == 0 {
            self.move_vip();
        }
        thread::sleep(Duration::from_micros(self.numbers.next(5_000)));
        flock(&lock, FlockOperation::Unlock).unwrap();
        let ends: Vec<(usize, Role, Way, End)> = requests
            .into_iter()
            .map(|(group, role, way, request)| (group, role, way, request.join().unwrap()))
            .collect();
        for (.., end) in &ends {
            *self
                .counts
                .entry(match end {
                    None => "killed",
                    Some(0) => "reached",
                    _ => "superseded",
                })
                .or_default() += 1;
        }
        let what = format!("{ends:?}, held: {held}");
        assert!(ends.iter().all(|(.., end)| matches!(end, None | Some(0 | 3))), "{what}");
        for group in 0..self.configs.len() {
            let own = || ends.iter().filter(|(of, ..)| *of == group);
            if let Some((_, role, _, end)) = own().rfind(|(.., end)| end.is_some()) {
                assert_eq!(*end, Some(0), "{what}");
                self.roles[group] = Some(*role);
            }
            // What was killed after it may have left anything.
            if own().next_back().is_some_and(|(.., end)| end.is_none()) {
                self.roles[group] = None;
            }
        }
        self.expect(&what);
    }

    /// What keepalived does.
    fn move_vip(&mut self) {
        let there = addresses().contains(&form(self.configs[0].vips[0], "bond0"));
        let verb = if there { "del" } else { "add" };
        ip(&format!("address {verb} 192.0.2.254/32 dev bond0"));
        ip(&format!("address {verb} 2001:db8::fe/128 dev bond0 nodad preferred_lft 0"));
    }

    /// Judges the node, where no group was killed last.
    fn expect(&self, what: &str) {
        let Some(roles) = self.roles.iter().copied().collect::<Option<Vec<Role>>>() else { return };
        let what = format!("{roles:?}: {what}");
        let (mut wanted, mut table) = (self.first.addresses.clone(), BTreeSet::new());
        let found = addresses();
        for ((config, role), own) in self.configs.iter().zip(&roles).zip(&self.tables) {
            let master = *role == Role::Master;
            for vip in &config.vips {
                let (lo, bond0) = (form(*vip, "lo"), form(*vip, "bond0"));
                if !master || config.loopback == Loopback::Always {
                    wanted.insert(lo);
                }
                match config.vip_owner {
                    VipOwner::Node if !master => {}
                    // Where keepalived has put it, or not.
                    VipOwner::Keepalived if !found.contains(&bond0) => {}
                    _ => drop(wanted.insert(bond0)),
                }
            }
            if master || config.fence == Fence::Marks {
                table.extend(own.iter().cloned());
            }
            let mut node = Node::open(config.clone()).unwrap();
            let status = node.status().unwrap();
            assert_eq!((status.role, status.missing), (Some((*role, true)), vec![]), "{what}");
        }
        assert_eq!(found, wanted, "{what}");
        assert_eq!(kernel_table(), table, "{what}");
        let daemons: &[&str] = if roles.contains(&Role::Master) { &["master", "backup"] } else { &["backup"] };
        assert_eq!(sync_daemons(), daemons, "{what}");
        assert_eq!(arp("bond0"), [1, 2], "{what}");
        if self.configs[0].fence == Fence::Marks {
            // Of each VIP: packets without SYN, packets of two other nodes, and, on a backup,
            // packets with SYN.
            let vips = |role: Role| {
                let groups = self
                    .configs
                    .iter()
                    .zip(&roles)
                    .filter(move |(_, found)| (**found == Role::Master) == (role == Role::Master));
                groups.map(|(config, _)| config.vips.len()).sum::<usize>()
            };
            assert_eq!(rule_count("bond0"), 3 * vips(Role::Master) + 4 * vips(Role::Backup), "{what}");
        }
    }

    /// Takes on a role in each group.
    fn become_role(&mut self, role: Role, what: &str) {
        for config in &self.configs {
            Node::open(config.clone()).unwrap().become_role(role).unwrap();
        }
        self.roles.fill(Some(role));
        self.expect(what);
    }
}

/// This many changes of a node, CHAOS_TIMES times as many where the environment has that, with the
/// seed in CHAOS_SEED or another each time.
fn chaos(kind: Kind, changes: usize) {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let changes = changes * number("CHAOS_TIMES").unwrap_or(1) as usize;
    let seed = number("CHAOS_SEED").unwrap_or_else(|| {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        u64::from(now.subsec_nanos()) | 1
    });
    let mut node = Chaos::new(kind, seed);
    // What loads modules and makes directories is not repeated.
    node.become_role(Role::Backup, "first");
    let (before, start) = (descriptors(), Instant::now());
    let mut left = changes - 1;
    while left > 0 {
        let size = (1 + node.numbers.next(8) as usize).min(left);
        node.batch(size);
        left -= size;
    }
    // Whatever the last of them left.
    let last = Role::ALL[node.numbers.next(4) as usize];
    node.become_role(last, "last");
    println!("  {changes} changes in {:?}: {:?}", start.elapsed(), node.counts);
    if kind.owner == VipOwner::Keepalived && addresses().contains(&form(node.configs[0].vips[0], "bond0")) {
        node.move_vip();
    }
    for config in &node.configs {
        Node::open(config.clone()).unwrap().release(|_| ()).unwrap();
    }
    assert_eq!(Everything::now(), node.first);
    // Others' tests may have some open.
    assert!(descriptors() < before + 10, "{before} descriptors before, {} after", descriptors());
    assert_eq!(running("lvs-node"), 0);
    let state_dir = &node.configs[0].state_dir;
    let mut files: Vec<String> =
        fs::read_dir(state_dir).unwrap().map(|file| file.unwrap().file_name().into_string().unwrap()).collect();
    // The last request of each group, whatever its number is.
    files.iter_mut().for_each(|name| name.truncate(name.trim_end_matches(|c: char| c.is_ascii_digit()).len()));
    files.sort();
    let requests =
        if kind.groups { &["lock", "request.my%20mail.", "request.web."][..] } else { &["lock", "request."] };
    assert_eq!(files, requests);
    let lock = fs::File::open(state_dir.join("lock")).unwrap();
    flock(&lock, FlockOperation::NonBlockingLockExclusive).expect("nobody holds the lock any more");
    fs::remove_dir_all(node.file.parent().unwrap()).unwrap();
}

const MARKS: Kind =
    Kind { fence: Fence::Marks, owner: VipOwner::Node, configured: true, loopback: Loopback::Always, groups: false };

#[test]
fn random_changes_marks() {
    chaos(MARKS, 80);
    chaos(Kind { owner: VipOwner::Keepalived, configured: false, ..MARKS }, 60);
    chaos(Kind { configured: false, loopback: Loopback::Backup, ..MARKS }, 40);
}

#[test]
fn random_changes_clear() {
    chaos(Kind { fence: Fence::Clear, configured: false, loopback: Loopback::Backup, ..MARKS }, 60);
    chaos(Kind { fence: Fence::Clear, owner: VipOwner::Keepalived, ..MARKS }, 60);
}

#[test]
fn random_changes_of_two_groups() {
    chaos(Kind { groups: true, ..MARKS }, 60);
    chaos(Kind { groups: true, fence: Fence::Clear, configured: false, loopback: Loopback::Backup, ..MARKS }, 40);
}
