//! The account: whether it looks like one of Adobe's.

use super::report::Finding;
use crate::config::Config;

/// So many hex digits stand before the ending of an organisation's id.
const DIGITS: usize = 24;
const ENDING: &str = "@AdobeOrg";

/// An id of another form is sent as it is: whether there is such an organisation, Target alone knows.
pub(super) fn organization(config: &Config) -> Option<Finding> {
    let id = config.target.organization_id.as_deref()?;
    let digits = id.strip_suffix(ENDING).unwrap_or_default();
    let usual = digits.len() == DIGITS && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    (!usual).then(|| {
        let told =
            format!("\"{id}\" is not {DIGITS} hex digits and {ENDING}, as the ids of organisations are");
        Finding::warning("target.organization_id", told, "copy it from Adobe's Admin Console")
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Sources;

    #[test]
    fn an_id_of_another_form_is_told() {
        for (id, usual) in [
            ("0DD934B85278256B0A490D44@AdobeOrg", true),
            ("0dd934b85278256b0a490d44@AdobeOrg", true),
            ("0DD934B85278256B0A490D4@AdobeOrg", false),
            ("0DD934B85278256B0A490D4G@AdobeOrg", false),
            ("0DD934B85278256B0A490D44", false),
            ("0DD934B85278256B0A490D44@adobeorg", false),
        ] {
            let overrides = vec![format!("target.organization_id={id}")];
            let config = Config::load(&Sources { overrides, ..Sources::default() }).unwrap();
            assert_eq!(organization(&config).is_none(), usual, "{id}");
        }
    }
}
