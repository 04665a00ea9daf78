//! The ways that packets take to a server and back.

use lvs_dr::node::Role;
use lvs_dr::node::audit::{Kind, Severity};

use super::{config, expect, expect_nothing, failing, node_as, server, sh};
use crate::lab::{cable, ip, ip_batch};
use crate::lan::{VIP, enter_switch, host};

/// Servers have their addresses on a network of their own, and the VIP is on the clients'.
#[test]
fn server_addresses_on_another_network_card_than_the_vip() {
    enter_switch();
    ip_batch("link add br1 type bridge forward_delay 0\nlink set br1 up\n");
    let client = host(1);
    let hosts = [11_u8, 12].map(|number| {
        let host = server(number);
        cable(&format!("back{number}"), &format!("02:00:00:00:03:{number:02x}"), &host, "eth1");
        ip(&format!("link set back{number} master br1"));
        sh(&host, &format!("ip address add 10.9.0.{number}/24 dev eth1"));
        host
    });
    let services = format!(
        "-A -t {VIP}:80 -s rr\n-a -t {VIP}:80 -r 10.9.0.11:80 -g -w 1\n-a -t {VIP}:80 -r 10.9.0.12:80 -g -w 1\n"
    );
    let mut backup = node_as(&hosts[1], config("bond0", &services), Role::Backup);
    let mut director = node_as(&hosts[0], config("bond0", &services), Role::Master);
    assert_eq!(failing(&client, 10), 0);
    expect_nothing(&mut director);
    expect_nothing(&mut backup);
    for of in ["eth1", "all"] {
        sh(&hosts[1], &format!("sysctl -qw net/ipv4/conf/{of}/rp_filter=1"));
        assert_eq!(failing(&client, 10), 5, "{of}");
        let [finding] = expect(&mut backup, [("rp-filter", Severity::Error)]);
        let is_right = matches!(&finding.kind, Kind::RpFilter { interface, through, .. } if interface == "eth1" && through == "bond0");
        assert!(is_right, "{finding}");
        finding.remedy.commands.iter().for_each(|command| drop(sh(&hosts[1], command)));
        assert_eq!(failing(&client, 10), 0, "{of}");
        expect_nothing(&mut backup);
        sh(&hosts[1], "sysctl -qw net/ipv4/conf/eth1/rp_filter=0");
    }
}
