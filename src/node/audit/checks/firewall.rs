//! What the firewall does to packets for a service, before and behind IPVS.

use std::collections::BTreeMap;

use super::{Case, list};
use crate::ipvs::ServiceId;
use crate::marks::{Arriving, Deed};
use crate::node::audit::{Kind, Remedy, Severity};
use crate::node::fence::Fence;
use crate::node::role::Role;

/// What was found, with the services that it meets and the commands that exempt each.
type Found = BTreeMap<Deed, Vec<(ServiceId, String)>>;

const KEEP: &str =
    "and put that into what makes the rules (firewalld, ufw, a script), or they are lost with its next start";

impl Case<'_> {
    pub(super) fn firewall(&mut self) {
        let mut found: [Found; 4] = Default::default();
        let [dropped, half_seen, translated, masqueraded] = &mut found;
        let firewall = &self.around.firewall;
        let note = |map: &mut Found, deed: Deed, service: ServiceId, command: String| {
            map.entry(deed).or_default().push((service, command));
        };
        let services: Vec<ServiceId> = self.kept.services().map(|content| content.service.id).collect();
        for service in services.into_iter().filter(|id| self.is_on_vip(id)) {
            let Some(packet) = arriving(&service, &self.config.interface) else { continue };
            if let Some(deed) = firewall.dropping(&packet) {
                let command = deed.exempt(&packet, false);
                note(dropped, deed, service, command);
            } else if packet.protocol == "tcp" {
                for deed in firewall.dropping_half_seen(&packet) {
                    let command = deed.exempt(&packet, false);
                    note(half_seen, deed, service, command);
                }
            }
            for deed in firewall.translating(&packet) {
                let command = deed.exempt(&packet, true);
                note(translated, deed, service, command);
            }
            if self.around.conntrack {
                for deed in firewall.masquerading(&packet) {
                    let command = deed.exempt_all(packet.to);
                    note(masqueraded, deed, service, command);
                }
            }
        }
        let mut unheard: BTreeMap<Deed, Vec<(u16, String)>> = BTreeMap::new();
        let sync = &self.config.sync;
        if self.config.syncs() {
            let (to, [messages, beacons]) = sync.group_and_ports();
            for port in [beacons, messages] {
                let packet = Arriving { to, protocol: "udp", port, interface: &sync.interface };
                if let Some(deed) = firewall.dropping(&packet) {
                    let command = deed.exempt(&packet, false);
                    unheard.entry(deed).or_default().push((port, command));
                }
            }
        }
        let [dropped, half_seen, translated, masqueraded] = found;
        let directs = if self.role == Some(Role::Master) { Severity::Error } else { Severity::Warning };
        for (Deed { by, .. }, found) in dropped {
            let (services, remedy) = exempted(found);
            let reason = format!("`{by}` drops what comes for {}, before IPVS or a server sees it", list(&services));
            self.add(Severity::Error, Kind::Dropped { services, by }, reason, remedy.or_text(KEEP));
        }
        for (Deed { by, .. }, found) in half_seen {
            let (services, remedy) = exempted(found);
            let reason = format!(
                "`{by}` drops packets of {} on a director: it sees the client's packets only, and a FIN or RST, or each packet behind the \
                 first, looks wrong to connection tracking. Servers do not learn that clients have gone",
                list(&services)
            );
            self.add(directs, Kind::HalfSeen { services, by }, reason, remedy.or_text(KEEP));
        }
        for (deed, found) in translated {
            let removed = deed.removed();
            let Deed { by, redirects, .. } = deed;
            let (services, remedy) = exempted(found);
            if redirects {
                let reason = format!(
                    "`{by}` sends what comes for {} to this node's own address before IPVS sees it: a director does not balance it, and with \
                     fence marks no answer reaches the client",
                    list(&services)
                );
                let severity = if self.config.fence == Fence::Marks { Severity::Error } else { directs };
                let remedy = Remedy { commands: removed.into_iter().collect(), ..Remedy::default() }
                    .or_text("remove the rule: it stands in for a VIP on lo, where this node has it");
                self.add(severity, Kind::Translated { services, by }, reason, remedy);
                continue;
            }
            let reason = format!(
                "`{by}` gives what comes for {} another destination before IPVS sees it: a director does not balance it, and serves all clients itself, or none",
                list(&services)
            );
            let remedy = match self.config.fence {
                Fence::Marks => remedy.or_text(KEEP),
                // Nothing tells what a director has sent from what clients send.
                Fence::Clear => Remedy::text("configure fence = \"marks\", or remove the rule while this node directs"),
            };
            self.add(directs, Kind::Translated { services, by }, reason, remedy);
        }
        for (Deed { by, .. }, found) in masqueraded {
            let (services, remedy) = exempted(found);
            let reason = format!(
                "net.ipv4.vs.conntrack is 1, and `{by}` gives what a director sends on for {} another source: servers answer the director",
                list(&services)
            );
            let remedy =
                remedy.or_text("or `sysctl -w net.ipv4.vs.conntrack=0`, where no other program (kube-proxy) needs it");
            self.add(directs, Kind::Masqueraded { services, by }, reason, remedy);
        }
        for (Deed { by, .. }, found) in unheard {
            let (ports, commands): (Vec<u16>, Vec<String>) = found.into_iter().unzip();
            let reason = format!(
                "`{by}` drops what the other nodes send to UDP port {} on {}: this node learns neither their sessions nor their state",
                list(&ports),
                self.config.sync.interface
            );
            let remedy = Remedy { commands, ..Remedy::default() }.or_text(KEEP);
            self.add(Severity::Warning, Kind::SyncDropped { ports, by }, reason, remedy);
        }
    }
}

/// A client's packet for a service of an address.
fn arriving<'a>(service: &ServiceId, interface: &'a str) -> Option<Arriving<'a>> {
    let (protocol, listen) = match service {
        ServiceId::Tcp(listen) => ("tcp", listen),
        ServiceId::Udp(listen) => ("udp", listen),
        ServiceId::Sctp(listen) => ("sctp", listen),
        _ => return None,
    };
    // Of all ports none is typical.
    (listen.port() != 0).then(|| Arriving { to: listen.ip(), protocol, port: listen.port(), interface })
}

/// The services, and what exempts them.
fn exempted(found: Vec<(ServiceId, String)>) -> (Vec<ServiceId>, Remedy) {
    let (services, mut commands): (Vec<ServiceId>, Vec<String>) = found.into_iter().unzip();
    commands.dedup();
    (services, Remedy { commands, ..Remedy::default() })
}
