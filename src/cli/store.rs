//! The commands that work on the folder of a stopped daemon.

use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::slice;
use std::time::Duration;

use clap::{Args, Subcommand};
use serde_json::{Map, Value, json};
use thiserror::Error;

use super::long_lines::LongLines;
use super::operate::some;
use super::{Exit, examples, had_enough, told};
use crate::config::{Config, duration_from};
use crate::event::{Account, Balance, Clock, DeadReason, Event, Host, count};
use crate::event::{Visible, VisibleJson};
use crate::queue::salvage::{self, Audit, Repaired, SalvageError, Stopped};
use crate::queue::{Ledger, OpenError};
use crate::wire::record::DeadLetter;
use crate::wire::submission::{Fidelity, again};

const EVENTS: (&str, &str) = ("event", "events");
const LETTERS: (&str, &str) = ("dead letter", "dead letters");

#[derive(Debug, Subcommand)]
pub(in crate::cli) enum StoreCommand {
    /// Look at everything in the folder, and change nothing; exit code 1 where something is wrong.
    #[command(after_help = examples::STORE_CHECK)]
    Check {
        /// Print one JSON object.
        #[arg(long)]
        json: bool,
    },
    /// Print every event that waits and can be read as a submission that `send` takes; id, timestamp and impressionId stay.
    #[command(after_help = examples::STORE_EXPORT)]
    Export(Export),
    /// Make a sound queue of what can be read; the old one is kept in quarantine/.
    #[command(after_help = examples::STORE_REPAIR)]
    Repair {
        /// Print one JSON object.
        #[arg(long)]
        json: bool,
    },
}

#[derive(Debug, Args)]
pub(in crate::cli) struct Export {
    /// Dead letters instead of events.
    #[arg(long)]
    dead: bool,
    /// Dead letters for this reason.
    #[arg(long, requires = "dead", value_parser = DeadReason::ALL.map(DeadReason::as_str))]
    reason: Option<String>,
    /// Of this host: `client`, or the digits of an edge cluster.
    #[arg(long)]
    host: Option<Host>,
    /// Of the session with this id.
    #[arg(long)]
    session: Option<String>,
    /// Dead letters set aside at least this long ago.
    #[arg(long, requires = "dead", value_parser = duration_from(Duration::ZERO), value_name = "DURATION")]
    older_than: Option<Duration>,
    /// Dead letters set aside at most this long ago.
    #[arg(long, requires = "dead", value_parser = duration_from(Duration::ZERO), value_name = "DURATION")]
    newer_than: Option<Duration>,
}

/// Why a command on the folder of a stopped daemon did not come to its end.
#[derive(Debug, Error)]
enum StoreError {
    #[error(transparent)]
    Salvage(#[from] SalvageError),
    #[error("standard output cannot be written: {0}")]
    Output(#[source] io::Error),
    #[error(
        "the queue is repaired, its database is {}; but standard output cannot be written: {source}",
        shown(database)
    )]
    Untold { database: PathBuf, source: io::Error },
}

/// Works on the folder that `config` names.
pub(super) fn run(config: &Config, command: StoreCommand) -> Exit {
    let root = &config.queue.path;
    let ended = match command {
        StoreCommand::Check { json } => check(root, json),
        StoreCommand::Export(export) => export.run(config),
        StoreCommand::Repair { json } => repair(root, config.account().ok(), json),
    };
    ended.unwrap_or_else(|error| {
        let exit = match &error {
            StoreError::Output(error) if had_enough(error) => return Exit::Success,
            StoreError::Salvage(SalvageError::Open(OpenError::InUse(_))) => Exit::InUse,
            StoreError::Salvage(
                SalvageError::Open(OpenError::Newer { .. })
                | SalvageError::Older { .. }
                | SalvageError::NoAccount(_),
            ) => Exit::Configuration,
            _ => Exit::Disk,
        };
        told(&error.to_string());
        exit
    })
}

impl Export {
    fn run(self, config: &Config) -> Result<Exit, StoreError> {
        let stopped = Stopped::open(&config.queue.path)?;
        let mut out = BufWriter::new(io::stdout().lock());
        let (mut count, mut left_out) = (0_u64, 0_u64);
        let mut long = LongLines::new(config.ingest.max_line);
        let mut line = |event: &Event| {
            let again = again(slice::from_ref(event));
            let why = match again.fidelity {
                Fidelity::Exact => {
                    count += 1;
                    let line = VisibleJson(&again.line).to_string();
                    long.look(&line);
                    return writeln!(out, "{line}").map_err(StoreError::Output);
                }
                Fidelity::Refused(why) => why,
                Fidelity::Changed => "it would be stored as another event".to_owned(),
            };
            left_out += 1;
            told(&format!(
                "event {} is not exported: {}; store repair keeps it as it is",
                event.seq,
                Visible(&why)
            ));
            Ok(())
        };
        match self.dead {
            true => stopped.letters(|letter| match self.takes_letter(config, &letter) {
                true => line(&letter.event),
                false => Ok(()),
            }),
            false => stopped.events(|event| if self.takes(config, &event) { line(&event) } else { Ok(()) }),
        }?;
        out.flush().map_err(StoreError::Output)?;
        let (one, many) = if self.dead { LETTERS } else { EVENTS };
        told(&format!("{} exported", some(count, one, many)));
        long.note().iter().for_each(|note| told(note));
        Ok(if left_out == 0 { Exit::Success } else { Exit::Refused })
    }

    fn takes(&self, config: &Config, event: &Event) -> bool {
        let own = super::run::schedule(config).own_host(event.envelope.cluster);
        self.host.is_none_or(|host| host == own)
            && self.session.as_ref().is_none_or(|session| session == event.envelope.session.as_str())
    }

    fn takes_letter(&self, config: &Config, letter: &DeadLetter) -> bool {
        let age = Clock::start().now().since(letter.at);
        self.takes(config, &letter.event)
            && self.reason.as_ref().is_none_or(|reason| reason == letter.reason.as_str())
            && self.older_than.is_none_or(|least| age >= least)
            && self.newer_than.is_none_or(|most| age <= most)
    }
}

fn check(root: &Path, json: bool) -> Result<Exit, StoreError> {
    let audit = &salvage::check(root)?;
    let wrong = audit.wrong();
    let text = match json {
        true => {
            let mut all = audit_json(audit);
            all.insert("wrong".to_owned(), json!(wrong));
            json_line(all)
        }
        false => {
            let mut text = table(root, audit);
            for one in &audit.damaged {
                text.push_str(&format!("damaged   {}: {}\n", one.key, Visible(&one.what)));
            }
            match wrong.as_slice() {
                [] => text.push_str("all is well\n"),
                wrong => {
                    text.push_str(&format!("\nwrong\n- {}\n", wrong.join("\n- ")));
                    text.push_str(
                        "\nto do\n- keep a copy of the folder, then: target-notifyd store repair\n",
                    );
                }
            }
            text
        }
    };
    print(&text)?;
    Ok(if wrong.is_empty() { Exit::Success } else { Exit::Refused })
}

fn repair(root: &Path, configured: Option<Account>, json: bool) -> Result<Exit, StoreError> {
    let Repaired { found, database, replaced, others, missing, surplus, ledger, reserve_spent } =
        &salvage::repair(root, configured)?;
    let untold = |error| match error {
        StoreError::Output(source) if !had_enough(&source) => {
            StoreError::Untold { database: database.clone(), source }
        }
        error => error,
    };
    if json {
        let mut all = audit_json(found);
        all.insert("database".to_owned(), json!(database));
        all.insert("replaced".to_owned(), json!(replaced));
        all.insert("others".to_owned(), json!(others));
        all.insert("missing".to_owned(), json!(missing));
        all.insert("surplus".to_owned(), json!(surplus));
        all.insert("account".to_owned(), balance_json(&ledger.balance));
        all.insert("reserve_spent".to_owned(), json!(reserve_spent));
        print(&json_line(all)).map_err(untold)?;
        return Ok(Exit::Success);
    }
    let mut text = format!("repaired  {}\n", shown(root));
    text.push_str(&format!("kept      {}, {}\n", waiting(found.events), letters(found.letters)));
    let records = some(found.damaged_records, "damaged record", "damaged records");
    text.push_str(&format!("set aside {records} with {}\n", waiting(found.damaged_events)));
    let lost =
        some(*missing, "event that was accepted and is nowhere", "events that were accepted and are nowhere");
    text.push_str(&format!("missing   {lost}\n"));
    if *surplus > 0 {
        let more = some(*surplus, EVENTS.0, EVENTS.1);
        text.push_str(&format!(
            "surplus   {more} beyond what the old account said: as many others may be missing behind them\n"
        ));
    }
    text.push_str(&format!("account   {}\n", account_line(ledger)));
    text.push_str(&format!("new       {}\n", shown(database)));
    text.push_str(&format!("old       {}: delete it once nothing is missed\n", shown(replaced)));
    for other in others {
        text.push_str(&format!("beside it {}: nothing was taken of it\n", shown(other)));
    }
    if *reserve_spent {
        text.push_str("reserve   given up, since there was no other room: the daemon makes it again\n");
    }
    print(&text).map_err(untold)?;
    Ok(Exit::Success)
}

/// A path as a terminal may have it.
fn shown(path: &Path) -> String {
    Visible(&path.to_string_lossy()).to_string()
}

fn letters(count: u64) -> String {
    some(count, LETTERS.0, LETTERS.1)
}

fn waiting(count: u64) -> String {
    some(count, "event that waits", "events that wait")
}

fn table(root: &Path, audit: &Audit) -> String {
    let unknown = || "cannot be read".to_owned();
    let schema = audit.schema.map_or_else(unknown, |schema| schema.to_string());
    let account = audit.account.as_ref().map_or_else(unknown, |Account { client, organization }| {
        format!("{} of {}", Visible(client), Visible(organization))
    });
    let mut text = format!("queue     {}, database {}\n", shown(root), shown(&audit.database));
    text.push_str(&format!("schema    {schema}\nfor       {account}\n"));
    text.push_str(&format!("pending   {} can be read\n", some(audit.events, EVENTS.0, EVENTS.1)));
    text.push_str(&format!("dead      {} can be read\n", letters(audit.letters)));
    text.push_str(&format!("account   {}\n", audit.ledger.as_ref().map_or_else(unknown, account_line)));
    let before = some(audit.quarantined, "record was", "records were");
    text.push_str(&format!("before    {before} quarantined by a daemon\n"));
    for path in &audit.set_aside {
        text.push_str(&format!("set aside {}\n", shown(path)));
    }
    text
}

fn account_line(ledger: &Ledger) -> String {
    let Balance { accepted, delivered, dead, expired, quarantined } = ledger.balance;
    let all = [accepted, delivered, dead, expired, quarantined, ledger.balance.pending()];
    let [accepted, delivered, dead, expired, quarantined, pending] = all.map(count);
    format!(
        "{accepted} accepted = {delivered} delivered + {dead} dead + {expired} expired + {quarantined} quarantined + {pending} pending"
    )
}

fn balance_json(balance: &Balance) -> Value {
    let Balance { accepted, delivered, dead, expired, quarantined } = *balance;
    json!({"accepted": accepted, "delivered": delivered, "dead": dead, "expired": expired, "quarantined": quarantined, "pending": balance.pending()})
}

fn audit_json(audit: &Audit) -> Map<String, Value> {
    let account = audit.account.as_ref();
    let damaged = audit.damaged.iter();
    let all = json!({
        "database": audit.database,
        "schema": audit.schema,
        "client": account.map(|account| &account.client),
        "organization_id": account.map(|account| &account.organization),
        "events": audit.events,
        "dead_letters": audit.letters,
        "account": audit.ledger.map(|ledger| balance_json(&ledger.balance)),
        "missing": i64::try_from(audit.missing()).unwrap_or(i64::MAX),
        "damaged_records": audit.damaged_records,
        "damaged_events": audit.damaged_events,
        "damaged": damaged.map(|one| json!({"key": one.key, "what": one.what, "events": one.events})).collect::<Vec<_>>(),
        "quarantined_records": audit.quarantined,
        "without_records": audit.empty,
        "set_aside": audit.set_aside,
        "unreadable_places": audit.gaps + audit.journal_gaps,
        "configuration_damaged": audit.configuration_damaged,
        "disk_failed": audit.disk_failed,
    });
    match all {
        Value::Object(all) => all,
        _ => Map::new(),
    }
}

fn json_line(all: Map<String, Value>) -> String {
    format!("{}\n", VisibleJson(&Value::Object(all).to_string()))
}

fn print(text: &str) -> Result<(), StoreError> {
    io::stdout().write_all(text.as_bytes()).map_err(StoreError::Output)
}
