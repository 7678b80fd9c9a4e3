-- Answers of token endpoints that could not be read. A few of each grant, which go with it.
CREATE TABLE unread_answers (
    grant_id TEXT    NOT NULL,
    epoch    INTEGER NOT NULL CHECK (epoch >= 0),
    base     INTEGER NOT NULL CHECK (base >= 0),
    at       INTEGER NOT NULL,
    sealed   BLOB    NOT NULL,
    PRIMARY KEY (grant_id, epoch)
) STRICT, WITHOUT ROWID;

-- Digests of refresh tokens that refreshes have replaced. A ring for each grant, which goes with it.
CREATE TABLE replaced_tokens (
    grant_id    TEXT    NOT NULL,
    slot        INTEGER NOT NULL CHECK (slot >= 0),
    fingerprint BLOB    NOT NULL CHECK (length(fingerprint) = 32),
    at          INTEGER NOT NULL,
    PRIMARY KEY (grant_id, slot)
) STRICT, WITHOUT ROWID;

CREATE INDEX replaced_tokens_by_fingerprint ON replaced_tokens (fingerprint);
