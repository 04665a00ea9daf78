//! The connections of the node's services, and how the other nodes get them.

use std::fmt;
use std::time::{Duration, Instant};

use super::fence;
use super::handle::Node;
use crate::error::Result;
use crate::ipvs::sync::{self, ConnectionSender, PAUSE};
use crate::ipvs::{Connection, ConnectionReader, SyncDaemon, SyncRole, Table};
use crate::wait::wait;

/// Connections that expire earlier are ignored.
pub(super) const LASTING: Duration = Duration::from_secs(5);

/// For so long lists are read at a time.
pub(in crate::node) const SLICE: Duration = Duration::from_millis(1);

/// Sends the connections of the node's services to the other nodes: reads a piece at a time, then
/// sends a burst at a time.
#[derive(Debug)]
pub(super) struct Sending {
    daemon: SyncDaemon,
    /// Connections that expire earlier are ignored.
    lasting: Duration,
    /// Until then they are read. `None`: all are.
    limit: Option<Instant>,
    /// What makes an entry of a connection: made of the table, once there is a connection.
    make: Option<Make>,
    entries: Vec<sync::Entry>,
    phase: Phase,
}

struct Make(Box<dyn Fn(Connection) -> Option<sync::Entry> + Send>);

impl fmt::Debug for Make {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Make")
    }
}

#[derive(Debug)]
enum Phase {
    Reading(ConnectionReader),
    /// All are read, and sent from the next time on.
    Read,
    Sending(ConnectionSender, Instant),
}

impl Sending {
    /// Begins to read.
    pub(super) fn begin(node: &mut Node, lasting: Duration, limit: Option<Duration>) -> Result<Self> {
        let daemon = node.config.sync.daemon(SyncRole::Master);
        Self::by(node, daemon, lasting, limit)
    }

    /// The same with another daemon's group and interface.
    pub(super) fn by(node: &mut Node, daemon: SyncDaemon, lasting: Duration, limit: Option<Duration>) -> Result<Self> {
        let phase = Phase::Reading(ConnectionReader::open(node.ipvs.netns())?);
        let limit = limit.map(|limit| Instant::now() + limit);
        Ok(Sending { daemon, lasting, limit, make: None, entries: Vec::new(), phase })
    }

    /// When it goes on.
    pub(super) fn until(&self) -> Instant {
        match &self.phase {
            Phase::Reading(_) | Phase::Read => Instant::now(),
            Phase::Sending(_, next) => *next,
        }
    }

    /// Goes on for a while. Returns how many were sent, once all are.
    ///
    /// # Errors
    /// As [`Ipvs::send_connections`](crate::ipvs::Ipvs::send_connections).
    pub(super) fn go_on(&mut self, node: &mut Node, now: Instant) -> Result<Option<usize>> {
        match &mut self.phase {
            Phase::Reading(_) => {
                if !self.read(node, now)? {
                    self.phase = Phase::Read;
                }
            }
            Phase::Read => {
                let sender = ConnectionSender::open(node.ipvs.netns(), &self.daemon, &self.entries)?;
                self.phase = Phase::Sending(sender, now);
            }
            Phase::Sending(_, next) if now < *next => {}
            Phase::Sending(sender, next) => match sender.send()? {
                true => *next = Instant::now() + PAUSE,
                false => return Ok(Some(self.entries.len())),
            },
        }
        Ok(None)
    }

    /// Reads for a while. Says whether there is more to be read.
    fn read(&mut self, node: &mut Node, now: Instant) -> Result<bool> {
        let Phase::Reading(reader) = &mut self.phase else { return Ok(false) };
        let (lasting, mut found) = (self.lasting, Vec::new());
        let mut see = |connection: Connection| {
            if connection.expires >= lasting {
                found.push(connection);
            }
        };
        let more = loop {
            let (more, read) = (reader.read(&mut see)?, Instant::now());
            if !more || self.limit.is_some_and(|limit| read >= limit) {
                break false;
            }
            if read >= now + SLICE {
                break true;
            }
        };
        if !found.is_empty() {
            let Make(make) = match self.make.take() {
                Some(make) => self.make.insert(make),
                None => self.make.insert(node.entry_maker()?),
            };
            self.entries.extend(found.into_iter().filter_map(make));
        }
        Ok(more)
    }
}

impl Node {
    /// How many connections of its services this node knows, also those that its marks have
    /// scheduled, without those that expire soon.
    ///
    /// # Errors
    /// As [`Ipvs::connections`](crate::ipvs::Ipvs::connections).
    pub fn known_connections(&mut self) -> Result<usize> {
        self.count_connections(None)
    }

    fn count_connections(&mut self, limit: Option<Duration>) -> Result<usize> {
        let mut known = 0;
        let (table, _) = self.tables()?;
        let make = sync::Maker::new(table);
        self.each_connection(LASTING, limit, |connection| known += usize::from(make.entry(&connection).is_some()))?;
        Ok(known)
    }

    /// Sends all connections of the node's services to the other nodes' sync daemons, also those
    /// opened before these nodes joined, and those that this node served itself before it
    /// directed. Returns how many these were.
    ///
    /// # Errors
    /// As [`Ipvs::send_connections`](crate::ipvs::Ipvs::send_connections).
    pub fn resync(&mut self) -> Result<usize> {
        // An entry that is about to expire would expire there as well.
        let mut sending = Sending::begin(self, 2 * LASTING, None)?;
        loop {
            match sending.go_on(self, Instant::now())? {
                Some(count) => return Ok(count),
                None => wait(None, Some(sending.until())),
            }
        }
    }

    /// Shows each connection that lasts so long. One by one: there may be many.
    pub(super) fn each_connection(
        &mut self,
        lasting: Duration,
        limit: Option<Duration>,
        mut see: impl FnMut(Connection),
    ) -> Result<()> {
        self.ipvs.each_connection(limit, |connection| {
            if connection.expires >= lasting {
                see(connection);
            }
        })
    }

    fn entry_maker(&mut self) -> Result<Make> {
        let (table, of_marks) = self.tables()?;
        let make = sync::Maker::new(table.clone());
        let seen_by_others = fence::marks::seen_by_others(&table, &of_marks, self.config.marks.values);
        Ok(Make(Box::new(move |connection| seen_by_others(connection).and_then(|connection| make.entry(&connection)))))
    }

    /// The table that connections are looked up in, and the services of the node's marks.
    pub(super) fn tables(&mut self) -> Result<(Table, Table)> {
        let (table, values) = (self.ipvs.table()?, self.config.mark_values());
        Ok((table.filtered(|id| !values.owns(id)), table.filtered(|id| values.owns(id))))
    }
}
