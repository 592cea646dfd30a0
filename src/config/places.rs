//! Where things lie by default: as the service manager says, else as the unit's instance is named.

use std::path::{Path, PathBuf};

use super::problem::Origin;
use super::reader::Setting;
use super::value::Value;

/// The folder of configurations where the service manager names none.
const CONFIGURATION: &str = "/etc/target-notifyd";

/// What decides where things lie.
pub(super) struct Places<'a> {
    /// The instance of the template unit.
    pub(super) instance: Option<&'a str>,
    /// The environment's variables.
    pub(super) environment: &'a [(String, String)],
}

impl Places<'_> {
    /// The configuration file.
    pub(super) fn file(&self) -> PathBuf {
        let folder = self.folder("CONFIGURATION_DIRECTORY").unwrap_or(Path::new(CONFIGURATION));
        folder.join(format!("{}.toml", self.instance.unwrap_or("config")))
    }

    /// The settings that stand in for the defaults; every other source wins over them.
    pub(super) fn settings(&self) -> Vec<Setting> {
        let mut settings = Vec::new();
        let mut set = |origin: Origin, key: &'static str, path: PathBuf| {
            settings.push(Setting {
                origin,
                key,
                value: Value::Untyped(path.to_string_lossy().into_owned()),
            });
        };
        if let Some(name) = self.instance {
            // As the template unit has them.
            set(Origin::Unset, "ingest.socket", format!("/run/target-notifyd-{name}.sock").into());
            set(Origin::Unset, "queue.path", format!("/var/lib/target-notifyd-{name}").into());
            set(Origin::Unset, "admin.socket", format!("/run/target-notifyd-{name}/admin.sock").into());
        }
        for (variable, key, file) in
            [("STATE_DIRECTORY", "queue.path", ""), ("RUNTIME_DIRECTORY", "admin.socket", "admin.sock")]
        {
            if let Some(folder) = self.folder(variable) {
                let path = if file.is_empty() { folder.to_owned() } else { folder.join(file) };
                set(Origin::Environment(variable.to_owned()), key, path);
            }
        }
        settings
    }

    /// The first folder that the service manager lists in `variable`.
    fn folder(&self, variable: &str) -> Option<&Path> {
        let (_, list) = self.environment.iter().find(|(name, _)| name == variable)?;
        list.split(':').next().filter(|first| !first.is_empty()).map(Path::new)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places(instance: Option<&str>, variables: &[(&str, &str)]) -> (PathBuf, Vec<(&'static str, Value)>) {
        let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        let environment: Vec<_> = variables.iter().map(owned).collect();
        let places = Places { instance, environment: &environment };
        let settings = places.settings().into_iter().map(|one| (one.key, one.value)).collect();
        (places.file(), settings)
    }

    fn text(text: &str) -> Value {
        Value::Untyped(text.to_owned())
    }

    #[test]
    fn an_instance_has_places_of_its_own() {
        let (file, settings) = places(Some("shop"), &[]);
        assert_eq!(file, Path::new("/etc/target-notifyd/shop.toml"));
        let expected = [
            ("ingest.socket", text("/run/target-notifyd-shop.sock")),
            ("queue.path", text("/var/lib/target-notifyd-shop")),
            ("admin.socket", text("/run/target-notifyd-shop/admin.sock")),
        ];
        assert_eq!(settings, expected);
    }

    #[test]
    fn the_service_managers_folders_win_and_the_first_of_a_list_counts() {
        let variables = [
            ("STATE_DIRECTORY", "/s/one:/s/two"),
            ("RUNTIME_DIRECTORY", "/r"),
            ("CONFIGURATION_DIRECTORY", "/c"),
        ];
        let (file, settings) = places(None, &variables);
        assert_eq!(file, Path::new("/c/config.toml"));
        assert_eq!(settings, [("queue.path", text("/s/one")), ("admin.socket", text("/r/admin.sock"))]);
        let (file, settings) = places(Some("shop"), &variables);
        assert_eq!(
            (file.as_path(), settings.last()),
            (Path::new("/c/shop.toml"), Some(&("admin.socket", text("/r/admin.sock"))))
        );
        assert_eq!(
            places(None, &[("STATE_DIRECTORY", "")]),
            ("/etc/target-notifyd/config.toml".into(), vec![])
        );
    }
}
