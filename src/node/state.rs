//! What a node remembers: in a directory for root alone, replaced as a whole, one process at a
//! time.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs::{self, OpenOptions, Permissions};
use std::io;
use std::net::IpAddr;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::config::Config;
use super::digest::fnv;
use super::fence::Fence;
use super::fence::marks::MarkValues;
use super::names;
use super::requests::{Lock, Requests, remove_if_there};
use super::role::Role;
use crate::arp;
use crate::error::{Error, Result};
use crate::files::Replacement;
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
    /// The other node that directs, or directed last.
    pub(super) director: Option<IpAddr>,
    /// One of the services that were loaded from the configuration. Where the kernel lacks it, the
    /// table was flushed, perhaps.
    pub(super) loaded: Option<ServiceId>,
    /// Fence `clear` has emptied the kernel's table: the group's table is [`StoredTable::Held`].
    pub(super) held: bool,
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

/// Begins the line that names the boot in which the file was written.
const BOOT: &str = "boot ";

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{FIRST_LINE}")?;
        self.arp.iter().try_for_each(|change| writeln!(f, "arp {change}"))?;
        self.sysctls.iter().try_for_each(|(name, (before, after))| writeln!(f, "sysctl {name}={before} -> {after}"))?;
        self.mended.iter().try_for_each(|(name, value)| writeln!(f, "mended {name}={value}"))?;
        if self.syncs {
            writeln!(f, "sync on")?;
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
            group.vips.iter().try_for_each(|(vip, interface)| writeln!(f, "vip {vip} {interface}"))?;
        }
        writeln!(f, "{LAST_LINE}")
    }
}

impl State {
    /// Reads this version's text, and that of version 1. Lines that a later version may have added
    /// are passed over.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let after = |first: &str| text.strip_prefix(first).and_then(|rest| rest.strip_prefix('\n'));
        let (body, version) = match (after(FIRST_LINE), after(FIRST_LINE_1)) {
            (Some(body), _) => (body, 2),
            (_, Some(body)) => (body, 1),
            _ => return Err(format!("it does not begin with `{FIRST_LINE}`: was it written by another version?")),
        };
        let body =
            body.strip_suffix(&format!("{LAST_LINE}\n")).ok_or("it does not end as it should: it was cut short")?;
        if body.contains(|c: char| c.is_control() && c != '\n') {
            return Err("it holds control characters, which no node writes".into());
        }
        let mut state = State::default();
        let mut name = String::new();
        let mut old_fence = String::new();
        let mut rest = body;
        while let Some((line, behind)) = rest.split_once('\n') {
            rest = behind;
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
                ("sync", None) => state.syncs = value == "on",
                ("marks", None) => {
                    let base = value.parse().ok().and_then(|base| MarkValues::new(base).ok());
                    state.marks = Some(base.ok_or_else(unknown)?);
                }
                ("qdisc", Some((owner, interface))) => {
                    let owner = if owner == "ours" { QdiscOwner::Node } else { QdiscOwner::Other };
                    state.qdiscs.insert(interface.to_owned(), owner);
                }
                ("peer", _) => {
                    let mut words = value.split(' ');
                    let peer = words.next().and_then(|word| word.parse().ok()).ok_or_else(unknown)?;
                    let macs = words.map(str::parse).collect::<Result<_, _>>().map_err(|_| unknown())?;
                    state.peers.insert(peer, macs);
                }
                ("loaded", _) => state.group_mut(&name).loaded = Some(value.parse().map_err(|_| unknown())?),
                ("legacy", None) => {
                    state.legacy = Some(if value == "quiesced" { Legacy::Quiesced } else { Legacy::Whole });
                }
                ("group", _) => {
                    name = value.to_owned();
                    state.groups.entry(name.clone()).or_default();
                }
                ("slot", None) => state.group_mut(&name).slot = value.parse().map_err(|_| unknown())?,
                ("role", Some((role, reached))) => {
                    let role = role.parse().map_err(|_| unknown())?;
                    state.group_mut(&name).role = Some((role, reached == "reached"));
                }
                ("fence", None) if version == 1 => old_fence = value.to_owned(),
                ("fence", None) => state.group_mut(&name).fence = Some(value.parse().map_err(|_| unknown())?),
                ("director", None) => state.group_mut(&name).director = Some(value.parse().map_err(|_| unknown())?),
                ("vip", Some((vip, interface))) => {
                    let vip = vip.parse().map_err(|_| unknown())?;
                    state.group_mut(&name).vips.insert((vip, interface.to_owned()));
                }
                ("table", None) => {
                    state.group_mut(&name).held = value == "held";
                    if version == 1 {
                        break;
                    }
                }
                _ => {}
            }
        }
        if version == 1 {
            let group = state.group_mut(&name);
            // Version 1 records the fence when the role is reached.
            let quiesced = group.held && matches!(old_fence.as_str(), "quiesce" | "");
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
        (0..u8::MAX).find(|slot| !taken(slot)).unwrap_or(u8::MAX)
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
        if found.mode() & 0o022 != 0 {
            return refuse(format!("others can write to it (mode {:o}): `chmod 700` it", found.mode() & 0o7777));
        }
        if found.mode() & 0o055 != 0 {
            fs::set_permissions(&self.path, Permissions::from_mode(0o700)).map_err(failed("close to others"))?;
        }
        Ok(())
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

    /// A table; an empty one where none was saved.
    pub(super) fn load_table(&self, kept: StoredTable) -> Result<Table> {
        let parse = |text: &str| {
            let body = text
                .strip_suffix(&format!("# {LAST_LINE}\n"))
                .ok_or("it does not end as it should: it was cut short")?;
            body.parse().map_err(|e: Error| format!("it is not understood: {e}"))
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
        parse(&String::from_utf8_lossy(&octets)).map(Some).map_err(|reason| {
            let reason = format!("{reason}; look into it, then remove it: the node starts anew from what it finds");
            Error::State { path, reason }
        })
    }

    /// Replaces what the node remembers: a reader, also after a crash, finds the old or the
    /// new.
    pub(super) fn save(&self, state: &State) -> Result<()> {
        let text = state.to_string();
        let text = match boot_id() {
            Some(boot) => text.replacen('\n', &format!("\n{BOOT}{boot}\n"), 1),
            None => text,
        };
        self.write(self.state_file(), &text)?;
        // What these files say was read before, and is in the state now.
        state.groups.keys().try_for_each(|name| self.remove_file(self.demoted_file(name)))
    }

    /// Replaces a table; an empty one is removed.
    pub(super) fn save_table(&self, kept: StoredTable, table: &Table) -> Result<()> {
        match table.is_empty() {
            true => self.remove_file(self.table_file(kept)),
            false => self.write(self.table_file(kept), &format!("{table}# {LAST_LINE}\n")),
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
    use super::*;

    fn directory(name: &str) -> StateDir {
        let path = std::env::temp_dir().join(format!("lvs-dr-test-{}-{name}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        StateDir::new(&path, "")
    }

    fn some_state() -> State {
        let group = Group {
            slot: 3,
            role: Some((Role::Backup, false)),
            fence: Some(Fence::Clear),
            vips: [
                ("192.0.2.1".parse().unwrap(), "eth0".to_owned()),
                ("2001:db8::1".parse().unwrap(), "eth0".to_owned()),
            ]
            .into(),
            director: "192.0.2.11".parse().ok(),
            loaded: "tcp 192.0.2.1:80".parse().ok(),
            held: true,
        };
        State {
            arp: vec!["eth0 arp_ignore=0 arp_announce=0 -> arp_ignore=3 arp_announce=2".parse().unwrap()],
            sysctls: [("sync_threshold".to_owned(), ("3 50".to_owned(), "2 50".to_owned()))].into(),
            mended: [("expire_quiescent_template".to_owned(), "1".to_owned())].into(),
            syncs: true,
            marks: MarkValues::new(7).ok(),
            qdiscs: [("eth0.100".to_owned(), QdiscOwner::Node), ("eth1".to_owned(), QdiscOwner::Other)].into(),
            peers: [
                ("192.0.2.11".parse().unwrap(), ["02:00:00:00:00:01".parse().unwrap()].into()),
                ("2001:db8::11".parse().unwrap(), BTreeSet::new()),
            ]
            .into(),
            groups: [(String::new(), Group::default()), ("my web".to_owned(), group)].into(),
            legacy: None,
        }
    }

    const TABLE: &str = "-A -t 192.0.2.1:80 -s wrr\n-a -t 192.0.2.1:80 -r 10.0.0.1:80 -g -w 1 -x 9 -y 3\n";

    #[test]
    fn what_is_saved_is_loaded() {
        let dir = directory("round-trip");
        dir.prepare().unwrap();
        assert_eq!(dir.load().unwrap(), State::default());
        for state in [some_state(), State::default()] {
            dir.save(&state).unwrap();
            assert_eq!(dir.load().unwrap(), state);
        }
        let web = StateDir::new(&dir.path, "my web/1");
        for (dir, kept) in [(&dir, StoredTable::Held), (&web, StoredTable::Held), (&web, StoredTable::Loaded)] {
            assert!(dir.load_table(kept).unwrap().is_empty());
            dir.save_table(kept, &TABLE.parse().unwrap()).unwrap();
            assert_eq!(dir.load_table(kept).unwrap().to_string(), TABLE);
        }
        fs::write(dir.table_file(StoredTable::Held), &TABLE[..TABLE.len() - 5]).unwrap();
        assert!(dir.load_table(StoredTable::Held).unwrap_err().to_string().contains("cut short"));
        web.forget(&some_state()).unwrap();
        assert!(web.load_table(StoredTable::Held).unwrap().is_empty());
        assert_eq!(dir.load().unwrap(), some_state());
        for _ in 0..2 {
            dir.forget(&State::default()).unwrap();
        }
        assert_eq!(fs::read_dir(&dir.path).unwrap().count(), 0);
        fs::remove_dir_all(&dir.path).unwrap();
    }

    #[test]
    fn a_file_cut_short_is_refused_wherever_it_is_cut() {
        let text = some_state().to_string();
        for end in 0..text.len() {
            assert!(State::parse(&text[..end]).is_err(), "cut at {end}");
        }
        assert!(State::parse(&text).is_ok());
        assert!(State::parse(&text.replace("state 2", "state 3")).unwrap_err().contains("another version"));
        // A later version may have more to say.
        assert_eq!(State::parse(&text.replace("sync on", "sync on\nnews of tomorrow")), Ok(some_state()));
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
        let group = &state.groups[""];
        assert_eq!((group.role, group.fence, group.held), (Some((Role::Backup, true)), None, false));
        assert_eq!(group.vips, [("192.0.2.1".parse().unwrap(), "eth0".to_owned())].into());
        // It is remembered until it is undone.
        assert_eq!(State::parse(&state.to_string()), Ok(state));
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
        assert_eq!(dir.load_table(StoredTable::Legacy).unwrap().to_string(), TABLE);
        dir.save_table(StoredTable::Legacy, &TABLE.parse().unwrap()).unwrap();
        dir.save(&dir.load().unwrap()).unwrap();
        assert_eq!(dir.load_table(StoredTable::Legacy).unwrap().to_string(), TABLE);
        dir.save_table(StoredTable::Legacy, &Table::new()).unwrap();
        assert!(dir.load_table(StoredTable::Legacy).unwrap().is_empty());
        fs::remove_dir_all(&dir.path).unwrap();
    }

    #[test]
    fn a_directory_that_others_can_write_to_is_refused() {
        let dir = directory("mode");
        dir.prepare().unwrap();
        assert_eq!(fs::metadata(&dir.path).unwrap().mode() & 0o777, 0o700);
        fs::set_permissions(&dir.path, Permissions::from_mode(0o777)).unwrap();
        assert!(matches!(dir.prepare(), Err(Error::State { .. })));
        fs::set_permissions(&dir.path, Permissions::from_mode(0o755)).unwrap();
        dir.prepare().unwrap();
        assert_eq!(fs::metadata(&dir.path).unwrap().mode() & 0o777, 0o700);
        fs::remove_dir_all(&dir.path).unwrap();
    }
}
