//! TLS as `libpq` users expect it, against a server with a certificate of its own authority.

#![expect(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod scene;

use std::{path::Path, process::Command};

use scene::{cluster, granted};
use tempfile::TempDir;
use tokenward_store_postgres::{OpenError, PostgresOptions, PostgresStore};
use tokenward_testkit::postgres::PostgresCluster;

struct Server {
    cluster: PostgresCluster,
    files: TempDir,
}

fn openssl(folder: &Path, args: &str) {
    let output = Command::new("openssl")
        .args(args.split_whitespace())
        .current_dir(folder)
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// An authority `ca`, and a certificate with key signed by it.
fn signed(folder: &Path, name: &str, subject: &str, extension: &str) {
    std::fs::write(folder.join("ext"), extension).unwrap();
    openssl(
        folder,
        &format!(
            "req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout {name}.key -out {name}.csr -subj /CN={subject}"
        ),
    );
    openssl(
        folder,
        &format!(
            "x509 -req -in {name}.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 2 -extfile ext -out {name}.crt"
        ),
    );
}

/// A server on loopback that answers with TLS only, for the name `db.test` and no address.
fn server(client_certificates: bool) -> Server {
    let files = TempDir::new().unwrap();
    let folder = files.path();
    for ca in ["ca", "other"] {
        openssl(
            folder,
            &format!(
                "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout {ca}.key -out {ca}.crt -days 2 -subj /CN={ca}"
            ),
        );
    }
    signed(
        folder,
        "server",
        "db.test",
        "subjectAltName=DNS:db.test,DNS:localhost",
    );
    signed(folder, "client", "tokenward", "extendedKeyUsage=clientAuth");
    let mut cluster = cluster(&["listen_addresses=127.0.0.1"]);
    cluster.stop().unwrap();
    for file in ["server.crt", "server.key", "ca.crt"] {
        let to = cluster.data().join(file);
        std::fs::copy(folder.join(file), &to).unwrap();
        cluster.hand_over(&to).unwrap();
    }
    let auth = if client_certificates { "cert" } else { "trust" };
    let rules = format!("hostssl all all 127.0.0.1/32 {auth}\nlocal all all trust\n");
    std::fs::write(cluster.data().join("pg_hba.conf"), rules).unwrap();
    cluster.set(&["ssl=on", "ssl_ca_file=ca.crt"]);
    cluster.resume().unwrap();
    Server { cluster, files }
}

impl Server {
    /// `{F}` is the folder of certificates.
    async fn open(&self, host: &str, query: &str) -> Result<PostgresStore, OpenError> {
        let folder = self.files.path().display().to_string();
        let query = query.replace("{F}", &folder);
        let port = self.cluster.port();
        let url = format!("postgres://tokenward@{host}:{port}/vault?{query}");
        PostgresStore::open(PostgresOptions::parse(&url)?).await
    }

    async fn works(&self, host: &str, query: &str) {
        self.open(host, query)
            .await
            .unwrap_or_else(|error| panic!("{host} {query}: {error}"));
    }

    async fn fails(&self, host: &str, query: &str, why: &str) {
        let error = self.open(host, query).await.expect_err(query).to_string();
        assert!(error.contains(why), "{host} {query}: {error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_are_checked_as_sslmode_says() {
    let server = server(false);
    let (named, numbered) = ("localhost", "127.0.0.1");
    server.works(numbered, "sslmode=require").await;
    server.works(numbered, "sslmode=prefer").await;
    server
        .works(numbered, "sslmode=verify-ca&sslrootcert={F}/ca.crt")
        .await;
    server
        .works(named, "sslmode=verify-full&sslrootcert={F}/ca.crt")
        .await;
    // PostgreSQL's manual has servers that are their own authority: their certificate is trusted
    // as it stands, and its name is still looked at.
    server
        .works(named, "sslmode=verify-full&sslrootcert={F}/server.crt")
        .await;

    server
        .fails(numbered, "sslmode=disable", "no encryption")
        .await;
    server
        .fails(
            numbered,
            "sslmode=verify-full&sslrootcert={F}/ca.crt",
            "subjectAltName",
        )
        .await;
    server
        .fails(
            numbered,
            "sslmode=verify-full&sslrootcert={F}/server.crt",
            "not valid for name",
        )
        .await;
    for mode in ["require", "verify-ca", "verify-full"] {
        let query = format!("sslmode={mode}&sslrootcert={{F}}/other.crt");
        server
            .fails(named, &query, "no CA that is trusted here has signed it")
            .await;
    }
    server
        .fails(named, "sslmode=verify-full", "sslrootcert=FILE")
        .await;
    server
        .fails(named, "sslmode=verify-ca", "sslrootcert")
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_certificate_is_a_password() {
    let server = server(true);
    let store = server
        .open(
            "localhost",
            "sslmode=verify-full&sslrootcert={F}/ca.crt&sslcert={F}/client.crt&sslkey={F}/client.key",
        )
        .await
        .unwrap();
    granted(&store, "g").await;
    server
        .fails("localhost", "sslmode=require", "certificate")
        .await;
}
