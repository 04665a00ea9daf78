//! Fence `marks`: what a node needs beside its table, so that no packet is scheduled by two nodes.
//!
//! On every node, always, for what arrives for a VIP:
//!
//! | order | packets | mark | scheduled by |
//! |---|---|---|---|
//! | 1 | TCP without SYN, to a service with a scheduler other than mh | [`MarkValues::director`] | the service of that mark: the other director |
//! | 2 | everything from the MAC address of another node | [`MarkValues::local`] | the service of that mark: this node |
//! | 3 | TCP with SYN, on nodes that do not direct | [`MarkValues::local`] | this node |
//! | - | everything else | none | the services of the address |
//!
//! A later rule overrides an earlier one. IPVS looks up its connections first, so all of this is
//! for packets of connections that the node does not know. Rule 1 sends the ACK of a handshake
//! that another director has begun to that director: the node's own entry for the client does not
//! exist yet. Rule 2 ends every loop: what another node has sent is served here. Rule 3 does so
//! for clients that still send to a former director.
//!
//! Requests of the node's own programs to a VIP bear [`MarkValues::own`], set by a firewall
//! program, and the service of that mark has the loopback address as destination. Their client is
//! the VIP itself, the same on all nodes, and the director's sync daemon sends their connections
//! too. On another node such a connection has the key of that node's own request from the same
//! port: with the loopback address it is served there all the same, with the director's address it
//! was lost.
//!
//! The service of mark 1 has this node's own address as destination, with port 1. The entry of
//! such a connection then differs from the one that the director's sync daemon sends, which
//! replaces it and counts for the right destination (`ip_vs_proc_conn()` in
//! net/netfilter/ipvs/ip_vs_sync.c). A destination is never removed from these services while a
//! node directs, as its connections would be dropped: weights choose.
//!
//! The entries of rule 1 lead to a director, not to a server. Sent by the sync daemon, they would
//! replace the entry of the server on that director and elsewhere, and its connection would be
//! reset or its packets loop. So the service of that mark is persistent, and with
//! `sync_persist_mode` the kernel sends the templates of persistent services but not their
//! connections. The setting is for all services of the node: while one of the user's is
//! persistent, it stays off, and entries of rule 1 are sent. A template leads to one destination
//! until its weight is 0 (`expire_quiescent_template`), also one that came from another node.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::num::{NonZeroU16, NonZeroU32};
use std::time::Duration;

use super::{Sysctl, set};
use crate::error::{Error, Result};
use crate::ipvs::{
    Connection, Destination, Family, Forward, Netmask, Persistence, Scheduler, Service, ServiceId, Table, settings,
};
use crate::marks::{Mac, Packets, Rule};
use crate::vip::AssignedAddress;

/// The port of a mark service's destinations. Not 0: see the head of this file.
const PORT: u16 = 1;

/// Above this many ports of one VIP, rule 1 is for all its ports. Connections to a port without a
/// service then fail on a director whose predecessor is alive. The programs of the rules take a
/// few more instructions for each doubling of the number of ports.
const MAX_PORTS: usize = 256;

/// The packet marks of a node: a range of 256 from [`MarkValues::base`] on; behind it, on a node
/// that has a classifier, a range of 64 for each of 64 services, see [`Config::mark_values`].
///
/// [`Config::mark_values`]: crate::node::Config::mark_values
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct MarkValues {
    base: NonZeroU32,
    classifies: bool,
}

impl MarkValues {
    /// How many marks the first range has: one for what this node serves itself, one for the
    /// director of each group, one for the requests of its own programs.
    pub const COUNT: u32 = 256;

    /// How many groups have a mark for their director.
    pub(in crate::node) const SLOTS: u8 = 254;

    /// How many services of a classifier have marks, and how many each has.
    pub(in crate::node) const PLACES: u8 = 64;
    pub(in crate::node) const PER_PLACE: u32 = 64;

    /// Marks from `base` on.
    ///
    /// # Errors
    /// [`Error::Invalid`] for 0, and where the last mark would not fit 32 bits.
    pub fn new(base: u32) -> Result<Self> {
        let reason = || format!("1 to {} was expected", u32::MAX - Self::COUNT);
        match NonZeroU32::new(base).filter(|base| base.get() <= u32::MAX - Self::COUNT) {
            Some(base) => Ok(MarkValues { base, classifies: false }),
            None => Err(Error::invalid(format!("marks from {base} on"), reason())),
        }
    }

    /// The first mark.
    pub fn base(self) -> NonZeroU32 {
        self.base
    }

    /// The mark of packets from the network that this node serves itself.
    pub fn local(self) -> NonZeroU32 {
        self.base
    }

    /// The mark of packets for the director of the group with this slot.
    pub(in crate::node) fn director(self, slot: u8) -> NonZeroU32 {
        self.base.saturating_add(1 + u32::from(slot))
    }

    /// The mark of requests of this node's own programs.
    pub fn own(self) -> NonZeroU32 {
        self.base.saturating_add(Self::COUNT - 1)
    }

    /// Whether this mark is the same for all groups of the node.
    pub(in crate::node) fn is_shared(self, mark: NonZeroU32) -> bool {
        mark == self.local() || mark == self.own()
    }

    /// The same, with the marks of a classifier.
    pub(in crate::node) fn classifying(self, classifies: bool) -> Self {
        MarkValues { classifies, ..self }
    }

    /// A mark of a classifier's service. `None`: it does not fit 32 bits.
    pub(in crate::node) fn of_place(self, place: u8, number: u32) -> Option<NonZeroU32> {
        self.base.checked_add(Self::COUNT + Self::PER_PLACE * u32::from(place) + number)
    }

    /// The place of a classifier's service that has this mark, and the number of the mark there.
    pub(in crate::node) fn place_of(self, mark: NonZeroU32) -> Option<(u8, u32)> {
        let above = mark.get().checked_sub(self.base.get())?.checked_sub(Self::COUNT)?;
        let place = u8::try_from(above / Self::PER_PLACE).ok().filter(|place| *place < Self::PLACES)?;
        Some((place, above % Self::PER_PLACE))
    }

    /// All of the first range, from the first on.
    pub(in crate::node) fn all(self) -> impl DoubleEndedIterator<Item = NonZeroU32> {
        (0..Self::COUNT).map(move |number| self.base.saturating_add(number))
    }

    /// Whether this mark is one of them.
    pub fn contains(self, mark: NonZeroU32) -> bool {
        let first = (self.base.get()..self.base.get() + Self::COUNT).contains(&mark.get());
        first || (self.classifies && self.place_of(mark).is_some())
    }

    /// Whether this is a service of such a mark, and so the node's own.
    pub(in crate::node) fn owns(self, id: &ServiceId) -> bool {
        matches!(id, ServiceId::Fwmark { mark, .. } if self.contains(*mark))
    }
}

/// "LVS" and a zero octet, 1280725760: no known program uses these marks.
impl Default for MarkValues {
    fn default() -> Self {
        MarkValues { base: NonZeroU32::new(0x4c56_5300).unwrap_or(NonZeroU32::MIN), classifies: false }
    }
}

/// What the fence is decided from.
pub(in crate::node) struct Facts<'a> {
    pub(in crate::node) values: MarkValues,
    pub(in crate::node) slot: u8,
    pub(in crate::node) directs: bool,
    pub(in crate::node) vips: &'a [IpAddr],
    /// The interface that clients reach.
    pub(in crate::node) interface: &'a str,
    /// The node's own address of each family, and its interface.
    pub(in crate::node) own: &'a BTreeMap<Family, Own>,
    /// The services and destinations of the node.
    pub(in crate::node) table: &'a Table,
    /// The other nodes, and the MAC addresses that they send from.
    pub(in crate::node) peers: &'a BTreeMap<IpAddr, BTreeSet<Mac>>,
    /// The other node that directs, or directed last, by its address of each family.
    pub(in crate::node) director: &'a BTreeMap<Family, IpAddr>,
}

/// An address of the node itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::node) struct Own {
    pub(in crate::node) address: IpAddr,
    pub(in crate::node) interface: String,
}

impl Facts<'_> {
    fn families(&self) -> BTreeSet<Family> {
        self.vips.iter().map(|vip| Family::of(*vip)).collect()
    }

    /// The interfaces that packets for the VIPs come by: from clients, and from other nodes.
    pub(in crate::node) fn interfaces(&self) -> BTreeSet<&str> {
        let families = self.families();
        let own =
            self.own.iter().filter(|(family, _)| families.contains(family)).map(|(_, own)| own.interface.as_str());
        own.chain([self.interface]).collect()
    }

    /// The rules of the group's VIPs.
    pub(in crate::node) fn rules(&self) -> BTreeSet<Rule> {
        let macs: BTreeSet<Mac> = self.peers.values().flatten().copied().collect();
        let (local, director) = (self.values.local(), self.values.director(self.slot));
        let mut rules = BTreeSet::new();
        for interface in self.interfaces() {
            for vip in self.vips {
                let mut add = |packets, mark| {
                    rules.insert(Rule { interface: interface.to_owned(), vip: *vip, packets, mark });
                };
                ports(self.table, *vip).into_iter().for_each(|port| add(Packets::Later { port }, director));
                macs.iter().for_each(|mac| add(Packets::From(*mac), local));
                if !self.directs {
                    add(Packets::Opening, local);
                }
            }
        }
        rules
    }

    /// The services of the marks that the rules set.
    ///
    /// # Errors
    /// [`Error::Invalid`]: the node has no address of a VIP's family that could be the
    /// destination.
    pub(in crate::node) fn services(&self) -> Result<Table> {
        let mut table = Table::new();
        for family in self.families() {
            let Some(own) = self.own.get(&family) else {
                let (name, vips) = (if family == Family::V4 { "IPv4" } else { "IPv6" }, self.interface);
                return Err(Error::invalid(
                    format!("fence `marks` on {vips}"),
                    format!(
                        "this node has no {name} address of its own there, to which it could send what it serves itself: add one"
                    ),
                ));
            };
            let id = |mark| ServiceId::Fwmark { mark, family };
            insert(&mut table, Service::new(id(self.values.local()), Scheduler::RR), [(own.address, 1)])?;
            insert(&mut table, Service::new(id(self.values.own()), Scheduler::RR), [(loopback(family), 1)])?;
            let later = self.vips.iter().any(|vip| Family::of(*vip) == family && !ports(self.table, *vip).is_empty());
            if later {
                let peers = self.peers.keys().copied().filter(|peer| Family::of(*peer) == family);
                let to = self.director.get(&family).copied().unwrap_or(own.address);
                let all = peers.chain([own.address]).map(|address| (address, u32::from(address == to)));
                let service = Service::new(id(self.values.director(self.slot)), Scheduler::RR);
                insert(&mut table, service.persistence(one_template(family)), all)?;
            }
        }
        Ok(table)
    }
}

fn insert(table: &mut Table, service: Service, destinations: impl IntoIterator<Item = (IpAddr, u32)>) -> Result<()> {
    let id = service.id;
    table.insert(service);
    for (address, weight) in destinations {
        // Its service was inserted just now.
        let _ = table.insert_destination(&id, Destination::new(SocketAddr::new(address, PORT)).weight(weight));
    }
    Ok(())
}

fn loopback(family: Family) -> IpAddr {
    match family {
        Family::V4 => Ipv4Addr::LOCALHOST.into(),
        Family::V6 => Ipv6Addr::LOCALHOST.into(),
    }
}

/// All clients share one template, or two: the kernel takes no netmask of no bits.
fn one_template(family: Family) -> Persistence {
    let netmask = match family {
        Family::V4 => Netmask::V4(Ipv4Addr::new(128, 0, 0, 0)),
        Family::V6 => Netmask::V6(1),
    };
    Persistence { timeout: Duration::from_secs(60), netmask }
}

/// Returns what the other nodes are to know of a connection. `table`: the node's services without
/// those of its marks.
///
/// A connection that this node serves itself (rules 2 and 3) is one to the service's port here.
/// The sync daemon has never sent those that were opened on a node that had a VIP and did not
/// direct yet.
///
/// Connections of rule 1 are not told apart: those of a persistent service of a mark have the port
/// of the VIP, not the destination's. The former director's sync daemon replaces each of them
/// within some seconds.
///
/// With direct routing a connection to a server on port 1 has that port at the VIP too.
pub(in crate::node) fn seen_by_others(
    table: &Table,
    of_marks: &Table,
    values: MarkValues,
) -> impl Fn(Connection) -> Option<Connection> + use<> {
    let addresses = |table: &Table| -> BTreeSet<SocketAddr> {
        table.services().flat_map(|content| content.destinations()).map(|found| found.address).collect()
    };
    let servers = addresses(table);
    let own =
        addresses(&of_marks.filtered(|id| matches!(id, ServiceId::Fwmark { mark, .. } if *mark == values.local())));
    move |mut connection| {
        let to = connection.destination;
        if to.port() != PORT || connection.service.port() == PORT || servers.contains(&to) {
            return Some(connection);
        }
        connection.destination.set_port(connection.service.port());
        // A closed one does not replace what the kernel's daemon has sent of it, which counts for
        // no destination (ip_vs_proc_conn() in net/netfilter/ipvs/ip_vs_sync.c).
        let is_open = matches!(connection.state.as_str(), "ESTABLISHED" | "SYN_RECV" | "UDP");
        (is_open && own.contains(&to) && servers.contains(&connection.destination)).then_some(connection)
    }
}

/// To which ports of a VIP rule 1 applies; `None`: to all.
///
/// Not to ports without a service: a TCP connection to such a port is the director's own (ssh to
/// the VIP), and no IPVS connection.
fn ports(table: &Table, vip: IpAddr) -> BTreeSet<Option<NonZeroU16>> {
    let mut found = BTreeSet::new();
    for content in table.services().filter(|content| content.service.scheduler != Scheduler::MH) {
        match content.service.id {
            ServiceId::Tcp(address) if address.ip() == vip => drop(found.insert(NonZeroU16::new(address.port()))),
            // Which ports a firewall's mark stands for is not known.
            ServiceId::Fwmark { family, .. } if family == Family::of(vip) => drop(found.insert(None)),
            _ => {}
        }
        if found.first() == Some(&None) || found.len() > MAX_PORTS {
            return [None].into();
        }
    }
    found
}

/// The other nodes: destinations on the link that are not this node. Masqueraded and tunnelled
/// ones are no nodes of the cluster.
pub(in crate::node) fn peers(table: &Table, own: &BTreeSet<IpAddr>) -> BTreeSet<IpAddr> {
    let mut found = table.servers(|forward| forward == Forward::Direct);
    found.retain(|address| !own.contains(address) && !address.is_loopback());
    found
}

/// The addresses of the director, one of each family, given one of them. The others are those of
/// peers with the same MAC address.
pub(in crate::node) fn addresses_of(
    director: Option<IpAddr>,
    peers: &BTreeMap<IpAddr, BTreeSet<Mac>>,
) -> BTreeMap<Family, IpAddr> {
    let Some((director, macs)) = director.and_then(|director| peers.get_key_value(&director)) else {
        return BTreeMap::new();
    };
    let mut found: BTreeMap<Family, (usize, IpAddr)> = BTreeMap::new();
    for (peer, others) in peers {
        let common = if peer == director { usize::MAX } else { others.intersection(macs).count() };
        let best = found.entry(Family::of(*peer)).or_insert((0, *peer));
        if common > best.0 {
            *best = (common, *peer);
        }
    }
    found.into_iter().filter(|(_, (common, _))| *common > 0).map(|(family, (_, peer))| (family, peer)).collect()
}

/// The address of each family that stands for this node: one that is a destination, or else one of
/// the interface.
pub(in crate::node) fn own(
    table: &Table,
    interface: &str,
    vips: &BTreeSet<IpAddr>,
    addresses: &[AssignedAddress],
) -> BTreeMap<Family, Own> {
    let destinations = table.servers(|_| true);
    let usable = |found: &&AssignedAddress| {
        let link_local = matches!(found.address, IpAddr::V6(address) if address.is_unicast_link_local());
        found.interface != "lo" && !vips.contains(&found.address) && !link_local && !found.dad_failed
    };
    let mut candidates: Vec<&AssignedAddress> = addresses.iter().filter(usable).collect();
    // The sort is stable: of equals the first one stays first.
    candidates.sort_by_key(|found| (!destinations.contains(&found.address), found.interface != interface));
    let mut own = BTreeMap::new();
    for found in candidates {
        if destinations.contains(&found.address) || found.interface == interface {
            let entry = Own { address: found.address, interface: found.interface.clone() };
            own.entry(Family::of(found.address)).or_insert(entry);
        }
    }
    own
}

/// `sloppy_tcp`: a packet without SYN of an unknown connection reaches the service of its mark, or
/// the mh service of its address. `expire_quiescent_template`: a backup's weights are those of its
/// editor, so a template of a server with weight 0 is stale. `sync_persist_mode`: see the head of
/// this file; `persistent`: one of the user's services is persistent.
pub(super) fn sysctls(persistent: bool) -> Vec<Sysctl> {
    let mut sysctls = vec![set(settings::SLOPPY_TCP, "1"), set(settings::EXPIRE_QUIESCENT_TEMPLATE, "1")];
    sysctls.extend((!persistent).then(|| set(settings::SYNC_PERSIST_MODE, "1")));
    sysctls
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "\
-A -t 192.0.2.1:80 -s wrr
-a -t 192.0.2.1:80 -r 10.0.0.1:80 -g -w 3
-a -t 192.0.2.1:80 -r 10.0.0.2:80 -g -w 0
-a -t 192.0.2.1:80 -r 10.0.0.3:80 -g -w 5
-a -t 192.0.2.1:80 -r 10.9.0.1:80 -m -w 5
";

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn mac(last: u8) -> Mac {
        Mac([2, 0, 0, 0, 0, last])
    }

    fn facts_of<T>(table: &str, directs: bool, director: Option<&str>, see: impl Fn(&Facts) -> T) -> T {
        let own = [(Family::V4, Own { address: address("10.0.0.1"), interface: "eth0".into() })].into();
        let peers = [(address("10.0.0.2"), [mac(2)].into()), (address("10.0.0.3"), [mac(3), mac(4)].into())].into();
        see(&Facts {
            values: MarkValues::new(100).unwrap(),
            slot: 1,
            directs,
            vips: &[address("192.0.2.1")],
            interface: "eth0",
            own: &own,
            table: &table.parse().unwrap(),
            peers: &peers,
            director: &addresses_of(director.map(address), &peers),
        })
    }

    fn rules(table: &str, directs: bool) -> Vec<(Packets, u32)> {
        facts_of(table, directs, None, |facts| {
            facts.rules().into_iter().map(|rule| (rule.packets, rule.mark.get())).collect()
        })
    }

    #[test]
    fn rules_of_a_backup_and_of_a_director() {
        let port = |port| Packets::Later { port: NonZeroU16::new(port) };
        let mut wanted = vec![
            (port(80), 102),
            (Packets::From(mac(2)), 100),
            (Packets::From(mac(3)), 100),
            (Packets::From(mac(4)), 100),
        ];
        assert_eq!(rules(TABLE, true), wanted);
        wanted.push((Packets::Opening, 100));
        assert_eq!(rules(TABLE, false), wanted);
        // mh finds the server of an unknown connection by itself.
        assert_eq!(rules(&TABLE.replace("wrr", "mh"), true), wanted[1..4]);
        // UDP has no handshake.
        assert_eq!(rules(&TABLE.replace("-t ", "-u "), true), wanted[1..4]);
        let many: String = (1..=257).map(|port| format!("-A -t 192.0.2.1:{port} -s wrr\n")).collect();
        assert_eq!(rules(&many, true)[0], (port(0), 102));
        assert_eq!(rules("-A -f 7 -s wlc\n", true)[0], (port(0), 102));
    }

    #[test]
    fn services_of_the_marks() {
        let services =
            |table: &str, director| facts_of(table, false, director, |facts| facts.services().unwrap().to_string());
        let local = "-A -f 100 -s rr\n-a -f 100 -r 10.0.0.1:1 -g -w 1\n";
        let own = "-A -f 355 -s rr\n-a -f 355 -r 127.0.0.1:1 -g -w 1\n";
        let to = |one, two, three| {
            format!(
                "{local}-A -f 102 -s rr -p 60 -M 128.0.0.0\n-a -f 102 -r 10.0.0.1:1 -g -w {one}\n-a -f 102 -r 10.0.0.2:1 -g -w {two}\n-a -f 102 -r \
                 10.0.0.3:1 -g -w {three}\n{own}"
            )
        };
        assert_eq!(services(TABLE, None), to(1, 0, 0));
        assert_eq!(services(TABLE, Some("10.0.0.3")), to(0, 0, 1));
        // Not a node of this cluster.
        assert_eq!(services(TABLE, Some("10.0.0.9")), to(1, 0, 0));
        assert_eq!(services(&TABLE.replace("wrr", "mh"), Some("10.0.0.3")), format!("{local}{own}"));
    }

    #[test]
    fn a_director_has_an_address_of_each_family() {
        let peers = [("10.0.0.2", [mac(2), mac(4)]), ("10.0.0.3", [mac(3), mac(4)]), ("2001:db8::2", [mac(2), mac(4)])];
        let mut peers: BTreeMap<_, _> = peers.into_iter().map(|(text, macs)| (address(text), macs.into())).collect();
        let found =
            |peers: &_, director| addresses_of(Some(address(director)), peers).into_values().collect::<Vec<_>>();
        let [v4, v6] = ["10.0.0.2", "2001:db8::2"].map(address);
        assert_eq!((found(&peers, "10.0.0.2"), found(&peers, "2001:db8::2")), (vec![v4, v6], vec![v4, v6]));
        assert_eq!((found(&peers, "10.0.0.9"), addresses_of(None, &peers)), (vec![], BTreeMap::new()));
        peers.insert(v6, BTreeSet::new());
        assert_eq!((found(&peers, "10.0.0.2"), found(&peers, "2001:db8::2")), (vec![v4], vec![v6]));
    }

    #[test]
    fn peers_are_the_other_servers_on_the_link() {
        let own = [address("10.0.0.1")].into();
        assert_eq!(peers(&TABLE.parse().unwrap(), &own), [address("10.0.0.2"), address("10.0.0.3")].into());
    }

    #[test]
    fn connections_of_the_marks_are_sent_as_what_they_are() {
        let values = MarkValues::new(100).unwrap();
        let of_marks = facts_of(TABLE, true, Some("10.0.0.2"), |facts| facts.services().unwrap());
        let see = seen_by_others(&TABLE.parse().unwrap(), &of_marks, values);
        let sent = |service: &str, destination: &str| {
            let connection = Connection {
                protocol: crate::ipvs::Protocol::Tcp,
                client: "198.51.100.1:5000".parse().unwrap(),
                service: service.parse().unwrap(),
                destination: destination.parse().unwrap(),
                state: "ESTABLISHED".into(),
                expires: std::time::Duration::from_secs(900),
                origin: None,
                engine: None,
            };
            see(connection).map(|connection| connection.destination.to_string())
        };
        let found = |destination| sent("192.0.2.1:80", destination);
        assert_eq!(found("10.0.0.2:80").as_deref(), Some("10.0.0.2:80"));
        // Served here, and by the director before this one.
        assert_eq!(found("10.0.0.1:1").as_deref(), Some("10.0.0.1:80"));
        assert_eq!(found("10.0.0.2:1"), None);
        // This node is no server of that port, so others would not know where to send it.
        assert_eq!(sent("192.0.2.1:443", "10.0.0.1:1"), None);
        assert_eq!(sent("192.0.2.1:1", "10.0.0.2:1").as_deref(), Some("10.0.0.2:1"));
    }

    #[test]
    fn marks_have_a_range() {
        let values = MarkValues::default();
        assert!(values.contains(values.local()) && values.contains(values.director(MarkValues::SLOTS - 1)));
        let all: BTreeSet<_> = (0..MarkValues::SLOTS).map(|slot| values.director(slot)).collect();
        assert!(values.contains(values.own()) && !all.contains(&values.own()) && !all.contains(&values.local()));
        assert!(!values.contains(NonZeroU32::MIN));
        assert!(values.owns(&"fwmark 1280725760 ipv6".parse().unwrap()) && !values.owns(&"fwmark 1".parse().unwrap()));
        assert!(MarkValues::new(0).is_err() && MarkValues::new(u32::MAX - 100).is_err());
        let mark = values.of_place(MarkValues::PLACES - 1, 63).unwrap();
        assert_eq!(values.place_of(mark), Some((MarkValues::PLACES - 1, 63)));
        let [next, own] = [mark.saturating_add(1), values.own()];
        assert_eq!((values.place_of(next), values.place_of(own), values.place_of(NonZeroU32::MIN)), (None, None, None));
        assert!(!values.contains(mark) && values.classifying(true).contains(mark));
        assert!(!values.classifying(true).contains(next) && values.classifying(true).contains(own));
    }
}
