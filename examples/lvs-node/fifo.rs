//! keepalived's FIFO (`notify_fifo`): one process that follows the states in the order in which
//! keepalived writes them, and looks for itself where a line was lost.

use std::fmt::Display;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::FileTypeExt;
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use lvs_dr::node::{Node, Role, VipOwner};
use lvs_dr::vip::Vips;
use lvs_dr::{Netns, Result};

/// How often the node looks for itself while nothing is written, and how long what it sees must
/// last: keepalived moves the VIP before it tells.
pub const TICK: Duration = Duration::from_millis(300);

/// The state that keepalived has notified last, and what its VIPs show.
pub struct Follower {
    vips: Vips,
    current: Option<Role>,
    suspected: Option<Role>,
}

impl Follower {
    pub fn new(netns: Netns) -> Result<Self> {
        Ok(Follower { vips: Vips::open_in(netns)?, current: None, suspected: None })
    }

    /// The role to take on now, if any; `told`: what was written since the last look, one [`TICK`]
    /// ago at most.
    pub fn look(&mut self, node: &Node, told: Option<Role>, tell: impl Fn(&dyn Display)) -> Result<Option<Role>> {
        if told.is_some() {
            (self.current, self.suspected) = (told, None);
            return Ok(told);
        }
        let seen = shown(node, &mut self.vips)?;
        // Only what is seen twice was not about to be told.
        let missed = seen
            .filter(|_| seen == self.suspected)
            .filter(|role| self.current.is_none_or(|now| is_master(now) != is_master(*role)));
        self.suspected = seen;
        if let Some(role) = missed {
            self.current = missed;
            tell(&format_args!("{role}: as the VIP shows, without a notification"));
        }
        Ok(missed)
    }
}

/// Sends each line of the FIFO on. keepalived opens it anew when it is started again.
pub fn read(path: PathBuf, mut send: impl FnMut(String) -> bool + Send + 'static) {
    thread::spawn(move || {
        loop {
            // Waits for a writer; where there is no FIFO yet, for keepalived to make it.
            let Ok(file) = File::open(&path) else {
                thread::sleep(TICK);
                continue;
            };
            // A file has no end to wait at.
            if !file.metadata().is_ok_and(|found| found.file_type().is_fifo()) {
                thread::sleep(TICK);
                continue;
            }
            for line in BufReader::new(file).lines().map_while(|line| line.ok()) {
                if !send(line) {
                    return;
                }
            }
        }
    });
}

/// `INSTANCE "my web" MASTER 100`: whose role, and which, if it is one.
pub fn role(line: &str) -> Option<(&str, Role)> {
    let (_kind, rest) = line.split_once(' ')?;
    let (name, rest) = match rest.trim_start().strip_prefix('"') {
        // A name may hold blanks and quotes; a state and a priority hold neither.
        Some(quoted) => quoted.rsplit_once('"')?,
        None => rest.trim_start().split_once(' ')?,
    };
    Some((name, named(rest.split_ascii_whitespace().next()?)?))
}

/// The role for a state of keepalived's, if it is one.
pub fn named(state: &str) -> Option<Role> {
    match state {
        "DELETED" => Some(Role::Stop),
        state => state.parse().ok(),
    }
}

/// After a role that was told: puts right what the VIP shows to be wrong. keepalived forks a
/// process for each state and does not wait for it, so that of two which start within milliseconds
/// the earlier may be carried out last.
pub fn correct(node: &mut Node, netns: Netns, role: Role, tell: impl Fn(&dyn Display)) -> Result<()> {
    let mut vips = Vips::open_in(netns)?;
    let differs = |seen: &Role| is_master(*seen) != is_master(role);
    let Some(seen) = shown(node, &mut vips)?.filter(differs) else { return Ok(()) };
    let generation = node.generation()?;
    thread::sleep(TICK);
    // A process that has asked for a role since looks for itself.
    if shown(node, &mut vips)? != Some(seen) || node.generation()? != generation {
        return Ok(());
    }
    tell(&format_args!("{seen}: as the VIP shows, though {role} was told"));
    node.become_role_with(seen, |step| tell(step)).map(drop)
}

fn is_master(role: Role) -> bool {
    role == Role::Master
}

/// The role that keepalived's VIPs show; none while some are on the interface and some are not, or
/// where the node moves them itself.
pub fn shown(node: &Node, vips: &mut Vips) -> Result<Option<Role>> {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_the_fifo() {
        assert_eq!(role("INSTANCE \"web\" MASTER 100"), Some(("web", Role::Master)));
        assert_eq!(role("INSTANCE \"my web\" BACKUP 100"), Some(("my web", Role::Backup)));
        assert_eq!(role("GROUP \"a \"b\" c\" FAULT 0"), Some(("a \"b\" c", Role::Fault)));
        assert_eq!(role("INSTANCE web DELETED 100"), Some(("web", Role::Stop)));
        for line in ["", "INSTANCE", "INSTANCE \"web\"", "INSTANCE \"web MASTER", "INSTANCE \"web\" MASTER_PRIORITY 9"]
        {
            assert_eq!(role(line), None, "{line}");
        }
    }
}
