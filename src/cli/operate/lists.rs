//! Answers as lines and tables for people.

use std::io::{self, Write};

use super::screen;
use super::text::{some, span};
use super::told;
use crate::admin::MAX_LISTED;
use crate::admin::protocol::{Ages, Answer, Done, HostLine, Lane, Letter, Outcome, Request};
use crate::cli::long_lines::LongLines;
use crate::event::{Visible, VisibleJson, count};

/// The most ids of an outcome that are shown.
const SHOWN_IDS: usize = 2;

/// What a request is called when it is done, for those that change something.
#[derive(Clone, Copy)]
enum Deed {
    /// It only shows.
    Show,
    /// It changes events: what they are then, and would be.
    Events(&'static str, &'static str),
    /// It changes dead letters.
    Letters(&'static str),
    /// It exports.
    Export,
    /// It lets what lingers go.
    Flush,
    /// It changes the whole.
    Whole(&'static str, &'static str),
}

/// Prints the answers to one request.
pub(super) struct Printer {
    deed: Deed,
    /// Whether the screen is drawn again and again.
    again: bool,
    /// The kind of the answer before.
    before: Option<&'static str>,
    /// Exported lines that a daemon would not take.
    long: LongLines,
}

impl Printer {
    /// Of a daemon that takes lines of `max_line` bytes; the screen is drawn again and again where it says `again`.
    pub(super) fn new(request: &Request, again: bool, max_line: u64) -> Self {
        let deed = match request {
            Request::QueueHold { .. } => Deed::Events("held", "would be held"),
            Request::QueueRelease { .. } => Deed::Events("released", "would be released"),
            Request::QueueRetry { .. } => Deed::Events("may be tried at once", "would be tried at once"),
            Request::QueueDrop { .. } => {
                Deed::Events("set aside as dead letters", "would be set aside as dead letters")
            }
            Request::DeadRequeue { .. } => Deed::Letters("requeued"),
            Request::DeadDelete { .. } => Deed::Letters("deleted"),
            Request::DeadExport { .. } => Deed::Export,
            Request::Pause { .. } => Deed::Whole("paused; target-notifyd resume ends it", "paused as before"),
            Request::Resume { .. } => Deed::Whole("resumed", "nothing was paused"),
            Request::Flush { wait: false } => Deed::Flush,
            Request::Flush { wait: true } => Deed::Whole("what waited is delivered or set aside", ""),
            Request::Status {}
            | Request::Queue { .. }
            | Request::QueueShow { .. }
            | Request::DeadList { .. }
            | Request::DeadShow { .. }
            | Request::Tail { .. } => Deed::Show,
        };
        Self { deed, again, before: None, long: LongLines::new(max_line) }
    }

    pub(super) fn print(&mut self, out: &mut impl Write, answer: Answer) -> io::Result<()> {
        match answer {
            Answer::Status(status) => screen::draw(out, &status, self.again),
            Answer::Ages(ages) => {
                if self.first("ages") {
                    age_head(out, &ages)?;
                }
                age_row(out, &ages)
            }
            Answer::Lane(lane) => {
                if self.first("lane") {
                    writeln!(out, "\n{:<24} {:<9} {:>7} {:>9}  STATE", "SESSION", "HOST", "EVENTS", "AGE")?;
                }
                lane_row(out, &lane)
            }
            Answer::Event(event) => {
                let (age, id) = (span(event.age_s), Visible(&event.id));
                writeln!(out, "{} {id} on {}, {age} old", event.seq, Visible(&event.host))?;
                writeln!(out, "    {}", Visible(&event.notification.to_string()))
            }
            Answer::Letter(letter) => {
                if letter.request.is_none() && self.first("letter") {
                    let (number, age) = ("NUMBER", "AGE");
                    writeln!(
                        out,
                        "{number:>10} {age:>9} {:<9} {:<24} {:<16} DETAIL",
                        "HOST", "SESSION", "REASON"
                    )?;
                }
                letter_row(out, &letter)
            }
            Answer::Submission { line, refused: None, .. } => {
                // It may go to a file, for `send`: it stays JSON.
                let line = VisibleJson(&line).to_string();
                self.long.look(&line);
                writeln!(out, "{line}")
            }
            Answer::Submission { seq, refused: Some(why), .. } => {
                told(&format!(
                    "dead letter {seq} is not exported: {}; dead requeue keeps it as it is",
                    Visible(&why)
                ));
                Ok(())
            }
            Answer::Listening {} => Ok(()),
            Answer::Outcome(outcome) => outcome_row(out, &outcome),
            Answer::Missed { count } => {
                writeln!(
                    out,
                    "{} missed: they came faster than they were read",
                    some(count, "outcome", "outcomes")
                )
            }
            Answer::Waiting { pending, hosts, note } => {
                told(&waiting(pending, &hosts, &note));
                Ok(())
            }
            Answer::Done(done) => self.done(out, &done),
            // Whoever asked tells it.
            Answer::Error { .. } => Ok(()),
        }
    }

    /// Whether this is the first answer of its kind.
    fn first(&mut self, kind: &'static str) -> bool {
        self.before.replace(kind) != Some(kind)
    }

    fn done(&self, out: &mut impl Write, done: &Done) -> io::Result<()> {
        let events = some(done.count.unwrap_or(0), "event", "events");
        let letters = some(done.count.unwrap_or(0), "dead letter", "dead letters");
        let of = match done.sessions {
            Some(sessions) => format!(" of {}", some(sessions, "session", "sessions")),
            None => String::new(),
        };
        let would = if done.dry_run { "would be " } else { "" };
        match self.deed {
            Deed::Events(_, would) if done.dry_run => writeln!(out, "{events}{of}: {would}")?,
            Deed::Events(what, _) => writeln!(out, "{events}{of}: {what}")?,
            Deed::Letters(what) => writeln!(out, "{letters}: {would}{what}")?,
            Deed::Flush if done.note.is_empty() => writeln!(out, "what lingered is sent")?,
            // Something is kept back, all of it perhaps.
            Deed::Flush => writeln!(out, "what lingers waits for no more of its batch")?,
            Deed::Whole(what, otherwise) => writeln!(out, "{}", if done.changed { what } else { otherwise })?,
            // Its lines may go to a file, which is to hold nothing else.
            Deed::Export => {
                told(&format!("{letters} exported"));
                self.long.note().iter().for_each(|note| told(note));
            }
            Deed::Show => match (done.count, done.left_out) {
                (Some(0), _) => writeln!(out, "none")?,
                (Some(all), Some(left @ 1..)) => {
                    let shown = done.sessions.unwrap_or(all.saturating_sub(left));
                    let more = match shown < MAX_LISTED as u64 {
                        true => "--limit shows more".to_owned(),
                        false => format!("no more than {} are", count(MAX_LISTED as u64)),
                    };
                    // Of what the limit counts in sessions.
                    let events = if done.sessions.is_some() { " events" } else { "" };
                    writeln!(out, "{} of {}{events} are not shown: {more}", count(left), count(all))?;
                }
                _ => {}
            },
        }
        if done.note.is_empty() { Ok(()) } else { writeln!(out, "{}", Visible(&done.note)) }
    }
}

/// How many events a flush waits for, and why they wait.
fn waiting(pending: u64, hosts: &[HostLine], note: &str) -> String {
    let mut text = some(pending, "event waits", "events wait");
    for host in hosts {
        let until = host.wait_s.map_or(String::new(), |wait| format!(", again in {}", span(wait)));
        text.push_str(&format!("; {}: {}{until}", Visible(&host.host), Visible(&host.state)));
    }
    if !note.is_empty() {
        text.push_str(&format!("; {}", Visible(note)));
    }
    text
}

/// The table of ages as `qshape` prints it: how many are younger than so many minutes.
fn age_head(out: &mut impl Write, ages: &Ages) -> io::Result<()> {
    write!(out, "{:>10} {:>9}", "", "T")?;
    for minutes in &ages.minutes {
        write!(out, " {:>7}", format!("{minutes}m"))?;
    }
    let last = ages.minutes.last().map_or(String::new(), |minutes| format!("{minutes}m+"));
    writeln!(out, " {last:>7}")
}

fn age_row(out: &mut impl Write, ages: &Ages) -> io::Result<()> {
    write!(out, "{:>10} {:>9}", Visible(&ages.host).to_string(), ages.total)?;
    for count in &ages.counts {
        write!(out, " {count:>7}")?;
    }
    writeln!(out)
}

fn lane_row(out: &mut impl Write, lane: &Lane) -> io::Result<()> {
    let session = Visible(&lane.session).to_string();
    let (host, age) = (Visible(&lane.host).to_string(), span(lane.age_s));
    let state = lane.state.replace('_', " ");
    write!(out, "{session:<24} {host:<9} {:>7} {age:>9}  {}", lane.events, Visible(&state))?;
    if !lane.because.is_empty() {
        write!(out, ": {}", Visible(&lane.because))?;
    }
    if let Some(wait) = lane.wait_s {
        write!(out, ", again in {}", span(wait))?;
    }
    if lane.parked > 0 {
        write!(out, ", {} parked", lane.parked)?;
    }
    if lane.failures > 0 {
        write!(out, ", {} in a row", some(lane.failures, "failure", "failures"))?;
    }
    writeln!(out)?;
    match (&lane.error, lane.error_s) {
        (Some(error), Some(ago)) => writeln!(out, "{:>24}   {} ago: {}", "", span(ago), Visible(error)),
        _ => Ok(()),
    }
}

fn letter_row(out: &mut impl Write, letter: &Letter) -> io::Result<()> {
    let Letter { seq, id, session, host, reason, detail, age_s, waited_s, request } = letter;
    let (session, host) = (Visible(session).to_string(), Visible(host).to_string());
    let (reason, detail) = (Visible(reason).to_string(), Visible(detail));
    let Some(request) = request else {
        return writeln!(out, "{seq:>10} {:>9} {host:<9} {session:<24} {reason:<16} {detail}", span(*age_s));
    };
    writeln!(out, "number   {seq}\nid       {}\nsession  {session}\nhost     {host}", Visible(id))?;
    writeln!(out, "reason   {reason}: {detail}")?;
    writeln!(out, "age      set aside {} ago, after it had waited {}", span(*age_s), span(*waited_s))?;
    writeln!(out, "request  {}", Visible(&request.to_string()))
}

fn outcome_row(out: &mut impl Write, outcome: &Outcome) -> io::Result<()> {
    let at = std::time::UNIX_EPOCH + std::time::Duration::from_millis(outcome.at_ms);
    let ids =
        outcome.ids.iter().take(SHOWN_IDS).map(|id| Visible(id).to_string()).collect::<Vec<_>>().join(" ");
    write!(
        out,
        "{} {:<9} {} {} {} in {:.1} ms",
        humantime::format_rfc3339_millis(at),
        Visible(&outcome.outcome).to_string(),
        Visible(&outcome.session),
        Visible(&outcome.host),
        Visible(&outcome.answer),
        outcome.took_ms,
    )?;
    // Before the ids, which are long: it is what the reader looks for.
    if !outcome.detail.is_empty() {
        write!(out, " ({})", Visible(&outcome.detail))?;
    }
    write!(out, ": {ids}")?;
    if let Some(more @ 1..) = outcome.ids.len().checked_sub(SHOWN_IDS) {
        write!(out, " and {more} more")?;
    }
    writeln!(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::protocol::Which;

    #[test]
    fn letters_that_a_daemon_would_not_take_back_are_printed_and_looked_at() {
        let mut printer = Printer::new(&Request::DeadExport { which: Which::default() }, false, 5);
        let mut out = Vec::new();
        for (line, told) in [("12345", false), ("\u{9b}", true)] {
            let submission = Answer::Submission { seq: 1, line: line.to_owned(), refused: None };
            printer.print(&mut out, submission).unwrap();
            assert_eq!(printer.long.note().is_some(), told, "{line}");
        }
        assert_eq!(out, b"12345\n\\u009b\n");
    }
}
