//! What the tests of the daemon's parts stand on.

use std::sync::Arc;

use tempfile::TempDir;
use tokio::sync::mpsc;

use crate::delivery::Ask;
use crate::event::{Account, Clock, Moment};
use crate::figures::{Limits, Meter, Sources};
use crate::queue::{self, Queue};
use crate::wire::defaults::Defaults;
use crate::wire::submission::Submission;

/// A queue, and the figures of a daemon that has nothing else.
pub(super) struct Stage {
    folder: TempDir,
    settings: queue::Settings,
    pub(super) queue: Queue,
}

impl Stage {
    pub(super) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let settings = queue::Settings {
            path: folder.path().join("queue"),
            max_bytes: 1 << 20,
            max_events: 10,
            min_free: 0,
            reserve: 0,
            dead_max_events: 10,
            journal_bytes: 1 << 20,
            adopt: false,
        };
        let account = Account { client: "acme".to_owned(), organization: "0DD9@AdobeOrg".to_owned() };
        let queue = Queue::open(settings.clone(), &account, Arc::new(|| Moment::ZERO)).unwrap();
        Self { folder, settings, queue }
    }

    /// Has the writer store an event, and do nothing more until it is released.
    pub(super) async fn keep_busy(&self) -> std::sync::mpsc::Sender<()> {
        let line =
            br#"{"session_id":"a","type":"display","mbox":{"name":"home","state":"s"},"tokens":["t"]}"#;
        self.queue.keep_busy(Submission::parse(line, &Defaults::default(), 1).unwrap()).await
    }

    pub(super) fn meter(&self, clock: Clock, asks: mpsc::Sender<Ask>) -> Meter {
        Meter::new(Sources {
            store: self.queue.store(),
            folder: self.folder.path().to_owned(),
            limits: Limits::of(&self.settings),
            clock,
            came: Arc::default(),
            went: Arc::default(),
            asks,
        })
    }
}
