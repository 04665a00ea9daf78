//! Link-layer frames: what announces a moved address. See packet(7).

use std::io;

use rustix::net::addr::{SocketAddrArg, SocketAddrLen, SocketAddrOpaque};
use rustix::net::{AddressFamily, SendFlags, SocketFlags, SocketType, sendto, socket_with};

/// Sends `payload` as one frame of this EtherType out of the interface with this index, from the calling thread's network
/// namespace, to a link-layer address of up to 8 octets. Needs `CAP_NET_RAW`.
pub(crate) fn send_frame(interface: u32, ether_type: u16, destination: &[u8], payload: &[u8]) -> io::Result<()> {
    // Protocol 0: the socket sends only, and nothing is queued for it to receive.
    let socket = socket_with(AddressFamily::PACKET, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
    let sent = sendto(&socket, payload, SendFlags::empty(), &LinkAddress::new(interface, ether_type, destination)?)?;
    match sent == payload.len() {
        true => Ok(()),
        false => Err(io::Error::other(format!("only {sent} of {} bytes were sent", payload.len()))),
    }
}

struct LinkAddress(libc::sockaddr_ll);

impl LinkAddress {
    fn new(interface: u32, ether_type: u16, address: &[u8]) -> io::Result<Self> {
        let mut octets = [0; 8];
        octets
            .get_mut(..address.len())
            .ok_or_else(|| {
                io::Error::new(io::ErrorKind::InvalidInput, "a link-layer address has at most 8 octets here")
            })?
            .copy_from_slice(address);
        Ok(LinkAddress(libc::sockaddr_ll {
            sll_family: libc::AF_PACKET as u16,
            sll_protocol: ether_type.to_be(),
            sll_ifindex: i32::try_from(interface).map_err(|_| io::Error::from_raw_os_error(libc::ENODEV))?,
            sll_hatype: 0,
            sll_pkttype: 0,
            sll_halen: address.len() as u8,
            sll_addr: octets,
        }))
    }
}

// SAFETY: the pointer is to a whole `sockaddr_ll` that outlives the call, with its own size.
#[allow(unsafe_code)]
unsafe impl SocketAddrArg for LinkAddress {
    unsafe fn with_sockaddr<R>(&self, f: impl FnOnce(*const SocketAddrOpaque, SocketAddrLen) -> R) -> R {
        f((&raw const self.0).cast(), size_of::<libc::sockaddr_ll>() as SocketAddrLen)
    }
}
