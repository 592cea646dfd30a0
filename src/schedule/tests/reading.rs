//! How far the store is read ahead of what goes out.

use std::collections::BTreeMap;

use super::super::control::Pause;
use super::sim::PAGE;
use super::*;

/// Four requests at a time, for which sixteen lanes are enough.
fn few() -> Settings {
    Settings { linger: Duration::ZERO, concurrency: 4, host_concurrency: 2, ..settings() }
}

#[test]
fn no_more_is_read_than_goes_out_next() {
    for each in [1, 10] {
        let mut sim = Sim::new(1, few(), |_, _, entries, _| (ANSWER, all_listed(entries)));
        for number in 0..8_000 {
            sim.add(entry(number / each), false);
        }
        sim.run(sim.after(secs(1_000)));
        assert_eq!(sim.delivered.len(), 8_000);
        assert!(sim.most_indexed <= PAGE + (16 + 4) * each as usize, "{}", sim.most_indexed);
        assert!(sim.readings.iter().all(|reading| reading.is_next));
        // No session is cut in two but where a reading ends.
        let requests = sim.attempts.len() as u64;
        assert!(requests <= 8_000 / each + 8_000 / PAGE as u64, "{requests}");
    }
}

#[test]
fn it_is_read_on_for_sessions_that_come_again() {
    let mut sim = Sim::new(2, few(), |_, _, entries, _| (ANSWER, all_listed(entries)));
    for number in 0..12_000 {
        sim.add(entry(number % 300), false);
    }
    sim.run(sim.after(secs(1_000)));
    assert_eq!(sim.delivered.len(), 12_000);
    assert!(sim.attempts.len() < 12_000 / 20, "{} requests", sim.attempts.len());
    let far = sim.readings.iter().filter(|reading| !reading.is_next).count();
    assert!(far > sim.readings.len() / 2, "{far} of {}", sim.readings.len());
}

fn cluster(number: u64) -> Option<Cluster> {
    Some(Cluster::parse(&number.to_string()).unwrap())
}

/// A simulation in which each host takes its time to answer.
fn with_latencies(seed: u64, settings: Settings, of: impl Fn(Host) -> Duration + 'static) -> Sim<'static> {
    Sim::new(seed, settings, move |_, attempt, entries, _| (of(attempt.host), all_listed(entries)))
}

fn slow_35(host: Host) -> Duration {
    if Some(host) == cluster(35).map(Host::Edge) { secs(9) } else { ANSWER }
}

#[test]
fn it_is_read_on_for_others_behind_a_slow_host() {
    for each in [1, 50] {
        let settings = Settings { linger: Duration::ZERO, ..settings() };
        let mut sim = with_latencies(3, settings, slow_35);
        for number in 0..30_000 {
            sim.add(Entry { cluster: cluster(35), ..entry(number / each) }, false);
        }
        let other = |number| Entry { cluster: cluster(36), ..entry(number) };
        let others: Vec<Seq> = (90_000..90_010).map(|number| sim.add(other(number), false)).collect();
        let start = sim.now;
        sim.run(start.after(secs(60)));
        for seq in others {
            let at = sim.delivered.get(&seq).copied().unwrap();
            // They wait until it shows that the host is slow, and for the answer to one of its requests.
            assert!(at.since(start) < secs(12), "{each}: {:?}", at.since(start));
        }
        sim.run(start.after(secs(100_000)));
        assert_eq!(sim.delivered.len(), 30_010);
    }
}

/// A host that timeouts made narrow leaves slots to others, whatever is due for it.
#[test]
fn it_is_read_on_for_others_behind_a_narrow_host() {
    for edge_routing in [true, false] {
        let settings = Settings { linger: Duration::ZERO, edge_routing, ..settings() };
        let mut sent = 0;
        let mut sim = Sim::new(23, settings, move |_, attempt, entries, _| {
            sent += u64::from(attempt.host == Host::Client);
            match attempt.host {
                // All of the first round time out, so that it begins anew with few.
                Host::Client if sent <= 64 => (secs(10), Answer::Failed(Failure::Timeout)),
                Host::Client if sent > 65 => (secs(1), all_listed(entries)),
                _ => (ANSWER, all_listed(entries)),
            }
        });
        for number in 0..100 {
            sim.add(entry(number), false);
        }
        while sim.attempts.len() <= 65 {
            sim.run(sim.after(ANSWER));
        }
        for number in 1_000..6_000 {
            sim.add(entry(number), false);
        }
        let other = sim.add(Entry { cluster: cluster(36), ..entry(90_000) }, false);
        sim.run(sim.after(Duration::from_millis(500)));
        // Where all goes to the one host, nothing else could have the slots.
        assert_eq!(sim.delivered.contains_key(&other), edge_routing);
        assert!(edge_routing || sim.scheduler.status().indexed < 1_000);
    }
}

#[test]
fn it_is_read_on_while_there_are_slots_that_no_known_host_may_take() {
    let settings = Settings { linger: Duration::ZERO, host_concurrency: 4, ..settings() };
    let slow = |host| if host == Host::Client { ANSWER } else { secs(9) };
    let mut sim = with_latencies(4, settings, slow);
    for number in 0..20_000 {
        sim.add(Entry { cluster: cluster(35 + number % 2), ..entry(number) }, false);
    }
    let last = sim.add(entry(90_000), false);
    let start = sim.now;
    sim.run(start.after(secs(5)));
    assert!(sim.delivered[&last].since(start) < secs(1), "{:?}", sim.delivered.get(&last));
}

#[test]
fn a_host_that_is_faster_than_another_does_not_wait_for_it() {
    let slow = |host| if Some(host) == cluster(35).map(Host::Edge) { secs(1) } else { ANSWER };
    let mut sim = with_latencies(5, few(), slow);
    for number in 0..8_000 {
        sim.add(Entry { cluster: cluster(35 + number % 2), ..entry(number) }, false);
    }
    let start = sim.now;
    sim.run(start.after(secs(60)));
    let of_fast = sim.delivered.keys().filter(|seq| seq.0 % 2 == 0).count();
    assert_eq!(of_fast, 4_000, "two at a time, and fifty a second of each");
    assert!(sim.delivered.len() < 4_500);
}

#[test]
fn what_was_not_read_yet_lingers_no_more_after_a_flush() {
    let mut sim = with_latencies(6, Settings { linger: secs(3_600), ..few() }, |_| ANSWER);
    for number in 0..40 * 50 {
        sim.add(entry(number / 50), false);
    }
    let lone: Vec<Seq> = (90_000..90_010).map(|number| sim.add(entry(number), false)).collect();
    let start = sim.now;
    sim.run(start.after(Duration::from_millis(10)));
    assert!(sim.scheduler.status().indexed < 1_500, "full batches are due, and the others unread");
    sim.scheduler.flush(sim.now);
    let later = sim.add(entry(99_999), false);
    sim.run(start.after(secs(60)));
    assert!(lone.iter().all(|seq| sim.delivered.contains_key(seq)));
    assert!(!sim.delivered.contains_key(&later), "it came after the flush");
}

/// An index of some 1,600 lanes of one event.
fn small_index() -> Settings {
    Settings { linger: Duration::ZERO, index_max_bytes: 1 << 20, ..settings() }
}

#[test]
fn a_slow_host_with_more_lanes_than_the_index_holds_hides_no_other() {
    for (first, each, seed) in [(false, 1, 7), (true, 1, 8), (false, 3, 9)] {
        let mut sim =
            with_latencies(seed, small_index(), |host| match Some(host) == cluster(35).map(Host::Edge) {
                true => secs(2),
                false => ANSWER,
            });
        let other = |number| Entry { cluster: cluster(36), ..entry(number) };
        // Another host that had something to do before, or not.
        if first {
            sim.add(other(80_000), false);
        }
        for number in 0..10_000 * each {
            sim.add(Entry { cluster: cluster(35), ..entry(number / each) }, false);
        }
        let mut others: Vec<Seq> = (90_000..90_100).map(|number| sim.add(other(number), false)).collect();
        let start = sim.now;
        sim.run(start.after(secs(30)));
        let mut later = Vec::new();
        for number in 90_100..90_200 {
            later.push((sim.now, sim.add(other(number), true)));
            let until = sim.after(secs(1));
            sim.run(until);
        }
        sim.run(sim.after(secs(15)));
        others.retain(|seq| sim.delivered.get(seq).is_none_or(|at| at.since(start) >= secs(15)));
        assert_eq!(others, [], "{each}: what lay on the disk");
        later.retain(|(at, seq)| sim.delivered.get(seq).is_none_or(|end| end.since(*at) >= secs(15)));
        assert_eq!(later, [], "{each}: what came meanwhile");
        // As many of the slow host as it takes: 32 lanes a second while it is alone.
        let of_slow = sim.delivered.len() - 200 - usize::from(first);
        assert!(of_slow as u64 > 32 * 120 * each, "{each}: {of_slow}");
        sim.run(start.after(secs(10_000)));
        assert_eq!(sim.delivered.len(), sim.events.len());
        let mut newest: BTreeMap<Lane, Seq> = BTreeMap::new();
        for (_, attempt) in &sim.attempts {
            let before = newest.insert(attempt.lane, attempt.seqs[attempt.seqs.len() - 1]);
            assert!(before.is_none_or(|before| before < attempt.seqs[0]), "a session keeps its order");
        }
    }
}

#[test]
fn a_busy_host_with_more_lanes_than_the_index_holds_hides_no_other() {
    for edge_routing in [true, false] {
        let settings = Settings { edge_routing, ..small_index() };
        let healed = Moment::from_millis(1_000_000).after(secs(3_600));
        let mut sim = Sim::new(15, settings, move |now, attempt, entries, _| {
            match now < healed && (attempt.host != Host::Client || !edge_routing) {
                true => (ANSWER, Answer::Status(429)),
                false => (ANSWER, all_listed(entries)),
            }
        });
        sim.retry_after = Some(secs(3_600));
        for number in 0..10_000 {
            sim.add(Entry { cluster: cluster(35), ..entry(number) }, false);
        }
        let others: Vec<Seq> = (90_000..90_100).map(|number| sim.add(entry(number), false)).collect();
        sim.run(sim.after(secs(60)));
        assert!(sim.notices.iter().any(|one| matches!(one, Notice::HostBusy { .. })));
        match edge_routing {
            true => assert!(others.iter().all(|seq| sim.delivered.contains_key(seq))),
            // All are of the one host: it would be of no use.
            false => assert_eq!(sim.scheduler.status().forgotten_buckets, 0),
        }
        sim.run(healed.after(secs(10_000)));
        assert_eq!(sim.delivered.len(), sim.events.len());
    }
}

#[test]
fn a_few_lanes_with_more_events_than_the_index_holds_hide_no_other() {
    // Each event needs a request of its own: eight lanes of a host that is slow, forty with a quick one, and more than
    // are enough for an edge host, with others for another one.
    let all_to_one = Settings { edge_routing: false, ..small_index() };
    for (seed, lanes, each, settings, latency) in [
        (17, 8, 2_000, all_to_one.clone(), Duration::from_millis(500)),
        (18, 40, 1_000, all_to_one, secs(1)),
        (19, 400, 50, small_index(), secs(2)),
        (21, 700, 30, small_index(), secs(1)),
        (20, 1, 20_000, small_index(), ANSWER),
    ] {
        let mut sim = with_latencies(seed, settings, move |host| match host {
            Host::Client => latency,
            Host::Edge(_) => ANSWER,
        });
        for number in 0..lanes * each {
            let envelope = Fingerprint(u128::from(number));
            sim.add(Entry { envelope, ..entry(number % lanes) }, false);
        }
        let mut others = BTreeMap::new();
        let other = |number| Entry { cluster: cluster(36), ..entry(number) };
        for number in 90_000..90_100 {
            others.insert(sim.add(other(number), false), sim.now);
        }
        let start = sim.now;
        sim.run(start.after(secs(30)));
        for number in 90_100..90_200 {
            others.insert(sim.add(other(number), true), sim.now);
            let until = sim.after(secs(1));
            sim.run(until);
        }
        sim.run(sim.after(secs(15)));
        others.retain(|seq, at| sim.delivered.get(seq).is_none_or(|end| end.since(*at) >= secs(15)));
        assert_eq!(others, BTreeMap::new(), "{lanes}");
        // Nobody is slower for it.
        let of_few = sim.delivered.len() - 200;
        let able = 140 * 1_000 / latency.as_millis() as u64 * lanes.min(32);
        assert!(of_few as u64 >= able.min(lanes * each) * 9 / 10, "{lanes}: {of_few} of {able}");
        sim.run(start.after(secs(100_000)));
        assert_eq!(sim.delivered.len(), sim.events.len());
    }
}

#[test]
fn what_was_left_on_the_disk_is_not_read_anew_for_each_page_of_what_is_new() {
    let down = |attempt: &Attempt| attempt.host == Host::Client;
    let mut sim = Sim::new(16, small_index(), move |_, attempt, entries, _| match down(attempt) {
        true => (ANSWER, Answer::Failed(Failure::Connect)),
        false => (ANSWER, all_listed(entries)),
    });
    for number in 0..40_000 {
        sim.add(entry(number), false);
    }
    let other = sim.add(Entry { cluster: cluster(36), ..entry(90_000) }, false);
    let start = sim.now;
    sim.run(start.after(secs(20)));
    // It is read at a page a millisecond; every pass that was over is followed by as many pages of what is new.
    let pages = 40_000 / PAGE as u64;
    let most = Duration::from_millis(5 * pages) + ANSWER;
    assert!(sim.delivered[&other].since(start) < most, "{:?}", sim.delivered[&other].since(start));
}

#[test]
fn nothing_is_left_on_the_disk_for_others_where_there_are_none_or_it_goes_soon() {
    let quick = |_| Duration::from_millis(500);
    for (edge_routing, latency) in [(false, secs(2)), (true, quick(Host::Client))] {
        let settings = Settings { edge_routing, ..small_index() };
        let mut sim = with_latencies(10, settings, move |_| latency);
        for number in 0..10_000 {
            sim.add(entry(number), false);
        }
        sim.run(sim.after(secs(60)));
        assert_eq!(sim.scheduler.status().forgotten_buckets, 0, "{latency:?}");
        sim.run(sim.after(secs(10_000)));
        assert_eq!(sim.delivered.len(), 10_000);
        let pages = 10_000_usize.div_ceil(PAGE);
        assert!(sim.readings.len() <= pages + 1, "each is read once: {}", sim.readings.len());
    }
}

#[test]
fn nothing_is_left_on_the_disk_for_others_in_a_pause_of_all() {
    let mut sim = with_latencies(14, small_index(), |_| ANSWER);
    let pause = Pause { reason: String::new(), since: sim.now, until: None };
    let _paused = sim.scheduler.pause_host(sim.now, None, pause);
    // Slowly enough for it to show that nothing goes out.
    for number in 0..3_000 {
        sim.add(entry(number), true);
        let until = sim.after(Duration::from_millis(100));
        sim.run(until);
    }
    assert_eq!(sim.scheduler.status().forgotten_buckets, 0);
    assert!(sim.readings.len() < 100, "{}", sim.readings.len());
}
