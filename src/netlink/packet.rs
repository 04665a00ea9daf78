//! Link-layer frames: what announces a moved address, and what asks the link for an address. See
//! packet(7).

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::ops::Deref;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::io::Errno;
use rustix::net::addr::{SocketAddrArg, SocketAddrLen, SocketAddrOpaque};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, bind, netdevice, recv, sendto, socket_with,
};

pub(crate) const ETHER_ARP: u16 = 0x0806;
pub(crate) const ETHER_IPV6: u16 = 0x86dd;
pub(crate) const BROADCAST: [u8; 6] = [0xff; 6];

/// Sends frames out of the interfaces of one network namespace.
///
/// Its socket is opened with the first frame and kept. Closing a packet socket waits for a grace
/// period of RCU (`packet_release()` in net/packet/af_packet.c), some 10 ms, which a promotion
/// would spend on each announcement.
#[derive(Debug, Default)]
pub(crate) struct FrameSender(Option<OwnedFd>);

impl FrameSender {
    /// Sends `payload` as one frame of this EtherType out of the interface with this index to a
    /// link-layer address of up to 8 octets. The calling thread is in the network namespace. Needs
    /// `CAP_NET_RAW`.
    pub(crate) fn send(
        &mut self,
        interface: u32,
        ether_type: u16,
        destination: &[u8],
        payload: &[u8],
    ) -> io::Result<()> {
        let socket = match self.0.take() {
            Some(socket) => socket,
            // Protocol 0: the socket sends only, and nothing is queued for it to receive.
            None => socket_with(AddressFamily::PACKET, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?,
        };
        send(self.0.insert(socket), &LinkAddress::new(interface, ether_type, destination)?, payload)
    }
}

fn send(socket: &OwnedFd, to: &LinkAddress, payload: &[u8]) -> io::Result<()> {
    let sent = sendto(socket, payload, SendFlags::empty(), to)?;
    match sent == payload.len() {
        true => Ok(()),
        false => Err(io::Error::other(format!("only {sent} of {} bytes were sent", payload.len()))),
    }
}

/// Sockets of one network namespace that ask a link. They are kept for the next question, as
/// closing one takes some 10 ms, see [`FrameSender`]. A kept socket receives no frames until then.
#[derive(Debug, Default)]
pub(crate) struct PacketSockets(Vec<Arc<PacketSocket>>);

impl PacketSockets {
    /// A socket that receives from now on. The kernel passes on only frames whose payload has each
    /// of these octets: (offset, value). The calling thread is in the network namespace. Needs
    /// `CAP_NET_RAW`.
    pub(crate) fn listen(&mut self, interface: &str, ether_type: u16, only: &[(u8, u8)]) -> io::Result<Listening> {
        // The interface may have been deleted, and another one have its name.
        self.0.retain(|socket| Arc::strong_count(socket) > 1 || socket.is_on_its_interface());
        let is_free = |socket: &&Arc<PacketSocket>| {
            Arc::strong_count(socket) == 1
                && socket.ether_type == ether_type
                && netdevice::name_to_index(&socket.socket, interface) == Ok(socket.interface)
        };
        let listening = match self.0.iter().find(is_free) {
            Some(socket) => Listening(Arc::clone(socket)),
            None => {
                let socket = Arc::new(PacketSocket::open(interface, ether_type)?);
                self.0.push(Arc::clone(&socket));
                Listening(socket)
            }
        };
        listening.forget()?;
        attach_filter(&listening.socket, Some(only))?;
        Ok(listening)
    }
}

/// A socket that receives until this is dropped.
#[derive(Debug)]
pub(crate) struct Listening(Arc<PacketSocket>);

impl Deref for Listening {
    type Target = PacketSocket;

    fn deref(&self) -> &PacketSocket {
        &self.0
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        // Without it the queue fills up to its limit.
        let _ = attach_filter(&self.socket, None);
    }
}

/// A socket that sends frames of one EtherType out of one interface and receives those that arrive
/// there. Its own frames are not received.
#[derive(Debug)]
pub(crate) struct PacketSocket {
    socket: OwnedFd,
    interface: u32,
    ether_type: u16,
}

impl PacketSocket {
    /// Opens a socket in the calling thread's network namespace, which receives nothing yet.
    fn open(interface: &str, ether_type: u16) -> io::Result<Self> {
        // Protocol 0: nothing is received before the filter is there.
        let socket = socket_with(AddressFamily::PACKET, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
        let index = netdevice::name_to_index(&socket, interface)?;
        attach_filter(&socket, None)?;
        bind(&socket, &LinkAddress::new(index, ether_type, &[])?)?;
        Ok(PacketSocket { socket, interface: index, ether_type })
    }

    /// Not that of one whose interface was deleted.
    fn is_on_its_interface(&self) -> bool {
        LinkAddress::of(&self.socket).is_ok_and(|LinkAddress(own)| own.sll_ifindex == self.interface as i32)
    }

    /// The interface's own address. The error is its type, `ARPHRD_...` in linux/if_arp.h, where
    /// it is no Ethernet interface.
    pub(crate) fn ethernet_address(&self) -> io::Result<Result<[u8; 6], u16>> {
        let LinkAddress(own) = LinkAddress::of(&self.socket)?;
        let address = own.sll_addr.first_chunk::<6>().filter(|_| own.sll_halen == 6);
        let is_ethernet = own.sll_hatype == libc::ARPHRD_ETHER;
        Ok(address.filter(|_| is_ethernet).copied().ok_or(own.sll_hatype))
    }

    /// The interface's index.
    pub(crate) fn interface(&self) -> u32 {
        self.interface
    }

    pub(crate) fn send(&self, destination: &[u8], payload: &[u8]) -> io::Result<()> {
        send(&self.socket, &LinkAddress::new(self.interface, self.ether_type, destination)?, payload)
    }

    /// Drops what the last question has left, and the error of an interface that was switched off.
    fn forget(&self) -> io::Result<()> {
        let mut failed = false;
        loop {
            match self.receive(&mut [0]) {
                Ok(None) => return Ok(()),
                Err(error) if std::mem::replace(&mut failed, true) => return Err(error),
                _ => {}
            }
        }
    }

    /// Receives the payload of one frame and returns its length, at most the buffer's. `None`:
    /// there is none. Does not wait.
    pub(crate) fn receive(&self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        loop {
            match recv(&self.socket, &mut *buffer, RecvFlags::DONTWAIT) {
                Ok((length, _)) => return Ok(Some(length)),
                Err(Errno::AGAIN) => return Ok(None),
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

impl AsFd for PacketSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// `None`: no frame passes.
fn attach_filter(socket: &OwnedFd, only: Option<&[(u8, u8)]>) -> io::Result<()> {
    let instruction =
        |code: u32, jump_if_not: u8, k: u32| libc::sock_filter { code: code as u16, jt: 0, jf: jump_if_not, k };
    let mut program = Vec::new();
    let comparisons = only.unwrap_or_default();
    for (number, &(offset, value)) in comparisons.iter().enumerate() {
        program.push(instruction(libc::BPF_LD | libc::BPF_B | libc::BPF_ABS, 0, offset.into()));
        // Over the rest of the comparisons and the instruction that accepts.
        let to_the_end = 2 * (comparisons.len() - 1 - number) + 1;
        program.push(instruction(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, to_the_end as u8, value.into()));
    }
    if only.is_some() {
        program.push(instruction(libc::BPF_RET | libc::BPF_K, 0, u32::MAX));
    }
    program.push(instruction(libc::BPF_RET | libc::BPF_K, 0, 0));
    let filter = libc::sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
    // SAFETY: the pointer is to a whole `sock_fprog` whose instructions outlive the call, with its
    // own size; the kernel copies both.
    #[allow(unsafe_code)]
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ATTACH_FILTER,
            (&raw const filter).cast(),
            size_of::<libc::sock_fprog>() as libc::socklen_t,
        )
    };
    match result {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
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

    /// The name of a bound socket: its interface's index, type and address.
    fn of(socket: &OwnedFd) -> io::Result<Self> {
        let mut name = LinkAddress::new(0, 0, &[])?;
        let mut length = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
        // SAFETY: both pointers are to values that outlive the call, and `length` is the size of
        // the first.
        #[allow(unsafe_code)]
        let result = unsafe { libc::getsockname(socket.as_raw_fd(), (&raw mut name.0).cast(), &raw mut length) };
        match result {
            0 => Ok(name),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

// SAFETY: the pointer is to a whole `sockaddr_ll` that outlives the call, with its own size.
#[allow(unsafe_code)]
unsafe impl SocketAddrArg for LinkAddress {
    unsafe fn with_sockaddr<R>(&self, f: impl FnOnce(*const SocketAddrOpaque, SocketAddrLen) -> R) -> R {
        f((&raw const self.0).cast(), size_of::<libc::sockaddr_ll>() as SocketAddrLen)
    }
}

/// An ARP request for the target's link-layer address (RFC 826).
pub(crate) fn arp_request(mac: [u8; 6], sender: Ipv4Addr, target: Ipv4Addr) -> Vec<u8> {
    const ETHERNET: [u8; 2] = [0, 1];
    const IPV4: [u8; 2] = [8, 0];
    const LENGTHS: [u8; 2] = [6, 4];
    const REQUEST: [u8; 2] = [0, 1];
    [&ETHERNET[..], &IPV4, &LENGTHS, &REQUEST, &mac, &sender.octets(), &[0; 6], &target.octets()].concat()
}

/// An IPv6 packet of neighbour discovery with this ICMPv6 message, whose checksum (octets 2 and 3,
/// zero before) is set here. The message has an even number of octets.
pub(crate) fn neighbour_discovery(source: Ipv6Addr, destination: Ipv6Addr, mut message: Vec<u8>) -> Vec<u8> {
    const ICMPV6: u8 = 58;
    let (source, destination) = (source.octets(), destination.octets());
    let length = message.len() as u16;
    // The pseudo header that is summed too: RFC 8200, section 8.1.
    let pseudo = [&source[..], &destination, &u32::from(length).to_be_bytes(), &[0, 0, 0, ICMPV6], &message].concat();
    message[2..4].copy_from_slice(&checksum(&pseudo).to_be_bytes());

    const VERSION_6: [u8; 4] = [0x60, 0, 0, 0];
    // Neighbours ignore a message with less: it could come from another link.
    const HOP_LIMIT: u8 = 255;
    [&VERSION_6[..], &length.to_be_bytes(), &[ICMPV6, HOP_LIMIT], &source, &destination, &message].concat()
}

/// The Internet checksum (RFC 1071) of an even number of octets.
fn checksum(octets: &[u8]) -> u16 {
    let mut sum: u32 = octets.chunks_exact(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksums() {
        // The example of RFC 1071, section 3.
        assert_eq!(checksum(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]), !0xddf2);
        assert_eq!(checksum(&[0xff; 40]), 0);
    }
}
