//! Runs a program for a limited time.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::fd::AsFd as _;
use std::path::Path;
use std::process::ExitStatus;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::fs::{MemfdFlags, memfd_create};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use crate::background::Waits;
use crate::netlink::{Process, Within};
use crate::netns::Netns;

/// How long a program may take.
pub(super) const PROGRAM_LIMIT: Duration = Duration::from_secs(5);

/// How a program ended, and what it printed.
pub(super) struct Output {
    status: ExitStatus,
    pub(super) stdout: String,
    pub(super) stderr: String,
}

impl Output {
    pub(super) fn has_succeeded(&self) -> bool {
        self.status.success()
    }

    /// The line that says why it failed; without any, how it ended.
    pub(super) fn complaint(&self) -> String {
        let lines = || self.stderr.lines().map(str::trim).filter(|line| !line.is_empty());
        let chosen =
            lines().find(|line| line.contains("Error:")).or_else(|| lines().find(|line| !line.starts_with('#')));
        chosen.map_or_else(|| self.status.to_string(), str::to_owned)
    }
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
    /// Its output goes to memory, not through pipes: a process that it leaves behind cannot hold
    /// up the caller.
    pub(super) async fn run(
        self,
        program: &Path,
        arguments: &[&str],
        input: Option<&str>,
        within: Within,
        limit: Duration,
    ) -> io::Result<Output> {
        let memory = || Ok::<_, io::Error>(File::from(memfd_create("lvs-dr", MemfdFlags::CLOEXEC)?));
        let (mut stdin, mut out, mut err) = (memory()?, memory()?, memory()?);
        stdin.write_all(input.unwrap_or_default().as_bytes())?;
        stdin.rewind()?;
        let process = {
            let words: Vec<&OsStr> = arguments.iter().map(OsStr::new).collect();
            let stdio = [stdin.as_fd(), out.as_fd(), err.as_fd()];
            self.netns.run(|| Process::start(program, &words, stdio, within)).map_err(io::Error::other)??
        };
        let status = self.wait(process, limit).await?;
        let read = |file: &mut File| {
            let mut octets = Vec::new();
            file.rewind().and_then(|()| file.read_to_end(&mut octets))?;
            Ok::<_, io::Error>(String::from_utf8_lossy(&octets).into_owned())
        };
        Ok(Output { status, stdout: read(&mut out)?, stderr: read(&mut err)? })
    }

    async fn wait(self, mut process: Process, limit: Duration) -> io::Result<ExitStatus> {
        let until = Instant::now() + limit;
        // Before Linux 5.3 there is no such descriptor: it is looked at now and then.
        let descriptor = Pid::from_raw(process.id()).and_then(|id| pidfd_open(id, PidfdFlags::empty()).ok());
        let descriptor = descriptor.map(Arc::new);
        let mut pause = Duration::from_micros(500);
        loop {
            if let Some(status) = process.poll()? {
                return Ok(status);
            }
            let now = Instant::now();
            if now >= until {
                return Err(io::Error::new(io::ErrorKind::TimedOut, format!("it was killed after {limit:?}")));
            }
            let next = if descriptor.is_some() { until } else { until.min(now + pause) };
            self.waits.wait(descriptor.as_ref(), next).await;
            pause = (pause * 2).min(Duration::from_millis(20));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::background::wait_for;

    fn run(program: &str, arguments: &[&str], input: Option<&str>, limit: Duration) -> io::Result<Output> {
        let netns = Netns::current().unwrap();
        wait_for(|waits| async move {
            let runner = Runner { netns: &netns, waits: &waits };
            runner.run(Path::new(program), arguments, input, Within::Namespace, limit).await
        })
    }

    fn shell(script: &str, input: Option<&str>, limit: Duration) -> io::Result<Output> {
        run("/bin/sh", &["-c", script], input, limit)
    }

    #[test]
    fn programs_are_run() {
        let script = "cat; echo \"# note\" >&2; echo no such thing $LC_ALL >&2; exit 3";
        let output = shell(script, Some("input"), PROGRAM_LIMIT).unwrap();
        assert_eq!((output.stdout.as_str(), output.complaint().as_str()), ("input", "no such thing C"));
        assert_eq!((output.status.code(), output.has_succeeded()), (Some(3), false));
        let output = shell("exit 3", None, PROGRAM_LIMIT).unwrap();
        assert_eq!(output.complaint(), "exit status: 3");
        assert!(shell("kill -TERM $$", None, PROGRAM_LIMIT).unwrap().complaint().starts_with("signal: 15"));
        let missing = run("/nonexistent", &[], None, PROGRAM_LIMIT).map(drop).unwrap_err();
        assert_eq!(missing.kind(), io::ErrorKind::NotFound);
        let no_program = run("/dev", &[], None, PROGRAM_LIMIT).map(drop).unwrap_err();
        assert_eq!(no_program.kind(), io::ErrorKind::PermissionDenied);
        // Exit codes of a shell's, which a wrapper around a firewall's program may end with.
        for code in [126, 127] {
            let output = shell(&format!("echo no luck >&2; exit {code}"), None, PROGRAM_LIMIT).unwrap();
            assert_eq!((output.status.code(), output.complaint().as_str()), (Some(code), "no luck"));
        }
        // It does not take the processor from the loop beside: 3 is SCHED_BATCH, see
        // proc_pid_stat(5).
        let stat = shell("cat /proc/self/stat", None, PROGRAM_LIMIT).unwrap().stdout;
        assert_eq!(stat.rsplit(')').next().unwrap().split(' ').nth(39), Some("3"), "{stat}");
    }

    #[test]
    fn a_program_that_hangs_is_killed() {
        let start = Instant::now();
        // With what it has started.
        let killed = shell("sleep 60 & sleep 60", None, Duration::from_millis(100)).map(drop).unwrap_err();
        assert_eq!(
            (killed.kind(), killed.to_string().as_str()),
            (io::ErrorKind::TimedOut, "it was killed after 100ms")
        );
        // A process that is left behind with the output open is not waited for.
        shell("sleep 2 &", None, PROGRAM_LIMIT).unwrap();
        assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
    }
}
