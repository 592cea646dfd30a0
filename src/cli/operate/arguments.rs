//! The arguments of the operator's commands, and the requests that they stand for.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};

use super::super::examples;
use crate::admin::protocol::{Of, Request, Which};
use crate::config::duration_from;
use crate::event::DeadReason;
use crate::schedule::MAX_REASON_BYTES;

/// The shortest pause that may be asked for.
const MIN_PAUSE: Duration = Duration::from_millis(1);
/// The shortest wait between two drawings.
const MIN_EVERY: Duration = Duration::from_millis(1);

/// What the running daemon is asked.
#[derive(Debug, Subcommand)]
pub(in crate::cli) enum Operate {
    /// Show whether it works, what is stuck and why, how long until it is drained or full, and what can be done.
    #[command(after_help = examples::STATUS)]
    Status {
        /// Draw it again and again, until it is interrupted; a daemon that is away meanwhile is waited for.
        #[arg(long)]
        watch: bool,
        /// How often it is drawn.
        #[arg(long, default_value = "2s", value_parser = duration_from(MIN_EVERY), value_name = "DURATION")]
        every: Duration,
        #[command(flatten)]
        json: Json,
    },
    /// Show what waits, oldest first, and why; hold, release, retry or drop it.
    #[command(args_conflicts_with_subcommands = true)]
    #[command(after_help = examples::QUEUE)]
    Queue {
        #[command(subcommand)]
        command: Option<QueueCommand>,
        #[command(flatten)]
        list: Lanes,
    },
    /// Dead letters: list, show, requeue, delete or export them.
    #[command(after_help = examples::DEAD)]
    Dead {
        #[command(subcommand)]
        command: DeadCommand,
    },
    /// Send nothing to a host, or to any, until it is resumed; events are taken in and kept.
    #[command(after_help = examples::PAUSE)]
    Pause {
        /// `client`, or the digits of an edge cluster; without it all hosts.
        #[arg(long)]
        host: Option<String>,
        /// End by itself after this long.
        #[arg(long = "for", value_parser = duration_from(MIN_PAUSE), value_name = "DURATION")]
        during: Option<Duration>,
        /// Why; the status and the log show it.
        #[arg(long, value_name = "TEXT", value_parser = reason)]
        reason: String,
        #[command(flatten)]
        json: Json,
    },
    /// End pauses: the operator's, and those that a host's answers made.
    #[command(after_help = examples::RESUME)]
    Resume {
        /// Only of this host; without it all.
        #[arg(long)]
        host: Option<String>,
        #[command(flatten)]
        json: Json,
    },
    /// Send what lingers for more of its batch; backoff, breakers, pauses and holds stay.
    #[command(after_help = examples::FLUSH)]
    Flush {
        /// Answer once all that waits now was delivered or set aside.
        #[arg(long)]
        wait: bool,
        #[command(flatten)]
        json: Json,
    },
    /// Show outcomes as they happen.
    #[command(after_help = examples::TAIL)]
    Tail {
        /// Of this session alone, by its id or by the hash that the logs show.
        #[arg(long)]
        session: Option<String>,
        /// Of these alone.
        #[arg(long, value_delimiter = ',', value_parser = ["delivered", "dead", "retry"])]
        outcome: Vec<String>,
        /// End after so many.
        #[arg(short = 'n', value_name = "COUNT")]
        limit: Option<u64>,
        #[command(flatten)]
        json: Json,
    },
}

#[derive(Clone, Copy, Debug, Args)]
pub(in crate::cli) struct Json {
    /// Print the daemon's answers as they are, lines of JSON: see docs/admin-protocol.md.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct Lanes {
    /// The most sessions that are shown.
    #[arg(long, default_value_t = 20, value_name = "COUNT")]
    limit: usize,
    /// Read the whole queue on the disk: exact counts at any backlog, at the price of the time that takes.
    #[arg(long)]
    scan: bool,
    #[command(flatten)]
    json: Json,
}

#[derive(Debug, Subcommand)]
pub(in crate::cli) enum QueueCommand {
    /// Show the sessions with events that wait, oldest first, and the ages of all events.
    #[command(after_help = examples::QUEUE_LIST)]
    List(Lanes),
    /// Show the events of a session.
    #[command(after_help = examples::QUEUE_SHOW)]
    Show {
        /// The session by its id, or by the hash that the logs show.
        session: String,
        /// The most events that are shown.
        #[arg(long, default_value_t = 100, value_name = "COUNT")]
        limit: usize,
        #[command(flatten)]
        json: Json,
    },
    /// Hold events back, those that arrive later too, until they are released.
    #[command(after_help = examples::QUEUE_HOLD)]
    Hold(Selected),
    /// End holds; --all ends every hold.
    #[command(after_help = examples::QUEUE_RELEASE)]
    Release(Selected),
    /// Try what backs off at once; breakers, pauses and holds stay.
    #[command(after_help = examples::QUEUE_RETRY)]
    Retry(Selected),
    /// Set events aside as dead letters, but for those that are being sent.
    #[command(after_help = examples::QUEUE_DROP)]
    Drop {
        #[command(flatten)]
        selected: Selected,
        /// Why; it becomes the letters' detail.
        #[arg(long, value_name = "TEXT", value_parser = reason)]
        reason: String,
    },
}

#[derive(Debug, Args)]
pub(in crate::cli) struct Selected {
    #[command(flatten)]
    of: Selection,
    /// Only count.
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    json: Json,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub(in crate::cli) struct Selection {
    /// A session by its id, or by the hash that the logs show.
    session: Option<String>,
    /// What the stored event and the configuration alone send to this host: `client`, or the digits of an edge cluster.
    #[arg(long)]
    host: Option<String>,
    /// Everything.
    #[arg(long)]
    all: bool,
}

impl Selection {
    fn of(self) -> Of {
        match (self.session, self.host) {
            (Some(session), _) => Of::Session(session),
            (None, Some(host)) => Of::Host(host),
            (None, None) => Of::All,
        }
    }
}

#[derive(Debug, Subcommand)]
pub(in crate::cli) enum DeadCommand {
    /// Show dead letters, oldest first.
    #[command(after_help = examples::DEAD_LIST)]
    List {
        #[command(flatten)]
        filter: Filter,
        /// The most that are shown.
        #[arg(long, default_value_t = 100, value_name = "COUNT")]
        limit: usize,
        #[command(flatten)]
        json: Json,
    },
    /// Show a dead letter whole, with its request.
    #[command(after_help = examples::DEAD_SHOW)]
    Show {
        /// The letter's number, as `dead list` and the log show it.
        #[arg(value_parser = number)]
        number: u64,
        #[command(flatten)]
        json: Json,
    },
    /// Make dead letters events again, at the end of their sessions; id, timestamp and impressionId stay.
    #[command(after_help = examples::DEAD_REQUEUE)]
    Requeue(Changed),
    /// Delete dead letters for good.
    #[command(after_help = examples::DEAD_DELETE)]
    Delete(Changed),
    /// Print dead letters as the lines that `send` takes, a submission each.
    #[command(after_help = examples::DEAD_EXPORT)]
    Export {
        #[command(flatten)]
        filter: Filter,
        /// Write the numbers of the letters that were printed to this file, a line each, for xargs -r -n 5000 target-notifyd dead delete: --all would take those, too, that came after.
        #[arg(long, value_name = "FILE")]
        numbers: Option<PathBuf>,
        #[command(flatten)]
        json: Json,
    },
}

#[derive(Debug, Args)]
pub(in crate::cli) struct Changed {
    /// By their numbers; the exit code is 1 where one is no dead letter, and the others are done all the same.
    #[arg(value_parser = number)]
    numbers: Vec<u64>,
    #[command(flatten)]
    filter: Filter,
    /// All of them.
    #[arg(long)]
    all: bool,
    /// Only count.
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    json: Json,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct Filter {
    /// For this reason.
    #[arg(long, value_parser = DeadReason::ALL.map(DeadReason::as_str))]
    reason: Option<String>,
    /// Of this host: `client`, or the digits of an edge cluster.
    #[arg(long)]
    host: Option<String>,
    /// Of this session, by its id or by the hash that the logs show.
    #[arg(long)]
    session: Option<String>,
    /// Set aside at least this long ago.
    #[arg(long, value_parser = duration_from(Duration::ZERO), value_name = "DURATION")]
    older_than: Option<Duration>,
    /// Set aside at most this long ago.
    #[arg(long, value_parser = duration_from(Duration::ZERO), value_name = "DURATION")]
    newer_than: Option<Duration>,
}

impl Filter {
    fn which(self, seqs: Vec<u64>, all: bool) -> Which {
        Which {
            seqs,
            reason: self.reason,
            host: self.host,
            session: self.session,
            older_than_ms: self.older_than.map(millis),
            newer_than_ms: self.newer_than.map(millis),
            all,
        }
    }
}

/// Why an operator does something: it is kept, and shown to those who come after.
fn reason(text: &str) -> Result<String, String> {
    match text.len() {
        _ if text.trim().is_empty() => Err("say why, for those who read it next".to_owned()),
        0..=MAX_REASON_BYTES => Ok(text.to_owned()),
        bytes => Err(format!("it has {bytes} bytes, and at most {MAX_REASON_BYTES} are kept")),
    }
}

/// The number of a dead letter.
fn number(text: &str) -> Result<u64, &'static str> {
    text.parse().map_err(|_| "must be the number of a dead letter, see target-notifyd dead list")
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// What is asked, and how the answer is printed.
pub(super) struct Asked {
    pub(super) request: Request,
    pub(super) json: bool,
    /// How often it is asked again, if it is.
    pub(super) watch: Option<Duration>,
    /// Where the numbers of exported letters go.
    pub(super) numbers: Option<PathBuf>,
}

impl Asked {
    fn once(request: Request, json: Json) -> Self {
        Self { request, json: json.json, watch: None, numbers: None }
    }
}

impl Operate {
    /// The request that the arguments stand for; an error is what is wrong with them.
    pub(super) fn asked(self) -> Result<Asked, String> {
        let once = |request, json| Ok(Asked::once(request, json));
        match self {
            Self::Status { watch, every, json } => {
                Ok(Asked { watch: watch.then_some(every), ..Asked::once(Request::Status {}, json) })
            }
            Self::Queue { command: None, list }
            | Self::Queue { command: Some(QueueCommand::List(list)), .. } => {
                once(Request::Queue { limit: list.limit, scan: list.scan }, list.json)
            }
            Self::Queue { command: Some(command), .. } => Ok(command.asked()),
            Self::Dead { command } => command.asked(),
            Self::Pause { host, during, reason, json } => {
                once(Request::Pause { host, for_ms: during.map(millis), reason }, json)
            }
            Self::Resume { host, json } => once(Request::Resume { host }, json),
            Self::Flush { wait, json } => once(Request::Flush { wait }, json),
            Self::Tail { session, outcome, limit, json } => {
                once(Request::Tail { session, outcomes: outcome, limit }, json)
            }
        }
    }
}

impl QueueCommand {
    fn asked(self) -> Asked {
        let (request, json) = match self {
            Self::List(list) => (Request::Queue { limit: list.limit, scan: list.scan }, list.json),
            Self::Show { session, limit, json } => (Request::QueueShow { session, limit }, json),
            Self::Hold(Selected { of, dry_run, json }) => (Request::QueueHold { of: of.of(), dry_run }, json),
            Self::Release(Selected { of, dry_run, json }) => {
                (Request::QueueRelease { of: of.of(), dry_run }, json)
            }
            Self::Retry(Selected { of, dry_run, json }) => {
                (Request::QueueRetry { of: of.of(), dry_run }, json)
            }
            Self::Drop { selected: Selected { of, dry_run, json }, reason } => {
                (Request::QueueDrop { of: of.of(), reason, dry_run }, json)
            }
        };
        Asked::once(request, json)
    }
}

impl DeadCommand {
    fn asked(self) -> Result<Asked, String> {
        let (request, json) = match self {
            Self::Export { filter, numbers, json } => {
                let request = Request::DeadExport { which: filter.which(Vec::new(), false) };
                return Ok(Asked { numbers, ..Asked::once(request, json) });
            }
            Self::List { filter, limit, json } => {
                (Request::DeadList { which: filter.which(Vec::new(), false), limit }, json)
            }
            Self::Show { number, json } => (Request::DeadShow { seq: number }, json),
            Self::Requeue(changed) => {
                let (which, dry_run, json) = changed.which()?;
                (Request::DeadRequeue { which, dry_run }, json)
            }
            Self::Delete(changed) => {
                let (which, dry_run, json) = changed.which()?;
                (Request::DeadDelete { which, dry_run }, json)
            }
        };
        Ok(Asked::once(request, json))
    }
}

impl Changed {
    fn which(self) -> Result<(Which, bool, Json), String> {
        let which = self.filter.which(self.numbers, self.all);
        which.meant()?;
        Ok((which, self.dry_run, self.json))
    }
}
