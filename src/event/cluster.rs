//! Where a request goes: Target's edge clusters and the hosts that stand for them.

use std::fmt;
use std::str::FromStr;

use thiserror::Error;

/// An edge cluster of Target, one to four digits as in `mboxedge35.tt.omtrdc.net`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cluster {
    digits: [u8; 4],
    len: u8,
}

impl Cluster {
    /// Reads one to four ASCII digits; anything else is `None`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let bytes = text.as_bytes();
        if bytes.is_empty() || bytes.len() > 4 || !bytes.iter().all(u8::is_ascii_digit) {
            return None;
        }
        let mut digits = [b'0'; 4];
        for (slot, byte) in digits.iter_mut().zip(bytes) {
            *slot = *byte;
        }
        Some(Self { digits, len: u8::try_from(bytes.len()).unwrap_or(4) })
    }

    /// The digits as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        self.digits
            .get(..usize::from(self.len))
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .unwrap_or("")
    }
}

impl fmt::Display for Cluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A host that requests go to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Host {
    /// The client's own host, `{client}.tt.omtrdc.net` (`target.endpoint`).
    Client,
    /// The host of one edge cluster (`target.edge_endpoint`).
    Edge(Cluster),
}

impl FromStr for Host {
    type Err = NoHost;

    /// Reads `client`, or the digits of an edge cluster, also as `edge 35` or `edge35`.
    fn from_str(text: &str) -> Result<Self, NoHost> {
        let name = text.trim();
        if name == "client" {
            return Ok(Self::Client);
        }
        let digits = name.strip_prefix("edge").unwrap_or(name).trim_start_matches([' ', '-']);
        Cluster::parse(digits).map(Self::Edge).ok_or(NoHost)
    }
}

/// A text names no host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("a host is \"client\", or the digits of an edge cluster such as \"35\"")]
pub struct NoHost;

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Client => f.write_str("client"),
            Self::Edge(cluster) => write!(f, "edge {cluster}"),
        }
    }
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
            assert_eq!(text.parse(), Ok(expected), "{text}");
        }
        for name in [Host::Client, edge] {
            assert_eq!(name.to_string().parse(), Ok(name));
        }
        for wrong in ["", "edge", "12345", "mboxedge35.tt.omtrdc.net"] {
            assert_eq!(wrong.parse::<Host>(), Err(NoHost), "{wrong}");
        }
    }

    #[test]
    fn a_cluster_is_one_to_four_digits() {
        for good in ["3", "35", "035", "1234"] {
            assert_eq!(Cluster::parse(good).map(|cluster| cluster.to_string()).as_deref(), Some(good));
        }
        for bad in ["", "12345", "3a", "-1", "３５", " 3"] {
            assert_eq!(Cluster::parse(bad), None, "{bad}");
        }
    }
}
