//! The programs that set marks: where they are, whether they work, and what they list.

use std::collections::BTreeSet;
use std::env;
use std::fmt;
use std::fs;
use std::io;
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use super::program::{Output, PROGRAM_LIMIT, Runner};
use super::{nft, xtables};
use crate::error::{Error, Result};
use crate::netlink::Within;
use crate::netns::Netns;

/// How long an xtables program waits for the lock of another one, in seconds: less than it may
/// take.
const LOCK_LIMIT: &str = "4";

/// The arguments of nft for commands from its standard input.
const NFT_SCRIPT: &[&str] = &["-f", "-"];

/// The name of the nftables table, and the comment of the xtables rules.
pub(super) const OURS: &str = "lvs-dr";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Family {
    V4,
    V6,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Variant {
    /// Rules of the kernel's ip_tables and ip6_tables.
    Legacy,
    /// Rules of nf_tables in iptables' own form.
    NfTables,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Nft,
    Xtables(Family, Variant),
}

/// A program that sets marks.
#[derive(Debug, Clone)]
pub(super) struct Tool {
    pub(super) kind: Kind,
    pub(super) program: PathBuf,
    /// Arguments before all others: which of its programs a multi-call binary is.
    pub(super) first: Option<&'static str>,
}

/// Finds the installed programs, the preferred ones first.
pub(super) async fn installed(runner: Runner<'_>) -> Vec<Tool> {
    let path = env::var_os("PATH").unwrap_or_default();
    let mut directories: Vec<PathBuf> = env::split_paths(&path).filter(|directory| directory.is_absolute()).collect();
    directories.extend(["/usr/sbin", "/sbin"].map(PathBuf::from));
    let mut tools = Vec::new();
    for mut tool in candidates(&directories) {
        // `iptables v1.8.9 (nf_tables)`. Others say `(legacy)`, or before 1.8 nothing.
        if tool.may_be_of_nf_tables() {
            let version = tool.run(runner, &["--version"], None, Within::Namespace).await;
            tool.is_of_version(&version.map(|output| output.stdout).unwrap_or_default());
        }
        add(&mut tools, tool);
    }
    tools
}

/// The programs that are there, as far as their names tell what they are.
fn candidates(directories: &[PathBuf]) -> Vec<Tool> {
    let find = |name: &str| directories.iter().map(|directory| directory.join(name)).find(|path| is_executable(path));
    let mut tools = Vec::new();
    tools.extend(find("nft").map(|program| Tool { kind: Kind::Nft, program, first: None }));
    let families = [(Family::V4, ["iptables", "iptables-legacy"]), (Family::V6, ["ip6tables", "ip6tables-legacy"])];
    for (family, names) in families {
        let multi_call = ("xtables-legacy-multi", Some(names[0]));
        for (name, first) in names.map(|name| (name, None)).into_iter().chain([multi_call]) {
            let kind = Kind::Xtables(family, Variant::Legacy);
            tools.extend(find(name).map(|program| Tool { kind, program, first }));
        }
    }
    tools
}

/// `iptables` is often `iptables-legacy` under another name.
fn add(tools: &mut Vec<Tool>, tool: Tool) {
    if !tools.iter().any(|other| other.kind == tool.kind) {
        tools.push(tool);
    }
}

/// The arguments of an xtables program for table `mangle`.
fn in_mangle(arguments: &[String]) -> Vec<&str> {
    ["-w", LOCK_LIMIT, "-t", "mangle"].into_iter().chain(arguments.iter().map(String::as_str)).collect()
}

fn is_executable(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|file| file.is_file() && file.permissions().mode() & 0o111 != 0)
}

impl Tool {
    fn may_be_of_nf_tables(&self) -> bool {
        let name = self.program.file_name().unwrap_or_default().to_string_lossy();
        matches!(self.kind, Kind::Xtables(..)) && !name.contains("legacy")
    }

    fn is_of_version(&mut self, text: &str) {
        if let Kind::Xtables(family, _) = self.kind
            && text.contains("nf_tables")
        {
            self.kind = Kind::Xtables(family, Variant::NfTables);
        }
    }

    pub(super) fn serves(&self, vip: IpAddr) -> bool {
        match self.kind {
            Kind::Nft => true,
            Kind::Xtables(family, _) => (family == Family::V4) == vip.is_ipv4(),
        }
    }

    /// Whether the kernel can hold rules that this program would list: in this table, or in any.
    /// Listing alone makes ip_tables load its modules and hook into the path of every packet.
    pub(super) fn may_hold_rules(&self, netns: &Netns, table: Option<&str>) -> bool {
        let tables = match self.kind {
            Kind::Xtables(Family::V4, Variant::Legacy) => "/proc/thread-self/net/ip_tables_names",
            Kind::Xtables(Family::V6, Variant::Legacy) => "/proc/thread-self/net/ip6_tables_names",
            _ => return true,
        };
        let found = netns.run(|| fs::read_to_string(tables));
        found.is_ok_and(|found| {
            found.is_ok_and(|tables| tables.lines().any(|found| table.is_none_or(|table| found == table)))
        })
    }

    /// Sets a mark where it does no harm. Returns why it did not work.
    pub(super) async fn try_out(&self, runner: Runner<'_>) -> Result<(), String> {
        let vip = match self.kind {
            Kind::Xtables(Family::V6, _) => IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, 1]),
            _ => IpAddr::from([192, 0, 2, 1]),
        };
        let marks = [(vip, NonZeroU32::MIN)].into();
        let tried = match self.kind {
            Kind::Nft => self.run(runner, NFT_SCRIPT, Some(&nft::script(&marks)), Within::OwnNamespace).await,
            Kind::Xtables(..) => {
                let (add, _) = xtables::changes(&[], &marks);
                let arguments: Vec<String> = add.iter().flat_map(|rule| rule.command("-A")).collect();
                self.run(runner, &in_mangle(&arguments), None, Within::OwnNamespace).await
            }
        };
        match tried {
            Ok(output) if output.has_succeeded() => Ok(()),
            Ok(output) => Err(format!("{self} does not work: {}", output.complaint())),
            // There is no namespace to try it in.
            Err(_) => self.read(runner).await.map(drop).map_err(|error| match error {
                Error::System { error, .. } => format!("{self} does not work: {error}"),
                error => format!("{self} does not work: {error}"),
            }),
        }
    }

    pub(super) async fn read(&self, runner: Runner<'_>) -> Result<Found> {
        match self.kind {
            Kind::Nft => {
                let list = ["-n", "list", "table", "inet", OURS];
                match self.run(runner, &list, None, Within::Namespace).await? {
                    output if output.has_succeeded() => Ok(Found::Nft(nft::Table::parse(&output.stdout))),
                    output if output.stderr.contains("No such file or directory") => {
                        Ok(Found::Nft(nft::Table::default()))
                    }
                    output => Err(self.failed(&list, &output)),
                }
            }
            Kind::Xtables(..) => {
                let output = self.xtables(runner, &["-S", "OUTPUT"].map(String::from)).await?;
                Ok(Found::Xtables(output.lines().filter_map(xtables::Rule::parse).collect()))
            }
        }
    }

    /// Lists all rules, as `nft -n list ruleset` and iptables-save(8) print them.
    pub(super) async fn list(&self, runner: Runner<'_>) -> Result<String> {
        match self.kind {
            Kind::Nft => {
                let list = ["-n", "list", "ruleset"];
                match self.run(runner, &list, None, Within::Namespace).await? {
                    output if output.has_succeeded() => Ok(output.stdout),
                    output => Err(self.failed(&list, &output)),
                }
            }
            Kind::Xtables(..) => {
                // Another name of the same program, which loads no table.
                let name = |program: &str| format!("{program}-save");
                let file = self.program.file_name().unwrap_or_default().to_string_lossy();
                let (program, first) = match self.first {
                    Some(first) => (self.program.clone(), Some(name(first))),
                    None => (self.program.with_file_name(name(&file)), None),
                };
                let words: Vec<&str> = first.as_deref().into_iter().collect();
                let line = || format!("`{} {}`", program.display(), words.join(" "));
                let run = runner.run(&program, &words, None, Within::Namespace, PROGRAM_LIMIT).await;
                match run.map_err(|error| Error::system("run", line(), error))? {
                    output if output.has_succeeded() => Ok(output.stdout),
                    output => Err(Error::system("run", line(), io::Error::other(output.complaint()))),
                }
            }
        }
    }

    /// Sets these marks and no others, and says whether anything had to be changed.
    pub(super) async fn write(&self, runner: Runner<'_>, wanted: &BTreeSet<(IpAddr, NonZeroU32)>) -> Result<bool> {
        let found = self.read(runner).await?;
        if found.is_exactly(wanted) {
            return Ok(false);
        }
        match &found {
            Found::Nft(_) => {
                let output = self.run(runner, NFT_SCRIPT, Some(&nft::script(wanted)), Within::Namespace).await?;
                if !output.has_succeeded() {
                    return Err(self.failed(NFT_SCRIPT, &output));
                }
            }
            Found::Xtables(rules) => {
                let (add, delete) = xtables::changes(rules, wanted);
                for rule in add {
                    self.xtables(runner, &rule.command("-A")).await?;
                }
                for rule in delete {
                    self.xtables(runner, &rule.command("-D")).await?;
                }
            }
        }
        let now = self.read(runner).await?;
        match now.is_exactly(wanted) {
            true => Ok(true),
            false => Err(Error::NotVerified {
                step: format!("{self}: mark the packets of local clients to {}", list(wanted)),
                found: list(&now.marks().collect()),
            }),
        }
    }

    /// Runs `iptables -w 4 -t mangle ARGUMENTS`, and returns what it printed.
    async fn xtables(&self, runner: Runner<'_>, arguments: &[String]) -> Result<String> {
        let arguments = in_mangle(arguments);
        let output = self.run(runner, &arguments, None, Within::Namespace).await?;
        match output.has_succeeded() {
            true => Ok(output.stdout),
            false => Err(self.failed(&arguments, &output)),
        }
    }

    async fn run(&self, runner: Runner<'_>, arguments: &[&str], input: Option<&str>, within: Within) -> Result<Output> {
        let words: Vec<&str> = self.first.into_iter().chain(arguments.iter().copied()).collect();
        let output = runner.run(&self.program, &words, input, within, PROGRAM_LIMIT).await;
        output.map_err(|error| Error::system("run", self.line(arguments), error))
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
pub(super) enum Found {
    Nft(nft::Table),
    Xtables(Vec<xtables::Rule>),
}

impl Found {
    pub(super) fn is_empty(&self) -> bool {
        match self {
            Found::Nft(table) => *table == nft::Table::default(),
            Found::Xtables(rules) => rules.is_empty(),
        }
    }

    pub(super) fn marks(&self) -> impl Iterator<Item = (IpAddr, NonZeroU32)> {
        let (table, rules) = match self {
            Found::Nft(table) => (Some(table), &[][..]),
            Found::Xtables(rules) => (None, &rules[..]),
        };
        let of_table = table.into_iter().filter(|table| table.hooked).flat_map(|table| table.marks.iter().copied());
        of_table.chain(rules.iter().filter_map(|rule| rule.mark))
    }

    pub(super) fn is_exactly(&self, wanted: &BTreeSet<(IpAddr, NonZeroU32)>) -> bool {
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

/// Reads a mark: hexadecimal with 0x, or decimal.
pub(super) fn number(text: &str) -> Option<NonZeroU32> {
    let number = match text.strip_prefix("0x") {
        Some(digits) => u32::from_str_radix(digits, 16).ok()?,
        None => text.parse().ok()?,
    };
    NonZeroU32::new(number)
}

#[cfg(test)]
mod tests {
    use super::*;

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
            let mut tools = Vec::new();
            for mut tool in candidates(std::slice::from_ref(&directory)) {
                if tool.may_be_of_nf_tables() {
                    tool.is_of_version(version);
                }
                add(&mut tools, tool);
            }
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
}
