//! Replays what a supervisor has recorded (`lvs-node watch --record FILE`): the engine decides once
//! more. `LVS_DR_REPLAY=FILE cargo test --lib replay -- --nocapture` prints what happened and what
//! was decided. Files in `recorded/` are replayed with each test.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::node::Config;
use crate::node::job::Task;
use crate::node::role::Role;
use crate::node::supervisor::Record;
use crate::node::supervisor::engine::{Action, Engine, Event, Group};
use crate::node::supervisor::recording::{Entry, VERSION};

/// The environment's name for the file.
const FILE: &str = "LVS_DR_REPLAY";

/// Replays a record, and shows each event with what is decided. Says what is not as it was, and
/// what must not be.
fn replay(text: &str, mut show: impl FnMut(String)) -> Result<(), String> {
    let mut start: Option<(Engine, Instant)> = None;
    // The role that each group was told to take on last.
    let mut told: BTreeMap<Group, Role> = BTreeMap::new();
    for (line, text) in (1..).zip(text.lines()) {
        let fail = |what: String| format!("line {line}: {what}");
        let Record(entry) = serde_json::from_str(text).map_err(|error| fail(error.to_string()))?;
        let (at, event, recorded) = match entry {
            Entry::Start { version: VERSION, node, extent, groups, sync_interface, sync_id } => {
                let mut sync = Config::new("eth0", []).sync;
                (sync.interface, sync.id) = (sync_interface, sync_id);
                let now = Instant::now();
                start = Some((Engine::new(now, node, extent, groups, &sync), now));
                told.clear();
                continue;
            }
            Entry::Start { version, .. } => return Err(fail(format!("the form of the record is {version}"))),
            Entry::Event { at, event, actions } => (Duration::from_nanos(at), event, actions),
        };
        let Some((engine, start)) = &mut start else { return Err(fail("the record has no start".into())) };
        let actions = engine.on(*start + at, event.clone());
        let decided: Vec<String> = actions.iter().map(Action::to_string).collect();
        show(format!("{:10.3} {event:?}", at.as_secs_f64()));
        decided.iter().for_each(|action| show(format!("{:>15} {action}", "->")));
        if decided != recorded {
            return Err(fail(format!("{decided:?} was decided; recorded is {recorded:?}")));
        }
        if let Event::Notified(group, role) | Event::Shown(group, Some(role)) = event {
            told.insert(group, role);
        }
        for action in actions {
            if let Action::Request(group, Task::Role(role)) | Action::Retry(group, role, _) = action
                && told.get(&group) != Some(&role)
            {
                return Err(fail(format!("{role} is requested without being told")));
            }
        }
    }
    Ok(())
}

fn recorded() -> Vec<PathBuf> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/node/simulation/recorded");
    let mut files: Vec<PathBuf> = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

#[test]
fn replay_of_records() {
    if let Some(file) = std::env::var_os(FILE) {
        let text = fs::read_to_string(&file).unwrap();
        return replay(&text, |line| println!("{line}")).unwrap();
    }
    let files = recorded();
    assert!(!files.is_empty());
    for file in files {
        let text = fs::read_to_string(&file).unwrap();
        assert!(text.lines().count() > 20, "{}", file.display());
        replay(&text, |_| ()).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    }
}

#[test]
fn a_replay_finds_what_is_not_as_it_was() {
    let of = |text: &str| replay(text, |_| ());
    let start = r#"{"start":{"version":1,"node":7,"extent":"roles","groups":[{"name":"","vips":["192.0.2.254"],"owner":"keepalived","follows":true,"director":null}],"sync_interface":"eth0","sync_id":1}}"#;
    let event = |event: &str, actions: &str| {
        format!("{start}\n{{\"event\":{{\"at\":5,\"event\":{event},\"actions\":[{actions}]}}}}")
    };
    of(&event(r#"{"notified":[0,"backup"]}"#, r#""Request(0, Role(Backup))","Show(0)""#)).unwrap_err();
    of(&event(r#"{"notified":[0,"backup"]}"#, r#""Request(0, Role(Backup))""#)).unwrap();
    // A word of a later version is ignored.
    of(&event(r#"{"notified":[0,"backup"]}"#, r#""Request(0, Role(Backup))""#)
        .replace("\"version\":1", "\"more\":2,\"version\":1"))
    .unwrap();
    for wrong in ["{", "{}", "\"time\"", &start.replace("\"version\":1", "\"version\":2"), &event("\"never\"", "")] {
        of(wrong).unwrap_err();
    }
    let (_, without_start) =
        event("\"time\"", "\"Show(0)\"").split_once('\n').map(|(a, b)| (a.to_owned(), b.to_owned())).unwrap();
    assert_eq!(of(&without_start).unwrap_err(), "line 1: the record has no start");
}
