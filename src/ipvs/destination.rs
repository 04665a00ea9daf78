//! Destinations: the real servers of a virtual service.

use std::fmt;
use std::net::SocketAddr;

use super::service::check_address;
use super::{Family, ServiceId, Stats};
use crate::error::{Error, Result};

/// How packets reach a destination.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "lowercase"))]
#[non_exhaustive]
pub enum Forward {
    /// Direct routing: the packet is sent on unchanged, to the real server's MAC address. The
    /// server needs the VIP itself, and its port is the service's.
    #[default]
    Direct,
    /// NAT: addresses are rewritten, and answers must come back through the director.
    Masquerade,
    /// The packet is sent inside another one. The server needs the VIP itself.
    Tunnel(Tunnel),
    /// The director itself.
    Local,
    /// A method that this crate does not know, as the kernel has it. It is never set.
    Other(u32),
}

/// How a packet is put inside another one, see `--tun-type` in ipvsadm(8).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "lowercase"))]
#[non_exhaustive]
pub enum Tunnel {
    /// IP in IP.
    #[default]
    Ipip,
    /// Generic UDP encapsulation.
    Gue {
        /// The UDP port, not 0.
        port: u16,
        /// How the outer packet is protected.
        checksum: TunnelChecksum,
    },
    /// Generic routing encapsulation.
    Gre {
        /// How the outer packet is protected; GRE knows no remote checksum.
        checksum: TunnelChecksum,
    },
    /// A type that this crate does not know, as the kernel has it. It is never set.
    Other(u8),
}

/// Checksum of the outer packet, `IP_VS_TUNNEL_ENCAP_FLAG_*` in linux/ip_vs.h.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "lowercase"))]
#[non_exhaustive]
pub enum TunnelChecksum {
    /// None.
    #[default]
    None,
    /// Of the whole packet.
    Full,
    /// Left to the receiver (remote checksum offload).
    Remote,
}

/// A destination, as it is wanted.
///
/// ```
/// use lvs_dr::ipvs::Destination;
///
/// let server = Destination::new("192.168.0.12:80".parse()?).weight(3);
/// assert_eq!(server.weight, 3);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Destination {
    /// The real server's address and port.
    pub address: SocketAddr,
    /// How packets reach it.
    #[cfg_attr(feature = "serde", serde(default))]
    pub forward: Forward,
    /// Its share of new connections, up to 2147483647; 0 gets none, and keeps those it has.
    #[cfg_attr(feature = "serde", serde(default = "one"))]
    pub weight: u32,
    /// From this many connections on it gets no new ones. 0: no limit.
    #[cfg_attr(feature = "serde", serde(default))]
    pub upper_threshold: u32,
    /// Below this many it gets new ones again. 0: three quarters of the upper one.
    #[cfg_attr(feature = "serde", serde(default))]
    pub lower_threshold: u32,
}

#[cfg(feature = "serde")]
fn one() -> u32 {
    1
}

impl Destination {
    /// A destination with direct routing, weight 1 and no thresholds.
    pub fn new(address: SocketAddr) -> Self {
        Destination { address, forward: Forward::Direct, weight: 1, upper_threshold: 0, lower_threshold: 0 }
    }

    /// The same with this weight.
    pub fn weight(mut self, weight: u32) -> Self {
        self.weight = weight;
        self
    }

    /// The same with this forwarding method.
    pub fn forward(mut self, forward: Forward) -> Self {
        self.forward = forward;
        self
    }

    /// The same with these thresholds.
    pub fn thresholds(mut self, lower: u32, upper: u32) -> Self {
        (self.lower_threshold, self.upper_threshold) = (lower, upper);
        self
    }

    /// Refuses what makes no sense for this service: among it what the kernel would take.
    ///
    /// # Errors
    /// [`Error::Invalid`] with the reason.
    pub fn check(&self, service: &ServiceId) -> Result<()> {
        let name = Named { service, address: self.address };
        let refuse = |reason: String| Err(Error::invalid(&name, reason));
        check_address(&name, self.address)?;
        if self.weight > i32::MAX as u32 {
            return refuse(format!("weight {} is above 2147483647", self.weight));
        }
        if self.upper_threshold != 0 && self.lower_threshold > self.upper_threshold {
            return refuse(format!(
                "lower threshold {} is above the upper one, {}",
                self.lower_threshold, self.upper_threshold
            ));
        }
        if let Forward::Other(_) | Forward::Tunnel(Tunnel::Other(_)) = self.forward {
            return refuse("its forwarding method or tunnel type is not known".into());
        }
        if let Forward::Tunnel(Tunnel::Gue { port: 0, .. }) = self.forward {
            return refuse("a GUE tunnel needs a port".into());
        }
        if let Forward::Tunnel(Tunnel::Gre { checksum: TunnelChecksum::Remote }) = self.forward {
            return refuse("a GRE tunnel knows no remote checksum".into());
        }
        if Family::of(self.address.ip()) != service.family() && !matches!(self.forward, Forward::Tunnel(_)) {
            return refuse(
                "address families can be mixed with tunnels only: give a destination of the service's own family"
                    .into(),
            );
        }
        Ok(())
    }
}

/// A destination, as the kernel has it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct DestinationEntry {
    /// What it was set to.
    pub destination: Destination,
    /// Connections that are established.
    pub active: u32,
    /// Connections in other states.
    pub inactive: u32,
    /// Persistence templates.
    pub persistent: u32,
    /// What it has been sent, where that was asked for: see [`Detail`](super::Detail).
    pub stats: Option<Stats>,
}

/// A destination as messages name it.
pub(super) struct Named<'a> {
    pub(super) service: &'a ServiceId,
    pub(super) address: SocketAddr,
}

impl fmt::Display for Named<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {}", self.address, self.service)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_would_wrongly_take_is_refused() {
        let web = ServiceId::tcp("1.2.3.4:80".parse().unwrap());
        let to = |a: &str| Destination::new(a.parse().unwrap());
        assert!(to("10.0.0.1:80").check(&web).is_ok());
        assert!(to("[2001:db8::1]:80").check(&web).is_err());
        assert!(to("[2001:db8::1]:80").forward(Forward::Tunnel(Tunnel::Ipip)).check(&web).is_ok());
        assert!(to("10.0.0.1:80").weight(u32::MAX).check(&web).is_err());
        assert!(to("10.0.0.1:80").thresholds(9, 3).check(&web).is_err());
        assert!(to("10.0.0.1:80").thresholds(9, 0).check(&web).is_ok());
        assert!(
            to("10.0.0.1:80")
                .forward(Forward::Tunnel(Tunnel::Gue { port: 0, checksum: TunnelChecksum::None }))
                .check(&web)
                .is_err()
        );
    }
}
