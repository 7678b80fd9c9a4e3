//! A replica's way to the providers, and the providers themselves.

use std::{fmt, future::pending, sync::Arc, time::Duration};

use async_trait::async_trait;
use http::{HeaderMap, StatusCode, header};
use tokenward::{
    oauth::TokenRequest,
    transport::{Answer, Patience, Transport, TransportError},
};
use tokenward_testkit::sandbox::ledger::Decision;

use super::{
    books::{FamilyId, Fate, read_token, token_text},
    scenario::{Broken, KINDS, Mishap, SECOND},
    time::{Life, SimClock},
    world::World,
};

pub(super) struct SimTransport {
    pub(super) world: Arc<World>,
    pub(super) life: Arc<Life>,
    pub(super) clock: Arc<SimClock>,
    pub(super) number: usize,
}

impl fmt::Debug for SimTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimTransport").finish_non_exhaustive()
    }
}

fn reply(status: u16, body: impl Into<Vec<u8>>) -> Result<Answer, TransportError> {
    Ok(Answer {
        status: StatusCode::from_u16(status).expect("a status"),
        headers: HeaderMap::new(),
        body: body.into().into(),
    })
}

fn no_answer(why: &str) -> Result<Answer, TransportError> {
    Err(TransportError::NoAnswer(why.to_owned()))
}

impl SimTransport {
    fn family_of(&self, request: &TokenRequest) -> (FamilyId, u32) {
        let mut fields = url::form_urlencoded::parse(&request.body);
        let (_, token) = fields
            .find(|(name, _)| name == "refresh_token" || name == "token")
            .expect("every request carries one");
        read_token(&token).expect("a token of ours")
    }

    /// How long a request takes in all.
    fn latency(&self, mishap: Option<Mishap>) -> Duration {
        let rng = &self.world.rng;
        if mishap == Some(Mishap::Slow) {
            rng.between(SECOND, 100 * SECOND)
        } else {
            rng.between(Duration::from_millis(20), Duration::from_millis(800))
        }
    }

    async fn revoke(&self, family: FamilyId) -> Result<Answer, TransportError> {
        let world = &self.world;
        world.time.sleep(self.latency(None) / 2).await;
        let mut books = world.books();
        let (kind, connection) = {
            let book = &books.families[family];
            (book.kind, book.connection)
        };
        let grant = books.grant_of_family(family);
        books.note(
            world.now(),
            grant,
            format_args!("family {family} is revoked"),
        );
        books.families[family].family.revoke();
        if KINDS[kind].revokes_user {
            for other in 0..books.families.len() {
                if other != family && books.families[other].connection == connection {
                    books.ends_with_its_user(other, family, world.now());
                }
            }
        }
        reply(200, "")
    }

    async fn refresh(
        &self,
        family: FamilyId,
        refresh: u32,
        mishap: Option<Mishap>,
        patience: Patience,
    ) -> Result<Answer, TransportError> {
        let world = &self.world;
        let send = world.sent(self.number, family, refresh);
        let (replica, connection) = {
            let books = world.books();
            let replica = books.lives[self.number].replica;
            (replica, books.families[family].connection)
        };
        world.tempt(replica, Some(connection));
        let latency = self.latency(mishap);
        // A slow request takes effect late, but never after the caller has hung up.
        let effect_after = (latency / 2).min(patience.answer.mul_f64(0.9));
        world.time.sleep(effect_after).await;
        let decision = match mishap {
            Some(Mishap::LostBefore | Mishap::ErrorBefore | Mishap::Throttled) => None,
            _ => Some(world.decide(family, send, refresh)),
        };
        let rest = patience.answer.saturating_sub(effect_after);
        let timed_out = latency > patience.answer;
        let silent = matches!(mishap, Some(Mishap::LostBefore | Mishap::LostAfter));
        // A connection is reset, or nothing ever comes.
        let hangs = timed_out || (silent && world.rng.chance(0.3));
        let on_the_way = if hangs {
            rest
        } else {
            latency.saturating_sub(effect_after)
        };
        world.time.sleep(on_the_way).await;
        self.life.goes_on().await;
        let granted = matches!(decision, Some(Decision::Granted { .. }));
        if hangs || silent {
            world.answered(family, send, Fate::Lost, "is lost");
            if world.broken(Broken::LostIsNotSent) {
                return Err(TransportError::NotSent("connection lost".to_owned()));
            }
            return no_answer(if hangs { "timeout" } else { "connection reset" });
        }
        let fate = if granted { Fate::Lost } else { Fate::Refused };
        match mishap {
            Some(Mishap::Throttled) => {
                world.answered(family, send, Fate::Refused, "429");
                let seconds = world.rng.range(20, 120);
                let headers = [(header::RETRY_AFTER, seconds.into())];
                return Ok(Answer {
                    headers: headers.into_iter().collect(),
                    ..reply(429, "")?
                });
            }
            Some(Mishap::ErrorBefore) => {
                world.answered(family, send, Fate::Refused, "503 without effect");
                return reply(503, "oops");
            }
            Some(Mishap::ErrorAfter) => {
                world.answered(family, send, fate, "502 after its effect");
                return reply(502, "oops");
            }
            Some(Mishap::MalformedAfter) => {
                world.answered(family, send, fate, "malformed");
                return reply(200, "{\"access_token\": \"at-");
            }
            _ => {}
        }
        match decision {
            Some(Decision::Granted {
                access, refresh, ..
            }) => {
                world.answered(family, send, Fate::Delivered, "granted");
                let ttl = world.books().families[family].family.terms().access_ttl;
                let access = token_text("at", family, access.0);
                let refresh = refresh.map_or(String::new(), |refresh| {
                    format!(
                        r#","refresh_token":"{}""#,
                        token_text("rt", family, refresh.0)
                    )
                });
                reply(
                    200,
                    format!(
                        r#"{{"access_token":"{access}","expires_in":{}{refresh}}}"#,
                        ttl.as_secs()
                    ),
                )
            }
            _ => {
                world.answered(family, send, Fate::Refused, "invalid_grant");
                reply(400, r#"{"error":"invalid_grant"}"#)
            }
        }
    }
}

#[async_trait]
impl Transport for SimTransport {
    async fn exchange(
        &self,
        request: TokenRequest,
        patience: Patience,
    ) -> Result<Answer, TransportError> {
        let world = &self.world;
        let (family, refresh) = self.family_of(&request);
        let kind = world.books().families[family].kind;
        let mishap = world.scenario.mishap(kind, world.now(), &world.rng);
        let revocation = request.endpoint.url().path() == "/revoke";
        let connect = if mishap == Some(Mishap::Slow) {
            world.rng.between(Duration::ZERO, 12 * SECOND)
        } else {
            world
                .rng
                .between(Duration::from_millis(1), Duration::from_millis(60))
        };
        world.time.sleep(connect.min(patience.connect)).await;
        self.life.goes_on().await;
        if let Some(mishap) = mishap {
            world.books().counts.fault(mishap.name());
        }
        if mishap == Some(Mishap::NotSent) || connect > patience.connect {
            let mut books = world.books();
            let grant = books.grant_of_family(family);
            books.note(world.now(), grant, format_args!("not sent"));
            if !revocation {
                world.attempted(&mut books, family);
            }
            return Err(TransportError::NotSent("connection refused".to_owned()));
        }
        let late = !patience.may_send(&*self.clock).await;
        if late && !world.broken(Broken::SendsTooLate) {
            return Err(TransportError::TooLate);
        }
        if self.life.is_dead() {
            return pending().await;
        }
        if revocation {
            self.revoke(family).await
        } else {
            self.refresh(family, refresh, mishap, patience).await
        }
    }
}

impl Mishap {
    fn name(self) -> &'static str {
        match self {
            Self::NotSent => "provider: not sent",
            Self::LostBefore => "provider: lost before its effect",
            Self::LostAfter => "provider: lost after its effect",
            Self::ErrorBefore => "provider: 503 before its effect",
            Self::ErrorAfter => "provider: 502 after its effect",
            Self::MalformedAfter => "provider: malformed after its effect",
            Self::Throttled => "provider: 429",
            Self::Slow => "provider: slow",
        }
    }
}
