//! Fence `clear`: a backup has no services.

use super::{Sysctl, set};
use crate::ipvs::settings;

/// Connections outlive the table. While other services keep IPVS at work, their packets would be
/// dropped without this setting (`expire_nodest_conn` in
/// Documentation/networking/ipvs-sysctl.rst).
pub(super) fn sysctls() -> Vec<Sysctl> {
    vec![set(settings::EXPIRE_NODEST_CONN, "1")]
}
