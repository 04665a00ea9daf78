//! A machine: the model's kernel and state directory, and processes that carry out jobs on it. The
//! jobs are those of the library; what they ask for is done here.

use std::collections::BTreeMap;
use std::io;
use std::time::{Duration, Instant};

use crate::error::{Error, Result};
use crate::ipvs::{SyncRole, Table};
use crate::node::config::VipOwner;
use crate::node::fence::Fence;
use crate::node::job::{Action, Event, Extent, Job, LOCK_LIMIT, Task, Turn};
use crate::node::model::{VIP, World, ip};
use crate::node::observation::{Link, Observation};
use crate::node::plan::{Plan, Step};
use crate::node::planner::{self, Memory};
use crate::node::role::Role;

/// What does not work at present.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Trouble {
    Nothing,
    /// Nothing can be recorded but a file's name.
    DiskFull,
    /// Not even that.
    ReadOnly,
    /// /proc/sys is read-only.
    Sysctls,
    /// IPVS refuses changes.
    Ipvs,
    /// Rules cannot be changed.
    Rules,
}

impl Trouble {
    pub(super) const ALL: [Trouble; 6] =
        [Trouble::Nothing, Trouble::DiskFull, Trouble::ReadOnly, Trouble::Sysctls, Trouble::Ipvs, Trouble::Rules];

    fn hits(self, step: &Step) -> bool {
        match self {
            Trouble::Nothing => false,
            Trouble::DiskFull | Trouble::ReadOnly => {
                matches!(step, Step::Record { .. } | Step::Keep { .. } | Step::Weights(_) | Step::Forget)
            }
            Trouble::Sysctls => matches!(step, Step::Sysctl { .. } | Step::Arp(_) | Step::GiveBackArp(_)),
            Trouble::Ipvs => matches!(step, Step::Table(_)),
            Trouble::Rules => matches!(step, Step::Marks(_)),
        }
    }

    fn error(self) -> Error {
        Error::system("do", format!("{self:?}"), io::Error::other("trouble"))
    }
}

/// The state of a request's file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Condition {
    Lives,
    Ended,
}

/// A process with one job.
#[derive(Debug)]
pub(super) struct Process {
    job: Job,
    action: Option<Action>,
    /// The number of its request, or of the latest one when a repair began.
    number: Option<u64>,
    has_lock: bool,
    /// Whether it is the supervisor's.
    pub(super) is_own: bool,
    /// Whether it had its turn.
    pub(super) begun: bool,
    /// Whether anything else has happened since it looked at the machine last.
    pub(super) disturbed: bool,
}

impl Process {
    pub(super) fn task(&self) -> Task {
        self.job.task()
    }
}

/// A job that has ended.
#[derive(Debug)]
pub(super) struct Ended {
    pub(super) task: Task,
    pub(super) result: Result<Plan>,
    /// Whether no request was made after it, but for such as were killed.
    pub(super) is_latest: bool,
    /// Whether a later one was carried out before it ended.
    pub(super) is_late: bool,
    pub(super) disturbed: bool,
}

pub(super) struct Machine {
    pub(super) world: World,
    pub(super) processes: Vec<Process>,
    requests: BTreeMap<u64, Condition>,
    now: Instant,
    pub(super) trouble: Trouble,
}

impl Machine {
    pub(super) fn new(world: World) -> Self {
        Machine {
            world,
            processes: Vec::new(),
            requests: BTreeMap::new(),
            now: Instant::now(),
            trouble: Trouble::Nothing,
        }
    }

    /// A process is started. It asks for its turn, and so has its number, before another one is.
    pub(super) fn start(&mut self, task: Task) {
        let job = Job::new(task, self.now);
        let action = Some(Action::TakeTurn);
        self.processes.push(Process {
            job,
            action,
            number: None,
            has_lock: false,
            is_own: false,
            begun: false,
            disturbed: false,
        });
    }

    /// The kernel frees the lock of a process that is killed, and that of its request's file.
    pub(super) fn kill(&mut self, index: usize) -> Process {
        let process = self.processes.remove(index);
        if let Some(number) = process.number.filter(|_| process.task().supersedes()) {
            self.requests.remove(&number);
        }
        process
    }

    /// A driver gives up its task for a later one. Its request has ended.
    pub(super) fn give_up_process(&mut self, index: usize) -> Task {
        let process = self.processes.remove(index);
        if let Some(number) = process.number.filter(|_| process.task().supersedes()) {
            match process.begun {
                true => drop(self.requests.insert(number, Condition::Ended)),
                false => drop(self.requests.remove(&number)),
            }
        }
        process.task()
    }

    /// The number of the latest request.
    pub(super) fn latest(&self) -> u64 {
        self.requests.keys().next_back().copied().unwrap_or(0)
    }

    pub(super) fn is_locked(&self) -> bool {
        self.processes.iter().any(|process| process.has_lock)
    }

    /// The clock that several machines share.
    pub(super) fn set_now(&mut self, now: Instant) {
        self.now = self.now.max(now);
    }

    /// Something else changes.
    pub(super) fn disturb(&mut self) {
        self.processes.iter_mut().for_each(|process| process.disturbed = true);
    }

    /// All processes are gone, and the kernel is as it is after a boot.
    pub(super) fn reboot(&mut self, world: World) {
        while !self.processes.is_empty() {
            self.kill(0);
        }
        let memory = std::mem::take(&mut self.world.memory);
        self.world = world;
        self.world.memory = Memory { state: memory.state.clone().of_earlier_boot(), ..memory };
    }

    /// A process does the next thing.
    pub(super) fn advance(&mut self, index: usize) -> Option<Ended> {
        self.now += Duration::from_millis(3);
        let action = self.processes[index].action.take()?;
        let event = match action {
            Action::End(result) => return Some(self.end(index, result)),
            Action::Wait(until) if self.now < until => {
                self.processes[index].action = Some(Action::Wait(until));
                self.processes[index].has_lock = false;
                return None;
            }
            action => self.perform(index, action),
        };
        let process = &mut self.processes[index];
        process.action = Some(process.job.on(&self.world.config, self.now, event));
        None
    }

    fn end(&mut self, index: usize, result: Result<Plan>) -> Ended {
        let process = self.processes.remove(index);
        let is_latest = process.number.is_none_or(|number| self.later(number).is_none());
        let is_late = process.number.is_some_and(|number| {
            self.requests.range(number + 1..).any(|(_, condition)| *condition == Condition::Ended)
        });
        if let Some(number) = process.number.filter(|_| process.task().supersedes()) {
            match process.begun {
                true => drop(self.requests.insert(number, Condition::Ended)),
                false => drop(self.requests.remove(&number)),
            }
        }
        Ended { task: process.task(), result, is_latest, is_late, disturbed: process.disturbed }
    }

    fn later(&self, number: u64) -> Option<(u64, Condition)> {
        self.requests.range(number + 1..).next_back().map(|(number, condition)| (*number, *condition))
    }

    fn superseded(&self, process: &Process) -> Result<()> {
        match process.number.and_then(|number| self.later(number).map(|(later, _)| (number, later))) {
            Some((number, latest)) => Err(superseded(process.task(), number, latest)),
            None => Ok(()),
        }
    }

    fn perform(&mut self, index: usize, action: Action) -> Event {
        match action {
            Action::Wait(_) => {
                self.processes[index].has_lock = false;
                Event::Time
            }
            Action::TakeTurn => Event::Turn(self.take_turn(index)),
            Action::ReadServices => Event::Services(Ok(())),
            Action::Look(extent) => {
                self.processes[index].disturbed = false;
                Event::Seen(Ok(Box::new(self.look(extent))))
            }
            Action::Try(_) => Event::Done(Ok(())),
            Action::Act(step) => Event::Done(self.act(index, step)),
            Action::FindDirector(_) => Event::Searched(Ok(())),
            Action::GiveUp(role, error) => Event::GaveUp(self.give_up(index, role, error)),
            Action::End(result) => Event::Done(result.map(drop)),
        }
    }

    fn take_turn(&mut self, index: usize) -> Result<Turn> {
        self.processes[index].has_lock = false;
        let (task, locked) = (self.processes[index].task(), self.processes.iter().any(|process| process.has_lock));
        let wait = || Ok(Turn::Waits(Error::Locked { object: "lock".into(), waited: LOCK_LIMIT }));
        let latest = self.requests.keys().next_back().copied().unwrap_or(0);
        let number = match (self.processes[index].number, task.supersedes()) {
            (_, false) => {
                if locked {
                    return wait();
                }
                if self.requests.values().any(|condition| *condition == Condition::Lives) {
                    return Err(superseded(task, latest, latest));
                }
                latest
            }
            (Some(number), true) => number,
            (None, true) if matches!(self.trouble, Trouble::DiskFull | Trouble::ReadOnly) => {
                return Err(self.trouble.error());
            }
            (None, true) => {
                self.requests.insert(latest + 1, Condition::Lives);
                latest + 1
            }
        };
        self.processes[index].number = Some(number);
        match self.later(number) {
            Some((latest, Condition::Ended)) => return Err(superseded(task, number, latest)),
            Some((_, Condition::Lives)) => return wait(),
            None if locked => return wait(),
            None => {}
        }
        (self.processes[index].has_lock, self.processes[index].begun) = (true, true);
        Ok(Turn::Now)
    }

    fn look(&self, extent: Extent) -> (Memory, Observation) {
        let (memory, seen) = (self.world.memory.clone(), self.world.seen.clone());
        match extent {
            Extent::Whole(_) => (memory, seen),
            Extent::Brief => {
                let state = memory.state;
                let wanted = planner::brief_services(&self.world.config, &state);
                let table = seen.table.filtered(|id| wanted.contains(id));
                let seen = Observation { table, link: Link::default(), ..seen };
                (Memory { state, ..Memory::default() }, seen)
            }
        }
    }

    fn act(&mut self, index: usize, step: usize) -> Result<()> {
        self.superseded(&self.processes[index])?;
        let plan = self.processes[index].job.plan().expect("a plan is carried out").clone();
        let step = &plan.steps()[step];
        if self.trouble.hits(step) {
            return Err(Error::Step {
                number: 1,
                total: 1,
                step: step.to_string(),
                error: Box::new(self.trouble.error()),
            });
        }
        self.world.act(step, &plan);
        Ok(())
    }

    fn give_up(&mut self, index: usize, role: Role, error: Error) -> Error {
        let is_locked = self.processes[index].has_lock;
        if is_locked && let Err(superseded) = self.superseded(&self.processes[index]) {
            return superseded;
        }
        if !is_locked {
            // Beside the process that has the lock.
            self.disturb();
        }
        let world = &mut self.world;
        let state = planner::unreached(&world.config, &world.memory.state, role);
        match (self.trouble, state) {
            // Not even a name.
            (Trouble::ReadOnly, _) => {}
            (trouble, _) if trouble == Trouble::DiskFull || !is_locked => {
                if role != Role::Master {
                    world.memory.state = world.memory.state.clone().demoted("");
                }
            }
            (_, Some(state)) => world.memory.state = state,
            (_, None) => {}
        }
        if role != Role::Master {
            self.stand_down();
        }
        error
    }

    /// As [`Node::stand_down`](crate::node::Node): each part by itself.
    fn stand_down(&mut self) {
        let world = &mut self.world;
        if world.config.vip_owner == VipOwner::Node {
            world.seen.vips.entry(ip(VIP)).or_default().retain(|found| found.interface != "eth0");
        }
        if world.config.fence == Fence::Marks && self.trouble != Trouble::Rules {
            world.seen.marks.rules = planner::closed(&world.config, &world.seen.marks.rules);
        }
        if self.trouble != Trouble::Ipvs {
            world.seen.daemons.insert(SyncRole::Master, None);
        }
    }

    /// The node's services, without those of its marks and of other programs.
    pub(super) fn services(&self) -> Table {
        let values = self.world.config.marks.values;
        self.world.seen.table.filtered(|id| !values.owns(id) && id.address().is_some_and(|to| to.ip() == ip(VIP)))
    }
}

fn superseded(task: Task, generation: u64, latest: u64) -> Error {
    Error::Superseded { role: task.name(), generation, latest }
}
