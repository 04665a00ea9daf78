//! The role of a node: what it is for its VIPs, reached in the one order that loses no session.
//!
//! [`Node::become_role`] looks at the kernel, plans, acts, and looks again:
//!
//! 1. *Observe* the kernel. Nothing is taken from memory that the kernel can tell.
//! 2. *Plan* the steps, from what is seen and what is wanted. [`Node::plan`] returns them and
//!    changes nothing.
//! 3. *Run* them, under a lock. Requests are numbered as they arrive; one that a later one
//!    supersedes is not carried out.
//! 4. *Verify*: observe again. A step that left no trace is an error that names it; what another
//!    program changed meanwhile is planned for.
//!
//! Every step can be done twice. A node that was killed anywhere, or started from any half state,
//! reaches the role that it is asked for next.
//!
//! The promotion of a backup reads no services and changes no destination, however many there are:
//! it moves the VIP, announces it, removes one rule for each VIP and interface, and starts the
//! sync daemon.
//!
//! A request is a state machine that waits for nothing itself. The calls of [`Node`] drive it and
//! wait; [`Driver`] drives it for programs with a loop of their own. [`Supervisor`] follows
//! keepalived and the other nodes, and repairs, for as long as a node lives.
//!
//! ```no_run
//! use lvs_dr::node::{Config, Node, Role};
//!
//! let mut node = Node::open(Config::new("bond0", ["192.168.0.254".parse()?]))?;
//! print!("{}", node.plan(Role::Master)?);
//! node.become_role(Role::Master)?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

pub mod audit;
mod beacon;
#[cfg(test)]
mod cases;
mod catch_up;
mod cluster;
mod config;
mod connections;
mod destinations;
mod digest;
mod drain;
mod driver;
mod execute;
mod failure;
mod fence;
mod handle;
mod job;
mod lan;
mod leftovers;
mod limit;
mod listeners;
mod membership;
mod memory;
#[cfg(test)]
mod model;
mod names;
mod observation;
mod observe;
mod peers;
mod plan;
mod planner;
mod repair;
mod requests;
mod role;
mod roles;
mod seal;
mod services;
mod settings;
#[cfg(test)]
mod simulation;
mod stand_down;
mod state;
mod status;
mod supervisor;
mod work;

pub use catch_up::Learned;
pub use config::{ArpConfig, ArpScope, Config, IpvsSysctls, Loopback, MarksConfig, OwnRequests, VipOwner};
pub use digest::TableDigest;
pub use drain::{Sessions, Weigh};
pub use driver::{Driver, Report};
pub use failure::{RoleFailure, note_failure};
pub use fence::marks::MarkValues;
pub use fence::{Fence, SyncConfig};
pub use handle::Node;
pub use job::Task;
pub use membership::OtherNode;
pub use plan::{Plan, Step};
pub use role::Role;
pub use services::Apply;
pub use state::StoredTable;
pub use status::Status;
#[cfg(feature = "serde")]
pub use supervisor::Record;
pub use supervisor::{
    Asked, Counts, Notice, Supervisor, SupervisorConfig, notified_role, role_of_state, set_track_file,
};

/// See the crate's `fuzzing`.
#[cfg(any(fuzzing, test))]
pub(crate) mod fuzzing {
    use std::time::Instant;

    use super::beacon::Heard;
    use super::membership::View;
    use super::seal::{Key, Seal};
    use super::state::State;

    /// A datagram of another node.
    pub(crate) fn beacon(datagram: &str) {
        let now = Instant::now();
        let mut seal = Seal::new(Key::new(&[7; 16]).ok(), 1);
        assert!(seal.open(now, datagram).is_err());
        let Ok(heard) = Seal::text(datagram).parse::<Heard>() else { return };
        let (text, sent) = match &heard {
            Heard::Beacon(beacon) => (beacon.to_string(), beacon.to_string()),
            Heard::Presence(presence) => (presence.to_string(), presence.datagram()),
        };
        assert_eq!(text.parse::<Heard>().unwrap(), heard);
        assert!(sent.len() <= super::beacon::TEXT_LIMIT && sent.parse::<Heard>().is_ok(), "{sent}");
        let mut view = View::of(["192.0.2.254".parse().unwrap()]);
        let _ = match heard {
            Heard::Beacon(beacon) => view.heard(now, beacon),
            Heard::Presence(presence) => view.present(now, presence),
        };
        let _ = view.director_of(now, "web", &["192.0.2.11".parse().unwrap()].into(), None);
    }

    pub(crate) fn state(text: &str) {
        if let Ok(state) = State::parse(text) {
            assert_eq!(State::parse(&state.text(None)).unwrap(), state);
        }
    }
}
