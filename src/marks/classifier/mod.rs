//! Marks TCP packets by whether this node has a socket for them: one small BPF program.
//!
//! The program takes the place of rules where every node schedules with `mh` and holds the same
//! table. It keeps no state of a session; what it needs to know lies in its maps, see
//! [`Classification`].

mod assembler;
#[cfg(test)]
mod interpreter;
mod program;

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::num::NonZeroU32;
use std::os::fd::{AsFd, AsRawFd, RawFd};

use netlink_packet_core::NLM_F_CREATE;
use rustix::io::Errno;

use super::client::{Marks, explain_missing};
use super::explain;
use super::rule::Mac;
use super::wire::{self, Filter, INGRESS, Loaded, Slot};
use crate::error::{Cause, Error, Result};
use crate::fnv::fnv;
use crate::netlink::{BpfMap, BpfMapKind, BpfProgram, BpfShape, is, number};
use crate::netns::Netns;
use program::{COUNTERS, PEER_KEY, PEER_VALUE, PROGRAM, SERVICE_KEY, SERVICE_VALUE};

/// The name of the program, as `tc filter show` and `bpftool prog` print it.
const PROGRAM_NAME: &str = "lvs_dr_marks";

const SERVICES: BpfShape =
    BpfShape { name: "lvs_services", kind: BpfMapKind::Hash, key: SERVICE_KEY, value: SERVICE_VALUE, entries: 4096 };
const PEERS: BpfShape =
    BpfShape { name: "lvs_peers", kind: BpfMapKind::Hash, key: PEER_KEY, value: PEER_VALUE, entries: 1024 };
const COUNTS: BpfShape =
    BpfShape { name: "lvs_counters", kind: BpfMapKind::ArrayPerProcessor, key: 4, value: 8 * COUNTERS, entries: 1 };

/// What a [`Classifier`] knows on one interface.
///
/// The marks lead to IPVS services. Each of them must have the flags `mh-fallback` and `mh-port`
/// where it is scheduled by `mh`, and `net.ipv4.vs.sloppy_tcp` must be 1.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct Classification {
    /// The TCP services whose packets are marked: a VIP and a port other than 0. At most 4096.
    pub services: BTreeMap<SocketAddr, ServiceMarks>,
    /// The MAC addresses of the other nodes, and a number of each node that chooses its mark, see
    /// [`ServiceMarks::before`]. A node may have several addresses. At most 1024.
    pub peers: BTreeMap<Mac, u8>,
}

/// The marks that packets for one service get.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct ServiceMarks {
    /// For packets of this node's own sockets, for those with SYN that a peer has scheduled, and
    /// for strays. The service of this mark has this node as its only destination.
    pub local: NonZeroU32,
    /// For packets without SYN that no socket of this node takes, and that no peer has sent. The
    /// service of this mark schedules over the present destinations with this node at weight 0.
    /// `None`: there is no other node, and they get [`local`](Self::local).
    pub elsewhere: Option<NonZeroU32>,
    /// For the same packets from a peer that got them from outside: this mark and the peer's
    /// number are added up. The service of that mark schedules over the destinations before the
    /// last change, with the peer and this node at weight 0; where that leaves none, this node is
    /// its only destination. `None`: they are strays.
    pub before: Option<NonZeroU32>,
}

/// Packets since the program was attached to an interface, of all its services.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Counters {
    /// Of a socket of this node, from clients and from peers.
    pub local: u64,
    /// With SYN, from a peer: new connections that it has scheduled to this node.
    pub peer_openings: u64,
    /// With SYN, from outside: IPVS schedules them.
    pub openings: u64,
    /// Without SYN, from outside, for another node.
    pub forwarded: u64,
    /// Without SYN, from a peer, passed on to the node that was their server before the last
    /// change.
    pub second_hops: u64,
    /// Without SYN, from a peer, and of no known connection: the kernel answers with a reset.
    pub strays: u64,
}

/// A classifier that is attached to an interface.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Attached {
    /// What it knows. Empty for the program of another version.
    pub classification: Classification,
    /// What it has counted.
    pub counters: Counters,
    /// Whether it is the program of this version. [`Classifier::apply`] replaces another one.
    pub is_current: bool,
}

impl ServiceMarks {
    fn encode(self) -> [u8; SERVICE_VALUE] {
        let marks = [Some(self.local), self.elsewhere, self.before];
        let mut octets = [0; SERVICE_VALUE];
        for (place, mark) in octets.chunks_exact_mut(4).zip(marks) {
            place.copy_from_slice(&mark.map_or(0, NonZeroU32::get).to_ne_bytes());
        }
        octets
    }

    fn decode(octets: &[u8]) -> Option<Self> {
        let mark = |at: usize| octets.get(at..at + 4).and_then(number).and_then(NonZeroU32::new);
        Some(ServiceMarks { local: mark(0)?, elsewhere: mark(4), before: mark(8) })
    }
}

fn service_key(service: SocketAddr) -> [u8; SERVICE_KEY] {
    let address = match service.ip() {
        IpAddr::V4(address) => address.to_ipv6_mapped(),
        IpAddr::V6(address) => address,
    };
    let mut octets = [0; SERVICE_KEY];
    octets[..16].copy_from_slice(&address.octets());
    octets[16..18].copy_from_slice(&service.port().to_be_bytes());
    octets
}

fn read_service_key(octets: &[u8]) -> Option<SocketAddr> {
    let (address, rest) = octets.split_first_chunk::<16>()?;
    let address = Ipv6Addr::from(*address).to_canonical();
    Some(SocketAddr::new(address, u16::from_be_bytes(*rest.first_chunk()?)))
}

fn peer_key(Mac(mac): Mac) -> [u8; PEER_KEY] {
    let mut octets = [0; PEER_KEY];
    octets[..6].copy_from_slice(&mac);
    octets
}

fn read_peer(key: &[u8], value: &[u8]) -> Option<(Mac, u8)> {
    Some((Mac(*key.first_chunk()?), u8::try_from(number(value)?).ok()?))
}

impl Classification {
    /// The program asks for no mark that does not fit, and the kernel takes what can never match.
    fn check(&self) -> Result<()> {
        let most = |what: &str, count: usize, shape: BpfShape| match count > shape.entries as usize {
            true => Err(Error::invalid(format!("{count} {what}"), format!("at most {} were expected", shape.entries))),
            false => Ok(()),
        };
        most("services of a classifier", self.services.len(), SERVICES)?;
        most("MAC addresses of peers", self.peers.len(), PEERS)?;
        let highest = self.peers.values().max().copied().unwrap_or_default();
        for (service, marks) in &self.services {
            let address = service.ip();
            if service.port() == 0
                || address.is_unspecified()
                || address.is_multicast()
                || address != address.to_canonical()
            {
                return Err(Error::invalid(
                    format!("service {service}"),
                    "a unicast address and a port other than 0 were expected",
                ));
            }
            if marks.before.is_some_and(|before| before.checked_add(highest.into()).is_none()) {
                let reason = format!("mark {highest} above the first one does not fit 32 bits");
                return Err(Error::invalid(format!("the marks of service {service}"), reason));
            }
        }
        match self.peers.keys().find(|mac| !mac.is_unicast()) {
            Some(mac) => {
                Err(Error::invalid(format!("MAC address {mac}"), "a frame's source is the address of one station"))
            }
            None => Ok(()),
        }
    }

    fn services(&self) -> impl Iterator<Item = (Vec<u8>, Vec<u8>)> {
        self.services.iter().map(|(service, marks)| (service_key(*service).into(), marks.encode().into()))
    }

    fn peers(&self) -> impl Iterator<Item = (Vec<u8>, Vec<u8>)> {
        self.peers.iter().map(|(mac, number)| (peer_key(*mac).into(), u32::from(*number).to_ne_bytes().into()))
    }
}

/// `2 services, 3 MAC addresses of peers`.
impl fmt::Display for Classification {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (services, peers) = (self.services.len(), self.peers.len());
        let plural = |count: usize, ending: &'static str| if count == 1 { "" } else { ending };
        write!(f, "{services} service{}, {peers} MAC address{} of peers", plural(services, "s"), plural(peers, "es"))
    }
}

impl Counters {
    /// Adds up the values of all processors.
    fn read(octets: &[u8]) -> Self {
        let mut sums = [0_u64; COUNTERS];
        for (at, value) in octets.chunks_exact(8).enumerate() {
            let sum = &mut sums[at % COUNTERS];
            *sum = sum.wrapping_add(u64::from_ne_bytes(value.try_into().unwrap_or_default()));
        }
        let [local, peer_openings, openings, forwarded, second_hops, strays] = sums;
        Counters { local, peer_openings, openings, forwarded, second_hops, strays }
    }
}

/// The maps of a program.
struct Maps {
    services: BpfMap,
    peers: BpfMap,
    counters: BpfMap,
}

impl Maps {
    fn create() -> io::Result<Self> {
        Ok(Maps {
            services: BpfMap::create(SERVICES)?,
            peers: BpfMap::create(PEERS)?,
            counters: BpfMap::create(COUNTS)?,
        })
    }

    /// `None`: the program has other ones.
    fn of(program: &BpfProgram) -> io::Result<Option<Self>> {
        let (services, peers, counters) = (program.map(SERVICES)?, program.map(PEERS)?, program.map(COUNTS)?);
        let maps = || Some(Maps { services: services?, peers: peers?, counters: counters? });
        Ok(maps())
    }

    fn classification(&self) -> io::Result<Classification> {
        let service = |(key, value): (Vec<u8>, Vec<u8>)| Some((read_service_key(&key)?, ServiceMarks::decode(&value)?));
        let peer = |(key, value): (Vec<u8>, Vec<u8>)| read_peer(&key, &value);
        Ok(Classification {
            services: self.services.entries()?.into_iter().filter_map(service).collect(),
            peers: self.peers.entries()?.into_iter().filter_map(peer).collect(),
        })
    }

    fn counters(&self) -> io::Result<Counters> {
        Ok(Counters::read(&self.counters.get(&[0; 4])?.unwrap_or_default()))
    }

    /// Makes the entries those of `wanted`. Additions come first.
    fn fill(&self, wanted: &Classification) -> io::Result<()> {
        fill(&self.services, wanted.services().collect())?;
        fill(&self.peers, wanted.peers().collect())
    }

    fn descriptors(&self) -> [RawFd; 3] {
        [&self.services, &self.peers, &self.counters].map(|map| map.as_fd().as_raw_fd())
    }

    fn load(&self) -> Result<BpfProgram> {
        let instructions = assembler::assemble(PROGRAM, self.descriptors());
        BpfProgram::load(&instructions, PROGRAM_NAME)
            .map_err(|(error, log)| refused("load", "the classifier's program", error, log))
    }
}

fn fill(map: &BpfMap, wanted: BTreeMap<Vec<u8>, Vec<u8>>) -> io::Result<()> {
    let found: BTreeMap<Vec<u8>, Vec<u8>> = map.entries()?.into_iter().collect();
    for (key, value) in wanted.iter().filter(|(key, value)| found.get(*key) != Some(value)) {
        map.put(key, value)?;
    }
    found.keys().filter(|key| !wanted.contains_key(*key)).try_for_each(|key| map.remove(key))
}

fn refused(operation: &'static str, object: impl fmt::Display, error: io::Error, message: Option<String>) -> Error {
    let Some(errno) = error.raw_os_error() else { return Error::system(operation, object, error) };
    let cause = if Errno::from_raw_os_error(errno) == Errno::NOMEM { Cause::NoMemory } else { Cause::NoBpf };
    Error::Refused { operation, object: object.to_string(), errno, cause, message }
}

/// Tells the programs of versions apart: a digest of the instructions, where maps have the numbers
/// 0 to 2.
fn fingerprint() -> u64 {
    fnv(assembler::assemble(PROGRAM, [0, 1, 2]))
}

/// The name of a filter: `lvs-dr`, the owner's number, the program's fingerprint.
const NAME: &str = "lvs-dr ";

/// The owner's number and the fingerprint.
fn read_name(name: &str) -> Option<(u64, u64)> {
    let (owner, fingerprint) = name.strip_prefix(NAME)?.split_once(' ')?;
    Some((u64::from_str_radix(owner, 16).ok()?, u64::from_str_radix(fingerprint, 16).ok()?))
}

/// The owner of a classifier, of any version. `None`: it is no classifier.
pub(super) fn owner_of(filter: &Filter) -> Option<u64> {
    Some(read_name(&filter.classifier()?.name)?.0)
}

/// Attaches one BPF program to an interface that marks TCP packets by whether a socket of this
/// node takes them, and changes what it knows.
///
/// | a packet for a service of [`Classification`] | mark |
/// |---|---|
/// | of a connection of this node's sockets | [`local`](ServiceMarks::local) |
/// | with SYN, from a peer | [`local`](ServiceMarks::local) |
/// | with SYN, from elsewhere | none: the service of the address schedules it |
/// | without SYN, from elsewhere | [`elsewhere`](ServiceMarks::elsewhere), and its TTL is lowered to 5 |
/// | without SYN, from a peer, on its first way between nodes | [`before`](ServiceMarks::before) and the peer's number |
/// | without SYN, from a peer, on its second way | [`local`](ServiceMarks::local): the kernel answers with a reset |
///
/// With the scheduler `mh` and equal tables on all nodes, a session stays with its server when
/// another node directs, when servers join or are drained, and when IPVS has forgotten it. No sync
/// daemon takes part. What belongs to no node is answered with a reset after three frames at most.
///
/// - IPVS looks up its own connections first: what it knows goes on as before, whatever the mark.
/// - The filter is at the ingress hook of a `clsact` or `ingress` qdisc, with the priority
///   [`CLASSIFIER_PRIORITY`](super::CLASSIFIER_PRIORITY) for all protocols, behind those of rules
///   ([`Marks`]), whose marks it overrides. Later filters are tried too, those of other programs
///   included.
/// - The maps of the program hold what it knows, and go with it: nothing is kept in /sys/fs/bpf.
///   A client that is opened later finds them by the filter.
/// - Fragments of IPv4 are judged by the first one. TCP behind extension headers of IPv6, frames
///   with a VLAN tag, and links that are not like Ethernet get no mark.
/// - UDP and SCTP get no mark.
/// - Servers have their sockets in the interface's network namespace, and other nodes are on the
///   link: a server behind DNAT (a container's published port) seems to know no connection, and
///   five routers away none is reached.
///
/// A packet costs some 1300 instructions, where rules cost 550 (counted by `benches/cost/run`, with
/// the kernel's compiler for BPF).
///
/// Takes `CAP_NET_ADMIN`, `CAP_BPF` and `CAP_SYS_ADMIN` in the initial user namespace, and Linux
/// 5.8. Calls wait for the kernel, as those of [`Marks`] do; the first [`apply`](Self::apply)
/// takes the time of the kernel's verifier, some milliseconds.
///
/// # Errors
/// Those that any of the calls can return:
/// - [`Error::Invalid`] for an interface name or classification that cannot be right.
/// - [`Error::Refused`] with [`Cause::NoBpf`] where the kernel does not let this process use
///   bpf(2) (`EPERM`, `ENOSYS`) or refuses the program (`EACCES`, `EINVAL`; with the verifier's
///   words); with other causes as [`Marks`].
/// - [`Error::System`], [`Error::NoAnswer`] and [`Error::Malformed`] when the exchange itself
///   fails.
#[derive(Debug)]
pub struct Classifier {
    marks: Marks,
}

impl Classifier {
    /// A client of the calling thread's network namespace. `owner` as in [`Marks::open`].
    pub fn open(owner: u64) -> Result<Self> {
        Self::open_in(Netns::current()?, owner)
    }

    /// A client of this network namespace, whatever thread it is used from.
    pub fn open_in(netns: Netns, owner: u64) -> Result<Self> {
        Ok(Classifier { marks: Marks::open_in(netns, owner)? })
    }

    /// Reads what the classifier of this owner on an interface knows and has counted. `None`:
    /// there is none, or no such interface.
    pub fn observe(&mut self, interface: &str) -> Result<Option<Attached>> {
        self.marks.classified(interface)
    }

    /// Makes what the classifier on an interface knows this; attaches it where there is none, and
    /// adds the qdisc `clsact` where there is neither that nor `ingress`.
    ///
    /// Each service and each peer changes in one step, those that are added before others go. The
    /// counters go on. The program of another version is replaced in one step, by one that knows
    /// all of this, and whose counters begin at 0. Repeating it is no error.
    ///
    /// # Errors
    /// Also [`Error::Foreign`]: another program's filter has the priority.
    pub fn apply(&mut self, interface: &str, wanted: &Classification) -> Result<()> {
        self.marks.classify(interface, wanted)
    }

    /// Removes the classifier of this owner from an interface, with all that it knows. A missing
    /// one is no error. The qdisc stays.
    pub fn remove(&mut self, interface: &str) -> Result<()> {
        self.marks.unclassify(interface)
    }
}

/// What a [`Classifier`] does.
impl Marks {
    pub(crate) fn classified(&mut self, interface: &str) -> Result<Option<Attached>> {
        self.read_classifier(interface, |maps| match maps {
            None => Ok(Attached {
                classification: Classification::default(),
                counters: Counters::default(),
                is_current: false,
            }),
            Some(maps) => {
                Ok(Attached { classification: maps.classification()?, counters: maps.counters()?, is_current: true })
            }
        })
    }

    /// What the classifier knows: nothing, for the program of another version.
    pub(crate) fn classification(&mut self, interface: &str) -> Result<Option<Classification>> {
        self.read_classifier(interface, |maps| maps.map_or_else(|| Ok(Classification::default()), Maps::classification))
    }

    /// `read` gets the maps of the classifier; none, of the program of another version.
    fn read_classifier<T>(
        &mut self,
        interface: &str,
        read: impl FnOnce(Option<&Maps>) -> io::Result<T>,
    ) -> Result<Option<T>> {
        let Some(index) = self.index(interface)? else { return Ok(None) };
        let filters = self.filters(interface, index, INGRESS)?;
        let Some((_, loaded)) = self.classifiers(&filters).next() else { return Ok(None) };
        let found = maps_of(loaded).and_then(|maps| read(maps.as_ref()));
        found.map(Some).map_err(|error| refused("read", format!("the classifier on {interface}"), error, None))
    }

    pub(super) fn classify(&mut self, interface: &str, wanted: &Classification) -> Result<()> {
        wanted.check()?;
        self.add_qdisc(interface)?;
        let index = self.client.link_of_name(interface)?.index;
        let filters = self.filters(interface, index, INGRESS)?;
        let failed = |error| refused("change", format!("the classifier on {interface}"), error, None);
        let mut ours = self.classifiers(&filters);
        let found = ours.next();
        // Another one of two clients that have attached theirs at the same time.
        ours.try_for_each(|(handle, _)| self.detach(interface, index, handle))?;
        if let Some((_, loaded)) = found
            && let Some(maps) = maps_of(loaded).map_err(failed)?
        {
            return maps.fill(wanted).map_err(failed);
        }
        let maps = Maps::create().map_err(|error| refused("create", "the classifier's maps", error, None))?;
        maps.fill(wanted).map_err(failed)?;
        let program = maps.load()?;
        let name = format!("{NAME}{:016x} {:016x}", self.owner, fingerprint());
        let request = wire::put_classifier(index, found.map_or(0, |(handle, _)| handle), program.as_fd(), &name);
        match self.client.request(request, NLM_F_CREATE) {
            Ok(_) => Ok(()),
            Err(failure) => {
                let in_the_way = self.in_the_way(interface, Slot::CLASSIFIER, &filters, &failure);
                Err(in_the_way.unwrap_or_else(|| explain_missing(failure, "attach the classifier to", interface)))
            }
        }
    }

    pub(super) fn unclassify(&mut self, interface: &str) -> Result<()> {
        let Some(index) = self.index(interface)? else { return Ok(()) };
        let filters = self.filters(interface, index, INGRESS)?;
        self.classifiers(&filters).try_for_each(|(handle, _)| self.detach(interface, index, handle))
    }

    fn detach(&mut self, interface: &str, index: u32, handle: u32) -> Result<()> {
        match self.client.request(wire::remove_classifier(index, handle), 0) {
            Err(failure) if failure.is_not_found() || is(&failure, Errno::NODEV) => Ok(()),
            result => result.map(drop).map_err(|failure| explain(failure, "remove the classifier from", interface)),
        }
    }

    /// The handles and programs of this owner's classifiers.
    fn classifiers<'a>(&self, filters: &'a [Filter]) -> impl Iterator<Item = (u32, &'a Loaded)> + use<'a> {
        let owner = self.owner;
        filters
            .iter()
            .filter(move |filter| owner_of(filter) == Some(owner))
            .filter_map(|filter| Some((filter.handle, filter.classifier()?)))
    }
}

/// The maps of a program. `None`: it is of another version, or has just gone.
fn maps_of(loaded: &Loaded) -> io::Result<Option<Maps>> {
    if read_name(&loaded.name).is_none_or(|(_, found)| found != fingerprint()) {
        return Ok(None);
    }
    match BpfProgram::of_id(loaded.id)? {
        Some(program) => Maps::of(&program),
        None => Ok(None),
    }
}

/// Tries whether the kernel lets this process use a [`Classifier`]: loads the program and finds it
/// again, and attaches it nowhere.
///
/// # Errors
/// [`Error::Refused`] with [`Cause::NoBpf`].
pub fn classifier_supported() -> Result<()> {
    let maps = Maps::create().map_err(|error| refused("create", "the classifier's maps", error, None))?;
    let program = maps.load()?;
    let find = || BpfProgram::of_id(program.id()?)?.as_ref().map_or(Ok(None), Maps::of);
    match find() {
        Ok(Some(_)) => Ok(()),
        Ok(None) => Err(refused("find", "the classifier's maps", Errno::NOENT.into(), None)),
        Err(error) => Err(refused("find", "the classifier's maps", error, None)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn listing() -> String {
        let mut text = format!("fingerprint {:016x}\n", fingerprint());
        let mut at = 0;
        let octets = assembler::assemble(PROGRAM, [0, 1, 2]);
        for line in PROGRAM {
            let length = line.length();
            match length {
                0 => text += &format!("{line}\n"),
                _ => {
                    let code: String =
                        octets[8 * at..8 * (at + 1)].iter().map(|octet| format!("{octet:02x}")).collect();
                    text += &format!("{at:4}  {code}  {line}\n");
                }
            }
            at += length;
        }
        text
    }

    /// `LVS_DR_WRITE=1 cargo test --lib classifier` writes the listing.
    #[test]
    #[cfg(target_endian = "little")]
    fn the_program_is_that_of_the_listing() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/marks/classifier/listing.txt");
        let text = listing();
        if std::env::var_os("LVS_DR_WRITE").is_some() {
            std::fs::write(&path, &text).unwrap();
        }
        let committed = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(
            committed == text,
            "listing.txt is not that of the program: `LVS_DR_WRITE=1 cargo test --lib classifier` writes it"
        );
    }

    #[test]
    fn entries_are_read_back() {
        for service in ["192.0.2.254:80", "[2001:db8::fe]:443"] {
            let service: SocketAddr = service.parse().unwrap();
            assert_eq!(read_service_key(&service_key(service)), Some(service));
        }
        let marks = ServiceMarks { local: NonZeroU32::MIN, elsewhere: None, before: NonZeroU32::new(7) };
        assert_eq!(ServiceMarks::decode(&marks.encode()), Some(marks));
        assert_eq!(ServiceMarks::decode(&[0; SERVICE_VALUE]), None);
        let mac = Mac([2, 0, 0, 0, 0, 9]);
        assert_eq!(read_peer(&peer_key(mac), &200_u32.to_ne_bytes()), Some((mac, 200)));
        assert_eq!(read_name(&format!("{NAME}{:016x} {:016x}", 7, 9)), Some((7, 9)));
        assert_eq!((read_name("lvs-dr"), read_name("mark.o:[tc]")), (None, None));
        let values: Vec<u8> = (0..2 * COUNTERS as u64).flat_map(u64::to_ne_bytes).collect();
        assert_eq!(Counters::read(&values).strays, 5 + 11);
    }

    #[test]
    fn what_cannot_be_right_is_refused() {
        let marks = ServiceMarks { local: NonZeroU32::MIN, elsewhere: None, before: Some(NonZeroU32::MAX) };
        let with = |service: &str, mac: [u8; 6], number: u8| Classification {
            services: [(service.parse().unwrap(), marks)].into(),
            peers: [(Mac(mac), number)].into(),
        };
        let good = [2, 0, 0, 0, 0, 2];
        with("192.0.2.254:80", good, 0).check().unwrap();
        for wrong in [
            with("192.0.2.254:0", good, 0),
            with("0.0.0.0:80", good, 0),
            with("[::ffff:192.0.2.1]:80", good, 0),
            with("192.0.2.254:80", [1; 6], 0),
            with("192.0.2.254:80", good, 1),
        ] {
            assert!(matches!(wrong.check(), Err(Error::Invalid { .. })), "{wrong:?}");
        }
        let peers = (0..2000_u16).map(|n| (Mac([2, 0, 0, 0, n.to_be_bytes()[0], n.to_be_bytes()[1]]), 0)).collect();
        assert!(Classification { peers, ..Classification::default() }.check().is_err());
    }
}
