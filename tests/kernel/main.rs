//! What the crate does to a real kernel, judged by ipvsadm, ip and packets. Runs in the lab's
//! guest (see tests/lab).

mod arp;
// The demo's, which uses all of it.
#[allow(dead_code)]
#[path = "../../examples/demo/cluster/bird.rs"]
mod bird;
#[cfg(feature = "capi")]
mod capi;
mod chaos;
mod classified;
mod classifier;
mod cli;
mod control;
mod demotion;
mod driver;
mod fence;
mod findings;
mod handover;
mod ipv6;
mod ipvs;
mod keepalived;
mod lab;
mod lan;
mod local_marks;
mod marks;
mod marks_fence;
mod metrics;
mod node;
mod ocf;
mod plane;
mod probe;
mod routes;
mod schema;
mod sctp;
mod sites;
mod sync;
mod systemd;
mod vip;
mod watch;
