//! The TOML file of `lvs-node`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Display};
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use lvs_dr::Error;
use lvs_dr::arp::Settings;
use lvs_dr::ipvs::{Destination, Persistence, Scheduler, Service, ServiceFlags, ServiceId, Table};
use lvs_dr::marks::Mac;
use lvs_dr::node::{ArpConfig, ArpScope, Config, Fence, IpvsSysctls, Loopback, MarkValues, OwnRequests, VipOwner};
use serde::{Deserialize, Deserializer, de};
use toml::Spanned;

use super::serve;

/// Why a file cannot be used. Its text is complete.
#[derive(Debug)]
pub struct FileError {
    /// The file where the fault is.
    pub path: PathBuf,
    /// Its line, counted from 1. `None`: the whole file.
    pub line: Option<usize>,
    text: String,
}

impl Display for FileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl FileError {
    fn of(path: &Path, reason: impl Display) -> Self {
        let text = format!("{}: {}", path.display(), reason.to_string().trim_end());
        FileError { path: path.to_owned(), line: None, text }
    }

    fn at(path: &Path, line: usize, reason: impl Display) -> Self {
        FileError { line: Some(line), ..FileError::of(path, format_args!("line {line}: {reason}")) }
    }
}

/// What a node's file says.
pub struct NodeFile {
    /// What the node is to be: a configuration for each group of VIPs.
    pub configs: Vec<Config>,
    /// The file that keepalived watches.
    pub track_file: Option<PathBuf>,
    /// The files of `lvs-node watch`, where the command line names no others.
    pub watch: WatchFiles,
    /// What the file says in the words of an earlier version, and what to write instead.
    pub warnings: Vec<String>,
    /// Where services are that are not read yet.
    services_file: Option<ServicesFile>,
}

/// Another file that has the services, and the file and line that say so.
struct ServicesFile {
    path: PathBuf,
    named_by: PathBuf,
    line: usize,
}

impl NodeFile {
    /// The services of this group, also of another file.
    pub fn services(&self, config: &Config) -> Result<Option<Table>, FileError> {
        let Some(ServicesFile { path, named_by, line }) = &self.services_file else {
            return Ok(config.services.clone());
        };
        let wrong = |reason: &dyn Display| FileError::at(named_by, *line, format_args!("services: {reason}"));
        let all = read_table(path).map_err(|error| FileError { text: wrong(&error).text, ..error })?;
        let mut unclaimed = all.clone();
        self.configs.iter().for_each(|config| unclaimed.retain(|id| !is_of(config, &self.configs, id)));
        if let Some(content) = unclaimed.services().next() {
            return Err(wrong(&format_args!("{}: it is on none of the vips", content.service.id)));
        }
        let services = Some(all.filtered(|id| is_of(config, &self.configs, id)));
        Config { services: services.clone(), ..config.clone() }.check().map_err(|error| wrong(&error))?;
        Ok(services)
    }

    /// The other file that has the services, unless they were read.
    pub fn services_path(&self) -> Option<&Path> {
        self.services_file.as_ref().map(|file| file.path.as_path())
    }

    /// Whether the file names groups of VIPs.
    pub fn has_groups(&self) -> bool {
        self.configs.iter().any(|config| !config.group.is_empty())
    }

    /// The configuration of this group; of the only one, where none is named.
    pub fn config(&self, group: Option<&str>) -> Result<&Config, String> {
        let names = || self.configs.iter().map(|config| format!("{:?}", config.group)).collect::<Vec<_>>().join(", ");
        match (group, &self.configs[..]) {
            (None, [config]) => Ok(config),
            // keepalived names its instance, whatever it is called.
            (Some(_), [config]) if config.group.is_empty() => Ok(config),
            (None, _) => Err(format!("--group: one of {} was expected", names())),
            (Some(name), configs) => configs
                .iter()
                .find(|config| config.group == name)
                .ok_or_else(|| format!("group {name:?}: one of {} was expected", names())),
        }
    }
}

/// Whether the service is of this group: on one of its VIPs. Services of firewall marks are of the
/// first group.
fn is_of(config: &Config, all: &[Config], id: &ServiceId) -> bool {
    match id.address() {
        Some(address) => config.vips.contains(&address.ip()),
        None => all.first().is_none_or(|first| first.group == config.group),
    }
}

/// Reads a node's file. The error names the file, the line, and what was expected.
pub fn read(path: &Path) -> Result<NodeFile, FileError> {
    let mut found = read_without_services(path)?;
    if found.services_file.is_some() {
        let services = found.configs.iter().map(|config| found.services(config)).collect::<Result<Vec<_>, _>>()?;
        found.configs.iter_mut().zip(services).for_each(|(config, services)| config.services = services);
        found.services_file = None;
    }
    Ok(found)
}

/// The same without the services of another file, of which there may be thousands: see
/// [`NodeFile::services`].
pub fn read_without_services(path: &Path) -> Result<NodeFile, FileError> {
    let text = std::fs::read_to_string(path).map_err(|error| FileError::of(path, error))?;
    let failed = |at: usize, reason: &dyn Display| FileError::at(path, line(&text, at), reason);
    let mut file: File = toml::from_str(&text).map_err(|error| {
        let at = error.span().map_or(0, |span| span.start);
        let found = text.lines().nth(line(&text, at) - 1).unwrap_or_default().trim();
        failed(at, &format_args!("{}: {found}", in_words(error.message())))
    })?;
    let services_file = file.services.as_ref().map(|saved| ServicesFile {
        path: path.with_file_name(saved.get_ref()),
        named_by: path.to_owned(),
        line: line(&text, saved.span().start),
    });
    let track_file = file.handover.as_mut().and_then(|handover| handover.file.take());
    let watch = std::mem::take(&mut file.watch);
    let warnings = file.superseded();
    let failed = |wrong: Wrong| failed(wrong.at, &wrong.reason);
    let warnings = warnings.into_iter().map(|wrong| failed(wrong).to_string()).collect();
    let configs = file.into_configs().map_err(failed)?;
    Ok(NodeFile { configs, track_file, watch, warnings, services_file })
}

/// What is wrong with a file that is well-formed, and where it is, in octets from the beginning.
struct Wrong {
    at: usize,
    reason: String,
}

impl Wrong {
    fn at<T>(place: &Spanned<T>, reason: impl Display) -> Self {
        Wrong { at: place.span().start, reason: reason.to_string() }
    }
}

/// What serde says of a value, in the words of the file.
fn in_words(message: &str) -> String {
    let values = message.strip_prefix("invalid type: ").or_else(|| message.strip_prefix("invalid value: "));
    if let Some((found, wanted)) = values.and_then(|values| values.rsplit_once(", expected ")) {
        let wanted = match wanted {
            "a string" | "a borrowed string" | "path string" => "a text in quotes",
            "a sequence" => "a list in brackets",
            "a boolean" => "true or false",
            "u8" => "a whole number from 0 to 255",
            "u16" => "a whole number from 0 to 65535",
            "u32" => "a whole number from 0 to 4294967295",
            "usize" | "u64" => "a whole number of at least 0",
            "i32" | "i64" => "a whole number",
            "f32" | "f64" => "a number",
            "a map" => "a table",
            wanted if wanted.starts_with("struct ") => "a table",
            wanted => wanted,
        };
        return format!("{} was found, {wanted} was expected", named(found));
    }
    let key = |rest: &str| format!("unknown key {rest}");
    let word = |rest: &str| format!("unknown word {rest}");
    let missing = |name: &str| format!("the key {name} is missing");
    let said = message.strip_prefix("unknown field ").map(key);
    let said = said.or_else(|| message.strip_prefix("unknown variant ").map(word));
    let said = said.or_else(|| message.strip_prefix("missing field ").map(missing));
    said.unwrap_or_else(|| message.replace('\n', " "))
}

/// A value as serde names it, in the words of the file.
fn named(found: &str) -> String {
    let (kind, value) = found.split_once(' ').unwrap_or((found, ""));
    match (kind, value) {
        ("integer", value) => format!("the number {}", value.trim_matches('`')),
        ("floating", value) => format!("the number {}", value.trim_start_matches("point ").trim_matches('`')),
        ("boolean", value) => value.to_owned(),
        ("string", value) => format!("the text {value}"),
        ("sequence", _) => "a list".to_owned(),
        ("map", _) => "a table".to_owned(),
        _ => found.to_owned(),
    }
}

fn line(text: &str, at: usize) -> usize {
    1 + text.bytes().take(at).filter(|octet| *octet == b'\n').count()
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    interface: Option<Spanned<String>>,
    #[serde(default, deserialize_with = "some_addresses")]
    vips: Option<Spanned<Vec<IpAddr>>>,
    group: Option<Vec<Spanned<GroupTable>>>,
    #[serde(default)]
    vip_owner: Owner,
    fence: Option<Spanned<FenceName>>,
    #[serde(default)]
    loopback: LoopbackName,
    state_dir: Option<Spanned<PathBuf>>,
    announcements: Option<u32>,
    announce_again: Option<Spanned<f64>>,
    settle: Option<Spanned<toml::Value>>,
    drain: Option<Spanned<toml::Value>>,
    marks: Option<Spanned<MarksTable>>,
    arp: Option<Spanned<Arp>>,
    #[serde(default)]
    sysctl: SysctlTable,
    sync: Option<Spanned<SyncTable>>,
    handover: Option<Handover>,
    #[serde(default)]
    watch: WatchFiles,
    services: Option<Spanned<PathBuf>>,
    service: Option<Vec<Spanned<ServiceTable>>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Owner {
    #[default]
    Node,
    Keepalived,
    Routes,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum FenceName {
    #[default]
    Marks,
    Clear,
    // Of earlier versions.
    Quiesce,
    Stateless,
    BackupOnly,
}

/// The files of `lvs-node watch`, and where it listens.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WatchFiles {
    pub fifo: Option<PathBuf>,
    pub metrics: Option<PathBuf>,
    #[serde(default, deserialize_with = "listening")]
    pub listen: Option<SocketAddr>,
}

fn listening<'de, D: Deserializer<'de>>(from: D) -> Result<Option<SocketAddr>, D::Error> {
    serve::address(&String::deserialize(from)?).map(Some).map_err(de::Error::custom)
}

/// A group, or what stands in a file without groups, and where its VIPs stand.
struct GroupOfVips {
    name: String,
    interface: String,
    vips: Spanned<Vec<IpAddr>>,
}

/// VIPs that one VRRP instance decides about.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct GroupTable {
    name: String,
    interface: Option<String>,
    #[serde(deserialize_with = "addresses")]
    vips: Spanned<Vec<IpAddr>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct MarksTable {
    base: Option<u32>,
    #[serde(deserialize_with = "macs")]
    macs: BTreeMap<IpAddr, BTreeSet<Mac>>,
    own_requests: OwnRequestsName,
}

#[derive(Debug, Default, Clone, Copy, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum OwnRequestsName {
    #[default]
    ServedHere,
    LeftAlone,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct SyncTable {
    interface: Option<String>,
    id: Option<u8>,
    group: Option<IpAddr>,
    port: Option<u16>,
    ttl: Option<u8>,
    max_length: Option<u16>,
    key_file: Option<PathBuf>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Handover {
    file: Option<PathBuf>,
    successors: Option<Spanned<toml::Value>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum LoopbackName {
    #[default]
    Always,
    Backup,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Arp {
    manage: bool,
    ignore: u8,
    announce: u8,
    on: ArpOn,
}

impl Default for Arp {
    fn default() -> Self {
        let hide = Settings::HIDE;
        Arp {
            manage: true,
            ignore: hide.ignore.value() as u8,
            announce: hide.announce.value() as u8,
            on: ArpOn::Interface,
        }
    }
}

/// The sysctls of IPVS.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct SysctlTable {
    #[serde(default = "yes")]
    manage: bool,
}

impl Default for SysctlTable {
    fn default() -> Self {
        SysctlTable { manage: true }
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum ArpOn {
    #[default]
    Interface,
    All,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ServiceTable {
    #[serde(deserialize_with = "text")]
    listen: ServiceId,
    #[serde(deserialize_with = "text")]
    scheduler: Scheduler,
    #[serde(default)]
    flags: Vec<String>,
    #[serde(default)]
    one_packet: bool,
    persistence: Option<u64>,
    #[serde(default = "yes")]
    check_listener: bool,
    destinations: Vec<DestinationTable>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct DestinationTable {
    #[serde(deserialize_with = "socket_address")]
    address: SocketAddr,
    #[serde(default = "one")]
    weight: u32,
    #[serde(default)]
    upper_threshold: u32,
    #[serde(default)]
    lower_threshold: u32,
}

fn one() -> u32 {
    1
}

fn yes() -> bool {
    true
}

/// A value that this crate reads from a text.
fn text<'de, D: Deserializer<'de>, T: FromStr<Err: Display>>(from: D) -> Result<T, D::Error> {
    String::deserialize(from)?.parse().map_err(serde::de::Error::custom)
}

fn socket_address<'de, D: Deserializer<'de>>(from: D) -> Result<SocketAddr, D::Error> {
    let text = String::deserialize(from)?;
    let expected = "ADDRESS:PORT was expected, as in \"192.168.0.11:80\" or \"[2001:db8::11]:80\"";
    text.parse().map_err(|_| serde::de::Error::custom(format!("{text:?} is no address with a port: {expected}")))
}

fn addresses<'de, D: Deserializer<'de>>(from: D) -> Result<Spanned<Vec<IpAddr>>, D::Error> {
    let expected = "addresses without prefix or port were expected, as in [\"192.168.0.254\"]";
    let read = |text: &String| {
        text.parse().map_err(|_| serde::de::Error::custom(format!("{text:?} is no address: {expected}")))
    };
    let texts = Spanned::<Vec<String>>::deserialize(from)?;
    Ok(Spanned::new(texts.span(), texts.get_ref().iter().map(read).collect::<Result<_, _>>()?))
}

fn some_addresses<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Spanned<Vec<IpAddr>>>, D::Error> {
    addresses(from).map(Some)
}

/// `{ "192.168.0.12" = ["02:00:00:00:00:01"] }`.
fn macs<'de, D: Deserializer<'de>>(from: D) -> Result<BTreeMap<IpAddr, BTreeSet<Mac>>, D::Error> {
    let found = BTreeMap::<String, Vec<String>>::deserialize(from)?;
    let read = |(peer, macs): (String, Vec<String>)| {
        let wrong =
            |text: &str| serde::de::Error::custom(format!("{text:?}: `ADDRESS = [\"MAC ADDRESS\"]` was expected"));
        let macs = macs.iter().map(|mac| mac.parse().map_err(|_| wrong(mac))).collect::<Result<_, _>>()?;
        Ok((peer.parse().map_err(|_| wrong(&peer))?, macs))
    };
    found.into_iter().map(read).collect()
}

impl File {
    /// What is written in the words of an earlier version, and does nothing any more.
    fn superseded(&self) -> Vec<Wrong> {
        let mut found = Vec::new();
        if let Some(fence) =
            self.fence.as_ref().filter(|fence| !matches!(fence.get_ref(), FenceName::Marks | FenceName::Clear))
        {
            found.push(Wrong::at(
                fence,
                "fence \"marks\" supersedes this one and is used: write fence = \"marks\", or leave it out",
            ));
        }
        let gone = "it does nothing any more, as a change of director waits for nothing: leave it out";
        for (name, place) in [("settle", &self.settle), ("drain", &self.drain)] {
            found.extend(place.as_ref().map(|place| Wrong::at(place, format_args!("{name}: {gone}"))));
        }
        let successors = self.handover.as_ref().and_then(|handover| handover.successors.as_ref());
        found.extend(successors.map(|place| Wrong::at(place, format_args!("successors: {gone}"))));
        found
    }

    fn groups(&self) -> Result<Vec<GroupOfVips>, Wrong> {
        let nowhere = || Wrong { at: 0, reason: "an interface and vips were expected, or a [[group]] of VIPs".into() };
        let Some(groups) = &self.group else {
            let (interface, vips) =
                (self.interface.as_ref().ok_or_else(nowhere)?, self.vips.as_ref().ok_or_else(nowhere)?);
            let (name, interface) = (String::new(), interface.get_ref().clone());
            return Ok(vec![GroupOfVips { name, interface, vips: vips.clone() }]);
        };
        if let Some(vips) = &self.vips {
            return Err(Wrong::at(vips, "vips and [[group]] were both found: move the vips into a [[group]]"));
        }
        let mut found: Vec<GroupOfVips> = Vec::new();
        for entry in groups {
            let group = entry.get_ref();
            let interface =
                group.interface.clone().or_else(|| self.interface.as_ref().map(|name| name.get_ref().clone()));
            let interface =
                interface.ok_or_else(|| Wrong::at(entry, "an interface was expected, here or for all groups"))?;
            if group.name.trim().is_empty() || found.iter().any(|other| other.name == group.name) {
                return Err(Wrong::at(entry, "a name of its own was expected: that of the VRRP instance"));
            }
            let elsewhere = |vip: &&IpAddr| found.iter().any(|other| other.vips.get_ref().contains(vip));
            if let Some(vip) = group.vips.get_ref().iter().find(elsewhere) {
                return Err(Wrong::at(&group.vips, format_args!("{vip} is in another group too")));
            }
            found.push(GroupOfVips { name: group.name.clone(), interface, vips: group.vips.clone() });
        }
        match found.is_empty() {
            true => Err(nowhere()),
            false => Ok(found),
        }
    }

    fn into_configs(self) -> Result<Vec<Config>, Wrong> {
        let groups = self.groups()?;
        let names: BTreeSet<String> = groups.iter().map(|group| group.name.clone()).collect();
        let mut configs = Vec::new();
        for GroupOfVips { name, interface, vips } in &groups {
            let mut config = self.config(interface, vips)?;
            // One sync daemon serves all groups.
            if let Some(first) = configs.first().map(|first: &Config| first.sync.clone()) {
                config.sync = first;
            }
            (config.group, config.groups) = (name.clone(), names.clone());
            configs.push(config);
        }
        match (self.services, self.service) {
            (Some(saved), Some(_)) => {
                let reason = "`services` and [[service]] were both found: one of them was expected";
                Err(Wrong::at(&saved, reason))
            }
            (Some(_), None) | (None, None) => Ok(configs),
            (None, Some(services)) => {
                for entry in &services {
                    let id = entry.get_ref().listen;
                    if !configs.iter().any(|config| is_of(config, &configs, &id)) {
                        return Err(Wrong::at(entry, format_args!("{id} is on none of the vips")));
                    }
                }
                let all = configs.clone();
                for config in &mut configs {
                    let is_own = |entry: &&Spanned<ServiceTable>| is_of(config, &all, &entry.get_ref().listen);
                    let own: Vec<_> = services.iter().filter(is_own).collect();
                    let unchecked = own.iter().map(|entry| entry.get_ref()).filter(|service| !service.check_listener);
                    config.without_listener = unchecked.map(|service| service.listen).collect();
                    config.services = Some(table(own.into_iter(), config)?);
                }
                Ok(configs)
            }
        }
    }

    fn config(&self, interface: &str, vips: &Spanned<Vec<IpAddr>>) -> Result<Config, Wrong> {
        let mut config = Config::new(interface, vips.get_ref().iter().copied());
        config.vip_owner = match self.vip_owner {
            Owner::Node => VipOwner::Node,
            Owner::Keepalived => VipOwner::Keepalived,
            Owner::Routes => VipOwner::Routes,
        };
        config.fence = match self.fence.as_ref().map_or(FenceName::default(), |fence| *fence.get_ref()) {
            FenceName::Clear => Fence::Clear,
            FenceName::Marks | FenceName::Quiesce | FenceName::Stateless | FenceName::BackupOnly => Fence::Marks,
        };
        config.loopback = match self.loopback {
            LoopbackName::Always => Loopback::Always,
            LoopbackName::Backup => Loopback::Backup,
        };
        if let Some(marks) = &self.marks {
            let MarksTable { base, macs, own_requests } = marks.get_ref();
            if let Some(base) = base {
                config.marks.values = MarkValues::new(*base).map_err(|error| Wrong::at(marks, error))?;
            }
            config.marks.macs.clone_from(macs);
            config.marks.own_requests = match own_requests {
                OwnRequestsName::ServedHere => OwnRequests::ServedHere,
                OwnRequestsName::LeftAlone => OwnRequests::LeftAlone,
            };
        }
        if let Some(state_dir) = &self.state_dir {
            config.state_dir = state_dir.get_ref().clone();
        }
        if let Some(announcements) = self.announcements {
            config.announcements = announcements;
        }
        if let Some(found) = &self.announce_again {
            let seconds = *found.get_ref();
            let usable = (0.0..=60.0).contains(&seconds).then(|| Duration::from_secs_f64(seconds));
            config.announce_again = usable.ok_or_else(|| Wrong::at(found, "0 to 60 seconds were expected"))?;
        }
        if let Some(sync) = self.sync.as_ref().map(Spanned::get_ref) {
            config.sync.interface = sync.interface.clone().unwrap_or(config.sync.interface);
            config.sync.id = sync.id.unwrap_or(config.sync.id);
            (config.sync.group, config.sync.port, config.sync.ttl) = (sync.group, sync.port, sync.ttl);
            config.sync.max_length = sync.max_length.or(config.sync.max_length);
            config.sync.key_file.clone_from(&sync.key_file);
        }
        config.ipvs_sysctls = match self.sysctl.manage {
            true => IpvsSysctls::Managed,
            false => IpvsSysctls::LeftAlone,
        };
        let default = Arp::default();
        let arp = self.arp.as_ref().map_or(&default, Spanned::get_ref);
        config.arp = arp.manage.then(|| ArpConfig {
            settings: Settings { ignore: i32::from(arp.ignore).into(), announce: i32::from(arp.announce).into() },
            scope: match arp.on {
                ArpOn::Interface => ArpScope::Reached,
                ArpOn::All => ArpScope::All,
            },
        });
        config.check().map_err(|error| {
            let object = if let Error::Invalid { object, .. } = &error { object.as_str() } else { "" };
            let spans = (&self.state_dir, &self.arp, &self.interface, &self.sync);
            if let (true, Some(place)) = (object.starts_with("marks"), &self.marks) {
                return Wrong::at(place, &error);
            }
            match (object.split(' ').next().unwrap_or_default(), spans) {
                ("state_dir", (Some(place), ..)) => Wrong::at(place, &error),
                ("arp", (_, Some(place), ..)) => Wrong::at(place, &error),
                ("interface", (_, _, Some(place), _)) => Wrong::at(place, &error),
                ("sync", (.., Some(place))) => Wrong::at(place, &error),
                _ => Wrong::at(vips, &error),
            }
        })?;
        Ok(config)
    }
}

fn read_table(path: &Path) -> Result<Table, FileError> {
    let failed = |reason: &dyn Display| FileError::of(path, reason);
    let text = std::fs::read_to_string(path).map_err(|error| failed(&error))?;
    if !text.is_empty() && !text.ends_with('\n') {
        return Err(failed(&"the last line does not end: the file was cut short"));
    }
    let table: Table = text.parse().map_err(|error| match error {
        Error::Parse { line, reason, .. } => FileError::at(path, line, reason),
        error => failed(&error),
    })?;
    match table.is_empty() {
        true => Err(failed(&"it names no service: was it cut short?")),
        false => Ok(table),
    }
}

/// Each service is checked by itself, so that its line can be told.
fn table<'a>(services: impl Iterator<Item = &'a Spanned<ServiceTable>>, config: &Config) -> Result<Table, Wrong> {
    let mut table = Table::new();
    for entry in services {
        let wrong = |reason: &dyn Display| Wrong::at(entry, reason);
        let alone = service(entry.get_ref()).map_err(|reason| wrong(&reason))?;
        Config { services: Some(alone.clone()), ..config.clone() }.check().map_err(|error| wrong(&error))?;
        for content in alone.services() {
            if !table.insert(content.service.clone()) {
                return Err(wrong(&format_args!("[[service]] {} was found twice", content.service.id)));
            }
            for destination in content.destinations() {
                // Its service was inserted just now.
                let _ = table.insert_destination(&content.service.id, destination.clone());
            }
        }
    }
    Ok(table)
}

fn service(entry: &ServiceTable) -> Result<Table, String> {
    let id = entry.listen;
    let mut service = Service::new(id, entry.scheduler.clone());
    for name in &entry.flags {
        service.flags |=
            ServiceFlags::scheduler_flag(&service.scheduler, name).map_err(|e| format!("{id}: flags: {e}"))?;
    }
    service.flags.set(ServiceFlags::ONE_PACKET, entry.one_packet);
    service.persistence = entry.persistence.map(|secs| Persistence::new(Duration::from_secs(secs), id.family()));
    let mut table = Table::new();
    table.insert(service);
    for found in &entry.destinations {
        let destination = Destination::new(found.address)
            .weight(found.weight)
            .thresholds(found.lower_threshold, found.upper_threshold);
        match table.insert_destination(&id, destination) {
            Ok(None) => {}
            _ => return Err(format!("{id}: destination {} was found twice", found.address)),
        }
    }
    Ok(table)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mistakes_are_in_the_words_of_the_file() {
        for (message, expected) in [
            ("invalid type: integer `7`, expected a string", "the number 7 was found, a text in quotes was expected"),
            (
                "invalid type: string \"x, expected y\", expected a sequence",
                "the text \"x, expected y\" was found, a list in brackets was expected",
            ),
            (
                "invalid value: integer `300`, expected u8",
                "the number 300 was found, a whole number from 0 to 255 was expected",
            ),
            (
                "invalid type: floating point `1.5`, expected u32",
                "the number 1.5 was found, a whole number from 0 to 4294967295 was expected",
            ),
            ("invalid type: boolean `true`, expected struct Arp", "`true` was found, a table was expected"),
            ("invalid type: map, expected f64", "a table was found, a number was expected"),
            ("unknown field `a`, expected `b` or `c`", "unknown key `a`, expected `b` or `c`"),
            ("unknown variant `a`, expected `b` or `c`", "unknown word `a`, expected `b` or `c`"),
            ("missing field `vips`", "the key `vips` is missing"),
            ("extra `=`\nexpected more", "extra `=` expected more"),
        ] {
            assert_eq!(in_words(message), expected);
        }
    }
}
