-- An asset may lie in the artifact store in parts, in this order; NULL: whole, under its own digest.
ALTER TABLE job_assets ADD COLUMN parts bytea[];
