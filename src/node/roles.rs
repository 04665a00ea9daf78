//! Takes on roles, applies services and releases a node, for callers that wait for the end.

use rustix::io::Errno;

use super::config::Config;
use super::handle::Node;
use super::job::{self, Task};
use super::lan::{self, Doubt};
use super::observe::Look;
use super::plan::{Plan, Step};
use super::planner;
use super::role::Role;
use super::services::Apply;
use super::work::{Hooks, Services};
use crate::arp::{Arp, ArpTarget};
use crate::error::{Cause, Error, Result};
use crate::interface;
use crate::ipvs::Table;
use crate::vip::Vips;

impl Node {
    /// Plans a role. Changes nothing; a scheduler that no service has yet is tried for a moment
    /// with one of the node's own marks.
    ///
    /// # Errors
    /// [`Error::Refused`] with [`Cause::NoModule`]: the kernel lacks a scheduler or persistence
    /// engine; [`Error::Foreign`]: a VIP, a mark or a sync daemon belongs to another program;
    /// [`Error::Invalid`]: the kernel cannot do what the fence needs; [`Error::State`]: what was
    /// remembered cannot be believed; the errors of reading the kernel's state.
    pub fn plan(&mut self, role: Role) -> Result<Plan> {
        self.plan_task(Task::Role(role))
    }

    pub(super) fn plan_task(&mut self, task: Task) -> Result<Plan> {
        let (memory, seen) = self.look(Some(task), Look::All)?;
        let plan = job::plan(&self.config, task, &memory, &seen)?;
        self.try_services(plan.trials(&seen.table, self.config.marks.values))?;
        Ok(plan)
    }

    pub(super) fn check_interface_for(&mut self, role: Role) -> Result<()> {
        match role {
            Role::Master | Role::Backup => self.check_interface(),
            Role::Fault | Role::Stop => Ok(()),
        }
    }

    /// Whether the interface exists, and has IPv4. Without the one of the sync daemons a role is
    /// taken on all the same.
    pub(super) fn check_interface(&mut self) -> Result<()> {
        check_interface(&self.config, &self.arp, &mut self.vips)
    }

    /// Takes on a role, and returns what was done for it. Where all is in place already, nothing
    /// is. For programs with a loop of their own, see [`Driver`](super::Driver).
    ///
    /// Blocks for 30 s at most while other requests and processes are at work, and then for its
    /// own steps: 300 ms at most for the answers of nodes whose MAC address is unknown, 200 ms for
    /// that of another director, 2 s to read a former director's connections, and some
    /// milliseconds each time nft(8) or iptables(8) run.
    ///
    /// # Errors
    /// As [`Node::plan`]; [`Error::Superseded`]: a later request came while this one waited;
    /// [`Error::Locked`]; [`Error::Step`]: a step failed, those before it are done;
    /// [`Error::NotVerified`]. Whatever the error, the same request (or another) can be made
    /// again, and goes on from what is there.
    pub fn become_role(&mut self, role: Role) -> Result<Plan> {
        self.become_role_with(role, |_| ())
    }

    /// Takes on a role, and calls `before` with each step before it is done.
    ///
    /// # Errors
    /// As [`Node::become_role`].
    pub fn become_role_with(&mut self, role: Role, mut before: impl FnMut(&Step)) -> Result<Plan> {
        self.carry_out(Task::Role(role), &mut before)
    }

    /// Takes on a role with services that are read only where they are needed: not for the
    /// promotion of a backup that is ready. What is configured as [`Config::services`] until then
    /// is not looked at. The inner error is the reader's.
    ///
    /// # Errors
    /// As [`Node::become_role`]; [`Error::Invalid`] for services that do not fit the
    /// configuration.
    pub fn become_role_reading<E>(
        &mut self,
        role: Role,
        services: impl FnOnce() -> Result<Option<Table>, E>,
        mut before: impl FnMut(&Step),
    ) -> Result<Result<Plan, E>> {
        let (mut services, mut unreadable) = (Some(services), None);
        let mut read = || match services.take().map(|read| read()) {
            None => Services::AsConfigured,
            Some(Ok(table)) => Services::Read(table),
            Some(Err(error)) => {
                unreadable = Some(error);
                Services::Unreadable
            }
        };
        let result = self.drive(Task::Role(role), &mut Hooks { before: &mut before, services: &mut read });
        match (result, unreadable) {
            // That the node keeps a VIP is worse.
            (Err(error @ Error::Demotion { .. }), Some(_)) if !error.is_demoted() => Err(error),
            (Err(error @ Error::Superseded { .. }), _) => Err(error),
            (_, Some(unreadable)) => Ok(Err(unreadable)),
            (result, None) => result.map(Ok),
        }
    }

    /// Remembers that the node was told this role and has not reached it. With the lock, unless it
    /// was not to be had.
    pub(super) fn record_unreached(&self, role: Role, is_locked: bool) {
        let record = || match planner::unreached(&self.config, &self.dir.load()?, role) {
            Some(state) => self.dir.save(&state),
            None => Ok(()),
        };
        let recorded = is_locked && record().is_ok();
        if !recorded && role != Role::Master {
            // The error of the role itself is reported.
            let _ = self.dir.mark_demoted();
        }
    }

    /// Brings the configured services into the kernel's table: what was changed in the
    /// configuration since it was loaded, or all of it. Destinations are changed in place, and
    /// keep their connections.
    ///
    /// # Errors
    /// As [`Node::become_role`]; [`Error::Invalid`] where no role was taken on yet.
    pub fn apply(&mut self, apply: Apply, mut before: impl FnMut(&Step)) -> Result<Plan> {
        self.carry_out(Task::Apply(apply), &mut before)
    }

    /// Plans what [`Node::apply`] would do. Changes nothing.
    ///
    /// # Errors
    /// As [`Node::plan`]; [`Error::Invalid`] where no role was taken on yet.
    pub fn plan_apply(&mut self, apply: Apply) -> Result<Plan> {
        self.plan_task(Task::Apply(apply))
    }

    /// Plans to give everything back. Changes nothing.
    ///
    /// # Errors
    /// As [`Node::plan`].
    pub fn plan_release(&mut self) -> Result<Plan> {
        self.plan_task(Task::Release)
    }

    /// Takes the node out: VIPs that it placed go, rules and services of its marks go, ARP
    /// settings and sysctls get back the values that they had, services that were found running
    /// stay or come back, and what is remembered is forgotten. What other programs have changed
    /// since stays. What several groups share goes with the last of them.
    ///
    /// # Errors
    /// As [`Node::become_role`].
    pub fn release(&mut self, mut before: impl FnMut(&Step)) -> Result<Plan> {
        self.carry_out(Task::Release, &mut before)
    }
}

pub(super) fn check_interface(config: &Config, arp: &Arp, vips: &mut Vips) -> Result<()> {
    let name = &config.interface;
    // A longer one is an alternative name that no interface has.
    let is_missing = interface::check_name(name).is_err()
        || match arp.get(&ArpTarget::Interface(name.clone())) {
            Err(error) if error.cause() == Some(Cause::NoInterface) => true,
            result => result.map(|_| false)?,
        };
    if !is_missing {
        return Ok(());
    }
    Err(Error::Refused {
        operation: "find",
        object: format!("interface {name}{}", hint(config, vips)?),
        errno: Errno::NODEV.raw_os_error(),
        cause: Cause::NoInterface,
        message: None,
    })
}

/// What may be meant by the name of an interface that does not exist.
fn hint(config: &Config, vips: &mut Vips) -> Result<String> {
    let name = &config.interface;
    if let Some((name, _)) = name.split_once('@')
        && vips.name_of(name)?.is_some()
    {
        return Ok(format!(" (ip-link(8) prints NAME@BELOW: its name is {name})"));
    }
    let (addresses, links) = vips.all_with_links()?;
    Ok(match lan::doubt(name, &config.vips, &links, &addresses) {
        Some(Doubt::Elsewhere { vip, near, .. }) => {
            format!(" ({}/{} on {} is in the subnet of {vip})", near.address, near.prefix, near.interface)
        }
        _ => String::new(),
    })
}
