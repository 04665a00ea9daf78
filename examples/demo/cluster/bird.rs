//! BIRD with the recipes of examples/bird. tests/kernel/routes.rs starts it by this, too.

use std::fs::{self, File};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result};
use lvs_dr::Netns;

pub(crate) const ROUTER: &str = include_str!("../../bird/router.conf");
pub(crate) const SERVER: &str = include_str!("../../bird/server.conf");

/// How often BFD packets are sent, and how many in a row may be missing.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bfd {
    pub(crate) milliseconds: u64,
    pub(crate) multiplier: u64,
}

/// That of the recipes.
pub(crate) const FAST: Bfd = Bfd { milliseconds: 50, multiplier: 3 };

/// Starts it with this recipe, which logs to `DIR/log`.
pub(crate) fn start(host: &Netns, dir: &Path, recipe: &str, bfd: Bfd) -> Result<Child> {
    fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
    let log = dir.join("log");
    let recipe = recipe
        .replace("log syslog all;", &format!("log {log:?} all;"))
        .replace("interval 50 ms", &format!("interval {} ms", bfd.milliseconds))
        .replace("multiplier 3", &format!("multiplier {}", bfd.multiplier));
    let config = dir.join("bird.conf");
    fs::write(&config, recipe).with_context(|| format!("cannot write {}", config.display()))?;
    let open = || File::options().create(true).append(true).open(&log);
    let (out, err) = open().and_then(|out| Ok((out, open()?))).with_context(|| log.display().to_string())?;
    let mut command = Command::new("bird");
    command.arg("-f").arg("-c").arg(config).arg("-s").arg(dir.join("ctl"));
    command.stdin(Stdio::null()).stdout(out).stderr(err);
    host.run(|| command.spawn())?.context("cannot run bird")
}
