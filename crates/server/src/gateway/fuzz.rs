//! What the fuzz targets reach of this module. Not an interface.

use http::{HeaderMap, StatusCode, Uri};
use tokenward::vault::Resolved;

use super::{
    headers::{self, Directions},
    target,
};
use crate::egress::AddressRules;

/// Where `x-apideck-downstream-url` leads, if a token may go there.
pub fn target(given: &str, resolved: &Resolved) -> Option<Uri> {
    let rules = AddressRules::new(vec!["127.0.0.0/8".parse().ok()?]);
    let target = target::resolve(given, resolved, None, &rules).ok()?;
    Some(target.uri())
}

/// What goes on of a request's headers.
pub fn onward(headers: HeaderMap) -> HeaderMap {
    let (directions, onward) = Directions::take(headers);
    let _ = directions.check();
    onward
}

/// What goes on of a response's headers.
pub fn finish(headers: &mut HeaderMap, status: StatusCode) {
    headers::finish(headers, status);
}
