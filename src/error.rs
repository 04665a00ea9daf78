//! One error type for the whole crate: what was tried, on what, why it failed, what to do.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

/// `Result` with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Anything that can go wrong. Every message names the operation, the object and the cause, and
/// says what to do where that is known. A message is complete: the error has no
/// [`source()`](std::error::Error::source), which programs that print the chain would repeat.
///
/// ```no_run
/// use lvs_dr::ipvs::{Ipvs, Scheduler, Service, ServiceId};
/// use lvs_dr::Cause;
///
/// let web = ServiceId::tcp(([192, 168, 0, 254], 80).into());
/// match Ipvs::open().and_then(|mut ipvs| ipvs.add_service(&Service::new(web, Scheduler::WRR))) {
///     Ok(()) => {}
///     Err(error) if error.cause() == Some(Cause::ServiceExists) => {}
///     // The message says what to do; the errno is for programs.
///     Err(error) => eprintln!("{error} ({:?})", error.errno()),
/// }
/// ```
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The kernel refused a request.
    #[error("cannot {operation} {object}: {cause} ({}{})", errno_text(*.errno), message.as_ref().map(|m| format!("; kernel: {m}")).unwrap_or_default())]
    #[non_exhaustive]
    Refused {
        /// What was asked for, as a verb: `add service`.
        operation: &'static str,
        /// What it was asked for: `tcp 192.168.0.254:80`.
        object: String,
        /// The kernel's answer, see errno(3). One value means different things in different
        /// operations; [`cause`](Self::Refused::cause) tells them apart.
        errno: i32,
        /// What the answer means for this operation.
        cause: Cause,
        /// The kernel's own words (netlink's extended acknowledgement), where it gave any.
        message: Option<String>,
    },
    /// The kernel did not answer in time. Whether the request was carried out is not known: read
    /// the state back.
    #[error(
        "no answer from the kernel within {waited:?} to `{operation} {object}`: if it was to change something, \
         read the state back before going on"
    )]
    #[non_exhaustive]
    NoAnswer {
        /// What was asked for, as a verb.
        operation: &'static str,
        /// What it was asked for.
        object: String,
        /// The time limit that passed.
        waited: Duration,
    },
    /// An answer of the kernel makes no sense to this crate.
    #[error("cannot {operation} {object}: the kernel's answer is not understood: {reason}")]
    #[non_exhaustive]
    Malformed {
        /// What was asked for, as a verb.
        operation: &'static str,
        /// What it was asked for.
        object: String,
        /// What is wrong with the answer.
        reason: String,
    },
    /// A system call other than a netlink request failed.
    #[error("cannot {operation} {object}: {error}")]
    #[non_exhaustive]
    System {
        /// What was tried, as a verb: `open`.
        operation: &'static str,
        /// What it was tried on, often a path.
        object: String,
        /// The system's answer.
        error: io::Error,
    },
    /// Refused here, before the kernel was asked: the value makes no sense, or the kernel would
    /// accept it although it is wrong.
    #[error("{object} is not usable: {reason}")]
    #[non_exhaustive]
    Invalid {
        /// The value or the object it belongs to.
        object: String,
        /// Why it is refused, and what would be accepted.
        reason: String,
    },
    /// A text could not be read: a table, an address, a number.
    #[error("line {line}: {reason}")]
    #[non_exhaustive]
    Parse {
        /// Where, counted from 1.
        line: usize,
        /// What was found and what was expected.
        reason: String,
    },
    /// The object belongs to another program, and is left as it was.
    #[error("{object} is not ours: {reason}")]
    #[non_exhaustive]
    Foreign {
        /// The address, service or setting.
        object: String,
        /// How that was seen, and what to do.
        reason: String,
    },
    /// A file of our own cannot be believed: cut short, changed by hand, written by a later
    /// version.
    #[error("{} cannot be used: {reason}", path.display())]
    #[non_exhaustive]
    State {
        /// The file.
        path: PathBuf,
        /// What is wrong with it, and what to do.
        reason: String,
    },
    /// A later request for a role arrived while this one waited, and was carried out (or failed,
    /// and reported it) instead.
    #[error("{role} (request {generation}) was superseded by request {latest}")]
    #[non_exhaustive]
    Superseded {
        /// The role that was asked for.
        role: String,
        /// This request's number.
        generation: u64,
        /// The number of the later request.
        latest: u64,
    },
    /// Another process holds the lock.
    #[error("{object} is locked by another process for more than {waited:?}; see who holds it with `fuser {object}`")]
    #[non_exhaustive]
    Locked {
        /// The lock file.
        object: String,
        /// How long was waited.
        waited: Duration,
    },
    /// A step was carried out without an error, but the kernel does not show its effect.
    #[error("`{step}` did not take effect: {found}")]
    #[non_exhaustive]
    NotVerified {
        /// The step, as a plan prints it.
        step: String,
        /// What was found instead.
        found: String,
    },
    /// A step of a plan failed; those before it are done, those after it are not.
    #[error(
        "step {number} of {total} failed ({step}): {error}; the steps before it are done: run the same again to go on"
    )]
    #[non_exhaustive]
    Step {
        /// Which step, counted from 1.
        number: usize,
        /// How many there are.
        total: usize,
        /// The step, as a plan prints it.
        step: String,
        /// Why it failed.
        error: Box<Error>,
    },
    /// A demotion could not be carried out as planned, and the node has stopped directing as far
    /// as the kernel let it.
    #[error("{error}; {}", given_up(role, done, left))]
    #[non_exhaustive]
    Demotion {
        /// The role that was asked for.
        role: String,
        /// What was given up in spite of the failure.
        done: Vec<String>,
        /// What could not be given up, and why. Empty: the node directs no longer.
        left: Vec<String>,
        /// Why the plan failed.
        error: Box<Error>,
    },
    /// A list of changes failed at one of them.
    #[error("change {number} of {total} failed ({change}): {error}; {outcome}")]
    #[non_exhaustive]
    Change {
        /// Which change, counted from 1.
        number: usize,
        /// How many there are.
        total: usize,
        /// The change, as a plan prints it.
        change: String,
        /// Why it failed.
        error: Box<Error>,
        /// What the table is like now: as before, or what could not be undone.
        outcome: String,
    },
}

/// The errno of an error, or of the one that it wraps.
fn errno_of(error: &io::Error) -> Option<i32> {
    error.raw_os_error().or_else(|| {
        let inner = error.get_ref()?;
        inner.downcast_ref::<Error>().and_then(Error::errno).or_else(|| errno_of(inner.downcast_ref()?))
    })
}

impl Error {
    /// The kernel's errno (positive, see errno(3)), where there is one.
    pub fn errno(&self) -> Option<i32> {
        match self {
            Error::Refused { errno, .. } => Some(*errno),
            Error::System { error, .. } => errno_of(error),
            Error::Step { error, .. } | Error::Change { error, .. } | Error::Demotion { error, .. } => error.errno(),
            _ => None,
        }
    }

    /// What the kernel's refusal means, where it was one.
    pub fn cause(&self) -> Option<Cause> {
        match self {
            Error::Refused { cause, .. } => Some(*cause),
            Error::Step { error, .. } | Error::Change { error, .. } | Error::Demotion { error, .. } => error.cause(),
            _ => None,
        }
    }

    /// Whether this is a demotion after which the node directs no longer, though its plan failed.
    pub fn is_demoted(&self) -> bool {
        matches!(self, Error::Demotion { left, .. } if left.is_empty())
    }

    pub(crate) fn system(operation: &'static str, object: impl fmt::Display, error: impl Into<io::Error>) -> Self {
        Error::System { operation, object: object.to_string(), error: error.into() }
    }

    pub(crate) fn invalid(object: impl fmt::Display, reason: impl Into<String>) -> Self {
        Error::Invalid { object: object.to_string(), reason: reason.into() }
    }

    pub(crate) fn parse(line: usize, reason: impl Into<String>) -> Self {
        Error::Parse { line, reason: reason.into() }
    }
}

/// What a refusal of the kernel means. Its text says what to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Cause {
    /// `CAP_NET_ADMIN` is missing. IPVS wants it in the initial user namespace; a container's root
    /// is not enough.
    Permission,
    /// The kernel has no IPVS, and could not load it.
    NoIpvs,
    /// The kernel lacks this address family (usually IPv6 switched off).
    NoFamily,
    /// The scheduler or persistence engine is unknown and its module could not be loaded.
    NoModule,
    /// The kernel lacks a module of traffic control (`sch_ingress`, `cls_bpf`, `act_skbedit`), and
    /// could not load it.
    NoTcModule,
    /// The kernel does not let this process use bpf(2), or lacks what the program needs.
    NoBpf,
    /// No such virtual service.
    NoService,
    /// No such destination.
    NoDestination,
    /// The virtual service is there already.
    ServiceExists,
    /// The destination is there already.
    DestinationExists,
    /// A number is outside of what the kernel accepts.
    OutOfRange,
    /// No such network interface.
    NoInterface,
    /// The network interface is down, or has no carrier.
    InterfaceDown,
    /// The address is there already.
    AddressExists,
    /// The address is not there.
    NoAddress,
    /// The sync daemon runs already.
    DaemonRuns,
    /// The sync daemon does not run.
    NoDaemon,
    /// Another dump is under way on this socket.
    Busy,
    /// The kernel ran out of memory or buffers.
    NoMemory,
    /// The kernel finds the request wrong without saying why.
    Invalid,
    /// Anything else: see the errno.
    Other,
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Cause::Permission => {
                "CAP_NET_ADMIN is missing: run as root; for IPVS that must be root of the host, \
                 not of a user namespace (an unprivileged container)"
            }
            Cause::NoIpvs => {
                "this kernel has no IPVS: load it with `modprobe ip_vs`, or use a kernel built with CONFIG_IP_VS"
            }
            Cause::NoFamily => "the kernel lacks this address family: is IPv6 switched off?",
            Cause::NoModule => {
                "the scheduler or persistence engine is unknown: check its name, \
                 or load its module (`modprobe ip_vs_NAME`, `modprobe ip_vs_pe_NAME`)"
            }
            Cause::NoTcModule => {
                "the kernel lacks a module for tc filters (sch_ingress, cls_bpf, act_skbedit): install the package that \
                 holds it (Debian: linux-image; RHEL: kernel-modules-core, kernel-modules-extra) for the running kernel"
            }
            Cause::NoBpf => {
                "the kernel does not let this process use bpf(2): it takes CAP_BPF, CAP_NET_ADMIN and CAP_SYS_ADMIN in the \
                 initial user namespace and Linux 5.8 or later with CONFIG_BPF_SYSCALL; a seccomp filter, lockdown or a \
                 security module may forbid it"
            }
            Cause::NoService => "there is no such virtual service: add it first",
            Cause::NoDestination => "the virtual service has no such destination: add it first",
            Cause::ServiceExists => "the virtual service is there already: change it instead of adding it",
            Cause::DestinationExists => "the destination is there already: change it instead of adding it",
            Cause::OutOfRange => {
                "a number is out of range: weights are 0 to 2147483647, and the lower threshold must not be above the upper"
            }
            Cause::NoInterface => "there is no such network interface: see `ip link`",
            Cause::InterfaceDown => "the interface is down or has no carrier: see `ip link`",
            Cause::AddressExists => "the address is there already",
            Cause::NoAddress => "the address is not there",
            Cause::DaemonRuns => "the sync daemon runs already: stop it before starting it with other settings",
            Cause::NoDaemon => "the sync daemon does not run",
            Cause::Busy => "the socket is busy with another dump: use one client per thread",
            Cause::NoMemory => "the kernel ran out of memory or of socket buffers: try again with less at once",
            Cause::Invalid => {
                "the kernel finds the request invalid: check the addresses' families, \
                 that `lo` is up in this network namespace, and the tunnel's port"
            }
            Cause::Other => "the kernel refused it",
        })
    }
}

fn given_up(role: &str, done: &[String], left: &[String]) -> String {
    match left.is_empty() {
        true => {
            format!("the node directs no longer (it gave up {}); ask for {role} again to complete it", done.join(", "))
        }
        false => format!("the node may still direct, as it could not give up {}", left.join("; ")),
    }
}

/// `No such process, errno 3`: the system's words for an errno.
fn errno_text(errno: i32) -> String {
    let text = io::Error::from_raw_os_error(errno).to_string();
    format!("{}, errno {errno}", text.split(" (os error").next().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Programs with anyhow print the chain of sources with `{:#}`.
    #[test]
    fn an_error_prints_its_cause_once() {
        let refused = Error::system("write", "/run/x", io::Error::from_raw_os_error(28));
        let step = Error::Step { number: 1, total: 2, step: "record".into(), error: Box::new(refused) };
        assert_eq!((step.errno(), step.to_string().matches("No space left").count()), (Some(28), 1));
        assert_eq!(format!("{:#}", anyhow::Error::from(step)).matches("No space left").count(), 1);
    }

    #[test]
    fn the_errno_is_that_of_the_error_within() {
        let inner = Error::system("start", "a thread", io::Error::from_raw_os_error(11));
        let outer = Error::system("read", "x", io::Error::other(inner));
        assert_eq!(outer.errno(), Some(11));
        assert_eq!(Error::system("read", "y", io::Error::other(outer)).errno(), Some(11));
        let twice = io::Error::other(io::Error::from_raw_os_error(5));
        assert_eq!(Error::system("read", "z", twice).errno(), Some(5));
        assert_eq!(Error::system("read", "z", io::Error::other("a word")).errno(), None);
    }
}
