//! What a commit is made of: which connections are waited for, and what it takes of what waits.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::time::{Duration, Instant};

use super::inbox::{Receiver, Waited};
use super::writer::Writer;
use super::{Append, Command};
use crate::wire::record::PAGE_EVENTS;
use crate::wire::submission::Submission;

/// The most events that one commit adds or settles, but for a last submission that goes beyond.
const COMMIT_EVENTS: usize = 4_096;
/// The most bytes that one commit adds, but for a last submission that goes beyond.
const COMMIT_BYTES: u64 = 1_024 * 1_024;
/// The most lines of one connection in a commit while others wait.
const COMMIT_LINES_PER_PRODUCER: usize = 256;
/// The longest that a commit is put off, so that more come along.
const LONGEST_GATHER: Duration = Duration::from_millis(2);
/// How often in a row the time to put a commit off is halved at most, where those that are waited for do not come.
const MAX_HALVINGS: u32 = 4;

/// What was asked for and is in no commit yet, in its order.
pub(super) struct Waiting<'i> {
    inbox: &'i Receiver,
    pub(super) commands: VecDeque<Command>,
}

/// What the last commit was like.
#[derive(Debug, Default)]
pub(super) struct LastCommit {
    /// The connections that it answered one line. One that writes more at once does not wait for the reply to the
    /// first.
    pub(super) producers: BTreeSet<u64>,
    pub(super) time: Duration,
}

impl LastCommit {
    /// A commit that answered `lines` of each connection.
    pub(super) fn of(lines: &BTreeMap<u64, usize>, time: Duration) -> Self {
        let alone = lines.iter().filter(|(_, lines)| **lines == 1);
        Self { producers: alone.map(|(producer, _)| *producer).collect(), time }
    }
}

impl Writer {
    /// Waits for the connections that were answered last to send again, at most for the time that the last commit took.
    /// Each time that they do not send, the next wait is halved: they do not wait for one answer before they send the
    /// next line. Without the wait, producers that wait for each reply fall into two groups, each of which waits for
    /// the other's commit. A connection of which something is there already is not waited for.
    pub(super) fn gather(&mut self, waiting: &mut Waiting<'_>) {
        let (mut missing, mut lines, mut seen) = (self.last.producers.clone(), 0, 0);
        let until = Instant::now() + self.last.time.min(LONGEST_GATHER) / (1 << self.halvings);
        loop {
            for append in waiting.commands.iter().skip(seen).filter_map(Command::append) {
                missing.remove(&append.producer);
                lines += append.batch.len();
            }
            if lines == 0 {
                return;
            }
            if missing.is_empty() || lines >= COMMIT_EVENTS {
                break;
            }
            seen = waiting.commands.len();
            let waited = waiting.wait(missing.len(), Some(until));
            waiting.take_in();
            if waited != Waited::Enough {
                self.halvings = (self.halvings + 1).min(MAX_HALVINGS);
                return;
            }
        }
        self.halvings = self.halvings.saturating_sub(1);
    }
}

impl Command {
    /// What a producer hands on, where it is that.
    fn append(&self) -> Option<&Append> {
        match self {
            Self::Append(append) => Some(append),
            _ => None,
        }
    }
}

impl<'i> Waiting<'i> {
    pub(super) fn new(inbox: &'i Receiver) -> Self {
        Self { inbox, commands: VecDeque::new() }
    }

    /// Waits until `count` more were asked for, as [`Receiver::wait`].
    pub(super) fn wait(&self, count: usize, until: Option<Instant>) -> Waited {
        self.inbox.wait(count, until)
    }

    /// Whether nothing was asked for by now that is in no commit yet.
    pub(super) fn is_empty(&self) -> bool {
        self.commands.is_empty() && self.inbox.is_empty()
    }

    /// Takes in everything that was asked for by now.
    pub(super) fn take_in(&mut self) {
        self.commands.extend(self.inbox.take());
    }

    /// These wait again, before all others.
    pub(super) fn put_back(&mut self, commands: impl DoubleEndedIterator<Item = Command>) {
        commands.rev().for_each(|command| self.commands.push_front(command));
    }

    /// Whether the end of the queue is among it.
    pub(super) fn has_stop(&self) -> bool {
        self.commands.iter().any(|command| matches!(command, Command::Stop))
    }

    /// Takes the next commit's share: the appends, and everything else that was asked for before the bound was reached.
    /// What is left stays in its order for each connection.
    pub(super) fn next_commit(&mut self) -> (Vec<Append>, Vec<Command>) {
        let (mut appends, mut others, mut left) = (Vec::new(), Vec::new(), VecDeque::new());
        let mut lines: HashMap<u64, usize> = HashMap::new();
        let (mut events, mut bytes) = (0, 0);
        while let Some(command) = self.commands.pop_front() {
            if events >= COMMIT_EVENTS || bytes >= COMMIT_BYTES {
                left.push_back(command);
                continue;
            }
            match command {
                Command::Append(append) => {
                    let own = lines.entry(append.producer).or_default();
                    if *own > 0 && *own + append.batch.len() > COMMIT_LINES_PER_PRODUCER {
                        // From here on all of this connection wait, so that its lines keep their order.
                        *own = COMMIT_LINES_PER_PRODUCER;
                        left.push_back(Command::Append(append));
                        continue;
                    }
                    *own += append.batch.len();
                    events += append.batch.iter().map(|one| one.notifications.len()).sum::<usize>();
                    bytes += append.batch.iter().map(Submission::payload_bytes).sum::<u64>();
                    appends.push(append);
                }
                Command::Settle { ref delivered, ref burials, .. } => {
                    events += delivered.len() + burials.len();
                    others.push(command);
                }
                Command::Requeue { ref letters, .. } | Command::Delete { ref letters, .. } => {
                    events += letters.len();
                    others.push(command);
                }
                // It is written once more, whole.
                Command::Quarantine(_) => {
                    events += PAGE_EVENTS;
                    others.push(command);
                }
                Command::Stop if !left.is_empty() => left.push_back(command),
                other => others.push(other),
            }
        }
        self.commands = left;
        (appends, others)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Seq;
    use crate::queue::inbox::inbox;
    use crate::queue::keys::PageKey;

    #[test]
    fn who_writes_several_lines_at_once_is_not_waited_for() {
        let last = LastCommit::of(&BTreeMap::from([(1, 1), (2, 64), (3, 2), (4, 1)]), Duration::ZERO);
        assert_eq!(last.producers, BTreeSet::from([1, 4]));
    }

    /// A scan finds as many damaged pages as there are, while a commit is under way.
    #[test]
    fn a_commit_sets_as_many_pages_aside_as_it_may_have_events() {
        let (_sender, receiver) = inbox();
        let mut waiting = Waiting::new(&receiver);
        let key = |first| PageKey { first: Seq(first), count: 64 };
        waiting.put_back((0..100).map(|page| Command::Quarantine(key(page * 64))));
        let (appends, others) = waiting.next_commit();
        assert_eq!((appends.len(), others.len(), waiting.commands.len()), (0, 64, 36));
    }
}
