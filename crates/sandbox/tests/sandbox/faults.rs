//! Each fault of the token endpoint: what the client sees, and whether it rotated.

use std::time::Duration;

use http::{StatusCode, header};
use tokenward_sandbox::{Fault, Rotation, Sandbox, SandboxConfig};

use crate::client::{Answer, ID, refresh, refreshed, refused, start, with_grant};

/// A refresh that meets a fault: the answer, and whether the refresh token was used up.
async fn meet(fault: Fault) -> (hyper::Result<Answer>, bool) {
    let (sandbox, issued) = with_grant(refusing()).await;
    sandbox.inject(fault, 1);
    let answer = refresh(&sandbox, &issued.refresh_token).await;
    let counts = sandbox.books().grant(issued.grant_id);
    assert_eq!(counts.faults, 1);
    let rotated = !sandbox.refresh_is_live(&issued.refresh_token);
    assert_eq!(counts.refreshes_granted, u64::from(rotated));

    // The fault was for one request.
    let second = refresh(&sandbox, &issued.refresh_token).await.unwrap();
    let spent = second.status == StatusCode::BAD_REQUEST;
    assert_eq!(spent, rotated);
    sandbox.shutdown().await;
    (answer, rotated)
}

fn refusing() -> SandboxConfig {
    SandboxConfig {
        rotation: Rotation::Refused,
        ..SandboxConfig::default()
    }
}

#[tokio::test]
async fn latency_only_delays() {
    let (answer, rotated) = meet(Fault::Latency(Duration::from_millis(4))).await;
    assert_eq!(answer.unwrap().status, StatusCode::OK);
    assert!(rotated);
}

#[tokio::test]
async fn drop_before_rotation() {
    let (answer, rotated) = meet(Fault::DropBeforeRotation).await;
    assert!(answer.is_err());
    assert!(!rotated);
}

#[tokio::test]
async fn drop_after_rotation() {
    let (answer, rotated) = meet(Fault::DropAfterRotation).await;
    assert!(answer.is_err());
    assert!(rotated);
}

#[tokio::test]
async fn too_many_requests() {
    let retry_after = Some(Duration::from_millis(1500));
    let (answer, rotated) = meet(Fault::TooManyRequests { retry_after }).await;
    let answer = answer.unwrap();
    assert_eq!(answer.status, StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(answer.header(header::RETRY_AFTER), "2");
    assert!(!rotated);

    let (answer, _) = meet(Fault::TooManyRequests { retry_after: None }).await;
    assert_eq!(answer.unwrap().headers.get(header::RETRY_AFTER), None);
}

#[tokio::test]
async fn server_error_with_and_without_rotation() {
    for rotate in [false, true] {
        let status = 503;
        let (answer, rotated) = meet(Fault::ServerError { status, rotate }).await;
        assert_eq!(answer.unwrap().status, StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(rotated, rotate);
    }
}

#[tokio::test]
async fn malformed_body_with_and_without_rotation() {
    for rotate in [false, true] {
        let (answer, rotated) = meet(Fault::MalformedBody { rotate }).await;
        let answer = answer.unwrap();
        assert_eq!(answer.status, StatusCode::OK);
        assert!(serde_json::from_slice::<serde_json::Value>(&answer.body).is_err());
        assert_eq!(rotated, rotate);
    }
}

#[tokio::test]
async fn ok_with_error() {
    let error = "bad_refresh_token".to_owned();
    let (answer, rotated) = meet(Fault::OkWithError { error }).await;
    let answer = answer.unwrap();
    assert_eq!(answer.status, StatusCode::OK);
    assert_eq!(answer.text("error"), "bad_refresh_token");
    assert!(!rotated);
}

#[tokio::test]
async fn missing_expires_in() {
    let (answer, rotated) = meet(Fault::MissingExpiresIn).await;
    let body = answer.unwrap().json();
    assert_eq!(body.get("expires_in"), None);
    assert!(body["refresh_token"].is_string());
    assert!(rotated);
}

#[tokio::test]
async fn an_omitted_refresh_token_keeps_the_old_one() {
    let (sandbox, issued) = with_grant(refusing()).await;
    sandbox.inject(Fault::OmitRefreshToken, 1);
    let body = refreshed(&sandbox, &issued.refresh_token).await.json();
    assert_eq!(body.get("refresh_token"), None);
    let body = refreshed(&sandbox, &issued.refresh_token).await.json();
    assert!(body["refresh_token"].is_string());
}

#[tokio::test]
async fn invalid_grant_without_cause() {
    let (sandbox, issued) = with_grant(refusing()).await;
    sandbox.inject(Fault::InvalidGrant, 1);
    refused(&sandbox, &issued.refresh_token).await;
    refreshed(&sandbox, &issued.refresh_token).await;
    let counts = sandbox.books().grant(issued.grant_id);
    assert_eq!(counts.refreshes_refused, 1);
    assert_eq!(counts.replays_refused, 0);
}

/// Whether the token is used up while the request hangs, and after it was released.
async fn hang(fault: Fault) -> (bool, bool) {
    let (sandbox, issued) = with_grant(refusing()).await;
    sandbox.inject(fault, 1);
    let meanwhile = async {
        sandbox.when(|books| books.total.hanging == 1).await;
        let live = sandbox.refresh_is_live(&issued.refresh_token);
        sandbox.release();
        live
    };
    let (answer, live) = tokio::join!(refreshed(&sandbox, &issued.refresh_token), meanwhile);
    assert!(sandbox.access_is_live(&answer.text("access_token")));
    assert_eq!(sandbox.books().total.answers_lost, 0);
    let live_after = sandbox.refresh_is_live(&issued.refresh_token);
    (!live, !live_after)
}

#[tokio::test]
async fn hung_requests_go_on_when_released() {
    assert_eq!(hang(Fault::HangBeforeRotation).await, (false, true));
    assert_eq!(hang(Fault::HangAfterRotation).await, (true, true));
}

/// The client leaves while its request hangs. Returns whether the token was used up.
async fn leave(fault: Fault) -> (Sandbox, bool) {
    let (sandbox, issued) = with_grant(refusing()).await;
    sandbox.inject(fault, 1);
    tokio::select! {
        _ = refresh(&sandbox, &issued.refresh_token) => panic!("it was answered"),
        () = sandbox.when(|books| books.total.hanging == 1) => {}
    }
    sandbox.when(|books| books.total.hanging == 0).await;
    let live = sandbox.refresh_is_live(&issued.refresh_token);
    (sandbox, !live)
}

#[tokio::test]
async fn the_books_know_of_answers_that_were_lost() {
    let (sandbox, rotated) = leave(Fault::HangBeforeRotation).await;
    assert!(!rotated);
    assert_eq!(sandbox.books().total.answers_lost, 0);

    let (sandbox, rotated) = leave(Fault::HangAfterRotation).await;
    assert!(rotated);
    assert_eq!(sandbox.books().total.answers_lost, 1);

    for fault in [
        Fault::DropAfterRotation,
        Fault::MalformedBody { rotate: true },
    ] {
        let (sandbox, issued) = with_grant(refusing()).await;
        sandbox.inject(fault, 1);
        let _ = refresh(&sandbox, &issued.refresh_token).await;
        assert_eq!(sandbox.books().grant(issued.grant_id).answers_lost, 1);
    }
}

#[tokio::test]
async fn a_client_that_leaves_does_not_stop_the_rotation() {
    let config = SandboxConfig {
        token_latency: Duration::from_millis(20),
        ..refusing()
    };
    let (sandbox, issued) = with_grant(config).await;
    tokio::select! {
        _ = refresh(&sandbox, &issued.refresh_token) => panic!("it was answered"),
        () = sandbox.when(|books| books.total.refresh_requests == 1) => {}
    }
    sandbox
        .when(|books| books.total.refreshes_granted == 1)
        .await;
    sandbox.when(|books| books.total.answers_lost == 1).await;
}

#[tokio::test]
async fn orders_are_for_a_grant_or_stand_until_cleared() {
    let sandbox = start(refusing()).await;
    let (one, two) = (sandbox.issue(ID), sandbox.issue(ID));
    sandbox.inject_for(two.grant_id, Fault::InvalidGrant, 1);
    refreshed(&sandbox, &one.refresh_token).await;
    refused(&sandbox, &two.refresh_token).await;

    sandbox.set_fault(Some(Fault::InvalidGrant));
    refused(&sandbox, &two.refresh_token).await;
    refused(&sandbox, &two.refresh_token).await;
    sandbox.clear_faults();
    refreshed(&sandbox, &two.refresh_token).await;
}

#[tokio::test]
async fn shutdown_ends_hung_requests() {
    let (sandbox, issued) = with_grant(refusing()).await;
    sandbox.inject(Fault::HangAfterRotation, 1);
    let (url, token) = (sandbox.token_url(), issued.refresh_token);
    let hung = async {
        let fields = [("grant_type", "refresh_token"), ("refresh_token", &token)];
        crate::client::as_client(&url, &fields).await
    };
    let shutdown = async {
        sandbox.when(|books| books.total.hanging == 1).await;
        sandbox.shutdown().await;
    };
    let (answer, ()) = tokio::join!(hung, shutdown);
    assert!(answer.is_err());
}
