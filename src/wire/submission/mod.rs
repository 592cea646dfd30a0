//! A producer's line, parsed once: checked by every rule of the Delivery API, with what is absent filled in.
//!
//! Guarantees:
//! - a value of type [`Submission`] can be stored and sent as it is; there is no half-valid one;
//! - what the producer wrote is kept byte for byte, but for members that were `null`, and for what is filled in;
//! - an error names the field by its path, as the producer wrote the line.

mod again;
mod checked;
mod json;
mod options;
mod request;
mod schema;
#[cfg(test)]
mod tests;
mod tree;

use std::sync::Arc;

use uuid::Uuid;

pub use self::again::{Again, Fidelity, again};
use self::checked::{Checked, braced, get};
use self::json::{Fault, Path};
use self::options::Options;
use self::tree::Json;
use crate::event::{Envelope, EventId, SessionId};
use crate::wire::defaults::Defaults;
use crate::wire::hash;
use crate::wire::reply::{Code, Rejection};

/// The most notifications of one submission.
pub const MAX_NOTIFICATIONS: usize = 1_000;
/// The most bytes of a request's members beside its notifications.
pub const MAX_MEMBERS_BYTES: usize = 64 * 1_024;

/// One line that may be stored: at least one notification and what they share.
#[derive(Clone, Debug)]
pub struct Submission {
    /// What its events share.
    pub envelope: Arc<Envelope>,
    /// Its notifications in the order of the request, 1 to [`MAX_NOTIFICATIONS`].
    pub notifications: Vec<Notification>,
    /// The producer's `ref`.
    pub reference: Option<String>,
    /// Whether a receipt was asked for.
    pub receipt: bool,
    /// What its calls are stitched together by, where it has a consumer id and no supplemental data id of its own.
    pub stitch: Option<Stitch>,
}

/// A place for a supplemental data id, which is decided when the submission is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stitch {
    /// The consumer id.
    pub consumer: String,
    /// A new supplemental data id, which stands in the envelope unless another one is set.
    pub fresh: String,
    /// Where it stands in the envelope's members.
    at: usize,
}

/// One notification, ready to be stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notification {
    /// Its id, as given or as made here.
    pub id: EventId,
    /// The finished JSON object.
    pub json: Box<[u8]>,
}

impl Submission {
    /// Parses one line without its end. `now_unix_ms` is the wall clock: the default of `timestamp`, and what a cookie's
    /// expiry is held against.
    ///
    /// # Errors
    /// [`Rejection`]: the line is refused for good, with the reply that says why.
    pub fn parse(line: &[u8], defaults: &Defaults, now_unix_ms: u64) -> Result<Self, Rejection> {
        let reject = |fault: Fault, reference| {
            let Fault { code, message, path } = fault;
            Rejection { code, message, path, reference }
        };
        let tree = json::read(line).map_err(|fault| reject(fault, None))?;
        let line = tree.root();
        read(line, defaults, now_unix_ms).map_err(|fault| reject(fault, options::reference(line)))
    }

    /// Sets the supplemental data id, 33 characters as the fresh one has; does nothing where there is no place for it.
    pub fn set_supplemental_data_id(&mut self, id: &str) {
        let Some(stitch) = &self.stitch else { return };
        let mut envelope = Envelope::clone(&self.envelope);
        let place = envelope.members.get_mut(stitch.at..stitch.at + stitch.fresh.len());
        if let Some(place) = place.filter(|place| place.len() == id.len()) {
            place.copy_from_slice(id.as_bytes());
            let Envelope { session, cluster, owner, members, .. } = &envelope;
            envelope.fingerprint = hash::fingerprint(session, *cluster, *owner, members);
            self.envelope = Arc::new(envelope);
        }
    }

    /// What it counts against `queue.max_bytes`: its notifications and what they share.
    #[must_use]
    pub fn payload_bytes(&self) -> u64 {
        let notifications: usize = self.notifications.iter().map(|one| one.json.len()).sum();
        u64::try_from(notifications.saturating_add(self.envelope.members.len())).unwrap_or(u64::MAX)
    }
}

/// Holds a line's value against every rule, and fills in what is absent.
fn read(line: Json<'_>, defaults: &Defaults, now_unix_ms: u64) -> Result<Submission, Fault> {
    if line.members().is_none() {
        return Err(Path::Root.invalid("a submission is a JSON object"));
    }
    let top = json::object(line, &Path::Root)?;
    let (options, rest) = Options::read(&top, now_unix_ms)?;

    let shape = rest.iter().find(|(name, value)| *name == "request" && !value.is_null());
    let request = match shape {
        Some((_, json)) => {
            let absent = |name: &str, value: &Json<'_>| value.is_null() && request::is_short(name);
            let beside = rest.iter().find(|(name, value)| *name != "request" && !absent(name, value));
            if let Some((name, _)) = beside {
                return Err(unknown(name));
            }
            request::long(*json)?
        }
        None => request::short(&rest)?,
    };

    let session = match options.session {
        Some(session) => session,
        None => SessionId::new(&Uuid::new_v4().to_string())
            .map_err(|error| Path::Root.key("session_id").invalid(error.to_string()))?,
    };
    // A fresh id is as good as unique, so that its place is found by itself.
    let fresh = options.consumer_id.is_some().then(supplemental_data_id);
    let (ids, device) = (&options.customer_ids, options.device.as_deref());
    let shared = request.shared(ids, device, defaults, fresh.as_deref(), now_unix_ms)?;
    let stitch = options.consumer_id.zip(fresh).and_then(|(consumer, fresh)| {
        let at = shared.members.find(&fresh)?;
        Some(Stitch { consumer, fresh, at })
    });
    let (cluster, owner) = (shared.cluster.or(options.hint), shared.owner);
    let members: Box<[u8]> = shared.members.as_bytes().into();
    let fingerprint = hash::fingerprint(&session, cluster, owner, &members);
    let envelope = Envelope { session, cluster, owner, visitor: shared.visitor, members, fingerprint };

    let give_impression = defaults.impression_id && !shared.has_impression;
    let notifications =
        request.notifications.into_iter().map(|one| finish(one, give_impression, now_unix_ms)).collect();
    Ok(Submission {
        envelope: Arc::new(envelope),
        notifications,
        reference: options.reference,
        receipt: options.receipt,
        stitch,
    })
}

/// A new supplemental data id: 16 upper-case hex digits, `-`, 16 more.
fn supplemental_data_id() -> String {
    let (high, low) = Uuid::new_v4().as_u64_pair();
    format!("{high:016X}-{low:016X}")
}

fn unknown(name: &str) -> Fault {
    let message = format!("'{name}' is no field of a submission");
    Fault { code: Code::UnknownField, path: Some(name.to_owned()), message }
}

/// Fills in what a notification leaves out.
fn finish(mut members: Checked<'_>, give_impression: bool, now_unix_ms: u64) -> Notification {
    let has = |members: &Checked<'_>, name: &str| get(members, name).is_some();
    let quoted = || format!("\"{}\"", Uuid::new_v4());
    if !has(&members, "id") {
        members.insert(0, ("id".into(), quoted().into()));
    }
    if !has(&members, "timestamp") {
        members.push(("timestamp".into(), now_unix_ms.to_string().into()));
    }
    if give_impression && !has(&members, "impressionId") {
        members.push(("impressionId".into(), quoted().into()));
    }
    let id = get(&members, "id").map_or("\"\"", |id| &id.json);
    let id = EventId::new(&json::unquoted(id).unwrap_or_default());
    Notification { id, json: braced(&members).into_bytes().into_boxed_slice() }
}
