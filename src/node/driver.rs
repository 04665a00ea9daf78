//! Drives a node for a program with a loop of its own: one descriptor, and a call that never
//! waits.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use super::config::Config;
use super::handle::Node;
use super::job::Task;
use super::plan::{Plan, Step};
use super::status::Status;
use super::work::{Hooks, Progress, Services, Work};
use crate::error::Result;
use crate::wait::Readiness;

/// For so long a dispatch begins further steps.
const SLICE: Duration = Duration::from_millis(2);

/// What a driver reports of its tasks.
#[derive(Debug)]
#[non_exhaustive]
pub enum Report {
    /// A step is carried out next.
    #[non_exhaustive]
    Step {
        /// The task that it is of.
        task: Task,
        /// The step.
        step: Step,
    },
    /// A task has ended, as the call of that name would have.
    #[non_exhaustive]
    Ended {
        /// The task.
        task: Task,
        /// What was done for it. [`Error::Superseded`](crate::Error::Superseded): another request
        /// came, of this driver or of another process, and is carried out instead.
        result: Result<Plan>,
    },
}

/// Drives a [`Node`] for a program with a loop of its own.
///
/// A program waits until the descriptor of the driver is readable, with whatever it waits for
/// besides, then calls [`Driver::dispatch`], and takes the reports with [`Driver::next_report`].
///
/// [`Driver::dispatch`] never sleeps, and waits neither for a lock nor for another node: while
/// another process works on the node, or a neighbour is asked for its MAC address, the descriptor
/// becomes readable when there is something to do. nft(8) and iptables(8), which set the marks of
/// the node's own requests, are waited for by their descriptors.
///
/// It carries out steps for 2 ms, and ends the one that it has begun: a request to the kernel, or a
/// file. These take longer:
///
/// - A look at the whole reads the table, and takes as long as that is large. The promotion of a
///   backup that is ready needs none.
/// - A demotion reads the list of connections. Before Linux 6.13 a piece of it takes the longer the
///   further back it is: 13 ms at 60 000 connections.
/// - A file in the state directory is written to the disk (fsync(2)). Below /run, where it is by
///   default, there is no disk to wait for.
///
/// The VIPs of a promotion are announced once more after [`Config::announce_again`].
///
/// Dropping a driver closes the sockets by which it announced VIPs and asked for the director: the
/// kernel waits for a grace period of RCU for each, some 10 ms.
///
/// A driver that is dropped gives up the task that is under way, as a process does that is killed:
/// what was done stays, and the next request goes on from there.
///
/// ```no_run
/// use lvs_dr::node::{Config, Driver, Node, Report, Role, Task};
/// use rustix::event::{PollFd, PollFlags, poll};
///
/// let node = Node::open(Config::new("bond0", ["192.168.0.254".parse()?]))?;
/// let mut driver = Driver::new(node)?;
/// driver.request(Task::Role(Role::Master))?;
/// while driver.is_busy() {
///     poll(&mut [PollFd::new(&driver, PollFlags::IN)], None)?;
///     driver.dispatch()?;
///     while let Some(report) = driver.next_report() {
///         match report {
///             Report::Step { step, .. } => println!("{step}"),
///             Report::Ended { task, result, .. } => println!("{task:?}: {result:?}"),
///             _ => {}
///         }
///     }
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Driver {
    // Given up before the node is closed.
    work: Option<Work>,
    /// Tasks that wait for the one under way.
    waiting: VecDeque<Task>,
    /// When the VIPs of a promotion are announced once more, unless a request came after this one.
    announce: Option<(Instant, u64)>,
    reports: VecDeque<Report>,
    readiness: Readiness,
    /// The node's next configuration, once the task under way has ended.
    reconfigured: Option<Config>,
    node: Node,
}

impl Driver {
    /// Drives this node. Nothing is changed yet.
    ///
    /// # Errors
    /// [`Error::System`](crate::Error::System) with the errno: `EMFILE`, `ENFILE`, `ENOMEM`.
    pub fn new(node: Node) -> Result<Self> {
        let (waiting, reports) = (VecDeque::new(), VecDeque::new());
        let readiness = Readiness::new()?;
        Ok(Driver { work: None, waiting, announce: None, reports, readiness, reconfigured: None, node })
    }

    /// Asks for a task. It has its number at once, and is carried out by [`Driver::dispatch`].
    ///
    /// [`Task::Role`] and [`Task::Release`] supersede what this driver has under way, and earlier
    /// requests of other processes. The other tasks wait until this driver has ended what it has
    /// under way, and each is carried out once, however often it was asked for meanwhile.
    ///
    /// Does not wait.
    ///
    /// # Errors
    /// [`Error::System`](crate::Error::System) where the descriptor fails. Errors of the task are
    /// reported by [`Report::Ended`].
    pub fn request(&mut self, task: Task) -> Result<()> {
        if self.work.is_some() && !task.supersedes() {
            if !self.waiting.contains(&task) {
                self.waiting.push_back(task);
            }
            return Ok(());
        }
        // It has a later number than the one that is under way, which then ends.
        let mut next = Work::new(task);
        let drawn = begin(&mut self.node, &mut next);
        if let Some(mut before) = self.work.take() {
            let result = Err(before.superseded_by(&next));
            self.node.end(&mut before);
            self.reports.push_back(Report::Ended { task: before.task(), result });
        }
        self.take_configuration();
        self.take(next, drawn);
        self.arm()
    }

    /// As [`Node::reconfigure`], for the tasks behind the one that is under way.
    /// [`Task::Apply`] brings it in.
    ///
    /// # Errors
    /// As [`Node::reconfigure`].
    pub fn reconfigure(&mut self, config: Config) -> Result<()> {
        let config = self.node.accepted(config)?;
        self.adopt(config);
        Ok(())
    }

    /// The same for a configuration that was accepted.
    pub(super) fn adopt(&mut self, config: Config) {
        self.reconfigured = Some(config);
        if self.work.is_none() {
            self.take_configuration();
        }
    }

    fn take_configuration(&mut self) {
        if let Some(config) = self.reconfigured.take() {
            self.node.config = config;
        }
    }

    fn take(&mut self, work: Work, progress: Progress) {
        match progress {
            Progress::Ended(result) => self.reports.push_back(Report::Ended { task: work.task(), result }),
            Progress::Again | Progress::Waits => self.work = Some(work),
        }
    }

    /// Gives up the task that is under way, and those that wait for it. What was done stays. They
    /// are not reported.
    pub fn cancel(&mut self) {
        if let Some(mut work) = self.work.take() {
            self.node.end(&mut work);
        }
        self.take_configuration();
        self.waiting.clear();
        self.announce = None;
        // A time that has come without a task to do is nothing.
        let _ = self.readiness.wake_at(None);
    }

    /// Does what there is to do now. To be called when the descriptor is readable, and at any time
    /// besides.
    ///
    /// # Errors
    /// [`Error::System`](crate::Error::System) where the descriptor fails. Errors of tasks are
    /// reported by [`Report::Ended`].
    pub fn dispatch(&mut self) -> Result<()> {
        let start = Instant::now();
        loop {
            let Some(work) = &mut self.work else {
                self.take_configuration();
                let Some(task) = self.waiting.pop_front() else { break };
                self.work = Some(Work::new(task));
                continue;
            };
            let (reports, task) = (&mut self.reports, work.task());
            let mut hooks = Hooks {
                before: &mut |step| reports.push_back(Report::Step { task, step: step.clone() }),
                services: &mut || Services::AsConfigured,
            };
            match self.node.advance(work, &mut hooks) {
                Progress::Again if start.elapsed() < SLICE => {}
                Progress::Again | Progress::Waits => break,
                Progress::Ended(result) => {
                    let task = work.task();
                    self.work = None;
                    self.take_configuration();
                    self.announce_later(task, result.is_ok());
                    self.reports.push_back(Report::Ended { task, result });
                }
            }
        }
        self.announce_again();
        self.arm()
    }

    /// A neighbour may miss the first announcement, or a switch still be learning.
    fn announce_later(&mut self, task: Task, is_done: bool) {
        if let (Task::Role(role), true) = (task, is_done) {
            self.announce = self.node.announces_again(role).map(|(pause, request)| (Instant::now() + pause, request));
        }
    }

    fn announce_again(&mut self) {
        if let Some((_, request)) = self.announce.take_if(|(at, _)| Instant::now() >= *at) {
            // The role is reached: an announcement that fails is made up for by the neighbours.
            let _ = self.node.announce_unless_superseded(request);
        }
    }

    /// The descriptor becomes readable when there is something to do.
    fn arm(&mut self) -> Result<()> {
        let now = Instant::now();
        let Some(work) = &self.work else {
            let announce = self.announce.map(|(at, _)| at);
            return self.readiness.wake_at(if self.waiting.is_empty() { announce } else { Some(now) });
        };
        let descriptor = work.descriptor();
        descriptor.map_or(Ok(()), |descriptor| self.readiness.watch(descriptor))?;
        let waits = descriptor.is_some() || work.until().is_some();
        self.readiness.wake_at(if waits { work.until() } else { Some(now) })
    }

    /// Takes the next report. `None`: there is none at present.
    pub fn next_report(&mut self) -> Option<Report> {
        self.reports.pop_front()
    }

    /// Whether a task is under way, or a report is to be taken.
    pub fn is_busy(&self) -> bool {
        self.work.is_some() || !self.waiting.is_empty() || !self.reports.is_empty()
    }

    /// What the node is to be.
    pub fn config(&self) -> &Config {
        self.node.config()
    }

    /// As [`Node::status`]. Reads the table.
    ///
    /// # Errors
    /// As [`Node::status`].
    pub fn status(&mut self) -> Result<Status> {
        self.node.status()
    }

    /// As [`Node::set_director`], without waiting for the lock.
    ///
    /// # Errors
    /// As [`Node::set_director`]; [`Error::Locked`](crate::Error::Locked) while another process, or
    /// a task of this driver, works on the node: it can be said again later.
    pub fn set_director(&mut self, director: Option<IpAddr>) -> Result<()> {
        self.node.set_director_now(director)
    }

    pub(super) fn node(&self) -> &Node {
        &self.node
    }

    /// For calls that do not wait for the lock: the task that is under way may hold it.
    pub(super) fn node_mut(&mut self) -> &mut Node {
        &mut self.node
    }

    /// Gives up the task that is under way, and returns the node.
    pub fn into_node(mut self) -> Node {
        self.cancel();
        self.node
    }
}

/// Draws the number of a request, or looks whether another process is at work.
fn begin(node: &mut Node, work: &mut Work) -> Progress {
    node.advance(work, &mut Hooks { before: &mut |_| (), services: &mut || Services::AsConfigured })
}

impl AsFd for Driver {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.readiness.as_fd()
    }
}
