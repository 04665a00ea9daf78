//! Rules of xtables. See iptables(8) and iptables-extensions(8).

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::num::NonZeroU32;

use super::tool::{OURS, number};

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
        let words = format!("-d {vip} -o lo -m comment --comment {OURS} -j MARK --set-mark {mark}");
        Rule { mark: Some((vip, mark)), specification: words.split(' ').map(str::to_owned).collect() }
    }

    /// Reads a line of `iptables -S OUTPUT`; `None` for a rule of another program.
    pub(super) fn parse(line: &str) -> Option<Self> {
        let words = words(line);
        let specification = words.strip_prefix(&["-A".to_owned(), "OUTPUT".to_owned()])?;
        specification.windows(2).find(|pair| pair[0] == "--comment" && pair[1] == OURS)?;
        let words: Vec<&str> = specification.iter().map(String::as_str).collect();
        let mark = match words[..] {
            ["-d", vip, "-o", "lo", "-m", "comment", "--comment", _, "-j", "MARK", "--set-xmark", mark] => {
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

/// Which rules to add, and which to delete after that. A rule that is listed twice is deleted
/// once.
pub(super) fn changes(found: &[Rule], wanted: &BTreeSet<(IpAddr, NonZeroU32)>) -> (Vec<Rule>, Vec<Rule>) {
    let mut missing = wanted.clone();
    let superfluous = found.iter().filter(|rule| !rule.mark.is_some_and(|mark| missing.remove(&mark)));
    let superfluous = superfluous.cloned().collect();
    (missing.into_iter().map(|(vip, mark)| Rule::new(vip, mark)).collect(), superfluous)
}

/// Splits a line as iptables quotes it: blanks separate, double quotes join, a backslash in quotes
/// takes the next character as it is.
pub(super) fn words(line: &str) -> Vec<String> {
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
mod tests {
    use super::super::tool::Found;
    use super::*;
    use crate::marks::local::tests::{both, marks};

    fn rules(text: &str) -> Vec<Rule> {
        text.lines().filter_map(Rule::parse).collect()
    }

    #[test]
    fn rules_of_xtables_are_read() {
        let listed = "\
-P OUTPUT ACCEPT
-A OUTPUT -d 192.0.2.254/32 -j MARK --set-xmark 0x7/0xffffffff
-A OUTPUT -d 192.0.2.254/32 -o lo -m comment --comment lvs-dr -j MARK --set-xmark 0x1/0xffffffff
-A OUTPUT -d 192.0.2.254/32 -o lo -m comment --comment \"x --comment lvs-dr\" -j MARK --set-xmark 0x1/0xffffffff
-A OUTPUT -d 2001:db8::fe/128 -o lo -m comment --comment lvs-dr -j MARK --set-xmark 0x80000001/0xffffffff
-A OTHER -d 192.0.2.253/32 -o lo -m comment --comment lvs-dr -j MARK --set-xmark 0x1/0xffffffff
";
        let found = rules(listed);
        assert_eq!(found.len(), 2);
        assert!(Found::Xtables(found).is_exactly(&both()));
        for (old, new) in [
            ("-d 192.0.2.254/32", "-d 192.0.2.0/24"),
            ("0xffffffff", "0xff"),
            ("-o lo ", ""),
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
            format!(
                "-A OUTPUT -d {vip}/32 -o lo -m comment --comment lvs-dr -j MARK --set-xmark {mark:#x}/0xffffffff\n"
            )
        };
        let found = rules(&(line("192.0.2.1", 1) + &line("192.0.2.2", 1) + &line("192.0.2.1", 1)));
        let (add, delete) = changes(&found, &marks(&[("192.0.2.1", 1), ("192.0.2.2", 2)]));
        let lines = |rules: Vec<Rule>, operation| -> Vec<String> {
            rules.iter().map(|rule| rule.command(operation).join(" ")).collect()
        };
        assert_eq!(lines(add, "-A"), ["-A OUTPUT -d 192.0.2.2 -o lo -m comment --comment lvs-dr -j MARK --set-mark 2"]);
        let delete = lines(delete, "-D");
        assert_eq!(delete.len(), 2);
        // One of the two that are the same.
        assert!(
            delete[0].starts_with("-D OUTPUT -d 192.0.2.2/32 ") && delete[1].starts_with("-D OUTPUT -d 192.0.2.1/32 ")
        );
    }

    #[test]
    fn quoted_words() {
        let line = r#"-A OUTPUT -m comment --comment "a \"b\" \\ c" -j "" x"y z""#;
        assert_eq!(words(line), ["-A", "OUTPUT", "-m", "comment", "--comment", r#"a "b" \ c"#, "-j", "", "xy z"]);
    }
}
