//! What a node is to be.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::destinations::Reason;
use super::fence::marks::MarkValues;
use super::fence::{Fence, SyncConfig};
use crate::address::check_vip;
use crate::arp::Settings;
use crate::error::{Error, Result};
use crate::interface;
use crate::ipvs::{Forward, Scheduler, ServiceId, SyncDaemon, SyncRole, Table};
use crate::marks::Mac;
use crate::vip;

/// What brings the clients' packets for a VIP to a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "snake_case"))]
pub enum VipOwner {
    /// The director has the VIP on its interface. The node itself places and announces it.
    #[default]
    Node,
    /// The director has the VIP on its interface. keepalived (`virtual_ipaddress`) places it, or
    /// another program that elects the director. The node then cares for the loopback VIP only.
    Keepalived,
    /// Routers spread the connections over all nodes (equal-cost multipath), and each node directs
    /// what it receives, in every role. The VIP is on `lo` only, on every node. The role says
    /// whether the node is a next hop: [`Role::Master`](super::Role::Master) has a route by which
    /// a routing daemon learns that it is to advertise the VIP, see
    /// [`Vips::advertise`](crate::vip::Vips::advertise); the other roles have none. Needs fence
    /// [`Fence::Marks`] and scheduler `mh`. Connections are not synchronised: each node finds the
    /// same server for them, also after changes of the servers where the kernel lets it use a
    /// [`Classifier`](crate::marks::Classifier).
    Routes,
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

/// The ARP settings of a node, and where they are set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ArpConfig {
    /// What is set.
    pub settings: Settings,
    /// On which interfaces.
    pub scope: ArpScope,
}

/// The interfaces that ARP settings are set on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum ArpScope {
    /// Each interface whose link reaches clients: [`Config::interface`]; those that send and
    /// receive on the same link (a macvlan and the interface below it, the interfaces of a VRF, the
    /// master of a port); and those with an address in a subnet of one of these, or in a subnet
    /// that contains a VIP.
    #[default]
    Reached,
    /// `all`: the kernel uses the greater of this value and the interface's own, on every
    /// interface.
    All,
}

/// What happens to the sysctls of IPVS (`net.ipv4.vs`), which are those of the whole network
/// namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum IpvsSysctls {
    /// The node sets those that its fence and its sync daemons need, and gives them back on
    /// release. Where /proc/sys is read-only, a warning names those that differ.
    #[default]
    Managed,
    /// They are left alone: the host sets them, or another program.
    LeftAlone,
}

/// The settings of fence `marks`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct MarksConfig {
    /// The packet marks. Each node chooses its own: they do not leave it.
    pub values: MarkValues,
    /// MAC addresses of other nodes, by the address of the node as a destination, beside those
    /// that the node sees by itself.
    pub macs: BTreeMap<IpAddr, BTreeSet<Mac>>,
    /// What happens to the node's own requests to a VIP.
    pub own_requests: OwnRequests,
}

/// What happens to requests of the node's own programs to a VIP. The kernel schedules them like a
/// client's, and the answer of another server does not reach the program (`ip_vs_local_request4()`
/// in net/netfilter/ipvs/ip_vs_core.c).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum OwnRequests {
    /// They are marked by nftables or xtables, and served by this node. Where the node has
    /// neither, an audit says so.
    #[default]
    ServedHere,
    /// They are left alone.
    LeftAlone,
}

/// A group of VIPs that one election decides about, and how the node handles them.
///
/// A node has one group, or several that share a state directory and a network namespace: a
/// [`Node`](super::Node) for each, and all but [`Config::group`], [`Config::interface`],
/// [`Config::vips`] and [`Config::services`] the same.
///
/// ```
/// use lvs_dr::node::{Config, VipOwner};
///
/// let services = "-A -t 192.168.0.254:80 -s wrr\n-a -t 192.168.0.254:80 -r 192.168.0.11:80 -g -w 1\n";
/// let config = Config {
///     vip_owner: VipOwner::Keepalived,
///     services: Some(services.parse()?),
///     ..Config::new("bond0", ["192.168.0.254".parse()?])
/// };
/// config.check()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// The group's name; "" for a node that has only one.
    pub group: String,
    /// The groups of the node, this one among them. What an earlier configuration had for other
    /// groups is released.
    pub groups: BTreeSet<String>,
    /// The interface that clients reach, and that holds the director's VIP: its name or an
    /// alternative name (`altname` in ip-link(8)).
    pub interface: String,
    /// The VIPs.
    pub vips: Vec<IpAddr>,
    /// What brings the clients' packets for a VIP to a node.
    pub vip_owner: VipOwner,
    /// What fences a backup's table.
    pub fence: Fence,
    /// Settings of fence [`Fence::Marks`].
    pub marks: MarksConfig,
    /// When the VIP sits on `lo`.
    pub loopback: Loopback,
    /// ARP settings, set before a VIP is put on `lo`. `None`: they are left alone.
    pub arp: Option<ArpConfig>,
    /// The sysctls of IPVS.
    pub ipvs_sysctls: IpvsSysctls,
    /// The services of the VIPs. They are loaded where the kernel has none of them, and again
    /// changed when they are changed here; in between they belong to the programs that edit the
    /// kernel's table. `None`: the node loads nothing.
    pub services: Option<Table>,
    /// Services for which an audit does not look for a socket that listens on this node: NAT, a
    /// proxy in another network namespace or a BPF program takes their packets.
    pub without_listener: BTreeSet<ServiceId>,
    /// Where the node keeps its state: a directory for root alone, one for each node.
    pub state_dir: PathBuf,
    /// How many announcements follow the VIP to the interface.
    pub announcements: u32,
    /// How the nodes synchronise their connections.
    pub sync: SyncConfig,
    /// How long after a move the VIP is announced once more, for neighbours that missed it; 0:
    /// not. See [`Node::announce_again`](super::Node::announce_again).
    pub announce_again: Duration,
}

impl Config {
    /// A node with these VIPs, everything else by default: ARP settings that hide the VIP on `lo`
    /// on each interface whose link reaches clients, state in `/run/lvs-dr`.
    pub fn new(interface: &str, vips: impl IntoIterator<Item = IpAddr>) -> Self {
        let vips: Vec<IpAddr> = vips.into_iter().collect();
        Config {
            group: String::new(),
            groups: [String::new()].into(),
            marks: MarksConfig::default(),
            interface: interface.to_owned(),
            sync: SyncConfig {
                interface: interface.to_owned(),
                // Two clusters on a link have different VIPs.
                id: vips.first().map_or(1, |vip| last_octet(*vip).max(1)),
                group: None,
                port: None,
                ttl: None,
                max_length: Some(1),
                key_file: None,
            },
            vips,
            vip_owner: VipOwner::default(),
            fence: Fence::default(),
            loopback: Loopback::default(),
            arp: Some(ArpConfig { settings: Settings::HIDE, scope: ArpScope::Reached }),
            ipvs_sysctls: IpvsSysctls::default(),
            services: None,
            without_listener: BTreeSet::new(),
            state_dir: "/run/lvs-dr".into(),
            announcements: 5,
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
        if SHARED.iter().any(|shared| self.state_dir == Path::new(shared)) {
            let reason = format!(
                "{} is a directory of all programs: name one of the node's own, such as /run/lvs-dr",
                self.state_dir.display()
            );
            return refuse("state_dir", reason);
        }
        if let Some(path) = self.sync.key_file.as_ref().filter(|path| !path.is_absolute()) {
            return refuse("sync key_file", format!("{} is relative: an absolute path was expected", path.display()));
        }
        vip::check_announcements(self.announcements)?;
        if let Some(arp) = &self.arp {
            arp.settings.check()?;
        }
        interface::check_any_name(&self.interface)?;
        interface::check_any_name(&self.sync.interface)?;
        // The daemon is started with the interface's own name, which an alternative name may exceed.
        SyncDaemon { interface: "eth0".into(), ..self.sync.daemon(SyncRole::Master) }.check()?;
        if self.sync.id == 0 {
            return refuse("sync id 0", "a backup with it would listen to every cluster: 1 to 255 was expected".into());
        }
        if self.group.contains(char::is_control) || !self.groups.contains(&self.group) {
            return refuse("group", format!("{:?} is not one of the node's groups", self.group));
        }
        for (peer, macs) in &self.marks.macs {
            if let Some(mac) = macs.iter().find(|mac| !mac.is_unicast()) {
                return refuse("marks", format!("macs of {peer}: {mac} is not the MAC address of one node"));
            }
        }
        if self.groups.len() > usize::from(MarkValues::SLOTS) {
            return refuse("group", format!("there are {} groups: 254 at most were expected", self.groups.len()));
        }
        if self.vip_owner == VipOwner::Routes {
            self.check_routes()?;
        }
        let Some(services) = &self.services else { return Ok(()) };
        services.check()?;
        for content in services.services() {
            if self.mark_values().owns(&content.service.id) {
                let reason =
                    "fence `marks` uses this mark itself: name other marks in the configuration of one of them";
                return refuse(&content.service.id.to_string(), reason.into());
            }
            let service = content.service.id;
            for destination in content.destinations() {
                if let Some(reason) = Reason::of_the_file(&service, destination, &self.vips) {
                    return refuse(&format!("{} of {service}", destination.address), reason.to_string());
                }
            }
            if let Some(listen) = service.address().filter(|listen| !self.vips.contains(&listen.ip())) {
                return refuse(&service.to_string(), format!("{} is not among the vips", listen.ip()));
            }
        }
        Ok(())
    }

    fn check_routes(&self) -> Result<()> {
        let refuse = |object: &str, reason: &str| Err(Error::invalid(object, reason));
        if self.fence != Fence::Marks {
            return refuse(
                "fence",
                "with vip_owner `routes` each node has the table in every role: `marks` was expected",
            );
        }
        if self.loopback != Loopback::Always {
            return refuse("loopback", "with vip_owner `routes` the VIP is on lo only: `always` was expected");
        }
        if self.arp.as_ref().is_some_and(|arp| !arp.settings.ignore.hides_loopback_vip(true, false)) {
            let reason = "with vip_owner `routes` no node answers ARP requests for a VIP: arp_ignore 1 was expected";
            return refuse("arp", reason);
        }
        self.services.iter().try_for_each(refuse_unequal)
    }

    /// The packet marks of the node: [`MarksConfig::values`], and with [`VipOwner::Routes`] those
    /// of its classifier, which follow them.
    pub fn mark_values(&self) -> MarkValues {
        self.marks.values.classifying(self.vip_owner == VipOwner::Routes)
    }

    /// Whether nodes synchronise their connections.
    pub(super) fn syncs(&self) -> bool {
        self.vip_owner != VipOwner::Routes
    }

    /// What makes sense and is probably not meant, as far as the configuration alone shows it: no
    /// kernel is looked at. The configuration is one that [`Config::check`] accepts.
    pub fn doubts(&self) -> Vec<String> {
        let mut doubts = Vec::new();
        if let Some(cleaned) = CLEANED.iter().find(|cleaned| self.state_dir.starts_with(cleaned)) {
            doubts.push(format!(
                "state_dir: old files below {cleaned} are removed by systemd-tmpfiles(8), and the node would forget what to give \
                 back: name a directory such as /run/lvs-dr"
            ));
        }
        let Some(services) = &self.services else { return doubts };
        for vip in &self.vips {
            let is_served = |id: ServiceId| id.address().is_none_or(|listen| listen.ip() == *vip);
            if !services.services().any(|content| is_served(content.service.id)) {
                doubts.push(format!("{vip} has no service: its director answers for it alone"));
            }
        }
        for content in services.services() {
            let (id, scheduler) = (content.service.id, &content.service.scheduler);
            if !Scheduler::ALL.contains(scheduler) {
                let known: Vec<String> = Scheduler::ALL.iter().map(ToString::to_string).collect();
                doubts.push(format!("{id}: scheduler {scheduler} is none of Linux's: {}", known.join(", ")));
            }
            match content.destinations().map(|destination| destination.weight).max() {
                None => doubts.push(format!("{id} has no destinations: its connections are refused")),
                Some(0) => doubts.push(format!("{id}: all destinations have weight 0: its connections are refused")),
                Some(_) => {}
            }
        }
        doubts
    }
}

/// Refuses services whose connections need a state that only one node has: with
/// [`VipOwner::Routes`] the next packet of a connection may reach another node.
pub(super) fn refuse_unequal(services: &Table) -> Result<()> {
    for content in services.services() {
        let service = &content.service;
        let refuse = |reason: &str| {
            let reason = format!("with vip_owner `routes` each node must find the same server: {reason}");
            Err(Error::invalid(service.id.to_string(), reason))
        };
        if service.scheduler != Scheduler::MH {
            return refuse(&format!("scheduler mh was expected, not {}", service.scheduler));
        }
        if service.persistence.is_some() {
            return refuse("nodes do not share persistence; mh without mh-port keeps a client at one server");
        }
        if matches!(service.id, ServiceId::Sctp(_)) {
            return refuse("an SCTP association is known to one node only");
        }
        if content.destinations().any(|destination| destination.forward == Forward::Masquerade) {
            return refuse("a translated connection (NAT) is known to one node only");
        }
    }
    Ok(())
}

/// Directories that no program has for itself.
const SHARED: [&str; 11] =
    ["/", "/dev/shm", "/etc", "/opt", "/root", "/run", "/tmp", "/var", "/var/lib", "/var/run", "/var/tmp"];

/// Directories whose files systemd-tmpfiles(8) and others remove when they are old.
const CLEANED: [&str; 2] = ["/tmp", "/var/tmp"];

fn last_octet(vip: IpAddr) -> u8 {
    match vip {
        IpAddr::V4(vip) => vip.octets()[3],
        IpAddr::V6(vip) => vip.octets()[15],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::model::{SERVICES, VIP, config, ip};

    #[test]
    fn a_directory_of_all_programs_is_no_state_directory() {
        for path in SHARED.iter().map(|path| (*path).to_owned()).chain(["/tmp/".into(), "//".into()]) {
            let error = Config { state_dir: path.clone().into(), ..config(Fence::Marks) }.check().unwrap_err();
            assert!(error.to_string().contains("such as /run/lvs-dr"), "{path}: {error}");
        }
        Config { state_dir: "/run/x".into(), ..config(Fence::Marks) }.check().unwrap();
    }

    #[test]
    fn with_routes_each_node_must_find_the_same_server() {
        let routes = |change: fn(&mut Config), services: &str| {
            let mut config =
                Config { vip_owner: VipOwner::Routes, services: services.parse().ok(), ..config(Fence::Marks) };
            change(&mut config);
            config.check().map_err(|error| error.to_string())
        };
        let mh = SERVICES.replace("wrr", "mh -b mh-port");
        assert_eq!(routes(|_| (), &mh), Ok(()));
        assert_eq!(routes(|config| config.arp = None, &mh), Ok(()));
        type Change = fn(&mut Config);
        let rows: [(Change, &str, &str); 7] = [
            (|config| config.fence = Fence::Clear, &mh, "`marks` was expected"),
            (|config| config.loopback = Loopback::Backup, &mh, "`always` was expected"),
            (|config| config.arp.as_mut().unwrap().settings.ignore = 0.into(), &mh, "arp_ignore 1 was expected"),
            (|_| (), SERVICES, "tcp 192.0.2.254:80 is not usable"),
            (|_| (), &mh.replace("mh -b", "mh -p 300 -b"), "do not share persistence"),
            (|_| (), &mh.replace("-g", "-m"), "(NAT) is known to one node only"),
            (|_| (), &mh.replace("-t", "--sctp-service"), "SCTP association is known to one node only"),
        ];
        for (change, services, words) in rows {
            let refused = routes(change, services).unwrap_err();
            assert!(refused.contains(words), "{words}: {refused}");
        }
    }

    #[test]
    fn what_is_probably_not_meant_is_told() {
        assert_eq!(config(Fence::Marks).doubts(), Vec::<String>::new());
        let none = Config { services: None, vips: vec![ip(VIP), ip("192.0.2.9")], ..config(Fence::Marks) };
        assert_eq!(none.doubts(), Vec::<String>::new());
        type Change = fn(&mut Config);
        let text = |services: &str| services.parse::<Table>().unwrap();
        let rows: [(Change, Table, &str); 5] = [
            (|config| config.state_dir = "/var/tmp/lvs-dr".into(), text(SERVICES), "below /var/tmp are removed"),
            (|config| config.vips.push(ip("192.0.2.9")), text(SERVICES), "192.0.2.9 has no service"),
            (|_| (), text("-A -t 192.0.2.254:80 -s wrr\n"), "tcp 192.0.2.254:80 has no destinations"),
            (|_| (), text(&SERVICES.replace("-w 1", "-w 0")), "all destinations have weight 0"),
            (|_| (), text(&SERVICES.replace("wrr", "wlr")), "scheduler wlr is none of Linux's: rr, wrr"),
        ];
        for (change, services, words) in rows {
            let mut config = Config { services: Some(services), ..config(Fence::Marks) };
            change(&mut config);
            config.check().unwrap();
            let doubts = config.doubts();
            assert!(doubts.len() == 1 && doubts[0].contains(words), "{words}: {doubts:?}");
        }
    }
}
