//! Fences: what keeps the IPVS of a backup from scheduling what the director has scheduled
//! already. Pure.
//!
//! [`marks`] and [`clear`] hold all that is known of the two fences. This file holds what they
//! share: sync daemons and sysctls.

pub(super) mod classifier;
pub(super) mod clear;
pub(super) mod marks;

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::str::FromStr;

use crate::error::{Error, Result};
use crate::ipvs::settings::{self, Setting};
use crate::ipvs::{SyncDaemon, SyncRole};

/// What keeps the IPVS of a backup from scheduling what the director has scheduled already.
///
/// A backup with a live table and no fence schedules the packets that the director sends it once
/// more, and sends them to a third node: a loop that ends when their TTL does.
///
/// With both fences the sync daemons of the kernel copy the director's connections to all nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Fence {
    /// Every node has the full, live table. tc rules mark the packets that come from the MAC
    /// address of another node, and an IPVS service of that mark has the node itself as its only
    /// destination. A promotion moves the VIP and removes one rule; the table stays as it is, and
    /// its weights are those of its editor. Needs cls_bpf and act_skbedit in the kernel.
    #[default]
    Marks,
    /// A backup has no table: it is kept in a file, and restored at promotion. For kernels without
    /// the modules of [`Fence::Marks`].
    Clear,
}

impl Fence {
    /// The fences, with the names that [`Display`](fmt::Display) prints.
    pub const ALL: [Fence; 2] = [Fence::Marks, Fence::Clear];

    /// The fences of versions up to 0.1, which [`Fence::Marks`] supersedes.
    pub const SUPERSEDED: [&str; 3] = ["quiesce", "stateless", "backup-only"];

    fn name(self) -> &'static str {
        match self {
            Fence::Marks => "marks",
            Fence::Clear => "clear",
        }
    }
}

impl fmt::Display for Fence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Fence {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let found = Fence::ALL.into_iter().find(|fence| fence.name() == text);
        found.ok_or_else(|| {
            let reason = match Fence::SUPERSEDED.contains(&text) {
                true => "fence `marks` supersedes it: write \"marks\", or leave the fence out",
                false => "marks or clear was expected",
            };
            Error::invalid(format!("fence {text:?}"), reason)
        })
    }
}

/// How the nodes synchronise their connections, see [`SyncDaemon`](crate::ipvs::SyncDaemon).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SyncConfig {
    /// The interface that the messages pass.
    pub interface: String,
    /// Which nodes belong together, 1 to 255: other clusters on the link need another.
    pub id: u8,
    /// The multicast group; `None`: 224.0.0.81.
    pub group: Option<IpAddr>,
    /// The UDP port; `None`: 8848.
    pub port: Option<u16>,
    /// How many routers a message may pass; `None`: 1.
    pub ttl: Option<u8>,
    /// The length of the director's messages, in octets of UDP payload. A message is sent when it
    /// is full, or after two seconds; a crash of the director loses what waits. 1: each connection
    /// is sent by itself (80 octets for IPv6, 44 for IPv4). `None`: the kernel's choice, 1472,
    /// which saves packets where a thousand connections are opened in a second.
    pub max_length: Option<u16>,
    /// The file with the cluster's key, the same on all nodes: the nodes' beacons prove with it
    /// that they come from a node of the cluster. `None`: they prove nothing. The kernel's sync
    /// messages have no key.
    pub key_file: Option<PathBuf>,
}

impl SyncConfig {
    /// Where sync messages go to, and one port below the nodes' beacons.
    pub(super) fn group_and_ports(&self) -> (IpAddr, [u16; 2]) {
        let port = self.port.unwrap_or(SyncDaemon::DEFAULT_PORT);
        (self.group.unwrap_or(SyncDaemon::DEFAULT_GROUP), [port, port.wrapping_sub(1)])
    }

    /// The daemon of a director, or of a backup.
    pub(super) fn daemon(&self, role: SyncRole) -> SyncDaemon {
        SyncDaemon {
            group: self.group,
            port: self.port,
            ttl: self.ttl,
            // A backup must take what others send.
            max_length: self.max_length.filter(|_| role == SyncRole::Master),
            ..SyncDaemon::new(role, &self.interface, self.id)
        }
    }
}

/// The sync daemons of a node. A director sends and receives: a new director still receives what
/// the old one has to send.
pub(super) fn daemons(sync: &SyncConfig, directs: bool) -> BTreeMap<SyncRole, Option<SyncDaemon>> {
    [(SyncRole::Master, directs), (SyncRole::Backup, true)]
        .map(|(role, wanted)| (role, wanted.then(|| sync.daemon(role))))
        .into()
}

/// No sync daemon of either role.
pub(super) fn no_daemons() -> BTreeMap<SyncRole, Option<SyncDaemon>> {
    [(SyncRole::Master, None), (SyncRole::Backup, None)].into()
}

/// A sysctl of IPVS, below net.ipv4.vs, with the value that a fence needs.
pub(super) type Sysctl = (&'static str, String);

/// The sysctls that a fence needs, in every role. `persistent`: one of the user's services is
/// persistent.
pub(super) fn sysctls(fence: Fence, persistent: bool) -> Vec<Sysctl> {
    let own = match fence {
        Fence::Marks => marks::sysctls(persistent),
        Fence::Clear => clear::sysctls(),
    };
    [own, of_sync_daemons()].concat()
}

fn set<T: settings::Value>(setting: Setting<T>, value: &str) -> Sysctl {
    (setting.name(), value.to_owned())
}

/// A connection is sent when it is established, then every ten seconds while packets arrive, each
/// time twice.
///
/// With a period of packets instead (the kernel's 3 and 50) a connection is sent at its third
/// packet or not before its 53rd: with direct routing the director sees the client's packets only,
/// and a client that asks little, or had to repeat its first packet, would never be synchronised
/// (`ip_vs_sync_conn_needed()` in net/netfilter/ipvs/ip_vs_sync.c).
///
/// `conn_reuse_mode` 0: a client that uses a port again meets the entry that other nodes still
/// have for it, and nodes that disagree send its packets in circles.
fn of_sync_daemons() -> Vec<Sysctl> {
    vec![
        set(settings::SYNC_THRESHOLD, "2 0"),
        set(settings::SYNC_REFRESH_PERIOD, "10"),
        set(settings::SYNC_RETRIES, "1"),
        set(settings::CONN_REUSE_MODE, "0"),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_and_superseded_ones_explained() {
        for fence in Fence::ALL {
            assert_eq!(fence.to_string().parse::<Fence>().unwrap(), fence);
        }
        for name in Fence::SUPERSEDED {
            assert!(name.parse::<Fence>().unwrap_err().to_string().contains("write \"marks\""));
        }
        assert!("none".parse::<Fence>().unwrap_err().to_string().contains("marks or clear"));
    }

    #[test]
    fn a_director_sends_and_everyone_receives() {
        let sync = SyncConfig {
            interface: "eth0".into(),
            id: 1,
            group: None,
            port: None,
            ttl: None,
            max_length: Some(1),
            key_file: None,
        };
        let backup = daemons(&sync, false);
        assert_eq!((backup[&SyncRole::Master].is_some(), backup[&SyncRole::Backup].is_some()), (false, true));
        let master = daemons(&sync, true);
        // A backup must take what others send, however long.
        let lengths =
            [SyncRole::Master, SyncRole::Backup].map(|role| master[&role].as_ref().map(|daemon| daemon.max_length));
        assert_eq!(lengths, [Some(Some(1)), Some(None)]);
    }
}
