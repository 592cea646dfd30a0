//! What is in force: every key with its value as it was given, and where that comes from. Secrets are not shown.

use super::Config;
use super::problem::Origin;
use super::sections::keys;
use super::sources::Sources;
use super::url::{HIDDEN, without_user};
use super::value::Value;

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
                // None may be there, and a wrong value is shown, too.
                "target.endpoint" | "target.edge_endpoint" => one.value = hidden(&one.value),
                "target.property_token" if one.value != "\"\"" => HIDDEN.clone_into(&mut one.value),
                "target.property_token" => {
                    let file = given("target.property_token_file").map(|setting| setting.origin.clone());
                    if let Some(origin) = file.or_else(|| self.credential()) {
                        (one.value, one.origin) = (HIDDEN.to_owned(), origin);
                    }
                }
                "target.proxy" => {
                    if one.value == "\"\""
                        && let Some(proxy) = Config::despite(self).and_then(|config| config.proxy())
                        && let Some(variable) = proxy.variable()
                    {
                        let value = Value::Text(proxy.text().to_owned()).literal();
                        (one.value, one.origin) = (value, Origin::Environment(variable.to_owned()));
                    }
                    one.value = hidden(&one.value);
                }
                _ => {}
            }
        }
        all
    }

    fn credential(&self) -> Option<Origin> {
        super::token::credential(&self.environment)
            .filter(|path| path.exists())
            .map(|_| Origin::Environment(super::token::CREDENTIALS_DIRECTORY.to_owned()))
    }
}

/// The literal of a URL without the user and password that it may hold.
fn hidden(literal: &str) -> String {
    match literal.strip_prefix('"') {
        Some(rest) => format!("\"{}", without_user(rest)),
        None => without_user(literal),
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
            "[target]\nendpoint = \"https://localhost:1\"\nproperty_token = \"s3cret\"\n[batch]\nlinger = \"1s\"\n",
        )
        .unwrap();
        let owned = |(name, value): (&str, &str)| (name.to_owned(), value.to_owned());
        let environment = [
            ("TARGET_NOTIFYD_BATCH__MAX_EVENTS", "7"),
            ("TARGET_NOTIFYD_BATCH__LINGER", "2s"),
            ("HTTP_PROXY", "http://other:3128"),
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

    #[test]
    fn a_password_that_an_endpoint_may_not_have_is_not_shown() {
        let endpoint = "target.endpoint=https://me:s3cret@host".to_owned();
        let sources = Sources { overrides: vec![endpoint], ..Sources::default() };
        assert_eq!(shown(&sources, "target.endpoint").0, "\"https://(hidden)@host\"");
        let told = Config::load(&sources).unwrap_err().to_string();
        assert!(!told.contains("s3cret") && told.contains("is \"https://(hidden)@host\";"), "{told}");
        assert!(!told.contains("or empty"), "{told}");
        let long = format!("target.edge_endpoint=https://me:s3cret{}@host", "x".repeat(80));
        let sources = Sources { overrides: vec![long], ..Sources::default() };
        let told = Config::load(&sources).unwrap_err().to_string();
        assert!(!told.contains("s3cret") && told.contains("or empty"), "{told}");
    }

    #[test]
    fn the_environment_names_a_proxy_for_https_alone() {
        let hidden = "\"(hidden)@proxy:3128\"";
        for (variables, endpoint, value, origin) in [
            (
                &[("HTTPS_PROXY", ""), ("https_proxy", "a:1"), ("ALL_PROXY", "b:1")][..],
                "https://h",
                "\"a:1\"",
                "https_proxy",
            ),
            (&[("all_proxy", "me:s3cret@proxy:3128")], "https://h", hidden, "all_proxy"),
            (
                &[("HTTPS_PROXY", "a:1"), ("HTTP_PROXY", "b:1"), ("ALL_PROXY", "c:1")],
                "http://[::1]:1",
                "\"\"",
                "not set",
            ),
            (&[("HTTP_PROXY", "b:1"), ("http_proxy", "b:1")], "https://h", "\"\"", "not set"),
        ] {
            let sources = Sources {
                environment: variables
                    .iter()
                    .map(|(name, text)| ((*name).to_owned(), (*text).to_owned()))
                    .collect(),
                overrides: vec![format!("target.endpoint={endpoint}")],
                ..Sources::default()
            };
            assert_eq!(
                shown(&sources, "target.proxy"),
                (value.to_owned(), origin.to_owned()),
                "{variables:?}"
            );
        }
    }
}
