//! What a lane that left a full index is not to lose.

use super::super::index::Index;
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
