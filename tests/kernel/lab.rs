//! A fresh network namespace for each test, and the programs that judge.

use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use lvs_dr::Netns;
use lvs_dr::marks::{Change, Marks, Plan, Stranger};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::thread::{UnshareFlags, gettid, unshare_unsafe};

/// Moves the calling thread (and the programs that it starts from here on) into a new network
/// namespace with `lo` up.
///
/// Panics outside of the lab's guest: a test must not touch the tables of the machine that it runs
/// on.
pub fn enter_new_netns() {
    enter_bare_netns();
    ip("link set lo up");
}

/// The same with `lo` down, as a new namespace is.
pub fn enter_bare_netns() {
    let lab = std::env::var("LAB").unwrap_or_default();
    assert!(
        matches!(lab.as_str(), "guest" | "none"),
        "kernel tests run in the lab's guest: use `cargo test`, not the test binary itself"
    );
    // SAFETY: a network namespace belongs to the thread; no memory or descriptor is shared
    // differently afterwards.
    unsafe { unshare_unsafe(UnshareFlags::NEWNET) }.expect("a new network namespace (are you root in the guest?)");
}

/// IPv6: nobody loads it by asking for an address. In newer kernels it is built in.
pub fn load_ipv6() {
    if !std::path::Path::new("/proc/net/if_inet6").exists() {
        run("modprobe ipv6");
    }
}

/// A further network namespace, with `lo` up.
pub fn new_netns() -> Netns {
    std::thread::spawn(|| {
        enter_new_netns();
        Netns::current().unwrap()
    })
    .join()
    .unwrap()
}

/// Keeps a namespace until the guest ends. On Linux 6.1 an interface over which IPVS has balanced
/// IPv6 may never become free (`unregister_netdevice: waiting for bond0 to become free`), and
/// whoever waits for it keeps everybody else waiting.
pub fn keep(netns: &Netns) {
    std::mem::forget(netns.clone());
}

/// Waits until a client connects, `longest` at most: a poll() costs a guest far less than many
/// calls that find nothing.
pub fn accept(listener: &TcpListener, longest: Duration) -> Option<TcpStream> {
    poll(&mut [PollFd::new(listener, PollFlags::IN)], Some(&longest.try_into().unwrap())).unwrap();
    listener.set_nonblocking(true).unwrap();
    let (stream, _) = listener.accept().ok()?;
    stream.set_nonblocking(false).unwrap();
    Some(stream)
}

/// Lays a cable from the calling thread's namespace to another one, and takes both ends up.
pub fn cable(ours: &str, our_mac: &str, other: &Netns, theirs: &str) {
    let here = gettid().as_raw_nonzero();
    let lay = || {
        ip(&format!("link add {theirs} up type veth peer name {ours} address {our_mac} netns {here}"));
    };
    other.run(lay).unwrap();
    ip(&format!("link set {ours} up"));
}

/// Runs a program, its arguments separated by blanks, and returns what it printed. Panics if it
/// fails.
pub fn run(command: &str) -> String {
    let output = try_run(command);
    assert!(
        output.status.success(),
        "`{command}` failed ({}): {}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

/// Runs a program, its arguments separated by blanks.
pub fn try_run(command: &str) -> Output {
    let mut words = command.split_whitespace();
    let program = words.next().unwrap();
    Command::new(program).args(words).output().unwrap_or_else(|e| panic!("cannot run {program}: {e}"))
}

/// The rules on an interface that mark packets, whoever their owner is, as one line each: `mark 1
/// on eth0 for 192.0.2.1: TCP with SYN`. tc shows the programs that they are.
pub fn rules(interface: &str) -> Vec<String> {
    strangers(interface).into_iter().map(|found| found.rule.to_string()).collect()
}

/// Removes the rules whose line holds this, one of which there is.
pub fn remove_rules(interface: &str, part: &str) {
    let found: Vec<Stranger> =
        strangers(interface).into_iter().filter(|found| found.rule.to_string().contains(part)).collect();
    let mut marks = Marks::open(found.first().expect("such a rule").owner).unwrap();
    marks.apply(&Plan::of(found.into_iter().map(|found| Change::Remove(found.rule)))).unwrap();
}

fn strangers(interface: &str) -> Vec<Stranger> {
    // No node has this number.
    let seen = Marks::open(0).unwrap().observe([interface]).unwrap();
    assert!(seen.rules.is_empty(), "{:?}", seen.rules);
    seen.strangers
}

/// `ip ARGUMENTS`, see ip(8).
pub fn ip(arguments: &str) -> String {
    run(&format!("ip {arguments}"))
}

/// `ipvsadm ARGUMENTS`, see ipvsadm(8).
pub fn ipvsadm(arguments: &str) -> String {
    run(&format!("ipvsadm {arguments}"))
}

/// Runs commands of `ip`, one a line: starting the program takes longer than what it does.
pub fn ip_batch(commands: &str) {
    feed("ip -batch -", commands);
}

/// Runs a program with this text as its standard input. Panics if it fails.
pub fn feed(command: &str, text: &str) {
    let mut words = command.split_whitespace();
    let mut child = Command::new(words.next().unwrap()).args(words).stdin(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    assert!(child.wait().unwrap().success(), "{command} <<E\n{text}E");
}

/// A file of a node's state directory without the line of its checksum, as a test may edit it.
pub fn without_checksum(text: &str) -> String {
    text.split_inclusive('\n').filter(|line| !line.contains("checksum ")).collect()
}
