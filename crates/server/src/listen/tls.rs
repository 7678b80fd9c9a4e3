//! TLS on the listener: the certificate, and a new one when it is renewed.

use std::{
    convert::Infallible,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use anyhow::Context as _;
use arc_swap::ArcSwap;
use clap::Args;
use rustls::{
    ServerConfig,
    crypto::CryptoProvider,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};
use tokio_rustls::TlsAcceptor;

/// How often the files are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(30);

/// Where the listener's certificate is.
#[derive(Clone, Debug, Args)]
pub struct TlsOptions {
    /// Serve TLS with the certificate chain in this PEM file (HTTP/1.1 and HTTP/2); a renewed one is taken up without a restart
    #[arg(
        long,
        env = "TOKENWARD_TLS_CERT",
        value_name = "FILE",
        requires = "tls_key"
    )]
    tls_cert: Option<PathBuf>,
    /// The certificate's private key, PEM
    #[arg(
        long,
        env = "TOKENWARD_TLS_KEY",
        value_name = "FILE",
        requires = "tls_cert"
    )]
    tls_key: Option<PathBuf>,
}

impl TlsOptions {
    /// What the options name; `None` if nothing.
    ///
    /// # Errors
    ///
    /// When the files cannot be read, or do not hold a certificate and its key.
    pub fn open(&self) -> anyhow::Result<Option<Tls>> {
        let (Some(cert), Some(key)) = (&self.tls_cert, &self.tls_key) else {
            return Ok(None);
        };
        Tls::open(cert.clone(), key.clone()).map(Some)
    }
}

/// A certificate in use, and where it came from.
#[derive(Clone, Debug)]
pub struct Tls {
    config: Arc<ServerConfig>,
    current: Arc<Current>,
}

#[derive(Debug)]
struct Current {
    cert: PathBuf,
    key: PathBuf,
    provider: Arc<CryptoProvider>,
    certified: ArcSwap<CertifiedKey>,
}

impl ResolvesServerCert for Current {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.certified.load_full())
    }
}

impl Tls {
    fn open(cert: PathBuf, key: PathBuf) -> anyhow::Result<Self> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let certified = ArcSwap::from_pointee(read(&cert, &key, &provider)?);
        let current = Arc::new(Current {
            cert,
            key,
            provider: provider.clone(),
            certified,
        });
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_cert_resolver(current.clone());
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        config.ticketer = rustls::crypto::aws_lc_rs::Ticketer::new()?;
        Ok(Self {
            config: Arc::new(config),
            current,
        })
    }

    /// What shakes hands.
    pub(crate) fn acceptor(&self) -> TlsAcceptor {
        self.config.clone().into()
    }

    /// Takes up the certificate anew whenever its files change; never ends. One that cannot be used
    /// leaves the old one in place, and is looked at again.
    pub(crate) async fn follow(self) -> Infallible {
        let mut seen = self.current.written();
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            let written = self.current.written();
            if written != seen && self.renew() {
                seen = written;
            }
        }
    }

    /// Takes up the certificate anew; `false`: it cannot be used, and the old one stays.
    pub(crate) fn renew(&self) -> bool {
        let current = &self.current;
        match read(&current.cert, &current.key, &current.provider) {
            Ok(certified) => {
                current.certified.store(Arc::new(certified));
                tracing::info!(file = %current.cert.display(), "the new certificate is in use");
                true
            }
            // Half of the pair may be there only.
            Err(error) => {
                tracing::warn!(
                    error = format!("{error:#}"),
                    "the new certificate cannot be used; the old one stays"
                );
                false
            }
        }
    }
}

impl Current {
    /// When the two files were written.
    fn written(&self) -> [Option<SystemTime>; 2] {
        [&self.cert, &self.key].map(|file| fs::metadata(file).and_then(|it| it.modified()).ok())
    }
}

/// Reads a certificate chain and its key, which must belong together.
fn read(cert: &Path, key: &Path, provider: &CryptoProvider) -> anyhow::Result<CertifiedKey> {
    let chain: Vec<_> = CertificateDer::pem_file_iter(cert)
        .and_then(Iterator::collect)
        .with_context(|| format!("cannot read the certificate {}", cert.display()))?;
    anyhow::ensure!(
        !chain.is_empty(),
        "{} holds no certificate; it should begin with -----BEGIN CERTIFICATE-----",
        cert.display()
    );
    let key_der = PrivateKeyDer::from_pem_file(key)
        .with_context(|| format!("cannot read the private key {}", key.display()))?;
    CertifiedKey::from_der(chain, key_der, provider)
        .with_context(|| format!("{} and {} do not fit", cert.display(), key.display()))
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    fn make(folder: &Path, name: &str) {
        let command = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2";
        let made = Command::new("openssl")
            .args(command.split(' '))
            .args([
                "-subj",
                &format!("/CN={name}"),
                "-keyout",
                "key",
                "-out",
                "cert",
            ])
            .current_dir(folder)
            .output()
            .unwrap();
        assert!(made.status.success(), "{made:?}");
    }

    fn in_use(tls: &Tls) -> Vec<u8> {
        tls.current.certified.load().cert[0].to_vec()
    }

    #[tokio::test(start_paused = true)]
    async fn a_renewed_certificate_is_taken_up_and_half_a_pair_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let (cert, key) = (folder.path().join("cert"), folder.path().join("key"));
        make(folder.path(), "first");
        let tls = Tls::open(cert.clone(), key.clone()).unwrap();
        let following = tokio_util::task::AbortOnDropHandle::new(
            tokio_util::task::TaskTracker::new().spawn(tls.clone().follow()),
        );
        let first = in_use(&tls);
        let pass = async || tokio::time::sleep(2 * LOOK_EVERY).await;

        // The new certificate without its key.
        let old_key = fs::read(&key).unwrap();
        make(folder.path(), "second");
        let new_key = fs::read(&key).unwrap();
        fs::write(&key, old_key).unwrap();
        pass().await;
        assert_eq!(in_use(&tls), first);

        fs::write(&key, new_key).unwrap();
        pass().await;
        let second = in_use(&tls);
        assert_ne!(second, first);

        fs::remove_file(&cert).unwrap();
        pass().await;
        assert_eq!(in_use(&tls), second);
        drop(following);
    }

    #[test]
    fn what_is_wrong_is_said() {
        let folder = tempfile::tempdir().unwrap();
        let (cert, key) = (folder.path().join("cert"), folder.path().join("key"));
        let fails = || format!("{:#}", Tls::open(cert.clone(), key.clone()).unwrap_err());
        assert!(
            fails().contains("cannot read the certificate"),
            "{}",
            fails()
        );
        make(folder.path(), "one");
        let one = fs::read(&key).unwrap();
        make(folder.path(), "two");
        fs::write(&key, one).unwrap();
        assert!(fails().contains("do not fit"), "{}", fails());
        fs::write(&key, "").unwrap();
        assert!(
            fails().contains("cannot read the private key"),
            "{}",
            fails()
        );
        fs::write(&cert, "nothing").unwrap();
        assert!(fails().contains("holds no certificate"), "{}", fails());
    }
}
