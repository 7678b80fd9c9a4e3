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
