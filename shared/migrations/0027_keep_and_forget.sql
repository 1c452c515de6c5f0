-- How long what is kept, whom a legal hold keeps from being forgotten, and who is to be forgotten.

ALTER TABLE tenants
    ADD COLUMN held_at     timestamptz,       -- since when nothing of the tenant may be forgotten
    ADD COLUMN held_by     text,
    ADD COLUMN hold_reason text,
    ADD COLUMN held_until  timestamptz,       -- NULL: until it is released
    ADD COLUMN erased_at   timestamptz,       -- from then on nothing resolves to it
    ADD CONSTRAINT held_by_whom CHECK (num_nulls(held_at, held_by, hold_reason) IN (0, 3));
CREATE INDEX tenants_held ON tenants (tenant) WHERE held_at IS NOT NULL;

-- How far each class was looked through, where that is done piece by piece: a block of the ledger, a
-- number of an object.
CREATE TABLE prunings (
    class  text PRIMARY KEY,
    place  bigint NOT NULL DEFAULT 0,
    ran_at timestamptz NOT NULL DEFAULT now()
);
GRANT SELECT ON prunings TO sluice_worker, sluice_operator, sluice_reader;
GRANT INSERT, UPDATE ON prunings TO sluice_worker, sluice_operator;

-- A day's partition has the class `standard`. When its time is over, what is left of it, of tenants
-- that are held and of events that are not finished, is copied into `inbox_moving`, beside whatever
-- the month has left already; then the two change places. Reading by (received_at, tracking_id)
-- finds one partition throughout, and no statement knows of classes.
CREATE TABLE inbox_moves (
    singleton  boolean PRIMARY KEY DEFAULT true CHECK (singleton),
    since      timestamptz NOT NULL,          -- of the month
    upto       timestamptz NOT NULL,          -- the end of the day that is to go
    started_at timestamptz NOT NULL DEFAULT clock_timestamp()
);

CREATE FUNCTION held_tenants() RETURNS text[] LANGUAGE sql STABLE AS $$
    SELECT coalesce(array_agg(t.tenant), '{}')
    FROM tenants AS t
    -- Merged tenants are held together.
    WHERE coalesce(t.merged_into, t.tenant) IN (
        SELECT coalesce(h.merged_into, h.tenant) FROM tenants AS h
        WHERE h.held_at IS NOT NULL AND (h.held_until IS NULL OR h.held_until > now()))
$$;

-- Whether an object is one of these tenants', or would be if they were not erased.
CREATE FUNCTION is_of(object objects, names text[]) RETURNS boolean LANGUAGE sql IMMUTABLE AS $$
    SELECT object.tenant = ANY (names) OR coalesce(object.parked = 'tenant_erased' AND (
        object.register #>> '{sightings,0,state,tenant}' = ANY (names)
        OR object.register #>> '{sightings,0,state,reference}' = ANY (names)), false)
$$;

-- Which events of a stretch of the inbox had to do with any of these tenants: what the trail tells
-- of them, what they observed, the object that they are about, the records and the job they brought,
-- or a source that is one tenant's.
CREATE FUNCTION events_of_tenants(names text[], since timestamptz, upto timestamptz)
RETURNS TABLE (received_at timestamptz, tracking_id uuid)
LANGUAGE sql STABLE AS $$
    SELECT i.received_at, i.tracking_id
    FROM inbox AS i
    WHERE i.received_at >= since AND i.received_at < upto AND cardinality(names) > 0 AND (
        EXISTS (SELECT FROM audit AS a
                WHERE a.cause = 'event' AND a.cause_id = i.tracking_id::text
                  AND a.tenant = ANY (names))
        OR EXISTS (SELECT FROM observations AS b JOIN objects AS o ON o.id = b.object
                   WHERE b.tracking_id = i.tracking_id AND is_of(o, names))
        OR EXISTS (SELECT FROM objects AS o
                   WHERE o.object_id = substr(i.subject, strpos(i.subject, '/') + 1)
                     AND o.kind = split_part(i.subject, '/', 1) AND o.source_id = i.source_id
                     AND o.account = i.account AND o.livemode = i.livemode
                     AND is_of(o, names))
        OR EXISTS (SELECT FROM record_versions AS v
                   WHERE v.tracking_id = i.tracking_id AND v.tenant = ANY (names))
        OR EXISTS (SELECT FROM jobs AS j WHERE j.id = i.tracking_id AND j.tenant = ANY (names))
        OR EXISTS (SELECT FROM sources AS s WHERE s.id = i.source_id AND s.tenant = ANY (names)))
$$;

-- Which rows of a stretch of the inbox have to stay, however old they are.
CREATE FUNCTION kept_bodies(since timestamptz, upto timestamptz)
RETURNS TABLE (received_at timestamptz, tracking_id uuid, is_held boolean)
LANGUAGE plpgsql STABLE AS $$
DECLARE
    names text[] := held_tenants();
BEGIN
    RETURN QUERY
        SELECT i.received_at, i.tracking_id, false FROM inbox AS i
        WHERE i.received_at >= since AND i.received_at < upto
          AND (i.tracking_id IN (SELECT w.tracking_id FROM work AS w
                                 WHERE w.received_at >= since AND w.received_at < upto)
               OR i.tracking_id IN (SELECT j.id FROM jobs AS j
                                    WHERE j.state IN ('waiting', 'running', 'paused')));
    IF cardinality(names) > 0 THEN
        RETURN QUERY SELECT e.received_at, e.tracking_id, true
                     FROM events_of_tenants(names, since, upto) AS e;
    END IF;
END $$;

-- The inbox's partitions but the default one, with what their names say of them.
CREATE FUNCTION inbox_partitions()
RETURNS TABLE (partition regclass, name text, class text, since timestamptz, upto timestamptz)
LANGUAGE sql STABLE AS $$
    SELECT p.oid::regclass, p.relname::text,
           CASE WHEN p.relname LIKE 'inbox\_hold\_%' THEN 'hold' ELSE 'standard' END,
           b.ends[1]::timestamptz, b.ends[2]::timestamptz
    FROM pg_catalog.pg_inherits AS h
    JOIN pg_catalog.pg_class AS p ON p.oid = h.inhrelid
    CROSS JOIN LATERAL (
        SELECT regexp_match(pg_catalog.pg_get_expr(p.relpartbound, p.oid),
                            'FROM \(''(.+)''\) TO \(''(.+)''\)') AS ends
    ) AS b
    WHERE h.inhparent = 'public.inbox'::regclass AND b.ends IS NOT NULL
$$;

-- The moment before which bodies of the class `standard` may go. Not even who calls these functions
-- may say less than a week.
CREATE FUNCTION bodies_end(keep_d integer) RETURNS timestamptz LANGUAGE sql STABLE AS $$
    SELECT ((now() AT TIME ZONE 'UTC')::date - greatest(keep_d, 7))::timestamp AT TIME ZONE 'UTC'
$$;

-- The smallest tracking id of that millisecond.
CREATE FUNCTION first_id(at timestamptz) RETURNS uuid LANGUAGE sql IMMUTABLE AS $$
    SELECT (lpad(to_hex((extract(epoch FROM at) * 1000)::bigint), 12, '0') || repeat('0', 20))::uuid
$$;

-- The millisecond inside a tracking id.
CREATE FUNCTION received_at_of(id uuid) RETURNS timestamptz LANGUAGE sql IMMUTABLE AS $$
    SELECT timestamptz 'epoch'
        + ('x' || substr(replace(id::text, '-', ''), 1, 12))::bit(48)::bigint * interval '1 ms'
$$;

-- Begins to move the oldest day whose time is over. Whatever an earlier one has left half done is
-- thrown away: it was a copy. Returns (since, upto) of what has to be looked through; no row: there
-- is no such day.
CREATE FUNCTION begin_inbox_move(keep_d integer)
RETURNS TABLE (since timestamptz, upto timestamptz)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public SET lock_timeout = '2s'
SET timezone = 'UTC'
AS $$
DECLARE
    oldest record;
    first  timestamptz;
BEGIN
    PERFORM pg_advisory_xact_lock(hashtext('sluice.bodies'));
    DROP TABLE IF EXISTS public.inbox_moving;
    DELETE FROM public.inbox_moves;
    SELECT p.* INTO oldest FROM public.inbox_partitions() AS p
    WHERE p.class = 'standard' AND p.upto <= public.bodies_end(keep_d)
    ORDER BY p.since LIMIT 1;
    IF NOT FOUND THEN
        RETURN;
    END IF;
    first := date_trunc('month', oldest.since);
    CREATE TABLE public.inbox_moving (LIKE public.inbox INCLUDING ALL);
    EXECUTE format(
        'ALTER TABLE public.inbox_moving ADD CONSTRAINT of_its_month'
        ' CHECK (received_at >= %L AND received_at < %L)', first, oldest.upto);
    INSERT INTO public.inbox_moves (since, upto) VALUES (first, oldest.upto);
    RETURN QUERY SELECT first, oldest.upto;
END $$;

-- Copies what has to stay of a stretch. Returns how many rows that are.
CREATE FUNCTION copy_kept_bodies(since timestamptz, upto timestamptz) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public SET lock_timeout = '2s'
AS $$
DECLARE
    copied bigint;
BEGIN
    -- Not while something is erased: it would come back with the copy.
    PERFORM pg_advisory_xact_lock(hashtext('sluice.bodies'));
    INSERT INTO public.inbox_moving
    SELECT i.* FROM public.inbox AS i
    WHERE i.received_at >= since AND i.received_at < upto
      AND i.tracking_id IN (SELECT k.tracking_id FROM public.kept_bodies(since, upto) AS k)
    ON CONFLICT DO NOTHING;
    GET DIAGNOSTICS copied = ROW_COUNT;
    RETURN copied;
END $$;

-- Puts the copy in the place of the day, and of what its month has left already. The lock is had at
-- once or not at all: whoever receives must not queue behind us. Under it nobody can find the body of
-- an event and open a run of it: whoever did is waited for, and seen. Returns how many rows stay.
CREATE FUNCTION finish_inbox_move(keep_d integer, wait_ms integer) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public SET timezone = 'UTC'
AS $$
DECLARE
    move public.inbox_moves%ROWTYPE;
    one  record;
    kept bigint;
BEGIN
    SELECT * INTO move FROM public.inbox_moves;
    IF NOT FOUND OR move.upto > public.bodies_end(keep_d) THEN
        RAISE EXCEPTION 'no day of the inbox may go now' USING ERRCODE = 'object_not_in_prerequisite_state';
    END IF;
    PERFORM set_config('lock_timeout', greatest(1, least(wait_ms, 200)) || 'ms', true);
    PERFORM pg_advisory_xact_lock(hashtext('sluice.bodies'));
    LOCK TABLE ONLY public.inbox IN ACCESS EXCLUSIVE MODE;
    IF EXISTS (SELECT FROM public.work AS w
               WHERE w.received_at >= move.since AND w.received_at < move.upto
                 AND NOT EXISTS (SELECT FROM public.inbox_moving AS m
                                 WHERE m.received_at = w.received_at
                                   AND m.tracking_id = w.tracking_id)
                 AND EXISTS (SELECT FROM public.inbox AS i
                             WHERE i.received_at = w.received_at
                               AND i.tracking_id = w.tracking_id))
       OR EXISTS (SELECT FROM public.jobs AS j
                  WHERE j.state IN ('waiting', 'running', 'paused')
                    AND j.id >= public.first_id(move.since) AND j.id < public.first_id(move.upto)
                    AND NOT EXISTS (SELECT FROM public.inbox_moving AS m
                                    WHERE m.received_at >= move.since AND m.tracking_id = j.id))
       OR EXISTS (SELECT FROM public.tenants AS t WHERE t.held_at >= move.started_at) THEN
        RAISE EXCEPTION 'what has to stay has changed since it was copied'
            USING ERRCODE = 'object_in_use';
    END IF;
    FOR one IN SELECT p.* FROM public.inbox_partitions() AS p
               WHERE p.since >= move.since AND p.upto <= move.upto LOOP
        EXECUTE format('ALTER TABLE public.inbox DETACH PARTITION %s', one.partition);
        -- It goes later: its files are not to be unlinked under this lock.
        EXECUTE format('ALTER TABLE %s RENAME TO %I', one.partition, 'inbox_gone_' || one.partition::oid);
    END LOOP;
    DELETE FROM public.inbox_default AS d
    WHERE d.received_at >= move.since AND d.received_at < move.upto;
    SELECT count(*) INTO kept FROM (SELECT FROM public.inbox_moving LIMIT 1) AS first;
    IF kept > 0 THEN
        EXECUTE format('ALTER TABLE public.inbox_moving RENAME TO %I',
                       'inbox_hold_' || to_char(move.since, 'YYYYMM'));
        EXECUTE format('ALTER TABLE public.inbox ATTACH PARTITION public.%I FOR VALUES FROM (%L) TO (%L)',
                       'inbox_hold_' || to_char(move.since, 'YYYYMM'), move.since, move.upto);
    ELSE
        DROP TABLE public.inbox_moving;
    END IF;
    DELETE FROM public.inbox_moves;
    RETURN kept;
END $$;

-- Unlinks one partition that was taken out of the inbox; whether there was any.
CREATE FUNCTION drop_gone_bodies() RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public SET lock_timeout = '2s'
AS $$
DECLARE
    name text;
BEGIN
    SELECT c.relname INTO name FROM pg_class AS c
    WHERE c.relnamespace = 'public'::regnamespace AND c.relname LIKE 'inbox\_gone\_%'
      AND c.relkind = 'r' AND NOT c.relispartition
    LIMIT 1;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    EXECUTE format('DROP TABLE public.%I', name);
    RETURN true;
END $$;

-- Deletes of a stretch, whose time is over, what has not to stay: of the class `hold`, and of the
-- default partition. Returns how many rows went, at most `most`.
CREATE FUNCTION forget_bodies(since timestamptz, upto timestamptz, keep_d integer, most integer)
RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public SET lock_timeout = '2s'
AS $$
DECLARE
    gone bigint;
BEGIN
    IF upto > public.bodies_end(keep_d) THEN
        RAISE EXCEPTION 'bodies of that time are to be kept'
            USING ERRCODE = 'object_not_in_prerequisite_state';
    END IF;
    -- Whoever says a hold takes this too: it either commits before this looks, or waits.
    PERFORM pg_advisory_xact_lock(hashtext('sluice.bodies'));
    WITH chosen AS MATERIALIZED (
        SELECT i.received_at, i.tracking_id FROM public.inbox AS i
        WHERE i.received_at >= since AND i.received_at < upto
          AND NOT EXISTS (SELECT FROM public.kept_bodies(since, upto) AS k
                          WHERE k.tracking_id = i.tracking_id)
        LIMIT most
    )
    DELETE FROM public.inbox AS i USING chosen AS c
    WHERE i.received_at = c.received_at AND i.tracking_id = c.tracking_id;
    GET DIAGNOSTICS gone = ROW_COUNT;
    RETURN gone;
END $$;

-- Takes out partitions of the class `hold` that have nothing left. Returns how many.
CREATE FUNCTION drop_empty_holds(wait_ms integer) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public
AS $$
DECLARE
    one     record;
    has_any boolean;
    gone    integer := 0;
BEGIN
    PERFORM set_config('lock_timeout', greatest(1, least(wait_ms, 200)) || 'ms', true);
    FOR one IN SELECT p.* FROM public.inbox_partitions() AS p WHERE p.class = 'hold' LOOP
        EXECUTE format('SELECT EXISTS (SELECT FROM %s)', one.partition) INTO has_any;
        CONTINUE WHEN has_any;
        LOCK TABLE ONLY public.inbox IN ACCESS EXCLUSIVE MODE;
        EXECUTE format('ALTER TABLE public.inbox DETACH PARTITION %s', one.partition);
        EXECUTE format('ALTER TABLE %s RENAME TO %I', one.partition, 'inbox_gone_' || one.partition::oid);
        gone := gone + 1;
    END LOOP;
    RETURN gone;
END $$;

-- Takes these events' bodies away, wherever they lie, of a tenant that is being erased.
CREATE FUNCTION erase_bodies(whose text, received timestamptz[], ids uuid[]) RETURNS SETOF bytea
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public SET lock_timeout = '5s'
AS $$
BEGIN
    IF NOT EXISTS (SELECT FROM public.tenants AS t WHERE t.tenant = whose AND t.erased_at IS NOT NULL) THEN
        RAISE EXCEPTION 'that tenant is not being erased'
            USING ERRCODE = 'object_not_in_prerequisite_state';
    END IF;
    PERFORM pg_advisory_xact_lock(hashtext('sluice.bodies'));
    IF to_regclass('public.inbox_moving') IS NOT NULL THEN
        EXECUTE 'DELETE FROM public.inbox_moving WHERE tracking_id = ANY ($1)' USING ids;
    END IF;
    RETURN QUERY
        WITH gone AS (
            DELETE FROM public.inbox AS i
            USING unnest(received, ids) AS asked (received_at, tracking_id)
            WHERE i.received_at = asked.received_at AND i.tracking_id = asked.tracking_id
            RETURNING i.artifact
        )
        SELECT g.artifact FROM gone AS g WHERE g.artifact IS NOT NULL;
END $$;

REVOKE ALL ON FUNCTION begin_inbox_move(integer), copy_kept_bodies(timestamptz, timestamptz),
    finish_inbox_move(integer, integer), drop_gone_bodies(),
    forget_bodies(timestamptz, timestamptz, integer, integer), drop_empty_holds(integer),
    erase_bodies(text, timestamptz[], uuid[]) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION begin_inbox_move(integer), copy_kept_bodies(timestamptz, timestamptz),
    finish_inbox_move(integer, integer), drop_gone_bodies(),
    forget_bodies(timestamptz, timestamptz, integer, integer), drop_empty_holds(integer)
    TO sluice_worker, sluice_operator;
GRANT EXECUTE ON FUNCTION erase_bodies(text, timestamptz[], uuid[]) TO sluice_worker;

-- Pruning, by the sweep or by hand.
GRANT DELETE ON ledger, deliveries, conflicts, attempts, settlements, jobs, job_failures, job_assets,
    messages, sendings TO sluice_worker, sluice_operator;
GRANT DELETE ON observations TO sluice_operator;
GRANT UPDATE (pruned_before) ON ledger_horizon TO sluice_worker, sluice_operator;
-- Erasing.
GRANT DELETE ON records, objects TO sluice_worker;
GRANT UPDATE (body) ON deliveries TO sluice_worker;
GRANT UPDATE (error) ON settlements, attempts TO sluice_worker;
GRANT UPDATE (payload) ON messages TO sluice_worker;
GRANT UPDATE (salt, before, after, reason) ON audit_content TO sluice_worker;
GRANT UPDATE (reason, revoke_reason) ON manual_grants TO sluice_worker;
