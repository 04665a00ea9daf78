//! The director and the others do not hear each other's VRRP for ten seconds, while all else
//! passes (or the sync group does not, either): there are two directors. One client goes where ARP
//! leads it, another one stays with the first director.

use std::thread;
use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use super::capture::{Capture, loops};
use super::scene::{ASKED, Scene, failed, kept, open};
use crate::cluster::addresses::vip;
use crate::cluster::load::{Group, Load, Sessions};
use crate::cluster::progress::Progress;
use crate::cluster::ways::Way;
use crate::measure::{ACTIVE, AFTERMATH, IDLE};

const CUT: Duration = Duration::from_secs(10);
/// Of each client.
const BEFORE: [Group; 2] = [Group { count: 150, ..ACTIVE }, Group { count: 150, ..IDLE }];
const MEANWHILE: [Group; 1] = [Group { count: 60, ..ACTIVE }];
/// Sync messages and beacons.
const SYNC: [u16; 2] = [8848, 8847];
const CLIENTS: [&str; 2] = ["side of n2", "side of n1"];

pub(super) fn tell(way: &Way, sync: bool, progress: Progress) -> Result<(Vec<(String, String)>, Value)> {
    Scene::build(way, progress)?.act(|scene| {
        let other = scene.cluster.add_client()?;
        scene.elect(&[0, 1, 2])?;
        let load = Load::start(&scene.cluster, scene.start)?;
        let stays = Load::start_client(&scene.cluster, &other, scene.start)?;
        scene.step("sessions are opened");
        let mut before = open(&[&load, &stays], BEFORE)?;
        let pin = format!("ip neigh replace {} lladdr {} dev eth0 nud permanent", vip(), scene.cluster.nodes[0].mac()?);
        other.run(|| crate::cluster::run(&pin, ""))??;
        let captures = scene.cluster.nodes.iter().map(Capture::start).collect::<Result<Vec<_>>>()?;

        scene.step("the cut");
        let at = scene.start.elapsed();
        scene.cluster.cut(&scene.cluster.nodes[0], if sync { &SYNC } else { &[] })?;
        scene.wait("two directors", |scene| Ok((scene.directors()?.len() == 2).then_some(())))?;
        let two = scene.start.elapsed() - at;
        thread::sleep(Duration::from_secs(1));
        // Not all can be opened: that is counted, and is no failure here.
        let meanwhile: Vec<[Sessions; 1]> =
            [&load, &stays].map(|load| MEANWHILE.map(|group| load.open_sessions(group))).into();
        scene.pause_until(at + CUT);
        let lives: Vec<bool> = scene.states()?.iter().map(|state| state.live).collect();

        scene.step("the cut heals");
        scene.cluster.heal(&scene.cluster.nodes[0])?;
        let healed = scene.start.elapsed();
        scene.wait_for_director(0)?;
        let one = scene.start.elapsed() - healed;
        scene.pause_until(healed + AFTERMATH);

        scene.step("the sessions are counted");
        let now = scene.start.elapsed();
        let all = |_| true;
        let active: Vec<_> = before.iter().map(|[active, _]| kept(&active.so_far(), now, now, all)).collect();
        let new_ones: Vec<_> = meanwhile.iter().map(|[active]| kept(&active.so_far(), now, now, all)).collect();
        before.iter_mut().for_each(|[_, idle]| idle.ask(Duration::from_secs(1)));
        thread::sleep(ASKED);
        let idle: Vec<_> = before.iter().map(|[_, idle]| kept(&idle.so_far(), now, now, all)).collect();
        let seen = captures.into_iter().map(Capture::stop).collect::<Result<Vec<_>>>()?;
        let loops = loops(&seen);
        ensure!(loops.packets > 0, "no packet was captured");
        let new = [load.stop()?, stays.stop()?].map(|requests| {
            [(at, at + CUT), (healed, healed + AFTERMATH)].map(|(from, until)| failed(&requests, from, until))
        });
        let tables = tables(scene)?;

        let mut lines = vec![
            ("two directors after, s".to_owned(), format!("{:.1}", two.as_secs_f64())),
            ("tables that send away, in the end of the cut".to_owned(), names(&lives)),
            ("packets that visit a node twice".to_owned(), format!("{} of {}", loops.looped, loops.packets)),
            ("          of so many connections".to_owned(), loops.connections.to_string()),
            ("          that would open one".to_owned(), loops.syns.to_string()),
            ("visits beyond the first, in all".to_owned(), loops.again.to_string()),
            ("most visits of one packet at one node".to_owned(), loops.most.to_string()),
        ];
        for (i, client) in CLIENTS.iter().enumerate() {
            lines.push((format!("{client}: active sessions kept"), active[i].to_string()));
            lines.push((format!("{client}: idle sessions kept"), idle[i].to_string()));
            lines.push((format!("{client}: opened in the cut and kept"), format!("{} (asked for {})", new_ones[i], MEANWHILE[0].count)));
            lines.push((format!("{client}: new connections failed in the cut"), new[i][0].to_string()));
            lines.push((format!("{client}: new connections failed afterwards"), new[i][1].to_string()));
        }
        lines.push(("one director after, s".to_owned(), format!("{:.1}", one.as_secs_f64())));
        lines.push(("tables that send away, afterwards".to_owned(), names(&scene.states()?.iter().map(|s| s.live).collect::<Vec<_>>())));
        let json = json!({
            "way": way.name, "story": "split", "sync_cut": sync, "two_after": two.as_secs_f64(), "one_after": one.as_secs_f64(),
            "loops": { "packets": loops.packets, "looped": loops.looped, "again": loops.again, "most": loops.most, "connections": loops.connections, "syns": loops.syns },
            "clients": (0..2).map(|i| json!({
                "client": CLIENTS[i], "active_kept": active[i].json(), "idle_kept": idle[i].json(), "opened_in_cut_kept": new_ones[i].json(),
                "new_failed_in_cut": new[i][0].json(), "new_failed_after": new[i][1].json(),
            })).collect::<Vec<_>>(),
            "tables": tables,
            "at": at.as_secs_f64(), "watches": scene.said(),
        });
        Ok((lines, json))
    })
}

fn names(live: &[bool]) -> String {
    let names: Vec<String> = (1..).zip(live).filter(|(_, live)| **live).map(|(i, _)| format!("n{i}")).collect();
    names.join(" ")
}

/// As ipvsadm shows them: rules and daemons of each node.
pub(super) fn tables(scene: &Scene) -> Result<Vec<Value>> {
    let of = |node: &crate::cluster::Node| {
        let lines = |text: String| text.lines().map(|line| line.trim().to_owned()).collect::<Vec<_>>();
        let daemons = node.run("ipvsadm -Ln --daemon")?;
        Ok(json!({ "node": node.name, "rules": lines(node.run("ipvsadm -Sn")?), "daemons": lines(daemons) }))
    };
    scene.cluster.nodes.iter().map(of).collect()
}
