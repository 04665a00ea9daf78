//! Cost against size: a panel for each of some rows, a line for each column. Both axes are
//! logarithmic.

use std::fmt::Write;

use crate::draw::{line, text};
use crate::rows::{Column, Measured, ROWS, Row, Shape};

/// Rows that are drawn.
const DRAWN: [&str; 6] = ["add", "entries", "listing", "restore", "delete", "again"];
const ACROSS: usize = 3;
const PANEL: f64 = 300.0;
const GRAPH: f64 = 220.0;
/// Of a panel, left and above of its graph.
const LEFT: f64 = 44.0;
const TOP: f64 = 34.0;
const BELOW: f64 = 34.0;
const LEGEND: f64 = 34.0;

const INK: &str = "#222";
const DIM: &str = "#888";
const GRID: &str = "#ddd";

fn colour(column: Column) -> &'static str {
    match column {
        Column::Floor => "#222",
        Column::Library => "#1b6ca8",
        Column::Programs => "#4aa564",
        Column::Debian => "#d0342c",
        Column::Nlrs => "#d99100",
    }
}

/// The picture: a file of its own.
pub(crate) fn draw(measured: &Measured) -> String {
    let drawn = DRAWN.iter().filter_map(|name| ROWS.iter().find(|row| row.name == *name));
    let panels: Vec<Panel> = drawn.filter_map(|row| Panel::of(measured, row)).collect();
    let width = PANEL * ACROSS as f64;
    let height = LEGEND + (TOP + GRAPH + BELOW) * panels.len().div_ceil(ACROSS) as f64;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" width=\"{width}\" height=\"{height}\" \
         font-family=\"sans-serif\" font-size=\"11\">\n<rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n"
    );
    let mut x = 10.0;
    for column in Column::ALL {
        let _ = writeln!(svg, "<rect x=\"{x}\" y=\"9\" width=\"10\" height=\"10\" fill=\"{}\"/>", colour(column));
        text(&mut svg, x + 14.0, 18.0, INK, column.title());
        x += 34.0 + 6.2 * column.title().len() as f64;
    }
    text(&mut svg, x, 18.0, DIM, "millions of instructions against services with 4 destinations");
    for (number, panel) in panels.iter().enumerate() {
        let (row, column) = (number / ACROSS, number % ACROSS);
        panel.draw(&mut svg, PANEL * column as f64 + LEFT, LEGEND + (TOP + GRAPH + BELOW) * row as f64 + TOP);
    }
    svg + "</svg>\n"
}

/// The graph of one row.
struct Panel<'a> {
    title: &'a str,
    lines: Vec<(Column, Vec<(f64, f64)>)>,
    sizes: Scale,
    costs: Scale,
}

impl<'a> Panel<'a> {
    /// `None`: fewer than two sizes were measured.
    fn of(measured: &Measured, row: &'a Row) -> Option<Self> {
        let shapes: Vec<Shape> = measured.shapes().into_iter().filter(|shape| shape.destinations == 4).collect();
        let lines = Column::ALL.map(|column| {
            // A whole program stands beside the floor of what it does.
            let name = if column == Column::Floor { row.floor.unwrap_or(row.name) } else { row.name };
            let value = |shape: &Shape| Some((f64::from(shape.services), measured.get(name, *shape, column)?));
            (column, shapes.iter().filter_map(value).collect::<Vec<_>>())
        });
        let points = || lines.iter().flat_map(|(_, points)| points);
        let sizes = Scale::over(points().map(|(size, _)| *size))?;
        let costs = Scale::over(points().map(|(_, cost)| *cost))?;
        (sizes.first < sizes.last).then(|| Panel { title: row.title, lines: lines.into(), sizes, costs })
    }

    fn draw(&self, svg: &mut String, left: f64, top: f64) {
        // Without what stands in parentheses: the panel is narrow.
        text(svg, left - LEFT + 10.0, top - 14.0, INK, self.title.split(" (").next().unwrap_or_default());
        let width = PANEL - LEFT - 16.0;
        let x = |size: f64| left + width * self.sizes.place(size);
        let y = |cost: f64| top + GRAPH * (1.0 - self.costs.place(cost));
        for size in self.sizes.decades() {
            line(svg, x(size), top, x(size), top + GRAPH, GRID);
            text(svg, x(size) - 3.0 * size.log10(), top + GRAPH + 14.0, DIM, &size.to_string());
        }
        for cost in self.costs.decades() {
            line(svg, left, y(cost), left + width, y(cost), GRID);
            text(svg, left - 34.0, y(cost) + 4.0, DIM, &cost.to_string());
        }
        for (column, points) in self.lines.iter().filter(|(_, points)| !points.is_empty()) {
            let places: Vec<String> =
                points.iter().map(|(size, cost)| format!("{:.1},{:.1}", x(*size), y(*cost))).collect();
            let _ = writeln!(
                svg,
                "<polyline points=\"{}\" fill=\"none\" stroke=\"{}\" stroke-width=\"1.6\"/>",
                places.join(" "),
                colour(*column)
            );
            for (size, cost) in points {
                let colour = colour(*column);
                let _ = writeln!(
                    svg,
                    "<circle cx=\"{:.1}\" cy=\"{:.1}\" r=\"2.4\" fill=\"{colour}\"/>",
                    x(*size),
                    y(*cost)
                );
            }
        }
    }
}

/// A logarithmic axis over whole decades.
#[derive(Clone, Copy)]
struct Scale {
    first: i32,
    last: i32,
}

impl Scale {
    /// `None`: there are no values.
    fn over(values: impl Iterator<Item = f64>) -> Option<Self> {
        let decades = values.filter(|value| *value > 0.0).map(f64::log10);
        decades.fold(None, |scale: Option<Scale>, decade| {
            let (first, last) = (decade.floor() as i32, decade.ceil() as i32);
            Some(scale.map_or(Scale { first, last }, |scale| Scale {
                first: scale.first.min(first),
                last: scale.last.max(last),
            }))
        })
    }

    /// Where a value lies, from 0 to 1.
    fn place(self, value: f64) -> f64 {
        (value.log10() - f64::from(self.first)) / f64::from((self.last - self.first).max(1))
    }

    fn decades(self) -> impl Iterator<Item = f64> {
        (self.first..=self.last).map(|decade| 10_f64.powi(decade))
    }
}
