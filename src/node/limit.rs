//! Limits on what the packets of other nodes can cause. Pure.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// No cluster has more nodes.
const NODES: usize = 64;

/// A token bucket: so many at once, and then one each interval.
#[derive(Debug, Clone)]
pub(super) struct Bucket {
    capacity: u32,
    interval: Duration,
    tokens: u32,
    /// When the last token was added; `None`: the bucket is full.
    filled: Option<Instant>,
}

impl Bucket {
    /// A full bucket.
    pub(super) const fn new(capacity: u32, interval: Duration) -> Self {
        Bucket { capacity, interval, tokens: capacity, filled: None }
    }

    /// Whether there is a token.
    pub(super) fn has(&mut self, now: Instant) -> bool {
        self.fill(now);
        self.tokens > 0
    }

    /// Takes a token, if there is one.
    pub(super) fn take(&mut self, now: Instant) -> bool {
        let has = self.has(now);
        if has {
            self.tokens -= 1;
            self.filled.get_or_insert(now);
        }
        has
    }

    fn fill(&mut self, now: Instant) {
        let Some(filled) = self.filled else { return };
        let count = now.duration_since(filled).as_nanos() / self.interval.as_nanos().max(1);
        let count = u32::try_from(count).unwrap_or(u32::MAX);
        match count >= self.capacity - self.tokens {
            true => (self.tokens, self.filled) = (self.capacity, None),
            false => {
                self.tokens += count;
                self.filled = Some(filled + self.interval * count);
            }
        }
    }
}

/// Minimum interval between two resynchronisations.
const RESYNC: Duration = Duration::from_secs(1);

/// A node that asks within this time after a resynchronisation has not seen yet that it was done.
const JUST_SENT: Duration = Duration::from_millis(500);

/// So many resynchronisations can follow one another, for nodes that start one after another.
const BURST: u32 = 5;

/// Then there is one in this time, or in twenty times the time that one takes.
const INTERVAL: Duration = Duration::from_secs(20);
const SHARE: u32 = 20;

/// A node that asks again is not heard for this time, then twice as long, and so on.
const PAUSE: Duration = Duration::from_secs(2);
const LONGEST_PAUSE: Duration = Duration::from_secs(300);

/// When a director sends all its connections to the other nodes: each time some ask, but not as
/// often as they like.
///
/// All nodes receive what one of them has asked for, so that a node waits no longer because of
/// another one that asks too often.
#[derive(Debug)]
pub(super) struct ResyncRequests {
    wanted: bool,
    began: Option<Instant>,
    ended: Option<Instant>,
    bucket: Bucket,
    /// By the node's number.
    asking: BTreeMap<u64, Asking>,
}

#[derive(Debug, Clone, Copy)]
struct Asking {
    /// When it asked last.
    last: Instant,
    /// It asked since connections were sent last.
    waits: bool,
    /// Until then it is not heard, and the pause after the next time that it is served.
    unheard_until: Instant,
    pause: Duration,
}

impl Default for ResyncRequests {
    fn default() -> Self {
        let bucket = Bucket::new(BURST, INTERVAL);
        ResyncRequests { wanted: false, began: None, ended: None, bucket, asking: BTreeMap::new() }
    }
}

impl ResyncRequests {
    /// Another node asks, in a beacon.
    pub(super) fn ask(&mut self, now: Instant, node: u64) {
        let just_sent = self.began.is_some() || self.ended.is_some_and(|ended| now.duration_since(ended) < JUST_SENT);
        // If it has not learned all, it will ask again.
        if just_sent {
            return;
        }
        self.asking.retain(|_, asking| now.duration_since(asking.last) < 2 * LONGEST_PAUSE);
        if self.asking.len() >= NODES && !self.asking.contains_key(&node) {
            let oldest = self.asking.iter().min_by_key(|(_, asking)| asking.last).map(|(node, _)| *node);
            oldest.and_then(|oldest| self.asking.remove(&oldest));
        }
        let new = Asking { last: now, waits: false, unheard_until: now, pause: PAUSE };
        let asking = self.asking.entry(node).or_insert(new);
        asking.last = now;
        if now >= asking.unheard_until {
            asking.waits = true;
            self.wanted = true;
        }
    }

    /// This node has a reason of its own: sync messages may have been lost.
    pub(super) fn want(&mut self) {
        self.wanted = true;
    }

    /// Whether connections are to be sent now.
    pub(super) fn is_due(&mut self, now: Instant) -> bool {
        let lately = self.ended.is_some_and(|ended| now.duration_since(ended) < RESYNC);
        self.wanted && self.began.is_none() && !lately && self.bucket.has(now)
    }

    /// It has begun.
    pub(super) fn begin(&mut self, now: Instant) {
        self.bucket.take(now);
        (self.wanted, self.began) = (false, Some(now));
        for asking in self.asking.values_mut().filter(|asking| asking.waits) {
            asking.waits = false;
            asking.unheard_until = now + asking.pause;
            asking.pause = (2 * asking.pause).min(LONGEST_PAUSE);
        }
    }

    /// It has ended, with or without success.
    pub(super) fn end(&mut self, now: Instant) {
        let took = self.began.take().map_or(Duration::ZERO, |began| now.duration_since(began));
        self.bucket.interval = INTERVAL.max(took * SHARE);
        self.ended = Some(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn a_bucket_gives_so_many_at_once_and_then_one_each_interval() {
        let now = Instant::now();
        let mut bucket = Bucket::new(3, SECOND);
        let mut taken = |at: Duration, tries: usize| (0..tries).filter(|_| bucket.take(now + at)).count();
        assert_eq!(taken(Duration::ZERO, 10), 3);
        assert_eq!(taken(SECOND / 2, 10), 0);
        assert_eq!(taken(SECOND, 10), 1);
        // What is left over of an interval counts.
        assert_eq!(taken(SECOND * 5 / 2, 10), 1);
        assert_eq!(taken(SECOND * 3, 10), 1);
        assert_eq!(taken(SECOND * 100, 10), 3);
        assert_eq!(taken(SECOND * 100, 10), 0);
        // Nor is there more than a full bucket after a part of it was taken.
        assert_eq!(taken(SECOND * 200, 2), 2);
        assert_eq!(taken(SECOND * 202, 1), 1);
        assert_eq!(taken(SECOND * 204, 10), 3);
        assert_eq!([205, 207, 208].map(|at| taken(SECOND * at, 10)), [1, 2, 1]);
    }

    /// Simulates a director for so long: each quarter of a second `asks` names the nodes that ask.
    /// A resynchronisation takes `took`. Returns when each began.
    fn simulate(length: Duration, took: Duration, mut asks: impl FnMut(u32) -> Vec<u64>) -> Vec<Duration> {
        let (start, mut requests, mut began) = (Instant::now(), ResyncRequests::default(), Vec::new());
        let mut ends = None;
        for step in 0..length.as_millis() as u32 / 250 {
            let at = Duration::from_millis(250) * step;
            asks(step).into_iter().for_each(|node| requests.ask(start + at, node));
            if ends.is_some_and(|ends| ends <= at) {
                requests.end(start + at);
                ends = None;
            }
            if requests.is_due(start + at) {
                requests.begin(start + at);
                began.push(at);
                ends = Some(at + took);
            }
        }
        began
    }

    #[test]
    fn however_often_nodes_ask_the_director_has_little_to_do() {
        // 20 packets, each with another number.
        let began = simulate(30 * SECOND, SECOND / 4, |step| {
            if step % 5 == 0 && step < 100 { vec![1000 + u64::from(step)] } else { vec![] }
        });
        assert!((1..=6).contains(&began.len()), "{began:?}");
        for took in [SECOND / 4, 10 * SECOND] {
            let flood = simulate(3600 * SECOND, took, |step| vec![u64::from(step) * 2, u64::from(step) * 2 + 1]);
            let busy = took * flood.len() as u32;
            assert!(busy <= 3600 * SECOND / SHARE + 2 * BURST * took, "{busy:?} of an hour");
            // None of them keeps the director from sending.
            assert!(flood.len() as u64 >= 3600 / (20 * took.as_secs()).max(20) - 1, "{}", flood.len());
        }
        // One node that asks with each of its beacons.
        let one = simulate(3600 * SECOND, SECOND / 4, |step| if step % 4 == 0 { vec![7] } else { vec![] });
        assert!((8..=20).contains(&one.len()), "{one:?}");
    }

    #[test]
    fn nodes_that_start_are_served_at_once_also_beside_one_that_asks_too_often() {
        // Five nodes, started one after another, ask until they are served.
        let began = simulate(60 * SECOND, SECOND / 2, |step| {
            [0, 10, 20, 30, 40].into_iter().filter(|from| (*from..from + 3).contains(&step)).map(u64::from).collect()
        });
        let expected = [0, 10, 20, 30, 40].map(|step| step * SECOND / 4);
        assert_eq!(began, expected);
        // Datagrams are lost: a node asks five times in a minute, and is served each time.
        let lossy = simulate(60 * SECOND, SECOND / 2, |step| if step % 4 == 0 { vec![7] } else { vec![] });
        assert!(lossy.len() >= 5, "{lossy:?}");
        let mut asked = false;
        let served = |began: &[Duration]| began.iter().any(|at| *at >= 1000 * SECOND && *at <= 1021 * SECOND);
        let began = simulate(1100 * SECOND, SECOND / 2, |step| {
            asked |= step == 4000;
            if step == 4000 { vec![9, u64::from(step) + 100] } else { vec![u64::from(step) + 100] }
        });
        assert!(asked && served(&began), "{began:?}");
    }

    #[test]
    fn a_node_that_asks_while_connections_are_sent_is_not_served_twice() {
        let (now, mut requests) = (Instant::now(), ResyncRequests::default());
        requests.ask(now, 7);
        assert!(requests.is_due(now));
        requests.begin(now);
        requests.ask(now + SECOND, 8);
        requests.end(now + SECOND);
        requests.ask(now + SECOND + JUST_SENT - MS, 8);
        assert!(!requests.is_due(now + 9 * SECOND));
        requests.ask(now + SECOND + JUST_SENT, 8);
        assert!(!requests.is_due(now + SECOND + RESYNC - MS) && requests.is_due(now + SECOND + RESYNC));
        assert!(requests.is_due(now + 3 * SECOND));
        // A reason of its own has the same limits.
        requests.begin(now + 3 * SECOND);
        requests.want();
        assert!(!requests.is_due(now + 4 * SECOND));
        requests.end(now + 4 * SECOND);
        assert!(!requests.is_due(now + 4 * SECOND) && requests.is_due(now + 5 * SECOND));
    }

    /// A node that has asked for long while none directed has not been served yet.
    #[test]
    fn a_new_director_serves_those_that_have_waited() {
        let (now, mut requests) = (Instant::now(), ResyncRequests::default());
        (0..1000).for_each(|n| requests.ask(now + SECOND * n, 7));
        let at = |seconds: u32| now + SECOND * (1000 + seconds);
        assert!(requests.is_due(at(0)));
        requests.begin(at(0));
        requests.end(at(0));
        requests.ask(at(1), 7);
        assert!(!requests.is_due(at(1)));
        requests.ask(at(2), 7);
        assert!(requests.is_due(at(2)));
    }

    #[test]
    fn memory_is_bounded() {
        let (now, mut requests) = (Instant::now(), ResyncRequests::default());
        (0..2000).for_each(|n| requests.ask(now + SECOND * (n / 100), n.into()));
        assert_eq!(requests.asking.len(), NODES);
        requests.ask(now + 20 * SECOND, 1999);
        assert_eq!(requests.asking.len(), NODES);
        requests.ask(now + 3600 * SECOND, 1);
        assert_eq!(requests.asking.len(), 1);
    }

    /// At first 2 s. A node that did not ask for ten minutes starts anew.
    #[test]
    fn a_node_that_asks_again_waits_longer_each_time() {
        let (start, mut requests) = (Instant::now(), ResyncRequests::default());
        let serve = |at: Duration| {
            requests.ask(start + at, 7);
            assert!(requests.is_due(start + at), "{at:?}");
            requests.begin(start + at);
            requests.end(start + at);
            // How long it waits then.
            let asked = |wait: &u64| {
                requests.ask(start + at + SECOND * (*wait as u32), 7);
                requests.is_due(start + at + SECOND * (*wait as u32))
            };
            (1..=300).find(asked)
        };
        let waits = [Duration::ZERO, 2 * SECOND, 606 * SECOND - MS, 1214 * SECOND - MS].map(serve);
        assert_eq!(waits, [2, 4, 8, 2].map(Some));
    }
}
