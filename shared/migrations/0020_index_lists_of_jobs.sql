-- Each push is a job: those that failed, are at work, or are of a source that pushes little, are
-- found among millions of others.
CREATE INDEX jobs_by_state ON jobs (state, id);
CREATE INDEX jobs_by_source ON jobs (source_id, id);
