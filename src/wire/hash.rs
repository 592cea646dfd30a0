//! The hashes that stand for sessions, ids and envelopes in memory.
//!
//! None of them proves equality: who acts on an equal hash compares the bytes, or loses nothing by a collision.

use xxhash_rust::xxh3::{Xxh3, xxh3_64, xxh3_128};

use crate::event::{Cluster, Entry, Event, EventId, Fingerprint, IdHash, Lane, Owner, SessionId, Visitor};

/// The lane of a session.
#[must_use]
pub fn lane(session: &SessionId) -> Lane {
    lane_of(session.as_str())
}

/// The lane of a session id that is known to be one.
pub(crate) fn lane_of(session: &str) -> Lane {
    Lane(xxh3_128(session.as_bytes()))
}

/// The hash of a notification's id.
#[must_use]
pub fn id_hash(id: &EventId) -> IdHash {
    id_hash_of(id.as_str())
}

/// The hash of a notification's id as text.
pub(crate) fn id_hash_of(id: &str) -> IdHash {
    IdHash(xxh3_64(id.as_bytes()))
}

/// The hash of the property token and environment that a request is sent under.
#[must_use]
pub fn owner(token: Option<&str>, environment: Option<i64>) -> Owner {
    let mut hash = Xxh3::new();
    field(&mut hash, token.map(str::as_bytes));
    field(&mut hash, environment.map(i64::to_be_bytes).as_ref().map(<[u8; 8]>::as_slice));
    let [a, b, c, d, ..] = hash.digest().to_be_bytes();
    Owner(u32::from_be_bytes([a, b, c, d]))
}

/// The hash of a stored `id` object, or of its absence.
#[must_use]
pub fn visitor(id: Option<&str>) -> Visitor {
    Visitor(xxh3_64(id.unwrap_or_default().as_bytes()))
}

/// The fingerprint over all that the events of one submission share.
#[must_use]
pub fn fingerprint(
    session: &SessionId,
    cluster: Option<Cluster>,
    owner: Owner,
    members: &[u8],
) -> Fingerprint {
    let mut hash = Xxh3::new();
    field(&mut hash, Some(session.as_str().as_bytes()));
    field(&mut hash, cluster.as_ref().map(|cluster| cluster.as_str().as_bytes()));
    field(&mut hash, Some(&owner.0.to_be_bytes()));
    field(&mut hash, Some(members));
    Fingerprint(hash.digest128())
}

/// What the scheduler has to know of a stored event.
#[must_use]
pub fn entry(event: &Event) -> Entry {
    Entry {
        seq: event.seq,
        lane: lane(&event.envelope.session),
        envelope: event.envelope.fingerprint,
        id: id_hash(&event.id),
        arrived: event.arrived,
        cluster: event.envelope.cluster,
        owner: event.envelope.owner,
        visitor: event.envelope.visitor,
        bytes: u32::try_from(event.notification.len()).unwrap_or(u32::MAX),
    }
}

/// Adds one field with its length, so that no two lists of fields have the same bytes.
fn field(hash: &mut Xxh3, bytes: Option<&[u8]>) {
    match bytes {
        Some(bytes) => {
            hash.update(&[1]);
            hash.update(&u64::try_from(bytes.len()).unwrap_or(u64::MAX).to_be_bytes());
            hash.update(bytes);
        }
        None => hash.update(&[0]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fingerprint_depends_on_every_field() {
        let session = |text| SessionId::new(text).unwrap();
        let base = fingerprint(&session("s"), None, Owner(1), b"members");
        assert_eq!(base, fingerprint(&session("s"), None, Owner(1), b"members"));
        for other in [
            fingerprint(&session("t"), None, Owner(1), b"members"),
            fingerprint(&session("s"), Cluster::parse("35"), Owner(1), b"members"),
            fingerprint(&session("s"), None, Owner(2), b"members"),
            fingerprint(&session("s"), None, Owner(1), b"member"),
        ] {
            assert_ne!(base, other);
        }
    }

    #[test]
    fn an_owner_tells_an_absent_part_from_an_empty_one() {
        assert_ne!(owner(None, None), owner(Some(""), None));
        assert_ne!(owner(Some("t"), None), owner(Some("t"), Some(0)));
        assert_eq!(owner(Some("t"), Some(7)), owner(Some("t"), Some(7)));
    }
}
