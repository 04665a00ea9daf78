//! `lvs-node watch` and `lvs-node fifo`: a program around the library's supervisor, with a log,
//! metrics and systemd's watchdog.

use std::convert::Infallible;
use std::fmt::{self, Display};
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use std::{fs, io, ptr, thread};

use clap::Args;
use lvs_dr::Result;
use lvs_dr::files::Replacement;
use lvs_dr::node::{Node, Notice, Supervisor, SupervisorConfig};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use sd_notify::NotifyState;
use serde_json::{Value, json};

use super::cluster;
use super::file::{FileError, NodeFile, WatchFiles};
use super::metrics;
use super::output::{Output, VERSION, say};
#[cfg(feature = "serde")]
use super::recording::Recording;
use super::serve::{self, Server};
use super::syslog;

/// How long a watch has to answer, and how often it is looked whether it has.
const ANSWER: Duration = Duration::from_secs(10);
const LOOK: Duration = Duration::from_millis(20);

/// How often systemd's watchdog is notified.
const WATCHDOG: Duration = Duration::from_secs(1);

#[derive(Debug, Clone, Default, Args)]
pub struct Options {
    /// keepalived's notify_fifo. Left out: `[watch] fifo` of the file; without that, roles come by
    /// `notify` or `role`.
    #[arg(long, value_name = "PATH")]
    fifo: Option<PathBuf>,
    /// The VRRP instance whose states count, for a file without groups; left out: every
    /// instance's. A [[group]] is named as its instance.
    #[arg(long)]
    instance: Option<String>,
    /// Where to write metrics, in Prometheus' text format: a file in a directory that only root
    /// can write to. Left out: `[watch] metrics` of the file.
    #[arg(long, value_name = "FILE")]
    metrics: Option<PathBuf>,
    /// Serve metrics over HTTP at this address and port, as /metrics; of a port alone, at the
    /// loopback address. Left out: `[watch] listen` of the file; without that, nothing is served.
    #[arg(long, value_name = "ADDRESS", value_parser = serve::address)]
    pub listen: Option<SocketAddr>,
    /// Record what happens and what is decided, an object in JSON on each line, some each second,
    /// in a file that must not be there yet. It names addresses, and no key. For a report of a
    /// fault: the library's simulation replays it.
    #[cfg(feature = "serde")]
    #[arg(long, value_name = "FILE")]
    record: Option<PathBuf>,
}

impl Options {
    /// These options, with files of the configuration where the command line names none.
    pub fn or(self, files: &WatchFiles) -> Self {
        Options {
            fifo: self.fifo.or_else(|| files.fifo.clone()),
            metrics: self.metrics.or_else(|| files.metrics.clone()),
            listen: self.listen.or(files.listen),
            ..self
        }
    }

    /// What a file names otherwise than these options, which stay.
    fn kept(&self, file: &NodeFile, track_file: Option<&Path>) -> Vec<String> {
        let names = Options::default().or(&file.watch);
        let differs = |now: Option<&Path>, new: Option<&PathBuf>| new.is_some_and(|new| now != Some(new.as_path()));
        [
            ("[watch] fifo", differs(self.fifo.as_deref(), names.fifo.as_ref())),
            ("[watch] metrics", differs(self.metrics.as_deref(), names.metrics.as_ref())),
            ("[watch] listen", names.listen.is_some() && names.listen != self.listen),
            ("[handover] file", differs(track_file, file.track_file.as_ref())),
        ]
        .into_iter()
        .filter(|(_, differs)| *differs)
        .map(|(name, _)| format!("reload: {name} is read at the start only: `systemctl restart lvs-node` brings it in"))
        .collect()
    }

    /// What `lvs-node fifo` is asked for.
    pub fn follow(path: PathBuf, instance: Option<String>) -> Self {
        Options { fifo: Some(path), instance, ..Options::default() }
    }
}

/// A line of the log.
pub struct Line {
    event: &'static str,
    text: String,
}

impl Line {
    /// The lines of a notice: one for each thing that is repaired.
    fn of(notice: &Notice) -> Vec<Line> {
        let line = |text: String| Line { event: notice.kind(), text };
        match notice {
            Notice::Looked(_) => Vec::new(),
            Notice::Repair { steps, .. } => steps.iter().cloned().map(line).collect(),
            notice => vec![line(notice.to_string())],
        }
    }

    /// As an object.
    fn json(&self) -> Value {
        let time = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
        json!({ "version": VERSION, "time": time, "event": self.event, "text": self.text })
    }

    pub fn print(&self, output: &Output) {
        match (output.quiet, output.json) {
            (true, _) => {}
            (false, true) => say(format_args!("{}\n", self.json())),
            (false, false) => say(format_args!("{}\n", self.with_level())),
        }
    }

    fn with_level(&self) -> String {
        let text = self.to_string();
        match self.event {
            "failure" => syslog::with_level(syslog::Level::Error, io::stdout(), &text),
            "warning" => syslog::with_level(syslog::Level::Warning, io::stdout(), &text),
            _ => text,
        }
    }
}

/// For people.
impl Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.event {
            "repair" | "warning" => write!(f, "{}: {}", self.event, self.text),
            _ => self.text.fmt(f),
        }
    }
}

/// Supervises the node for ever. `all`: not only the roles that keepalived notifies. `read` reads
/// the node's file again.
pub fn run(
    nodes: Vec<Node>,
    options: &Options,
    mut server: Option<Server>,
    track_file: Option<PathBuf>,
    all: bool,
    read: impl Fn() -> std::result::Result<NodeFile, FileError>,
    log: impl Fn(&Line),
) -> Result<Infallible> {
    let (mut fence, known_file) = (nodes[0].config().fence, cluster::known_file(&nodes[0]));
    let mut reloads = Reloads::of(&nodes[0])?;
    let mut config = SupervisorConfig::default();
    config.fifo.clone_from(&options.fifo);
    config.instance.clone_from(&options.instance);
    (config.track_file, config.only_roles) = (track_file.clone(), !all);
    config.statuses = options.metrics.is_some() || server.is_some();
    #[cfg(feature = "serde")]
    let mut recording = Recording::new(options.record.as_deref(), &mut config);
    let mut supervisor = Supervisor::new(nodes, config)?;
    let _ = sd_notify::notify(&[NotifyState::Ready]);
    let mut failed = None;
    // What is known is there from the beginning on.
    let mut notified = Instant::now() - WATCHDOG;
    let mut page: Option<Arc<str>> = None;
    loop {
        supervisor.dispatch()?;
        #[cfg(feature = "serde")]
        if let Err(error) = recording.take(&mut supervisor) {
            log(&Line { event: "failure", text: format!("record: {error}") });
        }
        while let Some(notice) = supervisor.next_notice() {
            Line::of(&notice).iter().for_each(&log);
            let Notice::Looked(groups) = notice else { continue };
            let text = metrics::text(&groups, fence, supervisor.counts());
            let error = show(options.metrics.as_deref(), &text).err().map(|error| error.to_string());
            page = Some(text.into());
            if let Some(error) = error.as_ref().filter(|_| error != failed) {
                log(&Line { event: "failure", text: format!("metrics: {error}") });
            }
            failed = error;
        }
        if let Some(by) = reloads.next() {
            let result = read().map_err(|error| error.to_string()).and_then(|file| {
                let kept = options.kept(&file, track_file.as_deref());
                kept.into_iter().for_each(|text| log(&Line { event: "warning", text }));
                let new_fence = file.configs[0].fence;
                supervisor.reconfigure(file.configs).map_err(|error| error.to_string())?;
                fence = new_fence;
                Ok(())
            });
            let (event, text) = match &result {
                Ok(()) => ("reload", "the file is read again".to_owned()),
                Err(reason) => ("failure", format!("reload: {reason}")),
            };
            log(&Line { event, text });
            reloads.answer(by, result);
            // What is to be done is done without waiting.
            continue;
        }
        // systemd's socket holds few messages.
        if notified.elapsed() >= WATCHDOG {
            notified = Instant::now();
            let _ = sd_notify::notify(&[NotifyState::Watchdog]);
            if all {
                cluster::write(&known_file, supervisor.counts(), &supervisor.others());
            }
        }
        wait(&supervisor, server.as_mut(), page.as_ref());
    }
}

/// Waits until there is something to do for the supervisor, a second at most, and serves clients
/// meanwhile. A signal ends it.
fn wait(supervisor: &Supervisor, mut server: Option<&mut Server>, page: Option<&Arc<str>>) {
    let until = Instant::now() + WATCHDOG;
    loop {
        let mut descriptors = vec![PollFd::new(supervisor, PollFlags::IN)];
        descriptors.extend(server.iter().flat_map(|server| server.descriptors()));
        let first = server.iter().filter_map(|server| server.until()).fold(until, Instant::min);
        let timeout = Timespec::try_from(first.saturating_duration_since(Instant::now())).unwrap_or_default();
        let polled = poll(&mut descriptors, Some(&timeout));
        let ready = !descriptors[0].revents().is_empty();
        let now = Instant::now();
        if let Some(server) = &mut server {
            server.go_on(now, page);
        }
        if polled.is_err() || ready || now >= until {
            return;
        }
    }
}

/// Another process asks for the file to be read again by a signal, or by a file beside the state.
/// `lvs-node apply` makes that file, finds here whether a watch runs, and waits for its answer.
struct Reloads {
    asked: PathBuf,
    /// Is locked while the watch runs, and as old as what it has read.
    running: Option<fs::File>,
}

/// How a reload was asked for.
enum By {
    Signal,
    File,
}

/// Whether SIGHUP has come.
static HUNG_UP: AtomicBool = AtomicBool::new(false);

extern "C" fn hang_up(_: libc::c_int) {
    HUNG_UP.store(true, Ordering::Relaxed);
}

impl Reloads {
    fn of(node: &Node) -> Result<Self> {
        let mut hup = MaybeUninit::<libc::sigset_t>::uninit();
        // SAFETY: the handler stores a flag, and the set is made before it is read. The starting
        // program may have blocked the signal.
        unsafe {
            libc::signal(libc::SIGHUP, hang_up as *const () as libc::sighandler_t);
            libc::sigemptyset(hup.as_mut_ptr());
            libc::sigaddset(hup.as_mut_ptr(), libc::SIGHUP);
            libc::pthread_sigmask(libc::SIG_UNBLOCK, hup.as_ptr(), ptr::null_mut());
        }
        node.prepare_state_dir()?;
        let file = fs::File::create(running_file(node)).ok();
        // Of two that watch one node, the first is asked.
        let running = file.filter(|file| flock(file, FlockOperation::NonBlockingLockExclusive).is_ok());
        Ok(Reloads { asked: asked_file(node), running })
    }

    fn next(&mut self) -> Option<By> {
        // One that holds an answer waits for its reader.
        let asked = || fs::metadata(&self.asked).is_ok_and(|file| file.len() == 0).then_some(By::File);
        let by = HUNG_UP.swap(false, Ordering::Relaxed).then_some(By::Signal).or_else(asked)?;
        // Before the files are read: a later change is another one.
        let _ = self.running.as_ref().map(|file| file.set_modified(SystemTime::now()));
        Some(by)
    }

    fn answer(&self, by: By, result: std::result::Result<(), String>) {
        let By::File = by else { return };
        let answered = match result {
            Ok(()) => fs::remove_file(&self.asked),
            Err(reason) => fs::write(&self.asked, reason),
        };
        if answered.is_err() {
            let _ = fs::remove_file(&self.asked);
        }
    }
}

fn running_file(node: &Node) -> PathBuf {
    node.config().state_dir.join("watch")
}

fn asked_file(node: &Node) -> PathBuf {
    node.config().state_dir.join("reload")
}

/// Whether a watch runs for this node.
pub fn runs(node: &Node) -> bool {
    let file = fs::File::open(running_file(node));
    file.is_ok_and(|file| flock(&file, FlockOperation::NonBlockingLockShared) == Err(Errno::WOULDBLOCK))
}

/// Has the node's watch read its file again where one of these is newer than what it has read. Does
/// not wait: a role that is taken on from the newer one would be undone.
pub fn reload_outdated(node: &Node, files: &[&Path]) {
    let modified = |path: &Path| fs::metadata(path).and_then(|found| found.modified()).ok();
    let Some(read) = modified(&running_file(node)) else { return };
    if files.iter().any(|file| modified(file).is_some_and(|at| at > read)) && runs(node) {
        // The watch logs what it cannot bring in.
        let _ = fs::write(asked_file(node), "");
    }
}

/// Has the node's watch read its file again. The error is its answer, or that there is none.
pub fn reload(node: &Node) -> std::result::Result<(), String> {
    let asked = asked_file(node);
    let failed = |error: io::Error| format!("{}: {error}", asked.display());
    fs::write(&asked, "").map_err(failed)?;
    let start = Instant::now();
    while start.elapsed() < ANSWER {
        thread::sleep(LOOK);
        match fs::read_to_string(&asked) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Ok(reason) if !reason.is_empty() => {
                fs::remove_file(&asked).map_err(failed)?;
                return Err(format!("the running `lvs-node watch` has refused it: {reason}"));
            }
            _ => {}
        }
    }
    fs::remove_file(&asked).map_err(failed)?;
    Err(format!("the running `lvs-node watch` has not answered within {ANSWER:?}: see its log, or start it again"))
}

fn show(path: Option<&Path>, text: &str) -> Result<()> {
    let Some(path) = path else { return Ok(()) };
    Replacement::new(path).mode(0o644).write(text)
}
