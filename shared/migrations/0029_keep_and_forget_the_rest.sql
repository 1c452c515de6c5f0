-- What was made beside 0027 and 0028 has its time too, and what they left open is closed.

-- A sealing key that is lost takes the private half of the audit key with it: that goes, so that
-- nobody has to have the sealing key to start.
GRANT DELETE ON audit_key_secrets TO sluice_operator;

-- As before, but for two things. A job that an operator began is no event, and has no body that would
-- have to be copied: one that was paused for a month kept every day from going. And who was merged
-- into a tenant that is held since the copy was made is held with it.
CREATE OR REPLACE FUNCTION finish_inbox_move(keep_d integer, wait_ms integer) RETURNS bigint
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
                    AND EXISTS (SELECT FROM public.inbox AS i
                                WHERE i.received_at = public.received_at_of(j.id)
                                  AND i.tracking_id = j.id)
                    AND NOT EXISTS (SELECT FROM public.inbox_moving AS m
                                    WHERE m.received_at >= move.since AND m.tracking_id = j.id))
       OR EXISTS (SELECT FROM public.tenants AS t WHERE t.held_at >= move.started_at)
       -- `merged_at` is when that transaction began.
       OR EXISTS (SELECT FROM public.tenants AS t
                  WHERE t.merged_at >= move.started_at - interval '1 minute'
                    AND t.tenant = ANY (public.held_tenants())) THEN
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

-- What goes with jobs, with events, and with a tenant's objects.
GRANT DELETE ON replay_plans, replay_items, replay_tenants, missed_events
    TO sluice_worker, sluice_operator;
GRANT DELETE ON compared_objects TO sluice_worker;
