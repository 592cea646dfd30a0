//! What the ingest goes by, and how it changes while producers are connected.

use std::sync::Arc;

use tokio::sync::{Semaphore, watch};

use super::Settings;
use crate::wire::defaults::Defaults;

/// What the ingest goes by at a moment.
#[derive(Debug)]
pub(super) struct Rules {
    pub(super) settings: Settings,
    pub(super) defaults: Arc<Defaults>,
    /// `buffer_max_bytes`, in KiB.
    pub(super) long_lines: Arc<Semaphore>,
}

/// Changes what the ingest goes by.
///
/// Who may connect, and how many, holds for new connections; how long lines and waits may be, and what is filled in, for
/// the next read of every connection. `max_receipts` of a connection stays what it was when it began, and the socket and its
/// mode stay what they are.
#[derive(Clone, Debug)]
pub struct Control(watch::Sender<Arc<Rules>>);

impl Control {
    /// Begins with these.
    #[must_use]
    pub fn new(settings: Settings, defaults: Arc<Defaults>) -> Self {
        let long_lines = pool(&settings);
        Self(watch::Sender::new(Arc::new(Rules { settings, defaults, long_lines })))
    }

    /// Goes by these from now on.
    pub fn change(&self, settings: Settings, defaults: Arc<Defaults>) {
        self.0.send_modify(|rules| {
            // Lines that hold a share of an old pool give it back to that one: for a moment both are in use.
            let long_lines = match settings.buffer_max_bytes == rules.settings.buffer_max_bytes {
                true => Arc::clone(&rules.long_lines),
                false => pool(&settings),
            };
            *rules = Arc::new(Rules { settings, defaults, long_lines });
        });
    }

    pub(super) fn rules(&self) -> Arc<Rules> {
        Arc::clone(&self.0.borrow())
    }
}

fn pool(settings: &Settings) -> Arc<Semaphore> {
    Arc::new(Semaphore::new(settings.buffer_max_bytes.div_ceil(1_024)))
}
