//! What crosses the border: texts, structures that grow, results. Nothing of this file is in the
//! header.

use std::ffi::{CString, c_char};
use std::mem::{MaybeUninit, size_of};
use std::net::{IpAddr, SocketAddr};
use std::process;
use std::ptr::{self, NonNull};
use std::slice;
use std::sync::{Mutex, MutexGuard, TryLockError};

use super::status::{
    Failure, LVS_ERR_BUSY, LVS_ERR_FORKED, LVS_ERR_INDEX, LVS_ERR_NULL, LVS_ERR_PANIC, LVS_ERR_SIZE, LVS_ERR_TEXT,
};
use crate::error::Error;
use crate::netns::Netns;

pub(super) type Result<T, E = Failure> = std::result::Result<T, E>;

/// The longest name, address or id, in octets.
pub(super) const NAME: usize = 255;
/// The longest path.
pub(super) const PATH: usize = 4095;
/// The longest table.
pub(super) const TABLE: usize = 16 << 20;

/// Larger structures than this are not looked through.
const LARGEST: usize = 4096;

fn null(name: &str) -> Failure {
    Failure::new(LVS_ERR_NULL, format!("`{name}` is NULL"))
}

pub(super) fn invalid(object: &str, reason: impl Into<String>) -> Failure {
    Error::invalid(object, reason).into()
}

/// What must not be NULL: a handle, a list, or the place for a result.
pub(super) fn given<T>(pointer: Option<T>, name: &str) -> Result<T> {
    pointer.ok_or_else(|| null(name))
}

/// A `const char *` of C: NULL, or a text that a NUL ends and that lives as long as this is used.
/// C makes it, and code that makes one here promises the same.
#[repr(transparent)]
#[derive(Clone, Copy)]
pub struct Text(Option<NonNull<c_char>>);

impl Text {
    pub(super) const NULL: Text = Text(None);

    /// # Safety
    /// The text ends with a NUL, and lives as long as the result is used.
    pub(super) unsafe fn new(pointer: *const c_char) -> Self {
        Text(NonNull::new(pointer.cast_mut()))
    }

    /// # Safety
    /// The text lives as long as the result is used.
    pub(super) unsafe fn of(text: &CString) -> Self {
        // SAFETY: it ends with a NUL; the rest is the caller's promise.
        unsafe { Text::new(text.as_ptr()) }
    }

    /// The text, if it is not NULL. Not more than `limit` octets and the next are looked at.
    pub(super) fn optional(self, name: &str, limit: usize) -> Result<Option<String>> {
        let Some(pointer) = self.0 else { return Ok(None) };
        // SAFETY: a NUL ends the text, by the type's promise, and no octet behind it is read.
        let length = unsafe { libc::strnlen(pointer.as_ptr(), limit + 1) };
        if length > limit {
            return Err(Failure::new(LVS_ERR_TEXT, format!("`{name}` is longer than {limit} octets")));
        }
        // SAFETY: so many octets were just read.
        let octets = unsafe { slice::from_raw_parts(pointer.as_ptr().cast(), length) };
        match std::str::from_utf8(octets) {
            Ok(text) => Ok(Some(text.to_owned())),
            Err(error) => {
                let place = error.valid_up_to();
                Err(Failure::new(LVS_ERR_TEXT, format!("`{name}` is not UTF-8, from octet {place} on")))
            }
        }
    }

    /// The text, which must not be NULL.
    pub(super) fn read(self, name: &str, limit: usize) -> Result<String> {
        self.optional(name, limit)?.ok_or_else(|| null(name))
    }

    /// A name, address or id.
    pub(super) fn name(self, name: &str) -> Result<String> {
        self.read(name, NAME)
    }

    /// An address without a port.
    pub(super) fn address(self, name: &str) -> Result<IpAddr> {
        let text = self.name(name)?;
        text.parse().map_err(|_| {
            invalid(&format!("{name} {text:?}"), "an address as in `192.168.0.254` or `2001:db8::fe` was expected")
        })
    }

    /// An address without a port, if it is not NULL.
    pub(super) fn optional_address(self, name: &str) -> Result<Option<IpAddr>> {
        match self.0 {
            Some(_) => self.address(name).map(Some),
            None => Ok(None),
        }
    }

    /// An address with a port.
    pub(super) fn socket_address(self, name: &str) -> Result<SocketAddr> {
        let text = self.name(name)?;
        text.parse().map_err(|_| {
            let expected = "an address with its port, as in `192.168.0.11:80` or `[2001:db8::11]:80`, was expected";
            invalid(&format!("{name} {text:?}"), expected)
        })
    }

    /// A network namespace: the file that stands for it, or NULL for the calling thread's.
    pub(super) fn netns(self) -> Result<Netns> {
        match self.optional("netns", PATH)? {
            Some(path) => Ok(Netns::open(path)?),
            None => Ok(Netns::current()?),
        }
    }
}

/// What a handle of C's holds: for one thread at a time, in the process that opened it.
pub(super) struct Held<T> {
    process: u32,
    value: Mutex<T>,
}

impl<T> Held<T> {
    pub(super) fn new(value: T) -> Self {
        Held { process: process::id(), value: Mutex::new(value) }
    }
}

/// The type of a handle, as the header names it.
pub(super) trait Opened {
    /// What the handle stands for.
    type Value: 'static;

    fn held(&self) -> &Held<Self::Value>;
}

/// A handle of C's: NULL, or what an entry that opens it gave, and what has not been freed yet. C
/// passes nothing else: that is the header's demand.
#[repr(transparent)]
pub struct Handle<T>(Option<NonNull<T>>);

impl<T: Opened + 'static> Handle<T> {
    /// What it stands for, until the entry returns.
    pub(super) fn lock(self, name: &str) -> Result<MutexGuard<'static, T::Value>> {
        let pointer = given(self.0, name)?;
        // SAFETY: the handle is there, by the type's promise. Nothing but this makes references to
        // what is in it, and those are shared.
        let held = unsafe { pointer.as_ref() }.held();
        if held.process != process::id() {
            let reason = format!("`{name}` was opened before fork(2), by process {}: open another", held.process);
            return Err(Failure::new(LVS_ERR_FORKED, reason));
        }
        match held.value.try_lock() {
            Ok(value) => Ok(value),
            Err(TryLockError::WouldBlock) => {
                Err(Failure::new(LVS_ERR_BUSY, format!("`{name}` is in use by another thread: use one at a time")))
            }
            Err(TryLockError::Poisoned(_)) => Err(Failure::new(
                LVS_ERR_PANIC,
                format!("a bug in lvs_dr ended an earlier call with `{name}`: free it"),
            )),
        }
    }
}

/// A text for C; where it holds a NUL, it ends there.
pub(super) fn c_text(text: impl Into<Vec<u8>>) -> CString {
    CString::new(text).unwrap_or_else(|error| {
        let end = error.nul_position();
        let mut octets = error.into_vec();
        octets.truncate(end);
        CString::new(octets).unwrap_or_default()
    })
}

/// Gives a text away to C, where C asks for it.
pub(super) fn put_text(to: Option<&mut MaybeUninit<*mut c_char>>, text: impl Into<Vec<u8>>) {
    if let Some(to) = to {
        to.write(c_text(text).into_raw());
    }
}

/// Gives a text away to C, or NULL, where C asks for it.
pub(super) fn put_text_or_null(to: Option<&mut MaybeUninit<*mut c_char>>, text: Option<String>) {
    if let Some(to) = to {
        to.write(text.map_or(ptr::null_mut(), |text| c_text(text).into_raw()));
    }
}

/// Copies a text into a buffer of C's.
///
/// # Safety
/// `to` is NULL, or has room for `size` octets.
pub(super) unsafe fn copy_text(text: &str, name: &str, to: *mut c_char, size: usize) -> Result<()> {
    let to = given(NonNull::new(to), name)?;
    if size <= text.len() {
        let needed = text.len() + 1;
        return Err(Failure::new(LVS_ERR_SIZE, format!("`{name}` has {size} octets: {text:?} needs {needed}")));
    }
    // SAFETY: there is room for the text and a NUL.
    unsafe {
        ptr::copy_nonoverlapping(text.as_ptr().cast(), to.as_ptr(), text.len());
        to.add(text.len()).write(0);
    }
    Ok(())
}

/// Gives a number to C, where C asks for it.
pub(super) fn put<T>(to: Option<&mut MaybeUninit<T>>, value: T) {
    if let Some(to) = to {
        to.write(value);
    }
}

/// An entry of a list.
pub(super) fn entry<T>(list: &[T], index: usize) -> Result<&T> {
    list.get(index).ok_or_else(|| {
        Failure::new(LVS_ERR_INDEX, format!("there is no entry {index}: the list has {}, counted from 0", list.len()))
    })
}

/// A structure that may grow: a later version has more fields at its end.
///
/// # Safety
/// It is `repr(C)`, its first field is `size: usize`, it has no padding, and every pattern of bits
/// is a value of it (as far as its texts keep their promise).
pub(super) unsafe trait Grows: Copy {
    /// As C knows it.
    const NAME: &'static str;
    /// The size of its first version, which stays.
    const FIRST: usize;
}

/// Reads the size that the caller's structure has.
///
/// # Safety
/// `pointer` is NULL or a structure whose first field is its size.
unsafe fn size_at<T: Grows>(pointer: *const T) -> Result<usize> {
    if pointer.is_null() {
        return Err(null(T::NAME));
    }
    // SAFETY: the field is there, by the caller's promise.
    let size = unsafe { pointer.cast::<usize>().read_unaligned() };
    if (T::FIRST..=LARGEST).contains(&size) {
        return Ok(size);
    }
    let (name, known) = (T::NAME, size_of::<T>());
    Err(Failure::new(LVS_ERR_SIZE, format!("the size of {name} is {size}: set it to sizeof(struct {name}), {known}")))
}

/// Reads a structure of the caller's: an older one's missing fields are 0, a newer one's further
/// fields must be.
///
/// # Safety
/// `pointer` is NULL or points to as many octets as its first field says.
pub(super) unsafe fn read<T: Grows>(pointer: *const T) -> Result<T> {
    // SAFETY: as the caller promises.
    let size = unsafe { size_at(pointer) }?;
    let known = size.min(size_of::<T>());
    // SAFETY: so many octets are there, by the caller's promise.
    let further = unsafe { slice::from_raw_parts(pointer.cast::<u8>().add(known), size - known) };
    if let Some(index) = further.iter().position(|octet| *octet != 0) {
        let place = known + index;
        let reason = format!("{}: octet {place} belongs to a field that version {VERSION} does not know", T::NAME);
        return Err(Failure::new(LVS_ERR_SIZE, reason));
    }
    let mut value = MaybeUninit::<T>::zeroed();
    // SAFETY: `known` octets are there on both sides, and every pattern of bits is a T.
    unsafe {
        ptr::copy_nonoverlapping(pointer.cast::<u8>(), value.as_mut_ptr().cast::<u8>(), known);
        Ok(value.assume_init())
    }
}

/// Reads structures of the caller's, one behind the other: each says itself where it ends.
///
/// # Safety
/// `first` is NULL or points to as many structures as `count` says, each as long as its first field
/// says.
pub(super) unsafe fn read_all<T: Grows>(name: &str, first: *const T, count: usize, most: usize) -> Result<Vec<T>> {
    if count > most {
        return Err(invalid(&format!("{count} {name}"), format!("at most {most} were expected")));
    }
    if first.is_null() && count > 0 {
        return Err(null(name));
    }
    let mut next = first;
    let value = |_| {
        // SAFETY: by the caller's promise, the next one is there when this one's size is known.
        unsafe {
            let value = read(next)?;
            next = next.byte_add(size_at(next)?);
            Ok(value)
        }
    };
    (0..count).map(value).collect()
}

/// A text within a structure, with a NUL at its end. What is too long is cut.
pub(super) fn within<const SIZE: usize>(text: &str) -> [c_char; SIZE] {
    let mut place = [0; SIZE];
    let mut room = text.len().min(SIZE - 1);
    while !text.is_char_boundary(room) {
        room -= 1;
    }
    for (to, octet) in place.iter_mut().zip(text.bytes().take(room)) {
        *to = c_char::from_ne_bytes([octet]);
    }
    place
}

const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The place for a structure, in the size that the caller knows it.
pub(super) struct Place<T> {
    pointer: NonNull<T>,
    size: usize,
}

impl<T: Grows> Place<T> {
    /// # Safety
    /// `pointer` is NULL or points to as many octets as its first field says, which stay writable
    /// until the entry returns.
    pub(super) unsafe fn new(pointer: *mut T) -> Result<Self> {
        // SAFETY: as the caller promises.
        let size = unsafe { size_at(pointer) }?;
        Ok(Place { pointer: given(NonNull::new(pointer), T::NAME)?, size })
    }

    /// The same, where NULL says that the caller does not ask for it.
    ///
    /// # Safety
    /// As [`Place::new`].
    pub(super) unsafe fn optional(pointer: *mut T) -> Result<Option<Self>> {
        // SAFETY: as the caller promises.
        if pointer.is_null() { Ok(None) } else { unsafe { Place::new(pointer) }.map(Some) }
    }

    /// Writes the value: all but its size, as much of it as there is room for, and zeros behind
    /// it.
    pub(super) fn put(self, value: T) {
        const FIELD: usize = size_of::<usize>();
        let known = self.size.min(size_of::<T>());
        let to = self.pointer.as_ptr().cast::<u8>();
        // SAFETY: there is room for `size` octets, by the promise made to `new`, and for the first
        // field both have.
        unsafe {
            ptr::copy_nonoverlapping((&raw const value).cast::<u8>().add(FIELD), to.add(FIELD), known - FIELD);
            ptr::write_bytes(to.add(known), 0, self.size - known);
        }
    }
}

/// One of C's numbers for a choice.
pub(super) fn choice<T: Copy>(name: &str, value: u32, choices: &[(u32, T)]) -> Result<T> {
    let found = choices.iter().find(|(number, _)| *number == value);
    found.map(|(_, choice)| *choice).ok_or_else(|| {
        let known: Vec<String> = choices.iter().map(|(number, _)| number.to_string()).collect();
        invalid(&format!("`{name}` {value}"), format!("one of {} was expected", known.join(", ")))
    })
}

/// A field that is for later.
pub(super) fn reserved(value: u32) -> Result<()> {
    match value {
        0 => Ok(()),
        _ => Err(invalid("`reserved`", "0 was expected")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(octets: &[u8]) -> Text {
        // SAFETY: the text is never freed.
        unsafe { Text::new(octets.to_vec().leak().as_ptr().cast()) }
    }

    fn status<T>(result: Result<T>) -> i32 {
        result.err().map_or(0, |failure| failure.status)
    }

    #[test]
    fn texts_are_checked() {
        assert_eq!(text(b"eth0\0").name("x").unwrap(), "eth0");
        assert_eq!(text(b"\0").name("x").unwrap(), "");
        assert_eq!(text(b"1234\0").read("x", 4).unwrap(), "1234");
        assert_eq!(status(text(b"12345\0").read("x", 4)), LVS_ERR_TEXT);
        // What does not end is not read further than needed.
        assert_eq!(status(text(b"12345").read("x", 4)), LVS_ERR_TEXT);
        assert_eq!(status(text(b"eth\xff\0").name("x")), LVS_ERR_TEXT);
        assert_eq!(status(Text::NULL.name("x")), LVS_ERR_NULL);
        assert_eq!(Text::NULL.optional("x", 4).unwrap(), None);
        assert_eq!(c_text("a\0b"), c_text("a"));
        assert!(text(b"192.0.2.1\0").address("x").is_ok());
        assert!(text(b"[2001:db8::1]:80\0").socket_address("x").is_ok());
        for wrong in [&b"\0"[..], b"192.0.2.1/32\0", b" 192.0.2.1\0", b"192.0.2.1:80\0", b"localhost\0"] {
            let message = text(wrong).address("vip").unwrap_err().message;
            assert!(message.contains("vip") && message.contains("was expected"), "{message}");
        }
        assert!(text(b"2001:db8::1:80\0").socket_address("x").is_err());
        assert!(text(b"/proc/thread-self/ns/net\0").netns().is_ok() && Text::NULL.netns().is_ok());
        assert!(text(b"/proc/self/status\0").netns().is_err());
    }

    /// A structure in its second version: `second` is new.
    #[repr(C)]
    #[derive(Clone, Copy, Debug, PartialEq)]
    struct Grown {
        size: usize,
        first: u64,
        second: u64,
    }

    // SAFETY: `repr(C)`, numbers, and no padding on the machines that tests run on.
    unsafe impl Grows for Grown {
        const NAME: &'static str = "grown";
        const FIRST: usize = size_of::<usize>() + 8;
    }

    /// The same in a third version, that this library does not know.
    #[repr(C)]
    #[derive(Clone, Copy, Debug, PartialEq)]
    struct Newer {
        old: Grown,
        third: u64,
    }

    const fn grown(size: usize) -> Grown {
        Grown { size, first: 1, second: 2 }
    }

    #[test]
    fn structures_of_all_ages_are_read() {
        // SAFETY: there are as many octets as `size` says, or more.
        let read = |given: &Grown| unsafe { read(given) };
        assert_eq!(read(&grown(24)).unwrap(), grown(24));
        assert_eq!(read(&grown(16)).unwrap(), Grown { second: 0, ..grown(16) });
        for size in [0, 8, 15, LARGEST + 1, usize::MAX] {
            assert_eq!(status(read(&grown(size))), LVS_ERR_SIZE, "{size}");
        }
        let newer = |third| Newer { old: grown(32), third };
        // SAFETY: there are as many octets as `size` says.
        let read_newer = |given: &Newer| unsafe { super::read((&raw const *given).cast::<Grown>()) };
        assert_eq!(read_newer(&newer(0)).unwrap(), grown(32));
        let failure = read_newer(&newer(1 << 40)).unwrap_err();
        assert_eq!((failure.status, failure.message.contains("octet 29")), (LVS_ERR_SIZE, true), "{failure:?}");
        // SAFETY: NULL is allowed.
        assert_eq!(status(unsafe { super::read::<Grown>(ptr::null()) }), LVS_ERR_NULL);
    }

    #[test]
    fn structures_of_all_ages_are_filled() {
        let value = Grown { size: 24, first: 7, second: 8 };
        let fill = |mut given: Newer| {
            // SAFETY: there are as many octets as `size` says.
            unsafe { Place::new((&raw mut given).cast::<Grown>()) }.unwrap().put(value);
            given
        };
        let given = |size| Newer { old: grown(size), third: 3 };
        assert_eq!(fill(given(16)), Newer { old: Grown { size: 16, first: 7, second: 2 }, third: 3 });
        assert_eq!(fill(given(24)), Newer { old: Grown { size: 24, ..value }, third: 3 });
        assert_eq!(fill(given(32)), Newer { old: Grown { size: 32, ..value }, third: 0 });
        let mut short = grown(15);
        // SAFETY: there are more octets than `size` says.
        assert_eq!(status(unsafe { Place::new(&raw mut short) }), LVS_ERR_SIZE);
        // SAFETY: NULL is allowed.
        assert_eq!(status(unsafe { Place::<Grown>::new(ptr::null_mut()) }), LVS_ERR_NULL);
        // SAFETY: as above.
        assert!(matches!(unsafe { Place::<Grown>::optional(ptr::null_mut()) }, Ok(None)));
    }

    struct Counter(Held<u32>);

    impl Opened for Counter {
        type Value = u32;

        fn held(&self) -> &Held<u32> {
            &self.0
        }
    }

    #[test]
    fn a_handle_is_for_one_thread_at_a_time_in_the_process_that_opened_it() {
        let own = Box::leak(Box::new(Counter(Held::new(7))));
        let handle = || Handle(Some(NonNull::from(&*own)));
        let used = handle().lock("counter").unwrap();
        let failure = handle().lock("counter").unwrap_err();
        assert_eq!(failure.status, LVS_ERR_BUSY);
        assert!(failure.message.contains("`counter` is in use"), "{failure:?}");
        drop(used);
        assert_eq!(*handle().lock("counter").unwrap(), 7);
        let bug = std::panic::catch_unwind(|| {
            let _used = handle().lock("counter");
            std::panic::resume_unwind(Box::new(()))
        });
        assert!(bug.is_err());
        assert_eq!(status(handle().lock("counter")), LVS_ERR_PANIC);

        let mut foreign = Counter(Held::new(8));
        foreign.0.process = process::id() + 1;
        let foreign = Box::leak(Box::new(foreign));
        assert_eq!(status(Handle(Some(NonNull::from(&*foreign))).lock("counter")), LVS_ERR_FORKED);
        assert_eq!(status(Handle::<Counter>(None).lock("counter")), LVS_ERR_NULL);
    }

    #[test]
    fn entries_are_counted_from_0() {
        assert_eq!(*entry(&[1, 2], 1).unwrap(), 2);
        assert_eq!(status(entry(&[1, 2], 2)), LVS_ERR_INDEX);
        assert_eq!(status(entry::<u8>(&[], usize::MAX)), LVS_ERR_INDEX);
    }
}
