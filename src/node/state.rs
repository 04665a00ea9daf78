//! What a node remembers: in a directory for root alone, replaced as a whole, one process at a
//! time.
//!
//! The file `state` is text. Its lines are keys and values. Those before the first `group` are of
//! the node as a whole, and those behind a `group` are of that group:
//!
//! ```text
//! lvs-dr state 2
//! checksum b809a446484e7c8c
//! boot 5c1bd2f5-9b3c-4b0d-8f5e-0d2a7c4e1f60
//! sync on
//! group web
//! slot 0
//! role backup reached
//! end
//! ```
//!
//! Versions read each other's files:
//!
//! - A later version may add keys. A line with an unknown key is kept and written back, at the end
//!   of the lines of the node or of the group. The lines of a group are dropped with it, and
//!   all lines by the release of the last group.
//! - A line without a space is refused, as by the versions before the checksum.
//! - A later version that changes the meaning or the values of a key must write another first
//!   line. Its file is refused.
//! - The versions before the checksum ignore its line and drop it, as every line with an unknown
//!   key. Their files are read without a checksum.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs::{self, OpenOptions, Permissions};
use std::io;
use std::net::IpAddr;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::config::Config;
use super::drain::Drained;
use super::fence::Fence;
use super::fence::marks::MarkValues;
use super::names;
use super::requests::{Lock, Requests, remove_if_there};
use super::role::Role;
use crate::arp;
use crate::error::{Error, Result};
use crate::files::Replacement;
use crate::fnv::{Fnv, fnv};
use crate::ipvs::{ServiceId, Table};
use crate::marks::Mac;

/// What a node remembers from one role to the next, except its tables, which are in files of their
/// own.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct State {
    /// ARP settings that were changed: each with what was found before the first change.
    pub(super) arp: Vec<arp::Change>,
    /// Sysctls of IPVS that were changed: name, what was found before the first change, and what
    /// was set.
    pub(super) sysctls: BTreeMap<String, (String, String)>,
    /// Sysctls of IPVS that an audit's fix has set, and their values: wanted whatever the fence,
    /// until release.
    pub(super) mended: BTreeMap<String, String>,
    /// The sync daemons are this node's.
    pub(super) syncs: bool,
    /// Routes were added by which a routing daemon learns of VIPs.
    pub(super) routes: bool,
    /// A classifier was attached, or services of its marks were added.
    pub(super) classifies: bool,
    /// The packet marks in use.
    pub(super) marks: Option<MarkValues>,
    /// Interfaces that rules were added to, and whether their qdisc is this node's.
    pub(super) qdiscs: BTreeMap<String, QdiscOwner>,
    /// The other nodes, and every MAC address that each was seen with.
    pub(super) peers: BTreeMap<IpAddr, BTreeSet<Mac>>,
    /// The groups of VIPs, by name. A node without groups has one, named "".
    pub(super) groups: BTreeMap<String, Group>,
    /// What version 1 has left in the kernel's table. Its own table is [`StoredTable::Legacy`].
    pub(super) legacy: Option<Legacy>,
    /// Lines of a later version for the node as a whole, as they were read.
    pub(super) unknown: Vec<String>,
}

/// Who has added the qdisc that holds a node's rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum QdiscOwner {
    /// This node: it goes with the last rule.
    Node,
    /// Another program.
    Other,
}

/// What a node remembers of one group of VIPs.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Group {
    /// Which mark leads to the group's director: see [`super::fence::marks`].
    pub(super) slot: u8,
    /// The last role that was asked for, and whether it was reached.
    pub(super) role: Option<(Role, bool)>,
    /// The fence of that role, once it was reached.
    pub(super) fence: Option<Fence>,
    /// VIPs that were placed, and the interface that the director's are on.
    pub(super) vips: BTreeSet<(IpAddr, String)>,
    /// VIPs that were on `lo` before the node's first role: they are there again when it is
    /// released. Before Linux 5.18, which does not keep [`MARK`](crate::vip::MARK), one that a
    /// node without its state finds there seems to be another program's.
    pub(super) found: BTreeSet<IpAddr>,
    /// The other node that directs, or directed last.
    pub(super) director: Option<IpAddr>,
    /// One of the services that were loaded from the configuration. Where the kernel lacks it, the
    /// table was flushed, perhaps.
    pub(super) loaded: Option<ServiceId>,
    /// Fence `clear` has emptied the kernel's table: the group's table is [`StoredTable::Held`].
    pub(super) held: bool,
    /// Destinations that were drained, and their weights before.
    pub(super) drained: Drained,
    /// Lines of a later version for this group, as they were read.
    pub(super) unknown: Vec<String>,
}

/// What the kernel's table is after version 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Legacy {
    /// All servers but this node have weight 0: fence `quiesce` did that.
    Quiesced,
    /// It is the node's own.
    Whole,
}

const FIRST_LINE: &str = "lvs-dr state 2";
const FIRST_LINE_1: &str = "lvs-dr state 1";
const LAST_LINE: &str = "end";
const CUT_SHORT: &str = "it does not end as it should: it was cut short";

/// Begins the second line of the state file, and of a table the first, where it is a comment.
const CHECKSUM: &str = "checksum ";
const TABLE_CHECKSUM: &str = "# checksum ";

/// Begins the last line but one of a table: the digest of what the lines say, by which the table is
/// known without being parsed.
const TABLE_DIGEST: &str = "# digest ";
const TABLE_END: &str = "# end\n";

/// Begins the line that names the boot in which the file was written.
const BOOT: &str = "boot ";

/// Prints the lines between the boot and the end.
impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.arp.iter().try_for_each(|change| writeln!(f, "arp {change}"))?;
        self.sysctls.iter().try_for_each(|(name, (before, after))| writeln!(f, "sysctl {name}={before} -> {after}"))?;
        self.mended.iter().try_for_each(|(name, value)| writeln!(f, "mended {name}={value}"))?;
        if self.syncs {
            writeln!(f, "sync on")?;
        }
        if self.routes {
            writeln!(f, "routes on")?;
        }
        if self.classifies {
            writeln!(f, "classifier on")?;
        }
        if let Some(marks) = self.marks {
            writeln!(f, "marks {}", marks.base())?;
        }
        for (interface, owner) in &self.qdiscs {
            let owner = if *owner == QdiscOwner::Node { "ours" } else { "found" };
            writeln!(f, "qdisc {owner} {interface}")?;
        }
        for (peer, macs) in &self.peers {
            write!(f, "peer {peer}")?;
            macs.iter().try_for_each(|mac| write!(f, " {mac}"))?;
            writeln!(f)?;
        }
        match self.legacy {
            Some(Legacy::Quiesced) => writeln!(f, "legacy quiesced")?,
            Some(Legacy::Whole) => writeln!(f, "legacy whole")?,
            None => {}
        }
        self.unknown.iter().try_for_each(|line| writeln!(f, "{line}"))?;
        for (name, group) in &self.groups {
            writeln!(f, "group {name}")?;
            writeln!(f, "slot {}", group.slot)?;
            if let Some((role, reached)) = group.role {
                writeln!(f, "role {role} {}", if reached { "reached" } else { "under-way" })?;
            }
            if let Some(fence) = group.fence {
                writeln!(f, "fence {fence}")?;
            }
            if let Some(director) = group.director {
                writeln!(f, "director {director}")?;
            }
            if let Some(id) = &group.loaded {
                writeln!(f, "loaded {id}")?;
            }
            if group.held {
                writeln!(f, "table held")?;
            }
            group
                .drained
                .iter()
                .try_for_each(|((service, address), weight)| writeln!(f, "drained {weight} {address} {service}"))?;
            group.found.iter().try_for_each(|vip| writeln!(f, "found {vip}"))?;
            group.vips.iter().try_for_each(|(vip, interface)| writeln!(f, "vip {vip} {interface}"))?;
            group.unknown.iter().try_for_each(|line| writeln!(f, "{line}"))?;
        }
        Ok(())
    }
}

impl State {
    /// Returns the text of the state file, as it is written in this boot.
    pub(super) fn text(&self, boot: Option<&str>) -> String {
        let boot = boot.map(|boot| format!("{BOOT}{boot}\n")).unwrap_or_default();
        let lines = with_checksum(CHECKSUM, &format!("{boot}{self}"));
        format!("{FIRST_LINE}\n{lines}{LAST_LINE}\n")
    }

    /// Reads the text of a state file, also that of version 1.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let (first, rest) = text.split_once('\n').unwrap_or((text, ""));
        let version = match first {
            FIRST_LINE => 2,
            FIRST_LINE_1 => 1,
            _ => {
                return Err(format!(
                    "it does not begin with `{FIRST_LINE}`: it was written by another version, which can read it, or \
                     it is damaged"
                ));
            }
        };
        let body = rest
            .strip_suffix(&format!("{LAST_LINE}\n"))
            .filter(|body| body.is_empty() || body.ends_with('\n'))
            .ok_or(CUT_SHORT)?;
        let lines = without_checksum(CHECKSUM, body)?;
        if lines.contains(|c: char| c.is_control() && c != '\n') {
            return Err("it holds control characters, which no node writes".into());
        }
        let mut state = State::default();
        // Lines of a group before the first name belong to the group that has none.
        let mut named = None;
        let mut old_fence = "";
        for (index, line) in lines.lines().enumerate() {
            let name = named.unwrap_or_default();
            let unknown = || format!("`{line}` is not understood");
            let (key, value) = line.split_once(' ').ok_or_else(unknown)?;
            match (key, value.split_once(' ')) {
                ("arp", _) => state.arp.push(value.parse().map_err(|_| unknown())?),
                ("sysctl", _) => {
                    let (name, values) = value.split_once('=').ok_or_else(unknown)?;
                    let (before, after) = values.split_once(" -> ").ok_or_else(unknown)?;
                    state.sysctls.insert(name.to_owned(), (before.to_owned(), after.to_owned()));
                }
                ("mended", _) => {
                    let (name, value) = value.split_once('=').ok_or_else(unknown)?;
                    state.mended.insert(name.to_owned(), value.to_owned());
                }
                ("sync", _) if value == "on" => state.syncs = true,
                ("routes", _) if value == "on" => state.routes = true,
                ("classifier", _) if value == "on" => state.classifies = true,
                ("marks", None) => {
                    let base = value.parse().ok().and_then(|base| MarkValues::new(base).ok());
                    state.marks = Some(base.ok_or_else(unknown)?);
                }
                ("qdisc", Some((owner @ ("ours" | "found"), interface))) => {
                    let owner = if owner == "ours" { QdiscOwner::Node } else { QdiscOwner::Other };
                    state.qdiscs.insert(interface.to_owned(), owner);
                }
                ("peer", _) => {
                    let mut words = value.split(' ');
                    let peer = words.next().and_then(|word| word.parse().ok()).ok_or_else(unknown)?;
                    let macs = words.map(str::parse).collect::<Result<_, _>>().map_err(|_| unknown())?;
                    state.peers.insert(peer, macs);
                }
                ("loaded", _) => state.group_mut(name).loaded = Some(value.parse().map_err(|_| unknown())?),
                ("legacy", _) if value == "quiesced" => state.legacy = Some(Legacy::Quiesced),
                ("legacy", _) if value == "whole" => state.legacy = Some(Legacy::Whole),
                ("group", _) => {
                    named = Some(value);
                    state.groups.entry(value.to_owned()).or_default();
                }
                ("slot", None) => state.group_mut(name).slot = value.parse().map_err(|_| unknown())?,
                ("role", Some((role, reached @ ("reached" | "under-way")))) => {
                    let role = role.parse().map_err(|_| unknown())?;
                    state.group_mut(name).role = Some((role, reached == "reached"));
                }
                ("fence", None) if version == 1 => old_fence = value,
                ("fence", None) => state.group_mut(name).fence = Some(value.parse().map_err(|_| unknown())?),
                ("found", None) => drop(state.group_mut(name).found.insert(value.parse().map_err(|_| unknown())?)),
                ("director", None) => state.group_mut(name).director = Some(value.parse().map_err(|_| unknown())?),
                ("vip", Some((vip, interface))) => {
                    let vip = vip.parse().map_err(|_| unknown())?;
                    state.group_mut(name).vips.insert((vip, interface.to_owned()));
                }
                ("drained", Some((weight, destination))) => {
                    let (address, service) = destination.split_once(' ').ok_or_else(unknown)?;
                    let key = (service.parse().map_err(|_| unknown())?, address.parse().map_err(|_| unknown())?);
                    state.group_mut(name).drained.insert(key, weight.parse().map_err(|_| unknown())?);
                }
                ("table", _) if matches!(value, "held" | "live") => {
                    state.group_mut(name).held = value == "held";
                    if version == 1 {
                        break;
                    }
                }
                // No version writes such a value.
                (
                    "checksum" | "drained" | "sync" | "routes" | "classifier" | "marks" | "qdisc" | "legacy" | "slot"
                    | "role" | "fence" | "found" | "director" | "vip" | "table",
                    _,
                ) => return Err(unknown()),
                // `boot_of` reads this line. It is not kept, because each file names its own boot.
                ("boot", _) => {}
                // Version 2 does not have the other keys of version 1.
                _ if version == 1 => {}
                // The line of the checksum is damaged. A file of an earlier version, which has
                // none, begins with a known key.
                _ if index == 0 && lines == body => return Err(unknown()),
                _ => match named {
                    Some(name) => state.group_mut(name).unknown.push(line.to_owned()),
                    None => state.unknown.push(line.to_owned()),
                },
            }
        }
        if version == 1 {
            let group = state.group_mut(named.unwrap_or_default());
            // Version 1 records the fence when the role is reached.
            let quiesced = group.held && matches!(old_fence, "quiesce" | "");
            group.held &= old_fence == Fence::Clear.to_string();
            group.fence = group.held.then_some(Fence::Clear);
            state.legacy = Some(if quiesced { Legacy::Quiesced } else { Legacy::Whole });
        }
        Ok(state)
    }

    /// What is remembered of this group.
    pub(super) fn group(&self, name: &str) -> Group {
        self.groups.get(name).cloned().unwrap_or_else(|| Group { slot: self.free_slot(), ..Group::default() })
    }

    /// What is remembered from before a reboot: another node may have become the director
    /// meanwhile, so no role of that time is more than a backup's, and none is reached.
    pub(super) fn of_earlier_boot(mut self) -> Self {
        self.groups.values_mut().for_each(Group::demote);
        self
    }

    /// What is remembered of a group whose demotion could not be recorded.
    pub(super) fn demoted(mut self, group: &str) -> Self {
        self.groups.get_mut(group).into_iter().for_each(Group::demote);
        self
    }

    fn free_slot(&self) -> u8 {
        let taken = |slot: &u8| self.groups.values().any(|group| group.slot == *slot);
        (0..MarkValues::SLOTS).find(|slot| !taken(slot)).unwrap_or(MarkValues::SLOTS)
    }

    /// The other groups that have a role: those of the configuration and, until each of these has
    /// one, those of an earlier configuration.
    pub(super) fn others<'a>(&'a self, config: &'a Config) -> impl Iterator<Item = &'a Group> {
        let complete = self.is_complete(config);
        let is_other = move |name: &String| *name != config.group && (config.groups.contains(name) || !complete);
        self.groups.iter().filter(move |(name, group)| is_other(name) && group.role.is_some()).map(|(_, group)| group)
    }

    /// Whether each group of the configuration has a role, or is this one.
    pub(super) fn is_complete(&self, config: &Config) -> bool {
        let has_role = |name: &String| self.groups.get(name).is_some_and(|group| group.role.is_some());
        config.groups.iter().all(|name| *name == config.group || has_role(name))
    }

    /// The names of groups that the configuration does not have any more.
    pub(super) fn obsolete(&self, config: &Config) -> Vec<String> {
        self.groups.keys().filter(|name| !config.groups.contains(*name)).cloned().collect()
    }

    pub(super) fn group_mut(&mut self, name: &str) -> &mut Group {
        self.groups.entry(name.to_owned()).or_default()
    }
}

impl Group {
    /// The role is no more than a backup's, and is not reached.
    fn demote(&mut self) {
        if let Some((role, reached)) = &mut self.role {
            *reached = false;
            if *role == Role::Master {
                *role = Role::Backup;
            }
        }
    }
}

/// Puts the line of the checksum before a text. The checksum detects damage; it does not detect a
/// change by an attacker.
fn with_checksum(key: &str, text: &str) -> String {
    format!("{key}{:016x}\n{text}", fnv(text.bytes()))
}

/// Returns the text behind the line of the checksum, which must be right. Without such a line, as
/// in the files of earlier versions, returns the text as a whole.
fn without_checksum<'a>(key: &str, text: &'a str) -> Result<&'a str, String> {
    match text.strip_prefix(key).and_then(|rest| rest.split_once('\n')) {
        None => Ok(text),
        Some((sum, behind)) if sum == format!("{:016x}", fnv(behind.bytes())) => Ok(behind),
        Some(_) => Err(format!(
            "its checksum is wrong: it was edited (then delete its line `{}`), or it is damaged",
            key.trim_end()
        )),
    }
}

fn digest_line(table: &Table) -> String {
    format!("{TABLE_DIGEST}{:016x}\n", Fnv::of(table))
}

/// The boot in which a file was written. `None`: by an earlier version.
fn boot_of(text: &str) -> Option<&str> {
    text.lines().find_map(|line| line.strip_prefix(BOOT))
}

/// This boot of the machine, a number that the kernel draws: see random(4).
fn boot_id() -> Option<String> {
    let text = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    Some(text.trim_end().to_owned())
}

/// The table in the node's file as version 1 has written it; an empty one in that of this version.
fn table_of_version_1(text: &str) -> Result<Table, String> {
    let Some(body) = text.strip_prefix(FIRST_LINE_1) else { return Ok(Table::default()) };
    let table = ["\ntable held\n", "\ntable live\n"]
        .iter()
        .find_map(|line| body.split_once(line))
        .map_or("", |(_, table)| table);
    let table = table.strip_suffix(&format!("{LAST_LINE}\n")).unwrap_or(table);
    table.parse().map_err(|e: Error| format!("its table is not understood: {e}"))
}

/// The directory that holds a node's state.
///
/// What the node remembers and its lock are those of all its groups. Requests are numbered for
/// each group, and each has tables of its own.
#[derive(Debug, Clone)]
pub(super) struct StateDir {
    path: PathBuf,
    /// Ends the names of the files that are the group's own.
    suffix: String,
    requests: Requests,
}

/// A table that a node remembers in its state directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum StoredTable {
    /// The services of the configuration as they were loaded last.
    Loaded,
    /// The node's table while fence `clear` keeps the kernel's empty.
    Held,
    /// The table of version 1 of the node's file, until its role is reached with this version.
    Legacy,
}

/// Begins the names of the files that say that a group was demoted.
const DEMOTED: &str = "demoted";

/// Ends the names of the files that are a group's own.
pub(super) fn suffix(group: &str) -> String {
    if group.is_empty() { String::new() } else { format!(".{}", names::escape(group)) }
}

impl StateDir {
    pub(super) fn new(path: &Path, group: &str) -> Self {
        StateDir { path: path.to_owned(), suffix: suffix(group), requests: Requests::new(path, group) }
    }

    /// The requests for the group's roles.
    pub(super) fn requests(&self) -> &Requests {
        &self.requests
    }

    /// Waits until no other process works on this node.
    ///
    /// # Errors
    /// As [`Requests::lock`].
    pub(super) fn lock(&self, limit: Duration) -> Result<Lock> {
        let lock = self.requests.lock(limit)?;
        self.remove_leftovers();
        Ok(lock)
    }

    /// Removes the file that a process has left which was killed while it wrote. The lock is held.
    pub(super) fn remove_leftovers(&self) {
        let _ = fs::remove_file(self.new_file());
    }

    /// A number that stands for this directory: the owner of the rules that mark packets (FNV-1a
    /// of its path).
    pub(super) fn owner(&self) -> u64 {
        fnv(self.path.as_os_str().as_encoded_bytes().iter().copied())
    }

    pub(super) fn state_file(&self) -> PathBuf {
        self.path.join("state")
    }

    /// See [`failure`](super::failure).
    pub(super) fn failure_file(&self) -> PathBuf {
        self.path.join(format!("failed{}", self.suffix))
    }

    fn new_file(&self) -> PathBuf {
        self.path.join("state.new")
    }

    /// Makes the directory where it is missing, and refuses one that others can write to.
    pub(super) fn prepare(&self) -> Result<()> {
        let failed = |operation| move |e: io::Error| Error::system(operation, self.path.display(), e);
        match fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.path) {
            // What it is instead of a directory is said below.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            made => made.map_err(failed("make the state directory"))?,
        }
        let found = fs::symlink_metadata(&self.path).map_err(failed("look at"))?;
        let refuse = |reason: String| Err(Error::State { path: self.path.clone(), reason });
        let own = rustix::process::geteuid().as_raw();
        if !found.is_dir() {
            return refuse("it is not a directory".into());
        }
        if found.uid() != own {
            return refuse(format!(
                "it belongs to user {}, not to {own}: name another state_dir, or `chown` it",
                found.uid()
            ));
        }
        // A directory of other programs (/, /tmp, /etc) must stay open to them.
        if found.mode() & 0o077 != 0
            && let Some(stranger) = self.stranger().map_err(failed("list"))?
        {
            let reason = format!(
                "it is open to other users (mode {:o}) and holds files of other programs ({}): name a directory of the node's own, such as \
                 /run/lvs-dr",
                found.mode() & 0o7777,
                stranger.display()
            );
            return refuse(reason);
        }
        if found.mode() & 0o1000 != 0 {
            // Not below it: another user may make that one first, and old files there are removed.
            return refuse(format!(
                "it is a directory for all users (mode {:o}): name a directory of the node's own, such as /run/lvs-dr",
                found.mode() & 0o7777
            ));
        }
        if found.mode() & 0o022 != 0 {
            return refuse(format!("others can write to it (mode {:o}): `chmod 700` it", found.mode() & 0o7777));
        }
        if found.mode() & 0o055 != 0 {
            fs::set_permissions(&self.path, Permissions::from_mode(0o700)).map_err(failed("close to others"))?;
        }
        Ok(())
    }

    /// A file of another program, where the directory was never a node's.
    fn stranger(&self) -> io::Result<Option<PathBuf>> {
        if [self.state_file(), self.path.join("lock"), self.demoted_file("")].iter().any(|file| file.exists()) {
            return Ok(None);
        }
        let first = fs::read_dir(&self.path)?.next().transpose()?;
        Ok(first.map(|entry| entry.path()))
    }

    fn table_file(&self, kept: StoredTable) -> PathBuf {
        self.path.join(match kept {
            StoredTable::Loaded => format!("loaded{}", self.suffix),
            StoredTable::Held => format!("table{}", self.suffix),
            StoredTable::Legacy => "legacy".to_owned(),
        })
    }

    /// What the node remembers; nothing, at its first start.
    pub(super) fn load(&self) -> Result<State> {
        let boot = boot_id();
        let parse = |text: &str| {
            let state = State::parse(text)?;
            let earlier = boot_of(text).is_some_and(|then| boot.as_deref().is_some_and(|now| now != then));
            Ok(if earlier { state.of_earlier_boot() } else { state })
        };
        let mut state = self.read(self.state_file(), parse)?.unwrap_or_default();
        let names: Vec<String> = state.groups.keys().cloned().collect();
        for name in names {
            // What cannot be looked at is reported where it is written.
            if self.demoted_file(&name).exists() {
                state = state.demoted(&name);
            }
        }
        Ok(state)
    }

    /// Records the demotion of this group where there is no space for more than a file's name, or
    /// the lock is not to be had.
    pub(super) fn mark_demoted(&self) -> Result<()> {
        let path = self.path.join(format!("{DEMOTED}{}", self.suffix));
        let made = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&path);
        made.map(drop).map_err(|e| Error::system("make", path.display(), e))
    }

    fn demoted_file(&self, group: &str) -> PathBuf {
        self.path.join(format!("{DEMOTED}{}", suffix(group)))
    }

    /// A table; an empty one where none was saved. `expected`: it may be this one, and is then
    /// shared with it in place of being read.
    pub(super) fn load_table(&self, kept: StoredTable, expected: Option<&Table>) -> Result<Table> {
        let parse = |text: &str| {
            let body = text.strip_suffix(TABLE_END).ok_or(CUT_SHORT)?;
            let lines = without_checksum(TABLE_CHECKSUM, body)?;
            if lines.starts_with('#') {
                return Err("it begins with a comment that is no checksum".into());
            }
            // Only lines whose checksum was right are known by their digest.
            let is_expected = |expected: &&Table| body.len() > lines.len() && lines.ends_with(&digest_line(expected));
            match expected.filter(is_expected) {
                Some(expected) => Ok(expected.clone()),
                None => lines.parse().map_err(|e: Error| format!("it is not understood: {e}")),
            }
        };
        match self.read(self.table_file(kept), parse)? {
            Some(table) => Ok(table),
            None if kept == StoredTable::Legacy => {
                Ok(self.read(self.state_file(), table_of_version_1)?.unwrap_or_default())
            }
            None => Ok(Table::default()),
        }
    }

    fn read<T>(&self, path: PathBuf, parse: impl Fn(&str) -> Result<T, String>) -> Result<Option<T>> {
        let octets = match fs::read(&path) {
            Ok(octets) => octets,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Error::system("read", path.display(), error)),
        };
        let text = String::from_utf8(octets).unwrap_or_else(|e| String::from_utf8_lossy(e.as_bytes()).into_owned());
        parse(&text).map(Some).map_err(|reason| {
            let reason = format!("{reason}; look into it, then remove it: the node starts anew from what it finds, and a release gives back what it recognises");
            Error::State { path, reason }
        })
    }

    /// Replaces what the node remembers: a reader, also after a crash, finds the old or the
    /// new.
    pub(super) fn save(&self, state: &State) -> Result<()> {
        self.write(self.state_file(), &state.text(boot_id().as_deref()))?;
        // What these files say was read before, and is in the state now.
        state.groups.keys().try_for_each(|name| self.remove_file(self.demoted_file(name)))
    }

    /// Replaces a table; an empty one is removed.
    pub(super) fn save_table(&self, kept: StoredTable, table: &Table) -> Result<()> {
        match table.is_empty() {
            true => self.remove_file(self.table_file(kept)),
            false => {
                let lines = with_checksum(TABLE_CHECKSUM, &(table.to_string() + &digest_line(table)));
                self.write(self.table_file(kept), &(lines + TABLE_END))
            }
        }
    }

    fn write(&self, path: PathBuf, text: &str) -> Result<()> {
        Replacement::new(&path).temporary("state.new").durable().write(text)
    }

    /// Removes the tables of a group.
    pub(super) fn remove_tables(&self) -> Result<()> {
        self.remove_file(self.table_file(StoredTable::Loaded))?;
        self.remove_file(self.table_file(StoredTable::Held))
    }

    /// Forgets the group, and `state` is what is left; nothing, of the last one.
    pub(super) fn forget(&self, state: &State) -> Result<()> {
        self.remove_tables()?;
        if state.legacy.is_none() {
            self.remove_file(self.table_file(StoredTable::Legacy))?;
        }
        self.remove_file(self.path.join(format!("{DEMOTED}{}", self.suffix)))?;
        match *state == State::default() {
            true => self.remove_file(self.state_file()),
            false => self.save(state),
        }
    }

    fn remove_file(&self, path: PathBuf) -> Result<()> {
        remove_if_there(&path).map_err(|e| Error::system("remove", path.display(), e))
    }
}

#[cfg(test)]
mod tests {
    use super::super::model::{self, World};
    use super::*;

    fn directory(name: &str) -> StateDir {
        let path = std::env::temp_dir().join(format!("lvs-dr-test-{}-{name}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        StateDir::new(&path, "")
    }

    fn some_state() -> State {
        let group = Group {
            drained: [(("tcp 192.0.2.254:80".parse().unwrap(), "192.0.2.12:80".parse().unwrap()), 3)].into(),
            slot: 3,
            role: Some((Role::Backup, false)),
            fence: Some(Fence::Clear),
            vips: [
                ("192.0.2.1".parse().unwrap(), "eth0".to_owned()),
                ("2001:db8::1".parse().unwrap(), "eth0".to_owned()),
            ]
            .into(),
            found: ["192.0.2.1".parse().unwrap()].into(),
            director: "192.0.2.11".parse().ok(),
            loaded: "tcp 192.0.2.1:80".parse().ok(),
            held: true,
            unknown: vec!["weight 7".to_owned(), "vips 2 of 3".to_owned()],
        };
        State {
            arp: vec!["eth0 arp_ignore=0 arp_announce=0 -> arp_ignore=3 arp_announce=2".parse().unwrap()],
            sysctls: [("sync_threshold".to_owned(), ("3 50".to_owned(), "2 50".to_owned()))].into(),
            mended: [("expire_quiescent_template".to_owned(), "1".to_owned())].into(),
            syncs: true,
            routes: true,
            classifies: true,
            marks: MarkValues::new(7).ok(),
            qdiscs: [("eth0.100".to_owned(), QdiscOwner::Node), ("eth1".to_owned(), QdiscOwner::Other)].into(),
            peers: [
                ("192.0.2.11".parse().unwrap(), ["02:00:00:00:00:01".parse().unwrap()].into()),
                ("2001:db8::11".parse().unwrap(), BTreeSet::new()),
            ]
            .into(),
            groups: [(String::new(), Group::default()), ("my web".to_owned(), group)].into(),
            legacy: None,
            unknown: vec!["news of tomorrow".to_owned()],
        }
    }

    const BOOT_ID: &str = "5c1bd2f5-9b3c-4b0d-8f5e-0d2a7c4e1f60";

    /// A file as an operator leaves it who has deleted the line of the checksum.
    fn unchecked(text: &str) -> String {
        let rest: String = text.split_inclusive('\n').filter(|line| !line.contains("checksum ")).collect();
        assert_eq!(rest.lines().count() + 1, text.lines().count());
        rest
    }

    /// Every text that has one bit other than this one, or is cut short, as a file is read.
    fn damaged(text: &str) -> impl Iterator<Item = String> {
        let flipped = (0..text.len() * 8).map(|bit| {
            let mut octets = text.as_bytes().to_vec();
            octets[bit / 8] ^= 1 << (bit % 8);
            octets
        });
        let cut = (0..text.len()).map(|end| text.as_bytes()[..end].to_vec());
        flipped.chain(cut).map(|octets| String::from_utf8_lossy(&octets).into_owned())
    }

    const TABLE: &str = "-A -t 192.0.2.1:80 -s wrr\n-a -t 192.0.2.1:80 -r 10.0.0.1:80 -g -w 1 -x 9 -y 3\n";

    #[test]
    fn what_is_saved_is_loaded() {
        let dir = directory("round-trip");
        dir.prepare().unwrap();
        assert_eq!(dir.load().unwrap(), State::default());
        let legacy = |legacy| State { legacy: Some(legacy), ..some_state() };
        for state in [some_state(), legacy(Legacy::Whole), legacy(Legacy::Quiesced), State::default()] {
            dir.save(&state).unwrap();
            assert_eq!(dir.load().unwrap(), state);
        }
        assert_eq!(State::parse("lvs-dr state 2\nend\n"), Ok(State::default()));
        let web = StateDir::new(&dir.path, "my web/1");
        for (dir, kept) in [(&dir, StoredTable::Held), (&web, StoredTable::Held), (&web, StoredTable::Loaded)] {
            assert!(dir.load_table(kept, None).unwrap().is_empty());
            dir.save_table(kept, &TABLE.parse().unwrap()).unwrap();
            assert_eq!(dir.load_table(kept, None).unwrap().to_string(), TABLE);
        }
        fs::write(dir.table_file(StoredTable::Held), &TABLE[..TABLE.len() - 5]).unwrap();
        assert!(dir.load_table(StoredTable::Held, None).unwrap_err().to_string().contains("cut short"));
        web.forget(&some_state()).unwrap();
        assert!(web.load_table(StoredTable::Held, None).unwrap().is_empty());
        assert_eq!(dir.load().unwrap(), some_state());
        for _ in 0..2 {
            dir.forget(&State::default()).unwrap();
        }
        assert_eq!(fs::read_dir(&dir.path).unwrap().count(), 0);
        fs::remove_dir_all(&dir.path).unwrap();
    }

    #[test]
    fn a_damaged_file_is_refused_wherever_it_is_damaged() {
        for text in [some_state().text(Some(BOOT_ID)), some_state().text(None), State::default().text(None)] {
            for damaged in damaged(&text) {
                assert!(State::parse(&damaged).is_err(), "{damaged}");
            }
        }
        let dir = directory("damaged");
        dir.prepare().unwrap();
        dir.save_table(StoredTable::Held, &TABLE.parse().unwrap()).unwrap();
        let file = dir.table_file(StoredTable::Held);
        let text = fs::read_to_string(&file).unwrap();
        for damaged in damaged(&text) {
            fs::write(&file, &damaged).unwrap();
            assert!(dir.load_table(StoredTable::Held, None).is_err(), "{damaged}");
        }
        fs::write(&file, unchecked(&text)).unwrap();
        assert_eq!(dir.load_table(StoredTable::Held, None).unwrap().to_string(), TABLE);
        fs::remove_dir_all(&dir.path).unwrap();
    }

    #[test]
    fn a_table_that_is_expected_is_known_by_its_digest() {
        let dir = directory("expected");
        dir.prepare().unwrap();
        let (table, other): (Table, Table) = (TABLE.parse().unwrap(), TABLE.replace("-w 1", "-w 2").parse().unwrap());
        dir.save_table(StoredTable::Held, &table).unwrap();
        let file = dir.table_file(StoredTable::Held);
        let text = fs::read_to_string(&file).unwrap();
        let load = |expected| dir.load_table(StoredTable::Held, Some(expected)).map(|table| table.to_string());
        for expected in [&table, &other] {
            assert_eq!(load(expected).unwrap(), TABLE);
        }
        // Damage is seen all the same.
        fs::write(&file, text.replace("10.0.0.1", "10.0.0.9")).unwrap();
        assert!(load(&table).is_err() && load(&other).is_err());
        // As an earlier version writes it, and what is no table.
        let digest = digest_line(&table);
        let earlier = with_checksum(TABLE_CHECKSUM, TABLE) + TABLE_END;
        fs::write(&file, &earlier).unwrap();
        assert_eq!(load(&table).unwrap(), TABLE);
        for short in ["", "#", &digest, &text[text.len() - digest.len() - TABLE_END.len()..]] {
            fs::write(&file, short).unwrap();
            assert!(load(&table).is_err(), "{short}");
        }
        // A later change of the lines, whose checksum was deleted as the error asks for.
        fs::write(&file, unchecked(&text).replace("-w 1", "-w 2")).unwrap();
        assert_eq!(load(&table).unwrap(), other.to_string());
        fs::remove_dir_all(&dir.path).unwrap();
    }

    #[test]
    fn a_file_that_was_edited_says_what_to_delete() {
        let edited = some_state().text(Some(BOOT_ID)).replace("eth0", "eth1");
        let reason = State::parse(&edited).unwrap_err();
        assert!(reason.contains("delete its line `checksum`"), "{reason}");
        let state = State::parse(&unchecked(&edited)).unwrap();
        assert!(state.groups["my web"].vips.iter().all(|(_, interface)| interface == "eth1"));
    }

    /// A value that this version does not write is refused, also where no checksum says so.
    #[test]
    fn known_keys_have_known_values() {
        let state = State { legacy: Some(Legacy::Whole), ..some_state() };
        let text = unchecked(&state.text(None));
        for (from, to) in [
            ("sync on", "sync of"),
            ("legacy whole", "legacy half"),
            ("marks 7", "marks 7 8"),
            ("marks 7", "marks x"),
            ("fence clear", "fence clear 2"),
            ("director 192.0.2.11", "director 192.0.2.11 2"),
            ("qdisc ours", "qdisc hers"),
            ("slot 3", "slot 3 4"),
            ("backup under-way", "backup under way"),
            ("table held", "table hold"),
            ("drained 3 192.0.2.12:80", "drained x 192.0.2.12:80"),
            ("drained 3 192.0.2.12:80 tcp 192.0.2.254:80", "drained 3"),
            ("found 192.0.2.1", "found 192.0.2.1 eth0"),
            ("vip 192.0.2.1 eth0", "vip 192.0.2.1"),
            ("eth0\nweight 7\nvips 2 of 3\nend\n", "eth0*end\n"),
        ] {
            assert!(text.contains(from));
            assert!(State::parse(&text.replace(from, to)).is_err(), "{to}");
        }
    }

    /// The versions before the checksum demand this of a line that they do not know, and that no
    /// line but that of the boot begins with `boot `.
    #[test]
    fn earlier_versions_read_what_is_written() {
        for text in [some_state().text(Some(BOOT_ID)), State::default().text(Some(BOOT_ID))] {
            let body = text.strip_prefix("lvs-dr state 2\n").and_then(|rest| rest.strip_suffix("end\n")).unwrap();
            assert!(body.lines().all(|line| line.contains(' ') && !line.contains(char::is_control)), "{text}");
            assert_eq!(boot_of(&text), Some(BOOT_ID));
            assert_eq!(text.matches("\nboot ").count(), 1, "{text}");
        }
    }

    /// Other versions, earlier and later, read and write this text.
    #[test]
    fn the_text_of_the_file() {
        let text = format!(
            "lvs-dr state 2\nchecksum b809a446484e7c8c\nboot {BOOT_ID}\nsync on\ngroup web\nslot 0\nrole backup reached\n\
             end\n"
        );
        let group = Group { role: Some((Role::Backup, true)), ..Group::default() };
        let state = State { syncs: true, groups: [("web".to_owned(), group)].into(), ..State::default() };
        assert_eq!(state.text(Some(BOOT_ID)), text);
        assert_eq!(State::parse(&text), Ok(state.clone()));
        assert_eq!(State::parse(&unchecked(&text)), Ok(state));
        for first in ["lvs-dr state 3", "lvs-dr state 20", "lvs-dr state", ""] {
            let reason = State::parse(&text.replace("lvs-dr state 2", first)).unwrap_err();
            assert!(reason.contains("another version"), "{reason}");
        }
    }

    #[test]
    fn lines_of_a_later_version_are_kept() {
        let state = State { unknown: Vec::new(), ..some_state() };
        let text = state.text(Some(BOOT_ID));
        let lines: Vec<&str> = text.split_inclusive('\n').collect();
        // Behind the checksum and before the end, in a file of which the checksum is right.
        for place in 2..lines.len() {
            let line = "later  line = x \n";
            let (before, behind) = (lines[2..place].concat(), lines[place..lines.len() - 1].concat());
            let later = format!("{}{}end\n", lines[0], with_checksum(CHECKSUM, &format!("{before}{line}{behind}")));
            let read = State::parse(&later).unwrap();
            assert_ne!(read, state);
            let written = read.text(Some(BOOT_ID));
            assert_eq!(State::parse(&written).as_ref(), Ok(&read));
            assert_eq!(written.matches(&format!("\n{line}")).count(), 1, "{written}");
            // It belongs to the same group as before.
            let group = |text: &str| {
                let before = text.split_once(line).unwrap().0;
                before.lines().rfind(|line| line.starts_with("group ")).map(str::to_owned)
            };
            assert_eq!(group(&written), group(&later));
            // Nothing else changes.
            let others = written.replacen(line, "", 1);
            assert_eq!(unchecked(&others), unchecked(&text));
            // Without the checksum it is read as well, except in its place.
            assert_eq!(State::parse(&unchecked(&later)).ok(), Some(read).filter(|_| place > 2));
        }
    }

    #[test]
    fn lines_of_a_later_version_outlive_changes_of_role() {
        let mut world = World::new(model::config(Fence::Marks));
        world.take_on(Role::Backup);
        let news = ["news of tomorrow".to_owned()];
        world.memory.state.unknown = news.to_vec();
        world.memory.state.groups.get_mut("").unwrap().unknown = news.to_vec();
        for role in [Role::Master, Role::Backup, Role::Stop] {
            world.take_on(role);
            let state = &world.memory.state;
            assert_eq!((&state.unknown[..], &state.groups[""].unknown[..]), (&news[..], &news[..]), "{role}");
        }
    }

    #[test]
    fn the_file_of_version_1_is_read() {
        let text = |fence: &str, held: &str| {
            format!(
                "lvs-dr state 1\nrole backup reached\n{fence}sync on\nhandover under-way\nbeside another\nvip 192.0.2.1 eth0\ntable {held}\n\
                 {TABLE}end\n"
            )
        };
        let read = |fence: &str, held: &str| State::parse(&text(fence, held)).unwrap();
        let state = read("fence quiesce\n", "held");
        assert_eq!((state.syncs, state.legacy), (true, Some(Legacy::Quiesced)));
        assert_eq!(state.unknown, [""; 0]);
        let group = &state.groups[""];
        assert_eq!((group.role, group.fence, group.held), (Some((Role::Backup, true)), None, false));
        assert_eq!(group.vips, [("192.0.2.1".parse().unwrap(), "eth0".to_owned())].into());
        // It is remembered until it is undone.
        assert_eq!(State::parse(&state.text(None)), Ok(state));
        assert_eq!(read("", "held").legacy, Some(Legacy::Quiesced));
        for (fence, held) in [("quiesce", "live"), ("stateless", "held"), ("backup-only", "held")] {
            assert_eq!(read(&format!("fence {fence}\n"), held).legacy, Some(Legacy::Whole));
        }
        let clear = read("fence clear\n", "held");
        assert_eq!((clear.groups[""].fence, clear.groups[""].held), (Some(Fence::Clear), true));
        assert_eq!(clear.legacy, Some(Legacy::Whole));

        let dir = directory("version-1");
        dir.prepare().unwrap();
        fs::write(dir.state_file(), text("fence quiesce\n", "held")).unwrap();
        assert_eq!(dir.load_table(StoredTable::Legacy, None).unwrap().to_string(), TABLE);
        dir.save_table(StoredTable::Legacy, &TABLE.parse().unwrap()).unwrap();
        dir.save(&dir.load().unwrap()).unwrap();
        assert_eq!(dir.load_table(StoredTable::Legacy, None).unwrap().to_string(), TABLE);
        dir.save_table(StoredTable::Legacy, &Table::new()).unwrap();
        assert!(dir.load_table(StoredTable::Legacy, None).unwrap().is_empty());
        fs::remove_dir_all(&dir.path).unwrap();
    }

    #[test]
    fn a_directory_that_others_can_write_to_is_refused() {
        let dir = directory("mode");
        dir.prepare().unwrap();
        assert_eq!(fs::metadata(&dir.path).unwrap().mode() & 0o777, 0o700);
        for (mode, closed_to) in [
            (0o777, None),
            (0o720, None),
            (0o702, None),
            (0o755, Some(0o700)),
            (0o740, Some(0o700)),
            (0o701, Some(0o700)),
            (0o500, Some(0o500)),
        ] {
            fs::set_permissions(&dir.path, Permissions::from_mode(mode)).unwrap();
            let prepared = dir.prepare();
            assert!(prepared.is_ok() || matches!(prepared, Err(Error::State { .. })));
            assert_eq!(prepared.is_ok(), closed_to.is_some(), "{mode:o}");
            assert_eq!(fs::metadata(&dir.path).unwrap().mode() & 0o777, closed_to.unwrap_or(mode));
        }
        // A directory of other programs stays as it is.
        fs::remove_dir_all(&dir.path).unwrap();
        fs::create_dir_all(&dir.path).unwrap();
        for (mode, file, words) in [
            (0o1777, None, "a directory for all users (mode 1777)"),
            (0o1777, Some("x"), "holds files of other programs"),
            (0o755, Some("x"), "name a directory of the node's own"),
        ] {
            file.iter().for_each(|file| fs::write(dir.path.join(file), "").unwrap());
            fs::set_permissions(&dir.path, Permissions::from_mode(mode)).unwrap();
            let refused = dir.prepare().unwrap_err().to_string();
            assert!(refused.contains(words) && !refused.contains("chmod"), "{refused}");
            assert_eq!(fs::metadata(&dir.path).unwrap().mode() & 0o7777, mode);
        }
        // Only root can give it away.
        if std::os::unix::fs::chown(&dir.path, Some(1), None).is_ok() {
            assert!(dir.prepare().unwrap_err().to_string().contains("it belongs to user 1"));
        }
        fs::remove_dir_all(&dir.path).unwrap();
    }

    #[test]
    fn what_is_no_directory_is_refused() {
        let dir = directory("no-directory");
        fs::write(&dir.path, "").unwrap();
        let refused = |path: &Path| StateDir::new(path, "").prepare().unwrap_err().to_string();
        assert!(refused(&dir.path).contains("it is not a directory"));
        assert!(refused(&dir.path.join("inside")).starts_with("cannot make the state directory"));
        assert!(StateDir::new(&dir.path, "").load().is_err());
        fs::remove_file(&dir.path).unwrap();
    }

    fn roles(state: &State) -> Vec<Option<(Role, bool)>> {
        state.groups.values().map(|group| group.role).collect()
    }

    fn of_roles(roles: &[(&str, Option<(Role, bool)>)]) -> State {
        let group = |(name, role): &(&str, _)| ((*name).to_owned(), Group { role: *role, ..Group::default() });
        State { groups: roles.iter().map(group).collect(), ..State::default() }
    }

    #[test]
    fn no_role_of_an_earlier_boot_or_of_a_demoted_group_is_reached() {
        let [master, fault] = [Role::Master, Role::Fault].map(|role| Some((role, true)));
        let state = of_roles(&[("a", master), ("b", fault), ("c", None)]);
        let demoted = [Some((Role::Backup, false)), Some((Role::Fault, false)), None];
        assert_eq!(roles(&state.clone().of_earlier_boot()), demoted);
        let dir = directory("boot");
        dir.prepare().unwrap();
        dir.save(&state).unwrap();
        assert_eq!(dir.load().unwrap(), state);
        let text = fs::read_to_string(dir.state_file()).unwrap();
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
        assert_eq!(boot_of(&text), Some(boot.trim_end()));
        fs::write(dir.state_file(), state.text(Some(BOOT_ID))).unwrap();
        assert_eq!(roles(&dir.load().unwrap()), demoted);
        // Of one group, until its state is recorded.
        for remove in [StateDir::save as fn(&StateDir, &State) -> Result<()>, StateDir::forget] {
            dir.save(&state).unwrap();
            let of_a = StateDir::new(&dir.path, "a");
            of_a.mark_demoted().unwrap();
            assert_eq!(roles(&dir.load().unwrap()), [demoted[0], fault, None]);
            remove(&of_a, &state).unwrap();
            assert_eq!(dir.load().unwrap(), state);
        }
        // What a killed process has left is removed under the lock.
        fs::write(dir.path.join("state.new"), "").unwrap();
        drop(dir.lock(Duration::ZERO).unwrap());
        assert!(!dir.path.join("state.new").exists());
        fs::remove_dir_all(&dir.path).unwrap();
    }

    /// Rules of another version that runs on the same directory have the same owner.
    #[test]
    fn the_owner_of_rules_is_the_directory() {
        let owner = |path: &str| StateDir::new(Path::new(path), "web").owner();
        assert_eq!([owner("/run/a"), owner("/run/b")], [0x2762_70f9_aac3_f90b, 0x2762_71f9_aac3_fabe]);
    }

    #[test]
    fn groups_of_the_configuration_and_of_earlier_ones() {
        let mut config = model::config(Fence::Marks);
        config.group = "web".into();
        config.groups = ["web".to_owned(), "mail".to_owned()].into();
        let backup = Some((Role::Backup, true));
        // The groups that have a role, whether that is each of the configuration, and the others.
        for (groups, complete, others) in [
            (&[][..], false, &[][..]),
            (&["web"], false, &[]),
            (&["mail"], true, &["mail"]),
            (&["mail", "web"], true, &["mail"]),
            (&["old", "web"], false, &["old"]),
            (&["mail", "old", "web"], true, &["mail"]),
        ] {
            let mut state = of_roles(&["idle", "mail", "old"].map(|name| (name, None)));
            groups.iter().for_each(|name| state.group_mut(name).role = backup);
            for (slot, group) in state.groups.values_mut().enumerate() {
                group.slot = slot as u8;
            }
            assert_eq!(state.is_complete(&config), complete, "{groups:?}");
            let found: Vec<u8> = state.others(&config).map(|group| group.slot).collect();
            let expected: Vec<u8> = others.iter().map(|name| state.groups[*name].slot).collect();
            assert_eq!(found, expected, "{groups:?}");
            assert_eq!(state.obsolete(&config), ["idle", "old"]);
        }
        // A new group has a slot of its own.
        let mut state = State::default();
        for (name, slot) in [("web", 0), ("mail", 1), ("old", 2)] {
            let group = state.group(name);
            assert_eq!(group, Group { slot, ..Group::default() });
            state.groups.insert(name.into(), group);
        }
        state.groups.remove("mail");
        assert_eq!((state.group("new").slot, state.group("old").slot), (1, 2));
    }
}
