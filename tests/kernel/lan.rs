//! Hosts on one link: the test's own namespace is the switch. A cluster of three nodes on it, and
//! clients made by hand.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use lvs_dr::Netns;
use lvs_dr::node::{Config, Node, OwnRequests, Role, VipOwner};
use lvs_dr::vip::Vips;
use rustix::event::{PollFd, PollFlags, Timespec};

use crate::lab::{accept, cable, enter_new_netns, ip, ip_batch, keep, load_ipv6, new_netns};
use crate::node::new_path;

/// The interface of each host.
pub const INTERFACE: &str = "bond0";
pub const VIP: &str = "192.0.2.254";
pub const VIP6: &str = "2001:db8::fe";
pub const BOTH: [&str; 2] = [VIP, VIP6];

/// The numbers of the nodes of a [`Cluster`].
pub const NODES: [u8; 3] = [11, 12, 13];

/// The number of the clients that are made by hand: no host has its addresses, and every host
/// knows its MAC address.
pub const BY_HAND: u8 = 200;

/// Enters a new namespace that is the switch.
pub fn enter_switch() {
    enter_new_netns();
    keep(&Netns::current().unwrap());
    load_ipv6();
    ip_batch("link add br0 type bridge mcast_snooping 0 forward_delay 0\nlink set br0 up\n");
}

/// A host on it: 192.0.2.NUMBER and 2001:db8::NUMBER.
pub fn host(number: u8) -> Netns {
    let netns = new_netns();
    keep(&netns);
    // Nobody is asked for over IPv6 as long as the link-local address is tentative.
    netns.run(|| fs::write("/proc/sys/net/ipv6/conf/default/accept_dad", "0").unwrap()).unwrap();
    plug(&netns, number);
    netns
}

/// Gives it its interface, on the port `portNUMBER` of the switch.
pub fn plug(netns: &Netns, number: u8) {
    let port = format!("port{number}");
    cable(&port, &format!("02:00:00:00:01:{number:02x}"), netns, INTERFACE);
    ip(&format!("link set {port} master br0"));
    let mac = mac_text(mac(number));
    let configure = || {
        ip_batch(&format!(
            "link set {INTERFACE} address {mac}\n\
             address add 192.0.2.{number}/24 dev {INTERFACE}\n\
             address add 2001:db8::{number}/64 dev {INTERFACE} nodad\n"
        ));
    };
    netns.run(configure).unwrap();
}

/// The MAC address of a host.
pub fn mac(number: u8) -> [u8; 6] {
    [2, 0, 0, 0, 0, number]
}

pub fn mac_text(mac: [u8; 6]) -> String {
    mac.map(|octet| format!("{octet:02x}")).join(":")
}

/// The address of a host, of the VIP's family.
pub fn address(vip: &str, number: u8) -> String {
    if vip == VIP6 { format!("2001:db8::{number}") } else { format!("192.0.2.{number}") }
}

/// Puts both VIPs on an interface of the host: `lo`, where ARP keeps quiet about it, or
/// [`INTERFACE`].
pub fn add_vips(host: &Netns, interface: &str) {
    let scope = if interface == "lo" { "scope host" } else { "" };
    let add = || {
        if interface == "lo" {
            for (setting, value) in [("arp_ignore", "1"), ("arp_announce", "2")] {
                fs::write(format!("/proc/sys/net/ipv4/conf/{INTERFACE}/{setting}"), value).unwrap();
            }
        }
        ip_batch(&format!(
            "address add {VIP}/32 dev {interface} {scope}\naddress add {VIP6}/128 dev {interface} nodad preferred_lft 0\n"
        ));
    };
    host.run(add).unwrap();
}

/// Serves on port 80 of any address: answers each octet by the host's own number, until the client
/// hangs up.
pub fn serve(host: &Netns, number: u8) {
    serve_on(host, 80, number);
}

pub fn serve_on(host: &Netns, port: u16, number: u8) {
    let listener = host.run(|| TcpListener::bind(("::", port)).unwrap()).unwrap();
    thread::spawn(move || {
        while let Ok((stream, _)) = listener.accept() {
            thread::spawn(move || answer(stream, number));
        }
    });
}

fn answer(mut stream: TcpStream, number: u8) {
    let mut octet = [0];
    while stream.read_exact(&mut octet).is_ok() && stream.write_all(&[number]).is_ok() {}
}

/// A server that can be stopped: connections are refused then. It ends when it is dropped.
pub struct Stoppable(Arc<AtomicBool>);

impl Stoppable {
    /// Serves on these addresses, each connection in a thread of its own.
    pub fn start(host: &Netns, addresses: &[SocketAddr], serve: impl Fn(TcpStream) + Clone + Send + 'static) -> Self {
        let up = Arc::new(AtomicBool::new(true));
        for address in addresses {
            let (host, address, serve, up) = (host.clone(), *address, serve.clone(), Arc::downgrade(&up));
            let is_up = move || up.upgrade().map(|up| up.load(Ordering::Relaxed));
            thread::spawn(move || {
                while let Some(up) = is_up() {
                    if !up {
                        thread::sleep(REACTION);
                        continue;
                    }
                    let listener = host.run(|| TcpListener::bind(address).unwrap()).unwrap();
                    while is_up() == Some(true) {
                        let serve = serve.clone();
                        accept(&listener, REACTION).map(|stream| thread::spawn(move || serve(stream)));
                    }
                }
            });
        }
        Stoppable(up)
    }

    /// The same on port 80 of any address: answers each octet by this number.
    pub fn start_answering(host: &Netns, number: u8) -> Self {
        Stoppable::start(host, &[(Ipv6Addr::UNSPECIFIED, 80).into()], move |stream| answer(stream, number))
    }

    /// Returns when the listeners are there, or closed.
    pub fn set(&self, up: bool) {
        self.0.store(up, Ordering::Relaxed);
        thread::sleep(3 * REACTION);
    }
}

/// How soon a server stops.
const REACTION: Duration = Duration::from_millis(20);

/// A session of the host with a service: which server answers. `None`: none did, or the connection
/// broke.
pub struct Session(TcpStream);

impl Session {
    pub fn open(host: &Netns, vip: &str) -> Option<Self> {
        Self::open_on(host, vip, 80)
    }

    pub fn open_on(host: &Netns, vip: &str, port: u16) -> Option<Self> {
        Self::try_open(host, vip, port).ok()
    }

    fn try_open(host: &Netns, vip: &str, port: u16) -> io::Result<Self> {
        let to = SocketAddr::new(vip.parse::<IpAddr>().unwrap(), port);
        let stream = host.run(|| TcpStream::connect_timeout(&to, Duration::from_secs(3))).unwrap()?;
        stream.set_read_timeout(Some(Duration::from_secs(3))).unwrap();
        stream.set_nodelay(true).unwrap();
        Ok(Session(stream))
    }

    pub fn ask(&mut self) -> Option<u8> {
        self.try_ask().ok()
    }

    fn try_ask(&mut self) -> io::Result<u8> {
        let mut octet = [0];
        self.0.write_all(&[0])?;
        self.0.read_exact(&mut octet)?;
        Ok(octet[0])
    }

    pub fn port(&self) -> u16 {
        self.0.local_addr().unwrap().port()
    }
}

/// Waits until this is so.
pub fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < Duration::from_secs(10), "waited in vain: {what}");
        thread::sleep(Duration::from_millis(10));
    }
}

/// Services on port 80 of both VIPs, with all nodes as servers, as `ipvsadm -Sn` prints them.
pub fn services(scheduler: &str) -> String {
    let mut text = String::new();
    for vip in [format!("{VIP}:80"), format!("[{VIP6}]:80")] {
        text += &format!("-A -t {vip} -s {scheduler}\n");
        for number in NODES {
            let server =
                if vip.starts_with('[') { format!("[2001:db8::{number}]") } else { format!("192.0.2.{number}") };
            text += &format!("-a -t {vip} -r {server}:80 -g -w 1\n");
        }
    }
    text
}

pub const MH: &str = "mh -b mh-fallback,mh-port";

/// A client, and three nodes that serve and direct.
pub struct Cluster {
    pub client: Netns,
    pub hosts: Vec<Netns>,
    pub nodes: Vec<Node>,
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for node in &self.nodes {
            let _ = fs::remove_dir_all(&node.config().state_dir);
        }
    }
}

impl Cluster {
    /// Nodes with these services, of which the first one directs. The kernel's answers to own
    /// requests are left alone unless `change` says otherwise: that takes the start of several
    /// programs.
    pub fn new(services: &str, change: impl Fn(&mut Config)) -> Self {
        let mut cluster = Self::without_roles(services, change);
        if cluster.nodes[0].config().vip_owner == VipOwner::Keepalived {
            vips_arrive(&cluster.hosts[0]);
        }
        cluster.take_on(0, Role::Master);
        cluster.take_on(1, Role::Backup);
        cluster.take_on(2, Role::Backup);
        cluster
    }

    /// The same, before any of them has taken on a role.
    pub fn without_roles(services: &str, change: impl Fn(&mut Config)) -> Self {
        enter_switch();
        let client = host(1);
        let hosts: Vec<Netns> = NODES.iter().map(|number| host(*number)).collect();
        // Where answers to handmade clients go.
        let by_hand = mac_text(mac(1));
        let neighbours = || {
            ip_batch(&format!(
                "neigh add 192.0.2.{BY_HAND} lladdr {by_hand} dev {INTERFACE} nud permanent\n\
                 neigh add 2001:db8::{BY_HAND} lladdr {by_hand} dev {INTERFACE} nud permanent\n"
            ));
        };
        hosts.iter().for_each(|host| host.run(neighbours).unwrap());
        let open = |(number, netns): (&u8, &Netns)| {
            serve(netns, *number);
            let mut config = Config::new(INTERFACE, BOTH.map(|vip| vip.parse().unwrap()));
            config.services = (!services.is_empty()).then(|| services.parse().unwrap());
            config.state_dir = new_path();
            config.announce_again = Duration::ZERO;
            config.marks.own_requests = OwnRequests::LeftAlone;
            change(&mut config);
            Node::open_in(config, netns.clone()).unwrap()
        };
        let nodes = NODES.iter().zip(&hosts).map(open).collect();
        Cluster { client, hosts, nodes }
    }

    pub fn take_on(&mut self, node: usize, role: Role) {
        self.nodes[node].become_role(role).unwrap_or_else(|error| panic!("node {node}, {role}: {error}"));
    }

    /// Opens sessions, in turn with each of the VIPs.
    pub fn sessions(&self, count: usize, vips: &[&str]) -> Sessions {
        let open = |number: usize| {
            let vip = vips[number % vips.len()];
            let mut session =
                Session::open(&self.client, vip).unwrap_or_else(|| panic!("{vip}: session {number} failed"));
            let server = session.ask().unwrap_or_else(|| panic!("{vip}: session {number} was not answered"));
            (session, server)
        };
        // In one thread of that namespace: each new one costs a guest as much as a connection.
        Sessions(self.client.run(|| (0..count).map(open).collect()).unwrap())
    }

    /// Opens new connections, one after the other, in turn with each of the VIPs, while `change`
    /// is under way and `longer`; a dozen at least, however slow the machine is.
    pub fn during(&mut self, vips: &[&str], longer: Duration, change: impl FnOnce(&mut [Node], &[Netns])) -> Tally {
        let (client, over) = (self.client.clone(), AtomicBool::new(false));
        let stream = || {
            let mut tally = Tally::default();
            while !over.load(Ordering::Relaxed) {
                for vip in vips {
                    thread::sleep(BETWEEN);
                    let start = Instant::now();
                    let mut port = None;
                    let asked = Session::try_open(&client, vip, 80).and_then(|mut session| {
                        port = Some(session.port());
                        session.try_ask()
                    });
                    match asked {
                        Ok(server) => *tally.served.entry(server).or_default() += 1,
                        Err(error) => {
                            tally.failed += 1;
                            tally.errors.push(format!("{vip}, port {port:?}: {error} after {:?}", start.elapsed()));
                        }
                    }
                }
            }
            tally
        };
        thread::scope(|scope| {
            let stream = scope.spawn(|| client.run(stream).unwrap());
            let stop = StopAtEnd(&over);
            change(&mut self.nodes, &self.hosts);
            thread::sleep(longer);
            drop(stop);
            stream.join().unwrap()
        })
    }

    /// Runs in a node's namespace.
    pub fn on<T: Send>(&self, node: usize, work: impl FnOnce() -> T + Send) -> T {
        self.hosts[node].run(work).unwrap()
    }
}

/// Between two new connections, so that the nodes get the processor.
const BETWEEN: Duration = Duration::from_millis(3);

/// Says at its end, also where a test fails, that threads are to end.
pub struct StopAtEnd<'a>(pub &'a AtomicBool);

impl Drop for StopAtEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// New connections: how many each server has answered, and how many failed.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Tally {
    pub served: BTreeMap<u8, usize>,
    pub failed: usize,
    pub errors: Vec<String>,
}

impl Tally {
    pub fn servers(&self) -> BTreeSet<u8> {
        self.served.keys().copied().collect()
    }
}

/// Sessions, each with the server that it began with.
pub struct Sessions(pub Vec<(Session, u8)>);

impl Sessions {
    /// How many are answered by the same server as before.
    pub fn kept(&mut self) -> usize {
        self.0.iter_mut().filter_map(|(session, server)| (session.ask()? == *server).then_some(())).count()
    }

    pub fn served(&self) -> BTreeMap<u8, usize> {
        let mut served = BTreeMap::new();
        self.0.iter().for_each(|(_, server)| *served.entry(*server).or_default() += 1);
        served
    }
}

/// The VIPs come to the interface of a host and are announced, as keepalived does it.
pub fn vips_arrive(host: &Netns) {
    let work = || {
        ip_batch(&format!(
            "address add {VIP}/32 dev {INTERFACE}\naddress add {VIP6}/128 dev {INTERFACE} nodad preferred_lft 0\n"
        ));
        let mut vips = Vips::open().unwrap();
        for vip in BOTH {
            vips.announce(vip.parse().unwrap(), INTERFACE, 3).unwrap();
        }
    };
    host.run(work).unwrap();
}

/// The VIPs leave the interface of a host, as keepalived does it.
pub fn vips_leave(host: &Netns) {
    let work = || ip_batch(&format!("address del {VIP}/32 dev {INTERFACE}\naddress del {VIP6}/128 dev {INTERFACE}\n"));
    host.run(work).unwrap();
}

/// Moves the director as keepalived does: the VIPs first, and the notifications 50 ms later, to
/// both nodes at once.
pub fn move_as_keepalived(nodes: &mut [Node], hosts: &[Netns], from: usize, to: usize) {
    vips_leave(&hosts[from]);
    vips_arrive(&hosts[to]);
    thread::sleep(Duration::from_millis(50));
    let [from, to] = nodes.get_disjoint_mut([from, to]).unwrap();
    thread::scope(|scope| {
        scope.spawn(|| to.become_role(Role::Master).unwrap());
        from.become_role(Role::Backup).unwrap();
    });
}

/// Sends the packets for a VIP from the client to this host, whoever announces the VIP.
pub fn steer(client: &Netns, number: u8) {
    let to = mac_text(mac(number));
    let work = || {
        ip_batch(&format!(
            "neigh replace {VIP} lladdr {to} dev {INTERFACE} nud permanent\n\
             neigh replace {VIP6} lladdr {to} dev {INTERFACE} nud permanent\n"
        ));
    };
    client.run(work).unwrap();
}

/// A packet socket on one interface, or on all of the namespace.
pub struct PacketSocket {
    socket: OwnedFd,
    interface: i32,
}

const ETH_P_ALL: u16 = 3;

impl PacketSocket {
    pub fn open(interface: Option<&str>) -> Self {
        let index = interface.map_or(0, |name| nix::net::if_::if_nametoindex(name).unwrap().cast_signed());
        // SAFETY: the descriptor is owned by nobody else; the address and the option outlive the
        // calls.
        unsafe {
            let kind = libc::SOCK_RAW | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
            let fd = libc::socket(libc::AF_PACKET, kind, i32::from(ETH_P_ALL.to_be()));
            assert!(fd >= 0, "a packet socket: {}", io::Error::last_os_error());
            let socket = OwnedFd::from_raw_fd(fd);
            let size: i32 = 8 << 20;
            let option = (&raw const size).cast();
            assert_eq!(libc::setsockopt(fd, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, option, 4), 0);
            if index > 0 {
                let address = Self::address(index);
                let length = size_of::<libc::sockaddr_ll>() as u32;
                assert_eq!(libc::bind(fd, (&raw const address).cast(), length), 0);
            }
            PacketSocket { socket, interface: index }
        }
    }

    fn address(index: i32) -> libc::sockaddr_ll {
        // SAFETY: all of its fields are numbers.
        let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_protocol = ETH_P_ALL.to_be();
        address.sll_ifindex = index;
        address
    }

    /// Sends a frame. Waits while the frames that are on their way fill the socket's buffer.
    pub fn send(&self, frame: &[u8]) {
        let address = Self::address(self.interface);
        loop {
            // SAFETY: frame and address outlive the call.
            let sent = unsafe {
                let length = size_of::<libc::sockaddr_ll>() as u32;
                let fd = self.socket.as_raw_fd();
                libc::sendto(fd, frame.as_ptr().cast(), frame.len(), 0, (&raw const address).cast(), length)
            };
            let error = io::Error::last_os_error();
            match sent {
                -1 if error.kind() == io::ErrorKind::WouldBlock => {
                    let mut writable = [PollFd::new(&self.socket, PollFlags::OUT)];
                    let limit = Timespec { tv_sec: 10, tv_nsec: 0 };
                    assert_eq!(rustix::event::poll(&mut writable, Some(&limit)), Ok(1), "frames are not sent");
                }
                sent => return assert_eq!(sent, frame.len().cast_signed(), "{error}"),
            }
        }
    }

    /// The next frame that came in, and the interface. `None`: there is none yet.
    fn receive(&self) -> Option<(Vec<u8>, i32)> {
        loop {
            let mut frame = vec![0; 2048];
            let mut address = Self::address(0);
            let mut length = size_of::<libc::sockaddr_ll>() as u32;
            // SAFETY: buffer, address and length outlive the call, and are as long as it is told.
            let got = unsafe {
                let fd = self.socket.as_raw_fd();
                libc::recvfrom(fd, frame.as_mut_ptr().cast(), 2048, 0, (&raw mut address).cast(), &raw mut length)
            };
            frame.truncate(usize::try_from(got).ok()?);
            if address.sll_pkttype != libc::PACKET_OUTGOING {
                return Some((frame, address.sll_ifindex));
            }
        }
    }
}

/// A packet with its addresses, as far as a test looks at it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packet {
    pub from_mac: [u8; 6],
    pub to_mac: [u8; 6],
    pub from: IpAddr,
    pub to: IpAddr,
    /// How many routers it has passed, if it began with a TTL of 64.
    pub hops: u8,
    pub protocol: u8,
    /// The transport header and what follows.
    pub content: Vec<u8>,
}

impl Packet {
    fn read(frame: &[u8]) -> Option<Self> {
        let (to_mac, rest) = frame.split_first_chunk::<6>()?;
        let (from_mac, rest) = rest.split_first_chunk::<6>()?;
        let (kind, rest) = rest.split_first_chunk::<2>()?;
        let (ttl, protocol, from, to, content): (u8, u8, IpAddr, IpAddr, &[u8]) = match kind {
            [8, 0] => {
                let head = rest.first_chunk::<20>()?;
                let length = usize::from(u16::from_be_bytes([head[2], head[3]]));
                let from: [u8; 4] = head[12..16].try_into().ok()?;
                let to: [u8; 4] = head[16..20].try_into().ok()?;
                (head[8], head[9], from.into(), to.into(), rest.get(20..length)?)
            }
            [0x86, 0xdd] => {
                let head = rest.first_chunk::<40>()?;
                let length = usize::from(u16::from_be_bytes([head[4], head[5]]));
                let from: [u8; 16] = head[8..24].try_into().ok()?;
                let to: [u8; 16] = head[24..40].try_into().ok()?;
                (head[7], head[6], from.into(), to.into(), rest.get(40..40 + length)?)
            }
            _ => return None,
        };
        Some(Packet {
            from_mac: *from_mac,
            to_mac: *to_mac,
            from,
            to,
            hops: 64_u8.wrapping_sub(ttl),
            protocol,
            content: content.to_vec(),
        })
    }

    /// Ports, sequence number, flags and payload of a TCP segment.
    fn tcp(&self) -> Option<(u16, u16, u32, u8, &[u8])> {
        let head = self.content.first_chunk::<20>().filter(|_| self.protocol == 6)?;
        let short = |at: usize| u16::from_be_bytes([head[at], head[at + 1]]);
        let long = |at: usize| u32::from_be_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
        let payload = self.content.get(usize::from(head[12] >> 4) * 4..)?;
        Some((short(0), short(2), long(4), head[13], payload))
    }
}

/// Everything that passes the switch for a VIP.
pub struct Tap {
    socket: PacketSocket,
    bridge: i32,
}

impl Tap {
    /// In the switch's namespace.
    pub fn open() -> Self {
        let bridge = nix::net::if_::if_nametoindex("br0").unwrap().cast_signed();
        Tap { socket: PacketSocket::open(None), bridge }
    }

    /// The packets for a VIP that have come since the last call.
    pub fn packets(&self) -> Vec<Packet> {
        let mut found = Vec::new();
        while let Some((frame, interface)) = self.socket.receive() {
            let packet = Packet::read(&frame).filter(|packet| BOTH.iter().any(|vip| packet.to.to_string() == *vip));
            found.extend(
                packet.filter(|packet| interface != self.bridge && matches!(packet.protocol, 6 | 17 | 44 | 132)),
            );
        }
        found
    }

    /// No packet has passed more nodes than these, and some have come.
    pub fn assert_hops(&self, most: u8) {
        let packets = self.packets();
        assert!(!packets.is_empty());
        if let Some(packet) = packets.iter().find(|packet| packet.hops > most) {
            panic!("a packet has passed {} nodes: {packet:?}", packet.hops);
        }
    }
}

pub const SYN: u8 = 2;
pub const RST: u8 = 4;
pub const ACK: u8 = 16;
pub const SYN_ACK: u8 = SYN | ACK;

/// A TCP client made by hand: each of its segments goes to the node that the test names.
pub struct Handmade {
    socket: PacketSocket,
    from: SocketAddr,
    vip: SocketAddr,
    next: u32,
    acknowledged: u32,
}

/// A segment that a server has sent.
#[derive(Debug)]
pub struct Answer {
    pub flags: u8,
    /// The number of the host that has sent it.
    pub server: u8,
    pub payload: Vec<u8>,
}

impl Handmade {
    pub fn new(host: &Netns, vip: &str, port: u16) -> Self {
        let socket = host.run(|| PacketSocket::open(Some(INTERFACE))).unwrap();
        let from = SocketAddr::new(address(vip, BY_HAND).parse().unwrap(), port);
        let vip = SocketAddr::new(vip.parse().unwrap(), 80);
        Handmade { socket, from, vip, next: 1000, acknowledged: 0 }
    }

    /// Sends a segment to this host.
    pub fn send(&mut self, to: u8, flags: u8, payload: &[u8]) {
        let segment = self.segment(flags, payload);
        self.send_packet(to, 6, &segment);
    }

    /// The same, in two fragments of an IPv4 packet.
    pub fn send_fragmented(&mut self, to: u8, flags: u8, payload: &[u8]) {
        let segment = self.segment(flags, payload);
        let at = segment.len() / 2 / 8 * 8;
        for (offset, part, more) in [(0, &segment[..at], 0x2000), (at, &segment[at..], 0)] {
            let field = u16::try_from(offset / 8).unwrap() | more;
            self.send_frame(to, [8, 0], &self.ipv4_header(6, part.len(), field), part);
        }
    }

    /// Sends an ICMP error, "fragmentation needed" or "packet too big", about a packet of the
    /// server.
    pub fn send_too_big(&mut self, to: u8, mtu: u16) {
        // What the server has sent: its header, and the first octets of its segment.
        let mut segment = [self.vip.port().to_be_bytes(), self.from.port().to_be_bytes()].concat();
        segment.extend(self.acknowledged.to_be_bytes());
        segment.extend([0; 12]);
        let turned =
            Handmade { socket: PacketSocket::open(None), from: self.vip, vip: self.from, next: 0, acknowledged: 0 };
        match self.vip {
            SocketAddr::V4(_) => {
                let mut message = vec![3, 4, 0, 0, 0, 0];
                message.extend(mtu.to_be_bytes());
                message.extend(turned.ipv4_header(6, 1480, 0x4000));
                message.extend(segment);
                let sum = checksum(&message);
                message[2..4].copy_from_slice(&sum.to_be_bytes());
                self.send_packet(to, 1, &message);
            }
            SocketAddr::V6(_) => {
                let mut message = vec![2, 0, 0, 0, 0, 0];
                message.extend(mtu.to_be_bytes());
                message.extend(turned.ipv6_header(6, 1440));
                message.extend(segment);
                let sum = checksum(&[self.pseudo_header(58, message.len()), message.clone()].concat());
                message[2..4].copy_from_slice(&sum.to_be_bytes());
                self.send_packet(to, 58, &message);
            }
        }
    }

    fn segment(&mut self, flags: u8, payload: &[u8]) -> Vec<u8> {
        let mut segment = Vec::new();
        segment.extend(self.from.port().to_be_bytes());
        segment.extend(self.vip.port().to_be_bytes());
        segment.extend(self.next.to_be_bytes());
        segment.extend(self.acknowledged.to_be_bytes());
        segment.extend([0x50, flags, 0xff, 0xff, 0, 0, 0, 0]);
        segment.extend(payload);
        let sum = checksum(&[self.pseudo_header(6, segment.len()), segment.clone()].concat());
        segment[16..18].copy_from_slice(&sum.to_be_bytes());
        // Servers ignore data in a SYN.
        self.next += if flags & SYN != 0 { 1 } else { u32::try_from(payload.len()).unwrap() };
        segment
    }

    fn send_packet(&self, to: u8, protocol: u8, content: &[u8]) {
        match self.vip {
            SocketAddr::V4(_) => self.send_frame(to, [8, 0], &self.ipv4_header(protocol, content.len(), 0), content),
            SocketAddr::V6(_) => self.send_frame(to, [0x86, 0xdd], &self.ipv6_header(protocol, content.len()), content),
        }
    }

    fn send_frame(&self, to: u8, kind: [u8; 2], header: &[u8], content: &[u8]) {
        let frame = [&mac(to)[..], &mac(1), &kind, header, content].concat();
        self.socket.send(&frame);
    }

    fn addresses(&self) -> Vec<u8> {
        match (self.from.ip(), self.vip.ip()) {
            (IpAddr::V4(from), IpAddr::V4(to)) => [from.octets(), to.octets()].concat(),
            (IpAddr::V6(from), IpAddr::V6(to)) => [from.octets(), to.octets()].concat(),
            _ => unreachable!(),
        }
    }

    fn pseudo_header(&self, protocol: u8, length: usize) -> Vec<u8> {
        let length = u32::try_from(length).unwrap().to_be_bytes();
        [&self.addresses(), &length[..], &[0, 0, 0, protocol]].concat()
    }

    fn ipv4_header(&self, protocol: u8, length: usize, fragment: u16) -> Vec<u8> {
        let length = u16::try_from(20 + length).unwrap().to_be_bytes();
        let fragment = fragment.to_be_bytes();
        let mut header = vec![0x45, 0, length[0], length[1], 7, 7, fragment[0], fragment[1], 64, protocol, 0, 0];
        header.extend(self.addresses());
        let sum = checksum(&header);
        header[10..12].copy_from_slice(&sum.to_be_bytes());
        header
    }

    fn ipv6_header(&self, protocol: u8, length: usize) -> Vec<u8> {
        let length = u16::try_from(length).unwrap().to_be_bytes();
        [&[0x60, 0, 0, 0, length[0], length[1], protocol, 64], &self.addresses()[..]].concat()
    }

    /// The next segment that a server sends to this client.
    pub fn answer(&mut self) -> Option<Answer> {
        let start = Instant::now();
        loop {
            match self.received() {
                None if start.elapsed() > Duration::from_millis(600) => return None,
                None => thread::sleep(Duration::from_millis(1)),
                answer => return answer,
            }
        }
    }

    /// The next segment for this client, of those that have come.
    fn received(&mut self) -> Option<Answer> {
        while let Some((frame, _)) = self.socket.receive() {
            let Some(packet) = Packet::read(&frame) else { continue };
            let Some((from, to, seq, flags, payload)) = packet.tcp() else { continue };
            if (from, to, packet.from) != (self.vip.port(), self.from.port(), self.vip.ip()) {
                continue;
            }
            let length = u32::try_from(payload.len()).unwrap() + u32::from(flags & SYN != 0);
            self.acknowledged = seq.wrapping_add(length);
            return Some(Answer { flags, server: packet.from_mac[5], payload: payload.to_vec() });
        }
        None
    }

    /// Asks by this node for an octet, and returns the next answer that is a reset, or more than
    /// an acknowledgement. What has come before is no answer: a server repeats what this client
    /// has not acknowledged.
    pub fn ask(&mut self, to: u8) -> Option<Answer> {
        while self.received().is_some() {}
        self.send(to, ACK, &[0]);
        loop {
            let answer = self.answer()?;
            if answer.flags & RST != 0 || !answer.payload.is_empty() {
                return Some(answer);
            }
        }
    }

    /// Opens a connection by this node up to the server's answer, and returns which server that
    /// is.
    pub fn begin(&mut self, to: u8) -> u8 {
        self.send(to, SYN, &[]);
        let answer = self.answer().expect("an answer to the SYN");
        assert_eq!(answer.flags, SYN_ACK, "{answer:?}");
        answer.server
    }
}

fn checksum(octets: &[u8]) -> u16 {
    let word = |pair: &[u8]| u32::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]));
    let mut sum: u32 = octets.chunks(2).map(word).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// How many new connections fail while `change` is under way, and how many there were.
pub fn failing_during(client: &Netns, vips: &[&str], change: impl FnOnce()) -> (usize, usize) {
    let over = AtomicBool::new(false);
    let stream = || {
        let (mut failed, mut all) = (0, 0);
        while !over.load(Ordering::Relaxed) {
            thread::sleep(BETWEEN);
            let answered = Session::open(client, vips[all % vips.len()]).and_then(|mut session| session.ask());
            failed += usize::from(answered.is_none());
            all += 1;
        }
        (failed, all)
    };
    thread::scope(|scope| {
        let stream = scope.spawn(|| client.run(stream).unwrap());
        // Also where the change fails: the scope waits for the stream.
        let result = catch_unwind(AssertUnwindSafe(change));
        thread::sleep(Duration::from_millis(300));
        over.store(true, Ordering::Relaxed);
        let counted = stream.join().unwrap();
        result.unwrap_or_else(|panic| resume_unwind(panic));
        counted
    })
}

/// A session, and the server that answers it.
pub fn session(client: &Netns, vip: &str) -> (Session, u8) {
    let mut session = Session::open(client, vip).unwrap();
    let server = session.ask().unwrap();
    (session, server)
}

/// How many are answered by their server.
pub fn kept(sessions: &mut [(Session, u8)]) -> usize {
    sessions.iter_mut().filter_map(|(session, server)| (session.ask()? == *server).then_some(())).count()
}
