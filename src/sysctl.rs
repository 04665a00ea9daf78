//! Numbers below /proc/sys: read, written, and read back.

use std::fmt::Display;
use std::fs;
use std::io::{self, Read};
use std::path::Path;

use rustix::fs::Access;
use rustix::io::Errno;

use crate::error::{Error, Result};
use crate::netns::Netns;

/// Reads the setting at `path` below /proc/sys, as `netns` sees it. `None`: this kernel has no
/// such setting.
pub(crate) fn read(netns: &Netns, path: &str) -> Result<Option<String>> {
    netns.run(|| read_here(path))?
}

/// Reads many settings: what it takes to look from within `netns` is taken once.
pub(crate) fn read_each(netns: &Netns, paths: &[String]) -> Result<Vec<Option<String>>> {
    netns.run(|| paths.iter().map(|path| read_here(path)).collect())?
}

fn read_here(path: &str) -> Result<Option<String>> {
    let file = Path::new("/proc/sys").join(path);
    // The kernel hands out the whole of a setting at once.
    let mut octets = [0; 1024];
    let read = fs::File::open(&file).and_then(|mut opened| opened.read(&mut octets));
    match read.and_then(|length| str::from_utf8(&octets[..length]).map_err(io::Error::other)) {
        Ok(text) => Ok(Some(text.trim_end().to_owned())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::system("read", file.display(), error)),
    }
}

/// Whether the setting at `path` below /proc/sys cannot be written here: a container's /proc/sys is
/// mounted read-only. A setting that this kernel lacks is not.
pub(crate) fn is_read_only(netns: &Netns, path: &str) -> Result<bool> {
    let file = Path::new("/proc/sys").join(path);
    let accessed = netns.run(|| rustix::fs::access(&file, Access::WRITE_OK))?;
    Ok(matches!(accessed, Err(Errno::ROFS | Errno::ACCESS | Errno::PERM)))
}

/// Reads a setting that holds one number.
pub(crate) fn read_number(netns: &Netns, path: &str) -> Result<Option<i64>> {
    let Some(text) = read(netns, path)? else { return Ok(None) };
    match text.parse() {
        Ok(number) => Ok(Some(number)),
        Err(_) => {
            Err(Error::invalid(format!("/proc/sys/{path}"), format!("it holds {text:?} where a number was expected")))
        }
    }
}

/// Writes the setting at `path` below /proc/sys.
pub(crate) fn write(netns: &Netns, path: &str, value: impl Display) -> Result<()> {
    let file = Path::new("/proc/sys").join(path);
    let text = value.to_string();
    // Not fs::write: a missing setting must not be tried as a new file.
    let write = || {
        fs::OpenOptions::new().write(true).open(&file).and_then(|mut f| io::Write::write_all(&mut f, text.as_bytes()))
    };
    netns.run(write)?.map_err(|error| Error::system("write", file.display(), error))
}
