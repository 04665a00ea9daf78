//! The last role that was not reached, and why: keepalived drops the messages of the programs that
//! it starts.
//!
//! It has a file of its own in the state directory, `failed` (`failed.GROUP`), of three lines or
//! more: `task NAME`, `time SECONDS` since 1970, and the reason. The file is written without the
//! lock: a lock that is held may be the failure. An error of the file fails no task.

use std::fs;
use std::process;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::config::Config;
use super::handle::Node;
use super::job::Task;
use super::requests::remove_if_there;
use super::role::Role;
use super::state::StateDir;
use crate::error::{Error, Result};
use crate::files::Replacement;

/// The most octets of a reason that are kept.
const LIMIT: usize = 4096;

/// A role or a release that failed, and none that was reached since.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct RoleFailure {
    /// What failed: a role, or `release`.
    pub task: String,
    /// When, to the second.
    pub at: SystemTime,
    /// Why.
    pub reason: String,
}

/// Remembers that a role was not reached for a reason that arose before the library was asked for
/// it: a program could not open the [`Node`], say. What fails in [`Node::become_role`] and
/// [`Node::release`] is remembered there. Does not fail: what cannot be remembered is not.
pub fn note_failure(config: &Config, role: Role, reason: &str) {
    StateDir::new(&config.state_dir, &config.group).note_failure(&role.to_string(), reason);
}

impl RoleFailure {
    fn text(&self) -> String {
        format!("task {}\ntime {}\n{}\n", self.task, self.unix_time(), self.reason)
    }

    fn parse(text: &str) -> Option<Self> {
        let (task, rest) = text.strip_prefix("task ")?.split_once('\n')?;
        let (seconds, reason) = rest.strip_prefix("time ")?.split_once('\n')?;
        let at = UNIX_EPOCH.checked_add(Duration::from_secs(seconds.parse().ok()?))?;
        Some(RoleFailure { task: task.to_owned(), at, reason: reason.trim_end().to_owned() })
    }

    /// When, in seconds since 1970.
    pub fn unix_time(&self) -> u64 {
        self.at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
    }

    /// How long ago it was, by a clock that may have been set since.
    pub fn age(&self) -> Duration {
        self.at.elapsed().unwrap_or_default()
    }
}

/// The end of a task, as far as failures are concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    /// The failure is remembered.
    Failed,
    /// An earlier failure is over.
    Reached,
    /// An earlier failure is over if it was of the role that the node has now.
    Repaired,
    /// Nothing changes.
    Nothing,
}

fn outcome(task: Task, result: Result<(), &Error>) -> Outcome {
    match (task, result) {
        // A later request reports its own end.
        (_, Err(Error::Superseded { .. })) => Outcome::Nothing,
        (Task::Role(_) | Task::Release, Err(_)) => Outcome::Failed,
        (Task::Role(_) | Task::Release, Ok(())) => Outcome::Reached,
        (Task::Repair | Task::Fix, Ok(())) => Outcome::Repaired,
        _ => Outcome::Nothing,
    }
}

impl Node {
    /// Remembers how a task has ended.
    pub(super) fn note_end(&self, task: Task, result: Result<(), &Error>) {
        match (outcome(task, result), result) {
            (Outcome::Failed, Err(error)) => self.dir.note_failure(&task.name(), &error.to_string()),
            (Outcome::Reached, _) => self.dir.forget_failure(),
            (Outcome::Repaired, _) => {
                let Some(failure) = self.failure() else { return };
                if matches!(self.role(), Ok(Some((role, true))) if role.to_string() == failure.task) {
                    self.dir.forget_failure();
                }
            }
            _ => {}
        }
    }

    /// The last role that was not reached, where none was reached since: what
    /// [`Status::failure`](super::Status::failure) says.
    pub fn failure(&self) -> Option<RoleFailure> {
        self.dir.failure()
    }
}

impl StateDir {
    fn note_failure(&self, task: &str, reason: &str) {
        let mut end = reason.len().min(LIMIT);
        while !reason.is_char_boundary(end) {
            end -= 1;
        }
        let failure = RoleFailure { task: task.to_owned(), at: SystemTime::now(), reason: reason[..end].to_owned() };
        // Two processes may be here at once.
        let path = self.failure_file();
        let temporary = format!("failed.new.{}", process::id());
        let _ = self.prepare().and_then(|()| Replacement::new(&path).temporary(temporary).write(failure.text()));
    }

    pub(super) fn forget_failure(&self) {
        let _ = remove_if_there(&self.failure_file());
    }

    fn failure(&self) -> Option<RoleFailure> {
        RoleFailure::parse(&String::from_utf8_lossy(&fs::read(self.failure_file()).ok()?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::services::Apply;

    #[test]
    fn what_ends_how_is_remembered() {
        let failed = Error::invalid("x", "y");
        let superseded = Error::Superseded { role: "backup".into(), generation: 1, latest: 2 };
        for role in Role::ALL {
            assert_eq!(outcome(Task::Role(role), Err(&failed)), Outcome::Failed);
            assert_eq!(outcome(Task::Role(role), Err(&superseded)), Outcome::Nothing);
            assert_eq!(outcome(Task::Role(role), Ok(())), Outcome::Reached);
        }
        assert_eq!(outcome(Task::Release, Err(&failed)), Outcome::Failed);
        assert_eq!(outcome(Task::Repair, Err(&failed)), Outcome::Nothing);
        assert_eq!(outcome(Task::Repair, Ok(())), Outcome::Repaired);
        assert_eq!(outcome(Task::RestoreVips, Ok(())), Outcome::Nothing);
        assert_eq!(outcome(Task::Apply(Apply::All), Err(&failed)), Outcome::Nothing);
    }

    #[test]
    fn a_failure_is_kept_in_a_file_and_damage_is_none() {
        let path = std::env::temp_dir().join(format!("lvs-dr-test-{}-failure", process::id()));
        let _ = fs::remove_dir_all(&path);
        let dir = StateDir::new(&path, "my web");
        assert_eq!(dir.failure(), None);
        dir.note_failure("master", "cannot add it:\n  no");
        let found = dir.failure().unwrap();
        assert_eq!((found.task.as_str(), found.reason.as_str()), ("master", "cannot add it:\n  no"));
        assert!(found.age() < Duration::from_secs(60));
        assert_eq!(RoleFailure::parse(&found.text()), Some(found));
        assert_eq!(StateDir::new(&path, "").failure(), None);
        dir.note_failure("backup", &"ä".repeat(LIMIT));
        assert!(dir.failure().unwrap().reason.len() <= LIMIT);
        assert_eq!(fs::read_dir(&path).unwrap().count(), 1);
        for damaged in
            ["", "task x\n", "task x\ntime y\nz\n", "time 1\ntask x\nz", "task x\ntime 18446744073709551615\nz\n"]
        {
            fs::write(dir.failure_file(), damaged).unwrap();
            assert_eq!(dir.failure(), None, "{damaged:?}");
        }
        dir.forget_failure();
        dir.forget_failure();
        assert_eq!(fs::read_dir(&path).unwrap().count(), 0);
        // Where nothing can be written, nothing is said.
        fs::remove_dir(&path).unwrap();
        fs::write(&path, "").unwrap();
        dir.note_failure("master", "x");
        assert_eq!(dir.failure(), None);
        fs::remove_file(&path).unwrap();
    }
}
