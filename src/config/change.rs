//! What a configuration that is read again changes in a running daemon.

use super::{Config, Ingest, Queue, Target};

/// The keys that changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Those that are in force now.
    pub applied: Vec<&'static str>,
    /// Those that a restart puts in force.
    pub restart: Vec<&'static str>,
}

impl Config {
    /// The configuration in force once `new` was read: of what takes a restart it keeps what is running.
    #[must_use]
    pub fn reloaded(&self, new: Self) -> (Self, Changes) {
        let applied = Self {
            target: Target {
                property_token: new.target.property_token.clone(),
                property_token_file: new.target.property_token_file.clone(),
                location_hint: new.target.location_hint,
                ..self.target.clone()
            },
            ingest: Ingest {
                socket: self.ingest.socket.clone(),
                mode: self.ingest.mode,
                ..new.ingest.clone()
            },
            queue: Queue { path: self.queue.path.clone(), ..new.queue.clone() },
            batch: new.batch.clone(),
            retry: new.retry.clone(),
            delivery: new.delivery.clone(),
            log: new.log.clone(),
            defaults: self.defaults.clone(),
            admin: self.admin.clone(),
            shutdown: self.shutdown.clone(),
            environment_proxy: self.environment_proxy.clone(),
        };
        let changes = Changes { applied: self.differences(&applied), restart: applied.differences(&new) };
        (applied, changes)
    }

    /// The keys whose values differ, in the order of the documentation.
    fn differences(&self, other: &Self) -> Vec<&'static str> {
        let sections = [
            self.target.differences(&other.target),
            self.defaults.differences(&other.defaults),
            self.ingest.differences(&other.ingest),
            self.queue.differences(&other.queue),
            self.batch.differences(&other.batch),
            self.retry.differences(&other.retry),
            self.delivery.differences(&other.delivery),
            self.log.differences(&other.log),
            self.admin.differences(&other.admin),
            self.shutdown.differences(&other.shutdown),
        ];
        sections.concat()
    }
}
