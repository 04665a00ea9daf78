//! The figures, for people: what was counted in each line, and a column for each way.

use std::time::Duration;

use crate::cluster::addresses::family;
use crate::cluster::record::Kind;
use crate::cluster::router::Classified;
use crate::measure::{Count, Measured, Pair};

const QUESTION: usize = 50;
const FIGURE: usize = 18;

/// What a line says: in words, and of one way's runs. `None`: there is nothing to say.
type Line = (&'static str, fn(&[Measured]) -> Option<String>);

const LINES: &[Line] = &[
    ("active sessions kept", |runs| Some(sum(runs.iter().map(|run| run.active)))),
    ("idle sessions kept", |runs| Some(sum(runs.iter().map(|run| run.idle)))),
    ("sessions younger than 2 s kept", |runs| Some(sum(young(runs)?.into_iter()))),
    ("new connections failed", |runs| Some(sum(runs.iter().map(|run| run.new)))),
    ("slowest new connection, ms", |runs| Some(spread(runs.iter().map(|run| ms(run.slowest))))),
    ("longest gap of a session, ms: before", |runs| times(runs, |run| run.gap.quiet)),
    ("                              in the change", |runs| times(runs, |run| run.gap.change)),
    ("longest wait for the CPU, ms: before", |runs| Some(spread(runs.iter().map(|run| ms(run.late.quiet))))),
    ("                              in the change", |runs| Some(spread(runs.iter().map(|run| ms(run.late.change))))),
    ("segments that clients sent again: before", |runs| Some(spread(runs.iter().map(|run| run.resent.quiet as f64)))),
    ("                                  in the change", |runs| {
        Some(spread(runs.iter().map(|run| run.resent.change as f64)))
    }),
    ("CPU idle, %: before", |runs| Some(spread(runs.iter().map(|run| percent(run.cpu).quiet)))),
    ("             in the change", |runs| Some(spread(runs.iter().map(|run| percent(run.cpu).change)))),
    ("until packets go to another node, ms", |runs| times(runs, |run| run.election)),
    ("from then until all nodes serve new ones, ms", |runs| times(runs, |run| run.spread)),
    ("until the dead node had no carrier, ms", |runs| {
        times(runs, |run| {
            let turn = &run.record.turns[0];
            Some(run.record.cut(turn)? - turn.crash?)
        })
    }),
    ("packets on a second hop: before", |runs| second_hops(runs, |pair| pair.quiet)),
    ("                         since the change", |runs| second_hops(runs, |pair| pair.change)),
    ("until the last one of them, ms", |runs| times(runs, |run| run.second_hops_end)),
];

/// `measured`: of each way, each run.
pub(crate) fn draw(nodes: usize, kind: Kind, measured: &[Vec<Measured>]) -> String {
    let names = measured.iter().filter_map(|runs| runs.first()).map(|run| {
        let name = format!("{} {}", run.record.name, run.scheduler.name());
        format!("{name:>FIGURE$}")
    });
    let title = format!("{}, {nodes} nodes, {}", kind.title(), family().name());
    let mut text = format!("{title:QUESTION$}{}\n", names.collect::<String>());
    for (question, answer) in LINES {
        let figures: Vec<Option<String>> = measured.iter().map(|runs| answer(runs)).collect();
        if figures.iter().all(Option::is_none) {
            continue;
        }
        let figures = figures.into_iter().map(|figure| format!("{:>FIGURE$}", figure.unwrap_or("-".into())));
        text += &format!("  {question:width$}{}\n", figures.collect::<String>(), width = QUESTION - 2);
    }
    text
}

fn second_hops(runs: &[Measured], of: fn(Pair<Classified>) -> Classified) -> Option<String> {
    let counts: Option<Vec<Classified>> = runs.iter().map(|run| run.classified.map(of)).collect();
    let count = |classified: Classified| Count { is: classified.second_hops as usize, of: classified.packets as usize };
    Some(sum(counts?.into_iter().map(count)))
}

fn young(runs: &[Measured]) -> Option<Vec<Count>> {
    runs.iter().map(|run| run.young).collect()
}

fn times(runs: &[Measured], time: fn(&Measured) -> Option<Duration>) -> Option<String> {
    let times: Option<Vec<f64>> = runs.iter().map(|run| time(run).map(ms)).collect();
    Some(spread(times?.into_iter()))
}

fn sum(counts: impl Iterator<Item = Count>) -> String {
    let Count { is, of } = counts.fold(Count { is: 0, of: 0 }, |a, b| Count { is: a.is + b.is, of: a.of + b.of });
    format!("{is} of {of}")
}

/// The one in the middle and, where there are more, the least and the most.
fn spread(figures: impl Iterator<Item = f64>) -> String {
    let mut figures: Vec<f64> = figures.collect();
    figures.sort_by(f64::total_cmp);
    let Some((first, last)) = figures.first().zip(figures.last()) else { return "-".into() };
    let middle = figures[figures.len() / 2];
    if figures.len() == 1 { format!("{middle:.0}") } else { format!("{middle:.0} ({first:.0}-{last:.0})") }
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

fn percent(share: Pair<f64>) -> Pair<f64> {
    Pair { quiet: share.quiet * 100.0, change: share.change * 100.0 }
}
