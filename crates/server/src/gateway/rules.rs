//! What becomes of a header, by its name: one place for both directions. The rules are driven by a header
//! map or by the bytes of a head alike.

use http::{HeaderName, HeaderValue};
use tokenward::{Token, vault::Resolved};

/// What a header of ours begins with.
const PREFIX: &[u8] = b"x-apideck-";

/// Says that an error is the API's.
pub(super) const DOWNSTREAM_ERROR: HeaderName =
    HeaderName::from_static("x-apideck-downstream-error");

/// A longer name no rule knows.
pub(super) const LONGEST_NAME: usize = 40;

/// A header that tells the gateway what to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Direction {
    Key,
    Application,
    Consumer,
    Service,
    UnifiedApi,
    Url,
    Method,
    Authorization,
    Timeout,
    FollowRedirects,
}

impl Direction {
    /// All of them.
    pub(super) const ALL: [Self; 10] = [
        Self::Key,
        Self::Application,
        Self::Consumer,
        Self::Service,
        Self::UnifiedApi,
        Self::Url,
        Self::Method,
        Self::Authorization,
        Self::Timeout,
        Self::FollowRedirects,
    ];

    /// The header.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Key => "authorization",
            Self::Application => "x-apideck-app-id",
            Self::Consumer => "x-apideck-consumer-id",
            Self::Service => "x-apideck-service-id",
            Self::UnifiedApi => "x-apideck-unified-api",
            Self::Url => "x-apideck-downstream-url",
            Self::Method => "x-apideck-downstream-method",
            Self::Authorization => "x-apideck-downstream-authorization",
            Self::Timeout => "x-apideck-timeout",
            Self::FollowRedirects => "x-apideck-follow-redirects",
        }
    }
}

/// What becomes of a request's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RequestRule {
    /// It goes on to the API.
    Onward,
    /// It tells the gateway what to do, and stays.
    Direction(Direction),
    /// It names headers of the connection (RFC 9110 section 7.6.1), and stays.
    Connection,
    /// It stays.
    Stays,
}

/// The rule for a request's header. `name` is in lower case. Neither our own headers go on, nor the caller's
/// key, nor cookies, nor what belongs to the connection, nor an expectation that was met already.
pub(super) fn of_request(name: &[u8]) -> RequestRule {
    if let Some(ours) = name.strip_prefix(PREFIX) {
        let direction = match ours {
            b"app-id" => Direction::Application,
            b"consumer-id" => Direction::Consumer,
            b"service-id" => Direction::Service,
            b"unified-api" => Direction::UnifiedApi,
            b"downstream-url" => Direction::Url,
            b"downstream-method" => Direction::Method,
            b"downstream-authorization" => Direction::Authorization,
            b"timeout" => Direction::Timeout,
            b"follow-redirects" => Direction::FollowRedirects,
            _ => return RequestRule::Stays,
        };
        return RequestRule::Direction(direction);
    }
    match name {
        b"authorization" => RequestRule::Direction(Direction::Key),
        b"connection" => RequestRule::Connection,
        b"content-length" | b"host" | b"cookie" | b"expect" => RequestRule::Stays,
        _ if is_hop_by_hop(name) => RequestRule::Stays,
        _ => RequestRule::Onward,
    }
}

/// As [`of_request`], for a name in any case: names that are too long for [`LONGEST_NAME`] are given as they
/// came, and are ours if they begin so.
pub(super) fn of_long_request(name: &str) -> RequestRule {
    match name.as_bytes().get(..PREFIX.len()) {
        Some(start) if start.eq_ignore_ascii_case(PREFIX) => RequestRule::Stays,
        _ => RequestRule::Onward,
    }
}

/// What becomes of an answer's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AnswerRule {
    /// It goes on to the caller.
    Onward,
    /// It goes on, and says what is left of the API's limits: which of [`LIMITS`], and how far behind other
    /// spellings.
    Limit(usize, usize),
    /// It goes on if the body's length is what it says.
    Length,
    /// It goes on as an absolute URL: relative to the gateway it would lead elsewhere.
    Location,
    /// It goes on; who named the connection in its path is told where links lead in the same form.
    Link,
    /// The date of the answer: one is added where there is none.
    Date,
    /// It names headers of the connection, and stays.
    Connection,
    /// It stays.
    Stays,
}

/// The rule for an answer's header. `name` is in lower case.
pub(super) fn of_answer(name: &[u8]) -> AnswerRule {
    match name {
        b"connection" => AnswerRule::Connection,
        b"content-length" => AnswerRule::Length,
        b"date" => AnswerRule::Date,
        b"location" | b"content-location" => AnswerRule::Location,
        b"link" => AnswerRule::Link,
        b"x-apideck-downstream-error" | b"x-apideck-request-id" => AnswerRule::Stays,
        // What only the gateway says of itself an API cannot say.
        _ if name.starts_with(b"x-tokenward-") => AnswerRule::Stays,
        // The gateway writes its own.
        _ if LIMITS.iter().any(|ours| ours.as_bytes() == name) => AnswerRule::Stays,
        _ if is_hop_by_hop(name) => AnswerRule::Stays,
        _ => limit(name).map_or(AnswerRule::Onward, |(which, rank)| {
            AnswerRule::Limit(which, rank)
        }),
    }
}

/// Whether a header belongs to the connection by its own nature; others are named by `Connection`.
fn is_hop_by_hop(name: &[u8]) -> bool {
    matches!(
        name,
        b"te"
            | b"transfer-encoding"
            | b"keep-alive"
            | b"proxy-authenticate"
            | b"proxy-authorization"
            | b"proxy-connection"
            | b"trailer"
            | b"upgrade"
    )
}

/// What the gateway calls an API's limits.
pub(super) const LIMITS: [&str; 3] = [
    "x-downstream-ratelimit-limit",
    "x-downstream-ratelimit-remaining",
    "x-downstream-ratelimit-reset",
];

fn limit(name: &[u8]) -> Option<(usize, usize)> {
    // Nearly all names end here.
    if !matches!(name, [b'r' | b'x', ..]) {
        return None;
    }
    let spellings = [&b"x-ratelimit-"[..], b"ratelimit-", b"x-rate-limit-"];
    let (rank, what) = spellings
        .iter()
        .enumerate()
        .find_map(|(rank, spelling)| Some((rank, name.strip_prefix(*spelling)?)))?;
    let which = match what {
        b"limit" => 0,
        b"remaining" => 1,
        b"reset" => 2,
        _ => return None,
    };
    Some((which, rank))
}

/// The best spelling of each of [`LIMITS`] so far.
#[derive(Clone, Debug)]
pub(super) struct Limits<V>([Option<(usize, V)>; 3]);

impl<V> Default for Limits<V> {
    fn default() -> Self {
        Self([None, None, None])
    }
}

impl<V> Limits<V> {
    pub(super) fn note(&mut self, which: usize, rank: usize, value: V) {
        if self.0[which].as_ref().is_none_or(|(best, _)| rank < *best) {
            self.0[which] = Some((rank, value));
        }
    }

    /// What the gateway says of them.
    pub(super) fn said(self) -> impl Iterator<Item = (&'static str, V)> {
        let found = LIMITS.into_iter().zip(self.0);
        found.filter_map(|(name, found)| Some((name, found?.1)))
    }
}

/// The names in a `Connection` header.
pub(super) fn named(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii)
}

/// The connector's headers, such as `Xero-Tenant-Id`; one whose values are missing is left out.
pub(super) fn of_connector<'a>(
    resolved: &'a Resolved,
    token: Option<&'a Token>,
) -> impl Iterator<Item = (HeaderName, HeaderValue)> + 'a {
    let headers = resolved.connector.api.headers.iter();
    headers.filter_map(move |(name, template)| {
        let context = resolved.context(token.map(Token::metadata));
        let value = HeaderValue::try_from(template.fill(&context).ok()?).ok()?;
        Some((HeaderName::try_from(name).ok()?, value))
    })
}

/// Whether a credential authenticates the connection that it goes over, and not the request: such a
/// connection is nobody else's (RFC 4559, and NTLM).
pub(super) fn authenticates_connection(value: &[u8]) -> bool {
    let scheme = value.split(|byte| *byte == b' ').next();
    [&b"ntlm"[..], b"negotiate"]
        .iter()
        .any(|name| scheme.is_some_and(|scheme| scheme.eq_ignore_ascii_case(name)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_of_ours_and_nothing_of_the_connection_goes_on() {
        for name in [
            "authorization",
            "x-apideck-app-id",
            "x-apideck-anything",
            "cookie",
            "host",
            "connection",
            "te",
            "transfer-encoding",
            "content-length",
            "expect",
            "upgrade",
            "proxy-authorization",
        ] {
            assert_ne!(of_request(name.as_bytes()), RequestRule::Onward, "{name}");
        }
        for name in ["accept", "x-custom", "idempotency-key", "content-type"] {
            assert_eq!(of_request(name.as_bytes()), RequestRule::Onward, "{name}");
        }
        let long = "X-Apideck-A-Name-That-Is-Longer-Than-All-That-Are-Known";
        assert_eq!(of_long_request(long), RequestRule::Stays);
        let long = "x-a-name-that-is-longer-than-all-that-are-known";
        assert_eq!(of_long_request(long), RequestRule::Onward);
    }

    #[test]
    fn every_direction_is_read_from_the_header_that_it_names() {
        for direction in Direction::ALL {
            assert!(direction.name().len() <= LONGEST_NAME);
            let rule = of_request(direction.name().as_bytes());
            assert_eq!(rule, RequestRule::Direction(direction));
        }
    }

    #[test]
    fn an_api_does_not_speak_for_the_gateway() {
        for name in [
            "x-tokenward-origin",
            "x-tokenward-remedy",
            "x-apideck-downstream-error",
            "x-apideck-request-id",
            "x-downstream-ratelimit-limit",
        ] {
            assert_eq!(of_answer(name.as_bytes()), AnswerRule::Stays, "{name}");
        }
    }

    #[test]
    fn limits_are_said_by_their_best_spelling() {
        let mut limits = Limits::default();
        for (name, value) in [
            ("x-rate-limit-limit", 1),
            ("ratelimit-remaining", 2),
            ("x-ratelimit-limit", 3),
            ("ratelimit-limit", 4),
        ] {
            let AnswerRule::Limit(which, rank) = of_answer(name.as_bytes()) else {
                panic!("{name}");
            };
            limits.note(which, rank, value);
        }
        let said: Vec<_> = limits.said().collect();
        assert_eq!(
            said,
            [
                ("x-downstream-ratelimit-limit", 3),
                ("x-downstream-ratelimit-remaining", 2)
            ]
        );
    }

    #[test]
    fn credentials_of_a_connection_are_told_apart() {
        assert!(authenticates_connection(b"NTLM TlRM"));
        assert!(authenticates_connection(b"Negotiate"));
        assert!(!authenticates_connection(b"Bearer ntlm"));
    }
}
