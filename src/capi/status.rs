//! Status codes, the last error of a thread, and the border that no panic crosses.

use std::cell::RefCell;
use std::ffi::{CString, c_char, c_int};
use std::mem::MaybeUninit;
use std::panic::{self, AssertUnwindSafe};
use std::ptr;

use crate::error::{Cause, Error};

/// Done.
pub const LVS_OK: c_int = 0;

/// A pointer that must not be NULL is.
pub const LVS_ERR_NULL: c_int = -1;
/// The `size` of a structure is not one that this version knows, a field that this version does not
/// know is set, or a buffer is too small for its text.
pub const LVS_ERR_SIZE: c_int = -2;
/// A text is not UTF-8, or too long.
pub const LVS_ERR_TEXT: c_int = -3;
/// A table cannot be read; the message has the line.
pub const LVS_ERR_PARSE: c_int = -4;
/// A value is not usable; the message says why, and what was expected.
pub const LVS_ERR_INVALID: c_int = -5;
/// A list has no entry of this index.
pub const LVS_ERR_INDEX: c_int = -6;
/// The handle is in use by another thread, or this is a callback of a call that uses it.
pub const LVS_ERR_BUSY: c_int = -7;
/// The handle was opened before fork(2), in the parent process.
pub const LVS_ERR_FORKED: c_int = -8;

/// The kernel refused, for a reason that is not among those below: see the errno.
pub const LVS_ERR_REFUSED: c_int = -100;
/// `CAP_NET_ADMIN` is missing. IPVS wants it in the initial user namespace.
pub const LVS_ERR_PERMISSION: c_int = -101;
/// The kernel has no IPVS, and could not load it.
pub const LVS_ERR_NO_IPVS: c_int = -102;
/// The kernel lacks this address family (usually IPv6 switched off).
pub const LVS_ERR_NO_FAMILY: c_int = -103;
/// The scheduler, persistence engine, or part of traffic control (cls_bpf, act_skbedit) is
/// unknown, and its module could not be loaded.
pub const LVS_ERR_NO_MODULE: c_int = -104;
/// No such virtual service.
pub const LVS_ERR_NO_SERVICE: c_int = -105;
/// No such destination.
pub const LVS_ERR_NO_DESTINATION: c_int = -106;
/// The virtual service is there already.
pub const LVS_ERR_SERVICE_EXISTS: c_int = -107;
/// The destination is there already.
pub const LVS_ERR_DESTINATION_EXISTS: c_int = -108;
/// A number is outside of what the kernel accepts.
pub const LVS_ERR_OUT_OF_RANGE: c_int = -109;
/// No such network interface.
pub const LVS_ERR_NO_INTERFACE: c_int = -110;
/// The network interface is down, or has no carrier.
pub const LVS_ERR_INTERFACE_DOWN: c_int = -111;
/// The address is there already.
pub const LVS_ERR_ADDRESS_EXISTS: c_int = -112;
/// The address is not there.
pub const LVS_ERR_NO_ADDRESS: c_int = -113;
/// The sync daemon runs already.
pub const LVS_ERR_DAEMON_RUNS: c_int = -114;
/// The sync daemon does not run.
pub const LVS_ERR_NO_DAEMON: c_int = -115;
/// The kernel ran out of memory or buffers.
pub const LVS_ERR_NO_MEMORY: c_int = -117;
/// The kernel finds the request wrong without saying why.
pub const LVS_ERR_REQUEST: c_int = -118;

/// A system call other than a request to IPVS or to routing failed: see the errno.
pub const LVS_ERR_SYSTEM: c_int = -200;
/// The kernel did not answer in time. Whether the change was made is not known: read it back.
pub const LVS_ERR_NO_ANSWER: c_int = -201;
/// An answer of the kernel is not understood.
pub const LVS_ERR_MALFORMED: c_int = -202;

/// The address, service, mark or setting belongs to another program, and is left as it was.
pub const LVS_ERR_FOREIGN: c_int = -300;
/// A file in the state directory is damaged, or was written by a later version.
pub const LVS_ERR_STATE: c_int = -301;
/// Superseded by a later request for a role, which arrived while this one waited.
pub const LVS_ERR_SUPERSEDED: c_int = -302;
/// Another process held the node's lock until the time limit.
pub const LVS_ERR_LOCKED: c_int = -303;
/// The kernel reported no error for a change, but does not show its effect.
pub const LVS_ERR_NOT_VERIFIED: c_int = -304;

/// A bug in this library: the Rust runtime has printed a line about it to the standard error. The
/// handles that were used can only be freed.
pub const LVS_ERR_PANIC: c_int = -900;

macro_rules! named {
    ($($status:ident)*) => { &[$(($status, concat!(stringify!($status), "\0"))),*] };
}

/// Every status with its name, which ends with a NUL.
pub(super) const NAMES: &[(c_int, &str)] = named!(
    LVS_OK LVS_ERR_NULL LVS_ERR_SIZE LVS_ERR_TEXT LVS_ERR_PARSE LVS_ERR_INVALID LVS_ERR_INDEX
    LVS_ERR_BUSY LVS_ERR_FORKED
    LVS_ERR_REFUSED LVS_ERR_PERMISSION LVS_ERR_NO_IPVS LVS_ERR_NO_FAMILY LVS_ERR_NO_MODULE LVS_ERR_NO_SERVICE
    LVS_ERR_NO_DESTINATION LVS_ERR_SERVICE_EXISTS LVS_ERR_DESTINATION_EXISTS LVS_ERR_OUT_OF_RANGE LVS_ERR_NO_INTERFACE
    LVS_ERR_INTERFACE_DOWN LVS_ERR_ADDRESS_EXISTS LVS_ERR_NO_ADDRESS LVS_ERR_DAEMON_RUNS LVS_ERR_NO_DAEMON
    LVS_ERR_NO_MEMORY LVS_ERR_REQUEST
    LVS_ERR_SYSTEM LVS_ERR_NO_ANSWER LVS_ERR_MALFORMED
    LVS_ERR_FOREIGN LVS_ERR_STATE LVS_ERR_SUPERSEDED LVS_ERR_LOCKED LVS_ERR_NOT_VERIFIED
    LVS_ERR_PANIC
);

fn status_of(error: &Error) -> c_int {
    match error {
        Error::Refused { cause, .. } => status_of_cause(*cause),
        Error::NoAnswer { .. } => LVS_ERR_NO_ANSWER,
        Error::Malformed { .. } => LVS_ERR_MALFORMED,
        Error::System { .. } => LVS_ERR_SYSTEM,
        Error::Invalid { .. } => LVS_ERR_INVALID,
        Error::Parse { .. } => LVS_ERR_PARSE,
        Error::Foreign { .. } => LVS_ERR_FOREIGN,
        Error::State { .. } => LVS_ERR_STATE,
        Error::Superseded { .. } => LVS_ERR_SUPERSEDED,
        Error::Locked { .. } => LVS_ERR_LOCKED,
        Error::NotVerified { .. } => LVS_ERR_NOT_VERIFIED,
        Error::Step { error, .. } | Error::Change { error, .. } | Error::Demotion { error, .. } => status_of(error),
    }
}

fn status_of_cause(cause: Cause) -> c_int {
    match cause {
        Cause::Permission => LVS_ERR_PERMISSION,
        Cause::NoIpvs => LVS_ERR_NO_IPVS,
        Cause::NoFamily => LVS_ERR_NO_FAMILY,
        Cause::NoModule | Cause::NoTcModule | Cause::NoBpf => LVS_ERR_NO_MODULE,
        Cause::NoService => LVS_ERR_NO_SERVICE,
        Cause::NoDestination => LVS_ERR_NO_DESTINATION,
        Cause::ServiceExists => LVS_ERR_SERVICE_EXISTS,
        Cause::DestinationExists => LVS_ERR_DESTINATION_EXISTS,
        Cause::OutOfRange => LVS_ERR_OUT_OF_RANGE,
        Cause::NoInterface => LVS_ERR_NO_INTERFACE,
        Cause::InterfaceDown => LVS_ERR_INTERFACE_DOWN,
        Cause::AddressExists => LVS_ERR_ADDRESS_EXISTS,
        Cause::NoAddress => LVS_ERR_NO_ADDRESS,
        Cause::DaemonRuns => LVS_ERR_DAEMON_RUNS,
        Cause::NoDaemon => LVS_ERR_NO_DAEMON,
        Cause::Busy => LVS_ERR_BUSY,
        Cause::NoMemory => LVS_ERR_NO_MEMORY,
        Cause::Invalid => LVS_ERR_REQUEST,
        Cause::Other => LVS_ERR_REFUSED,
    }
}

/// Why an entry failed: what C is told.
#[derive(Debug, Clone, Default)]
pub(super) struct Failure {
    pub(super) status: c_int,
    pub(super) errno: c_int,
    pub(super) message: String,
}

impl Failure {
    pub(super) fn new(status: c_int, message: impl Into<String>) -> Self {
        Failure { status, errno: 0, message: message.into() }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Failure { status: status_of(&error), errno: error.errno().unwrap_or(0), message: error.to_string() }
    }
}

thread_local! {
    static LAST: RefCell<Failure> = RefCell::default();
}

/// Runs the work of an entry, keeps its failure for [`lvs_last_error_message`], and returns its
/// status.
pub(super) fn guard(work: impl FnOnce() -> Result<(), Failure>) -> c_int {
    let result = caught(work).unwrap_or_else(|words| {
        Err(Failure::new(LVS_ERR_PANIC, format!("a bug in lvs_dr, please report it: {words}")))
    });
    match result {
        Ok(()) => LVS_OK,
        Err(failure) => {
            let status = failure.status;
            // A thread that is ending may have no last error any more.
            let _ = LAST.try_with(|last| last.replace(failure));
            status
        }
    }
}

/// Runs `work`, and returns the words of its panic if it panics. The runtime's hook has printed
/// them by then.
pub(super) fn caught<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    // What a panic leaves half done is not used again: its lock is poisoned.
    panic::catch_unwind(AssertUnwindSafe(work)).map_err(|panic| {
        let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
        text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default()
    })
}

/// The name of a status: "LVS_ERR_PERMISSION". A text that is always there, never NULL.
#[unsafe(no_mangle)]
pub extern "C" fn lvs_status_name(status: c_int) -> *const c_char {
    let name = NAMES.iter().find(|(known, _)| *known == status).map_or("unknown status\0", |(_, name)| name);
    name.as_ptr().cast()
}

/// The status of the last call in this thread that failed; LVS_OK before any has.
#[unsafe(no_mangle)]
pub extern "C" fn lvs_last_status() -> c_int {
    LAST.try_with(|last| last.borrow().status).unwrap_or(LVS_OK)
}

/// The errno(3) that the kernel gave as reason for the last failure in this thread; 0 where there
/// was none.
#[unsafe(no_mangle)]
pub extern "C" fn lvs_last_errno() -> c_int {
    LAST.try_with(|last| last.borrow().errno).unwrap_or(0)
}

/// Copies the message of the last failure in this thread: what was tried, on what, why it failed,
/// and what to do.
///
/// At most `size` octets are written, the NUL at the end among them; what is longer is cut between
/// two characters. Returns the message's length without the NUL, as snprintf(3) does: it was cut
/// if that is not below `size`. With `buffer` NULL or `size` 0 nothing is written. Reading the
/// message does not change it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lvs_last_error_message(buffer: *mut c_char, size: usize) -> usize {
    let copy = |message: &str| {
        if buffer.is_null() || size == 0 {
            return message.len();
        }
        let mut length = message.len().min(size - 1);
        while !message.is_char_boundary(length) {
            length -= 1;
        }
        let buffer: *mut MaybeUninit<u8> = buffer.cast();
        // SAFETY: the caller's buffer has room for `size` octets, and `length` is below that.
        unsafe {
            ptr::copy_nonoverlapping(message.as_ptr().cast(), buffer, length);
            buffer.add(length).write(MaybeUninit::new(0));
        }
        message.len()
    };
    LAST.try_with(|last| copy(&last.borrow().message)).unwrap_or_else(|_| copy(""))
}

/// The version of the library that runs: "0.1.0". LVS_VERSION is that of this header.
#[unsafe(no_mangle)]
pub extern "C" fn lvs_version() -> *const c_char {
    concat!(env!("CARGO_PKG_VERSION"), "\0").as_ptr().cast()
}

/// Frees a text that this library returned through a `char **`. NULL is ignored.
///
/// Such a text is not for free(3). Texts in the entries of a list are freed with the list.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lvs_text_free(text: *mut c_char) {
    let take_back = || {
        if !text.is_null() {
            // SAFETY: it came from `CString::into_raw`, and the caller gives it back once.
            drop(unsafe { CString::from_raw(text) });
        }
    };
    let _ = caught(take_back);
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::CStr;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::thread;

    fn fail(status: c_int, message: &str) {
        assert_eq!(guard(|| Err(Failure::new(status, message))), status);
    }

    fn message(room: usize) -> (usize, Vec<u8>) {
        let mut buffer = [0xaa_u8; 64];
        // SAFETY: `buffer` has that room.
        let length = unsafe { lvs_last_error_message(buffer.as_mut_ptr().cast(), room) };
        (length, buffer.iter().copied().take_while(|octet| *octet != 0xaa).collect())
    }

    #[test]
    fn the_last_failure_stays_until_the_next() {
        assert_eq!((lvs_last_status(), lvs_last_errno(), message(64)), (LVS_OK, 0, (0, b"\0".to_vec())));
        fail(LVS_ERR_NULL, "first");
        assert_eq!(guard(|| Ok(())), LVS_OK);
        assert_eq!((lvs_last_status(), message(64)), (LVS_ERR_NULL, (5, b"first\0".to_vec())));
        assert_eq!(message(64), (5, b"first\0".to_vec()));
        thread::spawn(|| assert_eq!(lvs_last_status(), LVS_OK)).join().unwrap();
        let refused = Error::Step {
            number: 1,
            total: 2,
            step: "a step".into(),
            error: Box::new(Error::Refused {
                operation: "add service",
                object: "x".into(),
                errno: 1,
                cause: Cause::Permission,
                message: None,
            }),
        };
        assert_eq!(guard(|| Err(refused.into())), LVS_ERR_PERMISSION);
        assert_eq!((lvs_last_status(), lvs_last_errno()), (LVS_ERR_PERMISSION, 1));
        fail(LVS_ERR_INVALID, "no errno");
        assert_eq!(lvs_last_errno(), 0);
    }

    #[test]
    fn a_message_is_cut_where_the_buffer_ends() {
        fail(LVS_ERR_INVALID, "aé");
        assert_eq!(message(0), (3, vec![]));
        assert_eq!(message(1), (3, b"\0".to_vec()));
        assert_eq!(message(2), (3, b"a\0".to_vec()));
        assert_eq!(message(3), (3, b"a\0".to_vec()));
        assert_eq!(message(4), (3, "aé\0".into()));
        // SAFETY: nothing is written.
        assert_eq!(unsafe { lvs_last_error_message(ptr::null_mut(), 9) }, 3);
    }

    #[test]
    fn a_panic_is_a_status_and_replaces_no_hook() {
        static SEEN: AtomicUsize = AtomicUsize::new(0);
        let before = panic::take_hook();
        panic::set_hook(Box::new(|_| {
            SEEN.fetch_add(1, Ordering::Relaxed);
        }));
        assert_eq!(guard(|| panic!("{} went wrong", "something")), LVS_ERR_PANIC);
        assert_eq!(message(64).1, b"a bug in lvs_dr, please report it: something went wrong\0");
        assert_eq!(guard(|| panic!("a word")), LVS_ERR_PANIC);
        assert!(LAST.with(|last| last.borrow().message.ends_with("it: a word")));
        assert_eq!(guard(|| Ok(())), LVS_OK);
        panic::set_hook(before);
        assert!(SEEN.load(Ordering::Relaxed) >= 2, "another hook was called");
    }

    #[test]
    fn names() {
        // SAFETY: both are texts that are always there.
        let name = |status| unsafe { CStr::from_ptr(lvs_status_name(status)) }.to_str().unwrap();
        assert_eq!((name(LVS_ERR_NO_IPVS), name(7)), ("LVS_ERR_NO_IPVS", "unknown status"));
        // SAFETY: as above.
        let version = unsafe { CStr::from_ptr(lvs_version()) };
        assert_eq!(version.to_str().unwrap(), env!("CARGO_PKG_VERSION"));
    }
}
