//! The ways to switch a node's role that the demo compares. A further one is a further entry in
//! [`WAYS`].

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use super::addresses::{family, real, vip, web};
use super::{DIR, INTERFACE, Node, PROGRAM, run};

/// The operator's program, which keepalived calls.
pub(crate) const LVS_NODE: &str = "lvs-node";

/// The scheduler of the service, the same on all nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Balance {
    Wrr,
    Wlc,
    /// With mh-port and mh-fallback.
    Mh,
}

impl Balance {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Balance::Wrr => "wrr",
            Balance::Wlc => "wlc",
            Balance::Mh => "mh",
        }
    }

    /// Returns the lines of node.toml.
    fn toml(self) -> &'static str {
        match self {
            Balance::Wrr => "scheduler = \"wrr\"",
            Balance::Wlc => "scheduler = \"wlc\"",
            Balance::Mh => "scheduler = \"mh\"\nflags = [\"mh-port\", \"mh-fallback\"]",
        }
    }

    /// Returns the options of ipvsadm.
    pub(crate) fn ipvsadm(self) -> &'static str {
        match self {
            Balance::Wrr => "-s wrr",
            Balance::Wlc => "-s wlc",
            Balance::Mh => "-s mh -b mh-port,mh-fallback",
        }
    }
}

/// One way to switch roles.
#[derive(Clone, Copy)]
pub(crate) struct Way {
    pub(crate) name: &'static str,
    pub(crate) title: &'static str,
    /// Whether a planned move can be done by `lvs-node handover`.
    pub(crate) hands_over: bool,
    /// Whether `lvs-node watch` runs in each node and reads keepalived's FIFO,
    /// where there is one.
    pub(crate) watched: bool,
    /// Whether routers spread connections over all nodes, and no VRRP is spoken.
    pub(crate) routes: bool,
    /// `fence` in node.toml; unused by the seed's scripts.
    pub(crate) fence: &'static str,
    pub(crate) scheduler: Balance,
    /// The service is loaded by ipvsadm on each node, and is not in node.toml.
    pub(crate) live_table: bool,
    /// Sets up a node of the cluster, and returns the lines of keepalived.conf that tell it of its
    /// role.
    pub(crate) prepare: fn(&Way, &Node, &[Node]) -> Result<String>,
}

impl Way {
    const fn lvs_node(name: &'static str, title: &'static str, fence: &'static str, scheduler: Balance) -> Way {
        Way {
            name,
            title,
            hands_over: true,
            watched: false,
            routes: false,
            fence,
            scheduler,
            live_table: false,
            prepare: ours,
        }
    }

    const fn watched(name: &'static str, title: &'static str, fence: &'static str) -> Way {
        let way = Way::lvs_node(name, title, fence, Balance::Wrr);
        Way { watched: true, prepare: |way, node, all| ours(way, node, all).map(|_notify| String::new()), ..way }
    }
}

pub(crate) const WAYS: &[Way] = &[
    Way {
        name: "seed",
        title: "to_master.sh and to_backup.sh, as written",
        hands_over: false,
        watched: false,
        routes: false,
        fence: "",
        scheduler: Balance::Wrr,
        live_table: true,
        prepare: seed,
    },
    Way::lvs_node("clear", "lvs-node, fence = clear", "clear", Balance::Wrr),
    Way::lvs_node("marks", "lvs-node, fence = marks", "marks", Balance::Wrr),
    Way {
        hands_over: false,
        watched: true,
        routes: true,
        prepare: routes,
        ..Way::lvs_node("routes", "every node directs: routes by BIRD", "marks", Balance::Mh)
    },
];

/// [`WAYS`] has what notifications do; this one is for stories of nodes that come and go.
pub(crate) const WATCH: Way = Way::watched("watch", "lvs-node watch, fence = marks", "marks");

/// keepalived that is built on the library: `examples/keepalived/build`.
pub(crate) const EMBEDDED: Way = Way {
    prepare: embedded,
    ..Way::lvs_node("keepalived", "keepalived with lvs_dr, fence = marks", "marks", Balance::Wrr)
};

/// The seed's scripts. Its page lost the `#` of the first line.
const TO_MASTER: &str = "#!/bin/bash

ip addr del VIP dev lo
ipvsadm --restore < /tmp/keepalived.ipvs
";
const TO_BACKUP: &str = "#!/bin/bash

ip addr add VIP scope host dev lo
ipvsadm --save > /tmp/keepalived.ipvs
ipvsadm --clear
";

/// The seed as written: two sysctls, two scripts. They save and restore a table, so an operator
/// has to load it first: by hand, on each node, before keepalived starts. It begins with
/// to_backup.sh, which saves and clears the table; the same script on a node that is a backup
/// already would save an empty one in its place.
fn seed(way: &Way, node: &Node, all: &[Node]) -> Result<String> {
    node.sysctl("conf/all/arp_ignore", 3)?;
    node.sysctl("conf/all/arp_announce", 2)?;
    load(way, node, all)?;
    let vip = format!("{}/{}", vip(), family().host());
    script(&node.etc.join("to_master.sh"), &TO_MASTER.replace("VIP", &vip))?;
    script(&node.etc.join("to_backup.sh"), &TO_BACKUP.replace("VIP", &vip))?;
    Ok("    notify_master /etc/keepalived/to_master.sh\n    notify_backup /etc/keepalived/to_backup.sh".into())
}

/// Loads the table by ipvsadm.
fn load(way: &Way, node: &Node, all: &[Node]) -> Result<()> {
    node.netns.run(|| run("ipvsadm --restore", &table(way, all)))?.map(drop)
}

fn table(way: &Way, all: &[Node]) -> String {
    let mut table = format!("-A -t {} {}\n", web(), way.scheduler.ipvsadm());
    for server in all {
        table += &format!("-a -t {} -r {} -g -w 1\n", web(), real(server.address));
    }
    table
}

/// `lvs-node` with a configuration file, which says everything: nothing is done by hand.
fn ours(way: &Way, node: &Node, all: &[Node]) -> Result<String> {
    let program = install_lvs_node()?;
    let service = service(way, node, all)?;
    let config = format!(
        "interface = \"{INTERFACE}\"
vips = [\"{vip}\"]
vip_owner = \"keepalived\"
fence = \"{fence}\"
loopback = \"always\"
state_dir = \"{state}\"

[arp]
ignore = 3
announce = 2

[handover]
file = \"{maintenance}\"

{service}",
        vip = vip(),
        fence = way.fence,
        maintenance = node.maintenance().display(),
        state = node.etc.join("state").display(),
    );
    let path = node.etc.join("node.toml");
    fs::write(&path, config).with_context(|| format!("cannot write {}", path.display()))?;
    check(node, &program, &path)?;

    let notify = ["master", "backup", "fault", "stop"]
        .map(|role| format!("    notify_{role} \"{program} --config /etc/keepalived/node.toml role {role}\""));
    Ok(notify.join("\n"))
}

/// The service in node.toml; where it is not to be there, it is loaded.
fn service(way: &Way, node: &Node, all: &[Node]) -> Result<String> {
    if way.live_table {
        load(way, node, all)?;
        return Ok(String::new());
    }
    let destinations: String =
        all.iter().map(|node| format!("    {{ address = \"{}\", weight = 1 }},\n", real(node.address))).collect();
    let (web, scheduler) = (web(), way.scheduler.toml());
    Ok(format!("[[service]]\nlisten = \"tcp {web}\"\n{scheduler}\ndestinations = [\n{destinations}]\n"))
}

/// `lvs-node` tells BIRD, and nothing tells `lvs-node` of a role.
fn routes(way: &Way, node: &Node, all: &[Node]) -> Result<String> {
    let program = install_lvs_node()?;
    let config = format!(
        "interface = \"{INTERFACE}\"\nvips = [\"{vip}\"]\nvip_owner = \"routes\"\nstate_dir = \"{state}\"\n\n{service}",
        vip = vip(),
        state = node.etc.join("state").display(),
        service = service(way, node, all)?,
    );
    let path = node.etc.join("node.toml");
    fs::write(&path, config).with_context(|| format!("cannot write {}", path.display()))?;
    check(node, &program, &path)?;
    Ok(String::new())
}

/// keepalived itself takes on the roles. `lvs-node` has a file, too: `handover` reads it.
fn embedded(way: &Way, node: &Node, all: &[Node]) -> Result<String> {
    ours(way, node, all)?;
    let path = node.etc.join("node.toml");
    let vips = format!("vips = [\"{}\"]\n", vip());
    let file = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let file = file.replace(&vips, "") + "[[group]]\nname = \"web\"\n" + &vips;
    fs::write(&path, file).with_context(|| format!("cannot write {}", path.display()))?;

    let this = fs::read_link("/proc/self/exe").context("cannot find this program")?;
    let mut built = this.ancestors().map(|folder| folder.join("keepalived/lvs-dr/bin/keepalived"));
    let built = built.find(|path| path.exists()).context("examples/keepalived/build has to be run before")?;
    fs::copy(&built, node.etc.join(PROGRAM)).with_context(|| format!("cannot copy {}", built.display()))?;
    let mut services = String::new();
    if !way.live_table {
        let path = node.etc.join("services");
        fs::write(&path, table(way, all)).with_context(|| format!("cannot write {}", path.display()))?;
        services = format!("        services {}\n", path.display());
    }
    Ok(format!(
        "    lvs_dr {{
{services}        state_dir {state}
        fence {fence}
        arp interface
        arp_ignore 3
        arp_announce 2
    }}",
        state = node.etc.join("state").display(),
        fence = way.fence,
    ))
}

/// Refuses a configuration that this version of `lvs-node` does not read: else the first sign of
/// it would be a director that never comes.
fn check(node: &Node, program: &str, config: &Path) -> Result<()> {
    const USAGE: i32 = 2;
    let mut plan = Command::new(program);
    plan.arg("--config").arg(config).args(["plan", "backup"]).stdin(Stdio::null());
    let output = node.netns.run(|| plan.output())?.with_context(|| format!("cannot run {program}"))?;
    ensure!(output.status.code() != Some(USAGE), "{}", String::from_utf8_lossy(&output.stderr).trim());
    Ok(())
}

/// Puts a copy of this program where keepalived takes it from: it refuses one that others than
/// root could change.
pub(crate) fn install_lvs_node() -> Result<String> {
    let path = Path::new(DIR).join(LVS_NODE);
    if !path.exists() {
        fs::copy("/proc/self/exe", &path).with_context(|| format!("cannot copy this program to {}", path.display()))?;
        fs::set_permissions(&path, Permissions::from_mode(0o755))
            .with_context(|| format!("cannot make {} executable", path.display()))?;
    }
    Ok(path.display().to_string())
}

fn script(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text)
        .and_then(|()| fs::set_permissions(path, Permissions::from_mode(0o755)))
        .with_context(|| format!("cannot write {}", path.display()))
}
