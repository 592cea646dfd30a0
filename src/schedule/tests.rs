//! The scheduler over whole histories: a fake store, a fake Target, virtual time. A failure prints its seed.

mod expiry;
mod forgotten;
mod hosts;
mod limits;
mod reading;
pub(super) mod sim;

use std::collections::BTreeSet;
use std::time::Duration;

use self::sim::{ANSWER, Happening, Sim, all_listed, entry, secs, settings};
use super::*;
use crate::event::{
    Answer, Cluster, DeadReason, Entry, Failure, Fingerprint, Host, IdHash, Lane, Moment, Outcome, Owner, Seq,
};

#[test]
fn everything_settles_through_faults_of_every_kind() {
    for seed in 1..=12 {
        let healed = Moment::from_millis(1_000_000).after(secs(120));
        let mut sim =
            Sim::new(seed, Settings { index_max_bytes: 1 << 20, ..settings() }, |now, _, entries, random| {
                if now >= healed {
                    return (ANSWER, all_listed(entries));
                }
                let answer = match random.bits() % 12 {
                    0 => Answer::Status(500),
                    1 => Answer::Status(503),
                    2 => Answer::Status(429),
                    3 => Answer::Status(420),
                    4 => Answer::Failed(Failure::Reset),
                    5 => return (secs(10), Answer::Failed(Failure::Timeout)),
                    6 => Answer::Unreadable,
                    7 => Answer::Listed(entries.iter().map(|_| random.bits() % 2 == 0).collect()),
                    8 if entries.len() > 1 => Answer::Status(400),
                    _ => all_listed(entries),
                };
                (Duration::from_millis(random.bits() % 100), answer)
            });
        for number in 0..6_000_u64 {
            let lane = sim.random.bits() % 400;
            let envelope = Fingerprint(u128::from(sim.random.bits() % 8 / 7));
            let cluster = if lane.is_multiple_of(5) { Cluster::parse("35") } else { None };
            sim.add(Entry { envelope, cluster, ..entry(lane) }, number % 3 > 0);
            if number % 100 == 0 {
                sim.run(sim.after(Duration::from_millis(700)));
            }
        }
        sim.run(healed.after(secs(900)));
        assert!(sim.buried.is_empty(), "seed {seed}: {:?}", sim.buried.len());
        assert_eq!(sim.delivered.len(), 6_000, "seed {seed}: {:?}", sim.scheduler.status());
    }
}

#[test]
fn a_poisoned_event_in_fifty_becomes_a_dead_letter_alone() {
    let poisoned = |seq: Seq| seq.0 % 50 == 17;
    let mut sim =
        Sim::new(1, settings(), |_, _, entries, _| match entries.iter().any(|one| poisoned(one.seq)) {
            true => (ANSWER, Answer::Status(400)),
            false => (ANSWER, all_listed(entries)),
        });
    for _ in 0..1_000 {
        sim.add(entry(sim.events.len() as u64 / 50), true);
    }
    sim.run(sim.after(secs(60)));
    let expected: Vec<u64> = (1..=1_000).filter(|seq| poisoned(Seq(*seq))).collect();
    assert_eq!(sim.buried.keys().map(|seq| seq.0).collect::<Vec<_>>(), expected);
    assert_eq!(sim.delivered.len(), 980);
    // 2·log2(50) + 2 for each.
    assert!(sim.attempts.len() <= 20 + 20 * 13, "{} requests", sim.attempts.len());
}

#[test]
fn an_outage_is_probed_seldom_and_ends_quickly() {
    let start = Moment::from_millis(1_000_000);
    let healed = start.after(secs(60));
    let mut sim = Sim::new(2, settings(), |now, _, entries, _| match now < healed {
        true => (Duration::from_millis(1), Answer::Failed(Failure::Connect)),
        false => (ANSWER, all_listed(entries)),
    });
    for lane in 0..5_000 {
        sim.add(entry(lane), true);
    }
    sim.run(healed);
    let later = sim.attempts.iter().filter(|(at, _)| *at > start.after(secs(3))).count();
    assert!(later < 57, "{later} attempts");
    sim.run(healed.after(secs(300)));
    assert_eq!(sim.delivered.len(), 5_000);
    let first = sim.delivered.values().min().unwrap();
    assert!(*first <= healed.after(secs(12)), "{:?}", first.since(healed));
    assert!(matches!(sim.notices[0], Notice::BreakerOpened { host: Host::Client, .. }));
}

#[test]
fn a_busy_session_and_a_dead_cluster_delay_nobody_else() {
    let history = |faulty: bool| {
        let busy = entry(0).lane;
        let mut sim = Sim::new(3, settings(), |_, attempt, entries, _| {
            if faulty && attempt.lane == busy {
                (ANSWER, Answer::Status(420))
            } else if faulty && attempt.host != Host::Client {
                (ANSWER, Answer::Failed(Failure::Connect))
            } else {
                (ANSWER, all_listed(entries))
            }
        });
        for round in 0..20_u64 {
            for lane in 0..20 {
                let cluster = if (1..=4).contains(&lane) { Cluster::parse("35") } else { None };
                sim.add(Entry { cluster, ..entry(lane) }, true);
            }
            sim.run(sim.after(Duration::from_millis(700 + round)));
        }
        sim.run(sim.after(secs(1_000)));
        let down = sim.delivered.keys().filter(|seq| (1..=4).contains(&((seq.0 - 1) % 20))).count();
        assert_eq!(down, 80, "the cluster's sessions go to the client's own host");
        let healthy = sim.delivered.into_iter().filter(|(seq, _)| (seq.0 - 1) % 20 > 4);
        healthy.collect::<Vec<_>>()
    };
    assert_eq!(history(true), history(false));
}

#[test]
fn a_target_that_refuses_everything_trips_the_fuse() {
    for refusal in [Answer::Status(400), Answer::Listed(vec![])] {
        let healed = Moment::from_millis(1_000_000).after(secs(3_600));
        let mut sim = Sim::new(4, settings(), |now, _, entries, _| match now < healed {
            true => (ANSWER, refusal.clone()),
            false => (ANSWER, all_listed(entries)),
        });
        for number in 0..320 {
            sim.add(entry(number % 32), true);
        }
        sim.run(healed);
        let dead = sim.buried.len();
        assert!((100..=110).contains(&dead), "{dead} dead letters");
        assert!(sim.notices.iter().any(|one| matches!(one, Notice::HostPaused { cause: Cause::Fuse, .. })));
        sim.run(healed.after(secs(1_000)));
        assert_eq!(sim.delivered.len() + sim.buried.len(), 320);
        assert_eq!(sim.buried.len(), dead);
    }
}

#[test]
fn a_session_alone_on_an_edge_that_hangs_is_served_by_the_clients_own_host() {
    // A probe lasts longer than the wait between two of them: as it ends, the next one is due already.
    let hang = settings().breaker_max * 2;
    let mut sim = Sim::new(6, settings(), |_, attempt, entries, _| match attempt.host {
        Host::Client => (ANSWER, all_listed(entries)),
        Host::Edge(_) => (hang, Answer::Failed(Failure::Timeout)),
    });
    for _ in 0..3 {
        sim.add(Entry { cluster: Cluster::parse("35"), ..entry(1) }, true);
    }
    sim.run(sim.after(hang * 8));
    assert_eq!(sim.delivered.len(), 3);
}

#[test]
fn what_arrives_after_the_fuse_is_probed_before_what_failed() {
    let mut sim = Sim::new(4, settings(), |_, _, entries, _| match entries[0].owner {
        Owner(2) => (ANSWER, Answer::Status(400)),
        _ => (ANSWER, all_listed(entries)),
    });
    for number in 0..400 {
        sim.add(Entry { owner: Owner(2), ..entry(number % 40) }, true);
    }
    sim.run(sim.after(secs(5)));
    assert!(sim.notices.iter().any(|one| matches!(one, Notice::HostPaused { cause: Cause::Fuse, .. })));
    // Forty sessions whose events are refused wait before these, and come back from their backoff behind them.
    for number in 100..120 {
        sim.add(entry(number), true);
    }
    sim.run(sim.after(sim.settings.breaker_max * 4));
    assert_eq!(sim.delivered.len(), 20);
}

#[test]
fn a_wrong_token_pauses_nobody_else_and_a_wrong_account_pauses_all() {
    let mut sim = Sim::new(5, settings(), |_, _, entries, _| match entries[0].owner {
        Owner(2) => (ANSWER, Answer::Status(403)),
        _ => (ANSWER, all_listed(entries)),
    });
    for number in 0..400_u64 {
        let owner = Owner(if number % 20 < 4 { 2 } else { 1 });
        sim.add(Entry { owner, ..entry(number % 20) }, true);
    }
    sim.run(sim.after(secs(30)));
    assert_eq!(sim.delivered.len(), 320);
    assert!(sim.delivered.values().all(|at| *at <= Moment::from_millis(1_000_000).after(secs(2))));
    drop(sim);

    let healed = Moment::from_millis(1_000_000).after(secs(600));
    let mut sim = Sim::new(5, settings(), |now, _, entries, _| match now < healed {
        true => (ANSWER, Answer::Status(404)),
        false => (ANSWER, all_listed(entries)),
    });
    for number in 0..400 {
        sim.add(entry(number), true);
    }
    sim.run(healed);
    assert!(sim.buried.is_empty());
    let probes = sim
        .attempts
        .iter()
        .filter(|(at, _)| *at > healed.after(secs(0)) || at.since(Moment::from_millis(1_000_000)) > secs(5));
    assert!(probes.count() <= 61, "one probe every breaker_max");
    sim.run(healed.after(secs(1_000)));
    assert_eq!(sim.delivered.len(), 400);
}

#[test]
fn an_event_that_fails_by_itself_is_parked_and_dies_of_age() {
    let bad = Seq(25);
    let settings = Settings { max_age: secs(3_600), ..settings() };
    let mut sim = Sim::new(6, settings, |_, _, entries, _| match entries.iter().any(|one| one.seq == bad) {
        true => (ANSWER, Answer::Status(503)),
        false => (ANSWER, all_listed(entries)),
    });
    for number in 0..50 {
        sim.add(entry(number / 50), true);
    }
    // Others keep the host serving.
    for _ in 0..1_200 {
        sim.add(entry(1_000 + sim.events.len() as u64 % 7), true);
        sim.run(sim.after(secs(1)));
    }
    assert!(sim.notices.iter().any(|one| matches!(one, Notice::Parked { seq, .. } if *seq == bad)));
    assert_eq!(sim.delivered.len(), sim.events.len() - 1);
    for _ in 0..3_000 {
        sim.add(entry(1_000), true);
        sim.run(sim.after(secs(1)));
    }
    assert_eq!(
        sim.buried.iter().map(|(seq, (reason, _))| (*seq, *reason)).collect::<Vec<_>>(),
        [(bad, DeadReason::Expired)]
    );
}

#[test]
fn a_window_of_blocked_events_hides_no_healthy_session() {
    let start = Moment::from_millis(1_000_000);
    let blocked: BTreeSet<Lane> = (0..10_000).map(|lane| entry(lane).lane).collect();
    let settings = Settings { index_max_bytes: 2 << 20, ..settings() };
    let healed = start.after(secs(200));
    let mut sim = Sim::new(7, settings, |now, attempt, entries, _| {
        match blocked.contains(&attempt.lane) && now < healed {
            true => (ANSWER, Answer::Status(420)),
            false => (ANSWER, all_listed(entries)),
        }
    });
    for number in 0..20_000 {
        sim.add(entry(number % 10_000), false);
    }
    for lane in 10_000..20_000 {
        sim.add(entry(lane), false);
    }
    sim.run(start.after(secs(120)));
    let healthy = sim.delivered.keys().filter(|seq| seq.0 > 20_000).count();
    assert_eq!(healthy, 10_000, "{:?}", sim.scheduler.status());
    sim.run(healed.after(secs(900)));
    assert_eq!(sim.delivered.len(), 30_000, "{:?}", sim.scheduler.status());
    // The marks go with the next pass.
    for _ in 0..30 {
        sim.add(entry(10_000), true);
        sim.run(sim.after(secs(1)));
    }
    assert_eq!(sim.scheduler.status().forgotten_buckets, 0);
}

#[test]
fn a_repeated_id_and_another_envelope_end_a_batch_and_linger_ends_at_once_then() {
    let mut sim = Sim::new(8, settings(), |_, _, entries, _| (ANSWER, all_listed(entries)));
    sim.add(entry(1), true);
    let again = Entry { seq: Seq(2), id: IdHash(1), arrived: sim.now, ..entry(1) };
    sim.events.push(again);
    sim.scheduler.handle_live(sim.now, Seq(2), Seq(3), &[again]);
    sim.add(Entry { envelope: Fingerprint(9), ..entry(1) }, true);
    sim.run(sim.after(secs(5)));
    let batches: Vec<_> =
        sim.attempts.iter().map(|(at, one)| (at.as_millis() - 1_000_000, one.seqs.len())).collect();
    assert_eq!(batches, [(0, 1), (20, 1), (500, 1)]);
}
