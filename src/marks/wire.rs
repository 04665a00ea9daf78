//! Qdiscs and filters as rtnetlink messages: linux/pkt_sched.h, linux/pkt_cls.h,
//! linux/tc_act/tc_skbedit.h.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::num::{NonZeroU16, NonZeroU32};
use std::os::fd::{AsRawFd, BorrowedFd};

use super::client::Qdisc;
use super::filters::Held;
use super::program::{Instruction, Matches};
use super::rule::{Mac, Packets, Rule};
use crate::netlink::{RouteMessage, attributes, number, push_attribute, string};

/// The first of the two filter priorities (`pref` in tc) of our rules: 306 for IPv4, 307 for IPv6.
/// All filters of one priority have one protocol and one kind, so another program's filter at one
/// of them can make the kernel refuse ours.
pub const PRIORITY: u16 = 306;

/// The priority of the [`Classifier`](super::Classifier)'s filter.
pub const CLASSIFIER_PRIORITY: u16 = 308;

/// The first of the six priorities of an earlier version's flower filters.
const OUTDATED_PRIORITY: u16 = 300;

/// `struct tcmsg`: family u8, padding, ifindex i32, handle u32, parent u32, info u32, in host
/// order.
const TC_HEADER: usize = 20;

/// `TC_H_CLSACT`, the same as `TC_H_INGRESS`.
const CLSACT: u32 = 0xffff_fff1;
const CLSACT_HANDLE: u32 = 0xffff_0000;
/// `TC_H_MAKE(TC_H_CLSACT, TC_H_MIN_INGRESS)`.
pub(super) const INGRESS: u32 = 0xffff_fff2;
/// `TC_H_MAKE(TC_H_CLSACT, TC_H_MIN_EGRESS)`.
pub(super) const EGRESS: u32 = 0xffff_fff3;

const TCA_KIND: u16 = 1;
const TCA_OPTIONS: u16 = 2;
const TCA_CHAIN: u16 = 11;

const TCA_BPF_ACT: u16 = 1;
const TCA_BPF_OPS_LEN: u16 = 4;
const TCA_BPF_OPS: u16 = 5;
const TCA_BPF_FD: u16 = 6;
const TCA_BPF_NAME: u16 = 7;
const TCA_BPF_FLAGS: u16 = 8;
const TCA_BPF_FLAGS_GEN: u16 = 9;
const TCA_BPF_ID: u16 = 11;
/// `TCA_BPF_FLAG_ACT_DIRECT`: what the program returns is the verdict.
const DIRECT_ACTION: u32 = 1;

const TCA_FLOWER_KEY_ETH_SRC: u16 = 6;
const TCA_FLOWER_KEY_ETH_SRC_MASK: u16 = 7;
const TCA_FLOWER_KEY_IP_PROTO: u16 = 9;
const TCA_FLOWER_KEY_IPV4_SRC: u16 = 10;
const TCA_FLOWER_KEY_IPV4_DST: u16 = 12;
const TCA_FLOWER_KEY_IPV4_DST_MASK: u16 = 13;
const TCA_FLOWER_KEY_IPV6_SRC: u16 = 14;
const TCA_FLOWER_KEY_IPV6_DST: u16 = 16;
const TCA_FLOWER_KEY_IPV6_DST_MASK: u16 = 17;
const TCA_FLOWER_KEY_TCP_SRC: u16 = 18;
const TCA_FLOWER_KEY_TCP_DST: u16 = 19;
const TCA_FLOWER_KEY_TCP_DST_MASK: u16 = 36;
const TCA_FLOWER_KEY_TCP_FLAGS: u16 = 71;
const TCA_FLOWER_KEY_TCP_FLAGS_MASK: u16 = 72;
/// `TCA_CLS_FLAGS_SKIP_HW`.
const SKIP_HW: u32 = 1;

const TCA_ACT_KIND: u16 = 1;
const TCA_ACT_OPTIONS: u16 = 2;
const TCA_ACT_COOKIE: u16 = 6;
const TCA_SKBEDIT_PARMS: u16 = 2;
const TCA_SKBEDIT_MARK: u16 = 5;
const TCA_SKBEDIT_MASK: u16 = 8;
/// `TC_ACT_UNSPEC`, which tc calls `continue`: the next filter is tried.
const CONTINUE: i32 = -1;

const ETH_P_ALL: u16 = 3;
const ETH_P_IP: u16 = 0x0800;
const ETH_P_IPV6: u16 = 0x86dd;
const TCP: u8 = 6;
const SYN: u16 = 0x02;
const ACK: u16 = 0x10;

/// The first octets of our cookies; the owner's number follows, in network order.
const COOKIE: [u8; 8] = *b"lvs-dr\0\0";

fn header(index: u32, handle: u32, parent: u32, info: u32) -> [u8; TC_HEADER] {
    let mut octets = [0; TC_HEADER];
    for (place, value) in octets[4..].chunks_exact_mut(4).zip([index, handle, parent, info]) {
        place.copy_from_slice(&value.to_ne_bytes());
    }
    octets
}

/// The `tcm_info` of a filter: priority, and protocol in network order.
fn info(priority: u16, protocol: u16) -> u32 {
    u32::from(priority) << 16 | u32::from(protocol.to_be())
}

/// The question for the qdiscs of all interfaces.
pub(super) fn list_qdiscs() -> RouteMessage {
    RouteMessage::new(libc::RTM_GETQDISC, &header(0, 0, 0, 0))
}

/// `RTM_NEWQDISC` or `RTM_DELQDISC` of a `clsact`.
pub(super) fn clsact(kind: u16, index: u32) -> RouteMessage {
    RouteMessage::new(kind, &header(index, CLSACT_HANDLE, CLSACT, 0)).with(TCA_KIND, b"clsact\0")
}

/// Reads an answer to [`list_qdiscs`]: the interface's index, and the qdisc if filters of arriving
/// packets belong there.
pub(super) fn read_qdisc(message: &RouteMessage) -> Option<(u32, Qdisc)> {
    if message.kind() != libc::RTM_NEWQDISC {
        return None;
    }
    let (&[_, _, _, _, i0, i1, i2, i3, _, _, _, _, p0, p1, p2, p3, ..], octets) = message.split::<TC_HEADER>()?;
    if u32::from_ne_bytes([p0, p1, p2, p3]) != CLSACT {
        return None;
    }
    let index = u32::from_ne_bytes([i0, i1, i2, i3]);
    let kind = attributes(octets).find(|(kind, _)| *kind == TCA_KIND).map(|(_, value)| string(value))?;
    match kind.as_str() {
        "clsact" => Some((index, Qdisc::Clsact)),
        "ingress" => Some((index, Qdisc::Ingress)),
        _ => None,
    }
}

/// The question for the filters at [`INGRESS`] or [`EGRESS`] of an interface.
pub(super) fn list_filters(index: u32, parent: u32) -> RouteMessage {
    RouteMessage::new(libc::RTM_GETTFILTER, &header(index, 0, parent, 0))
}

/// `RTM_NEWTFILTER` for a filter of ours. With a handle other than 0 it replaces the filter of
/// that handle.
pub(super) fn put_filter(
    index: u32,
    ipv6: bool,
    handle: u32,
    program: &[Instruction],
    mark: NonZeroU32,
    owner: u64,
) -> RouteMessage {
    filter(index, ipv6, handle, program, Some(&actions(mark, owner)))
}

/// `RTM_NEWTFILTER` for a filter without an action, which tells whether the kernel has `cls_bpf`.
pub(super) fn add_bare_filter(index: u32) -> RouteMessage {
    filter(index, false, 0, &Matches::default().program(false).unwrap_or_default(), None)
}

fn filter(index: u32, ipv6: bool, handle: u32, program: &[Instruction], actions: Option<&[u8]>) -> RouteMessage {
    let mut octets = Vec::with_capacity(8 * program.len());
    for instruction in program {
        octets.extend(instruction.code.to_ne_bytes());
        octets.extend([instruction.jump_true, instruction.jump_false]);
        octets.extend(instruction.k.to_ne_bytes());
    }
    let mut options = Vec::new();
    push_attribute(&mut options, TCA_BPF_OPS_LEN, &(program.len() as u16).to_ne_bytes());
    push_attribute(&mut options, TCA_BPF_OPS, &octets);
    push_attribute(&mut options, TCA_BPF_FLAGS_GEN, &SKIP_HW.to_ne_bytes());
    if let Some(actions) = actions {
        push_attribute(&mut options, TCA_BPF_ACT, actions);
    }
    RouteMessage::new(libc::RTM_NEWTFILTER, &header(index, handle, INGRESS, Slot::of(ipv6).info()))
        .with(TCA_KIND, b"bpf\0")
        .with(TCA_OPTIONS, &options)
}

/// `RTM_DELTFILTER` for one filter of ours.
pub(super) fn remove_filter(index: u32, ipv6: bool, handle: u32) -> RouteMessage {
    let header = header(index, handle, INGRESS, Slot::of(ipv6).info());
    RouteMessage::new(libc::RTM_DELTFILTER, &header).with(TCA_KIND, b"bpf\0")
}

/// `RTM_NEWTFILTER` for a program that gives the verdict itself. With a handle other than 0 it
/// replaces the filter of that handle.
pub(super) fn put_classifier(index: u32, handle: u32, program: BorrowedFd<'_>, name: &str) -> RouteMessage {
    let mut options = Vec::new();
    push_attribute(&mut options, TCA_BPF_FD, &program.as_raw_fd().to_ne_bytes());
    push_attribute(&mut options, TCA_BPF_NAME, &[name.as_bytes(), &[0]].concat());
    push_attribute(&mut options, TCA_BPF_FLAGS, &DIRECT_ACTION.to_ne_bytes());
    push_attribute(&mut options, TCA_BPF_FLAGS_GEN, &SKIP_HW.to_ne_bytes());
    RouteMessage::new(libc::RTM_NEWTFILTER, &header(index, handle, INGRESS, Slot::CLASSIFIER.info()))
        .with(TCA_KIND, b"bpf\0")
        .with(TCA_OPTIONS, &options)
}

/// `RTM_DELTFILTER` for a filter of [`put_classifier`].
pub(super) fn remove_classifier(index: u32, handle: u32) -> RouteMessage {
    let header = header(index, handle, INGRESS, Slot::CLASSIFIER.info());
    RouteMessage::new(libc::RTM_DELTFILTER, &header).with(TCA_KIND, b"bpf\0")
}

/// `RTM_DELTFILTER` for one filter of an earlier version.
pub(super) fn remove_outdated(index: u32, filter: &Filter) -> RouteMessage {
    let header = header(index, filter.handle, INGRESS, filter.slot.info());
    RouteMessage::new(libc::RTM_DELTFILTER, &header).with(TCA_KIND, b"flower\0")
}

fn read_program(octets: &[u8]) -> Vec<Instruction> {
    let instruction = |octets: &[u8]| match *octets {
        [c0, c1, jump_true, jump_false, k0, k1, k2, k3] => Instruction {
            code: u16::from_ne_bytes([c0, c1]),
            jump_true,
            jump_false,
            k: u32::from_ne_bytes([k0, k1, k2, k3]),
        },
        _ => unreachable!("chunks of eight"),
    };
    octets.chunks_exact(8).map(instruction).collect()
}

/// A list of one skbedit action.
fn actions(mark: NonZeroU32, owner: u64) -> Vec<u8> {
    // struct tc_skbedit: index, capab, action, refcnt, bindcnt.
    let mut parameters = [0; 20];
    parameters[8..12].copy_from_slice(&CONTINUE.to_ne_bytes());
    let mut options = Vec::new();
    push_attribute(&mut options, TCA_SKBEDIT_PARMS, &parameters);
    push_attribute(&mut options, TCA_SKBEDIT_MARK, &mark.get().to_ne_bytes());
    let mut action = Vec::new();
    push_attribute(&mut action, TCA_ACT_KIND, b"skbedit\0");
    push_attribute(&mut action, TCA_ACT_COOKIE, &[COOKIE, owner.to_be_bytes()].concat());
    push_attribute(&mut action, TCA_ACT_OPTIONS, &options);
    let mut list = Vec::new();
    push_attribute(&mut list, 1, &action);
    list
}

/// The priority and protocol of a filter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Slot {
    pub(super) priority: u16,
    /// An EtherType.
    pub(super) protocol: u16,
}

impl Slot {
    pub(super) const CLASSIFIER: Slot = Slot { priority: CLASSIFIER_PRIORITY, protocol: ETH_P_ALL };

    /// Where the filters of a family are.
    pub(super) fn of(ipv6: bool) -> Self {
        match ipv6 {
            false => Slot { priority: PRIORITY, protocol: ETH_P_IP },
            true => Slot { priority: PRIORITY + 1, protocol: ETH_P_IPV6 },
        }
    }

    /// Where an earlier version had this rule.
    fn outdated(rule: &Rule) -> Self {
        let priority = OUTDATED_PRIORITY + 2 * rule.packets.order();
        match rule.vip {
            IpAddr::V4(_) => Slot { priority, protocol: ETH_P_IP },
            IpAddr::V6(_) => Slot { priority: priority + 1, protocol: ETH_P_IPV6 },
        }
    }

    fn info(self) -> u32 {
        info(self.priority, self.protocol)
    }
}

/// A value and which of its bits are compared.
type Masked<T> = Option<(T, T)>;

/// What a flower filter compares, as far as rules of an earlier version used it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Keys {
    source: Masked<[u8; 6]>,
    protocol: Option<u8>,
    v4: Masked<[u8; 4]>,
    v6: Masked<[u8; 16]>,
    port: Masked<u16>,
    flags: Masked<u16>,
    /// A key that no rule has: a source address or port.
    other: bool,
}

impl Keys {
    pub(super) fn of(rule: &Rule) -> Self {
        let mut keys = Keys::default();
        match rule.vip {
            IpAddr::V4(vip) => keys.v4 = Some((vip.octets(), [0xff; 4])),
            IpAddr::V6(vip) => keys.v6 = Some((vip.octets(), [0xff; 16])),
        }
        match rule.packets {
            Packets::Later { port } => {
                keys.protocol = Some(TCP);
                keys.port = port.map(|port| (port.get(), 0xffff));
                keys.flags = Some((0, SYN));
            }
            Packets::From(Mac(mac)) => keys.source = Some((mac, [0xff; 6])),
            Packets::Opening => {
                keys.protocol = Some(TCP);
                keys.flags = Some((SYN, SYN | ACK));
            }
        }
        keys
    }

    fn decode(options: &[u8]) -> Self {
        let find = |wanted: u16| attributes(options).find(|(kind, _)| *kind == wanted).map(|(_, value)| value);
        Keys {
            source: masked(find, TCA_FLOWER_KEY_ETH_SRC, TCA_FLOWER_KEY_ETH_SRC_MASK),
            protocol: find(TCA_FLOWER_KEY_IP_PROTO).and_then(|value| value.first().copied()),
            v4: masked(find, TCA_FLOWER_KEY_IPV4_DST, TCA_FLOWER_KEY_IPV4_DST_MASK),
            v6: masked(find, TCA_FLOWER_KEY_IPV6_DST, TCA_FLOWER_KEY_IPV6_DST_MASK),
            port: masked(find, TCA_FLOWER_KEY_TCP_DST, TCA_FLOWER_KEY_TCP_DST_MASK).map(big_endian),
            flags: masked(find, TCA_FLOWER_KEY_TCP_FLAGS, TCA_FLOWER_KEY_TCP_FLAGS_MASK).map(big_endian),
            other: [TCA_FLOWER_KEY_IPV4_SRC, TCA_FLOWER_KEY_IPV6_SRC, TCA_FLOWER_KEY_TCP_SRC]
                .iter()
                .any(|&kind| find(kind).is_some()),
        }
    }
}

/// A key; without a mask, all of its bits are compared.
fn masked<'a, const N: usize>(find: impl Fn(u16) -> Option<&'a [u8]>, value: u16, mask: u16) -> Masked<[u8; N]> {
    let value = find(value)?.try_into().ok()?;
    let mask = find(mask).map_or(Some([0xff; N]), |mask| mask.try_into().ok())?;
    Some((value, mask))
}

fn big_endian((value, mask): ([u8; 2], [u8; 2])) -> (u16, u16) {
    (u16::from_be_bytes(value), u16::from_be_bytes(mask))
}

/// One filter, or one priority with no filter yet (handle 0).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Filter {
    pub(super) slot: Slot,
    pub(super) handle: u32,
    pub(super) chain: u32,
    pub(super) kind: String,
    pub(super) actions: Vec<Action>,
    /// Of a `bpf` filter in classic BPF.
    program: Vec<Instruction>,
    /// Of a `bpf` filter that bpf(2) has loaded.
    loaded: Option<Loaded>,
    /// Of a `flower` filter.
    keys: Keys,
}

/// The program of a filter that bpf(2) has loaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Loaded {
    /// The number of the program.
    pub(super) id: u32,
    pub(super) name: String,
    /// What it returns is the verdict.
    direct: bool,
}

impl Loaded {
    fn read(options: &[u8]) -> Option<Self> {
        let find = |wanted: u16| attributes(options).find(|(kind, _)| *kind == wanted).map(|(_, value)| value);
        Some(Loaded {
            id: find(TCA_BPF_ID).and_then(number)?,
            name: find(TCA_BPF_NAME).map(string)?,
            direct: find(TCA_BPF_FLAGS).and_then(number).is_some_and(|flags| flags & DIRECT_ACTION != 0),
        })
    }
}

/// One action of a filter.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Action {
    pub(super) kind: String,
    /// The mark that skbedit sets, and which of its bits.
    pub(super) mark: Masked<u32>,
    control: Option<i32>,
    cookie: Vec<u8>,
}

impl Filter {
    /// Reads an answer to [`list_filters`].
    pub(super) fn read(message: &RouteMessage) -> Option<Self> {
        if message.kind() != libc::RTM_NEWTFILTER {
            return None;
        }
        let (&[.., h0, h1, h2, h3, _, _, _, _, f0, f1, f2, f3], octets) = message.split::<TC_HEADER>()?;
        let info = u32::from_ne_bytes([f0, f1, f2, f3]);
        let (mut kind, mut chain, mut options) = (String::new(), 0, &[][..]);
        for (attribute, value) in attributes(octets) {
            match attribute {
                TCA_KIND => kind = string(value),
                TCA_CHAIN => chain = number(value)?,
                TCA_OPTIONS => options = value,
                _ => {}
            }
        }
        let list = action_attribute(&kind)
            .and_then(|wanted| attributes(options).find(|(kind, _)| *kind == wanted))
            .map_or(&[][..], |(_, value)| value);
        Some(Filter {
            slot: Slot { priority: (info >> 16) as u16, protocol: u16::from_be(info as u16) },
            handle: u32::from_ne_bytes([h0, h1, h2, h3]),
            chain,
            actions: attributes(list).map(|(_, value)| Action::read(value)).collect(),
            program: match kind.as_str() {
                "bpf" => attributes(options).find(|(kind, _)| *kind == TCA_BPF_OPS),
                _ => None,
            }
            .map_or_else(Vec::new, |(_, octets)| read_program(octets)),
            loaded: if kind == "bpf" { Loaded::read(options) } else { None },
            keys: if kind == "flower" { Keys::decode(options) } else { Keys::default() },
            kind,
        })
    }

    /// Whether later filters do not see the packets that it matches, as far as its actions say.
    pub(super) fn ends(&self) -> bool {
        self.actions.last().is_some_and(|action| action.control.is_some_and(|control| control != CONTINUE))
    }

    /// Whether it is a container of filters: the kernel lists each priority with handle 0 before
    /// its filters, and the hash tables of u32 among them.
    pub(super) fn is_container(&self) -> bool {
        self.handle == 0 || self.kind == "u32" && self.handle & 0xf_ffff == 0
    }

    /// The owner's number, if the filter bears our cookie.
    pub(super) fn owner(&self) -> Option<u64> {
        match self.actions.as_slice() {
            [action] => Some(u64::from_be_bytes(action.cookie.strip_prefix(&COOKIE)?.try_into().ok()?)),
            _ => None,
        }
    }

    /// The program, if the filter has the place and form of a classifier. Its name tells whose it
    /// is.
    pub(super) fn classifier(&self) -> Option<&Loaded> {
        let fits = self.chain == 0 && self.slot == Slot::CLASSIFIER && self.handle != 0;
        self.loaded.as_ref().filter(|loaded| fits && loaded.direct)
    }

    /// The mark that it gives, if that is all that it does.
    fn mark(&self) -> Option<NonZeroU32> {
        let [action] = self.actions.as_slice() else { return None };
        let sets = self.chain == 0 && action.kind == "skbedit" && action.control == Some(CONTINUE);
        match action.mark {
            Some((mark, u32::MAX)) if sets => NonZeroU32::new(mark),
            _ => None,
        }
    }

    /// What it matches and the mark that it gives, if it holds rules of this family. `None`: it
    /// holds none, whatever cookie it bears.
    pub(super) fn held(&self, ipv6: bool) -> Option<Held> {
        let mark = self.mark()?;
        let ours = self.kind == "bpf" && self.slot == Slot::of(ipv6);
        let matches = ours.then(|| Matches::read(&self.program, ipv6)).flatten()?;
        Some(Held { handle: self.handle, mark, matches })
    }

    /// The rules that it holds. `None`: it is no filter of this version.
    pub(super) fn rules(&self, interface: &str) -> Option<Vec<Rule>> {
        let Held { mark, matches, .. } = self.held(false).or_else(|| self.held(true))?;
        let rule = |(vip, packets)| Rule { interface: interface.into(), vip, packets, mark };
        Some(matches.rules.into_iter().map(rule).collect())
    }

    /// The rule that it was for an earlier version.
    pub(super) fn outdated_rule(&self, interface: &str) -> Option<Rule> {
        let mark = self.mark()?;
        let vip = match (self.keys.v4, self.keys.v6) {
            (Some((vip, _)), None) => IpAddr::V4(Ipv4Addr::from(vip)),
            (None, Some((vip, _))) => IpAddr::V6(Ipv6Addr::from(vip)),
            _ => return None,
        };
        let packets = match (self.keys.source, self.keys.flags) {
            (Some((mac, _)), None) => Packets::From(Mac(mac)),
            (None, Some((0, _))) => Packets::Later { port: self.keys.port.and_then(|(port, _)| NonZeroU16::new(port)) },
            (None, Some(_)) => Packets::Opening,
            _ => return None,
        };
        let rule = Rule { interface: interface.into(), vip, packets, mark };
        let exact = self.kind == "flower" && self.slot == Slot::outdated(&rule) && self.keys == Keys::of(&rule);
        exact.then_some(rule)
    }
}

impl Action {
    fn read(octets: &[u8]) -> Self {
        let mut action = Action::default();
        let mut options = &[][..];
        for (kind, value) in attributes(octets) {
            match kind {
                TCA_ACT_KIND => action.kind = string(value),
                TCA_ACT_COOKIE => action.cookie = value.to_vec(),
                TCA_ACT_OPTIONS => options = value,
                _ => {}
            }
        }
        match action.kind.as_str() {
            "skbedit" => action.read_skbedit(options),
            // Their parameters begin as those of skbedit, and have the same number.
            "gact" | "mirred" => {
                let parameters = attributes(options).find(|(kind, _)| *kind == TCA_SKBEDIT_PARMS);
                action.control = parameters.and_then(|(_, value)| read_control(value));
            }
            _ => {}
        }
        action
    }

    fn read_skbedit(&mut self, options: &[u8]) {
        let (mut mark, mut mask) = (None, u32::MAX);
        for (kind, value) in attributes(options) {
            match kind {
                TCA_SKBEDIT_PARMS => {
                    self.control = read_control(value);
                }
                TCA_SKBEDIT_MARK => mark = number(value),
                TCA_SKBEDIT_MASK => mask = number(value).unwrap_or(mask),
                _ => {}
            }
        }
        self.mark = mark.map(|mark| (mark, mask));
    }
}

/// What becomes of a packet after an action: `tc_gen`, with which the parameters of an action
/// begin.
fn read_control(parameters: &[u8]) -> Option<i32> {
    parameters.get(8..12).and_then(number).map(|control| control as i32)
}

/// The attribute of a filter's options that holds its actions.
fn action_attribute(kind: &str) -> Option<u16> {
    match kind {
        "bpf" => Some(TCA_BPF_ACT),
        "cgroup" => Some(1),
        "matchall" => Some(2),
        "basic" | "flower" => Some(3),
        "fw" => Some(4),
        "route" => Some(6),
        "u32" => Some(7),
        "flow" => Some(9),
        _ => None,
    }
}

#[cfg(all(test, target_endian = "little"))]
mod tests {
    use super::super::samples::{self, message};
    use super::*;

    const OWNER: u64 = 0x1122_3344_5566_7788;

    fn rule(vip: &str, packets: Packets, mark: u32) -> Rule {
        let mark = NonZeroU32::new(mark).unwrap();
        Rule { interface: "eth0".into(), vip: vip.parse().unwrap(), packets, mark }
    }

    #[test]
    fn qdiscs_are_read() {
        assert_eq!(read_qdisc(&message(samples::CLSACT)), Some((2, Qdisc::Clsact)));
        assert_eq!(read_qdisc(&message(samples::NO_QUEUE)), None);
        assert_eq!(read_qdisc(&message(samples::FROM)), None);
    }

    #[test]
    fn filters_of_an_earlier_version_are_read() {
        let filter = Filter::read(&message(samples::FROM)).unwrap();
        assert_eq!((filter.slot.priority, filter.handle, filter.owner()), (302, 1, Some(OWNER)));
        let from = Packets::From(Mac([2, 0, 0, 0, 0, 2]));
        assert_eq!(filter.outdated_rule("eth0"), Some(rule("192.0.2.254", from, 1)));
        assert_eq!(filter.rules("eth0"), None);

        let filter = Filter::read(&message(samples::OPENING)).unwrap();
        assert_eq!(filter.outdated_rule("eth0"), Some(rule("2001:db8::fe", Packets::Opening, 2)));

        let alone = Filter::read(&message(samples::PRIORITY_ALONE)).unwrap();
        assert!(alone.is_container());
        assert_eq!((alone.outdated_rule("eth0"), alone.rules("eth0")), (None, None));
    }

    #[test]
    fn other_filters_are_read() {
        let filter = Filter::read(&message(samples::U32)).unwrap();
        assert_eq!((filter.kind.as_str(), filter.actions.len()), ("u32", 1));
        assert_eq!((filter.actions[0].mark, filter.owner()), (Some((7, u32::MAX)), None));
        assert_eq!(filter.rules("eth0"), None);
        assert!(!filter.is_container());
        assert!(Filter::read(&message(samples::U32_TABLE)).unwrap().is_container());
    }

    /// A filter of a kind of rule each.
    fn written(ipv6: bool) -> (Filter, Vec<Rule>) {
        let vip = if ipv6 { "2001:db8::fe" } else { "192.0.2.254" };
        let kinds = [
            Packets::Later { port: None },
            Packets::Later { port: NonZeroU16::new(443) },
            Packets::From(Mac([2, 0, 0, 0, 0, 2])),
            Packets::Opening,
        ];
        let rules: Vec<Rule> = kinds.map(|packets| rule(vip, packets, u32::MAX)).into();
        let matches = rules.iter().map(|rule| (rule.vip, rule.packets)).collect();
        let program = Matches { rules: matches, ..Matches::default() }.program(ipv6).unwrap();
        let mark = NonZeroU32::MAX;
        (Filter::read(&put_filter(2, ipv6, 5, &program, mark, OWNER)).unwrap(), rules)
    }

    #[test]
    fn what_is_written_is_read_back() {
        for ipv6 in [false, true] {
            let (filter, rules) = written(ipv6);
            assert_eq!((filter.rules("eth0"), filter.owner(), filter.handle), (Some(rules), Some(OWNER), 5));
            assert_eq!(filter.outdated_rule("eth0"), None);
        }
    }

    #[test]
    fn what_differs_from_a_filter_of_ours_is_none() {
        let (good, _) = written(false);
        let changes: [fn(&mut Filter); 8] = [
            |filter| filter.chain = 1,
            |filter| filter.kind = "u32".into(),
            |filter| filter.slot.priority = 300,
            |filter| filter.slot.protocol = ETH_P_IPV6,
            |filter| filter.program[0].k += 1,
            |filter| filter.actions[0].control = Some(0),
            |filter| filter.actions[0].mark = Some((1, 0xff)),
            |filter| filter.actions.push(Action::default()),
        ];
        for (number, change) in changes.iter().enumerate() {
            let mut filter = good.clone();
            change(&mut filter);
            assert_eq!(filter.rules("eth0"), None, "change {number}");
        }
        let good = Filter::read(&message(samples::FROM)).unwrap();
        let changes: [fn(&mut Filter); 8] = [
            |filter| filter.chain = 1,
            |filter| filter.kind = "bpf".into(),
            |filter| filter.slot.priority = 300,
            |filter| filter.keys.other = true,
            |filter| filter.keys.v4 = Some(([192, 0, 2, 0], [255, 255, 255, 0])),
            |filter| filter.keys.protocol = Some(17),
            |filter| filter.actions[0].control = Some(0),
            |filter| filter.actions.push(Action::default()),
        ];
        for (number, change) in changes.iter().enumerate() {
            let mut filter = good.clone();
            change(&mut filter);
            assert_eq!(filter.outdated_rule("eth0"), None, "change {number}");
        }
    }

    #[test]
    fn the_request_for_a_filter() {
        let program = [Instruction { code: 6, jump_true: 1, jump_false: 2, k: 0x0304_0506 }];
        let request = put_filter(2, false, 0, &program, NonZeroU32::new(2).unwrap(), OWNER);
        let expected = [
            // struct tcmsg
            &[0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0xf2, 0xff, 0xff, 0xff, 0x08, 0x00, 0x32, 0x01][..],
            &[8, 0, 1, 0],
            b"bpf\0",
            // TCA_OPTIONS: number of instructions, instructions, skip_hw
            &[108, 0, 2, 0],
            &[6, 0, 4, 0, 1, 0, 0, 0],
            &[12, 0, 5, 0, 6, 0, 1, 2, 6, 5, 4, 3],
            &[8, 0, 9, 0, 1, 0, 0, 0],
            // TCA_BPF_ACT, the first action
            &[76, 0, 1, 0, 72, 0, 1, 0],
            &[12, 0, 1, 0],
            b"skbedit\0",
            &[20, 0, 6, 0],
            b"lvs-dr\0\0\x11\x22\x33\x44\x55\x66\x77\x88",
            &[36, 0, 2, 0],
            &[24, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 255, 255, 255, 255, 0, 0, 0, 0, 0, 0, 0, 0],
            &[8, 0, 5, 0, 2, 0, 0, 0],
        ];
        assert_eq!(request.octets(), expected.concat());
    }
}
