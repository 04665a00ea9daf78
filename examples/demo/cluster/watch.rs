//! Looks at each node's kernel all the time: where the VIP sits, and whether there is a table.
//!
//! It judges this crate, so it does not use it: getifaddrs(3) and /proc.

use std::fs;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use nix::ifaddrs::getifaddrs;
use nix::net::if_::InterfaceFlags;

use super::addresses::{number, vip};
use super::record::{Sighting, State};
use super::router::NextHops;
use super::{INTERFACE, Node};

/// What is shorter than this may go unseen.
const EVERY: Duration = Duration::from_millis(20);

/// The watchers of all nodes.
pub(crate) struct Watch {
    seen: Arc<Mutex<Vec<Sighting>>>,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<Result<()>>>,
}

impl Watch {
    /// Starts to look; times are from `start` on.
    pub(crate) fn start(nodes: &[Node], start: Instant) -> Self {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let stop = Arc::new(AtomicBool::new(false));
        let watch = |(node, host): (usize, &Node)| {
            let (netns, name, address) = (host.netns.clone(), host.name.clone(), host.address);
            let next_hops = host.next_hops.clone();
            let (seen, stop) = (seen.clone(), stop.clone());
            thread::spawn(move || {
                netns
                    .run(|| look(node, address, &next_hops, start, &seen, &stop))?
                    .with_context(|| format!("cannot look at {name}"))
            })
        };
        let threads = nodes.iter().enumerate().map(watch).collect();
        Watch { seen, stop, threads }
    }

    /// The present state of every node, as far as it has been seen.
    ///
    /// # Errors
    /// Why a watcher has given up, if one has.
    pub(crate) fn now(&mut self) -> Result<Vec<State>> {
        if let Some(ended) = self.threads.iter().position(JoinHandle::is_finished) {
            join(self.threads.swap_remove(ended))?;
        }
        let mut states = vec![State::default(); self.threads.len()];
        for sighting in lock(&self.seen).iter() {
            states[sighting.node] = sighting.state;
        }
        Ok(states)
    }

    /// Ends, and returns every change seen, in order.
    pub(crate) fn stop(self) -> Result<Vec<Sighting>> {
        self.stop.store(true, Ordering::Relaxed);
        self.threads.into_iter().try_for_each(join)?;
        let mut seen = std::mem::take(&mut *lock(&self.seen));
        seen.sort_by_key(|s| s.at);
        Ok(seen)
    }
}

fn join(thread: JoinHandle<Result<()>>) -> Result<()> {
    thread.join().map_err(|_| anyhow!("a watcher panicked"))?
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn look(
    node: usize,
    address: IpAddr,
    next_hops: &NextHops,
    start: Instant,
    seen: &Mutex<Vec<Sighting>>,
    stop: &AtomicBool,
) -> Result<()> {
    let mut last = None;
    while !stop.load(Ordering::Relaxed) {
        let mut state = observe(address)?;
        state.directs |= next_hops.contains(number(address));
        if last != Some(state) {
            lock(seen).push(Sighting { at: start.elapsed(), node, state });
            last = Some(state);
        }
        thread::sleep(EVERY);
    }
    Ok(())
}

/// The state of the namespace that this thread is in; the node has this address.
pub(crate) fn observe(address: IpAddr) -> Result<State> {
    let (destinations, live) = table(address)?;
    let mut state = State { destinations, live, ..State::default() };
    for entry in getifaddrs().context("getifaddrs")? {
        let address = entry.address.and_then(|a| {
            let v4 = a.as_sockaddr_in().map(|a| IpAddr::V4(a.ip()));
            v4.or_else(|| a.as_sockaddr_in6().map(|a| IpAddr::V6(a.ip())))
        });
        let is_vip = address == Some(vip());
        match entry.interface_name.as_str() {
            INTERFACE => {
                state.link |= entry.flags.contains(InterfaceFlags::IFF_RUNNING);
                state.directs |= is_vip;
            }
            "lo" => state.on_loopback |= is_vip,
            _ => {}
        }
    }
    Ok(state)
}

/// The real servers in the table, and whether it sends anything to another node than this one.
fn table(own: IpAddr) -> Result<(usize, bool)> {
    // /proc/net is the namespace of the process, not of the thread.
    match fs::read_to_string("/proc/thread-self/net/ip_vs") {
        Ok(table) => Ok(read_table(&table, own)),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok((0, false)), // IPVS is not loaded yet
        Err(e) => Err(e).context("/proc/thread-self/net/ip_vs"),
    }
}

fn read_table(table: &str, own: IpAddr) -> (usize, bool) {
    // `  -> C0A8000C:0050      Route   1      0          0`: address, forwarding method, weight,
    // connections.
    let destinations =
        table.lines().filter_map(|line| line.strip_prefix("  -> ")).filter(|l| !l.contains("RemoteAddress"));
    let own = match own {
        IpAddr::V4(own) => format!("{:08X}:", own.to_bits()),
        IpAddr::V6(own) => {
            let words: Vec<String> = own.segments().iter().map(|word| format!("{word:04x}")).collect();
            format!("[{}]:", words.join(":"))
        }
    };
    let away = |line: &str| !line.starts_with(&own) && line.split_whitespace().nth(2).is_some_and(|w| w != "0");
    (destinations.clone().count(), destinations.clone().any(away))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_that_sends_nothing_away_is_not_live() {
        let table = |weight| {
            format!(
                "IP Virtual Server version 1.2.1 (size=4096)
Prot LocalAddress:Port Scheduler Flags
  -> RemoteAddress:Port Forward Weight ActiveConn InActConn
TCP  C0A800FE:0050 wrr
  -> C0A8000C:0050      Route   {weight}      0          0
  -> C0A8000B:0050      Route   1      0          0
"
            )
        };
        let own = IpAddr::from([192, 168, 0, 11]);
        assert_eq!(read_table(&table(1), own), (2, true));
        assert_eq!(read_table(&table(0), own), (2, false));
        assert_eq!(read_table("", own), (0, false));
    }

    #[test]
    fn ipv6_is_read_too() {
        let table = "TCP  [fd00:0000:0000:0000:0000:0000:0000:00fe]:0050 wrr
  -> [fd00:0000:0000:0000:0000:0000:0000:000b]:0050      Route   1      0          0
";
        assert_eq!(read_table(table, "fd00::b".parse().unwrap()), (1, false));
        assert_eq!(read_table(table, "fd00::c".parse().unwrap()), (1, true));
    }
}
