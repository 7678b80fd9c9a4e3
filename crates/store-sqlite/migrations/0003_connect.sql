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
