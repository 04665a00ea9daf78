//! Takes on roles, applies services and releases a node: each in its turn, planned, carried out
//! and verified.

use std::convert::Infallible;
use std::iter;
use std::time::{Duration, Instant};

use super::config::{Config, VipOwner};
use super::handle::Node;
use super::observe::Look;
use super::plan::{Plan, Step};
use super::planner::Memory;
use super::requests::{Later, Pauses, Request, Turn};
use super::role::Role;
use super::services::Apply;
use super::state::{StateDir, StoredTable};
use super::{planner, services};
use crate::arp::{Arp, ArpTarget};
use crate::error::{Error, Result};
use crate::ipvs::Table;

/// Time limit for the requests before this one.
pub(super) const LOCK_LIMIT: Duration = Duration::from_secs(30);

/// How often a node plans again for what other programs have changed meanwhile.
pub(super) const ROUNDS: usize = 3;

impl Node {
    /// Plans a role. Changes nothing.
    ///
    /// # Errors
    /// [`Error::Foreign`]: a VIP, a mark or a sync daemon belongs to another program;
    /// [`Error::Invalid`]: the kernel cannot do what the fence needs; [`Error::State`]: what was
    /// remembered cannot be believed; the errors of reading the kernel's state.
    pub fn plan(&mut self, role: Role) -> Result<Plan> {
        let memory = self.remember()?;
        self.plan_after(role, Apply::Changes, &memory, Look::All)
    }

    pub(super) fn plan_after(&mut self, role: Role, apply: Apply, memory: &Memory, look: Look) -> Result<Plan> {
        // Says now, and not half-way, that there is no such interface.
        if matches!(role, Role::Master | Role::Backup) {
            check_interfaces(&self.config, &self.arp)?;
        }
        let seen = self.observe_for(&memory.state, look)?;
        planner::for_role(&self.config, role, apply, memory, &seen)
    }

    /// Takes on a role, and returns what was done for it. Where all is in place already, nothing
    /// is.
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
        match self.take_on(role, None::<fn() -> Result<_, Infallible>>, &mut before)? {
            Ok(plan) => Ok(plan),
            Err(never) => match never {},
        }
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
        self.take_on(role, Some(services), &mut before)
    }

    pub(super) fn take_on<E, R: FnOnce() -> Result<Option<Table>, E>>(
        &mut self,
        role: Role,
        mut services: Option<R>,
        before: &mut impl FnMut(&Step),
    ) -> Result<Result<Plan, E>> {
        let mut had_turn = false;
        let result = self.in_turn(&role.to_string(), |node, request| {
            had_turn = true;
            let result = node.try_to_take_on(role, &mut services, request, before);
            if matches!(result, Ok(Ok(_)) | Err(Error::Superseded { .. })) || request.later()? != Later::None {
                return result;
            }
            // The lock is held: no later request is carried out meanwhile.
            node.record_unreached(role);
            match result {
                Err(error) if role != Role::Master => Err(node.stand_down(role, error)),
                Ok(Err(unreadable)) if role != Role::Master => {
                    let error = Error::invalid("services", "they cannot be read");
                    match node.stand_down(role, error) {
                        error @ Error::Demotion { .. } if !error.is_demoted() => Err(error),
                        _ => Ok(Err(unreadable)),
                    }
                }
                result => result,
            }
        });
        match result {
            Err(error) if !had_turn && role != Role::Master && !matches!(error, Error::Superseded { .. }) => {
                Err(self.stand_down(role, error))
            }
            result => result,
        }
    }

    fn try_to_take_on<E, R: FnOnce() -> Result<Option<Table>, E>>(
        &mut self,
        role: Role,
        services: &mut Option<R>,
        request: &Request,
        before: &mut impl FnMut(&Step),
    ) -> Result<Result<Plan, E>> {
        let done = match self.promote_at_once(role, request, before)? {
            Some(done) => match self.dir.load()?.group(&self.config.group).loaded {
                Some(_) => done,
                // The program that loaded the services may have changed ports and servers since.
                None => self.reach(role, Apply::Changes, request, before)?.preceded_by(done.steps),
            },
            None => {
                if let Some(read) = services.take() {
                    match read() {
                        Ok(table) => self.config.services = table,
                        Err(error) => return Ok(Err(error)),
                    }
                    self.config.check()?;
                }
                self.reach(role, Apply::Changes, request, before)?
            }
        };
        self.look_for_director(role)?;
        Ok(Ok(done))
    }

    /// Remembers that the node was told this role and has not reached it, where it has a role
    /// already. The lock is held.
    ///
    /// Not a promotion of a node that owns its VIPs: what it has begun is recorded, and one that
    /// was refused has changed nothing. A repair must not promote the node later, when another one
    /// was promoted in its place. keepalived has moved its VIP before.
    pub(super) fn record_unreached(&self, role: Role) {
        if role == Role::Master && self.config.vip_owner == VipOwner::Node {
            return;
        }
        let record = || -> Result<()> {
            let mut state = self.dir.load()?;
            let Some(group) = state.groups.get_mut(&self.config.group) else { return Ok(()) };
            if group.role.replace((role, false)) != Some((role, false)) {
                self.dir.save(&state)?;
            }
            Ok(())
        };
        // The error of the role itself is reported.
        let _ = record();
    }

    /// Brings the configured services into the kernel's table: what was changed in the
    /// configuration since it was loaded, or all of it. Destinations are changed in place, and
    /// keep their connections.
    ///
    /// # Errors
    /// As [`Node::become_role`]; [`Error::Invalid`] where no role was taken on yet.
    pub fn apply(&mut self, apply: Apply, mut before: impl FnMut(&Step)) -> Result<Plan> {
        self.beside("apply", LOCK_LIMIT, |node, request| {
            let role = node.present_role("apply")?;
            node.reach(role, apply, request, &mut before)
        })
    }

    /// Plans what [`Node::apply`] would do. Changes nothing.
    ///
    /// # Errors
    /// As [`Node::plan`]; [`Error::Invalid`] where no role was taken on yet.
    pub fn plan_apply(&mut self, apply: Apply) -> Result<Plan> {
        let (role, memory) = (self.present_role("apply")?, self.remember()?);
        self.plan_after(role, apply, &memory, Look::All)
    }

    pub(super) fn present_role(&self, what: &str) -> Result<Role> {
        let role = self.dir.load()?.group(&self.config.group).role;
        role.map(|(role, _)| role)
            .ok_or_else(|| Error::invalid(what, "this node has taken on no role yet: let it take on one first"))
    }

    /// Plans and acts until the role is in place. The lock is held.
    pub(super) fn reach(
        &mut self,
        role: Role,
        apply: Apply,
        request: &Request,
        before: &mut impl FnMut(&Step),
    ) -> Result<Plan> {
        let mut done = self.plan_after(role, apply, &self.remember()?, Look::AllAndResolve)?;
        self.run(&done, request, before)?;
        let mut rounds = 1;
        loop {
            let memory = Memory { state: done.after.clone(), ..self.remember()? };
            let again = self.plan_after(role, Apply::Changes, &memory, Look::All)?;
            match again.first_change() {
                None => {
                    done.warnings = again.warnings;
                    return Ok(done);
                }
                Some(step) if rounds == ROUNDS || done.steps.contains(step) => return Err(not_verified(step)),
                // Another program has changed something meanwhile: keepalived has moved its VIP,
                // say.
                Some(_) => {
                    self.run(&again, request, before)?;
                    done = again.preceded_by(done.steps);
                    rounds += 1;
                }
            }
        }
    }

    /// The promotion of a backup that has all it needs. `None`: it has to be looked at in full.
    pub(super) fn promote_at_once(
        &mut self,
        role: Role,
        request: &Request,
        before: &mut impl FnMut(&Step),
    ) -> Result<Option<Plan>> {
        if role != Role::Master {
            return Ok(None);
        }
        check_interfaces(&self.config, &self.arp)?;
        let state = self.dir.load()?;
        let seen = self.observe_in_brief(&state)?;
        let Some(plan) = planner::promotion(&self.config, &state, &seen) else { return Ok(None) };
        self.run(&plan, request, before)?;
        let seen = self.observe_in_brief(&plan.after)?;
        let left = planner::left_of_promotion(&self.config, &plan.after, &seen);
        // What another program has changed meanwhile is looked at in full.
        Ok(left.is_empty().then_some(plan))
    }

    /// Does `work` under the lock, unless a later request is carried out instead. Where the later
    /// request was killed, or gave up without a change, the earlier one goes on.
    pub(super) fn in_turn<T>(
        &mut self,
        role: &str,
        mut work: impl FnMut(&mut Self, &Request) -> Result<T>,
    ) -> Result<T> {
        self.dir.prepare()?;
        let request = self.dir.requests().draw(role)?;
        let (start, mut pauses) = (Instant::now(), Pauses::new());
        loop {
            match request.turn()? {
                Turn::Superseded(latest) => return Err(request.superseded(latest)),
                Turn::Waits(waits) if start.elapsed() > LOCK_LIMIT => return Err(request.timed_out(waits, LOCK_LIMIT)),
                Turn::Waits(_) => pauses.sleep(),
                Turn::Now(_lock) => {
                    self.dir.remove_leftovers();
                    match work(self, &request) {
                        Err(Error::Superseded { .. }) => {}
                        result => return result,
                    }
                }
            }
        }
    }

    /// Does `work` under the lock, and supersedes no request. It yields to every request that
    /// waits or comes meanwhile, and begins again after it, until `patience` has passed.
    pub(super) fn beside<T>(
        &mut self,
        what: &str,
        patience: Duration,
        mut work: impl FnMut(&mut Self, &Request) -> Result<T>,
    ) -> Result<T> {
        self.dir.prepare()?;
        let (start, mut pauses) = (Instant::now(), Pauses::new());
        loop {
            let lock = self.dir.lock(LOCK_LIMIT)?;
            let request = self.dir.requests().beside(what)?;
            let result = match self.dir.requests().is_pending()? {
                true => Err(request.superseded(self.dir.requests().latest()?)),
                false => work(self, &request),
            };
            drop(lock);
            match result {
                Err(Error::Superseded { .. }) if start.elapsed() < patience => pauses.sleep(),
                result => return result,
            }
        }
    }

    /// Plans to give everything back. Changes nothing.
    ///
    /// # Errors
    /// As [`Node::plan`].
    pub fn plan_release(&mut self) -> Result<Plan> {
        let mut memory = self.remember()?;
        if planner::is_last(&self.config, &memory.state) {
            for name in memory.state.obsolete(&self.config) {
                let dir = StateDir::new(&self.config.state_dir, &name);
                services::take_in(&mut memory.loaded, &dir.load_table(StoredTable::Loaded)?);
            }
        }
        let seen = self.observe_for(&memory.state, Look::All)?;
        planner::for_release(&self.config, &memory, &seen)
    }

    /// Takes the node out: VIPs that it placed go, rules and services of its marks go, ARP
    /// settings and sysctls get back the values that they had, services that were found running
    /// stay or come back, and what is remembered is forgotten. What other programs have changed
    /// since stays. What several groups share goes with the last of them.
    ///
    /// # Errors
    /// As [`Node::become_role`].
    pub fn release(&mut self, mut before: impl FnMut(&Step)) -> Result<Plan> {
        self.in_turn("release", |node, request| {
            let plan = node.plan_release()?;
            node.run(&plan, request, &mut before)?;
            Ok(plan)
        })
    }
}

pub(super) fn check_interfaces(config: &Config, arp: &Arp) -> Result<()> {
    let own = ArpTarget::Interface(config.interface.clone());
    let sync = ArpTarget::Interface(config.sync.interface.clone());
    let configured = config.arp.iter().map(|wanted| &wanted.target);
    iter::once(&own).chain(configured).chain([&sync]).try_for_each(|target| arp.get(target).map(drop))
}

pub(super) fn not_verified(step: &Step) -> Error {
    let found = "it is still to be done: does another program change the same thing?".into();
    Error::NotVerified { step: step.to_string(), found }
}
