//! Customers' sessions: what an application's backend asks for and hands to its customer's browser.
//!
//! A session is a signed statement, kept nowhere. Apideck's component reads it without verifying it, so that
//! its claims have Apideck's names.

use std::{fmt, sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use tokenward::{ApplicationId, ConsumerId, Secret, store::Theme, time::StoreTime};

use super::signed::Signer;

/// How long a session holds if nobody says.
pub const DEFAULT_LENGTH: Duration = Duration::from_secs(3600);
/// No session holds longer.
pub const LONGEST: Duration = Duration::from_secs(7 * 24 * 3600);
/// It travels in a header and in a URL.
pub const LARGEST_TOKEN: usize = 6 * 1024;

/// What a session says. Whoever holds one acts as its consumer, and as nobody else.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Session {
    /// The application whose customer it is.
    pub application_id: ApplicationId,
    /// The customer.
    pub consumer_id: ConsumerId,
    /// Who that is, for pages.
    #[serde(default)]
    pub consumer_metadata: Map<String, Value>,
    /// Where the browser goes in the end.
    pub redirect_uri: String,
    /// What it may see and do.
    #[serde(default)]
    pub settings: SessionSettings,
    /// How pages look.
    #[serde(default)]
    pub theme: SessionTheme,
}

/// What may be done in a session, and what is shown.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SessionSettings {
    /// The unified APIs that it is about; none: all.
    pub unified_apis: Vec<String>,
    /// What may be done beside connecting; `None`: everything.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allow_actions: Option<Vec<String>>,
    /// For pages.
    pub hide_resource_settings: bool,
    /// For pages.
    pub hide_guides: bool,
    /// For pages.
    pub hide_consumer_card: bool,
    /// For pages: no way from one connection to others.
    pub isolation_mode: bool,
    /// For pages.
    pub show_logs: bool,
    /// For pages.
    pub show_suggestions: bool,
    /// For pages.
    pub show_sidebar: bool,
    /// The browser is sent on as soon as a connection is made.
    pub auto_redirect: bool,
    /// Apideck's, without a meaning here.
    pub sandbox_mode: bool,
}

/// How pages look.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SessionTheme {
    /// What can have a default.
    #[serde(flatten)]
    pub base: Theme,
    /// The icon in the browser's tab.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub favicon: Option<String>,
    /// Where the application tells what it does with data.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub privacy_url: Option<String>,
    /// Its terms.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub terms_url: Option<String>,
    /// Of the panel.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sidepanel_background_color: Option<String>,
    /// Of the panel.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sidepanel_text_color: Option<String>,
}

impl Session {
    /// Whether it is about a unified API.
    pub fn is_about(&self, unified_api: &str) -> bool {
        let apis = &self.settings.unified_apis;
        apis.is_empty() || apis.iter().any(|api| api == unified_api)
    }

    /// Whether an action (`delete`, `disconnect`, `reauthorize`, `disable`) is allowed.
    pub fn allows(&self, action: &str) -> bool {
        let allowed = &self.settings.allow_actions;
        allowed
            .as_ref()
            .is_none_or(|all| all.iter().any(|it| it == action))
    }
}

/// Makes and reads sessions.
#[derive(Clone)]
pub struct Sessions(Arc<Signer>);

impl fmt::Debug for Sessions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sessions")
    }
}

impl Sessions {
    /// Sessions that are signed with a key of the vault.
    pub fn new(key: &[u8; 32]) -> Self {
        Self(Arc::new(Signer::new(key, "session")))
    }

    /// A token for a session.
    pub fn issue(&self, session: &Session, length: Duration, now: StoreTime) -> Secret {
        let seconds = i64::try_from(length.min(LONGEST).as_secs()).unwrap_or_default();
        Secret::new(self.0.sign(session, now, seconds))
    }

    /// The session of a token, if it is ours and holds.
    pub fn read(&self, token: &str, now: StoreTime) -> Option<Session> {
        if token.len() > LARGEST_TOKEN {
            return None;
        }
        self.0.read(token, now)
    }
}

/// Reads a length: a number and one of `s`, `m`, `h`, `d`, `w`.
///
/// # Errors
///
/// In words for a person: none of these, nothing, or more than a week.
pub fn length(text: &str) -> Result<Duration, String> {
    let wrong = || "`session_length` must be a number and s, m, h, d or w, such as `30m`, and at most one week";
    let text = text.trim();
    let unit = text.chars().last().ok_or_else(wrong)?;
    let seconds = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3600,
        'd' => 24 * 3600,
        'w' => 7 * 24 * 3600,
        _ => return Err(wrong().to_owned()),
    };
    let number = text[..text.len() - 1].trim_end();
    let number: u32 = number.parse().map_err(|_| wrong())?;
    let length = Duration::from_secs(u64::from(number) * seconds);
    if length.is_zero() || length > LONGEST {
        return Err(wrong().to_owned());
    }
    Ok(length)
}

#[cfg(test)]
#[path = "session_tests.rs"]
mod tests;
