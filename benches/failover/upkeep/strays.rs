//! TCP packets of sessions that no node knows: how many frames the nodes send because of them.
//!
//! On the way `seed` backups have no table: it is what plain IPVS sends, to compare with.

use std::net::{IpAddr, SocketAddr};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rustix::net::{AddressFamily, SendFlags, SocketType, ipproto, sendto, socket};
use serde_json::{Value, json};

use super::capture::Capture;
use super::scene::Scene;
use crate::cluster::addresses::{client, vip};
use crate::cluster::load::Load;
use crate::cluster::progress::Progress;
use crate::cluster::ways::Way;

const COUNT: u16 = 300;
const EVERY: Duration = Duration::from_millis(4);
/// A packet that goes round in circles has ended by then.
const REST: Duration = Duration::from_secs(1);

/// Frames of all nodes because of [`COUNT`] packets.
struct Frames {
    all: usize,
    /// Resets to the client.
    answers: usize,
    of_nodes: Vec<usize>,
}

/// `sloppy`: IPVS schedules packets that are no SYN, too. Ways of `lvs-node` set that themselves
/// where they need it.
pub(super) fn tell(way: &Way, sloppy: bool, progress: Progress) -> Result<(Vec<(String, String)>, Value)> {
    Scene::build(way, progress)?.act(|scene| {
        scene.elect(&[0, 1, 2])?;
        if sloppy {
            scene.cluster.nodes.iter().try_for_each(|node| node.sysctl("vs/sloppy_tcp", 1))?;
        }
        let _servers = Load::start_paused(&scene.cluster, scene.start)?;
        scene.cluster.wait_for_client(0)?;
        let mut lines = Vec::new();
        let mut phases = Vec::new();
        for (director, title) in [(0, "no move before"), (1, "after a move")] {
            if director != 0 {
                scene.move_to(director)?;
                thread::sleep(Duration::from_secs(1));
            }
            scene.step(&format!("{COUNT} packets, {title}"));
            let frames = count(scene, 20_000 + 10_000 * director as u16)?;
            lines.push((format!("{title}: frames sent by all nodes"), frames.all.to_string()));
            lines.push((format!("{title}: of each node"), format!("{:?}", frames.of_nodes)));
            lines.push((format!("{title}: packets answered by a reset"), format!("{} of {COUNT}", frames.answers)));
            phases.push(json!({
                "after": title, "packets": COUNT, "frames": frames.all, "of_nodes": frames.of_nodes, "resets": frames.answers,
            }));
        }
        Ok((lines, json!({ "phases": phases })))
    })
}

fn count(scene: &Scene, first_port: u16) -> Result<Frames> {
    let captures = scene.cluster.nodes.iter().map(Capture::start_sent).collect::<Result<Vec<_>>>()?;
    scene.cluster.client.run(|| send(first_port))??;
    thread::sleep(REST);
    let counts = captures.into_iter().map(Capture::count).collect::<Result<Vec<_>>>()?;
    let of_nodes: Vec<usize> = counts.iter().map(|(frames, _)| *frames).collect();
    let frames =
        Frames { all: of_nodes.iter().sum(), answers: counts.iter().map(|(_, answers)| answers).sum(), of_nodes };
    ensure!(frames.all > 0, "no frame was captured");
    Ok(frames)
}

/// Sends packets from as many ports, to the VIP's port 80, with ACK alone.
fn send(first_port: u16) -> Result<()> {
    let family = if vip().is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let socket = socket(family, SocketType::RAW, Some(ipproto::TCP)).context("a raw socket")?;
    for port in (first_port..).take(COUNT.into()) {
        let segment = segment(port);
        let sent = sendto(&socket, &segment, SendFlags::empty(), &SocketAddr::new(vip(), 0)).context("cannot send")?;
        ensure!(sent == segment.len(), "a packet was cut short");
        thread::sleep(EVERY);
    }
    Ok(())
}

/// A TCP segment without data.
fn segment(port: u16) -> [u8; 20] {
    let mut segment = [0; 20];
    segment[0..2].copy_from_slice(&port.to_be_bytes());
    segment[2..4].copy_from_slice(&80u16.to_be_bytes());
    segment[4..8].copy_from_slice(&(u32::from(port) * 7919).to_be_bytes());
    segment[8..12].copy_from_slice(&(u32::from(port) * 104_729).to_be_bytes());
    segment[12] = 5 << 4; // the header's length in words
    segment[13] = 0x10; // ACK
    segment[14..16].copy_from_slice(&1000u16.to_be_bytes());
    let sum = checksum(client(), vip(), &segment);
    segment[16..18].copy_from_slice(&sum.to_be_bytes());
    segment
}

/// Of a segment with an even length and its pseudo-header (RFC 9293, section 3.1).
fn checksum(from: IpAddr, to: IpAddr, segment: &[u8]) -> u16 {
    const TCP: u32 = 6;
    let octets = |address: IpAddr| match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    };
    let words = [&octets(from)[..], &octets(to)[..], segment].concat();
    let words = words.chunks_exact(2).map(|word| u32::from(u16::from_be_bytes([word[0], word[1]])));
    let mut sum = words.sum::<u32>() + TCP + segment.len() as u32;
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}
