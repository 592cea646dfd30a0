//! How far the store is read ahead of what goes out.

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

#[test]
fn it_is_read_on_for_others_behind_a_slow_host() {
    let cluster = |number: &str| Some(Cluster::parse(number).unwrap());
    let slow = |now: &Host| *now == Host::Edge(cluster("35").unwrap());
    let mut sim = Sim::new(3, few(), move |_, attempt, entries, _| {
        let latency = if slow(&attempt.host) { secs(10) } else { ANSWER };
        (latency, all_listed(entries))
    });
    for number in 0..8_000 {
        sim.add(Entry { cluster: cluster("35"), ..entry(number) }, false);
    }
    let others: Vec<Seq> = (8_000..8_010)
        .map(|number| sim.add(Entry { cluster: cluster("36"), ..entry(number) }, false))
        .collect();
    let start = sim.now;
    sim.run(start.after(secs(60)));
    for seq in others {
        let at = sim.delivered.get(&seq).copied().unwrap();
        // They wait until it shows that the host is slow, and for the answer to one of its requests.
        assert!(at.since(start) < secs(16), "{:?}", at.since(start));
    }
    assert!(sim.delivered.len() < 100, "the slow ones take their time");
    sim.run(start.after(secs(100_000)));
    assert_eq!(sim.delivered.len(), 8_010);
}
