//! A network namespace to try things in. See network_namespaces(7).

use std::io;
use std::thread;

use rustix::thread::{UnshareFlags, unshare_unsafe};

use super::start_thread;

/// Runs `work` in a network namespace made for it, which goes with it: what is tried there changes
/// nothing here. Needs `CAP_SYS_ADMIN`.
pub(crate) fn in_new_namespace<T: Send>(work: impl FnOnce() -> T + Send) -> io::Result<T> {
    thread::scope(|scope| {
        let enter = || {
            // SAFETY: a network namespace is the thread's own, and the thread ends here;
            // descriptors stay shared.
            #[allow(unsafe_code)]
            unsafe { unshare_unsafe(UnshareFlags::NEWNET) }?;
            Ok(work())
        };
        let thread = start_thread(|builder| builder.spawn_scoped(scope, enter))?;
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}
