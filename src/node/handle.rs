//! The handle of a node, for one group of VIPs.

use std::collections::BTreeSet;
use std::fs;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::SystemTime;

use super::config::{Config, VipOwner};
use super::lan::{self, Doubt};
use super::role::Role;
use super::roles::check_interface;
use super::state::StateDir;
use super::supervisor::Remembered;
use crate::arp::Arp;
use crate::error::{Error, Result};
use crate::ipvs::Ipvs;
use crate::marks::{LocalMarks, Marks};
use crate::netns::Netns;
use crate::vip::Vips;

/// A node of the cluster, for one group of VIPs.
///
/// ```no_run
/// use lvs_dr::node::{Config, Node, Role};
///
/// let mut node = Node::open(Config::new("bond0", ["192.168.0.254".parse()?]))?;
/// node.become_role_with(Role::Backup, |step| println!("{step}"))?;
/// for step in node.status()?.missing {
///     println!("missing: {step}");
/// }
/// node.release(|step| println!("{step}"))?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Node {
    pub(super) config: Config,
    pub(super) ipvs: Ipvs,
    pub(super) vips: Vips,
    pub(super) arp: Arp,
    pub(super) marks: Marks,
    /// The marks of the node's own requests, once they were looked at.
    pub(super) local: Option<LocalMarks>,
    /// Whether a classifier can be used, and else why not, once that was tried.
    pub(super) classifies: Option<std::result::Result<(), String>>,
    pub(super) dir: StateDir,
}

impl Node {
    /// A node in the calling thread's network namespace. Nothing is changed yet.
    ///
    /// # Errors
    /// [`Error::Invalid`](crate::Error::Invalid): see [`Config::check`], and where the interface is
    /// a port of a bond, team or bridge, whose packets go to that one;
    /// [`Cause::NoIpvs`](crate::Cause::NoIpvs) (`ENOENT`);
    /// [`Cause::NoInterface`](crate::Cause::NoInterface) (`ENODEV`), where the node has no role
    /// yet: one that loses its interface can still take on [`Role::Fault`] or [`Role::Stop`], and
    /// be released.
    pub fn open(config: Config) -> Result<Self> {
        Self::open_in(config, Netns::current()?)
    }

    /// A node in the given network namespace.
    ///
    /// # Errors
    /// As [`Node::open`], and [`Error::System`](crate::Error::System) when the namespace cannot be
    /// entered.
    pub fn open_in(config: Config, netns: Netns) -> Result<Self> {
        let (arp, mut vips) = (Arp::open_in(netns.clone()), Vips::open_in(netns.clone())?);
        let config = resolved(config, &mut vips)?;
        let dir = StateDir::new(&config.state_dir, &config.group);
        // A node that has lost an interface must still be able to let go of what it holds.
        if dir.load().map_or(true, |state| state.group(&config.group).role.is_none()) {
            refuse_interface(&config, &arp, &mut vips)?;
        }
        let marks = Marks::open_in(netns.clone(), dir.owner())?;
        let ipvs = Ipvs::open_in(netns)?;
        Ok(Node { config, ipvs, vips, arp, marks, local: None, classifies: None, dir })
    }

    /// Gives the node another configuration, for its next task: [`Node::apply`] brings it in.
    ///
    /// # Errors
    /// As [`Node::open`], and [`Error::Invalid`](crate::Error::Invalid) for what cannot be changed
    /// while the node lives: [`Config::state_dir`], [`Config::group`] and [`Config::groups`]. The
    /// node keeps its configuration then.
    pub fn reconfigure(&mut self, config: Config) -> Result<()> {
        self.config = self.accepted(config)?;
        Ok(())
    }

    /// Returns this configuration as the node would have it.
    pub(super) fn accepted(&mut self, config: Config) -> Result<Config> {
        let now = &self.config;
        if config.state_dir != now.state_dir {
            let reason = format!(
                "the node keeps its state in {}, and forgets it with another directory: write that one, or release the node with the \
                 earlier configuration before (`lvs-node release`)",
                now.state_dir.display()
            );
            return Err(Error::invalid(format!("state_dir {}", config.state_dir.display()), reason));
        }
        if (&config.group, &config.groups) != (&now.group, &now.groups) {
            let names = |groups: &BTreeSet<String>| groups.iter().map(|name| format!("{name:?}")).collect::<Vec<_>>();
            let reason = format!(
                "the groups of a node cannot change while it is watched (now {}): stop its `lvs-node watch`, take on a role for each \
                 group, and start it again",
                names(&now.groups).join(", ")
            );
            return Err(Error::invalid(format!("groups {}", names(&config.groups).join(", ")), reason));
        }
        let config = resolved(config, &mut self.vips)?;
        refuse_interface(&config, &self.arp, &mut self.vips)?;
        Ok(config)
    }

    /// What this node is to be. Interfaces have their own names here, also where they were given by
    /// an alternative name.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The role that was asked for last, and whether it was reached: what
    /// [`Status::role`](super::Status::role) says, without looking at anything else.
    ///
    /// # Errors
    /// [`Error::State`](crate::Error::State): what was remembered cannot be believed.
    pub fn role(&self) -> Result<Option<(Role, bool)>> {
        Ok(self.dir.load()?.group(&self.config.group).role)
    }

    /// The number of the last request: what [`Status::generation`](super::Status::generation)
    /// says, without looking at anything else.
    ///
    /// # Errors
    /// [`Error::System`](crate::Error::System): the state directory cannot be read.
    pub fn generation(&self) -> Result<u64> {
        self.dir.requests().latest()
    }

    /// The role, the director and the other nodes that are remembered.
    pub(super) fn remembered(&self) -> Result<Remembered> {
        let state = self.dir.load()?;
        let group = state.group(&self.config.group);
        Ok(Remembered { role: group.role, director: group.director, peers: state.peers.into_keys().collect() })
    }

    /// When a file of the state directory was made, replaced or removed last: what is remembered
    /// has changed. Two changes within one tick of the kernel's clock may look like one.
    pub(super) fn remembered_at(&self) -> Option<SystemTime> {
        fs::metadata(&self.config.state_dir).and_then(|found| found.modified()).ok()
    }

    /// The role that keepalived's VIPs show: all of them are on the interface, or none is. `None`:
    /// some are, or the node moves its VIPs itself.
    ///
    /// # Errors
    /// Those of reading addresses.
    pub fn shown_role(&mut self) -> Result<Option<Role>> {
        if self.config.vip_owner != VipOwner::Keepalived {
            return Ok(None);
        }
        let found = self.vips.all()?;
        let is_there = |vip: &&IpAddr| {
            found.iter().any(|found| found.address == **vip && found.interface == self.config.interface)
        };
        let there = self.config.vips.iter().filter(is_there).count();
        Ok(match there {
            0 => Some(Role::Backup),
            all if all == self.config.vips.len() => Some(Role::Master),
            _ => None,
        })
    }

    /// The file that says that a supervisor keeps this node out of elections, until it knows the
    /// director's connections.
    pub fn held_out_file(&self) -> PathBuf {
        self.config.state_dir.join("held-out")
    }

    /// Makes the state directory, for a program that keeps a file of its own there.
    ///
    /// # Errors
    /// [`Error::System`](crate::Error::System); [`Error::State`](crate::Error::State): it is no
    /// directory, or not only this user's.
    pub fn prepare_state_dir(&self) -> Result<()> {
        self.dir.prepare()
    }
}

/// A configuration that makes sense, in which interfaces have their own names.
fn resolved(mut config: Config, vips: &mut Vips) -> Result<Config> {
    config.check()?;
    for name in [&mut config.interface, &mut config.sync.interface] {
        if let Some(own) = vips.name_of(name)? {
            *name = own;
        }
    }
    Ok(config)
}

fn refuse_interface(config: &Config, arp: &Arp, vips: &mut Vips) -> Result<()> {
    check_interface(config, arp, vips)?;
    let (addresses, links) = vips.all_with_links()?;
    match lan::doubt(&config.interface, &config.vips, &links, &addresses) {
        Some(port @ Doubt::Port { .. }) => {
            Err(Error::invalid(format!("interface {}", config.interface), port.to_string()))
        }
        _ => Ok(()),
    }
}
