//! What happens at each limit.

use super::*;
use crate::event::{Cluster, Host};
use crate::schedule::notice::{Notices, WAITING_NOTICES};
use crate::schedule::scheduler::owed::MAX_SETTLING;
use crate::schedule::{Changed, MAX_PARKED, MAX_PAUSES, Pause, Selection, Stuck};

fn cluster(number: u64) -> Cluster {
    Cluster::parse(&number.to_string()).unwrap()
}

fn outcome(answer: Answer) -> Outcome {
    Outcome { answer, retry_after: None, edge: None, known: None, detail: String::new() }
}

#[test]
fn no_more_requests_a_second_than_the_rate() {
    let settings = Settings { rate_limit: 10, ..settings() };
    let mut sim = Sim::new(1, settings, |_, _, entries, _| (ANSWER, all_listed(entries)));
    for lane in 0..100 {
        sim.add(entry(lane), true);
    }
    let start = sim.now;
    sim.run(start.after(secs(60)));
    assert_eq!(sim.delivered.len(), 100);
    for (at, _) in &sim.attempts {
        let within = sim.attempts.iter().filter(|(other, _)| *other >= *at && other.since(*at) < secs(1));
        assert!(within.count() <= 10);
    }
    // And no fewer: a hundred take ten seconds.
    let last = sim.attempts.last().unwrap().0;
    assert!(last.since(start) < Duration::from_millis(10_600), "{:?}", last.since(start));
}

#[test]
fn a_host_takes_its_share_while_another_has_work_and_all_slots_otherwise() {
    let settings = Settings { concurrency: 4, host_concurrency: 2, ..settings() };
    let mut sim = Sim::new(2, settings, |_, _, entries, _| (secs(1), all_listed(entries)));
    for lane in 0..40 {
        // Thirty lanes of the one, ten of the other.
        sim.add(Entry { cluster: Some(cluster(35 + u64::from(lane % 4 == 0))), ..entry(lane) }, true);
    }
    sim.run(sim.after(secs(100)));
    assert_eq!(sim.delivered.len(), 40);
    let at_once = |position: usize| {
        let (at, attempt) = &sim.attempts[position];
        let open = sim.attempts[..=position].iter().filter(|(other, _)| at.since(*other) < secs(1));
        open.filter(|(_, other)| other.host == attempt.host).count()
    };
    let last_of_other =
        sim.attempts.iter().rposition(|(_, one)| one.host == Host::Edge(cluster(36))).unwrap();
    assert!((0..last_of_other).all(|position| at_once(position) <= 2));
    assert!((0..sim.attempts.len()).any(|position| at_once(position) == 4));
}

#[test]
fn hosts_beyond_the_limit_are_served_by_the_clients_own() {
    let settings = Settings { max_hosts: 3, ..settings() };
    let mut sim = Sim::new(3, settings, |_, _, entries, _| (ANSWER, all_listed(entries)));
    for lane in 0..100 {
        sim.add(Entry { cluster: Some(cluster(30 + lane % 10)), ..entry(lane) }, true);
    }
    sim.run(sim.after(secs(60)));
    assert_eq!(sim.delivered.len(), 100);
    let hosts: BTreeSet<Host> = sim.attempts.iter().map(|(_, one)| one.host).collect();
    assert!(hosts.len() == 4 && hosts.contains(&Host::Client), "{hosts:?}");
}

#[test]
fn pauses_of_hosts_leave_nothing_behind_and_stop_them_whether_they_are_known_or_not() {
    let settings = Settings { max_hosts: 3, ..settings() };
    let mut sim = Sim::new(3, settings, |_, _, entries, _| (ANSWER, all_listed(entries)));
    let edge = |number| Some(Host::Edge(cluster(number)));
    let pause = |at| Pause { reason: String::new(), since: at, until: None };
    let now = sim.now;
    for number in 100..400 {
        assert_eq!(sim.scheduler.pause_host(now, edge(number), pause(now)), Changed::Yes);
        assert_eq!(sim.scheduler.resume_host(now, edge(number)), Changed::Yes);
    }
    assert_eq!(sim.scheduler.host_views().len(), 1, "the client's own");

    // One that is known, and one that is not, beyond what is known of none.
    sim.add(Entry { cluster: Some(cluster(30)), ..entry(1) }, true);
    sim.run(sim.after(secs(1)));
    let most = u64::try_from(MAX_PAUSES).unwrap();
    for number in 30..30 + most {
        assert_eq!(sim.scheduler.pause_host(now, edge(number), pause(now)), Changed::Yes);
    }
    assert_eq!(sim.scheduler.pause_host(now, edge(99), pause(now)), Changed::Full);
    assert_eq!(sim.scheduler.pause_host(now, edge(30), pause(now)), Changed::Yes, "it replaces the first");
    assert_eq!(sim.scheduler.host_views().len(), 2);
    let sent_to = |sim: &Sim<'_>, from: usize| -> Vec<Host> {
        sim.attempts[from..].iter().map(|(_, one)| one.host).collect()
    };
    assert_eq!(sent_to(&sim, 0), [edge(30).unwrap()]);
    sim.add(Entry { cluster: Some(cluster(30)), ..entry(2) }, true);
    sim.add(Entry { cluster: Some(cluster(31)), ..entry(3) }, true);
    sim.run(sim.after(secs(1)));
    assert_eq!(sent_to(&sim, 1), [Host::Client; 2]);

    // All together always finds room.
    assert_eq!(sim.scheduler.pause_host(sim.now, None, pause(now)), Changed::Yes);
    sim.add(entry(4), true);
    sim.run(sim.after(secs(60)));
    assert_eq!(sim.attempts.len(), 3);
    assert_eq!(sim.scheduler.resume_host(sim.now, None), Changed::Yes);
    sim.add(Entry { cluster: Some(cluster(31)), ..entry(5) }, true);
    sim.run(sim.after(secs(1)));
    assert_eq!(sent_to(&sim, 3), [Host::Client, edge(31).unwrap()]);
}

#[test]
fn what_is_held_stays_behind_an_event_of_another_host_that_is_parked() {
    let settings =
        Settings { linger: Duration::ZERO, max_events: 1, isolate_after: 1, park_after: 1, ..settings() };
    let mut scheduler = Scheduler::new(settings, 1);
    let now = Moment::from_millis(1_000_000);
    let event = |seq, cluster| Entry { seq: Seq(seq), id: IdHash(seq), arrived: now, cluster, ..entry(1) };
    scheduler.handle_live(now, Seq(1), Seq(3), &[event(1, None), event(2, Some(cluster(35)))]);
    let first = scheduler.poll_attempt(now).unwrap();
    let failed = outcome(Answer::Status(500));
    scheduler.handle_outcome(now, first.id, &failed);
    assert_eq!((first.seqs, scheduler.status().parked), (vec![Seq(1)], 1));
    let edge = Selection::Host(Host::Edge(cluster(35)));
    assert_eq!(scheduler.hold(now, edge), Changed::Yes);
    let late = now.after(secs(3_600));
    assert_eq!(scheduler.poll_attempt(late), None);
    assert_eq!(scheduler.release_held(late, edge), Changed::Yes);
    assert_eq!(scheduler.poll_attempt(late).unwrap().seqs, [Seq(2)]);

    // Neither does it overtake one that is parked and only waits for its host.
    let all = Pause { reason: String::new(), since: late, until: None };
    let mut scheduler = Scheduler::new(scheduler.settings().clone(), 1);
    scheduler.handle_live(now, Seq(1), Seq(2), &[event(1, None)]);
    let first = scheduler.poll_attempt(now).unwrap();
    scheduler.handle_outcome(now, first.id, &failed);
    scheduler.pause_host(now, None, all);
    assert_eq!(scheduler.poll_attempt(late), None, "it is due, and in the queue of its host");
    scheduler.hold(late, edge);
    scheduler.handle_live(late, Seq(2), Seq(3), &[event(2, Some(cluster(35)))]);
    scheduler.resume_host(late, None);
    assert_eq!(scheduler.poll_attempt(late), None);
    scheduler.release_held(late, edge);
    assert_eq!(scheduler.poll_attempt(late).map(|one| one.host), Some(Host::Edge(cluster(35))));
}

#[test]
fn with_as_many_parked_as_may_be_an_event_holds_its_session_back_and_is_told() {
    // Of each of these lanes the first event fails by itself, and a second one waits behind it.
    let lanes = MAX_PARKED as u64 + 20;
    let settings = Settings {
        park_after: 1,
        isolate_after: 1,
        max_events: 1,
        concurrency: 4_096,
        host_concurrency: 4_096,
        index_max_bytes: 1 << 30,
        ..settings()
    };
    let mut sim = Sim::new(4, settings, move |_, _, entries, _| match entries[0].owner == Owner(2) {
        true => (ANSWER, Answer::Status(500)),
        false => (ANSWER, all_listed(entries)),
    });
    for lane in 0..lanes {
        sim.add(Entry { owner: Owner(2), ..entry(lane) }, true);
        sim.add(entry(lane), true);
        // The host serves others.
        sim.add(entry(1_000_000 + lane), true);
    }
    for _ in 0..200 {
        sim.run(sim.after(secs(5)));
        sim.add(entry(2_000_000 + sim.events.len() as u64), true);
    }
    let parked = sim.scheduler.status().parked;
    assert!(parked <= MAX_PARKED, "{parked}");
    assert!(sim.notices.iter().any(|one| matches!(one, Notice::ParkedFull { .. })), "{parked}");
    assert!(sim.buried.is_empty());
}

#[test]
fn without_room_for_dead_letters_events_are_parked_and_go_when_there_is_room() {
    let mut sim =
        Sim::new(5, settings(), |_, _, entries, _| match entries.iter().any(|one| one.owner == Owner(2)) {
            true => (ANSWER, Answer::Status(400)),
            false => (ANSWER, all_listed(entries)),
        });
    sim.scheduler.handle_dead_room(false);
    for lane in 0..50 {
        sim.add(entry(lane), true);
        sim.add(Entry { owner: Owner(2), ..entry(lane) }, true);
        sim.add(entry(lane), true);
    }
    sim.run(sim.after(secs(100)));
    assert_eq!((sim.delivered.len(), sim.buried.len(), sim.scheduler.status().parked), (100, 0, 50));
    assert!(sim.notices.iter().any(|one| matches!(one, Notice::DeadLettersFull { .. })));
    sim.scheduler.handle_dead_room(true);
    sim.run(sim.after(secs(1_000)));
    assert_eq!(sim.buried.len(), 50);
}

#[test]
fn notices_beyond_the_limit_are_counted() {
    let mut notices = Notices::default();
    for number in 0..WAITING_NOTICES as u64 + 7 {
        notices.add(Notice::ParkedFull { seq: Seq(number) });
    }
    let taken: Vec<Notice> = std::iter::from_fn(|| notices.take()).collect();
    assert_eq!(taken.len(), WAITING_NOTICES + 1);
    assert_eq!(taken.last(), Some(&Notice::LeftOut { count: 7 }));
}

#[test]
fn delivery_is_stuck_when_every_slot_is_taken_for_too_long_or_what_is_due_is_not_taken() {
    let settings = Settings { concurrency: 2, linger: Duration::ZERO, ..settings() };
    let mut sim = Sim::new(6, settings, |_, _, _, _| (secs(1_000), Answer::Accepted));
    let start = sim.now;
    assert_eq!(sim.scheduler.stuck(start.after(secs(500))), None, "nothing is due");
    sim.add(entry(1), true);
    sim.add(entry(2), true);
    assert_eq!(sim.scheduler.stuck(start), Some(Stuck::Due), "it was not taken");
    sim.act();
    assert_eq!(sim.scheduler.status().in_flight, 2);
    assert_eq!(sim.scheduler.stuck(start.after(secs(70))), None);
    assert_eq!(sim.scheduler.stuck(start.after(secs(71))), Some(Stuck::Slots));
    // More waits for a slot, which is no other state; an answer ends it.
    sim.add(entry(3), true);
    assert_eq!(sim.scheduler.stuck(start.after(secs(71))), Some(Stuck::Slots));
    sim.run(start.after(secs(1_000)));
    assert_eq!(sim.scheduler.stuck(sim.now), None);
}

#[test]
fn delivery_is_stuck_when_every_slot_that_a_host_has_is_taken_for_too_long() {
    let mut sent = 0;
    let mut sim = Sim::new(36, settings(), move |_, _, entries, _| {
        sent += 1;
        match sent {
            // All of the first round time out, so that the host begins anew with few.
            1..=64 => (secs(10), Answer::Failed(Failure::Timeout)),
            65 => (ANSWER, all_listed(entries)),
            _ => (secs(1_000), all_listed(entries)),
        }
    });
    for number in 0..100 {
        sim.add(entry(number), true);
    }
    sim.run(sim.after(secs(60)));
    assert_eq!(sim.attempts.len(), 70);
    let last = sim.attempts.last().unwrap().0;
    assert_eq!(sim.scheduler.stuck(last.after(secs(70))), None);
    assert_eq!(sim.scheduler.stuck(last.after(secs(71))), Some(Stuck::Slots));
}

#[test]
fn what_is_stuck_goes_by_the_settings_in_force() {
    let patient = Settings { concurrency: 1, linger: Duration::ZERO, ..settings() };
    let hasty = Settings { slot_limit: secs(3), stuck_after: secs(2), ..patient.clone() };
    let mut sim = Sim::new(6, patient.clone(), |_, _, _, _| (secs(1_000), Answer::Accepted));
    let start = sim.now;
    sim.add(entry(1), true);
    sim.act();
    for (settings, after, stuck) in
        [(&patient, 70, None), (&hasty, 3, None), (&hasty, 4, Some(Stuck::Slots)), (&patient, 4, None)]
    {
        sim.scheduler.configure(settings.clone());
        assert_eq!(sim.scheduler.stuck(start.after(secs(after))), stuck, "{after} s");
    }
    // What they send may have waited for room on the disk, and then has all its time again.
    sim.scheduler.configure(hasty.clone());
    for (second, waits) in [(5, true), (10, false)] {
        sim.scheduler.handle_full_disk(start.after(secs(second)), waits);
    }
    for (after, stuck) in [(13, None), (14, Some(Stuck::Slots))] {
        assert_eq!(sim.scheduler.stuck(start.after(secs(after))), stuck, "{after} s");
    }
    let mut scheduler = Scheduler::new(patient, 1);
    scheduler.handle_tail(Seq(3));
    assert!(scheduler.poll_read(start).is_some());
    assert_eq!(scheduler.stuck(start.after(secs(3))), None);
    scheduler.configure(hasty);
    assert_eq!(scheduler.stuck(start.after(secs(3))), Some(Stuck::Store));
}

#[test]
fn delivery_is_stuck_when_the_store_owes_a_scan_or_a_settlement_for_too_long() {
    let settings = Settings { linger: Duration::ZERO, ..settings() };
    let mut scheduler = Scheduler::new(settings, 1);
    let at = |seconds| Moment::ZERO.after(secs(seconds));
    let stuck = |scheduler: &Scheduler, seconds| scheduler.stuck(at(seconds));
    scheduler.handle_tail(Seq(3));
    assert_eq!(scheduler.poll_read(at(1)).map(|one| one.from), Some(Seq(1)));
    assert_eq!((stuck(&scheduler, 61), stuck(&scheduler, 62)), (None, Some(Stuck::Store)));
    let entries = [Entry { seq: Seq(1), ..entry(1) }, Entry { seq: Seq(2), ..entry(2) }];
    scheduler.handle_scan(at(100), &entries, Seq(3));
    let attempts = [scheduler.poll_attempt(at(100)).unwrap(), scheduler.poll_attempt(at(100)).unwrap()];
    let accepted = outcome(Answer::Accepted);
    for attempt in &attempts {
        let settled = scheduler.handle_outcome(at(100), attempt.id, &accepted);
        assert_eq!(settled.delivered, attempt.seqs);
    }
    assert_eq!((stuck(&scheduler, 160), stuck(&scheduler, 161)), (None, Some(Stuck::Store)));
    // On a full disk it waits for room, and then has all its time again.
    scheduler.handle_full_disk(at(120), true);
    assert_eq!(stuck(&scheduler, 9_999), None);
    scheduler.handle_full_disk(at(130), true);
    scheduler.handle_full_disk(at(140), false);
    scheduler.handle_full_disk(at(150), false);
    assert_eq!((stuck(&scheduler, 200), stuck(&scheduler, 201)), (None, Some(Stuck::Store)));
    // One that is durable is progress; the other is waited for anew.
    scheduler.handle_settled(at(161), &attempts[0].seqs);
    assert_eq!((stuck(&scheduler, 221), stuck(&scheduler, 222)), (None, Some(Stuck::Store)));
    scheduler.handle_settled(at(222), &attempts[1].seqs);
    assert_eq!(stuck(&scheduler, 9_999), None);
}

#[test]
fn nothing_is_sent_while_the_store_owes_as_many_settlements_as_it_may() {
    let most = MAX_SETTLING as u64;
    let settings = Settings {
        linger: Duration::ZERO,
        max_events: 1,
        index_max_bytes: 1 << 30,
        rate_limit: 1_000,
        ..settings()
    };
    let mut scheduler = Scheduler::new(settings, 1);
    let mut now = Moment::from_millis(1_000_000);
    let event = |seq| Entry { seq: Seq(seq), id: IdHash(seq), arrived: now, ..entry(seq) };
    let events: Vec<Entry> = (1..=most + 10).map(event).collect();
    scheduler.handle_live(now, Seq(1), Seq(most + 11), &events);
    let accepted = outcome(Answer::Accepted);
    let mut owed = Vec::new();
    while let Some(attempt) = scheduler.poll_attempt(now) {
        owed.extend(scheduler.handle_outcome(now, attempt.id, &accepted).delivered);
        if owed.len() < MAX_SETTLING {
            // Only the rate makes the next one wait.
            now = scheduler.next_wake(now).unwrap();
        }
    }
    assert_eq!(owed.len(), MAX_SETTLING, "Target answers, and nothing becomes durable");
    assert_eq!(scheduler.next_wake(now), None, "what makes room is a settlement, not time");
    assert_eq!(scheduler.stuck(now.after(secs(1))), None);
    assert_eq!(scheduler.stuck(now.after(secs(61))), Some(Stuck::Store));
    now = now.after(secs(1));
    scheduler.handle_settled(now, &owed[..3]);
    let sent: Vec<Seq> = std::iter::from_fn(|| {
        let attempt = scheduler.poll_attempt(now)?;
        now = now.after(Duration::from_millis(1));
        scheduler.handle_outcome(now, attempt.id, &accepted).delivered.pop()
    })
    .collect();
    assert_eq!(sent, [Seq(most + 1), Seq(most + 2), Seq(most + 3)]);
}

#[test]
fn the_halves_of_a_refused_batch_go_at_once_and_grow_over_nothing_that_came_since() {
    let settings = Settings { linger: secs(10), ..settings() };
    let mut sim =
        Sim::new(35, settings, |_, _, entries, _| match entries.iter().any(|one| one.seq.0 == 40) {
            true => (ANSWER, Answer::Status(400)),
            false => (ANSWER, all_listed(entries)),
        });
    for _ in 0..50 {
        sim.add(entry(1), true);
    }
    let from = sim.now;
    // Some come while the whole batch is under way, some later.
    for _ in 0..20 {
        sim.run(sim.after(ANSWER / 2));
        sim.add(entry(1), true);
    }
    sim.run(sim.after(secs(1)));
    assert_eq!((sim.delivered.len(), sim.buried.len()), (49, 1));
    assert!(sim.buried.values().chain(&[]).all(|(_, at)| at.since(from) < secs(1)));
    let mixed = |one: &Attempt| one.seqs[0].0 <= 50 && one.seqs.iter().any(|seq| seq.0 > 50);
    assert!(!sim.attempts.iter().any(|(_, one)| mixed(one)));
    sim.run(sim.after(secs(15)));
    assert_eq!(sim.delivered.len(), 69);
}
