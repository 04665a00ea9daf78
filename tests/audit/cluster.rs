//! A small cluster: nodes that serve, and a client, each a network namespace, on one bridge.

use std::collections::BTreeSet;
use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use lvs_dr::Netns;
use lvs_dr::node::{Config, Node};
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, connect, socket_with};
use rustix::thread::gettid;

use crate::lab::{accept, enter_new_netns, ip, load_ipv6, new_netns};

pub const VIP4: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 254));
pub const VIP6: IpAddr = IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0xfe));
pub const VIPS: [IpAddr; 2] = [VIP4, VIP6];

/// How long a client waits before it takes something for lost: longer than TCP's first repetition.
const PATIENCE: Duration = Duration::from_millis(2000);

/// How soon a server ends.
const REACTION: Duration = Duration::from_millis(50);

/// A node, or the client.
pub struct Host {
    pub name: String,
    pub netns: Netns,
    pub mac: String,
    pub addresses: [IpAddr; 2],
    over: Arc<AtomicBool>,
}

/// A switch, with a client and nodes plugged in. The thread that makes one is where the switch is.
pub struct Cluster {
    pub nodes: Vec<Host>,
    pub client: Host,
}

impl Cluster {
    /// Nodes n1, n2 ... with the addresses 192.0.2.11, 2001:db8::11 and so on, which serve on TCP
    /// port 80; the client has 192.0.2.1.
    pub fn new(count: u8) -> Self {
        load_ipv6();
        enter_new_netns();
        batch("link add br0 type bridge mcast_snooping 0\nlink set br0 up\n");
        let nodes = (1..=count).map(|i| Host::plug(&format!("n{i}"), "bond0", 10 + i)).collect::<Vec<_>>();
        nodes.iter().for_each(Host::serve);
        let client = Host::plug("client", "eth0", 1);
        // These namespaces stay: on Linux 6.1 one that has balanced IPv6 may never end, and keeps
        // everybody waiting (`unregister_netdevice: waiting for bond0 to become free`).
        let of_hosts = nodes.iter().chain([&client]).map(|host| host.netns.clone());
        of_hosts.chain([Netns::current().unwrap()]).for_each(std::mem::forget);
        Cluster { nodes, client }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.nodes.iter().for_each(|node| node.over.store(true, Ordering::Relaxed));
    }
}

impl Host {
    fn plug(name: &str, interface: &str, number: u8) -> Self {
        let netns = new_netns();
        let here = gettid().as_raw_nonzero();
        let mac = format!("02:00:00:00:00:{number:02x}");
        let addresses = [IpAddr::V4(Ipv4Addr::new(192, 0, 2, number)), format!("2001:db8::{number}").parse().unwrap()];
        let [v4, v6] = addresses;
        netns
            .run(|| {
                ip(&format!("link add {interface} address {mac} type veth peer name {name} netns {here}"));
                batch(&format!(
                    "link set {interface} addrgenmode none\naddress add {v4}/24 dev {interface}\nlink set {interface} up\n\
                     address add {v6}/64 dev {interface} nodad\naddress add fe80::{number}/64 dev {interface} nodad\n"
                ));
            })
            .unwrap();
        batch(&format!("link set {name} addrgenmode none\nlink set {name} master br0 up\n"));
        Host { name: name.to_owned(), netns, mac, addresses, over: Arc::default() }
    }

    /// Runs something in this host's namespace.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        self.netns.run(work).unwrap()
    }

    /// Runs a program here, its arguments separated by blanks, and returns what it printed.
    pub fn sh(&self, command: &str) -> String {
        self.run(|| crate::lab::run(command))
    }

    /// `net.ipv4.` and so on, with slashes.
    pub fn sysctl(&self, path: &str, value: &str) {
        self.run(|| std::fs::write(format!("/proc/sys/net/{path}"), value)).unwrap_or_else(|e| panic!("{path}: {e}"));
    }

    pub fn node(&self, config: Config) -> Node {
        Node::open_in(config, self.netns.clone()).unwrap()
    }

    /// Answers whatever it hears on a connection with the node's name.
    fn serve(&self) {
        let listener = self.run(|| TcpListener::bind("[::]:80").unwrap());
        let (name, over) = (format!("{}\n", self.name), self.over.clone());
        thread::spawn(move || {
            while !over.load(Ordering::Relaxed) {
                let name = name.clone();
                accept(&listener, REACTION).map(|stream| thread::spawn(move || answer(stream, &name)));
            }
        });
    }

    /// Answers each UDP packet to this address, which is here already, with the node's name.
    pub fn serve_udp(&self, address: SocketAddr) {
        let socket = self.run(|| UdpSocket::bind(address).unwrap());
        socket.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        let (name, over) = (self.name.clone(), self.over.clone());
        thread::spawn(move || {
            while !over.load(Ordering::Relaxed) {
                if let Ok((_, client)) = socket.recv_from(&mut [0; 64]) {
                    let _ = socket.send_to(name.as_bytes(), client);
                }
            }
        });
    }

    /// Connects, and says who answered.
    pub fn get(&self, address: IpAddr) -> io::Result<String> {
        Session::open(self, address).map(|session| session.server)
    }

    /// A session with this server.
    pub fn session_with(&self, server: &str, address: IpAddr) -> Session {
        let mut sessions = (0..20).map(|_| Session::open(self, address).unwrap());
        sessions.find(|session| session.server == server).unwrap_or_else(|| panic!("{server} was not chosen"))
    }

    /// The Ethernet addresses that answer for this IPv4 address.
    pub fn who_has(&self, address: IpAddr) -> BTreeSet<String> {
        let said = self.run(|| crate::lab::try_run(&format!("arping -I eth0 -c 2 -w 2 {address}")));
        let said = String::from_utf8(said.stdout).unwrap().to_lowercase();
        said.lines().filter_map(|line| Some(line.split_once('[')?.1.split_once(']')?.0.to_owned())).collect()
    }
}

/// Until the client hangs up.
fn answer(mut stream: TcpStream, name: &str) -> io::Result<()> {
    let mut octets = [0; 64];
    while stream.read(&mut octets)? > 0 {
        stream.write_all(name.as_bytes())?;
    }
    Ok(())
}

/// A client's TCP connection.
pub struct Session {
    pub server: String,
    stream: BufReader<TcpStream>,
}

impl Session {
    pub fn open(client: &Host, address: IpAddr) -> io::Result<Self> {
        let mut session = Self::silent(client, address)?;
        session.server = session.ask()?;
        Ok(session)
    }

    /// One that is not used yet: the director has seen the two packets of the handshake.
    pub fn silent(client: &Host, address: IpAddr) -> io::Result<Self> {
        let any = SocketAddr::new(
            if address.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() },
            0,
        );
        Self::open_from(client, any.ip(), address)
    }

    /// From this address of the client.
    pub fn open_from(client: &Host, from: IpAddr, address: IpAddr) -> io::Result<Self> {
        // A port that was used lately may be used again, and IPVS still sends it to the server of
        // that time.
        static CALLS: AtomicU16 = AtomicU16::new(0);
        let port = 20_000 + CALLS.fetch_add(1, Ordering::Relaxed) % 10_000;
        let connect = || -> io::Result<TcpStream> {
            let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
            let socket = socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
            bind(&socket, &SocketAddr::new(from, port))?;
            set_socket_timeout(&socket, Timeout::Send, Some(PATIENCE))?;
            connect(&socket, &SocketAddr::new(address, 80))?;
            Ok(socket.into())
        };
        let stream = client.run(connect)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(Session { server: String::new(), stream: BufReader::new(stream) })
    }

    /// Asks the server for its name once more.
    pub fn ask(&mut self) -> io::Result<String> {
        self.stream.get_mut().write_all(b"?")?;
        self.line()
    }

    /// Sends no more, and waits until the server has seen that and closes the connection.
    pub fn finish(mut self) -> io::Result<()> {
        self.stream.get_ref().shutdown(std::net::Shutdown::Write)?;
        let ended = self.stream.read(&mut [0])?;
        if ended == 0 { Ok(()) } else { Err(ErrorKind::InvalidData.into()) }
    }

    pub fn client(&self) -> SocketAddr {
        self.stream.get_ref().local_addr().unwrap()
    }

    fn line(&mut self) -> io::Result<String> {
        let mut line = String::new();
        match self.stream.read_line(&mut line)? {
            0 => Err(ErrorKind::UnexpectedEof.into()),
            _ => Ok(line.trim_end().to_owned()),
        }
    }
}

/// A client's UDP socket: always the same port.
pub struct Flow(UdpSocket);

impl Flow {
    pub fn open(client: &Host, address: SocketAddr) -> Self {
        Flow::open_from(client, 0, address)
    }

    /// From this port, which a scheduler may hash.
    pub fn open_from(client: &Host, port: u16, address: SocketAddr) -> Self {
        let socket =
            client.run(|| UdpSocket::bind(SocketAddr::new(client.addresses[usize::from(address.is_ipv6())], port)));
        let socket = socket.unwrap();
        client.run(|| socket.connect(address)).unwrap();
        Flow(socket)
    }

    /// Sends a packet, and says who answered within `patience`.
    pub fn ask(&self, patience: Duration) -> io::Result<String> {
        let mut octets = [0; 64];
        // What came too late.
        self.0.set_nonblocking(true)?;
        while self.0.recv(&mut octets).is_ok() {}
        self.0.set_nonblocking(false)?;
        self.0.set_read_timeout(Some(patience))?;
        self.0.send(b"?")?;
        let length = self.0.recv(&mut octets)?;
        Ok(String::from_utf8_lossy(&octets[..length]).into_owned())
    }
}

/// Waits until something is so, at most a quarter of a minute.
pub fn until(what: &str, is_so: impl Fn() -> bool) {
    let end = Instant::now() + Duration::from_secs(15);
    while !is_so() {
        assert!(Instant::now() < end, "not in time: {what}");
        thread::sleep(Duration::from_millis(20));
    }
}

/// Commands for `ip -batch`.
pub fn batch(commands: &str) {
    let mut child = Command::new("ip").args(["-batch", "-"]).stdin(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(commands.as_bytes()).unwrap();
    assert!(child.wait().unwrap().success(), "{commands}");
}
