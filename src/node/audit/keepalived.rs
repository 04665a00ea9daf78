//! What keepalived.conf says of the VRRP instances, as far as an audit asks. Pure, but for the
//! files that it includes.

use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

/// A `vrrp_instance`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Instance {
    pub(super) name: String,
    pub(super) nopreempt: bool,
    /// keepalived ignores `nopreempt` with `state MASTER`.
    pub(super) starts_as_master: bool,
    pub(super) addresses: Vec<IpAddr>,
}

impl Instance {
    pub(super) fn preempts(&self) -> bool {
        !self.nopreempt || self.starts_as_master
    }
}

/// How deep files may include each other: as deep as keepalived's own limit is far from here.
const DEPTH: usize = 8;

/// Reads a file and what it includes.
pub(super) fn read(path: &Path) -> io::Result<Vec<Instance>> {
    let mut text = String::new();
    gather(path, DEPTH, &mut text)?;
    Ok(parse(&text))
}

fn gather(path: &Path, depth: usize, text: &mut String) -> io::Result<()> {
    for line in fs::read_to_string(path)?.lines() {
        let words = words(line);
        match words[..] {
            ["include" | "includer" | "includem" | "includew" | "includeb" | "includea", pattern] if depth > 0 => {
                let pattern = path.parent().unwrap_or(Path::new("/")).join(pattern);
                for file in matching(&pattern) {
                    // One that is missing is keepalived's to complain of.
                    let _ = gather(&file, depth - 1, text);
                }
            }
            _ => {
                text.push_str(line);
                text.push('\n');
            }
        }
    }
    Ok(())
}

/// The files of a pattern, with at most one `*`, in its last part.
fn matching(pattern: &Path) -> Vec<PathBuf> {
    let name = pattern.file_name().unwrap_or_default().to_string_lossy();
    let Some((front, back)) = name.split_once('*') else { return vec![pattern.to_owned()] };
    let Some(entries) = pattern.parent().and_then(|directory| fs::read_dir(directory).ok()) else { return Vec::new() };
    let fits = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name.len() >= front.len() + back.len() && name.starts_with(front) && name.ends_with(back)
    };
    let mut found: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).filter(fits).collect();
    found.sort();
    found
}

/// A line's words; comments begin with # or !.
fn words(line: &str) -> Vec<&str> {
    line.split(['#', '!']).next().unwrap_or_default().split_whitespace().map(|word| word.trim_matches('"')).collect()
}

fn parse(text: &str) -> Vec<Instance> {
    let mut found: Vec<Instance> = Vec::new();
    // The blocks that a line is in, outermost first, and the line that opens the next.
    let (mut blocks, mut opening) = (Vec::<String>::new(), String::new());
    for line in text.lines() {
        let words = words(line);
        for word in &words {
            match *word {
                "{" => blocks.push(std::mem::take(&mut opening)),
                "}" => drop(blocks.pop()),
                _ => {}
            }
        }
        let plain: Vec<&str> = words.iter().copied().filter(|word| !matches!(*word, "{" | "}")).collect();
        let Some(&first) = plain.first() else { continue };
        if first == "vrrp_instance" {
            found
                .push(Instance { name: plain.get(1).map_or_else(String::new, |n| (*n).into()), ..Instance::default() });
        }
        match words.contains(&"{") {
            // `NAME {` on one line: the block that was pushed is this one.
            true => {
                if let Some(block) = blocks.last_mut() {
                    *block = first.to_owned();
                }
                continue;
            }
            false => opening = first.to_owned(),
        }
        let Some(instance) = found.last_mut().filter(|_| blocks.first().is_some_and(|b| b == "vrrp_instance")) else {
            continue;
        };
        match blocks.last().map(String::as_str) {
            Some("vrrp_instance") => match plain[..] {
                ["nopreempt", ..] => instance.nopreempt = true,
                ["state", state, ..] => instance.starts_as_master = state == "MASTER",
                _ => {}
            },
            Some("virtual_ipaddress" | "virtual_ipaddress_excluded") => {
                instance.addresses.extend(first.split('/').next().unwrap_or_default().parse::<IpAddr>());
            }
            _ => {}
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instances_are_read() {
        let text = "
            global_defs {
                script_user root ! nopreempt {
            }
            vrrp_instance web {
                state BACKUP
                nopreempt   # stays
                virtual_ipaddress {
                    192.0.2.254/32 dev eth0
                    2001:db8::fe
                }
                track_interface {
                    eth0
                }
                virtual_ipaddress_excluded
                {
                    192.0.2.253
                }
            }
            vrrp_instance \"mail\"
            {
                state MASTER
                nopreempt
            }
            vrrp_instance empty {
            }
            virtual_server 192.0.2.254 80 {
                nopreempt
            }
        ";
        let found = parse(text);
        let names: Vec<(&str, bool, usize)> =
            found.iter().map(|i| (i.name.as_str(), i.preempts(), i.addresses.len())).collect();
        assert_eq!(names, [("web", false, 3), ("mail", true, 0), ("empty", true, 0)]);
        // Whatever it is, it does no harm.
        for garbage in ["", "}", "{", "} } {", "vrrp_instance", "vrrp_instance {", "vrrp_instance a {\n}\n}\n}\nstate"]
        {
            parse(garbage);
        }
    }

    #[test]
    fn included_files_are_read() {
        let dir = std::env::temp_dir().join(format!("lvs-dr-keepalived-{}", std::process::id()));
        fs::create_dir_all(dir.join("d")).unwrap();
        let main = dir.join("main.conf");
        fs::write(&main, "include d/*.conf\ninclude missing.conf\ninclude main.conf\n").unwrap();
        fs::write(dir.join("d/a.conf"), "vrrp_instance a {\nnopreempt\n}\n").unwrap();
        fs::write(dir.join("d/b.txt"), "vrrp_instance b {\n}\n").unwrap();
        let found = read(&main).unwrap();
        assert!(!found.is_empty() && found.iter().all(|instance| instance.name == "a" && instance.nopreempt));
        assert!(read(&dir.join("none")).is_err());
        fs::remove_dir_all(&dir).unwrap();
    }
}
