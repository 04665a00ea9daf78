//! The text form of a table: what `ipvsadm-save -n` writes.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::Range;
use std::str::FromStr;
use std::time::Duration;

use super::{
    Destination, Family, Forward, Netmask, Persistence, Scheduler, Service, ServiceFlags, ServiceId, SyncDaemon,
    SyncRole, Table, Timeouts, Tunnel, TunnelChecksum, table,
};
use crate::error::{Error, Result};

/// What `-p` without a number means, as in ipvsadm.
const DEFAULT_PERSISTENCE: u64 = 360;

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.timeouts.iter().try_for_each(|timeouts| writeln!(f, "{timeouts}"))?;
        for (role, daemon) in &self.daemons {
            match daemon {
                Some(daemon) => writeln!(f, "{}", DaemonLine(daemon))?,
                None => writeln!(f, "--stop-daemon {role}")?,
            }
        }
        let mut lines = Vec::new();
        for content in self.services() {
            lines.clear();
            push_service(&mut lines, content.service);
            lines.push(b'\n');
            for destination in content.destinations() {
                push_destination(&mut lines, &content.service.id, destination);
                lines.push(b'\n');
            }
            write_line(f, &lines)?;
        }
        Ok(())
    }
}

impl fmt::Display for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut line = Vec::new();
        push_service(&mut line, self);
        write_line(f, &line)
    }
}

/// Writes what was pushed, which is UTF-8.
pub(super) fn write_line(f: &mut fmt::Formatter<'_>, line: &[u8]) -> fmt::Result {
    f.write_str(std::str::from_utf8(line).map_err(|_| fmt::Error)?)
}

/// A number in decimal. Tables have so many that formatting them is most of the work.
fn push_number(line: &mut Vec<u8>, number: u64) {
    // u64::MAX has 20 digits.
    let (mut digits, mut first, mut rest) = ([b'0'; 20], 19, number);
    while rest >= 10 {
        digits[first] += (rest % 10) as u8;
        rest /= 10;
        first -= 1;
    }
    digits[first] += rest as u8;
    line.extend_from_slice(&digits[first..]);
}

fn push_all(line: &mut Vec<u8>, words: &[&str]) {
    words.iter().for_each(|word| line.extend_from_slice(word.as_bytes()));
}

/// An address as inet_ntop(3) writes it: other than in Rust, one whose first 96 bits are 0 ends as
/// IPv4 does, `[::1.2.3.4]:80`.
fn push_endpoint(line: &mut Vec<u8>, address: SocketAddr) {
    let push_ipv4 = |line: &mut Vec<u8>, ip: Ipv4Addr| {
        for (place, octet) in ip.octets().into_iter().enumerate() {
            push_all(line, &[if place == 0 { "" } else { "." }]);
            push_number(line, octet.into());
        }
    };
    match address.ip() {
        IpAddr::V4(ip) => push_ipv4(line, ip),
        IpAddr::V6(ip) if ip.to_bits() >> 32 == 0 && ip.to_bits() >> 16 != 0 => {
            line.extend_from_slice(b"[::");
            push_ipv4(line, Ipv4Addr::from_bits(ip.to_bits() as u32));
            line.push(b']');
        }
        IpAddr::V6(ip) => push_all(line, &["[", &ip.to_string(), "]"]),
    }
    line.push(b':');
    push_number(line, address.port().into());
}

/// `-t 192.168.0.254:80`
pub(super) fn push_id(line: &mut Vec<u8>, id: &ServiceId) {
    let (option, address) = match id {
        ServiceId::Tcp(address) => ("-t ", address),
        ServiceId::Udp(address) => ("-u ", address),
        ServiceId::Sctp(address) => ("--sctp-service ", address),
        ServiceId::Fwmark { mark, family } => {
            line.extend_from_slice(b"-f ");
            push_number(line, mark.get().into());
            push_all(line, &[if *family == Family::V6 { " -6" } else { "" }]);
            return;
        }
    };
    push_all(line, &[option]);
    push_endpoint(line, *address);
}

/// The line that adds a service.
pub(super) fn push_service(line: &mut Vec<u8>, service: &Service) {
    line.extend_from_slice(b"-A ");
    push_id(line, &service.id);
    push_all(line, &[" -s ", service.scheduler.name()]);
    if let Some(persistence) = &service.persistence {
        line.extend_from_slice(b" -p ");
        push_number(line, persistence.timeout.as_secs());
        if persistence.netmask != Netmask::full(service.id.family()) {
            let netmask = match persistence.netmask {
                Netmask::V4(mask) => mask.to_string(),
                Netmask::V6(prefix) => prefix.to_string(),
            };
            push_all(line, &[" -M ", &netmask]);
        }
    }
    if let Some(engine) = &service.engine {
        push_all(line, &[" --pe ", engine]);
    }
    if service.flags.contains(ServiceFlags::ONE_PACKET) {
        line.extend_from_slice(b" -o");
    }
    let names = scheduler_flags(&service.scheduler).iter().filter(|(_, bit)| service.flags.contains(*bit));
    for (place, (name, _)) in names.enumerate() {
        push_all(line, &[if place == 0 { " -b " } else { "," }, name]);
    }
}

/// The line that adds a destination, which names its service too.
pub(super) fn push_destination(line: &mut Vec<u8>, id: &ServiceId, destination: &Destination) {
    line.extend_from_slice(b"-a ");
    push_id(line, id);
    push_server(line, destination.address);
    match destination.forward {
        Forward::Direct => line.extend_from_slice(b" -g"),
        Forward::Masquerade => line.extend_from_slice(b" -m"),
        Forward::Tunnel(_) => line.extend_from_slice(b" -i"),
        // ipvsadm writes -g, and so makes another one of it.
        Forward::Local => line.extend_from_slice(b" --local"),
        // Not read again: a table that cannot be put back is to be refused.
        Forward::Other(method) => push_all(line, &[" --method ", &method.to_string()]),
    }
    let mut push_option = |option: &str, number: u32| {
        push_all(line, &[option]);
        push_number(line, number.into());
    };
    push_option(" -w ", destination.weight);
    // ipvsadm-restore reads these, although ipvsadm-save does not write them.
    if destination.upper_threshold != 0 {
        push_option(" -x ", destination.upper_threshold);
    }
    if destination.lower_threshold != 0 {
        push_option(" -y ", destination.lower_threshold);
    }
    if let Forward::Tunnel(tunnel) = destination.forward {
        push_tunnel(line, tunnel);
    }
}

/// ` -r 192.168.0.12:80`
pub(super) fn push_server(line: &mut Vec<u8>, address: SocketAddr) {
    line.extend_from_slice(b" -r ");
    push_endpoint(line, address);
}

fn push_tunnel(line: &mut Vec<u8>, tunnel: Tunnel) {
    let checksum = |checksum| match checksum {
        TunnelChecksum::None => " --tun-nocsum",
        TunnelChecksum::Full => " --tun-csum",
        TunnelChecksum::Remote => " --tun-remcsum",
    };
    line.extend_from_slice(b" --tun-type ");
    match tunnel {
        Tunnel::Ipip => line.extend_from_slice(b"ipip"),
        Tunnel::Gue { port, checksum: c } => push_all(line, &["gue --tun-port ", &port.to_string(), checksum(c)]),
        Tunnel::Gre { checksum: c } => push_all(line, &["gre", checksum(c)]),
        Tunnel::Other(kind) => push_all(line, &[&kind.to_string()]),
    }
}

/// `--set TCP TCP_FIN UDP`
impl fmt::Display for Timeouts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "--set {} {} {}", self.tcp.as_secs(), self.tcp_fin.as_secs(), self.udp.as_secs())
    }
}

/// The command that starts a daemon.
pub(super) struct DaemonLine<'a>(pub(super) &'a SyncDaemon);

impl fmt::Display for DaemonLine<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let SyncDaemon { role, interface, sync_id, max_length, group, port, ttl } = self.0;
        write!(f, "--start-daemon {role} --mcast-interface {interface} --syncid {sync_id}")?;
        max_length.map_or(Ok(()), |length| write!(f, " --sync-maxlen {length}"))?;
        group.map_or(Ok(()), |group| write!(f, " --mcast-group {group}"))?;
        port.map_or(Ok(()), |port| write!(f, " --mcast-port {port}"))?;
        ttl.map_or(Ok(()), |ttl| write!(f, " --mcast-ttl {ttl}"))
    }
}

/// The names that a scheduler's flags go by.
fn scheduler_flags(scheduler: &Scheduler) -> &'static [(&'static str, ServiceFlags)] {
    match scheduler.name() {
        "sh" => &[
            ("sh-fallback", ServiceFlags::SCHED1),
            ("sh-port", ServiceFlags::SCHED2),
            ("flag-3", ServiceFlags::SCHED3),
        ],
        "mh" => &[
            ("mh-fallback", ServiceFlags::SCHED1),
            ("mh-port", ServiceFlags::SCHED2),
            ("flag-3", ServiceFlags::SCHED3),
        ],
        _ => &[("flag-1", ServiceFlags::SCHED1), ("flag-2", ServiceFlags::SCHED2), ("flag-3", ServiceFlags::SCHED3)],
    }
}

impl ServiceFlags {
    /// A scheduler's flag by its name as in `-b` of ipvsadm(8): `mh-port`, `sh-fallback`,
    /// `flag-3`.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a name that this scheduler does not have.
    pub fn scheduler_flag(scheduler: &Scheduler, name: &str) -> Result<Self> {
        let general =
            [("flag-1", ServiceFlags::SCHED1), ("flag-2", ServiceFlags::SCHED2), ("flag-3", ServiceFlags::SCHED3)];
        let found = scheduler_flags(scheduler).iter().chain(&general).find(|(known, _)| *known == name);
        found.map(|(_, flag)| *flag).ok_or_else(|| {
            let known: Vec<&str> = scheduler_flags(scheduler).iter().map(|(name, _)| *name).collect();
            Error::invalid(
                format!("flag {name:?} of scheduler {scheduler}"),
                format!("{} were expected", known.join(", ")),
            )
        })
    }
}

impl FromStr for Table {
    type Err = Error;

    /// Reads the lines of `ipvsadm-save -n`, and the same as `ipvsadm -R` takes them from people:
    /// `-At 10.0.0.1:80`, `--persistent=600`, `-t10.0.0.1:80`. A word that begins with `#` begins a
    /// comment. `-C` before the first service, with which a file for `ipvsadm -R` may begin, says
    /// nothing here.
    ///
    /// # Errors
    /// [`Error::Parse`] with the line. Nothing is taken from a text that is wrong anywhere: a file
    /// that was cut short in the middle of a line is refused.
    fn from_str(text: &str) -> Result<Self> {
        let (mut table, mut services) = (Table::new(), Builder::default());
        let (mut known, mut last) = (None, None);
        let (mut words, mut number) = (Words::of(text), 0);
        loop {
            number += 1;
            let wrong = |reason: String| Error::parse(number, reason);
            let line = match words.alike(last.as_ref()) {
                Some((id, destination)) => Ok(Line::Destination(id, destination)),
                None => read_line(&mut words, &mut known, &mut last),
            };
            match line.map_err(wrong)? {
                Line::Nothing => {}
                Line::Clear if services.services.is_empty() => {}
                Line::Clear => return Err(wrong("-C is found behind the services that it would remove".into())),
                Line::Service(service) => {
                    service.check().map_err(|e| wrong(e.to_string()))?;
                    services.add(service, number);
                }
                Line::Timeouts(timeouts) => {
                    timeouts.check().map_err(|e| wrong(e.to_string()))?;
                    if table.timeouts.replace(timeouts).is_some() {
                        return Err(wrong("--set is found for the second time".into()));
                    }
                }
                Line::Daemon(role, daemon) => {
                    daemon.iter().try_for_each(SyncDaemon::check).map_err(|e| wrong(e.to_string()))?;
                    if table.daemons.insert(role, daemon).is_some() {
                        return Err(wrong(format!("the sync daemon {role} is found for the second time")));
                    }
                }
                Line::Destination(id, destination) => {
                    destination.check(&id).map_err(|e| wrong(e.to_string()))?;
                    let address = destination.address;
                    match services.add_destination(&id, destination) {
                        Some(true) => {}
                        Some(false) => return Err(wrong(format!("{address} is added to {id} for the second time"))),
                        None => return Err(wrong(format!("{id} must be added, with -A, before its destinations"))),
                    }
                }
            }
            if !words.next_line() {
                break;
            }
        }
        if let Some((number, id)) = services.repeated() {
            return Err(Error::parse(number, format!("{id} is added for the second time")));
        }
        table.set_services(services.services);
        Ok(table)
    }
}

/// Services in the order of the lines. A destination's line mostly follows its service's.
#[derive(Default)]
struct Builder {
    services: Vec<(Service, Vec<Destination>)>,
    /// The line of each.
    lines: Vec<usize>,
    /// Where each is: made for the first destination that does not follow its service.
    places: Option<BTreeMap<ServiceId, usize>>,
    last: usize,
}

impl Builder {
    fn add(&mut self, service: Service, line: usize) {
        self.last = self.services.len();
        if let Some(places) = &mut self.places {
            places.insert(service.id, self.last);
        }
        self.services.push((service, Vec::new()));
        self.lines.push(line);
    }

    /// Says whether it is new. `None`: there is no such service.
    fn add_destination(&mut self, id: &ServiceId, destination: Destination) -> Option<bool> {
        if self.services.get(self.last).is_none_or(|(service, _)| service.id != *id) {
            let ids = self.services.iter().map(|(service, _)| service.id);
            let places = self.places.get_or_insert_with(|| ids.zip(0..).collect());
            self.last = *places.get(id)?;
        }
        let (_, destinations) = self.services.get_mut(self.last)?;
        let place = table::find(destinations, destination.address).err();
        place.map(|place| destinations.insert(place, destination)).is_some().into()
    }

    /// The first line that adds a service again.
    fn repeated(&self) -> Option<(usize, ServiceId)> {
        let id = |place: &usize| self.services[*place].0.id;
        if self.services.is_sorted_by(|(one, _), (other, _)| one.id < other.id) {
            return None;
        }
        let mut order: Vec<usize> = (0..self.services.len()).collect();
        // Of equals the first one stays first.
        order.sort_by_key(id);
        let repeated = order.windows(2).filter(|pair| id(&pair[0]) == id(&pair[1])).map(|pair| pair[1]).min()?;
        Some((self.lines[repeated], id(&repeated)))
    }
}

enum Line {
    Nothing,
    Clear,
    Service(Service),
    Destination(ServiceId, Destination),
    Timeouts(Timeouts),
    Daemon(SyncRole, Option<SyncDaemon>),
}

type Reason = String;

/// The address of the last service that was named, as it was written: most lines name the same.
type Known<'a> = Option<(&'a str, SocketAddr)>;

/// The last line of a destination, around its address: most lines differ from the one before in
/// their address alone.
struct Around<'a> {
    before: &'a str,
    behind: &'a str,
    service: ServiceId,
    destination: Destination,
}

/// Reads one line: the command, then options in any order.
fn read_line<'a>(words: &mut Words<'a>, known: &mut Known<'a>, last: &mut Option<Around<'a>>) -> Result<Line, Reason> {
    let start = words.at;
    let mut command = words.option()?;
    if command.is_none() {
        return Ok(Line::Nothing);
    }
    if command == Some("ipvsadm") {
        command = words.option()?;
    }
    match command {
        Some("-A" | "--add-service") => read_service(words, known).map(Line::Service),
        Some("-a" | "--add-server") => {
            let (service, destination, address) = read_destination(words, known)?;
            let (before, behind) = (&words.text[start..address.start], &words.text[address.end..words.at]);
            *last = Some(Around { before, behind, service, destination: destination.clone() });
            Ok(Line::Destination(service, destination))
        }
        Some("-C" | "--clear") => words.end("-C").map(|()| Line::Clear),
        Some("--set") => read_timeouts(words).map(Line::Timeouts),
        Some("--start-daemon") => read_daemon(words).map(|daemon| Line::Daemon(daemon.role, Some(daemon))),
        Some("--stop-daemon") => {
            let role = words.sync_role("--stop-daemon")?;
            words.end("--stop-daemon").map(|()| Line::Daemon(role, None))
        }
        other => Err(format!("{:?} was found where -A or -a was expected", other.unwrap_or(""))),
    }
}

/// The words of a line, taken apart as popt(3) does: several options of a letter may be one word,
/// and a value may be joined to its option.
struct Words<'a> {
    text: &'a str,
    /// Where the next word is looked for: at the end of a line, it stays there.
    at: usize,
    /// What is left of a word with several options.
    letters: &'a str,
    /// A value that was joined to the last option.
    attached: Option<&'a str>,
}

/// The options of a letter, and whether they take a value.
const LETTERS: [(&str, bool); 20] = [
    ("-A", false),
    ("-a", false),
    ("-C", false),
    ("-t", true),
    ("-u", true),
    ("-f", true),
    ("-6", false),
    ("-s", true),
    ("-p", true),
    ("-M", true),
    ("-o", false),
    ("-b", true),
    ("-r", true),
    ("-g", false),
    ("-i", false),
    ("-m", false),
    ("-w", true),
    ("-x", true),
    ("-y", true),
    ("-n", false),
];

impl<'a> Words<'a> {
    /// The words of the first line.
    fn of(text: &'a str) -> Self {
        Words { text, at: 0, letters: "", attached: None }
    }

    /// Goes to the next line. `false`: there is none.
    fn next_line(&mut self) -> bool {
        let rest = &self.text.as_bytes()[self.at..];
        let length = rest.iter().position(|octet| *octet == b'\n').map_or(rest.len(), |end| end + 1);
        *self = Words { at: self.at + length, ..Words::of(self.text) };
        self.at < self.text.len()
    }

    /// Takes a line that differs from this one in its address alone, and says what it adds.
    fn alike(&mut self, last: Option<&Around<'_>>) -> Option<(ServiceId, Destination)> {
        let Around { before, behind, service, destination } = last?;
        let rest = self.text[self.at..].strip_prefix(before)?;
        let length = rest.bytes().position(|octet| octet.is_ascii_whitespace()).unwrap_or(rest.len());
        let address = endpoint(&rest[..length])?;
        let end = rest[length..].strip_prefix(behind)?;
        if !end.is_empty() && !end.starts_with('\n') {
            return None;
        }
        self.at = self.text.len() - end.len();
        Some((*service, Destination { address, ..*destination }))
    }

    /// The next word of the line, up to a comment.
    #[inline]
    fn next(&mut self) -> Option<&'a str> {
        let (word, end) = self.peek()?;
        self.at = end;
        Some(word)
    }

    /// The same, and where it ends.
    #[inline]
    fn peek(&self) -> Option<(&'a str, usize)> {
        let octets = self.text.as_bytes();
        let mut start = self.at;
        while octets.get(start).is_some_and(|octet| octet.is_ascii_whitespace() && *octet != b'\n') {
            start += 1;
        }
        let mut end = start;
        while octets.get(end).is_some_and(|octet| !octet.is_ascii_whitespace()) {
            end += 1;
        }
        let word = self.text.get(start..end).filter(|word| !word.is_empty() && !word.starts_with('#'))?;
        Some((word, end))
    }

    /// The next option, by its name.
    #[inline]
    fn option(&mut self) -> Result<Option<&'a str>, Reason> {
        if self.attached.is_none() && self.letters.is_empty() {
            return match self.next() {
                // The usual form.
                Some(word) if word.len() == 2 => Ok(Some(word)),
                Some(word) => self.joined(word),
                None => Ok(None),
            };
        }
        match self.attached {
            Some(value) => Err(format!("{value:?} is joined to an option that takes no value")),
            None => Ok(Some(self.letter())),
        }
    }

    /// An option that a word of this form begins with.
    fn joined(&mut self, word: &'a str) -> Result<Option<&'a str>, Reason> {
        match word.strip_prefix('-') {
            Some("") => Ok(Some(word)),
            Some(long) if long.starts_with('-') => Ok(Some(match word.split_once('=') {
                Some((option, value)) => {
                    self.attached = Some(value);
                    option
                }
                None => word,
            })),
            Some(letters) => {
                self.letters = letters;
                Ok(Some(self.letter()))
            }
            None => Ok(Some(word)),
        }
    }

    /// The option of the first letter that is left. What is behind one with a value is the value.
    fn letter(&mut self) -> &'a str {
        let letters = std::mem::take(&mut self.letters);
        let (letter, rest) = letters.split_at(letters.chars().next().map_or(0, char::len_utf8));
        match LETTERS.iter().find(|(option, _)| option.strip_prefix('-') == Some(letter)) {
            Some((option, true)) => {
                self.attached = (!rest.is_empty()).then(|| rest.strip_prefix('=').unwrap_or(rest));
                option
            }
            Some((option, false)) => {
                self.letters = rest;
                option
            }
            None => letters,
        }
    }

    /// That nothing follows.
    fn end(&mut self, option: &str) -> Result<(), Reason> {
        match self.option()? {
            None => Ok(()),
            Some(word) => Err(format!("{word:?} was found behind {option}")),
        }
    }

    /// The next word where it is not an option.
    fn next_value(&mut self) -> Option<&'a str> {
        if let Some(value) = self.attached.take() {
            return Some(value);
        }
        let (word, end) = self.peek().filter(|(word, _)| !word.starts_with('-'))?;
        self.at = end;
        Some(word)
    }

    fn value(&mut self, option: &str) -> Result<&'a str, Reason> {
        self.attached.take().or_else(|| self.next()).ok_or_else(|| format!("{option} ends the line, but needs a value"))
    }

    fn number<T: FromStr>(&mut self, option: &str) -> Result<T, Reason> {
        let word = self.value(option)?;
        word.parse().map_err(|_| {
            let limit = 8 * size_of::<T>() as u32;
            format!("{option} has {word:?} where a number from 0 to {} was expected", u64::MAX >> (64 - limit))
        })
    }

    fn sync_role(&mut self, option: &str) -> Result<SyncRole, Reason> {
        match self.value(option).unwrap_or("") {
            "master" => Ok(SyncRole::Master),
            "backup" => Ok(SyncRole::Backup),
            other => Err(format!("{other:?} was found where master or backup was expected")),
        }
    }
}

fn read_timeouts(words: &mut Words<'_>) -> Result<Timeouts, Reason> {
    let mut seconds = || words.number::<u32>("--set").map(|secs| Duration::from_secs(secs.into()));
    let timeouts = Timeouts { tcp: seconds()?, tcp_fin: seconds()?, udp: seconds()? };
    words.end("the three numbers of --set").map(|()| timeouts)
}

fn read_daemon(words: &mut Words<'_>) -> Result<SyncDaemon, Reason> {
    let mut daemon = SyncDaemon::new(words.sync_role("--start-daemon")?, "", 0);
    while let Some(option) = words.option()? {
        match option {
            "--mcast-interface" => daemon.interface = words.value(option)?.to_owned(),
            "--syncid" => daemon.sync_id = words.number(option)?,
            "--sync-maxlen" => daemon.max_length = Some(words.number(option)?),
            "--mcast-group" => {
                let group = words.value(option)?;
                daemon.group = Some(
                    group.parse().map_err(|_| format!("--mcast-group has {group:?} where an address was expected"))?,
                );
            }
            "--mcast-port" => daemon.port = Some(words.number(option)?),
            "--mcast-ttl" => daemon.ttl = Some(words.number(option)?),
            _ => return Err(format!("{option:?} is not an option of --start-daemon")),
        }
    }
    Ok(daemon)
}

/// The options that name a service; a mark's family comes in an option of its own.
struct IdOptions<'a, 'b> {
    known: &'b mut Known<'a>,
    id: Option<ServiceId>,
    ipv6: bool,
}

impl<'a, 'b> IdOptions<'a, 'b> {
    fn new(known: &'b mut Known<'a>) -> Self {
        IdOptions { known, id: None, ipv6: false }
    }

    fn address(&mut self, text: &'a str) -> Result<SocketAddr, Reason> {
        if let Some((_, address)) = self.known.filter(|(known, _)| *known == text) {
            return Ok(address);
        }
        let address = address(text)?;
        *self.known = Some((text, address));
        Ok(address)
    }

    /// Whether this option was one of them.
    fn take(&mut self, option: &str, words: &mut Words<'a>) -> Result<bool, Reason> {
        let id = match option {
            "-t" | "--tcp-service" => ServiceId::Tcp(self.address(words.value(option)?)?),
            "-u" | "--udp-service" => ServiceId::Udp(self.address(words.value(option)?)?),
            "--sctp-service" => ServiceId::Sctp(self.address(words.value(option)?)?),
            "-f" | "--fwmark-service" => {
                ServiceId::fwmark(words.number(option)?, Family::V4).map_err(|e| e.to_string())?
            }
            "-6" | "--ipv6" => {
                self.ipv6 = true;
                return Ok(true);
            }
            _ => return Ok(false),
        };
        match self.id.replace(id) {
            None => Ok(true),
            Some(first) => Err(format!("{first} and {id} are both named")),
        }
    }

    fn finish(self) -> Result<ServiceId, Reason> {
        match self.id {
            Some(ServiceId::Fwmark { mark, .. }) if self.ipv6 => Ok(ServiceId::Fwmark { mark, family: Family::V6 }),
            Some(_) if self.ipv6 => Err("-6 goes with -f only".into()),
            Some(id) => Ok(id),
            None => Err("the service is missing: -t, -u, --sctp-service or -f was expected".into()),
        }
    }
}

fn read_service<'a>(words: &mut Words<'a>, known: &mut Known<'a>) -> Result<Service, Reason> {
    let mut id = IdOptions::new(known);
    let (mut scheduler, mut flags, mut one_packet) = (None, "", false);
    let (mut timeout, mut netmask, mut engine) = (None, None, None);
    while let Some(option) = words.option()? {
        match option {
            "-s" | "--scheduler" => scheduler = Some(Scheduler::new(words.value(option)?).map_err(|e| e.to_string())?),
            "-p" | "--persistent" => {
                let secs = words.next_value().map_or(Ok(DEFAULT_PERSISTENCE), |w| {
                    w.parse().map_err(|_| format!("-p has {w:?} where seconds were expected"))
                })?;
                timeout = Some(Duration::from_secs(secs));
            }
            "-M" | "--netmask" => netmask = Some(words.value(option)?),
            "--pe" => engine = Some(words.value(option)?.to_owned()),
            "-o" | "--ops" => one_packet = true,
            "-b" | "--sched-flags" => flags = words.value(option)?,
            _ if id.take(option, words)? => {}
            _ => return Err(format!("{option:?} is not an option of -A")),
        }
    }
    let id = id.finish()?;
    // ipvsadm's default
    let mut service = Service::new(id, scheduler.unwrap_or(Scheduler::WLC));
    for name in flags.split(',').filter(|name| !name.is_empty()) {
        service.flags |= ServiceFlags::scheduler_flag(&service.scheduler, name).map_err(|e| e.to_string())?;
    }
    service.flags.set(ServiceFlags::ONE_PACKET, one_packet);
    service.engine = engine;
    match timeout {
        Some(timeout) => {
            let mut persistence = Persistence::new(timeout, id.family());
            if let Some(mask) = netmask {
                persistence.netmask = read_netmask(mask, id.family())?;
            }
            service.persistence = Some(persistence);
        }
        None if netmask.is_some() => return Err("-M goes with -p only".into()),
        None => {}
    }
    Ok(service)
}

fn read_netmask(text: &str, family: Family) -> Result<Netmask, Reason> {
    let read = match family {
        Family::V4 => text.parse::<Ipv4Addr>().ok().map(Netmask::V4),
        Family::V6 => text.parse().ok().map(Netmask::V6),
    };
    read.ok_or_else(|| {
        format!("-M has {text:?} where a mask such as 255.255.255.0, or for IPv6 a prefix such as 64, was expected")
    })
}

/// The service, the destination, and where in the text its address is.
fn read_destination<'a>(
    words: &mut Words<'a>,
    known: &mut Known<'a>,
) -> Result<(ServiceId, Destination, Range<usize>), Reason> {
    let mut id = IdOptions::new(known);
    let (mut server, mut method, mut weight, mut upper, mut lower) = (None, None, 1, 0, 0);
    let (mut kind, mut port, mut checksum) = (None, None, TunnelChecksum::None);
    while let Some(option) = words.option()? {
        match option {
            "-r" | "--real-server" => {
                let value = words.value(option)?;
                // A value ends its word, also where it is joined to the option.
                server = Some((value, words.at - value.len()..words.at));
            }
            "-g" | "--gatewaying" => method = Some(Forward::Direct),
            "-m" | "--masquerading" => method = Some(Forward::Masquerade),
            "--local" => method = Some(Forward::Local),
            "-i" | "--ipip" => method = Some(Forward::Tunnel(Tunnel::Ipip)),
            "-w" | "--weight" => weight = words.number(option)?,
            "-x" | "--u-threshold" => upper = words.number(option)?,
            "-y" | "--l-threshold" => lower = words.number(option)?,
            "--tun-type" => kind = Some(words.value(option)?),
            "--tun-port" => port = Some(words.number(option)?),
            "--tun-nocsum" => checksum = TunnelChecksum::None,
            "--tun-csum" => checksum = TunnelChecksum::Full,
            "--tun-remcsum" => checksum = TunnelChecksum::Remote,
            _ if id.take(option, words)? => {}
            _ => return Err(format!("{option:?} is not an option of -a")),
        }
    }
    let id = id.finish()?;
    let (server, place) = server.ok_or("the destination is missing: -r was expected")?;
    let tunnel = match kind {
        None | Some("ipip") => Tunnel::Ipip,
        Some("gue") => Tunnel::Gue { port: port.ok_or("--tun-type gue needs --tun-port")?, checksum },
        Some("gre") => Tunnel::Gre { checksum },
        Some(other) => return Err(format!("--tun-type has {other:?} where ipip, gue or gre was expected")),
    };
    let forward = match method.unwrap_or_default() {
        Forward::Tunnel(_) => Forward::Tunnel(tunnel),
        _ if kind.is_some() => return Err("--tun-type goes with -i only".into()),
        other => other,
    };
    // Without a port it is the service's; a mark's is 0.
    let default_port = id.address().map_or(0, |address| address.port());
    let address = match endpoint(server) {
        Some(address) => address,
        None => match server.parse::<IpAddr>().ok().or_else(|| bracketed(server)) {
            Some(ip) => SocketAddr::new(ip, default_port),
            None => address(server)?,
        },
    };
    let destination = Destination { address, forward, weight, upper_threshold: upper, lower_threshold: lower };
    Ok((id, destination, place))
}

fn bracketed(text: &str) -> Option<IpAddr> {
    text.strip_prefix('[')?.strip_suffix(']')?.parse::<Ipv6Addr>().ok().map(IpAddr::V6)
}

/// An address with its port. Tables have so many that reading them by the standard library is a
/// quarter of the work: what looks like IPv4 is read here.
fn endpoint(text: &str) -> Option<SocketAddr> {
    ipv4_endpoint(text.as_bytes()).or_else(|| text.parse().ok())
}

/// Reads `192.168.0.254:80`: numbers without a leading zero. `None`: it is something else.
fn ipv4_endpoint(text: &[u8]) -> Option<SocketAddr> {
    let (mut octets, mut place, mut number, mut digits) = ([0; 4], 0, 0_u32, 0);
    for &letter in text {
        let ends = if place < 3 { b'.' } else { b':' };
        match letter {
            b'0'..=b'9' if digits == 0 || (number != 0 && digits < 5) => {
                number = 10 * number + u32::from(letter - b'0');
                digits += 1;
            }
            _ if letter == ends && place < 4 && digits > 0 => {
                octets[place] = u8::try_from(number).ok()?;
                (place, number, digits) = (place + 1, 0, 0);
            }
            _ => return None,
        }
    }
    let port = u16::try_from(number).ok().filter(|_| place == 4 && digits > 0)?;
    Some(SocketAddr::new(IpAddr::from(octets), port))
}

fn address(text: &str) -> Result<SocketAddr, Reason> {
    endpoint(text).ok_or_else(|| {
        format!("{text:?} was found where ADDRESS:PORT in numbers was expected (IPv6 in brackets); names are not looked up: save with `ipvsadm -Sn`")
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[track_caller]
    fn same(text: &str) {
        assert_eq!(text.parse::<Table>().unwrap().to_string(), text);
    }

    #[test]
    fn addresses_are_read_as_by_the_standard_library() {
        let texts = "1.2.3.4:80 0.0.0.0:0 255.255.255.255:65535 192.168.0.254:8080 1.2.3.4:65536 256.2.3.4:80 1.2.3.4:080 \
            01.2.3.4:80 00.2.3.4:80 1.2.3:80 1.2.3.4.5:80 1.2.3.4: 1.2.3.4 :80 1..3.4:80 .1.2.3:80 1.2.3.4:80: 1.2.3.4:80.1 \
            1:2.3.4:80 +1.2.3.4:80 1.2.3.4:99999 1.2.3.4:000080 99999.2.3.4:1 [::1]:80 ::1 1.2.3.4:8\u{660}";
        for text in texts.split(' ') {
            let known = text.parse::<SocketAddr>().ok();
            assert_eq!(endpoint(text), known, "{text}");
            assert!(ipv4_endpoint(text.as_bytes()).is_none_or(|found| Some(found) == known), "{text}");
        }
        assert!(ipv4_endpoint(b"192.168.0.254:8080").is_some());
    }

    /// What a line says does not depend on the line before it.
    #[test]
    fn each_line_is_read_for_itself() {
        const SERVICES: &str = "-A -t 192.0.2.1:80 -s wrr\n-A -t 192.0.2.1:8 -s wrr\n";
        let forms = |last: u8| {
            let host = format!("10.0.0.{last}");
            [
                format!("-a -t 192.0.2.1:80 -r {host}:80 -g -w 1"),
                format!("-a -t 192.0.2.1:80 -r {host}:80 -g -w 10"),
                format!("-a -t 192.0.2.1:80 -r {host}:80 -g -w 1 "),
                format!("-a -t 192.0.2.1:80 -r {host}:80 -g -w 1 # ten"),
                format!("-a -t 192.0.2.1:80 -r {host}:80 -g -w 1#"),
                format!("-a -t 192.0.2.1:80 -r {host}:80 -g -w"),
                format!("-a -t 192.0.2.1:80 -r {host}:80"),
                format!("-a -t 192.0.2.1:80 -r {host}:80 -i -w 1"),
                format!("-a -t 192.0.2.1:8 -r {host}:80 -g -w 1"),
                format!("-a -t 192.0.2.1:80 -r {host} -g -w 1"),
                format!("-a -t 192.0.2.1:80 -r{host}:80 -g -w 1"),
                format!("-at192.0.2.1:80 -r{host}:80 -g -w1"),
                format!("-a -t 192.0.2.1:80 -r [2001:db8::{last}]:80 -g -w 1"),
                format!("-a -t 192.0.2.1:80 -r [2001:db8::{last}]:80 -i -w 1"),
                format!("-a -g -w 1 -t 192.0.2.1:80 -r {host}:80"),
                format!("-a -t 192.0.2.1:80 -r #{host}:80 -g -w 1"),
                "-a -t 192.0.2.1:80 -r  -g -w 1".to_owned(),
                String::new(),
            ]
        };
        let added = |lines: &[&str]| {
            let table: Table = format!("{SERVICES}{}", lines.join("\n")).parse().map_err(|e: Error| e.to_string())?;
            let text = table.to_string();
            let of = |line: &&str| line.starts_with("-a ");
            Ok::<_, String>(text.lines().filter(of).map(str::to_owned).collect::<BTreeSet<_>>())
        };
        for first in forms(1) {
            for second in forms(2) {
                let alone = added(&[&first]).and_then(|before| {
                    let behind = added(&[&second]).map_err(|reason| reason.replace("line 3", "line 4"))?;
                    Ok(&before | &behind)
                });
                assert_eq!(added(&[&first, &second]), alone, "{first}\n{second}");
            }
        }
    }

    #[test]
    fn what_ipvsadm_saves_is_printed_as_it_was() {
        same("-A -t 192.168.0.254:80 -s wrr\n-a -t 192.168.0.254:80 -r 192.168.0.11:80 -g -w 1\n");
        same(
            "-A -f 1 -s rr -p 300\n-a -f 1 -r 10.0.0.1:0 -m -w 0\n-A -f 2 -6 -s mh -p 10 -M 64 -b mh-fallback,mh-port\n",
        );
        same("-A -u 10.0.0.1:5060 -s sh -p 60 -M 255.255.255.0 --pe sip -o -b sh-port\n");
        same(
            "-A --sctp-service [2001:db8::1]:9 -s wlc\n-a --sctp-service [2001:db8::1]:9 -r [2001:db8::2]:9 -i -w 5 --tun-type ipip\n",
        );
        same(
            "-A -t 1.2.3.4:80 -s rr\n-a -t 1.2.3.4:80 -r 10.0.0.1:80 -i -w 1 --tun-type gue --tun-port 6080 --tun-csum\n",
        );
        same("-A -t [::1]:80 -s rr\n-A -t [::1.2.3.4]:80 -s rr\n-a -t [::1.2.3.4]:80 -r [::1.2.3.5]:80 -g -w 1\n");
        same(
            "-A -t 1.2.3.4:80 -s rr -b flag-1,flag-3\n-a -t 1.2.3.4:80 -r 10.0.0.1:80 -i -w 1 --tun-type gre --tun-nocsum\n",
        );
    }

    #[test]
    fn what_ipvsadm_does_not_save_is_printed_too() {
        same(
            "-A -t 1.2.3.4:80 -s rr\n-a -t 1.2.3.4:80 -r 10.0.0.1:80 -g -w 1 -x 10 -y 5\n-a -t 1.2.3.4:80 -r 10.0.0.2:80 --local -w 1\n",
        );
        same(
            "--set 900 120 300\n--start-daemon master --mcast-interface eth0 --syncid 7 --sync-maxlen 1200 --mcast-group 224.0.1.7 --mcast-port 9 --mcast-ttl 3\n--stop-daemon backup\n",
        );
    }

    #[test]
    fn what_ipvsadm_takes_is_taken() {
        let table: Table =
            "# a comment\n\nipvsadm --add-service --tcp-service 1.2.3.4:80 -p\n-a -r 10.0.0.1 -t 1.2.3.4:80\n"
                .parse()
                .unwrap();
        assert_eq!(table.to_string(), "-A -t 1.2.3.4:80 -s wlc -p 360\n-a -t 1.2.3.4:80 -r 10.0.0.1:80 -g -w 1\n");
    }

    #[test]
    fn options_are_joined_as_popt_takes_them() {
        let plain = "-A -t 1.2.3.4:80 -s rr -p 600\n-a -t 1.2.3.4:80 -r 10.0.0.1:80 -g -w 3\n";
        for joined in [
            "-At 1.2.3.4:80 -s rr --persistent=600 # a comment\n-agt 1.2.3.4:80 -r10.0.0.1:80 -w=3 #-w 4\n",
            "-C\n-At1.2.3.4:80 -srr -p600\n-a --tcp-service=1.2.3.4:80 -r 10.0.0.1 -gw3\n",
            "ipvsadm --clear # all\n-At=1.2.3.4:80 --scheduler=rr -p=600\n-ar 10.0.0.1:80 -t 1.2.3.4:80 -w3#\n"
                .trim_end_matches("#\n"),
        ] {
            assert_eq!(joined.parse::<Table>().unwrap().to_string(), plain, "{joined}");
        }
        let daemon = "--start-daemon=master --mcast-interface=eth0 --syncid=7 # comment";
        assert_eq!(
            daemon.parse::<Table>().unwrap().to_string(),
            "--start-daemon master --mcast-interface eth0 --syncid 7\n"
        );
        // A persistence without a number, before a comment.
        assert!("-A -f 1 -p # 300".parse::<Table>().unwrap().to_string().ends_with("-p 360\n"));
    }

    #[test]
    fn a_wrong_line_is_named() {
        let service = "-A -t 1.2.3.4:80 -s rr\n";
        for (wrong, words) in [
            ("-a -t 1.2.3.5:80 -r 10.0.0.1:80\n", "must be added"),
            ("-A -t 1.2.3.4:80 -s wrr\n", "second time"),
            ("-a -t 1.2.3.4:80 -r 10.0.0.1:80 -w\n", "needs a value"),
            ("-a -t 1.2.3.4:80 -r 10.0.0.1:80 -w -1\n", "where a number"),
            ("-a -t 1.2.3.4:80\n", "-r was expected"),
            ("-a -t www:http -r 10.0.0.1:80\n", "names are not looked up"),
            ("-a -t 1.2.3.4:80 -r [2001:db8::1]:80 -g\n", "mixed"),
            ("-A -s rr\n", "service is missing"),
            ("-A -f 0 -s rr\n", "mark 0"),
            ("-A -t 1.2.3.6:80 -s \u{fe0f}\n", "letters, digits"),
            ("-E -t 1.2.3.4:80\n", "-A or -a"),
            ("-C\n", "behind the services"),
            ("-A -t 1.2.3.6:80 --ops=1\n", "takes no value"),
            ("-Azt 1.2.3.6:80\n", "\"zt\" is not an option"),
            ("-a -t 1.2.3.4:80 -r # 10.0.0.1:80\n", "needs a value"),
            ("-A -t 1.2.3.6:80 -s rr -b mh-port\n", "flag-1, flag-2"),
            ("-A -t 1.2.3.6:80 -s rr -M 255.0.0.0\n", "goes with -p"),
            ("-a -t 1.2.3.4:80 -r 10.0.0.1:80 -i --tun-type gue --tun-port 65536\n", "from 0 to 65535"),
            ("--set 1 2\n", "needs a value"),
            ("--start-daemon both\n", "master or backup"),
            ("--start-daemon master --syncid 256 --mcast-interface eth0\n", "from 0 to 255"),
            ("--start-daemon master\n", "interface's name"),
        ] {
            let error = format!("{service}{wrong}").parse::<Table>().unwrap_err();
            assert!(matches!(error, Error::Parse { line: 2, .. }), "{wrong}: {error}");
            assert!(error.to_string().contains(words), "{wrong}: {error}");
        }
    }
}
