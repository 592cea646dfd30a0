//! The property token, and where it may be read from.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use super::kinds::Read as ReadAs;
use super::problem::Origin;
use super::reader::Reader;
use super::sources::text;
use super::value::Value;
use crate::contents;

/// The most bytes of a token's file.
const MAX_TOKEN_BYTES: u64 = 4_096;
/// The name of the systemd credential.
const CREDENTIAL: &str = "property-token";
/// The variable in which systemd names the folder of credentials.
pub(super) const CREDENTIALS_DIRECTORY: &str = "CREDENTIALS_DIRECTORY";

/// A property token; never shown by `Debug`, as tokens are not logged.
#[derive(Clone, PartialEq, Eq)]
pub struct PropertyToken(String);

impl PropertyToken {
    /// A token of visible ASCII characters.
    fn new(text: &str) -> Option<Self> {
        let visible = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic());
        visible.then(|| Self(text.to_owned()))
    }

    /// The token itself.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for PropertyToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PropertyToken(…)")
    }
}

/// The key `target.property_token`; a wrong value is not repeated.
pub(super) fn inline(value: &Value) -> ReadAs<Option<PropertyToken>> {
    let wrong = || "must be a string of visible ASCII characters, or empty".to_owned();
    match value.text() {
        Some(text) if text.is_empty() => Ok(None),
        Some(text) => PropertyToken::new(&text).map(Some).ok_or_else(wrong),
        None => Err(wrong()),
    }
}

/// The token in force: of the key, else of the file, else of systemd's credential. Key and file together are a problem.
pub(super) fn resolve(
    inline: Option<PropertyToken>,
    file: Option<&Path>,
    environment: &[(String, String)],
    reader: &mut Reader,
) -> Option<PropertyToken> {
    const KEYS: [&str; 2] = ["target.property_token", "target.property_token_file"];
    if !reader.are_known(&KEYS) {
        return None;
    }
    match (inline, file) {
        (Some(_), Some(_)) => {
            let message = format!("cannot be used: only one of {} may be set", KEYS.join(" and "));
            reader.clash(&KEYS, message);
            None
        }
        (Some(token), None) => Some(token),
        (None, Some(path)) => {
            let origin = reader.origin(KEYS[1]);
            kept(read(path), path, origin, reader)
        }
        (None, None) => {
            let path = credential(environment)?;
            match read(&path) {
                // The unit may have credentials of other names.
                Err(error) if error.kind() == io::ErrorKind::NotFound => None,
                read => kept(read, &path, Origin::Environment(CREDENTIALS_DIRECTORY.to_owned()), reader),
            }
        }
    }
}

/// Where systemd's credential would lie.
pub(super) fn credential(environment: &[(String, String)]) -> Option<PathBuf> {
    let named = |(name, value): &&(String, String)| name == CREDENTIALS_DIRECTORY && !value.is_empty();
    Some(Path::new(&environment.iter().find(named)?.1).join(CREDENTIAL))
}

fn kept(
    read: io::Result<PropertyToken>,
    path: &Path,
    origin: Origin,
    reader: &mut Reader,
) -> Option<PropertyToken> {
    read.map_err(|error| {
        let message = format!("must name a readable file with a token: {}: {error}", path.display());
        reader.wrong(origin, "target.property_token_file", message);
    })
    .ok()
}

fn read(path: &Path) -> io::Result<PropertyToken> {
    let text = text(contents::at(path, MAX_TOKEN_BYTES)?)?;
    PropertyToken::new(text.trim())
        .ok_or_else(|| io::Error::other("it holds no token of visible ASCII characters"))
}
