//! The story: a cluster at work, and everything that can happen to its director.

use std::time::Duration;

use anyhow::Result;

use crate::cluster::load::Group;
use crate::cluster::progress::Progress;
use crate::cluster::record::{Kind, Record, Turn};
use crate::cluster::stage::{Stage, with_cluster};
use crate::cluster::ways::Way;

/// How many sessions the client keeps open, and how often they ask.
pub(crate) const SESSIONS: usize = 30;
const SESSION_EVERY: Duration = Duration::from_millis(150);
/// How old sessions are when something happens to them.
const STEADY: Duration = Duration::from_secs(3);
/// For how long the consequences are counted. A TCP whose director has gone sends again 0.2, 0.6,
/// 1.4 and 3.0 s after its last answer.
const AFTERMATH: Duration = Duration::from_secs(4);
/// For how long the node that comes back is watched.
const RETURN: Duration = Duration::from_millis(1200);

/// Builds a cluster that switches roles in this way, and takes it through the story.
///
/// # Errors
/// When it could not be told: a director was not seen, or did not change, or nothing was served
/// after it had.
pub(crate) fn tell(way: &Way, nodes: usize, kinds: &[Kind], progress: &mut Progress) -> Result<Record> {
    with_cluster(way, nodes, progress, |mut stage| {
        let turns = kinds.iter().map(|kind| turn(&mut stage, kind.planned(way))).collect::<Result<_>>()?;
        stage.finish(way, turns)
    })
}

/// Opens sessions, does it to the director, and waits for what comes of it.
fn turn(stage: &mut Stage, kind: Kind) -> Result<Turn> {
    stage.step("all nodes serve");
    let sessions = stage.open_sessions(Group { count: SESSIONS, every: Some(SESSION_EVERY), over: SESSION_EVERY });
    stage.pause(STEADY)?;
    let mut turn = stage.change(kind)?;
    turn.until = turn.last_change() + AFTERMATH;
    stage.pause_until(turn.until)?;
    turn.sessions = sessions.close();
    if let Some(dead) = turn.dead {
        stage.bring_back(dead, RETURN)?;
    }
    Ok(turn)
}
