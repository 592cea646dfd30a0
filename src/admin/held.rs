//! The ids of the sessions that are held.
//!
//! A hold is one of a lane, which is a hash that says nothing to a person; a session of which nothing waits has no event
//! that tells its id, and could neither be shown nor be named by what the log shows of it. So the ids lie beside the
//! holds, in a record of their own: without it, or where an id had no room in it, the events tell it as they did before.
//! What it has is in memory, too: a full disk keeps nobody from reading it.

use futures_util::FutureExt;
use futures_util::future::BoxFuture;

use super::office::Office;
use crate::event::SessionId;
use crate::queue::{Failed, Store};
use crate::schedule::{Controls, Selection};
use crate::wire::{controls, hash};

/// The name under which the queue keeps them.
const HELD: &str = "held-sessions";

/// What is being written; done once it is durable.
pub(super) type Storing = BoxFuture<'static, Result<(), Failed>>;

/// Those that an earlier process has left, the last hold's first.
///
/// # Errors
/// [`Failed`]: the queue cannot be read.
pub fn restored_sessions(store: &Store) -> Result<Vec<SessionId>, Failed> {
    let record = store.meta(HELD)?;
    Ok(record.and_then(|record| controls::decode_sessions(&record).ok()).unwrap_or_default())
}

impl Office {
    /// Has the id of a session kept that is held from now on, where there is one, and those `known` of all that `controls`
    /// hold; what it gives is done once that is durable.
    pub(super) fn keep_held(
        &self,
        known: &mut Vec<SessionId>,
        controls: &Controls,
        session: Option<SessionId>,
    ) -> Option<Storing> {
        let is_held = |one: &&SessionId| controls.holds.contains_key(&Selection::Lane(hash::lane(one)));
        let others = known.iter().filter(|one| session.as_ref() != Some(one));
        let kept: Vec<SessionId> = session.iter().chain(others).filter(is_held).cloned().collect();
        if kept == *known {
            return None;
        }
        *known = kept;
        Some(self.store.put_meta(HELD, controls::encode_sessions(known)).boxed())
    }
}
