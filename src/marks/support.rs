//! What the kernel can do.

use std::io;
use std::num::NonZeroU32;
use std::time::{Duration, Instant};

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};

use super::client::explain_missing;
use super::program::Matches;
use super::rule::Packets;
use super::wire;
use crate::background::{Waits, wait_for};
use crate::error::{Cause, Error, Result};
use crate::netlink::{Failure, Trial, killed_are_left};

/// How long it may take to load the modules.
const LIMIT: Duration = Duration::from_secs(10);
/// The index of `lo` in a new network namespace.
const LOOPBACK: u32 = 1;

/// Tries whether the kernel can mark packets, in a network namespace made for it; loads the
/// modules where it can.
///
/// Without `CAP_SYS_ADMIN`, which the namespace needs, nothing is tried: a rule that the kernel
/// refuses says then what is missing.
///
/// # Errors
/// - [`Error::Refused`] with [`Cause::NoTcModule`](crate::Cause::NoTcModule) when a module is
///   missing; the message names the module (`sch_ingress`, `cls_bpf`, `act_skbedit`) and the
///   packages that hold it.
/// - [`Error::System`] when no namespace can be made (`ENOSPC`: too many); also as
///   [`Marks`](super::Marks).
pub fn supported() -> Result<()> {
    wait_for(|waits| async move { trying(&waits).await })
}

/// The same, piece by piece.
pub(crate) async fn trying(waits: &Waits) -> Result<()> {
    let tried = attempt(waits).await;
    // Its process is killed, and ends in a moment.
    let until = Instant::now() + Duration::from_millis(200);
    while killed_are_left() && Instant::now() < until {
        waits.wait(None, Instant::now() + Duration::from_millis(1)).await;
    }
    tried
}

async fn attempt(waits: &Waits) -> Result<()> {
    let rules = [([192, 0, 2, 1].into(), Packets::Opening)].into();
    let program = Matches { rules, ..Matches::default() }.program(false).unwrap_or_default();
    let filter = wire::put_filter(LOOPBACK, false, 0, &program, NonZeroU32::MIN, 0);
    let steps = [
        ("module sch_ingress (qdisc clsact)", wire::clsact(libc::RTM_NEWQDISC, LOOPBACK)),
        ("module cls_bpf (filter bpf)", wire::add_bare_filter(LOOPBACK)),
        ("module act_skbedit (action skbedit)", filter),
    ];
    let (modules, requests): (Vec<_>, Vec<_>) = steps.into_iter().unzip();
    let no_namespace = |error: io::Error| Error::system("create", "a network namespace to try tc filters in", error);
    let mut trial = Trial::start(requests, NLM_F_CREATE | NLM_F_EXCL).map_err(no_namespace)?;
    let until = Instant::now() + LIMIT;
    match trial.answer(waits, until).await {
        Err(Failure::Socket(error)) if error.raw_os_error() == Some(libc::EPERM) => return Ok(()),
        Err(failure) => {
            return Err(failure.explain("create", "a network namespace to try tc filters in", |_| Cause::Other));
        }
        Ok(()) => {}
    }
    for module in modules {
        trial.answer(waits, until).await.map_err(|failure| explain_missing(failure, "use", module))?;
    }
    Ok(())
}
