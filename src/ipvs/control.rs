//! What IPVS has beside its table: counters, connections, timeouts, sync daemons, sysctls.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read};
use std::time::{Duration, Instant};

use super::encode::{cause, explain};
use super::wire::{self, Command};
use super::{Change, Connection, Ipvs, ServiceId, Stats, SyncDaemon, SyncRole, Timeouts, connection, settings, stats};
use crate::error::{Cause, Error, Result};
use crate::netlink::{Failure, TIME_LIMIT};
use crate::netns::Netns;
use crate::sysctl;

/// The kernel answers within the call that sends the request. One that it leaves without an answer
/// never gets one: a daemon's end, where its thread had not run yet (`EINTR` in
/// net/netlink/af_netlink.c). So nothing is waited for.
const STOP_LIMIT: Duration = Duration::ZERO;
const STOP_ATTEMPTS: u32 = 3;

/// More than the kernel returns at once of a list in /proc: a page.
const PIECE: usize = 1 << 14;

/// Reads the lines of a file in /proc/net a piece at a time.
#[derive(Debug)]
pub(super) struct ProcLines {
    name: &'static str,
    file: File,
    /// The last line, which has not been read to its end.
    rest: Vec<u8>,
}

impl ProcLines {
    pub(super) fn open(netns: &Netns, name: &'static str) -> Result<Self> {
        let file = netns.run(|| File::open(proc_path(name)))?.map_err(|e| unreadable(name, e))?;
        Ok(ProcLines { name, file, rest: Vec::new() })
    }

    /// Reads one piece, and shows the lines that end in it. Says whether there is more.
    pub(super) fn read(&mut self, see: impl FnMut(&str)) -> Result<bool> {
        let mut piece = [0; PIECE];
        let length = self.file.read(&mut piece).map_err(|e| unreadable(self.name, e))?;
        self.rest.extend(&piece[..length]);
        let whole = match length {
            0 => self.rest.len(),
            _ => self.rest.iter().rposition(|octet| *octet == b'\n').map_or(0, |last| last + 1),
        };
        let lines: Vec<u8> = self.rest.drain(..whole).collect();
        // A persistence engine's data can be anything.
        String::from_utf8_lossy(&lines).lines().for_each(see);
        Ok(length > 0)
    }
}

/// Reads the list of connections a piece at a time.
#[derive(Debug)]
pub(crate) struct ConnectionReader {
    lines: ProcLines,
    /// Whether the heading was read.
    started: bool,
}

impl ConnectionReader {
    pub(crate) fn open(netns: &Netns) -> Result<Self> {
        Ok(ConnectionReader { lines: ProcLines::open(netns, CONNECTIONS)?, started: false })
    }

    /// Reads one piece, and shows the connections in it without their origins. Says whether there
    /// is more.
    pub(crate) fn read(&mut self, see: &mut impl FnMut(Connection)) -> Result<bool> {
        let (started, mut result) = (&mut self.started, Ok(()));
        let more = self.lines.read(|line| {
            if std::mem::replace(started, true) && result.is_ok() {
                result = connection::each([line].into_iter()).try_for_each(|found| found.map(&mut *see));
            }
        })?;
        result.map_err(not_understood)?;
        Ok(more)
    }
}

const CONNECTIONS: &str = "ip_vs_conn";

/// Not /proc/net: that is of the process's first thread, which may be in another namespace.
fn proc_path(name: &str) -> String {
    format!("/proc/thread-self/net/{name}")
}

fn unreadable(name: &str, error: io::Error) -> Error {
    Error::system("read", format!("/proc/net/{name}"), error)
}

impl Ipvs {
    /// Sets the counters of one service and its destinations to zero, or all of them. Rates stay.
    ///
    /// # Errors
    /// [`Cause::NoService`] (`ESRCH`), [`Cause::Permission`] (`EPERM`).
    pub fn zero(&mut self, id: Option<&ServiceId>) -> Result<()> {
        let service = |octets: &mut Vec<u8>| id.iter().for_each(|id| wire::service::push_id(octets, id));
        self.socket.request(Command::Zero as u8, service, |_| Ok(())).map_err(|failure| {
            let object = id.map_or_else(|| "all services".into(), ServiceId::to_string);
            failure.explain("zero the counters of", object, |errno| cause(Command::Zero, errno))
        })
    }

    /// What all services together have done, from /proc/net/ip_vs_stats.
    ///
    /// # Errors
    /// [`Error::System`] where there is no such file; [`Error::Malformed`].
    pub fn totals(&mut self) -> Result<Stats> {
        let text = self.read_proc("ip_vs_stats")?;
        stats::read_totals(&text).ok_or_else(|| {
            Failure::Malformed(format!("{text:?}")).explain("read", "/proc/net/ip_vs_stats", |_| Cause::Other)
        })
    }

    /// The connection table: connections, and the templates of persistent clients. The kernel has
    /// no other way to ask for it than to read it in full, and none to end a connection.
    ///
    /// # Errors
    /// [`Error::System`] where there is no such file; [`Error::Malformed`].
    pub fn connections(&mut self) -> Result<Vec<Connection>> {
        let (connections, origins) = (self.read_proc("ip_vs_conn")?, self.read_proc("ip_vs_conn_sync")?);
        connection::read(&connections, &origins).map_err(not_understood)
    }

    /// Shows each of them without its origin, which takes a quarter of the time; with a limit,
    /// those that are read in that time: for each page the kernel may count from the start again.
    pub(crate) fn each_connection(&mut self, limit: Option<Duration>, mut see: impl FnMut(Connection)) -> Result<()> {
        let start = Instant::now();
        let mut reader = ConnectionReader::open(self.netns())?;
        while reader.read(&mut see)? && limit.is_none_or(|limit| start.elapsed() <= limit) {}
        Ok(())
    }

    fn read_proc(&mut self, name: &str) -> Result<String> {
        let octets = self.netns().run(|| fs::read(proc_path(name)))?.map_err(|e| unreadable(name, e))?;
        // A persistence engine's data can be anything.
        Ok(String::from_utf8_lossy(&octets).into_owned())
    }

    /// After how much silence connections are forgotten.
    ///
    /// # Errors
    /// [`Cause::Permission`] (`EPERM`).
    pub fn timeouts(&mut self) -> Result<Timeouts> {
        let explain =
            |failure: Failure| failure.explain("read", "the timeouts", |errno| cause(Command::GetConfig, errno));
        let mut timeouts = Timeouts::default();
        let answer = |octets: &[u8]| {
            wire::each(octets, |kind, value| {
                let field = match kind {
                    wire::TIMEOUT_TCP => &mut timeouts.tcp,
                    wire::TIMEOUT_TCP_FIN => &mut timeouts.tcp_fin,
                    wire::TIMEOUT_UDP => &mut timeouts.udp,
                    _ => return Ok(()),
                };
                *field = Duration::from_secs(wire::u32(value)?.into());
                Ok(())
            })
        };
        self.socket.request(Command::GetConfig as u8, |_| {}, answer).map_err(explain)?;
        Ok(timeouts)
    }

    /// Sets the timeouts; one that is 0 stays as it is. They count for connections from their next
    /// packet on.
    ///
    /// # Errors
    /// [`Error::Invalid`]: see [`Timeouts::check`]; [`Cause::Permission`] (`EPERM`).
    pub fn set_timeouts(&mut self, timeouts: &Timeouts) -> Result<()> {
        self.change(&Change::SetTimeouts(*timeouts))
    }

    /// The sync daemons that run, the master's first.
    ///
    /// # Errors
    /// [`Cause::Permission`] (`EPERM`).
    pub fn sync_daemons(&mut self) -> Result<Vec<SyncDaemon>> {
        let mut found = BTreeMap::new();
        let result = self.socket.dump(
            Command::GetDaemon as u8,
            |_| {},
            |octets| {
                let daemon = wire::object(octets, wire::DAEMON).and_then(wire::daemon::decode)?;
                found.insert(daemon.role, daemon);
                Ok(())
            },
        );
        result
            .map_err(|failure| failure.explain("list", "the sync daemons", |errno| cause(Command::GetDaemon, errno)))?;
        Ok(found.into_values().collect())
    }

    /// Starts a sync daemon.
    ///
    /// # Errors
    /// [`Cause::DaemonRuns`] (`EEXIST`): one of this role runs already; [`Cause::NoInterface`]
    /// (`ENODEV`); [`Cause::Invalid`] (`EINVAL`): the interface has no address of the group's
    /// family, or the table mixes families; [`Error::Invalid`]: see [`SyncDaemon::check`].
    pub fn start_sync_daemon(&mut self, daemon: &SyncDaemon) -> Result<()> {
        self.change(&Change::StartDaemon(daemon.clone()))
    }

    /// Stops the sync daemon of this role.
    ///
    /// The kernel can leave a stop that follows a start at once without an answer. Whether the
    /// daemon is gone is then read back.
    ///
    /// # Errors
    /// [`Cause::NoDaemon`] (`ESRCH`): none of this role runs; [`Error::NoAnswer`] when it goes on
    /// all the same.
    pub fn stop_sync_daemon(&mut self, role: SyncRole) -> Result<()> {
        self.socket.set_limit(STOP_LIMIT);
        let result = self.request_stop(role);
        self.socket.set_limit(TIME_LIMIT);
        result
    }

    fn request_stop(&mut self, role: SyncRole) -> Result<()> {
        let change = Change::StopDaemon(role);
        let mut attempt = 1;
        loop {
            match self.send(&change) {
                Ok(()) => return Ok(()),
                Err(Failure::NoAnswer(_)) if self.sync_daemons()?.iter().all(|daemon| daemon.role != role) => {
                    return Ok(());
                }
                Err(Failure::NoAnswer(_)) if attempt < STOP_ATTEMPTS => attempt += 1,
                Err(failure) => return Err(explain(&change, failure)),
            }
        }
    }

    /// Reads a sysctl of IPVS, see [`settings`]. `None`: this kernel has no such setting.
    ///
    /// # Errors
    /// [`Error::System`] with the path; [`Error::Invalid`] when it holds what is not expected.
    pub fn get<T: settings::Value>(&mut self, setting: settings::Setting<T>) -> Result<Option<T>> {
        let Some(text) = sysctl::read(self.netns(), &setting.path())? else { return Ok(None) };
        let unexpected = || {
            Error::invalid(
                format!("net.ipv4.vs.{}", setting.name()),
                format!("it holds {text:?} where {} was expected", T::EXPECTED),
            )
        };
        T::read(&text).map(Some).ok_or_else(unexpected)
    }

    /// Reads a sysctl of IPVS by its name behind `net.ipv4.vs.`, as the kernel prints it. `None`:
    /// this kernel has no such setting.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a name that is not among [`settings::NAMES`]; [`Error::System`] with
    /// the path.
    pub fn get_named(&mut self, name: &str) -> Result<Option<String>> {
        if !settings::NAMES.contains(&name) {
            return Err(unknown_setting(name));
        }
        sysctl::read(self.netns(), &format!("net/ipv4/vs/{name}"))
    }

    /// Writes a sysctl of IPVS by its name, as [`Ipvs::set`] does.
    ///
    /// # Errors
    /// As [`Ipvs::get_named`] and [`Ipvs::set`].
    pub fn set_named(&mut self, name: &str, value: &str) -> Result<()> {
        let text = settings::written(name, value).ok_or_else(|| unknown_setting(name))?;
        let unusable =
            |expected| Error::invalid(format!("{value:?} for net.ipv4.vs.{name}"), format!("{expected} was expected"));
        sysctl::write(self.netns(), &format!("net/ipv4/vs/{name}"), text.map_err(unusable)?)
    }

    /// Writes a sysctl of IPVS, see [`settings`].
    ///
    /// # Errors
    /// [`Error::System`] with the path: `ENOENT` where this kernel has no such setting, `EINVAL`
    /// for a value that it does not take, `EACCES` without privileges; [`Error::Invalid`] for a
    /// value that cannot be.
    pub fn set<T: settings::Value>(&mut self, setting: settings::Setting<T>, value: T) -> Result<()> {
        let unusable = || {
            Error::invalid(
                format!("the value for net.ipv4.vs.{}", setting.name()),
                format!("{} was expected", T::EXPECTED),
            )
        };
        sysctl::write(self.netns(), &setting.path(), value.write().ok_or_else(unusable)?)
    }
}

fn unknown_setting(name: &str) -> Error {
    Error::invalid(format!("net.ipv4.vs.{name}"), format!("one of {} was expected", settings::NAMES.join(", ")))
}

fn not_understood(reason: String) -> Error {
    Failure::Malformed(reason).explain("read", "/proc/net/ip_vs_conn", |_| Cause::Other)
}
