//! The pure paths of an event, from a line to a request's body: what they cost is counted by `instructions.rs`, and timed by
//! `benches/paths.rs`.

use std::hint::black_box;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use jiff::tz::TimeZone;
use target_notifyd::event::{Answer, Event, Moment, Outcome, Seq};
use target_notifyd::schedule::{Backoff, Scheduler, Settings};
use target_notifyd::wire::defaults::Defaults;
use target_notifyd::wire::record::{Page, PageBuilder};
use target_notifyd::wire::submission::Submission;
use target_notifyd::wire::{hash, request};

const MILLI: Duration = Duration::from_millis(1);

/// The wall clock of all lines, as Unix milliseconds.
const NOW: u64 = 1_700_000_000_000;

/// Settings with waits that suit tests.
pub(crate) fn schedule_settings() -> Settings {
    Settings {
        linger: 20 * MILLI,
        max_events: 50,
        max_bytes: 512 << 10,
        backoff: Backoff { initial: 10 * MILLI, max: 200 * MILLI, multiplier: 2.0 },
        isolate_after: 3,
        park_after: 6,
        unlisted_max: 100,
        concurrency: 64,
        host_concurrency: 32,
        max_hosts: 32,
        rate_limit: 0,
        breaker_failures: 5,
        breaker_open: 20 * MILLI,
        breaker_max: 100 * MILLI,
        max_age: Duration::from_secs(7 * 86_400),
        index_max_bytes: 48 << 20,
        default_cluster: None,
        edge_routing: true,
        slot_limit: Duration::from_secs(180),
        stuck_after: Duration::from_secs(60),
    }
}

/// A line of 800 bytes with its end, of one event.
pub(crate) fn line(session: u64, id: u64) -> String {
    let begin = format!(
        r#"{{"session_id":"session-{session}","type":"display","id":"{id}","impressionId":"{id}","timestamp":1700000000000,"visitor":{{"tntId":"visitor-{session}.35_0"}},"tokens":["kb2UkhM3AR8lZJyXJZBeG2qipfsIHvVzTQxHolz2IpSC"],"mbox":{{"name":"home","state":""#
    );
    let filled = "x".repeat(800 - begin.len() - 4);
    format!("{begin}{filled}\"}}}}\n")
}

/// A line of about 850 bytes with its end, of one event in a whole request as an SDK makes it.
pub(crate) fn request_line(session: u64, id: u64) -> String {
    let request = format!(
        r#""requestId":"r-{id}","id":{{"tntId":"visitor-{session}.35_0","thirdPartyId":"customer-{session}","customerIds":[{{"id":"c-{session}","integrationCode":"crm","authenticatedState":"authenticated"}}]}},"context":{{"channel":"web","userAgent":"Mozilla/5.0 (X11; Linux x86_64)","address":{{"url":"https://www.example.com/a/b?c=d","referringUrl":"https://www.example.com/"}},"browser":{{"host":"www.example.com","language":"de"}}}},"experienceCloud":{{"analytics":{{"logging":"server_side","supplementalDataId":"0123456789ABCDEF-0123456789ABCDEF"}}}}"#
    );
    let notification = format!(
        r#"{{"id":"{id}","impressionId":"{id}","type":"display","timestamp":1700000000000,"tokens":["kb2UkhM3AR8lZJyXJZBeG2qipfsIHvVzTQxHolz2IpSC"],"mbox":{{"name":"home","state":"{}"}},"parameters":{{"page":"start","language":"de"}}}}"#,
        "x".repeat(60)
    );
    format!(
        r#"{{"session_id":"session-{session}","request":{{{request},"notifications":[{notification}]}}}}"#
    ) + "\n"
}

/// What a line says.
pub(crate) fn parsed(line: &str) -> Submission {
    static ZONE: LazyLock<TimeZone> =
        LazyLock::new(|| TimeZone::posix("CET-1CEST,M3.5.0,M10.5.0/3").expect("the zone is sound"));
    let time_zone = Some(ZONE.clone());
    let defaults = Defaults { channel: true, time_zone, analytics_logging: true, ..Defaults::default() };
    Submission::parse(line.trim_end().as_bytes(), &defaults, NOW).expect("the line is sound")
}

/// Events of ten a session.
pub(crate) fn events(count: u64) -> Vec<Event> {
    let event = |number: u64| {
        let read = parsed(&line(number / 10, number));
        let one = read.notifications.into_iter().next().expect("a line has a notification");
        let (id, notification, envelope) = (one.id, one.json, Arc::clone(&read.envelope));
        Event { seq: Seq(number + 1), id, arrived: Moment::ZERO, notification, envelope }
    };
    (0..count).map(event).collect()
}

/// Takes `events` in, and sends and settles all of them.
pub(crate) fn scheduled(scheduler: &mut Scheduler, events: &[Event]) {
    let entries: Vec<_> = events.iter().map(hash::entry).collect();
    let behind = events.last().map_or(1, |last| last.seq.0 + 1);
    scheduler.handle_live(Moment::ZERO, Seq(1), Seq(behind), &entries);
    let now = Moment::from_millis(1_000);
    while let Some(attempt) = scheduler.poll_attempt(now) {
        let answer = Answer::Listed(vec![true; attempt.seqs.len()]);
        let outcome = Outcome { answer, retry_after: None, edge: None, known: None, detail: String::new() };
        let settled = scheduler.handle_outcome(now, attempt.id, &outcome);
        scheduler.handle_settled(now, &settled.delivered);
    }
    assert_eq!(scheduler.status().indexed, 0, "all was delivered");
}

/// A body with all of `events`.
pub(crate) fn body(events: &[Event]) -> Vec<u8> {
    let notifications = events.iter().map(|event| &*event.notification);
    request::body(&events[0].envelope.members, None, notifications, "an-id")
}

/// A page with all of `events`.
pub(crate) fn page(events: &[Event]) -> Vec<u8> {
    let mut page = PageBuilder::default();
    for event in events {
        page.push(&event.envelope, None, Moment::ZERO, event.id.clone(), event.notification.clone());
    }
    page.finish()
}

/// Reads one event back.
pub(crate) fn decoded(record: &[u8], position: usize) {
    let page = Page::decode(record).expect("the record is sound");
    black_box(page.event(Seq(1), position, None));
}
