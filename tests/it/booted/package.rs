//! The Debian packages that are installed: two versions of the executable that the tests run.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::machine::text;

/// The two versions, the older first.
pub(crate) const VERSIONS: [&str; 2] = ["0.1.0-1", "0.1.0-2"];

/// Where cargo's own commands are looked for; `.ci/run` installs them in the first of these.
fn path() -> std::ffi::OsString {
    let tools = Path::new(env!("CARGO_MANIFEST_DIR")).join(".ci/tools/bin");
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::iter::once(tools).chain(std::env::split_paths(&path));
    std::env::join_paths(folders).expect("a path")
}

/// Why none can be made here, if so.
pub(crate) fn missing() -> Option<String> {
    let asked = Command::new("cargo").args(["deb", "--version"]).env("PATH", path()).output();
    let there = asked.is_ok_and(|output| output.status.success());
    (!there).then(|| "cargo-deb is not installed (cargo install --locked cargo-deb@3.8.0)".to_owned())
}

/// Makes both in `folder`.
pub(crate) fn make(folder: &Path) -> Vec<PathBuf> {
    let executable = Path::new(env!("CARGO_BIN_EXE_target-notifyd"));
    let built = executable.parent().expect("a folder");
    let profile = built.file_name().and_then(|name| name.to_str()).expect("a profile");
    let profile = if profile == "debug" { "dev" } else { profile };
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("systemd/build-deb");
    let make = |version: &&str| {
        let package = folder.join(format!("target-notifyd_{version}.deb"));
        let mut command = Command::new(&script);
        command.args(["--built", profile, "--fast", "--deb-version", version, "--output"]).arg(&package);
        command.env("PATH", path()).env("CARGO_TARGET_DIR", built.parent().expect("the target folder"));
        let output = command.output().expect("the script runs");
        assert!(output.status.success(), "{}", text(&output.stderr));
        package
    };
    VERSIONS.iter().map(make).collect()
}
