//! Callers that never stop asking, and the book of who got what.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt as _, Empty};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use serde::Serialize;
use serde_json::Value;
use tokenward::time::{Chance as _, Clock as _, SeededChance, TokioClock};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::{
    fleet::{Fleet, Process},
    world::{APP, Site, lock},
};
use crate::sandbox::GrantId;

/// A caller is answered within this, whatever happens to the server that it asked first.
const PATIENCE: Duration = Duration::from_secs(60);

/// What callers got.
#[derive(Clone, Debug, Default, Serialize)]
pub struct CallerBooks {
    /// Calls that ended.
    pub calls: u64,
    /// Answered with the API's own answer.
    pub served: u64,
    /// Connections that broke because their server was killed; the call was sent again.
    pub sent_again: u64,
    /// Answered with an error that names the cause, by cause.
    pub errors: BTreeMap<String, u64>,
    /// Not answered in time.
    pub unanswered: u64,
    /// Connections that broke although their server lived.
    pub broken: u64,
    /// Served with the token of another grant.
    pub misdirected: u64,
    /// The longest that a caller waited, in milliseconds.
    pub longest_ms: u64,
    /// What was unexpected, in words; the first few.
    pub oddities: Vec<String>,
}

impl CallerBooks {
    fn oddity(&mut self, what: String) {
        if self.oddities.len() < 20 {
            self.oddities.push(what);
        }
    }
}

type HttpClient = Client<HttpConnector, Empty<Bytes>>;

pub(super) struct Callers {
    fleet: Arc<Fleet>,
    client: HttpClient,
    clock: TokioClock,
    books: Mutex<CallerBooks>,
    /// Sites that were found dead.
    dead: mpsc::UnboundedSender<usize>,
    think: Duration,
}

enum Said {
    Served(Option<GrantId>),
    Dead,
    Error(String),
}

impl Callers {
    pub(super) fn new(
        fleet: Arc<Fleet>,
        think: Duration,
        dead: mpsc::UnboundedSender<usize>,
    ) -> Self {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        Self {
            fleet,
            client: Client::builder(TokioExecutor::new()).build(connector),
            clock: TokioClock::default(),
            books: Mutex::default(),
            dead,
            think,
        }
    }

    pub(super) fn books(&self) -> CallerBooks {
        lock(&self.books).clone()
    }

    /// One caller: asks, thinks, asks again, until `stop`.
    pub(super) async fn call_on(self: Arc<Self>, seed: u64, stop: CancellationToken) {
        let chance = SeededChance::new(seed);
        while !stop.is_cancelled() {
            let think = self.think.mul_f64(2.0 * chance.fraction());
            stop.run_until_cancelled(tokio::time::sleep(think)).await;
            let sites = &self.fleet.world.sites;
            let number = pick(sites.len(), &chance);
            self.call(number, &sites[number], &chance).await;
        }
    }

    async fn call(&self, number: usize, site: &Site, chance: &SeededChance) {
        let consumer = match &site.sharer {
            Some(sharer) if chance.fraction() < 0.5 => sharer,
            _ => &site.consumer,
        };
        let began = self.clock.now();
        let said = tokio::time::timeout(PATIENCE, self.ask(site, consumer, chance)).await;
        let took = began.until(self.clock.now());
        let mut books = lock(&self.books);
        books.calls += 1;
        books.longest_ms = books
            .longest_ms
            .max(u64::try_from(took.as_millis()).unwrap_or(u64::MAX));
        match said {
            Ok(Said::Served(grant)) => {
                books.served += 1;
                if !grant.is_some_and(|grant| lock(&site.families).contains(&grant)) {
                    books.misdirected += 1;
                    books.oddity(format!("{consumer} was served with the token of {grant:?}"));
                }
            }
            Ok(Said::Dead) => {
                *books.errors.entry("dead".to_owned()).or_default() += 1;
                // The other end closes when the run is over.
                let _ = self.dead.send(number);
            }
            Ok(Said::Error(cause)) => *books.errors.entry(cause).or_default() += 1,
            Err(_) => {
                books.unanswered += 1;
                books.oddity(format!("{consumer} ({}) was not answered", site.kind.id));
            }
        }
    }

    /// Asks until somebody answers: one server after another if they are killed.
    async fn ask(&self, site: &Site, consumer: &str, chance: &SeededChance) -> Said {
        loop {
            let servers = self.fleet.servers();
            if servers.is_empty() {
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
            let server = &servers[pick(servers.len(), chance)];
            match self.send(server, site, consumer).await {
                Ok(said) => return said,
                Err(why) => {
                    let mut books = lock(&self.books);
                    // It was taken out of the list before it was killed.
                    if self.fleet.find(&server.via).is_none() {
                        books.sent_again += 1;
                    } else {
                        books.broken += 1;
                        books.oddity(format!("{} broke a connection: {why}", server.via));
                    }
                }
            }
        }
    }

    async fn send(&self, server: &Process, site: &Site, consumer: &str) -> Result<Said, String> {
        let url = server.server.as_ref().map_or("", |(_, url)| url);
        let request = Request::get(format!("{url}/proxy"))
            .header(
                "authorization",
                format!("Bearer {}", self.fleet.world.api_key),
            )
            .header("x-apideck-app-id", APP)
            .header("x-apideck-consumer-id", consumer)
            .header("x-apideck-service-id", site.kind.id)
            .header("x-apideck-unified-api", "accounting")
            .header("x-apideck-downstream-url", "/x")
            .body(Empty::new())
            .map_err(|error| error.to_string())?;
        let answer = self.client.request(request).await;
        let answer =
            answer.map_err(|error| format!("{error}: {:?}", std::error::Error::source(&error)))?;
        let (head, body) = answer.into_parts();
        let body = body.collect().await.map_err(|error| error.to_string())?;
        let body: Value = serde_json::from_slice(&body.to_bytes()).unwrap_or_default();
        if head.status == StatusCode::OK {
            let grant = body["grant"].as_str().and_then(|grant| grant.parse().ok());
            return Ok(Said::Served(grant));
        }
        if head.headers.contains_key("x-apideck-downstream-error") {
            return Ok(Said::Error(format!(
                "{} from the API",
                head.status.as_u16()
            )));
        }
        Ok(match body["detail"]["debug"]["code"].as_str() {
            Some("invalid_grant") => Said::Dead,
            Some(code) => Said::Error(code.to_owned()),
            None => {
                let kind = body["type_name"].as_str().unwrap_or("without a cause");
                Said::Error(format!("{} {kind}", head.status.as_u16()))
            }
        })
    }
}

/// An index below `count`.
pub(super) fn pick(count: usize, chance: &SeededChance) -> usize {
    // Far below 2^52, so exact.
    ((count as f64 * chance.fraction()) as usize).min(count.saturating_sub(1))
}
