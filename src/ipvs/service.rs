//! Virtual services: what is balanced, and how.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::num::NonZeroU32;
use std::str::FromStr;
use std::time::Duration;

use super::Stats;
use super::table::number;
use crate::error::{Error, Result};

/// An address family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "lowercase"))]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// The family of this address.
    pub fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(_) => Family::V4,
            IpAddr::V6(_) => Family::V6,
        }
    }
}

/// What names a virtual service: a protocol, address and port, or a firewall mark.
///
/// As text: `tcp 192.168.0.254:80`, `udp [2001:db8::fe]:53`, `fwmark 1`, `fwmark 1 ipv6`.
///
/// The order is by kind (marks first), family, protocol, address and port.
///
/// ```
/// use lvs_dr::ipvs::{Family, ServiceId};
///
/// let web: ServiceId = "tcp 192.168.0.254:80".parse()?;
/// assert_eq!(web.address(), Some(([192, 168, 0, 254], 80).into()));
/// assert_eq!(ServiceId::fwmark(7, Family::V6)?.to_string(), "fwmark 7 ipv6");
/// assert!("tcp 192.168.0.254".parse::<ServiceId>().is_err());
/// # Ok::<(), lvs_dr::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ServiceId {
    /// A TCP service. Port 0 stands for every port, and needs persistence.
    Tcp(SocketAddr),
    /// A UDP service.
    Udp(SocketAddr),
    /// An SCTP service.
    Sctp(SocketAddr),
    /// All packets with this firewall mark, see `MARK` in iptables-extensions(8).
    Fwmark {
        /// The mark, never 0: that is what every unmarked packet has.
        mark: NonZeroU32,
        /// The packets' family.
        family: Family,
    },
}

impl ServiceId {
    /// A TCP service.
    pub fn tcp(address: SocketAddr) -> Self {
        ServiceId::Tcp(address)
    }

    /// A UDP service.
    pub fn udp(address: SocketAddr) -> Self {
        ServiceId::Udp(address)
    }

    /// An SCTP service.
    pub fn sctp(address: SocketAddr) -> Self {
        ServiceId::Sctp(address)
    }

    /// A firewall mark.
    ///
    /// # Errors
    /// [`Error::Invalid`] for mark 0.
    pub fn fwmark(mark: u32, family: Family) -> Result<Self> {
        match NonZeroU32::new(mark) {
            Some(mark) => Ok(ServiceId::Fwmark { mark, family }),
            None => Err(Error::invalid("fwmark 0", "every unmarked packet has mark 0; 1 to 4294967295 were expected")),
        }
    }

    /// Protocol name and address, where the service has an address.
    pub fn address(&self) -> Option<SocketAddr> {
        match *self {
            ServiceId::Tcp(a) | ServiceId::Udp(a) | ServiceId::Sctp(a) => Some(a),
            ServiceId::Fwmark { .. } => None,
        }
    }

    /// The family of the packets that are balanced.
    pub fn family(&self) -> Family {
        match *self {
            ServiceId::Tcp(a) | ServiceId::Udp(a) | ServiceId::Sctp(a) => Family::of(a.ip()),
            ServiceId::Fwmark { family, .. } => family,
        }
    }

    /// What the order goes by first: kind, family and protocol, as in linux/in.h.
    fn rank(&self) -> (u8, Family, u8) {
        match self {
            ServiceId::Fwmark { .. } => (0, Family::V4, 0),
            ServiceId::Tcp(_) => (1, self.family(), 6),
            ServiceId::Udp(_) => (1, self.family(), 17),
            ServiceId::Sctp(_) => (1, self.family(), 132),
        }
    }
}

impl Ord for ServiceId {
    #[inline]
    fn cmp(&self, other: &Self) -> Ordering {
        // Tables are searched by this order: the two kinds that most services are of come first.
        match (self, other) {
            (ServiceId::Tcp(SocketAddr::V4(one)), ServiceId::Tcp(SocketAddr::V4(other)))
            | (ServiceId::Udp(SocketAddr::V4(one)), ServiceId::Udp(SocketAddr::V4(other))) => {
                number(one).cmp(&number(other))
            }
            (ServiceId::Fwmark { mark, family }, ServiceId::Fwmark { mark: other, family: others }) => {
                (mark, family).cmp(&(other, others))
            }
            _ => (self.rank(), self.address()).cmp(&(other.rank(), other.address())),
        }
    }
}

impl PartialOrd for ServiceId {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl fmt::Display for ServiceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ServiceId::Tcp(a) => write!(f, "tcp {a}"),
            ServiceId::Udp(a) => write!(f, "udp {a}"),
            ServiceId::Sctp(a) => write!(f, "sctp {a}"),
            ServiceId::Fwmark { mark, family: Family::V4 } => write!(f, "fwmark {mark}"),
            ServiceId::Fwmark { mark, family: Family::V6 } => write!(f, "fwmark {mark} ipv6"),
        }
    }
}

impl FromStr for ServiceId {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let expected = "`tcp ADDRESS:PORT`, `udp ADDRESS:PORT`, `sctp ADDRESS:PORT`, `fwmark MARK` or `fwmark MARK ipv6` was expected; \
                        an IPv6 address stands in brackets: `[2001:db8::1]:80`";
        let wrong = || Error::invalid(format!("service {text:?}"), expected);
        let words: Vec<&str> = text.split_ascii_whitespace().collect();
        let address = |a: &str| a.parse::<SocketAddr>().map_err(|_| wrong());
        match words[..] {
            ["tcp", a] => Ok(ServiceId::Tcp(address(a)?)),
            ["udp", a] => Ok(ServiceId::Udp(address(a)?)),
            ["sctp", a] => Ok(ServiceId::Sctp(address(a)?)),
            ["fwmark", mark] => ServiceId::fwmark(mark.parse().map_err(|_| wrong())?, Family::V4),
            ["fwmark", mark, "ipv6"] => ServiceId::fwmark(mark.parse().map_err(|_| wrong())?, Family::V6),
            _ => Err(wrong()),
        }
    }
}

/// The name of a scheduler: how the next destination is chosen, see `-s` in ipvsadm(8).
///
/// The constants are those that come with the kernel; a module may add more.
///
/// ```
/// use lvs_dr::ipvs::Scheduler;
///
/// assert_eq!(Scheduler::new("mh")?, Scheduler::MH);
/// assert_eq!(Scheduler::new("own_module")?.name(), "own_module");
/// assert!(Scheduler::new("two words").is_err());
/// # Ok::<(), lvs_dr::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Scheduler(Cow<'static, str>);

impl Scheduler {
    /// Round robin.
    pub const RR: Scheduler = Scheduler(Cow::Borrowed("rr"));
    /// Weighted round robin.
    pub const WRR: Scheduler = Scheduler(Cow::Borrowed("wrr"));
    /// Least connections.
    pub const LC: Scheduler = Scheduler(Cow::Borrowed("lc"));
    /// Weighted least connections.
    pub const WLC: Scheduler = Scheduler(Cow::Borrowed("wlc"));
    /// Locality-based least connections.
    pub const LBLC: Scheduler = Scheduler(Cow::Borrowed("lblc"));
    /// Locality-based least connections with replication.
    pub const LBLCR: Scheduler = Scheduler(Cow::Borrowed("lblcr"));
    /// Destination hashing.
    pub const DH: Scheduler = Scheduler(Cow::Borrowed("dh"));
    /// Source hashing.
    pub const SH: Scheduler = Scheduler(Cow::Borrowed("sh"));
    /// Maglev hashing: equal tables choose equally on every node.
    pub const MH: Scheduler = Scheduler(Cow::Borrowed("mh"));
    /// Shortest expected delay.
    pub const SED: Scheduler = Scheduler(Cow::Borrowed("sed"));
    /// Never queue.
    pub const NQ: Scheduler = Scheduler(Cow::Borrowed("nq"));
    /// Weighted failover: the destination with the highest weight.
    pub const FO: Scheduler = Scheduler(Cow::Borrowed("fo"));
    /// Weighted overflow: the next destination when one has as many connections as its weight.
    pub const OVF: Scheduler = Scheduler(Cow::Borrowed("ovf"));
    /// The better of two random choices (kernel 5.13 and later).
    pub const TWOS: Scheduler = Scheduler(Cow::Borrowed("twos"));

    /// Those of Linux 7.2.
    pub const ALL: [Scheduler; 14] = [
        Self::RR,
        Self::WRR,
        Self::LC,
        Self::WLC,
        Self::LBLC,
        Self::LBLCR,
        Self::DH,
        Self::SH,
        Self::MH,
        Self::SED,
        Self::NQ,
        Self::FO,
        Self::OVF,
        Self::TWOS,
    ];

    /// A scheduler by its name.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a name that is not 1 to 15 letters, digits, `_` or `-`. Whether the
    /// kernel knows it shows only when a service is added.
    pub fn new(name: &str) -> Result<Self> {
        check_module_name("scheduler", name)?;
        let known = KNOWN.iter().find(|known| known.name() == name);
        Ok(known.cloned().unwrap_or_else(|| Scheduler(Cow::Owned(name.to_owned()))))
    }

    /// As the kernel lists it: up to a NUL. A service without one has "none".
    pub(super) fn listed(octets: &[u8]) -> Result<Self> {
        let name = octets.split(|octet| *octet == 0).next().unwrap_or_default();
        match name {
            [] => Scheduler::new("none"),
            name => Scheduler::new(&String::from_utf8_lossy(name)),
        }
    }

    /// The name.
    pub fn name(&self) -> &str {
        &self.0
    }
}

/// Their names need no allocation. Those that most use come first.
static KNOWN: [Scheduler; 14] = [
    Scheduler::WRR,
    Scheduler::WLC,
    Scheduler::RR,
    Scheduler::LC,
    Scheduler::MH,
    Scheduler::SH,
    Scheduler::DH,
    Scheduler::SED,
    Scheduler::NQ,
    Scheduler::FO,
    Scheduler::OVF,
    Scheduler::LBLC,
    Scheduler::LBLCR,
    Scheduler::TWOS,
];

impl fmt::Display for Scheduler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Scheduler {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        Scheduler::new(name)
    }
}

// The name becomes part of a module's name that the kernel loads; IP_VS_SCHEDNAME_MAXLEN and
// IP_VS_PENAME_MAXLEN are 16 with the NUL.
fn check_module_name(what: &str, name: &str) -> Result<()> {
    let plain = name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
    match plain && (1..=15).contains(&name.len()) {
        true => Ok(()),
        false => Err(Error::invalid(
            format!("{what} {name:?}"),
            "a name of 1 to 15 letters, digits, `_` or `-` was expected",
        )),
    }
}

bitflags::bitflags! {
    /// Flags of a virtual service, `IP_VS_SVC_F_*` in linux/ip_vs.h. Bits unknown here are kept.
    ///
    /// The bits for persistence and for the kernel's own use are not among them: see
    /// [`Service::persistence`].
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
    pub struct ServiceFlags: u32 {
        /// Each UDP packet is scheduled by itself.
        const ONE_PACKET = 0x04;
        /// The scheduler's first flag.
        const SCHED1 = 0x08;
        /// The scheduler's second flag.
        const SCHED2 = 0x10;
        /// The scheduler's third flag.
        const SCHED3 = 0x20;
        /// `sh`: choose another destination where the one chosen has weight 0 or is overloaded.
        const SH_FALLBACK = 0x08;
        /// `sh`: the source port counts too.
        const SH_PORT = 0x10;
        /// `mh`: choose another destination where the one chosen has weight 0 or is overloaded.
        const MH_FALLBACK = 0x08;
        /// `mh`: the source port counts too.
        const MH_PORT = 0x10;
        const _ = !0;
    }
}

/// Connections of one client go to one destination for a while, see `-p` in ipvsadm(8).
///
/// ```
/// use std::time::Duration;
/// use lvs_dr::ipvs::{Family, Persistence, Scheduler, Service, ServiceId};
///
/// let persistence = Persistence::new(Duration::from_secs(300), Family::V4);
/// let web = ServiceId::tcp(([192, 168, 0, 254], 80).into());
/// let service = Service::new(web, Scheduler::WRR).persistence(persistence);
/// assert_eq!(service.to_string(), "-A -t 192.168.0.254:80 -s wrr -p 300");
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Persistence {
    /// For how long after the last connection: whole seconds, at least 1.
    #[cfg_attr(feature = "serde", serde(with = "super::serialize::seconds"))]
    pub timeout: Duration,
    /// Which clients count as one.
    pub netmask: Netmask,
}

impl Persistence {
    /// Persistence for each client address by itself.
    pub fn new(timeout: Duration, family: Family) -> Self {
        Persistence { timeout, netmask: Netmask::full(family) }
    }
}

/// Which part of a client's address counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "lowercase"))]
pub enum Netmask {
    /// IPv4: the bits that count.
    V4(Ipv4Addr),
    /// IPv6: how many bits count, 1 to 128.
    V6(u8),
}

impl Netmask {
    /// The whole address counts.
    pub fn full(family: Family) -> Self {
        match family {
            Family::V4 => Netmask::V4(Ipv4Addr::BROADCAST),
            Family::V6 => Netmask::V6(128),
        }
    }
}

/// A virtual service, as it is wanted.
///
/// ```
/// use lvs_dr::ipvs::{Scheduler, Service, ServiceId};
///
/// let web = ServiceId::tcp("192.168.0.254:80".parse()?);
/// let service = Service::new(web, Scheduler::WRR);
/// assert_eq!(service.to_string(), "-A -t 192.168.0.254:80 -s wrr");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Service {
    /// What is balanced.
    pub id: ServiceId,
    /// How.
    pub scheduler: Scheduler,
    /// One-packet scheduling and the scheduler's flags.
    #[cfg_attr(feature = "serde", serde(default))]
    pub flags: ServiceFlags,
    /// Whether a client stays with its destination.
    #[cfg_attr(feature = "serde", serde(default))]
    pub persistence: Option<Persistence>,
    /// The persistence engine (`sip`), where it is not the client's address that tells clients
    /// apart.
    #[cfg_attr(feature = "serde", serde(default))]
    pub engine: Option<String>,
}

impl Service {
    /// A service without flags and persistence.
    pub fn new(id: ServiceId, scheduler: Scheduler) -> Self {
        Service { id, scheduler, flags: ServiceFlags::empty(), persistence: None, engine: None }
    }

    /// The same with these flags.
    pub fn flags(mut self, flags: ServiceFlags) -> Self {
        self.flags = flags;
        self
    }

    /// The same with persistence.
    pub fn persistence(mut self, persistence: Persistence) -> Self {
        self.persistence = Some(persistence);
        self
    }

    /// The same with this persistence engine.
    pub fn engine(mut self, engine: &str) -> Self {
        self.engine = Some(engine.to_owned());
        self
    }

    /// Refuses what makes no sense: among it what the kernel would take.
    ///
    /// # Errors
    /// [`Error::Invalid`] with the reason.
    pub fn check(&self) -> Result<()> {
        let refuse = |reason: &str| Err(Error::invalid(self.id, reason));
        if let Some(address) = self.id.address() {
            check_address(&self.id, address)?;
            if address.port() == 0 && self.persistence.is_none() {
                return refuse(
                    "port 0 (every port) needs persistence, or a client's connections end on different servers",
                );
            }
        }
        if self.flags.contains(ServiceFlags::ONE_PACKET) && matches!(self.id, ServiceId::Tcp(_) | ServiceId::Sctp(_)) {
            return refuse("one-packet scheduling is for UDP: it would tear connections apart");
        }
        if self.flags.bits() & 0x3 != 0 {
            return refuse("flag bits 0x1 and 0x2 are not for setting: use `persistence`");
        }
        self.engine.as_deref().map_or(Ok(()), |engine| check_module_name("persistence engine", engine))?;
        let Some(persistence) = &self.persistence else { return Ok(()) };
        if persistence.timeout.subsec_nanos() != 0
            || persistence.timeout.as_secs() == 0
            || persistence.timeout.as_secs() > MAX_PERSISTENCE
        {
            return refuse("the persistence time must be whole seconds, from 1 to 2678400 (31 days)");
        }
        match (persistence.netmask, self.id.family()) {
            (Netmask::V4(mask), Family::V4) if !mask.is_unspecified() => Ok(()),
            (Netmask::V6(1..=128), Family::V6) => Ok(()),
            _ => refuse(
                "the persistence netmask must fit the address family: a non-zero mask for IPv4, a prefix of 1 to 128 for IPv6",
            ),
        }
    }
}

/// As `ipvsadm` does: longer times overflow the kernel's timers on some machines.
const MAX_PERSISTENCE: u64 = 31 * 24 * 60 * 60;

pub(super) fn check_address(what: &dyn fmt::Display, address: SocketAddr) -> Result<()> {
    let reason = match address {
        SocketAddr::V6(a) if a.scope_id() != 0 || a.flowinfo() != 0 => {
            "IPVS knows no scopes or flow labels: leave `%SCOPE` out"
        }
        _ => return Ok(()),
    };
    Err(Error::invalid(what, reason))
}

/// A virtual service, as the kernel has it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ServiceEntry {
    /// What it was set to.
    pub service: Service,
    /// What it has done.
    pub stats: Stats,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_read_as_they_print() {
        for text in ["tcp 192.168.0.254:80", "udp [2001:db8::fe]:53", "sctp 10.0.0.1:9", "fwmark 7", "fwmark 7 ipv6"] {
            assert_eq!(text.parse::<ServiceId>().unwrap().to_string(), text);
        }
        for text in [
            "",
            "tcp",
            "tcp 1.2.3.4",
            "tcp ::1:80",
            "fwmark 0",
            "fwmark -1",
            "fwmark 1 ipv4",
            "icmp 1.2.3.4:5",
            "tcp 1.2.3.4:80 x",
        ] {
            let error = text.parse::<ServiceId>().unwrap_err();
            assert!(matches!(error, Error::Invalid { .. }), "{text}: {error}");
        }
    }

    #[test]
    fn ids_are_in_order() {
        let sorted = ["fwmark 3", "fwmark 3 ipv6", "tcp 1.0.0.2:1", "tcp 1.0.0.10:80", "udp 1.0.0.1:1", "tcp [::2]:1"];
        let mut ids: Vec<ServiceId> = sorted.iter().rev().map(|t| t.parse().unwrap()).collect();
        ids.sort();
        assert_eq!(ids.iter().map(|i| i.to_string()).collect::<Vec<_>>(), sorted);
    }

    #[test]
    fn what_the_kernel_would_wrongly_take_is_refused() {
        let tcp = |a: &str| Service::new(ServiceId::tcp(a.parse().unwrap()), Scheduler::RR);
        let v4 = |secs| Persistence::new(Duration::from_secs(secs), Family::V4);
        assert!(tcp("1.2.3.4:80").check().is_ok());
        assert!(tcp("1.2.3.4:0").check().is_err());
        assert!(tcp("1.2.3.4:0").persistence(v4(300)).check().is_ok());
        assert!(tcp("1.2.3.4:80").persistence(v4(0)).check().is_err());
        assert!(tcp("[::2]:80").persistence(v4(300)).check().is_err());
        assert!(
            tcp("1.2.3.4:80")
                .persistence(Persistence { netmask: Netmask::V4(Ipv4Addr::UNSPECIFIED), ..v4(300) })
                .check()
                .is_err()
        );
        assert!(tcp("1.2.3.4:80").flags(ServiceFlags::ONE_PACKET).check().is_err());
        assert!(tcp("[fe80::1%3]:80").check().is_err());
    }
}
