//! The cases, as the guest runs them: each in a network namespace of its own.

use std::fs::{self, File};
use std::io::BufWriter;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, anyhow, ensure};

use crate::lab::enter_new_netns;
use crate::program::{Usage, run};
use crate::rows::{Column, Shape};
use crate::{node, steps, table};

/// What is measured together, because it needs the same table.
pub(crate) struct Case {
    pub(crate) name: &'static str,
    run: fn(Shape) -> Result<()>,
    /// Whether the quick form runs it.
    pub(crate) quick: bool,
    /// The numbers of services that it is measured with. Above, the kernel or the peer is
    /// quadratic, and says nothing new for a long time.
    pub(crate) least: u32,
    pub(crate) most: u32,
}

const fn case(name: &'static str, run: fn(Shape) -> Result<()>) -> Case {
    Case { name, run, quick: false, least: 1, most: u32::MAX }
}

pub(crate) const CASES: &[Case] = &[
    Case { quick: true, ..case("floor", floor) },
    Case { quick: true, ..case("floor-again", floor_again) },
    Case { most: 5000, ..case("floor-in-order", floor_in_order) },
    Case { quick: true, ..case("library", library) },
    Case { quick: true, ..case("library-again", library_again) },
    case("programs", programs),
    case("debian", debian),
    case("nlrs", nlrs),
    Case { most: 5000, ..case("nlrs-again", nlrs_again) },
    Case { least: 10, most: 5000, ..case("node", node::roles) },
    Case { least: 10, most: 5000, ..case("watch", node::watch) },
];

impl Case {
    pub(crate) fn suits(&self, shape: Shape) -> bool {
        (self.least..=self.most).contains(&shape.services)
    }

    pub(crate) fn run(&self, shape: Shape) -> Result<()> {
        enter_new_netns();
        (self.run)(shape)
    }
}

pub(crate) const FLOOR: &str = "/bin/floor";
pub(crate) const OUR_IPVSADM: &str = "/bin/our-ipvsadm";
const DEBIAN_IPVSADM: &str = "/bin/ipvsadm";
const NLRS: &str = "/bin/tables-nlrs";
/// The text of the table.
const TEXT: &str = "/tmp/table";
/// What programs print.
pub(crate) const OUTPUT: &str = "/tmp/output";

/// Prints a value for the host.
pub(crate) fn report(row: &str, column: Column, value: f64) {
    println!("| {row} {} {value:.3}", column.name());
}

/// Reports what a program took from its start to its end.
fn report_program(row: &str, column: Column, usage: Usage) {
    report(row, column, steps::millions(usage.time));
}

fn write_table(shape: Shape) -> Result<()> {
    // Not as one string: the memory of this process counts as that of a program that it starts.
    let mut file = BufWriter::new(File::create(TEXT)?);
    table::write(&mut file, shape.services, shape.destinations).context("cannot write the table")
}

/// Runs a program that prints a line `STEP NANOSECONDS` for each of `steps`, and returns the times
/// in millions.
fn stepwise(program: &str, shape: Shape, steps: &[&str]) -> Result<Vec<f64>> {
    let input = File::open(TEXT).map_or_else(|_| Stdio::null(), Stdio::from);
    let output = Command::new(program)
        .args([shape.services.to_string(), shape.destinations.to_string()])
        .args(steps)
        .stdin(input)
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("cannot run {program}"))?;
    ensure!(output.status.success(), "{program} {steps:?} failed: {}", output.status);
    let output = String::from_utf8(output.stdout)?;
    let value = |line: &str, step: &str| Some(line.strip_prefix(step)?.trim().parse::<f64>().ok()? / 1e6);
    let values = output.lines().zip(steps).map(|(line, step)| value(line, step));
    let values: Option<Vec<f64>> = values.collect();
    values.filter(|values| values.len() == steps.len()).ok_or_else(|| anyhow!("{program} {steps:?} printed {output:?}"))
}

fn floor(shape: Shape) -> Result<()> {
    write_table(shape)?;
    let rows = [
        ("add", "add"),
        ("list", "entries"),
        ("configuration", "configuration"),
        ("proc", "proc"),
        ("weights", "weights"),
        ("delete", "delete"),
        ("words", "parse"),
    ];
    for ((_, row), value) in rows.iter().zip(stepwise(FLOOR, shape, &rows.map(|(step, _)| step))?) {
        report(row, Column::Floor, value);
    }
    stepwise(FLOOR, shape, &["add"])?;
    let (services, destinations) = (shape.services.to_string(), shape.destinations.to_string());
    report_program("one-line", Column::Floor, run(FLOOR, &[&services, &destinations, "add-one"], None, OUTPUT)?);
    report_program("start", Column::Floor, run(FLOOR, &[], None, OUTPUT)?);
    Ok(())
}

fn floor_again(shape: Shape) -> Result<()> {
    report("again", Column::Floor, stepwise(FLOOR, shape, &["add", "delete", "add"])?[2]);
    Ok(())
}

fn floor_in_order(shape: Shape) -> Result<()> {
    report("again-in-order", Column::Floor, stepwise(FLOOR, shape, &["add", "delete-in-order", "add"])?[2]);
    Ok(())
}

/// Carries out a step of the library in a process of its own.
fn step(name: &str, shape: Shape) -> Result<Option<f64>> {
    let program = std::env::current_exe()?;
    let output = Command::new(program)
        .args(["step", name, TEXT, &shape.services.to_string(), &shape.destinations.to_string()])
        .stderr(Stdio::inherit())
        .output()?;
    ensure!(output.status.success(), "step {name} failed: {}", output.status);
    steps::read(&String::from_utf8(output.stdout)?)
}

fn library(shape: Shape) -> Result<()> {
    write_table(shape)?;
    for name in ["parse", "held", "add", "entries", "snapshot", "configuration", "unchanged", "weights", "delete"] {
        if let Some(value) = step(name, shape)? {
            report(name, Column::Library, value);
        }
    }
    Ok(())
}

fn library_again(shape: Shape) -> Result<()> {
    write_table(shape)?;
    step("add", shape)?;
    step("delete", shape)?;
    if let Some(value) = step("add", shape)? {
        report("again", Column::Library, value);
    }
    Ok(())
}

/// Our ipvsadm, and Debian's where both read the same table.
fn programs(shape: Shape) -> Result<()> {
    write_table(shape)?;
    report_program("start", Column::Programs, run(OUR_IPVSADM, &["-v"], None, OUTPUT)?);
    report_program("start-node", Column::Programs, run(node::LVS_NODE, &["--version"], None, OUTPUT)?);
    report_program("restore", Column::Programs, run(OUR_IPVSADM, &["-R"], Some(TEXT), OUTPUT)?);
    let listings = [(Column::Programs, OUR_IPVSADM, "/tmp/ours"), (Column::Debian, DEBIAN_IPVSADM, "/tmp/debian")];
    for (column, program, output) in listings {
        let usage = run(program, &["-Ln"], None, output)?;
        report_program("listing", column, usage);
        report("listing-memory", column, usage.mebibytes);
    }
    ensure!(fs::read("/tmp/ours")? == fs::read("/tmp/debian")?, "the listings of both ipvsadm differ");
    for (number, (column, program, _)) in listings.into_iter().enumerate() {
        fs::write("/tmp/line", table::destination_line(0, shape.destinations + number as u32))?;
        report_program("one-line", column, run(program, &["-R"], Some("/tmp/line"), OUTPUT)?);
    }
    Ok(())
}

fn debian(shape: Shape) -> Result<()> {
    write_table(shape)?;
    report_program("start", Column::Debian, run(DEBIAN_IPVSADM, &["-v"], None, OUTPUT)?);
    report_program("restore", Column::Debian, run(DEBIAN_IPVSADM, &["-R"], Some(TEXT), OUTPUT)?);
    Ok(())
}

fn nlrs(shape: Shape) -> Result<()> {
    let rows = [("add", "add"), ("list", "entries"), ("flush", "delete")];
    for ((_, row), value) in rows.iter().zip(stepwise(NLRS, shape, &rows.map(|(step, _)| step))?) {
        report(row, Column::Nlrs, value);
    }
    stepwise(FLOOR, shape, &["add"])?;
    let (services, destinations) = (shape.services.to_string(), shape.destinations.to_string());
    report_program("one-line", Column::Nlrs, run(NLRS, &[&services, &destinations, "add-one"], None, OUTPUT)?);
    Ok(())
}

fn nlrs_again(shape: Shape) -> Result<()> {
    report("again", Column::Nlrs, stepwise(NLRS, shape, &["add", "flush", "add"])?[2]);
    Ok(())
}
