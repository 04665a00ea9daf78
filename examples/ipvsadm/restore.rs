//! `-R`: the lines of standard input, all or nothing.

use lvs_dr::Error;
use lvs_dr::ipvs::{Change, Ipvs};

use super::draft::Draft;
use super::edit::{self, Operation};
use super::names::Names;
use super::options::{self, Action};
use super::{Octets, Refusal};

const UNCHANGED: &str = "the table is as it was before";

/// Reads all lines, makes the changes on a copy of the table, and only then brings the kernel's to
/// that.
pub fn run(
    ipvs: &mut Ipvs,
    program: &[u8],
    names: &Names,
    text: &[u8],
    clear: bool,
    dry_run: bool,
    out: &mut Octets,
) -> Result<(), Refusal> {
    let (mut lines, mut words) = (Vec::new(), Vec::new());
    for (index, line) in text.split(|&octet| octet == b'\n').enumerate() {
        words.clear();
        words.extend(words_of(line));
        if !words.is_empty() {
            let number = index + 1;
            lines.push((number, read(program, &words, names).map_err(|refusal| refusal.at(number, UNCHANGED))?));
        }
    }

    // The script that clears changes what differs, and so begins as `-C` does.
    let first = clear.then_some(&Action::Clear);
    let mut draft = Draft::new(ipvs, first.into_iter().chain(lines.iter().map(|(_, action)| action)))?;
    if clear {
        draft.clear();
    }
    for (number, action) in &lines {
        draft.change(action).map_err(|refusal| refusal.at(*number, UNCHANGED))?;
    }
    if dry_run {
        out.extend(draft.to_string().into_bytes());
        return Ok(());
    }

    let plan = draft.plan();
    ipvs.apply(&plan).map_err(|error| match &error {
        Error::Change { number, error, outcome, .. } => {
            let change = plan.changes().get(number.wrapping_sub(1));
            let refusal = edit::refused(change.map_or(Operation::Other, operation), error);
            match change.and_then(|change| line_of(change, &lines)) {
                Some(line) => refusal.at(line, outcome),
                None => refusal,
            }
        }
        _ => edit::refused(Operation::Other, &error),
    })?;
    for id in &draft.zeroed {
        ipvs.zero(id.as_ref()).map_err(|error| edit::refused(Operation::Zero, &error))?;
    }
    Ok(())
}

/// The words of a line: up to a comment, without the program's name.
fn words_of(line: &[u8]) -> impl Iterator<Item = &[u8]> {
    line.split(|octet| matches!(octet, b' ' | b'\t' | b'\r'))
        .filter(|word| !word.is_empty())
        .take_while(|word| !word.starts_with(b"#"))
        .filter(|word| *word != b"ipvsadm")
}

fn read(program: &[u8], words: &[&[u8]], names: &Names) -> Result<Action, Refusal> {
    let line = options::parse(program, words, names)?;
    let refuse = |what: &str| Err(Refusal::misuse(format_args!("{what} has no place among lines to restore")));
    match line.action {
        _ if line.dry_run => refuse("--dry-run"),
        Action::List(_) => refuse("a listing"),
        Action::Save => refuse("a save"),
        Action::Restore => refuse("a restore"),
        Action::Help | Action::Version => refuse("help"),
        action => Ok(action),
    }
}

impl Refusal {
    fn at(self, line: usize, outcome: &str) -> Refusal {
        let before = format!("line {line}: ");
        let after = match outcome {
            UNCHANGED => format!("\nnothing was restored: {UNCHANGED}"),
            _ => format!("\nit was not undone: {outcome}"),
        };
        Refusal::quoting(self.code, &before, &self.message, &after)
    }
}

fn operation(change: &Change) -> Operation {
    match change {
        Change::AddService(_) => Operation::AddService,
        Change::ReplaceService(_) => Operation::EditService,
        Change::RemoveService(_) => Operation::DeleteService,
        Change::AddDestination(..) => Operation::AddServer,
        Change::ReplaceDestination(..) => Operation::EditServer,
        Change::RemoveDestination(..) => Operation::DeleteServer,
        Change::StopDaemon(_) => Operation::StopDaemon,
        Change::StartDaemon(_) => Operation::StartDaemon,
        _ => Operation::Other,
    }
}

/// The line that a change comes from: the last one about the same thing.
fn line_of(change: &Change, lines: &[(usize, Action)]) -> Option<usize> {
    lines.iter().rev().find(|(_, action)| asks_for(action, change)).map(|(number, _)| *number)
}

fn asks_for(action: &Action, change: &Change) -> bool {
    match (action, change) {
        (
            Action::AddService(request) | Action::EditService(request),
            Change::AddService(service) | Change::ReplaceService(service),
        ) => request.id == service.id,
        (Action::Clear, Change::RemoveService(_) | Change::RemoveDestination(..)) => true,
        (Action::DeleteService(id), Change::RemoveService(gone) | Change::RemoveDestination(gone, _)) => id == gone,
        (Action::AddServer(id, new), Change::AddDestination(of, d) | Change::ReplaceDestination(of, d)) => {
            id == of && new.address == d.address
        }
        (Action::EditServer(id, edit), Change::AddDestination(of, d) | Change::ReplaceDestination(of, d)) => {
            id == of && [edit.named, edit.address].contains(&d.address)
        }
        (Action::DeleteServer(id, address), Change::RemoveDestination(of, d)) => id == of && *address == d.address,
        (Action::Set(_), Change::SetTimeouts(_)) => true,
        (Action::StartDaemon(new), Change::StartDaemon(daemon)) => new.role == daemon.role,
        (Action::StopDaemon(old), Change::StopDaemon(role)) => old == role,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_split_at_blanks() {
        let split = |line: &str| -> Vec<String> {
            words_of(line.as_bytes()).map(|word| String::from_utf8_lossy(word).into_owned()).collect()
        };
        assert_eq!(split(" -A\t-t  1.2.3.4:80\r"), ["-A", "-t", "1.2.3.4:80"]);
        assert_eq!(split("ipvsadm -A ipvsadm -f 1 # -s rr"), ["-A", "-f", "1"]);
        assert_eq!(split("-b a#b"), ["-b", "a#b"]);
        assert_eq!(split("#-A"), Vec::<String>::new());
    }
}
