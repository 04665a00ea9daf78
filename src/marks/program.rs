//! Which packets a filter matches, as a program of classic BPF: linux/filter.h, and
//! net/core/filter.c of the kernel.
//!
//! One program stands for all rules of one mark and family on an interface, so that a packet runs
//! as few programs and as few actions as possible. It reads a packet as cls_flower does: a
//! fragment has neither ports nor flags; the extension headers of IPv6 before TCP are skipped.
//!
//! Positive offsets count from the Ethernet header. For a device with a header of another length
//! (a VLAN with `reorder_hdr off`, a tunnel) offsets count from the network header
//! (`SKF_NET_OFF`), which costs more instructions.
//!
//! The rules themselves stand in the program behind its code, as data that is never run. The
//! kernel returns the program when it lists the filter, so that the rules can be read, and the
//! program compared with the one that they give.
//!
//! An eBPF program that sets the mark itself costs a packet some 300 instructions instead of 540,
//! as it needs no action and no second program. But the kernel does not return its instructions,
//! so that rules could neither be read nor compared without a copy elsewhere; and bpf(2) takes
//! `CAP_BPF` in the first user namespace, where a filter takes `CAP_NET_ADMIN` in that of the
//! network.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::num::NonZeroU16;

use super::rule::{Mac, Packets};

/// `struct sock_filter`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Instruction {
    pub(super) code: u16,
    pub(super) jump_true: u8,
    pub(super) jump_false: u8,
    pub(super) k: u32,
}

/// The kernel takes 4096 instructions (`BPF_MAXINSNS`). One answer of a list holds 32 KiB: it must
/// take the filter's other attributes, too.
const LIMIT: usize = 3500;

/// `BPF_LD | BPF_W | BPF_ABS` and others: the class, the size, the mode.
const LOAD_WORD: u16 = 0x20;
const LOAD_HALF: u16 = 0x28;
const LOAD_OCTET: u16 = 0x30;
const LOAD_HALF_AT_X: u16 = 0x48;
const LOAD_OCTET_AT_X: u16 = 0x50;
/// `BPF_LD | BPF_IMM`.
const LOAD_CONSTANT: u16 = 0x00;
/// `BPF_LDX | BPF_IMM`.
const X_CONSTANT: u16 = 0x01;
/// `BPF_LDX | BPF_MEM`.
const X_MEMORY: u16 = 0x61;
/// `BPF_LDX | BPF_B | BPF_MSH`: four times the lower half of an octet.
const X_HEADER_LENGTH: u16 = 0xb1;
/// `BPF_ST`.
const STORE: u16 = 0x02;
const ADD: u16 = 0x04;
const ADD_X: u16 = 0x0c;
const AND: u16 = 0x54;
const SHIFT_LEFT: u16 = 0x64;
const GOTO: u16 = 0x05;
const IF_EQUAL: u16 = 0x15;
const IF_AT_LEAST: u16 = 0x35;
const IF_ANY_BIT: u16 = 0x45;
/// `BPF_RET | BPF_K`.
const RETURN: u16 = 0x06;

/// `SKF_AD_OFF + SKF_AD_MARK`: the packet's mark.
const OFFSET_MARK: u32 = (-0x1000_i32 + 20) as u32;
/// `SKF_NET_OFF`: an offset from the network header.
const NETWORK: u32 = -0x10_0000_i32 as u32;
/// The network header behind an Ethernet header.
const ETHERNET: u32 = 14;

const ETH_P_IP: u32 = 0x0800;
const ETH_P_IPV6: u32 = 0x86dd;
const TCP: u32 = 6;
const SYN: u32 = 0x02;
const ACK: u32 = 0x10;

/// Extension headers of IPv6: hop-by-hop, routing, destination, and the one of a fragment.
const SKIPPED: [u32; 3] = [0, 43, 60];
const FRAGMENT: u32 = 44;
/// Extension headers that are skipped. RFC 8200 recommends at most five (section 4.1), one of them
/// that of a fragment.
const HEADERS: usize = 5;

/// The packets that one filter matches, all of one family.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Matches {
    /// Packets of any of these rules.
    pub(super) rules: BTreeSet<(IpAddr, Packets)>,
    /// The marks of other filters that keep a packet from being matched as [`Packets::Later`].
    pub(super) kept_by_later: BTreeSet<u32>,
    /// The marks of other filters that keep a packet from being matched as [`Packets::From`].
    pub(super) kept_by_from: BTreeSet<u32>,
}

impl Matches {
    /// The program, which returns 0 for other packets. `None`: it would be too long for one
    /// filter.
    pub(super) fn program(&self, ipv6: bool) -> Option<Vec<Instruction>> {
        let grouped = Grouped::of(&self.rules);
        let mut code = Code::new(ipv6);
        let (accept, reject) = (code.label(), code.label());
        // The sections in the order of how many packets they match. A section that matches nothing
        // is left out.
        let (after_from, after_opening) = (code.label(), code.label());
        if !grouped.from.is_empty() {
            code.from(&grouped.from, &self.kept_by_from, accept, after_from);
        }
        code.place(after_from);
        if !grouped.opening.is_empty() {
            let opening = [(&grouped.opening[..], Wanted::Opening)];
            code.tcp(&opening, &BTreeSet::new(), accept, after_opening);
        }
        code.place(after_opening);
        if !grouped.later.is_empty() {
            let later: Vec<_> = grouped.later.iter().map(|(vips, ports)| (&vips[..], Wanted::Later(ports))).collect();
            code.tcp(&later, &self.kept_by_later, accept, reject);
        } else {
            code.jump(reject);
        }
        code.place(accept);
        code.op(RETURN, u32::MAX);
        let data = self.data(&grouped);
        data.iter().for_each(|word| code.op(LOAD_CONSTANT, *word));
        code.op(LOAD_CONSTANT, data.len() as u32);
        code.place(reject);
        code.op(RETURN, 0);
        Some(code.resolve()).filter(|program| program.len() <= LIMIT)
    }

    /// Reads the data of a program. `None`: it is not, to the last instruction, the program of
    /// what it says.
    pub(super) fn read(program: &[Instruction], ipv6: bool) -> Option<Self> {
        let (&[length, _], front) = program.split_last_chunk::<2>().map(|(front, last)| (last, front))?;
        let start = front.len().checked_sub(length.k as usize)?;
        let words: Vec<u32> = front[start..].iter().map(|instruction| instruction.k).collect();
        let found = Self::decode(&mut Words(&words), ipv6)?;
        (found.program(ipv6)? == program).then_some(found)
    }

    fn data(&self, grouped: &Grouped) -> Vec<u32> {
        let mut words = Vec::new();
        let vips = |words: &mut Vec<u32>, vips: &[IpAddr]| {
            words.push(vips.len() as u32);
            vips.iter().for_each(|vip| words.extend(words_of(*vip)));
        };
        for kept in [&self.kept_by_later, &self.kept_by_from] {
            words.push(kept.len() as u32);
            words.extend(kept);
        }
        words.push(grouped.later.len() as u32);
        for (of, ports) in &grouped.later {
            vips(&mut words, of);
            words.push(ports.len() as u32);
            words.extend(ports.iter().map(|port| port.map_or(0, |port| u32::from(port.get()))));
        }
        words.push(grouped.from.len() as u32);
        for (macs, of) in &grouped.from {
            words.push(macs.len() as u32);
            macs.iter().for_each(|mac| words.extend(<[u32; 2]>::from(halves(*mac))));
            vips(&mut words, of);
        }
        vips(&mut words, &grouped.opening);
        words
    }

    fn decode(words: &mut Words, ipv6: bool) -> Option<Self> {
        let mut found = Matches {
            kept_by_later: words.list(Words::next)?.into_iter().collect(),
            kept_by_from: words.list(Words::next)?.into_iter().collect(),
            ..Matches::default()
        };
        let vips = |words: &mut Words| words.list(|words| words.address(ipv6));
        for _ in 0..words.next()? {
            let of = vips(words)?;
            let ports = words.list(|words| u16::try_from(words.next()?).ok().map(NonZeroU16::new))?;
            let pairs = of.iter().flat_map(|vip| ports.iter().map(|port| (*vip, Packets::Later { port: *port })));
            found.rules.extend(pairs);
        }
        for _ in 0..words.next()? {
            let macs = words.list(Words::mac)?;
            let of = vips(words)?;
            found.rules.extend(of.iter().flat_map(|vip| macs.iter().map(|mac| (*vip, Packets::From(*mac)))));
        }
        found.rules.extend(vips(words)?.into_iter().map(|vip| (vip, Packets::Opening)));
        words.0.is_empty().then_some(found)
    }
}

/// The rules by kind. Of [`Packets::Later`] the VIPs with the same ports, of [`Packets::From`] the
/// MAC addresses with the same VIPs stand together: they share code.
#[derive(Default)]
struct Grouped {
    later: Vec<(Vec<IpAddr>, Vec<Option<NonZeroU16>>)>,
    from: Vec<(Vec<Mac>, Vec<IpAddr>)>,
    opening: Vec<IpAddr>,
}

impl Grouped {
    fn of(rules: &BTreeSet<(IpAddr, Packets)>) -> Self {
        let mut opening = Vec::new();
        let (mut later, mut from) = (BTreeMap::new(), BTreeMap::new());
        for (vip, packets) in rules {
            match packets {
                Packets::Later { port } => later.entry(*vip).or_insert_with(Vec::new).push(*port),
                Packets::From(mac) => from.entry(*mac).or_insert_with(Vec::new).push(*vip),
                Packets::Opening => opening.push(*vip),
            }
        }
        Grouped { later: by_right(later), from: by_right(from), opening }
    }
}

/// Puts those with the same list together.
fn by_right<L: Ord, R: Ord>(lists: BTreeMap<L, Vec<R>>) -> Vec<(Vec<L>, Vec<R>)> {
    let mut groups: BTreeMap<Vec<R>, Vec<L>> = BTreeMap::new();
    for (left, right) in lists {
        groups.entry(right).or_default().push(left);
    }
    groups.into_iter().map(|(right, left)| (left, right)).collect()
}

/// The first two octets, and the last four.
fn halves(Mac([a, b, c, d, e, f]): Mac) -> (u32, u32) {
    (u32::from_be_bytes([0, 0, a, b]), u32::from_be_bytes([c, d, e, f]))
}

fn words_of(address: IpAddr) -> Vec<u32> {
    match address {
        IpAddr::V4(address) => vec![u32::from(address)],
        IpAddr::V6(address) => {
            let bits = u128::from(address);
            [96, 64, 32, 0].map(|shift| (bits >> shift) as u32).into()
        }
    }
}

/// Data words that are left to read.
struct Words<'a>(&'a [u32]);

impl Words<'_> {
    fn next(&mut self) -> Option<u32> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    /// A number of entries, then these.
    fn list<T>(&mut self, entry: impl Fn(&mut Self) -> Option<T>) -> Option<Vec<T>> {
        (0..self.next()?).map(|_| entry(self)).collect()
    }

    fn address(&mut self, ipv6: bool) -> Option<IpAddr> {
        if !ipv6 {
            return Some(Ipv4Addr::from(self.next()?).into());
        }
        let bits = (0..4).try_fold(0, |bits, _| Some(bits << 32 | u128::from(self.next()?)))?;
        Some(Ipv6Addr::from(bits).into())
    }

    fn mac(&mut self) -> Option<Mac> {
        let [a, b] = u16::try_from(self.next()?).ok()?.to_be_bytes();
        let [c, d, e, f] = self.next()?.to_be_bytes();
        Some(Mac([a, b, c, d, e, f]))
    }
}

/// Which TCP packets.
#[derive(Clone, Copy)]
enum Wanted<'a> {
    /// Without SYN, to these ports; `None`: to any port, fragments too.
    Later(&'a [Option<NonZeroU16>]),
    Opening,
}

/// How the header is found.
#[derive(Clone, Copy, PartialEq)]
enum Form {
    /// IPv4 without options behind an Ethernet header, where every offset is known.
    Plain,
    /// Behind an Ethernet header.
    Ethernet,
    /// At the network header.
    Network,
}

impl Form {
    fn base(self) -> u32 {
        match self {
            Form::Plain | Form::Ethernet => ETHERNET,
            Form::Network => NETWORK,
        }
    }
}

/// A place that a jump leads to. All jumps lead forwards.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Label(usize);

#[derive(Clone, Copy)]
enum Line {
    Op(u16, u32),
    /// Compares the accumulator with a constant. `None`: the next line.
    Branch(u16, u32, Option<Label>, Option<Label>),
    Jump(Label),
    Place(Label),
}

/// Code with labels.
struct Code {
    ipv6: bool,
    lines: Vec<Line>,
    labels: usize,
}

impl Code {
    fn new(ipv6: bool) -> Self {
        Code { ipv6, lines: Vec::new(), labels: 0 }
    }

    fn label(&mut self) -> Label {
        self.labels += 1;
        Label(self.labels - 1)
    }

    fn place(&mut self, label: Label) {
        self.lines.push(Line::Place(label));
    }

    fn op(&mut self, code: u16, k: u32) {
        self.lines.push(Line::Op(code, k));
    }

    fn jump(&mut self, to: Label) {
        self.lines.push(Line::Jump(to));
    }

    fn jump_if(&mut self, code: u16, k: u32, to: Label) {
        self.lines.push(Line::Branch(code, k, Some(to), None));
    }

    fn jump_unless(&mut self, code: u16, k: u32, to: Label) {
        self.lines.push(Line::Branch(code, k, None, Some(to)));
    }

    fn branch(&mut self, code: u16, k: u32, yes: Label, no: Label) {
        self.lines.push(Line::Branch(code, k, Some(yes), Some(no)));
    }

    fn ether_type(&self) -> u32 {
        if self.ipv6 { ETH_P_IPV6 } else { ETH_P_IP }
    }

    /// Leads a packet with one of these marks to `other`.
    fn kept(&mut self, marks: &BTreeSet<u32>, other: Label) {
        if !marks.is_empty() {
            self.op(LOAD_WORD, OFFSET_MARK);
            marks.iter().for_each(|mark| self.jump_if(IF_EQUAL, *mark, other));
        }
    }

    /// Every packet from one of the MAC addresses to one of its VIPs. The address comes first:
    /// those of clients are others.
    fn from(&mut self, groups: &[(Vec<Mac>, Vec<IpAddr>)], kept: &BTreeSet<u32>, accept: Label, other: Label) {
        self.kept(kept, other);
        let mut ends: BTreeMap<u32, Vec<(u32, usize)>> = BTreeMap::new();
        for (number, (macs, _)) in groups.iter().enumerate() {
            for (first, last) in macs.iter().map(|mac| halves(*mac)) {
                ends.entry(last).or_default().push((first, number));
            }
        }
        // Addresses that differ in the last octets alone share the test of the first ones.
        let mut starts: Vec<(&[(u32, usize)], Label)> = Vec::new();
        let mut keys = Vec::new();
        for (last, found) in &ends {
            let label = match starts.iter().find(|(start, _)| start == found) {
                Some((_, label)) => *label,
                None => {
                    let label = self.label();
                    starts.push((found, label));
                    label
                }
            };
            keys.push((*last, label));
        }
        self.op(LOAD_WORD, 8);
        self.search(&keys, other);
        let vips: Vec<Label> = groups.iter().map(|_| self.label()).collect();
        for (found, label) in starts {
            self.place(label);
            self.op(LOAD_HALF, 6);
            let keys: Vec<_> = found.iter().map(|(first, number)| (*first, vips[*number])).collect();
            self.search(&keys, other);
        }
        for ((_, of), label) in groups.iter().zip(vips) {
            let elsewhere = self.label();
            let targets: Vec<_> = of.iter().map(|vip| (*vip, accept)).collect();
            self.place(label);
            self.op(LOAD_HALF, 12);
            self.jump_unless(IF_EQUAL, self.ether_type(), elsewhere);
            self.destination(ETHERNET, &targets, other);
            self.place(elsewhere);
            self.destination(NETWORK, &targets, other);
        }
    }

    /// TCP packets to VIPs.
    fn tcp(&mut self, groups: &[(&[IpAddr], Wanted)], kept: &BTreeSet<u32>, accept: Label, other: Label) {
        self.kept(kept, other);
        let ports: Vec<Label> = groups.iter().map(|_| self.label()).collect();
        let (ethernet, elsewhere) = (self.label(), self.label());
        self.op(LOAD_WORD, 12);
        if self.ipv6 {
            self.op(AND, 0xffff_0000);
            self.jump_unless(IF_EQUAL, ETH_P_IPV6 << 16, elsewhere);
        } else {
            // With version 4 and a header of five words, which has no options.
            self.op(AND, 0xffff_ff00);
            self.jump_unless(IF_EQUAL, ETH_P_IP << 16 | 0x4500, ethernet);
            self.tcp_in(Form::Plain, groups, &ports, accept, other);
            self.place(ethernet);
            self.op(AND, 0xffff_0000);
            self.jump_unless(IF_EQUAL, ETH_P_IP << 16, elsewhere);
        }
        self.tcp_in(Form::Ethernet, groups, &ports, accept, other);
        self.place(elsewhere);
        self.tcp_in(Form::Network, groups, &ports, accept, other);
        for ((_, wanted), label) in groups.iter().zip(ports) {
            if let (Wanted::Later(wanted), false) = (wanted, any_port(*wanted)) {
                let keys: Vec<_> = wanted.iter().flatten().map(|port| (u32::from(port.get()), accept)).collect();
                self.place(label);
                self.search(&keys, other);
            }
        }
    }

    fn tcp_in(&mut self, form: Form, groups: &[(&[IpAddr], Wanted)], ports: &[Label], accept: Label, other: Label) {
        let labels: Vec<Label> = groups.iter().map(|_| self.label()).collect();
        let targets = groups.iter().zip(&labels).flat_map(|((vips, _), label)| vips.iter().map(|vip| (*vip, *label)));
        let mut targets: Vec<_> = targets.collect();
        targets.sort_by_key(|(vip, _)| *vip);
        self.destination(form.base(), &targets, other);
        for (((_, wanted), label), ports) in groups.iter().zip(labels).zip(ports) {
            self.place(label);
            if self.ipv6 {
                self.tcp_over_ipv6(form.base(), *wanted, *ports, accept, other);
            } else {
                self.tcp_over_ipv4(form, *wanted, *ports, accept, other);
            }
        }
    }

    fn tcp_over_ipv4(&mut self, form: Form, wanted: Wanted, ports: Label, accept: Label, other: Label) {
        let (base, whole) = (form.base(), self.label());
        // Flags, offset of the fragment, time to live, protocol.
        self.op(LOAD_WORD, base.wrapping_add(6));
        self.op(AND, 0x3fff_00ff);
        self.jump_if(IF_EQUAL, TCP, whole);
        if any_port(wanted) {
            self.op(AND, 0xff);
            self.branch(IF_EQUAL, TCP, accept, other);
        } else {
            self.jump(other);
        }
        self.place(whole);
        if form == Form::Plain {
            self.segment(wanted, false, base + 20, ports, accept, other);
        } else {
            self.op(X_HEADER_LENGTH, base);
            self.segment(wanted, true, base, ports, accept, other);
        }
    }

    fn tcp_over_ipv6(&mut self, base: u32, wanted: Wanted, ports: Label, accept: Label, other: Label) {
        let (extended, fragment, segment) = (self.label(), self.label(), self.label());
        self.op(LOAD_OCTET, base.wrapping_add(6));
        self.jump_unless(IF_EQUAL, TCP, extended);
        self.segment(wanted, false, base.wrapping_add(40), ports, accept, other);

        // X is the place of the header whose kind the accumulator holds.
        self.place(extended);
        self.op(X_CONSTANT, 40);
        for _ in 0..HEADERS {
            let skip = self.label();
            self.jump_if(IF_EQUAL, FRAGMENT, fragment);
            self.jump_if(IF_EQUAL, TCP, segment);
            let [first, second, third] = SKIPPED;
            self.jump_if(IF_EQUAL, first, skip);
            self.jump_if(IF_EQUAL, second, skip);
            self.jump_unless(IF_EQUAL, third, other);
            self.place(skip);
            // Its length: in eights of octets, without the first.
            self.op(LOAD_OCTET_AT_X, base.wrapping_add(1));
            self.op(ADD, 1);
            self.op(SHIFT_LEFT, 3);
            self.op(ADD_X, 0);
            self.op(STORE, 0);
            self.op(LOAD_OCTET_AT_X, base);
            self.op(X_MEMORY, 0);
        }
        self.jump_if(IF_EQUAL, TCP, segment);
        self.jump_unless(IF_EQUAL, FRAGMENT, other);
        self.place(fragment);
        if any_port(wanted) {
            self.op(LOAD_OCTET_AT_X, base);
            self.branch(IF_EQUAL, TCP, accept, other);
        } else {
            self.jump(other);
        }
        self.place(segment);
        self.segment(wanted, true, base, ports, accept, other);
    }

    /// The TCP header at this offset, from X if `at_x`.
    fn segment(&mut self, wanted: Wanted, at_x: bool, offset: u32, ports: Label, accept: Label, other: Label) {
        let (octet, half) = if at_x { (LOAD_OCTET_AT_X, LOAD_HALF_AT_X) } else { (LOAD_OCTET, LOAD_HALF) };
        self.op(octet, offset.wrapping_add(13));
        match wanted {
            Wanted::Opening => {
                self.op(AND, SYN | ACK);
                self.branch(IF_EQUAL, SYN, accept, other);
            }
            Wanted::Later(_) if any_port(wanted) => self.branch(IF_ANY_BIT, SYN, other, accept),
            Wanted::Later(_) => {
                self.jump_if(IF_ANY_BIT, SYN, other);
                self.op(half, offset.wrapping_add(2));
                self.jump(ports);
            }
        }
    }

    /// Leads a packet to the label of its destination address. The targets are sorted.
    fn destination(&mut self, base: u32, targets: &[(IpAddr, Label)], other: Label) {
        if !self.ipv6 {
            let keys: Vec<_> = targets.iter().map(|(vip, label)| (words_of(*vip)[0], *label)).collect();
            self.op(LOAD_WORD, base.wrapping_add(16));
            return self.search(&keys, other);
        }
        let mut ends: BTreeMap<u32, Vec<(Vec<u32>, Label)>> = BTreeMap::new();
        for (vip, label) in targets {
            let words = words_of(*vip);
            ends.entry(words[3]).or_default().push((words, *label));
        }
        let keys: Vec<_> = ends.keys().map(|last| (*last, self.label())).collect();
        self.op(LOAD_WORD, base.wrapping_add(36));
        self.search(&keys, other);
        for ((_, found), (_, label)) in ends.into_iter().zip(keys) {
            self.place(label);
            for (words, target) in found {
                let next = self.label();
                for number in [2, 1] {
                    self.op(LOAD_WORD, base.wrapping_add(24 + 4 * number));
                    self.jump_unless(IF_EQUAL, words[number as usize], next);
                }
                self.op(LOAD_WORD, base.wrapping_add(24));
                self.jump_if(IF_EQUAL, words[0], target);
                self.place(next);
            }
            self.jump(other);
        }
    }

    /// Leads to the label of the key that the accumulator holds. The keys are sorted.
    fn search(&mut self, keys: &[(u32, Label)], other: Label) {
        match keys {
            [] => self.jump(other),
            [front @ .., (last, label)] if keys.len() <= 4 => {
                front.iter().for_each(|(key, label)| self.jump_if(IF_EQUAL, *key, *label));
                self.branch(IF_EQUAL, *last, *label, other);
            }
            _ => {
                let (left, right) = keys.split_at(keys.len() / 2);
                let upper = self.label();
                self.jump_if(IF_AT_LEAST, right[0].0, upper);
                self.search(left, other);
                self.place(upper);
                self.search(right, other);
            }
        }
    }

    /// Replaces labels by distances. A conditional jump reaches 255 instructions, [`GOTO`] any
    /// number.
    fn resolve(self) -> Vec<Instruction> {
        let mut far = vec![false; self.lines.len()];
        let size = |line: &Line, far: bool| match line {
            Line::Op(..) | Line::Jump(_) => 1,
            Line::Branch(_, _, yes, no) if far => 1 + usize::from(yes.is_some()) + usize::from(no.is_some()),
            Line::Branch(..) => 1,
            Line::Place(_) => 0,
        };
        let (starts, places) = loop {
            let (mut starts, mut places, mut at) = (Vec::new(), vec![0; self.labels], 0);
            for (line, far) in self.lines.iter().zip(&far) {
                starts.push(at);
                if let Line::Place(label) = line {
                    places[label.0] = at;
                }
                at += size(line, *far);
            }
            let mut same = true;
            for (number, line) in self.lines.iter().enumerate() {
                if let Line::Branch(_, _, yes, no) = line {
                    let reaches = |label: &Label| places[label.0] - starts[number] - 1 <= usize::from(u8::MAX);
                    if !far[number] && !yes.iter().chain(no).all(reaches) {
                        far[number] = true;
                        same = false;
                    }
                }
            }
            if same {
                break (starts, places);
            }
        };
        let mut program = Vec::new();
        let plain = |code, k| Instruction { code, jump_true: 0, jump_false: 0, k };
        for (number, line) in self.lines.iter().enumerate() {
            let distance = |label: &Label, from: usize| (places[label.0] - from - 1) as u32;
            let start = starts[number];
            match line {
                Line::Op(code, k) => program.push(plain(*code, *k)),
                Line::Jump(to) => program.push(plain(GOTO, distance(to, start))),
                Line::Place(_) => {}
                Line::Branch(code, k, yes, no) if far[number] => {
                    let jump_true = if yes.is_some() { 0 } else { 1 };
                    let jump_false = if yes.is_some() { 1 } else { 0 };
                    program.push(Instruction { code: *code, jump_true, jump_false, k: *k });
                    for to in yes.iter().chain(no) {
                        program.push(plain(GOTO, distance(to, program.len())));
                    }
                }
                Line::Branch(code, k, yes, no) => {
                    let near = |to: &Option<Label>| to.map_or(0, |to| distance(&to, start) as u8);
                    program.push(Instruction { code: *code, jump_true: near(yes), jump_false: near(no), k: *k });
                }
            }
        }
        program
    }
}

/// Whether fragments and all ports are wanted.
fn any_port(wanted: Wanted) -> bool {
    matches!(wanted, Wanted::Later(ports) if ports.contains(&None))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs a program as the kernel does. `network`: where the network header starts.
    fn run(program: &[Instruction], frame: &[u8], network: usize, mark: u32) -> u32 {
        let (mut a, mut x, mut memory, mut at) = (0_u32, 0_u32, [0_u32; 16], 0);
        let load = |offset: u32, size: usize| -> Option<u32> {
            let start = match offset {
                0..0x8000_0000 => offset as usize,
                _ => network + offset.checked_sub(NETWORK).filter(|offset| *offset < 0x10_0000)? as usize,
            };
            let octets = frame.get(start..start + size)?;
            Some(octets.iter().fold(0, |value, octet| value << 8 | u32::from(*octet)))
        };
        loop {
            let Instruction { code, jump_true, jump_false, k } = program[at];
            at += 1;
            let mut jump = |condition: bool| at += usize::from(if condition { jump_true } else { jump_false });
            let loaded = match code {
                LOAD_WORD if k == OFFSET_MARK => Some(mark),
                LOAD_WORD => load(k, 4),
                LOAD_HALF => load(k, 2),
                LOAD_OCTET => load(k, 1),
                LOAD_HALF_AT_X => load(k.wrapping_add(x), 2),
                LOAD_OCTET_AT_X => load(k.wrapping_add(x), 1),
                X_HEADER_LENGTH => {
                    let Some(octet) = load(k, 1) else { return 0 };
                    x = 4 * (octet & 0xf);
                    continue;
                }
                X_CONSTANT => {
                    x = k;
                    continue;
                }
                X_MEMORY => {
                    x = memory[k as usize];
                    continue;
                }
                STORE => {
                    memory[k as usize] = a;
                    continue;
                }
                ADD => Some(a.wrapping_add(k)),
                ADD_X => Some(a.wrapping_add(x)),
                AND => Some(a & k),
                SHIFT_LEFT => Some(a << k),
                GOTO => {
                    at += k as usize;
                    continue;
                }
                IF_EQUAL => {
                    jump(a == k);
                    continue;
                }
                IF_AT_LEAST => {
                    jump(a >= k);
                    continue;
                }
                IF_ANY_BIT => {
                    jump(a & k != 0);
                    continue;
                }
                RETURN => return k,
                other => panic!("instruction {other:#x} is never run"),
            };
            match loaded {
                Some(value) => a = value,
                // Behind the end of the packet.
                None => return 0,
            }
        }
    }

    #[derive(Debug, Clone, Copy, PartialEq)]
    enum Link {
        Ethernet,
        /// A VLAN's device with `reorder_hdr off`.
        Tagged,
        /// A tunnel's.
        Bare,
    }

    /// What a packet is, as cls_flower would see it.
    #[derive(Debug, Clone, Copy)]
    struct Packet {
        link: Link,
        source: Mac,
        vip: IpAddr,
        protocol: u8,
        port: u16,
        flags: u8,
        /// Not, the first, a later one.
        fragment: u8,
        /// Words of options, or extension headers.
        more: u8,
        mark: u32,
    }

    impl Packet {
        fn octets(&self) -> (Vec<u8>, usize) {
            let (first, last) = halves(self.source);
            let source = [&first.to_be_bytes()[2..], &last.to_be_bytes()].concat();
            let kind = if self.vip.is_ipv6() { ETH_P_IPV6 } else { ETH_P_IP } as u16;
            let mut frame = match self.link {
                Link::Ethernet => [&[2, 0, 0, 0, 0, 1][..], &source, &kind.to_be_bytes()].concat(),
                Link::Tagged => [&[2, 0, 0, 0, 0, 1][..], &source, &[0x81, 0, 0, 100], &kind.to_be_bytes()].concat(),
                Link::Bare => Vec::new(),
            };
            let network = frame.len();
            match self.vip {
                IpAddr::V4(vip) => {
                    frame.extend([0x45 + self.more, 0, 0, 60, 0, 0]);
                    frame.extend([[0x40, 0], [0x20, 0], [0, 185]][usize::from(self.fragment)]);
                    frame.extend([64, self.protocol, 0, 0, 198, 51, 100, 9]);
                    frame.extend(vip.octets());
                    frame.extend(vec![1; 4 * usize::from(self.more)]);
                }
                IpAddr::V6(vip) => {
                    // Headers in turn; the last one names the protocol.
                    let mut headers: Vec<u8> =
                        (0..self.more).map(|number| SKIPPED[usize::from(number) % 3] as u8).collect();
                    if self.fragment > 0 {
                        headers.push(FRAGMENT as u8);
                    }
                    let next = |number: usize| headers.get(number).copied().unwrap_or(self.protocol);
                    frame.extend([0x60, 0, 0, 0, 0, 80, next(0), 64]);
                    frame.extend([0x20; 16]);
                    frame.extend(vip.octets());
                    for (number, header) in headers.iter().enumerate() {
                        let long = u8::from(u32::from(*header) != FRAGMENT && number % 2 == 1);
                        frame.extend([next(number + 1), long, 0, u8::from(self.fragment == 1)]);
                        frame.extend(vec![0; 4 + 8 * usize::from(long)]);
                    }
                }
            }
            let [high, low] = self.port.to_be_bytes();
            frame.extend([0x30, 0x39, high, low, 0, 0, 0, 1, 0, 0, 0, 0, 0x50, self.flags, 0, 0, 0, 0, 0, 0]);
            (frame, network)
        }

        /// Whether cls_flower would take it for this rule.
        fn is(&self, (vip, packets): (IpAddr, Packets)) -> bool {
            let tcp = u32::from(self.protocol) == TCP;
            let (flags, port) = if self.fragment == 0 { (self.flags, self.port) } else { (0, 0) };
            vip == self.vip
                && match packets {
                    Packets::Later { port: wanted } => {
                        tcp && flags & 2 == 0 && wanted.is_none_or(|wanted| wanted.get() == port)
                    }
                    Packets::From(mac) => self.link != Link::Bare && mac == self.source,
                    Packets::Opening => tcp && flags & 0x12 == 2,
                }
        }
    }

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn later(port: u16) -> Packets {
        Packets::Later { port: NonZeroU16::new(port) }
    }

    const FAMILIES: [[&str; 3]; 2] =
        [["192.0.2.1", "192.0.2.2", "203.0.113.9"], ["2001:db8::1", "2001:db8:0:1::1", "2001:db8::2"]];

    /// Numbers that look random.
    struct Numbers(u64);

    impl Numbers {
        fn below(&mut self, limit: usize) -> usize {
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (self.0 >> 33) as usize % limit
        }

        fn of<T: Copy>(&mut self, some: &[T]) -> T {
            some[self.below(some.len())]
        }

        fn mac(&mut self) -> Mac {
            // Few, so that some are equal in either half.
            Mac([2, self.of(&[0, 1]), 0, 0, 0, self.below(12) as u8])
        }

        fn rule(&mut self, vips: &[IpAddr]) -> (IpAddr, Packets) {
            let packets = match self.below(4) {
                0 => later(self.of(&[0, 80, 80, 443, 8080, 81])),
                1 => Packets::Opening,
                _ => Packets::From(self.mac()),
            };
            (self.of(vips), packets)
        }

        fn packet(&mut self, vips: &[IpAddr]) -> Packet {
            Packet {
                link: self.of(&[Link::Ethernet, Link::Ethernet, Link::Tagged, Link::Bare]),
                source: self.mac(),
                vip: self.of(vips),
                protocol: self.of(&[6, 6, 6, 17]),
                port: self.of(&[80, 443, 81, 22]),
                flags: self.of(&[2, 0x10, 0x12, 0x18, 4, 0]),
                fragment: self.of(&[0, 0, 0, 1, 2]),
                more: self.below(HEADERS) as u8,
                mark: self.of(&[0, 0, 7, 8, 9]),
            }
        }
    }

    #[test]
    fn programs_match_what_their_rules_say() {
        let mut numbers = Numbers(1);
        let mut hits = 0;
        for round in 0..600 {
            let vips = FAMILIES[round % 2].map(address);
            let ipv6 = round % 2 == 1;
            let rules: BTreeSet<_> = (0..numbers.below(12)).map(|_| numbers.rule(&vips[..2])).collect();
            let mut kept = || [7, 8].into_iter().filter(|_| numbers.below(3) == 0).collect::<BTreeSet<u32>>();
            let matches = Matches { kept_by_later: kept(), kept_by_from: kept(), rules };
            let program = matches.program(ipv6).unwrap();
            assert_eq!(Matches::read(&program, ipv6), Some(matches.clone()));
            for _ in 0..200 {
                let packet = numbers.packet(&vips);
                let (frame, network) = packet.octets();
                let wanted = matches.rules.iter().any(|rule| {
                    let kept = match rule.1 {
                        Packets::Later { .. } => matches.kept_by_later.contains(&packet.mark),
                        Packets::From(_) => matches.kept_by_from.contains(&packet.mark),
                        Packets::Opening => false,
                    };
                    packet.is(*rule) && !kept
                });
                let found = run(&program, &frame, network, packet.mark) != 0;
                assert_eq!(found, wanted, "{packet:?} {matches:?}");
                hits += usize::from(found);
            }
        }
        assert!(hits > 5000, "{hits}");
    }

    #[test]
    fn a_client_s_packet_takes_few_steps() {
        // The director's side: most packets come from clients, and are no peer's.
        let vip = address("192.0.2.1");
        let from = (0..10).map(|last| (vip, Packets::From(Mac([2, 0, 0, 0, 0, last]))));
        let from = Matches { rules: from.collect(), ..Matches::default() }.program(false).unwrap();
        let code = from.iter().position(|instruction| instruction.code == RETURN).unwrap();
        assert!(code <= 40, "{code}");
        let later = Matches { rules: [(vip, later(80))].into(), kept_by_later: [1].into(), ..Matches::default() };
        let later = later.program(false).unwrap();
        let plain = later.iter().filter(|found| found.code != LOAD_CONSTANT).count();
        assert!(plain <= 60, "{plain}");
    }

    #[test]
    fn many_rules_are_searched_in_few_steps() {
        let vip = address("192.0.2.1");
        let rules = (1..=256).map(|port| (vip, later(port * 7)));
        let matches = Matches { rules: rules.collect(), ..Matches::default() };
        let program = matches.program(false).unwrap();
        assert_eq!(Matches::read(&program, false), Some(matches));
        for port in 1..2000 {
            let packet = Packet {
                link: Link::Ethernet,
                source: Mac([2; 6]),
                vip,
                protocol: 6,
                port,
                flags: 0x10,
                fragment: 0,
                more: 0,
                mark: 0,
            };
            let (frame, network) = packet.octets();
            assert_eq!(run(&program, &frame, network, 0) != 0, port % 7 == 0 && port <= 256 * 7, "{port}");
        }
        let rules = (1..=4000).map(|port| (vip, later(port)));
        assert_eq!(Matches { rules: rules.collect(), ..Matches::default() }.program(false), None);
    }

    /// Of 192.0.2.1: TCP without SYN to port 80, unless the mark is 1.
    #[test]
    fn a_whole_program() {
        let rules = [(address("192.0.2.1"), later(80))].into();
        let matches = Matches { rules, kept_by_later: [1].into(), ..Matches::default() };
        let program = matches.program(false).unwrap();
        let front: Vec<_> = program.iter().take(15).map(|i| (i.code, i.jump_true, i.jump_false, i.k)).collect();
        let vip = 0xc000_0201;
        let n = program.len() as u8 - 1;
        let expected = [
            (LOAD_WORD, 0, 0, OFFSET_MARK),
            (IF_EQUAL, n - 2, 0, 1),
            (LOAD_WORD, 0, 0, 12),
            (AND, 0, 0, 0xffff_ff00),
            (IF_EQUAL, 0, 10, 0x0800_4500),
            (LOAD_WORD, 0, 0, 30),
            (IF_EQUAL, 0, n - 7, vip),
            (LOAD_WORD, 0, 0, 20),
            (AND, 0, 0, 0x3fff_00ff),
            (IF_EQUAL, 1, 0, TCP),
            (GOTO, 0, 0, u32::from(n) - 11),
            (LOAD_OCTET, 0, 0, 47),
            (IF_ANY_BIT, n - 13, 0, SYN),
            (LOAD_HALF, 0, 0, 36),
            (GOTO, 0, 0, front[14].3),
        ];
        assert_eq!(front, expected);
        // Data: one mark; none; one group of one VIP and one port; no MAC addresses; no VIPs.
        let data: Vec<u32> = program[program.len() - 12..program.len() - 1].iter().map(|i| i.k).collect();
        assert_eq!(data, [1, 1, 0, 1, 1, vip, 1, 80, 0, 0, 10]);
    }

    #[test]
    fn what_is_no_program_of_ours_is_none() {
        let rules = [(address("2001:db8::1"), later(80)), (address("2001:db8::1"), Packets::From(Mac([2; 6])))].into();
        let matches = Matches { rules, kept_by_later: [1].into(), ..Matches::default() };
        let program = matches.program(true).unwrap();
        assert_eq!(Matches::read(&program, true), Some(matches));
        assert_eq!(Matches::read(&program, false), None);
        assert_eq!(Matches::read(&[], true), None);
        for length in 0..program.len() {
            assert_eq!(Matches::read(&program[..length], true), None);
        }
        for place in 0..program.len() {
            for change in [1, 0x80, u32::MAX] {
                let mut changed = program.clone();
                changed[place].k ^= change;
                let found = Matches::read(&changed, true);
                assert!(found.is_none_or(|found| found.program(true).unwrap() == changed), "{place}");
                changed[place].k ^= change;
                changed[place].code ^= change as u16;
                assert_eq!(Matches::read(&changed, true), None, "{place}");
            }
        }
    }
}
