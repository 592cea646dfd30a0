//! Holds the floors of the architecture: who may import whom, and who may name which library.

use std::fs;
use std::path::{Path, PathBuf};

/// The floor of each folder or file of `src/`, lowest first. The composition, which is one floor of the design, has its order, too:
/// without one, parts of it import each other.
const FLOORS: [(&str, u8); 21] = [
    ("contents", 0),
    ("event", 0),
    ("failpoint", 0),
    ("schedule", 1),
    ("wire", 2),
    ("ingest", 3),
    ("queue", 3),
    ("delivery", 3),
    ("sandbox", 3),
    ("config", 4),
    ("figures", 4),
    ("service", 4),
    ("trial", 4),
    ("admin", 5),
    ("bench", 5),
    ("demo", 5),
    ("telemetry", 5),
    ("daemon", 6),
    ("cli", 7),
    ("allocator", 8),
    ("main", 8),
];

/// Libraries that one folder alone may name.
const OWNED: [(&str, &str); 2] = [("sled", "queue"), ("reqwest", "delivery")];

/// The source files below a folder.
pub(crate) fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("src can be listed") {
        let path = entry.expect("src can be listed").path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|ending| ending == "rs") {
            found.push(path);
        }
    }
}

fn part_of(path: &Path, src: &Path) -> String {
    let inside = path.strip_prefix(src).expect("a source lies in src");
    let first =
        inside.components().next().expect("a source has a name").as_os_str().to_string_lossy().into_owned();
    first.trim_end_matches(".rs").to_owned()
}

fn floor(part: &str) -> Option<u8> {
    FLOORS.iter().find(|(name, _)| *name == part).map(|(_, floor)| *floor)
}

/// The parts of the crate that a line names after `crate::` or `target_notifyd::`.
fn named_parts(line: &str) -> Vec<String> {
    let mut parts = Vec::new();
    for prefix in ["crate::", "target_notifyd::"] {
        for (at, _) in line.match_indices(prefix) {
            let rest = &line[at + prefix.len()..];
            let names = match rest.strip_prefix('{') {
                Some(group) => group.split('}').next().unwrap_or("").split(',').collect(),
                None => vec![rest],
            };
            for name in names {
                let name: String =
                    name.trim().chars().take_while(|c| c.is_ascii_lowercase() || *c == '_').collect();
                parts.push(name);
            }
        }
    }
    parts
}

fn is_comment(line: &str) -> bool {
    line.trim_start().starts_with("//")
}

#[test]
fn every_part_has_a_floor_and_imports_from_below_only() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&src, &mut files);
    assert!(files.len() > 5, "the sources were found");
    for path in files.iter().filter(|path| !path.ends_with("src/lib.rs")) {
        let part = part_of(path, &src);
        let own = floor(&part).unwrap_or_else(|| panic!("{} has no floor", path.display()));
        let text = fs::read_to_string(path).expect("a source is text");
        for (number, line) in text.lines().enumerate().filter(|(_, line)| !is_comment(line)) {
            for named in named_parts(line) {
                let Some(other) = floor(&named) else { continue };
                let allowed = named == part || other < own;
                assert!(allowed, "{}:{}: {part} may not import {named}", path.display(), number + 1);
            }
        }
    }
}

#[test]
fn sled_and_reqwest_are_named_by_their_owners_alone() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&src, &mut files);
    for path in &files {
        let part = part_of(path, &src);
        let text = fs::read_to_string(path).expect("a source is text");
        for (library, owner) in OWNED {
            let names = text.lines().any(|line| !is_comment(line) && line.contains(&format!("{library}::")));
            assert!(!names || part == owner, "{} names {library}, which {owner} owns", path.display());
        }
    }
}
