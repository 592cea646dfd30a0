//! The commands that ask the running daemon: what it does, why something waits, and what to do about it.
//!
//! With `--json` the lines of the admin socket are printed as they come; without it, for people. What the daemon tells came
//! from outside once, so control characters are made visible.

mod arguments;
mod client;
mod lists;
mod screen;
mod text;

use std::io::{self, Write};
use std::thread;
use std::time::Duration;

use self::arguments::Asked;
pub(super) use self::arguments::Operate;
use self::client::{Client, ClientError};
use self::lists::Printer;
pub(super) use self::text::{bytes, some};
use super::{Exit, told};
use crate::admin::protocol::{Answer, Request};
use crate::config::Config;

/// How long the answer to `status` may take: a daemon that needs longer does not work.
const STATUS_WITHIN: Duration = Duration::from_secs(30);

/// Asks the daemon that `config` names, and prints what it answers.
pub(super) fn run(config: &Config, command: Operate) -> Exit {
    let Asked { request, json, watch } = match command.asked() {
        Ok(asked) => asked,
        Err(wrong) => {
            told(&wrong);
            return Exit::Usage;
        }
    };
    let ended = match watch {
        None => exchange(config, &request, json, false),
        Some(every) => watched(config, &request, json, every),
    };
    ended.unwrap_or_else(|error| {
        // A refusal is a line of the answer, which is printed as it came.
        let is_told = json && matches!(error, ClientError::Refused { .. });
        let exit = error.exit();
        if exit != Exit::Success && !is_told {
            told(&error.to_string());
        }
        exit
    })
}

/// Asks again and again, until somebody ends this. Whoever watches a restart wants to see its end: once there was an answer, a
/// daemon that is away is told once, and waited for.
fn watched(config: &Config, request: &Request, json: bool, every: Duration) -> Result<Exit, ClientError> {
    let (mut answered, mut away) = (false, false);
    loop {
        match exchange(config, request, json, true) {
            Ok(Exit::Success) => (answered, away) = (true, false),
            Err(error) if answered && error.may_pass() => {
                if !away {
                    let every = humantime::format_duration(every);
                    told(&format!("no answer, and the daemon is asked again every {every}: {error}"));
                }
                away = true;
            }
            ended => return ended,
        }
        // The pace of a screen, not a wait for something.
        thread::sleep(every);
    }
}

fn exchange(config: &Config, request: &Request, json: bool, again: bool) -> Result<Exit, ClientError> {
    let within = matches!(request, Request::Status {}).then_some(STATUS_WITHIN);
    let mut client = Client::ask(&config.admin.socket, request, within)?;
    let mut printer = Printer::new(request, again, config.ingest.max_line);
    let mut out = io::stdout().lock();
    loop {
        let (line, answer) = client.answer()?;
        let end = match &answer {
            Answer::Error { code, message } => {
                Some(Err(ClientError::Refused { code: code.clone(), message: message.clone() }))
            }
            Answer::Done(_) if printer.incomplete() => Some(Ok(Exit::Refused)),
            Answer::Done(_) => Some(Ok(Exit::Success)),
            _ => None,
        };
        match json {
            true => out.write_all(line.as_bytes()),
            false => printer.print(&mut out, answer),
        }
        .and_then(|()| out.flush())
        .map_err(ClientError::Output)?;
        if let Some(end) = end {
            return end;
        }
    }
}
