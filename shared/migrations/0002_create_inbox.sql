-- Receipt and work. The CHECKs and keys below are the state diagram of an event:
--
--   received ─┬─▶ processed | ignored | dead      a `work` row exists exactly as long as the
--             └─▶ retrying ──▶ …                  run is unfinished; a `settlements` row from then on
--
-- No status column is ever updated, so the evidence tables are insert-only.

-- Dedupe truth: narrow, and kept longer than any provider's redelivery horizon.
CREATE TABLE ledger (
    source_id   smallint NOT NULL,
    account     text COLLATE "C" NOT NULL CHECK (octet_length(account) <= 255),
    livemode    boolean NOT NULL,
    event_id    text COLLATE "C" NOT NULL CHECK (octet_length(event_id) BETWEEN 1 AND 255),
    tracking_id uuid NOT NULL,
    body_sha    bytea NOT NULL,
    received_at timestamptz NOT NULL,
    PRIMARY KEY (source_id, account, livemode, event_id)
);

-- Events from before this moment may have been seen and forgotten (set where the ledger is pruned).
CREATE TABLE ledger_horizon (
    singleton     boolean PRIMARY KEY DEFAULT true CHECK (singleton),
    pruned_before timestamptz
);
INSERT INTO ledger_horizon DEFAULT VALUES;

-- The evidence. `received_at` is the millisecond inside the tracking id (UUIDv7), so that the
-- id alone finds its partition. `body` is bytea: jsonb cannot hold every valid body.
CREATE TABLE inbox (
    received_at   timestamptz NOT NULL,
    tracking_id   uuid NOT NULL,
    source_id     smallint NOT NULL,
    account       text NOT NULL,
    livemode      boolean NOT NULL,
    event_id      text NOT NULL,
    event_type    text NOT NULL,
    occurred_at   timestamptz,
    subject       text NOT NULL,
    lane          integer NOT NULL,
    unreadable    text,                       -- why a verified body could not be read
    secret        text NOT NULL,              -- which secret matched: "slot.version"
    headers       bytea NOT NULL,             -- JSON array of [name, value] pairs
    body          bytea NOT NULL,
    trace_context text NOT NULL,              -- W3C traceparent of the receiving span
    PRIMARY KEY (received_at, tracking_id)
) PARTITION BY RANGE (received_at);
CREATE TABLE inbox_default PARTITION OF inbox DEFAULT;

-- One row per redelivery; the first delivery is the inbox row itself.
CREATE TABLE deliveries (
    id            bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    tracking_id   uuid NOT NULL,              -- of the event that was delivered again
    received_at   timestamptz NOT NULL,
    body_sha      bytea NOT NULL,
    body          bytea,                      -- only where it differs from the inbox's
    secret        text NOT NULL,
    trace_context text NOT NULL
);
CREATE INDEX deliveries_by_event ON deliveries (tracking_id);

-- Redeliveries whose body differs in more than the provider's moving fields. Never applied.
CREATE TABLE conflicts (
    delivery_id bigint PRIMARY KEY,
    tracking_id uuid NOT NULL,
    found_at    timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX conflicts_by_event ON conflicts (tracking_id);

-- CACHE 1 is load-bearing: an event acknowledged before another was received has the smaller id.
CREATE SEQUENCE work_order CACHE 1;

CREATE TABLE work (
    id          bigint PRIMARY KEY DEFAULT nextval('work_order'),
    kind        text NOT NULL DEFAULT 'event' CHECK (kind IN ('event', 'redelivery')),
    tracking_id uuid NOT NULL,
    received_at timestamptz NOT NULL,         -- of the inbox row
    lane        integer NOT NULL,
    run         integer NOT NULL DEFAULT 1 CHECK (run >= 1),
    attempts    integer NOT NULL DEFAULT 0,   -- failed attempts of this run
    due_at      timestamptz,                  -- NULL: at once
    alone       boolean NOT NULL DEFAULT false, -- killed a process: applied apart from everything else
    delivery_id bigint,
    actor       text,                         -- who asked for the replay, and why
    reason      text,
    CONSTRAINT alone_waits_its_turn CHECK (NOT alone OR due_at IS NOT NULL),
    CONSTRAINT redelivery_names_its_delivery CHECK ((kind = 'redelivery') = (delivery_id IS NOT NULL)),
    CONSTRAINT only_events_run_again CHECK (kind = 'event' OR run = 1)
) WITH (fillfactor = 80, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 2000,
        autovacuum_vacuum_cost_delay = 0);
CREATE UNIQUE INDEX work_one_run_at_a_time ON work (tracking_id) WHERE kind = 'event';
CREATE INDEX work_ready ON work (lane, id) WHERE due_at IS NULL;
CREATE INDEX work_waiting ON work (lane, due_at) WHERE due_at IS NOT NULL;
CREATE INDEX work_alone ON work (due_at) WHERE alone;

-- One row per failed attempt.
CREATE TABLE attempts (
    tracking_id uuid NOT NULL,
    run         integer NOT NULL,
    number      integer NOT NULL,
    failed_at   timestamptz NOT NULL DEFAULT now(),
    code        text NOT NULL,
    error       text NOT NULL,
    worker      text NOT NULL,
    PRIMARY KEY (tracking_id, run, number)
);

-- One row per finished run.
CREATE TABLE settlements (
    tracking_id uuid NOT NULL,
    run         integer NOT NULL,
    source_id   smallint NOT NULL,
    status      text NOT NULL CHECK (status IN ('processed', 'ignored', 'dead')),
    outcome     text NOT NULL
        CHECK (outcome IN ('applied', 'unchanged', 'superseded', 'parked', 'ignored', 'dead')),
    code        text,                         -- why: ignored and dead runs always say it
    error       text,
    tenant      text,
    attempts    integer NOT NULL,
    settled_at  timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tracking_id, run),
    CONSTRAINT outcome_fits_status CHECK (
        CASE status WHEN 'processed' THEN outcome IN ('applied', 'unchanged', 'superseded', 'parked')
                    ELSE outcome = status AND code IS NOT NULL END)
);
CREATE INDEX settlements_dead ON settlements (settled_at) WHERE status = 'dead';

-- Written, in a transaction of its own, by the holder of a lane before it applies a batch, and
-- deleted in the batch's transaction. Whoever locks the lane and still finds one knows that the
-- holder died at it. No foreign key: its check would wait for the lane's own lock.
CREATE TABLE visits (
    lane       integer PRIMARY KEY,
    token      uuid NOT NULL,
    worker     text NOT NULL,
    started_at timestamptz NOT NULL DEFAULT now(),
    first_work bigint NOT NULL,
    last_work  bigint NOT NULL,
    alone_work bigint                         -- the one event that was being applied alone
) WITH (fillfactor = 50);

-- Partitions for today and the days ahead. A day whose rows already lie in the default
-- partition is left there. Returns how many days from today on have a partition of their own.
-- Attached, not created in place: that would lock the inbox against everybody, and queue behind
-- any dump while receipt queues behind it. What is left to wait for is given up after 100 ms.
CREATE FUNCTION make_inbox_partitions(days_ahead integer) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public SET lock_timeout = '100ms'
AS $$
DECLARE
    today date := (now() AT TIME ZONE 'UTC')::date;
    made  integer := 0;
    day   date;
    name  text;
BEGIN
    -- One maker at a time; the lock goes with the transaction, also behind a pooler.
    PERFORM pg_advisory_xact_lock(hashtext('sluice.inbox_partitions'));
    FOR day IN SELECT generate_series(today, today + days_ahead, interval '1 day')::date LOOP
        name := 'inbox_' || to_char(day, 'YYYYMMDD');
        IF to_regclass('public.' || name) IS NULL THEN
            BEGIN
                EXECUTE format('CREATE TABLE public.%I (LIKE public.inbox INCLUDING ALL)', name);
                EXECUTE format(
                    'ALTER TABLE public.inbox ATTACH PARTITION public.%I FOR VALUES FROM (%L) TO (%L)',
                    name, day::timestamp AT TIME ZONE 'UTC',
                    (day + 1)::timestamp AT TIME ZONE 'UTC');
            EXCEPTION WHEN check_violation THEN
                CONTINUE;
            END;
        END IF;
        made := made + 1;
    END LOOP;
    RETURN made;
END $$;
SELECT make_inbox_partitions(14);
