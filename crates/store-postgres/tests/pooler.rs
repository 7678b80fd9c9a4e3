//! Behind pgbouncer in transaction mode, where every statement may meet another session.

#![expect(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod scene;

use std::{
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Arc,
    time::Duration,
};

use scene::{cluster, granted, open, refreshed};
use tokenward::store::{ConnectionPatch, prelude::*};
use tokenward_store_postgres::{PostgresOptions, PostgresStore};
use tokenward_testkit::postgres::PostgresCluster;
use tokio::{task::JoinSet, time::timeout};

struct Pooler {
    child: Child,
    url: String,
}

impl Drop for Pooler {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn program() -> PathBuf {
    let named = std::env::var_os("TOKENWARD_PGBOUNCER").map(PathBuf::from);
    let usual = ["/usr/sbin/pgbouncer", "/usr/bin/pgbouncer"].map(PathBuf::from);
    named
        .into_iter()
        .chain(usual)
        .find(|path| path.exists())
        .expect("pgbouncer is missing; scripts/deps.sh installs it")
}

/// Two sessions for everybody.
fn start(program: &Path, cluster: &PostgresCluster) -> Pooler {
    let folder = cluster.data().parent().unwrap().to_owned();
    let port = 6432;
    let configuration = format!(
        "[databases]\nvault = host={folder} port={server} user=tokenward dbname=vault\n\
         [pgbouncer]\nlisten_addr =\nlisten_port = {port}\nunix_socket_dir = {folder}\n\
         auth_type = any\npool_mode = transaction\ndefault_pool_size = 2\nmax_client_conn = 200\n",
        folder = folder.display(),
        server = cluster.port(),
    );
    let file = folder.join("pgbouncer.ini");
    std::fs::write(&file, configuration).unwrap();
    cluster.hand_over(&file).unwrap();
    let mut command = Command::new(program);
    // Root may not run it.
    if Command::new("id").arg("-u").output().unwrap().stdout == b"0\n" {
        command.args(["-u", "postgres"]);
    }
    let child = command
        .arg(&file)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let socket = folder.display().to_string().replace('/', "%2F");
    Pooler {
        child,
        url: format!("postgres://tokenward@{socket}:{port}/vault"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pooler_in_transaction_mode_may_stand_between() {
    let cluster = cluster(&[]);
    let pooler = start(&program(), &cluster);
    let options = PostgresOptions::parse(&pooler.url)
        .unwrap()
        .listening_at(&cluster.url())
        .unwrap();
    let store = Arc::new(PostgresStore::open(options).await.unwrap());
    let direct = open(&cluster.url()).await;
    let mut owners = JoinSet::new();
    for number in 0..16 {
        let store = store.clone();
        owners.spawn(async move {
            let grant = format!("g{number}");
            granted(&*store, &grant).await;
            let mut version = 1;
            for _ in 0..20 {
                version = refreshed(&*store, &grant, version).await;
            }
            let patch = ConnectionPatch {
                enabled: Some(false),
                ..ConnectionPatch::default()
            };
            let key = scene::key(&grant);
            store.save_connection(&key, patch).await.unwrap();
            store.delete_connection(&key).await.unwrap().is_some()
        });
    }
    assert!(owners.join_all().await.into_iter().all(|deleted| deleted));
    // What is announced through the pooler is heard by a session beside it, and the other way.
    granted(&*store, "g").await;
    let mut version = 1;
    timeout(Duration::from_secs(60), async {
        loop {
            version = refreshed(&direct, "g", version).await;
            let heard = timeout(Duration::from_secs(1), store.news());
            if heard.await.is_ok() {
                break;
            }
        }
        loop {
            version = refreshed(&*store, "g", version).await;
            if timeout(Duration::from_secs(1), direct.news()).await.is_ok() {
                break;
            }
        }
    })
    .await
    .unwrap();
}
