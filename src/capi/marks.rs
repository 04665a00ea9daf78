//! The rules and the other nodes of fence `marks`, as lists.

use std::ffi::{CString, c_int};
use std::mem::size_of;

use super::ffi::{Grows, Place, Text, c_text, entry, given};
use super::status::guard;
use crate::marks::{Packets, Rule};
use crate::node::Status;

/// In lvs_rule: TCP packets without SYN, to `port` or to any port.
pub const LVS_PACKETS_LATER: u32 = 0;
/// In lvs_rule: packets of any protocol that come from the MAC address `mac`.
pub const LVS_PACKETS_FROM: u32 = 1;
/// In lvs_rule: TCP packets with SYN and without ACK.
pub const LVS_PACKETS_OPENING: u32 = 2;

/// Rules of LVS_FENCE_MARKS, see lvs_status_rules().
pub struct lvs_rules(Vec<RuleTexts>);

/// Other nodes, see lvs_status_peers().
pub struct lvs_peers(Vec<PeerTexts>);

impl lvs_rules {
    pub(super) fn of(status: &Status) -> Self {
        lvs_rules(status.rules.iter().map(RuleTexts::new).collect())
    }
}

impl lvs_peers {
    pub(super) fn of(status: &Status) -> Self {
        lvs_peers(PeerTexts::of(status))
    }
}

/// A rule of LVS_FENCE_MARKS: a packet mark for packets that arrive on an interface for a VIP.
/// When several rules match a packet, the mark of the kind with the highest number in this order
/// stays: LVS_PACKETS_LATER, LVS_PACKETS_FROM, LVS_PACKETS_OPENING.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct lvs_rule {
    /// sizeof(struct lvs_rule).
    pub size: usize,
    /// The interface on which the packets arrive.
    pub interface: Text,
    /// The destination address of the packets.
    pub vip: Text,
    /// With LVS_PACKETS_FROM: the MAC address, "02:00:00:00:00:01". Otherwise NULL.
    pub mac: Text,
    /// The kind of packets: LVS_PACKETS_...
    pub packets: u32,
    /// With LVS_PACKETS_LATER: the TCP port, in host byte order; 0: any. Otherwise 0.
    pub port: u32,
    /// The mark that the packets get.
    pub mark: u32,
    /// 0.
    pub reserved: u32,
}

// SAFETY: `repr(C)`, numbers and texts; that there is no padding follows from its size, which is
// checked here.
unsafe impl Grows for lvs_rule {
    const NAME: &'static str = "lvs_rule";
    const FIRST: usize = size_of::<[usize; 4]>() + size_of::<[u32; 4]>();
}
const _: () = assert!(size_of::<lvs_rule>() == lvs_rule::FIRST);

/// A MAC address of another node. A node that sends from several has an entry for each.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct lvs_peer {
    /// sizeof(struct lvs_peer).
    pub size: usize,
    /// The address of the node as a destination.
    pub address: Text,
    /// The MAC address, "02:00:00:00:00:01". NULL: none of this node is known.
    pub mac: Text,
}

// SAFETY: as for `lvs_rule`.
unsafe impl Grows for lvs_peer {
    const NAME: &'static str = "lvs_peer";
    const FIRST: usize = size_of::<[usize; 3]>();
}
const _: () = assert!(size_of::<lvs_peer>() == lvs_peer::FIRST);

struct RuleTexts {
    interface: CString,
    vip: CString,
    mac: Option<CString>,
    packets: u32,
    port: u32,
    mark: u32,
}

impl RuleTexts {
    fn new(rule: &Rule) -> Self {
        let (packets, port, mac) = match rule.packets {
            Packets::Later { port } => (LVS_PACKETS_LATER, port.map_or(0, |port| port.get().into()), None),
            Packets::From(mac) => (LVS_PACKETS_FROM, 0, Some(c_text(mac.to_string()))),
            Packets::Opening => (LVS_PACKETS_OPENING, 0, None),
        };
        RuleTexts {
            interface: c_text(rule.interface.as_str()),
            vip: c_text(rule.vip.to_string()),
            mac,
            packets,
            port,
            mark: rule.mark.get(),
        }
    }

    /// # Safety
    /// `self` lives as long as the result is used.
    unsafe fn as_c(&self) -> lvs_rule {
        // SAFETY: the texts live as long as `self`, and that as long as the caller promises.
        let text = |text: &CString| unsafe { Text::of(text) };
        lvs_rule {
            size: size_of::<lvs_rule>(),
            interface: text(&self.interface),
            vip: text(&self.vip),
            mac: self.mac.as_ref().map_or(Text::NULL, text),
            packets: self.packets,
            port: self.port,
            mark: self.mark,
            reserved: 0,
        }
    }
}

struct PeerTexts {
    address: CString,
    mac: Option<CString>,
}

impl PeerTexts {
    fn of(status: &Status) -> Vec<Self> {
        let mut peers = Vec::new();
        for (peer, macs) in &status.peers {
            let entry = |mac| PeerTexts { address: c_text(peer.to_string()), mac };
            if macs.is_empty() {
                peers.push(entry(None));
            }
            peers.extend(macs.iter().map(|mac| entry(Some(c_text(mac.to_string())))));
        }
        peers
    }

    /// # Safety
    /// `self` lives as long as the result is used.
    unsafe fn as_c(&self) -> lvs_peer {
        // SAFETY: the texts live as long as `self`, and that as long as the caller promises.
        let text = |text: &CString| unsafe { Text::of(text) };
        lvs_peer {
            size: size_of::<lvs_peer>(),
            address: text(&self.address),
            mac: self.mac.as_ref().map_or(Text::NULL, text),
        }
    }
}

/// Returns the number of rules in a list; 0 for NULL.
#[unsafe(no_mangle)]
pub extern "C" fn lvs_rules_count(rules: Option<&lvs_rules>) -> usize {
    rules.map_or(0, |rules| rules.0.len())
}

/// Fills `rule` with the entry of this index, counted from 0; set its `size` before. The texts in
/// it belong to the list, and live as long as the list. Fails with LVS_ERR_INDEX.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lvs_rules_get(rules: Option<&lvs_rules>, index: usize, rule: *mut lvs_rule) -> c_int {
    guard(|| {
        let rules = given(rules, "rules")?;
        // SAFETY: a structure of C's.
        let to = unsafe { Place::new(rule) }?;
        // SAFETY: C does not use the texts longer than the list, as the header demands.
        to.put(unsafe { entry(&rules.0, index)?.as_c() });
        Ok(())
    })
}

/// Returns the number of entries in a list; 0 for NULL.
#[unsafe(no_mangle)]
pub extern "C" fn lvs_peers_count(peers: Option<&lvs_peers>) -> usize {
    peers.map_or(0, |peers| peers.0.len())
}

/// Fills `peer` with the entry of this index, counted from 0; set its `size` before. The texts in
/// it belong to the list, and live as long as the list. Fails with LVS_ERR_INDEX.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lvs_peers_get(peers: Option<&lvs_peers>, index: usize, peer: *mut lvs_peer) -> c_int {
    guard(|| {
        let peers = given(peers, "peers")?;
        // SAFETY: a structure of C's.
        let to = unsafe { Place::new(peer) }?;
        // SAFETY: C does not use the texts longer than the list, as the header demands.
        to.put(unsafe { entry(&peers.0, index)?.as_c() });
        Ok(())
    })
}
