//! Signals, and readers that go away.

use std::{
    process::{Child, Stdio},
    time::Duration,
};

use http::Method;
use tokenward_testkit::{
    Signal,
    sandbox::{Fault, Rotation, Sandbox},
    signal,
};

use crate::harness::{REVOKES, TestVault, expired, said};

const A_WHILE: Duration = Duration::from_millis(500);

fn spawn(vault: &TestVault, args: &[&str]) -> Child {
    vault
        .command(args)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

async fn ended(child: Child) -> std::process::Output {
    tokio::task::spawn_blocking(|| child.wait_with_output())
        .await
        .unwrap()
        .unwrap()
}

async fn asked(sandbox: &Sandbox, count: u64) {
    sandbox
        .when(|books| books.total.refresh_requests == count)
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_closed_terminal_loses_no_refresh() {
    let (sandbox, vault) = expired(A_WHILE, Rotation::Revokes, REVOKES).await;
    for command in ["token", "validate"] {
        let before = sandbox.books().total.refresh_requests;
        let mut child = spawn(&vault, &[command, "acme/sandbox"]);
        asked(&sandbox, before + 1).await;
        // What a terminal does that is closed: nobody reads any more, and a signal.
        drop((child.stdout.take(), child.stderr.take()));
        signal(child.id(), Signal::HUP).unwrap();
        assert_eq!(ended(child).await.status.code(), Some(130));
        let grant = vault.json(&["connections", "show", "acme/sandbox", "--json"]);
        assert_eq!(
            grant["grant"]["version"],
            2 + before,
            "it was saved: {grant}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_signal_ends_at_once() {
    let (sandbox, vault) = expired(Duration::ZERO, Rotation::Revokes, REVOKES).await;
    sandbox.inject(Fault::HangBeforeRotation, 1);
    let child = spawn(&vault, &["token", "acme/sandbox"]);
    sandbox.when(|books| books.total.hanging == 1).await;
    let mut server = vault.serve(&[]).await;
    let waiting = server.proxy(Method::GET, "/x");
    let waiting = tokio_util::task::TaskTracker::new().spawn(waiting.try_send());
    while server
        .proxy(Method::GET, "/x")
        .header("x-apideck-timeout", "1")
        .send()
        .await
        .status
        != 504
    {}
    let ids = [child.id(), server.child.id().unwrap()];
    // The provider never answers: nothing but the second signal ends them before its time is up.
    for id in ids {
        signal(id, Signal::TERM).unwrap();
    }
    while !vault.log().contains("a second signal ends at once") {
        tokio::task::yield_now().await;
    }
    // The command has said so when its standard error has it; the server is told again in any case.
    tokio::time::sleep(Duration::from_millis(200)).await;
    for id in ids {
        signal(id, Signal::TERM).unwrap();
    }
    assert_eq!(ended(child).await.status.code(), Some(130));
    assert_eq!(server.child.wait().await.unwrap().code(), Some(130));
    let _ = waiting.await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hangup_makes_a_server_read_its_files_anew_and_serve_on() {
    let (sandbox, vault) = expired(A_WHILE, Rotation::Revokes, REVOKES).await;
    let file = vault.path().join("requests.log");
    let server = vault
        .serve(&["--request-log", file.to_str().unwrap()])
        .await;
    let request = server.proxy(Method::GET, "/x").try_send();
    let (answer, ()) = tokio::join!(request, async {
        asked(&sandbox, 1).await;
        signal(server.child.id().unwrap(), Signal::HUP).unwrap();
    });
    assert_eq!(answer.unwrap().status, 200);
    while !vault.log().contains("reading files anew") {
        tokio::task::yield_now().await;
    }
    let lines = |name: &str| {
        let text = std::fs::read_to_string(vault.path().join(name)).unwrap_or_default();
        text.lines().count()
    };
    while lines("requests.log") != 1 {
        tokio::task::yield_now().await;
    }
    std::fs::rename(&file, vault.path().join("old.log")).unwrap();
    signal(server.child.id().unwrap(), Signal::HUP).unwrap();
    while vault.log().matches("reading files anew").count() < 2 {
        tokio::task::yield_now().await;
    }
    assert_eq!(server.proxy(Method::GET, "/x").send().await.status, 200);
    assert!(server.stop().await.success());
    assert_eq!((lines("old.log"), lines("requests.log")), (1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_leaves_is_no_error() {
    let (_sandbox, vault) = expired(Duration::ZERO, Rotation::Revokes, REVOKES).await;
    for args in [
        &["connections", "list"][..],
        &["connections", "list", "--json"],
        &["connectors", "list"],
        &["token", "acme/sandbox"],
        &["applications", "list"],
    ] {
        let (read, write) = std::io::pipe().unwrap();
        drop(read);
        let mut command = vault.command(args);
        let output = command.stdout(write).output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{args:?}: {}", said(&output));
        assert_eq!(said(&output).trim(), "", "{args:?}");
    }
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full");
    let mut command = vault.command(&["connections", "list"]);
    let output = command.stdout(full.unwrap()).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(
        said(&output).contains("standard output"),
        "{}",
        said(&output)
    );
}
