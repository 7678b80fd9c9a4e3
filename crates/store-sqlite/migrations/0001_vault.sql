-- Times are milliseconds since 1970-01-01 UTC, on the clock of the machine that the file is on.
-- Everything secret is sealed before it gets here.

-- One authorization by one user for one client.
CREATE TABLE grants (
    id                 TEXT    NOT NULL PRIMARY KEY,
    application        TEXT    NOT NULL,
    connector          TEXT    NOT NULL,
    version            INTEGER NOT NULL CHECK (version >= 0),
    authorized_version INTEGER NOT NULL CHECK (authorized_version >= 0),
    sealed             BLOB    NOT NULL,
    expires_at         INTEGER,
    lifetime_ms        INTEGER CHECK (lifetime_ms >= 0),
    refreshed_at       INTEGER,
    keep_alive_at      INTEGER,
    fingerprint        BLOB    CHECK (length(fingerprint) = 32),
    dead_at            INTEGER,
    dead_reason        TEXT,
    epoch              INTEGER NOT NULL CHECK (epoch >= 0),
    committed_epoch    INTEGER NOT NULL CHECK (committed_epoch >= 0),
    claim_owner        TEXT,
    claim_epoch        INTEGER CHECK (claim_epoch >= 0),
    claim_until        INTEGER,
    attempt            TEXT    CHECK (json_valid(attempt)),
    trouble            TEXT    CHECK (json_valid(trouble)),
    CHECK ((dead_at IS NULL) = (dead_reason IS NULL)),
    CHECK ((claim_owner IS NULL) = (claim_epoch IS NULL)),
    CHECK ((claim_owner IS NULL) = (claim_until IS NULL))
) STRICT;

-- Not UNIQUE: an authorization with a known token is refused by the statement itself, under the
-- write lock. A refresh must not be: a provider may answer two grants of one account with the
-- same token, and what it granted has to be kept.
CREATE INDEX grants_by_fingerprint ON grants (application, connector, fingerprint)
    WHERE fingerprint IS NOT NULL;

CREATE INDEX grants_to_keep_alive ON grants (keep_alive_at)
    WHERE keep_alive_at IS NOT NULL AND dead_at IS NULL;

CREATE TABLE connections (
    application TEXT    NOT NULL,
    consumer    TEXT    NOT NULL,
    unified_api TEXT    NOT NULL,
    service     TEXT    NOT NULL,
    grant_id    TEXT,
    enabled     INTEGER NOT NULL CHECK (enabled IN (0, 1)),
    settings    TEXT    NOT NULL CHECK (json_valid(settings)),
    metadata    TEXT    NOT NULL CHECK (json_valid(metadata)),
    created_at  INTEGER NOT NULL,
    updated_at  INTEGER NOT NULL,
    PRIMARY KEY (application, consumer, unified_api, service)
) STRICT, WITHOUT ROWID;

CREATE INDEX connections_by_grant ON connections (grant_id) WHERE grant_id IS NOT NULL;

CREATE TABLE clients (
    application   TEXT NOT NULL,
    connector     TEXT NOT NULL,
    client_id     TEXT NOT NULL,
    sealed_secret BLOB,
    settings      TEXT NOT NULL CHECK (json_valid(settings)),
    scopes        TEXT NOT NULL CHECK (json_valid(scopes)),
    PRIMARY KEY (application, connector)
) STRICT, WITHOUT ROWID;

-- The rowid is the order in which they were made.
CREATE TABLE applications (
    id         TEXT    NOT NULL PRIMARY KEY,
    name       TEXT    NOT NULL,
    created_at INTEGER NOT NULL
) STRICT;

CREATE TABLE api_keys (
    application TEXT    NOT NULL,
    id          TEXT    NOT NULL,
    digest      BLOB    NOT NULL UNIQUE CHECK (length(digest) = 32),
    hint        TEXT    NOT NULL,
    created_at  INTEGER NOT NULL,
    PRIMARY KEY (application, id)
) STRICT;

-- The vault's own: its data key, sealed; its fingerprint key, sealed.
CREATE TABLE vault_values (
    name  TEXT NOT NULL PRIMARY KEY,
    value BLOB NOT NULL
) STRICT, WITHOUT ROWID;

-- What other processes may hold a copy of, in the order of the commits. The oldest are pruned.
--   kind          a            b          c            d
--   grant         grant id     version
--   connection    application  consumer   unified API  service
--   application   application
--   client        application  connector
CREATE TABLE changes (
    seq  INTEGER PRIMARY KEY AUTOINCREMENT,
    kind TEXT NOT NULL,
    a    TEXT NOT NULL,
    b    TEXT,
    c    TEXT,
    d    TEXT
) STRICT;
