-- What an application has settled about how connections come to be.
ALTER TABLE tokenward.applications ADD COLUMN settings text NOT NULL DEFAULT '{}';

-- Applications' customers. Whatever makes a connection makes its consumer.
CREATE TABLE tokenward.consumers (
    application text COLLATE "C" NOT NULL,
    id          text COLLATE "C" NOT NULL,
    metadata    text   NOT NULL,
    created_at  bigint NOT NULL,
    modified_at bigint NOT NULL,
    PRIMARY KEY (application, id)
);

INSERT INTO tokenward.consumers (application, id, metadata, created_at, modified_at)
SELECT application, consumer, '{}', min(created_at), min(created_at)
FROM tokenward.connections GROUP BY application, consumer;

-- What the person who last authorized a grant has agreed to: the account, scopes asked for and granted.
ALTER TABLE tokenward.grants ADD COLUMN consent text;

-- Logins under way, and for a day what became of them. The body (JSON) holds no secret in the clear; what
-- is looked for stands beside it. `revision` is what a write compares.
CREATE TABLE tokenward.attempts (
    id          text COLLATE "C" NOT NULL PRIMARY KEY,
    application text COLLATE "C" NOT NULL,
    consumer    text COLLATE "C" NOT NULL,
    unified_api text COLLATE "C" NOT NULL,
    service     text COLLATE "C" NOT NULL,
    due_at      bigint NOT NULL,
    body        text   NOT NULL,
    sealed      bytea  NOT NULL,
    revision    bigint NOT NULL CHECK (revision > 0)
);

CREATE INDEX attempts_by_connection
    ON tokenward.attempts (application, consumer, unified_api, service);
CREATE INDEX attempts_by_time ON tokenward.attempts (due_at);

-- What a key is good for, when it stops by itself, and when it was last shown (for people only). The keys that
-- are there keep what they could do.
ALTER TABLE tokenward.api_keys
    ADD COLUMN scopes       text NOT NULL DEFAULT 'proxy vault',
    ADD COLUMN expires_at   bigint,
    ADD COLUMN last_used_at bigint;
