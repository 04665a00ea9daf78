//! The other nodes, as far as they were received lately. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::beacon::{Beacon, Presence, all_digests};
use super::digest::TableDigest;
use super::role::Role;

/// A node that was not received for this long is gone.
const SILENCE: Duration = Duration::from_secs(3);

/// A director that was not received for this long is dead. While it takes on a role, it may be
/// silent for some seconds.
const DEAD: Duration = Duration::from_secs(8);

/// A node that is gone is remembered for this long: a silent director differs from one that was
/// never received.
const REMEMBERED: Duration = Duration::from_secs(60);

/// No cluster has more nodes.
const NODES: usize = 64;

/// The other nodes of the cluster, as far as they were received lately.
///
/// Two clusters on one link may use one sync id. A node whose presence names VIPs of which this
/// node has none is of another cluster: its texts are ignored. One that names no VIPs is of an
/// earlier version, and counts as a node of this cluster.
#[derive(Debug, Default)]
pub(super) struct View {
    /// Digests of all VIPs of this node. Empty: every node is of this cluster.
    vips: BTreeSet<u32>,
    heard: BTreeMap<u64, (Instant, Beacon)>,
    present: BTreeMap<u64, (Instant, Presence)>,
    /// Nodes of other clusters, and when each was received.
    foreign: BTreeMap<u64, (Instant, BTreeSet<u32>)>,
}

/// Another node of the cluster, as its beacons say.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct OtherNode {
    /// Its addresses, but for VIPs.
    pub addresses: BTreeSet<IpAddr>,
    /// Its role, that of a director where it directs one group. `None`: it is silent.
    pub role: Option<Role>,
    /// The names of the groups that it directs.
    pub directs: BTreeSet<String>,
    /// How many connections it knows. `None`: it is silent.
    pub connections: Option<u64>,
    /// Whether its table is this node's. `None`: one of them is not known.
    pub table_equal: Option<bool>,
    /// The version of its program. `None`: one that does not say.
    pub version: Option<String>,
    /// How long ago its role has changed, as far as it knows.
    pub changed: Option<Duration>,
    /// How long ago it was received last. One that is silent for a minute is forgotten.
    pub silent: Duration,
}

impl View {
    /// The view of a node with these VIPs, those of all its groups.
    pub(super) fn of(vips: impl IntoIterator<Item = IpAddr>) -> Self {
        View { vips: all_digests(vips), ..View::default() }
    }

    /// Takes in which VIPs this node has now.
    pub(super) fn has(&mut self, vips: impl IntoIterator<Item = IpAddr>) {
        self.vips = all_digests(vips);
    }

    /// Takes in a beacon. `false`: it is another cluster's.
    pub(super) fn heard(&mut self, now: Instant, beacon: Beacon) -> bool {
        if self.foreign.get(&beacon.node).is_some_and(|(at, _)| now.duration_since(*at) < DEAD) {
            return false;
        }
        self.heard.retain(|_, (at, _)| now.duration_since(*at) < SILENCE);
        if self.heard.len() < NODES || self.heard.contains_key(&beacon.node) {
            self.heard.insert(beacon.node, (now, beacon));
        }
        true
    }

    /// The other nodes that direct.
    pub(super) fn directors(&self, now: Instant) -> impl Iterator<Item = &Beacon> {
        let lately = self.heard.values().filter(move |(at, _)| now.duration_since(*at) < SILENCE);
        lately.map(|(_, beacon)| beacon).filter(|beacon| beacon.role == Role::Master)
    }

    /// Takes in which addresses a node has. `false`: it is of another cluster.
    pub(super) fn present(&mut self, now: Instant, presence: Presence) -> bool {
        self.foreign.retain(|_, (at, _)| now.duration_since(*at) < DEAD);
        let shares = presence.vips.is_empty() || self.vips.is_empty() || !self.vips.is_disjoint(&presence.vips);
        if !shares {
            // The number of a node of this cluster is not given away.
            let known = self.present.get(&presence.node).is_some_and(|(at, _)| now.duration_since(*at) < SILENCE);
            if !known && (self.foreign.len() < NODES || self.foreign.contains_key(&presence.node)) {
                self.heard.remove(&presence.node);
                self.foreign.insert(presence.node, (now, presence.vips));
            }
            return false;
        }
        self.present.retain(|_, (at, _)| now.duration_since(*at) < REMEMBERED);
        if self.present.len() < NODES || self.present.contains_key(&presence.node) {
            self.present.insert(presence.node, (now, presence));
        }
        true
    }

    /// The number of other clusters that use this cluster's sync id on its link. Nodes that name
    /// the same VIPs are of one cluster.
    pub(super) fn other_clusters(&self, now: Instant) -> usize {
        let lately = self.foreign.values().filter(|(at, _)| now.duration_since(*at) < DEAD);
        lately.map(|(_, vips)| vips).collect::<BTreeSet<_>>().len()
    }

    /// The nodes that were received lately.
    pub(super) fn presences(&self, now: Instant) -> impl Iterator<Item = &Presence> {
        self.present.values().filter(move |(at, _)| now.duration_since(*at) < SILENCE).map(|(_, presence)| presence)
    }

    /// The other nodes of the last minute. Of one that was started again, the last start.
    pub(super) fn others(&self, now: Instant, own: Option<TableDigest>) -> Vec<OtherNode> {
        let mut last: Vec<&(Instant, Presence)> = self.present.values().collect();
        last.sort_by_key(|(at, _)| std::cmp::Reverse(*at));
        let mut others: Vec<OtherNode> = Vec::new();
        for (at, presence) in last {
            let silent = now.duration_since(*at);
            if silent >= REMEMBERED || others.iter().any(|other| !other.addresses.is_disjoint(&presence.addresses)) {
                continue;
            }
            let beacon = self.heard.get(&presence.node).filter(|(at, _)| now.duration_since(*at) < SILENCE);
            others.push(OtherNode {
                addresses: presence.addresses.clone(),
                role: beacon.map(|(_, beacon)| beacon.role),
                directs: if beacon.is_some() { presence.directs.clone() } else { BTreeSet::new() },
                connections: beacon.map(|(_, beacon)| beacon.known),
                table_equal: own.zip(presence.table).map(|(own, theirs)| own == theirs),
                version: Some(presence.version.clone()).filter(|version| !version.is_empty()),
                changed: presence.changed.map(|changed| Duration::from_secs(changed).saturating_add(silent)),
                silent,
            });
        }
        others.sort_by(|one, other| one.addresses.cmp(&other.addresses));
        others
    }

    /// The nodes that were received lately whose tables are not equal to this one, and why that
    /// matters.
    pub(super) fn unequal(&self, now: Instant, own: TableDigest) -> impl Iterator<Item = (&Presence, &'static str)> {
        self.presences(now).filter_map(move |presence| {
            let theirs = presence.table?;
            match (theirs.table == own.table, theirs.order == own.order) {
                (true, true) => None,
                (false, _) => Some((presence, "has other services, destinations or weights than this node")),
                (true, false) => Some((
                    presence,
                    "lists the destinations of mh services in another order: it sends some clients of unknown connections to another \
                     server; delete and add them in the order of their addresses, on each node",
                )),
            }
        })
    }

    /// The address of the other node that directs this group, of those in `peers`. Of several,
    /// `before` stays the one. `Err`: the nodes that are received do not say.
    ///
    /// A director that was received lately and is silent is dead: `Ok(None)`, unless another one
    /// directs.
    pub(super) fn director_of(
        &self,
        now: Instant,
        group: &str,
        peers: &BTreeSet<IpAddr>,
        before: Option<IpAddr>,
    ) -> Result<Option<IpAddr>, Unheard> {
        let directing = self.presences(now).filter(|presence| presence.directs.contains(group));
        let found: Vec<IpAddr> =
            directing.flat_map(|presence| presence.addresses.intersection(peers)).copied().collect();
        if let Some(before) = before.filter(|before| found.contains(before)) {
            return Ok(Some(before));
        }
        if let Some(first) = found.first() {
            return Ok(Some(*first));
        }
        // A node has another number after each start.
        let heard_at = |address: &IpAddr| {
            let of_it = self.present.values().filter(|(_, presence)| presence.addresses.contains(address));
            of_it.map(|(at, _)| *at).max()
        };
        match before.as_ref().and_then(heard_at) {
            Some(at) if now.duration_since(at) >= DEAD => Ok(None),
            _ => Err(Unheard),
        }
    }
}

/// No node that is heard says who directs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Unheard;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::marks::Mac;

    const MS: Duration = Duration::from_millis(1);

    fn beacon(node: u64, role: Role) -> Beacon {
        Beacon { id: 254, node, role, known: 1000, told: (3, 990), wants: node == 1 }
    }

    fn presence(node: u64, address: &str, directs: &[&str]) -> Presence {
        Presence {
            id: 254,
            node,
            addresses: [address.parse().unwrap(), "2001:db8::1".parse().unwrap()].into(),
            macs: [Mac([2, 0, 0, 0, 0, 1])].into(),
            directs: directs.iter().map(|name| (*name).to_owned()).collect(),
            vips: BTreeSet::new(),
            version: String::new(),
            changed: None,
            table: (node == 7).then_some(TableDigest { table: 7, order: u64::MAX }),
        }
    }

    #[test]
    fn directors_are_heard_until_they_are_silent() {
        let now = Instant::now();
        let mut view = View::default();
        view.heard(now, beacon(7, Role::Master));
        view.heard(now, beacon(9, Role::Backup));
        assert_eq!([now, now + SILENCE - MS, now + SILENCE].map(|at| view.directors(at).count()), [1, 1, 0]);
        view.present(now, presence(7, "192.0.2.1", &[]));
        assert_eq!([now, now + SILENCE - MS, now + SILENCE].map(|at| view.presences(at).count()), [1, 1, 0]);
    }

    #[test]
    fn other_nodes_are_listed_until_they_are_forgotten() {
        let (now, mut view) = (Instant::now(), View::default());
        let at = |node, address: &str| Presence {
            addresses: [address.parse().unwrap()].into(),
            ..presence(node, address, &["web"])
        };
        view.heard(now, beacon(7, Role::Master));
        view.present(now, Presence { version: "0.2.0".into(), changed: Some(60), ..at(7, "192.0.2.7") });
        view.heard(now, beacon(8, Role::Backup));
        view.present(now, Presence { directs: BTreeSet::new(), ..at(8, "192.0.2.1") });
        let own = Some(TableDigest { table: 7, order: u64::MAX });
        let [first, second] = &view.others(now + MS, own)[..] else { panic!() };
        assert_eq!((first.role, first.table_equal, first.version.as_deref()), (Some(Role::Backup), None, None));
        assert_eq!((second.role, second.connections, second.table_equal), (Some(Role::Master), Some(1000), Some(true)));
        assert_eq!((second.version.as_deref(), second.changed), (Some("0.2.0"), Some(Duration::from_secs(60) + MS)));
        assert_eq!((second.directs.len(), second.silent), (1, MS));
        assert_eq!(view.others(now, Some(TableDigest { table: 8, order: 0 }))[1].table_equal, Some(false));
        assert_eq!(view.others(now, None)[1].table_equal, None);
        // Silent: what it directed is not known.
        let silent = view.others(now + SILENCE, own).remove(1);
        assert_eq!((silent.role, silent.connections, silent.directs.len()), (None, None, 0));
        // Its watch was started again.
        view.heard(now + SILENCE, beacon(9, Role::Backup));
        view.present(now + SILENCE, at(9, "192.0.2.7"));
        let after = view.others(now + SILENCE, own);
        assert_eq!((after.len(), after[1].role, after[1].version.as_deref()), (2, Some(Role::Backup), None));
        assert_eq!([REMEMBERED - MS, REMEMBERED].map(|after| view.others(now + after, own).len()), [2, 1]);
    }

    #[test]
    fn tables_are_compared() {
        let (now, mut view) = (Instant::now(), View::default());
        view.present(now, presence(7, "192.0.2.1", &[]));
        view.present(now, presence(8, "192.0.2.2", &[]));
        let unequal = |table, order| view.unequal(now, TableDigest { table, order }).next().map(|(_, why)| why);
        assert_eq!(unequal(7, u64::MAX), None);
        assert!(unequal(8, u64::MAX).is_some_and(|why| why.contains("weights")));
        assert!(unequal(7, 1).is_some_and(|why| why.contains("order")));
    }

    #[test]
    fn the_director_of_a_group_is_known_by_its_address() {
        let (now, mut view) = (Instant::now(), View::default());
        let [one, two]: [IpAddr; 2] = ["192.0.2.1", "192.0.2.2"].map(|text| text.parse().unwrap());
        let peers = [one, two].into();
        assert_eq!(view.director_of(now, "web", &peers, Some(one)), Err(Unheard));
        view.present(now, presence(1, "192.0.2.1", &["web"]));
        view.present(now, presence(2, "192.0.2.2", &["mail"]));
        let director = |view: &View, at, before| view.director_of(at, "web", &peers, before);
        assert_eq!(director(&view, now, None), Ok(Some(one)));
        assert_eq!(view.director_of(now, "mail", &peers, None), Ok(Some(two)));
        assert_eq!(view.director_of(now, "web", &[two].into(), None), Err(Unheard));
        // Two at once: no change without need.
        view.present(now, presence(2, "192.0.2.2", &["mail", "web"]));
        assert_eq!((director(&view, now, Some(one)), director(&view, now, Some(two))), (Ok(Some(one)), Ok(Some(two))));
        // The old one has stepped down.
        view.present(now, presence(1, "192.0.2.1", &[]));
        assert_eq!(director(&view, now, Some(one)), Ok(Some(two)));
        // Both are silent.
        assert_eq!(director(&view, now + DEAD - MS, Some(two)), Err(Unheard));
        assert_eq!(director(&view, now + DEAD, Some(two)), Ok(None));
        assert_eq!(director(&view, now + DEAD, "192.0.2.3".parse().ok()), Err(Unheard));
        // Another node is heard meanwhile.
        view.present(now + DEAD, presence(1, "192.0.2.1", &[]));
        assert_eq!(director(&view, now + DEAD, Some(two)), Ok(None));
        // The director was started again, and has stepped down.
        view.present(now + DEAD, presence(3, "192.0.2.2", &[]));
        assert_eq!(director(&view, now + DEAD, Some(two)), Err(Unheard));
    }

    /// Each cluster has VIPs of its own, and some of a version that does not name them.
    #[test]
    fn another_cluster_is_told_apart_by_its_vips() {
        let now = Instant::now();
        let vips = |last: u8| [IpAddr::from([192, 0, 2, last]), IpAddr::from([192, 0, 2, last + 1])];
        let mut view = View::of(vips(250));
        let of = |node: u64, last: u8| Presence {
            vips: Presence::digests(vips(last)),
            ..presence(node, "192.0.2.1", &["web"])
        };
        assert!(
            view.present(now, of(1, 250))
                && view.present(now, of(2, 251))
                && view.present(now, presence(3, "192.0.2.3", &[]))
        );
        // Its beacon comes before its presence.
        assert!(view.heard(now, beacon(9, Role::Master)));
        assert_eq!((view.directors(now).count(), view.other_clusters(now)), (1, 0));
        assert!(!view.present(now, of(9, 200)) && !view.present(now, of(10, 200)) && !view.present(now, of(11, 100)));
        assert!(!view.heard(now, beacon(9, Role::Master)) && view.heard(now, beacon(1, Role::Backup)));
        assert_eq!((view.directors(now).count(), view.other_clusters(now)), (0, 2));
        assert_eq!(view.presences(now).map(|presence| presence.node).collect::<Vec<_>>(), [1, 2, 3]);
        assert_eq!([DEAD - MS, DEAD].map(|after| view.other_clusters(now + after)), [2, 0]);
        assert!(!view.heard(now + DEAD - MS, beacon(9, Role::Master)));
        assert!(view.heard(now + DEAD, beacon(9, Role::Master)));
        // A node's number is not given away, unless it has fallen silent.
        let late = now + SILENCE - MS;
        assert!(!view.present(late, of(1, 200)) && view.heard(late, beacon(1, Role::Master)));
        assert!(!view.present(late + MS, of(1, 200)) && !view.heard(late + MS, beacon(1, Role::Master)));
        // Without VIPs of its own a node believes all.
        assert!(View::default().present(now, of(9, 200)));
    }

    #[test]
    fn memory_is_bounded() {
        let (now, mut view) = (Instant::now(), View::of(["192.0.2.254".parse().unwrap()]));
        for node in 1..10_000 {
            view.heard(now, beacon(node, Role::Master));
            view.present(now, presence(node, "192.0.2.1", &["web"]));
            view.present(now, Presence { vips: [node as u32].into(), ..presence(20_000 + node, "192.0.2.1", &[]) });
        }
        assert_eq!((view.heard.len(), view.present.len(), view.foreign.len()), (NODES, NODES, NODES));
        assert_eq!((view.directors(now).count(), view.other_clusters(now)), (NODES, NODES));
        // Nodes that are there keep their places.
        view.heard(now, beacon(1, Role::Backup));
        assert_eq!(view.directors(now).count(), NODES - 1);
        view.present(now, presence(1, "192.0.2.1", &["mail"]));
        assert_eq!(view.presences(now).filter(|presence| presence.directs.contains("mail")).count(), 1);
        view.present(now + DEAD - MS, Presence { vips: [1].into(), ..presence(20_001, "192.0.2.1", &[]) });
        assert_eq!(view.other_clusters(now + DEAD), 1);
    }

    /// The places of nodes that are gone are free, as soon as these are forgotten.
    #[test]
    fn a_new_node_takes_the_place_of_one_that_is_gone() {
        let (now, own) = (Instant::now(), ["192.0.2.254".parse().unwrap()]);
        let foreign = |node: u64| Presence { vips: [node as u32].into(), ..presence(node, "192.0.2.1", &[]) };
        let full = || {
            let mut view = View::of(own);
            for node in 1..=NODES as u64 {
                view.heard(now, beacon(node, Role::Master));
                view.present(now, presence(100 + node, "192.0.2.1", &[]));
                view.present(now, foreign(200 + node));
            }
            view
        };
        for (after, [heard, present, other]) in [
            (SILENCE - MS, [false, false, false]),
            (SILENCE, [true, false, false]),
            (DEAD - MS, [true, false, false]),
            (DEAD, [true, false, true]),
            (REMEMBERED - MS, [true, false, true]),
            (REMEMBERED, [true, true, true]),
        ] {
            let (at, mut view) = (now + after, full());
            view.heard(at, beacon(99, Role::Master));
            assert_eq!(view.directors(at).any(|director| director.node == 99), heard, "{after:?}");
            view.present(at, presence(199, "192.0.2.1", &[]));
            assert_eq!(view.presences(at).any(|presence| presence.node == 199), present, "{after:?}");
            view.present(at, foreign(299));
            assert_eq!(view.heard(at, beacon(299, Role::Backup)), !other, "{after:?}");
        }
    }
}
