//! Web servers as their own load balancer.

#![deny(missing_docs, unsafe_code)]
#![warn(unreachable_pub)]

pub mod arp;
#[cfg(feature = "capi")]
mod capi;
mod error;
#[cfg(any(fuzzing, test))]
#[doc(hidden)]
#[allow(missing_docs, unreachable_pub)]
pub mod fuzzing;
mod interface;
pub mod ipvs;
pub mod marks;
mod netlink;
mod netns;
pub mod node;
mod sysctl;
pub mod vip;

pub use error::{Cause, Error, Result};
pub use netns::Netns;
