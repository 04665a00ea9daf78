//! Measures what a change of director costs: the seed's two scripts and `lvs-node` with each
//! fence, through a planned move, a stop, a crash, and four moves in a row with a crash behind
//! them. Real keepalived, real IPVS, and the demo's cluster, under more load.
//!
//! `cargo bench --bench failover` runs it in the lab's guest. It measures, and judges nothing: the
//! exit code says whether everything could be measured.

// The demo uses more of it, and has its tests.
#[allow(dead_code, unused_imports)]
#[path = "../../examples/demo/cluster/mod.rs"]
mod cluster;
// Its tests run with the demo's.
mod draw;
#[allow(dead_code, unused_imports)]
#[path = "../../examples/lvs-node/cli.rs"]
mod lvs_node;
mod measure;
mod promotion;
mod requests;
mod svg;
mod table;
mod upkeep;

use std::env;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use clap::Parser;
use serde_json::Value;

use crate::cluster::addresses::{Family, set_family};
use crate::cluster::progress::Progress;
use crate::cluster::record::Kind;
use crate::cluster::ways::{Balance, EMBEDDED, LVS_NODE, WATCH, WAYS, Way};
use crate::measure::Measured;
use crate::promotion::{FENCES, Told};
use crate::upkeep::Upkeep;

/// What a change of director costs: sessions, connections and time, counted by a client.
#[derive(Parser)]
#[command(name = "failover")]
struct Options {
    /// Ways of switching roles
    #[arg(long, value_delimiter = ',', value_parser = ways())]
    way: Vec<String>,

    /// Schedulers, each measured by itself; left out: wlc in the story `even`, else wrr
    #[arg(long, value_delimiter = ',', value_enum)]
    scheduler: Vec<Balance>,

    /// How many web servers
    #[arg(long, value_delimiter = ',', value_parser = clap::value_parser!(u8).range(2..=5), default_value = "3,2")]
    nodes: Vec<u8>,

    /// The service is not in node.toml, but loaded by ipvsadm on each node before anything starts
    #[arg(long)]
    live_table: bool,

    /// What happens to the director; or, with three nodes, one of the other stories
    #[arg(long, value_delimiter = ',', value_parser = stories())]
    story: Vec<String>,

    /// The family of all addresses: 4 or 6
    #[arg(long, value_parser = family, default_value = "4")]
    family: Family,

    /// How often each is measured
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..))]
    runs: u8,

    /// Measure a change of director again until at least so many new connections were counted in
    /// all its runs
    #[arg(long, default_value_t = 0)]
    connections: usize,

    /// Measure promotions instead: from the notification until sessions are forwarded
    #[arg(long)]
    promotion: bool,

    /// With --promotion: fences; left out: all
    #[arg(long, value_delimiter = ',', value_parser = FENCES)]
    fence: Vec<String>,

    /// With --promotion: count requests to the kernel and files written, too. It costs time, which
    /// is measured
    #[arg(long)]
    requests: bool,

    /// With --promotion: how many virtual services
    #[arg(long, value_delimiter = ',', default_value = "10,5000")]
    services: Vec<usize>,

    /// Print JSON, one line for each measurement, instead of tables
    #[arg(long)]
    json: bool,

    /// Cargo's.
    #[arg(long, hide = true)]
    bench: bool,
}

fn family(text: &str) -> Result<Family, String> {
    match text {
        "4" => Ok(Family::V4),
        "6" => Ok(Family::V6),
        _ => Err("4 or 6 was expected".into()),
    }
}

fn ways() -> Vec<&'static str> {
    WAYS.iter().chain([&WATCH, &EMBEDDED]).map(|way| way.name).collect()
}

fn stories() -> Vec<&'static str> {
    Kind::ALL.map(Kind::name).into_iter().chain(Upkeep::ALL.map(Upkeep::name)).collect()
}

fn main() -> ExitCode {
    // keepalived calls a copy of this program by the name of the one it stands for.
    if env::args_os().next().is_some_and(|name| Path::new(&name).file_name() == Some(LVS_NODE.as_ref())) {
        return lvs_node::main_with(env::args_os());
    }
    match run(&Options::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(e) => {
            eprintln!("failover: {e:#}");
            ExitCode::FAILURE
        }
    }
}

/// Whether all could be measured.
fn run(options: &Options) -> Result<bool> {
    if !matches!(env::var("LAB").as_deref(), Ok("guest" | "none")) {
        bail!("this makes network namespaces and loads IPVS tables, so it runs in the lab's guest: `cargo bench`");
    }
    set_family(options.family);
    if options.promotion {
        return promotions(options);
    }
    clean()?;
    let chosen = |names: &[String], name: &str| names.is_empty() || names.iter().any(|chosen| chosen == name);
    let kinds: Vec<Kind> = Kind::ALL.into_iter().filter(|kind| chosen(&options.story, kind.name())).collect();

    let mut complete = true;
    if !options.json && !kinds.is_empty() {
        println!("{}\n", measure::load());
    }
    for nodes in options.nodes.iter().copied().map(usize::from) {
        for kind in &kinds {
            let mut measured = Vec::new();
            let ways = WAYS.iter().filter(|way| chosen(&options.way, way.name));
            // What has more to do with nodes that come and go, and what is built apart.
            let watched = [&WATCH, &EMBEDDED].into_iter().filter(|way| options.way.iter().any(|name| name == way.name));
            let ways = ways.chain(watched);
            let ways = ways.filter(|way| kind.suits(way));
            for way in ways.flat_map(|way| scheduled(options, way, None)) {
                let (runs, all) = repeat(options, &way, nodes, *kind);
                complete &= all;
                if !runs.is_empty() {
                    measured.push(runs);
                }
            }
            report(options, nodes, *kind, &measured)?;
        }
    }
    if options.nodes.contains(&3) {
        for story in Upkeep::ALL.into_iter().filter(|story| chosen(&options.story, story.name())) {
            if !story.works_with(options.family) {
                eprintln!("failover: {} cannot be told with {}", story.name(), options.family.name());
                complete &= options.story.is_empty();
                continue;
            }
            complete &= upkeep(options, story, &chosen);
        }
    }
    Ok(complete)
}

/// Returns the way with each scheduler that was asked for; without `--scheduler`, with `default`
/// or its own.
fn scheduled(options: &Options, way: &Way, default: Option<Balance>) -> Vec<Way> {
    let way = Way { live_table: way.live_table || options.live_table, ..*way };
    if options.scheduler.is_empty() {
        return vec![Way { scheduler: default.unwrap_or(way.scheduler), ..way }];
    }
    options.scheduler.iter().map(|scheduler| Way { scheduler: *scheduler, ..way }).collect()
}

/// Measures one change of director as often as asked for. Also returns whether all could be
/// measured.
fn repeat(options: &Options, way: &Way, nodes: usize, kind: Kind) -> (Vec<Measured>, bool) {
    let (mut runs, mut failed, mut connections) = (Vec::new(), 0, 0);
    while runs.len() + failed < options.runs.into() || (failed == 0 && connections < options.connections) {
        let number = runs.len() + failed + 1;
        let title = format!("{nodes} nodes, {}, {}, {} {number}", kind.name(), way.name, way.scheduler.name());
        match measure::measure(way, nodes, kind, &mut Progress::new(false, title)) {
            Ok(measured) => {
                tell(options, &measured.json());
                connections += measured.new.of;
                runs.push(measured);
            }
            Err(e) => {
                eprintln!("failover: {e:#}");
                failed += 1;
            }
        }
    }
    (runs, failed == 0)
}

/// Whether all could be measured.
fn upkeep(options: &Options, story: Upkeep, chosen: &impl Fn(&[String], &str) -> bool) -> bool {
    let (mut complete, mut all) = (true, Vec::new());
    let ways = story.ways().into_iter().filter(|way| chosen(&options.way, way.name));
    for way in ways.flat_map(|way| scheduled(options, &way, story.scheduler())) {
        for told in (0..options.runs).flat_map(|_| story.tell(&way)) {
            match told {
                Ok(told) => {
                    tell(options, &told.json);
                    all.push(told);
                }
                Err(e) => {
                    eprintln!("failover: {e:#}");
                    complete = false;
                }
            }
        }
    }
    if !options.json && !all.is_empty() {
        println!("{}", story.draw(&all));
    }
    complete
}

/// Prints a measurement at once, where JSON is asked for.
fn tell(options: &Options, json: &Value) {
    if options.json {
        println!("{json}");
    }
}

/// Removes what an earlier run has left.
fn clean() -> Result<()> {
    match fs::remove_dir_all(cluster::DIR) {
        Err(e) if e.kind() != ErrorKind::NotFound => Err(e).context(format!("cannot remove {}", cluster::DIR)),
        _ => Ok(()),
    }
}

fn promotions(options: &Options) -> Result<bool> {
    let (mut complete, mut measured) = (true, Vec::new());
    for fence in
        FENCES.into_iter().filter(|fence| options.fence.is_empty() || options.fence.iter().any(|name| name == fence))
    {
        for told in [Told::Program, Told::Fifo] {
            for services in options.services.iter().copied() {
                for _ in 0..options.runs {
                    clean()?;
                    let title = format!("promotion, {fence}, {told:?}, {services} services");
                    match promotion::measure(services, fence, told, options, &mut Progress::new(false, title)) {
                        Ok(promotion) => {
                            tell(options, &promotion.json());
                            measured.push(promotion);
                        }
                        Err(e) => {
                            eprintln!("failover: {e:#}");
                            complete = false;
                        }
                    }
                }
            }
        }
    }
    if !options.json {
        print!("{}", promotion::draw(&measured));
    }
    Ok(complete)
}

/// `measured`: of each way, each run.
fn report(options: &Options, nodes: usize, kind: Kind, measured: &[Vec<Measured>]) -> Result<()> {
    if measured.is_empty() {
        return Ok(());
    }
    let first: Vec<_> = measured.iter().filter_map(|runs| runs.first()).collect();
    let picture = directory().join(format!("{}-{nodes}.svg", kind.name()));
    fs::create_dir_all(directory())
        .and_then(|()| fs::write(&picture, svg::draw(kind, &first)))
        .with_context(|| format!("cannot write {}", picture.display()))?;
    if !options.json {
        println!("{}time line: {}\n", table::draw(nodes, kind, measured), picture.display());
    }
    Ok(())
}

fn directory() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join("failover")
}
