//! Which packets visit a node twice: each node's tcpdump, counted afterwards.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Read;
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};

use crate::cluster::addresses::vip;
use crate::cluster::{INTERFACE, Node};

/// A running tcpdump.
pub(crate) struct Capture {
    child: Child,
    file: PathBuf,
    mac: [u8; 6],
}

impl Capture {
    /// Captures what comes in for the VIP.
    pub(crate) fn start(node: &Node) -> Result<Self> {
        Self::start_with(node, "in", &format!("tcp and dst host {} and dst port 80", vip()))
    }

    /// Captures what the node sends to the VIP or as the VIP.
    pub(crate) fn start_sent(node: &Node) -> Result<Self> {
        Self::start_with(node, "out", &format!("tcp and host {} and port 80", vip()))
    }

    fn start_with(node: &Node, direction: &str, filter: &str) -> Result<Self> {
        let mac = octets_of(&node.mac()?).context("no MAC address")?;
        let file = node.etc.join("capture");
        let tcpdump = || {
            let mut command = Command::new("tcpdump");
            // Else the packets of the last second are in a buffer that tcpdump does not read when
            // it ends.
            command.arg("--immediate-mode");
            command.args(["-Z", "root", "-p", "-n", "-s", "96", "-B", "16384", "-Q", direction, "-i", INTERFACE, "-w"]);
            command.arg(&file).arg(filter);
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn()
        };
        let mut child = node.netns.run(tcpdump)?.context("cannot run tcpdump")?;
        // `tcpdump: listening on`
        child.stderr.as_mut().context("stderr")?.read_exact(&mut [0; 20]).context("tcpdump does not start")?;
        Ok(Capture { child, file, mac })
    }

    /// The packets that came for this node, in order.
    pub(crate) fn stop(self) -> Result<Vec<Packet>> {
        let mac = self.mac;
        let octets = self.end()?;
        let came = frames(&octets)?.into_iter().filter(|frame| frame.starts_with(&mac));
        Ok(came.filter_map(|frame| packet(frame.get(ETHERNET..)?)).collect())
    }

    /// Returns how many frames were captured, and how many of them were sent as the VIP: answers.
    pub(crate) fn count(self) -> Result<(usize, usize)> {
        let octets = self.end()?;
        let frames = frames(&octets)?;
        let answer = |frame: &&&[u8]| match vip() {
            IpAddr::V4(vip) => frame.get(ETHERNET + 12..ETHERNET + 16) == Some(&vip.octets()),
            IpAddr::V6(vip) => frame.get(ETHERNET + 8..ETHERNET + 24) == Some(&vip.octets()),
        };
        Ok((frames.len(), frames.iter().filter(answer).count()))
    }

    fn end(mut self) -> Result<Vec<u8>> {
        // The last ones are written.
        thread::sleep(Duration::from_millis(200));
        kill_process(Pid::from_child(&self.child), Signal::INT).context("cannot end tcpdump")?;
        let mut said = String::new();
        let _ = self.child.stderr.take().context("stderr")?.read_to_string(&mut said);
        self.child.wait().context("tcpdump")?;
        ensure!(said.contains("0 packets dropped by kernel"), "tcpdump has missed packets: {said}");
        fs::read(&self.file).with_context(|| self.file.display().to_string())
    }
}

fn octets_of(mac: &str) -> Option<[u8; 6]> {
    let octets: Option<Vec<u8>> = mac.split(':').map(|octet| u8::from_str_radix(octet, 16).ok()).collect();
    octets?.try_into().ok()
}

/// What tells a packet from all others, wherever it is seen, and how far it has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Packet {
    /// Client, IP id (0 in IPv6), client port, sequence and acknowledgement number, flags.
    id: (IpAddr, u16, u16, u32, u32, u8),
    ttl: u8,
}

const SYN: u8 = 2;
const FILE_HEADER: usize = 24;
const RECORD_HEADER: usize = 16;
const ETHERNET: usize = 14;

/// The frames of a pcap file as this machine writes it.
fn frames(octets: &[u8]) -> Result<Vec<&[u8]>> {
    let mut rest = octets.get(FILE_HEADER..).context("an empty capture")?;
    let mut frames = Vec::new();
    while let Some((header, behind)) = rest.split_at_checked(RECORD_HEADER) {
        let length = u32::from_ne_bytes(header[8..12].try_into()?) as usize;
        let Some((frame, behind)) = behind.split_at_checked(length) else { break };
        frames.push(frame);
        rest = behind;
    }
    Ok(frames)
}

fn packet(ip: &[u8]) -> Option<Packet> {
    let u16_at = |octets: &[u8], at: usize| Some(u16::from_be_bytes(octets.get(at..at + 2)?.try_into().ok()?));
    let u32_at = |octets: &[u8], at: usize| Some(u32::from_be_bytes(octets.get(at..at + 4)?.try_into().ok()?));
    let (client, number, ttl, header) = if ip.first()? >> 4 == 6 {
        let client: [u8; 16] = ip.get(8..24)?.try_into().ok()?;
        (IpAddr::from(client), 0, *ip.get(7)?, 40)
    } else {
        let client: [u8; 4] = ip.get(12..16)?.try_into().ok()?;
        (IpAddr::from(client), u16_at(ip, 4)?, *ip.get(8)?, usize::from(ip.first()? & 15) * 4)
    };
    let tcp = ip.get(header..)?;
    let id = (client, number, u16_at(tcp, 0)?, u32_at(tcp, 4)?, u32_at(tcp, 8)?, *tcp.get(13)?);
    Some(Packet { id, ttl })
}

/// Counts the connections that the packets open: each client port with a SYN.
pub(crate) fn opened(packets: &[Packet]) -> usize {
    let syns = packets.iter().filter(|packet| packet.id.5 & SYN != 0);
    syns.map(|packet| (packet.id.0, packet.id.2)).collect::<BTreeSet<_>>().len()
}

/// Packets that were seen at a node more than once, of all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Loops {
    pub(crate) packets: usize,
    pub(crate) looped: usize,
    /// Visits beyond the first, and the most visits of one packet at one node.
    pub(crate) again: usize,
    pub(crate) most: usize,
    /// Connections that they belong to.
    pub(crate) connections: usize,
    /// Of the packets that looped: those that would open a connection.
    pub(crate) syns: usize,
}

/// `seen`: at each node.
pub(crate) fn loops(seen: &[Vec<Packet>]) -> Loops {
    let (mut all, mut looped, mut connections) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    let mut loops = Loops::default();
    for packets in seen {
        // A node that sends a packet on makes its TTL less: with another TTL it is there once
        // more.
        let mut visits: BTreeMap<_, BTreeSet<u8>> = BTreeMap::new();
        for packet in packets {
            all.insert(packet.id);
            visits.entry(packet.id).or_default().insert(packet.ttl);
        }
        for (id, visits) in visits.into_iter().filter(|(_, visits)| visits.len() > 1) {
            looped.insert(id);
            connections.insert((id.0, id.2));
            loops.again += visits.len() - 1;
            loops.most = loops.most.max(visits.len());
        }
    }
    let syns = looped.iter().filter(|id| id.5 & SYN != 0).count();
    Loops { packets: all.len(), looped: looped.len(), connections: connections.len(), syns, ..loops }
}
