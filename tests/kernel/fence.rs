//! Fences, judged by ipvsadm and /proc: what a backup's table, daemons and sysctls are, and what becomes of them.

use std::time::Duration;

use lvs_dr::Error;
use lvs_dr::node::{Config, Fence, Node, Role, Step, VipOwner};

use crate::lab::{ip, ipvsadm};
use crate::node::{enter_node_netns, exit_code, kill, lend, new_path};

pub(crate) const TABLE: &str = "\
-A -t 192.0.2.254:80 -s wrr
-a -t 192.0.2.254:80 -r 192.0.2.11:80 -g -w 3
-a -t 192.0.2.254:80 -r 192.0.2.12:80 -g -w 4
-a -t 192.0.2.254:80 -r 192.0.2.13:80 -g -w 5
-A -t [2001:db8::fe]:80 -s rr
-a -t [2001:db8::fe]:80 -r [2001:db8::11]:80 -g -w 1
-a -t [2001:db8::fe]:80 -r [2001:db8::12]:80 -g -w 1
";

pub(crate) const HASHED: &str = "\
-A -t 192.0.2.254:80 -s mh -b mh-fallback,mh-port
-a -t 192.0.2.254:80 -r 192.0.2.11:80 -g -w 3
-a -t 192.0.2.254:80 -r 192.0.2.12:80 -g -w 4
";

fn config(fence: Fence, services: Option<&str>) -> Config {
    Config {
        fence,
        services: services.map(|text| text.parse().unwrap()),
        state_dir: new_path(),
        settle: Duration::from_millis(50),
        drain: Duration::from_millis(100),
        ..Config::new("bond0", ["192.0.2.254".parse().unwrap(), "2001:db8::fe".parse().unwrap()])
    }
}

fn enter(fence: Fence, services: Option<&str>) -> (Node, Config) {
    enter_node_netns();
    ip("address add 2001:db8::11/64 dev bond0 nodad");
    let config = config(fence, services);
    (Node::open(config.clone()).unwrap(), config)
}

fn sysctl(name: &str) -> String {
    std::fs::read_to_string(format!("/proc/sys/net/ipv4/vs/{name}")).unwrap().trim_end().replace('\t', " ")
}

/// The roles of the daemons that run.
pub(crate) fn daemons() -> Vec<String> {
    let shown = ipvsadm("-Ln --daemon");
    shown.lines().map(|line| line.split(' ').next().unwrap().to_owned()).collect()
}

/// The table as ipvsadm saves it, in the order of ours.
fn saved() -> String {
    ipvsadm("-Sn").parse::<lvs_dr::ipvs::Table>().unwrap().to_string()
}

pub(crate) fn quiesced() -> String {
    TABLE
        .replace("-w 4", "-w 0")
        .replace("-w 5", "-w 0")
        .replace("[2001:db8::12]:80 -g -w 1", "[2001:db8::12]:80 -g -w 0")
}

#[test]
fn a_quiesced_backup_schedules_to_itself_only() {
    let (mut node, _) = enter(Fence::Quiesce, Some(TABLE));
    let before = sysctl("sync_threshold");
    for role in [Role::Backup, Role::Fault, Role::Stop] {
        node.become_role(role).unwrap();
        assert_eq!((saved(), daemons()), (quiesced(), vec!["backup".to_owned()]));
    }
    assert_eq!(
        (sysctl("sync_threshold"), sysctl("sync_refresh_period"), sysctl("sync_retries")),
        ("2 0".into(), "30".into(), "1".into())
    );
    assert!(ipvsadm("-Ln --daemon").contains("mcast=bond0, syncid=254,"));
    node.become_role(Role::Master).unwrap();
    // It goes on listening: the old director may have something to say yet.
    assert_eq!((saved(), daemons()), (TABLE.to_owned(), vec!["master".to_owned(), "backup".to_owned()]));
    assert!(node.plan(Role::Master).unwrap().is_empty());
    node.become_role(Role::Backup).unwrap();
    assert_eq!((saved(), daemons()), (quiesced(), vec!["backup".to_owned()]));
    node.release(|_| ()).unwrap();
    assert_eq!((saved(), daemons(), sysctl("sync_threshold")), (String::new(), vec![], before));
}

#[test]
fn a_table_found_running_is_quiesced_and_put_back() {
    enter_node_netns();
    ip("address add 2001:db8::11/64 dev bond0 nodad");
    TABLE.lines().for_each(|line| drop(ipvsadm(line)));
    let mut node = Node::open(config(Fence::Quiesce, None)).unwrap();
    node.become_role(Role::Backup).unwrap();
    assert_eq!(saved(), quiesced());
    // keepalived's checkers edit the table as if it were live: one server fails, one comes back with another weight, one is new.
    ipvsadm("-d -t 192.0.2.254:80 -r 192.0.2.12:80");
    ipvsadm("-e -t 192.0.2.254:80 -r 192.0.2.13:80 -g -w 9");
    ipvsadm("-a -t 192.0.2.254:80 -r 192.0.2.14:80 -g -w 2");
    node.become_role(Role::Backup).unwrap();
    let shown = saved();
    assert!(
        shown.contains("192.0.2.13:80 -g -w 0")
            && shown.contains("192.0.2.14:80 -g -w 0")
            && !shown.contains("192.0.2.12:80"),
        "{shown}"
    );
    node.become_role(Role::Master).unwrap();
    let wanted = TABLE
        .replace("-a -t 192.0.2.254:80 -r 192.0.2.12:80 -g -w 4\n", "")
        .replace("-w 5\n", "-w 9\n-a -t 192.0.2.254:80 -r 192.0.2.14:80 -g -w 2\n");
    assert_eq!(saved(), wanted);
    node.become_role(Role::Backup).unwrap();
    node.release(|_| ()).unwrap();
    assert_eq!((saved(), daemons()), (wanted, vec![]));
}

#[test]
fn a_stateless_node_has_its_table_in_every_role() {
    let (mut node, _) = enter(Fence::Stateless, Some(HASHED));
    for role in Role::ALL {
        node.become_role(role).unwrap();
        assert_eq!((saved(), daemons(), sysctl("sloppy_tcp")), (HASHED.to_owned(), vec![], "1".into()), "{role}");
    }
    node.release(|_| ()).unwrap();
    assert_eq!(sysctl("sloppy_tcp"), "0");
    let refused = Node::open(config(Fence::Stateless, Some(TABLE))).unwrap_err();
    assert!(
        matches!(refused, Error::Invalid { .. }) && refused.to_string().contains("mh-port and mh-fallback"),
        "{refused}"
    );
}

#[test]
fn the_kernels_switch_fences_where_the_node_moves_the_vip() {
    let (mut node, config) = enter(Fence::BackupOnly, Some(TABLE));
    for (role, daemon) in [(Role::Backup, "backup"), (Role::Master, "master"), (Role::Fault, "backup")] {
        node.become_role(role).unwrap();
        assert_eq!(
            (saved(), daemons(), sysctl("backup_only")),
            (TABLE.to_owned(), vec![daemon.to_owned()], "1".into())
        );
    }
    node.release(|_| ()).unwrap();
    assert_eq!((daemons(), sysctl("backup_only")), (vec![], "0".into()));
    let refused = Node::open(Config { vip_owner: VipOwner::Keepalived, ..config }).unwrap_err();
    assert!(refused.to_string().contains("before it tells"), "{refused}");
}

#[test]
fn another_fence_leaves_nothing_of_the_old_one() {
    let (mut node, config) = enter(Fence::Quiesce, Some(HASHED));
    let before = (sysctl("sync_threshold"), sysctl("expire_nodest_conn"), sysctl("sloppy_tcp"));
    node.become_role(Role::Backup).unwrap();
    for (fence, table, daemon) in [
        (Fence::Clear, "", None),
        (Fence::BackupOnly, HASHED, Some("backup")),
        (Fence::Stateless, HASHED, None),
        (Fence::Quiesce, &HASHED.replace("-w 4", "-w 0"), Some("backup")),
    ] {
        let mut node = Node::open(Config { fence, ..config.clone() }).unwrap();
        node.become_role(Role::Backup).unwrap();
        let running: Vec<String> = daemon.map(str::to_owned).into_iter().collect();
        assert_eq!((saved(), daemons()), (table.to_owned(), running), "{fence:?}");
        let changed =
            [sysctl("sync_threshold"), sysctl("backup_only"), sysctl("sloppy_tcp"), sysctl("expire_nodest_conn")];
        let expected = match fence {
            Fence::Clear => ["3 50", "0", "0", "1"],
            Fence::BackupOnly => ["2 0", "1", "0", "0"],
            Fence::Stateless => ["3 50", "0", "1", "0"],
            _ => ["2 0", "0", "0", "0"],
        };
        assert_eq!(changed, expected, "{fence:?}");
    }
    Node::open(config).unwrap().release(|_| ()).unwrap();
    assert_eq!((sysctl("sync_threshold"), sysctl("expire_nodest_conn"), sysctl("sloppy_tcp")), before);
}

#[test]
fn somebody_elses_sync_daemon_stays() {
    let (mut node, _) = enter(Fence::Quiesce, Some(TABLE));
    ipvsadm("--start-daemon master --mcast-interface bond0 --syncid 9");
    let refused = node.become_role(Role::Backup).unwrap_err();
    assert!(matches!(refused, Error::Foreign { .. }) && refused.to_string().contains("lvs_sync_daemon"), "{refused}");
    assert_eq!((saved(), daemons()), (String::new(), vec!["master".to_owned()]));
}

#[test]
fn a_wait_ends_when_another_role_is_asked_for() {
    let (_, config) = enter(Fence::Quiesce, Some(TABLE));
    let config = Config { settle: Duration::from_secs(20), ..config };
    let here = lvs_dr::Netns::current().unwrap();
    let (other, there) = (config.clone(), here.clone());
    let start = std::time::Instant::now();
    let waiting = std::thread::spawn(move || Node::open_in(other, there).unwrap().become_role(Role::Master));
    // Until it waits: the VIP is on the interface then.
    while !ip("-o address show dev bond0").contains("192.0.2.254") {
        assert!(start.elapsed() < Duration::from_secs(15));
    }
    Node::open_in(config, here).unwrap().become_role(Role::Backup).unwrap();
    assert!(matches!(waiting.join().unwrap(), Err(Error::Overtaken { .. })));
    assert!(start.elapsed() < Duration::from_secs(18), "{:?}", start.elapsed());
    assert_eq!((saved(), daemons()), (quiesced(), vec!["backup".to_owned()]));
}

#[test]
fn killed_at_every_step_a_quiesced_node_loses_no_weight() {
    for configured in [true, false] {
        enter_node_netns();
        ip("address add 2001:db8::11/64 dev bond0 nodad");
        let config = Config { settle: Duration::from_millis(1), ..config(Fence::Quiesce, configured.then_some(TABLE)) };
        if !configured {
            TABLE.lines().for_each(|line| drop(ipvsadm(line)));
        }
        let node = || Node::open(config.clone()).unwrap();
        for (first, then) in [(Role::Master, Role::Backup), (Role::Backup, Role::Master)] {
            for step in 0.. {
                node().become_role(first).unwrap();
                let mut count = 0;
                let die = |_: &Step| {
                    if count == step {
                        kill(std::process::id() as i32);
                    }
                    count += 1;
                };
                let ended = lend(|| exit_code(node().become_role_with(then, die)));
                let next = [Role::Backup, Role::Master][step % 2];
                node().become_role(next).unwrap();
                let (table, running) = match next {
                    Role::Master => (TABLE.to_owned(), vec!["master", "backup"]),
                    _ => (quiesced(), vec!["backup"]),
                };
                let running: Vec<String> = running.into_iter().map(str::to_owned).collect();
                let what = format!("{configured}: killed before step {step} of {then}, then {next}");
                assert_eq!((saved(), daemons()), (table, running), "{what}");
                if ended == Ok(0) {
                    assert!(step > 3, "{step} steps only");
                    break;
                }
                assert_eq!(ended, Err(libc::SIGKILL), "{what}");
            }
        }
        node().release(|_| ()).unwrap();
        let left = if configured { String::new() } else { TABLE.to_owned() };
        assert_eq!((saved(), daemons()), (left, vec![]));
    }
}
