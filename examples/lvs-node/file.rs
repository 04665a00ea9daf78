//! The TOML file of `lvs-node`.

use std::fmt::Display;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use lvs_dr::arp::{ArpTarget, Settings};
use lvs_dr::ipvs::{Destination, Persistence, Scheduler, Service, ServiceFlags, ServiceId, Table};
use lvs_dr::node::{ArpConfig, Config, Fence, Loopback, VipOwner};
use serde::{Deserialize, Deserializer};
use toml::Spanned;

/// What a node's file says.
pub struct NodeFile {
    /// What the node is to be.
    pub config: Config,
    /// The file that keepalived watches.
    pub track_file: Option<PathBuf>,
    /// Where services are that are not read yet, and where it says so.
    services_file: Option<(String, PathBuf)>,
}

impl NodeFile {
    /// The services, also of another file.
    pub fn services(&self) -> Result<Option<Table>, String> {
        let Some((place, path)) = &self.services_file else { return Ok(self.config.services.clone()) };
        let wrong = |reason: &dyn Display| format!("{place}: services: {reason}");
        let services = Some(read_table(path).map_err(|reason| wrong(&reason))?);
        Config { services: services.clone(), ..self.config.clone() }.check().map_err(|error| wrong(&error))?;
        Ok(services)
    }
}

/// Reads a node's file. The error names the file, the line, and what was expected.
pub fn read(path: &Path) -> Result<NodeFile, String> {
    let mut found = read_without_services(path)?;
    if found.services_file.is_some() {
        found.config.services = found.services()?;
        found.services_file = None;
    }
    Ok(found)
}

/// The same without the services of another file, of which there may be thousands: see [`NodeFile::services`].
pub fn read_without_services(path: &Path) -> Result<NodeFile, String> {
    let failed = |reason: &dyn Display| format!("{}: {}", path.display(), reason.to_string().trim_end());
    let text = std::fs::read_to_string(path).map_err(|e| failed(&e))?;
    let mut file: File = toml::from_str(&text).map_err(|e| failed(&e))?;
    let services_file = file.services.as_ref().map(|saved| {
        (format!("{}: line {}", path.display(), line(&text, saved.span().start)), path.with_file_name(saved.get_ref()))
    });
    let track_file = file.handover.as_mut().and_then(|handover| handover.file.take());
    let config = file.into_config();
    let config = config.map_err(|wrong| failed(&format_args!("line {}: {}", line(&text, wrong.at), wrong.reason)))?;
    Ok(NodeFile { config, track_file, services_file })
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

fn line(text: &str, at: usize) -> usize {
    1 + text.bytes().take(at).filter(|octet| *octet == b'\n').count()
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    interface: Spanned<String>,
    #[serde(deserialize_with = "addresses")]
    vips: Spanned<Vec<IpAddr>>,
    #[serde(default)]
    vip_owner: Owner,
    fence: Option<Spanned<FenceName>>,
    #[serde(default)]
    loopback: LoopbackName,
    state_dir: Option<Spanned<PathBuf>>,
    announcements: Option<u32>,
    announce_again: Option<Spanned<f64>>,
    settle: Option<Spanned<f64>>,
    drain: Option<Spanned<f64>>,
    arp: Option<Spanned<Arp>>,
    sync: Option<Spanned<SyncTable>>,
    handover: Option<Handover>,
    services: Option<Spanned<PathBuf>>,
    service: Option<Vec<Spanned<ServiceTable>>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Owner {
    #[default]
    Node,
    Keepalived,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum FenceName {
    #[default]
    Quiesce,
    Stateless,
    BackupOnly,
    Clear,
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
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Handover {
    file: Option<PathBuf>,
    #[serde(deserialize_with = "some_addresses")]
    successors: Vec<IpAddr>,
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

fn some_addresses<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<IpAddr>, D::Error> {
    addresses(from).map(Spanned::into_inner)
}

impl File {
    fn into_config(self) -> Result<Config, Wrong> {
        let mut config = Config::new(self.interface.get_ref(), self.vips.get_ref().iter().copied());
        config.vip_owner = match self.vip_owner {
            Owner::Node => VipOwner::Node,
            Owner::Keepalived => VipOwner::Keepalived,
        };
        config.fence = match self.fence.as_ref().map_or(&FenceName::default(), Spanned::get_ref) {
            FenceName::Quiesce => Fence::Quiesce,
            FenceName::Stateless => Fence::Stateless,
            FenceName::BackupOnly => Fence::BackupOnly,
            FenceName::Clear => Fence::Clear,
        };
        config.loopback = match self.loopback {
            LoopbackName::Always => Loopback::Always,
            LoopbackName::Backup => Loopback::Backup,
        };
        if let Some(state_dir) = &self.state_dir {
            config.state_dir = state_dir.get_ref().clone();
        }
        if let Some(announcements) = self.announcements {
            config.announcements = announcements;
        }
        let times = [
            (self.settle, &mut config.settle),
            (self.drain, &mut config.drain),
            (self.announce_again, &mut config.announce_again),
        ];
        for (found, time) in times {
            let Some(found) = found else { continue };
            let seconds = *found.get_ref();
            let usable = (0.0..=60.0).contains(&seconds).then(|| Duration::from_secs_f64(seconds));
            *time = usable.ok_or_else(|| Wrong::at(&found, "0 to 60 seconds were expected"))?;
        }
        if let Some(sync) = self.sync.as_ref().map(Spanned::get_ref) {
            config.sync.interface = sync.interface.clone().unwrap_or(config.sync.interface);
            config.sync.id = sync.id.unwrap_or(config.sync.id);
            (config.sync.group, config.sync.port, config.sync.ttl) = (sync.group, sync.port, sync.ttl);
            config.sync.max_length = sync.max_length.or(config.sync.max_length);
        }
        config.successors = self.handover.map(|handover| handover.successors).unwrap_or_default();
        let default = Arp::default();
        let arp = self.arp.as_ref().map_or(&default, Spanned::get_ref);
        config.arp = arp.manage.then(|| ArpConfig {
            settings: Settings { ignore: i32::from(arp.ignore).into(), announce: i32::from(arp.announce).into() },
            target: match arp.on {
                ArpOn::Interface => ArpTarget::Interface(self.interface.get_ref().clone()),
                ArpOn::All => ArpTarget::All,
            },
        });
        config.check().map_err(|error| {
            let object = if let lvs_dr::Error::Invalid { object, .. } = &error { object.as_str() } else { "" };
            let spans = (&self.state_dir, &self.arp, &self.fence, &self.sync);
            match (object.split(' ').next().unwrap_or_default(), spans) {
                ("interface", _) => Wrong::at(&self.interface, &error),
                ("state_dir", (Some(place), ..)) => Wrong::at(place, &error),
                ("arp", (_, Some(place), ..)) => Wrong::at(place, &error),
                ("fence", (_, _, Some(place), _)) => Wrong::at(place, &error),
                ("sync", (.., Some(place))) => Wrong::at(place, &error),
                _ => Wrong::at(&self.vips, &error),
            }
        })?;
        config.services = match (self.services, self.service) {
            (Some(saved), Some(_)) => {
                let reason = "`services` and [[service]] were both found: one of them was expected";
                return Err(Wrong::at(&saved, reason));
            }
            (Some(_), None) => None,
            (None, Some(services)) => Some(table(services, &config)?),
            (None, None) => None,
        };
        Ok(config)
    }
}

fn read_table(path: &Path) -> Result<Table, String> {
    let failed = |reason: &dyn Display| format!("{}: {reason}", path.display());
    let text = std::fs::read_to_string(path).map_err(|e| failed(&e))?;
    if !text.is_empty() && !text.ends_with('\n') {
        return Err(failed(&"the last line does not end: the file was cut short"));
    }
    let table: Table = text.parse().map_err(|e| failed(&e))?;
    match table.is_empty() {
        true => Err(failed(&"it names no service: was it cut short?")),
        false => Ok(table),
    }
}

/// Each service is checked by itself, so that its line can be told.
fn table(services: Vec<Spanned<ServiceTable>>, config: &Config) -> Result<Table, Wrong> {
    let mut table = Table::new();
    for entry in services {
        let wrong = |reason: &dyn Display| Wrong::at(&entry, reason);
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
