//! Runs a program for a limited time.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{MemfdFlags, memfd_create};
use rustix::io::Errno;
use rustix::process::{Pid, Signal, kill_process_group};

use crate::netlink::start_thread;

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

/// Runs a program in the calling thread's network namespace, with what it starts itself in a
/// process group of its own, which is killed after `limit`.
///
/// Its output goes to memory, not through pipes: a process that it leaves behind cannot hold up
/// the caller.
pub(super) fn run(mut command: Command, input: Option<&str>, limit: Duration) -> io::Result<Output> {
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
    let mut child = command.stdin(stdin).stdout(out.try_clone()?).stderr(err.try_clone()?).spawn()?;
    let Some(End { status }) = wait(&mut child, limit)? else {
        if let Some(group) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) {
            let _ = kill_process_group(group, Signal::KILL);
        }
        // One that hangs in the kernel ends when it can.
        if !matches!(wait(&mut child, Duration::from_millis(200)), Ok(Some(_))) {
            let _ = start_thread(|builder| builder.stack_size(64 << 10).spawn(move || child.wait()));
        }
        return Err(io::Error::new(io::ErrorKind::TimedOut, format!("it was killed after {limit:?}")));
    };
    let read = |file: &mut File| {
        let mut octets = Vec::new();
        file.rewind().and_then(|()| file.read_to_end(&mut octets))?;
        Ok::<_, io::Error>(String::from_utf8_lossy(&octets).into_owned())
    };
    Ok(Output { status, stdout: read(&mut out)?, stderr: read(&mut err)? })
}

/// A program has ended.
struct End {
    status: Option<ExitStatus>,
}

/// Waits for the end of a program; `None`: it runs still.
fn wait(child: &mut Child, limit: Duration) -> io::Result<Option<End>> {
    let start = Instant::now();
    let mut pause = Duration::from_micros(500);
    loop {
        match child.try_wait() {
            Ok(None) => {}
            Ok(status) => return Ok(Some(End { status })),
            // It has ended, and another wait(2) of this process had its status.
            Err(error) if error.raw_os_error() == Some(Errno::CHILD.raw_os_error()) => {
                return Ok(Some(End { status: None }));
            }
            Err(error) => return Err(error),
        }
        if start.elapsed() >= limit {
            return Ok(None);
        }
        thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(20));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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

        let mut child = shell("exit 0").spawn().unwrap();
        let id = Pid::from_raw(i32::try_from(child.id()).unwrap());
        rustix::process::waitpid(id, rustix::process::WaitOptions::empty()).unwrap();
        assert!(matches!(wait(&mut child, PROGRAM_LIMIT), Ok(Some(End { status: None }))));
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
