//! The customers' page: what a customer of an application sees of the vault.
//!
//! Rendering only: a [`Frame`] and a [`View`] go in, [`Html`] comes out. No store, no vault, no
//! clock; whoever answers a request fills in the view. The pages work without scripts, ask nobody
//! else for anything, and say all they say in words.
//!
//! | module | what it is |
//! | --- | --- |
//! | [`view`] | what a page shows, as values |
//! | [`text`], [`href`], [`theme`] | what strangers say, made fit to be shown |
//! | `field`, `form` | a connection's settings: asked, read, checked; drawn |
//! | `list`, `detail`, `ask`, `receipt` | the pages |
//! | `layout`, `icons`, `style.css`, `assets` | what they have in common |
//! | `locale`, `messages`, `languages/` | the texts, one file a language |
//! | `colour` | an application's colour, moved until it can be read |
//!
//! `cargo run -p tokenward-server --example gallery` writes every state in every language to files.

mod ask;
mod assets;
mod colour;
mod detail;
mod field;
mod form;
pub mod href;
mod icons;
mod layout;
mod list;
mod locale;
mod messages;
mod paths;
mod receipt;
pub mod text;
pub mod theme;
pub mod view;

use axum::response::{IntoResponse, Response};
use http::{HeaderName, HeaderValue, StatusCode, header};

pub use assets::{Asset, asset};
pub use colour::Rgb;
use layout::{Body, Ui};
pub use locale::Locale;
use view::{Frame, View};

/// A page as it goes to a browser.
#[derive(Debug)]
pub struct Html {
    /// What it is answered with.
    pub status: StatusCode,
    text: String,
}

impl Html {
    /// The document.
    pub fn text(&self) -> &str {
        &self.text
    }
}

/// What a page may do: be shown with our own stylesheets and pictures, and send forms to us. The
/// opener of a popup stays what it is: Apideck's component looks at it.
pub const HEADERS: [(HeaderName, HeaderValue); 6] = [
    (
        header::CONTENT_SECURITY_POLICY,
        HeaderValue::from_static(
            "default-src 'none'; style-src 'self'; img-src 'self' data:; form-action 'self'; \
             base-uri 'none'; frame-ancestors 'none'",
        ),
    ),
    (
        header::CONTENT_TYPE,
        HeaderValue::from_static("text/html; charset=utf-8"),
    ),
    (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
    (
        header::X_CONTENT_TYPE_OPTIONS,
        HeaderValue::from_static("nosniff"),
    ),
    (header::X_FRAME_OPTIONS, HeaderValue::from_static("DENY")),
    // With none at all, a form's `Origin` would be `null`.
    (
        header::REFERRER_POLICY,
        HeaderValue::from_static("same-origin"),
    ),
];

impl IntoResponse for Html {
    fn into_response(self) -> Response {
        (self.status, HEADERS, self.text).into_response()
    }
}

/// Draws a page.
pub fn render(frame: &Frame, view: &View) -> Html {
    let ui = Ui::new(frame);
    Html {
        status: view.status(),
        text: ui.whole(&body(&ui, view)),
    }
}

fn body(ui: &Ui<'_>, view: &View) -> Body {
    match view {
        View::List(list) => list::page(ui, list),
        View::Detail(detail) => detail::page(ui, detail),
        View::Question(question) => ask::ending(ui, question),
        View::Switch(switch) => ask::switch(ui, switch),
        View::Tenants(tenants) => ask::tenants(ui, tenants),
        View::Consent(consent) => ask::consent(ui, consent),
        View::Leaving(leaving) => ask::leaving(ui, leaving),
        View::Receipt(receipt) => receipt::receipt(ui, receipt),
        View::Developer(developer) => receipt::developer(ui, developer),
        View::SessionExpired => receipt::session_expired(ui),
        View::NotFound => receipt::not_found(ui),
        View::ServerError { request_id } => receipt::server_error(ui, request_id.as_ref()),
    }
}
