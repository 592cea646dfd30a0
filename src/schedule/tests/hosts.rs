//! Which host a lane waits for, while some of them fail.

use super::super::control::{Changed, Pause};
use super::*;

fn edge(number: u64) -> Option<Cluster> {
    Some(Cluster::parse(&number.to_string()).unwrap())
}

fn within(sim: &Sim<'_>, seqs: &[Seq], from: Moment, most: Duration) -> bool {
    seqs.iter().all(|seq| sim.delivered.get(seq).is_some_and(|at| at.since(from) <= most))
}

#[test]
fn who_came_when_a_probe_of_an_edge_was_due_goes_to_the_clients_own_host() {
    for answer in [Answer::Status(503), Answer::Status(403), Answer::Failed(Failure::Timeout)] {
        let wait = if answer == Answer::Failed(Failure::Timeout) { secs(10) } else { ANSWER };
        let settings = Settings { linger: Duration::ZERO, ..settings() };
        let mut sim = Sim::new(30, settings, move |_, attempt, entries, _| match attempt.host {
            Host::Client => (ANSWER, all_listed(entries)),
            Host::Edge(_) => (wait, answer.clone()),
        });
        let add = |sim: &mut Sim<'_>, numbers: std::ops::Range<u64>| -> Vec<Seq> {
            numbers.map(|number| sim.add(Entry { cluster: edge(35), ..entry(number) }, true)).collect()
        };
        let _first = add(&mut sim, 0..10);
        sim.run(sim.after(secs(15)));
        // Longer than any wait between two probes.
        for round in 1..4 {
            sim.run(sim.after(secs(30)));
            let (from, seqs) = (sim.now, add(&mut sim, round * 100..round * 100 + 100));
            sim.run(sim.after(secs(25)));
            let late = seqs.iter().filter(|seq| !within(&sim, &[**seq], from, secs(1))).count();
            assert!(late <= 1, "{late} waited for the probe, which one is");
        }
    }
}

#[test]
fn who_fell_back_to_a_host_that_is_down_too_returns_once_its_own_serves() {
    let healed = Moment::from_millis(1_000_000).after(secs(300));
    let mut sim = Sim::new(31, settings(), move |now, attempt, entries, _| {
        match attempt.host == Host::Client || now < healed {
            true => (ANSWER, Answer::Failed(Failure::Connect)),
            false => (ANSWER, all_listed(entries)),
        }
    });
    for number in 0..100 {
        sim.add(Entry { cluster: edge(36), ..entry(number) }, true);
    }
    sim.run(healed.after(secs(60)));
    assert!(sim.delivered.len() >= 90, "{} of 100", sim.delivered.len());
    sim.run(healed.after(secs(400)));
    assert_eq!(sim.delivered.len(), 100);
}

/// A Target that knows all owners but the second.
fn knows_all_but_2(entries: &[Entry]) -> Answer {
    match entries[0].owner {
        Owner(2) => Answer::Status(403),
        _ => all_listed(entries),
    }
}

#[test]
fn the_probes_of_a_pause_go_through_all_sessions_before_one_has_a_second() {
    let mut sim = Sim::new(32, settings(), |_, _, _, _| (ANSWER, Answer::Status(401)));
    for number in 0..12 {
        sim.add(entry(number), true);
    }
    sim.run(sim.after(settings().breaker_max * 14));
    // The first twelve go out side by side, before the answers pause the host.
    let lanes: Vec<Lane> = sim.attempts.iter().map(|(_, attempt)| attempt.lane).collect();
    for round in lanes.chunks_exact(12).take(2) {
        assert_eq!(round.iter().collect::<BTreeSet<_>>().len(), 12, "{lanes:?}");
    }
    assert!(lanes.len() >= 24, "{} attempts", lanes.len());
}

#[test]
fn who_is_not_refused_waits_for_no_probe_of_a_host_that_a_wrong_token_paused() {
    let settings = Settings { linger: Duration::ZERO, ..settings() };
    let mut sim = Sim::new(32, settings, |_, _, entries, _| (ANSWER, knows_all_but_2(entries)));
    // Many wait ahead of it, or it comes when the host is paused already.
    for number in 0..3_000 {
        sim.add(Entry { owner: Owner(2), ..entry(number) }, true);
    }
    let (from, early) = (sim.now, sim.add(entry(3_000), true));
    sim.run(sim.after(secs(3)));
    assert!(sim.notices.iter().any(|one| matches!(one, Notice::HostPaused { .. })));
    assert!(within(&sim, &[early], from, secs(2)), "{:?}", sim.delivered);
    for number in 3_001..3_020 {
        for bad in 0..40 {
            sim.add(Entry { owner: Owner(2), ..entry(10_000 + number * 40 + bad) }, true);
        }
        sim.run(sim.after(secs(2)));
        let (from, late) = (sim.now, sim.add(entry(number), true));
        sim.run(sim.after(secs(10)));
        assert!(within(&sim, &[late], from, secs(1)), "{number}");
    }
}

#[test]
fn a_2xx_that_was_under_way_ends_a_pause_for_the_configuration() {
    let settings = Settings { linger: Duration::ZERO, ..settings() };
    let mut sim = Sim::new(33, settings, |_, _, entries, _| match entries[0].owner {
        Owner(2) => (ANSWER, Answer::Status(403)),
        _ => (ANSWER * 20, all_listed(entries)),
    });
    sim.add(entry(1), true);
    for number in 100..110 {
        sim.add(Entry { owner: Owner(2), ..entry(number) }, true);
    }
    sim.run(sim.after(ANSWER * 2));
    assert_eq!(sim.scheduler.status().paused_hosts, 1);
    // Before those that were refused, which go out again, are refused again.
    sim.run(sim.after(ANSWER * 18 + ANSWER / 2));
    assert_eq!((sim.delivered.len(), sim.scheduler.status().paused_hosts), (1, 0));
    assert!(matches!(sim.notices[..], [Notice::HostPaused { .. }, Notice::HostServes { .. }]));
}

#[test]
fn a_parked_event_goes_to_its_own_host_whatever_else_its_session_has() {
    let bad = Seq(1);
    let mut sim =
        Sim::new(34, settings(), |_, _, entries, _| match entries.iter().any(|one| one.seq == bad) {
            true => (ANSWER, Answer::Status(503)),
            false => (ANSWER, all_listed(entries)),
        });
    sim.add(Entry { cluster: edge(35), ..entry(1) }, true);
    for number in 0..3_000 {
        // Others keep both hosts serving.
        sim.add(Entry { cluster: edge(35 + number % 2), ..entry(10 + number % 7) }, true);
        sim.add(Entry { cluster: edge(36), ..entry(1) }, true);
        sim.run(sim.after(Duration::from_millis(700)));
    }
    let parked = sim.notices.iter().any(|one| matches!(one, Notice::Parked { seq, .. } if *seq == bad));
    let attempts: Vec<_> = sim.attempts.iter().filter(|(_, one)| one.seqs.contains(&bad)).collect();
    assert!(parked && attempts.len() > 10, "{}", attempts.len());
    let host = |cluster| edge(cluster).map(Host::Edge).unwrap();
    assert!(attempts.iter().all(|(_, one)| one.host == host(35)));
    let others = sim.attempts.iter().filter(|(_, one)| one.lane == entry(1).lane && !one.seqs.contains(&bad));
    assert!(others.clone().count() > 1_000 && others.clone().all(|(_, one)| one.host == host(36)));
}

/// A Target that is busy until `healed`, and asks those who come after for ever shorter waits.
fn busy_until(healed: Moment, status: u16) -> Sim<'static> {
    let settings = Settings { linger: Duration::ZERO, ..settings() };
    let mut sim = Sim::new(36, settings, move |now, _, entries, _| match now < healed {
        true => (ANSWER, Answer::Status(status)),
        false => (ANSWER, all_listed(entries)),
    });
    sim.retry_after = Some(secs(60));
    sim
}

#[test]
fn no_later_answer_shortens_what_a_busy_host_asked_for() {
    let start = Moment::from_millis(1_000_000);
    let mut sim = busy_until(start.after(secs(600)), 429);
    for number in 0..40 {
        sim.add(entry(number), true);
    }
    // The last of them are answered as those before are.
    sim.run(sim.after(ANSWER / 2));
    assert!(sim.attempts.len() > 10);
    sim.retry_after = Some(secs(1));
    for number in 100..104 {
        sim.add(entry(number), true);
    }
    sim.run(start.after(secs(59)));
    let told = sim.notices.iter().filter(|one| matches!(one, Notice::HostBusy { .. })).count();
    assert_eq!((told, sim.scheduler.status().open_breakers), (1, 0));
    for number in 200..220 {
        sim.add(entry(number), true);
    }
    sim.run(start.after(secs(60)));
    let early = sim.attempts.iter().filter(|(at, _)| at.since(start) > secs(1)).count();
    assert_eq!(early, 0, "all wait until it is over");
}

#[test]
fn a_breaker_is_not_probed_before_a_busy_host_asked_for_it() {
    let start = Moment::from_millis(1_000_000);
    let mut sim = busy_until(start.after(secs(600)), 503);
    for number in 0..40 {
        sim.add(entry(number), true);
    }
    sim.run(start.after(secs(55)));
    assert_eq!(sim.scheduler.status().open_breakers, 1);
    let early = sim.attempts.iter().filter(|(at, _)| at.since(start) > secs(1)).count();
    assert_eq!(early, 0, "it asked for a minute");
}

#[test]
fn a_pause_that_others_end_again_and_again_is_told_once_and_one_that_lasts_is_told() {
    let settings = Settings { linger: Duration::ZERO, ..settings() };
    let mut sim = Sim::new(37, settings, |_, _, entries, _| (ANSWER, knows_all_but_2(entries)));
    let mut pauses = 0;
    for number in 0..400 {
        for bad in 0..4 {
            sim.add(Entry { owner: Owner(2), ..entry(10_000 + number * 4 + bad) }, true);
            sim.run(sim.after(Duration::from_millis(250)));
            pauses += sim.scheduler.status().paused_hosts;
        }
        let (from, sound) = (sim.now, sim.add(entry(number), true));
        sim.run(sim.after(ANSWER * 2));
        assert!(within(&sim, &[sound], from, ANSWER), "{number}");
    }
    assert!(pauses > 100, "{pauses}");
    assert!(matches!(sim.notices[..], [Notice::HostPaused { .. }, Notice::HostServes { .. }, ..]));
    let told = sim.notices.iter().filter(|one| !matches!(one, Notice::Parked { .. })).count();
    assert_eq!(told, 2, "{:?}", sim.notices);
    for number in 0..100 {
        sim.add(Entry { owner: Owner(2), ..entry(20_000 + number) }, true);
        sim.run(sim.after(Duration::from_millis(250)));
    }
    let told: Vec<_> = sim.notices.iter().filter(|one| !matches!(one, Notice::Parked { .. })).collect();
    assert!(matches!(told[..], [_, _, Notice::HostPaused { .. }]), "{told:?}");
}

#[test]
fn a_pause_is_not_probed_before_a_busy_host_asked_for_it() {
    let start = Moment::from_millis(1_000_000);
    let settings = Settings { linger: Duration::ZERO, ..settings() };
    let mut sim = Sim::new(38, settings, |_, _, entries, _| match entries[0].owner {
        Owner(2) => (ANSWER * 2, Answer::Status(403)),
        _ => (ANSWER, Answer::Status(429)),
    });
    sim.retry_after = Some(secs(60));
    for number in 0..40 {
        sim.add(Entry { owner: Owner(1 + number / 30), ..entry(u64::from(number)) }, true);
    }
    sim.run(start.after(secs(1)));
    assert_eq!(sim.scheduler.status().paused_hosts, 1);
    let asked = sim.attempts.len();
    // Some that nobody refused yet.
    for number in 100..110 {
        sim.add(Entry { owner: Owner(number), ..entry(u64::from(number)) }, true);
        sim.run(sim.after(secs(5)));
    }
    sim.run(start.after(secs(59)));
    assert_eq!(sim.attempts.len(), asked, "it asked for a minute");
    sim.run(start.after(secs(70)));
    assert!(sim.attempts.len() > asked);
}

#[test]
fn a_paused_host_that_fails_is_not_probed_by_each_that_comes() {
    for answer in [Answer::Status(503), Answer::Status(429), Answer::Failed(Failure::Connect)] {
        let settings = Settings { linger: Duration::ZERO, ..settings() };
        let mut sim = Sim::new(39, settings, move |_, _, entries, _| match entries[0].owner {
            Owner(2) => (ANSWER, Answer::Status(403)),
            _ => (ANSWER, answer.clone()),
        });
        for number in 0..10 {
            sim.add(Entry { owner: Owner(2), ..entry(number) }, true);
        }
        sim.run(sim.after(secs(1)));
        assert_eq!(sim.scheduler.status().paused_hosts, 1);
        let (from, before) = (sim.now, sim.attempts.len());
        for number in 100..1_300 {
            sim.add(entry(number), true);
            sim.run(sim.after(Duration::from_millis(50)));
        }
        let probes = sim.attempts.len() - before;
        let seconds = usize::try_from(sim.now.since(from).as_secs()).unwrap();
        assert!(probes >= seconds / 10 && probes <= seconds / 2 + 2, "{probes} in {seconds} s");
    }
}

fn stop(sim: &mut Sim<'_>, host: Host) {
    let pause = Pause { reason: String::new(), since: sim.now, until: None };
    assert_eq!(sim.scheduler.pause_host(sim.now, Some(host), pause), Changed::Yes);
}

#[test]
fn who_waits_for_the_clients_own_host_returns_to_an_edge_that_serves_as_that_one_stops() {
    let start = Moment::from_millis(1_000_000);
    let settings = Settings { concurrency: 4, host_concurrency: 2, linger: Duration::ZERO, ..settings() };
    let mut sim = Sim::new(40, settings, move |now, attempt, entries, _| match attempt.host {
        Host::Client => (secs(5), all_listed(entries)),
        Host::Edge(_) if now < start.after(secs(20)) => (ANSWER, Answer::Failed(Failure::Connect)),
        Host::Edge(_) => (ANSWER, all_listed(entries)),
    });
    for number in 0..100 {
        sim.add(Entry { cluster: edge(35), ..entry(number) }, true);
    }
    for number in 100..140 {
        sim.run(sim.after(secs(1)));
        sim.add(Entry { cluster: edge(35), ..entry(number) }, true);
    }
    assert_eq!(sim.scheduler.status().open_breakers, 0);
    assert!(sim.delivered.len() < 100, "{}", sim.delivered.len());
    stop(&mut sim, Host::Client);
    sim.run(sim.after(secs(10)));
    assert_eq!(sim.delivered.len(), 140);
}

#[test]
fn who_waits_for_the_clients_own_host_returns_to_an_edge_that_was_never_tried() {
    let mut sim = Sim::new(41, settings(), |_, attempt, entries, _| match attempt.host {
        Host::Client => (ANSWER, Answer::Failed(Failure::Connect)),
        Host::Edge(_) => (ANSWER, all_listed(entries)),
    });
    let host = edge(35).map(Host::Edge).unwrap();
    stop(&mut sim, host);
    for number in 0..100 {
        sim.add(Entry { cluster: edge(35), ..entry(number) }, true);
    }
    sim.run(sim.after(secs(20)));
    assert_eq!((sim.delivered.len(), sim.scheduler.status().open_breakers), (0, 1));
    sim.scheduler.resume_host(sim.now, Some(host));
    sim.run(sim.after(secs(60)));
    assert_eq!(sim.delivered.len(), 100);
}

#[test]
fn who_cannot_fall_back_since_an_operator_stopped_the_clients_own_host_probes_its_edge() {
    let healed = Moment::from_millis(1_000_000).after(secs(300));
    for resumes in [false, true] {
        let settings = Settings { linger: Duration::ZERO, ..settings() };
        let mut sim = Sim::new(42, settings, move |now, attempt, entries, _| match attempt.host {
            Host::Edge(_) if resumes || now < healed => (ANSWER, Answer::Failed(Failure::Connect)),
            _ => (ANSWER, all_listed(entries)),
        });
        stop(&mut sim, Host::Client);
        for number in 0..20 {
            sim.add(Entry { cluster: edge(35), ..entry(number) }, true);
        }
        sim.run(healed);
        assert_eq!(sim.delivered.len(), 0);
        if resumes {
            sim.scheduler.resume_host(sim.now, Some(Host::Client));
        }
        sim.run(sim.after(secs(700)));
        assert_eq!(sim.delivered.len(), 20, "{resumes}");
    }
}

#[test]
fn a_host_that_is_too_slow_for_all_slots_gets_what_it_answers_in_time() {
    let (timeout, work) = (secs(10), Duration::from_millis(200));
    let mut free_from = Moment::ZERO;
    let mut sim = Sim::new(34, settings(), move |now, _, entries, _| {
        // One after the other, and what was given up is worked through all the same.
        free_from = free_from.max(now).after(work);
        match free_from.since(now) {
            wait if wait > timeout => (timeout, Answer::Failed(Failure::Timeout)),
            wait => (wait, all_listed(entries)),
        }
    });
    for number in 0..400 {
        sim.add(entry(number), true);
    }
    // It could be done in 80 s.
    sim.run(sim.after(secs(160)));
    assert_eq!(sim.delivered.len(), 400);
    assert!(sim.attempts.len() < 500, "{} requests", sim.attempts.len());
}

#[test]
fn sessions_that_hang_beside_others_make_their_host_no_narrower() {
    let hanging: BTreeSet<Lane> = (0..8).map(|number| entry(number).lane).collect();
    let mut sim =
        Sim::new(35, settings(), move |_, attempt, entries, _| match hanging.contains(&attempt.lane) {
            true => (secs(10), Answer::Failed(Failure::Timeout)),
            false => (ANSWER, all_listed(entries)),
        });
    for number in 0..8 {
        sim.add(entry(number), true);
    }
    for number in 100..700 {
        let (from, seq) = (sim.now, sim.add(entry(number), true));
        sim.run(sim.after(Duration::from_millis(100)));
        // As they time out all at once, the breaker may open for a moment.
        assert!(seq.0 < 80 || within(&sim, &[Seq(seq.0 - 50)], from, secs(0)), "{seq}");
    }
}
