//! Where the database is: a libpq URL, and what this store adds to it.

use std::{fmt, path::PathBuf, time::Duration};

use tokio_postgres::{
    Config,
    config::{Host, SslMode, TargetSessionAttrs},
};

use crate::{
    error::OpenError,
    tls::{Check, Tls},
};

/// How many connections a replica holds, if nothing else is said. Statements are short and none
/// is held while a provider is asked, so that a few serve thousands of refreshes.
const CONNECTIONS: usize = 8;

/// A database and how to reach it. Its `Debug` and `Display` show no password.
#[derive(Clone)]
pub struct PostgresOptions {
    pub(crate) main: Target,
    /// Where to listen for announcements; `None`: do not.
    pub(crate) listener: Option<Target>,
    pub(crate) connections: usize,
}

/// A database as one kind of connection reaches it.
#[derive(Clone)]
pub(crate) struct Target {
    pub(crate) config: Config,
    pub(crate) tls: Tls,
}

impl PostgresOptions {
    /// Reads a URL as `libpq` would: `postgres://user@host,host2:5433/database?sslmode=verify-full`.
    ///
    /// `sslmode` is `disable`, `prefer` (the default), `require`, `verify-ca` or `verify-full`;
    /// `sslrootcert` names a file or `system` (the operating system's roots, also the default of
    /// the `verify` modes); `sslcert` and `sslkey` name the client's certificate and key. The
    /// other parameters are those of `tokio_postgres`. Several hosts are tried in order, and only
    /// one that takes writes is used unless `target_session_attrs` says otherwise. A password
    /// that is not in the URL is taken from `PGPASSWORD`.
    ///
    /// # Errors
    ///
    /// [`OpenError::Url`] and [`OpenError::Tls`], which never repeat the URL.
    pub fn parse(url: &str) -> Result<Self, OpenError> {
        let main = Target::parse(url)?;
        Ok(Self {
            listener: Some(main.clone()),
            main,
            connections: CONNECTIONS,
        })
    }

    /// Listens elsewhere: a pooler in transaction mode cannot hold the session that listening
    /// needs.
    ///
    /// # Errors
    ///
    /// As [`parse`](Self::parse).
    pub fn listening_at(mut self, url: &str) -> Result<Self, OpenError> {
        self.listener = Some(Target::parse(url)?);
        Ok(self)
    }

    /// Neither listens nor announces: for engines without `LISTEN` and `NOTIFY`. Changes of other
    /// replicas are then heard of at the next poll.
    #[must_use]
    pub fn polling_only(mut self) -> Self {
        self.listener = None;
        self
    }

    /// The most connections that are held, beside the one that listens.
    #[must_use]
    pub fn connections(mut self, most: usize) -> Self {
        self.connections = most.max(1);
        self
    }
}

impl Target {
    fn parse(url: &str) -> Result<Self, OpenError> {
        let malformed = || {
            OpenError::Url(
                "it is not of the form postgres://user:password@host:port/database?sslmode=...; \
                 special characters in a password must be percent-encoded",
            )
        };
        let (place, query) = url.split_once('?').unwrap_or((url, ""));
        // A part of a password that was not encoded: nothing of it may be repeated.
        if query.contains('@') {
            return Err(malformed());
        }
        let mut ours = TlsParameters::default();
        let mut theirs = Vec::new();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').ok_or_else(malformed)?;
            let value_text = || {
                percent_encoding::percent_decode_str(value)
                    .decode_utf8()
                    .map(String::from)
                    .map_err(|_| malformed())
            };
            match name {
                "sslmode" => ours.mode = Some(value_text()?),
                "sslrootcert" => ours.roots = Some(value_text()?),
                "sslcert" => ours.certificate = Some(value_text()?.into()),
                "sslkey" => ours.key = Some(value_text()?.into()),
                _ => theirs.push(pair),
            }
        }
        let mut config: Config = format!("{place}?{}", theirs.join("&"))
            .parse()
            .map_err(|_| malformed())?;
        if config.get_hosts().is_empty() && config.get_hostaddrs().is_empty() {
            return Err(OpenError::Url("it names no host"));
        }
        if config.get_password().is_none()
            && let Some(password) = std::env::var_os("PGPASSWORD")
        {
            config.password(password.as_encoded_bytes());
        }
        if config.get_application_name().is_none() {
            config.application_name("tokenward");
        }
        if config.get_hosts().len() > 1 && !query.contains("target_session_attrs") {
            config.target_session_attrs(TargetSessionAttrs::ReadWrite);
        }
        // A host that has gone without a word is noticed in seconds, not in the system's hours.
        if config.get_connect_timeout().is_none() {
            config.connect_timeout(Duration::from_secs(3));
        }
        if !query.contains("keepalives_idle") {
            config
                .keepalives_idle(Duration::from_secs(10))
                .keepalives_interval(Duration::from_secs(3))
                .keepalives_retries(3);
        }
        if config.get_tcp_user_timeout().is_none() {
            config.tcp_user_timeout(Duration::from_secs(10));
        }
        let (mode, tls) = ours.read()?;
        config.ssl_mode(mode);
        Ok(Self { config, tls })
    }
}

/// What `libpq` knows of TLS and `tokio_postgres` leaves to others.
#[derive(Default)]
struct TlsParameters {
    mode: Option<String>,
    roots: Option<String>,
    certificate: Option<PathBuf>,
    key: Option<PathBuf>,
}

impl TlsParameters {
    fn read(self) -> Result<(SslMode, Tls), OpenError> {
        let (mode, check) = match (self.mode.as_deref(), self.roots.as_deref()) {
            (Some("disable"), _) => return Ok((SslMode::Disable, Tls::off())),
            (None | Some("prefer"), _) => (SslMode::Prefer, Check::Nothing),
            // As in libpq: with roots at hand, `require` checks that they signed.
            (Some("require"), None) => (SslMode::Require, Check::Nothing),
            (Some("require" | "verify-ca"), _) => (SslMode::Require, Check::Issuer),
            (Some("verify-full"), _) => (SslMode::Require, Check::IssuerAndName),
            (Some(_), _) => {
                return Err(OpenError::Url(
                    "sslmode is one of disable, prefer, require, verify-ca, verify-full",
                ));
            }
        };
        let roots = self
            .roots
            .filter(|roots| roots != "system")
            .map(PathBuf::from);
        let identity = match (self.certificate, self.key) {
            (Some(certificate), Some(key)) => Some((certificate, key)),
            (None, None) => None,
            _ => return Err(OpenError::Url("sslcert and sslkey go together")),
        };
        Ok((mode, Tls::new(check, roots.as_deref(), identity)?))
    }
}

/// User, hosts and database: what a person needs to know which one it is.
impl fmt::Display for PostgresOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let config = &self.main.config;
        f.write_str("postgres://")?;
        if let Some(user) = config.get_user() {
            write!(f, "{user}@")?;
        }
        for (number, host) in config.get_hosts().iter().enumerate() {
            if number > 0 {
                f.write_str(",")?;
            }
            match host {
                Host::Tcp(name) => f.write_str(name)?,
                #[cfg(unix)]
                Host::Unix(folder) => write!(f, "{}", folder.display())?,
            }
            let ports = config.get_ports();
            if let Some(port) = ports.get(number).or(ports.first()) {
                write!(f, ":{port}")?;
            }
        }
        write!(f, "/{}", config.get_dbname().unwrap_or_default())
    }
}

impl fmt::Debug for PostgresOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PostgresOptions({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &str = "hunter2";

    #[test]
    fn a_url_is_shown_without_its_password() {
        let options = PostgresOptions::parse(&format!(
            "postgres://ann:{SECRET}@db1,db2:5433/vault?sslmode=disable&keepalives_idle=7"
        ))
        .unwrap();
        assert_eq!(
            options.to_string(),
            "postgres://ann@db1:5432,db2:5433/vault"
        );
        assert!(!format!("{options:?}").contains(SECRET));
        assert_eq!(
            options.main.config.get_target_session_attrs(),
            TargetSessionAttrs::ReadWrite
        );
        assert_eq!(
            options.main.config.get_keepalives_idle(),
            Duration::from_secs(7)
        );
    }

    #[test]
    fn what_cannot_be_read_is_refused_without_being_repeated() {
        for url in [
            "postgres://ann:hunter2",
            "postgres://ann:hun?ter2@db/vault",
            "postgres://ann:hunter2@db:port/vault",
            "postgres://ann:hunter2@db/vault?sslmode=hunter2",
            "postgres://ann:hunter2@db/vault?hunter2=1",
            "postgres://ann:hunter2@db/vault?sslcert=hunter2",
            "mysql://ann:hunter2@db/vault",
            "hunter2",
        ] {
            let error = PostgresOptions::parse(url).expect_err(url);
            let said = format!("{error} {error:?}");
            assert!(
                !said.contains("hunter2") && !said.contains("ter2"),
                "{url}: {said}"
            );
        }
    }

    #[test]
    fn a_root_certificate_that_cannot_be_read_is_named() {
        let error = PostgresOptions::parse(
            "postgres://db/vault?sslmode=verify-full&sslrootcert=%2Fnowhere%2Fca.pem",
        )
        .expect_err("no such file");
        assert!(error.to_string().contains("/nowhere/ca.pem"), "{error}");
    }
}
