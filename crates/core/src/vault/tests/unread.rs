//! Answers that could not be read.

use super::*;

/// Answers in a form that the connector does not know, once; then refuses what is spent.
#[derive(Debug, Default)]
struct Nested(AtomicUsize);

#[async_trait]
impl Transport for Nested {
    async fn exchange(&self, request: TokenRequest, _: Patience) -> Result<Answer, TransportError> {
        let first = self.0.fetch_add(1, Ordering::SeqCst) == 0;
        let sent = String::from_utf8_lossy(&request.body).into_owned();
        let (status, body) = if first {
            let body =
                r#"{"data":{"access_token":"at-2","refresh_token":"rt-2","expires_in":6000}}"#;
            (StatusCode::OK, body)
        } else if sent.contains("refresh_token=rt-2") {
            let body =
                r#"{"data":{"access_token":"at-3","refresh_token":"rt-3","expires_in":6000}}"#;
            (StatusCode::OK, body)
        } else {
            (StatusCode::BAD_REQUEST, r#"{"error":"invalid_grant"}"#)
        };
        Ok(Answer {
            status,
            headers: HeaderMap::new(),
            body: body.into(),
        })
    }
}

impl World {
    async fn open(&self, catalogue: &str, transport: Arc<dyn Transport>) -> Vault {
        let mut known = Catalogue::default();
        known.add("acme.toml", catalogue).unwrap();
        let parts = VaultParts {
            transport,
            catalogue: known,
            ..self.parts()
        };
        Vault::open(parts).await.unwrap()
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_fits_no_dialect_is_kept_and_read_by_a_mended_connector() {
    let world = World::new("revokes").await;
    let provider = Arc::new(Nested::default());
    let text = CONNECTOR.replace("POLICY", "revokes");
    let vault = world.open(&text, provider.clone()).await;
    let key = &world.key;
    assert!(vault.validate(key).await.is_err());
    let kept = vault.unread(key).await.unwrap();
    assert_eq!(kept.len(), 1);
    let shown = format!("{kept:?}");
    assert!(
        !shown.contains("rt-2") && !shown.contains("at-2"),
        "{shown}"
    );
    // Nobody knows better yet.
    let recovered = vault.recover(key).await.unwrap();
    assert!(matches!(recovered, Recovered::Unreadable { answers: 1 }));

    let mended = text.replace(
        "url = \"https://id.acme.example/token\"",
        "url = \"https://id.acme.example/token\"\ntokens_at = \"/data\"",
    );
    let vault = world.open(&mended, provider.clone()).await;
    let recovered = vault.recover(key).await.unwrap();
    assert!(matches!(recovered, Recovered::Done { .. }), "{recovered:?}");
    let token = vault.token(key).await.unwrap();
    assert_eq!(token.secret().expose(), "at-2");
    drop(token);
    // The spent token was never sent again, and the new one works.
    assert_eq!(provider.0.load(Ordering::SeqCst), 1);
    assert!(matches!(
        vault.recover(key).await.unwrap(),
        Recovered::Nothing
    ));
    let token = vault.validate(key).await.unwrap();
    assert_eq!(token.secret().expose(), "at-3");
}

/// The store goes away while the provider answers.
#[derive(Debug)]
struct Away(Nested, Arc<MemoryStore>);

#[async_trait]
impl Transport for Away {
    async fn exchange(
        &self,
        request: TokenRequest,
        patience: Patience,
    ) -> Result<Answer, TransportError> {
        self.1.set_down(true);
        self.0.exchange(request, patience).await
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_is_kept_though_the_store_is_away_when_it_comes() {
    let world = World::new("revokes").await;
    let provider = Arc::new(Away(Nested::default(), world.store.clone()));
    let text = CONNECTOR.replace("POLICY", "revokes");
    let vault = world.open(&text, provider).await;
    assert!(vault.validate(&world.key).await.is_err());
    world.pass(20).await;
    world.store.set_down(false);
    world.pass(5).await;
    assert_eq!(vault.unread(&world.key).await.unwrap().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn what_was_kept_before_the_grant_moved_on_is_not_recovered() {
    let world = World::new("revokes").await;
    let text = CONNECTOR.replace("POLICY", "revokes");
    let vault = world.open(&text, Arc::new(Nested::default())).await;
    assert!(vault.validate(&world.key).await.is_err());
    world.import(&world.key, "9").await;
    let recovered = vault.recover(&world.key).await.unwrap();
    assert!(
        matches!(recovered, Recovered::Outdated | Recovered::Nothing),
        "{recovered:?}"
    );
    assert_eq!(world.token().await.unwrap(), "at-9");
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_cannot_be_read_survives_its_process_while_the_store_is_away() {
    let world = World::new("revokes").await;
    let next = world.other().await;
    let provider = Arc::new(Away(Nested::default(), world.store.clone()));
    let text = CONNECTOR.replace("POLICY", "revokes");
    let vault = world.open(&text, provider).await;
    assert!(vault.validate(&world.key).await.is_err());
    // The process ends before the store is back.
    assert!(vault.drain(Duration::from_secs(1)).await);
    let entries: Vec<_> = std::fs::read_dir(&world.spool.0).unwrap().collect();
    assert_eq!(entries.len(), 1);
    let bytes = std::fs::read(entries[0].as_ref().unwrap().path()).unwrap();
    assert!(!bytes.windows(4).any(|bytes| bytes == b"rt-2"));

    assert_eq!(next.adopt_spool().await, 1);
    world.store.set_down(false);
    assert_eq!(next.adopt_spool().await, 0);
    assert_eq!(std::fs::read_dir(&world.spool.0).unwrap().count(), 0);
    let kept = next.unread(&world.key).await.unwrap();
    let body = String::from_utf8_lossy(kept[0].reply.body());
    assert!(body.contains("rt-2"), "{}", kept.len());
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_cannot_be_read_is_in_the_spool_soon_while_the_store_hangs() {
    #[derive(Debug)]
    struct Hangs(Nested, Arc<MemoryStore>);

    #[async_trait]
    impl Transport for Hangs {
        async fn exchange(
            &self,
            request: TokenRequest,
            patience: Patience,
        ) -> Result<Answer, TransportError> {
            self.1.set_silent(true);
            self.0.exchange(request, patience).await
        }
    }

    let world = World::new("revokes").await;
    let provider = Arc::new(Hangs(Nested::default(), world.store.clone()));
    let text = CONNECTOR.replace("POLICY", "revokes");
    let vault = world.open(&text, provider).await;
    let waited = tokio::time::timeout(Duration::from_millis(150), vault.validate(&world.key));
    assert!(waited.await.is_err());
    assert_eq!(std::fs::read_dir(&world.spool.0).unwrap().count(), 1);
    world.store.set_silent(false);
    world.pass(2).await;
    assert_eq!(vault.unread(&world.key).await.unwrap().len(), 1);
    assert_eq!(std::fs::read_dir(&world.spool.0).unwrap().count(), 0);
}

/// Cuts its one answer, a form, off.
#[derive(Debug)]
struct Cut(&'static str);

#[async_trait]
impl Transport for Cut {
    async fn exchange(&self, _: TokenRequest, _: Patience) -> Result<Answer, TransportError> {
        Err(TransportError::CutOff {
            why: "the connection was reset".to_owned(),
            so_far: Box::new(Answer {
                status: StatusCode::OK,
                headers: HeaderMap::new(),
                body: self.0.into(),
            }),
        })
    }
}

#[tokio::test(start_paused = true)]
async fn what_came_of_a_form_that_was_cut_off_is_used_where_it_is_whole_and_kept_where_not() {
    for (form, whole) in [
        ("access_token=at-2&refresh_token=rt-2&expires_i", true),
        ("access_token=at-2&refresh_token=rt-", false),
    ] {
        let world = World::new("revokes").await;
        let text = CONNECTOR.replace("POLICY", "revokes");
        let vault = world.open(&text, Arc::new(Cut(form))).await;
        let token = vault.validate(&world.key).await;
        let kept = vault.unread(&world.key).await.unwrap();
        if whole {
            assert_eq!(token.unwrap().secret().expose(), "at-2");
            assert!(kept.is_empty(), "{kept:?}");
        } else {
            assert!(token.is_err(), "{token:?}");
            assert_eq!(kept[0].reply.body(), form.as_bytes());
            let recovered = vault.recover(&world.key).await.unwrap();
            assert!(matches!(recovered, Recovered::Unreadable { answers: 1 }));
        }
    }
}
