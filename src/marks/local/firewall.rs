//! Reads the firewall's rules that set marks of arriving packets, to find those that overwrite
//! marks which packets bear already.
//!
//! What counts are the chains that arriving packets pass before IPVS sees them: PREROUTING and
//! INPUT of table `mangle` with xtables, and every chain with the hook ingress, prerouting or
//! input with nftables. Tests other than those of the mark and the destination address are taken
//! as met.

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

/// The rules of a network namespace that arriving packets pass, as far as they could be read.
#[derive(Debug, Clone, Default)]
pub(crate) struct Firewall {
    tables: Vec<Table>,
}

impl Firewall {
    /// Reads the rules with every installed program that works here.
    pub(crate) fn read(netns: &Netns) -> Result<Self> {
        netns.run(|| ())?;
        Ok(wait_for(|waits| async move {
            let runner = Runner { netns, waits: &waits };
            let mut tables = Vec::new();
            for tool in installed(runner).await {
                let text = if tool.may_hold_rules(netns) { tool.list(runner).await.ok() } else { None };
                match tool.kind {
                    Kind::Nft => tables.extend(text.iter().flat_map(|text| nft(text))),
                    Kind::Xtables(family, _) => tables.extend(text.iter().map(|text| xtables(family, text))),
                }
            }
            Firewall { tables }
        }))
    }

    /// The rules that change one of these marks of a packet for one of these addresses.
    pub(crate) fn overwriting(&self, marks: &BTreeSet<NonZeroU32>, vips: &[IpAddr]) -> BTreeSet<String> {
        let mut found = BTreeSet::new();
        for table in &self.tables {
            for vip in
                vips.iter().filter(|vip| table.family.is_none_or(|family| (family == Family::V4) == vip.is_ipv4()))
            {
                for mark in marks {
                    for base in &table.bases {
                        let mut walk = Walk { table, mark: mark.get(), vip: *vip, found: &mut found };
                        walk.chain(base, DEPTH);
                    }
                }
            }
        }
        found
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
    /// The chains where packets enter.
    bases: Vec<String>,
    chains: BTreeMap<String, Vec<Rule>>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Rule {
    text: String,
    marks: Vec<MarkTest>,
    destination: Option<Destination>,
    /// There are other tests, which a packet may fail.
    partial: bool,
    set: Option<Set>,
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

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Set {
    /// `mark & !mask ^ value`.
    To { value: u32, mask: u32 },
    /// The connection's mark, or what is computed.
    Other,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Verdict {
    /// The base chain ends.
    End,
    Return,
    Jump(String),
    Goto(String),
}

/// The path of one packet.
struct Walk<'a> {
    table: &'a Table,
    mark: u32,
    vip: IpAddr,
    found: &'a mut BTreeSet<String>,
}

impl Walk<'_> {
    /// Passes a chain. Returns whether the packet goes on behind it.
    fn chain(&mut self, name: &str, depth: usize) -> bool {
        let (table, mark, vip) = (self.table, self.mark, self.vip);
        let Some(rules) = table.chains.get(name).filter(|_| depth > 0) else { return true };
        for rule in rules.iter().filter(|rule| rule.may_match(mark, vip)) {
            let harmless = match rule.set {
                Some(Set::To { value, mask }) => (mark & !mask) ^ value == mark,
                Some(Set::Other) => false,
                None => true,
            };
            if !harmless {
                self.found.insert(rule.text.clone());
            }
            let goes_on = match &rule.verdict {
                None => continue,
                Some(Verdict::End) => false,
                Some(Verdict::Return) => true,
                Some(Verdict::Jump(to)) if self.chain(to, depth - 1) => continue,
                Some(Verdict::Jump(_)) => false,
                Some(Verdict::Goto(to)) => self.chain(to, depth - 1),
            };
            if !rule.partial {
                return goes_on;
            }
        }
        true
    }
}

impl Rule {
    fn may_match(&self, mark: u32, vip: IpAddr) -> bool {
        self.marks.iter().all(|test| (mark & test.mask == test.value) != test.inverted)
            && self.destination.is_none_or(|to| to.contains(vip) != to.inverted)
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

/// Reads what `iptables -t mangle -S` prints.
fn xtables(family: Family, text: &str) -> Table {
    let mut table =
        Table { family: Some(family), bases: ["PREROUTING", "INPUT"].map(str::to_owned).into(), ..Table::default() };
    for line in text.lines() {
        let words = words(line);
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        if let ["-A", chain, specification @ ..] = words.as_slice() {
            table.chains.entry((*chain).to_owned()).or_default().push(xtables_rule(line, specification));
        }
    }
    table
}

fn xtables_rule(line: &str, specification: &[&str]) -> Rule {
    let name = if line.contains("::") || line.contains("icmpv6") { "ip6tables" } else { "iptables" };
    let mut rule = Rule { text: format!("{name} -t mangle {line}"), ..Rule::default() };
    let (mut module, mut inverted) = ("", false);
    let mut words = specification.iter().copied();
    while let Some(word) = words.next() {
        let negated = std::mem::take(&mut inverted);
        match word {
            "!" => inverted = true,
            "-m" => module = words.next().unwrap_or_default(),
            "-d" => rule.destination = words.next().and_then(|text| Destination::parse(text, negated)),
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
                    "ACCEPT" | "DROP" | "REJECT" | "QUEUE" | "NFQUEUE" => rule.verdict = Some(Verdict::End),
                    "RETURN" => rule.verdict = Some(Verdict::Return),
                    _ if word == "-g" => rule.verdict = Some(Verdict::Goto(target.to_owned())),
                    // One that is no chain changes nothing.
                    _ => rule.verdict = Some(Verdict::Jump(target.to_owned())),
                }
            }
            // `-p tcp`, `-i eth0` and the options of matches.
            _ => rule.partial = true,
        }
    }
    rule
}

/// Reads what `nft -n list ruleset` prints.
fn nft(text: &str) -> Vec<Table> {
    let mut tables: Vec<Table> = Vec::new();
    let (mut name, mut chain) = (String::new(), None::<String>);
    // Sets, maps and counters: blocks that are no chains.
    let mut depth = 0_usize;
    for line in text.lines().map(str::trim) {
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        match words.as_slice() {
            ["table", family, table, "{"] => {
                name = format!("{family} {table}");
                let family = match *family {
                    "ip" => Some(Family::V4),
                    "ip6" => Some(Family::V6),
                    _ => None,
                };
                tables.push(Table { family, ..Table::default() });
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
                    if matches!(hook, "ingress" | "prerouting" | "input") {
                        table.bases.push(chain.clone());
                    }
                } else if !line.contains("xt match") && words[0] != "policy" {
                    // iptables shows what nft cannot.
                    let text = format!("nft: table {name}, chain {chain}: {line}");
                    table.chains.entry(chain.clone()).or_default().push(nft_rule(text, &words));
                }
            }
        }
    }
    tables
}

fn nft_rule(text: String, mut words: &[&str]) -> Rule {
    let mut rule = Rule { text, ..Rule::default() };
    loop {
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
            ["counter", "packets", _, "bytes", _, rest @ ..] => rest,
            ["comment", ..] => return rule,
            ["accept" | "drop" | "reject" | "queue", ..] => {
                rule.verdict = Some(Verdict::End);
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

    fn of_xtables(rules: &str) -> usize {
        found(vec![xtables(Family::V4, &format!("-P PREROUTING ACCEPT\n-P INPUT ACCEPT\n-N WEB\n{rules}"))])
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
        let firewall =
            Firewall { tables: vec![xtables(Family::V4, &format!("-A PREROUTING -m mark --mark 0x0 {set}"))] };
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
}
