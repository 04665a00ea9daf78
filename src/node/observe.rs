//! Looks at the kernel: the thin layer that reads.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::time::{Duration, Instant};

use super::config::{Config, VipOwner};
use super::execute::sysctl_path;
use super::fence::marks::{self as fence, MarkValues};
use super::fence::{Fence, classifier};
use super::observation::{Lan, Link as Neighbours, Observation, OwnMarked, Tree};
use super::planner;
use super::state::State;
use super::{Node, OwnRequests, audit, lan, settings};
use crate::arp::ArpTarget;
use crate::error::{Cause, Error, Result};
use crate::ipvs::{Detail, Table};
use crate::marks::{self, Classification, NeighbourState};
use crate::netlink::{Link, waiting_sockets};
use crate::sysctl;
use crate::vip::{AssignedAddress, LinkState};

/// Time limit for the MAC addresses of nodes that were never seen.
const RESOLVE_LIMIT: Duration = Duration::from_millis(300);
const RESOLVE_STEP: Duration = Duration::from_millis(10);

/// How much is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Look {
    /// What costs system calls only.
    Services,
    /// That, and what costs the start of programs.
    All,
    /// That, after unknown MAC addresses of peers were asked for, which takes 300 ms at most.
    AllAndResolve,
}

/// The interfaces that clients of this group's VIPs reach, and those of other groups'.
fn lan_of(config: &Config, state: &State, links: &[Link], addresses: &[AssignedAddress]) -> Lan {
    let of_others = state.others(config).flat_map(|group| &group.vips);
    Lan {
        interfaces: lan::interfaces(&config.interface, &config.vips, links, addresses),
        of_others: of_others
            .flat_map(|(vip, interface)| lan::interfaces(interface, &[*vip], links, addresses))
            .collect(),
        doubt: lan::doubt(&config.interface, &config.vips, links, addresses),
    }
}

/// The same, as far as it is remembered: the interface that is named, and those whose settings were
/// changed.
fn remembered_lan(config: &Config, state: &State) -> Lan {
    let changed: BTreeSet<String> = state
        .arp
        .iter()
        .filter(|change| change.target != ArpTarget::All)
        .map(|change| change.target.name().to_owned())
        .collect();
    let others = changed.into_iter().filter(|name| *name != config.interface);
    Lan { interfaces: [config.interface.clone()].into_iter().chain(others).collect(), ..Lan::default() }
}

/// Nodes that were asked for their MAC addresses.
#[derive(Debug)]
pub(super) struct Unanswered {
    open: BTreeSet<IpAddr>,
    /// When the neighbours are looked at again.
    pub(super) next: Instant,
    until: Instant,
}

/// Whether the node's own requests are to be looked at, which takes the start of programs.
pub(super) fn needs_programs(config: &Config, look: Look) -> bool {
    look != Look::Services && config.fence == Fence::Marks && config.marks.own_requests == OwnRequests::ServedHere
}

/// Whether rules are to be tried, which may load modules: none has worked here yet.
pub(super) fn needs_trial(config: &Config, look: Look, seen: &Observation) -> bool {
    look != Look::Services && config.fence == Fence::Marks && seen.marks.rules.is_empty()
}

pub(super) fn own_marked(found: marks::LocalObserved) -> OwnMarked {
    OwnMarked { missing: found.reason.filter(|_| found.backend.is_none()), marked: found.marked }
}

/// A look that is under way. Its parts are short, so that it holds up no loop for long.
#[derive(Debug)]
pub(super) struct Looking {
    left: &'static [Part],
    seen: Observation,
}

/// What is read at a time: a few system calls.
#[derive(Debug, Clone, Copy)]
enum Part {
    /// The services of the node's marks, in place of the table.
    MarkServices,
    /// The node's addresses, and the interfaces that are remembered.
    Addresses,
    /// The node's addresses, and the interfaces that clients reach.
    Lan,
    Arp,
    Daemons,
    Sysctls,
    /// The rules of the interfaces that are remembered to have some.
    OwnRules,
    /// The rules of all interfaces that may have some.
    Rules,
    /// The other nodes that are remembered.
    KnownPeers,
    /// The other nodes of the table, and of the configuration.
    Peers,
    /// Who else uses the node's marks.
    MarkUses,
}

impl Looking {
    /// At what the promotion of a backup depends on: neither the table nor the other nodes.
    pub(super) fn in_brief() -> Self {
        use Part::{Addresses, Arp, Daemons, MarkServices, OwnRules, Sysctls};
        Self::at(&[MarkServices, Addresses, Arp, Daemons, Sysctls, OwnRules], Table::new())
    }

    /// The same, and at the other nodes that are remembered.
    pub(super) fn in_brief_with_peers() -> Self {
        use Part::{Addresses, Arp, Daemons, KnownPeers, MarkServices, OwnRules, Sysctls};
        Self::at(&[MarkServices, Addresses, Arp, Daemons, Sysctls, OwnRules, KnownPeers], Table::new())
    }

    /// At all but what costs the start of programs.
    pub(super) fn whole(table: Table) -> Self {
        use Part::{Arp, Daemons, Lan, MarkUses, Peers, Rules, Sysctls};
        Self::at(&[Lan, Arp, Daemons, Sysctls, Rules, Peers, MarkUses], table)
    }

    fn at(left: &'static [Part], table: Table) -> Self {
        Looking { left, seen: Observation::of_table(table) }
    }
}

impl Node {
    /// Looks at all that costs system calls only.
    pub(super) fn observe(&mut self, state: &State) -> Result<Observation> {
        let table = self.ipvs.table()?;
        self.observe_with(state, table)
    }

    /// Looks at all but what costs the start of programs.
    pub(super) fn observe_with(&mut self, state: &State, table: Table) -> Result<Observation> {
        self.look_to_the_end(state, Looking::whole(table))
    }

    /// Looks at what the promotion of a backup depends on: neither the table nor the other nodes.
    pub(super) fn observe_in_brief(&mut self, state: &State) -> Result<Observation> {
        self.look_to_the_end(state, Looking::in_brief())
    }

    fn look_to_the_end(&mut self, state: &State, mut looking: Looking) -> Result<Observation> {
        loop {
            if let Some(seen) = self.look_on(state, &mut looking)? {
                return Ok(seen);
            }
        }
    }

    /// Looks at the next part. Returns what was seen once no part is left.
    pub(super) fn look_on(&mut self, state: &State, looking: &mut Looking) -> Result<Option<Observation>> {
        if let Some((part, left)) = looking.left.split_first() {
            looking.left = left;
            self.look_at(*part, state, &mut looking.seen)?;
        }
        let is_ended = looking.left.is_empty();
        Ok(is_ended.then(|| std::mem::replace(&mut looking.seen, Observation::of_table(Table::new()))))
    }

    fn look_at(&mut self, part: Part, state: &State, seen: &mut Observation) -> Result<()> {
        match part {
            Part::MarkServices => seen.table = self.mark_services(state)?,
            Part::Addresses => {
                let addresses = self.vips.all()?;
                self.take_addresses(state, addresses, seen);
                self.observe_routes(state, seen)?;
                seen.lan = remembered_lan(&self.config, state);
            }
            Part::Lan => {
                let (addresses, lan) = self.observe_lan(state)?;
                self.take_addresses(state, addresses, seen);
                self.observe_routes(state, seen)?;
                seen.lan = lan;
            }
            Part::Arp => self.observe_arp(state, seen)?,
            Part::Daemons => {
                seen.daemons = self.ipvs.daemons()?;
                seen.sync_link = self.vips.link_state(&self.config.sync.interface)?;
            }
            Part::Sysctls => {
                seen.sysctls = self.observe_sysctls(state)?;
                seen.read_only = self.observe_read_only()?;
            }
            Part::OwnRules => {
                seen.marks = self.marks.observe(state.qdiscs.keys().map(String::as_str))?;
                self.observe_classifiers(seen)?;
            }
            Part::Rules if self.config.fence == Fence::Marks || !state.qdiscs.is_empty() => {
                self.observe_rules(state, seen)?;
            }
            Part::KnownPeers => seen.link = self.observe_link(&state.peers.keys().copied().collect())?,
            Part::Peers => {
                let peers = self.peers_of(seen);
                if self.config.fence == Fence::Marks {
                    seen.link = self.observe_link(&peers)?;
                } else {
                    self.observe_ways(&peers, &mut seen.link)?;
                }
            }
            Part::MarkUses if self.config.fence == Fence::Marks => self.observe_mark_uses(state, seen)?,
            Part::Rules | Part::MarkUses => {}
        }
        Ok(())
    }

    /// The node's addresses, and the interfaces that clients reach.
    pub(super) fn observe_lan(&mut self, state: &State) -> Result<(Vec<AssignedAddress>, Lan)> {
        let (addresses, links) = self.vips.all_with_links()?;
        let lan = lan_of(&self.config, state, &links, &addresses);
        Ok((addresses, lan))
    }

    fn observe_routes(&mut self, state: &State, seen: &mut Observation) -> Result<()> {
        let routes = self.config.vip_owner == VipOwner::Routes;
        if routes || state.routes {
            seen.routes = self.vips.advertised()?;
        }
        if routes {
            seen.listening = match waiting_sockets(self.ipvs.netns(), libc::IPPROTO_TCP) {
                Err(Error::Refused { .. }) => None,
                sockets => {
                    // The kernel lists them in no order of their own.
                    let mut sockets = sockets?;
                    sockets.sort_by_key(|socket| (socket.port, socket.address));
                    Some(sockets)
                }
            };
        }
        Ok(())
    }

    fn take_addresses(&self, state: &State, addresses: Vec<AssignedAddress>, seen: &mut Observation) {
        let placed = state.groups.values().flat_map(|group| &group.vips).map(|(vip, _)| *vip);
        let vips: BTreeSet<IpAddr> = self.config.vips.iter().copied().chain(placed).collect();
        let sits = |vip: &IpAddr| addresses.iter().filter(|found| found.address == *vip).cloned().collect();
        seen.vips = vips.iter().map(|vip| (*vip, sits(vip))).collect();
        seen.own = addresses.iter().map(|found| found.address).collect();
        seen.addresses = addresses;
    }

    /// The services of the node's marks, and the one that is the sign of a loaded table: as far as
    /// they are there.
    pub(super) fn mark_services(&mut self, state: &State) -> Result<Table> {
        let mut found = Vec::new();
        for id in planner::brief_services(&self.config, state) {
            match self.ipvs.entry(&id, Detail::Configuration) {
                Ok(entry) => found.push(entry),
                Err(error) if error.cause() == Some(Cause::NoService) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(found.into_iter().collect())
    }

    fn observe_arp(&mut self, state: &State, seen: &mut Observation) -> Result<()> {
        seen.arp_all = self.arp.get(&ArpTarget::All)?;
        seen.route_localnet = self.arp.route_localnet()?;
        seen.arp = vec![(ArpTarget::All, seen.arp_all)];
        let reached = seen.lan.interfaces.iter().cloned().map(ArpTarget::Interface);
        for target in reached.chain(state.arp.iter().map(|change| change.target.clone())) {
            if seen.arp.iter().any(|(known, _)| *known == target) {
                continue;
            }
            match self.arp.get(&target) {
                Ok(settings) => seen.arp.push((target, settings)),
                // An interface may be gone, and its settings with it.
                Err(error) if error.cause() == Some(Cause::NoInterface) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn observe_sysctls(&mut self, state: &State) -> Result<BTreeMap<String, Option<String>>> {
        let needed = settings::wanted_sysctls(&self.config, state, false).into_keys();
        let names: BTreeSet<String> =
            needed.chain(state.sysctls.keys().cloned()).chain(audit::SYSCTLS.map(str::to_owned)).collect();
        let paths: Vec<String> = names.iter().map(|name| sysctl_path(name)).collect();
        let values = sysctl::read_each(self.ipvs.netns(), &paths)?;
        // The kernel separates numbers by tabs.
        let spaced = |text: String| text.split_ascii_whitespace().collect::<Vec<_>>().join(" ");
        Ok(names.into_iter().zip(values.into_iter().map(|value| value.map(spaced))).collect())
    }

    /// One setting stands for each part: it is mounted as a whole.
    fn observe_read_only(&self) -> Result<BTreeSet<Tree>> {
        let (arp, ipvs) = ("net/ipv4/conf/all/arp_ignore", sysctl_path(audit::SYSCTLS[0]));
        let mut found = BTreeSet::new();
        for (tree, path) in [(Tree::Arp, arp), (Tree::Ipvs, &ipvs)] {
            if sysctl::is_read_only(self.ipvs.netns(), path)? {
                found.insert(tree);
            }
        }
        Ok(found)
    }

    fn observe_rules(&mut self, state: &State, seen: &mut Observation) -> Result<()> {
        let vips: BTreeSet<IpAddr> = seen.vips.keys().copied().collect();
        // Before the table is loaded, what is configured says where the servers are.
        let configured = self.config.services.clone().unwrap_or_default();
        let own =
            [&seen.table, &configured].map(|table| fence::own(table, &self.config.interface, &vips, &seen.addresses));
        let interfaces: BTreeSet<&str> = own
            .iter()
            .flat_map(|own| own.values().map(|own| own.interface.as_str()))
            .chain(state.qdiscs.keys().map(String::as_str))
            .chain([self.config.interface.as_str()])
            .collect();
        seen.marks = self.marks.observe(interfaces)?;
        self.observe_classifiers(seen)?;
        if self.config.vip_owner == VipOwner::Routes && seen.unclassified.is_none() {
            // It loads the program: once.
            let tried = self.classifies.get_or_insert_with(|| marks::classifier_supported().map_err(|e| e.to_string()));
            seen.unclassified = tried.clone().err();
        }
        Ok(())
    }

    fn observe_classifiers(&mut self, seen: &mut Observation) -> Result<()> {
        for name in &seen.marks.classifiers {
            match self.marks.classification(name) {
                Ok(Some(found)) => drop(seen.classifiers.insert(name.clone(), found)),
                // It has just gone.
                Ok(None) => {}
                Err(error) if error.cause() == Some(Cause::NoBpf) => {
                    seen.classifiers.insert(name.clone(), Classification::default());
                    seen.unclassified = Some(error.to_string());
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// The other nodes of the table, and of the configuration.
    fn peers_of(&self, seen: &Observation) -> BTreeSet<IpAddr> {
        let tables = [Some(&seen.table), self.config.services.as_ref()];
        tables.into_iter().flatten().flat_map(|table| fence::peers(table, &seen.own)).collect()
    }

    fn observe_mark_uses(&mut self, state: &State, seen: &mut Observation) -> Result<()> {
        let values = self.config.mark_values();
        let slots = state.groups.values().map(|group| group.slot).chain([state.group(&self.config.group).slot]);
        let mut marks: Vec<NonZeroU32> =
            slots.map(|slot| values.director(slot)).chain([values.local(), values.own()]).collect();
        if self.config.vip_owner == VipOwner::Routes {
            marks.extend(self.marks_of_classifier(seen));
        }
        let rules = self.marks.uses(&marks)?.into_iter().map(|used| used.to_string());
        let is_ours = |mark: u32| NonZeroU32::new(mark).is_some_and(|mark| values.contains(mark));
        let filters =
            seen.marks.foreign.iter().filter(|found| found.mark.is_some_and(is_ours)).map(ToString::to_string);
        seen.mark_uses = rules.chain(filters).collect();
        Ok(())
    }

    /// The marks that a classifier gives, or would give.
    fn marks_of_classifier(&self, seen: &Observation) -> impl Iterator<Item = NonZeroU32> + use<> {
        let values = self.config.mark_values();
        let known = seen.classification();
        let taken = known.services.values().filter_map(|marks| classifier::place(values, marks));
        let taken = taken.max().map_or(0, |place| place + 1);
        let services = self.config.services.as_ref().unwrap_or(&seen.table).len();
        let places = u8::try_from(services).unwrap_or(u8::MAX).max(taken).min(MarkValues::PLACES);
        let peers = u32::try_from(self.peers_of(seen).len()).unwrap_or(u32::MAX);
        let numbers = 0..=peers.min(MarkValues::PER_PLACE - 1);
        (0..places).flat_map(move |place| numbers.clone().filter_map(move |number| values.of_place(place, number)))
    }

    /// Asks for the MAC addresses of nodes and gateways that were never seen. Returns those that
    /// have not answered yet.
    pub(super) fn ask_neighbours(&mut self, state: &State, table: &Table) -> Result<Unanswered> {
        let (now, mut open) = (Instant::now(), BTreeSet::new());
        if self.config.fence == Fence::Marks {
            let unknown = self.unknown_neighbours(state, table)?;
            let known = |found: &marks::Neighbour| found.mac.is_some() && found.state.is_valid();
            let known: BTreeSet<IpAddr> =
                self.marks.neighbours()?.into_iter().filter(known).map(|found| found.address).collect();
            for peer in unknown.difference(&known) {
                if let Some((interface, None)) = self.marks.route_to(*peer)? {
                    // An interface that is down has no neighbours.
                    if self.marks.resolve(*peer, &interface).is_ok() {
                        open.insert(*peer);
                    }
                }
            }
        }
        Ok(Unanswered { open, next: now, until: now + RESOLVE_LIMIT })
    }

    fn unknown_neighbours(&mut self, state: &State, table: &Table) -> Result<BTreeSet<IpAddr>> {
        let own: BTreeSet<IpAddr> = self.vips.all()?.iter().map(|found| found.address).collect();
        let configured = self.config.services.clone().unwrap_or_default();
        let peers: BTreeSet<IpAddr> =
            [table, &configured].into_iter().flat_map(|table| fence::peers(table, &own)).collect();
        let remembered = |peer: &IpAddr| state.peers.get(peer).or(self.config.marks.macs.get(peer));
        let unknown = peers.iter().copied().filter(|peer| remembered(peer).is_none_or(BTreeSet::is_empty));
        let mut unknown: BTreeSet<IpAddr> = unknown.collect();
        // A gateway that was never used: its MAC address may be the one that a peer seems to have.
        if !peers.is_empty() {
            let known: BTreeSet<IpAddr> = self.marks.neighbours()?.into_iter().map(|found| found.address).collect();
            unknown.extend(self.marks.gateways()?.into_iter().filter(|gateway| !known.contains(gateway)));
        }
        Ok(unknown)
    }

    /// Whether all have answered, or do not in time.
    pub(super) fn have_answered(&mut self, unanswered: &mut Unanswered, now: Instant) -> Result<bool> {
        if now >= unanswered.next && !unanswered.open.is_empty() {
            for found in self.marks.neighbours()? {
                if found.mac.is_some() || found.state == NeighbourState::Failed {
                    unanswered.open.remove(&found.address);
                }
            }
            unanswered.next = now + RESOLVE_STEP;
        }
        Ok(unanswered.open.is_empty() || now >= unanswered.until)
    }

    /// What the neighbour table and the routes say of these nodes.
    pub(super) fn observe_link(&mut self, peers: &BTreeSet<IpAddr>) -> Result<Neighbours> {
        let mut link = Neighbours::default();
        let gateways: BTreeSet<IpAddr> = self.marks.gateways()?.into_iter().collect();
        for found in self.marks.neighbours()? {
            match (found.mac, found.state) {
                (_, NeighbourState::Failed) => drop(link.silent.insert(found.address)),
                (Some(mac), _) => {
                    if gateways.contains(&found.address) {
                        link.gateways.insert(mac, found.address);
                    }
                    if peers.contains(&found.address) {
                        link.macs.insert(found.address, mac);
                    }
                }
                (None, _) => {}
            }
        }
        // One that is found on another interface.
        link.silent.retain(|address| !link.macs.contains_key(address));
        link.own_macs = self.marks.macs(&self.config.interface).unwrap_or_default();
        self.observe_ways(peers, &mut link)?;
        Ok(link)
    }

    fn observe_ways(&mut self, peers: &BTreeSet<IpAddr>, link: &mut Neighbours) -> Result<()> {
        for peer in peers {
            match self.marks.route_to(*peer)? {
                Some((_, Some(gateway))) => drop(link.behind.insert(*peer, gateway)),
                Some((_, None)) => {}
                None => drop(link.unrouted.insert(*peer)),
            }
        }
        if !link.unrouted.is_empty() && self.vips.link_state(&self.config.interface)? != LinkState::Up {
            link.unrouted.clear();
        }
        Ok(())
    }
}
