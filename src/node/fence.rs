//! What keeps a backup's IPVS from scheduling what the director has scheduled already: the table, the sync daemons and the sysctls of
//! each role. Pure.
//!
//! A backup whose table is live schedules the packets that the director sends it once more, and sends them on to a third node: a loop
//! that ends when their TTL does.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::role::Role;
use crate::error::{Error, Result};
use crate::ipvs::settings::{self, Setting, SyncThreshold};
use crate::ipvs::{Destination, Scheduler, ServiceFlags, SyncDaemon, SyncRole, Table};

/// What keeps a backup's IPVS from scheduling what the director has scheduled already.
///
/// A backup whose table is live schedules the packets that the director sends it once more, and sends them on to a third node: a loop
/// that ends when their TTL does.
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
    /// Whether the nodes tell each other of their connections.
    pub fn syncs(self) -> bool {
        matches!(self, Fence::Quiesce | Fence::BackupOnly)
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
        let daemon = |role| SyncDaemon {
            group: sync.group,
            port: sync.port,
            ttl: sync.ttl,
            ..SyncDaemon::new(role, &sync.interface, sync.id)
        };
        table.daemons = [(SyncRole::Master, master), (SyncRole::Backup, !master)]
            .map(|(role, wanted)| (role, wanted.then(|| daemon(role))))
            .into();
    }
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
        // The earliest packet that a director with direct routing can tell a connection by: the last of the handshake.
        Fence::Quiesce => vec![sync_threshold()],
        Fence::BackupOnly => vec![sync_threshold(), switch(settings::BACKUP_ONLY)],
        // A session may arrive from a director that was never heard of.
        Fence::Stateless => vec![switch(settings::SLOPPY_TCP)],
        // Connections outlive the table, and their packets would be dropped while other services keep IPVS at work.
        Fence::Clear => vec![switch(settings::EXPIRE_NODEST_CONN)],
    }
}

fn switch(setting: Setting<bool>) -> Sysctl {
    (setting.name(), "1".into())
}

fn sync_threshold() -> Sysctl {
    let SyncThreshold { first, period } = SyncThreshold { first: 2, period: 50 };
    (settings::SYNC_THRESHOLD.name(), format!("{first} {period}"))
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
        Sync { interface: "eth0".into(), id: 1, group: None, port: None, ttl: None }
    }

    #[test]
    fn a_backup_schedules_to_itself_at_most() {
        let fenced = |fence, role| table(fence, &sync(), role, &read(KEPT), &own()).to_string();
        assert_eq!(fenced(Fence::Clear, Role::Backup), "");
        assert_eq!(fenced(Fence::Clear, Role::Master), KEPT);
        assert_eq!(fenced(Fence::Stateless, Role::Backup), KEPT);
        let quiesced = KEPT.replace("-w 4", "-w 0").replace("-w 5", "-w 0");
        let backup = "--stop-daemon master\n--start-daemon backup --mcast-interface eth0 --syncid 1\n";
        let master = "--start-daemon master --mcast-interface eth0 --syncid 1\n--stop-daemon backup\n";
        for role in [Role::Backup, Role::Fault, Role::Stop] {
            assert_eq!(fenced(Fence::Quiesce, role), format!("{backup}{quiesced}"));
            assert_eq!(fenced(Fence::BackupOnly, role), format!("{backup}{KEPT}"));
        }
        assert_eq!(fenced(Fence::Quiesce, Role::Master), format!("{master}{KEPT}"));
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
