//! A queue that is full by its own limits, as operators see it.

use std::fs;
use std::time::Instant;

use serde_json::{Value, json};

use super::machine::{Machine, refusing};
use super::reload::{click, replies};
use crate::process::LIMIT;

/// Submits so many clicks with so many bytes of state, each of a session of its own; how many are refused for want of room.
fn refused(machine: &Machine, count: usize, bytes: usize) -> usize {
    let lines: Vec<String> = (0..count).map(|number| click(&format!("s{number}"), false, bytes)).collect();
    replies(machine, &lines).iter().filter(|reply| reply.contains("queue_full")).count()
}

#[test]
fn a_queue_without_room_for_one_more_line_is_full() {
    let machine = Machine::start(refusing(503), &[]);
    machine.reload(&[("queue", "max_bytes", "\"64KiB\"")]);
    let each_by_itself: Vec<usize> = (0..7).map(|_| refused(&machine, 1, 10_000)).collect();
    assert_eq!(each_by_itself, [0, 0, 0, 0, 0, 0, 1]);
    let status = machine.status();
    assert!(status["held_bytes"].as_u64() < Some(64 << 10), "it does not end at the limit: {status}");
    assert_eq!((&status["state"], &status["fits_s"]), (&json!("full"), &json!(0.0)), "{status}");
    let screen = machine.told(&["status"]);
    for part in [": full, ", "none: queue.max_bytes is reached", "answered queue_full; why it waits:"] {
        assert!(screen.contains(part), "{part} in:\n{screen}");
    }
    // The error comes with the next sample.
    let (log, until) = (machine.folder.path().join("log"), Instant::now() + LIMIT);
    let told = || fs::read_to_string(&log).expect("a log");
    while !told().contains("\"queue_full\"") {
        assert!(Instant::now() < until, "it is not told: {}", told());
        std::thread::yield_now();
    }
    let line = told().lines().find(|line| line.contains("\"queue_full\"")).map(ToOwned::to_owned);
    let line: Value = serde_json::from_str(&line.expect("it was told")).expect("JSON");
    assert_eq!(
        (&line["level"], &line["limit"], &line["max_bytes"], &line["held_bytes"]),
        (&json!("ERROR"), &json!("queue.max_bytes"), &json!(64 << 10), &status["held_bytes"])
    );
    machine.reload(&[("queue", "max_bytes", "\"1MiB\"")]);
    machine.until(|status| status["state"] == "running" && status["fits_s"].as_f64() > Some(0.0));
    machine.stop();
}

#[test]
fn a_queue_that_is_full_is_so_after_a_restart_too_and_is_not_told_before_somebody_is_turned_away() {
    let small = ["-o", "queue.max_bytes=64KiB"];
    let mut machine = Machine::start(refusing(503), &small);
    assert!(refused(&machine, 400, 500) > 100);
    machine.kill_and_start(&small);
    let status = machine.status();
    assert_eq!(
        (&status["state"], &status["fits_s"], &status["full_first"], &status["unavailable"]),
        (&json!("full"), &json!(0.0), &json!("bytes"), &json!(0)),
        "{status}"
    );
    machine.heal();
    machine.until(|status| status["state"] == "running" && status["pending"] == 0);
    machine.stop();
}

#[test]
fn dead_letters_that_fill_the_queue_are_what_is_to_be_looked_at() {
    let machine = Machine::start(refusing(400), &[]);
    machine.reload(&[("queue", "max_bytes", "\"64KiB\"")]);
    assert_eq!(refused(&machine, 6, 10_000), 0);
    machine.until(|status| status["pending"] == 0 && status["dead_held"] == 6);
    assert_eq!(refused(&machine, 1, 10_000), 1);
    let status = machine.status();
    assert_eq!(status["state"], "full", "{status}");
    let screen = machine.told(&["status"]);
    for part in ["queue.max_bytes is reached", "dead letters count in it", "dead export", "dead list"] {
        assert!(screen.contains(part), "{part} in:\n{screen}");
    }
    machine.told(&["dead", "delete", "--all"]);
    assert_eq!(machine.status()["state"], "running");
    machine.stop();
}
