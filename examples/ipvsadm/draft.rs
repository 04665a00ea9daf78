//! Changes made to a copy of the table, as the kernel would make them: so that many become one
//! plan, or none is made.

use std::collections::BTreeSet;

use lvs_dr::ipvs::{Change, Destination, Detail, Ipvs, Plan, ServiceId, SyncRole, Table};
use lvs_dr::{Cause, Result as LibraryResult};
use rustix::io::Errno;

use super::Refusal;
use super::edit::{self, Operation, would_refuse};
use super::options::{Action, ServiceRequest};

/// How many services are read one by one at most.
const FEW: usize = 16;

pub struct Draft {
    seen: Table,
    wanted: Table,
    /// The counters to be set to zero in the end: of one service or of all.
    pub zeroed: Vec<Option<ServiceId>>,
}

/// What a line with only one command would change, as commands.
pub fn plan_of(ipvs: &mut Ipvs, action: Action) -> Result<String, Refusal> {
    let mut draft = Draft::new(ipvs, [&action])?;
    draft.change(&action)?;
    Ok(draft.to_string())
}

/// Whether timeouts or daemons are to be changed.
fn concerns_settings(action: &Action) -> bool {
    matches!(action, Action::Set(_) | Action::StartDaemon(_) | Action::StopDaemon(_))
}

/// The services that these actions change or look for. `None`: all, or more than a few.
fn named<'a>(actions: impl Iterator<Item = &'a Action>) -> Option<BTreeSet<ServiceId>> {
    let mut ids = BTreeSet::new();
    for action in actions {
        match action {
            Action::AddService(request) | Action::EditService(request) => ids.extend([request.id]),
            Action::DeleteService(id)
            | Action::AddServer(id, _)
            | Action::EditServer(id, _)
            | Action::DeleteServer(id, _) => ids.extend([*id]),
            Action::Zero(id) => ids.extend(edit::zeroed(id)),
            Action::Clear => return None,
            Action::Set(_) | Action::StartDaemon(_) | Action::StopDaemon(_) => {}
            Action::Help | Action::Version | Action::List(_) | Action::Save | Action::Restore => {}
        }
        if ids.len() > FEW {
            return None;
        }
    }
    Some(ids)
}

/// Reads the part of the kernel's table that these actions are about.
fn read<'a>(ipvs: &mut Ipvs, actions: impl Iterator<Item = &'a Action> + Clone) -> LibraryResult<Table> {
    let mut table = match named(actions.clone()) {
        // Where a kernel lacks IPv6, the name of such a service is an error, and a list is not.
        Some(ids) => read_services(ipvs, &ids).or_else(|_| ipvs.table()),
        None => ipvs.table(),
    }?;
    if actions.clone().any(concerns_settings) {
        table.timeouts = Some(ipvs.timeouts()?);
        let running = ipvs.sync_daemons()?.into_iter().map(|daemon| (daemon.role, Some(daemon)));
        table.daemons = [(SyncRole::Master, None), (SyncRole::Backup, None)].into_iter().chain(running).collect();
    }
    Ok(table)
}

/// Those of these services that exist.
fn read_services(ipvs: &mut Ipvs, ids: &BTreeSet<ServiceId>) -> LibraryResult<Table> {
    let found = ids.iter().map(|id| ipvs.entry(id, Detail::Configuration));
    found.filter(|found| !found.as_ref().is_err_and(|error| error.cause() == Some(Cause::NoService))).collect()
}

impl Draft {
    /// Begins with what the kernel has of what these actions are about.
    pub fn new<'a>(
        ipvs: &mut Ipvs,
        actions: impl IntoIterator<Item = &'a Action, IntoIter: Clone>,
    ) -> Result<Self, Refusal> {
        let seen = read(ipvs, actions.into_iter()).map_err(|error| edit::refused(Operation::Other, &error))?;
        Ok(Draft { wanted: seen.clone(), seen, zeroed: Vec::new() })
    }

    /// From what the kernel has to what is wanted.
    pub fn plan(&self) -> Plan {
        Plan::between(&self.seen, &self.wanted)
    }

    pub fn clear(&mut self) {
        self.wanted.retain(|_| false);
    }

    /// Makes a change, or says why the kernel would not, and is of no use any more. That a module
    /// or an address is wrong only the kernel can tell.
    pub fn change(&mut self, action: &Action) -> Result<(), Refusal> {
        match action {
            Action::AddService(request) => self.set_service(request, Operation::AddService),
            Action::EditService(request) => self.set_service(request, Operation::EditService),
            Action::DeleteService(id) => match self.wanted.remove(id) {
                true => Ok(()),
                false => Err(would_refuse(Operation::DeleteService, Errno::SRCH)),
            },
            Action::Clear => {
                self.clear();
                Ok(())
            }
            Action::Zero(id) => {
                let id = edit::zeroed(id);
                if id.is_some_and(|id| self.wanted.service(id).is_none()) {
                    return Err(would_refuse(Operation::Zero, Errno::SRCH));
                }
                self.zeroed.push(id.copied());
                Ok(())
            }
            Action::AddServer(id, destination) => self.set_destination(id, destination.clone(), Operation::AddServer),
            Action::EditServer(id, edit) => {
                let service = self.wanted.service(id);
                let service = service.ok_or_else(|| would_refuse(Operation::EditServer, Errno::SRCH))?;
                let mut destination = edit::found_by(edit, id, |address| service.destination(address))?.clone();
                edit.apply(&mut destination);
                self.set_destination(id, destination, Operation::EditServer)
            }
            Action::DeleteServer(id, address) => {
                let service = self.wanted.service(id);
                let service = service.ok_or_else(|| would_refuse(Operation::DeleteServer, Errno::SRCH))?;
                if service.destination(*address).is_none() {
                    return Err(would_refuse(Operation::DeleteServer, Errno::NOENT));
                }
                self.wanted.remove_destination(id, *address);
                Ok(())
            }
            Action::Set(timeouts) => {
                let wanted = self.wanted.timeouts.get_or_insert(*timeouts);
                for (wanted, new) in [
                    (&mut wanted.tcp, timeouts.tcp),
                    (&mut wanted.tcp_fin, timeouts.tcp_fin),
                    (&mut wanted.udp, timeouts.udp),
                ] {
                    *wanted = if new.is_zero() { *wanted } else { new };
                }
                Ok(())
            }
            Action::StartDaemon(daemon) => match self.wanted.daemons.get(&daemon.role) {
                Some(Some(_)) => Err(would_refuse(Operation::StartDaemon, Errno::EXIST)),
                _ => {
                    self.wanted.daemons.insert(daemon.role, Some(daemon.clone()));
                    Ok(())
                }
            },
            Action::StopDaemon(role) => match self.wanted.daemons.insert(*role, None) {
                Some(Some(_)) => Ok(()),
                _ => Err(would_refuse(Operation::StopDaemon, Errno::SRCH)),
            },
            Action::Help | Action::Version | Action::List(_) | Action::Save | Action::Restore => Ok(()),
        }
    }

    fn set_service(&mut self, request: &ServiceRequest, operation: Operation) -> Result<(), Refusal> {
        let is_new = match request.service.clone() {
            Some(service) => self.wanted.insert(service),
            None => self.wanted.service(&request.id).is_none(),
        };
        match operation {
            Operation::AddService if !is_new => Err(would_refuse(operation, Errno::EXIST)),
            Operation::EditService if is_new => Err(would_refuse(operation, Errno::SRCH)),
            _ if request.service.is_none() => Err(would_refuse(operation, Errno::NOENT)),
            _ => Ok(()),
        }
    }

    fn set_destination(&mut self, id: &ServiceId, new: Destination, operation: Operation) -> Result<(), Refusal> {
        let out_of_range = new.lower_threshold > new.upper_threshold;
        match self.wanted.insert_destination(id, new) {
            Err(_) => Err(would_refuse(operation, Errno::SRCH)),
            Ok(_) if out_of_range => Err(would_refuse(operation, Errno::RANGE)),
            Ok(Some(_)) if operation == Operation::AddServer => Err(would_refuse(operation, Errno::EXIST)),
            Ok(_) => Ok(()),
        }
    }
}

/// As commands, in the order in which they are carried out.
impl std::fmt::Display for Draft {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.plan())?;
        self.zeroed.iter().try_for_each(|id| match id {
            None => writeln!(f, "-Z"),
            // As `-D` names it.
            Some(id) => writeln!(f, "-Z{}", Change::RemoveService(*id).to_string().trim_start_matches("-D")),
        })
    }
}
