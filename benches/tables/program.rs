//! Runs a program and measures it.

use std::fs::{self, File};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

/// What a program took.
#[derive(Clone, Copy)]
pub(crate) struct Usage {
    /// From before its start until after its end.
    pub(crate) time: Duration,
    /// On the processor: also of programs that it started and waited for.
    pub(crate) processor: Duration,
    /// The most memory that it had.
    pub(crate) mebibytes: f64,
}

const MESSAGES: &str = "/tmp/messages";

/// A program that runs.
pub(crate) struct Running {
    name: String,
    start: Instant,
    child: Child,
}

impl Running {
    /// Starts a program with a file as its standard input, and what it prints in another.
    pub(crate) fn start(program: &str, arguments: &[&str], input: Option<&str>, output: &str) -> Result<Self> {
        let name = format!("{program} {arguments:?}");
        let mut command = Command::new(program);
        command.args(arguments).stdout(File::create(output)?).stderr(File::create(MESSAGES)?);
        command.stdin(input.map(File::open).transpose()?.map_or_else(Stdio::null, Stdio::from));
        let start = Instant::now();
        let child = command.spawn().with_context(|| format!("cannot start {name}"))?;
        Ok(Running { name, start, child })
    }

    pub(crate) fn child(&self) -> &Child {
        &self.child
    }

    /// How long it has been running.
    pub(crate) fn time(&self) -> Duration {
        self.start.elapsed()
    }

    /// Ends it.
    pub(crate) fn stop(&mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Waits for its end. Fails where the program does, with another exit code than `accepted`.
    pub(crate) fn end(self, accepted: &[i32]) -> Result<Usage> {
        let (status, mut usage) = wait(&self.child).with_context(|| self.name.clone())?;
        usage.time = self.start.elapsed();
        let code = ExitStatus::from_raw(status).code();
        let fine = code.is_some_and(|code| code == 0 || accepted.contains(&code));
        ensure!(fine, "{} failed ({status}): {}", self.name, fs::read_to_string(MESSAGES)?);
        Ok(usage)
    }
}

/// Runs a program that must succeed.
pub(crate) fn run(program: &str, arguments: &[&str], input: Option<&str>, output: &str) -> Result<Usage> {
    Running::start(program, arguments, input, output)?.end(&[])
}

/// Waits for a program. Returns its status as of wait(2), and its usage without the time.
fn wait(child: &Child) -> Result<(i32, Usage)> {
    let mut status = 0;
    // SAFETY: all fields of the usage are numbers; both places outlive the call.
    let (ended, usage) = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        (libc::wait4(child.id().cast_signed(), &raw mut status, 0, &raw mut usage), usage)
    };
    ensure!(ended > 0, "cannot wait: {}", std::io::Error::last_os_error());
    let time = |time: libc::timeval| Duration::new(time.tv_sec as u64, time.tv_usec as u32 * 1000);
    let processor = time(usage.ru_utime) + time(usage.ru_stime);
    Ok((status, Usage { time: Duration::ZERO, processor, mebibytes: usage.ru_maxrss as f64 / 1024.0 }))
}
