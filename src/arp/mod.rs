//! The ARP settings that keep a loopback VIP hidden: read, judged, set, given back.
//!
//! A node that holds the VIP only to serve must neither answer ARP requests for it nor name it as
//! sender of its own. Linux has two settings for that, `arp_ignore` and `arp_announce`, in
//! net.ipv4.conf of `all` and of each interface (kernel: Documentation/networking/ip-sysctl.rst
//! and net/ipv4/arp.c). What counts on an interface is the **greater number of the two**, which is
//! not always the stricter: with 1 for all and 4 for eth0, eth0 answers for everything. `default`
//! is only copied to interfaces made later.
//!
//! Whether a node answers for a VIP on `lo` (measured on Linux 6.1):
//!
//! | `arp_ignore` | VIP with scope host | VIP with scope global or link |
//! |---|---|---|
//! | 0, 4 to 7, above 8 | answers | answers |
//! | 1, 2 | silent | silent |
//! | 3 | silent, but answers with `route_localnet` on `lo` or `all` | answers |
//! | 8 | silent, and for all other addresses too | the same |
//!
//! `arp_ignore=1` with `arp_announce=2` on the interface that clients reach is what to use: it
//! needs no scope, it does not mind `route_localnet` (which kube-proxy sets), and it leaves other
//! interfaces alone. Setting `all` changes every interface, and has broken other software.
//!
//! IPv6 needs none of this: a node never answers neighbour solicitations for an address on another
//! link.

use std::fmt;
use std::str::FromStr;

use rustix::io::Errno;

use crate::error::{Cause, Error, Result};
use crate::interface;
use crate::netns::Netns;
use crate::sysctl;

/// For which addresses ARP requests are answered: `arp_ignore`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum IgnoreMode {
    /// 0, the kernel's default: for any address of this host, on whichever interface it is.
    Never,
    /// 1: for addresses of the interface that the request came in on, and not those with scope
    /// host.
    OtherInterfaces,
    /// 2: as 1, and only where the asker is in a subnet of the interface that holds the address.
    OtherSubnets,
    /// 3: for any address of this host but those with scope host.
    HostScope,
    /// 8: for none.
    Always,
    /// 4 to 7 are reserved. The kernel takes these and any other number, and does as with 0.
    Other(i32),
}

impl IgnoreMode {
    /// The number in /proc/sys.
    pub fn value(self) -> i32 {
        match self {
            IgnoreMode::Never => 0,
            IgnoreMode::OtherInterfaces => 1,
            IgnoreMode::OtherSubnets => 2,
            IgnoreMode::HostScope => 3,
            IgnoreMode::Always => 8,
            IgnoreMode::Other(value) => value,
        }
    }

    /// Whether requests for a VIP on the loopback interface stay unanswered. `scope_host`: the VIP
    /// has scope host. `route_localnet`: that setting is on for `lo` or `all`, see
    /// [`Arp::route_localnet`].
    pub fn hides_loopback_vip(self, scope_host: bool, route_localnet: bool) -> bool {
        match self {
            IgnoreMode::OtherInterfaces | IgnoreMode::OtherSubnets | IgnoreMode::Always => true,
            IgnoreMode::HostScope => scope_host && !route_localnet,
            IgnoreMode::Never | IgnoreMode::Other(_) => false,
        }
    }

    /// Whether requests for a VIP (/32, scope global) on the interface itself are answered, as a
    /// director must. With [`IgnoreMode::OtherSubnets`] that takes an asker and a VIP in one
    /// subnet of the interface, `same_subnet`.
    pub fn answers_for_interface_vip(self, same_subnet: bool) -> bool {
        match self {
            IgnoreMode::Never | IgnoreMode::OtherInterfaces | IgnoreMode::HostScope | IgnoreMode::Other(_) => true,
            IgnoreMode::OtherSubnets => same_subnet,
            IgnoreMode::Always => false,
        }
    }
}

impl From<i32> for IgnoreMode {
    fn from(value: i32) -> Self {
        match value {
            0 => IgnoreMode::Never,
            1 => IgnoreMode::OtherInterfaces,
            2 => IgnoreMode::OtherSubnets,
            3 => IgnoreMode::HostScope,
            8 => IgnoreMode::Always,
            other => IgnoreMode::Other(other),
        }
    }
}

/// The number in /proc/sys.
impl fmt::Display for IgnoreMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.value().fmt(f)
    }
}

/// Which of its addresses a node names as sender of an ARP request: `arp_announce`. A node that
/// names the VIP there draws its traffic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AnnounceMode {
    /// 0, the kernel's default: the source address of the packet to be sent, even if it is on
    /// another interface.
    Any,
    /// 1: that address only where it and the asked one are in one subnet of the outgoing
    /// interface; else as 2. A VIP mostly is.
    PreferSubnet,
    /// 2: the best address of the outgoing interface, whatever the packet's source.
    Best,
    /// Any other number: the kernel takes it, and does as with 0.
    Other(i32),
}

impl AnnounceMode {
    /// The number in /proc/sys.
    pub fn value(self) -> i32 {
        match self {
            AnnounceMode::Any => 0,
            AnnounceMode::PreferSubnet => 1,
            AnnounceMode::Best => 2,
            AnnounceMode::Other(value) => value,
        }
    }

    /// Whether ARP requests never name a VIP that is on another interface (`lo`) as their sender.
    /// `same_subnet`: the VIP is in a subnet of the outgoing interface.
    pub fn hides_loopback_vip(self, same_subnet: bool) -> bool {
        match self {
            AnnounceMode::Best => true,
            AnnounceMode::PreferSubnet => !same_subnet,
            AnnounceMode::Any | AnnounceMode::Other(_) => false,
        }
    }
}

impl From<i32> for AnnounceMode {
    fn from(value: i32) -> Self {
        match value {
            0 => AnnounceMode::Any,
            1 => AnnounceMode::PreferSubnet,
            2 => AnnounceMode::Best,
            other => AnnounceMode::Other(other),
        }
    }
}

/// The number in /proc/sys.
impl fmt::Display for AnnounceMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.value().fmt(f)
    }
}

/// Both settings.
///
/// ```
/// use lvs_dr::arp::Settings;
///
/// let settings = Settings { ignore: 1.into(), announce: 2.into() };
/// assert!(settings.ignore.hides_loopback_vip(true, false));
/// assert!(settings.check().is_ok());
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct Settings {
    /// `arp_ignore`.
    pub ignore: IgnoreMode,
    /// `arp_announce`.
    pub announce: AnnounceMode,
}

impl Settings {
    /// The kernel's defaults: 0 and 0.
    pub const KERNEL: Settings = Settings { ignore: IgnoreMode::Never, announce: AnnounceMode::Any };
    /// What hides a loopback VIP whatever its scope: `arp_ignore=1`, `arp_announce=2`.
    pub const HIDE: Settings = Settings { ignore: IgnoreMode::OtherInterfaces, announce: AnnounceMode::Best };

    /// Refuses values that the kernel takes although they mean nothing (`arp_ignore()` and
    /// `arp_solicit()` in net/ipv4/arp.c): usable are 0 to 8, and 0 to 2.
    ///
    /// # Errors
    /// [`Error::Invalid`].
    pub fn check(self) -> Result<()> {
        let (ignore, announce) = (self.ignore.value(), self.announce.value());
        if (0..=8).contains(&ignore) && (0..=2).contains(&announce) {
            return Ok(());
        }
        Err(Error::invalid("arp", format!("ignore {ignore}, announce {announce}: 0 to 8 and 0 to 2 were expected")))
    }

    /// What counts where these and those of `all` are set: the greater number each.
    pub(crate) fn joined(self, all: Settings) -> Settings {
        Settings {
            ignore: self.ignore.value().max(all.ignore.value()).into(),
            announce: self.announce.value().max(all.announce.value()).into(),
        }
    }
}

/// `arp_ignore=1 arp_announce=2`.
impl fmt::Display for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "arp_ignore={} arp_announce={}", self.ignore, self.announce)
    }
}

/// Where settings are kept: a directory of net.ipv4.conf.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "snake_case"))]
pub enum ArpTarget {
    /// `all`: they count on every interface where its own number is not greater.
    All,
    /// The interface of this name.
    Interface(String),
}

impl ArpTarget {
    /// The directory's name: `all`, or the interface's.
    pub fn name(&self) -> &str {
        match self {
            ArpTarget::All => "all",
            ArpTarget::Interface(name) => name,
        }
    }

    /// The names that the kernel gives to interfaces, and that mean one here: it is to become part
    /// of a path.
    fn check(&self) -> Result<()> {
        let ArpTarget::Interface(name) = self else { return Ok(()) };
        match name.as_str() {
            "all" | "default" => Err(Error::invalid(
                format!("interface {name:?}"),
                "that is no interface's name here, but the kernel's for several",
            )),
            name => interface::check_name(name),
        }
    }

    fn path(&self, setting: &str) -> String {
        format!("net/ipv4/conf/{}/{setting}", self.name())
    }
}

/// `all`, or the interface's name.
impl fmt::Display for ArpTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A change of settings, which can be carried out and given back.
///
/// Its text form, `eth0 arp_ignore=0 arp_announce=0 -> arp_ignore=1 arp_announce=2`, is for people
/// and for files: [`FromStr`] reads what [`Display`](fmt::Display) writes.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct Change {
    /// Whose settings.
    pub target: ArpTarget,
    /// What was found.
    pub before: Settings,
    /// What was wanted.
    pub after: Settings,
}

impl Change {
    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.before == self.after
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} -> {}", self.target, self.before, self.after)
    }
}

/// # Errors
/// [`Error::Parse`] with line 1; [`Error::Invalid`] for an interface name that cannot be.
impl FromStr for Change {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let number = |word: &str, key: &str| -> Option<i32> { word.strip_prefix(key)?.strip_prefix('=')?.parse().ok() };
        let settings = |ignore: &str, announce: &str| {
            let (ignore, announce) = (number(ignore, IGNORE)?, number(announce, ANNOUNCE)?);
            Some(Settings { ignore: ignore.into(), announce: announce.into() })
        };
        let read = || match text.split_ascii_whitespace().collect::<Vec<_>>()[..] {
            [target, i0, a0, "->", i1, a1] => Some((target, settings(i0, a0)?, settings(i1, a1)?)),
            _ => None,
        };
        let (target, before, after) = read().ok_or_else(|| {
            let form = "INTERFACE|all arp_ignore=N arp_announce=N -> arp_ignore=N arp_announce=N";
            Error::parse(1, format!("found {text:?} where `{form}` was expected"))
        })?;
        let target = match target {
            "all" => ArpTarget::All,
            name => ArpTarget::Interface(name.into()),
        };
        target.check()?;
        Ok(Change { target, before, after })
    }
}

/// What became of one setting of a [`Change`] that was given back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Returned {
    /// It holds the value again that it had before.
    Restored,
    /// It was not changed, or holds that value already.
    Unchanged,
    /// Another program has set it to this value since. It stays.
    Kept(i32),
}

/// What became of a [`Change`] that was given back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct GivenBack {
    /// `arp_ignore`.
    pub ignore: Returned,
    /// `arp_announce`.
    pub announce: Returned,
}

const IGNORE: &str = "arp_ignore";
const ANNOUNCE: &str = "arp_announce";

/// Reads and changes the ARP settings of one network namespace.
///
/// Reading takes no privileges. Writing takes `CAP_NET_ADMIN` in the user namespace that owns the
/// network namespace, and a /proc/sys that is not mounted read-only, as it is in most containers.
///
/// ```no_run
/// use lvs_dr::arp::{Arp, ArpTarget, Settings};
///
/// let arp = Arp::open()?;
/// let change = arp.plan(&ArpTarget::Interface("eth0".into()), Settings::HIDE)?;
/// println!("{change}"); // or keep it in a file, before anything is changed
/// arp.apply(&change)?;
/// assert!(arp.hides_loopback_vip("eth0", true)?);
/// arp.give_back(&change)?;
/// # Ok::<(), lvs_dr::Error>(())
/// ```
///
/// # Errors
/// Those that all calls can return:
/// - [`Error::Invalid`] for a name that no interface can have, `all` and `default` among them.
/// - [`Error::Refused`] with [`Cause::NoInterface`] (`ENODEV`) where there is no such interface,
///   or IPv4 is not in use on it.
/// - [`Error::System`] with the path when a setting cannot be read or written: `EACCES` or `EPERM`
///   for want of privileges, `EROFS` where /proc/sys is mounted read-only.
#[derive(Debug, Clone)]
pub struct Arp {
    netns: Netns,
}

impl Arp {
    /// A client of the calling thread's network namespace.
    pub fn open() -> Result<Self> {
        Ok(Self::open_in(Netns::current()?))
    }

    /// A client of this network namespace, whatever thread it is used from.
    pub fn open_in(netns: Netns) -> Self {
        Arp { netns }
    }

    /// The settings of one directory. What counts on an interface is [`Arp::effective`].
    pub fn get(&self, target: &ArpTarget) -> Result<Settings> {
        Ok(Settings { ignore: self.read(target, IGNORE)?.into(), announce: self.read(target, ANNOUNCE)?.into() })
    }

    /// The settings that count on an interface: of `all` and its own, the greater number each.
    pub fn effective(&self, interface: &str) -> Result<Settings> {
        Ok(self.get(&ArpTarget::Interface(interface.into()))?.joined(self.get(&ArpTarget::All)?))
    }

    /// Whether `route_localnet` is on for `lo`, of its own or by `all`.
    pub fn route_localnet(&self) -> Result<bool> {
        let lo = ArpTarget::Interface("lo".into());
        Ok(self.read(&ArpTarget::All, "route_localnet")? != 0 || self.read(&lo, "route_localnet")? != 0)
    }

    /// Whether requests that come in on `interface` for a VIP on `lo` stay unanswered.
    /// `scope_host`: the VIP has scope host.
    pub fn hides_loopback_vip(&self, interface: &str, scope_host: bool) -> Result<bool> {
        Ok(self.effective(interface)?.ignore.hides_loopback_vip(scope_host, self.route_localnet()?))
    }

    /// What [`Arp::apply`] would have to change. Nothing is changed yet, so the change can be
    /// written down first.
    ///
    /// # Errors
    /// As [`Arp`] and [`Settings::check`].
    pub fn plan(&self, target: &ArpTarget, wanted: Settings) -> Result<Change> {
        wanted.check()?;
        Ok(Change { target: target.clone(), before: self.get(target)?, after: wanted })
    }

    /// Carries a change out, and reads it back. A setting that is as wanted already is not
    /// written.
    ///
    /// # Errors
    /// [`Error::NotVerified`] when a setting does not keep the value; also as [`Arp::plan`].
    pub fn apply(&self, change: &Change) -> Result<()> {
        change.after.check()?;
        let Change { target, after, .. } = change;
        self.write(target, IGNORE, after.ignore.value())?;
        self.write(target, ANNOUNCE, after.announce.value())
    }

    /// [`Arp::plan`] and [`Arp::apply`] in one: returns what was changed, to be given back later.
    pub fn set(&self, target: &ArpTarget, wanted: Settings) -> Result<Change> {
        let change = self.plan(target, wanted)?;
        self.apply(&change)?;
        Ok(change)
    }

    /// Sets back what a change has set. A setting that another program has changed since stays,
    /// and is told.
    ///
    /// # Errors
    /// As [`Arp`]; with [`Cause::NoInterface`] there is nothing to give back any more.
    pub fn give_back(&self, change: &Change) -> Result<GivenBack> {
        let Change { target, before, after } = change;
        Ok(GivenBack {
            ignore: self.give_one_back(target, IGNORE, before.ignore.value(), after.ignore.value())?,
            announce: self.give_one_back(target, ANNOUNCE, before.announce.value(), after.announce.value())?,
        })
    }

    fn give_one_back(&self, target: &ArpTarget, setting: &str, before: i32, after: i32) -> Result<Returned> {
        match self.read(target, setting)? {
            now if now == before => Ok(Returned::Unchanged),
            now if now == after => self.write(target, setting, before).map(|()| Returned::Restored),
            now => Ok(Returned::Kept(now)),
        }
    }

    fn read(&self, target: &ArpTarget, setting: &str) -> Result<i32> {
        target.check()?;
        let path = target.path(setting);
        let missing = || match target {
            // There always is `all`, where there is a /proc.
            ArpTarget::All => Error::system("read", format!("/proc/sys/{path}"), Errno::NOENT),
            ArpTarget::Interface(_) => Error::Refused {
                operation: "read",
                object: format!("/proc/sys/{path}"),
                errno: Errno::NODEV.raw_os_error(),
                cause: Cause::NoInterface,
                message: None,
            },
        };
        let value = sysctl::read_number(&self.netns, &path)?.ok_or_else(missing)?;
        i32::try_from(value)
            .map_err(|_| Error::invalid(format!("/proc/sys/{path}"), format!("{value} is out of range")))
    }

    fn write(&self, target: &ArpTarget, setting: &str, value: i32) -> Result<()> {
        if self.read(target, setting)? == value {
            return Ok(());
        }
        sysctl::write(&self.netns, &target.path(setting), value)?;
        match self.read(target, setting)? {
            now if now == value => Ok(()),
            now => Err(Error::NotVerified {
                step: format!("set {target} {setting}={value}"),
                found: format!("it is {now}"),
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_modes() {
        for value in [-1, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, i32::MAX] {
            assert_eq!(IgnoreMode::from(value).value(), value);
            assert_eq!(AnnounceMode::from(value).value(), value);
        }
        assert_eq!(Settings::HIDE.to_string(), "arp_ignore=1 arp_announce=2");
    }

    // Columns: scope host, scope host with route_localnet, scope global. Held against a kernel in
    // tests/kernel/arp.rs.
    #[test]
    fn what_hides_a_loopback_vip() {
        for (mode, hidden) in [
            (0, [false; 3]),
            (1, [true; 3]),
            (2, [true; 3]),
            (3, [true, false, false]),
            (4, [false; 3]),
            (7, [false; 3]),
            (8, [true; 3]),
            (9, [false; 3]),
            (-1, [false; 3]),
        ] {
            let mode = IgnoreMode::from(mode);
            let found =
                [(true, false), (true, true), (false, false)].map(|(host, net)| mode.hides_loopback_vip(host, net));
            assert_eq!(found, hidden, "arp_ignore={mode}");
        }
    }

    #[test]
    fn a_change_as_text() {
        for target in [ArpTarget::All, ArpTarget::Interface("bond0.100".into())] {
            let change = Change { target, before: Settings::KERNEL, after: Settings::HIDE };
            assert_eq!(change.to_string().parse::<Change>().unwrap(), change);
        }
        for text in [
            "",
            "eth0",
            "eth0 arp_ignore=0 arp_announce=0 -> arp_ignore=1",
            "eth0 arp_ignore=0 arp_announce=0 -> arp_ignore=1 arp_announce=x",
            "eth0 arp_ignore=0 arp_announce=0 -> arp_announce=1 arp_ignore=1",
            "eth0 arp_ignore=99999999999 arp_announce=0 -> arp_ignore=1 arp_announce=1",
            "eth0 arp_ignore=0 arp_announce=0 -> arp_ignore=1 arp_announce=1 more",
        ] {
            assert!(matches!(text.parse::<Change>(), Err(Error::Parse { line: 1, .. })), "{text:?}");
        }
        let path = "../../x arp_ignore=0 arp_announce=0 -> arp_ignore=1 arp_announce=2";
        assert!(matches!(path.parse::<Change>(), Err(Error::Invalid { .. })));
    }

    #[test]
    fn names_that_are_no_interfaces() {
        let arp = Arp::open().unwrap();
        for name in ["", "all", "default", ".", "..", "a/b", "../all", "sixteen-letters-", "a b"] {
            let target = ArpTarget::Interface(name.into());
            assert!(matches!(arp.get(&target), Err(Error::Invalid { .. })), "{name:?}");
        }
        let missing = arp.get(&ArpTarget::Interface("no-such-one".into())).unwrap_err();
        assert_eq!((missing.cause(), missing.errno()), (Some(Cause::NoInterface), Some(19)));
    }

    #[test]
    fn settings_are_read_without_privileges() {
        let arp = Arp::open().unwrap();
        arp.effective("lo").unwrap();
        arp.route_localnet().unwrap();
    }
}
