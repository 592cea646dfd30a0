//! Hashes by which a test compares what it submitted with what arrived, and the visitor ids that are made up.

use std::collections::BTreeMap;

use serde_json::value::RawValue;
use serde_json::{Map, Value};
use uuid::Builder;
use xxhash_rust::xxh3::{Xxh3, xxh3_64, xxh3_128_with_seed};

/// A 64-bit hash that stands for an impression id or for a request's shared members.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mark(pub u64);

impl Mark {
    /// The mark of an impression id.
    #[must_use]
    pub fn of_impression(id: &str) -> Self {
        Self(xxh3_64(id.as_bytes()))
    }

    /// The mark of a `DeliveryRequest`: of all but `requestId` and `notifications`, whatever the order of the
    /// members. An empty `id` counts as none. `None` where `json` is no JSON object.
    #[must_use]
    pub fn of_request(json: &str) -> Option<Self> {
        let members: BTreeMap<String, &RawValue> = serde_json::from_str(json).ok()?;
        let id = members.get("id").and_then(|id| serde_json::from_str(id.get()).ok());
        Some(Self::of_members(&members, &id.unwrap_or_default()))
    }

    /// The mark of a request's members with `id` in the place of theirs.
    pub(super) fn of_members(members: &BTreeMap<String, &RawValue>, id: &Map<String, Value>) -> Self {
        let mut hash = Xxh3::new();
        let mut add = |text: &str| {
            // The length keeps two lists of texts apart whose bytes are the same when joined.
            hash.update(&u64::try_from(text.len()).unwrap_or(u64::MAX).to_be_bytes());
            hash.update(text.as_bytes());
        };
        for (name, value) in members {
            if !["id", "requestId", "notifications"].contains(&name.as_str()) {
                add(name);
                // A number beyond f64 has no `Value`; it is compared as it was written.
                match serde_json::from_str::<Value>(value.get()) {
                    Ok(value) => add(&value.to_string()),
                    Err(_) => add(value.get()),
                }
            }
        }
        if !id.is_empty() {
            add("id");
            add(&Value::Object(id.clone()).to_string());
        }
        Self(hash.digest())
    }
}

/// The number of the cluster that is a session's home.
pub(super) fn home(session: &str) -> u64 {
    10 + xxh3_64(session.as_bytes()) % 90
}

/// Who a request is about, once the sandbox knows it.
pub(super) struct Visitor {
    /// The request's `id`, with the `tntId` that it gave or that was made up.
    pub(super) answered: Map<String, Value>,
    /// The request's `id` without a `tntId` that the sandbox itself made up in an earlier answer: what was
    /// submitted.
    pub(super) submitted: Map<String, Value>,
}

/// Gives the visitor of a request a `tntId` if there is none.
///
/// What is made up depends on the session and the other ids alone, so that a later request that brings it
/// back is known without a memory of visitors.
pub(super) fn visitor(session: &str, id: Map<String, Value>, seed: u64) -> Visitor {
    let given = id.get("tntId").cloned();
    let mut others = id.clone();
    others.remove("tntId");
    let text = format!("{session} {}", Value::Object(others.clone()));
    let bits = xxh3_128_with_seed(text.as_bytes(), seed).to_be_bytes();
    let made_up =
        Value::from(format!("{}.{}_0", Builder::from_random_bytes(bits).into_uuid().simple(), home(session)));
    match given {
        Some(tnt_id) if tnt_id != made_up => Visitor { answered: id.clone(), submitted: id },
        _ => {
            let mut answered = others.clone();
            answered.insert("tntId".to_owned(), made_up);
            Visitor { answered, submitted: others }
        }
    }
}
