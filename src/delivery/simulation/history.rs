//! How one history goes: lives of the flusher, one after the other over the same disk, until Target heals and nothing
//! waits.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use super::disk::Disk;
use super::operator::{Operator, operate};
use super::plan::{Fault, Plan, below, one_in, pick};
use super::target::Target;
use super::world::{Command, Counts, Draft, Shared, World};
use crate::delivery::{Ask, Feed, Flusher, KnownVisitors};
use crate::event::{Cluster, Envelope, EventId, Owner, SessionId};
use crate::schedule::{LEARNED_FOR, MAX_LEARNED, Random, Scheduler};
use crate::wire::{Identifiers, hash};

/// How long after Target healed everything must be settled.
const SETTLED_WITHIN: Duration = Duration::from_secs(6 * 3_600);
/// How often somebody looks whether everything is.
const LOOK: Duration = Duration::from_secs(30);

/// What a history came to.
#[derive(Debug)]
pub(super) struct Story {
    pub(super) digest: u64,
    pub(super) counts: Counts,
}

/// How a life ended.
enum End {
    Crash,
    Stop,
    /// The flusher, or the disk, gave up.
    Failed,
    /// Everything is settled.
    Done,
}

/// Runs one history to its end, with the operator that it has, or with none.
pub(super) fn run(seed: u64, operated: bool, loud: bool) -> Story {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    runtime.block_on(async {
        let mut random = Random::new(seed);
        let plan = Plan::draw(&mut random);
        let operator = if operated { Operator::draw(seed) } else { Operator::absent() };
        let random_acts = Random::new(random.bits());
        let mut producer = Producer { actions: plan.actions, serial: 0, random: random_acts, operator };
        if loud {
            println!("{plan:#?}");
        }
        let shared = Shared::new(plan, random, loud);
        loop {
            let end = live(&shared, &mut producer).await;
            let orderly = matches!(end, End::Stop | End::Done);
            shared.world().end_life(orderly);
            if let End::Done = end {
                let world = shared.world();
                assert_eq!(world.pending(), 0);
                return Story { digest: world.digest(), counts: world.counts.clone() };
            }
        }
    })
}

/// One life of the flusher.
async fn live(shared: &Shared, producer: &mut Producer) -> End {
    let stop = CancellationToken::new();
    let (ask, asks) = mpsc::channel(4);
    let mut flushing = pin!(flush(shared, asks, stop.clone()));
    let mut writing = pin!(Disk(shared.clone()).write());
    let end = tokio::select! {
        biased;
        ended = &mut flushing => {
            assert!(shared.world().failing, "the flusher ended: {ended:?}");
            End::Failed
        }
        () = &mut writing => End::Failed,
        end = producer.act(shared, &ask) => end,
    };
    if let End::Stop | End::Done = end {
        let (grace, began) = (shared.world().plan.grace, Instant::now());
        stop.cancel();
        let ended = tokio::select! {
            biased;
            ended = timeout(grace + Duration::from_secs(1), &mut flushing) => ended,
            () = &mut writing => return End::Failed,
        };
        if let Err(error) = ended.expect("it stops within the grace") {
            assert!(shared.world().failing, "the flusher ended: {error}");
            return End::Failed;
        }
        if began.elapsed() < grace {
            let world = shared.world();
            assert!(!world.settles(), "it stopped while a settlement was under way");
        }
    }
    end
}

/// A flusher over the world, as the daemon makes it.
pub(super) async fn flush(
    shared: &Shared,
    asks: mpsc::Receiver<Ask>,
    stop: CancellationToken,
) -> Result<(), String> {
    let (flusher, live, tail) = {
        let mut world = shared.world();
        let (added, live) = mpsc::channel(world.plan.live_room);
        let (tail, tails) = watch::channel(world.tail_seq());
        world.begin_life(added, tail);
        let mut scheduler = Scheduler::new(world.plan.settings.clone(), world.random.bits());
        scheduler.restore(world.now(), world.stops().clone());
        let clock = shared.clone();
        let flusher = Flusher {
            backlog: Disk(shared.clone()),
            edge: Target(shared.clone()),
            scheduler,
            now: Arc::new(move || clock.world().look()),
            identifiers: watch::channel(Identifiers::Plain).1,
            counts: Arc::default(),
            feed: Feed::default(),
            grace: world.plan.grace,
            known: KnownVisitors::new(MAX_LEARNED, LEARNED_FOR),
        };
        (flusher, live, tails)
    };
    flusher.run(live, tail, asks, stop).await
}

/// The producers, and whoever looks after the machine; the operator of the daemon is apart.
struct Producer {
    actions: u64,
    serial: u64,
    random: Random,
    operator: Operator,
}

impl Producer {
    /// Acts until something ends this life, or everything is settled.
    async fn act(&mut self, shared: &Shared, ask: &mpsc::Sender<Ask>) -> End {
        let (plan, gap) = {
            let world = shared.world();
            let plan = world.plan.clone();
            let gap = plan.lasts / u32::try_from(plan.actions).unwrap();
            (plan, gap)
        };
        while self.actions > 0 {
            self.actions -= 1;
            let wait = if one_in(&mut self.random, 3) { Duration::ZERO } else { self.random.up_to(gap * 2) };
            sleep(wait).await;
            if one_in(&mut self.random, plan.crash) {
                shared.world().note("crash", format_args!(""));
                return End::Crash;
            }
            if one_in(&mut self.random, plan.stop) {
                shared.world().note("stop", format_args!(""));
                return End::Stop;
            }
            if one_in(&mut self.random, plan.disk_fails) {
                let mut world = shared.world();
                world.failing = true;
                world.note("the disk fails", format_args!(""));
            }
            match below(&mut self.random, 20) {
                0 => look(shared, ask).await,
                1 => {
                    let until = {
                        let mut world = shared.world();
                        let until = world.now().after(Duration::from_secs(below(&mut self.random, 300)));
                        world.delay_expiry(until);
                        until
                    };
                    // A flusher that has ended hears nothing.
                    let _ended = Ask::operate(ask, move |scheduler, _| scheduler.delay_expiry(until)).await;
                }
                2 => shared.world().make_dead_room(false),
                _ => self.append(shared, &plan),
            }
            self.operator.act(shared, ask, plan.sessions).await;
        }
        self.settle(shared, ask).await
    }

    /// Target heals, and everything settles.
    async fn settle(&mut self, shared: &Shared, ask: &mpsc::Sender<Ask>) -> End {
        let healed = {
            let mut world = shared.world();
            world.make_dead_room(true);
            let until = world.healed();
            Instant::now() + until.since(world.now())
        };
        sleep_until(healed).await;
        self.operator.lift(shared, ask).await;
        // What was not answered is unknown to the producer; what the writer has taken is not.
        while Instant::now() < healed + SETTLED_WITHIN {
            look(shared, ask).await;
            // A pause ends with a success, so that something sound comes now and then, to every host.
            for (number, cluster) in
                [None, Cluster::parse("35"), Cluster::parse("36")].into_iter().enumerate()
            {
                let session = format!("late-{}-{number}", self.serial);
                let draft = self.draft(&session, cluster, 0, Fault::None, false);
                shared.world().waiting.push_back(Command::Append(vec![draft]));
            }
            shared.arrived.notify_one();
            let until = Instant::now() + LOOK;
            while timeout(until - Instant::now(), shared.empty.notified()).await.is_ok() {
                let world = shared.world();
                if world.pending() == 0 && world.is_idle() {
                    return End::Done;
                }
            }
        }
        panic!("not settled {SETTLED_WITHIN:?} after Target healed:\n{}", shared.world().left());
    }

    fn append(&mut self, shared: &Shared, plan: &Plan) {
        let submissions = 1 + below(&mut self.random, 3);
        for _ in 0..submissions {
            let session = below(&mut self.random, plan.sessions);
            let kind = below(&mut self.random, plan.envelopes);
            let count = 1 + below(&mut self.random, plan.submission);
            let drafts = (0..count).map(|_| self.faulty(plan, session, kind)).collect();
            shared.world().waiting.push_back(Command::Append(drafts));
        }
        shared.arrived.notify_one();
    }

    fn faulty(&mut self, plan: &Plan, session: u64, kind: u64) -> Draft {
        let random = &mut self.random;
        let fault = if one_in(random, plan.poison) {
            Fault::Poison(pick(random, &[400, 413, 422]))
        } else if one_in(random, plan.unlisted) {
            Fault::Unlisted
        } else if one_in(random, plan.crasher) {
            Fault::Crasher(pick(random, &[0, 500, 503]))
        } else {
            Fault::None
        };
        let damaged = one_in(random, plan.damaged);
        let cluster = match (session + kind) % 5 {
            0 => Cluster::parse("35"),
            1 => Cluster::parse("36"),
            _ => None,
        };
        let mut draft = self.draft(&format!("s{session}"), cluster, kind, fault, damaged);
        if plan.collide {
            let envelope = Arc::make_mut(&mut draft.envelope);
            envelope.fingerprint.0 = 7;
        }
        draft
    }

    pub(super) fn draft(
        &mut self,
        session: &str,
        cluster: Option<Cluster>,
        kind: u64,
        fault: Fault,
        damaged: bool,
    ) -> Draft {
        self.serial += 1;
        let same = one_in(&mut self.random, 10);
        draft(self.serial, session, cluster, kind, same).with(fault, damaged)
    }
}

impl Draft {
    fn with(self, fault: Fault, damaged: bool) -> Self {
        Self { fault, damaged, ..self }
    }
}

/// An event of `session`, under its envelope of the number `kind`; all that have the `same` id have one id.
pub(super) fn draft(serial: u64, session: &str, cluster: Option<Cluster>, kind: u64, same: bool) -> Draft {
    let session = SessionId::new(session).unwrap();
    let id = if same { "1".to_owned() } else { format!("e{serial}") };
    let pad = "x".repeat(usize::try_from(serial % 7 * 10).unwrap());
    let notification = format!(r#"{{"id":"{id}","type":"click","timestamp":1,"n":{serial},"x":"{pad}"}}"#);
    let (object, visitor) = match kind % 3 {
        2 => (r#"{"tntId":"own.35_0"}"#.to_owned(), None),
        _ => {
            let object = format!(r#"{{"thirdPartyId":"p{kind}"}}"#);
            let visitor = hash::visitor(Some(&object));
            (object, Some(visitor))
        }
    };
    let members = format!(r#""id":{object},"context":{{"channel":"web","kind":{kind}}}"#).into_bytes();
    let owner = Owner(if kind == 1 { 2 } else { 1 });
    let fingerprint = hash::fingerprint(&session, cluster, owner, &members);
    let envelope = Envelope { session, cluster, owner, visitor, members: members.into(), fingerprint };
    Draft {
        serial,
        id: EventId::new(&id),
        notification: notification.into_bytes().into(),
        envelope: Arc::new(envelope),
        fault: Fault::None,
        damaged: false,
    }
}

/// Asks the flusher for its numbers, and holds them against the limits.
pub(super) async fn look(shared: &Shared, ask: &mpsc::Sender<Ask>) {
    let look = |scheduler: &mut Scheduler, world: &mut World, _| world.check_status(&scheduler.status());
    // A flusher that has ended has no numbers.
    let _ended = operate(shared, ask, look).await;
}
