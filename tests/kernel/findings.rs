//! What an audit is expected to find.

use lvs_dr::node::Node;
use lvs_dr::node::audit::{Finding, Severity};

pub(crate) fn audit(node: &mut Node) -> Vec<Finding> {
    node.audit(None).unwrap()
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
