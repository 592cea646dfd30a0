//! Further root certificates than the system's (`target.ca_file`).

use std::path::Path;

use reqwest::{Certificate, Client};
use xxhash_rust::xxh3::xxh3_64;

use super::settings::{Settings, TransportError};
use super::transport::told;
use crate::contents;

/// The longest file of root certificates that is read, in bytes: all that a system trusts are a quarter of a mebibyte.
const MAX_CA_FILE_BYTES: u64 = 4 * 1_024 * 1_024;

/// Such certificates, as they were read.
#[derive(Default)]
pub(super) struct Authorities {
    pub(super) certificates: Vec<Certificate>,
    /// Of all that was read: what is read later may be compared with it.
    pub(super) fingerprint: u64,
}

impl Authorities {
    /// Reads those that `settings` name; none where they name none.
    pub(super) fn of(settings: &Settings) -> Result<Self, TransportError> {
        settings.ca_file.as_deref().map_or_else(|| Ok(Self::default()), Self::read)
    }

    fn read(path: &Path) -> Result<Self, TransportError> {
        let read = contents::at(path, MAX_CA_FILE_BYTES);
        let pem = read.map_err(|source| TransportError::CaFile { path: path.to_owned(), source })?;
        let wrong = |what| TransportError::Certificates { path: path.to_owned(), what };
        let bad = |error: reqwest::Error| {
            wrong(format!("holds a certificate that cannot be used ({})", told(&error)))
        };
        let certificates = Certificate::from_pem_bundle(&pem).map_err(bad)?;
        if certificates.is_empty() {
            return Err(wrong("holds no certificate".to_owned()));
        }
        // A block that is no certificate shows only when a client is built with it; built here, so that the error names
        // the file.
        Client::builder().tls_certs_only(certificates.clone()).build().map_err(bad)?;
        Ok(Self { certificates, fingerprint: xxh3_64(&pem) })
    }
}

/// How many root certificates the file at `path` adds (`target.ca_file`).
///
/// # Errors
/// [`TransportError`]: it cannot be read, or one of them cannot be used, or there is none.
pub fn authorities(path: &Path) -> Result<usize, TransportError> {
    Authorities::read(path).map(|found| found.certificates.len())
}
