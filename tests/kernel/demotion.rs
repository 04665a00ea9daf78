//! What holds whatever happens to a node: a demotion gives up the VIP, no role is taken on that
//! was not asked for, and what could not be finished is remembered as such. Judged by ip, tc and
//! ipvsadm.

use std::fs;
use std::io::Write;
use std::thread;
use std::time::{Duration, Instant};

use lvs_dr::Error;
use lvs_dr::node::{Fence, Loopback, Role, VipOwner};
use rustix::fs::{FlockOperation, flock};
use rustix::time::{ClockId, clock_gettime};

use crate::arp::enter_new_mount_namespace;
use crate::lab::{ip, ipvsadm, run, without_checksum};
use crate::node::{Bench, VIPS, addresses, exit_code, rule_count, sync_daemons};

/// A node with configured services.
fn bench(fence: Fence, loopback: Loopback) -> Bench {
    Bench::new(fence, true).with(|config| config.loopback = loopback)
}

fn state_dir(bench: &Bench) -> String {
    bench.config.state_dir.display().to_string()
}

fn edit_state(bench: &Bench, edit: impl FnOnce(String) -> String) {
    let file = bench.config.state_dir.join("state");
    fs::write(&file, edit(fs::read_to_string(&file).unwrap())).unwrap();
}

/// The VIPs that are on the node's interface.
fn on_interface() -> Vec<String> {
    addresses()
        .into_iter()
        .filter(|line| line.starts_with("bond0 ") && VIPS.iter().any(|vip| line.contains(vip)))
        .collect()
}

fn assert_directs_no_longer(what: &str) {
    assert_eq!(on_interface(), Vec::<String>::new(), "{what}");
    assert!(!sync_daemons().contains(&"master".to_owned()), "{what}");
}

/// A trouble that meets a director: it is made, and mended.
type Trouble = (&'static str, fn(&Bench), fn(&Bench));

const TROUBLES: [Trouble; 7] = [
    (
        "the state directory is lost, and is a file now",
        |bench| {
            fs::remove_dir_all(&bench.config.state_dir).unwrap();
            fs::write(&bench.config.state_dir, "").unwrap();
        },
        |bench| fs::remove_file(&bench.config.state_dir).unwrap(),
    ),
    (
        "the state directory is full",
        |bench| {
            run(&format!("mount -t tmpfs -o size=12k,mode=700 none {}", state_dir(bench)));
            fs::write(bench.config.state_dir.join("full"), [0; 1 << 12]).unwrap();
            let _ = fs::write(bench.config.state_dir.join("more"), [0; 1 << 16]);
        },
        |bench| drop(run(&format!("umount {}", state_dir(bench)))),
    ),
    (
        "the state directory is read-only",
        |bench| drop(run(&format!("mount -t tmpfs -o ro,mode=700 none {}", state_dir(bench)))),
        |bench| drop(run(&format!("umount {}", state_dir(bench)))),
    ),
    (
        "what is remembered is damaged",
        |bench| edit_state(bench, |text| text.replace("role master", "role boss")),
        |bench| edit_state(bench, |text| text.replace("role boss", "role master")),
    ),
    (
        "/proc/sys is read-only, and ARP settings are to be changed",
        |_| {
            fs::write("/proc/sys/net/ipv4/conf/bond0/arp_announce", "0").unwrap();
            run("mount -o bind /proc/sys /proc/sys");
            run("mount -o remount,bind,ro /proc/sys");
        },
        |_| drop(run("umount /proc/sys")),
    ),
    (
        "IPv6 is disabled on lo, which is to get the VIP",
        |_| fs::write("/proc/sys/net/ipv6/conf/lo/disable_ipv6", "1").unwrap(),
        |_| fs::write("/proc/sys/net/ipv6/conf/lo/disable_ipv6", "0").unwrap(),
    ),
    (
        "the VIP is on lo in the form of another program",
        |_| {
            let _ = crate::lab::try_run(&format!("ip address del {}/32 dev lo", VIPS[0]));
            ip(&format!("address add {}/24 dev lo", VIPS[0]));
        },
        |_| drop(ip(&format!("address del {}/24 dev lo", VIPS[0]))),
    ),
];

#[test]
fn a_demotion_gives_up_the_vip_whatever_else_fails() {
    enter_new_mount_namespace();
    for (fence, loopback) in
        [(Fence::Marks, Loopback::Backup), (Fence::Marks, Loopback::Always), (Fence::Clear, Loopback::Backup)]
    {
        for (what, make, mend) in TROUBLES {
            let bench = bench(fence, loopback);
            bench.node().become_role(Role::Master).unwrap();
            assert_eq!(on_interface().len(), 2);
            let rules = rule_count("bond0");
            make(&bench);
            let result = bench.node().become_role(Role::Backup);
            let shown = format!("{fence}, {loopback:?}: {what}: {result:?}");
            assert_directs_no_longer(&shown);
            if fence == Fence::Marks {
                assert_eq!(rule_count("bond0"), rules + 2, "{shown}");
            }
            // With the VIPs on `lo` already, IPv6 that is disabled there makes nothing fail.
            match result {
                Err(Error::Demotion { ref left, .. }) => assert!(left.is_empty(), "{shown}"),
                Err(_) => panic!("{shown}"),
                Ok(_) => assert!(what.starts_with("IPv6"), "{shown}"),
            }
            mend(&bench);
            bench.node().become_role(Role::Backup).unwrap_or_else(|error| panic!("{what} is mended: {error}"));
            assert_directs_no_longer(what);
        }
    }
}

/// A repair that comes later, when there is space again, must not promote the node.
#[test]
fn a_demotion_that_cannot_be_recorded_is_not_undone_later() {
    enter_new_mount_namespace();
    let bench = bench(Fence::Marks, Loopback::Always);
    let directory = state_dir(&bench);
    fs::create_dir_all(&directory).unwrap();
    run(&format!("mount -t tmpfs -o size=64k,mode=700 none {directory}"));
    bench.node().become_role(Role::Master).unwrap();
    let fill = fs::File::create(bench.config.state_dir.join("full")).unwrap();
    while (&fill).write_all(&[0; 4096]).is_ok() {}
    drop(fill);
    let error = bench.node().become_role(Role::Backup).unwrap_err();
    assert_directs_no_longer(&error.to_string());
    assert_eq!(bench.node().role().unwrap(), Some((Role::Backup, false)));
    // A watch tries both.
    let _ = bench.node().restore_vips();
    let _ = bench.node().repair(|_| ());
    assert_directs_no_longer("repaired on a full disk");
    fs::remove_file(bench.config.state_dir.join("full")).unwrap();
    bench.node().restore_vips().unwrap();
    bench.node().repair(|_| ()).unwrap();
    assert_directs_no_longer("repaired");
    assert_eq!(bench.node().role().unwrap(), Some((Role::Backup, true)));
    bench.node().become_role(Role::Master).unwrap();
    assert_eq!(on_interface().len(), 2);
    bench.node().become_role(Role::Backup).unwrap();
    run(&format!("umount {directory}"));
}

/// Reboots are numbered by the kernel; a state directory may outlive one.
#[test]
fn a_role_of_an_earlier_boot_is_at_most_a_backups() {
    for fence in Fence::ALL {
        let bench = bench(fence, Loopback::Always);
        bench.node().become_role(Role::Master).unwrap();
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
        edit_state(&bench, |text| {
            assert_eq!(text.matches(boot.trim_end()).count(), 1, "{text}");
            without_checksum(&text).replace(boot.trim_end(), "00000000-0000-4000-8000-000000000000")
        });
        // What a reboot takes away.
        for vip in VIPS {
            let length = if vip.contains(':') { 128 } else { 32 };
            ip(&format!("address del {vip}/{length} dev bond0"));
        }
        ipvsadm("-C");
        if fence == Fence::Marks {
            run("tc qdisc del dev bond0 clsact");
        }
        assert_eq!(bench.node().status().unwrap().role, Some((Role::Backup, false)));
        bench.node().repair(|_| ()).unwrap();
        assert_directs_no_longer("repaired");
        assert_eq!(bench.node().status().unwrap().role, Some((Role::Backup, true)));
        bench.node().become_role(Role::Master).unwrap();
        assert_eq!(on_interface().len(), 2);
    }
}

#[test]
fn a_promotion_that_cannot_be_finished_is_remembered_as_such() {
    let mut bench = bench(Fence::Marks, Loopback::Always);
    bench.config.vip_owner = VipOwner::Keepalived;
    bench.node().become_role(Role::Backup).unwrap();
    ip(&format!("address add {}/32 dev bond0", VIPS[0]));
    ip(&format!("address add {}/128 dev bond0 nodad preferred_lft 0", VIPS[1]));
    // Its services have to be read again.
    ipvsadm("-C");
    let result = bench.node().become_role_reading(Role::Master, || Err("unreadable"), |_| ());
    assert_eq!(result.unwrap().unwrap_err(), "unreadable");
    assert_eq!(bench.node().status().unwrap().role, Some((Role::Master, false)));
    // A demotion without services is one, where the table is not there.
    bench.node().become_role(Role::Master).unwrap();
    ipvsadm("-C");
    let result = bench.node().become_role_reading(Role::Backup, || Err("unreadable"), |_| ());
    assert_eq!(result.unwrap().unwrap_err(), "unreadable");
    assert_eq!(bench.node().status().unwrap().role, Some((Role::Backup, false)));
    assert!(!sync_daemons().contains(&"master".to_owned()));
    // And one that the kernel or another program prevents.
    let foreign = format!("address add {}/24 dev lo", VIPS[0]);
    bench.node().become_role(Role::Backup).unwrap();
    ip(&format!("address del {}/32 dev lo", VIPS[0]));
    ip(&foreign);
    bench.node().become_role(Role::Master).unwrap_err();
    assert_eq!(bench.node().role().unwrap(), Some((Role::Master, false)));
}

#[test]
fn a_request_file_that_another_process_locks_blocks_no_role() {
    let bench = bench(Fence::Marks, Loopback::Always);
    bench.node().become_role(Role::Backup).unwrap();
    let last = bench.config.state_dir.join(format!("request.{}", bench.node().generation().unwrap()));
    let last = fs::File::open(last).unwrap();
    flock(&last, FlockOperation::NonBlockingLockExclusive).unwrap();
    bench.node().become_role(Role::Master).unwrap();
    assert_eq!(bench.node().status().unwrap().role, Some((Role::Master, true)));
    bench.node().become_role(Role::Backup).unwrap();
    bench.node().release(|_| ()).unwrap();
}

/// Another node may have been promoted in its place.
#[test]
fn a_promotion_that_was_refused_is_not_made_up_for_later() {
    for fence in Fence::ALL {
        let bench = bench(fence, Loopback::Always);
        bench.node().become_role(Role::Backup).unwrap();
        ip(&format!("address add {}/32 dev peer0", VIPS[0]));
        bench.node().become_role(Role::Master).unwrap_err();
        ip(&format!("address del {}/32 dev peer0", VIPS[0]));
        bench.node().repair(|_| ()).unwrap();
        assert_directs_no_longer("refused");
        assert_eq!(bench.node().role().unwrap(), Some((Role::Backup, true)));
    }
}

/// A demotion fails while a promotion waits for its turn: what it gives up and records comes
/// before the promotion, not after it.
#[test]
fn a_demotion_that_fails_undoes_no_later_promotion() {
    let bench = &bench(Fence::Marks, Loopback::Always);
    for _ in 0..5 {
        bench.node().become_role(Role::Master).unwrap();
        // The services have to be read.
        ipvsadm("-C");
        let before = bench.node().generation().unwrap();
        thread::scope(|scope| {
            let mut promotion = None;
            let unreadable = || {
                promotion = Some(scope.spawn(|| bench.node().become_role(Role::Master)));
                let node = bench.node();
                while node.generation().unwrap() < before + 2 {
                    thread::sleep(Duration::from_millis(2));
                }
                Err("unreadable")
            };
            let result = bench.node().become_role_reading(Role::Backup, unreadable, |_| ());
            assert!(matches!(result, Ok(Err("unreadable")) | Err(Error::Superseded { .. })), "{result:?}");
            promotion.unwrap().join().unwrap().unwrap();
        });
        thread::sleep(Duration::from_millis(50));
        assert_eq!((on_interface().len(), bench.node().role().unwrap()), (2, Some((Role::Master, true))));
    }
}

/// As a VRRP daemon forks them that flaps.
#[test]
fn two_hundred_notifications_at_once_end_in_the_last() {
    let bench = &bench(Fence::Marks, Loopback::Always);
    bench.node().become_role(Role::Backup).unwrap();
    let before = bench.node().generation().unwrap();
    // Each has some ten descriptors.
    let limit = rustix::process::Rlimit { current: Some(1 << 13), maximum: Some(1 << 13) };
    rustix::process::setrlimit(rustix::process::Resource::Nofile, limit).unwrap();
    let processor_time = || Duration::try_from(clock_gettime(ClockId::ProcessCPUTime)).unwrap();
    let used_before = processor_time();
    // Threads stand for processes, which take long to start here; each has files of its own.
    let (ends, last) = thread::scope(|scope| {
        let role = |n: usize| [Role::Master, Role::Backup][n % 2];
        let threads: Vec<_> =
            (0..199).map(|n| scope.spawn(move || exit_code(bench.node().become_role(role(n))))).collect();
        // The last one is made when all others have their numbers.
        let node = bench.node();
        let start = Instant::now();
        while node.generation().unwrap() < before + 199 {
            assert!(start.elapsed() < Duration::from_secs(120), "requests without a number");
            thread::sleep(Duration::from_millis(20));
        }
        let last = exit_code(bench.node().become_role(Role::Master));
        (threads.into_iter().map(|thread| thread.join().unwrap()).collect::<Vec<i32>>(), last)
    });
    assert!(ends.iter().all(|end| [0, 3].contains(end)), "{ends:?}");
    assert_eq!((last, on_interface().len()), (0, 2));
    assert_eq!(bench.node().status().unwrap().role, Some((Role::Master, true)));
    let carried_out = 1 + ends.iter().filter(|end| **end == 0).count();
    println!("{carried_out} of 200 carried out, {:?} of processor time", processor_time() - used_before);
}

/// Addresses are read once for all VIPs of a role.
#[test]
fn three_hundred_vips_move_together() {
    let mut bench = bench(Fence::Marks, Loopback::Backup);
    let last = |n: u32| if n < 150 { format!("198.51.100.{}", n + 1) } else { format!("2001:db8:1::{n:x}") };
    bench.config.vips = (0..300).map(|n| last(n).parse().unwrap()).collect();
    bench.config.services = None;
    let placed = |interface: &str| {
        let all = addresses();
        let on = |vip: &&std::net::IpAddr| all.iter().any(|line| line.starts_with(&format!("{interface} {vip}/")));
        bench.config.vips.iter().filter(on).count()
    };
    for (role, counts) in [(Role::Backup, [0, 300]), (Role::Master, [300, 0]), (Role::Backup, [0, 300])] {
        let start = Instant::now();
        bench.node().become_role(role).unwrap();
        println!("{role}: {:?}", start.elapsed());
        assert_eq!([placed("bond0"), placed("lo")], counts, "{role}");
    }
    bench.node().release(|_| ()).unwrap();
    assert_eq!([placed("bond0"), placed("lo")], [0, 0]);
}
