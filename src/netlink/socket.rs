//! The socket: request, dump, batch.

use std::fmt::Display;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_ACK_TLVS, NLM_F_CAPPED, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NLMSG_DONE, NLMSG_ERROR,
    NLMSG_NOOP, NLMSG_OVERRUN,
};
use netlink_sys::{SocketAddr, protocols};
use rustix::io::Errno;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{RecvFlags, recv};

use super::attribute::{attributes, string};
use super::route::RouteMessage;
use crate::error::{Cause, Error};

/// Requests in one send. About 277 failures fit the default receive buffer, so that 256 cannot
/// lose an answer.
pub(crate) const BATCH: usize = 256;

/// One receive takes this much. The kernel fills no more of it (`netlink_recvmsg()` in
/// net/netlink/af_netlink.c).
const RECEIVE: usize = 32 * 1024;

/// The least that a receive of generic netlink takes: a page or two, as much as the kernel fills
/// in any case (`NLMSG_GOODSIZE`).
const LEAST: usize = 8192;

/// A datagram with less room left than this was filled: there is more.
const ENTRY: usize = 1024;

/// `NLMSGERR_ATTR_MSG`: the kernel's words in an extended acknowledgement.
const ATTR_MESSAGE: u16 = 1;

/// `struct nlmsghdr`: length u32, type u16, flags u16, sequence number u32, port u32, in host
/// order.
const HEADER: usize = 16;

/// What came of one request of several.
pub(crate) type Outcome = Result<(), Failure>;

/// Why an exchange failed; the caller knows what it was about, see [`Failure::explain`].
#[derive(Debug)]
pub(crate) enum Failure {
    /// The kernel's answer: a positive errno, and its words where it gave any.
    Refused { errno: i32, message: Option<String> },
    /// The kernel has no such generic netlink family, and could not load it.
    NoFamily(&'static str),
    /// The socket itself failed.
    Socket(io::Error),
    /// No answer came within the time limit.
    NoAnswer(Duration),
    /// The answer cannot be read.
    Malformed(String),
}

impl Failure {
    pub(crate) fn errno(&self) -> Option<i32> {
        match self {
            Failure::Refused { errno, .. } => Some(*errno),
            _ => None,
        }
    }

    pub(crate) fn is_not_found(&self) -> bool {
        self.errno() == Some(Errno::NOENT.raw_os_error())
    }

    /// Makes the error that a user sees. `cause` says what an errno means for this operation.
    pub(crate) fn explain(
        self,
        operation: &'static str,
        object: impl Display,
        cause: impl FnOnce(i32) -> Cause,
    ) -> Error {
        let object = object.to_string();
        match self {
            Failure::Refused { errno, message } => {
                Error::Refused { operation, object, errno, cause: cause(errno), message }
            }
            Failure::NoFamily(name) => {
                let (errno, message) = (Errno::NOENT.raw_os_error(), Some(format!("no netlink family {name}")));
                Error::Refused { operation, object, errno, cause: Cause::NoIpvs, message }
            }
            Failure::Socket(error) => Error::System { operation, object, error },
            Failure::NoAnswer(waited) => Error::NoAnswer { operation, object, waited },
            Failure::Malformed(reason) => Error::Malformed { operation, object, reason },
        }
    }
}

/// A netlink socket, connected to the kernel: messages of other sockets do not reach it.
#[derive(Debug)]
pub(crate) struct Socket {
    // Never cloned: the crate's `Clone` shares one descriptor that each clone closes.
    inner: netlink_sys::Socket,
    sequence: u32,
    limit: Duration,
    /// What is sent, and what is received.
    requests: Vec<u8>,
    buffer: Vec<u8>,
    /// How much a receive takes. The kernel makes room for the most that was ever asked for, which
    /// costs more than many a list that comes in it.
    piece: usize,
}

impl Socket {
    pub(crate) fn route(limit: Duration) -> io::Result<Self> {
        Self::open(protocols::NETLINK_ROUTE, limit, RECEIVE)
    }

    pub(crate) fn generic(limit: Duration) -> io::Result<Self> {
        Self::open(protocols::NETLINK_GENERIC, limit, LEAST.min(rustix::param::page_size()))
    }

    pub(crate) fn diag(limit: Duration) -> io::Result<Self> {
        Self::open(protocols::NETLINK_SOCK_DIAG, limit, RECEIVE)
    }

    /// Opens a socket in the calling thread's network namespace, where it stays.
    fn open(protocol: isize, limit: Duration, piece: usize) -> io::Result<Self> {
        let mut inner = netlink_sys::Socket::new(protocol)?;
        inner.bind(&SocketAddr::new(0, 0))?;
        inner.connect(&SocketAddr::new(0, 0))?;
        // Refusals then carry the kernel's words, and not our whole request.
        inner.set_cap_ack(true)?;
        inner.set_ext_ack(true)?;
        let mut socket = Socket { inner, sequence: 0, limit, requests: Vec::new(), buffer: vec![0; RECEIVE], piece };
        socket.set_limit(limit)?;
        Ok(socket)
    }

    /// Changes how long an answer may take. Zero: it is there when the request was sent.
    pub(super) fn set_limit(&mut self, limit: Duration) -> io::Result<()> {
        if !limit.is_zero() {
            set_socket_timeout(&self.inner, Timeout::Recv, Some(limit))?;
        }
        self.limit = limit;
        Ok(())
    }

    /// Whether the kernel lists only what matches the header of a question
    /// (`NETLINK_GET_STRICT_CHK`). Kernels before 4.20 list all.
    pub(super) fn filter_lists(&mut self, filters: bool) {
        let _ = self.inner.set_netlink_get_strict_chk(filters);
    }

    /// Sends one request, which `write` appends, as far as it is behind the netlink header, and
    /// whose type it returns. Shows type and octets of each answer (there is none, for most) until
    /// the kernel has acknowledged it.
    pub(crate) fn request(
        &mut self,
        flags: u16,
        mut write: impl FnMut(&mut Vec<u8>) -> u16,
        mut answer: impl FnMut(u16, &[u8]) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let sequences = self.send(1, NLM_F_REQUEST | flags, NLM_F_ACK, |_, octets| write(octets))?;
        self.receive(sequences, |_, _, reply| match reply {
            Reply::Entry(kind, octets) => answer(kind, octets).map(|()| Progress::More),
            Reply::End(outcome) => outcome.map(|()| Progress::Complete),
        })
    }

    /// Sends one request for a list and shows type and octets of its entries. Says whether the
    /// list is whole: `false` if the kernel noticed that it changed meanwhile (IPVS never
    /// notices).
    pub(crate) fn dump(
        &mut self,
        mut write: impl FnMut(&mut Vec<u8>) -> u16,
        mut entry: impl FnMut(u16, &[u8]) -> Result<(), Failure>,
    ) -> Result<bool, Failure> {
        let mut whole = true;
        let mut failed = None;
        let sequences = self.send(1, NLM_F_REQUEST | NLM_F_DUMP, 0, |_, octets| write(octets))?;
        self.receive(sequences, |_, flags, reply| {
            whole &= flags & NLM_F_DUMP_INTR == 0;
            match reply {
                // Read on to the end even so: a dump that is left half-read keeps the socket busy.
                Reply::Entry(kind, octets) => {
                    if failed.is_none() {
                        failed = entry(kind, octets).err();
                    }
                    Ok(Progress::More)
                }
                Reply::End(outcome) => outcome.map(|()| Progress::Complete),
            }
        })?;
        failed.map_or(Ok(whole), Err)
    }

    /// Sends up to [`BATCH`] requests with these flags at once, an acknowledgement asked for with
    /// the last only, and returns an outcome for each. `write` appends the request of this index,
    /// as in [`Socket::request`]. The kernel carries out all of them, also those behind one that
    /// failed.
    pub(crate) fn batch(
        &mut self,
        count: usize,
        flags: u16,
        write: impl FnMut(usize, &mut Vec<u8>) -> u16,
    ) -> Result<Vec<Outcome>, Failure> {
        debug_assert!(count <= BATCH);
        let mut outcomes: Vec<Outcome> = (0..count).map(|_| Ok(())).collect();
        if outcomes.is_empty() {
            return Ok(outcomes);
        }
        let sequences = self.send(count, NLM_F_REQUEST | flags, NLM_F_ACK, write)?;
        self.receive(sequences, |index, _, reply| {
            // Every failure answers under its own number; the last request answers in any case.
            if let Reply::End(outcome) = reply {
                outcomes[index] = outcome;
            }
            Ok(if index + 1 == outcomes.len() { Progress::Complete } else { Progress::More })
        })?;
        Ok(outcomes)
    }

    /// Sends requests in one go, with `last` set on the last one besides `flags`.
    fn send(
        &mut self,
        count: usize,
        flags: u16,
        last: u16,
        mut write: impl FnMut(usize, &mut Vec<u8>) -> u16,
    ) -> Result<Sequences, Failure> {
        let sequences = Sequences { first: self.sequence.wrapping_add(1), count: count as u32 };
        let octets = &mut self.requests;
        octets.clear();
        for index in 0..count {
            self.sequence = self.sequence.wrapping_add(1);
            let flags = if index + 1 == count { flags | last } else { flags };
            push_message(octets, flags, self.sequence, |octets| write(index, octets));
        }
        match self.inner.send(octets, 0) {
            Ok(sent) if sent == octets.len() => Ok(sequences),
            Ok(sent) => {
                Err(Failure::Socket(io::Error::other(format!("only {sent} of {} octets were sent", octets.len()))))
            }
            Err(error) => Err(Failure::Socket(error)),
        }
    }

    /// Receives the answers to these requests and hands each with its request's index and its
    /// flags to `on`, until that says that all is complete. Late answers to earlier requests are
    /// passed over.
    fn receive(
        &mut self,
        sequences: Sequences,
        mut on: impl FnMut(usize, u16, Reply<'_>) -> Result<Progress, Failure>,
    ) -> Result<(), Failure> {
        let mut last_answer = Instant::now();
        let flags = RecvFlags::TRUNC | if self.limit.is_zero() { RecvFlags::DONTWAIT } else { RecvFlags::empty() };
        loop {
            let length = match recv(&self.inner, &mut self.buffer[..self.piece], flags) {
                Ok((_, length)) => length,
                // Each signal begins the socket's time limit anew.
                Err(Errno::INTR) if last_answer.elapsed() <= self.limit => continue,
                Err(Errno::INTR | Errno::AGAIN) => return Err(Failure::NoAnswer(self.limit)),
                Err(error) => return Err(Failure::Socket(error.into())),
            };
            if length > self.piece {
                return Err(Failure::Malformed(format!("a message of {length} octets was cut to {}", self.piece)));
            }
            if length + ENTRY > self.piece {
                self.piece = self.buffer.len();
            }
            let mut rest = &self.buffer[..length];
            let mut ours = false;
            while rest.len() >= HEADER {
                let (message, behind) = Message::split(rest)?;
                rest = behind;
                let Some(index) = sequences.index_of(message.sequence) else { continue };
                ours = true;
                let Some(reply) = message.reply()? else { continue };
                if let Progress::Complete = on(index, message.flags, reply)? {
                    return Ok(());
                }
            }
            if ours {
                last_answer = Instant::now();
                continue;
            }
            // Answers to others keep the socket's own time limit from running out.
            if last_answer.elapsed() > self.limit {
                return Err(Failure::NoAnswer(self.limit));
            }
        }
    }
}

/// Appends a message, whose part behind the header `write` appends, and whose type it returns.
#[inline]
fn push_message(octets: &mut Vec<u8>, flags: u16, sequence: u32, write: impl FnOnce(&mut Vec<u8>) -> u16) {
    let start = octets.len();
    octets.extend_from_slice(&[0; HEADER]);
    let kind = write(octets);
    let length = (octets.len() - start) as u32;
    let header = &mut octets[start..start + HEADER];
    header[..4].copy_from_slice(&length.to_ne_bytes());
    header[4..6].copy_from_slice(&kind.to_ne_bytes());
    header[6..8].copy_from_slice(&flags.to_ne_bytes());
    header[8..12].copy_from_slice(&sequence.to_ne_bytes());
    octets.resize(octets.len().next_multiple_of(4), 0);
}

/// One request with these flags as octets, to be acknowledged. `write` as in [`Socket::request`].
pub(super) fn request_octets(flags: u16, write: impl FnOnce(&mut Vec<u8>) -> u16) -> Vec<u8> {
    let mut octets = Vec::new();
    push_message(&mut octets, NLM_F_REQUEST | NLM_F_ACK | flags, 0, write);
    octets
}

/// A socket that receives the kernel's notifications about routes, neighbours and interfaces, and
/// never waits for one.
#[derive(Debug)]
pub(crate) struct Listener {
    inner: netlink_sys::Socket,
    buffer: Vec<u8>,
}

/// The kernel keeps this much for a listener, in octets as socket(7) counts them
/// (`net.core.rmem_max` permitting).
const LISTENER_BUFFER: usize = 1 << 20;

impl Listener {
    /// Opens a socket in the calling thread's network namespace, where it stays. `groups` is a set
    /// of bits: group N is bit N-1.
    pub(crate) fn open(groups: u32) -> io::Result<Self> {
        let mut inner = netlink_sys::Socket::new(protocols::NETLINK_ROUTE)?;
        // More would be better, but less works: what is lost is reported.
        let _ = inner.set_rx_buf_sz(LISTENER_BUFFER as i32);
        inner.set_non_blocking(true)?;
        inner.bind(&SocketAddr::new(0, groups))?;
        Ok(Listener { inner, buffer: vec![0; RECEIVE] })
    }

    /// The messages of one datagram. `None`: there is none now.
    ///
    /// # Errors
    /// `ENOBUFS`: messages were lost. Also where a datagram was cut.
    pub(crate) fn receive(&mut self) -> io::Result<Option<Vec<RouteMessage>>> {
        let length = loop {
            match recv(&self.inner, &mut self.buffer[..], RecvFlags::TRUNC) {
                Ok((_, length)) => break length,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Ok(None),
                Err(error) => return Err(error.into()),
            }
        };
        // What does not fit is lost, too.
        let octets = self.buffer.get(..length).ok_or(Errno::NOBUFS)?;
        let (mut rest, mut messages) = (octets, Vec::new());
        while rest.len() >= HEADER {
            let Ok((message, behind)) = Message::split(rest) else { break };
            rest = behind;
            messages.push(RouteMessage::new(message.kind, message.payload));
        }
        Ok(Some(messages))
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.inner.as_fd()
    }
}

/// The sequence numbers of the requests in one send.
#[derive(Clone, Copy)]
struct Sequences {
    first: u32,
    count: u32,
}

impl Sequences {
    fn index_of(self, sequence: u32) -> Option<usize> {
        let index = sequence.wrapping_sub(self.first);
        (index < self.count).then_some(index as usize)
    }
}

enum Progress {
    More,
    Complete,
}

/// One message of a datagram.
#[derive(Debug)]
struct Message<'a> {
    kind: u16,
    flags: u16,
    sequence: u32,
    payload: &'a [u8],
}

/// What a message says.
#[derive(Debug)]
enum Reply<'a> {
    /// What was asked for, or one entry of a list: its type, and the octets behind the header.
    Entry(u16, &'a [u8]),
    /// The answer ends here: acknowledged, refused, or the end of a list.
    End(Outcome),
}

impl<'a> Message<'a> {
    /// Cuts the first message off, and the padding behind it.
    #[inline]
    fn split(octets: &'a [u8]) -> Result<(Self, &'a [u8]), Failure> {
        let malformed = || Failure::Malformed(format!("a message in the last {} octets is cut short", octets.len()));
        let &[l0, l1, l2, l3, k0, k1, f0, f1, s0, s1, s2, s3, ..] =
            octets.first_chunk::<HEADER>().ok_or_else(malformed)?;
        let length = u32::from_ne_bytes([l0, l1, l2, l3]) as usize;
        let message = Message {
            kind: u16::from_ne_bytes([k0, k1]),
            flags: u16::from_ne_bytes([f0, f1]),
            sequence: u32::from_ne_bytes([s0, s1, s2, s3]),
            payload: octets.get(HEADER..length).ok_or_else(malformed)?,
        };
        Ok((message, octets.get(length.next_multiple_of(4)..).unwrap_or_default()))
    }

    /// `None`: it says nothing.
    #[inline]
    fn reply(&self) -> Result<Option<Reply<'a>>, Failure> {
        Ok(Some(match self.kind {
            NLMSG_NOOP => return Ok(None),
            NLMSG_OVERRUN => return Err(Failure::Malformed("the kernel reports lost data (NLMSG_OVERRUN)".into())),
            // The kernel may leave out the code.
            NLMSG_DONE => Reply::End(outcome(self.code().unwrap_or(0), None)),
            NLMSG_ERROR => {
                let code = self.code().ok_or_else(|| Failure::Malformed("a refusal has no errno".into()))?;
                Reply::End(outcome(code, self.kernel_words()))
            }
            kind => Reply::Entry(kind, self.payload),
        }))
    }

    fn code(&self) -> Option<i32> {
        self.payload.first_chunk().map(|code| i32::from_ne_bytes(*code))
    }

    /// The message of an extended acknowledgement: it follows the errno and the request that it is
    /// about, of which only the header is sent back.
    fn kernel_words(&self) -> Option<String> {
        if self.flags & NLM_F_ACK_TLVS == 0 {
            return None;
        }
        let request = self.payload.get(4..)?;
        let length = u32::from_ne_bytes(*request.get(..HEADER)?.first_chunk()?) as usize;
        let skip = if self.flags & NLM_F_CAPPED != 0 { HEADER } else { length.next_multiple_of(4) };
        attributes(request.get(skip..)?).find(|(kind, _)| *kind == ATTR_MESSAGE).map(|(_, text)| string(text))
    }
}

/// Reads all entries in a datagram, as [`Socket::receive`] does, whatever they answer.
#[cfg(any(fuzzing, test))]
pub(crate) fn read_datagram(octets: &[u8], mut entry: impl FnMut(&[u8])) {
    let mut rest = octets;
    while rest.len() >= HEADER {
        let Ok((message, behind)) = Message::split(rest) else { return };
        rest = behind;
        if let Ok(Some(Reply::Entry(_, found))) = message.reply() {
            entry(found);
        }
    }
}

/// What the acknowledgement in a datagram says.
pub(super) fn acknowledgement(datagram: &[u8]) -> Outcome {
    match Message::split(datagram)?.0.reply()? {
        Some(Reply::End(outcome)) => outcome,
        _ => Err(Failure::Malformed("it is no acknowledgement".into())),
    }
}

fn outcome(code: i32, message: Option<String>) -> Outcome {
    match code {
        0 => Ok(()),
        code => Err(Failure::Refused { errno: code.saturating_neg(), message }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: u16, flags: u16, payload: &[u8]) -> Vec<u8> {
        let length = (HEADER + payload.len()) as u32;
        [&length.to_ne_bytes()[..], &kind.to_ne_bytes(), &flags.to_ne_bytes(), &[0; 8], payload].concat()
    }

    fn get_addresses(octets: &mut Vec<u8>) -> u16 {
        octets.extend([0; 8]);
        libc::RTM_GETADDR
    }

    fn new_address(octets: &mut Vec<u8>) -> u16 {
        octets.extend([0; 8]);
        libc::RTM_NEWADDR
    }

    #[test]
    fn a_refusal_carries_errno_and_the_kernels_words() {
        let mut payload = (-17i32).to_ne_bytes().to_vec();
        payload.extend([16, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        payload.extend([10, 0, 1, 0]);
        payload.extend(b"there\0\0\0");
        let bytes = message(NLMSG_ERROR, NLM_F_CAPPED | NLM_F_ACK_TLVS, &payload);
        let (message, rest) = Message::split(&bytes).unwrap();
        assert!(rest.is_empty());
        match message.reply().unwrap() {
            Some(Reply::End(Err(Failure::Refused { errno: 17, message: Some(words) }))) => assert_eq!(words, "there"),
            _ => panic!("not read as a refusal"),
        }
    }

    #[test]
    fn no_octets_make_the_reader_panic() {
        // Every message of up to 40 octets of one value, with each type and flag that is treated
        // by itself.
        for kind in [NLMSG_NOOP, NLMSG_ERROR, NLMSG_DONE, NLMSG_OVERRUN, 99] {
            for flags in [0, NLM_F_CAPPED, NLM_F_ACK_TLVS, NLM_F_CAPPED | NLM_F_ACK_TLVS] {
                for length in 0..40 {
                    for value in [0, 1, 4, 16, 0x7f, 0x80, 0xff] {
                        let bytes = message(kind, flags, &vec![value; length]);
                        let (message, _) = Message::split(&bytes).unwrap();
                        let _ = message.reply();
                        let _ = Message::split(&vec![value; length]).map(|(message, _)| message.reply().is_ok());
                    }
                }
            }
        }
    }

    #[test]
    fn sequence_numbers_wrap() {
        let sequences = Sequences { first: u32::MAX, count: 3 };
        assert_eq!(
            [u32::MAX, 0, 1, 2, u32::MAX - 1].map(|n| sequences.index_of(n)),
            [Some(0), Some(1), Some(2), None, None]
        );
    }

    #[test]
    fn an_answer_that_never_comes_ends_in_time() {
        let mut socket = Socket::route(Duration::from_millis(50)).unwrap();
        // Nothing was asked.
        let waiting = socket.receive(Sequences { first: 7, count: 1 }, |_, _, _| Ok(Progress::Complete));
        assert!(matches!(waiting, Err(Failure::NoAnswer(_))), "{waiting:?}");
        let error = waiting.unwrap_err().explain("add service", "tcp 192.0.2.1:80", |_| Cause::Other);
        assert!(
            matches!(error, Error::NoAnswer { .. }) && error.to_string().contains("read the state back"),
            "{error}"
        );
    }

    #[test]
    fn an_answer_that_was_cut_is_seen() {
        let mut socket = Socket::route(Duration::from_secs(5)).unwrap();
        socket.piece = 20;
        let cut = socket.dump(get_addresses, |_, _| Ok(()));
        assert!(matches!(&cut, Err(Failure::Malformed(reason)) if reason.contains("was cut")), "{cut:?}");
    }

    #[test]
    fn late_answers_to_earlier_requests_are_passed_over() {
        let mut socket = Socket::route(Duration::from_secs(5)).unwrap();
        // Sent, and its answer never taken.
        socket.send(1, NLM_F_REQUEST, NLM_F_ACK, |_, octets| new_address(octets)).unwrap();
        let mut entries = 0;
        let count = |_, _: &[u8]| {
            entries += 1;
            Ok(())
        };
        assert!(socket.dump(get_addresses, count).unwrap());
        assert!(entries > 0);
    }

    #[test]
    fn the_kernel_answers() {
        let mut socket = Socket::route(Duration::from_secs(5)).unwrap();
        let mut entries = 0;
        let whole = socket
            .dump(get_addresses, |_, _| {
                entries += 1;
                Ok(())
            })
            .unwrap();
        assert!(whole && entries > 0, "{entries} addresses");
        let refused = socket.request(0, new_address, |_, _| Ok(()));
        assert!(matches!(refused, Err(Failure::Refused { .. })), "{refused:?}");
    }
}
