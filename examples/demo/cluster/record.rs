//! What was recorded of one way, and everything that is counted from it.

use std::io;
use std::ops::Range;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::ways::Way;

/// What a node's kernel showed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct State {
    /// The interface has a carrier: the node can be reached.
    pub(crate) link: bool,
    /// This node directs: the VIP is on the interface, or the router has the node as a next hop.
    pub(crate) directs: bool,
    /// The VIP is on lo.
    pub(crate) on_loopback: bool,
    /// Real servers in the node's IPVS table.
    pub(crate) destinations: usize,
    /// It sends new sessions to other nodes, too: no fence holds.
    pub(crate) live: bool,
}

/// From `at` on, `node` was in `state`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sighting {
    pub(crate) at: Duration,
    pub(crate) node: usize,
    pub(crate) state: State,
}

/// One request of the client, on a connection of its own.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) sent: Duration,
    pub(crate) done: Duration,
    /// The node that answered, or why none did.
    pub(crate) served: Result<usize, io::ErrorKind>,
}

/// One connection that the client keeps, with a request every now and then.
#[derive(Clone, Debug)]
pub(crate) struct Session {
    pub(crate) node: usize,
    /// From an answer to the next request; `None`: it was silent until it was asked.
    pub(crate) every: Option<Duration>,
    /// When each answer came.
    pub(crate) answers: Vec<Duration>,
    /// How it broke, if it did.
    pub(crate) broken: Option<io::ErrorKind>,
}

/// What is done to the director.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Its priority is lowered.
    Move,
    /// Its keepalived is stopped; its host goes on serving.
    Stop,
    /// Its cable is pulled.
    Crash,
    /// Four planned moves in a row, and then a crash.
    Moves,
    /// It hands over itself (`lvs-node handover`) before its priority is lowered.
    Handover,
    /// Four handovers in a row, and then a crash.
    Handovers,
    /// A server that was out of service comes back, and its node becomes a next hop.
    Join,
    /// A node is no next hop any more, and then its server goes out of service.
    Drain,
}

/// A change of the director.
#[derive(Clone, Debug)]
pub(crate) struct Turn {
    pub(crate) kind: Kind,
    pub(crate) at: Duration,
    /// When a director crashed, and which, if one did.
    pub(crate) crash: Option<Duration>,
    pub(crate) dead: Option<usize>,
    /// The first director and the last.
    pub(crate) from: usize,
    pub(crate) to: usize,
    /// Until when its consequences were counted.
    pub(crate) until: Duration,
    /// The sessions that were open at the time.
    pub(crate) sessions: Vec<Session>,
}

/// Something else that was done.
#[derive(Clone, Debug)]
pub(crate) struct Mark {
    pub(crate) at: Duration,
    pub(crate) text: String,
}

/// Everything that happened on one way.
#[derive(Clone, Debug)]
pub(crate) struct Record {
    pub(crate) name: &'static str,
    pub(crate) title: &'static str,
    pub(crate) nodes: Vec<String>,
    pub(crate) length: Duration,
    pub(crate) requests: Vec<Request>,
    pub(crate) sightings: Vec<Sighting>,
    pub(crate) turns: Vec<Turn>,
    pub(crate) marks: Vec<Mark>,
}

/// A session that has not answered for this long beyond its time has fallen silent.
const SILENT: Duration = Duration::from_millis(500);

impl Kind {
    pub(crate) const ALL: [Kind; 8] =
        [Kind::Move, Kind::Handover, Kind::Stop, Kind::Crash, Kind::Moves, Kind::Handovers, Kind::Join, Kind::Drain];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Kind::Move => "move",
            Kind::Stop => "stop",
            Kind::Crash => "crash",
            Kind::Moves => "moves",
            Kind::Handover => "handover",
            Kind::Handovers => "handovers",
            Kind::Join => "join",
            Kind::Drain => "drain",
        }
    }

    pub(crate) fn title(self) -> &'static str {
        match self {
            Kind::Move => "planned move of the director",
            Kind::Stop => "graceful stop of the director's daemon",
            Kind::Crash => "crash of the director",
            Kind::Moves => "four moves in a row, then a crash",
            Kind::Handover => "planned move, handed over",
            Kind::Handovers => "four handovers in a row, then a crash",
            Kind::Join => "a server and its node join",
            Kind::Drain => "a node and its server are drained",
        }
    }

    pub(crate) fn crashes(self) -> bool {
        matches!(self, Kind::Crash | Kind::Moves | Kind::Handovers)
    }

    /// Whether it can happen on this way: the seed's director has no part in a handover, and nodes
    /// come and go one by one only where all of them direct.
    pub(crate) fn suits(self, way: &Way) -> bool {
        match self {
            Kind::Handover | Kind::Handovers => way.hands_over,
            Kind::Join | Kind::Drain => way.routes,
            _ => true,
        }
    }

    pub(crate) fn hands_over(self) -> bool {
        matches!(self, Kind::Handover | Kind::Handovers)
    }

    /// The same, in the way's best manner.
    pub(crate) fn planned(self, way: &Way) -> Kind {
        match self {
            Kind::Move if way.hands_over => Kind::Handover,
            Kind::Moves if way.hands_over => Kind::Handovers,
            kind => kind,
        }
    }
}

impl Session {
    /// Whether it still worked at `until`: answered lately, by the node that always did (else it
    /// would be broken). One that was silent has to have answered once more.
    pub(crate) fn kept(&self, until: Duration) -> bool {
        let answered = match self.every {
            Some(every) => self.answers.last().is_some_and(|&last| last + every + SILENT >= until),
            None => self.answers.len() > 1,
        };
        self.broken.is_none() && answered
    }

    /// The longest time between two answers of which the later came in `within`, beyond the time
    /// that the client itself waits.
    pub(crate) fn gap(&self, within: &Range<Duration>) -> Option<Duration> {
        let every = self.every?;
        let pairs = self.answers.windows(2).filter(|pair| within.contains(&pair[1]));
        pairs.map(|pair| (pair[1] - pair[0]).saturating_sub(every)).max()
    }
}

impl Turn {
    /// Those sessions that could be kept: a crashed node's own cannot.
    pub(crate) fn able<'a>(&self, sessions: &'a [Session]) -> impl Iterator<Item = &'a Session> + use<'a> {
        let dead = self.dead;
        sessions.iter().filter(move |session| dead != Some(session.node))
    }

    /// Sessions that worked to the end, of those that could.
    pub(crate) fn kept(&self, sessions: &[Session]) -> (usize, usize) {
        let able = self.able(sessions);
        able.fold((0, 0), |(kept, all), session| (kept + usize::from(session.kept(self.until)), all + 1))
    }

    /// Sessions that the crashed node served itself.
    pub(crate) fn buried(&self) -> usize {
        self.sessions.len() - self.able(&self.sessions).count()
    }

    /// The longest time that a session which was kept went without an answer.
    pub(crate) fn silence(&self) -> Option<Duration> {
        let kept = self.able(&self.sessions).filter(|s| s.kept(self.until));
        kept.map(|s| longest_gap(&s.answers, self.at..self.until)).max()
    }

    /// What had to be noticed, or was told last: the crash, or else the change itself.
    pub(crate) fn last_change(&self) -> Duration {
        self.crash.unwrap_or(self.at)
    }
}

impl Record {
    /// Each state of `node`, and when it had it.
    pub(crate) fn states(&self, node: usize) -> Vec<(Range<Duration>, State)> {
        let mine: Vec<&Sighting> = self.sightings.iter().filter(|s| s.node == node).collect();
        let end = |i: usize| mine.get(i + 1).map_or(self.length, |next| next.at);
        mine.iter().enumerate().map(|(i, s)| (s.at..end(i), s.state)).collect()
    }

    /// How long it took until the (last) new director was seen to direct; where all nodes direct,
    /// until the (last) old one did no more.
    pub(crate) fn election(&self, turn: &Turn) -> Option<Duration> {
        let at = turn.last_change();
        let before = self.sightings.iter().rfind(|s| s.node == turn.to && s.at < at);
        let (node, directs) = match before {
            Some(before) if before.state.directs => (turn.dead.unwrap_or(turn.from), false),
            _ => (turn.to, true),
        };
        let change = self.sightings.iter().find(|s| s.node == node && s.at >= at && s.state.directs == directs)?;
        Some(change.at - at)
    }

    /// When the dead node's interface was first seen without a carrier. Its cable is pulled by a
    /// program, which takes a while to start.
    pub(crate) fn cut(&self, turn: &Turn) -> Option<Duration> {
        let (dead, at) = turn.dead.zip(turn.crash)?;
        let seen = self.sightings.iter().find(|s| s.node == dead && s.at >= at && !s.state.link)?;
        Some(seen.at)
    }

    /// Returns the time from the VIP's arrival at the (last) new director until each living node
    /// has answered a request that was sent since.
    pub(crate) fn spread(&self, turn: &Turn) -> Option<Duration> {
        let vip = turn.last_change() + self.election(turn)?;
        let living = (0..self.nodes.len()).filter(|node| turn.dead != Some(*node));
        let first = |node| {
            let answers = self.requests.iter().filter(|r| r.sent >= vip && r.served == Ok(node));
            answers.map(|r| r.done).min()
        };
        let last = living.map(first).collect::<Option<Vec<_>>>()?.into_iter().max()?;
        Some(last - vip)
    }

    /// When `node` answered requests.
    pub(crate) fn served_by(&self, node: usize) -> impl Iterator<Item = Duration> {
        self.requests.iter().filter(move |r| r.served == Ok(node)).map(|r| r.done)
    }

    /// When those requests were sent that failed.
    pub(crate) fn failed(&self) -> impl Iterator<Item = Duration> {
        self.requests.iter().filter(|r| r.served.is_err()).map(|r| r.sent)
    }

    /// Requests sent in `when`: all, and those that failed.
    pub(crate) fn requests(&self, when: Range<Duration>) -> (usize, usize) {
        let sent = self.requests.iter().filter(|r| when.contains(&r.sent));
        (sent.clone().count(), sent.filter(|r| r.served.is_err()).count())
    }

    /// Requests that a new director has given to the node that crashed: those that failed although
    /// it had the VIP.
    pub(crate) fn given_to_the_dead(&self, turn: &Turn) -> Option<usize> {
        turn.dead?;
        let vip = turn.last_change() + self.election(turn)?;
        Some(self.requests(vip..turn.until).1)
    }

    /// How requests sent in `when` failed, each time.
    pub(crate) fn failures(&self, when: Range<Duration>) -> impl Iterator<Item = (Duration, io::ErrorKind)> {
        let sent = self.requests.iter().filter(move |r| when.contains(&r.sent));
        sent.filter_map(|r| r.served.err().map(|kind| (r.sent, kind)))
    }

    /// The longest time after a turn in which no request was answered.
    pub(crate) fn outage(&self, turn: &Turn) -> Duration {
        let mut answers: Vec<Duration> = self.requests.iter().filter(|r| r.served.is_ok()).map(|r| r.done).collect();
        answers.sort();
        longest_gap(&answers, turn.at..turn.until)
    }

    /// For how long after a turn the nodes that were up were seen in a state, added up.
    pub(crate) fn time_in(&self, turn: &Turn, is: fn(&State) -> bool) -> Duration {
        let within = |when: Range<Duration>| when.end.min(turn.until).saturating_sub(when.start.max(turn.at));
        let states = (0..self.nodes.len()).flat_map(|node| self.states(node));
        states.filter(|(_, state)| state.link && is(state)).map(|(when, _)| within(when)).sum()
    }

    /// What the picture's table says, for programs. Times are in seconds.
    pub(crate) fn summary(&self) -> Value {
        let turn = |turn: &Turn| {
            let (sent, failed) = self.requests(turn.at..turn.until);
            let (kept, able) = turn.kept(&turn.sessions);
            json!({
                "kind": turn.kind.name(),
                "from": self.nodes[turn.from],
                "to": self.nodes[turn.to],
                "until_vip": self.election(turn).map(|t| t.as_secs_f64()),
                "without_table": self.time_in(turn, State::without_table).as_secs_f64(),
                "without_vip": self.time_in(turn, State::without_vip).as_secs_f64(),
                "without_answer": self.outage(turn).as_secs_f64(),
                "requests": { "sent": sent, "failed": failed, "given_to_the_dead": self.given_to_the_dead(turn) },
                "sessions": { "kept": kept, "could_be_kept": able, "lost_with_their_server": turn.buried() },
            })
        };
        let served = (0..self.nodes.len()).map(|node| (self.nodes[node].clone(), json!(self.served_by(node).count())));
        json!({
            "way": self.name,
            "served": served.collect::<serde_json::Map<_, _>>(),
            "failed": self.failed().count(),
            "turns": self.turns.iter().map(turn).collect::<Vec<_>>(),
        })
    }

    /// Refuses a record that does not show what it is to show.
    pub(crate) fn check(&self) -> Result<()> {
        for turn in &self.turns {
            let from = &self.nodes[turn.from];
            let election = self.election(turn).with_context(|| format!("no node was seen to direct after {from}"))?;
            let after = turn.last_change() + election..turn.until;
            let served = self.requests.iter().filter(|r| after.contains(&r.sent) && r.served.is_ok()).count();
            ensure!(served > 0, "no request was answered after {} took over from {from}", self.nodes[turn.to]);
        }
        Ok(())
    }
}

impl State {
    /// Packets for the VIP that reach this node are dropped.
    pub(crate) fn without_vip(&self) -> bool {
        !self.directs && !self.on_loopback
    }

    /// This node directs, and has no other server: it serves all by itself.
    pub(crate) fn without_table(&self) -> bool {
        self.directs && self.destinations == 0
    }
}

fn longest_gap(times: &[Duration], within: Range<Duration>) -> Duration {
    let mut last = within.start;
    let mut longest = Duration::ZERO;
    for &time in times.iter().filter(|t| within.contains(t)).chain([&within.end]) {
        longest = longest.max(time - last);
        last = time;
    }
    longest
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    /// Two nodes; at 4 s the director moves from n1 to n2, which is without a table for 0.2 s, and
    /// n1 without the VIP for 0.3 s. Requests every 0.1 s, none answered for 1 s from the move on.
    pub(crate) fn record() -> Record {
        let state = |directs, on_loopback, destinations| State {
            link: true,
            directs,
            on_loopback,
            destinations,
            live: destinations > 0,
        };
        let sighting = |at, node, state| Sighting { at: ms(at), node, state };
        let request = |i: u64| {
            let failed = (40..50).contains(&i);
            let served = if failed { Err(io::ErrorKind::TimedOut) } else { Ok(i as usize % 2) };
            Request { sent: ms(i * 100), done: ms(i * 100 + 1), served }
        };
        let answers = |end: u64| (1..end).map(|i| ms(i * 100)).collect();
        let session = |node, end, broken| Session { node, every: Some(ms(100)), answers: answers(end), broken };
        Record {
            name: "test",
            title: "for tests",
            nodes: vec!["n1".into(), "n2".into()],
            length: ms(10_000),
            requests: (0..90).map(request).collect(),
            sightings: vec![
                sighting(0, 0, state(true, false, 2)),
                sighting(0, 1, state(false, true, 0)),
                sighting(4500, 1, state(true, false, 0)),
                sighting(4600, 0, state(false, false, 2)),
                sighting(4700, 1, state(true, false, 2)),
                sighting(4900, 0, state(false, true, 0)),
            ],
            turns: vec![Turn {
                kind: Kind::Move,
                at: ms(4000),
                crash: None,
                dead: None,
                from: 0,
                to: 1,
                until: ms(8000),
                sessions: vec![
                    session(0, 80, None),
                    session(1, 60, None),
                    session(1, 50, Some(io::ErrorKind::ConnectionReset)),
                ],
            }],
            marks: vec![Mark { at: ms(4000), text: "move off n1".into() }],
        }
    }

    #[test]
    fn new_connections_are_spread_once_each_node_has_answered_one() {
        // The VIP arrives at 4.5 s; the first request that is answered, of n1, is sent at 5.0 s,
        // and that of n2 at 5.1 s.
        let record = record();
        assert_eq!(record.spread(&record.turns[0]), Some(ms(601)));
    }

    #[test]
    fn a_session_is_kept_if_it_answers_to_the_end() {
        let turn = &record().turns[0];
        assert_eq!(turn.kept(&turn.sessions), (1, 3));
        assert_eq!(turn.silence(), Some(ms(100)));
    }

    #[test]
    fn a_crashed_nodes_own_sessions_count_apart() {
        let turn = Turn { kind: Kind::Crash, dead: Some(0), ..record().turns.remove(0) };
        assert_eq!(turn.buried(), 1);
        assert_eq!(turn.kept(&turn.sessions), (0, 2));
    }

    #[test]
    fn requests_that_fail_behind_a_crash_went_to_the_dead_node() {
        let record = record();
        assert_eq!(record.given_to_the_dead(&record.turns[0]), None);
        // Of those from 4.0 to 4.9 s that fail, the new director has the VIP from 4.5 s on.
        let turn = Turn { kind: Kind::Crash, dead: Some(0), ..super::tests::record().turns.remove(0) };
        assert_eq!(record.given_to_the_dead(&turn), Some(5));
    }

    #[test]
    fn a_silent_session_is_kept_if_it_answers_once_more() {
        let silent = |answers: &[u64], broken| Session {
            node: 0,
            every: None,
            answers: answers.iter().map(|&at| ms(at)).collect(),
            broken,
        };
        assert!(silent(&[100, 9000], None).kept(ms(9100)));
        assert!(!silent(&[100], None).kept(ms(200)));
        assert!(!silent(&[100, 9000], Some(io::ErrorKind::ConnectionReset)).kept(ms(9100)));
        assert_eq!(silent(&[100, 9000], None).gap(&(ms(0)..ms(9100))), None);
    }

    #[test]
    fn a_gap_is_what_is_longer_than_the_client_waits() {
        let answers = [100, 200, 310, 650, 750].map(ms).to_vec();
        let session = Session { node: 0, every: Some(ms(100)), answers, broken: None };
        assert_eq!(session.gap(&(ms(0)..ms(600))), Some(ms(10)));
        // It belongs to where it ends.
        assert_eq!(session.gap(&(ms(600)..ms(700))), Some(ms(240)));
        assert_eq!(session.gap(&(ms(700)..ms(800))), Some(ms(0)));
        assert_eq!(session.gap(&(ms(800)..ms(900))), None);
    }

    #[test]
    fn a_move_is_measured_from_what_was_seen() {
        let record = record();
        let turn = &record.turns[0];
        assert_eq!(record.election(turn), Some(ms(500)));
        assert_eq!(record.time_in(turn, State::without_table), ms(200));
        assert_eq!(record.time_in(turn, State::without_vip), ms(300));
        assert_eq!(record.requests(turn.at..turn.until), (40, 10));
        assert_eq!(record.outage(turn), ms(1001));
        record.check().unwrap();
    }

    #[test]
    fn a_record_in_which_nobody_took_over_is_refused() {
        let mut nobody = record();
        nobody.sightings.truncate(2);
        assert!(nobody.check().is_err());
        let mut nothing_served = record();
        nothing_served.requests.truncate(50);
        assert!(nothing_served.check().is_err());
    }
}
