//! The request of a line: in the long form an object of its own, in the short form the line itself.

use std::borrow::Cow;

use serde_json::value::RawValue;

use super::json::{self, Fault, Path, array, is_null, object};
use super::options::Rest;
use super::schema::{Checked, NOTIFICATION, REQUEST, braced, check, joined_bytes, members, unbraced};
use super::{MAX_MEMBERS_BYTES, MAX_NOTIFICATIONS, unknown};
use crate::event::{Cluster, Visitor};
use crate::wire::defaults::Defaults;
use crate::wire::hash;
use crate::wire::response::tnt_id_cluster;

/// The request members that the short form takes: as the line names them, and as the API does.
pub(super) const SHORT: [(&str, &str); 5] = [
    ("visitor", "id"),
    ("context", "context"),
    ("property", "property"),
    ("environmentId", "environmentId"),
    ("experienceCloud", "experienceCloud"),
];

/// So many members are filled in where a notification leaves them out: `id`, `timestamp` and `impressionId`.
const FILLED_IN: usize = 3;

/// A request that follows every rule.
pub(super) struct Request<'a> {
    /// Its members but for `notifications` and `requestId`.
    members: Checked<'a>,
    /// How the line names the visitor: `request.id` or `visitor`.
    visitor: &'static str,
    /// Its notifications, each as its members.
    pub(super) notifications: Vec<Checked<'a>>,
}

/// What the events of a submission share, finished.
pub(super) struct Shared {
    pub(super) members: String,
    pub(super) token: Option<String>,
    pub(super) environment: Option<i64>,
    pub(super) cluster: Option<Cluster>,
    pub(super) has_impression: bool,
    pub(super) visitor: Option<Visitor>,
}

/// Reads the member `request` of a line.
pub(super) fn long(raw: &RawValue) -> Result<Request<'_>, Fault> {
    let path = Path::Root.key("request");
    let mut checked = members(REQUEST, raw, &path)?;
    for refused in ["execute", "prefetch"] {
        if checked.iter().any(|(name, _)| name == refused) {
            return Err(path.key(refused).invalid("is refused: its answer would reach nobody"));
        }
    }
    let here = path.key("notifications");
    let all = object(raw, &path)?;
    let list = all.0.iter().find(|(name, value)| name == "notifications" && !is_null(value));
    let Some((_, list)) = list else { return Err(here.invalid("is required")) };
    let elements = array(list, &here)?;
    if elements.is_empty() || elements.len() > MAX_NOTIFICATIONS {
        return Err(
            here.invalid(format!("must have 1 to {MAX_NOTIFICATIONS} elements, has {}", elements.len()))
        );
    }
    let mut notifications = Vec::with_capacity(elements.len());
    for (position, element) in elements.into_iter().enumerate() {
        let one = here.index(position);
        notifications.push(exclusive(members(NOTIFICATION, element, &one)?, &one)?);
    }
    checked.retain(|(name, _)| name != "notifications" && name != "requestId");
    let bytes = joined_bytes(&checked);
    if bytes > MAX_MEMBERS_BYTES {
        let message =
            format!("has {bytes} bytes beside its notifications, at most {MAX_MEMBERS_BYTES} are taken");
        return Err(path.invalid(message));
    }
    Ok(Request { members: checked, visitor: "request.id", notifications })
}

/// Reads a line whose top level is itself one notification.
pub(super) fn short<'a>(rest: &Rest<'a>) -> Result<Request<'a>, Fault> {
    let mut shared: Checked<'a> = Vec::with_capacity(SHORT.len());
    let mut notification: Checked<'a> = Vec::with_capacity(rest.len() + FILLED_IN);
    for (name, raw) in rest.iter().filter(|(name, _)| *name != "request") {
        let path = Path::Root.key(name);
        if let Some((_, api)) = SHORT.iter().find(|(written, _)| written == name) {
            let rule = REQUEST.iter().find(|member| member.name == *api).map(|member| &member.rule);
            let Some(rule) = rule else { return Err(unknown(name)) };
            if !is_null(raw) {
                shared.push((Cow::Borrowed(*api), check(rule, raw, &path)?));
            }
        } else if let Some(member) = NOTIFICATION.iter().find(|member| member.name == *name) {
            if !is_null(raw) {
                notification.push((Cow::Borrowed(*name), check(&member.rule, raw, &path)?));
            }
        } else {
            return Err(unknown(name));
        }
    }
    if notification.is_empty() {
        return Err(Path::Root.key("request").invalid("is required"));
    }
    if !notification.iter().any(|(name, _)| name == "type") {
        return Err(Path::Root.key("type").invalid("is required"));
    }
    let bytes: usize = shared.iter().map(|(name, value)| name.len() + value.len()).sum();
    if bytes > MAX_MEMBERS_BYTES {
        let message =
            format!("the request members have {bytes} bytes, at most {MAX_MEMBERS_BYTES} are taken");
        return Err(Path::Root.invalid(message));
    }
    let notifications = vec![exclusive(notification, &Path::Root)?];
    Ok(Request { members: shared, visitor: "visitor", notifications })
}

/// `mbox` and `view` exclude each other.
fn exclusive<'a>(notification: Checked<'a>, path: &Path<'_>) -> Result<Checked<'a>, Fault> {
    let has = |name: &str| notification.iter().any(|(found, _)| found == name);
    if has("mbox") && has("view") {
        return Err(path.key("view").invalid("excludes mbox: a notification is about one of them"));
    }
    Ok(notification)
}

impl Request<'_> {
    /// Joins what the request gives with the options and the defaults; `fresh` is the supplemental data id of one that
    /// brings none.
    pub(super) fn shared(
        &self,
        customer_ids: &[String],
        device: Option<&str>,
        defaults: &Defaults,
        fresh: Option<&str>,
    ) -> Result<Shared, Fault> {
        let mut all: Checked<'_> = lent(&self.members);
        let (visitor, tnt_id) = self.joined_visitor(get(&all, "id"), customer_ids, device)?;
        set(&mut all, "id", visitor);
        let joined = context(get(&all, "context"), defaults)?;
        set(&mut all, "context", Some(joined));
        let joined = experience_cloud(get(&all, "experienceCloud"), defaults, fresh)?;
        set(&mut all, "experienceCloud", joined);
        let (property, token) = property(get(&all, "property"), defaults)?;
        set(&mut all, "property", property);
        let given = get(&all, "environmentId").and_then(|value| value.parse().ok());
        let environment = given.or(defaults.environment_id);
        set(&mut all, "environmentId", environment.map(|id| id.to_string()));
        Ok(Shared {
            has_impression: get(&all, "impressionId").is_some(),
            visitor: tnt_id.is_none().then(|| hash::visitor(get(&all, "id"))),
            members: unbraced(&all),
            token,
            environment,
            cluster: tnt_id.as_deref().and_then(tnt_id_cluster),
        })
    }

    /// The `id` object with the option's customer ids before its own and the cookie's device id, and its `tntId`.
    fn joined_visitor(
        &self,
        given: Option<&str>,
        customer_ids: &[String],
        device: Option<&str>,
    ) -> Result<(Option<String>, Option<String>), Fault> {
        let mut own = split(given)?;
        if get(&own, "tntId").is_none()
            && let Some(device) = device
            && crate::wire::response::is_tnt_id(device)
        {
            set(&mut own, "tntId", Some(serde_json::Value::from(device).to_string()));
        }
        if !customer_ids.is_empty() {
            let listed = get(&own, "customerIds")
                .map(|list| list.trim().trim_start_matches('[').trim_end_matches(']'));
            let rest = listed.map(str::trim).filter(|rest| !rest.is_empty()).map(str::to_owned);
            let joined: Vec<String> = customer_ids.iter().cloned().chain(rest).collect();
            let joined = format!("[{}]", joined.join(","));
            let count: Vec<&RawValue> = serde_json::from_str(&joined)
                .map_err(|error| Path::Root.key("customer_ids").invalid(error.to_string()))?;
            if count.len() > 50 {
                let message = format!(
                    "makes {} customer ids with those of {}, at most 50 are taken",
                    count.len(),
                    self.visitor
                );
                return Err(Path::Root.key("customer_ids").invalid(message));
            }
            set(&mut own, "customerIds", Some(joined));
        }
        let tnt_id = get(&own, "tntId").and_then(|id| serde_json::from_str(id).ok());
        let changed = given.is_some() || !own.is_empty();
        Ok((changed.then(|| braced(&own)), tnt_id))
    }
}

/// The members as borrowed ones.
fn lent<'m>(members: &'m Checked<'_>) -> Checked<'m> {
    let lent = |(name, value): &'m (Cow<'_, str>, Cow<'_, str>)| {
        (Cow::Borrowed(name.as_ref()), Cow::Borrowed(value.as_ref()))
    };
    members.iter().map(lent).collect()
}

fn get<'m>(members: &'m Checked<'_>, name: &str) -> Option<&'m str> {
    members.iter().find(|(found, _)| found == name).map(|(_, value)| value.as_ref())
}

/// Sets a member in its place, or behind the others; `None` changes nothing.
fn set(members: &mut Checked<'_>, name: &'static str, value: Option<String>) {
    let Some(value) = value else { return };
    match members.iter_mut().find(|(found, _)| found == name) {
        Some((_, old)) => *old = Cow::Owned(value),
        None => members.push((Cow::Borrowed(name), Cow::Owned(value))),
    }
}

/// The members of an object that was checked before; none where it is absent.
fn split(given: Option<&str>) -> Result<Checked<'_>, Fault> {
    let Some(given) = given else { return Ok(Vec::new()) };
    let members = json::members(given, &Path::Root)?.0;
    Ok(members.into_iter().map(|(name, value)| (name, Cow::Borrowed(value.get()))).collect())
}

fn context(given: Option<&str>, defaults: &Defaults) -> Result<String, Fault> {
    let mut own = split(given)?;
    if defaults.channel && get(&own, "channel").is_none() {
        set(&mut own, "channel", Some("\"web\"".to_owned()));
    }
    if get(&own, "timeOffsetInMinutes").is_none() {
        set(&mut own, "timeOffsetInMinutes", defaults.time_offset.map(|minutes| minutes.to_string()));
    }
    Ok(braced(&own))
}

fn experience_cloud(
    given: Option<&str>,
    defaults: &Defaults,
    fresh: Option<&str>,
) -> Result<Option<String>, Fault> {
    if !defaults.analytics_logging && fresh.is_none() {
        return Ok(None);
    }
    let mut own = split(given)?;
    let mut analytics = split(get(&own, "analytics"))?;
    if defaults.analytics_logging && get(&analytics, "logging").is_none() {
        set(&mut analytics, "logging", Some("\"server_side\"".to_owned()));
    }
    if get(&analytics, "supplementalDataId").is_none() {
        set(&mut analytics, "supplementalDataId", fresh.map(|id| format!("\"{id}\"")));
    }
    let analytics = braced(&analytics);
    set(&mut own, "analytics", Some(analytics));
    Ok(Some(braced(&own)))
}

/// The property with the configured token where it brings none, and the token it is sent under.
fn property(given: Option<&str>, defaults: &Defaults) -> Result<(Option<String>, Option<String>), Fault> {
    let mut own = split(given)?;
    let token: Option<String> = get(&own, "token").and_then(|token| serde_json::from_str(token).ok());
    if token.is_some() {
        return Ok((None, token));
    }
    let Some(configured) = &defaults.property_token else { return Ok((None, None)) };
    set(&mut own, "token", Some(serde_json::Value::from(configured.as_str()).to_string()));
    Ok((Some(braced(&own)), Some(configured.clone())))
}
