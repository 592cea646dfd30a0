//! The option fields of a line: everything beside the request, in both spellings.

use std::borrow::Cow;

use super::json::{Fault, Members, Path, loose, object, push_member, text};
use super::schema::{CUSTOMER_ID, MAX_CUSTOMER_IDS, check, length};
use super::tree::Json;
use crate::event::{Cluster, SessionId};
use crate::wire::cookie::Cookie;

/// The authenticated states by their number in the VisitorId form.
const STATES: [&str; 3] = ["unknown", "authenticated", "logged_out"];

/// What the option fields say.
#[derive(Debug, Default)]
pub(super) struct Options {
    pub(super) session: Option<SessionId>,
    pub(super) device: Option<String>,
    pub(super) hint: Option<Cluster>,
    pub(super) consumer_id: Option<String>,
    /// Finished JSON objects, in the order written.
    pub(super) customer_ids: Vec<String>,
    pub(super) reference: Option<String>,
    pub(super) receipt: bool,
}

/// The members of a line that are no options.
pub(super) type Rest<'a> = Vec<(&'a str, Json<'a>)>;

/// The line's `ref`, where it has a valid one.
pub(super) fn reference(line: Json<'_>) -> Option<String> {
    let (_, json) = loose(line).find(|(name, _)| name == "ref")?;
    read_reference(json, &Path::Root.key("ref")).ok()
}

fn read_reference(json: Json<'_>, path: &Path<'_>) -> Result<String, Fault> {
    let told = text(json, path)?;
    length(&told, 0, 128, path)?;
    Ok(told.into_owned())
}

impl Options {
    /// Reads the options of a line, and returns what else it holds.
    pub(super) fn read<'a>(top: &'a Members<'a>, now_unix_ms: u64) -> Result<(Self, Rest<'a>), Fault> {
        let mut options = Self::default();
        let mut rest = Vec::with_capacity(top.0.len());
        let mut cookie = Cookie::default();
        for (position, (name, json)) in top.0.iter().enumerate() {
            let Some(field) = field(name) else {
                rest.push((name.as_ref(), *json));
                continue;
            };
            if json.is_null() {
                continue;
            }
            let path = Path::Root.key(name);
            let is_same = |(before, json): &(Cow<'_, str>, Json<'_>)| {
                self::field(before) == Some(field) && !json.is_null()
            };
            if top.0.iter().take(position).any(is_same) {
                return Err(path.invalid(format!("is the second spelling of {field} in one line")));
            }
            match field {
                "session_id" => {
                    let id = SessionId::new(&text(*json, &path)?)
                        .map_err(|error| path.invalid(error.to_string()))?;
                    options.session = Some(id);
                }
                "target_cookie" => cookie = Cookie::parse(&text(*json, &path)?, now_unix_ms),
                "target_location_hint" => {
                    let hint = Cluster::parse(&text(*json, &path)?)
                        .ok_or_else(|| path.invalid("must be 1 to 4 digits"))?;
                    options.hint = Some(hint);
                }
                "consumer_id" => {
                    let told = text(*json, &path)?;
                    length(&told, 1, 128, &path)?;
                    options.consumer_id = Some(told.into_owned());
                }
                "customer_ids" => options.customer_ids = customer_ids(*json, &path)?,
                "ref" => options.reference = Some(read_reference(*json, &path)?),
                "receipt" => options.receipt = boolean(*json, &path)?,
                _ => rest.push((name.as_ref(), *json)),
            }
        }
        // The cookie's session wins over the option: it is what the visitor's browser holds.
        options.session = cookie.session.or(options.session);
        options.device = cookie.device;
        Ok((options, rest))
    }
}

/// The option field that `name` stands for, if it is one: each has a camelCase spelling too, where that differs.
fn field(name: &str) -> Option<&'static str> {
    Some(match name {
        "session_id" | "sessionId" => "session_id",
        "target_cookie" | "targetCookie" => "target_cookie",
        "target_location_hint" | "targetLocationHint" => "target_location_hint",
        "consumer_id" | "consumerId" => "consumer_id",
        "customer_ids" | "customerIds" => "customer_ids",
        "ref" => "ref",
        "receipt" => "receipt",
        // Known so that a `null` beside the short form counts as absent.
        "request" => "request",
        _ => return None,
    })
}

fn boolean(json: Json<'_>, path: &Path<'_>) -> Result<bool, Fault> {
    json.get().parse().map_err(|_| path.invalid("must be true or false"))
}

/// `customer_ids` in either form, as the API's objects.
fn customer_ids(json: Json<'_>, path: &Path<'_>) -> Result<Vec<String>, Fault> {
    // Before anything is made of them.
    let few = |count| match count > MAX_CUSTOMER_IDS {
        true => Err(path.invalid(format!("has {count} customer ids, at most {MAX_CUSTOMER_IDS} are taken"))),
        false => Ok(()),
    };
    if let Some(list) = json.elements() {
        few(list.clone().count())?;
        let one = |(i, one)| Ok(check(&CUSTOMER_ID, one, &path.index(i))?.json.into_owned());
        return list.enumerate().map(one).collect();
    }
    let Some(members) = json.members() else {
        return Err(path.invalid("must be an array of customer ids, or an object of ids by integration code"));
    };
    few(members.count())?;
    let by_code = object(json, path)?;
    by_code.0.iter().map(|(code, value)| visitor_form(code, *value, &path.key(code))).collect()
}

/// One entry of the VisitorId form: an id, or an object of an id and its state.
fn visitor_form(code: &str, json: Json<'_>, path: &Path<'_>) -> Result<String, Fault> {
    length(code, 0, 50, path)?;
    let mut state = STATES.first().copied().unwrap_or_default();
    let mut id = None;
    if json.get().starts_with('"') {
        let told = text(json, path)?;
        length(&told, 0, 128, path)?;
        id = Some(json.get());
    } else if !json.get().starts_with('{') {
        return Err(path.invalid("must be an id, which is a string, or an object of an id and its authState"));
    } else {
        for (name, value) in object(json, path)?.0.iter().filter(|(_, value)| !value.is_null()) {
            let here = path.key(name);
            match name.as_ref() {
                "id" => {
                    length(&text(*value, &here)?, 0, 128, &here)?;
                    id = Some(value.get());
                }
                "authState" => {
                    let number: Option<usize> = value.get().parse().ok();
                    state = number
                        .and_then(|number| STATES.get(number).copied())
                        .ok_or_else(|| here.invalid("must be 0, 1 or 2"))?;
                }
                _ => return Err(here.invalid("is no member of a customer id; known are id and authState")),
            }
        }
    }
    let id = id.ok_or_else(|| path.key("id").invalid("is required"))?;
    let mut out = String::from("{");
    push_member(&mut out, "id", id);
    push_member(&mut out, "integrationCode", &serde_json::Value::from(code).to_string());
    push_member(&mut out, "authenticatedState", &serde_json::Value::from(state).to_string());
    out.push('}');
    Ok(out)
}
