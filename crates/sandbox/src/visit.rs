//! A token request while it is open: who is at the door, since when, and what came of it.

use std::{sync::Arc, time::Duration};

use super::{
    books::{EventKind, GrantId, Note},
    faults::Fault,
    http::Shared,
    state::State,
};

/// What the state knows of a token request whose client is still there.
pub(super) struct OpenRequest {
    since: Duration,
    grant: Option<GrantId>,
    refresh: bool,
    granted: bool,
    hanging: bool,
}

impl State {
    /// A token request arrived. Returns its number and the fault that it meets.
    pub(super) fn open_request(
        &mut self,
        grant: Option<GrantId>,
        grant_type: &str,
        secret: Option<&str>,
        via: Option<String>,
        now: Duration,
    ) -> (u64, Option<Fault>) {
        self.requests += 1;
        let id = self.requests;
        let refresh = grant_type == "refresh_token";
        let request = OpenRequest {
            since: now,
            grant,
            refresh,
            granted: false,
            hanging: false,
        };
        self.open.insert(id, request);
        let at_once = match grant {
            Some(_) if refresh => {
                let same = |open: &&OpenRequest| open.refresh && open.grant == grant;
                self.open.values().filter(same).count() as u64
            }
            _ => 0,
        };
        let fault = self.faults.take(grant);
        self.books.count(grant, |counts| {
            counts.token_requests += 1;
            counts.refresh_requests += u64::from(refresh);
            counts.faults += u64::from(fault.is_some());
            counts.peak_concurrent_refreshes = counts.peak_concurrent_refreshes.max(at_once);
        });
        // The client chose this text, so only the known ones are repeated.
        let known = ["refresh_token", "authorization_code", "client_credentials"];
        let kind = known.iter().find(|known| **known == grant_type);
        let token = secret.and_then(|secret| Some(self.refresh.get(secret)?.1));
        let seen = Note::new(EventKind::Seen, grant)
            .request(id)
            .token(token)
            .via(via);
        self.note(now, seen.text(*kind.unwrap_or(&"unknown grant type")));
        if let Some(fault) = &fault {
            let met = Note::new(EventKind::Fault, grant).request(id);
            self.note(now, met.text(format!("{fault:?}")));
        }
        (id, fault)
    }

    /// Tokens were issued for a request. If its client has gone, they are lost.
    pub(super) fn request_granted(&mut self, id: u64, grant: GrantId, now: Duration) {
        if let Some(request) = self.open.get_mut(&id) {
            request.granted = true;
            // A code or client credentials tell their grant only now.
            request.grant = Some(grant);
        } else {
            self.answer_lost(id, Some(grant), now);
        }
    }

    fn answer_lost(&mut self, id: u64, grant: Option<GrantId>, now: Duration) {
        self.books.count(grant, |counts| counts.answers_lost += 1);
        self.note(now, Note::new(EventKind::Lost, grant).request(id));
    }

    fn request_hangs(&mut self, id: u64, hanging: bool, now: Duration) {
        let Some(request) = self.open.get_mut(&id) else {
            return;
        };
        request.hanging = hanging;
        let grant = request.grant;
        self.books.count(grant, |counts| {
            counts.hanging = if hanging {
                counts.hanging + 1
            } else {
                counts.hanging.saturating_sub(1)
            };
        });
        if hanging {
            self.note(now, Note::new(EventKind::Hanging, grant).request(id));
        }
    }

    fn close_request(&mut self, id: u64, end: Ending, now: Duration) {
        let Some(request) = self.open.remove(&id) else {
            return;
        };
        let lost = request.granted && !matches!(end, Ending::Answered { whole: true, .. });
        self.books.count(request.grant, |counts| {
            if request.hanging {
                counts.hanging = counts.hanging.saturating_sub(1);
            }
        });
        let note = match end {
            Ending::Answered { status, .. } => {
                self.took = now.saturating_sub(request.since);
                Note::new(EventKind::Answered, request.grant).text(status.to_string())
            }
            Ending::Dropped => Note::new(EventKind::Dropped, request.grant),
        };
        self.note(now, note.request(id));
        if lost {
            self.answer_lost(id, request.grant, now);
        }
    }
}

#[derive(Clone, Copy)]
enum Ending {
    /// `whole`: with the tokens, if it was granted any.
    Answered {
        status: u16,
        whole: bool,
    },
    Dropped,
}

/// Keeps a request open. Hyper drops the handler, and this with it, when the client goes away.
pub(super) struct Visit {
    shared: Arc<Shared>,
    pub(super) id: u64,
    ended: bool,
}

impl Visit {
    /// Opens the request, with the fault that it meets.
    pub(super) fn open(
        shared: &Arc<Shared>,
        secret: Option<&str>,
        grant_type: &str,
        via: Option<String>,
    ) -> (Self, Option<Fault>) {
        let (id, fault) = shared.change(|state, now| {
            let grant = secret.and_then(|secret| state.grant_of(secret));
            state.open_request(grant, grant_type, secret, via, now)
        });
        let visit = Self {
            shared: Arc::clone(shared),
            id,
            ended: false,
        };
        (visit, fault)
    }

    /// Waits until hung requests are released.
    pub(super) async fn hang(&self) {
        let mut released = self.shared.released.subscribe();
        self.shared
            .change(|state, now| state.request_hangs(self.id, true, now));
        // The sender lives in `shared`, so this cannot fail.
        let _ = released.changed().await;
        self.shared
            .change(|state, now| state.request_hangs(self.id, false, now));
    }

    /// The request gets this answer; `whole` if that has the tokens that it was granted.
    pub(super) fn answered(mut self, status: u16, whole: bool) {
        self.end(Ending::Answered { status, whole });
    }

    fn end(&mut self, end: Ending) {
        if !std::mem::replace(&mut self.ended, true) {
            self.shared
                .change(|state, now| state.close_request(self.id, end, now));
        }
    }
}

impl Drop for Visit {
    fn drop(&mut self) {
        self.end(Ending::Dropped);
    }
}
