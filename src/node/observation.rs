//! What is found in the kernel.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use crate::arp::{self, ArpTarget};
use crate::ipvs::Table;
use crate::vip::{Located, Placement};

/// What is found in the kernel.
#[derive(Debug, Clone)]
pub(super) struct Observation {
    /// Where each VIP sits: the configured ones, and those placed earlier.
    pub(super) vips: BTreeMap<IpAddr, Vec<Located>>,
    /// The settings of each target that is configured or was changed earlier.
    pub(super) arp: Vec<(ArpTarget, arp::Settings)>,
    /// The settings of `all`, and whether `lo` routes its addresses outside (`route_localnet`).
    pub(super) arp_all: arp::Settings,
    pub(super) route_localnet: bool,
    /// The whole table, and the sync daemons.
    pub(super) table: Table,
    /// The node's own addresses.
    pub(super) own: BTreeSet<IpAddr>,
    /// The sysctls of IPVS that the fence needs, and those that were changed earlier. `None`: this kernel has no such setting.
    pub(super) sysctls: BTreeMap<String, Option<String>>,
}

impl Observation {
    /// The settings of this target, if they were looked at.
    pub(super) fn arp_of(&self, target: &ArpTarget) -> Option<arp::Settings> {
        self.arp.iter().find(|(seen, _)| seen == target).map(|(_, settings)| *settings)
    }

    /// Where this VIP sits on this interface.
    pub(super) fn found_on<'a>(&'a self, vip: IpAddr, interface: &'a str) -> impl Iterator<Item = &'a Located> {
        self.vips.get(&vip).into_iter().flatten().filter(move |located| located.interface == interface)
    }

    /// Whether this VIP sits there, in the right form.
    pub(super) fn sits(&self, vip: IpAddr, placement: &Placement) -> bool {
        self.found_on(vip, placement.interface()).any(|located| located.fits(placement))
    }
}
