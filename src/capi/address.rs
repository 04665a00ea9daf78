//! Texts of this library from socket addresses, and back.

use std::ffi::{c_char, c_int};
use std::mem::{MaybeUninit, size_of, zeroed};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};

use libc::{sockaddr, sockaddr_in, sockaddr_in6, sockaddr_storage};

use super::ffi::{Result, Text, copy_text, given, invalid, put};
use super::ipvs::service_id;
use super::status::guard;
use crate::ipvs::{Family, ServiceId};

/// The size of the longest id of a service, and of the longest address with its port, in octets,
/// with the NUL at its end.
pub const LVS_ID_SIZE: usize = 64;
const _: () = assert!("sctp [1111:2222:3333:4444:5555:6666:7777:8888]:65535".len() < LVS_ID_SIZE);

/// Reads a socket address of C's.
///
/// # Safety
/// `address` is NULL, or a structure of the size that belongs to its family.
unsafe fn from_c(address: *const sockaddr) -> Result<SocketAddr> {
    given((!address.is_null()).then_some(()), "address")?;
    // SAFETY: every socket address begins with its family.
    let family = unsafe { (&raw const (*address).sa_family).read_unaligned() };
    match c_int::from(family) {
        libc::AF_INET => {
            // SAFETY: the caller promises the structure of this family.
            let found = unsafe { address.cast::<sockaddr_in>().read_unaligned() };
            let ip = Ipv4Addr::from(found.sin_addr.s_addr.to_ne_bytes());
            Ok(SocketAddrV4::new(ip, u16::from_be(found.sin_port)).into())
        }
        libc::AF_INET6 => {
            // SAFETY: as above.
            let found = unsafe { address.cast::<sockaddr_in6>().read_unaligned() };
            let (ip, port) = (Ipv6Addr::from(found.sin6_addr.s6_addr), u16::from_be(found.sin6_port));
            if found.sin6_scope_id != 0 {
                return Err(invalid(
                    &format!("`address` {ip}"),
                    "IPVS has no scope: a `sin6_scope_id` of 0 was expected",
                ));
            }
            Ok(SocketAddrV6::new(ip, port, 0, 0).into())
        }
        other => Err(invalid(&format!("address family {other}"), "AF_INET or AF_INET6 was expected")),
    }
}

/// A socket address for C; the octets behind it are 0.
fn to_c(address: SocketAddr) -> sockaddr_storage {
    // SAFETY: numbers, of which every pattern of bits is a value.
    let mut storage: sockaddr_storage = unsafe { zeroed() };
    let to = &raw mut storage;
    match address {
        SocketAddr::V4(address) => {
            // SAFETY: as above.
            let mut part: sockaddr_in = unsafe { zeroed() };
            part.sin_family = libc::AF_INET as libc::sa_family_t;
            part.sin_port = address.port().to_be();
            part.sin_addr.s_addr = u32::from_ne_bytes(address.ip().octets());
            // SAFETY: a sockaddr_storage has room for each, and is aligned for each.
            unsafe { to.cast::<sockaddr_in>().write(part) };
        }
        SocketAddr::V6(address) => {
            // SAFETY: as above.
            let mut part: sockaddr_in6 = unsafe { zeroed() };
            part.sin6_family = libc::AF_INET6 as libc::sa_family_t;
            part.sin6_port = address.port().to_be();
            part.sin6_addr.s6_addr = address.ip().octets();
            // SAFETY: as above.
            unsafe { to.cast::<sockaddr_in6>().write(part) };
        }
    }
    storage
}

const _: () = assert!(size_of::<sockaddr_in6>() <= size_of::<sockaddr_storage>());

/// Writes a socket address as the text that this library takes: "192.168.0.11:80",
/// "[2001:db8::11]:80". Does not block.
///
/// `address`: a `struct sockaddr_in` or `struct sockaddr_in6`, in network byte order as ever.
/// `text`: `size` octets, LVS_ID_SIZE are always enough. Fails with LVS_ERR_INVALID for another
/// family and for a `sin6_scope_id`, LVS_ERR_SIZE where the text does not fit.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lvs_address_format(address: *const sockaddr, text: *mut c_char, size: usize) -> c_int {
    guard(|| {
        // SAFETY: a structure and a buffer of C's.
        unsafe { copy_text(&from_c(address)?.to_string(), "text", text, size) }
    })
}

/// Reads an address with its port, as in `struct lvs_destination`, into a socket address.
/// `address`: is set to a `struct sockaddr_in` or `struct sockaddr_in6`. Does not block. Fails with
/// LVS_ERR_INVALID.
#[unsafe(no_mangle)]
pub extern "C" fn lvs_address_parse(text: Text, address: Option<&mut MaybeUninit<sockaddr_storage>>) -> c_int {
    guard(|| {
        let result = given(address, "address")?;
        put(Some(result), to_c(text.socket_address("text")?));
        Ok(())
    })
}

/// Writes the id of a service, as in `struct lvs_service`: "tcp 192.168.0.254:80", "fwmark 1 ipv6".
/// Does not block.
///
/// `mark`: a firewall mark; of `address` only the family counts then, and `protocol` is ignored. 0:
/// the service has none; `protocol` is IPPROTO_TCP, IPPROTO_UDP or IPPROTO_SCTP. `address`, `text`
/// and the errors: as with lvs_address_format().
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lvs_id_format(
    protocol: c_int,
    mark: u32,
    address: *const sockaddr,
    text: *mut c_char,
    size: usize,
) -> c_int {
    guard(|| {
        // SAFETY: a structure of C's.
        let address = unsafe { from_c(address) }?;
        let id = match (mark, protocol) {
            (0, libc::IPPROTO_TCP) => ServiceId::tcp(address),
            (0, libc::IPPROTO_UDP) => ServiceId::udp(address),
            (0, libc::IPPROTO_SCTP) => ServiceId::sctp(address),
            (0, other) => {
                let expected = "IPPROTO_TCP, IPPROTO_UDP or IPPROTO_SCTP was expected";
                return Err(invalid(&format!("`protocol` {other}"), expected));
            }
            (mark, _) => ServiceId::fwmark(mark, Family::of(address.ip()))?,
        };
        // SAFETY: a buffer of C's.
        unsafe { copy_text(&id.to_string(), "text", text, size) }
    })
}

/// Reads the id of a service. Does not block.
///
/// `protocol`: is set to IPPROTO_..., or to 0 for a firewall mark. `mark`: is set to the mark, or
/// to 0. `address`: is set to the address and port; for a firewall mark to the unspecified address
/// of its family. Each may be NULL if it is not needed. Fails with LVS_ERR_INVALID.
#[unsafe(no_mangle)]
pub extern "C" fn lvs_id_parse(
    id: Text,
    protocol: Option<&mut MaybeUninit<c_int>>,
    mark: Option<&mut MaybeUninit<u32>>,
    address: Option<&mut MaybeUninit<sockaddr_storage>>,
) -> c_int {
    guard(|| {
        let id = service_id(id)?;
        let unspecified = match id.family() {
            Family::V4 => SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), 0),
            Family::V6 => SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), 0),
        };
        let (number, found) = match id {
            ServiceId::Tcp(_) => (libc::IPPROTO_TCP, 0),
            ServiceId::Udp(_) => (libc::IPPROTO_UDP, 0),
            ServiceId::Sctp(_) => (libc::IPPROTO_SCTP, 0),
            ServiceId::Fwmark { mark, .. } => (0, mark.get()),
        };
        put(protocol, number);
        put(mark, found);
        put(address, to_c(id.address().unwrap_or(unspecified)));
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capi::status::{LVS_ERR_INVALID, LVS_ERR_NULL, LVS_ERR_SIZE, LVS_OK};
    use std::ffi::{CStr, CString};
    use std::ptr;

    fn format(protocol: c_int, mark: u32, address: &sockaddr_storage, size: usize) -> (c_int, String) {
        let mut text = [0x2a; LVS_ID_SIZE + 1];
        // SAFETY: both have the room that is said.
        let status = unsafe {
            lvs_id_format(protocol, mark, (&raw const *address).cast(), text.as_mut_ptr(), size.min(LVS_ID_SIZE))
        };
        text[LVS_ID_SIZE] = 0;
        // SAFETY: it ends with a NUL.
        (status, unsafe { CStr::from_ptr(text.as_ptr()) }.to_str().unwrap().to_owned())
    }

    #[test]
    fn an_id_is_written_as_it_was_read() {
        let longest = "sctp [1111:2222:3333:4444:5555:6666:7777:8888]:65535";
        for id in ["tcp 192.0.2.1:80", "udp [2001:db8::1]:53", longest, "fwmark 4294967295 ipv6", "fwmark 1"] {
            let text = CString::new(id).unwrap();
            let (mut protocol, mut mark, mut address) =
                (MaybeUninit::uninit(), MaybeUninit::uninit(), MaybeUninit::uninit());
            // SAFETY: the text lives long enough; what is filled is read only then.
            let (protocol, mark, address) = unsafe {
                let status = lvs_id_parse(Text::of(&text), Some(&mut protocol), Some(&mut mark), Some(&mut address));
                assert_eq!(status, LVS_OK);
                (protocol.assume_init(), mark.assume_init(), address.assume_init())
            };
            assert_eq!(format(protocol, mark, &address, LVS_ID_SIZE), (LVS_OK, id.to_owned()));
        }
    }

    #[test]
    fn socket_addresses_are_in_network_byte_order() {
        let storage = to_c("192.0.2.1:80".parse().unwrap());
        // SAFETY: the structure of its family.
        let v4 = unsafe { (&raw const storage).cast::<sockaddr_in>().read() };
        assert_eq!((v4.sin_port, v4.sin_addr.s_addr.to_ne_bytes()), (80_u16.to_be(), [192, 0, 2, 1]));
        let mut text = [0; LVS_ID_SIZE];
        // SAFETY: both have the room that is said.
        let status = unsafe { lvs_address_format((&raw const storage).cast(), text.as_mut_ptr(), text.len()) };
        // SAFETY: it ends with a NUL.
        let text = unsafe { CStr::from_ptr(text.as_ptr()) };
        assert_eq!((status, text), (LVS_OK, c"192.0.2.1:80"));
        let mut read = MaybeUninit::uninit();
        // SAFETY: the text lives long enough.
        assert_eq!(lvs_address_parse(unsafe { Text::new(text.as_ptr()) }, Some(&mut read)), LVS_OK);
        // SAFETY: it was filled.
        assert_eq!(unsafe { from_c((&raw const read).cast()) }.unwrap(), "192.0.2.1:80".parse().unwrap());
    }

    #[test]
    fn what_is_no_id_is_refused() {
        let v4 = to_c("192.0.2.1:80".parse().unwrap());
        let mut unix = v4;
        unix.ss_family = libc::AF_UNIX as libc::sa_family_t;
        let mut scoped = to_c("[fe80::1]:80".parse().unwrap());
        // SAFETY: the structure of its family.
        unsafe { (*(&raw mut scoped).cast::<sockaddr_in6>()).sin6_scope_id = 2 };
        for (protocol, mark, address, size, expected) in [
            (libc::IPPROTO_ICMP, 0, &v4, LVS_ID_SIZE, LVS_ERR_INVALID),
            (libc::IPPROTO_TCP, 0, &unix, LVS_ID_SIZE, LVS_ERR_INVALID),
            (libc::IPPROTO_TCP, 0, &scoped, LVS_ID_SIZE, LVS_ERR_INVALID),
            (libc::IPPROTO_TCP, 0, &v4, "tcp 192.0.2.1:80".len(), LVS_ERR_SIZE),
            (libc::IPPROTO_TCP, 0, &v4, 0, LVS_ERR_SIZE),
        ] {
            let (status, text) = format(protocol, mark, address, size);
            assert_eq!((status, text.len()), (expected, LVS_ID_SIZE), "{text:?} was written to");
        }
        let size = "tcp 192.0.2.1:80".len() + 1;
        assert_eq!(format(libc::IPPROTO_TCP, 0, &v4, size).0, LVS_OK);
        // SAFETY: NULL is allowed.
        assert_eq!(unsafe { lvs_address_format(ptr::null(), ptr::null_mut(), 9) }, LVS_ERR_NULL);
        // SAFETY: as above.
        let no_buffer = unsafe { lvs_address_format((&raw const v4).cast(), ptr::null_mut(), 9) };
        assert_eq!((no_buffer, lvs_address_parse(Text::NULL, None)), (LVS_ERR_NULL, LVS_ERR_NULL));
    }
}
