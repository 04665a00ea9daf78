//! The set of servers changes three times, on all nodes and by ipvsadm, while sessions are idle;
//! then the director moves four times. The servers that come and go are no nodes of the cluster,
//! so all directors stay.

use std::thread;
use std::time::Duration;

use anyhow::Result;
use serde_json::{Value, json};

use super::scene::{ASKED, Scene, failed, failures, kept, open_some};
use super::split::tables;
use crate::cluster::addresses::real;
use crate::cluster::load::{Load, Sessions};
use crate::cluster::progress::Progress;
use crate::cluster::ways::Way;
use crate::measure::{ACTIVE, AFTERMATH, IDLE};

const CHANGES: usize = 3;
/// Between two changes. Whatever a node does of itself, it does in this time.
const BETWEEN: Duration = Duration::from_secs(2);
/// Each node in turn, and n1 twice.
const MOVES: [usize; 4] = [1, 2, 0, 1];

/// What is done to the servers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Edit {
    Add,
    Remove,
    /// Weight 0.
    Drain,
}

impl Edit {
    pub(super) fn named(variant: &str) -> Edit {
        match variant {
            "added" => Edit::Add,
            "removed" => Edit::Remove,
            _ => Edit::Drain,
        }
    }
}

pub(super) fn tell(way: &Way, edit: Edit, progress: Progress) -> Result<(Vec<(String, String)>, Value)> {
    Scene::build(way, progress)?.act(|scene| {
        (0..CHANGES).try_for_each(|_| scene.cluster.add_server())?;
        let servers: Vec<String> =
            scene.cluster.servers.iter().map(|server| format!("-r {} -g", real(server.address))).collect();
        let nodes = scene.cluster.nodes.len();
        scene.elect(&[0, 1, 2])?;
        if edit != Edit::Add {
            servers.iter().try_for_each(|server| scene.edit("-a", &format!("{server} -w 1")).map(drop))?;
        }
        let load = Load::start(&scene.cluster, scene.start)?;
        scene.step("sessions are opened");
        // A fence that does not stand servers being added on backups has new connections fail from
        // here on: counted, too.
        let mut sessions = open_some(&[&load], [ACTIVE, IDLE]);
        let opened = sessions[0].each_ref().map(Sessions::opened);

        let begin = scene.start.elapsed();
        let mut edited = Vec::new();
        for server in &servers {
            scene.step(&format!("{edit:?} {server}"));
            edited.push(match edit {
                Edit::Add => scene.edit("-a", &format!("{server} -w 1"))?,
                Edit::Remove => scene.edit("-d", server.trim_end_matches(" -g"))?,
                Edit::Drain => scene.edit("-e", &format!("{server} -w 0"))?,
            });
            thread::sleep(BETWEEN);
        }
        let moved = scene.start.elapsed();
        for to in MOVES {
            scene.step(&format!("n{} is to direct", to + 1));
            scene.move_to(to)?;
            thread::sleep(Duration::from_secs(1));
        }
        let now = scene.start.elapsed() + AFTERMATH;
        scene.pause_until(now);

        scene.step("the sessions are counted");
        let [active, idle] = &mut sessions[0];
        let stayed = |server: usize| server < nodes;
        let went = |server: usize| server >= nodes;
        let (active, its_active) = (active.so_far(), scene.start.elapsed());
        let [active, active_gone] =
            [kept(&active, its_active, its_active, stayed), kept(&active, its_active, its_active, went)];
        idle.ask(Duration::from_secs(1));
        thread::sleep(ASKED);
        let idle = idle.so_far();
        let [idle, idle_gone] = [kept(&idle, now, now, stayed), kept(&idle, now, now, went)];
        let requests = load.stop()?;
        let tables = tables(scene)?;
        let (changing, moving) = (failed(&requests, begin, moved), failed(&requests, moved, now));
        let to_removed = requests.iter().filter(|r| r.sent >= moved && r.served.is_ok_and(went)).count();
        let of = requests.iter().filter(|r| r.sent >= moved).count();
        let lines = vec![
            ("nodes whose table was edited".to_owned(), format!("{edited:?}")),
            ("active, idle sessions that could be opened".to_owned(), format!("{opened:?}")),
            ("active sessions kept, of servers that stayed".to_owned(), active.to_string()),
            ("idle sessions kept, of servers that stayed".to_owned(), idle.to_string()),
            ("active sessions kept, of changed servers".to_owned(), active_gone.to_string()),
            ("idle sessions kept, of changed servers".to_owned(), idle_gone.to_string()),
            ("new connections failed in the changes".to_owned(), changing.to_string()),
            ("                       in the moves".to_owned(), moving.to_string()),
            ("new ones to the changed servers since the moves".to_owned(), format!("{to_removed} of {of}")),
        ];
        let json = json!({
            "edited": edited, "opened": opened, "active_kept": active.json(), "idle_kept": idle.json(),
            "of_changed_servers": { "active_kept": active_gone.json(), "idle_kept": idle_gone.json() },
            "new_failed_in_changes": changing.json(), "new_failed_in_moves": moving.json(),
            "failures_in_moves": failures(&requests, moved, now),
            "tables": tables, "new_to_changed_servers": { "count": to_removed, "of": of },
        });
        Ok((lines, json))
    })
}
