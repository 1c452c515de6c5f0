-- What was refused at the door, and secrets that are tried beside the real ones.

-- Without any claim: nothing reads it on the way of an event. How much there can be is said here, to
-- whoever writes: the gateway may insert and not delete, and of each source there are 200 places. The
-- workers' sweep keeps the newest hundred; without workers the ring fills up, and what comes after
-- is not kept.
CREATE TABLE refusals (
    source_id   smallint NOT NULL REFERENCES sources,
    place       smallint NOT NULL CHECK (place BETWEEN 0 AND 199),
    id          uuid NOT NULL UNIQUE,
    refused_at  timestamptz NOT NULL,
    kind        text NOT NULL CHECK (kind IN ('webhook', 'push')),
    address     text NOT NULL CHECK (octet_length(address) <= 64),
    code        text NOT NULL CHECK (octet_length(code) <= 64),      -- what the answer said
    cause       text NOT NULL CHECK (octet_length(cause) <= 64),     -- what was found out afterwards
    hint        text NOT NULL CHECK (octet_length(hint) <= 2000),
    signed_at   timestamptz,
    headers     bytea NOT NULL CHECK (octet_length(headers) <= 262144),
    body        bytea CHECK (octet_length(body) <= 65536),          -- its beginning; NULL: not read
    body_bytes  bigint,
    body_sha    bytea,
    trace_id    text NOT NULL CHECK (octet_length(trace_id) <= 64),
    PRIMARY KEY (source_id, place)
);
CREATE INDEX refusals_by_time ON refusals (refused_at DESC, id DESC);

GRANT INSERT ON refusals TO sluice_gateway;
GRANT SELECT (source_id, place) ON refusals TO sluice_gateway;   -- which places are free
GRANT SELECT (source_id, place, id, refused_at), DELETE ON refusals TO sluice_worker;
GRANT SELECT ON refusals TO sluice_operator;

-- A secret, and if wanted another scheme, that is checked beside the real ones and accepts nothing.
-- The counts are of requests, by what the real ones said and what this one did.
CREATE TABLE source_shadows (
    source_id        smallint PRIMARY KEY REFERENCES sources,
    version          integer NOT NULL,
    key_id           text NOT NULL,
    nonce            bytea NOT NULL,
    ciphertext       bytea NOT NULL,
    provider         text,           -- NULL: the source's own
    signature        jsonb,          -- NULL: the source's own
    added_at         timestamptz NOT NULL DEFAULT now(),
    added_by         text NOT NULL,
    both_accept      bigint NOT NULL DEFAULT 0,
    only_real        bigint NOT NULL DEFAULT 0,
    only_shadow      bigint NOT NULL DEFAULT 0,
    both_refuse      bigint NOT NULL DEFAULT 0,
    last_accepted_at timestamptz     -- by the shadow, whatever the real ones said
);

GRANT SELECT ON source_shadows TO sluice_gateway, sluice_operator;
GRANT UPDATE (both_accept, only_real, only_shadow, both_refuse, last_accepted_at)
    ON source_shadows TO sluice_gateway;
GRANT INSERT, UPDATE, DELETE ON source_shadows TO sluice_operator;

-- A key that nothing is sealed with any more may be forgotten.
GRANT DELETE ON seals TO sluice_operator;
