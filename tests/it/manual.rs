//! The manual pages and the completions, as packages take them.

use std::collections::BTreeSet;
use std::fs;
use std::io::ErrorKind;
use std::path::Path;
use std::process::{Command, Output};

use target_notifyd::sandbox::{self, Sandbox};
use tempfile::TempDir;

use crate::process::{NOBODY, cannot_write, command};
use crate::support::{Running, settings};

/// The output of the executable where no configuration is.
fn run(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_target-notifyd"));
    command.env("TARGET_NOTIFYD_NONSENSE", "1").args(arguments).output().expect("the executable runs")
}

fn pages() -> TempDir {
    let folder = TempDir::new().expect("a folder");
    let output = run(&["man", &folder.path().display().to_string()]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    folder
}

/// What a program says of a page; `None` where it is not installed.
#[expect(clippy::print_stderr, reason = "a test says what it did not try")]
fn judged(program: &str, arguments: &[&str], page: &Path) -> Option<String> {
    match Command::new(program).args(arguments).arg(page).output() {
        Ok(Output { stdout, stderr, .. }) => {
            Some(String::from_utf8_lossy(&stdout).into_owned() + &String::from_utf8_lossy(&stderr))
        }
        Err(error) if error.kind() == ErrorKind::NotFound => {
            eprintln!("{program} is not installed: it was not asked about {}", page.display());
            None
        }
        Err(error) => panic!("{program}: {error}"),
    }
}

#[test]
fn there_is_a_page_for_each_command_and_no_reader_of_pages_finds_a_fault() {
    let folder = pages();
    let mut names = BTreeSet::new();
    for entry in fs::read_dir(folder.path()).expect("the folder can be listed") {
        let path = entry.expect("the folder can be listed").path();
        let name = path.file_name().expect("a name").to_string_lossy().into_owned();
        if let Some(said) = judged("mandoc", &["-T", "lint", "-W", "warning"], &path) {
            // The pages carry no date, so that the same source makes the same bytes; the library's breaks are harmless.
            let faults = said
                .lines()
                .filter(|line| !line.contains("missing date") && !line.contains("paragraph macro: br"))
                .collect::<Vec<_>>();
            assert!(faults.is_empty(), "{name}: {}", faults.join("\n"));
        }
        if let Some(said) = judged("groff", &["-man", "-ww", "-z"], &path) {
            assert_eq!(said, "", "{name}");
        }
        names.insert(name);
    }
    for command in ["", "-run", "-check", "-send", "-demo", "-bench", "-sandbox", "-completions", "-man"] {
        assert!(names.contains(&format!("target-notifyd{command}.8")), "{command}: {names:?}");
    }
    assert!(names.contains("target-notifyd.toml.5") && names.contains("target-notifyd.7"), "{names:?}");
}

#[test]
fn the_pages_show_what_a_command_takes_and_name_the_others() {
    let folder = pages();
    let page = |name: &str| {
        let text = fs::read_to_string(folder.path().join(name)).expect("a page");
        text.replace("\\-", "-").replace("\\fB", "").replace("\\fR", "")
    };
    for (name, expected) in [
        ("target-notifyd-pause.8", "\ntarget-notifyd pause [OPTIONS] --reason <TEXT>\n"),
        ("target-notifyd-queue.8", "\ntarget-notifyd queue <COMMAND>\n"),
        ("target-notifyd-send.8", "\nReplies are printed in the order"),
        ("target-notifyd-send.8", "\ntarget-notifyd(8), target-notifyd.toml(5), target-notifyd(7)\n"),
        ("target-notifyd.8", "\ntarget-notifyd.toml(5), target-notifyd(7)\n"),
        ("target-notifyd.7", "\ntarget-notifyd(8), target-notifyd.toml(5)\n"),
        ("target-notifyd.8", "\n.SH SIGNALS\n"),
    ] {
        let page = page(name);
        assert!(page.contains(expected), "{name} has no {expected:?}: {page}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_example_of_the_protocol_is_taken() {
    let page = fs::read_to_string(pages().path().join("target-notifyd.7")).expect("a page");
    let line = page.lines().find(|line| line.starts_with("{\"session_id\"")).expect("an example").to_owned();
    let (folder, sandbox) = (TempDir::new().expect("a folder"), Sandbox::start(sandbox::Settings::default()));
    let sandbox = sandbox.expect("the sandbox listens");
    let running = Running::start(settings(&folder, &sandbox)).await;
    let replies = running.submit(vec![line]).await;
    assert_eq!(replies[0]["status"], "queued", "{replies:?}");
    running.settled(1).await;
    running.stop().await;
    sandbox.stop().await;
}

#[test]
fn a_folder_that_is_not_there_is_named() {
    let output = run(&["man", "/nowhere/at/all"]);
    assert_eq!(output.status.code(), Some(74));
    assert!(String::from_utf8_lossy(&output.stderr).contains("/nowhere/at/all/target-notifyd"));
}

#[test]
fn completions_that_cannot_be_written_are_a_failure_and_a_reader_who_has_enough_is_none() {
    let folder = TempDir::new().expect("a folder");
    for shell in ["bash", "zsh", "fish"] {
        cannot_write(|| command(folder.path(), NOBODY, &["completions", shell]));
    }
}

#[test]
fn each_shell_takes_its_completions() {
    for shell in ["bash", "zsh", "fish"] {
        let output = run(&["completions", shell]);
        let text = String::from_utf8(output.stdout).expect("text");
        assert!(output.status.success() && text.contains("adopt-queue"), "{shell}: {text}");
        let folder = TempDir::new().expect("a folder");
        let path = folder.path().join(shell);
        fs::write(&path, text).expect("a file");
        if let Some(said) = judged(shell, &["-n"], &path) {
            assert!(said.is_empty(), "{shell}: {said}");
        }
    }
}

/// What bash offers behind `words`; `None` where it is not installed.
#[expect(clippy::print_stderr, reason = "a test says what it did not try")]
fn offered(words: &[&str]) -> Option<Vec<String>> {
    let script = r#"
source /dev/stdin
COMP_WORDS=("$@")
COMP_CWORD=$(($# - 1))
_target__notifyd "$1" "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD - 1]}"
printf '%s\n' "${COMPREPLY[@]}""#;
    let folder = TempDir::new().expect("a folder");
    let completions = folder.path().join("completions");
    fs::write(&completions, run(&["completions", "bash"]).stdout).expect("a file");
    let mut bash = Command::new("bash");
    bash.args(["-c", script, "bash"]).args(words).stdin(fs::File::open(&completions).expect("a file"));
    match bash.current_dir(folder.path()).output() {
        Ok(output) => Some(String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect()),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            eprintln!("bash is not installed: it was not asked what it offers");
            None
        }
        Err(error) => panic!("bash: {error}"),
    }
}

#[test]
fn bash_offers_what_may_come_next() {
    for (words, expected) in [
        (&["target-notifyd", "qu"][..], "queue"),
        (&["target-notifyd", "queue", "d"], "drop"),
        (&["target-notifyd", "-o", "batch.linger=1s", "status", "--wa"], "--watch"),
        (&["target-notifyd", "tail", "--outcome", "dea"], "dead"),
        // What they take is no name of a file, such as the one in this folder.
        (&["target-notifyd", "-o", "comp"], "comp"),
        (&["target-notifyd", "--instance", "comp"], "comp"),
        (&["target-notifyd", "--config", "comp"], "completions"),
    ] {
        if let Some(offered) = offered(words) {
            assert_eq!(offered.join(" "), expected, "{words:?}");
        }
    }
}
