//! What an audit is expected to find.

use lvs_dr::node::Node;
use lvs_dr::node::audit::{Finding, Severity};

/// The list of all findings, made of the code's comments.
const LIST: &str = include_str!("../../docs/findings.md");

/// The findings, each of which the list has with its severity.
pub(crate) fn audit(node: &mut Node) -> Vec<Finding> {
    let found = node.audit(None).unwrap();
    for finding in &found {
        let heading = format!("\n## {}\n\n", finding.kind.name());
        let (_, section) = LIST.split_once(&heading).unwrap_or_else(|| panic!("docs/findings.md lacks {finding}"));
        let severities = section.lines().next().unwrap_or_default().to_lowercase();
        let severity = finding.severity.to_string();
        assert!(severities.contains(&severity), "docs/findings.md has other severities ({severities}): {finding}");
    }
    found
}

#[track_caller]
pub(crate) fn expect_nothing(node: &mut Node) {
    let found = audit(node);
    assert!(found.is_empty(), "{}", found[0]);
}

/// Just these findings, and that looking twice finds the same.
#[track_caller]
pub(crate) fn expect<const N: usize>(node: &mut Node, expected: [(&str, Severity); N]) -> [Finding; N] {
    let found = audit(node);
    let told: String = found.iter().map(|finding| format!("{finding}\n")).collect();
    let short: Vec<_> = found.iter().map(|finding| (finding.kind.name(), finding.severity)).collect();
    assert_eq!(short, expected, "{told}");
    assert_eq!(audit(node), found);
    found.try_into().unwrap()
}
