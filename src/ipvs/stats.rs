//! Counters and rates.

/// What has passed, and how fast. The kernel brings both up to date about every two seconds.
///
/// With direct routing the answers do not pass the director: `packets_out` and `bytes_out` stay 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Stats {
    /// Connections scheduled.
    pub connections: u64,
    /// Packets from clients.
    pub packets_in: u64,
    /// Packets to clients.
    pub packets_out: u64,
    /// Octets from clients.
    pub bytes_in: u64,
    /// Octets to clients.
    pub bytes_out: u64,
    /// Connections a second.
    pub connection_rate: u64,
    /// Packets a second from clients.
    pub packet_rate_in: u64,
    /// Packets a second to clients.
    pub packet_rate_out: u64,
    /// Octets a second from clients.
    pub byte_rate_in: u64,
    /// Octets a second to clients.
    pub byte_rate_out: u64,
}

/// Reads /proc/net/ip_vs_stats: two headings and the counters, then the same for the rates, in
/// hexadecimal.
pub(super) fn read_totals(text: &str) -> Option<Stats> {
    let numbers = |line: &str| {
        line.split_ascii_whitespace().map(|word| u64::from_str_radix(word, 16)).collect::<Result<Vec<_>, _>>().ok()
    };
    // A heading is no row: some of its words are no numbers in any base.
    let mut rows = text.lines().filter_map(numbers).filter(|row| row.len() == 5);
    let (counters, rates) = (rows.next()?, rows.next()?);
    Some(Stats {
        connections: counters[0],
        packets_in: counters[1],
        packets_out: counters[2],
        bytes_in: counters[3],
        bytes_out: counters[4],
        connection_rate: rates[0],
        packet_rate_in: rates[1],
        packet_rate_out: rates[2],
        byte_rate_in: rates[3],
        byte_rate_out: rates[4],
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn totals_are_hexadecimal() {
        let text = "   Total Incoming Outgoing         Incoming         Outgoing\n   Conns  Packets  Packets            Bytes            Bytes\n\
                          1A        2        3                4                F\n\n Conns/s   Pkts/s   Pkts/s          Bytes/s          Bytes/s\n\
                    \t       6        7        8                9               10\n\n";
        let totals = read_totals(text).unwrap();
        assert_eq!(
            (totals.connections, totals.bytes_out, totals.connection_rate, totals.byte_rate_out),
            (26, 15, 6, 16)
        );
        assert_eq!(read_totals("Total\n"), None);
    }
}
