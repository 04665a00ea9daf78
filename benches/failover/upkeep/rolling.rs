//! All nodes are restarted, one after the other. A node's own sessions end with it; all others are
//! to be kept.

use std::thread;
use std::time::Duration;

use anyhow::Result;
use serde_json::{Value, json};

use super::scene::{ASKED, Scene, failed, failures, kept, open};
use crate::cluster::load::{Group, Load, Sessions};
use crate::cluster::progress::Progress;
use crate::cluster::ways::Way;
use crate::measure::{ACTIVE, AFTERMATH, Count, IDLE};

/// Opened before each restart.
const OPENED: [Group; 2] = [Group { count: 150, ..ACTIVE }, Group { count: 150, ..IDLE }];

pub(super) fn tell(way: &Way, progress: Progress) -> Result<(Vec<(String, String)>, Value)> {
    Scene::build(way, progress)?.act(|scene| {
        scene.elect(&[0, 1, 2])?;
        let mut load = Load::start(&scene.cluster, scene.start)?;
        let begin = scene.start.elapsed();
        let mut opened: Vec<[Sessions; 2]> = Vec::new();
        let (mut rounds, mut total) = (Vec::new(), [Count { is: 0, of: 0 }; 2]);
        let (mut lines, mut steps) = (Vec::new(), Vec::new());
        for node in 0..scene.cluster.nodes.len() {
            scene.step(&format!("sessions are opened, before n{} is restarted", node + 1));
            opened.extend(open(&[&load], OPENED)?);
            steps.push(json!([node + 1, scene.start.elapsed().as_secs_f64()]));
            let known = restart(scene, node, &mut load)?;
            let now = scene.start.elapsed();
            scene.step("the sessions are counted");
            // Sessions of the round that they were opened in, and since.
            let count = |opened: &[[Sessions; 2]], kind: usize| {
                let of_round = |(round, sessions): (usize, &[Sessions; 2])| {
                    kept(&sessions[kind].so_far(), now, now, |server| !(round..=node).contains(&server))
                };
                opened.iter().enumerate().map(of_round).fold(Count { is: 0, of: 0 }, sum)
            };
            let active = count(&opened, 0);
            opened.iter_mut().for_each(|[_, idle]| idle.ask(Duration::from_secs(1)));
            thread::sleep(ASKED);
            let idle = count(&opened, 1);
            total = [sum(total[0], active), sum(total[1], idle)];
            lines.push((format!("n{} restarted: active sessions kept", node + 1), active.to_string()));
            lines.push(("              idle ".to_owned() + &format!("(n{})", node + 1), idle.to_string()));
            rounds.push(json!({
                "restarted": node + 1, "active_kept": active.json(), "idle_kept": idle.json(),
                "known": known.map(|(_, known, of)| json!({ "count": known, "of": of })),
            }));
        }
        let end = scene.start.elapsed();
        let requests = load.stop()?;
        let new = failed(&requests, begin, end);
        lines.push(("new connections failed".to_owned(), new.to_string()));
        let directors: Vec<usize> = scene.directors()?.iter().map(|node| node + 1).collect();
        lines.push(("directs in the end".to_owned(), format!("{directors:?}")));
        let json = json!({ "way": way.name, "story": "rolling", "rounds": rounds, "new_failed": new.json(),
            "failures": failures(&requests, Duration::ZERO, end), "watches": scene.said(), "steps": steps });
        Ok((lines, json))
    })
}

fn sum(a: Count, b: Count) -> Count {
    Count { is: a.is + b.is, of: a.of + b.of }
}

/// As one would do it by hand.
fn restart(scene: &mut Scene, node: usize, load: &mut Load) -> Result<Option<(Duration, u64, u64)>> {
    scene.step(&format!("n{} is restarted", node + 1));
    scene.set_weight(node, 0)?;
    if scene.directors()? == [node] {
        let next = (0..scene.cluster.nodes.len()).find(|other| *other != node).unwrap_or_default();
        scene.hand_over(node, next)?;
    } else {
        scene.cluster.nodes[node].set_maintenance(true)?;
    }
    scene.set_weight(node, 0)?;
    // Connections that are being made.
    thread::sleep(Duration::from_millis(500));
    scene.restart_host(node, load)?;
    scene.start_node(node)?;
    scene.wait_for_backup(node)?;
    let known = scene.wait_until_known(node)?;
    scene.set_weight(node, 1)?;
    scene.step(&format!("n{} takes part again", node + 1));
    if scene.way.hands_over {
        let config = scene.cluster.nodes[node].etc.join("node.toml");
        let program = crate::cluster::ways::install_lvs_node()?;
        scene.cluster.nodes[node].run(&format!("{program} --config {} handover --end", config.display()))?;
    } else {
        scene.cluster.nodes[node].set_maintenance(false)?;
    }
    // Where it has the highest priority, it directs again.
    thread::sleep(AFTERMATH);
    Ok(known)
}
