//! Runs the program on this machine: what it does with each kind of packet.

use std::net::SocketAddr;
use std::num::NonZeroU32;

use super::assembler::{Helper, Line, Map, Register, Size, Test};
use super::program::{COUNTERS, PROGRAM, TTL};
use super::{Mac, ServiceMarks, peer_key, service_key};

/// Where things lie, in the machine's addresses.
const CONTEXT: u64 = 0x1000;
const STACK_END: u64 = 0x3000;
const STACK: u64 = STACK_END - 512;
const SERVICE: u64 = 0x4000;
const PEER: u64 = 0x5000;
const COUNTS: u64 = 0x6000;
const SOCKET: u64 = 0x7000;
const MAPS: u64 = 0x8000;

/// A packet, and what surrounds it.
#[derive(Clone)]
struct Machine {
    frame: Vec<u8>,
    /// The state of the socket that takes it.
    socket: Option<u32>,
    vlan: bool,
    marks: ServiceMarks,
    registers: [u64; 11],
    memory: Vec<(u64, Vec<u8>)>,
    held: bool,
}

/// The mark, the TTL, and which counter has moved.
type Outcome = (u32, u8, Option<usize>);

const VIPS: [&str; 2] = ["192.0.2.254:80", "[2001:db8::fe]:80"];
const NODE: u8 = 2;
const CLIENT: u8 = 9;
const MARK: u32 = 77;

fn marks() -> ServiceMarks {
    ServiceMarks { local: NonZeroU32::MIN, elsewhere: NonZeroU32::new(3), before: NonZeroU32::new(10) }
}

fn frame(vip: &str, source: u8, flags: u8, ttl: u8) -> Vec<u8> {
    let vip: SocketAddr = vip.parse().unwrap();
    let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, source];
    match vip {
        SocketAddr::V4(vip) => {
            frame.extend([8, 0, 0x45, 0, 0, 40, 0, 0, 0x40, 0, ttl, 6, 0x12, 0x34, 198, 51, 100, 9]);
            frame.extend(vip.ip().octets());
        }
        SocketAddr::V6(vip) => {
            frame.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0, 20, 6, ttl]);
            frame.extend([9; 16]);
            frame.extend(vip.ip().octets());
        }
    }
    frame.extend([0x30, 0x39]);
    frame.extend(vip.port().to_be_bytes());
    frame.extend([0, 0, 0, 1, 0, 0, 0, 0, 0x50, flags, 0xff, 0xff, 0, 0, 0, 0]);
    frame
}

impl Machine {
    fn new(frame: Vec<u8>, socket: Option<u32>) -> Self {
        Machine { frame, socket, vlan: false, marks: marks(), registers: [0; 11], memory: Vec::new(), held: false }
    }

    fn run(mut self) -> Outcome {
        let mut context = vec![0; 64];
        context[8..12].copy_from_slice(&MARK.to_ne_bytes());
        let kind = u16::from_ne_bytes([self.frame[12], self.frame[13]]);
        context[16..20].copy_from_slice(&u32::from(kind).to_ne_bytes());
        context[20] = u8::from(self.vlan);
        let state = [vec![0; 72], self.socket.unwrap_or_default().to_ne_bytes().into()].concat();
        self.memory = vec![
            (CONTEXT, context),
            // What is read before it was written is seen.
            (STACK, vec![0xa5; 512]),
            (SERVICE, self.marks.encode().into()),
            (PEER, 5_u32.to_ne_bytes().into()),
            (COUNTS, vec![0; 8 * COUNTERS]),
            (SOCKET, state),
        ];
        self.registers[1] = CONTEXT;
        self.registers[10] = STACK_END;
        let mut at = 0;
        for _ in 0..1000 {
            match PROGRAM[at] {
                Line::Exit => return self.outcome(),
                line => at = self.step(line).map_or(at + 1, place),
            }
        }
        panic!("it does not end");
    }

    fn outcome(mut self) -> Outcome {
        assert_eq!(self.registers[0] as i32, -1, "later filters are tried");
        assert!(!self.held, "the socket is released");
        let counts: Vec<u64> = (0..COUNTERS as u64).map(|at| self.load(Size::U64, COUNTS + 8 * at)).collect();
        assert!(counts.iter().sum::<u64>() <= 1, "{counts:?}");
        let ttl = self.frame[if self.frame[12] == 8 { 22 } else { 21 }];
        (self.load(Size::U32, CONTEXT + 8) as u32, ttl, counts.iter().position(|count| *count == 1))
    }

    /// Returns the label that it jumps to.
    fn step(&mut self, line: Line) -> Option<&'static str> {
        let extended = |value: i32| i64::from(value) as u64;
        match line {
            Line::Label(_) | Line::Exit => {}
            Line::LoadMap(to, map) => self.set(to, MAPS + map as u64),
            Line::Load(size, to, from, offset) => {
                let value = self.load(size, self.at(from, offset));
                self.set(to, value);
            }
            Line::Store(size, to, offset, from) => self.store(size, self.at(to, offset), self.get(from)),
            Line::Put(size, to, offset, value) => self.store(size, self.at(to, offset), extended(value)),
            Line::Copy(to, from) => self.set(to, self.get(from)),
            Line::Set(to, value) => self.set(to, extended(value)),
            Line::Add(to, value) => self.set(to, self.get(to).wrapping_add(extended(value))),
            Line::AddRegister(to, from) => self.set(to, self.get(to).wrapping_add(self.get(from))),
            Line::And(to, value) => self.set(to, self.get(to) & extended(value)),
            Line::ShiftLeft(to, value) => self.set(to, self.get(to) << value),
            Line::Jump(label) => return Some(label),
            Line::If(register, test, value, label) => {
                let (left, right) = (self.get(register), extended(value));
                let holds = match test {
                    Test::Is => left == right,
                    Test::IsNot => left != right,
                    Test::IsBelow => left < right,
                    Test::HasAny => left & right != 0,
                };
                return holds.then_some(label);
            }
            Line::Call(helper) => {
                let [one, two, three, four, five] = [1, 2, 3, 4, 5].map(|number| self.registers[number]);
                let result = self.call(helper, [one, two, three, four, five]);
                self.registers[1..6].fill(0xdead_dead_dead);
                self.registers[0] = result;
            }
        }
        None
    }

    fn call(&mut self, helper: Helper, [one, two, three, four, five]: [u64; 5]) -> u64 {
        let span = |at: u64, length: u64| at as usize..(at + length) as usize;
        match helper {
            Helper::MapLookup => {
                let mut key = |length: u64| -> Vec<u8> {
                    (0..length).map(|offset| self.load(Size::U8, two + offset) as u8).collect()
                };
                let services = VIPS.map(|vip| service_key(vip.parse().unwrap()).to_vec());
                match one - MAPS {
                    map if map == Map::Services as u64 => SERVICE * u64::from(services.contains(&key(20))),
                    map if map == Map::Peers as u64 => PEER * u64::from(key(8) == peer_key(Mac([2, 0, 0, 0, 0, NODE]))),
                    _ => COUNTS * u64::from(key(4) == [0; 4]),
                }
            }
            Helper::LoadBytes => {
                assert_eq!(one, CONTEXT);
                let Some(octets) = self.frame.get(span(two, four)).map(<[u8]>::to_vec) else {
                    return -14_i64 as u64;
                };
                (three..).zip(octets).for_each(|(at, octet)| self.store(Size::U8, at, octet.into()));
                0
            }
            Helper::StoreBytes => {
                let ipv6 = self.frame[12] != 8;
                assert_eq!((one, five), (CONTEXT, u64::from(ipv6)));
                for offset in 0..four {
                    self.frame[(two + offset) as usize] = self.load(Size::U8, three + offset) as u8;
                }
                0
            }
            Helper::ReplaceIpSum => {
                let word = |value: u64| (value as u16).to_ne_bytes();
                assert_eq!((two, word(three), word(four)), (24, [self.frame[22], 6], [TTL, 6]));
                assert_eq!(five, 2);
                0
            }
            Helper::LookUpTcp => {
                let ports = if three == 12 { 8 } else { 32 };
                let last = self.load(Size::U8, two + ports + 3);
                assert_eq!((last, four as i64, five), (80, -1, 0));
                self.held = self.socket.is_some();
                if self.held { SOCKET } else { 0 }
            }
            Helper::ReleaseSocket => {
                assert_eq!((one, self.held), (SOCKET, true));
                self.held = false;
                0
            }
        }
    }

    fn get(&self, register: Register) -> u64 {
        self.registers[register as usize]
    }

    fn set(&mut self, register: Register, value: u64) {
        self.registers[register as usize] = value;
    }

    fn at(&self, register: Register, offset: i16) -> u64 {
        self.get(register).wrapping_add_signed(offset.into())
    }

    fn memory(&mut self, at: u64, length: usize) -> &mut [u8] {
        let inside = |(base, octets): &&mut (u64, Vec<u8>)| (*base..*base + octets.len() as u64).contains(&at);
        let (base, octets) = self.memory.iter_mut().find(inside).unwrap_or_else(|| panic!("nothing lies at {at:x}"));
        let start = (at - *base) as usize;
        assert_eq!(start % length, 0, "{at:x} is not aligned");
        &mut octets[start..start + length]
    }

    fn load(&mut self, size: Size, at: u64) -> u64 {
        let length = length(size);
        let octets = self.memory(at, length).to_vec();
        match *octets.as_slice() {
            [one] => one.into(),
            [one, two] => u16::from_ne_bytes([one, two]).into(),
            [one, two, three, four] => u32::from_ne_bytes([one, two, three, four]).into(),
            _ => u64::from_ne_bytes(octets.try_into().unwrap()),
        }
    }

    fn store(&mut self, size: Size, at: u64, value: u64) {
        let to = self.memory(at, length(size));
        match to.len() {
            1 => to.copy_from_slice(&(value as u8).to_ne_bytes()),
            2 => to.copy_from_slice(&(value as u16).to_ne_bytes()),
            4 => to.copy_from_slice(&(value as u32).to_ne_bytes()),
            _ => to.copy_from_slice(&value.to_ne_bytes()),
        }
    }
}

fn length(size: Size) -> usize {
    match size {
        Size::U8 => 1,
        Size::U16 => 2,
        Size::U32 => 4,
        Size::U64 => 8,
    }
}

fn place(label: &str) -> usize {
    PROGRAM.iter().position(|line| matches!(line, Line::Label(name) if *name == label)).unwrap()
}

const SYN: u8 = 2;
const ACK: u8 = 16;
const ESTABLISHED: Option<u32> = Some(1);
const TIME_WAIT: Option<u32> = Some(6);
const LISTEN: Option<u32> = Some(10);
const BEGUN: Option<u32> = Some(12);
/// The counters.
const LOCAL: Option<usize> = Some(0);
const PEER_OPENING: Option<usize> = Some(1);
const OPENING: Option<usize> = Some(2);
const FORWARDED: Option<usize> = Some(3);
const SECOND_HOP: Option<usize> = Some(4);
const STRAY: Option<usize> = Some(5);

#[test]
fn each_kind_of_packet_gets_its_mark() {
    for vip in VIPS {
        let run = |source, flags, ttl, socket| Machine::new(frame(vip, source, flags, ttl), socket).run();
        // From outside.
        for socket in [ESTABLISHED, BEGUN] {
            assert_eq!(run(CLIENT, ACK, 64, socket), (1, 64, LOCAL));
            assert_eq!(run(CLIENT, SYN, 64, socket), (1, 64, LOCAL));
        }
        assert_eq!(run(CLIENT, ACK, 64, TIME_WAIT), (1, 64, LOCAL));
        for socket in [None, LISTEN, TIME_WAIT] {
            assert_eq!(run(CLIENT, SYN, 64, socket), (MARK, 64, OPENING));
        }
        for socket in [None, LISTEN] {
            assert_eq!(run(CLIENT, ACK, 64, socket), (3, TTL, FORWARDED));
            assert_eq!(run(CLIENT, ACK | SYN, 64, socket), (3, TTL, FORWARDED));
            assert_eq!(run(CLIENT, ACK, TTL + 1, socket), (3, TTL, FORWARDED));
        }
        // A TTL is never raised.
        for ttl in [1, 4, TTL] {
            assert_eq!(run(CLIENT, ACK, ttl, None), (3, ttl, FORWARDED));
        }
        // From a peer, whose number is 5.
        for socket in [None, LISTEN, ESTABLISHED, TIME_WAIT] {
            assert_eq!(run(NODE, SYN, 63, socket), (1, 63, PEER_OPENING));
        }
        assert_eq!(run(NODE, ACK, 4, ESTABLISHED), (1, 4, LOCAL));
        for socket in [None, LISTEN] {
            assert_eq!(run(NODE, ACK, 4, socket), (15, 4, SECOND_HOP));
            assert_eq!(run(NODE, ACK, 3, socket), (1, 3, STRAY));
        }
    }
}

#[test]
fn without_other_nodes_all_is_local() {
    for vip in VIPS {
        let mut machine = Machine::new(frame(vip, CLIENT, ACK, 64), None);
        (machine.marks.elsewhere, machine.marks.before) = (None, None);
        let (mut from_peer, from_client) = (machine.clone(), machine.run());
        assert_eq!(from_client, (1, TTL, FORWARDED));
        from_peer.frame = frame(vip, NODE, ACK, 4);
        assert_eq!(from_peer.run(), (1, 4, STRAY));
    }
}

#[test]
fn other_packets_are_left_alone() {
    let untouched = |what: &str, change: &dyn Fn(&mut Machine)| {
        for vip in VIPS {
            let mut machine = Machine::new(frame(vip, NODE, ACK, 64), None);
            change(&mut machine);
            assert_eq!(machine.run(), (MARK, 64, None), "{what} {vip}");
        }
    };
    untouched("a VLAN", &|machine| machine.vlan = true);
    untouched("UDP", &|machine| {
        let at = if machine.frame[12] == 8 { 23 } else { 20 };
        machine.frame[at] = 17;
    });
    untouched("another port", &|machine| {
        let at = machine.frame.len() - 17;
        machine.frame[at] += 1;
    });
    untouched("another address", &|machine| {
        let at = machine.frame.len() - 21;
        machine.frame[at] += 1;
    });
    untouched("half a header", &|machine| machine.frame.truncate(machine.frame.len() - 7));
    // A later fragment; the first one is judged.
    let mut machine = Machine::new(frame(VIPS[0], CLIENT, ACK, 64), ESTABLISHED);
    machine.frame[20] = 0x20;
    assert_eq!(machine.clone().run(), (1, 64, LOCAL));
    machine.frame[21] = 9;
    assert_eq!(machine.run(), (MARK, 64, None));
}

#[test]
fn options_of_ipv4_are_skipped() {
    let mut machine = Machine::new(frame(VIPS[0], CLIENT, ACK, 64), None);
    machine.frame[14] = 0x47;
    machine.frame.splice(34..34, [1; 8]);
    assert_eq!(machine.run(), (3, TTL, FORWARDED));
}
