//! Taking a destination out without breaking its connections.

use std::net::SocketAddr;
use std::thread::sleep;
use std::time::{Duration, Instant};

use super::{Destination, DestinationEntry, Ipvs, ServiceId};
use crate::error::Result;

/// How often the connections are counted.
const INTERVAL: Duration = Duration::from_millis(100);

/// What has become of a destination that was drained.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Drained {
    /// What it was set to before: to put it back, [`replace`](Ipvs::replace_destination) it with
    /// this.
    pub before: Destination,
    /// Connections that are still established.
    pub active: u32,
    /// Connections in other states, which end by themselves; of UDP and firewall marks, all.
    pub inactive: u32,
    /// Persistence templates: clients that come back to this destination for a while, unless
    /// [`EXPIRE_QUIESCENT_TEMPLATE`](super::settings::EXPIRE_QUIESCENT_TEMPLATE) is set.
    pub persistent: u32,
    /// Whether its connections were gone before the time limit.
    pub empty: bool,
}

impl Ipvs {
    /// Gives a destination weight 0, so that it gets no new connections, and waits until those it
    /// has are gone, or `limit` has passed. It stays in the table with weight 0:
    /// [remove](Ipvs::remove_destination) it, or put it back.
    ///
    /// A TCP or SCTP service is empty when no connection is established; a UDP service or a
    /// firewall mark, whose connections have no end that the kernel sees, when none is remembered.
    /// A connection whose handshake is under way is not established yet: its client is better off
    /// if the destination is removed a moment later.
    ///
    /// ```no_run
    /// # use lvs_dr::ipvs::{Ipvs, ServiceId};
    /// # use std::time::Duration;
    /// # let mut ipvs = Ipvs::open()?;
    /// # let (web, server) = (ServiceId::tcp(([192, 168, 0, 254], 80).into()), ([192, 168, 0, 12], 80).into());
    /// let drained = ipvs.drain(&web, server, Duration::from_secs(60))?;
    /// if drained.empty {
    ///     ipvs.remove_destination(&web, server)?;
    /// } else {
    ///     println!("{} connections are left", drained.active);
    ///     ipvs.replace_destination(&web, &drained.before)?;
    /// }
    /// # Ok::<(), lvs_dr::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`Ipvs::edit_destination`]; [`Cause::NoDestination`](crate::Cause::NoDestination) also
    /// when another program removes it meanwhile.
    pub fn drain(&mut self, id: &ServiceId, address: SocketAddr, limit: Duration) -> Result<Drained> {
        let start = Instant::now();
        let before = self.destination(id, address)?.destination;
        self.edit_destination(id, address, |destination| destination.weight = 0)?;
        loop {
            let now = self.destination(id, address)?;
            let empty = is_empty(id, &now);
            let left = limit.saturating_sub(start.elapsed());
            if empty || left.is_zero() {
                let DestinationEntry { active, inactive, persistent, .. } = now;
                return Ok(Drained { before, active, inactive, persistent, empty });
            }
            sleep(left.min(INTERVAL));
        }
    }
}

fn is_empty(id: &ServiceId, entry: &DestinationEntry) -> bool {
    match id {
        ServiceId::Tcp(_) | ServiceId::Sctp(_) => entry.active == 0,
        ServiceId::Udp(_) | ServiceId::Fwmark { .. } => entry.active == 0 && entry.inactive == 0,
    }
}
