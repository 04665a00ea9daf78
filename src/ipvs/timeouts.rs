//! How long idle connections are remembered.

use std::time::Duration;

use crate::error::{Error, Result};

/// After how much silence a connection is forgotten, see `--set` in ipvsadm(8): whole seconds.
/// When they are written, 0 leaves one as it is.
///
/// ```no_run
/// use std::time::Duration;
/// use lvs_dr::ipvs::{Ipvs, Timeouts};
///
/// // The others stay as they are.
/// let timeouts = Timeouts { tcp: Duration::from_secs(7200), ..Timeouts::default() };
/// Ipvs::open()?.set_timeouts(&timeouts)?;
/// # Ok::<(), lvs_dr::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Timeouts {
    /// An established TCP connection.
    #[cfg_attr(feature = "serde", serde(with = "super::serialize::seconds"))]
    pub tcp: Duration,
    /// A TCP connection whose client has closed it.
    #[cfg_attr(feature = "serde", serde(with = "super::serialize::seconds"))]
    pub tcp_fin: Duration,
    /// A UDP flow.
    #[cfg_attr(feature = "serde", serde(with = "super::serialize::seconds"))]
    pub udp: Duration,
}

impl Timeouts {
    /// Refuses what makes no sense.
    ///
    /// # Errors
    /// [`Error::Invalid`] with the reason.
    pub fn check(&self) -> Result<()> {
        for (name, time) in [("tcp", self.tcp), ("tcp_fin", self.tcp_fin), ("udp", self.udp)] {
            if time.subsec_nanos() != 0 || time.as_secs() > MAX {
                return Err(Error::invalid(
                    format!("timeout {name} of {time:?}"),
                    "whole seconds, up to 2678400 (31 days), were expected",
                ));
            }
        }
        Ok(())
    }
}

/// As `ipvsadm` does: longer times overflow the kernel's timers on some machines.
const MAX: u64 = 31 * 24 * 60 * 60;
