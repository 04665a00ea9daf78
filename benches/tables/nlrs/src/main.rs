//! The cases of benches/tables by nlrs.
//!
//! `tables-nlrs SERVICES DESTINATIONS STEP...` carries out each step (`add`, `add-one`, `list`,
//! `flush`) on the table of cases.rs and prints a line `STEP NANOSECONDS` for each.

use std::error::Error;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Instant;

use nlrs::genetlink::socket::{GenericNetlinkSocket, GenericRequestBuilder};
use nlrs::ipvs::destination::{GetDestinationMessageBuilder, IpvsForwardMethod, NewDestinationMessageBuilder};
use nlrs::ipvs::flush::FlushMessageBuilder;
use nlrs::ipvs::service::{GetServiceMessageBuilder, NewServiceMessageBuilder};
use nlrs::ipvs::{IPVS_FAMILY, IpvsService, Protocol};
use nlrs::netlink::socket::{NlSocket, NlSocketType};
use nlrs::socket::NetlinkSocket;

/// nlrs reads a whole dump into one buffer of a fixed size.
const CAPACITY: usize = 64 << 20;

/// Adds a destination of a service. No function: the type of its socket has no short name.
macro_rules! add_destination {
    ($socket:ident, $service:expr, $destination:expr) => {{
        let mut request: NewDestinationMessageBuilder<_> =
            $socket.message_builder((service($service), destination($destination)));
        request.set_forwarding_method(IpvsForwardMethod::DirectRoute);
        request.set_weight(1);
        request.call()?;
    }};
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut words = std::env::args().skip(1);
    let mut number = || words.next().ok_or("a number was expected")?.parse::<u32>().map_err(Box::<dyn Error>::from);
    let (services, destinations) = (number()?, number()?);
    let steps: Vec<String> = words.collect();
    let capacity = if steps.iter().any(|step| step == "list") { CAPACITY } else { 32 << 10 };
    let socket = NlSocket::new(NlSocketType::NETLINK_GENERIC)?;
    let socket = NetlinkSocket::vectored_from_socket_with_capacity(socket, capacity);
    let mut socket = GenericNetlinkSocket::from_netlink_socket(socket, IPVS_FAMILY.to_string())?;
    let mut report = String::new();
    for step in &steps {
        let start = Instant::now();
        match step.as_str() {
            "add" => {
                for i in 0..services {
                    let mut request: NewServiceMessageBuilder<_> = socket.message_builder(service(i));
                    request.sched_name = "wrr".into();
                    request.call()?;
                    for j in 0..destinations {
                        add_destination!(socket, i, j);
                    }
                }
            }
            "add-one" => add_destination!(socket, 0, destinations),
            "list" => {
                let request: GetServiceMessageBuilder<_> = socket.message_builder(());
                let mut found = 0;
                for listed in request.call()? {
                    let id = IpvsService { service_address: listed.service_address, protocol: listed.protocol };
                    let request: GetDestinationMessageBuilder<_> = socket.message_builder(id);
                    found += request.call()?.len();
                }
                if found != (services * destinations) as usize {
                    return Err(format!("{found} destinations were listed").into());
                }
            }
            "flush" => {
                let request: FlushMessageBuilder<_> = socket.message_builder(());
                request.call()?;
            }
            other => return Err(format!("no step is named {other}").into()),
        }
        report += &format!("{step} {}\n", start.elapsed().as_nanos());
    }
    print!("{report}");
    Ok(())
}

fn service(i: u32) -> IpvsService {
    let address = Ipv4Addr::from(u32::from(Ipv4Addr::new(198, 18, 0, 1)) + (i / 250 * 256) + i % 250);
    IpvsService { service_address: (address, 80).into(), protocol: Protocol::TCP }
}

fn destination(i: u32) -> SocketAddr {
    let address = Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 0, 0, 1)) + (i / 250 * 256) + i % 250);
    (address, 80).into()
}
