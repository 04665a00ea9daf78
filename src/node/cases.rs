//! What a node plans, case by case: `plans.txt` has each plan as text, with what is warned of and
//! what is remembered afterwards. `LVS_DR_WRITE=1 cargo test --lib cases` writes that file anew;
//! what has changed in it is to be read.

use std::collections::BTreeSet;
use std::fs;
use std::net::IpAddr;
use std::path::Path;

use super::config::{ArpConfig, ArpScope, Config, Loopback, OwnRequests, VipOwner};
use super::fence::{Fence, no_daemons};
use super::model::{SERVICES, VIP, World, config, ip, located};
use super::observation::OwnMarked;
use super::plan::Plan;
use super::planner::{Memory, for_release, for_role, in_brief, restoration};
use super::repair;
use super::role::Role;
use super::services::Apply;
use super::state::{Legacy, QdiscOwner};
use crate::arp::{self, ArpTarget, Settings};
use crate::error::Result;
use crate::ipvs::{SyncRole, Table};
use crate::marks::{Mac, Packets, Qdisc, Rule};
use crate::vip::{LinkState, MARK, Scope};

const VIP6: &str = "2001:db8::fe";
const SERVICES6: &str = "\
-A -t [2001:db8::fe]:80 -s mh -b mh-port
-a -t [2001:db8::fe]:80 -r [2001:db8::11]:80 -g -w 1
-a -t [2001:db8::fe]:80 -r [2001:db8::12]:80 -g -w 1
";

/// A world, and the text of all that was planned in it.
struct Case {
    world: World,
    text: String,
    /// As it was shown last.
    remembered: String,
}

impl Case {
    fn new(name: &str, config: Config) -> Self {
        Case { world: World::new(config), text: format!("=== {name}\n"), remembered: String::new() }
    }

    /// Carries out a plan, and writes it down.
    fn act(&mut self, what: &str, plan: Result<Plan>) {
        self.text += &format!("--- {what}\n");
        match plan {
            Ok(plan) => {
                let text = plan.to_string();
                self.text += if text.is_empty() { "nothing\n" } else { &text };
                plan.warnings().iter().for_each(|warning| self.text += &format!("warning: {warning}\n"));
                plan.steps().iter().for_each(|step| self.world.act(step, &plan));
            }
            Err(error) => self.text += &format!("error: {error}\n"),
        }
    }

    fn role(&mut self, role: Role) {
        self.role_applying(role, Apply::Changes);
    }

    fn role_applying(&mut self, role: Role, apply: Apply) {
        let World { config, memory, seen } = &self.world;
        if let Some(plan) = in_brief(config, role, &memory.state, seen) {
            self.act(&format!("{role}, in brief"), Ok(plan));
        }
        let World { config, memory, seen } = &self.world;
        let plan = for_role(config, role, apply, memory, seen);
        self.act(&role.to_string(), plan);
        self.remembered();
    }

    fn roles(&mut self, roles: &[Role]) {
        roles.iter().for_each(|role| self.role(*role));
    }

    /// Takes on roles that other cases show.
    fn was(&mut self, roles: &[Role]) {
        let shown = self.text.clone();
        self.roles(roles);
        self.text = shown;
    }

    fn repair(&mut self) {
        let plan = repair::plan(&self.world.config, &self.world.memory, &self.world.seen);
        self.act("repair", plan);
    }

    fn restore(&mut self) {
        let plan = restoration(&self.world.config, &self.world.memory.state, &self.world.seen);
        self.act("restore VIPs", plan);
    }

    fn release(&mut self) {
        let plan = for_release(&self.world.config, &self.world.memory, &self.world.seen);
        self.act("release", plan);
        self.remembered();
    }

    /// What is no longer remembered, and what is now.
    fn remembered(&mut self) {
        let now = self.world.memory.state.to_string();
        let lacks = |text: &str, line: &str| !text.lines().any(|other| other == line);
        let gone = self.remembered.lines().filter(|line| lacks(&now, line)).map(|line| format!("  - {line}\n"));
        let new = now.lines().filter(|line| lacks(&self.remembered, line)).map(|line| format!("  + {line}\n"));
        self.text.extend(gone.chain(new));
        self.remembered = now;
    }

    fn remove_vip(&mut self, interface: &str) {
        let found = self.world.seen.vips.entry(ip(VIP)).or_default();
        found.retain(|found| found.interface != interface);
    }

    fn place_vip(&mut self, interface: &str) {
        self.world.seen.vips.entry(ip(VIP)).or_default().push(located(VIP, interface, Scope::Global));
    }
}

/// What happens in a case, under its name.
type Story = (&'static str, fn() -> Config, fn(&mut Case));

fn marks() -> Config {
    config(Fence::Marks)
}

fn clear() -> Config {
    config(Fence::Clear)
}

fn by_keepalived() -> Config {
    Config { vip_owner: VipOwner::Keepalived, ..marks() }
}

fn both_families() -> Config {
    let mut config = marks();
    config.vips = vec![ip(VIP), ip(VIP6)];
    config.services = Some(format!("{SERVICES}{SERVICES6}").parse().unwrap());
    config
}

fn routes() -> Config {
    Config { vip_owner: VipOwner::Routes, services: Some(SERVICES.replace("wrr", "mh").parse().unwrap()), ..marks() }
}

const UP: [Role; 2] = [Role::Backup, Role::Master];

const STORIES: &[Story] = &[
    ("each role, fence marks", marks, |case| {
        case.roles(&[Role::Backup, Role::Master, Role::Fault, Role::Stop, Role::Master, Role::Backup]);
        case.release();
    }),
    ("a director is released", marks, |case| {
        case.was(&[Role::Master]);
        case.release();
    }),
    ("each role, fence clear", clear, |case| {
        case.roles(&[Role::Backup, Role::Master, Role::Fault, Role::Master, Role::Stop]);
        case.release();
    }),
    ("fence clear, released as a director", clear, |case| {
        case.was(&UP);
        case.release();
    }),
    ("from fence clear to marks and back", clear, |case| {
        case.was(&[Role::Backup]);
        case.world.config.fence = Fence::Marks;
        case.roles(&UP);
        case.world.config.fence = Fence::Clear;
        case.role(Role::Backup);
    }),
    ("without announcements", || Config { announcements: 0, ..marks() }, |case| case.roles(&UP)),
    ("keepalived moves the VIP", by_keepalived, |case| {
        case.role(Role::Backup);
        case.place_vip("eth0");
        case.role(Role::Master);
        case.remove_vip("eth0");
        case.role(Role::Backup);
        case.release();
    }),
    ("routers spread connections", routes, |case| {
        case.roles(&[Role::Backup, Role::Master, Role::Backup, Role::Master]);
        // Its server does not listen, and then it does.
        case.world.seen.listening = Some(Vec::new());
        case.role(Role::Master);
        case.world.seen.listening = None;
        case.role(Role::Master);
        case.release();
    }),
    ("routes, and the servers change", routes, |case| {
        case.was(&[Role::Master]);
        // One joins by the file, and is drained by an editor.
        let third = "-a -t 192.0.2.254:80 -r 192.0.2.13:80 -g -w 1\n";
        let services = case.world.config.services.as_ref().map(ToString::to_string).unwrap_or_default();
        case.world.config.services = (services.clone() + third).parse().ok();
        case.world.seen.link.macs.insert(ip("192.0.2.13"), Mac([2, 0, 0, 0, 0, 3]));
        case.role(Role::Master);
        case.world
            .edit("-a -t 192.0.2.254:80 -r 192.0.2.12:80 -g -w 1", "-a -t 192.0.2.254:80 -r 192.0.2.12:80 -g -w 0");
        case.repair();
        case.repair();
        // Another service comes, and the first one goes.
        case.world.config.services = (services.replace(":80", ":81") + &services).parse().ok();
        case.role(Role::Master);
        case.world.config.services = services.replace(":80", ":81").parse().ok();
        case.role(Role::Master);
    }),
    ("routes, where no classifier can be used", routes, |case| {
        case.world.seen.unclassified = Some("cannot load the classifier's program: no permission".into());
        case.role(Role::Master);
        case.world.seen.unclassified = None;
        case.repair();
        case.world.seen.unclassified = Some("cannot load the classifier's program: no permission".into());
        case.repair();
    }),
    ("routes, and what others have of the classifier's", routes, |case| {
        let theirs = "-A -f 1280726017 -s rr\n";
        case.world.seen.table = theirs.parse().unwrap();
        case.roles(&[Role::Master, Role::Backup]);
        case.world.seen.table.retain(|id| id.to_string() != "fwmark 1280726017");
        case.repair();
        // The filter is removed.
        case.world.seen.marks.classifiers.clear();
        case.world.seen.classifiers.clear();
        case.repair();
        case.world.memory = Memory::default();
        case.release();
    }),
    ("from an election to routes and back", routes, |case| {
        case.world.config.vip_owner = VipOwner::Node;
        case.was(&[Role::Master]);
        case.world.seen.vips.values_mut().flatten().for_each(|found| found.mark = Some(MARK));
        case.world.config.vip_owner = VipOwner::Routes;
        case.role(Role::Master);
        case.world.config.vip_owner = VipOwner::Node;
        case.role(Role::Master);
    }),
    ("routes, and what makes them impossible", routes, |case| {
        case.place_vip("eth0");
        case.role(Role::Backup);
        case.remove_vip("eth0");
        case.world.config.services = None;
        case.world.seen.table = SERVICES.parse().unwrap();
        case.role(Role::Master);
    }),
    ("keepalived is late", by_keepalived, |case| {
        case.roles(&UP);
        case.place_vip("eth0");
        case.role(Role::Backup);
    }),
    (
        "lo on backups only",
        || Config { loopback: Loopback::Backup, ..marks() },
        |case| {
            case.roles(&[Role::Backup, Role::Master, Role::Backup]);
            case.release();
        },
    ),
    (
        "lo on backups only, keepalived is late",
        || Config { loopback: Loopback::Backup, ..by_keepalived() },
        |case| {
            case.roles(&UP);
            case.place_vip("eth0");
            case.role(Role::Master);
        },
    ),
    ("both families", both_families, |case| {
        case.role(Role::Backup);
        let own = located("2001:db8::11", "eth0", Scope::Global);
        case.world.seen.own.insert(own.address);
        case.world.seen.addresses.push(own);
        case.roles(&[Role::Backup, Role::Master, Role::Backup]);
        case.release();
    }),
    ("another interface", marks, |case| {
        case.was(&UP);
        let interface = ArpTarget::Interface("eth1".into());
        case.world.config.interface = "eth1".into();
        case.world.seen.lan.interfaces = vec!["eth1".into()];
        case.world.seen.marks.qdiscs.insert("eth1".into(), None);
        case.world.seen.arp.push((interface, Settings::KERNEL));
        case.world.seen.addresses.push(located("192.0.2.11", "eth1", Scope::Global));
        case.role(Role::Master);
    }),
    ("a VIP of another program", marks, |case| {
        case.place_vip("other0");
        case.roles(&UP);
    }),
    ("a VIP in another form", marks, |case| {
        let mut found = located(VIP, "lo", Scope::Global);
        found.prefix = 24;
        case.world.seen.vips.insert(ip(VIP), vec![found]);
        case.roles(&UP);
    }),
    ("killed under way", marks, |case| {
        case.was(&[Role::Backup]);
        let World { config, memory, seen } = &case.world;
        let plan = for_role(config, Role::Master, Apply::Changes, memory, seen).unwrap();
        // It has recorded the role, and placed the VIP.
        plan.steps()[..2].iter().for_each(|step| case.world.act(step, &plan));
        case.repair();
        case.role(Role::Backup);
    }),
    ("own requests are marked", marks, |case| {
        case.world.seen.own_requests = Some(OwnMarked::default());
        case.roles(&UP);
        let own = case.world.config.marks.values.own();
        let others = (ip("198.51.100.9"), own);
        let marked = BTreeSet::from([(ip(VIP), own), others]);
        case.world.seen.own_requests = Some(OwnMarked { missing: None, marked });
        case.roles(&UP);
        case.release();
    }),
    ("own requests are left alone", marks, |case| {
        let own = case.world.config.marks.values.own();
        case.world.config.marks.own_requests = OwnRequests::LeftAlone;
        case.world.seen.own_requests = Some(OwnMarked { missing: None, marked: [(ip(VIP), own)].into() });
        case.roles(&UP);
    }),
    ("own requests cannot be marked", marks, |case| {
        let missing = Some("neither nftables nor xtables".into());
        case.world.seen.own_requests = Some(OwnMarked { missing, marked: BTreeSet::new() });
        case.roles(&UP);
    }),
    (
        "ARP settings are left alone",
        || Config { arp: None, ..marks() },
        |case| {
            case.roles(&UP);
            case.release();
        },
    ),
    ("ARP settings on all", marks, |case| {
        case.was(&[Role::Backup]);
        let settings = case.world.config.arp.as_ref().map_or(Settings::KERNEL, |arp| arp.settings);
        case.world.config.arp = Some(ArpConfig { settings, scope: ArpScope::All });
        case.role(Role::Backup);
        case.release();
    }),
    ("ARP settings of before, changed since", marks, |case| {
        case.was(&[Role::Backup]);
        let theirs = Settings { ignore: 2.into(), announce: 2.into() };
        case.world.seen.arp.iter_mut().for_each(|(_, now)| *now = theirs);
        case.repair();
        case.world.seen.arp.iter_mut().for_each(|(_, now)| *now = theirs);
        case.release();
    }),
    ("an interface that is gone", marks, |case| {
        case.was(&[Role::Backup]);
        case.world.memory.state.arp.push(arp::Change {
            target: ArpTarget::Interface("eth9".into()),
            before: Settings::KERNEL,
            after: Settings { ignore: 1.into(), announce: 2.into() },
        });
        case.role(Role::Backup);
        case.release();
    }),
    ("sysctls of other programs", marks, |case| {
        case.world.seen.sysctls.insert("sloppy_tcp".into(), Some("1".into()));
        case.world.seen.sysctls.insert("sync_threshold".into(), None);
        case.role(Role::Backup);
        case.world.seen.sysctls.insert("expire_nodest_conn".into(), Some("1".into()));
        case.repair();
        case.world.seen.sysctls.insert("sync_persist_mode".into(), Some("1".into()));
        case.release();
    }),
    ("persistent services", marks, |case| {
        case.world.config.services = Some(SERVICES.replace("-s wrr", "-s wrr -p 300").parse().unwrap());
        case.roles(&UP);
        case.world.edit("-s wrr -p 300", "-s wrr");
        case.role(Role::Backup);
    }),
    ("sync daemons of another program", marks, |case| {
        let mut theirs = case.world.config.sync.daemon(SyncRole::Master);
        theirs.sync_id = 7;
        case.world.seen.daemons.insert(SyncRole::Master, Some(theirs));
        case.roles(&UP);
        case.role(Role::Backup);
        case.release();
    }),
    ("sync daemons are stopped", marks, |case| {
        case.was(&UP);
        case.world.seen.daemons.values_mut().for_each(|daemon| *daemon = None);
        case.repair();
    }),
    ("another program's qdisc", marks, |case| {
        case.world.seen.marks.qdiscs.insert("eth0".into(), Some(Qdisc::Clsact));
        case.roles(&UP);
        case.release();
    }),
    ("a qdisc that others use meanwhile", marks, |case| {
        case.was(&UP);
        case.world.seen.marks.others.insert("eth0".into());
        case.release();
    }),
    ("a qdisc that was removed", marks, |case| {
        case.was(&[Role::Backup]);
        case.world.seen.marks.rules.clear();
        case.world.seen.marks.qdiscs.insert("eth0".into(), None);
        case.repair();
    }),
    ("rules of VIPs that are no longer configured", marks, |case| {
        case.was(&[Role::Backup]);
        case.world.config.vips = vec![ip("192.0.2.253")];
        case.world.config.services = Some(SERVICES.replace(VIP, "192.0.2.253").parse().unwrap());
        case.world.seen.vips.insert(ip("192.0.2.253"), Vec::new());
        case.roles(&UP);
    }),
    ("rules cannot be used here", marks, |case| {
        case.world.seen.unsupported = Some("cls_bpf is missing".into());
        case.roles(&UP);
    }),
    ("others use the marks", marks, |case| {
        case.world.seen.mark_uses = vec!["ip rule 100: fwmark 0x4c565300".into()];
        case.roles(&UP);
    }),
    ("neighbours", marks, |case| {
        let other = ip("192.0.2.12");
        case.was(&[Role::Backup]);
        case.world.seen.link.macs.insert(other, Mac([2, 0, 0, 0, 0, 9]));
        case.repair();
        case.world.seen.link.macs.remove(&other);
        case.world.seen.link.silent.insert(other);
        case.repair();
        case.world.memory.state.groups.get_mut("").unwrap().director = Some(other);
        case.role(Role::Backup);
        case.world.seen.link.silent.clear();
        case.repair();
    }),
    ("a neighbour that was never seen", marks, |case| {
        case.world.seen.link.macs.clear();
        case.roles(&UP);
        case.world.config.marks.macs.insert(ip("192.0.2.12"), [Mac([2, 0, 0, 0, 0, 5])].into());
        case.role(Role::Backup);
    }),
    ("a server behind a gateway", marks, |case| {
        let gateway = ip("192.0.2.1");
        case.world.seen.link.gateways.insert(Mac([2, 0, 0, 0, 0, 2]), gateway);
        case.world.seen.link.behind.insert(ip("192.0.2.12"), gateway);
        // Refused as the first role, and only then.
        case.role(Role::Backup);
        case.world.seen.link = Default::default();
        case.was(&[Role::Backup]);
        case.world.seen.link.behind.insert(ip("192.0.2.12"), gateway);
        case.roles(&UP);
    }),
    ("a sync interface that is gone", marks, |case| {
        case.was(&[Role::Backup]);
        case.world.seen.sync_link = LinkState::Missing;
        case.roles(&[Role::Master, Role::Backup]);
        case.world.seen.daemons = no_daemons();
        case.roles(&[Role::Master, Role::Backup]);
        case.world.seen.sync_link = LinkState::Down;
        case.role(Role::Master);
        case.world.seen.sync_link = LinkState::Up;
        case.repair();
    }),
    ("a neighbour with this node's MAC address", marks, |case| {
        case.world.seen.link.own_macs.insert(Mac([2, 0, 0, 0, 0, 2]));
        case.roles(&UP);
    }),
    (
        "services are left to others",
        || Config { services: None, ..marks() },
        |case| {
            case.role(Role::Master);
            case.world.seen.table = SERVICES.parse().unwrap();
            case.roles(&[Role::Master, Role::Backup]);
            case.release();
        },
    ),
    ("services of other kinds", marks, |case| {
        let services = "\
-A -u 192.0.2.254:53 -s rr
-a -u 192.0.2.254:53 -r 192.0.2.12:53 -m -w 1
-A --sctp-service 192.0.2.254:9 -s sh
-A -f 7 -s wlc -p 50
-a -f 7 -r 192.0.2.12:80 -i -w 1
-A -t 192.0.2.254:0 -s wrr -p 300
-a -t 192.0.2.254:0 -r 192.0.2.12:0 -g -w 1
";
        case.world.config.services = Some(services.parse().unwrap());
        case.roles(&UP);
        case.release();
    }),
    ("a flushed table, and one that others have edited", marks, |case| {
        case.was(&[Role::Backup]);
        case.world.edit("192.0.2.12:80 -g -w 1", "192.0.2.12:80 -g -w 0");
        case.role_applying(Role::Backup, Apply::All);
        case.world.seen.table = Table::new();
        case.repair();
    }),
    ("another configuration", marks, |case| {
        case.was(&[Role::Backup]);
        case.world.edit("192.0.2.11:80 -g -w 1", "192.0.2.11:80 -g -w 4");
        let services = SERVICES.replace("192.0.2.12", "192.0.2.13") + "-A -t 192.0.2.254:443 -s wlc\n";
        case.world.config.services = Some(services.parse().unwrap());
        case.role(Role::Backup);
    }),
    ("two groups", marks, |case| {
        let groups: BTreeSet<String> = ["web".to_owned(), "mail".to_owned()].into();
        case.world.config.group = "web".into();
        case.world.config.groups.clone_from(&groups);
        case.roles(&UP);
        let (web, mail): (Vec<IpAddr>, Vec<IpAddr>) = (case.world.config.vips.clone(), vec![ip("192.0.2.253")]);
        let of_mail = |case: &mut Case| {
            case.world.config.group = "mail".into();
            case.world.config.vips.clone_from(&mail);
            case.world.config.services = Some(SERVICES.replace(VIP, "192.0.2.253").parse().unwrap());
        };
        of_mail(case);
        // Each group has a file of its own.
        let of_web = std::mem::take(&mut case.world.memory.loaded);
        case.world.seen.vips.insert(mail[0], Vec::new());
        case.role(Role::Backup);
        case.release();
        case.world.config.group = "web".into();
        case.world.memory.loaded = of_web;
        case.world.config.vips = web;
        case.world.config.services = Some(SERVICES.parse().unwrap());
        case.release();
    }),
    ("two groups of different families", marks, |case| {
        case.world.config.group = "web".into();
        case.world.config.groups = ["web".to_owned(), "mail".to_owned()].into();
        case.was(&UP);
        let own = located("2001:db8::11", "eth0", Scope::Global);
        case.world.seen.own.insert(own.address);
        case.world.seen.addresses.push(own);
        case.world.config.group = "mail".into();
        case.world.config.vips = vec![ip(VIP6)];
        case.world.config.services = Some(SERVICES6.parse().unwrap());
        // Each group has a file of its own.
        case.world.memory.loaded = Table::new();
        case.world.seen.vips.insert(ip(VIP6), Vec::new());
        case.role(Role::Backup);
        case.release();
    }),
    ("fence clear, with a service that the configuration lacks for a while", clear, |case| {
        case.was(&[Role::Backup]);
        let held = format!("{}-A -t 192.0.2.253:80 -s rr\n", case.world.memory.held);
        case.world.memory.held = held.parse().unwrap();
        case.roles(&[Role::Backup, Role::Master, Role::Backup]);
        case.text += &format!("--- held\n{}", case.world.memory.held);
    }),
    ("a group of an earlier configuration", marks, |case| {
        case.world.config.group = "web".into();
        case.world.config.groups = ["web".to_owned()].into();
        case.role(Role::Backup);
        case.world.config.group = "mail".into();
        case.world.config.groups = ["mail".to_owned()].into();
        case.role(Role::Backup);
        case.release();
    }),
    ("version 1, with weights of 0", marks, |case| {
        case.world.memory.state.legacy = Some(Legacy::Quiesced);
        case.world.memory.legacy = SERVICES.parse().unwrap();
        case.world.seen.table = SERVICES.replace("192.0.2.12:80 -g -w 1", "192.0.2.12:80 -g -w 0").parse().unwrap();
        case.roles(&UP);
    }),
    ("version 1, whole", marks, |case| {
        case.world.memory.state.legacy = Some(Legacy::Whole);
        case.world.memory.legacy = SERVICES.parse().unwrap();
        case.world.seen.table = SERVICES.parse().unwrap();
        case.roles(&UP);
    }),
    ("version 1, whose services two groups share now", marks, |case| {
        let mail = SERVICES.replace("192.0.2.254", "192.0.2.253");
        case.world.memory.state.legacy = Some(Legacy::Whole);
        case.world.memory.legacy = format!("{SERVICES}{mail}").parse().unwrap();
        case.world.seen.table = case.world.memory.legacy.clone();
        case.world.config.groups = ["web".to_owned(), "mail".to_owned()].into();
        case.world.config.group = "web".into();
        case.role(Role::Backup);
        case.world.config.group = "mail".into();
        case.world.config.vips = vec![ip("192.0.2.253")];
        case.world.config.services = Some(mail.parse().unwrap());
        case.role(Role::Backup);
    }),
    ("version 1, and a group that has no role yet", marks, |case| {
        case.world.config.groups = [String::new(), "mail".to_owned()].into();
        case.world.memory.state.legacy = Some(Legacy::Whole);
        case.world.memory.legacy = SERVICES.parse().unwrap();
        case.world.seen.table = SERVICES.parse().unwrap();
        case.role(Role::Backup);
    }),
    ("the VIP is removed by another program", marks, |case| {
        case.was(&UP);
        case.remove_vip("eth0");
        case.restore();
        case.remove_vip("lo");
        case.restore();
        case.role(Role::Backup);
        case.remove_vip("lo");
        case.restore();
        case.world.memory.state.groups.clear();
        case.restore();
    }),
    ("the other's VIP is removed, which is keepalived's", by_keepalived, |case| {
        case.was(&UP);
        case.remove_vip("lo");
        case.restore();
    }),
    ("a rule too many", marks, |case| {
        case.was(&[Role::Backup]);
        let mark = case.world.config.marks.values.local();
        let packets = Packets::From(Mac([2, 0, 0, 0, 0, 0x77]));
        case.world.seen.marks.rules.insert(Rule { interface: "eth0".into(), vip: ip(VIP), packets, mark });
        case.repair();
        case.world.memory.state.qdiscs.insert("eth0".into(), QdiscOwner::Other);
        case.release();
    }),
];

#[test]
fn cases() {
    let mut text = String::new();
    for (name, config, story) in STORIES {
        let mut case = Case::new(name, config());
        story(&mut case);
        text += &case.text;
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/node/plans.txt");
    if std::env::var_os("LVS_DR_WRITE").is_some() {
        fs::write(&path, &text).unwrap();
    }
    let expected = fs::read_to_string(&path).unwrap_or_default();
    let differs = text.lines().zip(expected.lines()).position(|(is, was)| is != was);
    if let Some(line) = differs {
        let heading = text.lines().take(line + 1).filter(|line| line.starts_with("===")).last();
        let around = |text: &str| text.lines().skip(line.saturating_sub(3)).take(8).collect::<Vec<_>>().join("\n");
        panic!("{}, line {}:\n{}\nwas:\n{}", heading.unwrap_or(""), line + 1, around(&text), around(&expected));
    }
    assert_eq!(text.lines().count(), expected.lines().count());
}
