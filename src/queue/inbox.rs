//! What the writer is asked for, in order.
//!
//! The channel of the standard library wakes its reader for each message. The writer wants to sleep until as many are
//! there as it expects: dozens of producers come again within a fraction of a commit, and each wake-up costs more than
//! their lines.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use super::Command;

/// Asks the writer.
#[derive(Debug)]
pub(super) struct Sender(Arc<Inbox>);

/// Takes what was asked for.
#[derive(Debug)]
pub(super) struct Receiver(Arc<Inbox>);

/// What a wait ended with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Waited {
    /// Enough is there.
    Enough,
    /// The time was over.
    TimedOut,
    /// No sender is left; what was asked for may still be there.
    Alone,
}

#[derive(Debug, Default)]
struct Inbox {
    state: Mutex<State>,
    wake: Condvar,
}

#[derive(Debug, Default)]
struct State {
    commands: VecDeque<Command>,
    /// How many the receiver waits for; 0 while it does not wait.
    wanted: usize,
    senders: usize,
    /// Whether the receiver is gone.
    closed: bool,
}

/// An empty inbox.
pub(super) fn inbox() -> (Sender, Receiver) {
    let inbox = Arc::new(Inbox::default());
    inbox.state().senders = 1;
    (Sender(Arc::clone(&inbox)), Receiver(inbox))
}

impl Inbox {
    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing is changed under this lock that a panic could leave in half.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Sender {
    /// Asks for `command`; where the writer is gone it is dropped, which ends the wait for its answer.
    pub(super) fn send(&self, command: Command) {
        let mut state = self.0.state();
        if state.closed {
            return;
        }
        state.commands.push_back(command);
        let is_enough = state.wanted > 0 && state.commands.len() >= state.wanted;
        if is_enough {
            state.wanted = 0;
        }
        drop(state);
        if is_enough {
            self.0.wake.notify_one();
        }
    }
}

impl Clone for Sender {
    fn clone(&self) -> Self {
        self.0.state().senders += 1;
        Self(Arc::clone(&self.0))
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.senders -= 1;
        let is_last = state.senders == 0;
        drop(state);
        if is_last {
            self.0.wake.notify_one();
        }
    }
}

impl Receiver {
    /// Everything that was asked for by now.
    pub(super) fn take(&self) -> VecDeque<Command> {
        std::mem::take(&mut self.0.state().commands)
    }

    /// Whether nothing was asked for by now.
    pub(super) fn is_empty(&self) -> bool {
        self.0.state().commands.is_empty()
    }

    /// Waits until `count` commands are there, but not beyond `until`; without it as long as it takes.
    pub(super) fn wait(&self, count: usize, until: Option<Instant>) -> Waited {
        let mut state = self.0.state();
        let waited = loop {
            if state.commands.len() >= count {
                break Waited::Enough;
            }
            if state.senders == 0 {
                break Waited::Alone;
            }
            state.wanted = count;
            state = match until.map(|until| until.saturating_duration_since(Instant::now())) {
                Some(left) if left.is_zero() => break Waited::TimedOut,
                Some(left) => {
                    let (state, _timeout) =
                        self.0.wake.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner);
                    state
                }
                None => self.0.wake.wait(state).unwrap_or_else(PoisonError::into_inner),
            };
        };
        state.wanted = 0;
        waited
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.closed = true;
        let left = std::mem::take(&mut state.commands);
        drop(state);
        // This ends the waits for their answers.
        drop(left);
    }
}

#[cfg(test)]
mod tests {
    use std::thread;
    use std::time::Duration;

    use tokio::sync::oneshot;

    use super::*;

    #[test]
    fn a_wait_ends_with_enough_with_the_time_or_with_the_last_sender() {
        let (sender, receiver) = inbox();
        let other = sender.clone();
        let asks = thread::spawn(move || (0..3).for_each(|count| other.send(Command::Missing(count))));
        assert_eq!(receiver.wait(3, None), Waited::Enough);
        asks.join().unwrap();
        let taken: Vec<String> = receiver.take().iter().map(|command| format!("{command:?}")).collect();
        assert_eq!(taken, ["Missing(0)", "Missing(1)", "Missing(2)"]);

        sender.send(Command::Stop);
        let until = Instant::now() + Duration::from_millis(5);
        assert_eq!(receiver.wait(2, Some(until)), Waited::TimedOut);
        assert!(Instant::now() >= until);
        assert_eq!(receiver.wait(1, Some(until)), Waited::Enough, "what is there takes no time");
        let ends = thread::spawn(move || drop(sender));
        assert_eq!(receiver.wait(2, None), Waited::Alone);
        ends.join().unwrap();
        assert_eq!(receiver.take().len(), 1);
    }

    #[test]
    fn whoever_asks_a_writer_that_is_gone_hears_of_it() {
        let (sender, receiver) = inbox();
        let (done, mut early) = oneshot::channel();
        sender.send(Command::Pulse(done));
        assert_eq!(early.try_recv(), Err(oneshot::error::TryRecvError::Empty));
        drop(receiver);
        assert_eq!(early.try_recv(), Err(oneshot::error::TryRecvError::Closed));
        let (done, mut late) = oneshot::channel();
        sender.send(Command::Pulse(done));
        assert_eq!(late.try_recv(), Err(oneshot::error::TryRecvError::Closed));
    }
}
