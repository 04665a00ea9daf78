//! `lvs-node top`: connections, packets and octets of each service and server, again and again.

use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use clap::Args;
use lvs_dr::Result;
use lvs_dr::ipvs::{DestinationEntry, Detail, Ipvs, ServiceEntry, ServiceId, Stats};
use lvs_dr::node::{MarkValues, Node};
use rustix::thread::{Timespec, nanosleep};
use serde_json::{Value, json};

use super::columns::{self, Align};
use super::output::VERSION;
use super::plural;

#[derive(Debug, Clone, Args)]
pub struct Top {
    /// How often, in seconds. The kernel counts every two seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 2, value_parser = clap::value_parser!(u16).range(2..=3600))]
    interval: u16,
    /// End after so many screens.
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(1..))]
    count: Option<u32>,
}

/// What was counted up to now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Counted {
    connections: u64,
    packets: u64,
    octets: u64,
}

impl Counted {
    fn of(stats: &Stats) -> Self {
        Counted { connections: stats.connections, packets: stats.packets_in, octets: stats.bytes_in }
    }
}

/// What was counted in a second.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Rates {
    connections: f64,
    packets: f64,
    octets: f64,
}

#[derive(Debug, Clone)]
struct Server {
    address: String,
    weight: u32,
    active: u32,
    inactive: u32,
    counted: Counted,
}

#[derive(Debug, Clone)]
struct Service {
    id: String,
    scheduler: String,
    counted: Counted,
    servers: Vec<Server>,
}

/// The table at a time.
#[derive(Debug, Clone)]
struct Sample {
    role: String,
    at: Instant,
    services: Vec<Service>,
}

impl Sample {
    fn read(node: &Node, ipvs: &mut Ipvs) -> Result<Sample> {
        let role = match node.role()? {
            Some((role, true)) => role.to_string(),
            Some((role, false)) => format!("{role}, not reached"),
            None => "no role".to_owned(),
        };
        let values = node.config().mark_values();
        let mut entries = ipvs.entries(Detail::Counters)?;
        let at = Instant::now();
        entries.retain(|(entry, _)| !is_own(values, &entry.service.id));
        entries.sort_by_key(|(entry, _)| entry.service.id);
        Ok(Sample { role, at, services: entries.iter().map(service).collect() })
    }

    fn service(&self, id: &str) -> Option<&Service> {
        self.services.iter().find(|service| service.id == id)
    }
}

/// Whether it is a service of the node's marks.
fn is_own(values: MarkValues, id: &ServiceId) -> bool {
    matches!(id, ServiceId::Fwmark { mark, .. } if values.contains(*mark))
}

fn service((entry, servers): &(ServiceEntry, Vec<DestinationEntry>)) -> Service {
    let server = |found: &DestinationEntry| Server {
        address: found.destination.address.to_string(),
        weight: found.destination.weight,
        active: found.active,
        inactive: found.inactive,
        counted: found.stats.as_ref().map(Counted::of).unwrap_or_default(),
    };
    let mut servers: Vec<&DestinationEntry> = servers.iter().collect();
    servers.sort_by_key(|found| found.destination.address);
    Service {
        id: entry.service.id.to_string(),
        scheduler: entry.service.scheduler.to_string(),
        counted: Counted::of(&entry.stats),
        servers: servers.into_iter().map(server).collect(),
    }
}

/// `None`: it was not there before, or its counters were set back.
fn rates(before: Option<Counted>, now: Counted, elapsed: Duration) -> Option<Rates> {
    let (before, seconds) = (before?, elapsed.as_secs_f64());
    let a_second = |before: u64, now: u64| Some(now.checked_sub(before)? as f64 / seconds);
    (seconds > 0.0).then_some(())?;
    Some(Rates {
        connections: a_second(before.connections, now.connections)?,
        packets: a_second(before.packets, now.packets)?,
        octets: a_second(before.octets, now.octets)?,
    })
}

/// A number of at most five characters.
fn short(value: f64) -> String {
    let mut value = value;
    for unit in ["", "k", "M", "G", "T"] {
        if value < 999.5 || unit == "T" {
            let digits = usize::from(value < 99.95 && (value.fract() != 0.0 || !unit.is_empty()));
            return format!("{value:.digits$}{unit}");
        }
        value /= 1000.0;
    }
    String::new()
}

/// The screen of two samples: a line for each service, and below it one for each server.
fn text(before: Option<&Sample>, now: &Sample) -> String {
    let elapsed = before.map_or(Duration::ZERO, |before| now.at.duration_since(before.at));
    let words = |rates: Option<Rates>| match rates {
        Some(rates) => [short(rates.connections), short(rates.packets), short(rates.octets * 8.0)],
        None => [const { "-" }; 3].map(str::to_owned),
    };
    let mut rows =
        vec![["SERVICE / SERVER", "WEIGHT", "ACTIVE", "INACTIVE", "CONN/S", "PKT/S", "BIT/S"].map(str::to_owned)];
    let (mut active, mut servers) = (0_u64, 0);
    for service in &now.services {
        let earlier = before.and_then(|before| before.service(&service.id));
        let of =
            |counts: fn(&Server) -> u32| service.servers.iter().map(|server| u64::from(counts(server))).sum::<u64>();
        let [connections, packets, bits] =
            words(rates(earlier.map(|earlier| earlier.counted), service.counted, elapsed));
        rows.push([
            format!("{} {}", service.id, service.scheduler),
            String::new(),
            of(|server| server.active).to_string(),
            of(|server| server.inactive).to_string(),
            connections,
            packets,
            bits,
        ]);
        active += of(|server| server.active);
        servers += service.servers.len();
        for server in &service.servers {
            let same = |found: &&Server| found.address == server.address;
            let earlier = earlier.and_then(|earlier| earlier.servers.iter().find(same)).map(|found| found.counted);
            let [connections, packets, bits] = words(rates(earlier, server.counted, elapsed));
            rows.push([
                format!("  {}", server.address),
                server.weight.to_string(),
                server.active.to_string(),
                server.inactive.to_string(),
                connections,
                packets,
                bits,
            ]);
        }
    }
    let mut align = [Align::Right; 7];
    align[0] = Align::Left;
    let (servers, services) = (plural(servers, "server"), plural(now.services.len(), "service"));
    let head = format!("{}: {servers} of {services}, {}\n\n", now.role, plural(active as usize, "active connection"));
    head + &columns::text(&rows, &align)
}

/// As an object.
fn json(before: Option<&Sample>, now: &Sample) -> Value {
    let elapsed = before.map_or(Duration::ZERO, |before| now.at.duration_since(before.at));
    let of = |rates: Option<Rates>| {
        rates.map(|rates| {
            json!({
                "connections": rates.connections,
                "packets": rates.packets,
                "bytes": rates.octets,
            })
        })
    };
    let services = now.services.iter().map(|service| {
        let earlier = before.and_then(|before| before.service(&service.id));
        let servers = service.servers.iter().map(|server| {
            let same = |found: &&Server| found.address == server.address;
            let earlier = earlier.and_then(|earlier| earlier.servers.iter().find(same)).map(|found| found.counted);
            json!({
                "address": server.address,
                "weight": server.weight,
                "active": server.active,
                "inactive": server.inactive,
                "per_second": of(rates(earlier, server.counted, elapsed)),
            })
        });
        json!({
            "service": service.id,
            "scheduler": service.scheduler,
            "per_second": of(rates(earlier.map(|earlier| earlier.counted), service.counted, elapsed)),
            "servers": servers.collect::<Vec<_>>(),
        })
    });
    json!({
        "version": VERSION,
        "command": "top",
        "time": SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64(),
        "seconds": elapsed.as_secs_f64(),
        "role": now.role,
        "services": services.collect::<Vec<_>>(),
    })
}

/// As much of a screen as the terminal has room for, over the one before.
fn screen(text: &str, rows: usize, columns: usize) -> String {
    let mut shown = String::from("\x1b[H");
    for line in text.lines().take(rows.saturating_sub(1)) {
        shown.extend(line.chars().take(columns));
        shown += "\x1b[K\n";
    }
    shown + "\x1b[J"
}

/// Shows the table until it is ended, `--count` is reached, or the reader is gone.
pub fn run(node: &Node, ipvs: &mut Ipvs, options: &Top, as_json: bool) -> Result<()> {
    let interval = Duration::from_secs(options.interval.into());
    let terminal = !as_json && io::stdout().is_terminal();
    let mut before: Option<Sample> = None;
    let (mut left, mut next) = (options.count, Instant::now());
    while left != Some(0) {
        let now = Sample::read(node, ipvs)?;
        let shown = match (as_json, terminal, &before) {
            (true, _, Some(before)) => format!("{}\n", json(Some(before), &now)),
            (false, false, Some(before)) => text(Some(before), &now) + "\n",
            (true, ..) | (_, false, None) => String::new(),
            (_, true, before) => {
                let size = rustix::termios::tcgetwinsize(io::stdout());
                let (rows, columns) = size.map_or((24, 80), |size| (size.ws_row.into(), size.ws_col.into()));
                let clear = if before.is_none() { "\x1b[2J" } else { "" };
                clear.to_owned() + &screen(&text(before.as_ref(), &now), rows, columns)
            }
        };
        // The reader is gone.
        if io::stdout().write_all(shown.as_bytes()).and_then(|()| io::stdout().flush()).is_err() {
            return Ok(());
        }
        if before.is_some() {
            left = left.map(|left| left - 1);
        }
        before = Some(now);
        // At the same distance, however long it takes.
        next += interval;
        if left != Some(0) {
            let pause = next.saturating_duration_since(Instant::now());
            let _ = nanosleep(&Timespec::try_from(pause).unwrap_or_default());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(at: Instant, counted: [u64; 3], active: u32) -> Sample {
        let [connections, packets, octets] = counted;
        let counted = Counted { connections, packets, octets };
        let server = |address: &str| Server { address: address.into(), weight: 1, active, inactive: 3, counted };
        Sample {
            role: "master".into(),
            at,
            services: vec![Service {
                id: "tcp 192.0.2.254:80".into(),
                scheduler: "wrr".into(),
                counted,
                servers: vec![server("192.0.2.11:80"), server("192.0.2.112:80")],
            }],
        }
    }

    #[test]
    fn a_screen_of_two_samples() {
        let start = Instant::now();
        let (before, now) = (
            sample(start, [100, 1000, 10_000], 7),
            sample(start + Duration::from_secs(2), [125, 3600, 2_510_000], 1200),
        );
        let heading = "SERVICE / SERVER        WEIGHT  ACTIVE  INACTIVE  CONN/S  PKT/S  BIT/S\n";
        assert_eq!(
            text(Some(&before), &now),
            format!(
                "master: 2 servers of 1 service, 2400 active connections\n\n{heading}\
                 tcp 192.0.2.254:80 wrr            2400         6    12.5   1.3k  10.0M\n\
                 \x20 192.0.2.11:80              1    1200         3    12.5   1.3k  10.0M\n\
                 \x20 192.0.2.112:80             1    1200         3    12.5   1.3k  10.0M\n"
            )
        );
        // Without an earlier sample, of a server that is new, and of counters that were set back.
        let mut fewer = before.clone();
        fewer.services[0].servers.pop();
        assert_eq!(text(None, &now).matches(" -      -      -\n").count(), 3);
        assert_eq!(text(Some(&fewer), &now).matches(" -      -      -\n").count(), 1);
        assert_eq!(text(Some(&sample(start, [126, 0, 0], 1)), &now).matches(" -      -      -\n").count(), 3);
        let object = json(Some(&before), &now);
        assert_eq!(object["services"][0]["servers"][1]["per_second"]["connections"], 12.5);
        assert_eq!((&object["seconds"], &json(None, &now)["services"][0]["per_second"]), (&json!(2.0), &Value::Null));
    }

    #[test]
    fn numbers_are_short() {
        for (value, expected) in [
            (0.0, "0"),
            (0.5, "0.5"),
            (12.0, "12"),
            (99.96, "100"),
            (999.4, "999"),
            (999.6, "1.0k"),
            (1260.0, "1.3k"),
            (123_456.0, "123k"),
            (10_000_000.0, "10.0M"),
            (2.5e12, "2.5T"),
        ] {
            assert_eq!(short(value), expected, "{value}");
        }
    }

    #[test]
    fn a_screen_has_the_size_of_the_terminal() {
        assert_eq!(screen("abc\ndef\nghi\n", 3, 2), "\x1b[Hab\x1b[K\nde\x1b[K\n\x1b[J");
        assert_eq!(screen("a\n", 24, 80), "\x1b[Ha\x1b[K\n\x1b[J");
    }
}
