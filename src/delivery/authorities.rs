//! The root certificates that servers are held against: those that the system trusts, and further ones (`target.ca_file`).

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use reqwest::{Certificate, Client};
use rustls::RootCertStore;
use rustls_native_certs::{CertificateResult, load_certs_from_paths, load_native_certs};
use xxhash_rust::xxh3::xxh3_64;

use super::patience::Patience;
use super::settings::{Settings, TransportError};
use super::transport::told;
use crate::contents;

/// The longest file of root certificates that is read, in bytes: all that a system trusts are a quarter of a mebibyte.
const MAX_CA_FILE_BYTES: u64 = 4 * 1_024 * 1_024;
/// The longest that a file of them, or those of the system together, are waited for: a start and a reload wait for them.
const LONGEST_READ: Duration = Duration::from_secs(10);
/// Where the system's lie, if they do not lie in their usual place.
const SYSTEM_FILE: &str = "SSL_CERT_FILE";
const SYSTEM_FOLDERS: &str = "SSL_CERT_DIR";

static PATIENCE: Patience = Patience::new(LONGEST_READ);

/// All of them, as they were read.
pub(super) struct Authorities {
    pub(super) certificates: Vec<Certificate>,
    /// How many of them the system has.
    pub(super) of_the_system: usize,
    /// Why it has more that cannot be read, where that is so.
    pub(super) unread: Option<String>,
    /// Of all that was read: what is read later may be compared with it.
    pub(super) fingerprint: u64,
}

impl Authorities {
    /// Reads those of the system, and those that `settings` name.
    pub(super) fn of(settings: &Settings) -> Result<Self, TransportError> {
        Further::of(settings)?.and_of_the_system(usize::from(settings.ca_file.is_none()))
    }
}

/// Further ones, as they were read.
#[derive(Default)]
pub(super) struct Further {
    certificates: Vec<Certificate>,
    fingerprint: u64,
}

impl Further {
    /// Reads those that `settings` name; none where they name none.
    pub(super) fn of(settings: &Settings) -> Result<Self, TransportError> {
        settings.ca_file.as_deref().map_or_else(|| Ok(Self::default()), Self::read)
    }

    fn read(path: &Path) -> Result<Self, TransportError> {
        let file = path.to_owned();
        let read = PATIENCE.read(&path.display().to_string(), move || contents::at(&file, MAX_CA_FILE_BYTES));
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

    /// With those of the system as they are now, of which there were `before`. It may have fewer since, but where some
    /// cannot be read, or none is left, it is not known to trust fewer.
    pub(super) fn and_of_the_system(self, before: usize) -> Result<Authorities, TransportError> {
        let Self { mut certificates, fingerprint } = self;
        let system = System::read();
        let of_the_system = system.certificates.len();
        let unread = match system.unread {
            why if of_the_system == 0 && before > 0 => {
                return Err(TransportError::System(why.unwrap_or_else(|| "there are none".to_owned())));
            }
            Some(why) if of_the_system < before => return Err(TransportError::SystemPart(why)),
            unread => unread,
        };
        certificates.extend(system.certificates);
        let fingerprint = fingerprint.wrapping_add(system.fingerprint);
        Ok(Authorities { certificates, of_the_system, unread, fingerprint })
    }
}

/// Those of the system.
struct System {
    certificates: Vec<Certificate>,
    /// The same in whatever order they were found.
    fingerprint: u64,
    /// Why some of them cannot be read, where that is so.
    unread: Option<String>,
}

impl System {
    fn read() -> Self {
        let set =
            [SYSTEM_FILE, SYSTEM_FOLDERS].map(|name| env::var(name).map(|place| format!(", {name}={place}")));
        let what = format!("the system's root certificates{}", set.into_iter().flatten().collect::<String>());
        let read = PATIENCE.read(&what, || Ok(Self::found()));
        read.unwrap_or_else(|error| Self::of(CertificateResult::default(), Some(error.to_string())))
    }

    /// All that end: who opens a FIFO waits, perhaps for ever, and a device may have no end.
    fn found() -> Self {
        let file = env::var_os(SYSTEM_FILE).map(PathBuf::from);
        let Some(endless) = file.filter(|path| may_be_endless(path)) else {
            return Self::of(load_native_certs(), None);
        };
        let mut found = CertificateResult::default();
        for folder in env::split_paths(&env::var_os(SYSTEM_FOLDERS).unwrap_or_default()) {
            let CertificateResult { certs, errors, .. } = load_certs_from_paths(None, Some(&folder));
            found.certs.extend(certs);
            found.errors.extend(errors);
        }
        Self::of(found, Some(format!("{SYSTEM_FILE}: {} is no regular file", endless.display())))
    }

    fn of(CertificateResult { certs, errors, .. }: CertificateResult, unread: Option<String>) -> Self {
        // What cannot be used is passed over: it may be of a kind that is not known here.
        let mut known = RootCertStore::empty();
        let usable: Vec<_> = certs.into_iter().filter(|one| known.add(one.clone()).is_ok()).collect();
        let fingerprint = usable.iter().fold(0, |sum: u64, one| sum.wrapping_add(xxh3_64(one)));
        let certificates = usable.iter().filter_map(|one| Certificate::from_der(one).ok()).collect();
        let unread = unread.or_else(|| errors.first().map(ToString::to_string));
        Self { certificates, fingerprint, unread }
    }
}

/// Whether it is there and no regular file. `/dev/null` is how a system is told to have none.
fn may_be_endless(path: &Path) -> bool {
    path != Path::new("/dev/null") && fs::metadata(path).is_ok_and(|found| !found.is_file())
}

/// How many root certificates the file at `path` adds (`target.ca_file`), and to how many of the system.
///
/// # Errors
/// [`TransportError`]: it cannot be read, or one of them cannot be used, or there is none.
pub fn authorities(path: &Path) -> Result<(usize, usize), TransportError> {
    Further::read(path).map(|found| (found.certificates.len(), System::read().certificates.len()))
}
