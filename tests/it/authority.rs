//! A certificate authority of the tests, and TLS servers with its certificates.

use std::path::PathBuf;
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, date_time_ymd};
use rustls::ServerConfig;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use tempfile::TempDir;
use tokio_rustls::TlsAcceptor;

pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

/// When a certificate is valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Validity {
    Now,
    Past,
    Future,
}

impl Authority {
    pub(crate) fn new(name: &str) -> Self {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new(Vec::new()).expect("no names");
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let pem = params.self_signed(&key).expect("a certificate").pem();
        Self { issuer: Issuer::new(params, key), pem }
    }

    /// Its certificate as a file.
    pub(crate) fn file(&self, folder: &TempDir) -> PathBuf {
        let path = folder.path().join("ca.pem");
        std::fs::write(&path, &self.pem).expect("a file");
        path
    }

    /// A server that `name` belongs to, with a certificate of this authority.
    pub(crate) fn server(&self, name: &str, validity: Validity, protocols: &[&str]) -> TlsAcceptor {
        let key = KeyPair::generate().expect("a key");
        let params = params(name, validity);
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate").der().clone();
        acceptor(certificate, &key, protocols)
    }
}

/// A server with a certificate that nobody vouches for.
pub(crate) fn self_signed(name: &str) -> TlsAcceptor {
    let key = KeyPair::generate().expect("a key");
    let certificate = params(name, Validity::Now).self_signed(&key).expect("a certificate").der().clone();
    acceptor(certificate, &key, &[])
}

/// A server whose certificate is an authority's own, as `openssl req -x509` makes it, and that as a file.
pub(crate) fn authority_itself(name: &str, folder: &TempDir) -> (TlsAcceptor, PathBuf) {
    let key = KeyPair::generate().expect("a key");
    let mut params = params(name, Validity::Now);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let certificate = params.self_signed(&key).expect("a certificate");
    let path = folder.path().join("itself.pem");
    std::fs::write(&path, certificate.pem()).expect("a file");
    (acceptor(certificate.der().clone(), &key, &[]), path)
}

fn params(name: &str, validity: Validity) -> CertificateParams {
    let mut params = CertificateParams::new(vec![name.to_owned()]).expect("a name");
    match validity {
        Validity::Now => {}
        Validity::Past => params.not_after = date_time_ymd(2020, 1, 1),
        Validity::Future => params.not_before = date_time_ymd(4000, 1, 1),
    }
    params
}

fn acceptor(certificate: CertificateDer<'static>, key: &KeyPair, protocols: &[&str]) -> TlsAcceptor {
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let mut config = ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .expect("a certificate with its key");
    config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
    TlsAcceptor::from(Arc::new(config))
}
