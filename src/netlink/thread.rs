//! Threads of a library: those of the program that it is part of do not notice them.

use std::io;
use std::mem::MaybeUninit;
use std::thread::Builder;

/// Starts a thread with all signals blocked in it, so that the program's handlers run in the
/// program's own threads.
pub(crate) fn start_thread<T>(start: impl FnOnce(Builder) -> io::Result<T>) -> io::Result<T> {
    with_signals_blocked(|| start(Builder::new().name("lvs-dr".into())))
}

/// Blocks all signals while `start` runs: a thread or process that it starts inherits that. See
/// pthread_sigmask(3).
pub(super) fn with_signals_blocked<T>(start: impl FnOnce() -> T) -> T {
    let mut all = MaybeUninit::uninit();
    let mut before = MaybeUninit::uninit();
    // SAFETY: both are places for a signal set, and the first is filled before it is read. Neither
    // call fails with these arguments.
    #[allow(unsafe_code)]
    unsafe {
        libc::sigfillset(all.as_mut_ptr());
        libc::pthread_sigmask(libc::SIG_SETMASK, all.as_ptr(), before.as_mut_ptr());
    }
    let started = start();
    // SAFETY: the call above has filled it.
    #[allow(unsafe_code)]
    unsafe {
        libc::pthread_sigmask(libc::SIG_SETMASK, before.as_ptr(), std::ptr::null_mut());
    }
    started
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    /// The blocked signals of the calling thread, as the kernel prints them.
    fn blocked() -> String {
        let status = fs::read_to_string("/proc/thread-self/status").unwrap();
        status.lines().find(|line| line.starts_with("SigBlk")).unwrap().to_owned()
    }

    #[test]
    fn all_signals_are_blocked_in_a_thread_and_none_more_in_its_caller() {
        let before = blocked();
        let within = start_thread(|builder| builder.spawn(blocked)).unwrap().join().unwrap();
        // All but SIGKILL and SIGSTOP, and the two that the C library keeps for itself.
        assert_eq!(within, "SigBlk:\tfffffffe7ffbfeff");
        assert_eq!(blocked(), before);
    }
}
