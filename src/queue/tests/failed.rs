//! The start after a failed disk: everything that was acknowledged is copied into a new database.

use std::time::Duration;

use super::*;

/// An open takes what is no longer used out of the log at once, and the headers of what stays may speak of places in
/// it: without the snapshot of that open the engine would take the log for torn there.
#[tokio::test]
async fn a_start_after_a_failed_disk_keeps_what_lies_behind_freed_parts_of_the_log() {
    for events in (100..=400).step_by(50) {
        let folder = TempDir::new().unwrap();
        let settings = settings(folder.path());
        let queue = open(settings.clone());
        for session in ["a", "b"] {
            let batch = vec![submission(session, events, 5_000, 10)];
            assert_eq!(append(&queue, batch).await, [Appended::Stored]);
        }
        queue.shutdown().await.unwrap();
        open(settings.clone()).shutdown().await.unwrap();
        fs::write(settings.path.join("failed"), "input/output error").unwrap();

        let queue = open(settings.clone());
        let store = queue.store();
        assert_eq!(seqs(&store).await, (1..=2 * events as u64).collect::<Vec<_>>());
        assert!(!settings.path.join("failed").exists());
        let balance = Balance { accepted: 2 * events as u64, ..Balance::default() };
        assert_eq!((store.ledger().balance, store.ledger().imbalance()), (balance, 0));
        drop(store);
        queue.shutdown().await.unwrap();
    }
}

#[tokio::test]
async fn a_queue_whose_lock_is_gone_is_not_written_on() {
    let folder = TempDir::new().unwrap();
    let settings = settings(folder.path());
    let queue = open(settings.clone());
    let store = queue.store();
    append(&queue, vec![submission("a", 3, 10, 10)]).await;
    fs::remove_file(settings.path.join("lock")).unwrap();
    // It is looked for now and then.
    let failed = loop {
        match store.pulse().await {
            Ok(()) => tokio::time::sleep(Duration::from_millis(20)).await,
            Err(failed) => break failed,
        }
    };
    assert_eq!(failed, Failed::Unlocked(settings.path.clone()));
    assert!(matches!(queue.shutdown().await, Err(Failed::Unlocked(_))));
    drop(store);
    assert!(!settings.path.join("failed").exists());
    let queue = open(settings);
    assert_eq!(seqs(&queue.store()).await, [1, 2, 3]);
    queue.shutdown().await.unwrap();
}

#[tokio::test]
async fn whoever_asked_with_the_commit_that_failed_hears_why() {
    for _ in 0..20 {
        let folder = TempDir::new().unwrap();
        let queue = open(settings(folder.path()));
        let store = queue.store();
        fs::remove_dir_all(folder.path().join("queue")).unwrap();
        let failed = store.put_meta("kept", vec![1]).await;
        assert!(matches!(failed, Err(Failed::Gone(_))), "{failed:?}");
        assert!(matches!(store.pulse().await, Err(Failed::Gone(_))));
        assert!(matches!(queue.shutdown().await, Err(Failed::Gone(_))));
    }
    let folder = TempDir::new().unwrap();
    let queue = open(settings(folder.path()));
    let store = queue.store();
    queue.shutdown().await.unwrap();
    assert!(matches!(store.pulse().await, Err(Failed::Closed)), "it ended in order");
}
