//! Files that a program of root's writes and reads where other users cannot interfere.
//!
//! A path is walked directory by directory. Each directory on the way must belong to root or to
//! the calling user, and other users must not be able to write to it. A sticky directory (`/tmp`)
//! is accepted on the way, but not as the directory of the file. So no other user can put a link
//! in the file's place, or exchange a directory.
//!
//! ```no_run
//! use lvs_dr::files::Replacement;
//!
//! Replacement::new("/run/lvs-dr.prom").mode(0o644).write("lvs_node_knows_all 1\n")?;
//! # Ok::<(), lvs_dr::Error>(())
//! ```

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStringExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, Stat, fchmod, fstat, fsync, open, openat, readlinkat, renameat, unlinkat,
};
use rustix::io::Errno;
use rustix::process::geteuid;

use crate::error::{Error, Result};

/// How many symbolic links a path may pass, as in the kernel (`MAXSYMLINKS`).
const LINKS: usize = 40;

/// The longest file that [`read_secret`] reads.
const SECRET_LIMIT: u64 = 4096;

/// How a file is replaced.
#[derive(Debug, Clone)]
pub struct Replacement<'a> {
    path: &'a Path,
    temporary: OsString,
    mode: u32,
    durable: bool,
}

impl<'a> Replacement<'a> {
    /// Replaces the file at this path. Its mode will be 0600.
    pub fn new(path: &'a (impl AsRef<OsStr> + ?Sized)) -> Self {
        let path = Path::new(path);
        let mut temporary = path.file_name().unwrap_or_default().to_owned();
        temporary.push(".new");
        Replacement { path, temporary, mode: 0o600, durable: false }
    }

    /// Sets the mode of the file, whatever the umask.
    pub fn mode(self, mode: u32) -> Self {
        Replacement { mode: mode & 0o777, ..self }
    }

    /// Sets the name of the temporary file, in the directory of the file. Without this call it is
    /// the file's name with `.new` after it.
    pub fn temporary(self, name: impl Into<OsString>) -> Self {
        Replacement { temporary: name.into(), ..self }
    }

    /// Waits until the file and its directory are on the disk.
    pub fn durable(self) -> Self {
        Replacement { durable: true, ..self }
    }

    /// Writes the contents to a temporary file and renames it. A reader finds the old contents or
    /// the new. After an error the file is as it was, and the temporary file is gone.
    ///
    /// A temporary file of a process that was killed is removed first, so two processes must not
    /// replace the same file at once. A symbolic link in place of the file or of the temporary
    /// file is replaced, and its target stays as it is.
    ///
    /// # Errors
    /// [`Error::State`]: another user can write to a directory of the path; [`Error::System`]: for
    /// example the disk is full (`ENOSPC`).
    pub fn write(&self, contents: impl AsRef<[u8]>) -> Result<()> {
        let (directory, name) = split(self.path)?;
        let directory = open_directory(directory, self.path)?;
        let remove = || match unlinkat(&directory, &self.temporary, AtFlags::empty()) {
            Err(error) if error != Errno::NOENT => Err(error),
            _ => Ok(()),
        };
        let write = || -> io::Result<()> {
            remove()?;
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let mut file = File::from(openat(&directory, &self.temporary, flags, Mode::RUSR | Mode::WUSR)?);
            file.write_all(contents.as_ref())?;
            fchmod(&file, Mode::from_raw_mode(self.mode))?;
            if self.durable {
                file.sync_all()?;
            }
            renameat(&directory, &self.temporary, &directory, name)?;
            if self.durable {
                // An O_PATH descriptor cannot be synced.
                fsync(openat(&directory, c".", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?)?;
            }
            Ok(())
        };
        write().map_err(|error| {
            // On a full disk the rest of it would be in the way.
            let _ = remove();
            Error::system("write", self.path.display(), error)
        })
    }
}

/// Reads a secret: a regular file of root or of the calling user that other users can neither read
/// nor write, of at most 4096 octets.
///
/// # Errors
/// [`Error::State`]: other users have access to the file or can write to a directory of its path;
/// [`Error::System`]: there is no such file (`ENOENT`), or it cannot be read.
pub fn read_secret(path: &Path) -> Result<Vec<u8>> {
    let (directory, name) = split(path)?;
    let directory = open_directory(directory, path)?;
    let failed = |error: io::Error| Error::system("read", path.display(), error);
    let refuse = |reason: String| Err(refused(path, reason));
    // A FIFO without a writer is not waited for.
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = match openat(&directory, name, flags, Mode::empty()) {
        Err(Errno::LOOP) => return refuse("it is a symbolic link: name the file itself".into()),
        opened => File::from(opened.map_err(|error| failed(error.into()))?),
    };
    let found = fstat(&file).map_err(|error| failed(error.into()))?;
    if FileType::from_raw_mode(found.st_mode) != FileType::RegularFile {
        return refuse("it is not a regular file".into());
    }
    if !is_trusted(&found) {
        return refuse(format!("it belongs to user {}: `chown root` it", found.st_uid));
    }
    if found.st_mode & 0o077 != 0 {
        return refuse(format!("other users have access to it (mode {:o}): `chmod 600` it", found.st_mode & 0o7777));
    }
    let mut octets = Vec::new();
    file.take(SECRET_LIMIT + 1).read_to_end(&mut octets).map_err(failed)?;
    match octets.len() as u64 > SECRET_LIMIT {
        true => refuse(format!("it has more than {SECRET_LIMIT} octets")),
        false => Ok(octets),
    }
}

fn refused(path: &Path, reason: impl Into<String>) -> Error {
    Error::State { path: path.to_owned(), reason: reason.into() }
}

/// The directory of a file and its name.
fn split(path: &Path) -> Result<(&Path, &OsStr)> {
    match (path.parent(), path.file_name()) {
        (Some(directory), Some(name)) => Ok((directory, name)),
        _ => Err(refused(path, "it does not name a file")),
    }
}

fn is_trusted(found: &Stat) -> bool {
    found.st_uid == 0 || found.st_uid == geteuid().as_raw()
}

/// Opens the directory of a file, with `O_PATH`. Refuses it where another user can write to it or
/// to a directory on the way.
fn open_directory(directory: &Path, file: &Path) -> Result<OwnedFd> {
    let failed = |at: &Path, error: io::Error| Error::system("open directory", at.display(), error);
    let absolute = std::path::absolute(Path::new(".").join(directory)).map_err(|error| failed(directory, error))?;
    let mut rest = components(&absolute);
    let (mut here, mut shown) = (root().map_err(|error| failed(Path::new("/"), error))?, PathBuf::from("/"));
    let mut links = 0;
    check(&here, &shown, rest.is_empty(), file)?;
    while let Some(name) = rest.pop_front() {
        let next = shown.join(&name);
        let enter = || {
            let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let entry = openat(&here, &name, flags, Mode::empty())?;
            let found = fstat(&entry)?;
            Ok((entry, found))
        };
        let (entry, found) = enter().map_err(|error: Errno| failed(&next, error.into()))?;
        match FileType::from_raw_mode(found.st_mode) {
            FileType::Symlink => {
                links += 1;
                if links > LINKS {
                    return Err(failed(&next, Errno::LOOP.into()));
                }
                if !is_trusted(&found) {
                    let reason = format!("{} is a link that belongs to user {}", next.display(), found.st_uid);
                    return Err(refused(file, reason));
                }
                let target = readlinkat(&entry, c"", Vec::new()).map_err(|error| failed(&next, error.into()))?;
                let target = PathBuf::from(OsString::from_vec(target.into_bytes()));
                if target.is_absolute() {
                    (here, shown) = (root().map_err(|error| failed(Path::new("/"), error))?, PathBuf::from("/"));
                }
                for name in components(&target).into_iter().rev() {
                    rest.push_front(name);
                }
                // Where a link is the last component, the last directory was checked as one on the
                // way.
                check(&here, &shown, rest.is_empty(), file)?;
            }
            FileType::Directory => {
                check(&entry, &next, rest.is_empty(), file)?;
                (here, shown) = (entry, next);
            }
            _ => return Err(failed(&next, Errno::NOTDIR.into())),
        }
    }
    Ok(here)
}

fn root() -> io::Result<OwnedFd> {
    Ok(open("/", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?)
}

/// The names of a path, `..` among them.
fn components(path: &Path) -> VecDeque<OsString> {
    let names = path.components().filter(|part| matches!(part, Component::Normal(_) | Component::ParentDir));
    names.map(|part| part.as_os_str().to_owned()).collect()
}

/// Refuses a directory that another user can write to. In a sticky directory no other user can
/// rename or remove what belongs to another user.
fn check(directory: &OwnedFd, shown: &Path, is_last: bool, file: &Path) -> Result<()> {
    let found = fstat(directory).map_err(|error| Error::system("look at", shown.display(), error))?;
    let shown = shown.display();
    if !is_trusted(&found) {
        let advice = "name a file in a directory of root's";
        return Err(refused(file, format!("{shown} belongs to user {}: {advice}", found.st_uid)));
    }
    let mode = found.st_mode & 0o7777;
    let is_sticky = mode & 0o1000 != 0;
    if mode & 0o022 != 0 && (is_last || !is_sticky) {
        let advice = "name a file in a directory that only root can write to";
        return Err(refused(file, format!("other users can write to {shown} (mode {mode:o}): {advice}")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{self, Permissions};
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

    /// A directory for this test alone.
    fn directory(name: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("lvs-dr-files-{}-{name}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir(&path).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o755)).unwrap();
        path
    }

    fn names(path: &Path) -> Vec<String> {
        let mut names: Vec<String> =
            fs::read_dir(path).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_file_is_replaced_as_a_whole() {
        let dir = directory("replaced");
        let path = dir.join("a");
        for (text, mode) in [("one", 0o644), ("", 0o600), ("three", 0o640)] {
            Replacement::new(&path).mode(mode).durable().write(text).unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), text);
            assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, mode);
        }
        assert_eq!(names(&dir), ["a"]);
        assert!(matches!(Replacement::new("/").write(""), Err(Error::State { .. })));
        assert!(matches!(Replacement::new(&dir.join("none/a")).write(""), Err(Error::System { .. })));
        assert!(matches!(Replacement::new(&path.join("b")).write(""), Err(Error::System { .. })));
        // In place of a directory nothing is written, and nothing is left.
        fs::create_dir(dir.join("d")).unwrap();
        assert!(Replacement::new(&dir.join("d")).write("").is_err());
        assert_eq!(names(&dir), ["a", "d"]);
        fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn links_are_replaced_and_not_followed() {
        let dir = directory("links");
        let (victim, path) = (dir.join("victim"), dir.join("metrics.prom"));
        fs::write(&victim, "before").unwrap();
        for link in [&path, &dir.join("metrics.prom.new"), &dir.join("other")] {
            for target in [victim.clone(), dir.join("none")] {
                let _ = fs::remove_file(link);
                symlink(&target, link).unwrap();
                Replacement::new(&path).write("text").unwrap();
                assert_eq!(fs::read_to_string(&victim).unwrap(), "before");
                assert!(fs::symlink_metadata(&path).unwrap().is_file());
                assert_eq!(fs::read_to_string(&path).unwrap(), "text");
                assert!(!dir.join("none").exists());
            }
        }
        // Of a process that was killed, and a hard link to another file.
        fs::hard_link(&victim, dir.join("metrics.prom.new")).unwrap();
        Replacement::new(&path).write("more").unwrap();
        assert_eq!(fs::read_to_string(&victim).unwrap(), "before");
        assert_eq!(names(&dir), ["metrics.prom", "other", "victim"]);
        fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn directories_that_others_can_write_to_are_refused() {
        let dir = directory("writable");
        let (inner, path) = (dir.join("inner"), dir.join("inner/a"));
        fs::create_dir(&inner).unwrap();
        let write = |outer: u32, own: u32| {
            fs::set_permissions(&dir, Permissions::from_mode(outer)).unwrap();
            fs::set_permissions(&inner, Permissions::from_mode(own)).unwrap();
            Replacement::new(&path).write("").map_err(|error| error.to_string())
        };
        write(0o755, 0o755).unwrap();
        // On the way a sticky directory is no danger.
        write(0o1777, 0o700).unwrap();
        for (outer, own) in
            [(0o755, 0o1777), (0o755, 0o777), (0o755, 0o775), (0o755, 0o757), (0o777, 0o755), (0o775, 0o755)]
        {
            let reason = write(outer, own).unwrap_err();
            assert!(reason.contains("other users can write to"), "{outer:o} {own:o}: {reason}");
        }
        write(0o755, 0o755).unwrap();
        // By links: the directory that is reached counts, and each one on the way.
        let by = dir.join("by");
        for target in ["inner", "./inner/../inner", inner.to_str().unwrap()] {
            let _ = fs::remove_file(&by);
            symlink(target, &by).unwrap();
            Replacement::new(&by.join("b")).write("").unwrap();
            assert!(inner.join("b").exists());
            fs::remove_file(inner.join("b")).unwrap();
            fs::set_permissions(&inner, Permissions::from_mode(0o777)).unwrap();
            assert!(Replacement::new(&by.join("b")).write("").is_err(), "{target}");
            fs::set_permissions(&inner, Permissions::from_mode(0o755)).unwrap();
        }
        fs::remove_file(&by).unwrap();
        symlink(&by, &by).unwrap();
        assert!(Replacement::new(&by.join("b")).write("").unwrap_err().errno() == Some(Errno::LOOP.raw_os_error()));
        fs::remove_dir_all(&dir).unwrap();
        assert!(matches!(Replacement::new("/tmp/lvs-dr-test.prom").write(""), Err(Error::State { .. })));
    }

    #[test]
    fn a_secret_is_for_root_alone() {
        let dir = directory("secret");
        let path = dir.join("key");
        let read = |mode: u32| {
            fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
            read_secret(&path).map_err(|error| error.to_string())
        };
        fs::write(&path, "secret").unwrap();
        assert_eq!(read(0o600).as_deref(), Ok(&b"secret"[..]));
        assert_eq!(read(0o400).as_deref(), Ok(&b"secret"[..]));
        for mode in [0o640, 0o604, 0o620, 0o602, 0o601, 0o644] {
            assert!(read(mode).unwrap_err().contains("chmod 600"), "{mode:o}");
        }
        fs::write(&path, [0; 4097]).unwrap();
        assert!(read(0o600).unwrap_err().contains("4096"));
        fs::write(&path, [0; 4096]).unwrap();
        assert_eq!(read(0o600).unwrap().len(), 4096);
        symlink(&path, dir.join("link")).unwrap();
        assert!(read_secret(&dir.join("link")).unwrap_err().to_string().contains("symbolic link"));
        fs::create_dir(dir.join("d")).unwrap();
        assert!(read_secret(&dir.join("d")).unwrap_err().to_string().contains("not a regular file"));
        assert_eq!(read_secret(&dir.join("none")).unwrap_err().errno(), Some(Errno::NOENT.raw_os_error()));
        fs::set_permissions(&dir, Permissions::from_mode(0o777)).unwrap();
        assert!(read(0o600).unwrap_err().contains("other users can write to"));
        fs::remove_dir_all(&dir).unwrap();
    }
}
