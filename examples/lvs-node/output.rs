//! What a command prints: lines for people as they come, or one object in JSON at its end.

use std::cell::{Cell, RefCell};
use std::fmt::Display;
use std::io::{self, Write};
use std::path::PathBuf;

use lvs_dr::node::{Node, Plan, Step};
use serde_json::{Map, Value, json};

use super::file::FileError;
use super::syslog::{self, Level};

/// The version of all objects, as docs/lvs-node.schema.json has it. A field that is added does not
/// change it.
pub const VERSION: u32 = 1;

/// Where a command's results go.
#[derive(Debug)]
pub struct Output {
    /// One object in JSON instead of lines.
    pub json: bool,
    /// No lines but those that are asked for.
    pub quiet: bool,
    /// Lines that matter to a search for a fault, too.
    pub verbose: bool,
    fields: RefCell<Map<String, Value>>,
    groups: RefCell<Vec<Value>>,
    complaints: RefCell<Vec<String>>,
    /// The file that is wrong, and its line.
    wrong: RefCell<Option<(PathBuf, Option<usize>)>>,
    /// Whether the command prints an object at its end.
    objects: Cell<bool>,
}

impl Output {
    pub fn new(json: bool, quiet: bool, verbose: bool) -> Self {
        let (fields, groups, complaints, wrong) = Default::default();
        Output { json, quiet, verbose, fields, groups, complaints, wrong, objects: Cell::new(json) }
    }

    /// The command prints an object on each line, and none at its end.
    pub fn is_a_stream(&self) {
        self.objects.set(false);
    }

    /// Prints what a command was asked for, also to those who want quiet.
    pub fn show(&self, text: impl Display) {
        if !self.json {
            say(text);
        }
    }

    /// A line of what the command does.
    pub fn note(&self, text: impl Display) {
        match self.json {
            true => self.append("notes", text.to_string().into()),
            false if self.quiet => {}
            false => say(format_args!("{text}\n")),
        }
    }

    /// A step that is carried out.
    pub fn step(&self, step: &Step) {
        match self.json {
            true => self.of_group("steps", step.to_string().into()),
            false if self.quiet || (is_record(step) && !self.verbose) => {}
            false => say(format_args!("{step}\n")),
        }
    }

    /// A plan that is not carried out.
    pub fn plan(&self, plan: &Plan) {
        if !self.json {
            say(plan);
            if plan.is_empty() {
                say("nothing to do\n");
            }
            return;
        }
        plan.steps().iter().for_each(|step| self.of_group("steps", step.to_string().into()));
        plan.warnings().iter().for_each(|warning| self.of_group("warnings", warning.as_str().into()));
    }

    /// A warning about a plan that is not carried out.
    pub fn plan_warning(&self, text: &str) {
        self.show(format_args!("warning: {text}\n"));
        self.of_group("warnings", text.into());
    }

    /// What an operator should know.
    pub fn warning(&self, text: impl Display) {
        print_to_stderr(Level::Warning, &format!("warning: {text}"));
        self.of_group("warnings", text.to_string().into());
    }

    /// Why the command fails.
    pub fn complain(&self, text: impl Display) {
        complain(&text);
        self.complaints.borrow_mut().push(text.to_string());
    }

    /// The same of a file.
    pub fn complain_of(&self, error: &FileError) {
        self.complain(error);
        *self.wrong.borrow_mut() = Some((error.path.clone(), error.line));
    }

    /// What follows is of this group of VIPs. `named`: for people, it is named where the file has
    /// several.
    pub fn group(&self, node: &Node, named: bool) {
        let name = &node.config().group;
        if self.json {
            self.groups.borrow_mut().push(json!({ "group": name, "steps": [], "warnings": [] }));
        } else if named && !name.is_empty() {
            say(format_args!("group {name}\n"));
        }
    }

    /// A group, as an object without steps, which is made where objects are printed.
    pub fn group_object(&self, object: impl FnOnce() -> Value) {
        if self.json {
            self.groups.borrow_mut().push(object());
        }
    }

    /// A field of the object.
    pub fn field(&self, name: &str, value: Value) {
        self.fields.borrow_mut().insert(name.to_owned(), value);
    }

    /// Adds to a list of the last group, or of the whole where there is no group.
    fn of_group(&self, name: &str, value: Value) {
        let mut groups = self.groups.borrow_mut();
        match groups.last_mut().and_then(|group| group.get_mut(name)).and_then(Value::as_array_mut) {
            Some(list) => list.push(value),
            None => self.append(name, value),
        }
    }

    fn append(&self, name: &str, value: Value) {
        let mut fields = self.fields.borrow_mut();
        if let Some(list) = fields.entry(name).or_insert_with(|| json!([])).as_array_mut() {
            list.push(value);
        }
    }

    /// Prints the object of a command that has ended with this code.
    pub fn end(&self, command: &str, exit_code: u8) {
        if !self.objects.get() {
            return;
        }
        let mut object = self.fields.borrow().clone();
        for list in ["notes", "warnings"] {
            object.entry(list).or_insert_with(|| json!([]));
        }
        object.insert("groups".into(), Value::Array(self.groups.borrow().clone()));
        let complaints = self.complaints.borrow();
        let error = (!complaints.is_empty()).then(|| {
            let (file, line) = self.wrong.borrow().clone().unzip();
            json!({ "text": complaints.join("\n"), "file": file, "line": line.flatten() })
        });
        object.insert("command".into(), command.into());
        object.insert("error".into(), error.into());
        object.insert("exit_code".into(), exit_code.into());
        object.insert("version".into(), VERSION.into());
        say(format_args!("{}\n", Value::Object(object)));
    }
}

/// Whether nothing but the node's own state changes.
fn is_record(step: &Step) -> bool {
    matches!(step, Step::Record { .. } | Step::Keep { .. } | Step::Weights(_) | Step::Forget)
}

/// Prints without failing: the reader of a pipe (`| head`) may be gone in the middle of
/// a change of roles.
pub fn say(text: impl Display) {
    // At once, not line by line: a table has many.
    let _ = io::stdout().write_all(text.to_string().as_bytes());
}

pub fn complain(text: impl Display) {
    print_to_stderr(Level::Error, &text.to_string());
}

fn print_to_stderr(level: Level, text: &str) {
    let line = syslog::with_level(level, io::stderr(), &format!("lvs-node: {text}"));
    let _ = writeln!(io::stderr(), "{line}");
}
