//! What an application has settled about how connections come to be.

use serde::{Deserialize, Serialize};
use url::Url;

/// What an application has settled about how connections come to be. By default: nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ApplicationSettings {
    /// Where browsers may be sent when a connection is made, exactly; none: to any `http` or `https` URL.
    pub redirect_urls: Vec<String>,
    /// Where they are sent if nobody says; one of [`redirect_urls`](Self::redirect_urls), if there are any.
    pub default_redirect_url: Option<String>,
    /// Whether every attempt to connect must carry a nonce and be confirmed.
    pub nonce_required: bool,
    /// How its pages look if a session does not say.
    pub theme: Theme,
}

/// How an application's pages look.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Theme {
    /// The name that customers know it by.
    pub vault_name: Option<String>,
    /// The URL of its logo.
    pub logo: Option<String>,
    /// Its colour, `#rrggbb`.
    pub primary_color: Option<String>,
}

/// Why a browser is not sent to a URL.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RedirectError {
    /// It is none that a browser can be sent to.
    #[error(
        "must be an absolute `http` or `https` URL of at most {LONGEST_URL} characters, without a user's name and \
         without a fragment"
    )]
    NoUrl,
    /// The application has registered others.
    #[error("is none of the application's registered redirect URLs, which must match exactly")]
    NotRegistered,
}

/// No URL of a redirect is longer.
const LONGEST_URL: usize = 2048;

impl ApplicationSettings {
    /// Where a browser is sent that was asked to be sent to `asked`; `None`: nobody says.
    ///
    /// # Errors
    ///
    /// [`RedirectError`]. URLs are compared as they are written: whatever would make two spellings the same
    /// could be used to make them differ.
    pub fn redirect(&self, asked: Option<&str>) -> Result<Option<String>, RedirectError> {
        let Some(asked) = asked else {
            return Ok(self.default_redirect_url.clone());
        };
        check_redirect_url(asked)?;
        if !self.redirect_urls.is_empty() && !self.redirect_urls.iter().any(|url| url == asked) {
            return Err(RedirectError::NotRegistered);
        }
        Ok(Some(asked.to_owned()))
    }
}

/// Whether a browser can be sent to it at all.
///
/// # Errors
///
/// [`RedirectError::NoUrl`] if not.
pub fn check_redirect_url(text: &str) -> Result<(), RedirectError> {
    let plain = |c: char| c.is_ascii_graphic() && c != '\\';
    let fits = text.len() <= LONGEST_URL
        && text.chars().all(plain)
        && Url::parse(text).is_ok_and(|url| {
            matches!(url.scheme(), "http" | "https")
                && url.has_host()
                && url.username().is_empty()
                && url.password().is_none()
                && url.fragment().is_none()
        });
    if fits {
        Ok(())
    } else {
        Err(RedirectError::NoUrl)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(urls: &[&str], default: Option<&str>) -> ApplicationSettings {
        ApplicationSettings {
            redirect_urls: urls.iter().map(ToString::to_string).collect(),
            default_redirect_url: default.map(Into::into),
            ..ApplicationSettings::default()
        }
    }

    #[test]
    fn what_is_registered_is_compared_as_it_is_written() {
        let url = "https://app.example.test/back?a=1";
        let registered = settings(&["https://other.example.test/", url], None);
        assert_eq!(registered.redirect(Some(url)), Ok(Some(url.to_owned())));
        for other in [
            "https://app.example.test/back",
            "https://app.example.test/back?a=1&b=2",
            "https://app.example.test/back/../back?a=1",
            "https://APP.example.test/back?a=1",
            "https://app.example.test:443/back?a=1",
            "http://app.example.test/back?a=1",
            "https://app.example.test.evil.test/back?a=1",
            "https://other.example.test",
        ] {
            let refused = registered.redirect(Some(other));
            assert_eq!(refused, Err(RedirectError::NotRegistered), "{other}");
        }
    }

    #[test]
    fn a_browser_is_sent_to_the_web_only() {
        let open = settings(&[], Some("https://app.example.test/"));
        assert_eq!(open.redirect(None), Ok(open.default_redirect_url.clone()));
        assert_eq!(settings(&[], None).redirect(None), Ok(None));
        assert!(
            open.redirect(Some("http://localhost:3000/cb?x=%20"))
                .is_ok()
        );
        for no in [
            "",
            "/back",
            "//app.example.test/",
            "javascript:alert(1)",
            "data:text/html,x",
            "file:///etc/passwd",
            "https://",
            "https://app.example.test/#x",
            "https://app.example.test@evil.test/",
            "https://evil.test\\@app.example.test/",
            "https://app.example.test/ x",
            "https://app.example.test/\r\nx: y",
            &format!("https://app.example.test/{}", "x".repeat(LONGEST_URL)),
        ] {
            assert_eq!(open.redirect(Some(no)), Err(RedirectError::NoUrl), "{no}");
        }
    }
}
