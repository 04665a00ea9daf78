//! A server is taken out on all nodes, by weight 0 or by removal, as health checks do. Then a
//! backup is promoted: it must not send anything to that server.

use std::thread;
use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use super::capture::{Capture, opened};
use super::scene::{Scene, ask};
use crate::cluster::addresses::real;
use crate::cluster::load::Load;
use crate::cluster::progress::Progress;
use crate::cluster::ways::Way;
use crate::measure::Count;

const OUT: usize = 2;
/// Asked as soon as the new director directs, and then.
const AT_ONCE: usize = 6;
const LATER: usize = 60;

pub(super) fn tell(way: &Way, removed: bool, progress: Progress) -> Result<(Vec<(String, String)>, Value)> {
    Scene::build(way, progress)?.act(|scene| {
        scene.elect(&[0, 1, 2])?;
        let load = Load::start_paused(&scene.cluster, scene.start)?;
        let before = Asked::count(scene, &load, LATER)?;
        ensure!(before.sent.is > 0 && before.failed.is == 0, "not all nodes serve at first: {before:?}");

        scene.step("n3 is taken out");
        let server = format!("-r {}", real(scene.cluster.nodes[OUT].address));
        let edited =
            if removed { scene.edit("-d", &server)? } else { scene.edit("-e", &format!("{server} -g -w 0"))? };
        let meanwhile = Asked::count(scene, &load, LATER)?;
        ensure!(meanwhile.sent.is == 0, "the director still sends to n3: {meanwhile:?}");

        scene.step("n2 is to direct");
        scene.move_to(1)?;
        let at_once = Asked::count(scene, &load, AT_ONCE)?;
        thread::sleep(Duration::from_secs(2));
        let later = Asked::count(scene, &load, LATER)?;
        let mut lines = vec![("nodes whose table was edited".to_owned(), edited.to_string())];
        for (when, asked) in [("at once", &at_once), ("2 s later", &later)] {
            lines.push((format!("requests sent to that server, {when}"), asked.sent.to_string()));
            lines.push((format!("              served by it, {when}"), asked.served.to_string()));
            lines.push((format!("requests failed, {when}"), asked.failed.to_string()));
        }
        Ok((lines, json!({ "edited": edited, "at_once": at_once.json(), "later": later.json() })))
    })
}

/// Requests of the client.
#[derive(Debug)]
struct Asked {
    /// Connections that were opened to the server, as its interface saw them: its own table may
    /// pass them on, or drop them.
    sent: Count,
    served: Count,
    failed: Count,
}

impl Asked {
    fn count(scene: &Scene, load: &Load, count: usize) -> Result<Asked> {
        let capture = Capture::start(&scene.cluster.nodes[OUT])?;
        let asked = ask(scene, load, &scene.cluster.client, count)?;
        let sent = opened(&capture.stop()?);
        Ok(Asked { sent: Count { is: sent, of: count }, served: asked.reached(OUT), failed: asked.failed() })
    }

    fn json(&self) -> Value {
        json!({ "sent": self.sent.json(), "served": self.served.json(), "failed": self.failed.json() })
    }
}
