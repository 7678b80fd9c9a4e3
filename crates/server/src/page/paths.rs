//! Where the page's parts are: what links name, and what the router has to serve.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use super::{assets, colour::Rgb, href::Href};

/// Of a segment everything is encoded but what no reader of paths minds.
const SEGMENT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'~');

/// The paths below one prefix.
///
/// | path | what |
/// | --- | --- |
/// | `GET {prefix}?q=&page=` | the list |
/// | `GET {prefix}/connections/{unified_api}/{service_id}` | one connection |
/// | `POST .../settings`, `.../enable`, `.../disable` | changes it; then back to it (303) |
/// | `GET .../tenant?q=`, `POST .../tenant` (`tenant`) | which organisation |
/// | `GET .../disconnect`, `POST .../disconnect` | asks; ends the grant |
/// | `GET .../remove`, `POST .../remove` | asks; forgets the connection |
/// | `GET .../switch` | asks before another account is logged in |
/// | `GET {prefix}/assets/{name}`, `GET {prefix}/theme/{rrggbb}.css` | [`super::asset`] |
///
/// Every form carries `form_token`; any page takes `lang`.
#[derive(Clone, Debug)]
pub struct Paths {
    prefix: String,
}

impl Default for Paths {
    fn default() -> Self {
        Self {
            prefix: "/vault/page".to_owned(),
        }
    }
}

/// Which connection of the consumer's a page is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct At {
    /// The unified API.
    pub unified_api: String,
    /// The connector.
    pub service_id: String,
}

/// What is done with a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Act {
    Settings,
    Enable,
    Disable,
    Tenant,
    Disconnect,
    Remove,
    Switch,
}

impl Act {
    fn segment(self) -> &'static str {
        match self {
            Self::Settings => "settings",
            Self::Enable => "enable",
            Self::Disable => "disable",
            Self::Tenant => "tenant",
            Self::Disconnect => "disconnect",
            Self::Remove => "remove",
            Self::Switch => "switch",
        }
    }
}

impl Paths {
    /// Below a prefix of this server, such as `/vault/page`; `None` if it is no path.
    pub fn below(prefix: &str) -> Option<Self> {
        let prefix = Href::own(prefix)?.as_str().trim_end_matches('/').to_owned();
        Some(Self { prefix })
    }

    pub(super) fn list(&self) -> Href {
        Href::made(self.prefix.clone())
    }

    /// One connection.
    pub fn connection(&self, at: &At) -> Href {
        let unified_api = utf8_percent_encode(&at.unified_api, SEGMENT);
        let service_id = utf8_percent_encode(&at.service_id, SEGMENT);
        let prefix = &self.prefix;
        Href::made(format!("{prefix}/connections/{unified_api}/{service_id}"))
    }

    pub(super) fn act(&self, at: &At, act: Act) -> Href {
        let connection = self.connection(at);
        Href::made(format!("{}/{}", connection.as_str(), act.segment()))
    }

    pub(super) fn stylesheet(&self) -> Href {
        Href::made(format!("{}/assets/{}", self.prefix, assets::STYLE.name))
    }

    pub(super) fn theme(&self, colour: Rgb) -> Href {
        Href::made(format!("{}/theme/{colour}.css", self.prefix))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn odd_ids_stay_one_segment() {
        let at = At {
            unified_api: "../x".to_owned(),
            service_id: "a/b?c#d\"<é".to_owned(),
        };
        assert_eq!(
            Paths::default().connection(&at).as_str(),
            "/vault/page/connections/%2E%2E%2Fx/a%2Fb%3Fc%23d%22%3C%C3%A9"
        );
    }

    #[test]
    fn a_prefix_is_a_path_of_ours() {
        assert!(Paths::below("//evil.example").is_none());
        assert_eq!(Paths::below("/x/").unwrap().list().as_str(), "/x");
    }
}
