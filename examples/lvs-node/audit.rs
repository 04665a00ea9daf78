//! `lvs-node audit`: what harms, or will, and what to do about it.

use std::fmt::Display;
use std::path::{Path, PathBuf};

use clap::Args;
use lvs_dr::Result;
use lvs_dr::node::audit::Finding;
use lvs_dr::node::{Node, Step, VipOwner};
use serde_json::{Value, json};

const KEEPALIVED: &str = "/etc/keepalived/keepalived.conf";

#[derive(Debug, Args)]
pub struct Audit {
    /// As JSON, on one line for each group.
    #[arg(long)]
    pub json: bool,
    /// Print what would be done about it, do it, and look again. What is not the node's stays, and
    /// is printed.
    #[arg(long)]
    fix: bool,
    /// keepalived's file. Left out, with vip_owner = "keepalived":
    /// /etc/keepalived/keepalived.conf, where there is one.
    #[arg(long, value_name = "FILE")]
    keepalived: Option<PathBuf>,
}

/// Says whether nothing is found (any more).
pub fn run(node: &mut Node, audit: &Audit, say: impl Fn(&dyn Display)) -> Result<bool> {
    let usual = || (node.config().vip_owner == VipOwner::Keepalived).then_some(Path::new(KEEPALIVED));
    let keepalived = audit.keepalived.clone().or_else(|| usual().filter(|path| path.exists()).map(Path::to_owned));
    let found = node.audit(keepalived.as_deref())?;
    if !audit.fix || found.is_empty() {
        match audit.json {
            true => say(&format_args!("{}\n", list(&found))),
            false => print(&found, &say),
        }
        return Ok(found.is_empty());
    }
    let plan = match found.iter().any(|finding| finding.remedy.is_ours()) {
        true => Some(node.plan_fix()?),
        false => None,
    };
    if !audit.json {
        print(&found, &say);
        if let Some(plan) = &plan {
            say(&format_args!("\n{plan}"));
        }
    }
    let done = match plan {
        Some(_) => node.fix(|_| ())?.steps().to_vec(),
        None => Vec::new(),
    };
    let left = node.audit(keepalived.as_deref())?;
    match audit.json {
        true => {
            let steps: Vec<String> = done.iter().map(Step::to_string).collect();
            say(&format_args!("{}\n", json!({ "found": list(&found), "done": steps, "left": list(&left) })));
        }
        false if left.is_empty() => say(&"done: nothing is found any more\n"),
        false => {
            say(&"\nleft:\n");
            print(&left, &say);
        }
    }
    Ok(left.is_empty())
}

fn print(found: &[Finding], say: &impl Fn(&dyn Display)) {
    found.iter().for_each(|finding| say(&format_args!("{finding}\n")));
    if found.is_empty() {
        say(&"nothing is found\n");
    }
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
