//! Netlink attributes, written into a buffer and read from one: length u16 and type u16 in host
//! order, the value, padding to a multiple of 4. See netlink(7) and linux/netlink.h.

const HEADER: usize = 4;

/// `NLA_F_NESTED`
const NESTED: u16 = 1 << 15;

/// `NLA_TYPE_MASK`: without `NLA_F_NESTED` and `NLA_F_NET_BYTEORDER`.
const TYPE_MASK: u16 = 0x3fff;

/// Appends an attribute.
///
/// Panics if the value does not fit the length.
#[inline]
pub(crate) fn push_attribute(octets: &mut Vec<u8>, kind: u16, value: &[u8]) {
    let length = u16::try_from(HEADER + value.len()).expect("an attribute of up to 65535 octets");
    octets.reserve(HEADER + value.len().next_multiple_of(4));
    octets.extend_from_slice(&length.to_ne_bytes());
    octets.extend_from_slice(&kind.to_ne_bytes());
    octets.extend_from_slice(value);
    octets.resize(octets.len().next_multiple_of(4), 0);
}

/// Appends an attribute whose value is the attributes that `inside` appends.
///
/// Panics if they do not fit the length.
#[inline]
pub(crate) fn push_nested(octets: &mut Vec<u8>, kind: u16, inside: impl FnOnce(&mut Vec<u8>)) {
    let start = octets.len();
    push_attribute(octets, kind | NESTED, &[]);
    inside(octets);
    let length = u16::try_from(octets.len() - start).expect("attributes of up to 65535 octets");
    octets[start..start + 2].copy_from_slice(&length.to_ne_bytes());
}

/// Cuts the first attribute off: its type without flags, its value, and what is behind it. `None`:
/// it is malformed, or there is none.
#[inline]
pub(crate) fn split_attribute(octets: &[u8]) -> Option<(u16, &[u8], &[u8])> {
    let (&[l0, l1, k0, k1], behind) = octets.split_first_chunk()?;
    let length = usize::from(u16::from_ne_bytes([l0, l1]));
    let value = behind.get(..length.checked_sub(HEADER)?)?;
    // The last one's padding may be left out.
    let rest = octets.get(length.next_multiple_of(4)..).unwrap_or_default();
    Some((u16::from_ne_bytes([k0, k1]) & TYPE_MASK, value, rest))
}

/// Reads attributes: type without flags, and value. Ends at the first one that is malformed.
pub(crate) fn attributes(octets: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    let mut octets = octets;
    std::iter::from_fn(move || {
        let (kind, value, rest) = split_attribute(octets)?;
        octets = rest;
        Some((kind, value))
    })
}

/// A string that ends at its first zero.
pub(crate) fn string(value: &[u8]) -> String {
    let end = value.iter().position(|&octet| octet == 0).unwrap_or(value.len());
    String::from_utf8_lossy(&value[..end]).into_owned()
}

/// A u32 in host order.
pub(crate) fn number(value: &[u8]) -> Option<u32> {
    Some(u32::from_ne_bytes(value.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_endian = "little")]
    fn attributes_are_padded_and_nested() {
        let mut octets = Vec::new();
        push_attribute(&mut octets, 3, b"eth0\0");
        push_nested(&mut octets, 5, |octets| push_attribute(octets, 1, &[9]));
        let written = [&[9, 0, 3, 0][..], b"eth0\0\0\0\0", &[12, 0, 5, 0x80, 5, 0, 1, 0, 9, 0, 0, 0]].concat();
        assert_eq!(octets, written);
        let read: Vec<_> = attributes(&octets).collect();
        assert_eq!(read[0], (3, &b"eth0\0"[..]));
        assert_eq!(attributes(read[1].1).collect::<Vec<_>>(), [(1, &[9][..])]);
        // A length that is too small, or too large.
        for wrong in [[3, 0, 1, 0], [9, 0, 1, 0]] {
            assert_eq!(split_attribute(&wrong), None);
        }
        assert_eq!(split_attribute(&[5, 0, 1, 0, 7]), Some((1, &[7][..], &[][..])));
    }
}
