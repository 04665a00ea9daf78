//! The sync daemons: a director tells the backups of its connections.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};

use crate::error::{Error, Result};

/// Which side of the synchronisation a daemon is on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "lowercase"))]
pub enum SyncRole {
    /// Sends this node's connections.
    Master,
    /// Takes in those of others.
    Backup,
}

impl fmt::Display for SyncRole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            SyncRole::Master => "master",
            SyncRole::Backup => "backup",
        })
    }
}

/// A sync daemon, see `--start-daemon` in ipvsadm(8). A node can run one of each role.
///
/// What is `None` is the kernel's choice when a daemon is started; of a daemon that was read, all
/// is known.
///
/// ```no_run
/// use lvs_dr::ipvs::{Ipvs, SyncDaemon, SyncRole};
///
/// let mut ipvs = Ipvs::open()?;
/// ipvs.start_sync_daemon(&SyncDaemon::new(SyncRole::Backup, "eth0", 7))?;
/// assert_eq!(ipvs.sync_daemons()?[0].role, SyncRole::Backup);
/// ipvs.stop_sync_daemon(SyncRole::Backup)?;
/// # Ok::<(), lvs_dr::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct SyncDaemon {
    /// Sends or receives.
    pub role: SyncRole,
    /// The interface that the messages pass.
    pub interface: String,
    /// Which daemons belong together. A backup with id 0 listens to all.
    pub sync_id: u8,
    /// The longest message, in octets of UDP payload. The kernel's choice fits the interface.
    pub max_length: Option<u16>,
    /// The multicast group; the kernel's choice is 224.0.0.81.
    pub group: Option<IpAddr>,
    /// The UDP port; the kernel's choice is 8848. More ports from there on are used with
    /// `sync_ports`.
    pub port: Option<u16>,
    /// How many routers a message may pass, from 1 on, the kernel's choice.
    pub ttl: Option<u8>,
}

impl SyncDaemon {
    /// A daemon with the kernel's choices.
    pub fn new(role: SyncRole, interface: &str, sync_id: u8) -> Self {
        let interface = interface.to_owned();
        SyncDaemon { role, interface, sync_id, max_length: None, group: None, port: None, ttl: None }
    }

    /// Refuses what makes no sense: among it what the kernel would take.
    ///
    /// # Errors
    /// [`Error::Invalid`] with the reason.
    pub fn check(&self) -> Result<()> {
        let refuse = |reason: &str| Err(Error::invalid(self, reason));
        if self.interface.is_empty() || self.interface.len() > 15 {
            return refuse("an interface's name of 1 to 15 octets was expected, as in `ip link`");
        }
        if self.group.is_some_and(|group| !group.is_multicast()) {
            return refuse("the group must be a multicast address, 224.0.0.0/4 or ff00::/8");
        }
        if self.port == Some(0) || self.ttl == Some(0) || self.max_length == Some(0) {
            return refuse("port, TTL and length must not be 0");
        }
        Ok(())
    }

    /// Whether `running` is what starting this daemon would give.
    pub fn is_met_by(&self, running: &SyncDaemon) -> bool {
        let same = |wanted: &Option<_>, found: &Option<_>| wanted.is_none() || wanted == found;
        (self.role, &self.interface, self.sync_id) == (running.role, &running.interface, running.sync_id)
            && (self.max_length.is_none() || self.max_length == running.max_length)
            && same(&self.group, &running.group)
            && (self.port.is_none() || self.port == running.port)
            && (self.ttl.is_none() || self.ttl == running.ttl)
    }

    /// The group that the kernel chooses.
    pub const DEFAULT_GROUP: IpAddr = IpAddr::V4(Ipv4Addr::new(224, 0, 0, 81));
    /// The port that the kernel chooses.
    pub const DEFAULT_PORT: u16 = 8848;
}

/// `sync daemon backup on eth0 (id 1)`
impl fmt::Display for SyncDaemon {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sync daemon {} on {} (id {})", self.role, self.interface, self.sync_id)
    }
}
