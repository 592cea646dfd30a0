//! `status`: the one screen.

use std::fmt::Write as _;
use std::io::{self, IsTerminal, Write};

use super::alike;
use super::text::{bytes, milliseconds, some, span};
use crate::admin::protocol::{HostLine, Status};
use crate::event::{Visible, count};
use crate::figures::{Figures, Rates};

/// Moves to the top left corner and clears the screen.
const CLEAR: &str = "\u{1b}[H\u{1b}[2J";
const PLAIN: &str = "\u{1b}[0m";

#[derive(Clone, Copy)]
enum Colour {
    Good,
    Waiting,
    Bad,
}

impl Colour {
    fn code(self) -> &'static str {
        match self {
            Self::Good => "\u{1b}[32m",
            Self::Waiting => "\u{1b}[33m",
            Self::Bad => "\u{1b}[31m",
        }
    }
}

/// Draws the status; `again` where it was drawn before and will be again.
pub(super) fn draw(out: &mut impl Write, status: &Status, again: bool) -> io::Result<()> {
    let terminal = io::stdout().is_terminal();
    // https://no-color.org
    let colours = terminal && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    // One write, so that a terminal does not show half of it.
    let mut text = String::new();
    if terminal && again {
        text.push_str(CLEAR);
    }
    text.push_str(&screen(status, colours));
    if again && !terminal {
        text.push('\n');
    }
    out.write_all(text.as_bytes())
}

fn screen(status: &Status, colours: bool) -> String {
    let paint = |colour: Colour, text: &str| match colours {
        true => format!("{}{text}{PLAIN}", colour.code()),
        false => text.to_owned(),
    };
    let figures = &status.figures;
    let colour = match status.state.as_str() {
        "running" => Colour::Good,
        "stuck" | "full" => Colour::Bad,
        _ => Colour::Waiting,
    };
    let state = paint(colour, &Visible(&status.state).to_string());
    let (client, version, up) = (Visible(&status.client), Visible(&status.version), span(figures.uptime_s));
    let mut text = format!("target-notifyd {version} for {client}: {state}, up {up}\n");
    for (name, line) in rows(figures) {
        // Writing to a string cannot fail.
        let _written = writeln!(text, "{name:<10}{line}");
    }
    if !status.hosts.is_empty() {
        let _written = writeln!(text, "\n{:<10}{:>10} {:>10}  STATE", "HOST", "DUE", "UNDER WAY");
    }
    for (host, names) in alike::hosts(status) {
        let name = Visible(&host.host).to_string();
        let colour = if host.state == "open" { Colour::Good } else { Colour::Bad };
        let (state, rest) = standing(&host);
        let state = paint(colour, &Visible(state).to_string());
        let (rest, waiting, in_flight) =
            (Visible(&rest), count(host.waiting as u64), count(host.in_flight as u64));
        let _written = writeln!(text, "{name:<10}{waiting:>10} {in_flight:>10}  {state}{rest}");
        if !names.is_empty() {
            let _written = writeln!(text, "{:<33}{}", "", Visible(&names.join(", ")));
        }
        if let Some(error) = host.error.as_ref().filter(|error| !error.is_empty()) {
            let _written = writeln!(text, "{:<33}{}", "", Visible(error));
        }
    }
    for pause in &status.paused {
        let ends =
            pause.left_s.map_or("until it is resumed".to_owned(), |left| format!("{} more", span(left)));
        let (host, reason) = (Visible(&pause.host), Visible(&pause.reason));
        let line = format!("paused: {host} for {}, {ends}: {reason}", span(pause.since_s));
        let _written = writeln!(text, "\n{}", paint(Colour::Waiting, &line));
    }
    for hold in &status.held {
        let line = format!("held: {} for {}", Visible(&hold.of), span(hold.since_s));
        let _written = writeln!(text, "\n{}", paint(Colour::Waiting, &line));
    }
    if !status.advice.is_empty() {
        text.push_str("\nto do\n");
    }
    for (advice, names) in alike::advice(status) {
        let _written = writeln!(text, "- {}\n    {}", Visible(&advice.about), Visible(&advice.run));
        if !names.is_empty() {
            let _written = writeln!(text, "    the same goes for {}", Visible(&names.join(", ")));
        }
    }
    text
}

/// What a host does with requests, and since when, why, and until when.
fn standing(host: &HostLine) -> (&str, String) {
    let told = |seconds: Option<f64>, before, after| {
        seconds.map_or(String::new(), |seconds| format!("{before}{}{after}", span(seconds)))
    };
    match host.state.split_once(": ") {
        Some((state, why)) => {
            let (since, until) = (told(host.since_s, " ", " ago"), told(host.wait_s, "; a probe in ", ""));
            (state, format!("{since}, since {why}{until}"))
        }
        // Of a breaker, "open" means that the host fails.
        None if host.state == "open" => {
            let few = |most| format!(", {most} requests at a time at most for now: it timed out with more");
            ("serves", host.at_most.map_or(String::new(), few))
        }
        None => {
            (host.state.as_str(), told(host.since_s, " for ", "") + &told(host.wait_s, ", again in ", ""))
        }
    }
}

fn rows(figures: &Figures) -> Vec<(&'static str, String)> {
    let sessions = some(figures.lanes as u64, "session", "sessions");
    let oldest = figures.oldest_s.map_or(String::new(), |age| format!(", the oldest {} old", span(age)));
    let latency = match (figures.latency_p50_ms, figures.latency_p99_ms) {
        (Some(p50), Some(p99)) => {
            format!("half within {}, 99 % within {} (5 minutes)", milliseconds(p50), milliseconds(p99))
        }
        _ => "no request in the last 5 minutes".to_owned(),
    };
    let disk = |bytes_: Option<u64>| bytes_.map_or("unknown".to_owned(), bytes);
    let (used, free) = (disk(figures.disk_used_bytes), disk(figures.disk_free_bytes));
    let files = figures.disk_free_files.filter(|_| figures.lacks_files());
    let files =
        files.map_or(String::new(), |files| format!(", room for {}", some(files, "more file", "more files")));
    let Figures { accepted, delivered, dead, expired, quarantined, pending, .. } = figures;
    let account = format!(
        "{} accepted = {} delivered + {} dead + {} expired + {} quarantined + {} pending",
        count(*accepted),
        count(*delivered),
        count(*dead),
        count(*expired),
        count(*quarantined),
        count(*pending),
    );
    vec![
        ("pending", format!("{} ({sessions} in memory){oldest}", some(*pending, "event", "events"))),
        ("in", rates(&figures.rate_in)),
        ("out", rates(&figures.rate_out)),
        ("drained", drained(figures)),
        ("room", room(figures)),
        (
            "Target",
            format!(
                "{}, {latency}",
                some(figures.in_flight as u64, "request under way", "requests under way")
            ),
        ),
        ("disk", format!("{used} used, {free} free{files}")),
        (
            "dead",
            format!(
                "{} held, {} parked",
                some(figures.dead_held, "dead letter", "dead letters"),
                count(figures.parked as u64)
            ),
        ),
        (
            "producers",
            format!(
                "{}; since the start {} turned away, {} rejected, {} unavailable",
                some(figures.connections, "connection", "connections"),
                count(figures.turned_away),
                some(figures.rejected, "line", "lines"),
                count(figures.unavailable)
            ),
        ),
        ("account", account),
    ]
}

/// How long until nothing waits.
fn drained(figures: &Figures) -> String {
    match figures.drained_s {
        _ if figures.pending == 0 => "nothing waits".to_owned(),
        Some(seconds) => format!("in {} at the rates of the last minute", span(seconds)),
        None => "not at the rates of the last minute".to_owned(),
    }
}

/// How much of an outage still fits.
fn room(figures: &Figures) -> String {
    match figures.fits_s {
        Some(0.0) => format!("none: {}", limit(&figures.full_first)),
        Some(seconds) if seconds < 1.0 => {
            format!("less than a second of an outage still fits, then {}", limit(&figures.full_first))
        }
        Some(seconds) => {
            format!("{} of an outage still fit, then {}", span(seconds), limit(&figures.full_first))
        }
        None => "nothing comes in".to_owned(),
    }
}

fn limit(name: &str) -> &str {
    match name {
        "bytes" => "queue.max_bytes is reached",
        "events" => "queue.max_events is reached",
        _ => "the disk is full",
    }
}

fn rates(rates: &Rates) -> String {
    format!("{:.1} {:.1} {:.1} events a second over 1, 5 and 15 minutes", rates.m1, rates.m5, rates.m15)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::protocol::{Advice, Pause};

    #[test]
    fn there_is_no_room_only_where_a_limit_is_reached() {
        let full_first = "events".to_owned();
        for (fits, room) in [
            (0.0, "none: queue.max_events is reached"),
            (0.25, "less than a second of an outage still fits, then queue.max_events is reached"),
            (75.0, "1m 15s of an outage still fit, then queue.max_events is reached"),
        ] {
            let figures =
                Figures { fits_s: Some(fits), full_first: full_first.clone(), ..Figures::default() };
            assert!(rows(&figures).contains(&("room", room.to_owned())), "{fits}");
        }
    }

    #[test]
    fn all_counts_have_their_thousands_set_apart() {
        let many = 1_949;
        let figures = Figures {
            pending: many,
            lanes: 1_949,
            dead_held: many,
            parked: 1_949,
            turned_away: many,
            rejected: many,
            unavailable: many,
            ..Figures::default()
        };
        let text: String = rows(&figures).into_iter().map(|(_, line)| line).collect();
        assert!(!text.contains("1949") && text.matches("1,949").count() == 8, "{text}");
    }

    #[test]
    fn the_state_of_a_host_is_told_in_words_that_mean_one_thing() {
        let host = |state: &str, since_s, wait_s| HostLine {
            host: "client".to_owned(),
            state: state.to_owned(),
            since_s,
            error: None,
            wait_s,
            waiting: 0,
            in_flight: 0,
            at_most: None,
        };
        for (state, since, wait, told) in [
            ("open", None, None, "serves"),
            ("breaker", Some(3.0), Some(2.0), "breaker for 3.0s, again in 2.0s"),
            ("busy", None, Some(2.0), "busy, again in 2.0s"),
            (
                "paused: it refuses everything",
                Some(3.0),
                Some(7.0),
                "paused 3.0s ago, since it refuses everything; a probe in 7.0s",
            ),
            ("paused by an operator", None, None, "paused by an operator"),
        ] {
            let status = Status { hosts: vec![host(state, since, wait)], ..Status::default() };
            assert!(screen(&status, false).contains(&format!("  {told}\n")), "{told}");
        }
        let narrow = HostLine { at_most: Some(4), ..host("open", None, None) };
        let screen = screen(&Status { hosts: vec![narrow], ..Status::default() }, false);
        assert!(
            screen.contains("  serves, 4 requests at a time at most for now: it timed out with more\n"),
            "{screen}"
        );
    }

    #[test]
    fn many_hosts_in_the_same_trouble_take_a_few_lines() {
        let host = |number: u32| HostLine {
            host: number.to_string(),
            state: "paused: it refuses everything".to_owned(),
            since_s: Some(3.0),
            error: Some("HTTP 400".to_owned()),
            wait_s: Some(7.0),
            waiting: 1,
            in_flight: 0,
            at_most: None,
        };
        let advice = |number: u32| Advice {
            about: format!("{number} refuses everything: see what all events share, then"),
            run: format!("target-notifyd dead list; target-notifyd resume --host '{number}'"),
        };
        let few = |many: std::ops::Range<u32>| {
            let hosts = many.clone().map(host).collect();
            screen(&Status { hosts, advice: many.map(advice).collect(), ..Status::default() }, false)
        };
        let (one, all) = (few(20..21), few(20..52));
        assert_eq!(all.lines().count(), one.lines().count() + 2, "{all}");
        for line in [
            "\n32 hosts          32          0  paused 3.0s ago, since it refuses everything; a probe in 7.0s\n",
            "  20, 21, 22, 23, ",
            " HTTP 400\n",
            "\n    the same goes for 21, 22, ",
        ] {
            assert!(all.contains(line), "{line:?}: {all}");
        }
    }

    #[test]
    fn the_screen_is_plain_where_it_is_to_be_and_shows_no_control_character() {
        let hostile = "\u{1b}[31mred".to_owned();
        let host = HostLine {
            host: hostile.clone(),
            state: "breaker".to_owned(),
            since_s: Some(61.0),
            error: Some(hostile.clone()),
            wait_s: Some(1.0),
            waiting: 1,
            in_flight: 0,
            at_most: None,
        };
        let pause = Pause { host: "all".to_owned(), reason: hostile.clone(), since_s: 5.0, left_s: None };
        let status = Status {
            state: "paused".to_owned(),
            hosts: vec![host],
            paused: vec![pause],
            advice: vec![Advice { about: hostile.clone(), run: "target-notifyd resume".to_owned() }],
            ..Status::default()
        };
        let plain = screen(&status, false);
        assert!(!plain.chars().any(|one| one.is_control() && one != '\n'), "{plain:?}");
        assert!(
            plain.contains("breaker for 1m 1s, again in 1.0s")
                && plain.contains("until it is resumed")
                && plain.contains("target-notifyd resume"),
            "{plain}"
        );
        assert!(screen(&status, true).contains(Colour::Waiting.code()));
    }
}
