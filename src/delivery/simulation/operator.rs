//! The operator of a history: pauses, holds, retries, flushes and drops, through the flusher as the daemon does them.

use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

use super::disk::Disk;
use super::plan::{below, one_in, pick};
use super::world::{Shared, World};
use crate::delivery::{Ask, Backlog};
use crate::event::{Burial, Cluster, DeadReason, Host, Moment, SessionId};
use crate::schedule::{Changed, Pause, Random, Scheduler, Selection};
use crate::wire::hash;

/// Where the operator's random numbers begin: apart from all others, so that a history without one stays as it was.
const APART: u64 = 0x6f70_6572_6174_6f72;
/// The most events of one drop.
const MOST_DROPPED: u64 = 8;

/// Somebody at the admin socket.
pub(super) struct Operator {
    /// Something is done at one action in this many; 0: never.
    every: u64,
    random: Random,
}

impl Operator {
    /// Two histories in three have one.
    pub(super) fn draw(seed: u64) -> Self {
        let mut random = Random::new(seed ^ APART);
        let every = pick(&mut random, &[0, 1, 4]);
        Self { every, random }
    }

    pub(super) fn absent() -> Self {
        Self { every: 0, random: Random::new(0) }
    }

    /// Does something, or nothing; ends once the flusher did it.
    pub(super) async fn act(&mut self, shared: &Shared, ask: &mpsc::Sender<Ask>, sessions: u64) {
        if !one_in(&mut self.random, self.every) {
            return;
        }
        match below(&mut self.random, 12) {
            0..3 => self.pause(shared, ask).await,
            3 | 4 => {
                let host = self.host();
                resume(shared, ask, host).await;
            }
            5 | 6 => {
                let what = self.selection(sessions);
                operate(shared, ask, move |scheduler, world, now| {
                    if scheduler.hold(now, what) == Changed::Yes {
                        world.stops_are("held", scheduler.controls(), format_args!("{what:?}"));
                    }
                })
                .await;
            }
            7 => {
                let what = self.selection(sessions);
                release(shared, ask, what).await;
            }
            8 => {
                let what = self.selection(sessions);
                operate(shared, ask, move |scheduler, world, now| {
                    scheduler.retry(now, what);
                    world.retried(what);
                })
                .await;
            }
            9 => {
                operate(shared, ask, |scheduler, world, now| {
                    scheduler.flush(now);
                    world.note("flushed", format_args!(""));
                })
                .await;
            }
            10 => self.drop_events(shared, ask).await,
            _ => look(shared, ask).await,
        }
    }

    /// Ends every pause that does not end by itself, and every hold.
    pub(super) async fn lift(&mut self, shared: &Shared, ask: &mpsc::Sender<Ask>) {
        if self.every == 0 {
            return;
        }
        look(shared, ask).await;
        if one_in(&mut self.random, 2) {
            resume(shared, ask, None).await;
            release(shared, ask, Selection::All).await;
            return;
        }
        let stops = shared.world().stops().clone();
        for (host, _) in stops.pauses.into_iter().filter(|(_, pause)| pause.until.is_none()) {
            resume(shared, ask, host).await;
        }
        for what in stops.holds.into_keys() {
            release(shared, ask, what).await;
        }
    }

    async fn pause(&mut self, shared: &Shared, ask: &mpsc::Sender<Ask>) {
        let host = self.host();
        let lasts = pick(&mut self.random, &[None, None, Some(1), Some(30), Some(300)]);
        operate(shared, ask, move |scheduler, world, now| {
            let until = lasts.map(|seconds| now.after(Duration::from_secs(seconds)));
            if scheduler.pause_host(now, host, Pause { reason: String::new(), since: now, until })
                == Changed::Yes
            {
                world.stops_are("paused", scheduler.controls(), format_args!("{host:?} for {lasts:?} s"));
            }
        })
        .await;
    }

    /// Sets some events aside that wait, of one session or of all, as they are known a moment before.
    async fn drop_events(&mut self, shared: &Shared, ask: &mpsc::Sender<Ask>) {
        let most = 1 + below(&mut self.random, MOST_DROPPED);
        let first = self.random.bits();
        let (events, room) = {
            let world = shared.world();
            (world.droppable(first, usize::try_from(most).unwrap()), world.dead_room())
        };
        if events.is_empty() || !room {
            return;
        }
        let took = operate(shared, ask, move |scheduler, world, now| {
            let taken: Vec<_> = scheduler.take_out(now, &events).into_iter().map(|(_, seq)| seq).collect();
            let left = world.dropped(&taken);
            (taken, left)
        });
        let Some((taken, left)) = took.await else { return };
        let bury = |seq| Burial { seq, reason: DeadReason::Dropped, detail: String::new() };
        if Disk(shared.clone()).settle(Vec::new(), left.into_iter().map(bury).collect(), None).await.is_err()
        {
            return;
        }
        operate(shared, ask, move |scheduler, world, now| {
            scheduler.handle_settled(now, &taken);
            scheduler.handle_dead_room(world.dead_room());
        })
        .await;
    }

    /// All, the client's own, one that events go to, or one that nobody knows.
    fn host(&mut self) -> Option<Host> {
        let edge = |number: &str| Cluster::parse(number).map(Host::Edge);
        match below(&mut self.random, 6) {
            0 => None,
            1 => Some(Host::Client),
            2 | 3 => edge("35"),
            4 => edge("36"),
            _ => edge(&(100 + below(&mut self.random, 30)).to_string()),
        }
    }

    fn selection(&mut self, sessions: u64) -> Selection {
        match below(&mut self.random, 8) {
            0 => Selection::All,
            1..4 => self.host().map_or(Selection::All, Selection::Host),
            _ => {
                let session = format!("s{}", below(&mut self.random, sessions));
                Selection::Lane(hash::lane(&SessionId::new(&session).unwrap()))
            }
        }
    }
}

async fn resume(shared: &Shared, ask: &mpsc::Sender<Ask>, host: Option<Host>) {
    operate(shared, ask, move |scheduler, world, now| {
        if scheduler.resume_host(now, host) == Changed::Yes {
            world.stops_are("resumed", scheduler.controls(), format_args!("{host:?}"));
        }
    })
    .await;
}

async fn release(shared: &Shared, ask: &mpsc::Sender<Ask>, what: Selection) {
    operate(shared, ask, move |scheduler, world, now| {
        if scheduler.release_held(now, what) == Changed::Yes {
            world.stops_are("released", scheduler.controls(), format_args!("{what:?}"));
        }
    })
    .await;
}

/// Holds what the scheduler keeps against its limits; and that what is stopped is not called stuck.
async fn look(shared: &Shared, ask: &mpsc::Sender<Ask>) {
    operate(shared, ask, |scheduler, world, _| {
        world.check_kept(scheduler.host_views().len(), scheduler.controls());
    })
    .await;
    let (answer, stuck) = oneshot::channel();
    if ask.send(Ask::Pulse(answer)).await.is_ok()
        && let Ok(stuck) = stuck.await
    {
        assert_eq!(stuck, None);
    }
}

/// Does something with the scheduler, and takes it down, at one moment. `None` where the flusher has ended.
pub(super) async fn operate<T: Send + 'static>(
    shared: &Shared,
    ask: &mpsc::Sender<Ask>,
    deed: impl FnOnce(&mut Scheduler, &mut World, Moment) -> T + Send + 'static,
) -> Option<T> {
    let there = shared.clone();
    Ask::operate(ask, move |scheduler, now| deed(scheduler, &mut there.world(), now)).await
}
