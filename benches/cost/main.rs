//! What the rules of fence `marks`, and the classifier, cost a packet on a director, in
//! instructions.
//! `benches/cost/run` starts it in a guest whose clock counts instructions.
//!
//! A client sends packets of one known connection over a cable or a network card; the director
//! forwards each to a server. From that is taken what a packet to a foreign MAC address costs:
//! sending it, and its way to the director's IP layer.

use std::env;
use std::fs;
use std::net::Ipv4Addr;
use std::num::NonZeroU32;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use lvs_dr::Netns;
use lvs_dr::ipvs::{Ipvs, Plan, Table};
use lvs_dr::marks::{self, Change, Classification, Classifier, Mac, Marks, Packets, Rule, ServiceMarks};

#[allow(dead_code, reason = "tests use the rest")]
#[path = "../../tests/kernel/lab.rs"]
mod lab;

use lab::{cable, enter_new_netns, ip, new_netns, run};

const CLIENT: [u8; 6] = [2, 0, 0, 0, 1, 0];
const DIRECTOR: [u8; 6] = [2, 0, 0, 0, 0, 1];
const NOBODY: [u8; 6] = [2, 0, 0, 0, 0, 0x77];
const VIP: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const PACKETS: u32 = 2000;

/// The marks of the node itself, and of the other director.
const MARKS: [u32; 2] = [1_280_725_760, 1_280_725_761];

fn main() -> Result<()> {
    let Some(link) = env::args().nth(1).filter(|link| ["veth", "e1000"].contains(&link.as_str())) else {
        println!("benches/cost/run measures this: it needs a clock that counts instructions");
        return Ok(());
    };
    let first = Netns::current()?;
    enter_new_netns();
    let here = Netns::current()?;
    let client = match link.as_str() {
        "veth" => {
            let client = new_netns();
            cable("eth0", &Mac(DIRECTOR).to_string(), &client, "c0");
            client.run(|| ip(&format!("link set c0 address {}", Mac(CLIENT))))?;
            client
        }
        _ => {
            let thread = rustix::thread::gettid().as_raw_nonzero();
            first.run(|| -> Result<()> {
                ip(&format!("link set {} name c0", interface_of(CLIENT)?));
                ip(&format!("link set {} name d0 netns {thread}", interface_of(DIRECTOR)?));
                ip("link set c0 up");
                Ok(())
            })??;
            ip("link set d0 name eth0");
            ip("link set eth0 up");
            first
        }
    };
    fs::write("/proc/sys/net/ipv6/conf/eth0/disable_ipv6", "1")?;
    client.run(|| fs::write("/proc/sys/net/ipv6/conf/c0/disable_ipv6", "1"))??;
    for setting in ["all/rp_filter", "eth0/rp_filter", "all/send_redirects", "eth0/send_redirects"] {
        fs::write(format!("/proc/sys/net/ipv4/conf/{setting}"), "0")?;
    }
    ip("address add 10.0.0.1/24 dev eth0");
    ip("address add 192.0.2.1/32 dev eth0");
    for server in 2..=11 {
        ip(&format!("neigh add 10.0.0.{server} lladdr {} dev eth0 nud permanent", Mac(peer(server))));
    }
    ip("neigh add 10.0.0.254 lladdr 02:00:00:00:00:fe dev eth0 nud permanent");
    ip("route add default via 10.0.0.254");
    let [local, director] = MARKS;
    let table: Table = format!(
        "-A -t 192.0.2.1:80 -s wrr\n-a -t 192.0.2.1:80 -r 10.0.0.2:80 -g\n-A -f {local} -s rr\n-a -f {local} -r 10.0.0.1:1 -g\n\
         -A -f {director} -s rr\n-a -f {director} -r 10.0.0.1:1 -g\n"
    )
    .parse()?;
    Ipvs::open()?.apply(&Plan::between(&Table::new(), &table))?;
    // The card's link comes up.
    std::thread::sleep(std::time::Duration::from_secs(3));

    let sender = client.run(Sender::open)??;
    let base = sender.cost(&frame(NOBODY, CLIENT, ACK))?;
    sender.send(&frame(DIRECTOR, CLIENT, SYN))?;
    sender.send(&frame(DIRECTOR, CLIENT, ACK))?;
    let known = Ipvs::open()?.connections()?.len();
    ensure!(known == 1, "{known} connections instead of one");
    let mut marks = Marks::open_in(here, 7)?;
    let mut plain = None;
    for (name, peers, from) in [
        ("no rules", None, CLIENT),
        ("an empty clsact", Some(0), CLIENT),
        ("rules for 2 peers", Some(2), CLIENT),
        ("rules for 3 peers", Some(3), CLIENT),
        ("rules for 10 peers", Some(10), CLIENT),
        ("rules for 3 peers, a peer's packet", Some(3), peer(2)),
    ] {
        if let Some(peers) = peers {
            let rules = rules(peers);
            let first = [Change::AddQdisc("eth0".into())];
            marks.apply(&marks::Plan::of(first.into_iter().chain(rules.into_iter().map(Change::Add))))?;
        }
        let path = sender.cost(&frame(DIRECTOR, from, ACK))? - base;
        let plain = *plain.get_or_insert(path);
        println!("| {link} | {name} | {path:.0} | +{:.0} | {:.1} % |", path - plain, 100.0 * (path - plain) / plain);
        if peers.is_some() {
            run("tc qdisc del dev eth0 clsact");
        }
    }
    let Some(plain) = plain else { return Ok(()) };
    let mut classifier = Classifier::open(7)?;
    for (name, peers, from) in [
        ("the classifier for 3 peers", 3, CLIENT),
        ("the classifier for 10 peers", 10, CLIENT),
        ("the classifier for 3 peers, a peer's packet", 3, peer(2)),
    ] {
        classifier.apply("eth0", &classification(peers))?;
        let path = sender.cost(&frame(DIRECTOR, from, ACK))? - base;
        println!("| {link} | {name} | {path:.0} | +{:.0} | {:.1} % |", path - plain, 100.0 * (path - plain) / plain);
    }
    Ok(())
}

/// What the classifier of a director knows.
fn classification(peers: u8) -> Classification {
    let local = NonZeroU32::MIN;
    let marks = ServiceMarks { local, elsewhere: NonZeroU32::new(2), before: NonZeroU32::new(3) };
    Classification {
        services: [((VIP, 80).into(), marks)].into(),
        peers: (2..2 + peers).map(|number| (Mac(peer(number)), number)).collect(),
    }
}

fn peer(number: u8) -> [u8; 6] {
    [2, 0, 0, 0, 0, number]
}

/// A director's rules.
fn rules(peers: u8) -> Vec<Rule> {
    let rule = |packets, mark| Rule {
        interface: "eth0".into(),
        vip: VIP.into(),
        packets,
        mark: NonZeroU32::new(mark).unwrap_or(NonZeroU32::MIN),
    };
    let [local, director] = MARKS;
    let from = (2..2 + peers).map(|number| rule(Packets::From(Mac(peer(number))), local));
    let later = rule(Packets::Later { port: std::num::NonZeroU16::new(80) }, director);
    if peers == 0 { Vec::new() } else { from.chain([later]).collect() }
}

fn interface_of(mac: [u8; 6]) -> Result<String> {
    for entry in fs::read_dir("/sys/class/net")? {
        let path = entry?.path();
        if fs::read_to_string(path.join("address"))?.trim() == Mac(mac).to_string() {
            return Ok(path.file_name().context("a name")?.to_string_lossy().into_owned());
        }
    }
    bail!("no interface has {}", Mac(mac))
}

const SYN: u8 = 2;
const ACK: u8 = 16;

/// A TCP packet of the one connection, of 40 octets behind the Ethernet header.
fn frame(to: [u8; 6], from: [u8; 6], flags: u8) -> Vec<u8> {
    let mut ip = vec![0x45, 0, 0, 40, 0, 0, 0x40, 0, 64, 6, 0, 0, 198, 51, 100, 9, 192, 0, 2, 1];
    let mut tcp = vec![0x9c, 0x40, 0, 80, 0, 0, 3, 232, 0, 0, 0, 1, 0x50, flags, 0xea, 0x60, 0, 0, 0, 0];
    let sum = checksum(&[&ip]);
    ip[10..12].copy_from_slice(&sum);
    let sum = checksum(&[&ip[12..], &[0, 6, 0, 20], &tcp]);
    tcp[16..18].copy_from_slice(&sum);
    [&to[..], &from, &[8, 0], &ip, &tcp].concat()
}

fn checksum(parts: &[&[u8]]) -> [u8; 2] {
    let sum: u32 = parts.concat().chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
    let sum = (sum & 0xffff) + (sum >> 16);
    (!((sum & 0xffff) + (sum >> 16)) as u16).to_be_bytes()
}

/// A packet socket at the client's interface that passes by its queue.
struct Sender(OwnedFd);

impl Sender {
    fn open() -> Result<Self> {
        let index = nix::net::if_::if_nametoindex("c0")?.cast_signed();
        // SAFETY: the descriptor is owned by this value alone; the address and the option outlive
        // the calls; all fields of an address are numbers.
        unsafe {
            let fd = libc::socket(libc::AF_PACKET, libc::SOCK_RAW, 0);
            ensure!(fd >= 0, "no packet socket: {}", std::io::Error::last_os_error());
            let socket = OwnedFd::from_raw_fd(fd);
            let mut address: libc::sockaddr_ll = std::mem::zeroed();
            address.sll_family = libc::AF_PACKET as u16;
            address.sll_ifindex = index;
            let bound = libc::bind(fd, (&raw const address).cast(), size_of_val(&address) as u32);
            ensure!(bound == 0, "cannot bind: {}", std::io::Error::last_os_error());
            let on = 1_i32;
            const PACKET_QDISC_BYPASS: i32 = 20;
            let set = libc::setsockopt(fd, libc::SOL_PACKET, PACKET_QDISC_BYPASS, (&raw const on).cast(), 4);
            ensure!(set == 0, "no bypass: {}", std::io::Error::last_os_error());
            Ok(Sender(socket))
        }
    }

    fn send(&self, frame: &[u8]) -> Result<()> {
        // SAFETY: the frame outlives the call.
        let sent = unsafe { libc::send(self.0.as_raw_fd(), frame.as_ptr().cast(), frame.len(), 0) };
        ensure!(sent == frame.len().cast_signed(), "cannot send: {}", std::io::Error::last_os_error());
        Ok(())
    }

    /// Instructions for a packet, as the clock counts them. The first rounds fill caches of the
    /// kernel.
    fn cost(&self, frame: &[u8]) -> Result<f64> {
        let mut last = 0.0;
        for _ in 0..4 {
            let start = Instant::now();
            for _ in 0..PACKETS {
                self.send(frame)?;
            }
            last = start.elapsed().as_nanos() as f64 / f64::from(PACKETS);
        }
        Ok(last)
    }
}
