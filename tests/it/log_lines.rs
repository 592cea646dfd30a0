//! Holds the table of log lines in `docs/` to the code: each line's level, event, sentence and fields, in both directions.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

use target_notifyd::config::Config;
use target_notifyd::figures::Figures;
use target_notifyd::telemetry::KINDS;

use crate::floors::sources;

/// What an operator can run.
const COMMANDS: [&str; 6] =
    ["target-notifyd ", "systemctl ", "journalctl ", "df -h", "ulimit ", "timedatectl"];

/// A log line as the code writes it.
struct Line {
    place: String,
    level: String,
    event: String,
    message: String,
    fields: Vec<String>,
}

impl Line {
    /// How the table begins its row: the sentence up to what to do about it.
    fn row(&self) -> String {
        let first = self.message.split(". ").next().and_then(|text| text.split("; ").next());
        let fields: Vec<String> = self.fields.iter().map(|field| format!("`{field}`")).collect();
        let Self { level, event, .. } = self;
        format!("| {level} | `{event}` | {} | {} |", first.unwrap_or_default(), fields.join(", "))
    }

    fn acts(&self) -> bool {
        COMMANDS.iter().any(|command| self.message.contains(command))
    }

    fn names_a_key(&self) -> bool {
        let mut section = String::new();
        Config::defaults_toml().lines().any(|line| {
            if let Some(name) = line.strip_prefix('[') {
                section = name.trim_end_matches(']').to_owned();
            }
            line.split_once(" = ").is_some_and(|(key, _)| self.message.contains(&format!("{section}.{key}")))
        })
    }
}

/// The arguments of a macro from behind its parenthesis: strings are kept whole.
fn arguments(source: &str) -> Vec<String> {
    let (mut found, mut current, mut depth) = (Vec::new(), String::new(), 1);
    let (mut quoted, mut chars) = (false, source.chars());
    while let Some(next) = chars.next() {
        match next {
            '\\' if quoted => {
                current.extend(chars.next());
                continue;
            }
            '"' => quoted = !quoted,
            '(' | '[' | '{' if !quoted => depth += 1,
            ')' | ']' | '}' if !quoted => depth -= 1,
            ',' if !quoted && depth == 1 => {
                found.push(std::mem::take(&mut current).trim().to_owned());
                continue;
            }
            _ => {}
        }
        if depth == 0 {
            break;
        }
        current.push(next);
    }
    found.push(current.trim().to_owned());
    found.retain(|argument| !argument.is_empty());
    found
}

/// Every log line of the code.
fn lines() -> Vec<Line> {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let (mut files, mut found) = (Vec::new(), Vec::new());
    sources(&root.join("src"), &mut files);
    sources(&root.join("migrations"), &mut files);
    for path in files {
        let source = fs::read_to_string(&path).expect("a source is text");
        let source = source.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
        for level in ["error", "warn", "info", "debug", "trace"] {
            for (at, name) in source.match_indices(&format!("{level}!(")) {
                let mut arguments = arguments(&source[at + name.len()..]);
                let place = format!("{}:{}", path.display(), source[..at].lines().count());
                let message = arguments.pop().unwrap_or_default().trim_matches('"').to_owned();
                let (mut event, mut fields) = (String::new(), Vec::new());
                for argument in arguments {
                    match argument.split_once(" = ") {
                        Some(("event", value)) => value.trim_matches('"').clone_into(&mut event),
                        Some((field, _)) => fields.push(field.to_owned()),
                        None => fields.push(argument.trim_start_matches(['%', '?']).to_owned()),
                    }
                }
                found.push(Line { place, level: level.to_uppercase(), event, message, fields });
            }
        }
    }
    assert!(found.len() > 60, "the log lines were found");
    found
}

/// The rows of the table: what the code says, and what to do about it.
fn table() -> Vec<(String, String)> {
    let page = fs::read_to_string(PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("docs/log-lines.md"));
    let page = page.expect("there is a page on log lines");
    let rows = page.lines().filter(|row| {
        ["ERROR", "WARN", "INFO", "DEBUG", "TRACE"]
            .iter()
            .any(|level| row.starts_with(&format!("| {level} ")))
    });
    let halves = |row: &str| {
        let (said, act) = row.trim_end_matches(" |").rsplit_once(" | ").expect("a row has columns");
        (format!("{said} |"), act.to_owned())
    };
    rows.map(halves).collect()
}

#[test]
fn the_table_of_log_lines_is_that_of_the_code() {
    let (lines, table) = (lines(), table());
    let code: BTreeSet<String> = lines.iter().map(Line::row).collect();
    let told: BTreeSet<String> = table.iter().map(|(said, _)| said.clone()).collect();
    let list = |rows: Vec<&String>| rows.into_iter().cloned().collect::<Vec<_>>().join("\n");
    let (missing, old) = (list(code.difference(&told).collect()), list(told.difference(&code).collect()));
    assert!(
        missing.is_empty() && old.is_empty(),
        "the table in docs/log-lines.md misses:\n{missing}\nand has too much:\n{old}"
    );
    assert_eq!(table.len(), told.len(), "a row of the table is there twice");
}

#[test]
fn every_log_line_has_the_name_of_an_event_and_says_what_to_do() {
    let (lines, table) = (lines(), table());
    for line in &lines {
        let Line { place, level, event, message, .. } = line;
        let snake = event.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_');
        assert!(
            snake && !event.is_empty(),
            "{place}: an event in snake_case comes first: {event:?}, {message}"
        );
        let row = line.row();
        let act = table.iter().find(|(said, _)| *said == row).map_or("", |(_, act)| act.as_str());
        let idle = act.starts_with("Nothing");
        match level.as_str() {
            // Somebody must act: the line says with what.
            "ERROR" => assert!(line.acts(), "{place}: which command is to be run? {message}"),
            "WARN" => assert!(
                idle || line.acts() || line.names_a_key(),
                "{place}: which command is to be run, or which key changed? {message}"
            ),
            _ => {}
        }
    }
    for (kind, _) in KINDS {
        assert!(lines.iter().any(|line| line.event == kind), "no log line is a {kind}");
    }
}

#[test]
fn the_summary_has_the_figures_of_the_status() {
    let figures = serde_json::to_value(Figures::default()).expect("figures are JSON");
    let spelt = |name: &String| match name.strip_prefix("rate_") {
        Some(way) => ["1m", "5m", "15m"].iter().map(|window| format!("{way}_{window}")).collect(),
        None => vec![name.clone()],
    };
    let status: BTreeSet<String> = figures.as_object().expect("an object").keys().flat_map(spelt).collect();
    let lines = lines();
    let summary = lines.iter().find(|line| line.event == "summary").expect("there is a summary");
    assert_eq!(status, summary.fields.iter().cloned().collect());
}
