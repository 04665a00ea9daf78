//! Set-ups of real sites, as public reports and how-tos describe them: the harm is seen with
//! packets, then what an audit finds, then that its remedy ends the harm.

mod arp;
mod destinations;
mod drain;
mod elections;
mod listeners;
mod lives;
mod paths;

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::thread;
use std::time::Duration;

use lvs_dr::Netns;
use lvs_dr::node::{Config, Node, OwnRequests, Role};

use crate::findings::{audit, expect, expect_nothing};
use crate::lab::{ip_batch, run};
use crate::lan::{self, INTERFACE, VIP};
use crate::node::new_path;

/// A web service on the VIP, with the hosts of these numbers as servers.
fn web(scheduler: &str, servers: &[u8]) -> String {
    let servers = servers.iter().map(|number| format!("-a -t {VIP}:80 -r 192.0.2.{number}:80 -g -w 1\n"));
    format!("-A -t {VIP}:80 -s {scheduler}\n{}", servers.collect::<String>())
}

/// A host of the switch that serves.
fn server(number: u8) -> Netns {
    let host = lan::host(number);
    lan::serve(&host, number);
    host
}

/// A configuration for the VIP on this interface.
fn config(interface: &str, services: &str) -> Config {
    let mut config = Config::new(interface, [VIP.parse().unwrap()]);
    config.services = Some(services.parse().unwrap());
    config.state_dir = new_path();
    config.sync.interface = INTERFACE.into();
    config.marks.own_requests = OwnRequests::LeftAlone;
    config
}

fn node(host: &Netns, config: Config) -> Node {
    Node::open_in(config, host.clone()).unwrap()
}

/// A node that has taken on this role.
fn node_as(host: &Netns, config: Config, role: Role) -> Node {
    let mut node = node(host, config);
    node.become_role(role).unwrap_or_else(|error| panic!("{role}: {error}"));
    node
}

fn batch(host: &Netns, commands: &str) {
    host.run(|| ip_batch(commands)).unwrap();
}

fn sh(host: &Netns, command: &str) -> String {
    host.run(|| run(command)).unwrap()
}

/// How many of some new connections of a client fail, all at once. Sooner than TCP repeats a
/// packet.
fn failing(client: &Netns, count: usize) -> usize {
    failing_on(client, VIP, count)
}

fn failing_on(client: &Netns, vip: &str, count: usize) -> usize {
    const PATIENCE: Duration = Duration::from_millis(700);
    let is_answered = || -> io::Result<()> {
        let mut stream = TcpStream::connect_timeout(&format!("{vip}:80").parse().unwrap(), PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.write_all(&[0])?;
        stream.read_exact(&mut [0])
    };
    thread::scope(|scope| {
        let open: Vec<_> = (0..count).map(|_| scope.spawn(|| client.run(is_answered).unwrap().is_err())).collect();
        open.into_iter().filter_map(|opened| opened.join().unwrap().then_some(())).count()
    })
}
