-- Nothing happens in the database at the moment at which a grant begins or ends by the clock.
-- Whoever locks the tenant next finds that it has passed, audits what it changed, and moves this on.

ALTER TABLE grants ADD COLUMN turns_at timestamptz; -- the next such moment that is not audited; NULL: none
UPDATE grants SET turns_at =
    (SELECT min(moment) FROM (VALUES (valid_from), (valid_until)) AS m (moment) WHERE moment > now())
WHERE valid_from > now() OR valid_until > now();
-- What a version writes that does not know of it is looked at by one that does, within a second.
ALTER TABLE grants ALTER COLUMN turns_at SET DEFAULT 'epoch';
CREATE INDEX grants_turning ON grants (turns_at) WHERE turns_at IS NOT NULL;

-- What operators give by hand. The row in grants stands under the same id, by the plan "manual".
CREATE TABLE manual_grants (
    object        bigint PRIMARY KEY,         -- from objects_id_seq: no object has it
    tenant        text COLLATE "C" NOT NULL,
    given_to      text COLLATE "C" NOT NULL, -- the tenant's name then; a merge moves `tenant` only
    feature       text COLLATE "C" NOT NULL,
    value         json NOT NULL,
    valid_until   timestamptz,                -- NULL: until it is revoked
    actor         text NOT NULL,
    reason        text NOT NULL,
    granted_at    timestamptz NOT NULL DEFAULT now(),
    revoked_at    timestamptz,
    revoked_by    text,
    revoke_reason text,
    CONSTRAINT revoked_by_whom CHECK (num_nulls(revoked_at, revoked_by, revoke_reason) IN (0, 3))
);
CREATE INDEX manual_grants_by_tenant ON manual_grants (tenant);
CREATE INDEX manual_grants_by_name ON manual_grants (given_to);

GRANT SELECT ON manual_grants TO sluice_reader, sluice_worker, sluice_operator;
GRANT INSERT, UPDATE ON manual_grants TO sluice_operator;

-- A merged tenant is another name of the one it was merged into, never of a merged one: whoever
-- merges that one later moves its names along.
ALTER TABLE tenants
    ADD COLUMN merged_into text COLLATE "C",  -- NULL: it stands for itself
    ADD COLUMN merged_at   timestamptz,
    ADD CONSTRAINT merged_since CHECK ((merged_into IS NULL) = (merged_at IS NULL)),
    ADD CONSTRAINT merged_into_another CHECK (merged_into <> tenant);
CREATE INDEX tenants_merged ON tenants (merged_into) WHERE merged_into IS NOT NULL;
