//! TLS as `libpq` users expect it, on rustls and aws-lc.

use std::{
    fmt, io,
    path::{Path, PathBuf},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        verify_server_name,
    },
    crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject},
    server::ParsedCertificate,
};
use rustls_platform_verifier::BuilderVerifierExt as _;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_postgres::tls::{ChannelBinding, MakeTlsConnect, TlsConnect, TlsStream};
use tokio_rustls::{TlsConnector, client};

use crate::error::OpenError;

/// What is asked of the server's certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Check {
    /// That it has a key to it.
    Nothing,
    /// That a root has signed it.
    Issuer,
    /// And that it names the host.
    IssuerAndName,
}

/// Makes TLS sessions; `None`: cannot.
#[derive(Clone)]
pub(crate) struct Tls(Option<Arc<ClientConfig>>);

impl Tls {
    pub(crate) fn off() -> Self {
        Self(None)
    }

    pub(crate) fn new(
        check: Check,
        roots: Option<&Path>,
        identity: Option<(PathBuf, PathBuf)>,
    ) -> Result<Self, OpenError> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .map_err(OpenError::tls)?;
        let builder = match (check, roots) {
            (Check::IssuerAndName, None) => {
                builder.with_platform_verifier().map_err(OpenError::tls)?
            }
            (Check::Issuer, None) => {
                return Err(OpenError::Url(
                    "sslmode=verify-ca needs sslrootcert; the operating system's roots sign for \
                     everybody, so use verify-full with them",
                ));
            }
            _ => {
                let verifier = Verifier::new(check, roots, provider)?;
                builder
                    .dangerous()
                    .with_custom_certificate_verifier(Arc::new(verifier))
            }
        };
        let config = match identity {
            Some((certificate, key)) => {
                let chain = read_certificates(&certificate)?;
                let key =
                    PrivateKeyDer::from_pem_file(&key).map_err(|error| unreadable(&key, &error))?;
                builder
                    .with_client_auth_cert(chain, key)
                    .map_err(OpenError::tls)?
            }
            None => builder.with_no_client_auth(),
        };
        Ok(Self(Some(Arc::new(config))))
    }
}

fn read_certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, OpenError> {
    let read = CertificateDer::pem_file_iter(file).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    match read {
        Ok(certificates) if certificates.is_empty() => Err(OpenError::Tls(format!(
            "{} holds no certificate",
            file.display()
        ))),
        Ok(certificates) => Ok(certificates),
        Err(error) => Err(unreadable(file, &error)),
    }
}

fn unreadable(file: &Path, error: &rustls::pki_types::pem::Error) -> OpenError {
    OpenError::Tls(format!("{} cannot be read: {error}", file.display()))
}

/// Checks as much as [`Check`] says.
#[derive(Debug)]
struct Verifier {
    check: Check,
    /// Trusted as they stand: a server whose own certificate is the root, as PostgreSQL's manual
    /// makes them.
    pinned: Vec<CertificateDer<'static>>,
    chain: Option<Arc<WebPkiServerVerifier>>,
    provider: Arc<CryptoProvider>,
}

impl Verifier {
    fn new(
        check: Check,
        roots: Option<&Path>,
        provider: Arc<CryptoProvider>,
    ) -> Result<Self, OpenError> {
        let (mut pinned, mut chain) = (Vec::new(), None);
        if let (Check::Issuer | Check::IssuerAndName, Some(file)) = (check, roots) {
            pinned = read_certificates(file)?;
            let mut store = RootCertStore::empty();
            for certificate in &pinned {
                store.add(certificate.clone()).map_err(OpenError::tls)?;
            }
            chain = Some(
                WebPkiServerVerifier::builder_with_provider(Arc::new(store), provider.clone())
                    .build()
                    .map_err(OpenError::tls)?,
            );
        }
        Ok(Self {
            check,
            pinned,
            chain,
            provider,
        })
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let Some(chain) = &self.chain else {
            return Ok(ServerCertVerified::assertion());
        };
        if self.pinned.iter().any(|root| root == end_entity) {
            if self.check == Check::IssuerAndName {
                verify_server_name(&ParsedCertificate::try_from(end_entity)?, server_name)?;
            }
            return Ok(ServerCertVerified::assertion());
        }
        match chain.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now) {
            Err(Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) if self.check == Check::Issuer => Ok(ServerCertVerified::assertion()),
            other => other,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}

/// What a failed handshake means, and what can be done.
pub(crate) fn explain(error: &Error) -> String {
    let because = |why: &dyn fmt::Display| format!("its TLS certificate is refused: {why}");
    match error {
        Error::InvalidCertificate(CertificateError::UnknownIssuer) => because(
            &"no CA that is trusted here has signed it. Give the CA's certificate (or, if it is self-signed, the \
              server's own) with sslrootcert=FILE in the store's URL",
        ),
        Error::InvalidCertificate(
            why @ (CertificateError::NotValidForName
            | CertificateError::NotValidForNameContext { .. }),
        ) => because(&format_args!(
            "{why}. Name the host in the store's URL as its subjectAltName does; sslmode=verify-ca does not look \
             at names"
        )),
        Error::InvalidCertificate(
            why @ (CertificateError::Expired
            | CertificateError::ExpiredContext { .. }
            | CertificateError::NotValidYet
            | CertificateError::NotValidYetContext { .. }),
        ) => because(&format_args!(
            "{why}. The server needs a new one, unless this machine's clock is wrong"
        )),
        Error::InvalidCertificate(why) if format!("{why:?}").contains("CaUsedAsEndEntity") => {
            because(
                &"it is self-signed and marked as a CA's, as `openssl req -x509` makes it. Give exactly this \
                  certificate with sslrootcert=FILE in the store's URL",
            )
        }
        Error::InvalidCertificate(why) => because(why),
        Error::InvalidMessage(_) => format!("it does not speak TLS as it should ({error})"),
        Error::AlertReceived(alert) => format!(
            "it has ended the TLS handshake with the alert {alert:?}. If it wants a client's certificate, give \
             one that it trusts with sslcert and sslkey in the store's URL"
        ),
        error => format!("the TLS handshake failed: {error}"),
    }
}

/// One handshake to be made.
pub(crate) struct Handshake {
    name: Result<ServerName<'static>, io::Error>,
    config: Option<Arc<ClientConfig>>,
}

impl<S> MakeTlsConnect<S> for Tls
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    type Stream = Stream<S>;
    type TlsConnect = Handshake;
    type Error = io::Error;

    fn make_tls_connect(&mut self, host: &str) -> Result<Handshake, io::Error> {
        // Without a name (a socket in the file system) there is no handshake, and this is not read.
        let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other);
        Ok(Handshake {
            name,
            config: self.0.clone(),
        })
    }
}

impl<S> TlsConnect<S> for Handshake
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    type Stream = Stream<S>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Stream<S>>> + Send>>;

    fn connect(self, stream: S) -> Self::Future {
        Box::pin(async move {
            let config = self
                .config
                .ok_or_else(|| io::Error::other("TLS is switched off by sslmode=disable"))?;
            let connector = TlsConnector::from(config);
            Ok(Stream(connector.connect(self.name?, stream).await?))
        })
    }
}

/// An encrypted connection.
pub(crate) struct Stream<S>(client::TlsStream<S>);

impl<S> fmt::Debug for Stream<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Stream")
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> TlsStream for Stream<S> {
    fn channel_binding(&self) -> ChannelBinding {
        ChannelBinding::none()
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Stream<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buffer)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Stream<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_refused_certificate_is_told_with_its_cause_and_the_way_out() {
        let time = |seconds| UnixTime::since_unix_epoch(Duration::from_secs(seconds));
        let name = CertificateError::NotValidForNameContext {
            expected: ServerName::try_from("db.example").unwrap(),
            presented: vec!["DnsName(\"other.example\")".to_owned()],
        };
        let expired = CertificateError::ExpiredContext {
            time: time(2_000_000_000),
            not_after: time(1_900_000_000),
        };
        for (error, words) in [
            (CertificateError::UnknownIssuer, ["no CA", "sslrootcert"]),
            (name, ["db.example", "subjectAltName"]),
            (expired, ["expired", "clock"]),
            (CertificateError::NotValidYet, ["notvalidyet", "clock"]),
            (CertificateError::Revoked, ["refused", "revoked"]),
        ] {
            let said = explain(&Error::InvalidCertificate(error)).to_lowercase();
            for word in words {
                assert!(said.contains(&word.to_lowercase()), "{said}");
            }
        }
        let alert = Error::AlertReceived(rustls::AlertDescription::UnknownCA);
        assert!(explain(&alert).contains("sslcert"));
    }
}
