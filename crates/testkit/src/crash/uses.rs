//! What the provider's timeline tells of each refresh token's uses.

use std::collections::BTreeMap;

use crate::sandbox::{AccessId, EventKind, GrantId, RefreshId, TimelineEvent};

/// A use of a refresh token.
#[derive(Clone, Debug)]
pub(super) struct Use {
    pub(super) request: u64,
    pub(super) presented: Option<RefreshId>,
    pub(super) via: String,
    pub(super) seen: u64,
    /// Answered or dropped.
    pub(super) closed: Option<u64>,
    pub(super) granted: Option<u64>,
    pub(super) access: Option<AccessId>,
    pub(super) issued: Option<RefreshId>,
    pub(super) lost: Option<u64>,
    pub(super) refused: bool,
    pub(super) fault: Option<String>,
}

/// The refresh requests by grant, in order of arrival.
pub(super) fn uses(events: &[TimelineEvent]) -> BTreeMap<GrantId, Vec<Use>> {
    let mut uses: BTreeMap<GrantId, Vec<Use>> = BTreeMap::new();
    // Where each request stands, so that later events find it.
    let mut index = BTreeMap::new();
    for event in events {
        let (Some(request), Some(grant)) = (event.request, event.grant) else {
            continue;
        };
        let list = uses.entry(grant).or_default();
        if event.kind == EventKind::Seen {
            index.insert(request, list.len());
            list.push(Use {
                request,
                presented: event.token,
                via: event.via.clone().unwrap_or_default(),
                seen: event.at_ms,
                closed: None,
                granted: None,
                access: None,
                issued: None,
                lost: None,
                refused: false,
                fault: None,
            });
            continue;
        }
        let Some(used) = index.get(&request).and_then(|at| list.get_mut(*at)) else {
            continue;
        };
        match event.kind {
            EventKind::Granted => {
                used.granted = Some(event.at_ms);
                used.access = event.access;
                used.issued = event.issued;
            }
            EventKind::Lost => used.lost = Some(event.at_ms),
            EventKind::Refused => used.refused = true,
            EventKind::Fault => used.fault.clone_from(&event.note),
            EventKind::Answered | EventKind::Dropped => used.closed = Some(event.at_ms),
            _ => {}
        }
    }
    uses
}
