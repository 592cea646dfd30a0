//! What the pure paths cost, in instructions: times are noisy, callgrind's counts are the same wherever they are made. The
//! bounds are up to half above what was counted when they were set; who passes one has made an event dearer for everybody.

use std::collections::BTreeMap;
use std::hint::black_box;
use std::process::Command;

use target_notifyd::event::Event;
use target_notifyd::schedule::Scheduler;

use crate::paths::{body, decoded, events, line, page, parsed, request_line, schedule_settings, scheduled};

/// How often each path is walked.
const ROUNDS: u64 = 400;
/// The most instructions of a round, as `cargo test` builds: a submission of 800 bytes in
/// the short form and in the long one, an event from its commit to its
/// settlement in batches of ten, a body of ten events, and an event of a page of eight that is read back.
const BOUNDS: [(&str, u64); 5] = [
    ("measured_parse", 51_000),
    ("measured_request", 100_000),
    ("measured_schedule", 12_000),
    ("measured_body", 5_700),
    ("measured_decode", 13_700),
];

#[inline(never)]
fn measured_parse(lines: &[String]) {
    for line in lines {
        black_box(parsed(line));
    }
}

#[inline(never)]
fn measured_request(lines: &[String]) {
    for line in lines {
        black_box(parsed(line));
    }
}

#[inline(never)]
fn measured_schedule(scheduler: &mut Scheduler, events: &[Event]) {
    scheduled(scheduler, events);
}

#[inline(never)]
fn measured_body(events: &[Event]) {
    for _ in 0..ROUNDS {
        black_box(body(events));
    }
}

#[inline(never)]
fn measured_decode(record: &[u8]) {
    for round in 0..ROUNDS {
        decoded(record, usize::try_from(round % 8).expect("small"));
    }
}

/// Run under callgrind by the test below; all paths, of which callgrind counts one.
#[test]
#[ignore = "is run by the_pure_paths_keep_to_their_bounds"]
fn all_paths() {
    let all = events(ROUNDS);
    let lines: Vec<String> = (0..ROUNDS).map(|number| line(number / 10, number)).collect();
    measured_parse(&lines);
    let lines: Vec<String> = (0..ROUNDS).map(|number| request_line(number / 10, number)).collect();
    measured_request(&lines);
    measured_schedule(&mut Scheduler::new(schedule_settings(), 1), &all);
    measured_body(&all[..10]);
    measured_decode(&page(&all[..8]));
}

#[test]
fn the_pure_paths_keep_to_their_bounds() {
    if Command::new("valgrind").arg("--version").output().is_err() {
        eprintln!("skipped: valgrind is not installed, which counts instructions");
        return;
    }
    let this = std::env::current_exe().expect("the test has a path");
    let start = |path: &str| {
        Command::new("valgrind")
            .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
            .arg(format!("--toggle-collect=*{path}*"))
            .arg(&this)
            .args(["--exact", "instructions::all_paths", "--ignored", "--test-threads=1"])
            .output()
            .expect("valgrind can be started")
    };
    let mut found = BTreeMap::new();
    for (path, bound) in BOUNDS {
        let output = start(path);
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{text}");
        let counted = text.lines().rev().find_map(|line| line.split_once("Collected : "));
        let counted: u64 = counted.and_then(|(_, count)| count.trim().parse().ok()).expect("a count");
        let each = counted / ROUNDS;
        println!("{path}: {each} instructions, at most {bound}");
        found.insert(path, (each, bound));
    }
    let over: Vec<_> = found.iter().filter(|(_, (each, bound))| each > bound || *each == 0).collect();
    assert!(over.is_empty(), "instructions of a round and their bounds: {over:?}");
}
