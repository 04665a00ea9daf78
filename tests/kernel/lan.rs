//! Hosts on one link: the test's own namespace is the switch.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use lvs_dr::Netns;

use crate::lab::{cable, enter_new_netns, ip, keep, load_ipv6, new_netns};

/// The interface of each host.
pub const INTERFACE: &str = "bond0";
pub const VIP: &str = "192.0.2.254";
pub const VIP6: &str = "2001:db8::fe";

/// Enters a new namespace that is the switch.
pub fn enter_switch() {
    enter_new_netns();
    keep(&Netns::current().unwrap());
    load_ipv6();
    ip("link add br0 type bridge mcast_snooping 0 forward_delay 0");
    ip("link set br0 up");
}

/// A host on it: 192.0.2.NUMBER and 2001:db8::NUMBER.
pub fn host(number: u8) -> Netns {
    let netns = new_netns();
    keep(&netns);
    let port = format!("port{number}");
    cable(&port, &format!("02:00:00:00:01:{number:02x}"), &netns, INTERFACE);
    ip(&format!("link set {port} master br0"));
    let configure = || {
        ip(&format!("address add 192.0.2.{number}/24 dev {INTERFACE}"));
        ip(&format!("address add 2001:db8::{number}/64 dev {INTERFACE} nodad"));
    };
    netns.run(configure).unwrap();
    netns
}

/// Puts both VIPs on an interface of the host: `lo`, where ARP keeps quiet about it, or [`INTERFACE`].
pub fn add_vips(host: &Netns, interface: &str) {
    let scope = if interface == "lo" { "scope host" } else { "" };
    let add = || {
        if interface == "lo" {
            for (setting, value) in [("arp_ignore", "1"), ("arp_announce", "2")] {
                std::fs::write(format!("/proc/sys/net/ipv4/conf/{INTERFACE}/{setting}"), value).unwrap();
            }
        }
        ip(&format!("address add {VIP}/32 dev {interface} {scope}"));
        ip(&format!("address add {VIP6}/128 dev {interface} nodad preferred_lft 0"));
    };
    host.run(add).unwrap();
}

/// Serves on port 80 of any address: answers each octet by the host's own number, until the client hangs up.
pub fn serve(host: &Netns, number: u8) {
    let listener = host.run(|| TcpListener::bind("[::]:80").unwrap()).unwrap();
    std::thread::spawn(move || {
        while let Ok((stream, _)) = listener.accept() {
            std::thread::spawn(move || answer(stream, number));
        }
    });
}

fn answer(mut stream: TcpStream, number: u8) {
    let mut octet = [0];
    while stream.read_exact(&mut octet).is_ok() && stream.write_all(&[number]).is_ok() {}
}

/// A session of the host with a service: which server answers. `None`: none did, or the connection broke.
pub struct Session(TcpStream);

impl Session {
    pub fn open(host: &Netns, vip: &str) -> Option<Self> {
        let to = SocketAddr::new(vip.parse::<IpAddr>().unwrap(), 80);
        let stream = host.run(|| TcpStream::connect_timeout(&to, Duration::from_secs(3))).unwrap().ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(3))).unwrap();
        stream.set_nodelay(true).unwrap();
        Some(Session(stream))
    }

    pub fn ask(&mut self) -> Option<u8> {
        let mut octet = [0];
        self.0.write_all(&[0]).ok()?;
        self.0.read_exact(&mut octet).ok()?;
        Some(octet[0])
    }
}
