//! What reading, comparing and printing a table takes on this machine: time by criterion, and
//! allocations for each destination. No kernel is asked; see benches/tables for that.
//!
//! `cargo bench --bench text`

#[path = "../tables/allocator.rs"]
mod allocator;
#[allow(dead_code, reason = "benches/tables uses the rest")]
#[path = "../tables/table.rs"]
mod table;

use std::hint::black_box;

use criterion::{Criterion, Throughput};
use lvs_dr::ipvs::{Plan, Table};

#[global_allocator]
static ALLOCATOR: allocator::Counting = allocator::Counting;

const SERVICES: u32 = 5000;
const DESTINATIONS: u32 = 4;

fn main() {
    let mut text = Vec::new();
    table::write(&mut text, SERVICES, DESTINATIONS).expect("memory to write to");
    let text = String::from_utf8(text).expect("a text");
    let parse = || text.parse::<Table>().expect("a table");
    let (empty, whole) = (Table::new(), parse());
    let (mut changed, mut number) = (whole.clone(), 0);
    changed.edit_destinations(|_, destination| {
        if number % 100 == 0 {
            destination.weight += 7;
        }
        number += 1;
    });

    let mut criterion = Criterion::default().configure_from_args();
    let octets = Throughput::Bytes(text.len() as u64);
    let destinations = Throughput::Elements(u64::from(SERVICES * DESTINATIONS));
    measure(&mut criterion, "parse", octets.clone(), parse);
    measure(&mut criterion, "print", octets, || whole.to_string());
    measure(&mut criterion, "compare, equal", destinations.clone(), || Plan::between(&whole, &whole));
    measure(&mut criterion, "compare, 1 % of the weights", destinations.clone(), || Plan::between(&whole, &changed));
    measure(&mut criterion, "compare with nothing", destinations, || Plan::between(&empty, &whole));
    criterion.final_summary();
}

/// Prints how often `work` allocates, and has criterion measure its time.
fn measure<T>(criterion: &mut Criterion, name: &str, throughput: Throughput, work: impl Fn() -> T) {
    let before = allocator::calls();
    let result = black_box(work());
    let calls = allocator::calls() - before;
    drop(result);
    println!("{name}: {:.2} allocations for each destination", calls as f64 / f64::from(SERVICES * DESTINATIONS));
    let mut group = criterion.benchmark_group(format!("{SERVICES} x {DESTINATIONS}"));
    group.throughput(throughput);
    // Dropping what was made is not part of it.
    group.bench_function(name, |bencher| bencher.iter_with_large_drop(&work));
    group.finish();
}
