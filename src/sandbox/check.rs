//! The published rules for a delivery request, as far as notifications need them.

use std::collections::{BTreeMap, HashSet};

use hyper::body::Bytes;
use percent_encoding::percent_decode_str;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;
use serde_json::{Map, Value};
use thiserror::Error;

use super::mark::{Mark, visitor};
use crate::event::{EventId, SessionId};
use crate::wire::object::Object;

/// A notification with a token that starts with this makes the whole request a 400.
pub const POISON: &str = "POISON";
/// The most UTF-16 units of a request id and of an impression id.
const MAX_ID_UNITS: usize = 128;
/// The most UTF-16 units of an mbox's name.
const MAX_MBOX_UNITS: usize = 250;
/// The most UTF-16 units of a view's name and of its key.
const MAX_VIEW_UNITS: (usize, usize) = (128, 512);

/// Why a request is answered 400, in the words of the answer.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("{0}")]
pub(super) struct Invalid(String);

/// What the query of a delivery request says.
#[derive(Debug)]
pub(super) struct Query {
    pub(super) client: String,
    pub(super) session: SessionId,
}

impl Query {
    /// Reads a form-encoded query.
    pub(super) fn read(query: &str) -> Result<Self, Invalid> {
        let value = |wanted: &str| {
            let pair =
                query.split('&').filter_map(|pair| pair.split_once('=')).find(|(name, _)| *name == wanted);
            let text = pair.map(|(_, value)| value.replace('+', " ")).unwrap_or_default();
            let text = percent_decode_str(&text).decode_utf8_lossy().into_owned();
            if text.is_empty() {
                Err(Invalid(format!("query parameter {wanted} is missing")))
            } else {
                Ok(text)
            }
        };
        let client = value("client")?;
        value("imsOrgId")?;
        let session = SessionId::new(&value("sessionId")?)
            .map_err(|error| Invalid(format!("query parameter sessionId {error}")))?;
        Ok(Self { client, session })
    }
}

/// A delivery request that passed.
#[derive(Debug)]
pub(super) struct Delivery {
    pub(super) beacon: bool,
    pub(super) request_id: Option<String>,
    pub(super) property: Option<String>,
    /// The `id` of the answer.
    pub(super) id: Map<String, Value>,
    pub(super) mark: Mark,
    pub(super) notifications: Vec<Notification>,
}

/// What counts of a notification.
#[derive(Debug)]
pub(super) struct Notification {
    pub(super) id: String,
    pub(super) impression: Option<Mark>,
    pub(super) tokens: Vec<String>,
}

#[derive(Deserialize)]
struct RawContext {
    channel: Channel,
    beacon: Option<bool>,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum Channel {
    Web,
    Mobile,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum Kind {
    Display,
    Click,
}

#[derive(Deserialize)]
struct RawProperty {
    token: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawNotification {
    id: String,
    #[serde(rename = "type")]
    _kind: Kind,
    #[serde(rename = "timestamp")]
    _timestamp: i64,
    impression_id: Option<String>,
    tokens: Option<Vec<String>>,
    mbox: Option<Object<RawMbox>>,
    view: Option<Object<RawView>>,
}

#[derive(Deserialize)]
struct RawMbox {
    name: String,
}

#[derive(Deserialize)]
struct RawView {
    name: Option<String>,
    key: Option<String>,
}

/// Holds a request's body against the rules.
pub(super) fn check(session: &SessionId, body: &Bytes, seed: u64) -> Result<Delivery, Invalid> {
    let members: BTreeMap<String, &RawValue> = serde_json::from_slice(body)
        .map_err(|error| Invalid(format!("the body is not a JSON object: {error}")))?;
    let Object(context): Object<RawContext> =
        member(&members, "context")?.ok_or_else(|| Invalid("context is missing".to_owned()))?;
    match context.channel {
        Channel::Web | Channel::Mobile => {}
    }
    let request_id: Option<String> = member(&members, "requestId")?;
    at_most(request_id.as_deref(), MAX_ID_UNITS, "requestId")?;
    let shared: Option<String> = member(&members, "impressionId")?;
    at_most(shared.as_deref(), MAX_ID_UNITS, "impressionId")?;
    let property: Option<Object<RawProperty>> = member(&members, "property")?;
    let id: Map<String, Value> = member(&members, "id")?.unwrap_or_default();
    let raw: Vec<Object<RawNotification>> = member(&members, "notifications")?.unwrap_or_default();
    if raw.is_empty() {
        return Err(Invalid("notifications must have at least one element".to_owned()));
    }
    let mut seen = HashSet::with_capacity(raw.len());
    for Object(notification) in &raw {
        check_notification(notification)?;
        if !seen.insert(notification.id.as_str()) {
            return Err(Invalid(format!("notification id {} is not unique", notification.id)));
        }
    }
    let notifications = raw.into_iter().map(|Object(raw)| Notification {
        impression: raw.impression_id.as_deref().or(shared.as_deref()).map(Mark::of_impression),
        id: raw.id,
        tokens: raw.tokens.unwrap_or_default(),
    });
    let visitor = visitor(session.as_str(), id, seed);
    Ok(Delivery {
        beacon: context.beacon.unwrap_or(false),
        request_id,
        property: property.and_then(|Object(property)| property.token),
        id: visitor.answered,
        mark: Mark::of_members(&members, &visitor.submitted),
        notifications: notifications.collect(),
    })
}

fn check_notification(notification: &RawNotification) -> Result<(), Invalid> {
    let id = &notification.id;
    at_most(Some(id), EventId::MAX_UNITS, "notification id")?;
    at_most(notification.impression_id.as_deref(), MAX_ID_UNITS, "notification impressionId")?;
    if notification.mbox.is_some() && notification.view.is_some() {
        return Err(Invalid(format!("notification {id} has both mbox and view")));
    }
    if let Some(Object(mbox)) = &notification.mbox {
        if mbox.name.trim().is_empty() {
            return Err(Invalid(format!("mbox.name in notification {id} must not be blank")));
        }
        at_most(Some(&mbox.name), MAX_MBOX_UNITS, "mbox.name")?;
    }
    if let Some(Object(view)) = &notification.view {
        at_most(view.name.as_deref(), MAX_VIEW_UNITS.0, "view.name")?;
        at_most(view.key.as_deref(), MAX_VIEW_UNITS.1, "view.key")?;
    }
    match notification.tokens.iter().flatten().find(|token| token.starts_with(POISON)) {
        Some(token) => Err(Invalid(format!("invalid token \"{token}\" in notification {id}"))),
        None => Ok(()),
    }
}

/// Reads one member; `null` counts as absent.
fn member<T: DeserializeOwned>(
    members: &BTreeMap<String, &RawValue>,
    name: &str,
) -> Result<Option<T>, Invalid> {
    let Some(raw) = members.get(name) else { return Ok(None) };
    serde_json::from_str(raw.get()).map_err(|error| Invalid(format!("{name}: {error}")))
}

fn at_most(text: Option<&str>, units: usize, what: &str) -> Result<(), Invalid> {
    if text.is_some_and(|text| text.encode_utf16().count() > units) {
        return Err(Invalid(format!("{what} must have at most {units} characters")));
    }
    Ok(())
}
