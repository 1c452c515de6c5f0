-- The API only reads: what tokens were used is told to the workers, who write it down.

GRANT SELECT (id, last_used_at), UPDATE (last_used_at) ON tokens TO sluice_worker;
