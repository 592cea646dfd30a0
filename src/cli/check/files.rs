//! The files that the configuration names.

use super::report::Finding;
use crate::config::Config;

/// How a certificate begins in a PEM file.
const CERTIFICATE: &str = "-----BEGIN CERTIFICATE-----";

/// What of them can be read. One that cannot is a problem of the configuration, and told there.
pub(super) fn findings(config: &Config) -> Vec<Finding> {
    let mut findings = Vec::new();
    if let Some(path) = &config.target.ca_file
        && let Ok(text) = std::fs::read_to_string(path)
    {
        let (key, shown) = ("target.ca_file", path.display());
        findings.push(match text.matches(CERTIFICATE).count() {
            0 => Finding::failed(key, format!("{shown} holds no certificate"), "give it certificates as PEM"),
            count => Finding::ok(key, format!("{shown} adds {count} to the trusted certificates")),
        });
    }
    if let Some(path) = &config.target.property_token_file
        && config.target.property_token.is_some()
    {
        findings.push(Finding::ok("target.property_token_file", format!("{} holds a token", path.display())));
    }
    findings
}
