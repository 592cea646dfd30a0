//! SIGHUP: the configuration is read again, and what may change at run time does.
//!
//! Guarantees: a configuration with a problem changes nothing; the arguments and the environment of the start still win over
//! the file; a key that takes a restart keeps the value that runs, and is named with every reload until then.

use std::fs;
use std::os::unix::fs::FileTypeExt;

use tokio::signal::unix::Signal;
use tokio::task::spawn_blocking;
use tracing::{error, info, warn};

use crate::config::{Changes, Config, Sources};
use crate::daemon::{Reloader, Settings};
use crate::service::Manager;
use crate::telemetry::Logging;

/// What a reload needs.
pub(super) struct Reloads<F> {
    /// Where the configuration comes from.
    pub(super) sources: Sources,
    /// What is in force.
    pub(super) running: Config,
    /// The settings of a configuration.
    pub(super) settings: F,
    pub(super) logging: Logging,
    pub(super) reloader: Reloader,
    pub(super) manager: Manager,
}

impl<F: Fn(&Config) -> Settings + Send + 'static> Reloads<F> {
    /// Reloads with every signal, for as long as the process lives.
    pub(super) fn spawn(mut self, mut hangups: Signal) {
        tokio::spawn(async move {
            while hangups.recv().await.is_some() {
                self.manager.reloading();
                let accepted = match self.once().await {
                    Ok(changes) => {
                        tell(&changes);
                        true
                    }
                    Err(problem) => {
                        error!(event = "reload_failed", %problem, "the configuration was read again and is wrong: nothing was changed. Mend it, then: target-notifyd check, systemctl reload target-notifyd");
                        false
                    }
                };
                self.manager.reloaded(accepted);
            }
        });
    }

    async fn once(&mut self) -> Result<Changes, String> {
        let sources = self.sources.clone();
        // Not here: a disk may never answer, and would keep a thread of the daemon.
        let new = spawn_blocking(move || read_again(&sources)).await.map_err(|error| error.to_string())??;
        let (config, changes) = self.running.reloaded(new);
        self.logging.change(&config.log).map_err(|error| error.to_string())?;
        if !self.reloader.reload((self.settings)(&config)).await {
            return Err("the daemon ends".to_owned());
        }
        // Where another file is named, the one that runs may be gone, which a restart makes good.
        if !changes.restart.contains(&"target.ca_file") {
            self.reloader.read_authorities_again().await;
        }
        self.running = config;
        Ok(changes)
    }
}

fn read_again(sources: &Sources) -> Result<Config, String> {
    let file = &sources.file;
    // As a shell makes one of `<(…)`. The start took what it held, and who opens one that has a name waits for a writer.
    if fs::metadata(file).is_ok_and(|found| found.file_type().is_fifo()) {
        return Err(format!("{} is a pipe, which is read at the start alone", file.display()));
    }
    Config::to_run(sources).map(|(config, _)| config).map_err(|problems| problems.to_string())
}

fn tell(changes: &Changes) {
    if !changes.restart.is_empty() {
        warn!(
            event = "restart_needed", keys = %changes.restart.join(", "),
            "keys were changed that take a restart: what runs keeps their old values. To put them in force: systemctl restart target-notifyd"
        );
    }
    info!(event = "reloaded", changed = %changes.applied.join(", "), "the configuration was read again");
}
