//! The request of a line: in the long form an object of its own, in the short form the line itself.

use std::borrow::Cow;

use super::checked::{Checked, FILLED_IN_BYTES, Value, filled, get, joined, joined_bytes, own, push_members};
use super::json::{self, Fault, Path, elements};
use super::options::Rest;
use super::schema::{self, MAX_CUSTOMER_IDS, NOTIFICATION, REQUEST, check, right_spelling};
use super::tree::{Json, Tree};
use super::{MAX_MEMBERS_BYTES, MAX_NOTIFICATIONS, unknown};
use crate::event::{Cluster, Owner, Visitor};
use crate::wire::defaults::Defaults;
use crate::wire::hash;
use crate::wire::response::{is_tnt_id, tnt_id_cluster};

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
    pub(super) owner: Owner,
    pub(super) cluster: Option<Cluster>,
    pub(super) has_impression: bool,
    pub(super) visitor: Option<Visitor>,
}

/// Reads the member `request` of a line.
pub(super) fn long(json: Json<'_>) -> Result<Request<'_>, Fault> {
    let path = Path::Root.key("request");
    let mut members = schema::object(REQUEST, json, &path)?.members;
    for refused in ["execute", "prefetch"] {
        if get(&members, refused).is_some() {
            return Err(path.key(refused).invalid("is refused: its answer would reach nobody"));
        }
    }
    let here = path.key("notifications");
    // Not those of `members`, which are checked text.
    let list = json::loose(json).find(|(name, list)| name == "notifications" && !list.is_null());
    let (_, list) = list.ok_or_else(|| here.invalid("is required"))?;
    let elements = elements(list, &here)?;
    let count = elements.clone().count();
    if count == 0 || count > MAX_NOTIFICATIONS {
        return Err(here.invalid(format!("must have 1 to {MAX_NOTIFICATIONS} elements, has {count}")));
    }
    let mut notifications = Vec::with_capacity(count);
    for (position, element) in elements.enumerate() {
        let one = here.index(position);
        notifications.push(exclusive(schema::object(NOTIFICATION, element, &one)?.members, &one)?);
    }
    members.retain(|(name, _)| name != "notifications" && name != "requestId");
    let bytes = joined_bytes(&members);
    if bytes > MAX_MEMBERS_BYTES {
        let message =
            format!("has {bytes} bytes beside its notifications, at most {MAX_MEMBERS_BYTES} are taken");
        return Err(path.invalid(message));
    }
    Ok(Request { members, visitor: "request.id", notifications })
}

/// Whether the short form has a member of that name.
pub(super) fn is_short(name: &str) -> bool {
    SHORT.iter().any(|(written, _)| *written == name) || NOTIFICATION.iter().any(|member| member.name == name)
}

/// Reads a line whose top level is itself one notification.
pub(super) fn short<'a>(rest: &Rest<'a>) -> Result<Request<'a>, Fault> {
    let mut shared: Checked<'a> = Vec::with_capacity(SHORT.len());
    let mut notification: Checked<'a> = Vec::with_capacity(rest.len() + FILLED_IN);
    for (name, json) in rest.iter().filter(|(name, _)| *name != "request") {
        let path = Path::Root.key(name);
        if let Some((_, api)) = SHORT.iter().find(|(written, _)| written == name) {
            let rule = REQUEST.iter().find(|member| member.name == *api).map(|member| &member.rule);
            let Some(rule) = rule else { return Err(unknown(name)) };
            if !json.is_null() {
                shared.push((Cow::Borrowed(*api), check(rule, *json, &path)?));
            }
        } else if let Some(member) = NOTIFICATION.iter().find(|member| member.name == *name) {
            if !json.is_null() {
                notification.push((Cow::Borrowed(*name), check(&member.rule, *json, &path)?));
            }
        } else {
            return Err(unknown_here(name));
        }
    }
    if notification.is_empty() {
        return Err(Path::Root.key("request").invalid("is required"));
    }
    if get(&notification, "type").is_none() {
        return Err(Path::Root.key("type").invalid("is required"));
    }
    let bytes = joined_bytes(&shared);
    if bytes > MAX_MEMBERS_BYTES {
        let message =
            format!("the request members have {bytes} bytes, at most {MAX_MEMBERS_BYTES} are taken");
        return Err(Path::Root.invalid(message));
    }
    let notifications = vec![exclusive(notification, &Path::Root)?];
    Ok(Request { members: shared, visitor: "visitor", notifications })
}

/// What the short form does not know, with the name of the API where it is written as in the Python SDK's models.
fn unknown_here(name: &str) -> Fault {
    let right = [NOTIFICATION, REQUEST].iter().find_map(|table| right_spelling(table, name));
    let Fault { code, path, mut message } = unknown(name);
    if let Some(right) = right.filter(|right| is_short(right)) {
        message.push_str(&format!("; the Delivery API spells it '{right}'"));
    }
    Fault { code, path, message }
}

/// `mbox` and `view` exclude each other.
fn exclusive<'a>(notification: Checked<'a>, path: &Path<'_>) -> Result<Checked<'a>, Fault> {
    if get(&notification, "mbox").is_some() && get(&notification, "view").is_some() {
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
        now_unix_ms: u64,
    ) -> Result<Shared, Fault> {
        let given = |name| get(&self.members, name);
        let (id, tnt_id) = self.visitor(customer_ids, device)?;
        let visitor = tnt_id.is_none().then(|| hash::visitor(id.as_deref()));
        let cloud = experience_cloud(given("experienceCloud"), defaults, fresh);
        let (property, token) = property(given("property"), defaults);
        let environment = given("environmentId").and_then(|id| id.json.parse().ok());
        let environment: Option<i64> = environment.or(defaults.environment_id);
        let set = [
            ("id", id.map(Cow::Owned)),
            ("context", Some(context(given("context"), defaults, now_unix_ms).into())),
            ("experienceCloud", cloud.map(Cow::Owned)),
            ("property", property.map(Cow::Owned)),
            ("environmentId", environment.map(|id| id.to_string().into())),
        ];
        let mut members = String::with_capacity(joined_bytes(&self.members) + FILLED_IN_BYTES);
        push_members(&mut members, &self.members, &set);
        Ok(Shared {
            members,
            owner: hash::owner(token.as_deref(), environment),
            cluster: tnt_id.as_deref().and_then(tnt_id_cluster),
            has_impression: given("impressionId").is_some(),
            visitor,
        })
    }

    /// The `id` object with the option's customer ids before its own and the cookie's device id, and its `tntId`.
    fn visitor<'v>(
        &'v self,
        customer_ids: &[String],
        device: Option<&'v str>,
    ) -> Result<(Option<String>, Option<Cow<'v, str>>), Fault> {
        let given = get(&self.members, "id");
        let tnt_id = get(own(given), "tntId").and_then(|id| json::unquoted(&id.json).ok());
        let device = device.filter(|device| tnt_id.is_none() && is_tnt_id(device));
        let customer_ids = self.customer_ids(get(own(given), "customerIds"), customer_ids)?;
        if given.is_none() && device.is_none() && customer_ids.is_none() {
            return Ok((None, None));
        }
        let set = [
            ("tntId", device.map(|device| serde_json::Value::from(device).to_string().into())),
            ("customerIds", customer_ids.map(Cow::Owned)),
        ];
        Ok((Some(joined(given, &set)), tnt_id.or(device.map(Cow::Borrowed))))
    }

    /// The option's customer ids before those that the visitor has; none where the option brings none.
    fn customer_ids(
        &self,
        own: Option<&Value<'_>>,
        customer_ids: &[String],
    ) -> Result<Option<String>, Fault> {
        if customer_ids.is_empty() {
            return Ok(None);
        }
        let own = own.map(|list| list.json.trim().trim_start_matches('[').trim_end_matches(']').trim());
        let own = own.filter(|own| !own.is_empty()).map(str::to_owned);
        let joined: Vec<String> = customer_ids.iter().cloned().chain(own).collect();
        let joined = format!("[{}]", joined.join(","));
        let path = Path::Root.key("customer_ids");
        let count = Tree::read(&joined).and_then(|tree| tree.root().elements().map(Iterator::count));
        // Neither list has more by itself, and what both make is an array.
        let count = count.unwrap_or_default();
        if count > MAX_CUSTOMER_IDS {
            let with = format!("makes {count} customer ids with those of {}", self.visitor);
            return Err(path.invalid(format!("{with}, at most {MAX_CUSTOMER_IDS} are taken")));
        }
        Ok(Some(joined))
    }
}

fn context(given: Option<&Value<'_>>, defaults: &Defaults, now_unix_ms: u64) -> String {
    let channel = defaults.channel.then_some("\"web\"".into());
    let offset = defaults.offset_minutes(now_unix_ms).map(|minutes| minutes.to_string().into());
    filled(given, [("channel", channel), ("timeOffsetInMinutes", offset)])
}

fn experience_cloud(given: Option<&Value<'_>>, defaults: &Defaults, fresh: Option<&str>) -> Option<String> {
    if !defaults.analytics_logging && fresh.is_none() {
        return None;
    }
    let logging = defaults.analytics_logging.then_some("\"server_side\"".into());
    let fresh = fresh.map(|id| format!("\"{id}\"").into());
    let analytics = get(own(given), "analytics");
    let analytics = filled(analytics, [("logging", logging), ("supplementalDataId", fresh)]);
    Some(joined(given, &[("analytics", Some(analytics.into()))]))
}

/// The property with the configured token where it brings none, and the token it is sent under.
fn property<'p>(
    given: Option<&'p Value<'_>>,
    defaults: &'p Defaults,
) -> (Option<String>, Option<Cow<'p, str>>) {
    let token = get(own(given), "token").and_then(|token| json::unquoted(&token.json).ok());
    if token.is_some() {
        return (None, token);
    }
    let Some(configured) = defaults.property_token.as_deref() else { return (None, None) };
    let token = serde_json::Value::from(configured).to_string();
    (Some(filled(given, [("token", Some(token.into()))])), Some(configured.into()))
}
