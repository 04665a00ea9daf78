//! The man pages, and completions for shells: made from the definition of the command line.

use std::io;
use std::path::Path;

use clap::Command;
use clap_mangen::Man;

/// A complete file of a node: part of lvs-node.toml(5).
const EXAMPLE: &str = include_str!("man/node.toml");

/// Name, section and text of the pages that are not made from the command line alone.
const WRITTEN: [(&str, &str, &str); 2] =
    [("lvs-node.toml", "5", include_str!("man/lvs-node.toml.5")), ("lvs-dr", "7", include_str!("man/lvs-dr.7"))];

/// What follows the commands in lvs-node(8).
const USAGE: &str = include_str!("man/lvs-node.8");

/// The names of all pages and their texts.
pub fn pages(command: &Command) -> io::Result<Vec<(String, String)>> {
    let mut pages = vec![("lvs-node.8".to_owned(), title("lvs-node", "8") + &program(command)? + USAGE)];
    let example = verbatim(EXAMPLE);
    pages.extend(WRITTEN.map(|(name, section, text)| {
        (format!("{name}.{section}"), title(name, section) + &text.replace("@EXAMPLE@\n", &example))
    }));
    Ok(pages)
}

/// Writes all pages to a directory that exists.
pub fn write(command: &Command, directory: &Path) -> io::Result<()> {
    for (name, text) in pages(command)? {
        std::fs::write(directory.join(name), text)?;
    }
    Ok(())
}

fn title(name: &str, section: &str) -> String {
    let version = env!("CARGO_PKG_VERSION");
    // An apostrophe is \*(Aq in what clap_mangen writes.
    let apostrophe = ".ie \\n(.g .ds Aq \\(aq\n.el .ds Aq '\n";
    format!("{apostrophe}.TH {} {section} \"\" \"lvs-dr {version}\" \"lvs-dr\"\n", name.to_uppercase())
}

/// Name, synopsis, options and commands of lvs-node(8).
fn program(command: &Command) -> io::Result<String> {
    let man = Man::new(command.clone().disable_help_subcommand(true));
    let mut page = rendered(|to| man.render_name_section(to))?;
    page += ".SH SYNOPSIS\n\\fBlvs\\-node\\fR [\\fIOPTIONS\\fR] \\fICOMMAND\\fR\n";
    page += &rendered(|to| man.render_description_section(to))?;
    page += &rendered(|to| man.render_options_section(to))?;
    page += ".SH COMMANDS\n";
    for sub in command.get_subcommands().filter(|sub| !sub.is_hide_set()) {
        let name = sub.get_name().to_owned();
        let man = Man::new(sub.clone().bin_name(&name).disable_help_flag(true));
        let parts = [
            rendered(|to| man.render_synopsis_section(to))?,
            rendered(|to| man.render_description_section(to))?,
            rendered(|to| man.render_options_section(to))?,
        ];
        // One heading for all of them.
        let parts = parts.map(|part| part.lines().skip(1).flat_map(|line| [line, "\n"]).collect::<String>());
        page += &format!(".SS {}\n{}", name.replace('-', "\\-"), parts.join(".PP\n"));
    }
    // .TP begins a paragraph.
    Ok(page.replace(".PP\n.TP\n", ".TP\n"))
}

fn rendered(render: impl FnOnce(&mut dyn io::Write) -> io::Result<()>) -> io::Result<String> {
    let mut text = Vec::new();
    render(&mut text)?;
    let text = String::from_utf8_lossy(&text);
    // The title defines how an apostrophe is printed.
    let lines = text.lines().filter(|line| !line.starts_with(".ie ") && !line.starts_with(".el "));
    Ok(lines.flat_map(|line| [line.trim_end(), "\n"]).collect())
}

/// As it is, in a page.
fn verbatim(text: &str) -> String {
    let escaped = text.replace('\\', "\\e").replace('-', "\\-").replace('\'', "\\(aq").replace('"', "\\(dq");
    escaped.lines().flat_map(|line| [if line.starts_with('.') { "\\&" } else { "" }, line, "\n"]).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::io::Write;
    use std::path::PathBuf;
    use std::process::Stdio;
    use std::{env, fs, process};

    use clap::CommandFactory;

    use super::super::{Cli, file};
    use super::*;

    fn page(name: &str) -> String {
        let pages = pages(&Cli::command()).unwrap();
        pages.into_iter().find(|(found, _)| found == name).unwrap().1
    }

    fn with_file<T>(name: &str, text: &str, read: impl FnOnce(PathBuf) -> T) -> T {
        let path = env::temp_dir().join(format!("lvs-node-{}-{name}", process::id()));
        fs::write(&path, text).unwrap();
        let found = read(path.clone());
        fs::remove_file(path).unwrap();
        found
    }

    /// The names in backquotes behind "expected".
    fn expected(error: &str) -> BTreeSet<String> {
        let names = error.split_once("expected").unwrap_or_else(|| panic!("{error}")).1;
        names.split('`').skip(1).step_by(2).map(str::to_owned).collect()
    }

    #[test]
    fn the_page_of_the_file_has_every_key() {
        let head = "interface = \"eth0\"\nvips = [\"192.0.2.1\"]\n";
        let service = "[[service]]\nlisten = \"tcp 192.0.2.1:80\"\nscheduler = \"rr\"\n";
        let mut keys = BTreeSet::new();
        for (index, text) in [
            "no_key = 1".to_owned(),
            "[[group]]\nno_key = 1".to_owned(),
            format!("{head}{service}no_key = 1"),
            format!("{head}{service}destinations = [ {{ no_key = 1 }} ]"),
        ]
        .into_iter()
        .chain(
            ["arp", "sysctl", "marks", "sync", "handover", "watch"].map(|table| format!("{head}[{table}]\nno_key = 1")),
        )
        .enumerate()
        {
            let error = with_file(&format!("key-{index}"), &text, |path| file::read(&path).err()).unwrap();
            keys.extend(expected(&error.to_string()));
        }
        // Of earlier versions.
        let keys = keys.into_iter().filter(|key| !["settle", "drain", "successors"].contains(&key.as_str()));
        let page = page("lvs-node.toml.5");
        let words: BTreeSet<&str> = page
            .lines()
            .filter(|line| line.starts_with(".B"))
            .flat_map(|line| line.split(|c: char| !c.is_alphanumeric() && c != '_'))
            .collect();
        let tables: BTreeSet<&str> = page.lines().filter_map(|line| line.strip_prefix(".SS ")).collect();
        let missing: Vec<String> = keys
            .filter(|key| !words.contains(key.as_str()))
            .filter(|key| {
                !tables.contains(format!("[{key}]").as_str()) && !tables.contains(format!("[[{key}]]").as_str())
            })
            .collect();
        assert!(missing.is_empty(), "{missing:?}");
    }

    #[test]
    fn the_example_of_the_page_is_a_file_without_faults() {
        let file = with_file("example", EXAMPLE, |path| file::read(&path)).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(file.warnings, Vec::<String>::new());
        assert_eq!(file.configs[0].doubts().iter().map(ToString::to_string).collect::<Vec<_>>(), Vec::<String>::new());
        assert!(page("lvs-node.toml.5").contains("metrics = \\(dq/run/lvs\\-dr.prom\\(dq"));
    }

    #[test]
    fn pages_name_commands_that_there_are() {
        let command = Cli::command();
        for (name, text) in pages(&command).unwrap() {
            let text = text.replace("\\-", "-").replace("\\fR", "").replace('"', " ");
            let lines = text.lines().filter(|line| line.starts_with(".B"));
            for after in lines.flat_map(|line| line.split("lvs-node ").skip(1)) {
                let word =
                    after.split_whitespace().next().unwrap_or_default().trim_matches(|c: char| !c.is_alphabetic());
                let known = word.is_empty() || command.find_subcommand(word).is_some_and(|found| !found.is_hide_set());
                assert!(known, "{name}: lvs-node {word}");
            }
        }
        let text = page("lvs-node.8").replace("\\-", "-");
        for sub in command.get_subcommands() {
            assert_eq!(text.contains(&format!("\n.SS {}\n", sub.get_name())), !sub.is_hide_set(), "{}", sub.get_name());
        }
    }

    /// Where there is a groff.
    #[test]
    fn pages_are_formatted_without_warnings() {
        for (name, text) in pages(&Cli::command()).unwrap() {
            assert!(!text.contains("@"), "{name}");
            let groff = process::Command::new("groff")
                .args(["-man", "-ww", "-z", "-Tutf8"])
                .stdin(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn();
            let Ok(mut groff) = groff else { continue };
            groff.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
            let warnings = String::from_utf8(groff.wait_with_output().unwrap().stderr).unwrap();
            assert_eq!(warnings, "", "{name}");
        }
    }

    #[test]
    fn help_is_a_screen() {
        let help = Cli::command().term_width(100).render_help().to_string();
        assert!(help.lines().count() <= 50, "{help}");
        assert!(help.lines().all(|line| line.len() <= 100), "{help}");
    }

    #[test]
    fn completions_name_commands() {
        for shell in [clap_complete::Shell::Bash, clap_complete::Shell::Zsh, clap_complete::Shell::Fish] {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "lvs-node", &mut script);
            let script = String::from_utf8(script).unwrap();
            assert!(script.contains("handover") && script.contains("set-weight"), "{shell}");
        }
    }
}
