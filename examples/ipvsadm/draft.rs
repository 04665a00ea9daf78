//! Changes made to a copy of the table, as the kernel would make them: so that many become one
//! plan, or none is made.

use lvs_dr::ipvs::{Change, Destination, Ipvs, Plan, ServiceId, Table};
use rustix::io::Errno;

use super::Refusal;
use super::edit::{self, Operation, would_refuse};
use super::options::{Action, ServiceRequest};

pub struct Draft {
    seen: Table,
    wanted: Table,
    /// The counters to be set to zero in the end: of one service or of all.
    pub zeroed: Vec<Option<ServiceId>>,
}

/// What a line with only one command would change, as commands.
pub fn plan_of(ipvs: &mut Ipvs, action: Action) -> Result<String, Refusal> {
    let mut draft = Draft::new(ipvs, concerns_settings(&action))?;
    draft.change(&action)?;
    Ok(draft.to_string())
}

/// Whether timeouts or daemons are to be changed.
pub fn concerns_settings(action: &Action) -> bool {
    matches!(action, Action::Set(_) | Action::StartDaemon(_) | Action::StopDaemon(_))
}

impl Draft {
    /// Begins with what the kernel has. Its timeouts and daemons count only where they are to be
    /// changed.
    pub fn new(ipvs: &mut Ipvs, with_settings: bool) -> Result<Self, Refusal> {
        let seen = if with_settings { ipvs.snapshot() } else { ipvs.table() };
        let seen = seen.map_err(|error| edit::refused(Operation::Other, &error))?;
        Ok(Draft { wanted: seen.clone(), seen, zeroed: Vec::new() })
    }

    /// From what the kernel has to what is wanted.
    pub fn plan(&self) -> Plan {
        Plan::between(&self.seen, &self.wanted)
    }

    pub fn clear(&mut self) {
        self.wanted.retain(|_| false);
    }

    /// Makes a change, or says why the kernel would not. That a module or an address is wrong only
    /// the kernel can tell.
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
        match (operation, self.wanted.service(&request.id)) {
            (Operation::AddService, Some(_)) => return Err(would_refuse(operation, Errno::EXIST)),
            (Operation::EditService, None) => return Err(would_refuse(operation, Errno::SRCH)),
            _ => {}
        }
        let service = request.service.clone().ok_or_else(|| would_refuse(operation, Errno::NOENT))?;
        self.wanted.insert(service);
        Ok(())
    }

    fn set_destination(&mut self, id: &ServiceId, new: Destination, operation: Operation) -> Result<(), Refusal> {
        let service = self.wanted.service(id).ok_or_else(|| would_refuse(operation, Errno::SRCH))?;
        if new.lower_threshold > new.upper_threshold {
            return Err(would_refuse(operation, Errno::RANGE));
        }
        if operation == Operation::AddServer && service.destination(new.address).is_some() {
            return Err(would_refuse(operation, Errno::EXIST));
        }
        // The service is there.
        let _ = self.wanted.insert_destination(id, new);
        Ok(())
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
