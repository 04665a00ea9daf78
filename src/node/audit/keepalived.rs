//! What keepalived.conf says, as far as an audit asks. Pure, but for the files that it includes
//! and the host's name.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A file, with those that it includes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct File {
    pub(super) path: PathBuf,
    pub(super) instances: Vec<Instance>,
    pub(super) checked: Vec<Checked>,
    pub(super) sync: Option<SyncLine>,
}

/// A `vrrp_instance`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Instance {
    pub(super) name: String,
    pub(super) nopreempt: bool,
    /// keepalived ignores `nopreempt` with `state MASTER`.
    pub(super) starts_as_master: bool,
    pub(super) addresses: Vec<IpAddr>,
    /// Of the protocol: 2 or 3.
    pub(super) version: u8,
    pub(super) has_authentication: bool,
    /// Whether a director accepts packets for the addresses.
    pub(super) accepts: bool,
    /// As it is written.
    pub(super) advert: Duration,
    router_id: u8,
    priority: u8,
    /// How many adverts a director misses before another one is elected.
    missed: u32,
}

impl Instance {
    pub(super) fn preempts(&self) -> bool {
        !self.nopreempt || self.starts_as_master
    }

    /// The time between two adverts. VRRPv2 has whole seconds, to which keepalived rounds.
    pub(super) fn interval(&self) -> Duration {
        match self.version {
            3 => self.advert,
            _ => Duration::from_secs((self.advert.as_secs_f64().round() as u64).max(1)),
        }
    }

    /// How long after a director's last advert this node is elected (RFC 3768 and RFC 5798,
    /// section 6.1: Master_Down_Interval).
    pub(super) fn takeover(&self) -> Duration {
        self.takeover_with(self.version, self.interval())
    }

    pub(super) fn takeover_with(&self, version: u8, interval: Duration) -> Duration {
        let skew = if version == 3 { interval } else { Duration::from_secs(1) };
        interval * self.missed + skew * (256 - u32::from(self.priority)) / 256
    }
}

/// A `virtual_server`: keepalived checks its servers and edits the table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Checked {
    /// As the file names it: `192.0.2.254 80`.
    pub(super) name: String,
    /// `None`: a firewall mark.
    pub(super) addresses: Vec<IpAddr>,
    pub(super) scheduler: String,
    /// Whether a server that is down is removed, and not given weight 0.
    pub(super) removes: bool,
}

/// `lvs_sync_daemon`, or `lvs_sync_daemon_interface` of an instance, as files for old versions
/// have it: keepalived takes it still.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SyncLine {
    pub(super) keyword: &'static str,
    pub(super) interface: String,
    pub(super) sync_id: u8,
}

const SYNC: &str = "lvs_sync_daemon";
const OLD_SYNC: &str = "lvs_sync_daemon_interface";

/// How deep files may include each other: as deep as keepalived's own limit is far from here.
const DEPTH: usize = 8;

/// Reads a file and what it includes.
pub(super) fn read(path: &Path) -> io::Result<File> {
    let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let mut reader = Reader { host: host.trim().to_owned(), ..Reader::default() };
    reader.read(path, DEPTH)?;
    Ok(File { path: path.to_owned(), ..parse(&reader.text) })
}

/// The text of a file without includes, variables and conditions.
#[derive(Debug, Default)]
struct Reader {
    /// The host's name, which is what a line with `@NAME` is for.
    host: String,
    variables: BTreeMap<String, String>,
    text: String,
}

impl Reader {
    fn read(&mut self, path: &Path, depth: usize) -> io::Result<()> {
        let text = fs::read_to_string(path)?;
        self.take(&text, path.parent().unwrap_or(Path::new("/")), depth);
        Ok(())
    }

    fn take(&mut self, text: &str, directory: &Path, depth: usize) {
        let mut lines = text.lines();
        while let Some(line) = lines.next() {
            let Some(line) = self.applies(line.trim_start()) else { continue };
            if let Some((name, value)) = definition(line) {
                // Goes on behind a backslash.
                let mut parts = vec![value];
                while let Some(before) = parts.last().and_then(|part| part.strip_suffix('\\')) {
                    *parts.last_mut().unwrap_or(&mut "") = before;
                    parts.extend(lines.next().map(str::trim));
                }
                let value = self.replace(&parts.join("\n"));
                self.variables.insert(name.to_owned(), value);
                continue;
            }
            let line = self.replace(line);
            let words = words(&line);
            match &words[..] {
                [first, pattern] if depth > 0 && first.starts_with("include") => {
                    for file in matching(&directory.join(pattern)) {
                        // One that is missing is keepalived's to complain of.
                        let _ = self.read(&file, depth - 1);
                    }
                }
                _ => self.text.extend([&line, "\n"]),
            }
        }
    }

    /// A line without its condition, if that holds: `@NAME` or `@^NAME`, all but this one.
    fn applies<'a>(&self, line: &'a str) -> Option<&'a str> {
        let Some(rest) = line.strip_prefix('@') else { return Some(line) };
        let (name, rest) = rest.split_once([' ', '\t'])?;
        let (name, wanted) = name.strip_prefix('^').map_or((name, true), |name| (name, false));
        let is_here = name == self.host || Some(name) == self.host.split('.').next();
        (is_here == wanted).then(|| rest.trim_start())
    }

    /// The line with the values of `$NAME` and `${NAME}` in their place.
    fn replace(&self, line: &str) -> String {
        let (mut replaced, mut rest) = (String::new(), line);
        while let Some(start) = rest.find('$') {
            let (before, behind) = (&rest[..start], &rest[start + 1..]);
            let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
            let (name, after) = match behind.strip_prefix('{').and_then(|inner| inner.split_once('}')) {
                Some(braced) => braced,
                None => behind.split_at(behind.find(|c| !is_name(c)).unwrap_or(behind.len())),
            };
            replaced += before;
            match self.variables.get(name) {
                Some(value) => replaced += value,
                None => replaced += &rest[start..rest.len() - after.len()],
            }
            rest = after;
        }
        replaced + rest
    }
}

/// `$NAME=VALUE`
fn definition(line: &str) -> Option<(&str, &str)> {
    let (name, value) = line.strip_prefix('$')?.split_once('=')?;
    let is_name = !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    is_name.then(|| (name, value.trim()))
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

/// A line's words, braces among them. Comments begin with # or !, and what is in quotes is one
/// word.
fn words(line: &str) -> Vec<String> {
    let (mut words, mut word, mut quoted) = (Vec::new(), None::<String>, false);
    for c in line.chars() {
        match c {
            '"' => {
                quoted = !quoted;
                word.get_or_insert_default();
            }
            _ if quoted => word.get_or_insert_default().push(c),
            '#' | '!' => break,
            '{' | '}' => {
                words.extend(word.take());
                words.push(c.to_string());
            }
            _ if c.is_whitespace() => words.extend(word.take()),
            _ => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    words
}

/// A line, and the lines of the block that it opens.
#[derive(Debug, Default)]
struct Line {
    words: Vec<String>,
    block: Vec<Line>,
}

impl Line {
    fn keyword(&self) -> &str {
        self.word(0)
    }

    fn word(&self, index: usize) -> &str {
        self.words.get(index).map_or("", String::as_str)
    }

    fn find(&self, keyword: &str) -> Option<&Line> {
        self.block.iter().find(|line| line.keyword() == keyword)
    }

    fn has(&self, keyword: &str) -> bool {
        self.find(keyword).is_some()
    }

    /// The value of a keyword of the block.
    fn value<T: std::str::FromStr>(&self, keyword: &str) -> Option<T> {
        self.find(keyword)?.word(1).parse().ok()
    }
}

fn lines(text: &str) -> Vec<Line> {
    // The blocks that are open, outermost first.
    let mut open: Vec<Vec<Line>> = vec![Vec::new()];
    for line in text.lines() {
        let mut words = words(line).into_iter().peekable();
        while let Some(word) = words.next() {
            match word.as_str() {
                "{" => open.push(Vec::new()),
                "}" if open.len() > 1 => close(&mut open),
                "}" => {}
                _ => {
                    let mut line = Line { words: vec![word], block: Vec::new() };
                    while let Some(word) = words.next_if(|word| !matches!(word.as_str(), "{" | "}")) {
                        line.words.push(word);
                    }
                    open.last_mut().into_iter().for_each(|block| block.push(std::mem::take(&mut line)));
                }
            }
        }
    }
    while open.len() > 1 {
        close(&mut open);
    }
    open.pop().unwrap_or_default()
}

/// The innermost block belongs to the line before it.
fn close(open: &mut Vec<Vec<Line>>) {
    let block = open.pop().unwrap_or_default();
    if let Some(opening) = open.last_mut().and_then(|outer| outer.last_mut()) {
        opening.block.extend(block);
    }
}

fn parse(text: &str) -> File {
    let lines = lines(text);
    let global = |keyword: &str| {
        let blocks = lines.iter().filter(|line| line.keyword() == "global_defs");
        blocks.filter_map(|block| block.find(keyword)).next_back()
    };
    let number = |keyword: &str| global(keyword).and_then(|line| line.word(1).parse().ok());
    let is_strict = global("vrrp_strict").is_some();
    let (version, missed) = (number("vrrp_version").unwrap_or(2), number("vrrp_down_timer_adverts").unwrap_or(3));
    let named = |keyword: &'static str| lines.iter().filter(move |line| line.keyword() == keyword);
    let instances: Vec<Instance> =
        named("vrrp_instance").map(|line| instance(line, version as u8, missed, is_strict)).collect();
    let sync = global(SYNC).map(|line| {
        // Without a number, which older versions take without `id`, it is that of the instance.
        let of_instance = || instances.iter().find(|instance| instance.name == line.word(2)).map(|i| i.router_id);
        let id = line.words.iter().position(|word| word == "id").map_or(3, |place| place + 1);
        SyncLine {
            keyword: SYNC,
            interface: line.word(1).to_owned(),
            sync_id: line.word(id).parse().ok().or_else(of_instance).unwrap_or_default(),
        }
    });
    // keepalived 2.2.7 gives it the number 0.
    let of_old = named("vrrp_instance").find_map(|line| line.find(OLD_SYNC)).map(|line| SyncLine {
        keyword: OLD_SYNC,
        interface: line.word(1).to_owned(),
        sync_id: 0,
    });
    let groups: BTreeMap<&str, &Line> = named("virtual_server_group").map(|line| (line.word(1), line)).collect();
    let checked = named("virtual_server").map(|line| checked(line, &groups)).collect();
    File { path: PathBuf::new(), sync: sync.or(of_old), instances, checked }
}

fn instance(line: &Line, version: u8, missed: u32, is_strict: bool) -> Instance {
    let blocks = ["virtual_ipaddress", "virtual_ipaddress_excluded"];
    let addresses = line.block.iter().filter(|line| blocks.contains(&line.keyword())).flat_map(|line| &line.block);
    let addresses: Vec<IpAddr> = addresses.filter_map(address).collect();
    // VRRPv2 has no IPv6.
    let is_ipv6 = line.has("native_ipv6") || addresses.first().is_some_and(IpAddr::is_ipv6);
    let priority = line.value("priority").unwrap_or(100);
    let is_strict = match line.find("strict_mode").map(|line| line.word(1)) {
        Some(word) => !matches!(word, "off" | "false" | "no"),
        None => is_strict,
    };
    let version = if is_ipv6 { 3 } else { line.value("version").unwrap_or(version) };
    let accepts = match priority {
        // The owner of the addresses.
        255 => true,
        // keepalived takes back an `accept` in strict VRRPv2.
        _ if is_strict => line.has("accept") && version == 3,
        _ => !line.has("no_accept"),
    };
    let advert: f64 = line.value("advert_int").unwrap_or(1.0);
    Instance {
        name: line.word(1).to_owned(),
        nopreempt: line.has("nopreempt"),
        starts_as_master: line.find("state").is_some_and(|line| line.word(1) == "MASTER"),
        addresses,
        version,
        has_authentication: line.find("authentication").is_some_and(|line| line.has("auth_type")),
        advert: Duration::try_from_secs_f64(advert).unwrap_or(Duration::from_secs(1)),
        router_id: line.value("virtual_router_id").unwrap_or_default(),
        priority,
        accepts,
        missed: line.value("down_timer_adverts").unwrap_or(missed),
    }
}

/// `192.0.2.254/32 dev eth0`
fn address(line: &Line) -> Option<IpAddr> {
    line.keyword().split('/').next()?.parse().ok()
}

fn checked(line: &Line, groups: &BTreeMap<&str, &Line>) -> Checked {
    let addresses = match line.word(1) {
        "group" => groups.get(line.word(2)).map_or_else(Vec::new, |group| {
            // A range such as 192.0.2.1-9 has its first.
            let first = |line: &Line| line.keyword().split('-').next()?.parse().ok();
            group.block.iter().filter_map(first).collect()
        }),
        word => word.parse().into_iter().collect(),
    };
    let inhibits = |line: &Line| line.has("inhibit_on_failure");
    Checked {
        name: line.words[1..].join(" "),
        addresses,
        scheduler: line.value("lvs_sched").or_else(|| line.value("lb_algo")).unwrap_or_default(),
        removes: !inhibits(line) && line.block.iter().any(|line| line.keyword() == "real_server" && !inhibits(line)),
    }
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
            vrrp_instance \"my mail\"
            {
                state MASTER
                nopreempt
                virtual_ipaddress { 192.0.2.252 }
            }
            vrrp_instance empty{
            }
            virtual_server 192.0.2.254 80 {
                nopreempt
            }
        ";
        let found = parse(text).instances;
        let names: Vec<(&str, bool, usize)> =
            found.iter().map(|i| (i.name.as_str(), i.preempts(), i.addresses.len())).collect();
        assert_eq!(names, [("web", false, 3), ("my mail", true, 1), ("empty", true, 0)]);
        // Whatever it is, it does no harm.
        for garbage in [
            "",
            "}",
            "{",
            "} } {",
            "vrrp_instance",
            "vrrp_instance {",
            "vrrp_instance a {\n}\n}\n}\nstate",
            "\"",
            "{ }",
        ] {
            parse(garbage);
        }
        parse("virtual_server\nvirtual_server group\nglobal_defs { lvs_sync_daemon }\nvrrp_instance { advert_int -1 }");
    }

    /// keepalived 2.2.7 itself says these, of the same files (`Master down timer`).
    #[test]
    fn how_long_an_election_takes() {
        let takes = |global: &str, rest: &str| {
            let file = parse(&format!("global_defs {{\n{global}\n}}\nvrrp_instance web {{\n{rest}\n}}\n"));
            (file.instances[0].takeover().as_secs_f64() * 1e6).round()
        };
        assert_eq!(takes("", ""), 3_609_375.0);
        assert_eq!(takes("", "advert_int 0.3"), 3_609_375.0);
        assert_eq!(takes("vrrp_version 3", "advert_int 0.3\npriority 100"), 1_082_813.0);
        assert_eq!(takes("vrrp_version 3", "advert_int 2"), 7_218_750.0);
        assert_eq!(takes("vrrp_version 3", "version 2\nadvert_int 0.3"), 3_609_375.0);
        assert_eq!(takes("vrrp_version 3", "advert_int 0.3\npriority 255"), 901_172.0);
        assert_eq!(takes("", "advert_int 0.3\nvirtual_ipaddress { 2001:db8::1 }"), 1_082_813.0);
        assert_eq!(takes("vrrp_down_timer_adverts 2", ""), 2_609_375.0);
    }

    /// As in acassen/keepalived's issues 98 and 380.
    #[test]
    fn the_sync_daemon_of_old_files_is_read() {
        let text = "vrrp_instance LB1 {\n state BACKUP\n interface eth0\n lvs_sync_daemon_interface eth1\n virtual_router_id 50\n nopreempt\n\
                    virtual_ipaddress {\n 192.0.2.10/24\n}\n}\n";
        let expected = SyncLine { keyword: OLD_SYNC, interface: "eth1".into(), sync_id: 0 };
        assert_eq!(parse(text).sync, Some(expected));
        let both = format!("global_defs {{\nlvs_sync_daemon eth0 LB1 id 7\n}}\n{text}");
        assert_eq!(parse(&both).sync.map(|line| (line.keyword, line.sync_id)), Some((SYNC, 7)));
    }

    #[test]
    fn checks_and_the_sync_daemon_are_read() {
        let service = "real_server 10.0.0.1 80 {\n inhibit_on_failure\n}\nreal_server 10.0.0.2 80 {\n}\n";
        let text = format!(
            "virtual_server_group g {{\n 192.0.2.1-3 80\n 192.0.2.9 80\n fwmark 3\n}}\nvirtual_server group g {{\n lvs_sched mh\n}}\n\
             virtual_server 192.0.2.254 80 {{\n lb_algo wrr\n {service}}}\nvirtual_server fwmark 3 {{\n inhibit_on_failure\n \
             {service}}}\n"
        );
        let found = parse(&text).checked;
        let short: Vec<_> =
            found.iter().map(|c| (c.name.as_str(), c.addresses.len(), c.scheduler.as_str(), c.removes)).collect();
        assert_eq!(
            short,
            [("group g", 2, "mh", false), ("192.0.2.254 80", 1, "wrr", true), ("fwmark 3", 0, "", false)]
        );
        for (line, id) in [("", 51), ("id 7 maxlen 1400", 7), ("7", 7)] {
            let text = format!(
                "vrrp_instance web {{\nvirtual_router_id 51\n}}\nglobal_defs {{\nlvs_sync_daemon eth0 web {line}\n}}\n"
            );
            let expected = SyncLine { keyword: SYNC, interface: "eth0".into(), sync_id: id };
            assert_eq!(parse(&text).sync, Some(expected), "{line}");
        }
    }

    #[test]
    fn a_director_takes_packets_for_the_vip() {
        let accepts = |global: &str, instance: &str| {
            let text = format!("global_defs {{\n{global}\n}}\nvrrp_instance web {{\n{instance}\n}}\n");
            parse(&text).instances[0].accepts
        };
        for (global, instance, expected) in [
            ("", "", true),
            ("", "no_accept", false),
            ("", "strict_mode on", false),
            ("", "strict_mode on\naccept\nversion 3", true),
            ("vrrp_strict", "", false),
            ("vrrp_strict", "accept", false),
            ("vrrp_strict\nvrrp_version 3", "accept", true),
            ("vrrp_strict", "priority 255", true),
            ("vrrp_strict", "strict_mode off", true),
            ("#vrrp_strict", "", true),
        ] {
            assert_eq!(accepts(global, instance), expected, "{global} {instance}");
        }
    }

    #[test]
    fn variables_conditions_and_included_files_are_read() {
        let dir = std::env::temp_dir().join(format!("lvs-dr-keepalived-{}", std::process::id()));
        fs::create_dir_all(dir.join("d")).unwrap();
        let main = dir.join("main.conf");
        fs::write(
            &main,
            "$DIR=d\n$NAME=a\n$BLOCK=\\\n virtual_ipaddress {\\\n  192.0.2.1/32\\\n }\n\
             include ${DIR}/*.conf\ninclude missing.conf\ninclude main.conf\n",
        )
        .unwrap();
        fs::write(dir.join("d/a.conf"), "vrrp_instance $NAME {\nnopreempt\n$BLOCK\nstate $UNKNOWN\n}\n").unwrap();
        fs::write(dir.join("d/b.txt"), "vrrp_instance b {\n}\n").unwrap();
        let found = read(&main).unwrap().instances;
        let right = |i: &Instance| i.name == "a" && i.nopreempt && i.addresses.len() == 1;
        assert!(!found.is_empty() && found.iter().all(right), "{found:?}");
        assert!(read(&dir.join("none")).is_err());
        fs::remove_dir_all(&dir).unwrap();

        let mut reader = Reader { host: "n1.example".into(), ..Reader::default() };
        reader.take("@n1 priority 103\n@n2 priority 102\n@^n2 nopreempt\n@\n", Path::new("/"), 0);
        assert_eq!(reader.text, "priority 103\nnopreempt\n");
    }
}
