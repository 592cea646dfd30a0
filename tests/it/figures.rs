//! The figures of the summary line against what was done.

use std::time::Duration;

use target_notifyd::sandbox::{self, Faults, Sandbox};
use tempfile::TempDir;

use crate::support::{Running, display, settings};

#[tokio::test(flavor = "multi_thread")]
async fn figures_tell_what_waits_and_what_went() {
    let folder = TempDir::new().expect("a folder");
    let sandbox = Sandbox::start(sandbox::Settings::default()).expect("the sandbox listens");
    let running = Running::start(settings(&folder, &sandbox)).await;
    let meter = running.meter.clone();
    let before = meter.figures().await;
    assert_eq!((before.pending, before.oldest_s, before.latency_p50_ms), (0, None, None));

    running.submit(vec![display("a", "1"), display("b", "2")]).await;
    running.settled(2).await;
    let served = meter.figures().await;
    assert_eq!((served.accepted, served.delivered, served.pending), (2, 2, 0));
    assert!(served.commits > before.commits, "{served:?}");
    assert!(served.rate_in.m1 > 0.0 && served.rate_out.m15 > 0.0, "{served:?}");
    assert!(
        served.latency_p50_ms <= served.latency_p99_ms && served.latency_p50_ms > Some(0.0),
        "{served:?}"
    );

    sandbox.faults(Faults { refuse_all: Some(503), ..Faults::default() });
    running.submit(vec![display("c", "3")]).await;
    // It grows for as long as the event waits.
    let mut oldest = meter.figures().await.oldest_s.expect("an event waits");
    for _ in 0..3 {
        tokio::time::sleep(Duration::from_millis(5)).await;
        let now = meter.figures().await;
        assert!(now.pending == 1 && now.oldest_s > Some(oldest), "{oldest}: {now:?}");
        oldest = now.oldest_s.expect("it waits still");
    }
    sandbox.faults(Faults::default());
    running.settled(3).await;
    let drained = meter.figures().await;
    assert_eq!((drained.pending, drained.oldest_s), (0, None));
    assert!(drained.disk_used_bytes > Some(0) && drained.disk_free_bytes.is_some() && drained.surplus == 0);
    drop(meter);
    running.stop().await;
    sandbox.stop().await;
}
