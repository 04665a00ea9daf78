//! Carries out plans: the thin layer that acts.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::config::{Config, VipOwner};
use super::handle::Node;
use super::plan::{Plan, Step};
use super::role::Role;
use crate::error::{Cause, Result};
use crate::sysctl;

/// Time limit for reading the connections when a director is demoted. A hundred thousand take
/// older kernels a minute, and the sync daemon has sent most of them.
pub(super) const LAST_WORDS: Duration = Duration::from_secs(2);

/// What sending ends with on an interface that is gone, is down, or has lost its addresses.
pub(super) const UNHEARD: [i32; 4] = [libc::ENODEV, libc::ENETDOWN, libc::ENETUNREACH, libc::EADDRNOTAVAIL];

/// Interval at which a wait looks whether it is over.
pub(super) const WAIT_STEP: Duration = Duration::from_millis(20);

impl Node {
    /// Carries out a step.
    pub(super) fn act(&mut self, step: &Step, plan: &Plan) -> Result<()> {
        match step {
            Step::Record { reached: false, .. } => self.dir.save(&plan.during),
            Step::Record { reached: true, .. } => self.dir.save(&plan.after).and_then(|()| self.remove_tables(plan)),
            Step::Weights(_) => self.dir.save(&plan.after),
            Step::Keep { kept, table } => self.dir.save_table(*kept, table),
            Step::Forget => self.dir.forget(&plan.after).and_then(|()| self.remove_tables(plan)),
            Step::Arp(change) => match self.arp.apply(change) {
                // What is gone answers nothing.
                Err(error)
                    if error.cause() == Some(Cause::NoInterface) && change.target.name() != self.config.interface =>
                {
                    Ok(())
                }
                result => result,
            },
            Step::GiveBackArp(change) => match self.arp.give_back(change) {
                // Its settings went with it.
                Err(error) if error.cause() == Some(Cause::NoInterface) => Ok(()),
                result => result.map(drop),
            },
            Step::AddVip(vip, placement) => self.vips.add(*vip, placement).map(|_| ()),
            Step::RemoveVip(vip, placement) => self.vips.remove(*vip, placement).map(|_| ()),
            Step::Announce(vip, _) => self.announce(*vip),
            Step::Advertise(vip) => self.vips.advertise(*vip),
            Step::Unadvertise(vip) => self.vips.unadvertise(*vip),
            Step::Table(changes) => self.ipvs.apply(changes),
            Step::Marks(changes) => self.marks.apply(changes),
            // They take time: see `Work`.
            Step::Resync(_) | Step::OwnRequests(_) => Ok(()),
            Step::Sysctl { name, value, .. } => sysctl::write(self.ipvs.netns(), &sysctl_path(name), value),
        }
    }

    pub(super) fn announce(&mut self, vip: IpAddr) -> Result<()> {
        match self.vips.announce(vip, &self.config.interface, self.config.announcements) {
            // It cannot be sent while the link is down, and the kernel's neighbours learn when it
            // comes up.
            Err(error) if error.cause() == Some(Cause::InterfaceDown) => Ok(()),
            result => result.map(|_| ()),
        }
    }

    /// Announces the VIPs of a director once more, [`Config::announce_again`] after its role was
    /// reached, as keepalived does: a neighbour may have missed the first announcement, or a
    /// switch have still been learning. Returns when that is done, or at once when another role is
    /// asked for, or there is nothing to announce. It holds no lock.
    ///
    /// # Errors
    /// As [`Vips::announce`](crate::vip::Vips::announce).
    pub fn announce_again(&mut self) -> Result<()> {
        let role = self.role()?;
        let announces = role.filter(|(_, reached)| *reached).and_then(|(role, _)| self.announces_again(role));
        let Some((pause, request)) = announces else { return Ok(()) };
        let start = Instant::now();
        while start.elapsed() < pause {
            std::thread::sleep(WAIT_STEP);
            if self.dir.requests().latest()? != request {
                return Ok(());
            }
        }
        self.announce_unless_superseded(request)
    }

    /// After how long the VIPs of a role that is reached are announced again, and the number of
    /// the latest request until then. `None`: they are not.
    pub(super) fn announces_again(&self, role: Role) -> Option<(Duration, u64)> {
        let Config { announce_again, vip_owner, .. } = self.config;
        let announces = role == Role::Master && vip_owner == VipOwner::Node && !announce_again.is_zero();
        announces.then_some((announce_again, self.dir.requests().latest().ok()?))
    }

    pub(super) fn announce_unless_superseded(&mut self, request: u64) -> Result<()> {
        if self.dir.requests().latest()? != request || self.role()? != Some((Role::Master, true)) {
            return Ok(());
        }
        self.config.vips.clone().into_iter().try_for_each(|vip| self.announce(vip))
    }
}

pub(super) fn sysctl_path(name: &str) -> String {
    format!("net/ipv4/vs/{name}")
}
