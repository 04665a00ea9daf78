//! Hands over to another node before this one stops to direct: prepares, then makes keepalived give up its priority, by the file that
//! it watches (`track_file`), and waits until another node has the VIP.

use std::fmt::Display;
use std::fs;
use std::net::IpAddr;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use lvs_dr::Error;
use lvs_dr::node::{Node, Role, VipOwner};

const STEP: Duration = Duration::from_millis(20);

/// Why there was no handover.
pub enum Refused {
    Error(Error),
    /// Nobody took over, or keepalived cannot be told.
    Reason(String),
}

impl From<Error> for Refused {
    fn from(error: Error) -> Self {
        Refused::Error(error)
    }
}

/// Lets keepalived take part in elections again.
pub fn end(file: &Path) -> Result<(), Refused> {
    write(file, 0)
}

/// Has keepalived let others go first.
pub fn give_way(file: &Path) -> Result<(), Refused> {
    write(file, 1)
}

/// Says what became of it.
pub fn begin(
    node: &mut Node,
    file: &Path,
    successor: Option<IpAddr>,
    limit: Duration,
    tell: impl Fn(&dyn Display),
) -> Result<&'static str, Refused> {
    if !matches!(node.role()?, Some((Role::Master, _))) {
        // An election that comes meanwhile passes this node by.
        give_way(file)?;
        return Ok("another node directs already");
    }
    // What cannot be written then is better known now.
    end(file)?;
    let reason = match try_to(node, file, successor, limit, &tell) {
        Ok(true) => return Ok("handed over"),
        Ok(false) => None,
        Err(refused) => Some(refused),
    };
    // Half a handover helps nobody. Whoever has asked for another role meanwhile is not contradicted.
    let back = end(file);
    if matches!(node.role()?, Some((Role::Master, _))) {
        node.become_role_with(Role::Master, |step| tell(step))?;
    }
    if let Some(refused) = reason {
        return Err(refused);
    }
    back?;
    Err(Refused::Reason(format!(
        "no other node took over within {limit:?}, so this one directs on: does keepalived watch {}, and is another node up? With \
         `nopreempt`, give the file no weight (see --help)",
        file.display()
    )))
}

/// Whether somebody took over.
fn try_to(
    node: &mut Node,
    file: &Path,
    successor: Option<IpAddr>,
    limit: Duration,
    tell: &impl Fn(&dyn Display),
) -> Result<bool, Refused> {
    node.prepare_handover(successor.as_slice(), |step| tell(step))?;
    give_way(file)?;
    let start = Instant::now();
    while start.elapsed() < limit {
        // keepalived takes the VIP off the interface, and then tells the node of its new role.
        if matches!(node.role()?, Some((role, true)) if role != Role::Master) {
            return Ok(true);
        }
        thread::sleep(STEP);
    }
    Ok(false)
}

fn write(file: &Path, value: u8) -> Result<(), Refused> {
    fs::write(file, format!("{value}\n")).map_err(|e| Refused::Reason(format!("cannot write {}: {e}", file.display())))
}

/// Refuses a node whose VIP is not keepalived's.
pub fn check(node: &Node) -> Result<(), String> {
    match node.config().vip_owner {
        VipOwner::Keepalived => Ok(()),
        VipOwner::Node => {
            Err("handover: with vip_owner = \"node\" nobody else is told to take over: give the other node its role \
                               first (`lvs-node role master` there), then this one"
                .into())
        }
    }
}
