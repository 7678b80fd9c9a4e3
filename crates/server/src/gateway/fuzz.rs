//! What the fuzz targets reach of this module. Not an interface.

use http::{HeaderMap, StatusCode, Uri};
use tokenward::vault::Resolved;

use super::{
    directions::{self, Directions},
    path::Form,
    target::{self, Asked, Target},
    trip::{self, Links},
};
use crate::egress::AddressRules;

/// Where `x-apideck-downstream-url` leads, if a token may go there.
pub fn target(given: &str, resolved: &Resolved) -> Option<Uri> {
    resolve(given, resolved).map(|target| target.uri())
}

/// Where a request in the path form leads, if a token may go there.
pub fn below(rest: &str, resolved: &Resolved) -> Option<Uri> {
    let asked = Asked::Below(rest);
    let target = target::resolve(&asked, resolved, None, &rules()?).ok()?;
    Some(target.uri())
}

fn resolve(given: &str, resolved: &Resolved) -> Option<Target> {
    let asked = Asked::Url(given.into());
    target::resolve(&asked, resolved, None, &rules()?).ok()
}

fn rules() -> Option<AddressRules> {
    Some(AddressRules::new(vec!["127.0.0.0/8".parse().ok()?]))
}

/// What goes on of a request's headers.
pub fn onward(headers: &HeaderMap) -> HeaderMap {
    let _ = Directions::of(Form::Headers, headers).wanted();
    directions::onward(headers)
}

/// What goes on of the headers of an answer from there.
pub fn finish(headers: &mut HeaderMap, status: StatusCode, given: &str, resolved: &Resolved) {
    if let Some(target) = resolve(given, resolved) {
        let told = |reference: &[u8]| target.absolute(reference);
        let links = Links {
            told: &told,
            all: true,
        };
        trip::finish_headers(headers, status, false, &links);
    }
}
