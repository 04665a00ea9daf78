//! The report: a table for each size, and how the cost of an entry grows.

use std::fmt::Write;

use crate::rows::{Column, Measured, ROWS, Row, Shape};

/// Draws all that was measured, as Markdown.
pub(crate) fn draw(measured: &Measured, versions: &str) -> String {
    let mut text = format!("Millions of instructions. Kernel: {versions}\n");
    for shape in measured.shapes() {
        let _ = write!(text, "\n{}", table(measured, shape));
    }
    text
}

/// The table of one size. Rows that nothing was measured of are left out.
fn table(measured: &Measured, shape: Shape) -> String {
    let mut text = format!("| {:60} |", format!("{shape}, TCP IPv4, wrr"));
    for column in Column::ALL {
        let _ = write!(text, " {:>14} |", column.title());
    }
    text += " ours / bare C | goal |\n|---|--:|--:|--:|--:|--:|--:|--:|\n";
    for row in ROWS {
        let values = Column::ALL.map(|column| measured.get(row.name, shape, column));
        if values.iter().all(Option::is_none) {
            continue;
        }
        let _ = write!(text, "| {:60} |", row.title);
        for value in values {
            let _ = write!(text, " {:>14} |", value.map_or("–".into(), figure));
        }
        let ratio = row.floor.and_then(|_| measured.ratio(row, shape));
        let _ = writeln!(text, " {:>13} | {:>4} |", ratio.map_or("–".into(), |ratio| format!("{ratio:.2}")), goal(row, shape));
    }
    text
}

fn goal(row: &Row, shape: Shape) -> String {
    let goal = row.goals.iter().find(|(at, _)| *at == shape);
    goal.map_or("–".into(), |(_, most)| format!("≤ {most}"))
}

/// A number with as many decimals as say something.
pub(crate) fn figure(value: f64) -> String {
    match value {
        0.0..10.0 => format!("{value:.2}"),
        0.0..100.0 => format!("{value:.1}"),
        _ => format!("{value:.0}"),
    }
}
