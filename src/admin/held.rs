//! The ids of the sessions that are held.
//!
//! A hold is one of a lane, which is a hash that says nothing to a person; a session of which nothing waits has no event
//! that tells its id, and could neither be shown nor be named by what the log shows of it. So the ids lie beside the
//! holds, in a record of their own: without it, or where an id had no room in it, the events tell it as they did before.

use super::office::{Office, Refusal};
use crate::event::SessionId;
use crate::schedule::{Controls, Selection};
use crate::wire::{controls, hash};

/// The name under which the queue keeps them.
const HELD: &str = "held-sessions";

impl Office {
    /// The ids that are known, the last hold's first.
    pub(super) async fn held_sessions(&self) -> Result<Vec<SessionId>, Refusal> {
        let record = self.read(|store| store.meta(HELD)).await?;
        Ok(record.and_then(|record| controls::decode_sessions(&record).ok()).unwrap_or_default())
    }

    /// Keeps the id of a session that is held from now on, where there is one, and those of all that `controls` hold.
    pub(super) async fn keep_held(
        &self,
        controls: &Controls,
        session: Option<SessionId>,
    ) -> Result<(), Refusal> {
        let known = self.held_sessions().await?;
        let is_held = |one: &&SessionId| controls.holds.contains_key(&Selection::Lane(hash::lane(one)));
        let others = known.iter().filter(|one| session.as_ref() != Some(one));
        let kept: Vec<SessionId> = session.iter().chain(others).filter(is_held).cloned().collect();
        if kept != known {
            self.store.put_meta(HELD, controls::encode_sessions(&kept)).await?;
        }
        Ok(())
    }
}
