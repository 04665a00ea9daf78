//! Takes servers out of the table and puts them back: weight 0 for new connections, and the weight
//! from before. Every node has a table of its own and may direct next: a drain is repeated on
//! each.
//!
//! Other programs edit the same weights. What they set stays: only a weight that this node took
//! away is given back, and only where it is still 0.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use rustix::io::Errno;

use super::config::{Config, VipOwner};
use super::handle::Node;
use super::job::Task;
use super::observation::Observation;
use super::observe::Look;
use super::plan::{Plan, Step};
use super::planner::{Memory, change, following, judge};
use super::services::is_ours;
use super::state::{State, StoredTable};
use crate::error::{Cause, Error, Result};
use crate::ipvs::{self, Protocol, Service, ServiceFlags, ServiceId, Table};

/// Destinations that were drained, and their weights before.
pub(super) type Drained = BTreeMap<(ServiceId, SocketAddr), u32>;

/// What the weights of a server's destinations become.
///
/// ```no_run
/// use lvs_dr::node::{Config, Node, Weigh};
///
/// let mut node = Node::open(Config::new("bond0", ["192.168.0.254".parse()?]))?;
/// let server = Some("192.168.0.13".parse()?);
/// node.weigh(server, Weigh::Drain, |step| println!("{step}"))?;
/// while node.sessions_of(server)?.active > 0 {
///     std::thread::sleep(std::time::Duration::from_secs(1));
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "snake_case"))]
pub enum Weigh {
    /// 0, and what they were is remembered.
    Drain,
    /// What they were before they were drained, where they are 0 still.
    Undrain,
    /// This. A server is not drained then, whatever it was before.
    Set(u32),
}

impl Weigh {
    pub(super) fn name(self) -> &'static str {
        match self {
            Weigh::Drain => "drain",
            Weigh::Undrain => "undrain",
            Weigh::Set(_) => "set-weight",
        }
    }
}

/// The sessions that a node knows of a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Sessions {
    /// Connections of TCP and SCTP that are established, and flows of UDP that are remembered.
    pub active: u64,
    /// Connections in other states, which end by themselves.
    pub ending: u64,
    /// Clients of persistent services that are bound to the server. They go elsewhere with their
    /// next connection once its weight is 0, as the sysctl `expire_quiescent_template` is 1 with
    /// fence [`Fence::Marks`](super::Fence::Marks).
    pub templates: u64,
}

impl Node {
    /// Changes the weights of a server's destinations in all services of this node's table, and
    /// remembers what they were before a drain. `None`: the server is this node, with any of its
    /// addresses. Sessions stay. The change stays through roles, repairs and changes of the
    /// configuration; where the node keeps its table for a promotion, it is changed there.
    ///
    /// Each node of the cluster has a table of its own: a server is out once it is drained on all.
    ///
    /// # Errors
    /// As [`Node::become_role`]; [`Cause::NoDestination`]: the server is none; [`Error::Invalid`]:
    /// a scheduler drops connections while a server has weight 0, or no role was taken on yet.
    pub fn weigh(&mut self, server: Option<IpAddr>, to: Weigh, mut before: impl FnMut(&Step)) -> Result<Plan> {
        self.carry_out(Task::Weigh { server, to }, &mut before)
    }

    /// Plans what [`Node::weigh`] would do. Changes nothing.
    ///
    /// # Errors
    /// As [`Node::weigh`].
    pub fn plan_weigh(&mut self, server: Option<IpAddr>, to: Weigh) -> Result<Plan> {
        self.plan_task(Task::Weigh { server, to })
    }

    /// Counts the sessions that this node knows of a server, of the services of its table. `None`:
    /// the server is this node. Reads the whole list of connections.
    ///
    /// # Errors
    /// As [`Ipvs::connections`](crate::ipvs::Ipvs::connections).
    pub fn sessions_of(&mut self, server: Option<IpAddr>) -> Result<Sessions> {
        let own = self.vips.all()?.into_iter().map(|found| found.address).collect();
        let servers = servers(server, &own);
        let (table, _) = self.tables()?;
        let listens: BTreeSet<SocketAddr> =
            table.services().filter_map(|content| content.service.id.address()).collect();
        let any_port: BTreeSet<IpAddr> = listens.iter().filter(|at| at.port() == 0).map(SocketAddr::ip).collect();
        let marked = table.services().any(|content| content.service.id.address().is_none());
        let mut found = Sessions::default();
        self.each_connection(std::time::Duration::ZERO, None, |connection| {
            if !servers.contains(&connection.destination.ip()) {
                return;
            }
            let at = connection.service;
            if connection.is_template() {
                found.templates += 1;
            } else if marked || listens.contains(&at) || any_port.contains(&at.ip()) {
                let is_active = match connection.protocol {
                    Protocol::Tcp | Protocol::Sctp => connection.state == "ESTABLISHED",
                    _ => true,
                };
                *if is_active { &mut found.active } else { &mut found.ending } += 1;
            }
        })?;
        Ok(found)
    }
}

impl Node {
    /// Says why a release of this node would break connections now: its table sends new ones to
    /// this node, beside other servers, and so do those of the other nodes. `None`: it breaks
    /// none, as far as the table says. Changes nothing.
    ///
    /// # Errors
    /// As [`Node::plan_release`].
    pub fn still_used(&mut self) -> Result<Option<String>> {
        let (memory, seen) = self.look(Some(Task::Release), Look::Services)?;
        Ok(still_used(&self.config, &memory, &seen))
    }
}

fn servers(server: Option<IpAddr>, own: &BTreeSet<IpAddr>) -> BTreeSet<IpAddr> {
    server.map_or_else(|| own.clone(), |server| [server].into())
}

/// Plans a change of weights.
pub(super) fn plan(
    config: &Config,
    server: Option<IpAddr>,
    to: Weigh,
    memory: &Memory,
    seen: &Observation,
) -> Result<Plan> {
    let group = memory.state.group(&config.group);
    let loaded = memory.loaded(config, &group);
    let ours = |id: &ServiceId| is_ours(config, &loaded, id);
    let before = if group.held { memory.held.clone() } else { seen.table.filtered(ours) };
    let (mut table, mut drained) = (before.clone(), group.drained.clone());
    let servers = servers(server, &seen.own);
    let (mut warnings, mut known) = (Vec::new(), false);
    if to == Weigh::Drain || to == Weigh::Set(0) {
        refuse_unfit(&before.filtered(ours), &servers)?;
    }
    table.edit_destinations(|id, destination| {
        if !ours(id) || !servers.contains(&destination.address.ip()) {
            return;
        }
        known = true;
        let key = (*id, destination.address);
        match to {
            Weigh::Drain if destination.weight == 0 => {}
            Weigh::Drain => {
                drained.insert(key, destination.weight);
                destination.weight = 0;
            }
            Weigh::Undrain => match drained.get(&key) {
                Some(weight) if destination.weight == 0 => destination.weight = *weight,
                Some(weight) if destination.weight != *weight => warnings.push(format!(
                    "{} of {id}: another program has set weight {} since it was drained with {weight}: it stays",
                    destination.address, destination.weight
                )),
                _ => {}
            },
            Weigh::Set(weight) => {
                drained.remove(&key);
                destination.weight = weight;
            }
        }
    });
    if to == Weigh::Undrain {
        // One that was removed meanwhile is its editor's.
        drained.retain(|(_, address), _| !servers.contains(&address.ip()));
    } else if !known {
        return Err(no_destination(server, &before.filtered(ours)));
    }
    let mut after = memory.state.clone();
    if let Some(group) = after.groups.get_mut(&config.group) {
        group.drained.clone_from(&drained);
    }
    let followed = match config.vip_owner {
        VipOwner::Routes if !group.held => follow(config, memory, seen, &after, &table),
        _ => Vec::new(),
    };
    let record = (drained != group.drained).then_some(Step::Weights(drained.len()));
    let changed = match group.held {
        true => (table != before).then(|| Step::Keep { kept: StoredTable::Held, table: table.clone() }),
        false => change(&before, &table),
    };
    // Killed in between, a weight is never lost.
    let mut steps: Vec<Step> = record.into_iter().chain(changed).collect();
    if to != Weigh::Drain {
        steps.reverse();
    }
    steps.splice(0..0, followed);
    Ok(Plan { warnings, ..Plan::to(&memory.state, after, steps) })
}

/// Lets the services of the classifier's marks follow the weights.
fn follow(config: &Config, memory: &Memory, seen: &Observation, after: &State, table: &Table) -> Vec<Step> {
    let (mut seen, memory) = (seen.clone(), Memory { state: after.clone(), ..memory.clone() });
    seen.table.edit_destinations(|id, found| {
        let new = table.service(id).and_then(|content| content.destination(found.address));
        found.weight = new.map_or(found.weight, |new| new.weight);
    });
    following(config, &memory, &seen)
}

fn no_destination(server: Option<IpAddr>, table: &Table) -> Error {
    let servers: BTreeSet<String> = table
        .services()
        .flat_map(|content| content.destinations().map(|d| d.address.ip().to_string()).collect::<Vec<_>>())
        .collect();
    let what = server.map_or_else(|| "this node".to_owned(), |server| format!("server {server}"));
    let names = match servers.is_empty() {
        true => "its table has none".to_owned(),
        false => format!("its table has {}", servers.into_iter().collect::<Vec<_>>().join(", ")),
    };
    Error::Refused {
        operation: "find",
        object: format!("{what} among the destinations ({names})"),
        errno: Errno::NOENT.raw_os_error(),
        cause: Cause::NoDestination,
        message: None,
    }
}

/// Schedulers that go on to choose a destination of weight 0, and drop the connection then: a
/// share of the clients gets no answer (`is_unavailable()` in net/netfilter/ipvs/ip_vs_mh.c,
/// ip_vs_sh.c and ip_vs_dh.c).
fn refuse_unfit(table: &Table, servers: &BTreeSet<IpAddr>) -> Result<()> {
    let flag = |service: &Service| match service.scheduler.name() {
        "mh" if !service.flags.contains(ServiceFlags::MH_FALLBACK) => Some("mh-fallback"),
        "sh" if !service.flags.contains(ServiceFlags::SH_FALLBACK) => Some("sh-fallback"),
        "dh" => Some(""),
        _ => None,
    };
    let is_used =
        |content: &ipvs::VirtualService<'_>| content.destinations().any(|d| servers.contains(&d.address.ip()));
    let unfit = table.services().filter(is_used).find_map(|content| Some((content.service, flag(content.service)?)));
    let Some((service, flag)) = unfit else { return Ok(()) };
    let what_to_do = match flag {
        "" => "choose another scheduler in the file".to_owned(),
        flag => format!("add \"{flag}\" to its flags in the file"),
    };
    Err(Error::invalid(
        service.id,
        format!(
            "scheduler {} drops the connections that it would give to a server of weight 0: {what_to_do}, and bring it in \
             (`lvs-node apply`) on each node",
            service.scheduler
        ),
    ))
}

/// The configured services, in which those that are drained have weight 0: what is loaded again,
/// or changed in the file, does not put them back.
pub(super) fn at_rest<'a>(services: &'a Table, drained: &Drained) -> Cow<'a, Table> {
    if drained.is_empty() {
        return Cow::Borrowed(services);
    }
    let mut table = services.clone();
    table.edit_destinations(|id, destination| {
        if drained.contains_key(&(*id, destination.address)) {
            destination.weight = 0;
        }
    });
    Cow::Owned(table)
}

fn still_used(config: &Config, memory: &Memory, seen: &Observation) -> Option<String> {
    memory.state.group(&config.group).role?;
    let table = judge(config, memory, seen, &[], |_| Vec::new()).table;
    table.services().find_map(|content| {
        let is_own = |d: &&ipvs::Destination| seen.own.contains(&d.address.ip());
        let here = content.destinations().filter(is_own).find(|d| d.weight > 0)?;
        content.destinations().any(|d| !is_own(&d)).then(|| {
            format!(
                "{} still gets new connections of {} (weight {}), which fail once this node is released: `lvs-node drain {}` here and \
                 on each other node first",
                here.address,
                content.service.id,
                here.weight,
                here.address.ip()
            )
        })
    })
}

#[cfg(test)]
mod tests {
    use super::super::fence::Fence;
    use super::super::model::{SERVICES, World, config, ip};
    use super::super::role::Role;
    use super::*;

    fn weigh(world: &mut World, server: Option<&str>, to: Weigh) -> Result<Plan> {
        let plan = plan(&world.config, server.map(ip), to, &world.memory, &world.seen)?;
        plan.steps().iter().for_each(|step| world.act(step, &plan));
        // What is remembered is read again by the next process.
        world.memory.state = State::parse(&world.memory.state.text(None)).unwrap();
        let again = super::plan(&world.config, server.map(ip), to, &world.memory, &world.seen)?;
        assert!(again.is_empty(), "{again}");
        Ok(plan)
    }

    fn without(number: u8) -> String {
        SERVICES.replace(&format!("192.0.2.{number}:80 -g -w 1"), &format!("192.0.2.{number}:80 -g -w 0"))
    }

    #[test]
    fn the_weight_from_before_comes_back_whatever_happens_meanwhile() {
        for fence in Fence::ALL {
            let mut world = World::new(config(fence));
            world.take_on(Role::Master);
            world.edit("192.0.2.12:80 -g -w 1", "192.0.2.12:80 -g -w 7");
            let before = world.services();
            weigh(&mut world, Some("192.0.2.12"), Weigh::Drain).unwrap();
            assert_eq!(world.services(), without(12));
            // Roles, a flush, another file.
            for role in [Role::Backup, Role::Master] {
                world.take_on(role);
            }
            world.seen.table.retain(|id| id.address().is_none());
            world.take_on(Role::Master);
            assert_eq!(world.services(), without(12), "{fence}");
            let changed = |weight| SERVICES.replace("12:80 -g -w 1", &format!("12:80 -g -w {weight}"));
            world.config.services = Some(changed(3).parse().unwrap());
            world.take_on(Role::Master);
            assert_eq!(world.services(), without(12), "{fence}");
            // In the table of a backup too, wherever that is.
            world.take_on(Role::Backup);
            weigh(&mut world, Some("192.0.2.12"), Weigh::Undrain).unwrap();
            world.take_on(Role::Master);
            assert_eq!(world.services(), before, "{fence}");
            assert!(world.memory.state.groups[""].drained.is_empty());
        }
    }

    #[test]
    fn weights_of_others_stay() {
        let mut world = World::new(config(Fence::Marks));
        world.take_on(Role::Backup);
        // A health check found it dead before: the drain takes nothing away, and gives nothing
        // back.
        world.edit("192.0.2.12:80 -g -w 1", "192.0.2.12:80 -g -w 0");
        for to in [Weigh::Drain, Weigh::Undrain] {
            assert!(weigh(&mut world, Some("192.0.2.12"), to).unwrap().is_empty());
            assert_eq!(world.services(), without(12));
        }
        // One that sets a weight meanwhile, or removes the server.
        weigh(&mut world, None, Weigh::Drain).unwrap();
        world.edit("192.0.2.11:80 -g -w 0", "192.0.2.11:80 -g -w 5");
        let plan = weigh(&mut world, None, Weigh::Undrain).unwrap();
        assert!(
            plan.warnings()[0].starts_with("192.0.2.11:80 of tcp 192.0.2.254:80: another program has set weight 5")
        );
        assert!(world.services().contains("192.0.2.11:80 -g -w 5"));
        weigh(&mut world, None, Weigh::Drain).unwrap();
        world.edit("-a -t 192.0.2.254:80 -r 192.0.2.11:80 -g -w 0\n", "");
        assert!(weigh(&mut world, None, Weigh::Undrain).unwrap().warnings().is_empty());
        assert!(!world.services().contains("192.0.2.11"));
        // A weight that is set is the operator's.
        weigh(&mut world, Some("192.0.2.12"), Weigh::Set(9)).unwrap();
        weigh(&mut world, Some("192.0.2.12"), Weigh::Drain).unwrap();
        weigh(&mut world, Some("192.0.2.12"), Weigh::Set(4)).unwrap();
        assert!(weigh(&mut world, Some("192.0.2.12"), Weigh::Undrain).unwrap().is_empty());
        assert!(world.services().contains("192.0.2.12:80 -g -w 4"));
    }

    #[test]
    fn what_cannot_be_drained_is_refused_with_what_to_do() {
        let refused = |scheduler: &str, server: &str| {
            let mut world = World::new(config(Fence::Marks));
            world.config.services = Some(SERVICES.replace("-s wrr", scheduler).parse().unwrap());
            world.take_on(Role::Backup);
            weigh(&mut world, Some(server), Weigh::Drain).err().map(|error| error.to_string()).unwrap_or_default()
        };
        for (scheduler, words) in [
            ("-s mh", "add \"mh-fallback\" to its flags"),
            ("-s mh -b mh-port", "add \"mh-fallback\" to its flags"),
            ("-s sh -b sh-port", "add \"sh-fallback\" to its flags"),
            ("-s dh", "choose another scheduler"),
            ("-s mh -b mh-fallback", ""),
            ("-s sh -b sh-port,sh-fallback", ""),
            ("-s lc", ""),
        ] {
            let refused = refused(scheduler, "192.0.2.12");
            assert!(refused.contains(words) && refused.is_empty() == words.is_empty(), "{scheduler}: {refused}");
        }
        let unknown = refused("-s wrr", "192.0.2.99");
        assert!(unknown.contains("server 192.0.2.99") && unknown.contains("192.0.2.11, 192.0.2.12"), "{unknown}");
    }

    #[test]
    fn a_server_that_gets_new_connections_is_not_released_without_a_word() {
        let mut world = World::new(config(Fence::Marks));
        world.take_on(Role::Backup);
        let warned = |world: &World| still_used(&world.config, &world.memory, &world.seen).unwrap_or_default();
        assert!(warned(&world).contains("`lvs-node drain 192.0.2.11` here and on each other node"));
        weigh(&mut world, Some("192.0.2.12"), Weigh::Drain).unwrap();
        assert!(warned(&world).contains("drain 192.0.2.11"));
        weigh(&mut world, None, Weigh::Drain).unwrap();
        assert_eq!(warned(&world), "");
        // The only server has none to leave its clients to.
        let alone: String =
            SERVICES.lines().filter(|line| !line.contains(".12:")).map(|line| format!("{line}\n")).collect();
        let mut world = World::new(Config { services: Some(alone.parse().unwrap()), ..config(Fence::Marks) });
        world.take_on(Role::Master);
        assert_eq!(warned(&world), "");
    }
}
