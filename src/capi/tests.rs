//! The header: as the sources say, and complete.

use std::collections::BTreeSet;
use std::fs;

use super::status::{LVS_OK, NAMES};

const MADE: &str = include_str!(concat!(env!("OUT_DIR"), "/capi/include/lvs_dr.h"));

#[test]
fn the_committed_header_is_the_one_that_is_made() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/include/lvs_dr.h");
    if std::env::var_os("UPDATE_HEADER").is_some() {
        fs::write(path, MADE).unwrap();
    }
    let committed = fs::read_to_string(path).unwrap_or_default();
    let differs = MADE.lines().zip(committed.lines()).position(|(a, b)| a != b);
    assert!(
        committed == MADE,
        "include/lvs_dr.h differs from what src/capi/ makes, from line {} on; `make header` brings it up to date",
        differs.unwrap_or(MADE.lines().count().min(committed.lines().count())) + 1
    );
}

#[test]
fn everything_in_the_header_is_documented_and_prefixed() {
    let lines: Vec<&str> = MADE.lines().collect();
    let mut functions = 0;
    for (number, line) in lines.iter().enumerate() {
        let declares = ["int ", "void ", "size_t ", "const char *lvs", "const struct "]
            .iter()
            .any(|start| line.starts_with(start));
        let field = line.starts_with("    ") && line.ends_with(';') && !line.contains(')');
        let defines = line.starts_with("#define LVS_") && !line.contains("LVS_VERSION") && !line.contains("LVS_DR_H");
        if declares || defines || field || line.starts_with("typedef") {
            assert_eq!(lines[number - 1].trim(), "*/", "line {}: {line}", number + 1);
        }
        if declares {
            assert!(line.contains("lvs_"), "line {}: {line}", number + 1);
            functions += 1;
        }
    }
    assert!(functions > 40, "only {functions} functions were found in the header");
    assert!(!MADE.contains("Handle<"), "a type of Rust's is in the header");
}

#[test]
fn a_status_has_one_name_and_one_meaning() {
    let in_header: BTreeSet<&str> = MADE
        .lines()
        .filter_map(|line| line.strip_prefix("#define ")?.split(' ').next())
        .filter(|name| *name == "LVS_OK" || name.starts_with("LVS_ERR_"))
        .collect();
    let named: BTreeSet<&str> = NAMES.iter().map(|(_, name)| name.trim_end_matches('\0')).collect();
    assert_eq!(named, in_header);
    let numbers: BTreeSet<i32> = NAMES.iter().map(|(status, _)| *status).collect();
    assert_eq!(numbers.len(), NAMES.len());
    assert!(numbers.iter().all(|status| *status == LVS_OK || (-999..0).contains(status)));
}

/// The interface without its comments: constants, structures with the offsets of their fields on 64
/// bits, functions.
fn abi() -> String {
    let mut code = String::new();
    let mut rest = MADE;
    while let Some((before, comment)) = rest.split_once("/*") {
        code.push_str(before);
        rest = comment.split_once("*/").map_or("", |(_, after)| after);
    }
    code.push_str(rest);
    let defines = code.lines().filter(|line| line.starts_with("#define LVS_") && line.split(' ').count() > 2);
    let constants: BTreeSet<&str> = defines.filter(|line| !line.contains("LVS_VERSION")).collect();
    let code: Vec<&str> = code.lines().filter(|line| !line.starts_with('#')).collect();
    let code = code.join(" ").split_whitespace().collect::<Vec<_>>().join(" ").replace("( ", "(");

    let (mut structures, mut functions) = (Vec::new(), BTreeSet::new());
    let mut rest = code.as_str();
    while let Some(end) = rest.find([';', '{']) {
        let statement = rest[..end].trim_start_matches(['}', ' ']);
        if rest[end..].starts_with('{') && statement.starts_with("typedef struct") {
            let (body, after) = rest[end + 1..].split_once('}').unwrap();
            let name = statement.trim_start_matches("typedef struct ").trim();
            structures.push(structure(name, body));
            rest = after.split_once(';').unwrap().1;
            continue;
        }
        if statement.contains('(') {
            functions.insert(statement.trim().to_owned());
        }
        rest = &rest[end + 1..];
    }
    structures.sort();
    let lines = constants.into_iter().map(str::to_owned).chain(structures).chain(functions);
    lines.fold(String::new(), |text, line| text + &line + "\n")
}

fn structure(name: &str, body: &str) -> String {
    let (mut offset, mut text) = (0, String::new());
    for field in body.split(';').map(str::trim).filter(|field| !field.is_empty()) {
        let count = field.split_once('[').map_or(1, |(_, count)| match count.trim_end_matches(']') {
            "LVS_ADDRESS_SIZE" => super::report::LVS_ADDRESS_SIZE,
            "LVS_INTERFACE_SIZE" => super::monitor::LVS_INTERFACE_SIZE,
            "LVS_MAC_SIZE" => super::monitor::LVS_MAC_SIZE,
            other => panic!("{other} is not known here"),
        });
        let size = match field.split(' ').next().unwrap() {
            _ if field.contains('*') => 8,
            "size_t" | "uint64_t" => 8,
            "uint32_t" | "int32_t" => 4,
            "char" => 1,
            other => panic!("{other} is not known here"),
        };
        assert_eq!(offset % size, 0, "{name} has padding before {field}");
        text += &format!("\n  {offset} {field}");
        offset += size * count;
    }
    assert_eq!(offset % 8, 0, "{name} has padding at its end");
    format!("struct {name} {offset}{text}")
}

/// What programs that are built today rely on. From 1.0 on, lines may only be added, and fields only
/// at the end of a structure; until then a change makes a new minor version.
#[test]
fn the_abi_is_the_one_that_was_committed() {
    let (path, now) = (concat!(env!("CARGO_MANIFEST_DIR"), "/include/lvs_dr.abi"), abi());
    if std::env::var_os("UPDATE_ABI").is_some() {
        fs::write(path, &now).unwrap();
    }
    let committed = fs::read_to_string(path).unwrap_or_default();
    let lines = |text: &str| text.lines().map(str::to_owned).collect::<Vec<_>>();
    let (now, committed) = (lines(&now), lines(&committed));
    let gone: Vec<_> = committed.iter().filter(|line| !now.contains(line)).collect();
    let new: Vec<_> = now.iter().filter(|line| !committed.contains(line)).collect();
    assert!(
        now == committed,
        "the ABI has changed (`UPDATE_ABI=1 cargo test --features capi --lib abi` writes it down).\nGone: {gone:#?}\nNew: {new:#?}"
    );
}
