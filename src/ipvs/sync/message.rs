//! Entries and messages of the sync protocol, version 1. Pure. All numbers are big-endian.
//!
//! The format is the kernel's own, see the head of net/netfilter/ipvs/ip_vs_sync.c.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};

use crate::ipvs::{Connection, Family, Forward, Protocol, ServiceFlags, ServiceId, Table};

const VERSION: u8 = 1;
const HEADER: usize = 8;
const TYPE_V4: u8 = 0;
const TYPE_V6: u8 = 1;
/// What begins an entry, before its addresses.
const FIXED: usize = 24;
const PARAMETER_ENGINE_DATA: u8 = 2;
const PARAMETER_ENGINE_NAME: u8 = 3;
/// The kernel refuses longer ones.
const ENGINE_DATA_LIMIT: usize = 255;
const ENGINE_NAME_LIMIT: usize = 16;

// IP_VS_CONN_F_*
const NO_OUTPUT: u32 = 0x0080;
const INACTIVE: u32 = 0x0100;
const TEMPLATE: u32 = 0x1000;

/// The kernel's numbers are the places in these lists (ip_vs_proto_tcp.c, ip_vs_proto_sctp.c).
const TCP_STATES: [&str; 11] = [
    "NONE",
    "ESTABLISHED",
    "SYN_SENT",
    "SYN_RECV",
    "FIN_WAIT",
    "TIME_WAIT",
    "CLOSE",
    "CLOSE_WAIT",
    "LAST_ACK",
    "LISTEN",
    "SYNACK",
];
const TCP_ACTIVE: [&str; 4] = ["ESTABLISHED", "SYN_SENT", "SYN_RECV", "SYNACK"];
const SCTP_STATES: [&str; 14] = [
    "NONE",
    "INIT1",
    "INIT",
    "C-SENT",
    "C-REPLIED",
    "C-WAIT",
    "COOKIE",
    "C-ECHOED",
    "ESTABLISHED",
    "S-SENT",
    "S-RECEIVED",
    "S-ACK-SENT",
    "REJECTED",
    "CLOSED",
];
/// Of persistence templates.
const TEMPLATE_STATES: [&str; 2] = ["NONE", "ASSURED"];

/// A connection or persistence template, as one node tells another of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    octets: Vec<u8>,
}

/// Entries for these connections; the table that they were made by tells what the kernel's list
/// leaves out.
///
/// Left out are connections of services that are not in the table, those that the kernel itself
/// does not synchronise (one-packet scheduling), and those of a protocol or state that this crate
/// does not know.
pub fn entries<'a>(connections: impl IntoIterator<Item = &'a Connection>, table: &Table) -> Vec<Entry> {
    let maker = Maker::new(table.clone());
    connections.into_iter().filter_map(|connection| maker.entry(connection)).collect()
}

/// Makes entries of connections of a table's services.
#[derive(Debug)]
pub(crate) struct Maker(Services);

impl Maker {
    pub(crate) fn new(table: Table) -> Self {
        Maker(Services::of(table))
    }

    /// The entry of a connection. `None`: it is of no service of the table, or cannot be sent.
    pub(crate) fn entry(&self, connection: &Connection) -> Option<Entry> {
        entry(connection, &self.0)
    }
}

/// Puts entries into messages of at most `max_length` octets (one entry more, where that is too
/// short for any).
pub fn messages(entries: &[Entry], sync_id: u8, max_length: u16) -> Vec<Vec<u8>> {
    let mut all: Vec<Vec<u8>> = Vec::new();
    let mut count = 0;
    for Entry { octets } in entries {
        let fits = |message: &Vec<u8>| padded(message.len()) + octets.len() <= usize::from(max_length);
        match all.last_mut().filter(|message| count < u8::MAX && fits(message)) {
            Some(message) => {
                message.resize(padded(message.len()), 0);
                message.extend(octets);
                count += 1;
            }
            None => {
                // The first 0 tells it from version 0, whose receivers would read a number of
                // entries there.
                let head = [0, sync_id, 0, 0, 0, VERSION, 0, 0];
                all.push(head.into_iter().chain(octets.iter().copied()).collect());
                count = 1;
            }
        }
        if let Some(message) = all.last_mut() {
            let length = message.len() as u16;
            message[2..4].copy_from_slice(&length.to_be_bytes());
            message[4] = count;
        }
    }
    debug_assert!(all.iter().all(|message| message.len() >= HEADER));
    all
}

/// Entries begin at multiples of four octets.
fn padded(length: usize) -> usize {
    length.next_multiple_of(4)
}

/// Where to look for what /proc/net/ip_vs_conn does not tell: forwarding method, mark, persistence
/// time.
#[derive(Debug)]
struct Services {
    table: Table,
    /// The marks whose services have this destination; of several, which have the same servers, a
    /// connection does not say which it is of.
    marks: HashMap<SocketAddr, ServiceId>,
}

impl Services {
    fn of(table: Table) -> Self {
        let mut marks = HashMap::new();
        let of_marks = table.services().filter(|content| matches!(content.service.id, ServiceId::Fwmark { .. }));
        // Connections of those with one-packet scheduling are not told of.
        for content in of_marks.filter(|content| !content.service.flags.contains(ServiceFlags::ONE_PACKET)) {
            for destination in content.destinations() {
                marks.entry(destination.address).or_insert(content.service.id);
            }
        }
        Services { table, marks }
    }

    fn find(&self, connection: &Connection) -> Option<ServiceId> {
        let service: fn(SocketAddr) -> ServiceId = match connection.protocol {
            Protocol::Tcp => ServiceId::Tcp,
            Protocol::Udp => ServiceId::Udp,
            Protocol::Sctp => ServiceId::Sctp,
            // A mark's template has the mark for its service's address.
            Protocol::Ip if connection.is_template() => {
                let mark = match connection.service.ip() {
                    IpAddr::V4(address) => address.to_bits(),
                    IpAddr::V6(address) => (address.to_bits() >> 96) as u32,
                };
                let id = ServiceId::fwmark(mark, Family::of(connection.service.ip())).ok()?;
                return self.table.service(&id).map(|_| id);
            }
            _ => return self.marked(connection.destination),
        };
        let any_port = SocketAddr::new(connection.service.ip(), 0);
        [connection.service, any_port]
            .into_iter()
            .map(service)
            .find(|id| self.table.service(id).is_some())
            .or_else(|| self.marked(connection.destination))
    }

    fn marked(&self, destination: SocketAddr) -> Option<ServiceId> {
        let any_port = SocketAddr::new(destination.ip(), 0);
        [destination, any_port].iter().find_map(|address| self.marks.get(address)).copied()
    }
}

fn entry(connection: &Connection, services: &Services) -> Option<Entry> {
    let id = services.find(connection)?;
    let content = services.table.service(&id)?;
    let service = content.service;
    if service.flags.contains(ServiceFlags::ONE_PACKET) {
        return None;
    }
    let template = connection.is_template();
    let (protocol, state, active) = numbers(connection, template)?;
    let any_port = SocketAddr::new(connection.destination.ip(), 0);
    let destination = content.destination(connection.destination).or_else(|| content.destination(any_port));
    let mut flags = method(destination.map_or(Forward::Direct, |destination| destination.forward));
    if template {
        flags |= TEMPLATE;
    }
    if !active {
        flags |= INACTIVE;
    }
    let mark = match id {
        ServiceId::Fwmark { mark, .. } => mark.get(),
        _ => 0,
    };
    // Each use of a template begins its time anew: it is the whole time that counts.
    let timeout = match service.persistence.as_ref().filter(|_| template) {
        Some(persistence) => persistence.timeout,
        None => connection.expires,
    };
    let seconds = u32::try_from(timeout.as_secs()).unwrap_or(u32::MAX).max(1);

    let (client, virtual_address, real) = (connection.client, connection.service, connection.destination);
    let kind = match (client, virtual_address, real) {
        (SocketAddr::V4(_), SocketAddr::V4(_), SocketAddr::V4(_)) => TYPE_V4,
        (SocketAddr::V6(_), SocketAddr::V6(_), SocketAddr::V6(_)) => TYPE_V6,
        // The kernel does not synchronise tables of mixed families.
        _ => return None,
    };
    let engine = engine(connection)?;
    let addresses = [client.ip(), virtual_address.ip(), real.ip()].map(octets).concat();
    let length = (FIXED + addresses.len() + engine.len()) as u16;
    let octets = [
        &[kind, protocol][..],
        // The version of an entry, 0, stands in the upper four bits.
        &length.to_be_bytes(),
        &flags.to_be_bytes(),
        &state.to_be_bytes(),
        &client.port().to_be_bytes(),
        &virtual_address.port().to_be_bytes(),
        &real.port().to_be_bytes(),
        &mark.to_be_bytes(),
        &seconds.to_be_bytes(),
        &addresses,
        &engine,
    ];
    Some(Entry { octets: octets.concat() })
}

/// The numbers of protocol and state, and whether it counts among the active connections.
fn numbers(connection: &Connection, template: bool) -> Option<(u8, u16, bool)> {
    let place = |states: &[&str]| Some(states.iter().position(|state| *state == connection.state)? as u16);
    let protocol = match connection.protocol {
        Protocol::Tcp => 6,
        Protocol::Udp => 17,
        Protocol::Sctp => 132,
        Protocol::Ip => 0,
        Protocol::Other(_) => return None,
    };
    if template {
        return Some((protocol, place(&TEMPLATE_STATES)?, false));
    }
    match connection.protocol {
        Protocol::Tcp => Some((protocol, place(&TCP_STATES)?, TCP_ACTIVE.contains(&connection.state.as_str()))),
        Protocol::Sctp => Some((protocol, place(&SCTP_STATES)?, connection.state == "ESTABLISHED")),
        Protocol::Udp => Some((protocol, 0, false)),
        Protocol::Ip | Protocol::Other(_) => None,
    }
}

/// IP_VS_CONN_F_FWD_MASK, and whether answers pass elsewhere. A backup that has the destination
/// takes its own method.
fn method(forward: Forward) -> u32 {
    match forward {
        Forward::Masquerade => 0,
        Forward::Local => NO_OUTPUT | 1,
        Forward::Tunnel(_) => NO_OUTPUT | 2,
        Forward::Direct => NO_OUTPUT | 3,
        Forward::Other(method) => NO_OUTPUT | method & 7,
    }
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

/// The persistence engine's data and name, as parameters. `None`: they cannot be sent as they are.
fn engine(connection: &Connection) -> Option<Vec<u8>> {
    let Some((name, data)) = &connection.engine else { return Some(Vec::new()) };
    let sendable = (1..=ENGINE_DATA_LIMIT).contains(&data.len())
        && (1..=ENGINE_NAME_LIMIT).contains(&name.len())
        // What was not text came out of the kernel's list as this.
        && !data.contains(char::REPLACEMENT_CHARACTER);
    let parameter = |kind: u8, value: &str| [&[kind, value.len() as u8], value.as_bytes()].concat();
    sendable.then(|| [parameter(PARAMETER_ENGINE_DATA, data), parameter(PARAMETER_ENGINE_NAME, name)].concat())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ipvs::connection::read;

    const TABLE: &str = "\
-A -t 192.168.0.254:80 -s wrr
-a -t 192.168.0.254:80 -r 192.168.0.11:80 -g -w 1
-A -t [2001:db8::fe]:80 -s wrr -p 50
-a -t [2001:db8::fe]:80 -r [2001:db8::11]:80 -i -w 1 --tun-type ipip
-A -f 258 -s rr -p 90
-a -f 258 -r 192.168.0.12:0 -m -w 1
-A -u 192.168.0.254:53 -s rr --ops
-A -f 300 -s rr -p 20
-a -f 300 -r 192.168.0.12:0 -m -w 1
-A -f 301 -s rr -o
-a -f 301 -r 192.168.0.12:0 -m -w 1
-A -u 192.168.0.254:5060 -s rr -p 70 --pe sip
";

    fn encode(rows: &str) -> Vec<Entry> {
        entries(&read(&format!("heading\n{rows}"), "").unwrap(), &TABLE.parse().unwrap())
    }

    fn one(row: &str) -> Vec<u8> {
        let mut all = encode(row);
        assert_eq!(all.len(), 1, "{row}");
        all.remove(0).octets
    }

    #[test]
    fn a_connection_in_the_kernels_own_form() {
        let octets = one("TCP C0A80001 8CA0 C0A800FE 0050 C0A8000B 0050 ESTABLISHED     897\n");
        let expected = [
            &[0, 6, 0, 36][..],
            &[0, 0, 0, 0x83],
            &[0, 1],
            &[0x8c, 0xa0, 0, 80, 0, 80],
            &[0, 0, 0, 0],
            &897_u32.to_be_bytes(),
            &[192, 168, 0, 1, 192, 168, 0, 254, 192, 168, 0, 11],
        ];
        assert_eq!(octets, expected.concat());
        let closing = one("TCP C0A80001 8CA0 C0A800FE 0050 C0A8000B 0050 FIN_WAIT     20\n");
        assert_eq!(closing[4..10], [0, 0, 1, 0x83, 0, 4]);
    }

    #[test]
    fn ipv6_templates_marks_and_engine_data() {
        let v6 = "2001:0db8:0000:0000:0000:0000:0000:0001 0000 2001:0db8:0000:0000:0000:0000:0000:00fe 0050 \
                  2001:0db8:0000:0000:0000:0000:0000:0011 0050";
        let octets = one(&format!("TCP {v6} NONE 7\n"));
        assert_eq!((octets[0], octets.len(), &octets[2..4]), (1, 72, &[0, 72][..]));
        // A template of a tunnel, with the whole persistence time.
        assert_eq!((&octets[4..8], &octets[20..24]), (&[0, 0, 0x11, 0x82][..], &[0, 0, 0, 50][..]));
        // The mark stands in place of the address.
        let octets = one("IP  C0A80001 0000 00000102 0000 C0A8000C 0000 NONE 30\n");
        assert_eq!((octets[1], &octets[4..8]), (0, &[0, 0, 0x11, 0][..]));
        assert_eq!((&octets[16..20], &octets[20..24]), (&[0, 0, 1, 2][..], &[0, 0, 0, 90][..]));
        // Another mark's, of the same server.
        let octets = one("IP  C0A80001 0000 0000012C 0000 C0A8000C 0000 NONE 30\n");
        assert_eq!((&octets[16..20], &octets[20..24]), (&[0, 0, 1, 44][..], &[0, 0, 0, 20][..]));
        assert_eq!(encode("IP  C0A80001 0000 00000103 0000 C0A8000C 0000 NONE 30\n"), []);
        let octets = one("UDP C0A80001 0000 C0A800FE 13C4 C0A8000B 13C4 NONE 300 sip call@host\n");
        assert_eq!(octets[36..], [&[2, 9][..], b"call@host", &[3, 3], b"sip"].concat());
        assert_eq!((octets.len(), octets[3]), (52, 52));
    }

    #[test]
    fn what_cannot_be_told_is_left_out() {
        for row in [
            // Each packet of it is scheduled by itself.
            "UDP C0A80001 8CA0 C0A800FE 0035 C0A8000B 0035 UDP 300\n",
            "TCP C0A80001 8CA0 C0A800FE 0050 C0A8000B 0050 BUG! 897\n",
            "GRE C0A80001 8CA0 C0A800FE 0050 C0A8000B 0050 NONE 897\n",
            "UDP C0A80001 0000 C0A800FE 13C4 C0A8000B 13C4 NONE 300 sip-of-another-name call@host\n",
        ] {
            assert!(encode(row).is_empty(), "{row}");
        }
    }

    #[test]
    fn messages_are_full_aligned_and_counted() {
        let row = "TCP C0A80001 8CA0 C0A800FE 0050 C0A8000B 0050 ESTABLISHED 897\n";
        let odd = "UDP C0A80001 0000 C0A800FE 13C4 C0A8000B 13C4 NONE 300 sip abc\n";
        let all = encode(&[row, odd, row].concat());
        let sent = messages(&all, 7, 1472);
        // 36 + 46 octets, 2 to fill up, 36.
        assert_eq!(sent.len(), 1);
        assert_eq!((sent[0].len(), &sent[0][..8]), (128, &[0, 7, 0, 128, 3, 1, 0, 0][..]));
        assert_eq!(sent[0][8 + 36 + 46..8 + 36 + 48], [0, 0]);
        let sent = messages(&encode(&row.repeat(100)), 7, 1472);
        assert_eq!(
            sent.iter().map(|message| (message.len(), message[4])).collect::<Vec<_>>(),
            [(1448, 40); 2].into_iter().chain([(728, 20)]).collect::<Vec<_>>()
        );
        let sent = messages(&encode(&row.repeat(300)), 7, u16::MAX);
        assert_eq!(sent.iter().map(|message| message[4]).collect::<Vec<_>>(), [255, 45]);
        assert_eq!(messages(&all, 7, 1).len(), 3);
        assert!(messages(&[], 7, 1472).is_empty());
    }
}
