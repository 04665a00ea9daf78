//! The third reader: what the kernel has, read from its answers octet by octet, by neither of the
//! programs that are compared.

use std::collections::BTreeMap;
use std::time::Duration;

use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_GENERIC};

const DUMP: u16 = 0x300;
const ACK: u16 = 4;
const REQUEST: u16 = 1;
const NESTED: u16 = 0x8000;

// IPVS_CMD_*
const GET_SERVICE: u8 = 4;
const NEW_DESTINATION: u8 = 5;
const GET_DESTINATION: u8 = 8;
const DEL_DAEMON: u8 = 10;
const GET_DAEMON: u8 = 11;
const SET_CONFIG: u8 = 12;
const GET_CONFIG: u8 = 13;
const FLUSH: u8 = 17;

/// A service's attributes that are no settings: IPVS_SVC_ATTR_STATS and _STATS64.
const SERVICE_STATE: [u16; 2] = [10, 12];
/// IPVS_SVC_ATTR_FLAGS, _TIMEOUT, _NETMASK
const FLAGS: u16 = 7;
const PERSISTENCE: [u16; 2] = [8, 9];
/// IPVS_DEST_ATTR_ACTIVE_CONNS, _INACT_CONNS, _PERSIST_CONNS, _STATS, _STATS64
const DESTINATION_STATE: [u16; 5] = [7, 8, 9, 10, 12];

/// Attributes by their numbers.
type Attributes = BTreeMap<u16, Vec<u8>>;

/// All that the kernel has been set to, in an order of its own.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Found {
    pub services: BTreeMap<Attributes, Vec<Attributes>>,
    daemons: Vec<Attributes>,
    timeouts: Attributes,
}

pub struct Reader {
    socket: Socket,
    family: u16,
}

impl Reader {
    /// Of the calling thread's network namespace.
    pub fn new() -> Reader {
        let mut socket = Socket::new(NETLINK_GENERIC).unwrap();
        socket.bind_auto().unwrap();
        socket.connect(&SocketAddr::new(0, 0)).unwrap();
        let mut reader = Reader { socket, family: 16 };
        // CTRL_CMD_GETFAMILY by CTRL_ATTR_FAMILY_NAME gives CTRL_ATTR_FAMILY_ID.
        let answers = reader.ask(3, &attribute(2, b"IPVS\0"), ACK);
        reader.family = u16::from_ne_bytes(attributes(&answers[0])[&1][..2].try_into().unwrap());
        reader
    }

    pub fn read(&mut self) -> Found {
        let mut found = Found::default();
        for answer in self.ask(GET_SERVICE, &[], DUMP) {
            let mut service = attributes(&attributes(&answer)[&1]);
            // Address family, protocol, address, port, mark: what names it.
            let id: Vec<u8> = service.range(1..=5).flat_map(|(kind, value)| attribute(*kind, value)).collect();
            service.retain(|kind, _| !SERVICE_STATE.contains(kind));
            if service[&FLAGS][0] & 1 == 0 {
                service.retain(|kind, _| !PERSISTENCE.contains(kind));
            }
            let mut destinations: Vec<Attributes> = self
                .ask(GET_DESTINATION, &attribute(1 | NESTED, &id), DUMP)
                .iter()
                .map(|answer| {
                    let mut destination = attributes(&attributes(answer)[&2]);
                    destination.retain(|kind, _| !DESTINATION_STATE.contains(kind));
                    destination
                })
                .collect();
            destinations.sort();
            found.services.insert(service, destinations);
        }
        found.daemons =
            self.ask(GET_DAEMON, &[], DUMP).iter().map(|answer| attributes(&attributes(answer)[&3])).collect();
        found.daemons.sort();
        found.timeouts = attributes(&self.ask(GET_CONFIG, &[], ACK)[0]);
        found
    }

    /// Takes everything away, and sets the timeouts to what they are in a new namespace.
    pub fn reset(&mut self) {
        self.ask(FLUSH, &[], ACK);
        for daemon in self.read().daemons {
            self.ask(DEL_DAEMON, &attribute(3 | NESTED, &attribute(1, &daemon[&1])), ACK);
        }
        let timeouts: Vec<u8> = [(4, 900u32), (5, 120), (6, 300)]
            .iter()
            .flat_map(|(kind, secs)| attribute(*kind, &secs.to_ne_bytes()))
            .collect();
        self.ask(SET_CONFIG, &timeouts, ACK);
        assert!(self.read().services.is_empty());
    }

    /// Gives TCP service 1.2.3.4:80 a destination that has what ipvsadm does not know: its method,
    /// its tunnel's type and flags.
    pub fn add_destination(&mut self, address: [u8; 4], method: u8, kind: u8, flags: u8) {
        let (inet, tcp, port) = (2u16.to_ne_bytes(), 6u16.to_ne_bytes(), 80u16.to_be_bytes());
        let octets = |address: [u8; 4]| [&address[..], &[0; 12]].concat();
        let service =
            [attribute(1, &inet), attribute(2, &tcp), attribute(3, &octets([1, 2, 3, 4])), attribute(4, &port)];
        let number = |value: u8| u32::from(value).to_ne_bytes();
        let destination = [
            attribute(1, &octets(address)),
            attribute(2, &port),
            attribute(3, &number(method)),
            attribute(4, &number(1)),
            attribute(5, &number(0)),
            attribute(6, &number(0)),
            attribute(11, &inet),
            attribute(13, &[kind]),
            attribute(14, &port),
            attribute(15, &u16::from(flags).to_ne_bytes()),
        ];
        let body = [attribute(1 | NESTED, &service.concat()), attribute(2 | NESTED, &destination.concat())];
        self.ask(NEW_DESTINATION, &body.concat(), ACK);
    }

    /// The attributes of each answer.
    fn ask(&mut self, command: u8, body: &[u8], flags: u16) -> Vec<Vec<u8>> {
        let mut message = Vec::new();
        message.extend((20 + body.len() as u32).to_ne_bytes());
        message.extend(self.family.to_ne_bytes());
        message.extend((REQUEST | flags).to_ne_bytes());
        message.extend([0; 8]);
        message.extend([command, 1, 0, 0]);
        message.extend(body);
        self.socket.send(&message, 0).unwrap();
        let mut answers = Vec::new();
        loop {
            let (octets, _) = self.socket.recv_from_full().unwrap();
            let mut rest = &octets[..];
            while rest.len() >= 16 {
                let length = u32::from_ne_bytes(rest[..4].try_into().unwrap()) as usize;
                let kind = u16::from_ne_bytes(rest[4..6].try_into().unwrap());
                match kind {
                    // NLMSG_ERROR, which is an ACK too; NLMSG_DONE
                    2 | 3 => return answers,
                    _ => answers.push(rest[20..length].to_vec()),
                }
                rest = &rest[length.next_multiple_of(4).min(rest.len())..];
            }
        }
    }
}

/// The kernel can leave the end of a daemon that has only just begun without an answer: it gets a
/// moment.
pub fn let_daemons_begin() {
    std::thread::sleep(Duration::from_millis(30));
}

fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let mut octets = Vec::new();
    octets.extend((4 + value.len() as u16).to_ne_bytes());
    octets.extend(kind.to_ne_bytes());
    octets.extend(value);
    octets.resize(octets.len().next_multiple_of(4), 0);
    octets
}

fn attributes(mut octets: &[u8]) -> Attributes {
    let mut found = Attributes::new();
    while octets.len() >= 4 {
        let length = u16::from_ne_bytes([octets[0], octets[1]]) as usize;
        let kind = u16::from_ne_bytes([octets[2], octets[3]]) & !NESTED;
        found.insert(kind, octets[4..length].to_vec());
        octets = &octets[length.next_multiple_of(4).min(octets.len())..];
    }
    found
}
