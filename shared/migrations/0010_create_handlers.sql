-- Handlers of installed packages: the role that their statements run in, how far each has followed
-- the audit trail, and the source whose events bring them what they listen to.

-- It belongs to whoever writes handlers: nothing of Sluice's is ever granted to it.
DO $$
BEGIN
    BEGIN
        CREATE ROLE sluice_extension NOLOGIN;
    EXCEPTION WHEN duplicate_object OR unique_violation THEN
        NULL;
    END;
    IF NOT pg_has_role('sluice_worker', 'sluice_extension', 'MEMBER') THEN
        GRANT sluice_extension TO sluice_worker;
    END IF;
END $$;

CREATE TABLE handlers (
    name          text COLLATE "C" PRIMARY KEY CHECK (name ~ '^[a-z0-9][a-z0-9-]{0,62}$'),
    command       text NOT NULL,              -- the type it applies, as "module:Name"
    listens_to    text[] NOT NULL,
    -- Every record of the trail up to here, in the order of (xid, id), has been brought to it.
    -- NULL: it has not listened to anything yet.
    xid           xid8,
    id            bigint,
    since         pg_snapshot,                -- what was committed by then is from before its time
    first_seen_at timestamptz NOT NULL DEFAULT now(),
    seen_at       timestamptz NOT NULL DEFAULT now(), -- when a worker last said that it has it
    CONSTRAINT follows_from_somewhere CHECK (num_nulls(xid, id, since) IN (0, 3))
) WITH (fillfactor = 50);

GRANT SELECT ON handlers TO sluice_worker, sluice_operator, sluice_reader;
GRANT INSERT, UPDATE ON handlers TO sluice_worker;

-- A source that nobody outside can reach: removed from the beginning, so that no request is its
-- own and no version lists it; the events of a removed source are applied all the same.
INSERT INTO sources (name, provider, removed_at) VALUES ('sluice-handlers', 'sluice', now());
INSERT INTO lanes (source_id, number)
SELECT id, generate_series(0, 15) FROM sources WHERE name = 'sluice-handlers';
