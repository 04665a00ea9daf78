//! Messages for syslog or the journal: keepalived drops what the programs that it starts print. And
//! levels of the lines that are printed where the journal reads them.

use std::env;
use std::fmt::Display;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixDatagram;
use std::process;

/// How much a message matters, as in syslog(3).
#[derive(Debug, Clone, Copy)]
pub enum Level {
    Error = 3,
    Warning = 4,
}

/// The text with the level before each line, where the journal reads this stream (sd-daemon(3),
/// `JOURNAL_STREAM` in systemd.exec(5)): `journalctl -p warning` finds it.
pub fn with_level(level: Level, stream: impl AsFd, text: &str) -> String {
    match env::var("JOURNAL_STREAM").is_ok_and(|journal| is_stream(&journal, stream.as_fd())) {
        true => text.lines().map(|line| format!("<{}>{line}", level as u8)).collect::<Vec<_>>().join("\n"),
        false => text.to_owned(),
    }
}

/// Whether this is the stream of these numbers: device and inode.
fn is_stream(numbers: &str, stream: BorrowedFd<'_>) -> bool {
    rustix::fs::fstat(stream).is_ok_and(|found| numbers == format!("{}:{}", found.st_dev, found.st_ino))
}

/// The facility `daemon` of syslog(3).
const DAEMON: u8 = 3;

/// Sends a message to the socket on which journald and syslog daemons listen. Without one, or
/// where it is full, the message is lost: nothing waits for it.
pub fn send(level: Level, text: impl Display) {
    let Ok(socket) = UnixDatagram::unbound() else { return };
    let number = DAEMON * 8 + level as u8;
    let message = format!("<{number}>lvs-node[{}]: {text}", process::id());
    let _ = socket.set_nonblocking(true).and_then(|()| socket.send_to(message.as_bytes(), "/dev/log"));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_is_known_by_its_numbers() {
        let (one, other) = (UnixDatagram::unbound().unwrap(), UnixDatagram::unbound().unwrap());
        let found = rustix::fs::fstat(&one).unwrap();
        let numbers = format!("{}:{}", found.st_dev, found.st_ino);
        assert!(is_stream(&numbers, one.as_fd()) && !is_stream(&numbers, other.as_fd()));
        assert!(!is_stream("", one.as_fd()));
        // No journal reads the tests' output.
        assert_eq!(with_level(Level::Warning, &one, "a\nb"), "a\nb");
    }
}
