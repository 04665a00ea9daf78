//! Sessions are silent for longer than IPVS's TCP timeout, so that no node knows them any more.
//! Then the director moves.

use std::fs;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::scene::{ASKED, Scene, failed, kept, open};
use crate::cluster::Node;
use crate::cluster::load::Load;
use crate::cluster::progress::Progress;
use crate::cluster::ways::Way;
use crate::measure::{AFTERMATH, IDLE};

/// Of established connections, in seconds. What is 0 stays as it is.
const TIMEOUTS: &str = "ipvsadm --set 8 0 0";

pub(super) fn tell(way: &Way, progress: Progress) -> Result<(Vec<(String, String)>, Value)> {
    Scene::build(way, progress)?.act(|scene| {
        scene.elect(&[0, 1, 2])?;
        scene.cluster.nodes.iter().try_for_each(|node| node.run(TIMEOUTS).map(drop))?;
        // While the sessions are waited for, nothing else is established.
        let load = Load::start_paused(&scene.cluster, scene.start)?;
        scene.step("sessions are opened");
        let mut sessions = open(&[&load], [IDLE])?;
        let established = scene.cluster.nodes.iter().map(established).collect::<Result<Vec<_>>>()?;
        scene.step("no node is to know them any more");
        let begin = scene.start.elapsed();
        scene.wait("all sessions to expire", |scene| {
            let known = scene.cluster.nodes.iter().map(self::established).collect::<Result<Vec<_>>>()?;
            Ok((known.iter().sum::<usize>() == 0).then_some(()))
        })?;
        let expired = scene.start.elapsed() - begin;

        load.pause(false);
        thread::sleep(Duration::from_secs(1));
        scene.step("n2 is to direct");
        let at = scene.start.elapsed();
        scene.move_to(1)?;
        thread::sleep(Duration::from_secs(1));
        scene.step("the sessions are counted");
        let [idle] = &mut sessions[0];
        let asked = scene.start.elapsed();
        idle.ask(Duration::from_secs(1));
        thread::sleep(ASKED);
        let idle = kept(&idle.so_far(), asked, asked, |_| true);
        scene.pause_until(at + AFTERMATH);
        let new = failed(&load.stop()?, at, at + AFTERMATH);
        ensure!(idle.of == IDLE.count, "only {} sessions were counted", idle.of);
        let lines = vec![
            ("known by n1, n2, n3 before they expired".to_owned(), format!("{established:?}")),
            ("idle sessions kept".to_owned(), idle.to_string()),
            ("new connections failed".to_owned(), new.to_string()),
        ];
        let json = json!({
            "known_before": established, "expired_after": expired.as_secs_f64(),
            "idle_kept": idle.json(), "new_failed": new.json(),
        });
        Ok((lines, json))
    })
}

/// Connections that a node knows as established, by its kernel's list.
fn established(node: &Node) -> Result<usize> {
    let read = || fs::read_to_string("/proc/thread-self/net/ip_vs_conn");
    let text = node.netns.run(read)?.context("ip_vs_conn")?;
    Ok(text.lines().filter(|line| line.contains(" ESTABLISHED ")).count())
}
