//! Manual pages and shell completions, from the same source as `--help` and the table of the configuration in `docs/`.

use std::fs;
use std::io::{self, Write};
use std::path::Path;

use clap::{Command, ValueEnum};
use clap_complete::{Generator, shells};
use clap_mangen::Man;
use clap_mangen::roff::{Inline, Roff, bold, roman};

use super::{Exit, ended, told};
use crate::config::Config;

const NAME: &str = "target-notifyd";
/// An empty argument, as roff writes it: the same source makes the same bytes on every day.
const NO_DATE: &str = "\"\"";

/// What producers write and read.
const PROTOCOL: &str = include_str!("../../docs/protocol.md");

/// What the page of the whole says beside its commands: sections of terms and what they mean.
const SURROUNDINGS: &[(&str, &[(&str, &str)])] = &[
    (
        "FILES",
        &[
            (
                "/etc/target-notifyd/config.toml",
                "The configuration; NAME.toml beside it is that of an instance.",
            ),
            ("/var/lib/target-notifyd", "The queue (queue.path)."),
            ("/run/target-notifyd.sock", "The producers' socket (ingest.socket)."),
            ("/run/target-notifyd/admin.sock", "The operator's socket (admin.socket)."),
        ],
    ),
    (
        "ENVIRONMENT",
        &[
            (
                "TARGET_NOTIFYD_SECTION__KEY",
                "Sets a key, as TARGET_NOTIFYD_BATCH__LINGER=50ms does; wins over the file, and -o over both.",
            ),
            (
                "HTTPS_PROXY, https_proxy, ALL_PROXY, all_proxy",
                "The proxy for https:// where target.proxy names none: the first of them that is set.",
            ),
            ("NO_PROXY, no_proxy", "The hosts that are reached without that proxy."),
            (
                "CONFIGURATION_DIRECTORY, STATE_DIRECTORY, RUNTIME_DIRECTORY",
                "Where the configuration, the queue and the operator's socket are by default.",
            ),
            ("CREDENTIALS_DIRECTORY", "Where the property token is read from property-token by default."),
            ("NO_COLOR", "Where it is set, status shows no colours."),
        ],
    ),
    (
        "SIGNALS",
        &[
            (
                "SIGTERM, SIGINT",
                "The daemon ends in order, and waits shutdown.grace for requests under way; a second one ends it at once, \
                 as safe as a kill.",
            ),
            ("SIGHUP", "The daemon reads the configuration again; what takes a restart is named in the log."),
        ],
    ),
];

/// A shell with completions.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum Shell {
    Bash,
    Zsh,
    Fish,
}

/// Prints the completions of `command`.
pub(super) fn complete(mut command: Command, shell: Shell) -> Exit {
    command.set_bin_name(NAME);
    command.build();
    let text = match shell {
        // Its generator names the commands of a program with a hyphen in one way where it reads the line, and in another
        // where it offers what comes next: https://github.com/clap-rs/clap/issues/6421
        Shell::Bash => {
            generated(shells::Bash, &command).replace("target__subcmd__notifyd", "target__notifyd")
        }
        Shell::Zsh => generated(shells::Zsh, &command),
        Shell::Fish => generated(shells::Fish, &command),
    };
    let mut stdout = io::stdout();
    ended(stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()), Exit::Success)
}

fn generated(shell: impl Generator, command: &Command) -> String {
    let mut text = Vec::new();
    // Writing to memory does not fail.
    let _written = shell.try_generate(command, &mut text);
    String::from_utf8_lossy(&text).into_owned()
}

/// Writes every page into `folder`.
pub(super) fn write(command: Command, folder: &Path) -> Exit {
    for (name, page) in pages(command) {
        let path = folder.join(name);
        if let Err(error) = fs::write(&path, escaped(&page)) {
            told(&format!("{} could not be written: {error}", path.display()));
            return Exit::Disk;
        }
    }
    Exit::Success
}

/// A page with all that is not ASCII by its number: groff reads no UTF-8.
fn escaped(page: &[u8]) -> String {
    let letter = |letter: char| match letter.is_ascii() {
        true => letter.to_string(),
        false => format!("\\[u{:04X}]", u32::from(letter)),
    };
    String::from_utf8_lossy(page).chars().map(letter).collect()
}

/// Every page with its file's name.
fn pages(command: Command) -> Vec<(String, Vec<u8>)> {
    let mut command = command.disable_help_subcommand(true);
    command.build();
    let mut pages = vec![
        (format!("{NAME}.toml.5"), configuration().render().into_bytes()),
        (format!("{NAME}.7"), protocol().render().into_bytes()),
    ];
    commands(&command, &mut pages);
    pages
}

/// The page of a command, and those of its own.
fn commands(command: &Command, pages: &mut Vec<(String, Vec<u8>)>) {
    let source = format!("{NAME} {}", env!("CARGO_PKG_VERSION"));
    let man =
        Man::new(command.clone()).section("8").date(NO_DATE).source(source).manual("System Administration");
    let mut page = Vec::new();
    // Writing to memory does not fail.
    let _written = render(&man, command, &mut page);
    pages.push((man.get_filename(), page));
    for one in command.get_subcommands().filter(|one| !one.is_hide_set()) {
        commands(one, pages);
    }
}

/// As [`Man::render`] does, with the synopsis of `--help`, whose options have their values, and the examples line by line
/// instead of filled.
fn render(man: &Man, command: &Command, page: &mut dyn Write) -> io::Result<()> {
    man.render_title(page)?;
    man.render_name_section(page)?;
    synopsis(command).to_writer(page)?;
    man.render_description_section(page)?;
    man.render_options_section(page)?;
    if command.has_subcommands() {
        man.render_subcommands_section(page)?;
    }
    let mut rest = Roff::new();
    if let Some(help) = command.get_after_help() {
        let help = help.to_string();
        let (examples, after) = help.split_once("\n\n").unwrap_or((&help, ""));
        rest.control("SH", ["EXAMPLES"]);
        paragraphs(&mut rest, examples.trim_start_matches("Examples:\n"));
        if let Some((heading, codes)) = after.split_once(": ") {
            rest.control("SH", [heading.to_uppercase().as_str()]);
            rest.text([roman(codes)]);
        }
    }
    let is_whole = command.get_name() == NAME;
    if is_whole {
        SURROUNDINGS.iter().for_each(|(heading, all)| terms(&mut rest, heading, all));
    }
    see_also(&mut rest, if is_whole { "8" } else { "" });
    rest.to_writer(page)
}

fn synopsis(command: &Command) -> Roff {
    let (mut page, usage) = (Roff::new(), command.clone().render_usage().to_string());
    page.control("SH", ["SYNOPSIS"]);
    page.control("nf", []);
    let name = command.get_bin_name().unwrap_or(NAME);
    for line in usage.trim_start_matches("Usage:").lines().map(str::trim) {
        let rest = line.strip_prefix(name).unwrap_or_default();
        page.text([bold(name), roman(rest)]);
    }
    page.control("fi", []);
    page
}

fn terms(page: &mut Roff, heading: &str, all: &[(&str, &str)]) {
    page.control("SH", [heading]);
    for (term, meaning) in all {
        page.control("TP", []);
        page.text([bold(*term)]);
        page.text([roman(*meaning)]);
    }
}

/// The other pages of the whole; `own` is the section of this one, if it is among them.
fn see_also(page: &mut Roff, own: &str) {
    let pages = [(NAME, "8"), ("target-notifyd.toml", "5"), (NAME, "7")];
    let others = pages.iter().filter(|(_, section)| *section != own);
    let text = others.map(|(name, section)| format!("{name}({section})")).collect::<Vec<_>>().join(", ");
    page.control("SH", ["SEE ALSO"]);
    page.text([roman(text)]);
}

fn begun(title: &str, section: &str, manual: &str, about: &str) -> Roff {
    let (mut page, source) = (Roff::new(), format!("{NAME} {}", env!("CARGO_PKG_VERSION")));
    page.control("TH", [title, section, NO_DATE, source.as_str(), manual]);
    page.control("SH", ["NAME"]);
    page.text([roman(format!("{title} - {about}"))]);
    page
}

/// `target-notifyd.toml(5)`.
fn configuration() -> Roff {
    let title = format!("{NAME}.toml");
    let mut page = begun(&title, "5", "File Formats", "the configuration of target-notifyd");
    page.control("SH", ["DESCRIPTION"]);
    page.text([roman(
        "The configuration is TOML, by default in /etc/target-notifyd/config.toml; a key that is not set has its default. \
         TARGET_NOTIFYD_SECTION__KEY in the environment wins over the file, and -o section.key=value over both.",
    )]);
    let mut section = "";
    for (key, default, about) in Config::keys() {
        let (of, name) = key.split_once('.').unwrap_or(("", key));
        if of != section {
            page.control("SH", [format!("[{of}]").as_str()]);
            section = of;
        }
        page.control("TP", []);
        page.text([bold(name), roman(format!(" = {default}"))]);
        page.text([roman(about)]);
    }
    page.control("SH", ["EXAMPLES"]);
    paragraphs(
        &mut page,
        " [target]\n client = \"acmecorp\"\n organization_id = \"0DD934B85278256B0A490D44@AdobeOrg\"",
    );
    see_also(&mut page, "5");
    page
}

/// `target-notifyd(7)`, which is `docs/protocol.md`.
fn protocol() -> Roff {
    let mut page = begun(NAME, "7", "Miscellaneous", "how producers hand events to target-notifyd");
    let (_title, text) = PROTOCOL.split_once("\n\n").unwrap_or_default();
    page.control("SH", ["DESCRIPTION"]);
    markdown(&mut page, text);
    see_also(&mut page, "7");
    page
}

/// As much of Markdown as that page has: blocks that are a heading, a table, a list, code, or a paragraph.
fn markdown(page: &mut Roff, text: &str) {
    // A paragraph behind a heading is none of its own.
    let mut begins = true;
    for block in text.split("\n\n") {
        if let Some(heading) = block.strip_prefix("## ") {
            page.control("SH", [heading.trim().to_uppercase().as_str()]);
        } else if block.starts_with('|') {
            // Below the titles and the rule.
            for row in block.lines().skip(2) {
                let row = row.trim_matches(['|', ' ']);
                let (term, about) = row.split_once(" | ").unwrap_or((row, ""));
                page.control("TP", []);
                page.text(inlines(term));
                page.text(inlines(&about.replace(" | ", ": ")));
            }
        } else if block.starts_with("- ") {
            for item in format!("\n{block}").split("\n- ").skip(1) {
                page.control("IP", ["-", "2"]);
                page.text(inlines(item));
            }
        } else if block.starts_with(' ') {
            page.control("PP", []);
            paragraphs(page, block);
        } else {
            if !begins {
                page.control("PP", []);
            }
            page.text(inlines(block));
        }
        begins = block.starts_with("## ");
    }
}

/// A text on one line, what stands between backquotes in bold.
fn inlines(text: &str) -> Vec<Inline> {
    let words = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let style = |(at, part): (usize, &str)| if at % 2 == 1 { bold(part) } else { roman(part) };
    words.split('`').enumerate().map(style).collect()
}

/// Lines as paragraphs; those that begin with a space are kept as they are.
fn paragraphs(page: &mut Roff, text: &str) {
    let (mut literal, mut first) = (false, true);
    for line in text.lines() {
        let shown = line.strip_prefix(' ').map(str::trim_start);
        if literal != shown.is_some() {
            page.control(if literal { "fi" } else { "nf" }, []);
            literal = shown.is_some();
        } else if !literal && !first {
            page.control("PP", []);
        }
        let inline: Inline = roman(shown.unwrap_or(line));
        page.text([inline]);
        first = false;
    }
    if literal {
        page.control("fi", []);
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;
    use crate::cli::Arguments;

    fn every<'a>(command: &'a Command, found: &mut Vec<&'a Command>) {
        found.push(command);
        command.get_subcommands().for_each(|one| every(one, found));
    }

    /// The words of the program's call in a line of a shell.
    fn words(line: &str) -> Vec<&str> {
        let call = line.split("| ").last().and_then(|call| call.split_once("target-notifyd "));
        let (_, arguments) = call.expect("it calls the program");
        let end = |text: &&str| matches!(*text, ">" | "&&");
        std::iter::once("target-notifyd")
            .chain(arguments.split_whitespace().take_while(|text| !end(text)))
            .collect()
    }

    #[test]
    fn each_command_has_examples_that_the_command_line_takes() {
        let command = Arguments::command().disable_help_subcommand(true);
        let mut found = Vec::new();
        every(&command, &mut found);
        for one in found {
            let help = one.get_after_help().unwrap_or_else(|| panic!("{} has no example", one.get_name()));
            let help = help.to_string();
            let lines = help.strip_prefix("Examples:\n").expect("examples come first").lines();
            let mut count = 0;
            for line in lines.take_while(|line| line.starts_with("  ")) {
                let parsed = Arguments::command().try_get_matches_from(words(line));
                assert!(parsed.is_ok(), "{line}: {}", parsed.unwrap_err());
                assert!(line.contains(one.get_name()), "{line} shows another command");
                count += 1;
            }
            assert!(count > 0, "{} has no example", one.get_name());
        }
    }

    #[test]
    fn the_page_of_the_configuration_has_every_key() {
        let page = configuration().render();
        for (key, _, _) in Config::keys() {
            let name = key.split_once('.').unwrap().1;
            assert!(page.contains(&format!("\\fB{name}\\fR = ")), "{key}:\n{page}");
        }
    }
}
