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

#[tokio::test(start_paused = true)]
async fn an_answer_is_kept_though_the_store_is_away_when_it_comes() {
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
