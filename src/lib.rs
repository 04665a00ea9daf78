//! Linux IPVS in direct-routing mode, for web servers that balance their own load: each node
//! serves, and one of them also directs.
//!
//! | module | what it does |
//! |---|---|
//! | [`ipvs`] | virtual services and destinations, tables with difference and undo, sync daemons, connections, counters |
//! | [`vip`] | places virtual addresses on an interface or on `lo`, and announces them |
//! | [`arp`] | the two ARP settings that hide an address on `lo` |
//! | [`marks`] | marks packets by the MAC address that they come from, with traffic control; neighbours and routes |
//! | [`files`] | replaces files where no other user can interfere |
//! | [`node`] | the role of a node, in the order that loses no session; audit |
//!
//! Each can be used by itself. Changes need `CAP_NET_ADMIN`, announcements `CAP_NET_RAW`. A client
//! belongs to one network namespace, that of the calling thread or a [`Netns`]. Calls block for
//! the time of their system calls unless they say otherwise; no thread goes on running behind
//! them. Every error names the operation, the object and the kernel's errno.
//!
//! ```no_run
//! use lvs_dr::ipvs::{Destination, Ipvs, Scheduler, Service, ServiceId};
//!
//! let mut ipvs = Ipvs::open()?;
//! let web = ServiceId::tcp("192.168.0.254:80".parse()?);
//! ipvs.add_service(&Service::new(web, Scheduler::WRR))?;
//! ipvs.add_destination(&web, &Destination::new("192.168.0.12:80".parse()?).weight(3))?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

#![deny(missing_docs, unsafe_code)]
#![warn(unreachable_pub)]

mod address;
pub mod arp;
mod background;
#[cfg(feature = "capi")]
mod capi;
mod error;
pub mod files;
#[cfg(any(fuzzing, test))]
#[doc(hidden)]
#[allow(missing_docs, unreachable_pub)]
pub mod fuzzing;
mod hmac;
mod interface;
pub mod ipvs;
pub mod marks;
mod netlink;
mod netns;
pub mod node;
#[cfg(feature = "serde")]
mod serialize;
mod sysctl;
pub mod vip;
mod wait;

pub use error::{Cause, Error, Result};
pub use netns::Netns;
