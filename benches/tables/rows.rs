//! The rows and columns of the report, and what a row is compared with.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

/// How large a table is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Shape {
    /// Of each service. First, so that sizes with as many are listed together.
    pub(crate) destinations: u32,
    pub(crate) services: u32,
}

/// The size that the goals are set for.
const LARGE: Shape = Shape { services: 5000, destinations: 4 };
/// One service with a long list.
const LONG: Shape = Shape { services: 1, destinations: 10_000 };

impl Shape {
    pub(crate) fn entries(self) -> u32 {
        self.services * self.destinations
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} x {}", self.services, self.destinations)
    }
}

/// `5000` (services with 4 destinations each) or `1x10000`.
impl FromStr for Shape {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (services, destinations) = text.split_once('x').unwrap_or((text, "4"));
        let number = |text: &str, most: u32| match text.parse() {
            Ok(number) if (1..=most).contains(&number) => Ok(number),
            _ => Err(format!("{text:?} is no number from 1 to {most}")),
        };
        // As far as ports, and the addresses of `table`, go.
        Ok(Shape { services: number(services, 60_000)?, destinations: number(destinations, 60_000)? })
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Column {
    /// The same requests in bare C.
    Floor,
    /// The crate, from a program.
    Library,
    /// Our `ipvsadm` and `lvs-node`.
    Programs,
    Debian,
    Nlrs,
}

impl Column {
    pub(crate) const ALL: [Column; 5] =
        [Column::Floor, Column::Library, Column::Programs, Column::Debian, Column::Nlrs];

    /// The column's name on the guest's console.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Column::Floor => "floor",
            Column::Library => "library",
            Column::Programs => "programs",
            Column::Debian => "debian",
            Column::Nlrs => "nlrs",
        }
    }

    pub(crate) fn title(self) -> &'static str {
        match self {
            Column::Floor => "bare C",
            Column::Library => "library",
            Column::Programs => "our programs",
            Column::Debian => "Debian ipvsadm",
            Column::Nlrs => "nlrs",
        }
    }
}

/// One line of the report.
pub(crate) struct Row {
    pub(crate) name: &'static str,
    pub(crate) title: &'static str,
    /// The row whose floor this one is compared with. `None`: the value itself counts.
    pub(crate) floor: Option<&'static str>,
    /// What the library, or else our program, is to reach at most.
    pub(crate) goals: &'static [(Shape, f64)],
}

const fn row(name: &'static str, title: &'static str, floor: &'static str, goals: &'static [(Shape, f64)]) -> Row {
    Row { name, title, floor: Some(floor), goals }
}

/// Values are millions of instructions where the title names no other unit.
pub(crate) const ROWS: &[Row] = &[
    row("add", "add all: snapshot, compare, apply", "add", &[(LARGE, 520.0)]),
    row("parse", "parse the text of the table (bare C: into words)", "parse", &[(LARGE, 50.0)]),
    row("restore", "ipvsadm -R, whole program", "add", &[(LARGE, 620.0)]),
    row("entries", "list every field: entries", "entries", &[(LARGE, 230.0), (LONG, 60.0)]),
    row("snapshot", "list every field: snapshot", "entries", &[(LARGE, 230.0), (LONG, 60.0)]),
    row("configuration", "list the configuration only", "configuration", &[(LARGE, 55.0)]),
    row("proc", "read /proc/net/ip_vs", "proc", &[]),
    row("listing", "ipvsadm -Ln, whole program", "entries", &[(LARGE, 400.0), (LONG, 150.0)]),
    row("unchanged", "unchanged table: snapshot, compare", "configuration", &[(LARGE, 60.0)]),
    row("weights", "1 % of the weights, from a table just read", "weights", &[(LARGE, 25.0)]),
    row("delete", "delete all, from a table just read (nlrs: flush)", "delete", &[(LARGE, 100.0)]),
    row("again", "add all again after deleting all (bare C: in reverse)", "again", &[(LARGE, 180.0)]),
    row("again-in-order", "the same, deleted in order", "again-in-order", &[]),
    row("one-line", "ipvsadm -R with one line, whole program", "one-line", &[(LARGE, 3.0)]),
    row("start", "start of a program that does nothing", "start", &[]),
    row("start-node", "start of lvs-node", "start", &[]),
    row("node-boot", "lvs-node: first role after a boot, table from its file", "add", &[(LARGE, 800.0)]),
    row("promotion-vip", "lvs-node: promotion, until the VIP is placed", "start", &[]),
    row("promotion", "lvs-node: promotion, whole program", "start", &[(LARGE, 4.0)]),
    row("demotion-vip", "lvs-node: demotion, until the VIP is gone", "start", &[]),
    row("demotion", "lvs-node: demotion, whole program", "start", &[(LARGE, 4.0)]),
    row("status", "lvs-node status, whole program", "configuration", &[(LARGE, 90.0)]),
    row("audit", "lvs-node audit, whole program", "configuration", &[(LARGE, 90.0)]),
    value("watch", "lvs-node watch, idle, 10 000 connections: each second", &[(LARGE, 1.5)]),
    value("watch-memory", "lvs-node watch: VmHWM, MiB", &[(LARGE, 16.0)]),
    value("role-memory", "lvs-node role: VmHWM, MiB", &[(LARGE, 16.0)]),
    value("listing-memory", "ipvsadm -Ln: VmHWM, MiB", &[]),
    value("held", "octets held for a destination", &[(LARGE, 128.0)]),
];

const fn value(name: &'static str, title: &'static str, goals: &'static [(Shape, f64)]) -> Row {
    Row { name, title, floor: None, goals }
}

/// What one boot, or several, measured: by row, size and column.
#[derive(Default)]
pub(crate) struct Measured(BTreeMap<(&'static str, Shape, Column), f64>);

impl Measured {
    pub(crate) fn get(&self, row: &'static str, shape: Shape, column: Column) -> Option<f64> {
        self.0.get(&(row, shape, column)).copied()
    }

    /// Takes a line of the guest's console: `| ROW COLUMN VALUE`. Returns whether it was one.
    pub(crate) fn take(&mut self, shape: Shape, line: &str) -> bool {
        let words: Vec<&str> = line.split_whitespace().collect();
        let ["|", row, column, value] = words[..] else { return false };
        let row = ROWS.iter().find(|known| known.name == row);
        let column = Column::ALL.into_iter().find(|known| known.name() == column);
        let (Some(row), Some(column), Ok(value)) = (row, column, value.parse()) else { return false };
        self.0.insert((row.name, shape, column), value);
        true
    }

    /// All sizes that something was measured at.
    pub(crate) fn shapes(&self) -> Vec<Shape> {
        let mut shapes: Vec<Shape> = self.0.keys().map(|(_, shape, _)| *shape).collect();
        shapes.sort_unstable();
        shapes.dedup();
        shapes
    }

    /// What is ours in a row: the library's value, or else our program's.
    pub(crate) fn ours(&self, row: &'static str, shape: Shape) -> Option<f64> {
        [Column::Library, Column::Programs].into_iter().find_map(|column| self.get(row, shape, column))
    }

    /// How many times the floor ours costs; the value itself in a row without a floor.
    pub(crate) fn ratio(&self, row: &Row, shape: Shape) -> Option<f64> {
        let ours = self.ours(row.name, shape)?;
        match row.floor {
            Some(floor) => Some(ours / self.get(floor, shape, Column::Floor)?),
            None => Some(ours),
        }
    }
}
