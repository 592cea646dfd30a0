//! The files that the configuration names.

use super::report::Finding;
use crate::config::Config;
use crate::delivery::{GIVE_PEM, Transport, TransportError, authorities};

/// What a daemon with this `transport` would not trust of the system's certificates.
pub(super) fn unread_authorities(transport: &Transport) -> Option<Finding> {
    let act =
        "mend what it names, or let this user read it; an authority of your own may go into target.ca_file";
    Some(Finding::warning("target.ca_file", transport.unread_authorities()?, act))
}

/// What of them can be read. One that cannot is a problem of the configuration, and told there.
pub(super) fn findings(config: &Config) -> Vec<Finding> {
    let mut findings = Vec::new();
    if let Some(path) = &config.target.ca_file {
        let (key, shown) = ("target.ca_file", path.display());
        match authorities(path) {
            Ok((count, system)) => {
                let told =
                    format!("{shown} adds {count} to the {system} certificates that the system trusts");
                findings.push(Finding::ok(key, told));
            }
            Err(TransportError::Certificates { what, .. }) => {
                findings.push(Finding::failed(key, format!("{shown} {what}"), GIVE_PEM));
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
