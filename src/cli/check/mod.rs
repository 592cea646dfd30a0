//! `check`: everything that would keep a daemon from working well, in one go.
//!
//! Guarantees:
//! - it leaves no trace: nothing is made or locked, nothing is bound but `admin.metrics_listen` for a moment, and nothing is
//!   connected to but what `--online` asks for;
//! - every check is made that can be, whatever else is wrong; one of a key that is wrong itself is left out;
//! - no secret is printed.

mod account;
mod files;
mod network;
mod places;
mod report;
mod room;

use clap::Args;
use nix::unistd::{Uid, User};

use self::report::{Finding, Report, State};
use super::operate::of_instance;
use super::run::settings;
use super::runtime::{leave, runtime};
use super::{Exit, ended, told};
use crate::config::{Config, Origin, Problem, Problems, Sources};
use crate::delivery::{self, Transport, TransportError, authorities};
use crate::event::Account;

/// The keys of the account.
const ACCOUNT: [&str; 2] = ["target.client", "target.organization_id"];

/// What of the machine is looked at.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Look the names of the endpoint and the proxy up, and make a connection with its TLS handshake; no event is sent.
    #[arg(long)]
    online: bool,
    /// Print lines of JSON.
    #[arg(long)]
    json: bool,
}

/// Checks what `sources` lead to, and prints it.
pub(super) fn run(sources: &Sources, arguments: &Arguments) -> Exit {
    let mut problems = match Config::to_run(sources) {
        Ok(_) => Vec::new(),
        Err(Problems(problems)) => problems,
    };
    // With the default in the place of what is wrong: the rest can be looked at all the same.
    let Some(config) = Config::despite(sources) else {
        told(&Problems(problems).to_string());
        return Exit::Configuration;
    };
    let mut report = Report::new(arguments.json);
    report.values(&sources.in_force());
    let wrong: Vec<String> = problems.iter().map(|problem| problem.key.clone()).collect();
    let mut findings = of_this_machine(&config);
    findings.retain(|finding| !wrong.iter().any(|key| key == finding.about));
    let unusable = unusable(&config, &problems);
    let transport = config.transport_settings(&account(&config));
    let made = Transport::new(transport.clone()).ok();
    findings.extend(made.as_ref().and_then(files::unread_authorities));
    if arguments.online && made.is_some() {
        match runtime() {
            Ok(runtime) => {
                let reach =
                    network::Reach { settings: &transport, location_hint: config.target.location_hint };
                findings.extend(runtime.block_on(network::findings(&reach)));
                leave(runtime);
            }
            Err(error) => findings.push(Finding::failed(
                "target.endpoint",
                format!("it is not looked at, for want of threads: {error}"),
                "raise the limit: ulimit -u",
            )),
        }
    }
    // Certificates were looked at above.
    let unusable = unusable.iter().filter(|error| !matches!(error, TransportError::Certificates { .. }));
    problems.extend(unusable.map(|error| refused(sources, error)));
    // What is wrong stands last, where it is read first.
    findings.sort_by_key(|finding| finding.state);
    for finding in &mut findings {
        finding.act = of_instance(&finding.act, sources.instance.as_deref());
    }
    findings.iter().for_each(|finding| report.finding(finding));
    let failed = findings.iter().any(|finding| finding.state == State::Failed);
    let exit = match (problems.is_empty(), failed) {
        (false, _) => Exit::Configuration,
        (true, true) => Exit::Refused,
        (true, false) => Exit::Success,
    };
    report.end(&Problems(problems), exit)
}

fn of_this_machine(config: &Config) -> Vec<Finding> {
    let user = Uid::effective();
    let mut findings = places::queue(&config.queue.path, user);
    findings.extend(places::socket("ingest.socket", &config.ingest.socket, places::Folder::Present));
    findings.extend(places::socket("admin.socket", &config.admin.socket, places::Folder::Made));
    findings.extend(config.admin.metrics_listen.as_deref().map(|address| {
        // The producers' socket may be a service manager's, which holds it while no daemon runs.
        network::metrics(address, places::served(&config.admin.socket))
    }));
    findings.extend(account::organization(config));
    findings.extend(files::findings(config));
    findings.extend(room::disk(&config.queue));
    findings.extend(room::submissions(config));
    findings.push(room::open_files(&settings(config, account(config), false)));
    findings
}

/// The account, or what stands for it where it is wrong: nothing is sent for it.
fn account(config: &Config) -> Account {
    let stand_in = || Account { client: "client".to_owned(), organization: "organization".to_owned() };
    config.account().unwrap_or_else(|_| stand_in())
}

/// All that keeps `run` from starting: `problems`, and what it would tell once it made its HTTP client.
pub(super) fn all(sources: &Sources, Problems(mut problems): Problems) -> Problems {
    let unusable = Config::despite(sources).map_or_else(Vec::new, |config| unusable(&config, &problems));
    problems.extend(unusable.iter().map(|error| refused(sources, error)));
    Problems(problems)
}

/// Why no HTTP client can be made, beside the `known` problems.
fn unusable(config: &Config, known: &[Problem]) -> Vec<TransportError> {
    let settings = config.transport_settings(&account(config));
    let certificates = settings.ca_file.as_deref().and_then(|path| authorities(path).err());
    // Where a value is wrong its default was looked at, which may not go with the others.
    // Any account goes with them.
    let goes = |key: &str| !key.starts_with("target.") || ACCOUNT.contains(&key);
    let guessed = known.iter().any(|one| one.key.is_empty() || !goes(&one.key));
    let ca_file = settings.ca_file.clone().filter(|_| certificates.is_none());
    let rest = (!guessed).then(|| Transport::new(delivery::Settings { ca_file, ..settings }).err());
    certificates.into_iter().chain(rest.flatten()).collect()
}

/// What a daemon would end with as a wrong configuration.
fn refused(sources: &Sources, error: &TransportError) -> Problem {
    let key = match error {
        TransportError::Url { key, .. } | TransportError::Unencrypted { key, .. } => key,
        TransportError::Proxy { .. } => "target.proxy",
        _ => "target.ca_file",
    };
    let text = error.to_string();
    // Where it begins with its key, it goes on as a problem does.
    let message = match text.strip_prefix(key).and_then(|text| text.strip_prefix(' ')) {
        Some(rest) => rest.to_owned(),
        None if matches!(error, TransportError::System(_)) => format!("is needed: {text}"),
        None => format!("cannot be used: {text}"),
    };
    let place = sources.in_force().into_iter().find(|one| one.key == key);
    Problem { origin: place.map_or(Origin::Unset, |one| one.origin), key: key.to_owned(), message }
}

/// A user's name, or the number where there is none, which chown takes as well.
fn name(user: Uid) -> String {
    User::from_uid(user).ok().flatten().map_or_else(|| user.to_string(), |user| user.name)
}
