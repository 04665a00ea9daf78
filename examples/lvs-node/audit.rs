//! `lvs-node audit`: what harms, or will, and what to do about it.

use std::path::{Path, PathBuf};

use clap::Args;
use lvs_dr::Result;
use lvs_dr::node::audit::Finding;
use lvs_dr::node::{Node, Step, VipOwner};
use serde_json::{Value, json};

use super::output::Output;

const KEEPALIVED: &str = "/etc/keepalived/keepalived.conf";

#[derive(Debug, Args)]
pub struct Audit {
    /// Print what would be done about it, do it, and look again. What is not the node's stays, and
    /// is printed.
    #[arg(long)]
    fix: bool,
    /// With --fix: print what would be done only.
    #[arg(long, requires = "fix")]
    dry_run: bool,
    /// keepalived's file. Left out, with vip_owner = "keepalived":
    /// /etc/keepalived/keepalived.conf, where there is one.
    #[arg(long, value_name = "FILE")]
    keepalived: Option<PathBuf>,
}

/// Says whether nothing is found (any more).
pub fn run(node: &mut Node, audit: &Audit, output: &Output) -> Result<bool> {
    let usual = || (node.config().vip_owner == VipOwner::Keepalived).then_some(Path::new(KEEPALIVED));
    let keepalived = audit.keepalived.clone().or_else(|| usual().filter(|path| path.exists()).map(Path::to_owned));
    let found = node.audit(keepalived.as_deref())?;
    if !output.json {
        output.group(node, true);
    }
    print(&found, output);
    let ours = audit.fix && found.iter().any(|finding| finding.remedy.is_ours());
    let plan = ours.then(|| node.plan_fix()).transpose()?;
    if let Some(plan) = &plan {
        output.show(format_args!("\n{plan}"));
    }
    if !audit.fix || audit.dry_run || found.is_empty() {
        let steps = plan.iter().flat_map(|plan| plan.steps());
        output.group_object(|| object(node, &found, steps, &found));
        return Ok(found.is_empty());
    }
    let done = match plan {
        Some(_) => node.fix(|_| ())?.steps().to_vec(),
        None => Vec::new(),
    };
    let left = node.audit(keepalived.as_deref())?;
    output.group_object(|| object(node, &found, &done, &left));
    match left.is_empty() {
        true => output.show("done: nothing is found any more\n"),
        false => {
            output.show("\nleft:\n");
            print(&left, output);
        }
    }
    Ok(left.is_empty())
}

fn print(found: &[Finding], output: &Output) {
    found.iter().for_each(|finding| output.show(format_args!("{finding}\n")));
    if found.is_empty() {
        output.show("nothing is found\n");
    }
}

/// The object of a group.
fn object<'a>(node: &Node, found: &[Finding], steps: impl IntoIterator<Item = &'a Step>, left: &[Finding]) -> Value {
    let steps: Vec<String> = steps.into_iter().map(Step::to_string).collect();
    json!({ "group": node.config().group, "found": list(found), "steps": steps, "left": list(left) })
}

fn list(found: &[Finding]) -> Value {
    let entries = found.iter().map(|finding| {
        json!({
            "finding": finding.kind.name(),
            "severity": finding.severity.to_string(),
            "reason": finding.reason,
            "fix": finding.remedy.steps.iter().map(Step::to_string).collect::<Vec<_>>(),
            "commands": finding.remedy.commands,
            "remedy": finding.remedy.text,
        })
    });
    Value::Array(entries.collect())
}
