//! TLS for a listener: a certificate and its key from two PEM files, read again when they change.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use thiserror::Error;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::client::WebPkiServerVerifier;
use tokio_rustls::rustls::client::danger::ServerCertVerifier;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use tokio_rustls::rustls::server::{ClientHello, ResolvesServerCert};
use tokio_rustls::rustls::sign::CertifiedKey;
use tokio_rustls::rustls::{CertificateError, Error as RustlsError, InconsistentKeys, RootCertStore, ServerConfig};

use super::FileWatch;

/// From this long before its end on, a certificate is warned of.
const NOTICE: Duration = Duration::from_secs(14 * 24 * 3600);

/// Where certificate and key lie.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// PEM: the server's certificate first, then those between it and a root.
    pub certificate: PathBuf,
    /// PEM: its private key, in PKCS #8, PKCS #1 or SEC 1, without a passphrase.
    pub key: PathBuf,
}

/// Why a certificate can't be used. Each text names the file.
#[derive(Debug, Error)]
pub enum TlsError {
    /// A file can't be read.
    #[error("{setting} names {}, which can't be read: {source}", path.display())]
    Unreadable {
        /// The setting that names it.
        setting: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// A file holds something else.
    #[error("{setting} names {}, which {reason}", path.display())]
    Unusable {
        /// The setting that names it.
        setting: &'static str,
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The key is another certificate's.
    #[error("the key in {} is not that of the certificate in {}: tls.certificate must begin with the server's own certificate, and tls.key be the key that it was made for", key.display(), certificate.display())]
    Mismatch {
        /// The certificate's file.
        certificate: PathBuf,
        /// The key's file.
        key: PathBuf,
    },
    /// The protocol can't be set up.
    #[error("TLS can't be set up: {0}")]
    Setup(#[from] RustlsError),
}

/// What listeners with TLS share: how they greet, and the certificate that holds at the moment.
#[derive(Clone)]
pub struct Tls {
    files: TlsFiles,
    /// What the files were before they were read.
    watch: FileWatch,
    current: Arc<Current>,
    config: Arc<ServerConfig>,
}

#[derive(Debug)]
struct Current(ArcSwap<CertifiedKey>);

impl ResolvesServerCert for Current {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.load_full())
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Tls").field("files", &self.files).finish_non_exhaustive()
    }
}

impl Tls {
    /// Reads certificate and key. A certificate that is out of date, or soon will be, is warned of and used.
    ///
    /// # Errors
    /// [`TlsError`] says which file is wrong, and how.
    pub fn load(files: TlsFiles) -> Result<Self, TlsError> {
        let watch = FileWatch::new([&files.certificate, &files.key]);
        let current = Arc::new(Current(ArcSwap::from_pointee(read(&files)?)));
        let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_cert_resolver(current.clone());
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(Self { files, watch, current, config: Arc::new(config) })
    }

    /// Takes the files' new content into use whenever they change, for connections that begin from then on. What can't
    /// be used is logged, and the old certificate stays.
    pub fn follow(&self) {
        let own = self.clone();
        self.watch.clone().follow(move || match read(&own.files) {
            Ok(fresh) => {
                own.current.0.store(Arc::new(fresh));
                tracing::info!(certificate = %own.files.certificate.display(), "the certificate was read again");
            }
            Err(error) => tracing::error!(%error, "the certificate stays as it was"),
        });
    }

    pub(super) fn acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::from(self.config.clone())
    }
}

fn read(files: &TlsFiles) -> Result<CertifiedKey, TlsError> {
    let TlsFiles { certificate, key } = files;
    let bytes = |setting, path: &Path| {
        std::fs::read(path).map_err(|source| TlsError::Unreadable { setting, path: path.to_owned(), source })
    };
    let unusable = |setting, path: &Path, reason: String| TlsError::Unusable { setting, path: path.to_owned(), reason };

    let text = bytes("tls.certificate", certificate)?;
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    let chain = chain.map_err(|error| unusable("tls.certificate", certificate, format!("is not PEM: {error}")))?;
    let Some(own) = chain.first() else {
        let reason = "holds no certificate: it needs a block that begins with -----BEGIN CERTIFICATE-----";
        return Err(unusable("tls.certificate", certificate, reason.to_owned()));
    };
    let warning = validity(own);

    let text = bytes("tls.key", key)?;
    let der = PrivateKeyDer::from_pem_slice(&text).map_err(|_| {
        let is_encrypted = text.windows(10).any(|window| window == b" ENCRYPTED" || window == b",ENCRYPTED");
        let reason = match is_encrypted {
            true => "holds a key that a passphrase encrypts: decrypt it with `openssl pkey -in OLD -out NEW`",
            false => "holds no private key: it needs a block that begins with -----BEGIN PRIVATE KEY-----",
        };
        unusable("tls.key", key, reason.to_owned())
    })?;
    let signing = ring::sign::any_supported_type(&der)
        .map_err(|error| unusable("tls.key", key, format!("holds a key that can't be used: {error}")))?;
    let own = CertifiedKey::new(chain, signing);
    match own.keys_match() {
        Ok(()) | Err(RustlsError::InconsistentKeys(InconsistentKeys::Unknown)) => {}
        Err(RustlsError::InconsistentKeys(_)) => {
            return Err(TlsError::Mismatch { certificate: certificate.clone(), key: key.clone() });
        }
        Err(error) => return Err(unusable("tls.certificate", certificate, format!("can't be understood: {error}"))),
    }
    if let Some(warning) = warning {
        tracing::warn!(certificate = %certificate.display(), "{warning}");
    }
    Ok(own)
}

/// What is wrong with the time of a certificate, if anything is.
fn validity(own: &CertificateDer<'static>) -> Option<String> {
    let at = |time: UnixTime| {
        // Its own root: who signed it doesn't matter here, and the time is looked at first.
        let mut roots = RootCertStore::empty();
        roots.add(own.clone()).ok()?;
        let provider = Arc::new(ring::default_provider());
        let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider).build().ok()?;
        let name = ServerName::try_from("localhost").ok()?;
        match verifier.verify_server_cert(own, &[], &name, &[], time) {
            Err(RustlsError::InvalidCertificate(error)) => Some(error),
            _ => None,
        }
    };
    let now = UnixTime::now();
    match at(now) {
        Some(CertificateError::Expired | CertificateError::ExpiredContext { .. }) => {
            return Some("the certificate has expired: clients will refuse it".to_owned());
        }
        Some(CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. }) => {
            return Some(
                "the certificate is not valid yet: clients will refuse it; is this machine's clock right?".to_owned(),
            );
        }
        _ => {}
    }
    let later = UnixTime::since_unix_epoch(Duration::from_secs(now.as_secs()) + NOTICE);
    match at(later) {
        Some(CertificateError::Expired | CertificateError::ExpiredContext { .. }) => {
            Some("the certificate expires within 14 days".to_owned())
        }
        _ => None,
    }
}
