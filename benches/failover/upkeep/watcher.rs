//! An `lvs-node watch` in a node.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::cluster::Node;

/// It ends with this.
pub(crate) struct Watcher {
    child: Child,
    lines: Arc<Mutex<Vec<(Duration, String)>>>,
    metrics: PathBuf,
    pub(crate) started: Duration,
}

impl Watcher {
    /// Times are from `start` on.
    pub(crate) fn start(node: &Node, program: &str, start: Instant) -> Result<Self> {
        let mut command = Command::new(program);
        command.arg("--config").arg(node.etc.join("node.toml")).arg("watch").arg("--fifo").arg(node.fifo());
        let metrics = node.etc.join("metrics");
        command.arg("--metrics").arg(&metrics);
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        let started = start.elapsed();
        let mut child = node.netns.run(|| command.spawn())?.context("cannot run lvs-node watch")?;
        let output = child.stdout.take().context("lvs-node watch has no output")?;
        let lines = Arc::new(Mutex::new(Vec::new()));
        let told = lines.clone();
        thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                told.lock().unwrap_or_else(PoisonError::into_inner).push((start.elapsed(), line));
            }
        });
        Ok(Watcher { child, lines, metrics, started })
    }

    /// What it has said, and when.
    pub(crate) fn lines(&self) -> Vec<(Duration, String)> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// `knows N of M connections`, the last time it said so.
    pub(crate) fn knows(&self) -> Option<(Duration, u64, u64)> {
        let known = |line: &str| {
            let (known, of) = line.strip_prefix("knows ")?.strip_suffix(" connections")?.split_once(" of ")?;
            Some((known.parse().ok()?, of.parse().ok()?))
        };
        self.lines().iter().rev().find_map(|(at, line)| known(line).map(|(known, of)| (*at, known, of)))
    }

    /// How long it was not waiting, by the clock, as it says itself.
    pub(crate) fn busy(&self) -> Result<Duration> {
        let text = fs::read_to_string(&self.metrics).with_context(|| self.metrics.display().to_string())?;
        let mut values = text.lines().filter_map(|line| line.strip_prefix("lvs_node_watch_busy_seconds_total "));
        let seconds: f64 = values.next().context("the metrics do not say how long the watch was busy")?.parse()?;
        Ok(Duration::try_from_secs_f64(seconds)?)
    }

    /// The processor time that it has used, in ticks of the guest's clock, which can charge a
    /// whole one for a moment.
    pub(crate) fn cpu(&self) -> Result<Duration> {
        let path = format!("/proc/{}/stat", self.child.id());
        let stat = fs::read_to_string(&path).context(path)?;
        // `PID (NAME) STATE ...`: utime and stime are the 14th and 15th.
        let words = stat.rsplit_once(") ").context("/proc/PID/stat")?.1.split_whitespace().skip(11).take(2);
        let ticks = words.map(str::parse::<u32>).sum::<Result<u32, _>>().context("/proc/PID/stat")?;
        Ok(ticks * TICK)
    }
}

/// Of /proc: `getconf CLK_TCK` is 100 on all of Linux.
const TICK: Duration = Duration::from_millis(10);

impl Drop for Watcher {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
