-- What `sluice status` shows without counting it: how often sources are heard, and how many events
-- came and were settled in each minute. Fed by the sweep; receipt and visits write none of it.

-- Of each source that was ever heard, since this is kept.
CREATE TABLE rhythms (
    source_id         smallint PRIMARY KEY REFERENCES sources,
    first_received_at timestamptz NOT NULL,
    last_received_at  timestamptz NOT NULL,
    longest_gap       interval NOT NULL DEFAULT '0', -- between two events in a row
    minutes           bigint NOT NULL,               -- of the clock, in which any event came
    silent_at         timestamptz                    -- since when it is known to be silent
);

-- How far the inbox was listened through, by whichever worker, and since when without a break.
CREATE TABLE listening (
    singleton boolean PRIMARY KEY DEFAULT true CHECK (singleton),
    tried_at  timestamptz,                           -- when a worker last began
    looked_at timestamptz,                           -- when nothing more was to be read
    since     timestamptz NOT NULL DEFAULT '-infinity',
    read_at   timestamptz NOT NULL DEFAULT '-infinity',
    read_id   uuid NOT NULL DEFAULT '00000000-0000-0000-0000-000000000000'
);
INSERT INTO listening DEFAULT VALUES;

-- The last two hours, by minutes that are over. `audit_id` is where the trail ended when the minute
-- was first counted: what was settled after it is found behind.
CREATE TABLE tallies (
    minute     timestamptz PRIMARY KEY,
    tallied_at timestamptz NOT NULL DEFAULT now(),
    audit_id   bigint NOT NULL,
    received   bigint NOT NULL,
    settled    bigint                                -- NULL: nobody knew from where to count
);

GRANT SELECT ON rhythms, listening, tallies TO sluice_worker, sluice_operator, sluice_reader;
GRANT INSERT, UPDATE, DELETE ON rhythms, tallies TO sluice_worker;
GRANT UPDATE ON listening TO sluice_worker;

-- Whose sessions there are and how long their transactions are open: Postgres shows that to the
-- sessions' own roles only. Nothing of what they do, and nothing of other databases.
CREATE FUNCTION list_sessions()
RETURNS TABLE (pid integer, name text, address text, transaction_s float8)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog
AS $$
    SELECT pid, application_name, coalesce(client_addr::text, ''),
           extract(epoch FROM clock_timestamp() - xact_start)::float8
    FROM pg_stat_activity
    WHERE datname = current_database() AND pid <> pg_backend_pid()
      AND coalesce(backend_type, 'client backend') = 'client backend'
$$;
CREATE FUNCTION list_standbys() RETURNS TABLE (name text, state text, sync_state text)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog
AS $$ SELECT application_name, state, sync_state FROM pg_stat_replication $$;
REVOKE ALL ON FUNCTION list_sessions(), list_standbys() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION list_sessions(), list_standbys() TO sluice_operator;
