//! A supervisor for a program with a loop of its own.

use std::ffi::{c_char, c_int};
use std::mem::{MaybeUninit, size_of};
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::ptr;

use super::ffi::{
    Grows, Handle, Held, NAME, Opened, PATH, Place, Result, Text, choice, given, invalid, put, put_text, read, reserved,
};
use super::node::{LVS_ROLE_NONE, ROLES, lvs_node_config, number_of};
use super::status::{caught, guard};
use crate::node::{Config, Learned, Node, Notice, Supervisor, SupervisorConfig};

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
    if !(1..=MAX_NODES).contains(&count) {
        return Err(invalid(&format!("{count} nodes"), format!("1 to {MAX_NODES} were expected")));
    }
    let mut next = nodes;
    let config = |_| {
        // SAFETY: a structure of C's; the next one follows where this one ends, as it says itself.
        unsafe {
            let node = read(next)?;
            next = next.byte_add(node.size);
            node.to_config()
        }
    };
    (0..count).map(config).collect()
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
