-- The feed of what happened: a tenant's own records in the order that followers read in.

-- audit_by_tenant is in the order of the ids, which is not the order of the commits: a page of a
-- tenant would sort all that it ever had. Writers of the trail wait while this is built, events are
-- received all the same. Where the trail is long, it may be built beforehand without making anybody
-- wait, by the same statement with CONCURRENTLY (docs/feed.md).
CREATE INDEX IF NOT EXISTS audit_of_tenant_in_commit_order ON audit (tenant, xid, id);

-- What the ids of the feed's items are made with. Without it, an id could be tried for: some causes
-- are named by the number of a row.
CREATE TABLE feed_salt (
    salt bytea NOT NULL CHECK (octet_length(salt) = 32)
);
CREATE UNIQUE INDEX feed_has_one_salt ON feed_salt ((true));
INSERT INTO feed_salt (salt)
SELECT sha256(uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid()));

GRANT SELECT ON feed_salt TO sluice_reader;
