//! Netlink: one socket type that asks, lists and batches, and sockets for link-layer frames. And
//! two socket options, and bpf(2).
//!
//! With the C ABI, this is the only place that holds `unsafe`. See netlink(7).

mod attribute;
mod bpf;
mod diag;
mod generic;
mod option;
mod packet;
mod process;
mod route;
mod socket;
mod thread;
mod trial;

pub(crate) use attribute::{attributes, number, push_attribute, push_nested, split_attribute, string};
pub(crate) use bpf::{BpfMap, BpfMapKind, BpfProgram, BpfShape};
pub(crate) use diag::{WaitingSocket, waiting_sockets};
#[cfg(any(fuzzing, test))]
pub(crate) use generic::attributes_of;
pub(crate) use generic::{Family as GenericFamily, GenericSocket, Stopped};
pub(crate) use option::{bind_to_interface, read_ipv4_option};
pub(crate) use packet::{
    BROADCAST, ETHER_ARP, ETHER_IPV6, FrameSender, Listening, PacketSockets, arp_request, neighbour_discovery,
};
pub(crate) use process::{Process, Within, killed_are_left};
pub(crate) use route::{Link, RouteClient, RouteMessage, is};
#[cfg(any(fuzzing, test))]
pub(crate) use socket::read_datagram;
pub(crate) use socket::{Failure, Listener, Outcome};
pub(crate) use thread::start_thread;
pub(crate) use trial::Trial;

use std::time::Duration;

/// How long an answer may take. The kernel answers at once, or within the time that loading a
/// module takes.
pub(crate) const TIME_LIMIT: Duration = Duration::from_secs(5);
