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

/// Seconds, to thousandths.
pub(super) fn seconds(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1_000.0).round() / 1_000.0
}

#[cfg(test)]
mod tests {
    use super::*;

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
