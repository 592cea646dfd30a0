//! What a listener does while the system gives it no connection, for want of file descriptors above all.

use std::io;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};
use tracing::{info, warn};

/// How long nothing is accepted after a failure.
const PAUSE: Duration = Duration::from_millis(100);

/// The failures of a listener to accept, in a row.
#[derive(Debug)]
pub struct Failures {
    /// The key of the listener, for the log.
    key: &'static str,
    count: u64,
    /// Nothing is accepted before this.
    pause: Option<Instant>,
}

impl Failures {
    /// Those of the listener that `key` configures.
    #[must_use]
    pub fn of(key: &'static str) -> Self {
        Self { key, count: 0, pause: None }
    }

    /// The next connection that `accept` gives, however often that fails before. Dropped it loses nothing that `accept` would
    /// not lose.
    pub async fn outlast<T, F: Future<Output = io::Result<T>>>(&mut self, accept: impl Fn() -> F) -> T {
        loop {
            if let Some(pause) = self.pause {
                sleep_until(pause).await;
                self.pause = None;
            }
            match accept().await {
                Ok(connection) => {
                    self.end();
                    return connection;
                }
                Err(error) => self.add(&error),
            }
        }
    }

    /// The first is told, the others are only counted: ten a second for as long as it lasts.
    fn add(&mut self, error: &io::Error) {
        if self.count == 0 {
            warn!(event = "accept_failed", key = self.key, %error, "a connection could not be accepted; trying again until it can. Where files are short, raise LimitNOFILE=: systemctl edit target-notifyd");
        }
        self.count += 1;
        self.pause = Some(Instant::now() + PAUSE);
    }

    fn end(&mut self) {
        if self.count > 0 {
            info!(
                event = "accepting_again",
                key = self.key,
                attempts = self.count,
                "connections are accepted again"
            );
            self.count = 0;
        }
    }
}
