//! `IPVS_DAEMON_ATTR_*`

use super::{DAEMON, address, each, malformed, needed, number, push_address, push_text, push_u32, text, u16, u32};
use crate::ipvs::{Family, SyncDaemon, SyncRole};
use crate::netlink::{Failure, push_attribute, push_nested};

const STATE: u16 = 1;
const INTERFACE: u16 = 2;
const SYNC_ID: u16 = 3;
const MAX_LENGTH: u16 = 4;
const GROUP: u16 = 5;
const GROUP6: u16 = 6;
const PORT: u16 = 7;
const TTL: u16 = 8;

const MASTER: u32 = 1;
const BACKUP: u32 = 2;

fn state(role: SyncRole) -> u32 {
    match role {
        SyncRole::Master => MASTER,
        SyncRole::Backup => BACKUP,
    }
}

/// What names a daemon: there is one of each role.
pub(in crate::ipvs) fn push_role(octets: &mut Vec<u8>, role: SyncRole) {
    push_nested(octets, DAEMON, |octets| push_u32(octets, STATE, state(role)));
}

pub(in crate::ipvs) fn push(octets: &mut Vec<u8>, daemon: &SyncDaemon) {
    push_nested(octets, DAEMON, |octets| {
        push_u32(octets, STATE, state(daemon.role));
        push_text(octets, INTERFACE, &daemon.interface);
        push_u32(octets, SYNC_ID, daemon.sync_id.into());
        if let Some(length) = daemon.max_length {
            push_attribute(octets, MAX_LENGTH, &length.to_ne_bytes());
        }
        if let Some(group) = daemon.group {
            push_address(octets, if group.is_ipv4() { GROUP } else { GROUP6 }, group);
        }
        // Unlike a service's, this port is in the machine's own byte order.
        if let Some(port) = daemon.port {
            push_attribute(octets, PORT, &port.to_ne_bytes());
        }
        if let Some(ttl) = daemon.ttl {
            push_attribute(octets, TTL, &[ttl]);
        }
    });
}

pub(in crate::ipvs) fn decode(octets: &[u8]) -> Result<SyncDaemon, Failure> {
    let (mut role, mut interface, mut sync_id) = (None, String::new(), 0);
    let (mut max_length, mut group, mut port, mut ttl) = (None, None, None, None);
    each(octets, |kind, value| {
        match kind {
            STATE => role = Some(u32(value)?),
            INTERFACE => interface = text(value),
            SYNC_ID => sync_id = number(value)?,
            MAX_LENGTH => max_length = Some(u16(value)?),
            GROUP => group = Some(address(Family::V4, value)?),
            GROUP6 => group = Some(address(Family::V6, value)?),
            PORT => port = Some(u16(value)?),
            TTL => ttl = value.first().copied(),
            _ => {}
        }
        Ok(())
    })?;
    let role = match needed(role, "the sync daemon's state")? {
        MASTER => SyncRole::Master,
        BACKUP => SyncRole::Backup,
        other => return Err(malformed(format!("sync daemon state {other} is not known"))),
    };
    let sync_id = u8::try_from(sync_id).map_err(|_| malformed(format!("sync id {sync_id} is above 255")))?;
    Ok(SyncDaemon { role, interface, sync_id, max_length, group, port, ttl })
}
