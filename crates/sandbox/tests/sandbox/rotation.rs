//! Each rotation policy over HTTP, with the books that it writes.

use std::time::Duration;

use http::StatusCode;
use serde_json::json;
use tokenward_sandbox::{EventKind, GrantRequest, Rotation, SandboxConfig};

use crate::client::{ID, api, refresh, refreshed, refused, start, with_grant};

fn config(rotation: Rotation) -> SandboxConfig {
    SandboxConfig {
        rotation,
        ..SandboxConfig::default()
    }
}

#[tokio::test]
async fn never_leaves_the_refresh_token_out() {
    let (sandbox, issued) = with_grant(config(Rotation::Never)).await;
    for _ in 0..3 {
        let answer = refreshed(&sandbox, &issued.refresh_token).await;
        assert_eq!(answer.json().get("refresh_token"), None);
        assert_eq!(
            api(&sandbox, &answer.text("access_token")).await,
            StatusCode::OK
        );
    }
    let counts = sandbox.books().grant(issued.grant_id);
    assert_eq!(counts.refreshes_granted, 3);
    assert_eq!(counts.api_accepted, 3);
    assert_eq!(counts.replays_allowed + counts.replays_refused, 0);
}

#[tokio::test]
async fn grace_gives_each_replay_a_new_pair() {
    let (sandbox, issued) = with_grant(config(Rotation::Grace(Duration::from_secs(3600)))).await;
    let first = refreshed(&sandbox, &issued.refresh_token).await;
    let second = refreshed(&sandbox, &issued.refresh_token).await;
    assert_ne!(first.text("refresh_token"), second.text("refresh_token"));
    refreshed(&sandbox, &first.text("refresh_token")).await;
    refreshed(&sandbox, &second.text("refresh_token")).await;

    let counts = sandbox.books().grant(issued.grant_id);
    assert_eq!(counts.refreshes_granted, 4);
    assert_eq!(counts.replays_allowed, 1);
}

#[tokio::test]
async fn a_grace_that_ended_refuses() {
    let (sandbox, issued) = with_grant(config(Rotation::Grace(Duration::ZERO))).await;
    let first = refreshed(&sandbox, &issued.refresh_token).await;
    refused(&sandbox, &issued.refresh_token).await;
    refreshed(&sandbox, &first.text("refresh_token")).await;
    assert_eq!(sandbox.books().total.replays_refused, 1);
}

#[tokio::test]
async fn refused_keeps_the_family() {
    let (sandbox, issued) = with_grant(config(Rotation::Refused)).await;
    let first = refreshed(&sandbox, &issued.refresh_token).await;
    refused(&sandbox, &issued.refresh_token).await;
    assert_eq!(
        api(&sandbox, &first.text("access_token")).await,
        StatusCode::OK
    );
    refreshed(&sandbox, &first.text("refresh_token")).await;

    let counts = sandbox.books().grant(issued.grant_id);
    assert_eq!(counts.refreshes_granted, 2);
    assert_eq!(counts.refreshes_refused, 1);
    assert_eq!(counts.replays_refused, 1);
    assert_eq!(counts.family_revocations, 0);
}

#[tokio::test]
async fn revokes_kills_the_family_on_reuse() {
    let (sandbox, issued) = with_grant(config(Rotation::Revokes)).await;
    let first = refreshed(&sandbox, &issued.refresh_token).await;
    refused(&sandbox, &issued.refresh_token).await;
    refused(&sandbox, &first.text("refresh_token")).await;
    let api = api(&sandbox, &first.text("access_token")).await;
    assert_eq!(api, StatusCode::UNAUTHORIZED);

    let counts = sandbox.books().grant(issued.grant_id);
    assert_eq!(counts.refreshes_granted, 1);
    assert_eq!(counts.refreshes_refused, 2);
    assert_eq!(counts.replays_refused, 1);
    assert_eq!(counts.family_revocations, 1);
    assert_eq!(counts.api_refused, 1);
    let kinds: Vec<_> = sandbox.timeline().iter().map(|event| event.kind).collect();
    let story = [
        EventKind::Issued,
        EventKind::Seen,
        EventKind::Granted,
        EventKind::Answered,
        EventKind::Seen,
        EventKind::Replay,
        EventKind::Revoked,
        EventKind::Refused,
        EventKind::Answered,
    ];
    assert_eq!(kinds[..story.len()], story);
}

#[tokio::test]
async fn a_grant_may_have_terms_of_its_own() {
    let sandbox = start(config(Rotation::Revokes)).await;
    let request: GrantRequest =
        serde_json::from_value(json!({"access_ttl_ms": 7000, "rotation": "never"})).unwrap();
    let issued = sandbox.issue_grant(&request).unwrap();
    let answer = refreshed(&sandbox, &issued.refresh_token).await;
    assert_eq!(answer.json()["expires_in"], 7);
    refreshed(&sandbox, &issued.refresh_token).await;
}

#[tokio::test]
async fn options_shape_the_reply() {
    let mut config = SandboxConfig {
        send_expires_in: false,
        omit_refresh_token: true,
        refresh_kills_access_token: true,
        ..config(Rotation::Revokes)
    };
    config
        .extra
        .insert("instance_url".into(), "https://eu.example".into());
    let (sandbox, issued) = with_grant(config).await;
    let body = refreshed(&sandbox, &issued.refresh_token).await.json();
    assert_eq!(body["instance_url"], "https://eu.example");
    assert_eq!(body["token_type"], "Bearer");
    assert_eq!(body.get("expires_in"), None);
    assert_eq!(body.get("refresh_token"), None);
    let old = api(&sandbox, &issued.access_token).await;
    assert_eq!(old, StatusCode::UNAUTHORIZED);
    refreshed(&sandbox, &issued.refresh_token).await;
}

#[tokio::test]
async fn tokens_expire_on_command() {
    let sandbox = start(config(Rotation::Refused)).await;
    let stale = sandbox.issue_expiring(ID, Duration::ZERO);
    assert_eq!(
        api(&sandbox, &stale.access_token).await,
        StatusCode::UNAUTHORIZED
    );
    let fresh = refreshed(&sandbox, &stale.refresh_token).await;
    let token = fresh.text("access_token");
    assert_eq!(sandbox.grant_of(&token), Some(stale.grant_id));
    assert!(sandbox.access_is_live(&token));
    assert!(sandbox.expire_access_tokens(stale.grant_id));
    assert_eq!(api(&sandbox, &token).await, StatusCode::UNAUTHORIZED);
    assert!(sandbox.refresh_is_live(&fresh.text("refresh_token")));
}

#[tokio::test]
async fn concurrent_refreshes_are_seen_as_such() {
    let (sandbox, issued) = with_grant(config(Rotation::Never)).await;
    let other = sandbox.issue(ID);
    sandbox.set_fault(Some(tokenward_sandbox::Fault::HangBeforeRotation));
    let all = async {
        tokio::join!(
            refresh(&sandbox, &issued.refresh_token),
            refresh(&sandbox, &issued.refresh_token),
            refresh(&sandbox, &other.refresh_token),
        )
    };
    let release = async {
        sandbox.when(|books| books.total.hanging == 3).await;
        sandbox.release();
    };
    let ((first, second, third), ()) = tokio::join!(all, release);
    for answer in [first, second, third] {
        assert_eq!(answer.unwrap().status, StatusCode::OK);
    }
    let books = sandbox.books();
    assert_eq!(books.grant(issued.grant_id).peak_concurrent_refreshes, 2);
    assert_eq!(books.grant(other.grant_id).peak_concurrent_refreshes, 1);
    assert_eq!(books.total.peak_concurrent_refreshes, 2);
    assert_eq!(books.total.hanging, 0);
}
