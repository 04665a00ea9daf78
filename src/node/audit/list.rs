//! The list of all findings for people, docs/findings.md: made of the comments of [`Kind`] and of
//! the names in [`Kind::name`](super::Kind::name). A finding that is added there is listed here.
//! `LVS_DR_WRITE=1 cargo test --lib findings` writes the file anew.
//!
//! [`Kind`]: super::Kind

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

const SOURCE: &str = include_str!("finding.rs");

const HEAD: &str = "\
# Findings of `lvs-node audit`

Each finding has a name, which stays the same from version to version and is `finding` in the output of `lvs-node audit --json`. The audit
prints where it was found, and the remedy as steps that `--fix` takes or as commands. An error harms now; a warning will harm when the director
or a server changes next; of a notice only some uses suffer.

This file is made from the comments in src/node/audit/finding.rs: `LVS_DR_WRITE=1 cargo test --lib findings` writes it.
";

/// A finding, as its comment describes it.
struct Entry {
    variant: String,
    reason: String,
    remedy: String,
    severity: String,
}

/// The variants of [`super::Kind`] with their comments, in their order.
fn entries() -> Result<Vec<Entry>, String> {
    let (_, body) = SOURCE.split_once("pub enum Kind {\n").ok_or("there is no enum Kind")?;
    let (body, _) = body.split_once("\n}\n").ok_or("the enum does not end")?;
    let (mut comment, mut entries) = (String::new(), Vec::new());
    // Fields stand further right.
    for line in body.lines().filter_map(|line| line.strip_prefix("    ")).filter(|line| !line.starts_with(' ')) {
        if let Some(text) = line.strip_prefix("///") {
            comment += text;
        } else if line.starts_with(|first: char| first.is_ascii_uppercase()) {
            let variant = line.trim_end_matches([' ', '{', ',']).to_owned();
            entries.push(entry(variant, std::mem::take(&mut comment).trim())?);
        }
    }
    Ok(entries)
}

fn entry(variant: String, comment: &str) -> Result<Entry, String> {
    let lacks =
        |what: &str| format!("the comment of Kind::{variant} lacks `{what}`, which docs/findings.md is made of");
    let (text, severity) = comment.split_once(" Severity: ").ok_or_else(|| lacks("Severity:"))?;
    let (reason, remedy) = text.split_once(" Helps: ").ok_or_else(|| lacks("Helps:"))?;
    let words = ["error", "warning", "notice"];
    if !words.iter().any(|word| severity.starts_with(word)) {
        return Err(lacks("Severity: error, warning or notice"));
    }
    let [reason, remedy, severity] = [reason, remedy, severity].map(str::to_owned);
    Ok(Entry { variant, reason, remedy, severity })
}

/// The names of the variants, from the arms of `Kind::name`.
fn names() -> BTreeMap<&'static str, &'static str> {
    let arms = SOURCE.lines().filter_map(|line| line.trim().strip_prefix("Kind::")?.split_once(" => \""));
    arms.filter_map(|(variant, name)| Some((variant.split(' ').next()?, name.strip_suffix("\",")?))).collect()
}

/// Links of rustdoc as text: `[Kind::Unfenced]` is the finding's name.
fn without_links(text: &str, names: &BTreeMap<&str, &str>) -> String {
    let mut parts = text.split("[`");
    let mut plain = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let Some((target, rest)) = part.split_once("`]") else { return text.to_owned() };
        let rest = match rest.strip_prefix('(') {
            Some(path) => path.split_once(')').map_or("", |(_, rest)| rest),
            None => rest,
        };
        match target.strip_prefix("Kind::").and_then(|variant| names.get(variant)) {
            Some(name) => plain += &format!("[{name}](#{name}){rest}"),
            None => plain += &format!("`{target}`{rest}"),
        }
    }
    plain
}

fn capital(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map(|first| first.to_uppercase().chain(chars).collect()).unwrap_or_default()
}

fn list() -> Result<String, String> {
    let names = names();
    let mut entries = entries()?;
    let name = |entry: &Entry| *names.get(&*entry.variant).unwrap_or(&"");
    entries.sort_by_key(name);
    let mut text = HEAD.to_owned();
    for entry in &entries {
        let name = name(entry);
        if name.is_empty() {
            return Err(format!("Kind::{} has no line of its own in Kind::name", entry.variant));
        }
        let [reason, remedy] = [&entry.reason, &entry.remedy].map(|part| without_links(part, &names));
        let [severity, remedy] = [&entry.severity, &remedy].map(|part| capital(part));
        text += &format!("\n## {name}\n\n{severity}\n\n{reason}\n\n**Remedy:** {remedy}\n");
    }
    Ok(text)
}

#[test]
fn findings_are_listed_in_the_documentation() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/findings.md");
    let wanted = list().unwrap_or_else(|reason| panic!("{reason}"));
    if std::env::var_os("LVS_DR_WRITE").is_some() {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, &wanted).unwrap();
    }
    let found = fs::read_to_string(&path).unwrap_or_default();
    let differ = wanted.lines().zip(found.lines()).find(|(wanted, found)| wanted != found);
    assert!(
        wanted == found,
        "docs/findings.md is behind the comments in finding.rs ({differ:?}): `LVS_DR_WRITE=1 cargo test --lib findings` writes it"
    );
}

#[test]
fn the_list_has_every_name_and_tells_what_a_comment_lacks() {
    let (names, listed) = (names(), entries().unwrap_or_else(|reason| panic!("{reason}")));
    assert!(names.len() > 40 && names.len() == listed.len(), "{} names, {} findings", names.len(), listed.len());
    for (comment, words) in [
        ("It harms. Helps: this. Severity: error.", ""),
        ("It harms. Severity: error.", "lacks `Helps:`"),
        ("It harms. Helps: this.", "lacks `Severity:`"),
        ("It harms. Helps: this. Severity: bad.", "lacks `Severity: error, warning or notice`"),
    ] {
        let error = entry("New".into(), comment).err().unwrap_or_default();
        assert!(error.contains(words) && error.is_empty() == words.is_empty(), "{comment}: {error}");
    }
    let text = "As [`Kind::Unfenced`]. See [`Fence`](crate::node::Fence), `x`.";
    assert_eq!(without_links(text, &names), "As [unfenced](#unfenced). See `Fence`, `x`.");
}
