//! Packet marks: the rules and the other nodes of fence `marks`, as lists, and rules of a program's
//! own.

use std::collections::BTreeSet;
use std::ffi::{CString, c_int};
use std::mem::{MaybeUninit, size_of};
use std::num::{NonZeroU16, NonZeroU32};

use super::ffi::{
    Grows, Handle, Held, Opened, Place, Result, Text, c_text, entry, given, invalid, put, read, reserved,
};
use super::status::{caught, guard};
use crate::marks::{Change, Marks, Packets, Plan, Rule, supported};
use crate::node::Status;

/// In lvs_rule: TCP packets without SYN, to `port` or to any port.
pub const LVS_PACKETS_LATER: u32 = 0;
/// In lvs_rule: packets of any protocol that come from the MAC address `mac`.
pub const LVS_PACKETS_FROM: u32 = 1;
/// In lvs_rule: TCP packets with SYN and without ACK.
pub const LVS_PACKETS_OPENING: u32 = 2;

/// Adds and removes rules that mark packets, in one network namespace: filters of tc(8) on arriving
/// packets. A node with LVS_FENCE_MARKS has rules of its own, which this leaves alone.
pub struct lvs_marks(Held<Marks>);

impl Opened for lvs_marks {
    type Value = Marks;

    fn held(&self) -> &Held<Marks> {
        &self.0
    }
}

/// Rules that mark packets, see lvs_status_rules() and lvs_marks_rules().
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

/// A rule: a packet mark for packets that arrive on an interface for a VIP.
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

impl lvs_rule {
    fn to_rule(self) -> Result<Rule> {
        reserved(self.reserved)?;
        let mac = self.mac.optional("mac", super::ffi::NAME)?;
        let packets = match (self.packets, mac) {
            (LVS_PACKETS_FROM, Some(mac)) => Packets::From(mac.parse()?),
            (LVS_PACKETS_FROM, None) => return Err(invalid("`mac`", "it is NULL: LVS_PACKETS_FROM needs one")),
            (_, Some(_)) => return Err(invalid("`mac`", "NULL was expected unless `packets` is LVS_PACKETS_FROM")),
            (LVS_PACKETS_LATER, None) => {
                let port = u16::try_from(self.port);
                let port = port.map_err(|_| invalid(&format!("`port` {}", self.port), "0 to 65535 was expected"))?;
                Packets::Later { port: NonZeroU16::new(port) }
            }
            (LVS_PACKETS_OPENING, None) => Packets::Opening,
            (other, None) => return Err(invalid(&format!("`packets` {other}"), "one of LVS_PACKETS_... was expected")),
        };
        if self.port != 0 && self.packets != LVS_PACKETS_LATER {
            return Err(invalid("`port`", "0 was expected unless `packets` is LVS_PACKETS_LATER"));
        }
        let mark = NonZeroU32::new(self.mark).ok_or_else(|| invalid("`mark` 0", "a positive number was expected"))?;
        Ok(Rule { interface: self.interface.name("interface")?, vip: self.vip.address("vip")?, packets, mark })
    }
}

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

/// Tries whether the kernel can mark packets, in a network namespace made for that; the kernel may
/// load modules meanwhile. Without CAP_SYS_ADMIN, which the namespace needs, nothing is tried:
/// lvs_marks_add() then says what is missing. Blocks for 10 s at most. Fails with LVS_ERR_NO_MODULE
/// (sch_ingress, cls_bpf or act_skbedit is missing) and LVS_ERR_SYSTEM.
#[unsafe(no_mangle)]
pub extern "C" fn lvs_marks_supported() -> c_int {
    guard(|| Ok(supported()?))
}

/// Opens a client for rules.
///
/// `netns`: the file of the network namespace to work in ("/run/netns/blue"), or NULL for the
/// calling thread's. `owner`: a number that tells the rules of this program from those of others;
/// it must be the same after a restart. `marks`: is set to the client; free it with
/// lvs_marks_free().
#[unsafe(no_mangle)]
pub extern "C" fn lvs_marks_open(netns: Text, owner: u64, marks: Option<&mut MaybeUninit<Box<lvs_marks>>>) -> c_int {
    guard(|| {
        let result = given(marks, "marks")?;
        result.write(Box::new(lvs_marks(Held::new(Marks::open_in(netns.netns()?, owner)?))));
        Ok(())
    })
}

/// Frees the client. Its rules stay. NULL is ignored.
#[unsafe(no_mangle)]
pub extern "C" fn lvs_marks_free(marks: Option<Box<lvs_marks>>) {
    let _ = caught(|| drop(marks));
}

/// Lists the rules of this owner on an interface. `rules`: is set to the list, which may be empty;
/// free it with lvs_rules_free(). An interface that does not exist has no rules. A privilege is not
/// needed.
#[unsafe(no_mangle)]
pub extern "C" fn lvs_marks_rules(
    marks: Handle<lvs_marks>,
    interface: Text,
    rules: Option<&mut MaybeUninit<Box<lvs_rules>>>,
) -> c_int {
    guard(|| {
        let (mut marks, interface) = (marks.lock("marks")?, interface.name("interface")?);
        let result = given(rules, "rules")?;
        let seen = marks.observe([interface.as_str()])?;
        result.write(Box::new(lvs_rules(seen.rules.iter().map(RuleTexts::new).collect())));
        Ok(())
    })
}

/// Adds a rule. One that differs in the mark alone is replaced, and no packet is without a mark
/// meanwhile. A rule that is there already is no error. Takes CAP_NET_ADMIN.
///
/// `rule`: set its `size` before; `mac` is NULL unless `packets` is LVS_PACKETS_FROM. `made`: is
/// set to 1 if the interface had no clsact or ingress qdisc and was given one, otherwise to 0; NULL
/// if it is not needed. Fails with LVS_ERR_INVALID, LVS_ERR_NO_INTERFACE and LVS_ERR_PERMISSION.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lvs_marks_add(
    marks: Handle<lvs_marks>,
    rule: *const lvs_rule,
    made: Option<&mut MaybeUninit<c_int>>,
) -> c_int {
    guard(|| {
        let mut marks = marks.lock("marks")?;
        // SAFETY: a structure of C's.
        let rule = unsafe { read(rule) }?.to_rule()?;
        let seen = marks.observe([rule.interface.as_str()])?;
        let wanted = seen.rules.iter().cloned().chain([rule]).collect();
        let plan = Plan::between(&seen, &wanted);
        marks.apply(&plan)?;
        put(made, plan.changes().iter().any(|change| matches!(change, Change::AddQdisc(_))).into());
        Ok(())
    })
}

/// Removes a rule, which is equal in all fields. `removed`: is set to 1, or to 0 where there was no
/// such rule; NULL if it is not needed. Otherwise as lvs_marks_add().
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lvs_marks_remove(
    marks: Handle<lvs_marks>,
    rule: *const lvs_rule,
    removed: Option<&mut MaybeUninit<c_int>>,
) -> c_int {
    guard(|| {
        let mut marks = marks.lock("marks")?;
        // SAFETY: a structure of C's.
        let rule = unsafe { read(rule) }?.to_rule()?;
        let is_there = marks.observe([rule.interface.as_str()])?.rules.contains(&rule);
        if is_there {
            marks.apply(&Plan::of([Change::Remove(rule)]))?;
        }
        put(removed, is_there.into());
        Ok(())
    })
}

/// Removes all rules of this owner from an interface. `made`: 1 where lvs_marks_add() made the
/// qdisc, which is then removed too, unless other filters are in it; otherwise 0. Fails with
/// LVS_ERR_PERMISSION.
#[unsafe(no_mangle)]
pub extern "C" fn lvs_marks_clear(marks: Handle<lvs_marks>, interface: Text, made: c_int) -> c_int {
    guard(|| {
        let (mut marks, interface) = (marks.lock("marks")?, interface.name("interface")?);
        let seen = marks.observe([interface.as_str()])?;
        let (none, made) = (BTreeSet::new(), (made != 0).then_some(interface).into_iter().collect());
        Ok(marks.apply(&Plan::between(&seen, &none).and_remove_qdiscs(&seen, &none, &made))?)
    })
}

/// Frees a list of lvs_marks_rules(). NULL is ignored. A list of lvs_status_rules() is freed with
/// its status.
#[unsafe(no_mangle)]
pub extern "C" fn lvs_rules_free(rules: Option<Box<lvs_rules>>) {
    let _ = caught(|| drop(rules));
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
