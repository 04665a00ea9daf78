//! A demotion that cannot be carried out as planned: the node gives up its VIPs and stops
//! directing all the same, as far as the kernel lets it. A node that keeps a VIP beside the new
//! director draws clients away from it.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::config::{Config, VipOwner};
use super::fence::Fence;
use super::role::Role;
use super::state::State;
use super::{Node, planner};
use crate::error::{Cause, Error, Result};
use crate::ipvs::SyncRole;
use crate::marks;
use crate::vip::{AssignedAddress, Placement};

/// What was given up, and what could not be.
#[derive(Debug, Default)]
struct Outcome {
    done: Vec<String>,
    left: Vec<String>,
}

impl Outcome {
    fn note(&mut self, what: String, result: Result<bool>) {
        match result {
            Ok(true) => self.done.push(what),
            Ok(false) => {}
            Err(error) => self.left.push(format!("{what}: {error}")),
        }
    }

    /// The error that a demotion failed with, and what was given up all the same.
    fn error(self, role: Role, error: Error) -> Error {
        match self.done.is_empty() && self.left.is_empty() {
            true => error,
            false => {
                Error::Demotion { role: role.to_string(), done: self.done, left: self.left, error: Box::new(error) }
            }
        }
    }
}

impl Node {
    /// Gives up what a director has, each part by itself, and says so in the error that the
    /// demotion failed with. Holds no lock and records nothing: both may be what has failed.
    pub(super) fn stand_down(&mut self, role: Role, error: Error) -> Error {
        let state = self.dir.load().unwrap_or_default();
        let mut outcome = Outcome::default();
        if self.config.vip_owner == VipOwner::Routes {
            // The rest is the same in every role.
            self.give_up_routes(&mut outcome);
            return outcome.error(role, error);
        }
        self.give_up_vips(&state, &mut outcome);
        if self.config.fence == Fence::Marks {
            outcome.note("rules for new connections".into(), self.stop_scheduling(&state));
        }
        if !state.others(&self.config).any(planner::directs) {
            outcome.note("sync master".into(), self.stop_sending(&state));
        }
        outcome.error(role, error)
    }

    fn give_up_routes(&mut self, outcome: &mut Outcome) {
        for vip in self.config.vips.clone() {
            match self.vips.advertised().map(|found| found.contains(&vip)) {
                Ok(false) => {}
                Ok(true) => {
                    let removed = self.vips.unadvertise(vip).map(|()| true);
                    outcome.note(format!("route of {vip}"), removed);
                }
                Err(error) => outcome.left.push(format!("route of {vip}: {error}")),
            }
        }
    }

    /// Takes the VIPs off the interface. Before that they come to `lo`, where ARP is silent about
    /// it: the node goes on serving its connections.
    fn give_up_vips(&mut self, state: &State, outcome: &mut Outcome) {
        if self.config.vip_owner != VipOwner::Node {
            return;
        }
        for (vip, interface) in placed(&self.config, state) {
            let on_interface = |found: &AssignedAddress| found.interface == interface && !found.is_foreign();
            match self.vips.locate(vip) {
                Ok(found) if !found.iter().any(on_interface) => continue,
                Ok(_) => {}
                Err(error) => {
                    outcome.left.push(format!("VIP {vip}: {error}"));
                    continue;
                }
            }
            if self.is_hidden_on_lo(state, vip) {
                // Without it the node's own connections are lost, and the director is safe.
                let _ = self.vips.add(vip, &Placement::Loopback);
            }
            let removed = self.vips.remove(vip, &Placement::Interface(interface.clone()));
            outcome.note(format!("VIP {vip} on {interface}"), removed);
        }
    }

    fn is_hidden_on_lo(&mut self, state: &State, vip: IpAddr) -> bool {
        let mut read = || -> Result<bool> {
            let (lan, localnet) = (self.observe_lan(state)?.1, self.arp.route_localnet()?);
            let hides = |name: &String| match self.arp.effective(name) {
                // What is gone answers nothing.
                Err(error) if error.cause() == Some(Cause::NoInterface) => Ok(true),
                counts => Ok(counts?.ignore.hides_loopback_vip(true, localnet)),
            };
            let hidden: Vec<bool> = lan.interfaces.iter().map(hides).collect::<Result<_>>()?;
            Ok(hidden.into_iter().all(|hidden| hidden))
        };
        // Linux answers neighbour solicitations for addresses of the receiving interface only.
        vip.is_ipv6() || read().unwrap_or(false)
    }

    /// Adds the rules by which this node serves what the director sends it.
    fn stop_scheduling(&mut self, state: &State) -> Result<bool> {
        let interfaces = state.qdiscs.keys().map(String::as_str).chain([self.config.interface.as_str()]);
        let seen = self.marks.observe(interfaces)?;
        let plan = marks::Plan::between(&seen, &planner::closed(&self.config, &seen.rules));
        if !plan.is_empty() {
            self.marks.apply(&plan)?;
        }
        Ok(!plan.is_empty())
    }

    fn stop_sending(&mut self, state: &State) -> Result<bool> {
        let wanted = self.config.sync.daemon(SyncRole::Master);
        let running = self.ipvs.daemons()?.remove(&SyncRole::Master).flatten();
        if !running.is_some_and(|running| state.syncs || wanted.is_met_by(&running)) {
            return Ok(false);
        }
        match self.ipvs.stop_sync_daemon(SyncRole::Master) {
            Err(error) if error.cause() == Some(Cause::NoDaemon) => Ok(false),
            stopped => stopped.map(|()| true),
        }
    }
}

/// Where this group's VIPs are as a director's: as configured, and as remembered.
fn placed(config: &Config, state: &State) -> BTreeSet<(IpAddr, String)> {
    let configured = config.vips.iter().map(|vip| (*vip, config.interface.clone()));
    configured.chain(state.group(&config.group).vips).collect()
}
