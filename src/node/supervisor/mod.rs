//! Supervises a node: follows keepalived, repairs, learns and sends connections, follows the other
//! nodes.
//!
//! [`engine`] decides, purely; [`runtime`] acts.

mod ask;
pub(in crate::node) mod engine;
mod fifo;
pub(in crate::node) mod notice;
#[cfg(feature = "serde")]
pub(in crate::node) mod recording;
mod runtime;
mod survey;

pub use ask::Asked;
pub(in crate::node) use engine::Remembered;
pub use fifo::{notified_role, role_of_state};
pub use notice::{Counts, Notice};
#[cfg(feature = "serde")]
pub use recording::Record;
pub use runtime::{Supervisor, SupervisorConfig, set_track_file};
