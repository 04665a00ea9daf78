//! What happens to a node in its life.

use lvs_dr::node::audit::Severity;
use lvs_dr::node::{Apply, Config, IpvsSysctls, Role};

use super::{audit, config, expect, expect_nothing, failing, failing_on, node, node_as, server, sh, web};
use crate::lan::{VIP, enter_switch, failing_during, host, kept, session};

/// The sync daemons have an interface of their own, which goes, or was never there.
#[test]
fn without_the_sync_interface_only_the_synchronisation_suffers() {
    enter_switch();
    let client = host(1);
    let hosts = [11, 12].map(server);
    let services = web("rr", &[11, 12]);
    let of = |interface: &str, state_dir: Option<std::path::PathBuf>| {
        let mut config = config("bond0", &services);
        config.sync.interface = interface.into();
        config.state_dir = state_dir.unwrap_or(config.state_dir);
        config
    };
    hosts.iter().for_each(|host| drop(sh(host, "ip link add sync0 up type dummy")));
    let mut second = node_as(&hosts[1], of("sync0", None), Role::Backup);
    let mut first = node_as(&hosts[0], of("sync0", None), Role::Master);
    expect_nothing(&mut first);
    let holds = |index: usize| sh(&hosts[index], "ip -o address show dev bond0").contains(&format!("{VIP}/32"));

    // A director can step down, and another one can be promoted.
    sh(&hosts[0], "ip link delete sync0");
    sh(&hosts[1], "ip link set sync0 down");
    let plan = first.become_role(Role::Backup).unwrap();
    let gone = "the sync interface sync0 does not exist: connections are not synchronised";
    assert!(plan.warnings().iter().any(|warning| warning.starts_with(gone)), "{:?}", plan.warnings());
    let plan = second.become_role(Role::Master).unwrap();
    assert!(plan.warnings().iter().any(|warning| warning.contains("sync0 is down")), "{:?}", plan.warnings());
    assert_eq!([holds(0), holds(1)], [false, true]);
    assert_eq!(failing(&client, 12), 0);
    for (node, words) in [(&mut first, gone), (&mut second, "sync0 is down")] {
        let [finding] = expect(node, [("sync-interface", Severity::Warning)]);
        assert!(finding.reason.contains(words), "{finding}");
        let status = node.status().unwrap();
        assert!(status.warnings.contains(&finding.reason) && status.missing.is_empty(), "{status:?}");
        // And back.
        finding.remedy.commands.iter().for_each(|command| drop(sh(&hosts[1], command)));
    }
    sh(&hosts[0], "ip link add sync0 up type dummy");
    for node in [&mut first, &mut second] {
        node.repair(|_| ()).unwrap();
        expect_nothing(node);
    }
    assert!(second.status().unwrap().daemons.len() == 2);

    // Misnamed in the file: what runs stays, and nothing else suffers.
    second.become_role(Role::Backup).unwrap();
    let dir = |node: &lvs_dr::node::Node| Some(node.config().state_dir.clone());
    let mut first = node(&hosts[0], of("sync9", dir(&first)));
    first.become_role(Role::Master).unwrap();
    assert_eq!([holds(0), holds(1)], [true, false]);
    assert_eq!(failing(&client, 12), 0);
    expect(&mut first, [("sync-interface", Severity::Warning)]);
    first.release(|_| ()).unwrap();
    let mut fresh = node_as(&hosts[0], of("sync9", None), Role::Master);
    expect(&mut fresh, [("sync-interface", Severity::Warning)]);
    assert_eq!(failing(&client, 12), 0);
}

/// Scripts have placed another VIP on `lo`, and loaded its services on every node.
#[test]
fn a_vip_on_lo_that_the_configuration_lacks() {
    const OTHER: &str = "192.0.2.253";
    enter_switch();
    let client = host(1);
    let hosts = [11, 12].map(server);
    let services = web("rr", &[11, 12]);
    let both = services.clone() + &services.replace(VIP, OTHER);
    let mut backup = node_as(&hosts[1], config("bond0", &services), Role::Backup);
    let mut director = node_as(&hosts[0], config("bond0", &services), Role::Master);
    for host in &hosts {
        sh(host, &format!("ip address add {OTHER}/32 dev lo scope host"));
        host.run(|| services.replace(VIP, OTHER).lines().for_each(|line| drop(crate::lab::ipvsadm(line)))).unwrap();
    }
    sh(&hosts[0], &format!("ip address add {OTHER}/32 dev bond0"));
    assert!(failing_on(&client, OTHER, 12) > 0);
    let [finding] = expect(&mut backup, [("unlisted-vip", Severity::Error)]);
    assert!(finding.reason.contains(OTHER) && finding.remedy.text.contains("name it among the vips"), "{finding}");
    expect(&mut director, [("unlisted-vip", Severity::Warning)]);
    let named = |state_dir: &std::path::Path| {
        let mut config = config("bond0", &both);
        config.vips.push(OTHER.parse().unwrap());
        config.state_dir = state_dir.to_owned();
        config
    };
    let dirs = [&director, &backup].map(|node| node.config().state_dir.clone());
    let mut backup = node_as(&hosts[1], named(&dirs[1]), Role::Backup);
    let mut director = node_as(&hosts[0], named(&dirs[0]), Role::Master);
    assert_eq!(failing_on(&client, OTHER, 12), 0);
    expect_nothing(&mut backup);
    expect_nothing(&mut director);
}

/// As the old real server script does at boot.
#[test]
fn a_vip_that_was_on_lo_before_is_there_after_a_release() {
    enter_switch();
    let own = server(11);
    let on_lo = || sh(&own, "ip -o address show dev lo").contains(&format!("{VIP}/32 scope host"));
    for (before, roles) in [
        ("scope host", &[Role::Backup, Role::Master][..]),
        ("scope global", &[Role::Backup]),
        ("", &[Role::Backup, Role::Master]),
    ] {
        if !before.is_empty() {
            sh(&own, &format!("ip address add {VIP}/32 dev lo {before}"));
        }
        let mut node = node(&own, config("bond0", &web("rr", &[11])));
        roles.iter().for_each(|role| drop(node.become_role(*role).unwrap()));
        node.release(|_| ()).unwrap();
        assert_eq!(on_lo(), !before.is_empty(), "{before} {roles:?}");
        if !before.is_empty() {
            sh(&own, &format!("ip address delete {VIP}/32 dev lo"));
        }
    }
}

/// What a role would be refused for is found before the first one, and after a release.
#[test]
fn an_audit_before_the_first_role_finds_what_refuses_one() {
    enter_switch();
    let client = host(1);
    let own = server(12);
    let mut director = node_as(&server(11), config("bond0", &web("rr", &[11, 12])), Role::Master);
    let answering = || {
        let limit = std::time::Duration::from_millis(60);
        lvs_dr::marks::who_has(&client, "bond0", VIP.parse().unwrap(), limit, limit).unwrap().len()
    };
    // Services of another VIP are refused by the plan: a server behind no route.
    let mut far =
        node(&own, config("bond0", &(web("rr", &[11, 12]) + &format!("-a -t {VIP}:80 -r 203.0.113.9:80 -g -w 1\n"))));
    let found = audit(&mut far);
    assert!(
        found.iter().any(|finding| finding.kind.name() == "blocked" && finding.reason.contains("203.0.113.9")),
        "{found:?}"
    );

    // kube-proxy does so, and ifupdown.
    for name in ["kube-ipvs0", "dummy0"] {
        let mut node = node(&own, config("bond0", &web("rr", &[11, 12])));
        expect_nothing(&mut node);
        sh(&own, &format!("ip link add {name} type dummy"));
        sh(&own, &format!("ip address add {VIP}/32 dev {name}"));
        assert_eq!(answering(), 2, "the director, and this node");
        let [finding] = expect(&mut node, [("vip-elsewhere", Severity::Error)]);
        let words = format!("{VIP}/32 on {name} (scope global): the VIP belongs on bond0 or lo");
        assert!(
            finding.reason.starts_with(&words) && finding.reason.contains("answers ARP requests for it on bond0"),
            "{finding}"
        );
        assert_eq!(finding.remedy.text.contains("kube-proxy"), name == "kube-ipvs0", "{finding}");
        let refused = node.become_role(Role::Backup).unwrap_err().to_string();
        assert!(refused.contains("the VIP belongs on bond0 or lo"), "{refused}");
        finding.remedy.commands.iter().for_each(|command| drop(sh(&own, command)));
        assert_eq!(answering(), 1);
        expect(&mut node, [("role-failed", Severity::Error)]);
        node.become_role(Role::Backup).unwrap();
        expect_nothing(&mut node);
        assert_eq!(failing(&client, 6), 0);
        // It comes to a node that has a role, which hides it.
        sh(&own, &format!("ip address add {VIP}/32 dev {name}"));
        assert_eq!((answering(), failing(&client, 6)), (1, 0));
        let [finding] = expect(&mut node, [("vip-elsewhere", Severity::Error)]);
        assert!(!finding.reason.contains("answers ARP"), "{finding}");
        node.become_role(Role::Master).unwrap_err();
        finding.remedy.commands.iter().for_each(|command| drop(sh(&own, command)));
        expect(&mut node, [("role-failed", Severity::Warning)]);
        node.become_role(Role::Backup).unwrap();
        expect_nothing(&mut node);
        node.release(|_| ()).unwrap();
        sh(&own, &format!("ip link delete {name}"));
    }
    expect_nothing(&mut director);
}

/// As in a container: ARP settings and sysctls are the host's to set.
#[test]
fn with_read_only_settings_the_command_of_the_host_is_named() {
    crate::arp::enter_new_mount_namespace();
    enter_switch();
    let client = host(1);
    let services = web("rr", &[11, 12]);
    let hosts = [11, 12].map(server);
    let mut director = node_as(&hosts[0], config("bond0", &services), Role::Master);
    sh(&hosts[1], "mount -o bind /proc/sys /proc/sys");
    sh(&hosts[1], "mount -o remount,bind,ro /proc/sys");
    let on_the_host = |command: &str| {
        sh(&hosts[1], "mount -o remount,bind,rw /proc/sys");
        let by_shell = || std::process::Command::new("sh").args(["-c", command]).status().unwrap();
        assert!(hosts[1].run(by_shell).unwrap().success(), "{command}");
        sh(&hosts[1], "mount -o remount,bind,ro /proc/sys");
    };
    let command_of = |text: &str| text.split('`').find(|part| part.starts_with("sysctl -w")).unwrap().to_owned();

    // Before the first role: what is safety is an error, what is tuning a warning.
    let mut backup = node(&hosts[1], config("bond0", &services));
    let found = audit(&mut backup);
    let short: Vec<_> = found.iter().map(|finding| (finding.kind.name(), finding.severity)).collect();
    assert_eq!(short, [("blocked", Severity::Error), ("sysctls-differ", Severity::Warning)], "{found:?}");
    let refused = backup.become_role(Role::Backup).unwrap_err().to_string();
    assert!(found[0].reason.contains(&refused), "{refused}\n{}", found[0]);
    assert!(!sh(&hosts[1], "ip -o address show").contains(VIP));
    on_the_host(&command_of(&refused));
    let plan = backup.become_role(Role::Backup).unwrap();
    let [warning] = plan.warnings() else { panic!("{plan}") };
    assert_eq!(failing(&client, 12), 0);
    let [threshold, differ] =
        expect(&mut backup, [("sync-threshold", Severity::Warning), ("sysctls-differ", Severity::Warning)]);
    assert!(threshold.remedy.text.contains("on the host"), "{threshold}");
    // Left alone, it is for the operator to know.
    let alone = lvs_dr::node::Config { ipvs_sysctls: IpvsSysctls::LeftAlone, ..backup.config().clone() };
    let mut alone = node(&hosts[1], alone);
    expect(&mut alone, [("sync-threshold", Severity::Warning), ("sysctls-differ", Severity::Notice)]);
    assert_eq!(alone.plan(Role::Master).unwrap().warnings(), [""; 0]);
    [&differ, &threshold].iter().for_each(|finding| on_the_host(&finding.remedy.commands[0]));
    expect_nothing(&mut backup);
    on_the_host(&command_of(warning));
    expect_nothing(&mut backup);
    // Both change sides.
    director.become_role(Role::Backup).unwrap();
    assert_eq!(backup.become_role(Role::Master).unwrap().warnings(), [""; 0]);
    assert_eq!(failing(&client, 12), 0);
    expect_nothing(&mut backup);
    sh(&hosts[1], "umount /proc/sys");
}

/// The state directory was on a tmpfs that was unmounted, or was damaged and removed.
#[test]
fn a_node_that_has_lost_its_memory_gives_back_what_is_recognised() {
    enter_switch();
    let own = server(11);
    server(12);
    let services = web("rr", &[11, 12]);
    let left = |what: &str| sh(&own, what);
    for role in [Role::Master, Role::Backup] {
        let mut node = node_as(&own, config("bond0", &services), Role::Backup);
        node.become_role(role).unwrap();
        let state_dir = node.config().state_dir.clone();
        // Damaged, it is not guessed at.
        std::fs::write(state_dir.join("state"), "lvs-dr state 2\nrole ma").unwrap();
        let error = node.release(|_| ()).unwrap_err().to_string();
        assert!(error.contains("remove it") && error.contains("a release gives back what it recognises"), "{error}");
        std::fs::remove_dir_all(&state_dir).unwrap();
        let [finding] = expect(&mut node, [("forgotten", Severity::Warning)]);
        assert!(finding.reason.contains(&format!("{VIP}/32 on lo")), "{finding}");
        let plan = node.release(|_| ()).unwrap();
        assert!(!left("ip -o address show").contains(VIP), "{plan}");
        assert!(!left("tc filter show dev bond0 ingress").contains("bpf"), "{plan}");
        assert_eq!(left("ipvsadm -ln --daemon"), "", "{plan}");
        let table = left("ipvsadm -Sn");
        assert!(!table.contains("-f ") && table.contains(VIP), "{table}");
        let [warning] = plan.warnings() else { panic!("{plan}") };
        for part in [
            "tcp 192.0.2.254:80",
            "arp_ignore=1 arp_announce=2 on bond0",
            "net.ipv4.vs.sloppy_tcp=1",
            "qdisc clsact on bond0",
        ] {
            assert!(warning.contains(part), "{part}: {warning}");
        }
        // It is not forgotten that something is left.
        expect_nothing(&mut node);
        let again = node.release(|_| ()).unwrap();
        assert!(again.is_empty() && again.warnings()[0].contains("tcp 192.0.2.254:80"), "{again}");
        // A role goes on from there.
        node.become_role(role).unwrap();
        expect_nothing(&mut node);
        std::fs::remove_dir_all(&state_dir).unwrap();
        node.become_role(role).unwrap();
        expect_nothing(&mut node);
        node.release(|_| ()).unwrap();
        assert!(!left("ip -o address show").contains(VIP));
        left("ipvsadm -C");
        left("tc qdisc del dev bond0 clsact");
    }
}

/// The director's VIP moves to another interface of the same link, while clients come and go.
#[test]
fn another_interface_is_brought_in_while_sessions_live() {
    enter_switch();
    let client = host(1);
    let hosts = [11, 12].map(server);
    let services = web("rr", &[11, 12]);
    let _backup = node_as(&hosts[1], config("bond0", &services), Role::Backup);
    let mut director = node_as(&hosts[0], config("bond0", &services), Role::Master);
    sh(&hosts[0], "ip link add mv0 link bond0 up type macvlan mode bridge");
    sh(&hosts[0], "ip address add 192.0.2.21/24 dev mv0");
    let mut sessions: Vec<_> = (0..8).map(|_| session(&client, VIP)).collect();
    let held = |name: &str| sh(&hosts[0], &format!("ip -o address show dev {name}")).contains(&format!("{VIP}/32"));
    let state_dir = director.config().state_dir.clone();
    let other = |name: &str| Config { state_dir: state_dir.clone(), ..config(name, &services) };
    for (name, before) in [("mv0", "bond0"), ("bond0", "mv0")] {
        let (failed, all) = failing_during(&client, &[VIP], || {
            director.reconfigure(other(name)).unwrap();
            assert!(!director.apply(Apply::Changes, |_| ()).unwrap().is_empty());
        });
        assert!(failed == 0 && all > 5, "{name}: {failed} of {all}");
        assert_eq!([held(name), held(before), held("lo")], [true, false, true], "{name}");
        assert_eq!((failing(&client, 12), kept(&mut sessions)), (0, sessions.len()), "{name}");
        assert!(director.status().unwrap().missing.is_empty());
    }
    // What cannot change while it lives.
    let elsewhere = Config { state_dir: "/run/elsewhere".into(), ..other("bond0") };
    let groups = Config { group: "web".into(), groups: ["web".to_owned()].into(), ..other("bond0") };
    for (config, words) in [(elsewhere, "lvs-node release"), (groups, "take on a role for each group")] {
        let refused = director.reconfigure(config).unwrap_err().to_string();
        assert!(refused.contains(words), "{refused}");
    }
    assert_eq!(director.config().state_dir, state_dir);
}
