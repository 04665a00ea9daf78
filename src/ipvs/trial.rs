//! Services that are tried before others like them are added: the kernel alone knows its
//! schedulers and persistence engines, and may load a module for one.

use std::time::{Duration, Instant};

use super::encode::{check, explain, requests};
use super::{Change, Ipvs, Service, ServiceId};
use crate::background::{Waits, wait_for};
use crate::error::{Cause, Error, Result};
use crate::netlink::{self, Within};

/// Time limit for all of them: modules are loaded.
const LIMIT: Duration = Duration::from_secs(10);

/// Services that a process of its own adds and removes again.
#[derive(Debug)]
pub(crate) struct Trial {
    services: Vec<Service>,
    requests: netlink::Trial,
}

impl Ipvs {
    /// Starts to try services: each is added under a name of its own, a firewall mark that no
    /// packet has, and removed.
    ///
    /// # Errors
    /// [`Error::Invalid`](crate::Error::Invalid); [`Error::System`](crate::Error::System) with the
    /// errno of fork(2).
    pub(crate) fn begin_trial(&mut self, trials: impl IntoIterator<Item = (Service, ServiceId)>) -> Result<Trial> {
        let (services, names): (Vec<Service>, Vec<ServiceId>) = trials.into_iter().unzip();
        let add = |(service, id): (&Service, &ServiceId)| Change::AddService(Service { id: *id, ..service.clone() });
        let mut changes = Vec::new();
        for pair in services.iter().zip(&names) {
            check(&Change::AddService(pair.0.clone()))?;
            changes.extend([add(pair), Change::RemoveService(*pair.1)]);
        }
        match self.socket.trial(Within::Namespace, changes.len(), requests(&changes)) {
            Ok(requests) => Ok(Trial { services, requests }),
            Err(failure) => Err(failure.explain("try", "the schedulers of the services", |errno| {
                super::encode::cause(super::wire::Command::NewService, errno)
            })),
        }
    }

    /// The services that the kernel refuses, and why: each is added in a network namespace that is
    /// made for it and goes with it. Where none can be made, none is refused.
    pub(crate) fn refused(&mut self, services: &[Service]) -> Vec<(ServiceId, Error)> {
        let changes: Vec<Change> = services.iter().cloned().map(Change::AddService).collect();
        let Ok(mut trial) = self.socket.trial(Within::OwnNamespace, changes.len(), requests(&changes)) else {
            return Vec::new();
        };
        wait_for(|waits| async move {
            let (until, mut refused) = (Instant::now() + LIMIT, Vec::new());
            if trial.answer(&waits, until).await.is_err() {
                return refused;
            }
            for (service, change) in services.iter().zip(&changes) {
                match trial.answer(&waits, until).await.map_err(|failure| explain(change, failure)) {
                    Err(error @ Error::Refused { .. }) if error.cause() != Some(Cause::Permission) => {
                        refused.push((service.id, error));
                    }
                    _ => {}
                }
            }
            refused
        })
    }
}

impl Trial {
    /// Waits for the end.
    ///
    /// # Errors
    /// As [`Ipvs::add_service`], for the first service that the kernel refuses.
    pub(crate) async fn end(mut self, waits: &Waits) -> Result<()> {
        let until = Instant::now() + LIMIT;
        let begun = self.requests.answer(waits, until).await;
        let of = |service: &Service, failure| explain(&Change::AddService(service.clone()), failure);
        let Some(first) = self.services.first() else { return Ok(()) };
        begun.map_err(|failure| of(first, failure))?;
        let mut refused = Ok(());
        for service in &self.services {
            let added = self.requests.answer(waits, until).await;
            // Another process that repairs may have removed it.
            let _ = self.requests.answer(waits, until).await;
            if refused.is_ok() {
                refused = added.map_err(|failure| of(service, failure));
            }
        }
        refused
    }
}
