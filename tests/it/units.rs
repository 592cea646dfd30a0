//! Holds the files of `systemd/` to the code, and the pair of templates to the pair of units.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use target_notifyd::config::Config;
use tempfile::TempDir;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("systemd")
}

fn read(name: &str) -> String {
    fs::read_to_string(folder().join(name)).unwrap_or_else(|error| panic!("systemd/{name}: {error}"))
}

/// The keys that a daemon does not run without: the example sets these alone.
const REQUIRED: [&str; 2] = ["client", "organization_id"];
/// What the example says first.
const HEAD: &str = "\
# The configuration of target-notifyd: every key with its default, see target-notifyd.toml(5).
#
# After a change: target-notifyd check, then systemctl reload target-notifyd; the log names the keys that take a restart.
# Everybody on this host may read this file: for the property token see credentials.conf in
# /usr/share/doc/target-notifyd/examples. An instance goes by NAME.toml: of a copy of this file, change that name alone.

";

#[test]
fn the_example_of_the_configuration_has_every_key_at_its_default() {
    let (mut expected, mut set) = (HEAD.to_owned(), 0);
    for line in Config::defaults_toml().lines() {
        let key = line.split_once(" = ").map(|(key, _)| key).filter(|_| !line.starts_with('#'));
        let comment = key.is_some_and(|key| !REQUIRED.contains(&key));
        set += usize::from(key.is_some_and(|key| REQUIRED.contains(&key)));
        expected += &format!("{}{line}\n", if comment { "#" } else { "" });
    }
    assert_eq!(set, REQUIRED.len());
    assert!(read("config.toml") == expected, "systemd/config.toml is to be:\n{expected}");
}

#[test]
fn the_daemon_takes_the_example_once_the_account_is_set() {
    // The places that it names need not be there, nor be this user's.
    let own = TempDir::new().expect("a folder");
    let places = [("queue.path", "queue"), ("ingest.socket", "a"), ("admin.socket", "b")]
        .map(|(key, name)| format!("{key}={}", own.path().join(name).display()));
    let check = |overrides: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_target-notifyd"));
        command.arg("check").arg("--config").arg(folder().join("config.toml")).args(overrides);
        for place in &places {
            command.args(["-o", place]);
        }
        command.args(["-o", "queue.min_free=0B", "-o", "queue.reserve=0B"]);
        let output = command.output().expect("it runs");
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (code, told) = check(&[]);
    assert!(
        code == Some(78)
            && told.contains("target.client")
            && told.contains("target.organization_id")
            && told.lines().count() == 2,
        "{told}"
    );
    let (code, told) = check(&["-o", "target.client=a", "-o", "target.organization_id=0DD9@AdobeOrg"]);
    assert_eq!(code, Some(0), "{told}");
}

#[test]
fn the_templates_differ_from_the_units_in_the_instance_alone() {
    let (mut service, mut socket) = (String::new(), String::new());
    for line in read("target-notifyd.service").lines() {
        let line = line.replace("target-notifyd.socket", "target-notifyd@%i.socket");
        let key = line.split_once('=').map_or("", |(key, _)| key);
        let ending = match key {
            "Description" => " for %i",
            "ExecStart" => " --instance %i",
            "StateDirectory" | "RuntimeDirectory" => "-%i",
            _ => "",
        };
        service += &format!("{line}{ending}\n");
    }
    for line in read("target-notifyd.socket").lines() {
        let line = line.replace("target-notifyd.sock", "target-notifyd-%i.sock");
        let ending = if line.starts_with("Description=") { " for %i" } else { "" };
        socket += &format!("{line}{ending}\n");
    }
    assert!(
        read("target-notifyd@.service") == service,
        "systemd/target-notifyd@.service is to be:\n{service}"
    );
    assert!(read("target-notifyd@.socket") == socket, "systemd/target-notifyd@.socket is to be:\n{socket}");
}
