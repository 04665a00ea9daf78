//! SCTP with the fence `marks`: associations of the kernel's own SCTP, new ones and through a move
//! of the director.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::{IpAddr, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::thread;
use std::time::Duration;

use lvs_dr::Netns;
use lvs_dr::node::{Config, Role, VipOwner};

use crate::lab::{ip, ipvsadm, run};
use crate::lan::{BOTH, Cluster, NODES, Tap, services, vips_arrive, vips_leave};

const SCTP: i32 = 132;

/// A one-to-one socket, bound to this address or connected to it.
fn socket(host: &Netns, address: &str, serves: bool) -> io::Result<OwnedFd> {
    let address: IpAddr = address.parse().unwrap();
    let open = || {
        // SAFETY: the descriptor is owned by nobody else; the addresses outlive the calls.
        unsafe {
            let family = if address.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
            let fd = libc::socket(family, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, SCTP);
            if fd < 0 {
                return Err(io::Error::last_os_error());
            }
            let socket = OwnedFd::from_raw_fd(fd);
            let limit = libc::timeval { tv_sec: 4, tv_usec: 0 };
            if !serves {
                for option in [libc::SO_RCVTIMEO, libc::SO_SNDTIMEO] {
                    libc::setsockopt(
                        fd,
                        libc::SOL_SOCKET,
                        option,
                        (&raw const limit).cast(),
                        size_of_val(&limit) as u32,
                    );
                }
            }
            let call = if serves { libc::bind } else { libc::connect };
            let done = match address {
                IpAddr::V4(address) => {
                    let mut name: libc::sockaddr_in = std::mem::zeroed();
                    name.sin_family = libc::AF_INET as u16;
                    name.sin_port = 80_u16.to_be();
                    name.sin_addr.s_addr = u32::from_ne_bytes(address.octets());
                    call(fd, (&raw const name).cast(), size_of_val(&name) as u32)
                }
                IpAddr::V6(address) => {
                    let mut name: libc::sockaddr_in6 = std::mem::zeroed();
                    name.sin6_family = libc::AF_INET6 as u16;
                    name.sin6_port = 80_u16.to_be();
                    name.sin6_addr.s6_addr = address.octets();
                    call(fd, (&raw const name).cast(), size_of_val(&name) as u32)
                }
            };
            if done < 0 || serves && libc::listen(fd, 64) < 0 { Err(io::Error::last_os_error()) } else { Ok(socket) }
        }
    };
    host.run(open).unwrap()
}

/// Serves on the VIPs: answers each octet by the host's own number. A server that is bound to any
/// address tells clients of its own one.
fn serve_sctp(host: &Netns, number: u8) {
    for vip in BOTH {
        let listener = TcpListener::from(socket(host, vip, true).unwrap());
        thread::spawn(move || {
            loop {
                // SAFETY: the descriptor is owned by nobody else.
                let got = unsafe {
                    let fd = libc::accept(listener.as_raw_fd(), std::ptr::null_mut(), std::ptr::null_mut());
                    if fd < 0 {
                        break;
                    }
                    OwnedFd::from_raw_fd(fd)
                };
                let mut stream = TcpStream::from(got);
                thread::spawn(move || {
                    let mut octet = [0];
                    while stream.read_exact(&mut octet).is_ok() && stream.write_all(&[number]).is_ok() {}
                });
            }
        });
    }
}

/// An association, and the number of its server.
type Association = (TcpStream, u8);

fn ask(stream: &mut TcpStream) -> Option<u8> {
    let mut octet = [0];
    stream.write_all(&[0]).ok()?;
    stream.read_exact(&mut octet).ok()?;
    Some(octet[0])
}

fn cluster() -> Cluster {
    run("modprobe sctp");
    let of_keepalived = |config: &mut Config| config.vip_owner = VipOwner::Keepalived;
    let cluster = Cluster::new(&services("wrr").replace("-t ", "--sctp-service "), of_keepalived);
    cluster.hosts.iter().zip(NODES).for_each(|(host, number)| serve_sctp(host, number));
    cluster
}

/// Opens associations, in turn with each of the VIPs.
fn associations(cluster: &Cluster, count: usize) -> Vec<Association> {
    let open = |number: usize| {
        let vip = BOTH[number % 2];
        let mut stream = TcpStream::from(socket(&cluster.client, vip, false).unwrap());
        let server = ask(&mut stream).unwrap_or_else(|| panic!("{vip}: association {number} was not answered"));
        (stream, server)
    };
    (0..count).map(open).collect()
}

/// How many associations of each server are answered by it.
fn kept(all: &mut [Association]) -> BTreeMap<u8, usize> {
    let mut kept = BTreeMap::new();
    for (stream, server) in all {
        *kept.entry(*server).or_default() += usize::from(ask(stream) == Some(*server));
    }
    kept
}

fn each(count: usize) -> BTreeMap<u8, usize> {
    NODES.map(|number| (number, count)).into()
}

/// New associations spread over all nodes, and established ones are kept: in an orderly move also
/// those that were just opened; where the VIP moves before any node is notified, and in a crash,
/// those that the sync daemon has sent.
#[test]
fn associations_spread_and_outlive_moves() {
    let mut cluster = cluster();
    let tap = Tap::open();
    let mut all = associations(&cluster, 60);
    assert_eq!(kept(&mut all), each(20));
    cluster.take_on(1, Role::Master);
    vips_leave(&cluster.hosts[0]);
    vips_arrive(&cluster.hosts[1]);
    cluster.take_on(0, Role::Backup);
    assert_eq!(kept(&mut all), each(20));
    all.extend(associations(&cluster, 18));
    assert_eq!(kept(&mut all), each(26));
    thread::sleep(Duration::from_millis(3500));

    vips_leave(&cluster.hosts[1]);
    vips_arrive(&cluster.hosts[2]);
    assert_eq!(kept(&mut all), each(26));
    all.extend(associations(&cluster, 18));
    cluster.take_on(2, Role::Master);
    cluster.take_on(1, Role::Backup);
    assert_eq!(kept(&mut all), each(32));
    thread::sleep(Duration::from_millis(3500));
    tap.assert_hops(1);

    ip("link set port13 down");
    vips_arrive(&cluster.hosts[0]);
    cluster.take_on(0, Role::Master);
    all.retain(|(_, server)| *server != 13);
    assert_eq!(kept(&mut all), [(11, 32), (12, 32)].into());
}

/// There is no rule 1 for SCTP: flower does not see which chunk a packet has. An association that
/// the sync daemon has not sent, and that speaks at the new director before the former one is
/// notified, is aborted there, unless the new director is its server.
#[test]
fn an_association_that_was_not_sent_is_aborted_at_another_director() {
    let cluster = cluster();
    cluster.on(0, || ipvsadm("--stop-daemon master"));
    let mut all = associations(&cluster, 18);
    vips_leave(&cluster.hosts[0]);
    vips_arrive(&cluster.hosts[1]);
    assert_eq!(kept(&mut all), [(11, 0), (12, 6), (13, 0)].into());
    // New ones are served at once.
    assert_eq!(kept(&mut associations(&cluster, 18)), each(6));
}
