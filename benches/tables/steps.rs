//! Single steps of the library, each in a process of its own, so that none finds the memory of
//! another one.

use std::fs;
use std::hint::black_box;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use lvs_dr::ipvs::{Detail, Ipvs, Plan, Table};

use crate::allocator;
use crate::rows::Shape;

/// Weights that are changed: one in so many.
const SOME: u32 = 100;

/// Carries out a step of the library on the current namespace's table, and prints what it cost in
/// instructions, or for `held` in octets.
pub(crate) fn run(step: &str, text: &str, shape: Shape) -> Result<()> {
    let parse = || -> Result<Table> { Ok(fs::read_to_string(text)?.parse()?) };
    let whole = |table: &Table| {
        let found: usize = table.services().map(|service| service.destinations().len()).sum();
        ensure!(found == shape.entries() as usize, "{found} destinations were listed instead of {}", shape.entries());
        Ok(())
    };
    if step == "parse" {
        let text = fs::read_to_string(text)?;
        let (table, time) = timed(|| text.parse::<Table>());
        whole(&table?)?;
        return print(time);
    }
    if step == "held" {
        let before = allocator::held();
        let table = black_box(parse()?);
        let held = allocator::held() - before;
        whole(&table)?;
        println!("{:.1}", held as f64 / f64::from(shape.entries()));
        return Ok(());
    }
    let mut ipvs = Ipvs::open()?;
    let time = match step {
        "add" => {
            let wanted = parse()?;
            let (result, time) = timed(|| {
                let seen = ipvs.snapshot()?;
                ipvs.apply(&Plan::between(&seen, &wanted))
            });
            result?;
            time
        }
        "entries" => {
            let (entries, time) = timed(|| ipvs.entries(Detail::Counters));
            whole(&entries?.into_iter().collect())?;
            time
        }
        "snapshot" => {
            let (table, time) = timed(|| ipvs.snapshot());
            whole(&table?)?;
            time
        }
        "configuration" => {
            let (entries, time) = timed(|| ipvs.entries(Detail::Configuration));
            whole(&entries?.into_iter().collect())?;
            time
        }
        "unchanged" => {
            let wanted = parse()?;
            let (plan, time) = timed(|| ipvs.snapshot().map(|seen| Plan::between(&seen, &wanted)));
            let plan = plan?;
            ensure!(plan.is_empty(), "the table is not as it was written: {plan}");
            time
        }
        "weights" => {
            let seen = ipvs.snapshot()?;
            let (mut wanted, mut number) = (seen.clone(), 0);
            wanted.edit_destinations(|_, destination| {
                if number % SOME == 0 {
                    destination.weight += 7;
                }
                number += 1;
            });
            let (result, time) = timed(|| ipvs.apply(&Plan::between(&seen, &wanted)));
            result?;
            time
        }
        "delete" => {
            let seen = ipvs.snapshot()?;
            let (result, time) = timed(|| ipvs.apply(&Plan::between(&seen, &Table::new())));
            result?;
            time
        }
        other => bail!("no step is named {other}"),
    };
    print(time)
}

fn timed<T>(work: impl FnOnce() -> T) -> (T, Duration) {
    let start = Instant::now();
    let result = work();
    (result, start.elapsed())
}

fn print(time: Duration) -> Result<()> {
    println!("{:.3}", millions(time));
    Ok(())
}

/// Millions of instructions in a time: one takes a nanosecond here.
pub(crate) fn millions(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// Reads what `run` printed. `None`: the library cannot do the step yet.
pub(crate) fn read(output: &str) -> Result<Option<f64>> {
    match output.trim() {
        "" => Ok(None),
        number => Ok(Some(number.parse().with_context(|| format!("{number:?} is no number"))?)),
    }
}
