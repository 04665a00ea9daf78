//! One change of the table, and how the kernel's refusals read.

use std::io;

use lvs_dr::ipvs::{Destination, DestinationEntry, Forward, Ipvs, Service, ServiceId};
use lvs_dr::{Error, Result};
use rustix::io::Errno;

use super::options::{self, Action, ServerEdit, ServiceRequest};
use super::{REFUSED, Refusal};

/// What was asked of the kernel: one errno means different things.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    AddService,
    EditService,
    DeleteService,
    ReadService,
    Zero,
    AddServer,
    EditServer,
    DeleteServer,
    StartDaemon,
    StopDaemon,
    Other,
}

/// A refusal in ipvsadm's words.
pub fn reason(operation: Operation, error: &Error) -> String {
    match error.errno() {
        Some(errno) => reason_of(operation, Errno::from_raw_os_error(errno)),
        None => error.to_string(),
    }
}

fn reason_of(operation: Operation, errno: Errno) -> String {
    use Operation::*;
    let known = match (errno, operation) {
        (Errno::EXIST, AddService) => "Service already exists",
        (Errno::NOENT, AddService | EditService) => "Scheduler or persistence engine not found",
        (Errno::SRCH, EditService | DeleteService | ReadService | Zero) => "No such service",
        (Errno::SRCH, AddServer | EditServer | DeleteServer) => "Service not defined",
        (Errno::EXIST, AddServer) => "Destination already exists",
        (Errno::NOENT, EditServer | DeleteServer) => "No such destination",
        (Errno::EXIST, StartDaemon) => "Daemon has already run",
        (Errno::SRCH, StopDaemon) => "No daemon is running",
        (Errno::PERM, _) => "Permission denied (you must be root)",
        (Errno::INVAL, _) => "Invalid operation.  Possibly wrong module version, address not unicast, ...",
        (Errno::NOPROTOOPT, _) => "Protocol not available",
        (Errno::NOMEM, _) => "Memory allocation problem",
        (Errno::OPNOTSUPP, _) => "Operation not supported with IPv6",
        (Errno::AFNOSUPPORT, _) => "Operation not supported with specified address family",
        (Errno::MSGSIZE, _) => "Module is wrong version",
        _ => {
            let text = io::Error::from(errno).to_string();
            return text.split(" (os error").next().unwrap_or_default().to_owned();
        }
    };
    known.to_owned()
}

/// A refusal by the kernel.
pub fn refused(operation: Operation, error: &Error) -> Refusal {
    Refusal::new(REFUSED, reason(operation, error))
}

/// A refusal that the kernel would give, but is not asked for.
pub fn would_refuse(operation: Operation, errno: Errno) -> Refusal {
    Refusal::new(REFUSED, reason_of(operation, errno))
}

/// Sends one change to the kernel.
pub fn carry_out(ipvs: &mut Ipvs, action: Action) -> Result<(), Refusal> {
    let (operation, result) = match action {
        Action::AddService(request) => {
            let service = possible(ipvs, request, Operation::AddService)?;
            (Operation::AddService, ipvs.add_service(&service))
        }
        Action::EditService(request) => {
            let service = possible(ipvs, request, Operation::EditService)?;
            (Operation::EditService, ipvs.replace_service(&service))
        }
        Action::DeleteService(id) => (Operation::DeleteService, ipvs.remove_service(&id)),
        Action::Clear => (Operation::Other, ipvs.flush()),
        Action::Zero(id) => (Operation::Zero, ipvs.zero(zeroed(&id))),
        Action::AddServer(id, destination) => {
            check_thresholds(ipvs, Operation::AddServer, &id, &destination)?;
            (Operation::AddServer, ipvs.add_destination(&id, &destination))
        }
        Action::EditServer(id, edit) => return edit_server(ipvs, &id, &edit),
        Action::DeleteServer(id, address) => (Operation::DeleteServer, ipvs.remove_destination(&id, address)),
        Action::Set(timeouts) => (Operation::Other, ipvs.set_timeouts(&timeouts)),
        Action::StartDaemon(daemon) => (Operation::StartDaemon, ipvs.start_sync_daemon(&daemon)),
        Action::StopDaemon(role) => (Operation::StopDaemon, ipvs.stop_sync_daemon(role)),
        // They change nothing.
        Action::Help | Action::Version | Action::List(_) | Action::Save | Action::Restore => return Ok(()),
    };
    result.map_err(|error| refused(operation, &error))
}

/// Address and port 0 stand for all services, as in ipvsadm.
pub fn zeroed(id: &Option<ServiceId>) -> Option<&ServiceId> {
    id.as_ref().filter(|id| id.address().is_none_or(|a| !a.ip().is_unspecified() || a.port() != 0))
}

/// The service, unless it names a module that cannot be. The kernel looks for the service first.
fn possible(ipvs: &mut Ipvs, request: ServiceRequest, operation: Operation) -> Result<Service, Refusal> {
    match request.service {
        Some(service) => Ok(service),
        None => Err(match (operation, ipvs.service(&request.id)) {
            (Operation::AddService, Ok(_)) => would_refuse(operation, Errno::EXIST),
            (Operation::EditService, Err(error)) => refused(operation, &error),
            _ => would_refuse(operation, Errno::NOENT),
        }),
    }
}

/// The library does not even ask the kernel for these, which says so with an errno, once it has
/// found the service.
fn check_thresholds(
    ipvs: &mut Ipvs,
    operation: Operation,
    id: &ServiceId,
    destination: &Destination,
) -> Result<(), Refusal> {
    if destination.lower_threshold <= destination.upper_threshold {
        return Ok(());
    }
    ipvs.service(id).map_err(|error| refused(operation, &error))?;
    Err(would_refuse(operation, Errno::RANGE))
}

fn edit_server(ipvs: &mut Ipvs, id: &ServiceId, edit: &ServerEdit) -> Result<(), Refusal> {
    let operation = Operation::EditServer;
    let after = match edit.everything() {
        Some(destination) => destination,
        None => {
            let found = ipvs.destinations(id).map_err(|error| refused(operation, &error))?;
            let before = found_by(edit, id, |address| {
                let is_it = |entry: &&DestinationEntry| entry.destination.address == address;
                found.iter().find(is_it).map(|entry| &entry.destination)
            })?;
            let mut after = before.clone();
            edit.apply(&mut after);
            if after == *before {
                return Ok(());
            }
            after
        }
    };
    check_thresholds(ipvs, operation, id, &after)?;
    ipvs.replace_destination(id, &after).map_err(|error| refused(operation, &error))
}

impl ServerEdit {
    /// All that a destination is, where the line names all of it.
    fn everything(&self) -> Option<Destination> {
        Some(
            Destination::new(self.address)
                .forward(self.forward?)
                .weight(self.weight?)
                .thresholds(self.lower_threshold?, self.upper_threshold?),
        )
    }
}

/// The destination that a line with `-e` means.
pub fn found_by<'a>(
    edit: &ServerEdit,
    id: &ServiceId,
    find: impl Fn(std::net::SocketAddr) -> Option<&'a Destination>,
) -> Result<&'a Destination, Refusal> {
    let named = if edit.forward.is_none() { find(edit.named) } else { None };
    if let Some(found) = named.or_else(|| find(edit.address)) {
        return Ok(found);
    }
    match id.family() != lvs_dr::ipvs::Family::of(edit.address.ip())
        && !matches!(edit.forward, Some(Forward::Tunnel(_)))
    {
        true => Err(options::mixed_families()),
        false => Err(would_refuse(Operation::EditServer, Errno::NOENT)),
    }
}
