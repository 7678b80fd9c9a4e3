//! How many connections to the database a replica needs while its providers take their time.

use std::{sync::Arc, time::Duration};

use http::Method;
use tokenward::{
    Secret, VaultConfig,
    id::ConnectionKey,
    observe::Blind,
    vault::{Import, Vault},
};
use tokenward_server::config::{egress::EgressOptions, open::VaultOptions, place::StoreOptions};
use tokenward_testkit::sandbox::{Fault, Rotation, Sandbox, SandboxConfig};
use tokio::task::JoinSet;

use crate::harness::{APP, Call, HOUR, REVOKES, Server, TestVault, all_at_once, connector};

const GRANTS: usize = 2_000;
const REPLICAS: usize = 2;
const POOL: u64 = 4;

fn consumer(number: usize) -> String {
    format!("c{number}")
}

/// As one command for each would do, but in one process.
async fn fill(vault: &TestVault, sandbox: &Sandbox) {
    let options = VaultOptions {
        data_dir: Some(vault.path().to_owned()),
        connectors: None,
        key_file: None,
        egress: EgressOptions::default(),
        store: StoreOptions::at(vault.database.as_ref().unwrap().url.clone()),
    };
    let opened = options.open(VaultConfig::default(), Arc::new(Blind));
    let opened = opened.await.unwrap().vault;
    let mut tasks = JoinSet::new();
    for number in 0..GRANTS {
        if tasks.len() == 16 {
            tasks.join_next().await.unwrap().unwrap();
        }
        let client = SandboxConfig::default().client_id;
        let tokens = sandbox.issue_expiring(&client, Duration::from_millis(10));
        let import = Import {
            access_token: Some(Secret::new(tokens.access_token)),
            refresh_token: Some(Secret::new(tokens.refresh_token)),
            issued_at_ms: Some(0),
            expires_in: Some(HOUR),
            ..Import::default()
        };
        tasks.spawn(import_one(opened.clone(), number, import));
    }
    tasks.join_all().await;
}

async fn import_one(vault: Vault, number: usize, import: Import) {
    let key = ConnectionKey::new(APP, consumer(number), "accounting", "sandbox");
    vault.import(&key, import).await.unwrap();
}

fn call(server: &Server, number: usize) -> Call {
    server
        .bare(Method::GET, "/proxy")
        .header("authorization", &format!("Bearer {}", server.key))
        .header("x-apideck-app-id", APP)
        .header("x-apideck-consumer-id", &consumer(number))
        .header("x-apideck-service-id", "sandbox")
        .header("x-apideck-unified-api", "accounting")
        .header("x-apideck-downstream-url", "/x")
        .header("x-apideck-timeout", "120000")
}

/// The connections of the replica that holds most of them, and how many of all wait in an open
/// transaction for their replica.
fn held(vault: &TestVault) -> (u64, u64) {
    let sql = "SELECT max(held) || ' ' || sum(open) FROM (
            SELECT count(*) AS held,
                count(*) FILTER (WHERE state LIKE 'idle in transaction%') AS open
            FROM pg_stat_activity WHERE application_name LIKE 'replica%'
            GROUP BY application_name
        ) AS replica";
    let said = vault.database.as_ref().unwrap().sql(sql);
    let (most, open) = said.split_once(' ').unwrap();
    (most.parse().unwrap(), open.parse().unwrap())
}

fn claimed_until(vault: &TestVault) -> i64 {
    let sql = "SELECT max(claim_until) FROM tokenward.grants";
    vault.database.as_ref().unwrap().sql(sql).parse().unwrap()
}

fn extended_since(vault: &TestVault, last: i64) -> usize {
    let sql = format!("SELECT count(*) FROM tokenward.grants WHERE claim_until > {last}");
    vault.database.as_ref().unwrap().sql(&sql).parse().unwrap()
}

/// A provider that keeps all of them waiting.
async fn slow_provider() -> (Sandbox, TestVault) {
    let config = SandboxConfig {
        access_ttl: HOUR,
        rotation: Rotation::Revokes,
        ..SandboxConfig::default()
    };
    let sandbox = Sandbox::start(config).await.unwrap();
    let vault = TestVault::on_postgres().await;
    let vault = vault.connected_to(&sandbox, REVOKES);
    // The limiter would send them one after the other.
    let file = connector("sandbox", &sandbox, REVOKES);
    let file = file.replace("[refresh]", "per_second = 10000\nburst = 2000\n[refresh]");
    vault.add_connector("sandbox", &file);
    fill(&vault, &sandbox).await;
    sandbox.set_fault(Some(Fault::HangBeforeRotation));
    (sandbox, vault)
}

async fn replicas(vault: &TestVault) -> Vec<Server> {
    let mut servers = Vec::new();
    for number in 0..REPLICAS {
        let url = &vault.database.as_ref().unwrap().url;
        let url = format!("{url}?application_name=replica{number}");
        let mut command = vault.serve_command(&["--store-connections", &POOL.to_string()]);
        command.env("TOKENWARD_STORE", url);
        servers.push(vault.started(command).await);
    }
    servers
}

#[tokio::test(flavor = "multi_thread")]
async fn thousands_of_refreshes_wait_for_their_provider_on_a_few_connections() {
    rlimit::increase_nofile_limit(65_536).unwrap();
    let (sandbox, vault) = slow_provider().await;
    let servers = replicas(&vault).await;
    let calls = all_at_once(GRANTS, |number| call(&servers[number % REPLICAS], number));
    let watched = async {
        let all = GRANTS as u64;
        sandbox.when(|books| books.total.hanging == all).await;
        let mut samples = vec![held(&vault)];
        // Until claims are being extended, as every few seconds for each that waits.
        let last = claimed_until(&vault);
        while extended_since(&vault, last) < GRANTS / 10 {
            samples.push(held(&vault));
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        assert_eq!(sandbox.books().total.hanging, all);
        sandbox.set_fault(None);
        sandbox.release();
        samples
    };
    let (answers, samples) = tokio::join!(calls, watched);
    for answer in answers {
        assert_eq!(answer.status, 200, "{answer:?}");
    }
    let most = samples.iter().map(|(most, _)| *most).max().unwrap();
    println!(
        "{GRANTS} refreshes under way, {} looks: at most {most} connections of a replica",
        samples.len()
    );
    assert!(
        most <= POOL + 1,
        "{most} connections: the pool's, and the one that listens"
    );
    assert!(samples.iter().all(|(_, open)| *open == 0), "{samples:?}");
    let books = sandbox.books().total;
    assert_eq!(
        (
            books.refresh_requests,
            books.refreshes_granted,
            books.refreshes_refused
        ),
        (GRANTS as u64, GRANTS as u64, 0)
    );
}
