//! The fuzz targets over their committed corpora: what libFuzzer found once stays mended.

use std::fs;
use std::panic::catch_unwind;
use std::path::Path;

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
