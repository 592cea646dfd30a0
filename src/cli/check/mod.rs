//! `check`: everything that would keep a daemon from working well, in one go.
//!
//! Guarantees:
//! - it leaves no trace: nothing is made or locked, nothing is bound but `admin.metrics_listen` for a moment, and nothing is
//!   connected to but what `--online` asks for;
//! - every check is made that can be, whatever else is wrong; one of a key that is wrong itself is left out;
//! - no secret is printed.

mod files;
mod network;
mod places;
mod report;
mod room;

use clap::Args;
use nix::unistd::{Uid, User};

use self::report::{Finding, Report, State};
use super::{Exit, leave, settings, told};
use crate::config::{Config, Origin, Problem, Problems, Sources};
use crate::delivery::{Transport, TransportError};
use crate::event::Account;

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
    let mut problems = match Config::load(sources) {
        Ok(_) => Vec::new(),
        Err(Problems(problems)) => problems,
    };
    // With the default in the place of what is wrong: the rest can be looked at all the same.
    let Some(config) = Config::despite(sources) else {
        told(&Problems(problems).to_string());
        return Exit::Configuration;
    };
    if let Err(Problems(missing)) = config.account() {
        let known = |one: &Problem| problems.iter().any(|problem| problem.key == one.key);
        let missing: Vec<Problem> = missing.into_iter().filter(|one| !known(one)).collect();
        problems.extend(missing);
    }
    let report = Report::new(arguments.json);
    report.values(&sources.in_force());
    let wrong: Vec<String> = problems.iter().map(|problem| problem.key.clone()).collect();
    let mut findings = of_this_machine(&config);
    findings.retain(|finding| !wrong.iter().any(|key| key == finding.about));
    let transport = config.transport_settings(&account(&config));
    match Transport::new(transport.clone()) {
        // It was looked at above.
        Err(TransportError::Certificates { .. }) => {}
        Err(error) if !wrong.iter().any(|key| key.starts_with("target.")) => {
            problems.push(refused(sources, &error));
        }
        Ok(_) if arguments.online => match tokio::runtime::Runtime::new() {
            Ok(runtime) => {
                let reach =
                    network::Reach { settings: &transport, location_hint: config.target.location_hint };
                findings.extend(runtime.block_on(network::findings(&reach)));
                leave(runtime);
            }
            Err(error) => findings.push(Finding::failed("target.endpoint", error, "ulimit -a")),
        },
        _ => {}
    }
    // What is wrong stands last, where it is read first.
    findings.sort_by_key(|finding| finding.state);
    findings.iter().for_each(|finding| report.finding(finding));
    let failed = findings.iter().any(|finding| finding.state == State::Failed);
    let exit = match (problems.is_empty(), failed) {
        (false, _) => Exit::Configuration,
        (true, true) => Exit::Refused,
        (true, false) => Exit::Success,
    };
    report.end(&Problems(problems), exit);
    exit
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

/// What a daemon would end with as a wrong configuration.
fn refused(sources: &Sources, error: &TransportError) -> Problem {
    let key = match error {
        TransportError::Url { key, .. } | TransportError::Unencrypted { key, .. } => key,
        TransportError::Proxy { .. } => "target.proxy",
        _ => "target.ca_file",
    };
    let place = sources.in_force().into_iter().find(|one| one.key == key);
    Problem {
        origin: place.map_or(Origin::Unset, |one| one.origin),
        key: key.to_owned(),
        message: format!("cannot be used: {error}"),
    }
}

/// A user's name, or the number where there is none.
fn name(user: Uid) -> String {
    User::from_uid(user).ok().flatten().map_or_else(|| format!("uid {user}"), |user| user.name)
}
