//! The days around a failover: nodes that come late, that are restarted one after the other, and
//! that do not hear each other.

mod capture;
mod even;
mod idle;
mod known;
mod late;
mod own;
mod rolling;
mod scene;
mod servers;
mod split;
mod strays;
mod taken_out;
mod unknown_mac;
mod watcher;

use std::fmt::Write;

use anyhow::Result;
use serde_json::Value;

use crate::cluster::addresses::{Family, family};
use crate::cluster::progress::Progress;
use crate::cluster::ways::{Balance, WATCH, WAYS, Way};

/// A story. Each may have several variants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Upkeep {
    /// A node that was not there when the sessions were made becomes the director.
    Late,
    /// How long a node takes to know 10,000 connections, and what the watch costs from then on.
    Known,
    /// All nodes are restarted, one after the other.
    Rolling,
    /// Some nodes hear no VRRP of the others for ten seconds.
    Split,
    /// Servers are added, removed or drained on all nodes, and then the director moves.
    Servers,
    /// Sessions are idle beyond IPVS's TCP timeout, and then the director moves.
    Idle,
    /// TCP packets of unknown sessions.
    Strays,
    /// A server is taken out on all nodes, and then a backup is promoted.
    TakenOut,
    /// How wlc spreads new sessions after two moves.
    Even,
    /// The nodes are clients of the VIP themselves.
    Own,
    /// A peer's MAC address is not known, or changes.
    UnknownMac,
}

const SLOPPY: &str = "sloppy_tcp";

/// What came of one variant of a story, on one way: lines for people, and all of it for programs.
pub(crate) struct Told {
    pub(crate) way: String,
    pub(crate) variant: &'static str,
    pub(crate) lines: Vec<(String, String)>,
    pub(crate) json: Value,
}

impl Upkeep {
    pub(crate) const ALL: [Upkeep; 11] = [
        Upkeep::Late,
        Upkeep::Known,
        Upkeep::Rolling,
        Upkeep::Split,
        Upkeep::Servers,
        Upkeep::Idle,
        Upkeep::Strays,
        Upkeep::TakenOut,
        Upkeep::Even,
        Upkeep::Own,
        Upkeep::UnknownMac,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Upkeep::Late => "late",
            Upkeep::Known => "known",
            Upkeep::Rolling => "rolling",
            Upkeep::Split => "split",
            Upkeep::Servers => "servers",
            Upkeep::Idle => "idle",
            Upkeep::Strays => "strays",
            Upkeep::TakenOut => "taken-out",
            Upkeep::Even => "even",
            Upkeep::Own => "own",
            Upkeep::UnknownMac => "unknown-mac",
        }
    }

    fn title(self) -> &'static str {
        match self {
            Upkeep::Late => "a node that comes late directs",
            Upkeep::Known => "knowing 10,000 connections",
            Upkeep::Rolling => "all nodes restarted in turn",
            Upkeep::Split => "no VRRP heard for 10 s",
            Upkeep::Servers => "servers change, then four moves",
            Upkeep::Idle => "idle beyond the IPVS timeout, then a move",
            Upkeep::Strays => "300 TCP packets of unknown sessions",
            Upkeep::TakenOut => "n3 taken out on all nodes, then n2 promoted",
            Upkeep::Even => "two moves, then 60 new sessions",
            Upkeep::Own => "the nodes' own requests to the VIP",
            Upkeep::UnknownMac => "MAC addresses unknown or changed",
        }
    }

    /// The ways that have something to show in it.
    pub(crate) fn ways(self) -> Vec<Way> {
        let names: &[&str] = match self {
            Upkeep::Late | Upkeep::Rolling => &["seed", "marks"],
            Upkeep::Known => &[],
            Upkeep::Strays | Upkeep::TakenOut | Upkeep::Own | Upkeep::UnknownMac => &["seed", "clear", "marks"],
            // The seed's second move in a row loses its table, and has no director that directs.
            Upkeep::Servers | Upkeep::Idle => &["clear", "marks"],
            Upkeep::Even => &["clear", "marks"],
            Upkeep::Split => &["marks"],
        };
        let named = |name: &&str| WAYS.iter().find(|way| way.name == *name);
        names.iter().filter_map(named).chain([&WATCH]).copied().collect()
    }

    /// Whether it can be told with this family. In IPv6 no host can start anew, as its interface
    /// could not be removed; and what hides a MAC address is ARP alone.
    pub(crate) fn works_with(self, family: Family) -> bool {
        family == Family::V4 || !matches!(self, Upkeep::Rolling | Upkeep::UnknownMac)
    }

    /// The scheduler where none is asked for; `None`: the way's own.
    pub(crate) fn scheduler(self) -> Option<Balance> {
        (self == Upkeep::Even).then_some(Balance::Wlc)
    }

    fn variants(self, way: &Way) -> &'static [&'static str] {
        match self {
            Upkeep::Late => &["move", "crash"],
            Upkeep::Split => &["VRRP cut", "all cut"],
            Upkeep::Servers => &["added", "removed", "drained"],
            Upkeep::TakenOut => &["weight 0", "removed"],
            Upkeep::Strays if way.fence.is_empty() => &["", SLOPPY],
            Upkeep::Known
            | Upkeep::Rolling
            | Upkeep::Idle
            | Upkeep::Strays
            | Upkeep::Even
            | Upkeep::Own
            | Upkeep::UnknownMac => &[""],
        }
    }

    /// Lets it happen once, in each variant.
    pub(crate) fn tell(self, way: &Way) -> impl Iterator<Item = Result<Told>> {
        let scheduler = way.scheduler.name();
        self.variants(way).iter().map(move |variant| {
            let title = format!("{}, {} {scheduler}{}{variant}", self.name(), way.name, separator(variant));
            let progress = Progress::new(false, title);
            let (lines, mut json) = match self {
                Upkeep::Late => late::tell(way, *variant == "crash", progress)?,
                Upkeep::Known => known::tell(way, progress)?,
                Upkeep::Rolling => rolling::tell(way, progress)?,
                Upkeep::Split => split::tell(way, *variant == "all cut", progress)?,
                Upkeep::Servers => servers::tell(way, servers::Edit::named(variant), progress)?,
                Upkeep::Idle => idle::tell(way, progress)?,
                Upkeep::Strays => strays::tell(way, *variant == SLOPPY, progress)?,
                Upkeep::TakenOut => taken_out::tell(way, *variant == "removed", progress)?,
                Upkeep::Even => even::tell(way, progress)?,
                Upkeep::Own => own::tell(way, progress)?,
                Upkeep::UnknownMac => unknown_mac::tell(way, progress)?,
            };
            if let Value::Object(json) = &mut json {
                for (key, value) in [
                    ("story", self.name()),
                    ("way", way.name),
                    ("scheduler", scheduler),
                    ("variant", variant),
                    ("family", family().name()),
                ] {
                    json.insert(key.into(), value.into());
                }
                json.insert("live_table".into(), way.live_table.into());
            }
            Ok(Told { way: format!("{} {scheduler}", way.name), variant, lines, json })
        })
    }

    /// For people: a column for each way and variant.
    pub(crate) fn draw(self, told: &[Told]) -> String {
        const QUESTION: usize = 50;
        const FIGURE: usize = 24;
        let mut text = format!("{:QUESTION$}", format!("{}, 3 nodes, {}", self.title(), family().name()));
        for Told { way, variant, .. } in told {
            let _ = write!(text, "{:>FIGURE$}", format!("{way}{}{variant}", separator(variant)));
        }
        let mut questions: Vec<&String> = Vec::new();
        for (question, _) in told.iter().flat_map(|told| &told.lines) {
            if !questions.contains(&question) {
                questions.push(question);
            }
        }
        for question in questions {
            let _ = write!(text, "\n  {question:width$}", width = QUESTION - 2);
            for told in told {
                let answer = told.lines.iter().find(|(asked, _)| asked == question).map_or("-", |(_, answer)| answer);
                let _ = write!(text, "{answer:>FIGURE$}");
            }
        }
        text + "\n"
    }
}

fn separator(variant: &str) -> &'static str {
    if variant.is_empty() { "" } else { ", " }
}
