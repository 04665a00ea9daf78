//! The commands and options of ipvsadm(8): how they are written, what they take, what goes with
//! what.

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
    pub name: &'static str,
}

const fn command(short: u8, long: &'static str, verb: Verb) -> OptionRule {
    OptionRule { short, long, takes: Takes::Nothing, tag: Tag::Command(verb), name: "" }
}

const fn daemon(long: &'static str, verb: Verb) -> OptionRule {
    OptionRule { short: 0, long, takes: Takes::Argument, tag: Tag::Command(verb), name: "" }
}

const fn flag(short: u8, long: &'static str) -> OptionRule {
    OptionRule { short, long, takes: Takes::Nothing, tag: Tag::Flag, name: long }
}

const fn option(short: u8, long: &'static str, takes: Takes, tag: Tag, name: &'static str) -> OptionRule {
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
    option(b'h', "help", Nothing, Tag::Help, ""),
    option(b'v', "version", Nothing, Tag::Version, ""),
    option(b't', "tcp-service", Argument, Tag::Tcp, "service-address"),
    option(b'u', "udp-service", Argument, Tag::Udp, "service-address"),
    option(0, "sctp-service", Argument, Tag::Sctp, "service-address"),
    option(b'f', "fwmark-service", Argument, Tag::Fwmark, "service-address"),
    option(b'6', "ipv6", Nothing, Tag::Ipv6, ""),
    option(b's', "scheduler", Argument, Tag::Scheduler, "scheduler"),
    option(b'p', "persistent", Perhaps, Tag::Persistent, "persistent"),
    option(b'M', "netmask", Argument, Tag::Netmask, "netmask"),
    option(b'r', "real-server", Argument, Tag::RealServer, "real-server"),
    option(b'g', "gatewaying", Nothing, Tag::Gatewaying, "forwarding-method"),
    option(b'i', "ipip", Nothing, Tag::Ipip, "forwarding-method"),
    option(b'm', "masquerading", Nothing, Tag::Masquerading, "forwarding-method"),
    option(b'w', "weight", Argument, Tag::Weight, "weight"),
    option(b'x', "u-threshold", Argument, Tag::UpperThreshold, "u-threshold"),
    option(b'y', "l-threshold", Argument, Tag::LowerThreshold, "l-threshold"),
    option(0, "mcast-interface", Argument, Tag::Interface, "mcast-interface"),
    option(0, "syncid", Argument, Tag::SyncId, "syncid"),
    flag(b'n', "numeric"),
    flag(b'c', "connection"),
    flag(0, "timeout"),
    flag(0, "daemon"),
    flag(0, "stats"),
    flag(0, "rate"),
    flag(0, "thresholds"),
    flag(0, "persistent-conn"),
    flag(0, "nosort"),
    option(0, "sort", Nothing, Tag::Sort, ""),
    flag(b'X', "exact"),
    option(b'o', "ops", Nothing, Tag::Ops, "ops"),
    option(0, "pe", Argument, Tag::Engine, "pe"),
    option(b'b', "sched-flags", Argument, Tag::SchedulerFlags, "sched-flags"),
    option(0, "mcast-group", Argument, Tag::Group, "mcast-group"),
    option(0, "mcast-port", Argument, Tag::GroupPort, "mcast-port"),
    option(0, "mcast-ttl", Argument, Tag::GroupTtl, "mcast-ttl"),
    option(0, "sync-maxlen", Argument, Tag::MaxLength, "sync-maxlen"),
    flag(0, "tun-info"),
    option(0, "tun-type", Argument, Tag::TunnelType, "tun-type"),
    option(0, "tun-port", Argument, Tag::TunnelPort, "tun-port"),
    option(0, "tun-nocsum", Nothing, Tag::TunnelNoChecksum, "tun-nocsum"),
    option(0, "tun-csum", Nothing, Tag::TunnelChecksum, "tun-csum"),
    option(0, "tun-remcsum", Nothing, Tag::TunnelRemoteChecksum, "tun-remcsum"),
    flag(0, "json"),
    flag(0, "dry-run"),
];

/// The names of [`OPTIONS`] in the order in which they are compared with the command: the first
/// that offends is told.
pub const NAMES: [&str; 36] = [
    "numeric",
    "connection",
    "service-address",
    "scheduler",
    "persistent",
    "netmask",
    "real-server",
    "forwarding-method",
    "weight",
    "u-threshold",
    "l-threshold",
    "mcast-interface",
    "timeout",
    "daemon",
    "stats",
    "rate",
    "thresholds",
    "persistent-conn",
    "nosort",
    "syncid",
    "exact",
    "ops",
    "pe",
    "sched-flags",
    "mcast-group",
    "mcast-port",
    "mcast-ttl",
    "sync-maxlen",
    "tun-info",
    "tun-type",
    "tun-port",
    "tun-nocsum",
    "tun-csum",
    "tun-remcsum",
    "json",
    "dry-run",
];

/// Which options a command goes with.
pub struct CommandRule {
    /// Its name in messages.
    pub name: &'static str,
    pub needs: &'static [&'static str],
    pub takes: &'static [&'static str],
    /// At most one of these.
    pub either: &'static [&'static str],
}

const SERVICE: &[&str] = &["scheduler", "persistent", "netmask", "ops", "pe", "sched-flags", "dry-run"];
const SERVER: &[&str] = &[
    "forwarding-method",
    "weight",
    "u-threshold",
    "l-threshold",
    "tun-type",
    "tun-port",
    "tun-nocsum",
    "tun-csum",
    "tun-remcsum",
    "dry-run",
];
const LIST: &[&str] =
    &["numeric", "stats", "rate", "thresholds", "persistent-conn", "nosort", "syncid", "exact", "tun-info", "json"];
const DAEMON: &[&str] =
    &["mcast-interface", "syncid", "mcast-group", "mcast-port", "mcast-ttl", "sync-maxlen", "dry-run"];

impl Verb {
    pub const fn rule(self) -> CommandRule {
        const fn rule(
            name: &'static str,
            needs: &'static [&'static str],
            takes: &'static [&'static str],
        ) -> CommandRule {
            CommandRule { name, needs, takes, either: &[] }
        }
        match self {
            Verb::AddService => rule("add-service", &["service-address"], SERVICE),
            Verb::EditService => rule("edit-service", &["service-address"], SERVICE),
            Verb::DeleteService => rule("delete-service", &["service-address"], &["dry-run"]),
            Verb::Clear => rule("flush", &[], &["dry-run"]),
            Verb::List => CommandRule {
                either: &["connection", "service-address", "timeout", "daemon"],
                ..rule("list", &[], LIST)
            },
            Verb::Zero => rule("zero", &[], &["service-address", "dry-run"]),
            Verb::AddServer => rule("add-server", &["service-address", "real-server"], SERVER),
            Verb::EditServer => rule("edit-server", &["service-address", "real-server"], SERVER),
            Verb::DeleteServer => rule("delete-server", &["service-address", "real-server"], &["dry-run"]),
            Verb::Restore => rule("restore", &[], &["dry-run"]),
            Verb::Save => rule("save", &[], &["numeric", "json"]),
            Verb::Set => rule("set", &[], &["dry-run"]),
            Verb::StartDaemon => rule("start-daemon", &[], DAEMON),
            Verb::StopDaemon => rule("stop-daemon", &[], &["syncid", "dry-run"]),
        }
    }
}

/// A tunnel's options and the types that they go with, in the order in which they are looked at.
pub const TUNNEL_OPTIONS: [&str; 4] = ["tun-port", "tun-nocsum", "tun-csum", "tun-remcsum"];

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
