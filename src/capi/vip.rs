//! VIPs: placed, located, announced.

use std::ffi::{CString, c_int};
use std::mem::{MaybeUninit, size_of};

use super::ffi::{Grows, Handle, Held, NAME, Opened, Place, Result, Text, c_text, entry, given, put};
use super::report::lvs_texts;
use super::status::{caught, guard};
use crate::vip::{AssignedAddress, Placement, Scope, Vips};

/// In lvs_place: it does not expire.
pub const LVS_PLACE_PERMANENT: u32 = 0x01;
/// In lvs_place: its preferred lifetime is over, and it is not the source of new connections.
pub const LVS_PLACE_DEPRECATED: u32 = 0x02;
/// In lvs_place: IPv6 duplicate address detection has not ended, so the address is not usable yet.
pub const LVS_PLACE_TENTATIVE: u32 = 0x04;
/// In lvs_place: IPv6 duplicate address detection found the address on another node, so it is not
/// usable.
pub const LVS_PLACE_DAD_FAILED: u32 = 0x08;
/// In lvs_place: another program added it; this library neither changes nor removes it.
pub const LVS_PLACE_FOREIGN: u32 = 0x10;

/// Finds and changes the VIPs of one network namespace.
pub struct lvs_vips(Held<Vips>);

impl Opened for lvs_vips {
    type Value = Vips;

    fn held(&self) -> &Held<Vips> {
        &self.0
    }
}

/// The places of an address, as they were when the list was made. Several threads may read one
/// list.
pub struct lvs_places(Vec<PlaceTexts>);

/// An address on an interface.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct lvs_place {
    /// sizeof(struct lvs_place).
    pub size: usize,
    /// The address, without its prefix length.
    pub address: Text,
    /// The other end of a point-to-point address, or NULL.
    pub peer: Text,
    /// The interface's name.
    pub interface: Text,
    /// The interface's index.
    pub index: u32,
    /// The prefix length.
    pub prefix: u32,
    /// How far the address is valid: RT_SCOPE_... in linux/rtnetlink.h. 0 is global, 254 host.
    pub scope: u32,
    /// LVS_PLACE_...
    pub flags: u32,
    /// Who added it: IFA_PROTO in linux/if_addr.h. 86 is this library, 18 keepalived, 0 not known.
    pub mark: u32,
    /// 0.
    pub reserved: u32,
}

// SAFETY: `repr(C)`, numbers and texts; that there is no padding follows from its size, which is
// checked here.
unsafe impl Grows for lvs_place {
    const NAME: &'static str = "lvs_place";
    const FIRST: usize = 4 * size_of::<usize>() + 6 * 4;
}
const _: () = assert!(size_of::<lvs_place>() == lvs_place::FIRST);

struct PlaceTexts {
    address: CString,
    peer: Option<CString>,
    interface: CString,
    index: u32,
    prefix: u32,
    scope: u32,
    flags: u32,
    mark: u32,
}

impl lvs_places {
    pub(super) fn of<'a>(found: impl Iterator<Item = &'a AssignedAddress>) -> Self {
        lvs_places(found.map(PlaceTexts::new).collect())
    }
}

impl PlaceTexts {
    fn new(found: &AssignedAddress) -> Self {
        let flags = [
            (found.permanent, LVS_PLACE_PERMANENT),
            (found.deprecated, LVS_PLACE_DEPRECATED),
            (found.tentative, LVS_PLACE_TENTATIVE),
            (found.dad_failed, LVS_PLACE_DAD_FAILED),
            (found.is_foreign(), LVS_PLACE_FOREIGN),
        ];
        PlaceTexts {
            address: c_text(found.address.to_string()),
            peer: found.peer.map(|peer| c_text(peer.to_string())),
            interface: c_text(found.interface.as_str()),
            index: found.index,
            prefix: found.prefix.into(),
            scope: match found.scope {
                Scope::Global => 0,
                Scope::Site => 200,
                Scope::Link => 253,
                Scope::Host => 254,
                Scope::Nowhere => 255,
                Scope::Other(number) => number.into(),
            },
            flags: flags.iter().filter(|(set, _)| *set).fold(0, |all, (_, flag)| all | flag),
            mark: found.mark.unwrap_or(0).into(),
        }
    }

    /// # Safety
    /// `self` lives as long as the result is used.
    unsafe fn as_c(&self) -> lvs_place {
        // SAFETY: the texts live as long as `self`, and that as long as the caller promises.
        let text = |text: &CString| unsafe { Text::of(text) };
        lvs_place {
            size: size_of::<lvs_place>(),
            address: text(&self.address),
            peer: self.peer.as_ref().map_or(Text::NULL, text),
            interface: text(&self.interface),
            index: self.index,
            prefix: self.prefix,
            scope: self.scope,
            flags: self.flags,
            mark: self.mark,
            reserved: 0,
        }
    }
}

fn placement(interface: Text) -> Result<Placement> {
    let name = interface.name("interface")?;
    Ok(if name == Placement::Loopback.interface() { Placement::Loopback } else { Placement::Interface(name) })
}

/// Opens a client for VIPs.
///
/// `netns`: the file of the network namespace to work in ("/run/netns/blue"), or NULL for the
/// calling thread's. `vips`: is set to the client; free it with lvs_vips_free().
#[unsafe(no_mangle)]
pub extern "C" fn lvs_vips_open(netns: Text, vips: Option<&mut MaybeUninit<Box<lvs_vips>>>) -> c_int {
    guard(|| {
        let result = given(vips, "vips")?;
        result.write(Box::new(lvs_vips(Held::new(Vips::open_in(netns.netns()?)?))));
        Ok(())
    })
}

/// Frees the client. Its changes stay. NULL is ignored. After lvs_vips_announce() this closes a
/// packet socket: the kernel waits for a grace period of RCU, some 10 ms.
#[unsafe(no_mangle)]
pub extern "C" fn lvs_vips_free(vips: Option<Box<lvs_vips>>) {
    let _ = caught(|| drop(vips));
}

/// Places a VIP, and brings one that is there in another form into the right one.
///
/// `vip`: "192.168.0.254". `interface`: "lo" for the loopback interface, where it gets scope host:
/// the place of every node that serves. Any other name: where neighbours find it, the director's
/// place. `changed`: is set to 1 if there was anything to do, otherwise to 0; NULL if it is not
/// needed. Fails with LVS_ERR_NO_INTERFACE, LVS_ERR_PERMISSION, and LVS_ERR_FOREIGN when another
/// program has added the address already.
#[unsafe(no_mangle)]
pub extern "C" fn lvs_vips_add(
    vips: Handle<lvs_vips>,
    vip: Text,
    interface: Text,
    changed: Option<&mut MaybeUninit<c_int>>,
) -> c_int {
    guard(|| {
        let (mut vips, vip, placement) = (vips.lock("vips")?, vip.address("vip")?, placement(interface)?);
        put(changed, vips.add(vip, &placement)?.into());
        Ok(())
    })
}

/// Removes a VIP from this interface. The arguments and errors are those of lvs_vips_add(); a VIP
/// that is not there is no error.
#[unsafe(no_mangle)]
pub extern "C" fn lvs_vips_remove(
    vips: Handle<lvs_vips>,
    vip: Text,
    interface: Text,
    changed: Option<&mut MaybeUninit<c_int>>,
) -> c_int {
    guard(|| {
        let (mut vips, vip, placement) = (vips.lock("vips")?, vip.address("vip")?, placement(interface)?);
        put(changed, vips.remove(vip, &placement)?.into());
        Ok(())
    })
}

/// Moves a VIP: it is added to interface `to`, then removed from `from`, whichever of the two has
/// it now; for a moment both have it. Otherwise as lvs_vips_add(). Fails with LVS_ERR_FOREIGN when
/// a third interface has it.
#[unsafe(no_mangle)]
pub extern "C" fn lvs_vips_relocate(
    vips: Handle<lvs_vips>,
    vip: Text,
    from: Text,
    to: Text,
    changed: Option<&mut MaybeUninit<c_int>>,
) -> c_int {
    guard(|| {
        let (mut vips, vip) = (vips.lock("vips")?, vip.address("vip")?);
        put(changed, vips.relocate(vip, &placement(from)?, &placement(to)?)?.into());
        Ok(())
    })
}

/// Places a VIP: sees to it that it sits on interface `to` and nowhere else. It is added before it
/// is removed elsewhere: from `lo`, and from every interface where this library has added it.
/// Before Linux 5.18 that is not known, and lvs_vips_relocate() is to be told from where.
/// Otherwise as lvs_vips_add(). Fails with LVS_ERR_FOREIGN when it sits on another interface where
/// another program has added it; nothing is changed then.
#[unsafe(no_mangle)]
pub extern "C" fn lvs_vips_place(
    vips: Handle<lvs_vips>,
    vip: Text,
    to: Text,
    changed: Option<&mut MaybeUninit<c_int>>,
) -> c_int {
    guard(|| {
        let (mut vips, vip) = (vips.lock("vips")?, vip.address("vip")?);
        put(changed, vips.place(vip, &placement(to)?)?.into());
        Ok(())
    })
}

/// Adds the route by which a routing daemon (BIRD, FRR) learns that it is to advertise a VIP:
/// `unreachable VIP proto 86 table 86`. The kernel does not look that table up, unless an ip rule
/// says so. One that is there is no error. Fails with LVS_ERR_INVALID, LVS_ERR_PERMISSION, and
/// LVS_ERR_FOREIGN where another route to the VIP has the same metric.
#[unsafe(no_mangle)]
pub extern "C" fn lvs_vips_advertise(vips: Handle<lvs_vips>, vip: Text) -> c_int {
    guard(|| {
        let (mut vips, vip) = (vips.lock("vips")?, vip.address("vip")?);
        Ok(vips.advertise(vip)?)
    })
}

/// Removes that route. Other routes to the VIP stay, and a missing one is no error. Fails with
/// LVS_ERR_INVALID and LVS_ERR_PERMISSION.
#[unsafe(no_mangle)]
pub extern "C" fn lvs_vips_unadvertise(vips: Handle<lvs_vips>, vip: Text) -> c_int {
    guard(|| {
        let (mut vips, vip) = (vips.lock("vips")?, vip.address("vip")?);
        Ok(vips.unadvertise(vip)?)
    })
}

/// Lists the addresses that have such a route. `advertised`: is set to the list, which may be
/// empty; free it with lvs_texts_free().
#[unsafe(no_mangle)]
pub extern "C" fn lvs_vips_advertised(
    vips: Handle<lvs_vips>,
    advertised: Option<&mut MaybeUninit<Box<lvs_texts>>>,
) -> c_int {
    guard(|| {
        let (mut vips, result) = (vips.lock("vips")?, given(advertised, "advertised")?);
        result.write(Box::new(lvs_texts::of(vips.advertised()?)));
        Ok(())
    })
}

/// Removes a VIP from `lo` and, unless that is NULL, from `interface`. An address that another
/// program added stays, and is no error.
#[unsafe(no_mangle)]
pub extern "C" fn lvs_vips_withdraw(
    vips: Handle<lvs_vips>,
    vip: Text,
    interface: Text,
    changed: Option<&mut MaybeUninit<c_int>>,
) -> c_int {
    guard(|| {
        let (mut vips, vip, interface) =
            (vips.lock("vips")?, vip.address("vip")?, interface.optional("interface", NAME)?);
        put(changed, vips.withdraw(vip, interface.as_deref())?.into());
        Ok(())
    })
}

/// Finds the interfaces that hold an address. `vip`: NULL for every address of every interface.
/// `places`: is set to the list, which may be empty; free it with lvs_places_free().
#[unsafe(no_mangle)]
pub extern "C" fn lvs_vips_locate(
    vips: Handle<lvs_vips>,
    vip: Text,
    places: Option<&mut MaybeUninit<Box<lvs_places>>>,
) -> c_int {
    guard(|| {
        let (mut vips, result) = (vips.lock("vips")?, given(places, "places")?);
        let found = match vip.optional_address("vip")? {
            Some(vip) => vips.locate(vip)?,
            None => vips.all()?,
        };
        result.write(Box::new(lvs_places::of(found.iter())));
        Ok(())
    })
}

/// Returns the number of places in a list; 0 for NULL.
#[unsafe(no_mangle)]
pub extern "C" fn lvs_places_count(places: Option<&lvs_places>) -> usize {
    places.map_or(0, |places| places.0.len())
}

/// Fills `place` with the entry of this index, counted from 0; set its `size` before. The texts in
/// it are the list's, and live as long as that. Fails with LVS_ERR_INDEX.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lvs_places_get(places: Option<&lvs_places>, index: usize, place: *mut lvs_place) -> c_int {
    guard(|| {
        let places = given(places, "places")?;
        // SAFETY: a structure of C's.
        let to = unsafe { Place::new(place) }?;
        // SAFETY: C does not use the texts longer than the list, as the header demands.
        to.put(unsafe { entry(&places.0, index)?.as_c() });
        Ok(())
    })
}

/// Frees the list. NULL is ignored.
#[unsafe(no_mangle)]
pub extern "C" fn lvs_places_free(places: Option<Box<lvs_places>>) {
    let _ = caught(|| drop(places));
}

/// Announces to the neighbours that this node has the VIP: sends `times` gratuitous ARP requests
/// or unsolicited neighbour advertisements at once, up to 1000. keepalived sends 5.
///
/// `sent`: is set to 1, or to 0 on an interface without neighbours (loopback, point-to-point,
/// NOARP); NULL if it is not needed. Fails with LVS_ERR_NO_ADDRESS where the interface does not
/// hold the VIP, LVS_ERR_INTERFACE_DOWN, LVS_ERR_NO_INTERFACE, and LVS_ERR_SYSTEM (EPERM) without
/// CAP_NET_RAW.
///
/// The client keeps the packet socket for the next call, so that a call does not wait for its
/// close; lvs_vips_free() does.
#[unsafe(no_mangle)]
pub extern "C" fn lvs_vips_announce(
    vips: Handle<lvs_vips>,
    vip: Text,
    interface: Text,
    times: u32,
    sent: Option<&mut MaybeUninit<c_int>>,
) -> c_int {
    guard(|| {
        let (mut vips, vip, interface) = (vips.lock("vips")?, vip.address("vip")?, interface.name("interface")?);
        put(sent, vips.announce(vip, &interface, times)?.into());
        Ok(())
    })
}
