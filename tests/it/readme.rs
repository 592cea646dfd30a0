//! Holds the README and the pages of `docs/` to the code: the configuration, the metrics, and the producers.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use target_notifyd::config::Config;
use target_notifyd::sandbox::{self, Sandbox};
use tempfile::TempDir;

use crate::process::{LIMIT, terminate};
use crate::support::{Running, settings};

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn readme() -> String {
    page("README.md")
}

fn page(name: &str) -> String {
    fs::read_to_string(root().join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
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
    assert!(
        page("docs/configuration.md").contains(&table),
        "the table in docs/configuration.md is to be:\n{table}"
    );
}

#[test]
fn the_table_of_metrics_is_that_of_the_code() {
    let mut table = String::from("| metric | kind | meaning |\n| --- | --- | --- |\n");
    for metric in target_notifyd::daemon::metrics::all() {
        table.push_str(&format!("| `{}` | {} | {} |\n", metric.name, metric.kind, metric.help));
    }
    assert!(page("docs/metrics.md").contains(&table), "the table in docs/metrics.md is to be:\n{table}");
}

/// Every page, by its path from the root.
fn pages() -> Vec<String> {
    let docs = fs::read_dir(root().join("docs")).expect("there are docs");
    let names =
        docs.map(|entry| entry.expect("docs can be listed").file_name().to_string_lossy().into_owned());
    std::iter::once("README.md".to_owned()).chain(names.map(|name| format!("docs/{name}"))).collect()
}

/// A page without its blocks of code.
fn prose(text: &str) -> String {
    text.split("```").step_by(2).collect()
}

/// What a link to each heading of a page is called.
fn anchors(page: &str) -> Vec<String> {
    let headings = page
        .lines()
        .filter_map(|line| line.trim_start_matches('#').strip_prefix(' ').filter(|_| line.starts_with('#')));
    let plain = |letter: &char| letter.is_alphanumeric() || matches!(letter, ' ' | '-' | '_');
    headings
        .map(|text| text.to_lowercase().chars().filter(plain).collect::<String>().replace(' ', "-"))
        .collect()
}

#[test]
fn every_link_leads_somewhere() {
    let mut count = 0;
    for name in pages() {
        let text = prose(&page(&name));
        let links = text.split("](").skip(1).filter_map(|rest| rest.split(')').next());
        for link in links.filter(|link| !link.contains("://")) {
            let (file, anchor) = link.split_once('#').unwrap_or((link, ""));
            let folder = Path::new(&name).parent().expect("a page is in a folder");
            let file = if file.is_empty() { PathBuf::from(&name) } else { folder.join(file) };
            assert!(root().join(&file).exists(), "{name} links to {link}, which is not there");
            if !anchor.is_empty() {
                let found = anchors(&prose(&page(&file.display().to_string())));
                assert!(
                    found.iter().any(|one| one == anchor),
                    "{name} links to {link}, a heading that is not there: {found:?}"
                );
            }
            count += 1;
        }
    }
    assert!(count > 5, "the links were found");
}

#[test]
fn the_package_has_every_page_and_example() {
    let manifest = page("Cargo.toml");
    for (folder, assets) in
        [("docs", "docs/*.md"), ("examples", "examples/*"), ("systemd/examples", "systemd/examples/*.conf")]
    {
        assert!(
            manifest.contains(&format!("[\"{assets}\", \"usr/share/doc/target-notifyd/")),
            "{assets} is not packed"
        );
        let ending = Path::new(assets).extension();
        for entry in fs::read_dir(root().join(folder)).expect("the folder can be listed") {
            let path = entry.expect("the folder can be listed").path();
            assert!(ending.is_none() || path.extension() == ending, "{} is not packed", path.display());
        }
    }
}

#[test]
fn no_page_names_a_metric_that_is_none() {
    let known: Vec<&str> = target_notifyd::daemon::metrics::all().map(|metric| metric.name).collect();
    for name in pages() {
        let text = page(&name);
        for word in text.split(|letter: char| !letter.is_alphanumeric() && letter != '_') {
            let is_metric = word.starts_with("target_notifyd_");
            assert!(!is_metric || known.contains(&word), "{name} names {word}");
        }
    }
}

#[test]
fn nothing_stands_in_the_readme_twice() {
    let readme = readme();
    let titles: Vec<&str> =
        readme.lines().filter(|line| line.starts_with("## ") || line.starts_with("- **")).collect();
    let mut seen = std::collections::BTreeSet::new();
    for title in titles {
        let title = title.split(".**").next().unwrap_or(title);
        assert!(seen.insert(title), "{title} stands there twice");
    }
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

/// The timeouts of the samples, and those that a machine with much else to do keeps.
const PATIENT: [(&str, &str); 4] =
    [("10s", "300s"), ("10000", "300000"), ("timeout(10)", "timeout(300)"), (", 10)", ", 300)")];

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
        let code = PATIENT.iter().fold(blocks[0].clone(), |code, (told, here)| code.replace(told, here));
        let code = code.replace("/tmp/notify.sock", &running.socket.display().to_string());
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

/// The lines of the shell's blocks that run the executable by cargo and have a path below /tmp, as they are run here: below
/// `folder`, with the stand-in at `target`.
fn by_hand(folder: &Path, target: &str) -> Vec<String> {
    let readme = readme().replace("\\\n", "").replace("|\n", "|");
    let blocks = readme.split("```sh\n").skip(1).filter_map(|rest| rest.split("```").next());
    let lines =
        blocks.flat_map(str::lines).filter(|line| line.contains("cargo run ") && line.contains("/tmp/"));
    let here = |line: &str| {
        let line = line.replace("/tmp/", &format!("{}/", folder.display())).replace("127.0.0.1:8080", target);
        // Nothing of this machine's own configuration counts.
        line.replace("cargo run --release --", env!("CARGO_BIN_EXE_target-notifyd")) + " --config /dev/null"
    };
    lines.map(here).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_tried_by_hand_works_for_any_user() {
    let folder = TempDir::new().expect("a folder");
    let sandbox = Sandbox::start(sandbox::Settings::default()).expect("the sandbox listens");
    let lines = by_hand(folder.path(), &sandbox.address().to_string());
    let [daemon, asks @ ..] = lines.as_slice() else { panic!("the README tells how to run it") };
    assert!(daemon.contains(" run ") && asks.len() >= 4, "{lines:?}");
    let shell = |line: &str| {
        let mut command = Command::new("sh");
        command.args(["-c", line]).stdin(Stdio::null());
        command
    };
    let small = "-o queue.min_free=0B -o queue.reserve=0B";
    let mut daemon = shell(&format!("exec {daemon} {small}"));
    let mut daemon = daemon.stderr(Stdio::null()).spawn().expect("the daemon starts");
    let until = Instant::now() + LIMIT;
    while std::os::unix::net::UnixStream::connect(folder.path().join("notify-admin.sock")).is_err() {
        assert!(Instant::now() < until, "the admin socket does not come");
        std::thread::yield_now();
    }
    for line in asks {
        let ended = shell(line).output().expect("it runs");
        assert!(ended.status.success(), "{line}: {ended:?}");
    }
    assert!(terminate(&mut daemon).success());
    assert_eq!(sandbox.totals().impressions, 1);
    sandbox.stop().await;
}
