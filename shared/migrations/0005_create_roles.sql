-- The import contracts once more, as rights (L9, L10). Roles belong to the whole cluster and
-- may exist already. They cannot log in until the deployment gives them a password; without
-- one, a process connects as a member of its role and takes it with SET ROLE.

DO $$
DECLARE
    name text;
BEGIN
    FOREACH name IN ARRAY ARRAY['sluice_gateway', 'sluice_reader', 'sluice_worker', 'sluice_operator'] LOOP
        BEGIN
            EXECUTE format('CREATE ROLE %I NOLOGIN', name);
        EXCEPTION WHEN duplicate_object OR unique_violation THEN
            NULL;
        END;
        IF NOT pg_has_role(current_user, name, 'MEMBER') THEN
            EXECUTE format('GRANT %I TO %I', name, current_user);
        END IF;
        EXECUTE format('GRANT USAGE ON SCHEMA public TO %I', name);
    END LOOP;
END $$;

REVOKE ALL ON FUNCTION make_inbox_partitions(integer) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION make_inbox_partitions(integer) TO sluice_worker, sluice_operator;

-- Every process may see whether the schema is what it needs.
GRANT SELECT ON migrations TO sluice_gateway, sluice_reader, sluice_worker, sluice_operator;

-- The ingress: sources, ledger, inbox, work and deliveries, and nothing else.
GRANT SELECT ON configuration, sources, source_secrets, seals, lanes TO sluice_gateway;
GRANT SELECT, INSERT ON ledger TO sluice_gateway;
GRANT INSERT ON inbox, work, deliveries TO sluice_gateway;
GRANT SELECT (id, tracking_id, received_at) ON deliveries TO sluice_gateway;
GRANT SELECT (id, kind, tracking_id, lane) ON work TO sluice_gateway;
GRANT SELECT (received_at, tracking_id, lane) ON inbox TO sluice_gateway;
GRANT USAGE ON SEQUENCE work_order TO sluice_gateway;

-- The read API reads, and never a secret.
GRANT SELECT ON configuration, sources, lanes, catalogs, tokens, ledger, ledger_horizon, inbox,
    deliveries, conflicts, work, attempts, settlements, visits, customers, tenants, objects,
    observations, grants, audit, audit_content, audit_heads TO sluice_reader;

GRANT SELECT ON configuration, sources, seals, lanes, catalogs, ledger, ledger_horizon, inbox,
    deliveries, conflicts, work, attempts, settlements, visits, customers, tenants, objects,
    observations, grants, audit, audit_content, audit_heads TO sluice_worker;
GRANT UPDATE (number) ON lanes TO sluice_worker;       -- what FOR UPDATE asks for; never used to write
GRANT INSERT, UPDATE, DELETE ON work, visits, grants TO sluice_worker;
GRANT INSERT ON attempts, settlements, conflicts, audit, audit_content TO sluice_worker;
GRANT INSERT, UPDATE ON customers, tenants, objects, audit_heads TO sluice_worker;
GRANT INSERT, DELETE ON observations TO sluice_worker;
GRANT USAGE ON SEQUENCE work_order, audit_id_seq, objects_id_seq TO sluice_worker;

GRANT SELECT ON configuration, sources, source_secrets, seals, lanes, catalogs, tokens, ledger,
    ledger_horizon, inbox, deliveries, conflicts, work, attempts, settlements, visits, customers,
    tenants, objects, observations, grants, audit, audit_content, audit_heads TO sluice_operator;
GRANT INSERT, UPDATE ON sources, source_secrets, seals, tokens, customers, tenants, objects,
    audit_heads, lanes TO sluice_operator;
GRANT DELETE ON source_secrets TO sluice_operator;
GRANT INSERT ON configuration, catalogs, audit, audit_content TO sluice_operator;
GRANT INSERT, UPDATE, DELETE ON work, grants TO sluice_operator;
GRANT USAGE ON SEQUENCE work_order, audit_id_seq TO sluice_operator;
