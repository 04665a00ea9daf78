//! What a node is to be.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::fence::{self, Fence, Sync};
use crate::arp::{ArpTarget, Settings};
use crate::error::{Error, Result};
use crate::interface;
use crate::ipvs::{Forward, SyncRole, Table};
use crate::vip::check_vip;

/// Who puts the VIP on the interface and takes it off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum VipOwner {
    /// The node itself, which also announces it.
    #[default]
    Node,
    /// keepalived (`virtual_ipaddress`), or whoever elects the director. The node then cares for the loopback VIP only.
    Keepalived,
}

/// When the VIP sits on the loopback interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Loopback {
    /// Always: on the director it sits on the interface as well, and only that comes and goes.
    #[default]
    Always,
    /// On backups only.
    Backup,
}

/// The ARP settings of a node, and where they are kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ArpConfig {
    /// What is set.
    pub settings: Settings,
    /// For the interface, or for all.
    pub target: ArpTarget,
}

/// What a node is to be: which VIPs it holds, on which interface, for which services.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// The interface that clients reach, and that holds the director's VIP.
    pub interface: String,
    /// The VIPs.
    pub vips: Vec<IpAddr>,
    /// Who moves the VIP on the interface.
    pub vip_owner: VipOwner,
    /// What fences a backup's table.
    pub fence: Fence,
    /// When the VIP sits on `lo`.
    pub loopback: Loopback,
    /// ARP settings, set before a VIP is put on `lo`. `None`: they are left alone.
    pub arp: Option<ArpConfig>,
    /// The director's table: these services and no others are the node's. `None`: the table found running is what is kept: its services
    /// on the VIPs, and all those by firewall mark.
    pub services: Option<Table>,
    /// Where the node keeps its state: a directory for root alone, one for each node.
    pub state_dir: PathBuf,
    /// How many announcements follow the VIP to the interface.
    pub announcements: u32,
    /// How the nodes tell each other of their connections, where the fence needs it.
    pub sync: Sync,
    /// Who directs next, most likely first, as addresses of destinations: a director that hands over sends what is new there.
    /// Where none of them is fit, and where there are none, it is the first other destination that is.
    pub successors: Vec<IpAddr>,
    /// How long after a move the VIP is announced once more, for neighbours that missed it; 0: not. See
    /// [`Node::announce_again`](super::Node::announce_again).
    pub announce_again: Duration,
    /// With fence `quiesce`: for how long a new director takes all new connections itself, until the old one is surely fenced; and for
    /// how long one that hands over waits for connections in the middle of their handshake.
    pub settle: Duration,
    /// With fence `backup-only`: for how long a director that is one no longer goes on forwarding, for packets that were on their way: at most; it ends when
    /// none has come for a while, or another role is asked for.
    pub drain: Duration,
}

impl Config {
    /// A node with these VIPs, everything else by default: ARP settings that hide the VIP on `lo` on this interface, state in
    /// `/run/lvs-dr`.
    pub fn new(interface: &str, vips: impl IntoIterator<Item = IpAddr>) -> Self {
        let vips: Vec<IpAddr> = vips.into_iter().collect();
        Config {
            interface: interface.to_owned(),
            sync: Sync {
                interface: interface.to_owned(),
                // Two clusters on a link have different VIPs.
                id: vips.first().map_or(1, |vip| last_octet(*vip).max(1)),
                group: None,
                port: None,
                ttl: None,
                max_length: Some(1),
            },
            settle: Duration::from_millis(500),
            drain: Duration::from_secs(1),
            vips,
            vip_owner: VipOwner::default(),
            fence: Fence::default(),
            loopback: Loopback::default(),
            arp: Some(ArpConfig { settings: Settings::HIDE, target: ArpTarget::Interface(interface.to_owned()) }),
            services: None,
            state_dir: "/run/lvs-dr".into(),
            announcements: 5,
            successors: Vec::new(),
            announce_again: Duration::from_secs(5),
        }
    }

    /// Refuses what makes no sense.
    ///
    /// # Errors
    /// [`Error::Invalid`] with the field and the reason.
    pub fn check(&self) -> Result<()> {
        let refuse = |object: &str, reason: String| Err(Error::invalid(object, reason));
        if self.vips.is_empty() {
            return refuse("vips", "at least one address was expected".into());
        }
        if let Some(twice) =
            self.vips.iter().enumerate().find_map(|(i, vip)| self.vips[..i].contains(vip).then_some(vip))
        {
            return refuse("vips", format!("{twice} is named twice"));
        }
        self.vips.iter().try_for_each(|vip| check_vip(*vip))?;
        if self.interface == "lo" {
            return refuse(
                "interface",
                "the director's VIP is for others to find: an interface other than lo was expected".into(),
            );
        }
        if !self.state_dir.is_absolute() {
            return refuse(
                "state_dir",
                format!("{} is relative: an absolute path was expected", self.state_dir.display()),
            );
        }
        if let Some(arp) = &self.arp {
            let (ignore, announce) = (arp.settings.ignore.value(), arp.settings.announce.value());
            if !(0..=8).contains(&ignore) || !(0..=2).contains(&announce) {
                return refuse("arp", format!("ignore {ignore}, announce {announce}: 0 to 8 and 0 to 2 were expected"));
            }
        }
        if self.fence == Fence::BackupOnly && self.vip_owner == VipOwner::Keepalived {
            return refuse(
                "fence `backup-only`",
                "keepalived moves the VIP before it tells, and until then the new director would send every session to itself: use \
                 `quiesce` or `stateless`, or let the node move the VIP (vip_owner)"
                    .into(),
            );
        }
        if self.fence.syncs() {
            interface::check_name(&self.sync.interface)?;
            self.sync.daemon(SyncRole::Master).check()?;
            if self.sync.id == 0 {
                return refuse(
                    "sync id 0",
                    "a backup with it would listen to every cluster: 1 to 255 was expected".into(),
                );
            }
        }
        let Some(services) = &self.services else { return Ok(()) };
        fence::check(self.fence, services)?;
        services.check()?;
        for content in services.services() {
            let Some(listen) = content.service.id.address() else { continue };
            if !self.vips.contains(&listen.ip()) {
                return refuse(&content.service.id.to_string(), format!("{} is not among the vips", listen.ip()));
            }
            let other_port =
                |d: &&crate::ipvs::Destination| d.forward != Forward::Masquerade && d.address.port() != listen.port();
            if let Some(destination) = content.destinations().find(other_port) {
                let reason = format!(
                    "its port differs from the service's {}: direct routing leaves packets as they are, so the real server must listen there",
                    listen.port()
                );
                return refuse(&format!("{} of {}", destination.address, content.service.id), reason);
            }
        }
        Ok(())
    }
}

fn last_octet(vip: IpAddr) -> u8 {
    match vip {
        IpAddr::V4(vip) => vip.octets()[3],
        IpAddr::V6(vip) => vip.octets()[15],
    }
}
