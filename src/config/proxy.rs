//! The proxy that the environment names where `target.proxy` does not.

use crate::delivery::Proxy;

/// The variables that name it, the first that is set counting. `HTTP_PROXY` is not among them: it is for clear text.
const NAMING: [&str; 4] = ["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"];
/// The variables that name the hosts that are reached without it.
const EXCEPTING: [&str; 2] = ["NO_PROXY", "no_proxy"];

/// The proxy that `environment` names.
pub(super) fn named(environment: &[(String, String)]) -> Option<Proxy> {
    let (variable, text) = first(environment, &NAMING)?;
    let except = first(environment, &EXCEPTING).map_or("", |(_, hosts)| hosts);
    Some(Proxy::environment(variable.to_owned(), text.to_owned(), except.to_owned()))
}

/// The first of `names` that is set, and not to nothing.
fn first<'e>(environment: &'e [(String, String)], names: &[&str]) -> Option<(&'e str, &'e str)> {
    names.iter().find_map(|name| {
        let found = environment.iter().find(|(one, value)| one == name && !value.is_empty());
        found.map(|(name, value)| (name.as_str(), value.as_str()))
    })
}
