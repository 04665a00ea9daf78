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

pub(crate) use self::firewall::{Arriving, Deed, Firewall};
use self::program::Runner;
use self::tool::{Family, Kind, Tool, installed};
use crate::address::check_vip;
use crate::background::{Waits, wait_for};
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
/// backend again. That no backend works is not an error: [`Observed::reason`] tells why. Where the
/// process ignores `SIGCHLD`, or waits for any child, what a program has printed says whether it
/// worked.
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
        wait_for(|waits| async move { self.observing(&waits).await })
    }

    /// The same, piece by piece.
    pub(crate) async fn observing(&mut self, waits: &Waits) -> Result<Observed> {
        let netns = self.netns.clone();
        let runner = Runner { netns: &netns, waits };
        let search = self.searched(runner).await?;
        let observed = search.observe(runner).await;
        self.keep_if_good(search, observed)
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
        wait_for(|waits| async move { self.applying(wanted, &waits).await })
    }

    /// The same, piece by piece.
    pub(crate) async fn applying(
        &mut self,
        wanted: &BTreeSet<(IpAddr, NonZeroU32)>,
        waits: &Waits,
    ) -> Result<Observed> {
        let mut once = BTreeMap::new();
        for &(vip, mark) in wanted {
            check_vip(vip)?;
            if let Some(other) = once.insert(vip, mark) {
                let reason = format!("it has two marks ({other} and {mark}), and a packet bears only one");
                return Err(Error::invalid(format!("VIP {vip}"), reason));
            }
        }
        let netns = self.netns.clone();
        let runner = Runner { netns: &netns, waits };
        let mut search = self.searched(runner).await?;
        let applied = search.apply(runner, wanted).await;
        self.keep_if_good(search, applied)
    }

    /// Removes all marks, of every backend, and says whether there were any. Rules of other
    /// programs stay, and so do the kernel's modules.
    ///
    /// # Errors
    /// As [`LocalMarks`].
    pub fn remove(&mut self) -> Result<bool> {
        let netns = self.netns.clone();
        wait_for(|waits| async move {
            let runner = Runner { netns: &netns, waits: &waits };
            let search = self.searched(runner).await?;
            let removed = search.remove(runner).await;
            self.keep_if_good(search, removed)
        })
    }

    /// Takes the last search, or searches.
    async fn searched(&mut self, runner: Runner<'_>) -> Result<Search> {
        // Says now that the namespace cannot be entered.
        runner.netns.run(|| ())?;
        match self.search.take().filter(Search::is_good) {
            Some(search) => Ok(search),
            None => Ok(Search::new(runner).await),
        }
    }

    /// Searches again after a failure.
    fn keep_if_good<T>(&mut self, search: Search, result: Result<T>) -> Result<T> {
        self.search = result.is_ok().then_some(search);
        result
    }
}

impl Search {
    async fn new(runner: Runner<'_>) -> Self {
        let tools = installed(runner).await;
        let choice = Choice::of(&tools, runner).await;
        Search { tools, choice, at: Instant::now(), tidy: false }
    }

    fn is_good(&self) -> bool {
        self.choice.backend().is_some() || self.at.elapsed() < SEARCH_AGAIN
    }

    async fn observe(&self, runner: Runner<'_>) -> Result<Observed> {
        let mut observed = self.choice.observed();
        for tool in self.choice.tools() {
            observed.marked.extend(tool.read(runner).await?.marks());
        }
        Ok(observed)
    }

    async fn apply(&mut self, runner: Runner<'_>, wanted: &BTreeSet<(IpAddr, NonZeroU32)>) -> Result<Observed> {
        let mut observed = self.choice.observed();
        for tool in self.choice.tools() {
            let wanted = wanted.iter().filter(|(vip, _)| tool.serves(*vip)).copied().collect();
            tool.write(runner, &wanted).await?;
            observed.marked.extend(wanted);
        }
        if !self.tidy {
            self.remove_the_rest(runner).await?;
            self.tidy = true;
        }
        if observed.marked == *wanted {
            observed.reason = None;
        }
        Ok(observed)
    }

    async fn remove(&self, runner: Runner<'_>) -> Result<bool> {
        let mut changed = false;
        for tool in self.choice.tools() {
            changed |= tool.write(runner, &BTreeSet::new()).await?;
        }
        Ok(self.remove_the_rest(runner).await? || changed)
    }

    /// Removes what other backends hold: marks of a time when they were chosen.
    async fn remove_the_rest(&self, runner: Runner<'_>) -> Result<bool> {
        let mut changed = false;
        for tool in &self.tools {
            let is_chosen = self.choice.tools().any(|chosen| chosen.kind == tool.kind);
            if is_chosen || !tool.may_hold_rules(runner.netns, Some("mangle")) {
                continue;
            }
            // Rules that cannot even be listed were not set by this program.
            if tool.read(runner).await.is_ok_and(|found| !found.is_empty()) {
                changed |= tool.write(runner, &BTreeSet::new()).await?;
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
    async fn of(tools: &[Tool], runner: Runner<'_>) -> Self {
        let (mut choice, mut failures) = (Choice::default(), Vec::new());
        for tool in tools.iter() {
            if choice.lacks(tool) {
                let tried = tool.try_out(runner).await;
                choice.take(tool, tried, &mut failures);
            }
        }
        choice.explained(tools, &failures)
    }

    /// Whether it is to be tried.
    fn lacks(&self, tool: &Tool) -> bool {
        match tool.kind {
            Kind::Nft => self.v4.is_none() && self.v6.is_none(),
            Kind::Xtables(Family::V4, _) => self.v4.is_none(),
            Kind::Xtables(Family::V6, _) => self.v6.is_none(),
        }
    }

    /// Takes one that works for what it serves.
    fn take(&mut self, tool: &Tool, tried: Result<(), String>, failures: &mut Vec<String>) {
        if let Err(failure) = tried {
            return failures.push(failure);
        }
        let serves = |family| match tool.kind {
            Kind::Nft => true,
            Kind::Xtables(own, _) => own == family,
        };
        for (place, family) in [(&mut self.v4, Family::V4), (&mut self.v6, Family::V6)] {
            if place.is_none() && serves(family) {
                *place = Some(tool.clone());
            }
        }
    }

    /// With the reason why a family has none.
    fn explained(mut self, tools: &[Tool], failures: &[String]) -> Self {
        let missing = match (&self.v4, &self.v6) {
            (Some(_), Some(_)) => return self,
            (None, None) => "packets of local clients",
            (None, Some(_)) => "IPv4 packets of local clients",
            (Some(_), None) => "IPv6 packets of local clients",
        };
        let why = match (tools, failures) {
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
        self.reason = Some(format!("no program can mark {missing}: {why}"));
        self
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
            let (mut choice, mut failures) = (Choice::default(), Vec::new());
            for tool in tools {
                let works = working.contains(&tool.to_string().as_str());
                let tried = works.then_some(()).ok_or_else(|| format!("{tool} does not work: no"));
                if choice.lacks(tool) {
                    choice.take(tool, tried, &mut failures);
                }
            }
            let choice = choice.explained(tools, &failures);
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
