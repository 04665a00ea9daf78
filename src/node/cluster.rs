//! The other nodes: which of them directs, and which MAC addresses they have.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use super::beacon::Presence;
use super::fence::Fence;
use super::handle::Node;
use super::planner;
use super::role::Role;
use super::roles::LOCK_LIMIT;
use super::state::State;
use crate::error::Result;
use crate::marks;
use crate::marks::Mac;
use crate::vip::AssignedAddress;

/// Time limit for the answer of a director on the link to a request for its VIP.
const PROBE_LIMIT: Duration = Duration::from_millis(50);

/// Time limit for the answer of a former director, which may be busy.
const ALIVE_LIMIT: Duration = Duration::from_millis(200);

/// How many VIPs the other nodes are asked for.
const PROBED_VIPS: usize = 2;

/// The most addresses that a node sends about itself.
const ADDRESSES: usize = 24;

impl Node {
    /// Looks for the other node that directs, which the rules for packets of its connections
    /// depend on: a backup asks the link for the VIP, a director whether the one before it is
    /// alive. Blocks for 200 ms at most, or 50 ms for each VIP, where no node answers.
    pub(super) fn look_for_director(&mut self, role: Role) -> Result<()> {
        if self.config.fence != Fence::Marks {
            return Ok(());
        }
        let state = self.dir.load()?;
        let before = state.group(&self.config.group).director;
        let netns = self.ipvs.netns().clone();
        let found = match (role, before) {
            (Role::Master, None) => return Ok(()),
            (Role::Master, Some(director)) => {
                let Some((interface, None)) = self.marks.route_to(director)? else { return Ok(()) };
                // A link that cannot be asked says nothing.
                let Ok(answers) = marks::who_has(&netns, &interface, director, ALIVE_LIMIT, Duration::ZERO) else {
                    return Ok(());
                };
                before.filter(|_| !answers.is_empty())
            }
            _ => {
                // The VIPs of a group move together.
                let answers = self.config.vips.iter().take(PROBED_VIPS).find_map(|vip| {
                    let limit = PROBE_LIMIT / PROBED_VIPS as u32;
                    let found = marks::who_has(&netns, &self.config.interface, *vip, limit, Duration::ZERO).ok()?;
                    (!found.is_empty()).then_some(found)
                });
                let Some(answers) = answers else { return Ok(()) };
                let known = |macs: &BTreeSet<Mac>| answers.iter().any(|mac| macs.contains(mac));
                state.peers.iter().find(|(_, macs)| known(macs)).map(|(peer, _)| *peer).or(before)
            }
        };
        if found != before { self.point_at(found) } else { Ok(()) }
    }

    /// Says which other node directs this group's VIPs, or that the one that did is dead (`None`).
    /// Packets of connections that this node does not know, and that another director may, are
    /// sent there; without one they are served here. A program that follows the nodes' beacons
    /// calls it.
    ///
    /// # Errors
    /// As [`Node::repair`].
    pub fn set_director(&mut self, director: Option<IpAddr>) -> Result<()> {
        if self.config.fence != Fence::Marks || self.dir.load()?.group(&self.config.group).director == director {
            return Ok(());
        }
        self.dir.prepare()?;
        let _lock = self.dir.lock(LOCK_LIMIT)?;
        self.point_at(director)
    }

    /// The lock is held.
    pub(super) fn point_at(&mut self, director: Option<IpAddr>) -> Result<()> {
        let mut state = self.dir.load()?;
        let Some(group) = state.groups.get_mut(&self.config.group) else { return Ok(()) };
        group.director = director;
        self.dir.save(&state)?;
        let seen = self.mark_services(&state)?;
        // One that does not answer is not pointed at: see the planner.
        let silent = self
            .marks
            .neighbours()?
            .iter()
            .any(|found| Some(found.address) == director && found.state == marks::NeighbourState::Failed);
        if let (true, Some(group)) = (silent, state.groups.get_mut(&self.config.group)) {
            group.director = None;
        }
        planner::pointing(&self.config, &state, &seen).iter().try_for_each(|plan| self.ipvs.apply(plan))
    }

    /// The other node that directs this group, or directed it last, as far as it is known: what
    /// [`Status::director`](super::Status::director) says.
    ///
    /// # Errors
    /// As [`Node::role`].
    pub fn director(&self) -> Result<Option<IpAddr>> {
        Ok(self.dir.load()?.group(&self.config.group).director)
    }

    /// The addresses of the other nodes, as destinations.
    ///
    /// # Errors
    /// As [`Node::role`].
    pub fn peers(&self) -> Result<BTreeSet<IpAddr>> {
        Ok(self.dir.load()?.peers.into_keys().collect())
    }

    /// What this node sends to the others about itself, but for its number and its groups.
    ///
    /// # Errors
    /// Those of reading addresses and interfaces.
    pub fn presence(&mut self) -> Result<Presence> {
        let vips: BTreeSet<IpAddr> = self.config.vips.iter().copied().collect();
        let usable = |found: &AssignedAddress| found.interface != "lo" && !vips.contains(&found.address);
        let addresses: Vec<AssignedAddress> = self.vips.on_interfaces()?.into_iter().filter(usable).collect();
        let interfaces: BTreeSet<&str> = addresses.iter().map(|found| found.interface.as_str()).collect();
        let mut macs = BTreeSet::new();
        for interface in interfaces {
            macs.extend(self.marks.macs(interface)?);
        }
        let addresses = addresses.iter().map(|found| found.address).take(ADDRESSES).collect();
        Ok(Presence { addresses, macs: macs.into_iter().take(ADDRESSES).collect(), ..Presence::default() })
    }

    /// Remembers MAC addresses of another node, by its addresses: of nodes that are destinations
    /// of this one. Says whether any is new. The rules for them follow with [`Node::repair`], or
    /// with the next role.
    ///
    /// # Errors
    /// As [`Node::repair`].
    pub fn learn_macs(&mut self, addresses: &BTreeSet<IpAddr>, macs: &BTreeSet<Mac>) -> Result<bool> {
        let learn = |state: &mut State| {
            let mut new = false;
            for (_, known) in state.peers.iter_mut().filter(|(peer, _)| addresses.contains(peer)) {
                for mac in macs.iter().filter(|mac| mac.is_unicast()) {
                    new |= known.len() < planner::MACS && known.insert(*mac);
                }
            }
            new
        };
        if !learn(&mut self.dir.load()?) {
            return Ok(false);
        }
        let _lock = self.dir.lock(LOCK_LIMIT)?;
        let mut state = self.dir.load()?;
        let new = learn(&mut state);
        self.dir.save(&state)?;
        Ok(new)
    }
}
