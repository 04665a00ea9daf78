//! One measurement: a cluster under load, one change of its director, and everything counted from
//! it.

use std::ops::Range;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::cluster::addresses::family;
use crate::cluster::load::{Group, REQUEST_EVERY, REQUEST_LIMIT, Sessions};
use crate::cluster::monitor::{Monitor, Seen};
use crate::cluster::progress::Progress;
use crate::cluster::record::{Kind, Record, Session, Turn};
use crate::cluster::router::Classified;
use crate::cluster::stage::{Stage, with_cluster};
use crate::cluster::ways::{Balance, Way};

pub(crate) const ACTIVE: Group =
    Group { count: 300, every: Some(Duration::from_secs(1)), over: Duration::from_millis(2500) };
/// They ask often enough to see a short gap.
const PROBES: Group = Group { count: 10, every: Some(Duration::from_millis(40)), over: Duration::from_millis(500) };
pub(crate) const IDLE: Group = Group { count: 300, every: None, over: Duration::from_millis(2500) };
/// Opened in the last 2 s before a crash.
const YOUNG: Group = Group { count: 60, every: Some(Duration::from_millis(500)), over: Duration::from_millis(1700) };
const YOUNG_FOR: Duration = Duration::from_secs(2);
/// All but the young ones are at least this old.
pub(crate) const AGE: Duration = Duration::from_millis(2500);
/// How long nothing happens before the change, and for how long its consequences are counted. The
/// sessions' TCP sends again 0.2, 0.6, 1.4 and 3.0 s after a director has gone.
const QUIET: Duration = Duration::from_secs(5);
pub(crate) const AFTERMATH: Duration = Duration::from_secs(5);
/// Four moves take longer.
const QUIET_BEFORE_MOVES: Duration = Duration::from_secs(8);

/// The load, for people.
pub(crate) fn load() -> String {
    let every = |group: &Group| group.every.unwrap_or_default().as_millis();
    format!(
        "{} active sessions (a request {} ms after each answer), {} more every {} ms, {} idle ones (asked once, after all), {} opened in\n\
         the last 2 s before a crash, and a new connection with a request every {} ms, which fails after {} s. Sessions\n\
         are at least {} s old. A gap is the time between two answers, beyond the time that the client waits itself.",
        ACTIVE.count,
        every(&ACTIVE),
        PROBES.count,
        every(&PROBES),
        IDLE.count,
        YOUNG.count,
        REQUEST_EVERY.as_millis(),
        REQUEST_LIMIT.as_secs(),
        AGE.as_secs_f64(),
    )
}

/// So many of so many.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Count {
    pub(crate) is: usize,
    pub(crate) of: usize,
}

/// One statistic before the change and in it, over equal times.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pair<T> {
    pub(crate) quiet: T,
    pub(crate) change: T,
}

/// What was measured.
pub(crate) struct Measured {
    pub(crate) record: Record,
    pub(crate) kind: Kind,
    pub(crate) scheduler: Balance,
    pub(crate) live_table: bool,
    /// Kept, of those that could be: a dead node's own could not.
    pub(crate) active: Count,
    pub(crate) idle: Count,
    pub(crate) young: Option<Count>,
    /// Failed.
    pub(crate) new: Count,
    /// The slowest new connection that did not fail.
    pub(crate) slowest: Duration,
    /// The longest of any session that was kept, if there was one.
    pub(crate) gap: Pair<Option<Duration>>,
    /// How long a thread waited for the CPU, at most.
    pub(crate) late: Pair<Duration>,
    /// TCP segments that the client sent again.
    pub(crate) resent: Pair<u64>,
    /// The CPU's idle share.
    pub(crate) cpu: Pair<f64>,
    /// Until the (last) new director had the VIP.
    pub(crate) election: Option<Duration>,
    /// From then on, until each living node had answered a new connection.
    pub(crate) spread: Option<Duration>,
    /// What was classified, where every node directs.
    pub(crate) classified: Option<Pair<Classified>>,
    /// Until no more packets took a second hop.
    pub(crate) second_hops_end: Option<Duration>,
}

pub(crate) fn measure(way: &Way, nodes: usize, kind: Kind, progress: &mut Progress) -> Result<Measured> {
    with_cluster(way, nodes, progress, |mut stage| {
        let monitor = Monitor::start(&stage.cluster.client, stage.start);
        stage.prepare(kind)?;
        stage.step("sessions are opened");
        let active = [ACTIVE, PROBES].map(|group| stage.open_sessions(group));
        let mut idle = stage.open_sessions(IDLE);
        stage.pause(ACTIVE.over + AGE)?;
        active.iter().chain([&idle]).try_for_each(all_open)?;

        stage.step("nothing happens");
        let quiet = if matches!(kind, Kind::Moves | Kind::Handovers) { QUIET_BEFORE_MOVES } else { QUIET };
        stage.pause(if kind == Kind::Crash { quiet - YOUNG_FOR } else { quiet })?;
        let young = if kind == Kind::Crash {
            let young = stage.open_sessions(YOUNG);
            stage.pause(YOUNG_FOR)?;
            all_open(&young)?;
            Some(young)
        } else {
            None
        };

        let mut turn = stage.change(kind)?;
        // `lvs-node drain` and `undrain` run on one node after the other.
        let told = matches!(kind, Kind::Join | Kind::Drain).then(|| stage.start.elapsed());
        turn.until = told.unwrap_or(turn.last_change()) + AFTERMATH;
        stage.pause_until(turn.until)?;
        let active: Vec<Session> = active.into_iter().flat_map(Sessions::close).collect();
        let young = young.map(Sessions::close);

        stage.step("the idle sessions are asked");
        idle.ask(Duration::from_secs(1));
        stage.pause(Duration::from_secs(1) + REQUEST_LIMIT)?;
        let idle = idle.close();
        let seen = monitor.stop()?;
        count(stage, way, turn, Parts { active, idle, young }, &seen)
    })
}

pub(crate) fn all_open(sessions: &Sessions) -> Result<()> {
    let (opened, all) = (sessions.opened(), sessions.group.count);
    ensure!(opened == all, "only {opened} of {all} sessions could be opened while nothing happened");
    Ok(())
}

/// The sessions, each kind for itself.
struct Parts {
    active: Vec<Session>,
    idle: Vec<Session>,
    young: Option<Vec<Session>>,
}

impl Parts {
    fn all(&self) -> impl Iterator<Item = &Session> {
        self.active.iter().chain(&self.idle).chain(self.young.iter().flatten())
    }
}

fn count(stage: Stage, way: &Way, mut turn: Turn, parts: Parts, seen: &Seen) -> Result<Measured> {
    turn.sessions = parts.all().cloned().collect();
    let kind = turn.kind;
    let (quiet, change) = windows(&turn);
    let kept = |sessions: &[Session]| {
        let (is, of) = turn.kept(sessions);
        Count { is, of }
    };
    let (active, idle, young) = (kept(&parts.active), kept(&parts.idle), parts.young.as_deref().map(kept));
    let gap = |within| {
        let able = turn.able(&turn.sessions).filter(|session| session.kept(turn.until));
        able.filter_map(|session| session.gap(within)).max()
    };
    let gap = Pair { quiet: gap(&quiet), change: gap(&change) };
    let pair = |look: fn(&Seen, &Range<Duration>) -> Option<f64>| {
        let look = |within| look(seen, within).context("the guest's counters were not read");
        anyhow::Ok(Pair { quiet: look(&quiet)?, change: look(&change)? })
    };
    let (cpu, resent) = (pair(Seen::idle)?, pair(|seen, within| seen.resent(within).map(|count| count as f64))?);
    let late = Pair { quiet: seen.lateness(&quiet), change: seen.lateness(&change) };

    // Idle sessions were asked since the change.
    let now = stage.start.elapsed();
    let whole = stage.classified(&(turn.at..now));
    let classified = stage.classified(&quiet).zip(whole).map(|(quiet, whole)| Pair { quiet: quiet.0, change: whole.0 });
    let second_hops_end = whole.and_then(|(_, end)| end);

    let record = stage.finish(way, vec![turn])?;
    let turn = &record.turns[0];
    let (of, is) = record.requests(turn.at..turn.until);
    let asked = record.requests.iter().filter(|r| (turn.at..turn.until).contains(&r.sent));
    let slowest = asked.filter(|r| r.served.is_ok()).map(|r| r.done - r.sent).max().unwrap_or_default();
    let (election, spread) = (record.election(turn), record.spread(turn));
    let (scheduler, live_table) = (way.scheduler, way.live_table);
    let resent = Pair { quiet: resent.quiet as u64, change: resent.change as u64 };
    let new = Count { is, of };
    Ok(Measured {
        kind,
        scheduler,
        live_table,
        active,
        idle,
        young,
        new,
        slowest,
        gap,
        late,
        resent,
        cpu,
        election,
        spread,
        classified,
        second_hops_end,
        record,
    })
}

/// The change, and as much time before it. What a crash at its end does to sessions is no gap that
/// anybody could avoid.
fn windows(turn: &Turn) -> (Range<Duration>, Range<Duration>) {
    let end = if turn.kind == Kind::Crash { turn.until } else { turn.crash.unwrap_or(turn.until) };
    (turn.at.saturating_sub(end - turn.at)..turn.at, turn.at..end)
}

impl Measured {
    /// Everything, times in seconds.
    pub(crate) fn json(&self) -> Value {
        let count = |count: Count| json!({ "count": count.is, "of": count.of });
        let turn = &self.record.turns[0];
        let seconds = |time: Option<Duration>| time.map(|time| time.as_secs_f64());
        let cut = turn.crash.and_then(|at| self.record.cut(turn).map(|cut| cut - at));
        let pair =
            |pair: Pair<Duration>| json!({ "quiet": pair.quiet.as_secs_f64(), "change": pair.change.as_secs_f64() });
        json!({
            "way": self.record.name,
            "scheduler": self.scheduler.name(),
            "family": family().name(),
            "live_table": self.live_table,
            "nodes": self.record.nodes.len(),
            "story": self.kind.name(),
            "active_kept": count(self.active),
            "idle_kept": count(self.idle),
            "young_kept": self.young.map(count),
            "new_failed": count(self.new),
            "failures": self.record.failures(turn.at..turn.until)
                .map(|(at, kind)| json!([(at - turn.at).as_secs_f64(), kind.to_string()]))
                .collect::<Vec<_>>(),
            "new_slowest": self.slowest.as_secs_f64(),
            "longest_gap": { "quiet": seconds(self.gap.quiet), "change": seconds(self.gap.change) },
            "longest_wait_for_cpu": pair(self.late),
            "segments_sent_again": { "quiet": self.resent.quiet, "change": self.resent.change },
            "cpu_idle": { "quiet": self.cpu.quiet, "change": self.cpu.change },
            "until_vip": seconds(self.election),
            "until_cut": seconds(cut),
            "until_spread": seconds(self.spread),
            "packets": self.classified.map(|pair| json!({ "quiet": pair.quiet.packets, "change": pair.change.packets })),
            "second_hops": self.classified.map(|pair| {
                json!({ "quiet": pair.quiet.second_hops, "change": pair.change.second_hops })
            }),
            "until_no_second_hops": seconds(self.second_hops_end),
        })
    }
}
