//! The unit of examples/systemd under a real systemd: the first process of a PID namespace in the
//! guest.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::cli::lvs_node;
use crate::lab::{enter_new_netns, ip, ipvsadm, run, try_run};

const VIP: &str = "192.0.2.254";

/// Its mounts, its /run and its processes are its own; the network is the test's.
struct Systemd {
    outer: Child,
}

impl Systemd {
    fn start() -> Self {
        let script = "mount -t tmpfs -o mode=755 run /run && mkdir -p /sys/fs/cgroup && mount -t cgroup2 cgroup /sys/fs/cgroup && \
                      exec env -i PATH=\"$PATH\" container=lab /lib/systemd/systemd --system --unit=lab.target \
                      --log-target=console --log-level=notice --default-standard-output=kmsg";
        fs::create_dir_all("/etc/systemd/system").unwrap();
        fs::write("/etc/systemd/system/lab.target", "[Unit]\nDescription=Lab\n").unwrap();
        // It empties /tmp, where the tests may lie.
        let masked = Path::new("/etc/systemd/system/systemd-tmpfiles-setup.service");
        if fs::symlink_metadata(masked).is_err() {
            std::os::unix::fs::symlink("/dev/null", masked).unwrap();
        }
        let log = fs::File::create("/tmp/systemd.log").unwrap();
        let outer = Command::new("unshare")
            .args(["--pid", "--mount", "--cgroup", "--fork", "--mount-proc", "bash", "-c", script])
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let systemd = Systemd { outer };
        systemd.until("systemd runs", || said(&systemd.ctl("is-system-running")) == "running\n");
        systemd
    }

    /// The number of its first process outside.
    fn first(&self) -> String {
        said(&try_run(&format!("pgrep -P {}", self.outer.id()))).trim().to_owned()
    }

    fn enter(&self, command: &str) -> Output {
        try_run(&format!("nsenter -t {} -p -m {command}", self.first()))
    }

    fn ctl(&self, command: &str) -> Output {
        self.enter(&format!("systemctl {command}"))
    }

    fn show(&self, property: &str) -> String {
        self.show_of("lvs-node", property)
    }

    fn show_of(&self, unit: &str, property: &str) -> String {
        said(&self.ctl(&format!("show --value -p {property} {unit}"))).trim().to_owned()
    }

    /// A file of its /run.
    fn file(&self, name: &str) -> String {
        format!("/proc/{}/root/run/{name}", self.first())
    }

    fn until(&self, what: &str, mut condition: impl FnMut() -> bool) {
        let start = Instant::now();
        while !condition() {
            let log = || fs::read_to_string("/tmp/systemd.log").unwrap_or_default() + &said(&try_run("dmesg"));
            assert!(start.elapsed() < Duration::from_secs(30), "waited in vain: {what}\n{}", log());
            thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Drop for Systemd {
    fn drop(&mut self) {
        let _ = try_run(&format!("kill -9 {}", self.first()));
        let _ = self.outer.wait();
        let _ = fs::remove_file("/etc/systemd/system/lvs-node.service");
        let _ = fs::remove_file("/etc/systemd/system/keepalived.service");
        let _ = fs::remove_dir_all("/etc/systemd/system/keepalived.service.d");
        let _ = fs::remove_dir_all("/etc/systemd/system/lvs-node.service.d");
    }
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn vips(interface: &str) -> String {
    ip(&format!("-o -4 addr show to {VIP} dev {interface}"))
}

/// Enters a namespace with this address on eth0.
fn enter_server(address: &str) {
    enter_new_netns();
    ip("link add eth0 type veth peer name eth1");
    ip("link set eth1 up");
    ip("link set eth0 up");
    ip(&format!("addr add {address}/24 dev eth0"));
}

fn install_program() {
    fs::create_dir_all("/usr/local/bin").unwrap();
    fs::copy(lvs_node(), "/usr/local/bin/lvs-node").unwrap();
    fs::create_dir_all("/etc/lvs-dr").unwrap();
}

#[test]
fn the_unit_follows_keepalived_within_its_confinement() {
    enter_server("192.0.2.11");
    install_program();
    fs::write("/etc/lvs-dr/web.ipvs", format!("-A -t {VIP}:80 -s wrr\n-a -t {VIP}:80 -r 192.0.2.11:80 -g -w 1\n"))
        .unwrap();
    let config = format!(
        "interface = \"eth0\"\nvips = [\"{VIP}\"]\nservices = \"web.ipvs\"\n[handover]\nfile = \"/run/lvs-dr.handover\"\n\
         [watch]\nfifo = \"/run/lvs-dr.fifo\"\nmetrics = \"/run/lvs-dr.prom\"\n"
    );
    fs::write("/etc/lvs-dr/node.toml", config).unwrap();
    let unit = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/systemd/lvs-node.service");
    fs::create_dir_all("/etc/systemd/system").unwrap();
    fs::copy(unit, "/etc/systemd/system/lvs-node.service").unwrap();
    let verified = try_run("systemd-analyze verify /etc/systemd/system/lvs-node.service");
    assert!(verified.status.success() && verified.stderr.is_empty(), "{verified:?}");

    let systemd = Systemd::start();
    // It returns once the watch has said that it is ready.
    let started = systemd.ctl("start lvs-node");
    assert!(started.status.success(), "{started:?}\n{}", fs::read_to_string("/tmp/systemd.log").unwrap());
    assert_eq!((systemd.show("ActiveState"), systemd.show("SubState")), ("active".into(), "running".into()));
    let main = systemd.show("MainPID");
    let status = said(&systemd.enter(&format!("cat /proc/{main}/status")));
    for line in ["CapBnd:\t0000000000003000", "CapEff:\t0000000000003000", "NoNewPrivs:\t1", "Seccomp:\t2"] {
        assert!(status.contains(line), "{line} is not in {status}");
    }

    // keepalived makes it, and waits for a reader as this does.
    assert!(systemd.enter("mkfifo -m 600 /run/lvs-dr.fifo").status.success());
    let tell = |state: &str| fs::write(systemd.file("lvs-dr.fifo"), format!("INSTANCE \"web\" {state} 100\n")).unwrap();
    tell("MASTER");
    systemd.until("the VIP is on the interface", || vips("eth0").contains("scope global"));
    systemd
        .until("the table is loaded", || ipvsadm("-Sn").contains(&format!("-a -t {VIP}:80 -r 192.0.2.11:80 -g -w 1")));
    systemd.until("metrics are written", || {
        fs::read_to_string(systemd.file("lvs-dr.prom")).is_ok_and(|text| text.contains("lvs_node_role"))
    });
    assert_eq!(run("cat /proc/sys/net/ipv4/conf/eth0/arp_ignore"), "1\n");

    // A changed file, a wrong one, and the old one again.
    let table = fs::read_to_string("/etc/lvs-dr/web.ipvs").unwrap();
    let write = |text: &str| fs::write("/etc/lvs-dr/web.ipvs", text).unwrap();
    write(&table.replace("-w 1", "-w 7"));
    let reloaded = systemd.ctl("reload lvs-node");
    assert!(reloaded.status.success() && ipvsadm("-Sn").contains("-w 7"), "{reloaded:?} {}", ipvsadm("-Sn"));
    write(&table.replace("wrr", "nosuch"));
    assert!(!systemd.ctl("reload lvs-node").status.success());
    write(&table);
    assert!(systemd.ctl("reload lvs-node").status.success() && ipvsadm("-Sn").contains("-w 1"));
    assert_eq!((systemd.show("MainPID"), vips("eth0").contains("scope global")), (main.clone(), true));

    // What others remove comes back, also after the watch was killed.
    assert!(systemd.enter(&format!("kill -9 {main}")).status.success());
    systemd.until("it is restarted", || {
        systemd.show("ActiveState") == "active" && !["0".to_owned(), main.clone()].contains(&systemd.show("MainPID"))
    });
    ip(&format!("addr del {VIP}/32 dev eth0"));
    systemd.until("the VIP is back", || vips("eth0").contains("scope global"));
    tell("BACKUP");
    systemd.until("the VIP has left the interface", || vips("eth0").is_empty());
    assert!(vips("lo").contains("scope host"), "{}", vips("lo"));

    assert!(systemd.ctl("stop lvs-node").status.success());
    assert_eq!((systemd.show("ActiveState"), systemd.show("Result")), ("inactive".into(), "success".into()));
    // The node serves on.
    assert!(vips("lo").contains("scope host"), "{}", vips("lo"));
}

/// Without the drop-in the watch cannot use bpf(2), and must not be killed for trying; with it, it
/// attaches the classifier.
#[test]
fn the_unit_attaches_a_classifier_with_its_drop_in() {
    enter_server("192.0.2.11");
    ip("neigh add 192.0.2.12 lladdr 02:00:00:00:00:02 dev eth0 nud permanent");
    install_program();
    let config = format!(
        "interface = \"eth0\"\nvips = [\"{VIP}\"]\nvip_owner = \"routes\"\n[[service]]\nlisten = \"tcp {VIP}:80\"\nscheduler = \"mh\"\n\
         flags = [\"mh-port\", \"mh-fallback\"]\ndestinations = [ {{ address = \"192.0.2.11:80\" }}, {{ address = \"192.0.2.12:80\" }} ]\n[watch]\nmetrics = \"/run/lvs-dr.prom\"\n"
    );
    fs::write("/etc/lvs-dr/node.toml", config).unwrap();
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/systemd");
    fs::create_dir_all("/etc/systemd/system/lvs-node.service.d").unwrap();
    fs::copy(format!("{root}/lvs-node.service"), "/etc/systemd/system/lvs-node.service").unwrap();

    let systemd = Systemd::start();
    let is_attached = || run("tc filter show dev eth0 ingress").contains("pref 308 bpf");
    assert!(systemd.enter("/usr/local/bin/lvs-node withdraw").status.success());
    assert!(is_attached());
    assert!(systemd.ctl("start lvs-node").status.success());
    let main = systemd.show("MainPID");
    systemd.until("the watch removes what it cannot keep", || !is_attached());
    assert_eq!(systemd.show("MainPID"), main);

    fs::copy(format!("{root}/lvs-node.service.d/routes.conf"), "/etc/systemd/system/lvs-node.service.d/routes.conf")
        .unwrap();
    let verified = try_run("systemd-analyze verify /etc/systemd/system/lvs-node.service");
    assert!(verified.status.success() && verified.stderr.is_empty(), "{verified:?}");
    assert!(systemd.ctl("daemon-reload").status.success());
    assert!(systemd.ctl("restart lvs-node").status.success());
    systemd.until("the watch attaches the classifier", is_attached);
    let main = systemd.show("MainPID");
    thread::sleep(Duration::from_millis(1500));
    assert!(is_attached() && systemd.show("MainPID") == main);
    let shown = said(&systemd.enter("/usr/local/bin/lvs-node status"));
    assert!(shown.contains("marked   1 TCP service on eth0, packets: 0 of sockets here"), "{shown}");
    let objects = crate::schema::objects(&said(&systemd.enter("/usr/local/bin/lvs-node status --json")));
    assert_eq!(objects[0]["groups"][0]["classifiers"][0]["services"][0], format!("{VIP}:80"));
    let metrics = || fs::read_to_string(systemd.file("lvs-dr.prom")).unwrap_or_default();
    let of_strays = "lvs_node_classifier_packets_total{interface=\"eth0\",kind=\"strays\"} 0";
    systemd.until("metrics are written", || metrics().contains(of_strays));
}

#[test]
fn the_drop_in_starts_keepalived_again_after_a_crash() {
    enter_server("192.0.2.11");
    install_program();
    let config = format!(
        "interface = \"eth0\"\nvips = [\"{VIP}\"]\nvip_owner = \"keepalived\"\n[handover]\nfile = \"/run/lvs-dr.handover\"\n"
    );
    fs::write("/etc/lvs-dr/node.toml", config).unwrap();
    let conf = format!(
        "global_defs {{\n vrrp_version 3\n}}\nvrrp_instance web {{\n state BACKUP\n nopreempt\n interface eth0\n virtual_router_id 51\n \
         priority 100\n advert_int 0.2\n virtual_ipaddress {{\n {VIP}/32 dev eth0\n }}\n}}\n"
    );
    fs::write("/etc/lvs-dr/keepalived.conf", conf).unwrap();
    let program = run("which keepalived");
    fs::create_dir_all("/etc/systemd/system/keepalived.service.d").unwrap();
    // As Debian's, without its other units.
    let unit = format!(
        "[Unit]\nDescription=keepalived\n[Service]\nType=simple\nKillMode=process\nExecStart={} --dont-fork --vrrp --use-file \
         /etc/lvs-dr/keepalived.conf --pid /run/ka.pid --vrrp_pid /run/ka-vrrp.pid\n",
        program.trim()
    );
    fs::write("/etc/systemd/system/keepalived.service", unit).unwrap();
    let drop_in = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/systemd/keepalived.service.d/lvs-node.conf");
    fs::copy(drop_in, "/etc/systemd/system/keepalived.service.d/lvs-node.conf").unwrap();
    let verified = try_run("systemd-analyze verify /etc/systemd/system/keepalived.service");
    assert!(verified.status.success() && verified.stderr.is_empty(), "{verified:?}");

    let systemd = Systemd::start();
    let started = systemd.ctl("start keepalived");
    assert!(started.status.success(), "{started:?}");
    systemd.until("the node directs", || vips("eth0").contains(VIP));
    let main = systemd.show_of("keepalived", "MainPID");
    let child = fs::read_to_string(systemd.file("ka-vrrp.pid")).unwrap();
    // Its child would give up the VIP.
    assert!(systemd.enter(&format!("kill -STOP {main}")).status.success());
    assert!(systemd.enter(&format!("kill -KILL {} {main}", child.trim())).status.success());
    systemd.until("it is started again", || {
        let now = systemd.show_of("keepalived", "MainPID");
        systemd.show_of("keepalived", "ActiveState") == "active" && ![String::from("0"), main.clone()].contains(&now)
    });
    systemd.until("the node directs again", || vips("eth0").contains(VIP));
    // Stopped by hand, it stays so.
    assert!(systemd.ctl("stop keepalived").status.success());
    assert_eq!(systemd.show_of("keepalived", "ActiveState"), "inactive");
    systemd.until("the VIP is given up", || !vips("eth0").contains(VIP));
}

/// The commands of a section of README.md, in order; of a block with a prompt, those behind it.
fn commands(section: &str) -> Vec<String> {
    let readme = include_str!("../../README.md");
    let section = &readme[readme.find(section).unwrap()..];
    let section = section.split("\n## ").next().unwrap();
    let blocks = section.split("```console\n").skip(1).map(|block| block.split("```").next().unwrap());
    let of_block = |block: &str| -> Vec<String> {
        let lines = block.lines().map(str::trim);
        let prompted = block.contains("$ lvs-node");
        let lines = lines.filter_map(|line| if prompted { line.strip_prefix("$ ") } else { Some(line) });
        lines.map(|line| line.split(" #").next().unwrap().trim().to_owned()).collect()
    };
    blocks.flat_map(of_block).collect()
}

/// On one node, with Debian's unit of keepalived and all files as they ship. Not run are the
/// build, and what goes to other nodes by ssh.
#[test]
fn the_five_minutes_of_the_readme() {
    enter_server("192.168.0.11");
    let systemd = Systemd::start();
    let root = env!("CARGO_MANIFEST_DIR");
    let program = lvs_node();
    let (mut ran, mut directs) = (0, false);
    for line in commands("## Three real servers in five minutes") {
        if line.starts_with("cargo ") || line.starts_with("for ") {
            continue;
        }
        let command = line.replace("built/bin/lvs-node", program.to_str().unwrap());
        let command = command.replace(" examples/", &format!(" {root}/examples/"));
        let mut output = systemd.enter(&command);
        if command == "lvs-node status" {
            let start = Instant::now();
            let in_place = |shown: &str| !shown.contains("missing ") && !shown.contains("not reached");
            while !said(&output).contains("role     master") || !in_place(&said(&output)) {
                assert!(start.elapsed() < Duration::from_secs(30), "it does not direct: {output:?}");
                thread::sleep(Duration::from_millis(200));
                output = systemd.enter(&command);
            }
            let shown = said(&output);
            for words in ["VIP      192.168.0.254 on eth0 (scope global) and lo (scope host)", "table    1 service"] {
                assert!(shown.contains(words), "{shown}");
            }
            directs = true;
        }
        // No web server listens, and the other nodes are not there: an audit and the status say
        // so.
        let codes: &[i32] = if ["lvs-node audit", "lvs-node status"].contains(&&*command) { &[0, 1] } else { &[0] };
        let code = output.status.code().unwrap();
        assert!(codes.contains(&code), "{command}: {output:?}\n{}", fs::read_to_string("/tmp/systemd.log").unwrap());
        ran += 1;
    }
    assert!(directs && ran >= 18, "{ran}");
    // The upgrade has restarted the watch, and nothing else has changed.
    let vip = ip("-o -4 addr show to 192.168.0.254 dev eth0");
    assert!(vip.contains("scope global") && ipvsadm("-Sn").contains("-r 192.168.0.13:80 -g -w 0"), "{vip}");
}
