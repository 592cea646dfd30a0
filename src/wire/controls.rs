//! What an operator stopped, as the queue keeps it: one small record, and one of the sessions that are held.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::record::{Damage, open, seal};
use crate::event::{Cluster, Host, Lane, Moment, SessionId};
use crate::schedule::{Controls, Pause, Selection};

/// The most bytes of the ids of held sessions, each with its length: with more the record would go to a file that the storage
/// engine never syncs.
const MAX_SESSIONS_BYTES: usize = 6_500;

#[derive(Serialize, Deserialize)]
struct Shape {
    pauses: Vec<PauseShape>,
    holds: Vec<(SelectionShape, u64)>,
}

#[derive(Serialize, Deserialize)]
struct PauseShape {
    /// The host; `None` is all.
    host: Option<HostShape>,
    reason: String,
    since: u64,
    until: Option<u64>,
}

/// The digits of the edge cluster; empty is the client's own host.
type HostShape = String;

#[derive(Serialize, Deserialize)]
enum SelectionShape {
    Lane(u128),
    Host(HostShape),
    All,
}

/// The record.
#[must_use]
pub fn encode(controls: &Controls) -> Vec<u8> {
    let pauses = controls.pauses.iter().map(|(host, pause)| PauseShape {
        host: host.map(host_shape),
        reason: pause.reason.clone(),
        since: pause.since.as_micros(),
        until: pause.until.map(Moment::as_micros),
    });
    let selection = |one: &Selection| match one {
        Selection::Lane(lane) => SelectionShape::Lane(lane.0),
        Selection::Host(host) => SelectionShape::Host(host_shape(*host)),
        Selection::All => SelectionShape::All,
    };
    let holds = controls.holds.iter().map(|(what, since)| (selection(what), since.as_micros()));
    seal(&Shape { pauses: pauses.collect(), holds: holds.collect() })
}

/// Reads a record.
///
/// # Errors
/// [`Damage`]: it is no whole one.
pub fn decode(record: &[u8]) -> Result<Controls, Damage> {
    let shape: Shape = open(record)?;
    let mut controls = Controls::default();
    for PauseShape { host, reason, since, until } in shape.pauses {
        let host = host.map(|text| host_of(&text)).transpose()?;
        let (since, until) = (Moment::from_micros(since), until.map(Moment::from_micros));
        controls.pauses.insert(host, Pause { reason, since, until });
    }
    let holds = shape.holds.into_iter().map(|(what, since)| {
        let what = match what {
            SelectionShape::Lane(lane) => Selection::Lane(Lane(lane)),
            SelectionShape::Host(text) => Selection::Host(host_of(&text)?),
            SelectionShape::All => Selection::All,
        };
        Ok((what, Moment::from_micros(since)))
    });
    controls.holds = holds.collect::<Result<BTreeMap<_, _>, Damage>>()?;
    Ok(controls)
}

/// The record of the ids of sessions: of the first ones, as many as fit.
#[must_use]
pub fn encode_sessions(sessions: &[SessionId]) -> Vec<u8> {
    let mut bytes = 0_usize;
    let fitting = sessions.iter().map(SessionId::as_str).take_while(|id| {
        bytes = bytes.saturating_add(id.len() + 2);
        bytes <= MAX_SESSIONS_BYTES
    });
    seal(&fitting.collect::<Vec<&str>>())
}

/// Reads the record of the ids of sessions.
///
/// # Errors
/// [`Damage`]: it is no whole one.
pub fn decode_sessions(record: &[u8]) -> Result<Vec<SessionId>, Damage> {
    let ids: Vec<&str> = open(record)?;
    ids.into_iter().map(|id| SessionId::new(id).map_err(|_| Damage::Shape)).collect()
}

fn host_shape(host: Host) -> HostShape {
    match host {
        Host::Client => String::new(),
        Host::Edge(cluster) => cluster.as_str().to_owned(),
    }
}

fn host_of(text: &str) -> Result<Host, Damage> {
    match text {
        "" => Ok(Host::Client),
        digits => Cluster::parse(digits).map(Host::Edge).ok_or(Damage::Shape),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schedule::{MAX_HOLDS, MAX_PAUSES, MAX_REASON_BYTES};

    #[test]
    fn the_fullest_record_comes_back_and_fits_one_value() {
        let edge = |number: usize| Host::Edge(Cluster::parse(&format!("{}", 1_000 + number)).unwrap());
        let late = Moment::from_micros(u64::MAX / 2);
        let mut controls = Controls::default();
        let pause = Pause { reason: "x".repeat(MAX_REASON_BYTES), since: late, until: Some(late) };
        controls.pauses = (0..=MAX_PAUSES).map(|at| ((at > 0).then(|| edge(at)), pause.clone())).collect();
        let what = |at: usize| match at {
            0 => Selection::All,
            1 => Selection::Host(Host::Client),
            at => Selection::Lane(Lane(u128::MAX - at as u128)),
        };
        controls.holds = (0..MAX_HOLDS).map(|at| (what(at), late)).collect();
        let record = encode(&controls);
        // A value beyond this goes to a file that the storage engine never syncs.
        assert!(record.len() <= 6_900, "{}", record.len());
        assert_eq!(decode(&record), Ok(controls));
        assert_eq!(decode(&encode(&Controls::default())), Ok(Controls::default()));
        assert!(decode(&record[1..]).is_err());
    }

    #[test]
    fn the_ids_of_held_sessions_come_back_as_far_as_they_fit_one_value() {
        let ids = |count: usize, length: usize| -> Vec<SessionId> {
            (0..count).map(|at| SessionId::new(&format!("{at:0>length$}")).unwrap()).collect()
        };
        // As many as may be held, each a UUID.
        let usual = ids(MAX_HOLDS, 36);
        assert_eq!(decode_sessions(&encode_sessions(&usual)), Ok(usual));
        let long = ids(MAX_HOLDS, SessionId::MAX_CHARS);
        let record = encode_sessions(&long);
        assert!(record.len() <= 6_900, "{}", record.len());
        let read = decode_sessions(&record).unwrap();
        assert!(read.len() >= 48 && long.starts_with(&read), "{}", read.len());
        assert_eq!(decode_sessions(&encode_sessions(&[])), Ok(vec![]));
        assert!(decode_sessions(&record[1..]).is_err());
    }
}
