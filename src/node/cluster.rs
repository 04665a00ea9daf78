//! The other nodes: which of them directs, and which MAC addresses they have.

use std::collections::{BTreeSet, VecDeque};
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use super::beacon::Presence;
use super::fence::Fence;
use super::handle::Node;
use super::job::LOCK_LIMIT;
use super::planner;
use super::role::Role;
use super::state::State;
use crate::error::Result;
use crate::marks;
use crate::marks::{Mac, Marks, Probe};
use crate::vip::AssignedAddress;

/// Time limit for the answer of a director on the link to a request for its VIP.
const PROBE_LIMIT: Duration = Duration::from_millis(50);

/// Time limit for the answer of a former director, which may be busy.
const ALIVE_LIMIT: Duration = Duration::from_millis(200);

/// How many VIPs the other nodes are asked for.
const PROBED_VIPS: usize = 2;

/// The most addresses that a node sends about itself.
const ADDRESSES: usize = 24;

/// A search for the node that directs.
#[derive(Debug)]
pub(super) struct Search {
    purpose: Purpose,
    before: Option<IpAddr>,
    /// Interfaces, addresses, and for how long each is asked.
    questions: VecDeque<(String, IpAddr, Duration)>,
    asked: Option<Probe>,
}

/// What the answers are for.
#[derive(Debug, Clone, Copy)]
enum Purpose {
    /// Whether the former director is alive.
    IsAlive,
    /// Which node has the VIP.
    Find,
}

impl Search {
    /// The first answers. `None`: it waits for one. An inner `None`: the link could not be asked.
    fn poll(&mut self, marks: &mut Marks, now: Instant) -> Option<Option<Vec<Mac>>> {
        let mut last = None;
        loop {
            if let Some(probe) = &mut self.asked {
                match probe.poll(now) {
                    Ok(None) => return None,
                    Ok(Some(found)) if found.is_empty() => last = Some(found),
                    Ok(found) => return Some(found),
                    Err(_) => {}
                }
                self.asked = None;
            }
            let Some((interface, address, limit)) = self.questions.pop_front() else { return Some(last) };
            self.asked = marks.probe(&interface, address, limit, Duration::ZERO).ok();
        }
    }

    /// When it is to be polled, unless its descriptor becomes readable before.
    pub(super) fn until(&self) -> Option<Instant> {
        self.asked.as_ref().map(Probe::until)
    }

    pub(super) fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        self.asked.as_ref().map(AsFd::as_fd)
    }
}

impl Node {
    /// Begins to look for the other node that directs, which the rules for packets of its
    /// connections depend on: a backup asks the link for the VIP, a director whether the one
    /// before it is alive. `None`: there is nothing to ask.
    pub(super) fn search_director(&mut self, role: Role) -> Result<Option<Search>> {
        if self.config.fence != Fence::Marks {
            return Ok(None);
        }
        let before = self.dir.load()?.group(&self.config.group).director;
        let (purpose, questions) = match (role, before) {
            (Role::Master, None) => return Ok(None),
            (Role::Master, Some(director)) => match self.marks.route_to(director)? {
                Some((interface, None)) => (Purpose::IsAlive, vec![(interface, director, ALIVE_LIMIT)]),
                _ => return Ok(None),
            },
            _ => {
                // The VIPs of a group move together.
                let limit = PROBE_LIMIT / PROBED_VIPS as u32;
                let vips = self.config.vips.iter().take(PROBED_VIPS);
                (Purpose::Find, vips.map(|vip| (self.config.interface.clone(), *vip, limit)).collect())
            }
        };
        Ok(Some(Search { purpose, before, questions: questions.into(), asked: None }))
    }

    /// Goes on with a search; `false`: it waits for an answer.
    pub(super) fn go_on_searching(&mut self, search: &mut Search, now: Instant) -> Result<bool> {
        let Some(answers) = search.poll(&mut self.marks, now) else { return Ok(false) };
        let before = search.before;
        let found = match search.purpose {
            // A link that cannot be asked says nothing.
            Purpose::IsAlive => match answers {
                Some(answers) => before.filter(|_| !answers.is_empty()),
                None => before,
            },
            Purpose::Find => {
                let answers = answers.unwrap_or_default();
                let known = |macs: &BTreeSet<Mac>| answers.iter().any(|mac| macs.contains(mac));
                let state = self.dir.load()?;
                state.peers.iter().find(|(_, macs)| known(macs)).map(|(peer, _)| *peer).or(before)
            }
        };
        if found != before {
            self.point_at(found)?;
        }
        Ok(true)
    }

    /// Says which other node directs this group's VIPs, or that the one that did is dead (`None`).
    /// Packets of connections that this node does not know, and that another director may, are
    /// sent there; without one they are served here. A program that follows the nodes' beacons
    /// calls it.
    ///
    /// # Errors
    /// As [`Node::repair`].
    pub fn set_director(&mut self, director: Option<IpAddr>) -> Result<()> {
        self.set_director_within(director, LOCK_LIMIT)
    }

    /// The same, where no other process is at work.
    pub(super) fn set_director_now(&mut self, director: Option<IpAddr>) -> Result<()> {
        self.set_director_within(director, Duration::ZERO)
    }

    fn set_director_within(&mut self, director: Option<IpAddr>, limit: Duration) -> Result<()> {
        if self.config.fence != Fence::Marks || self.dir.load()?.group(&self.config.group).director == director {
            return Ok(());
        }
        self.dir.prepare()?;
        let _lock = self.dir.lock(limit)?;
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
    pub(super) fn presence(&mut self) -> Result<Presence> {
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
    /// with the next role. Fails where another process is at work.
    pub(super) fn learn_macs(&mut self, addresses: &BTreeSet<IpAddr>, macs: &BTreeSet<Mac>) -> Result<bool> {
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
        let _lock = self.dir.lock(Duration::ZERO)?;
        let mut state = self.dir.load()?;
        let new = learn(&mut state);
        self.dir.save(&state)?;
        Ok(new)
    }
}
