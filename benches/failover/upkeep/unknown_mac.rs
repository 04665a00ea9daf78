//! A node does not know a peer's MAC address, or MAC addresses change, under load.
//!
//! A node whose address changes tells so by gratuitous ARP (`arp_notify`): without it, neighbours
//! send to the old one for up to a minute, whatever directs.

use std::thread;
use std::time::Duration;

use anyhow::Result;
use serde_json::{Value, json};

use super::scene::{Scene, failed, kept, open};
use crate::cluster::INTERFACE;
use crate::cluster::load::{Group, Load};
use crate::cluster::progress::Progress;
use crate::cluster::ways::Way;
use crate::measure::ACTIVE;

const PHASE: Duration = Duration::from_secs(5);
const FLUSH_EVERY: Duration = Duration::from_millis(250);
const SESSIONS: Group = Group { count: 60, ..ACTIVE };

pub(super) fn tell(way: &Way, progress: Progress) -> Result<(Vec<(String, String)>, Value)> {
    Scene::build(way, progress)?.act(|scene| {
        for node in &scene.cluster.nodes {
            node.sysctl(&format!("conf/{INTERFACE}/arp_notify"), 1)?;
        }
        // n1 sends to n2 all the same.
        let known = {
            let nodes = &scene.cluster.nodes;
            format!("{} lladdr {} dev {INTERFACE}", nodes[1].address, nodes[1].mac()?)
        };
        scene.cluster.nodes[0].run(&format!("ip neighbour replace {known} nud permanent"))?;
        scene.cluster.hide(&scene.cluster.nodes[1], &scene.cluster.nodes[0])?;
        scene.elect(&[0, 1, 2])?;
        let load = Load::start(&scene.cluster, scene.start)?;
        scene.step("sessions are opened");
        let sessions = open(&[&load], [SESSIONS])?;
        let mut phases: Vec<(&str, Duration, Duration)> = Vec::new();
        let mut begin = |scene: &mut Scene, title: &'static str| {
            scene.step(title);
            let at = scene.start.elapsed();
            phases.push((title, at, at + PHASE));
            at + PHASE
        };

        let end = begin(scene, "n2 has never known n1's");
        scene.pause_until(end);
        let [n1, n2] = [&scene.cluster.nodes[0], &scene.cluster.nodes[1]];
        let hidden = !n2.run(&format!("ip neighbour show {} dev {INTERFACE}", n1.address))?.contains(&n1.mac()?);
        let end = begin(scene, "the same, and n3 becomes director");
        scene.move_to(2)?;
        scene.pause_until(end);
        scene.cluster.heal(&scene.cluster.nodes[1])?;
        scene.cluster.nodes[0].run(&format!("ip neighbour delete {known}"))?;
        scene.move_to(0)?;
        thread::sleep(Duration::from_secs(2));

        let end = begin(scene, "n2 forgets all, again and again");
        while scene.start.elapsed() < end {
            scene.cluster.nodes[1].run(&format!("ip neighbour flush dev {INTERFACE}"))?;
            thread::sleep(FLUSH_EVERY);
        }
        let set = |scene: &Scene, node: usize, mac: &str| {
            scene.cluster.nodes[node].run(&format!("ip link set {INTERFACE} address {mac}")).map(drop)
        };
        let end = begin(scene, "a backup's changes");
        set(scene, 1, "02:00:00:00:01:0c")?;
        scene.pause_until(end);
        let end = begin(scene, "the director's changes");
        set(scene, 0, "02:00:00:00:01:0b")?;
        scene.pause_until(end);
        let end = begin(scene, "two backups swap theirs");
        let [n2, n3] = [scene.cluster.nodes[1].mac()?, scene.cluster.nodes[2].mac()?];
        set(scene, 1, "02:00:00:00:02:0c")?;
        set(scene, 2, &n2)?;
        set(scene, 1, &n3)?;
        scene.pause_until(end);
        let end = begin(scene, "then n2 becomes director");
        scene.move_to(1)?;
        scene.pause_until(end);

        scene.step("counting");
        let now = scene.start.elapsed();
        let kept = kept(&sessions[0][0].so_far(), now, now, |_| true);
        let requests = load.stop()?;
        let counted = phases.iter().map(|(title, from, until)| (*title, failed(&requests, *from, *until)));
        let mut lines: Vec<(String, String)> =
            counted.clone().map(|(title, failed)| (format!("new failed: {title}"), failed.to_string())).collect();
        let hidden_text = if hidden { "no" } else { "yes, though no ARP passes" };
        lines.push(("n2's neighbour table had n1's at first".to_owned(), hidden_text.to_owned()));
        lines.push(("active sessions kept, through all of it".to_owned(), kept.to_string()));
        let json = json!({
            "phases": counted.map(|(title, failed)| json!({ "phase": title, "new_failed": failed.json() })).collect::<Vec<_>>(),
            "hidden": hidden, "active_kept": kept.json(),
        });
        Ok((lines, json))
    })
}
