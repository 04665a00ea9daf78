//! Runs a program for a limited time.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::unix::process::CommandExt as _;
use std::process::{self, Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::fs::{MemfdFlags, memfd_create};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open};

use crate::background::Waits;
use crate::netlink::in_namespace_of_its_own;
use crate::netns::Netns;

/// How long a program may take.
pub(super) const PROGRAM_LIMIT: Duration = Duration::from_secs(5);

/// How a program ended, and what it printed.
pub(super) struct Output {
    /// `None`: the process that this library is part of has taken the status away. It ignores
    /// SIGCHLD, or waits for any child, as a program with an event loop does (waitpid(-1)).
    status: Option<ExitStatus>,
    pub(super) stdout: String,
    pub(super) stderr: String,
}

impl Output {
    /// Whether the program did what it was to do: without its status, what it printed tells.
    pub(super) fn has_succeeded(&self) -> bool {
        self.status.map_or_else(|| self.error_line().is_none(), |status| status.success())
    }

    /// The line that says why it failed; without any, how it ended.
    pub(super) fn complaint(&self) -> String {
        let ended = || self.status.map_or_else(|| "its exit status is lost".into(), |status| status.to_string());
        self.error_line().map_or_else(ended, str::to_owned)
    }

    fn error_line(&self) -> Option<&str> {
        let lines = || self.stderr.lines().map(str::trim).filter(|line| !line.is_empty());
        lines().find(|line| line.contains("Error:")).or_else(|| lines().find(|line| !line.starts_with('#')))
    }
}

/// Where a program runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Within {
    /// In the namespace of its [`Runner`].
    Namespace,
    /// In one that is made for it, and goes with it: starting it fails without `CAP_SYS_ADMIN`.
    OwnNamespace,
}

/// Runs programs in a network namespace.
#[derive(Debug, Clone, Copy)]
pub(super) struct Runner<'a> {
    pub(super) netns: &'a Netns,
    pub(super) waits: &'a Waits,
}

impl Runner<'_> {
    /// Runs a program, with what it starts itself in a process group of its own, which is killed
    /// after `limit`.
    ///
    /// Its output goes to memory, not through pipes: a process that it leaves behind cannot hold up
    /// the caller.
    pub(super) async fn run(
        self,
        mut command: Command,
        input: Option<&str>,
        within: Within,
        limit: Duration,
    ) -> io::Result<Output> {
        let memory = || Ok::<_, io::Error>(File::from(memfd_create("lvs-dr", MemfdFlags::CLOEXEC)?));
        let (mut out, mut err) = (memory()?, memory()?);
        let stdin = match input {
            None => Stdio::null(),
            Some(input) => {
                let mut file = memory()?;
                file.write_all(input.as_bytes())?;
                file.rewind()?;
                file.into()
            }
        };
        // Messages are compared, so they must not be translated.
        command.env("LC_ALL", "C").process_group(0);
        command.stdin(stdin).stdout(out.try_clone()?).stderr(err.try_clone()?);
        let child = match within {
            Within::Namespace => self.netns.run(|| command.spawn()).map_err(io::Error::other)?,
            Within::OwnNamespace => {
                in_namespace_of_its_own(&mut command);
                command.spawn()
            }
        };
        let status = self.wait(Started::new(child?), limit).await?;
        let read = |file: &mut File| {
            let mut octets = Vec::new();
            file.rewind().and_then(|()| file.read_to_end(&mut octets))?;
            Ok::<_, io::Error>(String::from_utf8_lossy(&octets).into_owned())
        };
        Ok(Output { status, stdout: read(&mut out)?, stderr: read(&mut err)? })
    }

    /// Waits for the end of a program. `None`: another wait(2) of this process had its status.
    async fn wait(self, mut started: Started, limit: Duration) -> io::Result<Option<ExitStatus>> {
        let until = Instant::now() + limit;
        let id = started.child.as_ref().and_then(|child| Pid::from_raw(i32::try_from(child.id()).ok()?));
        // Before Linux 5.3 there is no such descriptor: it is looked at now and then.
        let descriptor = id.and_then(|id| pidfd_open(id, PidfdFlags::empty()).ok()).map(Arc::new);
        let mut pause = Duration::from_micros(500);
        while let Some(child) = &mut started.child {
            let ended = match child.try_wait() {
                Ok(None) => false,
                Ok(_) => true,
                Err(error) if error.raw_os_error() == Some(Errno::CHILD.raw_os_error()) => true,
                Err(error) => return Err(error),
            };
            if ended {
                // It is kept by `child`, where there is one.
                let status = child.try_wait().ok().flatten();
                started.child = None;
                return Ok(status);
            }
            let now = Instant::now();
            if now >= until {
                break;
            }
            let next = if descriptor.is_some() { until } else { until.min(now + pause) };
            self.waits.wait(descriptor.as_ref(), next).await;
            pause = (pause * 2).min(Duration::from_millis(20));
        }
        Err(io::Error::new(io::ErrorKind::TimedOut, format!("it was killed after {limit:?}")))
    }
}

/// A program that was started. One that is given up is killed.
struct Started {
    child: Option<Child>,
    /// The process that started it: after fork(2) it is not the other one's.
    parent: u32,
}

/// Programs that were killed, and whose end is yet to be taken note of.
static KILLED: Mutex<Vec<Child>> = Mutex::new(Vec::new());

impl Started {
    fn new(child: Child) -> Self {
        KILLED
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .retain_mut(|killed| matches!(killed.try_wait(), Ok(None)));
        Started { child: Some(child), parent: process::id() }
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        let Some(mut child) = self.child.take().filter(|_| self.parent == process::id()) else { return };
        // Its number may be another one's by now.
        if !matches!(child.try_wait(), Ok(None)) {
            return;
        }
        if let Some(group) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) {
            let _ = kill_process_group(group, Signal::KILL);
        }
        if let Ok(None) = child.try_wait() {
            KILLED.lock().unwrap_or_else(PoisonError::into_inner).push(child);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::background::wait_for;

    fn run(command: Command, input: Option<&str>, limit: Duration) -> io::Result<Output> {
        let netns = Netns::current().unwrap();
        wait_for(|waits| async move {
            Runner { netns: &netns, waits: &waits }.run(command, input, Within::Namespace, limit).await
        })
    }

    fn shell(script: &str) -> Command {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", script]);
        command
    }

    /// A program with an event loop waits for any child, so that the status may be gone.
    #[test]
    fn a_program_whose_status_another_has_taken_is_judged_by_what_it_prints() {
        let end = |stderr: &str| Output { status: None, stdout: String::new(), stderr: stderr.into() };
        assert!(end("").has_succeeded() && end("# Warning: legacy tables present\n").has_succeeded());
        let failed = end("# a note\nError: No such file or directory\n");
        assert_eq!((failed.has_succeeded(), failed.complaint().as_str()), (false, "Error: No such file or directory"));

        let child = shell("exit 0").spawn().unwrap();
        let id = Pid::from_raw(i32::try_from(child.id()).unwrap());
        rustix::process::waitpid(id, rustix::process::WaitOptions::empty()).unwrap();
        let netns = Netns::current().unwrap();
        let status = wait_for(|waits| async move {
            Runner { netns: &netns, waits: &waits }.wait(Started::new(child), PROGRAM_LIMIT).await
        });
        assert_eq!(status.unwrap(), None);
    }

    #[test]
    fn programs_are_run() {
        let output =
            run(shell("cat; echo \"# note\" >&2; echo no such thing >&2; exit 3"), Some("input"), PROGRAM_LIMIT);
        let output = output.unwrap();
        assert_eq!((output.stdout.as_str(), output.complaint().as_str()), ("input", "no such thing"));
        assert_eq!((output.status.and_then(|status| status.code()), output.has_succeeded()), (Some(3), false));
        let output = run(shell("exit 3"), None, PROGRAM_LIMIT).unwrap();
        assert_eq!(output.complaint(), "exit status: 3");
        assert_eq!(
            run(Command::new("/nonexistent"), None, PROGRAM_LIMIT).map(drop).unwrap_err().kind(),
            io::ErrorKind::NotFound
        );
    }

    #[test]
    fn a_program_that_hangs_is_killed() {
        let start = Instant::now();
        // With what it has started.
        let killed = run(shell("sleep 60 & sleep 60"), None, Duration::from_millis(100)).map(drop).unwrap_err();
        assert_eq!(
            (killed.kind(), killed.to_string().as_str()),
            (io::ErrorKind::TimedOut, "it was killed after 100ms")
        );
        // A process that is left behind with the output open is not waited for.
        run(shell("sleep 2 &"), None, PROGRAM_LIMIT).unwrap();
        assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
    }
}
