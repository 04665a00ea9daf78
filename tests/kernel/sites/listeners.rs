//! The web server itself: it does not run, or does not listen on the VIP.

use std::net::TcpListener;

use lvs_dr::node::audit::Severity;
use lvs_dr::node::{Config, Role};

use super::{config, expect, expect_nothing, failing, node, node_as, server, web};
use crate::lan::{VIP, enter_switch, host, serve};

#[test]
fn a_server_that_does_not_listen_on_the_vip() {
    enter_switch();
    let client = host(1);
    let hosts = [server(11), host(12), host(13)];
    let services = web("rr", &[11, 12, 13]);
    // The third listens as `listen 192.0.2.13:80` of nginx does.
    let real = hosts[2].run(|| TcpListener::bind("192.0.2.13:80").unwrap()).unwrap();
    // A node without a role gets no packets.
    let mut first = node(&hosts[1], config("bond0", &services));
    let [finding] = expect(&mut first, [("not-listening", Severity::Warning)]);
    assert!(finding.reason.contains("no socket of this node listens there"), "{finding}");
    let [mut second, mut third] = [1, 2].map(|index| node_as(&hosts[index], config("bond0", &services), Role::Backup));
    let mut director = node_as(&hosts[0], config("bond0", &services), Role::Master);
    expect_nothing(&mut director);
    assert_eq!(failing(&client, 30), 20);

    let [finding] = expect(&mut second, [("not-listening", Severity::Error)]);
    assert!(finding.reason.contains(&format!("tcp {VIP}:80: this node is one of its servers")), "{finding}");
    assert!(!finding.remedy.is_ours() && finding.remedy.text.contains("start the server"), "{finding}");
    serve(&hosts[1], 12);
    expect_nothing(&mut second);
    assert_eq!(failing(&client, 30), 10);

    let [finding] = expect(&mut third, [("not-listening", Severity::Error)]);
    assert!(finding.reason.contains("on 192.0.2.13 only"), "{finding}");
    let state_dir = third.config().state_dir.clone();
    let without_listener = [format!("tcp {VIP}:80").parse().unwrap()].into();
    // Where NAT serves it.
    expect_nothing(&mut node(&hosts[2], Config { without_listener, state_dir, ..config("bond0", &services) }));
    drop(real);
    serve(&hosts[2], 13);
    expect_nothing(&mut third);
    assert_eq!(failing(&client, 30), 0);
    // A server that was taken out need not listen.
    let drained = services.replace("192.0.2.11:80 -g -w 1", "192.0.2.11:80 -g -w 0").replace("11", "14");
    let mut out = node(&host(14), Config { services: Some(drained.parse().unwrap()), ..config("bond0", &services) });
    expect_nothing(&mut out);
}
