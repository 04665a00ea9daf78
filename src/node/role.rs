//! Roles.

use std::fmt;
use std::str::FromStr;

use crate::error::{Error, Result};

/// What a node is for its VIPs, as VRRP names it.
///
/// ```
/// use lvs_dr::node::Role;
///
/// assert_eq!("backup".parse::<Role>()?, Role::Backup);
/// assert_eq!(Role::Master.to_string(), "master");
/// # Ok::<(), lvs_dr::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "snake_case"))]
pub enum Role {
    /// Directs, and serves.
    Master,
    /// Serves what the director sends it.
    Backup,
    /// As a backup: VRRP found a fault (a link down, say), and another node directs.
    Fault,
    /// As a backup: VRRP was stopped, and another node directs. The node goes on serving; to take
    /// it out, see [`Node::release`](super::Node::release).
    Stop,
}

impl Role {
    /// The roles, with the names that [`Display`](fmt::Display) prints.
    pub const ALL: [Role; 4] = [Role::Master, Role::Backup, Role::Fault, Role::Stop];

    fn name(self) -> &'static str {
        match self {
            Role::Master => "master",
            Role::Backup => "backup",
            Role::Fault => "fault",
            Role::Stop => "stop",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Role {
    type Err = Error;

    /// Reads a role by its name; case does not matter, so that keepalived's own words (`MASTER`)
    /// do.
    fn from_str(text: &str) -> Result<Self> {
        let found = Role::ALL.into_iter().find(|role| role.name().eq_ignore_ascii_case(text));
        found.ok_or_else(|| Error::invalid(format!("role {text:?}"), "master, backup, fault or stop was expected"))
    }
}
