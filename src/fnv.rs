//! A digest of octets: short, and no protection.

/// FNV-1a, the same on every node and version.
pub(crate) fn fnv(octets: impl IntoIterator<Item = u8>) -> u64 {
    octets
        .into_iter()
        .fold(0xcbf2_9ce4_8422_2325, |hash, octet| (hash ^ u64::from(octet)).wrapping_mul(0x0100_0000_01b3))
}
