//! Hands over to another node before this one stops to direct: sends all connections to the other
//! nodes, makes keepalived give up its priority, by the file that it watches (`track_file`), and
//! waits until another node has the VIP.

use std::fs;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use lvs_dr::Error;
use lvs_dr::node::{Node, Role, VipOwner, set_track_file};

const STEP: Duration = Duration::from_millis(20);

/// Why there was no handover.
pub enum Refused {
    Error(Error),
    /// No node took over, or keepalived cannot be told.
    Reason(String),
}

impl From<Error> for Refused {
    fn from(error: Error) -> Self {
        Refused::Error(error)
    }
}

/// Lets keepalived take part in elections again.
pub fn end(file: &Path) -> Result<(), Refused> {
    Ok(set_track_file(file, 0)?)
}

/// Has keepalived let others go first.
pub fn give_way(file: &Path) -> Result<(), Refused> {
    Ok(set_track_file(file, 1)?)
}

/// Says what would be done.
pub fn plan(nodes: &[Node], file: &Path, end: bool) -> Result<String, Error> {
    let file = file.display();
    if end {
        return Ok(format!("would write 0 to {file}: this node takes part in elections"));
    }
    let mut directing = false;
    for node in nodes {
        directing |= directs(node)?;
    }
    Ok(match directing {
        true => format!(
            "would send all connections to the other nodes, write 1 to {file}, and wait until another node directs"
        ),
        false => format!("another node directs already; would write 1 to {file}: elections pass this node by"),
    })
}

/// Says what became of it.
pub fn begin(nodes: &mut [Node], file: &Path, limit: Duration) -> Result<&'static str, Refused> {
    // A watch that holds this node out until it knows all connections does not end what an
    // operator has begun.
    if let Some(node) = nodes.first() {
        let _ = fs::remove_file(node.held_out_file());
    }
    let mut directing = Vec::new();
    for node in nodes {
        if directs(node)? {
            directing.push(node);
        }
    }
    if directing.is_empty() {
        // An election that comes meanwhile passes this node by.
        give_way(file)?;
        return Ok("another node directs already");
    }
    // What cannot be written then is better known now.
    end(file)?;
    // What the sync daemon has not sent yet is lost with it.
    if let Some(node) = directing.first_mut() {
        node.resync()?;
    }
    give_way(file)?;
    let start = Instant::now();
    while start.elapsed() < limit {
        // keepalived takes the VIP off the interface, and then notifies the node of its new role.
        let mut left = false;
        for node in &directing {
            left |= directs(node)?;
        }
        if !left {
            return Ok("handed over");
        }
        thread::sleep(STEP);
    }
    end(file)?;
    Err(Refused::Reason(format!(
        "no other node took over within {limit:?}, so this one directs on: does keepalived watch {}, and is another node up? With \
         `nopreempt`, give the file no weight (see --help)",
        file.display()
    )))
}

fn directs(node: &Node) -> Result<bool, Error> {
    Ok(matches!(node.role()?, Some((Role::Master, _)) | Some((_, false))))
}

/// Refuses a node whose VIP is not keepalived's.
pub fn check(node: &Node) -> Result<(), String> {
    match node.config().vip_owner {
        VipOwner::Keepalived => Ok(()),
        VipOwner::Routes => Err(
            "handover: with vip_owner = \"routes\" every node directs: `lvs-node withdraw` takes this one out of the routes".into(),
        ),
        VipOwner::Node => Err(
            "handover: with vip_owner = \"node\" no other program is asked to take over: give the other node its role \
                 first (`lvs-node role master` there), then this one"
                .into(),
        ),
    }
}
