//! The kernel's notifications about neighbours, interfaces and addresses, and lists of them.

use std::ffi::{c_char, c_int};
use std::mem::{MaybeUninit, size_of};
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::time::Duration;

use super::ffi::{Grows, Handle, Held, Opened, Place, Text, entry, given, put_text_or_null, within};
use super::marks::lvs_marks;
use super::report::{LVS_ADDRESS_SIZE, address_text, lvs_texts};
use super::status::{caught, guard};
use crate::marks::{Event, Monitor, Neighbour, NeighbourState, who_has};

/// The size of an interface's name in a structure, in octets, with the NUL at its end:
/// IF_NAMESIZE.
pub const LVS_INTERFACE_SIZE: usize = 16;
/// The size of a MAC address in a structure, in octets, with the NUL at its end.
pub const LVS_MAC_SIZE: usize = 24;

/// There is no event at present.
pub const LVS_EVENT_NONE: u32 = 0;
/// A neighbour is new, or its MAC address or state changed.
pub const LVS_EVENT_NEIGHBOUR: u32 = 1;
/// The kernel forgot a neighbour.
pub const LVS_EVENT_NEIGHBOUR_GONE: u32 = 2;
/// An interface is new or changed: its name, flags, MAC address or master.
pub const LVS_EVENT_INTERFACE: u32 = 3;
/// An interface was removed, or moved to another network namespace.
pub const LVS_EVENT_INTERFACE_GONE: u32 = 4;
/// An address of an interface is new or changed.
pub const LVS_EVENT_ADDRESS: u32 = 5;
/// An address of an interface was removed.
pub const LVS_EVENT_ADDRESS_GONE: u32 = 6;
/// Notifications were lost, because they came faster than they were read: read everything again.
pub const LVS_EVENT_MISSED: u32 = 7;

/// Receives the kernel's notifications about neighbours, interfaces and addresses of one network
/// namespace. Open it before you read what it is about, so that no change is missed between the
/// two.
pub struct lvs_monitor {
    held: Held<Monitor>,
    descriptor: RawFd,
}

impl Opened for lvs_monitor {
    type Value = Monitor;

    fn held(&self) -> &Held<Monitor> {
        &self.held
    }
}

/// Neighbours, as they were when the list was made. Several threads may read one list.
pub struct lvs_neighbours(Vec<lvs_neighbour>);

/// A host on a link, as the kernel knows it (ARP and neighbour discovery), see ip-neighbour(8).
#[repr(C)]
#[derive(Clone, Copy)]
pub struct lvs_neighbour {
    /// sizeof(struct lvs_neighbour).
    pub size: usize,
    /// The interface's index.
    pub index: u32,
    /// NUD_... in linux/neighbour.h: 0x02 is reachable, 0x04 stale, 0x20 failed, 0x80 permanent.
    pub state: u32,
    /// 1 if it is an IPv6 router, otherwise 0.
    pub is_router: u32,
    /// 0.
    pub reserved: u32,
    /// The interface's name.
    pub interface: [c_char; LVS_INTERFACE_SIZE],
    /// Its MAC address, "02:00:00:00:00:01". "": the kernel knows none.
    pub mac: [c_char; LVS_MAC_SIZE],
    /// Its address.
    pub address: [c_char; LVS_ADDRESS_SIZE],
}

// SAFETY: `repr(C)`, numbers and octets; that there is no padding follows from its size, which is
// checked here.
unsafe impl Grows for lvs_neighbour {
    const NAME: &'static str = "lvs_neighbour";
    const FIRST: usize =
        size_of::<usize>() + size_of::<[u32; 4]>() + LVS_INTERFACE_SIZE + LVS_MAC_SIZE + LVS_ADDRESS_SIZE;
}
const _: () = assert!(size_of::<lvs_neighbour>() == lvs_neighbour::FIRST);

/// What has changed.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct lvs_event {
    /// sizeof(struct lvs_event).
    pub size: usize,
    /// LVS_EVENT_...
    pub kind: u32,
    /// The interface's index; 0 with LVS_EVENT_NONE and LVS_EVENT_MISSED.
    pub index: u32,
    /// Of a neighbour: NUD_... as in lvs_neighbour. Otherwise 0.
    pub state: u32,
    /// Of a neighbour: 1 if it is an IPv6 router. Otherwise 0.
    pub is_router: u32,
    /// The interface's name, of a neighbour and of an interface; the last one, where it is gone.
    /// Otherwise "".
    pub interface: [c_char; LVS_INTERFACE_SIZE],
    /// The neighbour's MAC address, "02:00:00:00:00:01". "": there is none.
    pub mac: [c_char; LVS_MAC_SIZE],
    /// The address, of a neighbour and of an address. Otherwise "".
    pub address: [c_char; LVS_ADDRESS_SIZE],
}

// SAFETY: as for `lvs_neighbour`.
unsafe impl Grows for lvs_event {
    const NAME: &'static str = "lvs_event";
    const FIRST: usize = lvs_neighbour::FIRST;
}
const _: () = assert!(size_of::<lvs_event>() == lvs_event::FIRST);

fn number_of(state: NeighbourState) -> u32 {
    match state {
        NeighbourState::Incomplete => libc::NUD_INCOMPLETE,
        NeighbourState::Reachable => libc::NUD_REACHABLE,
        NeighbourState::Stale => libc::NUD_STALE,
        NeighbourState::Delay => libc::NUD_DELAY,
        NeighbourState::Probe => libc::NUD_PROBE,
        NeighbourState::Failed => libc::NUD_FAILED,
        NeighbourState::NoArp => libc::NUD_NOARP,
        NeighbourState::Permanent => libc::NUD_PERMANENT,
        NeighbourState::None => libc::NUD_NONE,
    }
    .into()
}

impl lvs_neighbour {
    fn new(found: &Neighbour) -> Self {
        lvs_neighbour {
            size: size_of::<Self>(),
            index: found.index,
            state: number_of(found.state),
            is_router: found.router.into(),
            reserved: 0,
            interface: within(&found.interface),
            mac: within(&found.mac.map(|mac| mac.to_string()).unwrap_or_default()),
            address: address_text(Some(found.address)),
        }
    }
}

impl lvs_event {
    fn new(kind: u32, index: u32) -> Self {
        lvs_event {
            size: size_of::<Self>(),
            kind,
            index,
            state: 0,
            is_router: 0,
            interface: within(""),
            mac: within(""),
            address: address_text(None),
        }
    }

    fn of(event: &Event) -> Self {
        let of_interface = |kind, name: &str, index| lvs_event { interface: within(name), ..Self::new(kind, index) };
        let of_address =
            |kind, address, index| lvs_event { address: address_text(Some(address)), ..Self::new(kind, index) };
        let of_neighbour = |kind, found| {
            let lvs_neighbour { index, state, is_router, interface, mac, address, .. } = lvs_neighbour::new(found);
            lvs_event { state, is_router, interface, mac, address, ..Self::new(kind, index) }
        };
        match event {
            Event::Neighbour(found) => of_neighbour(LVS_EVENT_NEIGHBOUR, found),
            Event::NeighbourGone(found) => of_neighbour(LVS_EVENT_NEIGHBOUR_GONE, found),
            Event::Interface { name, index } => of_interface(LVS_EVENT_INTERFACE, name, *index),
            Event::InterfaceGone { name, index } => of_interface(LVS_EVENT_INTERFACE_GONE, name, *index),
            Event::Address { address, index } => of_address(LVS_EVENT_ADDRESS, *address, *index),
            Event::AddressGone { address, index } => of_address(LVS_EVENT_ADDRESS_GONE, *address, *index),
            Event::Missed => Self::new(LVS_EVENT_MISSED, 0),
        }
    }
}

/// Begins to receive notifications. No privilege is needed. Does not block.
///
/// `netns`: the file of the network namespace to listen in ("/run/netns/blue"), or NULL for the
/// calling thread's. `monitor`: is set to the monitor; free it with lvs_monitor_free(). Fails with
/// LVS_ERR_SYSTEM.
#[unsafe(no_mangle)]
pub extern "C" fn lvs_monitor_open(netns: Text, monitor: Option<&mut MaybeUninit<Box<lvs_monitor>>>) -> c_int {
    guard(|| {
        let result = given(monitor, "monitor")?;
        let monitor = Monitor::open_in(netns.netns()?)?;
        let descriptor = monitor.as_fd().as_raw_fd();
        result.write(Box::new(lvs_monitor { held: Held::new(monitor), descriptor }));
        Ok(())
    })
}

/// Frees the monitor. NULL is ignored.
#[unsafe(no_mangle)]
pub extern "C" fn lvs_monitor_free(monitor: Option<Box<lvs_monitor>>) {
    let _ = caught(|| drop(monitor));
}

/// The descriptor of the monitor: it is readable when lvs_monitor_next() has an event. Otherwise
/// as lvs_driver_fd().
#[unsafe(no_mangle)]
pub extern "C" fn lvs_monitor_fd(monitor: Option<&lvs_monitor>) -> c_int {
    monitor.map_or(-1, |monitor| monitor.descriptor)
}

/// Takes the next event. Call it until there is none: the descriptor may not be readable while
/// events are left.
///
/// `event` is filled; set its `size` before. Its kind is LVS_EVENT_NONE when there is none at
/// present. Does not wait for an event. The kernel is asked for the name of a neighbour's
/// interface where it is not known yet. Fails with LVS_ERR_SYSTEM.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lvs_monitor_next(monitor: Handle<lvs_monitor>, event: *mut lvs_event) -> c_int {
    guard(|| {
        let mut monitor = monitor.lock("monitor")?;
        // SAFETY: a structure of C's.
        let place = unsafe { Place::new(event) }?;
        place.put(monitor.next()?.map_or_else(|| lvs_event::new(LVS_EVENT_NONE, 0), |event| lvs_event::of(&event)));
        Ok(())
    })
}

/// Lists the neighbours of both families on all interfaces, multicast addresses included. Sends
/// nothing to the network, and needs no privilege. `neighbours`: is set to the list, which may be
/// empty; free it with lvs_neighbours_free().
#[unsafe(no_mangle)]
pub extern "C" fn lvs_marks_neighbours(
    marks: Handle<lvs_marks>,
    neighbours: Option<&mut MaybeUninit<Box<lvs_neighbours>>>,
) -> c_int {
    guard(|| {
        let (mut marks, result) = (marks.lock("marks")?, given(neighbours, "neighbours")?);
        result.write(Box::new(lvs_neighbours(marks.neighbours()?.iter().map(lvs_neighbour::new).collect())));
        Ok(())
    })
}

/// Returns the number of neighbours in a list; 0 for NULL.
#[unsafe(no_mangle)]
pub extern "C" fn lvs_neighbours_count(neighbours: Option<&lvs_neighbours>) -> usize {
    neighbours.map_or(0, |neighbours| neighbours.0.len())
}

/// Fills `neighbour` with the entry of this index, counted from 0; set its `size` before. Fails
/// with LVS_ERR_INDEX.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lvs_neighbours_get(
    neighbours: Option<&lvs_neighbours>,
    index: usize,
    neighbour: *mut lvs_neighbour,
) -> c_int {
    guard(|| {
        let neighbours = given(neighbours, "neighbours")?;
        // SAFETY: a structure of C's.
        unsafe { Place::new(neighbour) }?.put(*entry(&neighbours.0, index)?);
        Ok(())
    })
}

/// Frees the list. NULL is ignored.
#[unsafe(no_mangle)]
pub extern "C" fn lvs_neighbours_free(neighbours: Option<Box<lvs_neighbours>>) {
    let _ = caught(|| drop(neighbours));
}

/// Asks the kernel to find out the MAC address of `address` on the link of `interface`, or to
/// confirm the one that it knows. Does not wait for the answer: an lvs_monitor or
/// lvs_marks_neighbours() shows it. An entry that is reachable or permanent is left alone. Takes
/// CAP_NET_ADMIN. Fails with LVS_ERR_INVALID, LVS_ERR_NO_INTERFACE and LVS_ERR_PERMISSION.
#[unsafe(no_mangle)]
pub extern "C" fn lvs_marks_resolve(marks: Handle<lvs_marks>, address: Text, interface: Text) -> c_int {
    guard(|| {
        let (mut marks, address) = (marks.lock("marks")?, address.address("address")?);
        Ok(marks.resolve(address, &interface.name("interface")?)?)
    })
}

/// Lists the MAC addresses that this node's frames may carry on an interface: its own; for a VLAN
/// or macvlan also those of the interface below; for a bond or team also those of its slaves.
/// `macs`: is set to the list; free it with lvs_texts_free(). Fails with LVS_ERR_NO_INTERFACE.
#[unsafe(no_mangle)]
pub extern "C" fn lvs_marks_macs(
    marks: Handle<lvs_marks>,
    interface: Text,
    macs: Option<&mut MaybeUninit<Box<lvs_texts>>>,
) -> c_int {
    guard(|| {
        let (mut marks, interface) = (marks.lock("marks")?, interface.name("interface")?);
        let result = given(macs, "macs")?;
        result.write(Box::new(lvs_texts::of(marks.macs(&interface)?)));
        Ok(())
    })
}

/// Lists the next hops on the way to the outside: of the routes to 203.0.113.1 and 2001:db8::1.
/// Sends nothing to the network. `gateways`: is set to the list, which is empty where there are no
/// routes; free it with lvs_texts_free().
#[unsafe(no_mangle)]
pub extern "C" fn lvs_marks_gateways(
    marks: Handle<lvs_marks>,
    gateways: Option<&mut MaybeUninit<Box<lvs_texts>>>,
) -> c_int {
    guard(|| {
        let (mut marks, result) = (marks.lock("marks")?, given(gateways, "gateways")?);
        result.write(Box::new(lvs_texts::of(marks.gateways()?)));
        Ok(())
    })
}

/// Finds by which interface packets of this node to an address leave. `interface`: is set to its
/// name, or to NULL where there is no route; that of the node's own addresses is "lo". `gateway`:
/// is set to the next hop, or to NULL where the address is on the interface's link; NULL if it is
/// not needed. Free both with lvs_text_free(). Sends nothing to the network.
#[unsafe(no_mangle)]
pub extern "C" fn lvs_marks_route_to(
    marks: Handle<lvs_marks>,
    address: Text,
    interface: Option<&mut MaybeUninit<*mut c_char>>,
    gateway: Option<&mut MaybeUninit<*mut c_char>>,
) -> c_int {
    guard(|| {
        let (mut marks, address) = (marks.lock("marks")?, address.address("address")?);
        let (result, found) = (given(interface, "interface")?, marks.route_to(address)?);
        let (name, hop) = found.map_or((None, None), |(name, hop)| (Some(name), hop.map(|hop| hop.to_string())));
        put_text_or_null(Some(result), name);
        put_text_or_null(gateway, hop);
        Ok(())
    })
}

/// Asks the link who has an address, by ARP or neighbour discovery, and lists the MAC addresses
/// that answer. Changes nothing. Takes CAP_NET_RAW.
///
/// `netns`: as with lvs_vips_open(). `limit_ms`: for how long it waits for an answer, in
/// milliseconds. `linger_ms`: for how long it waits for further answers after the first, within
/// `limit_ms`. `macs`: is set to the list, which may be empty; free it with lvs_texts_free().
/// Blocks for `limit_ms` at most, and for a grace period of RCU, some 10 ms, by which the kernel
/// closes the socket. Fails with LVS_ERR_INVALID (an address that is no VIP's, an interface that
/// is not like Ethernet), LVS_ERR_NO_INTERFACE, LVS_ERR_INTERFACE_DOWN, and LVS_ERR_SYSTEM
/// (EPERM).
#[unsafe(no_mangle)]
pub extern "C" fn lvs_who_has(
    netns: Text,
    interface: Text,
    address: Text,
    limit_ms: u32,
    linger_ms: u32,
    macs: Option<&mut MaybeUninit<Box<lvs_texts>>>,
) -> c_int {
    guard(|| {
        let (interface, address) = (interface.name("interface")?, address.address("address")?);
        let (result, netns) = (given(macs, "macs")?, netns.netns()?);
        let [limit, linger] = [limit_ms, linger_ms].map(|time| Duration::from_millis(time.into()));
        result.write(Box::new(lvs_texts::of(who_has(&netns, &interface, address, limit, linger)?)));
        Ok(())
    })
}
