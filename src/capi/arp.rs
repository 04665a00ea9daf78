//! ARP settings: read, set, given back.

use std::ffi::c_int;
use std::mem::{MaybeUninit, size_of};

use super::ffi::{Grows, Handle, Held, Opened, Place, Result, Text, given, put, read};
use super::status::{caught, guard};
use crate::arp::{Arp, ArpTarget, Change, Returned, Settings};

/// Reads and changes the ARP settings of one network namespace.
pub struct lvs_arp(Held<Arp>);

impl Opened for lvs_arp {
    type Value = Arp;

    fn held(&self) -> &Held<Arp> {
        &self.0
    }
}

/// ARP settings, as in /proc/sys/net/ipv4/conf. To hide a VIP on `lo`, 1 and 2 are what to use.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct lvs_arp_settings {
    /// sizeof(struct lvs_arp_settings).
    pub size: usize,
    /// arp_ignore: for which addresses requests are answered.
    pub ignore: i32,
    /// arp_announce: which address is named as sender.
    pub announce: i32,
}

// SAFETY: `repr(C)` and numbers; that there is no padding follows from its size, which is checked
// here.
unsafe impl Grows for lvs_arp_settings {
    const NAME: &'static str = "lvs_arp_settings";
    const FIRST: usize = size_of::<usize>() + 2 * 4;
}
const _: () = assert!(size_of::<lvs_arp_settings>() == lvs_arp_settings::FIRST);

impl From<lvs_arp_settings> for Settings {
    fn from(settings: lvs_arp_settings) -> Self {
        Settings { ignore: settings.ignore.into(), announce: settings.announce.into() }
    }
}

impl From<Settings> for lvs_arp_settings {
    fn from(settings: Settings) -> Self {
        lvs_arp_settings {
            size: size_of::<lvs_arp_settings>(),
            ignore: settings.ignore.value(),
            announce: settings.announce.value(),
        }
    }
}

fn target_of(text: Text) -> Result<ArpTarget> {
    let name = text.name("target")?;
    Ok(if name == ArpTarget::All.name() { ArpTarget::All } else { ArpTarget::Interface(name) })
}

/// Opens a client for ARP settings.
///
/// `netns`: the file of the network namespace to work in ("/run/netns/blue"), or NULL for the
/// calling thread's. `arp`: is set to the client; free it with lvs_arp_free().
#[unsafe(no_mangle)]
pub extern "C" fn lvs_arp_open(netns: Text, arp: Option<&mut MaybeUninit<Box<lvs_arp>>>) -> c_int {
    guard(|| {
        let result = given(arp, "arp")?;
        result.write(Box::new(lvs_arp(Held::new(Arp::open_in(netns.netns()?)))));
        Ok(())
    })
}

/// Frees the client. Its changes stay. NULL is ignored.
#[unsafe(no_mangle)]
pub extern "C" fn lvs_arp_free(arp: Option<Box<lvs_arp>>) {
    let _ = caught(|| drop(arp));
}

/// Reads the settings of an interface, or of "all". `settings` is filled; set its `size` before.
/// Fails with LVS_ERR_NO_INTERFACE.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lvs_arp_get(arp: Handle<lvs_arp>, target: Text, settings: *mut lvs_arp_settings) -> c_int {
    guard(|| {
        let (arp, target) = (arp.lock("arp")?, target_of(target)?);
        // SAFETY: a structure of C's.
        let place = unsafe { Place::new(settings) }?;
        place.put(arp.get(&target)?.into());
        Ok(())
    })
}

/// Reads the effective settings of an interface: of its own and those of "all", the greater number
/// each. Otherwise as lvs_arp_get().
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lvs_arp_effective(
    arp: Handle<lvs_arp>,
    interface: Text,
    settings: *mut lvs_arp_settings,
) -> c_int {
    guard(|| {
        let (arp, interface) = (arp.lock("arp")?, interface.name("interface")?);
        // SAFETY: a structure of C's.
        let place = unsafe { Place::new(settings) }?;
        place.put(arp.effective(&interface)?.into());
        Ok(())
    })
}

/// Reads whether ARP requests that arrive on an interface for a VIP on `lo` stay unanswered: what
/// counts is the greater of `arp_ignore` of the interface and of "all", and `route_localnet` of
/// `lo`. `scope_host`: 1 where the VIP has scope host, as lvs_vips_add() adds it, otherwise 0.
/// `hidden`: is set to 1 or 0. Fails with LVS_ERR_NO_INTERFACE.
#[unsafe(no_mangle)]
pub extern "C" fn lvs_arp_hides_loopback_vip(
    arp: Handle<lvs_arp>,
    interface: Text,
    scope_host: c_int,
    hidden: Option<&mut MaybeUninit<c_int>>,
) -> c_int {
    guard(|| {
        let (arp, interface, result) = (arp.lock("arp")?, interface.name("interface")?, given(hidden, "hidden")?);
        put(Some(result), arp.hides_loopback_vip(&interface, scope_host != 0)?.into());
        Ok(())
    })
}

/// Reads what lvs_arp_set() would find and change. Changes nothing. `previous`: is filled with the
/// settings that are there; set its `size` before. `changes`: is set to 1 if they differ from
/// `settings`, otherwise to 0; NULL if it is not needed. Fails as lvs_arp_set().
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lvs_arp_plan(
    arp: Handle<lvs_arp>,
    target: Text,
    settings: *const lvs_arp_settings,
    previous: *mut lvs_arp_settings,
    changes: Option<&mut MaybeUninit<c_int>>,
) -> c_int {
    guard(|| {
        let (arp, target) = (arp.lock("arp")?, target_of(target)?);
        // SAFETY: structures of C's.
        let (wanted, place) = unsafe { (read(settings)?, Place::new(previous)?) };
        let change = arp.plan(&target, wanted.into())?;
        place.put(change.before.into());
        put(changes, (!change.is_empty()).into());
        Ok(())
    })
}

/// Sets both settings of an interface, or of "all".
///
/// `previous`: is filled with what was found, for lvs_arp_give_back(); set its `size` before; NULL
/// if it is not needed. It may be the same structure as `settings`. After a failure one of the two
/// may be set: read them with lvs_arp_get(). Fails with LVS_ERR_INVALID for what is not 0 to 8 and
/// 0 to 2, LVS_ERR_NO_INTERFACE, and LVS_ERR_SYSTEM where /proc/sys cannot be written to (EACCES,
/// EPERM, EROFS).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lvs_arp_set(
    arp: Handle<lvs_arp>,
    target: Text,
    settings: *const lvs_arp_settings,
    previous: *mut lvs_arp_settings,
) -> c_int {
    guard(|| {
        let (arp, target) = (arp.lock("arp")?, target_of(target)?);
        // SAFETY: structures of C's.
        let (wanted, place) = unsafe { (read(settings)?, Place::optional(previous)?) };
        let change = arp.plan(&target, wanted.into())?;
        arp.apply(&change)?;
        if let Some(place) = place {
            place.put(change.before.into());
        }
        Ok(())
    })
}

/// Restores what lvs_arp_set() changed: from `settings`, which were set, to `previous`, which were
/// found.
///
/// A setting that another program changed since stays, and is no error: `kept` is set to 1 then,
/// otherwise to 0; NULL if it is not needed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lvs_arp_give_back(
    arp: Handle<lvs_arp>,
    target: Text,
    settings: *const lvs_arp_settings,
    previous: *const lvs_arp_settings,
    kept: Option<&mut MaybeUninit<c_int>>,
) -> c_int {
    guard(|| {
        let (arp, target) = (arp.lock("arp")?, target_of(target)?);
        // SAFETY: structures of C's.
        let (after, before) = unsafe { (read(settings)?, read(previous)?) };
        let back = arp.give_back(&Change { target, before: before.into(), after: after.into() })?;
        put(kept, [back.ignore, back.announce].iter().any(|one| matches!(one, Returned::Kept(_))).into());
        Ok(())
    })
}
