//! Where a VIP sits: found, added, moved, announced.
//!
//! In direct routing every node holds the VIP, or it would not take the packets that the director
//! passes on; but only the director may be found by it. So the VIP sits on the loopback interface,
//! where (with the settings of [`arp`](crate::arp)) its neighbours do not learn of it, and the
//! director's also on the interface that clients reach. [`Vips`] makes just these two forms:
//!
//! | [`Placement`] | IPv4 | IPv6 |
//! |---|---|---|
//! | `Loopback` | `VIP/32`, scope host | `VIP/128`, no duplicate detection, preferred lifetime 0 |
//! | `Interface` | `VIP/32`, scope global | the same |
//!
//! - Scope host keeps the kernel from answering ARP requests for the address, and from using it as
//!   a source elsewhere.
//! - A host prefix stands alone. A VIP of prefix /24 would be a *secondary* address, gone as soon
//!   as its primary is.
//! - IPv6 duplicate detection makes an address unusable for some two seconds, and for good if the
//!   old director still holds it. With preferred lifetime 0 the node does not choose the VIP as
//!   source of its own connections.
//! - An IPv6 address leaves with the interface when that goes down (unless `keep_addr_on_down` is
//!   set); an IPv4 address stays, and works again when the interface comes up.
//!
//! # What is ours
//!
//! An address is taken as ours, to be mended or removed, where it sits on the loopback interface
//! or on the interface that the caller names, and
//!
//! - has a host prefix (/32 or /128) and no peer: anything else is a node's own address, or one
//!   end of a tunnel;
//! - does not expire: what expires is DHCP's, or made from a router's advertisement;
//! - does not bear the mark of another program (`IFA_PROTO`, since Linux 5.18; recent keepalived
//!   sets it). [`Vips`] marks what it adds with [`MARK`], for people to see, but does not ask for
//!   it: older kernels do not keep a mark, and a VIP that a script left behind must not stay for
//!   ever.
//!
//! Everything else is [`Error::Foreign`], and stays as it is. See rtnetlink(7), ip-address(8), and
//! the kernel's net/ipv4/devinet.c and net/ipv6/addrconf.c.

mod advertised;
mod announce;
mod route;

use std::collections::BTreeSet;
use std::collections::btree_map::{self, BTreeMap};
use std::fmt;
use std::net::IpAddr;
use std::thread;
use std::time::{Duration, Instant};

use rustix::io::Errno;

use self::route::{Entry, RouteSocket};
use crate::address::check_vip;
use crate::error::{Cause, Error, Result};
use crate::interface;
use crate::netlink::{FrameSender, Link};
use crate::netns::Netns;
use crate::sysctl;

/// The mark of the addresses (`IFA_PROTO`) and routes (`rtm_protocol`) that this crate adds: `V`.
/// Linux before 5.18 does not keep it. No other use of the number is known: see `rtproto` and
/// `rt_addrprotos` in iproute2.
pub const MARK: u8 = b'V';

/// Where a VIP sits.
///
/// ```
/// use lvs_dr::vip::Placement;
///
/// assert_eq!(Placement::Loopback.interface(), "lo");
/// assert_eq!(Placement::Interface("eth0".into()).interface(), "eth0");
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "snake_case"))]
pub enum Placement {
    /// On the interface of this name, where neighbours find it: the director's place. Not the
    /// loopback interface.
    Interface(String),
    /// On `lo`, with scope host: the place of every node that serves.
    Loopback,
}

impl Placement {
    /// The interface's name; `lo` for [`Placement::Loopback`].
    pub fn interface(&self) -> &str {
        match self {
            Placement::Interface(name) => name,
            Placement::Loopback => LOOPBACK,
        }
    }

    fn scope(&self) -> Scope {
        match self {
            Placement::Interface(_) => Scope::Global,
            Placement::Loopback => Scope::Host,
        }
    }

    fn check(&self) -> Result<()> {
        match self {
            Placement::Interface(name) if name == LOOPBACK => {
                Err(Error::invalid("interface \"lo\"", "its place for a VIP is the loopback placement (scope host)"))
            }
            Placement::Interface(name) => interface::check_name(name),
            Placement::Loopback => Ok(()),
        }
    }
}

/// `eth0`, or `lo (scope host)`.
impl fmt::Display for Placement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Placement::Interface(name) => f.write_str(name),
            Placement::Loopback => write!(f, "{LOOPBACK} (scope host)"),
        }
    }
}

const LOOPBACK: &str = "lo";

/// How long an IPv6 address may take to work. It is mostly done when it is first asked for.
const LOCAL_ROUTE_LIMIT: Duration = Duration::from_millis(500);

/// How far an address is valid, see rtnetlink(7). For IPv6 the kernel takes it from the address
/// itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Scope {
    /// Everywhere (`RT_SCOPE_UNIVERSE`, 0).
    Global,
    /// Within the site (200): of IPv6, and deprecated.
    Site,
    /// On this link only (253).
    Link,
    /// On this host only (254).
    Host,
    /// Nowhere (255).
    Nowhere,
    /// A number of the user's own.
    Other(u8),
}

/// As ip-address(8) prints it: `global`, `host`, or a number.
impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Scope::Global => f.write_str("global"),
            Scope::Site => f.write_str("site"),
            Scope::Link => f.write_str("link"),
            Scope::Host => f.write_str("host"),
            Scope::Nowhere => f.write_str("nowhere"),
            Scope::Other(number) => write!(f, "{number}"),
        }
    }
}

/// The largest number of announcements that are sent in one go: 1000 frames take some 0.2 s.
pub const MOST_ANNOUNCEMENTS: u32 = 1000;

pub(crate) fn check_announcements(times: u32) -> Result<()> {
    if times > MOST_ANNOUNCEMENTS {
        let reason = format!("they are sent in one go: {MOST_ANNOUNCEMENTS} at most were expected");
        return Err(Error::invalid(format!("{times} announcements"), reason));
    }
    Ok(())
}

/// An address, as found on an interface.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct AssignedAddress {
    /// The address.
    pub address: IpAddr,
    /// The prefix length: 0 to 32, or 128 for IPv6.
    pub prefix: u8,
    /// The other end, where this is one end of a point-to-point address.
    pub peer: Option<IpAddr>,
    /// The interface's name.
    pub interface: String,
    /// The interface's index.
    pub index: u32,
    /// How far the address is valid.
    pub scope: Scope,
    /// It does not expire.
    pub permanent: bool,
    /// Its preferred lifetime is over: it is not chosen as source of new connections.
    pub deprecated: bool,
    /// IPv6 duplicate detection has not ended: the address does not work yet, or will not at all
    /// if [`dad_failed`](Self::dad_failed).
    pub tentative: bool,
    /// IPv6 duplicate detection found the address elsewhere: it does not work.
    pub dad_failed: bool,
    /// Who added it (`IFA_PROTO`): [`MARK`] for this crate, 1 to 3 for the kernel, 18 for
    /// keepalived. `None` where the program does not say, and before Linux 5.18.
    pub mark: Option<u8>,
}

impl AssignedAddress {
    /// Whether this is what [`Vips::add`] makes for `placement`, whichever program made it.
    pub fn fits(&self, placement: &Placement) -> bool {
        let form = match self.address {
            IpAddr::V4(_) => self.scope == placement.scope(),
            IpAddr::V6(_) => self.deprecated && !self.tentative && !self.dad_failed,
        };
        form && self.interface == placement.interface()
            && self.prefix == host_prefix(self.address)
            && self.peer.is_none()
            && self.permanent
    }

    /// Whether it belongs to another program, so that this crate neither changes nor removes it
    /// (see [the rule](self#what-is-ours)).
    pub fn is_foreign(&self) -> bool {
        self.foreign_reason().is_some()
    }

    fn foreign_reason(&self) -> Option<String> {
        let host = host_prefix(self.address);
        if self.prefix != host {
            Some(format!("its prefix is /{} where a VIP has /{host}: is it the node's own address?", self.prefix))
        } else if let Some(peer) = self.peer {
            Some(format!("it is one end of a point-to-point address, with {peer} at the other"))
        } else if !self.permanent {
            Some("it expires: it comes from DHCP or a router's advertisement".into())
        } else {
            let mark = self.mark.filter(|&mark| mark != MARK)?;
            let program = match mark {
                1..=3 => "the kernel",
                18 => "keepalived",
                _ => "another program",
            };
            Some(format!("it is marked as {program}'s (protocol {mark}): change it there"))
        }
    }

    /// Whether `replace` can give it the right form: it changes lifetimes, but not an IPv4
    /// address's scope, and it does not end duplicate detection.
    fn can_be_replaced(&self) -> bool {
        self.address.is_ipv6() && !self.tentative && !self.dad_failed
    }

    pub(crate) fn refuse_foreign(&self) -> Result<()> {
        match self.foreign_reason() {
            Some(reason) => Err(Error::Foreign { object: self.to_string(), reason }),
            None => Ok(()),
        }
    }
}

/// `192.0.2.1/32 on eth0 (scope global)`.
impl fmt::Display for AssignedAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{} on {} (scope {}", self.address, self.prefix, self.interface, self.scope)?;
        for (flag, word) in
            [(self.deprecated, "deprecated"), (self.tentative, "tentative"), (self.dad_failed, "dadfailed")]
        {
            if flag {
                write!(f, ", {word}")?;
            }
        }
        f.write_str(")")
    }
}

/// Whether an interface can be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LinkState {
    /// It is switched on.
    Up,
    /// It is switched off.
    Down,
    /// There is none of this name.
    Missing,
}

/// Finds and changes the VIPs of one network namespace.
///
/// Every change is read back. Every call that changes something can be repeated, and says whether
/// it had anything to do. Reading takes no privileges; changing takes `CAP_NET_ADMIN`, announcing
/// `CAP_NET_RAW`, in the user namespace that owns the network namespace. A change reads the list
/// of addresses before and after: a matter of microseconds, until there are thousands of them.
///
/// ```no_run
/// use lvs_dr::vip::{Placement, Vips};
///
/// let (vip, eth0) = ("192.168.0.254".parse()?, Placement::Interface("eth0".into()));
/// let mut vips = Vips::open()?;
/// vips.add(vip, &Placement::Loopback)?; // every node
/// vips.add(vip, &eth0)?; // the director
/// vips.announce(vip, "eth0", 5)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// Those that any of the calls can return; each names further ones:
/// - [`Error::Invalid`] for an address or interface name that cannot be right, before the kernel
///   is asked.
/// - [`Error::Refused`] with the kernel's errno: [`Cause::NoInterface`] (`ENODEV`),
///   [`Cause::Permission`] (`EPERM`), [`Cause::NoFamily`] (`EACCES`: IPv6 is switched off on this
///   interface; `EOPNOTSUPP`: in the kernel).
/// - [`Error::NotVerified`] when the kernel took a change but does not show it: another program
///   changed the address meanwhile.
/// - [`Error::System`], [`Error::NoAnswer`] and [`Error::Malformed`] when the exchange itself
///   fails. The next call then opens a new socket.
#[derive(Debug)]
pub struct Vips {
    route: RouteSocket,
    frames: FrameSender,
}

impl Vips {
    /// A client of the calling thread's network namespace.
    pub fn open() -> Result<Self> {
        Self::open_in(Netns::current()?)
    }

    /// A client of this network namespace, whatever thread it is used from.
    pub fn open_in(netns: Netns) -> Result<Self> {
        Ok(Vips { route: RouteSocket::open(netns)?, frames: FrameSender::default() })
    }

    /// Everywhere that `vip` sits. One interface can hold an IPv4 address more than once, with
    /// different prefixes.
    pub fn locate(&mut self, vip: IpAddr) -> Result<Vec<AssignedAddress>> {
        let mut found = Vec::new();
        for entry in self.route.addresses(Some(vip))? {
            if entry.local != vip {
                continue;
            }
            // Where the interface has just gone, the address has too.
            if let Some(link) = self.route.link_of_index(entry.index)? {
                found.push(entry.on(link.name));
            }
        }
        Ok(found)
    }

    /// All addresses of this namespace's interfaces: what is one's own. (All of 127.0.0.0/8 is
    /// local too, though only 127.0.0.1 is an address.)
    pub fn addresses(&mut self) -> Result<BTreeSet<IpAddr>> {
        Ok(self.route.addresses(None)?.into_iter().map(|entry| entry.local).collect())
    }

    /// Every address, with the interface that it is on: one request for the addresses, and one for
    /// each interface.
    pub fn all(&mut self) -> Result<Vec<AssignedAddress>> {
        self.all_on(|_| true)
    }

    /// The same without those of interfaces that are switched off.
    pub(crate) fn on_interfaces(&mut self) -> Result<Vec<AssignedAddress>> {
        self.all_on(Link::is_up)
    }

    fn all_on(&mut self, which: impl Fn(&Link) -> bool) -> Result<Vec<AssignedAddress>> {
        let mut links: BTreeMap<u32, Option<Link>> = BTreeMap::new();
        let mut found = Vec::new();
        for entry in self.route.addresses(None)? {
            let link = match links.entry(entry.index) {
                btree_map::Entry::Occupied(known) => known.into_mut(),
                // Where the interface has just gone, the address has too.
                btree_map::Entry::Vacant(unknown) => unknown.insert(self.route.link_of_index(entry.index)?),
            };
            if let Some(link) = link.as_ref().filter(|link| which(link)) {
                found.push(entry.on(link.name.clone()));
            }
        }
        Ok(found)
    }

    /// The same with all interfaces: one request for each of the two lists.
    pub(crate) fn all_with_links(&mut self) -> Result<(Vec<AssignedAddress>, Vec<Link>)> {
        let (entries, links) = (self.route.addresses(None)?, self.route.links()?);
        let names: BTreeMap<u32, &str> = links.iter().map(|link| (link.index, link.name.as_str())).collect();
        // Where the interface has just gone, the address has too.
        let named = |entry: Entry| names.get(&entry.index).map(|name| entry.clone().on((*name).to_owned()));
        Ok((entries.into_iter().filter_map(named).collect(), links))
    }

    /// The name of the interface that has this name, or this alternative name. `None`: there is no
    /// such interface.
    pub(crate) fn name_of(&mut self, interface: &str) -> Result<Option<String>> {
        match self.route.link_of_name(interface) {
            Ok(link) => Ok(Some(link.name)),
            Err(error) if error.cause() == Some(Cause::NoInterface) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Whether there is such an interface, and it is switched on.
    pub(crate) fn link_state(&mut self, interface: &str) -> Result<LinkState> {
        match self.route.link_of_name(interface) {
            Ok(link) if link.is_up() => Ok(LinkState::Up),
            Ok(_) => Ok(LinkState::Down),
            Err(error) if error.cause() == Some(Cause::NoInterface) => Ok(LinkState::Missing),
            Err(error) => Err(error),
        }
    }

    /// The interface by which packets from `from` to `to` leave. `None`: there is no way, or
    /// `from` is not this node's.
    pub(crate) fn way(&mut self, to: IpAddr, from: IpAddr) -> Result<Option<String>> {
        let Some(index) = self.route.way(to, from)? else { return Ok(None) };
        Ok(self.route.link_of_index(index)?.map(|link| link.name))
    }

    /// Adds the VIP, and says whether anything had to be changed.
    ///
    /// One that is there in another form (scope global on `lo`, say) is brought into the right
    /// one. Where the kernel offers no other way, that is by removing it and adding it again at
    /// once.
    ///
    /// # Errors
    /// [`Error::Foreign`] when the address is there and belongs to another program; also as
    /// [`Vips`].
    pub fn add(&mut self, vip: IpAddr, placement: &Placement) -> Result<bool> {
        let spot = Spot::new(vip, placement)?;
        let link = self.route.link_of_name(placement.interface())?;
        let changed = self.put(&spot, link.index)?;
        if vip.is_ipv6() && link.is_up() {
            self.await_local_route(vip, link.index)?;
        }
        Ok(changed)
    }

    /// Removes the VIP from this place, and says whether it was there.
    ///
    /// # Errors
    /// [`Error::Foreign`] when the address is there and belongs to another program; also as
    /// [`Vips`].
    pub fn remove(&mut self, vip: IpAddr, placement: &Placement) -> Result<bool> {
        let spot = Spot::new(vip, placement)?;
        self.route.link_of_name(placement.interface())?;
        self.found_at(&spot)?.iter().try_for_each(AssignedAddress::refuse_foreign)?;
        self.take_away(&spot)
    }

    /// Moves the VIP, as [`Vips::place`], where the two places are known: sees to it that it sits
    /// at `to` and not at `from`, wherever of the two it is now, and says whether anything had to
    /// be changed.
    ///
    /// It is added before it is removed, so that the node never stops taking its packets: between
    /// the two it sits at both.
    ///
    /// # Errors
    /// [`Error::Foreign`] when the address sits on a third interface, or belongs to another
    /// program at one of the two; nothing is changed then. Also as [`Vips`].
    pub fn relocate(&mut self, vip: IpAddr, from: &Placement, to: &Placement) -> Result<bool> {
        let spots = [Spot::new(vip, from)?, Spot::new(vip, to)?];
        self.route.link_of_name(to.interface())?;
        for found in self.locate(vip)? {
            if !spots.iter().any(|spot| spot.holds(&found)) {
                let reason = format!("the VIP was expected on {from} or {to}; remove it there, or name that interface");
                return Err(Error::Foreign { object: found.to_string(), reason });
            }
            if !found.fits(to) {
                found.refuse_foreign()?;
            }
        }
        let added = self.add(vip, to)?;
        match from.interface() == to.interface() {
            true => Ok(added),
            false => Ok(self.take_away(&spots[0])? || added),
        }
    }

    /// Places the VIP: sees to it that it sits at `to` and nowhere else, and says whether anything
    /// had to be changed. It is added before it is removed elsewhere.
    ///
    /// Elsewhere is `lo`, and every interface where it bears [`MARK`]; before Linux 5.18 there are
    /// no marks, and [`Vips::relocate`] is to be told from where.
    ///
    /// # Errors
    /// [`Error::Foreign`] when the address sits on another interface without the mark, or belongs
    /// to another program; nothing is changed then. Also as [`Vips`].
    pub fn place(&mut self, vip: IpAddr, to: &Placement) -> Result<bool> {
        let elsewhere: Vec<AssignedAddress> =
            self.locate(vip)?.into_iter().filter(|f| f.interface != to.interface()).collect();
        for found in &elsewhere {
            found.refuse_foreign()?;
            if found.interface != LOOPBACK && found.mark != Some(MARK) {
                let reason = "it bears no mark of this crate: remove it there, or name that interface as the place it comes from";
                return Err(Error::Foreign { object: found.to_string(), reason: reason.into() });
            }
        }
        let mut changed = self.add(vip, to)?;
        for found in elsewhere {
            let from =
                if found.interface == LOOPBACK { Placement::Loopback } else { Placement::Interface(found.interface) };
            changed |= self.remove(vip, &from)?;
        }
        Ok(changed)
    }

    /// Removes the VIP from `lo` and from `interface`, where it is ours there, and says whether it
    /// was. What belongs to another program stays, as does the address on any other interface:
    /// [`Vips::locate`] shows it.
    pub fn withdraw(&mut self, vip: IpAddr, interface: Option<&str>) -> Result<bool> {
        let interface = interface.map(|name| Placement::Interface(name.into()));
        let mut changed = false;
        for placement in interface.iter().chain([&Placement::Loopback]) {
            changed |= self.take_away(&Spot::new(vip, placement)?)?;
        }
        Ok(changed)
    }

    /// Adds the route by which a routing daemon (BIRD, FRR) learns that it is to advertise the VIP:
    /// `unreachable VIP proto 86 table 86`, 86 being [`MARK`]. The kernel does not look that table
    /// up, unless an `ip rule` says so. A daemon that starts later finds the route, and one that
    /// ends leaves it.
    ///
    /// # Errors
    /// [`Error::Foreign`] where another route to the VIP has the same metric; also as [`Vips`].
    pub fn advertise(&mut self, vip: IpAddr) -> Result<()> {
        check_vip(vip)?;
        self.route.advertise(vip)
    }

    /// Removes that route. Other routes to the VIP stay.
    ///
    /// # Errors
    /// As [`Vips`].
    pub fn unadvertise(&mut self, vip: IpAddr) -> Result<()> {
        check_vip(vip)?;
        self.route.unadvertise(vip)
    }

    /// The addresses that have such a route.
    ///
    /// # Errors
    /// As [`Vips`].
    pub fn advertised(&mut self) -> Result<BTreeSet<IpAddr>> {
        let mut found = self.route.advertised(false)?;
        found.extend(self.route.advertised(true)?);
        Ok(found)
    }

    /// Tells the neighbours on this interface's link that the VIP is to be found here, so that
    /// they send to this node at once and not when their cache entry expires. Says whether there
    /// was anyone to tell: on a loopback, point-to-point or `NOARP` interface no neighbour keeps
    /// such entries, and nothing is sent.
    ///
    /// `times` announcements are sent in one go; keepalived sends 5, as a frame can be lost. It is
    /// good to announce again a few seconds later (RFC 5227 asks for 2 s, RFC 4861 for 1 s):
    /// switches may block a port that has just come up. For IPv4 the announcement is an ARP
    /// request for the address with the address as sender (RFC 5227, section 3, says why not a
    /// reply), for IPv6 an unsolicited neighbour advertisement to ff02::1 with the override flag
    /// (RFC 4861, section 7.2.6).
    ///
    /// Does not wait. The socket that sends is closed with this value, for which the kernel waits
    /// for a grace period of RCU, some 10 ms.
    ///
    /// # Errors
    /// - [`Error::Refused`] with [`Cause::NoAddress`] (`EADDRNOTAVAIL`) when the interface does
    ///   not hold the VIP: its traffic would be drawn away from who does.
    /// - [`Error::Refused`] with [`Cause::InterfaceDown`] (`ENETDOWN`) when no neighbour would
    ///   hear it.
    /// - [`Error::Invalid`] when the link is not like Ethernet (InfiniBand), and for more than
    ///   [`MOST_ANNOUNCEMENTS`].
    /// - [`Error::System`] when `CAP_NET_RAW` is missing (`EPERM`); also as [`Vips`].
    pub fn announce(&mut self, vip: IpAddr, interface: &str, times: u32) -> Result<bool> {
        check_vip(vip)?;
        check_announcements(times)?;
        interface::check_name(interface)?;
        let link = self.route.link_of_name(interface)?;
        if !link.has_neighbours() {
            return Ok(false);
        }
        let object = format!("{vip} on {interface}");
        let refused = |errno: Errno, cause| Error::Refused {
            operation: "announce",
            object: object.clone(),
            errno: errno.raw_os_error(),
            cause,
            message: None,
        };
        let Some(mac) = link.ethernet_address() else {
            return Err(Error::invalid(
                interface,
                format!("only Ethernet links can be announced on; its type is {} (see linux/if_arp.h)", link.hardware),
            ));
        };
        if !self.locate(vip)?.iter().any(|found| found.index == link.index) {
            return Err(refused(Errno::ADDRNOTAVAIL, Cause::NoAddress));
        }
        if !link.is_running() {
            return Err(refused(Errno::NETDOWN, Cause::InterfaceDown));
        }
        let frame = match vip {
            IpAddr::V4(vip) => announce::gratuitous_arp(mac, vip),
            IpAddr::V6(vip) => {
                let forwarding = format!("net/ipv6/conf/{interface}/forwarding");
                let router = sysctl::read_number(self.route.netns(), &forwarding)?.is_some_and(|value| value != 0);
                announce::unsolicited_advertisement(mac, vip, router)
            }
        };
        let sender = &mut self.frames;
        let send = || (0..times).try_for_each(|_| frame.send(sender, link.index));
        match self.route.netns().run(send)? {
            Ok(()) => Ok(true),
            Err(error) => match error.raw_os_error().map(Errno::from_raw_os_error) {
                Some(Errno::NETDOWN) => Err(refused(Errno::NETDOWN, Cause::InterfaceDown)),
                Some(Errno::NODEV | Errno::NXIO) => Err(refused(Errno::NODEV, Cause::NoInterface)),
                Some(Errno::PERM) => Err(Error::system("announce (it takes CAP_NET_RAW)", object, error)),
                _ => Err(Error::system("announce", object, error)),
            },
        }
    }

    fn found_at(&mut self, spot: &Spot) -> Result<Vec<AssignedAddress>> {
        Ok(self.locate(spot.vip)?.into_iter().filter(|found| spot.holds(found)).collect())
    }

    /// Begins a series of changes: the addresses are read now, and not for each change. That takes
    /// long where there are hundreds of VIPs.
    pub(crate) fn begin_series(&mut self) -> Result<()> {
        self.route.begin_series()
    }

    /// Ends a series: addresses are read for each change again.
    pub(crate) fn end_series(&mut self) {
        self.route.end_series();
    }

    /// Verifies what a series has changed: VIPs, places, and whether each VIP is to be at its
    /// place.
    ///
    /// # Errors
    /// [`Error::NotVerified`] when another program has undone one of the changes.
    pub(crate) fn verify_series(&mut self, changes: &[(IpAddr, &Placement, bool)]) -> Result<()> {
        let found: BTreeSet<(IpAddr, u32, u8)> =
            self.route.addresses(None)?.iter().map(|entry| (entry.local, entry.index, entry.prefix)).collect();
        let mut indexes: BTreeMap<&str, u32> = BTreeMap::new();
        for (vip, placement, wanted) in changes {
            let spot = Spot::new(*vip, placement)?;
            let name = placement.interface();
            let index = match indexes.get(name) {
                Some(index) => *index,
                None => *indexes.entry(name).or_insert(self.route.link_of_name(name)?.index),
            };
            if found.contains(&(*vip, index, spot.prefix())) != *wanted {
                let found = self.found_at(&spot)?;
                return Err(not_verified(if *wanted { "add" } else { "remove" }, &spot, &found));
            }
        }
        Ok(())
    }

    fn put(&mut self, spot: &Spot, index: u32) -> Result<bool> {
        let found = self.found_at(spot)?;
        if found.iter().any(|found| found.fits(spot.placement)) {
            return Ok(false);
        }
        found.iter().try_for_each(AssignedAddress::refuse_foreign)?;
        let in_the_way = found.iter().any(|found| !found.can_be_replaced());
        if in_the_way {
            self.route.delete(spot, index)?;
        }
        self.route.add(spot, index, !in_the_way && !found.is_empty())?;

        let found = self.found_at(spot)?;
        match found.iter().any(|found| found.fits(spot.placement)) {
            true => Ok(true),
            false => Err(not_verified("add", spot, &found)),
        }
    }

    /// The kernel acknowledges an IPv6 address first, and makes its local route later (in a work
    /// queue: addrconf_dad_work()). Until then it would not take the VIP's packets, if the address
    /// were removed elsewhere. Routing rules of the administrator's can hide that route: so the
    /// wait is short, and its end no error.
    fn await_local_route(&mut self, vip: IpAddr, index: u32) -> Result<()> {
        let start = Instant::now();
        while !self.route.has_local_route(vip, index)? && start.elapsed() < LOCAL_ROUTE_LIMIT {
            thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    /// Removes what is ours, and nothing else. An interface that does not exist holds nothing.
    fn take_away(&mut self, spot: &Spot) -> Result<bool> {
        let Some(found) = self.found_at(spot)?.into_iter().find(|found| !found.is_foreign()) else { return Ok(false) };
        self.route.delete(spot, found.index)?;

        let left = self.found_at(spot)?;
        match left.iter().all(AssignedAddress::is_foreign) {
            true => Ok(true),
            false => Err(not_verified("remove", spot, &left)),
        }
    }
}

/// A VIP and a place for it, both found usable.
struct Spot<'a> {
    vip: IpAddr,
    placement: &'a Placement,
}

impl<'a> Spot<'a> {
    fn new(vip: IpAddr, placement: &'a Placement) -> Result<Self> {
        check_vip(vip)?;
        placement.check()?;
        Ok(Spot { vip, placement })
    }

    fn prefix(&self) -> u8 {
        host_prefix(self.vip)
    }

    fn holds(&self, found: &AssignedAddress) -> bool {
        found.interface == self.placement.interface()
    }
}

/// `192.0.2.1/32 on eth0`.
impl fmt::Display for Spot<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{} on {}", self.vip, self.prefix(), self.placement)
    }
}

fn not_verified(step: &str, spot: &Spot, found: &[AssignedAddress]) -> Error {
    let found = match found {
        [] => "the address is not there".to_owned(),
        found => found.iter().map(|f| format!("found {f}")).collect::<Vec<_>>().join(", "),
    };
    Error::NotVerified { step: format!("{step} {spot}"), found }
}

fn host_prefix(address: IpAddr) -> u8 {
    match address {
        IpAddr::V4(_) => 32,
        IpAddr::V6(_) => 128,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn located(address: &str, prefix: u8, interface: &str, scope: Scope) -> AssignedAddress {
        let address: IpAddr = address.parse().unwrap();
        AssignedAddress {
            address,
            prefix,
            peer: None,
            interface: interface.into(),
            index: 1,
            scope,
            permanent: true,
            deprecated: address.is_ipv6(),
            tentative: false,
            dad_failed: false,
            mark: None,
        }
    }

    #[test]
    fn what_fits_a_placement() {
        let eth0 = Placement::Interface("eth0".into());
        let on_lo = located("192.0.2.1", 32, "lo", Scope::Host);
        assert!(on_lo.fits(&Placement::Loopback) && !on_lo.fits(&eth0));
        assert!(!located("192.0.2.1", 32, "lo", Scope::Global).fits(&Placement::Loopback));
        assert!(located("192.0.2.1", 32, "eth0", Scope::Global).fits(&eth0));
        assert!(!located("192.0.2.1", 24, "eth0", Scope::Global).fits(&eth0));
        let v6 = located("2001:db8::1", 128, "eth0", Scope::Global);
        assert!(v6.fits(&eth0) && !v6.fits(&Placement::Loopback));
        assert!(!AssignedAddress { tentative: true, ..v6.clone() }.fits(&eth0));
        assert!(!AssignedAddress { deprecated: false, ..v6 }.fits(&eth0));
    }

    #[test]
    fn what_is_foreign() {
        let ours = located("192.0.2.1", 32, "eth0", Scope::Global);
        for ours in [
            ours.clone(),
            AssignedAddress { mark: Some(MARK), ..ours.clone() },
            AssignedAddress { scope: Scope::Link, ..ours.clone() },
            located("2001:db8::1", 128, "lo", Scope::Global),
        ] {
            assert!(!ours.is_foreign(), "{ours}");
        }
        for foreign in [
            AssignedAddress { prefix: 24, ..ours.clone() },
            AssignedAddress { peer: "192.0.2.2".parse().ok(), ..ours.clone() },
            AssignedAddress { permanent: false, ..ours.clone() },
            AssignedAddress { mark: Some(18), ..ours.clone() },
            located("2001:db8::1", 64, "lo", Scope::Global),
        ] {
            assert!(matches!(foreign.refuse_foreign(), Err(Error::Foreign { .. })), "{foreign}");
        }
    }

    #[test]
    fn the_loopback_interface_is_no_directors_place() {
        assert!(Placement::Interface("lo".into()).check().is_err());
    }

    #[test]
    fn printed_forms() {
        assert_eq!(Placement::Loopback.to_string(), "lo (scope host)");
        assert_eq!(Placement::Interface("bond0".into()).to_string(), "bond0");
        let failed =
            AssignedAddress { tentative: true, dad_failed: true, ..located("2001:db8::1", 128, "eth0", Scope::Global) };
        assert_eq!(failed.to_string(), "2001:db8::1/128 on eth0 (scope global, deprecated, tentative, dadfailed)");
    }
}
