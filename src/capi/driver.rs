//! A node for a program with a loop of its own.

use std::ffi::{c_char, c_int};
use std::mem::{MaybeUninit, size_of};
use std::os::fd::{AsFd, AsRawFd, RawFd};

use super::ffi::{Grows, Handle, Held, Opened, Place, Text, choice, given, put_text_or_null, read};
use super::node::{ROLES, lvs_node_config, weigh};
use super::report::lvs_status;
use super::status::{Failure, LVS_OK, caught, guard};
use crate::node::{Apply, Driver, Node, Report, Role, Task};

/// Take on a role, as lvs_node_become_role() does.
pub const LVS_TASK_ROLE: u32 = 1;
/// Give everything back, as lvs_node_release() does.
pub const LVS_TASK_RELEASE: u32 = 2;
/// Load what was changed in the configured services, as lvs_node_apply() does with
/// LVS_NODE_APPLY_CHANGES.
pub const LVS_TASK_APPLY: u32 = 3;
/// Undo what other programs have changed, as lvs_node_repair() does.
pub const LVS_TASK_REPAIR: u32 = 4;
/// Add the VIPs that other programs have removed, and look at nothing else.
pub const LVS_TASK_RESTORE_VIPS: u32 = 5;
/// Change the weights of a server's destinations, as lvs_node_weigh() does. It is asked for by
/// lvs_driver_request_weigh().
pub const LVS_TASK_WEIGH: u32 = 6;
/// Do what can be done about an audit's findings, as lvs_node_fix() does.
pub const LVS_TASK_FIX: u32 = 7;
/// Set all configured services to the configuration, as lvs_node_apply() does with
/// LVS_NODE_APPLY_ALL.
pub const LVS_TASK_APPLY_ALL: u32 = 8;

/// There is no report at present.
pub const LVS_REPORT_NONE: u32 = 0;
/// A step is carried out next. The text is the step's.
pub const LVS_REPORT_STEP: u32 = 1;
/// A task has ended. The text is the plan that was carried out, or the error message.
pub const LVS_REPORT_ENDED: u32 = 2;

/// A node that a program with a loop of its own drives.
pub struct lvs_driver {
    held: Held<Driver>,
    descriptor: RawFd,
}

impl Opened for lvs_driver {
    type Value = Driver;

    fn held(&self) -> &Held<Driver> {
        &self.held
    }
}

/// What a driver reports.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct lvs_report {
    /// sizeof(struct lvs_report).
    pub size: usize,
    /// LVS_REPORT_...
    pub kind: u32,
    /// LVS_TASK_..., of a task that has ended.
    pub task: u32,
    /// LVS_ROLE_..., of LVS_TASK_ROLE.
    pub role: u32,
    /// The status of a task that has ended: LVS_OK, LVS_ERR_SUPERSEDED when another request is
    /// carried out instead, or as the function named at the task.
    pub status: i32,
    /// The errno(3) that the kernel gave as reason; 0 where there was none.
    pub error_number: i32,
    /// 0.
    pub reserved: u32,
}

// SAFETY: `repr(C)`, numbers; that there is no padding follows from its size, which is checked
// here.
unsafe impl Grows for lvs_report {
    const NAME: &'static str = "lvs_report";
    const FIRST: usize = size_of::<usize>() + size_of::<[u32; 6]>();
}
const _: () = assert!(size_of::<lvs_report>() == lvs_report::FIRST);

impl lvs_report {
    fn of(kind: u32, task: u32, role: Option<Role>) -> Self {
        let role =
            role.and_then(|role| ROLES.iter().find(|(_, known)| *known == role)).map_or(0, |(number, _)| *number);
        lvs_report { size: size_of::<Self>(), kind, task, role, status: LVS_OK, error_number: 0, reserved: 0 }
    }

    fn ended(task: Task) -> Self {
        let (number, role) = match task {
            Task::Role(role) => (LVS_TASK_ROLE, Some(role)),
            Task::Release => (LVS_TASK_RELEASE, None),
            Task::Apply(Apply::Changes) => (LVS_TASK_APPLY, None),
            Task::Apply(Apply::All) => (LVS_TASK_APPLY_ALL, None),
            Task::Weigh { .. } => (LVS_TASK_WEIGH, None),
            Task::Repair => (LVS_TASK_REPAIR, None),
            Task::Fix => (LVS_TASK_FIX, None),
            Task::RestoreVips => (LVS_TASK_RESTORE_VIPS, None),
        };
        Self::of(LVS_REPORT_ENDED, number, role)
    }
}

/// Opens a node for a program with a loop of its own. Changes nothing yet, and does not block.
///
/// `netns`, `config` and the errors: as with lvs_node_open(). `driver`: is set to the driver; free
/// it with lvs_driver_free(). Fails with LVS_ERR_SYSTEM as well (`EMFILE`, `ENFILE`, `ENOMEM`).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lvs_driver_open(
    netns: Text,
    config: *const lvs_node_config,
    driver: Option<&mut MaybeUninit<Box<lvs_driver>>>,
) -> c_int {
    guard(|| {
        let result = given(driver, "driver")?;
        // SAFETY: a structure of C's.
        let config = unsafe { read(config)?.to_config()? };
        let driver = Driver::new(Node::open_in(config, netns.netns()?)?)?;
        let descriptor = driver.as_fd().as_raw_fd();
        result.write(Box::new(lvs_driver { held: Held::new(driver), descriptor }));
        Ok(())
    })
}

/// Gives the driver's node another configuration, for the tasks behind the one that is under way:
/// LVS_TASK_APPLY brings it in. Otherwise as lvs_node_reconfigure().
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lvs_driver_reconfigure(driver: Handle<lvs_driver>, config: *const lvs_node_config) -> c_int {
    guard(|| {
        let mut driver = driver.lock("driver")?;
        // SAFETY: a structure of C's.
        let config = unsafe { read(config)?.to_config()? };
        Ok(driver.reconfigure(config)?)
    })
}

/// Frees a driver. A task that is under way is given up, as by a process that is killed: what was
/// done stays, and the next request goes on from there. NULL is ignored.
///
/// A driver keeps the packet sockets by which it has announced VIPs and asked for the director,
/// one each. Closing one waits for a grace period of RCU, some 10 ms.
#[unsafe(no_mangle)]
pub extern "C" fn lvs_driver_free(driver: Option<Box<lvs_driver>>) {
    let _ = caught(|| drop(driver));
}

/// The descriptor of the driver. It is readable when lvs_driver_dispatch() has something to do:
/// wait for it with poll(2), epoll(7) or a library's loop. It is the driver's: neither read nor
/// close it. -1: `driver` is NULL.
#[unsafe(no_mangle)]
pub extern "C" fn lvs_driver_fd(driver: Option<&lvs_driver>) -> c_int {
    driver.map_or(-1, |driver| driver.descriptor)
}

/// Asks for a task. Does not block; lvs_driver_dispatch() carries it out.
///
/// `task`: LVS_TASK_... but LVS_TASK_WEIGH. `role`: LVS_ROLE_..., with LVS_TASK_ROLE; 0 otherwise.
/// A role and a release supersede what this driver has under way, and earlier requests of other
/// processes. The other tasks wait for it. Fails with LVS_ERR_INVALID, LVS_ERR_SYSTEM; the errors
/// of the task are reported.
#[unsafe(no_mangle)]
pub extern "C" fn lvs_driver_request(driver: Handle<lvs_driver>, task: u32, role: u32) -> c_int {
    guard(|| {
        let mut driver = driver.lock("driver")?;
        let task = match task {
            LVS_TASK_ROLE => Task::Role(choice("role", role, &ROLES)?),
            task => {
                choice("role", role, &[(0, ())])?;
                choice(
                    "task",
                    task,
                    &[
                        (LVS_TASK_RELEASE, Task::Release),
                        (LVS_TASK_APPLY, Task::Apply(Apply::Changes)),
                        (LVS_TASK_APPLY_ALL, Task::Apply(Apply::All)),
                        (LVS_TASK_FIX, Task::Fix),
                        (LVS_TASK_REPAIR, Task::Repair),
                        (LVS_TASK_RESTORE_VIPS, Task::RestoreVips),
                    ],
                )?
            }
        };
        Ok(driver.request(task)?)
    })
}

/// Asks for LVS_TASK_WEIGH. `server`, `change` and `weight`: as with lvs_node_weigh(). Otherwise
/// as lvs_driver_request().
#[unsafe(no_mangle)]
pub extern "C" fn lvs_driver_request_weigh(
    driver: Handle<lvs_driver>,
    server: Text,
    change: u32,
    weight: u32,
) -> c_int {
    guard(|| {
        let mut driver = driver.lock("driver")?;
        let (server, to) = (server.optional_address("server")?, weigh(change, weight)?);
        Ok(driver.request(Task::Weigh { server, to })?)
    })
}

/// Does what there is to do now: call it when the descriptor is readable.
///
/// Never sleeps, and waits neither for a lock nor for another node. It begins steps for 2 ms and
/// ends the one that it has begun: a request to the kernel, or a file that is written. A look at
/// the whole, for the first role and for a repair, reads the table, which takes as long as the
/// table is large. nft(8) and iptables(8) are waited for by the descriptor.
///
/// Files in `state_dir` are written to the disk (fsync(2)). The default, below /run, is a tmpfs,
/// where there is none to wait for; elsewhere a dispatch waits for the disk. No packet socket is
/// closed: see lvs_driver_free().
///
/// Fails with LVS_ERR_SYSTEM; the errors of tasks are reported.
#[unsafe(no_mangle)]
pub extern "C" fn lvs_driver_dispatch(driver: Handle<lvs_driver>) -> c_int {
    guard(|| Ok(driver.lock("driver")?.dispatch()?))
}

/// Gives up the task that is under way, and those that wait for it. What was done stays, and they
/// are not reported; the next request goes on from there. Does not block.
#[unsafe(no_mangle)]
pub extern "C" fn lvs_driver_cancel(driver: Handle<lvs_driver>) -> c_int {
    guard(|| {
        driver.lock("driver")?.cancel();
        Ok(())
    })
}

/// Sets which other node directs, as lvs_node_set_director(), without waiting: fails with
/// LVS_ERR_LOCKED while another process, or a task of this driver, works on the node. It can be
/// said again later.
#[unsafe(no_mangle)]
pub extern "C" fn lvs_driver_set_director(driver: Handle<lvs_driver>, director: Text) -> c_int {
    guard(|| {
        let mut driver = driver.lock("driver")?;
        Ok(driver.set_director(director.optional_address("director")?)?)
    })
}

/// Reads the status of the node, as lvs_node_read_status().
#[unsafe(no_mangle)]
pub extern "C" fn lvs_driver_read_status(
    driver: Handle<lvs_driver>,
    status: Option<&mut MaybeUninit<Box<lvs_status>>>,
) -> c_int {
    guard(|| {
        let (mut driver, result) = (driver.lock("driver")?, given(status, "status")?);
        result.write(Box::new(lvs_status::of(driver.status()?)));
        Ok(())
    })
}

/// Takes the next report.
///
/// `report` is filled; set its `size` before. Its kind is LVS_REPORT_NONE when there is none at
/// present. `text`: is set to the report's text, to be freed with lvs_text_free(), or to NULL when
/// there is no report; NULL if it is not needed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lvs_driver_next_report(
    driver: Handle<lvs_driver>,
    report: *mut lvs_report,
    text: Option<&mut MaybeUninit<*mut c_char>>,
) -> c_int {
    guard(|| {
        let mut driver = driver.lock("driver")?;
        // SAFETY: a structure of C's.
        let place = unsafe { Place::new(report) }?;
        let (report, words) = match driver.next_report() {
            None => (lvs_report::of(LVS_REPORT_NONE, 0, None), None),
            Some(Report::Step { step, .. }) => (lvs_report::of(LVS_REPORT_STEP, 0, None), Some(step.to_string())),
            Some(Report::Ended { task, result: Ok(plan) }) => (lvs_report::ended(task), Some(plan.to_string())),
            Some(Report::Ended { task, result: Err(error) }) => {
                let Failure { status, errno, message } = error.into();
                (lvs_report { status, error_number: errno, ..lvs_report::ended(task) }, Some(message))
            }
        };
        place.put(report);
        put_text_or_null(text, words);
        Ok(())
    })
}

/// Whether a task is under way or a report is to be taken: 1 or 0. 0 for NULL and where another
/// thread uses the driver.
#[unsafe(no_mangle)]
pub extern "C" fn lvs_driver_is_busy(driver: Handle<lvs_driver>) -> c_int {
    driver.lock("driver").is_ok_and(|driver| driver.is_busy()).into()
}
