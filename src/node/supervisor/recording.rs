//! What a supervisor was told and what it decided, as a record: a user's trouble becomes a test.
//!
//! The simulation decides the same once more: see `src/node/simulation`.

use std::time::Duration;

use super::engine::{Action, Event, Extent, Supervised};
use crate::node::fence::SyncConfig;

/// An entry of a [`Supervisor`](super::Supervisor)'s record: the start, or an event and what was
/// decided. Serialised with serde, an entry for each line.
///
/// It names addresses, MAC addresses and groups of the cluster. It names no key.
#[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub struct Record(pub(in crate::node) Entry);

#[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub(in crate::node) enum Entry {
    Start {
        /// The form of these entries.
        version: u32,
        /// The number of this start of the node.
        node: u64,
        extent: Extent,
        groups: Vec<Supervised>,
        sync_interface: String,
        sync_id: u8,
    },
    Event {
        /// The time since the start, in nanoseconds.
        at: u64,
        event: Event,
        /// What is to be done.
        actions: Vec<String>,
    },
}

/// The form of the entries of this version.
pub(in crate::node) const VERSION: u32 = 1;

impl Record {
    pub(super) fn start(node: u64, extent: Extent, groups: &[Supervised], sync: &SyncConfig) -> Self {
        Record(Entry::Start {
            version: VERSION,
            node,
            extent,
            groups: groups.to_vec(),
            sync_interface: sync.interface.clone(),
            sync_id: sync.id,
        })
    }

    pub(super) fn event(since: Duration, event: Event, actions: &[Action]) -> Self {
        let at = u64::try_from(since.as_nanos()).unwrap_or(u64::MAX);
        Record(Entry::Event { at, event, actions: actions.iter().map(Action::to_string).collect() })
    }
}
