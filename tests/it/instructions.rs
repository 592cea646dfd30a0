//! What the pure paths cost, in instructions: times are noisy, callgrind's counts are the same wherever they are made. The
//! bounds are half above what was counted when they were set; who passes one has made an event dearer for everybody.

use std::collections::BTreeMap;
use std::hint::black_box;
use std::process::Command;
use std::sync::Arc;

use target_notifyd::event::{Answer, Event, Moment, Outcome, Seq};
use target_notifyd::sandbox::{self, Sandbox};
use target_notifyd::schedule::Scheduler;
use target_notifyd::wire::defaults::Defaults;
use target_notifyd::wire::record::{Page, PageBuilder};
use target_notifyd::wire::submission::Submission;
use target_notifyd::wire::{hash, request};

use crate::support::settings;

/// How often each path is walked.
const ROUNDS: u64 = 400;
/// The most instructions of a round, as `cargo test` builds: a submission of 800 bytes, an event from its commit to its
/// settlement in batches of ten, a body of ten events, and an event of a page of eight that is read back.
const BOUNDS: [(&str, u64); 4] = [
    ("measured_parse", 51_000),
    ("measured_schedule", 12_000),
    ("measured_body", 5_700),
    ("measured_decode", 13_700),
];

fn line(session: u64, id: u64) -> String {
    let begin = format!(
        r#"{{"session_id":"session-{session}","type":"display","id":"{id}","impressionId":"{id}","timestamp":1700000000000,"visitor":{{"tntId":"visitor-{session}.35_0"}},"tokens":["kb2UkhM3AR8lZJyXJZBeG2qipfsIHvVzTQxHolz2IpSC"],"mbox":{{"name":"home","state":""#
    );
    let filled = "x".repeat(800 - begin.len() - 4);
    format!("{begin}{filled}\"}}}}\n")
}

fn parsed(line: &str) -> Submission {
    let defaults = Defaults { channel: true, analytics_logging: true, ..Defaults::default() };
    Submission::parse(line.trim_end().as_bytes(), &defaults, 1_700_000_000_000).expect("the line is sound")
}

/// Events of ten a session.
fn events(count: u64) -> Vec<Event> {
    let event = |number: u64| {
        let read = parsed(&line(number / 10, number));
        let one = read.notifications.into_iter().next().expect("a line has a notification");
        let (id, notification, envelope) = (one.id, one.json, Arc::clone(&read.envelope));
        Event { seq: Seq(number + 1), id, arrived: Moment::ZERO, notification, envelope }
    };
    (0..count).map(event).collect()
}

#[inline(never)]
fn measured_parse(lines: &[String]) {
    for line in lines {
        black_box(parsed(line));
    }
}

#[inline(never)]
fn measured_schedule(scheduler: &mut Scheduler, events: &[Event]) {
    let entries: Vec<_> = events.iter().map(hash::entry).collect();
    scheduler.handle_live(Moment::ZERO, Seq(1), Seq(ROUNDS + 1), &entries);
    let now = Moment::from_millis(1_000);
    while let Some(attempt) = scheduler.poll_attempt(now) {
        let answer = Answer::Listed(vec![true; attempt.seqs.len()]);
        let outcome = Outcome { answer, retry_after: None, edge: None, known: None, detail: String::new() };
        let settled = scheduler.handle_outcome(now, attempt.id, &outcome);
        scheduler.handle_settled(now, &settled.delivered);
    }
}

#[inline(never)]
fn measured_body(events: &[Event]) {
    for _ in 0..ROUNDS {
        let notifications = events.iter().map(|event| &*event.notification);
        black_box(request::body(&events[0].envelope.members, None, notifications, "an-id"));
    }
}

#[inline(never)]
fn measured_decode(record: &[u8]) {
    for round in 0..ROUNDS {
        let page = Page::decode(record).expect("the record is sound");
        black_box(page.event(Seq(1), usize::try_from(round % 8).expect("small"), None));
    }
}

/// Run under callgrind by the test below; all paths, of which callgrind counts one.
#[tokio::test]
#[ignore = "is run by the_pure_paths_keep_to_their_bounds"]
async fn all_paths() {
    let all = events(ROUNDS);
    let lines: Vec<String> = (0..ROUNDS).map(|number| line(number / 10, number)).collect();
    measured_parse(&lines);
    let folder = tempfile::tempdir().expect("a folder");
    let sandbox = Sandbox::start(sandbox::Settings::default()).expect("the sandbox listens");
    let settings = settings(&folder, &sandbox).schedule;
    let mut scheduler = Scheduler::new(settings, 1);
    measured_schedule(&mut scheduler, &all);
    assert_eq!(scheduler.status().indexed, 0, "all was delivered");
    measured_body(&all[..10]);
    let mut page = PageBuilder::default();
    for event in &all[..8] {
        page.push(&event.envelope, None, Moment::ZERO, event.id.clone(), event.notification.clone());
    }
    measured_decode(&page.finish());
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
