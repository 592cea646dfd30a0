//! The proxy on the way to Target, and the one rule of what goes through it.
//!
//! Invariants:
//! - clear text to loopback goes through none: it is allowed because it does not leave the machine;
//! - `target.proxy` takes everything else;
//! - one that the environment names takes https alone, but for the hosts of `NO_PROXY`;
//! - the HTTP client asks this rule and nothing else: left alone, it would obey `HTTP_PROXY`, which nobody is shown.

use std::fmt;

use hyper::Uri;
use hyper_util::client::proxy::matcher::Matcher;
use reqwest::Url;

use super::settings::{TransportError, is_loopback};

/// A proxy as it was named.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proxy {
    text: String,
    source: Source,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Source {
    Setting,
    Environment { variable: String, except: String },
}

impl Proxy {
    /// The one of `target.proxy`, an http or https URL, perhaps with a user.
    #[must_use]
    pub fn set(url: String) -> Self {
        Self { text: url, source: Source::Setting }
    }

    /// The one that `variable` names, with or without `http://`, for all hosts but those of `except`, in the form of
    /// `NO_PROXY`.
    #[must_use]
    pub fn environment(variable: String, text: String, except: String) -> Self {
        Self { text, source: Source::Environment { variable, except } }
    }

    /// As it was named.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The variable that names it.
    #[must_use]
    pub fn variable(&self) -> Option<&str> {
        match &self.source {
            Source::Setting => None,
            Source::Environment { variable, .. } => Some(variable),
        }
    }

    /// Whether what is sent to `url` goes through it.
    #[must_use]
    pub fn takes(&self, url: &str) -> bool {
        Url::parse(url).is_ok_and(|url| self.takes_url(&url))
    }

    pub(super) fn takes_url(&self, url: &Url) -> bool {
        let encrypted = url.scheme() == "https";
        match &self.source {
            Source::Setting => encrypted || !is_loopback(url),
            Source::Environment { except, .. } => encrypted && !is_among(url, except),
        }
    }

    /// What to tell of something that went wrong on the way through it, with what to do about its own refusals: the HTTP
    /// client says little of them.
    pub(super) fn told(&self, what: &str) -> String {
        let advice =
            if what.contains("tunnel error: proxy authorization required") || what.starts_with("HTTP 407") {
                "; it wants a user and a password: http://USER:PASSWORD@HOST:PORT"
            } else if what.ends_with("tunnel error: unsuccessful") {
                "; it refused to connect, or could not: its own log says why"
            } else {
                ""
            };
        format!("through the proxy {self}: {what}{advice}")
    }

    /// The rule for the HTTP client.
    pub(super) fn rule(&self) -> Result<reqwest::Proxy, TransportError> {
        let address =
            self.address().ok_or_else(|| TransportError::Proxy { named: self.named().to_owned() })?;
        let proxy = self.clone();
        Ok(reqwest::Proxy::custom(move |url| proxy.takes_url(url).then(|| address.clone())))
    }

    /// Where it is. Without a scheme, as other programs allow it in the environment, it is spoken to over HTTP.
    fn address(&self) -> Option<Url> {
        let text = match &self.source {
            Source::Environment { .. } if !self.text.contains("://") => format!("http://{}", self.text),
            _ => self.text.clone(),
        };
        Url::parse(&text).ok().filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host())
    }

    /// What names it.
    fn named(&self) -> &str {
        self.variable().unwrap_or("target.proxy")
    }
}

/// For people: where it is, without its user, and what names it.
impl fmt::Display for Proxy {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(address) = self.address() {
            formatter.write_str(address.host_str().unwrap_or_default())?;
            if let Some(port) = address.port() {
                write!(formatter, ":{port}")?;
            }
            formatter.write_str(" of ")?;
        }
        formatter.write_str(self.named())
    }
}

/// Whether the host of `url` is one of `hosts`, in the form of `NO_PROXY`.
fn is_among(url: &Url, hosts: &str) -> bool {
    let everything_else = Matcher::builder().all("http://proxy").no(hosts).build();
    url.as_str().parse::<Uri>().is_ok_and(|uri| everything_else.intercept(&uri).is_none())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(text: &str, except: &str) -> Proxy {
        Proxy::environment("HTTPS_PROXY".to_owned(), text.to_owned(), except.to_owned())
    }

    #[test]
    fn what_goes_through_it_depends_on_what_names_it() {
        let set = Proxy::set("http://proxy:3128".to_owned());
        let named = environment("http://proxy:3128", "example.org, 10.0.0.0/8");
        for (url, by_setting, by_environment) in [
            ("https://acme.tt.omtrdc.net/x", true, true),
            ("https://localhost:1", true, true),
            ("http://127.0.0.1:1", false, false),
            ("http://localhost:1/x", false, false),
            ("http://[::1]:1", false, false),
            ("http://gateway:1", true, false),
            ("https://www.example.org", true, false),
            ("https://notexample.org", true, true),
            ("https://10.1.2.3", true, false),
        ] {
            assert_eq!((set.takes(url), named.takes(url)), (by_setting, by_environment), "{url}");
        }
        assert!(!environment("http://proxy:3128", "*").takes("https://a.example"));
    }

    #[test]
    fn one_of_the_environment_needs_no_scheme_and_a_wrong_one_is_told_without_its_value() {
        for (text, shown) in [
            ("http://me:s3cret@proxy:3128", "proxy:3128 of HTTPS_PROXY"),
            ("me:s3cret@proxy:3128", "proxy:3128 of HTTPS_PROXY"),
            ("10.0.0.1", "10.0.0.1 of HTTPS_PROXY"),
        ] {
            let proxy = environment(text, "");
            assert!(proxy.rule().is_ok() && proxy.to_string() == shown, "{text}: {proxy}");
        }
        for text in ["foo bar", "socks5://proxy:1080", "http://", "ftp://proxy", "proxy:s3cret"] {
            let error = environment(text, "").rule().err().map(|error| error.to_string()).unwrap();
            assert_eq!(error, "HTTPS_PROXY names no http:// or https:// proxy", "{text}");
        }
    }
}
