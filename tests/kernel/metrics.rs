//! The metrics of `lvs-node watch` over HTTP: what is in them, and that no client holds the watch
//! up.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use crate::lan::{VIP, VIP6, enter_switch, host, session};
use crate::watch::{Node, file, soon, start};

const PORT: u16 = 9850;

fn connect(node: &Node, request: &str) -> TcpStream {
    let mut stream = node.netns.run(|| TcpStream::connect(("127.0.0.1", PORT)).unwrap()).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    stream
}

/// The page, without the head. Empty: there is none yet.
fn page(node: &Node) -> String {
    let mut text = String::new();
    connect(node, "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n").read_to_string(&mut text).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    if head.starts_with("HTTP/1.0 200 ") { body.to_owned() } else { String::new() }
}

/// The samples: names with labels, and values.
fn samples(text: &str) -> BTreeMap<String, f64> {
    let samples = text.lines().filter(|line| !line.starts_with('#'));
    samples
        .map(|line| line.rsplit_once(' ').unwrap())
        .map(|(name, value)| (name.to_owned(), value.parse().unwrap()))
        .collect()
}

#[test]
fn metrics_over_http() {
    enter_switch();
    let client = host(1);
    let sync = format!("[watch]\nlisten = \"{PORT}\"\n");
    let mut nodes: Vec<Node> = [11, 12].map(|number| Node::new(number, &file(&[11, 12], &sync))).into();
    start(&mut nodes);
    // Clients that send nothing, part of a request, or read nothing.
    let slow: Vec<TcpStream> = ["", "GET /met", "GET /metrics HTTP/1.0\r\n\r\n"]
        .into_iter()
        .cycle()
        .take(40)
        .map(|request| connect(&nodes[0], request))
        .collect();
    let mut sessions: Vec<_> = (0..8).flat_map(|_| [VIP, VIP6]).map(|vip| session(&client, vip)).collect();
    let of = |vip: &str, server: &str| {
        format!(
            "{{local_address=\"{vip}\",local_port=\"80\",remote_address=\"{server}\",remote_port=\"80\",proto=\"TCP\",local_mark=\"\"}}"
        )
    };
    let v4 = [of(VIP, "192.0.2.11"), of(VIP, "192.0.2.12")];
    let sum = |all: &BTreeMap<String, f64>, name: &str| -> f64 {
        v4.iter().map(|labels| all.get(&format!("{name}{labels}")).copied().unwrap_or(-1.0)).sum()
    };
    soon("the counters", &nodes, || sum(&samples(&page(&nodes[0])), "lvs_destination_connections_total") == 8.0);
    let asked = sessions.iter_mut().filter_map(|(session, _)| session.ask()).count();
    assert_eq!(asked, 16);
    let text = page(&nodes[0]);
    let all = samples(&text);
    assert_eq!(sum(&all, "lvs_destination_weight"), 2.0);
    assert!(
        sum(&all, "lvs_destination_packets_in_total") >= 24.0 && sum(&all, "lvs_destination_bytes_in_total") > 1000.0
    );
    let service = format!("{{local_address=\"{VIP6}\",local_port=\"80\",proto=\"TCP\",local_mark=\"\"}}");
    assert_eq!(all[&format!("lvs_service_connections_total{service}")], 8.0, "{text}");
    let build = format!("lvs_node_build_info{{version=\"{}\"}}", env!("CARGO_PKG_VERSION"));
    assert_eq!((all[&build], all["lvs_node_role_changes_total"]), (1.0, 1.0), "{text}");
    assert!(all["lvs_node_role_change_timestamp_seconds"] > 1.7e9 && all["lvs_node_look_timestamp_seconds"] > 1.7e9);
    assert_eq!((all["lvs_node_failure_timestamp_seconds"], all["lvs_node_marks_equal"]), (0.0, 1.0), "{text}");
    assert!(all["lvs_node_mark_rules"] > 2.0, "{text}");
    // The file is the same page, but for the moment; each family is announced once.
    let names = |text: &str| samples(text).into_keys().collect::<BTreeSet<_>>();
    assert_eq!(names(&fs::read_to_string(nodes[0].metrics_file()).unwrap()), names(&text));
    let families: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")).collect();
    assert_eq!(families.iter().collect::<BTreeSet<_>>().len(), families.len());
    // For packaging/prometheus/check.
    fs::write(concat!(env!("CARGO_TARGET_TMPDIR"), "/metrics.prom"), &text).unwrap();

    // What the watch has to do is done meanwhile.
    nodes[0].ipvsadm("-C");
    soon("the services again", &nodes, || nodes[0].table().contains(&format!("-A -t {VIP}:80")));
    drop(slow);
    soon("a change of role", &nodes, || {
        nodes[0].tell("BACKUP");
        samples(&page(&nodes[0])).get("lvs_node_role_changes_total").is_some_and(|changes| *changes == 2.0)
    });
    // No other address is served.
    let refused = client.run(|| TcpStream::connect(("192.0.2.11", PORT)).is_err()).unwrap();
    assert!(refused);
    let (fine, text) = nodes[0].try_run(&format!("watch --listen {PORT}"));
    assert!(!fine && text.contains("watch: listen on 127.0.0.1:9850: Address already in use"), "{text}");
}
