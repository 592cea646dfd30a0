//! Which events a request is about.

use std::collections::BTreeSet;

use super::PAGE_EVENTS;
use super::names;
use super::office::{Office, Refusal};
use super::protocol::Of;
use crate::event::{Host, Lane, Seq, SessionId};
use crate::queue::Sighting;
use crate::schedule::{Extent, Selection, Settings};
use crate::wire::{Identifiers, hash};

/// The most sessions that are counted apart; beyond them only their events are.
const MAX_COUNTED: usize = 100_000;

/// The sessions of what was looked at, counted as far as [`MAX_COUNTED`].
#[derive(Default)]
pub(super) struct Sessions(BTreeSet<Lane>);

impl Sessions {
    pub(super) fn add(&mut self, lane: Lane) {
        if self.0.len() <= MAX_COUNTED {
            self.0.insert(lane);
        }
    }

    /// `None` where there are too many to count them apart.
    pub(super) fn count(&self) -> Option<u64> {
        (self.0.len() <= MAX_COUNTED).then_some(self.0.len() as u64)
    }
}

/// How much a selection has.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Counted {
    pub(super) events: u64,
    /// `None` where there are too many to count them apart.
    pub(super) sessions: Option<u64>,
}

/// What waits, page by page; what arrives meanwhile is left out.
pub(super) struct Pages {
    /// Where the next page begins; `None` behind the last.
    from: Option<Seq>,
    end: Seq,
}

impl Pages {
    pub(super) fn new(office: &Office, extent: &Extent) -> Self {
        Self { from: Some(extent.lowest), end: office.store.tail() }
    }

    /// The next page, which may be empty; `None` where there is no more.
    pub(super) async fn next(&mut self, office: &Office) -> Result<Option<Vec<Sighting>>, Refusal> {
        let (Some(from), end) = (self.from.take(), self.end) else { return Ok(None) };
        let survey = office.read(move |store| store.survey(from, end, PAGE_EVENTS)).await?;
        self.from = survey.next;
        Ok(Some(survey.found))
    }
}

impl Office {
    /// What of the queue waits, and how hosts are chosen.
    pub(super) async fn extent(&self) -> Result<(Extent, Settings), Refusal> {
        self.operate(|scheduler, _| (scheduler.extent(), scheduler.settings().clone())).await
    }

    /// The selection that is named.
    pub(super) async fn selection(&self, of: &Of) -> Result<Selection, Refusal> {
        match of {
            Of::All => Ok(Selection::All),
            Of::Host(name) => names::host(name).map(Selection::Host),
            Of::Session(name) => Ok(Selection::Lane(self.lane(name).await?)),
        }
    }

    /// The lane of a session, named as in [`Office::session`].
    pub(super) async fn lane(&self, name: &str) -> Result<Lane, Refusal> {
        Ok(hash::lane(&self.session(name).await?))
    }

    /// A session by its id, or by the hash that stands for it.
    pub(super) async fn session(&self, name: &str) -> Result<SessionId, Refusal> {
        let id = SessionId::new(name);
        match id {
            Ok(id) if !Identifiers::is_hash(name) => Ok(id),
            Ok(_) => self.find(name).await,
            Err(error) => Err(Refusal::of("malformed", format!("a session {error}"))),
        }
    }

    /// Looks among the sessions that are held, and through the queue, for one whose id or hash is `name`.
    async fn find(&self, name: &str) -> Result<SessionId, Refusal> {
        if let Some(session) = self.held.lock().await.iter().find(|one| self.is(one.as_str(), name)) {
            return Ok(session.clone());
        }
        let mut pages = Pages::new(self, &self.extent().await?.0);
        while let Some(found) = pages.next(self).await? {
            let mut last: Option<&SessionId> = None;
            for one in &found {
                if last == Some(&one.session) {
                    continue;
                }
                last = Some(&one.session);
                if self.is(one.session.as_str(), name) {
                    return Ok(one.session.clone());
                }
            }
        }
        let message = format!("no session that waits or is held has the id or the hash {name}");
        Err(Refusal::of("not_found", message))
    }

    /// Counts what is `meant`, by its lane and its own host: in memory where all is there, else on the disk.
    pub(super) async fn count(
        &self,
        meant: impl Fn(Lane, Host) -> bool + Clone + Send + 'static,
    ) -> Result<Counted, Refusal> {
        let known = meant.clone();
        let asked = self.operate(move |scheduler, _| {
            (scheduler.count(known), scheduler.extent(), scheduler.settings().clone())
        });
        let (counted, extent, settings) = asked.await?;
        if extent.whole {
            return Ok(Counted { events: counted.events as u64, sessions: Some(counted.lanes as u64) });
        }
        let (mut events, mut sessions) = (0, Sessions::default());
        let mut pages = Pages::new(self, &extent);
        while let Some(found) = pages.next(self).await? {
            for one in found {
                if meant(one.entry.lane, settings.own_host(one.entry.cluster)) {
                    events += 1;
                    sessions.add(one.entry.lane);
                }
            }
        }
        Ok(Counted { events, sessions: sessions.count() })
    }
}
