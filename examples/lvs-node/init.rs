//! `lvs-node init`: the first files of a node.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::json;

use super::output::Output;

#[derive(Debug, Args)]
pub struct Init {
    /// The interface that clients reach.
    #[arg(long, value_name = "NAME", value_parser = interface)]
    interface: String,
    /// A virtual address. Several: one option for each.
    #[arg(long, value_name = "ADDRESS", required = true)]
    vip: Vec<IpAddr>,
    /// A server, as one option for each. Left out: the file has a service as a comment.
    #[arg(long, value_name = "ADDRESS")]
    server: Vec<IpAddr>,
    /// The TCP port of the service.
    #[arg(long, default_value_t = 80, value_parser = clap::value_parser!(u16).range(1..))]
    port: u16,
    /// The priority of this node in the election: another one on each node.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u8).range(1..=254))]
    priority: u8,
    /// Write below this directory instead of /.
    #[arg(long, value_name = "DIRECTORY", default_value = "/")]
    root: PathBuf,
    /// Print the files only.
    #[arg(long)]
    dry_run: bool,
}

/// What could not be written: the path and why.
pub type Failed = (PathBuf, io::Error);

/// Writes the files of a node, unless one of them is there, and says what comes next.
pub fn run(init: &Init, output: &Output) -> Result<(), Failed> {
    let files = [("etc/lvs-dr/node.toml", node(init)), ("etc/keepalived/keepalived.conf", keepalived(init))]
        .map(|(path, text)| (init.root.join(path), text));
    for (path, _) in &files {
        if fs::symlink_metadata(path).is_ok() {
            return Err((path.clone(), io::ErrorKind::AlreadyExists.into()));
        }
    }
    let objects = files.iter().map(|(path, text)| json!({ "path": path.display().to_string(), "text": text }));
    output.field("files", objects.collect());
    if init.dry_run {
        files.iter().for_each(|(path, text)| output.show(format_args!("{}:\n\n{text}\n", path.display())));
        return Ok(());
    }
    for (path, text) in &files {
        write(path, text).map_err(|error| (path.clone(), error))?;
    }
    let [(node, _), (keepalived, _)] = &files;
    output.show(format_args!(
        "wrote {}\nwrote {}\n\n\
         Next, on this node:\n\
         \x20 lvs-node check                      judges the file\n\
         \x20 lvs-node audit                      names what is in the way on this machine\n\
         \x20 systemctl enable --now lvs-node     follows keepalived\n\
         \x20 systemctl restart keepalived        takes part in elections\n\
         \x20 lvs-node status                     shows the role\n\
         On each other node: the same files, with another priority in keepalived.conf.\n",
        node.display(),
        keepalived.display()
    ));
    Ok(())
}

fn write(path: &Path, text: &str) -> io::Result<()> {
    path.parent().map_or(Ok(()), fs::create_dir_all)?;
    OpenOptions::new().write(true).create_new(true).open(path)?.write_all(text.as_bytes())
}

/// A name that is one in TOML and in keepalived.conf.
fn interface(name: &str) -> Result<String, String> {
    let valid = |c: char| c.is_ascii_alphanumeric() || "._-:@".contains(c);
    match !name.is_empty() && name.chars().all(valid) {
        true => Ok(name.to_owned()),
        false => Err("the name of an interface was expected, as in eth0".to_owned()),
    }
}

fn node(init: &Init) -> String {
    let vips: Vec<String> = init.vip.iter().map(|vip| format!("\"{vip}\"")).collect();
    let mut text = format!(
        "# The node for lvs-node, the same on all nodes: see lvs-node.toml(5).\n\n\
         # Clients reach this interface; it holds the VIP of the director.\n\
         interface = \"{}\"\n\
         vips = [{}]\n\
         # keepalived moves the VIPs on the interface, lvs-node the rest.\n\
         vip_owner = \"keepalived\"\n\n\
         # `lvs-node handover` before a planned stop: track_file in keepalived.conf watches this file.\n\
         [handover]\n\
         file = \"/run/lvs-dr.handover\"\n\n\
         # `lvs-node watch`: vrrp_notify_fifo in keepalived.conf, and metrics for Prometheus.\n\
         [watch]\n\
         fifo = \"/run/lvs-dr.fifo\"\n\
         metrics = \"/run/lvs-dr.prom\"\n",
        init.interface,
        vips.join(", ")
    );
    for vip in &init.vip {
        let servers: Vec<IpAddr> = init.server.iter().copied().filter(|s| s.is_ipv4() == vip.is_ipv4()).collect();
        // Without servers: a comment to fill in.
        let (comment, servers) = match servers.is_empty() {
            true => ("# ", vec!["SERVER:PORT".to_owned()]),
            false => ("", servers.iter().map(|server| SocketAddr::new(*server, init.port).to_string()).collect()),
        };
        text += &format!(
            "\n# A virtual service, and the servers behind it.\n\
             {comment}[[service]]\n\
             {comment}listen = \"tcp {}\"\n\
             {comment}scheduler = \"wrr\"\n\
             {comment}destinations = [\n",
            SocketAddr::new(*vip, init.port)
        );
        for server in servers {
            text += &format!("{comment}    {{ address = \"{server}\", weight = 1 }},\n");
        }
        text += &format!("{comment}]\n");
    }
    text
}

fn keepalived(init: &Init) -> String {
    let interface = &init.interface;
    let last = match init.vip.first() {
        Some(IpAddr::V4(vip)) => vip.octets()[3],
        Some(IpAddr::V6(vip)) => vip.octets()[15],
        None => 0,
    };
    let id = if last == 0 { 51 } else { last };
    let block = |name: &str, vips: Vec<&IpAddr>| {
        let lines = vips.into_iter().map(|vip| {
            let prefix = if vip.is_ipv4() { 32 } else { 128 };
            format!("        {vip}/{prefix} dev {interface}\n")
        });
        let lines: String = lines.collect();
        if lines.is_empty() { lines } else { format!("    {name} {{\n{lines}    }}\n") }
    };
    // An instance has addresses of one family; those of the other one go with them.
    let (same, other): (Vec<&IpAddr>, Vec<&IpAddr>) =
        init.vip.iter().partition(|vip| vip.is_ipv4() == init.vip[0].is_ipv4());
    format!(
        "# keepalived elects the director: see lvs-node(8). The same on all nodes, but for the priority.\n\
         global_defs {{\n\
         \x20   vrrp_version 3\n\
         \x20   vrrp_notify_fifo /run/lvs-dr.fifo\n\
         }}\n\
         # `lvs-node handover` has another node elected.\n\
         track_file lvs_dr {{\n\
         \x20   file /run/lvs-dr.handover\n\
         \x20   init_file 0\n\
         }}\n\
         vrrp_instance web {{\n\
         \x20   state BACKUP\n\
         \x20   interface {interface}\n\
         \x20   # The same on all nodes, and of no other cluster on this link.\n\
         \x20   virtual_router_id {id}\n\
         \x20   # Another one on each node.\n\
         \x20   priority {}\n\
         \x20   advert_int 0.3\n\
         \x20   nopreempt\n\
         {}{}\
         \x20   track_file {{\n\
         \x20       lvs_dr weight 0\n\
         \x20   }}\n\
         }}\n",
        init.priority,
        block("virtual_ipaddress", same),
        block("virtual_ipaddress_excluded", other)
    )
}

#[cfg(test)]
mod tests {
    use std::{env, process};

    use super::super::file;
    use super::*;

    #[test]
    fn the_first_files_are_read_and_never_overwritten() {
        let root = env::temp_dir().join(format!("lvs-node-init-{}", process::id()));
        let address = |text: &str| text.parse::<IpAddr>().unwrap();
        let mut init = Init {
            interface: "eth0".into(),
            vip: vec![address("192.0.2.254"), address("2001:db8::fe")],
            server: ["192.0.2.11", "192.0.2.12", "2001:db8::b"].map(address).to_vec(),
            port: 8080,
            priority: 103,
            root: root.clone(),
            dry_run: true,
        };
        let run = |init: &Init| run(init, &Output::new(false, true, false));
        run(&init).unwrap();
        assert!(!root.exists());
        init.dry_run = false;
        run(&init).unwrap();
        let written = root.join("etc/lvs-dr/node.toml");
        let read = file::read(&written).unwrap_or_else(|error| panic!("{error}"));
        let table = read.configs[0].services.clone().unwrap().to_string();
        assert!(table.contains("-a -t 192.0.2.254:8080 -r 192.0.2.12:8080 -g -w 1"), "{table}");
        assert!(table.contains("-a -t [2001:db8::fe]:8080 -r [2001:db8::b]:8080 -g -w 1"), "{table}");
        assert_eq!(read.configs[0].doubts().len(), 0);
        let conf = fs::read_to_string(root.join("etc/keepalived/keepalived.conf")).unwrap();
        assert!(conf.contains("    virtual_ipaddress {\n        192.0.2.254/32 dev eth0\n    }\n"), "{conf}");
        assert!(conf.contains("excluded {\n        2001:db8::fe/128 dev eth0\n    }\n"), "{conf}");
        assert!(conf.contains("virtual_router_id 254\n") && conf.contains("priority 103\n"), "{conf}");

        // One that is there stops all of it.
        fs::remove_file(&written).unwrap();
        let (path, error) = run(&init).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
        assert!(path.ends_with("keepalived.conf") && !written.exists());

        // Without servers, the service is a comment.
        fs::remove_dir_all(&root).unwrap();
        init.server.clear();
        run(&init).unwrap();
        assert!(file::read(&written).is_ok_and(|read| read.configs[0].services.is_none()));
        fs::remove_dir_all(&root).unwrap();
        assert!(interface("eth0\"\nfence").is_err());
    }
}
