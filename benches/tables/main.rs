//! What a table of virtual services costs: the library and our programs beside the same requests
//! in bare C, Debian's ipvsadm and nlrs, in instructions.
//!
//! `cargo bench --bench tables` builds all of them, boots Debian's kernel under QEMU for each size
//! (see tests/lab/qemu), and prints a table. This program is the host's and the guest's.

mod allocator;
mod expected;
mod guest;
mod host;
mod node;
mod program;
mod report;
mod rows;
mod steps;
mod svg;
mod table;

#[path = "../failover/draw.rs"]
mod draw;
#[allow(dead_code, reason = "tests use the rest")]
#[path = "../../tests/kernel/lab.rs"]
mod lab;

use std::process::ExitCode;

use anyhow::{Context, Result, anyhow};
use clap::{Parser, Subcommand};

use crate::guest::CASES;
use crate::rows::Shape;

#[global_allocator]
static ALLOCATOR: allocator::Counting = allocator::Counting;

/// What a table of virtual services costs, in instructions.
#[derive(Parser)]
#[command(name = "tables")]
pub(crate) struct Options {
    /// Sizes: the number of services with 4 destinations each, or SERVICESxDESTINATIONS
    #[arg(long, value_delimiter = ',', default_value = "10,100,1000,5000,20000,1x10000")]
    table: Vec<Shape>,

    /// Cases; left out: all
    #[arg(long, value_delimiter = ',', value_parser = CASES.iter().map(|case| case.name).collect::<Vec<_>>())]
    case: Vec<String>,

    /// The library and bare C at one size alone, compared with benches/tables/expected.toml. Exit
    /// code 1: a ratio is more than 10 % worse than there
    #[arg(long, conflicts_with_all = ["table", "case"])]
    quick: bool,

    /// With --quick: write benches/tables/expected.toml instead
    #[arg(long, requires = "quick")]
    write: bool,

    /// Cargo's.
    #[arg(long, hide = true)]
    bench: bool,

    #[command(subcommand)]
    guest: Option<InGuest>,
}

/// What this program does in the guest.
#[derive(Subcommand)]
#[command(hide = true)]
enum InGuest {
    Case { name: String, services: u32, destinations: u32 },
    Step { name: String, text: String, services: u32, destinations: u32 },
}

fn main() -> ExitCode {
    let options = Options::parse();
    let done = match &options.guest {
        None => host::run(&options),
        Some(guest) => in_guest(guest).map(|()| true),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("tables: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn in_guest(guest: &InGuest) -> Result<()> {
    match guest {
        InGuest::Case { name, services, destinations } => {
            let case = CASES.iter().find(|case| case.name == name).ok_or_else(|| anyhow!("no case is named {name}"))?;
            let shape = Shape { services: *services, destinations: *destinations };
            case.run(shape).with_context(|| format!("case {name}, {shape}"))
        }
        InGuest::Step { name, text, services, destinations } => {
            steps::run(name, text, Shape { services: *services, destinations: *destinations })
        }
    }
}
