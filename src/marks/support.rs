//! What the kernel can do.

use std::num::NonZeroU32;

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};

use super::client::explain_missing;
use super::program::Matches;
use super::rule::Packets;
use super::wire;
use crate::error::{Error, Result};
use crate::netlink::{RouteClient, RouteMessage, in_new_namespace};
use crate::netns::Netns;

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
    match in_new_namespace(attempt) {
        Err(error) if error.raw_os_error() == Some(libc::EPERM) => Ok(()),
        tried => tried.map_err(|e| Error::system("create", "a network namespace to try tc filters in", e))?,
    }
}

fn attempt() -> Result<()> {
    let mut client = RouteClient::open(Netns::current()?)?;
    let index = client.link_of_name("lo")?.index;
    let rules = [([192, 0, 2, 1].into(), Packets::Opening)].into();
    let program = Matches { rules, ..Matches::default() }.program(false).unwrap_or_default();
    let filter = wire::put_filter(index, false, 0, &program, NonZeroU32::MIN, 0);
    let steps: [(&str, RouteMessage); 3] = [
        ("module sch_ingress (qdisc clsact)", wire::clsact(libc::RTM_NEWQDISC, index)),
        ("module cls_bpf (filter bpf)", wire::add_bare_filter(index)),
        ("module act_skbedit (action skbedit)", filter),
    ];
    for (module, request) in steps {
        client
            .request(request, NLM_F_CREATE | NLM_F_EXCL)
            .map_err(|failure| explain_missing(failure, "use", module))?;
    }
    Ok(())
}
