//! The commands of `lvs-node`.

#[path = "audit.rs"]
mod audit;
#[path = "cluster.rs"]
mod cluster;
#[path = "columns.rs"]
mod columns;
#[path = "file.rs"]
mod file;
#[path = "handover.rs"]
mod handover;
#[path = "init.rs"]
mod init;
#[path = "man.rs"]
mod man;
#[path = "metrics.rs"]
mod metrics;
#[path = "output.rs"]
mod output;
#[cfg(feature = "serde")]
#[path = "recording.rs"]
mod recording;
#[path = "serve.rs"]
mod serve;
#[path = "status.rs"]
mod status;
#[path = "syslog.rs"]
mod syslog;
#[path = "top.rs"]
mod top;
#[path = "watch.rs"]
mod watch;

use std::collections::BTreeSet;
use std::env;
use std::ffi::OsString;
use std::fmt::{self, Display};
use std::fs;
use std::io::{self, IsTerminal};
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{self, ExitCode, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};
use lvs_dr::ipvs::Ipvs;
use lvs_dr::node::{Apply, Asked, Config, Learned, Node, Role, Step, VipOwner, Weigh, note_failure, role_of_state};
use lvs_dr::{Cause, Error, Netns};
use serde_json::json;

use file::{FileError, NodeFile};
use output::{Output, complain};

const AFTER_HELP: &str = "\
Exit codes: 0 done; 1 failed, or something is found; 2 the command line or the file is wrong; 3 superseded by a later request.

lvs-node(8) describes each command, lvs-node.toml(5) the file, lvs-dr(7) the concepts. Where the pages are not installed: \
`lvs-node man DIRECTORY` writes them.";

/// Makes this node the director for its VIPs, or one of the servers behind it.
#[derive(Debug, Parser)]
#[command(name = "lvs-node", version, after_help = AFTER_HELP, arg_required_else_help = true)]
pub(crate) struct Cli {
    /// The configuration of the node, see lvs-node.toml(5).
    #[arg(short, long, value_name = "FILE", default_value = "/etc/lvs-dr/node.toml", global = true)]
    config: PathBuf,

    /// Work in this network namespace, named as by `ip netns`.
    #[arg(long, value_name = "NAME", global = true)]
    netns: Option<String>,

    /// Say nothing but what went wrong.
    #[arg(short, long, global = true)]
    quiet: bool,

    /// Say more: also what changes in the node's own state only; `status` in full.
    #[arg(short, long, global = true, conflicts_with = "quiet")]
    verbose: bool,

    /// Print an object in JSON, with a version. `watch`, `fifo` and `top`: an object on each line.
    #[arg(long, global = true)]
    json: bool,

    /// The group of VIPs, where the file has several. Left out: all of them, but for `role`.
    #[arg(long, value_name = "NAME", global = true)]
    group: Option<String>,

    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Take on a role: master, backup, fault or stop.
    ///
    /// Does nothing where the role is in place.
    Role {
        /// master directs and serves; the others serve.
        role: Role,
        /// Print what would be done only, as `plan` does.
        #[arg(long)]
        dry_run: bool,
    },
    /// Take on the role that keepalived's `notify` names.
    ///
    /// keepalived appends its own words: INSTANCE web MASTER 100.
    Notify {
        /// INSTANCE or GROUP.
        kind: String,
        /// The instance's name.
        name: String,
        /// The state that it is in now.
        state: String,
        /// Its priority.
        priority: Option<u32>,
    },
    /// Follow keepalived's notify_fifo.
    ///
    /// One process takes on all roles, in their order. It ends when it is terminated. `watch` does
    /// this and more.
    Fifo {
        /// The FIFO, as in keepalived.conf.
        path: PathBuf,
        /// The VRRP instance whose states count, for a file without groups; left out: every
        /// instance's.
        #[arg(long)]
        instance: Option<String>,
    },
    /// Hand over to another node, through keepalived, and wait until it has taken over.
    ///
    /// This node does not direct again before `handover --end`. On a node that does not direct,
    /// only that is done.
    Handover {
        /// Ignored: no successor has to be known.
        #[arg(long, value_name = "ADDRESS", hide = true)]
        to: Option<IpAddr>,
        /// How long to wait for it, in seconds. Then this node directs on, and the exit code is 1.
        #[arg(long, value_name = "SECONDS", default_value_t = 10)]
        limit: u32,
        /// Let this node direct again.
        #[arg(long)]
        end: bool,
        /// Print what would be done only.
        #[arg(long)]
        dry_run: bool,
        /// With --end: only where `watch` keeps this node out of elections. For a service whose
        /// watch has ended.
        #[arg(long, requires = "end")]
        held: bool,
    },
    /// Watch over the node, as a service: follow keepalived, repair, write metrics.
    ///
    /// Follows keepalived's FIFO, repairs what other programs change, resynchronises nodes that
    /// join late, and writes metrics. It takes less than one hundredth of a processor.
    Watch(watch::Options),
    /// Bring what was changed in the file into the running node.
    ///
    /// VIPs, interface, settings, other nodes, services. The role stays, and so do sessions. Prints
    /// the changes, and makes them; a running `watch` reads the file, too.
    Apply {
        /// Print the changes only.
        #[arg(long)]
        dry_run: bool,
        /// Also undo what others have changed: the table is the file's afterwards.
        #[arg(long)]
        all: bool,
    },
    /// Take a server out for new connections: weight 0 in the table of this node.
    ///
    /// Call it on each node, as any of them may direct next. Sessions stay. With --wait, exit code
    /// 1: some are left.
    Drain {
        /// The server's address. Left out: this node.
        server: Option<IpAddr>,
        /// Wait so long for its sessions to end, in seconds (or 90s, 5m). Where it passes, they are
        /// left, and the server is out all the same.
        #[arg(long, value_name = "TIME", value_parser = duration)]
        wait: Option<Duration>,
        /// Print the changes only.
        #[arg(long)]
        dry_run: bool,
    },
    /// Give a drained server the weights from before, in the table of this node.
    ///
    /// A weight that another program has set meanwhile stays.
    Undrain {
        /// The server's address. Left out: this node.
        server: Option<IpAddr>,
        /// Print the changes only.
        #[arg(long)]
        dry_run: bool,
    },
    /// Set a server's weight in the table of this node, until the file's is changed.
    SetWeight {
        /// The server's address.
        server: IpAddr,
        /// For all its services.
        #[arg(value_parser = clap::value_parser!(u32).range(..=i64::from(i32::MAX)))]
        weight: u32,
        /// Print the changes only.
        #[arg(long)]
        dry_run: bool,
    },
    /// Send all connections of the director to the other nodes.
    ///
    /// Not on the director: ask the director's `watch` to do so, and wait until this node knows
    /// the connections.
    Resync {
        /// How long to wait, in seconds.
        #[arg(long, value_name = "SECONDS", default_value_t = 10)]
        limit: u32,
        /// Print what would be done only.
        #[arg(long)]
        dry_run: bool,
    },
    /// Announce the VIPs of a director once more, after a while.
    #[command(hide = true)]
    AnnounceAgain,
    /// Let routers send connections to this node (vip_owner = "routes"): role master.
    ///
    /// The routing daemon advertises the VIPs. Nothing is advertised of a VIP whose service this
    /// node does not serve.
    Announce {
        /// Print the steps only.
        #[arg(long)]
        dry_run: bool,
    },
    /// Take this node out of the routes (vip_owner = "routes"): role backup.
    ///
    /// The routing daemon withdraws the VIPs, and other nodes direct. This one goes on directing
    /// what still arrives, and serving its connections; `drain` takes its server out.
    Withdraw {
        /// Print the steps only.
        #[arg(long)]
        dry_run: bool,
    },
    /// Judge the file alone, without privileges.
    ///
    /// No kernel is looked at: `audit` looks at the machine. Exit code 1: something is probably not
    /// meant; 2: the file is wrong.
    Check {
        /// The file. Left out: that of --config.
        #[arg(value_name = "CONFIG")]
        file: Option<PathBuf>,
    },
    /// Print what would be done for a role, or to release the node.
    ///
    /// Changes nothing.
    Plan {
        /// master, backup, fault, stop or release.
        role: String,
    },
    /// Print the state of the node.
    ///
    /// Exit code 1: not all of it is in place.
    Status,
    /// Print all nodes of the cluster, as this node's `watch` hears them.
    ///
    /// Exit code 1: a node is not heard, tables differ, or not exactly one node directs.
    Cluster,
    /// Show connections, packets and octets of each service and server, again and again.
    ///
    /// On a terminal the screen is drawn anew; elsewhere it is printed below the one before, for
    /// the first time after one interval. Rates are of packets from clients: with direct routing
    /// the answers do not pass the director. A backup counts connections, and no packets.
    Top(top::Top),
    /// Print what harms now, or will at the next failover.
    ///
    /// Exit code 1: something is found.
    Audit(audit::Audit),
    /// Give back all that was changed: VIPs, ARP settings, the table.
    ///
    /// Refused while the node's table sends new connections to its own server: see `drain`.
    Release {
        /// All the same.
        #[arg(long)]
        now: bool,
        /// Print what would be done only, as `plan release` does.
        #[arg(long)]
        dry_run: bool,
    },
    /// Write the first files of a node: /etc/lvs-dr/node.toml and keepalived.conf.
    ///
    /// Says what comes next. A file that is there is not overwritten: then nothing is written.
    Init(init::Init),
    /// Write the man pages into a directory.
    ///
    /// They are made from this program: lvs-node(8), lvs-node.toml(5) and lvs-dr(7).
    Man {
        /// A directory that exists. `man ./lvs-node.8` shows a page of it.
        directory: PathBuf,
    },
    /// Print completions for a shell.
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
}

/// What ended the program, besides success.
enum Failure {
    /// The command line.
    Usage(String),
    File(FileError),
    Error(Error),
    /// Not the command line's fault.
    Refused(String),
    /// Told already.
    Missing,
}

impl Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Usage(message) | Failure::Refused(message) => f.write_str(message),
            Failure::File(error) => error.fmt(f),
            Failure::Error(error) => error.fmt(f),
            Failure::Missing => f.write_str("not all of it is in place"),
        }
    }
}

impl From<FileError> for Failure {
    fn from(error: FileError) -> Self {
        Failure::File(error)
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Failure::Error(error)
    }
}

/// Runs the program with these arguments, its name first.
pub fn main_with(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let parsed = Cli::command().try_get_matches_from(arguments).and_then(|matches| {
        let command = matches.subcommand_name().unwrap_or_default().to_owned();
        Ok((Cli::from_arg_matches(&matches)?, command))
    });
    let (cli, command) = match parsed {
        Ok(parsed) => parsed,
        Err(error) => {
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { 2 } else { 0 });
        }
    };
    let output = Output::new(cli.json, cli.quiet, cli.verbose);
    let result = run(&cli, &output);
    match &result {
        Err(Failure::Usage(message) | Failure::Refused(message)) => unheard(&cli, syslog::Level::Error, message),
        Err(Failure::File(error)) => unheard(&cli, syslog::Level::Error, error),
        Err(Failure::Error(Error::Superseded { .. })) => {}
        Err(Failure::Error(error)) => unheard(&cli, syslog::Level::Error, error),
        Err(Failure::Missing) | Ok(()) => {}
    }
    let code = match result {
        Ok(()) => 0,
        Err(Failure::Missing) => 1,
        Err(Failure::Usage(message)) => {
            output.complain(message);
            2
        }
        Err(Failure::File(error)) => {
            output.complain_of(&error);
            2
        }
        Err(Failure::Refused(message)) => {
            output.complain(message);
            1
        }
        Err(Failure::Error(error @ Error::Superseded { .. })) => {
            output.complain(error);
            3
        }
        Err(Failure::Error(error)) => {
            let unprivileged = matches!(error.errno(), Some(libc::EPERM | libc::EACCES));
            output.complain(error);
            if unprivileged && matches!(cli.command, Command::Audit(_) | Command::Plan { .. } | Command::Status) {
                complain("`lvs-node check` judges the file without privileges");
            }
            1
        }
    };
    output.end(&command, code);
    ExitCode::from(code)
}

/// On the director, sends all connections to the others; elsewhere asks the director's watch to.
fn resync(output: &Output, node: &mut Node, limit: Duration, dry_run: bool) -> Result<(), Failure> {
    let directs = matches!(node.role()?, Some((Role::Master, _)));
    if dry_run {
        output.note(match directs {
            true => "would send all connections to the other nodes",
            false => "would ask the director's `lvs-node watch` to send all connections",
        });
        return Ok(());
    }
    if directs {
        let sent = node.resync()?;
        output.field("sent", sent.into());
        output.note(format_args!("sent {sent} connections to the other nodes"));
        return Ok(());
    }
    let asked = node.ask_for_connections(limit)?;
    if let Asked::Learned(Learned { known, of }) = asked {
        output.field("known", known.into());
        output.field("of", of.into());
    }
    let reason = match asked {
        Asked::Learned(Learned { known, of }) if known >= of => {
            output.note(format_args!("knows {known} of {of} connections"));
            return Ok(());
        }
        Asked::Learned(Learned { known, of }) => format!("knows {known} of {of} connections"),
        Asked::NotSent => format!("the director has not sent its connections within {limit:?}"),
        _ => format!("no director was heard within {limit:?}: does it run `lvs-node watch`?"),
    };
    output.complain(reason);
    Err(Failure::Missing)
}

/// `60`, `60s` or `5m`.
fn duration(text: &str) -> Result<Duration, String> {
    let (number, unit) = match text.strip_suffix('m') {
        Some(number) => (number, 60),
        None => (text.strip_suffix('s').unwrap_or(text), 1),
    };
    let seconds = number.parse::<u32>().map_err(|_| "seconds were expected, as in 60, 60s or 5m".to_owned())?;
    Ok(Duration::from_secs(u64::from(seconds) * unit))
}

/// Changes the weights of a server in each group that has it.
fn weigh(output: &Output, nodes: &mut [Node], server: Option<IpAddr>, to: Weigh, dry_run: bool) -> Result<(), Failure> {
    let (mut unknown, mut found) = (None, false);
    for node in nodes {
        let plan = match node.plan_weigh(server, to) {
            // Another group may have it.
            Err(error) if error.cause() == Some(Cause::NoDestination) => {
                unknown = Some(error);
                continue;
            }
            plan => plan?,
        };
        found = true;
        output.group(node, false);
        if dry_run {
            output.plan(&plan);
            continue;
        }
        node.weigh(server, to, |step| output.step(step))?;
        plan.warnings().iter().for_each(|warning| output.warning(warning));
        if plan.is_empty() {
            output.note("nothing to do");
        }
    }
    match unknown.filter(|_| !found) {
        Some(error) => Err(error.into()),
        None => Ok(()),
    }
}

/// How often sessions are counted.
const COUNT: Duration = Duration::from_millis(500);

/// Drains a server, and waits for its sessions.
fn drain(
    output: &Output,
    nodes: &mut [Node],
    server: Option<IpAddr>,
    wait: Option<Duration>,
    dry_run: bool,
) -> Result<(), Failure> {
    weigh(output, nodes, server, Weigh::Drain, dry_run)?;
    if dry_run {
        return Ok(());
    }
    let start = Instant::now();
    let mut count = || {
        nodes.iter_mut().try_fold((0, 0), |(active, ending), node| {
            let sessions = node.sessions_of(server)?;
            Ok::<_, Error>((active + sessions.active, ending + sessions.ending))
        })
    };
    let mut left = count()?;
    while let Some(limit) = wait
        && left.0 > 0
        && start.elapsed() < limit
    {
        thread::sleep(COUNT.min(limit.saturating_sub(start.elapsed())));
        left = count()?;
    }
    let name = server.map_or_else(|| "this node".to_owned(), |server| server.to_string());
    let sessions = plural(left.0 as usize, "session");
    output.field("sessions", json!({ "active": left.0, "ending": left.1 }));
    output.note(format_args!("{name}: {sessions} left, and {} ending", left.1));
    let others: BTreeSet<String> = nodes
        .iter_mut()
        .filter(|_| !output.quiet)
        .filter_map(|node| node.status().ok())
        .flat_map(|status| status.peers.into_keys())
        .filter(|peer| Some(*peer) != server)
        .map(|peer| peer.to_string())
        .collect();
    if !others.is_empty() {
        let of = server.map_or_else(|| "this node's address".to_owned(), |server| server.to_string());
        let others = others.into_iter().collect::<Vec<_>>().join(", ");
        output.note(format_args!("each node has a table of its own: `lvs-node drain {of}` on {others} too"));
    }
    // What a health check has set since counts.
    let mut again = Vec::new();
    for node in nodes.iter_mut() {
        if let Ok(plan) = node.plan_weigh(server, Weigh::Drain) {
            again.extend(plan.steps().iter().map(ToString::to_string));
        }
    }
    if !again.is_empty() {
        output.complain(format_args!(
            "drain: another program has given {name} weight again: take it out there first (a health check, say)"
        ));
        return Err(Failure::Missing);
    }
    if wait.is_some() && left.0 > 0 {
        output.complain(format_args!("drain: {sessions} of {name} left after {:?}", wait.unwrap_or_default()));
        return Err(Failure::Missing);
    }
    Ok(())
}

/// Whether people see colours: on a terminal, unless they want none (https://no-color.org).
fn coloured() -> bool {
    let wanted = env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
        && env::var_os("TERM").is_none_or(|terminal| terminal != "dumb");
    wanted && io::stdout().is_terminal()
}

/// How long what keepalived's VIPs show must last.
const LASTS: Duration = Duration::from_millis(300);

/// After a role that was notified: puts right what the VIP shows to be wrong. keepalived forks a
/// process for each state and does not wait for it, so that of two which start within milliseconds
/// the earlier may be carried out last.
fn correct(output: &Output, node: &mut Node, role: Role) -> Result<(), Error> {
    let differs = |seen: &Role| (*seen == Role::Master) != (role == Role::Master);
    let Some(seen) = node.shown_role()?.filter(differs) else { return Ok(()) };
    let generation = node.generation()?;
    thread::sleep(LASTS);
    // A process that has asked for a role since looks for itself.
    if node.shown_role()? != Some(seen) || node.generation()? != generation {
        return Ok(());
    }
    output.note(format_args!("{seen}: as the VIP shows, though {role} was told"));
    node.become_role_with(seen, |step| output.step(step)).map(drop)
}

/// Judges the file alone.
fn check(output: &Output, path: &Path) -> Result<(), Failure> {
    output.field("file", path.display().to_string().into());

    let file = file::read(path)?;
    let of = |config: &Config| match config.group.as_str() {
        "" => path.display().to_string(),
        group => format!("{}: group {group:?}", path.display()),
    };
    let doubts = file.configs.iter().flat_map(|config| {
        let of = of(config);
        config.doubts().into_iter().map(move |doubt| format!("{of}: {doubt}"))
    });
    let doubts: Vec<String> = file.warnings.iter().cloned().chain(doubts).collect();
    doubts.iter().for_each(|doubt| output.show(format_args!("warning: {doubt}\n")));
    if !doubts.is_empty() {
        output.field("warnings", json!(doubts));
        return Err(Failure::Missing);
    }
    output.show(format_args!(
        "{}: nothing is wrong with the file; `lvs-node audit` looks at the machine\n",
        path.display()
    ));
    Ok(())
}

/// Logs a message of a role: keepalived gives the programs that it starts no standard error.
fn unheard(cli: &Cli, level: syslog::Level, text: impl Display) {
    if let Some(role) = role_of(cli).filter(|_| !io::stderr().is_terminal()) {
        syslog::send(level, format_args!("{role}: {text}"));
    }
}

/// The role that is asked for.
fn role_of(cli: &Cli) -> Option<Role> {
    match &cli.command {
        Command::Role { role, .. } => Some(*role),
        Command::Notify { state, .. } => role_of_state(state),
        Command::Announce { .. } => Some(Role::Master),
        Command::Withdraw { .. } => Some(Role::Backup),
        _ => None,
    }
}

fn run(cli: &Cli, output: &Output) -> Result<(), Failure> {
    if let Command::Check { file } = &cli.command {
        return check(output, file.as_ref().unwrap_or(&cli.config));
    }
    match &cli.command {
        Command::Man { directory } => {
            return man::write(&Cli::command(), directory)
                .map_err(|error| Failure::Refused(format!("{}: man pages: {error}", directory.display())));
        }
        Command::Init(options) => {
            return init::run(options, output).map_err(|(path, error)| {
                Failure::Refused(match error.kind() {
                    io::ErrorKind::AlreadyExists => {
                        format!("init: {} is there already: move it away, or use --root", path.display())
                    }
                    _ => format!("init: write {}: {error}", path.display()),
                })
            });
        }
        Command::Completions { shell } => {
            // Text, whatever is asked for.
            output.is_a_stream();
            clap_complete::generate(*shell, &mut Cli::command(), "lvs-node", &mut io::stdout());
            return Ok(());
        }
        _ => {}
    }
    let netns = match &cli.netns {
        Some(name) => Netns::named(name).map_err(|error| Failure::Usage(error.to_string()))?,
        None => Netns::current()?,
    };
    // A role that changes sides does not wait until the services are read, and does not fail where
    // they cannot be.
    let of_one = matches!(cli.command, Command::Role { .. } | Command::Notify { .. });
    let plans = matches!(
        cli.command,
        Command::Role { dry_run: true, .. } | Command::Announce { dry_run: true } | Command::Withdraw { dry_run: true }
    );
    let read = if (of_one || role_of(cli).is_some()) && !plans { file::read_without_services } else { file::read };
    let file = read(&cli.config)?;
    file.warnings.iter().for_each(|warning| output.warning(warning));
    let (track_file, file_has_groups) = (file.track_file.clone(), file.has_groups());
    let group = match &cli.command {
        // A file without groups has one configuration, whatever its instance is called.
        Command::Notify { name, .. } if file.has_groups() => {
            if file.config(Some(name)).is_err() {
                // The VRRP instance of another program's addresses.
                output.note(format_args!("{name}: no group of this name: nothing to do"));
                return Ok(());
            }
            Some(name.as_str())
        }
        _ => cli.group.as_deref(),
    };
    let configs = match group.is_some() || of_one {
        true => vec![file.config(group).map_err(Failure::Usage)?],
        false => file.configs.iter().collect(),
    };
    let opened = |config: &Config| {
        open(cli, config, &netns).inspect_err(|failure| {
            if let Some(role) = role_of(cli) {
                note_failure(config, role, &failure.to_string());
            }
        })
    };
    let mut nodes = configs.into_iter().map(opened).collect::<Result<Vec<Node>, Failure>>()?;
    match &cli.command {
        Command::Role { role, dry_run: true } => plan(output, &mut nodes, Some(*role)),
        Command::Role { role, .. } => become_role(cli, output, &file, &mut nodes[0], *role),
        Command::Notify { state, name, .. } => match role_of_state(state) {
            Some(role) => {
                ignore_termination();
                become_role(cli, output, &file, &mut nodes[0], role)?;
                Ok(correct(output, &mut nodes[0], role)?)
            }
            // keepalived also tells of events that change no role.
            None => {
                output.note(format_args!("{name} {state}: nothing to do"));
                Ok(())
            }
        },
        Command::Fifo { path, instance } => {
            let options = watch::Options::follow(path.clone(), instance.clone());
            output.is_a_stream();
            match watch::run(nodes, &options, None, None, false, || read(&cli.config), |line| line.print(output))? {}
        }
        Command::Watch(options) => {
            let options = options.clone().or(&file.watch);
            output.is_a_stream();
            let listen = |address: SocketAddr| {
                let bound = netns.run(|| serve::Server::bind(address))?;
                bound.map_err(|error| Failure::Refused(format!("watch: listen on {address}: {error}")))
            };
            let server = options.listen.map(listen).transpose()?;
            match watch::run(
                nodes,
                &options,
                server,
                track_file,
                true,
                || read(&cli.config),
                |line| line.print(output),
            )? {}
        }
        Command::Apply { dry_run, all } => {
            apply(output, &mut nodes, if *all { Apply::All } else { Apply::Changes }, *dry_run)
        }
        Command::Drain { server, wait, dry_run } => drain(output, &mut nodes, *server, *wait, *dry_run),
        Command::Undrain { server, dry_run } => weigh(output, &mut nodes, *server, Weigh::Undrain, *dry_run),
        Command::SetWeight { server, weight, dry_run } => {
            weigh(output, &mut nodes, Some(*server), Weigh::Set(*weight), *dry_run)
        }
        Command::Resync { limit, dry_run } => {
            // A node directs where it directs one group.
            let directs = |node: &Node| matches!(node.role(), Ok(Some((Role::Master, _))));
            let index = nodes.iter().position(directs).unwrap_or(0);
            resync(output, &mut nodes[index], Duration::from_secs((*limit).into()), *dry_run)
        }
        Command::Handover { to: _, limit, end, held, dry_run } => {
            let held_file = nodes[0].held_out_file();
            if *held && !held_file.exists() {
                return Ok(());
            }
            handover::check(&nodes[0]).map_err(Failure::Usage)?;
            let needed =
                "handover: [handover] with the file that keepalived watches was expected, see lvs-node.toml(5)";
            let file = track_file.ok_or_else(|| Failure::Usage(format!("{}: {needed}", cli.config.display())))?;
            if *dry_run {
                output.note(handover::plan(&nodes, &file, *end)?);
                return Ok(());
            }
            let limit = Duration::from_secs((*limit).into());
            let done = match end {
                true => handover::end(&file).map(|()| "takes part in elections again"),
                false => handover::begin(&mut nodes, &file, limit),
            };
            match done {
                Ok(done) => {
                    if *end {
                        // The watch holds this node out no longer.
                        let _ = fs::remove_file(held_file);
                    }
                    output.note(done);
                    Ok(())
                }
                Err(handover::Refused::Error(error)) => Err(error.into()),
                Err(handover::Refused::Reason(reason)) => {
                    output.complain(reason);
                    Err(Failure::Missing)
                }
            }
        }
        // Needs no node: see above.
        Command::Check { .. } | Command::Init(_) | Command::Man { .. } | Command::Completions { .. } => Ok(()),
        Command::AnnounceAgain => nodes.iter_mut().try_for_each(|node| Ok(node.announce_again()?)),
        Command::Announce { dry_run } | Command::Withdraw { dry_run } => {
            let role = role_of(cli).unwrap_or(Role::Backup);
            if nodes[0].config().vip_owner != VipOwner::Routes {
                let reason = format!("vip_owner = \"routes\" was expected: `lvs-node role {role}` takes on a role");
                return Err(Failure::Usage(format!("{}: {reason}", cli.config.display())));
            }
            match dry_run {
                true => plan(output, &mut nodes, Some(role)),
                false => nodes.iter_mut().try_for_each(|node| become_role(cli, output, &file, node, role)),
            }
        }
        Command::Plan { role } => {
            let role = match role.as_str() {
                "release" => None,
                role => Some(role.parse().map_err(|e: Error| Failure::Usage(format!("{e}, or release")))?),
            };
            plan(output, &mut nodes, role)
        }
        Command::Status => {
            let mut in_place = true;
            for node in &mut nodes {
                let status = node.status()?;
                in_place &= status.role.is_some_and(|(_, reached)| reached)
                    && status.missing.is_empty()
                    && status.warnings.is_empty();
                match output.json {
                    true => output.group_object(|| status::json(node, &status)),
                    false => {
                        output.group(node, true);
                        output.show(status::text(node, &status, output.verbose, coloured()));
                    }
                }
            }
            if in_place { Ok(()) } else { Err(Failure::Missing) }
        }
        Command::Cluster => {
            let known = cluster::known(&nodes[0]).ok_or_else(|| {
                Failure::Refused("cluster: `lvs-node watch` does not run on this node, so it hears no other one".into())
            })?;
            let read = |node: &mut Node| {
                let (name, owner) = (node.config().group.clone(), node.config().vip_owner);
                Ok::<_, Error>(cluster::Group { name, owner, status: node.status()? })
            };
            let groups = nodes.iter_mut().map(read).collect::<Result<Vec<_>, _>>()?;
            let now = cluster::unix_time(Instant::now());
            let list = cluster::nodes(&groups, &known);
            let owners: Vec<(String, VipOwner)> = groups.into_iter().map(|group| (group.name, group.owner)).collect();
            let faults = cluster::faults(&owners, &list, &known, now);
            output.show(cluster::text(&list, file_has_groups, now));
            faults.iter().for_each(|fault| output.plan_warning(fault));
            output.field("nodes", list.into());
            if faults.is_empty() { Ok(()) } else { Err(Failure::Missing) }
        }
        Command::Top(options) => {
            output.is_a_stream();
            Ok(top::run(&nodes[0], &mut Ipvs::open_in(netns)?, options, output.json)?)
        }
        Command::Audit(audit) => {
            let mut good = true;
            for node in &mut nodes {
                good &= audit::run(node, audit, output)?;
            }
            if good { Ok(()) } else { Err(Failure::Missing) }
        }
        Command::Release { dry_run: true, .. } => plan(output, &mut nodes, None),
        Command::Release { now, .. } => {
            // Nothing of any group is given back before each has been looked at.
            for node in nodes.iter_mut().take_while(|_| !now) {
                if let Some(reason) = node.still_used()? {
                    output.complain(format_args!("release: {reason}; or `lvs-node release --now`"));
                    return Err(Failure::Missing);
                }
            }
            for node in &mut nodes {
                output.group(node, !output.quiet);
                let plan = node.release(|step| output.step(step))?;
                plan.warnings().iter().for_each(|warning| output.warning(warning));
                if plan.is_empty() && plan.warnings().is_empty() {
                    output.note("nothing to give back");
                }
            }
            Ok(())
        }
    }
}

/// Prints what would be done for a role, or to release the node.
fn plan(output: &Output, nodes: &mut [Node], role: Option<Role>) -> Result<(), Failure> {
    for node in nodes {
        let plan = match role {
            Some(role) => node.plan(role)?,
            None => node.plan_release()?,
        };
        output.group(node, true);
        output.plan(&plan);
        if role.is_none()
            && let Some(reason) = node.still_used()?
        {
            output.plan_warning(&reason);
        }
    }
    Ok(())
}

/// Brings in what was changed in the file.
fn apply(output: &Output, nodes: &mut [Node], apply: Apply, dry_run: bool) -> Result<(), Failure> {
    // A watch that goes on with the earlier file would undo it. It brings in the same.
    let watched = !dry_run && watch::runs(&nodes[0]);
    if watched && nodes.iter().all(|node| matches!(node.role(), Ok(None))) {
        watch::reload(&nodes[0]).map_err(Failure::Refused)?;
        output.note("no role is taken on yet: the first one brings it in");
        return Ok(());
    }
    let mut plans = Vec::new();
    if dry_run || watched {
        for node in nodes.iter_mut() {
            plans.push(node.plan_apply(apply)?);
        }
    }
    if watched {
        watch::reload(&nodes[0]).map_err(Failure::Refused)?;
    }
    let mut plans = plans.into_iter();
    for node in nodes {
        output.group(node, dry_run || !output.quiet);
        let plan = match (plans.next(), dry_run) {
            (Some(plan), true) => {
                output.plan(&plan);
                continue;
            }
            (Some(plan), false) => {
                plan.steps().iter().for_each(|step| output.step(step));
                node.apply(apply, |_| ())?;
                plan
            }
            (None, _) => node.apply(apply, |step| output.step(step))?,
        };
        plan.warnings().iter().for_each(|warning| output.warning(warning));
        if plan.is_empty() {
            output.note("nothing to do");
        }
    }
    Ok(())
}

fn open(cli: &Cli, config: &Config, netns: &Netns) -> Result<Node, Failure> {
    match Node::open_in(config.clone(), netns.clone()) {
        // The file is well-formed, but says what makes no sense.
        Err(Error::Invalid { object, reason, .. }) => {
            Err(Failure::Usage(format!("{}: {object}: {reason}", cli.config.display())))
        }
        opened => Ok(opened?),
    }
}

/// keepalived ends a second after it has notified a node that it stops, and ends its scripts with
/// it: a role would be left half-way.
fn ignore_termination() {
    // SAFETY: no handler runs.
    unsafe { libc::signal(libc::SIGTERM, libc::SIG_IGN) };
}

fn become_role(cli: &Cli, output: &Output, file: &NodeFile, node: &mut Node, role: Role) -> Result<(), Failure> {
    output.group(node, false);
    let config = node.config().clone();
    let files: Vec<&Path> = [cli.config.as_path()].into_iter().chain(file.services_path()).collect();
    watch::reload_outdated(node, &files);
    let plan = node.become_role_reading(role, || file.services(&config), |step| output.step(step))?;
    let plan = plan.map_err(|unreadable| {
        note_failure(&config, role, &unreadable.to_string());
        Failure::File(unreadable)
    })?;
    if plan.steps().iter().any(|step| matches!(step, Step::Announce(..))) {
        announce_again(cli, &config.group);
    }
    plan.warnings().iter().for_each(|warning| {
        output.warning(warning);
        unheard(cli, syslog::Level::Warning, warning);
    });
    if plan.is_empty() {
        output.note(format_args!("{role}: in place already"));
    }
    Ok(())
}

/// Some seconds later, by a process of its own: the caller that asked for the role waits for this
/// one. It ends as soon as another role is asked for. An announcement that is not repeated is no
/// failure.
fn announce_again(cli: &Cli, group: &str) {
    let Ok(program) = env::current_exe() else { return };
    let mut again = process::Command::new(program);
    again.arg("--config").arg(&cli.config).args(cli.netns.iter().flat_map(|name| ["--netns", name]));
    if !group.is_empty() {
        again.args(["--group", group]);
    }
    again.arg("announce-again");
    let _ = again.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
}

fn plural(count: usize, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}
