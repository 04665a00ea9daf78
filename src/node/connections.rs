//! The connections of the node's services, and how the other nodes get them.

use std::time::Duration;

use super::fence;
use super::handle::Node;
use crate::error::Result;
use crate::ipvs::{Connection, SyncRole, Table, sync};

/// Connections that expire earlier are ignored.
pub(super) const LASTING: Duration = Duration::from_secs(5);

impl Node {
    /// How many connections of its services this node knows, also those that its marks have
    /// scheduled, without those that expire soon.
    ///
    /// # Errors
    /// As [`Ipvs::connections`](crate::ipvs::Ipvs::connections).
    pub fn known_connections(&mut self) -> Result<usize> {
        self.count_connections(None)
    }

    /// The same of the connections that are read within this time.
    ///
    /// # Errors
    /// As [`Node::known_connections`].
    pub fn known_connections_within(&mut self, limit: Duration) -> Result<usize> {
        self.count_connections(Some(limit))
    }

    fn count_connections(&mut self, limit: Option<Duration>) -> Result<usize> {
        let mut known = 0;
        let (table, _) = self.tables()?;
        let make = sync::maker(&table);
        self.each_connection(LASTING, limit, |connection| known += usize::from(make(&connection).is_some()))?;
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
        let mut entries = Vec::new();
        let (table, of_marks) = self.tables()?;
        let (make, seen_by_others) =
            (sync::maker(&table), fence::marks::seen_by_others(&table, &of_marks, self.config.marks.values));
        self.each_connection(2 * LASTING, None, |connection| {
            entries.extend(seen_by_others(connection).and_then(|connection| make(&connection)));
        })?;
        self.ipvs.send_connections(&self.config.sync.daemon(SyncRole::Master), &entries)?;
        Ok(entries.len())
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

    /// The table that connections are looked up in, and the services of the node's marks.
    pub(super) fn tables(&mut self) -> Result<(Table, Table)> {
        let (table, values) = (self.ipvs.table()?, self.config.marks.values);
        Ok((table.filtered(|id| !values.owns(id)), table.filtered(|id| values.owns(id))))
    }
}
