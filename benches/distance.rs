//! How fast a backlog goes to a server that is far away, over each protocol: `cargo bench --bench distance`. HTTP/1.1, of which
//! each request under way has a connection to itself, is the limit beside which HTTP/2 is seen.
#![expect(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stdout,
    reason = "a measurement that cannot go on panics, and tells what it found"
)]

#[expect(dead_code, reason = "the tests use more of it")]
#[path = "../tests/it/authority.rs"]
mod authority;
#[path = "../tests/it/far.rs"]
mod far;
#[expect(dead_code, reason = "the tests use more of it")]
#[path = "../tests/it/paths.rs"]
mod paths;
#[expect(dead_code, reason = "the tests use more of it")]
#[path = "../tests/it/support.rs"]
mod support;

use std::time::Duration;

use tempfile::TempDir;

use self::authority::Authority;
use self::far::{Far, Manner};
use self::support::Running;

/// How long a byte is under way: half a round trip.
const WAY: Duration = Duration::from_millis(10);
/// All are taken in before the first of them is due.
const LINGER: Duration = Duration::from_secs(5);
const SESSIONS: usize = 2_000;
const EVENTS_A_SESSION: usize = 40;

/// What each server is, its protocol, and its window in bytes.
const SERVERS: [(&str, &str, u32); 3] = [
    ("HTTP/1.1", "http/1.1", 65_535),
    ("HTTP/2, windows of 64 KiB", "h2", 65_535),
    ("HTTP/2, windows of 1 MiB", "h2", 1 << 20),
];

#[tokio::main]
async fn main() {
    println!(
        "{:28} {:>10} {:>12} {:>9} {:>12}",
        "round trip of 20 ms", "events/s", "of HTTP/1.1", "requests", "connections"
    );
    let mut limit = None;
    for (name, protocol, window) in SERVERS {
        let manner = Manner { protocol, window, way: WAY, connections: 1 };
        let (rate, requests, connections) = sent(manner).await;
        let share = rate / *limit.get_or_insert(rate);
        println!("{name:28} {rate:>10.0} {share:>12.2} {requests:>9} {connections:>12}");
    }
}

/// Sends a backlog: how many events a second arrived, in how many requests over how many connections.
#[expect(clippy::cast_precision_loss, reason = "figures for a person")]
async fn sent(manner: Manner) -> (f64, u64, usize) {
    let (folder, authority) = (TempDir::new().expect("a folder"), Authority::new("an authority"));
    let far = Far::start(&authority, manner).await;
    let mut settings = far::settings(&folder, &authority, &far);
    settings.schedule.linger = LINGER;
    let running = Running::start(settings).await;
    let numbers =
        (0..EVENTS_A_SESSION).flat_map(|number| (0..SESSIONS).map(move |session| (session, number)));
    let lines = numbers.map(|(session, number)| paths::line(session as u64, number as u64));
    running.submit(lines.map(|line| line.trim_end().to_owned()).collect()).await;
    let all = (SESSIONS * EVENTS_A_SESSION) as u64;
    let balance = running.settled(all).await;
    assert_eq!(balance.delivered, all);
    running.stop().await;
    let arrived = far.arrived.borrow().clone();
    assert_eq!(arrived.events, all, "each goes once");
    let (first, last) = arrived.times.expect("requests came");
    (all as f64 / (last - first).as_secs_f64(), arrived.requests, arrived.connections)
}
