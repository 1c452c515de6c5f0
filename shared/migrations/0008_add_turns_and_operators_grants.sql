-- Nothing happens in the database at the moment at which a grant begins or ends by the clock.
-- Whoever locks the tenant next finds that it has passed, audits what it changed, and moves this on.

ALTER TABLE grants ADD COLUMN turns_at timestamptz; -- the next such moment that is not audited; NULL: none
UPDATE grants SET turns_at =
    (SELECT min(moment) FROM (VALUES (valid_from), (valid_until)) AS m (moment) WHERE moment > now())
WHERE valid_from > now() OR valid_until > now();
-- What a version writes that does not know of it is looked at by one that does, within a second.
ALTER TABLE grants ALTER COLUMN turns_at SET DEFAULT 'epoch';
CREATE INDEX grants_turning ON grants (turns_at) WHERE turns_at IS NOT NULL;
