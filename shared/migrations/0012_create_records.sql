-- Ingestion: what sources report of things of their own. Kept for tenants, and gives them nothing.

-- A record, and the lock under which its versions meet. Which of them counts is a pointer: the
-- largest (version, event_id).
CREATE TABLE records (
    id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    source_id  smallint NOT NULL,
    account    text COLLATE "C" NOT NULL,
    livemode   boolean NOT NULL,
    record_id  text COLLATE "C" NOT NULL CHECK (octet_length(record_id) BETWEEN 1 AND 255),
    tenant     text COLLATE "C",              -- as the version that counts names it; NULL: it waits for one
    version    bigint,                        -- in unix microseconds; NULL: a replay took its only one back
    event_id   text COLLATE "C",
    updated_at timestamptz NOT NULL DEFAULT now(),
    -- The selective column leads, as in objects.
    UNIQUE (record_id, source_id, account, livemode),
    CONSTRAINT counts_by_event CHECK ((version IS NULL) = (event_id IS NULL))
) WITH (fillfactor = 90);
CREATE INDEX records_by_tenant ON records (tenant, id);

-- One row for each event that reported a record. Insert-only, but for a replay, which replaces its
-- event's own.
CREATE TABLE record_versions (
    record      bigint NOT NULL,
    event_id    text COLLATE "C" NOT NULL,    -- the event's id at the source
    version     bigint NOT NULL,
    tenant      text COLLATE "C",
    normalised  json NOT NULL,
    raw         json,                         -- NULL: the whole body of the event, in the inbox
    tracking_id uuid NOT NULL,                -- of the event; it holds when that was received
    mapped_by   bigint NOT NULL,              -- the version of the configuration that read it
    PRIMARY KEY (record, event_id)
);
CREATE INDEX record_versions_by_event ON record_versions (tracking_id);

GRANT SELECT ON records, record_versions TO sluice_reader, sluice_worker, sluice_operator;
GRANT INSERT, UPDATE ON records TO sluice_worker;
GRANT INSERT, DELETE ON record_versions TO sluice_worker;
GRANT USAGE ON SEQUENCE records_id_seq TO sluice_worker;
