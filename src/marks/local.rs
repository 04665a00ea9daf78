//! Marks for the packets that a node itself sends to a VIP.
//!
//! IPVS schedules what local clients send, too (hook LOCAL_OUT). On a backup with the full table most of
//! those connections fail: the packet leaves with the VIP as its destination and a local source address,
//! and the server's answer cannot reach the client (2 of 3 connections with three servers). A mark for
//! which IPVS has a service with the node itself as its only destination mends that, on the director too.
//!
//! tc(8) cannot set the mark early enough, only nftables or xtables (iptables) can. [`LocalMarks`] uses
//! whichever works, by running nft(8) or iptables(8):
//!
//! | backend | what is ours |
//! |---|---|
//! | nftables | `table inet lvs-dr`, all of it |
//! | xtables | rules of chain OUTPUT in table `mangle` with the comment `lvs-dr` |

use std::collections::{BTreeMap, BTreeSet};
use std::env;
use std::fmt::{self, Write as _};
use std::fs::{self, File};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{MemfdFlags, memfd_create};
use rustix::process::{Pid, Signal, kill_process_group};

use crate::error::{Error, Result};
use crate::netlink::in_new_namespace;
use crate::netns::Netns;
use crate::vip::check_vip;

/// How long a program may take.
const PROGRAM_LIMIT: Duration = Duration::from_secs(5);

/// How long an xtables program waits for the lock of another one, in seconds: less than it may take.
const LOCK_LIMIT: &str = "4";

/// When the search for a backend is repeated after it found none.
const SEARCH_AGAIN: Duration = Duration::from_secs(60);

/// The name of the nftables table, and the comment of the xtables rules.
const OURS: &str = "lvs-dr";

/// What sets the marks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Backend {
    /// nftables, by nft(8).
    Nft,
    /// xtables, by iptables(8) and ip6tables(8), in either variant (legacy or nf_tables).
    Xtables,
}

/// `nftables` or `xtables`.
impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Backend::Nft => "nftables",
            Backend::Xtables => "xtables",
        })
    }
}

/// The marks of a network namespace, as read from the kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Observed {
    /// What sets the marks here. `None`: nothing that is installed works.
    pub backend: Option<Backend>,
    /// The addresses whose packets from local clients get a mark, and the mark.
    pub marked: BTreeSet<(IpAddr, NonZeroU32)>,
    /// Why there is no backend, or none for one of the address families, and what to do.
    pub reason: Option<String>,
}

/// Sets the marks of one network namespace.
///
/// There is one set of marks in a namespace: [`LocalMarks::apply`] replaces it, whoever made it.
///
/// The backend is found at the first call: nftables, then `iptables` (whatever its variant), then
/// `iptables-legacy`, then `xtables-legacy-multi iptables`, from the directories of `PATH` (absolute ones),
/// /usr/sbin and /sbin. To see whether a program works with this kernel, it sets a mark in a new network
/// namespace, which disappears with it. Where none works the search is repeated after a minute.
///
/// ```no_run
/// use std::num::NonZeroU32;
/// use lvs_dr::marks::LocalMarks;
///
/// let mark = NonZeroU32::new(1).unwrap();
/// let mut marks = LocalMarks::open()?;
/// let now = marks.apply(&[("192.0.2.254".parse()?, mark)].into())?;
/// if let Some(reason) = now.reason {
///     eprintln!("this node's own clients of the VIP may fail: {reason}");
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Blocking
/// A call runs some programs one after the other, each of which takes milliseconds. A program that takes
/// longer than 5 s is killed.
///
/// # Privileges
/// `CAP_NET_ADMIN` and, for iptables in its legacy variant, `CAP_NET_RAW` and write access to
/// /run/xtables.lock. Where `CAP_SYS_ADMIN` is missing there is no new network namespace to try a program
/// in: a program that can list rules then counts as working.
///
/// # Errors
/// [`Error::System`] when the network namespace cannot be entered (with the errno), or when a program that
/// worked before fails: with the program's own words, without an errno; with kind
/// [`TimedOut`](io::ErrorKind::TimedOut) when it was killed. The next call searches for a backend again.
/// That no backend works is not an error: [`Observed::reason`] tells why. In a process that ignores `SIGCHLD`,
/// or reaps children that it did not start, every call fails (`ECHILD`).
#[derive(Debug)]
pub struct LocalMarks {
    netns: Netns,
    search: Option<Search>,
}

/// What a search found.
#[derive(Debug)]
struct Search {
    tools: Vec<Tool>,
    choice: Choice,
    at: Instant,
    /// What another backend left behind has been removed.
    tidy: bool,
}

impl LocalMarks {
    /// Opens the calling thread's network namespace. Starts no program yet.
    ///
    /// # Errors
    /// As [`Netns::current`].
    pub fn open() -> Result<Self> {
        Ok(Self::open_in(Netns::current()?))
    }

    /// Opens this network namespace, whatever thread it is used from. Starts no program yet.
    pub fn open_in(netns: Netns) -> Self {
        LocalMarks { netns, search: None }
    }

    /// Returns the backend and the marks that it sets now. Changes nothing.
    ///
    /// # Errors
    /// As [`LocalMarks`].
    pub fn observe(&mut self) -> Result<Observed> {
        self.enter(|search| {
            let mut observed = search.choice.observed();
            for tool in search.choice.tools() {
                observed.marked.extend(tool.read()?.marks());
            }
            Ok(observed)
        })
    }

    /// Sets these marks and no others, and returns the marks that are in force then. Marks that are right
    /// already stay. Where no backend can set a mark, it is absent from the result, and only then
    /// [`Observed::reason`] is there.
    ///
    /// nftables replaces all marks at once. With xtables each new rule is added before an old one is
    /// removed, so that a packet gets the old mark or the new one.
    ///
    /// # Errors
    /// [`Error::Invalid`] for an address that is no VIP's, or one with two marks; nothing is changed then.
    /// [`Error::NotVerified`] when the program reports success but the kernel's list differs: another
    /// process changes it at the same time. Also as [`LocalMarks`].
    pub fn apply(&mut self, wanted: &BTreeSet<(IpAddr, NonZeroU32)>) -> Result<Observed> {
        let mut once = BTreeMap::new();
        for &(vip, mark) in wanted {
            check_vip(vip)?;
            if let Some(other) = once.insert(vip, mark) {
                let reason = format!("it has two marks ({other} and {mark}), and a packet bears only one");
                return Err(Error::invalid(format!("VIP {vip}"), reason));
            }
        }
        self.enter(|search| {
            let mut observed = search.choice.observed();
            for tool in search.choice.tools() {
                let wanted = wanted.iter().filter(|(vip, _)| tool.serves(*vip)).copied().collect();
                tool.write(&wanted)?;
                observed.marked.extend(wanted);
            }
            if !search.tidy {
                search.remove_the_rest()?;
                search.tidy = true;
            }
            if observed.marked == *wanted {
                observed.reason = None;
            }
            Ok(observed)
        })
    }

    /// Removes all marks, of every backend, and says whether there were any. Rules of other programs stay,
    /// and so do the kernel's modules.
    ///
    /// # Errors
    /// As [`LocalMarks`].
    pub fn remove(&mut self) -> Result<bool> {
        self.enter(|search| {
            let mut changed = false;
            for tool in search.choice.tools() {
                changed |= tool.write(&BTreeSet::new())?;
            }
            Ok(search.remove_the_rest()? || changed)
        })
    }

    fn enter<T: Send>(&mut self, work: impl FnOnce(&mut Search) -> Result<T> + Send) -> Result<T> {
        let netns = self.netns.clone();
        let result = netns.run(|| {
            let known = self.search.take().filter(Search::is_good);
            work(self.search.insert(known.unwrap_or_else(Search::new)))
        })?;
        if result.is_err() {
            self.search = None;
        }
        result
    }
}

impl Search {
    fn new() -> Self {
        let tools = installed();
        let choice = Choice::of(&tools, Tool::try_out);
        Search { tools, choice, at: Instant::now(), tidy: false }
    }

    fn is_good(&self) -> bool {
        self.choice.backend().is_some() || self.at.elapsed() < SEARCH_AGAIN
    }

    /// Removes what other backends hold: marks of a time when they were chosen.
    fn remove_the_rest(&self) -> Result<bool> {
        let mut changed = false;
        for tool in &self.tools {
            if self.choice.tools().any(|chosen| chosen.kind == tool.kind) || !tool.may_hold_rules() {
                continue;
            }
            // Rules that cannot even be listed were not set by this program.
            if tool.read().is_ok_and(|found| !found.is_empty()) {
                changed |= tool.write(&BTreeSet::new())?;
            }
        }
        Ok(changed)
    }
}

/// The programs that set the marks, and why others do not.
#[derive(Debug, Clone, Default)]
struct Choice {
    v4: Option<Tool>,
    v6: Option<Tool>,
    reason: Option<String>,
}

impl Choice {
    /// The first that works for each address family. nftables serves both.
    fn of(tools: &[Tool], try_out: impl Fn(&Tool) -> Result<(), String>) -> Self {
        let mut choice = Choice::default();
        let mut failures = Vec::new();
        for tool in tools {
            let wanted = match tool.kind {
                Kind::Nft => choice.v4.is_none() && choice.v6.is_none(),
                Kind::Xtables(Family::V4, _) => choice.v4.is_none(),
                Kind::Xtables(Family::V6, _) => choice.v6.is_none(),
            };
            if !wanted {
                continue;
            }
            match try_out(tool) {
                Err(failure) => failures.push(failure),
                Ok(()) => {
                    let serves = |v4: bool| match tool.kind {
                        Kind::Nft => true,
                        Kind::Xtables(family, _) => (family == Family::V4) == v4,
                    };
                    choice.v4 = choice.v4.or_else(|| serves(true).then(|| tool.clone()));
                    choice.v6 = choice.v6.or_else(|| serves(false).then(|| tool.clone()));
                }
            }
        }
        let missing = match (&choice.v4, &choice.v6) {
            (Some(_), Some(_)) => return choice,
            (None, None) => "packets of local clients",
            (None, Some(_)) => "IPv4 packets of local clients",
            (Some(_), None) => "IPv6 packets of local clients",
        };
        let why = match (tools, failures.as_slice()) {
            ([], _) => "neither nft nor iptables is installed: `apt install nftables`".to_owned(),
            (_, []) => "iptables is installed for one address family only: `apt install nftables`".to_owned(),
            (_, failures) => format!(
                "{}; install nftables (`apt install nftables`), or use a kernel with nf_tables and its family inet, or \
                 with ip_tables, ip6_tables, their mangle tables, xt_mark and xt_comment",
                failures.join("; ")
            ),
        };
        choice.reason = Some(format!("no program can mark {missing}: {why}"));
        choice
    }

    fn backend(&self) -> Option<Backend> {
        self.tools().next().map(|tool| match tool.kind {
            Kind::Nft => Backend::Nft,
            Kind::Xtables(..) => Backend::Xtables,
        })
    }

    /// Each of them once.
    fn tools(&self) -> impl Iterator<Item = &Tool> {
        let second = self.v6.as_ref().filter(|v6| v6.kind != Kind::Nft || self.v4.is_none());
        self.v4.iter().chain(second)
    }

    fn observed(&self) -> Observed {
        Observed { backend: self.backend(), marked: BTreeSet::new(), reason: self.reason.clone() }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Family {
    V4,
    V6,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Variant {
    /// Rules of the kernel's ip_tables and ip6_tables.
    Legacy,
    /// Rules of nf_tables in iptables' own form.
    NfTables,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Nft,
    Xtables(Family, Variant),
}

/// A program that sets marks.
#[derive(Debug, Clone)]
struct Tool {
    kind: Kind,
    program: PathBuf,
    /// Arguments before all others: which of its programs a multi-call binary is.
    first: Option<&'static str>,
}

/// Finds the installed programs, the preferred ones first.
fn installed() -> Vec<Tool> {
    let path = env::var_os("PATH").unwrap_or_default();
    let mut directories: Vec<PathBuf> = env::split_paths(&path).filter(|directory| directory.is_absolute()).collect();
    directories.extend(["/usr/sbin", "/sbin"].map(PathBuf::from));
    installed_in(&directories, |tool| tool.run(&["--version"], None).map(|out| out.stdout).unwrap_or_default())
}

fn installed_in(directories: &[PathBuf], version: impl Fn(&Tool) -> String) -> Vec<Tool> {
    let find = |name: &str| directories.iter().map(|directory| directory.join(name)).find(|path| is_executable(path));
    let mut tools = Vec::new();
    tools.extend(find("nft").map(|program| Tool { kind: Kind::Nft, program, first: None }));
    let mut add = |name: &str, first, family| {
        let Some(program) = find(name) else { return };
        let mut tool = Tool { kind: Kind::Xtables(family, Variant::Legacy), program, first };
        // `iptables v1.8.9 (nf_tables)`. Others say `(legacy)`, or before 1.8 nothing.
        if !name.contains("legacy") && version(&tool).contains("nf_tables") {
            tool.kind = Kind::Xtables(family, Variant::NfTables);
        }
        // `iptables` is often `iptables-legacy` under another name.
        if !tools.iter().any(|other: &Tool| other.kind == tool.kind) {
            tools.push(tool);
        }
    };
    for (family, names) in
        [(Family::V4, ["iptables", "iptables-legacy"]), (Family::V6, ["ip6tables", "ip6tables-legacy"])]
    {
        names.into_iter().for_each(|name| add(name, None, family));
        add("xtables-legacy-multi", Some(names[0]), family);
    }
    tools
}

fn is_executable(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|file| file.is_file() && file.permissions().mode() & 0o111 != 0)
}

impl Tool {
    fn serves(&self, vip: IpAddr) -> bool {
        match self.kind {
            Kind::Nft => true,
            Kind::Xtables(family, _) => (family == Family::V4) == vip.is_ipv4(),
        }
    }

    /// Whether the kernel can hold rules that this program would list. Listing alone makes ip_tables load
    /// its modules and hook into the path of every packet.
    fn may_hold_rules(&self) -> bool {
        let tables = match self.kind {
            Kind::Xtables(Family::V4, Variant::Legacy) => "/proc/thread-self/net/ip_tables_names",
            Kind::Xtables(Family::V6, Variant::Legacy) => "/proc/thread-self/net/ip6_tables_names",
            _ => return true,
        };
        fs::read_to_string(tables).is_ok_and(|tables| tables.lines().any(|table| table == "mangle"))
    }

    /// Sets a mark where it harms nobody. Returns why it did not work.
    fn try_out(&self) -> Result<(), String> {
        let vip = match self.kind {
            Kind::Xtables(Family::V6, _) => IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, 1]),
            _ => IpAddr::from([192, 0, 2, 1]),
        };
        let mark = (vip, NonZeroU32::MIN);
        match in_new_namespace(|| self.write(&[mark].into())) {
            Ok(result) => result.map(drop),
            Err(_) => self.read().map(drop),
        }
        .map_err(|error| match error {
            Error::System { source, .. } => format!("{self} does not work: {source}"),
            error => format!("{self} does not work: {error}"),
        })
    }

    fn read(&self) -> Result<Found> {
        match self.kind {
            Kind::Nft => {
                let list = ["-n", "list", "table", "inet", OURS];
                match self.run(&list, None)? {
                    output if output.status.success() => Ok(Found::Nft(nft::Table::parse(&output.stdout))),
                    output if output.stderr.contains("No such file or directory") => {
                        Ok(Found::Nft(nft::Table::default()))
                    }
                    output => Err(self.failed(&list, &output)),
                }
            }
            Kind::Xtables(..) => {
                let output = self.xtables(["-S", "OUTPUT"].map(String::from).to_vec())?;
                Ok(Found::Xtables(output.lines().filter_map(xtables::Rule::parse).collect()))
            }
        }
    }

    /// Sees to it that these marks are set and no others, and says whether anything had to be changed.
    fn write(&self, wanted: &BTreeSet<(IpAddr, NonZeroU32)>) -> Result<bool> {
        let found = self.read()?;
        if found.is_exactly(wanted) {
            return Ok(false);
        }
        match &found {
            Found::Nft(_) => {
                let arguments = ["-f", "-"];
                let output = self.run(&arguments, Some(&nft::script(wanted)))?;
                if !output.status.success() {
                    return Err(self.failed(&arguments, &output));
                }
            }
            Found::Xtables(rules) => {
                let (add, delete) = xtables::changes(rules, wanted);
                for rule in add {
                    self.xtables(rule.command("-A"))?;
                }
                for rule in delete {
                    self.xtables(rule.command("-D"))?;
                }
            }
        }
        let now = self.read()?;
        match now.is_exactly(wanted) {
            true => Ok(true),
            false => Err(Error::NotVerified {
                step: format!("{self}: mark the packets of local clients to {}", list(wanted)),
                found: list(&now.marks().collect()),
            }),
        }
    }

    /// Runs `iptables -w 4 -t mangle ARGUMENTS`, and returns what it printed.
    fn xtables(&self, arguments: Vec<String>) -> Result<String> {
        let arguments: Vec<&str> =
            ["-w", LOCK_LIMIT, "-t", "mangle"].into_iter().chain(arguments.iter().map(String::as_str)).collect();
        let output = self.run(&arguments, None)?;
        match output.status.success() {
            true => Ok(output.stdout),
            false => Err(self.failed(&arguments, &output)),
        }
    }

    fn run(&self, arguments: &[&str], input: Option<&str>) -> Result<Output> {
        let mut command = Command::new(&self.program);
        command.args(self.first).args(arguments);
        run(command, input, PROGRAM_LIMIT).map_err(|error| Error::system("run", self.line(arguments), error))
    }

    fn failed(&self, arguments: &[&str], output: &Output) -> Error {
        Error::system("run", self.line(arguments), io::Error::other(output.complaint()))
    }

    fn line(&self, arguments: &[&str]) -> String {
        format!("`{self} {}`", arguments.join(" "))
    }
}

/// `nft`, `iptables-legacy`, `xtables-legacy-multi ip6tables`.
impl fmt::Display for Tool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.program.file_name().unwrap_or_default().display())?;
        self.first.map_or(Ok(()), |first| write!(f, " {first}"))
    }
}

/// `192.0.2.254 (mark 1), 2001:db8::fe (mark 1)`.
fn list(marks: &BTreeSet<(IpAddr, NonZeroU32)>) -> String {
    let words: Vec<String> = marks.iter().map(|(vip, mark)| format!("{vip} (mark {mark})")).collect();
    if words.is_empty() { "none".into() } else { words.join(", ") }
}

/// What a program listed.
enum Found {
    Nft(nft::Table),
    Xtables(Vec<xtables::Rule>),
}

impl Found {
    fn is_empty(&self) -> bool {
        match self {
            Found::Nft(table) => *table == nft::Table::default(),
            Found::Xtables(rules) => rules.is_empty(),
        }
    }

    fn marks(&self) -> impl Iterator<Item = (IpAddr, NonZeroU32)> {
        let (table, rules) = match self {
            Found::Nft(table) => (Some(table), &[][..]),
            Found::Xtables(rules) => (None, &rules[..]),
        };
        let of_table = table.into_iter().filter(|table| table.hooked).flat_map(|table| table.marks.iter().copied());
        of_table.chain(rules.iter().filter_map(|rule| rule.mark))
    }

    fn is_exactly(&self, wanted: &BTreeSet<(IpAddr, NonZeroU32)>) -> bool {
        if wanted.is_empty() {
            return self.is_empty();
        }
        let exact = match self {
            Found::Nft(table) => table.hooked && !table.other,
            Found::Xtables(rules) => rules.iter().all(|rule| rule.mark.is_some()),
        };
        exact && self.marks().count() == wanted.len() && self.marks().all(|mark| wanted.contains(&mark))
    }
}

/// The table of nftables.
mod nft {
    use super::*;

    /// After connection tracking (-200), before IPVS (-99): `mangle`, which old versions have no name for.
    const CHAIN: &str = "type route hook output priority -150; policy accept;";
    const NAMED: &str = "type route hook output priority mangle; policy accept;";

    /// As `nft list table` shows it.
    #[derive(Debug, Clone, Default, PartialEq, Eq)]
    pub(super) struct Table {
        /// The chain is there, and hooked where it belongs.
        pub(super) hooked: bool,
        pub(super) marks: Vec<(IpAddr, NonZeroU32)>,
        /// It holds something else, too.
        pub(super) other: bool,
    }

    impl Table {
        pub(super) fn parse(text: &str) -> Self {
            let mut table = Table::default();
            for line in text.lines().map(str::trim) {
                match line {
                    "" | "}" => {}
                    CHAIN | NAMED => table.hooked = true,
                    "chain output {" => {}
                    _ if line.strip_prefix("table inet ").is_some_and(|name| name.trim_matches('"') == "lvs-dr {") => {}
                    _ => match rule(line) {
                        Some(mark) => table.marks.push(mark),
                        None => table.other = true,
                    },
                }
            }
            // An empty table is there all the same.
            table.other |= !table.hooked && !text.trim().is_empty();
            table
        }
    }

    /// Reads `ip daddr 192.0.2.254 meta mark set 0x00000001`.
    fn rule(line: &str) -> Option<(IpAddr, NonZeroU32)> {
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        let [family, "daddr", vip, "meta", "mark", "set", mark] = words[..] else { return None };
        let vip: IpAddr = vip.parse().ok()?;
        (family == self::family(vip)).then_some((vip, number(mark)?))
    }

    fn family(vip: IpAddr) -> &'static str {
        if vip.is_ipv4() { "ip" } else { "ip6" }
    }

    /// What replaces the table in one transaction.
    pub(super) fn script(wanted: &BTreeSet<(IpAddr, NonZeroU32)>) -> String {
        // A table cannot be deleted before it is there.
        let mut script = format!("add table inet {OURS}\ndelete table inet {OURS}\n");
        if wanted.is_empty() {
            return script;
        }
        script += &format!("table inet {OURS} {{\n\tchain output {{\n\t\t{CHAIN}\n");
        for &(vip, mark) in wanted {
            let _ = writeln!(script, "\t\t{} daddr {vip} meta mark set {mark}", family(vip));
        }
        script + "\t}\n}\n"
    }
}

/// Rules of xtables.
mod xtables {
    use super::*;

    /// A rule of ours.
    #[derive(Debug, Clone, PartialEq, Eq)]
    pub(super) struct Rule {
        /// What it marks, if it has just the form that this crate gives it.
        pub(super) mark: Option<(IpAddr, NonZeroU32)>,
        /// Behind the name of the chain.
        specification: Vec<String>,
    }

    impl Rule {
        fn new(vip: IpAddr, mark: NonZeroU32) -> Self {
            let words = format!("-d {vip} -m comment --comment {OURS} -j MARK --set-mark {mark}");
            Rule { mark: Some((vip, mark)), specification: words.split(' ').map(str::to_owned).collect() }
        }

        /// Reads a line of `iptables -S OUTPUT`; `None` for a rule of another program.
        pub(super) fn parse(line: &str) -> Option<Self> {
            let words = words(line);
            let specification = words.strip_prefix(&["-A".to_owned(), "OUTPUT".to_owned()])?;
            specification.windows(2).find(|pair| pair[0] == "--comment" && pair[1] == OURS)?;
            let words: Vec<&str> = specification.iter().map(String::as_str).collect();
            let mark = match words[..] {
                ["-d", vip, "-m", "comment", "--comment", _, "-j", "MARK", "--set-xmark", mark] => {
                    host(vip).zip(mark.strip_suffix("/0xffffffff").and_then(number))
                }
                _ => None,
            };
            Some(Rule { mark, specification: specification.to_vec() })
        }

        /// The arguments that add (`-A`) or delete (`-D`) it.
        pub(super) fn command(&self, operation: &str) -> Vec<String> {
            [operation, "OUTPUT"].into_iter().map(str::to_owned).chain(self.specification.iter().cloned()).collect()
        }
    }

    /// Reads `192.0.2.254/32`.
    fn host(text: &str) -> Option<IpAddr> {
        let (address, prefix) = text.split_once('/')?;
        let address: IpAddr = address.parse().ok()?;
        (prefix == if address.is_ipv4() { "32" } else { "128" }).then_some(address)
    }

    /// Which rules to add, and which to delete after that. A rule that is listed twice is deleted once.
    pub(super) fn changes(found: &[Rule], wanted: &BTreeSet<(IpAddr, NonZeroU32)>) -> (Vec<Rule>, Vec<Rule>) {
        let mut missing = wanted.clone();
        let superfluous = found.iter().filter(|rule| !rule.mark.is_some_and(|mark| missing.remove(&mark)));
        let superfluous = superfluous.cloned().collect();
        (missing.into_iter().map(|(vip, mark)| Rule::new(vip, mark)).collect(), superfluous)
    }

    /// Splits a line as iptables quotes it: blanks separate, double quotes join, a backslash in quotes
    /// takes the next character as it is.
    fn words(line: &str) -> Vec<String> {
        let (mut words, mut word, mut quoted) = (Vec::new(), None::<String>, false);
        let mut characters = line.chars();
        while let Some(character) = characters.next() {
            match character {
                '"' => {
                    quoted = !quoted;
                    word.get_or_insert_default();
                }
                '\\' if quoted => word.get_or_insert_default().extend(characters.next()),
                ' ' | '\t' if !quoted => words.extend(word.take()),
                _ => word.get_or_insert_default().push(character),
            }
        }
        words.extend(word);
        words
    }

    #[cfg(test)]
    #[test]
    fn quoted_words() {
        let line = r#"-A OUTPUT -m comment --comment "a \"b\" \\ c" -j "" x"y z""#;
        assert_eq!(words(line), ["-A", "OUTPUT", "-m", "comment", "--comment", r#"a "b" \ c"#, "-j", "", "xy z"]);
    }
}

/// Reads a mark: hexadecimal with 0x, or decimal.
fn number(text: &str) -> Option<NonZeroU32> {
    let number = match text.strip_prefix("0x") {
        Some(digits) => u32::from_str_radix(digits, 16).ok()?,
        None => text.parse().ok()?,
    };
    NonZeroU32::new(number)
}

/// How a program ended, and what it printed.
struct Output {
    status: ExitStatus,
    stdout: String,
    stderr: String,
}

impl Output {
    /// The line that says why it failed; without any, how it ended.
    fn complaint(&self) -> String {
        let lines = || self.stderr.lines().map(str::trim).filter(|line| !line.is_empty());
        let chosen =
            lines().find(|line| line.contains("Error:")).or_else(|| lines().find(|line| !line.starts_with('#')));
        chosen.map_or_else(|| self.status.to_string(), str::to_owned)
    }
}

/// Runs a program in the calling thread's network namespace, with what it starts itself in a process group
/// of its own, which is killed after `limit`.
///
/// Its output goes to memory, not through pipes: a process that it leaves behind cannot hold up the caller.
fn run(mut command: Command, input: Option<&str>, limit: Duration) -> io::Result<Output> {
    let memory = || Ok::<_, io::Error>(File::from(memfd_create("lvs-dr", MemfdFlags::CLOEXEC)?));
    let (mut out, mut err) = (memory()?, memory()?);
    let stdin = match input {
        None => Stdio::null(),
        Some(input) => {
            let mut file = memory()?;
            file.write_all(input.as_bytes())?;
            file.rewind()?;
            file.into()
        }
    };
    // Messages are compared, so they must not be translated.
    command.env("LC_ALL", "C").process_group(0);
    let mut child = command.stdin(stdin).stdout(out.try_clone()?).stderr(err.try_clone()?).spawn()?;
    let Some(status) = wait(&mut child, limit)? else {
        if let Some(group) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) {
            let _ = kill_process_group(group, Signal::KILL);
        }
        // One that hangs in the kernel ends when it can.
        if !matches!(wait(&mut child, Duration::from_millis(200)), Ok(Some(_))) {
            let _ = thread::Builder::new().name("lvs-dr".into()).spawn(move || child.wait());
        }
        return Err(io::Error::new(io::ErrorKind::TimedOut, format!("it was killed after {limit:?}")));
    };
    let read = |file: &mut File| {
        let mut octets = Vec::new();
        file.rewind().and_then(|()| file.read_to_end(&mut octets))?;
        Ok::<_, io::Error>(String::from_utf8_lossy(&octets).into_owned())
    };
    Ok(Output { status, stdout: read(&mut out)?, stderr: read(&mut err)? })
}

/// Waits for the end of a program; `None`: it runs still.
fn wait(child: &mut Child, limit: Duration) -> io::Result<Option<ExitStatus>> {
    let start = Instant::now();
    let mut pause = Duration::from_micros(500);
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if start.elapsed() >= limit {
            return Ok(None);
        }
        thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(20));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LISTED: &str = "\
table inet lvs-dr {
\tchain output {
\t\ttype route hook output priority mangle; policy accept;
\t\tip daddr 192.0.2.254 meta mark set 0x00000001
\t\tip6 daddr 2001:db8::fe meta mark set 0x80000001
\t}
}
";

    fn marks(list: &[(&str, u32)]) -> BTreeSet<(IpAddr, NonZeroU32)> {
        list.iter().map(|&(vip, mark)| (vip.parse().unwrap(), NonZeroU32::new(mark).unwrap())).collect()
    }

    fn both() -> BTreeSet<(IpAddr, NonZeroU32)> {
        marks(&[("192.0.2.254", 1), ("2001:db8::fe", 0x8000_0001)])
    }

    fn table(text: &str) -> Found {
        Found::Nft(nft::Table::parse(text))
    }

    fn rules(text: &str) -> Vec<xtables::Rule> {
        text.lines().filter_map(xtables::Rule::parse).collect()
    }

    #[test]
    fn a_table_of_nftables_is_read() {
        // As nft 1.0.6 shows it without -n and with it, and as it takes it.
        for text in [
            LISTED.to_owned(),
            LISTED.replace("mangle", "-150"),
            nft::script(&both()).replace("add table inet lvs-dr\ndelete table inet lvs-dr\n", ""),
        ] {
            assert!(text.starts_with("table inet lvs-dr {"), "{text}");
            assert!(table(&text).is_exactly(&both()), "{text}");
            assert_eq!(table(&text).marks().collect::<BTreeSet<_>>(), both());
        }
        let nothing = BTreeSet::new();
        assert!(table("").is_empty() && table("").is_exactly(&nothing) && !table("").is_exactly(&both()));
        // A table without rules, or without a chain, is not nothing.
        for text in ["table inet lvs-dr {\n}\n", "table inet lvs-dr {\n\tchain output {\n\t}\n}\n"] {
            assert!(!table(text).is_empty() && !table(text).is_exactly(&nothing), "{text}");
        }
        for (what, changed) in [
            ("another rule", LISTED.replace("\t}\n", "\t\tcounter packets 0 bytes 0 accept\n\t}\n")),
            ("a network", LISTED.replace("2.254", "2.0/24")),
            ("a condition", LISTED.replace("ip daddr", "tcp dport 80 ip daddr")),
            ("another mark", LISTED.replace("0x00000001", "0x00000002")),
            ("no mark", LISTED.replace("0x00000001", "0x00000000")),
            ("twice", LISTED.replace("\t}\n", "\t\tip daddr 192.0.2.254 meta mark set 1\n\t}\n")),
            ("another hook", LISTED.replace("hook output", "hook input")),
            ("another chain", LISTED.replace("\t}\n", "\t}\n\tchain x {\n\t}\n")),
        ] {
            assert_ne!(changed, LISTED);
            assert!(!table(&changed).is_exactly(&both()) && !table(&changed).is_empty(), "{what}");
        }
        // Not in force, so not marked.
        assert_eq!(table(&LISTED.replace("hook output", "hook input")).marks().count(), 0);
    }

    #[test]
    fn rules_of_xtables_are_read() {
        let listed = "\
-P OUTPUT ACCEPT
-A OUTPUT -d 192.0.2.254/32 -j MARK --set-xmark 0x7/0xffffffff
-A OUTPUT -d 192.0.2.254/32 -m comment --comment lvs-dr -j MARK --set-xmark 0x1/0xffffffff
-A OUTPUT -d 192.0.2.254/32 -m comment --comment \"x --comment lvs-dr\" -j MARK --set-xmark 0x1/0xffffffff
-A OUTPUT -d 2001:db8::fe/128 -m comment --comment lvs-dr -j MARK --set-xmark 0x80000001/0xffffffff
-A OTHER -d 192.0.2.253/32 -m comment --comment lvs-dr -j MARK --set-xmark 0x1/0xffffffff
";
        let found = rules(listed);
        assert_eq!(found.len(), 2);
        assert!(Found::Xtables(found).is_exactly(&both()));
        for (old, new) in [
            ("-d 192.0.2.254/32", "-d 192.0.2.0/24"),
            ("0xffffffff", "0xff"),
            (" -d ", " -p tcp -d "),
            ("0x1/", "0x0/"),
        ] {
            let line = listed.lines().nth(2).unwrap().replace(old, new);
            let found = rules(&line);
            assert!(found.len() == 1 && found[0].mark.is_none(), "{line}");
            assert_eq!(found[0].command("-D").join(" "), line.replacen("-A", "-D", 1));
            assert!(!Found::Xtables(found).is_exactly(&BTreeSet::new()));
        }
    }

    #[test]
    fn rules_are_added_before_others_are_deleted() {
        let line = |vip: &str, mark: u32| {
            format!("-A OUTPUT -d {vip}/32 -m comment --comment lvs-dr -j MARK --set-xmark {mark:#x}/0xffffffff\n")
        };
        let found = rules(&(line("192.0.2.1", 1) + &line("192.0.2.2", 1) + &line("192.0.2.1", 1)));
        let (add, delete) = xtables::changes(&found, &marks(&[("192.0.2.1", 1), ("192.0.2.2", 2)]));
        let lines = |rules: Vec<xtables::Rule>, operation| -> Vec<String> {
            rules.iter().map(|rule| rule.command(operation).join(" ")).collect()
        };
        assert_eq!(lines(add, "-A"), ["-A OUTPUT -d 192.0.2.2 -m comment --comment lvs-dr -j MARK --set-mark 2"]);
        let delete = lines(delete, "-D");
        assert_eq!(delete.len(), 2);
        // One of the two that are the same.
        assert!(
            delete[0].starts_with("-D OUTPUT -d 192.0.2.2/32 ") && delete[1].starts_with("-D OUTPUT -d 192.0.2.1/32 ")
        );
    }

    #[test]
    fn the_first_that_works_is_chosen() {
        let tool = |kind, program: &str| Tool { kind, program: program.into(), first: None };
        let x = |family, variant| Kind::Xtables(family, variant);
        let tools = [
            tool(Kind::Nft, "/usr/sbin/nft"),
            tool(x(Family::V4, Variant::NfTables), "/usr/sbin/iptables"),
            tool(x(Family::V4, Variant::Legacy), "/usr/sbin/iptables-legacy"),
            tool(x(Family::V6, Variant::NfTables), "/usr/sbin/ip6tables"),
            tool(x(Family::V6, Variant::Legacy), "/usr/sbin/ip6tables-legacy"),
        ];
        let choose = |tools: &[Tool], working: &[&str]| {
            let choice = Choice::of(tools, |tool| match working.contains(&tool.to_string().as_str()) {
                true => Ok(()),
                false => Err(format!("{tool} does not work: no")),
            });
            let chosen: Vec<String> = choice.tools().map(Tool::to_string).collect();
            (choice.backend(), chosen.join(" "), choice.reason.unwrap_or_default())
        };
        let all = ["nft", "iptables", "iptables-legacy", "ip6tables", "ip6tables-legacy"];
        assert_eq!(choose(&tools, &all), (Some(Backend::Nft), "nft".into(), String::new()));
        assert_eq!(choose(&tools, &all[1..]), (Some(Backend::Xtables), "iptables ip6tables".into(), String::new()));
        assert_eq!(choose(&tools, &[all[2], all[4]]).1, "iptables-legacy ip6tables-legacy");
        let (backend, chosen, reason) = choose(&tools, &all[..3][2..]);
        assert_eq!((backend, chosen.as_str()), (Some(Backend::Xtables), "iptables-legacy"));
        assert!(
            reason.starts_with("no program can mark IPv6 packets of local clients: nft does not work: no;"),
            "{reason}"
        );
        let (backend, chosen, reason) = choose(&tools, &[]);
        assert_eq!((backend, chosen.as_str()), (None, ""));
        assert!(
            reason.contains("ip6tables-legacy does not work: no; install nftables (`apt install nftables`)"),
            "{reason}"
        );
        let (backend, _, reason) = choose(&[], &[]);
        assert!(backend.is_none() && reason.contains("neither nft nor iptables is installed"), "{reason}");
    }

    #[test]
    fn programs_are_found() {
        let directory = env::temp_dir().join(format!("lvs-dr-programs-{}", std::process::id()));
        fs::create_dir_all(&directory).unwrap();
        let install = |name: &str, mode| {
            let path = directory.join(name);
            fs::write(&path, "").unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        };
        let found = |version: &str| -> Vec<String> {
            let tools = installed_in(std::slice::from_ref(&directory), |_| version.to_owned());
            tools.iter().map(|tool| format!("{tool} {:?}", tool.kind)).collect()
        };
        assert!(found("").is_empty());
        install("nft", 0o644);
        install("xtables-legacy-multi", 0o755);
        assert_eq!(
            found(""),
            ["xtables-legacy-multi iptables Xtables(V4, Legacy)", "xtables-legacy-multi ip6tables Xtables(V6, Legacy)"]
        );
        ["nft", "iptables", "iptables-legacy", "ip6tables"].iter().for_each(|name| install(name, 0o755));
        assert_eq!(
            found("iptables v1.8.9 (nf_tables)"),
            [
                "nft Nft",
                "iptables Xtables(V4, NfTables)",
                "iptables-legacy Xtables(V4, Legacy)",
                "ip6tables Xtables(V6, NfTables)",
                "xtables-legacy-multi ip6tables Xtables(V6, Legacy)"
            ]
        );
        // The same program under two names.
        assert_eq!(
            found("iptables v1.6.1"),
            ["nft Nft", "iptables Xtables(V4, Legacy)", "ip6tables Xtables(V6, Legacy)"]
        );
        fs::remove_dir_all(&directory).unwrap();
    }

    fn shell(script: &str) -> Command {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn programs_are_run() {
        let output =
            run(shell("cat; echo \"# note\" >&2; echo no such thing >&2; exit 3"), Some("input"), PROGRAM_LIMIT);
        let output = output.unwrap();
        assert_eq!((output.stdout.as_str(), output.complaint().as_str()), ("input", "no such thing"));
        assert_eq!(output.status.code(), Some(3));
        let output = run(shell("exit 3"), None, PROGRAM_LIMIT).unwrap();
        assert_eq!(output.complaint(), "exit status: 3");
        assert_eq!(
            run(Command::new("/nonexistent"), None, PROGRAM_LIMIT).map(drop).unwrap_err().kind(),
            io::ErrorKind::NotFound
        );
    }

    #[test]
    fn a_program_that_hangs_is_killed() {
        let start = Instant::now();
        // With what it has started.
        let killed = run(shell("sleep 60 & sleep 60"), None, Duration::from_millis(100)).map(drop).unwrap_err();
        assert_eq!(
            (killed.kind(), killed.to_string().as_str()),
            (io::ErrorKind::TimedOut, "it was killed after 100ms")
        );
        // A process that is left behind with the output open is not waited for.
        run(shell("sleep 2 &"), None, PROGRAM_LIMIT).unwrap();
        assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
    }
}
