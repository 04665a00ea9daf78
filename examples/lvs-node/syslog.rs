//! Messages for syslog or the journal: keepalived drops what the programs that it starts print.

use std::fmt::Display;
use std::os::unix::net::UnixDatagram;
use std::process;

/// How much a message matters, as in syslog(3).
#[derive(Debug, Clone, Copy)]
pub enum Level {
    Error = 3,
    Warning = 4,
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
