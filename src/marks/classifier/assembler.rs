//! Instructions of eBPF with labels: text, and octets for the kernel. See linux/bpf.h and the
//! kernel's Documentation/bpf.

use std::fmt;
use std::os::fd::RawFd;

/// A register. The kernel passes the context in r1; r0 holds what a helper or the program returns,
/// r1 to r5 what a helper is given and loses; r6 to r9 stay; r10 is the end of the stack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Register {
    R0,
    R1,
    R2,
    R3,
    R4,
    R5,
    R6,
    R7,
    R8,
    R9,
    R10,
}

/// How much is loaded or stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Size {
    U8,
    U16,
    U32,
    U64,
}

/// How a register is compared with a constant. Without a sign.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Test {
    Is,
    IsNot,
    IsBelow,
    HasAny,
}

/// A function of the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(i32)]
pub(super) enum Helper {
    MapLookup = 1,
    StoreBytes = 9,
    ReplaceIpSum = 10,
    LoadBytes = 26,
    ReleaseSocket = 86,
    LookUpTcp = 99,
}

/// The maps of the program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(usize)]
pub(super) enum Map {
    Services,
    Peers,
    Counters,
}

/// One instruction, or the place of a label.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Line {
    Label(&'static str),
    /// The first register is that of the map.
    LoadMap(Register, Map),
    /// What lies at an offset from the second register goes into the first.
    Load(Size, Register, Register, i16),
    /// The second register goes to an offset from the first.
    Store(Size, Register, i16, Register),
    /// A constant goes to an offset from the register.
    Put(Size, Register, i16, i32),
    /// The second register goes into the first.
    Copy(Register, Register),
    Set(Register, i32),
    Add(Register, i32),
    AddRegister(Register, Register),
    And(Register, i32),
    ShiftLeft(Register, i32),
    Jump(&'static str),
    If(Register, Test, i32, &'static str),
    Call(Helper),
    Exit,
}

use Line::*;
use Register::R0;

impl Line {
    /// How many instructions it is for the kernel.
    pub(super) fn length(self) -> usize {
        match self {
            Label(_) => 0,
            LoadMap(..) => 2,
            _ => 1,
        }
    }

    /// `struct bpf_insn`: code, registers, offset, constant.
    fn encode(self, jump: impl Fn(&str) -> i16, maps: [RawFd; 3], octets: &mut Vec<u8>) {
        /// `BPF_PSEUDO_MAP_FD`.
        const DESCRIPTOR: u8 = 1;
        let size = |size: Size| match size {
            Size::U32 => 0x00,
            Size::U16 => 0x08,
            Size::U8 => 0x10,
            Size::U64 => 0x18,
        };
        let mut push = |code: u8, to: Register, from: u8, offset: i16, constant: i32| {
            let to = to as u8;
            // Two fields of four bits, the first one in the low half of a little-endian machine.
            let registers = if cfg!(target_endian = "little") { to | from << 4 } else { to << 4 | from };
            octets.extend([code, registers]);
            octets.extend(offset.to_ne_bytes());
            octets.extend(constant.to_ne_bytes());
        };
        match self {
            Label(_) => {}
            LoadMap(to, map) => {
                push(0x18, to, DESCRIPTOR, 0, maps[map as usize]);
                push(0, R0, 0, 0, 0);
            }
            Load(width, to, from, offset) => push(0x61 | size(width), to, from as u8, offset, 0),
            Store(width, to, offset, from) => push(0x63 | size(width), to, from as u8, offset, 0),
            Put(width, to, offset, value) => push(0x62 | size(width), to, 0, offset, value),
            Copy(to, from) => push(0xbf, to, from as u8, 0, 0),
            Set(to, value) => push(0xb7, to, 0, 0, value),
            Add(to, value) => push(0x07, to, 0, 0, value),
            AddRegister(to, from) => push(0x0f, to, from as u8, 0, 0),
            And(to, value) => push(0x57, to, 0, 0, value),
            ShiftLeft(to, value) => push(0x67, to, 0, 0, value),
            Jump(label) => push(0x05, R0, 0, jump(label), 0),
            If(register, test, value, label) => {
                let code = match test {
                    Test::Is => 0x15,
                    Test::IsNot => 0x55,
                    Test::IsBelow => 0xa5,
                    Test::HasAny => 0x45,
                };
                push(code, register, 0, jump(label), value);
            }
            Call(helper) => push(0x85, R0, 0, 0, helper as i32),
            Exit => push(0x95, R0, 0, 0, 0),
        }
    }
}

/// The instructions for the kernel, eight octets each, with these descriptors for the maps.
///
/// Panics if a label is missing.
pub(super) fn assemble(lines: &[Line], maps: [RawFd; 3]) -> Vec<u8> {
    let (mut octets, mut at) = (Vec::new(), 0);
    for line in lines {
        at += line.length();
        // A jump counts from the instruction behind it.
        let jump = |label: &str| (place(lines, label) as i16) - (at as i16);
        line.encode(jump, maps, &mut octets);
    }
    octets
}

/// How many instructions stand before a label.
fn place(lines: &[Line], label: &str) -> usize {
    let end = lines.iter().position(|line| matches!(line, Label(name) if *name == label));
    lines[..end.expect("a label of the program")].iter().map(|line| line.length()).sum()
}

impl fmt::Display for Register {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "r{}", *self as u8)
    }
}

/// `u32`.
impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Size::U8 => "u8",
            Size::U16 => "u16",
            Size::U32 => "u32",
            Size::U64 => "u64",
        })
    }
}

/// `if r2 != 0 goto pass`.
impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let place = |size: Size, register: Register, offset: i16| {
            let sign = if offset < 0 { '-' } else { '+' };
            format!("*({size} *)({register} {sign} {})", offset.unsigned_abs())
        };
        match *self {
            Label(name) => write!(f, "{name}:"),
            LoadMap(to, map) => write!(f, "{to} = map {map:?}"),
            Load(size, to, from, offset) => write!(f, "{to} = {}", place(size, from, offset)),
            Store(size, to, offset, from) => write!(f, "{} = {from}", place(size, to, offset)),
            Put(size, to, offset, value) => write!(f, "{} = {value}", place(size, to, offset)),
            Copy(to, from) => write!(f, "{to} = {from}"),
            Set(to, value) => write!(f, "{to} = {value}"),
            Add(to, value) => write!(f, "{to} += {value}"),
            AddRegister(to, from) => write!(f, "{to} += {from}"),
            And(to, value) => write!(f, "{to} &= {value:#x}"),
            ShiftLeft(to, value) => write!(f, "{to} <<= {value}"),
            Jump(label) => write!(f, "goto {label}"),
            If(register, Test::HasAny, value, label) => write!(f, "if {register} & {value:#x} goto {label}"),
            If(register, test, value, label) => {
                let sign = match test {
                    Test::Is => "==",
                    Test::IsNot => "!=",
                    _ => "<",
                };
                write!(f, "if {register} {sign} {value} goto {label}")
            }
            Call(helper) => write!(f, "call {helper:?}"),
            Exit => write!(f, "exit"),
        }
    }
}
