//! What the caller's own headers say.

use std::{borrow::Cow, time::Duration};

use http::{HeaderMap, HeaderValue, Method};

use super::{
    path::{Form, PathForm},
    rules::{self, Direction, RequestRule},
    target::Asked,
};
use crate::front::{
    caller::{Naming, text_of},
    error::ApiError,
};

/// No request may ask for more.
const LONGEST_TIMEOUT: Duration = Duration::from_secs(600);

/// The caller's directions, as they came.
#[derive(Debug, Default)]
pub(crate) struct Directions<'a> {
    values: [Option<&'a [u8]>; 10],
    /// One that was given twice: which of them counts nobody can say.
    twice: Option<Direction>,
    /// What the path says of them.
    path: Option<PathForm<'a>>,
}

/// What they ask for.
#[derive(Debug)]
pub(super) struct Wanted<'a> {
    pub(super) consumer: Cow<'a, str>,
    pub(super) service: Option<Cow<'a, str>>,
    pub(super) unified_api: Option<Cow<'a, str>>,
    pub(super) asked: Asked<'a>,
    pub(super) method: Option<Method>,
    /// Sent instead of the vault's token.
    pub(super) authorization: Option<HeaderValue>,
    pub(super) timeout: Option<Duration>,
    pub(super) follow_redirects: bool,
}

impl<'a> Directions<'a> {
    /// Directions of which only the form is known so far.
    pub(super) fn in_form(form: Form<'a>) -> Self {
        let path = match form {
            Form::Headers => None,
            Form::Path(path) => Some(path),
        };
        Self {
            path,
            ..Self::default()
        }
    }

    /// Reads a request's headers.
    pub(super) fn of(form: Form<'a>, headers: &'a HeaderMap) -> Self {
        let mut directions = Self::in_form(form);
        for (name, value) in headers {
            let rule = rules::of_request(name.as_str().as_bytes());
            if let RequestRule::Direction(direction) = rule {
                directions.note(direction, value.as_bytes());
            }
        }
        directions
    }

    pub(super) fn note(&mut self, direction: Direction, value: &'a [u8]) {
        if self.values[direction as usize].replace(value).is_some() {
            // The key's counts most.
            let key = self.twice.filter(|twice| *twice == Direction::Key);
            self.twice = key.or(Some(direction));
        }
    }

    /// The API key's header, as it came.
    pub(super) fn key(&self) -> Option<&'a [u8]> {
        // A second one makes it nobody's.
        let key = self.values[Direction::Key as usize];
        key.filter(|_| self.twice != Some(Direction::Key))
    }

    /// A direction's text, if it has any.
    pub(super) fn text(&self, direction: Direction) -> Option<Cow<'_, str>> {
        if let Some(text) = self.path.as_ref().and_then(|path| path.text(direction)) {
            return Some(Cow::Borrowed(text));
        }
        text_of(self.values[direction as usize]?)
    }

    /// A direction's text, or nothing.
    pub(super) fn text_or_empty(&self, direction: Direction) -> Cow<'_, str> {
        self.text(direction).unwrap_or_default()
    }

    /// The path form, if they come in it.
    pub(super) fn path(&self) -> Option<&PathForm<'a>> {
        self.path.as_ref()
    }

    /// Which application calls, as far as they say.
    pub(super) fn naming<'n>(&self, application: Option<&'n str>) -> Naming<'n> {
        match self.path {
            Some(_) => Naming::Key(application),
            None => Naming::Header(application),
        }
    }

    /// What is asked for.
    pub(super) fn asked(&self) -> Option<Asked<'_>> {
        match &self.path {
            Some(path) => Some(Asked::Below(path.rest())),
            None => self.text(Direction::Url).map(Asked::Url),
        }
    }

    /// What they ask for. To be asked when it is known who gives them.
    ///
    /// # Errors
    ///
    /// 400 if one of them is missing, makes no sense, or was given twice.
    pub(super) fn wanted(&self) -> Result<Wanted<'_>, ApiError> {
        if let Some(twice) = self.twice {
            return Err(ApiError::header_twice(twice.name()));
        }
        if self.path.is_some() {
            self.settled()?;
        }
        let missing = |direction: Direction| ApiError::missing_header(direction.name());
        let consumer = self.text(Direction::Consumer);
        let wrong = |direction: Direction, what: &str| {
            ApiError::bad_header(&format!("{} is not {what}", direction.name()))
        };
        let method = match self.text(Direction::Method) {
            None => None,
            Some(method) => Some(
                Method::from_bytes(method.to_ascii_uppercase().as_bytes())
                    .ok()
                    .filter(|method| *method != Method::CONNECT && *method != Method::TRACE)
                    .ok_or_else(|| wrong(Direction::Method, "a method that is sent on"))?,
            ),
        };
        let timeout = match self.text(Direction::Timeout) {
            None => None,
            Some(ms) => {
                let ms = ms.parse();
                let ms = ms.map_err(|_| wrong(Direction::Timeout, "a number of milliseconds"))?;
                Some(Duration::from_millis(ms).min(LONGEST_TIMEOUT))
            }
        };
        let authorization = match self.values[Direction::Authorization as usize] {
            None | Some([]) => None,
            Some(value) => {
                let mut value = HeaderValue::from_bytes(value)
                    .map_err(|_| wrong(Direction::Authorization, "a header's value"))?;
                value.set_sensitive(true);
                Some(value)
            }
        };
        Ok(Wanted {
            consumer: consumer.ok_or_else(|| missing(Direction::Consumer))?,
            service: self.text(Direction::Service),
            unified_api: self.text(Direction::UnifiedApi),
            asked: self.asked().ok_or_else(|| missing(Direction::Url))?,
            method,
            authorization,
            timeout,
            follow_redirects: self.text(Direction::FollowRedirects).as_deref() == Some("true"),
        })
    }
}

impl Directions<'_> {
    /// That no header says again, or otherwise, what the path says.
    fn settled(&self) -> Result<(), ApiError> {
        for direction in Direction::ALL {
            let said = self.values[direction as usize].and_then(text_of);
            if PathForm::settles(direction) && said.is_some() {
                return Err(ApiError::bad_header(&format!(
                    "{} is not taken where the path names the connection",
                    direction.name()
                )));
            }
        }
        Ok(())
    }
}

/// What goes on to the API of a request's headers.
pub(super) fn onward(headers: &HeaderMap) -> HeaderMap {
    let mut onward = HeaderMap::with_capacity(headers.len() + 2);
    let mut connection = Vec::new();
    for (name, value) in headers {
        match rules::of_request(name.as_str().as_bytes()) {
            RequestRule::Onward => {
                onward.append(name.clone(), value.clone());
            }
            RequestRule::Connection if value != "keep-alive" => connection.push(value.clone()),
            RequestRule::Connection | RequestRule::Direction(_) | RequestRule::Stays => {}
        }
    }
    for value in connection {
        remove_named(&mut onward, &value);
    }
    onward
}

/// Removes the headers that a `Connection` header names.
pub(super) fn remove_named(headers: &mut HeaderMap, connection: &HeaderValue) {
    for name in rules::named(connection.as_bytes()) {
        if let Ok(name) = http::HeaderName::from_bytes(name) {
            headers.remove(name);
        }
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderName;

    use super::*;

    fn map(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let header = |(name, value): &(&'static str, &'static str)| {
            let name = HeaderName::from_static(name);
            (name, HeaderValue::from_static(value))
        };
        pairs.iter().map(header).collect()
    }

    const FULL: [(&str, &str); 4] = [
        ("authorization", "Bearer key"),
        ("x-apideck-app-id", "a"),
        ("x-apideck-consumer-id", " c\t"),
        ("x-apideck-downstream-url", "/x"),
    ];

    #[test]
    fn headers_named_by_connection_stay() {
        let headers = map(&[
            ("authorization", "Bearer key"),
            ("connection", "keep-alive, x-secret"),
            ("x-secret", "s"),
            ("accept", "*/*"),
            ("x-custom", "stays"),
        ]);
        let onward = onward(&headers);
        let mut names: Vec<_> = onward.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        assert_eq!(names, ["accept", "x-custom"]);
    }

    #[test]
    fn several_values_of_a_header_go_on_in_order() {
        let mut headers = map(&[("accept", "a"), ("x-b", "1")]);
        headers.append("accept", HeaderValue::from_static("b"));
        headers.append("x-b", HeaderValue::from_static("2"));
        let onward = onward(&headers);
        let values = |name| onward.get_all(name).iter().collect::<Vec<_>>();
        assert_eq!(values("accept"), ["a", "b"]);
        assert_eq!(values("x-b"), ["1", "2"]);
    }

    #[test]
    fn directions_are_read_and_checked() {
        let mut headers = map(&FULL);
        headers.insert("x-apideck-service-id", HeaderValue::from_static(""));
        headers.insert("x-apideck-timeout", HeaderValue::from_static("1500"));
        headers.insert(
            "x-apideck-downstream-method",
            HeaderValue::from_static("patch"),
        );
        let directions = Directions::of(Form::Headers, &headers);
        assert_eq!(directions.key(), Some(&b"Bearer key"[..]));
        let wanted = directions.wanted().unwrap();
        assert_eq!(wanted.service, None);
        assert_eq!(wanted.consumer, "c");
        assert!(matches!(&wanted.asked, Asked::Url(url) if url == "/x"));
        assert_eq!(wanted.timeout, Some(Duration::from_millis(1500)));
        assert_eq!(wanted.method, Some(Method::PATCH));
        for (name, wrong) in [
            ("x-apideck-timeout", "soon"),
            ("x-apideck-downstream-method", "connect"),
            ("x-apideck-downstream-method", "TRACE"),
            ("x-apideck-downstream-method", "a b"),
        ] {
            let mut headers = map(&FULL);
            headers.insert(name, HeaderValue::from_static(wrong));
            let error = Directions::of(Form::Headers, &headers)
                .wanted()
                .unwrap_err();
            assert_eq!(error.status(), 400, "{name}: {wrong}");
        }
        let error = Directions::default().wanted().unwrap_err();
        assert_eq!(error.type_name(), "RequestHeadersValidationError");
    }

    #[test]
    fn a_direction_that_is_given_twice_is_refused() {
        for (name, value) in FULL {
            let mut headers = map(&FULL);
            headers.append(name, HeaderValue::from_static(value));
            let error = Directions::of(Form::Headers, &headers)
                .wanted()
                .unwrap_err();
            assert_eq!(error.status(), 400, "{name}");
        }
    }

    #[test]
    fn what_the_path_says_no_header_says_again() {
        let form = || Form::of("/proxy/c%20d/crm/s/x?y").unwrap();
        let bare = map(&[("authorization", "Bearer key"), ("x-apideck-timeout", "9")]);
        let directions = Directions::of(form(), &bare);
        let wanted = directions.wanted().unwrap();
        assert_eq!(
            (&*wanted.consumer, wanted.service.as_deref()),
            ("c d", Some("s"))
        );
        assert!(matches!(wanted.asked, Asked::Below("/x?y")));
        assert_eq!(wanted.timeout, Some(Duration::from_millis(9)));
        for direction in Direction::ALL.into_iter().filter(|d| PathForm::settles(*d)) {
            let mut headers = bare.clone();
            // The SDKs send empty ones.
            headers.insert(direction.name(), HeaderValue::from_static(""));
            assert!(Directions::of(form(), &headers).wanted().is_ok());
            headers.insert(direction.name(), HeaderValue::from_static("GET"));
            let error = Directions::of(form(), &headers).wanted().unwrap_err();
            assert_eq!(error.status(), 400, "{}", direction.name());
        }
    }
}
