//! Who holds an address, asked over a link of real nodes, with the kernel's neighbour tables as
//! witness.

use std::net::{IpAddr, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use lvs_dr::marks::{Mac, who_has};
use lvs_dr::{Cause, Error, Netns};

use crate::lab::{ip, load_ipv6, new_netns};
use crate::lan::{INTERFACE, VIP, VIP6, add_vips, enter_switch, host};

const LIMIT: Duration = Duration::from_secs(2);
const LINGER: Duration = Duration::from_millis(300);

fn vips() -> [IpAddr; 2] {
    [VIP, VIP6].map(|vip| vip.parse().unwrap())
}

fn mac(host: &Netns) -> Mac {
    let shown = host.run(|| ip(&format!("-o link show dev {INTERFACE}"))).unwrap();
    let mut words = shown.split_ascii_whitespace().skip_while(|word| *word != "link/ether");
    words.nth(1).unwrap().parse().unwrap()
}

fn until(what: &str, condition: impl Fn() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < Duration::from_secs(5), "waited in vain: {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

fn ask(host: &Netns, vip: IpAddr) -> Vec<Mac> {
    who_has(host, INTERFACE, vip, LIMIT, LINGER).unwrap()
}

/// Nodes with all VIPs on lo; their interfaces run.
fn nodes<const N: usize>() -> [Netns; N] {
    enter_switch();
    std::array::from_fn(|number| {
        let node = host(11 + number as u8);
        add_vips(&node, "lo");
        node.run(|| until("the interface runs", || ip(&format!("link show {INTERFACE}")).contains("state UP")))
            .unwrap();
        node
    })
}

fn link_local(host: &Netns) {
    let ready = || ip(&format!("-6 address show dev {INTERFACE} scope link -tentative")).contains("inet6 fe80:");
    host.run(|| until("a link-local address", ready)).unwrap();
}

#[test]
fn the_director_alone_answers() {
    let [director, backup, other] = nodes();
    [&director, &backup, &other].into_iter().for_each(link_local);
    for vip in vips() {
        let start = Instant::now();
        assert!(ask(&backup, vip).is_empty(), "{vip}: only on lo");
        let took = start.elapsed();
        assert!(took >= LIMIT && took < LIMIT + Duration::from_secs(1), "{took:?}");
    }
    add_on_interface(&director);
    for with_link_local in [true, false] {
        let start = Instant::now();
        for vip in vips() {
            for asker in [&backup, &other] {
                assert_eq!(ask(asker, vip), [mac(&director)], "{vip}");
            }
            // The director does not hear itself.
            assert!(who_has(&director, INTERFACE, vip, LINGER, LINGER).unwrap().is_empty());
        }
        assert!(start.elapsed() < 2 * LIMIT, "the answers took {:?}", start.elapsed());
        if with_link_local {
            // From here on the solicitations have no source.
            for asker in [&backup, &other] {
                asker.run(|| ip(&format!("-6 address flush dev {INTERFACE} scope link"))).unwrap();
            }
        }
    }
}

fn add_on_interface(host: &Netns) {
    let add = || {
        ip(&format!("address add {VIP}/32 dev {INTERFACE}"));
        ip(&format!("address add {VIP6}/128 dev {INTERFACE} nodad preferred_lft 0"));
    };
    host.run(add).unwrap();
}

#[test]
fn two_directors_answer_both() {
    let [first, second, backup] = nodes();
    [&first, &second].into_iter().for_each(add_on_interface);
    link_local(&backup);
    let mut both = vec![mac(&first), mac(&second)];
    both.sort();
    for vip in vips() {
        assert_eq!(ask(&backup, vip), both, "{vip}");
        // One of the directors asks.
        assert_eq!(ask(&first, vip), [mac(&second)], "{vip}");
        // Without waiting for more, one of them is enough.
        let start = Instant::now();
        assert_eq!(who_has(&backup, INTERFACE, vip, LIMIT, Duration::ZERO).unwrap().len(), 1, "{vip}");
        assert!(start.elapsed() < Duration::from_millis(500), "{:?}", start.elapsed());
    }
}

/// The VIP has moved without an announcement: the client's entry is wrong, and the probe leaves it
/// so.
#[test]
fn nobodys_neighbour_table_is_changed() {
    let [old, new, backup] = nodes();
    let client = host(1);
    add_on_interface(&old);
    [&old, &new, &backup, &client].into_iter().for_each(link_local);
    let entry = |host: &Netns, vip: IpAddr| host.run(|| ip(&format!("neighbour show to {vip}"))).unwrap();
    for vip in vips() {
        client.run(|| UdpSocket::bind(("::", 0)).unwrap().send_to(b"x", (vip, 9)).unwrap()).unwrap();
        until("the client finds the director", || entry(&client, vip).contains(&mac(&old).to_string()));
    }
    for vip in vips() {
        let delete = || ip(&format!("address del {vip}/{} dev {INTERFACE}", if vip.is_ipv4() { 32 } else { 128 }));
        old.run(delete).unwrap();
    }
    add_on_interface(&new);
    for vip in vips() {
        assert_eq!(ask(&backup, vip), [mac(&new)]);
        assert!(entry(&client, vip).contains(&mac(&old).to_string()), "{}", entry(&client, vip));
        assert_eq!((entry(&backup, vip), entry(&new, vip), entry(&old, vip)), Default::default());
    }
    // And nobody learns of the asker's IPv4 address.
    let learned = new.run(|| ip("-4 neighbour show")).unwrap();
    assert_eq!(learned, "");
}

#[test]
fn what_cannot_be_asked_is_named() {
    load_ipv6();
    let here = new_netns();
    let configure = || {
        ip("link add eth0 type veth peer name eth1");
        ip("link add dummy0 up type dummy");
        ip("link set eth1 up");
    };
    here.run(configure).unwrap();
    for vip in vips() {
        let ask = |interface: &str| who_has(&here, interface, vip, LINGER, LINGER);
        let error = ask("eth9").unwrap_err();
        assert_eq!((error.cause(), error.errno()), (Some(Cause::NoInterface), Some(19)), "{error}");
        let error = ask("eth0").unwrap_err();
        assert_eq!((error.cause(), error.errno()), (Some(Cause::InterfaceDown), Some(100)), "{error}");
        for (interface, kind) in [("lo", "772"), ("a/b", "name")] {
            let error = ask(interface).unwrap_err();
            assert!(matches!(error, Error::Invalid { .. }) && error.to_string().contains(kind), "{error}");
        }
        // Nobody answers: without a carrier, without neighbours.
        assert!(ask("eth1").unwrap().is_empty() && ask("dummy0").unwrap().is_empty());
        // It goes down meanwhile.
        thread::scope(|scope| {
            let asking = scope.spawn(|| who_has(&here, "dummy0", vip, Duration::from_secs(20), LINGER));
            thread::sleep(Duration::from_millis(300));
            here.run(|| ip("link set dummy0 down")).unwrap();
            assert_eq!(asking.join().unwrap().unwrap_err().cause(), Some(Cause::InterfaceDown));
        });
        here.run(|| ip("link set dummy0 up")).unwrap();
    }
    for address in ["224.0.0.1", "::1", "fe80::1", "0.0.0.0"] {
        let error = who_has(&here, "eth0", address.parse().unwrap(), LIMIT, LINGER).unwrap_err();
        assert!(matches!(error, Error::Invalid { .. }), "{error}");
    }
}
