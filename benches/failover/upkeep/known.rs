//! How long a node that starts takes to know 10,000 connections, and the processor time that
//! watching takes from then on.

use std::collections::BTreeSet;
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::net::{SocketAddr, UdpSocket};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::scene::Scene;
use crate::cluster::Node;
use crate::cluster::addresses::{family, vip};
use crate::cluster::progress::Progress;
use crate::cluster::ways::Way;

const COUNT: u16 = 10_000;
const PORT: u16 = 5000;
const FIRST: u16 = 20_000;
const LATE: usize = 2;
/// For how long processor time is measured.
const WATCHED: Duration = Duration::from_secs(60);

pub(super) fn tell(way: &Way, progress: Progress) -> Result<(Vec<(String, String)>, Value)> {
    Scene::build(way, progress)?.act(|scene| {
        let nodes = &scene.cluster.nodes;
        nodes.iter().try_for_each(|node| add_service(node, nodes))?;
        scene.elect(&[0, 1])?;

        scene.step("connections are made");
        scene.cluster.client.run(fill)??;
        let director = connections(&scene.cluster.nodes[0])?;
        ensure!(director.len() == usize::from(COUNT), "the director has {} connections", director.len());
        // What the sync daemon tells n2 meanwhile is no part of it.
        thread::sleep(Duration::from_secs(5));

        scene.step("n3 starts");
        scene.start_node(LATE)?;
        let (at, known, of) = scene.wait_until_known(LATE)?.context("no watch")?;
        let after = at - scene.watchers[&LATE].started;
        let (director, late) = (connections(&scene.cluster.nodes[0])?, connections(&scene.cluster.nodes[LATE])?);
        let missing = director.difference(&late).count();

        scene.step("the watches are watched");
        let used = |scene: &Scene| -> Result<Vec<[Duration; 2]>> {
            scene.watchers.values().map(|watcher| Ok([watcher.cpu()?, watcher.busy()?])).collect()
        };
        // What starting takes is over.
        thread::sleep(Duration::from_secs(5));
        let before = used(scene)?;
        let begin = scene.start.elapsed();
        thread::sleep(WATCHED);
        let (after_it, length) = (used(scene)?, scene.start.elapsed() - begin);
        let left = connections(&scene.cluster.nodes[0])?.len();
        let share = |which: usize, node: usize| {
            (after_it[node][which] - before[node][which]).div_duration_f64(length) * 100.0
        };
        let [shares, busy] = [0, 1].map(|which| (0..before.len()).map(|node| share(which, node)).collect::<Vec<f64>>());
        let resyncs: Vec<(Duration, String)> =
            scene.watchers[&0].lines().into_iter().filter(|(_, line)| line.starts_with("told of")).collect();

        let mut lines = vec![
            ("from n3's start until it said that it knows all, s".to_owned(), format!("{:.2}", after.as_secs_f64())),
            ("it said that it knows".to_owned(), format!("{known} of {of}")),
            ("of the director's, missing in its kernel".to_owned(), format!("{missing} of {}", director.len())),
            ("the director told of all, times".to_owned(), resyncs.len().to_string()),
            ("connections at the end".to_owned(), left.to_string()),
        ];
        for (what, shares) in [("processor time of watch", &shares), ("watch not waiting, by the clock", &busy)] {
            for (share, role) in shares.iter().zip(["n1, director", "n2, backup", "n3, late backup"]) {
                lines.push((format!("{what}, %: {role}"), format!("{share:.2}")));
            }
        }
        let json = json!({
            "way": way.name, "story": "known", "seconds": after.as_secs_f64(), "said": { "count": known, "of": of },
            "missing": missing, "of": director.len(), "cpu_percent": shares, "busy_percent": busy, "resyncs": resyncs.len(), "left": left, "watches": scene.said(),
        });
        Ok((lines, json))
    })
}

fn add_service(node: &Node, all: &[Node]) -> Result<()> {
    let path = node.etc.join("node.toml");
    let to = |real: &Node| format!("    {{ address = \"{}\", weight = 1 }},\n", SocketAddr::new(real.address, PORT));
    let text = format!(
        "[[service]]\nlisten = \"udp {}\"\nscheduler = \"wrr\"\ndestinations = [\n{}]\n",
        SocketAddr::new(vip(), PORT),
        all.iter().map(to).collect::<String>()
    );
    let mut file = OpenOptions::new().append(true).open(&path).with_context(|| path.display().to_string())?;
    file.write_all(text.as_bytes()).with_context(|| path.display().to_string())
}

/// From as many source ports.
fn fill() -> Result<()> {
    for port in FIRST..FIRST + COUNT {
        let socket = UdpSocket::bind((family().any(), port)).context("cannot make a socket")?;
        socket.send_to(b"?", (vip(), PORT)).context("cannot send to the VIP")?;
    }
    Ok(())
}

/// Each without its time.
fn connections(node: &Node) -> Result<BTreeSet<String>> {
    let read = || fs::read_to_string("/proc/thread-self/net/ip_vs_conn");
    let text = node.netns.run(read)?.context("ip_vs_conn")?;
    let row = |line: &str| line.split_whitespace().take(7).collect::<Vec<_>>().join(" ");
    Ok(text.lines().skip(1).map(row).collect())
}
