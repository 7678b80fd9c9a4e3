//! Several replicas on one PostgreSQL.

use std::time::Duration;

use http::Method;
use tempfile::TempDir;
use tokenward_testkit::sandbox::{Rotation, Sandbox, SandboxConfig};

use crate::harness::{
    APP, CONSUMER, DATABASE_PASSWORD, HOUR, REVOKES, Server, TestVault, all_at_once, said,
};

/// A vault on PostgreSQL whose only token has run out; the provider punishes every repetition.
async fn world(latency: Duration) -> (Sandbox, TestVault) {
    let config = SandboxConfig {
        access_ttl: HOUR,
        token_latency: latency,
        rotation: Rotation::Revokes,
        ..SandboxConfig::default()
    };
    let sandbox = Sandbox::start(config).await.unwrap();
    let vault = TestVault::on_postgres().await;
    let vault = vault.connected_to(&sandbox, REVOKES);
    let tokens = sandbox.issue_expiring(
        &SandboxConfig::default().client_id,
        Duration::from_millis(10),
    );
    vault.import("acme/sandbox", &tokens, HOUR);
    tokio::time::sleep(Duration::from_millis(20)).await;
    (sandbox, vault)
}

async fn three(vault: &TestVault) -> [Server; 3] {
    [
        vault.serve(&[]).await,
        vault.serve(&[]).await,
        vault.serve(&[]).await,
    ]
}

fn refreshed_once(sandbox: &Sandbox) {
    let books = sandbox.books().total;
    assert_eq!(
        (
            books.refresh_requests,
            books.refreshes_granted,
            books.refreshes_refused,
            books.family_revocations
        ),
        (1, 1, 0, 0)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_callers_of_three_replicas_cause_one_refresh() {
    let (sandbox, vault) = world(Duration::from_millis(300)).await;
    let servers = three(&vault).await;
    let calls = all_at_once(1000, |number| servers[number % 3].proxy(Method::GET, "/x"));
    for answer in calls.await {
        assert_eq!(answer.status, 200, "{answer:?}");
    }
    refreshed_once(&sandbox);
}

/// The claim is on record, the provider thinks, and the database dies. Its answer is saved by the
/// database that comes back, or by a replica that finds it in the spool.
#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_dies_during_a_refresh_loses_no_token() {
    let (sandbox, vault) = world(Duration::from_secs(1)).await;
    let servers = three(&vault).await;
    let calls = all_at_once(300, |number| {
        let call = servers[number % 3].proxy(Method::GET, "/x");
        call.header("x-apideck-timeout", "60000")
    });
    let database = vault.database.as_ref().unwrap();
    let (answers, ()) = tokio::join!(calls, async {
        sandbox
            .when(|books| books.total.refresh_requests == 1)
            .await;
        tokio::task::block_in_place(|| database.crash());
        database.proxy.cut();
    });
    for answer in answers {
        assert_eq!(answer.status, 200, "{answer:?}");
    }
    refreshed_once(&sandbox);
    assert_eq!(database.sql("SELECT version FROM tokenward.grants"), "2");
    let log = vault.log();
    assert!(
        log.contains("PostgreSQL") && !log.contains(DATABASE_PASSWORD),
        "{log}"
    );
}

/// A refresh on one replica is what the others serve, long before their copy has run out.
#[tokio::test(flavor = "multi_thread")]
async fn replicas_hear_of_each_others_refreshes() {
    let (sandbox, vault) = world(Duration::ZERO).await;
    let servers = three(&vault).await;
    for server in &servers {
        assert_eq!(server.proxy(Method::GET, "/x").send().await.status, 200);
    }
    refreshed_once(&sandbox);
    let validate = servers[0].call(
        Method::POST,
        "/vault/connections/accounting/sandbox/validate",
    );
    assert_eq!(validate.send().await.status, 200);
    // The old token is refused by the API: a replica that did not hear would ask twice.
    for server in &servers {
        assert_eq!(server.proxy(Method::GET, "/x").send().await.status, 200);
    }
    assert_eq!(sandbox.books().total.refresh_requests, 2);
}

/// A forced refresh joins the one that is under way, whichever replica has begun it.
#[tokio::test(flavor = "multi_thread")]
async fn validations_on_all_replicas_join_the_refresh_that_is_under_way() {
    let (sandbox, vault) = world(Duration::from_secs(3)).await;
    let servers = three(&vault).await;
    let validate = |number: usize| {
        servers[number % 3].call(
            Method::POST,
            "/vault/connections/accounting/sandbox/validate",
        )
    };
    let late = async {
        sandbox
            .when(|books| books.total.refresh_requests == 1)
            .await;
        all_at_once(50, validate).await
    };
    let (first, late) = tokio::join!(validate(0).send(), late);
    for answer in late.iter().chain([&first]) {
        assert_eq!(answer.status, 200, "{answer:?}");
    }
    refreshed_once(&sandbox);
}

/// A database that does not come to an end with what a request needs to know holds its caller no
/// longer than that wants to wait.
#[tokio::test(flavor = "multi_thread")]
async fn a_callers_deadline_covers_the_look_ups_of_keys_and_connections() {
    let (_sandbox, vault) = world(Duration::ZERO).await;
    let database = vault.database.as_ref().unwrap();
    for table in ["api_keys", "connections"] {
        // It has looked nothing up yet.
        let server = vault.serve(&[]).await;
        let mut holder = database.hold(table);
        let call = server.proxy(Method::GET, "/x");
        let answer = call.header("x-apideck-timeout", "1000").send().await;
        answer.error(504, "ProxyTimedOutError");
        // It was answered although nothing has moved.
        assert!(holder.try_wait().unwrap().is_none());
        holder.kill().unwrap();
        holder.wait().unwrap();
        database.release();
    }
}

/// With the database away, who is known is served what is in memory; for the rest it is waited,
/// and a key that was taken away meanwhile is refused as soon as the database says so.
#[tokio::test(flavor = "multi_thread")]
async fn fresh_tokens_are_served_while_the_database_is_away() {
    let (sandbox, vault) = world(Duration::ZERO).await;
    let server = vault.serve(&[]).await;
    assert_eq!(server.proxy(Method::GET, "/x").send().await.status, 200);
    let stranger = server
        .bare(Method::GET, "/proxy")
        .header("authorization", "Bearer tw_of-nobody")
        .header("x-apideck-app-id", APP)
        .header("x-apideck-consumer-id", CONSUMER)
        .header("x-apideck-service-id", "sandbox")
        .header("x-apideck-downstream-url", "/x");
    let database = vault.database.as_ref().unwrap();
    database.proxy.close();
    let known = async {
        // Longer than a key is believed without a look at the database.
        for _ in 0..3 {
            tokio::time::sleep(Duration::from_millis(1500)).await;
            let answer = server.proxy(Method::GET, "/x").send().await;
            assert_eq!(answer.status, 200, "{answer:?}");
        }
    };
    let (refused, ()) = tokio::join!(stranger.send(), known);
    refused.error(503, "ServiceUnavailableError");
    assert!(refused.headers.contains_key("retry-after"));
    refreshed_once(&sandbox);

    database.sql("DELETE FROM tokenward.api_keys");
    assert_eq!(server.proxy(Method::GET, "/x").send().await.status, 200);
    database.proxy.mend();
    while server.proxy(Method::GET, "/x").send().await.status != 401 {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Replicas on several machines have no folder in common: a key of their own would open nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_replica_without_the_key_does_not_start() {
    let (_sandbox, vault) = world(Duration::ZERO).await;
    let elsewhere = TestVault {
        folder: TempDir::new().unwrap(),
        key: String::new(),
        database: None,
    };
    let url = &vault.database.as_ref().unwrap().url;
    let serve = |text: Option<String>| {
        let mut command = elsewhere.command(&["token", "acme/sandbox"]);
        command.env("TOKENWARD_STORE", url);
        if let Some(text) = text {
            command.env("TOKENWARD_KEY", text);
        }
        command.output().unwrap()
    };
    let output = serve(None);
    assert!(!output.status.success(), "{}", said(&output));
    assert!(said(&output).contains("TOKENWARD_KEY"), "{}", said(&output));
    assert!(!elsewhere.path().join("key").exists());
    let key = std::fs::read_to_string(vault.path().join("key")).unwrap();
    // With it, everything is there but the connector's file.
    let output = serve(Some(key));
    assert!(said(&output).contains("sandbox"), "{}", said(&output));
    assert!(
        !said(&output).contains("TOKENWARD_KEY"),
        "{}",
        said(&output)
    );
}

#[test]
fn a_store_that_cannot_be_used_is_named_without_its_password() {
    let vault = TestVault::new();
    for (url, why) in [
        (
            "postgres://ann:hunter2@127.0.0.1:1/vault",
            "postgres://ann@127.0.0.1:1/vault",
        ),
        ("postgres://ann:hun?ter2@db/vault", "percent-encoded"),
        ("mysql://ann:hunter2@db/vault", "begins with postgres://"),
        ("postgres", "only the demo"),
    ] {
        for args in [
            &["applications", "list", "--store", url][..],
            &["applications", "list", "--help"],
        ] {
            let output = vault
                .command(args)
                .env("TOKENWARD_STORE", url)
                .output()
                .unwrap();
            let said = said(&output);
            assert!(
                !said.contains("hunter2") && !said.contains("ter2"),
                "{said}"
            );
            if !args.contains(&"--help") {
                assert!(!output.status.success() && said.contains(why), "{said}");
            }
        }
    }
}
