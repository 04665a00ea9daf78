//! The connection table, as a list.

use std::ffi::{CString, c_int};
use std::mem::{MaybeUninit, size_of};

use super::ffi::{Grows, Handle, Place, Text, c_text, entry, given};
use super::ipvs::lvs_ipvs;
use super::status::{caught, guard};
use crate::ipvs::{Connection, Origin, Protocol};

/// In lvs_connection: it came or went while the table was read, and where it comes from is not
/// known.
pub const LVS_ORIGIN_UNKNOWN: u32 = 0;
/// In lvs_connection: this node has scheduled it.
pub const LVS_ORIGIN_LOCAL: u32 = 1;
/// In lvs_connection: this node has learned it from another one's sync daemon.
pub const LVS_ORIGIN_SYNC: u32 = 2;

/// Connections, as they were when the list was made. Several threads may read one list.
pub struct lvs_connections(Vec<ConnectionTexts>);

/// A connection, or a persistence template: where the next connections of a client go.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct lvs_connection {
    /// sizeof(struct lvs_connection).
    pub size: usize,
    /// The client: "192.0.2.9:40000". The port of a template is 0.
    pub client: Text,
    /// The address of the service. Of a template of a firewall mark, the mark stands in place of
    /// an address.
    pub service: Text,
    /// The real server.
    pub destination: Text,
    /// The name of the state, as in `ipvsadm -Lnc`: "ESTABLISHED".
    pub state: Text,
    /// The name of the persistence engine; NULL: none.
    pub engine: Text,
    /// With an engine: what it tells clients apart by. Otherwise NULL.
    pub engine_data: Text,
    /// IPPROTO_TCP, IPPROTO_UDP or IPPROTO_SCTP; 0 for a template of a firewall mark; 255 for one
    /// that this library does not know.
    pub protocol: u32,
    /// LVS_ORIGIN_...
    pub origin: u32,
    /// When it is forgotten if nothing more comes, in seconds.
    pub expires: u32,
    /// 1 for a persistence template, otherwise 0.
    pub is_template: u32,
}

// SAFETY: `repr(C)`, numbers and texts; that there is no padding follows from its size, which is
// checked here.
unsafe impl Grows for lvs_connection {
    const NAME: &'static str = "lvs_connection";
    const FIRST: usize = size_of::<[usize; 7]>() + size_of::<[u32; 4]>();
}
const _: () = assert!(size_of::<lvs_connection>() == lvs_connection::FIRST);

struct ConnectionTexts {
    client: CString,
    service: CString,
    destination: CString,
    state: CString,
    engine: Option<(CString, CString)>,
    protocol: u32,
    origin: u32,
    expires: u32,
    is_template: bool,
}

impl ConnectionTexts {
    fn new(found: Connection) -> Self {
        let number = match found.protocol {
            Protocol::Tcp => libc::IPPROTO_TCP,
            Protocol::Udp => libc::IPPROTO_UDP,
            Protocol::Sctp => libc::IPPROTO_SCTP,
            Protocol::Ip => 0,
            Protocol::Other(_) => 255,
        };
        ConnectionTexts {
            client: c_text(found.client.to_string()),
            service: c_text(found.service.to_string()),
            destination: c_text(found.destination.to_string()),
            is_template: found.is_template(),
            state: c_text(found.state),
            engine: found.engine.map(|(name, data)| (c_text(name), c_text(data))),
            protocol: number.cast_unsigned(),
            origin: match found.origin {
                None => LVS_ORIGIN_UNKNOWN,
                Some(Origin::Local) => LVS_ORIGIN_LOCAL,
                Some(Origin::Sync) => LVS_ORIGIN_SYNC,
            },
            expires: u32::try_from(found.expires.as_secs()).unwrap_or(u32::MAX),
        }
    }

    /// # Safety
    /// `self` lives as long as the result is used.
    unsafe fn as_c(&self) -> lvs_connection {
        // SAFETY: the texts live as long as `self`, and that as long as the caller promises.
        let text = |text: &CString| unsafe { Text::of(text) };
        lvs_connection {
            size: size_of::<lvs_connection>(),
            client: text(&self.client),
            service: text(&self.service),
            destination: text(&self.destination),
            state: text(&self.state),
            engine: self.engine.as_ref().map_or(Text::NULL, |(name, _)| text(name)),
            engine_data: self.engine.as_ref().map_or(Text::NULL, |(_, data)| text(data)),
            protocol: self.protocol,
            origin: self.origin,
            expires: self.expires,
            is_template: self.is_template.into(),
        }
    }
}

/// Lists the connection table: connections, and the templates of persistent clients. `connections`:
/// is set to the list; free it with lvs_connections_free().
///
/// Reads /proc/net/ip_vs_conn and ip_vs_conn_sync in full, the only way that the kernel has; before
/// kernel 6.13 that takes a minute for 100000 connections. Fails with LVS_ERR_SYSTEM,
/// LVS_ERR_MALFORMED.
#[unsafe(no_mangle)]
pub extern "C" fn lvs_ipvs_connections(
    ipvs: Handle<lvs_ipvs>,
    connections: Option<&mut MaybeUninit<Box<lvs_connections>>>,
) -> c_int {
    guard(|| {
        let (mut ipvs, result) = (ipvs.lock("ipvs")?, given(connections, "connections")?);
        let found = ipvs.connections()?;
        result.write(Box::new(lvs_connections(found.into_iter().map(ConnectionTexts::new).collect())));
        Ok(())
    })
}

/// Returns the number of connections in a list; 0 for NULL.
#[unsafe(no_mangle)]
pub extern "C" fn lvs_connections_count(connections: Option<&lvs_connections>) -> usize {
    connections.map_or(0, |connections| connections.0.len())
}

/// Fills `connection` with the entry of this index, counted from 0; set its `size` before. The
/// texts in it are the list's, and live as long as that. Fails with LVS_ERR_INDEX.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lvs_connections_get(
    connections: Option<&lvs_connections>,
    index: usize,
    connection: *mut lvs_connection,
) -> c_int {
    guard(|| {
        let connections = given(connections, "connections")?;
        // SAFETY: a structure of C's.
        let place = unsafe { Place::new(connection) }?;
        // SAFETY: C does not use the texts longer than the list, as the header demands.
        place.put(unsafe { entry(&connections.0, index)?.as_c() });
        Ok(())
    })
}

/// Frees the list. NULL is ignored.
#[unsafe(no_mangle)]
pub extern "C" fn lvs_connections_free(connections: Option<Box<lvs_connections>>) {
    let _ = caught(|| drop(connections));
}
