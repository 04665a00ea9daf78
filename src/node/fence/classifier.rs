//! Fence `marks` by a [`Classifier`](crate::marks::Classifier): what it knows on this node, and
//! the services of its marks. Pure.
//!
//! | service | schedules over |
//! |---|---|
//! | [`ServiceMarks::elsewhere`] | the present destinations of the user's service; this node has weight 0 |
//! | [`ServiceMarks::before`] and a peer's number | those before the last change; this node and the peer have weight 0 |
//!
//! What was before the last change is what the kernel holds for `elsewhere` when that change is
//! noticed, so it needs no memory of the node. The services change in this order: those of
//! `before`, then `elsewhere`. A node that is killed in between does the same again.
//!
//! Which marks a service has, and which number a peer, is what the classifier in the kernel says:
//! both stay, so that the services of the marks keep their meaning.
//!
//! The rules of [`marks`](super::marks) stay beside it, for what is no TCP: the classifier comes
//! behind them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU32;

use super::marks::{MarkValues, Own};
use crate::ipvs::{Destination, Family, Forward, Scheduler, Service, ServiceFlags, ServiceId, Table, VirtualService};
use crate::marks::{Classification, Mac, ServiceMarks};

/// The other nodes that have a mark of each service.
const PEERS: u8 = MarkValues::PER_PLACE as u8 - 1;

/// What is decided from.
pub(in crate::node) struct Facts<'a> {
    pub(in crate::node) values: MarkValues,
    /// What the classifiers know now, on all interfaces.
    pub(in crate::node) known: &'a Classification,
    pub(in crate::node) vips: &'a [IpAddr],
    /// The VIPs of the node's other groups.
    pub(in crate::node) of_others: &'a BTreeSet<IpAddr>,
    pub(in crate::node) own: &'a BTreeMap<Family, Own>,
    /// The other nodes, and the MAC addresses that they send from.
    pub(in crate::node) peers: &'a BTreeMap<IpAddr, BTreeSet<Mac>>,
    /// The services and destinations of the node.
    pub(in crate::node) table: &'a Table,
    /// The services of the classifier's marks that the kernel holds.
    pub(in crate::node) seen: &'a Table,
}

/// What a node needs.
#[derive(Debug, Default, PartialEq)]
pub(in crate::node) struct Wanted {
    /// What a classifier is to know of this group. Without services none is needed.
    pub(in crate::node) classification: Classification,
    /// The services as they are added, for those that are new: mh remembers the last weight of a
    /// destination that was not 0 (`ip_vs_mh_permutate()` in net/netfilter/ipvs/ip_vs_mh.c).
    first: Table,
    /// The services as they are afterwards.
    pub(in crate::node) last: Table,
}

impl Wanted {
    /// The tables that follow each other from `seen` on, before the classifier changes. Services
    /// that are not wanted are in all of them: they go when the classifier has changed.
    pub(in crate::node) fn stages(&self, values: MarkValues, seen: &Table) -> [Table; 4] {
        let (first, second) = self.stage(values, seen, false);
        let (third, fourth) = self.stage(values, &second, true);
        [first, second, third, fourth]
    }

    /// The services of `before`, or those of `elsewhere`: where the new destinations are there,
    /// and in the end.
    fn stage(&self, values: MarkValues, seen: &Table, elsewhere: bool) -> (Table, Table) {
        let (mut begun, mut ended) = (seen.clone(), seen.clone());
        for content in self.last.services().filter(|content| is_elsewhere(values, &content.service.id) == elsewhere) {
            let id = content.service.id;
            let held = seen.service(&id);
            begun.insert(content.service.clone());
            ended.insert(content.service.clone());
            for last in content.destinations() {
                let is_held = held.is_some_and(|held| held.destination(last.address).is_some());
                let added = self.first.service(&id).and_then(|first| first.destination(last.address));
                let _ = begun.insert_destination(&id, added.filter(|_| !is_held).unwrap_or(last).clone());
                let _ = ended.insert_destination(&id, last.clone());
            }
            for gone in held.into_iter().flat_map(|held| held.destinations()) {
                if content.destination(gone.address).is_none() {
                    ended.remove_destination(&id, gone.address);
                }
            }
        }
        (begun, ended)
    }
}

fn is_elsewhere(values: MarkValues, id: &ServiceId) -> bool {
    matches!(id, ServiceId::Fwmark { mark, .. } if values.place_of(*mark).is_some_and(|(_, number)| number == 0))
}

/// The place of a service's marks. `None`: they are not of this range.
pub(in crate::node) fn place(values: MarkValues, marks: &ServiceMarks) -> Option<u8> {
    values.place_of(marks.elsewhere.or(marks.before)?).map(|(place, _)| place)
}

impl Facts<'_> {
    /// What the node needs.
    ///
    /// # Errors
    /// Why the rules are needed instead.
    pub(in crate::node) fn wanted(&self) -> Result<Wanted, String> {
        let (mut wanted, numbers) = (Wanted::default(), self.numbers()?);
        for (address, number) in &numbers {
            wanted.classification.peers.extend(self.peers[address].iter().map(|mac| (*mac, *number)));
        }
        let is_on_vip = |address: &SocketAddr| self.vips.contains(&address.ip());
        let contents: Vec<(SocketAddr, VirtualService<'_>)> = self
            .table
            .services()
            .filter_map(|content| match content.service.id {
                ServiceId::Tcp(address) => Some((address, content)).filter(|(address, _)| is_on_vip(address)),
                _ => None,
            })
            .collect();
        if !numbers.is_empty() {
            let places = self.places(&contents)?;
            for (address, content) in contents {
                check(&content)?;
                let marks = self.add(&mut wanted, &content, address, places[&address], &numbers)?;
                wanted.classification.services.insert(address, marks);
            }
        }
        Ok(wanted)
    }

    /// A number for each address of another node; addresses of one node have the same.
    fn numbers(&self) -> Result<BTreeMap<IpAddr, u8>, String> {
        let mut nodes: Vec<BTreeSet<Mac>> = Vec::new();
        for macs in self.peers.values().filter(|macs| !macs.is_empty()) {
            match nodes.iter_mut().find(|node| !node.is_disjoint(macs)) {
                Some(node) => node.extend(macs),
                None => nodes.push(macs.clone()),
            }
        }
        let mut free: BTreeSet<u8> = (0..PEERS).collect();
        if nodes.len() > free.len() {
            return Err(format!("there are {} other nodes, and marks for {PEERS}", nodes.len()));
        }
        let known: Vec<Option<u8>> = nodes
            .iter()
            .map(|node| {
                node.iter().filter_map(|mac| self.known.peers.get(mac).copied()).find(|number| free.remove(number))
            })
            .collect();
        if self.known.services.keys().any(|address| self.of_others.contains(&address.ip())) {
            // The services of other groups have marks for them.
            free.retain(|number| !self.known.peers.values().any(|known| known == number));
        }
        let numbers: Vec<u8> =
            known.into_iter().map(|known| known.or_else(|| free.pop_first()).unwrap_or_default()).collect();
        let number = |macs: &BTreeSet<Mac>| {
            let node = nodes.iter().position(|node| !node.is_disjoint(macs))?;
            Some(numbers[node])
        };
        Ok(self.peers.iter().filter_map(|(address, macs)| Some((*address, number(macs)?))).collect())
    }

    /// A place for the marks of each service. One that a service has had goes to another one only
    /// when the services of its marks are gone.
    fn places(&self, services: &[(SocketAddr, VirtualService<'_>)]) -> Result<BTreeMap<SocketAddr, u8>, String> {
        let known: BTreeMap<SocketAddr, u8> = self
            .known
            .services
            .iter()
            .filter_map(|(address, marks)| Some((*address, place(self.values, marks)?)))
            .collect();
        let held = self.seen.services().filter_map(|content| match content.service.id {
            ServiceId::Fwmark { mark, .. } => self.values.place_of(mark).map(|(place, _)| place),
            _ => None,
        });
        let taken: BTreeSet<u8> = known.values().copied().chain(held).collect();
        // Where the classifier was removed, the services of its marks are still there.
        let is_removed = !known.keys().any(|address| self.vips.contains(&address.ip()));
        let mut left: BTreeSet<u8> = taken.iter().copied().filter(|_| is_removed).collect();
        let mut free = (0..MarkValues::PLACES).filter(|place| !taken.contains(place));
        let choose = |(address, content): &(SocketAddr, VirtualService<'_>)| {
            let found = left.iter().copied().find(|place| self.is_of(*place, content));
            let place = known.get(address).copied().or(found).or_else(|| free.next());
            place.inspect(|place| left.retain(|left| left != place));
            Some(*address).zip(place).ok_or_else(|| format!("there are marks for {} TCP services", MarkValues::PLACES))
        };
        services.iter().map(choose).collect()
    }

    /// Whether the marks of this place were those of a service with these destinations.
    fn is_of(&self, place: u8, content: &VirtualService<'_>) -> bool {
        let Some(mark) = self.values.of_place(place, 0) else { return false };
        let held = self.seen.service(&ServiceId::Fwmark { mark, family: content.service.id.family() });
        let addresses =
            |content: &VirtualService<'_>| content.destinations().map(|found| found.address).collect::<Vec<_>>();
        held.is_some_and(|held| addresses(&held) == addresses(content))
    }

    fn add(
        &self,
        wanted: &mut Wanted,
        content: &VirtualService<'_>,
        address: SocketAddr,
        place: u8,
        numbers: &BTreeMap<IpAddr, u8>,
    ) -> Result<ServiceMarks, String> {
        let (id, family) = (content.service.id, Family::of(address.ip()));
        let own = &self.own.get(&family).ok_or_else(|| format!("{id}: this node has no address of its own"))?.address;
        let mark = |number: u32| {
            self.values.of_place(place, number).ok_or_else(|| format!("{id}: its marks do not fit 32 bits"))
        };
        mark(MarkValues::PER_PLACE - 1)?;
        let of = |mark: NonZeroU32| ServiceId::Fwmark { mark, family };
        let (elsewhere, before) = (mark(0)?, mark(1)?);
        let is_other = |found: &Destination| found.address.ip() != *own;
        let present: Vec<Destination> = content.destinations().cloned().collect();
        let mut asked = present.clone();
        // Sessions of servers that are drained stay with them.
        if !asked.iter().any(|found| is_other(found) && found.weight > 0) {
            asked.iter_mut().filter(|found| is_other(found)).for_each(|found| found.weight = 1);
        }
        let has_others = asked.iter().any(is_other);
        let held = self.seen.service(&of(elsewhere)).map(|held| held.destinations().cloned().collect::<Vec<_>>());
        let others = |set: &[Destination]| -> Vec<(SocketAddr, Option<u32>)> {
            set.iter().map(|found| (found.address, Some(found.weight).filter(|_| is_other(found)))).collect()
        };
        let has_changed = held.as_ref().is_some_and(|held| others(held) != others(&asked));
        for number in numbers.values().copied().collect::<BTreeSet<u8>>() {
            let service = of(mark(1 + u32::from(number))?);
            let kept = self.seen.service(&service).filter(|_| !has_changed);
            let previous = match (&held, kept) {
                (_, Some(kept)) => kept.destinations().cloned().collect(),
                (Some(held), None) => held.clone(),
                (None, None) => present.clone(),
            };
            let is_asked = |found: &Destination| is_other(found) && numbers.get(&found.address.ip()) != Some(&number);
            insert(wanted, service, &previous, is_asked, Some(SocketAddr::new(*own, address.port())), content);
        }
        if has_others {
            insert(wanted, of(elsewhere), &asked, is_other, None, content);
        }
        Ok(ServiceMarks {
            local: self.values.local(),
            elsewhere: Some(elsewhere).filter(|_| has_others),
            before: Some(before),
        })
    }
}

/// Adds a service over these destinations, of which some are asked and the others have weight 0 in
/// the end. Where none is asked, `alone` is. `present`: has the weights of those that have 0.
fn insert(
    wanted: &mut Wanted,
    id: ServiceId,
    set: &[Destination],
    is_asked: impl Fn(&Destination) -> bool,
    alone: Option<SocketAddr>,
    present: &VirtualService<'_>,
) {
    let normal = |address: SocketAddr, weight: u32| match weight {
        0 => present.destination(address).map_or(1, |now| now.weight.max(1)),
        weight => weight,
    };
    let flags = (present.service.flags & ServiceFlags::MH_PORT) | ServiceFlags::MH_FALLBACK;
    let service = Service::new(id, Scheduler::MH).flags(flags);
    let alone = alone.filter(|_| !set.iter().any(|found| is_asked(found) && found.weight > 0));
    for (table, is_last) in [(&mut wanted.first, false), (&mut wanted.last, true)] {
        table.insert(service.clone());
        for found in set {
            let weight = match is_last {
                true if is_asked(found) => found.weight,
                true => 0,
                false => normal(found.address, found.weight),
            };
            let _ = table.insert_destination(&id, Destination::new(found.address).weight(weight));
        }
        if let Some(alone) = alone {
            let _ = table.insert_destination(&id, Destination::new(alone).weight(normal(alone, 0)));
        }
    }
}

/// Every node must choose alike, whichever of them a packet reaches.
fn check(content: &VirtualService<'_>) -> Result<(), String> {
    let service = content.service;
    let reason = match () {
        () if service.scheduler != Scheduler::MH => format!("the scheduler is {}, not mh", service.scheduler.name()),
        () if service.persistence.is_some() => "it is persistent".into(),
        () if content.destinations().any(|found| found.forward != Forward::Direct) => {
            "a destination is not reached by direct routing".into()
        }
        () => return Ok(()),
    };
    Err(format!("{}: {reason}", service.id))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "\
-A -t 192.0.2.1:80 -s mh -b mh-fallback,mh-port
-a -t 192.0.2.1:80 -r 10.0.0.1:80 -g -w 2
-a -t 192.0.2.1:80 -r 10.0.0.2:80 -g -w 2
";
    const THIRD: &str = "-a -t 192.0.2.1:80 -r 10.0.0.3:80 -g -w 2\n";

    fn mac(last: u8) -> Mac {
        Mac([2, 0, 0, 0, 0, last])
    }

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn values() -> MarkValues {
        MarkValues::new(1000).unwrap()
    }

    /// `peers`: their addresses' last numbers, which are those of their MAC addresses.
    fn of_peers(table: &str, seen: &Table, known: &Classification, peers: &[u8]) -> Result<Wanted, String> {
        let own = |of: &str| Own { address: address(of), interface: "eth0".into() };
        let mut macs: BTreeMap<IpAddr, BTreeSet<Mac>> =
            peers.iter().map(|last| (address(&format!("10.0.0.{last}")), [mac(*last)].into())).collect();
        macs.insert(address("2001:db8::2"), [mac(2)].into());
        macs.insert(address("10.0.0.99"), BTreeSet::new());
        let facts = Facts {
            values: values(),
            known,
            vips: &[address("192.0.2.1")],
            of_others: &[address("192.0.2.9")].into(),
            own: &[(Family::V4, own("10.0.0.1"))].into(),
            peers: &macs,
            table: &table.parse().unwrap(),
            seen,
        };
        facts.wanted()
    }

    fn wanted(table: &str, seen: &Table) -> Result<Wanted, String> {
        of_peers(table, seen, &Classification::default(), &[2, 3])
    }

    /// The same, where the classifier knows what it was to know before.
    fn then(table: &str, before: &Wanted) -> Wanted {
        let wanted = of_peers(table, &before.last, &before.classification, &[2, 3]).unwrap();
        let stages = wanted.stages(values(), &before.last);
        assert_eq!(stages[3], wanted.last, "the services of a mark that is not wanted");
        // A node that is killed under way comes to the same.
        for stage in &stages[..2] {
            let again = of_peers(table, stage, &before.classification, &[2, 3]).unwrap();
            assert_eq!(again.last, wanted.last);
        }
        let again = of_peers(table, &wanted.last, &wanted.classification, &[2, 3]).unwrap();
        assert_eq!(again.last, wanted.last, "it stays, look after look");
        wanted
    }

    /// The weights of a mark's service, by the last number of the server's address.
    fn weights(table: &Table, mark: u32) -> Vec<(u16, u32)> {
        let id = ServiceId::fwmark(mark, Family::V4).unwrap();
        let service = table.service(&id).unwrap_or_else(|| panic!("{mark} in {table}"));
        let last = |found: &Destination| found.address.to_string()[7..8].parse().unwrap();
        service.destinations().map(|found| (last(found), found.weight)).collect()
    }

    const ELSEWHERE: u32 = 1256;
    const BEFORE: [u32; 2] = [1257, 1258];

    #[test]
    fn the_last_set_is_what_the_kernel_holds() {
        let two = wanted(TABLE, &Table::new()).unwrap();
        let marks = two.classification.services[&"192.0.2.1:80".parse().unwrap()];
        assert_eq!(marks.elsewhere.map(NonZeroU32::get), Some(ELSEWHERE));
        assert_eq!(marks.before.map(NonZeroU32::get), Some(BEFORE[0]));
        assert_eq!(two.classification.peers.values().copied().collect::<Vec<_>>(), [0, 1]);
        assert_eq!(weights(&two.last, ELSEWHERE), [(1, 0), (2, 2)]);
        // Of two servers this node alone is left.
        assert_eq!(weights(&two.last, BEFORE[0]), [(1, 2), (2, 0)]);
        assert_eq!(weights(&two.last, BEFORE[1]), [(1, 0), (2, 2)]);
        // New destinations have had their weight before it is 0.
        let stages = two.stages(values(), &Table::new());
        assert_eq!(weights(&stages[0], BEFORE[0]), [(1, 2), (2, 2)]);
        assert_eq!(weights(&stages[2], ELSEWHERE), [(1, 2), (2, 2)]);
        assert_eq!(stages[3], two.last);
        then(TABLE, &two);

        let joined = TABLE.to_owned() + THIRD;
        let three = then(&joined, &two);
        assert_eq!(weights(&three.last, ELSEWHERE), [(1, 0), (2, 2), (3, 2)]);
        assert_eq!(weights(&three.last, BEFORE[1]), [(1, 0), (2, 2)]);
        // What is there has no other weight meanwhile.
        let stages = three.stages(values(), &two.last);
        assert_eq!(weights(&stages[1], ELSEWHERE), [(1, 0), (2, 2)]);
        assert_eq!(weights(&stages[2], ELSEWHERE), [(1, 0), (2, 2), (3, 2)]);
        let drained = joined.replace("10.0.0.2:80 -g -w 2", "10.0.0.2:80 -g -w 0");
        let fourth = then(&drained, &three);
        assert_eq!(weights(&fourth.last, ELSEWHERE), [(1, 0), (2, 0), (3, 2)]);
        assert_eq!(weights(&fourth.last, BEFORE[0]), [(1, 0), (2, 0), (3, 2)]);
        assert_eq!(weights(&fourth.last, BEFORE[1]), [(1, 0), (2, 2), (3, 0)]);
        // The node's own weight changes nothing here.
        let own = then(&drained.replace("10.0.0.1:80 -g -w 2", "10.0.0.1:80 -g -w 0"), &fourth);
        assert_eq!(own.last, fourth.last);
    }

    #[test]
    fn where_no_other_node_serves_those_that_are_drained_are_asked() {
        let two = wanted(TABLE, &Table::new()).unwrap();
        let drained = then(&TABLE.replace("10.0.0.2:80 -g -w 2", "10.0.0.2:80 -g -w 0"), &two);
        assert_eq!(weights(&drained.last, ELSEWHERE), [(1, 0), (2, 1)]);
        let alone = "-A -t 192.0.2.1:80 -s mh\n-a -t 192.0.2.1:80 -r 10.0.0.1:80 -g -w 2\n";
        let alone = wanted(alone, &Table::new()).unwrap();
        assert_eq!(alone.classification.services.values().next().unwrap().elsewhere, None);
        assert_eq!(weights(&alone.last, BEFORE[0]), [(1, 2)]);
    }

    #[test]
    fn marks_and_numbers_stay() {
        let other = |vip: &str| TABLE.replace("192.0.2.1:80", vip);
        let two = wanted(&(other("192.0.2.1:81") + TABLE), &Table::new()).unwrap();
        let marks = |wanted: &Wanted, port: u16| {
            wanted.classification.services[&SocketAddr::new(address("192.0.2.1"), port)].elsewhere.unwrap().get()
        };
        assert_eq!((marks(&two, 80), marks(&two, 81)), (ELSEWHERE, ELSEWHERE + 64));
        let one = of_peers(&other("192.0.2.1:81"), &two.last, &two.classification, &[2, 3]).unwrap();
        assert_eq!(marks(&one, 81), ELSEWHERE + 64);
        // The classifier was removed.
        let both = other("192.0.2.1:81").replace("0.2:80", "0.2:81") + TABLE;
        let first = wanted(&other("192.0.2.1:79"), &Table::new()).unwrap();
        let second = of_peers(&both, &first.last, &first.classification, &[2, 3]).unwrap();
        assert_eq!((marks(&second, 80), marks(&second, 81)), (ELSEWHERE + 64, ELSEWHERE + 128));
        let again = wanted(&both, &second.last).unwrap();
        assert_eq!((&again.last, &again.classification), (&second.last, &second.classification));
        // The services of a mark that was given up are still there.
        let third = of_peers(&other("192.0.2.1:79"), &two.last, &one.classification, &[2, 3]).unwrap();
        assert_eq!(marks(&third, 79), ELSEWHERE + 128);
        let third = of_peers(&other("192.0.2.1:79"), &one.last, &one.classification, &[2, 3]).unwrap();
        assert_eq!(marks(&third, 79), ELSEWHERE);

        let peers = |known: &[(u8, u8)], others: bool, peers: &[u8]| -> Vec<(u8, u8)> {
            let marks = ServiceMarks { local: NonZeroU32::MIN, elsewhere: None, before: None };
            let service = SocketAddr::new(address("192.0.2.9"), 80);
            let known = Classification {
                peers: known.iter().map(|(last, number)| (mac(*last), *number)).collect(),
                services: if others { [(service, marks)].into() } else { BTreeMap::new() },
            };
            let found = of_peers(TABLE, &Table::new(), &known, peers).unwrap().classification.peers;
            found.into_iter().map(|(Mac(mac), number)| (mac[5], number)).collect()
        };
        assert_eq!(peers(&[(3, 1), (4, 0)], false, &[2, 3, 4]), [(2, 2), (3, 1), (4, 0)]);
        assert_eq!(peers(&[(3, 1), (7, 0)], false, &[2, 3]), [(2, 0), (3, 1)]);
        // Another group of the node has marks for that peer.
        assert_eq!(peers(&[(3, 1), (7, 0)], true, &[2, 3]), [(2, 2), (3, 1)]);
        let all: Vec<u8> = (2..=64).collect();
        assert_eq!(peers(&[], false, &all).len(), 63);
        let many: Vec<u8> = (2..=65).collect();
        let refused = of_peers(TABLE, &Table::new(), &Classification::default(), &many).unwrap_err();
        assert!(refused.contains("64 other nodes"), "{refused}");
        let services: String = (1..=65).map(|port| format!("-A -t 192.0.2.1:{port} -s mh\n")).collect();
        let refused = wanted(&services, &Table::new()).unwrap_err();
        assert!(refused.contains("64 TCP services"), "{refused}");
    }

    #[test]
    fn services_that_nodes_schedule_otherwise_need_rules() {
        wanted(TABLE, &Table::new()).unwrap();
        for (from, to, reason) in [
            ("mh -b mh-fallback,mh-port", "wrr", "the scheduler is wrr"),
            ("mh-port\n", "mh-port -p 60\n", "persistent"),
            ("-g", "-m", "direct routing"),
        ] {
            let refused = wanted(&TABLE.replacen(from, to, 1), &Table::new()).unwrap_err();
            assert!(refused.contains(reason), "{refused}");
        }
        // The hash is that of the service.
        let flags = |table: &str| {
            let wanted = wanted(table, &Table::new()).unwrap();
            let flags: BTreeSet<u32> = wanted.last.services().map(|content| content.service.flags.bits()).collect();
            flags
        };
        let fallback = ServiceFlags::MH_FALLBACK;
        assert_eq!(flags(TABLE), [(fallback | ServiceFlags::MH_PORT).bits()].into());
        assert_eq!(flags(&TABLE.replace(" -b mh-fallback,mh-port", "")), [fallback.bits()].into());
    }
}
