//! The configuration: from file, environment and arguments to typed sections.
//!
//! Guarantees:
//! - a [`Config`] is only made whole: every value of it is within what its key allows;
//! - all problems are told at once, each with its place, its key, what is wrong and what is allowed;
//! - reading it touches no socket and no port, and no file but the configuration and the property token's.

mod change;
mod in_force;
mod kinds;
mod nearest;
mod places;
mod problem;
mod proxy;
mod reader;
mod sections;
mod sources;
#[cfg(test)]
mod tests;
mod token;
mod url;
mod value;

pub use self::change::Changes;
pub use self::in_force::InForce;
pub use self::kinds::{MAX_SOCKET_PATH_BYTES, duration_from};
pub use self::problem::{Origin, Problem, Problems};
pub use self::sections::{
    Admin, Batch, Defaults, Delivery, Format, IdentifierForm, Ingest, Log, Queue, Retry, Shutdown, Target,
};
pub use self::sources::Sources;
pub use self::token::PropertyToken;

use std::path::Path;

use jiff::tz::TimeZone;

use self::kinds::in_units;
use self::reader::Reader;
use self::sections::keys;
use crate::delivery::Proxy;
use crate::event::Account;
use crate::schedule::Backoff;
use crate::{delivery, ingest, wire};

/// The whole configuration, checked.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// `[target]`.
    pub target: Target,
    /// `[defaults]`.
    pub defaults: Defaults,
    /// `[ingest]`.
    pub ingest: Ingest,
    /// `[queue]`.
    pub queue: Queue,
    /// `[batch]`.
    pub batch: Batch,
    /// `[retry]`.
    pub retry: Retry,
    /// `[delivery]`.
    pub delivery: Delivery,
    /// `[log]`.
    pub log: Log,
    /// `[admin]`.
    pub admin: Admin,
    /// `[shutdown]`.
    pub shutdown: Shutdown,
    /// The proxy that the environment names, whether it counts or not.
    environment_proxy: Option<Proxy>,
}

impl Config {
    /// The configuration of `sources`; what none of them sets has its default.
    ///
    /// # Errors
    /// [`Problems`] holds everything that is wrong.
    pub fn load(sources: &Sources) -> Result<Self, Problems> {
        let found = sources.settings();
        let mut reader = Reader::new(found.settings, found.problems);
        let whole = Self::read(&mut reader, &sources.environment);
        Problems::or(reader.into_problems(), whole)
    }

    /// The configuration of `sources` and the account that its events are for, which only `run` needs.
    ///
    /// # Errors
    /// [`Problems`] holds everything that is wrong, the keys of the account that are not set among it, unless the file cannot
    /// be read or is no TOML.
    pub fn to_run(sources: &Sources) -> Result<(Self, Account), Problems> {
        match Self::load(sources) {
            Ok(config) => placed_account(&config, sources).map(|account| (config, account)),
            // What is in the file nobody knows: the account perhaps.
            Err(problems) if problems.hide_the_file() => Err(problems),
            Err(Problems(mut problems)) => {
                let missing =
                    Self::despite(sources).and_then(|config| placed_account(&config, sources).err());
                // One that is wrong is told as such alone.
                let new = |one: &Problem| problems.iter().all(|problem| problem.key != one.key);
                let missing: Vec<_> =
                    missing.into_iter().flat_map(|Problems(missing)| missing).filter(new).collect();
                problems.extend(missing);
                problems.sort();
                Err(Problems(problems))
            }
        }
    }

    /// The configuration of `sources` for a command that goes by `key` alone, and what is wrong beside it: defaults stand
    /// there.
    ///
    /// # Errors
    /// [`Problems`] holds everything that is wrong where some of it may be about `key`, or is of `-o`.
    pub fn for_key(sources: &Sources, key: &str) -> Result<(Self, Vec<Problem>), Problems> {
        match Self::load(sources) {
            Ok(config) => Ok((config, Vec::new())),
            Err(problems) if problems.concern(key, sources.set_over_the_file(key)) => Err(problems),
            Err(problems) => match Self::despite(sources) {
                Some(config) => Ok((config, problems.0)),
                None => Err(problems),
            },
        }
    }

    /// The configuration of `sources` with the default in the place of every value that is wrong, to look at the rest; `None`
    /// would take a default that is wrong.
    #[must_use]
    pub fn despite(sources: &Sources) -> Option<Self> {
        let mut reader = Reader::new(sources.settings().settings, Vec::new());
        Self::read(&mut reader, &sources.environment)
    }

    /// Reads every key, and looks at what keys have to do with each other, before it gives up: every problem is kept.
    fn read(reader: &mut Reader, environment: &[(String, String)]) -> Option<Self> {
        let target = Target::read(reader).map(|target| resolved(target, environment, reader));
        let defaults = Defaults::read(reader);
        let ingest = Ingest::read(reader).inspect(|ingest| check_ingest(ingest, reader));
        let queue = Queue::read(reader).inspect(|queue| check_queue(queue, reader));
        let batch = Batch::read(reader);
        let retry = Retry::read(reader).inspect(|retry| check_retry(retry, reader));
        let delivery = Delivery::read(reader).inspect(|delivery| check_delivery(delivery, reader));
        let log = Log::read(reader);
        let admin = Admin::read(reader);
        if let (Some(ingest), Some(admin)) = (&ingest, &admin) {
            check_sockets(ingest, admin, reader);
        }
        let shutdown = Shutdown::read(reader);
        Some(Self {
            target: target?,
            defaults: defaults?,
            ingest: ingest?,
            queue: queue?,
            batch: batch?,
            retry: retry?,
            delivery: delivery?,
            log: log?,
            admin: admin?,
            shutdown: shutdown?,
            environment_proxy: proxy::named(environment),
        })
    }

    /// Every key with its default as a TOML literal, and what it is for, in the order of the documentation.
    pub fn keys() -> impl Iterator<Item = (&'static str, &'static str, String)> {
        keys().map(|key| {
            let about: Vec<&str> = key.about.iter().map(|line| line.trim()).collect();
            (key.full, key.default, about.join(" "))
        })
    }

    /// Every key with its default and what it is for, as a TOML text that loads.
    #[must_use]
    pub fn defaults_toml() -> String {
        let mut text = String::new();
        let mut section = "";
        for key in keys() {
            if key.section != section {
                let gap = if section.is_empty() { "" } else { "\n" };
                text.push_str(&format!("{gap}[{}]\n", key.section));
                section = key.section;
            }
            for line in key.about {
                text.push_str(&format!("#{line}\n"));
            }
            text.push_str(&format!("{} = {}\n", key.name, key.default));
        }
        text
    }

    /// The account that events are for; only `run` needs one.
    ///
    /// # Errors
    /// [`Problems`] names the keys that are not set.
    pub fn account(&self) -> Result<Account, Problems> {
        let missing = |key: &str, example: &str| Problem {
            origin: Origin::Unset,
            key: key.to_owned(),
            message: format!(
                "is required to run, such as \"{example}\": set it in the file, as {}, or with -o",
                sources::variable(key)
            ),
        };
        match (&self.target.client, &self.target.organization_id) {
            (Some(client), Some(organization)) => {
                Ok(Account { client: client.clone(), organization: organization.clone() })
            }
            (client, organization) => {
                let mut problems = Vec::new();
                if client.is_none() {
                    problems.push(missing("target.client", "acmecorp"));
                }
                if organization.is_none() {
                    problems.push(missing("target.organization_id", "0DD934B85278256B0A490D44@AdobeOrg"));
                }
                Err(Problems(problems))
            }
        }
    }

    /// The proxy in force: `target.proxy`, or else the environment's. That takes https alone, and does not count where nothing
    /// goes over https. Whether the environment's can be used is seen when requests are to be sent through it: commands that
    /// send none work in any environment.
    #[must_use]
    pub fn proxy(&self) -> Option<Proxy> {
        let Target { endpoint, edge_endpoint, proxy, .. } = &self.target;
        let mut endpoints = std::iter::once(endpoint).chain(edge_endpoint);
        match proxy {
            Some(url) => Some(Proxy::set(url.clone())),
            None if endpoints.any(|endpoint| endpoint.starts_with("https://")) => {
                self.environment_proxy.clone()
            }
            None => None,
        }
    }

    /// How the producers' socket behaves.
    #[must_use]
    pub fn ingest_settings(&self) -> ingest::Settings {
        let ingest = &self.ingest;
        ingest::Settings {
            socket: ingest.socket.clone(),
            mode: ingest.mode,
            allow_users: ingest.allow_users.clone(),
            allow_groups: ingest.allow_groups.clone(),
            max_line: in_memory(ingest.max_line),
            max_connections: in_memory(u64::from(ingest.max_connections)),
            max_connections_per_user: in_memory(u64::from(ingest.max_connections_per_user)),
            idle_timeout: ingest.idle_timeout,
            line_timeout: ingest.line_timeout,
            buffer_max_bytes: in_memory(ingest.buffer_max_bytes),
            max_receipts: in_memory(u64::from(ingest.max_receipts)),
        }
    }

    /// How Target is reached for `account`.
    #[must_use]
    pub fn transport_settings(&self, account: &Account) -> delivery::Settings {
        let target = &self.target;
        delivery::Settings {
            client: account.client.clone(),
            organization: account.organization.clone(),
            endpoint: target.endpoint.clone(),
            edge_endpoint: self.target.edge_endpoint.clone(),
            timeout: target.timeout,
            connect_timeout: target.connect_timeout,
            ca_file: target.ca_file.clone(),
            proxy: self.proxy(),
            allow_http: target.allow_http,
            max_answer: in_memory(self.delivery.max_answer),
            concurrency: in_memory(u64::from(self.delivery.concurrency)),
        }
    }

    /// What is filled in where a submission leaves it out; `time_zone` is this host's.
    #[must_use]
    pub fn wire_defaults(&self, time_zone: Option<TimeZone>) -> wire::defaults::Defaults {
        wire::defaults::Defaults {
            impression_id: self.defaults.impression_id,
            channel: self.defaults.channel,
            time_zone: time_zone.filter(|_| self.defaults.time_offset),
            analytics_logging: self.defaults.analytics_logging,
            property_token: self.target.property_token.as_ref().map(|token| token.as_str().to_owned()),
            environment_id: self.target.environment_id,
        }
    }

    /// The bounds of the waits between attempts.
    #[must_use]
    pub fn backoff(&self) -> Backoff {
        let Retry { initial, max, multiplier, .. } = self.retry;
        Backoff { initial, max, multiplier }
    }
}

/// The account of the configuration of `sources`. A key that is set, to nothing, is told with its place.
fn placed_account(config: &Config, sources: &Sources) -> Result<Account, Problems> {
    config.account().map_err(|Problems(mut missing)| {
        let given = sources.in_force();
        for problem in &mut missing {
            if let Some(one) = given.iter().find(|one| one.key == problem.key) {
                problem.origin = one.origin.clone();
            }
        }
        missing.sort();
        Problems(missing)
    })
}

/// A size or number that is held in memory.
fn in_memory(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

/// `target` with the rules that span its keys: which edge endpoint is in force, and which token.
fn resolved(mut target: Target, environment: &[(String, String)], reader: &mut Reader) -> Target {
    // Who points the endpoint elsewhere, at a sandbox perhaps, does not mean events to go to Adobe's edges.
    if reader.is_set("target.endpoint") && !reader.is_set("target.edge_endpoint") {
        target.edge_endpoint = None;
    }
    // Each edge host is looked at again before a request goes to it.
    let edge = target.edge_endpoint.as_ref().map(|edge| edge.replace("{cluster}", "0"));
    let edge = edge.as_deref().unwrap_or_default();
    for (key, url) in [("target.endpoint", target.endpoint.as_str()), ("target.edge_endpoint", edge)] {
        if url::is_clear_text(url) && !target.allow_http && reader.are_known(&[key, "target.allow_http"]) {
            let message = "is not encrypted: use https://, or set target.allow_http = true".to_owned();
            reader.wrong(reader.origin(key), key, message);
        }
    }
    let file = target.property_token_file.as_deref();
    target.property_token = token::resolve(target.property_token.take(), file, environment, reader);
    target
}

fn check_ingest(ingest: &Ingest, reader: &mut Reader) {
    if ingest.buffer_max_bytes < ingest.max_line {
        let (buffer, line) = (in_units(ingest.buffer_max_bytes), in_units(ingest.max_line));
        let message = format!(
            "does not fit: ingest.buffer_max_bytes ({buffer}) must be at least ingest.max_line ({line})"
        );
        reader.clash(&["ingest.buffer_max_bytes", "ingest.max_line"], message);
    }
}

/// Producers and operators are told apart by the socket alone.
fn check_sockets(ingest: &Ingest, admin: &Admin, reader: &mut Reader) {
    let whole = |path: &Path| std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    if whole(&ingest.socket) == whole(&admin.socket) {
        let message = format!(
            "does not fit: ingest.socket and admin.socket must differ, and both are {}",
            admin.socket.display()
        );
        reader.clash(&["ingest.socket", "admin.socket"], message);
    }
}

fn check_queue(queue: &Queue, reader: &mut Reader) {
    if queue.reserve > queue.min_free / 2 {
        let (reserve, free) = (in_units(queue.reserve), in_units(queue.min_free));
        let message = format!(
            "does not fit: queue.reserve ({reserve}) must be at most half of queue.min_free ({free})"
        );
        reader.clash(&["queue.reserve", "queue.min_free"], message);
    }
}

fn check_retry(retry: &Retry, reader: &mut Reader) {
    if retry.initial > retry.max {
        let message = "does not fit: retry.initial must be at most retry.max".to_owned();
        reader.clash(&["retry.initial", "retry.max"], message);
    }
}

fn check_delivery(delivery: &Delivery, reader: &mut Reader) {
    if delivery.breaker_open > delivery.breaker_max {
        let message = "does not fit: delivery.breaker_open must be at most delivery.breaker_max".to_owned();
        reader.clash(&["delivery.breaker_open", "delivery.breaker_max"], message);
    }
}
