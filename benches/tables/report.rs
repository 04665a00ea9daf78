//! The report: a table for each size, and how the cost of an entry grows.

use std::fmt::Write;

use crate::rows::{Column, Measured, ROWS, Row, Shape};

/// Draws all that was measured, as Markdown.
pub(crate) fn draw(measured: &Measured) -> String {
    let mut text = String::from("Millions of instructions:\n");
    for shape in measured.shapes() {
        let _ = write!(text, "\n{}", table(measured, shape));
    }
    text + &growth(measured)
}

/// The growth of a row is shown between these sizes.
const SMALL: Shape = Shape { services: 1000, destinations: 4 };
const HUGE: Shape = Shape { services: 20_000, destinations: 4 };

/// How many times as much an entry costs in the largest table. Empty where one of the two sizes
/// was not measured.
fn growth(measured: &Measured) -> String {
    let mut text = String::new();
    for row in ROWS.iter().filter(|row| row.floor.is_some_and(|floor| !["start", "one-line"].contains(&floor))) {
        let values = Column::ALL.map(|column| {
            let of_entry = |shape: Shape| Some(measured.get(row.name, shape, column)? / f64::from(shape.entries()));
            Some(of_entry(HUGE)? / of_entry(SMALL)?)
        });
        if values.iter().any(Option::is_some) {
            text += &line(row.title, &values);
            text += "\n";
        }
    }
    match text.is_empty() {
        true => text,
        false => format!("\n{}\n|---|--:|--:|--:|--:|--:|\n{text}", head(&format!("{HUGE} / {SMALL}, for each entry"))),
    }
}

/// The titles of the columns.
fn head(title: &str) -> String {
    let titles = Column::ALL.map(|column| format!(" {:>14} |", column.title()));
    format!("| {title:60} |{}", titles.concat())
}

/// The values of a row, in their columns.
fn line(title: &str, values: &[Option<f64>]) -> String {
    let values = values.iter().map(|value| format!(" {:>14} |", value.map_or("–".into(), figure)));
    format!("| {title:60} |{}", values.collect::<String>())
}

/// The table of one size. Rows that nothing was measured of are left out.
fn table(measured: &Measured, shape: Shape) -> String {
    let mut text = head(&format!("{shape}, TCP IPv4, wrr"));
    text += " ours / bare C | goal |\n|---|--:|--:|--:|--:|--:|--:|--:|\n";
    for row in ROWS {
        let values = Column::ALL.map(|column| measured.get(row.name, shape, column));
        if values.iter().all(Option::is_none) {
            continue;
        }
        text += &line(row.title, &values);
        let ratio = row.floor.and_then(|_| measured.ratio(row, shape));
        let _ = writeln!(
            text,
            " {:>13} | {:>4} |",
            ratio.map_or("–".into(), |ratio| format!("{ratio:.2}")),
            goal(row, shape)
        );
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
