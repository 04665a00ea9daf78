//! Network namespaces: where a client's sockets and files belong.

use std::fmt;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::thread;

use rustix::fs::{Mode, OFlags, fstat, open, stat};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::error::{Error, Result};
use crate::netlink::start_thread;

const OWN: &str = "/proc/thread-self/ns/net";

/// A network namespace, held open: it lives at least as long as this handle.
///
/// Everything in this crate that touches the kernel belongs to one namespace, chosen when it is
/// opened, whatever thread it is used from later. See network_namespaces(7).
///
/// ```no_run
/// use lvs_dr::Netns;
/// use lvs_dr::ipvs::Ipvs;
///
/// // As `ip netns exec blue ipvsadm -Ln` reads it.
/// let mut ipvs = Ipvs::open_in(Netns::named("blue")?)?;
/// print!("{}", ipvs.table()?);
/// # Ok::<(), lvs_dr::Error>(())
/// ```
#[derive(Clone)]
pub struct Netns {
    handle: Arc<OwnedFd>,
    name: Arc<str>,
}

impl Netns {
    /// The namespace that the calling thread is in now.
    ///
    /// # Errors
    /// [`Error::System`] when `/proc` is not mounted.
    pub fn current() -> Result<Self> {
        Self::open_as(Path::new(OWN), "the present one".into())
    }

    /// The namespace that `path` refers to: `/proc/PID/ns/net`, or a bind mount such as
    /// `/run/netns/NAME`.
    ///
    /// # Errors
    /// [`Error::System`] when the file cannot be opened, [`Error::Invalid`] when it is no
    /// namespace. That it is one of another kind shows when it is entered.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        Self::open_as(path, path.display().to_string().into())
    }

    /// The namespace called `name` by `ip netns`, see ip-netns(8).
    ///
    /// # Errors
    /// As [`Netns::open`]; a name with a slash is [`Error::Invalid`].
    pub fn named(name: &str) -> Result<Self> {
        if name.is_empty() || name.contains('/') || name == "." || name == ".." {
            return Err(Error::invalid(
                format!("network namespace {name:?}"),
                "a name as in `ip netns list` was expected",
            ));
        }
        Self::open_as(&Path::new("/run/netns").join(name), name.into())
    }

    fn open_as(path: &Path, name: Arc<str>) -> Result<Self> {
        let handle = open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
            .map_err(|e| Error::system("open network namespace", path.display(), e))?;
        let netns = Netns { handle: Arc::new(handle), name };
        if !netns.is_namespace() {
            return Err(Error::invalid(
                path.display(),
                "it is not a network namespace; a file below /run/netns or /proc/PID/ns/net was expected",
            ));
        }
        Ok(netns)
    }

    // All namespaces live on nsfs, so they share its device number.
    fn is_namespace(&self) -> bool {
        match (fstat(&self.handle), stat(OWN)) {
            (Ok(a), Ok(b)) => a.st_dev == b.st_dev,
            _ => false,
        }
    }

    /// Runs `work` in this namespace and returns what it returns.
    ///
    /// Where the calling thread is elsewhere, a thread is started for `work` and ends with it: the
    /// caller never changes its namespace, and so cannot be left in the wrong one. The thread
    /// blocks all signals, and a program that `work` starts inherits that: it ignores `SIGTERM`
    /// unless it sets its mask itself.
    ///
    /// # Errors
    /// [`Error::System`] when the namespace cannot be entered (it needs `CAP_SYS_ADMIN`, see
    /// setns(2)) or no thread be started.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        if self.is_here() {
            return Ok(work());
        }
        thread::scope(|scope| {
            let enter = || {
                move_into_link_name_space(self.handle.as_fd(), Some(LinkNameSpaceType::Network))
                    .map_err(|e| Error::system("enter network namespace", &self.name, e))?;
                Ok(work())
            };
            let thread = start_thread(|builder| builder.spawn_scoped(scope, enter))
                .map_err(|e| Error::system("start a thread in network namespace", &self.name, e))?;
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    fn is_here(&self) -> bool {
        match (fstat(&self.handle), stat(OWN)) {
            (Ok(a), Ok(b)) => (a.st_dev, a.st_ino) == (b.st_dev, b.st_ino),
            _ => false,
        }
    }
}

impl fmt::Debug for Netns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Netns").field(&self.name).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn current_namespace_is_entered_without_a_thread() {
        let here = thread::current().id();
        assert_eq!(Netns::current().unwrap().run(|| thread::current().id()).unwrap(), here);
    }

    #[test]
    fn what_is_no_namespace_is_refused() {
        assert!(matches!(Netns::open("/proc/self/status"), Err(Error::Invalid { .. })));
        assert!(matches!(Netns::open("/nonexistent"), Err(Error::System { .. })));
        assert!(matches!(Netns::named("../x"), Err(Error::Invalid { .. })));
    }
}
