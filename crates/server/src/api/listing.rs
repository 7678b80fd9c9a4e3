//! Lists in pages: query, cursors, envelope.

use std::collections::BTreeMap;

use axum::extract::FromRequestParts;
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use http::request::Parts as Head;
use serde_json::{Value, json};

use super::{ApiError, ApiState};

/// Entries on a page, if nobody says, and at most.
const USUAL: usize = 20;
const MOST: usize = 200;
/// No cursor and no filter is longer.
const LONGEST: usize = 1024;

/// What a list is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Listing {
    path: String,
    /// As it was sent.
    cursor: Option<String>,
    pub(super) limit: usize,
    filter: BTreeMap<String, String>,
}

/// A page's entries, and whether more follow.
#[derive(Debug)]
pub(super) struct Page {
    pub(super) entries: Vec<Value>,
    /// What its last entry is called, if there are more after it.
    pub(super) next: Option<String>,
}

impl FromRequestParts<ApiState> for Listing {
    type Rejection = ApiError;

    async fn from_request_parts(head: &mut Head, _: &ApiState) -> Result<Self, ApiError> {
        Self::read(head.uri.path(), head.uri.query().unwrap_or_default())
    }
}

impl Listing {
    fn read(path: &str, query: &str) -> Result<Self, ApiError> {
        let mut listing = Self {
            path: path.to_owned(),
            cursor: None,
            limit: USUAL,
            filter: BTreeMap::new(),
        };
        for (name, value) in url::form_urlencoded::parse(query.as_bytes()) {
            // A parameter without a value is as good as none.
            if value.is_empty() {
                continue;
            }
            if value.len() > LONGEST || value.chars().any(char::is_control) {
                let shown: String = name.chars().take(40).collect();
                return Err(ApiError::invalid(format!(
                    "`{shown}` is too long, or no plain text"
                )));
            }
            let before = match &*name {
                "cursor" => listing.cursor.replace(value.into_owned()),
                "limit" => {
                    let limit = value
                        .parse()
                        .ok()
                        .filter(|limit| (1..=MOST).contains(limit));
                    listing.limit = limit.ok_or_else(|| {
                        ApiError::invalid(format!("`limit` must be a number from 1 to {MOST}"))
                    })?;
                    None
                }
                name => match name
                    .strip_prefix("filter[")
                    .and_then(|it| it.strip_suffix(']'))
                {
                    Some(field) => listing.filter.insert(field.to_owned(), value.into_owned()),
                    None => None,
                },
            };
            if before.is_some() {
                let shown: String = name.chars().take(40).collect();
                return Err(ApiError::invalid(format!(
                    "`{shown}` is given more than once"
                )));
            }
        }
        Ok(listing)
    }

    /// The values of these filters, in their order.
    ///
    /// # Errors
    ///
    /// 400 if there is another: who asks for less must not be given more.
    pub(super) fn filters<const N: usize>(
        &self,
        names: [&str; N],
    ) -> Result<[Option<String>; N], ApiError> {
        if let Some(other) = self
            .filter
            .keys()
            .find(|name| !names.contains(&name.as_str()))
        {
            let shown: String = other.chars().take(40).collect();
            return Err(ApiError::unknown_filter(&shown, &names.join(", ")));
        }
        Ok(names.map(|name| self.filter.get(name).cloned()))
    }

    /// The entry after which the page begins. `list` tells the cursors of one list from those of another.
    ///
    /// # Errors
    ///
    /// 400 if the cursor is none of this list.
    pub(super) fn after(&self, list: &str) -> Result<Option<String>, ApiError> {
        let Some(cursor) = &self.cursor else {
            return Ok(None);
        };
        let decoded = URL_SAFE_NO_PAD.decode(cursor).ok();
        decoded
            .and_then(|bytes| String::from_utf8(bytes).ok())
            .and_then(|text| Some(text.strip_prefix(list)?.strip_prefix(':')?.to_owned()))
            .map(|last| Some(last).filter(|last| !last.is_empty()))
            .ok_or_else(ApiError::bad_cursor)
    }

    /// Some of all entries, each with its name, in the order of the names.
    pub(super) fn page_of(
        &self,
        list: &str,
        all: impl Iterator<Item = (String, Value)>,
    ) -> Result<Page, ApiError> {
        let after = self.after(list)?;
        let mut rest = all.filter(|(name, _)| after.as_ref().is_none_or(|after| name > after));
        let (mut entries, mut last) = (Vec::new(), None);
        for (name, entry) in rest.by_ref().take(self.limit) {
            entries.push(entry);
            last = Some(name);
        }
        let next = rest.next().and(last);
        Ok(Page { entries, next })
    }

    /// The answer.
    pub(super) fn envelope(&self, state: &ApiState, list: &str, page: &Page) -> Value {
        let cursor = |last: &str| URL_SAFE_NO_PAD.encode(format!("{list}:{last}"));
        let current = self.cursor.clone().unwrap_or_else(|| cursor(""));
        let next = page.next.as_deref().map(cursor);
        let link = |cursor: &str| {
            let mut query = url::form_urlencoded::Serializer::new(String::new());
            query.append_pair("cursor", cursor);
            if self.limit != USUAL {
                query.append_pair("limit", &self.limit.to_string());
            }
            for (name, value) in &self.filter {
                query.append_pair(&format!("filter[{name}]"), value);
            }
            state
                .public
                .at(&format!("{}?{}", self.path, query.finish()))
        };
        json!({
            "status_code": 200,
            "status": "OK",
            "meta": {
                "items_on_page": page.entries.len(),
                "cursors": { "previous": null, "current": current, "next": next },
            },
            "links": { "previous": null, "current": link(&current), "next": next.as_deref().map(link) },
            "data": page.entries,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(query: &str) -> Result<Listing, ApiError> {
        Listing::read("/x", query)
    }

    #[test]
    fn limits_are_kept_and_nothing_is_given_twice() {
        assert_eq!(read("").unwrap().limit, 20);
        assert_eq!(read("limit=&cursor=&x=1").unwrap(), read("").unwrap());
        assert_eq!(read("limit=200").unwrap().limit, 200);
        for no in [
            "limit=0",
            "limit=201",
            "limit=-1",
            "limit=x",
            "cursor=a&cursor=b",
            "filter[a]=1&filter%5Ba%5D=2",
            "cursor=%00",
        ] {
            assert_eq!(read(no).unwrap_err().status(), 400, "{no}");
        }
        assert!(read(&format!("cursor={}", "x".repeat(LONGEST + 1))).is_err());
    }

    #[test]
    fn unknown_filters_are_refused() {
        let listing = read("filter%5Bsearch%5D=a%20b&filter[consumer_id]=c").unwrap();
        let found = listing.filters(["consumer_id", "search"]).unwrap();
        assert_eq!(found, [Some("c".to_owned()), Some("a b".to_owned())]);
        assert_eq!(
            listing.filters(["search"]).unwrap_err().type_name(),
            "UnsupportedFiltersError"
        );
    }

    #[test]
    fn pages_meet_every_entry_once_and_cursors_fit_one_list_only() {
        let all = || {
            ["a", "b", "c", "d", "e"]
                .map(|name| (name.to_owned(), json!(name)))
                .into_iter()
        };
        let mut met = Vec::new();
        let mut listing = read("limit=2").unwrap();
        loop {
            let page = listing.page_of("letters", all()).unwrap();
            met.extend(page.entries);
            let Some(last) = page.next else { break };
            listing.cursor = Some(URL_SAFE_NO_PAD.encode(format!("letters:{last}")));
        }
        assert_eq!(met, ["a", "b", "c", "d", "e"]);
        // A page that is full and the last one.
        assert_eq!(
            read("limit=5")
                .unwrap()
                .page_of("letters", all())
                .unwrap()
                .next,
            None
        );
        for no in ["%25%25", "bnVtYmVyczpj", "zzz", "bGV0dGVycw"] {
            let error = read(&format!("cursor={no}"))
                .unwrap()
                .after("letters")
                .unwrap_err();
            assert_eq!(
                (error.status().as_u16(), error.type_name()),
                (400, "InvalidCursorError"),
                "{no}"
            );
        }
    }
}
