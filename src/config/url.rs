//! The form of URLs and addresses, as far as a configuration is checked without the HTTP client, which reads them
//! again for good; and what of one may be shown.

/// What stands for a secret.
pub(super) const HIDDEN: &str = "(hidden)";

/// Whether `text` is an http or https URL without user, query and fragment, and with no placeholder but `placeholder`.
pub(super) fn is_endpoint(text: &str, placeholder: &str) -> bool {
    let plain = text.replace(placeholder, "0");
    let Some(rest) = rest(&plain) else { return false };
    let (authority, _) = rest.split_once('/').unwrap_or((rest, ""));
    is_visible(&plain) && !plain.contains(['?', '#', '{', '}', '\\', '@']) && is_authority(authority)
}

/// Whether `text` is an http or https URL, perhaps with a user.
pub(super) fn is_proxy(text: &str) -> bool {
    let Some(rest) = rest(text) else { return false };
    let (authority, _) = rest.split_once('/').unwrap_or((rest, ""));
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    is_visible(text) && is_authority(host)
}

/// Whether `text` is `HOST:PORT`, an IPv6 address in brackets.
pub(super) fn is_host_and_port(text: &str) -> bool {
    let with_port = text.rsplit_once(':').is_some_and(|(host, _)| !host.is_empty() && !host.ends_with(':'));
    with_port && is_visible(text) && !text.contains(['/', '@', '?', '#']) && is_authority(text)
}

/// A URL, or one that lacks its scheme, without the user and password that it may hold.
pub(super) fn without_user(text: &str) -> String {
    let Some((before, host)) = text.rsplit_once('@') else { return text.to_owned() };
    let scheme = before.split_once("://").map_or(String::new(), |(scheme, _)| format!("{scheme}://"));
    format!("{scheme}{HIDDEN}@{host}")
}

/// Whether requests to this endpoint go over the network in the clear.
pub(super) fn is_clear_text(endpoint: &str) -> bool {
    let Some(rest) = endpoint.strip_prefix("http://") else { return false };
    let (authority, _) = rest.split_once('/').unwrap_or((rest, ""));
    let host = host(authority).trim_matches(['[', ']']);
    host != "localhost" && !host.parse().is_ok_and(|ip: std::net::IpAddr| ip.is_loopback())
}

fn rest(text: &str) -> Option<&str> {
    text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"))
}

fn is_visible(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_graphic())
}

/// The host of an authority, without its port.
fn host(authority: &str) -> &str {
    match authority.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => host,
        _ => authority,
    }
}

fn is_authority(authority: &str) -> bool {
    let host = host(authority);
    let port = authority.strip_prefix(host).and_then(|port| port.strip_prefix(':'));
    let port_fits = port.is_none_or(|port| port.parse::<u16>().is_ok() && !port.starts_with('+'));
    let bracketed = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let host_fits = match bracketed {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => !host.is_empty() && !host.contains([':', '[', ']']),
    };
    host_fits && port_fits
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_have_one_form() {
        for (text, good) in [
            ("https://{client}.tt.omtrdc.net", true),
            ("http://127.0.0.1:8080", true),
            ("http://[::1]:8080/base", true),
            ("https://example.com/", true),
            ("", false),
            ("example.com", false),
            ("ftp://example.com", false),
            ("https://", false),
            ("https:///path", false),
            ("https://host:port", false),
            ("https://host:+80", false),
            ("https://host:99999", false),
            ("https://[::g]", false),
            ("https://a b", false),
            ("https://user:pw@host", false),
            ("https://host/?x", false),
            ("https://{cluster}.tt.omtrdc.net", false),
        ] {
            assert_eq!(is_endpoint(text, "{client}"), good, "{text}");
        }
    }

    #[test]
    fn proxies_and_addresses_have_theirs() {
        for (text, good) in [("http://u:p@proxy:3128", true), ("proxy:3128", false), ("http://", false)] {
            assert_eq!(is_proxy(text), good, "{text}");
        }
        for (text, good) in [
            ("127.0.0.1:9300", true),
            ("localhost:9300", true),
            ("[::1]:9300", true),
            ("::1:9300", false),
            ("localhost", false),
            (":9300", false),
            ("[::1]", false),
            ("host:x", false),
        ] {
            assert_eq!(is_host_and_port(text), good, "{text}");
        }
    }

    #[test]
    fn loopback_is_not_the_network() {
        for (text, clear) in [
            ("http://localhost:1", false),
            ("http://127.9.9.9/x", false),
            ("http://[::1]", false),
            ("https://example.com", false),
            ("http://example.com", true),
            ("http://localhost.example.com:80", true),
        ] {
            assert_eq!(is_clear_text(text), clear, "{text}");
        }
    }
}
