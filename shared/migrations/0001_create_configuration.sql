-- What `sluice apply` writes and every process reads. Versions only grow: a process that has
-- read version N knows that it need not read again until the number changes.

CREATE TABLE configuration (
    version    bigint PRIMARY KEY,
    applied_at timestamptz NOT NULL DEFAULT now(),
    actor      text NOT NULL,
    mode       text NOT NULL CHECK (mode IN ('live', 'test'))
);
INSERT INTO configuration (version, actor, mode) VALUES (0, 'system:migrate', 'live');

CREATE TABLE sources (
    id         smallint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name       text NOT NULL UNIQUE CHECK (name ~ '^[a-z0-9][a-z0-9-]{0,62}$'),
    provider   text NOT NULL,
    livemode   boolean,                       -- NULL: the provider has no such notion
    tenant     text,
    settings   jsonb NOT NULL DEFAULT '{}',
    created_at timestamptz NOT NULL DEFAULT now(),
    removed_at timestamptz                    -- a pruned source keeps its history, and its id
);

-- Ciphertext is AES-256-GCM, bound to (source name, slot, version) as associated data.
CREATE TABLE source_secrets (
    source_id  smallint NOT NULL REFERENCES sources,
    slot       smallint NOT NULL,
    version    integer NOT NULL,
    key_id     text NOT NULL,
    nonce      bytea NOT NULL,
    ciphertext bytea NOT NULL,
    added_at   timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (source_id, slot)
);

-- Keys this database has ever been sealed with: a process that lacks one refuses to start.
CREATE TABLE seals (
    key_id     text PRIMARY KEY,
    created_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE catalogs (
    version    bigint PRIMARY KEY,
    applied_at timestamptz NOT NULL DEFAULT now(),
    actor      text NOT NULL,
    document   jsonb NOT NULL
);
INSERT INTO catalogs (version, actor, document) VALUES (0, 'system:migrate', '{"plans": {}}');

-- The unit of mutual exclusion. Fixed rows: how many there are is read from here, never set.
CREATE TABLE lanes (
    id        integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    source_id smallint NOT NULL REFERENCES sources,
    number    smallint NOT NULL,
    UNIQUE (source_id, number)
) WITH (fillfactor = 50);

CREATE TABLE tokens (
    id           uuid PRIMARY KEY,
    name         text NOT NULL,
    scope        text NOT NULL CHECK (scope IN ('operator', 'service') OR scope LIKE 'tenant:_%'),
    digest       bytea NOT NULL UNIQUE,       -- SHA-256 of a 256-bit random token
    created_at   timestamptz NOT NULL DEFAULT now(),
    created_by   text NOT NULL,
    expires_at   timestamptz,
    revoked_at   timestamptz
);
