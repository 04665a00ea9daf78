//! Draws what was recorded: a time line for each way, and a table with the ways side by side.

use std::ops::Range;
use std::time::Duration;

use crate::cluster::addresses::vip;
use crate::cluster::record::{Record, State, Turn};
use crate::story::SESSIONS;

/// What is drawn on.
pub(crate) struct Screen {
    pub(crate) columns: usize,
    pub(crate) colour: bool,
}

/// No narrower and no wider than this.
const WIDTH: Range<usize> = 86..100;
/// Columns left of a time line, and right of it.
const LABEL: usize = 11;
const TOTAL: usize = 6;
/// Columns of the table: what was counted, and each way's figure.
const QUESTION: usize = 46;
const FIGURE: usize = 14;

const BARS: [char; 9] = [' ', '▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

// Renditions, as ECMA-48 numbers them.
const PLAIN: &str = "0";
const BOLD: &str = "1";
const DIM: &str = "2";
const RED: &str = "31";
const GREEN: &str = "32";
const NODES: [&str; 3] = ["36", "33", "35"];

impl Screen {
    /// The whole picture.
    pub(crate) fn draw(&self, records: &[Record]) -> String {
        let axis = Axis {
            bins: self.columns.clamp(WIDTH.start, WIDTH.end) - LABEL - TOTAL,
            length: records.iter().map(|record| record.length).max().unwrap_or_default(),
        };
        let nodes = records.first().map_or(0, |record| record.nodes.len());
        let mut lines = vec![
            self.paint(BOLD, &format!("{nodes} web servers balance their own load: VIP {}, direct routing", vip())),
        ];
        for record in records {
            lines.push(String::new());
            self.time_line(&mut lines, record, &axis);
        }
        self.legend(&mut lines, &axis);
        lines.push(String::new());
        self.table(&mut lines, records);
        lines.iter().map(|line| format!("{}\n", line.trim_end())).collect()
    }

    fn time_line(&self, lines: &mut Vec<String>, record: &Record, axis: &Axis) {
        lines.push(format!("{}{}", self.paint(BOLD, &format!("{:LABEL$}", record.name)), record.title));
        let marks = record.marks.iter().map(|mark| (mark.at, format!("▼{}", mark.text)));
        for texts in axis.texts(marks) {
            lines.push(self.row("", BOLD, &texts, ""));
        }
        // A node that serves all alone has bars of full height.
        let most = (record.requests.len() as f64 * axis.bin(0).end.div_duration_f64(record.length)).round() as usize;
        for (node, name) in record.nodes.iter().enumerate() {
            let served = axis.count(record.served_by(node));
            let total = served.iter().sum::<usize>().to_string();
            lines.push(self.row(&format!("{name}  VIP"), NODES[node], &axis.places(record, node), ""));
            lines.push(self.row("    served", NODES[node], &bars(&served, most), &total));
        }
        let failed = axis.count(record.failed());
        let total = failed.iter().sum::<usize>().to_string();
        lines.push(self.row("failed", RED, &bars(&failed, most), &total));
        lines.push(self.row("sessions", PLAIN, &bars(&axis.sessions(record), SESSIONS), ""));
    }

    fn row(&self, label: &str, colour: &str, line: &str, total: &str) -> String {
        format!("{label:LABEL$}{}{total:>TOTAL$}", self.paint(colour, line))
    }

    fn legend(&self, lines: &mut Vec<String>, axis: &Axis) {
        let step = if axis.length < Duration::from_secs(50) { 2 } else { 5 };
        let seconds = (0..=axis.length.as_secs()).step_by(step).map(|s| (Duration::from_secs(s), s.to_string()));
        lines.extend(axis.texts(seconds).iter().map(|texts| self.row("seconds", DIM, texts, "")));
        let bin = axis.bin(0).end.as_secs_f64();
        let texts = [
            "VIP   ━ directs   ┅ directs without a table   ─ on lo   (gap) nowhere   × cable out".to_string(),
            format!("bars  requests in {bin:.2} s, full height: all that were sent; sessions answering, of {SESSIONS}"),
            "out   a health check takes the dead node out; until then its share of requests fails".to_string(),
        ];
        lines.extend(texts.map(|text| self.paint(DIM, &text)));
    }

    fn table(&self, lines: &mut Vec<String>, records: &[Record]) {
        let names: String = records.iter().map(|record| format!("{:>FIGURE$}", record.name)).collect();
        let turns = records.iter().map(|record| record.turns.len()).min().unwrap_or_default();
        for turn in 0..turns {
            let kind = records[0].turns[turn].kind;
            let title = kind.title();
            lines.push(self.paint(BOLD, &format!("{title:QUESTION$}{names}")));
            for (question, count) in QUESTIONS.iter().chain(if kind.crashes() { CRASH } else { KEPT }) {
                let figures = records.iter().map(|record| {
                    let Figure { colour, text } = count(record, &record.turns[turn]);
                    self.paint(colour, &format!("{text:>FIGURE$}"))
                });
                lines.push(format!("  {question:width$}{}", figures.collect::<String>(), width = QUESTION - 2));
            }
        }
    }

    fn paint(&self, colour: &str, text: &str) -> String {
        if self.colour && colour != PLAIN { format!("\x1b[{colour}m{text}\x1b[0m") } else { text.to_string() }
    }
}

/// Something counted, for the table.
struct Figure {
    colour: &'static str,
    text: String,
}

type Question = (&'static str, fn(&Record, &Turn) -> Figure);

const QUESTIONS: &[Question] = &[
    ("packets go to another node after", |record, turn| Figure {
        colour: PLAIN,
        text: record.election(turn).map_or("never".into(), seconds),
    }),
    ("time it directs without a table", |record, turn| period(record.time_in(turn, State::without_table))),
    ("time a living node is without the VIP", |record, turn| period(record.time_in(turn, State::without_vip))),
    ("requests failed", |record, turn| {
        let (all, failed) = record.requests(turn.at..turn.until);
        Figure { colour: if failed == 0 { GREEN } else { RED }, text: format!("{failed} of {all}") }
    }),
];
const KEPT: &[Question] = &[("sessions kept", kept), ("longest silence of a session kept", silence)];
const CRASH: &[Question] = &[
    ("requests given to the dead node, until it is out", |record, turn| Figure {
        colour: PLAIN,
        text: record.given_to_the_dead(turn).map_or("-".into(), |count| count.to_string()),
    }),
    ("sessions lost with the node that served them", |_, turn| Figure {
        colour: PLAIN,
        text: turn.buried().to_string(),
    }),
    ("sessions kept, of those on other nodes", kept),
    ("longest silence of a session kept", silence),
];

fn kept(_: &Record, turn: &Turn) -> Figure {
    let (kept, all) = turn.kept(&turn.sessions);
    Figure { colour: if kept == all { GREEN } else { RED }, text: format!("{kept} of {all}") }
}

fn silence(_: &Record, turn: &Turn) -> Figure {
    Figure { colour: PLAIN, text: turn.silence().map_or("-".into(), seconds) }
}

fn period(time: Duration) -> Figure {
    if time.is_zero() {
        return Figure { colour: GREEN, text: "none seen".into() };
    }
    Figure { colour: RED, text: seconds(time) }
}

fn seconds(time: Duration) -> String {
    format!("{:.2} s", time.as_secs_f64())
}

/// The time, cut into bins, one for each column.
struct Axis {
    bins: usize,
    length: Duration,
}

impl Axis {
    fn bin(&self, index: usize) -> Range<Duration> {
        let edge = |i: usize| self.length.mul_f64(i as f64 / self.bins as f64);
        edge(index)..edge(index + 1)
    }

    fn column(&self, at: Duration) -> usize {
        let part = at.as_secs_f64() / self.length.as_secs_f64().max(f64::MIN_POSITIVE);
        ((part * self.bins as f64) as usize).min(self.bins - 1)
    }

    /// How many of `times` are in each bin.
    fn count(&self, times: impl Iterator<Item = Duration>) -> Vec<usize> {
        let mut counts = vec![0; self.bins];
        times.for_each(|at| counts[self.column(at)] += 1);
        counts
    }

    /// Texts that begin where their time is; on a further line what would run into another.
    fn texts(&self, texts: impl Iterator<Item = (Duration, String)>) -> Vec<String> {
        let mut lines: Vec<String> = Vec::new();
        for (at, text) in texts {
            let column = self.column(at);
            let free = lines.iter().position(|line| line.chars().count() < column).unwrap_or(lines.len());
            if free == lines.len() {
                lines.push(String::new());
            }
            lines[free] = format!("{:column$}{text}", lines[free]);
        }
        lines.iter().map(|line| format!("{line:width$}", width = self.bins)).collect()
    }

    /// Where `node` has the VIP: of what was seen in a bin, what matters most.
    fn places(&self, record: &Record, node: usize) -> String {
        let states = record.states(node);
        let place = |bin: Range<Duration>| {
            let seen = states.iter().filter(|(when, _)| when.start < bin.end && when.end > bin.start);
            seen.map(|(_, state)| place(state)).max_by_key(|place| PLACES.find(*place)).unwrap_or(' ')
        };
        (0..self.bins).map(|i| place(self.bin(i))).collect()
    }

    /// How many sessions answered in each bin.
    fn sessions(&self, record: &Record) -> Vec<usize> {
        let mut counts = vec![0; self.bins];
        for session in record.turns.iter().flat_map(|turn| &turn.sessions) {
            let answered = self.count(session.answers.iter().copied());
            counts.iter_mut().zip(answered).for_each(|(count, answers)| *count += answers.min(1));
        }
        counts
    }
}

/// From the quiet to the noteworthy.
const PLACES: &str = "─━┅ ×";

fn place(state: &State) -> char {
    match state {
        State { link: false, .. } => '×',
        state if state.without_vip() => ' ',
        state if state.without_table() => '┅',
        State { directs: true, .. } => '━',
        _ => '─',
    }
}

fn bars(counts: &[usize], most: usize) -> String {
    let height = |&count: &usize| (count * (BARS.len() - 1)).div_ceil(most.max(1)).min(BARS.len() - 1);
    counts.iter().map(|count| BARS[height(count)]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::record::tests::{ms, record};

    fn plain(columns: usize) -> String {
        Screen { columns, colour: false }.draw(&[record(), record()])
    }

    fn line<'a>(picture: &'a str, label: &str) -> &'a str {
        picture.lines().find(|line| line.starts_with(label)).unwrap()
    }

    #[test]
    fn no_line_is_wider_than_the_screen() {
        for columns in [20, 90, 100, 200] {
            let widest = plain(columns).lines().map(|line| line.chars().count()).max().unwrap();
            assert!(widest <= columns.clamp(WIDTH.start, WIDTH.end), "{widest} of {columns}");
        }
    }

    #[test]
    fn only_a_terminal_gets_colours() {
        assert!(!plain(100).contains('\x1b'));
        assert!(Screen { columns: 100, colour: true }.draw(&[record()]).contains("\x1b["));
    }

    #[test]
    fn the_vip_goes_from_one_line_to_the_other() {
        // 80 columns of 0.125 s each.
        let picture = plain(LABEL + TOTAL + 80);
        assert_eq!(line(&picture, "n1  VIP")[LABEL..], format!("{}    {}", "━".repeat(36), "─".repeat(40)));
        assert_eq!(line(&picture, "n2  VIP")[LABEL..], format!("{}┅┅{}", "─".repeat(36), "━".repeat(42)));
    }

    #[test]
    fn requests_are_all_there() {
        let picture = plain(100);
        assert!(line(&picture, "failed").ends_with("    10"));
        assert!(line(&picture, "    served").ends_with("   40"));
    }

    #[test]
    fn texts_do_not_run_into_each_other() {
        let axis = Axis { bins: 20, length: ms(20_000) };
        let texts = [(1, "one"), (3, "two"), (10, "three")].map(|(s, text)| (ms(s * 1000), text.to_string()));
        let lines = axis.texts(texts.into_iter());
        assert_eq!(lines, [" one      three     ", "   two              "]);
    }

    #[test]
    fn the_table_has_a_figure_for_each_way() {
        assert!(line(&plain(100), "  sessions kept").ends_with("1 of 3        1 of 3"));
        assert!(line(&plain(100), "  packets go to").ends_with("0.50 s        0.50 s"));
    }
}
