//! Marks packets by where they come from: rules of traffic control (tc) that set the firewall mark
//! of what arrives for a VIP.
//!
//! An IPVS service of a firewall mark takes the packets that bear the mark and belong to no known
//! connection. A [`Rule`] gives packets for a VIP that mark as they arrive on an interface, before
//! netfilter and IPVS see them.
//!
//! | [`Packets`], each overrides those above it | matches |
//! |---|---|
//! | [`Later`](Packets::Later) | TCP without SYN, to one port or any |
//! | [`From`](Packets::From) | every packet of a source MAC address |
//! | [`Opening`](Packets::Opening) | TCP with SYN and without ACK |
//!
//! - All rules of one mark and family on an interface are one filter at its ingress hook: a `bpf`
//!   filter, whose program (classic BPF) the kernel checks and compiles, with one `skbedit`
//!   action, which a packet meets at most once. `tc -s filter show dev eth0 ingress` shows the
//!   program as numbers, the mark, and how many packets got it; [`Marks::observe`] shows the
//!   rules. See tc-bpf(8), tc-skbedit(8), and the kernel's net/sched/cls_bpf.c, act_skbedit.c and
//!   sch_ingress.c.
//! - A rule that is added or removed replaces the filter's program in one step. No packet is
//!   without its mark meanwhile. Rules that are too many for one program (some 1000 MAC addresses)
//!   take several.
//! - The priority of the filters is 306 for IPv4 and 307 for IPv6. Each action ends with
//!   `continue`, so that later filters are tried too, those of other programs included. Filters of
//!   a lower priority number see packets before, filters of a higher one after they are marked.
//! - A packet that bears the mark of a rule that overrides another one is left alone by the
//!   latter, whichever program set the mark.
//! - Put a rule on the interface that carries the VIP's subnet: on `eth0.100` for a VLAN, on
//!   `bond0` and not on its slaves. For a macvlan, put it on the lower interface; the mark stays
//!   with the packet.
//! - A fragment has neither ports nor flags: prefer [`Packets::Later`] without a port.
//! - The filters are marked `skip_hw`: a network card does not carry them out.
//!
//! # The classifier
//!
//! Where all services are scheduled by `mh`, one BPF program can take the place of rules: a
//! [`Classifier`] asks for a local socket of each TCP packet, and lets nodes pass packets on that
//! are not theirs, so that sessions outlive changes of the servers without a sync daemon. It takes
//! more privileges and a newer kernel than rules do; [`classifier_supported`] tries it.
//!
//! # What is ours
//!
//! A filter is ours if its action bears our cookie (`lvs-dr`, then the owner's number) and its
//! program is, to the last instruction, the one of its rules. Filters in the form of an earlier
//! version (`flower`, priorities 300 to 305) are [`Observed::outdated`]: a [`Plan`] adds what is
//! wanted of them anew before it removes them. A classifier is ours if its name (`lvs-dr`, the
//! owner's number, a fingerprint of the program) says so. Two programs that use different owner
//! numbers in one network namespace do not change each other's rules. Every other filter stays as
//! it is. A qdisc is removed only by [`Change::RemoveQdisc`], and only while it is an empty
//! `clsact`.
//!
//! Reading takes no privileges; changing takes `CAP_NET_ADMIN` in the user namespace that owns the
//! network namespace. The kernel answers at once, or within the time that loading a module takes;
//! after 5 s without an answer a call ends with [`Error::NoAnswer`].
//!
//! ```no_run
//! use std::collections::BTreeSet;
//! use std::num::NonZeroU32;
//! use lvs_dr::marks::{Marks, Packets, Plan, Rule};
//!
//! let peer = Rule {
//!     interface: "eth0".into(),
//!     vip: "192.0.2.1".parse()?,
//!     packets: Packets::From("02:00:00:00:00:02".parse()?),
//!     mark: NonZeroU32::MIN,
//! };
//! let mut marks = Marks::open(7)?;
//! let seen = marks.observe(["eth0"])?;
//! marks.apply(&Plan::between(&seen, &BTreeSet::from([peer])))?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod classifier;
mod client;
mod filters;
mod local;
mod monitor;
mod neighbours;
mod plan;
mod probe;
mod program;
mod routing;
mod rule;
#[cfg(all(test, target_endian = "little"))]
mod samples;
mod support;
mod wire;

pub use classifier::{Attached, Classification, Classifier, Counters, ServiceMarks, classifier_supported};
pub use client::{Foreign, Marks, Observed, Qdisc, Stranger};
pub(crate) use local::{Arriving, Deed, Firewall};
pub use local::{Backend, LocalMarks, Observed as LocalObserved};
pub use monitor::{Event, Monitor};
pub use neighbours::{Neighbour, NeighbourState};
pub use plan::{Change, Plan};
pub(crate) use probe::Probe;
pub use probe::who_has;
pub use routing::MarkUse;
pub use rule::{Mac, Packets, Rule};
pub use support::supported;
pub(crate) use support::trying;
pub use wire::{CLASSIFIER_PRIORITY, PRIORITY};

use rustix::io::Errno;

use crate::error::{Cause, Error};
use crate::netlink::Failure;

/// Explains a failure by the meanings that an errno has in every request of this module.
fn explain(failure: Failure, operation: &'static str, object: impl std::fmt::Display) -> Error {
    failure.explain(operation, object, |errno| match Errno::from_raw_os_error(errno) {
        Errno::PERM => Cause::Permission,
        Errno::NODEV => Cause::NoInterface,
        Errno::AFNOSUPPORT => Cause::NoFamily,
        Errno::NOBUFS | Errno::NOMEM => Cause::NoMemory,
        Errno::NETDOWN => Cause::InterfaceDown,
        _ => Cause::Other,
    })
}
