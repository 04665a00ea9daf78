//! Waits for descriptors and times: for callers that block, and for callers with a loop of their
//! own.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, timerfd_create, timerfd_settime};

use crate::error::{Error, Result};

/// Longer waits are as good as for ever.
const LONGEST: Duration = Duration::from_secs(86400);

/// Waits until the descriptor is readable or the time has come; without either, for nothing. May
/// return earlier, as when a signal arrives.
pub(crate) fn wait(descriptor: Option<BorrowedFd<'_>>, until: Option<Instant>) {
    if descriptor.is_none() && until.is_none() {
        return;
    }
    let left = until.map(|until| timespec(until.saturating_duration_since(Instant::now())));
    let mut descriptors: Vec<PollFd<'_>> = descriptor.iter().map(|fd| PollFd::new(fd, PollFlags::IN)).collect();
    let _ = poll(&mut descriptors, left.as_ref());
}

fn timespec(time: Duration) -> Timespec {
    Timespec::try_from(time.min(LONGEST)).unwrap_or_default()
}

/// One descriptor for others and for a time: it is readable while one of them is, and once the
/// time has come. See epoll(7) and timerfd_create(2).
#[derive(Debug)]
pub(crate) struct Readiness {
    epoll: OwnedFd,
    timer: OwnedFd,
}

impl Readiness {
    /// # Errors
    /// [`Error::System`] with the errno: `EMFILE`, `ENFILE`, `ENOMEM`.
    pub(crate) fn new() -> Result<Self> {
        let open = || -> rustix::io::Result<Self> {
            let epoll = epoll::create(CreateFlags::CLOEXEC)?;
            let timer = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK)?;
            epoll::add(&epoll, &timer, EventData::new_u64(0), EventFlags::IN)?;
            Ok(Readiness { epoll, timer })
        };
        open().map_err(failed)
    }

    /// Watches a descriptor until it is closed.
    ///
    /// # Errors
    /// [`Error::System`] with the errno: `ENOMEM`, `ENOSPC`.
    pub(crate) fn watch(&self, descriptor: BorrowedFd<'_>) -> Result<()> {
        match epoll::add(&self.epoll, descriptor, EventData::new_u64(0), EventFlags::IN) {
            // It is watched already.
            Err(Errno::EXIST) => Ok(()),
            added => added.map_err(failed),
        }
    }

    /// Sets the time, and forgets the one before.
    ///
    /// # Errors
    /// [`Error::System`] with the errno.
    pub(crate) fn wake_at(&self, until: Option<Instant>) -> Result<()> {
        // A time of 0 would be none.
        let left = |until: Instant| until.saturating_duration_since(Instant::now()).max(Duration::from_nanos(1));
        let it_value = until.map_or(Timespec::default(), |until| timespec(left(until)));
        let time = Itimerspec { it_interval: Timespec::default(), it_value };
        timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &time).map(drop).map_err(failed)
    }
}

impl AsFd for Readiness {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.epoll.as_fd()
    }
}

fn failed(errno: Errno) -> Error {
    Error::system("wait for", "the node's descriptors", io::Error::from(errno))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_ready(readiness: &Readiness, within: u64) -> bool {
        let mut descriptors = [PollFd::new(readiness, PollFlags::IN)];
        poll(&mut descriptors, Some(&timespec(Duration::from_millis(within)))).unwrap() > 0
    }

    #[test]
    fn one_descriptor_for_others_and_for_a_time() {
        let readiness = Readiness::new().unwrap();
        assert!(!is_ready(&readiness, 0));
        readiness.wake_at(Some(Instant::now())).unwrap();
        assert!(is_ready(&readiness, 1000) && is_ready(&readiness, 0));
        readiness.wake_at(None).unwrap();
        assert!(!is_ready(&readiness, 0));
        readiness.wake_at(Some(Instant::now() + LONGEST * 2)).unwrap();
        assert!(!is_ready(&readiness, 0));
        let (read, write) = rustix::pipe::pipe().unwrap();
        readiness.watch(read.as_fd()).unwrap();
        readiness.watch(read.as_fd()).unwrap();
        rustix::io::write(&write, b"x").unwrap();
        assert!(is_ready(&readiness, 1000));
        // A closed descriptor is watched no more, and its number may be another's.
        drop((read, write));
        assert!(!is_ready(&readiness, 0));
    }
}
