//! Holds the README to the code: its configuration, its log lines, and its producers.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use target_notifyd::config::Config;
use target_notifyd::sandbox::{self, Sandbox};
use tempfile::TempDir;

use crate::support::{Running, settings};

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn readme() -> String {
    fs::read_to_string(root().join("README.md")).expect("there is a README")
}

/// The table of the configuration, from the commented defaults.
fn configuration() -> String {
    let mut table = String::from("| key | default | meaning |\n| --- | --- | --- |\n");
    let (mut section, mut about) = (String::new(), String::new());
    for line in Config::defaults_toml().lines() {
        if let Some(name) = line.strip_prefix('[') {
            section = name.trim_end_matches(']').to_owned();
        } else if let Some(text) = line.strip_prefix('#') {
            about.push_str(text);
        } else if let Some((key, default)) = line.split_once(" = ") {
            table.push_str(&format!("| `{section}.{key}` | `{default}` | {} |\n", about.trim()));
            about.clear();
        }
    }
    table
}

#[test]
fn the_configuration_table_is_that_of_the_code() {
    let table = configuration();
    assert!(readme().contains(&table), "the README's table of the configuration is to be:\n{table}");
}

/// The level and the first sentence of every log line in a source.
fn log_lines(source: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for level in ["error", "warn", "info", "debug", "trace"] {
        for (at, name) in source.match_indices(&format!("{level}!(")) {
            let (mut depth, mut text, mut last) = (1, None::<String>, String::new());
            let mut chars = source[at + name.len()..].chars();
            while depth > 0 {
                let Some(next) = chars.next() else { break };
                match (&mut text, next) {
                    (Some(literal), '"') => {
                        last = std::mem::take(literal);
                        text = None;
                    }
                    (Some(literal), '\\') => literal.extend(chars.next()),
                    (Some(literal), other) => literal.push(other),
                    (None, '"') => text = Some(String::new()),
                    (None, '(') => depth += 1,
                    (None, ')') => depth -= 1,
                    _ => {}
                }
            }
            let first = last.split(". ").next().unwrap_or_default().split("; ").next().unwrap_or_default();
            found.push((level.to_uppercase(), first.to_owned()));
        }
    }
    found
}

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("a folder can be listed") {
        let path = entry.expect("a folder can be listed").path();
        match path.is_dir() {
            true => sources(&path, found),
            false => found.push(path),
        }
    }
}

#[test]
fn every_log_line_is_explained() {
    let (mut files, readme) = (Vec::new(), readme());
    sources(&root().join("src"), &mut files);
    sources(&root().join("migrations"), &mut files);
    let mut missing = Vec::new();
    let mut count = 0;
    for path in files {
        let source = fs::read_to_string(&path).expect("a source is text");
        let source = source.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
        for (level, line) in log_lines(source) {
            count += 1;
            if !readme.contains(&format!("| {level} | {line} |")) {
                missing.push(format!("| {level} | {line} |"));
            }
        }
    }
    assert!(count > 40, "the log lines were found");
    assert!(missing.is_empty(), "the README's table of log lines misses:\n{}", missing.join("\n"));
}

/// The blocks of code of one language that write to the socket.
fn producers(language: &str) -> Vec<String> {
    let (readme, fence) = (readme(), format!("```{language}\n"));
    let blocks = readme.split(fence.as_str()).skip(1).filter_map(|rest| rest.split("```").next());
    blocks
        .filter(|block| block.contains("/tmp/notify.sock") && !block.contains(" run "))
        .map(str::to_owned)
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_producers_work() {
    let folder = TempDir::new().expect("a folder");
    let sandbox = Sandbox::start(sandbox::Settings::default()).expect("the sandbox listens");
    let running = Running::start(settings(&folder, &sandbox)).await;
    let executable = Path::new(env!("CARGO_BIN_EXE_target-notifyd")).parent().expect("a folder");
    let path = format!("{}:{}", executable.display(), std::env::var("PATH").unwrap_or_default());
    let mut delivered = 0;
    for (language, program, arguments) in [
        ("sh", "sh", &["-c"][..]),
        ("python", "python3", &["-c"]),
        ("js", "node", &["-e"]),
        ("php", "php", &["-r"]),
    ] {
        let blocks = producers(language);
        assert_eq!(blocks.len(), 1, "one producer in {language}");
        let code = blocks[0].replace("/tmp/notify.sock", &running.socket.display().to_string());
        let mut command = Command::new(program);
        command.args(arguments).arg(code.trim_start_matches("<?php")).env("PATH", &path).stdin(Stdio::null());
        match tokio::task::spawn_blocking(move || command.output()).await.expect("no panic") {
            Ok(output) => {
                let printed = String::from_utf8_lossy(&output.stdout).into_owned();
                let told = String::from_utf8_lossy(&output.stderr).into_owned();
                assert!(output.status.success() && printed.contains("queued"), "{language}: {printed}{told}");
                delivered += 1;
            }
            // .ci/run installs them all; elsewhere those are tried that are there.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                eprintln!("{program} is not installed: its producer was not tried");
            }
            Err(error) => panic!("{program}: {error}"),
        }
    }
    assert_eq!(running.settled(delivered).await.delivered, delivered);
    running.stop().await;
    sandbox.stop().await;
}
