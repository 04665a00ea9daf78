//! A change as a request, and a refusal as an error.

use std::time::Duration;

use rustix::io::Errno;

use super::destination::Named;
use super::wire::{self, Command, push_u32};
use super::{Change, Destination, Service, ServiceId};
use crate::error::{Cause, Error, Result};
use crate::netlink::Failure;

pub(super) fn check(change: &Change) -> Result<()> {
    match change {
        Change::AddService(service) | Change::ReplaceService(service) => service.check(),
        Change::AddDestination(id, destination) | Change::ReplaceDestination(id, destination) => destination.check(id),
        Change::SetTimeouts(timeouts) => timeouts.check(),
        Change::StartDaemon(daemon) => daemon.check(),
        Change::RemoveService(_) | Change::RemoveDestination(..) | Change::StopDaemon(_) => Ok(()),
    }
}

/// Appends the attributes of the request for a change.
pub(super) fn encode(change: &Change, octets: &mut Vec<u8>) {
    match change {
        Change::AddService(service) | Change::ReplaceService(service) => wire::service::push(octets, service),
        Change::RemoveService(id) => wire::service::push_id(octets, id),
        Change::AddDestination(id, destination) | Change::ReplaceDestination(id, destination) => {
            wire::service::push_id(octets, id);
            wire::destination::push(octets, destination);
        }
        Change::RemoveDestination(id, destination) => {
            wire::service::push_id(octets, id);
            wire::destination::push_address_of(octets, destination.address);
        }
        Change::SetTimeouts(timeouts) => {
            let mut seconds = |kind, time: Duration| push_u32(octets, kind, time.as_secs() as u32);
            seconds(wire::TIMEOUT_TCP, timeouts.tcp);
            seconds(wire::TIMEOUT_TCP_FIN, timeouts.tcp_fin);
            seconds(wire::TIMEOUT_UDP, timeouts.udp);
        }
        Change::StopDaemon(role) => wire::daemon::push_role(octets, *role),
        Change::StartDaemon(daemon) => wire::daemon::push(octets, daemon),
    }
}

/// Writes the request of an index: appends the attributes and returns the command.
pub(super) fn requests(changes: &[Change]) -> impl Fn(usize, &mut Vec<u8>) -> u8 {
    |index, octets| {
        encode(&changes[index], octets);
        command(&changes[index]) as u8
    }
}

/// The command of the request for a change.
pub(super) fn command(change: &Change) -> Command {
    match change {
        Change::AddService(_) => Command::NewService,
        Change::ReplaceService(_) => Command::SetService,
        Change::RemoveService(_) => Command::DelService,
        Change::AddDestination(..) => Command::NewDestination,
        Change::ReplaceDestination(..) => Command::SetDestination,
        Change::RemoveDestination(..) => Command::DelDestination,
        Change::SetTimeouts(_) => Command::SetConfig,
        Change::StopDaemon(_) => Command::DelDaemon,
        Change::StartDaemon(_) => Command::NewDaemon,
    }
}

/// The error of a change.
pub(super) fn explain(change: &Change, failure: Failure) -> Error {
    let named = |service: &ServiceId, d: &Destination| Named { service, address: d.address }.to_string();
    let with_scheduler = |service: &Service| format!("{} (scheduler {})", service.id, service.scheduler);
    let (operation, object) = match change {
        Change::AddService(service) => ("add service", with_scheduler(service)),
        Change::ReplaceService(service) => ("change service", with_scheduler(service)),
        Change::RemoveService(id) => ("remove service", id.to_string()),
        Change::AddDestination(id, d) => ("add destination", named(id, d)),
        Change::ReplaceDestination(id, d) => ("change destination", named(id, d)),
        Change::RemoveDestination(id, d) => ("remove destination", named(id, d)),
        Change::SetTimeouts(_) => ("set", "the timeouts".into()),
        Change::StopDaemon(role) => ("stop", format!("the sync daemon {role}")),
        Change::StartDaemon(daemon) => ("start", daemon.to_string()),
    };
    failure.explain(operation, object, |errno| cause(command(change), errno))
}

/// What an errno means: one value means different things in different operations. From
/// net/netfilter/ipvs/ip_vs_ctl.c.
pub(super) fn cause(command: Command, errno: i32) -> Cause {
    use Command::*;
    match (Errno::from_raw_os_error(errno), command) {
        (Errno::PERM, _) => Cause::Permission,
        (Errno::SRCH, DelDaemon) => Cause::NoDaemon,
        (Errno::SRCH, _) => Cause::NoService,
        (Errno::NOENT, NewService | SetService) => Cause::NoModule,
        (Errno::NOENT, SetDestination | DelDestination) => Cause::NoDestination,
        (Errno::EXIST, NewService) => Cause::ServiceExists,
        (Errno::EXIST, NewDestination) => Cause::DestinationExists,
        (Errno::EXIST, NewDaemon) => Cause::DaemonRuns,
        (Errno::NODEV, NewDaemon) => Cause::NoInterface,
        (Errno::RANGE, _) => Cause::OutOfRange,
        (Errno::AFNOSUPPORT, _) => Cause::NoFamily,
        (Errno::NOMEM | Errno::NOBUFS, _) => Cause::NoMemory,
        (Errno::BUSY, _) => Cause::Busy,
        (Errno::INVAL, _) => Cause::Invalid,
        _ => Cause::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The rows that need a request which this crate does not make are seen here only; the others
    /// also in tests/kernel.
    #[test]
    fn an_errno_means_what_the_operation_says() {
        use Command::*;
        for (command, errno, expected, words) in [
            (NewService, Errno::INVAL, Cause::Invalid, "check the addresses"),
            (NewService, Errno::AFNOSUPPORT, Cause::NoFamily, "IPv6 switched off"),
            (GetDestination, Errno::AFNOSUPPORT, Cause::NoFamily, "address family"),
            (NewService, Errno::NOENT, Cause::NoModule, "modprobe ip_vs_NAME"),
            (SetService, Errno::NOENT, Cause::NoModule, "scheduler or persistence engine"),
            (SetDestination, Errno::NOENT, Cause::NoDestination, "add it first"),
            (DelDestination, Errno::NOENT, Cause::NoDestination, "no such destination"),
            (SetService, Errno::SRCH, Cause::NoService, "add it first"),
            (NewDestination, Errno::SRCH, Cause::NoService, "no such virtual service"),
            (Zero, Errno::SRCH, Cause::NoService, "no such virtual service"),
            (NewService, Errno::EXIST, Cause::ServiceExists, "there already"),
            (NewDestination, Errno::EXIST, Cause::DestinationExists, "there already"),
            (NewDestination, Errno::RANGE, Cause::OutOfRange, "weights are 0 to 2147483647"),
            (NewDaemon, Errno::NODEV, Cause::NoInterface, "ip link"),
            (NewDaemon, Errno::EXIST, Cause::DaemonRuns, "stop it before"),
            (NewDaemon, Errno::INVAL, Cause::Invalid, "invalid"),
            (DelDaemon, Errno::SRCH, Cause::NoDaemon, "does not run"),
            (GetService, Errno::BUSY, Cause::Busy, "one client per thread"),
            (Flush, Errno::PERM, Cause::Permission, "CAP_NET_ADMIN"),
            (NewService, Errno::NOMEM, Cause::NoMemory, "out of memory"),
            (Flush, Errno::NOSYS, Cause::Other, "refused"),
        ] {
            let error =
                Failure::Refused { errno: errno.raw_os_error(), message: None }
                    .explain("try", "this", |errno| cause(command, errno));
            assert_eq!(error.cause(), Some(expected), "{command:?} {errno:?}");
            assert_eq!(error.errno(), Some(errno.raw_os_error()));
            assert!(error.to_string().contains(words), "{command:?} {errno:?}: {error}");
        }
    }
}
