-- What was in the trail at a moment, signed: a chain that is rewritten whole, with its head, still
-- fits itself, and does not fit what was signed before.

-- For ever: what was signed is verified with them. A key is valid until the next one is made.
CREATE TABLE audit_keys (
    id          text COLLATE "C" PRIMARY KEY,  -- the first 16 hex digits of the public key's SHA-256
    number      bigint GENERATED ALWAYS AS IDENTITY UNIQUE,
    public_key  bytea NOT NULL CHECK (octet_length(public_key) = 32),
    created_at  timestamptz NOT NULL DEFAULT now(),
    created_by  text NOT NULL,
    endorsed_by text COLLATE "C" REFERENCES audit_keys, -- the key before, which vouches for this one
    endorsement bytea,
    CHECK ((endorsed_by IS NULL) = (endorsement IS NULL))
);

-- Sealed like every secret; sealed anew when the sealing key is.
CREATE TABLE audit_key_secrets (
    id         text COLLATE "C" PRIMARY KEY REFERENCES audit_keys,
    key_id     text NOT NULL,
    nonce      bytea NOT NULL,
    ciphertext bytea NOT NULL
);

CREATE TABLE audit_checkpoints (
    number    bigint PRIMARY KEY CHECK (number >= 1),
    key       text COLLATE "C" NOT NULL REFERENCES audit_keys,
    from_xid  xid8 NOT NULL UNIQUE, -- it covers the records of transactions from this one
    to_xid    xid8 NOT NULL,     -- up to, and without, this one
    statement text NOT NULL,     -- what is signed, byte for byte
    signature bytea NOT NULL,
    blocks    bytea NOT NULL,    -- roots of 256 records each: where in it something is wrong
    CHECK (from_xid < to_xid)
);

CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON audit_keys
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON audit_checkpoints
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();

GRANT SELECT ON audit_keys, audit_checkpoints TO sluice_reader;
GRANT SELECT, INSERT ON audit_keys, audit_key_secrets, audit_checkpoints
    TO sluice_worker, sluice_operator;
GRANT UPDATE (key_id, nonce, ciphertext) ON audit_key_secrets TO sluice_operator;
