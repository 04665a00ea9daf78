//! What a supervisor tells its program.

use std::fmt;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use crate::node::catch_up::Learned;
use crate::node::role::Role;
use crate::node::status::Status;

/// What a supervisor tells its program. Printed, a line for a log; the same is not told again
/// within a minute.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Notice {
    /// This step of a role is carried out next, or was carried out when a role was tried again.
    Step(String),
    /// What other programs have changed is set right.
    #[non_exhaustive]
    Repair {
        /// The group's name.
        group: String,
        /// What is done.
        steps: Vec<String>,
    },
    /// keepalived's VIPs show a role that was not notified. It is taken on.
    #[non_exhaustive]
    Shown {
        /// The group's name.
        group: String,
        /// The role.
        role: Role,
    },
    /// The node has learned the director's connections, as far as it does.
    Learned(Learned),
    /// So many connections were sent to the other nodes.
    Resynced(usize),
    /// The node takes part in elections, or stays out until it knows the director's connections.
    Elections(bool),
    /// Another node directs a group; `None`: the one that did is not received any more.
    #[non_exhaustive]
    Director {
        /// The group's name.
        group: String,
        /// The node that directs.
        director: Option<IpAddr>,
    },
    /// The sync daemons were started again, as their interface was made anew.
    SyncRestarted,
    /// What an operator should know.
    Warning(String),
    /// What has failed, and why. It is tried again.
    Failure(String),
    /// Each group was looked at: its name and its status. The first one's entries have the counters
    /// of destinations. Not for a log; see
    /// [`SupervisorConfig::statuses`](super::SupervisorConfig::statuses).
    Looked(Vec<(String, Status)>),
}

impl Notice {
    /// A word for the kind, for programs that read the log: `step`, `repair`, `seen`, `learned`,
    /// `told`, `elections`, `director`, `warning`, `failure`, `looked`.
    pub fn kind(&self) -> &'static str {
        match self {
            Notice::Step(_) => "step",
            Notice::Repair { .. } | Notice::SyncRestarted => "repair",
            Notice::Shown { .. } => "seen",
            Notice::Learned(_) => "learned",
            Notice::Resynced(_) => "told",
            Notice::Elections(_) => "elections",
            Notice::Director { .. } => "director",
            Notice::Warning(_) => "warning",
            Notice::Failure(_) => "failure",
            Notice::Looked(_) => "looked",
        }
    }

    /// Hands it to the program's logger. A step is logged where it is carried out.
    #[cfg(feature = "log")]
    pub(super) fn log(&self) {
        match self {
            Notice::Step(_) | Notice::Looked(_) => {}
            Notice::Failure(_) => log::error!("{self}"),
            Notice::Warning(_) => log::warn!("{self}"),
            _ => log::info!("{}: {self}", self.kind()),
        }
    }
}

impl fmt::Display for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Notice::Step(text) | Notice::Warning(text) | Notice::Failure(text) => f.write_str(text),
            Notice::Repair { steps, .. } => f.write_str(&steps.join("\n")),
            Notice::Shown { role, .. } => write!(f, "{role}: as the VIP shows, without a notification"),
            Notice::Learned(Learned { known, of }) => write!(f, "knows {known} of {of} connections"),
            Notice::Resynced(count) => write!(f, "sent {count} connections to the other nodes"),
            Notice::Elections(true) => write!(f, "takes part in elections"),
            Notice::Elections(false) => {
                write!(f, "takes no part in elections until it knows the director's connections")
            }
            Notice::Director { director: Some(director), .. } => write!(f, "{director} directs"),
            Notice::Director { director: None, .. } => write!(f, "the director is heard no more"),
            Notice::SyncRestarted => write!(f, "sync daemons: started again, as their interface was made anew"),
            Notice::Looked(groups) => write!(f, "looked at {} groups", groups.len()),
        }
    }
}

/// What a supervisor has counted.
#[derive(Debug, Default, Clone)]
#[non_exhaustive]
pub struct Counts {
    /// Repairs that changed something.
    pub repairs: u64,
    /// What has failed.
    pub failures: u64,
    /// When something failed last. `None`: not since the supervisor was made.
    pub failed: Option<Instant>,
    /// How often all connections were sent to the other nodes.
    pub resyncs: u64,
    /// How often the role of a group has changed.
    pub role_changes: u64,
    /// When one changed last. `None`: not since the supervisor was made.
    pub role_changed: Option<Instant>,
    /// Connections that the node knows.
    pub known: u64,
    /// Connections that the director knows, as it says. `None`: none is received.
    pub at_director: Option<u64>,
    /// Whether the node has learned all connections of the director.
    pub knows_all: bool,
    /// Whether the node directs a group.
    pub directs: bool,
    /// Other nodes that direct and are received.
    pub directors_heard: u64,
    /// Other clusters with this one's sync id on its link.
    pub other_clusters: usize,
    /// Which other nodes have another table than this one, and why that matters.
    pub unequal: Vec<String>,
    /// Datagrams without the cluster's key.
    pub refused: u64,
    /// How long it was not waiting.
    pub busy: Duration,
}

#[cfg(all(test, feature = "log"))]
mod tests {
    use std::sync::Mutex;

    use super::*;

    static LOGGED: Mutex<Vec<String>> = Mutex::new(Vec::new());

    struct Logger;

    impl log::Log for Logger {
        fn enabled(&self, _: &log::Metadata<'_>) -> bool {
            true
        }

        fn log(&self, record: &log::Record<'_>) {
            if record.target() == module_path!().trim_end_matches("::tests") {
                LOGGED.lock().unwrap().push(format!("{} {}", record.level(), record.args()));
            }
        }

        fn flush(&self) {}
    }

    #[test]
    fn notices_have_levels() {
        log::set_logger(&Logger).unwrap();
        log::set_max_level(log::LevelFilter::Trace);
        let notices = [
            Notice::Failure("look: no".into()),
            Notice::Warning("odd".into()),
            Notice::Step("VIP: add".into()),
            Notice::Looked(Vec::new()),
            Notice::Elections(true),
        ];
        notices.iter().for_each(Notice::log);
        let expected = ["ERROR look: no", "WARN odd", "INFO elections: takes part in elections"];
        assert_eq!(*LOGGED.lock().unwrap(), expected);
    }
}
