-- Times are milliseconds since 1970-01-01 UTC, on the clock of the database.
-- Everything secret is sealed before it gets here. JSON is kept as text: nothing is asked of it,
-- and a NUL character (escaped in JSON) is more than jsonb can hold.

-- One authorization by one user for one client. Every refresh writes its row twice (claim,
-- commit), so that pages keep room for the new versions beside the old ones (HOT): no index is
-- touched unless a column of one changes its value.
CREATE TABLE tokenward.grants (
    id                 text COLLATE "C" NOT NULL PRIMARY KEY,
    application        text   NOT NULL,
    connector          text   NOT NULL,
    version            bigint NOT NULL CHECK (version >= 0),
    authorized_version bigint NOT NULL CHECK (authorized_version >= 0),
    sealed             bytea  NOT NULL,
    expires_at         bigint,
    lifetime_ms        bigint CHECK (lifetime_ms >= 0),
    refreshed_at       bigint,
    keep_alive_at      bigint,
    fingerprint        bytea  CHECK (length(fingerprint) = 32),
    dead               text,
    epoch              bigint NOT NULL CHECK (epoch >= 0),
    committed_epoch    bigint NOT NULL CHECK (committed_epoch >= 0),
    claim_owner        text,
    claim_epoch        bigint CHECK (claim_epoch >= 0),
    claim_until        bigint,
    attempt            text,
    trouble            text,
    -- Grows with every write: what a write compares, so that it changes the row it has read.
    revision           bigint NOT NULL,
    -- The day of keep_alive_at. Its index is what finds idle grants; unlike the time itself it
    -- stays the same from one refresh to the next, but for one a day.
    keep_alive_day     bigint,
    -- The retry time of `trouble`.
    retry_at           bigint,
    CHECK ((claim_owner IS NULL) = (claim_epoch IS NULL)),
    CHECK ((claim_owner IS NULL) = (claim_until IS NULL))
) WITH (fillfactor = 60, autovacuum_vacuum_scale_factor = 0.05);

-- A cipher text does not compress.
ALTER TABLE tokenward.grants ALTER COLUMN sealed SET STORAGE EXTERNAL;

-- Not UNIQUE: an authorization with a known token is refused while its fence is held. A refresh
-- must not be: a provider may answer two grants of one account with the same token, and what it
-- granted has to be kept. This is the one index that a refresh writes, and only where the provider
-- rotates refresh tokens: an import must be able to find the newest one.
CREATE INDEX grants_by_fingerprint ON tokenward.grants (fingerprint)
    WHERE fingerprint IS NOT NULL;

CREATE INDEX grants_to_keep_alive ON tokenward.grants (keep_alive_day)
    WHERE keep_alive_day IS NOT NULL;

CREATE TABLE tokenward.connections (
    application text COLLATE "C" NOT NULL,
    consumer    text COLLATE "C" NOT NULL,
    unified_api text COLLATE "C" NOT NULL,
    service     text COLLATE "C" NOT NULL,
    grant_id    text COLLATE "C",
    enabled     boolean NOT NULL,
    settings    text   NOT NULL,
    metadata    text   NOT NULL,
    created_at  bigint NOT NULL,
    updated_at  bigint NOT NULL,
    PRIMARY KEY (application, consumer, unified_api, service)
);

CREATE INDEX connections_by_grant ON tokenward.connections (grant_id)
    WHERE grant_id IS NOT NULL;

CREATE TABLE tokenward.clients (
    application   text COLLATE "C" NOT NULL,
    connector     text COLLATE "C" NOT NULL,
    client_id     text NOT NULL,
    sealed_secret bytea,
    settings      text NOT NULL,
    scopes        text NOT NULL,
    PRIMARY KEY (application, connector)
);

-- The number is the order in which they were made.
CREATE TABLE tokenward.applications (
    id         text COLLATE "C" NOT NULL PRIMARY KEY,
    name       text   NOT NULL,
    created_at bigint NOT NULL,
    number     bigint GENERATED ALWAYS AS IDENTITY
);

CREATE TABLE tokenward.api_keys (
    application text COLLATE "C" NOT NULL,
    id          text COLLATE "C" NOT NULL,
    digest      bytea  NOT NULL UNIQUE CHECK (length(digest) = 32),
    hint        text   NOT NULL,
    created_at  bigint NOT NULL,
    number      bigint GENERATED ALWAYS AS IDENTITY,
    PRIMARY KEY (application, id)
);

-- The vault's own: its fingerprint key, sealed.
CREATE TABLE tokenward.vault_values (
    name  text COLLATE "C" NOT NULL PRIMARY KEY,
    value bytea NOT NULL
);

-- What replicas may hold a copy of. Written by the statement that changes it. The oldest are
-- pruned.
--   kind          a            b          c            d
--   grant         grant id     version
--   connection    application  consumer   unified API  service
--   application   application
--   client        application  connector
CREATE SEQUENCE tokenward.changes_seq CACHE 1;
CREATE TABLE tokenward.changes (
    seq  bigint NOT NULL PRIMARY KEY DEFAULT nextval('tokenward.changes_seq'),
    at   bigint NOT NULL DEFAULT floor(extract(epoch from clock_timestamp()) * 1000)::bigint,
    kind text NOT NULL,
    a    text NOT NULL,
    b    text,
    c    text,
    d    text
);

-- Rows to lock, by a hash of what is about to be changed: connections and grants that may not
-- exist yet. Only people's changes take them, never a refresh. From 256 on: applications.
CREATE TABLE tokenward.fences (
    number integer NOT NULL PRIMARY KEY
);
INSERT INTO tokenward.fences (number) SELECT generate_series(0, 319);
