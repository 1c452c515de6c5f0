-- Ingestion and the API: bodies that are too large for the inbox, long work, orders of operators.

-- A body that is not here lies in the artifact store under its SHA-256, which was written before
-- this row; `body` is empty then.
ALTER TABLE inbox ADD COLUMN artifact bytea,
                  ADD COLUMN artifact_bytes bigint,
                  ADD CONSTRAINT artifact_is_named CHECK (
                      (artifact IS NULL) = (artifact_bytes IS NULL)
                      AND (artifact IS NULL OR octet_length(artifact) = 32)) NOT VALID;

-- Long work, step by step. Whoever holds the row's lock takes the next step, and writes how far it
-- is in the transaction of what the step did: nothing is done twice, whoever dies.
CREATE TABLE jobs (
    id          uuid PRIMARY KEY,             -- the tracking id of the event that asked for it
    kind        text NOT NULL,                -- "import", "export", "reprocess": workers.jobs has one for each
    run         integer NOT NULL DEFAULT 1,   -- of that event: a replay does the work again
    source_id   smallint,                     -- whose rows; NULL: of no one source
    tenant      text COLLATE "C",             -- whose alone it is; NULL: not for tenants to see
    actor       text NOT NULL,                -- who asked for it
    arguments   json NOT NULL DEFAULT '{}',
    state       text NOT NULL DEFAULT 'waiting'
        CHECK (state IN ('waiting', 'running', 'paused', 'done', 'failed', 'cancelled')),
    cursor      json NOT NULL DEFAULT '{}',   -- where the next step begins; the kind's own
    done        bigint NOT NULL DEFAULT 0,    -- rows gone through, the failed ones included
    failed      bigint NOT NULL DEFAULT 0,
    total       bigint,                       -- NULL: not known (yet)
    counts      json NOT NULL DEFAULT '{}',   -- what became of the rows, by outcome
    result      json,
    code        text,                         -- why it failed
    error       text,
    attempts    integer NOT NULL DEFAULT 0,   -- failed ones since the last step
    deaths      integer NOT NULL DEFAULT 0,   -- of processes at the next step
    mark        uuid,                         -- of the process that is at a step; left behind: it died
    cancelled_by text,                        -- who wants it to end before its time
    due_at      timestamptz NOT NULL DEFAULT now(),
    created_at  timestamptz NOT NULL DEFAULT now(),
    started_at  timestamptz,
    updated_at  timestamptz NOT NULL DEFAULT now(),
    finished_at timestamptz,
    CONSTRAINT failed_says_why CHECK ((state = 'failed') = (code IS NOT NULL)),
    CONSTRAINT finished_has_a_time
        CHECK ((state IN ('done', 'failed', 'cancelled')) = (finished_at IS NOT NULL))
) WITH (fillfactor = 50);
CREATE INDEX jobs_due ON jobs (due_at) WHERE state IN ('waiting', 'running');
CREATE INDEX jobs_by_tenant ON jobs (tenant, id);

-- Rows that were not taken, and why: the first of each run, as many as the job keeps.
CREATE TABLE job_failures (
    job     uuid NOT NULL,
    run     integer NOT NULL,
    line    bigint NOT NULL,                  -- from 1; of a document, the row's number in it
    number  integer NOT NULL,                 -- a line may fail in several ways
    code    text NOT NULL,
    pointer text NOT NULL,                    -- JSON pointer into the row; '' is all of it
    message text NOT NULL,
    PRIMARY KEY (job, run, line, number)
);

-- What a job was given, or made: the content lies in the artifact store, or in the inbox.
CREATE TABLE job_assets (
    job        uuid NOT NULL,
    name       text NOT NULL,
    media_type text NOT NULL,
    size_bytes bigint NOT NULL,
    sha256     bytea NOT NULL CHECK (octet_length(sha256) = 32),
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (job, name)
);

-- Of an import, the run that reported it and the line it stood in; the last line of a version counts.
ALTER TABLE record_versions ADD COLUMN run integer NOT NULL DEFAULT 1,
                            ADD COLUMN line bigint NOT NULL DEFAULT 0;

-- A paused source is received and stored, and not applied.
ALTER TABLE sources ADD COLUMN paused_at timestamptz, ADD COLUMN paused_by text;
-- From then on a secret that was replaced opens nothing.
ALTER TABLE source_secrets ADD COLUMN retires_at timestamptz;
ALTER TABLE tokens ADD COLUMN last_used_at timestamptz;

-- What operators ask for over the API comes through the inbox, like everything else.
INSERT INTO sources (name, provider, removed_at) VALUES ('operator', 'sluice', now());
INSERT INTO lanes (source_id, number)
SELECT id, generate_series(0, 15) FROM sources WHERE name = 'operator';

GRANT SELECT ON jobs, job_failures, job_assets TO sluice_reader, sluice_worker, sluice_operator;
GRANT INSERT, UPDATE ON jobs TO sluice_worker;
GRANT INSERT, DELETE ON job_failures TO sluice_worker;
GRANT INSERT, DELETE ON job_assets TO sluice_worker;
GRANT UPDATE (state, cancelled_by, finished_at, updated_at, due_at) ON jobs TO sluice_operator;
