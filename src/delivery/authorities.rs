//! The root certificates that servers are held against: those that the system trusts, and further ones (`target.ca_file`).

use std::path::Path;

use reqwest::{Certificate, Client};
use rustls::RootCertStore;
use rustls_native_certs::{Error, load_native_certs};
use xxhash_rust::xxh3::xxh3_64;

use super::settings::{Settings, TransportError};
use super::transport::told;
use crate::contents;

/// The longest file of root certificates that is read, in bytes: all that a system trusts are a quarter of a mebibyte.
const MAX_CA_FILE_BYTES: u64 = 4 * 1_024 * 1_024;

/// All of them, as they were read.
pub(super) struct Authorities {
    pub(super) certificates: Vec<Certificate>,
    /// Whether the system has some of them.
    pub(super) of_the_system: bool,
    /// Of the file of the further ones.
    pub(super) fingerprint: u64,
}

impl Authorities {
    /// Reads those of the system, and those that `settings` name.
    pub(super) fn of(settings: &Settings) -> Result<Self, TransportError> {
        Further::of(settings)?.and_of_the_system(settings.ca_file.is_none())
    }
}

/// Further ones, as they were read.
#[derive(Default)]
pub(super) struct Further {
    certificates: Vec<Certificate>,
    /// Of all that was read: what is read later may be compared with it.
    pub(super) fingerprint: u64,
}

impl Further {
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

    /// With those of the system as they are now. There may be none of these, unless some are `needed`.
    pub(super) fn and_of_the_system(self, needed: bool) -> Result<Authorities, TransportError> {
        let Self { mut certificates, fingerprint } = self;
        let (system, errors) = of_the_system();
        let of_the_system = !system.is_empty();
        if needed && !of_the_system {
            let why = errors.first().map_or_else(|| "there are none".to_owned(), ToString::to_string);
            return Err(TransportError::System(why));
        }
        certificates.extend(system);
        Ok(Authorities { certificates, of_the_system, fingerprint })
    }
}

/// Those of the system as they are now, and what cannot be read of them.
fn of_the_system() -> (Vec<Certificate>, Vec<Error>) {
    let found = load_native_certs();
    // What cannot be used is passed over: it may be of a kind that is not known here.
    let mut known = RootCertStore::empty();
    let usable = found.certs.iter().filter(|one| known.add((*one).clone()).is_ok());
    (usable.filter_map(|one| Certificate::from_der(one).ok()).collect(), found.errors)
}

/// How many root certificates the file at `path` adds (`target.ca_file`), and to how many of the system.
///
/// # Errors
/// [`TransportError`]: it cannot be read, or one of them cannot be used, or there is none.
pub fn authorities(path: &Path) -> Result<(usize, usize), TransportError> {
    Further::read(path).map(|found| (found.certificates.len(), of_the_system().0.len()))
}
