//! Digests: numbers by which nodes compare what they have.

pub(super) use crate::fnv::fnv;

/// A table of a node, as far as other nodes can compare it with theirs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct TableDigest {
    /// The services, destinations and weights.
    pub table: u64,
    /// The order in which the kernel lists the destinations of services with scheduler mh: their
    /// hash tables depend on it (`ip_vs_mh_permutate()` in net/netfilter/ipvs/ip_vs_mh.c). They
    /// also depend on the last weight of a destination that was not 0, which the kernel does not
    /// show.
    pub order: u64,
}

impl TableDigest {
    /// The digest of two groups' tables.
    pub fn and(self, other: TableDigest) -> Self {
        TableDigest { table: self.table.wrapping_add(other.table), order: self.order.wrapping_add(other.order) }
    }
}
