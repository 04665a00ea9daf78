//! The days around a failover: nodes that come late, that are restarted one after the other, and that do not hear each other.

mod capture;
mod known;
mod late;
mod rolling;
mod scene;
mod split;
mod watcher;

use std::fmt::Write;

use anyhow::Result;
use serde_json::Value;

use crate::cluster::progress::Progress;
use crate::cluster::ways::{WATCH, WAYS, Way};

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
}

/// What came of one variant of a story, on one way: lines for people, and all of it for programs.
pub(crate) struct Told {
    pub(crate) way: &'static str,
    pub(crate) variant: &'static str,
    pub(crate) lines: Vec<(String, String)>,
    pub(crate) json: Value,
}

impl Upkeep {
    pub(crate) const ALL: [Upkeep; 4] = [Upkeep::Late, Upkeep::Known, Upkeep::Rolling, Upkeep::Split];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Upkeep::Late => "late",
            Upkeep::Known => "known",
            Upkeep::Rolling => "rolling",
            Upkeep::Split => "split",
        }
    }

    fn title(self) -> &'static str {
        match self {
            Upkeep::Late => "a node that comes late directs",
            Upkeep::Known => "knowing 10,000 connections",
            Upkeep::Rolling => "all nodes restarted in turn",
            Upkeep::Split => "no VRRP heard for 10 s",
        }
    }

    /// The ways that have something to show in it.
    pub(crate) fn ways(self) -> Vec<&'static Way> {
        let named = |name: &str| WAYS.iter().find(|way| way.name == name);
        let names: &[&str] = match self {
            Upkeep::Late | Upkeep::Rolling => &["seed", "quiesce", "stateless"],
            Upkeep::Known => &[],
            Upkeep::Split => &["quiesce", "stateless"],
        };
        names.iter().filter_map(|name| named(name)).chain([&WATCH]).collect()
    }

    fn variants(self, way: &Way) -> &'static [&'static str] {
        match self {
            Upkeep::Late => &["move", "crash"],
            Upkeep::Split if way.name != "stateless" => &["VRRP cut", "all cut"],
            Upkeep::Split => &["VRRP cut"],
            Upkeep::Known | Upkeep::Rolling => &[""],
        }
    }

    /// Lets it happen once, in each variant.
    pub(crate) fn tell(self, way: &Way) -> impl Iterator<Item = Result<Told>> {
        self.variants(way).iter().map(move |variant| {
            let progress =
                Progress::new(false, format!("{}, {}{}{variant}", self.name(), way.name, separator(variant)));
            let (lines, json) = match self {
                Upkeep::Late => late::tell(way, *variant == "crash", progress)?,
                Upkeep::Known => known::tell(way, progress)?,
                Upkeep::Rolling => rolling::tell(way, progress)?,
                Upkeep::Split => split::tell(way, *variant == "all cut", progress)?,
            };
            Ok(Told { way: way.name, variant, lines, json })
        })
    }

    /// For people: a column for each way and variant.
    pub(crate) fn draw(self, told: &[Told]) -> String {
        const QUESTION: usize = 50;
        const FIGURE: usize = 22;
        let mut text = format!("{:QUESTION$}", format!("{}, 3 nodes", self.title()));
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
