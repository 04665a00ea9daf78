//! Marks for what a node itself sends to a VIP, judged by iptables, and by connections of local
//! clients.

use std::collections::BTreeSet;
use std::fs;
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicU32, Ordering};

use lvs_dr::Netns;
use lvs_dr::marks::{Backend, LocalMarks};
use rustix::thread::{CapabilitySet, CapabilitySets, remove_capability_from_bounding_set, set_capabilities};

use crate::lab::{ip, ipvsadm, load_ipv6, new_netns, run};
use crate::lan::{INTERFACE, Session, VIP, VIP6, add_vips, enter_switch, host, serve};

type Marks = BTreeSet<(IpAddr, NonZeroU32)>;

fn marks(list: &[(&str, u32)]) -> Marks {
    list.iter().map(|&(vip, mark)| (vip.parse().unwrap(), NonZeroU32::new(mark).unwrap())).collect()
}

fn rules(program: &str) -> Vec<String> {
    let listed = run(&format!("{program} -t mangle -S OUTPUT"));
    listed.lines().filter(|line| line.starts_with("-A")).map(str::to_owned).collect()
}

/// Whether this kernel has what marks take. Where it has not (Debian's UML kernel 7.2), that is a
/// reason and no error.
fn have_backend(netns: &Netns) -> bool {
    let mut ours = LocalMarks::open_in(netns.clone());
    let observed = ours.observe().unwrap();
    if observed.backend.is_some() {
        return true;
    }
    let reason = observed.reason.as_deref().unwrap();
    assert!(reason.contains("does not work: ") && reason.contains("`apt install nftables`"), "{reason}");
    assert_eq!(ours.apply(&marks(&[(VIP, 1)])).unwrap(), observed);
    assert!(observed.marked.is_empty() && !ours.remove().unwrap());
    eprintln!("not tested on this kernel: {reason}");
    false
}

#[test]
fn marks_are_set_and_removed() {
    load_ipv6();
    let here = new_netns();
    if !have_backend(&here) {
        return;
    }
    let work = || {
        let mut ours = LocalMarks::open().unwrap();
        assert!(!ours.remove().unwrap());
        let nothing = ours.observe().unwrap();
        // With LAB=none, or where LAB_KERNEL names a kernel that has it.
        let nft = nothing.backend == Some(Backend::Nft);
        assert!(nothing.marked.is_empty() && nothing.reason.is_none(), "{nothing:?}");
        let foreign = "-A OUTPUT -d 192.0.2.254/32 -m comment --comment other -j MARK --set-xmark 0x9/0xffffffff";
        for program in ["iptables-legacy", "ip6tables-legacy"] {
            run(&format!("{program} -t mangle {}", foreign.replace("-d 192.0.2.254/32 ", "")));
        }

        let one = marks(&[(VIP, 1), (VIP6, 0x8000_0001)]);
        let more = marks(&[(VIP, 2), ("192.0.2.253", 1), (VIP6, 0x8000_0001)]);
        for wanted in [&one, &one, &more, &one] {
            let applied = ours.apply(wanted).unwrap();
            assert_eq!((&applied.marked, &applied.reason), (wanted, &None));
            assert_eq!(ours.observe().unwrap(), applied);
            // Another process sees the same.
            assert_eq!(LocalMarks::open().unwrap().observe().unwrap(), applied);
            if !nft {
                let v4 = wanted.iter().filter(|(vip, _)| vip.is_ipv4()).count();
                assert_eq!((rules("iptables-legacy").len(), rules("ip6tables-legacy").len()), (v4 + 1, 2));
            }
        }
        if !nft {
            // What somebody changes or adds under our name is put right.
            let rule = rules("iptables-legacy").into_iter().find(|rule| rule.contains("lvs-dr")).unwrap();
            run(&format!("iptables-legacy -t mangle {}", rule.replace(" -d ", " -p tcp -d ")));
            run(&format!("iptables-legacy -t mangle {rule}"));
            run(&format!("iptables-legacy -t mangle {}", rule.replacen("-A", "-D", 1)));
            assert!(ours.apply(&one).unwrap().marked == one && rules("iptables-legacy").len() == 2);
        }
        for (wanted, what) in [(marks(&[(VIP, 1), (VIP, 2)]), "two marks"), (marks(&[("224.0.0.1", 1)]), "multicast")] {
            let error = ours.apply(&wanted).unwrap_err();
            assert!(error.to_string().contains(what), "{error}");
        }
        assert_eq!(ours.observe().unwrap().marked, one);

        assert!(ours.remove().unwrap() && !ours.remove().unwrap());
        assert!(ours.observe().unwrap().marked.is_empty());
        assert!(ours.apply(&one).unwrap().marked == one && ours.apply(&Marks::new()).unwrap().marked.is_empty());
        for program in ["iptables-legacy", "ip6tables-legacy"] {
            let left = rules(program);
            assert!(left.len() == 1 && left[0].contains("other"), "{left:?}");
        }
    };
    here.run(work).unwrap();
}

#[test]
fn a_namespace_of_its_own() {
    let (here, other) = (new_netns(), new_netns());
    if !have_backend(&here) {
        return;
    }
    let wanted = marks(&[(VIP, 1)]);
    let mut ours = LocalMarks::open_in(here.clone());
    assert_eq!(ours.apply(&wanted).unwrap().marked, wanted);
    assert_eq!(ours.observe().unwrap().marked, wanted);
    assert!(LocalMarks::open_in(other).observe().unwrap().marked.is_empty());
    assert_eq!(LocalMarks::open_in(here).observe().unwrap().marked, wanted);
}

/// Without the privileges nothing works; that is a reason, not an error.
#[test]
fn what_does_not_work_is_a_reason() {
    let here = new_netns();
    let wanted = marks(&[(VIP, 1)]);
    // In a thread of its own. Root's programs have what the bounding set leaves them.
    let work = || {
        for capability in [CapabilitySet::NET_ADMIN, CapabilitySet::NET_RAW, CapabilitySet::SYS_ADMIN] {
            remove_capability_from_bounding_set(capability).unwrap();
        }
        let none = CapabilitySet::empty();
        set_capabilities(None, CapabilitySets { effective: none, permitted: none, inheritable: none }).unwrap();
        let mut ours = LocalMarks::open().unwrap();
        (ours.observe().unwrap(), ours.apply(&wanted).unwrap(), ours.remove().unwrap())
    };
    let (observed, applied, removed) = here.run(work).unwrap();
    let reason = observed.reason.clone().unwrap();
    assert!(reason.starts_with("no program can mark packets of local clients: "), "{reason}");
    let advice = ["run as root: CAP_NET_ADMIN", "`apt install nftables`"];
    assert!(reason.contains("does not work: ") && advice.iter().any(|words| reason.contains(words)), "{reason}");
    assert!(observed == applied && observed.backend.is_none() && observed.marked.is_empty() && !removed);
}

/// Of 30 connections of the host's own clients to the VIP: how many get an answer, and how many
/// from the host itself.
pub(crate) fn local_clients(host: &Netns, vip: &str, number: u8) -> (usize, usize) {
    // A port that was used lately may be used again, and IPVS still sends it to the server of that
    // time.
    static CALLS: AtomicU32 = AtomicU32::new(0);
    let first = 10_000 + CALLS.fetch_add(1, Ordering::Relaxed) % 50 * 1000;
    local_clients_from(host, vip, number, first..=first + 999)
}

/// The same, from these ports.
pub(crate) fn local_clients_from(host: &Netns, vip: &str, number: u8, ports: RangeInclusive<u32>) -> (usize, usize) {
    let range = "/proc/sys/net/ipv4/ip_local_port_range";
    host.run(|| fs::write(range, format!("{} {}", ports.start(), ports.end())).unwrap()).unwrap();
    let clients: Vec<_> = (0..30)
        .map(|_| {
            let (host, vip) = (host.clone(), vip.to_owned());
            std::thread::spawn(move || Session::open(&host, &vip).and_then(|mut session| session.ask()))
        })
        .collect();
    let served: Vec<u8> = clients.into_iter().filter_map(|client| client.join().unwrap()).collect();
    (served.len(), served.iter().filter(|&&served| served == number).count())
}

#[test]
fn local_clients_of_a_director_and_a_backup() {
    enter_switch();
    if !have_backend(&Netns::current().unwrap()) {
        return;
    }
    let nodes = [11, 12, 13].map(|number| {
        let node = host(number);
        add_vips(&node, "lo");
        serve(&node, number);
        (node, number)
    });
    let add = || {
        ip(&format!("address add {VIP}/32 dev {INTERFACE}"));
        ip(&format!("address add {VIP6}/128 dev {INTERFACE} nodad preferred_lft 0"));
    };
    nodes[0].0.run(add).unwrap();
    for (node, number) in &nodes {
        let load = || {
            ipvsadm(&format!("-A -t {VIP}:80 -s wrr"));
            ipvsadm(&format!("-A -t [{VIP6}]:80 -s wrr"));
            for server in [11, 12, 13] {
                ipvsadm(&format!("-a -t {VIP}:80 -r 192.0.2.{server}:80 -g"));
                ipvsadm(&format!("-a -t [{VIP6}]:80 -r [2001:db8::{server}]:80 -g"));
            }
            ipvsadm("-A -f 1 -s rr");
            ipvsadm(&format!("-a -f 1 -r 192.0.2.{number}:1 -g"));
            ipvsadm("-A -f 1 -6 -s rr");
            ipvsadm(&format!("-a -f 1 -6 -r [2001:db8::{number}]:1 -g"));
        };
        node.run(load).unwrap();
    }
    for (role, (node, number)) in ["director", "backup"].into_iter().zip(&nodes) {
        for vip in [VIP, VIP6] {
            // wrr picks each of the three servers ten times.
            assert_eq!(local_clients(node, vip, *number), (10, 10), "{role}, {vip}: without a mark");
        }
        let wanted = marks(&[(VIP, 1), (VIP6, 1)]);
        let mut ours = LocalMarks::open_in(node.clone());
        assert_eq!(ours.apply(&wanted).unwrap().marked, wanted);
        for vip in [VIP, VIP6] {
            assert_eq!(local_clients(node, vip, *number), (30, 30), "{role}, {vip}: with it");
        }
        assert!(ours.remove().unwrap());
    }
}
