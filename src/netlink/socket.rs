//! The socket: request, dump, batch.

use std::fmt::Display;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use netlink_packet_core::{
    DoneBuffer, ErrorBuffer, NLM_F_ACK, NLM_F_ACK_TLVS, NLM_F_CAPPED, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST,
    NLMSG_DONE, NLMSG_ERROR, NLMSG_NOOP, NLMSG_OVERRUN, NetlinkBuffer, NetlinkDeserializable, NetlinkHeader,
    NetlinkMessage, NetlinkPayload, NetlinkSerializable, NlasIterator, Parseable,
};
use netlink_sys::{SocketAddr, protocols};
use rustix::io::Errno;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{RecvFlags, recv};

use super::route::RouteMessage;
use crate::error::{Cause, Error};

/// Requests in one send. About 277 failures fit the default receive buffer, so that 256 cannot
/// lose an answer.
pub(crate) const BATCH: usize = 256;

/// One receive takes this much. The kernel fills as much of it as there is, and zeroes that much
/// for each dump: larger makes many small dumps slower, smaller makes one large dump slower.
const RECEIVE: usize = 32 * 1024;

/// `NLMSGERR_ATTR_MSG`: the kernel's words in an extended acknowledgement.
const ATTR_MESSAGE: u16 = 1;

const HEADER: usize = 16;

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
    buffer: Vec<u8>,
}

impl Socket {
    pub(crate) fn route(limit: Duration) -> io::Result<Self> {
        Self::open(protocols::NETLINK_ROUTE, limit)
    }

    pub(crate) fn generic(limit: Duration) -> io::Result<Self> {
        Self::open(protocols::NETLINK_GENERIC, limit)
    }

    /// Opens a socket in the calling thread's network namespace, where it stays.
    fn open(protocol: isize, limit: Duration) -> io::Result<Self> {
        let mut inner = netlink_sys::Socket::new(protocol)?;
        inner.bind(&SocketAddr::new(0, 0))?;
        inner.connect(&SocketAddr::new(0, 0))?;
        // Refusals then carry the kernel's words, and not our whole request.
        inner.set_cap_ack(true)?;
        inner.set_ext_ack(true)?;
        set_socket_timeout(&inner, Timeout::Recv, Some(limit))?;
        Ok(Socket { inner, sequence: 0, limit, buffer: vec![0; RECEIVE] })
    }

    /// Sends one request and returns its answers (none, for most) once the kernel has acknowledged
    /// it.
    pub(crate) fn request<T>(&mut self, payload: T, flags: u16) -> Result<Vec<T>, Failure>
    where
        T: NetlinkSerializable + NetlinkDeserializable,
    {
        let mut answers = Vec::new();
        let sequences = self.send([payload], NLM_F_REQUEST | flags, NLM_F_ACK)?;
        self.receive(sequences, |_, _, reply| match reply {
            Reply::Entry(answer) => {
                answers.push(answer);
                Ok(Progress::More)
            }
            Reply::End(outcome) => outcome.map(|()| Progress::Complete),
        })?;
        Ok(answers)
    }

    /// Sends one request for a list and hands its entries to `entry`. Says whether the list is
    /// whole: `false` if the kernel noticed that it changed meanwhile (IPVS never notices).
    pub(crate) fn dump<T>(
        &mut self,
        payload: T,
        mut entry: impl FnMut(T) -> Result<(), Failure>,
    ) -> Result<bool, Failure>
    where
        T: NetlinkSerializable + NetlinkDeserializable,
    {
        let mut whole = true;
        let mut failed = None;
        let sequences = self.send([payload], NLM_F_REQUEST | NLM_F_DUMP, 0)?;
        self.receive(sequences, |_, flags, reply| {
            whole &= flags & NLM_F_DUMP_INTR == 0;
            match reply {
                // Read on to the end even so: a dump that is left half-read keeps the socket busy.
                Reply::Entry(found) => {
                    if failed.is_none() {
                        failed = entry(found).err();
                    }
                    Ok(Progress::More)
                }
                Reply::End(outcome) => outcome.map(|()| Progress::Complete),
            }
        })?;
        failed.map_or(Ok(whole), Err)
    }

    /// Sends up to [`BATCH`] requests with these flags at once, an acknowledgement asked for with
    /// the last only, and returns an outcome for each. The kernel carries out all of them, also
    /// those behind one that failed.
    pub(crate) fn batch<T>(&mut self, payloads: Vec<T>, flags: u16) -> Result<Vec<Result<(), Failure>>, Failure>
    where
        T: NetlinkSerializable + NetlinkDeserializable,
    {
        debug_assert!(payloads.len() <= BATCH);
        let mut outcomes: Vec<Result<(), Failure>> = payloads.iter().map(|_| Ok(())).collect();
        if outcomes.is_empty() {
            return Ok(outcomes);
        }
        let sequences = self.send(payloads, NLM_F_REQUEST | flags, NLM_F_ACK)?;
        self.receive::<T>(sequences, |index, _, reply| {
            // Every failure answers under its own number; the last request answers in any case.
            if let Reply::End(outcome) = reply {
                outcomes[index] = outcome;
            }
            Ok(if index + 1 == outcomes.len() { Progress::Complete } else { Progress::More })
        })?;
        Ok(outcomes)
    }

    /// Sends the requests in one go, with `last` set on the last one besides `flags`.
    fn send<T>(
        &mut self,
        payloads: impl IntoIterator<Item = T, IntoIter: ExactSizeIterator>,
        flags: u16,
        last: u16,
    ) -> Result<Sequences, Failure>
    where
        T: NetlinkSerializable,
    {
        let payloads = payloads.into_iter();
        let sequences = Sequences { first: self.sequence.wrapping_add(1), count: payloads.len() as u32 };
        let mut bytes = Vec::with_capacity(payloads.len() * 128);
        for (i, payload) in payloads.enumerate() {
            self.sequence = self.sequence.wrapping_add(1);
            let mut header = NetlinkHeader::default();
            header.flags = if i as u32 + 1 == sequences.count { flags | last } else { flags };
            header.sequence_number = self.sequence;
            let mut message = NetlinkMessage::new(header, NetlinkPayload::InnerMessage(payload));
            message.finalize();
            let start = bytes.len();
            bytes.resize(start + message.buffer_len().next_multiple_of(4), 0);
            message.serialize(&mut bytes[start..]);
        }
        match self.inner.send(&bytes, 0) {
            Ok(sent) if sent == bytes.len() => Ok(sequences),
            Ok(sent) => {
                Err(Failure::Socket(io::Error::other(format!("only {sent} of {} bytes were sent", bytes.len()))))
            }
            Err(error) => Err(Failure::Socket(error)),
        }
    }

    /// Receives the answers to these requests and hands each with its request's index and its
    /// flags to `on`, until that says that all is complete. Late answers to earlier requests are
    /// passed over.
    fn receive<T>(
        &mut self,
        sequences: Sequences,
        mut on: impl FnMut(usize, u16, Reply<T>) -> Result<Progress, Failure>,
    ) -> Result<(), Failure>
    where
        T: NetlinkDeserializable,
    {
        let mut last_answer = Instant::now();
        loop {
            let length = match recv(&self.inner, &mut self.buffer[..], RecvFlags::TRUNC) {
                Ok((_, length)) => length,
                // Each signal begins the socket's time limit anew.
                Err(Errno::INTR) if last_answer.elapsed() <= self.limit => continue,
                Err(Errno::INTR | Errno::AGAIN) => return Err(Failure::NoAnswer(self.limit)),
                Err(error) => return Err(Failure::Socket(error.into())),
            };
            let Some(mut rest) = self.buffer.get(..length) else {
                return Err(Failure::Malformed(format!(
                    "a message of {length} octets was cut to {}",
                    self.buffer.len()
                )));
            };
            let mut ours = false;
            while rest.len() >= HEADER {
                let (message, behind) = split_message(rest)?;
                rest = behind;
                let Some(index) = sequences.index_of(message.sequence_number()) else { continue };
                ours = true;
                let Some(reply) = Reply::read(&message)? else { continue };
                if let Progress::Complete = on(index, message.flags(), reply)? {
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
            let Ok((message, behind)) = split_message(rest) else { break };
            rest = behind;
            let header = NetlinkHeader::parse(&message).map_err(io::Error::other)?;
            let Ok(message) = RouteMessage::deserialize(&header, message.payload());
            messages.push(message);
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

/// One message of an answer.
enum Reply<T> {
    /// What was asked for, or one entry of a list.
    Entry(T),
    /// The answer ends here: acknowledged, refused, or the end of a list.
    End(Result<(), Failure>),
}

impl<T: NetlinkDeserializable> Reply<T> {
    fn read(message: &NetlinkBuffer<&[u8]>) -> Result<Option<Self>, Failure> {
        let payload = message.payload();
        Ok(Some(match message.message_type() {
            NLMSG_NOOP => return Ok(None),
            NLMSG_OVERRUN => return Err(Failure::Malformed("the kernel reports lost data (NLMSG_OVERRUN)".into())),
            NLMSG_DONE => {
                // The kernel may leave out the code.
                let code = DoneBuffer::new_checked(payload).map_or(0, |done| done.code());
                Reply::End(outcome(code, None))
            }
            NLMSG_ERROR => {
                let error = ErrorBuffer::new_checked(payload).map_err(|e| Failure::Malformed(e.to_string()))?;
                let code = error.code().map_or(0, |code| code.get());
                Reply::End(outcome(code, kernel_words(message.flags(), error.payload())))
            }
            _ => {
                let header = NetlinkHeader::parse(message).map_err(|e| Failure::Malformed(e.to_string()))?;
                Reply::Entry(T::deserialize(&header, payload).map_err(|e| Failure::Malformed(e.to_string()))?)
            }
        }))
    }
}

/// Reads all messages of a datagram, as [`Socket::receive`] does, whatever they answer.
#[cfg(any(fuzzing, test))]
pub(crate) fn read_datagram<T: NetlinkDeserializable>(octets: &[u8], mut entry: impl FnMut(T)) {
    let mut rest = octets;
    while rest.len() >= HEADER {
        let Ok((message, behind)) = split_message(rest) else { return };
        rest = behind;
        if let Ok(Some(Reply::Entry(found))) = Reply::read(&message) {
            entry(found);
        }
    }
}

/// What the acknowledgement in a datagram says.
pub(super) fn acknowledgement(datagram: &[u8]) -> Result<(), Failure> {
    let (message, _) = split_message(datagram)?;
    match Reply::<RouteMessage>::read(&message)? {
        Some(Reply::End(outcome)) => outcome,
        _ => Err(Failure::Malformed("it is no acknowledgement".into())),
    }
}

fn outcome(code: i32, message: Option<String>) -> Result<(), Failure> {
    match code {
        0 => Ok(()),
        code => Err(Failure::Refused { errno: code.saturating_neg(), message }),
    }
}

/// Cuts the first message off, and the padding behind it.
fn split_message(bytes: &[u8]) -> Result<(NetlinkBuffer<&[u8]>, &[u8]), Failure> {
    let message = NetlinkBuffer::new_checked(bytes).map_err(|e| Failure::Malformed(e.to_string()))?;
    let length = (message.length() as usize).next_multiple_of(4);
    Ok((message, bytes.get(length..).unwrap_or_default()))
}

/// The message of an extended acknowledgement: it follows the request that it is about, of which
/// only the header is sent back.
fn kernel_words(flags: u16, payload: &[u8]) -> Option<String> {
    if flags & NLM_F_ACK_TLVS == 0 {
        return None;
    }
    let request = NetlinkBuffer::new(payload.get(..HEADER)?);
    let skip = if flags & NLM_F_CAPPED != 0 { HEADER } else { (request.length() as usize).next_multiple_of(4) };
    let attributes = payload.get(skip..)?;
    NlasIterator::new(attributes).map_while(|a| a.ok()).find(|a| a.kind() == ATTR_MESSAGE).map(|a| {
        let text = a.value();
        String::from_utf8_lossy(text.strip_suffix(&[0]).unwrap_or(text)).into_owned()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A type that takes any octets.
    struct Raw;

    impl NetlinkDeserializable for Raw {
        type Error = io::Error;
        fn deserialize(_: &NetlinkHeader, _: &[u8]) -> io::Result<Self> {
            Ok(Raw)
        }
    }

    fn message(kind: u16, flags: u16, payload: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0; HEADER];
        bytes.extend(payload);
        let mut buffer = NetlinkBuffer::new(&mut bytes[..]);
        buffer.set_length(HEADER as u32 + payload.len() as u32);
        buffer.set_message_type(kind);
        buffer.set_flags(flags);
        bytes
    }

    #[test]
    fn a_refusal_carries_errno_and_the_kernels_words() {
        let mut payload = (-17i32).to_ne_bytes().to_vec();
        payload.extend([16, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        payload.extend([10, 0, 1, 0]);
        payload.extend(b"there\0\0\0");
        let bytes = message(NLMSG_ERROR, NLM_F_CAPPED | NLM_F_ACK_TLVS, &payload);
        let (message, rest) = split_message(&bytes).unwrap();
        assert!(rest.is_empty());
        match Reply::<Raw>::read(&message).unwrap() {
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
                        let (message, _) = split_message(&bytes).unwrap();
                        let _ = Reply::<Raw>::read(&message);
                        let _ = split_message(&vec![value; length]).map(|(m, _)| Reply::<Raw>::read(&m).is_ok());
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
        let waiting = socket.receive::<Raw>(Sequences { first: 7, count: 1 }, |_, _, _| Ok(Progress::Complete));
        assert!(matches!(waiting, Err(Failure::NoAnswer(_))), "{waiting:?}");
        let error = waiting.unwrap_err().explain("add service", "tcp 192.0.2.1:80", |_| Cause::Other);
        assert!(
            matches!(error, Error::NoAnswer { .. }) && error.to_string().contains("read the state back"),
            "{error}"
        );
    }

    #[test]
    fn an_answer_that_was_cut_is_seen() {
        use netlink_packet_route::{RouteNetlinkMessage, address::AddressMessage};
        let mut socket = Socket::route(Duration::from_secs(5)).unwrap();
        socket.buffer.truncate(20);
        let cut = socket.dump(RouteNetlinkMessage::GetAddress(AddressMessage::default()), |_| Ok(()));
        assert!(matches!(&cut, Err(Failure::Malformed(reason)) if reason.contains("was cut")), "{cut:?}");
    }

    #[test]
    fn late_answers_to_earlier_requests_are_passed_over() {
        use netlink_packet_route::{RouteNetlinkMessage, address::AddressMessage};
        let mut socket = Socket::route(Duration::from_secs(5)).unwrap();
        // Sent, and its answer never taken.
        socket.send([RouteNetlinkMessage::NewAddress(AddressMessage::default())], NLM_F_REQUEST, NLM_F_ACK).unwrap();
        let mut entries = 0;
        let count = |_: RouteNetlinkMessage| {
            entries += 1;
            Ok(())
        };
        assert!(socket.dump(RouteNetlinkMessage::GetAddress(AddressMessage::default()), count).unwrap());
        assert!(entries > 0);
    }

    #[test]
    fn the_kernel_answers() {
        use netlink_packet_route::{RouteNetlinkMessage, address::AddressMessage};
        let mut socket = Socket::route(Duration::from_secs(5)).unwrap();
        let mut entries = 0;
        let whole = socket
            .dump(RouteNetlinkMessage::GetAddress(AddressMessage::default()), |_| {
                entries += 1;
                Ok(())
            })
            .unwrap();
        assert!(whole && entries > 0, "{entries} addresses");
        let refused = socket.request(RouteNetlinkMessage::NewAddress(AddressMessage::default()), 0);
        assert!(matches!(refused, Err(Failure::Refused { .. })), "{refused:?}");
    }
}
