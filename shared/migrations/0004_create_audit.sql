-- Append-only and hash-chained. The chained row holds ids and salted digests; what they are
-- digests of lies in audit_content, which erasure may empty while the chain still verifies.

CREATE TABLE audit (
    id              bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    chain           text COLLATE "C" NOT NULL, -- "tenant:T", "lane:N" or "operator:ACTION"
    position        bigint NOT NULL CHECK (position >= 1),
    previous_hash   bytea NOT NULL,
    hash            bytea NOT NULL,
    cause           text NOT NULL CHECK (cause IN ('event', 'end', 'catalog', 'operator', 'reconcile')),
    cause_id        text NOT NULL,
    run             integer NOT NULL,
    tenant          text NOT NULL,            -- '' where there is none
    step            integer NOT NULL CHECK (step >= 0),
    action          text NOT NULL,
    actor           text NOT NULL,            -- "provider:stripe", "operator:NAME", "system:…"
    source          text NOT NULL,            -- '' where there is none
    subject         text NOT NULL,            -- the provider object, "kind/id"; '' where there is none
    feature         text NOT NULL,            -- '' for step 0
    catalog_version bigint NOT NULL,
    xid             xid8 NOT NULL,
    at              timestamptz NOT NULL,
    before_digest   bytea,
    after_digest    bytea,
    reason_digest   bytea,
    UNIQUE (cause, cause_id, run, tenant, step),
    UNIQUE (chain, position)
);
CREATE INDEX audit_by_tenant ON audit (tenant, id);
CREATE INDEX audit_in_commit_order ON audit (xid, id);

CREATE TABLE audit_content (
    audit_id bigint PRIMARY KEY,
    salt     bytea,
    before   bytea,
    after    bytea,
    reason   bytea
);

CREATE TABLE audit_heads (
    chain  text COLLATE "C" PRIMARY KEY,
    length bigint NOT NULL,
    hash   bytea NOT NULL
) WITH (fillfactor = 50);

CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '% on % is refused: the audit trail is append-only', TG_OP, TG_TABLE_NAME
        USING ERRCODE = 'insufficient_privilege';
END $$;
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON audit
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
CREATE TRIGGER never_removed BEFORE DELETE OR TRUNCATE ON audit_content
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
CREATE TRIGGER heads_never_removed BEFORE DELETE OR TRUNCATE ON audit_heads
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();

-- Erasure may empty a row; nothing may write another content into it.
CREATE FUNCTION refuse_rewrite() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.audit_id = OLD.audit_id AND num_nulls(NEW.salt, NEW.before, NEW.after, NEW.reason) = 4 THEN
        RETURN NEW;
    END IF;
    RAISE EXCEPTION 'audit content may be emptied, never rewritten'
        USING ERRCODE = 'insufficient_privilege';
END $$;
CREATE TRIGGER only_emptied BEFORE UPDATE ON audit_content
    FOR EACH ROW EXECUTE FUNCTION refuse_rewrite();
