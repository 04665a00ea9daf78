//! Requests that may have the kernel load modules, made by a process that lives for that.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::time::Instant;

use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType, recv, socketpair};

use super::TIME_LIMIT;
use super::process::{Process, Within};
use super::route::{RouteMessage, write};
use super::socket::{Failure, acknowledgement, request_octets};
use crate::background::Waits;

/// The longest answer that is looked at.
const ANSWER: usize = 4096;

/// Requests that a process makes one after the other: a loop is not held up while the kernel loads
/// modules for them.
#[derive(Debug)]
pub(crate) struct Trial {
    answers: Arc<OwnedFd>,
    /// Is killed with it.
    _process: Process,
}

impl Trial {
    /// Starts requests of rtnetlink, in a network namespace made for them.
    ///
    /// # Errors
    /// Those of socketpair(2) and fork(2).
    pub(crate) fn start(requests: impl IntoIterator<Item = RouteMessage>, flags: u16) -> io::Result<Self> {
        let octets = |request| request_octets(flags, |octets| write(&request, octets));
        let requests = requests.into_iter().map(octets).collect();
        Self::begin(libc::NETLINK_ROUTE, Within::OwnNamespace, requests)
    }

    /// Starts whole messages of this netlink protocol. The process begins in the network namespace
    /// of the calling thread.
    ///
    /// # Errors
    /// Those of socketpair(2) and fork(2).
    pub(super) fn begin(protocol: i32, within: Within, messages: Vec<Vec<u8>>) -> io::Result<Self> {
        let (answers, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        let child = || {
            // SAFETY: this is the child, and the socket is open in it.
            #[allow(unsafe_code)]
            unsafe {
                attempt(theirs.as_raw_fd(), protocol, within, &messages);
                libc::_exit(0)
            }
        };
        // SAFETY: `attempt` is written for it.
        #[allow(unsafe_code)]
        let process = unsafe { Process::fork(child) }?;
        Ok(Trial { answers: Arc::new(answers), _process: process })
    }

    /// Waits for the next answer until then: first that of the process itself, then one for each
    /// request.
    pub(crate) async fn answer(&mut self, waits: &Waits, until: Instant) -> Result<(), Failure> {
        let start = Instant::now();
        loop {
            match self.next() {
                Some(answer) => return answer,
                None if Instant::now() >= until => return Err(Failure::NoAnswer(start.elapsed())),
                None => waits.wait(Some(&self.answers), until).await,
            }
        }
    }

    /// `None`: it is not there yet.
    fn next(&mut self) -> Option<Result<(), Failure>> {
        let mut answer = [0; ANSWER];
        let length = match recv(&*self.answers, &mut answer, RecvFlags::DONTWAIT) {
            Err(Errno::AGAIN | Errno::INTR) => return None,
            Err(error) => return Some(Err(Failure::Socket(error.into()))),
            Ok((length, _)) => length,
        };
        Some(match answer[..length.min(ANSWER)] {
            [] => Err(Failure::Socket(io::ErrorKind::UnexpectedEof.into())),
            [0, 0, 0, 0] => Ok(()),
            [a, b, c, d] => Err(Failure::Socket(io::Error::from_raw_os_error(i32::from_ne_bytes([a, b, c, d])))),
            ref datagram => acknowledgement(datagram),
        })
    }
}

/// Sends the requests, and passes each answer on: four octets where it is an errno.
///
/// # Safety
/// Calls only functions that are async-signal-safe, and allocates nothing: see signal-safety(7).
#[allow(unsafe_code)]
unsafe fn attempt(to: RawFd, protocol: i32, within: Within, requests: &[Vec<u8>]) {
    let mut answer = [0_u8; ANSWER];
    // SAFETY: system calls with buffers that are there.
    unsafe {
        // The locks of the process that it comes from end with that, not with this one. Before
        // Linux 5.9 they end a little later.
        for (first, last) in [(0, to - 1), (to + 1, RawFd::MAX)] {
            if first <= last {
                libc::syscall(libc::SYS_close_range, first as libc::c_uint, last as libc::c_uint, 0);
            }
        }
        let send = |octets: *const u8, length: usize| libc::send(to, octets.cast(), length, libc::MSG_NOSIGNAL) >= 0;
        let fail = |errno: i32| send(errno.to_ne_bytes().as_ptr(), 4);
        let limit = libc::timeval { tv_sec: TIME_LIMIT.as_secs() as _, tv_usec: 0 };
        let on: libc::c_int = 1;
        if within == Within::OwnNamespace && libc::unshare(libc::CLONE_NEWNET) != 0 {
            fail(*libc::__errno_location());
            return;
        }
        let socket = libc::socket(libc::AF_NETLINK, libc::SOCK_RAW | libc::SOCK_CLOEXEC, protocol);
        if socket < 0 {
            fail(*libc::__errno_location());
            return;
        }
        let size = size_of_val(&limit) as libc::socklen_t;
        libc::setsockopt(socket, libc::SOL_SOCKET, libc::SO_RCVTIMEO, (&raw const limit).cast(), size);
        for option in [libc::NETLINK_CAP_ACK, libc::NETLINK_EXT_ACK] {
            libc::setsockopt(socket, libc::SOL_NETLINK, option, (&raw const on).cast(), size_of_val(&on) as _);
        }
        if !fail(0) {
            return;
        }
        for request in requests {
            let sent = libc::send(socket, request.as_ptr().cast(), request.len(), 0);
            let length = if sent < 0 { sent } else { libc::recv(socket, answer.as_mut_ptr().cast(), ANSWER, 0) };
            let passed = match usize::try_from(length) {
                Ok(length) => send(answer.as_ptr(), length),
                Err(_) => fail(*libc::__errno_location()),
            };
            if !passed {
                return;
            }
        }
    }
}
