//! A request that is under way, as a state machine: in what phase it is, what it waits for, and
//! what is to be done next. Pure: it looks at no clock, holds no lock and touches no kernel.
//!
//! [`Job::on`] takes what has happened and returns what is to be done. [`Work`](super::work)
//! does it, for callers that wait and for callers that have a loop of their own; the simulation
//! does it in a model.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::audit;
use super::config::Config;
use super::drain::{self, Weigh};
use super::fence::Fence;
use super::observation::Observation;
use super::observe::Look;
use super::plan::{Plan, Step};
use super::planner::{self, Memory};
use super::requests::Pauses;
use super::role::Role;
use super::services::{Apply, Trial};
use crate::error::{Error, Result};

/// Time limit for the work of other requests and processes before this one.
pub(super) const LOCK_LIMIT: Duration = Duration::from_secs(30);

/// How often a node plans again for what other programs have changed meanwhile.
const ROUNDS: usize = 3;

/// What a node is asked to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum Task {
    /// Take on a role, see [`Node::become_role`](super::Node::become_role).
    Role(Role),
    /// Give everything back, see [`Node::release`](super::Node::release).
    Release,
    /// Bring the configured services into the kernel's table, see
    /// [`Node::apply`](super::Node::apply).
    Apply(Apply),
    /// Change the weights of a server's destinations, see [`Node::weigh`](super::Node::weigh).
    Weigh {
        /// The server; `None`: this node.
        server: Option<IpAddr>,
        /// What its weights become.
        to: Weigh,
    },
    /// Set right what other programs have changed, see [`Node::repair`](super::Node::repair).
    Repair,
    /// Place VIPs that other programs have removed, see
    /// [`Node::restore_vips`](super::Node::restore_vips).
    RestoreVips,
    /// Set right what an audit finds, see [`Node::fix`](super::Node::fix).
    Fix,
}

impl Task {
    /// Whether it supersedes the requests before it. The others yield to every request, also to
    /// one that was made before them.
    pub(super) fn supersedes(self) -> bool {
        matches!(self, Task::Role(_) | Task::Release)
    }

    /// For how long one that has yielded tries again.
    fn patience(self) -> Duration {
        match self {
            Task::Repair | Task::RestoreVips => Duration::ZERO,
            _ => LOCK_LIMIT,
        }
    }

    /// The name in messages.
    pub(super) fn name(self) -> String {
        match self {
            Task::Role(role) => role.to_string(),
            Task::Release => "release".into(),
            Task::Apply(_) => "apply".into(),
            Task::Weigh { to, .. } => to.name().into(),
            Task::Repair | Task::RestoreVips => "repair".into(),
            Task::Fix => "fix".into(),
        }
    }
}

/// What is to be done next for a job. Each is answered by one event.
#[derive(Debug)]
pub(super) enum Action {
    /// Wait until then, without the lock. Answered by [`Event::Time`].
    Wait(Instant),
    /// Free the lock, and look whether it is the request's turn. Answered by [`Event::Turn`].
    TakeTurn,
    /// Read the configured services, where they are read late. Answered by [`Event::Services`].
    ReadServices,
    /// Read what is remembered, and look at the kernel. Answered by [`Event::Seen`].
    Look(Extent),
    /// Try what the kernel may lack. Answered by [`Event::Done`].
    Try(Vec<Trial>),
    /// Carry out this step of the job's plan, unless another request came. Answered by
    /// [`Event::Done`].
    Act(usize),
    /// Look for the node that directs. Answered by [`Event::Searched`].
    FindDirector(Role),
    /// Take back what the node must not keep after this error, unless another request came.
    /// Answered by [`Event::GaveUp`].
    GiveUp(Role, Error),
    /// The job has ended. Not answered.
    End(Result<Plan>),
}

/// How much is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Extent {
    /// What the promotion of a backup that is ready depends on, and the demotion of a director.
    Brief,
    /// All of it.
    Whole(Look),
}

/// What has happened. In each, [`Error::Superseded`] says that another request goes first.
#[derive(Debug)]
pub(super) enum Event {
    /// The job begins, or the time has come that it waited for.
    Time,
    /// It is the request's turn, or another one is at work.
    Turn(Result<Turn>),
    /// The services were read into the configuration.
    Services(Result<()>),
    /// What is remembered, and what the kernel shows.
    Seen(Result<Box<(Memory, Observation)>>),
    /// The step was carried out, or the kernel lacks nothing.
    Done(Result<()>),
    /// The search for the director has ended.
    Searched(Result<()>),
    /// The node gave up what it could. The error says what.
    GaveUp(Error),
}

/// Whether it is the request's turn.
#[derive(Debug)]
pub(super) enum Turn {
    /// It is, and the lock is held.
    Now,
    /// Another process is at work, or a later request waits that may still be killed. The error is
    /// that of a request that has waited for too long.
    Waits(Error),
}

/// What a job waits for.
#[derive(Debug)]
enum Phase {
    /// It waits for its turn, from the beginning or after another request.
    Turn,
    /// The services are read.
    Services,
    /// The kernel is looked at, to make a plan.
    Looking(Extent),
    /// What the plan needs of the kernel is tried.
    Trying { plan: Plan, check: Check },
    /// The plan is carried out, from this step on.
    Running { plan: Plan, next: usize, check: Check },
    /// The kernel is looked at, to see whether the plan was carried out.
    Checking { plan: Plan, check: Check },
    /// The role is reached, and the node that directs is looked for.
    Searching(Plan),
    /// The node gives up what it must not keep.
    GivingUp,
    /// It has ended.
    Ended,
}

/// How a plan is verified.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Check {
    /// Not at all: its steps verify themselves.
    None,
    /// By a look in brief, at what this role needs.
    Brief(Role),
    /// By a look at the whole. So many plans were made.
    Whole(usize),
}

/// One request that is under way.
#[derive(Debug)]
pub(super) struct Job {
    task: Task,
    phase: Phase,
    began: Instant,
    pauses: Pauses,
    /// The steps of plans that were carried out before the present one.
    done: Vec<Step>,
}

impl Job {
    pub(super) fn new(task: Task, now: Instant) -> Self {
        Job { task, phase: Phase::Turn, began: now, pauses: Pauses::new(), done: Vec::new() }
    }

    pub(super) fn task(&self) -> Task {
        self.task
    }

    /// The plan that is being carried out.
    pub(super) fn plan(&self) -> Option<&Plan> {
        match &self.phase {
            Phase::Running { plan, .. } => Some(plan),
            _ => None,
        }
    }

    /// The step that is being carried out.
    pub(super) fn step(&self) -> Option<usize> {
        match &self.phase {
            Phase::Running { next, .. } => next.checked_sub(1),
            _ => None,
        }
    }

    /// Takes in what has happened, and says what is to be done next.
    pub(super) fn on(&mut self, config: &Config, now: Instant, event: Event) -> Action {
        // What follows sets the next phase.
        match std::mem::replace(&mut self.phase, Phase::Ended) {
            Phase::Turn => self.in_turn(now, event).unwrap_or_else(|error| self.wait_or_end(now, error)),
            Phase::GivingUp => match event {
                Event::GaveUp(Error::Superseded { .. }) => self.take_turn(),
                Event::GaveUp(error) => self.end(Err(error)),
                event => self.refuse(&event),
            },
            phase => self.at_work(config, phase, event).unwrap_or_else(|error| self.fail(now, error)),
        }
    }

    fn in_turn(&mut self, now: Instant, event: Event) -> Result<Action> {
        match event {
            Event::Time => Ok(self.take_turn()),
            Event::Turn(turn) => match turn? {
                Turn::Now => Ok(self.begin()),
                Turn::Waits(error) if now.duration_since(self.began) > LOCK_LIMIT => Err(error),
                Turn::Waits(Error::Superseded { .. }) => Ok(self.wait(now, Pauses::next_behind_later)),
                Turn::Waits(_) => Ok(self.wait(now, Pauses::next)),
            },
            event => Ok(self.refuse(&event)),
        }
    }

    fn at_work(&mut self, config: &Config, phase: Phase, event: Event) -> Result<Action> {
        match (phase, event) {
            (Phase::Services, Event::Services(read)) => {
                read?;
                Ok(self.look(Extent::Whole(Look::AllAndResolve)))
            }
            (Phase::Looking(Extent::Brief), Event::Seen(seen)) => {
                let (memory, seen) = *seen?;
                self.plan_in_brief(config, &memory, &seen)
            }
            (Phase::Looking(Extent::Whole(_)), Event::Seen(seen)) => {
                let (memory, seen) = *seen?;
                let plan = self::plan(config, self.task, &memory, &seen)?;
                let check = if self.task == Task::Release { Check::None } else { Check::Whole(1) };
                let trials = plan.trials(&seen.table, config.marks.values);
                if !trials.is_empty() {
                    self.phase = Phase::Trying { plan, check };
                    return Ok(Action::Try(trials));
                }
                Ok(self.run(config, plan, check))
            }
            (Phase::Trying { plan, check }, Event::Done(tried)) => {
                tried?;
                Ok(self.run(config, plan, check))
            }
            (Phase::Running { plan, next, check }, Event::Done(done)) => {
                done?;
                Ok(self.go_on(config, plan, next, check))
            }
            (Phase::Checking { plan, check }, Event::Seen(seen)) => {
                let (memory, seen) = *seen?;
                self.check(config, plan, check, memory, &seen)
            }
            (Phase::Searching(plan), Event::Searched(found)) => {
                found?;
                Ok(self.end(Ok(plan)))
            }
            (_, event) => Ok(self.refuse(&event)),
        }
    }

    /// An event that answers no action.
    fn refuse(&mut self, event: &Event) -> Action {
        debug_assert!(false, "{event:?} answers nothing");
        self.end(Err(Error::invalid("event", "it answers nothing that was to be done")))
    }

    fn take_turn(&mut self) -> Action {
        self.phase = Phase::Turn;
        Action::TakeTurn
    }

    /// It is the request's turn.
    fn begin(&mut self) -> Action {
        self.done.clear();
        match self.task {
            Task::Role(_) | Task::RestoreVips => self.look(Extent::Brief),
            Task::Release => self.look(Extent::Whole(Look::All)),
            Task::Weigh { .. } => self.look(Extent::Whole(Look::All)),
            Task::Apply(_) | Task::Repair | Task::Fix => self.look(Extent::Whole(Look::AllAndResolve)),
        }
    }

    fn read_services(&mut self) -> Action {
        self.phase = Phase::Services;
        Action::ReadServices
    }

    fn look(&mut self, extent: Extent) -> Action {
        self.phase = Phase::Looking(extent);
        Action::Look(extent)
    }

    fn wait(&mut self, now: Instant, pause: fn(&mut Pauses) -> Duration) -> Action {
        self.phase = Phase::Turn;
        Action::Wait(now + pause(&mut self.pauses))
    }

    fn plan_in_brief(&mut self, config: &Config, memory: &Memory, seen: &Observation) -> Result<Action> {
        let state = &memory.state;
        Ok(match self.task {
            Task::Role(role) => match planner::in_brief(config, role, state, seen) {
                Some(plan) => self.run(config, plan, Check::Brief(role)),
                None => self.read_services(),
            },
            _ => self.run(config, planner::restoration(config, state, seen)?, Check::None),
        })
    }

    fn run(&mut self, config: &Config, plan: Plan, check: Check) -> Action {
        // What needs no step needs no second look.
        let check = if plan.is_empty() { Check::None } else { check };
        self.go_on(config, plan, 0, check)
    }

    fn go_on(&mut self, config: &Config, plan: Plan, next: usize, check: Check) -> Action {
        if next < plan.steps().len() {
            self.phase = Phase::Running { plan, next: next + 1, check };
            return Action::Act(next);
        }
        match check {
            Check::None => self.reached(config, plan),
            Check::Brief(_) => self.checking(plan, check, Extent::Brief),
            Check::Whole(_) => self.checking(plan, check, Extent::Whole(Look::All)),
        }
    }

    fn checking(&mut self, plan: Plan, check: Check, extent: Extent) -> Action {
        self.phase = Phase::Checking { plan, check };
        Action::Look(extent)
    }

    fn check(
        &mut self,
        config: &Config,
        plan: Plan,
        check: Check,
        memory: Memory,
        seen: &Observation,
    ) -> Result<Action> {
        let state = *plan.after.clone();
        let rounds = match check {
            Check::None => return Ok(self.reached(config, plan)),
            Check::Brief(role) => {
                let loaded = state.group(&config.group).loaded.is_some();
                let is_done = planner::is_done_in_brief(config, role, &state, seen);
                // A director that is one no more has the time to learn of the other nodes.
                let knows = role == Role::Master || planner::knows_its_peers(config, &state, seen);
                if is_done && loaded && knows {
                    return Ok(self.reached(config, plan));
                }
                self.done.extend(plan.steps);
                return Ok(match role {
                    // The program that loaded the services may have changed ports and servers
                    // since.
                    Role::Master if is_done => self.look(Extent::Whole(Look::AllAndResolve)),
                    // The VIP is given up, and what has time is looked at in full: other nodes are
                    // asked for their MAC addresses. So is what another program has changed
                    // meanwhile.
                    _ => self.read_services(),
                });
            }
            Check::Whole(rounds) => rounds,
        };
        let task = if let Task::Apply(_) = self.task { Task::Apply(Apply::Changes) } else { self.task };
        let again = self::plan(config, task, &Memory { state, ..memory }, seen)?;
        match again.first_change() {
            None => Ok(self.reached(config, Plan { warnings: again.warnings, ..plan })),
            Some(step) if rounds == ROUNDS || plan.steps.contains(step) || self.done.contains(step) => {
                Err(not_verified(step))
            }
            // Another program has changed something meanwhile: keepalived has moved its VIP, say.
            Some(_) => {
                self.done.extend(plan.steps);
                Ok(self.run(config, again, Check::Whole(rounds + 1)))
            }
        }
    }

    fn reached(&mut self, config: &Config, plan: Plan) -> Action {
        let plan = plan.preceded_by(std::mem::take(&mut self.done));
        match self.task {
            Task::Role(role) if config.fence == Fence::Marks => {
                self.phase = Phase::Searching(plan);
                Action::FindDirector(role)
            }
            _ => self.end(Ok(plan)),
        }
    }

    /// It was at work, and cannot go on.
    fn fail(&mut self, now: Instant, error: Error) -> Action {
        match (error, self.task) {
            // It has its turn again where the later request was killed, or gave up.
            (Error::Superseded { .. }, task) if task.supersedes() => self.take_turn(),
            (error @ Error::Superseded { .. }, _) => self.wait_or_end(now, error),
            (error, Task::Role(role)) => self.give_up(role, error),
            (error, _) => self.end(Err(error)),
        }
    }

    /// It has not had its turn.
    fn wait_or_end(&mut self, now: Instant, error: Error) -> Action {
        let yields = matches!(error, Error::Superseded { .. });
        match self.task {
            task if yields && !task.supersedes() && now.duration_since(self.began) < task.patience() => {
                self.wait(now, Pauses::next)
            }
            Task::Role(role) if !yields => self.give_up(role, error),
            _ => self.end(Err(error)),
        }
    }

    fn give_up(&mut self, role: Role, error: Error) -> Action {
        self.phase = Phase::GivingUp;
        Action::GiveUp(role, error)
    }

    fn end(&mut self, result: Result<Plan>) -> Action {
        self.phase = Phase::Ended;
        Action::End(result)
    }
}

/// What is to be done for a task.
pub(super) fn plan(config: &Config, task: Task, memory: &Memory, seen: &Observation) -> Result<Plan> {
    let remembered = memory.state.group(&config.group).role.map(|(role, _)| role);
    let without = |what: &str| Error::invalid(what, "this node has taken on no role yet: let it take on one first");
    let (role, apply) = match task {
        Task::Release => return planner::for_release(config, memory, seen),
        Task::Role(role) => (role, Apply::Changes),
        Task::Apply(apply) => {
            let role = remembered.ok_or_else(|| without("apply"))?;
            planner::refuse_unreached(config, seen)?;
            (role, apply)
        }
        Task::Weigh { server, to } => {
            remembered.ok_or_else(|| without(to.name()))?;
            return drain::plan(config, server, to, memory, seen);
        }
        Task::Fix => {
            let judged = planner::judge(config, memory, seen, &[], |kept| audit::mended(kept, seen));
            return judged.plan.unwrap_or_else(|| Err(without("a fix")));
        }
        Task::Repair | Task::RestoreVips => match remembered {
            Some(role) => (role, Apply::Changes),
            None => return Ok(Plan::beside(&memory.state, Vec::new())),
        },
    };
    planner::for_role(config, role, apply, memory, seen)
}

fn not_verified(step: &Step) -> Error {
    let found = "it is still to be done: does another program change the same thing?".into();
    Error::NotVerified { step: step.to_string(), found }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arp::{ArpTarget, Settings};
    use crate::ipvs::SyncRole;
    use crate::node::model::{SERVICES, World, config};
    use crate::node::state::State;

    /// What happens while an action is carried out. An error is the answer to the action.
    type Meanwhile = fn(&mut World) -> Result<()>;

    /// A task, the roles before it, what happens meanwhile at which words, and all words.
    type Row<'a> = (Task, &'a [Role], &'a [(&'a str, Meanwhile)], &'a str);

    /// A task, why it has not had its turn, how long it has waited, and what it does.
    type Refused = (Task, fn() -> Error, Duration, &'static str);

    fn superseded() -> Error {
        Error::Superseded { role: "backup".into(), generation: 1, latest: 2 }
    }

    fn locked() -> Error {
        Error::Locked { object: "the lock".into(), waited: LOCK_LIMIT }
    }

    fn full() -> Error {
        Error::invalid("the disk", "it is full")
    }

    /// The action as a word. The job names the step that is carried out, and no other.
    fn word(job: &Job, action: &Action, acts: usize) -> String {
        match action {
            Action::Act(step) => assert_eq!((*step, job.step(), job.plan().is_some()), (acts, Some(acts), true)),
            _ => assert_eq!((job.step(), job.plan().is_some()), (None, false)),
        }
        match action {
            Action::Wait(_) => "wait".into(),
            Action::TakeTurn => "turn".into(),
            Action::ReadServices => "services".into(),
            Action::Look(Extent::Brief) => "brief".into(),
            Action::Look(Extent::Whole(Look::AllAndResolve)) => "whole".into(),
            Action::Look(Extent::Whole(Look::All)) => "again".into(),
            Action::Look(extent) => format!("{extent:?}"),
            Action::Try(trials) => format!("try {}", trials.len()),
            Action::Act(_) => "act".into(),
            Action::FindDirector(role) => format!("find as {role}"),
            Action::GiveUp(role, error) => format!("give up {role}: {error}"),
            Action::End(Ok(plan)) => format!("end: {}", plan.steps.len()),
            Action::End(Err(error)) => format!("end: {error}"),
        }
    }

    /// Runs a job to its end, and returns its actions, steps in a row as one. Each action is
    /// answered by success, unless something happens at the next of these words.
    fn run(world: &mut World, task: Task, happens: &[(&str, Meanwhile)]) -> (String, Result<Plan>) {
        let mut now = Instant::now();
        let (mut job, mut words, mut acts) = (Job::new(task, now), Vec::new(), 0);
        assert_eq!(job.task(), task);
        let (mut event, mut happens) = (Event::Time, happens.iter().peekable());
        loop {
            let action = job.on(&world.config, now, event);
            let word = word(&job, &action, acts);
            acts = if let Action::Act(step) = action { step + 1 } else { 0 };
            let meanwhile = happens.next_if(|(at, _)| word.starts_with(at));
            let answer = meanwhile.map_or(Ok(()), |(_, meanwhile)| meanwhile(world));
            if acts < 2 {
                words.push(word);
            }
            event = match action {
                Action::Wait(until) => {
                    now = until;
                    Event::Time
                }
                Action::TakeTurn => Event::Turn(answer.map(|()| Turn::Now)),
                Action::ReadServices => Event::Services(answer),
                Action::Look(_) => Event::Seen(answer.map(|()| Box::new((world.memory.clone(), world.seen.clone())))),
                Action::Act(step) => {
                    let plan = job.plan().unwrap();
                    Event::Done(answer.map(|()| world.act(&plan.steps[step], plan)))
                }
                Action::Try(_) => Event::Done(answer),
                Action::FindDirector(_) => Event::Searched(answer),
                Action::GiveUp(_, error) => Event::GaveUp(answer.err().unwrap_or(error)),
                Action::End(result) => {
                    assert_eq!(happens.next().map(|(at, _)| at), None, "{words:?}");
                    return (words.join(", "), result);
                }
            };
        }
    }

    const MASTER: Task = Task::Role(Role::Master);
    const BACKUP: Task = Task::Role(Role::Backup);

    const FULL: Meanwhile = |_| Err(full());
    const SUPERSEDED: Meanwhile = |_| Err(superseded());
    const OTHER_MAC: Meanwhile = |world| {
        let mac = world.seen.link.macs.values_mut().next().ok_or_else(full)?;
        mac.0[5] ^= 0x80;
        Ok(())
    };
    const NO_VIP: Meanwhile = |world| {
        world.seen.vips.values_mut().for_each(Vec::clear);
        Ok(())
    };
    const NO_ARP: Meanwhile = |world| {
        world.seen.arp.iter_mut().for_each(|(_, now)| *now = Settings::KERNEL);
        Ok(())
    };
    const NO_SYSCTL: Meanwhile = |world| {
        world.seen.sysctls.insert("sloppy_tcp".into(), Some("0".into()));
        Ok(())
    };
    const NO_DAEMON: Meanwhile = |world| {
        world.seen.daemons.insert(SyncRole::Backup, None);
        Ok(())
    };
    const NO_WEIGHT: Meanwhile = |world| {
        world.edit("192.0.2.12:80 -g -w 1", "192.0.2.12:80 -g -w 0");
        Ok(())
    };
    const OTHER_SCHEDULER: Meanwhile = |world| {
        world.config.services = Some(SERVICES.replace("wrr", "mh").parse()?);
        Ok(())
    };
    const NO_STATE: Meanwhile = |world| {
        world.memory.state = State::default();
        Ok(())
    };
    const NOTHING_LOADED: Meanwhile = |world| {
        world.config.services = None;
        world.memory.state.group_mut("").loaded = None;
        Ok(())
    };
    const CLEAR: Meanwhile = |world| {
        world.config.fence = Fence::Clear;
        Ok(())
    };

    /// The last word has the number of steps that were carried out since the job's turn.
    #[test]
    fn what_a_job_does() {
        let not_verified = |step: &str| {
            format!(
                "end: `{step}` did not take effect: it is still to be done: does another program change the same thing?"
            )
        };
        let first = "turn, brief, services, whole, try 2, act, again, find as backup, end: 12";
        let vip_stays_away = not_verified("VIP: add 192.0.2.254 to lo (scope host)");
        let daemon_stays_away =
            not_verified("IPVS: 1 change\n  --start-daemon backup --mcast-interface eth0 --syncid 254");
        let gives_up = "give up backup: the disk is not usable: it is full, end: the disk is not usable: it is full";
        let no_role = "this node has taken on no role yet: let it take on one first";
        let yields = "end: backup (request 1) was superseded by request 2";
        let (none, backup, both) = (&[][..], &[Role::Backup][..], &[Role::Backup, Role::Master][..]);
        let rows: &[Row] = &[
            (BACKUP, none, &[], first),
            (BACKUP, backup, &[], "turn, brief, services, whole, find as backup, end: 0"),
            (BACKUP, none, &[("turn", CLEAR)], "turn, brief, services, whole, act, again, end: 9"),
            // Roles in brief. What is left is looked at in full.
            (MASTER, backup, &[], "turn, brief, act, brief, find as master, end: 6"),
            (BACKUP, both, &[], "turn, brief, act, brief, find as backup, end: 6"),
            // Another node has another MAC address, which the demotion learns.
            (
                BACKUP,
                both,
                &[("act", |_| Ok(())), ("brief", OTHER_MAC)],
                "turn, brief, act, brief, services, whole, act, again, find as backup, end: 9",
            ),
            (
                BACKUP,
                both,
                &[("turn", NOTHING_LOADED)],
                "turn, brief, act, brief, services, whole, find as backup, end: 6",
            ),
            (MASTER, backup, &[("turn", NOTHING_LOADED)], "turn, brief, act, brief, whole, find as master, end: 6"),
            (
                MASTER,
                backup,
                &[("act", |_| Ok(())), ("brief", NO_VIP)],
                "turn, brief, act, brief, services, whole, act, again, find as master, end: 11",
            ),
            // Steps of an attempt that was superseded are not those of the next one.
            (
                BACKUP,
                both,
                &[("find", SUPERSEDED)],
                "turn, brief, act, brief, find as backup, turn, brief, services, whole, find as backup, end: 0",
            ),
            // Other tasks.
            (Task::Release, backup, &[], "turn, again, act, end: 10"),
            (Task::Release, none, &[], "turn, again, end: 0"),
            (Task::RestoreVips, backup, &[("turn", NO_VIP)], "turn, brief, act, end: 1"),
            (Task::RestoreVips, none, &[("turn", NO_VIP)], "turn, brief, end: 0"),
            (Task::Repair, backup, &[("turn", NO_VIP)], "turn, whole, act, again, end: 3"),
            (Task::Repair, none, &[], "turn, whole, end: 0"),
            (Task::Fix, backup, &[("turn", NO_ARP)], "turn, whole, act, again, end: 3"),
            (Task::Fix, none, &[], &format!("turn, whole, end: a fix is not usable: {no_role}")),
            (Task::Apply(Apply::Changes), backup, &[("turn", NO_WEIGHT)], "turn, whole, end: 0"),
            (Task::Apply(Apply::All), none, &[], &format!("turn, whole, end: apply is not usable: {no_role}")),
            // A health check sets the weight again. What is remembered is what the plan says.
            (
                Task::Apply(Apply::All),
                backup,
                &[("turn", NO_WEIGHT), ("again", NO_WEIGHT)],
                "turn, whole, act, again, end: 3",
            ),
            (Task::Fix, backup, &[("turn", NO_ARP), ("again", NO_STATE)], "turn, whole, act, again, end: 3"),
            // Another program changes something else after each look, three times at most.
            (
                Task::Repair,
                backup,
                &[("turn", NO_VIP), ("again", NO_ARP), ("again", NO_SYSCTL)],
                "turn, whole, act, again, act, again, act, again, end: 9",
            ),
            (
                Task::Repair,
                backup,
                &[("turn", NO_VIP), ("again", NO_ARP), ("again", NO_SYSCTL), ("again", NO_DAEMON)],
                &format!("turn, whole, act, again, act, again, act, again, {daemon_stays_away}"),
            ),
            // The same is not done twice.
            (
                Task::Repair,
                backup,
                &[("turn", NO_VIP), ("again", NO_VIP)],
                &format!("turn, whole, act, again, {vip_stays_away}"),
            ),
            (
                Task::Repair,
                backup,
                &[("turn", NO_VIP), ("again", NO_ARP), ("again", NO_VIP)],
                &format!("turn, whole, act, again, act, again, {vip_stays_away}"),
            ),
            // Failures.
            (BACKUP, none, &[("turn", FULL)], &format!("turn, {gives_up}")),
            (BACKUP, none, &[("brief", FULL)], &format!("turn, brief, {gives_up}")),
            (BACKUP, none, &[("services", FULL)], &format!("turn, brief, services, {gives_up}")),
            // A scheduler that the kernel lacks, before anything is done.
            (BACKUP, none, &[("try", FULL)], &format!("turn, brief, services, whole, try 2, {gives_up}")),
            (
                Task::Apply(Apply::Changes),
                backup,
                &[("turn", OTHER_SCHEDULER), ("try", FULL)],
                "turn, whole, try 1, end: the disk is not usable: it is full",
            ),
            (BACKUP, none, &[("act", FULL)], &format!("turn, brief, services, whole, try 2, act, {gives_up}")),
            (BACKUP, backup, &[("find", FULL)], &format!("turn, brief, services, whole, find as backup, {gives_up}")),
            (Task::Release, backup, &[("act", FULL)], "turn, again, act, end: the disk is not usable: it is full"),
            (Task::Repair, backup, &[("turn", FULL)], "turn, end: the disk is not usable: it is full"),
            // Later requests: a role and a release have their turn again if those are killed.
            (BACKUP, none, &[("turn", SUPERSEDED)], &format!("turn, {yields}")),
            (BACKUP, none, &[("act", SUPERSEDED)], &format!("turn, brief, services, whole, try 2, act, {first}")),
            (BACKUP, none, &[("turn", FULL), ("give up", SUPERSEDED)], &{
                let (gives_up, _) = gives_up.split_once(", ").unwrap();
                format!("turn, {gives_up}, {first}")
            }),
            (Task::Release, backup, &[("again", SUPERSEDED)], "turn, again, turn, again, act, end: 10"),
            (Task::Fix, backup, &[("whole", SUPERSEDED)], "turn, whole, wait, turn, whole, end: 0"),
            (Task::Repair, backup, &[("whole", SUPERSEDED)], &format!("turn, whole, {yields}")),
        ];
        for (task, roles, happens, expected) in rows {
            let mut world = World::new(config(Fence::Marks));
            roles.iter().for_each(|role| drop(world.take_on(*role)));
            let (words, _) = run(&mut world, *task, happens);
            let happens: Vec<_> = happens.iter().map(|(at, _)| at).collect();
            assert_eq!(words, *expected, "{task:?} after {roles:?}, {happens:?}");
        }
    }

    #[test]
    fn the_warnings_of_a_job_are_those_of_its_last_look() {
        let set: Meanwhile = |world| {
            world.seen.route_localnet = true;
            Ok(())
        };
        let clear: Meanwhile = |world| {
            world.seen.route_localnet = false;
            Ok(())
        };
        for (before, meanwhile, warnings) in [(set, clear, 0), (clear, set, 1), (set, set, 1)] {
            let mut world = World::new(config(Fence::Marks));
            let answers = Settings { ignore: 3.into(), announce: 0.into() };
            world.seen.arp[0] = (ArpTarget::All, answers);
            let (_, plan) = run(&mut world, BACKUP, &[("turn", before), ("again", meanwhile)]);
            assert_eq!(plan.unwrap().warnings().len(), warnings);
        }
    }

    #[test]
    fn a_job_waits_for_its_turn() {
        let (start, config, ms) = (Instant::now(), config(Fence::Marks), Duration::from_millis);
        // The action after a turn that was not to be had, in words, so long after the start.
        let after = |task: Task, waited: Duration, turn: Result<Turn>| {
            let (mut job, now) = (Job::new(task, start), start + waited);
            job.on(&config, start, Event::Time);
            let action = job.on(&config, now, Event::Turn(turn));
            let word = word(&job, &action, 0);
            let (word, _) = word.split_once([' ', ':']).unwrap_or((&word, ""));
            if let Action::Wait(until) = action { format!("{word} {:?}", until - now) } else { word.to_owned() }
        };
        // Behind another process that works, and behind a request that may give up or be killed.
        let rows: &[Refused] = &[
            (BACKUP, locked, ms(0), "wait 2ms"),
            (BACKUP, superseded, ms(0), "wait 30ms"),
            (Task::Repair, locked, ms(0), "wait 2ms"),
            (BACKUP, locked, LOCK_LIMIT, "wait 2ms"),
            (BACKUP, locked, LOCK_LIMIT + ms(1), "give"),
            (BACKUP, superseded, LOCK_LIMIT, "wait 30ms"),
            (BACKUP, superseded, LOCK_LIMIT + ms(1), "end"),
            (Task::Release, locked, LOCK_LIMIT + ms(1), "end"),
            (Task::Fix, locked, LOCK_LIMIT + ms(1), "end"),
        ];
        for (task, error, waited, expected) in rows {
            assert_eq!(after(*task, *waited, Ok(Turn::Waits(error()))), *expected, "{task:?}, {}, {waited:?}", error());
        }
        // Refused. Those that yield try again, but for those that are planned anew anyway.
        let rows: &[Refused] = &[
            (BACKUP, superseded, ms(0), "end"),
            (BACKUP, full, ms(0), "give"),
            (Task::Release, superseded, ms(0), "end"),
            (Task::Fix, superseded, ms(0), "wait 2ms"),
            (Task::Fix, superseded, LOCK_LIMIT - ms(1), "wait 2ms"),
            (Task::Fix, superseded, LOCK_LIMIT, "end"),
            (Task::Fix, full, ms(0), "end"),
            (Task::Apply(Apply::All), superseded, ms(0), "wait 2ms"),
            (Task::Repair, superseded, ms(0), "end"),
            (Task::RestoreVips, superseded, ms(0), "end"),
        ];
        for (task, error, waited, expected) in rows {
            assert_eq!(after(*task, *waited, Err(error())), *expected, "{task:?}, {}, {waited:?}", error());
        }
    }

    #[test]
    fn only_roles_and_releases_supersede_other_requests() {
        let rows = [
            (MASTER, "master", true),
            (Task::Release, "release", true),
            (Task::Apply(Apply::All), "apply", false),
            (Task::Repair, "repair", false),
            (Task::RestoreVips, "repair", false),
            (Task::Fix, "fix", false),
        ];
        for (task, name, supersedes) in rows {
            assert_eq!((&*task.name(), task.supersedes()), (name, supersedes), "{task:?}");
        }
    }
}
