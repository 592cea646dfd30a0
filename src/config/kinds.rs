//! The kinds of values: how each is read, what is allowed, and how a wrong one is told.
//!
//! Each function returns a reader for one key. Its error is the rest of a sentence that begins with the key.

use std::borrow::Cow;
use std::fmt;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use bytesize::ByteSize;
use nix::unistd::{Group, User};
use tracing_subscriber::filter::{LevelFilter, Targets};

use super::url;
use super::value::Value;
use crate::event::Cluster;

/// A kibibyte.
pub(super) const KIB: u64 = 1_024;
/// A mebibyte.
pub(super) const MIB: u64 = 1_024 * KIB;
/// A gibibyte.
pub(super) const GIB: u64 = 1_024 * MIB;
/// A tebibyte.
pub(super) const TIB: u64 = 1_024 * GIB;
/// A millisecond: the shortest time where none makes no sense.
pub(super) const MS: Duration = Duration::from_millis(1);
/// An hour.
pub(super) const HOUR: Duration = Duration::from_secs(3_600);
/// A day.
pub(super) const DAY: Duration = Duration::from_secs(86_400);
/// Ten years, each of 365 days.
pub(super) const DECADE: Duration = Duration::from_secs(3_650 * 86_400);
/// The longest path that a socket's address holds on Linux, in bytes.
pub const MAX_SOCKET_PATH_BYTES: usize = 107;

/// What a key's reader says: the value, or what is wrong with it.
pub(super) type Read<T> = Result<T, String>;

fn wrong(allowed: impl fmt::Display, value: &Value) -> String {
    format!("must be {allowed}, and is {value}")
}

/// A duration in humantime's words.
pub(super) fn duration(allowed: RangeInclusive<Duration>) -> impl Fn(&Value) -> Read<Duration> + Clone {
    move |value| {
        let read = value.text().and_then(|text| humantime::parse_duration(text.trim()).ok());
        read.filter(|read| allowed.contains(read)).ok_or_else(|| {
            let (least, most) = (bound(*allowed.start()), bound(*allowed.end()));
            wrong(format_args!("a duration from {least} to {most}, such as \"90s\" or \"1h 30m\""), value)
        })
    }
}

/// A duration as it may be written. In humantime's words ten years are 9 of them, of 365.25 days, and the rest to the second.
fn bound(duration: Duration) -> String {
    let (days, rest) = (duration.as_secs() / DAY.as_secs(), duration.as_secs() % DAY.as_secs());
    match (days, rest) {
        (1.., 0) => format!("{days}d"),
        _ => humantime::format_duration(duration).to_string(),
    }
}

/// Reads an argument as a key is read that takes any duration from `least` to ten years.
pub fn duration_from(least: Duration) -> impl Fn(&str) -> Result<Duration, String> + Clone {
    let read = duration(least..=DECADE);
    move |text| read(&Value::Text(text.to_owned()))
}

/// A size: bytes as an integer, or text with a unit.
pub(super) fn size(allowed: RangeInclusive<u64>) -> impl Fn(&Value) -> Read<u64> {
    move |value| {
        let bytes = value.integer().and_then(|bytes| u64::try_from(bytes).ok());
        let read = bytes.or_else(|| Some(value.text()?.trim().parse::<ByteSize>().ok()?.as_u64()));
        read.filter(|read| allowed.contains(read)).ok_or_else(|| {
            let (least, most) = (in_units(*allowed.start()), in_units(*allowed.end()));
            wrong(format_args!("a size from {least} to {most}, such as \"512KiB\""), value)
        })
    }
}

/// `bytes` in the largest binary unit that divides them.
pub(super) fn in_units(bytes: u64) -> String {
    let unit = [(TIB, "TiB"), (GIB, "GiB"), (MIB, "MiB"), (KIB, "KiB")]
        .into_iter()
        .find(|(unit, _)| bytes >= *unit && bytes.is_multiple_of(*unit));
    unit.map_or_else(|| format!("{bytes}B"), |(unit, name)| format!("{}{name}", bytes / unit))
}

/// An integer.
pub(super) fn integer<T>(allowed: RangeInclusive<T>) -> impl Fn(&Value) -> Read<T>
where
    T: TryFrom<i128> + PartialOrd + fmt::Display,
{
    move |value| {
        let read = value.integer().and_then(|integer| T::try_from(integer).ok());
        read.filter(|read| allowed.contains(read)).ok_or_else(|| {
            wrong(format_args!("an integer from {} to {}", allowed.start(), allowed.end()), value)
        })
    }
}

/// An integer of which 0 is none.
pub(super) fn optional_integer(value: &Value) -> Read<Option<i64>> {
    integer(0..=i64::MAX)(value).map(|integer| Some(integer).filter(|integer| *integer != 0))
}

/// A float.
pub(super) fn float(allowed: RangeInclusive<f64>) -> impl Fn(&Value) -> Read<f64> {
    move |value| {
        value.float().filter(|read| allowed.contains(read)).ok_or_else(|| {
            wrong(format_args!("a number from {:?} to {:?}", allowed.start(), allowed.end()), value)
        })
    }
}

/// `true` or `false`.
pub(super) fn boolean(value: &Value) -> Read<bool> {
    value.boolean().ok_or_else(|| wrong("true or false", value))
}

/// Text by `read`; `None` where it is empty.
pub(super) fn optional<T>(
    allowed: &'static str,
    read: impl Fn(&str) -> Option<T>,
) -> impl Fn(&Value) -> Read<Option<T>> {
    move |value| {
        let text = value.text().ok_or_else(|| wrong(format_args!("{allowed}, as a string"), value))?;
        if text.is_empty() {
            return Ok(None);
        }
        read(&text).map(Some).ok_or_else(|| wrong(format_args!("{allowed}, or empty"), value))
    }
}

/// One of the words of a fixed list.
pub(super) fn word<T: Copy>(words: &'static [(&'static str, T)]) -> impl Fn(&Value) -> Read<T> {
    move |value| {
        let text = value.text().unwrap_or_default();
        words.iter().find(|(word, _)| *word == text).map(|(_, meaning)| *meaning).ok_or_else(|| {
            let words: Vec<String> = words.iter().map(|(word, _)| format!("\"{word}\"")).collect();
            wrong(format_args!("one of {}", words.join(", ")), value)
        })
    }
}

/// The client code, which becomes a part of a host name.
pub(super) fn client(value: &Value) -> Read<Option<String>> {
    optional("a client code of at most 63 letters, digits, '-' and '_', such as \"acmecorp\"", |text| {
        let fits = text.len() <= 63
            && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'));
        fits.then(|| text.to_owned())
    })(value)
}

/// The organisation id.
pub(super) fn organization(value: &Value) -> Read<Option<String>> {
    optional(
        "an organisation id of at most 255 visible ASCII characters, such as \
         \"0DD934B85278256B0A490D44@AdobeOrg\"",
        |text| {
            (text.len() <= 255 && text.bytes().all(|byte| byte.is_ascii_graphic())).then(|| text.to_owned())
        },
    )(value)
}

/// A location hint.
pub(super) fn cluster(value: &Value) -> Read<Option<Cluster>> {
    optional("a location hint of one to four digits, such as \"35\"", Cluster::parse)(value)
}

/// A URL with `placeholder` in it or not, or nothing.
pub(super) fn optional_endpoint(placeholder: &'static str) -> impl Fn(&Value) -> Read<Option<String>> {
    move |value| match value.text() {
        Some(text) if text.is_empty() => Ok(None),
        _ => endpoint(placeholder, ", or empty", value).map(Some),
    }
}

/// A URL with `placeholder` in it or not.
pub(super) fn required_endpoint(placeholder: &'static str) -> impl Fn(&Value) -> Read<String> {
    move |value| endpoint(placeholder, "", value)
}

/// A URL with `placeholder` in it or not; `or` is what else is allowed. A password that a wrong one holds is not repeated.
fn endpoint(placeholder: &str, or: &str, value: &Value) -> Read<String> {
    let text = value.text().filter(|text| url::is_endpoint(text, placeholder));
    text.map(Cow::into_owned).ok_or_else(|| {
        // Before it is cut, which could leave the start of a password alone.
        let shown = match value.text() {
            Some(text) => Value::Text(url::without_user(&text)).to_string(),
            None => url::without_user(&value.to_string()),
        };
        format!(
            "must be an http:// or https:// URL without user, query and fragment{or}, and is {shown}; {placeholder} is the one placeholder"
        )
    })
}

/// A proxy. It may hold a password, so that a wrong one is not repeated.
pub(super) fn proxy(value: &Value) -> Read<Option<String>> {
    let read = optional("", |text| url::is_proxy(text).then(|| text.to_owned()))(value);
    read.map_err(|_| "must be an http:// or https:// URL, or empty".to_owned())
}

/// `HOST:PORT`.
pub(super) fn address(value: &Value) -> Read<Option<String>> {
    optional("HOST:PORT, such as \"127.0.0.1:9300\" or \"[::1]:9300\"", |text| {
        url::is_host_and_port(text).then(|| text.to_owned())
    })(value)
}

/// A path; empty is none.
pub(super) fn optional_path(value: &Value) -> Read<Option<PathBuf>> {
    optional("a path", |text| (!text.contains('\0')).then(|| PathBuf::from(text)))(value)
}

/// A path.
pub(super) fn path(value: &Value) -> Read<PathBuf> {
    optional_path(value)?.ok_or_else(|| wrong("a path", value))
}

/// The path of a socket.
pub(super) fn socket_path(value: &Value) -> Read<PathBuf> {
    let path = path(value)?;
    let fits = path.as_os_str().len() <= MAX_SOCKET_PATH_BYTES;
    fits.then_some(path).ok_or_else(|| {
        wrong(format_args!("a path of at most {MAX_SOCKET_PATH_BYTES} bytes, as it names a socket"), value)
    })
}

/// Permissions in octal digits, as text: as an integer, 0660 is no TOML and 660 is another number.
pub(super) fn mode(value: &Value) -> Read<u32> {
    let text = value.text().unwrap_or_default();
    let octal = (1..=4).contains(&text.len()) && text.bytes().all(|byte| (b'0'..=b'7').contains(&byte));
    let read = u32::from_str_radix(&text, 8).ok().filter(|mode| octal && *mode <= 0o777);
    read.ok_or_else(|| {
        wrong("permissions as a string of octal digits up to \"0777\", such as \"0660\"", value)
    })
}

/// Users by name or uid.
pub(super) fn users(value: &Value) -> Read<Vec<u32>> {
    ids(value, "user", |name| User::from_name(name).map(|user| user.map(|user| user.uid.as_raw())))
}

/// Groups by name or gid.
pub(super) fn groups(value: &Value) -> Read<Vec<u32>> {
    ids(value, "group", |name| Group::from_name(name).map(|group| group.map(|group| group.gid.as_raw())))
}

fn ids(value: &Value, what: &str, look_up: impl Fn(&str) -> nix::Result<Option<u32>>) -> Read<Vec<u32>> {
    let list = value.list().ok_or_else(|| wrong(format_args!("a list of {what} names or ids"), value))?;
    let one = |element: &Value| {
        let read = element.integer().or_else(|| element.text()?.parse().ok());
        if let Some(id) = read {
            return u32::try_from(id).map_err(|_| format!("holds {element}, which is no {what} id"));
        }
        let name = element.text().ok_or_else(|| format!("holds {element}, which is no {what} name or id"))?;
        match look_up(&name) {
            Ok(Some(id)) => Ok(id),
            Ok(None) => {
                Err(format!("holds {element}, and this system has no such {what}; name one or give its id"))
            }
            Err(error) => Err(format!("holds {element}, and the system's {what}s cannot be read: {error}")),
        }
    };
    list.iter().map(one).collect()
}

/// What logs each certificate that it refuses as an error, which the cause of the failed request tells as well.
const VERIFIER: &str = "rustls_platform_verifier";

/// What is logged: a level, or levels by the module that logs.
///
/// [`Targets`] alone would take a misspelt level for the name of a module and silence the log.
pub(super) fn filter(value: &Value) -> Read<Targets> {
    let text: String = value.text().unwrap_or_default().split_whitespace().collect();
    let is_part = |part: &str| match part.split_once('=') {
        Some((module, level)) => is_module(module) && is_level(level),
        None => is_level(part),
    };
    let read: Option<Targets> = if text.split(',').all(is_part) { text.parse().ok() } else { None };
    // A bare level is meant for this program; the libraries' own lines are for those who name them.
    let own = |named: Targets| match named.default_level() {
        Some(level) => Targets::new()
            .with_default(level.min(LevelFilter::WARN))
            .with_targets([("target_notifyd", level), (VERIFIER, LevelFilter::OFF)])
            .with_targets(named),
        None => named,
    };
    read.map(own).ok_or_else(|| {
        let levels = "error, warn, info, debug, trace or off";
        wrong(format_args!("{levels}, or a list such as \"info,target_notifyd::delivery=debug\""), value)
    })
}

fn is_module(text: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b':');
    !text.is_empty() && text.bytes().all(allowed)
}

fn is_level(text: &str) -> bool {
    let named = text.bytes().all(|byte| byte.is_ascii_alphabetic()) && !text.is_empty();
    named && text.parse::<LevelFilter>().is_ok()
}
