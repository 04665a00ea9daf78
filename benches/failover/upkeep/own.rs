//! Programs on the nodes are clients of the VIP, too.

use anyhow::Result;
use serde_json::{Map, Value, json};

use super::scene::{Scene, ask};
use crate::cluster::load::Load;
use crate::cluster::progress::Progress;
use crate::cluster::ways::Way;

const COUNT: usize = 30;

pub(super) fn tell(way: &Way, progress: Progress) -> Result<(Vec<(String, String)>, Value)> {
    Scene::build(way, progress)?.act(|scene| {
        scene.elect(&[0, 1, 2])?;
        let load = Load::start_paused(&scene.cluster, scene.start)?;
        let (mut lines, mut json) = (Vec::new(), Map::new());
        for (node, role) in [(0, "director"), (1, "backup")] {
            scene.step(&format!("n{}, the {role}, asks", node + 1));
            let asked = ask(scene, &load, &scene.cluster.nodes[node].netns, COUNT)?;
            lines.push((format!("requests of the {role} answered"), asked.answered().to_string()));
            lines.push((format!("   served by n1, n2, n3 ({role})"), format!("{:?}", asked.served)));
            json.insert(role.into(), json!({ "answered": asked.answered().json(), "served": asked.served }));
        }
        Ok((lines, json.into()))
    })
}
