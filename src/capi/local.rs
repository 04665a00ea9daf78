//! Marks for the packets that a node itself sends to a VIP.

use std::ffi::{CString, c_char, c_int};
use std::mem::{MaybeUninit, size_of};
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::ptr;

use super::ffi::{
    Grows, Handle, Held, Opened, Place, Result, Text, c_text, entry, given, invalid, put, read_all, reserved,
};
use super::status::{caught, guard};
use crate::marks::{Backend, LocalMarks, LocalObserved};

/// Nothing that is installed can set a mark, see lvs_marked_reason().
pub const LVS_BACKEND_NONE: u32 = 0;
/// nftables, by nft(8): `table inet lvs-dr`, all of it.
pub const LVS_BACKEND_NFT: u32 = 1;
/// xtables, by iptables(8) and ip6tables(8): rules of chain OUTPUT in table mangle with the
/// comment `lvs-dr`.
pub const LVS_BACKEND_XTABLES: u32 = 2;

/// Sets the marks of packets that programs of this node send to a VIP, in one network namespace:
/// IPVS schedules these too, and a mark leads them to a service of yours with this node as its
/// only destination. A namespace has one set of marks, whichever process has set it: a node with
/// LVS_FENCE_MARKS and LVS_OWN_REQUESTS_SERVED_HERE replaces what this sets.
///
/// A call runs nft(8) or iptables(8), one after the other: milliseconds where nothing has to be
/// changed. A program that takes longer than 5 s is killed, so that a call blocks for less than a
/// minute. Takes CAP_NET_ADMIN, and CAP_NET_RAW for iptables in its legacy variant. Fails with
/// LVS_ERR_SYSTEM where the namespace cannot be entered, or a program that worked before fails.
pub struct lvs_local_marks(Held<LocalMarks>);

impl Opened for lvs_local_marks {
    type Value = LocalMarks;

    fn held(&self) -> &Held<LocalMarks> {
        &self.0
    }
}

/// Marks that are in force, as they were when the list was made. Several threads may read one
/// list.
pub struct lvs_marked {
    backend: u32,
    reason: Option<CString>,
    marks: Vec<(CString, u32)>,
}

/// A mark for what this node sends to an address.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct lvs_local_mark {
    /// sizeof(struct lvs_local_mark).
    pub size: usize,
    /// The VIP.
    pub vip: Text,
    /// The mark. Not 0.
    pub mark: u32,
    /// 0.
    pub reserved: u32,
}

// SAFETY: `repr(C)`, numbers and a text; that there is no padding follows from its size, which is
// checked here.
unsafe impl Grows for lvs_local_mark {
    const NAME: &'static str = "lvs_local_mark";
    const FIRST: usize = size_of::<[usize; 2]>() + size_of::<[u32; 2]>();
}
const _: () = assert!(size_of::<lvs_local_mark>() == lvs_local_mark::FIRST);

const MAX_MARKS: usize = 4096;

impl lvs_local_mark {
    fn to_mark(self) -> Result<(IpAddr, NonZeroU32)> {
        reserved(self.reserved)?;
        let mark = NonZeroU32::new(self.mark).ok_or_else(|| invalid("`mark` 0", "a positive number was expected"))?;
        Ok((self.vip.address("vip")?, mark))
    }
}

impl From<LocalObserved> for lvs_marked {
    fn from(found: LocalObserved) -> Self {
        lvs_marked {
            backend: match found.backend {
                None => LVS_BACKEND_NONE,
                Some(Backend::Nft) => LVS_BACKEND_NFT,
                Some(Backend::Xtables) => LVS_BACKEND_XTABLES,
            },
            reason: found.reason.map(c_text),
            marks: found.marked.into_iter().map(|(vip, mark)| (c_text(vip.to_string()), mark.get())).collect(),
        }
    }
}

/// Opens a client. Starts no program yet, and does not block.
///
/// `netns`: the file of the network namespace to work in ("/run/netns/blue"), or NULL for the
/// calling thread's. `marks`: is set to the client; free it with lvs_local_marks_free().
#[unsafe(no_mangle)]
pub extern "C" fn lvs_local_marks_open(netns: Text, marks: Option<&mut MaybeUninit<Box<lvs_local_marks>>>) -> c_int {
    guard(|| {
        let result = given(marks, "marks")?;
        result.write(Box::new(lvs_local_marks(Held::new(LocalMarks::open_in(netns.netns()?)))));
        Ok(())
    })
}

/// Frees the client. The marks stay. NULL is ignored.
#[unsafe(no_mangle)]
pub extern "C" fn lvs_local_marks_free(marks: Option<Box<lvs_local_marks>>) {
    let _ = caught(|| drop(marks));
}

/// Reads the marks that are in force. Changes nothing. `found`: is set to the list; free it with
/// lvs_marked_free(). The blocking time and the errors are those of lvs_local_marks.
#[unsafe(no_mangle)]
pub extern "C" fn lvs_local_marks_observe(
    marks: Handle<lvs_local_marks>,
    found: Option<&mut MaybeUninit<Box<lvs_marked>>>,
) -> c_int {
    guard(|| {
        let (mut marks, result) = (marks.lock("marks")?, given(found, "found")?);
        result.write(Box::new(marks.observe()?.into()));
        Ok(())
    })
}

/// Sets these marks and no others. Marks that are right already stay. nftables replaces all at
/// once; with xtables a packet gets the old mark or the new one meanwhile.
///
/// `wanted`: `count` structures, up to 4096, each with its `size` set; NULL where `count` is 0.
/// They are copied. `found`: is set to the marks that are in force then, to be freed with
/// lvs_marked_free(); NULL if it is not needed. That no backend can set a mark is no error: it is
/// absent from the list, and lvs_marked_reason() says why. Fails with LVS_ERR_INVALID for an
/// address that is no VIP's or that has two marks, and nothing is changed then; with
/// LVS_ERR_NOT_VERIFIED when another process changes the marks at the same time; and as
/// lvs_local_marks, which also says for how long it blocks.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lvs_local_marks_apply(
    marks: Handle<lvs_local_marks>,
    wanted: *const lvs_local_mark,
    count: usize,
    found: Option<&mut MaybeUninit<Box<lvs_marked>>>,
) -> c_int {
    guard(|| {
        let mut marks = marks.lock("marks")?;
        // SAFETY: structures of C's, as many as the count says.
        let wanted = unsafe { read_all("wanted", wanted, count, MAX_MARKS) }?;
        let applied = marks.apply(&wanted.into_iter().map(lvs_local_mark::to_mark).collect::<Result<_>>()?)?;
        put(found, Box::new(applied.into()));
        Ok(())
    })
}

/// Removes all marks, of every backend. Rules of other programs stay. `removed`: is set to 1 if
/// there were any, otherwise to 0; NULL if it is not needed. The blocking time and the errors are
/// those of lvs_local_marks.
#[unsafe(no_mangle)]
pub extern "C" fn lvs_local_marks_remove(
    marks: Handle<lvs_local_marks>,
    removed: Option<&mut MaybeUninit<c_int>>,
) -> c_int {
    guard(|| {
        put(removed, marks.lock("marks")?.remove()?.into());
        Ok(())
    })
}

/// Returns what sets the marks: LVS_BACKEND_... LVS_BACKEND_NONE for NULL.
#[unsafe(no_mangle)]
pub extern "C" fn lvs_marked_backend(marked: Option<&lvs_marked>) -> u32 {
    marked.map_or(LVS_BACKEND_NONE, |marked| marked.backend)
}

/// Returns why there is no backend, or none for one of the address families, and what to do: a
/// text that belongs to the list, and lives as long as that. NULL where nothing is missing, and
/// for NULL.
#[unsafe(no_mangle)]
pub extern "C" fn lvs_marked_reason(marked: Option<&lvs_marked>) -> *const c_char {
    marked.and_then(|marked| marked.reason.as_ref()).map_or(ptr::null(), |reason| reason.as_ptr())
}

/// Returns the number of marks in a list; 0 for NULL.
#[unsafe(no_mangle)]
pub extern "C" fn lvs_marked_count(marked: Option<&lvs_marked>) -> usize {
    marked.map_or(0, |marked| marked.marks.len())
}

/// Fills `mark` with the entry of this index, counted from 0; set its `size` before. The text in
/// it belongs to the list, and lives as long as the list. Fails with LVS_ERR_INDEX.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lvs_marked_get(marked: Option<&lvs_marked>, index: usize, mark: *mut lvs_local_mark) -> c_int {
    guard(|| {
        let marked = given(marked, "marked")?;
        // SAFETY: a structure of C's.
        let place = unsafe { Place::new(mark) }?;
        let (vip, mark) = entry(&marked.marks, index)?;
        // SAFETY: C does not use the text longer than the list, as the header demands.
        let vip = unsafe { Text::of(vip) };
        place.put(lvs_local_mark { size: size_of::<lvs_local_mark>(), vip, mark: *mark, reserved: 0 });
        Ok(())
    })
}

/// Frees the list. NULL is ignored.
#[unsafe(no_mangle)]
pub extern "C" fn lvs_marked_free(marked: Option<Box<lvs_marked>>) {
    let _ = caught(|| drop(marked));
}
