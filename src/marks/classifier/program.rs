//! The program, as its source.
//!
//! It marks TCP packets for its services and touches no others. The stack, below r10:
//!
//! | from | holds |
//! |---|---|
//! | [`FRAME`] | the frame from its source MAC address on, up to the end of the IP header |
//! | [`TCP`] | the first 14 octets of the TCP header |
//! | [`KEY`] | the key of the service: address, port, zero |
//! | [`TUPLE`] | addresses and ports for the lookup of a socket |
//! | [`PEER`] | 0, or 1 and the number of the peer that has sent the frame |
//! | [`WORD`] | what must outlive a call |
//!
//! r6 holds the context, r7 the value of the service, r8 the counters, r9 the length of the tuple,
//! which also tells the families apart.

use super::assembler::Helper::*;
use super::assembler::Line::{self, *};
use super::assembler::Map::*;
use super::assembler::Register::*;
use super::assembler::Size::*;
use super::assembler::Test::*;

/// The TTL that a node leaves to a packet which it has no socket for. Each node that passes it on
/// takes one off: the second one that receives it sees one less, the third one two less.
pub(super) const TTL: u8 = 5;

/// The places of the counters, in the order of [`Counters`](super::Counters).
pub(super) const COUNTERS: usize = 6;
const LOCAL: i16 = 0;
const PEER_OPENINGS: i16 = 8;
const OPENINGS: i16 = 16;
const FORWARDED: i16 = 24;
const SECOND_HOPS: i16 = 32;
const STRAYS: i16 = 40;

/// The value of a service: three marks of four octets. 0: there is none.
pub(super) const SERVICE_KEY: usize = 20;
pub(super) const SERVICE_VALUE: usize = 12;
const MARK_LOCAL: i16 = 0;
const MARK_ELSEWHERE: i16 = 4;
const MARK_BEFORE: i16 = 8;
/// A MAC address and two zeros; the number of the peer.
pub(super) const PEER_KEY: usize = 8;
pub(super) const PEER_VALUE: usize = 4;

const FRAME: i16 = -48;
const TYPE: i16 = FRAME + 6;
const IP: i16 = FRAME + 8;
const TCP: i16 = -64;
const PORTS: i16 = TCP;
const TO_PORT: i16 = TCP + 2;
const FLAGS: i16 = TCP + 13;
const KEY: i16 = -88;
const TUPLE: i16 = -128;
const PEER: i16 = -136;
const WORD: i16 = -144;

/// Where the IP header begins in a frame, and where the source MAC address does.
const ETHERNET: i32 = 14;
const SOURCE: i32 = 6;
/// Offsets in a header of IPv4.
const V4_FRAGMENT: i16 = IP + 6;
const V4_TTL: i16 = IP + 8;
const V4_PROTOCOL: i16 = IP + 9;
const V4_FROM: i16 = IP + 12;
const V4_TO: i16 = IP + 16;
/// Offsets in a header of IPv6.
const V6_PROTOCOL: i16 = IP + 6;
const V6_TTL: i16 = IP + 7;
const V6_FROM: i16 = IP + 8;
const V6_TO: i16 = IP + 24;

/// The lengths of `struct bpf_sock_tuple`.
const V4_TUPLE: i32 = 12;
const V6_TUPLE: i32 = 36;

/// `struct __sk_buff`.
const MARK: i16 = 8;
const PROTOCOL: i16 = 16;
const VLAN_PRESENT: i16 = 20;
/// `struct bpf_sock`.
const STATE: i16 = 72;

const ETH_P_IP: i32 = 0x0800_u16.to_be() as i32;
const ETH_P_IPV6: i32 = 0x86dd_u16.to_be() as i32;
const IP_OFFSET: i32 = 0x1fff_u16.to_be() as i32;
const IPPROTO_TCP: i32 = 6;
const SYN: i32 = 0x02;
const SYN_OR_ACK: i32 = 0x12;
/// `BPF_TCP_TIME_WAIT`, `BPF_TCP_LISTEN`.
const TIME_WAIT: i32 = 6;
const LISTEN: i32 = 10;
/// `BPF_F_CURRENT_NETNS`.
const CURRENT_NETNS: i32 = -1;
/// `BPF_F_RECOMPUTE_CSUM`.
const RECOMPUTE_SUM: i32 = 1;
/// `TC_ACT_UNSPEC`: the next filter is tried.
const CONTINUE: i32 = -1;

/// Between the head of an IPv4 address and its octets in an IPv6 address: ::ffff:0:0.
const MAPPED: i32 = i32::from_ne_bytes([0, 0, 0xff, 0xff]);
/// The TTL and the protocol as one word of the header.
const TTL_AND_TCP: i32 = u16::from_ne_bytes([TTL, IPPROTO_TCP as u8]) as i32;

pub(super) const PROGRAM: &[Line] = &[
    Copy(R6, R1),
    // A frame with a VLAN tag belongs to another interface.
    Load(U32, R2, R6, VLAN_PRESENT),
    If(R2, IsNot, 0, "pass"),
    Load(U32, R2, R6, PROTOCOL),
    If(R2, Is, ETH_P_IPV6, "ipv6"),
    If(R2, IsNot, ETH_P_IP, "pass"),
    //
    Copy(R1, R6),
    Set(R2, SOURCE),
    Copy(R3, R10),
    Add(R3, FRAME as i32),
    Set(R4, ETHERNET - SOURCE + 20),
    Call(LoadBytes),
    If(R0, IsNot, 0, "pass"),
    // Another header than Ethernet's.
    Load(U16, R2, R10, TYPE),
    If(R2, IsNot, ETH_P_IP, "pass"),
    Load(U8, R2, R10, V4_PROTOCOL),
    If(R2, IsNot, IPPROTO_TCP, "pass"),
    // IPVS puts fragments together, and takes the mark of the first one.
    Load(U16, R2, R10, V4_FRAGMENT),
    If(R2, HasAny, IP_OFFSET, "pass"),
    Load(U8, R2, R10, IP),
    And(R2, 0x0f),
    ShiftLeft(R2, 2),
    Add(R2, ETHERNET),
    Copy(R1, R6),
    Copy(R3, R10),
    Add(R3, TCP as i32),
    Set(R4, 14),
    Call(LoadBytes),
    If(R0, IsNot, 0, "pass"),
    Put(U64, R10, KEY, 0),
    Put(U32, R10, KEY + 8, MAPPED),
    Load(U32, R2, R10, V4_TO),
    Store(U32, R10, KEY + 12, R2),
    Store(U32, R10, TUPLE + 4, R2),
    Load(U32, R2, R10, V4_FROM),
    Store(U32, R10, TUPLE, R2),
    Load(U32, R2, R10, PORTS),
    Store(U32, R10, TUPLE + 8, R2),
    Set(R9, V4_TUPLE),
    Jump("service"),
    //
    Label("ipv6"),
    Copy(R1, R6),
    Set(R2, SOURCE),
    Copy(R3, R10),
    Add(R3, FRAME as i32),
    Set(R4, ETHERNET - SOURCE + 40),
    Call(LoadBytes),
    If(R0, IsNot, 0, "pass"),
    Load(U16, R2, R10, TYPE),
    If(R2, IsNot, ETH_P_IPV6, "pass"),
    Load(U8, R2, R10, V6_PROTOCOL),
    If(R2, IsNot, IPPROTO_TCP, "pass"),
    Copy(R1, R6),
    Set(R2, ETHERNET + 40),
    Copy(R3, R10),
    Add(R3, TCP as i32),
    Set(R4, 14),
    Call(LoadBytes),
    If(R0, IsNot, 0, "pass"),
    Load(U64, R2, R10, V6_TO),
    Store(U64, R10, KEY, R2),
    Store(U64, R10, TUPLE + 16, R2),
    Load(U64, R2, R10, V6_TO + 8),
    Store(U64, R10, KEY + 8, R2),
    Store(U64, R10, TUPLE + 24, R2),
    Load(U64, R2, R10, V6_FROM),
    Store(U64, R10, TUPLE, R2),
    Load(U64, R2, R10, V6_FROM + 8),
    Store(U64, R10, TUPLE + 8, R2),
    Load(U32, R2, R10, PORTS),
    Store(U32, R10, TUPLE + 32, R2),
    Set(R9, V6_TUPLE),
    //
    Label("service"),
    Load(U16, R2, R10, TO_PORT),
    Store(U16, R10, KEY + 16, R2),
    Put(U16, R10, KEY + 18, 0),
    LoadMap(R1, Services),
    Copy(R2, R10),
    Add(R2, KEY as i32),
    Call(MapLookup),
    If(R0, Is, 0, "pass"),
    Copy(R7, R0),
    Put(U32, R10, WORD, 0),
    LoadMap(R1, Counters),
    Copy(R2, R10),
    Add(R2, WORD as i32),
    Call(MapLookup),
    If(R0, Is, 0, "pass"),
    Copy(R8, R0),
    // The EtherType makes room for the zeros of the key.
    Put(U64, R10, PEER, 0),
    Put(U16, R10, TYPE, 0),
    LoadMap(R1, Peers),
    Copy(R2, R10),
    Add(R2, FRAME as i32),
    Call(MapLookup),
    If(R0, Is, 0, "socket"),
    Load(U32, R1, R0, 0),
    Add(R1, 1),
    Store(U64, R10, PEER, R1),
    // A peer has scheduled it.
    Load(U8, R1, R10, FLAGS),
    And(R1, SYN_OR_ACK),
    If(R1, IsNot, SYN, "socket"),
    Load(U64, R1, R8, PEER_OPENINGS),
    Add(R1, 1),
    Store(U64, R8, PEER_OPENINGS, R1),
    Jump("local"),
    //
    Label("socket"),
    Copy(R1, R6),
    Copy(R2, R10),
    Add(R2, TUPLE as i32),
    Copy(R3, R9),
    Set(R4, CURRENT_NETNS),
    Set(R5, 0),
    Call(LookUpTcp),
    If(R0, Is, 0, "unknown"),
    Load(U32, R1, R0, STATE),
    Store(U64, R10, WORD, R1),
    Copy(R1, R0),
    Call(ReleaseSocket),
    Load(U64, R1, R10, WORD),
    If(R1, Is, LISTEN, "unknown"),
    If(R1, IsNot, TIME_WAIT, "known"),
    // A client may use its port again.
    Load(U8, R1, R10, FLAGS),
    And(R1, SYN_OR_ACK),
    If(R1, Is, SYN, "unknown"),
    Label("known"),
    Load(U64, R1, R8, LOCAL),
    Add(R1, 1),
    Store(U64, R8, LOCAL, R1),
    Jump("local"),
    //
    Label("unknown"),
    Load(U8, R1, R10, FLAGS),
    And(R1, SYN_OR_ACK),
    If(R1, IsNot, SYN, "later"),
    Load(U64, R1, R8, OPENINGS),
    Add(R1, 1),
    Store(U64, R8, OPENINGS, R1),
    Jump("pass"),
    Label("later"),
    Load(U64, R1, R10, PEER),
    If(R1, IsNot, 0, "peer"),
    //
    Load(U64, R1, R8, FORWARDED),
    Add(R1, 1),
    Store(U64, R8, FORWARDED, R1),
    If(R9, Is, V6_TUPLE, "shorten6"),
    // A smaller TTL stays: nodes that do not know each other would pass a packet on for ever.
    Load(U8, R1, R10, V4_TTL),
    If(R1, IsBelow, TTL as i32 + 1, "elsewhere"),
    Copy(R1, R6),
    Set(R2, ETHERNET + 10),
    Load(U16, R3, R10, V4_TTL),
    Set(R4, TTL_AND_TCP),
    Set(R5, 2),
    Call(ReplaceIpSum),
    Set(R2, ETHERNET + 8),
    Set(R5, 0),
    Jump("shorten"),
    Label("shorten6"),
    Load(U8, R1, R10, V6_TTL),
    If(R1, IsBelow, TTL as i32 + 1, "elsewhere"),
    Set(R2, ETHERNET + 7),
    Set(R5, RECOMPUTE_SUM),
    Label("shorten"),
    Put(U8, R10, WORD, TTL as i32),
    Copy(R1, R6),
    Copy(R3, R10),
    Add(R3, WORD as i32),
    Set(R4, 1),
    Call(StoreBytes),
    Label("elsewhere"),
    Load(U32, R1, R7, MARK_ELSEWHERE),
    Jump("mark"),
    //
    Label("peer"),
    Load(U8, R2, R10, V4_TTL),
    If(R9, Is, V4_TUPLE, "hops"),
    Load(U8, R2, R10, V6_TTL),
    Label("hops"),
    If(R2, IsBelow, TTL as i32 - 1, "stray"),
    Load(U32, R2, R7, MARK_BEFORE),
    If(R2, Is, 0, "stray"),
    Load(U64, R3, R8, SECOND_HOPS),
    Add(R3, 1),
    Store(U64, R8, SECOND_HOPS, R3),
    AddRegister(R1, R2),
    Add(R1, -1),
    Jump("mark"),
    Label("stray"),
    Load(U64, R1, R8, STRAYS),
    Add(R1, 1),
    Store(U64, R8, STRAYS, R1),
    //
    Label("local"),
    Load(U32, R1, R7, MARK_LOCAL),
    Label("mark"),
    If(R1, IsNot, 0, "set"),
    Load(U32, R1, R7, MARK_LOCAL),
    Label("set"),
    Store(U32, R6, MARK, R1),
    Label("pass"),
    Set(R0, CONTINUE),
    Exit,
];
