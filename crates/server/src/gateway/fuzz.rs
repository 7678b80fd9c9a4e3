//! What the fuzz targets reach of this module. Not an interface.

use http::{HeaderMap, StatusCode, Uri};
use tokenward::vault::Resolved;

use super::{
    directions::{self, Directions},
    target::{self, Target},
    trip,
};
use crate::egress::AddressRules;

/// Where `x-apideck-downstream-url` leads, if a token may go there.
pub fn target(given: &str, resolved: &Resolved) -> Option<Uri> {
    resolve(given, resolved).map(|target| target.uri())
}

fn resolve(given: &str, resolved: &Resolved) -> Option<Target> {
    let rules = AddressRules::new(vec!["127.0.0.0/8".parse().ok()?]);
    target::resolve(given, resolved, None, &rules).ok()
}

/// What goes on of a request's headers.
pub fn onward(headers: &HeaderMap) -> HeaderMap {
    let _ = Directions::of(headers).wanted();
    directions::onward(headers)
}

/// What goes on of the headers of an answer from there.
pub fn finish(headers: &mut HeaderMap, status: StatusCode, given: &str, resolved: &Resolved) {
    if let Some(target) = resolve(given, resolved) {
        trip::finish_headers(headers, status, false, &target);
    }
}
