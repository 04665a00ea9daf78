//! Judges what was seen. Pure.

mod firewall;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::elections::{Answered, Keepalived};
use super::environment::{Astray, Environment};
use super::finding::{Finding, Kind, Remedy, Severity};
use super::keepalived::{Checked, Instance, SyncLine};
use crate::arp::{self, ArpTarget, IgnoreMode};
use crate::error::Error;
use crate::ipvs::{self, Family, Scheduler, ServiceFlags, ServiceId, SyncRole, Table, VirtualService};
use crate::marks::{self, Mac, Packets};
use crate::node::config::{ArpScope, Config, IpvsSysctls, VipOwner};
use crate::node::destinations::{Reason, Unreached};
use crate::node::failure::RoleFailure;
use crate::node::fence::Fence;
use crate::node::lan::{self, Doubt};
use crate::node::listeners::Sockets;
use crate::node::observation::{Observation, Tree};
use crate::node::plan::{Plan, Step};
use crate::node::planner::{Trouble, sync_warning};
use crate::node::role::Role;
use crate::node::services::is_ours;
use crate::node::settings::{self, answering};
use crate::vip::{AssignedAddress, LinkState, Placement, Scope};

/// Above this a UDP flow is held for long: most clients repeat themselves less often than every
/// half minute only when idle.
const LONG_FLOW: Duration = Duration::from_secs(60);
/// The kernel's timeout of idle TCP connections: many programs keep theirs alive by shorter ones.
const TCP_TIMEOUT: Duration = Duration::from_secs(900);
/// From here on an election is slow: with adverts of 0.5 s one takes less.
const SLOW_ELECTION: Duration = Duration::from_secs(2);

/// Sysctls that the table needs, whatever the fence, and that are not as they should be.
pub(in crate::node) fn mended(kept: &Table, seen: &Observation) -> Vec<(String, String)> {
    let mut mended = Vec::new();
    if !persistent(kept).is_empty() && is_off(seen, "expire_quiescent_template") {
        mended.push(("expire_quiescent_template".to_owned(), "1".to_owned()));
    }
    if !flows(kept).is_empty() && is_off(seen, "expire_nodest_conn") {
        mended.push(("expire_nodest_conn".to_owned(), "1".to_owned()));
    }
    if ignores_packets(seen) {
        mended.push(("backup_only".to_owned(), "0".to_owned()));
    }
    mended
}

fn sysctl<'a>(seen: &'a Observation, name: &str) -> Option<&'a str> {
    seen.sysctls.get(name)?.as_deref()
}

fn is_off(seen: &Observation, name: &str) -> bool {
    sysctl(seen, name) == Some("0")
}

/// Whether IPVS ignores all packets: `backup_only` is on, and a backup sync daemon runs.
fn ignores_packets(seen: &Observation) -> bool {
    let daemon = seen.daemons.get(&SyncRole::Backup).is_some_and(Option::is_some);
    daemon && sysctl(seen, "backup_only").is_some_and(|value| value != "0")
}

fn persistent(table: &Table) -> Vec<ServiceId> {
    ids(table, |content| content.service.persistence.is_some())
}

/// UDP services whose packets are flows.
fn flows(table: &Table) -> Vec<ServiceId> {
    ids(table, |content| {
        matches!(content.service.id, ServiceId::Udp(_)) && !content.service.flags.contains(ServiceFlags::ONE_PACKET)
    })
}

fn ids(table: &Table, which: impl Fn(&VirtualService<'_>) -> bool) -> Vec<ServiceId> {
    table.services().filter(which).map(|content| content.service.id).collect()
}

/// How many things a reason names.
const NAMED: usize = 10;

/// `a, b`, or `a, b, ... and 4998 more`.
fn list<T: ToString>(items: &[T]) -> String {
    let named = items.iter().take(NAMED).map(T::to_string).collect::<Vec<_>>().join(", ");
    match items.len().saturating_sub(NAMED) {
        0 => named,
        more => format!("{named} and {more} more"),
    }
}

/// What the planner says of a node.
pub(super) struct Judged {
    /// What would be done for the role that it has. `None`: it has none.
    pub(super) plan: Option<Result<Plan, Error>>,
    /// The first role that would be refused, and why.
    pub(super) refused: Option<(Role, Error)>,
    /// VIPs on interfaces that are not the node's.
    pub(super) elsewhere: Vec<AssignedAddress>,
    /// The sysctls of IPVS that the node needs, and does not set.
    pub(super) unset: BTreeMap<String, String>,
    pub(super) troubles: Vec<Trouble>,
    /// Whether the node has reached the role that it remembers.
    pub(super) reached: bool,
    /// The last role that was not reached.
    pub(super) failure: Option<RoleFailure>,
    /// What shows that the node had a role that it does not remember.
    pub(super) signs: Vec<String>,
}

/// All that is judged, and what was found so far.
pub(super) struct Case<'a> {
    config: &'a Config,
    role: Option<Role>,
    seen: &'a Observation,
    around: &'a Environment,
    kept: &'a Table,
    judged: Judged,
    troubles: Vec<Trouble>,
    /// Its steps that no finding has taken for its remedy.
    left: Vec<Step>,
    found: Vec<Finding>,
}

impl<'a> Case<'a> {
    pub(super) fn new(
        config: &'a Config,
        role: Option<Role>,
        seen: &'a Observation,
        around: &'a Environment,
        kept: &'a Table,
        mut judged: Judged,
    ) -> Self {
        let steps = match &judged.plan {
            Some(Ok(plan)) => plan.steps().iter().filter(|step| step.leaves_a_trace()).cloned().collect(),
            _ => Vec::new(),
        };
        let troubles = std::mem::take(&mut judged.troubles);
        Case { config, role, seen, around, kept, judged, troubles, left: steps, found: Vec::new() }
    }

    /// The worst first.
    pub(super) fn findings(mut self) -> Vec<Finding> {
        self.addresses();
        self.elsewhere();
        self.elections();
        self.interface();
        self.arp();
        self.destinations();
        self.listeners();
        self.unlisted();
        self.fence();
        self.marks();
        self.firewall();
        self.sync();
        self.sysctls();
        self.unset_sysctls();
        self.table();
        self.paths();
        self.keepalived();
        self.failure();
        self.forgotten();
        self.rest();
        self.found.sort_by_key(|finding| std::cmp::Reverse(finding.severity));
        self.found
    }

    fn is_backup(&self) -> bool {
        self.role.is_some_and(|role| role != Role::Master)
    }

    /// What harms a backup now, a director when it is one no more.
    fn backups(&self) -> Severity {
        if self.role == Some(Role::Master) { Severity::Warning } else { Severity::Error }
    }

    fn add(&mut self, severity: Severity, kind: Kind, reason: impl Into<String>, remedy: Remedy) {
        self.found.push(Finding { kind, severity, reason: reason.into(), remedy });
    }

    /// The steps of the plan that are this finding's remedy.
    fn take(&mut self, which: impl Fn(&Step) -> bool) -> Vec<Step> {
        let (taken, left) = std::mem::take(&mut self.left).into_iter().partition(which);
        self.left = left;
        taken
    }

    fn on_lo(&self) -> impl Iterator<Item = &'a AssignedAddress> {
        let seen = self.seen;
        self.config.vips.iter().flat_map(|vip| seen.found_on(*vip, "lo"))
    }

    fn addresses(&mut self) {
        let masks: Vec<AssignedAddress> =
            self.on_lo().filter(|found| found.prefix != host(found.address)).cloned().collect();
        for found in masks {
            let reason = format!("{found} makes the neighbours in that subnet unreachable from here");
            let command = format!("ip address delete {}/{} dev lo", found.address, found.prefix);
            let remedy = Remedy::command(command).or_text("then take on the role again, or run the fix");
            self.add(Severity::Error, Kind::LoopbackMask { found }, reason, remedy);
        }
        let interface = self.config.interface.clone();
        let (seen, config) = (self.seen, self.config);
        for vip in &config.vips {
            let there = seen.found_on(*vip, &interface).next().is_some();
            if self.is_backup() && there {
                let steps =
                    self.take(|step| matches!(step, Step::RemoveVip(v, p) if v == vip && p.interface() == interface));
                let remedy = match config.vip_owner {
                    VipOwner::Node | VipOwner::Routes => Remedy::steps(steps),
                    VipOwner::Keepalived => {
                        Remedy::command(format!("ip address delete {vip}/{} dev {interface}", host(*vip)))
                            .or_text("but where keepalived is MASTER here, the node was not told: take on role master")
                    }
                };
                let reason = format!("{vip} is on {interface} of a node that is not the director: both answer for it");
                self.add(
                    Severity::Error,
                    Kind::VipOnInterface { vip: *vip, interface: interface.clone() },
                    reason,
                    remedy,
                );
            }
            self.secondaries(*vip);
            if self.role == Some(Role::Master) && !there && config.vip_owner == VipOwner::Keepalived {
                let reason = format!("this node takes itself for the director, but {vip} is not on {interface}");
                let remedy = Remedy::text(
                    "where keepalived is not MASTER here, take on role backup; where it is, add the VIP to its virtual_ipaddress, or, if \
                     another program has removed it (systemd-networkd without KeepConfiguration=), restart keepalived",
                );
                self.add(Severity::Error, Kind::RoleDiffers { role: Role::Master, vip: *vip }, reason, remedy);
            }
        }
        for (vip, placement) in self.added() {
            let found = seen.found_on(vip, placement.interface()).next();
            let kind = match found {
                None => Kind::VipMissing { vip, placement: placement.clone() },
                Some(found) if found.tentative || found.dad_failed => Kind::VipUnusable { found: found.clone() },
                Some(_) => continue,
            };
            let reason = match found {
                None if placement == Placement::Loopback => {
                    format!("{vip} is not on lo: this node does not take the packets that the director sends it")
                }
                None => format!("{vip} is not on {placement}: no node answers for it"),
                Some(found) => format!("{found} does not work: duplicate detection found it elsewhere, or goes on"),
            };
            let steps = self.take(|step| matches!(step, Step::AddVip(v, p) if *v == vip && *p == placement));
            self.add(Severity::Error, kind, reason, Remedy::steps(steps));
        }
    }

    /// Addresses of this node that the kernel removes with a VIP.
    fn secondaries(&mut self, vip: IpAddr) {
        let (seen, interface) = (self.seen, self.config.interface.clone());
        let with_mask = |found: &&AssignedAddress| found.prefix < host(vip);
        if !vip.is_ipv4() || self.around.promotes {
            return;
        }
        let Some(primary) = seen.found_on(vip, &interface).find(with_mask) else { return };
        // The kernel lists the primary address of a subnet first.
        let mut subnet = seen
            .addresses
            .iter()
            .filter(|found| found.interface == interface && lan::are_in_one_subnet(found, primary));
        if subnet.next().map(|found| found.address) != Some(vip) {
            return;
        }
        let addresses: Vec<IpAddr> = subnet.map(|found| found.address).collect();
        if addresses.is_empty() {
            return;
        }
        let reason = format!(
            "{primary} is the primary address of its subnet: the kernel removes {} of this node with it, when another node becomes the \
             director",
            list(&addresses)
        );
        let remedy = Remedy::command(format!("sysctl -w net/ipv4/conf/{interface}/promote_secondaries=1"))
            .or_text("or place the VIP as /32 (virtual_ipaddress in keepalived.conf)");
        self.add(Severity::Warning, Kind::Secondary { vip, addresses }, reason, remedy);
    }

    /// VIPs on interfaces that are not the node's.
    fn elsewhere(&mut self) {
        let seen = self.seen;
        for found in std::mem::take(&mut self.judged.elsewhere) {
            let answers = |interface: &&String| {
                let counts = seen.effective_arp(interface);
                counts.is_some_and(|counts| {
                    !counts.ignore.hides_loopback_vip(found.scope == Scope::Host, seen.route_localnet)
                })
            };
            let answering: Vec<&String> = seen.lan.interfaces.iter().filter(answers).collect();
            let harm = match found.address.is_ipv4() && !answering.is_empty() {
                true => format!(
                    ", and this node answers ARP requests for it on {}, and draws its traffic away from the director",
                    list(&answering)
                ),
                false => String::new(),
            };
            let reason =
                format!("{found}: the VIP belongs on {} or lo: no role can be taken on{harm}", self.config.interface);
            let text = match found.interface.as_str() {
                "kube-ipvs0" => {
                    "but kube-proxy adds it again: take it out of the Service (externalIPs, loadBalancerIP), or use another VIP"
                }
                _ => "and take it out of what places it (netplan, ifupdown, a script)",
            };
            let command = format!("ip address delete {}/{} dev {}", found.address, found.prefix, found.interface);
            self.add(Severity::Error, Kind::VipElsewhere { found }, reason, Remedy::command(command).or_text(text));
        }
    }

    /// Who takes itself for the director.
    fn elections(&mut self) {
        let (config, seen, around) = (self.config, self.seen, self.around);
        let holds = |vip: IpAddr| seen.found_on(vip, &config.interface).next().is_some();
        for Answered { vip, macs } in &around.answered {
            // One is the director: a backup with the VIP has a finding of its own.
            let directs = holds(*vip) && !self.is_backup();
            let is_wrong = if directs { !macs.is_empty() } else { macs.len() > 1 };
            if !is_wrong {
                continue;
            }
            let named = |mac: &Mac| match seen.link.macs.iter().find(|(_, known)| *known == mac) {
                Some((peer, _)) => format!("{peer} ({mac})"),
                None => mac.to_string(),
            };
            let named: Vec<String> = macs.iter().map(named).collect();
            let too = if directs { " beside this node" } else { "" };
            let reason = format!(
                "hosts that answer for {vip}{too}: {}. More than one has it, and clients go to one or the other",
                list(&named)
            );
            let remedy = Remedy::text(
                "see with `lvs-node status` and `lvs-node audit` there which of them is not to direct: its keepalived was killed \
                 perhaps (start it), or its ARP settings do not hide the VIP (take on role backup)",
            );
            let kind = Kind::OtherDirector { vip: *vip, macs: macs.iter().copied().collect() };
            self.add(Severity::Error, kind, reason, remedy);
        }
        let missing = around.process == Keepalived::Missing;
        let Some(file) = around.keepalived.as_ref().filter(|_| missing) else { return };
        let is_own = |instance: &&Instance| instance.addresses.iter().any(|vip| config.vips.contains(vip));
        let Some(instance) = file.instances.iter().find(is_own).filter(|_| config.vip_owner == VipOwner::Keepalived)
        else {
            return;
        };
        let (severity, harm) = match config.vips.iter().any(|vip| holds(*vip)) {
            true => (Severity::Error, "this node keeps the VIP while another one takes it too"),
            false => (Severity::Warning, "this node is not promoted when the director fails"),
        };
        let reason = format!(
            "{} elects the director by instance {}, and no process keepalived runs in this network namespace: {harm}",
            file.path.display(),
            instance.name
        );
        let remedy = Remedy::command("systemctl start keepalived")
            .or_text("and let its unit restart it: the drop-in of examples/systemd has Restart=always");
        self.add(severity, Kind::KeepalivedMissing { instance: instance.name.clone() }, reason, remedy);
    }

    /// The VIPs that the plan adds or mends.
    fn added(&self) -> Vec<(IpAddr, Placement)> {
        let added = self.left.iter().filter_map(|step| match step {
            Step::AddVip(vip, placement) => Some((*vip, placement.clone())),
            _ => None,
        });
        added.collect()
    }

    fn interface(&mut self) {
        let Some(doubt) = self.seen.lan.doubt.clone() else { return };
        let severity = if matches!(doubt, Doubt::Port { .. }) { Severity::Error } else { Severity::Warning };
        let kind =
            Kind::WrongInterface { interface: self.config.interface.clone(), instead: doubt.instead().to_owned() };
        let remedy = Remedy::text(format!(
            "write interface = {:?} into the node's file, and take on the role again",
            doubt.instead()
        ));
        self.add(severity, kind, doubt.to_string(), remedy);
    }

    fn arp(&mut self) {
        let seen = self.seen;
        let mut answers = BTreeSet::new();
        for interface in &seen.lan.interfaces {
            let Some(now) = seen.effective_arp(interface) else { continue };
            let found: Vec<AssignedAddress> = self.on_lo().filter(|found| found.address.is_ipv4()).cloned().collect();
            for found in found {
                let host = found.scope == Scope::Host;
                if now.ignore.hides_loopback_vip(host, seen.route_localnet) {
                    continue;
                }
                answers.insert(interface);
                let vip = found.address;
                let localnet = if seen.route_localnet { " with route_localnet on" } else { "" };
                let reason = format!(
                    "arp_ignore on {interface} is {}{localnet}: this node answers ARP requests for {found}, and draws its traffic away \
                     from the director",
                    now.ignore
                );
                if now.ignore.hides_loopback_vip(true, seen.route_localnet) {
                    let steps = self.take(|step| matches!(step, Step::AddVip(v, Placement::Loopback) if *v == vip));
                    self.add(self.backups(), Kind::LoopbackScope { found }, reason, Remedy::steps(steps));
                    continue;
                }
                let kind = Kind::ArpAnswer { vip, interface: interface.clone(), ignore: now.ignore };
                self.add(self.backups(), kind, reason, self.hide(interface));
            }
            let is_near = |vip: IpAddr| lan::is_near(vip, interface, &seen.addresses);
            let shown = self
                .on_lo()
                .find(|found| found.address.is_ipv4() && !now.announce.hides_loopback_vip(is_near(found.address)));
            if let Some(shown) = shown {
                let reason = format!(
                    "arp_announce on {interface} is {}: this node names {} as sender of its ARP requests, and draws its traffic away from \
                     the director",
                    now.announce, shown.address
                );
                let steps = self.steps_of_arp(interface, |after| after.announce.hides_loopback_vip(true));
                let remedy = match steps.is_empty() {
                    true if self.seen.read_only.contains(&Tree::Arp) => {
                        Remedy::command(set_arp(interface, "arp_announce", 2)).or_text(ON_THE_HOST)
                    }
                    true => Remedy::command(set_arp(interface, "arp_announce", 2)),
                    false => Remedy::steps(steps),
                };
                let kind = Kind::ArpAnnounce { interface: interface.clone(), announce: now.announce };
                self.add(self.backups(), kind, reason, remedy);
            }
        }
        self.silent();
        self.proxies();
        // No VIP on lo yet, but there will be.
        let Some(vip) = self.config.vips.iter().copied().find(IpAddr::is_ipv4) else { return };
        for found in answering(self.config, seen).into_iter().filter(|found| !answers.contains(&found.interface)) {
            let (interface, ignore) = (found.interface.clone(), found.effective);
            let remedy = self.hide(&interface);
            self.add(Severity::Warning, Kind::ArpAnswer { vip, interface, ignore }, found.to_string(), remedy);
        }
    }

    /// Whether this node answers for a VIP that it does not have.
    fn proxies(&mut self) {
        let lacks = |vip: &IpAddr| vip.is_ipv4() && !self.seen.own.contains(vip);
        let Some(vip) = self.config.vips.iter().copied().find(lacks) else { return };
        for interface in self.around.proxies.clone() {
            let reason = format!(
                "proxy_arp_pvlan is on for {interface}, and this node forwards: as it does not have {vip} it answers ARP requests for it, later \
                 than the director does, and clients learn its address"
            );
            let remedy = Remedy::command(format!(
                "sysctl -w net/ipv4/conf/{interface}/proxy_arp_pvlan=0 net/ipv4/conf/all/proxy_arp_pvlan=0"
            ));
            self.add(Severity::Error, Kind::ProxyArp { vip, interface }, reason, remedy);
        }
    }

    /// Whether the director answers for its VIPs.
    fn silent(&mut self) {
        let interface = self.config.interface.clone();
        let (seen, config) = (self.seen, self.config);
        let Some(counts) = seen.effective_arp(&interface) else { return };
        let answers =
            |vip: IpAddr| counts.ignore.answers_for_interface_vip(lan::is_near(vip, &interface, &seen.addresses));
        let Some(vip) = config.vips.iter().copied().find(|vip| vip.is_ipv4() && !answers(*vip)) else { return };
        if config.vip_owner == VipOwner::Routes {
            return;
        }
        let directs = self.role == Some(Role::Master);
        let reason = format!(
            "arp_ignore on {interface} is {}: {} answers no ARP request for {vip}/{}, and clients lose the director when what they have \
             learned expires",
            counts.ignore,
            if directs { "this director" } else { "a director" },
            host(vip)
        );
        let steps = self.steps_of_arp(&interface, |after| after.ignore.answers_for_interface_vip(false));
        let remedy = match (steps.is_empty(), answers_alone(seen.arp_all.ignore)) {
            (false, _) => Remedy::steps(steps),
            (true, false) => Remedy::command(set_arp("all", "arp_ignore", 1)),
            (true, true) => Remedy::text("configure arp_ignore 1 for this node, and take on the role again"),
        };
        let severity = if directs { Severity::Error } else { Severity::Warning };
        self.add(severity, Kind::ArpSilent { interface, ignore: counts.ignore }, reason, remedy);
    }

    /// The steps that set ARP on this interface, or on all, where what counts then is good.
    fn steps_of_arp(&self, interface: &str, is_good: impl Fn(arp::Settings) -> bool) -> Vec<Step> {
        let all = self.seen.arp_all;
        let good = |step: &&Step| match step {
            Step::Arp(change) => {
                let is_here = change.target == ArpTarget::All || change.target.name() == interface;
                is_here && is_good(change.after.joined(all))
            }
            _ => false,
        };
        self.left.iter().filter(good).cloned().collect()
    }

    /// What helps against answers on this interface.
    fn hide(&self, interface: &str) -> Remedy {
        let localnet = self.seen.route_localnet;
        let steps = self.steps_of_arp(interface, |after| after.ignore.hides_loopback_vip(true, localnet));
        if !steps.is_empty() {
            return Remedy::steps(steps);
        }
        let hides = |mode: IgnoreMode| mode.hides_loopback_vip(true, localnet);
        let by_hand = |target: &str| Remedy::command(set_arp(target, "arp_ignore", 1));
        match &self.config.arp {
            // All's is greater, and is not the node's to set.
            _ if !hides(self.seen.arp_all.ignore) && self.seen.arp_all.ignore.value() > 1 => by_hand("all"),
            Some(wanted) if !hides(wanted.settings.ignore) => {
                Remedy::text("configure arp_ignore 1 for this node, and take on the role again")
            }
            Some(_) if self.seen.read_only.contains(&Tree::Arp) => by_hand(interface).or_text(ON_THE_HOST),
            Some(wanted) if wanted.scope == ArpScope::Reached => Remedy::text("take on a role: that sets it"),
            _ => by_hand(interface),
        }
    }

    fn fence(&mut self) {
        let switched = ignores_packets(self.seen);
        if switched {
            let steps = self.take(|step| matches!(step, Step::Sysctl { name, .. } if name == "backup_only"));
            let reason = "a backup sync daemon runs, as on every node of the cluster, and backup_only is 1: IPVS ignores all packets";
            let remedy = match steps.is_empty() {
                true => Remedy::command("sysctl -w net.ipv4.vs.backup_only=0"),
                false => Remedy::steps(steps),
            };
            let severity = if self.is_backup() { Severity::Warning } else { Severity::Error };
            self.add(severity, Kind::BackupOnly, reason, remedy);
        }
        if !self.is_backup() || switched || self.config.fence != Fence::Clear {
            return;
        }
        let live = |content: &VirtualService<'_>| {
            content.destinations().any(|d| d.weight > 0 && !self.seen.own.contains(&d.address.ip()))
        };
        let ours = |id: &ServiceId| is_ours(self.config, self.kept, id);
        let (ours, foreign): (Vec<_>, Vec<_>) = ids(&self.seen.table, live)
            .into_iter()
            .filter(|id| ours(id) || self.is_on_vip(id))
            .partition(|id| is_ours(self.config, self.kept, id));
        let reason = |services: &[ServiceId]| {
            format!(
                "{} live on a node that does not direct: what the director sends here is scheduled once more, and goes round until its TTL ends",
                match services {
                    [one] => format!("{one} is"),
                    more => format!("{} are", list(more)),
                }
            )
        };
        if !ours.is_empty() {
            let steps = self.take(|step| matches!(step, Step::Table(_)));
            self.add(Severity::Error, Kind::Unfenced { services: ours.clone() }, reason(&ours), Remedy::steps(steps));
        }
        if !foreign.is_empty() {
            let remove = foreign.iter().map(|id| format!("ipvsadm {}", ipvs::Change::RemoveService(*id)));
            let remedy = Remedy { commands: remove.collect(), ..Remedy::default() }
                .or_text("or add it to the node's services, so that it is fenced too");
            self.add(Severity::Error, Kind::Unfenced { services: foreign.clone() }, reason(&foreign), remedy);
        }
    }

    /// Destinations that do not get the packets of their services.
    fn destinations(&mut self) {
        let unreached: Vec<Unreached> = self
            .troubles
            .iter()
            .filter_map(
                |trouble| if let Trouble::Unreached(unreached) = trouble { Some(unreached.clone()) } else { None },
            )
            .collect();
        for unreached in unreached {
            let reason = unreached.to_string();
            let Unreached { address, reason: why, places } = unreached;
            let services = places.iter().map(|(service, _)| *service).collect();
            let removed = || Remedy {
                commands: places
                    .iter()
                    .map(|(service, found)| {
                        format!("ipvsadm {}", ipvs::Change::RemoveDestination(*service, found.clone()))
                    })
                    .collect(),
                ..Remedy::default()
            };
            let (severity, kind, remedy) = match why {
                Reason::Behind(gateway) => (
                    Severity::Error,
                    Kind::BehindGateway { peer: address, gateway },
                    removed().or_text("then use a server on the node's own link, or tunnelling (-i in ipvsadm(8))"),
                ),
                Reason::NoRoute => (
                    Severity::Error,
                    Kind::NoRoute { address, services },
                    removed().or_text("or give this node an address on the server's link"),
                ),
                Reason::AnswersItself(_) => (
                    Severity::Warning,
                    Kind::AnswersItself { address, services },
                    Remedy::text(
                        "add the server with direct routing (-g in ipvsadm(8)), or make the director its gateway, with no other way to clients",
                    ),
                ),
                Reason::NoHost(_) => (Severity::Error, Kind::NoHost { address, services }, removed()),
                Reason::OtherPort(_) => (
                    Severity::Warning,
                    Kind::OtherPort { address, services },
                    Remedy::text(
                        "add the server with the service's port, and let it listen there; NAT (-m) changes ports, for a server whose only way to \
                         clients is the director",
                    ),
                ),
                Reason::ToItself => (
                    Severity::Warning,
                    Kind::LoopbackDestination { address, services },
                    Remedy::text("name the node's own address on its interface instead"),
                ),
            };
            self.add(severity, kind, reason, remedy);
        }
    }

    /// Services that this node is a server of, and does not serve.
    fn listeners(&mut self) {
        // A node without a role gets no packets.
        let severity = if self.role.is_some() { Severity::Error } else { Severity::Warning };
        for (sockets, services) in &self.around.unserved {
            let (services, named) = (services.clone(), list(services));
            match sockets {
                Sockets::Elsewhere(only) => {
                    let found = match &only[..] {
                        [] => "no socket of this node listens there".to_owned(),
                        only => format!("sockets of this node listen on its port on {} only", list(only)),
                    };
                    let reason = format!(
                        "{named}: this node is one of its servers, and {found}: connections that the director sends here are refused"
                    );
                    let remedy = Remedy::text(
                        "start the server, let it listen on all addresses (0.0.0.0, ::) or on the VIP too, or take this node out of the \
                         service (`check_listener = false` where NAT or another network namespace serves it)",
                    );
                    self.add(severity, Kind::NotListening { services, only: only.clone() }, reason, remedy);
                }
                Sockets::Any => {
                    let reason = format!(
                        "{named}: this node serves it by a socket on all addresses: an answer bears the VIP only where the program asks for \
                         each packet's destination (IP_PKTINFO); otherwise it bears this node's own address, and the client ignores it"
                    );
                    let remedy = Remedy::text(
                        "let the server listen on the VIP too; where the program does ask, `check_listener = false` ends this notice",
                    );
                    self.add(Severity::Notice, Kind::AnswerSource { services }, reason, remedy);
                }
                Sockets::Unseen(why) => {
                    let reason = format!("{named}: whether this node serves it is unknown: {why}");
                    let remedy = Remedy::text("load tcp_diag, udp_diag or sctp_diag, or look with `ss -ln`");
                    self.add(Severity::Notice, Kind::ListenersUnseen { services }, reason, remedy);
                }
            }
        }
    }

    /// Addresses on `lo` that have services, and that no group of the node has.
    fn unlisted(&mut self) {
        let seen = self.seen;
        let on_lo = seen.addresses.iter().filter(|found| found.interface == "lo" && !found.address.is_loopback());
        let unlisted: BTreeSet<IpAddr> =
            on_lo.map(|found| found.address).filter(|address| !seen.vips.contains_key(address)).collect();
        for vip in unlisted {
            let services = ids(&seen.table, |content| {
                let is_live = |d: ipvs::Destination| d.weight > 0 && !seen.own.contains(&d.address.ip());
                content.service.id.address().is_some_and(|listen| listen.ip() == vip)
                    && content.destinations().cloned().any(is_live)
            });
            if services.is_empty() {
                continue;
            }
            let reason = format!(
                "{vip} is on lo and not among the vips, and this node schedules {}: what a director sends here is scheduled once more, and \
                 goes round until its TTL ends",
                list(&services)
            );
            let remedy = Remedy::text(
                "name it among the vips, with its services, on every node; or remove it from lo or from the table",
            );
            self.add(self.backups(), Kind::UnlistedVip { vip, services }, reason, remedy);
        }
    }

    /// Fence `marks`: its rules, its services, and the other nodes that the rules are about.
    fn marks(&mut self) {
        if self.config.fence != Fence::Marks {
            return;
        }
        let values = self.config.mark_values();
        let is_marks = |step: &Step| match step {
            Step::Marks(_) => true,
            Step::Table(plan) => plan.changes().iter().all(|change| change.service().is_some_and(|id| values.owns(id))),
            _ => false,
        };
        let steps = self.take(is_marks);
        // The service that they were for has been removed, or the program is newer than the
        // filters.
        let works = |change: &marks::Change| match change {
            marks::Change::Remove(_) | marks::Change::RemoveOutdated(_) | marks::Change::Unclassify(_) => true,
            marks::Change::Add(rule) => self.seen.marks.outdated.contains(rule),
            _ => false,
        };
        let only_removes = steps.iter().all(|step| match step {
            Step::Marks(plan) => plan.changes().iter().all(works),
            Step::Table(plan) => plan.changes().iter().all(|change| matches!(change, ipvs::Change::RemoveService(_))),
            _ => false,
        });
        if !steps.is_empty() {
            let (severity, reason) = match only_removes {
                true => (
                    Severity::Notice,
                    "rules or services of the marks are needed no more, or rules are in the form of an earlier version, which costs more",
                ),
                false => (
                    Severity::Error,
                    "rules or services of the marks are missing, or differ: what another node sends here is scheduled once more",
                ),
            };
            self.add(severity, Kind::MarksDiffer, reason, Remedy::steps(steps));
        }
        for trouble in std::mem::take(&mut self.troubles) {
            let reason = trouble.to_string();
            let (severity, kind, remedy) = match trouble {
                Trouble::Unreached(_) => continue,
                Trouble::Unknown { peers } => (
                    Severity::Warning,
                    Kind::PeerUnknown { peers },
                    "see with `ip neigh` whether it answers; MAC addresses can be configured ([marks] macs)",
                ),
                Trouble::Gateway { peer, gateway, .. } if peer == gateway => (
                    Severity::Warning,
                    Kind::PeerIsGateway { peer, gateway },
                    "let this node have another gateway, where two directors at once must not harm. Where clients are behind that one: \
                     `sysctl -w net/ipv4/conf/INTERFACE/accept_local=1` there, with the interface of this link",
                ),
                Trouble::Gateway { peer, gateway, .. } => (
                    Severity::Error,
                    Kind::PeerIsGateway { peer, gateway },
                    "give the destination the server's address on the node's own link",
                ),
            };
            self.add(severity, kind, reason, Remedy::text(remedy));
        }
        self.own_requests();
        self.overwritten_marks();
    }

    fn own_requests(&mut self) {
        let steps = self.take(|step| matches!(step, Step::OwnRequests(_)));
        if !steps.is_empty() {
            let reason = "requests of this node's own programs to a VIP are not marked: another server may get them, whose answer is lost";
            self.add(Severity::Notice, Kind::OwnRequests, reason, Remedy::steps(steps));
        }
        if let Some(missing) = self.seen.own_requests.as_ref().and_then(|found| found.missing.clone()) {
            let reason = format!(
                "requests of this node's own programs to a VIP may reach another server, whose answer is lost: {missing}"
            );
            let remedy = Remedy::text(
                "install nftables, or let own programs use the node's own address ([marks] own_requests = \"left-alone\" ends this \
                 notice)",
            );
            self.add(Severity::Notice, Kind::OwnRequests, reason, remedy);
        }
    }

    /// Commands of xtables that mark what other nodes send in chain INPUT.
    fn marks_in_input(&self) -> impl Iterator<Item = String> {
        let local = self.config.marks.values.local();
        let rules: BTreeSet<(IpAddr, Mac)> = self
            .seen
            .marks
            .rules
            .iter()
            .filter_map(|rule| if let Packets::From(mac) = rule.packets { Some((rule.vip, mac)) } else { None })
            .filter(|(vip, _)| self.config.vips.contains(vip))
            .collect();
        rules.into_iter().map(move |(vip, mac)| {
            let program = if vip.is_ipv4() { "iptables" } else { "ip6tables" };
            format!("{program} -t mangle -A INPUT -d {vip} -m mac --mac-source {mac} -j MARK --set-mark {local}")
        })
    }

    /// What keeps the marks of the node's rules from IPVS.
    fn overwritten_marks(&mut self) {
        let values = self.config.mark_values();
        let first = marks::PRIORITY;
        let last = first.saturating_add(1);
        let filters = self.seen.marks.foreign.iter().filter(|found| found.mark.is_some());
        let filters: Vec<(String, &str)> = filters
            .filter_map(|found| match found.priority {
                before if before < first => found
                    .ends
                    .then_some((found.to_string(), "the node's rules are not tried for packets that it matches")),
                behind => (behind > last).then_some((found.to_string(), "it overwrites the marks of the node's rules")),
            })
            .collect();
        for (by, what) in filters {
            let reason = format!("{by}: {what}, and what another node sends here is scheduled once more");
            let remedy =
                Remedy::text(format!("give it a priority below {first}, and `continue` as its last action's control"));
            self.add(self.backups(), Kind::MarkOverwritten { by }, reason, remedy);
        }
        let slots = self.seen.marks.rules.iter().map(|rule| rule.mark).filter(|mark| values.contains(*mark));
        let ours = slots.chain([values.local(), values.own()]).collect();
        for by in self.around.firewall.overwriting(&ours, &self.config.vips) {
            let reason = format!(
                "`{by}` sets a mark without a test that the packet has none: what another node sends here is scheduled once more"
            );
            let test = if by.starts_with("nft") { "`meta mark 0`" } else { "`-m mark --mark 0`" };
            let again: Vec<String> = self.marks_in_input().collect();
            let remedy = Remedy::text(format!(
                "add the test {test} to the rule; or, where it must stay as it is, mark these packets again in mangle INPUT, which comes \
                 after it and before IPVS: {}",
                again.join("; ")
            ));
            self.add(self.backups(), Kind::MarkOverwritten { by }, reason, remedy);
        }
        let known = self.around.firewall.marks();
        let is_known =
            |mark: u32| known.contains(&mark) || self.seen.marks.foreign.iter().any(|found| found.mark == Some(mark));
        let services = ids(
            &self.seen.table,
            |content| matches!(content.service.id, ServiceId::Fwmark { mark, .. } if !values.contains(mark) && !is_known(mark.get())),
        );
        if !services.is_empty() {
            let reason = format!(
                "{}: no rule was found that sets this mark. It must leave packets alone that bear a mark already (iptables: -m mark --mark \
                 0; nft: meta mark 0), or what another node sends here is scheduled once more",
                list(&services)
            );
            let remedy = Remedy::text("look into `iptables -t mangle -S` and `nft list ruleset`");
            self.add(Severity::Notice, Kind::MarkedServices { services }, reason, remedy);
        }
    }

    fn is_on_vip(&self, id: &ServiceId) -> bool {
        id.address().is_some_and(|address| self.config.vips.contains(&address.ip()))
    }

    /// The steps that make such a change of the table.
    fn steps_of_tables(&self, which: impl Fn(&ipvs::Change) -> bool) -> Vec<Step> {
        let fits = |step: &&Step| matches!(step, Step::Table(plan) if plan.changes().iter().any(&which));
        self.left.iter().filter(fits).cloned().collect()
    }

    fn has(&self, which: impl Fn(&Kind) -> bool) -> bool {
        self.found.iter().any(|finding| which(&finding.kind))
    }

    fn sync(&mut self) {
        if let Some(reason) = sync_warning(self.config, self.seen) {
            let interface = self.config.sync.interface.clone();
            let remedy = match self.seen.sync_link {
                LinkState::Down => Remedy::command(format!("ip link set {interface} up")),
                _ => Remedy::text(
                    "make the interface, or name another one ([sync] interface), and take on the role again",
                ),
            };
            self.add(Severity::Warning, Kind::SyncInterface { interface }, reason, remedy);
        }
        // Taking on a role sets it.
        let found = sysctl(self.seen, "sync_threshold").filter(|_| self.role.is_some() && self.config.syncs());
        let found = found.map(str::to_owned);
        if let Some(found) = found.filter(|found| found != "2 0") {
            let steps = self.take(|step| matches!(step, Step::Sysctl { name, .. } if name == "sync_threshold"));
            let reason = format!(
                "sync_threshold is {found}, required 2 0: a director that sees the client's packets only does not send every session at the \
                 end of its handshake, and one that is silent from then on never"
            );
            let remedy = match steps.is_empty() {
                true => Remedy::command("sysctl -w net.ipv4.vs.sync_threshold=\"2 0\"").or_text(ON_THE_HOST),
                false => Remedy::steps(steps),
            };
            self.add(Severity::Warning, Kind::SyncThreshold { found }, reason, remedy);
        }
        let is_daemon =
            |change: &ipvs::Change| matches!(change, ipvs::Change::StartDaemon(_) | ipvs::Change::StopDaemon(_));
        let steps = self.steps_of_tables(is_daemon);
        if !steps.is_empty() {
            let reason = "the sync daemon of this role does not run, or runs with other settings: sessions are not sent, or not received";
            self.add(Severity::Warning, Kind::SyncDaemon, reason, Remedy::steps(steps));
        }
    }

    fn sysctls(&mut self) {
        let step = |case: &mut Self, of: &str| {
            case.take(|step| matches!(step, Step::Sysctl { name, value, .. } if name == of && value == "1"))
        };
        let services = persistent(self.kept);
        if !services.is_empty() && is_off(self.seen, "expire_quiescent_template") {
            let steps = step(self, "expire_quiescent_template");
            let reason = format!(
                "expire_quiescent_template is 0, and persistent: {}. New connections of a known client go on to a server with weight 0",
                list(&services)
            );
            let remedy = self.sysctl_remedy(steps, "expire_quiescent_template");
            self.add(Severity::Warning, Kind::ExpireQuiescentTemplate { services }, reason, remedy);
        }
        self.idle_sessions();
        self.defence();
        let services = flows(self.kept);
        let nodest = is_off(self.seen, "expire_nodest_conn");
        let steps = if nodest { step(self, "expire_nodest_conn") } else { Vec::new() };
        if nodest && self.role.is_some() && self.config.fence == Fence::Clear {
            // IPVS is at work for each family by itself.
            let meets = |id: &ServiceId| self.config.vips.iter().any(|vip| Family::of(*vip) == id.family());
            let others = !ids(&self.seen.table, |content| {
                meets(&content.service.id) && !is_ours(self.config, self.kept, &content.service.id)
            })
            .is_empty();
            let severity = if others && self.is_backup() { Severity::Error } else { Severity::Warning };
            let reason = "expire_nodest_conn is 0: packets of connections from before the table was cleared are dropped while other \
                          services are loaded";
            let remedy = self.sysctl_remedy(steps.clone(), "expire_nodest_conn");
            self.add(severity, Kind::ExpireNodestConn, reason, remedy);
        }
        if !services.is_empty() && nodest {
            let reason = format!(
                "expire_nodest_conn is 0, and without one-packet scheduling: {}. A flow whose server was removed is dropped for as long as it \
                 goes on",
                list(&services)
            );
            let remedy = self.sysctl_remedy(steps, "expire_nodest_conn").or_text(ONE_PACKET);
            self.add(Severity::Warning, Kind::UdpDropped { services: services.clone() }, reason, remedy);
        }
        let timeout = self.around.timeouts.udp;
        if !services.is_empty() && timeout > LONG_FLOW {
            let reason = format!(
                "flows are remembered for {timeout:?}, and without one-packet scheduling: {}. Until one was silent for so long, it goes on to \
                 a server with weight 0",
                list(&services)
            );
            let remedy = Remedy::command("ipvsadm --set 0 0 30").or_text(ONE_PACKET);
            self.add(Severity::Notice, Kind::UdpTimeout { services, timeout }, reason, remedy);
        }
    }

    /// Sessions that are silent for longer than IPVS remembers them.
    fn idle_sessions(&mut self) {
        let timeout = self.around.timeouts.tcp;
        let services = ids(self.kept, |content| {
            matches!(content.service.id, ServiceId::Tcp(_)) && content.service.scheduler != Scheduler::MH
        });
        if services.is_empty() || timeout >= TCP_TIMEOUT {
            return;
        }
        let reason = format!(
            "TCP connections are remembered for {timeout:?}, and their scheduler is not mh: {}. One that was silent for longer may be reset",
            list(&services)
        );
        let remedy = Remedy::command(format!("ipvsadm --set {} 0 0", TCP_TIMEOUT.as_secs()))
            .or_text("on every node, and in what set it (`lvs_timeouts` in keepalived.conf); or scheduler mh");
        self.add(Severity::Notice, Kind::TcpTimeout { services, timeout }, reason, remedy);
    }

    /// IPVS defends itself, and drops what it would serve.
    fn defence(&mut self) {
        let found = self.around.defence.clone();
        if found.is_empty() {
            return;
        }
        let shown: Vec<String> = found.iter().map(|(name, value)| format!("net.ipv4.vs.{name}={value}")).collect();
        let commands = found.iter().map(|(name, _)| format!("sysctl -w net.ipv4.vs.{name}=1")).collect();
        let reason = format!(
            "{}: IPVS drops some packets or connections of clients, though they be no attack; 3 is always, 2 while memory is low",
            list(&shown)
        );
        let remedy = Remedy { commands, ..Remedy::default() }.or_text("1: only while memory is low");
        let severity = if self.role == Some(Role::Master) { Severity::Error } else { Severity::Warning };
        let names = found.into_iter().map(|(name, _)| name).collect();
        self.add(severity, Kind::Defence { names }, reason, remedy);
    }

    /// Sysctls of IPVS that the node does not set, and that no other finding names.
    fn unset_sysctls(&mut self) {
        let mut unset = std::mem::take(&mut self.judged.unset);
        for finding in &self.found {
            unset.remove(match finding.kind {
                Kind::SyncThreshold { .. } => "sync_threshold",
                Kind::ExpireQuiescentTemplate { .. } => "expire_quiescent_template",
                Kind::ExpireNodestConn | Kind::UdpDropped { .. } => "expire_nodest_conn",
                Kind::BackupOnly => "backup_only",
                _ => continue,
            });
        }
        if unset.is_empty() {
            return;
        }
        let settings = settings::shown_sysctls(&unset).join(" ");
        let (severity, why) = match self.config.ipvs_sysctls {
            IpvsSysctls::Managed => (Severity::Warning, "cannot be set here, as /proc/sys is read-only"),
            IpvsSysctls::LeftAlone => (Severity::Notice, "are left alone ([sysctl] manage = false)"),
        };
        let reason = format!(
            "sysctls of IPVS {why}, and differ from what this node needs: {settings}; connections may break when the director changes"
        );
        let remedy = Remedy::command(format!("sysctl -w {settings}")).or_text(ON_THE_HOST);
        self.add(severity, Kind::SysctlsDiffer { names: unset.into_keys().collect() }, reason, remedy);
    }

    fn sysctl_remedy(&self, steps: Vec<Step>, name: &str) -> Remedy {
        match steps.is_empty() {
            true => Remedy::command(format!("sysctl -w net.ipv4.vs.{name}=1")),
            false => Remedy::steps(steps),
        }
    }

    fn table(&mut self) {
        for (service, why) in &self.around.refused {
            let remedy = Remedy::text(
                "install the kernel's module for it, or configure another scheduler or persistence engine",
            );
            self.add(Severity::Warning, Kind::ServiceRefused { service: *service }, why.clone(), remedy);
        }
        let steps = self.steps_of_tables(|change| change.service().is_some());
        if !steps.is_empty() {
            let changes: Vec<_> = steps
                .iter()
                .filter_map(|step| if let Step::Table(plan) = step { Some(plan.changes()) } else { None })
                .flatten()
                .filter(|change| change.service().is_some())
                .collect();
            let severity = if self.is_backup() { Severity::Warning } else { Severity::Error };
            let reason = format!("kernel table differs from the configuration: {}", list(&changes));
            self.add(severity, Kind::TableDiffers { changes: changes.len() }, reason, Remedy::steps(steps));
        }
        self.take(|step| matches!(step, Step::Table(_)));
        let services = self.around.unordered.clone();
        if !services.is_empty() {
            let reason = format!(
                "the kernel has the destinations in another order than a node loads them: {}. Packets of unknown connections of some clients \
                 go to another server than on nodes that have another order",
                list(&services)
            );
            let remedy = Remedy::text(
                "harmless where all nodes have the same order. Otherwise load the services again on each node, while it is a backup: \
                 `ipvsadm -D` for each of them, then `lvs-node apply --all`, or `ipvsadm -A` and `-a` sorted by address",
            );
            self.add(Severity::Notice, Kind::DestinationOrder { services }, reason, remedy);
        }
        if self.role == Some(Role::Master) && self.kept.is_empty() {
            let remedy = Remedy::text("configure services, or add them with ipvsadm");
            self.add(Severity::Error, Kind::NoServices, "there are no services, so nothing is balanced", remedy);
        }
    }

    fn paths(&mut self) {
        for Astray { interface, client, through } in self.around.astray.clone() {
            let reason = format!(
                "rp_filter on {interface} is strict, and answers to {client} leave by {through}: what the director sends here for such a \
                 client is dropped"
            );
            let remedy = Remedy::command(format!("sysctl -w net/ipv4/conf/{interface}/rp_filter=2"));
            self.add(Severity::Error, Kind::RpFilter { interface, client, through }, reason, remedy);
        }
    }

    /// keepalived's file: how it elects, and whom it checks.
    fn keepalived(&mut self) {
        let Some(file) = self.around.keepalived.clone() else { return };
        let is_ours = |addresses: &[IpAddr]| addresses.iter().any(|address| self.config.vips.contains(address));
        if self.config.vip_owner == VipOwner::Keepalived {
            let has = |vip: &IpAddr| file.instances.iter().any(|instance| instance.addresses.contains(vip));
            let without: Vec<IpAddr> = self.config.vips.iter().filter(|vip| !has(vip)).copied().collect();
            without.into_iter().for_each(|vip| self.without_instance(&file.path, vip));
        }
        let instances: Vec<Instance> = file.instances.into_iter().filter(|i| is_ours(&i.addresses)).collect();
        let checked: Vec<Checked> = file.checked.into_iter().filter(|c| is_ours(&c.addresses)).collect();
        instances.iter().for_each(|instance| self.instance(&file.path, instance));
        checked.iter().for_each(|checked| self.checked(&file.path, checked));
        if let Some(line) = file.sync {
            self.sync_line(file.path, &line);
        }
    }

    fn without_instance(&mut self, file: &Path, vip: IpAddr) {
        let reason = format!(
            "{}: no vrrp_instance has {vip}, which keepalived is to place on the director's interface (vip_owner = \"keepalived\"): no \
             node answers for it",
            file.display()
        );
        let remedy = Remedy::text(format!(
            "put `{vip}/{}` into `virtual_ipaddress` of the group's instance on every node, or into `virtual_ipaddress_excluded` where the \
             instance's first address is of the other family, and reload keepalived",
            host(vip)
        ));
        self.add(Severity::Error, Kind::VipWithoutInstance { vip, file: file.to_owned() }, reason, remedy);
    }

    fn instance(&mut self, file: &Path, instance: &Instance) {
        let (name, file) = (instance.name.clone(), file.to_owned());
        let here = format!("{}: instance {name}", file.display());
        // Fence `marks`: the former director gets the packets of connections that the new one does
        // not know, and sends it all of them when it is demoted.
        let breaks = self.config.fence == Fence::Clear && instance.preempts();
        let is_ignored = instance.nopreempt && instance.starts_as_master;
        if breaks || is_ignored {
            let (severity, reason) = match breaks {
                true => {
                    let why = "preempts: a node that comes back takes the VIP before it has learned the sessions made meanwhile, which break";
                    (Severity::Warning, format!("{here} {why}"))
                }
                false => {
                    let why = "a node that comes back takes the VIP from a director that works";
                    (
                        Severity::Notice,
                        format!("{here} has `nopreempt`, which keepalived ignores with `state MASTER`: {why}"),
                    )
                }
            };
            let remedy = Remedy::text(format!(
                "put `nopreempt` and `state BACKUP` into instance {name} on every node, and reload keepalived"
            ));
            let kind = Kind::PreemptingVrrp { instance: name.clone(), file: file.clone() };
            self.add(severity, kind, reason, remedy);
        }
        if !instance.accepts {
            let reason = format!(
                "{here} does not accept: keepalived drops all packets for the VIP on the director, by a rule of the firewall"
            );
            let remedy = Remedy::text(format!(
                "take `vrrp_strict`, `strict_mode` and `no_accept` out of instance {name} and global_defs on every node, and restart keepalived. \
                 With VRRPv3, `accept` in the instance does too"
            ));
            let kind = Kind::VipNotAccepted { instance: name.clone(), file: file.clone() };
            self.add(Severity::Error, kind, reason, remedy);
        }
        let takes = instance.takeover();
        if takes >= SLOW_ELECTION {
            let (interval, written) = (instance.interval(), instance.advert);
            let rounded = match interval == written {
                true => String::new(),
                false => format!("; {written:?} is rounded, as VRRPv2 has whole seconds"),
            };
            let reason = format!(
                "{here}: after a crash of the director nobody answers for {:.1} s, until another node is elected (adverts every {interval:?}{rounded})",
                takes.as_secs_f64()
            );
            let remedy = Remedy::text(format!(
                "`vrrp_version 3` in global_defs and `advert_int 0.3` in the instance: {:.1} s. Change all nodes at once: those of different \
                 versions do not hear each other, and each takes the VIP",
                instance.takeover_with(3, Duration::from_millis(300)).as_secs_f64()
            ));
            let kind = Kind::SlowVrrp { instance: name.clone(), file: file.clone(), takes };
            self.add(Severity::Notice, kind, reason, remedy);
        }
        if instance.version == 3 && instance.has_authentication {
            let reason = format!(
                "{here} has `authentication`, which VRRPv3 does not know and keepalived ignores: any host of the link can take the VIP"
            );
            let remedy = Remedy::text(
                "remove the block, and let a firewall accept protocol 112 from the nodes alone. In VRRPv2 the password can be read on the link",
            );
            self.add(Severity::Notice, Kind::VrrpAuthentication { instance: name, file }, reason, remedy);
        }
    }

    fn checked(&mut self, file: &Path, checked: &Checked) {
        let (service, file) = (checked.name.clone(), file.to_owned());
        let here = format!("{}: virtual_server {service}", file.display());
        if self.config.fence == Fence::Clear {
            let reason = format!(
                "{here}: a backup has no table that keepalived's checks could edit, with fence = \"clear\": a server that died meanwhile gets \
                 requests after a promotion"
            );
            let remedy =
                Remedy::text("configure fence = \"marks\", or check on the director only, from the script of its role");
            let kind = Kind::ChecksWithoutTable { service: service.clone(), file: file.clone() };
            self.add(Severity::Warning, kind, reason, remedy);
        }
        if checked.removes && checked.scheduler == "mh" {
            let reason = format!(
                "{here} removes a server that is down, and adds it again behind the others: mh hashes by their order, so nodes that did so at \
                 different times send some unknown connections to different servers"
            );
            let remedy = Remedy::text(
                "put `inhibit_on_failure` into the virtual_server on every node: such a server gets weight 0",
            );
            self.add(Severity::Notice, Kind::ChecksReorder { service, file }, reason, remedy);
        }
    }

    fn sync_line(&mut self, file: PathBuf, line: &SyncLine) {
        let SyncLine { keyword, interface, sync_id } = line;
        let here = format!("{}: {keyword} {interface}, id {sync_id}", file.display());
        let own = self.config.sync.daemon(SyncRole::Backup);
        let is_same = *sync_id == own.sync_id && *interface == own.interface;
        let (severity, reason) = match (is_same, self.config.fence) {
            (true, _) => {
                let why = "as this node's: keepalived stops the node's daemons at each change of its instance, and starts one of the two";
                (Severity::Warning, format!("{here}, {why}"))
            }
            (false, Fence::Marks) => {
                let own = format!("on {}, id {}", own.interface, own.sync_id);
                (
                    Severity::Error,
                    format!("{here}: no role can be taken on while that daemon runs; the node's own run {own}"),
                )
            }
            // keepalived's daemons do what the node's would.
            (false, Fence::Clear) => return,
        };
        let remedy = Remedy::text(format!(
            "remove `{keyword}` on every node, and restart keepalived: the node runs the sync daemons"
        ));
        self.add(severity, Kind::KeepalivedSync { sync_id: *sync_id, file }, reason, remedy);
    }

    fn failure(&mut self) {
        let Some(RoleFailure { task, reason, .. }) = self.judged.failure.take() else { return };
        // A fix takes on the role that was asked for last, once more.
        let reaches = |step: &&Step| matches!(step, Step::Record { role, reached: true } if role.to_string() == task);
        let steps: Vec<Step> = match &self.judged.plan {
            Some(Ok(plan)) => plan.steps().iter().filter(reaches).cloned().collect(),
            _ => Vec::new(),
        };
        let remedy = match task.as_str() {
            _ if !steps.is_empty() => Remedy::steps(steps),
            "release" => Remedy::text("do as the message says, then release the node again"),
            _ => Remedy::text(
                "do as the message says, then take on the role again; under keepalived that of its state now",
            ),
        };
        let reason = format!("{task} failed, and no role was reached since: {reason}");
        // The node is what it was before: a backup that could not be promoted.
        let severity = match self.judged.reached {
            true => Severity::Warning,
            false => Severity::Error,
        };
        self.add(severity, Kind::RoleFailed { task }, reason, remedy);
    }

    fn forgotten(&mut self) {
        let signs = std::mem::take(&mut self.judged.signs);
        if signs.is_empty() {
            return;
        }
        let reason = format!(
            "{} remembers no role, and this node has what a role leaves: {}",
            self.config.state_dir.display(),
            list(&signs)
        );
        let remedy = Remedy::text(
            "take on its role again, or release it: that gives back what is recognised as the node's, and names the rest",
        );
        self.add(Severity::Warning, Kind::Forgotten { signs }, reason, remedy);
    }

    /// What no finding has explained.
    fn rest(&mut self) {
        // These say the same.
        let is_told = self.has(|kind| matches!(kind, Kind::LoopbackMask { .. } | Kind::VipElsewhere { .. }));
        if let Some((role, error)) = self.judged.refused.take().filter(|_| !is_told) {
            let reason = format!("role {role} would be refused: {error}");
            let remedy = Remedy::text("do as the message says");
            self.add(Severity::Error, Kind::Blocked, reason, remedy);
        }
        // Its part of several findings.
        let arp =
            |kind: &Kind| matches!(kind, Kind::ArpAnswer { .. } | Kind::ArpAnnounce { .. } | Kind::ArpSilent { .. });
        if self.has(arp) {
            self.take(|step| matches!(step, Step::Arp(_)));
        }
        for step in std::mem::take(&mut self.left) {
            let reason = "not in the state that the role requires".to_owned();
            let remedy = Remedy::steps(vec![step.clone()]);
            self.add(Severity::Warning, Kind::OutOfPlace { step }, reason, remedy);
        }
    }
}

const ON_THE_HOST: &str = "on the host, where /proc/sys is read-only here (a container with a network of its own: `nsenter --net --target PID`)";

const ONE_PACKET: &str = "or, where each packet stands for itself (DNS, syslog), configure one-packet scheduling";

/// Whether requests for a VIP on the interface are answered with this setting of `all`.
fn answers_alone(all: IgnoreMode) -> bool {
    all.answers_for_interface_vip(false)
}

fn host(address: IpAddr) -> u8 {
    match Family::of(address) {
        Family::V4 => 32,
        Family::V6 => 128,
    }
}

/// With slashes: an interface's name may hold dots.
fn set_arp(target: &str, setting: &str, value: i32) -> String {
    format!("sysctl -w net/ipv4/conf/{target}/{setting}={value}")
}
