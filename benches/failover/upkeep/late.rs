//! Sessions are made while the third node is not there. It joins, and then becomes the director.

use std::thread;
use std::time::Duration;

use anyhow::Result;
use serde_json::{Value, json};

use super::scene::{ASKED, Scene, failed, kept, open};
use crate::cluster::load::Load;
use crate::cluster::progress::Progress;
use crate::cluster::ways::Way;
use crate::measure::{ACTIVE, AFTERMATH, IDLE};

const LATE: usize = 2;
/// From a crash until a health check has seen it.
const HEALTH_CHECK: Duration = Duration::from_secs(2);

pub(super) fn tell(way: &Way, crash: bool, progress: Progress) -> Result<(Vec<(String, String)>, Value)> {
    Scene::build(way, progress)?.act(|scene| {
        scene.elect(&[0, 1])?;
        // Its host is up, its server too; no director sends to it.
        scene.set_weight(LATE, 0)?;
        let load = Load::start(&scene.cluster, scene.start)?;
        scene.step("sessions are opened");
        let mut sessions = open(&[&load], [ACTIVE, IDLE])?;

        scene.step("n3 joins");
        let joined = scene.start.elapsed();
        scene.start_node(LATE)?;
        scene.wait_for_backup(LATE)?;
        let knows = scene.wait_until_known(LATE)?;
        scene.set_weight(LATE, 1)?;
        thread::sleep(Duration::from_secs(1));

        scene.step("n3 is to direct");
        scene.cluster.nodes[1].set_maintenance(true)?;
        thread::sleep(Duration::from_secs(1));
        let at = scene.start.elapsed();
        if crash {
            scene.cluster.set_link(&scene.cluster.nodes[0], false)?;
            scene.wait_for_director(LATE)?;
            scene.pause_until(at + HEALTH_CHECK);
            scene.set_weight(0, 0)?;
        } else {
            scene.hand_over(0, LATE)?;
        }
        scene.pause_until(at + AFTERMATH);

        scene.step("the sessions are counted");
        let up = |node: usize| !(crash && node == 0);
        let (now, [active, idle]) = (scene.start.elapsed(), &mut sessions[0]);
        let active = kept(&active.so_far(), now, now, up);
        idle.ask(Duration::from_secs(1));
        thread::sleep(ASKED);
        let idle = kept(&idle.so_far(), now, now, up);
        let new = failed(&load.stop()?, at, at + AFTERMATH);
        let after = knows.map(|(when, ..)| (when - joined).as_secs_f64());
        let mut lines = vec![
            ("active sessions kept".to_owned(), active.to_string()),
            ("idle sessions kept".to_owned(), idle.to_string()),
            ("new connections failed".to_owned(), new.to_string()),
        ];
        if let (Some((_, known, of)), Some(after)) = (knows, after) {
            lines.push(("n3 said that it knows".to_owned(), format!("{known} of {of}")));
            lines.push(("after, s".to_owned(), format!("{after:.2}")));
        }
        let json = json!({
            "way": way.name, "story": "late", "crash": crash,
            "active_kept": active.json(), "idle_kept": idle.json(), "new_failed": new.json(),
            "known": knows.map(|(_, known, of)| json!({ "count": known, "of": of })), "known_after": after,
        });
        Ok((lines, json))
    })
}
