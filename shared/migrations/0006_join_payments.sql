ALTER TABLE objects ADD COLUMN wants text;
CREATE INDEX objects_wanting ON objects (id) WHERE wants IS NOT NULL;
