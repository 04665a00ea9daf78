//! A node that a program with a loop of its own drives: judged by ip, tc and ipvsadm, and by what
//! the program can do meanwhile.

use std::fs;
use std::os::fd::AsFd;
use std::thread;
use std::time::{Duration, Instant};

use lvs_dr::node::{Driver, Fence, Loopback, Notice, OwnRequests, Report, Role, Supervisor, SupervisorConfig, Task};
use lvs_dr::{Error, Result};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{FlockOperation, flock};

use crate::lab::{ip, ipvsadm, run};
use crate::node::{Bench, VIPS, addresses, rule_count, sync_daemons};

const LIMIT: Duration = Duration::from_secs(20);

fn bench() -> Bench {
    Bench::new(Fence::Marks, true).with(|config| config.loopback = Loopback::Always)
}

fn driver(bench: &Bench) -> Driver {
    Driver::new(bench.node()).unwrap()
}

fn is_readable(driver: &Driver, within: Duration) -> bool {
    let timeout = Timespec::try_from(within).unwrap();
    poll(&mut [PollFd::new(driver, PollFlags::IN)], Some(&timeout)).unwrap() > 0
}

/// What a task has done, and with what it has ended.
#[derive(Debug, Default)]
struct Done {
    steps: Vec<String>,
    ended: Vec<(Task, Result<String>)>,
    longest: Duration,
}

/// Drives it until so many tasks have ended.
fn drive(driver: &mut Driver, count: usize) -> Done {
    let (start, mut done) = (Instant::now(), Done::default());
    while done.ended.len() < count {
        assert!(start.elapsed() < LIMIT, "{done:?}");
        if !is_readable(driver, LIMIT) {
            continue;
        }
        let before = Instant::now();
        driver.dispatch().unwrap();
        done.longest = done.longest.max(before.elapsed());
        while let Some(report) = driver.next_report() {
            match report {
                Report::Step { step, .. } => done.steps.push(step.to_string()),
                Report::Ended { task, result, .. } => done.ended.push((task, result.map(|plan| plan.to_string()))),
                _ => unreachable!(),
            }
        }
    }
    assert!(!driver.is_busy() && !is_readable(driver, Duration::ZERO), "{done:?}");
    done
}

/// Drives it until its task has ended well.
fn drive_to_end(driver: &mut Driver) {
    drive(driver, 1).ended[0].1.as_ref().unwrap();
}

fn expect(role: Role) {
    let on_interface = addresses().into_iter().filter(|line| line.starts_with("bond0 "));
    let vips = on_interface.filter(|line| VIPS.iter().any(|vip| line.contains(vip))).count();
    let directs = role == Role::Master;
    assert_eq!((vips, sync_daemons().contains(&"master".to_owned())), (if directs { 2 } else { 0 }, directs), "{role}");
}

fn begin(driver: &mut Driver, role: Role) {
    driver.request(Task::Role(role)).unwrap();
}

fn reach(driver: &mut Driver, role: Role) -> Done {
    begin(driver, role);
    let done = drive(driver, 1);
    let (task, result) = &done.ended[0];
    assert_eq!((*task, result.is_ok()), (Task::Role(role), true), "{done:?}");
    expect(role);
    done
}

#[test]
fn roles_are_taken_on_a_step_at_a_time() {
    let bench = bench();
    let mut driver = driver(&bench);
    assert!(!driver.is_busy() && driver.next_report().is_none());
    for role in [Role::Backup, Role::Master, Role::Backup, Role::Master, Role::Fault, Role::Stop] {
        let done = reach(&mut driver, role);
        println!("{role}: {} steps, the longest dispatch took {:?}", done.steps.len(), done.longest);
        // As the call that waits reports it.
        let plan = done.ended[0].1.as_ref().unwrap();
        assert!(done.steps.iter().all(|step| plan.contains(step.lines().next().unwrap())), "{done:?}");
    }
    driver.request(Task::Release).unwrap();
    drive_to_end(&mut driver);
    assert_eq!((rule_count("bond0"), ipvsadm("-Sn")), (0, String::new()));
}

/// How many VIPs have marks for the node's own requests.
fn marked() -> usize {
    let listed = ["iptables-legacy", "ip6tables-legacy"].map(|program| run(&format!("{program} -t mangle -S OUTPUT")));
    listed.iter().flat_map(|list| list.lines()).filter(|line| VIPS.iter().any(|vip| line.contains(vip))).count()
}

#[test]
fn with_marks_of_the_nodes_own_requests() {
    let bench = bench().with(|config| config.marks.own_requests = OwnRequests::ServedHere);
    let mut driver = driver(&bench);
    for role in [Role::Backup, Role::Master] {
        reach(&mut driver, role);
        assert_eq!(marked(), 2, "{role}");
    }
    driver.request(Task::Release).unwrap();
    drive_to_end(&mut driver);
    assert_eq!(marked(), 0);
}

#[test]
fn a_driver_waits_for_no_lock() {
    let bench = bench();
    let mut driver = driver(&bench);
    reach(&mut driver, Role::Backup);
    let lock = fs::File::open(bench.config.state_dir.join("lock")).unwrap();
    flock(&lock, FlockOperation::NonBlockingLockExclusive).unwrap();
    begin(&mut driver, Role::Master);
    let (start, mut dispatched) = (Instant::now(), 0);
    while start.elapsed() < Duration::from_millis(500) {
        if is_readable(&driver, Duration::from_millis(100)) {
            driver.dispatch().unwrap();
            dispatched += 1;
        }
    }
    // It looks again, but not all the time.
    assert!((5..100).contains(&dispatched) && driver.is_busy(), "{dispatched}");
    expect(Role::Backup);
    flock(&lock, FlockOperation::Unlock).unwrap();
    assert!(drive(&mut driver, 1).ended[0].1.is_ok());
    expect(Role::Master);
}

#[test]
fn the_latest_request_is_carried_out() {
    let bench = bench();
    let mut driver = driver(&bench);
    reach(&mut driver, Role::Backup);
    // Of this driver, behind each number of dispatches.
    for dispatches in 0..12 {
        begin(&mut driver, Role::Master);
        for _ in 0..dispatches {
            driver.dispatch().unwrap();
        }
        let ended = !driver.is_busy();
        begin(&mut driver, Role::Backup);
        let done = drive(&mut driver, if ended { 1 } else { 2 });
        let (last, before) = done.ended.split_last().unwrap();
        assert!(last.0 == Task::Role(Role::Backup) && last.1.is_ok(), "{done:?}");
        assert!(before.iter().all(|(_, result)| matches!(result, Err(Error::Superseded { .. }) | Ok(_))), "{done:?}");
        expect(Role::Backup);
    }
    // Of another process.
    begin(&mut driver, Role::Master);
    let done = thread::scope(|scope| {
        let (before, other) =
            (bench.node().generation().unwrap(), scope.spawn(|| bench.node().become_role(Role::Fault)));
        while bench.node().generation().unwrap() == before {
            thread::sleep(Duration::from_millis(5));
        }
        let done = drive(&mut driver, 1);
        other.join().unwrap().unwrap();
        done
    });
    assert!(matches!(done.ended[0].1, Err(Error::Superseded { .. })), "{done:?}");
    expect(Role::Fault);
    // Tasks that supersede none wait for the role, and are carried out once.
    begin(&mut driver, Role::Master);
    for task in [Task::Repair, Task::RestoreVips, Task::Repair] {
        driver.request(task).unwrap();
    }
    let done = drive(&mut driver, 3);
    let tasks: Vec<Task> = done.ended.iter().map(|(task, _)| *task).collect();
    assert_eq!(tasks, [Task::Role(Role::Master), Task::Repair, Task::RestoreVips]);
    assert!(done.ended.iter().all(|(_, result)| result.is_ok()), "{done:?}");
    expect(Role::Master);
}

#[test]
fn a_driver_that_is_dropped_leaves_what_the_next_request_goes_on_from() {
    let bench = bench();
    for dispatches in 0..12 {
        for role in [Role::Master, Role::Backup] {
            let mut given_up = driver(&bench);
            begin(&mut given_up, role);
            for _ in 0..dispatches {
                given_up.dispatch().unwrap();
            }
            match dispatches % 3 {
                0 => drop(given_up),
                1 => drop(given_up.into_node()),
                _ => {
                    given_up.cancel();
                    assert!(!is_readable(&given_up, Duration::from_millis(20)));
                    assert!(given_up.as_fd().try_clone_to_owned().is_ok());
                }
            }
            bench.node().become_role(role).unwrap();
            expect(role);
        }
    }
}

/// A VIP that another program removes is restored, a foreign one is reported.
#[test]
fn errors_are_reported() {
    let bench = bench();
    let mut driver = driver(&bench);
    reach(&mut driver, Role::Backup);
    ip(&format!("address add {}/32 dev peer0", VIPS[0]));
    begin(&mut driver, Role::Master);
    let done = drive(&mut driver, 1);
    assert!(matches!(done.ended[0].1, Err(Error::Foreign { .. })), "{done:?}");
    expect(Role::Backup);
    ip(&format!("address del {}/32 dev peer0", VIPS[0]));
    ip(&format!("address del {}/32 dev lo", VIPS[0]));
    driver.request(Task::RestoreVips).unwrap();
    assert!(drive(&mut driver, 1).ended[0].1.is_ok());
    assert!(addresses().contains(&format!("lo {}/32 scope host", VIPS[0])));
}

/// Frames that the other end of the cable has received.
fn received() -> u64 {
    let shown: serde_json::Value = serde_json::from_str(&ip("-j -s link show dev peer0")).unwrap();
    shown[0]["stats64"]["rx"]["packets"].as_u64().unwrap()
}

#[test]
fn the_vips_of_a_promotion_are_announced_once_more() {
    let bench = bench().with(|config| config.announce_again = Duration::from_millis(400));
    let mut driver = driver(&bench);
    reach(&mut driver, Role::Backup);
    begin(&mut driver, Role::Master);
    drive_to_end(&mut driver);
    assert!(!is_readable(&driver, Duration::from_millis(100)) && is_readable(&driver, LIMIT));
    let before = received();
    driver.dispatch().unwrap();
    // Each VIP by as many announcements as at first.
    assert!(received() >= before + 2, "{before}, {}", received());
    assert!(!is_readable(&driver, Duration::from_millis(600)));
    // Not when it directs no more.
    begin(&mut driver, Role::Backup);
    drive_to_end(&mut driver);
    begin(&mut driver, Role::Master);
    drive_to_end(&mut driver);
    bench.node().become_role(Role::Backup).unwrap();
    assert!(is_readable(&driver, LIMIT));
    let before = received();
    driver.dispatch().unwrap();
    // A frame of the kernel's own may come by.
    assert!(received() < before + 2, "{before}, {}", received());
}

/// Dispatches for a while. Returns how often, and what was told.
fn supervise(supervisor: &mut Supervisor, time: Duration, until: impl Fn() -> bool) -> (usize, Vec<String>) {
    let (start, mut count, mut told) = (Instant::now(), 0, Vec::new());
    while start.elapsed() < time && !until() {
        let timeout = Timespec::try_from(Duration::from_millis(20)).unwrap();
        if poll(&mut [PollFd::new(&*supervisor, PollFlags::IN)], Some(&timeout)).unwrap() > 0 {
            supervisor.dispatch().unwrap();
            count += 1;
        }
        while let Some(notice) = supervisor.next_notice() {
            told.extend((!matches!(notice, Notice::Looked(_))).then(|| format!("{}: {notice}", notice.kind())));
        }
    }
    (count, told)
}

#[test]
fn a_supervisor_takes_on_roles_and_restores_what_others_remove() {
    let bench = bench().with(|config| config.announce_again = Duration::from_millis(300));
    let mut supervisor = Supervisor::new(vec![bench.node()], SupervisorConfig::default()).unwrap();
    assert!(!supervisor.request("web", Role::Master) && supervisor.request("", Role::Master));
    let directs = || bench.node().role().unwrap() == Some((Role::Master, true));
    let (_, told) = supervise(&mut supervisor, LIMIT, directs);
    assert!(told.iter().any(|line| line.starts_with("step: VIP: add")), "{told:?}");
    expect(Role::Master);
    // It waits for its descriptor, also while an announcement is to come.
    let (count, told) = supervise(&mut supervisor, Duration::from_secs(2), || false);
    assert!((4..100).contains(&count), "{count} {told:?}");
    let vip = format!("bond0 {}/32 scope global", VIPS[0]);
    for _ in 0..2 {
        ip(&format!("address del {}/32 dev bond0", VIPS[0]));
        let (_, told) = supervise(&mut supervisor, LIMIT, || addresses().contains(&vip));
        assert!(addresses().contains(&vip), "{told:?}");
        // The task that has placed it ends, before another one is needed.
        supervise(&mut supervisor, Duration::from_millis(500), || false);
    }
    assert!(supervisor.counts().repairs >= 1 && supervisor.counts().failures == 0, "{:?}", supervisor.counts());
    // Another process demotes it: nothing is undone.
    let told = thread::scope(|scope| {
        let other = scope.spawn(|| bench.node().become_role(Role::Backup));
        let (_, told) = supervise(&mut supervisor, Duration::from_secs(3), || false);
        other.join().unwrap().unwrap();
        told
    });
    assert!(told.iter().all(|line| !line.starts_with("step: ") && !line.starts_with("failure: ")), "{told:?}");
    expect(Role::Backup);
}
