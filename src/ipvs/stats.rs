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
