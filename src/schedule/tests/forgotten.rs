//! What a lane that left a full index is not to lose.

use super::super::control::{Pause, Selection};
use super::super::index::{Index, Reader};
use super::*;

#[test]
fn a_pass_that_finds_no_room_shortens_no_wait() {
    let (now, lane) = (Moment::from_millis(1_000_000), entry(1).lane);
    let mut index = Index::new();
    index.forget(now, lane, Seq(1), now.after(secs(60)));
    index.forget(now.after(secs(1)), lane, Seq(2), now.after(secs(2)));
    assert!(index.waits(now.after(secs(59)), lane));
    assert!(!index.waits(now.after(secs(60)), lane));
}

#[test]
fn passes_rest_for_as_long_as_they_read_and_longer_where_a_host_crowds_the_index() {
    let (now, lane) = (Moment::from_millis(1_000_000), entry(1).lane);
    for (took, crowded, less, brought, starts) in [
        (1, true, false, false, 10),
        (30, false, false, false, 30),
        (30, true, false, false, 90),
        (30, true, true, false, 30),
        (30, true, true, true, 10),
        (50, true, false, false, 120),
    ] {
        let mut index = Index::new();
        index.cursor = Seq(9);
        index.tail = Seq(9);
        index.forget(now, lane, Seq(1), now.after(secs(10)));
        let now = now.after(secs(10));
        assert!(index.next(now, true, false).is_some());
        if crowded {
            index.note_crowd();
        }
        if brought {
            index.note_brought();
        }
        index.forget(now, lane, Seq(1), now);
        index.read(now, Reader::Pass, Seq(9));
        index.rest(now, secs(took));
        if less {
            index.rest_less();
        }
        assert_eq!(index.wakes(), Some(now.after(secs(starts))), "{took} {crowded} {less} {brought}");
        assert_eq!(index.next(now.after(secs(starts - 1)), true, false), None);
        assert!(index.next(now.after(secs(starts)), true, false).is_some());
    }
}

#[test]
fn a_pass_that_ends_early_leaves_marked_what_is_behind_it_and_what_it_skipped() {
    let start = Moment::from_millis(1_000_000);
    let mut index = Index::new();
    (index.cursor, index.tail) = (Seq(100), Seq(100));
    let lanes: Vec<Lane> = (0..4).map(|number| entry(number).lane).collect();
    for (lane, first) in lanes.iter().zip([1, 5, 20, 60]) {
        index.forget(start, *lane, Seq(first), start);
    }
    let pass = |index: &mut Index, now| index.next(now, true, false).map(|(_, from)| from);
    // The first one is whole: nothing tells how long one takes.
    let mut now = start;
    assert_eq!(pass(&mut index, now), Some(Seq(1)));
    index.read(now, Reader::Pass, Seq(50));
    index.cut(now);
    index.rest(now, secs(20));
    assert_eq!(pass(&mut index, now), Some(Seq(50)));
    for (lane, first) in lanes.iter().zip([1, 5, 20, 60]) {
        index.forget(now, *lane, Seq(first), now);
    }
    index.read(now, Reader::Pass, Seq(100));
    index.rest(now, secs(20));
    now = now.after(secs(40));
    assert_eq!(pass(&mut index, now), Some(Seq(1)));
    // Of the second lane something is skipped, and the others are admitted as far as it was read.
    index.forget(now, lanes[1], Seq(7), now);
    index.read(now, Reader::Pass, Seq(50));
    index.cut(now);
    index.rest(now, secs(10));
    now = now.after(secs(10));
    assert_eq!((index.marked(), index.lowest()), (4, Some(Seq(7))));
    assert_eq!(pass(&mut index, now), Some(Seq(7)));
    index.read(now, Reader::Pass, Seq(50));
    index.cut(now);
    index.rest(now, secs(1));
    now = now.after(secs(1));
    assert_eq!((index.marked(), pass(&mut index, now)), (4, Some(Seq(50))), "the third's is behind, too");
}

/// A window that holds few of the lanes, so that each is forgotten whenever it waits.
fn small() -> Settings {
    Settings { index_max_bytes: 4 << 10, ..settings() }
}

#[test]
fn an_event_that_no_answer_lists_is_set_aside_though_it_is_forgotten_at_each_wait() {
    let mut sim =
        Sim::new(21, small(), |_, _, entries, _| (ANSWER, Answer::Listed(vec![false; entries.len()])));
    for lane in 0..40 {
        sim.add(entry(lane), true);
    }
    sim.run(sim.after(secs(4 * 3_600)));
    assert_eq!(sim.buried.len(), 40, "{:?}", sim.scheduler.status());
    assert!(sim.buried.values().all(|(reason, _)| *reason == DeadReason::NotAcknowledged));
    assert_eq!(sim.attempts.len(), 40 * 6, "each as often as it takes, and no more");
}

#[test]
fn nothing_is_forgotten_for_others_while_nothing_can_go_out() {
    let healed = Moment::from_millis(1_000_000).after(secs(3_600));
    for (edge_routing, paused) in [(false, false), (true, false), (true, true)] {
        let mut sim =
            Sim::new(25, Settings { edge_routing, ..small() }, |now, _, entries, _| match now < healed {
                true => (ANSWER, Answer::Failed(Failure::Connect)),
                false => (ANSWER, all_listed(entries)),
            });
        for lane in 0..200 {
            sim.add(entry(lane), false);
        }
        if paused {
            let pause = Pause { reason: String::new(), since: sim.now, until: None };
            let _paused = sim.scheduler.pause_host(sim.now, None, pause);
        }
        sim.run(healed);
        let forgotten = sim.scheduler.status().forgotten_buckets;
        // What is behind those that are known may be another host's, where there may be another.
        assert_eq!(forgotten > 0, edge_routing && !paused, "{forgotten}");
        assert!(sim.delivered.is_empty());
        if paused {
            let _resumed = sim.scheduler.resume_host(sim.now, None);
        }
        sim.run(healed.after(secs(600)));
        assert_eq!(sim.delivered.len(), 200, "{:?}", sim.scheduler.status());
    }
}

#[test]
fn a_session_backs_off_though_it_is_forgotten_at_each_wait() {
    let mut sim = Sim::new(22, small(), |_, _, _, _| (ANSWER, Answer::Status(420)));
    for lane in 0..40 {
        sim.add(entry(lane), true);
    }
    sim.run(sim.after(secs(3_600)));
    let late = sim.attempts.iter().filter(|(at, _)| sim.now.since(*at) < secs(1_200)).count();
    assert!(late <= 40 * 12, "{late} requests in 20 minutes, at waits of up to five");
}

#[test]
fn a_session_backs_off_though_its_first_event_is_dropped_while_it_is_forgotten() {
    let mut sim = Sim::new(24, small(), |_, _, _, _| (ANSWER, Answer::Status(420)));
    sim.retry_after = Some(secs(300));
    for lane in (0..5).chain(0..5) {
        sim.add(entry(lane), true);
    }
    sim.run(sim.after(secs(10)));
    assert_eq!(sim.attempts.len(), 5);
    // Forgotten as held, which is for a shorter time than it backs off.
    sim.scheduler.hold(sim.now, Selection::All);
    for lane in 5..45 {
        sim.add(entry(lane), true);
    }
    sim.run(sim.after(secs(10)));
    let known = |lane: u64| sim.scheduler.lane_view(sim.now, entry(lane).lane).is_some();
    assert!((0..5).any(|lane| !known(lane)));
    let first: Vec<(Lane, Seq)> = sim.events.iter().take(5).map(|one| (one.lane, one.seq)).collect();
    let taken = sim.scheduler.take_out(sim.now, &first);
    assert_eq!(taken, first);
    sim.happen(Happening::Durable(taken.into_iter().map(|(_, seq)| seq).collect()));
    sim.scheduler.release_held(sim.now, Selection::All);
    sim.run(sim.after(secs(600)));
    for (lane, _) in first {
        let mut times = sim.attempts.iter().filter(|(_, one)| one.lane == lane).map(|(at, _)| *at);
        let (once, again) = (times.next().unwrap(), times.next().unwrap());
        assert!(again >= once.after(secs(300)), "{once:?} {again:?}");
    }
}

#[test]
fn a_retry_reaches_sessions_that_were_forgotten() {
    let healed = Moment::from_millis(1_000_000).after(secs(3_600));
    let mut sim = Sim::new(23, small(), |now, _, entries, _| match now < healed {
        true => (ANSWER, Answer::Status(420)),
        false => (ANSWER, all_listed(entries)),
    });
    for lane in 0..40 {
        sim.add(entry(lane), true);
    }
    sim.run(healed);
    sim.scheduler.retry(healed, Selection::All);
    sim.run(healed.after(secs(60)));
    assert_eq!(sim.delivered.len(), 40, "{:?}", sim.scheduler.status());
}

#[test]
fn what_cannot_be_read_does_not_come_back_with_a_scan_from_before() {
    let settings = Settings { linger: Duration::ZERO, max_events: 2, ..small() };
    let mut scheduler = Scheduler::new(settings, 1);
    let now = Moment::from_millis(1_000_000);
    // One session is held, the next has more events than one may have in the index; with four others that is full.
    let lanes = [1, 2, 2, 2, 3, 4, 5, 6];
    let entries: Vec<Entry> = (1..)
        .zip(lanes)
        .map(|(seq, lane)| Entry { seq: Seq(seq), id: IdHash(seq), arrived: now, ..entry(lane) })
        .collect();
    scheduler.hold(now, Selection::Lane(entries[0].lane));
    scheduler.handle_live(now, Seq(1), Seq(9), &entries);
    let pass = Some(Reading { from: Seq(1), is_next: false });
    assert_eq!(scheduler.poll_read(now), pass, "a pass from the held event on");
    let attempt = scheduler.poll_attempt(now).unwrap();
    assert_eq!(attempt.seqs, [Seq(2), Seq(3)]);
    scheduler.handle_cut(now, attempt.id, 0, &attempt.seqs);
    scheduler.handle_scan(now, &entries, Seq(9));
    let sent: Vec<Seq> =
        std::iter::from_fn(|| scheduler.poll_attempt(now)).flat_map(|one| one.seqs).collect();
    assert_eq!(sent, [5, 6, 7, 8, 4].map(Seq));
}

#[test]
fn a_host_that_only_an_answer_makes_room_at_causes_no_wake_up() {
    let settings = Settings { linger: Duration::ZERO, host_concurrency: 1, rate_limit: 100, ..settings() };
    let mut scheduler = Scheduler::new(settings, 1);
    let mut now = Moment::from_millis(1_000_000);
    let lane = |number: u64| Entry {
        seq: Seq(number + 1),
        id: IdHash(number),
        arrived: now,
        cluster: Cluster::parse(if number.is_multiple_of(2) { "35" } else { "36" }),
        ..entry(number)
    };
    let entries: Vec<Entry> = (0..4).map(lane).collect();
    scheduler.handle_live(now, Seq(1), Seq(5), &entries);
    assert!(scheduler.poll_attempt(now).is_some());
    now = now.after(secs(1));
    assert!(scheduler.poll_attempt(now).is_some());
    now = now.after(secs(1));
    assert_eq!(scheduler.poll_attempt(now), None, "each host has as many as it may while the other has work");
    let wake = scheduler.next_wake(now);
    assert!(wake.is_none_or(|at| at > now), "{wake:?}");
}

#[test]
fn a_lane_that_is_due_no_more_hides_no_other() {
    let short = Settings { linger: Duration::ZERO, max_events: 1, ..settings() };
    let mut scheduler = Scheduler::new(short.clone(), 1);
    let now = Moment::from_millis(1_000_000);
    let lane = |seq, number| Entry { seq: Seq(seq), id: IdHash(seq), arrived: now, ..entry(number) };
    scheduler.handle_live(now, Seq(1), Seq(4), &[lane(1, 1), lane(2, 2), lane(3, 2)]);
    scheduler.configure(Settings { linger: secs(60), max_events: 2, ..short });
    let attempt = scheduler.poll_attempt(now).unwrap();
    assert_eq!(attempt.seqs, [Seq(2), Seq(3)]);
}
