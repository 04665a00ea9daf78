//! keepalived's FIFO (`notify_fifo`): one process that follows the states in the order in which keepalived writes them, and looks for
//! itself where a line was lost.

use std::convert::Infallible;
use std::fmt::Display;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::iter;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

use lvs_dr::node::{Node, Role, VipOwner};
use lvs_dr::vip::Vips;
use lvs_dr::{Error, Netns, Result};

/// How often the node looks for itself while nothing is written, and how long what it sees must last: keepalived moves the VIP before
/// it tells.
const TICK: Duration = Duration::from_millis(300);

/// Follows the FIFO for ever. `instance`: whose states count; all, if none is named. A role that is not reached is tried again at
/// each tick, and told.
pub fn follow(
    node: &mut Node,
    netns: Netns,
    path: &Path,
    instance: Option<&str>,
    tell: impl Fn(&dyn Display),
) -> Result<Infallible> {
    let lines = read(path.to_owned());
    let mut vips = Vips::open_in(netns)?;
    let (mut current, mut failed, mut suspected) = (None, None, None);
    loop {
        let told = match lines.recv_timeout(TICK) {
            // What was written meanwhile counts more.
            Ok(line) => iter::once(line).chain(lines.try_iter()).filter_map(|line| role(&line, instance)).last(),
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => None,
        };
        let seen = if told.is_none() { shown(node, &mut vips)? } else { None };
        // Only what is seen twice was not about to be told.
        let missed = seen
            .filter(|_| seen == suspected)
            .filter(|role| current.is_none_or(|now| is_master(now) != is_master(*role)));
        suspected = seen;
        if let Some(role) = missed {
            tell(&format_args!("{role}: as the VIP shows, though nothing was told"));
        }
        let Some(role) = told.or(missed).or(failed) else { continue };
        current = Some(role);
        failed = None;
        match node.become_role_with(role, |step| tell(step)) {
            Ok(plan) => plan.warnings().iter().for_each(|warning| tell(&format_args!("warning: {warning}"))),
            // Somebody else has asked for another role since.
            Err(Error::Overtaken { .. }) => {}
            Err(error) => {
                tell(&format_args!("{role}: {error}"));
                failed = Some(role);
            }
        }
    }
}

/// The lines of the FIFO. keepalived opens it anew when it is started again.
fn read(path: PathBuf) -> Receiver<String> {
    let (sender, receiver) = channel();
    thread::spawn(move || {
        loop {
            // Waits for someone who writes; where there is no FIFO yet, for keepalived to make it.
            let Ok(file) = File::open(&path) else {
                thread::sleep(TICK);
                continue;
            };
            for line in BufReader::new(file).lines().map_while(|line| line.ok()) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        }
    });
    receiver
}

/// `INSTANCE "web" MASTER 100`: the role, if it is one and the instance's.
fn role(line: &str, instance: Option<&str>) -> Option<Role> {
    let mut words = line.split_ascii_whitespace();
    let (_kind, name, state) = (words.next()?, words.next()?.trim_matches('"'), words.next()?);
    if instance.is_some_and(|instance| instance != name) {
        return None;
    }
    named(state)
}

/// The role for a state of keepalived's, if it is one.
pub fn named(state: &str) -> Option<Role> {
    match state {
        "DELETED" => Some(Role::Stop),
        state => state.parse().ok(),
    }
}

/// After a role that was told: puts right what the VIP shows to be wrong. keepalived forks a process for each state and does not wait for
/// it, so that of two which start within milliseconds the earlier may be carried out last.
pub fn correct(node: &mut Node, netns: Netns, role: Role, tell: impl Fn(&dyn Display)) -> Result<()> {
    let mut vips = Vips::open_in(netns)?;
    let differs = |seen: &Role| is_master(*seen) != is_master(role);
    let Some(seen) = shown(node, &mut vips)?.filter(differs) else { return Ok(()) };
    let generation = node.status()?.generation;
    thread::sleep(TICK);
    // Whoever has asked since looks for himself.
    if shown(node, &mut vips)? != Some(seen) || node.status()?.generation != generation {
        return Ok(());
    }
    tell(&format_args!("{seen}: as the VIP shows, though {role} was told"));
    node.become_role_with(seen, |step| tell(step)).map(drop)
}

fn is_master(role: Role) -> bool {
    role == Role::Master
}

/// The role that keepalived's VIPs show; none while some are on the interface and some are not, or where the node moves them itself.
fn shown(node: &Node, vips: &mut Vips) -> Result<Option<Role>> {
    let config = node.config();
    if config.vip_owner == VipOwner::Node {
        return Ok(None);
    }
    let mut there = 0;
    for vip in &config.vips {
        there += usize::from(vips.locate(*vip)?.iter().any(|found| found.interface == config.interface));
    }
    Ok(match there {
        0 => Some(Role::Backup),
        all if all == config.vips.len() => Some(Role::Master),
        _ => None,
    })
}
