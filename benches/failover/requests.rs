//! Counts what a program asks of the kernel in a node's network namespace, and what it writes to
//! files.
//!
//! Netlink messages are seen by an nlmon interface, which shows those of one namespace; files and
//! sysctls by inotify.

use std::collections::BTreeSet;
use std::fs;
use std::io::Read;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rustix::fs::inotify::{self, CreateFlags, ReadFlags, Reader, WatchFlags};
use rustix::io::Errno;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::cluster::{INTERFACE, Node, run};

/// What was counted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Requests {
    /// Calls that sent netlink messages, and the messages in them.
    pub(crate) sends: usize,
    pub(crate) messages: usize,
    /// Of the messages: services and destinations added, changed or removed.
    pub(crate) services: usize,
    pub(crate) destinations: usize,
    /// Files written in the state directory (a temporary file that replaces another is one).
    pub(crate) files: usize,
    /// Writes to sysctls of IPVS and of the interfaces.
    pub(crate) sysctls: usize,
}

impl Requests {
    pub(crate) fn json(&self) -> Value {
        json!({
            "netlink_sends": self.sends, "netlink_requests": self.messages, "services_written": self.services,
            "destinations_written": self.destinations, "files_written": self.files, "sysctls_written": self.sysctls,
        })
    }
}

/// A count that runs.
pub(crate) struct Counter {
    tcpdump: Child,
    capture: PathBuf,
    inotify: OwnedFd,
    /// Watch descriptors of directories of sysctls; any other is the state directory's.
    sysctls: BTreeSet<i32>,
}

const MONITOR: &str = "nlmon0";

impl Counter {
    /// Counts from now on. `state`: the node's state directory, which exists.
    pub(crate) fn start(node: &Node, state: &Path) -> Result<Self> {
        run("modprobe nlmon", "")?;
        node.run(&format!("ip link add {MONITOR} type nlmon"))?;
        node.run(&format!("ip link set {MONITOR} up"))?;
        let capture = node.etc.join("netlink.pcap");
        let tcpdump = || {
            let mut command = Command::new("tcpdump");
            command.args(["-Z", "root", "-p", "-n", "-B", "65536", "-i", MONITOR, "-w"]).arg(&capture);
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn()
        };
        let mut tcpdump = node.netns.run(tcpdump)?.context("cannot run tcpdump")?;
        // `tcpdump: listening on`
        tcpdump.stderr.as_mut().context("stderr")?.read_exact(&mut [0; 20]).context("tcpdump does not start")?;

        // The namespace of the thread that adds a watch decides whose sysctls those are.
        let watch = || {
            let inotify = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)?;
            let mut sysctls = BTreeSet::new();
            for directory in ["vs".into(), "conf/all".into(), "conf/lo".into(), format!("conf/{INTERFACE}")] {
                let path = Path::new("/proc/sys/net/ipv4").join(directory);
                sysctls.insert(inotify::add_watch(&inotify, path, WatchFlags::MODIFY)?);
            }
            inotify::add_watch(&inotify, state, WatchFlags::MODIFY | WatchFlags::CLOSE_WRITE)?;
            Ok::<_, Errno>((inotify, sysctls))
        };
        let (inotify, sysctls) = node.netns.run(watch)?.context("inotify")?;
        Ok(Counter { tcpdump, capture, inotify, sysctls })
    }

    /// Waits until nothing was sent for a while, in either direction, or for `limit`.
    pub(crate) fn wait_for_silence(&self, node: &Node, limit: Duration) -> Result<()> {
        const SILENT: Duration = Duration::from_millis(500);
        let count = || -> Result<String> {
            let text = node.netns.run(|| fs::read_to_string("/proc/thread-self/net/dev"))?.context("/proc/net/dev")?;
            Ok(text.lines().find(|line| line.contains(MONITOR)).context("the monitor is gone")?.to_owned())
        };
        let begin = Instant::now();
        let (mut last, mut since) = (count()?, begin);
        while since.elapsed() < SILENT && begin.elapsed() < limit {
            thread::sleep(Duration::from_millis(20));
            let now = count()?;
            if now != last {
                (last, since) = (now, Instant::now());
            }
        }
        Ok(())
    }

    pub(crate) fn stop(mut self) -> Result<Requests> {
        let mut requests = Requests::default();
        self.count_files(&mut requests)?;
        // tcpdump reads its buffer once in a while.
        thread::sleep(Duration::from_millis(1200));
        kill_process(Pid::from_child(&self.tcpdump), Signal::INT).context("cannot end tcpdump")?;
        let mut said = String::new();
        let _ = self.tcpdump.stderr.take().context("stderr")?.read_to_string(&mut said);
        self.tcpdump.wait().context("tcpdump")?;
        ensure!(said.contains("0 packets dropped by kernel"), "tcpdump has missed netlink messages: {said}");
        let octets = fs::read(&self.capture).with_context(|| self.capture.display().to_string())?;
        count_messages(&octets, &mut requests)?;
        Ok(requests)
    }

    fn count_files(&self, requests: &mut Requests) -> Result<()> {
        let mut buffer = [const { MaybeUninit::uninit() }; 16384];
        let mut reader = Reader::new(&self.inotify, &mut buffer);
        let mut modified = BTreeSet::new();
        loop {
            let event = match reader.next() {
                Ok(event) => event,
                Err(Errno::WOULDBLOCK) => return Ok(()),
                Err(e) => return Err(e).context("inotify"),
            };
            ensure!(!event.events().contains(ReadFlags::QUEUE_OVERFLOW), "inotify has missed events");
            let name = event.file_name().map(ToOwned::to_owned);
            if self.sysctls.contains(&event.wd()) {
                requests.sysctls += 1;
            } else if event.events().contains(ReadFlags::MODIFY) {
                modified.insert(name);
            } else if modified.remove(&name) {
                // Opened for writing alone, as a lock is, is not written.
                requests.files += 1;
            }
        }
    }
}

impl Drop for Counter {
    fn drop(&mut self) {
        let _ = self.tcpdump.kill();
        let _ = self.tcpdump.wait();
    }
}

const FILE_HEADER: usize = 24;
const RECORD_HEADER: usize = 16;
/// What libpcap puts before the messages of one call: the protocol is in the last two octets.
const LINK_HEADER: usize = 16;
const NETLINK_GENERIC: u16 = 16;
const MESSAGE_HEADER: usize = 16;
const FLAG_REQUEST: u16 = 1;
/// Of the messages of generic netlink itself; IPVS is the only other family that `lvs-node` speaks
/// to.
const FAMILY_CONTROL: u16 = 16;

/// Counts the requests in a pcap file as this machine writes it.
fn count_messages(octets: &[u8], requests: &mut Requests) -> Result<()> {
    let mut rest = octets.get(FILE_HEADER..).context("an empty capture")?;
    while let Some((header, behind)) = rest.split_at_checked(RECORD_HEADER) {
        let length = u32::from_ne_bytes(header[8..12].try_into()?) as usize;
        let Some((record, behind)) = behind.split_at_checked(length) else { break };
        rest = behind;
        let Some((link, messages)) = record.split_at_checked(LINK_HEADER) else { continue };
        let protocol = u16::from_be_bytes([link[14], link[15]]);
        let sent = count_sent(protocol, messages, requests);
        requests.messages += sent;
        requests.sends += usize::from(sent > 0);
    }
    Ok(())
}

/// Counts services and destinations in what one call sent, and returns how many requests it holds.
fn count_sent(protocol: u16, mut messages: &[u8], requests: &mut Requests) -> usize {
    let mut sent = 0;
    while let Some((header, _)) = messages.split_at_checked(MESSAGE_HEADER) {
        let u16_at = |at: usize| u16::from_ne_bytes([header[at], header[at + 1]]);
        let u32_at = |at: usize| u32::from_ne_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
        let (length, kind, flags, port) = (u32_at(0) as usize, u16_at(4), u16_at(6), u32_at(12));
        // Answers and notifications have the number of the socket that they are for.
        if flags & FLAG_REQUEST != 0 && port == 0 {
            sent += 1;
            if protocol == NETLINK_GENERIC && kind != FAMILY_CONTROL {
                match messages.get(MESSAGE_HEADER) {
                    Some(1..=3) => requests.services += 1,
                    Some(5..=7) => requests.destinations += 1,
                    _ => {}
                }
            }
        }
        messages = messages.get(length.next_multiple_of(4).max(MESSAGE_HEADER)..).unwrap_or_default();
    }
    sent
}
