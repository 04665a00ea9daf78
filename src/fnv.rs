//! A digest of octets: short, and no protection.

use std::hash::{Hash, Hasher};

/// FNV-1a, the same on every node and version.
pub(crate) fn fnv(octets: impl IntoIterator<Item = u8>) -> u64 {
    octets.into_iter().fold(0xcbf2_9ce4_8422_2325, add)
}

/// The same of values, as they hash themselves: the same in one build of the library.
#[derive(Debug)]
pub(crate) struct Fnv(u64);

impl Fnv {
    pub(crate) fn of(value: &impl Hash) -> u64 {
        let mut hasher = Fnv(fnv([]));
        value.hash(&mut hasher);
        hasher.0
    }
}

impl Hasher for Fnv {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, octets: &[u8]) {
        self.0 = octets.iter().fold(self.0, |hash, octet| add(hash, *octet));
    }
}

fn add(hash: u64, octet: u8) -> u64 {
    (hash ^ u64::from(octet)).wrapping_mul(0x0100_0000_01b3)
}
