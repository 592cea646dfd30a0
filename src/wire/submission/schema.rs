//! The rules of the Delivery API as tables, and the one walker that holds a value against them.
//!
//! The walker returns the value as finished JSON: the producer's own text, or, where a member that the tables name was
//! `null`, the same object without it. Members that the tables don't name pass untouched: the API grows.

use std::borrow::Cow;

use super::MAX_MEMBERS_BYTES;
use super::checked::{Value, braced, get};
use super::json::{self, Fault, Path, elements, text};
use super::tree::Json;
use crate::wire::response::is_tnt_id;

/// What a member's value must be.
pub(crate) enum Rule {
    /// Anything.
    Any,
    /// Anything without a name of [`MISSPELT`].
    Spelt,
    /// The context: the members of [`CONTEXT`], and others without a name of [`MISSPELT`].
    Context,
    /// A string of `min` to `max` UTF-16 units.
    Text { min: usize, max: usize },
    /// A string that is not blank, of at most so many UTF-16 units.
    NotBlank(usize),
    /// One of these strings.
    OneOf(&'static [&'static str]),
    /// A `tntId`.
    TntId,
    /// 16 hex digits, `-`, 16 more.
    SupplementalDataId,
    /// An integer literal of at least this.
    Integer { min: i64 },
    /// Milliseconds since 1970: an integer literal of at least 0.
    UnixMs,
    /// A number of at least 0.
    Amount,
    /// `true` or `false`.
    Bool,
    /// An object with these members.
    Object(&'static [Member]),
    /// An array of at most so many elements, none null, each by the rule.
    Array { max: usize, each: &'static Rule },
    /// `order.purchasedProductIds`: each at most 50, joined by commas at most 250.
    ProductIds,
    /// Free parameters; `page` also refuses the names that Target keeps for itself.
    Parameters { page: bool },
}

/// A member that the API documents.
pub(crate) struct Member {
    pub(crate) name: &'static str,
    pub(crate) rule: Rule,
    pub(crate) required: bool,
}

const fn may(name: &'static str, rule: Rule) -> Member {
    Member { name, rule, required: false }
}

const fn must(name: &'static str, rule: Rule) -> Member {
    Member { name, rule, required: true }
}

const LONG: usize = usize::MAX;
const MAX_PARAMETERS: usize = 50;
/// The most customer ids of a visitor.
pub(crate) const MAX_CUSTOMER_IDS: usize = 50;
/// Names of the API that the tables lack, within the context, `qaMode` and `preview`: in the style of the Python SDK's models,
/// and as they are.
const MISSPELT: [(&str, &str); 17] = [
    ("mobile_platform", "mobilePlatform"),
    ("cross_domain", "crossDomain"),
    ("device_name", "deviceName"),
    ("device_type", "deviceType"),
    ("platform_type", "platformType"),
    ("color_depth", "colorDepth"),
    ("web_gl_renderer", "webGLRenderer"),
    ("ip_address", "ipAddress"),
    ("country_code", "countryCode"),
    ("state_code", "stateCode"),
    ("referring_url", "referringUrl"),
    ("listed_activities_only", "listedActivitiesOnly"),
    ("evaluate_as_true_audience_ids", "evaluateAsTrueAudienceIds"),
    ("evaluate_as_false_audience_ids", "evaluateAsFalseAudienceIds"),
    ("preview_indexes", "previewIndexes"),
    ("activity_index", "activityIndex"),
    ("experience_index", "experienceIndex"),
];
const RESERVED_PARAMETERS: [&str; 3] = ["orderId", "orderTotal", "productPurchasedIds"];

pub(crate) static NOTIFICATION: &[Member] = &[
    may("id", Rule::Text { min: 0, max: 200 }),
    must("type", Rule::OneOf(&["display", "click"])),
    may("timestamp", Rule::UnixMs),
    may("impressionId", Rule::Text { min: 0, max: 128 }),
    may("tokens", Rule::Array { max: LONG, each: &Rule::Text { min: 0, max: LONG } }),
    may(
        "mbox",
        Rule::Object(&[must("name", Rule::NotBlank(250)), may("state", Rule::Text { min: 0, max: LONG })]),
    ),
    may(
        "view",
        Rule::Object(&[
            may("name", Rule::Text { min: 0, max: 128 }),
            may("key", Rule::Text { min: 0, max: 512 }),
            may("state", Rule::Text { min: 0, max: LONG }),
        ]),
    ),
    may("pageLoad", Rule::Object(&[may("state", Rule::Text { min: 0, max: LONG })])),
    may(
        "address",
        Rule::Object(&[
            may("url", Rule::Text { min: 0, max: LONG }),
            may("referringUrl", Rule::Text { min: 0, max: LONG }),
        ]),
    ),
    may("parameters", Rule::Parameters { page: true }),
    may("profileParameters", Rule::Parameters { page: false }),
    may(
        "order",
        Rule::Object(&[
            may("id", Rule::Text { min: 0, max: 250 }),
            may("total", Rule::Amount),
            may("purchasedProductIds", Rule::ProductIds),
        ]),
    ),
    may(
        "product",
        Rule::Object(&[
            may("id", Rule::Text { min: 1, max: 128 }),
            may("categoryId", Rule::Text { min: 1, max: 128 }),
        ]),
    ),
];

pub(crate) static CUSTOMER_ID: Rule = Rule::Object(&[
    must("id", Rule::Text { min: 0, max: 128 }),
    must("integrationCode", Rule::Text { min: 0, max: 50 }),
    must("authenticatedState", Rule::OneOf(&["unknown", "authenticated", "logged_out"])),
]);

pub(crate) static VISITOR: &[Member] = &[
    may("tntId", Rule::TntId),
    may("thirdPartyId", Rule::Text { min: 0, max: 128 }),
    may("marketingCloudVisitorId", Rule::Text { min: 0, max: 128 }),
    may("customerIds", Rule::Array { max: MAX_CUSTOMER_IDS, each: &CUSTOMER_ID }),
];

pub(crate) static CONTEXT: &[Member] = &[
    may("channel", Rule::OneOf(&["web", "mobile"])),
    may("timeOffsetInMinutes", Rule::Integer { min: i64::MIN }),
    may("beacon", Rule::Bool),
    may("userAgent", Rule::Text { min: 0, max: LONG }),
];

pub(crate) static ANALYTICS: &[Member] = &[
    may("logging", Rule::OneOf(&["server_side", "client_side"])),
    may("supplementalDataId", Rule::SupplementalDataId),
    may("trackingServer", Rule::Text { min: 0, max: LONG }),
    may("trackingServerSecure", Rule::Text { min: 0, max: LONG }),
];

pub(crate) static EXPERIENCE_CLOUD: &[Member] = &[
    may("analytics", Rule::Object(ANALYTICS)),
    may(
        "audienceManager",
        Rule::Object(&[
            may("locationHint", Rule::Integer { min: 1 }),
            may("blob", Rule::Text { min: 1, max: 1024 }),
        ]),
    ),
];

pub(crate) static PROPERTY: &[Member] = &[may("token", Rule::Text { min: 0, max: LONG })];

pub(crate) static REQUEST: &[Member] = &[
    may("requestId", Rule::Text { min: 0, max: 128 }),
    may("impressionId", Rule::Text { min: 0, max: 128 }),
    may("id", Rule::Object(VISITOR)),
    may("environmentId", Rule::Integer { min: i64::MIN }),
    may("property", Rule::Object(PROPERTY)),
    may("context", Rule::Context),
    may("experienceCloud", Rule::Object(EXPERIENCE_CLOUD)),
    may("trace", Rule::Object(&[must("authorizationToken", Rule::Text { min: 0, max: LONG })])),
    may("qaMode", Rule::Spelt),
    may("preview", Rule::Spelt),
    may("notifications", Rule::Any),
    may("execute", Rule::Any),
    may("prefetch", Rule::Any),
    may("telemetry", Rule::Any),
];

/// Checks the members of `json` against `table`.
pub(crate) fn object<'a>(table: &[Member], json: Json<'a>, path: &Path<'_>) -> Result<Value<'a>, Fault> {
    let found = json::object(json, path)?;
    let mut members = Vec::with_capacity(found.0.len());
    // Whether it has to be put together anew: nulls were left out, or values rewritten.
    let mut changed = false;
    for (name, value) in found.0 {
        match table.iter().find(|member| member.name == name) {
            Some(_) if value.is_null() => changed = true,
            Some(member) => {
                let finished = check(&member.rule, value, &path.key(&name))?;
                changed |= matches!(finished.json, Cow::Owned(_));
                members.push((name, finished));
            }
            None => {
                if let Some(right) = right_spelling(table, &name) {
                    return Err(misspelt(&path.key(&name), right));
                }
                members.push((name, value.get().into()));
            }
        }
    }
    for member in table.iter().filter(|member| member.required) {
        if get(&members, member.name).is_none() {
            return Err(path.key(member.name).invalid("is required"));
        }
    }
    let json = if changed { Cow::Owned(braced(&members)) } else { Cow::Borrowed(json.get()) };
    Ok(Value { json, members })
}

/// The documented name that `name` means in the style of the Python SDK's models, if it is such a spelling.
pub(crate) fn right_spelling(table: &[Member], name: &str) -> Option<&'static str> {
    // All such spellings have a '_': most names are spared being held against every other.
    if !name.contains('_') {
        return None;
    }
    let snake = |text: &str| {
        text.chars().fold(String::new(), |mut out, character| {
            if character.is_ascii_uppercase() {
                out.push('_');
            }
            out.push(character.to_ascii_lowercase());
            out
        })
    };
    table.iter().map(|member| member.name).find(|right| *right != name && snake(right) == name)
}

fn misspelt(path: &Path<'_>, right: &str) -> Fault {
    path.invalid(format!("is spelt '{right}' in the Delivery API"))
}

/// Looks for names of [`MISSPELT`] in a value that no table describes.
fn spelt(json: Json<'_>, path: &Path<'_>) -> Result<(), Fault> {
    let text = json.get();
    // All of them have a '_'. What is longer is refused for its length.
    if text.len() > MAX_MEMBERS_BYTES || memchr::memchr(b'_', text.as_bytes()).is_none() {
        return Ok(());
    }
    if let Some(mut elements) = json.elements().map(Iterator::enumerate) {
        return elements.try_for_each(|(at, one)| spelt(one, &path.index(at)));
    }
    // Elsewhere than in the tables a key may stand twice.
    json::loose(json).try_for_each(|(name, value)| {
        let here = path.key(&name);
        match MISSPELT.iter().find(|(python, _)| *python == name) {
            Some((_, right)) => Err(misspelt(&here, right)),
            None => spelt(value, &here),
        }
    })
}

/// Checks one value.
pub(crate) fn check<'a>(rule: &Rule, json: Json<'a>, path: &Path<'_>) -> Result<Value<'a>, Fault> {
    match rule {
        Rule::Any => {}
        Rule::Spelt => spelt(json, path)?,
        Rule::Context => {
            let context = object(CONTEXT, json, path)?;
            spelt(json, path)?;
            return Ok(context);
        }
        Rule::Text { min, max } => {
            length(&text(json, path)?, *min, *max, path)?;
        }
        Rule::NotBlank(max) => {
            let told = text(json, path)?;
            if told.trim().is_empty() {
                return Err(path.invalid("must not be blank"));
            }
            length(&told, 1, *max, path)?;
        }
        Rule::OneOf(allowed) => {
            if !allowed.contains(&text(json, path)?.as_ref()) {
                return Err(path.invalid(format!("must be one of: {}", allowed.join(", "))));
            }
        }
        Rule::TntId => {
            let told = text(json, path)?;
            length(&told, 1, 128, path)?;
            if !is_tnt_id(&told) {
                return Err(path.invalid(
                    "must have no control character and no '.' but the one before the location hint",
                ));
            }
        }
        Rule::SupplementalDataId => {
            let told = text(json, path)?;
            let hex = |half: &str| half.len() == 16 && half.bytes().all(|byte| byte.is_ascii_hexdigit());
            if !told.split_once('-').is_some_and(|(first, second)| hex(first) && hex(second)) {
                return Err(path.invalid("must be 16 hex digits, '-', and 16 more"));
            }
        }
        Rule::Integer { min } => {
            if !is_integer(json, *min) {
                let least = if *min == i64::MIN { String::new() } else { format!(" of at least {min}") };
                return Err(path.invalid(format!("must be an integer{least} within 64 bits")));
            }
        }
        Rule::UnixMs => {
            if !is_integer(json, 0) {
                return Err(path.invalid(
                    "must be an integer of at least 0 within 64 bits, in ms since 1970, such as 1796034187519",
                ));
            }
        }
        Rule::Amount => match json.get().parse::<f64>() {
            Ok(f64::INFINITY) => return Err(path.invalid("is too large: no number of 64 bits holds it")),
            Ok(number) if number >= 0.0 => {}
            _ => return Err(path.invalid("must be a number of at least 0")),
        },
        Rule::Bool => {
            if !matches!(json.get(), "true" | "false") {
                return Err(path.invalid("must be true or false"));
            }
        }
        Rule::Object(table) => return object(table, json, path),
        Rule::Array { max, each } => return list(json, *max, each, path),
        Rule::ProductIds => product_ids(json, path)?,
        Rule::Parameters { page } => parameters(json, *page, path)?,
    }
    Ok(json.get().into())
}

fn is_integer(json: Json<'_>, min: i64) -> bool {
    json.get().parse::<i64>().is_ok_and(|number| number >= min)
}

fn list<'a>(json: Json<'a>, max: usize, each: &Rule, path: &Path<'_>) -> Result<Value<'a>, Fault> {
    let elements = elements(json, path)?;
    let count = elements.clone().count();
    if count > max {
        return Err(path.invalid(format!("must have at most {max} elements")));
    }
    let mut finished = Vec::with_capacity(count);
    for (position, element) in elements.enumerate() {
        finished.push(check(each, element, &path.index(position))?.json);
    }
    let changed = finished.iter().any(|value| matches!(value, Cow::Owned(_)));
    Ok(if changed { format!("[{}]", finished.join(",")).into() } else { json.get().into() })
}

/// Whether `told` has `min` to `max` UTF-16 units, as Adobe's servers count.
pub(crate) fn length(told: &str, min: usize, max: usize, path: &Path<'_>) -> Result<(), Fault> {
    // A text has no more UTF-16 units than bytes.
    if told.len() <= max && (min == 0 || min == 1 && !told.is_empty()) {
        return Ok(());
    }
    let units = told.encode_utf16().count();
    if units < min {
        return Err(path.invalid(if min == 1 {
            "must not be empty".into()
        } else {
            format!("must have at least {min} characters")
        }));
    }
    if units > max {
        return Err(path.invalid(format!("must have at most {max} characters, has {units}")));
    }
    Ok(())
}

fn product_ids(json: Json<'_>, path: &Path<'_>) -> Result<(), Fault> {
    let mut joined = 0_usize;
    for (position, element) in elements(json, path)?.enumerate() {
        let here = path.index(position);
        let told = text(element, &here)?;
        length(&told, 0, 50, &here)?;
        joined += told.encode_utf16().count() + usize::from(position > 0);
    }
    if joined > 250 {
        return Err(path.invalid("must have at most 250 characters when joined by commas"));
    }
    Ok(())
}

fn parameters(json: Json<'_>, page: bool, path: &Path<'_>) -> Result<(), Fault> {
    let found = json::object(json, path)?;
    if found.0.len() > MAX_PARAMETERS {
        return Err(path.invalid(format!("must have at most {MAX_PARAMETERS} members")));
    }
    for (name, value) in &found.0 {
        let here = path.key(name);
        if name.trim().is_empty() {
            return Err(here.invalid("a parameter's name must not be blank"));
        }
        length(name, 1, 128, &here)?;
        if page && name.starts_with("profile") {
            return Err(
                here.invalid("a parameter's name must not start with 'profile'; use profileParameters")
            );
        }
        if page && RESERVED_PARAMETERS.contains(&name.as_ref()) {
            return Err(here.invalid("is kept by Target for itself; use order"));
        }
        length(&text(*value, &here)?, 0, 5_000, &here)?;
    }
    Ok(())
}
