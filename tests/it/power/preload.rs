//! The interposed library: how it is built, and how a program is run with it.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use tempfile::TempDir;

/// The library, built once for each run of the tests by the C compiler that the build needs anyway.
pub(crate) fn library() -> &'static Path {
    static BUILT: OnceLock<(TempDir, PathBuf)> = OnceLock::new();
    let built = BUILT.get_or_init(|| {
        let folder = TempDir::new().expect("a folder");
        let library = folder.path().join("interpose.so");
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/power/interpose.c");
        let compiler = std::env::var_os("CC").unwrap_or_else(|| "cc".into());
        let mut command = Command::new(&compiler);
        command.args(["-shared", "-fPIC", "-O1", "-pthread", "-o"]).arg(&library).arg(&source);
        let status = command.status().unwrap_or_else(|error| panic!("{}: {error}", compiler.display()));
        assert!(status.success(), "{} cannot build {}", compiler.display(), source.display());
        (folder, library)
    });
    &built.1
}

/// Lets a program record into `log` what it does below `root`, and fail as `fault` says (see `interpose.c`).
pub(crate) fn preload(command: &mut Command, root: &Path, log: &Path, fault: &str) {
    let root = root.canonicalize().expect("the folder is there");
    command.env("LD_PRELOAD", library()).env("INTERPOSE_ROOT", root).env("INTERPOSE_LOG", log);
    command.env("INTERPOSE_FAULT", fault);
}
