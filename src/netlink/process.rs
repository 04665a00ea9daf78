//! Programs that a library runs beside a loop: starting one does not wait for its exec.

use std::convert::Infallible;
use std::env;
use std::ffi::{CString, OsStr, c_char};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::ExitStatus;
use std::ptr;
use std::sync::{Mutex, PoisonError};

use rustix::pipe::{PipeFlags, pipe_with};

use super::thread::with_signals_blocked;

/// The exit code of a process that could not become the program, as of a shell. A program may end
/// with it, too.
const NO_PROGRAM: i32 = 127;

/// In which network namespace a program runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Within {
    /// In that of the thread which starts it.
    Namespace,
    /// In one that is made for it, and goes with it. Takes `CAP_SYS_ADMIN`.
    OwnNamespace,
}

/// A child process that only this library waits for. It sends no signal when it ends, and a
/// waitpid(-1) of the host does not see it. Dropping it kills it, and what it has started.
#[derive(Debug)]
pub(crate) struct Process {
    id: libc::pid_t,
    /// The process that started it: after fork(2) it is not the other one's.
    parent: u32,
    has_ended: bool,
    /// Holds the errno of a process that could not become the program.
    refusal: Option<OwnedFd>,
}

/// Processes that were killed, and whose end is yet to be taken note of.
static KILLED: Mutex<Vec<libc::pid_t>> = Mutex::new(Vec::new());

impl Process {
    /// Starts a program with these descriptors for its input, output and errors, in a process group
    /// of its own, and with messages that are not translated. Does not wait for it to begin.
    ///
    /// # Errors
    /// Those of fork(2) and pipe(2), and `EINVAL` for an argument with a NUL. That there is no such
    /// program shows at its end, see [`Process::poll`].
    pub(crate) fn start(
        program: &Path,
        arguments: &[&OsStr],
        stdio: [BorrowedFd<'_>; 3],
        within: Within,
    ) -> io::Result<Self> {
        let text = |octets: Vec<u8>| CString::new(octets).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput));
        let words = [program.as_os_str()].into_iter().chain(arguments.iter().copied());
        let words: Vec<CString> = words.map(|word| text(word.as_bytes().to_vec())).collect::<io::Result<_>>()?;
        let kept = env::vars_os().filter(|(name, _)| name != "LC_ALL");
        let settings = kept.map(|(name, value)| [name.into_vec(), value.into_vec()].join(&b'='));
        let settings: Vec<CString> = settings.chain([b"LC_ALL=C".to_vec()]).map(text).collect::<io::Result<_>>()?;
        let list = |texts: &[CString]| -> Vec<*const c_char> {
            texts.iter().map(|text| text.as_ptr()).chain([ptr::null()]).collect()
        };
        let (words_list, settings_list) = (list(&words), list(&settings));
        let stdio = stdio.map(|descriptor| descriptor.as_raw_fd());
        let (refusal, refused) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        let child = || {
            // SAFETY: this is the child; the lists end with NULL, and their texts live.
            #[allow(unsafe_code)]
            unsafe {
                let errno = become_program(&words_list, &settings_list, stdio, within);
                libc::write(refused.as_raw_fd(), (&raw const errno).cast(), size_of_val(&errno));
                libc::_exit(NO_PROGRAM)
            }
        };
        // SAFETY: `become_program` is written for it.
        #[allow(unsafe_code)]
        let mut process = unsafe { Process::fork(child) }?;
        process.refusal = Some(refusal);
        Ok(process)
    }

    /// Starts a process that does this and no more, with all signals blocked. Its scheduling policy
    /// is `SCHED_BATCH`, see sched(7): when it wakes up, it does not take the processor from the
    /// loop that it was started beside, and where that has real-time priority, it has none.
    ///
    /// # Safety
    /// `child` calls only functions that are async-signal-safe, and allocates nothing: the memory
    /// that other threads use may be in any state. See signal-safety(7).
    #[allow(unsafe_code)]
    pub(super) unsafe fn fork(child: impl FnOnce() -> Infallible) -> io::Result<Self> {
        // SAFETY: as fork(2), but without its handlers, and with no signal at the child's end. The
        // rest is the caller's promise.
        let id = with_signals_blocked(|| match unsafe { libc::syscall(libc::SYS_clone, 0, 0, 0, 0, 0) } {
            0 => {
                // The kernel's struct sched_param; musl's has more.
                let priority: libc::c_int = 0;
                // Where it is refused, it may be in the way. The function of musl does nothing.
                unsafe { libc::syscall(libc::SYS_sched_setscheduler, 0, libc::SCHED_BATCH, &raw const priority) };
                match child() {}
            }
            id => id,
        });
        match libc::pid_t::try_from(id) {
            Ok(id) if id > 0 => Ok(Process { id, parent: std::process::id(), has_ended: false, refusal: None }),
            _ => Err(io::Error::last_os_error()),
        }
    }

    pub(crate) fn id(&self) -> i32 {
        self.id
    }

    /// How it has ended; `None`: it has not. Does not wait.
    ///
    /// # Errors
    /// Those of execve(2) where the program could not be run, and of unshare(2) without a namespace
    /// of its own.
    pub(crate) fn poll(&mut self) -> io::Result<Option<ExitStatus>> {
        let Some(status) = ended(self.id) else { return Ok(None) };
        self.has_ended = true;
        let mut errno = [0; size_of::<libc::c_int>()];
        match self.refusal.as_ref().map(|refusal| rustix::io::read(refusal, &mut errno)) {
            Some(Ok(length)) if length == errno.len() => {
                Err(io::Error::from_raw_os_error(libc::c_int::from_ne_bytes(errno)))
            }
            _ => Ok(Some(status)),
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.has_ended || self.parent != std::process::id() {
            return;
        }
        // SAFETY: nobody else waits for it, so its number is still its own.
        #[allow(unsafe_code)]
        unsafe {
            libc::kill(-self.id, libc::SIGKILL);
            libc::kill(self.id, libc::SIGKILL);
        }
        KILLED.lock().unwrap_or_else(PoisonError::into_inner).push(self.id);
        killed_are_left();
    }
}

/// Takes note of the end of processes that were killed, and says whether some are left. Does not
/// wait.
pub(crate) fn killed_are_left() -> bool {
    let mut killed = KILLED.lock().unwrap_or_else(PoisonError::into_inner);
    killed.retain(|id| ended(*id).is_none());
    !killed.is_empty()
}

fn ended(id: libc::pid_t) -> Option<ExitStatus> {
    let mut status = 0;
    // SAFETY: a number is written.
    #[allow(unsafe_code)]
    let found = unsafe { libc::waitpid(id, &raw mut status, libc::__WALL | libc::WNOHANG) };
    // One that cannot be waited for is gone.
    (found != 0).then(|| ExitStatus::from_raw(status))
}

/// Becomes the program. Returns the errno where that fails.
///
/// # Safety
/// In a child process; both lists end with NULL. Calls only functions that are async-signal-safe,
/// and allocates nothing: see signal-safety(7).
#[allow(unsafe_code)]
unsafe fn become_program(
    words: &[*const c_char],
    settings: &[*const c_char],
    stdio: [RawFd; 3],
    within: Within,
) -> libc::c_int {
    // SAFETY: system calls; the lists are as the caller promises.
    unsafe {
        libc::setpgid(0, 0);
        if within == Within::OwnNamespace && libc::unshare(libc::CLONE_NEWNET) != 0 {
            return *libc::__errno_location();
        }
        // Above the first three, so that none is overwritten by another.
        let mut moved = [0; 3];
        for (to, from) in moved.iter_mut().zip(stdio) {
            *to = libc::fcntl(from, libc::F_DUPFD_CLOEXEC, 3);
        }
        for (number, from) in moved.into_iter().enumerate() {
            if libc::dup2(from, number as RawFd) < 0 {
                return *libc::__errno_location();
            }
        }
        // What the program ignores, this one would; what it blocks, too.
        libc::signal(libc::SIGPIPE, libc::SIG_DFL);
        libc::signal(libc::SIGCHLD, libc::SIG_DFL);
        let mut none = std::mem::MaybeUninit::uninit();
        libc::sigemptyset(none.as_mut_ptr());
        libc::pthread_sigmask(libc::SIG_SETMASK, none.as_ptr(), ptr::null_mut());
        libc::execve(words[0], words.as_ptr(), settings.as_ptr());
        *libc::__errno_location()
    }
}
