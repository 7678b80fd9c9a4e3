-- What an application has settled about how connections come to be.
ALTER TABLE applications ADD COLUMN settings TEXT NOT NULL DEFAULT '{}' CHECK (json_valid(settings));

-- Applications' customers. Whatever makes a connection makes its consumer.
CREATE TABLE consumers (
    application TEXT    NOT NULL,
    id          TEXT    NOT NULL,
    metadata    TEXT    NOT NULL CHECK (json_valid(metadata)),
    created_at  INTEGER NOT NULL,
    modified_at INTEGER NOT NULL,
    PRIMARY KEY (application, id)
) STRICT, WITHOUT ROWID;

INSERT INTO consumers (application, id, metadata, created_at, modified_at)
SELECT application, consumer, '{}', min(created_at), min(created_at)
FROM connections GROUP BY application, consumer;

-- What the person who last authorized a grant has agreed to: the account, scopes asked for and granted.
ALTER TABLE grants ADD COLUMN consent TEXT CHECK (json_valid(consent));

-- Logins under way, and for a day what became of them. The body holds no secret in the clear; what is
-- looked for stands beside it. `revision` is what a write compares.
CREATE TABLE attempts (
    id          TEXT    NOT NULL PRIMARY KEY,
    application TEXT    NOT NULL,
    consumer    TEXT    NOT NULL,
    unified_api TEXT    NOT NULL,
    service     TEXT    NOT NULL,
    due_at      INTEGER NOT NULL,
    body        TEXT    NOT NULL CHECK (json_valid(body)),
    sealed      BLOB    NOT NULL,
    revision    INTEGER NOT NULL CHECK (revision > 0)
) STRICT, WITHOUT ROWID;

CREATE INDEX attempts_by_connection ON attempts (application, consumer, unified_api, service);
CREATE INDEX attempts_by_time ON attempts (due_at);

-- What a key is good for, when it stops by itself, and when it was last shown (for people only). The keys that
-- are there keep what they could do.
ALTER TABLE api_keys ADD COLUMN scopes       TEXT NOT NULL DEFAULT 'proxy vault';
ALTER TABLE api_keys ADD COLUMN expires_at   INTEGER;
ALTER TABLE api_keys ADD COLUMN last_used_at INTEGER;
