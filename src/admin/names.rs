//! Names of hosts, and numbers as they are answered.

use std::time::Duration;

use super::office::Refusal;
use crate::event::{Cluster, Host};

/// Reads the name of a host: `client`, or the digits of an edge cluster, also as `edge 35` or `edge35`.
pub(super) fn host(text: &str) -> Result<Host, Refusal> {
    let name = text.trim();
    if name == "client" {
        return Ok(Host::Client);
    }
    let digits = name.strip_prefix("edge").unwrap_or(name).trim_start_matches([' ', '-']);
    Cluster::parse(digits).map(Host::Edge).ok_or_else(|| {
        let message = "a host is \"client\", or the digits of an edge cluster such as \"35\"";
        Refusal::of("malformed", message)
    })
}

/// How many stay stopped, and where they are listed; nothing where none does.
pub(super) fn still_in_force(count: usize, one: &str, many: &str) -> String {
    match count {
        0 => String::new(),
        1 => format!("1 other {one} is still in force: target-notifyd status lists it"),
        count => format!("{count} other {many} are still in force: target-notifyd status lists them"),
    }
}

/// Seconds, to thousandths.
pub(super) fn seconds(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1_000.0).round() / 1_000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_still_in_force_is_told_in_its_number() {
        assert_eq!(still_in_force(0, "pause", "pauses"), "");
        assert!(still_in_force(1, "pause", "pauses").starts_with("1 other pause is still in force"));
        assert!(still_in_force(2, "hold", "holds").starts_with("2 other holds are still in force"));
    }

    #[test]
    fn hosts_are_named_as_they_are_shown() {
        let edge = Cluster::parse("35").map(Host::Edge).unwrap();
        for (text, expected) in
            [("client", Host::Client), ("35", edge), ("edge 35", edge), ("edge35", edge), (" edge-35 ", edge)]
        {
            assert_eq!(host(text).unwrap(), expected, "{text}");
        }
        for name in [Host::Client, edge] {
            assert_eq!(host(&name.to_string()).unwrap(), name);
        }
        for wrong in ["", "edge", "12345", "mboxedge35.tt.omtrdc.net"] {
            assert!(host(wrong).is_err(), "{wrong}");
        }
    }
}
