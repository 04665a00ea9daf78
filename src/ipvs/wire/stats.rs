//! `IPVS_STATS_ATTR_*`

use super::{each, number};
use crate::ipvs::Stats;
use crate::netlink::Failure;

/// Reads the statistics, whose numbers have 32 or 64 bits.
pub(super) fn decode(octets: &[u8]) -> Result<Stats, Failure> {
    let mut stats = Stats::default();
    each(octets, |kind, value| {
        let field = match kind {
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
            _ => return Ok(()), // padding, which comes on some machines only
        };
        *field = number(value)?;
        Ok(())
    })?;
    Ok(stats)
}
