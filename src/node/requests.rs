//! Requests for roles, across processes: they are numbered as they arrive, the latest one is
//! carried out, and one process at a time works on a node.
//!
//! Each request has a file `request.N` in the state directory, which its process keeps locked. A
//! file that is not locked is of a request that was killed, or says that it has ended. Nothing is
//! shared between requests but the directory, so that no damaged or locked file holds up another
//! request.

use std::cell::Cell;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use std::{process, thread};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use super::state::suffix;
use crate::error::{Error, Result};

/// First and longest interval at which a request that waits for its turn looks again.
const FIRST_PAUSE: Duration = Duration::from_millis(2);
const LONGEST_PAUSE: Duration = Duration::from_millis(50);
/// First and longest interval at which a request looks again that a later one supersedes, unless
/// that one is killed or gives up. Hundreds of requests that wait take little of a processor.
const FIRST_PAUSE_BEHIND_LATER: Duration = Duration::from_millis(30);
const LONGEST_PAUSE_BEHIND_LATER: Duration = Duration::from_millis(250);

/// How often a request tries to draw its number.
const TRIES: u32 = 20;

/// Begins the names of the files of requests that draw their numbers.
const DRAWING: &str = "drawing.";

/// The content of the file of a request that has ended.
const ENDED: &[u8] = b"ended\n";

/// Pauses that grow.
#[derive(Debug)]
pub(super) struct Pauses(Duration);

impl Pauses {
    pub(super) fn new() -> Self {
        Pauses(FIRST_PAUSE)
    }

    /// The next one of a request that waits for its turn.
    pub(super) fn next(&mut self) -> Duration {
        self.next_of(FIRST_PAUSE, LONGEST_PAUSE)
    }

    /// The next one of a request that waits for the end of a later one.
    pub(super) fn next_behind_later(&mut self) -> Duration {
        self.next_of(FIRST_PAUSE_BEHIND_LATER, LONGEST_PAUSE_BEHIND_LATER)
    }

    fn next_of(&mut self, first: Duration, longest: Duration) -> Duration {
        let next = self.0.clamp(first, longest);
        self.0 = next * 2;
        next
    }
}

/// The requests for one group of VIPs.
#[derive(Debug, Clone)]
pub(super) struct Requests {
    directory: PathBuf,
    /// Ends the names of the files that are the group's own.
    suffix: String,
}

/// The node's lock, held until this is dropped. The kernel releases it when the process ends.
#[derive(Debug)]
pub(super) struct Lock(#[allow(dead_code, reason = "closing the file releases the lock")] File);

/// A request with its number.
#[derive(Debug)]
pub(super) struct Request {
    requests: Requests,
    role: String,
    number: u64,
    /// The file that is locked while the request lives. `None`: the request has no number of its
    /// own.
    alive: Option<File>,
    /// Whether the request has begun to change anything.
    begun: Cell<bool>,
    /// The later request whose end it waits for.
    awaited: Cell<Option<u64>>,
    /// The id of the process that made it.
    process: u32,
}

/// The state of the requests that were made after one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Later {
    /// There are none, they were killed, or they gave up before they changed anything.
    None,
    /// One is under way, or waits.
    Lives(u64),
    /// One was carried out, or has failed and reported it.
    Ended(u64),
}

/// What a request may do now.
#[derive(Debug)]
pub(super) enum Turn {
    /// It is carried out, under this lock.
    Now(Lock),
    /// It looks again after a pause.
    Waits(WaitsFor),
    /// A later request was carried out, or has failed and reported it.
    Superseded(u64),
}

/// What a request waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum WaitsFor {
    /// The end of this later request, which may still be killed or give up.
    Later(u64),
    /// The end of another process's work.
    Lock,
}

impl Request {
    pub(super) fn number(&self) -> u64 {
        self.number
    }

    /// Looks whether it is the request's turn, and begins it. Waits for nothing.
    ///
    /// # Errors
    /// [`Error::System`]: the state directory cannot be read.
    pub(super) fn turn(&self) -> Result<Turn> {
        // Of hundreds that wait, each looks at one file, not at all.
        if let Some(awaited) = self.awaited.get()
            && matches!(self.requests.condition(awaited), Ok(Condition::Lives))
        {
            return Ok(Turn::Waits(WaitsFor::Later(awaited)));
        }
        let wait = |later| match later {
            Later::Ended(latest) => Some(Turn::Superseded(latest)),
            Later::Lives(latest) => {
                self.awaited.set(Some(latest));
                Some(Turn::Waits(WaitsFor::Later(latest)))
            }
            Later::None => None,
        };
        if let Some(wait) = wait(self.later()?) {
            return Ok(wait);
        }
        let lock = match self.requests.lock(Duration::ZERO) {
            Err(Error::Locked { .. }) => return Ok(Turn::Waits(WaitsFor::Lock)),
            lock => lock?,
        };
        // One that came before the lock was free.
        Ok(wait(self.later()?).unwrap_or_else(|| {
            self.begin();
            Turn::Now(lock)
        }))
    }

    /// The error of a request that has waited for too long.
    pub(super) fn timed_out(&self, waits: WaitsFor, waited: Duration) -> Error {
        match waits {
            WaitsFor::Later(latest) => self.superseded(latest),
            WaitsFor::Lock => Error::Locked { object: self.requests.lock_file().display().to_string(), waited },
        }
    }

    /// Records that the request changes something from now on: when it ends, earlier requests are
    /// superseded. A request that never begins supersedes none.
    fn begin(&self) {
        self.begun.set(true);
    }

    pub(super) fn superseded(&self, latest: u64) -> Error {
        Error::Superseded { role: self.role.clone(), generation: self.number, latest }
    }

    /// The state of later requests.
    ///
    /// # Errors
    /// [`Error::System`]: the state directory cannot be read.
    pub(super) fn later(&self) -> Result<Later> {
        let look = || -> io::Result<Later> {
            let numbers = self.requests.numbers()?;
            for number in numbers.into_iter().rev().take_while(|number| *number > self.number) {
                match self.requests.condition(number)? {
                    Condition::Lives => return Ok(Later::Lives(number)),
                    Condition::Ended => return Ok(Later::Ended(number)),
                    Condition::Gone => {}
                }
            }
            Ok(Later::None)
        };
        look().map_err(|e| Error::system("look for later requests in", self.requests.directory.display(), e))
    }
}

/// Records that the request has ended. A killed process does not; the kernel releases its lock.
impl Drop for Request {
    fn drop(&mut self) {
        let Some(mut file) = self.alive.take() else { return };
        // After fork(2) the request is still the parent's.
        if self.process != process::id() {
            return;
        }
        // A request whose end cannot be recorded counts as killed.
        if !self.begun.get() {
            let _ = remove_if_there(&self.requests.file(self.number));
            return;
        }
        let _ = file.write_all(ENDED);
        drop(file);
        let _ = self.requests.remove_superseded();
    }
}

/// The condition of one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Condition {
    /// Its process lives.
    Lives,
    /// It has ended, and may have changed something.
    Ended,
    /// It was killed, or has changed nothing.
    Gone,
}

impl Requests {
    pub(super) fn new(directory: &Path, group: &str) -> Self {
        Requests { directory: directory.to_owned(), suffix: suffix(group) }
    }

    fn file(&self, number: u64) -> PathBuf {
        self.directory.join(format!("request{}.{number}", self.suffix))
    }

    fn lock_file(&self) -> PathBuf {
        self.directory.join("lock")
    }

    /// The numbers of all requests that have a file, in order.
    fn numbers(&self) -> io::Result<Vec<u64>> {
        let prefix = format!("request{}.", self.suffix);
        let mut numbers = Vec::new();
        let entries = match fs::read_dir(&self.directory) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(numbers),
            entries => entries?,
        };
        for entry in entries {
            let name = entry?.file_name();
            numbers.extend(name.to_str().and_then(|name| name.strip_prefix(&prefix)?.parse::<u64>().ok()));
        }
        numbers.sort_unstable();
        Ok(numbers)
    }

    fn condition(&self, number: u64) -> io::Result<Condition> {
        condition(&self.file(number))
    }

    /// Draws the next number: of two requests, the later one has the higher. Waits for no lock.
    ///
    /// # Errors
    /// [`Error::System`]: the state directory cannot be written.
    pub(super) fn draw(&self, role: &str) -> Result<Request> {
        // It is locked before it has its number, so that no other process finds it unlocked.
        let draw = |path: &Path| -> io::Result<(u64, File)> {
            let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
            flock(&file, FlockOperation::NonBlockingLockExclusive)?;
            let mut number = self.numbers()?.last().copied().unwrap_or(0);
            loop {
                number = number.saturating_add(1);
                match fs::hard_link(path, self.file(number)) {
                    Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                    linked => return linked.map(|()| (number, file)),
                }
            }
        };
        let thread = rustix::thread::gettid().as_raw_nonzero();
        let path = self.directory.join(format!("{DRAWING}{}.{thread}", process::id()));
        // The name may be that of a killed process with the same ids. A file that is not locked
        // yet may be taken for one of a killed process by another request.
        let mut drawn = Err(io::ErrorKind::NotFound.into());
        for _ in 0..TRIES {
            drawn = remove_if_there(&path).and_then(|()| draw(&path));
            match &drawn {
                Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::WouldBlock) => {}
                _ => break,
            }
        }
        let _ = remove_if_there(&path);
        let (number, file) = drawn.map_err(|e| Error::system("draw a number in", self.directory.display(), e))?;
        Ok(self.request(role, number, Some(file)))
    }

    /// A request that supersedes none, and yields to each that lives or is made later.
    pub(super) fn beside(&self, role: &str) -> Result<Request> {
        Ok(self.request(role, self.latest()?, None))
    }

    fn request(&self, role: &str, number: u64, alive: Option<File>) -> Request {
        Request {
            requests: self.clone(),
            role: role.to_owned(),
            number,
            alive,
            begun: Cell::new(false),
            awaited: Cell::new(None),
            process: process::id(),
        }
    }

    /// The number of the latest request; 0 before the first. Waits for no lock.
    ///
    /// # Errors
    /// [`Error::System`]: the state directory cannot be read.
    pub(super) fn latest(&self) -> Result<u64> {
        let numbers = self.numbers().map_err(|e| Error::system("read", self.directory.display(), e))?;
        Ok(numbers.last().copied().unwrap_or(0))
    }

    /// Whether a request is under way or waits.
    ///
    /// # Errors
    /// [`Error::System`]: the state directory cannot be read.
    pub(super) fn is_pending(&self) -> Result<bool> {
        let look = || -> io::Result<bool> {
            for number in self.numbers()? {
                if self.condition(number)? == Condition::Lives {
                    return Ok(true);
                }
            }
            Ok(false)
        };
        look().map_err(|e| Error::system("look for requests in", self.directory.display(), e))
    }

    /// Removes the files of requests that are earlier than the last one that has ended, and of
    /// requests that were killed while they drew their numbers, unless they live.
    fn remove_superseded(&self) -> io::Result<()> {
        for entry in fs::read_dir(&self.directory)? {
            let entry = entry?;
            if entry.file_name().as_encoded_bytes().starts_with(DRAWING.as_bytes())
                && condition(&entry.path())? == Condition::Gone
            {
                remove_if_there(&entry.path())?;
            }
        }
        let (mut numbers, mut superseded) = (self.numbers()?, false);
        while let Some(number) = numbers.pop() {
            match self.condition(number)? {
                Condition::Lives => {}
                _ if superseded => remove_if_there(&self.file(number))?,
                condition => superseded = condition == Condition::Ended,
            }
        }
        Ok(())
    }

    /// Waits until no other process works on this node.
    ///
    /// # Errors
    /// [`Error::Locked`]: another process holds the lock for longer than `limit`;
    /// [`Error::System`].
    pub(super) fn lock(&self, limit: Duration) -> Result<Lock> {
        let path = self.lock_file();
        let failed = |e: io::Error| Error::system("lock", path.display(), e);
        let file =
            OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&path).map_err(failed)?;
        let (start, mut pauses) = (Instant::now(), Pauses::new());
        loop {
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return Ok(Lock(file)),
                Err(Errno::WOULDBLOCK | Errno::INTR) if start.elapsed() < limit => thread::sleep(pauses.next()),
                Err(Errno::WOULDBLOCK | Errno::INTR) => {
                    return Err(Error::Locked { object: path.display().to_string(), waited: limit });
                }
                Err(error) => return Err(failed(error.into())),
            }
        }
    }
}

fn condition(path: &Path) -> io::Result<Condition> {
    let mut file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Condition::Gone),
        opened => opened?,
    };
    match flock(&file, FlockOperation::NonBlockingLockShared) {
        Err(Errno::WOULDBLOCK) => return Ok(Condition::Lives),
        free => free?,
    }
    let mut content = Vec::new();
    (&mut file).take(ENDED.len() as u64 + 1).read_to_end(&mut content)?;
    Ok(if content == ENDED { Condition::Ended } else { Condition::Gone })
}

pub(super) fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn requests(name: &str) -> Requests {
        let path = std::env::temp_dir().join(format!("lvs-dr-test-{}-{name}", process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir(&path).unwrap();
        Requests::new(&path, "")
    }

    fn begun(requests: &Requests) -> Request {
        let request = requests.draw("backup").unwrap();
        request.begin();
        request
    }

    #[test]
    fn pauses_grow() {
        let pauses = |next: fn(&mut Pauses) -> Duration| {
            let mut pauses = Pauses::new();
            [(); 7].map(|()| next(&mut pauses).as_millis())
        };
        assert_eq!(pauses(Pauses::next), [2, 4, 8, 16, 32, 50, 50]);
        assert_eq!(pauses(Pauses::next_behind_later), [30, 60, 120, 240, 250, 250, 250]);
    }

    #[test]
    fn only_a_missing_file_counts_as_none() {
        let dir = requests("missing");
        let file = dir.directory.join("file");
        let inside = |directory: &str| Requests::new(&dir.directory.join(directory), "");
        assert_eq!(inside("missing").latest().unwrap(), 0);
        assert!(!inside("missing").is_pending().unwrap());
        fs::write(&file, "").unwrap();
        assert!(inside("file").latest().is_err() && inside("file").is_pending().is_err());
        assert_eq!(condition(&dir.directory.join("missing")).unwrap(), Condition::Gone);
        assert!(condition(&file.join("missing")).is_err());
        remove_if_there(&dir.directory.join("missing")).unwrap();
        assert!(remove_if_there(&dir.directory).is_err());
        assert!(inside("missing").draw("backup").is_err() && inside("file").draw("backup").is_err());
        // A name that is too long for a file is not tried for ever.
        assert!(Requests::new(&dir.directory, &"x".repeat(300)).draw("backup").is_err());
        fs::remove_dir_all(&dir.directory).unwrap();
    }

    #[test]
    fn requests_are_numbered_and_one_works_at_a_time() {
        let dir = requests("lock");
        let draw = || begun(&dir);
        let (first, second) = (draw(), draw());
        assert_eq!((first.number(), second.number(), dir.latest().unwrap()), (1, 2, 2));
        assert_eq!((first.later().unwrap(), second.later().unwrap()), (Later::Lives(2), Later::None));
        // As if killed: its end is not recorded.
        let third = draw();
        assert_eq!((first.later().unwrap(), second.later().unwrap()), (Later::Lives(3), Later::Lives(3)));
        flock(third.alive.as_ref().unwrap(), FlockOperation::Unlock).unwrap();
        assert_eq!((first.later().unwrap(), second.later().unwrap()), (Later::Lives(2), Later::None));
        drop(second);
        assert_eq!(first.later().unwrap(), Later::Ended(2));
        drop(first);
        assert_eq!(dir.numbers().unwrap(), [2, 3]);
        let held = dir.lock(Duration::ZERO).unwrap();
        assert!(matches!(dir.lock(Duration::from_millis(20)), Err(Error::Locked { .. })));
        // It is freed in time.
        thread::scope(|scope| {
            scope.spawn(move || {
                thread::sleep(Duration::from_millis(20));
                drop(held);
            });
            dir.lock(Duration::from_secs(10)).unwrap();
        });
        dir.lock(Duration::ZERO).unwrap();
        fs::remove_dir_all(&dir.directory).unwrap();
    }

    #[test]
    fn a_request_that_did_nothing_supersedes_none() {
        let dir = requests("nothing");
        let waiting = dir.draw("master").unwrap();
        let in_vain = dir.draw("backup").unwrap();
        assert_eq!(waiting.later().unwrap(), Later::Lives(2));
        drop(in_vain);
        assert_eq!(waiting.later().unwrap(), Later::None);
        // Repairs and fixes.
        let beside = dir.beside("repair").unwrap();
        beside.begin();
        drop(beside);
        assert_eq!(waiting.later().unwrap(), Later::None);
        fs::remove_dir_all(&dir.directory).unwrap();
    }

    #[test]
    fn a_repair_yields_to_requests_before_and_after_it() {
        let dir = requests("beside");
        assert!(!dir.is_pending().unwrap());
        let waiting = dir.draw("backup").unwrap();
        assert!(dir.is_pending().unwrap());
        drop(waiting);
        let beside = dir.beside("repair").unwrap();
        assert_eq!(beside.later().unwrap(), Later::None);
        let request = dir.draw("backup").unwrap();
        assert!(matches!(beside.later().unwrap(), Later::Lives(_)));
        request.begin();
        drop(request);
        assert!(matches!(beside.later().unwrap(), Later::Ended(_)));
        fs::remove_dir_all(&dir.directory).unwrap();
    }

    #[test]
    fn damaged_and_locked_files_hold_up_no_request() {
        let dir = requests("damaged");
        let draw = || begun(&dir);
        drop(draw());
        for damaged in [&b""[..], b"endee\n", b"ended\nended\n", b"\xff\0"] {
            let waiting = draw();
            let later = draw();
            let path = dir.file(later.number);
            drop(later);
            fs::write(&path, damaged).unwrap();
            assert_eq!(waiting.later().unwrap(), Later::None, "{damaged:?}");
            drop(waiting);
            let _ = fs::remove_file(path);
        }
        // A program that keeps the last file locked.
        let latest = dir.latest().unwrap();
        let held = File::open(dir.file(latest)).unwrap();
        flock(&held, FlockOperation::NonBlockingLockExclusive).unwrap();
        assert_eq!((draw().number, dir.latest().unwrap()), (latest + 1, latest + 1));
        // Names that are no request's.
        for name in ["request.", "request.x", "request.web.7", "request.99999999999999999999", "request.-1"] {
            fs::write(dir.directory.join(name), "").unwrap();
        }
        assert_eq!(dir.latest().unwrap(), latest + 1);
        fs::remove_dir_all(&dir.directory).unwrap();
    }

    #[test]
    fn the_files_of_superseded_and_killed_requests_are_removed() {
        let dir = requests("removed");
        let draw = || begun(&dir);
        let (first, killed, third) = (draw(), draw(), draw());
        flock(killed.alive.as_ref().unwrap(), FlockOperation::Unlock).unwrap();
        // Killed while it drew its number, and one that draws.
        let drawing = |name: &str| File::create(dir.directory.join(name)).unwrap();
        drop(drawing("drawing.1.1"));
        let lives = drawing("drawing.2.2");
        flock(&lives, FlockOperation::NonBlockingLockExclusive).unwrap();
        drop(drawing("state"));
        drop(third);
        assert_eq!(dir.numbers().unwrap(), [1, 3]);
        assert!(dir.directory.join("state").exists());
        assert!(!dir.directory.join("drawing.1.1").exists() && dir.directory.join("drawing.2.2").exists());
        drop(first);
        assert_eq!(dir.numbers().unwrap(), [3]);
        assert_eq!(dir.draw("backup").unwrap().number, 4);
        let groups = Requests::new(&dir.directory, "my web");
        assert_eq!(groups.draw("backup").unwrap().number, 1);
        std::mem::forget(killed);
        fs::remove_dir_all(&dir.directory).unwrap();
    }

    #[test]
    fn requests_that_are_drawn_at_once_have_numbers_of_their_own() {
        let dir = requests("at-once");
        // Of a request that has ended, the number may be given away again.
        let draw = || (0..50).map(|_| dir.draw("backup").unwrap()).collect::<Vec<_>>();
        let living: Vec<Request> = thread::scope(|scope| {
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(draw)).collect();
            threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
        });
        let mut numbers: Vec<u64> = living.iter().map(|request| request.number).collect();
        numbers.sort_unstable();
        numbers.dedup();
        assert_eq!(numbers.len(), 200);
        fs::remove_dir_all(&dir.directory).unwrap();
    }

    /// Processes in random order: each draws, waits for its turn, works in some steps, and may be
    /// killed anywhere. The work that ends last is that of the latest request that was not killed.
    #[test]
    fn in_any_order_the_latest_request_that_lives_is_carried_out_last() {
        let mut state = 1_u64;
        let mut random = |below: u64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) % below
        };
        for round in 0..300 {
            let dir = requests("order");
            let mut waiting: Vec<Request> = Vec::new();
            let mut working: Option<(Request, Lock, u64)> = None;
            let (mut to_draw, mut last_done, mut survivors) = (6, None, Vec::new());
            while to_draw > 0 || !waiting.is_empty() || working.is_some() {
                match random(8) {
                    0 | 1 if to_draw > 0 => {
                        to_draw -= 1;
                        let request = dir.draw("backup").unwrap();
                        survivors.push(request.number);
                        waiting.push(request);
                    }
                    // The kernel releases the locks of a killed process.
                    2 if random(3) == 0 => {
                        let killed = match working.take() {
                            Some((request, lock, _)) => {
                                drop(lock);
                                request
                            }
                            None if !waiting.is_empty() => waiting.swap_remove(random(waiting.len() as u64) as usize),
                            None => continue,
                        };
                        survivors.retain(|number| *number != killed.number);
                        flock(killed.alive.as_ref().unwrap(), FlockOperation::Unlock).unwrap();
                        std::mem::forget(killed);
                    }
                    _ => match working.take() {
                        Some((request, lock, left)) => match request.later().unwrap() {
                            Later::None if left == 0 => {
                                last_done = Some(request.number);
                                drop(request);
                                drop(lock);
                            }
                            Later::None => working = Some((request, lock, left - 1)),
                            // It yields, and looks again.
                            _ => {
                                drop(lock);
                                waiting.push(request);
                            }
                        },
                        None if !waiting.is_empty() => {
                            let request = waiting.swap_remove(random(waiting.len() as u64) as usize);
                            match request.turn().unwrap() {
                                Turn::Now(lock) => working = Some((request, lock, random(4))),
                                Turn::Waits(_) => waiting.push(request),
                                Turn::Superseded(latest) => assert!(latest > request.number),
                            }
                        }
                        None => {}
                    },
                }
            }
            assert_eq!(last_done, survivors.iter().max().copied(), "round {round}: {survivors:?}");
            fs::remove_dir_all(&dir.directory).unwrap();
        }
    }
}
