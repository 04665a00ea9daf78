//! Proves that a text comes from a node that has the cluster's key, and that it is not an old one
//! sent again. Pure.
//!
//! A sealed text has a second line:
//!
//! ```text
//! lvs-dr-seal-1 SENDER COUNT ANSWERS CODE
//! ```
//!
//! - SENDER is a random number, another one at each start.
//! - COUNT rises with each text of the sender.
//! - ANSWERS are SENDER numbers that this node has received lately, with commas between them, or
//!   `-`.
//! - CODE is the first half of HMAC-SHA256 of all that stands before it (RFC 2104, RFC 4868).
//!
//! A node accepts the texts of a sender once one of them answers the node's own number: it was
//! made after the node's start. From then on the count must rise. So a text that was recorded is
//! not accepted again, not even of a node that has died or of an earlier start, and no clock is
//! needed: nodes' clocks may differ, and jump.
//!
//! Two nodes that start to hear each other accept each other's texts after each has sent two,
//! within two seconds.
//!
//! A host that controls the link can still suppress texts, and delay them. The kernel's sync
//! messages have no seal.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use crate::error::{Error, Result};
use crate::hmac::hmac_sha256;

const FIRST_WORD: &str = "\nlvs-dr-seal-1 ";

/// The shortest key, in octets.
const KEY_LENGTH: usize = 16;

/// How many senders a text answers. The others are answered by the next texts.
const ANSWERS: usize = 8;

/// So many senders are to be answered at most; each for this time after it was received.
const UNANSWERED: usize = 64;
const LATELY: Duration = Duration::from_secs(5);

/// So many senders are known at most. Then the node takes another number, and learns to know them
/// anew.
const KNOWN: usize = 256;

/// Minimum interval between two warnings.
const REMIND: Duration = Duration::from_secs(60);

/// The cluster's key.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Key(Vec<u8>);

impl Key {
    /// A key of at least 16 octets. A newline at the end is not part of it.
    ///
    /// # Errors
    /// [`Error::Invalid`]: it is shorter.
    pub(super) fn new(octets: &[u8]) -> Result<Self> {
        let octets = octets.strip_suffix(b"\n").unwrap_or(octets);
        match octets.len() {
            KEY_LENGTH.. => Ok(Key(octets.to_vec())),
            length => Err(Error::invalid(
                "sync key",
                format!("it has {length} octets, {KEY_LENGTH} or more were expected: `openssl rand -hex 32` makes one"),
            )),
        }
    }

    fn code(&self, text: &str) -> u128 {
        let [code, _] = halves(hmac_sha256(&self.0, text.as_bytes()));
        code
    }
}

/// The key is not printed.
impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key")
    }
}

fn halves(code: [u8; 32]) -> [u128; 2] {
    [0, 16].map(|from| u128::from_be_bytes(std::array::from_fn(|place| code[from + place])))
}

/// Why a text is not accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unsealed {
    /// It has no seal.
    NoSeal,
    /// Its seal was made with another key, or it was changed on the way.
    OtherKey,
    /// Its sender has not answered this node yet. A node that has just started, or an old text of
    /// one.
    NotMet,
    /// It was received before, or is one of this node's own.
    Repeated,
}

impl Unsealed {
    fn text(self) -> &'static str {
        match self {
            Unsealed::NoSeal => "it has no key, and this node has one",
            Unsealed::OtherKey => "it has another key than this node",
            Unsealed::NotMet => "its sender does not answer",
            Unsealed::Repeated => "it was sent before",
        }
    }
}

/// What a node needs to seal its texts and to accept those of others. Without a key texts have no
/// seal, and each is accepted.
#[derive(Debug)]
pub(super) struct Seal {
    key: Option<Key>,
    number: u64,
    count: u64,
    /// The senders that have answered this node's number, and the count of the latest text of
    /// each.
    known: BTreeMap<u64, u64>,
    /// The senders to be answered, and when each was received.
    unanswered: VecDeque<(u64, Instant)>,
    refused: Refused,
}

#[derive(Debug, Default)]
struct Refused {
    total: u64,
    since_warning: u64,
    last: Option<(IpAddr, Unsealed)>,
    warned: Option<Instant>,
}

impl Seal {
    /// `number`: a random one.
    pub(super) fn new(key: Option<Key>, number: u64) -> Self {
        let (known, unanswered) = (BTreeMap::new(), VecDeque::new());
        Seal { key, number, count: 0, known, unanswered, refused: Refused::default() }
    }

    /// The text as it is sent: with a key, sealed.
    pub(super) fn close(&mut self, now: Instant, text: String) -> String {
        let Some(key) = &self.key else { return text };
        self.unanswered.retain(|(_, at)| now.duration_since(*at) < LATELY);
        let answered = self.unanswered.len().min(ANSWERS);
        let answers: Vec<String> =
            self.unanswered.iter().take(answered).map(|(sender, _)| format!("{sender:x}")).collect();
        self.unanswered.rotate_left(answered);
        let answers = if answers.is_empty() { "-".to_owned() } else { answers.join(",") };
        self.count += 1;
        let text = format!("{text}{FIRST_WORD}{:x} {:x} {answers} ", self.number, self.count);
        let code = key.code(&text);
        format!("{text}{code:032x}")
    }

    /// The text of a datagram without its seal.
    pub(super) fn text(datagram: &str) -> &str {
        datagram.split_once(FIRST_WORD).map_or(datagram, |(text, _)| text)
    }

    /// Whether the datagram is to be believed. A node without a key believes each, also those with
    /// a seal, so that a cluster can be given a key node by node.
    pub(super) fn open(&mut self, now: Instant, datagram: &str) -> Result<(), Unsealed> {
        let Some(key) = &self.key else { return Ok(()) };
        let (_, seal) = datagram.split_once(FIRST_WORD).ok_or(Unsealed::NoSeal)?;
        let before = &datagram[..datagram.rfind(' ').map_or(0, |end| end + 1)];
        let read = || {
            let mut words = seal.split(' ');
            let sender = u64::from_str_radix(words.next()?, 16).ok()?;
            let count = u64::from_str_radix(words.next()?, 16).ok()?;
            let answers = words.next()?;
            let code = words.next().filter(|code| code.len() == 32)?;
            let code = u128::from_str_radix(code, 16).ok()?;
            words.next().is_none().then_some((sender, count, answers, code))
        };
        let (sender, count, answers, code) = read().ok_or(Unsealed::OtherKey)?;
        // Compared as numbers, it takes the same time wherever they differ.
        if key.code(before) != code {
            return Err(Unsealed::OtherKey);
        }
        if sender == self.number {
            return Err(Unsealed::Repeated);
        }
        if !self.unanswered.iter().any(|(known, _)| *known == sender) {
            // The last ones were answered by the latest text.
            if self.unanswered.len() >= UNANSWERED {
                self.unanswered.pop_back();
            }
            self.unanswered.push_front((sender, now));
        }
        let answers_this = || answers.split(',').any(|number| u64::from_str_radix(number, 16) == Ok(self.number));
        match self.known.get(&sender) {
            Some(latest) if count <= *latest => return Err(Unsealed::Repeated),
            None if !answers_this() => return Err(Unsealed::NotMet),
            _ => {}
        }
        if self.known.len() >= KNOWN && !self.known.contains_key(&sender) {
            // To forget a sender alone would be to accept its old texts again: those that answer
            // this number.
            let [next, _] = halves(hmac_sha256(&key.0, format!("number after {:x}", self.number).as_bytes()));
            (self.number, self.count) = (next as u64, 0);
            self.known.clear();
            return Err(Unsealed::NotMet);
        }
        self.known.insert(sender, count);
        Ok(())
    }

    /// Counts a text that was not accepted, for [`Seal::warning`].
    pub(super) fn refuse(&mut self, from: IpAddr, reason: Unsealed) {
        // A node that has just started is not met at first.
        if reason != Unsealed::NotMet {
            let refused = &mut self.refused;
            (refused.total, refused.since_warning) = (refused.total + 1, refused.since_warning + 1);
            refused.last = Some((from, reason));
        }
    }

    /// How many texts were refused.
    pub(super) fn refused(&self) -> u64 {
        self.refused.total
    }

    /// What to warn of, once a minute at most.
    pub(super) fn warning(&mut self, now: Instant) -> Option<String> {
        let refused = &mut self.refused;
        if refused.since_warning == 0 || refused.warned.is_some_and(|warned| now.duration_since(warned) < REMIND) {
            return None;
        }
        let (from, reason) = refused.last?;
        let count = std::mem::take(&mut refused.since_warning);
        refused.warned = Some(now);
        Some(format!(
            "{count} beacons were ignored, the last one from {from}: {}; all nodes of a cluster need the same [sync] key_file, and \
             another cluster another [sync] id",
            reason.text()
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn key(text: &str) -> Option<Key> {
        Some(Key::new(text.as_bytes()).unwrap())
    }

    fn seal(number: u64) -> Seal {
        Seal::new(key("0123456789abcdef"), number)
    }

    fn from() -> IpAddr {
        "192.0.2.13".parse().unwrap()
    }

    /// Two nodes that accept each other's texts.
    fn pair(now: Instant) -> [Seal; 2] {
        let (mut a, mut b) = (seal(0xa), seal(0xb));
        assert_eq!(b.open(now, &a.close(now, "one".into())), Err(Unsealed::NotMet));
        assert_eq!(a.open(now, &b.close(now, "two".into())), Ok(()));
        assert_eq!(b.open(now, &a.close(now, "three".into())), Ok(()));
        [a, b]
    }

    #[test]
    fn keys() {
        assert!(Key::new(b"0123456789abcde").is_err() && Key::new(b"0123456789abcde\n").is_err());
        assert_eq!(Key::new(b"0123456789abcdef\n").unwrap(), Key::new(b"0123456789abcdef").unwrap());
        let key = Key::new(&[0xff; 100]).unwrap();
        assert_eq!(format!("{key:?}"), "Key");
        // RFC 4231, test case 6 and 2: a key longer than a block, and "Jefe" is too short here.
        let code = Key(vec![0xaa; 131]).code("Test Using Larger Than Block-Size Key - Hash Key First");
        assert_eq!(code, 0x60e4_3159_1ee0_b67f_0d8a_26aa_cbf5_b77f);
        assert_eq!(
            Key(b"Jefe".to_vec()).code("what do ya want for nothing?"),
            0x5bdc_c146_bf60_754e_6a04_2426_0895_75c7
        );
    }

    #[test]
    fn without_a_key_all_is_as_before() {
        let now = Instant::now();
        let mut plain = Seal::new(None, 1);
        assert_eq!(plain.close(now, "text".into()), "text");
        let sealed = seal(2).close(now, "text".into());
        for datagram in ["text", &sealed, "", "text\nlvs-dr-seal-1 x"] {
            assert_eq!(plain.open(now, datagram), Ok(()));
        }
        assert_eq!([Seal::text("text"), Seal::text(&sealed), Seal::text("")], ["text", "text", ""]);
    }

    #[test]
    fn texts_without_a_seal_of_another_key_or_changed_are_refused() {
        let now = Instant::now();
        let [mut a, mut b] = pair(now);
        assert_eq!(b.open(now, "text"), Err(Unsealed::NoSeal));
        assert_eq!(b.open(now, ""), Err(Unsealed::NoSeal));
        let mut other = Seal::new(key("0123456789abcdeF"), 3);
        assert_eq!(b.open(now, &other.close(now, "text".into())), Err(Unsealed::OtherKey));
        let sealed = a.close(now, "lvs-dr-beacon-1 254 7f3a master 1000 3 990 -".into());
        for place in 0..sealed.len() {
            let cut = b.open(now, &sealed[..place]);
            assert!(matches!(cut, Err(Unsealed::NoSeal | Unsealed::OtherKey)), "{place}: {cut:?}");
            for octet in [b' ', b'0', b'a', b'f', b'\n', b'F'] {
                let mut changed = sealed.clone().into_bytes();
                if changed[place].eq_ignore_ascii_case(&octet) {
                    continue;
                }
                changed[place] = octet;
                let found = b.open(now, str::from_utf8(&changed).unwrap());
                assert!(matches!(found, Err(Unsealed::NoSeal | Unsealed::OtherKey)), "{place} {octet}: {found:?}");
            }
        }
        for more in [" ", " 0", "\n", &sealed] {
            assert!(b.open(now, &format!("{sealed}{more}")).is_err(), "{more:?}");
        }
        assert_eq!(b.open(now, &sealed), Ok(()));
        assert_eq!(Seal::text(&sealed), "lvs-dr-beacon-1 254 7f3a master 1000 3 990 -");
    }

    #[test]
    fn what_was_recorded_is_not_accepted_again() {
        let now = Instant::now();
        let [mut a, mut b] = pair(now);
        let mut recorded: Vec<String> = (0..9).map(|_| a.close(now, "text".into())).collect();
        for text in &recorded {
            assert_eq!(b.open(now, text), Ok(()));
        }
        // Out of order, or a long time afterwards, or its own.
        for text in &recorded {
            assert_eq!(b.open(now + 3600 * SECOND, text), Err(Unsealed::Repeated));
        }
        let own = b.close(now, "text".into());
        assert_eq!(b.open(now, &own), Err(Unsealed::Repeated));
        // The first node dies, the second one is started again.
        recorded.push(own);
        let mut again = seal(0xbb);
        for text in &recorded {
            assert_eq!(again.open(now, text), Err(Unsealed::NotMet));
        }
        // Also after it has sent texts, which the recorded ones do not answer.
        again.close(now, "text".into());
        for text in &recorded {
            assert_eq!(again.open(now, text), Err(Unsealed::NotMet));
        }
        // And after it has met a node.
        let mut c = seal(0xc);
        assert_eq!(c.open(now, &again.close(now, "text".into())), Err(Unsealed::NotMet));
        assert_eq!(again.open(now, &c.close(now, "text".into())), Ok(()));
        for text in &recorded {
            assert_eq!(again.open(now, text), Err(Unsealed::NotMet));
        }
    }

    #[test]
    fn many_nodes_meet_within_two_seconds_of_beacons() {
        let now = Instant::now();
        let mut nodes: Vec<Seal> =
            (1..=10).map(|n| Seal::new(key("0123456789abcdef"), 0x1000_0000_0000_0000 * n + 7)).collect();
        let longest = nodes.iter_mut().map(|node| node.close(now, String::new()).len()).max().unwrap();
        let mut heard = 0;
        // A beacon and a presence each second.
        for round in 0..6 {
            heard = 0;
            for sender in 0..nodes.len() {
                let text = nodes[sender].close(now + SECOND * round / 2, "text".into());
                assert!(text.len() < longest + 200 && text.len() < 4 + 252, "{}", text.len());
                for (other, node) in nodes.iter_mut().enumerate() {
                    heard += usize::from(other != sender && node.open(now + SECOND * round / 2, &text).is_ok());
                }
            }
        }
        assert_eq!(heard, 90);
    }

    #[test]
    fn a_sender_is_answered_for_five_seconds() {
        let (now, mut a) = (Instant::now(), seal(0xa));
        for (after, answers) in [(LATELY - SECOND / 1000, " b 1 a "), (LATELY, " b 1 - ")] {
            let mut b = seal(0xb);
            assert_eq!(b.open(now, &a.close(now, "text".into())), Err(Unsealed::NotMet));
            let text = b.close(now + after, "text".into());
            assert!(text.contains(answers), "{text}");
        }
    }

    #[test]
    fn memory_is_bounded_and_old_texts_are_refused_when_it_is_full() {
        let now = Instant::now();
        let mut node = seal(1);
        let mut recorded = Vec::new();
        let meet = |node: &mut Seal, number: u64| {
            let mut other = seal(number);
            let _ = other.open(now, &node.close(now, "text".into()));
            let text = other.close(now, "text".into());
            let met = node.open(now, &text);
            (met, text)
        };
        for number in 1000..1000 + KNOWN as u64 {
            let (met, text) = meet(&mut node, number);
            assert_eq!(met, Ok(()));
            recorded.push(text);
        }
        assert_eq!((node.known.len(), node.unanswered.len()), (KNOWN, UNANSWERED));
        // One that is known still is.
        let mut known = seal(1000);
        known.count = 7;
        assert_eq!(node.open(now, &known.close(now, "text".into())), Ok(()));
        assert_eq!(meet(&mut node, 5).0, Err(Unsealed::NotMet));
        assert_eq!(node.known.len(), 0);
        for text in &recorded {
            assert_eq!(node.open(now, text), Err(Unsealed::NotMet));
        }
        assert_eq!(meet(&mut node, 6).0, Ok(()));
    }

    #[test]
    fn a_stranger_is_warned_of_once_a_minute() {
        let (now, mut node) = (Instant::now(), seal(1));
        assert_eq!(node.warning(now), None);
        node.refuse(from(), Unsealed::NotMet);
        assert_eq!((node.warning(now), node.refused()), (None, 0));
        let mut lines = Vec::new();
        for step in 0..1200 {
            let now = now + SECOND / 10 * step;
            node.refuse(from(), if step % 2 == 0 { Unsealed::NoSeal } else { Unsealed::OtherKey });
            lines.extend(node.warning(now));
        }
        assert_eq!((lines.len(), node.refused()), (2, 1200), "{lines:?}");
        assert!(
            lines[0].starts_with("1 beacons were ignored, the last one from 192.0.2.13: it has no key"),
            "{}",
            lines[0]
        );
        assert!(lines[1].starts_with("600 beacons"), "{}", lines[1]);
    }
}
