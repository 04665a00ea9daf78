//! What the guest itself does meanwhile: how late it wakes a thread, how idle its CPU is, what its
//! TCP sends again.

use std::fs;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use lvs_dr::Netns;
use rustix::process::setpriority_process;

use super::load::PRIORITY;

/// How long the thread sleeps.
const EVERY: Duration = Duration::from_millis(5);
/// How often /proc is read, in sleeps.
const READ_EVERY: usize = 20;

/// A thread in the client's namespace that sleeps and looks.
pub(crate) struct Monitor {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Result<Seen>>,
}

/// What it has seen.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    /// When it woke, and how much later than it had asked for.
    wakes: Vec<(Duration, Duration)>,
    counters: Vec<(Duration, Counters)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Counters {
    /// In ticks.
    idle: u64,
    total: u64,
    /// TCP segments that the client sent again.
    resent: u64,
}

impl Monitor {
    pub(crate) fn start(client: &Netns, start: Instant) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (client, stopped) = (client.clone(), stop.clone());
        let thread = thread::spawn(move || client.run(|| watch(start, &stopped))?);
        Monitor { stop, thread }
    }

    pub(crate) fn stop(self) -> Result<Seen> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().map_err(|_| anyhow!("the monitor panicked"))?
    }
}

fn watch(start: Instant, stop: &AtomicBool) -> Result<Seen> {
    // It waits no longer than the client does: where both wait, the guest was busy (its kernel is
    // never preempted).
    setpriority_process(None, PRIORITY).context("cannot set the monitor's priority")?;
    let mut seen = Seen::default();
    while !stop.load(Ordering::Relaxed) {
        if seen.wakes.len().is_multiple_of(READ_EVERY) {
            seen.counters.push((start.elapsed(), counters()?));
        }
        let before = start.elapsed();
        thread::sleep(EVERY);
        let now = start.elapsed();
        seen.wakes.push((now, (now - before).saturating_sub(EVERY)));
    }
    Ok(seen)
}

fn counters() -> Result<Counters> {
    let read = |path: &str| fs::read_to_string(path).with_context(|| path.to_string());
    let (idle, total) = cpu(&read("/proc/stat")?).context("/proc/stat has no line for the CPU")?;
    // /proc/net is the namespace of the process, not of the thread.
    let resent = resent(&read("/proc/thread-self/net/snmp")?).context("/proc/net/snmp has no RetransSegs")?;
    Ok(Counters { idle, total, resent })
}

/// `cpu  USER NICE SYSTEM IDLE IOWAIT ...`: idle ticks, all ticks.
fn cpu(stat: &str) -> Option<(u64, u64)> {
    let line = stat.lines().find_map(|line| line.strip_prefix("cpu "))?;
    let ticks = line.split_whitespace().map(|word| word.parse().ok()).collect::<Option<Vec<u64>>>()?;
    Some((ticks.get(3)? + ticks.get(4)?, ticks.iter().sum()))
}

/// `Tcp: ... RetransSegs ...`, and below it the values.
fn resent(snmp: &str) -> Option<u64> {
    let mut lines = snmp.lines().filter(|line| line.starts_with("Tcp:"));
    let column = lines.next()?.split_whitespace().position(|name| name == "RetransSegs")?;
    lines.next()?.split_whitespace().nth(column)?.parse().ok()
}

impl Seen {
    /// The longest that a thread had to wait for the CPU.
    pub(crate) fn lateness(&self, within: &Range<Duration>) -> Duration {
        let wakes = self.wakes.iter().filter(|(at, _)| within.contains(at));
        wakes.map(|(_, late)| *late).max().unwrap_or_default()
    }

    /// The share of the time that the CPU had nothing to do.
    pub(crate) fn idle(&self, within: &Range<Duration>) -> Option<f64> {
        let (first, last) = self.between(within)?;
        let total = last.total - first.total;
        (total > 0).then(|| (last.idle - first.idle) as f64 / total as f64)
    }

    /// How many TCP segments the client sent again.
    pub(crate) fn resent(&self, within: &Range<Duration>) -> Option<u64> {
        self.between(within).map(|(first, last)| last.resent - first.resent)
    }

    fn between(&self, within: &Range<Duration>) -> Option<(Counters, Counters)> {
        let mut counters = self.counters.iter().filter(|(at, _)| within.contains(at)).map(|(_, counters)| *counters);
        let first = counters.next()?;
        Some((first, counters.next_back()?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn what_the_kernel_counts_is_read() {
        assert_eq!(cpu("cpu  10 20 30 400 50 6 7 0 0 0\ncpu0 1 2 3 4\n"), Some((450, 523)));
        assert_eq!(cpu("intr 1 2 3\n"), None);
        let snmp = "Ip: Forwarding\nIp: 1\nTcp: RtoAlgorithm RetransSegs InErrs\nTcp: 1 42 0\n";
        assert_eq!(resent(snmp), Some(42));
        assert_eq!(resent("Tcp: RetransSegs\n"), None);
    }

    #[test]
    fn only_the_asked_for_time_counts() {
        let counters = |idle, total, resent| Counters { idle, total, resent };
        let seen = Seen {
            wakes: vec![(ms(5), ms(1)), (ms(10), ms(30)), (ms(20), ms(2))],
            counters: vec![(ms(0), counters(0, 0, 3)), (ms(10), counters(5, 10, 4)), (ms(20), counters(6, 20, 9))],
        };
        assert_eq!(seen.lateness(&(ms(11)..ms(30))), ms(2));
        assert_eq!(seen.idle(&(ms(0)..ms(30))), Some(0.3));
        assert_eq!(seen.resent(&(ms(5)..ms(30))), Some(5));
        // One reading says nothing.
        assert_eq!(seen.idle(&(ms(15)..ms(30))), None);
    }
}
