//! What a page shows: values only, made of core's types and a session's claims by whoever asks for
//! a page. A text of a stranger's is a [`Name`] or [`Words`], an address a [`Href`].

use std::fmt;

use http::StatusCode;
use tokenward::{
    connector::Connector,
    time::StoreTime,
    vault::state::{Health, State},
};
use url::Url;

pub use super::{
    field::{Choice, Field, FieldKind, FieldProblem, SettingsForm},
    paths::{At, Paths},
};
use super::{
    href::Href,
    locale::Locale,
    text::{Name, Words},
    theme::{Picture, Theme},
};

/// What all pages of a session have in common.
#[derive(Clone, Debug, Default)]
pub struct Frame {
    /// The language.
    pub locale: Locale,
    /// The looks.
    pub theme: Theme,
    /// Where the page's parts are.
    pub paths: Paths,
    /// Whose connections these are, in the application's words: the consumer's account or user.
    pub consumer: Option<Name>,
    /// Back to the application.
    pub return_to: Option<Href>,
    /// This page's own address, to show it in another language; none where asking for it again
    /// would not show the same.
    pub here: Option<Href>,
    /// Goes with every form.
    pub form_token: FormToken,
}

/// What tells a form of ours from one that another site sends.
#[derive(Clone, Default)]
pub struct FormToken(pub String);

impl fmt::Debug for FormToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[secret]")
    }
}

/// A page.
#[derive(Clone, Debug)]
pub enum View {
    /// All integrations.
    List(List),
    /// One of them.
    Detail(Box<Detail>),
    /// Whether to end it.
    Question(Question),
    /// Whether to take another account.
    Switch(Switch),
    /// Which organisation.
    Tenants(Tenants),
    /// To whose account of which application something will be connected.
    Consent(Consent),
    /// A form has been sent, and the way leads to the provider: a redirect would be held up by
    /// `form-action`, which counts where redirects lead.
    Leaving(Leaving),
    /// What became of a login.
    Receipt(Receipt),
    /// What a developer has to mend.
    Developer(Developer),
    /// The session is over, or its link was used.
    SessionExpired,
    /// There is no such page, or not in this session.
    NotFound,
    /// Our fault.
    ServerError {
        /// Finds it in the logs.
        request_id: Option<Name>,
    },
}

impl View {
    /// How it is answered.
    pub fn status(&self) -> StatusCode {
        match self {
            Self::Detail(detail) if detail.refused() => StatusCode::UNPROCESSABLE_ENTITY,
            Self::Tenants(tenants) if tenants.refused => StatusCode::UNPROCESSABLE_ENTITY,
            Self::SessionExpired => StatusCode::FORBIDDEN,
            Self::NotFound => StatusCode::NOT_FOUND,
            Self::ServerError { .. } => StatusCode::INTERNAL_SERVER_ERROR,
            _ => StatusCode::OK,
        }
    }
}

/// An integration, as it is named everywhere.
#[derive(Clone, Debug)]
pub struct Integration {
    /// Its name.
    pub name: Name,
    /// A line about it.
    pub about: Option<Words>,
    /// Its web site.
    pub website: Option<Href>,
    /// Its picture; its first letter where there is none.
    pub picture: Option<Picture>,
}

impl Integration {
    /// Of its connector.
    pub fn of(connector: &Connector) -> Self {
        let website = connector.website.as_deref();
        let website = website.and_then(|url| Href::web(&Url::parse(url).ok()?));
        let name = Name::new(&connector.name).or_else(|| Name::new(&connector.id.to_string()));
        Self {
            name: name.unwrap_or_else(Name::unnamed),
            about: connector.description.as_deref().and_then(Words::new),
            website,
            picture: None,
        }
    }
}

/// Where a connection stands, for the person whose it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Status {
    /// Not there yet.
    Available,
    /// There, and nobody has logged in.
    Unauthorized,
    /// Settings are missing.
    InputRequired,
    /// It works.
    Connected,
    /// It works, and the provider cannot be reached just now.
    Retrying,
    /// Somebody has to log in again.
    NeedsAttention,
    /// Switched off.
    Disabled,
    /// Logged in, and the application has not confirmed it.
    PendingConfirmation,
    /// The provider refuses the settings.
    InvalidSettings,
}

impl Status {
    /// All of them, the most urgent first.
    pub const ALL: [Self; 9] = [
        Self::NeedsAttention,
        Self::InvalidSettings,
        Self::InputRequired,
        Self::PendingConfirmation,
        Self::Unauthorized,
        Self::Retrying,
        Self::Connected,
        Self::Disabled,
        Self::Available,
    ];

    /// Of what the vault says of a connection. Confirmation and settings that a provider refused
    /// are known to others.
    pub fn of(state: State, health: Health, enabled: bool) -> Self {
        match (state, health) {
            (State::Available, _) => Self::Available,
            _ if !enabled => Self::Disabled,
            (State::Added, _) => Self::Unauthorized,
            (State::Authorized, _) => Self::InputRequired,
            (State::Callable, Health::PendingRefresh) => Self::Retrying,
            (State::Callable, _) => Self::Connected,
            (State::Invalid, _) => Self::NeedsAttention,
        }
    }

    /// Whether something is to be done about it.
    pub(super) fn wants_a_person(self) -> bool {
        match self {
            Self::NeedsAttention
            | Self::InvalidSettings
            | Self::InputRequired
            | Self::PendingConfirmation
            | Self::Unauthorized => true,
            Self::Retrying | Self::Connected | Self::Disabled | Self::Available => false,
        }
    }

    /// Whether somebody has logged in, and it still counts.
    pub(super) fn signed_in(self) -> bool {
        match self {
            Self::InputRequired
            | Self::Connected
            | Self::Retrying
            | Self::Disabled
            | Self::PendingConfirmation
            | Self::InvalidSettings => true,
            Self::NeedsAttention | Self::Unauthorized | Self::Available => false,
        }
    }
}

/// An integration in the list.
#[derive(Clone, Debug)]
pub struct Item {
    /// Which.
    pub at: At,
    /// Its name and picture.
    pub integration: Integration,
    /// Where it stands.
    pub status: Status,
    /// The account that is connected.
    pub account: Option<Name>,
}

/// All integrations of a session; the page shows a part of them.
#[derive(Clone, Debug, Default)]
pub struct List {
    /// In any order.
    pub items: Vec<Item>,
    /// What is searched for.
    pub query: String,
    /// Which part, from 1.
    pub page: usize,
}

/// What the session allows, and what makes sense.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Allowed {
    /// To log in again.
    pub reauthorize: bool,
    /// To end the grant.
    pub disconnect: bool,
    /// To forget the connection.
    pub delete: bool,
    /// To switch it off and on.
    pub disable: bool,
}

impl Default for Allowed {
    fn default() -> Self {
        Self {
            reauthorize: true,
            disconnect: true,
            delete: true,
            disable: true,
        }
    }
}

impl Allowed {
    /// Of the claim `allow_actions`; without it everything.
    pub fn of<'a>(actions: Option<impl IntoIterator<Item = &'a str>>) -> Self {
        let Some(actions) = actions else {
            return Self::default();
        };
        let mut allowed = Self {
            reauthorize: false,
            disconnect: false,
            delete: false,
            disable: false,
        };
        for action in actions {
            match action {
                "reauthorize" => allowed.reauthorize = true,
                "disconnect" => allowed.disconnect = true,
                "delete" => allowed.delete = true,
                "disable" => allowed.disable = true,
                _ => {}
            }
        }
        allowed
    }
}

/// What has just been done, said on the page that comes after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notice {
    /// Settings or an organisation.
    Saved,
    /// Switched on.
    Enabled,
    /// Switched off.
    Disabled,
    /// The grant is ended.
    Disconnected,
}

/// One connection, or one that could be.
#[derive(Clone, Debug)]
pub struct Detail {
    /// Which.
    pub at: At,
    /// Its name and picture.
    pub integration: Integration,
    /// Where it stands.
    pub status: Status,
    /// The account that is connected.
    pub account: Option<Name>,
    /// The organisation that is worked with.
    pub organisation: Option<Name>,
    /// Since when.
    pub since: Option<StoreTime>,
    /// What was asked for and not granted.
    pub missing_permissions: Vec<Name>,
    /// Where a login begins: a link, since a form's redirects may not leave this server.
    pub connect: Option<Href>,
    /// What may be done.
    pub allowed: Allowed,
    /// Whether there are several organisations to choose from.
    pub has_tenants: bool,
    /// Its settings, if it has any.
    pub settings: Option<SettingsForm>,
    /// What has just been done.
    pub notice: Option<Notice>,
}

impl Detail {
    pub(super) fn refused(&self) -> bool {
        self.settings.as_ref().is_some_and(SettingsForm::refused)
    }
}

/// Whether to end a connection.
#[derive(Clone, Debug)]
pub struct Question {
    /// Which.
    pub at: At,
    /// Its name and picture.
    pub integration: Integration,
    /// The account that is connected.
    pub account: Option<Name>,
    /// What is asked.
    pub ending: Ending,
}

/// How a connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// The grant is given back; settings stay.
    Disconnect,
    /// Everything is forgotten.
    Remove,
}

/// Another account for a connection.
#[derive(Clone, Debug)]
pub struct Switch {
    /// Which.
    pub at: At,
    /// Its name and picture.
    pub integration: Integration,
    /// The account that is connected.
    pub kept: Name,
    /// The account to come, if it is known.
    pub came: Option<Name>,
    /// Where the login begins that may come back as another account.
    pub connect: Href,
}

/// An organisation of a login.
#[derive(Clone, Debug)]
pub struct Tenant {
    /// As the provider calls it; sent back whole.
    pub id: String,
    /// For people.
    pub name: Name,
}

/// Which organisation to work with.
#[derive(Clone, Debug)]
pub struct Tenants {
    /// Of which connection.
    pub at: At,
    /// Its name and picture.
    pub integration: Integration,
    /// All there are; the page shows a part.
    pub tenants: Vec<Tenant>,
    /// The id of the one that is worked with.
    pub chosen: Option<String>,
    /// What is searched for.
    pub query: String,
    /// The form came without a choice.
    pub refused: bool,
}

/// A person without a session has opened a link: to whose account would it connect theirs?
#[derive(Clone, Debug)]
pub struct Consent {
    /// Its name and picture.
    pub integration: Integration,
    /// The application that asks.
    pub application: Name,
    /// Whose account of the application it is.
    pub consumer: Name,
    /// The account that has logged in, if that is known already.
    pub account: Option<Name>,
    /// Where the answer goes: `answer` is `yes` or `no`.
    pub answer_to: Href,
    /// The attempt, sent along.
    pub attempt: String,
}

/// On to the provider.
#[derive(Clone, Debug)]
pub struct Leaving {
    /// Its name and picture.
    pub integration: Integration,
    /// Where to.
    pub to: Href,
}

/// What became of a login. A doubled, reloaded or late callback shows it too.
#[derive(Clone, Debug)]
pub struct Receipt {
    /// Which connection; `None` where the link does not say (any more).
    pub at: Option<At>,
    /// Its name and picture, where they are known.
    pub integration: Option<Integration>,
    /// What happened.
    pub outcome: Outcome,
    /// The connection that was there before goes on working.
    pub still_connected: bool,
    /// Where a new login begins.
    pub again: Option<Href>,
    /// The session is alive, so that the list can be shown.
    pub has_session: bool,
}

/// How a login ended.
#[derive(Clone, Debug)]
pub enum Outcome {
    /// Well.
    Connected {
        /// As whom.
        account: Option<Name>,
        /// What comes next.
        next: Next,
    },
    /// The same link again, after it had ended well.
    AlreadyDone,
    /// The person said no.
    Denied,
    /// The provider reported something else.
    ProviderError {
        /// In its words, scrubbed.
        words: Option<Words>,
    },
    /// The link is too old, and known.
    Expired {
        /// How long links live.
        minutes: usize,
    },
    /// The link is so old that nothing is known of it, or it was never ours.
    Unknown,
    /// It was begun in another browser.
    OtherBrowser,
    /// Another account than the connection's; nothing was changed.
    OtherAccount {
        /// The connection's.
        kept: Name,
        /// The one that came.
        came: Name,
        /// Where the switch is asked about.
        switch: Option<Href>,
    },
    /// The provider could not be reached, or gave no answer.
    Failed,
}

/// What a person has to do after a login.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Nothing.
    Nothing,
    /// To fill in settings.
    Settings,
    /// To choose an organisation.
    Tenant,
}

/// The integration is not set up as it should be: for whoever runs the application.
#[derive(Clone, Debug)]
pub struct Developer {
    /// Its name and picture.
    pub integration: Integration,
    /// What is wrong.
    pub problem: Misconfiguration,
    /// What the provider said, scrubbed.
    pub words: Option<Words>,
    /// The application's id.
    pub application_id: Name,
    /// The connector's id.
    pub service_id: Name,
    /// Finds it in the logs.
    pub request_id: Option<Name>,
}

/// What is not set up.
#[derive(Clone, Debug)]
pub enum Misconfiguration {
    /// The provider does not know the redirect URI.
    RedirectUri(Url),
    /// The provider does not accept the client.
    Client,
    /// There is no client.
    NoClient,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_vault_says_has_a_status() {
        let of = Status::of;
        let cases = [
            (
                State::Available,
                Health::NeedsAuth,
                false,
                Status::Available,
            ),
            (State::Added, Health::NeedsAuth, true, Status::Unauthorized),
            (
                State::Authorized,
                Health::MissingSettings,
                true,
                Status::InputRequired,
            ),
            (State::Callable, Health::Ok, true, Status::Connected),
            (
                State::Callable,
                Health::PendingRefresh,
                true,
                Status::Retrying,
            ),
            (State::Callable, Health::Ok, false, Status::Disabled),
            (State::Invalid, Health::NeedsAuth, false, Status::Disabled),
            (
                State::Invalid,
                Health::NeedsAuth,
                true,
                Status::NeedsAttention,
            ),
        ];
        for (state, health, enabled, expected) in cases {
            assert_eq!(of(state, health, enabled), expected, "{state:?} {health:?}");
        }
    }

    #[test]
    fn a_session_names_what_it_allows() {
        assert_eq!(Allowed::of(None::<[&str; 0]>), Allowed::default());
        let some = Allowed::of(Some(["reauthorize", "fly"]));
        assert!(some.reauthorize && !some.disconnect && !some.delete && !some.disable);
    }
}
