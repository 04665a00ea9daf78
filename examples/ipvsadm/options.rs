//! The command line: from words to what is to be done. Checks come in ipvsadm's order, so that the
//! first error is the same.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use lvs_dr::ipvs::{
    Destination, Family, Forward, Netmask, Persistence, Scheduler, Service, ServiceFlags, ServiceId, SyncDaemon,
    SyncRole, Timeouts, Tunnel, TunnelChecksum,
};

use super::names::Names;
use super::rules::{
    Fit, Name, NameSet, OPTIONS, OptionRule, TUNNEL_OPTIONS, Tag, Takes, Verb, by_letter, scheduler_flags, tunnel_rule,
};
use super::values::{self, Endpoint, MAX_SECONDS, Protocol};
use super::{REFUSED, Refusal};

/// What `-p` without a number means.
const DEFAULT_PERSISTENCE: u32 = 360;
const DEFAULT_SCHEDULER: &str = "wlc";
const DEFAULT_INTERFACE: &[u8] = b"eth0";
/// Names of schedulers, engines and interfaces are cut to this: 16 octets with their NUL.
const NAME_LENGTH: usize = 15;
const FLAGS_LENGTH: usize = 127;

pub struct CommandLine {
    pub action: Action,
    pub json: bool,
    pub dry_run: bool,
}

pub enum Action {
    Help,
    Version,
    AddService(ServiceRequest),
    EditService(ServiceRequest),
    DeleteService(ServiceId),
    Clear,
    List(Listing),
    Zero(Option<ServiceId>),
    AddServer(ServiceId, Destination),
    EditServer(ServiceId, ServerEdit),
    DeleteServer(ServiceId, SocketAddr),
    Restore,
    Save,
    Set(Timeouts),
    StartDaemon(SyncDaemon),
    StopDaemon(SyncRole),
}

/// A service as the command line names it.
pub struct ServiceRequest {
    pub id: ServiceId,
    /// `None`: a scheduler or engine is named that cannot be: no module has such a name.
    pub service: Option<Service>,
}

/// What a line with `-e` names; what is `None` stays.
pub struct ServerEdit {
    /// The destination: with the port that the method needs.
    pub address: SocketAddr,
    /// Where the method is not named, the one with the port that is given comes first.
    pub named: SocketAddr,
    pub forward: Option<Forward>,
    pub weight: Option<u32>,
    pub upper_threshold: Option<u32>,
    pub lower_threshold: Option<u32>,
}

impl ServerEdit {
    pub fn apply(&self, destination: &mut Destination) {
        destination.forward = self.forward.unwrap_or(destination.forward);
        destination.weight = self.weight.unwrap_or(destination.weight);
        destination.upper_threshold = self.upper_threshold.unwrap_or(destination.upper_threshold);
        destination.lower_threshold = self.lower_threshold.unwrap_or(destination.lower_threshold);
    }
}

/// What `-L` shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Listing {
    pub what: Listed,
    pub columns: Columns,
    /// With `-c`: the engine's data too.
    pub engines: bool,
    pub numeric: bool,
    pub exact: bool,
    pub sorted: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Listed {
    Services,
    Service(ServiceId),
    Connections,
    Timeouts,
    Daemons,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Columns {
    Plain,
    Stats,
    Rates,
    Thresholds,
    Persistent,
    Tunnels,
}

impl CommandLine {
    /// What no arguments mean.
    pub fn list_all() -> Self {
        let listing = Listing {
            what: Listed::Services,
            columns: Columns::Plain,
            engines: false,
            numeric: false,
            exact: false,
            sorted: true,
        };
        CommandLine { action: Action::List(listing), json: false, dry_run: false }
    }
}

/// An option as it stands on the command line.
struct Found<'a> {
    rule: &'static OptionRule,
    value: Option<&'a [u8]>,
    /// The argument that was read last: what a message names.
    element: &'a [u8],
}

impl<'a> Found<'a> {
    fn value(&self) -> &'a [u8] {
        self.value.unwrap_or_default()
    }
}

/// Takes the arguments apart as popt(3) does.
struct Splitter<'a> {
    arguments: &'a [&'a [u8]],
    next: usize,
    /// What is left of an argument with several short options, and the argument.
    cluster: Option<(&'a [u8], &'a [u8])>,
    operands_only: bool,
    operands: Vec<&'a [u8]>,
}

impl<'a> Splitter<'a> {
    fn new(arguments: &'a [&'a [u8]]) -> Self {
        Splitter { arguments, next: 0, cluster: None, operands_only: false, operands: Vec::new() }
    }

    fn take(&mut self) -> Option<&'a [u8]> {
        let argument = *self.arguments.get(self.next)?;
        self.next += 1;
        Some(argument)
    }

    fn take_value(&mut self, takes: Takes) -> Option<&'a [u8]> {
        match (takes, self.arguments.get(self.next)) {
            (Takes::Perhaps, Some(next)) if next.starts_with(b"-") => None,
            _ => self.take(),
        }
    }

    /// The next option, or what is wrong with it.
    fn next_option(&mut self) -> Option<Result<Found<'a>, Refusal>> {
        loop {
            if let Some((letters, element)) = self.cluster.take() {
                return Some(self.short_option(letters, element));
            }
            let element = self.take()?;
            match element {
                _ if self.operands_only => self.operands.push(element),
                b"--" => self.operands_only = true,
                [b'-', b'-', long @ ..] => return Some(self.long_option(long, element)),
                [b'-', letters @ ..] if !letters.is_empty() => return Some(self.short_option(letters, element)),
                operand => self.operands.push(operand),
            }
        }
    }

    fn short_option(&mut self, letters: &'a [u8], element: &'a [u8]) -> Result<Found<'a>, Refusal> {
        let (letter, rest) = (letters[0], &letters[1..]);
        let rule = by_letter(letter).ok_or_else(|| wrong(element, "unknown option"))?;
        if rule.takes != Takes::Nothing {
            let value = if rest.is_empty() { None } else { Some(rest.strip_prefix(b"=").unwrap_or(rest)) };
            return self.with_value(rule, value, element);
        }
        if rest.starts_with(b"=") {
            return Err(wrong(element, "option does not take an argument"));
        }
        self.cluster = (!rest.is_empty()).then_some((rest, element));
        Ok(Found { rule, value: None, element })
    }

    fn long_option(&mut self, long: &'a [u8], element: &'a [u8]) -> Result<Found<'a>, Refusal> {
        let (name, value) = match long.iter().position(|&octet| octet == b'=') {
            Some(equals) => (&long[..equals], Some(&long[equals + 1..])),
            None => (long, None),
        };
        let rule = OPTIONS.iter().find(|rule| rule.long.as_bytes() == name);
        let rule = rule.ok_or_else(|| wrong(element, "unknown option"))?;
        match (rule.takes, value) {
            (Takes::Nothing, Some(_)) => Err(wrong(element, "option does not take an argument")),
            (Takes::Nothing, None) => Ok(Found { rule, value: None, element }),
            _ => self.with_value(rule, value, element),
        }
    }

    fn with_value(
        &mut self,
        rule: &'static OptionRule,
        value: Option<&'a [u8]>,
        element: &'a [u8],
    ) -> Result<Found<'a>, Refusal> {
        if value.is_some() {
            return Ok(Found { rule, value, element });
        }
        match self.take_value(rule.takes) {
            Some(value) => Ok(Found { rule, value: Some(value), element: value }),
            None if rule.takes == Takes::Perhaps => Ok(Found { rule, value: None, element }),
            None => Err(wrong(element, "missing argument")),
        }
    }
}

fn wrong(element: &[u8], what: &str) -> Refusal {
    Refusal::quoting(REFUSED, "", element, &format!(": {what}"))
}

/// Reads a command line without the program's name, which messages tell.
pub fn parse(program: &[u8], arguments: &[&[u8]], names: &Names) -> Result<CommandLine, Refusal> {
    let mut splitter = Splitter::new(arguments);
    let see_help = || Refusal {
        message: [b"Try `", program, b" -h' or '", program, b" --help' for more information."].concat(),
        code: REFUSED,
    };
    let first = splitter.next_option().and_then(Result::ok).ok_or_else(see_help)?;
    let verb = match first.rule.tag {
        Tag::Command(verb) => verb,
        Tag::Help => return Ok(CommandLine { action: Action::Help, ..CommandLine::list_all() }),
        Tag::Version => return Ok(CommandLine { action: Action::Version, ..CommandLine::list_all() }),
        _ => return Err(see_help()),
    };
    let role = match (verb, first.value) {
        (Verb::StartDaemon | Verb::StopDaemon, Some(b"backup")) => SyncRole::Backup,
        (Verb::StartDaemon, value) if value != Some(b"master") => {
            return Err(Refusal::misuse("illegal start-daemon parameter specified"));
        }
        (Verb::StopDaemon, value) if value != Some(b"master") => {
            return Err(Refusal::misuse("illegal start_daemon specified"));
        }
        _ => SyncRole::Master,
    };

    let mut given = Given::default();
    while let Some(found) = splitter.next_option() {
        given.take(&found?, names)?;
    }
    let mut operands = splitter.operands.into_iter();
    let timeouts = if verb == Verb::Set { timeouts(&mut operands)? } else { Timeouts::default() };
    if let Some(operand) = operands.next() {
        return Err(Refusal::quoting(super::MISUSE, "unexpected argument ", operand, ""));
    }
    let flags = given.scheduler_flags()?;
    given.check_against(verb)?;
    Ok(CommandLine {
        json: given.has(Name::Json),
        dry_run: given.has(Name::DryRun),
        action: given.action(verb, role, flags, timeouts)?,
    })
}

fn timeouts<'a>(operands: &mut impl Iterator<Item = &'a [u8]>) -> Result<Timeouts, Refusal> {
    let three: Vec<&[u8]> = operands.take(3).collect();
    let [tcp, tcp_fin, udp] = three[..] else {
        return Err(Refusal::misuse("--set option requires 3 timeout values"));
    };
    let read = |text| seconds(text, 0).map(|seconds| Duration::from_secs(seconds.into()));
    Ok(Timeouts { tcp: read(tcp)?, tcp_fin: read(tcp_fin)?, udp: read(udp)? })
}

fn seconds(text: &[u8], from: u32) -> Result<u32, Refusal> {
    values::number(text, from, MAX_SECONDS)
        .ok_or_else(|| Refusal::quoting(super::MISUSE, "invalid timeout value `", text, "' specified"))
}

/// A forwarding method as the command line names it: its tunnel comes in options of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Method {
    Direct,
    Tunnel,
    Masquerade,
}

/// What options have given so far.
#[derive(Default)]
struct Given<'a> {
    names: NameSet,

    protocol: Option<Protocol>,
    address: Option<IpAddr>,
    port: u16,
    mark: u32,
    family: Option<Family>,
    scheduler: &'a [u8],
    persistence: Option<u32>,
    netmask: Option<Netmask>,
    engine: &'a [u8],
    flags: &'a [u8],

    server: Option<Endpoint>,
    /// Where `-r` gives none, it is the service's if that came before.
    server_port: u16,
    method: Option<Method>,
    weight: Option<u32>,
    upper_threshold: Option<u32>,
    lower_threshold: Option<u32>,
    tunnel: Option<&'static str>,
    tunnel_port: u16,
    tunnel_checksum: TunnelChecksum,

    interface: &'a [u8],
    sync_id: u8,
    group: Option<IpAddr>,
    group_port: Option<u16>,
    group_ttl: Option<u8>,
    max_length: Option<u16>,
}

impl<'a> Given<'a> {
    fn has(&self, name: Name) -> bool {
        self.names.has(name)
    }

    /// Takes one option in.
    fn take(&mut self, found: &Found<'a>, names: &Names) -> Result<(), Refusal> {
        let (rule, value) = (found.rule, found.value());
        if let Some(name) = rule.name.filter(|name| !self.names.insert(*name)) {
            return Err(Refusal::misuse(format_args!("multiple '{name}' options specified")));
        }
        let number = |from, to, what: &str| {
            values::number(value, from, to).ok_or_else(|| Refusal::misuse(format_args!("illegal {what} specified")))
        };
        const MAX: u32 = i32::MAX as u32;
        const PORTS: u32 = u16::MAX as u32;
        match rule.tag {
            Tag::Command(_) | Tag::Help | Tag::Version => {
                return Err(Refusal::quoting(super::MISUSE, "invalid option `", found.element, "'"));
            }
            Tag::Tcp => self.take_service(Protocol::Tcp, value, names)?,
            Tag::Udp => self.take_service(Protocol::Udp, value, names)?,
            Tag::Sctp => self.take_service(Protocol::Sctp, value, names)?,
            Tag::Fwmark => {
                (self.family, self.protocol) = (Some(Family::V4), Some(Protocol::Tcp));
                self.mark = values::number(value, 1, u32::MAX)
                    .ok_or_else(|| Refusal::quoting(super::MISUSE, "invalid fwmark value `", value, "' specified"))?;
            }
            Tag::Ipv6 if self.mark == 0 => return Err(Refusal::misuse("-6 used before -f\n")),
            Tag::Ipv6 => (self.family, self.netmask) = (Some(Family::V6), None),
            Tag::Scheduler => self.scheduler = cut(value, NAME_LENGTH),
            Tag::Persistent => {
                self.persistence = Some(found.value.map_or(Ok(DEFAULT_PERSISTENCE), |value| seconds(value, 1))?);
            }
            Tag::Netmask => self.take_netmask(value, names)?,
            Tag::RealServer => {
                let server = values::endpoint(value, self.protocol, names)
                    .ok_or_else(|| Refusal::misuse("illegal real server address[:port] specified"))?;
                (self.server, self.server_port) = (Some(server), server.port.unwrap_or(self.port));
            }
            Tag::Gatewaying => self.method = Some(Method::Direct),
            Tag::Ipip => self.method = Some(Method::Tunnel),
            Tag::Masquerading => self.method = Some(Method::Masquerade),
            Tag::Weight => self.weight = Some(number(0, MAX, "weight")?),
            Tag::UpperThreshold => self.upper_threshold = Some(number(0, MAX, "u_threshold")?),
            Tag::LowerThreshold => self.lower_threshold = Some(number(0, MAX, "l_threshold")?),
            Tag::Interface => self.interface = cut(value, NAME_LENGTH),
            Tag::SyncId => self.sync_id = number(0, 255, "syncid")? as u8,
            Tag::Engine => self.engine = value,
            Tag::SchedulerFlags => self.flags = cut(value, FLAGS_LENGTH),
            Tag::Group => self.group = Some(group(value)?),
            Tag::GroupPort => self.group_port = Some(number(1, PORTS, "mcast-port")? as u16),
            Tag::GroupTtl => self.group_ttl = Some(number(1, 255, "mcast-ttl")? as u8),
            Tag::MaxLength => self.max_length = Some(number(1, 65507, "sync-maxlen")? as u16),
            Tag::TunnelType => {
                let known = ["ipip", "gue", "gre"].into_iter().find(|known| known.as_bytes() == value);
                self.tunnel = Some(known.ok_or_else(|| Refusal::misuse("illegal tunnel type specified"))?);
            }
            Tag::TunnelPort => self.tunnel_port = number(1, PORTS, "tunnel port")? as u16,
            Tag::TunnelNoChecksum => self.tunnel_checksum = TunnelChecksum::None,
            Tag::TunnelChecksum => self.tunnel_checksum = TunnelChecksum::Full,
            Tag::TunnelRemoteChecksum => self.tunnel_checksum = TunnelChecksum::Remote,
            Tag::Ops | Tag::Flag | Tag::Sort => {}
        }
        Ok(())
    }

    fn take_service(&mut self, protocol: Protocol, value: &[u8], names: &Names) -> Result<(), Refusal> {
        self.protocol = Some(protocol);
        let found = values::endpoint(value, self.protocol, names)
            .ok_or_else(|| Refusal::misuse("illegal virtual server address[:port] specified"))?;
        (self.address, self.family) = (Some(found.ip), Some(Family::of(found.ip)));
        self.port = found.port.unwrap_or(self.port);
        if found.ip.is_ipv6() {
            self.netmask = None;
        }
        Ok(())
    }

    /// What it is depends on the service so far.
    fn take_netmask(&mut self, value: &[u8], names: &Names) -> Result<(), Refusal> {
        self.netmask = Some(match self.family {
            Some(Family::V6) => {
                Netmask::V6(values::prefix(value).ok_or_else(|| Refusal::misuse("illegal ipv6 netmask specified"))?)
            }
            _ => Netmask::V4(values::ipv4(value, names).ok_or_else(illegal_netmask)?),
        });
        Ok(())
    }

    /// The scheduler's flags, whose names depend on the scheduler, wherever it stands on the line.
    fn scheduler_flags(&self) -> Result<ServiceFlags, Refusal> {
        let mut flags = ServiceFlags::empty();
        if self.flags.is_empty() {
            return Ok(flags);
        }
        let mut words = self.flags.split(|&octet| octet == b',').filter(|word| !word.is_empty()).peekable();
        let quote = |what: &str, word| Refusal::quoting(super::MISUSE, &format!("{what} scheduler flag `"), word, "'");
        if words.peek().is_none() {
            return Err(quote("invalid", self.flags));
        }
        let scheduler = String::from_utf8_lossy(self.scheduler);
        let bit_of = |scheduler: &str, word: &[u8]| {
            let bits = [ServiceFlags::SCHED1, ServiceFlags::SCHED2, ServiceFlags::SCHED3];
            scheduler_flags(scheduler).iter().zip(bits).find(|(name, _)| name.as_bytes() == word).map(|(_, bit)| bit)
        };
        for word in words {
            flags |= match (bit_of("", word).or_else(|| bit_of(&scheduler, word)), word) {
                (Some(bit), _) => bit,
                (None, _) if ["sh", "mh"].iter().any(|scheduler| bit_of(scheduler, word).is_some()) => {
                    return Err(quote("incompatible", word));
                }
                (None, _) => return Err(quote("invalid", word)),
            };
        }
        Ok(flags)
    }

    /// Whether these options go with the command and with each other.
    fn check_against(&self, verb: Verb) -> Result<(), Refusal> {
        let rule = verb.rule();
        let mut first = None;
        for name in self.names.or(rule.needs).iter() {
            if !self.has(name) {
                return Err(Refusal::misuse(format_args!(
                    "You need to supply the '{name}' option for the '{}' command",
                    rule.name
                )));
            } else if rule.either.has(name) {
                if let Some(first) = first.replace(name) {
                    return Err(Refusal::misuse(format_args!(
                        "The option '{name}' conflicts with the '{first}' option in the '{}' command",
                        rule.name
                    )));
                }
            } else if !rule.needs.or(rule.takes).has(name) {
                return Err(Refusal::misuse(format_args!("Illegal '{name}' option with the '{}' command", rule.name)));
            }
        }
        Ok(())
    }

    fn action(&self, verb: Verb, role: SyncRole, flags: ServiceFlags, timeouts: Timeouts) -> Result<Action, Refusal> {
        let id = self.id();
        // The rules have seen to it that a service is named where one is needed.
        let needed = || id.ok_or_else(|| Refusal::misuse("the service is missing"));
        Ok(match verb {
            Verb::AddService => Action::AddService(self.service(needed()?, flags)?),
            Verb::EditService => Action::EditService(self.service(needed()?, flags)?),
            Verb::DeleteService => Action::DeleteService(needed()?),
            Verb::Clear => Action::Clear,
            Verb::List => Action::List(self.listing(id)?),
            Verb::Zero => Action::Zero(id),
            Verb::AddServer => self.add_server(needed()?)?,
            Verb::EditServer => self.edit_server(needed()?)?,
            Verb::DeleteServer => Action::DeleteServer(needed()?, self.server()?),
            Verb::Restore => Action::Restore,
            Verb::Save => Action::Save,
            Verb::Set => Action::Set(timeouts),
            Verb::StartDaemon => Action::StartDaemon(self.daemon(role)),
            Verb::StopDaemon => Action::StopDaemon(role),
        })
    }

    fn id(&self) -> Option<ServiceId> {
        if self.mark != 0 {
            return ServiceId::fwmark(self.mark, self.family?).ok();
        }
        let address = SocketAddr::new(self.address?, self.port);
        Some(match self.protocol? {
            Protocol::Tcp => ServiceId::Tcp(address),
            Protocol::Udp => ServiceId::Udp(address),
            Protocol::Sctp => ServiceId::Sctp(address),
        })
    }

    fn service(&self, id: ServiceId, flags: ServiceFlags) -> Result<ServiceRequest, Refusal> {
        if self.mark == 0 && self.port == 0 && self.persistence.is_none() {
            return Err(Refusal::misuse("Zero port specified for non-persistent service"));
        }
        let one_packet = self.has(Name::Ops);
        if one_packet && matches!(id, ServiceId::Tcp(_) | ServiceId::Sctp(_)) {
            return Err(Refusal::misuse("One-Packet Scheduling is only for UDP virtual services"));
        }
        let persistence = self.persistence.map(|seconds| Persistence {
            timeout: Duration::from_secs(seconds.into()),
            netmask: self.netmask.unwrap_or(Netmask::full(id.family())),
        });
        if persistence.is_some_and(|p| p.netmask == Netmask::V4(Ipv4Addr::UNSPECIFIED)) {
            return Err(illegal_netmask());
        }
        let scheduler: &[u8] = if self.scheduler.is_empty() { DEFAULT_SCHEDULER.as_bytes() } else { self.scheduler };
        let scheduler = std::str::from_utf8(scheduler).ok().and_then(|name| Scheduler::new(name).ok());
        let engine = match self.engine.is_empty() {
            true => Some(None),
            false => String::from_utf8(self.engine.to_vec()).ok().map(Some),
        };
        let service = scheduler.zip(engine).map(|(scheduler, engine)| {
            let flags = if one_packet { flags | ServiceFlags::ONE_PACKET } else { flags };
            Service { id, scheduler, flags, persistence, engine }
        });
        Ok(ServiceRequest { id, service: service.filter(|service| service.check().is_ok()) })
    }

    fn server(&self) -> Result<SocketAddr, Refusal> {
        let server = self.server.ok_or_else(|| Refusal::misuse("the real server is missing"))?;
        Ok(SocketAddr::new(server.ip, self.server_port))
    }

    fn add_server(&self, id: ServiceId) -> Result<Action, Refusal> {
        let method = self.method.unwrap_or(Method::Direct);
        let server = self.server()?;
        self.check_server(&id, server, method)?;
        Ok(Action::AddServer(
            id,
            Destination::new(self.routed(&id, server, method))
                .forward(self.forward(method))
                .weight(self.weight.unwrap_or(1))
                .thresholds(self.lower_threshold.unwrap_or(0), self.upper_threshold.unwrap_or(0)),
        ))
    }

    fn edit_server(&self, id: ServiceId) -> Result<Action, Refusal> {
        let server = self.server()?;
        let method = self.method.unwrap_or(Method::Direct);
        // Without a method it shows only later, when the destination is looked at, whether it may
        // have the other family.
        if self.method.is_some() || self.has_tunnel_options() {
            self.check_server(&id, server, method)?;
        }
        let port = self.server.and_then(|server| server.port).or(id.address().map(|address| address.port()));
        Ok(Action::EditServer(
            id,
            ServerEdit {
                address: self.routed(&id, server, method),
                named: SocketAddr::new(server.ip(), port.unwrap_or(0)),
                forward: self.method.map(|method| self.forward(method)),
                weight: self.weight,
                upper_threshold: self.upper_threshold,
                lower_threshold: self.lower_threshold,
            },
        ))
    }

    /// Where packets really go: only NAT can change the port.
    fn routed(&self, id: &ServiceId, server: SocketAddr, method: Method) -> SocketAddr {
        match (id.address(), method) {
            (Some(service), Method::Direct | Method::Tunnel) => SocketAddr::new(server.ip(), service.port()),
            _ => server,
        }
    }

    fn forward(&self, method: Method) -> Forward {
        match (method, self.tunnel) {
            (Method::Direct, _) => Forward::Direct,
            (Method::Masquerade, _) => Forward::Masquerade,
            (Method::Tunnel, Some("gue")) => {
                Forward::Tunnel(Tunnel::Gue { port: self.tunnel_port, checksum: self.tunnel_checksum })
            }
            (Method::Tunnel, Some("gre")) => Forward::Tunnel(Tunnel::Gre { checksum: self.tunnel_checksum }),
            (Method::Tunnel, _) => Forward::Tunnel(Tunnel::Ipip),
        }
    }

    fn has_tunnel_options(&self) -> bool {
        TUNNEL_OPTIONS.into_iter().chain([Name::TunType]).any(|name| self.has(name))
    }

    fn check_server(&self, id: &ServiceId, server: SocketAddr, method: Method) -> Result<(), Refusal> {
        if Family::of(server.ip()) != id.family() && method != Method::Tunnel {
            return Err(mixed_families());
        }
        if self.has_tunnel_options() && method != Method::Tunnel {
            return Err(Refusal::misuse("Tunnel options conflict with forward method"));
        }
        let kind = self.tunnel.unwrap_or("ipip");
        let mut first = None;
        for (name, fit) in TUNNEL_OPTIONS.into_iter().zip(tunnel_rule(kind)) {
            let wrong = match (fit, self.has(name)) {
                (Fit::Needed, false) => format!("You need to supply the '{name}' option for the '{kind}' tunnel type"),
                (Fit::Illegal, true) => format!("Illegal '{name}' option with the '{kind}' tunnel type"),
                (Fit::Either, true) => match first.replace(name) {
                    Some(first) => {
                        format!("The option '{name}' conflicts with the '{first}' option in the '{kind}' tunnel type")
                    }
                    None => continue,
                },
                _ => continue,
            };
            return Err(Refusal::misuse(wrong));
        }
        Ok(())
    }

    fn listing(&self, id: Option<ServiceId>) -> Result<Listing, Refusal> {
        let numbers = [Name::Stats, Name::Rate, Name::Thresholds].into_iter().any(|name| self.has(name));
        let settings = self.has(Name::Timeout) || self.has(Name::Daemon);
        if (self.has(Name::Connection) || settings) && numbers || settings && self.has(Name::PersistentConn) {
            return Err(Refusal::misuse("options conflicts in the list command"));
        }
        let columns = [
            (Name::Stats, Columns::Stats),
            (Name::Rate, Columns::Rates),
            (Name::Thresholds, Columns::Thresholds),
            (Name::PersistentConn, Columns::Persistent),
            (Name::TunInfo, Columns::Tunnels),
        ];
        let what = [
            (Name::Connection, Listed::Connections),
            (Name::Timeout, Listed::Timeouts),
            (Name::Daemon, Listed::Daemons),
        ];
        let what = what.iter().find(|(name, _)| self.has(*name)).map(|(_, what)| *what);
        Ok(Listing {
            what: what.unwrap_or(id.map_or(Listed::Services, Listed::Service)),
            columns: columns.iter().find(|(name, _)| self.has(*name)).map_or(Columns::Plain, |(_, columns)| *columns),
            engines: self.has(Name::PersistentConn),
            numeric: self.has(Name::Numeric),
            exact: self.has(Name::Exact),
            sorted: !self.has(Name::Nosort),
        })
    }

    fn daemon(&self, role: SyncRole) -> SyncDaemon {
        let interface = if self.interface.is_empty() { DEFAULT_INTERFACE } else { self.interface };
        let mut daemon = SyncDaemon::new(role, &String::from_utf8_lossy(interface), self.sync_id);
        daemon.group = self.group;
        daemon.port = self.group_port;
        daemon.ttl = self.group_ttl;
        daemon.max_length = self.max_length;
        daemon
    }
}

fn group(value: &[u8]) -> Result<IpAddr, Refusal> {
    let (address, family): (Option<IpAddr>, _) = match value.contains(&b':') {
        true => (values::ipv6(value).map(IpAddr::V6), "IPv6"),
        false => (std::str::from_utf8(value).ok().and_then(|v| v.parse::<Ipv4Addr>().ok()).map(IpAddr::V4), "IPv4"),
    };
    address
        .filter(IpAddr::is_multicast)
        .ok_or_else(|| Refusal::quoting(super::MISUSE, &format!("invalid {family} mcast-group `"), value, "'"))
}

fn illegal_netmask() -> Refusal {
    Refusal::misuse("illegal virtual server persistent mask specified")
}

pub fn mixed_families() -> Refusal {
    Refusal::misuse("Different address family is allowed only for tunneling servers")
}

fn cut(text: &[u8], length: usize) -> &[u8] {
    &text[..text.len().min(length)]
}
