//! Which host a lane waits for, while some of them fail.

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
