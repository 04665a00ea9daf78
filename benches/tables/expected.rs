//! The quick form's judgement: what each row may cost at most, beside the floor of the same run.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use crate::rows::{Measured, ROWS, Row, Shape};

/// How much worse than expected a row may be.
const TOLERANCE: f64 = 1.1;

/// By a row's name: its ratio to the floor, or its value where it has no floor.
type Ratios = BTreeMap<String, f64>;

/// Compares ratios with the file, and prints what is wrong. With `write`, writes the file instead.
/// Returns whether all is as expected.
pub(crate) fn compare(measured: &Measured, shape: Shape, write: bool) -> Result<bool> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/tables/expected.toml");
    if write {
        fs::write(&path, text(measured, shape)).with_context(|| format!("cannot write {}", path.display()))?;
        println!("written: {}", path.display());
        return Ok(true);
    }
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let expected: Ratios = toml::from_str(&text).with_context(|| format!("cannot read {}", path.display()))?;
    let verdicts: Vec<Verdict> =
        ROWS.iter().map(|row| verdict(expected.get(row.name).copied(), measured.ratio(row, shape))).collect();
    for (row, verdict) in ROWS.iter().zip(&verdicts) {
        if let Some(message) = verdict.message(row) {
            println!("{message}");
        }
    }
    Ok(verdicts.iter().all(|verdict| matches!(verdict, Verdict::Fine | Verdict::Better { .. })))
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Verdict {
    /// As expected, or neither expected nor measured.
    Fine,
    Better {
        expected: f64,
        found: f64,
    },
    Worse {
        expected: f64,
        found: f64,
    },
    Unexpected {
        found: f64,
    },
    Missing {
        expected: f64,
    },
}

fn verdict(expected: Option<f64>, found: Option<f64>) -> Verdict {
    match (expected, found) {
        (None, None) => Verdict::Fine,
        (None, Some(found)) => Verdict::Unexpected { found },
        (Some(expected), None) => Verdict::Missing { expected },
        (Some(expected), Some(found)) if found > expected * TOLERANCE => Verdict::Worse { expected, found },
        (Some(expected), Some(found)) if found < expected / TOLERANCE => Verdict::Better { expected, found },
        (Some(_), Some(_)) => Verdict::Fine,
    }
}

impl Verdict {
    fn message(self, row: &Row) -> Option<String> {
        let Row { name, title, .. } = row;
        let unit = if row.floor.is_some() { " times bare C" } else { "" };
        Some(match self {
            Verdict::Fine => return None,
            Verdict::Better { expected, found } => format!(
                "better: {name} ({title}): {found:.2}{unit}, expected {expected:.2}: write it down with --quick --write"
            ),
            Verdict::Worse { expected, found } => {
                format!("WORSE: {name} ({title}): {found:.2}{unit}, expected at most {expected:.2} and 10 %")
            }
            Verdict::Unexpected { found } => {
                format!(
                    "NEW: {name} ({title}): {found:.2}{unit}, not in expected.toml: write it down with --quick --write"
                )
            }
            Verdict::Missing { expected } => {
                format!("MISSING: {name} ({title}): not measured, expected {expected:.2}{unit}")
            }
        })
    }
}

fn text(measured: &Measured, shape: Shape) -> String {
    let mut text = format!(
        "# What `cargo bench --bench tables -- --quick` may find at {shape}, and 10 % more: how many times bare C each\n\
         # row costs; octets for `held`. Written by `cargo bench --bench tables -- --quick --write`.\n"
    );
    for row in ROWS {
        if let Some(ratio) = measured.ratio(row, shape) {
            let _ = writeln!(text, "{} = {ratio:.2}", row.name);
        }
    }
    text
}
