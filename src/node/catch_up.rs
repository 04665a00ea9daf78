//! How a node that came late, or was deaf for a while, gets to know all connections of the
//! director. Pure.

use std::time::{Duration, Instant};

use super::beacon::Beacon;

/// Who does not hear the director for so long has missed sync messages too.
const DEAF: Duration = Duration::from_secs(4);
/// Without a director for so long there is no node to learn from.
const ALONE: Duration = Duration::from_secs(5);
/// Beacons keep a node out of elections for so long at most, counted from its start. A node that
/// lacks connections is better than none.
const LIMIT: Duration = Duration::from_secs(60);
/// A node that counts so few so often in a row has missed some; one that still does when it was
/// sent all counts otherwise than the director.
const PATIENCE: u32 = 5;
/// Datagrams can be lost: all connections are sent again, at most this often.
const TRIES: u32 = 5;

/// What a node knows, of what there is to know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct Learned {
    /// Connections known here.
    pub known: u64,
    /// Connections that the director has sent.
    pub of: u64,
}

/// How far a node is with learning the director's connections: from the beacons that it hears it
/// decides when to ask for all of them (again). Without a kernel or a clock of its own.
#[derive(Debug)]
pub(super) struct Learning {
    since: Instant,
    asks: bool,
    /// The director that was asked, and how often it had sent all connections before.
    base: Option<(u64, u64)>,
    tries: u32,
    heard_at: Option<Instant>,
    behind: u32,
    patience: u32,
}

impl Learning {
    /// A node that starts asks.
    pub(super) fn new(now: Instant) -> Self {
        Learning { since: now, asks: true, base: None, tries: 0, heard_at: None, behind: 0, patience: PATIENCE }
    }

    /// Whether the director is to tell of everything.
    pub(super) fn asks(&self) -> bool {
        self.asks
    }

    /// Whether this node may take part in elections: it knows all connections, or no director can
    /// send them. Whatever other nodes send, it may a minute after its start.
    pub(super) fn may_direct(&self, now: Instant) -> bool {
        if now.duration_since(self.since) >= LIMIT {
            return true;
        }
        let begin = self.heard_at.unwrap_or(self.since).max(self.since);
        !self.asks || now.duration_since(begin) > ALONE
    }

    /// A director knows what there is to know.
    pub(super) fn directs(&mut self) {
        self.asks = false;
    }

    /// Begins anew: sync messages may have been missed.
    pub(super) fn ask(&mut self) {
        (self.asks, self.base, self.tries, self.behind) = (true, None, 0, 0);
    }

    /// A beacon of the director came. Says whether what is known here is to be counted now, and to
    /// be passed to [`Learning::learned`] with the number that the director has sent.
    pub(super) fn heard(&mut self, now: Instant, director: &Beacon) -> bool {
        let before = self.heard_at.replace(now);
        if before.is_some_and(|before| now.duration_since(before) > DEAF) {
            self.ask();
        }
        let (times, _) = director.told;
        let told_before = self.base.replace((director.node, times));
        // What another director had sent before it was asked says nothing.
        let told = told_before.is_some_and(|(node, before)| node == director.node && times > before);
        self.asks && told
    }

    /// So many connections are known here, of those that the director has sent. Says when all is
    /// learned, or no more can be.
    pub(super) fn learned(&mut self, known: u64, of: u64) -> Option<Learned> {
        if !self.asks {
            return None;
        }
        self.tries += 1;
        self.asks = known < of && self.tries < TRIES;
        (!self.asks).then_some(Learned { known, of })
    }

    /// What is known here was counted, about once a second. Who falls behind for long asks again;
    /// if that does not help, more and more rarely.
    pub(super) fn counted(&mut self, learned: Learned) {
        let Learned { known, of } = learned;
        let behind = known.saturating_add(of / 10 + 20) < of;
        if !behind {
            self.patience = PATIENCE;
        }
        self.behind = if behind && !self.asks { self.behind + 1 } else { 0 };
        if self.behind >= self.patience {
            self.patience = self.patience.saturating_mul(2);
            self.ask();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::Role;

    const MS: Duration = Duration::from_millis(1);

    /// A beacon, and what is known where it is counted.
    fn heard(learning: &mut Learning, now: Instant, beacon: &Beacon, known: impl FnOnce() -> u64) -> Option<Learned> {
        if learning.heard(now, beacon) { learning.learned(known(), beacon.told.1) } else { None }
    }

    fn director(node: u64, told: (u64, u64)) -> Beacon {
        Beacon { id: 1, node, role: Role::Master, known: 100, told, wants: false }
    }

    #[test]
    fn it_asks_until_it_has_been_told_and_knows_as_many() {
        let now = Instant::now();
        let mut learning = Learning::new(now);
        assert!(learning.asks() && !learning.may_direct(now));
        // What was sent before it asked says nothing.
        assert_eq!(heard(&mut learning, now, &director(7, (3, 100)), || 100), None);
        assert_eq!(heard(&mut learning, now, &director(7, (3, 100)), || 100), None);
        // Some of it was lost.
        assert_eq!(heard(&mut learning, now, &director(7, (4, 100)), || 60), None);
        assert!(learning.asks());
        let learned = Learned { known: 100, of: 100 };
        assert_eq!(heard(&mut learning, now, &director(7, (5, 100)), || 100), Some(learned));
        assert!(!learning.asks() && learning.may_direct(now));
        // Nothing is counted any more.
        assert!(!learning.heard(now, &director(7, (6, 100))));
        assert_eq!(learning.learned(0, 100), None);
    }

    #[test]
    fn another_director_is_asked_anew_and_none_for_ever() {
        let now = Instant::now();
        let mut learning = Learning::new(now);
        heard(&mut learning, now, &director(7, (3, 100)), || 0);
        assert_eq!(heard(&mut learning, now, &director(8, (4, 0)), || 0), None);
        assert!(learning.asks());
        let answers: Vec<_> = (5..=9).map(|n| heard(&mut learning, now, &director(8, (n, 100)), || 9)).collect();
        assert_eq!(answers, [None, None, None, None, Some(Learned { known: 9, of: 100 })]);
        let mut alone = Learning::new(now);
        assert!(!alone.may_direct(now + ALONE) && alone.may_direct(now + ALONE + MS) && alone.asks());
        heard(&mut alone, now + 2 * ALONE, &director(7, (1, 1)), || 0);
        assert!(!alone.may_direct(now + 3 * ALONE) && alone.may_direct(now + 3 * ALONE + MS));
    }

    /// A director that never sends, one that claims ever more connections, ever other ones, and
    /// ones that fall silent.
    #[test]
    fn no_beacons_keep_a_node_out_of_elections_for_longer_than_a_minute() {
        let start = Instant::now();
        let second = Duration::from_secs(1);
        let strangers: [&dyn Fn(u32) -> Option<Beacon>; 5] = [
            &|_| Some(director(7, (1, u64::MAX))),
            &|n| Some(Beacon { known: u64::MAX, ..director(7, (n.into(), u64::MAX)) }),
            &|n| Some(director(n.into(), (n.into(), u64::MAX))),
            &|n| (n % 24 == 0).then(|| director(7, (n.into(), u64::MAX))),
            &|n| (n % 19 < 2).then(|| director((n % 2).into(), (1, 1))),
        ];
        for (number, stranger) in strangers.into_iter().enumerate() {
            let mut learning = Learning::new(start);
            let mut held_out = Duration::ZERO;
            for step in 0..1000 {
                let at = second / 4 * step;
                if let Some(beacon) = stranger(step) {
                    heard(&mut learning, start + at, &beacon, || 0);
                    learning.counted(Learned { known: 0, of: beacon.known });
                }
                learning.ask();
                if !learning.may_direct(start + at) {
                    held_out = at;
                }
            }
            assert!(held_out < LIMIT, "{number}: {held_out:?}");
            assert!(learning.asks());
        }
        // Within this time a node does wait for a director that has not sent its connections.
        let mut learning = Learning::new(start);
        for n in 0..59 {
            assert_eq!(heard(&mut learning, start + second * n, &director(7, (1, 1)), || 0), None);
        }
        assert!(!learning.may_direct(start + second * 59) && learning.may_direct(start + LIMIT));
    }

    #[test]
    fn who_was_deaf_or_falls_behind_asks_again() {
        let now = Instant::now();
        let mut learning = Learning::new(now);
        learning.directs();
        heard(&mut learning, now, &director(7, (1, 1)), || 0);
        heard(&mut learning, now + DEAF, &director(7, (1, 1)), || 0);
        assert!(!learning.asks());
        heard(&mut learning, now + 2 * DEAF + MS, &director(7, (1, 1)), || 0);
        assert!(learning.asks());
        let asks_after_of = |learning: &mut Learning, known, of| {
            learning.directs();
            (1..100).find(|_| {
                learning.counted(Learned { known, of });
                learning.asks()
            })
        };
        // A tenth and 20 may be missing: counts are not taken at the same time.
        for (known, of, asks) in [
            (95, 100, None),
            (70, 100, None),
            (69, 100, Some(5)),
            (880, 1000, None),
            (879, 1000, Some(5)),
            (0, 22, None),
            (0, 0, None),
            (u64::MAX, u64::MAX, None),
        ] {
            assert_eq!(asks_after_of(&mut Learning::new(now), known, of), asks, "{known} of {of}");
        }
        let asks_after = |learning: &mut Learning, known| asks_after_of(learning, known, 100);
        // Sending all again does not help.
        let counts = [5, 10, 20].map(Some);
        assert_eq!([(); 3].map(|()| asks_after(&mut learning, 10)), counts);
        assert_eq!(asks_after(&mut learning, 95), None);
        assert_eq!(asks_after(&mut learning, 10), Some(5));
        // Only counts in a row say so, and none of a node that asks.
        let mut learning = Learning::new(now);
        let count = |learning: &mut Learning, times, known| {
            (0..times).for_each(|_| learning.counted(Learned { known, of: 100 }));
        };
        count(&mut learning, PATIENCE - 1, 10);
        learning.directs();
        count(&mut learning, 1, 10);
        assert!(!learning.asks());
        count(&mut learning, 1, 95);
        count(&mut learning, PATIENCE - 1, 10);
        assert!(!learning.asks());
        count(&mut learning, 1, 10);
        assert!(learning.asks());
    }
}
