//! A vault in a private cluster, filled without asking a provider a million times.

use std::{collections::BTreeMap, fmt::Write as _, sync::Arc, time::Duration};

use tokenward::{
    Secret, Vault, VaultConfig,
    connector::Catalogue,
    id::GrantId,
    oauth::TokenSet,
    observe::Blind,
    seal::{Key, Keyring, Purpose},
    spool::NoSpool,
    time::{SeededChance, TokioClock},
    transport::Transport,
    vault::VaultParts,
};
use tokenward_store_postgres::{PostgresOptions, PostgresStore};
use tokenward_testkit::postgres::PostgresCluster;
use tokio_util::task::TaskTracker;

use crate::Failure;

pub(crate) const APP: &str = "acme";
pub(crate) const CONNECTOR: &str = "books";

/// The limiter is out of the way: it is the database that is measured.
const FILE: &str = r#"
id = "books"
name = "Books"
unified_apis = ["accounting"]
[authorization]
url = "https://id.books.example/authorize"
[token]
url = "https://id.books.example/token"
per_second = 1000000
burst = 1000000
[refresh]
rotation = "always"
replay = { policy = "revokes" }
idle_lifetime_s = 5184000
[api]
hosts = ["https://api.books.example"]
"#;

/// Tokens that live, live so long, in milliseconds since 1970: the year 2100.
const ALIVE: u64 = 4_102_444_800_000;
/// Rows in one statement.
const PAGE: u64 = 1_000;

/// How large a vault, and how long it is looked at.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Size {
    pub(crate) grants: u64,
    pub(crate) seconds: Duration,
}

/// Every other grant's token has run out; the others live on.
pub(crate) struct World {
    size: Size,
    cluster: PostgresCluster,
    key: Secret,
}

pub(crate) fn grant(number: u64) -> GrantId {
    GrantId::from(format!("g{number}").as_str())
}

pub(crate) fn consumer(number: u64) -> String {
    format!("c{number}")
}

impl World {
    pub(crate) async fn new(size: Size) -> Result<Self, Failure> {
        let settings = ["shared_buffers=1GB", "max_wal_size=4GB"];
        let world = Self {
            size,
            cluster: PostgresCluster::start_with(&settings, None)?,
            key: Key::generate().to_text(),
        };
        drop(world.store().await?);
        world.fill().await?;
        world.sql("VACUUM ANALYZE")?;
        world.sql("CHECKPOINT")?;
        Ok(world)
    }

    pub(crate) fn size(&self) -> &Size {
        &self.size
    }

    pub(crate) async fn store(&self) -> Result<PostgresStore, Failure> {
        Ok(PostgresStore::open(PostgresOptions::parse(&self.cluster.url())?).await?)
    }

    fn sql(&self, sql: &str) -> Result<String, Failure> {
        Ok(self.cluster.sql("vault", sql)?)
    }

    /// A replica, as `serve` would make it.
    pub(crate) async fn vault(&self, transport: Arc<dyn Transport>) -> Result<Vault, Failure> {
        let mut catalogue = Catalogue::default();
        catalogue.add("books.toml", FILE)?;
        let vault = Vault::open(VaultParts {
            store: Arc::new(self.store().await?),
            keyring: Keyring::parse(&self.key)?,
            transport,
            spool: Arc::new(NoSpool),
            observer: Arc::new(Blind),
            clock: Arc::new(TokioClock::default()),
            chance: Arc::new(SeededChance::from_entropy()),
            catalogue,
            config: VaultConfig::default(),
        });
        let vault = vault.await?;
        let secret = Secret::new("a secret");
        let (app, connector) = (APP.into(), CONNECTOR.into());
        let set = vault.set_client(
            &app,
            &connector,
            "client",
            Some(&secret),
            BTreeMap::new(),
            vec![],
        );
        set.await?;
        vault.start_upkeep();
        Ok(vault)
    }

    /// Lets the tokens that were refreshed run out again. No vault may be open.
    pub(crate) fn expire(&self) -> Result<(), Failure> {
        let sql = format!(
            "UPDATE tokenward.grants SET expires_at = 0 WHERE expires_at NOT IN (0, {ALIVE})"
        );
        self.sql(&sql).map(|_| ())
    }

    async fn fill(&self) -> Result<(), Failure> {
        let keyring = Keyring::parse(&self.key)?;
        let (client, connection) =
            tokio_postgres::connect(&self.cluster.url(), tokio_postgres::NoTls).await?;
        let driver = TaskTracker::new().spawn(connection);
        for from in (0..self.size.grants).step_by(usize::try_from(PAGE)?) {
            let to = self.size.grants.min(from + PAGE);
            client.batch_execute(&page(&keyring, from, to)?).await?;
        }
        drop(client);
        driver.await??;
        Ok(())
    }
}

/// Grants with tokens that open, and a connection for each. None wants keeping alive today.
fn page(keyring: &Keyring, from: u64, to: u64) -> Result<String, Failure> {
    let mut sql = "INSERT INTO tokenward.grants (id, application, connector, version,
            authorized_version, sealed, expires_at, lifetime_ms, keep_alive_at, keep_alive_day,
            fingerprint, epoch, committed_epoch, revision)
        SELECT id, '"
        .to_owned();
    write!(
        sql,
        "{APP}', '{CONNECTOR}', 1, 1, decode(sealed, 'hex'), expires, 3600000, day * 86400000, day,
            sha256(id::bytea), 0, 0, 1
        FROM (SELECT id, sealed, expires,
                  floor(extract(epoch from now()) / 86400)::bigint + 2 + n % 60 AS day
              FROM (VALUES "
    )?;
    for number in from..to {
        let comma = if number == from { "" } else { "," };
        let expires = if number % 2 == 0 { 0 } else { ALIVE };
        let id = grant(number);
        let sealed = hex(&sealed(keyring, &id, number));
        write!(sql, "{comma}('{id}', {number}, '{sealed}', {expires})")?;
    }
    write!(
        sql,
        ") AS page (id, n, sealed, expires)) AS filled;
        INSERT INTO tokenward.connections
        SELECT '{APP}', 'c' || n, 'accounting', '{CONNECTOR}', 'g' || n, true, '{{}}', '{{}}', 0, 0
        FROM generate_series({from}, {to} - 1) AS n"
    )?;
    Ok(sql)
}

fn sealed(keyring: &Keyring, id: &GrantId, number: u64) -> Vec<u8> {
    let purpose = Purpose::TokenSet {
        grant: id,
        version: 1,
    };
    // As long as tokens are that say nothing of themselves.
    let tokens = TokenSet {
        access_token: Some(Secret::new(format!("access-{number:0>480}"))),
        refresh_token: Some(Secret::new(format!("refresh-{number:0>80}"))),
        scope: Vec::new(),
        metadata: BTreeMap::new(),
        client_credentials: false,
    };
    keyring.seal(purpose, &tokens.to_plain())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}
