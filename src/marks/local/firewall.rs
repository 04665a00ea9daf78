//! Reads the firewall's rules that arriving packets pass before IPVS sees them: those that set
//! marks, to find those that overwrite marks which packets bear already, and those that drop or
//! translate what is for a service.
//!
//! What counts are the chains PREROUTING and INPUT of the tables `raw`, `mangle`, `nat` (but
//! INPUT, which comes after IPVS) and `filter` with xtables, and every chain with the hook
//! ingress, prerouting or input with nftables. Packets that IPVS has sent on pass POSTROUTING of
//! `nat`, or the chains with the hook postrouting. Tests are read of the mark, the destination,
//! the protocol, its port, the interface and the state of connection tracking; others may be met
//! or not.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::num::NonZeroU32;

use super::program::Runner;
use super::tool::{Family, Kind, installed};
use super::xtables::words;
use crate::background::wait_for;
use crate::error::Result;
use crate::netns::Netns;

/// How many jumps are followed.
const DEPTH: usize = 16;

/// The rules of a network namespace, as far as they could be read.
#[derive(Debug, Clone, Default)]
pub(crate) struct Firewall {
    tables: Vec<Table>,
}

/// A packet from a client, for a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Arriving<'a> {
    /// The VIP.
    pub(crate) to: IpAddr,
    /// `tcp`, `udp`, `sctp`.
    pub(crate) protocol: &'static str,
    pub(crate) port: u16,
    /// By which it comes, and by which IPVS sends it on.
    pub(crate) interface: &'a str,
}

/// A rule, or the policy of a chain, that does something to a packet.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Deed {
    /// The rule as its program shows it.
    pub(crate) by: String,
    /// The command that adds a rule before it, but for the rule: `iptables -t filter -I INPUT`.
    pub(crate) insert: String,
    pub(crate) is_nft: bool,
    /// It sends the packet to a port of this host.
    pub(crate) redirects: bool,
}

impl Deed {
    /// The command that removes the rule. `None`: it takes its handle, with nftables.
    pub(crate) fn removed(&self) -> Option<String> {
        (!self.is_nft).then(|| self.by.replacen(" -A ", " -D ", 1))
    }

    /// The command that exempts such packets. `unmarked`: only those that bear no mark.
    pub(crate) fn exempt(&self, packet: &Arriving<'_>, unmarked: bool) -> String {
        let Deed { insert, is_nft, .. } = self;
        let Arriving { to, protocol, port, .. } = packet;
        let (ip, mark) = (if to.is_ipv4() { "ip" } else { "ip6" }, if unmarked { " meta mark 0" } else { "" });
        match is_nft {
            true => format!("{insert} {ip} daddr {to} {protocol} dport {port}{mark} accept"),
            false => {
                let mark = if unmarked { " -m mark --mark 0" } else { "" };
                format!("{insert} -d {to} -p {protocol} --dport {port}{mark} -j ACCEPT")
            }
        }
    }

    /// The command that exempts all packets for this address.
    pub(crate) fn exempt_all(&self, to: IpAddr) -> String {
        match self.is_nft {
            true => format!("{} {} daddr {to} accept", self.insert, if to.is_ipv4() { "ip" } else { "ip6" }),
            false => format!("{} -d {to} -j ACCEPT", self.insert),
        }
    }
}

impl Firewall {
    /// Reads the rules with every installed program that works here.
    pub(crate) fn read(netns: &Netns) -> Result<Self> {
        netns.run(|| ())?;
        Ok(wait_for(|waits| async move {
            let runner = Runner { netns, waits: &waits };
            let mut tables = Vec::new();
            for tool in installed(runner).await {
                let text = if tool.may_hold_rules(netns, None) { tool.list(runner).await.ok() } else { None };
                match tool.kind {
                    Kind::Nft => tables.extend(text.iter().flat_map(|text| nft(text))),
                    Kind::Xtables(family, _) => tables.extend(text.iter().flat_map(|text| xtables(family, text))),
                }
            }
            Firewall { tables }
        }))
    }

    /// The rules that change one of these marks of a packet for one of these addresses.
    pub(crate) fn overwriting(&self, marks: &BTreeSet<NonZeroU32>, vips: &[IpAddr]) -> BTreeSet<String> {
        let mut found = BTreeSet::new();
        for vip in vips {
            for mark in marks {
                let packet = Packet { mark: mark.get(), ..Packet::to(*vip) };
                self.walk(&packet, Way::In, |seen| {
                    let Seen::Rule { rule, .. } = seen else { return };
                    let harmless = match rule.set {
                        Some(Set::To { value, mask }) => (packet.mark & !mask) ^ value == packet.mark,
                        Some(Set::Other) => false,
                        None => true,
                    };
                    if !harmless {
                        found.insert(rule.text.clone());
                    }
                });
            }
        }
        found
    }

    /// What drops the first packet of a connection, whatever its source.
    pub(crate) fn dropping(&self, packet: &Arriving<'_>) -> Option<Deed> {
        self.surely_dropping(&Packet { is_first: Some(true), ..Packet::of(packet, State::New) })
    }

    fn surely_dropping(&self, packet: &Packet<'_>) -> Option<Deed> {
        let mut found = None;
        self.walk(packet, Way::In, |seen| {
            let drops = match seen {
                Seen::Rule { rule, sure, .. } => sure && rule.verdict == Some(Verdict::Drop),
                Seen::Policy { .. } => true,
            };
            if drops {
                found.get_or_insert_with(|| seen.deed());
            }
        });
        found
    }

    /// What drops later packets of a TCP connection of which connection tracking sees the client's
    /// packets only. It forgets each when IPVS sends it on, so the next is new to it, though it is
    /// no SYN; and one with FIN or RST is invalid.
    pub(crate) fn dropping_half_seen(&self, packet: &Arriving<'_>) -> BTreeSet<Deed> {
        let later = |state| Packet { is_first: Some(false), ..Packet::of(packet, state) };
        let (mut found, mut is_untracked) = (BTreeSet::new(), false);
        for packet in [later(State::Invalid), later(State::New)] {
            self.walk(&packet, Way::In, |seen| {
                let Seen::Rule { rule, .. } = seen else { return };
                is_untracked |= rule.deed == Some(Action::Untrack);
                let is_meant = match packet.state {
                    Some(State::Invalid) => rule.states.is_some(),
                    _ => rule.states.is_some() && rule.is_first.is_some(),
                };
                if rule.verdict == Some(Verdict::Drop) && is_meant {
                    found.insert(seen.deed());
                }
            });
        }
        if is_untracked {
            return BTreeSet::new();
        }
        found.extend(self.surely_dropping(&later(State::New)));
        found
    }

    /// Rules that give a packet without a mark another destination.
    pub(crate) fn translating(&self, packet: &Arriving<'_>) -> BTreeSet<Deed> {
        self.doing(packet, Way::In, Action::Destination)
    }

    /// Rules that give what IPVS has sent on another source, where IPVS leaves it to connection
    /// tracking (`conntrack` below net.ipv4.vs). Those of some sources only do not count: they are
    /// mostly a container's.
    pub(crate) fn masquerading(&self, packet: &Arriving<'_>) -> BTreeSet<Deed> {
        self.doing(packet, Way::Out, Action::Source)
    }

    fn doing(&self, packet: &Arriving<'_>, way: Way, action: Action) -> BTreeSet<Deed> {
        let mut found = BTreeSet::new();
        self.walk(&Packet::of(packet, State::New), way, |seen| {
            if let Seen::Rule { rule, .. } = seen
                && rule.deed == Some(action)
                && !(way == Way::Out && rule.of_sources)
            {
                found.insert(seen.deed());
            }
        });
        found
    }

    /// Shows each rule that a packet may match.
    fn walk(&self, packet: &Packet<'_>, way: Way, mut see: impl FnMut(Seen<'_>)) {
        let meets = |table: &&Table| table.family.is_none_or(|family| (family == Family::V4) == packet.to.is_ipv4());
        for table in self.tables.iter().filter(meets) {
            for base in table.bases.iter().filter(|base| base.way == way) {
                let mut walk = Walk { table, base, packet, sure: true, see: &mut see };
                if walk.chain(&base.chain, DEPTH) && walk.sure && base.drops {
                    (walk.see)(Seen::Policy { table, base });
                }
            }
        }
    }

    /// The marks that some rule sets.
    pub(crate) fn marks(&self) -> BTreeSet<u32> {
        let rules = self.tables.iter().flat_map(|table| table.chains.values()).flatten();
        rules
            .filter_map(|rule| match rule.set {
                Some(Set::To { value, .. }) => Some(value),
                _ => None,
            })
            .collect()
    }
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Table {
    /// `None`: both.
    family: Option<Family>,
    /// How a rule of it begins: `iptables -t filter`, `nft: table inet filter`.
    name: String,
    is_nft: bool,
    /// The chains where packets enter.
    bases: Vec<Base>,
    chains: BTreeMap<String, Vec<Rule>>,
}

impl Table {
    /// Whether all packets for a service pass its chains: not those of ARP, or of a bridge's
    /// ports.
    fn sees_all(&self) -> bool {
        !["nft: table arp ", "nft: table bridge "].iter().any(|name| self.name.starts_with(name))
    }
}

/// A chain where packets enter.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Base {
    chain: String,
    way: Way,
    /// Whether its policy drops them at its end.
    drops: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// Before IPVS.
    In,
    /// After IPVS has sent them on.
    Out,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Rule {
    text: String,
    marks: Vec<MarkTest>,
    destination: Option<Destination>,
    /// `tcp`, and whether it is any other.
    protocol: Option<(String, bool)>,
    /// Ranges of the destination's ports, and whether it is none of them.
    ports: Option<(Vec<(u16, u16)>, bool)>,
    /// The interface, and whether it is any other. A `+` or `*` at its end stands for anything.
    interface: Option<(String, bool)>,
    /// States of connection tracking, and whether it is none of them.
    states: Option<(Vec<State>, bool)>,
    /// Of TCP: only packets with SYN alone, or only others.
    is_first: Option<bool>,
    /// There is a test of the source.
    of_sources: bool,
    /// There are other tests, which a packet may fail.
    partial: bool,
    set: Option<Set>,
    deed: Option<Action>,
    redirects: bool,
    verdict: Option<Verdict>,
}

/// `mark & mask == value`, or `!=`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct MarkTest {
    value: u32,
    mask: u32,
    inverted: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Destination {
    address: IpAddr,
    prefix: u8,
    inverted: bool,
}

/// A state of connection tracking.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Invalid,
    New,
    /// Established, related, untracked.
    Other,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Set {
    /// `mark & !mask ^ value`.
    To { value: u32, mask: u32 },
    /// The connection's mark, or what is computed.
    Other,
}

/// What else a rule does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Action {
    /// DNAT, REDIRECT.
    Destination,
    /// SNAT, MASQUERADE.
    Source,
    /// NOTRACK.
    Untrack,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Verdict {
    /// The base chain ends.
    Accept,
    Drop,
    Return,
    Jump(String),
    Goto(String),
}

/// A packet, as far as it is known.
#[derive(Debug, Clone, Copy)]
struct Packet<'a> {
    to: IpAddr,
    mark: u32,
    service: Option<(&'static str, u16)>,
    interface: Option<&'a str>,
    state: Option<State>,
    is_first: Option<bool>,
}

impl<'a> Packet<'a> {
    fn to(to: IpAddr) -> Self {
        Packet { to, mark: 0, service: None, interface: None, state: None, is_first: None }
    }

    fn of(arriving: &Arriving<'a>, state: State) -> Self {
        let Arriving { to, protocol, port, interface } = *arriving;
        let (service, interface) = (Some((protocol, port)), Some(interface));
        Packet { service, interface, state: Some(state), ..Packet::to(to) }
    }
}

/// What a packet meets.
#[derive(Clone, Copy)]
enum Seen<'a> {
    /// `sure`: it comes here, and matches.
    Rule { table: &'a Table, base: &'a Base, rule: &'a Rule, sure: bool },
    /// It surely comes to the end of a base chain that drops it.
    Policy { table: &'a Table, base: &'a Base },
}

impl Seen<'_> {
    fn deed(&self) -> Deed {
        let (Seen::Rule { table, base, .. } | Seen::Policy { table, base }) = *self;
        let by = match self {
            Seen::Rule { rule, .. } => rule.text.clone(),
            Seen::Policy { .. } if table.is_nft => format!("{}, chain {}: policy drop", table.name, base.chain),
            Seen::Policy { .. } => format!("{} -P {} DROP", table.name, base.chain),
        };
        let insert = match table.name.strip_prefix("nft: table ") {
            Some(name) => format!("nft insert rule {name} {}", base.chain),
            None => format!("{} -I {}", table.name, base.chain),
        };
        let redirects = matches!(self, Seen::Rule { rule, .. } if rule.redirects);
        Deed { by, insert, is_nft: table.is_nft, redirects }
    }
}

/// The path of one packet.
struct Walk<'a, 'p, F> {
    table: &'a Table,
    base: &'a Base,
    packet: &'a Packet<'p>,
    /// Whether the packet surely comes here.
    sure: bool,
    see: &'a mut F,
}

impl<F: FnMut(Seen<'_>)> Walk<'_, '_, F> {
    /// Passes a chain. Returns whether the packet goes on behind it.
    fn chain(&mut self, name: &str, depth: usize) -> bool {
        let (table, base) = (self.table, self.base);
        let Some(rules) = table.chains.get(name).filter(|_| depth > 0) else { return true };
        for rule in rules {
            let Some(certain) = rule.matches(self.packet) else { continue };
            let before = self.sure;
            self.sure &= certain;
            (self.see)(Seen::Rule { table, base, rule, sure: self.sure });
            let goes_on = match &rule.verdict {
                None => {
                    self.sure = before;
                    continue;
                }
                Some(Verdict::Accept | Verdict::Drop) => false,
                Some(Verdict::Return) => true,
                Some(Verdict::Jump(to)) if self.chain(to, depth - 1) => continue,
                Some(Verdict::Jump(_)) => false,
                Some(Verdict::Goto(to)) => self.chain(to, depth - 1),
            };
            if certain {
                return goes_on;
            }
        }
        true
    }
}

impl Rule {
    /// Whether a packet matches: `None`, it does not; `false`, it may.
    fn matches(&self, packet: &Packet<'_>) -> Option<bool> {
        let mut certain = !self.partial;
        let mut meets = |known: Option<bool>| {
            certain &= known.is_some();
            known.unwrap_or(true)
        };
        let is_met = self.marks.iter().all(|test| (packet.mark & test.mask == test.value) != test.inverted)
            && self.destination.is_none_or(|to| to.contains(packet.to) != to.inverted)
            && self.protocol.as_ref().is_none_or(|(name, inverted)| {
                meets(packet.service.map(|(protocol, _)| (name == protocol) != *inverted))
            })
            && self.ports.as_ref().is_none_or(|(ranges, inverted)| {
                let is_in = |port: u16| ranges.iter().any(|(from, to)| (*from..=*to).contains(&port));
                meets(packet.service.map(|(_, port)| is_in(port) != *inverted))
            })
            && self.interface.as_ref().is_none_or(|(name, inverted)| {
                let fits = |found: &str| match name.strip_suffix(['+', '*']) {
                    Some(front) => found.starts_with(front),
                    None => found == name,
                };
                meets(packet.interface.map(|found| fits(found) != *inverted))
            })
            && self
                .states
                .as_ref()
                .is_none_or(|(states, inverted)| meets(packet.state.map(|state| states.contains(&state) != *inverted)))
            && self.is_first.is_none_or(|wanted| meets(packet.is_first.map(|is_first| is_first == wanted)));
        is_met.then_some(certain)
    }
}

impl Destination {
    /// Reads `192.0.2.254`, `192.0.2.0/24`.
    fn parse(text: &str, inverted: bool) -> Option<Self> {
        let (address, prefix) = text.split_once('/').map_or((text, None), |(address, prefix)| (address, Some(prefix)));
        let address: IpAddr = address.parse().ok()?;
        let whole = if address.is_ipv4() { 32 } else { 128 };
        let prefix = prefix.map_or(Some(whole), |prefix| prefix.parse().ok().filter(|prefix| *prefix <= whole))?;
        Some(Destination { address, prefix, inverted })
    }

    fn contains(self, vip: IpAddr) -> bool {
        let bits = |address: IpAddr| match address {
            IpAddr::V4(address) => u128::from(address.to_bits()) << 96,
            IpAddr::V6(address) => address.to_bits(),
        };
        let differ = bits(self.address) ^ bits(vip);
        self.address.is_ipv4() == vip.is_ipv4() && differ.checked_shr(128 - u32::from(self.prefix)).unwrap_or(0) == 0
    }
}

fn number(text: &str) -> Option<u32> {
    match text.strip_prefix("0x") {
        Some(digits) => u32::from_str_radix(digits, 16).ok(),
        None => text.parse().ok(),
    }
}

/// Reads `0x5`, `0x5/0xff`.
fn masked(text: &str) -> Option<(u32, u32)> {
    let (value, mask) = text.split_once('/').map_or((text, None), |(value, mask)| (value, Some(mask)));
    Some((number(value)?, mask.map_or(Some(u32::MAX), number)?))
}

/// Reads `80`, `80:90` or, of nft, `80-90`, and lists of them.
fn ports(text: &str) -> Option<Vec<(u16, u16)>> {
    let range = |text: &str| {
        let (from, to) = text.split_once([':', '-']).unwrap_or((text, text));
        Some((from.parse().ok()?, to.parse().ok()?))
    };
    text.split(',').map(range).collect()
}

/// Reads `INVALID,NEW`; of nft, in small letters, or as numbers (`nft -n`).
fn states(text: &str) -> Vec<State> {
    const BITS: [(u32, State); 3] = [(1, State::Invalid), (8, State::New), (2 | 4 | 64, State::Other)];
    let state = |word: &str| match word.to_ascii_lowercase().as_str() {
        "invalid" => vec![State::Invalid],
        "new" => vec![State::New],
        word => match number(word) {
            Some(bits) => BITS.iter().filter(|(bit, _)| bits & bit != 0).map(|(_, state)| *state).collect(),
            None => vec![State::Other],
        },
    };
    text.split([',', '|']).flat_map(state).collect()
}

/// The name of a protocol, also where it is shown as a number.
fn protocol(word: &str) -> String {
    match word {
        "6" => "tcp",
        "17" => "udp",
        "132" => "sctp",
        other => other,
    }
    .to_owned()
}

/// The chains that packets enter by.
fn bases(table: &str) -> Vec<Base> {
    let (arriving, leaving): (&[&str], &[&str]) = match table {
        "raw" => (&["PREROUTING"], &[]),
        "mangle" => (&["PREROUTING", "INPUT"], &[]),
        "nat" => (&["PREROUTING"], &["POSTROUTING"]),
        "filter" => (&["INPUT"], &[]),
        _ => (&[], &[]),
    };
    let base = |chain: &&str, way| Base { chain: (*chain).to_owned(), way, drops: false };
    let arriving = arriving.iter().map(|chain| base(chain, Way::In));
    arriving.chain(leaving.iter().map(|chain| base(chain, Way::Out))).collect()
}

/// Reads what `iptables-save` prints.
fn xtables(family: Family, text: &str) -> Vec<Table> {
    let program = if family == Family::V4 { "iptables" } else { "ip6tables" };
    let mut tables: Vec<Table> = Vec::new();
    for line in text.lines() {
        if let Some(table) = line.strip_prefix('*') {
            let name = format!("{program} -t {table}");
            tables.push(Table { family: Some(family), name, bases: bases(table), ..Table::default() });
            continue;
        }
        let Some(table) = tables.last_mut() else { continue };
        if let Some((chain, policy)) = line.strip_prefix(':').and_then(|line| line.split_once(' ')) {
            let bases = table.bases.iter_mut().filter(|base| base.chain == chain);
            bases.for_each(|base| base.drops = policy.starts_with("DROP"));
            continue;
        }
        let words = words(line);
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        if let ["-A", chain, specification @ ..] = words.as_slice() {
            let rule = xtables_rule(format!("{} {line}", table.name), specification);
            table.chains.entry((*chain).to_owned()).or_default().push(rule);
        }
    }
    tables
}

fn xtables_rule(text: String, specification: &[&str]) -> Rule {
    let mut rule = Rule { text, ..Rule::default() };
    let (mut module, mut inverted) = ("", false);
    let mut words = specification.iter().copied();
    while let Some(word) = words.next() {
        let negated = std::mem::take(&mut inverted);
        match word {
            "!" => inverted = true,
            "-m" => module = words.next().unwrap_or_default(),
            "-d" => rule.test_destination(words.next().and_then(|text| Destination::parse(text, negated))),
            "-p" => rule.protocol = words.next().map(|word| (protocol(word), negated)),
            "-i" | "-o" => rule.interface = words.next().map(|word| (word.to_owned(), negated)),
            "-s" => {
                let _ = words.next();
                (rule.of_sources, rule.partial) = (true, true);
            }
            "--dport" | "--dports" => match words.next().and_then(ports) {
                Some(ranges) => rule.ports = Some((ranges, negated)),
                None => rule.partial = true,
            },
            // `--syn`
            "--tcp-flags" => match [words.next(), words.next()] {
                [Some("FIN,SYN,RST,ACK"), Some("SYN")] => rule.is_first = Some(!negated),
                _ => rule.partial = true,
            },
            "--ctstate" | "--state" => rule.states = words.next().map(|word| (states(word), negated)),
            "--mark" if module == "mark" => match words.next().and_then(masked) {
                Some((value, mask)) => rule.marks.push(MarkTest { value, mask, inverted: negated }),
                None => rule.partial = true,
            },
            // Not a test.
            "--comment" => drop(words.next()),
            "-j" | "-g" => {
                let target = words.next().unwrap_or_default();
                let options: Vec<&str> = words.by_ref().collect();
                let option = |name: &str| options.iter().position(|word| *word == name);
                match target {
                    "MARK" => {
                        let found = option("--set-xmark").and_then(|at| masked(options.get(at + 1)?));
                        rule.set = Some(found.map_or(Set::Other, |(value, mask)| Set::To { value, mask }));
                    }
                    "CONNMARK" if option("--restore-mark").is_some() => rule.set = Some(Set::Other),
                    "CT" if option("--notrack").is_some() => rule.deed = Some(Action::Untrack),
                    "NOTRACK" => rule.deed = Some(Action::Untrack),
                    // The packet passes no other rule of this table.
                    "DNAT" | "REDIRECT" => {
                        rule.redirects = target == "REDIRECT";
                        (rule.deed, rule.verdict) = (Some(Action::Destination), Some(Verdict::Accept));
                    }
                    "SNAT" | "MASQUERADE" => {
                        (rule.deed, rule.verdict) = (Some(Action::Source), Some(Verdict::Accept));
                    }
                    "ACCEPT" | "QUEUE" | "NFQUEUE" => rule.verdict = Some(Verdict::Accept),
                    "DROP" | "REJECT" => rule.verdict = Some(Verdict::Drop),
                    "RETURN" => rule.verdict = Some(Verdict::Return),
                    _ if word == "-g" => rule.verdict = Some(Verdict::Goto(target.to_owned())),
                    // One that is no chain changes nothing.
                    _ => rule.verdict = Some(Verdict::Jump(target.to_owned())),
                }
            }
            // The options of other matches.
            _ => rule.partial = true,
        }
    }
    rule
}

/// Reads what `nft -n list ruleset` prints.
fn nft(text: &str) -> Vec<Table> {
    let mut tables: Vec<Table> = Vec::new();
    let mut chain = None::<String>;
    // Sets, maps and counters: blocks that are no chains.
    let mut depth = 0_usize;
    for line in text.lines().map(str::trim) {
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        match words.as_slice() {
            ["table", family, table, "{"] => {
                let name = format!("nft: table {family} {table}");
                let family = match *family {
                    "ip" => Some(Family::V4),
                    "ip6" => Some(Family::V6),
                    _ => None,
                };
                tables.push(Table { family, name, is_nft: true, ..Table::default() });
                (chain, depth) = (None, 1);
            }
            ["chain", found, "{"] if depth == 1 => {
                chain = Some((*found).to_owned());
                depth = 2;
            }
            [.., "{"] => depth += 1,
            ["}"] => {
                depth = depth.saturating_sub(1);
                chain = chain.filter(|_| depth >= 2);
            }
            [] | ["#", ..] => {}
            _ => {
                let (Some(table), Some(chain)) = (tables.last_mut(), &chain) else { continue };
                if words[0] == "type" {
                    let hook = words.windows(2).find(|pair| pair[0] == "hook").map_or("", |pair| pair[1]);
                    let way = match hook {
                        "ingress" | "prerouting" | "input" => Way::In,
                        "postrouting" => Way::Out,
                        _ => continue,
                    };
                    let drops = table.sees_all() && words.windows(2).any(|pair| pair == ["policy", "drop;"]);
                    table.bases.push(Base { chain: chain.clone(), way, drops });
                } else if !line.contains("xt match") && words[0] != "policy" {
                    // iptables shows what nft cannot.
                    let text = format!("{}, chain {chain}: {line}", table.name);
                    let mut rule = nft_rule(text, &words);
                    rule.partial |= !table.sees_all();
                    table.chains.entry(chain.clone()).or_default().push(rule);
                }
            }
        }
    }
    tables
}

/// A value of nft: one word, or several in braces; and what follows.
fn value<'a, 'w>(words: &'a [&'w str]) -> (String, &'a [&'w str]) {
    match words {
        ["{", rest @ ..] => {
            let end = rest.iter().position(|word| *word == "}").unwrap_or(rest.len());
            (rest[..end].concat(), rest.get(end + 1..).unwrap_or_default())
        }
        [word, rest @ ..] => ((*word).to_owned(), rest),
        [] => (String::new(), words),
    }
}

fn nft_rule(text: String, mut words: &[&str]) -> Rule {
    let mut rule = Rule { text, ..Rule::default() };
    // A map of verdicts: it may end here.
    if words.contains(&"vmap") {
        (rule.partial, rule.verdict) = (true, Some(Verdict::Accept));
        return rule;
    }
    loop {
        let negated = |words: &[&str]| words.first() == Some(&"!=");
        words = match words {
            [] => return rule,
            ["meta", "mark", "set", rest @ ..] => {
                // What follows is a number, or computed: verdicts and comments end it.
                let ends = |word: &&str| {
                    matches!(*word, "accept" | "drop" | "return" | "jump" | "goto" | "counter" | "comment")
                };
                let length = rest.iter().position(ends).unwrap_or(rest.len());
                let (value, rest) = rest.split_at(length);
                rule.set = Some(match value {
                    [value] => number(value).map_or(Set::Other, |value| Set::To { value, mask: u32::MAX }),
                    ["meta", "mark", "or" | "|", value] => {
                        number(value).map_or(Set::Other, |value| Set::To { value, mask: value })
                    }
                    ["meta", "mark", "and" | "&", value] => {
                        number(value).map_or(Set::Other, |value| Set::To { value: 0, mask: !value })
                    }
                    _ => Set::Other,
                });
                rest
            }
            ["meta", "mark", "and" | "&", mask, operator @ ("==" | "!="), value, rest @ ..] => {
                rule.test_mark(number(value), number(mask), *operator == "!=");
                rest
            }
            ["meta", "mark", "!=", value, rest @ ..] => {
                rule.test_mark(number(value), Some(u32::MAX), true);
                rest
            }
            ["meta", "mark", "==", value, rest @ ..] | ["meta", "mark", value, rest @ ..] => {
                rule.test_mark(number(value), Some(u32::MAX), false);
                rest
            }
            ["ip" | "ip6", "daddr", "!=", to, rest @ ..] => {
                rule.test_destination(Destination::parse(to, true));
                rest
            }
            ["ip" | "ip6", "daddr", to, rest @ ..] => {
                rule.test_destination(Destination::parse(to, false));
                rest
            }
            ["iifname" | "iif" | "oifname" | "oif", rest @ ..] => {
                let inverted = negated(rest);
                let (name, rest) = value(&rest[usize::from(inverted)..]);
                match name.contains([',', '@']) {
                    true => rule.partial = true,
                    false => rule.interface = Some((name.trim_matches('"').to_owned(), inverted)),
                }
                rest
            }
            ["ct", "state", rest @ ..] => {
                let inverted = negated(rest);
                let (found, rest) = value(&rest[usize::from(inverted)..]);
                rule.states = Some((states(&found), inverted));
                rest
            }
            ["tcp" | "udp" | "sctp" | "th", "dport", rest @ ..] => {
                let inverted = negated(rest);
                let (found, rest) = value(&rest[usize::from(inverted)..]);
                match ports(&found) {
                    Some(ranges) => rule.ports = Some((ranges, inverted)),
                    None => rule.partial = true,
                }
                if words[0] != "th" {
                    rule.protocol = Some((words[0].to_owned(), false));
                }
                rest
            }
            ["meta", "l4proto", name, rest @ ..] | ["ip", "protocol", name, rest @ ..]
                if !name.starts_with(['{', '!', '@']) =>
            {
                rule.protocol = Some((protocol(name), false));
                rest
            }
            ["tcp", "flags", rest @ ..] => {
                let at = rest.iter().position(|word| matches!(*word, "==" | "!="));
                match at.map(|at| (rest[at], rest.get(at + 1))) {
                    Some((operator, Some(&("syn" | "0x2" | "0x02")))) => rule.is_first = Some(operator == "=="),
                    _ => rule.partial = true,
                }
                rule.protocol = Some(("tcp".to_owned(), false));
                at.and_then(|at| rest.get(at + 2..)).unwrap_or(rest)
            }
            ["ip" | "ip6", "saddr", rest @ ..] => {
                (rule.of_sources, rule.partial) = (true, true);
                rest
            }
            ["notrack", rest @ ..] => {
                rule.deed = Some(Action::Untrack);
                rest
            }
            ["dnat", "to" | "ip" | "ip6", ..] | ["redirect", ..] => {
                rule.redirects = words[0] == "redirect";
                (rule.deed, rule.verdict) = (Some(Action::Destination), Some(Verdict::Accept));
                return rule;
            }
            ["snat", "to" | "ip" | "ip6", ..] | ["masquerade", ..] => {
                (rule.deed, rule.verdict) = (Some(Action::Source), Some(Verdict::Accept));
                return rule;
            }
            ["counter", "packets", _, "bytes", _, rest @ ..] => rest,
            ["comment", ..] => return rule,
            ["accept" | "queue", ..] => {
                rule.verdict = Some(Verdict::Accept);
                return rule;
            }
            ["drop" | "reject", ..] => {
                rule.verdict = Some(Verdict::Drop);
                return rule;
            }
            ["return", ..] => {
                rule.verdict = Some(Verdict::Return);
                return rule;
            }
            ["jump", to, ..] => {
                rule.verdict = Some(Verdict::Jump((*to).to_owned()));
                return rule;
            }
            ["goto", to, ..] => {
                rule.verdict = Some(Verdict::Goto((*to).to_owned()));
                return rule;
            }
            [_, rest @ ..] => {
                rule.partial = true;
                rest
            }
        };
    }
}

impl Rule {
    fn test_mark(&mut self, value: Option<u32>, mask: Option<u32>, inverted: bool) {
        match value.zip(mask) {
            Some((value, mask)) => self.marks.push(MarkTest { value, mask, inverted }),
            // A set of marks.
            None => self.partial = true,
        }
    }

    fn test_destination(&mut self, to: Option<Destination>) {
        self.partial |= to.is_none();
        self.destination = to;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(table: Vec<Table>) -> usize {
        let marks = [NonZeroU32::new(0x4c56_5300).unwrap()].into();
        let vips = ["192.0.2.254".parse().unwrap(), "2001:db8::fe".parse().unwrap()];
        Firewall { tables: table }.overwriting(&marks, &vips).len()
    }

    fn mangle(rules: &str) -> Vec<Table> {
        xtables(
            Family::V4,
            &format!("*mangle\n:PREROUTING ACCEPT [0:0]\n:INPUT ACCEPT [0:0]\n:WEB - [0:0]\n{rules}\nCOMMIT\n"),
        )
    }

    fn of_xtables(rules: &str) -> usize {
        found(mangle(rules))
    }

    #[test]
    fn rules_of_xtables_that_overwrite_a_mark() {
        let set = "-j MARK --set-xmark 0x5/0xffffffff";
        for rules in [
            format!("-A PREROUTING -d 192.0.2.254/32 -p tcp -m tcp --dport 80 {set}"),
            format!("-A INPUT -d 192.0.2.0/24 {set}"),
            format!("-A PREROUTING ! -d 192.0.2.9/32 {set}"),
            // The mark of a connection.
            format!("-A PREROUTING -m connmark --mark 0x0 {set}"),
            "-A PREROUTING -j CONNMARK --restore-mark --nfmask 0xffffffff --ctmask 0xffffffff".to_owned(),
            // This test looks at octets that are 0 in the node's mark.
            format!("-A PREROUTING -m mark --mark 0x0/0xff {set}"),
            format!("-A PREROUTING -m mark ! --mark 0x7 {set}"),
            "-A PREROUTING -j MARK --set-xmark 0x1/0x1".to_owned(),
            format!("-A PREROUTING -p tcp -j WEB\n-A WEB {set}"),
            format!("-A PREROUTING -m mark ! --mark 0x0 -p tcp -j ACCEPT\n-A PREROUTING {set}"),
            format!("-A PREROUTING -m comment --comment \"a -m mark --mark 0x0\" {set}"),
        ] {
            assert_eq!(of_xtables(&rules), 1, "{rules}");
        }
        for rules in [
            String::new(),
            format!("-A PREROUTING -d 192.0.2.254/32 -p tcp -m mark --mark 0x0 {set}"),
            format!("-A PREROUTING -d 192.0.2.253/32 {set}"),
            format!("-A PREROUTING ! -d 192.0.2.254/32 {set}"),
            format!("-A OUTPUT {set}\n-A WEB {set}"),
            format!("-A PREROUTING -m mark --mark 0x0 -j WEB\n-A WEB {set}"),
            format!("-A PREROUTING -m mark ! --mark 0x0 -j ACCEPT\n-A PREROUTING {set}"),
            format!("-A PREROUTING -j WEB\n-A WEB -m mark ! --mark 0x0 -j RETURN\n-A WEB {set}"),
            "-A PREROUTING -j MARK --set-xmark 0x0/0xff".to_owned(),
            "-A PREROUTING -j CONNMARK --save-mark --nfmask 0xffffffff --ctmask 0xffffffff".to_owned(),
            "-A PREROUTING -j WEB\n-A WEB -j WEB".to_owned(),
        ] {
            assert_eq!(of_xtables(&rules), 0, "{rules}");
        }
        let firewall = Firewall { tables: mangle(&format!("-A PREROUTING -m mark --mark 0x0 {set}")) };
        assert_eq!(firewall.marks(), [5].into());
    }

    fn of_nft(rules: &str) -> usize {
        let text = format!(
            "table inet web {{\n\tset x {{\n\t\ttype ipv4_addr\n\t\telements = {{ 192.0.2.1,\n\t\t\t 192.0.2.2 }}\n\t}}\n\n\tchain other {{\n\t\tmeta \
             mark set 0x00000005\n\t}}\n\n\tchain pre {{\n\t\ttype filter hook prerouting priority mangle; policy accept;\n\t\t{rules}\n\t}}\n}}\n\
             table inet lvs-dr {{\n\tchain output {{\n\t\ttype route hook output priority mangle; policy accept;\n\t\toifname \"lo\" ip daddr \
             192.0.2.254 meta mark set 0x4c565300\n\t}}\n}}\n"
        );
        found(nft(&text))
    }

    #[test]
    fn rules_of_nftables_that_overwrite_a_mark() {
        let set = "counter packets 0 bytes 0 meta mark set 0x00000005";
        for rules in [
            format!("ip daddr 192.0.2.254 tcp dport 80 {set}"),
            format!("ip6 daddr 2001:db8::/64 {set} accept"),
            format!("ip daddr {{ 192.0.2.1, 192.0.2.254 }} {set}"),
            format!("ct mark 0x00000000 {set}"),
            "meta mark set ct mark".to_owned(),
            "meta mark set meta mark or 0x00000001".to_owned(),
            format!("meta mark & 0x000000ff == 0x00000000 {set}"),
            "jump other".to_owned(),
            format!("meta mark != 0x00000000 tcp dport 80 accept\n{set}"),
        ] {
            assert_eq!(of_nft(&rules), 1, "{rules}");
        }
        for rules in [
            String::new(),
            format!("ip daddr 192.0.2.254 meta mark 0x00000000 tcp dport 80 {set}"),
            format!("meta mark != 0x00000000 accept\n{set}"),
            format!("ip daddr 192.0.2.253 {set}"),
            "meta mark 0x00000000 jump other".to_owned(),
            "ct mark set meta mark".to_owned(),
            "meta mark set meta mark and 0xffffff00".to_owned(),
        ] {
            assert_eq!(of_nft(&rules), 0, "{rules}");
        }
        assert_eq!(
            found(nft(
                "table ip x {\n\tchain forward {\n\t\ttype filter hook forward priority 0; policy accept;\n\t\tmeta mark set 0x1\n\t}\n}\n"
            )),
            0
        );
    }

    const WEB: Arriving<'_> = Arriving {
        to: IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 254)),
        protocol: "tcp",
        port: 80,
        interface: "eth0",
    };

    /// What a firewall does to the service: drops all, drops later packets, translates, gives
    /// another source.
    fn deeds(tables: Vec<Table>) -> [bool; 4] {
        let firewall = Firewall { tables };
        [
            firewall.dropping(&WEB).is_some(),
            !firewall.dropping_half_seen(&WEB).is_empty(),
            !firewall.translating(&WEB).is_empty(),
            !firewall.masquerading(&WEB).is_empty(),
        ]
    }

    const NOTHING: [bool; 4] = [false; 4];
    const DROPS: [bool; 4] = [true, true, false, false];
    const DROPS_LATER: [bool; 4] = [false, true, false, false];
    const TRANSLATES: [bool; 4] = [false, false, true, false];
    const MASQUERADES: [bool; 4] = [false, false, false, true];

    #[test]
    fn what_xtables_do_to_a_service() {
        let established = "-A INPUT -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT\n";
        let accept = "-A INPUT -d 192.0.2.254/32 -p tcp -m tcp --dport 80 -j ACCEPT\n";
        let invalid = "-A INPUT -m conntrack --ctstate INVALID -j DROP\n";
        let input = |policy: &str, rules: &[&str]| {
            format!(
                "# comment\n*filter\n:INPUT {policy} [0:0]\n:FORWARD DROP [0:0]\n:WEB - [0:0]\n{}COMMIT\n",
                rules.concat()
            )
        };
        let nat = |rules: &str| {
            format!("*nat\n:PREROUTING ACCEPT [0:0]\n:POSTROUTING ACCEPT [0:0]\n:DOCKER - [0:0]\n{rules}\nCOMMIT\n")
        };
        for (text, expected) in [
            (input("ACCEPT", &[]), NOTHING),
            (input("DROP", &[established]), DROPS),
            (input("DROP", &[established, accept]), NOTHING),
            // The rule names the server's own address.
            (input("DROP", &["-A INPUT -d 192.0.2.11/32 -p tcp -m tcp --dport 80 -j ACCEPT\n"]), DROPS),
            (input("DROP", &["-A INPUT -s 198.51.100.0/24 -j ACCEPT\n"]), NOTHING),
            (input("DROP", &["-A INPUT -i lo -j ACCEPT\n"]), DROPS),
            (input("DROP", &["-A INPUT -i eth+ -p tcp -m multiport --dports 22,80 -j ACCEPT\n"]), NOTHING),
            (input("DROP", &["-A INPUT -j WEB\n-A WEB -p udp -j ACCEPT\n"]), DROPS),
            (input("DROP", &["-A INPUT -j WEB\n-A WEB -m set --match-set web dst -j ACCEPT\n"]), NOTHING),
            (input("ACCEPT", &["-A INPUT -d 192.0.2.254/32 -j DROP\n"]), DROPS),
            (input("ACCEPT", &["-A INPUT -d 192.0.2.254/32 -p udp -j DROP\n"]), NOTHING),
            (input("ACCEPT", &["-A INPUT -j REJECT --reject-with icmp-port-unreachable\n"]), DROPS),
            (input("ACCEPT", &[established, invalid, accept]), DROPS_LATER),
            (input("ACCEPT", &[established, accept, invalid]), NOTHING),
            (input("ACCEPT", &["-A INPUT -i docker0 -m conntrack --ctstate INVALID -j DROP\n"]), NOTHING),
            (input("ACCEPT", &["-A INPUT -m state --state NEW,INVALID -p udp -j DROP\n"]), NOTHING),
            (
                input(
                    "ACCEPT",
                    &["-A INPUT -p tcp -m tcp ! --tcp-flags FIN,SYN,RST,ACK SYN -m conntrack --ctstate NEW -j DROP\n"],
                ),
                DROPS_LATER,
            ),
            (
                input(
                    "DROP",
                    &[established, "-A INPUT -p tcp -m tcp --dport 80 --tcp-flags FIN,SYN,RST,ACK SYN -j ACCEPT\n"],
                ),
                DROPS_LATER,
            ),
            (
                format!(
                    "*raw\n:PREROUTING ACCEPT [0:0]\n-A PREROUTING -d 192.0.2.254/32 -j CT --notrack\nCOMMIT\n{}",
                    input("ACCEPT", &[invalid])
                ),
                NOTHING,
            ),
            (nat("-A PREROUTING -d 192.0.2.254/32 -p tcp -m tcp --dport 80 -j REDIRECT"), TRANSLATES),
            (
                nat(
                    "-A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER\n-A DOCKER ! -i docker0 -p tcp -m tcp --dport 80 -j DNAT --to-destination 172.17.0.2:80",
                ),
                TRANSLATES,
            ),
            (
                nat(
                    "-A PREROUTING -d 192.0.2.254/32 -p tcp -m tcp --dport 80 -m mark --mark 0x0 -j ACCEPT\n-A PREROUTING -p tcp -j REDIRECT",
                ),
                NOTHING,
            ),
            (nat("-A PREROUTING -p tcp -m tcp --dport 8080 -j REDIRECT --to-ports 80"), NOTHING),
            (nat("-A PREROUTING -d 192.0.2.9/32 -j DNAT --to-destination 10.0.0.2"), NOTHING),
            (nat("-A POSTROUTING -o eth0 -j MASQUERADE"), MASQUERADES),
            (nat("-A POSTROUTING -d 192.0.2.254/32 -j ACCEPT\n-A POSTROUTING -o eth0 -j MASQUERADE"), NOTHING),
            (nat("-A POSTROUTING -s 172.17.0.0/16 ! -o docker0 -j MASQUERADE"), NOTHING),
            (nat("-A POSTROUTING -m mark --mark 0x4000/0x4000 -j MASQUERADE"), NOTHING),
        ] {
            assert_eq!(deeds(xtables(Family::V4, &text)), expected, "{text}");
        }
    }

    #[test]
    fn what_nftables_do_to_a_service() {
        let input = |policy: &str, rules: &str| {
            format!(
                "table inet filter {{\n\tchain input {{\n\t\ttype filter hook input priority 0; policy {policy};\n\t\t{rules}\n\t}}\n}}\n"
            )
        };
        let nat = |hook: &str, rules: &str| {
            format!(
                "table ip nat {{\n\tchain a {{\n\t\ttype nat hook {hook} priority 0; policy accept;\n\t\t{rules}\n\t}}\n}}\n"
            )
        };
        for (text, expected) in [
            (input("accept", ""), NOTHING),
            (input("drop", "ct state established,related accept\niifname \"lo\" accept"), DROPS),
            (input("drop", "ct state { established, related } accept\ntcp dport { 22, 80 } accept"), NOTHING),
            (input("drop", "tcp dport @web accept"), NOTHING),
            (input("drop", "tcp dport vmap { 80 : accept }"), NOTHING),
            (input("drop", "ip daddr 192.0.2.11 tcp dport 80 accept"), DROPS),
            (input("accept", "ip daddr 192.0.2.254 drop"), DROPS),
            (input("accept", "ct state invalid drop"), DROPS_LATER),
            (input("accept", "ct state 0x00000001 counter packets 0 bytes 0 drop"), DROPS_LATER),
            (input("accept", "ip daddr 192.0.2.254 tcp dport 80 accept\nct state invalid drop"), NOTHING),
            (input("accept", "meta l4proto 17 ct state invalid drop"), NOTHING),
            (input("accept", "tcp flags & (fin | syn | rst | ack) != syn ct state new drop"), DROPS_LATER),
            (nat("prerouting", "ip daddr 192.0.2.254 tcp dport 80 redirect"), TRANSLATES),
            (nat("prerouting", "iifname != \"docker0\" tcp dport 80 dnat to 172.17.0.2:80"), TRANSLATES),
            (nat("prerouting", "iifname \"docker0\" tcp dport 80 dnat to 172.17.0.2:80"), NOTHING),
            (nat("prerouting", "ip daddr 192.0.2.254 tcp dport 80 meta mark 0 accept\ntcp dport 80 redirect"), NOTHING),
            (nat("postrouting", "oifname \"eth0\" masquerade"), MASQUERADES),
            (nat("postrouting", "ip saddr 172.17.0.0/16 oifname != \"docker0\" masquerade"), NOTHING),
            (nat("output", "tcp dport 80 redirect"), NOTHING),
            (input("drop", "").replace("inet filter", "arp filter"), NOTHING),
            (input("drop", "tcp flags syn tcp dport 80 accept"), NOTHING),
        ] {
            assert_eq!(deeds(nft(&text)), expected, "{text}");
        }
    }

    #[test]
    fn what_exempts_a_service_comes_before_the_rule() {
        let firewall = |tables| Firewall { tables };
        let of = |text: &str| firewall(xtables(Family::V4, text)).dropping(&WEB).unwrap();
        let policy = of("*filter\n:INPUT DROP [0:0]\nCOMMIT\n");
        assert_eq!(policy.by, "iptables -t filter -P INPUT DROP");
        assert_eq!(
            policy.exempt(&WEB, false),
            "iptables -t filter -I INPUT -d 192.0.2.254 -p tcp --dport 80 -j ACCEPT"
        );
        let nft = nft("table inet f {\n\tchain in {\n\t\ttype filter hook input priority 0; policy drop;\n\t}\n}\n");
        let policy = firewall(nft).dropping(&WEB).unwrap();
        assert_eq!(policy.by, "nft: table inet f, chain in: policy drop");
        assert_eq!(
            policy.exempt(&WEB, true),
            "nft insert rule inet f in ip daddr 192.0.2.254 tcp dport 80 meta mark 0 accept"
        );
        assert_eq!(policy.exempt_all(WEB.to), "nft insert rule inet f in ip daddr 192.0.2.254 accept");
    }
}
