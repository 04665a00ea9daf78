//! bpf(2): maps, programs, and the way from a program's number to its maps. See linux/bpf.h.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use rustix::io::Errno;
use rustix::thread::CapabilitySet;

/// `enum bpf_cmd`.
const MAP_CREATE: i32 = 0;
const MAP_LOOKUP: i32 = 1;
const MAP_UPDATE: i32 = 2;
const MAP_DELETE: i32 = 3;
const MAP_NEXT_KEY: i32 = 4;
const PROGRAM_LOAD: i32 = 5;
const PROGRAM_OF_ID: i32 = 13;
const MAP_OF_ID: i32 = 14;
const INFO: i32 = 15;

/// `BPF_PROG_TYPE_SCHED_CLS`: a filter of traffic control.
const CLASSIFIER: u32 = 3;

/// The longest name of a map or a program (`BPF_OBJ_NAME_LEN`, less one).
const NAME: usize = 15;

/// The maps of a program that are looked at.
const MAPS: usize = 8;

/// As many processors as a kernel can have (`NR_CPUS`: 8192 on x86, less elsewhere). Reading a
/// value of a map with one for each processor, the kernel writes those of all possible ones.
const PROCESSORS: usize = 8192;

/// What the verifier says of a program may take this much.
const LOG: usize = 256 * 1024;

/// `union bpf_attr`, as far as the commands here need it, in host order.
#[repr(C, align(8))]
#[derive(Default)]
struct Attributes {
    octets: [[u8; 8]; 16],
}

impl Attributes {
    fn put(&mut self, at: usize, value: &[u8]) {
        self.octets.as_flattened_mut()[at..at + value.len()].copy_from_slice(value);
    }

    fn with(mut self, at: usize, value: u32) -> Self {
        self.put(at, &value.to_ne_bytes());
        self
    }

    fn with_address<T: ?Sized>(mut self, at: usize, of: *const T) -> Self {
        self.put(at, &(of.cast::<u8>().expose_provenance() as u64).to_ne_bytes());
        self
    }

    fn with_name(mut self, at: usize, name: &str) -> Self {
        debug_assert!(name.len() <= NAME);
        self.put(at, &name.as_bytes()[..name.len().min(NAME)]);
        self
    }
}

/// # Safety
/// The addresses in `attributes` are those of memory that is as long as the command reads or
/// writes it.
#[allow(unsafe_code)]
unsafe fn bpf(command: i32, attributes: &Attributes) -> io::Result<RawFd> {
    // SAFETY: the kernel reads as many octets as the length says; the rest is the caller's promise.
    let done = unsafe {
        let attributes: *const Attributes = attributes;
        libc::syscall(libc::SYS_bpf, command, attributes, size_of::<Attributes>())
    };
    RawFd::try_from(done).ok().filter(|done| *done >= 0).ok_or_else(io::Error::last_os_error)
}

/// The same for a command that returns a new descriptor, which is closed on exec.
///
/// # Safety
/// As [`bpf`].
#[allow(unsafe_code)]
unsafe fn bpf_descriptor(command: i32, attributes: &Attributes) -> io::Result<OwnedFd> {
    // SAFETY: the caller's promise; the kernel has made the descriptor for this call alone.
    unsafe { Ok(OwnedFd::from_raw_fd(bpf(command, attributes)?)) }
}

/// The kinds of maps that are used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum BpfMapKind {
    /// `BPF_MAP_TYPE_HASH`.
    Hash = 1,
    /// `BPF_MAP_TYPE_PERCPU_ARRAY`.
    ArrayPerProcessor = 6,
}

/// What a map is: a map of another shape is not read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BpfShape {
    pub(crate) name: &'static str,
    pub(crate) kind: BpfMapKind,
    pub(crate) key: usize,
    pub(crate) value: usize,
    pub(crate) entries: u32,
}

/// A map of a shape that is known.
#[derive(Debug)]
pub(crate) struct BpfMap {
    descriptor: OwnedFd,
    shape: BpfShape,
}

impl BpfMap {
    /// # Errors
    /// `EPERM` without `CAP_SYS_ADMIN`, and `ENOSYS` where the kernel lacks bpf(2).
    pub(crate) fn create(shape: BpfShape) -> io::Result<Self> {
        is_permitted()?;
        // The memory is taken at once: with `BPF_F_NO_PREALLOC` many additions in a row end with
        // `ENOMEM`, as they outrun what refills the kernel's lists (kernel/bpf/memalloc.c).
        let attributes = Attributes::default()
            .with(0, shape.kind as u32)
            .with(4, shape.key as u32)
            .with(8, shape.value as u32)
            .with(12, shape.entries)
            .with_name(28, shape.name);
        // SAFETY: there are no addresses in it.
        #[allow(unsafe_code)]
        let descriptor = unsafe { bpf_descriptor(MAP_CREATE, &attributes) }?;
        Ok(BpfMap { descriptor, shape })
    }

    fn check(&self, key: &[u8], value: &[u8]) -> io::Result<()> {
        let fits = key.len() == self.shape.key && value.len() == self.shape.value;
        if fits { Ok(()) } else { Err(Errno::INVAL.into()) }
    }

    fn attributes(&self, key: Option<&[u8]>) -> Attributes {
        let attributes = Attributes::default().with(0, self.descriptor.as_raw_fd() as u32);
        match key {
            Some(key) => attributes.with_address(8, key.as_ptr()),
            None => attributes,
        }
    }

    /// Adds an entry, or replaces it in one step.
    pub(crate) fn put(&self, key: &[u8], value: &[u8]) -> io::Result<()> {
        self.check(key, value)?;
        let attributes = self.attributes(Some(key)).with_address(16, value.as_ptr());
        // SAFETY: key and value are as long as those of the map.
        #[allow(unsafe_code)]
        unsafe { bpf(MAP_UPDATE, &attributes) }.map(|_| ())
    }

    /// Removes an entry. A missing one is no error.
    pub(crate) fn remove(&self, key: &[u8]) -> io::Result<()> {
        self.check(key, &vec![0; self.shape.value])?;
        // SAFETY: the key is as long as those of the map.
        #[allow(unsafe_code)]
        let removed = unsafe { bpf(MAP_DELETE, &self.attributes(Some(key))) };
        missing(removed.map(|_| ())).map(|_| ())
    }

    /// The values of an entry: one, or one for each processor. `None`: there is no such entry.
    pub(crate) fn get(&self, key: &[u8]) -> io::Result<Option<Vec<u8>>> {
        let (one, count) = match self.shape.kind {
            BpfMapKind::Hash => (self.shape.value, 1),
            BpfMapKind::ArrayPerProcessor => (self.shape.value.next_multiple_of(8), PROCESSORS),
        };
        let mut value = vec![0; one * count];
        self.check(key, &value[..self.shape.value])?;
        let attributes = self.attributes(Some(key)).with_address(16, value.as_mut_ptr());
        // SAFETY: the key is as long as those of the map, and there is room for all values.
        #[allow(unsafe_code)]
        let found = unsafe { bpf(MAP_LOOKUP, &attributes) };
        Ok(missing(found)?.map(|_| value))
    }

    /// All entries of a hash. One that another program adds or removes meanwhile may be missed.
    pub(crate) fn entries(&self) -> io::Result<Vec<(Vec<u8>, Vec<u8>)>> {
        let (mut keys, mut next): (Vec<Vec<u8>>, _) = (Vec::new(), vec![0; self.shape.key]);
        // A removed entry makes the kernel begin anew: no more than there can be.
        while keys.len() < self.shape.entries as usize {
            let attributes = self.attributes(keys.last().map(|key| &key[..])).with_address(16, next.as_mut_ptr());
            // SAFETY: both keys are as long as those of the map.
            #[allow(unsafe_code)]
            let found = unsafe { bpf(MAP_NEXT_KEY, &attributes) };
            if missing(found)?.is_none() || keys.contains(&next) {
                break;
            }
            keys.push(next.clone());
        }
        let entry = |key: Vec<u8>| Ok(self.get(&key)?.map(|value| (key, value)));
        keys.into_iter().filter_map(|key| entry(key).transpose()).collect()
    }
}

impl AsFd for BpfMap {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }
}

/// Whether it makes sense to try. A process may be killed for a system call that it is not to use
/// (`SystemCallFilter=` in systemd.exec(5)), and without this capability no program is found
/// again.
fn is_permitted() -> io::Result<()> {
    let effective = rustix::thread::capabilities(None)?.effective;
    if effective.contains(CapabilitySet::SYS_ADMIN) { Ok(()) } else { Err(Errno::PERM.into()) }
}

/// `ENOENT` is no error.
fn missing<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        result => result.map(Some),
    }
}

/// A program that traffic control can run.
#[derive(Debug)]
pub(crate) struct BpfProgram(OwnedFd);

impl BpfProgram {
    /// Loads the instructions, each eight octets (`struct bpf_insn`).
    ///
    /// # Errors
    /// The errno, and what the verifier says last where it refuses the program (`EACCES`,
    /// `EINVAL`).
    pub(crate) fn load(instructions: &[u8], name: &str) -> Result<Self, (io::Error, Option<String>)> {
        let refused = match Self::attempt(instructions, name, &mut []) {
            Ok(program) => return Ok(program),
            Err(error) => error,
        };
        if !matches!(refused.raw_os_error(), Some(libc::EACCES | libc::EINVAL)) {
            return Err((refused, None));
        }
        let mut log = vec![0; LOG];
        // It may have been refused for want of memory, or of time.
        match Self::attempt(instructions, name, &mut log) {
            Ok(program) => Ok(program),
            Err(error) => Err((error, last_lines(&log))),
        }
    }

    fn attempt(instructions: &[u8], name: &str, log: &mut [u8]) -> io::Result<Self> {
        let mut attributes = Attributes::default()
            .with(0, CLASSIFIER)
            .with(4, (instructions.len() / 8) as u32)
            .with_address(8, instructions.as_ptr())
            .with_address(16, c"MIT".as_ptr())
            .with_name(48, name);
        if !log.is_empty() {
            attributes = attributes.with(24, 1).with(28, log.len() as u32).with_address(32, log.as_mut_ptr());
        }
        // SAFETY: the instructions, the licence and the log are as long as is said.
        #[allow(unsafe_code)]
        unsafe { bpf_descriptor(PROGRAM_LOAD, &attributes) }.map(BpfProgram)
    }

    /// The program of this number. `None`: there is none.
    ///
    /// # Errors
    /// `EPERM` without `CAP_SYS_ADMIN`.
    pub(crate) fn of_id(id: u32) -> io::Result<Option<Self>> {
        is_permitted()?;
        // SAFETY: there are no addresses in it.
        #[allow(unsafe_code)]
        let found = unsafe { bpf_descriptor(PROGRAM_OF_ID, &Attributes::default().with(0, id)) };
        Ok(missing(found)?.map(BpfProgram))
    }

    /// The number of the program.
    pub(crate) fn id(&self) -> io::Result<u32> {
        Ok(word(&read_info(self.0.as_fd(), &mut Attributes::default())?, 4))
    }

    /// The program's map of this shape. `None`: it has none.
    ///
    /// # Errors
    /// `EPERM` without `CAP_SYS_ADMIN`.
    pub(crate) fn map(&self, shape: BpfShape) -> io::Result<Option<BpfMap>> {
        let mut ids = [0_u32; MAPS];
        // `struct bpf_prog_info`: the number of maps, and where their numbers are to be written.
        let mut info = Attributes::default().with(52, MAPS as u32).with_address(56, ids.as_mut_ptr());
        let said = read_info(self.0.as_fd(), &mut info)?;
        for id in ids.into_iter().take(word(&said, 52) as usize) {
            // SAFETY: there are no addresses in it.
            #[allow(unsafe_code)]
            let found = unsafe { bpf_descriptor(MAP_OF_ID, &Attributes::default().with(0, id)) };
            let Some(descriptor) = missing(found)? else { continue };
            // `struct bpf_map_info`: type, number, size of key and value, entries, flags, name.
            let said = read_info(descriptor.as_fd(), &mut Attributes::default())?;
            let name = said[24..24 + NAME].split(|octet| *octet == 0).next().unwrap_or_default();
            let numbers = [shape.kind as u32, shape.key as u32, shape.value as u32];
            if name == shape.name.as_bytes() && numbers == [0, 8, 12].map(|at| word(&said, at)) {
                return Ok(Some(BpfMap { descriptor, shape: BpfShape { entries: word(&said, 16), ..shape } }));
            }
        }
        Ok(None)
    }
}

impl AsFd for BpfProgram {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// What the kernel says of a program or map. Addresses in `info` are those of memory that is as
/// long as `info` says.
fn read_info(descriptor: BorrowedFd<'_>, info: &mut Attributes) -> io::Result<[u8; size_of::<Attributes>()]> {
    let attributes = Attributes::default()
        .with(0, descriptor.as_raw_fd() as u32)
        .with(4, size_of::<Attributes>() as u32)
        .with_address(8, &raw mut *info);
    // SAFETY: the kernel writes no more than the length says: `info`, and the numbers of maps for
    // which there is room.
    #[allow(unsafe_code)]
    unsafe { bpf(INFO, &attributes) }?;
    let mut octets = [0; size_of::<Attributes>()];
    octets.copy_from_slice(info.octets.as_flattened());
    Ok(octets)
}

fn word(octets: &[u8], at: usize) -> u32 {
    octets.get(at..at + 4).and_then(super::number).unwrap_or_default()
}

/// The end of the verifier's log, which says why: its last lines but the figures.
fn last_lines(log: &[u8]) -> Option<String> {
    let text = super::string(log);
    let lines: Vec<&str> = text.lines().filter(|line| !line.starts_with("processed ")).collect();
    let last = lines[lines.len().saturating_sub(3)..].join("; ");
    (!last.is_empty()).then_some(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_verifiers_last_words() {
        let log = b"0: R1=ctx\n1: (79) r1 = 0\n2: r0 = *(u8)\nR0 !read_ok\nprocessed 2 insns\n\0\0\0";
        assert_eq!(last_lines(log).as_deref(), Some("1: (79) r1 = 0; 2: r0 = *(u8); R0 !read_ok"));
        assert_eq!(last_lines(&[0; 8]), None);
    }

    #[test]
    fn a_request_has_its_values_in_place() {
        let attributes = Attributes::default().with(4, 7).with_name(28, "lvs_peers");
        let octets = attributes.octets.as_flattened();
        assert_eq!((word(octets, 4), &octets[28..38], octets.len()), (7, &b"lvs_peers\0"[..], 128));
    }
}
