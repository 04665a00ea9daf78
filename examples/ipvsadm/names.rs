//! Names of hosts and ports. Of the ways that nsswitch.conf(5) knows, ports use the file
//! /etc/services only.

use std::cell::{OnceCell, RefCell};
use std::collections::HashMap;
use std::ffi::CStr;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, ToSocketAddrs};

use super::values::Protocol;

/// What was looked up. Each thing is asked for once.
#[derive(Default)]
pub struct Names {
    ports: OnceCell<Vec<PortName>>,
    hosts: RefCell<HashMap<IpAddr, Option<String>>>,
}

/// A name in /etc/services: of several for one port the first is the canonical one.
struct PortName {
    name: String,
    port: u16,
    protocol: String,
}

impl Names {
    /// The first IPv4 address of a host.
    pub fn host(&self, name: &[u8]) -> Option<Ipv4Addr> {
        let name = std::str::from_utf8(name).ok()?;
        (name, 0).to_socket_addrs().ok()?.find_map(|address| match address.ip() {
            IpAddr::V4(address) => Some(address),
            IpAddr::V6(_) => None,
        })
    }

    pub fn port(&self, name: &[u8], protocol: Protocol) -> Option<u16> {
        let protocol = protocol.name();
        let found = self.ports().iter().find(|known| known.name.as_bytes() == name && known.protocol == protocol);
        found.map(|known| known.port)
    }

    pub fn name_of_port(&self, port: u16, protocol: Protocol) -> Option<&str> {
        let protocol = protocol.name();
        self.ports().iter().find(|known| known.port == port && known.protocol == protocol).map(|known| &*known.name)
    }

    fn ports(&self) -> &[PortName] {
        self.ports.get_or_init(|| {
            let text = std::fs::read("/etc/services").unwrap_or_default();
            String::from_utf8_lossy(&text).lines().flat_map(port_names).collect()
        })
    }

    pub fn name_of_host(&self, address: IpAddr) -> Option<String> {
        self.hosts.borrow_mut().entry(address).or_insert_with(|| look_up(address)).clone()
    }
}

/// `http  80/tcp  www  # comment`
fn port_names(line: &str) -> Vec<PortName> {
    let read = || {
        let mut words = line.split('#').next()?.split_ascii_whitespace();
        let name = words.next()?;
        let (port, protocol) = words.next()?.split_once('/')?;
        let port = port.parse().ok()?;
        let entry = |name: &str| PortName { name: name.to_owned(), port, protocol: protocol.to_owned() };
        Some(std::iter::once(name).chain(words).map(entry).collect())
    };
    read().unwrap_or_default()
}

/// The canonical name of a host. The standard library cannot ask for it.
fn look_up(address: IpAddr) -> Option<String> {
    let mut name = [0u8; 1025]; // NI_MAXHOST
    let address = rustix::net::SocketAddrAny::from(SocketAddr::new(address, 0));
    // SAFETY: both buffers are as long as is said, and live until the call is over.
    let code = unsafe {
        libc::getnameinfo(
            address.as_ptr().cast(),
            address.addr_len(),
            name.as_mut_ptr().cast(),
            name.len() as libc::socklen_t,
            std::ptr::null_mut(),
            0,
            libc::NI_NAMEREQD,
        )
    };
    if code != 0 {
        return None;
    }
    CStr::from_bytes_until_nul(&name).ok().map(|name| name.to_string_lossy().into_owned())
}
