//! Work that takes time, done piece by piece: without a thread, for a loop that must not wait.

use std::fmt;
use std::future::{Future, poll_fn};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use crate::wait::wait;

/// What work waits for.
#[derive(Debug, Clone)]
struct Wait {
    descriptor: Option<Arc<OwnedFd>>,
    until: Instant,
}

impl Wait {
    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        self.descriptor.as_deref().map(AsFd::as_fd)
    }
}

/// Where work says what it waits for, to who drives it. All clones are the same place.
#[derive(Debug, Clone, Default)]
pub(crate) struct Waits(Arc<Mutex<Option<Wait>>>);

impl Waits {
    /// Waits until the descriptor is readable or the time has come, or for less: what is waited for
    /// must be looked at.
    pub(crate) async fn wait(&self, descriptor: Option<&Arc<OwnedFd>>, until: Instant) {
        *self.place() = Some(Wait { descriptor: descriptor.cloned(), until });
        let mut is_later = false;
        let once = poll_fn(|_| match std::mem::replace(&mut is_later, true) {
            true => Poll::Ready(()),
            false => Poll::Pending,
        });
        once.await;
    }

    fn place(&self) -> MutexGuard<'_, Option<Wait>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Does what there is to do now: the result, or what it waits for.
fn go_on<T>(work: Pin<&mut (impl Future<Output = T> + ?Sized)>, waits: &Waits) -> Result<T, Option<Wait>> {
    match work.poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(result) => Ok(result),
        Poll::Pending => Err(waits.place().take()),
    }
}

/// Does work whose every wait is one of [`Waits`], and waits for it.
pub(crate) fn wait_for<F: Future>(work: impl FnOnce(Waits) -> F) -> F::Output {
    let waits = Waits::default();
    let mut work = pin!(work(waits.clone()));
    loop {
        match go_on(work.as_mut(), &waits) {
            Ok(result) => return result,
            Err(next) => next.iter().for_each(|next| wait(next.descriptor(), Some(next.until))),
        }
    }
}

/// Work under way, whose every wait is one of [`Waits`].
pub(crate) struct Background<T> {
    work: Pin<Box<dyn Future<Output = T> + Send>>,
    waits: Waits,
    next: Wait,
}

impl<T> Background<T> {
    /// Starts it. Nothing is done before it is polled.
    pub(crate) fn start<F: Future<Output = T> + Send + 'static>(work: impl FnOnce(Waits) -> F) -> Self {
        let waits = Waits::default();
        Background {
            work: Box::pin(work(waits.clone())),
            waits,
            next: Wait { descriptor: None, until: Instant::now() },
        }
    }

    /// Does what there is to do now, and returns the result once it is there. It is not polled
    /// again then.
    pub(crate) fn poll(&mut self) -> Option<T> {
        match go_on(self.work.as_mut(), &self.waits) {
            Ok(result) => Some(result),
            Err(next) => {
                self.next = next.unwrap_or_else(|| self.next.clone());
                None
            }
        }
    }

    /// When it goes on at the latest.
    pub(crate) fn until(&self) -> Instant {
        self.next.until
    }

    /// When this is readable, it goes on.
    pub(crate) fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        self.next.descriptor()
    }
}

impl<T> fmt::Debug for Background<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Background").field(&self.next).finish()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    async fn takes(waits: Waits, pipe: Arc<OwnedFd>) -> u8 {
        let mut octet = [0];
        while rustix::io::read(&pipe, &mut octet) != Ok(1) {
            waits.wait(Some(&pipe), Instant::now() + Duration::from_secs(10)).await;
        }
        octet[0]
    }

    #[test]
    fn it_goes_on_once_its_descriptor_is_readable() {
        let pipe = || rustix::pipe::pipe_with(rustix::pipe::PipeFlags::NONBLOCK).unwrap();
        let (read, write) = pipe();
        let mut work = Background::start(|waits| takes(waits, Arc::new(read)));
        assert!(work.descriptor().is_none() && work.until() <= Instant::now());
        assert_eq!(work.poll(), None);
        assert_eq!(work.poll(), None);
        assert!(work.until() > Instant::now());
        rustix::io::write(&write, b"7").unwrap();
        wait(work.descriptor(), Some(work.until()));
        assert_eq!(work.poll(), Some(b'7'));

        let (read, write) = pipe();
        rustix::io::write(&write, b"8").unwrap();
        assert_eq!(wait_for(|waits| takes(waits, Arc::new(read))), b'8');
        let start = Instant::now();
        wait_for(|waits| async move { waits.wait(None, start + Duration::from_millis(20)).await });
        assert!(start.elapsed() >= Duration::from_millis(20));
    }
}
