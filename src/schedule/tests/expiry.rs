//! When an event is too old.

use super::*;

#[test]
fn an_event_that_waited_out_an_outage_is_tried_before_it_expires() {
    let start = Moment::from_millis(1_000_000);
    let settings = Settings { max_age: secs(60), ..settings() };
    let mut sim = Sim::new(9, settings, |now, _, entries, _| match now < start.after(secs(600)) {
        true => (ANSWER, Answer::Failed(Failure::Connect)),
        false => (ANSWER, all_listed(entries)),
    });
    for lane in 0..100 {
        sim.add(entry(lane), true);
    }
    sim.run(start.after(secs(1_000)));
    assert_eq!((sim.delivered.len(), sim.buried.len()), (100, 0));
}

#[test]
fn nothing_expires_while_the_clock_cannot_be_trusted() {
    let start = Moment::from_millis(1_000_000);
    let settings = Settings { max_age: secs(60), ..settings() };
    for (ahead, expired) in [(secs(3_500), 1), (secs(3_700), 0)] {
        let mut sim =
            Sim::new(10, settings.clone(), |now, _, entries, _| match now < start.after(secs(30)) {
                true => (ANSWER, Answer::Status(500)),
                false => (ANSWER, all_listed(entries)),
            });
        // The clock may have been set back by more than an hour since the other one was stored.
        sim.add(Entry { arrived: start.after(ahead), ..entry(1) }, true);
        sim.add(Entry { arrived: Moment::from_millis(1_000), ..entry(2) }, true);
        sim.run(start.after(secs(300)));
        assert_eq!(sim.buried.len(), expired, "{ahead:?}");
        let told = sim.notices.iter().any(|one| matches!(one, Notice::ArrivedInFuture { seq: Seq(1), .. }));
        assert_eq!(told, expired == 0, "{ahead:?}");
    }
}

#[test]
fn what_arrived_before_the_clock_was_set_back_lingers_no_longer_than_anything_else() {
    for ahead in [secs(30), secs(3_600), secs(8 * 24 * 3_600)] {
        let mut sim = Sim::new(11, settings(), |_, _, entries, _| (ANSWER, all_listed(entries)));
        sim.add(Entry { arrived: sim.after(ahead), ..entry(1) }, false);
        sim.add(entry(1), false);
        sim.run(sim.after(settings().linger + secs(1)));
        assert_eq!(sim.delivered.len(), 2, "{ahead:?}");
    }
}

#[test]
fn an_event_that_is_left_over_from_a_batch_was_not_tried_alone() {
    let settings = Settings { max_age: secs(30), park_after: 1, ..settings() };
    let mut sim = Sim::new(9, settings, |_, _, entries, _| match entries.len() {
        2 => (ANSWER, Answer::Status(503)),
        _ => (ANSWER, all_listed(entries)),
    });
    let old = Moment::from_millis(900_000);
    let (first, second) = (Entry { arrived: old, ..entry(1) }, Entry { arrived: sim.now, ..entry(1) });
    sim.add(first, false);
    sim.add(second, false);
    sim.run(sim.after(secs(600)));
    assert_eq!(sim.buried.keys().copied().collect::<Vec<_>>(), [Seq(1)]);
    assert!(sim.delivered.contains_key(&Seq(2)));
    assert!(!sim.notices.iter().any(|one| matches!(one, Notice::Parked { .. })), "{:?}", sim.notices);
}
