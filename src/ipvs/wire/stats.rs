//! `IPVS_STATS_ATTR_*`

use netlink_packet_core::DecodeError;

use super::{attributes, number};
use crate::ipvs::Stats;

/// Reads the statistics, whose numbers have 32 or 64 bits.
pub(super) fn decode(octets: &[u8]) -> Result<Stats, DecodeError> {
    let mut stats = Stats::default();
    for attribute in attributes(octets) {
        let attribute = attribute?;
        let field = match attribute.kind() {
            1 => &mut stats.connections,
            2 => &mut stats.packets_in,
            3 => &mut stats.packets_out,
            4 => &mut stats.bytes_in,
            5 => &mut stats.bytes_out,
            6 => &mut stats.connection_rate,
            7 => &mut stats.packet_rate_in,
            8 => &mut stats.packet_rate_out,
            9 => &mut stats.byte_rate_in,
            10 => &mut stats.byte_rate_out,
            _ => continue, // padding, which comes on some machines only
        };
        *field = number(attribute.value())?;
    }
    Ok(stats)
}
