-- Answers of token endpoints that could not be read. A few of each grant, which go with it.
CREATE TABLE tokenward.unread_answers (
    grant_id text COLLATE "C" NOT NULL,
    epoch    bigint NOT NULL CHECK (epoch >= 0),
    base     bigint NOT NULL CHECK (base >= 0),
    at       bigint NOT NULL,
    sealed   bytea  NOT NULL,
    PRIMARY KEY (grant_id, epoch)
);

-- Digests of refresh tokens that refreshes have replaced. A ring for each grant, which goes with it.
CREATE TABLE tokenward.replaced_tokens (
    grant_id    text COLLATE "C" NOT NULL,
    slot        bigint NOT NULL CHECK (slot >= 0),
    fingerprint bytea  NOT NULL CHECK (length(fingerprint) = 32),
    at          bigint NOT NULL,
    PRIMARY KEY (grant_id, slot)
) WITH (autovacuum_vacuum_scale_factor = 0.05);

CREATE INDEX replaced_tokens_by_fingerprint ON tokenward.replaced_tokens (fingerprint);
