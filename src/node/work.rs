//! Carries out jobs: does what a job says is to be done next, and holds what it needs for that.
//!
//! Nothing here waits. What takes time is an operation with a deadline, a descriptor, or both; a
//! caller waits for it, or goes on with something else.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use super::cluster::Search;
use super::connections::Sending;
use super::execute::{LAST_WORDS, UNHEARD};
use super::handle::Node;
use super::job::{Action, Event, Extent, Job, LOCK_LIMIT, Task, Turn};
use super::observation::Observation;
use super::observe::{Look, Looking, Unanswered, needs_programs, needs_trial, own_marked};
use super::plan::{Plan, Step};
use super::planner::Memory;
use super::requests::{self, Later, Lock, Request};
use super::role::Role;
use super::services::Trial;
use crate::background::{Background, wait_for};
use crate::error::{Error, Result};
use crate::ipvs::{self, Table};
use crate::marks::{self, LocalMarks, LocalObserved};
use crate::wait::wait;

/// What the caller of a job takes part in.
pub(super) struct Hooks<'a> {
    /// Called with each step before it is done.
    pub(super) before: &'a mut dyn FnMut(&Step),
    /// Reads the services, where they are read late.
    pub(super) services: &'a mut dyn FnMut() -> Services,
}

/// The configured services.
pub(super) enum Services {
    /// They are those of the configuration.
    AsConfigured,
    /// They were read now.
    Read(Option<Table>),
    /// They cannot be read; the reader keeps its error.
    Unreadable,
}

/// How far a job is.
#[derive(Debug)]
pub(super) enum Progress {
    /// There is more to do at once.
    Again,
    /// It waits: see [`Work::until`] and [`Work::descriptor`].
    Waits,
    /// It has ended.
    Ended(Result<Plan>),
}

/// A job, with what it holds.
#[derive(Debug)]
pub(super) struct Work {
    job: Job,
    next: Next,
    /// Whether changes of VIPs are in a series, see [`Vips::begin_series`](crate::vip::Vips).
    in_series: bool,
    // The lock is freed before the request ends.
    lock: Option<Lock>,
    request: Option<Request>,
}

#[derive(Debug)]
enum Next {
    Do(Action),
    WaitFor(Box<Operation>),
    Nothing,
}

/// What takes time.
#[derive(Debug)]
enum Operation {
    Pause(Instant),
    /// Neighbours are asked for their MAC addresses; at first they are yet to be asked.
    Resolving {
        whole: Box<Whole>,
        unanswered: Option<Unanswered>,
    },
    /// The kernel is looked at.
    Looking {
        memory: Box<Memory>,
        looking: Box<Looking>,
        /// `None`: in brief.
        programs: Option<Look>,
    },
    /// Programs list the marks of the node's own requests, and rules are tried, for which the
    /// kernel may load modules.
    Listing {
        seen: Box<(Memory, Observation)>,
        listed: Background<Listed>,
    },
    /// Services are tried, for which the kernel may load modules.
    Trying(Background<Result<()>>),
    /// Programs mark the node's own requests.
    Marking(Background<(LocalMarks, Result<()>)>),
    /// Connections are sent.
    Sending(Sending),
    Searching(Search),
}

/// What a look at the whole begins with.
#[derive(Debug)]
struct Whole {
    look: Look,
    memory: Memory,
    table: Table,
}

/// What programs list, and what was tried.
#[derive(Debug)]
struct Listed {
    own_requests: Option<(LocalMarks, Result<LocalObserved>)>,
    unsupported: Option<String>,
}

impl Operation {
    /// Whether it goes on at once.
    fn is_at_work(&self) -> bool {
        matches!(self, Operation::Looking { .. } | Operation::Resolving { unanswered: None, .. })
    }

    fn until(&self) -> Option<Instant> {
        match self {
            Operation::Pause(until) => Some(*until),
            Operation::Sending(sending) => Some(sending.until()),
            Operation::Resolving { unanswered, .. } => unanswered.as_ref().map(|unanswered| unanswered.next),
            Operation::Looking { .. } => None,
            Operation::Listing { listed, .. } => Some(listed.until()),
            Operation::Trying(trying) => Some(trying.until()),
            Operation::Marking(marked) => Some(marked.until()),
            Operation::Searching(search) => search.until(),
        }
    }

    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Operation::Listing { listed, .. } => listed.descriptor(),
            Operation::Trying(trying) => trying.descriptor(),
            Operation::Marking(marked) => marked.descriptor(),
            Operation::Searching(search) => search.descriptor(),
            _ => None,
        }
    }
}

/// What became of an action.
enum Outcome {
    Event(Event),
    Operation(Box<Operation>),
}

impl Outcome {
    fn waits(operation: Operation) -> Self {
        Outcome::Operation(Box::new(operation))
    }

    fn looks(memory: Memory, looking: Looking, programs: Option<Look>) -> Self {
        Self::waits(Operation::Looking { memory: Box::new(memory), looking: Box::new(looking), programs })
    }
}

impl Work {
    pub(super) fn new(task: Task) -> Self {
        Work {
            job: Job::new(task, Instant::now()),
            next: Next::Do(Action::TakeTurn),
            in_series: false,
            lock: None,
            request: None,
        }
    }

    pub(super) fn task(&self) -> Task {
        self.job.task()
    }

    /// When it goes on at the latest. `None`: when its descriptor becomes readable.
    pub(super) fn until(&self) -> Option<Instant> {
        match &self.next {
            Next::WaitFor(operation) => operation.until(),
            _ => None,
        }
    }

    /// What it waits for, besides time.
    pub(super) fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        match &self.next {
            Next::WaitFor(operation) => operation.descriptor(),
            _ => None,
        }
    }

    /// The error of a job that another one of this process supersedes.
    pub(super) fn superseded_by(&self, later: &Work) -> Error {
        let number = |work: &Work| work.request.as_ref().map_or(0, Request::number);
        Error::Superseded { role: self.task().name(), generation: number(self), latest: number(later) }
    }

    fn superseded(&self) -> Result<()> {
        match &self.request {
            Some(request) => match request.later()? {
                Later::Lives(latest) | Later::Ended(latest) => Err(request.superseded(latest)),
                Later::None => Ok(()),
            },
            None => Ok(()),
        }
    }
}

impl Node {
    /// Carries out a task, and waits for its end.
    pub(super) fn carry_out(&mut self, task: Task, before: &mut dyn FnMut(&Step)) -> Result<Plan> {
        self.drive(task, &mut Hooks { before, services: &mut || Services::AsConfigured })
    }

    pub(super) fn drive(&mut self, task: Task, hooks: &mut Hooks<'_>) -> Result<Plan> {
        let mut work = Work::new(task);
        loop {
            match self.advance(&mut work, hooks) {
                Progress::Again => {}
                Progress::Waits => wait(work.descriptor(), work.until()),
                Progress::Ended(result) => return result,
            }
        }
    }

    /// Does the next thing that is to be done, or looks whether what is waited for has come.
    pub(super) fn advance(&mut self, work: &mut Work, hooks: &mut Hooks<'_>) -> Progress {
        let outcome = match std::mem::replace(&mut work.next, Next::Nothing) {
            Next::Nothing => return Progress::Waits,
            Next::Do(Action::End(result)) => {
                self.end(work);
                self.note_end(work.task(), result.as_ref().map(drop));
                return Progress::Ended(result);
            }
            Next::Do(action) => self.perform(work, action, hooks),
            Next::WaitFor(operation) => self.go_on(work, operation),
        };
        let event = match outcome {
            Outcome::Event(event) => {
                if matches!(event, Event::Done(Err(_))) && std::mem::take(&mut work.in_series) {
                    self.vips.end_series();
                }
                event
            }
            Outcome::Operation(operation) => {
                let progress = if operation.is_at_work() { Progress::Again } else { Progress::Waits };
                work.next = Next::WaitFor(operation);
                return progress;
            }
        };
        work.next = Next::Do(work.job.on(&self.config, Instant::now(), event));
        Progress::Again
    }

    /// Ends a job, whatever it does: what has begun stays as it is.
    pub(super) fn end(&mut self, work: &mut Work) {
        if std::mem::take(&mut work.in_series) {
            self.vips.end_series();
        }
        work.next = Next::Nothing;
        work.lock = None;
        work.request = None;
    }

    fn perform(&mut self, work: &mut Work, action: Action, hooks: &mut Hooks<'_>) -> Outcome {
        match action {
            Action::Wait(until) => {
                work.lock = None;
                Outcome::waits(Operation::Pause(until))
            }
            Action::TakeTurn => Outcome::Event(Event::Turn(self.take_turn(work))),
            Action::ReadServices => Outcome::Event(Event::Services(self.read_services(hooks))),
            Action::Look(Extent::Brief) => seen(self.begin_brief_look(work.task())),
            Action::Look(Extent::Whole(look)) => seen(self.begin_look(Some(work.task()), look)),
            Action::Try(trials) => match self.begin_trial(trials) {
                Ok(trial) => {
                    let trying = Background::start(|waits| async move { trial.end(&waits).await });
                    Outcome::waits(Operation::Trying(trying))
                }
                Err(error) => Outcome::Event(Event::Done(Err(error))),
            },
            Action::Act(index) => {
                self.act_on(work, index, hooks).unwrap_or_else(|error| Outcome::Event(Event::Done(Err(error))))
            }
            Action::FindDirector(role) => match self.search_director(role) {
                Ok(Some(search)) => Outcome::waits(Operation::Searching(search)),
                nothing => Outcome::Event(Event::Searched(nothing.map(drop))),
            },
            Action::GiveUp(role, error) => Outcome::Event(Event::GaveUp(self.give_up(work, role, error))),
            // Not performed: see `advance`.
            Action::End(result) => Outcome::Event(Event::Done(result.map(drop))),
        }
    }

    fn go_on(&mut self, work: &mut Work, operation: Box<Operation>) -> Outcome {
        let now = Instant::now();
        match *operation {
            Operation::Pause(until) if now >= until => Outcome::Event(Event::Time),
            Operation::Resolving { whole, unanswered } => seen(self.resolve(whole, unanswered, now)),
            Operation::Looking { memory, looking, programs } => seen(self.look_further(memory, looking, programs)),
            Operation::Listing { mut seen, mut listed } => match listed.poll() {
                None => Outcome::waits(Operation::Listing { seen, listed }),
                Some(Listed { own_requests, unsupported }) => {
                    seen.1.unsupported = unsupported;
                    let found = own_requests.map(|(local, found)| {
                        self.local = Some(local);
                        found
                    });
                    Outcome::Event(Event::Seen(found.transpose().map(|found| {
                        seen.1.own_requests = found.map(own_marked);
                        seen
                    })))
                }
            },
            Operation::Trying(mut trying) => match trying.poll() {
                None => Outcome::waits(Operation::Trying(trying)),
                Some(tried) => Outcome::Event(Event::Done(tried)),
            },
            Operation::Marking(mut marked) => match marked.poll() {
                None => Outcome::waits(Operation::Marking(marked)),
                Some((local, result)) => {
                    self.local = Some(local);
                    self.done(work, result)
                }
            },
            Operation::Sending(mut sending) => match sending.go_on(self, now) {
                Ok(None) => Outcome::waits(Operation::Sending(sending)),
                sent => self.done(work, unless_unheard(sent.map(drop))),
            },
            Operation::Searching(mut search) => match self.go_on_searching(&mut search, now) {
                Ok(false) => Outcome::waits(Operation::Searching(search)),
                ended => Outcome::Event(Event::Searched(ended.map(drop))),
            },
            waiting @ Operation::Pause(_) => Outcome::waits(waiting),
        }
    }

    fn take_turn(&mut self, work: &mut Work) -> Result<Turn> {
        work.lock = None;
        let task = work.task();
        if work.request.is_none() || !task.supersedes() {
            self.dir.prepare()?;
        }
        let requests = self.dir.requests();
        if !task.supersedes() {
            let lock = match self.dir.lock(Duration::ZERO) {
                Err(Error::Locked { object, .. }) => {
                    return Ok(Turn::Waits(Error::Locked { object, waited: LOCK_LIMIT }));
                }
                lock => lock?,
            };
            let request = requests.beside(&task.name())?;
            if requests.is_pending()? {
                return Err(request.superseded(requests.latest()?));
            }
            (work.request, work.lock) = (Some(request), Some(lock));
            return Ok(Turn::Now);
        }
        let request = match &work.request {
            Some(request) => request,
            None => work.request.insert(requests.draw(&task.name())?),
        };
        match request.turn()? {
            requests::Turn::Superseded(latest) => Err(request.superseded(latest)),
            requests::Turn::Waits(waits) => Ok(Turn::Waits(request.timed_out(waits, LOCK_LIMIT))),
            requests::Turn::Now(lock) => {
                self.dir.remove_leftovers();
                work.lock = Some(lock);
                Ok(Turn::Now)
            }
        }
    }

    fn read_services(&mut self, hooks: &mut Hooks<'_>) -> Result<()> {
        match (hooks.services)() {
            Services::AsConfigured => return Ok(()),
            Services::Unreadable => return Err(Error::invalid("services", "they cannot be read")),
            Services::Read(services) => self.config.services = services,
        }
        self.config.check()
    }

    fn begin_brief_look(&mut self, task: Task) -> Result<Outcome> {
        if let Task::Role(role) = task {
            self.check_interface_for(role)?;
        }
        let memory = Memory { state: self.dir.load()?, ..Memory::default() };
        // Before a demotion has given up the VIP, nothing else has time.
        let is_check = |role| memory.state.group(&self.config.group).role == Some((role, false));
        let demotes = matches!(task, Task::Role(role) if role != Role::Master && is_check(role));
        let looking = if demotes { Looking::in_brief_with_peers() } else { Looking::in_brief() };
        Ok(Outcome::looks(memory, looking, None))
    }

    fn begin_look(&mut self, task: Option<Task>, look: Look) -> Result<Outcome> {
        let memory = self.remember_for(task)?;
        let role = match task {
            Some(Task::Role(role)) => Some(role),
            None | Some(Task::Release) => None,
            Some(_) => memory.state.group(&self.config.group).role.map(|(role, _)| role),
        };
        // Says now, and not half-way, that there is no such interface.
        role.map_or(Ok(()), |role| self.check_interface_for(role))?;
        let table = self.ipvs.table()?;
        if look == Look::AllAndResolve {
            let whole = Box::new(Whole { look, memory, table });
            return Ok(Outcome::waits(Operation::Resolving { whole, unanswered: None }));
        }
        Ok(Outcome::looks(memory, Looking::whole(table), Some(look)))
    }

    fn resolve(&mut self, whole: Box<Whole>, unanswered: Option<Unanswered>, now: Instant) -> Result<Outcome> {
        let mut unanswered = match unanswered {
            Some(unanswered) => unanswered,
            None => self.ask_neighbours(&whole.memory.state, &whole.table)?,
        };
        if !self.have_answered(&mut unanswered, now)? {
            return Ok(Outcome::waits(Operation::Resolving { whole, unanswered: Some(unanswered) }));
        }
        let Whole { look, memory, table } = *whole;
        Ok(Outcome::looks(memory, Looking::whole(table), Some(look)))
    }

    fn look_further(
        &mut self,
        memory: Box<Memory>,
        mut looking: Box<Looking>,
        programs: Option<Look>,
    ) -> Result<Outcome> {
        let Some(seen) = self.look_on(&memory.state, &mut looking)? else {
            return Ok(Outcome::waits(Operation::Looking { memory, looking, programs }));
        };
        let memory = *memory;
        let Some(look) = programs else { return Ok(Outcome::Event(Event::Seen(Ok(Box::new((memory, seen)))))) };
        let tries = needs_trial(&self.config, look, &seen);
        let lists = needs_programs(&self.config, look);
        if !tries && !lists {
            return Ok(Outcome::Event(Event::Seen(Ok(Box::new((memory, seen))))));
        }
        let local = lists.then(|| self.local_marks());
        let listed = Background::start(|waits| async move {
            let refused = if tries { marks::trying(&waits).await.err() } else { None };
            let own_requests = match local {
                Some(mut local) => {
                    let found = local.observing(&waits).await;
                    Some((local, found))
                }
                None => None,
            };
            Listed { unsupported: refused.map(|error| error.to_string()), own_requests }
        });
        Ok(Outcome::waits(Operation::Listing { seen: Box::new((memory, seen)), listed }))
    }

    /// Reads what is remembered, looks at the kernel, and waits for what takes time. For a task,
    /// or for an audit.
    pub(super) fn look(&mut self, task: Option<Task>, look: Look) -> Result<(Memory, Observation)> {
        let mut work = Work::new(task.unwrap_or(Task::Repair));
        let mut outcome = self.begin_look(task, look)?;
        loop {
            match outcome {
                Outcome::Event(Event::Seen(seen)) => return seen.map(|seen| *seen),
                Outcome::Event(_) => outcome = self.begin_look(task, look)?,
                Outcome::Operation(operation) => {
                    if !operation.is_at_work() {
                        wait(operation.descriptor(), operation.until());
                    }
                    outcome = self.go_on(&mut work, operation);
                }
            }
        }
    }

    /// Says now, and not half-way, that the kernel lacks a scheduler or persistence engine.
    pub(super) fn try_services(&mut self, trials: Vec<Trial>) -> Result<()> {
        if trials.is_empty() {
            return Ok(());
        }
        let trial = self.begin_trial(trials)?;
        wait_for(|waits| async move { trial.end(&waits).await })
    }

    fn begin_trial(&mut self, trials: Vec<Trial>) -> Result<ipvs::Trial> {
        self.ipvs.begin_trial(trials.into_iter().map(|Trial { service, id }| (service, id)))
    }

    fn local_marks(&mut self) -> LocalMarks {
        self.local.take().unwrap_or_else(|| LocalMarks::open_in(self.ipvs.netns().clone()))
    }

    fn act_on(&mut self, work: &mut Work, index: usize, hooks: &mut Hooks<'_>) -> Result<Outcome> {
        work.superseded()?;
        let Some(plan) = work.job.plan() else { return Ok(Outcome::Event(Event::Done(Ok(())))) };
        let (steps, step) = (plan.steps(), &plan.steps()[index]);
        #[cfg(feature = "log")]
        log::info!("{step}");
        (hooks.before)(step);
        let mut act = || {
            if begins_series(steps, index) {
                self.vips.begin_series()?;
                work.in_series = true;
            }
            match step {
                Step::Resync(daemon) => {
                    let sending = Sending::by(self, daemon.clone(), Duration::ZERO, Some(LAST_WORDS))?;
                    return Ok(Outcome::waits(Operation::Sending(sending)));
                }
                Step::OwnRequests(wanted) => return Ok(self.begin_marking(wanted.clone())),
                step => self.act(step, plan)?,
            }
            if work.in_series && !steps.get(index + 1).is_some_and(Step::is_of_a_vip) {
                work.in_series = false;
                self.vips.end_series();
                let first = steps[..index].iter().rposition(|step| !step.is_of_a_vip()).map_or(0, |before| before + 1);
                let changes: Vec<_> = steps[first..=index].iter().filter_map(Step::placement).collect();
                self.vips.verify_series(&changes)?;
            }
            Ok(Outcome::Event(Event::Done(Ok(()))))
        };
        act().map_err(|error| failed(plan, index, error))
    }

    /// An operation that carried out a step has ended.
    fn done(&mut self, work: &Work, result: Result<()>) -> Outcome {
        let explain = |error| match work.job.plan().zip(work.job.step()) {
            Some((plan, index)) => failed(plan, index, error),
            None => error,
        };
        Outcome::Event(Event::Done(result.map_err(explain)))
    }

    fn begin_marking(&mut self, wanted: BTreeSet<(IpAddr, NonZeroU32)>) -> Outcome {
        let mut local = self.local_marks();
        let marked = Background::start(|waits| async move {
            let result = local.applying(&wanted, &waits).await.map(drop);
            (local, result)
        });
        Outcome::waits(Operation::Marking(marked))
    }

    /// Takes back what the node must not keep after this error: a demotion gives up the VIP all
    /// the same. Returns the error to report.
    fn give_up(&mut self, work: &mut Work, role: Role, error: Error) -> Error {
        // With the lock, no later request is carried out meanwhile.
        if work.lock.is_some()
            && let Err(superseded @ Error::Superseded { .. }) = work.superseded()
        {
            return superseded;
        }
        self.record_unreached(role, work.lock.is_some());
        match role {
            Role::Master => error,
            role => self.stand_down(role, error),
        }
    }
}

/// A look that failed is an event.
fn seen(outcome: Result<Outcome>) -> Outcome {
    outcome.unwrap_or_else(|error| Outcome::Event(Event::Seen(Err(error))))
}

fn begins_series(steps: &[Step], index: usize) -> bool {
    let of_a_vip = |index: usize| steps.get(index).is_some_and(Step::is_of_a_vip);
    of_a_vip(index) && of_a_vip(index + 1) && !index.checked_sub(1).is_some_and(of_a_vip)
}

fn failed(plan: &Plan, index: usize, error: Error) -> Error {
    Error::Step {
        number: index + 1,
        total: plan.steps().len(),
        // The changes of a table are not repeated: its error names the one that failed.
        step: plan.steps()[index].to_string().lines().next().unwrap_or_default().to_owned(),
        error: Box::new(error),
    }
}

/// An announcement cannot be sent on an interface that is gone or down, and a node that has lost
/// it must give up its role.
fn unless_unheard(result: Result<()>) -> Result<()> {
    match result {
        Err(error) if error.errno().is_some_and(|errno| UNHEARD.contains(&errno)) => Ok(()),
        result => result,
    }
}
