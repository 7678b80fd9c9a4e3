//! What goes away in the middle: callers, clients, processes. Nothing is lost.

use std::time::Duration;

use http::Method;
use tokenward_testkit::{
    Signal,
    sandbox::{Fault, Rotation, SandboxConfig},
    signal,
};

use crate::harness::{GRACE, HOUR, REVOKES, all_at_once, expired, processes_at_once};

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_hangs_up_cancels_no_refresh() {
    let (sandbox, vault) = expired(Duration::from_millis(600), Rotation::Revokes, REVOKES).await;
    let server = vault.serve(&[]).await;
    for _ in 0..10 {
        let call = server.proxy(Method::GET, "/x").try_send();
        assert!(
            tokio::time::timeout(Duration::from_millis(40), call)
                .await
                .is_err()
        );
    }
    sandbox
        .when(|books| books.total.refreshes_granted == 1)
        .await;
    server.serves().await;
    let books = sandbox.books().total;
    assert_eq!(
        (
            books.refresh_requests,
            books.refreshes_refused,
            books.answers_lost
        ),
        (1, 0, 0)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_during_a_refresh_saves_its_answer() {
    let (sandbox, vault) = expired(Duration::from_millis(800), Rotation::Revokes, REVOKES).await;
    let server = vault.serve(&[]).await;
    let waiting = server.proxy(Method::GET, "/x").try_send();
    let (answer, status) = tokio::join!(waiting, async {
        sandbox
            .when(|books| books.total.refresh_requests == 1)
            .await;
        server.stop().await
    });
    // The request that was under way was answered, too.
    assert_eq!(answer.unwrap().status, 200);
    assert!(status.success());
    let next = vault.serve(&[]).await;
    next.serves().await;
    let books = sandbox.books().total;
    assert_eq!(
        (
            books.refresh_requests,
            books.refreshes_refused,
            books.answers_lost
        ),
        (1, 0, 0)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_after_the_client_has_left_saves_its_answer() {
    let (sandbox, vault) = expired(Duration::from_secs(2), Rotation::Revokes, REVOKES).await;
    let server = vault.serve(&["--shutdown-wait", "20"]).await;
    // The client leaves while the provider thinks, so no request keeps the server.
    tokio::select! {
        answer = server.proxy(Method::GET, "/x").try_send() => panic!("{answer:?}"),
        () = sandbox.when(|books| books.total.refresh_requests == 1) => {}
    }
    assert!(server.stop().await.success());
    assert_eq!(sandbox.books().total.answers_lost, 0);
    let next = vault.serve(&[]).await;
    next.serves().await;
    assert_eq!(sandbox.books().total.refresh_requests, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_owner_is_taken_over_by_the_replay_policy() {
    let rotation = Rotation::Grace(Duration::from_secs(1800));
    let (sandbox, vault) = expired(Duration::from_millis(300), rotation, GRACE).await;
    // The answer is lost with the process, after the provider has rotated.
    sandbox.inject(Fault::HangAfterRotation, 1);
    let mut server = vault.serve(&[]).await;
    let call = server.proxy(Method::GET, "/x").try_send();
    let ((), _) = tokio::join!(
        async {
            sandbox.when(|books| books.total.hanging == 1).await;
        },
        tokio::time::timeout(Duration::from_millis(700), call)
    );
    server.child.kill().await.unwrap();
    let next = vault.serve(&[]).await;
    let answer = next
        .proxy(Method::GET, "/x")
        .header("x-apideck-timeout", "60000")
        .send()
        .await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let books = sandbox.books().total;
    assert_eq!(
        (
            books.refresh_requests,
            books.replays_allowed,
            books.refreshes_refused
        ),
        (2, 1, 0)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn with_a_revoking_provider_a_lost_answer_is_not_asked_for_while_the_token_lives() {
    let (sandbox, vault) = expired(Duration::from_millis(100), Rotation::Revokes, REVOKES).await;
    let tokens =
        sandbox.issue_expiring(&SandboxConfig::default().client_id, Duration::from_secs(20));
    vault.import("acme/sandbox", &tokens, HOUR);
    sandbox.inject(Fault::DropAfterRotation, 1);
    let server = vault.serve(&[]).await;
    // The refresh fails without an answer; the old token lives and serves.
    for answer in all_at_once(50, |_| server.proxy(Method::GET, "/x")).await {
        assert_eq!(answer.status, 200, "{answer:?}");
    }
    let validate = server
        .call(
            Method::POST,
            "/vault/connections/accounting/sandbox/validate",
        )
        .send()
        .await;
    let detail = validate.error(401, "UnauthorizedError");
    assert!(detail.to_string().contains("did not answer"), "{detail}");
    let books = sandbox.books().total;
    assert_eq!((books.refresh_requests, books.family_revocations), (1, 0));
    let shown = vault.json(&["connections", "show", "acme/sandbox", "--json"]);
    assert!(
        shown["grant"]["answer_lost"]["why"]
            .as_str()
            .unwrap()
            .contains("did not answer"),
        "{shown}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn servers_and_commands_on_one_vault_refresh_once() {
    let (sandbox, vault) = expired(Duration::from_millis(300), Rotation::Revokes, REVOKES).await;
    let servers = [vault.serve(&[]).await, vault.serve(&[]).await];
    let vault = std::sync::Arc::new(vault);
    let commands = {
        let vault = vault.clone();
        tokio::task::spawn_blocking(move || {
            processes_at_once(&vault, 8, &["token", "acme/sandbox"])
        })
    };
    for answer in all_at_once(200, |number| servers[number % 2].proxy(Method::GET, "/x")).await {
        assert_eq!(answer.status, 200, "{answer:?}");
    }
    let mut tokens: Vec<_> = commands.await.unwrap();
    assert!(tokens.iter().all(|(success, ..)| *success), "{tokens:?}");
    tokens.dedup_by(|a, b| a.1 == b.1);
    assert_eq!(tokens.len(), 1);
    let books = sandbox.books().total;
    assert_eq!(
        (
            books.refresh_requests,
            books.refreshes_granted,
            books.peak_concurrent_refreshes
        ),
        (1, 1, 1)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interrupted_command_saves_the_answer() {
    let (sandbox, vault) = expired(Duration::from_millis(800), Rotation::Revokes, REVOKES).await;
    let mut child = vault
        .command(&["token", "acme/sandbox"])
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    sandbox
        .when(|books| books.total.refresh_requests == 1)
        .await;
    signal(child.id(), Signal::INT).unwrap();
    let status = tokio::task::spawn_blocking(move || child.wait().unwrap())
        .await
        .unwrap();
    assert_eq!(status.code(), Some(130));
    assert!(vault.run(&["token", "acme/sandbox"]).status.success());
    assert_eq!(sandbox.books().total.refresh_requests, 1);
}
