//! What a store keeps beside grants, as values.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::{ApiKey, ApplicationSettings, ReplacedToken, Stamped, UnreadAnswer};
use crate::{
    authorize::AttemptRow,
    id::{ApplicationId, ConnectionKey, ConnectorId, ConsumerId, GrantId},
    refresh::ledger::GrantRow,
    time::StoreTime,
};

/// A tenant of the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Application {
    /// Its id.
    pub id: ApplicationId,
    /// Its name for people.
    pub name: String,
    /// When it was made.
    pub created_at: StoreTime,
    /// What it has settled about how connections come to be.
    pub settings: ApplicationSettings,
}

/// A customer of an application. Made with its first connection at the latest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Consumer {
    /// Whose customer.
    pub application: ApplicationId,
    /// Which.
    pub id: ConsumerId,
    /// The application's own.
    pub metadata: Map<String, Value>,
    /// When it was made.
    pub created_at: StoreTime,
    /// When its metadata was last changed.
    pub modified_at: StoreTime,
}

impl Consumer {
    /// A consumer that nobody has said anything about.
    pub fn new(application: ApplicationId, id: ConsumerId, now: StoreTime) -> Self {
        Self {
            application,
            id,
            metadata: Map::new(),
            created_at: now,
            modified_at: now,
        }
    }

    /// Merges metadata at its first level; a `null` removes an entry. Whether anything is different then.
    pub fn merge(&mut self, metadata: Map<String, Value>, now: StoreTime) -> bool {
        let before = self.metadata.clone();
        merge(&mut self.metadata, metadata);
        let changed = self.metadata != before;
        if changed {
            self.modified_at = now;
        }
        changed
    }
}

/// Which of an application's consumers. By default: all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConsumerFilter {
    /// What their ids begin with.
    pub prefix: Option<String>,
    /// What their ids contain.
    pub contains: Option<String>,
}

impl ConsumerFilter {
    /// Whether it lets an id through.
    pub fn admits(&self, id: &ConsumerId) -> bool {
        let id = id.as_str();
        self.prefix.as_ref().is_none_or(|it| id.starts_with(&**it))
            && self.contains.as_ref().is_none_or(|it| id.contains(&**it))
    }
}

/// What became of the wish to delete a consumer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConsumerDeletion {
    /// It is gone.
    Deleted,
    /// There was none.
    Missing,
    /// It still has connections, which go first.
    InUse,
}

/// An application's registration at a provider.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OAuthClient {
    /// Whose it is.
    pub application: ApplicationId,
    /// At which provider.
    pub connector: ConnectorId,
    /// The public identifier.
    pub client_id: String,
    /// The sealed secret; `None` for a public client.
    pub sealed_secret: Option<Vec<u8>>,
    /// Values for `{client.NAME}` in the connector's templates.
    pub settings: BTreeMap<String, String>,
    /// Scopes beside the connector's own.
    pub scopes: Vec<String>,
}

/// A connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Connection {
    /// Which.
    pub key: ConnectionKey,
    /// The grant that it uses; several connections may use one.
    pub grant: Option<GrantId>,
    /// Switched off by the consumer.
    pub enabled: bool,
    /// Values for `{settings.NAME}`.
    pub settings: Map<String, Value>,
    /// The application's own.
    pub metadata: Map<String, Value>,
    /// When it was made.
    pub created_at: StoreTime,
    /// When it was last changed by a person; not by refreshes.
    pub updated_at: StoreTime,
}

/// A connection with what its use takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Whole {
    /// The connection.
    pub connection: Connection,
    /// The OAuth client of its application and connector.
    pub client: Option<OAuthClient>,
    /// Its grant's row, if it has a grant.
    pub grant: Option<Stamped<Option<GrantRow>>>,
}

/// A change to a connection's own values. `None` leaves a value as it is; maps are merged at
/// their first level, and a `null` in them removes the entry.
#[derive(Clone, Debug, Default)]
pub struct ConnectionPatch {
    /// Switch on or off.
    pub enabled: Option<bool>,
    /// Merged into the settings.
    pub settings: Option<Map<String, Value>>,
    /// Merged into the metadata.
    pub metadata: Option<Map<String, Value>>,
}

impl Connection {
    /// A connection that nobody has touched yet.
    pub fn new(key: ConnectionKey, now: StoreTime) -> Self {
        Self {
            key,
            grant: None,
            enabled: true,
            settings: Map::new(),
            metadata: Map::new(),
            created_at: now,
            updated_at: now,
        }
    }

    /// Takes its grant away: the one that it used.
    pub fn unlink(&mut self, now: StoreTime) -> Option<GrantId> {
        self.updated_at = now;
        self.grant.take()
    }

    /// Applies a patch.
    pub fn apply(&mut self, patch: ConnectionPatch, now: StoreTime) {
        self.enabled = patch.enabled.unwrap_or(self.enabled);
        merge(&mut self.settings, patch.settings.unwrap_or_default());
        merge(&mut self.metadata, patch.metadata.unwrap_or_default());
        self.updated_at = now;
    }
}

fn merge(into: &mut Map<String, Value>, from: Map<String, Value>) {
    for (key, value) in from {
        if value.is_null() {
            into.remove(&key);
        } else {
            into.insert(key, value);
        }
    }
}

/// What a deletion removed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Deleted {
    /// The connection.
    pub connection: Connection,
    /// Its grant, if no other connection used it: it is gone too.
    pub grant: Option<GrantRow>,
}

/// A row, as a move from one store to another carries it: with all that it holds, and sealed as
/// it is.
#[derive(Clone, Debug)]
pub enum Record {
    /// A value of the vault's own.
    Value(String, Vec<u8>),
    /// A tenant.
    Application(Application),
    /// A key.
    Key(ApiKey),
    /// An OAuth client.
    Client(OAuthClient),
    /// A grant.
    Grant(Box<GrantRow>),
    /// A connection.
    Connection(Box<Connection>),
    /// A customer of an application.
    Consumer(Consumer),
    /// An answer that could not be read.
    Unread(UnreadAnswer),
    /// A refresh token that was replaced.
    Replaced(ReplacedToken),
    /// An authorization attempt.
    Attempt(Box<AttemptRow>),
}

/// What a store that is being moved refuses, to all processes, until it is told otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Freeze {
    /// New claims: no refresh begins, those under way are saved.
    Claims,
    /// Every write.
    Writes,
    /// Every write: the vault is in another store, and this one is what it left behind.
    Moved,
    /// Nothing.
    Nothing,
}

impl Freeze {
    /// What a store answers that takes no writes.
    pub const WORDS: &str = "this vault is being moved, or has been moved, to another store";
}
