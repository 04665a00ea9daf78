//! How evenly a scheduler that counts connections spreads new sessions after two moves, while
//! older ones are open.

use std::thread;
use std::time::Duration;

use anyhow::Result;
use serde_json::{Value, json};

use super::scene::{Scene, kept, open};
use crate::cluster::load::{Group, Load};
use crate::cluster::progress::Progress;
use crate::cluster::ways::Way;
use crate::measure::ACTIVE;

const OLD: Group = Group { count: 150, ..ACTIVE };
const NEW: Group = Group { count: 60, every: None, over: Duration::from_millis(1200) };

pub(super) fn tell(way: &Way, progress: Progress) -> Result<(Vec<(String, String)>, Value)> {
    Scene::build(way, progress)?.act(|scene| {
        scene.elect(&[0, 1, 2])?;
        // Nothing else is opened: it would be counted by the scheduler.
        let load = Load::start_paused(&scene.cluster, scene.start)?;
        scene.step("sessions are opened");
        let old = open(&[&load], [OLD])?;
        for to in [1, 2] {
            scene.step(&format!("n{} is to direct", to + 1));
            scene.move_to(to)?;
            // Sessions ask once in this time, so each director sees them all.
            thread::sleep(Duration::from_secs(2));
        }
        scene.step("new sessions are opened");
        let before = load.served();
        let new = open(&[&load], [NEW])?;
        let served: Vec<usize> = load.served().iter().zip(before).map(|(now, before)| now - before).collect();
        let now = scene.start.elapsed();
        let kept_old = kept(&old[0][0].so_far(), now, now, |_| true);
        let count = |sessions: &[crate::cluster::record::Session]| -> Vec<usize> {
            (0..scene.cluster.nodes.len()).map(|node| sessions.iter().filter(|s| s.node == node).count()).collect()
        };
        let (of_old, of_new) = (count(&old[0][0].so_far()), count(&new[0][0].so_far()));
        let even = NEW.count as f64 / of_new.len() as f64;
        let off = of_new.iter().map(|count| (*count as f64 - even).abs() / even * 100.0).fold(0.0, f64::max);
        let lines = vec![
            ("older sessions on n1, n2, n3".to_owned(), format!("{of_old:?}")),
            ("older sessions kept".to_owned(), kept_old.to_string()),
            ("new sessions on n1, n2, n3".to_owned(), format!("{of_new:?}")),
            ("   as the servers count them".to_owned(), format!("{served:?}")),
            ("farthest from even, %".to_owned(), format!("{off:.0}")),
        ];
        let json = json!({
            "old": of_old, "old_kept": kept_old.json(), "new": of_new, "served": served, "off_percent": off,
        });
        Ok((lines, json))
    })
}
