//! A node of the cluster: configuration, roles, services, status.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{c_char, c_int, c_void};
use std::mem::{MaybeUninit, size_of};
use std::net::IpAddr;
use std::ops::{Deref, DerefMut};
use std::ptr;
use std::time::Duration;

use super::ffi::{
    Grows, Handle, Held, NAME, Opened, PATH, Place, Result, TABLE, Text, c_text, choice, given, invalid, put, put_text,
    put_text_or_null, read,
};
use super::status::{Failure, LVS_ERR_NULL, caught, guard};
use crate::arp::Settings;
use crate::ipvs::ServiceId;
use crate::marks::Mac;
use crate::node::{
    Apply, ArpConfig, ArpScope, Asked, Config, Fence, Loopback, MarkValues, Node, OwnRequests, Plan, Role, Step,
    VipOwner, Weigh,
};

/// No role yet.
pub const LVS_ROLE_NONE: u32 = 0;
/// The director: schedules connections, and serves its share of them. The numbers of the roles are
/// none of keepalived's states (VRRP_STATE_*), so that a state that is passed as a role is
/// LVS_ERR_INVALID.
pub const LVS_ROLE_MASTER: u32 = 17;
/// Serves the connections that the director sends to it.
pub const LVS_ROLE_BACKUP: u32 = 18;
/// Like LVS_ROLE_BACKUP: VRRP found a fault.
pub const LVS_ROLE_FAULT: u32 = 19;
/// Like LVS_ROLE_BACKUP: VRRP was stopped. The node continues to serve; see lvs_node_release().
pub const LVS_ROLE_STOP: u32 = 20;

/// The node adds the VIP to the interface, announces it, and removes it.
pub const LVS_VIP_OWNER_NODE: u32 = 0;
/// keepalived or another program moves the VIP on the interface. The node handles only the VIP on
/// `lo`.
pub const LVS_VIP_OWNER_KEEPALIVED: u32 = 1;
/// Routers spread the connections over all nodes, and each node directs. The VIP is on `lo` only;
/// LVS_ROLE_MASTER has a route by which a routing daemon advertises it.
pub const LVS_VIP_OWNER_ROUTES: u32 = 2;

/// The default of this version: LVS_FENCE_MARKS.
pub const LVS_FENCE_DEFAULT: u32 = 0;
/// A backup has no services: its table is kept in the state directory, and restored at promotion.
/// For kernels without the modules that LVS_FENCE_MARKS needs.
pub const LVS_FENCE_CLEAR: u32 = 1;
/// Every node has the same table. tc rules mark the packets that come from the MAC address of
/// another node, and this node serves them itself. Needs cls_bpf and act_skbedit in the kernel.
///
/// 2, 3 and 4 are reserved: they were the fences quiesce, stateless and backup-only of earlier
/// versions. They fail with LVS_ERR_INVALID; pass LVS_FENCE_DEFAULT instead.
pub const LVS_FENCE_MARKS: u32 = 5;

/// The VIP is always on `lo`. On the director it is on the interface as well.
pub const LVS_LOOPBACK_ALWAYS: u32 = 0;
/// The VIP is on `lo` of backups only.
pub const LVS_LOOPBACK_BACKUP: u32 = 1;

/// The node sets arp_ignore 1 and arp_announce 2 on each interface whose link reaches clients: the
/// one that is named, those on the same link (the interface below a macvlan), and those with an
/// address in the subnet of one of these or of a VIP.
pub const LVS_ARP_DEFAULT: u32 = 0;
/// The node leaves ARP settings alone.
pub const LVS_ARP_LEAVE: u32 = 1;
/// The node sets `arp_ignore` and `arp_announce` on these interfaces.
pub const LVS_ARP_INTERFACE: u32 = 2;
/// The node sets `arp_ignore` and `arp_announce` for all interfaces.
pub const LVS_ARP_ALL: u32 = 3;

/// With LVS_FENCE_MARKS, requests of the node's own programs to a VIP are served by this node.
/// Needs nftables or xtables; lvs_node_audit() reports when the node has neither.
pub const LVS_OWN_REQUESTS_SERVED_HERE: u32 = 0;
/// Requests of the node's own programs are left alone. The kernel schedules them like a client's,
/// and the answer of another server does not reach the program.
pub const LVS_OWN_REQUESTS_LEFT_ALONE: u32 = 1;

/// For lvs_node_apply(): changes what differs between the configuration and the one that was
/// loaded last. Changes that other programs made to the kernel's table stay.
pub const LVS_NODE_APPLY_CHANGES: u32 = 0;
/// For lvs_node_apply(): sets all configured services to the configuration. Changes that other
/// programs made to them are undone.
pub const LVS_NODE_APPLY_ALL: u32 = 1;

/// Is told each step of a node before it is carried out. `text`: the step, for a log; it is there
/// until the function returns. `context`: as it was passed with the function. It must return:
/// neither longjmp(3) nor a C++ exception may leave it. Calls that use the same node are
/// LVS_ERR_BUSY within it.
pub type lvs_log = Option<unsafe extern "C" fn(text: Text, context: *mut c_void)>;

/// A node of the cluster, for one group of VIPs.
pub struct lvs_node(Held<Logged>);

impl Opened for lvs_node {
    type Value = Logged;

    fn held(&self) -> &Held<Logged> {
        &self.0
    }
}

/// A node, and the function of C's that is told its steps.
pub(super) struct Logged {
    node: Node,
    log: lvs_log,
    context: *mut c_void,
}

// SAFETY: the context is C's, which passes it to any thread that uses the node: the header says
// so.
unsafe impl Send for Logged {}

impl Deref for Logged {
    type Target = Node;

    fn deref(&self) -> &Node {
        &self.node
    }
}

impl DerefMut for Logged {
    fn deref_mut(&mut self) -> &mut Node {
        &mut self.node
    }
}

impl Logged {
    /// Carries out what `work` does with the node and with what is called before each step, and
    /// gives the plan to C.
    pub(super) fn carry_out(
        &mut self,
        done: Option<&mut MaybeUninit<*mut c_char>>,
        work: impl FnOnce(&mut Node, &mut dyn FnMut(&Step)) -> crate::Result<Plan>,
    ) -> Result<()> {
        let (log, context) = (self.log, self.context);
        let mut before = |step: &Step| {
            if let Some(log) = log {
                let text = c_text(step.to_string());
                // SAFETY: a function of C's with its context; the text lives until it has
                // returned.
                unsafe { log(Text::of(&text), context) };
            }
        };
        put_text(done, work(&mut self.node, &mut before)?.to_string());
        Ok(())
    }
}

/// The configuration of a node. A field that is 0 or NULL has its default; the first four have
/// none.
///
/// A node whose VIPs do not all move together has several groups of VIPs. Each has its own
/// lvs_node; they differ only in `group`, `interface`, `vips` and `services`, and list the same
/// `groups`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct lvs_node_config {
    /// sizeof(struct lvs_node_config).
    pub size: usize,
    /// The interface that clients reach, and that holds the director's VIP.
    pub interface: Text,
    /// The VIPs: "192.168.0.254", without a prefix length.
    pub vips: *const *const c_char,
    /// The number of VIPs, 1 to 4096.
    pub vip_count: usize,
    /// The services of the VIPs, in the format of `ipvsadm -Sn`. They are loaded when the kernel
    /// has none of them; afterwards they belong to the programs that edit the kernel's table, and
    /// lvs_node_apply() changes them. NULL: the node loads no services.
    pub services: Text,
    /// The directory for the node's state: writable for root alone, one for each node. NULL:
    /// "/run/lvs-dr".
    pub state_dir: Text,
    /// The interface of the sync messages. NULL: `interface`.
    pub sync_interface: Text,
    /// The multicast group of the sync messages. NULL: "224.0.0.81".
    pub sync_group: Text,
    /// The name of this group of VIPs. NULL: "", for a node that has only one group.
    pub group: Text,
    /// The names of all groups of the node, `group` among them. The VIPs of other groups that the
    /// node had before are released. NULL: only `group`.
    pub groups: *const *const c_char,
    /// The number of names in `groups`, up to 255.
    pub group_count: usize,
    /// With LVS_FENCE_MARKS, MAC addresses of other nodes, in addition to those that the node
    /// finds by itself: the address of the node as a destination, "=", the MAC address. Several
    /// entries may have the same node. "192.168.0.12=02:00:00:00:00:01".
    pub peer_macs: *const *const c_char,
    /// The number of entries in `peer_macs`, up to 4096.
    pub peer_mac_count: usize,
    /// LVS_VIP_OWNER_...
    pub vip_owner: u32,
    /// LVS_FENCE_...
    pub fence: u32,
    /// LVS_LOOPBACK_...
    pub loopback: u32,
    /// LVS_ARP_...
    pub arp: u32,
    /// With LVS_ARP_INTERFACE and LVS_ARP_ALL; otherwise 0.
    pub arp_ignore: i32,
    /// With LVS_ARP_INTERFACE and LVS_ARP_ALL; otherwise 0.
    pub arp_announce: i32,
    /// The number of announcements that are sent when the VIP is added to the interface. 0: 5. -1:
    /// none.
    pub announcements: i32,
    /// The sync id of the cluster, 1 to 255: other clusters on the link need another. 0: the last
    /// octet of the first VIP, or 1 when that is 0.
    pub sync_id: u32,
    /// The UDP port of the sync messages, in host byte order. 0: 8848.
    pub sync_port: u32,
    /// The number of routers that a sync message may pass, 1 to 255. 0: 1.
    pub sync_ttl: u32,
    /// The length at which a sync message is sent, in octets. 1 sends each connection at once. 0:
    /// 1. -1: the kernel's default, 1472.
    pub sync_max_length: i32,
    /// The time between a promotion and lvs_node_announce_again()'s announcement, in milliseconds.
    /// 0: 5000. -1: no announcement.
    pub announce_again_ms: i32,
    /// With LVS_FENCE_MARKS, the first of the 256 packet marks that the node uses. The marks do
    /// not leave the node; no other program may use them. 0: 1280725760 (0x4c565300).
    pub marks_base: u32,
    /// LVS_OWN_REQUESTS_...
    pub own_requests: u32,
    /// The file with the key that the nodes of the cluster share, 32 octets or more, readable for
    /// root alone. What other nodes send without it is ignored. NULL: there is no key.
    pub sync_key_file: Text,
    /// Services for which an audit does not demand that this node listens: "tcp 192.168.0.254:80".
    pub without_listener: *const *const c_char,
    /// The number of entries in `without_listener`, up to 65536.
    pub without_listener_count: usize,
}

// SAFETY: `repr(C)`, numbers, pointers and texts; that there is no padding follows from its size,
// which is checked here.
unsafe impl Grows for lvs_node_config {
    const NAME: &'static str = "lvs_node_config";
    const FIRST: usize = size_of::<[usize; 16]>() + size_of::<[u32; 14]>();
}
const _: () = assert!(size_of::<lvs_node_config>() == lvs_node_config::FIRST);

pub(super) const ROLES: [(u32, Role); 4] = [
    (LVS_ROLE_MASTER, Role::Master),
    (LVS_ROLE_BACKUP, Role::Backup),
    (LVS_ROLE_FAULT, Role::Fault),
    (LVS_ROLE_STOP, Role::Stop),
];

const APPLY: [(u32, Apply); 2] = [(LVS_NODE_APPLY_CHANGES, Apply::Changes), (LVS_NODE_APPLY_ALL, Apply::All)];

/// The weight becomes 0, and what it was is remembered.
pub const LVS_WEIGH_DRAIN: u32 = 1;
/// The weight becomes what it was before it was drained, where it is 0 still.
pub const LVS_WEIGH_UNDRAIN: u32 = 2;
/// The weight becomes the one that is given.
pub const LVS_WEIGH_SET: u32 = 3;

/// The sessions of a server, see lvs_node_sessions().
#[repr(C)]
#[derive(Clone, Copy)]
pub struct lvs_sessions {
    /// sizeof(struct lvs_sessions).
    pub size: usize,
    /// Connections of TCP and SCTP that are established, and flows of UDP.
    pub active: u64,
    /// Connections in other states, which end by themselves.
    pub ending: u64,
    /// Clients of persistent services that are bound to the server.
    pub templates: u64,
}

// SAFETY: `repr(C)` and numbers; that there is no padding follows from its size, which is checked
// here.
unsafe impl Grows for lvs_sessions {
    const NAME: &'static str = "lvs_sessions";
    const FIRST: usize = size_of::<usize>() + 3 * 8;
}
const _: () = assert!(size_of::<lvs_sessions>() == lvs_sessions::FIRST);

pub(super) fn weigh(change: u32, weight: u32) -> Result<Weigh> {
    let changes =
        [(LVS_WEIGH_DRAIN, Weigh::Drain), (LVS_WEIGH_UNDRAIN, Weigh::Undrain), (LVS_WEIGH_SET, Weigh::Set(weight))];
    match choice("change", change, &changes)? {
        Weigh::Drain | Weigh::Undrain if weight != 0 => {
            Err(invalid(&format!("`weight` {weight}"), "0 was expected unless `change` is LVS_WEIGH_SET"))
        }
        to => Ok(to),
    }
}

const MAX_VIPS: usize = 4096;
const MAX_GROUPS: usize = 255;
const MAX_MACS: usize = 4096;
const MAX_SERVICES: usize = 65536;

pub(super) fn number_of(role: Role) -> u32 {
    ROLES.iter().find(|(_, known)| *known == role).map_or(LVS_ROLE_NONE, |(number, _)| *number)
}

/// Reads a list of texts.
///
/// # Safety
/// `list` is NULL or has as many entries as `count` says, each NULL or a text.
unsafe fn texts<T>(
    name: &str,
    list: *const *const c_char,
    count: usize,
    limit: usize,
    read: impl Fn(Text, &str) -> Result<T>,
) -> Result<Vec<T>> {
    if count > limit {
        return Err(invalid(&format!("{count} {name}"), format!("at most {limit} were expected")));
    }
    if list.is_null() && count > 0 {
        return Err(Failure::new(LVS_ERR_NULL, format!("`{name}` is NULL")));
    }
    let entry = |index| {
        // SAFETY: the entry is there, and a text, by the caller's promise.
        let text = unsafe { Text::new(list.add(index).read()) };
        read(text, &format!("{name}[{index}]"))
    };
    (0..count).map(entry).collect()
}

/// `192.168.0.12=02:00:00:00:00:01`: a node and a MAC address of it.
fn peer_mac(text: Text, name: &str) -> Result<(IpAddr, Mac)> {
    let text = text.name(name)?;
    let parts = text.split_once('=').and_then(|(peer, mac)| Some((peer.parse().ok()?, mac.parse().ok()?)));
    parts.ok_or_else(|| {
        let expected = "an address, `=` and a MAC address, as in `192.168.0.12=02:00:00:00:00:01`, were expected";
        invalid(&format!("{name} {text:?}"), expected)
    })
}

fn service_id(text: Text, name: &str) -> Result<ServiceId> {
    Ok(text.name(name)?.parse()?)
}

fn fence(number: u32) -> Result<Fence> {
    let superseded = match number {
        2 => "quiesce",
        3 => "stateless",
        4 => "backup-only",
        _ => {
            let fences = [
                (LVS_FENCE_DEFAULT, Fence::default()),
                (LVS_FENCE_CLEAR, Fence::Clear),
                (LVS_FENCE_MARKS, Fence::Marks),
            ];
            return choice("fence", number, &fences);
        }
    };
    let reason = "LVS_FENCE_MARKS supersedes it: pass LVS_FENCE_MARKS (5) or LVS_FENCE_DEFAULT (0)";
    Err(invalid(&format!("`fence` {number} ({superseded})"), reason))
}

impl lvs_node_config {
    /// # Safety
    /// `vips`, `groups`, `peer_macs` and `without_listener` are NULL or have as many entries as
    /// the count beside them says, each NULL or a text.
    pub(super) unsafe fn to_config(self) -> Result<Config> {
        let interface = self.interface.name("interface")?;
        // SAFETY: as many texts as `vip_count` says, by the caller's promise.
        let vips = unsafe { texts("vips", self.vips, self.vip_count, MAX_VIPS, Text::address) }?;
        let mut config = Config::new(&interface, vips);

        let owners = [
            (LVS_VIP_OWNER_NODE, VipOwner::Node),
            (LVS_VIP_OWNER_KEEPALIVED, VipOwner::Keepalived),
            (LVS_VIP_OWNER_ROUTES, VipOwner::Routes),
        ];
        config.vip_owner = choice("vip_owner", self.vip_owner, &owners)?;
        config.fence = fence(self.fence)?;
        let loopbacks = [(LVS_LOOPBACK_ALWAYS, Loopback::Always), (LVS_LOOPBACK_BACKUP, Loopback::Backup)];
        config.loopback = choice("loopback", self.loopback, &loopbacks)?;

        let settings = Settings { ignore: self.arp_ignore.into(), announce: self.arp_announce.into() };
        config.arp = match self.arp {
            LVS_ARP_DEFAULT | LVS_ARP_LEAVE if settings != Settings::KERNEL => {
                let reason = "0 was expected unless `arp` is LVS_ARP_INTERFACE or LVS_ARP_ALL";
                return Err(invalid("`arp_ignore` and `arp_announce`", reason));
            }
            LVS_ARP_DEFAULT => config.arp,
            LVS_ARP_LEAVE => None,
            LVS_ARP_INTERFACE => Some(ArpConfig { settings, scope: ArpScope::Reached }),
            LVS_ARP_ALL => Some(ArpConfig { settings, scope: ArpScope::All }),
            other => return Err(invalid(&format!("`arp` {other}"), "one of LVS_ARP_... was expected")),
        };
        if let Some(text) = self.services.optional("services", TABLE)? {
            config.services = Some(text.parse()?);
        }
        if let Some(path) = self.state_dir.optional("state_dir", PATH)? {
            config.state_dir = path.into();
        }
        config.announcements = or_default("announcements", self.announcements, config.announcements)?;
        if let Some(name) = self.sync_interface.optional("sync_interface", PATH)? {
            config.sync.interface = name.to_owned();
        }
        config.sync.group = self.sync_group.optional_address("sync_group")?;
        config.sync.key_file = self.sync_key_file.optional("sync_key_file", PATH)?.map(Into::into);
        config.sync.id = small("sync_id", self.sync_id)?.unwrap_or(config.sync.id);
        config.sync.port = small("sync_port", self.sync_port)?;
        config.sync.ttl = small("sync_ttl", self.sync_ttl)?;
        config.sync.max_length = match self.sync_max_length {
            -1 => None,
            length => small("sync_max_length", length.cast_unsigned())?.or(config.sync.max_length),
        };
        let milliseconds = config.announce_again.as_millis() as u32;
        let milliseconds = or_default("announce_again_ms", self.announce_again_ms, milliseconds)?;
        config.announce_again = Duration::from_millis(milliseconds.into());
        config.group = self.group.optional("group", NAME)?.unwrap_or_default();
        // SAFETY: as many texts as the counts say, by the caller's promise.
        (config.groups, config.marks.macs) = unsafe { (self.group_names(&config.group)?, self.macs()?) };
        if self.marks_base != 0 {
            config.marks.values = MarkValues::new(self.marks_base)?;
        }
        let handlings = [
            (LVS_OWN_REQUESTS_SERVED_HERE, OwnRequests::ServedHere),
            (LVS_OWN_REQUESTS_LEFT_ALONE, OwnRequests::LeftAlone),
        ];
        config.marks.own_requests = choice("own_requests", self.own_requests, &handlings)?;
        let (services, count) = (self.without_listener, self.without_listener_count);
        // SAFETY: as many texts as the count says, by the caller's promise.
        let services = unsafe { texts("without_listener", services, count, MAX_SERVICES, service_id) }?;
        config.without_listener = services.into_iter().collect();
        Ok(config)
    }

    /// # Safety
    /// As [`lvs_node_config::to_config`].
    unsafe fn group_names(self, group: &str) -> Result<BTreeSet<String>> {
        // SAFETY: as many texts as `group_count` says, by the caller's promise.
        let names = unsafe { texts("groups", self.groups, self.group_count, MAX_GROUPS, Text::name) }?;
        if names.is_empty() {
            return Ok([group.to_owned()].into());
        }
        let mut groups = BTreeSet::new();
        for name in names {
            if let Some(twice) = groups.replace(name) {
                return Err(invalid("groups", format!("{twice:?} is named twice")));
            }
        }
        Ok(groups)
    }

    /// # Safety
    /// As [`lvs_node_config::to_config`].
    unsafe fn macs(self) -> Result<BTreeMap<IpAddr, BTreeSet<Mac>>> {
        // SAFETY: as many texts as `peer_mac_count` says, by the caller's promise.
        let pairs = unsafe { texts("peer_macs", self.peer_macs, self.peer_mac_count, MAX_MACS, peer_mac) }?;
        let mut macs: BTreeMap<IpAddr, BTreeSet<Mac>> = BTreeMap::new();
        for (peer, mac) in pairs {
            macs.entry(peer).or_default().insert(mac);
        }
        Ok(macs)
    }
}

/// 0 stands for the default, -1 for none.
fn or_default(name: &str, given: i32, default: u32) -> Result<u32> {
    match given {
        0 => Ok(default),
        -1 => Ok(0),
        number => number
            .try_into()
            .map_err(|_| invalid(&format!("{name} {number}"), "a positive number, 0 or -1 was expected")),
    }
}

/// A number of few bits; 0 stands for the default.
fn small<T: TryFrom<u32>>(name: &str, given: u32) -> Result<Option<T>> {
    match given {
        0 => Ok(None),
        number => {
            let wrong = |_| invalid(&format!("{name} {number}"), "a smaller number was expected");
            number.try_into().map(Some).map_err(wrong)
        }
    }
}

/// Reads a role by its name, in any case: "master", "BACKUP", "fault", "stop". `role`: is set to
/// LVS_ROLE_... Fails with LVS_ERR_INVALID.
#[unsafe(no_mangle)]
pub extern "C" fn lvs_role_from_text(text: Text, role: Option<&mut MaybeUninit<u32>>) -> c_int {
    guard(|| {
        let result = given(role, "role")?;
        put(Some(result), number_of(text.name("text")?.parse()?));
        Ok(())
    })
}

/// Opens a node. Changes nothing yet, and does not block.
///
/// `netns`: the file of the network namespace to work in ("/run/netns/blue"), or NULL for the
/// calling thread's. `config`: the configuration; it is copied. `node`: is set to the node; free
/// it with lvs_node_free(). Fails with LVS_ERR_INVALID, LVS_ERR_PARSE (the services),
/// LVS_ERR_NO_IPVS, and LVS_ERR_NO_INTERFACE. A node that has a role opens without its interface
/// as well: it can take on LVS_ROLE_FAULT or LVS_ROLE_STOP, and be released.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lvs_node_open(
    netns: Text,
    config: *const lvs_node_config,
    node: Option<&mut MaybeUninit<Box<lvs_node>>>,
) -> c_int {
    guard(|| {
        let result = given(node, "node")?;
        // SAFETY: a structure of C's.
        let config = unsafe { read(config)?.to_config()? };
        let node = Node::open_in(config, netns.netns()?)?;
        result.write(Box::new(lvs_node(Held::new(Logged { node, log: None, context: ptr::null_mut() }))));
        Ok(())
    })
}

/// Frees a node. The changes that it made stay; lvs_node_release() takes them back. NULL is
/// ignored.
///
/// A node keeps the packet sockets by which it has announced VIPs and asked for the director, one
/// each. Closing one waits for a grace period of RCU, some 10 ms.
#[unsafe(no_mangle)]
pub extern "C" fn lvs_node_free(node: Option<Box<lvs_node>>) {
    let _ = caught(|| drop(node));
}

/// Sets the function that is told each step of this node's roles, repairs and so on before it is
/// carried out, by the thread that called. `log`: NULL for none. `context`: is passed to `log`.
/// Does not block.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lvs_node_set_log(node: Handle<lvs_node>, log: lvs_log, context: *mut c_void) -> c_int {
    guard(|| {
        let mut node = node.lock("node")?;
        (node.log, node.context) = (log, context);
        Ok(())
    })
}

/// Plans what lvs_node_become_role() would do. Changes nothing, and takes no lock.
///
/// `plan`: is set to a text, a line for each warning and step, empty if nothing is to be done;
/// free it with lvs_text_free(). Fails with LVS_ERR_FOREIGN when a VIP, a mark or a sync daemon
/// belongs to another program, LVS_ERR_INVALID when the kernel lacks what the fence needs,
/// LVS_ERR_STATE when the state directory is damaged, LVS_ERR_NO_INTERFACE.
#[unsafe(no_mangle)]
pub extern "C" fn lvs_node_plan(
    node: Handle<lvs_node>,
    role: u32,
    plan: Option<&mut MaybeUninit<*mut c_char>>,
) -> c_int {
    guard(|| {
        let (mut node, role, result) = (node.lock("node")?, choice("role", role, &ROLES)?, given(plan, "plan")?);
        put_text(Some(result), node.plan(role)?.to_string());
        Ok(())
    })
}

/// Takes on a role. Writes nothing when the role is in place already.
///
/// `done`: is set to the plan that was carried out, as lvs_node_plan() prints it; NULL if it is
/// not needed.
///
/// Requests are numbered, and the last one wins. The call waits up to 30 s for those before it,
/// then fails with LVS_ERR_LOCKED. The work itself: a director that is demoted reads and sends its
/// connections, for 2 s at most; with LVS_FENCE_MARKS the node waits up to 300 ms for the MAC
/// addresses of nodes that it does not know, and up to 50 ms a VIP for the answer of another
/// director.
///
/// Fails as lvs_node_plan(), with LVS_ERR_SUPERSEDED when a later request superseded this one,
/// LVS_ERR_LOCKED, LVS_ERR_NOT_VERIFIED, or the status of the step that failed. After any error
/// the same request or another can be made again, and continues from the state that it finds.
#[unsafe(no_mangle)]
pub extern "C" fn lvs_node_become_role(
    node: Handle<lvs_node>,
    role: u32,
    done: Option<&mut MaybeUninit<*mut c_char>>,
) -> c_int {
    guard(|| {
        let (mut node, role) = (node.lock("node")?, choice("role", role, &ROLES)?);
        node.carry_out(done, |node, before| node.become_role_with(role, before))
    })
}

/// Plans what lvs_node_apply() would do. Changes nothing, and takes no lock. `extent`:
/// LVS_NODE_APPLY_... `plan`: as with lvs_node_plan(). Fails as lvs_node_plan(), and with
/// LVS_ERR_INVALID when the node has no role yet.
#[unsafe(no_mangle)]
pub extern "C" fn lvs_node_plan_apply(
    node: Handle<lvs_node>,
    extent: u32,
    plan: Option<&mut MaybeUninit<*mut c_char>>,
) -> c_int {
    guard(|| {
        let (mut node, extent, result) = (node.lock("node")?, choice("extent", extent, &APPLY)?, given(plan, "plan")?);
        put_text(Some(result), node.plan_apply(extent)?.to_string());
        Ok(())
    })
}

/// Brings the configured `services` into the kernel's table. Destinations are changed in place,
/// and keep their connections. To load changed services, open a node with the new configuration
/// and call this.
///
/// `extent`: LVS_NODE_APPLY_... `done`: as with lvs_node_become_role(). Waits up to 30 s for
/// another process that works on the node. Fails as lvs_node_become_role(), and with
/// LVS_ERR_INVALID when the node has no role yet.
#[unsafe(no_mangle)]
pub extern "C" fn lvs_node_apply(
    node: Handle<lvs_node>,
    extent: u32,
    done: Option<&mut MaybeUninit<*mut c_char>>,
) -> c_int {
    guard(|| {
        let (mut node, extent) = (node.lock("node")?, choice("extent", extent, &APPLY)?);
        node.carry_out(done, |node, before| node.apply(extent, before))
    })
}

/// Gives the node another configuration, for its next task: lvs_node_apply() brings it in, with
/// the smallest change. Does not block.
///
/// `config`: as with lvs_node_open(). Fails as lvs_node_open(), and with LVS_ERR_INVALID for what
/// cannot be changed while the node lives: `state_dir`, `group` and `groups`. The node keeps its
/// configuration then.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lvs_node_reconfigure(node: Handle<lvs_node>, config: *const lvs_node_config) -> c_int {
    guard(|| {
        let mut node = node.lock("node")?;
        // SAFETY: a structure of C's.
        let config = unsafe { read(config)?.to_config()? };
        Ok(node.reconfigure(config)?)
    })
}

/// Plans what lvs_node_weigh() would do. Changes nothing. `plan`: as with lvs_node_plan(). Fails
/// as lvs_node_weigh().
#[unsafe(no_mangle)]
pub extern "C" fn lvs_node_plan_weigh(
    node: Handle<lvs_node>,
    server: Text,
    change: u32,
    weight: u32,
    plan: Option<&mut MaybeUninit<*mut c_char>>,
) -> c_int {
    guard(|| {
        let (mut node, result) = (node.lock("node")?, given(plan, "plan")?);
        let (server, to) = (server.optional_address("server")?, weigh(change, weight)?);
        put_text(Some(result), node.plan_weigh(server, to)?.to_string());
        Ok(())
    })
}

/// Changes the weights of a server in all services of this node's table. Sessions stay. The other
/// nodes have tables of their own: a server is out once it is drained on all.
///
/// `server`: its address, without a port; NULL: this node. `change`: LVS_WEIGH_... `weight`: with
/// LVS_WEIGH_SET the weight, 0 to 2147483647, otherwise 0. `done`: as with lvs_node_become_role().
/// Blocks as lvs_node_become_role(). Fails as that, with LVS_ERR_NO_DESTINATION, and with
/// LVS_ERR_INVALID where a scheduler drops connections while a server has weight 0 (mh and sh
/// without their fallback, dh).
#[unsafe(no_mangle)]
pub extern "C" fn lvs_node_weigh(
    node: Handle<lvs_node>,
    server: Text,
    change: u32,
    weight: u32,
    done: Option<&mut MaybeUninit<*mut c_char>>,
) -> c_int {
    guard(|| {
        let mut node = node.lock("node")?;
        let (server, to) = (server.optional_address("server")?, weigh(change, weight)?);
        node.carry_out(done, |node, before| node.weigh(server, to, before))
    })
}

/// Counts the sessions of a server that this node knows, of the services of its table.
///
/// `server`: its address, without a port; NULL: this node. `sessions`: is filled; set its `size`
/// before. Reads the whole list of connections. Fails as lvs_ipvs_connections().
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lvs_node_sessions(node: Handle<lvs_node>, server: Text, sessions: *mut lvs_sessions) -> c_int {
    guard(|| {
        let (mut node, server) = (node.lock("node")?, server.optional_address("server")?);
        // SAFETY: a structure of C's.
        let place = unsafe { Place::new(sessions) }?;
        let found = node.sessions_of(server)?;
        place.put(lvs_sessions {
            size: size_of::<lvs_sessions>(),
            active: found.active,
            ending: found.ending,
            templates: found.templates,
        });
        Ok(())
    })
}

/// Plans what lvs_node_repair() would do. Changes nothing, and takes no lock. `plan` and the
/// errors: as with lvs_node_plan().
#[unsafe(no_mangle)]
pub extern "C" fn lvs_node_plan_repair(node: Handle<lvs_node>, plan: Option<&mut MaybeUninit<*mut c_char>>) -> c_int {
    guard(|| {
        let (mut node, result) = (node.lock("node")?, given(plan, "plan")?);
        put_text(Some(result), node.plan_repair()?.to_string());
        Ok(())
    })
}

/// Restores what other programs changed: VIPs, ARP settings, sysctls, sync daemons, the rules and
/// services of the marks. Follows changed MAC addresses of other nodes. Loads the configured
/// services if the kernel has none of them; services, destinations and weights that differ stay.
/// Does nothing when the node has no role yet, and supersedes no request for a role.
///
/// `done`: as with lvs_node_become_role(). Waits up to 30 s for another process that works on the
/// node. Fails as lvs_node_become_role().
#[unsafe(no_mangle)]
pub extern "C" fn lvs_node_repair(node: Handle<lvs_node>, done: Option<&mut MaybeUninit<*mut c_char>>) -> c_int {
    guard(|| {
        let mut node = node.lock("node")?;
        node.carry_out(done, |node, before| node.repair(before))
    })
}

/// Stops the node's sync daemons and starts them again. Needed after the sync interface was
/// removed and another one of the same name was made: the kernel's daemons stay with the old one,
/// and then neither send nor receive, without an error. Does nothing when the node runs no sync
/// daemons.
///
/// Waits up to 30 s for another process that works on the node, then fails with LVS_ERR_LOCKED.
/// Fails also with LVS_ERR_STATE, LVS_ERR_NO_INTERFACE, LVS_ERR_PERMISSION.
#[unsafe(no_mangle)]
pub extern "C" fn lvs_node_restart_sync_daemons(node: Handle<lvs_node>) -> c_int {
    guard(|| Ok(node.lock("node")?.restart_sync_daemons()?))
}

/// Sets which other node directs this group's VIPs. With LVS_FENCE_MARKS, packets of connections
/// that this node does not know are sent to that node. For a program that monitors the nodes:
/// lvs_node_become_role() finds the director by itself, but does not notice when it dies later.
///
/// `director`: the address of the node as a destination. NULL: the director is dead or not known,
/// and this node serves such packets itself. Does nothing with LVS_FENCE_CLEAR, and when the node
/// has no role yet. Waits up to 30 s for another process that works on the node, then fails with
/// LVS_ERR_LOCKED. Fails also with LVS_ERR_INVALID for a text that is not an address,
/// LVS_ERR_STATE, LVS_ERR_PERMISSION.
#[unsafe(no_mangle)]
pub extern "C" fn lvs_node_set_director(node: Handle<lvs_node>, director: Text) -> c_int {
    guard(|| {
        let mut node = node.lock("node")?;
        Ok(node.set_director(director.optional_address("director")?)?)
    })
}

/// Sends all connections of the node's services to the sync daemons of the other nodes, also those
/// that were opened before these nodes joined.
///
/// `count`: is set to the number of connections; NULL if it is not needed. Blocks until the
/// kernel's connections are read, which takes a minute for 100000 of them on older kernels, and
/// for 5 ms per 600 connections. Fails with LVS_ERR_SYSTEM when the sync interface is missing
/// (ENODEV), is down (ENETDOWN) or has no address (ENETUNREACH, EADDRNOTAVAIL).
#[unsafe(no_mangle)]
pub extern "C" fn lvs_node_resync(node: Handle<lvs_node>, count: Option<&mut MaybeUninit<usize>>) -> c_int {
    guard(|| {
        put(count, node.lock("node")?.resync()?);
        Ok(())
    })
}

/// Counts the connections of the node's services. Connections that expire within 5 s are ignored.
/// `count`: is set to the number. Blocks until the kernel's connections are read, see
/// lvs_node_resync().
#[unsafe(no_mangle)]
pub extern "C" fn lvs_node_known_connections(node: Handle<lvs_node>, count: Option<&mut MaybeUninit<usize>>) -> c_int {
    guard(|| {
        let (mut node, result) = (node.lock("node")?, given(count, "count")?);
        put(Some(result), node.known_connections()?);
        Ok(())
    })
}

/// Announces the VIPs of a director once more, for neighbours that missed the first announcement.
///
/// Blocks for `announce_again_ms`, then announces. Returns at once when another role is requested,
/// when the node is not a director that owns its VIPs, or when `announce_again_ms` is -1. Fails as
/// lvs_vips_announce(); that the interface is down is not an error here.
#[unsafe(no_mangle)]
pub extern "C" fn lvs_node_announce_again(node: Handle<lvs_node>) -> c_int {
    guard(|| Ok(node.lock("node")?.announce_again()?))
}

/// Places VIPs again that another program has removed, and looks at nothing else: for a program
/// that follows the kernel's notifications (lvs_monitor). `done`, the blocking time and the
/// errors: as with lvs_node_repair().
#[unsafe(no_mangle)]
pub extern "C" fn lvs_node_restore_vips(node: Handle<lvs_node>, done: Option<&mut MaybeUninit<*mut c_char>>) -> c_int {
    guard(|| node.lock("node")?.carry_out(done, |node, _| node.restore_vips()))
}

/// The role that keepalived's VIPs show. `role`: is set to LVS_ROLE_MASTER where all of them are
/// on the interface, LVS_ROLE_BACKUP where none is, and LVS_ROLE_NONE where some are, or the node
/// moves its VIPs itself. Changes nothing.
#[unsafe(no_mangle)]
pub extern "C" fn lvs_node_shown_role(node: Handle<lvs_node>, role: Option<&mut MaybeUninit<u32>>) -> c_int {
    guard(|| {
        let (mut node, result) = (node.lock("node")?, given(role, "role")?);
        put(Some(result), node.shown_role()?.map_or(LVS_ROLE_NONE, number_of));
        Ok(())
    })
}

/// Says why lvs_node_release() would break connections now: the node's table sends new ones to
/// this node, beside other servers. `reason`: is set to a text, to be freed with lvs_text_free(),
/// or to NULL where it breaks none, as far as the table says. Changes nothing. Takes as long as
/// the table is large. The errors are those of lvs_node_plan_release().
#[unsafe(no_mangle)]
pub extern "C" fn lvs_node_still_used(node: Handle<lvs_node>, reason: Option<&mut MaybeUninit<*mut c_char>>) -> c_int {
    guard(|| {
        let (mut node, result) = (node.lock("node")?, given(reason, "reason")?);
        put_text_or_null(Some(result), node.still_used()?);
        Ok(())
    })
}

/// For lvs_node_ask_for_connections(): the director has sent its connections.
pub const LVS_ASKED_LEARNED: u32 = 1;
/// A director was received, and has not sent them in time.
pub const LVS_ASKED_NOT_SENT: u32 = 2;
/// No director was received: an lvs_supervisor answers there.
pub const LVS_ASKED_NO_DIRECTOR: u32 = 3;

/// Asks the director's lvs_supervisor to send all its connections. Blocks for `limit_ms`
/// milliseconds at most.
///
/// `answer`: is set to LVS_ASKED_... `known` and `total`: with LVS_ASKED_LEARNED, are set to how
/// many of how many connections this node knows now, otherwise to 0; NULL if they are not needed.
/// Fails with LVS_ERR_SYSTEM where the sync interface is missing or down, and LVS_ERR_INVALID
/// where the file of the key cannot be used.
#[unsafe(no_mangle)]
pub extern "C" fn lvs_node_ask_for_connections(
    node: Handle<lvs_node>,
    limit_ms: u32,
    answer: Option<&mut MaybeUninit<u32>>,
    known: Option<&mut MaybeUninit<u64>>,
    total: Option<&mut MaybeUninit<u64>>,
) -> c_int {
    guard(|| {
        let (mut node, result) = (node.lock("node")?, given(answer, "answer")?);
        let (number, found, of) = match node.ask_for_connections(Duration::from_millis(limit_ms.into()))? {
            Asked::Learned(learned) => (LVS_ASKED_LEARNED, learned.known, learned.of),
            Asked::NotSent => (LVS_ASKED_NOT_SENT, 0, 0),
            Asked::NoDirector => (LVS_ASKED_NO_DIRECTOR, 0, 0),
        };
        put(Some(result), number);
        put(known, found);
        put(total, of);
        Ok(())
    })
}

/// Plans what lvs_node_release() would do. Changes nothing, and takes no lock. `plan` and the
/// errors: as with lvs_node_plan().
#[unsafe(no_mangle)]
pub extern "C" fn lvs_node_plan_release(node: Handle<lvs_node>, plan: Option<&mut MaybeUninit<*mut c_char>>) -> c_int {
    guard(|| {
        let (mut node, result) = (node.lock("node")?, given(plan, "plan")?);
        put_text(Some(result), node.plan_release()?.to_string());
        Ok(())
    })
}

/// Releases the node: removes the VIPs that it added, and the rules and services of its marks;
/// restores ARP settings and sysctls; keeps or restores the services that it found running;
/// deletes its state. Changes that other programs made since stay. What several groups share is
/// released with the last of them.
///
/// `done`, the blocking time and the errors: as with lvs_node_become_role().
#[unsafe(no_mangle)]
pub extern "C" fn lvs_node_release(node: Handle<lvs_node>, done: Option<&mut MaybeUninit<*mut c_char>>) -> c_int {
    guard(|| {
        let mut node = node.lock("node")?;
        node.carry_out(done, |node, before| node.release(before))
    })
}

#[cfg(test)]
mod tests {
    use super::super::status::{LVS_ERR_INVALID, LVS_ERR_PARSE};
    use super::*;
    use crate::node::SyncConfig;

    // SAFETY: literals are always there.
    const ETH0: fn() -> Text = || unsafe { Text::new(c"eth0".as_ptr()) };

    fn config(vips: &[*const c_char]) -> lvs_node_config {
        lvs_node_config {
            size: size_of::<lvs_node_config>(),
            interface: ETH0(),
            vips: vips.as_ptr(),
            vip_count: vips.len(),
            services: Text::NULL,
            state_dir: Text::NULL,
            vip_owner: 0,
            fence: 0,
            loopback: 0,
            arp: 0,
            arp_ignore: 0,
            arp_announce: 0,
            announcements: 0,
            sync_interface: Text::NULL,
            sync_group: Text::NULL,
            sync_id: 0,
            sync_port: 0,
            sync_ttl: 0,
            sync_max_length: 0,
            group: Text::NULL,
            groups: ptr::null(),
            group_count: 0,
            peer_macs: ptr::null(),
            peer_mac_count: 0,
            announce_again_ms: 0,
            marks_base: 0,
            own_requests: 0,
            sync_key_file: Text::NULL,
            without_listener: ptr::null(),
            without_listener_count: 0,
        }
    }

    fn converted(config: lvs_node_config) -> Result<Config> {
        // SAFETY: the callers' lists are literals, with as many entries as they say.
        unsafe { config.to_config() }
    }

    #[test]
    fn zeros_are_the_defaults() {
        let vips = [c"192.0.2.1".as_ptr(), c"2001:db8::1".as_ptr()];
        let expected = Config::new("eth0", ["192.0.2.1".parse().unwrap(), "2001:db8::1".parse().unwrap()]);
        assert_eq!(converted(config(&vips)).unwrap(), expected);
    }

    #[test]
    fn every_field_is_taken() {
        let vips = [c"192.0.2.1".as_ptr()];
        let table = c"-A -t 192.0.2.1:80 -s wrr\n";
        let groups = [c"mail".as_ptr(), c"my web".as_ptr()];
        let macs = [
            c"10.0.0.2=02:00:00:00:00:02".as_ptr(),
            c"10.0.0.2=02:00:00:00:00:03".as_ptr(),
            c"2001:db8::2=2:0:0:0:0:4".as_ptr(),
        ];
        let unserved = [c"tcp 192.0.2.1:80".as_ptr(), c"udp 192.0.2.1:53".as_ptr()];
        let full = lvs_node_config {
            // SAFETY: literals are always there.
            services: unsafe { Text::new(table.as_ptr()) },
            // SAFETY: as above.
            state_dir: unsafe { Text::new(c"/run/x".as_ptr()) },
            vip_owner: LVS_VIP_OWNER_KEEPALIVED,
            fence: LVS_FENCE_CLEAR,
            loopback: LVS_LOOPBACK_BACKUP,
            arp: LVS_ARP_ALL,
            arp_ignore: 3,
            arp_announce: 2,
            announcements: -1,
            // SAFETY: as above.
            sync_interface: unsafe { Text::new(c"eth1".as_ptr()) },
            // SAFETY: as above.
            sync_group: unsafe { Text::new(c"ff02::51".as_ptr()) },
            sync_id: 7,
            sync_port: 9000,
            sync_ttl: 2,
            sync_max_length: -1,
            // SAFETY: as above.
            group: unsafe { Text::new(c"my web".as_ptr()) },
            groups: groups.as_ptr(),
            group_count: groups.len(),
            peer_macs: macs.as_ptr(),
            peer_mac_count: macs.len(),
            announce_again_ms: 3000,
            marks_base: 0x100,
            own_requests: LVS_OWN_REQUESTS_LEFT_ALONE,
            // SAFETY: as above.
            sync_key_file: unsafe { Text::new(c"/etc/lvs-dr/key".as_ptr()) },
            without_listener: unserved.as_ptr(),
            without_listener_count: unserved.len(),
            ..config(&vips)
        };
        let found = converted(full).unwrap();
        assert_eq!(found.services.unwrap().to_string(), table.to_str().unwrap());
        assert_eq!(found.state_dir.to_str().unwrap(), "/run/x");
        assert_eq!(
            (found.vip_owner, found.fence, found.loopback, found.announcements),
            (VipOwner::Keepalived, Fence::Clear, Loopback::Backup, 0)
        );
        let sync = SyncConfig {
            interface: "eth1".into(),
            id: 7,
            group: Some("ff02::51".parse().unwrap()),
            port: Some(9000),
            ttl: Some(2),
            max_length: None,
            key_file: Some("/etc/lvs-dr/key".into()),
        };
        assert_eq!(found.sync, sync);
        assert_eq!(found.announce_again, Duration::from_secs(3));
        assert_eq!((found.group.as_str(), found.groups), ("my web", ["mail".to_owned(), "my web".to_owned()].into()));
        assert_eq!(found.marks.values, MarkValues::new(0x100).unwrap());
        assert_eq!(found.marks.own_requests, OwnRequests::LeftAlone);
        let expected = ["tcp 192.0.2.1:80", "udp 192.0.2.1:53"].map(|id| id.parse().unwrap());
        assert_eq!(found.without_listener, expected.into());
        let mac = |last| Mac([2, 0, 0, 0, 0, last]);
        let expected = [("10.0.0.2", vec![mac(2), mac(3)]), ("2001:db8::2", vec![mac(4)])];
        let expected = expected.map(|(peer, macs)| (peer.parse().unwrap(), macs.into_iter().collect()));
        assert_eq!(found.marks.macs, expected.into());
        let settings = Settings { ignore: 3.into(), announce: 2.into() };
        assert_eq!(found.arp, Some(ArpConfig { settings, scope: ArpScope::All }));
        let on_interface = converted(lvs_node_config { arp: LVS_ARP_INTERFACE, ..full }).unwrap();
        assert_eq!(on_interface.arp.unwrap().scope, ArpScope::Reached);
        assert_eq!(converted(lvs_node_config { arp: LVS_ARP_LEAVE, ..config(&vips) }).unwrap().arp, None);
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        let vips = [c"192.0.2.1".as_ptr()];
        let good = config(&vips);
        let of_null = [ptr::null()];
        let twice = [c"web".as_ptr(), c"web".as_ptr()];
        for (wrong, status) in [
            (lvs_node_config { interface: Text::NULL, ..good }, LVS_ERR_NULL),
            (lvs_node_config { vips: ptr::null(), ..good }, LVS_ERR_NULL),
            (config(&of_null), LVS_ERR_NULL),
            (config(&[c"192.0.2.1/32".as_ptr()]), LVS_ERR_INVALID),
            (lvs_node_config { vip_count: MAX_VIPS + 1, ..good }, LVS_ERR_INVALID),
            (lvs_node_config { services: ETH0(), ..good }, LVS_ERR_PARSE),
            (lvs_node_config { vip_owner: 3, ..good }, LVS_ERR_INVALID),
            (lvs_node_config { fence: 99, ..good }, LVS_ERR_INVALID),
            (lvs_node_config { loopback: 2, ..good }, LVS_ERR_INVALID),
            (lvs_node_config { arp: 4, ..good }, LVS_ERR_INVALID),
            (lvs_node_config { arp_ignore: 3, ..good }, LVS_ERR_INVALID),
            (lvs_node_config { arp: LVS_ARP_LEAVE, arp_announce: 2, ..good }, LVS_ERR_INVALID),
            (lvs_node_config { announcements: -2, ..good }, LVS_ERR_INVALID),
            (lvs_node_config { sync_id: 256, ..good }, LVS_ERR_INVALID),
            (lvs_node_config { sync_port: 65536, ..good }, LVS_ERR_INVALID),
            (lvs_node_config { sync_max_length: -2, ..good }, LVS_ERR_INVALID),
            (lvs_node_config { announce_again_ms: -2, ..good }, LVS_ERR_INVALID),
            (lvs_node_config { group_count: 1, ..good }, LVS_ERR_NULL),
            (lvs_node_config { groups: of_null.as_ptr(), group_count: 1, ..good }, LVS_ERR_NULL),
            (lvs_node_config { groups: twice.as_ptr(), group_count: 2, ..good }, LVS_ERR_INVALID),
            (lvs_node_config { groups: twice.as_ptr(), group_count: MAX_GROUPS + 1, ..good }, LVS_ERR_INVALID),
            (lvs_node_config { peer_mac_count: 1, ..good }, LVS_ERR_NULL),
            (lvs_node_config { peer_macs: twice.as_ptr(), peer_mac_count: 1, ..good }, LVS_ERR_INVALID),
            (lvs_node_config { peer_macs: twice.as_ptr(), peer_mac_count: MAX_MACS + 1, ..good }, LVS_ERR_INVALID),
            (lvs_node_config { marks_base: u32::MAX, ..good }, LVS_ERR_INVALID),
            (lvs_node_config { own_requests: 2, ..good }, LVS_ERR_INVALID),
            (lvs_node_config { without_listener_count: 1, ..good }, LVS_ERR_NULL),
            (lvs_node_config { without_listener: twice.as_ptr(), without_listener_count: 1, ..good }, LVS_ERR_INVALID),
        ] {
            let failure = converted(wrong).unwrap_err();
            assert_eq!(failure.status, status, "{failure:?}");
        }
        // No VIP at all is for the node to refuse.
        assert!(converted(lvs_node_config { vips: ptr::null(), vip_count: 0, ..good }).unwrap().check().is_err());
    }

    #[test]
    fn fences_that_are_gone_say_what_to_pass() {
        let vips = [c"192.0.2.1".as_ptr()];
        for (number, name) in [(2, "quiesce"), (3, "stateless"), (4, "backup-only")] {
            let failure = converted(lvs_node_config { fence: number, ..config(&vips) }).unwrap_err();
            assert_eq!(failure.status, LVS_ERR_INVALID);
            let expected = format!(
                "`fence` {number} ({name}) is not usable: LVS_FENCE_MARKS supersedes it: pass LVS_FENCE_MARKS (5) or \
                 LVS_FENCE_DEFAULT (0)"
            );
            assert_eq!(failure.message, expected);
        }
        for number in [LVS_FENCE_DEFAULT, LVS_FENCE_MARKS] {
            let found = converted(lvs_node_config { fence: number, ..config(&vips) }).unwrap();
            assert_eq!(found.fence, Fence::Marks);
        }
    }

    #[test]
    fn a_group_alone_is_the_only_one_and_must_be_listed_otherwise() {
        let vips = [c"192.0.2.1".as_ptr()];
        // SAFETY: literals are always there.
        let named = lvs_node_config { group: unsafe { Text::new(c"web".as_ptr()) }, ..config(&vips) };
        let found = converted(named).unwrap();
        assert_eq!((found.group.as_str(), &found.groups), ("web", &["web".to_owned()].into()));
        found.check().unwrap();
        let others = [c"mail".as_ptr()];
        let unlisted = lvs_node_config { groups: others.as_ptr(), group_count: 1, ..named };
        assert!(converted(unlisted).unwrap().check().is_err());
    }
}
