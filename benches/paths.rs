//! What the pure paths cost, in time: `cargo bench --bench paths`. Compare runs of the same hour on the same machine only; what holds from
//! machine to machine is counted by `tests/it/instructions.rs`.
#![expect(clippy::expect_used, clippy::indexing_slicing, reason = "a measurement that cannot go on panics")]

#[path = "../tests/it/paths.rs"]
mod paths;

use std::hint::black_box;

use divan::Bencher;
use divan::counter::ItemsCount;
use target_notifyd::ingest::Framer;
use target_notifyd::schedule::Scheduler;

use self::paths::{body, decoded, events, line, page, parsed, request_line, schedule_settings, scheduled};

/// The bytes of a read of the daemon.
const READ_BYTES: usize = 64 * 1_024;

fn main() {
    divan::main();
}

/// What was read is cut into lines.
#[divan::bench]
fn cut_lines(bencher: Bencher<'_, '_>) {
    let mut bytes: Vec<u8> = (0..).flat_map(|id| line(id / 10, id).into_bytes()).take(READ_BYTES).collect();
    bytes.truncate(READ_BYTES - READ_BYTES % line(0, 0).len());
    let lines = bytes.len() / line(0, 0).len();
    let mut framer = Framer::new(bytes.len());
    bencher.counter(ItemsCount::new(lines)).bench_local(|| {
        framer.push(black_box(&bytes));
        while let Some(frame) = framer.next() {
            black_box(frame);
        }
    });
}

/// A line becomes a submission.
#[divan::bench]
fn parse_submission(bencher: Bencher<'_, '_>) {
    let line = line(7, 70);
    bencher.counter(ItemsCount::new(1_u32)).bench(|| parsed(black_box(&line)));
}

/// The same of a line in the long form.
#[divan::bench]
fn parse_request(bencher: Bencher<'_, '_>) {
    let line = request_line(7, 70);
    bencher.counter(ItemsCount::new(1_u32)).bench(|| parsed(black_box(&line)));
}

/// Eight events become a page.
#[divan::bench]
fn write_page(bencher: Bencher<'_, '_>) {
    let events = events(8);
    bencher.counter(ItemsCount::new(events.len())).bench(|| page(black_box(&events)));
}

/// An event of a page of eight is read back.
#[divan::bench]
fn read_event(bencher: Bencher<'_, '_>) {
    let record = page(&events(8));
    bencher.counter(ItemsCount::new(1_u32)).bench(|| decoded(black_box(&record), 7));
}

/// Events of as many sessions as a tenth of them go from their commit to their settlement.
#[divan::bench(args = [100, 10_000])]
fn schedule(bencher: Bencher<'_, '_>, count: u64) {
    let events = events(count);
    bencher
        .counter(ItemsCount::new(count))
        .with_inputs(|| Scheduler::new(schedule_settings(), 1))
        .bench_local_values(|mut scheduler| scheduled(&mut scheduler, &events));
}

/// Ten events become a body.
#[divan::bench]
fn build_body(bencher: Bencher<'_, '_>) {
    let events = events(10);
    bencher.counter(ItemsCount::new(events.len())).bench(|| body(black_box(&events)));
}
