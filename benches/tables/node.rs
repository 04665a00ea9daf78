//! `lvs-node` with a table of many services.

use std::fs::{self, File};
use std::io::BufWriter;
use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;
use std::process::Child;
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketAddrV4, SocketFlags, SocketType, bind, ipproto, recv, sendto, socket,
    socket_with,
};

use crate::guest::{OUTPUT, report};
use crate::lab::ip;
use crate::program::{Running, Usage};
use crate::rows::{Column, Shape};
use crate::steps::millions;
use crate::table;

pub(crate) const LVS_NODE: &str = "/bin/lvs-node";
const FILE: &str = "/tmp/node.toml";
const VIP: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 254);
const CONNECTIONS: u32 = 10_000;
/// How long `watch` is left alone at first, and how long it is measured.
const SETTLED: Duration = Duration::from_secs(70);
const IDLE: Duration = Duration::from_secs(120);

/// Makes an interface, and the node's file with its services in another.
fn prepare(shape: Shape) -> Result<()> {
    ip("link add eth0 type veth peer name p0");
    ip("link set p0 up");
    ip("link set eth0 up");
    ip("address add 192.0.2.11/24 dev eth0");
    // The other nodes.
    for server in 12..=14 {
        ip(&format!("neigh add 192.0.2.{server} lladdr 02:00:00:00:00:{server} dev eth0 nud permanent"));
    }
    let mut services = BufWriter::new(File::create("/tmp/services")?);
    table::write_ports(&mut services, VIP, shape.services, shape.destinations)?;
    // What a node has stored is lost at a boot, as its table is.
    match fs::remove_dir_all("/run/node") {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error.into()),
        _ => {}
    }
    let file = format!(
        "interface = \"eth0\"\nvips = [\"{VIP}\"]\nvip_owner = \"node\"\nfence = \"marks\"\nstate_dir = \"/run/node\"\n\
         announce_again = 0.0\nservices = \"/tmp/services\"\n"
    );
    fs::write(FILE, file).context("cannot write the node's file")
}

fn start(words: &[&str]) -> Result<Running> {
    Running::start(LVS_NODE, &[&["--config", FILE], words].concat(), None, OUTPUT)
}

fn lvs_node(words: &[&str]) -> Result<Usage> {
    start(words)?.end(&[])
}

/// What a program computed: these wait for the network in between.
fn computed(usage: Usage) -> f64 {
    millions(usage.processor)
}

pub(crate) fn roles(shape: Shape) -> Result<()> {
    prepare(shape)?;
    let ours = |row, value| report(row, Column::Programs, value);
    let first = lvs_node(&["role", "backup"])?;
    ours("node-boot", computed(first));
    ours("role-memory", first.mebibytes);
    for (role, row, row_of_vip, event) in
        [("master", "promotion", "promotion-vip", Event::Placed), ("backup", "demotion", "demotion-vip", Event::Gone)]
    {
        let monitor = Monitor::open()?;
        let running = start(&["role", role])?;
        monitor.wait(event).with_context(|| fs::read_to_string(OUTPUT).unwrap_or_default())?;
        ours(row_of_vip, millions(running.time()));
        ours(row, computed(running.end(&[])?));
    }
    lvs_node(&["role", "master"])?;
    // Their exit code 1 says that something is not as it should be: this node has no peers.
    for command in ["status", "audit"] {
        ours(command, computed(start(&[command])?.end(&[1])?));
    }
    lvs_node(&["release", "--now"])?;
    Ok(())
}

pub(crate) fn watch(shape: Shape) -> Result<()> {
    prepare(shape)?;
    lvs_node(&["role", "master"])?;
    connect(shape)?;
    let known = fs::read_to_string("/proc/net/ip_vs_conn")?.lines().count() - 1;
    ensure!(known == CONNECTIONS as usize, "{known} connections instead of {CONNECTIONS}");
    let mut watch = start(&["watch"])?;
    sleep(SETTLED);
    let before = processor_time(watch.child())?;
    sleep(IDLE);
    let idle = processor_time(watch.child())? - before;
    report("watch", Column::Programs, idle / 1e6 / IDLE.as_secs_f64());
    report("watch-memory", Column::Programs, most_memory(watch.child())?);
    watch.stop()?;
    lvs_node(&["release", "--now"])?;
    Ok(())
}

/// Nanoseconds that all threads of a process have spent on the processor.
fn processor_time(child: &Child) -> Result<f64> {
    let mut sum = 0.0;
    for thread in fs::read_dir(format!("/proc/{}/task", child.id()))? {
        let text = fs::read_to_string(thread?.path().join("schedstat"))?;
        sum += text.split(' ').next().context("an empty schedstat")?.parse::<f64>()?;
    }
    Ok(sum)
}

/// VmHWM of a process in MiB.
fn most_memory(child: &Child) -> Result<f64> {
    let status = fs::read_to_string(format!("/proc/{}/status", child.id()))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("no VmHWM")?;
    Ok(line.trim_end_matches("kB").trim().parse::<f64>()? / 1024.0)
}

/// Opens connections to the services, in their order, from a client address of their own: each
/// has sent a SYN and an ACK.
fn connect(shape: Shape) -> Result<()> {
    const SYN: u8 = 2;
    const ACK: u8 = 16;
    let socket = socket(AddressFamily::INET, SocketType::RAW, Some(ipproto::RAW))?;
    for i in 0..CONNECTIONS {
        let port = 1 + (i % shape.services) as u16;
        for flags in [SYN, ACK] {
            let packet = packet(1024 + (i % 60_000) as u16, port, flags);
            sendto(&socket, &packet, SendFlags::empty(), &SocketAddrV4::new(VIP, 0)).context("cannot send")?;
        }
    }
    Ok(())
}

/// A TCP packet from a client to the VIP. The kernel fills in length and checksum of its IP
/// header; IPVS does not look at that of TCP here.
fn packet(from: u16, to: u16, flags: u8) -> Vec<u8> {
    let mut packet = vec![0x45, 0, 0, 0, 0, 0, 0, 0, 64, 6, 0, 0, 198, 51, 100, 9];
    packet.extend(VIP.octets());
    packet.extend(from.to_be_bytes());
    packet.extend(to.to_be_bytes());
    packet.extend([0, 0, 0, 1, 0, 0, 0, 1, 0x50, flags, 0xea, 0x60, 0, 0, 0, 0]);
    packet
}

/// What happens to the VIP on the interface.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Event {
    Placed,
    Gone,
}

/// Waits for events of addresses.
struct Monitor(OwnedFd);

impl Monitor {
    fn open() -> Result<Self> {
        /// Of linux/rtnetlink.h: IPv4 addresses. The protocol left out is rtnetlink's.
        const GROUP: u32 = 0x10;
        let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, None)?;
        bind(&socket, &SocketAddrNetlink::new(0, GROUP))?;
        set_socket_timeout(&socket, Timeout::Recv, Some(Duration::from_secs(120)))?;
        Ok(Monitor(socket))
    }

    fn wait(&self, wanted: Event) -> Result<()> {
        let interface = nix::net::if_::if_nametoindex("eth0")?;
        let mut buffer = vec![0; 1 << 16];
        loop {
            let (size, _) = recv(&self.0, buffer.as_mut_slice(), RecvFlags::empty()).context("no event of the VIP")?;
            if event(&buffer[..size], interface) == Some(wanted) {
                return Ok(());
            }
        }
    }
}

/// Reads a message of rtnetlink: whether it says that the VIP is placed on the interface, or gone
/// from there. The kernel sends one in a datagram.
fn event(message: &[u8], interface: u32) -> Option<Event> {
    const NEW: u16 = 20;
    const DELETED: u16 = 21;
    let kind = u16::from_ne_bytes(message.get(4..6)?.try_into().ok()?);
    let index = u32::from_ne_bytes(message.get(20..24)?.try_into().ok()?);
    let is_vip = message.get(24..)?.chunks_exact(4).any(|word| word == VIP.octets());
    match kind {
        NEW if is_vip && index == interface => Some(Event::Placed),
        DELETED if is_vip && index == interface => Some(Event::Gone),
        _ => None,
    }
}
