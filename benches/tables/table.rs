//! The tables that are measured. The same addresses are in floor.c and nlrs/src/main.rs.

use std::fmt::Write;
use std::net::Ipv4Addr;

/// Returns the text of services on an address each, with wrr and weights of 1.
pub(crate) fn text(services: u32, destinations: u32) -> String {
    let mut text = String::new();
    for i in 0..services {
        let _ = writeln!(text, "-A -t {}:80 -s wrr", address(Ipv4Addr::new(198, 18, 0, 1), i));
        for j in 0..destinations {
            let _ = writeln!(text, "{}", destination_line(i, j));
        }
    }
    text
}

/// Returns the text of services on the ports of one address from 1 on.
pub(crate) fn text_of(vip: Ipv4Addr, services: u32, destinations: u32) -> String {
    let mut text = String::new();
    for port in 1..=services {
        let _ = writeln!(text, "-A -t {vip}:{port} -s wrr");
        for j in 0..destinations {
            let destination = address(Ipv4Addr::new(192, 0, 2, 11), j);
            let _ = writeln!(text, "-a -t {vip}:{port} -r {destination}:{port} -g -w 1");
        }
    }
    text
}

/// Returns the line of one destination.
pub(crate) fn destination_line(service: u32, destination: u32) -> String {
    let service = address(Ipv4Addr::new(198, 18, 0, 1), service);
    format!("-a -t {service}:80 -r {}:80 -g -w 1", address(Ipv4Addr::new(10, 0, 0, 1), destination))
}

/// The address number `i` from `first` on, 250 in each /24.
fn address(first: Ipv4Addr, i: u32) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(first) + i / 250 * 256 + i % 250)
}
