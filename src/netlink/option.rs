//! Socket options that rustix does not have. See socket(7).

use std::io;
use std::os::fd::{AsFd, AsRawFd};

/// Binds a socket to the interface with this index: it receives what that interface receives, and
/// sends out of it. Needs Linux 5.0, and before 5.7 `CAP_NET_RAW`.
///
/// The socket stays bound to an interface that is removed: then it receives nothing, and sending
/// fails with `ENODEV`.
pub(crate) fn bind_to_interface(socket: impl AsFd, interface: u32) -> io::Result<()> {
    let index = libc::c_int::try_from(interface).map_err(|_| io::Error::from_raw_os_error(libc::ENODEV))?;
    // SAFETY: the kernel reads as many octets as the length says: those of `index`.
    #[allow(unsafe_code)]
    let done = unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_BINDTOIFINDEX,
            (&raw const index).cast(),
            size_of_val(&index) as libc::socklen_t,
        )
    };
    match done {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Reads an option of a socket of IPv4 into `value`, whose content the kernel reads first: it can
/// hold a question. Returns how many octets the kernel says that it holds now. See getsockopt(2).
pub(crate) fn read_ipv4_option(socket: impl AsFd, option: i32, value: &mut [u8]) -> io::Result<usize> {
    let mut length = libc::socklen_t::try_from(value.len()).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))?;
    // SAFETY: the kernel reads and writes as many octets as the length says: those of `value`.
    #[allow(unsafe_code)]
    let done = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            libc::IPPROTO_IP,
            option,
            value.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    match done {
        0 => Ok(length as usize),
        _ => Err(io::Error::last_os_error()),
    }
}
