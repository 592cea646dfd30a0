//! `bench`: measures this machine.

use std::io::{self, Write};
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};
use tokio_util::sync::CancellationToken;

use super::signals::on_ends;
use super::{Exit, ended, told};
use crate::bench::{self, Part, Settings};
use crate::config::duration_from;

/// The shortest time that is measured: in no time nothing is.
const SHORTEST: Duration = Duration::from_millis(1);

/// What is measured, and how much of it.
#[derive(Clone, Debug, Args)]
pub(super) struct Arguments {
    /// What is measured; several by commas.
    #[arg(value_enum, value_delimiter = ',', default_value = "accept,deliver,backlog,idle")]
    parts: Vec<Named>,
    /// How often each part is measured; the medians are printed.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=99))]
    runs: u16,
    /// How long acceptance, and each limit, is measured.
    #[arg(long, default_value = "2s", value_parser = duration_from(SHORTEST), value_name = "DURATION")]
    time: Duration,
    /// How many events go from the socket to the server.
    #[arg(long, default_value_t = 300_000, value_parser = clap::value_parser!(u64).range(1..=100_000_000))]
    events: u64,
    /// Over how many sessions, drawn at random.
    #[arg(long, default_value_t = 2_000, value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
    sessions: u64,
    /// How long a line is, in bytes.
    #[arg(long, default_value_t = 800, value_parser = clap::value_parser!(u32).range(400..=60_000), value_name = "BYTES")]
    line: u32,
    /// How many events the backlogs have; several by commas.
    #[arg(long, value_delimiter = ',', default_value = "100000", value_parser = clap::value_parser!(u64).range(10..=100_000_000))]
    backlog: Vec<u64>,
    /// The folder on the disk that is measured; by default the system's temporary folder.
    #[arg(long, value_name = "FOLDER")]
    folder: Option<PathBuf>,
    /// Print the figures as JSON, a line each.
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Named {
    Accept,
    Deliver,
    Backlog,
    Idle,
}

impl From<Named> for Part {
    fn from(named: Named) -> Self {
        match named {
            Named::Accept => Self::Accept,
            Named::Deliver => Self::Deliver,
            Named::Backlog => Self::Backlog,
            Named::Idle => Self::Idle,
        }
    }
}

pub(super) async fn run(arguments: Arguments, overrides: Vec<String>) -> Exit {
    let program = match std::env::current_exe() {
        Ok(program) => program,
        Err(error) => {
            told(&format!("this executable cannot be found: {error}"));
            return Exit::Disk;
        }
    };
    let settings = Settings {
        program,
        overrides,
        folder: arguments.folder.unwrap_or_else(std::env::temp_dir),
        parts: arguments.parts.into_iter().map(Into::into).collect(),
        runs: usize::from(arguments.runs),
        time: arguments.time,
        events: arguments.events,
        sessions: arguments.sessions,
        line_bytes: usize::try_from(arguments.line).unwrap_or(800),
        backlogs: arguments.backlog,
    };
    if cfg!(debug_assertions) {
        told("this is a debug build: build with --release for figures that count");
    }
    let shutdown = CancellationToken::new();
    if let Err(error) = on_ends(&shutdown) {
        told(&format!("the measurement cannot start: {error}"));
        return Exit::Disk;
    }
    match bench::run(settings, told, shutdown).await {
        Ok(report) if arguments.json => {
            let line = |row| writeln!(io::stdout(), "{}", serde_json::to_string(&row).unwrap_or_default());
            ended(report.rows().into_iter().try_for_each(line), Exit::Success)
        }
        Ok(report) => ended(write!(io::stdout(), "{report}"), Exit::Success),
        Err(error) => {
            told(&format!("the measurement ended: {error}"));
            Exit::Refused
        }
    }
}
