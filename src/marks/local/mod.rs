//! Marks for the packets that a node itself sends to a VIP.
//!
//! IPVS schedules what local clients send, too (hook LOCAL_OUT). On a backup with the full table
//! most of those connections fail: the packet leaves with the VIP as its destination and a local
//! source address, and the server's answer cannot reach the client (2 of 3 connections with three
//! servers). A mark for which IPVS has a service with the node itself as its only destination
//! mends that, on the director too.
//!
//! Only packets that leave by `lo` are marked: those to an address of the node itself. What IPVS
//! forwards passes the same hook with the VIP as its destination, but leaves by another interface.
//! A mark would have it routed again (`ip_route_me_harder()` in net/ipv4/netfilter.c), to the node
//! itself, and the director would serve everything alone.
//!
//! tc(8) cannot set the mark early enough, only nftables or xtables (iptables) can. [`LocalMarks`]
//! uses whichever works, by running nft(8) or iptables(8):
//!
//! | backend | what is ours |
//! |---|---|
//! | nftables | `table inet lvs-dr`, all of it |
//! | xtables | rules of chain OUTPUT in table `mangle` with the comment `lvs-dr` |

mod firewall;
mod nft;
mod program;
mod tool;
mod xtables;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::time::{Duration, Instant};

pub(crate) use self::firewall::Firewall;
use self::tool::{Family, Kind, Tool, installed};
use crate::address::check_vip;
use crate::error::{Error, Result};
use crate::netns::Netns;

/// When the search for a backend is repeated after it found none.
const SEARCH_AGAIN: Duration = Duration::from_secs(60);

/// What the programs say where a privilege is missing.
const PRIVILEGE: [&str; 2] = ["Operation not permitted", "Permission denied"];

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
/// A namespace has one set of marks: [`LocalMarks::apply`] replaces it, whichever process set it.
/// Other programs can remove it, too: `nft flush ruleset`, as when nftables.service is reloaded,
/// and `iptables -t mangle -F`. [`LocalMarks::observe`] shows that, and [`LocalMarks::apply`]
/// repairs it.
///
/// The backend is found at the first call: nftables, then `iptables` (whatever its variant), then
/// `iptables-legacy`, then `xtables-legacy-multi iptables`, from the directories of `PATH`
/// (absolute ones), /usr/sbin and /sbin. To see whether a program works with this kernel, it sets
/// a mark in a new network namespace, which disappears with it. Where none works the search is
/// repeated after a minute.
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
/// A call runs programs one after the other, each of which takes milliseconds: one or two where
/// nothing has to be changed, about ten for a search. A program that takes longer than 5 s is
/// killed, so that a call blocks for less than a minute even where every program hangs. An xtables
/// program waits for up to 4 s while another one holds the lock.
///
/// # Privileges
/// `CAP_NET_ADMIN` and, for iptables in its legacy variant, `CAP_NET_RAW` and write access to
/// /run/xtables.lock. Where `CAP_SYS_ADMIN` is missing there is no new network namespace to try a
/// program in: a program that can list rules then counts as working.
///
/// # Errors
/// [`Error::System`] when the network namespace cannot be entered (with the errno), or when a
/// program that worked before fails: with the program's own words, without an errno; with kind
/// [`TimedOut`](std::io::ErrorKind::TimedOut) when it was killed. The next call searches for a
/// backend again. That no backend works is not an error: [`Observed::reason`] tells why. In a
/// process that ignores `SIGCHLD`, or reaps children that it did not start, no program can be run
/// (`ECHILD`).
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

    /// Sets these marks and no others, and returns the marks that are in force then. Marks that
    /// are right already stay. Where no backend can set a mark, it is absent from the result, and
    /// only then [`Observed::reason`] is there.
    ///
    /// nftables replaces all marks at once. With xtables each new rule is added before an old one
    /// is removed, so that a packet gets the old mark or the new one.
    ///
    /// # Errors
    /// [`Error::Invalid`] for an address that is no VIP's, or one with two marks; nothing is
    /// changed then. [`Error::NotVerified`] when the program reports success but the kernel's list
    /// differs: another process changes it at the same time. Also as [`LocalMarks`].
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

    /// Removes all marks, of every backend, and says whether there were any. Rules of other
    /// programs stay, and so do the kernel's modules.
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
            (_, failures) if failures.iter().any(|failure| PRIVILEGE.iter().any(|words| failure.contains(words))) => {
                format!("{}; run as root: CAP_NET_ADMIN and CAP_NET_RAW are needed", failures.join("; "))
            }
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

#[cfg(test)]
mod tests {
    use super::tool::Variant;
    use super::*;

    pub(super) fn marks(list: &[(&str, u32)]) -> BTreeSet<(IpAddr, NonZeroU32)> {
        list.iter().map(|&(vip, mark)| (vip.parse().unwrap(), NonZeroU32::new(mark).unwrap())).collect()
    }

    pub(super) fn both() -> BTreeSet<(IpAddr, NonZeroU32)> {
        marks(&[("192.0.2.254", 1), ("2001:db8::fe", 0x8000_0001)])
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
}
