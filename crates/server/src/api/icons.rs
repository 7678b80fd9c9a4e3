//! `/vault/icons/{connector}.svg`: a picture of a connector for pages, without a provider's trade mark: the
//! first letter of its name. Anybody may look at it.

use axum::{
    extract::{Path, State},
    response::{IntoResponse, Response},
};
use http::header;

use super::{ApiError, ApiState};

/// White is readable on each of these.
const COLOURS: [&str; 8] = [
    "#1d4ed8", "#7c3aed", "#be185d", "#b91c1c", "#b45309", "#15803d", "#0f766e", "#334155",
];

pub(super) async fn get(Path(file): Path<String>, State(state): State<ApiState>) -> Response {
    let id = file.strip_suffix(".svg");
    let connector = id.and_then(|id| state.vault.catalogue().find(id));
    let Some(connector) = connector else {
        return IntoResponse::into_response(ApiError::no_route());
    };
    let headers = [
        (header::CONTENT_TYPE, "image/svg+xml"),
        (header::CACHE_CONTROL, "public, max-age=86400"),
        (header::CONTENT_SECURITY_POLICY, "default-src 'none'"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ];
    (headers, picture(&connector.name)).into_response()
}

fn picture(name: &str) -> String {
    let letter = name.chars().find(|c| c.is_alphanumeric()).unwrap_or('?');
    let letter = letter.to_uppercase();
    let sum: usize = name.bytes().map(usize::from).sum();
    let colour = COLOURS[sum % COLOURS.len()];
    format!(
        r##"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 64 64" width="64" height="64"><rect width="64" height="64" rx="14" fill="{colour}"/><text x="32" y="43" text-anchor="middle" font-family="sans-serif" font-size="32" font-weight="600" fill="#fff">{letter}</text></svg>"##
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_picture_has_nothing_of_a_name_but_a_letter() {
        assert!(picture("<é>").contains(">É</text>"));
        assert!(picture("\"&<").contains(">?</text>"));
    }
}
