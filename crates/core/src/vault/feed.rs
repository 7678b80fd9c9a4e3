//! Other processes' changes, and what follows for the copies in memory.
//!
//! A copy is never thrown away because something else could not be read. What a change concerns
//! is read anew; where that fails, that one copy is served to nobody until it is. After a gap in
//! the feed every copy is compared with the store at its next use, and served on as it is while
//! the store does not answer.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use super::{Inner, Vault, entry::GrantEntry};
use crate::{
    id::GrantId,
    store::{Change, Stamped},
    sync::{atomic::Ordering, lock},
    time::Moment,
};

/// How long a caller waits for the store to confirm a copy that would be served on without it.
pub(super) const CONFIRM_WAIT: Duration = Duration::from_secs(1);
/// How often one caller tries that while the store does not answer; the others do not wait.
const CONFIRM_EVERY: Duration = Duration::from_secs(1);

/// Whether the store answers those who want copies confirmed.
#[derive(Debug, Default)]
pub(super) struct Away {
    next_try: Option<Moment>,
}

impl Away {
    /// Whether to ask the store. While it is away one caller does, now and then.
    pub(super) fn may_ask(&mut self, now: Moment) -> bool {
        match self.next_try {
            Some(at) if now < at => false,
            Some(_) => {
                self.next_try = Some(now + CONFIRM_EVERY);
                true
            }
            None => true,
        }
    }

    pub(super) fn answered(&mut self) {
        self.next_try = None;
    }

    pub(super) fn silent(&mut self, now: Moment) {
        self.next_try = Some(now + CONFIRM_EVERY);
    }
}

impl Vault {
    pub(super) async fn follow_changes(self) {
        let mut since = None;
        let mut failing = false;
        loop {
            match self.inner.store.changes(since).await {
                Ok(changes) => {
                    if failing {
                        tracing::info!("the store tells of changes again");
                    }
                    lock(&self.inner.away).answered();
                    failing = false;
                    // Of what changed before the first position nobody tells.
                    if changes.gap.is_some() || since.is_none() {
                        self.doubt_all();
                    }
                    self.apply(&changes.changes).await;
                    since = Some(changes.next);
                }
                Err(error) => {
                    if !failing {
                        tracing::warn!(%error, "the store does not tell of changes; what is in memory is served on");
                    }
                    failing = true;
                }
            }
            let poll = self.inner.clock.sleep(self.inner.config.change_poll);
            tokio::select! {
                () = poll => {}
                () = self.inner.store.news() => {}
            }
        }
    }

    /// How many changes of applications and API keys this process has heard of, and of gaps in
    /// the feed. Who keeps copies of them compares this number with that of the time at which a
    /// copy was read: another one says that the copy is to be confirmed.
    pub fn tenants_heard(&self) -> u64 {
        self.inner.tenants_heard.load(Ordering::Acquire)
    }

    /// Takes note of changes: the copies in memory that they concern are brought up to date,
    /// withdrawn or forgotten.
    pub(super) async fn apply(&self, changes: &[Change]) {
        let inner = &self.inner;
        if changes.is_empty() {
            return;
        }
        inner.hear();
        let mut behind = BTreeMap::new();
        for change in changes {
            match change {
                Change::Grant(id, version) => {
                    // What this process has committed it need not read.
                    if let Some(entry) = inner.grants.pin().get(id)
                        && entry.snapshot().older_than(*version)
                    {
                        let newest = behind.entry(id.clone()).or_insert((entry.clone(), 0));
                        newest.1 = newest.1.max(*version);
                    }
                }
                Change::Connection(key) => {
                    inner.connections.pin().remove(key);
                    inner.orphans.store(true, Ordering::Release);
                }
                Change::Client(application, connector) => {
                    inner.client_mended(application, connector);
                    inner.connections.pin().retain(|key, _| {
                        key.application != *application || key.service != *connector
                    });
                }
                Change::Application(_) => {
                    inner.tenants_heard.fetch_add(1, Ordering::Release);
                }
            }
        }
        inner.catch_up(&behind).await;
    }

    /// Anything may have changed unheard: every copy is compared with the store when it is used
    /// next.
    pub(super) fn doubt_all(&self) {
        let inner = &self.inner;
        inner.hear();
        inner.tenants_heard.fetch_add(1, Ordering::Release);
        for resolved in inner.connections.pin().values() {
            resolved.doubt();
        }
        for entry in inner.grants.pin().values() {
            entry.doubt();
        }
    }
}

/// So many rows are read with one question.
const AT_ONCE: usize = 256;

/// Grants, each with the newest version that was heard of.
type Behind = BTreeMap<GrantId, (Arc<GrantEntry>, u64)>;

impl Inner {
    /// Reads grants that others have changed, all at once. One that cannot be read is withdrawn:
    /// what is in memory is known to be replaced.
    async fn catch_up(&self, behind: &Behind) {
        let ids: Vec<_> = behind.keys().cloned().collect();
        for ids in ids.chunks(AT_ONCE) {
            let asked = self.clock.now();
            match self.store.grants(ids).await {
                Ok(Stamped { value, at }) => {
                    for row in value {
                        if let Some((entry, _)) = behind.get(&row.id)
                            && let Err(error) = self.adopt(entry, &row, at, asked)
                        {
                            tracing::error!(grant = %row.id, %error, "a newer version of a grant cannot be read; the grant is served to nobody until it can");
                        }
                    }
                }
                Err(error) => {
                    tracing::warn!(%error, "changed grants could not be read; each is read when it is used next");
                }
            }
            for id in ids {
                let (entry, version) = &behind[id];
                // Deleted, or not read, or by a reader that lags.
                if entry.snapshot().version < *version {
                    entry.replaced_by(*version);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn while_the_store_is_away_one_asks_now_and_then() {
        let at = |millis| Moment(Duration::from_millis(millis));
        let mut away = Away::default();
        assert!(away.may_ask(at(0)) && away.may_ask(at(0)));
        away.silent(at(1000));
        assert!(!away.may_ask(at(1999)));
        assert!(away.may_ask(at(2000)) && !away.may_ask(at(2000)));
        away.answered();
        assert!(away.may_ask(at(2001)) && away.may_ask(at(2001)));
    }
}
