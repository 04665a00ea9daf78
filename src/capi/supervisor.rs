//! A supervisor for a program with a loop of its own.

use std::ffi::{CString, c_char, c_int};
use std::mem::{MaybeUninit, size_of};
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::ptr;
use std::time::{Duration, Instant};

use super::ffi::{
    Grows, Handle, Held, NAME, Opened, PATH, Place, Result, Text, c_text, choice, entry, given, invalid, put, put_text,
    read, read_all, reserved,
};
use super::node::{LVS_ROLE_NONE, ROLES, lvs_node_config, number_of};
use super::report::lvs_texts;
use super::status::{caught, guard};
use crate::node::{Config, Learned, Node, Notice, OtherNode, Supervisor, SupervisorConfig};

/// For lvs_supervisor_config: roles only. Nothing is repaired, and the other nodes are not heard.
pub const LVS_SUPERVISOR_ONLY_ROLES: u32 = 0x1;

/// There is no notice at present.
pub const LVS_NOTICE_NONE: u32 = 0;
/// This step of a role is carried out next, or was carried out when a role was tried again.
pub const LVS_NOTICE_STEP: u32 = 1;
/// What other programs have changed in `group` is set right.
pub const LVS_NOTICE_REPAIR: u32 = 2;
/// keepalived's VIPs show that `group` has `role`, which was not notified. It is taken on.
pub const LVS_NOTICE_SHOWN: u32 = 3;
/// The node has learned `count` of `total` connections of the director, as far as it does.
pub const LVS_NOTICE_LEARNED: u32 = 4;
/// `count` connections were sent to the other nodes.
pub const LVS_NOTICE_RESYNCED: u32 = 5;
/// The node takes part in elections (`count` is 1), or stays out until it knows the director's
/// connections (0).
pub const LVS_NOTICE_ELECTIONS: u32 = 6;
/// Another node directs `group` (`count` is 1), or the one that did is not received any more (0).
pub const LVS_NOTICE_DIRECTOR: u32 = 7;
/// The sync daemons were started again, as their interface was made anew.
pub const LVS_NOTICE_SYNC_RESTARTED: u32 = 8;
/// What an operator should know.
pub const LVS_NOTICE_WARNING: u32 = 9;
/// What has failed, and why. It is tried again.
pub const LVS_NOTICE_FAILURE: u32 = 10;
/// A notice that this version of the interface has no number for.
pub const LVS_NOTICE_OTHER: u32 = 11;

/// In lvs_notice: it is about no single group.
pub const LVS_NO_GROUP: u32 = 0xffff_ffff;

const MAX_NODES: usize = 255;

/// Supervises a node, all its groups: follows keepalived, repairs, tells and hears the other nodes,
/// as `lvs-node watch` does.
pub struct lvs_supervisor {
    held: Held<Supervised>,
    descriptor: RawFd,
}

impl Opened for lvs_supervisor {
    type Value = Supervised;

    fn held(&self) -> &Held<Supervised> {
        &self.held
    }
}

/// A supervisor, and the names of its groups.
pub(super) struct Supervised {
    supervisor: Supervisor,
    groups: Vec<String>,
}

/// What is supervised.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct lvs_supervisor_config {
    /// sizeof(struct lvs_supervisor_config).
    pub size: usize,
    /// keepalived's `notify_fifo`. NULL: roles come by lvs_supervisor_request(), or from other
    /// processes.
    pub fifo: Text,
    /// The VRRP instance whose states count for a node without groups. NULL: every instance's. A
    /// group is named as its instance.
    pub instance: Text,
    /// The file that keepalived watches (`track_file`): the node stays out of elections until it
    /// knows the director's connections. NULL: it always takes part.
    pub track_file: Text,
    /// LVS_SUPERVISOR_...
    pub flags: u32,
    /// 0.
    pub reserved: u32,
}

// SAFETY: `repr(C)`, numbers and texts; that there is no padding follows from its size, which is
// checked here.
unsafe impl Grows for lvs_supervisor_config {
    const NAME: &'static str = "lvs_supervisor_config";
    const FIRST: usize = size_of::<[usize; 4]>() + size_of::<[u32; 2]>();
}
const _: () = assert!(size_of::<lvs_supervisor_config>() == lvs_supervisor_config::FIRST);

/// What a supervisor tells its program.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct lvs_notice {
    /// sizeof(struct lvs_notice).
    pub size: usize,
    /// LVS_NOTICE_...
    pub kind: u32,
    /// The index of the group's node among those that were passed to lvs_supervisor_open(), or
    /// LVS_NO_GROUP.
    pub group: u32,
    /// See the kinds; otherwise 0.
    pub count: u64,
    /// See LVS_NOTICE_LEARNED; otherwise 0.
    pub total: u64,
    /// LVS_ROLE_..., with LVS_NOTICE_SHOWN; otherwise LVS_ROLE_NONE.
    pub role: u32,
    /// 0.
    pub reserved: u32,
}

// SAFETY: as for `lvs_supervisor_config`.
unsafe impl Grows for lvs_notice {
    const NAME: &'static str = "lvs_notice";
    const FIRST: usize = size_of::<usize>() + size_of::<[u32; 2]>() + size_of::<[u64; 2]>() + size_of::<[u32; 2]>();
}
const _: () = assert!(size_of::<lvs_notice>() == lvs_notice::FIRST);

impl lvs_supervisor_config {
    fn to_config(self) -> Result<SupervisorConfig> {
        reserved(self.reserved)?;
        Ok(SupervisorConfig {
            fifo: self.fifo.optional("fifo", PATH)?.map(Into::into),
            instance: self.instance.optional("instance", NAME)?,
            track_file: self.track_file.optional("track_file", PATH)?.map(Into::into),
            only_roles: choice("flags", self.flags, &[(0, false), (LVS_SUPERVISOR_ONLY_ROLES, true)])?,
            ..SupervisorConfig::default()
        })
    }
}

impl lvs_notice {
    fn new(kind: u32) -> Self {
        lvs_notice {
            size: size_of::<Self>(),
            kind,
            group: LVS_NO_GROUP,
            count: 0,
            total: 0,
            role: LVS_ROLE_NONE,
            reserved: 0,
        }
    }
}

impl Supervised {
    fn notice_of(&self, notice: &Notice) -> lvs_notice {
        let position = |name: &str| self.groups.iter().position(|group| group == name);
        let index = |name| position(name).and_then(|index| u32::try_from(index).ok()).unwrap_or(LVS_NO_GROUP);
        let plain = lvs_notice::new;
        match notice {
            Notice::Step(_) => plain(LVS_NOTICE_STEP),
            Notice::Repair { group, .. } => lvs_notice { group: index(group), ..plain(LVS_NOTICE_REPAIR) },
            Notice::Shown { group, role } => {
                lvs_notice { group: index(group), role: number_of(*role), ..plain(LVS_NOTICE_SHOWN) }
            }
            Notice::Learned(Learned { known, of, .. }) => {
                lvs_notice { count: *known, total: *of, ..plain(LVS_NOTICE_LEARNED) }
            }
            Notice::Resynced(count) => lvs_notice { count: *count as u64, ..plain(LVS_NOTICE_RESYNCED) },
            Notice::Elections(takes_part) => {
                lvs_notice { count: u64::from(*takes_part), ..plain(LVS_NOTICE_ELECTIONS) }
            }
            Notice::Director { group, director } => {
                let count = director.is_some().into();
                lvs_notice { group: index(group), count, ..plain(LVS_NOTICE_DIRECTOR) }
            }
            Notice::SyncRestarted => plain(LVS_NOTICE_SYNC_RESTARTED),
            Notice::Warning(_) => plain(LVS_NOTICE_WARNING),
            Notice::Failure(_) => plain(LVS_NOTICE_FAILURE),
            Notice::Looked(_) => plain(LVS_NOTICE_OTHER),
        }
    }
}

/// Opens a supervisor for the groups of one node. Changes nothing yet, and does not block.
///
/// `netns`: as with lvs_node_open(). `nodes`: `count` configurations, 1 to 255, a node for each
/// group; they are copied. `config`: what is supervised; NULL: the defaults. `supervisor`: is set
/// to the supervisor; free it with lvs_supervisor_free(). Fails as lvs_node_open(), and with
/// LVS_ERR_STATE, LVS_ERR_SYSTEM (EMFILE, ENFILE, ENOMEM).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lvs_supervisor_open(
    netns: Text,
    nodes: *const lvs_node_config,
    count: usize,
    config: *const lvs_supervisor_config,
    supervisor: Option<&mut MaybeUninit<Box<lvs_supervisor>>>,
) -> c_int {
    guard(|| {
        let result = given(supervisor, "supervisor")?;
        let config = match config.is_null() {
            true => SupervisorConfig::default(),
            // SAFETY: a structure of C's.
            false => unsafe { read(config) }?.to_config()?,
        };
        // SAFETY: structures of C's.
        let (nodes, netns) = (unsafe { configs(nodes, count) }?, netns.netns()?);
        let groups = nodes.iter().map(|node| node.group.clone()).collect();
        let opened = nodes.into_iter().map(|node| Node::open_in(node, netns.clone())).collect::<Result<_, _>>()?;
        let supervisor = Supervisor::new(opened, config)?;
        let descriptor = supervisor.as_fd().as_raw_fd();
        result.write(Box::new(lvs_supervisor { held: Held::new(Supervised { supervisor, groups }), descriptor }));
        Ok(())
    })
}

/// Reads configurations, one behind the other.
///
/// # Safety
/// `nodes` is NULL or has as many structures as `count` says.
unsafe fn configs(nodes: *const lvs_node_config, count: usize) -> Result<Vec<Config>> {
    given((!nodes.is_null()).then_some(()), "nodes")?;
    if count == 0 {
        return Err(invalid("0 nodes", format!("1 to {MAX_NODES} were expected")));
    }
    // SAFETY: as the caller promises; the lists of a structure are as its counts say.
    unsafe { read_all("nodes", nodes, count, MAX_NODES)?.into_iter().map(|node| node.to_config()).collect() }
}

/// Gives the node another configuration, of each group in the same order, and brings it in as
/// lvs_node_apply() does. Roles stay. Does not block.
///
/// `nodes`, `count`: as with lvs_supervisor_open(). Fails as lvs_node_reconfigure(), and with
/// LVS_ERR_INVALID for another number of groups; every group keeps its configuration then.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lvs_supervisor_reconfigure(
    supervisor: Handle<lvs_supervisor>,
    nodes: *const lvs_node_config,
    count: usize,
) -> c_int {
    guard(|| {
        let mut supervised = supervisor.lock("supervisor")?;
        // SAFETY: structures of C's.
        let nodes = unsafe { configs(nodes, count) }?;
        Ok(supervised.supervisor.reconfigure(nodes)?)
    })
}

/// Frees a supervisor. What it has changed stays. NULL is ignored.
#[unsafe(no_mangle)]
pub extern "C" fn lvs_supervisor_free(supervisor: Option<Box<lvs_supervisor>>) {
    let _ = caught(|| drop(supervisor));
}

/// The descriptor of the supervisor: as lvs_driver_fd().
#[unsafe(no_mangle)]
pub extern "C" fn lvs_supervisor_fd(supervisor: Option<&lvs_supervisor>) -> c_int {
    supervisor.map_or(-1, |supervisor| supervisor.descriptor)
}

/// Takes on a role for a group, as if keepalived had notified it. Does not block;
/// lvs_supervisor_dispatch() carries it out. `group`: its name; "" for a node without groups.
/// `role`: LVS_ROLE_... Fails with LVS_ERR_INVALID.
#[unsafe(no_mangle)]
pub extern "C" fn lvs_supervisor_request(supervisor: Handle<lvs_supervisor>, group: Text, role: u32) -> c_int {
    guard(|| {
        let mut supervised = supervisor.lock("supervisor")?;
        let (group, role) = (group.name("group")?, choice("role", role, &ROLES)?);
        match supervised.supervisor.request(&group, role) {
            true => Ok(()),
            false => Err(invalid(&format!("group {group:?}"), "one of the supervisor's groups was expected")),
        }
    })
}

/// Does what there is to do now: call it when the descriptor is readable. Never sleeps, and waits
/// neither for a lock nor for another node. As lvs_driver_dispatch() for each group; a look at the
/// whole, once a second, reads the table where it may have changed. Fails with LVS_ERR_SYSTEM;
/// every other failure is a notice, and is tried again.
#[unsafe(no_mangle)]
pub extern "C" fn lvs_supervisor_dispatch(supervisor: Handle<lvs_supervisor>) -> c_int {
    guard(|| Ok(supervisor.lock("supervisor")?.supervisor.dispatch()?))
}

/// Takes the next notice.
///
/// `notice` is filled; set its `size` before. Its kind is LVS_NOTICE_NONE when there is none at
/// present. `text`: is set to the notice as a line or more for a log, to be freed with
/// lvs_text_free(), or to NULL when there is none; NULL if it is not needed. Does not block.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lvs_supervisor_next_notice(
    supervisor: Handle<lvs_supervisor>,
    notice: *mut lvs_notice,
    text: Option<&mut MaybeUninit<*mut c_char>>,
) -> c_int {
    guard(|| {
        let mut supervised = supervisor.lock("supervisor")?;
        // SAFETY: a structure of C's.
        let place = unsafe { Place::new(notice) }?;
        match supervised.supervisor.next_notice() {
            Some(found) => {
                place.put(supervised.notice_of(&found));
                put_text(text, found.to_string());
            }
            None => {
                place.put(lvs_notice::new(LVS_NOTICE_NONE));
                put(text, ptr::null_mut());
            }
        }
        Ok(())
    })
}

/// What a supervisor has counted since it was opened.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct lvs_supervisor_counts {
    /// sizeof(struct lvs_supervisor_counts).
    pub size: usize,
    /// Repairs that changed something.
    pub repairs: u64,
    /// What has failed.
    pub failures: u64,
    /// How long ago something failed last, in milliseconds. UINT64_MAX: nothing has.
    pub failed_ms: u64,
    /// How often all connections were sent to the other nodes.
    pub resyncs: u64,
    /// How often the role of a group has changed.
    pub role_changes: u64,
    /// How long ago one changed last, in milliseconds. UINT64_MAX: none has.
    pub role_changed_ms: u64,
    /// Connections that the node knows.
    pub known: u64,
    /// Connections that the director knows, as it says. UINT64_MAX: none is received.
    pub at_director: u64,
    /// Other nodes that direct and are received.
    pub directors_heard: u64,
    /// Other clusters with this one's sync id on its link.
    pub other_clusters: u64,
    /// Datagrams without the cluster's key.
    pub refused: u64,
    /// How long the supervisor was not waiting, in microseconds.
    pub busy_us: u64,
    /// 1 if the node has learned all connections of the director, otherwise 0.
    pub knows_all: u32,
    /// 1 if the node directs a group, otherwise 0.
    pub directs: u32,
}

// SAFETY: `repr(C)` and numbers; that there is no padding follows from its size, which is checked
// here.
unsafe impl Grows for lvs_supervisor_counts {
    const NAME: &'static str = "lvs_supervisor_counts";
    const FIRST: usize = size_of::<usize>() + size_of::<[u64; 12]>() + size_of::<[u32; 2]>();
}
const _: () = assert!(size_of::<lvs_supervisor_counts>() == lvs_supervisor_counts::FIRST);

/// In lvs_other_node: its table or this node's is not known.
pub const LVS_TABLE_NOT_KNOWN: u32 = 0;
/// In lvs_other_node: its table is this node's.
pub const LVS_TABLE_EQUAL: u32 = 1;
/// In lvs_other_node: its table is another than this node's.
pub const LVS_TABLE_DIFFERS: u32 = 2;

/// The other nodes of a cluster, as they were when the list was made. Several threads may read one
/// list.
pub struct lvs_other_nodes(Vec<OtherTexts>);

/// Another node of the cluster.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct lvs_other_node {
    /// sizeof(struct lvs_other_node).
    pub size: usize,
    /// The version of its program. NULL: one that does not say.
    pub version: Text,
    /// Its addresses but for VIPs, for lvs_texts_get(). They belong to the list.
    pub addresses: *const lvs_texts,
    /// The names of the groups that it directs, for lvs_texts_get(). They belong to the list.
    pub directs: *const lvs_texts,
    /// How many connections it knows. UINT64_MAX: it is silent.
    pub connections: u64,
    /// How long ago its role has changed, as far as it knows, in milliseconds. UINT64_MAX: it does
    /// not say.
    pub changed_ms: u64,
    /// How long ago it was received last, in milliseconds. One that is silent for a minute is
    /// forgotten.
    pub silent_ms: u64,
    /// Its role: LVS_ROLE_..., that of a director where it directs one group. LVS_ROLE_NONE: it is
    /// silent.
    pub role: u32,
    /// LVS_TABLE_...
    pub table: u32,
}

// SAFETY: `repr(C)`, numbers, pointers and a text; that there is no padding follows from its size,
// which is checked here.
unsafe impl Grows for lvs_other_node {
    const NAME: &'static str = "lvs_other_node";
    const FIRST: usize = size_of::<[usize; 4]>() + size_of::<[u64; 3]>() + size_of::<[u32; 2]>();
}
const _: () = assert!(size_of::<lvs_other_node>() == lvs_other_node::FIRST);

struct OtherTexts {
    version: Option<CString>,
    addresses: lvs_texts,
    directs: lvs_texts,
    connections: u64,
    changed_ms: u64,
    silent_ms: u64,
    role: u32,
    table: u32,
}

fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

fn ago(at: Option<Instant>) -> u64 {
    at.map_or(u64::MAX, |at| milliseconds(at.elapsed()))
}

impl OtherTexts {
    fn new(node: OtherNode) -> Self {
        OtherTexts {
            version: node.version.map(c_text),
            addresses: lvs_texts::of(node.addresses),
            directs: lvs_texts::of(node.directs),
            connections: node.connections.unwrap_or(u64::MAX),
            changed_ms: node.changed.map_or(u64::MAX, milliseconds),
            silent_ms: milliseconds(node.silent),
            role: node.role.map_or(LVS_ROLE_NONE, number_of),
            table: match node.table_equal {
                None => LVS_TABLE_NOT_KNOWN,
                Some(true) => LVS_TABLE_EQUAL,
                Some(false) => LVS_TABLE_DIFFERS,
            },
        }
    }

    /// # Safety
    /// `self` lives as long as the result is used.
    unsafe fn as_c(&self) -> lvs_other_node {
        lvs_other_node {
            size: size_of::<lvs_other_node>(),
            // SAFETY: it lives as long as `self`, and that as long as the caller promises.
            version: self.version.as_ref().map_or(Text::NULL, |version| unsafe { Text::of(version) }),
            addresses: &raw const self.addresses,
            directs: &raw const self.directs,
            connections: self.connections,
            changed_ms: self.changed_ms,
            silent_ms: self.silent_ms,
            role: self.role,
            table: self.table,
        }
    }
}

/// Fills `counts` with what the supervisor has counted; set its `size` before. Does not block.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lvs_supervisor_read_counts(
    supervisor: Handle<lvs_supervisor>,
    counts: *mut lvs_supervisor_counts,
) -> c_int {
    guard(|| {
        let supervised = supervisor.lock("supervisor")?;
        // SAFETY: a structure of C's.
        let place = unsafe { Place::new(counts) }?;
        let found = supervised.supervisor.counts();
        place.put(lvs_supervisor_counts {
            size: size_of::<lvs_supervisor_counts>(),
            repairs: found.repairs,
            failures: found.failures,
            failed_ms: ago(found.failed),
            resyncs: found.resyncs,
            role_changes: found.role_changes,
            role_changed_ms: ago(found.role_changed),
            known: found.known,
            at_director: found.at_director.unwrap_or(u64::MAX),
            directors_heard: found.directors_heard,
            other_clusters: found.other_clusters as u64,
            refused: found.refused,
            busy_us: u64::try_from(found.busy.as_micros()).unwrap_or(u64::MAX),
            knows_all: found.knows_all.into(),
            directs: found.directs.into(),
        });
        Ok(())
    })
}

/// Lists which other nodes have another table than this one, and why that matters. `unequal`: is
/// set to the list, which may be empty; free it with lvs_texts_free(). Does not block.
#[unsafe(no_mangle)]
pub extern "C" fn lvs_supervisor_unequal(
    supervisor: Handle<lvs_supervisor>,
    unequal: Option<&mut MaybeUninit<Box<lvs_texts>>>,
) -> c_int {
    guard(|| {
        let (supervised, result) = (supervisor.lock("supervisor")?, given(unequal, "unequal")?);
        result.write(Box::new(lvs_texts::of(&supervised.supervisor.counts().unequal)));
        Ok(())
    })
}

/// Lists the other nodes of the cluster that were received within the last minute, in the order of
/// their addresses. `others`: is set to the list, which may be empty; free it with
/// lvs_other_nodes_free(). Does not block.
#[unsafe(no_mangle)]
pub extern "C" fn lvs_supervisor_others(
    supervisor: Handle<lvs_supervisor>,
    others: Option<&mut MaybeUninit<Box<lvs_other_nodes>>>,
) -> c_int {
    guard(|| {
        let (supervised, result) = (supervisor.lock("supervisor")?, given(others, "others")?);
        let found = supervised.supervisor.others();
        result.write(Box::new(lvs_other_nodes(found.into_iter().map(OtherTexts::new).collect())));
        Ok(())
    })
}

/// Returns the number of nodes in a list; 0 for NULL.
#[unsafe(no_mangle)]
pub extern "C" fn lvs_other_nodes_count(others: Option<&lvs_other_nodes>) -> usize {
    others.map_or(0, |others| others.0.len())
}

/// Fills `node` with the entry of this index, counted from 0; set its `size` before. The text and
/// the lists in it belong to the list, and live as long as that. Fails with LVS_ERR_INDEX.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lvs_other_nodes_get(
    others: Option<&lvs_other_nodes>,
    index: usize,
    node: *mut lvs_other_node,
) -> c_int {
    guard(|| {
        let others = given(others, "others")?;
        // SAFETY: a structure of C's; C does not use what is in it longer than the list, as the
        // header demands.
        unsafe { Place::new(node)?.put(entry(&others.0, index)?.as_c()) };
        Ok(())
    })
}

/// Frees the list. NULL is ignored.
#[unsafe(no_mangle)]
pub extern "C" fn lvs_other_nodes_free(others: Option<Box<lvs_other_nodes>>) {
    let _ = caught(|| drop(others));
}
