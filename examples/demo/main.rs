//! The seed's cluster, live: three web servers that balance their own load, through all that can
//! happen to their director. Once with the seed's two shell scripts, once with `lvs-node`; real
//! keepalived, real IPVS, and one screen that draws what the client and the kernel showed.
//!
//! `cargo run --example demo` runs it in the lab's guest (tests/lab): it makes network namespaces
//! and VIPs.

// benches/failover uses the rest of it.
#[allow(dead_code)]
mod cluster;
#[path = "../lvs-node/cli.rs"]
mod lvs_node;
mod screen;
mod story;

use std::env;
use std::fs;
use std::io::{ErrorKind, IsTerminal, stdout};
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use clap::Parser;

use crate::cluster::progress::Progress;
use crate::cluster::record::Kind;
use crate::cluster::ways::{LVS_NODE, WAYS, Way};
use crate::screen::Screen;

/// Web servers as their own load balancer, through planned moves, a crash and a stop of the
/// director.
///
/// A bridge, a client and the nodes as network namespaces; in each node keepalived (VRRP) and an
/// HTTP server. The client sends requests all the time and holds open sessions. Every figure is
/// counted: requests and sessions by the client, addresses and tables as each node's kernel shows
/// them.
#[derive(Parser)]
#[command(name = "demo")]
struct Options {
    /// How many web servers
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(2..=3))]
    nodes: u8,

    /// Which ways of switching roles
    #[arg(long, value_delimiter = ',', value_parser = WAYS.iter().map(|way| way.name).collect::<Vec<_>>(), default_value = "seed,marks")]
    way: Vec<String>,

    /// What happens to the director; all together take about 45 seconds on each way
    #[arg(long, value_delimiter = ',', value_parser = ["move", "crash", "moves", "stop"], default_value = "move,crash,moves,stop")]
    story: Vec<String>,

    /// Print what was counted as JSON, one line for each way, instead of the picture
    #[arg(long)]
    json: bool,
}

fn main() -> ExitCode {
    // keepalived calls a copy of this program by the name of the one it stands for: `cargo run
    // --example demo` builds no other.
    if env::args_os().next().is_some_and(|name| Path::new(&name).file_name() == Some(LVS_NODE.as_ref())) {
        return lvs_node::main_with(env::args_os());
    }
    match run(&Options::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("demo: {e:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> Result<()> {
    if !matches!(env::var("LAB").as_deref(), Ok("guest" | "none")) {
        bail!(
            "this makes network namespaces called n1, n2, n3 and loads IPVS tables, so it runs in the lab's guest: \
             use `cargo run --example demo` (or set LAB=none to run it on this machine)"
        );
    }
    let terminal = (stdout().is_terminal() || env::var_os("LAB_TTY").is_some()) && !options.json;
    let ways: Vec<&Way> = WAYS.iter().filter(|way| options.way.iter().any(|name| name == way.name)).collect();

    // An earlier run's logs were kept until now.
    match fs::remove_dir_all(cluster::DIR) {
        Err(e) if e.kind() != ErrorKind::NotFound => return Err(e).context(format!("cannot remove {}", cluster::DIR)),
        _ => {}
    }
    let kinds: Vec<Kind> =
        options.story.iter().filter_map(|name| Kind::ALL.into_iter().find(|kind| kind.name() == name)).collect();
    let mut records = Vec::new();
    for (number, way) in ways.iter().enumerate() {
        let mut progress = Progress::new(terminal, format!("{}/{} {}", number + 1, ways.len(), way.name));
        records.push(story::tell(way, options.nodes.into(), &kinds, &mut progress)?);
    }

    if options.json {
        records.iter().for_each(|record| println!("{}", record.summary()));
        return Ok(());
    }
    let columns = env::var("COLUMNS").ok().and_then(|c| c.parse().ok()).filter(|c| terminal && *c > 0).unwrap_or(100);
    let colour = terminal && env::var_os("NO_COLOR").is_none_or(|v| v.is_empty());
    print!("{}", Screen { columns, colour }.draw(&records));
    Ok(())
}
