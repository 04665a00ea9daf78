//! What is found in the kernel.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::num::NonZeroU32;

use super::lan::Doubt;
use crate::arp::{self, ArpTarget};
use crate::ipvs::{SyncDaemon, SyncRole, Table};
use crate::marks::{self, Classification, Mac};
use crate::netlink::WaitingSocket;
use crate::vip::{AssignedAddress, LinkState, Placement};

/// What is found in the kernel.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Observation {
    /// All addresses.
    pub(super) addresses: Vec<AssignedAddress>,
    /// Where each VIP sits: the configured ones, and those placed earlier.
    pub(super) vips: BTreeMap<IpAddr, Vec<AssignedAddress>>,
    /// The addresses with a route by which a routing daemon learns that it is to advertise them.
    /// Read where the node has, or had, such routes.
    pub(super) routes: BTreeSet<IpAddr>,
    /// The TCP sockets that listen on this node. `None`: not looked at, or the kernel shows none.
    pub(super) listening: Option<Vec<WaitingSocket>>,
    /// The interfaces that clients reach.
    pub(super) lan: Lan,
    /// The settings of `all`, and of each interface that clients reach or that was changed earlier.
    pub(super) arp: Vec<(ArpTarget, arp::Settings)>,
    /// The settings of `all`, and whether `lo` routes its addresses outside (`route_localnet`).
    pub(super) arp_all: arp::Settings,
    pub(super) route_localnet: bool,
    /// The whole table; in brief, the services of the node's marks and the one that is the sign of
    /// a loaded table.
    pub(super) table: Table,
    /// The sync daemons.
    pub(super) daemons: BTreeMap<SyncRole, Option<SyncDaemon>>,
    /// The interface that they are to use.
    pub(super) sync_link: LinkState,
    /// The node's own addresses, also those of interfaces that are down.
    pub(super) own: BTreeSet<IpAddr>,
    /// The sysctls of IPVS that the fence needs, and those that were changed earlier. `None`: this
    /// kernel has no such setting.
    pub(super) sysctls: BTreeMap<String, Option<String>>,
    /// Settings that cannot be written here.
    pub(super) read_only: BTreeSet<Tree>,
    /// The rules that mark packets, on the interfaces that may have some.
    pub(super) marks: marks::Observed,
    /// What the classifiers know that are attached to these interfaces. Nothing, of one that
    /// cannot be read or is of another version.
    pub(super) classifiers: BTreeMap<String, Classification>,
    /// Why classifiers cannot be used here. Not looked at, where none is asked for.
    pub(super) unclassified: Option<String>,
    /// The other nodes on the link. In brief: nothing, but at the end of a demotion.
    pub(super) link: Link,
    /// The node's own requests that are marked. `None`: not looked at, which takes the start of a
    /// program.
    pub(super) own_requests: Option<OwnMarked>,
    /// Why rules cannot be used here.
    pub(super) unsupported: Option<String>,
    /// Who else uses the node's marks.
    pub(super) mark_uses: Vec<String>,
}

/// A part of /proc/sys.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Tree {
    /// ARP settings.
    Arp,
    /// The sysctls of IPVS.
    Ipvs,
}

/// The interfaces that clients reach, see [`lan`](super::lan).
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct Lan {
    /// Those of this group's VIPs, the one that is named first. In brief: that one, and those whose
    /// settings were changed earlier.
    pub(super) interfaces: Vec<String>,
    /// Those of the VIPs of other groups.
    pub(super) of_others: BTreeSet<String>,
    /// Why the interface that is named may be the wrong one. In brief: not looked at.
    pub(super) doubt: Option<Doubt>,
}

/// What the neighbour table and the routes say of other nodes.
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct Link {
    /// The MAC address of each neighbour that has one.
    pub(super) macs: BTreeMap<IpAddr, Mac>,
    /// Neighbours that do not answer.
    pub(super) silent: BTreeSet<IpAddr>,
    /// MAC addresses of gateways, and of this node.
    pub(super) gateways: BTreeMap<Mac, IpAddr>,
    pub(super) own_macs: BTreeSet<Mac>,
    /// Destinations that are behind a gateway.
    pub(super) behind: BTreeMap<IpAddr, IpAddr>,
    /// Destinations that there is no route to. None while the interface is down, and its routes are
    /// away.
    pub(super) unrouted: BTreeSet<IpAddr>,
}

/// The marks on the node's own requests.
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct OwnMarked {
    /// Whether the node has nftables or xtables; otherwise what to do.
    pub(super) missing: Option<String>,
    pub(super) marked: BTreeSet<(IpAddr, NonZeroU32)>,
}

impl Observation {
    /// A table, and nothing else yet.
    pub(super) fn of_table(table: Table) -> Self {
        Observation {
            addresses: Vec::new(),
            vips: BTreeMap::new(),
            routes: BTreeSet::new(),
            listening: None,
            lan: Lan::default(),
            arp: Vec::new(),
            arp_all: arp::Settings::KERNEL,
            route_localnet: false,
            table,
            daemons: BTreeMap::new(),
            sync_link: LinkState::Missing,
            own: BTreeSet::new(),
            sysctls: BTreeMap::new(),
            read_only: BTreeSet::new(),
            marks: marks::Observed::default(),
            classifiers: BTreeMap::new(),
            unclassified: None,
            link: Link::default(),
            own_requests: None,
            unsupported: None,
            mark_uses: Vec::new(),
        }
    }

    /// What the classifiers of all interfaces know.
    pub(super) fn classification(&self) -> Classification {
        let mut known = Classification::default();
        for found in self.classifiers.values() {
            known.services.extend(&found.services);
            known.peers.extend(&found.peers);
        }
        known
    }

    /// The settings of this target, if they were looked at.
    pub(super) fn arp_of(&self, target: &ArpTarget) -> Option<arp::Settings> {
        self.arp.iter().find(|(seen, _)| seen == target).map(|(_, settings)| *settings)
    }

    /// The settings that count on an interface: of its own and those of all, the greater each.
    /// `None`: there is no such interface.
    pub(super) fn effective_arp(&self, interface: &str) -> Option<arp::Settings> {
        let own = self.arp_of(&ArpTarget::Interface(interface.to_owned()))?;
        Some(own.joined(self.arp_all))
    }

    /// Where this VIP sits on this interface.
    pub(super) fn found_on<'a>(&'a self, vip: IpAddr, interface: &'a str) -> impl Iterator<Item = &'a AssignedAddress> {
        self.vips.get(&vip).into_iter().flatten().filter(move |located| located.interface == interface)
    }

    /// Whether this VIP sits there, in the right form.
    pub(super) fn sits(&self, vip: IpAddr, placement: &Placement) -> bool {
        self.found_on(vip, placement.interface()).any(|located| located.fits(placement))
    }
}
