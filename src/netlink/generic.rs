//! Generic netlink: a family is looked up by name, and again when its module was reloaded.

use std::fmt::Debug;
use std::marker::PhantomData;
use std::time::Duration;

use netlink_packet_core::{DecodeError, Emitable, Nla, NlasIterator, ParseableParametrized, parse_u16};
use netlink_packet_generic::{GenlFamily, GenlHeader, GenlMessage};

use super::socket::{BATCH, Failure, Socket};
use crate::netns::Netns;

/// A client of the generic netlink family `F`, in one network namespace. After a failure of its
/// socket it opens a new one.
pub(crate) struct GenericSocket<F> {
    netns: Netns,
    limit: Duration,
    open: Option<Open>,
    family: PhantomData<fn(F) -> F>,
}

struct Open {
    socket: Socket,
    family: u16,
}

impl<F> GenericSocket<F>
where
    F: GenlFamily + Emitable + ParseableParametrized<[u8], GenlHeader> + Debug + Clone,
{
    pub(crate) fn new(netns: Netns, limit: Duration) -> Self {
        GenericSocket { netns, limit, open: None, family: PhantomData }
    }

    pub(crate) fn netns(&self) -> &Netns {
        &self.netns
    }

    /// Changes how long an answer may take, from the next exchange on.
    pub(crate) fn set_limit(&mut self, limit: Duration) {
        self.limit = limit;
        // A socket has its limit from when it was opened.
        self.open = None;
    }

    /// One request and its answers.
    pub(crate) fn request(&mut self, payload: &F, flags: u16) -> Result<Vec<F>, Failure> {
        self.exchange(|open| {
            let answers = open.socket.request(message(open.family, payload.clone()), flags)?;
            Ok(answers.into_iter().map(|answer| answer.payload).collect())
        })
    }

    /// A list, entry by entry.
    pub(crate) fn dump(&mut self, payload: &F, mut entry: impl FnMut(F) -> Result<(), Failure>) -> Result<(), Failure> {
        self.exchange(|open| {
            // Whether the list changed meanwhile is not asked: IPVS never says so.
            open.socket.dump(message(open.family, payload.clone()), |found| entry(found.payload)).map(|_| ())
        })
    }

    /// Any number of requests, [`BATCH`] in a send, and an outcome for each. Where `go_on` is
    /// false, no further send follows one that held a failure: the outcomes are then fewer than
    /// the requests.
    pub(crate) fn batch(&mut self, payloads: &[F], go_on: bool) -> Result<Vec<Result<(), Failure>>, Failure> {
        let mut outcomes = Vec::with_capacity(payloads.len());
        for some in payloads.chunks(BATCH) {
            let requests =
                |open: &mut Open| open.socket.batch(some.iter().map(|p| message(open.family, p.clone())).collect(), 0);
            let mut found = self.exchange(requests)?;
            // Where the family's number is stale, none of them was carried out.
            if found.iter().all(|outcome| matches!(outcome, Err(failure) if failure.is_not_found()))
                && self.family_moved()?
            {
                found = self.exchange(requests)?;
            }
            let failed = found.iter().any(|outcome| outcome.is_err());
            outcomes.append(&mut found);
            if failed && !go_on {
                break;
            }
        }
        Ok(outcomes)
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
                let family = look_up::<F>(&mut socket)?;
                Open { socket, family }
            }
        };
        Ok(self.open.insert(open))
    }

    /// Whether the family has another number now than when it was looked up.
    fn family_moved(&mut self) -> Result<bool, Failure> {
        let open = self.connected()?;
        let family = look_up::<F>(&mut open.socket)?;
        Ok(std::mem::replace(&mut open.family, family) != family)
    }
}

fn message<F: GenlFamily + Debug>(family: u16, payload: F) -> GenlMessage<F> {
    let mut message = GenlMessage::from_payload(payload);
    message.set_resolved_family_id(family);
    message
}

fn look_up<F: GenlFamily>(socket: &mut Socket) -> Result<u16, Failure> {
    let name = F::family_name();
    match socket.request(GenlMessage::from_payload(GetFamily { name, id: None }), 0) {
        Ok(answers) => answers
            .iter()
            .find_map(|answer| answer.payload.id)
            .ok_or_else(|| Failure::Malformed(format!("no number for the netlink family {name}"))),
        Err(failure) if failure.is_not_found() => Err(Failure::NoFamily(name)),
        Err(failure) => Err(failure),
    }
}

const CONTROL: u16 = 0x10;
const GET_FAMILY: u8 = 3;
const ATTR_FAMILY_ID: u16 = 1;
const ATTR_FAMILY_NAME: u16 = 2;

/// The controller's question and answer. Not netlink-packet-generic's own type: that refuses the
/// whole answer for one attribute that it does not know.
#[derive(Debug)]
struct GetFamily {
    name: &'static str,
    id: Option<u16>,
}

impl GenlFamily for GetFamily {
    fn family_name() -> &'static str {
        "nlctrl"
    }
    fn family_id(&self) -> u16 {
        CONTROL
    }
    fn command(&self) -> u8 {
        GET_FAMILY
    }
    fn version(&self) -> u8 {
        2
    }
}

impl Nla for GetFamily {
    fn kind(&self) -> u16 {
        ATTR_FAMILY_NAME
    }
    fn value_len(&self) -> usize {
        self.name.len() + 1
    }
    fn emit_value(&self, buffer: &mut [u8]) {
        buffer.fill(0);
        buffer[..self.name.len()].copy_from_slice(self.name.as_bytes());
    }
}

impl ParseableParametrized<[u8], GenlHeader> for GetFamily {
    fn parse_with_param(bytes: &[u8], _: GenlHeader) -> Result<Self, DecodeError> {
        for attribute in NlasIterator::new(bytes) {
            let attribute = attribute?;
            if attribute.kind() == ATTR_FAMILY_ID {
                return Ok(GetFamily { name: "", id: Some(parse_u16(attribute.value())?) });
            }
        }
        Ok(GetFamily { name: "", id: None })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_family_is_found_by_name() {
        let mut socket = Socket::generic(Duration::from_secs(5)).unwrap();
        assert_eq!(look_up::<GetFamily>(&mut socket).unwrap(), CONTROL);
    }
}
