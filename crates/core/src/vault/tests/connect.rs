//! Logins: from the first request to a token that is served, and all that is tried against them.

use std::collections::{BTreeMap, BTreeSet};

use aws_lc_rs::digest;
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::json;
use url::{Url, form_urlencoded};

use super::*;
use crate::{
    authorize::{AttemptRow, ConfirmRefused, Failure, Initiator, Intent, Refused, Status},
    id::AttemptId,
    store::Connection,
    vault::{AdminError, Arrived, Begin, Begun, ConnectError, Landed},
};

const ISSUER: &str = "https://id.acme.example";
const PLACE: &str = "https://vault.example/vault/callback/app/acme";
const OTHER_PLACE: &str = "https://vault.example/vault/callback/app/other";
const RETURN_TO: &str = "https://app.example/connected";

const LOGIN_CONNECTOR: &str = r#"
id = "acme"
name = "Acme"
unified_apis = ["crm"]
[authorization]
url = "https://id.acme.example/authorize"
scopes = ["offline"]
[token]
url = "https://id.acme.example/token"
[refresh]
rotation = "always"
replay = { policy = "revokes" }
[identity]
scopes = ["openid"]
issuer = "https://id.acme.example"
callback_issuer = true
subject = { from = "id_token", field = "sub" }
name = { from = "id_token", field = "email" }
[revocation]
url = "https://id.acme.example/revoke"
scope = "grant"
[api]
hosts = ["https://api.acme.example"]
"#;

/// What a code was issued for.
#[derive(Clone, Debug)]
struct Code {
    account: String,
    challenge: Option<String>,
    nonce: Option<String>,
    redirect_uri: String,
}

/// What the provider does with the next code.
#[derive(Clone, Copy, Debug)]
enum With {
    NotSent,
    /// It is spent, and the answer is lost.
    Lose,
    /// The answer breaks off, and does not show whether it is whole.
    CutOff,
    /// A login without an id token.
    Anonymous,
    /// The store goes down with the answer under way.
    StoreDown,
    /// An answer in a form that nobody knows.
    Odd,
    /// The same refresh token for an account, each time.
    SameToken,
}

/// A provider at which people log in. Codes work once; PKCE and redirect URIs are compared.
#[derive(Debug)]
struct Provider {
    clock: Arc<dyn Clock>,
    store: Arc<MemoryStore>,
    codes: Mutex<BTreeMap<String, Code>>,
    spent: Mutex<BTreeSet<String>>,
    next: Mutex<Vec<With>>,
    counter: AtomicUsize,
    /// Codes that arrived, in their order.
    arrived: Mutex<Vec<String>>,
    revoked: Mutex<Vec<String>>,
    latency: Mutex<Duration>,
}

impl Provider {
    /// A person logs in: the query with which the browser is sent back.
    fn login(&self, url: &Url, account: &str) -> String {
        let asked: BTreeMap<String, String> = url.query_pairs().into_owned().collect();
        let code = format!("code-{}", self.counter.fetch_add(1, Ordering::SeqCst));
        let issued = Code {
            account: account.to_owned(),
            challenge: asked.get("code_challenge").cloned(),
            nonce: asked.get("nonce").cloned(),
            redirect_uri: asked["redirect_uri"].clone(),
        };
        lock(&self.codes).insert(code.clone(), issued);
        form_urlencoded::Serializer::new(String::new())
            .append_pair("code", &code)
            .append_pair("state", &asked["state"])
            .append_pair("iss", ISSUER)
            .finish()
    }

    fn code_answer(&self, form: &BTreeMap<String, String>, with: Option<With>) -> (u16, String) {
        let refused = |why: &str| {
            let body = json!({ "error": "invalid_grant", "error_description": why });
            (400, body.to_string())
        };
        let code = &form["code"];
        lock(&self.arrived).push(code.clone());
        let Some(issued) = lock(&self.codes).get(code).cloned() else {
            return refused("unknown code");
        };
        if !lock(&self.spent).insert(code.clone()) {
            return refused("spent code");
        }
        if issued.redirect_uri != form["redirect_uri"] {
            return refused("redirect_uri");
        }
        let verified = form.get("code_verifier").map(|verifier| {
            URL_SAFE_NO_PAD.encode(digest::digest(&digest::SHA256, verifier.as_bytes()))
        });
        if issued.challenge != verified {
            return refused("code_verifier");
        }
        let number = self.counter.fetch_add(1, Ordering::SeqCst);
        let account = &issued.account;
        let refresh_token = match with {
            Some(With::SameToken) => format!("rt-{account}"),
            _ => format!("rt-{account}-{number}"),
        };
        let mut body = json!({
            "access_token": format!("at-{account}-{number}"),
            "refresh_token": refresh_token,
            "expires_in": 600,
            "scope": "offline openid",
        });
        if !matches!(with, Some(With::Anonymous)) {
            let claims = json!({
                "iss": ISSUER, "aud": "id", "sub": account, "exp": 4_000_000_000_u64,
                "nonce": issued.nonce, "email": format!("{account}@example.com"),
            });
            let payload = URL_SAFE_NO_PAD.encode(claims.to_string());
            body["id_token"] = json!(format!("e30.{payload}.x"));
        }
        match with {
            Some(With::Odd) => (200, json!({ "result": body }).to_string()),
            _ => (200, body.to_string()),
        }
    }
}

#[async_trait]
impl Transport for Provider {
    async fn exchange(&self, request: TokenRequest, _: Patience) -> Result<Answer, TransportError> {
        let form: BTreeMap<String, String> =
            form_urlencoded::parse(&request.body).into_owned().collect();
        let mut with = None;
        let (status, body) = match (request.endpoint.url().path(), form.get("code")) {
            ("/revoke", _) => {
                lock(&self.revoked).push(form["token"].clone());
                (200, String::new())
            }
            (_, Some(_)) => {
                with = lock(&self.next).pop();
                if let Some(With::NotSent) = with {
                    return Err(TransportError::NotSent("connection refused".to_owned()));
                }
                let latency = *lock(&self.latency);
                self.clock.sleep(latency / 2).await;
                self.code_answer(&form, with)
            }
            _ => {
                let latency = *lock(&self.latency);
                self.clock.sleep(latency / 2).await;
                let number = self.counter.fetch_add(1, Ordering::SeqCst);
                let token = &form["refresh_token"];
                let body = json!({ "access_token": format!("{token}-refreshed-{number}"),
                    "refresh_token": format!("{token}+"), "expires_in": 600 });
                (200, body.to_string())
            }
        };
        let latency = *lock(&self.latency);
        if let Some(With::StoreDown) = with {
            self.store.set_down(true);
        }
        self.clock.sleep(latency / 2).await;
        if let Some(With::Lose) = with {
            return Err(TransportError::NoAnswer("connection reset".to_owned()));
        }
        let answer = Answer {
            status: StatusCode::from_u16(status).unwrap(),
            headers: HeaderMap::new(),
            body: body.into(),
        };
        match with {
            Some(With::CutOff) => Err(TransportError::CutOff {
                why: "connection reset".to_owned(),
                so_far: Box::new(answer),
            }),
            _ => Ok(answer),
        }
    }
}

/// Somebody's browser, with the cookies of the attempts that it has begun.
#[derive(Clone, Debug, Default)]
struct Browser(BTreeMap<AttemptId, Secret>);

impl Browser {
    fn cookie(&self, id: &AttemptId) -> Option<Secret> {
        self.0.get(id).cloned()
    }

    async fn arrive(&mut self, vault: &Vault, ticket: &Secret) -> Result<Url, ConnectError> {
        let arrived = vault.arrive(ticket.expose(), |id| self.cookie(id)).await?;
        let Arrived {
            id, url, cookie, ..
        } = arrived;
        self.0.insert(id, cookie);
        Ok(url)
    }

    async fn back(&self, vault: &Vault, query: &str) -> Result<Landed, ConnectError> {
        vault.callback(PLACE, query, |id| self.cookie(id)).await
    }
}

struct Scene {
    vault: Vault,
    provider: Arc<Provider>,
    store: Arc<MemoryStore>,
    clock: Arc<dyn Clock>,
    keyring: Keyring,
    key: ConnectionKey,
    spool: tempdir::Folder,
    connector: String,
}

impl Scene {
    async fn new() -> Self {
        Self::with(LOGIN_CONNECTOR).await
    }

    async fn with(connector: &str) -> Self {
        let clock: Arc<dyn Clock> = Arc::new(TokioClock::default());
        let store = Arc::new(MemoryStore::new(clock.clone()));
        let provider = Arc::new(Provider {
            clock: clock.clone(),
            store: store.clone(),
            codes: Mutex::default(),
            spent: Mutex::default(),
            next: Mutex::default(),
            counter: AtomicUsize::new(1),
            arrived: Mutex::default(),
            revoked: Mutex::default(),
            latency: Mutex::new(Duration::from_millis(200)),
        });
        let keyring = Keyring::new(vec![Key::generate()]).unwrap();
        let spool = tempdir::Folder::new();
        let parts = Self::parts(&store, &keyring, &provider, &spool, &clock, connector);
        let vault = Vault::open(parts).await.unwrap();
        let key = ConnectionKey::new("app", "cust", "crm", "acme");
        for application in ["app", "other"] {
            vault
                .set_client(
                    &application.into(),
                    &key.service,
                    "id",
                    Some(&Secret::new("client-secret")),
                    BTreeMap::new(),
                    vec!["contacts".to_owned()],
                )
                .await
                .unwrap();
        }
        Self {
            vault,
            provider,
            store,
            clock,
            keyring,
            key,
            spool,
            connector: connector.to_owned(),
        }
    }

    fn parts(
        store: &Arc<MemoryStore>,
        keyring: &Keyring,
        provider: &Arc<Provider>,
        spool: &tempdir::Folder,
        clock: &Arc<dyn Clock>,
        connector: &str,
    ) -> VaultParts {
        let mut catalogue = Catalogue::default();
        catalogue.add("acme.toml", connector).unwrap();
        VaultParts {
            spool: Arc::new(FolderSpool::new(&spool.0)),
            clock: clock.clone(),
            chance: Arc::new(SeededChance::new(1)),
            catalogue,
            ..VaultParts::new(store.clone(), keyring.clone(), provider.clone())
        }
    }

    /// Another replica.
    async fn other(&self) -> Vault {
        let parts = Self::parts(
            &self.store,
            &self.keyring,
            &self.provider,
            &self.spool,
            &self.clock,
            &self.connector,
        );
        Vault::open(parts).await.unwrap()
    }

    fn asking(&self, key: &ConnectionKey) -> Begin {
        Begin {
            connection: key.clone(),
            by: Initiator::Page,
            switch: false,
            redirect_uri: PLACE.to_owned(),
            return_to: Some(RETURN_TO.to_owned()),
            nonce: None,
            scopes: vec!["contacts".to_owned(), "more".to_owned()],
        }
    }

    /// A login up to the provider's answer: the browser, and the query with which it is sent back.
    async fn to_the_provider(&self, begin: Begin, account: &str) -> (Browser, AttemptId, String) {
        let Begun { id, ticket, .. } = self.vault.begin(begin).await.unwrap();
        let mut browser = Browser::default();
        let url = browser.arrive(&self.vault, &ticket).await.unwrap();
        let query = self.provider.login(&url, account);
        (browser, id, query)
    }

    async fn login(&self, begin: Begin, account: &str) -> Landed {
        let (browser, _, query) = self.to_the_provider(begin, account).await;
        browser.back(&self.vault, &query).await.unwrap()
    }

    async fn connect(&self, account: &str) -> Landed {
        self.login(self.asking(&self.key), account).await
    }

    async fn connection(&self, key: &ConnectionKey) -> Option<Connection> {
        self.store.connection(key).await.unwrap()
    }

    async fn row(&self) -> crate::refresh::ledger::GrantRow {
        let grant = self.connection(&self.key).await.unwrap().grant.unwrap();
        self.store.grant(&grant).await.unwrap().value.unwrap()
    }

    async fn served(&self) -> String {
        let token = self.vault.token(&self.key).await.unwrap();
        token.secret().expose().to_owned()
    }

    async fn status(&self, id: &AttemptId) -> Option<Status> {
        let attempt = self.vault.attempt(&self.key.application, id).await.unwrap();
        attempt.map(|attempt| attempt.status)
    }

    async fn pass(&self, seconds: u64) {
        self.clock.sleep(Duration::from_secs(seconds)).await;
    }

    fn codes_sent(&self) -> usize {
        lock(&self.provider.arrived).len()
    }

    fn next(&self, with: impl IntoIterator<Item = With>) {
        *lock(&self.provider.next) = with.into_iter().collect();
    }
}

fn connected(landed: &Landed) -> bool {
    matches!(landed.attempt.status, Status::Connected { .. })
}

fn failure(landed: Landed) -> Failure {
    match landed.attempt.status {
        Status::Failed { why, .. } => why,
        other => panic!("it should have failed: {other:?}"),
    }
}

fn refused<T: std::fmt::Debug>(result: Result<T, ConnectError>) -> Refused {
    match result {
        Err(ConnectError::Refused(refused)) => refused,
        other => panic!("it should be refused: {other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn a_login_connects() {
    let scene = Scene::new().await;
    let begun = scene.vault.begin(scene.asking(&scene.key)).await.unwrap();
    assert_eq!(scene.status(&begun.id).await, Some(Status::Waiting));
    let mut browser = Browser::default();
    let url = browser.arrive(&scene.vault, &begun.ticket).await.unwrap();
    let asked: BTreeMap<String, String> = url.query_pairs().into_owned().collect();
    assert_eq!(asked["scope"], "offline openid contacts more");
    assert_eq!(asked["code_challenge_method"], "S256");
    assert!(!url.as_str().contains(begun.ticket.expose()));

    let query = scene.provider.login(&url, "anna");
    let landed = browser.back(&scene.vault, &query).await.unwrap();
    assert!(connected(&landed), "{landed:?}");
    assert_eq!(landed.attempt.return_to.as_deref(), Some(RETURN_TO));
    assert_eq!(landed.attempt.intent, Intent::Connect);
    assert!(landed.told.is_none());
    assert!(scene.served().await.starts_with("at-anna"));
    let consent = scene.row().await.consent.unwrap();
    assert_eq!(consent.identity.subject.as_deref(), Some("anna"));
    assert_eq!(consent.identity.issuer.as_deref(), Some(ISSUER));
    assert_eq!(consent.asked, ["offline", "openid", "contacts", "more"]);
    assert_eq!(consent.granted, ["offline", "openid"]);
    assert_eq!(scene.codes_sent(), 1);
    // It is refreshed as any other.
    scene.pass(700).await;
    assert!(scene.served().await.contains("-refreshed-"));
    assert_eq!(scene.row().await.consent, Some(consent));

    // The same account again: in place, with a hint.
    let before = scene.row().await;
    let begun = scene.vault.begin(scene.asking(&scene.key)).await.unwrap();
    let url = browser.arrive(&scene.vault, &begun.ticket).await.unwrap();
    let hint = url.query_pairs().find(|(name, _)| name == "login_hint");
    assert_eq!(hint.unwrap().1, "anna@example.com");
    let query = scene.provider.login(&url, "anna");
    let landed = browser.back(&scene.vault, &query).await.unwrap();
    assert_eq!(landed.attempt.intent, Intent::Reauthorize);
    let after = scene.row().await;
    assert_eq!((after.id, after.version), (before.id, before.version + 1));
    assert!(scene.served().await.starts_with("at-anna"));
}

#[tokio::test(start_paused = true)]
async fn a_code_is_exchanged_once_whoever_gets_the_callback() {
    let scene = Scene::new().await;
    let replicas = [
        scene.vault.clone(),
        scene.other().await,
        scene.other().await,
    ];
    let (browser, id, query) = scene
        .to_the_provider(scene.asking(&scene.key), "anna")
        .await;
    let tasks = TaskTracker::new();
    let mut callbacks = Vec::new();
    for number in 0..9 {
        let (vault, browser, query) =
            (replicas[number % 3].clone(), browser.clone(), query.clone());
        callbacks.push(tasks.spawn(async move { browser.back(&vault, &query).await }));
    }
    for callback in callbacks {
        let landed = callback.await.unwrap().unwrap();
        assert!(connected(&landed), "{landed:?}");
    }
    assert_eq!(scene.codes_sent(), 1);
    // Reloaded, and late.
    for seconds in [1, 3600] {
        scene.pass(seconds).await;
        for vault in &replicas {
            assert!(connected(&browser.back(vault, &query).await.unwrap()));
        }
    }
    assert_eq!(scene.codes_sent(), 1);
    assert_eq!(scene.row().await.version, 1);
    // A day after it would have expired it is forgotten.
    scene.pass(24 * 3600 + 1800).await;
    scene.vault.tidy_attempts().await;
    assert_eq!(scene.status(&id).await, None);
    assert_eq!(
        refused(browser.back(&scene.vault, &query).await),
        Refused::Unknown
    );
}

#[tokio::test(start_paused = true)]
async fn a_closed_tab_loses_no_login() {
    let scene = Scene::new().await;
    let (browser, id, query) = scene
        .to_the_provider(scene.asking(&scene.key), "anna")
        .await;
    tokio::select! {
        biased;
        _ = browser.back(&scene.vault, &query) => panic!("it takes longer"),
        () = scene.clock.sleep(Duration::from_millis(100)) => {}
    }
    assert_eq!(scene.status(&id).await, Some(Status::Working));
    // Whoever reloads meanwhile waits for the same exchange.
    assert!(connected(
        &browser.back(&scene.vault, &query).await.unwrap()
    ));
    assert_eq!(scene.codes_sent(), 1);
}

/// The process dies between the claim and the save.
#[tokio::test(start_paused = true)]
async fn an_exchange_whose_process_died_is_over_and_its_code_is_not_sent_again() {
    let scene = Scene::new().await;
    let (browser, id, query) = scene
        .to_the_provider(scene.asking(&scene.key), "anna")
        .await;
    let row = scene.store.attempt(&id).await.unwrap().value.unwrap();
    let dead = AttemptRow {
        phase: crate::authorize::Phase::Exchanging {
            owner: "dead".into(),
            since: row.begun_at,
            until: row.begun_at + scene.vault.config().claim_ttl,
        },
        ..row
    };
    assert!(scene.store.replace_attempt(dead).await.unwrap());
    let landed = browser.back(&scene.vault, &query).await.unwrap();
    assert!(matches!(failure(landed), Failure::Lost(_)));
    assert_eq!(scene.codes_sent(), 0);
    // "Try again" works.
    assert!(connected(&scene.connect("anna").await));
}

/// A process is stopped for longer than its claim lasts, and then goes on.
#[tokio::test(start_paused = true)]
async fn a_slow_exchange_goes_on_beyond_its_claim() {
    let scene = Scene::new().await;
    *lock(&scene.provider.latency) = Duration::from_secs(50);
    let (browser, id, query) = scene
        .to_the_provider(scene.asking(&scene.key), "anna")
        .await;
    let landed = browser.back(&scene.vault, &query).await.unwrap();
    assert_eq!(landed.attempt.status, Status::Working);
    scene.pass(20).await;
    assert_eq!(scene.status(&id).await, Some(Status::Working));
    scene.pass(20).await;
    assert!(connected(
        &browser.back(&scene.vault, &query).await.unwrap()
    ));
    assert_eq!(scene.codes_sent(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_code_that_was_not_sent_is_sent_and_one_that_may_have_been_is_not() {
    let scene = Scene::new().await;
    scene.next([With::NotSent, With::NotSent]);
    assert!(connected(&scene.connect("anna").await));
    let before = scene.row().await;

    scene.next([With::NotSent; 4]);
    let landed = scene.connect("anna").await;
    assert!(matches!(failure(landed), Failure::Unreachable(_)));
    assert_eq!(scene.codes_sent(), 1);

    for (befalls, sent) in [(With::Lose, 2), (With::CutOff, 3)] {
        scene.next([befalls]);
        let (browser, _, query) = scene
            .to_the_provider(scene.asking(&scene.key), "anna")
            .await;
        for _ in 0..3 {
            let landed = browser.back(&scene.vault, &query).await.unwrap();
            assert!(matches!(failure(landed), Failure::Lost(_)));
        }
        assert_eq!(scene.codes_sent(), sent);
    }
    // The old login serves on.
    assert_eq!(scene.row().await, before);
    assert!(scene.served().await.starts_with("at-anna"));
}

#[tokio::test(start_paused = true)]
async fn what_was_granted_while_the_store_went_away_is_saved_when_it_is_back() {
    for survives in [true, false] {
        let scene = Scene::new().await;
        scene.next([With::StoreDown]);
        let (browser, id, query) = scene
            .to_the_provider(scene.asking(&scene.key), "anna")
            .await;
        let landed = browser.back(&scene.vault, &query).await.unwrap();
        assert_eq!(landed.attempt.status, Status::Working);
        assert_eq!(std::fs::read_dir(&scene.spool.0).unwrap().count(), 1);
        if !survives {
            // Its process ends; another one finds what it left.
            scene.vault.drain(Duration::from_secs(5)).await;
        }
        // Longer than the claim: nobody else has the code.
        scene.pass(60).await;
        scene.store.set_down(false);
        let finder = if survives {
            scene.pass(2).await;
            scene.vault.clone()
        } else {
            let finder = scene.other().await;
            assert_eq!(finder.adopt_spool().await, 0);
            finder
        };
        assert!(matches!(
            scene.status(&id).await,
            Some(Status::Connected { .. })
        ));
        assert_eq!(std::fs::read_dir(&scene.spool.0).unwrap().count(), 0);
        assert!(connected(&browser.back(&finder, &query).await.unwrap()));
        let token = finder.token(&scene.key).await.unwrap();
        assert!(token.secret().expose().starts_with("at-anna"));
        assert_eq!(scene.codes_sent(), 1);
    }
}

/// The answer of a login that was overtaken by a later one comes from the spool: the later one stands.
#[tokio::test(start_paused = true)]
async fn a_login_that_was_overtaken_is_not_used() {
    let scene = Scene::new().await;
    scene.next([With::StoreDown]);
    let (browser, id, query) = scene
        .to_the_provider(scene.asking(&scene.key), "anna")
        .await;
    browser.back(&scene.vault, &query).await.unwrap();
    scene.vault.drain(Duration::from_secs(5)).await;
    scene.pass(60).await;
    scene.store.set_down(false);
    let other = scene.other().await;
    let begun = other.begin(scene.asking(&scene.key)).await.unwrap();
    let mut second = Browser::default();
    let url = second.arrive(&other, &begun.ticket).await.unwrap();
    let again = scene.provider.login(&url, "anna");
    assert!(connected(&second.back(&other, &again).await.unwrap()));
    let before = scene.row().await;
    assert_eq!(other.adopt_spool().await, 0);
    assert_eq!(scene.row().await, before);
    let status = scene.status(&id).await.unwrap();
    assert!(
        matches!(
            status,
            Status::Failed {
                why: Failure::Superseded,
                ..
            }
        ),
        "{status:?}"
    );
    assert_eq!(lock(&scene.provider.revoked).len(), 1);
}

#[tokio::test(start_paused = true)]
async fn another_account_is_refused_before_anything_is_stored() {
    let scene = Scene::new().await;
    assert!(connected(&scene.connect("anna").await));
    let before = scene.row().await;
    for two_step in [false, true] {
        let begin = Begin {
            nonce: two_step.then(|| Secret::new("n")),
            ..scene.asking(&scene.key)
        };
        match failure(scene.login(begin.clone(), "mallory").await) {
            Failure::OtherAccount { kept, came } => {
                assert_eq!(kept.name.as_deref(), Some("anna@example.com"));
                assert_eq!(came.subject.as_deref(), Some("mallory"));
            }
            other => panic!("{other:?}"),
        }
        // Who hides who it is gets no further.
        scene.next([With::Anonymous]);
        let anonymous = scene.login(begin, "mallory").await;
        assert_eq!(failure(anonymous), Failure::UntoldAccount);
        assert_eq!(scene.row().await, before);
        assert!(scene.served().await.starts_with("at-anna"));
    }
    let revoked = lock(&scene.provider.revoked).clone();
    assert_eq!(revoked.len(), 4);
    assert!(revoked.iter().all(|it| it.starts_with("rt-mallory")));
}

#[tokio::test(start_paused = true)]
async fn a_switch_is_asked_for_and_touches_nobody_else() {
    let scene = Scene::new().await;
    assert!(connected(&scene.connect("anna").await));
    let shared = ConnectionKey::new("app", "second", "crm", "acme");
    let patch = ConnectionPatch::default;
    scene
        .vault
        .link(&shared, &scene.key, patch())
        .await
        .unwrap();
    let before = scene.row().await;
    let switch = Begin {
        switch: true,
        ..scene.asking(&scene.key)
    };
    let landed = scene.login(switch.clone(), "bert").await;
    assert!(connected(&landed));
    assert_eq!(landed.attempt.intent, Intent::Switch);
    assert!(scene.served().await.starts_with("at-bert"));
    let theirs = scene.vault.token(&shared).await.unwrap();
    assert!(theirs.secret().expose().starts_with("at-anna"));
    scene.pass(1).await;
    assert_eq!(*lock(&scene.provider.revoked), Vec::<String>::new());

    // The last one that used it gives it back.
    let last = Begin {
        connection: shared.clone(),
        ..switch
    };
    assert!(connected(&scene.login(last, "bert").await));
    scene.pass(1).await;
    assert_eq!(lock(&scene.provider.revoked).len(), 1);
    let gone = scene.store.grant(&before.id).await.unwrap().value;
    assert_eq!(gone, None);
}

#[tokio::test(start_paused = true)]
async fn a_refresh_under_way_is_void_after_a_new_login() {
    let scene = Scene::new().await;
    assert!(connected(&scene.connect("anna").await));
    let (browser, _, query) = scene
        .to_the_provider(scene.asking(&scene.key), "anna")
        .await;
    *lock(&scene.provider.latency) = Duration::from_secs(4);
    let (refreshed, landed) = tokio::join!(scene.vault.validate(&scene.key), async {
        scene.clock.sleep(Duration::from_millis(100)).await;
        *lock(&scene.provider.latency) = Duration::from_millis(20);
        browser.back(&scene.vault, &query).await
    });
    assert!(connected(&landed.unwrap()));
    let _ = refreshed;
    scene.pass(10).await;
    let row = scene.row().await;
    assert_eq!((row.version, row.authorized_version), (2, 2));
    assert!(scene.served().await.starts_with("at-anna"));
    assert_eq!(
        lock(&scene.provider.revoked).len(),
        1,
        "the late answer's token"
    );
}

#[tokio::test(start_paused = true)]
async fn what_is_to_be_confirmed_is_used_by_nobody_before() {
    let scene = Scene::new().await;
    let begin = || Begin {
        nonce: Some(Secret::new("app-nonce")),
        ..scene.asking(&scene.key)
    };
    let (browser, id, query) = scene.to_the_provider(begin(), "anna").await;
    let landed = browser.back(&scene.vault, &query).await.unwrap();
    assert!(matches!(landed.attempt.status, Status::Unconfirmed { .. }));
    let told = landed.told.unwrap();
    assert_eq!(told.nonce.expose(), "app-nonce");
    assert_eq!(scene.connection(&scene.key).await, None);
    assert!(scene.vault.unconfirmed(&scene.key).await.unwrap());
    // Who reloads is told the same; another replica, too.
    let again = browser.back(&scene.other().await, &query).await.unwrap();
    assert_eq!(again.told.unwrap().confirm_token, told.confirm_token);

    let token = told.confirm_token.expose();
    for other in [
        ConnectionKey::new("app", "other", "crm", "acme"),
        ConnectionKey::new("other", "cust", "crm", "acme"),
        ConnectionKey::new("app", "cust", "accounting", "acme"),
    ] {
        let refused = scene.vault.confirm(&other, token).await;
        assert_eq!(refused, Err(ConfirmRefused::Unknown.into()));
    }
    for forged in [
        "",
        "x",
        &format!("{id}.x"),
        &format!("{token}x"),
        &token[..token.len() - 1],
    ] {
        let refused = scene.vault.confirm(&scene.key, forged).await;
        assert_eq!(refused, Err(ConfirmRefused::Unknown.into()), "{forged}");
    }
    assert_eq!(scene.connection(&scene.key).await, None);
    let connection = scene.vault.confirm(&scene.key, token).await.unwrap();
    assert!(connection.grant.is_some());
    assert!(scene.served().await.starts_with("at-anna"));
    let again = scene.vault.confirm(&scene.key, token).await;
    assert_eq!(again, Err(ConfirmRefused::Used.into()));
    assert!(!scene.vault.unconfirmed(&scene.key).await.unwrap());

    // The old login serves while a new one waits; one that waits too long is given back.
    let before = scene.row().await;
    let landed = scene.login(begin(), "anna").await;
    let token = landed.told.unwrap().confirm_token;
    assert_eq!(scene.row().await, before);
    scene.pass(1800).await;
    let late = scene.vault.confirm(&scene.key, token.expose()).await;
    assert_eq!(late, Err(ConfirmRefused::Expired.into()));
    scene.vault.tidy_attempts().await;
    assert_eq!(lock(&scene.provider.revoked).len(), 1);
    let late = scene.vault.confirm(&scene.key, token.expose()).await;
    assert_eq!(late, Err(ConfirmRefused::Expired.into()));
    assert_eq!(scene.row().await, before);
}

#[tokio::test(start_paused = true)]
async fn one_of_many_confirmations_counts() {
    let scene = Scene::new().await;
    let begin = Begin {
        nonce: Some(Secret::new("n")),
        ..scene.asking(&scene.key)
    };
    let token = scene.login(begin, "anna").await.told.unwrap().confirm_token;
    let other = scene.other().await;
    let confirm = |vault: &Vault| {
        let (vault, key, token) = (vault.clone(), scene.key.clone(), token.clone());
        async move { vault.confirm(&key, token.expose()).await }
    };
    let (one, two) = tokio::join!(confirm(&scene.vault), confirm(&other));
    assert_eq!(
        [&one, &two].iter().filter(|it| it.is_ok()).count(),
        1,
        "{one:?} {two:?}"
    );
    assert_eq!(scene.row().await.version, 1);
}

#[tokio::test(start_paused = true)]
async fn a_state_is_the_attempts_own_and_the_browsers() {
    let scene = Scene::new().await;
    let (browser, id, query) = scene
        .to_the_provider(scene.asking(&scene.key), "anna")
        .await;
    let with_state = |state: &str| format!("code=c&iss={ISSUER}&state={state}");
    for forged in ["x", "x.y", &format!("{id}.y"), &format!("{id}.")] {
        let back = browser.back(&scene.vault, &with_state(forged)).await;
        assert_eq!(refused(back), Refused::Unknown, "{forged}");
    }
    // A link handed to a victim: its browser began nothing, or something else.
    let stranger = Browser::default();
    assert_eq!(
        refused(stranger.back(&scene.vault, &query).await),
        Refused::OtherBrowser
    );
    let (mallory, _, theirs) = scene
        .to_the_provider(scene.asking(&scene.key), "mallory")
        .await;
    assert_eq!(
        refused(browser.back(&scene.vault, &theirs).await),
        Refused::OtherBrowser
    );
    // A swapped state: mallory's cookie for one attempt is none for another.
    let swapped = Browser([(id.clone(), mallory.0.values().next().unwrap().clone())].into());
    assert_eq!(
        refused(swapped.back(&scene.vault, &query).await),
        Refused::OtherBrowser
    );
    for malformed in [
        "",
        "code=c",
        "state=x.y",
        &format!("{query}&state=x.y"),
        "code=a&code=b&state=x.y",
    ] {
        let back = browser.back(&scene.vault, malformed).await;
        assert!(
            matches!(back, Err(ConnectError::Malformed(_))),
            "{malformed}: {back:?}"
        );
    }
    assert_eq!(scene.codes_sent(), 0);
    // Nobody of them has spoilt it for its own browser.
    assert!(connected(
        &browser.back(&scene.vault, &query).await.unwrap()
    ));
}

#[tokio::test(start_paused = true)]
async fn an_expired_login_is_not_exchanged() {
    let scene = Scene::new().await;
    let (browser, _, query) = scene
        .to_the_provider(scene.asking(&scene.key), "anna")
        .await;
    scene.pass(1800).await;
    let landed = browser.back(&scene.vault, &query).await.unwrap();
    assert_eq!(landed.attempt.return_to.as_deref(), Some(RETURN_TO));
    assert_eq!(failure(landed), Failure::Expired);
    assert_eq!(scene.codes_sent(), 0);
}

/// Cross-connector account takeover and mix-up: an answer that was meant for one place, or comes from
/// another provider, reaches no token endpoint.
#[tokio::test(start_paused = true)]
async fn an_answer_counts_only_at_its_own_place_and_from_its_own_provider() {
    let scene = Scene::new().await;
    let (browser, _, query) = scene
        .to_the_provider(scene.asking(&scene.key), "anna")
        .await;
    for place in [
        OTHER_PLACE,
        "https://vault.example/vault/callback",
        "https://evil.example/",
    ] {
        let back = scene
            .vault
            .callback(place, &query, |id| browser.cookie(id))
            .await;
        assert_eq!(refused(back), Refused::OtherPlace, "{place}");
    }
    assert!(connected(
        &browser.back(&scene.vault, &query).await.unwrap()
    ));
    let sent = scene.codes_sent();
    for iss in ["&iss=https%3A%2F%2Fevil.example", ""] {
        let (browser, _, query) = scene
            .to_the_provider(scene.asking(&scene.key), "anna")
            .await;
        let (rest, _) = query.split_once("&iss=").unwrap();
        let landed = browser
            .back(&scene.vault, &format!("{rest}{iss}"))
            .await
            .unwrap();
        assert_eq!(failure(landed), Failure::OtherIssuer);
    }
    assert_eq!(scene.codes_sent(), sent);
}

/// A code that an attacker has obtained elsewhere is brought into somebody's login.
#[tokio::test(start_paused = true)]
async fn an_injected_code_connects_nothing() {
    for pkce in [true, false] {
        let connector = LOGIN_CONNECTOR.replace(
            "scopes = [\"offline\"]\n",
            &format!("scopes = [\"offline\"]\npkce = {pkce}\n"),
        );
        let scene = Scene::with(&connector).await;
        let victim = ConnectionKey::new("app", "victim", "crm", "acme");
        let (browser, _, query) = scene.to_the_provider(scene.asking(&victim), "anna").await;
        let (_, _, stolen) = scene
            .to_the_provider(scene.asking(&scene.key), "mallory")
            .await;
        let code = |query: &str| query.split('&').next().unwrap().to_owned();
        let injected = query.replace(&code(&query), &code(&stolen));
        let landed = browser.back(&scene.vault, &injected).await.unwrap();
        match (pkce, failure(landed)) {
            (true, Failure::Refused(_)) | (false, Failure::IdToken(_)) => {}
            other => panic!("{other:?}"),
        }
        assert_eq!(scene.connection(&victim).await, None);
    }
}

#[tokio::test(start_paused = true)]
async fn a_denial_ends_the_login_and_the_old_one_serves() {
    let scene = Scene::new().await;
    assert!(connected(&scene.connect("anna").await));
    let before = scene.row().await;
    let (browser, _, query) = scene
        .to_the_provider(scene.asking(&scene.key), "anna")
        .await;
    let state = query
        .split('&')
        .find(|it| it.starts_with("state="))
        .unwrap();
    let denied = format!("error=access_denied&error_description=no%0Away&iss={ISSUER}&{state}");
    let stranger = Browser::default().back(&scene.vault, &denied).await;
    assert_eq!(refused(stranger), Refused::OtherBrowser);
    let landed = browser.back(&scene.vault, &denied).await.unwrap();
    let words = failure(landed).to_string();
    assert_eq!(words, "the provider answered access_denied: no way");
    // The code that comes after all is not taken.
    let landed = browser.back(&scene.vault, &query).await.unwrap();
    assert!(matches!(failure(landed), Failure::Denied { .. }));
    assert_eq!(scene.row().await, before);
}

/// A link can be used by one browser; it is the same link for whoever opens it first again.
#[tokio::test(start_paused = true)]
async fn a_link_belongs_to_the_browser_that_opens_it_first() {
    let scene = Scene::new().await;
    let begun = scene.vault.begin(scene.asking(&scene.key)).await.unwrap();
    let mut browser = Browser::default();
    let first = browser.arrive(&scene.vault, &begun.ticket).await.unwrap();
    let second = Browser::default().arrive(&scene.vault, &begun.ticket).await;
    assert_eq!(refused(second), Refused::OtherBrowser);
    let again = browser.arrive(&scene.vault, &begun.ticket).await.unwrap();
    // What was sent with the first request is void.
    let old = scene.provider.login(&first, "anna");
    assert_eq!(
        refused(browser.back(&scene.vault, &old).await),
        Refused::Unknown
    );
    let query = scene.provider.login(&again, "anna");
    assert!(connected(
        &browser.back(&scene.vault, &query).await.unwrap()
    ));
    let over = browser.arrive(&scene.vault, &begun.ticket).await;
    assert_eq!(refused(over), Refused::Over);
    // An application sees its own only.
    let theirs = scene
        .vault
        .attempt(&"other".into(), &begun.id)
        .await
        .unwrap();
    assert!(theirs.is_none());
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_is_deleted_during_a_login_stays_deleted() {
    let scene = Scene::new().await;
    assert!(connected(&scene.connect("anna").await));
    let (browser, _, query) = scene
        .to_the_provider(scene.asking(&scene.key), "anna")
        .await;
    let (landed, deleted) = tokio::join!(browser.back(&scene.vault, &query), async {
        scene.clock.sleep(Duration::from_millis(100)).await;
        scene.vault.delete(&scene.key).await
    });
    deleted.unwrap();
    assert_eq!(refused(landed), Refused::Unknown);
    assert_eq!(scene.connection(&scene.key).await, None);
    assert_eq!(
        lock(&scene.provider.revoked).len(),
        2,
        "the old one's token and the new one's"
    );
}

#[tokio::test(start_paused = true)]
async fn a_provider_that_gives_an_account_one_token_gets_one_grant() {
    let scene = Scene::new().await;
    let second = ConnectionKey::new("app", "second", "crm", "acme");
    scene.next([With::SameToken]);
    assert!(connected(&scene.connect("anna").await));
    scene.next([With::SameToken]);
    assert!(connected(&scene.login(scene.asking(&second), "anna").await));
    let (one, two) = (
        scene.connection(&scene.key).await,
        scene.connection(&second).await,
    );
    assert_eq!(one.unwrap().grant, two.unwrap().grant);
    // Also where another account was expected, and the same came back.
    scene.next([With::SameToken]);
    let switch = Begin {
        switch: true,
        ..scene.asking(&scene.key)
    };
    assert!(connected(&scene.login(switch, "anna").await));
    assert_eq!(scene.row().await.version, 3);
}

#[tokio::test(start_paused = true)]
async fn an_answer_to_a_login_that_cannot_be_read_is_kept_sealed() {
    for befalls in [With::Odd, With::CutOff] {
        let scene = Scene::new().await;
        scene.next([befalls]);
        let (browser, id, query) = scene
            .to_the_provider(scene.asking(&scene.key), "anna")
            .await;
        let landed = browser.back(&scene.vault, &query).await.unwrap();
        assert!(matches!(failure(landed), Failure::Lost(_)));
        let row = scene.store.attempt(&id).await.unwrap().value.unwrap();
        let kept = scene.vault.unread_login(&row).unwrap();
        assert!(String::from_utf8_lossy(kept.body()).contains("rt-anna"));
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_stranger_can_begin_is_bounded() {
    let scene = Scene::new().await;
    let (browser, _, query) = scene
        .to_the_provider(scene.asking(&scene.key), "anna")
        .await;
    scene.pass(1).await;
    for _ in 0..100 {
        scene.vault.begin(scene.asking(&scene.key)).await.unwrap();
    }
    let kept = scene.store.attempts_at(&scene.key).await.unwrap().value;
    assert_eq!(kept.len(), AttemptRow::KEPT);
    assert_eq!(
        refused(browser.back(&scene.vault, &query).await),
        Refused::Unknown
    );
    let long = "x".repeat(5000);
    let with = |change: fn(&mut Begin, String)| {
        let mut begin = scene.asking(&scene.key);
        change(&mut begin, long.clone());
        begin
    };
    for (begin, what) in [
        (
            with(|it, long| it.return_to = Some(format!("https://a.example/{long}"))),
            "return_to",
        ),
        (
            with(|it, _| it.return_to = Some("javascript:alert(1)".to_owned())),
            "return_to",
        ),
        (
            with(|it, _| it.return_to = Some("https://a.example/#x".to_owned())),
            "return_to",
        ),
        (
            with(|it, _| it.redirect_uri = "/relative".to_owned()),
            "redirect_uri",
        ),
        (with(|it, long| it.nonce = Some(Secret::new(long))), "nonce"),
        (with(|it, long| it.scopes = vec![long]), "scope"),
        (with(|it, _| it.scopes = vec!["a b".to_owned()]), "scope"),
        (with(|it, _| it.scopes = vec!["a".to_owned(); 101]), "scope"),
    ] {
        let refused = scene.vault.begin(begin).await.err();
        assert_eq!(refused, Some(ConnectError::Unfit(what)));
    }
}

#[tokio::test(start_paused = true)]
async fn a_disconnected_connection_stays_without_its_login() {
    let scene = Scene::new().await;
    let unknown = scene.vault.disconnect(&scene.key).await;
    assert!(matches!(unknown, Err(AdminError::UnknownConnection(_))));
    assert!(connected(&scene.connect("anna").await));
    assert!(scene.served().await.starts_with("at-anna"));
    let left = scene.vault.disconnect(&scene.key).await.unwrap();
    assert_eq!(left.grant, None);
    assert!(matches!(
        scene.vault.token(&scene.key).await,
        Err(TokenError::NotAuthorized(_))
    ));
    assert_eq!(lock(&scene.provider.revoked).len(), 1);
    // Whoever it was: afterwards it may be anybody.
    assert!(connected(&scene.connect("bert").await));
}

#[tokio::test(start_paused = true)]
async fn a_revocation_that_would_end_others_is_left_out() {
    let connector = LOGIN_CONNECTOR.replace(r#"scope = "grant""#, r#"scope = "user""#);
    let scene = Scene::with(&connector).await;
    let second = ConnectionKey::new("app", "second", "crm", "acme");
    let third = ConnectionKey::new("app", "third", "crm", "acme");
    assert!(connected(&scene.connect("anna").await));
    assert!(connected(&scene.login(scene.asking(&second), "anna").await));
    assert!(connected(&scene.login(scene.asking(&third), "bert").await));
    scene.vault.disconnect(&scene.key).await.unwrap();
    assert_eq!(lock(&scene.provider.revoked).len(), 0);
    scene.vault.delete(&second).await.unwrap();
    assert_eq!(lock(&scene.provider.revoked).len(), 1);
}

#[tokio::test(start_paused = true)]
async fn logins_are_resealed_with_the_rest() {
    let scene = Scene::new().await;
    let (browser, _, query) = scene
        .to_the_provider(scene.asking(&scene.key), "anna")
        .await;
    let new = Key::generate();
    let mut keys = vec![new.clone()];
    keys.push(scene.keyring.active().clone());
    scene
        .vault
        .reload_keys(Keyring::new(keys).unwrap())
        .await
        .unwrap();
    scene.vault.reseal().await.unwrap();
    scene
        .vault
        .reload_keys(Keyring::new(vec![new]).unwrap())
        .await
        .unwrap();
    assert!(connected(
        &browser.back(&scene.vault, &query).await.unwrap()
    ));
}
