//! What a node is, and what an audit of it finds: structures and lists.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{CString, c_char, c_int};
use std::mem::{MaybeUninit, size_of};
use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use super::classifier::lvs_classifiers;
use super::control::lvs_sync_daemons;
use super::ffi::{Grows, Handle, PATH, Place, Text, c_text, entry, given, put, put_text, within};
use super::ipvs::{DestinationTexts, ServiceTexts, lvs_destinations, lvs_services, service_id};
use super::marks::{lvs_peers, lvs_rules};
use super::node::{LVS_ROLE_NONE, lvs_node, number_of};
use super::status::{caught, guard};
use super::vip::lvs_places;
use crate::ipvs::ServiceId;
use crate::node::audit::{Finding, Severity};
use crate::node::{Status, TableDigest};

/// The size of an address in a structure, in octets, with the NUL at its end.
pub const LVS_ADDRESS_SIZE: usize = 48;

/// In lvs_finding: only some uses of the service suffer.
pub const LVS_SEVERITY_NOTICE: u32 = 1;
/// In lvs_finding: it does harm when the director or a server changes next.
pub const LVS_SEVERITY_WARNING: u32 = 2;
/// In lvs_finding: it does harm now.
pub const LVS_SEVERITY_ERROR: u32 = 3;

/// The status of a node, as it was when it was read. Several threads may read one status.
pub struct lvs_status {
    summary: lvs_node_status,
    own: BTreeSet<ServiceId>,
    places: lvs_places,
    services: lvs_services,
    destinations: Vec<lvs_destinations>,
    sync_daemons: lvs_sync_daemons,
    rules: lvs_rules,
    peers: lvs_peers,
    missing: lvs_texts,
    drift: lvs_texts,
    warnings: lvs_texts,
    classifiers: lvs_classifiers,
    advertised: lvs_texts,
    interfaces: lvs_texts,
    drained: BTreeMap<(ServiceId, SocketAddr), u32>,
    digest: TableDigest,
    failure: Option<FailureTexts>,
}

/// The last role that was not reached.
struct FailureTexts {
    task: CString,
    reason: CString,
    time: u64,
}

/// Texts, a line or more each. Several threads may read one list.
pub struct lvs_texts(Vec<CString>);

/// What an audit has found. Several threads may read one list.
pub struct lvs_findings(Vec<FindingTexts>);

/// The status of a node, in numbers.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct lvs_node_status {
    /// sizeof(struct lvs_node_status).
    pub size: usize,
    /// The number of steps that are missing for the role to be in place, see
    /// lvs_status_missing().
    pub missing: usize,
    /// The number of steps that lvs_node_repair() would run, see lvs_status_drift().
    pub drift: usize,
    /// The number of warnings, see lvs_status_warnings().
    pub warnings: usize,
    /// The number of services in the kernel's table, without those of the node's own marks, see
    /// lvs_status_services().
    pub services: usize,
    /// Connections and persistence templates that the node's services count.
    pub connections: u64,
    /// Connections that the services of the node's own marks count, of all groups.
    pub marked_connections: u64,
    /// The number of the last request for a role.
    pub generation: u64,
    /// The role of the last request: LVS_ROLE_...
    pub role: u32,
    /// 1 if that role was reached, otherwise 0.
    pub reached: u32,
    /// 1 if neighbours do not learn of a VIP on `lo`: on each interface whose link reaches
    /// clients, the kernel neither answers ARP requests for it nor names it as the sender of its
    /// own. Otherwise 0.
    pub hidden: u32,
    /// arp_ignore, as it counts on the interface: the greater of its own and that of "all". -1:
    /// there is no such interface.
    pub arp_ignore: i32,
    /// arp_announce, as it counts on the interface. -1: there is no such interface.
    pub arp_announce: i32,
    /// 0.
    pub reserved: u32,
    /// The address of the other node that directs, or directed last, as a text. "": none is known.
    pub director: [c_char; LVS_ADDRESS_SIZE],
}

// SAFETY: as for `lvs_node_config`.
unsafe impl Grows for lvs_node_status {
    const NAME: &'static str = "lvs_node_status";
    const FIRST: usize = size_of::<[usize; 5]>() + size_of::<[u64; 3]>() + size_of::<[u32; 6]>() + LVS_ADDRESS_SIZE;
}
const _: () = assert!(size_of::<lvs_node_status>() == lvs_node_status::FIRST);

/// A role or a release that was not reached, and none that was since.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct lvs_failure {
    /// sizeof(struct lvs_failure).
    pub size: usize,
    /// What failed: "master", "backup", "fault", "stop" or "release". NULL: nothing has.
    pub task: Text,
    /// Why. NULL: nothing has failed.
    pub reason: Text,
    /// When: seconds since 1970-01-01 00:00:00 UTC, as time(2). 0: nothing has failed.
    pub time: u64,
}

// SAFETY: `repr(C)`, a number and texts; that there is no padding follows from its size, which is
// checked here.
unsafe impl Grows for lvs_failure {
    const NAME: &'static str = "lvs_failure";
    const FIRST: usize = size_of::<[usize; 3]>() + size_of::<u64>();
}
const _: () = assert!(size_of::<lvs_failure>() == lvs_failure::FIRST);

/// Something that does harm, or will.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct lvs_finding {
    /// sizeof(struct lvs_finding).
    pub size: usize,
    /// What it is, for programs: "arp-answer". It stays the same from version to version.
    pub kind: Text,
    /// What was found where, and what it does, for people.
    pub reason: Text,
    /// What to do: the steps of lvs_node_fix(), commands to be run by hand, or words.
    pub remedy: Text,
    /// LVS_SEVERITY_...
    pub severity: u32,
    /// 1 if lvs_node_fix() does something about it, otherwise 0.
    pub is_fixable: u32,
}

// SAFETY: `repr(C)`, numbers and texts; that there is no padding follows from its size, which is
// checked here.
unsafe impl Grows for lvs_finding {
    const NAME: &'static str = "lvs_finding";
    const FIRST: usize = size_of::<[usize; 4]>() + size_of::<[u32; 2]>();
}
const _: () = assert!(size_of::<lvs_finding>() == lvs_finding::FIRST);

struct FindingTexts {
    kind: CString,
    reason: CString,
    remedy: CString,
    severity: u32,
    is_fixable: bool,
}

impl From<Finding> for FindingTexts {
    fn from(finding: Finding) -> Self {
        FindingTexts {
            kind: c_text(finding.kind.name()),
            is_fixable: finding.remedy.is_ours(),
            remedy: c_text(finding.remedy.to_string()),
            severity: match finding.severity {
                Severity::Notice => LVS_SEVERITY_NOTICE,
                Severity::Warning => LVS_SEVERITY_WARNING,
                Severity::Error => LVS_SEVERITY_ERROR,
            },
            reason: c_text(finding.reason),
        }
    }
}

impl FindingTexts {
    /// # Safety
    /// `self` lives as long as the result is used.
    unsafe fn as_c(&self) -> lvs_finding {
        // SAFETY: the texts live as long as `self`, and that as long as the caller promises.
        let text = |text: &CString| unsafe { Text::of(text) };
        lvs_finding {
            size: size_of::<lvs_finding>(),
            kind: text(&self.kind),
            reason: text(&self.reason),
            remedy: text(&self.remedy),
            severity: self.severity,
            is_fixable: self.is_fixable.into(),
        }
    }
}

impl lvs_texts {
    fn new(lines: Vec<String>) -> Self {
        lvs_texts(lines.into_iter().map(c_text).collect())
    }

    pub(super) fn of(entries: impl IntoIterator<Item = impl ToString>) -> Self {
        lvs_texts(entries.into_iter().map(|entry| c_text(entry.to_string())).collect())
    }
}

impl lvs_status {
    pub(super) fn of(found: Status) -> Self {
        let summary = lvs_node_status {
            size: size_of::<lvs_node_status>(),
            missing: found.missing.len(),
            drift: found.drift.len(),
            warnings: found.warnings.len(),
            services: found.table.len(),
            connections: found.connections(),
            marked_connections: found.marked,
            generation: found.generation,
            role: found.role.map_or(LVS_ROLE_NONE, |(role, _)| number_of(role)),
            reached: found.role.is_some_and(|(_, reached)| reached).into(),
            hidden: found.hidden.into(),
            arp_ignore: found.arp.first().map_or(-1, |(_, counts)| counts.ignore.value()),
            arp_announce: found.arp.first().map_or(-1, |(_, counts)| counts.announce.value()),
            reserved: 0,
            director: address_text(found.director),
        };
        lvs_status {
            summary,
            classifiers: lvs_classifiers::of(found.classifiers.iter().map(|(name, found)| (name.as_str(), found))),
            advertised: lvs_texts::of(&found.advertised),
            interfaces: lvs_texts::of(found.arp.iter().map(|(name, _)| name)),
            digest: found.digest(),
            failure: found.failure.as_ref().map(|failure| FailureTexts {
                task: c_text(failure.task.as_str()),
                reason: c_text(failure.reason.as_str()),
                time: failure.unix_time(),
            }),
            own: found.kept.services().map(|content| content.service.id).collect(),
            places: lvs_places::of(found.vips.iter().flat_map(|(_, places)| places)),
            services: lvs_services(found.entries.iter().map(|(service, _)| ServiceTexts::new(service)).collect()),
            rules: lvs_rules::of(&found),
            peers: lvs_peers::of(&found),
            destinations: found
                .entries
                .into_iter()
                .map(|(_, destinations)| {
                    lvs_destinations(destinations.into_iter().map(DestinationTexts::new).collect())
                })
                .collect(),
            sync_daemons: lvs_sync_daemons::of(found.daemons),
            missing: lvs_texts::new(found.missing),
            drift: lvs_texts::new(found.drift),
            warnings: lvs_texts::new(found.warnings),
            drained: found.drained,
        }
    }
}

/// The longest address has 45 octets.
pub(super) fn address_text(address: Option<IpAddr>) -> [c_char; LVS_ADDRESS_SIZE] {
    within(&address.map(|address| address.to_string()).unwrap_or_default())
}

/// Reads the status of the node. Changes nothing, and takes no lock. `status`: is set to it; free
/// it with lvs_status_free(). Takes as long as the table is large. Fails with LVS_ERR_STATE,
/// LVS_ERR_PERMISSION.
#[unsafe(no_mangle)]
pub extern "C" fn lvs_node_read_status(
    node: Handle<lvs_node>,
    status: Option<&mut MaybeUninit<Box<lvs_status>>>,
) -> c_int {
    guard(|| {
        let (mut node, result) = (node.lock("node")?, given(status, "status")?);
        result.write(Box::new(lvs_status::of(node.status()?)));
        Ok(())
    })
}

/// Frees a status, and the lists that belong to it. NULL is ignored.
#[unsafe(no_mangle)]
pub extern "C" fn lvs_status_free(status: Option<Box<lvs_status>>) {
    let _ = caught(|| drop(status));
}

/// Fills `summary` with the status in numbers; set its `size` before. Does not block.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lvs_status_summary(status: Option<&lvs_status>, summary: *mut lvs_node_status) -> c_int {
    guard(|| {
        let status = given(status, "status")?;
        // SAFETY: a structure of C's.
        unsafe { Place::new(summary) }?.put(status.summary);
        Ok(())
    })
}

/// Whether a service belongs to the node: it is among its configured services, or among those that
/// it has loaded. `owned`: is set to 1 or 0. Does not block. Fails with LVS_ERR_INVALID.
#[unsafe(no_mangle)]
pub extern "C" fn lvs_status_owns(
    status: Option<&lvs_status>,
    id: Text,
    owned: Option<&mut MaybeUninit<c_int>>,
) -> c_int {
    guard(|| {
        let (status, id, result) = (given(status, "status")?, service_id(id)?, given(owned, "owned")?);
        put(Some(result), status.own.contains(&id).into());
        Ok(())
    })
}

/// The places of the VIPs, for lvs_places_get(). This list and those of the next functions belong
/// to the status, and live as long as it. NULL for NULL.
#[unsafe(no_mangle)]
pub extern "C" fn lvs_status_places(status: Option<&lvs_status>) -> Option<&lvs_places> {
    status.map(|status| &status.places)
}

/// The services in the kernel, without those of the node's own marks, for lvs_services_get().
#[unsafe(no_mangle)]
pub extern "C" fn lvs_status_services(status: Option<&lvs_status>) -> Option<&lvs_services> {
    status.map(|status| &status.services)
}

/// The destinations of the service of this index in lvs_status_services(), for
/// lvs_destinations_get(). NULL where there is no such service.
#[unsafe(no_mangle)]
pub extern "C" fn lvs_status_destinations(status: Option<&lvs_status>, index: usize) -> Option<&lvs_destinations> {
    status.and_then(|status| status.destinations.get(index))
}

/// The sync daemons that run, for lvs_sync_daemons_get().
#[unsafe(no_mangle)]
pub extern "C" fn lvs_status_sync_daemons(status: Option<&lvs_status>) -> Option<&lvs_sync_daemons> {
    status.map(|status| &status.sync_daemons)
}

/// The rules of LVS_FENCE_MARKS that the kernel has on the node's interfaces, those of other
/// groups of the node among them, for lvs_rules_get(). Empty with LVS_FENCE_CLEAR.
#[unsafe(no_mangle)]
pub extern "C" fn lvs_status_rules(status: Option<&lvs_status>) -> Option<&lvs_rules> {
    status.map(|status| &status.rules)
}

/// The other nodes that LVS_FENCE_MARKS knows, with the MAC addresses that they send from, for
/// lvs_peers_get().
#[unsafe(no_mangle)]
pub extern "C" fn lvs_status_peers(status: Option<&lvs_status>) -> Option<&lvs_peers> {
    status.map(|status| &status.peers)
}

/// The steps that are missing for the role to be in place: none, if all is well.
#[unsafe(no_mangle)]
pub extern "C" fn lvs_status_missing(status: Option<&lvs_status>) -> Option<&lvs_texts> {
    status.map(|status| &status.missing)
}

/// The steps that lvs_node_repair() would run.
#[unsafe(no_mangle)]
pub extern "C" fn lvs_status_drift(status: Option<&lvs_status>) -> Option<&lvs_texts> {
    status.map(|status| &status.drift)
}

/// What an operator should know.
#[unsafe(no_mangle)]
pub extern "C" fn lvs_status_warnings(status: Option<&lvs_status>) -> Option<&lvs_texts> {
    status.map(|status| &status.warnings)
}

/// The classifiers that mark packets on the node's interfaces, with what they know and have
/// counted, for lvs_classifiers_get(). Empty unless `vip_owner` is LVS_VIP_OWNER_ROUTES, and
/// without the privileges that reading them takes (lvs_classifier).
#[unsafe(no_mangle)]
pub extern "C" fn lvs_status_classifiers(status: Option<&lvs_status>) -> Option<&lvs_classifiers> {
    status.map(|status| &status.classifiers)
}

/// The VIPs that a routing daemon is to advertise, with LVS_VIP_OWNER_ROUTES.
#[unsafe(no_mangle)]
pub extern "C" fn lvs_status_advertised(status: Option<&lvs_status>) -> Option<&lvs_texts> {
    status.map(|status| &status.advertised)
}

/// The interfaces whose links reach clients (LVS_ARP_DEFAULT), the one that is named first.
/// lvs_arp_effective() has the settings that count there.
#[unsafe(no_mangle)]
pub extern "C" fn lvs_status_interfaces(status: Option<&lvs_status>) -> Option<&lvs_texts> {
    status.map(|status| &status.interfaces)
}

/// Whether a destination was drained, by lvs_node_weigh() or LVS_TASK_WEIGH. `id`: the service.
/// `address`: the destination, "192.168.0.11:80". `drained`: is set to 1 or 0. `weight`: is set to
/// the weight that it had before, 0 if it was not drained; NULL if it is not needed. Does not
/// block. Fails with LVS_ERR_INVALID.
#[unsafe(no_mangle)]
pub extern "C" fn lvs_status_drained(
    status: Option<&lvs_status>,
    id: Text,
    address: Text,
    drained: Option<&mut MaybeUninit<c_int>>,
    weight: Option<&mut MaybeUninit<u32>>,
) -> c_int {
    guard(|| {
        let (status, id, address) = (given(status, "status")?, service_id(id)?, address.socket_address("address")?);
        let (result, before) = (given(drained, "drained")?, status.drained.get(&(id, address)));
        put(Some(result), before.is_some().into());
        put(weight, before.copied().unwrap_or(0));
        Ok(())
    })
}

/// A digest of the node's services in the kernel, to be compared with other nodes'. `table`: is
/// set to that of services, destinations and weights. `order`: is set to that of the order in
/// which the kernel lists the destinations of services with scheduler mh, whose hash tables depend
/// on it. NULL for what is not needed. Both stay comparable between nodes of one version. Does not
/// block.
#[unsafe(no_mangle)]
pub extern "C" fn lvs_status_digest(
    status: Option<&lvs_status>,
    table: Option<&mut MaybeUninit<u64>>,
    order: Option<&mut MaybeUninit<u64>>,
) -> c_int {
    guard(|| {
        let digest = given(status, "status")?.digest;
        put(table, digest.table);
        put(order, digest.order);
        Ok(())
    })
}

/// Fills `failure` with the last role or release that was not reached, where none was since; set
/// its `size` before. The texts in it belong to the status, and live as long as that. Does not
/// block.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lvs_status_failure(status: Option<&lvs_status>, failure: *mut lvs_failure) -> c_int {
    guard(|| {
        let status = given(status, "status")?;
        // SAFETY: a structure of C's.
        let place = unsafe { Place::new(failure) }?;
        let size = size_of::<lvs_failure>();
        place.put(match &status.failure {
            None => lvs_failure { size, task: Text::NULL, reason: Text::NULL, time: 0 },
            // SAFETY: C does not use the texts longer than the status, as the header demands.
            Some(found) => unsafe {
                lvs_failure { size, task: Text::of(&found.task), reason: Text::of(&found.reason), time: found.time }
            },
        });
        Ok(())
    })
}

/// Frees a list that a function has made. NULL is ignored. The lists of a status are freed with
/// it.
#[unsafe(no_mangle)]
pub extern "C" fn lvs_texts_free(texts: Option<Box<lvs_texts>>) {
    let _ = caught(|| drop(texts));
}

/// Returns the number of texts in a list; 0 for NULL.
#[unsafe(no_mangle)]
pub extern "C" fn lvs_texts_count(texts: Option<&lvs_texts>) -> usize {
    texts.map_or(0, |texts| texts.0.len())
}

/// Returns the text of this index, counted from 0: it belongs to the list, and lives as long as
/// that. NULL where there is none.
#[unsafe(no_mangle)]
pub extern "C" fn lvs_texts_get(texts: Option<&lvs_texts>, index: usize) -> *const c_char {
    texts.and_then(|texts| texts.0.get(index)).map_or(std::ptr::null(), |text| text.as_ptr())
}

/// Looks for settings that do harm now, or will at the next failover. Changes nothing.
///
/// `keepalived`: the path of keepalived's file, or NULL. `findings`: is set to the list, the worst
/// first; free it with lvs_findings_free(). Takes as long as the table is large, and up to 300 ms
/// where MAC addresses of other nodes are not known. Fails as lvs_node_read_status(), and with
/// LVS_ERR_SYSTEM when keepalived's file cannot be read.
#[unsafe(no_mangle)]
pub extern "C" fn lvs_node_audit(
    node: Handle<lvs_node>,
    keepalived: Text,
    findings: Option<&mut MaybeUninit<Box<lvs_findings>>>,
) -> c_int {
    guard(|| {
        let (mut node, result) = (node.lock("node")?, given(findings, "findings")?);
        let path = keepalived.optional("keepalived", PATH)?;
        let found = node.audit(path.as_deref().map(Path::new))?;
        result.write(Box::new(lvs_findings(found.into_iter().map(FindingTexts::from).collect())));
        Ok(())
    })
}

/// Returns the number of findings in a list; 0 for NULL.
#[unsafe(no_mangle)]
pub extern "C" fn lvs_findings_count(findings: Option<&lvs_findings>) -> usize {
    findings.map_or(0, |findings| findings.0.len())
}

/// Fills `finding` with the entry of this index, counted from 0; set its `size` before. The texts
/// in it belong to the list, and live as long as the list. Fails with LVS_ERR_INDEX.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lvs_findings_get(
    findings: Option<&lvs_findings>,
    index: usize,
    finding: *mut lvs_finding,
) -> c_int {
    guard(|| {
        let findings = given(findings, "findings")?;
        // SAFETY: a structure of C's.
        let place = unsafe { Place::new(finding) }?;
        // SAFETY: C does not use the texts longer than the list, as the header demands.
        place.put(unsafe { entry(&findings.0, index)?.as_c() });
        Ok(())
    })
}

/// Frees a list. NULL is ignored.
#[unsafe(no_mangle)]
pub extern "C" fn lvs_findings_free(findings: Option<Box<lvs_findings>>) {
    let _ = caught(|| drop(findings));
}

/// Plans what lvs_node_fix() would do. Changes nothing, and takes no lock. `plan` and the errors:
/// as with lvs_node_plan().
#[unsafe(no_mangle)]
pub extern "C" fn lvs_node_plan_fix(node: Handle<lvs_node>, plan: Option<&mut MaybeUninit<*mut c_char>>) -> c_int {
    guard(|| {
        let (mut node, result) = (node.lock("node")?, given(plan, "plan")?);
        put_text(Some(result), node.plan_fix()?.to_string());
        Ok(())
    })
}

/// Does what it can about an audit's findings, those where `is_fixable` is 1: lvs_node_repair(),
/// and what that leaves to an operator. `done`, the blocking time and the errors: as with
/// lvs_node_repair().
#[unsafe(no_mangle)]
pub extern "C" fn lvs_node_fix(node: Handle<lvs_node>, done: Option<&mut MaybeUninit<*mut c_char>>) -> c_int {
    guard(|| node.lock("node")?.carry_out(done, |node, before| node.fix(before)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_address_fits() {
        let longest = "1111:1111:1111:1111:1111:1111:1111:1111".parse().unwrap();
        let text = address_text(Some(longest));
        // SAFETY: `address_text` ends it with a NUL.
        assert_eq!(unsafe { std::ffi::CStr::from_ptr(text.as_ptr()) }.to_str().unwrap(), longest.to_string());
        assert_eq!(address_text(None), [0; LVS_ADDRESS_SIZE]);
    }
}
