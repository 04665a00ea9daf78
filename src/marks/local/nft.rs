//! The table of nftables. See nft(8).

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::net::IpAddr;
use std::num::NonZeroU32;

use super::tool::{OURS, number};

/// After connection tracking (-200), before IPVS (-99): `mangle`, which old versions have no name
/// for.
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

/// Reads `oifname "lo" ip daddr 192.0.2.254 meta mark set 0x00000001`.
fn rule(line: &str) -> Option<(IpAddr, NonZeroU32)> {
    let words: Vec<&str> = line.split_ascii_whitespace().collect();
    let ["oifname", "\"lo\"", family, "daddr", vip, "meta", "mark", "set", mark] = words[..] else { return None };
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
        let _ = writeln!(script, "\t\toifname \"lo\" {} daddr {vip} meta mark set {mark}", family(vip));
    }
    script + "\t}\n}\n"
}

#[cfg(test)]
mod tests {
    use super::super::tool::Found;
    use super::*;
    use crate::marks::local::tests::both;

    const LISTED: &str = "\
table inet lvs-dr {
\tchain output {
\t\ttype route hook output priority mangle; policy accept;
\t\toifname \"lo\" ip daddr 192.0.2.254 meta mark set 0x00000001
\t\toifname \"lo\" ip6 daddr 2001:db8::fe meta mark set 0x80000001
\t}
}
";

    fn table(text: &str) -> Found {
        Found::Nft(Table::parse(text))
    }

    #[test]
    fn a_table_of_nftables_is_read() {
        // As nft 1.0.6 shows it without -n and with it, and as it takes it.
        for text in [
            LISTED.to_owned(),
            LISTED.replace("mangle", "-150"),
            script(&both()).replace("add table inet lvs-dr\ndelete table inet lvs-dr\n", ""),
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
            ("twice", LISTED.replace("\t}\n", "\t\toifname \"lo\" ip daddr 192.0.2.254 meta mark set 1\n\t}\n")),
            ("another hook", LISTED.replace("hook output", "hook input")),
            ("another chain", LISTED.replace("\t}\n", "\t}\n\tchain x {\n\t}\n")),
        ] {
            assert_ne!(changed, LISTED);
            assert!(!table(&changed).is_exactly(&both()) && !table(&changed).is_empty(), "{what}");
        }
        // Not in force, so not marked.
        assert_eq!(table(&LISTED.replace("hook output", "hook input")).marks().count(), 0);
    }
}
