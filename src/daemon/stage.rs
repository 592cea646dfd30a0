//! What the tests of the daemon's parts stand on.

use std::sync::{Arc, mpsc};

use tempfile::TempDir;
use tokio::sync::oneshot;

use crate::delivery::Ask;
use crate::event::{Account, Clock, Moment};
use crate::figures::{Limits, Meter, Sources};
use crate::queue::{self, OnStored, Queue};
use crate::wire::defaults::Defaults;
use crate::wire::reply::Appended;
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
    pub(super) async fn keep_busy(&self) -> mpsc::Sender<()> {
        let (release, released) = mpsc::channel();
        let (began, begun) = oneshot::channel();
        let busy = OnStored(Box::new(move |_| {
            began.send(()).unwrap();
            released.recv().unwrap();
        }));
        let line =
            br#"{"session_id":"a","type":"display","mbox":{"name":"home","state":"s"},"tokens":["t"]}"#;
        let event = Submission::parse(line, &Defaults::default(), 1).unwrap();
        let (replier, _answers) = oneshot::channel::<Vec<Appended>>();
        self.queue.appender().append(1, vec![event], vec![(0, busy)], Box::new(replier)).await;
        begun.await.unwrap();
        release
    }

    pub(super) fn meter(&self, clock: Clock, asks: tokio::sync::mpsc::Sender<Ask>) -> Meter {
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
