//! README.md and docs/ say what there is: links, commands, options, files, configurations and
//! metrics. Needs no kernel: `LAB=none cargo test --test docs` runs it outside of the lab's guest.

#[allow(dead_code)]
#[path = "../examples/lvs-node/cli.rs"]
mod cli;

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use clap::CommandFactory;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// A page: its path below the root, and its text.
struct Page {
    path: PathBuf,
    text: String,
}

/// A line of code: of a block with this language, or inline.
struct Code<'a> {
    language: Option<&'a str>,
    text: &'a str,
}

impl Page {
    fn read(path: PathBuf) -> Page {
        let text = fs::read_to_string(Path::new(ROOT).join(&path)).unwrap();
        Page { path, text }
    }

    /// The blocks with this language.
    fn blocks(&self, language: &str) -> Vec<String> {
        let mut blocks: Vec<String> = Vec::new();
        let mut open = None;
        for line in self.text.lines() {
            match line.trim_start().strip_prefix("```") {
                Some(_) if open.is_some() => open = None,
                Some(named) => {
                    open = Some(named);
                    blocks.extend((named == language).then(String::new));
                }
                None if open == Some(language) => *blocks.last_mut().unwrap() += &format!("{line}\n"),
                None => {}
            }
        }
        blocks
    }

    /// All lines of code. A span may go on in the next line.
    fn code(&self) -> Vec<Code<'_>> {
        let (mut code, mut prose, mut start) = (Vec::new(), Vec::new(), 0);
        let mut open = None;
        let mut at = 0;
        for line in self.text.split_inclusive('\n') {
            match line.trim_start().strip_prefix("```") {
                Some(_) if open.is_some() => (open, start) = (None, at + line.len()),
                Some(named) => {
                    prose.push(&self.text[start..at]);
                    open = Some(named.trim());
                }
                None if open.is_some() => code.push(Code { language: open, text: line.trim() }),
                None => {}
            }
            at += line.len();
        }
        prose.push(&self.text[start..]);
        for text in prose {
            code.extend(text.split('`').skip(1).step_by(2).map(|text| Code { language: None, text }));
        }
        code
    }

    /// The targets of links, outside of code.
    fn links(&self) -> Vec<&str> {
        let mut links = Vec::new();
        let mut open = false;
        for line in self.text.lines() {
            if line.trim_start().starts_with("```") {
                open = !open;
            }
            if !open {
                links.extend(line.split("](").skip(1).filter_map(|rest| rest.split(')').next()));
            }
        }
        links
    }

    /// The anchors of its headings, as GitHub makes them.
    fn anchors(&self) -> BTreeSet<String> {
        let headings = self.text.lines().filter_map(|line| line.strip_prefix('#'));
        let anchor = |heading: &str| {
            let heading = heading.trim_start_matches('#').trim().to_lowercase();
            let kept = |c: &char| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_');
            heading.chars().filter(kept).map(|c| if c == ' ' { '-' } else { c }).collect()
        };
        headings.map(anchor).collect()
    }
}

/// README.md, docs/ and what lies beside them.
fn pages() -> Vec<Page> {
    let markdown = |dir: &str| {
        let entries = fs::read_dir(Path::new(ROOT).join(dir)).unwrap();
        let paths: Vec<PathBuf> = entries.map(|entry| Path::new(dir).join(entry.unwrap().file_name())).collect();
        paths.into_iter().filter(|path| path.extension().is_some_and(|extension| extension == "md"))
    };
    let pages: Vec<Page> = markdown("").chain(markdown("docs")).map(Page::read).collect();
    assert!(pages.len() >= 10);
    pages
}

/// All that is wrong, at once.
fn none_of(wrong: Vec<String>) {
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn links_lead_somewhere() {
    let mut wrong = Vec::new();
    for page in pages() {
        for link in page.links().into_iter().filter(|link| !link.contains("://")) {
            let (file, anchor) = link.split_once('#').map_or((link, None), |(file, anchor)| (file, Some(anchor)));
            let target = match file {
                "" => page.path.clone(),
                _ => page.path.parent().unwrap().join(file),
            };
            let there = Path::new(ROOT).join(&target).exists();
            let anchored = || anchor.is_none_or(|anchor| Page::read(target.clone()).anchors().contains(anchor));
            if !there || !anchored() {
                wrong.push(format!("{}: {link} leads nowhere", page.path.display()));
            }
        }
    }
    none_of(wrong);
}

/// Programs whose arguments may name `lvs-node` without calling it.
const OTHERS: [&str; 6] = ["cargo", "install", "scp", "systemctl", "pcs", "crm"];

/// The calls of `lvs-node` in a line of code: the words behind its name.
fn calls(text: &str) -> Vec<Vec<&str>> {
    let mut calls = Vec::new();
    for part in text.split(['|', ';', '#', '"', '(', ')']) {
        let words: Vec<&str> = part.split_whitespace().collect();
        let name = |word: &&str| (*word == "lvs-node" || word.ends_with("/lvs-node")) && !word.contains(['=', '[']);
        if let Some(at) = words.iter().position(name)
            && !words[..at].iter().any(|word| OTHERS.contains(word))
        {
            calls.push(words[at + 1..].to_vec());
        }
    }
    calls
}

/// What is wrong with the words of a call.
fn judge(words: &[&str]) -> Result<(), String> {
    let program = cli::Cli::command();
    let mut command = &program;
    let mut words = words.iter();
    while let Some(word) = words.next() {
        let name = word.split('=').next().unwrap();
        if let Some(long) = name.strip_prefix("--") {
            let known = |arg: &&clap::Arg| arg.get_long() == Some(long) && !arg.is_hide_set();
            let found = command.get_arguments().chain(program.get_arguments().filter(|arg| arg.is_global_set()));
            match found.into_iter().find(known) {
                Some(arg) if arg.get_action().takes_values() && !word.contains('=') => drop(words.next()),
                Some(_) => {}
                None if matches!(long, "help" | "version") => {}
                None => return Err(format!("{} has no --{long}", command.get_name())),
            }
        } else if command.get_name() == program.get_name() {
            let known = |known: &&clap::Command| known.get_name() == *word && !known.is_hide_set();
            command = program.get_subcommands().find(known).ok_or(format!("lvs-node has no command {word}"))?;
        }
    }
    Ok(())
}

#[test]
fn commands_and_options_exist() {
    let (mut wrong, mut judged) = (Vec::new(), 0);
    let program = cli::Cli::command();
    let all: BTreeSet<&str> = [&program]
        .into_iter()
        .chain(program.get_subcommands())
        .flat_map(|command| command.get_arguments().filter_map(|arg| arg.get_long()))
        .collect();
    for page in pages() {
        for code in page.code() {
            let mut fault = |what: String| wrong.push(format!("{}: `{}`: {what}", page.path.display(), code.text));
            // A block of text is what a program prints.
            for words in calls(code.text).into_iter().filter(|_| code.language != Some("text")) {
                judged += 1;
                judge(&words).err().map(&mut fault);
            }
            // An option by itself. Those of findings may be other programs'.
            let ours = code.language.is_none() && !page.path.ends_with("findings.md");
            let option = ours.then(|| code.text.strip_prefix("--")).flatten();
            if let Some(option) = option.and_then(|option| option.split([' ', '=']).next())
                && !all.contains(option)
            {
                fault(format!("no command has --{option}"));
            }
        }
    }
    assert!(judged > 30, "{judged}");
    none_of(wrong);
    // It can fail.
    assert_eq!(calls("ssh root@$node lvs-node drain 192.0.2.1 --wait 5m; x"), [["drain", "192.0.2.1", "--wait", "5m"]]);
    assert!(judge(&["drain", "--wait", "5m"]).is_ok() && judge(&["--group", "web", "role", "master"]).is_ok());
    assert!(judge(&["dry", "192.0.2.1"]).is_err() && judge(&["status", "--wait", "5m"]).is_err());
}

#[test]
fn files_that_are_copied_are_there() {
    let mut wrong = Vec::new();
    let mut sources = BTreeSet::new();
    for page in pages() {
        for code in page.code().into_iter().filter(|code| code.text.starts_with("install ")) {
            let words: Vec<&str> = code.text.split_whitespace().collect();
            let source = words[words.len() - 2];
            if !source.starts_with("built/") && !Path::new(ROOT).join(source).is_file() {
                wrong.push(format!("{}: {source} is missing", page.path.display()));
            }
            sources.insert(source.to_owned());
        }
    }
    none_of(wrong);
    assert!(sources.len() >= 6, "{sources:?}");
}

/// By `lvs-node check`.
#[test]
fn configurations_are_right() {
    let file = std::env::temp_dir().join(format!("lvs-dr-docs-{}.toml", std::process::id()));
    let fine = |text: &str| {
        fs::write(&file, text).unwrap();
        let code = cli::main_with(["lvs-node".into(), "check".into(), file.clone().into_os_string()]);
        format!("{code:?}") == format!("{:?}", ExitCode::SUCCESS)
    };
    let blocks: Vec<(PathBuf, String)> = pages()
        .iter()
        .flat_map(|page| page.blocks("toml").into_iter().map(|block| (page.path.clone(), block)).collect::<Vec<_>>())
        .collect();
    assert!(blocks.len() >= 3 && !fine("interface = 1\n"));
    for (path, block) in blocks {
        assert!(fine(&block), "{}: {block}", path.display());
    }
    let shipped = fs::read_to_string(Path::new(ROOT).join("examples/keepalived/node.toml")).unwrap();
    assert!(fine(&shipped));
    let _ = fs::remove_file(&file);
}

#[test]
fn metrics_are_those_that_are_written() {
    let names = |text: &str, quote| -> BTreeSet<String> {
        let quoted = text.split(quote).filter(|word| word.starts_with("lvs_"));
        quoted.filter(|word| !word.contains([' ', '(', '{'])).map(str::to_owned).collect()
    };
    let source = fs::read_to_string(Path::new(ROOT).join("examples/lvs-node/metrics.rs")).unwrap();
    let page = Page::read("docs/metrics.md".into());
    let rows: String = page.text.lines().filter(|line| line.starts_with("| `lvs_")).collect();
    assert_eq!(names(&rows, '`'), names(&source, '"'));
}

#[test]
fn alerts_and_dashboard_name_metrics_that_there_are() {
    let rows: String =
        Page::read("docs/metrics.md".into()).text.lines().filter(|line| line.starts_with("| `lvs_")).collect();
    let there: BTreeSet<&str> = rows.split('`').filter(|word| word.starts_with("lvs_")).collect();
    let part = |c: char| !c.is_ascii_alphanumeric() && c != '_';
    for file in ["packaging/prometheus/lvs-dr.rules.yml", "packaging/grafana/lvs-dr.json"] {
        let text = fs::read_to_string(Path::new(ROOT).join(file)).unwrap();
        let named: BTreeSet<&str> = text
            .split(part)
            .filter(|word| {
                word.starts_with("lvs_node_") || word.starts_with("lvs_dest") || word.starts_with("lvs_serv")
            })
            .collect();
        assert!(named.len() > 9, "{file}: {named:?}");
        assert_eq!(named.difference(&there).collect::<Vec<_>>(), [&""; 0], "{file}");
    }
    // It is JSON, and no panel lies on another one.
    let text = fs::read_to_string(Path::new(ROOT).join("packaging/grafana/lvs-dr.json")).unwrap();
    let dashboard: serde_json::Value = serde_json::from_str(&text).unwrap();
    let mut taken = BTreeSet::new();
    for panel in dashboard["panels"].as_array().unwrap() {
        let at = |name: &str| panel["gridPos"][name].as_u64().unwrap();
        for (x, y) in (0..at("w")).flat_map(|x| (0..at("h")).map(move |y| (x, y))) {
            assert!(at("x") + x < 24 && taken.insert((at("x") + x, at("y") + y)), "{}", panel["title"]);
        }
    }
}

/// The kernel tests compare the schema with what the program prints.
#[test]
fn commands_with_json_are_in_the_schema() {
    let text = fs::read_to_string(Path::new(ROOT).join("docs/lvs-node.schema.json")).unwrap();
    let schema: serde_json::Value = serde_json::from_str(&text).unwrap();
    let defs = schema["$defs"].as_object().unwrap().values();
    let described: BTreeSet<String> = defs
        .map(|def| &def["properties"]["command"])
        .flat_map(|command| {
            command["enum"].as_array().cloned().unwrap_or_default().into_iter().chain([command["const"].clone()])
        })
        .filter_map(|name| name.as_str().map(str::to_owned))
        .collect();
    let program = cli::Cli::command();
    // Lines of a log, and a script for a shell.
    let others = ["watch", "fifo", "completions"];
    let there: BTreeSet<String> = program
        .get_subcommands()
        .map(|command| command.get_name().to_owned())
        .filter(|name| !others.contains(&name.as_str()))
        .collect();
    assert_eq!(described, there);
    // The page has each in its table.
    let page = Page::read("docs/json.md".into());
    let rows: Vec<&str> = page.text.lines().filter(|line| line.starts_with("| `")).collect();
    let hidden = |name: &str| program.find_subcommand(name).is_some_and(clap::Command::is_hide_set);
    for name in there.iter().filter(|name| !hidden(name) && *name != "man") {
        assert!(rows.iter().any(|row| row.contains(&format!("`{name}`"))), "{name} is not in docs/json.md");
    }
}

#[test]
fn programs_in_c_compile() {
    let blocks = Page::read("docs/embedding-c.md".into()).blocks("c");
    assert!(!blocks.is_empty());
    for block in blocks {
        let mut compiler = Command::new("cc")
            .args(["-std=c99", "-Wall", "-Wextra", "-Werror", "-fsyntax-only", "-x", "c", "-", "-I"])
            .arg(Path::new(ROOT).join("include"))
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        compiler.stdin.take().unwrap().write_all(block.as_bytes()).unwrap();
        assert!(compiler.wait().unwrap().success(), "{block}");
    }
}
