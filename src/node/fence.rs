//! What keeps a backup's IPVS from scheduling what the director has scheduled already: the table, the sync daemons and the sysctls of
//! each role. Pure.
//!
//! A backup whose table is live schedules the packets that the director sends it once more, and sends them on to a third node: a loop
//! that ends when their TTL does.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use super::role::Role;
use crate::error::{Error, Result};
use crate::ipvs::settings::{self, Setting};
use crate::ipvs::{Destination, Scheduler, ServiceFlags, ServiceId, SyncDaemon, SyncRole, Table, VirtualService};

/// What keeps a backup's IPVS from scheduling what the director has scheduled already.
///
/// A backup whose table is live schedules the packets that the director sends it once more, and sends them on to a third node: a loop
/// that ends when their TTL does.
///
/// What survives, of the sessions whose own server is up (three nodes, 300 active and 300 idle sessions, kernel 6.1, see benches/failover;
/// `BackupOnly`: from the kernel tests):
///
/// | | planned move | stop of keepalived | crash | crash, younger than 2 s |
/// |---|---|---|---|---|
/// | `Quiesce` | all | all | all | all but, where few come, the last |
/// | `Stateless` | all | all | all | all |
/// | `BackupOnly` | all | refused | all | those told of |
/// | `Clear` | a third | a third | half | half |
///
/// Two directors at once send new connections in circles until their TTL ends with `Quiesce` (unless they hear each other, see
/// [`View`](super::View)), not with `Stateless`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Fence {
    /// A backup has the same table, in which every server but itself has weight 0, and learns the director's connections through the
    /// sync daemon. Promotion puts the weights back. It does not matter who hears of a change first: a backup forwards the sessions
    /// that it has learned also before it is told of its promotion.
    #[default]
    Quiesce,
    /// Every node has the same table, with scheduler `mh` (mh-port, mh-fallback) and `sloppy_tcp`: equal hashes send a session to the
    /// same server whichever node directs. Nothing is fenced, and nothing synchronised.
    Stateless,
    /// Every node has the same table, and the kernel's own switch (`net.ipv4.vs.backup_only`) keeps IPVS away from a backup's packets
    /// while its sync daemon is a backup's. Only where the node moves the VIP itself: where keepalived does, its packets
    /// arrive before the switch is told.
    BackupOnly,
    /// A backup has no table: it is kept in a file, and restored on promotion. Sessions that the old director had given to other
    /// servers do not survive a change of director.
    Clear,
}

impl Fence {
    /// The fences, with the names that [`Display`](fmt::Display) prints.
    pub const ALL: [Fence; 4] = [Fence::Quiesce, Fence::Stateless, Fence::BackupOnly, Fence::Clear];

    fn name(self) -> &'static str {
        match self {
            Fence::Quiesce => "quiesce",
            Fence::Stateless => "stateless",
            Fence::BackupOnly => "backup-only",
            Fence::Clear => "clear",
        }
    }

    /// Whether the nodes tell each other of their connections.
    pub fn syncs(self) -> bool {
        matches!(self, Fence::Quiesce | Fence::BackupOnly)
    }
}

impl fmt::Display for Fence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Fence {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let found = Fence::ALL.into_iter().find(|fence| fence.name() == text);
        found.ok_or_else(|| {
            Error::invalid(format!("fence {text:?}"), "quiesce, stateless, backup-only or clear was expected")
        })
    }
}

/// How the nodes tell each other of their connections, see [`SyncDaemon`](crate::ipvs::SyncDaemon).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sync {
    /// The interface that the messages pass.
    pub interface: String,
    /// Which nodes belong together, 1 to 255: other clusters on the link need another.
    pub id: u8,
    /// The multicast group; `None`: 224.0.0.81.
    pub group: Option<IpAddr>,
    /// The UDP port; `None`: 8848.
    pub port: Option<u16>,
    /// How many routers a message may pass; `None`: 1.
    pub ttl: Option<u8>,
    /// How long the director's messages are, in octets of UDP payload: a message waits until it is full, or for two seconds, and
    /// what waits is lost with the director. 1: each connection goes by itself (80 octets of IPv6 or 44 of IPv4); `None`: the
    /// kernel's choice, 1472, which saves packets where some thousand connections come in a second.
    pub max_length: Option<u16>,
}

impl Sync {
    /// The daemon of a director, or of a backup.
    pub(super) fn daemon(&self, role: SyncRole) -> SyncDaemon {
        SyncDaemon {
            group: self.group,
            port: self.port,
            ttl: self.ttl,
            // A backup must take what others send.
            max_length: self.max_length.filter(|_| role == SyncRole::Master),
            ..SyncDaemon::new(role, &self.interface, self.id)
        }
    }
}

/// The table and the sync daemons of a role. `own`: the node's addresses.
pub(super) fn table(fence: Fence, sync: &Sync, role: Role, kept: &Table, own: &BTreeSet<IpAddr>) -> Table {
    let master = role == Role::Master;
    let mut table = match fence {
        Fence::Clear if !master => Table::new(),
        Fence::Quiesce if !master => quiesced(kept, own),
        _ => kept.clone(),
    };
    if fence.syncs() {
        table.daemons = daemons(fence, sync, master);
    }
    table
}

/// The table and the daemons of a director beside another one: two live tables would send new connections round in circles.
pub(super) fn beside(fence: Fence, sync: &Sync, kept: &Table, own: &BTreeSet<IpAddr>) -> Table {
    let role = if fence == Fence::Quiesce { Role::Backup } else { Role::Master };
    let mut table = table(fence, sync, role, kept, own);
    if fence.syncs() {
        table.daemons = daemons(fence, sync, true);
    }
    table
}

/// A director tells, and everyone listens: a new director to what the old one has still to say. Only the kernel's own switch would
/// take a director that listens for a backup.
pub(super) fn daemons(fence: Fence, sync: &Sync, master: bool) -> BTreeMap<SyncRole, Option<SyncDaemon>> {
    [(SyncRole::Master, master), (SyncRole::Backup, !master || fence == Fence::Quiesce)]
        .map(|(role, wanted)| (role, wanted.then(|| sync.daemon(role))))
        .into()
}

/// The table of a director that is about to hand over: what is new goes to the successor, which so knows of it before it directs.
/// A service that no successor serves is left as it is.
pub(super) fn handed_over(kept: &Table, successors: &[IpAddr], own: &BTreeSet<IpAddr>) -> Table {
    let next = |content: VirtualService<'_>| {
        let ready = |d: &&Destination| d.weight > 0 && !is_own(d, own);
        let named =
            successors.iter().find_map(|to| content.destinations().filter(ready).find(|d| d.address.ip() == *to));
        // Whoever it is that is elected: no other guess is better.
        named.or_else(|| content.destinations().find(ready)).map(|destination| destination.address)
    };
    let next: BTreeMap<ServiceId, SocketAddr> =
        kept.services().filter_map(|content| Some((content.service.id, next(content)?))).collect();
    let mut table = kept.clone();
    table.edit_destinations(|id, destination| {
        if next.get(id).is_some_and(|next| *next != destination.address) {
            destination.weight = 0;
        }
    });
    table
}

/// The same services, of which a backup schedules nothing but to itself. Connections that it has learned go where they went.
fn quiesced(kept: &Table, own: &BTreeSet<IpAddr>) -> Table {
    let mut table = kept.clone();
    table.edit_destinations(|_, destination| {
        if !is_own(destination, own) {
            destination.weight = 0;
        }
    });
    table
}

fn is_own(destination: &Destination, own: &BTreeSet<IpAddr>) -> bool {
    own.contains(&destination.address.ip())
}

/// What the node's own table is, given what a quiesced one has become: another program (keepalived's checkers, say) edits it as if it
/// were live. What that has changed is taken over. A remote weight of 0 is the fence's own, and says nothing.
///
/// `complete`: the backup's table was once reached, so that what is missing from it was removed by somebody.
pub(super) fn taken_over(kept: &Table, live: &Table, own: &BTreeSet<IpAddr>, complete: bool) -> Table {
    let mut table = Table::new();
    let ids: BTreeSet<_> = kept.services().chain(live.services()).map(|content| content.service.id).collect();
    for id in ids {
        let (kept, live) = (kept.service(&id), live.service(&id));
        if live.is_none() && complete {
            continue;
        }
        let Some(content) = live.or(kept) else { continue };
        table.insert(content.service.clone());
        let destinations = |content: Option<crate::ipvs::VirtualService<'_>>| -> Vec<Destination> {
            content.into_iter().flat_map(|content| content.destinations().cloned().collect::<Vec<_>>()).collect()
        };
        // The later one counts.
        let old = if live.is_some() && complete { Vec::new() } else { destinations(kept) };
        for destination in old.into_iter().chain(destinations(live)) {
            let before = kept.and_then(|kept| kept.destination(destination.address));
            let weight = match before {
                Some(before) if destination.weight == 0 && !is_own(&destination, own) => before.weight,
                _ => destination.weight,
            };
            // Its service was inserted just now.
            let _ = table.insert_destination(&id, destination.weight(weight));
        }
    }
    table
}

/// A sysctl of IPVS, below net.ipv4.vs, with the value that a fence needs.
pub(super) type Sysctl = (&'static str, String);

/// The sysctls that the fence needs, in any role.
pub(super) fn sysctls(fence: Fence) -> Vec<Sysctl> {
    match fence {
        Fence::Quiesce => told_at_once(),
        Fence::BackupOnly => [told_at_once(), vec![switch(settings::BACKUP_ONLY)]].concat(),
        // A session may arrive from a director that was never heard of.
        Fence::Stateless => vec![switch(settings::SLOPPY_TCP)],
        // Connections outlive the table, and their packets would be dropped while other services keep IPVS at work.
        Fence::Clear => vec![switch(settings::EXPIRE_NODEST_CONN)],
    }
}

fn switch(setting: Setting<bool>) -> Sysctl {
    (setting.name(), "1".into())
}

/// A connection is told of when it is established, then every 30 seconds while packets come, each time twice.
///
/// With a period of packets instead (the kernel's 3 and 50) it is told of at its third packet or not before its 53rd: with direct
/// routing, where the director sees the client's packets only, never for one that asks little or had to repeat its first packet.
fn told_at_once() -> Vec<Sysctl> {
    vec![
        // No period of packets, but one of time.
        (settings::SYNC_THRESHOLD.name(), "2 0".into()),
        (settings::SYNC_REFRESH_PERIOD.name(), "30".into()),
        (settings::SYNC_RETRIES.name(), "1".into()),
    ]
}

/// Refuses a table that this fence would not keep sessions for.
///
/// # Errors
/// [`Error::Invalid`] with the service and the reason.
pub(super) fn check(fence: Fence, table: &Table) -> Result<()> {
    if fence != Fence::Stateless {
        return Ok(());
    }
    let flags = ServiceFlags::MH_PORT | ServiceFlags::MH_FALLBACK;
    for content in table.services() {
        let service = content.service;
        if service.scheduler != Scheduler::MH || !service.flags.contains(flags) {
            let reason = "fence `stateless` needs scheduler mh with mh-port and mh-fallback: only equal hashes send a session to the same \
                          server from every node; use another fence, or that scheduler";
            return Err(Error::invalid(service.id, reason));
        }
        if service.persistence.is_some() {
            return Err(Error::invalid(
                service.id,
                "fence `stateless` remembers no clients: leave persistence out, or use another fence",
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEPT: &str = "\
-A -t 192.0.2.1:80 -s wrr
-a -t 192.0.2.1:80 -r 10.0.0.1:80 -g -w 3
-a -t 192.0.2.1:80 -r 10.0.0.2:80 -g -w 4
-a -t 192.0.2.1:80 -r 10.0.0.3:80 -g -w 5
";

    fn read(text: &str) -> Table {
        text.parse().unwrap()
    }

    fn own() -> BTreeSet<IpAddr> {
        ["10.0.0.1".parse().unwrap()].into()
    }

    fn sync() -> Sync {
        Sync { interface: "eth0".into(), id: 1, group: None, port: None, ttl: None, max_length: Some(1) }
    }

    #[test]
    fn a_backup_schedules_to_itself_at_most() {
        let fenced = |fence, role| table(fence, &sync(), role, &read(KEPT), &own()).to_string();
        assert_eq!(fenced(Fence::Clear, Role::Backup), "");
        assert_eq!(fenced(Fence::Clear, Role::Master), KEPT);
        assert_eq!(fenced(Fence::Stateless, Role::Backup), KEPT);
        let quiesced = KEPT.replace("-w 4", "-w 0").replace("-w 5", "-w 0");
        let backup = "--stop-daemon master\n--start-daemon backup --mcast-interface eth0 --syncid 1\n";
        let master = "--start-daemon master --mcast-interface eth0 --syncid 1 --sync-maxlen 1\n--stop-daemon backup\n";
        for role in [Role::Backup, Role::Fault, Role::Stop] {
            assert_eq!(fenced(Fence::Quiesce, role), format!("{backup}{quiesced}"));
            assert_eq!(fenced(Fence::BackupOnly, role), format!("{backup}{KEPT}"));
        }
        assert_eq!(fenced(Fence::BackupOnly, Role::Master), format!("{master}{KEPT}"));
        let both = master.replace("--stop-daemon backup", "--start-daemon backup --mcast-interface eth0 --syncid 1");
        assert_eq!(fenced(Fence::Quiesce, Role::Master), format!("{both}{KEPT}"));
    }

    #[test]
    fn what_checkers_do_to_a_quiesced_table_is_taken_over() {
        let quiesced = quiesced(&read(KEPT), &own()).to_string();
        let over = |live: &str, complete| taken_over(&read(KEPT), &read(live), &own(), complete).to_string();
        assert_eq!(over(&quiesced, true), KEPT);
        // A weight put back, one's own weight, a server removed, one added, another scheduler.
        assert_eq!(over(&quiesced.replace("0.2:80 -g -w 0", "0.2:80 -g -w 9"), true), KEPT.replace("-w 4", "-w 9"));
        assert_eq!(over(&quiesced.replace("-w 3", "-w 0"), true), KEPT.replace("-w 3", "-w 0"));
        let without =
            |text: &str| text.lines().filter(|l| !l.contains("10.0.0.3")).map(|l| format!("{l}\n")).collect::<String>();
        assert_eq!(over(&without(&quiesced), true), without(KEPT));
        let more = "-a -t 192.0.2.1:80 -r 10.0.0.4:80 -g -w 7\n";
        assert_eq!(over(&format!("{quiesced}{more}"), true), format!("{KEPT}{more}"));
        assert_eq!(over(&quiesced.replace("wrr", "rr"), true), KEPT.replace("wrr", "rr"));
        assert_eq!(over("", true), "");
        // Half-way to the first backup nothing is missing yet.
        assert_eq!(over("", false), KEPT);
        assert_eq!(over(&without(&quiesced), false), KEPT);
    }

    #[test]
    fn stateless_takes_equal_hashes_only() {
        let service = |text: &str| check(Fence::Stateless, &read(text));
        assert!(service("-A -t 192.0.2.1:80 -s mh -b mh-fallback,mh-port\n").is_ok());
        assert!(service("-A -t 192.0.2.1:80 -s mh -b mh-port\n").unwrap_err().to_string().contains("mh-fallback"));
        assert!(service("-A -t 192.0.2.1:80 -s wrr\n").is_err());
        assert!(service("-A -t 192.0.2.1:80 -s mh -p 60 -b mh-fallback,mh-port\n").is_err());
        assert!(check(Fence::Quiesce, &read(KEPT)).is_ok());
    }
}
