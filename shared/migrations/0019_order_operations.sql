-- Orders of operators: a worker pauses and resumes sources, and rotates their secrets.

-- The work of the last order, or action, that paused or resumed the source: of two the later
-- counts, also where the earlier one is applied last. And the newest version that any of the
-- source's secrets ever had: no label is used twice, and a rotation meets what it was made for.
ALTER TABLE sources ADD COLUMN ordered_work bigint NOT NULL DEFAULT 0,
                    ADD COLUMN secret_version integer NOT NULL DEFAULT 0;
UPDATE sources AS s SET secret_version = v.version
FROM (SELECT source_id, max(version) AS version FROM source_secrets GROUP BY source_id) AS v
WHERE v.source_id = s.id;

-- Who rotated it in; NULL: `sluice apply` wrote it, and its file says whether it stays.
ALTER TABLE source_secrets ADD COLUMN added_by text;

GRANT UPDATE (paused_at, paused_by, ordered_work, secret_version) ON sources TO sluice_worker;
GRANT INSERT ON configuration, seals, source_secrets TO sluice_worker;
-- What can be said of a secret, and nothing that could open it.
GRANT SELECT (source_id, slot, version, key_id, added_at, retires_at, added_by) ON source_secrets
    TO sluice_worker, sluice_reader;
GRANT UPDATE (retires_at) ON source_secrets TO sluice_worker;
GRANT SELECT (source_id, version, key_id, added_at) ON source_keys TO sluice_reader;
