//! The ways to switch a node's role that the demo compares. A further one is a further entry in [`WAYS`].

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use anyhow::{Context, Result};

use super::{DIR, INTERFACE, Node, VIP, run};

/// The operator's program, which keepalived calls.
pub(crate) const LVS_NODE: &str = "lvs-node";

const WRR: &str = "scheduler = \"wrr\"";
const MH: &str = "scheduler = \"mh\"\nflags = [\"mh-port\", \"mh-fallback\"]";

/// One way to switch roles.
pub(crate) struct Way {
    pub(crate) name: &'static str,
    pub(crate) title: &'static str,
    /// Whether a planned move can be done by `lvs-node handover`.
    pub(crate) hands_over: bool,
    /// Whether `lvs-node watch` runs in each node and reads keepalived's FIFO.
    pub(crate) watched: bool,
    /// Sets up a node of the cluster, and returns the lines of keepalived.conf that tell it of its role.
    pub(crate) prepare: fn(&Node, &[Node]) -> Result<String>,
}

pub(crate) const WAYS: &[Way] = &[
    Way {
        name: "seed",
        title: "to_master.sh and to_backup.sh, as written",
        hands_over: false,
        watched: false,
        prepare: seed,
    },
    Way {
        name: "clear",
        title: "lvs-node, fence = clear",
        hands_over: true,
        watched: false,
        prepare: |node, all| ours(node, all, "clear", WRR),
    },
    Way {
        name: "quiesce",
        title: "lvs-node, fence = quiesce",
        hands_over: true,
        watched: false,
        prepare: |node, all| ours(node, all, "quiesce", WRR),
    },
    Way {
        name: "stateless",
        title: "lvs-node, fence = stateless",
        hands_over: true,
        watched: false,
        prepare: |node, all| ours(node, all, "stateless", MH),
    },
];

/// [`WAYS`] has what notifications do; this one is for stories of nodes that come and go.
pub(crate) const WATCH: Way = Way {
    name: "watch",
    title: "lvs-node watch, fence = quiesce",
    hands_over: true,
    watched: true,
    prepare: |node, all| ours(node, all, "quiesce", WRR).map(|_notify| String::new()),
};

/// The seed's scripts. Its page lost the `#` of the first line.
const TO_MASTER: &str = "#!/bin/bash

ip addr del 192.168.0.254/32 dev lo
ipvsadm --restore < /tmp/keepalived.ipvs
";
const TO_BACKUP: &str = "#!/bin/bash

ip addr add 192.168.0.254/32 scope host dev lo
ipvsadm --save > /tmp/keepalived.ipvs
ipvsadm --clear
";

/// The seed as written: two sysctls, two scripts. They save and restore a table, so somebody has to load it first: by
/// hand, on each node, before keepalived starts. It begins with to_backup.sh, which saves and clears the table; the same
/// script on a node that is a backup already would save an empty one in its place.
fn seed(node: &Node, all: &[Node]) -> Result<String> {
    node.sysctl("conf/all/arp_ignore", 3)?;
    node.sysctl("conf/all/arp_announce", 2)?;
    let mut table = format!("-A -t {VIP}:80 -s wrr\n");
    for real in all {
        table += &format!("-a -t {VIP}:80 -r {}:80 -g -w 1\n", real.address);
    }
    node.netns.run(|| run("ipvsadm --restore", &table))??;
    script(&node.etc.join("to_master.sh"), TO_MASTER)?;
    script(&node.etc.join("to_backup.sh"), TO_BACKUP)?;
    Ok("    notify_master /etc/keepalived/to_master.sh\n    notify_backup /etc/keepalived/to_backup.sh".into())
}

/// `lvs-node` with a configuration file, which says everything: nothing is done by hand.
fn ours(node: &Node, all: &[Node], fence: &str, scheduler: &str) -> Result<String> {
    let program = install_lvs_node()?;
    let destinations: Vec<String> =
        all.iter().map(|real| format!("    {{ address = \"{}:80\", weight = 1 }},\n", real.address)).collect();
    let config = format!(
        "interface = \"{INTERFACE}\"
vips = [\"{VIP}\"]
vip_owner = \"keepalived\"
fence = \"{fence}\"
loopback = \"always\"
state_dir = \"{state}\"

[arp]
ignore = 3
announce = 2

[handover]
file = \"{maintenance}\"

[[service]]
listen = \"tcp {VIP}:80\"
{scheduler}
destinations = [
{destinations}]
",
        maintenance = node.maintenance().display(),
        state = node.etc.join("state").display(),
        destinations = destinations.concat(),
    );
    let path = node.etc.join("node.toml");
    fs::write(&path, config).with_context(|| format!("cannot write {}", path.display()))?;

    let notify = ["master", "backup", "fault", "stop"]
        .map(|role| format!("    notify_{role} \"{program} --config /etc/keepalived/node.toml role {role}\""));
    Ok(notify.join("\n"))
}

/// Puts a copy of this program where keepalived takes it from: it refuses one that others than root could change.
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
