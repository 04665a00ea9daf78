//! Linux IPVS in direct-routing mode, for web servers that balance their own load: each node
//! serves, and one of them, the director, also distributes the connections of clients.
//!
//! A director and its servers share a virtual address (VIP). The director holds it on the
//! interface that clients reach; every node holds it on `lo`, hidden from ARP. This crate changes
//! the IPVS table, places the VIP, sets ARP, and takes a node from one role to another in the order
//! that loses no session. It elects no director and checks no server: keepalived, Pacemaker or the
//! calling program does.
//!
//! # Which module
//!
//! | to | use |
//! |---|---|
//! | run a node as a service, beside keepalived | [`node::Supervisor`] |
//! | take on a role, in a program that may wait | [`node::Node`] |
//! | take on roles in a program with a loop of its own | [`node::Driver`] |
//! | find what harms now or at the next failover | [`node::audit`] |
//! | read and change virtual services and destinations, sync daemons, connections, counters | [`ipvs`] |
//! | place virtual addresses on an interface or on `lo`, and announce them | [`vip`] |
//! | read and set the two ARP settings that hide an address on `lo` | [`arp`] |
//! | mark packets by the MAC address that they come from, or by local sockets; neighbours and routes | [`marks`] |
//! | replace files where no other user can interfere | [`files`] |
//!
//! `node` is built on the others. Each of those can be used by itself.
//!
//! # Examples
//!
//! A service with a server:
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
//!
//! A whole table, as ipvsadm-save(8) writes it. The difference is applied in few system calls, and
//! undone where one fails:
//!
//! ```no_run
//! use lvs_dr::ipvs::{Ipvs, Plan, Table};
//!
//! let wanted: Table = std::fs::read_to_string("web.ipvs")?.parse()?;
//! let mut ipvs = Ipvs::open()?;
//! let plan = Plan::between(&ipvs.snapshot()?, &wanted);
//! print!("{plan}");
//! ipvs.apply(&plan)?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! The role of a node. What is in place already is left as it is:
//!
//! ```no_run
//! use lvs_dr::node::{Config, Node, Role};
//!
//! let mut config = Config::new("bond0", ["192.168.0.254".parse()?]);
//! config.services = Some(std::fs::read_to_string("web.ipvs")?.parse()?);
//! let mut node = Node::open(config)?;
//! print!("{}", node.plan(Role::Master)?);
//! node.become_role(Role::Master)?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! The repository has programs in `examples/`: `lvs-node`, the ready program for operators;
//! `ipvsadm`, in place of the program of that name; `demo`, a cluster at work; and programs in C.
//!
//! # Features
//!
//! None is on by default.
//!
//! | feature | what it adds |
//! |---|---|
//! | `serde` | tables and their parts can be serialised and deserialised, tasks, steps and their parts serialised; a supervisor can be recorded |
//! | `log` | steps of roles, and what a supervisor tells, go to the program's logger too, through the crate `log`: failures as errors, warnings, all else as info |
//! | `capi` | the C interface (`include/lvs_dr.h`), for the Makefile; of no use to Rust programs |
//!
//! # Errors
//!
//! All calls return [`Error`]. A message names the operation, the object and the cause, and says
//! what to do where that is known. [`Error::cause`] tells refusals of the kernel apart, which an
//! errno alone does not; [`Error::errno`] has the number, see errno(3). The crate does not panic on
//! what the kernel, a file or a caller passes.
//!
//! # Network namespaces
//!
//! A client belongs to one network namespace: that of the thread that opens it (`open`), or a given
//! [`Netns`] (`open_in`). It stays there, whatever thread uses it. See network_namespaces(7).
//!
//! # Privileges
//!
//! | to | capability |
//! |---|---|
//! | read or change IPVS | `CAP_NET_ADMIN` in the initial user namespace |
//! | change addresses, ARP settings, tc rules | `CAP_NET_ADMIN`, and /proc/sys that can be written |
//! | attach a [`marks::Classifier`] | `CAP_NET_ADMIN`, `CAP_BPF` and `CAP_SYS_ADMIN` in the initial user namespace |
//! | announce a VIP, ask the link for one | `CAP_NET_RAW` |
//! | enter another network namespace | `CAP_SYS_ADMIN` |
//!
//! # Blocking
//!
//! Calls block for the time of their system calls unless they say otherwise. A request to the
//! kernel that is not answered within 5 s is [`Error::NoAnswer`]. A role waits up to 30 s for
//! another process that works on the same node. [`node::Driver`] and [`node::Supervisor`] never
//! wait: they have one descriptor for poll(2), and `dispatch()`. The crate starts threads only to
//! enter another network namespace and for audits; none goes on running behind its call.

#![deny(missing_docs, unsafe_code)]
#![warn(unreachable_pub)]

mod address;
pub mod arp;
mod background;
#[cfg(feature = "capi")]
mod capi;
mod error;
pub mod files;
mod fnv;
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

/// The Rust code of the pages compiles.
#[cfg(doctest)]
mod pages {
    #[doc = include_str!("../README.md")]
    struct Readme;

    #[doc = include_str!("../docs/embedding-rust.md")]
    struct EmbeddingRust;
}

pub use error::{Cause, Error, Result};
pub use netns::Netns;
