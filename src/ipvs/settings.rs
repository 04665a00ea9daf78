//! The sysctls of IPVS, `net.ipv4.vs.*`, with their types. Each belongs to a network namespace.
//!
//! ```no_run
//! use lvs_dr::ipvs::{Ipvs, settings};
//!
//! let mut ipvs = Ipvs::open()?;
//! ipvs.set(settings::SLOPPY_TCP, true)?;
//! assert_eq!(ipvs.get(settings::SLOPPY_TCP)?, Some(true));
//! // Kernels before 6.2 have none of this.
//! assert_eq!(ipvs.get(settings::EST_NICE)?, None);
//! # Ok::<(), lvs_dr::Error>(())
//! ```
//!
//! What each does is described in the kernel's Documentation/networking/ipvs-sysctl.rst.

use std::fmt;
use std::marker::PhantomData;
use std::time::Duration;

/// A setting with values of type `T`.
pub struct Setting<T> {
    name: &'static str,
    values: PhantomData<fn() -> T>,
}

impl<T> Setting<T> {
    const fn new(name: &'static str) -> Self {
        Setting { name, values: PhantomData }
    }

    /// The name behind `net.ipv4.vs.`.
    pub fn name(self) -> &'static str {
        self.name
    }

    pub(super) fn path(self) -> String {
        format!("net/ipv4/vs/{}", self.name)
    }
}

// Derived, these would ask the same of `T`.
impl<T> Clone for Setting<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Setting<T> {}

impl<T> fmt::Debug for Setting<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Setting").field(&self.name).finish()
    }
}

/// What a setting can hold. Implemented by the types of the settings here, and by no others.
pub trait Value: Sized + sealed::Value {}

impl<T: sealed::Value> Value for T {}

pub(super) mod sealed {
    pub trait Value: Sized {
        /// What was expected, for the error.
        const EXPECTED: &'static str;
        fn read(text: &str) -> Option<Self>;
        /// `None`: the value cannot be written down.
        fn write(&self) -> Option<String>;
    }
}

impl sealed::Value for bool {
    const EXPECTED: &'static str = "0 or 1";

    fn read(text: &str) -> Option<Self> {
        text.parse::<i64>().ok().map(|number| number != 0)
    }
    fn write(&self) -> Option<String> {
        Some(u8::from(*self).to_string())
    }
}

impl sealed::Value for i32 {
    const EXPECTED: &'static str = "a number";

    fn read(text: &str) -> Option<Self> {
        text.parse().ok()
    }
    fn write(&self) -> Option<String> {
        Some(self.to_string())
    }
}

impl sealed::Value for u64 {
    const EXPECTED: &'static str = "a number";

    fn read(text: &str) -> Option<Self> {
        text.parse().ok()
    }
    fn write(&self) -> Option<String> {
        Some(self.to_string())
    }
}

/// Whole seconds.
impl sealed::Value for Duration {
    const EXPECTED: &'static str = "whole seconds";

    fn read(text: &str) -> Option<Self> {
        text.parse().ok().map(Duration::from_secs)
    }
    fn write(&self) -> Option<String> {
        (self.subsec_nanos() == 0 && self.as_secs() <= i32::MAX as u64).then(|| self.as_secs().to_string())
    }
}

impl sealed::Value for String {
    const EXPECTED: &'static str = "one line of text, not empty";

    fn read(text: &str) -> Option<Self> {
        Some(text.to_owned())
    }
    fn write(&self) -> Option<String> {
        (!self.is_empty() && !self.contains('\n')).then(|| self.clone())
    }
}

/// When a connection is sent to the backups: at its packet number `first`, and then at every
/// `period`-th.
///
/// With direct routing a director sees the client's packets only: 2, the last of the handshake, is
/// the earliest that works, and with 1 nothing is sent before packet number `period` + 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SyncThreshold {
    /// The first packet that counts, less than `period`.
    pub first: u32,
    /// From then on, every so many packets. 0: only when the state changes.
    pub period: u32,
}

impl sealed::Value for SyncThreshold {
    const EXPECTED: &'static str = "two numbers, of which the first is less than the second, or the second 0";

    fn read(text: &str) -> Option<Self> {
        let (first, period) = text.split_once(char::is_whitespace)?;
        Some(SyncThreshold { first: first.parse().ok()?, period: period.trim().parse().ok()? })
    }
    fn write(&self) -> Option<String> {
        (self.first < self.period || self.period == 0).then(|| format!("{} {}", self.first, self.period))
    }
}

macro_rules! settings {
    ($($(#[$doc:meta])* $constant:ident: $type:ty = $name:literal;)*) => {
        $($(#[$doc])* pub const $constant: Setting<$type> = Setting::new($name);)*

        /// The names of all settings known here, whether this kernel has them or not.
        pub const NAMES: &[&str] = &[$($name),*];

        /// How the kernel is given the value that `text` stands for, or what was expected in its
        /// place. `None`: no setting has this name.
        pub(super) fn written(name: &str, text: &str) -> Option<Result<String, &'static str>> {
            fn of<T: sealed::Value>(text: &str) -> Result<String, &'static str> {
                T::read(text).and_then(|value| value.write()).ok_or(T::EXPECTED)
            }
            match name {
                $($name => Some(of::<$type>(text)),)*
                _ => None,
            }
        }
    };
}

settings! {
    /// How many of the packets are dropped while memory is short (1 of so many).
    AM_DROPRATE: i32 = "am_droprate";
    /// Memory is short below this: in pages.
    AMEMTHRESH: i32 = "amemthresh";
    /// While a backup sync daemon runs, nothing is scheduled here: the kernel's own fence for a
    /// director that serves as well.
    BACKUP_ONLY: bool = "backup_only";
    /// Packets to addresses that are not local are sent on where a service has no destination.
    CACHE_BYPASS: bool = "cache_bypass";
    /// How the largest table of connections follows the load (kernel 7.2 and later): a load
    /// factor, as a power of 2.
    CONN_LFACTOR: i32 = "conn_lfactor";
    /// The largest number of connections (kernel 7.2 and later).
    CONN_MAX: i32 = "conn_max";
    /// How a port that a client uses again is treated: 0 goes to the same server, 1 may be
    /// rescheduled.
    CONN_REUSE_MODE: i32 = "conn_reuse_mode";
    /// netfilter's connection tracking is kept up.
    CONNTRACK: bool = "conntrack";
    /// Connections are dropped while memory is short: 0 never, 1 when needed, 3 always.
    DROP_ENTRY: i32 = "drop_entry";
    /// Packets are dropped while memory is short: 0 never, 1 when needed, 3 always.
    DROP_PACKET: i32 = "drop_packet";
    /// On which processors counters are kept up (kernel 6.2 and later): a list such as `0-3`.
    EST_CPULIST: String = "est_cpulist";
    /// The niceness of the threads that keep counters up (kernel 6.2 and later).
    EST_NICE: i32 = "est_nice";
    /// A connection whose destination is gone ends at once; else its packets are dropped until it
    /// expires.
    EXPIRE_NODEST_CONN: bool = "expire_nodest_conn";
    /// A persistence template ends when its destination gets weight 0; else new connections go on
    /// to it.
    EXPIRE_QUIESCENT_TEMPLATE: bool = "expire_quiescent_template";
    /// Packets that came out of a tunnel are not scheduled.
    IGNORE_TUNNELED: bool = "ignore_tunneled";
    /// ICMP errors to NATed clients are sent.
    NAT_ICMP_SEND: bool = "nat_icmp_send";
    /// Path MTU discovery.
    PMTU_DISC: bool = "pmtu_disc";
    /// Counters and rates are kept up.
    RUN_ESTIMATION: bool = "run_estimation";
    /// ICMP packets without a connection are scheduled.
    SCHEDULE_ICMP: bool = "schedule_icmp";
    /// Defence against half-open connections: 0 never, 1 when memory is short, 3 always.
    SECURE_TCP: i32 = "secure_tcp";
    /// An SCTP connection may begin with any packet.
    SLOPPY_SCTP: bool = "sloppy_sctp";
    /// A TCP connection may begin with any packet but RST and FIN: needed where a director takes
    /// over sessions that it never received.
    SLOPPY_TCP: bool = "sloppy_tcp";
    /// Answers of NATed servers are routed anew.
    SNAT_REROUTE: bool = "snat_reroute";
    /// How the largest table of services follows their number (kernel 7.2 and later): a load
    /// factor, as a power of 2.
    SVC_LFACTOR: i32 = "svc_lfactor";
    /// Templates only are sent to the backups, where their service is persistent.
    SYNC_PERSIST_MODE: bool = "sync_persist_mode";
    /// How many threads and UDP ports the daemons use: 1, 2, 4, 8, 16, 32 or 64.
    SYNC_PORTS: i32 = "sync_ports";
    /// How much memory sync messages may queue in: in pages.
    SYNC_QLEN_MAX: u64 = "sync_qlen_max";
    /// How long an unchanged connection is not sent again.
    SYNC_REFRESH_PERIOD: Duration = "sync_refresh_period";
    /// How often a change is sent again within a second.
    SYNC_RETRIES: i32 = "sync_retries";
    /// The sync sockets' buffers, in octets; 0 leaves the system's default.
    SYNC_SOCK_SIZE: i32 = "sync_sock_size";
    /// When a connection is sent to the backups.
    SYNC_THRESHOLD: SyncThreshold = "sync_threshold";
    /// The version of the sync protocol: 0 (kernels before 2.6.39), or 1.
    SYNC_VERSION: i32 = "sync_version";
}

#[cfg(test)]
mod tests {
    use super::sealed::Value;
    use super::*;

    #[test]
    fn values_are_read_and_written_as_the_kernel_does() {
        assert_eq!(SyncThreshold::read("3\t50"), Some(SyncThreshold { first: 3, period: 50 }));
        assert_eq!(SyncThreshold { first: 2, period: 50 }.write(), Some("2 50".into()));
        assert_eq!(SyncThreshold { first: 50, period: 50 }.write(), None);
        assert_eq!(SyncThreshold::read("3"), None);
        assert_eq!(bool::read("1"), Some(true));
        assert_eq!(Duration::from_millis(1500).write(), None);
        assert_eq!("a\nb".to_owned().write(), None);
        assert_eq!(written("sync_threshold", "3 50"), Some(Ok("3 50".into())));
        assert_eq!(written("sync_threshold", "50"), Some(Err(SyncThreshold::EXPECTED)));
        assert_eq!(written("sloppy_tcp", "on"), Some(Err("0 or 1")));
        assert_eq!(written("../../kernel/panic", "1"), None);
    }
}
