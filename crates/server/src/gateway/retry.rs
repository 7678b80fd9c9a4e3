//! Whether a request is sent again after the API or the network failed.

use std::time::Duration;

use http::{HeaderMap, Method, Response, header::RETRY_AFTER};
use tokenward::{
    oauth::parse_retry_after,
    time::{Chance as _, SeededChance, StoreTime, backoff},
};

use super::upstream::UpstreamError;

const BASE: Duration = Duration::from_millis(100);
const CAP: Duration = Duration::from_secs(2);
/// Beyond this the caller decides what to do while it waits.
const LONGEST_WISH: Duration = Duration::from_secs(10);

/// What to do with an attempt's result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Hand it to the caller.
    Pass,
    /// Send again after this pause.
    Again(Duration),
}

/// Whether a status says that the same request may fare better later.
pub(super) fn may_pass(status: u16) -> bool {
    matches!(status, 429 | 502 | 503 | 504)
}

/// The tries of one request.
#[derive(Debug)]
pub(super) struct Retries {
    /// Whether sending twice is as good as once (RFC 9110 section 9.2.2), or the caller made it so.
    repeatable: bool,
    left: u32,
    done: u32,
}

impl Retries {
    pub(super) fn new(method: &Method, headers: &HeaderMap, most: u32) -> Self {
        Self {
            repeatable: method.is_idempotent() || headers.contains_key("idempotency-key"),
            left: most,
            done: 0,
        }
    }

    /// `time_left` until the caller's deadline; `can_replay`: the body can be sent again; `now` by the
    /// calendar, for a `Retry-After` that is a date.
    pub(super) fn judge<B>(
        &mut self,
        result: &Result<Response<B>, UpstreamError>,
        time_left: Duration,
        can_replay: bool,
        now: StoreTime,
    ) -> Verdict {
        let pause = match result {
            Ok(response) => match response.status().as_u16() {
                status if may_pass(status) && self.repeatable => {
                    self.pause(response.headers(), now)
                }
                _ => None,
            },
            // Never written to the wire, whatever the method.
            Err(UpstreamError::Connect(_)) => self.pause(&HeaderMap::new(), now),
            // There is no time for another, or no body.
            Err(UpstreamError::TimedOut | UpstreamError::Caller(_)) => None,
            Err(_) if self.repeatable => self.pause(&HeaderMap::new(), now),
            Err(_) => None,
        };
        match pause {
            Some(pause) if self.left > 0 && can_replay && pause < time_left => {
                self.left -= 1;
                self.done += 1;
                Verdict::Again(pause)
            }
            _ => Verdict::Pass,
        }
    }

    fn pause(&self, headers: &HeaderMap, now: StoreTime) -> Option<Duration> {
        let wish = headers.get(RETRY_AFTER).map(|value| {
            value
                .to_str()
                .ok()
                .and_then(|v| parse_retry_after(v, now.0))
        });
        match wish {
            None => Some(backoff(
                BASE,
                CAP,
                self.done,
                SeededChance::from_entropy().fraction(),
            )),
            Some(Some(wish)) if wish <= LONGEST_WISH => Some(wish.max(BASE)),
            Some(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    const LONG: Duration = Duration::from_secs(28);
    /// Mon, 30 Nov 2026 12:00:00 GMT
    const NOW: StoreTime = StoreTime(1_796_040_000_000);

    fn answer(
        status: u16,
        retry_after: Option<&'static str>,
    ) -> Result<Response<()>, UpstreamError> {
        let mut response = Response::new(());
        *response.status_mut() = status.try_into().unwrap();
        if let Some(value) = retry_after {
            response
                .headers_mut()
                .insert(RETRY_AFTER, HeaderValue::from_static(value));
        }
        Ok(response)
    }

    fn retries(method: &Method) -> Retries {
        Retries::new(method, &HeaderMap::new(), 2)
    }

    #[test]
    fn idempotent_requests_are_tried_again_a_few_times() {
        let mut get = retries(&Method::GET);
        assert!(matches!(
            get.judge(&answer(503, None), LONG, true, NOW),
            Verdict::Again(_)
        ));
        assert!(matches!(
            get.judge(&answer(502, None), LONG, true, NOW),
            Verdict::Again(_)
        ));
        assert_eq!(
            get.judge(&answer(503, None), LONG, true, NOW),
            Verdict::Pass
        );
        assert_eq!(
            retries(&Method::GET).judge(&answer(500, None), LONG, true, NOW),
            Verdict::Pass
        );
    }

    #[test]
    fn a_post_is_not_unless_it_has_a_key() {
        assert_eq!(
            retries(&Method::POST).judge(&answer(503, None), LONG, true, NOW),
            Verdict::Pass
        );
        let headers = [(
            "idempotency-key".parse().unwrap(),
            HeaderValue::from_static("k"),
        )]
        .into_iter()
        .collect();
        let mut keyed = Retries::new(&Method::POST, &headers, 2);
        assert!(matches!(
            keyed.judge(&answer(503, None), LONG, true, NOW),
            Verdict::Again(_)
        ));
    }

    #[test]
    fn retry_after_is_honoured_or_left_to_the_caller() {
        let again = |wish| retries(&Method::GET).judge(&answer(429, Some(wish)), LONG, true, NOW);
        assert_eq!(again("3"), Verdict::Again(Duration::from_secs(3)));
        assert_eq!(again("60"), Verdict::Pass);
        assert_eq!(again("nonsense"), Verdict::Pass);
        let soon = "Mon, 30 Nov 2026 12:00:04 GMT";
        assert_eq!(again(soon), Verdict::Again(Duration::from_secs(4)));
        assert_eq!(again("Fri, 01 Jan 2038 00:00:00 GMT"), Verdict::Pass);
        let short = Duration::from_secs(1);
        assert_eq!(
            retries(&Method::GET).judge(&answer(429, Some("3")), short, true, NOW),
            Verdict::Pass
        );
        assert_eq!(
            retries(&Method::GET).judge(&answer(503, None), LONG, false, NOW),
            Verdict::Pass
        );
    }
}
