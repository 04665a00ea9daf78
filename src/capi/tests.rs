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
