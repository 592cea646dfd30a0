//! The fuzz targets over their committed corpora: what libFuzzer found once stays mended.

use std::collections::BTreeSet;
use std::fs;
use std::panic::catch_unwind;
use std::path::Path;

use toml::de::DeTable;

#[path = "../fuzz/targets.rs"]
mod targets;

#[test]
fn the_fuzz_targets_take_everything_in_their_corpora() {
    let package = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz");
    for (name, target) in targets::ALL {
        assert!(
            package.join("fuzz_targets").join(name).with_extension("rs").is_file(),
            "{name} is not fuzzed"
        );
        let mut count = 0;
        for entry in fs::read_dir(package.join("corpus").join(name)).expect("a corpus") {
            let path = entry.expect("the corpus can be listed").path();
            let data = fs::read(&path).expect("an input can be read");
            assert!(catch_unwind(|| target(&data)).is_ok(), "{name} fails on {}", path.display());
            count += 1;
        }
        assert!(count >= 5, "{name} has {count} inputs");
    }
}

/// Their package is built by cargo-fuzz alone, so nothing else says that it lacks a crate.
#[test]
fn the_package_of_the_fuzz_targets_has_each_crate_that_they_name() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let read = |path: &str| fs::read_to_string(root.join(path)).expect("a file of the project");
    let crates = |manifest: &str| -> BTreeSet<String> {
        let manifest = DeTable::parse(manifest).expect("it is TOML").into_inner();
        let kinds = ["dependencies", "dev-dependencies"].into_iter().filter_map(|kind| manifest.get(kind));
        let names = kinds.filter_map(|kind| kind.get_ref().as_table()).flat_map(DeTable::keys);
        names.map(|name| name.get_ref().to_string()).collect()
    };
    let (ours, theirs) = (crates(&read("Cargo.toml")), crates(&read("tests/fuzz/Cargo.toml")));
    let text = read("tests/fuzz/targets.rs");
    let paths: Vec<&str> = text.split(|one: char| !one.is_alphanumeric() && !"_:".contains(one)).collect();
    let named = |name: &&String| {
        let path = name.replace('-', "_") + "::";
        paths.iter().any(|one| one.starts_with(&path))
    };
    let used: Vec<_> = ours.iter().filter(named).collect();
    assert!(used.len() >= 4, "{used:?}");
    let missing: Vec<_> = used.into_iter().filter(|name| !theirs.contains(*name)).collect();
    assert!(missing.is_empty(), "{missing:?}");
}
