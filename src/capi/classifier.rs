//! The classifier: one BPF program that marks TCP packets by whether this node has a socket for
//! them.

use std::ffi::{CString, c_int};
use std::mem::{MaybeUninit, size_of};
use std::num::NonZeroU32;

use super::ffi::{Grows, Handle, Held, Opened, Place, Result, Text, c_text, entry, given, invalid, read_all, reserved};
use super::status::{caught, guard};
use crate::marks::{Attached, Classification, Classifier, Counters, Mac, ServiceMarks, classifier_supported};

/// Attaches a BPF program to an interface that marks arriving TCP packets by whether a socket of
/// this node takes them, and changes what it knows.
///
/// A packet of this node's connections gets `local`; one with SYN from a peer gets `local`, one
/// from elsewhere none. A packet without SYN that no socket takes gets `elsewhere`, or `before`
/// and the number of the peer that it comes from, or `local`. The marks lead to IPVS services of
/// yours. The manual of the crate (marks::Classifier) and docs/ecmp.md say more.
///
/// Takes Linux 5.8, and CAP_NET_ADMIN, CAP_BPF and CAP_SYS_ADMIN in the initial user namespace.
pub struct lvs_classifier(Held<Classifier>);

impl Opened for lvs_classifier {
    type Value = Classifier;

    fn held(&self) -> &Held<Classifier> {
        &self.0
    }
}

/// Classifiers that are attached, and what they know and have counted. Several threads may read
/// one list.
pub struct lvs_classifiers(Vec<AttachedTexts>);

/// A service whose packets a classifier marks.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct lvs_classified {
    /// sizeof(struct lvs_classified).
    pub size: usize,
    /// The VIP and the TCP port: "192.168.0.254:80" or "[2001:db8::fe]:80".
    pub service: Text,
    /// The mark of packets of this node's own sockets, of those with SYN from a peer, and of
    /// strays. Not 0.
    pub local: u32,
    /// The mark of packets without SYN from elsewhere that no socket of this node takes. 0: there
    /// is no other node, and they get `local`.
    pub elsewhere: u32,
    /// The mark of the same packets from a peer: this and the peer's number are added up. 0: they
    /// are strays.
    pub before: u32,
    /// 0.
    pub reserved: u32,
}

// SAFETY: `repr(C)`, numbers and a text; that there is no padding follows from its size, which is
// checked here.
unsafe impl Grows for lvs_classified {
    const NAME: &'static str = "lvs_classified";
    const FIRST: usize = size_of::<[usize; 2]>() + size_of::<[u32; 4]>();
}
const _: () = assert!(size_of::<lvs_classified>() == lvs_classified::FIRST);

/// A MAC address of another node. A node that sends from several has an entry for each.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct lvs_classifier_peer {
    /// sizeof(struct lvs_classifier_peer).
    pub size: usize,
    /// The MAC address, "02:00:00:00:00:01".
    pub mac: Text,
    /// The number of the node, 0 to 255, see `before` in lvs_classified.
    pub number: u32,
    /// 0.
    pub reserved: u32,
}

// SAFETY: as for `lvs_classified`.
unsafe impl Grows for lvs_classifier_peer {
    const NAME: &'static str = "lvs_classifier_peer";
    const FIRST: usize = size_of::<[usize; 2]>() + size_of::<[u32; 2]>();
}
const _: () = assert!(size_of::<lvs_classifier_peer>() == lvs_classifier_peer::FIRST);

/// A classifier on an interface. The counters are packets since it was attached, of all its
/// services.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct lvs_attached {
    /// sizeof(struct lvs_attached).
    pub size: usize,
    /// The interface's name.
    pub interface: Text,
    /// The number of services that it knows, see lvs_classifiers_service().
    pub services: usize,
    /// The number of MAC addresses that it knows, see lvs_classifiers_peer().
    pub peers: usize,
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
    /// 1 if it is the program of this version. 0: of another one; nothing is known of it, and
    /// lvs_classifier_apply() replaces it.
    pub is_current: u32,
    /// 0.
    pub reserved: u32,
}

// SAFETY: as for `lvs_classified`.
unsafe impl Grows for lvs_attached {
    const NAME: &'static str = "lvs_attached";
    const FIRST: usize = size_of::<[usize; 4]>() + size_of::<[u64; 6]>() + size_of::<[u32; 2]>();
}
const _: () = assert!(size_of::<lvs_attached>() == lvs_attached::FIRST);

/// As many as the maps of the program hold.
const MAX_SERVICES: usize = 4096;
const MAX_PEERS: usize = 1024;

impl lvs_classified {
    fn to_service(self) -> Result<(std::net::SocketAddr, ServiceMarks)> {
        reserved(self.reserved)?;
        let local =
            NonZeroU32::new(self.local).ok_or_else(|| invalid("`local` 0", "a mark other than 0 was expected"))?;
        let [elsewhere, before] = [self.elsewhere, self.before].map(NonZeroU32::new);
        Ok((self.service.socket_address("service")?, ServiceMarks { local, elsewhere, before }))
    }
}

impl lvs_classifier_peer {
    fn to_peer(self) -> Result<(Mac, u8)> {
        reserved(self.reserved)?;
        let number = u8::try_from(self.number);
        let number = number.map_err(|_| invalid(&format!("`number` {}", self.number), "0 to 255 was expected"))?;
        Ok((self.mac.name("mac")?.parse()?, number))
    }
}

struct AttachedTexts {
    interface: CString,
    services: Vec<(CString, ServiceMarks)>,
    peers: Vec<(CString, u8)>,
    counters: Counters,
    is_current: bool,
}

impl lvs_classifiers {
    pub(super) fn of<'a>(found: impl IntoIterator<Item = (&'a str, &'a Attached)>) -> Self {
        lvs_classifiers(
            found.into_iter().map(|(interface, attached)| AttachedTexts::new(interface, attached)).collect(),
        )
    }
}

impl AttachedTexts {
    fn new(interface: &str, attached: &Attached) -> Self {
        let Classification { services, peers } = &attached.classification;
        AttachedTexts {
            interface: c_text(interface),
            services: services.iter().map(|(service, marks)| (c_text(service.to_string()), *marks)).collect(),
            peers: peers.iter().map(|(mac, number)| (c_text(mac.to_string()), *number)).collect(),
            counters: attached.counters,
            is_current: attached.is_current,
        }
    }

    /// # Safety
    /// `self` lives as long as the result is used.
    unsafe fn as_c(&self) -> lvs_attached {
        let Counters { local, peer_openings, openings, forwarded, second_hops, strays } = self.counters;
        lvs_attached {
            size: size_of::<lvs_attached>(),
            // SAFETY: it lives as long as `self`, and that as long as the caller promises.
            interface: unsafe { Text::of(&self.interface) },
            services: self.services.len(),
            peers: self.peers.len(),
            local,
            peer_openings,
            openings,
            forwarded,
            second_hops,
            strays,
            is_current: self.is_current.into(),
            reserved: 0,
        }
    }
}

/// Tries whether the kernel lets this process use a classifier: loads the program, and attaches it
/// nowhere. Takes the time of the kernel's verifier, some milliseconds. Fails with
/// LVS_ERR_NO_MODULE, and the verifier's words in the message.
#[unsafe(no_mangle)]
pub extern "C" fn lvs_classifier_supported() -> c_int {
    guard(|| Ok(classifier_supported()?))
}

/// Opens a client for classifiers.
///
/// `netns` and `owner`: as with lvs_marks_open(). `classifier`: is set to the client; free it with
/// lvs_classifier_free().
#[unsafe(no_mangle)]
pub extern "C" fn lvs_classifier_open(
    netns: Text,
    owner: u64,
    classifier: Option<&mut MaybeUninit<Box<lvs_classifier>>>,
) -> c_int {
    guard(|| {
        let result = given(classifier, "classifier")?;
        result.write(Box::new(lvs_classifier(Held::new(Classifier::open_in(netns.netns()?, owner)?))));
        Ok(())
    })
}

/// Frees the client. The programs that it has attached stay. NULL is ignored.
#[unsafe(no_mangle)]
pub extern "C" fn lvs_classifier_free(classifier: Option<Box<lvs_classifier>>) {
    let _ = caught(|| drop(classifier));
}

/// Makes what the classifier on an interface knows this; attaches it where there is none, and adds
/// the qdisc clsact where there is neither that nor ingress. Repeating it is no error.
///
/// `services`: `service_count` structures, up to 4096; `peers`: `peer_count` structures, up to
/// 1024. Each has its `size` set; NULL where the count is 0. They are copied. Each service and
/// each peer changes in one step, those that are added before others go. The counters go on. The
/// first call takes the time of the kernel's verifier, some milliseconds. Fails with
/// LVS_ERR_INVALID, LVS_ERR_NO_INTERFACE, LVS_ERR_NO_MODULE where the kernel does not let this
/// process use bpf(2), LVS_ERR_PERMISSION, and LVS_ERR_FOREIGN where another program's filter has
/// the priority.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lvs_classifier_apply(
    classifier: Handle<lvs_classifier>,
    interface: Text,
    services: *const lvs_classified,
    service_count: usize,
    peers: *const lvs_classifier_peer,
    peer_count: usize,
) -> c_int {
    guard(|| {
        let (mut classifier, interface) = (classifier.lock("classifier")?, interface.name("interface")?);
        // SAFETY: structures of C's, as many as the counts say.
        let (services, peers) = unsafe {
            (
                read_all("services", services, service_count, MAX_SERVICES)?,
                read_all("peers", peers, peer_count, MAX_PEERS)?,
            )
        };
        let wanted = Classification {
            services: services.into_iter().map(lvs_classified::to_service).collect::<Result<_>>()?,
            peers: peers.into_iter().map(lvs_classifier_peer::to_peer).collect::<Result<_>>()?,
        };
        Ok(classifier.apply(&interface, &wanted)?)
    })
}

/// Removes the classifier of this owner from an interface, with all that it knows. A missing one
/// is no error. The qdisc stays: lvs_marks_clear() removes it. Fails with LVS_ERR_PERMISSION.
#[unsafe(no_mangle)]
pub extern "C" fn lvs_classifier_remove(classifier: Handle<lvs_classifier>, interface: Text) -> c_int {
    guard(|| {
        let mut classifier = classifier.lock("classifier")?;
        Ok(classifier.remove(&interface.name("interface")?)?)
    })
}

/// Reads what the classifier of this owner on an interface knows and has counted. `found`: is set
/// to a list, to be freed with lvs_classifiers_free(): it has one entry, or none where there is no
/// such classifier or interface. Fails with LVS_ERR_NO_MODULE without CAP_BPF and CAP_SYS_ADMIN.
#[unsafe(no_mangle)]
pub extern "C" fn lvs_classifier_observe(
    classifier: Handle<lvs_classifier>,
    interface: Text,
    found: Option<&mut MaybeUninit<Box<lvs_classifiers>>>,
) -> c_int {
    guard(|| {
        let (mut classifier, interface) = (classifier.lock("classifier")?, interface.name("interface")?);
        let result = given(found, "found")?;
        let attached = classifier.observe(&interface)?;
        result.write(Box::new(lvs_classifiers::of(attached.iter().map(|found| (interface.as_str(), found)))));
        Ok(())
    })
}

/// Returns the number of classifiers in a list; 0 for NULL.
#[unsafe(no_mangle)]
pub extern "C" fn lvs_classifiers_count(classifiers: Option<&lvs_classifiers>) -> usize {
    classifiers.map_or(0, |classifiers| classifiers.0.len())
}

/// Fills `attached` with the entry of this index, counted from 0; set its `size` before. The text
/// in it belongs to the list, and lives as long as the list. Fails with LVS_ERR_INDEX.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lvs_classifiers_get(
    classifiers: Option<&lvs_classifiers>,
    index: usize,
    attached: *mut lvs_attached,
) -> c_int {
    guard(|| {
        let classifiers = given(classifiers, "classifiers")?;
        // SAFETY: a structure of C's; C does not use the text longer than the list, as the header
        // demands.
        unsafe { Place::new(attached)?.put(entry(&classifiers.0, index)?.as_c()) };
        Ok(())
    })
}

/// Fills `service` with a service of the classifier of this index: that of the index `number`,
/// both counted from 0. Otherwise as lvs_classifiers_get().
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lvs_classifiers_service(
    classifiers: Option<&lvs_classifiers>,
    index: usize,
    number: usize,
    service: *mut lvs_classified,
) -> c_int {
    guard(|| {
        let classifiers = given(classifiers, "classifiers")?;
        // SAFETY: a structure of C's.
        let place = unsafe { Place::new(service) }?;
        let (text, marks) = entry(&entry(&classifiers.0, index)?.services, number)?;
        let [elsewhere, before] = [marks.elsewhere, marks.before].map(|mark| mark.map_or(0, NonZeroU32::get));
        // SAFETY: C does not use the text longer than the list, as the header demands.
        let service = unsafe { Text::of(text) };
        let (size, local) = (size_of::<lvs_classified>(), marks.local.get());
        place.put(lvs_classified { size, service, local, elsewhere, before, reserved: 0 });
        Ok(())
    })
}

/// Fills `peer` with a MAC address that the classifier of this index knows: that of the index
/// `number`, both counted from 0. Otherwise as lvs_classifiers_get().
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lvs_classifiers_peer(
    classifiers: Option<&lvs_classifiers>,
    index: usize,
    number: usize,
    peer: *mut lvs_classifier_peer,
) -> c_int {
    guard(|| {
        let classifiers = given(classifiers, "classifiers")?;
        // SAFETY: a structure of C's.
        let place = unsafe { Place::new(peer) }?;
        let (text, number) = entry(&entry(&classifiers.0, index)?.peers, number)?;
        // SAFETY: C does not use the text longer than the list, as the header demands.
        let mac = unsafe { Text::of(text) };
        let size = size_of::<lvs_classifier_peer>();
        place.put(lvs_classifier_peer { size, mac, number: (*number).into(), reserved: 0 });
        Ok(())
    })
}

/// Frees a list of lvs_classifier_observe(). NULL is ignored. A list of lvs_status_classifiers()
/// is freed with its status.
#[unsafe(no_mangle)]
pub extern "C" fn lvs_classifiers_free(classifiers: Option<Box<lvs_classifiers>>) {
    let _ = caught(|| drop(classifiers));
}
