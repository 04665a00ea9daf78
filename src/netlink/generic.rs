//! Generic netlink: a family is looked up by name, and again when its module was reloaded.

use std::ops::Range;
use std::time::Duration;

use super::attribute::{attributes, push_attribute};
use super::process::Within;
use super::socket::{BATCH, Failure, Outcome, Socket, request_octets};
use super::trial::Trial;
use crate::netns::Netns;

/// `struct genlmsghdr`: command u8, version u8, reserved u16.
pub(crate) const GENERIC_HEADER: usize = 4;

/// A family of generic netlink.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Family {
    pub(crate) name: &'static str,
    pub(crate) version: u8,
}

impl Family {
    /// Appends a request to the family of this number, which it returns.
    fn message(self, command: u8, write: impl Fn(&mut Vec<u8>)) -> impl Fn(u16, &mut Vec<u8>) -> u16 {
        move |family, octets| {
            octets.extend_from_slice(&[command, self.version, 0, 0]);
            write(octets);
            family
        }
    }

    /// The same, where `write` also returns the command.
    fn push(self, family: u16, octets: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>) -> u8) -> u16 {
        let header = octets.len();
        octets.extend_from_slice(&[0, self.version, 0, 0]);
        octets[header] = write(octets);
        family
    }
}

/// A client of a generic netlink family in one network namespace. After a failure of its socket it
/// opens a new one.
///
/// A request is its command, and a function that appends its attributes. Of an answer the octets
/// of its attributes are shown.
pub(crate) struct GenericSocket {
    family: Family,
    netns: Netns,
    limit: Duration,
    open: Option<Open>,
}

/// How far a batch came.
#[derive(Debug)]
pub(crate) enum Stopped {
    /// So many requests were sent, and carried out but for this one and others, which the kernel
    /// refused.
    Refused { sent: usize, index: usize, failure: Failure, others: Vec<usize> },
    /// What came of these is not known. All before them were carried out, and none behind them.
    Unknown { sent: Range<usize>, failure: Failure },
}

struct Open {
    socket: Socket,
    family: u16,
}

impl GenericSocket {
    pub(crate) fn new(family: Family, netns: Netns, limit: Duration) -> Self {
        GenericSocket { family, netns, limit, open: None }
    }

    pub(crate) fn netns(&self) -> &Netns {
        &self.netns
    }

    /// Changes how long an answer may take, from the next exchange on. Zero: it is there when the
    /// request was sent.
    pub(crate) fn set_limit(&mut self, limit: Duration) {
        self.limit = limit;
        // One that cannot be told is opened anew.
        self.open.take_if(|open| open.socket.set_limit(limit).is_err());
    }

    /// One request and its answers.
    pub(crate) fn request(
        &mut self,
        command: u8,
        write: impl Fn(&mut Vec<u8>),
        mut answer: impl FnMut(&[u8]) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let message = self.family.message(command, write);
        self.exchange(|Open { socket, family }| {
            socket.request(0, |octets| message(*family, octets), |_, octets| answer(attributes_of(octets)?))
        })
    }

    /// A list, entry by entry.
    pub(crate) fn dump(
        &mut self,
        command: u8,
        write: impl Fn(&mut Vec<u8>),
        mut entry: impl FnMut(&[u8]) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let message = self.family.message(command, write);
        self.exchange(|Open { socket, family }| {
            // Whether the list changed meanwhile is not asked: IPVS never says so.
            socket.dump(|octets| message(*family, octets), |_, octets| entry(attributes_of(octets)?)).map(|_| ())
        })
    }

    /// Any number of requests, [`BATCH`] in a send. `write` appends the attributes of the request
    /// of this index and returns its command. No further send follows one that held a failure.
    pub(crate) fn batch(&mut self, count: usize, write: impl Fn(usize, &mut Vec<u8>) -> u8) -> Result<(), Stopped> {
        let of = self.family;
        for start in (0..count).step_by(BATCH) {
            let sent = start..count.min(start + BATCH);
            let requests = |Open { socket, family }: &mut Open| {
                socket.batch(sent.len(), 0, |index, octets| {
                    of.push(*family, octets, |octets| write(start + index, octets))
                })
            };
            let unknown = |failure| Stopped::Unknown { sent: sent.clone(), failure };
            let mut outcomes = self.exchange(requests).map_err(unknown)?;
            let not_found = |outcome: &Outcome| matches!(outcome, Err(failure) if failure.is_not_found());
            // Where the family's number is stale, none of them was carried out.
            if outcomes.iter().all(not_found) && self.family_moved().map_err(unknown)? {
                outcomes = self.exchange(requests).map_err(unknown)?;
            }
            let outcomes = (start..).zip(outcomes);
            let mut refused = outcomes.filter_map(|(index, outcome)| Some((index, outcome.err()?)));
            if let Some((index, failure)) = refused.next() {
                let others = refused.map(|(index, _)| index).collect();
                return Err(Stopped::Refused { sent: sent.end, index, failure, others });
            }
        }
        Ok(())
    }

    /// Starts a process that makes these requests, one after the other. `write` appends the
    /// attributes of the request of this index and returns its command.
    pub(crate) fn trial(
        &mut self,
        within: Within,
        count: usize,
        write: impl Fn(usize, &mut Vec<u8>) -> u8,
    ) -> Result<Trial, Failure> {
        // Looked up each time: a family that was reloaded has another number.
        self.open = None;
        let (of, family) = (self.family, self.connected()?.family);
        let message = |index| request_octets(0, |octets| of.push(family, octets, |octets| write(index, octets)));
        let messages = (0..count).map(message).collect();
        let start = || Trial::begin(libc::NETLINK_GENERIC, within, messages);
        self.netns.run(start).map_err(|e| Failure::Socket(std::io::Error::other(e)))?.map_err(Failure::Socket)
    }

    fn exchange<R>(&mut self, mut attempt: impl FnMut(&mut Open) -> Result<R, Failure>) -> Result<R, Failure> {
        match attempt(self.connected()?) {
            // A message for a family that is not there is answered like one about an object that
            // is not there.
            Err(failure) if failure.is_not_found() => match self.family_moved()? {
                true => attempt(self.connected()?),
                false => Err(failure),
            },
            Err(failure @ (Failure::Socket(_) | Failure::NoAnswer(_) | Failure::Malformed(_))) => {
                self.open = None;
                Err(failure)
            }
            result => result,
        }
    }

    fn connected(&mut self) -> Result<&mut Open, Failure> {
        let open = match self.open.take() {
            Some(open) => open,
            None => {
                let limit = self.limit;
                let socket =
                    self.netns.run(|| Socket::generic(limit)).map_err(|e| Failure::Socket(std::io::Error::other(e)))?;
                let mut socket = socket.map_err(Failure::Socket)?;
                let family = look_up(self.family.name, &mut socket)?;
                Open { socket, family }
            }
        };
        Ok(self.open.insert(open))
    }

    /// Whether the family has another number now than when it was looked up.
    fn family_moved(&mut self) -> Result<bool, Failure> {
        let name = self.family.name;
        let open = self.connected()?;
        let family = look_up(name, &mut open.socket)?;
        Ok(std::mem::replace(&mut open.family, family) != family)
    }
}

/// What is behind the header of generic netlink.
#[inline]
pub(crate) fn attributes_of(octets: &[u8]) -> Result<&[u8], Failure> {
    octets.get(GENERIC_HEADER..).ok_or_else(|| Failure::Malformed("it has no generic netlink header".into()))
}

/// `GENL_ID_CTRL`: the family that knows the others, and its version.
const CONTROL: (u16, u8) = (0x10, 2);
const GET_FAMILY: u8 = 3;
const ATTR_FAMILY_ID: u16 = 1;
const ATTR_FAMILY_NAME: u16 = 2;

fn look_up(name: &'static str, socket: &mut Socket) -> Result<u16, Failure> {
    let (control, version) = CONTROL;
    let ask = |octets: &mut Vec<u8>| {
        octets.extend_from_slice(&[GET_FAMILY, version, 0, 0]);
        push_attribute(octets, ATTR_FAMILY_NAME, &[name.as_bytes(), &[0]].concat());
        control
    };
    let mut found = None;
    let answer = |_, octets: &[u8]| {
        let number = attributes(attributes_of(octets)?).find(|(kind, _)| *kind == ATTR_FAMILY_ID);
        found = number.and_then(|(_, value)| Some(u16::from_ne_bytes(value.try_into().ok()?))).or(found);
        Ok(())
    };
    match socket.request(0, ask, answer) {
        Ok(()) => found.ok_or_else(|| Failure::Malformed(format!("no number for the netlink family {name}"))),
        Err(failure) if failure.is_not_found() => Err(Failure::NoFamily(name)),
        Err(failure) => Err(failure),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_family_is_found_by_name() {
        let mut socket = Socket::generic(Duration::from_secs(5)).unwrap();
        assert_eq!(look_up("nlctrl", &mut socket).unwrap(), CONTROL.0);
    }
}
