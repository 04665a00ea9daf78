//! A time line of each way, side by side: where the VIP is, what the tables do, which sessions
//! answer and which requests fail.

use std::fmt::Write;
use std::ops::Range;
use std::time::Duration;

use crate::cluster::record::{Kind, Session, State, Turn};
use crate::draw::{line, text};
use crate::measure::Measured;

/// Of one way: the names of its rows, and its time.
const LABELS: f64 = 92.0;
const TIME: f64 = 430.0;
const PANEL: f64 = LABELS + TIME + 28.0;
const TOP: f64 = 78.0;
const NODE: f64 = 34.0;
const GRAPH: f64 = 56.0;
/// What is seen of the time before the change.
const BEFORE: Duration = Duration::from_secs(2);
/// A session whose answer is later than this is waiting.
const WAITING: Duration = Duration::from_millis(50);
const BIN: Duration = Duration::from_millis(100);

const INK: &str = "#222";
const DIM: &str = "#888";
const DIRECTS: &str = "#1b6ca8";
const LIVE: &str = "#4aa564";
const FENCED: &str = "#bfe3c8";
const BAD: &str = "#d0342c";
const OUT: &str = "#ccc";

/// The picture: a file of its own.
pub(crate) fn draw(kind: Kind, ways: &[&Measured]) -> String {
    let nodes = ways.first().map_or(0, |way| way.record.nodes.len());
    let length = ways.iter().map(|way| way.record.turns[0].until + BEFORE - way.record.turns[0].at).max();
    let length = length.unwrap_or(BEFORE);
    let width = PANEL * ways.len() as f64;
    let height = TOP + NODE * nodes as f64 + 2.0 * GRAPH + 150.0;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" width=\"{width}\" height=\"{height}\" \
         font-family=\"sans-serif\" font-size=\"11\">\n<rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n"
    );
    text(&mut svg, 10.0, 18.0, INK, &format!("{}, {nodes} nodes", title(kind)));
    for (i, way) in ways.iter().enumerate() {
        Panel { left: PANEL * i as f64 + 10.0, length, turn: &way.record.turns[0], way }.draw(&mut svg);
    }
    legend(&mut svg, height - 14.0);
    svg + "</svg>\n"
}

fn title(kind: Kind) -> String {
    let title = kind.title();
    title[..1].to_uppercase() + &title[1..]
}

/// One way's time line.
struct Panel<'a> {
    left: f64,
    length: Duration,
    turn: &'a Turn,
    way: &'a Measured,
}

impl Panel<'_> {
    fn draw(&self, svg: &mut String) {
        let (record, left) = (&self.way.record, self.left);
        text(svg, left, 40.0, INK, &format!("{}: {}", record.name, record.title));
        let bottom = TOP + NODE * record.nodes.len() as f64 + 2.0 * GRAPH;
        self.axis(svg, bottom);
        let mut free = [f64::MIN; 2];
        for mark in record.marks.iter().filter(|mark| self.span().contains(&mark.at)) {
            let x = self.x(mark.at);
            line(svg, x, TOP - 8.0, x, bottom, DIM);
            // On another line what would run into the last.
            let row = free.iter().position(|end| *end < x).unwrap_or(0);
            free[row] = x + 6.5 * mark.text.len() as f64;
            text(svg, x + 2.0, TOP - 12.0 - 12.0 * row as f64, INK, &mark.text);
        }
        for node in 0..record.nodes.len() {
            self.node(svg, node, TOP + NODE * node as f64);
        }
        let top = TOP + NODE * record.nodes.len() as f64;
        self.sessions(svg, top);
        self.failed(svg, top + GRAPH);
        self.figures(svg, bottom + 34.0);
    }

    fn axis(&self, svg: &mut String, y: f64) {
        line(svg, self.left + LABELS, y, self.left + LABELS + TIME, y, DIM);
        for second in -(BEFORE.as_secs() as i64)..=(self.length - BEFORE).as_secs() as i64 {
            let x = self.left + LABELS + (second + BEFORE.as_secs() as i64) as f64 * TIME / self.length.as_secs_f64();
            line(svg, x, y, x, y + 4.0, DIM);
            text(svg, x - 3.0, y + 15.0, DIM, &second.to_string());
        }
        text(svg, self.left, y + 15.0, DIM, "seconds");
    }

    /// The VIP above, the table below.
    fn node(&self, svg: &mut String, node: usize, y: f64) {
        text(svg, self.left, y + 10.0, INK, &self.way.record.nodes[node]);
        text(svg, self.left + 26.0, y + 10.0, DIM, "VIP");
        text(svg, self.left + 26.0, y + 22.0, DIM, "table");
        for (when, state) in self.way.record.states(node) {
            let (vip, height) = match state {
                State { link: false, .. } => (OUT, 10.0),
                State { directs: true, .. } => (DIRECTS, 10.0),
                State { on_loopback: true, .. } => (DIRECTS, 2.0),
                _ => (BAD, 1.0),
            };
            self.bar(svg, &when, y + 6.0 - height / 2.0, height, vip);
            let table = match state {
                State { link: false, .. } => OUT,
                State { live: true, .. } => LIVE,
                State { destinations: 0, directs: true, .. } => BAD,
                State { destinations: 0, .. } => continue,
                _ => FENCED,
            };
            self.bar(svg, &when, y + 14.0, 8.0, table);
        }
    }

    fn sessions(&self, svg: &mut String, y: f64) {
        let sessions: Vec<&Session> = self.turn.sessions.iter().filter(|session| session.every.is_some()).collect();
        let answering = |at| sessions.iter().filter(|session| answers(session, at)).count();
        text(svg, self.left, y + 14.0, INK, "active sessions");
        text(svg, self.left, y + 27.0, DIM, "answering");
        self.columns(svg, y + GRAPH - 8.0, GRAPH - 16.0, LIVE, |bin| {
            answering(bin.start) as f64 / sessions.len().max(1) as f64
        });
    }

    fn failed(&self, svg: &mut String, y: f64) {
        text(svg, self.left, y + 14.0, INK, "new connections");
        text(svg, self.left, y + 27.0, DIM, "that will fail");
        self.columns(svg, y + GRAPH - 8.0, GRAPH - 16.0, BAD, |bin| {
            let (all, failed) = self.way.record.requests(bin);
            failed as f64 / all.max(1) as f64
        });
    }

    fn figures(&self, svg: &mut String, y: f64) {
        let Measured { active, idle, new, gap, .. } = self.way;
        let gaps = [gap.change, gap.quiet]
            .map(|gap| gap.map_or("-".into(), |gap| format!("{:.0} ms", gap.as_secs_f64() * 1e3)));
        let figures = [
            format!("sessions kept: {} of {} active, {} of {} idle", active.is, active.of, idle.is, idle.of),
            format!("new connections failed: {} of {}", new.is, new.of),
            format!("longest gap of a session: {}, where nothing happens {}", gaps[0], gaps[1]),
        ];
        for (i, figure) in figures.iter().enumerate() {
            text(svg, self.left + LABELS, y + 14.0 * i as f64, INK, figure);
        }
    }

    /// A column for each bin, `part` of the height.
    fn columns(&self, svg: &mut String, y: f64, height: f64, colour: &str, part: impl Fn(Range<Duration>) -> f64) {
        let span = self.span();
        let mut start = span.start;
        while start < span.end {
            let end = (start + BIN).min(span.end);
            let height = height * part(start..end).min(1.0);
            if height > 0.0 {
                self.bar(svg, &(start..end), y - height, height, colour);
            }
            start = end;
        }
    }

    fn bar(&self, svg: &mut String, when: &Range<Duration>, y: f64, height: f64, colour: &str) {
        let span = self.span();
        let (start, end) = (when.start.max(span.start), when.end.min(span.end));
        if start < end {
            let (x, width) = (self.x(start), self.x(end) - self.x(start));
            let _ = writeln!(
                svg,
                "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{height:.1}\" fill=\"{colour}\"/>"
            );
        }
    }

    fn span(&self) -> Range<Duration> {
        self.turn.at.saturating_sub(BEFORE)..self.turn.until
    }

    fn x(&self, at: Duration) -> f64 {
        let since = at.saturating_sub(self.turn.at.saturating_sub(BEFORE));
        self.left + LABELS + TIME * since.div_duration_f64(self.length)
    }
}

/// Whether a session that was open at that time had no answer to wait for.
fn answers(session: &Session, at: Duration) -> bool {
    let Some(every) = session.every else { return false };
    let last = session.answers.partition_point(|answer| *answer <= at);
    last > 0 && session.answers[last - 1] + every + WAITING >= at
}

fn legend(svg: &mut String, y: f64) {
    let colours = [
        (DIRECTS, "VIP on bond0 (thin: on lo; red: nowhere)"),
        (LIVE, "table live"),
        (FENCED, "table fenced"),
        (BAD, "directs without a table; failed"),
        (OUT, "cable out"),
    ];
    let mut x = 10.0;
    for (colour, name) in colours {
        let _ = writeln!(svg, "<rect x=\"{x}\" y=\"{}\" width=\"10\" height=\"10\" fill=\"{colour}\"/>", y - 9.0);
        text(svg, x + 14.0, y, DIM, name);
        x += 30.0 + 6.2 * name.len() as f64;
    }
}
