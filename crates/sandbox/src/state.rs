//! Everything that the sandbox remembers. One mutex guards it; each method is one thing that
//! happens, with the time as an argument, and writes the books as it goes.

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use super::{
    books::{Books, EventKind, GrantId, Note, Timeline},
    config::{GrantRequest, IssuedTokens, SandboxConfig, UnknownClient},
    faults::FaultQueue,
    ledger::{AccessId, Family, RefreshId, Terms},
    secret::random,
    visit::OpenRequest,
};

// No Debug: it is full of secrets.
pub(super) struct State {
    pub(super) default_client: String,
    pub(super) terms: Terms,
    pub(super) clients: HashMap<String, Client>,
    pub(super) grants: BTreeMap<GrantId, Grant>,
    /// One grant per client takes all of its `client_credentials` tokens.
    pub(super) machine_grants: HashMap<String, GrantId>,
    pub(super) access: HashMap<String, (GrantId, AccessId)>,
    pub(super) refresh: HashMap<String, (GrantId, RefreshId)>,
    pub(super) codes: HashMap<String, Code>,
    pub(super) open: HashMap<u64, OpenRequest>,
    pub(super) requests: u64,
    /// How long the newest of those took that were answered.
    pub(super) took: Duration,
    /// Calls so far per key of `/api/flaky`.
    pub(super) flaky: HashMap<String, u32>,
    pub(super) secrets: Vec<String>,
    pub(super) books: Books,
    pub(super) timeline: Timeline,
    pub(super) faults: FaultQueue,
}

pub(super) struct Client {
    pub(super) secret: String,
    /// Empty allows any.
    pub(super) redirect_uris: Vec<String>,
}

pub(super) struct Grant {
    pub(super) client_id: String,
    pub(super) scope: Option<String>,
    pub(super) family: Family,
}

/// An authorization code, kept after its use: one that is presented again revokes what it gave.
pub(super) struct Code {
    pub(super) client_id: String,
    pub(super) redirect_uri: String,
    pub(super) challenge: Option<String>,
    pub(super) scope: Option<String>,
    pub(super) expires_at: Duration,
    pub(super) spent_for: Option<GrantId>,
}

impl State {
    pub(super) fn new(config: &SandboxConfig) -> Self {
        let mut state = Self {
            default_client: config.client_id.clone(),
            terms: config.terms(),
            clients: HashMap::new(),
            grants: BTreeMap::new(),
            machine_grants: HashMap::new(),
            access: HashMap::new(),
            refresh: HashMap::new(),
            codes: HashMap::new(),
            open: HashMap::new(),
            requests: 0,
            took: Duration::ZERO,
            flaky: HashMap::new(),
            secrets: Vec::new(),
            books: Books::default(),
            timeline: Timeline::new(config.timeline_limit),
            faults: FaultQueue::default(),
        };
        state.add_client(
            &config.client_id,
            &config.client_secret,
            config.redirect_uris.clone(),
        );
        state
    }

    pub(super) fn add_client(&mut self, id: &str, secret: &str, redirect_uris: Vec<String>) {
        if !secret.is_empty() {
            self.secrets.push(secret.to_owned());
        }
        let client = Client {
            secret: secret.to_owned(),
            redirect_uris,
        };
        self.clients.insert(id.to_owned(), client);
    }

    /// Mints a grant with its first pair, as if a user had agreed.
    pub(super) fn mint(
        &mut self,
        request: &GrantRequest,
        now: Duration,
    ) -> Result<IssuedTokens, UnknownClient> {
        let client_id = request.client_id.as_ref().unwrap_or(&self.default_client);
        if !self.clients.contains_key(client_id) {
            return Err(UnknownClient(client_id.clone()));
        }
        let mut terms = self.terms;
        terms.rotation = request.rotation.unwrap_or(terms.rotation);
        terms.access_ttl = request.access_ttl.unwrap_or(terms.access_ttl);
        let expires_in = request.first_access_ttl.unwrap_or(terms.access_ttl);

        let grant_id = self.open_grant(client_id.clone(), None, terms);
        let (access_token, refresh_token) = self.first_pair(grant_id, expires_in, now);
        self.note(now, Note::new(EventKind::Issued, Some(grant_id)));
        Ok(IssuedTokens {
            grant_id,
            access_token,
            refresh_token,
            expires_in,
        })
    }

    pub(super) fn open_grant(
        &mut self,
        client_id: String,
        scope: Option<String>,
        terms: Terms,
    ) -> GrantId {
        let id = GrantId(self.grants.len() as u64 + 1);
        let grant = Grant {
            client_id,
            scope,
            family: Family::new(terms),
        };
        self.grants.insert(id, grant);
        id
    }

    pub(super) fn first_pair(
        &mut self,
        grant: GrantId,
        life: Duration,
        now: Duration,
    ) -> (String, String) {
        let (access, refresh) = self.family(grant).issue(life, now);
        (
            self.name_access(grant, access),
            self.name_refresh(grant, refresh),
        )
    }

    /// Kills the access tokens of a grant, as if they had expired.
    pub(super) fn expire_access_tokens(&mut self, grant: GrantId, now: Duration) -> bool {
        let Some(entry) = self.grants.get_mut(&grant) else {
            return false;
        };
        entry.family.kill_access_tokens();
        self.note(now, Note::new(EventKind::Expired, Some(grant)));
        true
    }

    /// The grant of an access token, a refresh token or a spent code, dead or alive.
    pub(super) fn grant_of(&self, token: &str) -> Option<GrantId> {
        self.access
            .get(token)
            .map(|(grant, _)| *grant)
            .or_else(|| self.refresh.get(token).map(|(grant, _)| *grant))
            .or_else(|| self.codes.get(token)?.spent_for)
    }

    /// The grant whose access token this is, if the token is live.
    pub(super) fn live_access(&self, token: &str, now: Duration) -> Option<GrantId> {
        let (grant, access) = *self.access.get(token)?;
        self.grants[&grant]
            .family
            .access_is_live(access, now)
            .then_some(grant)
    }

    /// An API call ended, with an access token that was issued once or another.
    pub(super) fn count_api(
        &mut self,
        known: Option<(GrantId, AccessId)>,
        refused: bool,
        now: Duration,
    ) {
        let grant = known.map(|(grant, _)| grant);
        self.books.count(grant, |counts| {
            if refused {
                counts.api_refused += 1;
            } else {
                counts.api_accepted += 1;
            }
        });
        if refused {
            let access = known.map(|(_, access)| access);
            self.note(now, Note::new(EventKind::ApiRefused, grant).access(access));
        }
    }

    /// The family of a grant that is known to exist.
    pub(super) fn family(&mut self, grant: GrantId) -> &mut Family {
        let grant = self.grants.get_mut(&grant);
        &mut grant.expect("grants are never removed").family
    }

    pub(super) fn name_access(&mut self, grant: GrantId, id: AccessId) -> String {
        let token = random("sbx_at_");
        self.access.insert(token.clone(), (grant, id));
        self.secrets.push(token.clone());
        token
    }

    pub(super) fn name_refresh(&mut self, grant: GrantId, id: RefreshId) -> String {
        let token = random("sbx_rt_");
        self.refresh.insert(token.clone(), (grant, id));
        self.secrets.push(token.clone());
        token
    }

    pub(super) fn note(&mut self, now: Duration, note: Note) {
        self.timeline.add(now, note);
    }
}
