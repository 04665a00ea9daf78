//! `IPVS_DAEMON_ATTR_*`

use netlink_packet_core::DecodeError;

use super::{Attribute, DAEMON, address, attributes, needed, number, text, u32};
use crate::ipvs::{Family, SyncDaemon, SyncRole};

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
pub(in crate::ipvs) fn encode_role(role: SyncRole) -> Attribute {
    Attribute::nested(DAEMON, vec![Attribute::u32(STATE, state(role))])
}

pub(in crate::ipvs) fn encode(daemon: &SyncDaemon) -> Attribute {
    let mut all = vec![
        Attribute::u32(STATE, state(daemon.role)),
        Attribute::text(INTERFACE, &daemon.interface),
        Attribute::u32(SYNC_ID, daemon.sync_id.into()),
    ];
    all.extend(daemon.max_length.map(|length| Attribute::u16(MAX_LENGTH, length)));
    all.extend(daemon.group.map(|group| Attribute::address(if group.is_ipv4() { GROUP } else { GROUP6 }, group)));
    // Unlike a service's, this port is in the machine's own byte order.
    all.extend(daemon.port.map(|port| Attribute::u16(PORT, port)));
    all.extend(daemon.ttl.map(|ttl| Attribute::u8(TTL, ttl)));
    Attribute::nested(DAEMON, all)
}

pub(in crate::ipvs) fn decode(octets: &[u8]) -> Result<SyncDaemon, DecodeError> {
    let (mut role, mut interface, mut sync_id) = (None, String::new(), 0);
    let (mut max_length, mut group, mut port, mut ttl) = (None, None, None, None);
    for attribute in attributes(octets) {
        let attribute = attribute?;
        let value = attribute.value();
        match attribute.kind() {
            STATE => role = Some(u32(value)?),
            INTERFACE => interface = text(value),
            SYNC_ID => sync_id = number(value)?,
            MAX_LENGTH => max_length = Some(super::u16(value)?),
            GROUP => group = Some(address(Family::V4, value)?),
            GROUP6 => group = Some(address(Family::V6, value)?),
            PORT => port = Some(super::u16(value)?),
            TTL => ttl = value.first().copied(),
            _ => {}
        }
    }
    let role = match needed(role, "the sync daemon's state")? {
        MASTER => SyncRole::Master,
        BACKUP => SyncRole::Backup,
        other => return Err(DecodeError::from(format!("sync daemon state {other} is not known"))),
    };
    let sync_id = u8::try_from(sync_id).map_err(|_| DecodeError::from(format!("sync id {sync_id} is above 255")))?;
    Ok(SyncDaemon { role, interface, sync_id, max_length, group, port, ttl })
}
