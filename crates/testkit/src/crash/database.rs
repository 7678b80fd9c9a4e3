//! The database under the vault, and what goes wrong with it.

use std::{io, sync::Arc, time::Duration};

use serde::Serialize;
use tokenward::time::{Chance as _, SeededChance};
use tokio::sync::RwLock;
use tokio_util::sync::CancellationToken;

use super::{callers::pick, world::lock};
use crate::postgres::{PostgresCluster, Proxy};

/// Where a vault's rows lie during a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CrashStore {
    /// In the data folder, which all processes share.
    #[default]
    Embedded,
    /// In a private PostgreSQL, which has troubles of its own.
    Postgres,
}

/// What was done to the database.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct DatabaseBooks {
    /// All connections were reset at once.
    pub cuts: u64,
    /// Nobody could connect for a while.
    pub outages: u64,
    /// Nothing came or went for a while, and nobody was told.
    pub holes: u64,
    /// Stopped in good order, and started again.
    pub restarts: u64,
    /// Killed, and started again.
    pub kills: u64,
}

/// A cluster, and the wire by which the servers reach it.
pub(super) struct Database {
    cluster: RwLock<Option<PostgresCluster>>,
    proxy: Proxy,
    /// For the servers, by the wire that is cut.
    pub(super) url: String,
    /// For those whose work is not under test.
    pub(super) steady_url: String,
    books: std::sync::Mutex<DatabaseBooks>,
}

impl Database {
    pub(super) async fn start() -> io::Result<Self> {
        let cluster = tokio::task::spawn_blocking(PostgresCluster::start)
            .await
            .map_err(io::Error::other)??;
        let proxy = Proxy::start(&cluster.socket()).await?;
        Ok(Self {
            url: cluster.url_at(proxy.address()),
            steady_url: cluster.url(),
            proxy,
            cluster: RwLock::new(Some(cluster)),
            books: std::sync::Mutex::default(),
        })
    }

    pub(super) fn books(&self) -> DatabaseBooks {
        *lock(&self.books)
    }

    /// Keeps the server running for as long as the guard lives.
    pub(super) async fn steady(&self) -> impl Drop + use<'_> {
        self.cluster.read().await
    }

    /// Makes trouble until `stop`; all is well when it returns.
    pub(super) async fn trouble(
        self: Arc<Self>,
        seed: u64,
        stop: CancellationToken,
    ) -> io::Result<()> {
        let chance = SeededChance::new(seed);
        loop {
            let pause = Duration::from_millis(500 + pick(1500, &chance) as u64);
            let paused = stop.run_until_cancelled(tokio::time::sleep(pause)).await;
            if paused.is_none() {
                return Ok(());
            }
            match pick(8, &chance) {
                0 => {
                    self.restart(PostgresCluster::kill, |books| books.kills += 1)
                        .await?;
                }
                1 => {
                    self.restart(PostgresCluster::stop, |books| books.restarts += 1)
                        .await?;
                }
                2 | 3 => {
                    lock(&self.books).outages += 1;
                    self.proxy.close();
                    tokio::time::sleep(Duration::from_millis(1200).mul_f64(chance.fraction()))
                        .await;
                    self.proxy.mend();
                }
                4 => {
                    lock(&self.books).holes += 1;
                    self.proxy.swallow();
                    tokio::time::sleep(Duration::from_millis(2500).mul_f64(chance.fraction()))
                        .await;
                    self.proxy.mend();
                }
                _ => {
                    lock(&self.books).cuts += 1;
                    self.proxy.cut();
                }
            }
        }
    }

    async fn restart(
        &self,
        end: fn(&mut PostgresCluster) -> io::Result<()>,
        count: fn(&mut DatabaseBooks),
    ) -> io::Result<()> {
        let mut place = self.cluster.write().await;
        let Some(mut cluster) = place.take() else {
            return Ok(());
        };
        let ended = tokio::task::spawn_blocking(move || {
            end(&mut cluster)?;
            cluster.resume()?;
            Ok::<_, io::Error>(cluster)
        });
        *place = Some(ended.await.map_err(io::Error::other)??);
        count(&mut lock(&self.books));
        Ok(())
    }
}
