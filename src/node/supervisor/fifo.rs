//! keepalived's FIFO (`notify_fifo`), read without waiting.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::node::role::Role;

/// No line is longer.
const LINE: usize = 4096;

/// The FIFO at a path, which keepalived may make later, and makes anew when it is started again.
#[derive(Debug)]
pub(super) struct Fifo {
    path: PathBuf,
    open: Option<File>,
    /// The line that has not come to its end.
    rest: Vec<u8>,
}

impl Fifo {
    pub(super) fn new(path: &Path) -> Self {
        Fifo { path: path.to_owned(), open: None, rest: Vec::new() }
    }

    /// Opens it where it is there, and another one than before. Says whether it did.
    ///
    /// # Errors
    /// It is a file of another kind, or cannot be opened. That it is not there yet is none.
    pub(super) fn reopen(&mut self) -> io::Result<bool> {
        let found = match self.path.metadata() {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(false),
            found => found?,
        };
        if !found.file_type().is_fifo() {
            self.open = None;
            return Err(io::Error::other("it is not a FIFO"));
        }
        let same =
            |open: &File| open.metadata().is_ok_and(|known| (known.dev(), known.ino()) == (found.dev(), found.ino()));
        if self.open.as_ref().is_some_and(same) {
            return Ok(false);
        }
        // For writing too: then it never comes to an end, also while keepalived is not there.
        let options = libc::O_NONBLOCK | libc::O_CLOEXEC;
        let file = OpenOptions::new().read(true).write(true).custom_flags(options).open(&self.path)?;
        if !file.metadata()?.file_type().is_fifo() {
            return Err(io::Error::other("it is not a FIFO"));
        }
        self.open = Some(file);
        self.rest.clear();
        Ok(true)
    }

    /// The lines that were written since the last call.
    pub(super) fn lines(&mut self) -> Vec<String> {
        let Some(file) = &mut self.open else { return Vec::new() };
        let mut piece = [0; LINE];
        // As much as a FIFO holds: whatever is written, this comes to an end.
        for _ in 0..16 {
            match file.read(&mut piece) {
                Ok(length) if length > 0 => self.rest.extend(&piece[..length]),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                _ => break,
            }
        }
        let whole = self.rest.iter().rposition(|octet| *octet == b'\n').map_or(0, |last| last + 1);
        let lines: Vec<u8> = self.rest.drain(..whole).collect();
        if self.rest.len() > LINE {
            self.rest.clear();
        }
        String::from_utf8_lossy(&lines).lines().map(str::to_owned).collect()
    }

    /// Its descriptor, while there is one.
    pub(super) fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        self.open.as_ref().map(AsFd::as_fd)
    }
}

/// Reads a line of keepalived's FIFO: `INSTANCE "my web" MASTER 100`. Returns the name of the
/// instance or group, and the role for its state. `None`: the line is of another kind.
pub fn notified_role(line: &str) -> Option<(&str, Role)> {
    let (_kind, rest) = line.split_once(' ')?;
    let (name, rest) = match rest.trim_start().strip_prefix('"') {
        // A name may hold blanks and quotes; a state and a priority hold neither.
        Some(quoted) => quoted.rsplit_once('"')?,
        None => rest.trim_start().split_once(' ')?,
    };
    Some((name, role_of_state(rest.split_ascii_whitespace().next()?)?))
}

/// The role for a state of keepalived's, if it is one.
pub fn role_of_state(state: &str) -> Option<Role> {
    match state {
        "DELETED" => Some(Role::Stop),
        state => state.parse().ok(),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Write;

    use super::*;

    #[test]
    fn lines_of_the_fifo() {
        assert_eq!(notified_role("INSTANCE \"web\" MASTER 100"), Some(("web", Role::Master)));
        assert_eq!(notified_role("INSTANCE \"my web\" BACKUP 100"), Some(("my web", Role::Backup)));
        assert_eq!(notified_role("GROUP \"a \"b\" c\" FAULT 0"), Some(("a \"b\" c", Role::Fault)));
        assert_eq!(notified_role("INSTANCE web DELETED 100"), Some(("web", Role::Stop)));
        for line in ["", "INSTANCE", "INSTANCE \"web\"", "INSTANCE \"web MASTER", "INSTANCE \"web\" MASTER_PRIORITY 9"]
        {
            assert_eq!(notified_role(line), None, "{line}");
        }
    }

    /// Makes a FIFO, and a writer as keepalived is one.
    fn make(path: &Path) -> File {
        let mode = rustix::fs::Mode::from_raw_mode(0o600);
        rustix::fs::mknodat(rustix::fs::CWD, path, rustix::fs::FileType::Fifo, mode, 0).unwrap();
        OpenOptions::new().read(true).write(true).open(path).unwrap()
    }

    #[test]
    fn a_fifo_may_be_missing_be_made_anew_or_be_a_file() {
        let path = std::env::temp_dir().join(format!("lvs-dr-fifo-{}", std::process::id()));
        let _ = fs::remove_file(&path);
        let mut fifo = Fifo::new(&path);
        assert!(!fifo.reopen().unwrap() && fifo.lines().is_empty() && fifo.descriptor().is_none());
        let mut keepalived = make(&path);
        assert!(fifo.reopen().unwrap() && !fifo.reopen().unwrap() && fifo.lines().is_empty());
        keepalived.write_all(b"one\ntwo\nthr").unwrap();
        assert_eq!(fifo.lines(), ["one", "two"]);
        keepalived.write_all(b"ee\n\xff\xfe\n").unwrap();
        assert_eq!(fifo.lines(), ["three", "\u{fffd}\u{fffd}"]);
        // Started again, it makes another one.
        fs::remove_file(&path).unwrap();
        drop(keepalived);
        assert!(!fifo.reopen().unwrap());
        let mut keepalived = make(&path);
        keepalived.write_all(b"four\n").unwrap();
        assert!(fifo.reopen().unwrap());
        assert_eq!(fifo.lines(), ["four"]);
        // A line without an end.
        (0..20).for_each(|_| {
            keepalived.write_all(&[b'x'; 1000]).unwrap();
            assert!(fifo.lines().is_empty());
        });
        assert!(fifo.rest.len() <= 2 * LINE);
        fs::remove_file(&path).unwrap();
        fs::write(&path, "INSTANCE \"web\" MASTER 100\n").unwrap();
        assert!(fifo.reopen().is_err() && fifo.lines().is_empty());
        fs::remove_file(&path).unwrap();
    }
}
