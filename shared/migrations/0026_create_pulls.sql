-- Asking a provider what it has told nobody: its list of events, every few minutes, and its lists of
-- objects, once a day.

-- How far each source is, in each of the two. A step is claimed for a while and fenced by `claim`.
CREATE TABLE pulls (
    source_id     smallint NOT NULL,
    what          text NOT NULL CHECK (what IN ('events', 'objects')),
    reached_at    timestamptz,                -- of events: up to then everything was looked at
    place         json,                       -- where the one under way is; NULL: between two
    number        integer NOT NULL DEFAULT 0,
    begun_at      timestamptz,
    finished_at   timestamptz,                -- the last one that came to its end
    looked_at     bigint NOT NULL DEFAULT 0,  -- events or objects, in this one
    different     bigint NOT NULL DEFAULT 0,  -- of those, which were missed, or other than held here
    failed        bigint NOT NULL DEFAULT 0,  -- of those, which could not be read
    claim         bigint,                     -- the number of the latest claim
    claimed_until timestamptz,
    failures      integer NOT NULL DEFAULT 0, -- in a row
    due_at        timestamptz NOT NULL DEFAULT now(),
    last_error    text,
    added_at      timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (source_id, what),
    CONSTRAINT begun_has_its_time CHECK (place IS NULL OR begun_at IS NOT NULL),
    CONSTRAINT claimed_by_number CHECK (claimed_until IS NULL OR claim IS NOT NULL)
) WITH (fillfactor = 50);

-- The events that no webhook had brought when they were found: inserted with them, in one statement.
CREATE TABLE missed_events (
    tracking_id uuid PRIMARY KEY,
    source_id   smallint NOT NULL,
    account     text COLLATE "C" NOT NULL,
    event_id    text COLLATE "C" NOT NULL,
    event_type  text NOT NULL,
    occurred_at timestamptz,
    found_at    timestamptz NOT NULL DEFAULT now(),
    job         uuid                          -- that found it; NULL: found by the schedule
);
CREATE INDEX missed_events_by_job ON missed_events (job, tracking_id) WHERE job IS NOT NULL;

-- The last comparison in which an object was on a page: what gives access and was on none is asked for.
CREATE TABLE compared_objects (
    object bigint PRIMARY KEY,                -- no foreign key: its check would wait for the object's lock
    run    bigint NOT NULL                    -- its comparison's first number of a request
) WITH (fillfactor = 70);

GRANT SELECT, INSERT, UPDATE ON pulls, compared_objects TO sluice_worker;
GRANT SELECT, INSERT ON missed_events TO sluice_worker;
GRANT SELECT ON pulls, missed_events TO sluice_operator;
