//! Delivery, in a thread of its own.
//!
//! All that a request takes runs there, from the scheduler to the connections, so that none of it has to wake another thread, and
//! producers wait for none of it.

use std::io;
use std::sync::mpsc;
use std::thread::{self, JoinHandle};

use tokio::runtime::{Builder, Runtime};
use tokio::sync::oneshot;
use tokio_util::sync::{CancellationToken, DropGuard};

/// What `top -H` and the like show.
const NAME: &str = "delivery";

/// Delivery under way. Dropped, it is given up.
pub(super) struct Aside {
    ended: oneshot::Receiver<Result<(), String>>,
    thread: Option<JoinHandle<()>>,
    given_up: Option<DropGuard>,
}

impl Aside {
    /// Runs `delivery` in a thread of its own until it ends or is given up.
    ///
    /// # Errors
    /// The system has no thread or no descriptors left.
    pub(super) fn start(
        delivery: impl Future<Output = Result<(), String>> + Send + 'static,
    ) -> io::Result<Self> {
        let (end, ended) = oneshot::channel();
        let given_up = CancellationToken::new();
        let stopped = given_up.clone();
        let (hand_over, handed) = mpsc::channel::<(Runtime, _)>();
        let run = move || {
            // Nothing comes where the start failed.
            let Ok((runtime, delivery)) = handed.recv() else { return };
            let result = runtime.block_on(stopped.run_until_cancelled(delivery));
            // With its connections.
            drop(runtime);
            // Nobody waits for what was given up by being dropped.
            let _gone = end.send(result.unwrap_or(Ok(())));
        };
        let thread = thread::Builder::new().name(NAME.to_owned()).spawn(run)?;
        // Nothing in it blocks: names are looked up by the runtime that the daemon was opened in. It is made behind the thread,
        // which alone may drop it: a task that drops a runtime panics.
        let runtime = Builder::new_current_thread().enable_all().build()?;
        // The thread waits for it.
        let _taken = hand_over.send((runtime, delivery));
        Ok(Self { ended, thread: Some(thread), given_up: Some(given_up.drop_guard()) })
    }

    /// Waits for the end, once. To drop this only stops waiting.
    ///
    /// # Errors
    /// Why it ended early, as a text.
    pub(super) async fn ended(&mut self) -> Result<(), String> {
        let ended = (&mut self.ended).await;
        // It has nothing left to do. Not left to itself: glibc reads the memory of a thread that it lets go of, which is gone where
        // the thread ends in that moment.
        let joined = self.thread.take().map_or(Ok(()), JoinHandle::join);
        match (ended, joined) {
            (Ok(result), Ok(())) => result,
            _ => Err("it panicked, please report it".to_owned()),
        }
    }

    /// Ends it, whatever is under way.
    pub(super) async fn give_up(mut self) {
        self.given_up = None;
        // Whoever gives it up has a reason of his own.
        let _result = self.ended().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn it_tells_how_it_ended() {
        let told = |ended: Result<(), &str>| ended.map_err(str::to_owned);
        for result in [told(Ok(())), told(Err("the disk"))] {
            let expected = result.clone();
            assert_eq!(Aside::start(async { result }).unwrap().ended().await, expected);
        }
        let panicked = Aside::start(async { panic!("a bug") }).unwrap().ended().await;
        assert_eq!(panicked, told(Err("it panicked, please report it")));
    }

    #[tokio::test]
    async fn what_is_given_up_or_dropped_ends() {
        let held = std::sync::Arc::new(());
        let forever = || {
            let held = std::sync::Arc::clone(&held);
            Aside::start(async move {
                std::future::pending::<()>().await;
                drop(held);
                Ok(())
            })
        };
        forever().unwrap().give_up().await;
        assert_eq!(std::sync::Arc::strong_count(&held), 1, "it gave back what it held");
        let mut dropped = forever().unwrap();
        dropped.given_up = None;
        assert_eq!(dropped.ended().await, Ok(()));
    }

    #[tokio::test]
    async fn it_has_a_thread_with_a_name() {
        let (tell, told) = oneshot::channel();
        let name =
            async { tell.send(thread::current().name().map(str::to_owned)).map_err(|_| String::new()) };
        assert_eq!(Aside::start(name).unwrap().ended().await, Ok(()));
        assert_eq!(told.await.unwrap().as_deref(), Some(NAME));
    }
}
