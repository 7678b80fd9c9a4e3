//! What the fuzz targets reach of this module. Not an interface.

use std::sync::Arc;

use http::{HeaderMap, StatusCode, Uri};
use tokenward::vault::Resolved;
use url::Url;

use super::{
    headers::{self, Directions},
    target,
};
use crate::egress::AddressRules;

/// Where `x-apideck-downstream-url` leads, if a token may go there, and what hyper makes of it.
pub fn target(given: &str, resolved: &Resolved) -> Option<(Url, Option<Uri>)> {
    let url = target::resolve(given, resolved, None).ok()?;
    let rules = Arc::new(AddressRules::new(vec!["127.0.0.0/8".parse().ok()?]));
    target::check(&url, resolved, &rules).ok()?;
    let uri = target::uri(&url).ok();
    Some((url, uri))
}

/// Whether the `x-apideck-*` headers can be followed.
pub fn directions(headers: &HeaderMap) -> bool {
    Directions::read(headers).is_ok()
}

/// What goes on of a request's headers.
pub fn strip(headers: &mut HeaderMap) {
    headers::strip(headers);
}

/// What goes on of a response's headers.
pub fn finish(headers: &mut HeaderMap, status: StatusCode) {
    headers::finish(headers, status);
}
