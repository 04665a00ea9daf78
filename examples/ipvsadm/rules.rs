//! The commands and options of ipvsadm(8): how they are written, what they take, what goes with
//! what.

use std::fmt;

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verb {
    AddService,
    EditService,
    DeleteService,
    Clear,
    List,
    Zero,
    AddServer,
    EditServer,
    DeleteServer,
    Restore,
    Save,
    Set,
    StartDaemon,
    StopDaemon,
}

/// An option of the command line, by what it does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tag {
    Command(Verb),
    Help,
    Version,
    Tcp,
    Udp,
    Sctp,
    Fwmark,
    Ipv6,
    Scheduler,
    Persistent,
    Netmask,
    RealServer,
    Gatewaying,
    Ipip,
    Masquerading,
    Weight,
    UpperThreshold,
    LowerThreshold,
    Interface,
    SyncId,
    Engine,
    Ops,
    SchedulerFlags,
    Group,
    GroupPort,
    GroupTtl,
    MaxLength,
    TunnelType,
    TunnelPort,
    TunnelNoChecksum,
    TunnelChecksum,
    TunnelRemoteChecksum,
    /// It is enough that it was there.
    Flag,
    /// Allowed everywhere; it does nothing.
    Sort,
}

/// Whether an option takes an argument.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Takes {
    Nothing,
    Argument,
    /// One that does not begin with `-`, if there is one.
    Perhaps,
}

pub struct OptionRule {
    /// 0: none.
    pub short: u8,
    pub long: &'static str,
    pub takes: Takes,
    pub tag: Tag,
    /// Its name in messages. Options with the same name exclude each other; one without may be
    /// repeated.
    pub name: Option<Name>,
}

const fn command(short: u8, long: &'static str, verb: Verb) -> OptionRule {
    OptionRule { short, long, takes: Takes::Nothing, tag: Tag::Command(verb), name: None }
}

const fn daemon(long: &'static str, verb: Verb) -> OptionRule {
    OptionRule { short: 0, long, takes: Takes::Argument, tag: Tag::Command(verb), name: None }
}

const fn flag(short: u8, long: &'static str, name: Name) -> OptionRule {
    option(short, long, Takes::Nothing, Tag::Flag, Some(name))
}

const fn option(short: u8, long: &'static str, takes: Takes, tag: Tag, name: Option<Name>) -> OptionRule {
    OptionRule { short, long, takes, tag, name }
}

use Takes::{Argument, Nothing, Perhaps};

pub const OPTIONS: &[OptionRule] = &[
    command(b'A', "add-service", Verb::AddService),
    command(b'E', "edit-service", Verb::EditService),
    command(b'D', "delete-service", Verb::DeleteService),
    command(b'C', "clear", Verb::Clear),
    command(b'L', "list", Verb::List),
    command(b'l', "list", Verb::List),
    command(b'Z', "zero", Verb::Zero),
    command(b'a', "add-server", Verb::AddServer),
    command(b'e', "edit-server", Verb::EditServer),
    command(b'd', "delete-server", Verb::DeleteServer),
    command(b'R', "restore", Verb::Restore),
    command(b'S', "save", Verb::Save),
    command(0, "set", Verb::Set),
    daemon("start-daemon", Verb::StartDaemon),
    daemon("stop-daemon", Verb::StopDaemon),
    option(b'h', "help", Nothing, Tag::Help, None),
    option(b'v', "version", Nothing, Tag::Version, None),
    option(b't', "tcp-service", Argument, Tag::Tcp, Some(Name::ServiceAddress)),
    option(b'u', "udp-service", Argument, Tag::Udp, Some(Name::ServiceAddress)),
    option(0, "sctp-service", Argument, Tag::Sctp, Some(Name::ServiceAddress)),
    option(b'f', "fwmark-service", Argument, Tag::Fwmark, Some(Name::ServiceAddress)),
    option(b'6', "ipv6", Nothing, Tag::Ipv6, None),
    option(b's', "scheduler", Argument, Tag::Scheduler, Some(Name::Scheduler)),
    option(b'p', "persistent", Perhaps, Tag::Persistent, Some(Name::Persistent)),
    option(b'M', "netmask", Argument, Tag::Netmask, Some(Name::Netmask)),
    option(b'r', "real-server", Argument, Tag::RealServer, Some(Name::RealServer)),
    option(b'g', "gatewaying", Nothing, Tag::Gatewaying, Some(Name::ForwardingMethod)),
    option(b'i', "ipip", Nothing, Tag::Ipip, Some(Name::ForwardingMethod)),
    option(b'm', "masquerading", Nothing, Tag::Masquerading, Some(Name::ForwardingMethod)),
    option(b'w', "weight", Argument, Tag::Weight, Some(Name::Weight)),
    option(b'x', "u-threshold", Argument, Tag::UpperThreshold, Some(Name::UThreshold)),
    option(b'y', "l-threshold", Argument, Tag::LowerThreshold, Some(Name::LThreshold)),
    option(0, "mcast-interface", Argument, Tag::Interface, Some(Name::McastInterface)),
    option(0, "syncid", Argument, Tag::SyncId, Some(Name::Syncid)),
    flag(b'n', "numeric", Name::Numeric),
    flag(b'c', "connection", Name::Connection),
    flag(0, "timeout", Name::Timeout),
    flag(0, "daemon", Name::Daemon),
    flag(0, "stats", Name::Stats),
    flag(0, "rate", Name::Rate),
    flag(0, "thresholds", Name::Thresholds),
    flag(0, "persistent-conn", Name::PersistentConn),
    flag(0, "nosort", Name::Nosort),
    option(0, "sort", Nothing, Tag::Sort, None),
    flag(b'X', "exact", Name::Exact),
    option(b'o', "ops", Nothing, Tag::Ops, Some(Name::Ops)),
    option(0, "pe", Argument, Tag::Engine, Some(Name::Pe)),
    option(b'b', "sched-flags", Argument, Tag::SchedulerFlags, Some(Name::SchedFlags)),
    option(0, "mcast-group", Argument, Tag::Group, Some(Name::McastGroup)),
    option(0, "mcast-port", Argument, Tag::GroupPort, Some(Name::McastPort)),
    option(0, "mcast-ttl", Argument, Tag::GroupTtl, Some(Name::McastTtl)),
    option(0, "sync-maxlen", Argument, Tag::MaxLength, Some(Name::SyncMaxlen)),
    flag(0, "tun-info", Name::TunInfo),
    option(0, "tun-type", Argument, Tag::TunnelType, Some(Name::TunType)),
    option(0, "tun-port", Argument, Tag::TunnelPort, Some(Name::TunPort)),
    option(0, "tun-nocsum", Nothing, Tag::TunnelNoChecksum, Some(Name::TunNocsum)),
    option(0, "tun-csum", Nothing, Tag::TunnelChecksum, Some(Name::TunCsum)),
    option(0, "tun-remcsum", Nothing, Tag::TunnelRemoteChecksum, Some(Name::TunRemcsum)),
    flag(0, "json", Name::Json),
    flag(0, "dry-run", Name::DryRun),
];

/// The option with this letter.
pub fn by_letter(letter: u8) -> Option<&'static OptionRule> {
    OPTIONS.get(usize::from(*LETTERS.get(usize::from(letter))?))
}

/// The place of each letter among [`OPTIONS`], which has no such place where there is none.
static LETTERS: [u8; 128] = {
    let mut letters = [u8::MAX; 128];
    let mut place = 0;
    while place < OPTIONS.len() {
        if OPTIONS[place].short != 0 {
            letters[OPTIONS[place].short as usize] = place as u8;
        }
        place += 1;
    }
    letters
};

/// A name in messages of one or more [`OPTIONS`], in the order in which names are compared with
/// the command: the first that offends is named.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Name {
    Numeric,
    Connection,
    ServiceAddress,
    Scheduler,
    Persistent,
    Netmask,
    RealServer,
    ForwardingMethod,
    Weight,
    UThreshold,
    LThreshold,
    McastInterface,
    Timeout,
    Daemon,
    Stats,
    Rate,
    Thresholds,
    PersistentConn,
    Nosort,
    Syncid,
    Exact,
    Ops,
    Pe,
    SchedFlags,
    McastGroup,
    McastPort,
    McastTtl,
    SyncMaxlen,
    TunInfo,
    TunType,
    TunPort,
    TunNocsum,
    TunCsum,
    TunRemcsum,
    Json,
    DryRun,
}

/// All names, in order, with their texts.
const NAMES: [(Name, &str); 36] = [
    (Name::Numeric, "numeric"),
    (Name::Connection, "connection"),
    (Name::ServiceAddress, "service-address"),
    (Name::Scheduler, "scheduler"),
    (Name::Persistent, "persistent"),
    (Name::Netmask, "netmask"),
    (Name::RealServer, "real-server"),
    (Name::ForwardingMethod, "forwarding-method"),
    (Name::Weight, "weight"),
    (Name::UThreshold, "u-threshold"),
    (Name::LThreshold, "l-threshold"),
    (Name::McastInterface, "mcast-interface"),
    (Name::Timeout, "timeout"),
    (Name::Daemon, "daemon"),
    (Name::Stats, "stats"),
    (Name::Rate, "rate"),
    (Name::Thresholds, "thresholds"),
    (Name::PersistentConn, "persistent-conn"),
    (Name::Nosort, "nosort"),
    (Name::Syncid, "syncid"),
    (Name::Exact, "exact"),
    (Name::Ops, "ops"),
    (Name::Pe, "pe"),
    (Name::SchedFlags, "sched-flags"),
    (Name::McastGroup, "mcast-group"),
    (Name::McastPort, "mcast-port"),
    (Name::McastTtl, "mcast-ttl"),
    (Name::SyncMaxlen, "sync-maxlen"),
    (Name::TunInfo, "tun-info"),
    (Name::TunType, "tun-type"),
    (Name::TunPort, "tun-port"),
    (Name::TunNocsum, "tun-nocsum"),
    (Name::TunCsum, "tun-csum"),
    (Name::TunRemcsum, "tun-remcsum"),
    (Name::Json, "json"),
    (Name::DryRun, "dry-run"),
];

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(NAMES[*self as usize].1)
    }
}

/// A set of names: a bit for each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct NameSet(u64);

impl NameSet {
    const fn of(names: &[Name]) -> Self {
        let (mut bits, mut place) = (0, 0);
        while place < names.len() {
            bits |= 1 << names[place] as u32;
            place += 1;
        }
        NameSet(bits)
    }

    pub const fn has(self, name: Name) -> bool {
        self.0 & 1 << name as u32 != 0
    }

    /// Returns whether it was not there before.
    pub fn insert(&mut self, name: Name) -> bool {
        let is_new = !self.has(name);
        self.0 |= 1 << name as u32;
        is_new
    }

    pub const fn or(self, other: NameSet) -> NameSet {
        NameSet(self.0 | other.0)
    }

    /// Returns the names in order.
    pub fn iter(self) -> impl Iterator<Item = Name> {
        let mut bits = self.0;
        std::iter::from_fn(move || {
            let (name, _) = NAMES.get(bits.trailing_zeros() as usize)?;
            bits &= bits - 1;
            Some(*name)
        })
    }
}

/// Which options a command goes with.
pub struct CommandRule {
    /// Its name in messages.
    pub name: &'static str,
    pub needs: NameSet,
    pub takes: NameSet,
    /// At most one of these.
    pub either: NameSet,
}

const SERVICE: NameSet = NameSet::of(&[
    Name::Scheduler,
    Name::Persistent,
    Name::Netmask,
    Name::Ops,
    Name::Pe,
    Name::SchedFlags,
    Name::DryRun,
]);
const SERVER: NameSet = NameSet::of(&[
    Name::ForwardingMethod,
    Name::Weight,
    Name::UThreshold,
    Name::LThreshold,
    Name::TunType,
    Name::TunPort,
    Name::TunNocsum,
    Name::TunCsum,
    Name::TunRemcsum,
    Name::DryRun,
]);
const LIST: NameSet = NameSet::of(&[
    Name::Numeric,
    Name::Stats,
    Name::Rate,
    Name::Thresholds,
    Name::PersistentConn,
    Name::Nosort,
    Name::Syncid,
    Name::Exact,
    Name::TunInfo,
    Name::Json,
]);
const DAEMON: NameSet = NameSet::of(&[
    Name::McastInterface,
    Name::Syncid,
    Name::McastGroup,
    Name::McastPort,
    Name::McastTtl,
    Name::SyncMaxlen,
    Name::DryRun,
]);

const LISTED: NameSet = NameSet::of(&[Name::Connection, Name::ServiceAddress, Name::Timeout, Name::Daemon]);
const SAVE: NameSet = NameSet::of(&[Name::Numeric, Name::Json]);
const STOP_DAEMON: NameSet = NameSet::of(&[Name::Syncid, Name::DryRun]);
const ZERO: NameSet = NameSet::of(&[Name::ServiceAddress, Name::DryRun]);
const DRY_RUN: NameSet = NameSet::of(&[Name::DryRun]);
const SERVICE_ADDRESS: NameSet = NameSet::of(&[Name::ServiceAddress]);
const BOTH_ADDRESSES: NameSet = NameSet::of(&[Name::ServiceAddress, Name::RealServer]);
const NONE: NameSet = NameSet::of(&[]);

impl Verb {
    pub const fn rule(self) -> CommandRule {
        const fn rule(name: &'static str, needs: NameSet, takes: NameSet) -> CommandRule {
            CommandRule { name, needs, takes, either: NONE }
        }
        match self {
            Verb::AddService => rule("add-service", SERVICE_ADDRESS, SERVICE),
            Verb::EditService => rule("edit-service", SERVICE_ADDRESS, SERVICE),
            Verb::DeleteService => rule("delete-service", SERVICE_ADDRESS, DRY_RUN),
            Verb::Clear => rule("flush", NONE, DRY_RUN),
            Verb::List => CommandRule { either: LISTED, ..rule("list", NONE, LIST) },
            Verb::Zero => rule("zero", NONE, ZERO),
            Verb::AddServer => rule("add-server", BOTH_ADDRESSES, SERVER),
            Verb::EditServer => rule("edit-server", BOTH_ADDRESSES, SERVER),
            Verb::DeleteServer => rule("delete-server", BOTH_ADDRESSES, DRY_RUN),
            Verb::Restore => rule("restore", NONE, DRY_RUN),
            Verb::Save => rule("save", NONE, SAVE),
            Verb::Set => rule("set", NONE, DRY_RUN),
            Verb::StartDaemon => rule("start-daemon", NONE, DAEMON),
            Verb::StopDaemon => rule("stop-daemon", NONE, STOP_DAEMON),
        }
    }
}

/// A tunnel's options and the types that they go with, in the order in which they are looked at.
pub const TUNNEL_OPTIONS: [Name; 4] = [Name::TunPort, Name::TunNocsum, Name::TunCsum, Name::TunRemcsum];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fit {
    Illegal,
    Needed,
    /// At most one of these.
    Either,
}

/// What [`TUNNEL_OPTIONS`] are to a type of tunnel.
pub fn tunnel_rule(kind: &str) -> [Fit; 4] {
    use Fit::{Either, Illegal, Needed};
    match kind {
        "gue" => [Needed, Either, Either, Either],
        "gre" => [Illegal, Either, Either, Illegal],
        _ => [Illegal; 4],
    }
}

/// The names of a scheduler's three flags.
pub fn scheduler_flags(scheduler: &str) -> [&'static str; 3] {
    match scheduler {
        "sh" => ["sh-fallback", "sh-port", "flag-3"],
        "mh" => ["mh-fallback", "mh-port", "flag-3"],
        _ => ["flag-1", "flag-2", "flag-3"],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stand_in_their_order() {
        assert!(NAMES.iter().enumerate().all(|(place, (name, _))| *name as usize == place));
        assert_eq!(BOTH_ADDRESSES.iter().collect::<Vec<_>>(), [Name::ServiceAddress, Name::RealServer]);
        assert_eq!(NONE.iter().next(), None);
    }
}
