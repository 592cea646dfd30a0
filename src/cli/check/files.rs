//! The files that the configuration names.

use super::report::Finding;
use crate::config::Config;
use crate::delivery::{TransportError, authorities};

/// What of them can be read. One that cannot is a problem of the configuration, and told there.
pub(super) fn findings(config: &Config) -> Vec<Finding> {
    let mut findings = Vec::new();
    if let Some(path) = &config.target.ca_file {
        let (key, shown, act) = ("target.ca_file", path.display(), "give it certificates as PEM");
        match authorities(path) {
            Ok(count) => {
                findings.push(Finding::ok(key, format!("{shown} adds {count} to the trusted certificates")));
            }
            Err(TransportError::NoCertificate(_)) => {
                findings.push(Finding::failed(key, format!("{shown} holds no certificate"), act));
            }
            Err(TransportError::BadCertificate { why, .. }) => {
                let told = format!("{shown} holds a certificate that cannot be used ({why})");
                findings.push(Finding::failed(key, told, act));
            }
            Err(_) => {}
        }
    }
    if let Some(path) = &config.target.property_token_file
        && config.target.property_token.is_some()
    {
        findings.push(Finding::ok("target.property_token_file", format!("{} holds a token", path.display())));
    }
    findings
}
