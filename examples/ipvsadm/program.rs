//! From the arguments to the exit code.

mod draft;
mod edit;
mod help;
mod json;
mod listing;
mod names;
mod options;
mod order;
mod restore;
mod rules;
mod save;
mod values;

use std::ffi::OsString;
use std::fmt::Display;
use std::io::Read;
use std::os::unix::ffi::OsStringExt;

use lvs_dr::ipvs::Ipvs;
use lvs_dr::{Cause, Error};

use names::Names;
use options::{Action, CommandLine};

/// Arguments and messages are octets: what is not UTF-8 is told as it came.
pub type Octets = Vec<u8>;

/// Why the program ends before its work is done: a message and an exit code.
#[derive(Debug)]
pub struct Refusal {
    pub message: Octets,
    pub code: u8,
}

/// A listing failed.
const LISTING: u8 = 1;
/// The command line makes no sense, or there is no IPVS.
const MISUSE: u8 = 2;
/// The kernel refused, or the words are no options.
const REFUSED: u8 = 255;

impl Refusal {
    fn new(code: u8, message: impl Display) -> Self {
        Refusal { message: message.to_string().into_bytes(), code }
    }

    fn misuse(message: impl Display) -> Self {
        Refusal::new(MISUSE, message)
    }

    /// With somebody's words, whatever octets they are, in the middle.
    fn quoting(code: u8, before: &str, words: &[u8], after: &str) -> Self {
        Refusal { message: [before.as_bytes(), words, after.as_bytes()].concat(), code }
    }
}

/// Runs the program with these arguments, its name first.
pub fn main_with(
    arguments: impl IntoIterator<Item = OsString>,
    input: &mut dyn Read,
    out: &mut Octets,
    err: &mut Octets,
) -> u8 {
    let mut arguments = arguments.into_iter().map(OsString::into_vec);
    let name = arguments.next().unwrap_or_else(|| b"ipvsadm".to_vec());
    let program = Program { name, names: Names::default() };
    let arguments: Vec<Octets> = arguments.collect();
    let arguments: Vec<&[u8]> = arguments.iter().map(Vec::as_slice).collect();
    let result = match program.name.rsplit(|&b| b == b'/').next() {
        Some(b"ipvsadm-save") => program.save_script(&arguments, out),
        Some(b"ipvsadm-restore") => program.restore(true, false, input, out),
        _ => program.run(&arguments, input, out),
    };
    let Err(refusal) = result else { return 0 };
    err.extend(refusal.message);
    err.push(b'\n');
    refusal.code
}

struct Program {
    name: Octets,
    names: Names,
}

impl Program {
    fn run(&self, arguments: &[&[u8]], input: &mut dyn Read, out: &mut Octets) -> Result<(), Refusal> {
        let line = match arguments {
            [] => CommandLine::list_all(),
            arguments => options::parse(&self.name, arguments, &self.names)?,
        };
        match line.action {
            Action::Help => out.extend(help::text(&self.name)),
            Action::Version => out.extend(help::VERSION.as_bytes()),
            Action::List(listing) => {
                listing::print(&mut open()?, &listing, line.json, &self.names, out)?;
            }
            Action::Save => save::print(&mut open()?, line.json, out)?,
            Action::Restore => self.restore(false, line.dry_run, input, out)?,
            action if line.dry_run => out.extend(draft::plan_of(&mut open()?, action)?.to_string().into_bytes()),
            action => edit::carry_out(&mut open()?, action)?,
        }
        Ok(())
    }

    fn restore(&self, clear: bool, dry_run: bool, input: &mut dyn Read, out: &mut Octets) -> Result<(), Refusal> {
        let mut ipvs = open()?;
        let mut text = Vec::new();
        // Closed standard input has no lines.
        let _ = input.read_to_end(&mut text);
        restore::run(&mut ipvs, &self.name, &self.names, &text, clear, dry_run, out)
    }

    /// `ipvsadm-save [-n]`
    fn save_script(&self, arguments: &[&[u8]], out: &mut Octets) -> Result<(), Refusal> {
        match arguments.iter().find(|argument| argument.starts_with(b"-") && *argument != b"-n") {
            None => save::print(&mut open()?, false, out),
            Some(_) => {
                Err(Refusal::new(1, "Usage: ipvsadm-save [-n]\n  writes the IPVS table to standard output, in numbers"))
            }
        }
    }
}

fn open() -> Result<Ipvs, Refusal> {
    Ipvs::open().map_err(|error| {
        let why = match error.cause() {
            Some(Cause::NoIpvs) => "Protocol not available".into(),
            _ => edit::reason(edit::Operation::Other, &error),
        };
        Refusal::misuse(format_args!(
            "Can't initialize ipvs: {why}\nAre you sure that IP Virtual Server is built in the kernel or as module?"
        ))
    })
}

/// A listing that failed.
fn listing_failed(error: Error) -> Refusal {
    Refusal::new(LISTING, edit::reason(edit::Operation::ReadService, &error))
}
