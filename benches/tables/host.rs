//! Builds what is measured, boots the guest for each size, and reports.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use crate::guest::{CASES, Case};
use crate::rows::{Measured, Shape};
use crate::{Options, expected, report, svg};

const TREE: &str = env!("CARGO_MANIFEST_DIR");
/// The size of the quick form.
const QUICK: Shape = Shape { services: 1000, destinations: 4 };

/// Measures what the options say and reports. Returns whether all is as it should be.
pub(crate) fn run(options: &Options) -> Result<bool> {
    let wanted = |case: &Case| match options.quick {
        true => case.quick,
        false => options.case.is_empty() || options.case.iter().any(|name| name == case.name),
    };
    let cases: Vec<&Case> = CASES.iter().filter(|case| wanted(case)).collect();
    let shapes = if options.quick { &[QUICK][..] } else { &options.table };
    let programs = Programs::build(options.quick)?;
    let (mut measured, mut complete) = (Measured::default(), true);
    let mut versions = Vec::new();
    for shape in shapes {
        let cases: Vec<&Case> = cases.iter().filter(|case| case.suits(*shape)).copied().collect();
        let boot = programs.boot(*shape, &cases, &mut measured)?;
        complete &= boot.complete;
        versions = boot.versions;
    }
    versions.extend(our_versions(options.quick)?);
    println!("{}\n{}", versions.join(", "), report::draw(&measured));
    if options.quick {
        return Ok(expected::compare(&measured, QUICK, options.write)? && complete);
    }
    let picture = directory().join("tables.svg");
    fs::write(&picture, svg::draw(&measured)).with_context(|| format!("cannot write {}", picture.display()))?;
    println!("cost against size: {}", picture.display());
    Ok(complete)
}

/// Where what is made here lies.
fn directory() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join("tables")
}

/// The programs of the guest, and where libraries of theirs lie.
struct Programs {
    files: Vec<PathBuf>,
    libraries: Option<PathBuf>,
}

struct Boot {
    /// Whether each case could be measured.
    complete: bool,
    /// What the guest says of its versions.
    versions: Vec<String>,
}

impl Programs {
    /// `quick`: without all that is only compared with.
    fn build(quick: bool) -> Result<Self> {
        let place = directory();
        fs::create_dir_all(&place).with_context(|| format!("cannot make {}", place.display()))?;
        let here = Path::new(TREE).join("benches/tables");
        let floor = place.join("floor");
        done(Command::new("gcc").args(["-O2", "-Wall", "-Wextra", "-o"]).arg(&floor).arg(here.join("floor.c")))?;
        let mut files = vec![std::env::current_exe()?, floor];
        if quick {
            return Ok(Programs { files, libraries: None });
        }
        // Of target/tmp/tables.
        let target = place.ancestors().nth(2).context("no target directory")?;
        let cargo = || {
            let mut cargo = Command::new(env!("CARGO"));
            cargo.current_dir(TREE).args(["build", "--release", "--locked"]);
            cargo
        };
        done(cargo().arg("--target-dir").arg(target).args(["--example", "ipvsadm", "--example", "lvs-node"]))?;
        let nlrs = place.join("nlrs");
        done(cargo().arg("--target-dir").arg(&nlrs).arg("--manifest-path").arg(here.join("nlrs/Cargo.toml")))?;
        // Debian's has the same name.
        let ours = place.join("our-ipvsadm");
        fs::copy(target.join("release/examples/ipvsadm"), &ours).context("cannot copy our ipvsadm")?;
        files.extend([ours, target.join("release/examples/lvs-node"), nlrs.join("release/tables-nlrs")]);

        let packages = target.join("lab/ipvsadm");
        fs::create_dir_all(target.join("lab"))?;
        done(Command::new(Path::new(TREE).join("tests/lab/fetch")).arg(&packages).arg("ipvsadm"))?;
        files.push(packages.join("usr/sbin/ipvsadm"));
        Ok(Programs { files, libraries: Some(packages.join("usr/lib/x86_64-linux-gnu")) })
    }

    /// Runs the cases in a guest that counts instructions.
    fn boot(&self, shape: Shape, cases: &[&Case], measured: &mut Measured) -> Result<Boot> {
        let mut lab = Command::new(Path::new(TREE).join("tests/lab/qemu"));
        lab.arg("-c").stdin(Stdio::piped()).stdout(Stdio::piped());
        if let Some(libraries) = &self.libraries {
            lab.arg("-l").arg(libraries);
        }
        let mut lab = lab.args(&self.files).spawn().context("cannot run tests/lab/qemu")?;
        lab.stdin.take().context("no input")?.write_all(script(shape, cases).as_bytes())?;
        let mut boot = Boot { complete: true, versions: Vec::new() };
        let mut begun = 0;
        for line in BufReader::new(lab.stdout.take().context("no output")?).lines() {
            let line = line?;
            if let Some(version) = line.strip_prefix("version ") {
                boot.versions.push(version.into());
            } else if let Some(case) = line.strip_prefix("begin ") {
                eprintln!("tables: {shape}: {case}");
                begun += 1;
            } else if !measured.take(shape, &line) {
                eprintln!("guest: {line}");
                boot.complete &= !line.starts_with("failed ");
            }
        }
        let status = lab.wait()?;
        ensure!(status.success() && begun == cases.len(), "the guest ended early ({status}): {shape}");
        Ok(boot)
    }
}

/// The guest's script. Between two cases the kernel cleans up the last one's namespace.
fn script(shape: Shape, cases: &[&Case]) -> String {
    let Shape { services, destinations } = shape;
    let mut script = String::from(
        "echo version kernel $(/bin/busybox uname -v)\n[ ! -e /bin/ipvsadm ] || echo version $(ipvsadm -v)\n",
    );
    for name in cases.iter().map(|case| case.name) {
        script += &format!("echo begin {name}\ntables case {name} {services} {destinations} || echo failed {name}\n");
        script += "/bin/busybox sleep 8\n";
    }
    script
}

/// The versions of what is built here.
fn our_versions(quick: bool) -> Result<Vec<String>> {
    let rustc = Command::new("rustc").arg("--version").output().context("cannot run rustc")?;
    let mut versions = vec![String::from_utf8(rustc.stdout)?.trim().to_owned()];
    if !quick {
        let lock = fs::read_to_string(Path::new(TREE).join("benches/tables/nlrs/Cargo.lock"))?;
        versions.push(format!("nlrs {}", locked(&lock, "nlrs").context("no nlrs in its Cargo.lock")?));
    }
    Ok(versions)
}

/// The version of a package in a Cargo.lock.
fn locked<'a>(lock: &'a str, package: &str) -> Option<&'a str> {
    let (_, found) = lock.split_once(&format!("name = \"{package}\"\nversion = \""))?;
    Some(found.split_once('"')?.0)
}

/// Runs a command that must succeed.
fn done(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("cannot run {}", command.get_program().display()))?;
    ensure!(status.success(), "{command:?} failed: {status}");
    Ok(())
}
