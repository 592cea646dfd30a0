//! The commands that ask the running daemon: what it does, why something waits, and what to do about it.
//!
//! With `--json` the lines of the admin socket are printed as they come; without it, for people. What the daemon tells came
//! from outside once, so control characters are made visible.

mod alike;
mod arguments;
mod client;
mod lists;
mod screen;
mod text;

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;
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

/// Asks the daemon that `config` names, which is that of `instance`, and prints what it answers.
pub(super) fn run(config: &Config, instance: Option<&str>, command: Operate) -> Exit {
    let Asked { request, json, watch, numbers } = match command.asked() {
        Ok(asked) => asked,
        Err(wrong) => {
            told(&wrong);
            return Exit::Usage;
        }
    };
    let exchange = Exchange { config, instance, request: &request, json, numbers: numbers.as_deref() };
    let ended = match watch {
        None => exchange.once(false),
        Some(every) => exchange.repeated(every),
    };
    ended.unwrap_or_else(|error| {
        // A refusal is a line of the answer, which is printed as it came.
        let is_told = json && matches!(error, ClientError::Refused { .. });
        let exit = error.exit();
        if exit != Exit::Success && !is_told {
            told(&of_instance(&error.to_string(), instance));
        }
        exit
    })
}

/// A text with the commands in it for `instance`: copied as they stand they would reach another daemon.
pub(super) fn of_instance(text: &str, instance: Option<&str>) -> String {
    let Some(name) = instance else { return text.to_owned() };
    let mut text = text.to_owned();
    for what in ["status", "restart", "edit"] {
        let unit = format!("systemctl {what} target-notifyd");
        text = text.replace(&unit, &format!("{unit}@{name}"));
    }
    // A unit's name goes on with the instance now. The daemon's user has the same name, and no command behind it.
    let mut rest = text.split("target-notifyd ");
    let mut of_instance = rest.next().unwrap_or_default().to_owned();
    for behind in rest {
        let is_command = behind.starts_with(|first: char| first.is_ascii_lowercase());
        let whose = if is_command { format!("--instance {name} ") } else { String::new() };
        of_instance.push_str(&format!("target-notifyd {whose}{behind}"));
    }
    of_instance
}

/// An answer for people with the commands in it for `instance`.
fn answer_of_instance(mut answer: Answer, instance: Option<&str>) -> Answer {
    match &mut answer {
        Answer::Status(status) => {
            for advice in &mut status.advice {
                advice.run = of_instance(&advice.run, instance);
            }
        }
        Answer::Done(done) => done.note = of_instance(&done.note, instance),
        _ => {}
    }
    answer
}

/// What is asked of which daemon, and how its answer is printed.
struct Exchange<'a> {
    config: &'a Config,
    instance: Option<&'a str>,
    request: &'a Request,
    json: bool,
    /// Where the numbers of exported letters go.
    numbers: Option<&'a Path>,
}

impl Exchange<'_> {
    /// Asks again and again, until somebody ends this. Whoever watches a restart wants to see its end: once there was an answer, a
    /// daemon that is away is told once, and waited for.
    fn repeated(&self, every: Duration) -> Result<Exit, ClientError> {
        let (mut answered, mut away) = (false, false);
        loop {
            match self.once(true) {
                Ok(Exit::Success) => (answered, away) = (true, false),
                Err(error) if answered && error.may_pass() => {
                    if !away {
                        let every = humantime::format_duration(every);
                        let text = format!("no answer, and the daemon is asked again every {every}: {error}");
                        told(&of_instance(&text, self.instance));
                    }
                    away = true;
                }
                ended => return ended,
            }
            // The pace of a screen, not a wait for something.
            thread::sleep(every);
        }
    }

    /// Asks once; `again` says that the answer takes the place of the one before on the screen.
    fn once(&self, again: bool) -> Result<Exit, ClientError> {
        let Self { config, instance, request, json, numbers } = *self;
        let mut numbers = numbers.map(File::create).transpose().map_err(ClientError::Numbers)?;
        let within = matches!(request, Request::Status {}).then_some(STATUS_WITHIN);
        let mut client = Client::ask(&config.admin.socket, request, within)?;
        let mut printer = Printer::new(request, again, config.ingest.max_line);
        let mut out = io::stdout().lock();
        // Whether a letter could not be exported.
        let mut is_refused = false;
        loop {
            let (line, answer) = client.answer()?;
            is_refused |= matches!(&answer, Answer::Submission { refused: Some(_), .. });
            let exported = match &answer {
                Answer::Submission { seq, refused: None, .. } => Some(*seq),
                _ => None,
            };
            let end = match &answer {
                Answer::Error { code, message } => {
                    Some(Err(ClientError::Refused { code: code.clone(), message: message.clone() }))
                }
                Answer::Done(done) if is_refused || done.missing > 0 => Some(Ok(Exit::Refused)),
                Answer::Done(_) => Some(Ok(Exit::Success)),
                _ => None,
            };
            match json {
                true => out.write_all(line.as_bytes()),
                false => printer.print(&mut out, answer_of_instance(answer, instance)),
            }
            .and_then(|()| out.flush())
            .map_err(ClientError::Output)?;
            // Behind its line: what is deleted by its number is there.
            if let (Some(numbers), Some(seq)) = (&mut numbers, exported) {
                writeln!(numbers, "{seq}").map_err(ClientError::Numbers)?;
            }
            if let Some(end) = end {
                return end;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_go_to_the_instance_that_was_asked() {
        for (text, expected) in [
            (
                "target-notifyd dead export --numbers numbers > letters.jsonl && xargs -r -n 5000 target-notifyd dead delete < numbers",
                "target-notifyd --instance shop dead export --numbers numbers > letters.jsonl && xargs -r -n 5000 target-notifyd --instance shop dead delete < numbers",
            ),
            ("systemctl restart target-notifyd", "systemctl restart target-notifyd@shop"),
            (
                "see systemctl status target-notifyd.socket, or systemctl edit target-notifyd",
                "see systemctl status target-notifyd@shop.socket, or systemctl edit target-notifyd@shop",
            ),
            (
                "runuser -u target-notifyd -- target-notifyd check; chown -R target-notifyd /srv",
                "runuser -u target-notifyd -- target-notifyd --instance shop check; chown -R target-notifyd /srv",
            ),
            (
                "is it running? systemctl status target-notifyd tells",
                "is it running? systemctl status target-notifyd@shop tells",
            ),
        ] {
            assert_eq!(of_instance(text, Some("shop")), expected);
            assert_eq!(of_instance(text, None), text);
        }
    }
}
