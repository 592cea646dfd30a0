//! What is in force: every key with its value as it was given, and where that comes from. Secrets are not shown.

use super::problem::Origin;
use super::sections::keys;
use super::sources::Sources;
use super::value::Value;

/// The variables that name a proxy where `target.proxy` does not, the first that is set counting.
const PROXY_VARIABLES: [&str; 4] = ["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"];
/// What stands for a secret.
const HIDDEN: &str = "(hidden)";

/// A key as it is in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InForce {
    /// `section.name`.
    pub key: &'static str,
    /// Its value as a TOML literal, or what stands for a secret.
    pub value: String,
    /// Where it comes from; [`Origin::Unset`] is the default.
    pub origin: Origin,
}

impl Sources {
    /// Every key, in the order of the documentation. A wrong value is there as it was given.
    #[must_use]
    pub fn in_force(&self) -> Vec<InForce> {
        let settings = self.settings().settings;
        let given = |key: &str| settings.iter().rev().find(|one| one.key == key);
        let shown = |key: &super::reader::Key| {
            let (value, origin) = match given(key.full) {
                Some(setting) => (setting.value.literal(), setting.origin.clone()),
                None => (key.default.to_owned(), Origin::Unset),
            };
            InForce { key: key.full, value, origin }
        };
        let mut all: Vec<InForce> = keys().map(shown).collect();
        for one in &mut all {
            match one.key {
                // As the whole configuration decides it.
                "target.edge_endpoint" if one.origin == Origin::Unset => {
                    if let Some(endpoint) = given("target.endpoint") {
                        (one.value, one.origin) =
                            (Value::Text(String::new()).literal(), endpoint.origin.clone());
                    }
                }
                "target.property_token" if one.value != "\"\"" => HIDDEN.clone_into(&mut one.value),
                "target.property_token" => {
                    let file = given("target.property_token_file").map(|setting| setting.origin.clone());
                    if let Some(origin) = file.or_else(|| self.credential()) {
                        (one.value, one.origin) = (HIDDEN.to_owned(), origin);
                    }
                }
                "target.proxy" => {
                    if one.value == "\"\""
                        && let Some((name, value)) = self.environment_proxy()
                    {
                        let value = Value::Text(value.to_owned()).literal();
                        (one.value, one.origin) = (value, Origin::Environment(name.to_owned()));
                    }
                    one.value = without_user(&one.value);
                }
                _ => {}
            }
        }
        all
    }

    /// The proxy that the environment names, and by which variable.
    #[must_use]
    pub fn environment_proxy(&self) -> Option<(&str, &str)> {
        PROXY_VARIABLES.iter().find_map(|name| {
            let found = self.environment.iter().find(|(one, value)| one == name && !value.is_empty());
            found.map(|(name, value)| (name.as_str(), value.as_str()))
        })
    }

    fn credential(&self) -> Option<Origin> {
        super::token::credential(&self.environment)
            .filter(|path| path.exists())
            .map(|_| Origin::Environment(super::token::CREDENTIALS_DIRECTORY.to_owned()))
    }
}

/// A URL without the user and password that it may hold.
fn without_user(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else { return url.to_owned() };
    match rest.rsplit_once('@') {
        Some((_, host)) => format!("{scheme}://{HIDDEN}@{host}"),
        None => url.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(sources: &Sources, key: &str) -> (String, String) {
        let all = sources.in_force();
        let one = all.iter().find(|one| one.key == key).unwrap();
        (one.value.clone(), one.origin.to_string())
    }

    #[test]
    fn every_key_has_the_value_in_force_and_its_place_and_no_secret_is_shown() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("config.toml");
        std::fs::write(
            &file,
            "[target]\nendpoint = \"http://localhost:1\"\nproperty_token = \"s3cret\"\n[batch]\nlinger = \"1s\"\n",
        )
        .unwrap();
        let owned = |(name, value): (&str, &str)| (name.to_owned(), value.to_owned());
        let environment = [
            ("TARGET_NOTIFYD_BATCH__MAX_EVENTS", "7"),
            ("TARGET_NOTIFYD_BATCH__LINGER", "2s"),
            ("HTTPS_PROXY", "http://me:s3cret@proxy:3128"),
        ];
        let sources = Sources {
            file,
            environment: environment.into_iter().map(owned).collect(),
            overrides: vec!["batch.linger=3s".to_owned()],
            ..Sources::default()
        };
        let all = sources.in_force();
        assert_eq!(all.len(), keys().count());
        assert!(!format!("{all:?}").contains("s3cret"), "{all:?}");
        for (key, value, origin) in [
            ("batch.linger", "\"3s\"", "-o"),
            ("batch.max_events", "7", "TARGET_NOTIFYD_BATCH__MAX_EVENTS"),
            ("batch.max_bytes", "\"512KiB\"", "not set"),
            ("target.property_token", HIDDEN, "config.toml:3"),
            ("target.edge_endpoint", "\"\"", "config.toml:2"),
            ("target.proxy", "\"http://(hidden)@proxy:3128\"", "HTTPS_PROXY"),
        ] {
            let (found, from) = shown(&sources, key);
            assert!(found == value && from.ends_with(origin), "{key}: {found} {from}");
        }
    }
}
