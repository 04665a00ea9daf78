//! The texts that the nodes of a cluster send each other beside their connections. Pure.
//!
//! The kernel's sync messages name connections only. Each node that is watched sends a
//! [`Presence`] and a [`Beacon`] every second to the sync group, one UDP port below that of the
//! sync messages. Each is a line of text, which [`seal`](super::seal) may prove to be from a node
//! that has the cluster's key. Nodes of different versions understand each other: a word that a
//! version does not know is ignored.

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use super::digest::{TableDigest, fnv};
use super::names;
use super::role::Role;
use crate::error::{Error, Result};
use crate::marks::Mac;

/// The longest text of a datagram, in octets. With a seal it fits an Ethernet frame behind the
/// headers of IPv6 and UDP.
pub(super) const TEXT_LIMIT: usize = 1200;

/// The most words that are read of a presence.
const WORDS: usize = 256;

/// The longest version of a program, in octets.
const VERSION: usize = 32;

/// The most VIPs that a presence names.
const VIPS: usize = 16;

/// The role of a node and how many connections it knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Beacon {
    /// The cluster, as in [`SyncConfig::id`](super::SyncConfig::id).
    pub(super) id: u8,
    /// A number that is another one for each node, and each start of it.
    pub(super) node: u64,
    /// Its role.
    pub(super) role: Role,
    /// How many connections it knows.
    pub(super) known: u64,
    /// How often it has sent all its connections, and how many those were the last time.
    pub(super) told: (u64, u64),
    /// It asks the director for all connections.
    pub(super) wants: bool,
}

const BEACON: &str = "lvs-dr-beacon-1";

/// `lvs-dr-beacon-1 254 7f3a master 1000 3 990 -`
impl fmt::Display for Beacon {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Beacon { id, node, role, known, told: (times, count), wants } = self;
        let wants = if *wants { "wants" } else { "-" };
        write!(f, "{BEACON} {id} {node:x} {role} {known} {times} {count} {wants}")
    }
}

impl FromStr for Beacon {
    type Err = Error;

    /// Words that a later version may have added at the end are ignored.
    fn from_str(text: &str) -> Result<Self> {
        let read = || {
            let mut words = text.split(' ');
            let first = words.next()?;
            let beacon = Beacon {
                id: words.next()?.parse().ok()?,
                node: u64::from_str_radix(words.next()?, 16).ok()?,
                role: words.next()?.parse().ok()?,
                known: words.next()?.parse().ok()?,
                told: (words.next()?.parse().ok()?, words.next()?.parse().ok()?),
                wants: words.next()? == "wants",
            };
            (first == BEACON && beacon.node != 0).then_some(beacon)
        };
        read().ok_or_else(|| unreadable("beacon", text, BEACON))
    }
}

/// The addresses of a node, the groups that it directs, and by which VIPs its cluster is
/// recognised.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Presence {
    /// The cluster, as in [`SyncConfig::id`](super::SyncConfig::id).
    pub(super) id: u8,
    /// The node's number, as in its [`Beacon`].
    pub(super) node: u64,
    /// Its addresses as a destination, or as the director that packets of unknown connections are
    /// sent to.
    pub(super) addresses: BTreeSet<IpAddr>,
    /// The MAC addresses that it sends from.
    pub(super) macs: BTreeSet<Mac>,
    /// The names of the groups that it directs.
    pub(super) directs: BTreeSet<String>,
    /// Its table. `None`: not read yet.
    pub(super) table: Option<TableDigest>,
    /// Digests of its configuration's VIPs: see [`Presence::digests`]. Empty: it is of a version
    /// that does not name them.
    pub(super) vips: BTreeSet<u32>,
    /// The version of its program, for people. Empty: it is of one that does not say.
    pub(super) version: String,
    /// How many seconds ago its role has changed, as far as it knows.
    pub(super) changed: Option<u64>,
}

/// Whether a version of another node can be printed as it is.
fn is_version(text: &str) -> bool {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || ".+-_".contains(c);
    !text.is_empty() && text.len() <= VERSION && text.chars().all(is_plain)
}

const PRESENCE: &str = "lvs-dr-node-1";

impl Presence {
    /// The same, with the addresses of `there`.
    pub(super) fn at(self, there: Presence) -> Self {
        Presence { addresses: there.addresses, macs: there.macs, ..self }
    }

    /// The digests of at most 16 of these VIPs. Which ones are left out depends on the digests, so
    /// that the samples of two configurations that share most VIPs share some.
    pub(super) fn digests(vips: impl IntoIterator<Item = IpAddr>) -> BTreeSet<u32> {
        all_digests(vips).into_iter().take(VIPS).collect()
    }

    /// The text of at most `limit` octets. Of too many groups, addresses and MAC addresses the
    /// last ones of each are left out.
    fn text(&self, limit: usize) -> String {
        let mut text = format!("{PRESENCE} id={} node={:x}", self.id, self.node);
        if let Some(TableDigest { table, order }) = self.table {
            text += &format!(" table={table:x} order={order:x}");
        }
        if is_version(&self.version) {
            text += &format!(" version={}", self.version);
        }
        self.changed.iter().for_each(|changed| text += &format!(" changed={changed}"));
        self.vips.iter().take(VIPS).for_each(|vip| text += &format!(" vip={vip:x}"));
        let lists: [Vec<String>; 3] = [
            self.directs.iter().map(|group| format!(" directs={}", names::escape(group))).collect(),
            self.addresses.iter().map(|address| format!(" address={address}")).collect(),
            self.macs.iter().map(|mac| format!(" mac={mac}")).collect(),
        ];
        let longest = lists.iter().map(Vec::len).max().unwrap_or(0);
        for word in (0..longest).flat_map(|place| lists.iter().filter_map(move |list| list.get(place))) {
            if text.len() + word.len() <= limit {
                text += word;
            }
        }
        text
    }

    /// The text that fits a datagram.
    pub(super) fn datagram(&self) -> String {
        self.text(TEXT_LIMIT)
    }
}

/// The digests of all these VIPs.
pub(super) fn all_digests(vips: impl IntoIterator<Item = IpAddr>) -> BTreeSet<u32> {
    let digest = |vip: IpAddr| {
        let hash = match vip {
            IpAddr::V4(vip) => fnv(vip.octets()),
            IpAddr::V6(vip) => fnv(vip.octets()),
        };
        // Without this, the digests of addresses that follow one another do too (finaliser of
        // MurmurHash3).
        let hash = (hash ^ (hash >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
        let hash = (hash ^ (hash >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
        (hash >> 32) as u32
    };
    vips.into_iter().map(digest).collect()
}

/// `lvs-dr-node-1 id=254 node=7f3a vip=89c2a1f0 directs=web address=192.168.0.11
/// mac=02:00:00:00:00:01`
impl fmt::Display for Presence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text(usize::MAX))
    }
}

impl FromStr for Presence {
    type Err = Error;

    /// Words that a later version may have added are ignored.
    fn from_str(text: &str) -> Result<Self> {
        let read = || {
            let mut words = text.split(' ');
            let first = words.next()?;
            let mut found = Presence::default();
            for word in words.take(WORDS) {
                let Some((key, value)) = word.split_once('=') else { continue };
                match key {
                    "id" => found.id = value.parse().ok()?,
                    "node" => found.node = u64::from_str_radix(value, 16).ok()?,
                    "address" => drop(found.addresses.insert(value.parse().ok()?)),
                    "mac" => drop(found.macs.insert(value.parse().ok()?)),
                    "directs" => drop(found.directs.insert(names::unescape(value)?)),
                    "vip" => drop(found.vips.insert(u32::from_str_radix(value, 16).ok()?)),
                    "table" => found.table.get_or_insert_default().table = u64::from_str_radix(value, 16).ok()?,
                    "order" => found.table.get_or_insert_default().order = u64::from_str_radix(value, 16).ok()?,
                    // For people: one that cannot be read is no reason to ignore the rest.
                    "version" if is_version(value) => value.clone_into(&mut found.version),
                    "changed" => found.changed = value.parse().ok(),
                    _ => {}
                }
            }
            (first == PRESENCE && found.node != 0).then_some(found)
        };
        read().ok_or_else(|| unreadable("presence", text, PRESENCE))
    }
}

fn unreadable(what: &str, text: &str, expected: &str) -> Error {
    Error::invalid(format!("{what} {text:?}"), format!("`{expected} ...` was expected"))
}

/// A text of another node.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(try_from = "String", into = "String"))]
pub(super) enum Heard {
    /// Its role and how many connections it knows.
    Beacon(Beacon),
    /// Its addresses and groups.
    Presence(Presence),
}

impl Heard {
    /// The cluster that the text names.
    pub(super) fn id(&self) -> u8 {
        match self {
            Heard::Beacon(beacon) => beacon.id,
            Heard::Presence(presence) => presence.id,
        }
    }
}

impl From<Heard> for String {
    fn from(heard: Heard) -> Self {
        match heard {
            Heard::Beacon(beacon) => beacon.to_string(),
            Heard::Presence(presence) => presence.to_string(),
        }
    }
}

impl TryFrom<String> for Heard {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl FromStr for Heard {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text.starts_with(PRESENCE) {
            true => text.parse().map(Heard::Presence),
            false => text.parse().map(Heard::Beacon),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn beacon(node: u64, role: Role) -> Beacon {
        Beacon { id: 254, node, role, known: 1000, told: (3, 990), wants: node == 1 }
    }

    #[test]
    fn a_beacon_that_is_printed_is_read() {
        for beacon in [beacon(1, Role::Master), beacon(u64::MAX, Role::Fault)] {
            let text = beacon.to_string();
            assert_eq!(text.parse::<Beacon>().unwrap(), beacon);
            assert_eq!(String::from(Heard::Beacon(beacon.clone())), text);
            for end in 0..text.len() - 5 {
                assert!(text[..end].parse::<Beacon>().is_err(), "{}", &text[..end]);
            }
            // A later version.
            assert_eq!(format!("{text} more=1 -").parse::<Beacon>().unwrap(), beacon);
        }
        for text in ["lvs-dr-beacon-2 254 1 master 0 0 0 -", "lvs-dr-beacon-1 254 0 master 0 0 0 -"] {
            assert!(text.parse::<Beacon>().is_err(), "{text}");
        }
        // As version 0.1 reads and writes it.
        assert_eq!(beacon(0x7f3a, Role::Master).to_string(), "lvs-dr-beacon-1 254 7f3a master 1000 3 990 -");
    }

    fn presence(node: u64, directs: &[&str]) -> Presence {
        Presence {
            id: 254,
            node,
            addresses: ["192.0.2.1".parse().unwrap(), "2001:db8::1".parse().unwrap()].into(),
            macs: [Mac([2, 0, 0, 0, 0, 1])].into(),
            directs: directs.iter().map(|name| (*name).to_owned()).collect(),
            table: (node == 7).then_some(TableDigest { table: 7, order: u64::MAX }),
            vips: [1, u32::MAX].into(),
            version: if node == 7 { "0.2.0-rc1+x".into() } else { String::new() },
            changed: (node == 7).then_some(60),
        }
    }

    #[test]
    fn a_presence_that_is_printed_is_read() {
        for presence in [presence(7, &["", "my web", "a=b"]), presence(u64::MAX, &[])] {
            let text = presence.to_string();
            assert_eq!(text.parse::<Presence>().unwrap(), presence);
            assert_eq!(presence.datagram(), text);
            assert_eq!(String::from(Heard::Presence(presence.clone())), text);
            assert_eq!(format!("{text} tomorrow=1 later").parse::<Presence>().unwrap(), presence);
            (0..text.len()).for_each(|end| drop(text[..end].parse::<Presence>()));
            assert_eq!(text.parse::<Heard>().unwrap(), Heard::Presence(presence));
        }
        for text in ["lvs-dr-node-1 id=1", "lvs-dr-node-1 node=1 mac=x", "lvs-dr-node-2 node=1", ""] {
            assert!(text.parse::<Presence>().is_err() && text.parse::<Heard>().is_err(), "{text}");
        }
        // What a terminal would take for a command is not read, and neither is a text without end.
        for odd in ["1\u{1b}[2J".to_owned(), "9".repeat(VERSION + 1), String::new()] {
            let found = format!("lvs-dr-node-1 id=254 node=8 version={odd} changed=never").parse::<Presence>().unwrap();
            assert_eq!((found.version.as_str(), found.changed), ("", None));
            let printed = Presence { version: odd, ..presence(9, &[]) }.to_string();
            assert!(!printed.contains("version="), "{printed}");
        }
        // Of version 0.1, which names no VIPs.
        let old = "lvs-dr-node-1 id=254 node=8 address=192.0.2.13 mac=02:00:00:00:00:77 directs=".parse::<Presence>();
        assert_eq!(old.map(|found| (found.vips.len(), found.directs.len())).unwrap(), (0, 1));
    }

    #[test]
    fn a_text_names_its_cluster() {
        assert_eq!(Heard::Beacon(beacon(1, Role::Master)).id(), 254);
        assert_eq!(Heard::Presence(Presence { id: 7, ..presence(1, &[]) }).id(), 7);
    }

    #[test]
    fn a_presence_takes_the_addresses_of_another_place_and_nothing_else() {
        let place = Presence { addresses: ["192.0.2.9".parse().unwrap()].into(), ..Presence::default() };
        let there = Presence { macs: [Mac([2, 0, 0, 0, 0, 9])].into(), ..place };
        let (addresses, macs) = (there.addresses.clone(), there.macs.clone());
        let here = presence(7, &["web"]);
        assert_eq!(here.clone().at(there), Presence { addresses, macs, ..here });
    }

    #[test]
    fn a_presence_fits_a_datagram_and_names_some_of_each_kind() {
        let all = Presence {
            addresses: (0..100).map(|n| IpAddr::from([0xfe80, 1, 2, 3, 0xffff, 0xffff, 0xffff, n])).collect(),
            macs: (0..100).map(|n| Mac([2, 0, 0, 0, 0, n])).collect(),
            directs: (0..100).map(|n| format!("group number {n}")).collect(),
            vips: (0..100).collect(),
            ..presence(7, &[])
        };
        let text = all.datagram();
        assert!((TEXT_LIMIT - 60..=TEXT_LIMIT).contains(&text.len()), "{}", text.len());
        let found = text.parse::<Presence>().unwrap();
        assert_eq!((found.table, found.vips.len()), (all.table, VIPS));
        assert!(found.addresses.len() > 5 && found.macs.len() > 5 && found.directs.len() > 5, "{text}");
        assert!(found.addresses.is_subset(&all.addresses));
    }

    #[test]
    fn samples_of_vips() {
        let vips = |range: std::ops::Range<u16>| range.map(|n| IpAddr::from([192, 0, (n >> 8) as u8, n as u8]));
        let all = all_digests(vips(0..800));
        assert_eq!(all.len(), 800);
        assert_eq!(Presence::digests(vips(0..800)).len(), VIPS);
        // Half of the VIPs are replaced, and some of the sample are still known.
        assert!(Presence::digests(vips(400..1200)).intersection(&all).count() > 2);
        assert_eq!(Presence::digests(vips(800..1600)).intersection(&all).count(), 0);
        // The nodes of all versions have to come to the same digests.
        let digests = |vip: &str| Presence::digests([vip.parse().unwrap()]);
        assert_eq!((digests("192.0.2.1"), digests("2001:db8::1")), ([0x8039_3182].into(), [0x8dec_2b2d].into()));
    }
}
