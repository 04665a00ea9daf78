//! The tables that are measured. The same addresses are in floor.c and nlrs/src/main.rs.

use std::io::{Result, Write};
use std::net::Ipv4Addr;

/// Writes the text of services on an address each, with wrr and weights of 1.
pub(crate) fn write(to: &mut impl Write, services: u32, destinations: u32) -> Result<()> {
    for i in 0..services {
        writeln!(to, "-A -t {}:80 -s wrr", service_address(i))?;
        for j in 0..destinations {
            writeln!(to, "{}", destination_line(i, j))?;
        }
    }
    to.flush()
}

/// Writes the text of services on the ports of one address from 1 on.
pub(crate) fn write_ports(to: &mut impl Write, vip: Ipv4Addr, services: u32, destinations: u32) -> Result<()> {
    for port in 1..=services {
        writeln!(to, "-A -t {vip}:{port} -s wrr")?;
        for j in 0..destinations {
            writeln!(to, "-a -t {vip}:{port} -r {}:{port} -g -w 1", numbered(Ipv4Addr::new(192, 0, 2, 11), j))?;
        }
    }
    to.flush()
}

/// Returns the line of one destination.
pub(crate) fn destination_line(service: u32, destination: u32) -> String {
    let address = numbered(Ipv4Addr::new(10, 0, 0, 1), destination);
    format!("-a -t {}:80 -r {address}:80 -g -w 1", service_address(service))
}

fn service_address(i: u32) -> Ipv4Addr {
    numbered(Ipv4Addr::new(198, 18, 0, 1), i)
}

/// The address number `i` from `first` on, 250 in each /24.
fn numbered(first: Ipv4Addr, i: u32) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(first) + i / 250 * 256 + i % 250)
}
