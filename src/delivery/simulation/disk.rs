//! The fake disk: commits that take their time, scans that come from before, and what a crash leaves of both.

use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::sleep;

use super::plan::{below, one_in};
use super::world::{Command, Shared};
use crate::delivery::Backlog;
use crate::event::{Burial, Entry, Event, Seq};
use crate::wire::receipt;

/// What a disk says that works on.
const UNREAD: &str = "a place cannot be read";

/// The queue, as the flusher sees it.
#[derive(Clone)]
pub(super) struct Disk(pub(super) Shared);

impl Disk {
    async fn pause(&self) {
        let micros = below(&mut self.0.world().random, 3_000);
        sleep(Duration::from_micros(micros)).await;
    }

    /// A disk that fails errs at reads too, or does not.
    fn read(&self) -> Result<(), String> {
        let mut world = self.0.world();
        let errs = world.failing && one_in(&mut world.random, 2);
        if errs { Err("the disk cannot be read".to_owned()) } else { Ok(()) }
    }

    /// Does all commits of one life, one after the other; ends where the disk fails.
    pub(super) async fn write(self) {
        loop {
            let wait = self.0.world().begin_commit();
            let Some(wait) = wait else {
                self.0.arrived.notified().await;
                continue;
            };
            sleep(wait).await;
            if !self.0.world().end_commit() {
                return;
            }
            if self.0.world().pending() == 0 {
                self.0.empty.notify_one();
            }
        }
    }
}

impl Backlog for Disk {
    type Error = String;

    async fn scan(&self, from: Seq, max: usize, _is_next: bool) -> Result<(Vec<Entry>, Seq), String> {
        self.pause().await;
        self.read()?;
        let found = self.0.world().scan(from, max);
        self.pause().await;
        Ok(found)
    }

    async fn load(&self, seqs: Vec<Seq>) -> Result<Vec<Option<Event>>, String> {
        self.0.world().begins(&seqs);
        self.pause().await;
        self.read()?;
        // Now and then a place cannot be read, and later it can.
        if one_in(&mut self.0.world().random, 200) {
            return Err(UNREAD.to_owned());
        }
        Ok(self.0.world().load(&seqs))
    }

    fn works_on(&self, error: &String) -> bool {
        error == UNREAD
    }

    fn watches(&self, _seqs: &[Seq]) -> bool {
        one_in(&mut self.0.world().random, 8)
    }

    fn lost(&self, seqs: &[Seq]) {
        self.0.world().told_lost(seqs);
    }

    async fn settle(
        &self,
        delivered: Vec<Seq>,
        buried: Vec<Burial>,
        _answer: Option<receipt::Answer>,
    ) -> Result<(), String> {
        let (done, waiting) = oneshot::channel();
        {
            let mut world = self.0.world();
            world.check_settlement(&delivered, &buried);
            world.waiting.push_back(Command::Settle { delivered, buried, done });
        }
        self.0.arrived.notify_one();
        waiting.await.unwrap_or_else(|_| Err("the disk failed".to_owned()))
    }

    fn dead_room(&self) -> bool {
        self.0.world().dead_room()
    }

    fn waits_for_room(&self) -> bool {
        false
    }

    fn spare(&self, bytes: u64) {
        self.0.world().spare = bytes;
    }
}
