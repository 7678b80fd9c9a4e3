//! Whom TLS trusts, and what its errors mean.

use std::{
    fmt, io,
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
};

use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        verify_server_name,
    },
    crypto::CryptoProvider,
    pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject as _},
    server::ParsedCertificate,
};
use rustls_platform_verifier::Verifier;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::{TlsConnector, client::TlsStream};

/// Certificates that are trusted beside those of the operating system.
#[derive(Clone, Debug, Default)]
pub struct ExtraRoots(Vec<CertificateDer<'static>>);

/// Why a file of certificates cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("the file of CA certificates {} cannot be used: {why}", file.display())]
pub struct UnusableRoots {
    file: PathBuf,
    why: String,
}

impl ExtraRoots {
    /// The certificates of PEM files.
    ///
    /// # Errors
    ///
    /// A file that cannot be read, holds none, or holds one that cannot be used.
    pub fn read(files: &[impl AsRef<Path>]) -> Result<Self, UnusableRoots> {
        let mut all = Vec::new();
        for file in files {
            let file = file.as_ref();
            let unusable = |why: String| UnusableRoots {
                file: file.to_owned(),
                why,
            };
            let before = all.len();
            let read =
                CertificateDer::pem_file_iter(file).map_err(|why| unusable(why.to_string()))?;
            for certificate in read {
                let certificate = certificate.map_err(|why| unusable(why.to_string()))?;
                RootCertStore::empty()
                    .add(certificate.clone())
                    .map_err(|why| unusable(why.to_string()))?;
                all.push(certificate);
            }
            if all.len() == before {
                return Err(unusable("there is no PEM certificate in it".to_owned()));
            }
        }
        Ok(Self(all))
    }
}

/// What is spoken within TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocols {
    /// HTTP/1.1 only.
    Http1,
    /// HTTP/2, or HTTP/1.1 if the server does not speak that.
    Http2OrHttp1,
}

/// TLS with the operating system's roots and extra ones.
///
/// The roots are read at the first handshake: a command that asks nobody does without.
#[derive(Debug, Default)]
pub(super) struct Tls {
    extra: ExtraRoots,
    ready: OnceLock<Ready>,
}

#[derive(Debug)]
struct Ready {
    http1: Arc<ClientConfig>,
    http2_or_http1: Arc<ClientConfig>,
    trusts_nobody: bool,
}

impl Tls {
    pub(super) fn new(extra: ExtraRoots) -> Self {
        Self {
            extra,
            ready: OnceLock::new(),
        }
    }

    /// Reads the roots now.
    pub(super) fn prepare(&self) {
        self.ready();
    }

    fn ready(&self) -> &Ready {
        self.ready.get_or_init(|| Ready::new(&self.extra))
    }

    /// The handshake with a host.
    pub(super) async fn shake_hands<S>(
        &self,
        host: &str,
        stream: S,
        protocols: Protocols,
    ) -> Result<TlsStream<S>, String>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let ready = self.ready();
        let config = match protocols {
            Protocols::Http1 => &ready.http1,
            Protocols::Http2OrHttp1 => &ready.http2_or_http1,
        };
        let name = ServerName::try_from(host.to_owned())
            .map_err(|_| format!("{host} is no name that a certificate can be for"))?;
        TlsConnector::from(config.clone())
            .connect(name, stream)
            .await
            .map_err(|error| explain(&error, ready.trusts_nobody))
    }
}

impl Ready {
    fn new(extra: &ExtraRoots) -> Self {
        // Named, because two providers in one process would make rustls panic at the first
        // handshake. Setting it twice (tests) fails harmlessly.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let (config, trusts_nobody) = match Verified::new(extra, &provider) {
            Ok(verifier) => {
                let config = ClientConfig::builder()
                    .dangerous()
                    .with_custom_certificate_verifier(Arc::new(verifier))
                    .with_no_client_auth();
                (config, false)
            }
            // A container without `ca-certificates` can do without TLS.
            Err(error) => {
                tracing::warn!(%error, "the system has no TLS certificates, so no https host can be reached; install the package ca-certificates");
                let config = ClientConfig::builder()
                    .with_root_certificates(RootCertStore::empty())
                    .with_no_client_auth();
                (config, true)
            }
        };
        let speaks = |protocols: &[&[u8]]| {
            let mut config = config.clone();
            config.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
            Arc::new(config)
        };
        Self {
            http1: speaks(&[b"http/1.1"]),
            http2_or_http1: speaks(&[b"h2", b"http/1.1"]),
            trusts_nobody,
        }
    }
}

/// The platform's verifier, and for certificates that are themselves among the extra roots one
/// that takes them for what they are.
///
/// `openssl req -x509` marks what it makes as a CA's certificate, and servers use it as their own.
/// A CA's certificate proves no host; but whoever gave exactly this one with `--ca-file` has said
/// whose it is, so that only its name and its dates are left to check.
#[derive(Debug)]
struct Verified {
    platform: Verifier,
    given: Option<Arc<WebPkiServerVerifier>>,
    extra: ExtraRoots,
}

impl Verified {
    fn new(extra: &ExtraRoots, provider: &Arc<CryptoProvider>) -> Result<Self, Error> {
        let platform = Verifier::new_with_extra_roots(extra.0.iter().cloned(), provider.clone())?;
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(extra.0.iter().cloned());
        // Fails without roots only.
        let given = WebPkiServerVerifier::builder_with_provider(roots.into(), provider.clone());
        Ok(Self {
            platform,
            given: given.build().ok(),
            extra: extra.clone(),
        })
    }
}

impl ServerCertVerifier for Verified {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let given = self.extra.0.iter().any(|extra| extra == end_entity);
        match &self.given {
            Some(verifier) if given => {
                let verified = verifier.verify_server_cert(
                    end_entity,
                    intermediates,
                    server_name,
                    ocsp_response,
                    now,
                );
                match verified {
                    // Found after the dates were; nothing else has been looked at yet.
                    Err(error) if is_a_cas(&error) => {
                        verify_server_name(&ParsedCertificate::try_from(end_entity)?, server_name)?;
                        Ok(ServerCertVerified::assertion())
                    }
                    verified => verified,
                }
            }
            _ => self.platform.verify_server_cert(
                end_entity,
                intermediates,
                server_name,
                ocsp_response,
                now,
            ),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.platform.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.platform.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.platform.supported_verify_schemes()
    }
}

/// Whether a certificate was refused for being marked as a CA's.
fn is_a_cas(error: &Error) -> bool {
    match error {
        Error::InvalidCertificate(CertificateError::Other(why)) => {
            why.0.downcast_ref() == Some(&webpki::Error::CaUsedAsEndEntity)
        }
        _ => false,
    }
}

/// What a failed handshake means, and what can be done.
fn explain(error: &io::Error, trusts_nobody: bool) -> String {
    let Some(tls) = error
        .get_ref()
        .and_then(|inner| inner.downcast_ref::<Error>())
    else {
        return format!("the TLS handshake failed: {error}");
    };
    let because = |why: &dyn fmt::Display| format!("its TLS certificate is refused: {why}");
    match tls {
        _ if is_a_cas(tls) => because(
            &"it is self-signed and marked as a CA's, as `openssl req -x509` makes it. If it is the server's \
              own, give exactly this certificate with --ca-file, or make one with -addext \
              basicConstraints=critical,CA:FALSE",
        ),
        Error::InvalidCertificate(CertificateError::UnknownIssuer) if trusts_nobody => because(
            &"there are no CA certificates on this system. Install the package ca-certificates, or give one \
              with --ca-file",
        ),
        Error::InvalidCertificate(CertificateError::UnknownIssuer) => because(
            &"no CA that is trusted here has signed it. If one of your own has (or a proxy that opens TLS), \
              give the CA's certificate with --ca-file",
        ),
        Error::InvalidCertificate(
            why @ (CertificateError::NotValidForName
            | CertificateError::NotValidForNameContext { .. }),
        ) => because(&format_args!(
            "{why}; the names are those of its subjectAltName"
        )),
        Error::InvalidCertificate(
            why @ (CertificateError::Expired
            | CertificateError::ExpiredContext { .. }
            | CertificateError::NotValidYet
            | CertificateError::NotValidYetContext { .. }),
        ) => because(&format_args!("{why}. Is this machine's clock right?")),
        Error::InvalidCertificate(why) => because(&why),
        Error::InvalidMessage(_) => {
            format!("it does not speak TLS on this port ({tls})")
        }
        Error::AlertReceived(alert) => {
            format!("it has ended the TLS handshake with the alert {alert:?}")
        }
        tls => format!("the TLS handshake failed: {tls}"),
    }
}
