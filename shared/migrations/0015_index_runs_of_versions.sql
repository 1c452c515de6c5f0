-- A replayed import takes back what its earlier run reported and the new one did not: a million rows
-- of one event, of which most, or none, are of an earlier run.
CREATE INDEX record_versions_by_run ON record_versions (tracking_id, run);
DROP INDEX record_versions_by_event;
