//! Asks the director for all its connections, once.

use std::time::{Duration, Instant};

use super::engine::BEACON;
use crate::error::Result;
use crate::node::Node;
use crate::node::beacon::{Beacon, Heard};
use crate::node::catch_up::{Learned, Learning};
use crate::node::peers::{Peers, Plane, number};
use crate::node::role::Role;

/// What came of a request for the director's connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Asked {
    /// They were sent, and this node knows so many of them.
    Learned(Learned),
    /// A director was received, and has not sent them in time.
    NotSent,
    /// No director was received: a supervisor answers there.
    NoDirector,
}

impl Node {
    /// Asks the director's [`Supervisor`](super::Supervisor) to send all its connections. Blocks
    /// for `limit` at most.
    ///
    /// # Errors
    /// [`Error::System`](crate::Error::System): the sync interface is missing or down;
    /// [`Error::Invalid`](crate::Error::Invalid): the key file cannot be used.
    pub fn ask_for_connections(&mut self, limit: Duration) -> Result<Asked> {
        let sync = self.config().sync.clone();
        let plane = Plane::open(&sync)?;
        let peers = Peers::open_in(self.ipvs.netns(), &sync, &plane)?;
        let (start, me) = (Instant::now(), number());
        let (mut learning, mut result, mut sent) = (Learning::new(start), Asked::NoDirector, None::<Instant>);
        while start.elapsed() < limit {
            if sent.is_none_or(|at| at.elapsed() > BEACON) {
                let role = self.role()?.map_or(Role::Stop, |(role, _)| role);
                // With a key, nodes accept each other's texts after each has sent two.
                peers.send(&Beacon { id: sync.id, node: me, role, known: 0, told: (0, 0), wants: learning.asks() })?;
                sent = Some(Instant::now());
            }
            let Some((_, Heard::Beacon(beacon))) = peers.receive(BEACON / 4)? else { continue };
            if beacon.role != Role::Master {
                continue;
            }
            result = Asked::NotSent;
            if learning.heard(Instant::now(), &beacon) {
                let known = self.known_connections().map_or(0, |known| known as u64);
                if let Some(learned) = learning.learned(known, beacon.told.1) {
                    return Ok(Asked::Learned(learned));
                }
            }
        }
        Ok(result)
    }
}
