//! Files that pages name. Their names change with their contents, so that browsers keep them.

use std::{borrow::Cow, fmt::Write as _, sync::LazyLock};

use aws_lc_rs::digest;
use axum::response::{IntoResponse, Response};
use http::{HeaderName, HeaderValue, header};

use super::{colour::Rgb, theme};

/// A file by its name and what is in it.
#[derive(Debug)]
pub(super) struct File {
    pub(super) name: String,
    text: &'static str,
}

/// The stylesheet of all pages.
pub(super) static STYLE: LazyLock<File> = LazyLock::new(|| {
    let text = include_str!("style.css");
    let hash = digest::digest(&digest::SHA256, text.as_bytes());
    let mut name = "page-".to_owned();
    for byte in &hash.as_ref()[..6] {
        let _ = write!(name, "{byte:02x}");
    }
    name.push_str(".css");
    File { name, text }
});

/// A file of the page, as it goes to browsers.
#[derive(Debug, PartialEq, Eq)]
pub struct Asset {
    text: Cow<'static, str>,
    cache: &'static str,
}

impl Asset {
    /// What is in it.
    pub fn text(&self) -> &str {
        &self.text
    }
}

/// The file at a path below the page's prefix: `assets/page-0123456789ab.css`, `theme/286efa.css`.
pub fn asset(path: &str) -> Option<Asset> {
    if let Some(name) = path.strip_prefix("assets/") {
        return (name == STYLE.name).then_some(Asset {
            text: Cow::Borrowed(STYLE.text),
            cache: "public, max-age=31536000, immutable",
        });
    }
    let name = path.strip_prefix("theme/")?.strip_suffix(".css")?;
    let colour = Rgb::parse(name)?;
    // One address for each colour, so that nobody fills caches with others.
    (colour.to_string() == name).then(|| Asset {
        text: Cow::Owned(theme::stylesheet(colour)),
        cache: "public, max-age=86400",
    })
}

impl IntoResponse for Asset {
    fn into_response(self) -> Response {
        let headers: [(HeaderName, HeaderValue); 4] = [
            (
                header::CONTENT_TYPE,
                HeaderValue::from_static("text/css; charset=utf-8"),
            ),
            (header::CACHE_CONTROL, HeaderValue::from_static(self.cache)),
            (
                header::X_CONTENT_TYPE_OPTIONS,
                HeaderValue::from_static("nosniff"),
            ),
            (
                HeaderName::from_static("cross-origin-resource-policy"),
                HeaderValue::from_static("same-origin"),
            ),
        ];
        (headers, self.text.into_owned()).into_response()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::page::colour::{DARK, LIGHT};

    #[test]
    fn files_have_one_name_each() {
        assert!(asset(&format!("assets/{}", STYLE.name)).is_some());
        assert!(
            asset("theme/286efa.css")
                .unwrap()
                .text()
                .starts_with(":root{--fill:#")
        );
        for path in [
            "assets/page-000000000000.css",
            "assets/",
            "theme/286EFA.css",
            "theme/286.css",
            "theme/#286efa.css",
            "theme/.css",
            "theme/286efa",
            "../style.css",
            "",
        ] {
            assert_eq!(asset(path), None, "{path}");
        }
    }

    #[test]
    fn the_stylesheet_asks_for_nothing_and_has_the_grounds_that_colours_are_checked_against() {
        let css = STYLE.text;
        for foreign in ["url(", "@import", "@font-face", "http"] {
            assert!(!css.contains(foreign), "{foreign}");
        }
        let (light, dark) = css.split_once("prefers-color-scheme:dark").unwrap();
        for (text, ground) in [(light, LIGHT), (dark, DARK)] {
            let [page, card] = ground.surfaces;
            assert!(
                text.contains(&format!("--page:#{page};--card:#{card};")),
                "{ground:?}"
            );
        }
    }
}
