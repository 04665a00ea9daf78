//! A node of the cluster: its configuration, roles, status.

use std::ffi::{c_char, c_int};
use std::fmt::Write;
use std::mem::{MaybeUninit, size_of};
use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use super::ffi::{Grows, PATH, Place, Result, TABLE, Text, choice, given, invalid, put, put_text, read};
use super::status::{Failure, LVS_ERR_NULL, caught, guard};
use crate::arp::{ArpTarget, Settings};
use crate::node::{ArpConfig, Config, Fence, Loopback, Node, Role, Status, VipOwner};

/// No role yet.
pub const LVS_ROLE_NONE: u32 = 0;
/// Directs, and serves.
pub const LVS_ROLE_MASTER: u32 = 1;
/// Serves what the director sends it.
pub const LVS_ROLE_BACKUP: u32 = 2;
/// As a backup: VRRP found a fault.
pub const LVS_ROLE_FAULT: u32 = 3;
/// As a backup: VRRP was stopped. The node goes on serving; see lvs_node_release().
pub const LVS_ROLE_STOP: u32 = 4;

/// The node puts the VIP on the interface, announces it, and takes it off.
pub const LVS_VIP_OWNER_NODE: u32 = 0;
/// keepalived does, or whoever elects the director; the node cares for the loopback VIP only.
pub const LVS_VIP_OWNER_KEEPALIVED: u32 = 1;

/// What this version thinks best: LVS_FENCE_QUIESCE.
pub const LVS_FENCE_DEFAULT: u32 = 0;
/// A backup has no table: it is kept in the state directory, and restored on promotion.
pub const LVS_FENCE_CLEAR: u32 = 1;
/// A backup has the same table, in which every server but itself has weight 0, and learns the director's connections.
pub const LVS_FENCE_QUIESCE: u32 = 2;
/// Every node has the same table, with scheduler mh, mh-port and mh-fallback; nothing is fenced.
pub const LVS_FENCE_STATELESS: u32 = 3;
/// Every node has the same table, and the kernel's switch `backup_only`; only with LVS_VIP_OWNER_NODE.
pub const LVS_FENCE_BACKUP_ONLY: u32 = 4;

/// The VIP is always on `lo`; on the director it is on the interface as well.
pub const LVS_LOOPBACK_ALWAYS: u32 = 0;
/// The VIP is on `lo` of backups only.
pub const LVS_LOOPBACK_BACKUP: u32 = 1;

/// arp_ignore 1 and arp_announce 2 on the interface.
pub const LVS_ARP_DEFAULT: u32 = 0;
/// ARP settings are left alone.
pub const LVS_ARP_LEAVE: u32 = 1;
/// `arp_ignore` and `arp_announce` on the interface.
pub const LVS_ARP_INTERFACE: u32 = 2;
/// `arp_ignore` and `arp_announce` for all interfaces.
pub const LVS_ARP_ALL: u32 = 3;

/// A node of the cluster.
pub struct lvs_node(Node);

/// What a node is to be. All that is 0 or NULL is left to this library, but for the first four fields.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct lvs_node_config {
    /// sizeof(struct lvs_node_config).
    pub size: usize,
    /// The interface that clients reach, and that holds the director's VIP.
    pub interface: Text,
    /// The VIPs: "192.168.0.254", without a prefix length.
    pub vips: *const *const c_char,
    /// How many VIPs there are, 1 to 4096.
    pub vip_count: usize,
    /// The director's table, as `ipvsadm -Sn` prints it: these services and no others are the node's. NULL: the
    /// table that is found running is the one that is kept.
    pub services: Text,
    /// Where the node keeps its state: a directory for root alone, one for each node. NULL: "/run/lvs-dr".
    pub state_dir: Text,
    /// The interface that sync messages pass, with LVS_FENCE_QUIESCE and LVS_FENCE_BACKUP_ONLY. NULL: `interface`.
    pub sync_interface: Text,
    /// Their multicast group. NULL: "224.0.0.81".
    pub sync_group: Text,
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
    /// How many announcements follow the VIP to the interface. 0: 5. -1: none.
    pub announcements: i32,
    /// Which nodes belong together, 1 to 255. 0: the last number of the first VIP.
    pub sync_id: u32,
    /// The UDP port of sync messages, in host byte order. 0: 8848.
    pub sync_port: u32,
    /// How many routers they may pass, 1 to 255. 0: 1.
    pub sync_ttl: u32,
    /// What makes them full, in octets: 1 tells of each connection at once. 0: 1. -1: the kernel's choice, 1472.
    pub sync_max_length: i32,
    /// With LVS_FENCE_QUIESCE: for how many milliseconds a new director takes new connections itself. 0: 500. -1: none.
    pub settle_ms: i32,
    /// With LVS_FENCE_BACKUP_ONLY: for how many milliseconds a former director goes on forwarding. 0: 1000. -1: none.
    pub drain_ms: i32,
    /// After how many milliseconds lvs_node_announce_again() announces. 0: 5000. -1: never.
    pub announce_again_ms: i32,
}

// SAFETY: `repr(C)`, numbers, pointers and texts; that there is no padding follows from its size, which is checked here.
unsafe impl Grows for lvs_node_config {
    const NAME: &'static str = "lvs_node_config";
    const FIRST: usize = size_of::<[usize; 8]>() + size_of::<[u32; 14]>();
}
const _: () = assert!(size_of::<lvs_node_config>() == lvs_node_config::FIRST);

/// What a node is.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct lvs_node_status {
    /// sizeof(struct lvs_node_status).
    pub size: usize,
    /// How many steps are missing for the role to be in place.
    pub missing: usize,
    /// How many warnings there are.
    pub warnings: usize,
    /// How many services the kernel's table has.
    pub services: usize,
    /// The number of the last request.
    pub generation: u64,
    /// The role that was asked for last: LVS_ROLE_...
    pub role: u32,
    /// 1: it was reached.
    pub reached: u32,
    /// 1: ARP requests for a VIP on `lo` stay unanswered.
    pub hidden: u32,
    /// 0.
    pub reserved: u32,
}

// SAFETY: as for `lvs_node_config`.
unsafe impl Grows for lvs_node_status {
    const NAME: &'static str = "lvs_node_status";
    const FIRST: usize = 4 * size_of::<usize>() + 8 + 4 * 4;
}
const _: () = assert!(size_of::<lvs_node_status>() == lvs_node_status::FIRST);

const ROLES: [(u32, Role); 4] = [
    (LVS_ROLE_MASTER, Role::Master),
    (LVS_ROLE_BACKUP, Role::Backup),
    (LVS_ROLE_FAULT, Role::Fault),
    (LVS_ROLE_STOP, Role::Stop),
];

const MOST_VIPS: usize = 4096;

fn number_of(role: Role) -> u32 {
    ROLES.iter().find(|(_, known)| *known == role).map_or(LVS_ROLE_NONE, |(number, _)| *number)
}

/// # Safety
/// `list` is NULL or has as many entries as `count` says, each NULL or a text.
unsafe fn addresses(name: &str, list: *const *const c_char, count: usize) -> Result<Vec<IpAddr>> {
    if count > MOST_VIPS {
        return Err(invalid(&format!("{count} {name}"), format!("at most {MOST_VIPS} were expected")));
    }
    if list.is_null() && count > 0 {
        return Err(Failure::new(LVS_ERR_NULL, format!("`{name}` is NULL")));
    }
    let address = |index| {
        // SAFETY: the entry is there, and a text, by the caller's promise.
        let text = unsafe { Text::new(list.add(index).read()) };
        text.address(&format!("{name}[{index}]"))
    };
    (0..count).map(address).collect()
}

impl lvs_node_config {
    /// # Safety
    /// `vips` is NULL or has as many entries as `vip_count` says, each NULL or a text.
    pub(super) unsafe fn to_config(self) -> Result<Config> {
        let interface = self.interface.name("interface")?;
        // SAFETY: as many texts as `vip_count` says, by the caller's promise.
        let vips = unsafe { addresses("vips", self.vips, self.vip_count) }?;
        let mut config = Config::new(&interface, vips);

        let owners = [(LVS_VIP_OWNER_NODE, VipOwner::Node), (LVS_VIP_OWNER_KEEPALIVED, VipOwner::Keepalived)];
        config.vip_owner = choice("vip_owner", self.vip_owner, &owners)?;
        let fences = [
            (LVS_FENCE_DEFAULT, Fence::default()),
            (LVS_FENCE_CLEAR, Fence::Clear),
            (LVS_FENCE_QUIESCE, Fence::Quiesce),
            (LVS_FENCE_STATELESS, Fence::Stateless),
            (LVS_FENCE_BACKUP_ONLY, Fence::BackupOnly),
        ];
        config.fence = choice("fence", self.fence, &fences)?;
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
            LVS_ARP_INTERFACE => Some(ArpConfig { settings, target: ArpTarget::Interface(interface) }),
            LVS_ARP_ALL => Some(ArpConfig { settings, target: ArpTarget::All }),
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
        config.sync.group = match self.sync_group.optional("sync_group", PATH)? {
            Some(_) => Some(self.sync_group.address("sync_group")?),
            None => None,
        };
        config.sync.id = small("sync_id", self.sync_id)?.unwrap_or(config.sync.id);
        config.sync.port = small("sync_port", self.sync_port)?;
        config.sync.ttl = small("sync_ttl", self.sync_ttl)?;
        config.sync.max_length = match self.sync_max_length {
            -1 => None,
            length => small("sync_max_length", length.cast_unsigned())?.or(config.sync.max_length),
        };
        for (name, given, time) in [
            ("settle_ms", self.settle_ms, &mut config.settle),
            ("drain_ms", self.drain_ms, &mut config.drain),
            ("announce_again_ms", self.announce_again_ms, &mut config.announce_again),
        ] {
            let milliseconds = or_default(name, given, time.as_millis() as u32)?;
            *time = Duration::from_millis(milliseconds.into());
        }
        Ok(config)
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

/// What a role is called, in any case: "master", "BACKUP", "fault", "stop". `role`: is set to LVS_ROLE_...
/// Fails with LVS_ERR_INVALID.
#[unsafe(no_mangle)]
pub extern "C" fn lvs_role_from_text(text: Text, role: Option<&mut MaybeUninit<u32>>) -> c_int {
    guard(|| {
        let result = given(role, "role")?;
        put(Some(result), number_of(text.name("text")?.parse()?));
        Ok(())
    })
}

/// Opens a node. Nothing is changed yet.
///
/// `netns`: the file of the network namespace to work in ("/run/netns/blue"), or NULL for the calling thread's.
/// `config`: what the node is to be; it is copied. `node`: is set to the node; free it with lvs_node_free().
/// Fails with LVS_ERR_INVALID, LVS_ERR_PARSE (the services), LVS_ERR_NO_IPVS, and, where the node has no role yet,
/// LVS_ERR_NO_INTERFACE: one that loses its interface can still take on fault or stop, and be released.
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
        result.write(Box::new(lvs_node(Node::open_in(config, netns.netns()?)?)));
        Ok(())
    })
}

/// Ends the use of a node. What it has changed stays: see lvs_node_release(). NULL does nothing.
#[unsafe(no_mangle)]
pub extern "C" fn lvs_node_free(node: Option<Box<lvs_node>>) {
    let _ = caught(|| drop(node));
}

/// Says what lvs_node_become_role() would do, and changes nothing. `plan`: is set to a text, a line for each
/// warning and step, empty where nothing is to be done; free it with lvs_text_free(). Fails with
/// LVS_ERR_FOREIGN, LVS_ERR_STATE.
#[unsafe(no_mangle)]
pub extern "C" fn lvs_node_plan(
    node: Option<&mut lvs_node>,
    role: u32,
    plan: Option<&mut MaybeUninit<*mut c_char>>,
) -> c_int {
    guard(|| {
        let (node, role, result) = (given(node, "node")?, choice("role", role, &ROLES)?, given(plan, "plan")?);
        put_text(Some(result), node.0.plan(role)?.to_string());
        Ok(())
    })
}

/// Takes on a role. Where all is in place already, nothing is written.
///
/// `done`: is set to the plan that was carried out, as lvs_node_plan() gives it; NULL if it is of no interest.
/// Fails as lvs_node_plan(), with LVS_ERR_OVERTAKEN when a later request came while this one waited,
/// LVS_ERR_LOCKED, LVS_ERR_NOT_VERIFIED, or with the status of the step that failed. Whatever the error, the
/// same request or another can be made again, and goes on from what is there.
#[unsafe(no_mangle)]
pub extern "C" fn lvs_node_become_role(
    node: Option<&mut lvs_node>,
    role: u32,
    done: Option<&mut MaybeUninit<*mut c_char>>,
) -> c_int {
    guard(|| {
        let (node, role) = (given(node, "node")?, choice("role", role, &ROLES)?);
        put_text(done, node.0.become_role(role)?.to_string());
        Ok(())
    })
}

/// Prepares a director to give up the VIP, so that no session notices when it does: new connections go to the
/// successor from now on, and the other nodes are told of all that there are. It stays the director until
/// another role is asked for: LVS_ROLE_BACKUP once the VIP has moved, LVS_ROLE_MASTER if it did not.
///
/// `successors`: who directs next, most likely first, as addresses of destinations; NULL if `count` is 0: any.
/// `done` and the errors are as with lvs_node_become_role(); also LVS_ERR_INVALID where this node does not direct.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lvs_node_prepare_handover(
    node: Option<&mut lvs_node>,
    successors: *const *const c_char,
    count: usize,
    done: Option<&mut MaybeUninit<*mut c_char>>,
) -> c_int {
    guard(|| {
        let node = given(node, "node")?;
        // SAFETY: as many texts as `count` says, by the caller's promise.
        let successors = unsafe { addresses("successors", successors, count) }?;
        put_text(done, node.0.prepare_handover(&successors, |_| ())?.to_string());
        Ok(())
    })
}

/// Takes on LVS_ROLE_MASTER beside another director: with LVS_FENCE_QUIESCE this node's own server takes all that is
/// new, and what it knows it forwards, so that two directors do no harm. lvs_node_become_role() with
/// LVS_ROLE_MASTER ends that. `done` and the errors are as there.
#[unsafe(no_mangle)]
pub extern "C" fn lvs_node_direct_beside_another(
    node: Option<&mut lvs_node>,
    done: Option<&mut MaybeUninit<*mut c_char>>,
) -> c_int {
    guard(|| {
        let node = given(node, "node")?;
        put_text(done, node.0.direct_beside_another(|_| ())?.to_string());
        Ok(())
    })
}

/// Tells the other nodes of all connections of this node's services, also of those made before they were there.
/// `count`: is set to how many these were; NULL if it is of no interest. Fails with LVS_ERR_INVALID where the
/// fence does not synchronise, LVS_ERR_SYSTEM where the sync interface is down, say.
#[unsafe(no_mangle)]
pub extern "C" fn lvs_node_resync(node: Option<&mut lvs_node>, count: Option<&mut MaybeUninit<usize>>) -> c_int {
    guard(|| {
        put(count, given(node, "node")?.0.resync()?);
        Ok(())
    })
}

/// Counts the connections of its services that this node knows, and that last a few seconds yet. `count`: is set.
#[unsafe(no_mangle)]
pub extern "C" fn lvs_node_known_connections(
    node: Option<&mut lvs_node>,
    count: Option<&mut MaybeUninit<usize>>,
) -> c_int {
    guard(|| {
        let (node, result) = (given(node, "node")?, given(count, "count")?);
        put(Some(result), node.0.known_connections()?);
        Ok(())
    })
}

/// Looks for what is set up so that it harms, or will at the next failover, and changes nothing.
///
/// `keepalived`: the path of keepalived's file, or NULL. `count`: is set to how many findings there are. `findings`:
/// is set to a text, for each finding its severity, kind, reason and remedy; free it with lvs_text_free(); NULL if
/// it is of no interest.
#[unsafe(no_mangle)]
pub extern "C" fn lvs_node_audit(
    node: Option<&mut lvs_node>,
    keepalived: Text,
    count: Option<&mut MaybeUninit<usize>>,
    findings: Option<&mut MaybeUninit<*mut c_char>>,
) -> c_int {
    guard(|| {
        let (node, result) = (given(node, "node")?, given(count, "count")?);
        let path = keepalived.optional("keepalived", PATH)?;
        let found = node.0.audit(path.as_deref().map(Path::new))?;
        put(Some(result), found.len());
        put_text(findings, found.iter().map(|finding| format!("{finding}\n")).collect::<String>());
        Ok(())
    })
}

/// Announces the VIPs of a director once more, `announce_again_ms` after its role was reached: a neighbour may
/// have missed the first announcement. It returns when that is done, or at once when another role is asked for
/// or there is nothing to announce. Fails as lvs_vips_announce().
#[unsafe(no_mangle)]
pub extern "C" fn lvs_node_announce_again(node: Option<&mut lvs_node>) -> c_int {
    guard(|| Ok(given(node, "node")?.0.announce_again()?))
}

/// Says what lvs_node_release() would do, and changes nothing. Otherwise as lvs_node_plan().
#[unsafe(no_mangle)]
pub extern "C" fn lvs_node_plan_release(
    node: Option<&mut lvs_node>,
    plan: Option<&mut MaybeUninit<*mut c_char>>,
) -> c_int {
    guard(|| {
        let (node, result) = (given(node, "node")?, given(plan, "plan")?);
        put_text(Some(result), node.0.plan_release()?.to_string());
        Ok(())
    })
}

/// Takes the node out: VIPs that it placed go, ARP settings get back the values that they had, a table that was
/// found running is put back, and what is remembered is forgotten. What others have changed since stays. `done`
/// and the errors are as with lvs_node_become_role().
#[unsafe(no_mangle)]
pub extern "C" fn lvs_node_release(node: Option<&mut lvs_node>, done: Option<&mut MaybeUninit<*mut c_char>>) -> c_int {
    guard(|| {
        let node = given(node, "node")?;
        put_text(done, node.0.release(|_| ())?.to_string());
        Ok(())
    })
}

/// Says what the node is, and changes nothing. Where each VIP sits, lvs_vips_locate() tells.
///
/// `status` is filled; set its `size` before. `details`: is set to a text, a line for each missing step
/// ("missing: ...") and each warning ("warning: ..."); free it with lvs_text_free(); NULL if it is of no
/// interest. Fails with LVS_ERR_STATE.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lvs_node_get_status(
    node: Option<&mut lvs_node>,
    status: *mut lvs_node_status,
    details: Option<&mut MaybeUninit<*mut c_char>>,
) -> c_int {
    guard(|| {
        let node = given(node, "node")?;
        // SAFETY: a structure of C's.
        let place = unsafe { Place::new(status) }?;
        let found = node.0.status()?;
        put_text(details, lines(&found));
        place.put(lvs_node_status {
            size: size_of::<lvs_node_status>(),
            missing: found.missing.len(),
            warnings: found.warnings.len(),
            services: found.table.len(),
            generation: found.generation,
            role: found.role.map_or(LVS_ROLE_NONE, |(role, _)| number_of(role)),
            reached: found.role.is_some_and(|(_, reached)| reached).into(),
            hidden: found.hidden.into(),
            reserved: 0,
        });
        Ok(())
    })
}

fn lines(status: &Status) -> String {
    let mut text = String::new();
    for (word, lines) in [("missing", &status.missing), ("warning", &status.warnings)] {
        for line in lines {
            let _ = writeln!(text, "{word}: {line}");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::super::status::{LVS_ERR_INVALID, LVS_ERR_PARSE};
    use super::*;
    use crate::node::Sync;
    use std::ptr;

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
            settle_ms: 0,
            drain_ms: 0,
            announce_again_ms: 0,
        }
    }

    fn converted(config: lvs_node_config) -> Result<Config> {
        // SAFETY: the callers' VIPs are literals, as many as they say.
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
            settle_ms: 20,
            drain_ms: -1,
            announce_again_ms: 3000,
            ..config(&vips)
        };
        let found = converted(full).unwrap();
        assert_eq!(found.services.unwrap().to_string(), table.to_str().unwrap());
        assert_eq!(found.state_dir.to_str().unwrap(), "/run/x");
        assert_eq!(
            (found.vip_owner, found.fence, found.loopback, found.announcements),
            (VipOwner::Keepalived, Fence::Clear, Loopback::Backup, 0)
        );
        let sync = Sync {
            interface: "eth1".into(),
            id: 7,
            group: Some("ff02::51".parse().unwrap()),
            port: Some(9000),
            ttl: Some(2),
            max_length: None,
        };
        assert_eq!(found.sync, sync);
        let times = [found.settle, found.drain, found.announce_again].map(|time| time.as_millis());
        assert_eq!(times, [20, 0, 3000]);
        let settings = Settings { ignore: 3.into(), announce: 2.into() };
        assert_eq!(found.arp, Some(ArpConfig { settings, target: ArpTarget::All }));
        let on_interface = converted(lvs_node_config { arp: LVS_ARP_INTERFACE, ..full }).unwrap();
        assert_eq!(on_interface.arp.unwrap().target, ArpTarget::Interface("eth0".into()));
        assert_eq!(converted(lvs_node_config { arp: LVS_ARP_LEAVE, ..config(&vips) }).unwrap().arp, None);
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        let vips = [c"192.0.2.1".as_ptr()];
        let good = config(&vips);
        let of_null = [ptr::null()];
        for (wrong, status) in [
            (lvs_node_config { interface: Text::NULL, ..good }, LVS_ERR_NULL),
            (lvs_node_config { vips: ptr::null(), ..good }, LVS_ERR_NULL),
            (config(&of_null), LVS_ERR_NULL),
            (config(&[c"192.0.2.1/32".as_ptr()]), LVS_ERR_INVALID),
            (lvs_node_config { vip_count: MOST_VIPS + 1, ..good }, LVS_ERR_INVALID),
            (lvs_node_config { services: ETH0(), ..good }, LVS_ERR_PARSE),
            (lvs_node_config { vip_owner: 2, ..good }, LVS_ERR_INVALID),
            (lvs_node_config { fence: 99, ..good }, LVS_ERR_INVALID),
            (lvs_node_config { loopback: 2, ..good }, LVS_ERR_INVALID),
            (lvs_node_config { arp: 4, ..good }, LVS_ERR_INVALID),
            (lvs_node_config { arp_ignore: 3, ..good }, LVS_ERR_INVALID),
            (lvs_node_config { arp: LVS_ARP_LEAVE, arp_announce: 2, ..good }, LVS_ERR_INVALID),
            (lvs_node_config { announcements: -2, ..good }, LVS_ERR_INVALID),
            (lvs_node_config { sync_id: 256, ..good }, LVS_ERR_INVALID),
            (lvs_node_config { sync_port: 65536, ..good }, LVS_ERR_INVALID),
            (lvs_node_config { sync_max_length: -2, ..good }, LVS_ERR_INVALID),
            (lvs_node_config { settle_ms: -2, ..good }, LVS_ERR_INVALID),
        ] {
            let failure = converted(wrong).unwrap_err();
            assert_eq!(failure.status, status, "{failure:?}");
        }
        // No VIP at all is for the node to refuse.
        assert!(converted(lvs_node_config { vips: ptr::null(), vip_count: 0, ..good }).unwrap().check().is_err());
    }
}
