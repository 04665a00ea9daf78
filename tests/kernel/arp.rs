//! ARP settings, judged by what a neighbour learns.

use std::fs;
use std::net::{Ipv4Addr, UdpSocket};
use std::thread;
use std::time::Duration;

use lvs_dr::arp::{AnnounceMode, Arp, ArpTarget, Change, IgnoreMode, Returned, Settings};
use lvs_dr::{Cause, Error, Netns};

use crate::lab::{cable, enter_new_netns, ip, new_netns, run};

const MAC: &str = "02:00:00:00:00:01";

const REAL: Ipv4Addr = Ipv4Addr::new(192, 168, 0, 1);
const NEIGHBOUR: Ipv4Addr = Ipv4Addr::new(192, 168, 0, 9);
const LO_HOST: Ipv4Addr = Ipv4Addr::new(192, 168, 0, 254);
const LO_GLOBAL: Ipv4Addr = Ipv4Addr::new(192, 168, 0, 253);
const LO_LINK: Ipv4Addr = Ipv4Addr::new(192, 168, 0, 252);
const ETH_NEAR: Ipv4Addr = Ipv4Addr::new(192, 168, 0, 251);
const ETH_FAR: Ipv4Addr = Ipv4Addr::new(10, 9, 9, 9);

fn eth0() -> ArpTarget {
    ArpTarget::Interface("eth0".into())
}

/// A node with VIPs of each kind, which the thread enters, and a neighbour.
fn node_and_neighbour() -> (Arp, Netns) {
    enter_new_netns();
    let neighbour = new_netns();
    cable("eth0", MAC, &neighbour, "eth0");
    ip(&format!("address add {REAL}/24 dev eth0"));
    ip(&format!("address add {ETH_NEAR}/32 dev eth0"));
    ip(&format!("address add {ETH_FAR}/32 dev eth0"));
    ip(&format!("address add {LO_HOST}/32 dev lo scope host"));
    ip(&format!("address add {LO_GLOBAL}/32 dev lo scope global"));
    ip(&format!("address add {LO_LINK}/32 dev lo scope link"));
    let address = || {
        ip(&format!("address add {NEIGHBOUR}/24 dev eth0"));
        ip(&format!("route add {ETH_FAR}/32 dev eth0"));
    };
    neighbour.run(address).unwrap();
    (Arp::open().unwrap(), neighbour)
}

/// Which of these addresses the neighbour gets an answer for, when it asks.
fn answered<const N: usize>(neighbour: &Netns, addresses: [Ipv4Addr; N]) -> [bool; N] {
    let ask = || {
        ip("neighbour flush dev eth0 nud all");
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        for address in addresses {
            // What comes back is an error: nobody listens there.
            let _ = socket.send_to(b"x", (address, 9));
        }
        thread::sleep(Duration::from_millis(30));
        let table = ip("neighbour show dev eth0");
        addresses.map(|address| {
            let entry = table.lines().find(|line| line.starts_with(&format!("{address} ")));
            let entry = entry.unwrap_or_else(|| panic!("{address} was not asked for: {table}"));
            assert!(entry.contains(MAC) || entry.contains("INCOMPLETE"), "{entry}");
            entry.contains(MAC)
        })
    };
    neighbour.run(ask).unwrap()
}

fn set(arp: &Arp, target: &ArpTarget, ignore: i32) {
    let settings = Settings { ignore: ignore.into(), ..arp.get(target).unwrap() };
    arp.set(target, settings).unwrap();
}

#[test]
fn what_is_answered_in_each_mode() {
    let (arp, neighbour) = node_and_neighbour();
    let sysctl = |path: &str, value: &str| fs::write(format!("/proc/sys/net/ipv4/conf/{path}"), value).unwrap();
    for (mode, localnet) in
        [(0, ""), (1, ""), (2, ""), (3, ""), (4, ""), (7, ""), (8, ""), (9, ""), (1, "lo"), (3, "lo"), (3, "all")]
    {
        // 9 means nothing, and is refused: the kernel takes it.
        sysctl("eth0/arp_ignore", &mode.to_string());
        if !localnet.is_empty() {
            sysctl(&format!("{localnet}/route_localnet"), "1");
        }
        let found = answered(&neighbour, [REAL, LO_HOST, LO_GLOBAL, LO_LINK, ETH_NEAR, ETH_FAR]);
        let mode = IgnoreMode::from(mode);
        assert_eq!(arp.effective("eth0").unwrap().ignore, mode);
        let local = arp.route_localnet().unwrap();
        assert_eq!(local, !localnet.is_empty());
        let expected = [
            mode != IgnoreMode::Always,
            !mode.hides_loopback_vip(true, local),
            !mode.hides_loopback_vip(false, local),
            !mode.hides_loopback_vip(false, local),
            mode.answers_for_interface_vip(true),
            mode.answers_for_interface_vip(false),
        ];
        assert_eq!(found, expected, "arp_ignore={mode}, route_localnet on {localnet:?}");
        assert_eq!(arp.hides_loopback_vip("eth0", true).unwrap(), !found[1]);
        if !localnet.is_empty() {
            sysctl(&format!("{localnet}/route_localnet"), "0");
        }
    }
}

#[test]
fn the_greater_number_counts() {
    let (arp, neighbour) = node_and_neighbour();
    for (all, own) in [(0, 1), (1, 0), (1, 4), (4, 1), (3, 1), (8, 1)] {
        set(&arp, &ArpTarget::All, all);
        set(&arp, &eth0(), own);
        let effective = arp.effective("eth0").unwrap().ignore;
        assert_eq!(effective.value(), all.max(own));
        let expected = [!effective.hides_loopback_vip(true, false), !effective.hides_loopback_vip(false, false)];
        assert_eq!(answered(&neighbour, [LO_HOST, LO_GLOBAL]), expected, "all={all} eth0={own}");
    }
}

#[test]
fn whom_requests_name_as_sender() {
    let (arp, neighbour) = node_and_neighbour();
    for mode in [0, 1, 2, 3] {
        let mode = AnnounceMode::from(mode);
        for vip in [LO_HOST, LO_GLOBAL] {
            // The answers are not what this is about.
            arp.set(&eth0(), Settings::HIDE).unwrap();
            // One of them means nothing, and is refused: the kernel takes it.
            fs::write("/proc/sys/net/ipv4/conf/eth0/arp_announce", mode.to_string()).unwrap();
            ip("neighbour flush dev eth0 nud all");
            neighbour.run(|| ip("neighbour flush dev eth0 nud all")).unwrap();
            UdpSocket::bind((vip, 0)).unwrap().send_to(b"x", (NEIGHBOUR, 9)).unwrap();
            thread::sleep(Duration::from_millis(20));
            // The neighbour keeps what a request that it answers tells it.
            let table = neighbour.run(|| ip("neighbour show dev eth0")).unwrap();
            let named = table.contains(&format!("{vip} lladdr {MAC}"));
            assert_eq!(named, !mode.hides_loopback_vip(true), "arp_announce={mode}: {table}");
            assert!(named || table.contains(&format!("{REAL} lladdr {MAC}")), "arp_announce={mode}: {table}");
        }
    }
}

#[test]
fn settings_are_set_and_given_back() {
    let (arp, neighbour) = node_and_neighbour();
    let other = Settings { ignore: IgnoreMode::HostScope, announce: AnnounceMode::PreferSubnet };
    for target in [ArpTarget::All, eth0()] {
        assert_eq!(arp.get(&target).unwrap(), Settings::KERNEL);
        let change = arp.set(&target, Settings::HIDE).unwrap();
        assert_eq!(change, Change { target: target.clone(), before: Settings::KERNEL, after: Settings::HIDE });
        let read = |name: &str| run(&format!("cat /proc/sys/net/ipv4/conf/{target}/{name}"));
        assert_eq!((read("arp_ignore"), read("arp_announce")), ("1\n".into(), "2\n".into()));
        assert_eq!(answered(&neighbour, [REAL, LO_HOST]), [true, false]);

        // Again there is nothing to do; and the text form is as good.
        assert!(arp.set(&target, Settings::HIDE).unwrap().is_empty());
        let kept: Change = change.to_string().parse().unwrap();
        let back = arp.give_back(&kept).unwrap();
        assert_eq!((back.ignore, back.announce), (Returned::Restored, Returned::Restored));
        assert_eq!(arp.get(&target).unwrap(), Settings::KERNEL);
        let back = arp.give_back(&kept).unwrap();
        assert_eq!((back.ignore, back.announce), (Returned::Unchanged, Returned::Unchanged));

        // What somebody else has changed since stays.
        let change = arp.set(&target, Settings::HIDE).unwrap();
        arp.set(&target, Settings { ignore: other.ignore, ..Settings::HIDE }).unwrap();
        let back = arp.give_back(&change).unwrap();
        assert_eq!((back.ignore, back.announce), (Returned::Kept(3), Returned::Restored));
        assert_eq!(arp.get(&target).unwrap(), Settings { ignore: other.ignore, ..Settings::KERNEL });
        arp.set(&target, Settings::KERNEL).unwrap();
    }
    // A plan changes nothing.
    assert!(!arp.plan(&eth0(), other).unwrap().is_empty());
    assert_eq!(arp.get(&eth0()).unwrap(), Settings::KERNEL);
}

#[test]
fn what_cannot_be_is_named() {
    enter_new_netns();
    let (arp, eth9) = (Arp::open().unwrap(), ArpTarget::Interface("eth9".into()));
    let change = Change { target: eth9.clone(), before: Settings::KERNEL, after: Settings::HIDE };
    for error in [
        arp.get(&eth9).unwrap_err(),
        arp.effective("eth9").unwrap_err(),
        arp.set(&eth9, Settings::HIDE).unwrap_err(),
        arp.give_back(&change).unwrap_err(),
    ] {
        assert_eq!((error.cause(), error.errno()), (Some(Cause::NoInterface), Some(19)), "{error}");
        assert!(error.to_string().contains("eth9"), "{error}");
    }
}

/// As in most containers.
#[test]
fn a_read_only_proc_is_named() {
    enter_new_netns();
    enter_new_mount_namespace();
    run("mount --bind /proc/sys /proc/sys");
    run("mount -o remount,bind,ro /proc/sys");
    let arp = Arp::open().unwrap();
    assert_eq!(arp.get(&ArpTarget::All).unwrap(), Settings::KERNEL);
    match arp.set(&ArpTarget::All, Settings::HIDE).unwrap_err() {
        Error::System { object, error, .. } => {
            assert_eq!(object, "/proc/sys/net/ipv4/conf/all/arp_ignore");
            assert_eq!(error.raw_os_error(), Some(30));
        }
        other => panic!("{other}"),
    }
}

#[allow(unsafe_code)]
pub(crate) fn enter_new_mount_namespace() {
    use rustix::thread::{UnshareFlags, unshare_unsafe};
    // SAFETY: the thread gets a mount namespace and a working directory of its own; no memory or
    // descriptor is shared differently.
    unsafe { unshare_unsafe(UnshareFlags::NEWNS) }.unwrap();
    run("mount --make-rprivate /");
}

#[test]
fn a_client_stays_in_its_namespace() {
    enter_new_netns();
    let other = new_netns();
    let (here, there) = (Arp::open().unwrap(), Arp::open_in(other.clone()));
    there.set(&ArpTarget::All, Settings::HIDE).unwrap();
    assert_eq!(here.get(&ArpTarget::All).unwrap(), Settings::KERNEL);
    assert_eq!(other.run(Arp::open).unwrap().unwrap().get(&ArpTarget::All).unwrap(), Settings::HIDE);
}
