//! Random actions on the real queue, held against a naive map after each.
//!
//! What fails is made smaller, and its seed is kept under `proptest-regressions/`, from where every run tries it first.

mod broken;
mod naive;
mod pair;

use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

pub(in crate::queue) use self::broken::disk_fails;
use self::pair::Pair;
pub(in crate::queue) use self::pair::{fill_behind, meet_full_disk};
use super::*;

/// What is done to the queue. Numbers choose among what is there.
#[derive(Clone, Debug)]
enum Action {
    /// All of these at once, and perhaps in one commit, which may meet the full disk.
    Ask(Vec<Ask>, Option<Fault>),
    /// Some events are read, as a sender does.
    Load(Pick),
    /// This many milliseconds go by.
    Wait(u64),
    /// Somebody else takes room on the disk, or gives it back.
    Fill(Disk),
    /// Closed and opened.
    Reopen,
    /// A record, the first, second or so on of its kind, is damaged while the queue is closed.
    Corrupt(Record, usize),
    /// The disk fails under the first commit that this takes, or another one; then the next start.
    Break(Ask, Left),
}

/// What a failed disk has of the commit that met it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Left {
    Nothing,
    /// All but its last byte.
    Part,
    /// All of it: nobody was told so.
    All,
}

#[derive(Clone, Debug)]
enum Ask {
    /// Submissions: how many events, how large each, how large the envelope.
    Append(Vec<(usize, usize, usize)>),
    /// A submission of just as many events as the queue may still hold, or of this many more.
    Rest(usize),
    Deliver(Pick),
    Bury(Pick, DeadReason),
    /// What waits for this many milliseconds or longer is set aside.
    Expire(u64),
    /// What was settled before, and what never was there, is settled.
    Again(Pick),
    Requeue(Pick),
    Delete(Pick),
}

/// How the engine meets the full disk in a commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    /// Before anything is written.
    Before,
    /// When all is written.
    Behind,
    /// Before anything is written of the commit that follows those of all that is asked.
    Next,
}

/// How much room the disk has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Disk {
    /// For everything.
    Free,
    /// For everything but a new reserve.
    Short,
    /// For removals.
    Low,
    /// For nothing, without the reserve.
    Full,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Record {
    /// A part of a page.
    Page,
    /// A page is gone, and what only it referred to.
    Lost,
    /// A mark of settled events.
    Mark,
    /// A large envelope.
    Members,
    /// A dead letter.
    Letter,
}

/// Every `step`-th from the one at `from` on.
#[derive(Clone, Copy, Debug)]
struct Pick {
    from: usize,
    step: usize,
}

impl Pick {
    /// At most as many as a requeue takes in one commit.
    fn of(self, numbers: impl IntoIterator<Item = u64>) -> Vec<u64> {
        numbers.into_iter().skip(self.from).step_by(self.step).take(200).collect()
    }
}

fn picks() -> impl Strategy<Value = Pick> {
    (0..40_usize, 1..6_usize).prop_map(|(from, step)| Pick { from, step })
}

fn asks() -> impl Strategy<Value = Ask> {
    let bytes = prop_oneof![4 => 0..900_usize, 1 => 6_000..9_000_usize];
    let members = prop::sample::select(vec![10, 10, 900, 1_100, 9_000]);
    let count = prop_oneof![3 => 1..8_usize, 1 => 8..90_usize];
    let reasons =
        [DeadReason::Refused, DeadReason::NotAcknowledged, DeadReason::Expired, DeadReason::Dropped];
    let reason = prop::sample::select(reasons.to_vec());
    prop_oneof![
        6 => prop::collection::vec((count, bytes, members), 1..4).prop_map(Ask::Append),
        1 => (0..2_usize).prop_map(Ask::Rest),
        5 => picks().prop_map(Ask::Deliver),
        3 => (picks(), reason).prop_map(|(pick, reason)| Ask::Bury(pick, reason)),
        1 => (0..40_u64).prop_map(Ask::Expire),
        1 => picks().prop_map(Ask::Again),
        2 => picks().prop_map(Ask::Requeue),
        1 => picks().prop_map(Ask::Delete),
    ]
}

fn actions() -> impl Strategy<Value = Vec<Action>> {
    let fault = prop_oneof![
        6 => Just(None),
        1 => Just(Some(Fault::Before)),
        1 => Just(Some(Fault::Behind)),
        1 => Just(Some(Fault::Next)),
    ];
    let disk = prop::sample::select(vec![Disk::Free, Disk::Free, Disk::Short, Disk::Low, Disk::Full]);
    let kinds = [Record::Page, Record::Lost, Record::Mark, Record::Members, Record::Letter];
    let record = prop::sample::select(kinds.to_vec());
    let left = prop::sample::select(vec![Left::Nothing, Left::Part, Left::All, Left::All]);
    let action = prop_oneof![
        12 => (prop::collection::vec(asks(), 1..4), fault).prop_map(|(asks, fault)| Action::Ask(asks, fault)),
        2 => picks().prop_map(Action::Load),
        2 => (1..20_u64).prop_map(Action::Wait),
        1 => disk.prop_map(Action::Fill),
        1 => Just(Action::Reopen),
        2 => (record, 0..20_usize).prop_map(|(record, nth)| Action::Corrupt(record, nth)),
        1 => (asks(), left).prop_map(|(ask, left)| Action::Break(ask, left)),
    ];
    prop::collection::vec(action, 1..24)
}

#[test]
fn the_queue_is_a_map_of_what_waits() {
    let cases = u32::try_from(crate::extent::extent(200, 10_000)).unwrap();
    let seed = crate::extent::seed().to_le_bytes();
    let config = Config { cases, source_file: Some(file!()), max_shrink_time: 60_000, ..Config::default() };
    let random = TestRng::from_seed(RngAlgorithm::ChaCha, &seed.repeat(4));
    let mut runner = TestRunner::new_with_rng(config, random);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    // Where there is a disk in memory, a case takes some milliseconds.
    let disk = Some(Path::new("/dev/shm")).filter(|path| path.is_dir());
    let ran = runner.run(&actions(), |actions| {
        let folder = disk.map_or_else(TempDir::new, TempDir::new_in).unwrap();
        runtime.block_on(async {
            let mut pair = Pair::new(folder.path());
            for action in &actions {
                pair.act(action).await;
                pair.compare().await;
            }
            pair.end().await;
        });
        Ok(())
    });
    if let Err(failure) = ran {
        panic!(
            "{failure}\nagain: TARGET_NOTIFYD_SEED={} cargo test --lib queue::tests::model",
            crate::extent::seed()
        );
    }
}
