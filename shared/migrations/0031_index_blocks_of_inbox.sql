-- In which blocks of the inbox a type or a trace may be found.

-- The inbox has no other index than its key, since every receipt would pay for it. This one names
-- blocks instead of rows: a receipt finds that its block is not summarised yet, and is done; vacuum
-- summarises. `n_distinct_per_range` is how many values 32 blocks may hold before the filter says yes
-- too often.
CREATE INDEX inbox_blocks ON ONLY inbox USING brin (
    event_type text_bloom_ops (n_distinct_per_range = 100),
    substring(trace_context, 4, 32) text_bloom_ops (n_distinct_per_range = 1000)
) WITH (pages_per_range = 32);

-- Partitions that are still to be made have it from the inbox. Of those that are there, the smallest
-- get it here, days to come first of all. Receipt waits for this transaction, so no more than 64 MiB
-- are gone through: the others are left without, and read as they were until they go, or until
-- somebody makes the index of them (docs/events.md).
DO $$
DECLARE
    one  regclass;
    name text;
BEGIN
    FOR one IN SELECT s.part FROM (
                   SELECT h.inhrelid::regclass AS part,
                          sum(pg_relation_size(h.inhrelid))
                              OVER (ORDER BY pg_relation_size(h.inhrelid), h.inhrelid) AS upto
                   FROM pg_inherits AS h WHERE h.inhparent = 'inbox'::regclass
               ) AS s WHERE s.upto <= 64 << 20 LOOP
        name := (SELECT c.relname || '_blocks' FROM pg_class AS c WHERE c.oid = one);
        EXECUTE format(
            'CREATE INDEX %I ON %s USING brin (event_type text_bloom_ops (n_distinct_per_range = 100),'
            ' substring(trace_context, 4, 32) text_bloom_ops (n_distinct_per_range = 1000))'
            ' WITH (pages_per_range = 32)', name, one);
        EXECUTE format('ALTER INDEX inbox_blocks ATTACH PARTITION %I', name);
    END LOOP;
END $$;

-- The events of a trace in a stretch of the inbox, and those that were delivered again in it. The
-- planner takes it that values in no order are in every block, and so would rather read a small day
-- whole; with the values before it, in EXECUTE, it still reads an hour by its key.
CREATE FUNCTION events_of_trace(trace text, since timestamptz, upto timestamptz) RETURNS SETOF uuid
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, public
SET enable_seqscan = off SET max_parallel_workers_per_gather = 0
AS $$
BEGIN
    RETURN QUERY EXECUTE
        'SELECT tracking_id FROM inbox'
        ' WHERE substring(trace_context, 4, 32) = $1 AND received_at >= $2 AND received_at <= $3'
        USING trace, since, upto;
    RETURN QUERY
        SELECT d.tracking_id FROM deliveries AS d WHERE substring(d.trace_context, 4, 32) = trace;
END $$;
