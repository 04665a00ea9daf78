//! Work that blocks, beside a loop that must not: in a thread that ends with it.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::mpsc::{Receiver, TryRecvError, channel};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::pipe::{PipeFlags, pipe_with};

use crate::netlink::start_thread;

/// The size of the thread's stack: a program that locks its memory (mlockall(2)) has all of it in
/// memory.
const STACK: usize = 256 << 10;

/// Work under way. Its descriptor is readable once it has ended.
#[derive(Debug)]
pub(crate) struct Background<T> {
    result: Receiver<T>,
    /// The reading end of a pipe whose other end is the thread's.
    ended: OwnedFd,
}

impl<T: Send + 'static> Background<T> {
    /// Starts it. Where no thread can be started, it is done before this returns.
    ///
    /// # Errors
    /// Those of pipe(2).
    pub(crate) fn start(work: impl FnOnce() -> T + Send + 'static) -> io::Result<Self> {
        let (ended, living) = pipe_with(PipeFlags::CLOEXEC)?;
        let (sender, result) = channel();
        // A thread that cannot be started drops what it was to do.
        let work = Arc::new(Mutex::new(Some(move || {
            // Closed when the result is there, also that of a panic.
            let _living = living;
            let sender = sender;
            let _ = sender.send(work());
        })));
        let run =
            move || work.lock().unwrap_or_else(PoisonError::into_inner).take().into_iter().for_each(|work| work());
        if start_thread(|builder| builder.stack_size(STACK).spawn(run.clone())).is_err() {
            run();
        }
        Ok(Background { result, ended })
    }

    /// The result, once it is there.
    ///
    /// # Errors
    /// The work has panicked.
    pub(crate) fn poll(&self) -> io::Result<Option<T>> {
        match self.result.try_recv() {
            Ok(result) => Ok(Some(result)),
            Err(TryRecvError::Empty) => Ok(None),
            Err(TryRecvError::Disconnected) => Err(io::Error::other("a thread has ended unexpectedly")),
        }
    }
}

impl<T> AsFd for Background<T> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.ended.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::thread;
    use std::time::{Duration, Instant};

    use super::*;
    use crate::wait::wait;

    #[test]
    fn the_result_is_there_once_the_descriptor_is_readable() {
        let work = Background::start(|| {
            thread::sleep(Duration::from_millis(30));
            7
        })
        .unwrap();
        assert_eq!(work.poll().unwrap(), None);
        wait(Some(work.as_fd()), Some(Instant::now() + Duration::from_secs(10)));
        assert_eq!(work.poll().unwrap(), Some(7));
        let panics = Background::start(|| -> u8 { std::panic::resume_unwind(Box::new(())) }).unwrap();
        wait(Some(panics.as_fd()), Some(Instant::now() + Duration::from_secs(10)));
        assert!(panics.poll().is_err());
    }
}
